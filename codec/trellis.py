"""Choose the points that stand for matrices: GPTQ's error feedback around a trellis quantiser.

A weight is `point * step`. The step of row r and column c is one base step, common to all matrices,
times 2**((row + column) / 4), with small integers for the row and the column. Points are integers,
but only even or only odd ones may come next, which the state of a small machine tells (trellis-
coded quantisation): each choice is as coarse as a scalar quantiser of step 2, a whole sequence
nearly as fine as one of step 1. A path runs down the rows of one column, for at most PATH_STEPS
rows, so the columns of a matrix and the parts of a column are independent. rans.py stores points.

Dimensions in names: R rows, C columns, T steps of a path, P paths (N where they stand side by
side as the parts of matrices), K classes, M magnitudes.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

# Ungerboeck's codes for one dimension: parity-check polynomials, most significant bit first
# of one state is the scalar quantiser of twice the step
PARITY_CHECKS = {1: (0, 0), 4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}
PATH_STEPS = 256  # 64 costs 0.014 bit per weight, 1024 saves 0.003
UNITS = 4  # of an exponent in an octave; with a free base step finer ones gain < 0.003 bit
BLOCK = 128  # columns between two matrix products of the feedback
MAX_POINT = 16383  # that has a frequency of its own; rans.py stores larger ones apart
LARGEST_POINT = 1 << 22  # float32 still tells the distances of neighbouring points there
FINEST = 2048  # root-mean-square of a row's or column's points
NARROWEST = 2.0**-16  # row or column, against the widest
COARSEST = 30.0  # log2 of the largest base step that is tried
LARGEST = 2.0**50  # weight; from some 2**58 on, base steps within rans.py's bounds saturate


@dataclass(frozen=True)
class Points:
    """A matrix on its trellis. Points are int32; exponents are int8, in 1/UNITS octaves.

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
        """The points with the spreads that they show, but for those that are stored apart."""
        scale_RC = octaves(row_step)[:, None] * octaves(column_step)
        return cls(points_RC, row_step, column_step, *spreads(folded(points_RC) * scale_RC))

    def classes(self, low: int, count: int, rows: slice = slice(None)) -> np.ndarray:
        """How far the weights of these rows reach over their steps, in quarter octaves from low."""
        row = self.row_spread[rows].astype(np.int16) - self.row_step[rows]
        column = self.column_spread.astype(np.int16) - self.column_step
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


def folded(points: np.ndarray) -> np.ndarray:
    """The points as they are coded: one beyond MAX_POINT as the small one of its residue modulo 4.

    The residue is all that the trellis sees of a point, so the path stays the same. A rare large
    point would else take up the frequencies of thousands of neighbours that never occur.

        folded([5, -3, 40_003])  ->  [5, -3, -1], since 40_003 = 4 * 10_001 - 1
    """
    return np.where(np.abs(points) > MAX_POINT, ((points + 2) & 3) - 2, points)


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
    """A matrix to quantise: its weights, and H such that an error e of a row costs e H eᵀ / 2.

    Raises: ValueError, naming the matrix, where they are not finite floats of matching shapes.
    """

    weight_RC: Tensor
    hessian_CC: Tensor
    name: str = "a matrix"

    def __post_init__(self):
        C = self.weight_RC.size(-1)
        if self.weight_RC.ndim != 2 or self.hessian_CC.shape != (C, C):
            shapes = f"{[*self.weight_RC.shape]} and {[*self.hessian_CC.shape]}"
            raise ValueError(f"{self.name}: weights and Hessian of {shapes} must be RxC and CxC")
        if not self.hessian_CC.is_floating_point():
            raise ValueError(f"{self.name}: the Hessian's {self.hessian_CC.dtype} is no float type")
        for what, numbers in (("weights", self.weight_RC), ("Hessian", self.hessian_CC)):
            if not numbers.isfinite().all():
                raise ValueError(f"{self.name}: {what} must be finite; here is NaN or infinity")


