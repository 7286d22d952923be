"""Which documents go into which shard: whole ones, as many as fit, in source order.

The plan depends on the lengths of the documents alone. So a build in one process, and parts that
were built on many machines and are packed again (repack.py), end in the same shards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Piece:
    """Tokens that go into one shard without a break, and the documents that are counted there."""

    first: int  # document
    last: int  # the first document behind them; equal to first where a document goes on
    begin: int  # token
    end: int
    opens: bool  # a shard that is begun is closed before

    @property
    def continues(self) -> bool:
        """Whether it begins within a document, which counts where it began."""
        return self.first == self.last


def plan_pieces(length_D: np.ndarray, room: int, limit: int) -> list[Piece]:
    """Return the pieces that documents of these lengths make, in shards of at most limit tokens.

    room is what still fits into the shard that is begun; limit where none is. A document that does
    not fit begins a new shard. Only one that is longer than a shard is cut.

    Example, limit 10, nothing begun, documents of 4 4 4 25 3 tokens: shards 4+4, 4, 10, 10, 5+3.
    """
    pieces = []
    ends_D = np.cumsum(length_D)
    first = 0
    begin = 0
    opens = False
    while first < len(length_D):
        last = int(np.searchsorted(ends_D, begin + room, side="right"))
        if last > first:
            end = int(ends_D[last - 1])
            pieces.append(Piece(first, last, begin, end, opens))
            room -= end - begin
            opens = False
        elif room < limit:
            opens = True
            room = limit
            continue
        else:
            last = first + 1
            end = int(ends_D[first])
            for start in range(begin, end, limit):
                stop = min(start + limit, end)
                is_first = start == begin
                counted_to = last if is_first else first
                pieces.append(Piece(first, counted_to, start, stop, opens or not is_first))
            room = limit - (stop - start)
            opens = False
        first = last
        begin = end
    return pieces
