"""Test-time training by SGD on the chunks of a stream, as pull request #334 and its kin do it.

    adapt_fn = sgd_adapter(model, seq_len=1024)
    score = evaluate.score_first(model, adapt_fn, tokens_T, table, scheme)

Three steps on each chunk of 32,768 targets once it is scored: about 25 forward passes a target with
windows of stride 64. Ours is engine/adapters.py.

Shapes: T tokens, R training rows.
"""

import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

import evaluate
from engine.ranks import Ranks


def sgd_adapter(
    model,
    *,
    seq_len: int,
    ranks: Ranks | None = None,
    lr: float = 0.002,
    momentum: float = 0.9,
    epochs: int = 3,
    freeze_blocks: int = 2,
) -> evaluate.AdaptFunction:
    """Return an adapt_fn that trains the model in place: its weights are changed for good.

    An epoch is one step on the chunk's mean loss, in rows of seq_len (the last may be short). The
    rate falls by half a cosine over the chunks, momentum carries over. All but the first blocks is
    trained, the embedding too. Ranks share the rows and add up their gradients, so that they agree
    with one rank but for rounding. Modes and flags of the model stay as they are.
    Source: upstream PR #549.
    Raises: ValueError when there are no parameters blocks.N.* to freeze.
    """
    ranks = Ranks() if ranks is None else ranks
    named = dict(model.named_parameters())
    frozen = tuple(f"blocks.{i}." for i in range(freeze_blocks))
    trained = [p for name, p in named.items() if not name.startswith(frozen)]
    has_frozen = len(trained) < len(named)
    if frozen and not has_frozen:
        raise ValueError(f"{freeze_blocks=} finds no parameters blocks.N.*; set it to 0")
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum)

    def adapt(chunk_tokens_T: Tensor, chunk_index: int, num_chunks: int) -> None:
        num_targets = len(chunk_tokens_T) - 1
        width = min(seq_len, num_targets)
        # Filling has target -100, which cross_entropy leaves out.
        filling = (0, -num_targets % (width * ranks.world_size))  # no rank is left without a row
        input_RT = F.pad(chunk_tokens_T[:-1], filling).view(-1, width)
        target_RT = F.pad(chunk_tokens_T[1:], filling, value=-100).view(-1, width)
        own_rows = slice(ranks.rank, None, ranks.world_size)
        angle = math.pi * chunk_index / max(1, num_chunks - 1)
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(angle)) / 2
        for _ in range(epochs):
            with torch.enable_grad():
                logits = model(input_RT[own_rows]).float().flatten(0, 1)
                targets = target_RT[own_rows].flatten()
                nats = F.cross_entropy(logits, targets, reduction="sum")
                (nats / num_targets).backward(inputs=trained)
            if ranks.world_size > 1:
                for parameter in trained:
                    dist.all_reduce(parameter.grad)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return adapt