class Curvature(TorchFunctionMode):
    """Within it, each use of a named parameter by F.linear or F.embedding is added up.

    A matrix that maps x to y: Σ xxᵀ, and Σ g² of the gradients of y once a loss is differentiated.
    A table of which rows are looked up: Σ ggᵀ, and how often. Uses add up, so a tied or shared
    matrix has its due. One weight for all rows of a use: with one for each, some rows ask for more
    bits than points have (LOG.md).

    Source: the Fisher matrix as a Kronecker product (Martens and Grosse 2015), with the factor of
    the rows taken as a multiple of the identity.
    """

    def __init__(self, parameters: Iterable[tuple[str, Tensor]]):
        super().__init__()
        self.named = {id(p): (name, p) for name, p in parameters}
        self.copy_of: dict[str, Tensor] = {}
        self.sums: dict[tuple[str, str], Tensor] = {}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function is Tensor.to and id(args[0]) in self.named and out is not args[0]:
            name = self.named[id(args[0])][0]  # a copy in lower precision, until there is a newer
            self.named.pop(id(self.copy_of.get(name)), None)
            self.copy_of[name], self.named[id(out)] = out, (name, out)
        elif function in (F.linear, F.embedding) and id(args[1]) in self.named:
            name, weight = self.named[id(args[1])]
            with torch._C.DisableTorchFunction():
                if function is F.linear:
                    x_TC = args[0].detach().flatten(0, -2).float()
                    self._add(name, "xx", x_TC.T @ x_TC)
                    out.register_hook(lambda g: self._add(name, "g", g.float().square().sum()))
                else:
                    self._add(name, "uses", torch.tensor(args[0].numel()))

                    def add(g):
                        g_TC = g.flatten(0, -2).float()
                        self._add(name, "gg", g_TC.T @ g_TC)

                    out.register_hook(add)
        return out

    def _add(self, name: str, kind: str, value: Tensor) -> None:
        before = self.sums.get((name, kind))
        self.sums[name, kind] = value if before is None else before + value

    def hessians(self, tokens: int) -> dict[str, Tensor]:
        """H of every parameter that was used: errors e add Σ_r e_r H e_rᵀ / 2 nats a token.

        The loss that was differentiated is the sum over so many tokens.
        """
        found = {}
        for name, weight in [*self.named.values()]:
            parts = []
            for one, other in (("xx", "g"), ("gg", "uses")):
                if (name, one) in self.sums and (name, other) in self.sums:
                    mean = self.sums[name, other].to(self.sums[name, one]) / len(weight)
                    parts.append(self.sums[name, one] * (mean / tokens**2))
            if parts:
                found[name] = sum(parts)
        return found


