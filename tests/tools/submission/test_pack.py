"""Packing: every number from a log, everything refused that should be, nothing half-written."""

import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import quantize
from tools.runs.logs import read_log
from tools.runs.registry import launches
from tools.submission import bundle
from tools.submission.check import main as check_main
from tools.submission.documents import group_table
from tools.submission.pack import bytes_by_group, clear_killed, main

ROOT = Path(__file__).parents[3]
TRAINER = '''"""Train a little."""

from dataclasses import dataclass

import torch

import evaluate
import quantize


@dataclass(frozen=True)
class Hyperparameters:
    run_id: str = ""
    resume: str = ""
    seed: int = 1337
    data_path: str = "./data/datasets/toy_sp1024"
    tokenizer_path: str = "./data/tokenizers/toy_1024_bpe.model"
    max_wallclock_seconds: float = 600.0
    iterations: int = 20_000
    matrix_lr: float = 0.04


HP = Hyperparameters()  # packing leaves out what nothing uses


def main() -> None:
    print(torch.__version__, evaluate.VERSION, quantize.VERSION)


if __name__ == "__main__":
    main()
'''
ENCODING = bundle.CODING  # of packed sources; the toy ones are ASCII
SOURCES = {
    "train_gpt.py": TRAINER,
    "quantize.py": '"""Bytes."""\n\nimport numpy\n\nVERSION = numpy.int64(1)\n',
    "evaluate.py": '"""Scores."""\n\nVERSION = 1\n',
}
SETTINGS = {
    "run_id": "",
    "resume": "",
    "seed": 0,
    "data_path": "./data/datasets/toy_sp1024",
    "tokenizer_path": "./data/tokenizers/toy_1024_bpe.model",
    "max_wallclock_seconds": 600.0,
    "iterations": 500,
    "matrix_lr": 0.03,
}
TOKENS, BYTES = 62_021_845, 151_080_891
LOSS = {1: 1.7512, 2: 1.7498, 3: 1.7526, 4: 1.7611, 5: 1.7405}


def make_log(run_id: str, seed: int, sources: dict, settings: dict, model_bytes: int) -> list[str]:
    """The lines that train_gpt.py logs."""
    loss = LOSS[seed]
    bpb = loss / math.log(2) * TOKENS / BYTES
    code = sum(len(text) for text in sources.values())
    score = f"val_loss:{loss:.8f} val_bpb:{bpb:.8f} targets:{TOKENS} bytes:{BYTES}"
    hashes = {
        name: hashlib.sha256(text.encode(ENCODING)).hexdigest() for name, text in sources.items()
    }
    return [
        f"run:logs/{run_id} preset:pr334 (as asked)",
        f"overrides RUN_ID={run_id} SEED={seed} ITERATIONS=500 MATRIX_LR=0.03",
        "hparams " + json.dumps(settings | {"run_id": run_id, "seed": seed}),
        *(f"source {name} sha256:{digest}" for name, digest in hashes.items()),
        "python:3.11.7 torch:2.13.0+cu130 device:cuda:0",
        "world_size:8 cores:64 threads:8",
        "gpu:NVIDIA H100 80GB HBM3 cuda:13.0",
        "data verified source:fineweb10B train_shards:80/80",
        "data train_shards:80 train_tokens:8000000000 holdout_tokens:524288"
        f" val_tokens:{TOKENS + 1}",
        "model_params:128",
        "warmup steps:10 warmup_time:9000ms reserve_time:8000ms",
        f"step:500/500 train_loss:2.1 train_time:{580_000 + seed}ms step_avg:1160.00ms"
        " tok_s:452000 mfu:0.381",
        "average raw_loss:2.0612 ema_loss:2.0597 swa_loss:2.0601 exported:ema gain:0.0015"
        " holdout_tokens:524288",
        f"trained steps:500 train_time:{588_000 + seed}ms cap:600000ms",
        "peak memory allocated: 20111 MiB reserved: 21202 MiB",
        f"artifact model_bytes:{model_bytes} code_bytes:{code} total_bytes:{model_bytes + code}"
        " cap_bytes:16000000",
        f"score mode:blocks stride:1024 isolate:0 val_loss:{loss + 0.03:.8f}"
        f" val_bpb:{bpb + 0.02:.8f} targets:{TOKENS} bytes:{BYTES} eval_time:3000ms",
        f"score mode:sliding stride:64 isolate:0 {score} eval_time:{84_000 + seed}ms",
        "unigram val_loss:5.80377853 val_bpb:3.43679211",
        f"final {score} eval_time:{84_000 + seed}ms",
    ]


