"""Forecasts add up, from measurements and from the log of another run."""

import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

import quantize
from baselines import pr334
from engine.trainer import read_sources
from tools.runs.forecast import (
    count_steps,
    forecast_for_device,
    forecast_from_probe,
    forecast_from_run,
    packing_nats,
)
from tools.runs.logs import read_log
from train_gpt import PRESETS, RECIPE, Settings

ROOT = Path(__file__).parents[3]
STEP = {"tokens": 1024, "grad_seconds": 0.01, "optimizer_seconds": 0.12, "compiled": True}
MEASURES = {
    "step": STEP,
    "score": {"seconds_per_input": 1e-6},
    "pack": {"bytes": 100, "seconds": 3},
}


def test_a_forecast_from_the_probe_adds_up():
    """512 rows at 10 ms and the optimizer make a step; a cap less what is kept back, the steps."""
    hp = Settings(train_seq_len=1024, eval_stride=64)
    result = forecast_from_probe(RECIPE, hp, MEASURES, 1, 8e9, 62_000_000)
    assert result["step_seconds"] == pytest.approx(512 * 0.01 + 0.12)
    calibration = 32_768 / 1024 * 0.01
    ending = 5 * 524_288 * 1e-6 + 3 + calibration
    assert result["reserve_seconds"] == pytest.approx(1.2 * ending + 1)
    assert result["steps"] == 113  # (600 - 8.130) / 5.24 = 112.95
    assert result["tokens"] == 113 * 524_288
    assert result["score_seconds"] == pytest.approx(62 * 1024 / 64)
    code_bytes = sum(len(source) for source in read_sources(RECIPE).values())
    assert result["total_bytes"] == 100 + code_bytes
    large = MEASURES | {"pack": {"bytes": 10**8, "seconds": 3}}  # which packing makes fit
    assert forecast_from_probe(RECIPE, hp, large, 1, 8e9, 1)["total_bytes"] == quantize.CAP_BYTES
    eight = forecast_from_probe(RECIPE, hp, MEASURES, 8, 8e9, 62_000_000)
    assert eight["step_seconds"] == pytest.approx(64 * 0.01 + 0.12)
    assert eight["score_seconds"] == pytest.approx(result["score_seconds"] / 8)
    few = forecast_from_probe(RECIPE, hp, MEASURES, 1, 1e6, 1)
    held_out = 2e4 * (5 * 1e-6 + 0.01 / 1024 / 4)
    assert few["reserve_seconds"] == pytest.approx(1.2 * (held_out + 3) + 1)
    blocks = forecast_from_probe(RECIPE, replace(hp, eval_stride=1024), MEASURES, 1, 8e9, 1_000_000)
    assert blocks["score_seconds"] == pytest.approx(1)


def test_iterations_bound_the_steps():
    """Without a cap all iterations are done; with one, no more than these."""
    uncapped = replace(Settings(), max_wallclock_seconds=0.0, iterations=50)
    assert count_steps(uncapped, 2.0, 10.0)["steps"] == 50
    assert count_steps(replace(uncapped, max_wallclock_seconds=60.0), 2.0, 10.0)["steps"] == 25
    assert count_steps(replace(uncapped, max_wallclock_seconds=600.0), 2.0, 0)["steps"] == 50
    assert count_steps(replace(uncapped, max_wallclock_seconds=5.0), 2.0, 10.0)["steps"] == 0


LOG = ROOT / "records/smoke_cpu/2026-11-21_webmix_10min/train.log"


def run_settings(run, **more) -> pr334.Settings:
    """The settings of a run from before recipes had names, as pr334's recipe has them."""
    names = {field.name for field in fields(pr334.Settings)}
    saved = {name: value for name, value in run.settings.items() if name in names}
    return pr334.Settings(**{**saved, **more})


