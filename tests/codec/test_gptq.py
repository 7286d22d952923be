"""GPTQ around the trellis: error feedback, steps, shapes and limits of codec/gptq.py."""

import math

import numpy as np
import pytest
import torch

from codec import gptq, rans, trellis
from codec.curvature import Hessian
from codec.gptq import Group, Matrices, Matrix
from codec.search import quantize_to_size
from codec.viterbi import ColumnQuantizer


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hessian_of(columns, seed=1):
    """Of correlated inputs whose sizes differ by a factor of 30."""
    mixed = gaussian(4 * columns, columns, seed=seed) @ gaussian(columns, columns, seed=seed + 1)
    inputs = mixed * torch.logspace(-1, 0.5, columns)
    return inputs.T @ inputs / len(inputs)


def matrix(weight_RC, hessian_CC, name="a matrix"):
    return Matrix(weight_RC, Hessian.of(hessian_CC, len(weight_RC)), name)


def quantize(weight_RC, hessian_CC, step, *, states=8, damping=0.01):
    """The points of one matrix."""
    return Group([matrix(weight_RC, hessian_CC)], damping).points(step, states)[0]


def weighted_error(weight_RC, points, step, hessian_CC):
    error_RC = torch.from_numpy(points.dequantize(step)) - weight_RC
    return float(((error_RC @ hessian_CC) * error_RC).sum())


def entropy_bits(points):
    """Of the points given their parity, which the trellis tells, in bits for each."""
    bits = 0.0
    for parity in (0, 1):
        own = points.points_RC[points.points_RC & 1 == parity]
        _, counts = np.unique(own, return_counts=True)
        bits += float((counts * np.log2(counts.sum() / counts)).sum())
    return bits / points.points_RC.size


@pytest.mark.parametrize("states", [1, 16])
def test_points_do_not_lean_to_zero(states):
    """The weights' own direction is kept: a matrix shrunk as a whole is an error all rows share."""
    weight_RC = gaussian(512, 64)
    back_RC = quantize(weight_RC, torch.eye(64), 0.5, states=states).dequantize(0.5)
    kept = float((weight_RC * torch.from_numpy(back_RC)).sum() / weight_RC.square().sum())
    assert kept == pytest.approx(1, abs=0.005)


@pytest.mark.parametrize("states, most", [(1, 0.265), (4, 0.11), (8, 0.10), (16, 0.09), (32, 0.08)])
@pytest.mark.parametrize("step, bits", [(0.5, 2.0), (0.25, 3.0)])
def test_gaussian_weights_come_close_to_the_bound(states, most, step, bits):
    """Of points that do not shrink weights: half of log2(1 + σ²/D) bits for a squared error of D.

    Above the rate-distortion bound, which shrinks them, that is by D / 2 nats at small D.
    """
    weight_RC = gaussian(512, 64)
    points = quantize(weight_RC, torch.eye(64), step, states=states)
    distortion = weighted_error(weight_RC, points, step, torch.eye(64)) / weight_RC.square().sum()
    excess_bits = entropy_bits(points) - 0.5 * math.log2(1 + 1 / distortion)
    assert 0.03 < excess_bits < most
    assert entropy_bits(points) == pytest.approx(bits, abs=0.2)


def test_factor_rebuilds_the_damped_hessian():
    """factor diag(pivot) factorᵀ is the Hessian in its new order plus the ridge, unit upper."""
    hessian_NCC = torch.stack([hessian_of(9), hessian_of(9, seed=5)])
    order_NC, factor_NCC, pivot_NC = gptq.factor(hessian_NCC, 0.01)
    for H, order, U, pivot in zip(hessian_NCC, order_NC, factor_NCC, pivot_NC, strict=True):
        ridge = 0.01 * H.diagonal().mean() * torch.eye(9)
        rebuilt = U.double() @ pivot.diag() @ U.double().T
        assert torch.allclose(rebuilt.float(), (H + ridge)[order][:, order], rtol=1e-4, atol=1e-5)
        assert torch.equal(U.triu(), U) and (U.diagonal() == 1).all()
        assert (H.diagonal()[order].diff() <= 0).all()


