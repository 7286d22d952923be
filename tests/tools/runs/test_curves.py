"""Curves as numbers: groups of seeds, axes, speeds and bands."""

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tools.runs import curves
from tools.runs.curves import NothingToDraw, group_runs
from tools.runs.logs import read_log
from tools.runs.run_log import Run
from tools.runs.sketch import sketch


def make_log(folder: Path, seed: int, validate: bool = True, **settings) -> Run:
    """A run of 100 steps of 1,000 tokens, 50 ms each; the loss is 3 + seed/10 - step/100."""
    folder.mkdir(parents=True)
    settings_of_run = {
        "run_id": folder.name,
        "seed": seed,
        "train_batch_tokens": 1000,
        "lr": 0.5,
        **settings,
    }
    lines = [
        f"run:logs/{folder.name} preset:x (as asked)",
        "hparams " + json.dumps(settings_of_run),
    ]
    for step in (1, 2, *range(10, 101, 10)):
        loss = 3 + seed / 10 - step / 100
        lines.append(
            f"step:{step}/100 train_loss:{loss:.4f} train_time:{50 * step + 100}ms"
            f" step_avg:1.00ms tok_s:1 mfu:unknown"
        )
    if validate:
        lines += [
            f"step:{s}/100 val_loss:{3 - s / 100} val_bpb:{2 - s / 100}" for s in (25, 50, 75)
        ]
    lines.append("artifact model_bytes:900 code_bytes:100 total_bytes:1000 cap_bytes:16000000")
    lines.append(
        f"final val_loss:2.0 val_bpb:{1 + seed / 10:.4f} targets:10 bytes:20 eval_time:5ms"
    )
    (folder / "train.log").write_text("\n".join(lines) + "\n")
    return read_log(folder / "train.log")


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """Three seeds, and one run with another rate."""
    seeds = [make_log(tmp_path / f"logs/base_seed{seed}", seed) for seed in (1, 2, 3)]
    return [*seeds, make_log(tmp_path / "logs/other", 4, lr=0.25)]


def test_seeds_of_equal_settings_are_one_group(runs):
    """Groups are named without the seed, and by the settings that tell them apart."""
    groups = group_runs(runs)
    assert [len(group.runs) for group in groups] == [3, 1]
    assert [group.label for group in groups] == ["base (LR=0.5), 3 seeds", "other (LR=0.25)"]
    assert group_runs(runs[:1])[0].label == "base_seed1"
    foreign = [replace(run, settings={}) for run in runs[:2]]
    assert [len(group.runs) for group in group_runs(foreign)] == [1, 1]


def test_settings_that_change_no_result_are_not_in_a_label(tmp_path):
    """Paths and how often something is logged stay out of the label."""
    runs = [make_log(tmp_path / f"r{i}", 1, train_log_every=i, data_path=f"d{i}") for i in (1, 2)]
    assert [group.label for group in group_runs(runs)] == ["r1", "r2"]


def test_the_score_of_a_group_is_mean_and_spread(runs):
    """Never the best alone; runs without a score and scores of a part are told."""
    (group, single) = group_runs(runs)
    std = statistics.stdev((1.1, 1.2, 1.3))
    assert group.bpb() == f"1.2000 ± {std:.4f} bpb"
    assert single.bpb() == "1.4000 bpb"
    unscored = replace(group, runs=[runs[0], replace(runs[1], score=None)])
    assert unscored.bpb() == "1.1000 bpb, 1 without a score"
    partial = replace(single.runs[0], score=replace(single.runs[0].score, is_partial=True))
    assert replace(single, runs=[partial]).bpb() == "1.4000 bpb (part of the text)"
    assert replace(single, runs=[replace(runs[0], score=None)]).bpb() == "no final score"


def test_a_curve_has_every_axis(runs):
    """Steps, seconds and tokens of each point; a validation's time lies between its neighbours."""
    losses = {axis: curves.series(runs[0], axis, "train_loss") for axis in curves.AXES}
    assert losses["steps"][-1].tolist() == pytest.approx([100, 2.1])
    assert losses["time"][-1].tolist() == pytest.approx([5.1, 2.1])
    assert losses["tokens"][-1].tolist() == pytest.approx([100_000, 2.1])
    validation = curves.series(runs[0], "time", "val_bpb")
    assert validation[:, 0].tolist() == pytest.approx([1.35, 2.6, 3.85])
    assert validation[:, 1].tolist() == pytest.approx([1.75, 1.5, 1.25])


def test_a_run_without_times_or_numbers_has_no_curve(runs):
    """Nothing is made up where a log has no times, no tokens, or a loss that is not finite."""
    timeless = replace(runs[0], curve=[{"step": 1, "train_time_ms": None, "train_loss": 3.0}])
    assert len(curves.series(timeless, "steps", "train_loss")) == 0
    points = [{"step": s, "train_time_ms": 9.0 * s, "train_loss": math.nan} for s in (1, 2)]
    assert len(curves.series(replace(runs[0], curve=points), "steps", "train_loss")) == 0
    points = [point | {"train_loss": 2.0} for point in points]
    assert len(curves.series(replace(runs[0], curve=points), "tokens", "train_loss")) == 0
    with pytest.raises(NothingToDraw, match="two timed steps"):
        sketch(group_runs([timeless]))


def test_speed_is_taken_between_logged_steps(runs):
    """50 ms a step and 20,000 tokens per second from difference to difference, the start aside."""
    speeds = curves.speeds(runs[0])
    assert len(speeds) == 11 and speeds[1]["step"] == 6
    assert {round(point["step_ms"], 6) for point in speeds} == {50.0}
    assert {round(point["tokens_per_second"], 3) for point in speeds} == {20_000.0}


def test_a_band_reaches_from_lowest_to_highest_where_all_have_data():
    """Mean and extremes are of the same x in each run, over the common range alone."""
    both = curves.band([np.array([[0, 1.0], [2, 3.0]]), np.array([[1, 4.0], [3, 6.0]])])
    assert both.x.tolist() == [1, 2]
    assert both.low.tolist() == [2, 3]
    assert both.mean.tolist() == [3, 4]
    assert both.high.tolist() == [4, 5]
    with pytest.raises(NothingToDraw, match="common range"):
        curves.band([np.array([[0, 1.0], [1, 1.0]]), np.array([[2, 1.0], [3, 1.0]])])
