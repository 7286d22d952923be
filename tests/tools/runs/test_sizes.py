"""Sizes: the rule adds up, and the presets are where it has them."""

import pytest

from tools.runs import sizes
from train_gpt import GATE_WINDOW, PRESETS, RECIPE, Settings


@pytest.mark.parametrize("preset, gpus", [("record", 8), ("h100_10min", 1)])
def test_a_preset_is_as_good_as_its_neighbours_by_the_rule(preset, gpus):
    """Within what the rule can tell apart, of all that are as deep and wide."""
    settings = Settings(**PRESETS[preset])
    shapes = sizes.neighbours(settings)
    best = min(sizes.foreseen(shape, "H100", gpus)["nats"] for shape in shapes)
    assert sizes.foreseen(settings, "H100", gpus)["nats"] < best + 0.03


def test_the_rule_adds_up():
    """Products are the weights of all matrices, gates and the head; tables count for bits alone."""
    settings = Settings(**PRESETS["record"])
    result = sizes.foreseen(settings, "H100", 8)
    model = RECIPE.model(RECIPE.model_settings(settings), None)
    groups = model.param_groups()
    matrices = sum(p.numel() for p in groups["matrix"] + groups["embedding"])
    products = matrices + GATE_WINDOW * (1 + 11 * 8)
    assert result["products"] == products
    terms = 406.4 / products**0.34 + 410.7 / result["tokens"] ** 0.28 + result["packing_nats"]
    assert result["nats"] == pytest.approx(terms)


def test_the_command_prints_the_best_shapes_and_the_one_that_is_set(monkeypatch, capsys):
    """Best first, its own last; a device that is unknown is status 2."""
    monkeypatch.setattr(sizes, "LAYERS", (8, 11))
    monkeypatch.setattr(sizes, "WIDTHS", (512,))
    monkeypatch.setenv("PRESET", "h100_10min")
    assert sizes.main([]) == 0
    *table, heading, own = capsys.readouterr().out.splitlines()
    assert heading == "as set:" and own in table and len(table) == 4
    nats = [float(line.split()[0]) for line in table]
    assert nats == sorted(nats)
    assert sizes.main(["--device", "X"]) == 2
    assert "must name one of" in capsys.readouterr().err
