"""The field's quantiser: steps of k standard deviations, error feedback, an artifact of a size."""

import math

import pytest
import torch

import quantize
from codec import sigma_clip
from codec.curvature import Hessian
from codec.report import byte_account
from codec.sigma_clip import Prepared, gptq_rows
from quantize import FP16_BITS, PlanRow

PLAN = (
    PlanRow("emb", 8, 20.0),
    PlanRow("w", 6, 12.0),
    PlanRow("gain", FP16_BITS),
)


def gaussian(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hessian(columns: int) -> torch.Tensor:
    """Of inputs of which each foresees the next."""
    x_TC = gaussian(400, columns, seed=9)
    for c in range(1, columns):
        x_TC[:, c] += 0.9 * x_TC[:, c - 1]
    return x_TC.T @ x_TC / 400


def cost(error_RC: torch.Tensor, hessian_CC: torch.Tensor) -> float:
    return float(((error_RC @ hessian_CC) * error_RC).sum()) / 2


def state() -> dict[str, torch.Tensor]:
    # Rows of several sizes, so that their steps differ.
    sizes_R = torch.logspace(-1, 1, 128)[:, None]
    return {
        "emb": gaussian(256, 64) * 0.1,
        "gain": gaussian(7, seed=1),
        "w": gaussian(128, 64, seed=2) * sizes_R,
    }


def hessians() -> dict[str, torch.Tensor]:
    return {"emb": hessian(64), "w": hessian(64)}


def test_error_feedback_lowers_the_weighted_error():
    """Same steps, same grid: the feedback more than halves the cost, though not the plain error."""
    weight_RC, hessian_CC = gaussian(48, 64), hessian(64)
    rows = gptq_rows(weight_RC, hessian_CC, 6, 12.85)
    plain = (weight_RC / rows.scale_R.float()[:, None]).round() * rows.scale_R.float()[:, None]
    lost = cost(rows.dequantize() - weight_RC, hessian_CC)
    assert lost < 0.5 * cost(plain - weight_RC, hessian_CC)
    std_R = weight_RC.std(dim=1)
    assert torch.allclose(rows.scale_R.float(), 12.85 * std_R / 31, rtol=1e-3)


def test_rows_of_a_flat_hessian_are_rounded():
    """Without correlations no error helps another column."""
    weight_RC = gaussian(8, 16)
    rows = gptq_rows(weight_RC, torch.eye(16), 6, 12.85)
    assert torch.equal(rows.codes_RC, (weight_RC / rows.scale_R.float()[:, None]).round().char())


def test_points_are_codes_on_steps_within_an_eighth_of_an_octave():
    """Even numbers within twice the top code; steps are k std / 31 but for their rounding."""
    weight_RC = state()["w"]
    points, base_step = Prepared.of(weight_RC, torch.eye(64)).points(6, 1.5)
    assert not (points.points_RC % 2).any()
    assert abs(points.points_RC).max() == 62  # at 1.5 sigmas some rows are clipped
    step_R = torch.from_numpy(2 * base_step * sigma_clip.octaves(points.row_step))
    exact_R = 1.5 * weight_RC.double().std(dim=1, correction=0) / 31
    assert (step_R / exact_R).log2().abs().max() <= 0.126
    restored_RC = torch.from_numpy(points.dequantize(base_step))
    inside = weight_RC.abs() < 31 * step_R[:, None]
    errors = (restored_RC - weight_RC).abs() / step_R[:, None]
    assert errors[inside].max() < 0.501 and not inside.all()


def test_the_cost_is_that_of_the_hessian():
    """Half of the sum over rows of weight * e H e."""
    weight_RC = state()["w"]
    rows_R = torch.linspace(0.5, 1.5, 128)
    matrix = Prepared.of(weight_RC, Hessian(hessian(64), rows_R))
    points, base_step = matrix.points(6, 20.0)
    error_RC = torch.from_numpy(points.dequantize(base_step)) - weight_RC
    expected = cost(error_RC * rows_R.sqrt()[:, None], hessian(64))
    assert matrix.cost(points, base_step) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("most_bytes", [11_000, 14_000])
def test_an_artifact_fills_its_bytes_and_decodes(most_bytes):
    """Narrower grids for more bytes; small tensors lose what fp16 loses."""
    blob = sigma_clip.encode(state(), hessians(), [PLAN], {"a": 1}, most_bytes)
    assert 0.99 * most_bytes <= len(blob) <= most_bytes
    weights, settings = quantize.decode(blob)
    assert settings == {"a": 1} and list(weights) == list(state())
    assert torch.equal(weights["gain"], state()["gain"].half().float())
    for name in ("emb", "w"):
        error = (weights[name] - state()[name]).square().sum()
        assert error < 0.15 * state()[name].square().sum(), name
    assert byte_account(blob)


def test_the_plan_that_costs_less_is_kept():
    """Alone or beside another, in either order."""
    coarse = (PLAN[0], PlanRow("w", 6, 120.0), PLAN[2])  # where most of the error would be
    one, other = (
        sigma_clip.encode(state(), hessians(), [plan], {}, 12_000) for plan in (PLAN, coarse)
    )
    assert one != other
    for plans in ([PLAN, coarse], [coarse, PLAN]):
        assert sigma_clip.encode(state(), hessians(), plans, {}, 12_000) == one


def test_out_of_reach_and_out_of_time_are_told_apart():
    """Too few bytes are a ValueError; too little time a TimeoutError, and none a shorter search."""
    with pytest.raises(ValueError, match="most_bytes=700 is out of reach for 24576 weights"):
        sigma_clip.encode(state(), hessians(), [PLAN], {}, 700)
    with pytest.raises(TimeoutError, match="no time"):
        sigma_clip.encode(state(), hessians(), [PLAN], {}, 12_000, lambda: -1.0)


def test_a_row_that_does_not_vary_is_kept():
    """Its deviation is zero; its step is the finest, and nothing divides by zero."""
    weight_RC = gaussian(16, 8)
    weight_RC[3] = 0.0
    points, base_step = Prepared.of(weight_RC, torch.eye(8)).points(6, 12.0)
    restored_RC = points.dequantize(base_step)
    assert math.isfinite(restored_RC.sum()) and not restored_RC[3].any()
