"""How logs are found, and the command."""

import json

import pytest

from tests.tools.runs.test_foreign_logs import PHASED, STEP
from tests.tools.runs.test_own_logs import OURS
from tools.runs.logs import find_logs, main, read_log, read_runs, to_json

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
