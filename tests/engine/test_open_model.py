"""Any model opened: artifacts, checkpoints, run folders, older files, and what is refused."""

import dataclasses
import json

import pytest
import torch

import quantize
import train_gpt
from baselines import pr334
from engine.open_model import find_recipe, open_model, recipe_name
from engine.recipe import packed_settings
from tests.tiny_runs import TINY, tiny, tiny_model, tokens

PR334_SHAPE = {field.name for field in dataclasses.fields(pr334.Shape)}


def write_artifact(folder, settings):
    weights = tiny_model().state_dict()
    blob = quantize.encode(weights, quantize.int8_plan(weights), settings)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "artifact.pgz").write_bytes(blob)
    return folder / "artifact.pgz"


def own_settings():
    return packed_settings(train_gpt.RECIPE, tiny())


def logits_of(opened):
    with torch.no_grad():
        return opened.model(tokens(1, 8))


def test_an_artifact_a_folder_and_a_checkpoint_open_alike(tmp_path):
    """The model is that of the recipe that the file names, ready to score."""
    artifact = write_artifact(tmp_path, own_settings())
    (tmp_path / "settings.json").write_text(json.dumps({"eval_stride": 7}))
    opened = open_model(artifact)
    assert opened.recipe is train_gpt.RECIPE and opened.seq_len == 32
    assert opened.run_settings == {"eval_stride": 7} and not opened.model.training
    assert torch.equal(logits_of(open_model(tmp_path)), logits_of(opened))
    weights, _ = quantize.decode(artifact.read_bytes())
    checkpoint = {"model": weights, "exported": "raw", "model_settings": own_settings()}
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    assert torch.equal(logits_of(open_model(tmp_path / "checkpoint.pt")), logits_of(opened))
    artifact.unlink()
    assert open_model(tmp_path).path.name == "checkpoint.pt"


@pytest.mark.parametrize("name", [None, "train_gpt", "baselines.pr334"])
def test_an_artifact_of_the_first_model_opens(tmp_path, name):
    """train_gpt.py trained pull request 334's model at first, and its files named no recipe yet."""
    shape = {name: value for name, value in TINY.items() if name in PR334_SHAPE}
    shape |= {"bigram_vocab_size": 64, "bigram_dim": 8}
    settings = dataclasses.asdict(pr334.Shape(**shape))
    model = pr334.RECIPE.model(settings, torch.float32).init_weights(0)
    saved = settings if name is None else {"recipe": name, **settings}
    blob = quantize.encode(model.state_dict(), quantize.DEFAULT_PLAN, saved)
    (tmp_path / "artifact.pgz").write_bytes(blob)
    opened = open_model(tmp_path)
    assert opened.recipe.name == "baselines.pr334"
    assert logits_of(opened).isfinite().all()


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"recipe": "os"}, "'os' must be train_gpt or baselines.NAME"),
        ({"recipe": "baselines.none"}, "'baselines.none' does not exist here"),
        ({"recipe": "baselines.adamw"}, "'baselines.adamw' is not a recipe"),
        ({"num_layers": 10**8}, "NUM_LAYERS=100000000 must be at most 1000"),
        ({"train_seq_len": 2**40}, "TRAIN_SEQ_LEN=1099511627776 must be at most"),
        ({"model_dim": "16"}, "does not fit this version"),
        ({"model_dim": 32}, "does not fit this version"),
        ({"extra": 1}, r"\['extra'\] do not match"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path, changes, message):
    """Before a model of that size is built, and without importing what is not ours."""
    with pytest.raises(ValueError, match=message):
        open_model(write_artifact(tmp_path, own_settings() | changes))


def test_files_that_hold_no_model_are_named(tmp_path):
    """Missing, damaged, of no recipe, or beside damaged settings."""
    with pytest.raises(FileNotFoundError, match="checkpoint.pt is missing; give a run's folder"):
        open_model(tmp_path)
    artifact = write_artifact(tmp_path, own_settings())
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(ValueError, match="settings.json is damaged"):
        open_model(artifact)
    artifact.write_bytes(artifact.read_bytes()[:-1])
    with pytest.raises(quantize.ArtifactError, match="truncated"):
        open_model(artifact)
    with pytest.raises(ValueError, match="its settings name no recipe"):
        recipe_name({})
    with pytest.raises(ValueError, match="system 'x' is not one of"):
        recipe_name({"system": "x"})


def test_only_recipes_of_this_project_are_found():
    """By the name of the module; names that lead elsewhere are refused."""
    assert find_recipe("train_gpt") is train_gpt.RECIPE
    for name in ("evaluate", "baselines/../os", "baselines.pr334.os", "", "baselines.Pr334"):
        with pytest.raises(ValueError, match="must be train_gpt or baselines.NAME"):
            find_recipe(name)
