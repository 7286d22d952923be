"""gpt2_124m: llm.c's recipe, and a run of its file."""

import pytest

from baselines import gpt2_124m
from baselines.adamw import lr_at
from engine.open_model import open_model
from tests.tiny_runs import run_small


def test_the_recipe_is_that_of_the_specification():
    """Batch, length of the run, validation, decay, clip and seed."""
    settings = gpt2_124m.GPT2Settings()
    assert settings.train_batch_tokens == 512 * 1024 and settings.train_seq_len == 1024
    assert (settings.micro_batch_tokens, settings.iterations) == (65_536, 20_000)
    assert settings.val_loss_every == 250
    assert (settings.weight_decay, settings.grad_clip_norm) == (0.1, 1.0)
    assert settings.seed == 42
    assert (settings.precision, settings.val_evaluation) == ("bf16", "gpt2_val")


@pytest.mark.parametrize(
    "step, rate",
    [
        (0, 8.5714e-7),
        (699, 6e-4),
        (700, 6e-4),
        (10_000, 3.1708e-4),
        (10_350, 3e-4),
        (19_999, 3.97e-12),
    ],
)
def test_rates_are_those_of_the_specification(step, rate):
    """Warm-up, peak, cosine and end."""
    assert lr_at(step, gpt2_124m.GPT2Settings()) == pytest.approx(rate, rel=2e-3, abs=1e-15)


@pytest.mark.slow
def test_the_file_trains_packs_and_scores(toy, tmp_path, monkeypatch, capsys):
    """`python -m baselines.gpt2_124m` ends with a score from the packed bytes."""
    folder = run_small(gpt2_124m.RECIPE, toy, tmp_path, monkeypatch)
    printed = capsys.readouterr().out
    assert "final val_loss:" in printed and "cap_bytes:inf" in printed
    assert (folder / "baselines/gpt2_124m.py").exists()
    assert open_model(folder).recipe is gpt2_124m.RECIPE
