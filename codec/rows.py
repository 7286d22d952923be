"""Rows on grids: the codec that needs neither calibration nor time, and plans for it.

Each row of a matrix is rounded to a symmetric grid of its own: weight = code * scale, with an
integer code of 2 to 8 bits and an fp16 scale. At 3 bits, where codes go from -3 to 3, and with a
grid that reaches 2 root-mean-squares to either side:

    row      1.0  -0.5  0.1  -1.2     root-mean-square 0.82, scale 2 * 0.82 / 3 = 0.547
    codes      2    -1    0    -2     restored 1.09 -0.55 0 -1.09

Which tensor gets which grid is a plan, that is, data. Small tensors are stored as fp16.

Dimensions in names: R rows and C columns of a weight.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from glob import escape

import torch
from torch import Tensor

TOP_CODE = {bits: 2 ** (bits - 1) - 1 for bits in range(2, 9)}  # grids are symmetric about 0
FP16_BITS = 16
FP16_TINY = 2.0**-24
SMALL = 4096  # numbers; a smaller matrix takes fewer bytes as fp16 than its scales are worth
# In the names of tables that are input and output at once, in this project's models.
EMBEDDINGS = ("tok_emb", "wte", "token_embedding", "lm_head")
State = dict[str, Tensor]


@dataclass(frozen=True)
class Quantized:
    """Rows on their grids: int8 codes within ±TOP_CODE[bits], and the fp16 step of each row."""

    codes_RC: Tensor
    scale_R: Tensor

    def dequantize(self) -> Tensor:
        """The fp32 weights that a reader of the artifact gets."""
        return self.codes_RC.float() * self.scale_R.float().unsqueeze(1)


def quantize_rows(weight_RC: Tensor, bits: int, clip_sigmas: float) -> Quantized:
    """Round each row to a signed grid that reaches clip_sigmas root-mean-squares to either side.

    The step is clip_sigmas * rms(row) / TOP_CODE[bits]. To first order the compressed size then
    depends on bits - log2(clip_sigmas) alone, so meeting a byte budget is a search in one
    dimension. The spread is taken about zero: about its mean, a constant row would have none.
    The step is rounded to fp16 before use, so encode sees exactly what decode will see. A step too
    small for fp16, as that of a zero row, becomes the smallest there is: no step is ever 0.

    Source: upstream PR #1394, there with the deviation about the mean.
    Raises: ValueError for bits outside 2..8, clip_sigmas <= 0, and steps that no fp16 can hold.
    """
    check_grid(bits, clip_sigmas)
    top = TOP_CODE[bits]
    # In float64: fp32 sums differ between machines, and could then round to other fp16 steps.
    rms_R = (weight_RC.double().square().sum(dim=1) / max(weight_RC.shape[1], 1)).sqrt()
    scale_R = to_fp16((clip_sigmas * rms_R / top).clamp(min=FP16_TINY), "row steps")
    codes_RC = (weight_RC / scale_R.float().unsqueeze(1)).round().clamp(-top, top)
    return Quantized(codes_RC.to(torch.int8), scale_R)


def check_grid(bits: int, clip_sigmas: float) -> None:
    """Raises: ValueError for a grid that cannot be."""
    if bits not in TOP_CODE:
        raise ValueError(f"bits={bits!r} must be 2..8 (a plan also takes 16, for fp16)")
    if not 0 < clip_sigmas < math.inf:
        raise ValueError(f"clip_sigmas={clip_sigmas!r} must be positive and finite")


def to_fp16(numbers: Tensor, subject: str) -> Tensor:
    """The numbers as fp16. Raises: ValueError where one is too large, or NaN."""
    halves = numbers.half()
    if not halves.isfinite().all():
        reach = numbers.abs().max()
        raise ValueError(f"{subject} reach {reach:.4g}; fp16 holds up to 65504, no NaN")
    return halves


@dataclass(frozen=True)
class PlanRow:
    """How the tensors whose name matches a shell-style pattern are stored; `*` also spans dots.

    bits is 2..8, or 16 for fp16. clip_sigmas, without meaning there, is half the width of the grid
    in root-mean-squares of the row. Raises: ValueError for other bits, or clip_sigmas <= 0.
    """

    pattern: str
    bits: int
    clip_sigmas: float = 0.0

    def __post_init__(self):
        if self.bits != FP16_BITS:
            check_grid(self.bits, self.clip_sigmas)


Plan = tuple[PlanRow, ...]

# int5 on Gaussian rows loses least at 2.9: 0.00367 of the variance in 4.41 bits a weight (2.75:
# 0.00377 in 4.48; 3.1: 0.00381 in 4.32). The embedding is the output head too: at 6.45 bits, 6
# sigmas leave its outliers unclipped and lose 0.0002.
# The names are those of baselines/pr334.py; int5_plan has the same grids for any others.
DEFAULT_PLAN: Plan = (
    PlanRow("tok_emb.weight", 8, 6.0),
    PlanRow("bigram.*.weight", 5, 2.9),
    PlanRow("blocks.*.attn.*.weight", 5, 2.9),
    PlanRow("blocks.*.mlp.*.weight", 5, 2.9),
    PlanRow("blocks.*.attn.q_gain", FP16_BITS),
    PlanRow("blocks.*_scale", FP16_BITS),
    PlanRow("blocks.*.resid_mix", FP16_BITS),
    PlanRow("skip_weights", FP16_BITS),
    PlanRow("smear.gate", FP16_BITS),
    PlanRow("bigram.scale", FP16_BITS),
)


def int8_plan(state_dict: State) -> Plan:
    """A plan of any model's own names: int8 rows for its matrices, fp16 for what is small."""
    rows = []
    for name, weight in state_dict.items():
        if weight.ndim == 2 and weight.numel() >= SMALL:
            rows.append(PlanRow(escape(name), 8, 6.0))
        else:
            rows.append(PlanRow(escape(name), FP16_BITS))
    return tuple(rows)


def int5_plan(state_dict: State) -> Plan:
    """DEFAULT_PLAN where it fits; else its grids for a model of other names.

    {"wte.weight": 1024 x 512, "h.0.up.weight": 2048 x 512, "gain": 512}: 8 bits, 5 bits, fp16.
    """
    try:
        match_plan(DEFAULT_PLAN, state_dict)
        return DEFAULT_PLAN
    except ValueError:
        pass
    rows = []
    for row in int8_plan(state_dict):
        is_embedding = any(part in row.pattern for part in EMBEDDINGS)
        if row.bits != FP16_BITS and not is_embedding:
            row = PlanRow(row.pattern, 5, 2.9)
        rows.append(row)
    return tuple(rows)


def match_plan(plan: Plan, names: Iterable[str]) -> dict[str, PlanRow]:
    """The one plan row of each tensor.

    Exactly one must match, rather than the first: the order of a plan then means nothing, and a
    pattern that grows too wide is an error instead of a silent change of precision.
    Raises: ValueError naming a tensor with no row or several, or a row with no tensor.
    """
    row_of = {}
    for name in names:
        matching = [row for row in plan if fnmatchcase(name, row.pattern)]
        if len(matching) != 1:
            patterns = ", ".join(repr(row.pattern) for row in matching) or "none"
            raise ValueError(
                f"tensor {name!r} must match exactly one plan row, matches {patterns}; mend the"
                " plan, or take int8_plan (--int8)"
            )
        row_of[name] = matching[0]
    for row in plan:
        if row not in row_of.values():
            raise ValueError(f"plan row {row.pattern!r} matches no tensor; remove or correct it")
    return row_of
