"""Our recipe with a teacher: what it shares with train_gpt.py, and its loss."""

import json

import pytest
import torch
import torch.nn.functional as F

import quantize
import train_gpt
from baselines import student
from engine.open_model import open_model
from engine.settings import read_settings
from engine.trainer import read_sources
from tests.baselines.test_adamw import baseline_trainer, trainer_of
from tests.baselines.test_teachers import mixed_loss
from tests.tiny_runs import run_small, tiny_fields, toy_paths

SMOKE = train_gpt.PRESETS["smoke"]


def settings_of(recipe, toy, **changes):
    fields = {**SMOKE, **tiny_fields(recipe), **toy_paths(toy), "rope_dims": 8}
    return recipe.Settings(**{**fields, **changes})


def student_on(toy, tmp_path, monkeypatch, **changes):
    """A trainer of a small student on the toy text."""
    monkeypatch.chdir(tmp_path)
    return trainer_of(student.RECIPE, settings_of(student.RECIPE, toy, **changes))


def ours_on(toy, tmp_path, monkeypatch, **changes):
    """A trainer of the same model without a teacher."""
    monkeypatch.chdir(tmp_path)
    recipe = train_gpt.RECIPE
    return trainer_of(recipe, settings_of(recipe, toy, **changes))


@pytest.mark.parametrize("kind", ["train_gpt", "gpt2_124m"])
def test_our_model_learns_from_a_teacher(toy, tmp_path, monkeypatch, kind):
    """Its loss in training is the teacher's mix; its matrices are weighed by the text's alone."""
    if kind == "train_gpt":
        teacher = ours_on(toy, tmp_path, monkeypatch, run_id="teacher")
    else:
        teacher = baseline_trainer(toy, tmp_path, monkeypatch, kind, run_id="teacher")
    teacher.save()
    path = str(teacher.run.checkpoint_path)
    changes = dict(run_id="student", teacher=path, distill_alpha=0.25)
    trainer = student_on(toy, tmp_path, monkeypatch, **changes)
    plain = ours_on(toy, tmp_path, monkeypatch, run_id="plain")
    assert set(trainer.model.state_dict()) == set(plain.model.state_dict())
    for model in (trainer.model, plain.model):  # as sure as a trained one
        model.tok_emb.weight.data *= 50
    tokens = torch.randint(1024, (2, 33))
    expected = mixed_loss(plain.model, teacher.model.eval(), tokens, 0.25, 2.0)
    assert trainer.loss_fn(tokens, None).item() == pytest.approx(expected, rel=1e-5)
    assert trainer.model.loss(tokens).item() == pytest.approx(plain.model.loss(tokens).item())

    weights = plain.averages.candidates()["raw"]
    weighed = trainer.hessians(weights, trainer.text.holdout_T)
    of_text_alone = plain.hessians(weights, plain.text.holdout_T)
    assert weighed.keys() == of_text_alone.keys()
    for name, hessian in of_text_alone.items():
        own = weighed[name].columns_CC
        assert torch.allclose(own, hessian.columns_CC, rtol=1e-4, atol=1e-8), name


def test_a_teacher_must_fit(toy, tmp_path, monkeypatch):
    """Another vocabulary, or a shorter context, is an error before anything is made."""
    teacher = baseline_trainer(toy, tmp_path, monkeypatch, "preln_53m", run_id="teacher")
    teacher.save()
    path = str(teacher.run.checkpoint_path)
    recipe = student.RECIPE
    assert recipe.text(settings_of(recipe, toy, teacher=path)).num_blocks > 0
    with pytest.raises(ValueError, match="has 1024 tokens, VOCAB_SIZE is 512"):
        recipe.text(settings_of(recipe, toy, teacher=path, vocab_size=512))
    with pytest.raises(ValueError, match="reads 32 tokens, TRAIN_SEQ_LEN is 64; lower it"):
        recipe.text(settings_of(recipe, toy, teacher=path, train_seq_len=64))
    with pytest.raises(ValueError, match="DISTILL_TEMPERATURE=0"):
        settings_of(recipe, toy, distill_temperature=0)
    ours = ours_on(toy, tmp_path, monkeypatch, run_id="ours")
    ours.save()
    path = str(ours.run.checkpoint_path)
    with pytest.raises(ValueError, match="reads 32 tokens, TRAIN_SEQ_LEN is 64; lower it"):
        recipe.text(settings_of(recipe, toy, teacher=path, train_seq_len=64))


def test_our_model_learns_what_a_teacher_wrote(toy, tmp_path, monkeypatch):
    """Rows are the lines of TEACHER, and the loss is the mean over what is scored of them."""
    path = tmp_path / "teacher.jsonl"
    path.write_text(json.dumps({"prompt": [5, 6], "continuation": [7, 8, 9]}) + "\n")
    trainer = student_on(toy, tmp_path, monkeypatch, teacher=str(path), distill_alpha=1.0)
    (rows,) = trainer.batches.get(0)
    assert len(rows.tokens_BT) == 8
    assert rows.tokens_BT[3, :6].tolist() == [5, 6, 7, 8, 9, 0]
    with torch.no_grad():
        logits_SV = trainer.model(torch.tensor([[5, 6, 7, 8]]))[0, 1:]
        expected = F.cross_entropy(logits_SV, torch.tensor([7, 8, 9])).item()
        nats = trainer.loss_fn(rows.tokens_BT, rows.weights_BT).item()
    assert nats / trainer.settings.train_batch_tokens == pytest.approx(expected)


def test_a_student_is_of_train_gpt_but_for_its_teacher():
    """TEACHER is read from the environment; presets, cap, model and packing are train_gpt's."""
    environ = {"TEACHER": "a.jsonl", "PRESET": "smoke", "MUON_WD": "0.5"}
    choice = read_settings(student.RECIPE, environ, False)
    settings = choice.settings
    assert (settings.teacher, settings.muon_wd, choice.preset) == ("a.jsonl", 0.5, "smoke")
    assert choice.overrides == {"teacher": "a.jsonl", "muon_wd": 0.5}
    ours = type(train_gpt.RECIPE)
    theirs = type(student.RECIPE)
    for name in ("presets", "cap_bytes", "model", "model_settings", "optimizer", "averages"):
        assert getattr(theirs, name) is getattr(ours, name), name
    assert theirs.pack is ours.pack and theirs.adapter is ours.adapter
    assert set(read_sources(train_gpt.RECIPE)) < set(read_sources(student.RECIPE))


def test_the_file_trains_packs_and_scores(toy, tmp_path, monkeypatch, capsys):
    """`python -m baselines.student` ends with a score from packed bytes, under its own name."""
    path = tmp_path / "teacher.jsonl"
    path.write_text(json.dumps({"prompt": [5, 6], "continuation": [7, 8, 9]}) + "\n")
    sizes = dict(rope_dims=8, teacher=path, max_wallclock_seconds=0)
    folder = run_small(student.RECIPE, toy, tmp_path, monkeypatch, preset="smoke", **sizes)
    assert "final val_loss:" in capsys.readouterr().out
    assert (folder / "baselines/student.py").exists()
    opened = open_model(folder)
    assert opened.recipe is student.RECIPE
    _, saved = quantize.decode((folder / "artifact.pgz").read_bytes())
    assert saved["recipe"] == "baselines.student"
