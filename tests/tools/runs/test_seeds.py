"""Several seeds: what is missing is done, nothing is forgotten, everything ends cleanly.

Most tests train with a stand-in for train_gpt.py and its engine, which writes what they write and
needs no torch.
"""

import fcntl
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest
import torch

import quantize
from tools.runs import launchers, seeds
from tools.runs.logs import read_log
from tools.runs.registry import launches, register
from tools.runs.resolve import Code, python_path
from tools.runs.seeds import main

STAND_IN = """
import dataclasses, fcntl, hashlib, json, os, signal, sys, time
from pathlib import Path

@dataclasses.dataclass(frozen=True)
class Settings:
    run_id: str = ""
    resume: str = ""
    seed: int = 1337
    lr: float = 0.5
    val_loss_every: int = 0
    act: str = "train"

class RECIPE:
    name = "train_gpt"

    def read(environ):
        types = {f.name: f.type for f in dataclasses.fields(Settings)}
        given = {n: kind(environ[n.upper()]) for n, kind in types.items() if n.upper() in environ}
        if given.get("lr") == 9.0:
            raise ValueError("LR=9.0 must be less")
        return Settings(**given)

def main():
    hp = RECIPE.read(os.environ)
    acts = hp.act.split("+")
    if "refuse" in acts:
        sys.exit("error: no data")
    folder, given = Path("logs") / hp.run_id, dataclasses.asdict(hp)
    folder.mkdir(parents=True, exist_ok=bool(hp.resume))
    lock = open(folder / ".lock", "w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    (folder / "train_gpt.py").write_bytes(Path(__file__).read_bytes())
    if not hp.resume:
        given |= {"preset": "stand-in", "recipe": RECIPE.name}
        (folder / "settings.json").write_text(json.dumps(given))
    log = open(folder / "train.log", "a", buffering=1)
    say = lambda line: print(line, file=log)
    say(f"run:{folder} preset:stand-in (as asked)")
    say("hparams " + json.dumps(dataclasses.asdict(hp)))
    if hp.resume:
        say("resumed step:4 train_time:400ms")
    say("step:5/10 train_loss:3.0 train_time:500ms step_avg:100.00ms tok_s:1 mfu:unknown")
    say(f"sid:{os.getsid(0)}")
    if hp.val_loss_every:
        say("step:5/10 val_loss:3.0 val_bpb:1.5000")
    stopped = []
    if "deaf" in acts:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    if "wait" in acts and not hp.resume:
        (folder / "waiting").touch()
        ends = time.monotonic() + 20  # in case that nobody tells it to
        while not stopped and time.monotonic() < ends:
            time.sleep(0.01)
        if os.path.exists("weights.pt"):
            (folder / "checkpoint.pt").write_bytes(Path("weights.pt").read_bytes())
        say(f"stopped step:5 continue with RESUME={hp.run_id}")
        sys.exit(143)
    if "crash" in acts and hp.seed == 42:
        sys.exit("out of memory")
    size = 16_000_001 if "large" in acts else 1000
    (folder / "artifact.pgz").write_bytes(b"0")
    if "edit" in acts:
        Path(__file__).write_text(Path(__file__).read_text() + "# changed\\n")
    bpb = 1 + hp.seed / 1000 + hp.lr
    say("trained steps:10 train_time:1000ms cap:0ms")
    say(f"artifact model_bytes:{size - 10} code_bytes:10 total_bytes:{size} cap_bytes:16000000")
    score = f"val_loss:3.0 val_bpb:{bpb:.8f} targets:100 bytes:200 eval_time:70ms"
    say(f"score mode:blocks stride:8 isolate:0 {score}")
    say(f"final {score}")

if __name__ == "__main__":
    main()
"""
ENGINE = {
    "settings.py": """
import types
from pathlib import Path
ROOT = Path(__file__).resolve().parents[1]
def read_settings(recipe, environ, has_cuda):
    return types.SimpleNamespace(settings=recipe.read(environ))
""",
    "trainer.py": """
def read_sources(recipe):
    return {"train_gpt.py": b""}
""",
}


def write_stand_in(folder: Path) -> Path:
    """The stand-in, its engine beside it."""
    (folder / "engine").mkdir(parents=True)
    for name, text in ENGINE.items():
        (folder / "engine" / name).write_text(text)
    script = folder / "train_gpt.py"
    script.write_text(STAND_IN)
    return script


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Call the command where the stand-in is the script; returns status, output and errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(seeds.POLL_SECONDS, "local", 0.01)
    monkeypatch.setitem(seeds.POLL_SECONDS, "slurm", 0.01)
    script = write_stand_in(tmp_path / "code")

    def call(*words: str, **settings: str) -> tuple[int, str, str]:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        status = main(["--script", str(script), *words])
        return status, *capsys.readouterr()

    return call