# --- Quantiser: Viterbi inside GPTQ ----------------------------------------------------------
class ColumnQuantizer:
    """Chooses the points of one column of many matrices; every path starts in state 0.

    By distance alone: with the rate in the sum points lean to zero, in all rows of a matrix, which
    no Hessian of a row foresees and which costs the loss more than the bits are worth (LOG.md).
    """

    def __init__(self, states: int, device):
        arrivals = sorted((int(to), s, bit) for (s, bit), to in np.ndenumerate(transitions(states)))
        # two branches lead into every state: where from, and by which residue modulo 4
        origins = torch.tensor([s for _, s, _ in arrivals], device=device)
        residues = torch.tensor([(s & 1) + 2 * bit for _, s, bit in arrivals], device=device)
        self.states = states
        self.origin = origins.view(states, 2).T.flatten()
        self.residue = residues.view(states, 2).T.flatten()

    def points(self, x_PT: Tensor) -> Tensor:
        """The allowed points of least squared distance in all along each path."""
        x = x_PT.T.clamp(4 - LARGEST_POINT, LARGEST_POINT - 4).unsqueeze(1)
        residue = torch.arange(4.0, device=x.device)[:, None]
        nearest_T4P = ((x - residue) / 4).round_().mul_(4).add_(residue)
        residue_TP = self.residues((x - nearest_T4P).square_())
        return nearest_T4P.gather(1, residue_TP.unsqueeze(1))[:, 0].T

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
    Raises: ValueError where a Hessian with its damping is not positive definite.
    """
    diagonal_NC = hessian_NCC.diagonal(dim1=1, dim2=2)
    order_NC = diagonal_NC.argsort(dim=1, descending=True, stable=True)
    N, C = order_NC.shape
    H = hessian_NCC.gather(1, order_NC[:, :, None].expand(N, C, C))
    H = H.gather(2, order_NC[:, None, :].expand(N, C, C)).double()
    mean_N = diagonal_NC.double().mean(dim=1)
    ridge_N = torch.where(mean_N > 0, damping * mean_N, 1.0)
    H = H + ridge_N[:, None, None] * torch.eye(C, dtype=H.dtype, device=H.device)
    try:
        upper = torch.linalg.cholesky(H.flip(1, 2)).flip(1, 2)
    except torch.linalg.LinAlgError as error:
        raise ValueError(f"a Hessian is no sum of squares: {error}") from error
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
    row = log2_exponents(np.maximum(row_R, row_R.max(initial=0) * NARROWEST))
    relative_RC = weight_RC / octaves(row)[:, None]
    column_C = np.sqrt(np.square(relative_RC).sum(axis=0) / max(R, 1))
    return row, log2_exponents(np.maximum(column_C, column_C.max(initial=0) * NARROWEST))


class Group:
    """Matrices whose paths have one length and which have one number of columns, side by side.

    Source: GPTQ (Frantar et al. 2022) for the feedback; JPEG 2000 part 2 and VVC for the trellis.
    """

    def __init__(self, matrices: list[Matrix], damping: float = 0.01):
        self.shapes = [tuple(matrix.weight_RC.shape) for matrix in matrices]
        self.names = [matrix.name for matrix in matrices]
        self.steps = path_steps(self.shapes[0][0])
        parts = [max(-(-R // self.steps), 1) for R, _ in self.shapes]
        self.owner_N = torch.tensor([i for i, n in enumerate(parts) for _ in range(n)])
        order_MC, factor_MCC, self.pivot_MC = factor(
            torch.stack([matrix.hessian_CC for matrix in matrices]), damping
        )
        self.order_MC = order_MC
        self.factor_NCC = factor_MCC[self.owner_N]
        columns = [
            m.weight_RC.float().T[order] for m, order in zip(matrices, order_MC, strict=True)
        ]
        reach = [spreads(columns_CR.T.cpu()) for columns_CR in columns]
        self.row_spread = [row.astype(np.int64) for row, _ in reach]
        self.column_spread = [column.astype(np.int64) for _, column in reach]
        self.finest_MC = log2_exponents(self.pivot_MC.rsqrt().cpu())
        self.columns_NCT = torch.stack([part for w in columns for part in self.parts_of(w)])
        self.device = self.columns_NCT.device

    def parts_of(self, values_xR: Tensor) -> Iterable[Tensor]:
        """Cut the last dimension, rows, into parts of one path each, the last filled with zeros."""
        R = values_xR.size(-1)
        missing = -R % self.steps if R else self.steps
        return F.pad(values_xR, (0, missing)).split(self.steps, dim=-1)

    def exponents(self, base_step: float) -> list[tuple[np.ndarray, np.ndarray]]:
        """Steps of the rows and of the columns, in the order of coding, of each matrix.

        Those of columns follow the Hessian's pivots, so that a point's rounding costs the same
        everywhere: coarse where inputs are weak, or foreseeable from other inputs. Hardly any row
        or column is worth the finest steps. A row whose largest weight would still exceed half the
        largest point (the other half is for the errors that GPTQ adds) has coarser steps.
        """
        found, highest = [], round(UNITS * math.log2(base_step * FINEST))
        spreads_and_steps = zip(self.row_spread, self.column_spread, self.finest_MC, strict=True)
        for row, column, step in spreads_and_steps:
            column_step, row_step = step.astype(np.int64), np.zeros(len(row), np.int64)
            middle = np.median(row) if row.size else 0
            column_step += (column + middle - column_step - highest).clip(min=0).astype(np.int64)
            middle = np.median(column - column_step) if column.size else 0
            row_step += (row + middle - highest).clip(min=0).astype(np.int64)
            found.append((row_step, column_step.clip(max=127)))
        column_scale_NC = torch.from_numpy(np.stack([octaves(column) for _, column in found]))
        column_scale_NC = column_scale_NC[self.owner_N].float().to(self.device)
        reach_NCT = F.pad(self.columns_NCT.abs() / column_scale_NC[:, :, None], (0, 0, 1, 0))
        reach_NT = reach_NCT.amax(1).cpu()  # of no columns it is the 0 that was put before them
        for i, (row_step, column_step) in enumerate(found):
            reach_R = reach_NT[self.owner_N == i].flatten()[: len(row_step)].double().numpy()
            most = np.maximum(reach_R / (base_step * LARGEST_POINT / 2), 1e-30)
            least_step = np.ceil(UNITS * np.log2(most)).astype(np.int64)
            found[i] = np.maximum(row_step, least_step).clip(max=127), column_step
        return found

    def points(self, base_step: float, states: int = 8) -> list[Points]:
        """The points of each matrix: column by column those of least weighted error.

        Raises: ValueError naming a weight that the largest point does not reach.
        """
        exponents = self.exponents(base_step)
        coder = ColumnQuantizer(states, self.device)
        row_scales = [torch.from_numpy(base_step * octaves(row)).float() for row, _ in exponents]
        parts = [part for scale_R in row_scales for part in self.parts_of(scale_R)]
        row_scale_NT = torch.stack(parts).to(self.device)
        row_scale_NT[row_scale_NT == 0] = 1.0  # of the rows that fill a part
        column_scale_NC = torch.from_numpy(np.stack([octaves(column) for _, column in exponents]))
        column_scale_NC = column_scale_NC[self.owner_N].float().to(self.device)

        columns_NCT, factor_NCC = self.columns_NCT, self.factor_NCC
        error_NCT, points_NCT = torch.zeros_like(columns_NCT), torch.empty_like(columns_NCT)
        for start in range(0, columns_NCT.size(1), BLOCK):
            block = slice(start, start + BLOCK)
            # what the errors of earlier columns add to the targets of this block
            target_NBT = columns_NCT[:, block] + (
                factor_NCC[:, :start, block].mT @ error_NCT[:, :start]
            )
            for c in range(start, start + target_NBT.size(1)):
                recent_N1B = factor_NCC[:, None, start:c, c]
                target_NT = target_NBT[:, c - start] + (recent_N1B @ error_NCT[:, start:c])[:, 0]
                scale_NT = row_scale_NT * column_scale_NC[:, c, None]
                points_NT = coder.points(target_NT / scale_NT)
                points_NCT[:, c] = points_NT
                error_NCT[:, c] = columns_NCT[:, c] - points_NT * scale_NT
        chosen = []
        for i, (R, _) in enumerate(self.shapes):
            back_C = self.order_MC[i].argsort()
            whole_RC = points_NCT[self.owner_N == i].mT.flatten(0, 1)[:R, back_C]
            points_RC = whole_RC.cpu().numpy().astype(np.int32)
            if np.abs(points_RC).max(initial=0) >= LARGEST_POINT - 4:
                r, c = np.unravel_index(np.abs(points_RC).argmax(), points_RC.shape)
                raise ValueError(
                    f"{self.names[i]}: weight [{r}, {c}] takes over {LARGEST_POINT} steps of"
                    f" 2**{math.log2(base_step):.1f}; scale the matrix, or pack to fewer bytes"
                )
            row_step, column_step = (step.astype(np.int8) for step in exponents[i])
            column_step = column_step[back_C.cpu().numpy()]
            chosen.append(Points.of(points_RC, row_step, column_step))
        return chosen


class Matrices:
    """Any matrices, in groups; the order of results is that in which they were given.

    Each is scaled so that its Hessian has a mean of 1 on the diagonal. Then matrices with the same
    inputs have the same exponents, which costs nothing to tell twice.
    Raises: ValueError for weights beyond LARGEST, which would saturate.
    """

    def __init__(self, matrices: list[Matrix], damping: float = 0.01):
        for m in matrices:
            if m.weight_RC.numel() and (reach := float(m.weight_RC.abs().max())) > LARGEST:
                raise ValueError(f"{m.name}: weights reach {reach:.4g}; points go to {LARGEST:.4g}")
        self.count, self.groups, self.places = len(matrices), [], []
        means = [
            float(m.hessian_CC.diagonal().mean()) if m.weight_RC.numel() else 1 for m in matrices
        ]
        # a matrix that hardly counts, or alone does, must not take its base step out of range
        roots = [math.sqrt(mean) if mean > 0 else 1.0 for mean in means]
        self.scales = np.float32(np.clip(roots, 2.0**-30, 2.0**20))
        matrices = [
            Matrix(m.weight_RC.float() * scale, m.hessian_CC / scale**2, m.name)
            for m, scale in zip(matrices, self.scales.tolist(), strict=True)
        ]
        kinds = [(path_steps(R), C) for R, C in (m.weight_RC.shape for m in matrices)]
        for kind in dict.fromkeys(kinds):
            places = [i for i, other in enumerate(kinds) if other == kind]
            self.places.append(places)
            self.groups.append(Group([matrices[i] for i in places], damping))
        self.weights_of_spread = np.zeros(2048)  # by quarter octaves over the finest step
        for group in self.groups:
            for row, column, step in zip(
                group.row_spread, group.column_spread, group.finest_MC, strict=True
            ):
                total = row[:, None] + (column - step)
                self.weights_of_spread += np.bincount(total.reshape(-1) + 1024, minlength=2048)

    def points(self, base_step: float, states: int = 8) -> list[Points]:
        chosen: list = [None] * self.count
        for places, group in zip(self.places, self.groups, strict=True):
            for i, points in zip(places, group.points(base_step, states), strict=True):
                chosen[i] = points
        return chosen

    def base_steps(self, base_step: float) -> list[float]:
        """Of each matrix: the common one, undone the scale that the matrix was given."""
        return (np.float32(base_step) / np.float32(self.scales)).tolist()

    def bits(self, base_step: float) -> float:
        """About how many the points will take: a Gaussian's entropy less one for the parity."""
        spread = octaves(np.arange(len(self.weights_of_spread)) - 1024) / base_step
        return float((self.weights_of_spread * 0.5 * np.log2(1 + 2.0665**2 * spread**2)).sum())


