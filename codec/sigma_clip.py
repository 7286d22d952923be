"""The field's quantiser: rows on grids of k standard deviations, chosen column by column by GPTQ.

The step of a row is k * std(row) / top code, and k is the one dial: the wider the grid, the fewer
distinct codes, the fewer bytes. At 6 bits and k = 12.85, codes of a Gaussian row rarely pass 8 of
the 31 there are, and take 3.3 bits.

The field compresses its codes by brotli. `encode` gives them to rans.py instead, as points of a
trellis with one state, which is none, so that quantize.decode reads them; and it rounds the steps
of rows to quarter octaves, so that they take a byte. Both favour the field: of a trained model of
0.45 M parameters (n = 1; k = 6.4, 9 and 12.85) the codes with their steps took 0.8, 1.1 and 1.3 %
less than brotli-11 made of the same k with fp16 steps, and errors cost 5 % less.

Source: GPTQ (Frantar et al. 2022) with the full Hessian; the steps of upstream PR #1394.

Dimensions in names: R rows and C columns of a matrix.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor

from codec import container, rans
from codec.curvature import Hessian
from codec.gptq import factor
from codec.rows import FP16_BITS, FP16_TINY, TOP_CODE, Plan, PlanRow, Quantized, State, match_plan
from codec.trellis import Points, log2_exponents, octaves

DAMPING = 0.01  # of a Hessian's mean diagonal, as the field has it
ONE_STATE = 1  # a scalar quantiser: its points are the even numbers
TRIES = 12  # at most, for each plan
CLOSE_ENOUGH = 0.999  # of the bytes that may be used
NARROWEST, WIDEST = 0.25, 64.0  # times the widths of a plan


def gptq_rows(weight_RC: Tensor, hessian_CC: Tensor, bits: int, sigmas: float) -> Quantized:
    """Rows of fp16 step sigmas * std / top code, as the field stores them."""
    top = TOP_CODE[bits]
    scale_R = (sigmas * weight_RC.double().std(dim=1) / top).clamp(min=FP16_TINY).half()
    order_C, factor_CC, _ = (part[0] for part in factor(hessian_CC[None], DAMPING))
    codes_RC = gptq_codes(weight_RC, order_C, factor_CC, scale_R.float(), top)
    return Quantized(codes_RC.to(torch.int8), scale_R)


def gptq_codes(
    weight_RC: Tensor, order_C: Tensor, factor_CC: Tensor, step_R: Tensor, top: int
) -> Tensor:
    """Whole numbers within ±top, in fp32: each column's target takes up the errors before it."""
    w_RC = weight_RC.float()[:, order_C]
    error_RC = torch.zeros_like(w_RC)
    codes_RC = torch.zeros_like(w_RC)
    for c in range(w_RC.shape[1]):
        target_R = w_RC[:, c] + error_RC[:, :c] @ factor_CC[:c, c]
        codes_RC[:, c] = (target_R / step_R).round().clamp(-top, top)
        error_RC[:, c] = w_RC[:, c] - codes_RC[:, c] * step_R
    return codes_RC[:, order_C.argsort()]


@dataclass(frozen=True)
class Prepared:
    """A matrix with all that does not depend on the width of its grid."""

    weight_RC: Tensor
    hessian: Hessian
    order_C: Tensor
    factor_CC: Tensor
    spread: float  # geometric mean of the rows' standard deviations
    row_step: np.ndarray  # of each row over that mean, in quarter octaves

    @classmethod
    def of(cls, weight_RC: Tensor, hessian: Hessian | Tensor) -> "Prepared":
        hessian = Hessian.of(hessian, len(weight_RC))
        weight_RC = weight_RC.detach().to(hessian.columns_CC.device, torch.float32)
        order_C, factor_CC, _ = (part[0] for part in factor(hessian.columns_CC[None], DAMPING))
        std_R = weight_RC.double().std(dim=1, correction=0).cpu().numpy()
        # A row that hardly varies beside the others gets a finer step than any, but one there is.
        std_R = np.maximum(std_R, max(std_R.max(initial=0) * 2.0**-16, 1e-12))
        spread = math.exp(np.log(std_R).mean())
        return cls(weight_RC, hessian, order_C, factor_CC, spread, log2_exponents(std_R / spread))

    def points(self, bits: int, sigmas: float) -> tuple[Points, float]:
        """The points at this width, with their base step: half of a code's, for they are even."""
        top = TOP_CODE[bits]
        base_step = float(np.float32(sigmas * self.spread / top / 2))
        step_R = torch.from_numpy(2 * base_step * octaves(self.row_step)).float()
        step_R = step_R.to(self.weight_RC.device)
        codes_RC = gptq_codes(self.weight_RC, self.order_C, self.factor_CC, step_R, top)
        points_RC = 2 * codes_RC.cpu().numpy().astype(np.int32)
        column_step = np.zeros(points_RC.shape[1], np.int8)
        return Points.of(points_RC, self.row_step, column_step), base_step

    def cost(self, points: Points, base_step: float) -> float:
        """What the points add to the loss by the Hessian, in nats a token."""
        restored_RC = torch.from_numpy(points.dequantize(base_step)).to(self.weight_RC.device)
        error_RC = restored_RC - self.weight_RC
        cost_R = ((error_RC @ self.hessian.columns_CC.float()) * error_RC).sum(dim=1)
        return float((cost_R * self.hessian.rows_R).sum()) / 2


