"""The points along paths: against brute force, and what they may not do."""

import itertools

import pytest
import torch

from codec import trellis
from codec.viterbi import ColumnQuantizer
from tests.codec.test_gptq import gaussian


def residues_of_all_paths(states, steps):
    """Every sequence of residues modulo 4 that the machine allows from state 0."""
    next_state = trellis.transitions(states)
    for bits in itertools.product((0, 1), repeat=steps):
        state, residues = 0, []
        for bit in bits:
            residues.append((state & 1) + 2 * bit)
            state = next_state[state, bit]
        yield residues


@pytest.mark.parametrize("states", [1, 4, 8, 16])
def test_viterbi_finds_what_brute_force_finds(states):
    """On random costs the chosen path is allowed, and no path from state 0 costs less."""
    steps, paths = 7, 40
    cost_T4P = gaussian(steps, 4, paths, seed=states).square()
    chosen_TP = ColumnQuantizer(states, "cpu").residues(cost_T4P)
    allowed = torch.tensor(list(residues_of_all_paths(states, steps)))
    costs = cost_T4P[torch.arange(steps), allowed].sum(dim=1)  # every path, P
    chosen_cost = cost_T4P.gather(1, chosen_TP[:, None])[:, 0].sum(dim=0)
    assert torch.allclose(chosen_cost, costs.min(dim=0).values)
    assert {tuple(path) for path in chosen_TP.T.tolist()} <= {*map(tuple, allowed.tolist())}


def test_points_are_the_nearest_of_all():
    """The distance is least among all allowed sequences of points near the targets."""
    x_NR = 2 * gaussian(6, 4)
    points_NR = ColumnQuantizer(4, "cpu").points(x_NR)

    def cost(points, n):
        return float(((x_NR[n] - torch.tensor(points)) ** 2).sum())

    for n in range(6):
        best = min(
            cost(points, n)
            for residues in residues_of_all_paths(4, 4)
            for points in itertools.product(
                *[[p for p in range(-9, 10) if p % 4 == residue] for residue in residues]
            )
        )
        assert cost(points_NR[n].long().tolist(), n) == pytest.approx(best, abs=1e-4)


def test_no_path_leaves_the_largest_points():
    """Targets far beyond them saturate at what the state allows, never above LARGEST_POINT."""
    for states in (1, 8):
        points = ColumnQuantizer(states, "cpu").points(torch.tensor([[1e9] * 20, [-1e9] * 20]))
        assert points.abs().max() <= trellis.LARGEST_POINT
        assert points.abs().min() > trellis.LARGEST_POINT - 10
