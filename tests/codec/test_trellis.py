"""The quantiser: trellis, Viterbi, GPTQ's feedback, curvature and the byte dial of trellis.py."""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from codec import rans, trellis
from codec.trellis import ColumnQuantizer, Curvature, Group, Matrices, Matrix


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def hessian_of(columns, seed=1):
    """Of correlated inputs whose sizes differ by a factor of 30."""
    mixed = gaussian(4 * columns, columns, seed=seed) @ gaussian(columns, columns, seed=seed + 1)
    inputs = mixed * torch.logspace(-1, 0.5, columns)
    return inputs.T @ inputs / len(inputs)


def quantize(weight_RC, hessian_CC, step, *, states=8, damping=0.01):
    """The points of one matrix."""
    return Group([Matrix(weight_RC, hessian_CC)], damping).points(step, states)[0]


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


@pytest.mark.parametrize("states", [1, 4, 8, 16])
def test_viterbi_finds_what_brute_force_finds(states):
    """On random costs the chosen path is allowed, and no path from state 0 costs less."""
    steps, paths = 7, 40
    cost_T4P = gaussian(steps, 4, paths, seed=states).square()
    chosen_TP = ColumnQuantizer(states, "cpu").residues(cost_T4P)
    allowed = torch.tensor(list(residues_of_all_paths(states, steps)))
    costs = cost_T4P[torch.arange(steps), allowed].sum(dim=1)  # every path, P
    chosen_cost = cost_T4P.gather(1, chosen_TP[:, None])[:, 0].sum(dim=0)
    assert torch.allclose(chosen_cost, costs.min(dim=0).values)
    assert {tuple(path) for path in chosen_TP.T.tolist()} <= {*map(tuple, allowed.tolist())}


def test_points_are_the_nearest_of_all():
    """The distance is least among all allowed sequences of points near the targets."""
    x_NR = 2 * gaussian(6, 4)
    points_NR = ColumnQuantizer(4, "cpu").points(x_NR)

    def cost(points, n):
        return float(((x_NR[n] - torch.tensor(points)) ** 2).sum())

    for n in range(6):
        best = min(
            cost(points, n)
            for residues in residues_of_all_paths(4, 4)
            for points in itertools.product(
                *[[p for p in range(-9, 10) if p % 4 == residue] for residue in residues]
            )
        )
        assert cost(points_NR[n].long().tolist(), n) == pytest.approx(best, abs=1e-4)


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
    points = quantize(weight_RC, H, 0.3)
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
    real_factor = trellis.factor

    def without_feedback(hessian_NCC, damping):
        order_NC, factor_NCC, pivot_NC = real_factor(hessian_NCC, damping)
        return order_NC, torch.eye(columns)[None], pivot_NC

    monkeypatch.setattr(trellis, "factor", without_feedback)
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
        Matrix(gaussian(R, C, seed=i) * 2.0**i, hessian_of(C, seed=i))
        if R * C
        else Matrix(torch.zeros(R, C), torch.eye(C))
        for i, (R, C) in enumerate(shapes)
    ]
    together = Matrices(matrices)
    assert [len(places) for places in together.places] == [2, 1, 3, 1, 1, 1]
    steps = together.base_steps(0.3)
    for matrix, points, step in zip(matrices, together.points(0.3), steps, strict=True):
        alone = Matrices([matrix])
        assert alone.base_steps(0.3) == [step]
        expected = alone.points(0.3)[0].dequantize(step)
        # prices span the classes of a group, which may tip a rare tie
        assert (points.dequantize(step) != expected).sum() <= 0.02 * expected.size


def test_matrices_with_the_same_inputs_have_the_same_steps():
    """However much the errors of one weigh: only its base step tells."""
    H, weight_RC = hessian_of(12), gaussian(9, 12)
    found = Matrices([Matrix(weight_RC, H), Matrix(weight_RC / 7, 3.3 * H)])
    one, two = found.points(0.05)
    assert np.array_equal(one.column_step, two.column_step)
    steps = found.base_steps(0.05)
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


def test_no_path_leaves_the_largest_points():
    """Targets far beyond them saturate at what the state allows, never above LARGEST_POINT."""
    for states in (1, 8):
        points = ColumnQuantizer(states, "cpu").points(torch.tensor([[1e9] * 20, [-1e9] * 20]))
        assert points.abs().max() <= trellis.LARGEST_POINT
        assert points.abs().min() > trellis.LARGEST_POINT - 10


def test_a_weight_that_no_point_reaches_is_named(monkeypatch):
    """A weight out of reach is an error with its tensor and its place, never another value."""
    monkeypatch.setattr(Group, "exponents", lambda *_: [(np.zeros(8, int), np.zeros(8, int))])
    weight_RC = gaussian(8, 8)
    weight_RC[2, 5] = 1e4
    with pytest.raises(ValueError, match=r"blocks\.3\.attn\.k: weight \[2, 5\] takes over 4194304"):
        Group([Matrix(weight_RC, torch.eye(8), "blocks.3.attn.k")]).points(1e-3)


