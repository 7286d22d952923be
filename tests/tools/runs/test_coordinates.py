"""The coordinate check: what it measures of a group is that group's, and growth is told."""

import pytest

from tests.tiny_runs import tiny
from tools.runs import coordinates
from tools.runs.coordinates import COLUMNS, factors, main, of_width


def test_each_group_alone_moves_the_logits():
    """With one rate at zero its group moves nothing, and the others still do."""
    measured = coordinates.coordinates(tiny(), steps=3)
    assert set(measured) == set(COLUMNS)
    assert all(value > 0 for value in measured.values())
    still = coordinates.coordinates(tiny(tied_embed_lr=0.0), steps=3)
    assert still["embedding"] == 0 < still["matrix"]
    assert measured["embedding"] > 0


def test_the_move_is_that_of_the_last_step_alone(monkeypatch):
    """A last step at a rate of zero moves nothing, whatever those before it did."""
    step = coordinates.Optimizers.step

    def at_rest_in_the_end(self, number, progress):
        if number == 2:
            for optimizer in (self.muon, self.adam):
                for group in optimizer.param_groups:
                    group["peak_lr"] = 0.0
        return step(self, number, progress)

    monkeypatch.setattr(coordinates.Optimizers, "step", at_rest_in_the_end)
    measured = coordinates.coordinates(tiny(), steps=3)
    assert measured["moved"] == 0 < measured["logits"]


def test_growth_is_that_of_a_doubling():
    """From 64 to 512 are three doublings: 8 times as much is a factor of 2."""
    table = [dict.fromkeys(COLUMNS, 1.0), dict.fromkeys(COLUMNS, 8.0)]
    assert factors([64, 512], table)["moved"] == pytest.approx(2.0)


def test_a_wider_model_has_more_heads_of_one_size():
    """Shared keys stay shared; half a head is refused."""
    wide = of_width(tiny(), 32)
    assert (wide.num_heads, wide.num_kv_heads, wide.head_dim) == (4, 2, tiny().head_dim)
    with pytest.raises(ValueError, match="width 20 must be a multiple of the head's 8"):
        of_width(tiny(), 20)


def test_the_command_prints_a_row_for_each_width(monkeypatch, capsys):
    """And the factor of a doubling below; wrong widths are status 2."""
    for name, value in {"VOCAB_SIZE": 64, "NUM_LAYERS": 2, "TRAIN_SEQ_LEN": 16}.items():
        monkeypatch.setenv(name, str(value))
    for name in ("TRAIN_BATCH_TOKENS", "MICRO_BATCH_TOKENS"):
        monkeypatch.setenv(name, "64")
    assert main(["--widths", "32,64", "--steps", "2"]) == 0
    heading, *rows, last = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in rows] == ["32", "64"] and last.startswith("doubled")
    assert main(["--widths", "64,32"]) == 2
    assert "from small to large" in capsys.readouterr().err
