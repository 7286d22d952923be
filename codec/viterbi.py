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

import torch
from torch import Tensor

from codec import viterbi_gpu
from codec.trellis import LARGEST_POINT, PARITY_CHECKS

PATHS_AT_ONCE = 512  # the working set of so many stays in the second-level cache


class ColumnQuantizer:
    """The points of least squared distance along paths; every path starts in state 0.

    By distance alone: with the rate in the sum points lean to zero, in all rows of a matrix, which
    no Hessian of a row foresees and which costs the loss more than the bits are worth (LOG.md).
    """

    def __init__(self, states: int, device):
        self.states = states
        self.device = torch.device(device)
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
        work.set_costs(x_TP)
        return nearest(x_TP, work.cheapest_residues().float()).T

    def residues(self, cost_T4P: Tensor) -> Tensor:
        """The residues modulo 4 along the cheapest path, given what each costs at each step."""
        if self.states == 1:
            return (cost_T4P[:, 2] < cost_T4P[:, 0]).long() * 2
        work = self.workspace(cost_T4P.size(0), cost_T4P.size(2))
        torch.index_select(cost_T4P, 1, work.residue_order, out=work.cost_T6P)
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

    A state s is 2 k + p. Its next point has the parity p. The bit b of that point, whose residue
    modulo 4 is p + 2 b, leads to the state whose highest bit is p and whose lower bits are
    k XOR b * forward XOR p * feedback. Seen backward: two states k of one p, which differ in the
    bit `forward` alone, lead to the same two states, the one by b and the other by 1 - b. So one
    step is a butterfly, as in a Fourier transform:

        low, high     the states whose bit `forward` is 0 and 1, and what they cost so far
        from_low      low + what the bit costs that leads to k: b = that bit of k
        from_high     high + what the bit costs that leads to k: b = 1 - that bit of k
        took_high     from_high < from_low; where both cost the same the lower state is taken
        next total    the lesser of the two

    All of it is views that are made once, since making a view takes as long as the arithmetic on
    it: 114 ns a weight with 136 paths, and 55 with 600, where an index took 425 and 350.
    """

    def __init__(self, states: int, steps: int, paths: int, device: torch.device):
        S = states
        K = states // 2
        T = steps
        P = paths
        feedback, forward = (check >> 1 for check in PARITY_CHECKS[states])
        feedback -= K  # the highest bit stands for p itself
        # The states by the bits of k above the bit `forward`, that bit, those below it, and p.
        butterfly = K // (2 * forward), 2, forward, 2, P

        def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=device)

        self.states = states
        # Costs by bit and parity, for bits 0, 1 and 0 again: of six, the first four are the costs
        # with bits 0 and 1, the last four those with bits 1 and 0.
        self.residue_order = torch.tensor([0, 1, 2, 3, 0, 1], device=device)
        self.residue_61 = self.residue_order.float()[:, None]
        self.cost_T6P = empty(T, 6, P)
        by_bit = [cost_6P.view(3, 1, 2, P) for cost_6P in self.cost_T6P]

        self.total_SP = empty(S, P)
        total = self.total_SP.view(butterfly)
        self.low = total.narrow(1, 0, 1)
        self.high = total.narrow(1, 1, 1)
        self.from_low = empty(*butterfly)
        self.from_high = empty(*butterfly)
        self.took_high_TSP = empty(T, S, P, dtype=torch.bool)
        self.forward_steps = [
            (cost[:2], cost[1:], took.view(butterfly))
            for cost, took in zip(by_bit, self.took_high_TSP, strict=True)
        ]

        # Where the lesser cost goes: into state p * K + (k XOR p * feedback). For even points that
        # is k itself. For odd ones the bit `feedback` of k flips, so that its two halves change
        # places.
        even_low_KP, odd_low_KP = self.from_low.view(K, 2, P).unbind(1)
        even_high_KP, odd_high_KP = self.from_high.view(K, 2, P).unbind(1)
        even_next_KP, odd_next_KP = self.total_SP.view(2, K, P)
        self.merges = [(even_low_KP, even_high_KP, even_next_KP)]
        of_odd = odd_low_KP, odd_high_KP, odd_next_KP
        if feedback:
            bits = K // (2 * feedback), 2, feedback
            low, high, merged = (tensor.unflatten(0, bits) for tensor in of_odd)
            self.merges.append((low[:, 0], high[:, 0], merged[:, 1]))
            self.merges.append((low[:, 1], high[:, 1], merged[:, 0]))
        else:
            self.merges.append(of_odd)

        # Backward: a place 2 k + p in took_high, of the state p * K + (k XOR p * feedback), and
        # whether the higher predecessor was taken, give the residue and the place one step before.
        def place_of(state: Tensor) -> Tensor:
            p = state // K
            return 2 * ((state & (K - 1)) ^ (p * feedback)) + p

        took_high = torch.arange(2)[:, None]
        place = torch.arange(S)
        k = place >> 1
        p = place & 1
        k_before = (k & ~forward) | (took_high * forward)
        has_forward = ((k & forward) > 0).long()
        bit = has_forward ^ took_high
        self.residue_of = (p + 2 * bit).flatten().to(device)
        self.place_before = place_of(2 * k_before + p).flatten().to(device)
        self.place_of_state = place_of(torch.arange(S)).to(device)
        self.place_1P = empty(1, P, dtype=torch.long)
        self.took_1P = empty(1, P, dtype=torch.bool)
        self.branch_T1P = empty(T, 1, P, dtype=torch.long)
        in_order = zip(self.took_high_TSP, self.branch_T1P, strict=True)
        self.backward_steps = list(in_order)[::-1]

    def set_costs(self, x_TP: Tensor) -> None:
        """Squared distances of the targets from the nearest points of each residue."""
        x_T1P = x_TP[:, None]
        torch.sub(x_T1P, nearest(x_T1P, self.residue_61), out=self.cost_T6P)
        self.cost_T6P.square_()

    def cheapest_residues(self) -> Tensor:
        """The residues modulo 4 along the cheapest paths, by the costs that were set."""
        # Every path starts in state 0.
        self.total_SP.fill_(math.inf)
        self.total_SP[0] = 0
        for cost_low, cost_high, took_high in self.forward_steps:
            torch.add(self.low, cost_low, out=self.from_low)
            torch.add(self.high, cost_high, out=self.from_high)
            torch.lt(self.from_high, self.from_low, out=took_high)
            for from_low, from_high, total in self.merges:
                torch.minimum(from_low, from_high, out=total)

        torch.take(self.place_of_state, self.total_SP.argmin(0, keepdim=True), out=self.place_1P)
        for took_high_SP, branch_1P in self.backward_steps:
            torch.gather(took_high_SP, 0, self.place_1P, out=self.took_1P)
            torch.add(self.place_1P, self.took_1P, alpha=self.states, out=branch_1P)
            torch.take(self.place_before, branch_1P, out=self.place_1P)
        return self.residue_of.take(self.branch_T1P[:, 0])