def test_error_is_the_sum_over_pivots():
    """What quantize minimises column by column is the weighted error of the whole matrix."""
    weight_RC, H = gaussian(8, 12), hessian_of(12)
    points = quantize(weight_RC, H, 0.3)
    order_NC, factor_NCC, pivot_NC = gptq.factor(H[None], 0.01)
    error_RC = (weight_RC - torch.from_numpy(points.dequantize(0.3)))[:, order_NC[0]]
    by_pivot = ((error_RC @ factor_NCC[0]).square() * pivot_NC[0]).sum()
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(12)
    assert float(by_pivot) == pytest.approx(
        weighted_error(weight_RC, points, 0.3, damped), rel=1e-4
    )


def test_one_state_is_textbook_gptq():
    """Rounding with the Cholesky factor of the inverse, column by column, gives the same points."""
    R, C, step = 5, gptq.BLOCK + 30, 0.25
    weight_RC, H = gaussian(R, C), hessian_of(C)
    points = quantize(weight_RC, H, step, states=1)
    order = H.diagonal().argsort(descending=True)
    damped = (H + 0.01 * H.diagonal().mean() * torch.eye(C))[order][:, order].double()
    U = torch.linalg.cholesky(torch.linalg.inv(damped), upper=True)
    W, expected = weight_RC[:, order].double(), torch.empty(R, C)
    spacing = 2 * step * torch.from_numpy(trellis.octaves(points.column_step))[order]
    for c in range(C):
        expected[:, c] = (W[:, c] / spacing[c]).round()
        error = (W[:, c] - expected[:, c] * spacing[c]) / U[c, c]
        W -= error[:, None] * U[c]
    same = expected[:, order.argsort()].numpy() == points.points_RC / 2
    assert same.mean() > 0.98  # one in fp64, one in fp32


@pytest.mark.parametrize("states", [1, 8])
@pytest.mark.parametrize("columns", [48, 150])
def test_feedback_beats_rounding_under_its_own_metric(states, columns, monkeypatch):
    """With the same steps the weighted error is below that without feedback, in every block."""
    weight_RC, H = gaussian(64, columns), hessian_of(columns)
    with_feedback = quantize(weight_RC, H, 0.5, states=states)
    real_factor = gptq.factor

    def without_feedback(hessian_NCC, damping):
        order_NC, factor_NCC, pivot_NC = real_factor(hessian_NCC, damping)
        return order_NC, torch.eye(columns)[None], pivot_NC

    monkeypatch.setattr(gptq, "factor", without_feedback)
    without = quantize(weight_RC, H, 0.5, states=states)
    assert (with_feedback.column_step == without.column_step).all()
    error = weighted_error(weight_RC, with_feedback, 0.5, H)
    assert error < 0.7 * weighted_error(weight_RC, without, 0.5, H)


def test_steps_follow_pivots():
    """An input twice as strong halves the step; rows are alike unless one is far too large."""
    H = torch.diag(torch.tensor([1.0, 4.0, 16.0]))
    points = quantize(gaussian(4, 3), H, 0.1, damping=0.0)
    assert (points.column_step - points.column_step[0]).tolist() == [0, -4, -8]
    assert points.row_step.tolist() == [0, 0, 0, 0]


def test_matrices_of_a_group_do_not_mix():
    """Each matrix gets the points that it gets alone, in the order given, for mixed shapes too."""
    shapes = [(8, 6), (6, 8), (8, 6), (300, 6), (300, 6), (150, 6), (149, 6), (0, 6), (5, 0)]
    matrices = [
        matrix(gaussian(R, C, seed=i) * 2.0**i, hessian_of(C, seed=i))
        if R * C
        else matrix(torch.zeros(R, C), torch.eye(C))
        for i, (R, C) in enumerate(shapes)
    ]
    together = Matrices(matrices)
    assert [len(places) for places in together.places] == [2, 1, 3, 1, 1, 1]
    steps = together.base_steps(0.3)
    for single, points, step in zip(matrices, together.points(0.3), steps, strict=True):
        alone = Matrices([single])
        assert alone.base_steps(0.3) == [step]
        expected = alone.points(0.3)[0].dequantize(step)
        # prices span the classes of a group, which may tip a rare tie
        assert (points.dequantize(step) != expected).sum() <= 0.02 * expected.size


