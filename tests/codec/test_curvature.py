"""What errors cost: sums over uses, parts of parameters, and the loss that they foresee."""

import pytest
import torch
import torch.nn.functional as F

from codec.curvature import ROW_SHRINKAGE, UNSEEN_USES, Curvature
from tests.codec.test_gptq import gaussian


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(6, 4)
        self.map = torch.nn.Linear(4, 4, bias=False)

    def logits(self, tokens):
        x = self.emb(tokens)
        x = self.map(self.map(x))  # one matrix, used twice
        return F.linear(x, self.emb.weight.to(torch.float32, copy=True))

    def loss(self, tokens):
        return F.cross_entropy(self.logits(tokens), (tokens + 1) % 6, reduction="sum")


def curvature_of(model, batches):
    with Curvature(model.named_parameters()) as curvature:
        for tokens in batches:
            model.loss(tokens).backward()
    return curvature.hessians(sum(map(len, batches)))


def test_curvature_adds_up_over_uses_and_batches():
    """A matrix has Σ |g|² xxᵀ and each row's Σ g²; a table Σ ggᵀ and each row's share of uses."""
    torch.manual_seed(0)
    model, tokens = Tied(), torch.tensor([0, 1, 1, 5, 2])
    hessians = curvature_of(model, [tokens[:2], tokens[2:]])
    x0 = model.emb(tokens)
    x1 = model.map(x0)
    x2 = model.map(x1)
    logits = x2 @ model.emb.weight.T
    loss = F.cross_entropy(logits, (tokens + 1) % 6, reduction="sum")
    g0, g1, g2, g_logits = torch.autograd.grad(loss, (x0, x1, x2, logits))
    assert hessians.keys() == {"map.weight", "emb.weight"}

    def drawn_to_mean(x):
        return ROW_SHRINKAGE * x.mean() + (1 - ROW_SHRINKAGE) * x

    def by_power(x, g):
        return (x * g.square().sum(dim=1, keepdim=True)).T @ x / 5

    of_rows = drawn_to_mean((g1.square() + g2.square()).sum(dim=0)) / 5
    map_CC = (by_power(x0, g1) + by_power(x1, g2)) / 4
    assert torch.allclose(hessians["map.weight"].columns_CC, map_CC, atol=1e-6)
    assert torch.allclose(hessians["map.weight"].rows_R, of_rows / of_rows.mean())

    head_R = drawn_to_mean(g_logits.square().sum(dim=0)) / 5
    head_CC = by_power(x2, g_logits) / head_R.sum()
    table_CC = g0.T @ g0 / 5
    counts_R = torch.tensor([1.0, 2, 1, 0, 0, 1])
    table_R = (counts_R + UNSEEN_USES) / (counts_R + UNSEEN_USES).sum()
    both_CC = head_CC * head_R.mean() + table_CC / 6
    trace_R = head_R * head_CC.trace() + table_R * table_CC.trace()
    assert torch.allclose(hessians["emb.weight"].columns_CC, both_CC, atol=1e-6)
    assert torch.allclose(hessians["emb.weight"].rows_R, trace_R / trace_R.mean())


class Padded(torch.nn.Module):
    """A table with more rows than there are tokens, and a matrix whose halves have two inputs."""

    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(9, 4)
        self.both = torch.nn.Parameter(torch.randn(4, 8))

    def logits(self, tokens):
        x = F.embedding(tokens, self.emb.weight[:6])
        x = F.linear(x, self.both[:, :4]) + F.linear(x * x, self.both[:, 4:])
        return F.linear(x, self.emb.weight[:6].to(torch.float32, copy=True))

    def loss(self, tokens):
        return F.cross_entropy(self.logits(tokens), (tokens + 1) % 6, reduction="sum")


def test_parts_of_a_parameter_count_for_themselves():
    """Rows that no part covers weigh nothing, and columns of two parts have no products."""
    torch.manual_seed(0)
    hessians = curvature_of(Padded().float(), [torch.tensor([0, 1, 1, 5, 2])])
    assert (hessians["emb.weight"].rows_R[:6] > 0).all()
    assert not hessians["emb.weight"].rows_R[6:].any()
    both_CC = hessians["both"].columns_CC
    assert both_CC[:4, :4].any() and both_CC[4:, 4:].any()
    assert not both_CC[:4, 4:].any() and not both_CC[4:, :4].any()


def test_a_row_of_a_table_weighs_as_often_as_it_is_looked_up():
    """Seven times against once, each with UNSEEN_USES more; a row never seen has these alone."""
    table = torch.nn.Embedding(3, 2)
    with Curvature(table.named_parameters()) as curvature:
        table(torch.tensor([0] * 7 + [1])).sum().backward()
    rows_R = curvature.hessians(8)["weight"].rows_R
    expected = torch.tensor([7.0, 1, 0]) + UNSEEN_USES
    assert torch.allclose(rows_R, expected / expected.mean())


def test_curvature_keeps_the_last_copy_alone():
    """Copies in lower precision do not pile up over batches."""
    model = Tied()
    with Curvature(model.named_parameters()) as curvature:
        for _ in range(5):
            model.loss(torch.arange(6)).backward()
    assert len(curvature.stored) == len(list(model.parameters())) + 1


def test_a_copy_that_is_none_leaves_the_parameter_known():
    """A parameter already of the precision asked for is its own copy; a later one is another."""
    model = Tied()
    with Curvature(model.named_parameters()) as curvature:
        model.emb.weight.to(torch.float32)
        model.loss(torch.arange(6)).backward()
        model.loss(torch.arange(6)).backward()
    uses = [use for (place, *_), use in curvature.uses.items() if place[0] == "emb.weight"]
    assert sum(float(use.looked_up_R.sum()) for use in uses) == 12


def test_curvature_foresees_the_loss():
    """Where a model is right about its own errors, half of e H eᵀ is what random errors e add."""
    rng = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(8, 5, bias=False)
    x_TC = torch.randn(4000, 8, generator=rng) * torch.tensor([1.0] * 4 + [0.1] * 4)
    targets_T = torch.distributions.Categorical(logits=model(x_TC)).sample().detach()

    def loss(weight_RC):
        return F.cross_entropy(F.linear(x_TC, weight_RC), targets_T, reduction="sum")

    for _ in range(30):  # to the optimum on these targets: no slope is left
        gradient = torch.autograd.grad(loss(model.weight), model.weight)[0]
        model.weight.data -= 1e-3 * gradient
    with Curvature(model.named_parameters()) as curvature:
        F.cross_entropy(model(x_TC), targets_T, reduction="sum").backward()
    H = curvature.hessians(4000)["weight"]
    added, foreseen = 0.0, 0.0
    for seed in range(20):
        e = 0.1 * gaussian(5, 8, seed=seed)
        added += (loss(model.weight + e) - loss(model.weight)).item() / 4000
        foreseen += float((((e @ H.columns_CC) * e).sum(dim=1) * H.rows_R).sum()) / 2
    assert added == pytest.approx(foreseen, rel=0.35)
