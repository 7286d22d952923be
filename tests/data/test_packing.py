"""Packing: whole documents, full shards, and the same plan however documents arrive."""

import numpy as np
import pytest

from data.packing import plan_pieces


def shards_of(lengths: list[int], limit: int, room: int | None = None) -> list[list[int]]:
    """Lengths of the pieces in each shard."""
    shards: list[list[int]] = [[]]
    for piece in plan_pieces(np.array(lengths, np.int64), room or limit, limit):
        if piece.opens:
            shards.append([])
        shards[-1].append(piece.end - piece.begin)
    return shards


def test_the_example():
    """That of the docstring, where whole documents are one piece."""
    assert shards_of([4, 4, 4, 25, 3], 10) == [[8], [4], [10], [10], [5, 3]]
    pieces = plan_pieces(np.array([4, 4, 4, 25, 3]), 10, 10)
    assert [piece.continues for piece in pieces] == [False, False, False, True, True, False]
    assert sum(piece.last - piece.first for piece in pieces) == 5


def test_a_begun_shard_is_filled_first():
    """What does not fit closes it, and no shard is opened for nothing."""
    assert shards_of([3, 3], 10, room=4) == [[3], [3]]
    assert shards_of([5], 10, room=4) == [[], [5]]
    assert shards_of([10, 20, 10], 10) == [[10], [10], [10], [10]]
    assert plan_pieces(np.zeros(0, np.int64), 10, 10) == []


@pytest.mark.parametrize("seed", range(5))
def test_the_plan_does_not_depend_on_how_documents_arrive(seed):
    """At once, or in batches that carry the room on."""
    rng = np.random.default_rng(seed)
    limit = 20
    lengths = rng.choice([1, 3, 7, 19, 20, 21, 45], 60)
    pieces = [
        (piece.end - piece.begin, piece.opens) for piece in plan_pieces(lengths, limit, limit)
    ]
    shards = [0]
    for size, opens in pieces:
        shards = [*shards, size] if opens else [*shards[:-1], shards[-1] + size]
    batched = [0]
    room = limit
    for batch in np.split(lengths, np.sort(rng.choice(60, 6, replace=False))):
        for piece in plan_pieces(batch, room, limit):
            if piece.opens:
                batched.append(0)
            batched[-1] += piece.end - piece.begin
            room = limit - batched[-1]
    assert shards == batched and max(shards) <= limit and sum(shards) == lengths.sum()