def make_run(logs: Path, seed: int, run_id: str = "", sources=SOURCES, **settings) -> Path:
    """A finished run folder, as train_gpt.py leaves it."""
    run_id = run_id or f"s{seed}"
    folder = logs / run_id
    folder.mkdir(parents=True)
    settings = SETTINGS | settings
    weights = {"w.weight": torch.randn(8, 16, generator=torch.Generator().manual_seed(seed))}
    plan = (quantize.PlanRow("w.weight", 5, 2.9),)
    artifact = quantize.encode(weights, plan, {}, threads=1)
    for name, text in sources.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding=ENCODING)
    (folder / "artifact.pgz").write_bytes(artifact)
    lines = make_log(run_id, seed, sources, settings, len(artifact))
    (folder / "train.log").write_text("\n".join(lines) + "\n")
    saved = settings | {"run_id": run_id, "seed": seed, "preset": "pr334"}
    (folder / "settings.json").write_text(json.dumps(saved, indent=1))
    return folder


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list[Path]:
    """Three finished runs in ./logs, and the tokenizer that they name."""
    monkeypatch.chdir(tmp_path)
    tokenizer = tmp_path / "data/tokenizers/toy_1024_bpe.model"
    tokenizer.parent.mkdir(parents=True)
    tokenizer.write_bytes(b"pieces")
    return [make_run(tmp_path / "logs", seed) for seed in (1, 2, 3)]


ABOUT = ["--name", "int5 and more", "--author", "A. Golfer", "--github-id", "golfer"]
ABOUT += ["--date", "2026-05-03", "--out", "out"]
FOLDER = Path("out/track_10min_16mb/2026-05-03_int5_and_more")


def pack(runs: list[Path], *more: str) -> int:
    return main([*map(str, runs), *ABOUT, *more])


def edit(run: Path, old: str, new: str) -> None:
    """Change every line of a log that has this in it."""
    log = run / "train.log"
    text = log.read_text()
    assert re.search(old, text), f"{old} is not in {log}"
    log.write_text(re.sub(old, new, text))


def test_a_folder_has_all_that_a_record_needs(runs, capsys):
    """Logs, one script, requirements, the tokenizer, README and JSON; and check finds no fault."""
    assert pack(runs) == 0, capsys.readouterr().err
    assert capsys.readouterr().out.startswith(str(FOLDER))
    assert {path.name for path in FOLDER.iterdir()} == {
        "README.md",
        "submission.json",
        "requirements.txt",
        "toy_1024_bpe.model",
        "train_gpt.py",
        "train_seed1.log",
        "train_seed2.log",
        "train_seed3.log",
    }
    assert not [path for path in FOLDER.parent.iterdir() if path.name != FOLDER.name]
    assert check_main([str(FOLDER), "--verbose"]) == 0
    assert ", 0 warn," in capsys.readouterr().out


def test_every_number_is_a_logs(runs):
    """Scores, times and sizes are those that the logs state; sums, mean and spread follow."""
    assert pack(runs) == 0
    content = json.loads((FOLDER / "submission.json").read_text())
    code = (FOLDER / "train_gpt.py").stat().st_size
    bpb = {seed: round(LOSS[seed] / math.log(2) * TOKENS / BYTES, 8) for seed in (1, 2, 3)}
    for seed, run in zip((1, 2, 3), runs, strict=True):
        row = content["seed_results"][str(seed)]
        artifact = (run / "artifact.pgz").stat().st_size
        assert row["val_bpb"] == bpb[seed] and row["val_loss"] == LOSS[seed]
        assert (row["train_time_s"], row["steps"]) == (588 + seed / 1000, 500)
        assert row["eval_time_s"] == 87 + seed / 1000  # blocks and sliding
        assert (row["artifact_bytes"], row["total_bytes"]) == (artifact, artifact + code)
        assert row["total_bytes_as_run"] == artifact + sum(map(len, SOURCES.values()))
    mean = sum(bpb.values()) / 3
    assert content["val_bpb"] == pytest.approx(mean, abs=5e-9)
    variance = sum((value - mean) ** 2 for value in bpb.values()) / 2
    assert content["val_bpb_std"] == pytest.approx(math.sqrt(variance), abs=5e-9)
    assert content["bytes_total"] == max(r["total_bytes"] for r in content["seed_results"].values())
    assert content["bytes_code"] == code and content["bytes_total_as_run"] > 0
    assert content["hardware"] == "8 x NVIDIA H100 80GB HBM3"


