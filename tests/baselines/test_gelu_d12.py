"""gelu_d12: its published recipe, and a run of its file."""

import pytest
import torch

from baselines import gelu_d12
from baselines.adamw import lr_at
from engine.open_model import open_model
from engine.settings import RunSettings
from tests.tiny_runs import run_small


def test_the_recipe_is_that_of_the_specification():
    """Batch, length of the run, validation, decay and clip."""
    settings = gelu_d12.D12Settings()
    assert settings.train_batch_tokens == 256 * 1024 and settings.train_seq_len == 1024
    assert (settings.micro_batch_tokens, settings.iterations) == (32_768, 19_920)
    assert settings.val_loss_every == 1000
    assert (settings.weight_decay, settings.grad_clip_norm) == (0.01, 1.0)
    assert settings.seed == RunSettings.seed
    assert (settings.precision, settings.val_evaluation) == ("bf16", "wikitext103")


@pytest.mark.parametrize(
    "step, rate", [(0, 0), (100, 0.005), (200, 0.01), (10_060, 0.00525), (19_920, 0.0005)]
)
def test_rates_are_those_of_the_specification(step, rate):
    """Warm-up, peak, cosine and end."""
    assert lr_at(step, gelu_d12.D12Settings()) == pytest.approx(rate, rel=2e-3, abs=1e-15)


def test_steps_follow_from_the_number_of_parameters():
    """The model sees 20 tokens a parameter, rounded down to steps."""
    recipe = gelu_d12.RECIPE
    settings = recipe.Settings()
    with torch.device("meta"):
        model = recipe.model(recipe.model_settings(settings), torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    steps = 20 * parameters // settings.train_batch_tokens
    assert steps == settings.iterations == settings.lr_decay_steps


def test_the_file_trains_packs_and_scores(toy, tmp_path, monkeypatch, capsys):
    """`python -m baselines.gelu_d12` ends with a score from the packed bytes."""
    folder = run_small(gelu_d12.RECIPE, toy, tmp_path, monkeypatch)
    assert "final val_loss:" in capsys.readouterr().out
    assert (folder / "baselines/gelu_d12.py").exists()
    assert open_model(folder).recipe is gelu_d12.RECIPE
