"""How a model learns from a document while it is scored: low-rank matrices of the document's own.

    adapter = LowRank(model, ("mlp.fc", "mlp.proj"))
    score = evaluate.score_documents(model, adapter, tokens_T, table, scheme)

A layer y = W x of width 512 becomes y = W x + B (A x) with A of 8 x 512 and B of 512 x 8. A is
the same random matrix in every document, B begins at zero: before the first step the model is as
it was. Nothing is shared but A's first values, so no document learns from another.

Shapes: N documents side by side (rows), T tokens, I inputs and O outputs of a layer, K rank.
"""

import math

import torch
from torch import Tensor, nn

SMALL = 1e-8  # keeps a step finite where no gradient ever came


class LowRank:
    """An evaluate.DocumentAdapter: LoRA (arXiv 2106.09685), one for each row of a batch.

    After each chunk every number takes one step against its gradient, of size `rate` times the
    gradient over its root mean square so far (Adam without momentum): each document has seen too
    little for a rate of its own.

    The first chunks are short, as most of a document's own words are met early, and short documents
    are over soon: targets 0 to 256 in chunks of `first_chunk`, the others in chunks of `chunk`.
    Raises: ValueError for names that no layer of the model ends in.
    """

    def __init__(
        self,
        model: nn.Module,
        names: tuple[str, ...],
        *,
        rank: int = 8,
        rate: float = 0.005,
        chunk: int = 32,
        rows: int = 32,
        decay: float = 0.99,
    ):
        self.layers = [layer for name, layer in model.named_modules() if name.endswith(names)]
        if not self.layers:
            raise ValueError(f"names={names} end no layer of the model; name some of its matrices")
        self.rows = rows
        self.chunk = chunk
        self.rate = rate
        self.decay = decay
        # Drawn on the CPU: the same start on every device, and in every document.
        rng = torch.Generator().manual_seed(0)
        self.first_down_IK = []
        for layer in self.layers:
            inputs = layer.weight.size(1)
            drawn_IK = torch.randn(inputs, rank, generator=rng) / math.sqrt(inputs)
            self.first_down_IK.append(drawn_IK.to(layer.weight.device))
        self.hooks = []
        self.reset(0)

    def chunk_tokens(self, position: int) -> int:
        """Targets between two steps."""
        return self.chunk

    def reset(self, rows: int) -> None:
        """Fresh matrices for so many documents; 0: none, and the model is as it was."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        self.down_NIK = [drawn.expand(rows, -1, -1).clone() for drawn in self.first_down_IK]
        self.up_NKO = []
        for layer, down_NIK in zip(self.layers, self.down_NIK, strict=True):
            self.up_NKO.append(down_NIK.new_zeros(rows, down_NIK.size(2), layer.weight.size(0)))
        self.weights = [weight.requires_grad_() for weight in self.down_NIK + self.up_NKO]
        self.squares = [torch.zeros_like(weight) for weight in self.weights]
        self.steps = 0
        if rows:
            for number, layer in enumerate(self.layers):
                self.hooks.append(layer.register_forward_hook(self.hook(number)))

    def hook(self, number: int):
        """What adds its part to the output of layer `number`."""

        def add_part(layer: nn.Module, inputs: tuple[Tensor], output_NTO: Tensor) -> Tensor:
            (input_NTI,) = inputs
            rows = len(input_NTI)  # documents that have ended are no longer there
            down_NIK = self.down_NIK[number][:rows].to(input_NTI.dtype)
            up_NKO = self.up_NKO[number][:rows].to(input_NTI.dtype)
            return output_NTO + input_NTI @ down_NIK @ up_NKO

        return add_part

    def learn(self, loss_B: Tensor) -> None:
        """One step of every document's own matrices; rows beyond those of loss_B stay."""
        # The sum has for each row the gradient of that row's own loss: no other depends on it.
        grads = torch.autograd.grad(loss_B.sum(), self.weights)
        rows = len(loss_B)
        self.steps += 1
        warm = 1 - self.decay**self.steps  # the mean of squares begins at zero
        with torch.no_grad():
            for weight, square, grad in zip(self.weights, self.squares, grads, strict=True):
                square.lerp_(grad.square(), 1 - self.decay)
                size = (square / warm).sqrt() + SMALL
                weight[:rows] -= self.rate * (grad / size)[:rows]