def registry() -> list[dict]:
    return [json.loads(line) for line in Path("logs/registry.jsonl").read_text().splitlines()]


def statuses() -> dict[str, str]:
    return {row["run_id"]: row["status"] for row in launches("logs")}


def starts(run_id: str) -> int:
    """How often the stand-in was started for a run."""
    return Path(f"logs/{run_id}/train.log").read_text().count("run:logs/")


def test_seeds_are_trained_and_reported_as_mean_and_spread(run):
    """Three seeds: each with its own figures, then mean and standard deviation of all."""
    status, out, _ = run("-n", "3", "--name", "x")
    assert status == 0
    table = [line.split() for line in out.splitlines() if line.startswith("x_seed")]
    assert table[1] == ["x_seed42", "42", "1.542000", "1,000", "10", "1.0", "0.1", "finished"]
    bpbs = [1.5 + seed / 1000 for seed in (1337, 42, 7)]
    mean, std = statistics.fmean(bpbs), statistics.stdev(bpbs)
    assert f"mean bpb {mean:.6f}  standard deviation {std:.6f}  n = 3 of 3" in out
    assert [row["status"] for row in registry()] == ["launched", "finished"] * 3
    assert len({row["settings_hash"] for row in launches("logs")}) == 1


def test_the_time_is_told_before_and_while_it_passes(run):
    """How many runs there are, the cap of each where there is one, and those that are left."""
    _, out, _ = run("-n", "3")
    assert "seeds: 3 runs to do\n" in out
    assert "seeds: 2 more, about 2 s by the time of this one" in out
    assert out.splitlines()[-1].endswith("golf.py audit logs/run_seed1337")
    job = seeds.Job("x", 1, "", {}, {"max_wallclock_seconds": 600.0})
    assert seeds.expected_time([job]) == "1 run to do: up to 10 min of training, then scoring"
    assert seeds.expected_time([job, job]).startswith("2 runs to do: each up to 10 min")


def test_the_same_command_again_starts_nothing(run):
    """Finished runs are skipped, and a further seed alone is added."""
    run("--seeds", "1", "2")
    status, out, _ = run("--seeds", "1", "2", "3")
    assert status == 0 and "n = 3 of 3" in out
    assert [starts(f"run_seed{seed}") for seed in (1, 2, 3)] == [1, 1, 1]
    assert len(registry()) == 6


def test_a_score_without_its_artifact_is_not_finished(run):
    """Both the final line and the artifact have to be there for a run to be skipped."""
    run("--seeds", "1")
    Path("logs/run_seed1/artifact.pgz").unlink()
    assert run("--seeds", "1")[0] == 0
    assert starts("run_seed1") == 2 and read_log("logs/run_seed1/train.log").resumed


@pytest.fixture
def late_clock(monkeypatch):
    """A clock of the command that stands still until the first run waits, however long that takes.

    A run of a busy machine may need seconds to begin, and a cap of less would end it before.
    """

    def seconds(runner) -> float:
        return 3600.0 if Path("logs/run_seed1/waiting").exists() else 0.0

    monkeypatch.setattr(seeds.Runner, "seconds", seconds)


def test_a_cap_stops_the_run_cleanly_and_the_command_goes_on_later(run, late_clock):
    """At the cap: SIGTERM, checkpoint and a packed artifact; then a resumption that finishes."""
    torch.save({"model": {"w": torch.ones(4, 4)}}, "weights.pt")
    arguments = ["--seeds", "1", "2", "--price-per-hour", "3600000", "--max-spend", "400"]
    status, out, _ = run(*arguments, ACT="wait")
    assert status == 1
    assert "stopped: the cap of 400 at 3.6e+06 an hour is reached" in out
    assert "not begun" in out and "n = 0 of 2" in out and "goes on from here" in out
    assert statuses() == {"run_seed1": "stopped"}
    packed, _ = quantize.decode(Path("logs/run_seed1/stopped.pgz").read_bytes())
    assert packed["w"].shape == (4, 4)
    status, out, _ = run("--seeds", "1")
    assert status == 0 and "resume run_seed1" in out
    assert not Path("logs/run_seed1/stopped.pgz").exists()
    assert [row["resumed"] for row in registry() if row["status"] == "launched"] == [False, True]
    assert statuses() == {"run_seed1": "finished"}


def test_time_is_a_cap_of_its_own(run):
    """--max-hours ends a run without any price."""
    status, out, _ = run("-n", "1", "--max-hours", "0.0001", ACT="wait")
    assert status == 1 and "the cap of 0.0001 h is reached" in out


