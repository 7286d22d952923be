"""Choose the points along paths through the trellis: the Viterbi algorithm, for many paths at once.

A path is a sequence of targets, and each target gets an integer point near it. The trellis
(trellis.transitions) allows only even or only odd points next, by the state that the points before
have led to. So each step has a choice of two residues modulo 4, and within a residue the nearest
point is the best one. The sum of squared distances over the whole path is minimal. With 4 states:

    targets        0.9  1.2  1.1
    nearest points   1    1    1    not allowed: a path starts in state 0, where points are even
    points           0    2    1    the best of all that are allowed: 0.81 + 0.64 + 0.01 = 1.46
    points           2    1    2    allowed as well: 1.21 + 0.04 + 0.81 = 2.06

Forward, each step keeps for every state the cost of the cheapest way into it, and by which of its
two predecessors that way came. Backward, the predecessors are followed from the cheapest last
state.

Dimensions in names: P paths, T steps of a path, S states, K = S / 2.
"""

import math

import numpy as np
import torch
from torch import Tensor

from codec import viterbi_gpu
from codec.trellis import LARGEST_POINT, transitions

PATHS_AT_ONCE = 512  # the working set of so many stays in the second-level cache


class ColumnQuantizer:
    """The points of least squared distance along paths; every path starts in state 0.

    By distance alone: with the rate in the sum points lean to zero, in all rows of a matrix, which
    no Hessian of a row foresees and which costs the loss more than the bits are worth (LOG.md).
    """

    def __init__(self, states: int, device):
        self.states = states
        self.device = torch.device(device)
        self.residue_41 = torch.arange(4.0, device=self.device)[:, None]
        self.workspaces: dict[tuple[int, int], Workspace] = {}

    def points(self, x_PT: Tensor) -> Tensor:
        """The allowed points of least squared distance in all along each path."""
        if x_PT.is_cuda and self.states > 1 and viterbi_gpu.is_usable:
            return viterbi_gpu.points(x_PT, self.states)
        return torch.cat([self._points(part_PT) for part_PT in x_PT.split(PATHS_AT_ONCE)])

    def _points(self, x_PT: Tensor) -> Tensor:
        x_TP = x_PT.T.clamp(4 - LARGEST_POINT, LARGEST_POINT - 4).contiguous()
        if self.states == 1:  # a scalar quantiser: even points only
            return (x_TP / 2).round_().mul_(2).T
        work = self.workspace(*x_TP.shape)
        x_T1P = x_TP[:, None]
        work.set_costs((x_T1P - nearest(x_T1P, self.residue_41)).square_())
        return nearest(x_TP, work.cheapest_residues().float()).T

    def residues(self, cost_T4P: Tensor) -> Tensor:
        """The residues modulo 4 along the cheapest path, given what each costs at each step."""
        if self.states == 1:
            return (cost_T4P[:, 2] < cost_T4P[:, 0]).long() * 2
        work = self.workspace(cost_T4P.size(0), cost_T4P.size(2))
        work.set_costs(cost_T4P)
        return work.cheapest_residues()

    def workspace(self, steps: int, paths: int) -> "Workspace":
        """The tensors for paths of one shape; one for each shape is kept."""
        key = steps, paths
        if key not in self.workspaces:
            self.workspaces[key] = Workspace(self.states, steps, paths, self.device)
        return self.workspaces[key]


def nearest(x: Tensor, residue: Tensor) -> Tensor:
    """The points of these residues modulo 4 nearest to x: of residue 1, 2.4 gives 1, 4 gives 5."""
    return ((x - residue) / 4).round_().mul_(4).add_(residue)


