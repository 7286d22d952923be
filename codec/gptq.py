"""GPTQ's error feedback around the trellis: the points of many matrices for one base step.

The columns of a matrix are rounded one after the other. What rounding one of them got wrong is made
good by moving the targets of those that follow, as far as the inputs are alike: where two columns
always have the same input, an error of +0.1 in the first moves the second's target by -0.1.

The steps of columns follow the pivots of the Hessian, and those of rows its weights of rows, so
that the rounding of a point costs the same everywhere. With one base step for all matrices, bits
are then where they lower the loss most.

Source: GPTQ (Frantar et al. 2022) for the feedback; JPEG 2000 part 2 and VVC for the trellis.

Dimensions in names: R rows, C columns, M matrices, T steps of a path; N paths of one column, which
are the parts of all matrices side by side.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from codec.curvature import Hessian
from codec.trellis import (
    LARGEST_POINT,
    UNITS,
    Points,
    coding_order,
    log2_exponents,
    octaves,
    path_steps,
    spreads,
)
from codec.viterbi import ColumnQuantizer

BLOCK = 128  # columns between two matrix products of the feedback
# Of the mean of a Hessian's diagonal, added to the diagonal for each column: what calibration tells
# of many columns is worth less. Where inputs share one direction, the mean is many times what most
# columns have: 0.01 of it gave an embedding of 96 columns 4.1 bits a weight where 3.5 do. Three
# layers of SmolLM2 (576 to 1,536 columns, 4,096 tokens) lose 24 mnat at 2.55 bits, 42 with 0.01
# alike for all matrices and 48 with 0.001 (n = 1).
DAMPING = 1e-5
FINEST = 2048  # root-mean-square of a row's or column's points
COARSEST_ROW = 40  # quarter octaves over the mean row of a matrix: used a millionth as often
LARGEST = 2.0**50  # weight; from some 2**58 on, base steps within rans.py's bounds saturate


@dataclass(frozen=True)
class Matrix:
    """A matrix to quantise, and what errors of its weights cost.

    Raises: ValueError, naming the matrix, where they are not finite floats of matching shapes.
    """

    weight_RC: Tensor
    hessian: Hessian
    name: str = "a matrix"

    def __post_init__(self):
        columns_CC = self.hessian.columns_CC
        rows_R = self.hessian.rows_R
        fits = self.weight_RC.ndim == 2
        if fits:
            R, C = self.weight_RC.shape
            fits = columns_CC.shape == (C, C) and rows_R.shape == (R,)
        if not fits:
            shapes = f"{[*self.weight_RC.shape]} and {[*columns_CC.shape]}"
            raise ValueError(f"{self.name}: weights and Hessian of {shapes} must be RxC and CxC")
        if not columns_CC.is_floating_point():
            raise ValueError(f"{self.name}: the Hessian's {columns_CC.dtype} is no float type")
        for kind, numbers in (("weights", self.weight_RC), ("Hessian", columns_CC)):
            if not numbers.isfinite().all():
                raise ValueError(f"{self.name}: {kind} must be finite; here is NaN or infinity")


def factor(hessian_MCC: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Column order, unit upper-triangular factor and pivots: H[order] = factor diag(pivot) factorᵀ.

    With that, the weighted error of a row is Σ pivot_c * (target_c - chosen_c)², where a column's
    target takes up the errors of the columns before it. This is GPTQ without an inverse. Columns
    stand in the order of their diagonal, the largest first. For H = [[4, 2], [2, 2]], undamped:

        order [0, 1]    factor [[1, 1], [0, 1]]    pivots [2, 2]

    Raises: ValueError where a Hessian with its damping is not positive definite.
    """
    diagonal_MC = hessian_MCC.diagonal(dim1=1, dim2=2)
    order_MC = diagonal_MC.argsort(dim=1, descending=True, stable=True)
    M, C = order_MC.shape
    of_rows = order_MC[:, :, None].expand(M, C, C)
    of_columns = order_MC[:, None, :].expand(M, C, C)
    # float64: the pivots of inputs that are nearly alike are differences of large numbers.
    H = hessian_MCC.gather(1, of_rows).gather(2, of_columns).double()
    mean_M = diagonal_MC.double().mean(dim=1)
    # Inputs that never occur would have pivots of 0, and steps without bound.
    ridge_M = torch.where(mean_M > 0, damping * mean_M, 1.0)
    identity_CC = torch.eye(C, dtype=H.dtype, device=H.device)
    H = H + ridge_M[:, None, None] * identity_CC
    try:
        # A Cholesky factor of the columns in reverse order is an upper one of the columns in order.
        upper = torch.linalg.cholesky(H.flip(1, 2)).flip(1, 2)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"a Hessian is no sum of squares: {error}") from error
    root_MC = upper.diagonal(dim1=1, dim2=2)
    unit_MCC = upper / root_MC[:, None, :]
    return order_MC, unit_MCC.float(), root_MC.square()


