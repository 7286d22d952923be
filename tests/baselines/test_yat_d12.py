"""yat_d12: its published recipes, and a run of its file."""

import dataclasses

import pytest
import torch

from baselines import gelu_d12, yat_d12
from baselines.adamw import lr_at
from baselines.models import d12
from engine.open_model import open_model
from engine.settings import read_settings
from tests.tiny_runs import run_small

PRESETS = yat_d12.RECIPE.presets


def test_the_recipe_is_that_of_gelu_d12_at_three_times_the_rate():
    """All else is equal, but for steps that follow from the parameters."""
    base = dataclasses.asdict(gelu_d12.D12Settings())
    base |= {"peak_lr": 0.03, "end_lr": 0.0015, "mlp": "yat"}
    assert dataclasses.asdict(yat_d12.YatSettings()) == base
    base |= {"mlp": "yat_neuron", "iterations": 19_922, "lr_decay_steps": 19_922}
    assert dataclasses.asdict(yat_d12.YatSettings(**PRESETS["yat_neuron_d12"])) == base


@pytest.mark.parametrize("preset, last", [("yat_d12", 19_920), ("yat_neuron_d12", 19_922)])
def test_rates_are_those_of_the_specification(preset, last):
    """Peak and end."""
    settings = yat_d12.YatSettings(**PRESETS[preset])
    assert lr_at(200, settings) == pytest.approx(0.03, rel=2e-3)
    assert lr_at(last, settings) == pytest.approx(0.0015, rel=2e-3)


@pytest.mark.parametrize("preset", ["yat_d12", "yat_neuron_d12"])
def test_a_preset_trains_the_published_shape(preset):
    """Its configuration is the model file's, its steps 20 tokens a parameter."""
    recipe = yat_d12.RECIPE
    settings = read_settings(recipe, {"PRESET": preset}, False).settings
    model_settings = recipe.model_settings(settings)
    assert recipe.config(model_settings) == d12.CONFIGS[preset]
    with torch.device("meta"):
        model = recipe.model(model_settings, torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    steps = 20 * parameters // settings.train_batch_tokens
    assert steps == settings.iterations == settings.lr_decay_steps


def test_another_mlp_is_refused():
    """gelu is a recipe of its own."""
    with pytest.raises(ValueError, match="MLP=gelu must be yat or yat_neuron"):
        yat_d12.YatSettings(mlp="gelu")


@pytest.mark.slow
def test_the_file_trains_packs_and_scores(toy, tmp_path, monkeypatch, capsys):
    """`PRESET=yat_neuron_d12 python -m baselines.yat_d12` ends with a score from packed bytes."""
    changes = dict(preset="yat_neuron_d12")
    folder = run_small(yat_d12.RECIPE, toy, tmp_path, monkeypatch, **changes)
    assert "final val_loss:" in capsys.readouterr().out
    assert (folder / "baselines/yat_d12.py").exists()
    opened = open_model(folder)
    assert opened.recipe is yat_d12.RECIPE and opened.model_settings["mlp"] == "yat_neuron"
