"""preln_53m: its published recipe and second stage, and a run of its file."""

import dataclasses

import pytest
import torch

from baselines import preln_53m
from baselines.adamw import lr_at
from baselines.models import preln
from engine.open_model import open_model
from engine.settings import RunSettings
from tests.baselines.test_adamw import baseline_trainer, tiny_settings
from tests.baselines.test_teachers import LINES, write
from tests.tiny_runs import run_small, toy_paths

PRESETS = preln_53m.RECIPE.presets
SECOND_STAGE = dict(start_from="a.pt", teacher="b.jsonl")


@pytest.mark.parametrize(
    "preset, steps, clip",
    [
        ("preln_53m", 20_000, 0.0),
        ("preln_53m_untied", 20_000, 0.0),
        ("preln_53m_distilled", 15_000, 1.0),
    ],
)
def test_the_recipe_is_that_of_the_specification(preset, steps, clip):
    """Batch, length of the run, validation, decay, clip, dropout and precision."""
    settings = preln_53m.PrelnSettings(**PRESETS[preset], **SECOND_STAGE)
    assert settings.train_batch_tokens == 12 * 512 and settings.train_seq_len == 512
    assert (settings.micro_batch_tokens, settings.iterations) == (6144, steps)
    assert settings.val_loss_every == 1000
    assert (settings.weight_decay, settings.grad_clip_norm) == (0.1, clip)
    assert settings.seed == RunSettings.seed
    assert (settings.dropout, settings.precision) == (0.1, "fp32")
    assert settings.val_evaluation == "preln_val"
    assert settings.random_windows


@pytest.mark.parametrize(
    "step, rate",
    [
        (0, 0),
        (1, 1.5e-7),
        (2000, 3e-4),
        (16_000, 1.65e-4),
        (19_999, 1.06439e-4),
        (30_000, 3e-5),
        (40_000, 3e-5),
    ],
)
def test_rates_are_those_of_the_specification(step, rate):
    """Warm-up, peak, cosine and end."""
    assert lr_at(step, preln_53m.PrelnSettings()) == pytest.approx(rate, rel=2e-3, abs=1e-15)


def test_the_second_stage_has_a_rate_that_stays():
    """15,000 steps at 3e-5, half of each loss at temperature 2."""
    settings = preln_53m.PrelnSettings(**PRESETS["preln_53m_distilled"], **SECOND_STAGE)
    assert {lr_at(step, settings) for step in (0, 1, 7000, 14_999)} == {3e-5}
    assert (settings.distill_alpha, settings.distill_temperature) == (0.5, 2.0)


@pytest.mark.parametrize("preset, is_tied", [("preln_53m", True), ("preln_53m_untied", False)])
def test_a_preset_trains_the_published_shape(preset, is_tied):
    """Its configuration is the model file's."""
    recipe = preln_53m.RECIPE
    settings = preln_53m.PrelnSettings(**PRESETS[preset])
    config = recipe.config(recipe.model_settings(settings))
    assert config == preln.CONFIGS[preset] and config.tied is is_tied


def test_dropout_is_a_setting():
    """It reaches the model."""
    recipe = preln_53m.RECIPE
    model_settings = recipe.model_settings(tiny_settings("preln_53m", dropout=0.3))
    assert recipe.model(model_settings, torch.float32).config.dropout == 0.3


def test_a_second_stage_starts_where_the_first_ended(toy, tmp_path, monkeypatch):
    """It needs START_FROM and a teacher, and begins with those weights."""
    base = baseline_trainer(toy, tmp_path, monkeypatch, "preln_53m", run_id="base")
    for step in range(2):  # the first one's rate is 0
        base.train_step(base.batches.get(step), 0.5)
    base.save()
    start = str(base.run.checkpoint_path)
    written = write(tmp_path / "teacher.jsonl", LINES)
    changes = dict(run_id="second", start_from=start, teacher=written)
    second = baseline_trainer(toy, tmp_path, monkeypatch, "preln_53m_distilled", **changes)
    assert second.text.num_blocks == len(LINES)
    for name, p in base.model.named_parameters():
        assert torch.equal(p, second.model.get_parameter(name)), name
    for missing in ("start_from", "teacher"):
        with pytest.raises(ValueError, match="a second stage needs START_FROM=<checkpoint.pt of"):
            dataclasses.replace(second.settings, **{missing: ""})
    with pytest.raises(ValueError, match="START_FROM=.* holds .*set the sizes that it has"):
        wider = dict(toy_paths(toy), start_from=start, teacher=written, model_dim=64)
        preln_53m.RECIPE.text(tiny_settings("preln_53m_distilled", **wider))


@pytest.mark.slow
def test_the_file_trains_packs_and_scores(toy, tmp_path, monkeypatch, capsys):
    """`PRESET=preln_53m_untied python -m baselines.preln_53m` ends with a score."""
    changes = dict(preset="preln_53m_untied")
    folder = run_small(preln_53m.RECIPE, toy, tmp_path, monkeypatch, **changes)
    assert "final val_loss:" in capsys.readouterr().out
    assert (folder / "baselines/preln_53m.py").exists()
    opened = open_model(folder)
    assert opened.recipe is preln_53m.RECIPE and not opened.model_settings["tied"]