@dataclass(frozen=True)
class Steps:
    """Exponents of a matrix's steps at one base step; columns stand in the order of coding."""

    row: np.ndarray
    column: np.ndarray

    @property
    def row_order(self) -> np.ndarray:
        return coding_order(self.row)


class Group:
    """Matrices whose paths have one length and which have one number of columns, side by side."""

    def __init__(self, matrices: list[Matrix], damping: float | None = None):
        self.matrices = matrices
        self.device = matrices[0].weight_RC.device
        R, _ = matrices[0].weight_RC.shape
        self.path_steps = path_steps(R)
        # Side by side, a GPU has work for all its units, and the Viterbi one call for all paths.
        hessian_MCC = torch.stack([matrix.hessian.columns_CC for matrix in matrices])
        if damping is None:
            damping = DAMPING * hessian_MCC.size(-1)
        self.order_MC, factor_MCC, pivot_MC = factor(hessian_MCC, damping)
        self.weights_RC = [
            matrix.weight_RC.float()[:, order_C]
            for matrix, order_C in zip(matrices, self.order_MC, strict=True)
        ]
        # How far rows and columns reach, and the steps that weigh all errors alike.
        reach = [spreads(weight_RC.cpu()) for weight_RC in self.weights_RC]
        self.row_spread = [row.astype(np.int64) for row, _ in reach]
        self.column_spread = [column.astype(np.int64) for _, column in reach]
        self.even_column_steps = log2_exponents(pivot_MC.rsqrt().cpu()).astype(np.int64)
        self.even_row_steps = [even_row_steps(matrix.hessian.rows_R) for matrix in matrices]
        parts = [-(-len(row) // self.path_steps) or 1 for row in self.row_spread]
        self.owner_N = torch.arange(len(matrices)).repeat_interleave(torch.tensor(parts))
        self.factor_NCC = factor_MCC[self.owner_N]
        self.arranged: tuple[list[bytes], Tensor] = ([], torch.empty(0))
        self.reaches: dict[tuple[int, bytes], np.ndarray] = {}

    def parts_of(self, values_xR: Tensor) -> Iterable[Tensor]:
        """Cut the last dimension, rows, into parts of one path each, the last filled with zeros."""
        R, T = values_xR.size(-1), self.path_steps
        missing = -R % T if R else T  # a matrix without rows has one part, of filling
        return F.pad(values_xR, (0, missing)).split(T, dim=-1)

    def columns_in_paths(self, steps: list[Steps]) -> Tensor:
        """The weights as columns_NCT: the rows of each matrix in their order, cut into paths."""
        orders = [each.row_order for each in steps]
        keys = [order.tobytes() for order in orders]
        if keys != self.arranged[0]:  # the order hardly ever changes with the base step
            columns = [w.T[:, order] for w, order in zip(self.weights_RC, orders, strict=True)]
            parts = [part_CT for columns_CR in columns for part_CT in self.parts_of(columns_CR)]
            self.arranged = keys, torch.stack(parts)
        return self.arranged[1]

    def steps(self, base_step: float) -> list[Steps]:
        """Steps of the rows and of the columns of each matrix.

        They weigh all errors alike, but hardly any row or column is worth the finest steps: the
        root-mean-square of its points is FINEST at most. A row whose largest weight would still
        exceed half the largest point (the other half is for the errors that GPTQ adds) has coarser
        steps.
        """
        steps = []
        # Of points whose root-mean-square is FINEST, in units of this base step.
        highest = round(UNITS * math.log2(base_step * FINEST))
        for i in range(len(self.matrices)):
            row = self.row_spread[i]
            column = self.column_spread[i]
            row_step = self.even_row_steps[i]
            column_step = self.even_column_steps[i]
            # A column is judged by the middle row, and then a row by the middle column.
            middle_row = np.median(row - row_step) if row.size else 0
            excess = np.maximum(column + middle_row - column_step - highest, 0)
            column_step = np.minimum(column_step + excess.astype(np.int64), 127)
            middle_column = np.median(column - column_step) if column.size else 0
            excess = np.maximum(row + middle_column - row_step - highest, 0)
            row_step = row_step + excess.astype(np.int64)
            most_R = self.reach_R(i, column_step) / (base_step * LARGEST_POINT / 2)
            octave_R = np.log2(np.maximum(most_R, 1e-30))
            least_step = np.ceil(UNITS * octave_R).astype(np.int64)
            row_step = np.maximum(row_step, least_step).clip(max=127)
            steps.append(Steps(row_step, column_step))
        return steps

    def reach_R(self, i: int, column_step: np.ndarray) -> np.ndarray:
        """The largest weight of each row of a matrix, over the steps of the columns."""
        weight_RC = self.weights_RC[i]
        if not weight_RC.numel():
            return np.zeros(len(weight_RC))
        key = i, column_step.tobytes()
        if key not in self.reaches:  # column steps hardly ever change with the base step
            scale_C = torch.from_numpy(octaves(column_step)).float().to(weight_RC.device)
            reach_RC = weight_RC.abs() / scale_C
            self.reaches[key] = reach_RC.amax(1).cpu().double().numpy()
        return self.reaches[key]

    def points(self, base_step: float, states: int = 8) -> list[Points]:
        """The points of each matrix: column by column those of least weighted error.

        Raises: ValueError naming a weight that the largest point does not reach.
        """
        steps = self.steps(base_step)
        coder = ColumnQuantizer(states, self.device)
        columns_NCT = self.columns_in_paths(steps)
        factor_NCC = self.factor_NCC
        parts = []
        for each in steps:
            scale_R = torch.from_numpy(base_step * octaves(each.row[each.row_order]))
            parts += self.parts_of(scale_R.float())
        row_scale_NT = torch.stack(parts).to(self.device)
        row_scale_NT[row_scale_NT == 0] = 1.0  # of the rows that fill a part: nothing divides by 0
        column_scale_MC = torch.from_numpy(np.stack([octaves(s.column) for s in steps]))
        column_scale_NC = column_scale_MC[self.owner_N].float().to(self.device)

        error_NCT = torch.zeros_like(columns_NCT)
        points_NCT = torch.empty_like(columns_NCT)
        for start in range(0, columns_NCT.size(1), BLOCK):
            block = slice(start, start + BLOCK)
            # What the errors of earlier columns add to the targets of this block: one product of
            # large matrices, where a product for each column would read all of them each time.
            earlier_NBT = factor_NCC[:, :start, block].mT @ error_NCT[:, :start]
            target_NBT = columns_NCT[:, block] + earlier_NBT
            for c in range(start, start + target_NBT.size(1)):
                # Invariant: error_NCT holds weight minus restored weight of all columns before c.
                recent_N1B = factor_NCC[:, None, start:c, c]
                recent_NT = (recent_N1B @ error_NCT[:, start:c])[:, 0]
                target_NT = target_NBT[:, c - start] + recent_NT
                scale_NT = row_scale_NT * column_scale_NC[:, c, None]
                points_NT = coder.points(target_NT / scale_NT)
                points_NCT[:, c] = points_NT
                error_NCT[:, c] = columns_NCT[:, c] - points_NT * scale_NT
        return [
            self.points_of(i, points_NCT[self.owner_N == i], steps[i], base_step)
            for i in range(len(steps))
        ]

    def points_of(self, i: int, points_PCT: Tensor, steps: Steps, base_step: float) -> Points:
        """One matrix's points, from the order of paths and columns back to that of the matrix."""
        R, _ = self.weights_RC[i].shape
        ordered_RC = points_PCT.mT.flatten(0, 1)[:R].cpu().numpy()
        column_back = self.order_MC[i].argsort().cpu().numpy()
        points_RC = np.empty(ordered_RC.shape, np.int32)
        points_RC[steps.row_order] = ordered_RC[:, column_back]
        if np.abs(points_RC).max(initial=0) >= LARGEST_POINT - 4:
            r, c = np.unravel_index(np.abs(points_RC).argmax(), points_RC.shape)
            raise ValueError(
                f"{self.matrices[i].name}: weight [{r}, {c}] takes over {LARGEST_POINT} steps of"
                f" 2**{math.log2(base_step):.1f}; scale the matrix, or pack to fewer bytes"
            )
        column_step = steps.column.astype(np.int8)
        return Points.of(points_RC, steps.row.astype(np.int8), column_step[column_back])


def even_row_steps(rows_R: Tensor) -> np.ndarray:
    """Exponents that weigh the errors of all rows alike: as 1/sqrt(weight), 0 for the mean row.

    A row that counts 4 times as much has steps half as large, an octave less, which is -UNITS.
    """
    weight_R = rows_R.double().cpu().numpy()
    exact = -0.5 * UNITS * np.log2(np.maximum(weight_R, 1e-30))
    return np.rint(exact).clip(-COARSEST_ROW, COARSEST_ROW).astype(np.int64)


class Matrices:
    """Any matrices, in groups; the order of results is that in which they were given.

    Each is scaled so that its Hessian has a mean of 1 on the diagonal. Then matrices with the same
    inputs have the same exponents, which costs nothing to tell twice.
    Raises: ValueError for weights beyond LARGEST, which would saturate.
    """

    def __init__(self, matrices: list[Matrix], damping: float | None = None):
        roots = []
        for m in matrices:
            reach = 0.0
            mean = 1.0
            if m.weight_RC.numel():
                reach = float(m.weight_RC.abs().max())
                mean = m.hessian.mean_diagonal()
            if reach > LARGEST:
                raise ValueError(f"{m.name}: weights reach {reach:.4g}; points go to {LARGEST:.4g}")
            roots.append(math.sqrt(mean) if mean > 0 else 1.0)
        # A matrix that hardly counts, or alone does, must not take its base step out of range.
        self.scales = np.float32(np.clip(roots, 2.0**-30, 2.0**20))
        scaled = []
        for m, scale in zip(matrices, self.scales.tolist(), strict=True):
            hessian = Hessian(m.hessian.columns_CC / scale**2, m.hessian.rows_R)
            scaled.append(Matrix(m.weight_RC.float() * scale, hessian, m.name))
        places_of: dict[tuple[int, int], list[int]] = {}  # by length of paths and columns
        for i, matrix in enumerate(scaled):
            R, C = matrix.weight_RC.shape
            places_of.setdefault((path_steps(R), C), []).append(i)
        self.places = list(places_of.values())
        self.groups = [Group([scaled[i] for i in places], damping) for places in self.places]
        self.weights_of_spread = self.spread_histogram()

    def spread_histogram(self) -> np.ndarray:
        """How many weights reach how far over the step that weighs errors alike.

        Number i counts those that reach i - 1024 quarter octaves over it, at a base step of 1.
        """
        histogram = np.zeros(2048)
        for group in self.groups:
            for i, row in enumerate(group.row_spread):
                row_reach = row - group.even_row_steps[i]
                column_reach = group.column_spread[i] - group.even_column_steps[i]
                reach_RC = row_reach[:, None] + column_reach
                histogram += np.bincount(reach_RC.reshape(-1) + 1024, minlength=2048)
        return histogram

    def points(self, base_step: float, states: int = 8) -> list[Points]:
        """The points of every matrix at one base step, each matrix's steps as its Hessian asks."""
        chosen: list = [None] * len(self.scales)
        for places, group in zip(self.places, self.groups, strict=True):
            for i, points in zip(places, group.points(base_step, states), strict=True):
                chosen[i] = points
        return chosen

    def base_steps(self, base_step: float) -> list[float]:
        """Of each matrix: the common one, undone the scale that the matrix was given."""
        return (np.float32(base_step) / self.scales).tolist()

    def bits(self, base_step: float) -> float:
        """About how many the points will take: a Gaussian's entropy less one for the parity.

        For a weight whose spread is σ steps: log2(1 + (2.0665 σ)²) / 2, so 0 for σ = 0, and 1.2 for
        σ = 1. (2.0665 is sqrt(2 π e) / 2: points of one parity are 2 steps apart.)
        """
        spread = octaves(np.arange(len(self.weights_of_spread)) - 1024) / base_step
        bits = 0.5 * np.log2(1 + 2.0665**2 * spread**2)
        return float((self.weights_of_spread * bits).sum())