def when(path: str, *actions) -> threading.Thread:
    """Do the actions, 0.1 s apart, once the path exists."""

    def wait() -> None:
        while not Path(path).exists():
            time.sleep(0.01)
        for action in actions:
            time.sleep(0.1)
            action()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_ctrl_c_lets_the_run_save_and_starts_no_other(run):
    """SIGINT to the command reaches the run as SIGTERM only, and the handler is put back."""
    before = signal.getsignal(signal.SIGINT)
    thread = when("logs/run_seed1/waiting", interrupt)
    status, out, _ = run("--seeds", "1", "2", ACT="wait")
    thread.join()
    assert status == 1 and "stopped: SIGINT received" in out
    assert statuses() == {"run_seed1": "stopped"}
    log = Path("logs/run_seed1/train.log").read_text()
    assert "stopped step:5" in log and f"sid:{os.getsid(0)}\n" not in log
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_kills(run):
    """A run that does not end is killed when asked again."""
    thread = when("logs/run_seed1/waiting", interrupt, interrupt)
    status, out, _ = run("--seeds", "1", ACT="wait+deaf")
    thread.join()
    assert status == 1 and "stopped: SIGINT received" in out
    assert "stopped step:" not in Path("logs/run_seed1/train.log").read_text()


def test_patience_ends(run, monkeypatch, late_clock):
    """A run that a cap has told to end is killed after the grace."""
    monkeypatch.setattr(launchers, "GRACE_SECONDS", 0.1)
    status, out, _ = run("--seeds", "1", "--max-hours", "0.0001", ACT="wait+deaf")
    assert status == 1 and "stopped: the cap" in out
    assert "stopped step:" not in Path("logs/run_seed1/train.log").read_text()


def test_a_failure_is_entered_and_the_others_go_on(run):
    """A run that crashes after it began is listed as failed, and counts in n of m."""
    status, out, _ = run("-n", "3", ACT="crash")
    assert status == 1
    assert statuses() == {
        "run_seed1337": "finished", "run_seed42": "failed", "run_seed7": "finished"
    }  # fmt: skip
    assert "n = 2 of 3" in out


def test_what_does_not_begin_ends_the_command(run):
    """A refusal before the first step would meet every seed; it is no launch of a training."""
    status, out, _ = run("-n", "3", ACT="refuse")
    assert status == 1 and "run_seed1337 did not begin" in out
    assert [row["status"] for row in registry()] == ["launched", "failed"]
    assert launches("logs") == []
    run("--seeds", "1337", ACT="train")
    assert statuses() == {"run_seed1337": "finished"}


def test_a_grid_has_a_mean_for_each_point(run):
    """Every combination of values and seeds is run; points are compared by their means."""
    status, out, _ = run("--seeds", "1", "2", "--grid", "LR=0.5,0.25", "--json")
    report = json.loads(out)
    assert status == 0
    assert [row["run_id"] for row in report["runs"]] == [
        *("run_lr0.5_seed1", "run_lr0.5_seed2"),
        *("run_lr0.25_seed1", "run_lr0.25_seed2"),
    ]
    assert [(p["point"], round(p["mean_bpb"], 6)) for p in report["points"]] == [
        ("LR=0.5", 1.5015),
        ("LR=0.25", 1.2515),
    ]
    assert len({row["settings_hash"] for row in launches("logs")}) == 2


def test_a_hopeless_run_is_stopped_and_left_alone(run):
    """--stop-above ends a run by its validation, and does not begin it again."""
    words = ["--seeds", "1", "--stop-above", "1.4@5"]
    status, out, _ = run(*words, ACT="wait", VAL_LOSS_EVERY="5")
    assert status == 1 and "stopped: bpb 1.5000 at step 5 is above 1.4" in out
    status, out, _ = run(*words)
    assert status == 1 and "skip run_seed1: stopped: bpb 1.5" in out and len(registry()) == 2
    assert run("--seeds", "1", "--stop-above", "1.4@6", "1.6@5")[0] == 0


def test_a_run_over_the_cap_is_no_success(run):
    """16,000,001 bytes: the figures are shown, the status is 1."""
    status, out, _ = run("-n", "1", ACT="large")
    assert status == 1 and "over the cap by 1" in out


