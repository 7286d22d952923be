"""The baselines by name, and how they train."""

import dataclasses

import pytest

from baselines import d12, train

SMALL = d12.Config(vocab_size=61, num_layers=2, model_dim=48, num_heads=4, num_kv_heads=2)


def test_settings_of_another_shape_are_refused():
    """`build` names what does not match, and a system that is none."""
    settings = train.model_settings("gelu_d12", SMALL)
    with pytest.raises(ValueError, match="system=None must be one of gelu_d12, yat_d12"):
        train.build(dataclasses.asdict(SMALL))
    with pytest.raises(ValueError, match=r"settings \['width'\] do not match those of gelu_d12"):
        train.build({**settings, "width": 3})
