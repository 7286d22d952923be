"""The points that stand for a matrix, and the trellis that says which point may follow which.

A weight is `point * step`. The step of row r and column c is one base step of the matrix, times
2**((row + column) / 4) with small integers for the row and the column. Points are integers, but
only even or only odd ones may come next, as the state of a small machine tells (trellis-coded
quantisation). Each choice is then as coarse as a scalar quantiser of step 2, and a whole sequence
is nearly as fine as one of step 1. With 4 states, from state 0:

    state   next point        after it, by the point's bit 1 (point >> 1 & 1)
      0     even:  0, 2, ..   0 -> state 0    1 -> state 1
      1     odd:  ±1, 3, ..   0 -> state 2    1 -> state 3
      2     even              0 -> state 1    1 -> state 0
      3     odd               0 -> state 3    1 -> state 2

A path runs down the rows of one column, for at most PATH_STEPS rows, so the columns of a matrix and
the parts of a column are independent. viterbi.py chooses points, rans.py stores them.

Dimensions in names: R rows, C columns.
"""

import math
from dataclasses import dataclass

import numpy as np

# Ungerboeck's codes for one dimension: parity-check polynomials, most significant bit first.
# One state is the scalar quantiser of twice the step.
PARITY_CHECKS = {1: (0, 0), 4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}
PATH_STEPS = 256  # 64 costs 0.014 bit a weight more, 1024 saves 0.003
UNITS = 4  # of an exponent in an octave; with a free base step finer ones gain < 0.003 bit
MAX_POINT = 16383  # that has a frequency of its own; rans.py stores larger ones apart
LARGEST_POINT = 1 << 22  # float32 still tells the distances of neighbouring points there
# A mini-track model's tables of 32 columns (8,192 rows): 1,090 of 249,700 bytes saved, alike for
# FAR from 3 to 8 and for no row told at all; 96 columns too would cost more than it saves (n = 1).
NARROW = 32
FAR = 6
NARROWEST = 2.0**-16  # spread of a row or a column, against the widest


@dataclass(frozen=True)
class Points:
    """A matrix on its trellis. Points are int32; exponents are int8, in 1/UNITS octaves.

    row_step and column_step scale the base step; row_spread and column_spread only tell the coder
    how far the weights of a row and a column reach. Paths go down the rows in coding_order where
    rows_sorted is set, and as they stand in streams of before that.
    """

    points_RC: np.ndarray
    row_step: np.ndarray
    column_step: np.ndarray
    row_spread: np.ndarray
    column_spread: np.ndarray
    rows_sorted: bool = False

    @classmethod
    def of(cls, points_RC, row_step, column_step, rows_sorted=True) -> "Points":
        """The points with the spreads that they show, but for those that are stored apart.

        A row of few points shows its own badly, and telling it costs 3 bits: those of NARROW
        columns or fewer have the usual one, unless they are FAR from it.
        """
        scale_RC = octaves(row_step)[:, None] * octaves(column_step)
        row_spread, column_spread = spreads(folded(points_RC) * scale_RC)
        if points_RC.size and points_RC.shape[1] <= NARROW:
            usual = np.int8(np.median(row_spread))
            distance = np.abs(row_spread.astype(np.int16) - usual)
            row_spread = np.where(distance < FAR, usual, row_spread)
        return cls(points_RC, row_step, column_step, row_spread, column_spread, rows_sorted)

    @property
    def row_order(self) -> np.ndarray:
        """The rows as paths go down them."""
        if self.rows_sorted:
            return coding_order(self.row_step)
        return np.arange(len(self.row_step))

    def classes(self, low: int, count: int, rows: slice | np.ndarray = slice(None)) -> np.ndarray:
        """How far the weights of these rows reach over their steps, in quarter octaves from low."""
        row = self.row_spread[rows].astype(np.int16) - self.row_step[rows]
        column = self.column_spread.astype(np.int16) - self.column_step
        quarters = row[:, None] + column
        return np.clip(quarters, low, low + count - 1) - low

    def dequantize(self, base_step: float) -> np.ndarray:
        """The fp32 weights: one rounding for the step, one for the product, the same anywhere."""
        # In float64 first: products of three numbers of 24 bits would be rounded twice in float32.
        base = np.float64(np.float32(base_step))
        step_RC = base * octaves(self.row_step)[:, None] * octaves(self.column_step)
        return self.points_RC.astype(np.float32) * step_RC.astype(np.float32)


