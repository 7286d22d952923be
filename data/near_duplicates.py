"""Documents that are nearly the same, found by a sample of their runs of tokens.

A run of 16 tokens, about five words, is a shingle. Each is hashed, and one in 16 is kept: those
whose hash ends in zero, so to say. Which are kept depends on the hash alone, so two copies of a
text give the same ones, wherever they stand. A validation document of which half the shingles are
in one training document is a near-duplicate of it.

Example, with runs of 3 tokens and all kept:

    validation  5 6 7 8 9     shingles 567 678 789
    training    1 6 7 8 9 2   shingles 167 678 789 892      two of three: a near-duplicate
"""

from __future__ import annotations

import numpy as np

SHINGLE_TOKENS = 16  # about five words
SHINGLE_SHARE = 16  # one shingle of so many stands for the others
MIN_SHINGLES = 8  # fewer say nothing: about 130 tokens
NEAR_FRAC = 0.5  # of a validation document's shingles in one training document
CHUNK_TOKENS = 1 << 22  # of a shard at a time: its hashes take 32 MiB
# Odd factors with bits well spread, of splitmix64 (Steele et al. 2014): no two runs collide often.
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
MIXER = np.uint64(0xBF58476D1CE4E5B9)


def sampled_shingles(
    tokens_T: np.ndarray, bos_id: int, among_S: np.ndarray | None = None
) -> np.ndarray:
    """Return the sampled shingles of a shard, as rows (hash, document within the shard).

    With among_S, sorted, only those that are in it: of training text the rest is of no use.
    """
    rows = [np.empty((0, 2), np.uint64)]
    documents = 0
    for begin in range(0, len(tokens_T), CHUNK_TOKENS):
        # A run may begin in this chunk and end in the next one.
        chunk_T = tokens_T[begin : begin + CHUNK_TOKENS + SHINGLE_TOKENS - 1].astype(np.uint64)
        hash_T = _hash_runs(chunk_T)
        taken = np.flatnonzero((hash_T >> np.uint64(32)) % np.uint64(SHINGLE_SHARE) == 0)
        if among_S is not None:
            taken = taken[is_in(hash_T[taken], among_S)]
        starts_D = np.flatnonzero(chunk_T[:CHUNK_TOKENS] == bos_id)
        number = documents + np.searchsorted(starts_D, taken, side="right")
        rows.append(np.stack([hash_T[taken], number.astype(np.uint64)], axis=1))
        documents += len(starts_D)
    return np.unique(np.concatenate(rows), axis=0)


def _hash_runs(tokens_T: np.ndarray) -> np.ndarray:
    """Return a hash of the SHINGLE_TOKENS tokens from each place on; integers wrap."""
    hash_T = np.zeros(max(0, len(tokens_T) - SHINGLE_TOKENS + 1), np.uint64)
    for offset in range(SHINGLE_TOKENS):
        hash_T *= MULTIPLIER
        hash_T += tokens_T[offset : offset + len(hash_T)]
    # The high bits choose the sample, so they must depend on every token.
    hash_T ^= hash_T >> np.uint64(29)
    hash_T *= MIXER
    return hash_T


def is_in(values: np.ndarray, sorted_S: np.ndarray) -> np.ndarray:
    """Return which values are in a sorted row."""
    if not len(sorted_S):
        return np.zeros(len(values), bool)
    at = np.searchsorted(sorted_S, values).clip(max=len(sorted_S) - 1)
    return sorted_S[at] == values


def count_near_duplicates(val: list[np.ndarray], train: list[np.ndarray]) -> int:
    """Return how many validation documents have NEAR_FRAC of their shingles in a training document.

    Each list holds the rows of one shard after the other, as sampled_shingles gives them.
    """
    hash_S, owner_S, size_D = _owned_shingles(val)
    near: set[int] = set()
    for rows in train:
        rows = rows[is_in(rows[:, 0], hash_S)]
        owner = owner_S[np.searchsorted(hash_S, rows[:, 0])]
        pairs = np.stack([owner, rows[:, 1].astype(np.int64)], axis=1)[owner >= 0]
        pairs, shared = np.unique(pairs, axis=0, return_counts=True)
        size = size_D[pairs[:, 0]]
        is_near = (size >= MIN_SHINGLES) & (shared >= NEAR_FRAC * size)
        near |= set(pairs[is_near, 0].tolist())
    return len(near)


def _owned_shingles(val: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return all shingles of validation, whose document each is, and how many each document has.

    A shingle of several documents has the owner -1: what they share tells nothing.
    """
    rows = [np.empty((0, 2), np.uint64)]
    first = 0
    for part in val:
        # Documents are numbered within their shard: number them through.
        rows.append(part + np.array([0, first], np.uint64))
        first += int(part[:, 1].max(initial=0)) + 1
    rows_S = np.concatenate(rows)
    hash_S, at_S, counts_S = np.unique(rows_S[:, 0], return_index=True, return_counts=True)
    owner_S = rows_S[at_S, 1].astype(np.int64)
    owner_S[counts_S > 1] = -1
    size_D = np.bincount(owner_S[counts_S == 1], minlength=1)
    return hash_S, owner_S, size_D
