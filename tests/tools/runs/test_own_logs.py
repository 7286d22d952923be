"""Our logs: what is written by engine/log_lines.py is read by it."""

import json
from pathlib import Path

import pytest

from engine import log_lines
from tools.runs.logs import read_log, read_runs

ROOT = Path(__file__).parents[3]
OURS = """\
run:logs/r1 preset:smoke (as asked)
overrides SEED=42 DATA_PATH=data/my text MATRIX_LR=0.03
hparams {"run_id": "r1", "seed": 42, "train_batch_tokens": 2048, "max_wallclock_seconds": 60.0}
source train_gpt.py sha256:5810c5fbc52e1f0648f3bcc3239a7078d4b206872964be260991fc2622b9d5ee
python:3.11.7 torch:2.13.0+cu128 device:cuda:0
world_size:8 cores:2 threads:2
gpu:NVIDIA H100 80GB HBM3 cuda:12.8
data verified source:FineWeb train_shards:80/80
data train_shards:80 train_tokens:50799616 holdout_tokens:32769 val_tokens:1454637
model_params:508077
warmup steps:1 warmup_time:212ms reserve_time:6323ms
step:1/20000 train_loss:6.9334 train_time:213ms step_avg:212.99ms tok_s:9615 mfu:0.210
step:100/20000 train_loss:4.6433 train_time:20534ms step_avg:205.34ms tok_s:9973 mfu:unknown
step:100/20000 val_loss:4.6000 val_bpb:2.7000
average raw_loss:3.5706 ema_loss:3.5481 swa_loss:3.5694 exported:ema gain:0.0224
trained steps:120 train_time:59206ms cap:60000ms
peak memory allocated: 10184 MiB reserved: 10200 MiB
artifact model_bytes:316412 code_bytes:111187 total_bytes:427599 cap_bytes:16000000
score mode:blocks stride:256 isolate:0 val_loss:3.55444435 val_bpb:2.09073736 targets:1454636 \
bytes:3567805 eval_time:62236ms
score mode:sliding stride:64 isolate:0 val_loss:3.54034039 val_bpb:2.08244136 targets:1454636 \
bytes:3567805 eval_time:767789ms
unigram val_loss:5.95346162 val_bpb:3.50184822
final val_loss:3.54034039 val_bpb:2.08244136 targets:1454636 bytes:3567805 eval_time:767789ms
"""


