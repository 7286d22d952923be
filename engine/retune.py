"""Train what stands beside the points of an artifact, so that it suits the rounded matrices.

Packing moves every weight of the matrices, while gains, scales and gates still suit the weights as
they were. They can go on training at no byte, and with them one factor a matrix, on its base step:
no point changes. The matrix is its rounded values times the factor, whose gradient is thus the sum
of the matrix's gradient times those values.
"""

import math

import torch
from torch import Tensor, nn

import quantize

# A hundred steps of 2,048 tokens won back 8.7 % of what packing lost with these rates, 6.7 % with
# 0.005 and 0.003, 7.7 % with 0.02 for both, 6.5 % with 0.05 and 0.005 (n = 1 each). Distillation
# from the unpacked model took a third more and did as well: 7.2 % where the loss itself had 6.7 %.
RATE = 0.015
FACTOR_RATE = 0.005


class Retuning:
    """The Optimizer (engine/recipe.py) of all but the points: Adam, at a rate that falls to 0.

    Making one gives the model the weights of the artifact.
    """

    remedy = "set RETUNE_FRAC=0"

    @torch.no_grad()
    def __init__(self, model: nn.Module, blob: bytes):
        self.blob = blob
        self.tensors = dict(model.named_parameters())
        self.params = list(self.tensors.values())
        weights, _ = quantize.decode(blob)
        _, entries, _ = quantize.read_header(blob)
        trained = []
        self.rounded = {}  # the matrices of points, and the factors of their base steps
        self.factors = {}
        for entry in entries:
            p = self.tensors[entry.name]
            p.copy_(weights[entry.name])
            if entry.bits == quantize.FP16_BITS:
                trained.append(p)
            elif entry.bits == quantize.POINT_BITS:
                self.rounded[entry.name] = p.clone()
                self.factors[entry.name] = torch.ones((), device=p.device)
        groups = [
            dict(params=trained, peak_lr=RATE),
            dict(params=list(self.factors.values()), peak_lr=FACTOR_RATE),
        ]
        self.adam = torch.optim.Adam(groups, lr=0.0, betas=(0.9, 0.95))

    @torch.no_grad()
    def step(self, step: int, progress: float) -> Tensor:
        """Update, clear the gradients; returns the norm of those of the small tensors."""
        for name, factor in self.factors.items():
            factor.grad = (self.tensors[name].grad * self.rounded[name]).sum()
        self.scale = 1 - progress
        for group in self.adam.param_groups:
            group["lr"] = group["peak_lr"] * self.scale
        small = self.adam.param_groups[0]["params"]
        grad_norm = nn.utils.clip_grad_norm_(small, math.inf)
        self.adam.step()
        for p in self.params:
            p.grad = None
        for name, factor in self.factors.items():
            self.tensors[name].copy_(factor * self.rounded[name])
        return grad_norm

    def artifact(self) -> bytes:
        """The same points, with what was trained beside them."""
        factors = {name: factor.item() for name, factor in self.factors.items()}
        return quantize.beside_points(self.blob, self.tensors, factors)