def encode(
    state: State,
    hessians: Mapping[str, Hessian | Tensor],
    plans: Sequence[Plan],
    settings: dict,
    most_bytes: float,
    seconds_left: Callable[[], float] = lambda: math.inf,
) -> bytes:
    """An artifact of 99.9 to 100 % of most_bytes, by the plan that costs least by the Hessians.

    A plan gives the bits of each tensor and its k, as clip_sigmas; all k of a plan are widened or
    narrowed alike until the artifact fits. All plans agree on which tensors are fp16.
    Raises: ValueError for a plan that does not match the tensors, and where nothing fits;
    TimeoutError where there was no time for a single try.
    """
    row_of = match_plan(plans[0], state)
    names = [name for name in state if row_of[name].bits != FP16_BITS]
    table, streams = container.halves_beside_points(state, names)
    beside_bytes = len(container.write(table, streams, settings, container.POINT_CODER))
    matrices = {name: Prepared.of(state[name], hessians[name]) for name in names}
    tries = (
        fitting_streams(matrices, match_plan(plan, state), most_bytes, beside_bytes, seconds_left)
        for plan in plans
    )
    _, points = min(chain.from_iterable(tries), key=itemgetter(0), default=(math.inf, None))
    if points is not None:
        return container.write(table, [*streams, points], settings, container.POINT_CODER)
    if seconds_left() < 0:
        raise TimeoutError("no time is left to choose codes")
    weights = sum(matrix.weight_RC.numel() for matrix in matrices.values())
    raise ValueError(
        f"{most_bytes=} is out of reach for {weights} weights at {WIDEST:g} times the widest"
        " grid; take a smaller model"
    )


def fitting_streams(
    matrices: Mapping[str, Prepared],
    row_of: Mapping[str, PlanRow],
    most_bytes: float,
    beside_bytes: int,
    seconds_left: Callable[[], float],
) -> Iterator[tuple[float, bytes]]:
    """Streams of points that fit beside the rest, each after what it costs, in nats a token.

    Each try narrows the bracket of widths, until a stream takes nearly all bytes.
    """
    weights = sum(matrix.weight_RC.numel() for matrix in matrices.values())
    narrow = math.log2(NARROWEST)  # here a stream is too large, as far as is known
    wide = math.log2(WIDEST)  # and here it fits
    octave = 0.0
    for _ in range(TRIES):
        if seconds_left() < 0 or wide - narrow < 1e-3:
            return
        points = []
        steps = []
        for name, matrix in matrices.items():
            row = row_of[name]
            of_matrix, step = matrix.points(row.bits, row.clip_sigmas * 2.0**octave)
            points.append(of_matrix)
            steps.append(step)
        stream = rans.encode(points, steps, ONE_STATE)
        size = beside_bytes + len(stream)
        if size <= most_bytes:
            wide = octave
            costs = map(Prepared.cost, matrices.values(), points, steps)
            yield sum(costs), stream
            if size >= CLOSE_ENOUGH * most_bytes:
                return
        else:
            narrow = octave
        # An octave is a bit of every weight while codes are many, and less where most are 0.
        aim = octave + (size - (1 + CLOSE_ENOUGH) / 2 * most_bytes) / (weights / 8)
        margin = (wide - narrow) / 16
        octave = min(max(aim, narrow + margin), wide - margin)