def octaves(exponents: np.ndarray) -> np.ndarray:
    """2**(exponents / UNITS), by square roots and powers of two, which are alike everywhere.

    octaves([0, 2, 4, -4])  ->  [1, 1.414, 2, 0.5]
    """
    # IEEE 754 says how a square root is rounded, but not how a power or a logarithm is.
    half = math.sqrt(2)
    quarter = math.sqrt(half)
    fractions = np.array([1.0, quarter, half, half * quarter])
    octave, rest = np.divmod(exponents.astype(np.int64), UNITS)
    return np.ldexp(fractions[rest], octave)


def log2_exponents(values: np.ndarray) -> np.ndarray:
    """Round log2(values) to exponents; zeros get the smallest."""
    values = np.asarray(values, np.float64)
    exact = UNITS * np.log2(np.maximum(values, 1e-30))
    return np.clip(np.rint(exact), -128, 127).astype(np.int8)


def spreads(weight_RC: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Exponents of the root-mean-square of each row, and of each column relative to its rows."""
    weight_RC = np.asarray(weight_RC, np.float64)
    R, C = weight_RC.shape
    row_R = np.sqrt(np.square(weight_RC).sum(axis=1) / max(C, 1))
    # A row of zeros reaches nowhere; it is told as the narrowest that any row may be.
    narrowest_row = row_R.max(initial=0) * NARROWEST
    row = log2_exponents(np.maximum(row_R, narrowest_row))
    relative_RC = weight_RC / octaves(row)[:, None]
    column_C = np.sqrt(np.square(relative_RC).sum(axis=0) / max(R, 1))
    narrowest_column = column_C.max(initial=0) * NARROWEST
    return row, log2_exponents(np.maximum(column_C, narrowest_column))


def folded(points: np.ndarray) -> np.ndarray:
    """The points as they are coded: one beyond MAX_POINT as the small one of its residue modulo 4.

    The residue is all that the trellis sees of a point, so the path stays the same. A rare large
    point would else take up the frequencies of thousands of neighbours that never occur.

        folded([5, -3, 40_003])  ->  [5, -3, -1], since 40_003 = 4 * 10_001 - 1
    """
    residue = ((points + 2) & 3) - 2  # -2, -1, 0 or 1
    return np.where(np.abs(points) > MAX_POINT, residue, points)


def path_steps(rows: int) -> int:
    """Steps of a path in a matrix of so many rows.

    In coding_order, row i is step i % steps of part i // steps: 600 rows have 3 parts of 200.
    """
    parts = max(-(-rows // PATH_STEPS), 1)
    return max(-(-rows // parts), 1)


def coding_order(row_step: np.ndarray) -> np.ndarray:
    """The rows in the order of their paths: those of the coarsest steps first, else as they stand.

    Rows of a lookup table that are hardly ever used have steps beyond their weights, and are zeros.
    Side by side they keep a path in state 0, where a zero costs next to nothing. Between finer rows
    every other one would find the path in a state of odd points, and become ±1.

        coding_order([0, 8, 0, 3])  ->  [1, 3, 0, 2]
    """
    return np.argsort(-row_step.astype(np.int64), kind="stable")


def transitions(states: int) -> np.ndarray:
    """next_state[state, bit]: the systematic feedback encoder of the code with so many states.

    In state s a point has the parity of s; the bit is the point's next bit, and so tells which of
    the residues s & 1 and (s & 1) + 2 modulo 4 it has.
    """
    feedback, forward = PARITY_CHECKS[states]
    state = np.arange(states)[:, None]
    bit = np.arange(2)
    # A shift register: the state moves down by a bit. The bit that falls out is the parity of the
    # point, and flips the bits of `feedback`; the point's next bit flips those of `forward`.
    by_parity = (feedback >> 1) * (state & 1)
    by_bit = (forward >> 1) * bit
    return (state >> 1) ^ by_parity ^ by_bit