def packed(weight_RC, hessian_CC, bits):
    """The relative weighted error of a matrix that was packed to so many bits a weight."""
    size = int(bits * weight_RC.numel() / 8)
    stream = trellis.quantize_to_size([Matrix(weight_RC, hessian_CC)], size, rans.encode)
    assert len(stream) <= size
    (points,), (step,) = rans.decode(stream, [tuple(weight_RC.shape)])
    all_lost = float(((weight_RC @ hessian_CC) * weight_RC).sum())
    return weighted_error(weight_RC, points, step, hessian_CC) / all_lost, points.dequantize(step)


@pytest.mark.parametrize("outlier", [10, 40, 1000])
@pytest.mark.parametrize("place", [(11, 7), (11, 30), (0, 63)])
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
    for bits in (2, 3, 4, 5, 6):
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


def test_narrow_rows_and_columns_have_their_least_spread():
    """One of zeros, or nearly, does not ask the coder for classes of its own."""
    row, column = trellis.spreads(np.diag([1.0, 0.0, 1e-9]) + np.array([[0, 0, 1e-9]] * 3))
    assert row.max() - row.min() == 64 and column.max() - column.min() <= 64


def test_weights_that_would_saturate_are_refused():
    """Base steps have a largest value; weights far beyond it would come back as other numbers."""
    weight_RC = gaussian(16, 16)
    weight_RC[3] *= 1e20
    with pytest.raises(ValueError, match=r"here: weights reach \d.*e\+20"):
        Matrices([Matrix(weight_RC, torch.eye(16), "here")])
    weight_RC = gaussian(16, 16) * 2.0**47
    found = Matrices([Matrix(weight_RC, torch.eye(16))])
    stream = rans.encode(found.points(2.0**37, 8), found.base_steps(2.0**37), 8)
    (points,), (step,) = rans.decode(stream, [(16, 16)])
    assert np.abs(points.dequantize(step) / 2.0**47 - weight_RC.numpy() / 2.0**47).max() < 0.01


# --- Curvature and dial ---