@pytest.mark.parametrize("plain", [(), ("--plain",)])
def test_the_code_is_the_runs_own(runs, plain):
    """train_gpt.py was packed from the bytes that ran, not from those of the tree."""
    assert pack(runs, *plain) == 0
    script = (FOLDER / "train_gpt.py").read_bytes()
    sources = {name: text.encode() for name, text in SOURCES.items()}
    assert bundle.mismatches(script, sources) == []
    assert (bundle.unpack(script) == sources) == bool(plain)
    assert (b"Train a little" in script) == bool(plain)
    readme = (FOLDER / "README.md").read_text()
    assert ("bundle verify train_gpt.py DIR" in readme) == (not plain)


def test_requirements_pin_what_the_log_names(runs):
    """torch as the log says; the other imports by name; nothing of the standard library."""
    assert pack(runs) == 0
    lines = (FOLDER / "requirements.txt").read_text().splitlines()
    assert lines[1:] == ["numpy", "torch==2.13.0"]
    assert "torch 2.13.0+cu130" in lines[0] and "python 3.11.7" in lines[0]


def test_a_published_tokenizer_is_not_shipped(runs, monkeypatch):
    """What everyone downloads with the shards does not go into the folder."""
    published = {hashlib.sha256(b"pieces").hexdigest(): "x"}
    monkeypatch.setattr("tools.submission.pack.PUBLISHED_TOKENIZERS", published)
    assert pack(runs) == 0
    assert not list(FOLDER.glob("*.model"))


def change_source(runs):
    (runs[1] / "evaluate.py").write_text("VERSION = 2\n")


def change_code(runs):
    shutil.rmtree(runs[1])
    make_run(runs[1].parent, 2, sources=SOURCES | {"evaluate.py": "VERSION = 2\n"})


def taught(runs):
    shutil.rmtree(runs[1])
    make_run(runs[1].parent, 2, sources=SOURCES | {"baselines/train.py": "VERSION = 2\n"})


def change_setting(runs):
    shutil.rmtree(runs[1])
    make_run(runs[1].parent, 2, matrix_lr=0.05)


def another_launch(runs):
    make_run(runs[0].parent, 4)


def one_of_a_registry(runs):
    row = dict(launches(runs[0].parent)[0]) | {"run_id": "s9", "seed": 9, "status": "failed"}
    with open("logs/registry.jsonl", "a") as file:
        file.write(json.dumps({"time": "2026-05-01", "engine": "local", **row}) + "\n")


def too_large(runs):
    edit(runs[2], r"total_bytes:\d+", "total_bytes:16000001")


def too_long(runs):
    edit(runs[0], r"train_time:588\d+ms", "train_time:603001ms")


REFUSED = {
    "another source in the folder": (change_source, "evaluate.py"),
    "a trainer of more files": (taught, "ran baselines/train.py too"),
    "another code": (change_code, "different sources"),
    "another setting": (change_setting, "matrix_lr 0.03 and 0.05"),
    "fewer shards": (lambda r: edit(r[1], "train_shards:80", "train_shards:39"), "39 shards"),
    "two seeds": (lambda runs: runs.pop(), "needs 3"),
    "the same seed twice": (lambda runs: runs.append(make_run(runs[0].parent, 1, "again")), "{1}"),
    "a launch left out": (another_launch, "--leave-out s4"),
    "a failed launch left out": (one_of_a_registry, "--leave-out s9"),
    "over the cap": (too_large, "1 over the cap"),
    "over time": (too_long, "3.001 over"),
    "slow scoring": (lambda r: edit(r[0], r"eval_time:84\d+ms", "eval_time:602048ms"), "scoring"),
    "no final score": (lambda r: edit(r[1], r"final .*\n", ""), "RESUME=s2"),
    "part of validation": (lambda r: edit(r[1], r"val_bpb:", "val_bpb_partial:"), "partial"),
    "no artifact": (lambda r: (r[0] / "artifact.pgz").unlink(), "missing bytes"),
    "another artifact": (lambda r: (r[0] / "artifact.pgz").write_bytes(b"x"), "1 bytes where"),
}


