"""The probe: what it measures, and that a process which hangs or dies costs nothing."""

import json
import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

import quantize
from codec import viterbi
from engine.recipe import Budget
from tools.runs.probe import USUAL_BITS, TrialModel, run_probe, trellis_seconds
from train_gpt import GPT, PRESETS, RECIPE, Settings

CPU = torch.device("cpu")
TINY = Settings(
    **{
        **PRESETS["smoke"],
        "num_layers": 2,
        "model_dim": 32,
        "num_heads": 2,
        "train_seq_len": 64,
        "eval_stride": 64,
        "compile": False,
    }
)


def test_the_probe_measures_steps_scoring_and_size():
    """All three kinds come, on at most a micro-batch, and the bytes are those of such shapes."""
    measures = {}
    for measure in TrialModel(RECIPE, replace(TINY, micro_batch_tokens=128), CPU, 0.6).measure():
        measures[measure["kind"]] = measure
    assert set(measures) == {"step", "score", "pack"}
    assert measures["step"]["tokens"] in (64, 128) and measures["step"]["compiled"] is False
    assert min(measures["step"]["grad_seconds"], measures["score"]["seconds_per_input"]) > 0
    model = GPT(TINY, torch.float32)
    weights = {name: torch.randn(p.shape) for name, p in model.named_parameters()}
    usual = USUAL_BITS * sum(w.numel() for w in weights.values()) / 8
    assert measures["pack"]["bytes"] == round(usual)


def test_packing_is_forecast_from_as_many_columns_as_it_takes(monkeypatch):
    """With a column for a second, the forecast is the number that one packing asks for."""
    model = GPT(TINY, torch.float32).init_weights(0)
    weights = {name: p.detach() + 0.1 for name, p in model.named_parameters()}
    shapes, points = [], viterbi.ColumnQuantizer.points

    def count(self, x_PT):
        shapes.append(x_PT.shape)
        return points(self, x_PT)

    monkeypatch.setattr(viterbi.ColumnQuantizer, "points", count)
    hessians = quantize.flat_hessians(weights)
    RECIPE.pack(weights, RECIPE.model_settings(TINY), Budget(quantize.CAP_BYTES), lambda: hessians)
    packing, shapes[:] = Counter(shapes), []
    assert trellis_seconds(weights, lambda call: bool(len(call())), CPU) == packing.total()
    assert set(shapes) == set(packing)


@pytest.mark.parametrize(
    "ending, error",
    [("exec sleep 60", ""), ("echo 'RuntimeError: out of memory' >&2; exit 1", "out of memory")],
)
def test_a_probe_that_hangs_or_dies_leaves_what_it_measured(monkeypatch, tmp_path, ending, error):
    """The time limit ends it quietly; an error of its own is told."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!/bin/sh\necho '{json.dumps({'kind': 'pack', 'bytes': 5})}'\n{ending}\n")
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    measures, reported = run_probe("train_gpt", TINY, 0.5)
    assert measures == {"pack": {"bytes": 5}}
    assert (error in reported) and bool(reported) == bool(error)