def test_matrices_with_the_same_inputs_have_the_same_steps():
    """However much the errors of one weigh: only its base step tells."""
    H, weight_RC = hessian_of(12), gaussian(9, 12)
    prepared = Matrices([matrix(weight_RC, H), matrix(weight_RC / 7, 3.3 * H)])
    one, two = prepared.points(0.05)
    assert np.array_equal(one.column_step, two.column_step)
    steps = prepared.base_steps(0.05)
    assert steps[1] / steps[0] == pytest.approx(3.3**-0.5, rel=1e-6)


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (0, 5), (5, 0), (1, 1), (257, 2), (600, 1)])
def test_every_shape_has_points(shape):
    """Single rows and columns, empty matrices and rows in several parts are within two steps."""
    R, C = shape
    weight_RC = gaussian(R, C)
    points = quantize(weight_RC, torch.eye(C), 0.01, damping=0.0)
    assert points.points_RC.shape == shape
    assert np.abs(points.dequantize(0.01) - weight_RC.numpy()).max(initial=0) < 0.021


def test_zero_and_constant_rows_and_dead_inputs():
    """Zeros stay zeros, constants come close, and columns without input do no harm."""
    weight_RC = torch.tensor([[0.0] * 40, [0.3] * 40, [-1e-6] * 40])
    points = quantize(weight_RC, torch.zeros(40, 40), 0.01)
    restored = points.dequantize(0.01)
    assert not restored[0].any()
    assert np.abs(restored[1] - 0.3).mean() < 0.01
    H = hessian_of(40)
    H[:, 7] = H[7] = 0
    assert np.isfinite(quantize(gaussian(5, 40), H, 0.1).dequantize(0.1)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    """NaN and infinity in weights or Hessian are errors that say which."""
    broken = gaussian(4, 4)
    broken[1, 2] = bad
    with pytest.raises(ValueError, match="weights must be finite"):
        quantize(broken, torch.eye(4), 0.1)
    with pytest.raises(ValueError, match="Hessian must be finite"):
        quantize(gaussian(4, 4), broken, 0.1)


def test_points_stay_within_their_limit():
    """A base step that is far too small ends in the largest points, not in other numbers."""
    weight_RC = gaussian(16, 16)
    points = quantize(weight_RC, torch.eye(16), 1e-7)
    assert np.abs(points.points_RC).max() <= trellis.LARGEST_POINT
    assert np.abs(points.dequantize(1e-7) - weight_RC.numpy()).max() < 0.01
    weight_RC = gaussian(64, 512)
    weight_RC[3, 5] = 1e5
    points = quantize(weight_RC, torch.eye(512), 1e-9, damping=0.0)
    assert 4096 < points.points_RC[3, 5] <= trellis.LARGEST_POINT
    assert points.dequantize(1e-9)[3, 5] == pytest.approx(1e5, rel=1e-3)
    far = quantize(gaussian(4, 4), torch.eye(4), 2.0**-50)
    assert far.row_step.min() >= 0 and far.column_step.min() > 0  # coarser, not wrapped around


def test_a_weight_that_no_point_reaches_is_named(monkeypatch):
    """A weight out of reach is an error with its tensor and its place, never another value."""
    still = gptq.Steps(np.zeros(8, int), np.zeros(8, int))
    monkeypatch.setattr(Group, "steps", lambda *_: [still])
    weight_RC = gaussian(8, 8)
    weight_RC[2, 5] = 1e4
    with pytest.raises(ValueError, match=r"blocks\.3\.attn\.k: weight \[2, 5\] takes over 4194304"):
        Group([matrix(weight_RC, torch.eye(8), "blocks.3.attn.k")]).points(1e-3)


def packed(weight_RC, hessian_CC, bits):
    """The relative weighted error of a matrix that was packed to so many bits a weight."""
    size = int(bits * weight_RC.numel() / 8)
    stream = quantize_to_size([matrix(weight_RC, hessian_CC)], size, rans.encode)
    assert len(stream) <= size
    (points,), (step,) = rans.decode(stream, [tuple(weight_RC.shape)])
    all_lost = float(((weight_RC @ hessian_CC) * weight_RC).sum())
    return weighted_error(weight_RC, points, step, hessian_CC) / all_lost, points.dequantize(step)


@pytest.mark.parametrize("outlier, place", [(10, (11, 30)), (40, (11, 7)), (1000, (0, 63))])
def test_one_large_weight_anywhere_is_kept(outlier, place):
    """With steep pivots, more bytes never mean more loss, and the weight comes back as it was.

    Before points beyond MAX_POINT were stored apart, a weight of 40 root-mean-squares in the column
    of the strongest input came back as 11, with 0.4 of the matrix lost at 4 bits.
    """
    inputs = gaussian(1024, 64, seed=1)
    inputs[:, 7] *= 1000
    weight_RC = gaussian(96, 64, seed=2)
    weight_RC[place] = outlier
    errors = []
    for bits in (2, 4, 6):
        error, decoded_RC = packed(weight_RC, inputs.T @ inputs / 1024, bits)
        assert abs(decoded_RC[place] - outlier) < 2 * 2.0 ** -(bits - 2)
        errors.append(error)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-5


def test_rows_that_fill_a_part_have_targets_too(monkeypatch):
    """Nothing is divided by the step of a row that is not there."""
    targets, real = [], ColumnQuantizer.points
    monkeypatch.setattr(
        ColumnQuantizer, "points", lambda self, x: targets.append(x) or real(self, x)
    )
    quantize(gaussian(257, 2), torch.eye(2), 0.1)
    assert targets[0].shape == (2, 129) and all(x.isfinite().all() for x in targets)


def test_weights_that_would_saturate_are_refused():
    """Base steps have a largest value; weights far beyond it would come back as other numbers."""
    weight_RC = gaussian(16, 16)
    weight_RC[3] *= 1e20
    with pytest.raises(ValueError, match=r"here: weights reach \d.*e\+20"):
        Matrices([matrix(weight_RC, torch.eye(16), "here")])
    weight_RC = gaussian(16, 16) * 2.0**47
    prepared = Matrices([matrix(weight_RC, torch.eye(16))])
    stream = rans.encode(prepared.points(2.0**37, 8), prepared.base_steps(2.0**37), 8)
    (points,), (step,) = rans.decode(stream, [(16, 16)])
    assert np.abs(points.dequantize(step) / 2.0**47 - weight_RC.numpy() / 2.0**47).max() < 0.01


def test_rows_that_weigh_less_have_coarser_steps():
    """Sixteen times the weight is a quarter of the step: two octaves, in quarters of octaves."""
    rows_R = torch.tensor([16.0, 1.0, 1.0, 0.0]) / 4.5
    weights = Matrix(gaussian(4, 3), Hessian(torch.eye(3), rows_R))
    points = Group([weights]).points(0.1)[0]
    assert points.row_step[1] - points.row_step[0] == 8
    assert points.row_step[3] == gptq.COARSEST_ROW


def test_rows_that_hardly_weigh_take_no_bits():
    """A table of which a tenth is used costs about a tenth; what is not used becomes zeros."""
    table_RC = gaussian(1000, 32)
    used = torch.zeros(1000)
    used[::10] = 10.0
    sizes = []
    for rows_R in (torch.ones(1000), used + 1e-7):
        prepared = Matrices([Matrix(table_RC, Hessian(torch.eye(32), rows_R / rows_R.mean()))])
        step = 0.2 * math.sqrt(float(rows_R.max() / rows_R.mean()))  # alike for the rows in use
        points = prepared.points(step, 8)
        stream = rans.encode(points, prepared.base_steps(step), 8)
        sizes.append(len(stream) - 2 * 1000)  # less exponents of rows, about
        (decoded,), _ = rans.decode(stream, [(1000, 32)])
        assert np.array_equal(decoded.points_RC, points[0].points_RC)
    assert not points[0].points_RC[1::10].any()
    assert sizes[1] < 0.2 * sizes[0]


def test_damping_grows_with_the_columns(monkeypatch):
    """Calibration of one length tells less of many columns than of few."""
    used = []

    def recorded(hessian_MCC, damping):
        used.append(damping)
        return real_factor(hessian_MCC, damping)

    real_factor = gptq.factor
    monkeypatch.setattr(gptq, "factor", recorded)
    for columns in (8, 32):
        Matrices([matrix(gaussian(4, columns), torch.eye(columns))])
    assert used == [8 * gptq.DAMPING, 32 * gptq.DAMPING]
