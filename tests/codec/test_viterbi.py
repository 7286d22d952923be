"""The points along paths: against brute force, and what they may not do."""

import itertools

import numpy as np
import pytest
import torch

from codec import trellis
from codec.viterbi import ColumnQuantizer, shift_labels
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


@pytest.mark.parametrize("states", [4, 8, 16, 32])
def test_labels_make_a_shift_register(states):
    """The lowest bit falls out, the others move down, and what comes in tells the bit."""
    label, after = shift_labels(trellis.transitions(states))
    assert sorted(label) == list(range(states)) and label[0] == 0
    assert ((after & (states // 2 - 1)) == label[:, None] >> 1).all()
    assert (after[:, 0] ^ after[:, 1] == states // 2).all()
    assert (after[0] == [0, states // 2]).all()


def test_of_paths_that_cost_the_same_the_lower_state_is_taken():
    """All points equally good: zeros and ones as the first states have them, on every machine."""
    residues = ColumnQuantizer(8, "cpu").residues(torch.zeros(40, 4, 3))
    next_state = trellis.transitions(8)
    totals = np.where(np.arange(8) == 0, 0.0, np.inf)
    ways = []
    for _ in range(40):
        ways.append({})
        for state in reversed(range(8)):  # the lowest is written last
            for bit in (0, 1):
                if np.isfinite(totals[state]):
                    ways[-1][next_state[state, bit]] = state, (state & 1) + 2 * bit
        totals = np.where([after in ways[-1] for after in range(8)], 0.0, np.inf)
    expected = []
    state = 0
    for way in reversed(ways):
        state, residue = way[state]
        expected.append(residue)
    assert residues.T.tolist() == [expected[::-1]] * 3
