"""Runs as characters; that the command needs no library for them is tested with the pictures."""

from tests.tools.runs.test_curves import make_log
from tools.runs.curves import group_runs
from tools.runs.sketch import sketch


def test_a_falling_loss_falls_in_the_sketch(tmp_path):
    """The letter of a later column stands no higher than that of an earlier one."""
    run = make_log(tmp_path / "run", 4)
    rows = [line.split("|")[1] for line in sketch(group_runs([run])).splitlines()[1:16]]
    heights = [next(i for i, row in enumerate(rows) if row[c : c + 1] == "a") for c in range(8, 68)]
    assert heights == sorted(heights) and heights[-1] == 14


def test_where_curves_meet_a_star_stands(tmp_path):
    """Two equal curves are stars alone, and the legend says what a star is."""
    runs = [make_log(tmp_path / name, 4, lr=lr) for name, lr in (("a", 0.5), ("b", 0.25))]
    text = sketch(group_runs(runs))
    chart = "".join(line.split("|")[1] for line in text.splitlines()[1:16])
    assert set(chart) == {" ", "*"} and text.endswith("* = several")
