"""The baselines by name: which file and which shape each of them is."""

import dataclasses

import torch
from torch import Tensor, nn

from baselines import d12, gpt2, preln

# Every system, by the name its settings carry, and the file that holds its model.
FILES = {name: module for module in (d12, gpt2, preln) for name in module.CONFIGS}


def model_settings(system: str, config) -> dict:
    """What `build` needs to make the model again: the system's name and its shape."""
    return {"system": system, **dataclasses.asdict(config)}


def build(settings: dict, compute_dtype=torch.float32, device="cpu") -> nn.Module:
    """The model that settings describe, its weights not yet set.

    Raises: ValueError for settings that are not those of a baseline.
    """
    shape = dict(settings)
    system = shape.pop("system", None)
    if system not in FILES:
        raise ValueError(f"system={system!r} must be one of {', '.join(FILES)}")
    module = FILES[system]
    known = {field.name for field in dataclasses.fields(module.Config)}
    if set(shape) != known:
        raise ValueError(f"settings {sorted(set(shape) ^ known)} do not match those of {system}")
    with torch.device(device):
        return module.GPT(module.Config(**shape), compute_dtype)


def load(settings: dict, weights: dict[str, Tensor], device="cpu") -> nn.Module:
    """The model with its weights, in eval mode."""
    model = build(settings)
    model.load_state_dict(weights)
    return model.to(device).eval()
