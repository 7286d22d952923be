"""Runs on Ray: what its scheduler is told of a run, and a real sweep where Ray is installed."""

import argparse
import sys
from pathlib import Path

import pytest

from tools.runs import ray_sweep
from tools.runs.ray_sweep import WatchedProcess, validations
from tools.runs.seeds import Job

# Writes validations at steps 20 and 40, waiting after each as a trainer does, then the final lines.
# It saves and ends when it is told to.
STAND_IN = """
import fcntl, signal, sys, time
from pathlib import Path
folder, bpb, wait = Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
folder.mkdir(parents=True)
lock = open(folder / ".lock", "w")
fcntl.flock(lock, fcntl.LOCK_EX)
def say(line):
    with open(folder / "train.log", "a") as file:
        file.write(line + "\\n")
def stop(*_):
    say("stopped step:21 continue with RESUME=x")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
for step in (20, 40):
    say(f"step:{step}/60 train_loss:3.0000 train_time:9ms step_avg:9.00ms tok_s:9 mfu:unknown")
    say(f"step:{step}/60 val_loss:3.0000 val_bpb:{bpb:.4f}")
    time.sleep(wait)
say("trained steps:60 train_time:1000ms cap:0ms")
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(ray_sweep, "POLL_SECONDS", 0.02)


def config(folder: Path, bpb: str, wait: float = 0.0) -> dict:
    """A stand-in's run as Tune is given it."""
    script = folder / "stand_in.py"
    script.write_text(STAND_IN)
    run = folder / f"logs/run{bpb}"
    return {
        "command": [sys.executable, str(script), str(run), bpb, str(wait)],
        "stands_in": str(folder),
        "folder": str(run),
        "output": str(folder / "logs/ray/run.out"),
    }


def test_each_validation_is_told_once_at_its_own_step(tmp_path, monkeypatch):
    """Also where both stand in the log at the first look; the run is over after the last."""
    monkeypatch.chdir(tmp_path)
    process = WatchedProcess(config(tmp_path, "1.5"))
    results = [process.poll()]
    while not results[-1]["done"]:
        results.append(process.poll())
    steps = [result["step"] for result in results]
    assert steps == sorted(steps) and set(steps) - {0} == {20, 40}
    assert [result.get("val_bpb") for result in results if result["step"]] == [1.5] * (
        len(steps) - steps.count(0)
    )
    assert results[-1] == {"step": 40, "val_bpb": 1.5, "done": True, "ended_itself": True}


def test_a_run_that_is_told_to_end_saves_first(tmp_path, monkeypatch):
    """SIGTERM, and a wait for the process; a second time does nothing."""
    monkeypatch.chdir(tmp_path)
    process = WatchedProcess(config(tmp_path, "1.5", wait=60))
    while process.poll()["step"] < 20:
        pass
    process.end()
    process.end()
    assert process.process.done()
    assert "stopped step:21" in (tmp_path / "logs/run1.5/train.log").read_text()


def test_a_folder_without_a_log_has_no_validations(tmp_path):
    assert validations(tmp_path) == []


def test_without_ray_the_command_to_install_it_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'--on ray needs Ray: pip install "ray\[tune\]"'):
        ray_sweep.import_tune()


class StandInRunner:
    """The Runner of the seeds, as far as a sweep needs it."""

    def __init__(self, folder: Path):
        self.args = argparse.Namespace(asha=20, gpus=1, name="sweep")
        self.logs = folder / "logs"
        self.folder = folder
        self.settled = {}
        self.launched = []

    def prepare(self, job):
        return config(self.folder, job.run_id[3:], wait=2.0)["command"], False

    def enter_launch(self, job, resumed):
        self.launched.append(job.run_id)

    def stop_reason(self):
        return ""

    def settle(self, job, reason):
        self.settled[job.run_id] = reason


@pytest.mark.slow
def test_the_weaker_half_ends_early_on_a_real_cluster(tmp_path, monkeypatch):
    """Two good runs first, then two bad ones, which ASHA stops at step 20."""
    pytest.importorskip("ray", reason="python3 golf.py --with ray test -m slow")
    monkeypatch.chdir(tmp_path)
    runner = StandInRunner(tmp_path)
    names = ["run1.0", "run1.00", "run2.0", "run2.00"]  # two of each bpb
    jobs = [Job(name, 1, "", {}, {"iterations": 60}) for name in names]
    assert ray_sweep.train(runner, jobs) == ""
    assert sorted(runner.launched) == names
    assert [runner.settled[name] for name in names[:2]] == ["", ""]
    for name in names[2:]:
        assert runner.settled[name].startswith("ASHA: bpb 2."), runner.settled
        assert "stopped step:" in (tmp_path / f"logs/{name}/train.log").read_text()
