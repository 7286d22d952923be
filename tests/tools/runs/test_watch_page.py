"""The page: table, curves, and no further loading once all runs have ended."""

import re

import pytest

from tests.tools.runs.test_live import hold, make_run  # noqa: F401, a fixture
from tools.runs.live import read_live
from tools.runs.watch_page import write_page

pytest.importorskip("matplotlib", reason="python3 golf.py --with plots test")
STEP = "step:{}/9 train_loss:{:.4f} train_time:{}ms step_avg:1.00ms tok_s:1 mfu:unknown\n"


def test_a_page_shows_runs_and_curves(tmp_path, hold):  # noqa: F811
    """Names are escaped; a run under way makes the page load itself again."""
    folder = make_run(tmp_path / "a<b", [0.25])
    log = "run:logs/a preset:x (as asked)\n" + STEP.format(1, 5.0, 10) + STEP.format(2, 4.0, 20)
    (folder / "train.log").write_text(log)
    hold(folder)
    path = tmp_path / "pages/runs.html"
    write_page([read_live(folder)], path)
    page = path.read_text()
    assert "a&lt;b" in page and "a<b" not in page and "1 run, 1 under way" in page
    assert 'http-equiv="refresh"' in page and page.count("<svg") == 1
    assert "nats per token" in page and not re.search(r'(src|href)="http', page)


def test_a_page_of_ended_runs_stays(tmp_path):
    """No refresh, the score in the table, and a sentence where no log has a curve."""
    done = read_live(make_run(tmp_path / "b", [1.0], is_scored=True))
    write_page([done], tmp_path / "runs.html")
    page = (tmp_path / "runs.html").read_text()
    assert "refresh" not in page and "1.2500" in page and "No curves yet" in page
