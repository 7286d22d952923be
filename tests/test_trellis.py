"""The quantiser: trellis, Viterbi, GPTQ's feedback, curvature and the byte dial of trellis.py."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import rans
import trellis
from trellis import ColumnQuantizer, Curvature, Matrix, Prices, quantize


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hessian_of(columns, seed=1):
    """Of correlated inputs whose sizes differ by a factor of 30."""
    mixed = gaussian(4 * columns, columns, seed=seed) @ gaussian(columns, columns, seed=seed + 1)
    inputs = mixed * torch.logspace(-1, 0.5, columns)
    return inputs.T @ inputs / len(inputs)


def identity(columns, count=1):
    return torch.eye(columns).expand(count, columns, columns)


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


def residues_of_all_paths(states, steps):
    """Every sequence of residues modulo 4 that the machine allows from state 0."""
    next_state = trellis.transitions(states)
    for bits in itertools.product((0, 1), repeat=steps):
        state, residues = 0, []
        for bit in bits:
            residues.append((state & 1) + 2 * bit)
            state = next_state[state, bit]
        yield residues


# --- Trellis ---


@pytest.mark.parametrize("states", trellis.PARITY_CHECKS)
def test_every_state_has_two_ways_in_and_two_out(states):
    """The transitions are a de Bruijn-like graph: no state is lost, none is preferred."""
    next_state = trellis.transitions(states)
    assert next_state.shape == (states, 2)
    assert (np.bincount(next_state.reshape(-1), minlength=states) == 2).all()


@pytest.mark.parametrize("states, gain", [(4, 9), (8, 10), (16, 11)])
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


@pytest.mark.parametrize("states", [1, 4, 8, 16])
def test_viterbi_finds_what_brute_force_finds(states):
    """On random costs the chosen path is allowed, and no path from state 0 costs less."""
    steps, paths = 7, 40
    cost_T4P = gaussian(steps, 4, paths, seed=states).square()
    prices = Prices(0, torch.zeros(1, 1))
    chosen_TP = ColumnQuantizer(states, prices, "cpu").residues(cost_T4P)
    allowed = torch.tensor(list(residues_of_all_paths(states, steps)))
    costs = cost_T4P[torch.arange(steps), allowed].sum(dim=1)  # every path, P
    chosen_cost = cost_T4P.gather(1, chosen_TP[:, None])[:, 0].sum(dim=0)
    assert torch.allclose(chosen_cost, costs.min(dim=0).values)
    assert {tuple(path) for path in chosen_TP.T.tolist()} <= {*map(tuple, allowed.tolist())}


def test_points_are_the_cheapest_of_all():
    """Distance and rate together are least among all sequences of points near the targets."""
    bits_KM = torch.stack([torch.arange(8.0), 15 * torch.arange(8.0)])
    coder = ColumnQuantizer(4, Prices(5, bits_KM), "cpu")
    x_NR, classes_NR = 2 * gaussian(6, 4), torch.tensor([[5, 5, 6, 6]]).expand(6, 4)
    points_NR = coder.points(x_NR, classes_NR)

    def cost(points, n):
        bits = bits_KM[classes_NR[n] - 5, torch.tensor(points).abs().clamp(max=7)]
        return float(((x_NR[n] - torch.tensor(points)) ** 2 + trellis.RATE_WEIGHT * bits).sum())

    for n in range(6):
        best = min(
            cost(points, n)
            for residues in residues_of_all_paths(4, 4)
            for points in itertools.product(
                *[[p for p in range(-9, 10) if p % 4 == residue] for residue in residues]
            )
        )
        assert cost(points_NR[n].long().tolist(), n) == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("states, most", [(1, 0.265), (4, 0.12), (8, 0.10)])
@pytest.mark.parametrize("step, bits", [(0.5, 2.0), (0.25, 3.0)])
def test_gaussian_weights_come_close_to_the_rate_distortion_bound(states, most, step, bits):
    """At 2 and 3 bits: 4 states within 0.12 bit, 8 within 0.10, one (scalar) within 0.265."""
    weight_RC = gaussian(512, 64)
    points = quantize(weight_RC[None], identity(64), step, states=states)[0]
    distortion = weighted_error(weight_RC, points, step, torch.eye(64)) / weight_RC.square().sum()
    excess_bits = entropy_bits(points) + 0.5 * math.log2(distortion)
    assert 0.03 < excess_bits < most
    assert entropy_bits(points) == pytest.approx(bits, abs=0.2)


# --- GPTQ ---


def test_factor_rebuilds_the_damped_hessian():
    """factor diag(pivot) factorᵀ is the Hessian in its new order plus the ridge, unit upper."""
    hessian_NCC = torch.stack([hessian_of(9), hessian_of(9, seed=5)])
    order_NC, factor_NCC, pivot_NC = trellis.factor(hessian_NCC, 0.01)
    for H, order, U, pivot in zip(hessian_NCC, order_NC, factor_NCC, pivot_NC, strict=True):
        ridge = 0.01 * H.diagonal().mean() * torch.eye(9)
        rebuilt = U.double() @ pivot.diag() @ U.double().T
        assert torch.allclose(rebuilt.float(), (H + ridge)[order][:, order], rtol=1e-4, atol=1e-5)
        assert torch.equal(U.triu(), U) and (U.diagonal() == 1).all()
        assert (H.diagonal()[order].diff() <= 0).all()


def test_error_is_the_sum_over_pivots():
    """What quantize minimises column by column is the weighted error of the whole matrix."""
    weight_RC, H = gaussian(8, 12), hessian_of(12)
    points = quantize(weight_RC[None], H[None], 0.3)[0]
    order_NC, factor_NCC, pivot_NC = trellis.factor(H[None], 0.01)
    error_RC = (weight_RC - torch.from_numpy(points.dequantize(0.3)))[:, order_NC[0]]
    by_pivot = ((error_RC @ factor_NCC[0]).square() * pivot_NC[0]).sum()
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(12)
    assert float(by_pivot) == pytest.approx(
        weighted_error(weight_RC, points, 0.3, damped), rel=1e-4
    )


def test_one_state_is_textbook_gptq():
    """Rounding with the Cholesky factor of the inverse, column by column, gives the same points."""
    R, C, step = 5, trellis.BLOCK + 30, 0.25
    weight_RC, H = gaussian(R, C), hessian_of(C)
    free = Prices(0, torch.zeros(1, 1))
    points = quantize(weight_RC[None], H[None], step, states=1, prices=free)[0]
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
    with_feedback = quantize(weight_RC[None], H[None], 0.5, states=states)[0]
    real_factor = trellis.factor

    def without_feedback(hessian_NCC, damping):
        order_NC, factor_NCC, pivot_NC = real_factor(hessian_NCC, damping)
        return order_NC, torch.eye(columns)[None], pivot_NC

    monkeypatch.setattr(trellis, "factor", without_feedback)
    without = quantize(weight_RC[None], H[None], 0.5, states=states)[0]
    assert (with_feedback.column_step == without.column_step).all()
    error = weighted_error(weight_RC, with_feedback, 0.5, H)
    assert error < 0.7 * weighted_error(weight_RC, without, 0.5, H)


def test_steps_follow_pivots_and_row_weights():
    """An input twice as strong, or a row four times as heavy, halves the step."""
    H = torch.diag(torch.tensor([1.0, 4.0, 16.0]))
    weights = torch.tensor([[1.0, 4.0, 1.0, 1.0]])
    points = quantize(gaussian(1, 4, 3), H[None], 0.1, row_weight_NR=weights, damping=0.0)[0]
    assert (points.column_step - points.column_step[0]).tolist() == [0, -4, -8]
    assert (points.row_step - points.row_step[0]).tolist() == [0, -4, 0, 0]


def test_matrices_of_a_batch_do_not_mix():
    """Each matrix gets the points that it gets alone, in the order given, for mixed shapes too."""
    shapes = [(8, 6), (6, 8), (8, 6), (300, 6)]
    matrices = [
        Matrix(gaussian(R, C, seed=i), hessian_of(C, seed=i), torch.full((R,), 2.0**i))
        for i, (R, C) in enumerate(shapes)
    ]
    together = trellis.quantize_all(matrices, 0.3)
    for matrix, points in zip(matrices, together, strict=True):
        alone = trellis.quantize_all([matrix], 0.3)[0]
        error_RC = points.dequantize(0.3) - alone.dequantize(0.3)
        # prices span the classes of a batch, which may tip a rare tie
        assert (error_RC != 0).mean() < 0.02


@pytest.mark.parametrize("shape", [(1, 9), (9, 1), (0, 5), (5, 0), (1, 1), (257, 2), (600, 1)])
def test_every_shape_has_points(shape):
    """Single rows and columns, empty matrices and rows in several parts are within two steps."""
    R, C = shape
    weight_RC = gaussian(R, C)
    points = quantize(weight_RC[None], identity(C), 0.01, damping=0.0)[0]
    assert points.points_RC.shape == shape
    assert np.abs(points.dequantize(0.01) - weight_RC.numpy()).max(initial=0) < 0.021


def test_zero_and_constant_rows_and_dead_inputs():
    """Zeros stay zeros, constants come close, and columns without input do no harm."""
    weight_RC = torch.tensor([[0.0] * 40, [0.3] * 40, [-1e-6] * 40])
    points = quantize(weight_RC[None], torch.zeros(1, 40, 40), 0.01)[0]
    restored = points.dequantize(0.01)
    assert not restored[0].any()
    assert np.abs(restored[1] - 0.3).mean() < 0.01
    H = hessian_of(40)
    H[:, 7] = H[7] = 0
    assert np.isfinite(quantize(gaussian(1, 5, 40), H[None], 0.1)[0].dequantize(0.1)).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    """NaN and infinity in weights or Hessian are errors that say which."""
    broken = gaussian(4, 4)
    broken[1, 2] = bad
    with pytest.raises(ValueError, match="weights must be finite"):
        quantize(broken[None], identity(4), 0.1)
    with pytest.raises(ValueError, match="Hessian must be finite"):
        quantize(gaussian(1, 4, 4), broken[None], 0.1)


def test_points_stay_within_their_limit():
    """A base step that is far too small ends in the largest points, not in other numbers."""
    weight_RC = gaussian(16, 16)
    points = quantize(weight_RC[None], identity(16), 1e-7)[0]
    assert np.abs(points.points_RC).max() <= trellis.MAX_POINT
    assert np.abs(points.dequantize(1e-7) - weight_RC.numpy()).max() < 0.01
    weight_RC = gaussian(64, 512)
    weight_RC[3, 5] = 1e5
    points = quantize(weight_RC[None], identity(512), 1e-9, damping=0.0)[0]
    assert trellis.MAX_POINT - 8 < points.points_RC[3, 5] <= trellis.MAX_POINT
    far = quantize(gaussian(4, 4)[None], identity(4), 2.0**-50)[0]
    assert far.row_step.min() >= 0 and far.column_step.min() > 0  # coarser, not wrapped around


# --- Curvature and dial ---


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(6, 4)
        self.map = torch.nn.Linear(4, 4, bias=False)

    def forward(self, tokens):
        x = self.emb(tokens)
        x = self.map(self.map(x))  # one matrix, used twice
        return F.linear(x, self.emb.weight.to(torch.float32, copy=True))


def test_curvature_adds_up_over_uses():
    """Σ xxᵀ and Σ g² of a matrix used twice, and of the output side of a tied embedding."""
    torch.manual_seed(0)
    model, tokens = Tied(), torch.arange(6)
    with Curvature(model.named_parameters()) as curvature:
        logits = model(tokens)
        F.cross_entropy(logits, tokens).backward()
    x0 = model.emb(tokens).detach()
    x1 = model.map(x0).detach()
    x2 = model.map(x1).detach()
    expected = {"map.weight": x0.T @ x0 + x1.T @ x1, "emb.weight": x2.T @ x2}
    assert curvature.hessian_CC.keys() == curvature.row_weight_R.keys() == expected.keys()
    for name, hessian_CC in expected.items():
        assert torch.allclose(curvature.hessian_CC[name], hessian_CC, atol=1e-5)
    gradient = (logits.softmax(dim=1) - torch.eye(6)) / 6
    assert torch.allclose(curvature.row_weight_R["emb.weight"], gradient.square().sum(0), atol=1e-6)
    matrix = curvature.matrix("map.weight", model.map.weight)
    assert not matrix.weight_RC.requires_grad
    mean = curvature.row_weight_R["map.weight"].mean()
    assert torch.equal(matrix.row_weight_R, mean.expand(4))


@pytest.mark.parametrize("bits", [1.5, 2.7, 4.4])
def test_the_dial_meets_its_size(bits):
    """Streams of 99.9 to 100 % of the size, wherever the matrices' scales lie."""
    matrices = [
        Matrix(scale * gaussian(96, 64, seed=i), hessian_of(64, seed=i), torch.full((96,), 1e-6))
        for i, scale in enumerate((0.02, 0.1))
    ]
    size = int(bits * 2 * 96 * 64 / 8)
    stream = trellis.quantize_to_size(matrices, size, rans.encode, 4)
    assert min(0.999 * size, size - 32) <= len(stream) <= size
    assert len(rans.decode(stream, [(96, 64)] * 2)[0]) == 2


def test_a_size_out_of_reach_is_an_error():
    """Fewer bytes than the tables take name the size and what was reached."""
    matrix = Matrix(gaussian(8, 8), torch.eye(8), torch.ones(8))
    with pytest.raises(ValueError, match="stream_bytes=3 .*out of reach"):
        trellis.quantize_to_size([matrix], 3, rans.encode, 4)