class Tied(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.emb = torch.nn.Embedding(6, 4)
        self.map = torch.nn.Linear(4, 4, bias=False)

    def logits(self, tokens):
        x = self.emb(tokens)
        x = self.map(self.map(x))  # one matrix, used twice
        return F.linear(x, self.emb.weight.to(torch.float32, copy=True))

    def loss(self, tokens):
        return F.cross_entropy(self.logits(tokens), (tokens + 1) % 6, reduction="sum")


def curvature_of(model, batches):
    with Curvature(model.named_parameters()) as curvature:
        for tokens in batches:
            model.loss(tokens).backward()
    return curvature.hessians(sum(map(len, batches)))


def test_curvature_adds_up_over_uses_and_batches():
    """Σ xxᵀ times the mean of Σ g² of a matrix; a table has Σ ggᵀ times its rows' mean use too."""
    torch.manual_seed(0)
    model, tokens = Tied(), torch.tensor([0, 1, 1, 5, 2])
    found = curvature_of(model, [tokens[:2], tokens[2:]])
    x0 = model.emb(tokens)
    x1 = model.map(x0)
    x2 = model.map(x1)
    logits = x2 @ model.emb.weight.T
    loss = F.cross_entropy(logits, (tokens + 1) % 6, reduction="sum")
    g0, g1, g2, g_logits = torch.autograd.grad(loss, (x0, x1, x2, logits))
    xx = x0.T @ x0 + x1.T @ x1
    by_map = xx * (g1.square().sum() + g2.square().sum()) / 4 / 5**2
    as_head = x2.T @ x2 * g_logits.square().sum() / 6 / 5**2
    as_table = g0.T @ g0 * (5 / 6) / 5**2
    assert found.keys() == {"map.weight", "emb.weight"}
    assert torch.allclose(found["map.weight"], by_map.detach(), atol=1e-6)
    assert torch.allclose(found["emb.weight"], (as_head + as_table).detach(), atol=1e-6)


def test_curvature_keeps_the_last_copy_alone():
    """Copies in lower precision do not pile up over batches."""
    model = Tied()
    with Curvature(model.named_parameters()) as curvature:
        for _ in range(5):
            model.loss(torch.arange(6)).backward()
    assert len(curvature.named) == len(list(model.parameters())) + 1


def test_a_copy_that_is_none_leaves_the_parameter_known():
    """A parameter already of the precision asked for is its own copy; a later one is another."""
    model = Tied()
    with Curvature(model.named_parameters()) as curvature:
        model.emb.weight.to(torch.float32)
        model.loss(torch.arange(6)).backward()
        model.loss(torch.arange(6)).backward()
    assert curvature.sums["emb.weight", "uses"] == 12


def test_curvature_foresees_the_loss():
    """Where a model is right about its own errors, half of e H eᵀ is what random errors e add."""
    rng = torch.Generator().manual_seed(0)
    model = torch.nn.Linear(8, 5, bias=False)
    x_TC = torch.randn(4000, 8, generator=rng) * torch.tensor([1.0] * 4 + [0.1] * 4)
    targets_T = torch.distributions.Categorical(logits=model(x_TC)).sample().detach()

    def loss(weight_RC):
        return F.cross_entropy(F.linear(x_TC, weight_RC), targets_T, reduction="sum")

    for _ in range(30):  # to the optimum on these targets: no slope is left
        gradient = torch.autograd.grad(loss(model.weight), model.weight)[0]
        model.weight.data -= 1e-3 * gradient
    with Curvature(model.named_parameters()) as curvature:
        F.cross_entropy(model(x_TC), targets_T, reduction="sum").backward()
    H = curvature.hessians(4000)["weight"]
    added, foreseen = 0.0, 0.0
    for seed in range(20):
        e = 0.1 * gaussian(5, 8, seed=seed)
        added += (loss(model.weight + e) - loss(model.weight)).item() / 4000
        foreseen += float(((e @ H) * e).sum()) / 2
    assert added == pytest.approx(foreseen, rel=0.35)


@pytest.mark.parametrize("bits", [1.5, 2.7, 4.4])
def test_the_dial_meets_its_size(bits, monkeypatch):
    """Streams of 99.9 to 100 % of the size, wherever the matrices' scales lie, in few passes."""
    matrices = [
        Matrix(scale * gaussian(240, 160, seed=i), 1e-6 * hessian_of(160, seed=i))
        for i, scale in enumerate((0.02, 0.1))
    ]
    passes, real = [], Matrices.points
    monkeypatch.setattr(Matrices, "points", lambda *args: passes.append(1) or real(*args))
    size = int(bits * 2 * 240 * 160 / 8)
    stream = trellis.quantize_to_size(matrices, size, rans.encode, states=1)
    assert 0.999 * size <= len(stream) <= size
    assert len(rans.decode(stream, [(240, 160)] * 2)[0]) == 2
    assert len(passes) <= 8


def test_the_dial_ends_at_the_finest_step():
    """A size that is not needed is not used: the stream is that of the finest step."""
    matrix = Matrix(gaussian(64, 32), torch.eye(32))
    stream = trellis.quantize_to_size([matrix], 10**6, rans.encode, finest_step=0.3)
    prepared = Matrices([matrix])
    step = float(np.float32(0.3))
    assert stream == rans.encode(prepared.points(step), prepared.base_steps(step), 8)


def test_more_bytes_than_a_sparse_matrix_needs_end_at_the_finest_step():
    """Where nearly all weights are zeros the estimate is far off; the finest step is still met."""
    spikes = torch.rand(96, 96, generator=torch.Generator().manual_seed(0)) < 0.01
    matrix = Matrix(gaussian(96, 96) * spikes, torch.eye(96))
    finest = trellis.quantize_to_size([matrix], 10**6, rans.encode, finest_step=0.003, states=1)
    for most_bytes in (len(finest), len(finest) + 200):
        found = trellis.quantize_to_size(
            [matrix], most_bytes, rans.encode, finest_step=0.003, states=1
        )
        assert found == finest


def awkward(seed):
    """Few matrices of odd scales, some nearly all zeros: their sizes jump."""
    rng = np.random.default_rng(seed)
    for i in range(2):
        inputs = gaussian(64, 24, seed=seed + i) * torch.logspace(-rng.uniform(0, 3), 0.5, 24)
        weight_RC = gaussian(32, 24, seed=seed + i) * 10 ** rng.uniform(-3, 1)
        weight_RC *= torch.from_numpy(rng.random((32, 24)) < rng.choice([0.05, 1.0]))
        yield Matrix(weight_RC, inputs.T @ inputs * 10 ** rng.uniform(-8, 2))


def test_sizes_that_jump_are_met_too():
    """Odd cases that the estimate alone misses: halving what lies between comes close to them."""
    for seed in [2, 3, 7, 16, 21]:
        size = int(np.random.default_rng(seed).uniform(300, 900))
        stream = trellis.quantize_to_size(list(awkward(seed)), size, rans.encode, states=1)
        assert size - 32 <= len(stream) <= size


def test_the_largest_stream_that_fits_is_kept():
    """Where no size is at the target, the best one below it; none below it is an error."""
    sizes = iter([500, 90, 40, *[500, 60] * 12])
    matrix = Matrix(gaussian(8, 8), torch.eye(8))
    stream = trellis.quantize_to_size([matrix], 200, lambda *_: bytes(next(sizes)), states=1)
    assert len(stream) == 90


def test_a_size_out_of_reach_is_an_error(monkeypatch):
    """Fewer bytes than the tables take name the size and what was reached, in few passes."""
    matrix = Matrix(gaussian(8, 8), torch.eye(8))
    passes, real = [], Matrices.points
    monkeypatch.setattr(Matrices, "points", lambda *args: passes.append(1) or real(*args))
    with pytest.raises(ValueError, match="most_bytes=3 .*out of reach"):
        trellis.quantize_to_size([matrix], 3, rans.encode, states=4)
    assert len(passes) <= 2
