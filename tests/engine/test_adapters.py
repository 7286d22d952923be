"""Low-rank adapters: each document's own, learned as by hand, gone when it ends."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from engine.adapters import LowRank
from engine.memory import Memory
from tests.engine.test_memory import VOCAB, Remembering

NAMES = ("fc", "v")


def losses(model, tokens_BT, memory):
    """The mean nats of each row's targets; the graph is kept."""
    input_BT = tokens_BT[:, :-1]
    logits = model.logits_at(input_BT, torch.arange(input_BT.numel()), memory)
    nats = F.cross_entropy(logits, tokens_BT[:, 1:].flatten(), reduction="none")
    return nats.view(input_BT.shape).mean(dim=1)


def text(rows: int, length: int, seed: int = 0):
    return torch.randint(VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_fresh_adapters_change_nothing_and_leave_nothing():
    """Before the first step, and after reset(0), the model's logits are the bare model's."""
    model = Remembering()
    tokens_BT = text(2, 9)
    bare = losses(model, tokens_BT, Memory(5))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapter = LowRank(model, NAMES, rank=2)
    adapter.reset(2)
    fresh = losses(model, tokens_BT, Memory(5))
    assert fresh.equal(bare)
    adapter.learn(fresh)
    assert (losses(model, tokens_BT, Memory(5)) < bare).all()
    adapter.reset(0)
    assert losses(model, tokens_BT, Memory(5)).equal(bare)
    assert all(weight.equal(before[name]) for name, weight in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_document_learns_as_if_it_were_alone():
    """Beside another document or by itself, the same losses; documents that ended stay out."""
    model = Remembering()
    tokens_BT = text(2, 13)
    adapter = LowRank(model, NAMES, rank=2, rate=0.05)
    together = []
    adapter.reset(2)
    memory = Memory(5)
    for first, rows in ((0, 2), (4, 2), (8, 1)):
        part_BT = tokens_BT[:rows, first : first + 5]
        loss_B = losses(model, part_BT, memory)
        together.append(loss_B[0].item())
        adapter.learn(loss_B)
    alone = []
    adapter.reset(1)
    memory = Memory(5)
    for first in (0, 4, 8):
        loss_B = losses(model, tokens_BT[:1, first : first + 5], memory)
        alone.append(loss_B[0].item())
        adapter.learn(loss_B)
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_steps_are_those_of_adam_without_momentum():
    """Two steps move the matrices as torch's Adam with betas (0, 0.99) moves a full-size twin."""
    model = Remembering()
    adapter = LowRank(model, ("fc",), rank=3, rate=0.02)
    adapter.reset(1)
    twins = [weight.detach().clone().requires_grad_() for weight in adapter.weights]
    optimizer = torch.optim.Adam(twins, lr=0.02, betas=(0.0, 0.99), eps=1e-8)
    tokens_BT = text(1, 9)
    for _ in range(2):
        loss_B = losses(model, tokens_BT, Memory(5))
        grads = torch.autograd.grad(loss_B.sum(), adapter.weights, retain_graph=True)
        for twin, grad in zip(twins, grads, strict=True):
            twin.grad = grad.clone()
        optimizer.step()
        adapter.learn(loss_B)
    for weight, twin in zip(adapter.weights, twins, strict=True):
        torch.testing.assert_close(weight, twin)


def test_every_chosen_matrix_is_adapted():
    """Names choose by their ends: all layers, and both matrices of each."""
    model = Remembering()
    assert len(LowRank(model, NAMES).layers) == 4
    assert len(LowRank(model, ("layers.1.fc",)).layers) == 1
    with pytest.raises(ValueError, match="end no layer of the model; name some of its matrices"):
        LowRank(model, ("mlp",))
