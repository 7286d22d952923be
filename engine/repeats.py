"""What a document repeats: a cache of its own pairs and triples of tokens beside the model.

    p(y) = (1 - w) p_model(y) + w c(x, y) / c(x)

x are the last two tokens, or the last one where the document has not had those two before; c counts
in the document, before the target. Over all y the shares c(x, y) / c(x) add up to one, and so does
the mixture. After "a b c a b d a b" x is (a, b): seen twice, c and d once each, a half for either.

w depends on how long x is and how often it was seen: once, 2 or 3 times, 4 to 7, more. These eight
numbers are learned on training text. A small model gains much, as it hardly learns to copy: 118 mb
on web text and 181 on C4 for one of 20 tokens a parameter (records/LOG.md).

Shapes: T tokens, S targets (one less than tokens).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LENGTHS = 2  # of x, in tokens; four lengths gain another 2 mb of 120
BUCKETS = 4  # of how often x was seen, by powers of two
TARGETS_AT_ONCE = 1 << 20  # sorted in one go, of whole documents
ROUNDS = 50  # of expectation maximisation; the eight weights stand still long before
PRIOR = (1, 10)  # repeats and targets seen beforehand: few targets make no weight 0 or 1


@dataclass(frozen=True)
class Repeats:
    """For each target, how x was seen before it, and how often the target followed."""

    cell_S: np.ndarray  # int8: 0 where x is new, else 1 + BUCKETS * (length - 1) + bucket
    share_S: np.ndarray  # float32: c(x, y) / c(x)

    @classmethod
    def of(cls, tokens_T: np.ndarray, bos: int) -> "Repeats":
        """Those of every document in the stream."""
        starts = np.flatnonzero(tokens_T[:-1] == bos)
        # Documents know nothing of each other, so any cut between two of them is a good one.
        block_S = starts // TARGETS_AT_ONCE
        cuts = starts[1:][block_S[1:] > block_S[:-1]]
        cells = []
        shares = []
        edges = [0, *cuts.tolist(), len(tokens_T) - 1]
        for begin, end in zip(edges[:-1], edges[1:], strict=True):
            cell_S, share_S = _of_part(tokens_T[begin : end + 1].astype(np.int64), bos)
            cells.append(cell_S)
            shares.append(share_S)
        return cls(np.concatenate(cells), np.concatenate(shares))

    def fit(self, nats_S: np.ndarray) -> list[float]:
        """The weights that make the targets likeliest, given the model's nats of each."""
        size = 1 + LENGTHS * BUCKETS
        likely_S = np.exp(-nats_S)
        weights = np.full(size, 0.1)
        count = PRIOR[1] + np.bincount(self.cell_S, minlength=size)
        for _ in range(ROUNDS):
            # How likely each target came from the repeats, by the weights of the round before.
            repeated_S = weights[self.cell_S] * self.share_S
            modelled_S = (1 - weights[self.cell_S]) * likely_S
            belief_S = repeated_S / np.maximum(repeated_S + modelled_S, 1e-300)
            weights = (PRIOR[0] + np.bincount(self.cell_S, belief_S, minlength=size)) / count
        return weights[1:].tolist()

    def mixture(self, weights: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        """Factor of the model's probability and what is added to it, for each target."""
        weight_S = np.array([0.0, *weights])[self.cell_S]
        return 1 - weight_S, weight_S * self.share_S


def _of_part(tokens_T: np.ndarray, bos: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells and shares of whole documents."""
    input_S = tokens_T[:-1]
    target_S = tokens_T[1:]
    vocab_size = int(tokens_T.max()) + 1
    document_S = np.cumsum(input_S == bos)
    is_first_S = input_S == bos
    is_first_S[0] = True  # a document has no token before its first
    # Contexts get numbers, so that the next key stays within 64 bits.
    one_S = _numbered(document_S * vocab_size + input_S)
    two_S = _numbered(np.append(-1, one_S[:-1]) * vocab_size + input_S)
    cell_S = np.zeros(len(input_S), dtype=np.int8)
    share_S = np.zeros(len(input_S), dtype=np.float32)
    for length, context_S in ((1, one_S), (2, two_S)):
        seen_S = _earlier(context_S)
        followed_S = _earlier(context_S * vocab_size + target_S)
        if length == 2:
            seen_S[is_first_S] = 0
        is_seen_S = seen_S > 0  # the longer context takes the place of the shorter
        bucket_S = np.minimum(BUCKETS - 1, np.log2(np.maximum(1, seen_S)).astype(np.int8))
        cell_S[is_seen_S] = (1 + BUCKETS * (length - 1) + bucket_S)[is_seen_S]
        share_S[is_seen_S] = (followed_S / np.maximum(1, seen_S))[is_seen_S]
    return cell_S, share_S


def _numbered(key_S: np.ndarray) -> np.ndarray:
    """Small numbers for keys: 7 900 7 becomes 0 1 0."""
    return np.unique(key_S, return_inverse=True)[1].astype(np.int64)


def _earlier(key_S: np.ndarray) -> np.ndarray:
    """How often each key occurred before its place: 7 9 7 7 becomes 0 0 1 2."""
    order_S = np.argsort(key_S, kind="stable")  # equal keys stay in the order of the text
    sorted_S = key_S[order_S]
    place_S = np.arange(len(key_S))
    is_new_S = np.append(True, sorted_S[1:] != sorted_S[:-1])
    first_S = np.maximum.accumulate(np.where(is_new_S, place_S, 0))
    earlier_S = np.empty(len(key_S), dtype=np.int64)
    earlier_S[order_S] = place_S - first_S
    return earlier_S
