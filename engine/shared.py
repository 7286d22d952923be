"""Several ranks choose the points of a share of the matrices each; rank 0 asks, and has them all.

The points of a matrix follow from its weights, its Hessian and the base step alone, so they are the
same whichever rank chooses them. Rank 0 alone searches and codes; the others answer until it ends:

    rank 0: Shared           other ranks: help
    shares of matrices  ->   each prepares its own, and tells their scales and how far they reach
    a base step         ->   each chooses the points of its own; again and again
    None                ->   done
"""

import numpy as np

from codec.curvature import Hessian
from codec.gptq import Matrices, Matrix
from codec.trellis import Points, path_steps
from engine.ranks import Ranks, outcome

# Paths that take as long as the operations themselves: a step of the Viterbi takes 9 us and 0.072
# more for each path (CPU, 8 to 512 paths). On a GPU it would be thousands.
EQUAL_PATHS = 125


class Shared(Matrices):
    """Matrices, of which every rank keeps a share; on rank 0, while the others are in help.

    Raises: ValueError as Matrices does, whichever rank finds the fault.
    """

    def __init__(self, matrices: list[Matrix], ranks: Ranks):
        shapes = [tuple(matrix.weight_RC.shape) for matrix in matrices]
        self.shares = shares(shapes, ranks.world_size)
        self.helper = Helper(ranks)
        moved = [on_device(matrix, "cpu") for matrix in matrices]
        parts = self.ask([[moved[i] for i in share] for share in self.shares])
        self.scales = np.empty(len(matrices), np.float32)
        for share, (scales, _) in zip(self.shares, parts, strict=True):
            self.scales[share] = scales
        self.weights_of_spread = sum(spread for _, spread in parts)

    def points(self, base_step: float, states: int = 8) -> list[Points]:
        """The points of every matrix at one base step."""
        chosen: list = [None] * len(self.scales)
        for share, points in zip(self.shares, self.ask((base_step, states)), strict=True):
            for i, points_of_one in zip(share, points, strict=True):
                chosen[i] = points_of_one
        return chosen

    def ask(self, request) -> list:
        """Every rank's reply. Raises: the first error that any of them met."""
        self.helper.ranks.broadcast(request)
        replies = self.helper.answer(request)
        for _, error in replies:
            if error is not None:
                raise error
        return [reply for reply, _ in replies]


class Helper:
    """One rank's share."""

    def __init__(self, ranks: Ranks):
        self.ranks = ranks
        self.own = Matrices([])

    def answer(self, request) -> list[tuple]:
        """What all ranks reply to it, each with the error that it met."""
        return self.ranks.gather(outcome(lambda: self.reply(request)))

    def reply(self, request):
        if isinstance(request, tuple):
            return self.own.points(*request)
        share = [on_device(matrix, self.ranks.device) for matrix in request[self.ranks.rank]]
        self.own = Matrices(share)
        return self.own.scales, self.own.weights_of_spread


def help(ranks: Ranks) -> None:
    """Answer rank 0 until it broadcasts None."""
    helper = Helper(ranks)
    while (request := ranks.broadcast(None)) is not None:
        helper.answer(request)


def shares(shapes: list[tuple[int, int]], ranks: int) -> list[list[int]]:
    """Which matrices each rank takes: groups that are quantised side by side stay together.

    A group takes its time by its columns, however few its paths are; one of many paths is divided.
    The longest goes first, each to the rank that has least to do.

        shares([(512, 2048), (512, 2048), (512, 512), (256, 512)], 2)  ->  [[0, 1], [2, 3]]
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for i, (R, C) in enumerate(shapes):
        groups.setdefault((path_steps(R), C), []).append(i)
    pieces = []
    for (T, C), places in groups.items():
        paths = {i: -(-shapes[i][0] // T) for i in places}
        count = min(max(sum(paths.values()) // EQUAL_PATHS, 1), ranks)
        for first in range(count):
            piece = places[first::count]
            seconds = T * C * (EQUAL_PATHS + sum(paths[i] for i in piece))
            pieces.append((seconds, piece))
    pieces.sort(key=lambda piece: -piece[0])
    owned: list[list[int]] = [[] for _ in range(ranks)]
    busy = [0] * ranks
    for seconds, piece in pieces:
        rank = busy.index(min(busy))
        busy[rank] += seconds
        owned[rank] += piece
    return owned


def on_device(matrix: Matrix, device) -> Matrix:
    """The same matrix there."""
    hessian = Hessian(matrix.hessian.columns_CC.to(device), matrix.hessian.rows_R.to(device))
    return Matrix(matrix.weight_RC.to(device), hessian, matrix.name)
