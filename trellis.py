"""Choose the points that stand for matrices: GPTQ's error feedback around a trellis quantiser.

A weight is `point * step`. The step of row r and column c is one base step, common to all matrices,
times 2**((row + column) / 4), with small integers for the row and the column. Points are integers,
but only even or only odd ones may come next, which the state of a small machine tells (trellis-
coded quantisation): each choice is as coarse as a scalar quantiser of step 2, a whole sequence
nearly as fine as one of step 1. A path runs down the rows of one column, for at most PATH_STEPS
rows, so the columns of a matrix and the parts of a column are independent. rans.py stores points.

Dimensions in names: N matrices of one shape, R rows, C columns, T steps of a path, P paths,
K classes, M magnitudes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Ungerboeck's codes for one dimension: parity-check polynomials, most significant bit first
# of one state is the scalar quantiser of twice the step
PARITY_CHECKS = {1: (0, 0), 4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}
PATH_STEPS = 256  # 64 costs 0.014 bit per weight, 1024 saves 0.003
UNITS = 4  # of an exponent in an octave; with a free base step finer ones gain < 0.003 bit
BLOCK = 128  # columns between two matrix products of the feedback
RATE_WEIGHT = 0.35  # of a bit against a squared step: the slope of the rate-distortion curve
MAX_POINT = 8191
FINEST = 1024  # root-mean-square of a row's or column's points


@dataclass(frozen=True)
class Points:
    """A matrix on its trellis. Exponents are int8, in 1/UNITS octaves.

    row_step and column_step scale the base step; row_spread and column_spread only tell the coder
    how far the weights of a row and a column reach.
    """

    points_RC: np.ndarray
    row_step: np.ndarray
    column_step: np.ndarray
    row_spread: np.ndarray
    column_spread: np.ndarray

    @classmethod
    def of(cls, points_RC, row_step, column_step) -> "Points":
        """The points with the spreads that they show."""
        scale_RC = octaves(row_step)[:, None] * octaves(column_step)
        return cls(points_RC, row_step, column_step, *spreads(points_RC * scale_RC))

    def classes_RC(self, low: int, count: int) -> np.ndarray:
        row = self.row_spread.astype(np.int64) - self.row_step
        column = self.column_spread.astype(np.int64) - self.column_step
        return np.clip(row[:, None] + column, low, low + count - 1) - low

    def dequantize(self, base_step: float) -> np.ndarray:
        """The fp32 weights: one rounding for the step, one for the product, the same anywhere."""
        row, column = octaves(self.row_step), octaves(self.column_step)
        step_RC = (np.float64(np.float32(base_step)) * row[:, None] * column).astype(np.float32)
        return self.points_RC.astype(np.float32) * step_RC


def octaves(exponents: np.ndarray) -> np.ndarray:
    """2**(exponents / UNITS), by square roots and powers of two, which are alike everywhere."""
    root = math.sqrt(math.sqrt(2))
    fractions = np.array([1.0, root, math.sqrt(2), math.sqrt(2) * root])
    whole, part = np.divmod(exponents.astype(np.int64), UNITS)
    return np.ldexp(fractions[part], whole)


def path_steps(rows: int) -> int:
    """Steps of a path in a matrix of so many rows; row r is step r % steps of part r // steps."""
    parts = max(-(-rows // PATH_STEPS), 1)
    return max(-(-rows // parts), 1)


def transitions(states: int) -> np.ndarray:
    """next_state[state, bit]: the systematic feedback encoder of the code with so many states.

    In state s a point has the parity of s; the bit is the point's next bit, and so tells which of
    the residues s & 1 and (s & 1) + 2 modulo 4 it has.
    """
    feedback, forward = PARITY_CHECKS[states]
    state = np.arange(states)[:, None]
    bit = np.arange(2)
    return (state >> 1) ^ ((feedback >> 1) * (state & 1)) ^ ((forward >> 1) * bit)


# --- Curvature: what errors cost ------------------------------------------------------------
@dataclass(frozen=True)
class Matrix:
    """A matrix to quantise: its weights, H = Σ xxᵀ of its inputs, and what a row's error weighs."""

    weight_RC: Tensor
    hessian_CC: Tensor
    row_weight_R: Tensor


class Curvature(TorchFunctionMode):
    """Within it, every F.linear by a named parameter adds its inputs' and gradients' squares.

    hessian_CC[name] is Σ xxᵀ over all uses, so those of tied and shared matrices add up;
    row_weight_R[name] is Σ g² of the outputs' gradients once a loss is differentiated. Half of
    tokens**-2 Σ_r row_weight_r * e_r H e_rᵀ then estimates the loss that errors e add.

    Source: the Fisher matrix as a Kronecker product (Martens and Grosse 2015), with the factor of
    the outputs taken diagonal.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]):
        super().__init__()
        self.parameters = {id(p): (name, p) for name, p in parameters}
        self.hessian_CC: dict[str, Tensor] = {}
        self.row_weight_R: dict[str, Tensor] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        name, _ = self.parameters.get(id(args[1]), (None, None)) if len(args) > 1 else (None, None)
        if function is Tensor.to and id(args[0]) in self.parameters:  # a copy in lower precision
            self.parameters[id(out)] = self.parameters[id(args[0])][0], out
        elif function is torch.nn.functional.linear and name:
            with torch._C.DisableTorchFunction():
                x_TC = args[0].detach().flatten(0, -2).float()
                self._add(self.hessian_CC, name, x_TC.T @ x_TC)
                out.register_hook(
                    lambda g: self._add(
                        self.row_weight_R, name, g.flatten(0, -2).float().square().sum(0)
                    )
                )
        return out

    def matrix(self, name: str, weight_RC: Tensor) -> Matrix:
        """The named matrix as quantize_all wants it, on the device of its Hessian.

        One weight for all its rows: with one for each, some ask for more bits than points have.
        """
        hessian_CC, row_weight_R = self.hessian_CC[name], self.row_weight_R[name]
        row_weight_R = row_weight_R.mean().clamp(min=1e-30).expand(len(row_weight_R))
        return Matrix(weight_RC.detach().to(hessian_CC), hessian_CC, row_weight_R)

    @staticmethod
    def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
        sums[name] = sums[name] + value if name in sums else value


# --- Quantiser: Viterbi inside GPTQ ----------------------------------------------------------
class ColumnQuantizer:
    """Chooses the points of one column of many matrices; every path starts in state 0."""

    def __init__(self, states: int, prices: "Prices", device):
        arrivals = sorted((int(to), s, bit) for (s, bit), to in np.ndenumerate(transitions(states)))
        # two branches lead into every state: where from, and by which residue modulo 4
        origins = torch.tensor([s for _, s, _ in arrivals], device=device)
        residues = torch.tensor([(s & 1) + 2 * bit for _, s, bit in arrivals], device=device)
        self.states = states
        self.origin = origins.view(states, 2).T.flatten()
        self.residue = residues.view(states, 2).T.flatten()
        self.low, self.bits_KM = prices.low, prices.bits_KM.to(device)

    def points(self, x_NR: Tensor, classes_NR: Tensor) -> Tensor:
        """Points that cost least in all along each path: squared distance + RATE_WEIGHT * bits."""
        N, R = x_NR.shape
        steps = path_steps(R)
        parts = -(-R // steps)

        def as_paths(values_NR: Tensor) -> Tensor:
            padded = torch.nn.functional.pad(values_NR, (0, parts * steps - R))
            return padded.view(N * parts, steps).T.unsqueeze(1)

        x, (K, M) = as_paths(x_NR.clamp(4 - MAX_POINT, MAX_POINT - 4)), self.bits_KM.shape
        row = as_paths((classes_NR - self.low).clamp_(0, K - 1)) * M
        residue = torch.arange(4.0, device=x.device)[:, None]
        near = ((x - residue) / 4).round_().mul_(4).add_(residue)
        far = torch.where(x > near, near + 4, near - 4)  # the next one, on the other side of x

        def cost(points: Tensor) -> Tensor:
            bits = self.bits_KM.take(points.abs().clamp_(max=M - 1).long() + row)
            return (x - points).square_().add_(bits, alpha=RATE_WEIGHT)

        near_cost, far_cost = cost(near), cost(far)
        residue_TP = self.residues(torch.minimum(near_cost, far_cost))
        points = torch.where(far_cost < near_cost, far, near)
        points_TP = points.gather(1, residue_TP.unsqueeze(1))[:, 0]
        return points_TP.T.reshape(N, parts * steps)[:, :R]

    def residues(self, cost_T4P: Tensor) -> Tensor:
        """The residues modulo 4 along the cheapest path, given what each costs at each step."""
        if self.states == 1:
            return (cost_T4P[:, 2] < cost_T4P[:, 0]).long() * 2
        steps, _, paths = cost_T4P.shape
        branch_cost = cost_T4P.index_select(1, self.residue)
        total = torch.full((self.states, paths), math.inf, device=cost_T4P.device)
        total[0] = 0
        took_second = torch.empty(steps, self.states, paths, dtype=torch.bool, device=total.device)
        for t in range(steps):
            branches = total.index_select(0, self.origin).add_(branch_cost[t])
            first, second = branches.view(2, self.states, paths)
            torch.lt(second, first, out=took_second[t])
            total = torch.minimum(first, second)
        state = total.argmin(0)
        branch_TP = torch.empty(steps, paths, dtype=torch.long, device=total.device)
        offset = took_second.long().mul_(self.states)
        for t in reversed(range(steps)):
            branch = offset[t].gather(0, state[None])[0].add_(state)
            branch_TP[t] = branch
            state = self.origin.take(branch)
        return self.residue.take(branch_TP)


def factor(hessian_NCC: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """Column order, unit upper-triangular factor and pivots: H[order] = factor diag(pivot) factorᵀ.

    With that, the weighted error of a row is Σ pivot_c * (target_c - chosen_c)², where a column's
    target takes up the errors of the columns before it. This is GPTQ without an inverse.
    Order: decreasing diagonal. Damping is relative to the mean of the diagonal.
    """
    diagonal_NC = hessian_NCC.diagonal(dim1=1, dim2=2)
    order_NC = diagonal_NC.argsort(dim=1, descending=True, stable=True)
    N, C = order_NC.shape
    H = hessian_NCC.gather(1, order_NC[:, :, None].expand(N, C, C))
    H = H.gather(2, order_NC[:, None, :].expand(N, C, C)).double()
    mean_N = diagonal_NC.double().mean(dim=1)
    ridge_N = torch.where(mean_N > 0, damping * mean_N, 1.0)
    H = H + ridge_N[:, None, None] * torch.eye(C, dtype=H.dtype, device=H.device)
    upper = torch.linalg.cholesky(H.flip(1, 2)).flip(1, 2)
    root_NC = upper.diagonal(dim1=1, dim2=2)
    return order_NC, (upper / root_NC[:, None, :]).float(), root_NC.square()


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
    row = log2_exponents(np.maximum(row_R, row_R.max(initial=0) / 1024))
    relative_RC = weight_RC / octaves(row)[:, None]
    column_C = np.sqrt(np.square(relative_RC).sum(axis=0) / max(R, 1))
    return row, log2_exponents(np.maximum(column_C, column_C.max(initial=0) / 1024))


class Prices(NamedTuple):
    """Bits of a point by class, counted from low, and by magnitude."""

    low: int
    bits_KM: Tensor


def gaussian_prices(low: int, high: int, base_step: float) -> Prices:
    """What points cost where the weights of every class are Gaussian with its spread."""
    spread_K1 = torch.from_numpy(octaves(np.arange(low, high + 1))).float()[:, None] / base_step
    spread_K1 = spread_K1.clamp(min=0.1)
    reach = min(int(8 * spread_K1.max()) + 8, MAX_POINT)
    exponent_KM = (torch.arange(reach + 1) / spread_K1).square() / (2 * math.log(2))
    return Prices(low, (exponent_KM + spread_K1.log2()).clamp(max=24))


def quantize(
    weight_NRC: Tensor,
    hessian_NCC: Tensor,
    base_step: float,
    *,
    row_weight_NR: Tensor | None = None,
    states: int = 8,
    damping: float = 0.01,
    prices: Prices | None = None,
) -> list[Points]:
    """The points of matrices of one shape: least weighted error + RATE_WEIGHT * step² * bits.

    The error is Σ_r row_weight_r * e_r H e_rᵀ. Steps follow its pivots, so that a point's rounding
    costs the same everywhere: coarse where inputs are weak, or foreseeable from other inputs.

    Source: GPTQ (Frantar et al. 2022) for the feedback; JPEG 2000 part 2 and VVC for the trellis.
    A weight over MAX_POINT steps saturates.
    Raises: ValueError for weights or a Hessian that are not finite.
    """
    N, R, C = weight_NRC.shape
    device = weight_NRC.device
    for what, numbers in (("weights", weight_NRC), ("Hessian", hessian_NCC)):
        if not numbers.isfinite().all():
            raise ValueError(f"{what} must be finite; here is NaN or infinity")
    order_NC, factor_NCC, pivot_NC = factor(hessian_NCC, damping)
    columns_NCR = weight_NRC.float().transpose(1, 2)
    columns_NCR = columns_NCR.gather(1, order_NC[:, :, None].expand(N, C, R))
    if row_weight_NR is None:
        row_weight_NR = torch.ones(N, R)
    row_step = log2_exponents(row_weight_NR.double().rsqrt().cpu())
    reach = [spreads(columns_CR.T) for columns_CR in columns_NCR.cpu()]
    column_step = log2_exponents(pivot_NC.rsqrt().cpu())  # here and below in the order of coding
    row_class = np.array([row for row, _ in reach], np.int64).reshape(N, R) - row_step
    column_class = np.array([column for _, column in reach], np.int64).reshape(N, C) - column_step
    # hardly any row or column is worth the finest steps, and few may exceed the largest point
    highest = round(UNITS * math.log2(base_step * FINEST))
    for own, step, other in (
        (column_class, column_step, row_class),
        (row_class, row_step, column_class),
    ):
        typical = np.median(other, axis=1, keepdims=True) if other.size else 0
        excess = (own + typical - highest).clip(min=0).astype(np.int64)
        own -= excess
        step[:] = (step + excess).clip(max=127)
    if prices is None:
        low = row_class.min(initial=0) + column_class.min(initial=0)
        high = row_class.max(initial=0) + column_class.max(initial=0)
        prices = gaussian_prices(low, high, base_step)
    coder = ColumnQuantizer(states, prices, device)
    row_scale_NR = torch.from_numpy(np.float32(base_step) * octaves(row_step)).float().to(device)
    column_scale_NC = torch.from_numpy(octaves(column_step)).float().to(device)
    row_class_NR = torch.from_numpy(row_class).to(device)
    column_class_NC = torch.from_numpy(column_class).to(device)

    error_NCR = torch.zeros_like(columns_NCR)
    points_NCR = torch.empty(columns_NCR.shape, dtype=torch.int16, device=device)
    for start in range(0, C, BLOCK):
        block = slice(start, start + BLOCK)
        # what the errors of earlier columns add to the targets of this block
        target_NBR = columns_NCR[:, block] + (
            factor_NCC[:, :start, block].transpose(1, 2) @ error_NCR[:, :start]
        )
        for c in range(start, min(start + BLOCK, C)):
            recent_N1B = factor_NCC[:, None, start:c, c]
            target_NR = target_NBR[:, c - start] + (recent_N1B @ error_NCR[:, start:c])[:, 0]
            scale_NR = row_scale_NR * column_scale_NC[:, c, None]
            classes_NR = row_class_NR + column_class_NC[:, c, None]
            points_NR = coder.points(target_NR / scale_NR, classes_NR)
            points_NCR[:, c] = points_NR
            error_NCR[:, c] = columns_NCR[:, c] - points_NR * scale_NR
    back_NC = order_NC.argsort(dim=1)
    points = points_NCR.gather(1, back_NC[:, :, None].expand(N, C, R)).transpose(1, 2).cpu().numpy()
    column_step = np.take_along_axis(column_step, back_NC.cpu().numpy(), axis=1)
    return [Points.of(*parts) for parts in zip(points, row_step, column_step, strict=True)]


def quantize_all(matrices: list[Matrix], base_step: float, states: int = 8) -> list[Points]:
    """The points of every matrix, those of one shape together."""
    points: list = [None] * len(matrices)
    for shape in {m.weight_RC.shape: None for m in matrices}:
        alike = [i for i, m in enumerate(matrices) if m.weight_RC.shape == shape]
        weight_NRC = torch.stack([matrices[i].weight_RC for i in alike])
        hessian_NCC = torch.stack([matrices[i].hessian_CC for i in alike])
        row_weight_NR = torch.stack([matrices[i].row_weight_R for i in alike])
        chosen = quantize(
            weight_NRC, hessian_NCC, base_step, row_weight_NR=row_weight_NR, states=states
        )
        for i, matrix_points in zip(alike, chosen, strict=True):
            points[i] = matrix_points
    return points


def quantize_to_size(
    matrices: list[Matrix],
    stream_bytes: int,
    encode: Callable[[list[Points], float, int], bytes],
    states: int = 8,
) -> bytes:
    """What encode makes of these matrices in 99.9 to 100 % of stream_bytes, or up to 32 below it.

    The base step is the dial. One state gives about the size of many, in a tenth of the time, so
    that few passes with the real number of states remain.
    Raises: ValueError where no step lands.
    """
    weights = max(sum(m.weight_RC.numel() for m in matrices), 1)
    octave = 0.0
    for pass_states, low in ((1, 0.98), (states, 0.999)):
        lowest = min(low * stream_bytes, stream_bytes - 32)
        aim, above, below = (lowest + stream_bytes) / 2, None, None
        for _ in range(24):
            step = float(np.float32(2.0**octave))
            stream = encode(quantize_all(matrices, step, pass_states), step, pass_states)
            if lowest <= len(stream) <= stream_bytes:
                break
            if len(stream) > aim:
                above = octave, len(stream)
            else:
                below = octave, len(stream)
            # a weight loses up to one bit in an octave; between two sizes a line is closer
            octave += float(np.clip(8 * (len(stream) - aim) / weights, -8, 8))
            if above and below:
                part = (above[1] - aim) / (above[1] - below[1])
                octave = above[0] + part * (below[0] - above[0])
            octave = min(max(octave, -50.0), 30.0)
        else:
            raise ValueError(
                f"stream_bytes={stream_bytes} for {weights} weights is out of reach: the last of"
                f" 24 steps, 2**{octave:.3f}, gave {len(stream)}; choose another size"
            )
    return stream
