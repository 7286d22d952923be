"""What a document repeats: counted as by hand, from the tokens before alone, never across a BOS."""

import math

import numpy as np
import pytest

from engine import repeats
from engine.repeats import BUCKETS, Repeats

BOS = 1


def by_hand(tokens_T) -> list[tuple[int, float]]:
    """Cell and share of every target, from dictionaries that grow target by target."""
    rows = []
    counts = {}
    inputs = []
    for token, target in zip(tokens_T[:-1], tokens_T[1:], strict=True):
        if token == BOS:
            counts = {}
            inputs = []
        inputs.append(token)
        row = (0, 0.0)
        for length in (1, 2):
            if len(inputs) < length:
                continue
            followers = counts.setdefault(tuple(inputs[-length:]), {})
            seen = sum(followers.values())
            if seen:
                bucket = min(BUCKETS - 1, int(math.log2(seen)))
                row = (1 + BUCKETS * (length - 1) + bucket, followers.get(target, 0) / seen)
            followers[target] = followers.get(target, 0) + 1
        rows.append(row)
    return rows


def text(length: int, seed: int = 0, vocab: int = 6) -> np.ndarray:
    """Documents of a few distinct tokens, so that much is repeated; consecutive BOS too."""
    rng = np.random.default_rng(seed)
    tokens_T = rng.integers(2, vocab, length).astype(np.uint16)
    tokens_T[rng.random(length) < 0.04] = BOS
    return tokens_T


@pytest.mark.parametrize("at_once", [1, 50, 1 << 20])
@pytest.mark.parametrize("length", [2, 3, 400])
def test_counts_are_those_of_a_loop(length, at_once, monkeypatch):
    """Whatever is sorted in one go, and where the stream does not begin with BOS too."""
    monkeypatch.setattr(repeats, "TARGETS_AT_ONCE", at_once)
    for seed in range(3):
        tokens_T = text(length, seed)
        counted = Repeats.of(tokens_T, BOS)
        expected = by_hand(tokens_T.tolist())
        assert counted.cell_S.tolist() == [cell for cell, _ in expected]
        np.testing.assert_allclose(counted.share_S, [share for _, share in expected], rtol=1e-6)


def test_the_example_of_the_docstring():
    """After a b c a b d a b, c and d have a half each."""
    a, b, c, d = 2, 3, 4, 5
    for target, share in ((c, 0.5), (d, 0.5), (a, 0.0)):
        counted = Repeats.of(np.array([BOS, a, b, c, a, b, d, a, b, target]), BOS)
        assert counted.share_S[-1] == share
        assert counted.cell_S[-1] == 1 + BUCKETS + 1


def test_a_mixture_adds_up_to_one():
    """Over every id in the target's place; nothing before the target moves with it."""
    tokens_T = text(60, seed=4)
    weights = np.linspace(0.1, 0.8, 8)
    p_V = np.full(6, 1 / 6)
    before = Repeats.of(tokens_T, BOS)
    for at in (5, 30, 58):
        total = 0.0
        for token in range(6):
            changed_T = tokens_T.copy()
            changed_T[at + 1] = token
            changed = Repeats.of(changed_T, BOS)
            factor_S, added_S = changed.mixture(weights)
            total += factor_S[at] * p_V[token] + added_S[at]
            assert changed.cell_S[: at + 1].tolist() == before.cell_S[: at + 1].tolist()
            assert changed.share_S[:at].tolist() == before.share_S[:at].tolist()
        assert total == pytest.approx(1.0, abs=1e-6)


def test_no_document_knows_another():
    """The repeats of a document are those it has alone."""
    tokens_T = text(300, seed=5)
    together = Repeats.of(tokens_T, BOS)
    starts = np.flatnonzero(tokens_T[:-1] == BOS)
    for begin, end in zip(starts, [*starts[1:], len(tokens_T) - 1], strict=True):
        alone = Repeats.of(tokens_T[begin : end + 1], BOS)
        assert together.cell_S[begin:end].tolist() == alone.cell_S.tolist()
        assert together.share_S[begin:end].tolist() == alone.share_S.tolist()


def test_weights_are_the_likeliest():
    """Moving any weight makes targets and prior less likely together."""
    tokens_T = text(3000, seed=6)
    tokens_T[1000:2000] = np.tile([2, 3, 4, 5, 3], 200)
    counted = Repeats.of(tokens_T, BOS)
    nats_S = np.random.default_rng(0).uniform(0.5, 3.0, len(tokens_T) - 1)

    def nats(weights):
        factor_S, added_S = counted.mixture(weights)
        seen = np.log(weights).sum() + 9 * np.log1p(-np.array(weights)).sum()
        return -np.log(factor_S * np.exp(-nats_S) + added_S).sum() - seen

    weights = counted.fit(nats_S)
    assert len(weights) == 8
    assert nats(weights) < nats([0.01] * 8)
    for number, weight in enumerate(weights):
        for other in (0.9 * weight, 0.1 + 0.9 * weight):
            moved = [*weights[:number], other, *weights[number + 1 :]]
            assert nats(weights) < nats(moved)