REFUSED = {
    "another value": (["--seeds", "1"], {"LR": "0.25"}, "LR=0.5, not 0.25"),
    "a value the trainer refuses": (["-n", "1"], {"LR": "9.0"}, "LR=9.0 must be less"),
    "RESUME": (["-n", "1"], {"RESUME": "x"}, "unset it"),
    "an unknown setting": (["-n", "1", "--grid", "LRR=1"], {}, "--grid LRR: "),
    "a setting without values": (["-n", "1", "--grid", "LR"], {}, "--grid LR must be"),
    "a grid of seeds": (["-n", "1", "--grid", "SEED=1,2"], {}, "--grid SEED=1,2 must be"),
    "a value twice": (["-n", "1", "--grid", "LR=1,1"], {}, "stands there twice"),
    "a seed twice": (["--seeds", "2", "2"], {}, "stands there twice"),
    "a path for a name": (["-n", "1", "--name", "../x"], {}, "must be of letters"),
    "no seeds": (["-n", "0"], {}, "-n 0 must be 1 to 10"),
    "a spend without a price": (["--max-spend", "5"], {}, "needs --price-per-hour"),
    "no time": (["--max-hours", "0"], {}, "--max-hours 0.0 must be positive"),
    "nine processes": (["--gpus", "9"], {}, "--gpus 9 must be"),
    "no validations": (["-n", "1", "--stop-above", "1@1"], {}, "has VAL_LOSS_EVERY=0"),
    "SLURM's words": (["--slurm", "a=b"], {}, "needs --on slurm"),
    "no script": (["--script", "none.py"], {}, "name a train_gpt.py"),
    "another's script": (["--script", "other.py"], {}, "other.py has no RECIPE"),
}