@pytest.mark.parametrize("change, evidence", REFUSED.values(), ids=REFUSED)
def test_what_is_no_record_is_refused(runs, capsys, change, evidence):
    """Each reason names value, requirement and remedy, and nothing is written."""
    change(runs)
    assert pack(runs) == 1
    error = capsys.readouterr().err
    assert evidence in error and "FAIL" in error and "->" in error
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_another_track_has_other_rules(runs):
    """One seed of a longer run is no record, but a non-record submission."""
    edit(runs[0], r"train_time:588\d+ms", "train_time:900000ms")
    left_out = ["--leave-out", "s2=for another folder", "--leave-out", "s3=likewise"]
    assert pack(runs[:1], *left_out) == 1
    assert pack(runs[:1], *left_out, "--track", "non_record_16mb") == 0
    assert Path("out/track_non_record_16mb/2026-05-03_int5_and_more/README.md").exists()


def test_a_reason_lets_a_launch_be_left_out(runs):
    """The launch that crashed is listed with its reason, in README and JSON."""
    one_of_a_registry(runs)
    assert pack(runs, "--leave-out", "s9=out of memory in step 3") == 0
    content = json.loads((FOLDER / "submission.json").read_text())
    assert content["launches"][-1] == {
        "run_id": "s9",
        "seed": 9,
        "status": "failed",
        "reason": "out of memory in step 3",
    }
    assert "| s9 | 9 | failed | out of memory in step 3 |" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("left_out", ["s9=gone", "s1=packed and left out"])
def test_a_reason_for_nothing_is_refused(runs, capsys, left_out):
    """A launch that is not left out, or that nobody knows, cannot have a reason."""
    assert pack(runs, "--leave-out", left_out) == 1
    assert "drop this --leave-out" in capsys.readouterr().err


def test_a_sweep_is_no_launch_of_the_same_settings(runs):
    """Runs with other settings need no reason."""
    make_run(runs[0].parent, 5, "sweep", matrix_lr=0.1)
    assert pack(runs) == 0


def test_an_existing_folder_is_not_touched(runs, capsys):
    """A second call refuses, and what lies there stays."""
    assert pack(runs) == 0
    before = (FOLDER / "README.md").read_bytes()
    assert pack(runs) == 1
    assert "exists" in capsys.readouterr().err
    assert (FOLDER / "README.md").read_bytes() == before


def test_what_breaks_off_leaves_nothing(runs, monkeypatch, capsys):
    """The folder appears in one rename, or not at all."""

    def full(*paths):
        raise OSError("no space left")

    monkeypatch.setattr("os.rename", full)
    assert pack(runs) == 2
    assert "no space left" in capsys.readouterr().err
    assert not [path for path in Path("out").rglob("*") if path.is_file()]