class Workspace:
    """Tensors and their views for the Viterbi algorithm on paths of one shape.

    States have labels here, under which the code is a plain shift register: the lowest bit falls
    out, and a new highest bit comes in. Labels 2 i and 2 i + 1, low and high, both lead to labels i
    and K + i. So one step takes three operations, however the code's checks lie:

        from_both     what low and high cost so far, and what the point costs that leads from there
        took_high     high < low; where both cost the same low is taken
        next total    the lesser of the two

    The bit b of a point is the sum modulo 2 of the new bit and of some bits of the label, and its
    parity p is one bit of the label. So where the costs of p + 2 b stand twice in a row, their
    place is a sum over those bits, and all of them are one view with a stride for each.

    All views are made once, since making one takes as long as the arithmetic on it. A weight takes
    470 ns with 22 paths, 123 with 186 and 88 with 512 (615, 150 and 109 with states as they stand).
    """

    def __init__(self, states: int, steps: int, paths: int, device: torch.device):
        S = states
        T = steps
        P = paths
        bits = S.bit_length() - 1
        self.states = states
        label, after = shift_labels(transitions(states))

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.total_SP = empty(S, P)
        self.from_both_2SP = empty(2, S, P)
        self.from_low_SP, self.from_high_SP = self.from_both_2SP
        # By the bits of the label, the highest first, and then: lowest, new one, all the others.
        in_bits = self.total_SP.view(*[2] * bits, P)
        self.total_by_bits = in_bits.movedim(bits - 1, 0).unsqueeze(1)
        self.from_by_bits = self.from_both_2SP.view(2, *[2] * bits, P)
        self.cost_T24P = empty(T, 2, 4, P)
        stride_of_bit = []
        for i in range(bits):
            state = int(np.flatnonzero(label == 1 << i)[0])
            b = int(after[state, 0]) >> (bits - 1)
            stride_of_bit.append(P * ((state & 1) + 2 * b))
        lowest, *others = stride_of_bit
        strides = lowest, 2 * P, *others[::-1], 1
        sizes = *[2] * (bits + 1), P
        self.took_high_TSP = empty(T, S, P, dtype=torch.bool)
        self.forward_steps = [
            (self.cost_T24P.as_strided(sizes, strides, t * 8 * P), took_high_SP)
            for t, took_high_SP in enumerate(self.took_high_TSP)
        ]

        # Backward: a label, and whether the way came from the high one before, give the residue and
        # that label.
        state_S1 = np.arange(S)[:, None]
        place = (label[:, None] & 1) * S + after
        residue_of = np.empty(2 * S, np.int64)
        residue_of[place] = (state_S1 & 1) + 2 * np.arange(2)
        label_before = np.empty(2 * S, np.int64)
        label_before[place] = label[:, None]
        self.residue_of = torch.from_numpy(residue_of).to(device)
        self.label_before = torch.from_numpy(label_before).to(device)
        self.label_of_state = torch.from_numpy(label).to(device)
        self.label_1P = empty(1, P, dtype=torch.long)
        self.took_1P = empty(1, P, dtype=torch.bool)
        self.branch_T1P = empty(T, 1, P, dtype=torch.long)
        in_order = zip(self.took_high_TSP, self.branch_T1P, strict=True)
        self.backward_steps = list(in_order)[::-1]

    def set_costs(self, cost_T4P: Tensor) -> None:
        """Set what each residue costs at each step."""
        self.cost_T24P.copy_(cost_T4P[:, None])

    def cheapest_residues(self) -> Tensor:
        """The residues modulo 4 along the cheapest paths, by the costs that were set."""
        # Every path starts in state 0, whose label is 0.
        self.total_SP.fill_(math.inf)
        self.total_SP[0] = 0
        for cost, took_high_SP in self.forward_steps:
            torch.add(self.total_by_bits, cost, out=self.from_by_bits)
            torch.lt(self.from_high_SP, self.from_low_SP, out=took_high_SP)
            torch.minimum(self.from_low_SP, self.from_high_SP, out=self.total_SP)

        # Of states that cost the same the first, whatever its label.
        last_1P = self.total_SP[self.label_of_state].argmin(0, keepdim=True)
        torch.take(self.label_of_state, last_1P, out=self.label_1P)
        for took_high_SP, branch_1P in self.backward_steps:
            torch.gather(took_high_SP, 0, self.label_1P, out=self.took_1P)
            torch.add(self.label_1P, self.took_1P, alpha=self.states, out=branch_1P)
            torch.take(self.label_before, branch_1P, out=self.label_1P)
        return self.residue_of.take(self.branch_T1P[:, 0])


def shift_labels(next_state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """label_of[state], under which the code is a shift register, and after[state, bit], a label.

    Bit 0 of a label tells apart the two states that lead to the same two, bit 1 does so one step
    later, and so on: what comes in meanwhile does not reach it.

        of 8 states, from 5 the bits 0 and 1 lead to the labels 0b110 and 0b010
    """
    states = len(next_state)
    state = np.arange(states)
    # The states that lead to where 0 leads: 0 itself, and one other.
    other = int(np.flatnonzero((np.sort(next_state) == np.sort(next_state[0])).all(axis=1))[1])
    label = np.zeros(states, np.int64)
    for i in range(states.bit_length() - 1):
        label |= ((state & other) > 0).astype(np.int64) << i
        state = next_state[state, 0]
    return label, label[next_state]