@pytest.fixture
def read(tmp_path):
    """A function that reads a log with the given text."""

    def from_text(text: str | bytes, name: str = "train.log"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_log(path)

    return from_text


def test_our_log_field_by_field(read):
    """Every line that train_gpt.py and evaluate.py log ends in the field that says so."""
    run = read(OURS)
    assert (run.run_id, run.seed, run.steps, run.resumed) == ("r1", 42, 120, False)
    assert run.score.name == "final" and run.score.val_bpb == 2.08244136
    assert (run.score.targets, run.score.bytes, run.score.is_partial) == (1454636, 3567805, False)
    assert "final" in run.score_reason and "22" in run.score_reason and run.score.line == 22
    assert [score.name for score in run.scores] == [
        *("score mode:blocks", "score mode:sliding", "unigram", "final")
    ]
    assert (run.train_time_ms, run.cap_ms, run.eval_time_ms) == (59206, 60000, 62236 + 767789)
    assert (run.model_bytes, run.code_bytes, run.total_bytes) == (316412, 111187, 427599)
    assert (run.val_tokens, run.train_shards, run.model_params) == (1454637, 80, 508077)
    assert (run.world_size, run.device, run.preset) == (8, "NVIDIA H100 80GB HBM3", "smoke")
    assert run.versions == {"python": "3.11.7", "torch": "2.13.0+cu128", "cuda": "12.8"}
    assert run.settings == json.loads(OURS.splitlines()[2].removeprefix("hparams "))
    wanted = {"SEED": "42", "DATA_PATH": "data/my text", "MATRIX_LR": "0.03"}
    assert run.overrides == wanted
    assert list(run.sources) == ["train_gpt.py"] and run.sources["train_gpt.py"][:4] == "5810"
    assert run.peak_memory_mib == 10184 and run.data_note.startswith("data verified source:")
    first, last = run.curve
    assert first == dict(
        step=1, train_time_ms=213, train_loss=6.9334, tok_s=9615, mfu=0.21, tokens=2048
    )
    assert (last["train_loss"], last["val_loss"], last["val_bpb"]) == (4.6433, 4.6, 2.7)
    assert run.implied_bytes() == pytest.approx(3567805, abs=1)


def test_the_recorded_run_reads_as_its_readme_says():
    """The log under records/smoke_cpu gives the figures of README.md, on the CPU."""
    (run,) = read_runs(ROOT / "records/smoke_cpu/2026-11-21_webmix_10min")
    assert (run.score.val_bpb, run.model_bytes, run.device) == (2.08244136, 316412, "cpu")
    assert run.model_params == 508077 and run.curve[-1]["step"] == run.steps == 2427


def test_ours_partial_resumed_and_warned(read):
    """A partial score is marked; a resumed run drops steps it repeats; the warning is kept."""
    text = OURS.replace("val_bpb:", "val_bpb_partial:").replace("data verified", "warning: not")
    head, tail = text.split("average ")
    again = head.splitlines()[0] + "\nresumed step:50 train_time:9000ms\n"
    again += "step:60/20000 train_loss:5.0000 train_time:9900ms"
    again += " step_avg:165.00ms tok_s:9900 mfu:unknown\n"
    run = read(head + again + "average " + tail)
    assert run.resumed and [point["step"] for point in run.curve] == [1, 60]
    assert run.score.is_partial and run.score.val_bpb == 2.08244136
    assert run.data_note.startswith("warning: not source:FineWeb")
    assert read(text).curve[-1]["is_partial"] and "is_partial" not in read(OURS).curve[-1]


def test_ours_without_a_final_line_has_no_score(read):
    """Killed in training or in scoring, or scored again and killed: no score, and it says where."""
    lines = OURS.splitlines(keepends=True)
    for keep in (13, 19, 21):
        run = read("".join(lines[:keep]))
        assert run.score is None and f"the log ends at line {keep}" in run.score_reason
    assert (run.steps, run.train_time_ms) == (120, 59206)
    assert read("".join(lines[:13])).steps == 100
    twice = read(OURS + lines[0] + "".join(lines[17:20]))
    assert twice.score is None and len(twice.scores) == 6
    begun = read(OURS + lines[0] + lines[17])
    assert begun.score is None and len(begun.scores) == 4
    thrice = read(OURS + lines[0] + "".join(lines[17:]))
    assert thrice.score.line == 28 and thrice.eval_time_ms == 62236 + 767789


def test_a_cap_that_is_not_a_number_is_none(read):
    """A setting that a log spells in words is not known, and nothing else is lost."""
    text = OURS.replace('"max_wallclock_seconds": 60.0', '"max_wallclock_seconds": "ten"')
    run = read(text.replace("trained steps", "was trained steps"))
    assert (run.cap_ms, run.seed) == (None, 42)


def test_a_crash_leaves_no_score(read):
    """A traceback after the last score: none, with its line and error; a new start mends it."""
    crash = "Traceback (most recent call last):\nRuntimeError: no memory\n"
    run = read(OURS + crash)
    assert run.score is None and "crashed, line 23: 'RuntimeError: no memory'" in run.score_reason
    assert read(crash + OURS).score.val_bpb == 2.08244136


@pytest.mark.parametrize("name, line", [(n, v) for n, v in vars(log_lines).items()
                                        if isinstance(v, log_lines.Line)])  # fmt: skip
def test_every_line_that_can_be_written_is_read_back(name, line):
    """Each definition reads what it writes."""
    samples = {int: 7, float: 5.0, str: "word"}
    fields = {field: samples[kind] for field, kind in line.types.items()}
    assert line.read(line.write(**fields)) == pytest.approx(fields), name
