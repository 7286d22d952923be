"""A run from outside: its state, what is left, and runs that have only begun."""

import fcntl
import json
from pathlib import Path

import pytest

from tools.runs.live import as_text, cells, find_folders, format_seconds, read_live, read_metrics

FINAL = "final val_loss:2.00000000 val_bpb:1.25000000 targets:10 bytes:20 eval_time:5ms\n"


def make_run(folder: Path, progress: list[float], is_scored: bool = False) -> Path:
    """A run folder with a logged step for each progress, 10 s a tenth."""
    folder.mkdir(parents=True)
    (folder / "settings.json").write_text("{}")
    lines = []
    for step, share in enumerate(progress, 1):
        line = {"step": step, "progress": share, "train_seconds": 100 * share}
        lines.append(json.dumps({**line, "train_loss": 5 - share, "tok_s": 900.0}) + "\n")
    (folder / "metrics.jsonl").write_text("".join(lines))
    if is_scored:
        (folder / "artifact.pgz").touch()
        log = f"run:logs/{folder.name} preset:x (as asked)\n{FINAL}"
        (folder / "train.log").write_text(log)
    return folder


@pytest.fixture
def hold():
    """A function that locks a run's folder, as its process does."""
    files = []

    def lock(folder: Path) -> None:
        files.append(open(folder / ".lock", "w"))
        fcntl.flock(files[-1], fcntl.LOCK_EX)

    yield lock
    for file in files:
        file.close()


def test_the_states_of_a_run(tmp_path, hold):
    """From starting to finished, and stopped where no process holds the folder."""
    folder = make_run(tmp_path / "a", [])
    assert read_live(folder).state == "stopped"
    hold(folder)
    assert read_live(folder).state == "starting"
    for name, progress, state in (("b", [0.1, 0.25], "training"), ("c", [0.5, 1.0], "packing")):
        folder = make_run(tmp_path / name, progress)
        hold(folder)
        assert read_live(folder).state == state
    (folder / "artifact.pgz").touch()
    assert read_live(folder).state == "scoring"
    assert read_live(make_run(tmp_path / "d", [1.0], is_scored=True)).state == "finished"


def test_the_time_left_follows_from_progress(tmp_path, hold):
    """A quarter took 25 s, so 75 s are left; the final score stands where there is one."""
    folder = make_run(tmp_path / "a", [0.1, 0.25])
    hold(folder)
    run = read_live(folder)
    assert (run.step, run.seconds_left, run.train_loss) == (2, 75, 4.75)
    assert run.losses() == [(1, 4.9), (2, 4.75)]
    assert cells(run) == ["a", "training", "2", "25%", "75 s", "4.7500", "-", "900"]
    done = read_live(make_run(tmp_path / "b", [1.0], is_scored=True))
    assert (done.bpb, done.seconds_left) == (1.25, None)
    lines = as_text([run, done]).splitlines()
    assert lines[0].startswith("run") and len({len(line) for line in lines}) == 1


def test_a_line_that_is_being_written_is_passed_over(tmp_path):
    """Half a line, garbage and a loss that is not a number disturb nothing."""
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "train_loss": NaN}\n#\n{"step": 2}\n{"step": 3, "tra')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]
    (tmp_path / "settings.json").write_text("{}")
    assert read_live(tmp_path).losses() == []


def test_runs_are_found_by_folder_id_and_all(tmp_path, monkeypatch):
    """All of logs/ without a word; a word that names no run is refused."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="no runs in logs/"):
        find_folders([])
    make_run(Path("logs/a"), [])
    make_run(Path("elsewhere"), [])
    assert find_folders([]) == [Path("logs/a")]
    assert find_folders(["a", "elsewhere"]) == [Path("logs/a"), Path("elsewhere")]
    with pytest.raises(FileNotFoundError, match="b is not a run: logs/b/settings.json"):
        find_folders(["b"])


@pytest.mark.parametrize("seconds, text", [(45, "45 s"), (720, "12 min"), (12_600, "3.5 h")])
def test_seconds_are_said_in_the_largest_fitting_unit(seconds, text):
    """Seconds, minutes, hours."""
    assert format_seconds(seconds) == text
