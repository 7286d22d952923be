"""The live view: on a terminal, without one, and for others that follow the runs."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.tools.runs.test_live import hold, make_run  # noqa: F401, a fixture
from tools.runs import watch
from tools.runs.watch import follow, main, make_app


@pytest.fixture
def runs(tmp_path, monkeypatch, hold) -> list[Path]:  # noqa: F811
    """A run under way and one that is finished, in logs/."""
    monkeypatch.chdir(tmp_path)
    going = make_run(Path("logs/going"), [0.1, 0.25])
    hold(going)
    return [going, make_run(Path("logs/done"), [0.5, 1.0], is_scored=True)]


def test_without_a_terminal_the_table_is_printed_once(runs, capsys):
    """All runs of logs/, or those that are named."""
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "going" in out and "training" in out and "1.2500" in out
    assert main(["done"]) == 0
    assert "going" not in capsys.readouterr().out


def test_the_live_view_shows_runs_and_the_curve_under_the_cursor(runs):
    """The table has a row for each run; arrows choose the curve; q ends."""
    pytest.importorskip("textual_plotext", reason="python3 golf.py --with watch test")
    from textual.widgets import DataTable
    from textual_plotext import PlotextPlot

    async def use() -> list[str]:
        app = make_app(runs)
        async with app.run_test(size=(100, 30)) as pilot:
            table = app.query_one(DataTable)
            assert [table.get_row(str(run))[1] for run in runs] == ["training", "finished"]
            titles = []
            for key in ("up", "down"):
                await pilot.press(key)
                await pilot.pause()
                titles.append(str(app.query_one(PlotextPlot).plt.build()))
            (runs[0] / "metrics.jsonl").write_text(
                '{"step": 9, "progress": 0.5, "train_seconds": 50, "train_loss": 3.0}\n'
            )
            app.refresh_runs()
            assert table.get_row(str(runs[0]))[5] == "3.0000"
            await pilot.press("q")
        return titles

    first, second = asyncio.run(use())
    assert "training loss of going" in first and "training loss of done" in second


def test_trackers_follow_until_all_have_ended(runs, capsys):
    """Each gets every round, and is closed, whatever happens."""
    rounds = []

    class Tracker:
        def update(self, live):
            rounds.append([run.state for run in live])
            if len(rounds) == 2:
                (runs[0] / "artifact.pgz").touch()
                (runs[0] / "train.log").write_text((runs[1] / "train.log").read_text())

        def close(self):
            rounds.append("closed")

    follow(runs, [Tracker()], seconds=0.01)
    assert rounds == [["training", "finished"]] * 2 + [["finished"] * 2, "closed"]
    assert capsys.readouterr().out.count("going") == 2  # at the start and at the end


def test_what_cannot_be_watched_is_status_2(tmp_path, monkeypatch, capsys):
    """No such run, and a missing package, with the command that brings it."""
    monkeypatch.chdir(tmp_path)
    assert main(["nothing"]) == 2
    assert "nothing is not a run" in capsys.readouterr().err
    make_run(Path("logs/a"), [0.5])
    monkeypatch.setitem(sys.modules, "textual_plotext", None)
    monkeypatch.setattr(watch.sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["a"]) == 2
    assert "`python3 golf.py watch` installs them" in capsys.readouterr().err
