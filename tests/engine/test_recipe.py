"""The seam between the engine and a recipe: what a recipe gets for nothing."""

import torch

import train_gpt
from engine.recipe import RawWeights, Recipe, packed_settings
from tests.tiny_runs import CPU, tiny, tiny_model, tokens


def test_the_name_of_the_recipe_is_packed_with_the_model():
    """And nothing of the run that the model does not need."""
    saved = packed_settings(train_gpt.RECIPE, tiny())
    assert saved["recipe"] == "train_gpt" and saved["model_dim"] == 16
    assert not {"matrix_lr", "iterations", "data_path"} & set(saved)


def test_raw_weights_are_copies():
    """They stay what they were while the model moves on."""
    model = torch.nn.Linear(2, 2)
    averages = RawWeights(model)
    averages.update(1, 0.5)
    candidates = averages.candidates()
    before = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1)
    assert list(candidates) == ["raw"] and torch.equal(candidates["raw"]["weight"], before)
    averages.load_state_dict(averages.state_dict())


def test_what_a_recipe_need_not_write():
    """The model's own loss, fp32 on a CPU, no averages, no adapter."""

    class Plain(Recipe):
        name = "plain"

    recipe, model = Plain(), tiny_model()
    tokens_BT = tokens(2, 9)
    loss_fn = recipe.training_loss(model, tiny())
    assert torch.equal(loss_fn(tokens_BT, None), model.loss(tokens_BT))
    assert recipe.dtype(tiny(), torch.device("cpu")) == torch.float32
    assert list(recipe.averages(model, tiny()).candidates()) == ["raw"]
    assert recipe.adapter(model, 32, CPU) is None