def quantize_to_size(
    matrices: list[Matrix],
    most_bytes: int,
    encode: Callable[[list[Points], list[float], int], bytes],
    *,
    finest_step: float = 2.0**-50,
    states: int = 8,
) -> bytes:
    """What encode makes of these matrices in 99.9 to 100 % of most_bytes.

    The base step is the dial; what is meant to take more than its finest step ends there, smaller.
    Where errors are weighed in a common unit, one step for all is the best allocation of bits. Of
    few or odd weights sizes jump, and 24 steps may all miss: then the largest that fits is taken.
    Raises: ValueError where none fits.
    """
    prepared = Matrices(matrices)
    least, finest = 0.999 * most_bytes, math.log2(finest_step)
    aim, miss, above, below = (least + most_bytes) / 2, 0.0, -math.inf, math.inf
    best = b""
    for attempt in range(24):
        octave, highest = finest, COARSEST
        for _ in range(50):  # halving, by the estimate and by what it missed the last time
            middle = (octave + highest) / 2
            if prepared.bits(2.0**middle) / 8 + miss > aim:
                octave = middle
            else:
                highest = middle
        if math.isfinite(below - above):  # the estimate may be out of what is known to be between
            edge = (below - above) / 8
            octave = min(max(octave, above + edge), below - edge)
        elif attempt >= 4 and below < math.inf:  # four times too small: most weights may be zeros
            octave = finest
        step = float(np.float32(2.0**octave))
        stream = encode(prepared.points(step, states), prepared.base_steps(step), states)
        is_finest = octave - finest < 1e-6
        if len(stream) <= most_bytes and (len(stream) >= least or is_finest):
            return stream
        if len(best) < len(stream) <= most_bytes:
            best = stream
        if len(stream) > most_bytes and octave > COARSEST - 1e-6:
            break  # no step is left that could take less
        miss = len(stream) - prepared.bits(step) / 8
        if len(stream) > aim:
            above = octave
        else:
            below = octave
    if best:
        return best
    weights = sum(matrix.weight_RC.numel() for matrix in matrices)
    raise ValueError(
        f"most_bytes={most_bytes} for the points of {weights} weights, all else taken off, is out"
        f" of reach: the last step, 2**{octave:.3f}, gave {len(stream)}; choose another size"
    )