def test_a_killed_pack_leaves_nothing_that_the_next_one_keeps(tmp_path):
    """Its folder goes; that of a process which packs at this moment stays."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".packing-{ended.pid}-ab", f".packing-{os.getpid()}-cd", ".packing-old", "2026_x"]
    for name in names:
        (tmp_path / name / "record").mkdir(parents=True)
    clear_killed(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([names[1], names[3]])


def test_a_resumed_run_is_as_good(runs):
    """A log that begins twice gives the command and the settings of its beginning."""
    lines = (runs[0] / "train.log").read_text().splitlines()
    again = [line.replace('"resume": ""', '"resume": "s1"') for line in lines[:11]]
    again[1] = "overrides none"
    middle = ["resumed step:200 train_time:230000ms"]
    text = "\n".join([*lines[:13], *again, *middle, *lines[13:]]) + "\n"
    (runs[0] / "train.log").write_text(text)
    assert read_log(runs[0] / "train.log").resumed
    assert pack(runs) == 0
    assert "PRESET=pr334 SEED=1 ITERATIONS=500 MATRIX_LR=0.03" in (FOLDER / "README.md").read_text()


def test_runs_of_a_packed_script_are_packed_as_it_is(runs):
    """Who reproduces a record runs its one file; that run gives the same train_gpt.py again."""
    files = {name: text.encode() for name, text in SOURCES.items()}
    script = bundle.pack(files).decode(ENCODING)
    for run in runs:
        seed = int(run.name[1:])
        shutil.rmtree(run)
        make_run(run.parent, seed, sources={"train_gpt.py": script})
    assert pack(runs) == 0
    assert (FOLDER / "train_gpt.py").read_text(encoding=ENCODING) == script
    assert "numpy" in (FOLDER / "requirements.txt").read_text()
    assert check_main([str(FOLDER)]) == 0


def test_an_audit_goes_into_the_readme(runs, capsys):
    """What tools.legality.audit --json left beside a run is told, and refused where it failed."""
    finding = {"rule": "causal", "level": "ok", "where": "s1", "evidence": "8 targets stay"}
    (runs[0] / "audit.json").write_text(json.dumps({"status": 0, "findings": [finding]}))
    assert pack(runs) == 0
    text = (FOLDER / "README.md").read_text()
    assert "| causal | ok | audit.json of seed 1: s1 | 8 targets stay |" in text
    assert "was not asked" not in text
    failed = finding | {"level": "fail", "evidence": "moved by 0.1"}
    (runs[0] / "audit.json").write_text(json.dumps({"status": 1, "findings": [failed]}))
    assert pack(runs, "--name", "again") == 1
    assert "moved by 0.1" in capsys.readouterr().err
    (runs[0] / "audit.json").write_text("[]")
    assert pack(runs, "--name", "again") == 2


@pytest.mark.parametrize(
    "words, evidence",
    [
        (["no_such_run"], "no_such_run"),
        (["s1", "--leave-out", "s2"], "RUN_ID=REASON"),
        (["s1", "--leave-out", "s2= "], "RUN_ID=REASON"),
        (["s1", "--date", "yesterday"], "yesterday"),
        (["s1", "--about", "nowhere.md"], "nowhere.md"),
    ],
)
def test_what_cannot_be_packed_is_status_2(runs, capsys, words, evidence):
    """A wrong argument is one line that names it."""
    assert main([*ABOUT, *words]) == 2
    error = capsys.readouterr().err
    assert evidence in error and error.count("\n") == 1


def test_what_describes_all_points_has_bytes_but_no_bits_a_parameter(tmp_path):
    """Of an artifact on the trellis: bytes add up, and only groups of tensors have bits."""
    weights = {"w.weight": torch.randn(64, 64), "gain": torch.ones(8)}
    blob = quantize.encode_trellis(weights, quantize.flat_hessians(weights), {}, 3000)
    (tmp_path / "artifact.pgz").write_bytes(blob)
    run = SimpleNamespace(path=tmp_path / "train.log", seed=1, model_bytes=len(blob))
    modules = bytes_by_group([run])
    assert (
        modules["bytes"]
        == len(blob)
        == modules["overhead_bytes"] + sum(row["bytes"] for row in modules["groups"].values())
    )
    bits = {name: row["bits_per_parameter"] for name, row in modules["groups"].items()}
    assert bits.pop("exponents and tables of the points") is None
    assert bits == {"w.weight": pytest.approx(5, abs=0.7), "gain": pytest.approx(16, abs=9)}
    line = next(line for line in group_table(modules).splitlines() if "exponents" in line)
    assert line.split("|")[5].strip() == "–"


def test_json_names_the_folder_or_the_faults(runs, capsys):
    """--json prints one object, on success and on refusal."""
    assert pack(runs[:2], "--json") == 1
    refused = json.loads(capsys.readouterr().out)
    assert refused["status"] == 1 and refused["findings"]
    assert pack(runs, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"folder": str(FOLDER)}


@pytest.mark.slow
def test_from_smoke_runs_to_a_record_that_runs_alone(toy, tmp_path, monkeypatch):
    """Three real runs, packed: the one file repeats their last line to the last digit."""
    monkeypatch.chdir(tmp_path)
    settings = {
        "PRESET": "smoke",
        "MAX_WALLCLOCK_SECONDS": "0",
        "ITERATIONS": "4",
        "EVAL_STRIDE": "256",
        "OMP_NUM_THREADS": "1",
        "DATA_PATH": str(toy / "datasets/toy_sp1024"),
        "TOKENIZER_PATH": str(toy / "tokenizers/toy_1024_bpe.model"),
    }
    words = ["env", *(f"{name}={value}" for name, value in settings.items())]

    def train(script: Path, folder: Path, seed: int) -> str:
        command = [*words, f"SEED={seed}", f"RUN_ID=s{seed}", sys.executable, str(script)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1].partition(" eval_time")[0]

    finals = {seed: train(ROOT / "train_gpt.py", tmp_path, seed) for seed in (1, 2, 3)}
    assert main(["s1", "s2", "s3", *ABOUT, "--track", "smoke_cpu"]) == 0
    folder = Path("out/smoke_cpu/2026-05-03_int5_and_more")
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(folder / "train_gpt.py", alone)
    assert finals[2].startswith("final val_loss:")
    assert train(alone / "train_gpt.py", alone, 2) == finals[2]
    assert check_main([str(folder), "--run"]) == 0