def test_a_forecast_from_a_run_agrees_with_that_run():
    """Its own length gives its own steps, time and bytes back; half of it and two ranks scale."""
    run = read_log(LOG)
    result = forecast_from_run(pr334.RECIPE, run_settings(run), run, 1)
    assert result["steps"] == pytest.approx(run.steps, abs=1)
    assert result["train_seconds"] == pytest.approx(run.train_time_ms / 1000, rel=0.01)
    assert result["score_seconds"] == pytest.approx(run.eval_time_ms / 1000)
    assert result["total_bytes"] == run.total_bytes
    half = forecast_from_run(pr334.RECIPE, run_settings(run, max_wallclock_seconds=300.0), run, 1)
    assert half["steps"] == pytest.approx(run.steps * 300 / 600, rel=0.02)
    assert forecast_from_run(pr334.RECIPE, run_settings(run), run, 2)["steps"] == pytest.approx(
        2 * run.steps, rel=0.02
    )
    coarse = forecast_from_run(pr334.RECIPE, run_settings(run, eval_stride=256), run, 1)
    assert coarse["score_seconds"] == pytest.approx(run.eval_time_ms / 1000 / 4)


def test_slow_first_steps_are_not_taken_for_the_speed():
    """The head counts once: 10 steps in 5 s, then 0.1 s each, in 60 s less what is kept back."""
    times = {1: 3000.0, 10: 5000.0, 110: 15_000.0}
    curve = [{"step": step, "train_time_ms": time} for step, time in times.items()]
    run = replace(read_log(LOG), curve=curve, train_time_ms=16_000.0, cap_ms=18_000.0)
    hp = run_settings(run, max_wallclock_seconds=60.0)
    result = forecast_from_run(pr334.RECIPE, hp, run, 1)
    assert result["step_seconds"] == pytest.approx(0.1)
    assert result["reserve_seconds"] == pytest.approx(3)  # the cap came at 18 s
    assert result["steps"] == 530  # (60 - 3 - 4) / 0.1
    uncapped = forecast_from_run(pr334.RECIPE, hp, replace(run, cap_ms=0.0), 1)
    assert uncapped["reserve_seconds"] == pytest.approx(2)  # twice the ending


def test_a_run_of_another_speed_is_no_base():
    """A setting that changes the speed is refused by name; so is a log with nothing timed."""
    run = read_log(LOG)
    with pytest.raises(ValueError, match="MODEL_DIM=128.*without --from-run"):
        forecast_from_run(pr334.RECIPE, run_settings(run, model_dim=128), run, 1)
    run.curve.clear()
    with pytest.raises(ValueError, match="needs two timed steps"):
        forecast_from_run(pr334.RECIPE, run_settings(run), run, 1)


def test_packing_costs_what_was_measured():
    """The model of the mini track's first run, and half a bit more or less of the smoke model's."""
    assert packing_nats(1.98, 21) == pytest.approx(0.0915)
    assert packing_nats(2.0, 20) / packing_nats(2.5, 20) == pytest.approx(151 / 51.8, rel=0.05)
    assert packing_nats(2.0, 40) > packing_nats(2.0, 20)


def test_a_device_that_is_not_at_hand_is_forecast_by_its_peak():
    """FLOPs of a step over 22 % of eight peaks; bytes up to the cap, where they are of use."""
    settings = Settings(**PRESETS["record"], num_layers=12)
    result = forecast_for_device(RECIPE, settings, "NVIDIA H100 80GB HBM3", 8)
    step_seconds = 524_288 * result["flops_per_token"] / (0.22 * 989e12 * 8)
    assert result["step_seconds"] == pytest.approx(step_seconds)
    assert result["steps"] == math.ceil((600 - 37) / step_seconds)
    tokens = result["tokens_per_parameter"] * result["parameters"]
    assert tokens == pytest.approx(result["steps"] * 524_288)
    assert result["total_bytes"] == quantize.CAP_BYTES
    assert result["bits"] * result["parameters"] == pytest.approx(8 * result["model_bytes"])
    small = forecast_for_device(RECIPE, replace(settings, num_layers=2), "H200", 1)
    assert small["bits"] == pytest.approx(3.4, abs=0.01) and small["peak_flops"] == 989e12
    bound = replace(settings, max_artifact_bytes=10**6, peak_flops=1e15)
    one = forecast_for_device(RECIPE, bound, "X", 1)
    assert (one["model_bytes"], one["peak_flops"]) == (10**6, 1e15)
    with pytest.raises(ValueError, match="--device X must name one of B200, .*set PEAK_FLOPS"):
        forecast_for_device(RECIPE, settings, "X", 1)
