"""The trellis: its states, and how points, exponents and rows are laid out."""

import itertools
import math

import numpy as np
import pytest

from codec import trellis


@pytest.mark.parametrize("states", trellis.PARITY_CHECKS)
def test_every_state_has_two_ways_in_and_two_out(states):
    """The transitions are a de Bruijn-like graph: no state is lost, none is preferred."""
    next_state = trellis.transitions(states)
    assert next_state.shape == (states, 2)
    assert (np.bincount(next_state.reshape(-1), minlength=states) == 2).all()


@pytest.mark.parametrize("states, gain", [(4, 9), (8, 10), (16, 11), (32, 13)])
def test_codes_have_their_known_minimum_distance(states, gain):
    """Two paths that part and meet again differ by the published squared distance at least."""
    next_state, best = trellis.transitions(states), math.inf
    # parallel branches of one residue are 4 apart; other pairs of paths are followed to their end
    todo = [(next_state[0, 0], next_state[0, 1], 4)]
    seen = {}
    while todo:
        a, b, distance = todo.pop()
        if a == b:
            best = min(best, distance)
        elif seen.get((a, b), math.inf) > distance and distance < 20:
            seen[a, b] = distance
            for one, two in itertools.product((0, 1), repeat=2):
                gap = ((a & 1) + 2 * one - (b & 1) - 2 * two) % 4
                longer = distance + min(gap, 4 - gap) ** 2
                todo.append((next_state[a, one], next_state[b, two], longer))
    assert best == gain


def test_narrow_rows_and_columns_have_their_least_spread():
    """One of zeros, or nearly, does not ask the coder for classes of its own."""
    row, column = trellis.spreads(np.diag([1.0, 0.0, 1e-9]) + np.array([[0, 0, 1e-9]] * 3))
    assert row.max() - row.min() == 64 and column.max() - column.min() <= 64


@pytest.mark.parametrize("columns, told", [(trellis.NARROW, 2), (trellis.NARROW + 1, 3)])
def test_rows_of_few_points_have_the_usual_spread(columns, told):
    """Of rows that reach 1, 2 and 1,000, narrow ones tell the last alone."""
    points_RC = np.array([1, 1, 1, 2, 1000])[:, None] * np.ones((1, columns), np.int32)
    points = trellis.Points.of(points_RC, np.zeros(5, np.int8), np.zeros(columns, np.int8))
    assert len(np.unique(points.row_spread)) == told
