"""Our logs, how logs are found, and the command."""

import json
from pathlib import Path

import pytest

from tests.tools.runs.test_foreign_logs import PHASED, STEP
from tools.runs.logs import find_logs, main, read_log, read_runs, to_json

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
    again += "step:60/20000 train_loss:5.0 train_time:9900ms\n"
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


TEN_NAMES = [
    *("train.log", "train_seed42.log", "train_seed42.txt", "seed_42.log", "seed42.txt", "log.txt"),
    *("logs/train42.txt", "logs/train_seed42.log", "run_2026.log", "rerun_seed1338.log"),
]


@pytest.mark.parametrize("name", TEN_NAMES)
def test_ten_names_of_a_log(tmp_path, name):
    """Each is found in a record folder, and notes, settings and requirements are not."""
    for other in ("requirements.txt", "README.md", "submission.json", "pip.log"):
        (tmp_path / other).write_text("no log")
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(STEP)
    assert find_logs(tmp_path) == [tmp_path / name]
    assert read_runs(tmp_path)[0].steps == 9


def test_logs_come_in_order_and_without_copies(tmp_path):
    """Seeds in natural order; a train.log that copies one is left out; any *.log as last resort."""
    for seed in (1337, 42, 314):
        (tmp_path / f"train_seed{seed}.log").write_text(f"seed:{seed}\n{STEP}")
    (tmp_path / "train.log").write_text(f"seed:42\n{STEP}")
    assert [run.seed for run in read_runs(tmp_path)] == [42, 314, 1337]
    (tmp_path / "x").mkdir()
    (tmp_path / "x/final_run.log").write_text(STEP)
    assert len(find_logs(tmp_path / "x")) == 1


def test_a_run_is_found_by_its_id(tmp_path, monkeypatch):
    """A run id stands for logs/<run_id>; where there is none, what was looked for is named."""
    (tmp_path / "logs/r1").mkdir(parents=True)
    (tmp_path / "logs/r1/train.log").write_text(OURS)
    monkeypatch.chdir(tmp_path)
    assert read_runs("r1")[0].run_id == "r1"
    with pytest.raises(FileNotFoundError, match="no log in logs/r2; looked for train.log"):
        read_runs("r2")


def test_json_is_one_line_a_run(tmp_path, capsys):
    """All fields, paths as text, no NaN; status 0 where every log has a score."""
    (tmp_path / "train.log").write_text(OURS.replace("train_loss:6.9334", "train_loss:nan"))
    assert main([str(tmp_path), str(tmp_path / "train.log"), "--json"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first == second
    run = json.loads(first, parse_constant=lambda name: pytest.fail(name))
    assert run["score"]["val_bpb"] == 2.08244136 and run["path"] == str(tmp_path / "train.log")
    assert run["curve"][0]["train_loss"] is None
    assert run == json.loads(to_json(read_log(tmp_path / "train.log")))


def test_exit_statuses_and_words(tmp_path, capsys):
    """1: a log without a score; 2: what is no log, one line each on stderr; others still read."""
    (tmp_path / "a.log").write_text(STEP)
    (tmp_path / "b.log").write_text("nothing")
    (tmp_path / "c.log").write_text(PHASED)
    assert main([str(tmp_path / "a.log")]) == 1
    assert "bpb none  no score of the artifact" in capsys.readouterr().out
    assert main([str(tmp_path / name) for name in ("a.log", "b.log", "c.log", "d.log")]) == 2
    out, err = capsys.readouterr()
    assert len(err.splitlines()) == 2 and "b.log" in err and "d.log" in err
    assert "bpb 1.05662016  line 26, " in out and "adapted to scored text" in out


def test_a_cap_that_is_no_number_is_none(tmp_path):
    """A setting that a log spells in words is not known, and nothing else is lost."""
    path = tmp_path / "train.log"
    path.write_text(
        'hparams {"seed": 4, "max_wallclock_seconds": "ten"}\nstep:1/2 train_loss:1.5\n'
    )
    assert (read_log(path).cap_ms, read_log(path).seed) == (None, 4)
