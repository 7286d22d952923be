"""Pictures: the numbers in them are those of the runs, and nothing covers them."""

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import quantize
from codec.report import byte_account
from tests.tools.runs.test_curves import make_log
from tools.runs import plot
from tools.runs.curves import NothingToDraw, group_runs
from tools.runs.logs import read_log
from tools.runs.plot import main
from tools.runs.run_log import Run

SMOKE_LOG = Path(__file__).parents[3] / "records/smoke_cpu/2026-11-21_webmix_10min/train.log"


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib", reason="no matplotlib: golf.py --with plots test")


def add_weights(folder: Path) -> dict[str, torch.Tensor]:
    """An artifact and its checkpoint; returns the weights."""
    rng = torch.Generator().manual_seed(0)
    shapes = {"blocks.0.w": (64, 96), "blocks.1.w": (64, 96), "emb": (32, 64), "tiny.scale": (8,)}
    weights = {name: torch.randn(shape, generator=rng) for name, shape in shapes.items()}
    rows = [("blocks.*", 5, 2.9), ("emb", 8, 6.0), ("tiny.scale", 16)]
    blob = quantize.encode(weights, tuple(quantize.PlanRow(*row) for row in rows), {}, threads=1)
    (folder / "artifact.pgz").write_bytes(blob)
    torch.save(weights, folder / "checkpoint.pt")
    return weights


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Three seeds, and one run with another rate."""
    rows_by_name = [make_log(tmp_path / f"logs/base_seed{seed}", seed) for seed in (1, 2, 3)]
    return [*rows_by_name, make_log(tmp_path / "logs/other", 4, lr=0.25)]


TTT = {"targets": [10, 10], "bytes": [30, 10], "before": [20.0, 10.0], "after": [19.0, 8.0]}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"after": [1.0]}, "equally long"),
        ({"after": [[1.0], [2.0]]}, "equally long"),
        (dict.fromkeys(TTT, []), "not empty"),
        ({"bytes": [0, 0]}, "some must have bytes"),
        ({"targets": [0, 1]}, "every chunk must have targets"),
        ({"before": ["x", "y"]}, "must be lists"),
        ({"before": None}, "must be lists|equally long"),
    ],
)
def test_a_damaged_ttt_record_is_refused(tmp_path, change, message):
    """The path and the form that it must have are in the message."""
    path = tmp_path / "ttt.json"
    path.write_text(json.dumps(TTT | change))
    with pytest.raises(ValueError, match=rf"ttt.json: .*({message})"):
        plot.read_ttt(path)


def test_the_gain_of_ttt_is_in_bits_per_byte(tmp_path, runs, matplotlib):
    """Of each chunk and of all up to there: nats saved, by ln 2 and bytes."""
    path = tmp_path / "ttt.json"
    path.write_text(json.dumps(TTT))
    (ax,) = plot.draw_ttt(group_runs(runs), path).axes
    each, total = (line.get_ydata() / 1000 * math.log(2) for line in ax.get_lines()[:2])
    assert each.tolist() == pytest.approx([1 / 30, 2 / 10])
    assert total.tolist() == pytest.approx([1 / 30, 3 / 40])
    assert ax.get_lines()[0].get_xdata().tolist() == [10, 20]


def test_the_error_of_a_matrix_is_that_of_the_report(tmp_path):
    """Bits and relative error, tensor by tensor, agree with codec.report's groups."""
    weights = add_weights(tmp_path)
    rows_by_name = {row["name"]: row for row in plot.tensors(tmp_path)}
    report = byte_account((tmp_path / "artifact.pgz").read_bytes(), weights)["groups"]["emb"]
    assert rows_by_name["emb"]["relative_rms"] == pytest.approx(report["relative_rms"])
    assert rows_by_name["emb"]["stored_bits"] == pytest.approx(report["bits_per_parameter"])
    assert [row["bits"] for row in rows_by_name.values()] == [5, 5, 8, 16]
    for other in ({"emb": weights["emb"]}, weights | {"emb": weights["emb"][:, :1]}):
        torch.save(other, tmp_path / "checkpoint.pt")
        with pytest.raises(NothingToDraw, match="is not what artifact.pgz was made from"):
            plot.tensors(tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(NothingToDraw, match="no checkpoint|not a checkpoint"):
        plot.tensors(tmp_path)
    (tmp_path / "checkpoint.pt").unlink()
    with pytest.raises(NothingToDraw, match="has no checkpoint.pt"):
        plot.tensors(tmp_path)


def test_a_tensor_on_the_trellis_has_its_share_of_the_points(tmp_path):
    """They add up to what is theirs; the finer a matrix, the more bits it has."""
    weights = add_weights(tmp_path)
    hessians = quantize.flat_hessians(weights)
    hessians["blocks.1.w"] *= 100
    blob = quantize.encode_trellis(weights, hessians, {}, 16_000)
    (tmp_path / "artifact.pgz").write_bytes(blob)
    rows_by_name = {row["name"]: row for row in plot.tensors(tmp_path)}
    assert [row["bits"] for row in rows_by_name.values()] == [quantize.POINT_BITS] * 3 + [16]
    groups = byte_account(blob, weights)["groups"]
    shared_bytes = groups.pop("exponents and tables of the points")["bytes"]
    assert shared_bytes > 0
    groups = groups.values()
    stored = sum(row["stored_bits"] * row["parameters"] / 8 for row in rows_by_name.values())
    assert stored == pytest.approx(sum(group["bytes"] for group in groups), abs=len(groups))
    coarse, fine = rows_by_name["blocks.0.w"], rows_by_name["blocks.1.w"]
    assert fine["stored_bits"] - coarse["stored_bits"] == pytest.approx(math.log2(10), abs=0.3)
    assert coarse["relative_rms"] / fine["relative_rms"] == pytest.approx(10, rel=0.2)


def test_the_bars_add_up_to_the_artifact_and_the_code():
    """Small groups are put together, header and code stand alone, and no byte is lost."""
    sizes = {"big": 900, "mid": 80, "small": 4, "smaller": 3}
    groups = {n: {"bytes": s, "entropy_bytes": s - 1, "parameters": s} for n, s in sizes.items()}
    rows = plot.byte_rows({"bytes": 1000, "groups": groups}, 50)
    assert [(row["name"], row["bytes"]) for row in rows] == [
        ("big", 900), ("mid", 80), ("others, each under 1 %", 7), ("header and checksum", 13),
        ("code", 50),
    ]  # fmt: skip
    assert rows[2]["entropy_bytes"] == 5 and rows[2]["parameters"] == 7


@pytest.mark.parametrize(
    "value, text",
    [(0, "0"), (2000, "2,000"), (20_000, "20 k"), (1.5e6, "1.5 M"), (8e9, "8 B"), (0.5, "0.5")],
)
def test_numbers_on_an_axis_are_short(value, text):
    """Thousands, millions and billions, as the field writes tokens."""
    assert plot.count(value) == text


def test_every_picture_is_written(tmp_path, runs, matplotlib, monkeypatch, capsys):
    """All five, as PNG files; the command prints their paths, and status is 0."""
    monkeypatch.chdir(tmp_path)
    add_weights(runs[0].path.parent)
    (runs[0].path.parent / "ttt.json").write_text(json.dumps(TTT))
    monkeypatch.setitem(plot.STYLE, "savefig.dpi", 40)
    assert main([*(str(run.path.parent) for run in runs), "--out", "pictures", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = ["curves", "speed", "bytes", "error", "ttt"]
    assert report["written"] == [f"pictures/{name}.png" for name in names]
    assert report["missing"] == {}
    for path in report["written"]:
        assert Path(path).read_bytes().startswith(b"\x89PNG")
    assert len(list(Path("pictures").iterdir())) == 5


def test_titles_axes_and_legends_are_in_an_svg(tmp_path, runs, matplotlib):
    """Labels with units as text; the same runs give the same bytes; what is missing is told."""
    groups = group_runs(runs)
    written, missing = plot.draw_all(groups, None, "svg", tmp_path / "a")
    assert [path.name for path in written] == ["curves.svg", "speed.svg"]
    assert missing["bytes"] == "no run's folder has artifact.pgz"
    assert "ttt.json" in missing["ttt"] and "--ttt FILE" in missing["ttt"]
    text = written[0].read_text()
    for label in ("training time (s)", "nats per token", "bits per byte", "3 seeds: 1.2000 ±"):
        assert label in text
    plot.draw_all(groups, None, "svg", tmp_path / "b")
    assert (tmp_path / "b/curves.svg").read_text() == text


def test_a_damaged_artifact_spoils_no_other_picture(tmp_path, runs, matplotlib):
    """The curves are drawn, and the reason stands beside the names of the others."""
    add_weights(runs[0].path.parent)
    (runs[0].path.parent / "artifact.pgz").write_bytes(100 * b"x")
    written, missing = plot.draw_all(group_runs(runs[:1]), None, "svg", tmp_path / "a")
    assert [path.name for path in written] == ["curves.svg", "speed.svg"]
    assert "magic" in missing["bytes"] and "magic" in missing["error"]


def test_lines_bands_and_limits_are_those_of_the_runs(runs, matplotlib):
    """Three seeds make a line of means and a band; the first steep losses do not set the scale."""
    groups = group_runs(runs)
    fig = plot.draw_curves(groups)
    assert len(fig.axes) == 6  # loss and bpb, by steps, time and tokens
    ax = fig.axes[0]
    mean, single = ax.get_lines()
    assert mean.get_ydata()[-1] == pytest.approx(2.2) and single.get_ydata()[-1] == pytest.approx(
        2.4
    )
    assert len({line.get_color() for line in ax.get_lines()}) == 2
    (spread,) = ax.collections
    heights = spread.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((2.1, 3.29))
    assert ax.get_ylim()[1] < 3.39 < 3.4  # of step 1, seed 4
    without = [make_log(runs[0].path.parents[2] / f"x{i}", i, validate=False) for i in (1, 2)]
    assert len(plot.draw_curves(group_runs(without)).axes) == 3


def test_the_legend_covers_no_data(runs, matplotlib):
    """It lies outside all axes, also with long labels."""
    groups = [replace(group, label=30 * "long ") for group in group_runs(runs)]
    for fig in (plot.draw_curves(groups), plot.draw_speed(groups)):
        fig.savefig(io.BytesIO(), dpi=40)
        (legend,) = fig.legends
        box = legend.get_window_extent()
        assert not any(box.overlaps(ax.get_window_extent()) for ax in fig.axes)


def test_the_terminal_needs_no_library(runs, tmp_path, monkeypatch, capsys):
    """A chart of characters with its axis, a letter a group, and bars of bytes."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    add_weights(runs[0].path.parent)
    assert main([*(str(run.path) for run in runs), "--terminal"]) == 0
    out = capsys.readouterr().out
    assert "a = base (LR=0.5), 3 seeds: 1.2000 ±" in out and "b = other" in out
    chart = [line for line in out.splitlines() if " |" in line]
    assert len(chart) == 15 and max(map(len, chart)) <= 80
    assert chart[0].rstrip()[-1] in "ab" and set(chart[-1].split("|")[1]) <= {" ", "a"}
    assert chart[-1].split()[0] == "2.200"
    (bar,) = [line for line in out.splitlines() if line.startswith("blocks.*.w")]
    assert bar.endswith(" " + 40 * "#")


def test_pictures_without_matplotlib_name_the_command(runs, monkeypatch, capsys):
    """A missing library is one line that says how to get it, or do without."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main([str(runs[0].path)]) == 2
    error = capsys.readouterr().err
    assert "`python3 golf.py plot` installs" in error and "--terminal" in error


def test_nothing_to_draw_is_status_1_and_no_run_status_2(tmp_path, matplotlib, monkeypatch, capsys):
    """A log without a curve draws nothing; a path without a log is an error."""
    monkeypatch.chdir(tmp_path)
    Path("train.log").write_text("final_exact val_loss:2.0 val_bpb:1.2\n")
    assert main(["train.log"]) == 1
    assert "no curves: no log has two timed steps" in capsys.readouterr().err
    assert main(["train.log", "--terminal"]) == 1
    assert main(["nothing"]) == 2
    assert "no log in logs/nothing" in capsys.readouterr().err
    assert not Path("logs").exists()


def test_the_record_that_is_in_the_tree_can_be_drawn(matplotlib):
    """The ten-minute run's curve: 2,427 steps down to its last loss."""
    (ax, *_) = plot.draw_curves(group_runs([read_log(SMOKE_LOG)])).axes
    x, y = ax.get_lines()[0].get_data()
    assert x[-1] == 2427 and y[-1] < y[0]
