"""The run's folder: who may write, what is kept, names that leave it."""

import json

import pytest

from engine.run_folder import RunFolder
from engine.settings import Choice
from tests.tiny_runs import CPU, tiny

SOURCES = {"train_gpt.py": b"x = 1\n", "engine/text.py": b"y = 2\n"}


def folder_of(monkeypatch, path, sources=SOURCES, **changes):
    monkeypatch.chdir(path)
    choice = Choice(tiny(**changes), "smoke", "as asked", {})
    return RunFolder("train_gpt", choice, CPU, sources)


def test_settings_name_the_recipe_and_sources_keep_their_place(tmp_path, monkeypatch):
    """settings.json holds every setting, preset and recipe; a source lies where it lay."""
    run = folder_of(monkeypatch, tmp_path, run_id="one")
    saved = json.loads((run.path / "settings.json").read_text())
    assert (saved["recipe"], saved["preset"], saved["run_id"]) == ("train_gpt", "smoke", "one")
    assert saved["model_dim"] == 16
    for name, source in SOURCES.items():
        assert (run.path / name).read_bytes() == source


@pytest.mark.parametrize(
    "run_id", ["../../x", "/tmp/x", "a/b", ".", "..", "-x", "a\x1b[2J", "x" * 200]
)
def test_a_name_that_leaves_the_folder_is_refused(tmp_path, monkeypatch, run_id):
    """RUN_ID is a name, not a path; nothing is made."""
    with pytest.raises(ValueError, match="RUN_ID=.* must be a name"):
        folder_of(monkeypatch, tmp_path, run_id=run_id)
    assert not list(tmp_path.iterdir())


def test_two_runs_never_share_a_folder(tmp_path, monkeypatch):
    """The same RUN_ID again, or a second process in a run, is refused with the remedy."""
    run = folder_of(monkeypatch, tmp_path, run_id="one")
    with pytest.raises(ValueError, match="continue that run with RESUME=one"):
        folder_of(monkeypatch, tmp_path, run_id="one")
    with pytest.raises(ValueError, match="logs/one is in use by another process"):
        folder_of(monkeypatch, tmp_path, resume="one")
    run.lock.close()
    folder_of(monkeypatch, tmp_path, resume="one").lock.close()
    with pytest.raises(ValueError, match="train_gpt.py differs from .*; restore those sources"):
        folder_of(monkeypatch, tmp_path, {"train_gpt.py": b"changed"}, resume="one")


def test_what_a_kill_cut_short_is_cleaned_up(tmp_path, monkeypatch):
    """Temporary files go, the log's last line is ended, metrics of lost steps are dropped."""
    run = folder_of(monkeypatch, tmp_path, run_id="one")
    run.log("a line")
    for step in (1, 2, 3):
        run.metrics(step=step)
    (run.path / "x.tmp").write_text("half")
    with open(run.path / "train.log", "a") as file:
        file.write("cut sho")
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 1')
    run.lock.close()
    run = folder_of(monkeypatch, tmp_path, resume="one")
    run.drop_metrics_after(2)
    assert not list(run.path.glob("*.tmp"))
    assert (run.path / "train.log").read_text() == "a line\ncut sho\n"
    assert (run.path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'


@pytest.mark.parametrize("line", ["not JSON", "[1]", "{}", "\x00"])
def test_a_damaged_line_of_metrics_is_named(tmp_path, monkeypatch, line):
    """File, line and remedy; the line that a kill cut short is dropped without a word."""
    run = folder_of(monkeypatch, tmp_path)
    path = run.path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 9}\n{"st')
    run.drop_metrics_after(3)
    assert path.read_text() == '{"step": 1}\n'
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match="line 2 of logs/.*/metrics.jsonl is damaged; delete it"):
        run.drop_metrics_after(3)