@pytest.mark.parametrize("words, settings, message", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_done_is_one_line_and_status_2(run, words, settings, message):
    """Nothing is started, and the line says what to change."""
    folder = Path("logs/run_seed1")
    folder.mkdir(parents=True)
    saved = {"run_id": "run_seed1", "resume": "", "seed": 1, "lr": 0.5, "val_loss_every": 0}
    (folder / "settings.json").write_text(
        json.dumps(saved | {"act": "train", "preset": "x", "recipe": "train_gpt"})
    )
    Path("other.py").write_text("")
    status, out, err = run(*words, **settings)
    assert (status, out) == (2, "")
    assert message in err and err.startswith("golf.py seeds: ") and err.count("\n") == 1
    assert not Path("logs/registry.jsonl").exists()


def test_runs_of_other_sources_are_not_mixed(run):
    """Once a source has changed, a name that was used before is refused."""
    run("--seeds", "1")
    Path("code/train_gpt.py").write_text(STAND_IN + "# changed\n")
    status, _, err = run("--seeds", "1", "2")
    assert status == 2 and "begun with another train_gpt.py" in err and "--name" in err


def test_sources_that_change_meanwhile_end_the_command(run):
    """The second seed would be of another code, so it is not started."""
    status, out, _ = run("--seeds", "1", "2", ACT="edit")
    assert status == 1 and "changed meanwhile" in out
    assert statuses() == {"run_seed1": "finished"}


def test_a_run_that_is_under_way_elsewhere_is_left_alone(run):
    """A folder that is locked by another process is neither resumed nor started."""
    run("--seeds", "1")
    Path("logs/run_seed1/artifact.pgz").unlink()
    with open("logs/run_seed1/.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        status, out, _ = run("--seeds", "1")
    assert status == 1 and "running elsewhere" in out and starts("run_seed1") == 1


def test_a_run_killed_before_its_settings_starts_afresh(run):
    """An empty beginning is cleared and is no launch; a folder with more in it is refused."""
    folder = Path("logs/run_seed1")
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    for name in ("train_gpt.py",):
        (folder / name).touch()
    register(Path("logs"), {"run_id": "run_seed1", "seed": 1, "status": "launched"})
    assert run("--seeds", "1")[0] == 0
    assert [row["run_id"] for row in launches("logs")] == ["run_seed1"]
    Path("logs/run_seed2").mkdir()
    Path("logs/run_seed2/checkpoint.pt").touch()
    status, _, err = run("--seeds", "2")
    assert status == 2 and "checkpoint.pt but no settings.json" in err


class StandInJob:
    """A submitit job: a process of this machine, known by its number."""

    jobs: dict[str, "StandInJob"] = {}

    def __new__(cls, folder=None, job_id=None, command=None):
        if command is None:
            return cls.jobs[job_id]
        self = super().__new__(cls)
        self.job_id = str(len(cls.jobs) + 1)
        self.process = subprocess.Popen(command)
        cls.jobs[self.job_id] = self
        return self

    def done(self, force_check=False):
        return self.process.poll() is not None

    def cancel(self, check=True):
        self.process.terminate()


@pytest.fixture
def submitit(monkeypatch):
    """A stand-in module; its `asked` holds the parameters of every submission."""
    module = types.ModuleType("submitit")
    module.asked = []

    class AutoExecutor:
        def __init__(self, folder, cluster):
            assert cluster == "slurm"

        def update_parameters(self, **parameters):
            module.asked.append(parameters)

        def submit(self, function):
            return StandInJob(command=function)

    module.AutoExecutor, module.SlurmJob = AutoExecutor, StandInJob
    module.helpers = types.SimpleNamespace(CommandFunction=lambda command: command)
    monkeypatch.setattr(StandInJob, "jobs", {})
    monkeypatch.setitem(sys.modules, "submitit", module)
    return module


def test_slurm_gets_all_runs_at_once(run, submitit):
    """One job a run, with the given parameters over the defaults, entered with its number."""
    words = ["--engine", "slurm", "--slurm", "slurm_partition=gpu", "timeout_min=30"]
    status, out, _ = run("-n", "2", *words)
    assert status == 0 and "n = 2 of 2" in out
    parameters = submitit.asked[0]
    assert parameters["slurm_partition"] == "gpu" and parameters["timeout_min"] == 30
    assert parameters["slurm_additional_parameters"] == {"signal": "TERM@120"}
    assert (parameters["gpus_per_node"], parameters["name"]) == (1, "run_seed1337")
    assert [row["status"] for row in registry()] == ["launched"] * 2 + ["finished"] * 2
    assert [row["job"] for row in registry()[:2]] == ["1", "2"]


def test_slurm_jobs_of_an_earlier_command_are_waited_for(run, submitit):
    """A job that still runs is not submitted again; at the cap it is cancelled."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    job = StandInJob(command=command)
    register(Path("logs"), {"run_id": "run_seed1", "status": "launched", "job": job.job_id})
    status, out, _ = run("--seeds", "1", "--engine", "slurm", "--max-hours", "0.00001")
    assert status == 1 and "wait for run_seed1, job 1" in out and submitit.asked == []
    assert job.process.returncode == -signal.SIGTERM


def test_slurm_without_submitit_says_what_to_install(run, monkeypatch):
    """A missing optional library is one line with the command."""
    monkeypatch.setitem(sys.modules, "submitit", None)
    status, _, err = run("-n", "1", "--engine", "slurm")
    assert status == 2 and "pip install submitit" in err


def test_several_processes_are_started_by_torchrun(run, tmp_path):
    """--gpus puts torchrun between the environment and the script."""
    args = seeds.parse(["--gpus", "4", "--script", "code/train_gpt.py"])
    code = Code("", str(args.script), tmp_path / "code", ("train_gpt.py",))
    runner = seeds.Runner(args, code, tmp_path, print)
    job = seeds.Job("x_seed1", 1, "", {"RUN_ID": "x_seed1", "SEED": "1"}, {})
    assert runner.command(job, resume=True) == [
        *("env", "RUN_ID=x_seed1", "SEED=1", "RESUME=x_seed1"),
        *(f"PYTHONPATH={python_path('')}", sys.executable),
        *("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=4"),
        str(tmp_path / "code/train_gpt.py"),
    ]


@pytest.mark.slow
def test_the_real_trainer_is_stopped_resumed_and_skipped(toy, tmp_path):
    """Two seeds of the smoke preset, the first stopped by Ctrl-C and resumed, then none again."""
    root = Path(__file__).parents[3]
    settings = {
        "PRESET": "smoke", "ITERATIONS": "12", "MAX_WALLCLOCK_SECONDS": "0", "MODEL_DIM": "48",
        "NUM_LAYERS": "2", "EVAL_STRIDE": "256", "PYTHONPATH": str(root),
        "DATA_PATH": str(toy / "datasets/toy_sp1024"),
        "TOKENIZER_PATH": str(toy / "tokenizers/toy_1024_bpe.model"),
    }  # fmt: skip
    command = ["env", *(f"{name}={value}" for name, value in settings.items()), sys.executable]
    command += ["-P", "-m", "tools.runs.seeds", "--seeds", "1", "2", "--name", "real"]
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=out)
    log = tmp_path / "logs/real_seed1/train.log"
    while "step:2/12" not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 1 and "stopped step:" in log.read_text()
    for _ in range(2):
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "n = 2 of 2" in done.stdout and "launch" not in done.stdout
    rows = launches(tmp_path / "logs")
    assert {(row["run_id"], row["status"]) for row in rows} == {
        ("real_seed1", "finished"), ("real_seed2", "finished")
    }  # fmt: skip
    assert len({(row["settings_hash"], row["sources_hash"]) for row in rows}) == 1
    assert re.search(r"resumed step:\d+", log.read_text())
