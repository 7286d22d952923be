"""The search for a base step that meets a size."""

import numpy as np
import pytest
import torch

from codec import rans, search
from codec.gptq import Matrices
from codec.search import EndedEarly, quantize_to_size
from tests.codec.test_gptq import gaussian, hessian_of, matrix


@pytest.mark.parametrize("bits", [1.5, 2.7, 4.4])
def test_the_dial_meets_its_size(bits, monkeypatch):
    """Streams of 99.9 to 100 % of the size, wherever the matrices' scales lie, in few passes."""
    matrices = [
        matrix(scale * gaussian(240, 160, seed=i), 1e-6 * hessian_of(160, seed=i))
        for i, scale in enumerate((0.02, 0.1))
    ]
    passes, real = [], Matrices.points
    monkeypatch.setattr(Matrices, "points", lambda *args: passes.append(1) or real(*args))
    size = int(bits * 2 * 240 * 160 / 8)
    stream = quantize_to_size(matrices, size, rans.encode, states=1)
    assert 0.999 * size <= len(stream) <= size
    assert len(rans.decode(stream, [(240, 160)] * 2)[0]) == 2
    assert len(passes) <= 8


def test_the_dial_ends_at_the_finest_step():
    """A size that is not needed is not used: the stream is that of the finest step."""
    dense = matrix(gaussian(64, 32), torch.eye(32))
    stream = quantize_to_size([dense], 10**6, rans.encode, finest_step=0.3)
    prepared = Matrices([dense])
    step = float(np.float32(0.3))
    assert stream == rans.encode(prepared.points(step), prepared.base_steps(step), 8)


def test_more_bytes_than_a_sparse_matrix_needs_end_at_the_finest_step():
    """Where nearly all weights are zeros the estimate is far off; the finest step is still met."""
    spikes = torch.rand(96, 96, generator=torch.Generator().manual_seed(0)) < 0.01
    sparse = matrix(gaussian(96, 96) * spikes, torch.eye(96))
    finest = quantize_to_size([sparse], 10**6, rans.encode, finest_step=0.003, states=1)
    for most_bytes in (len(finest), len(finest) + 200):
        stream = quantize_to_size([sparse], most_bytes, rans.encode, finest_step=0.003, states=1)
        assert stream == finest


def awkward(seed):
    """Few matrices of odd scales, some nearly all zeros: their sizes jump."""
    rng = np.random.default_rng(seed)
    for i in range(2):
        inputs = gaussian(64, 24, seed=seed + i) * torch.logspace(-rng.uniform(0, 3), 0.5, 24)
        weight_RC = gaussian(32, 24, seed=seed + i) * 10 ** rng.uniform(-3, 1)
        weight_RC *= torch.from_numpy(rng.random((32, 24)) < rng.choice([0.05, 1.0]))
        yield matrix(weight_RC, inputs.T @ inputs * 10 ** rng.uniform(-8, 2))


def test_sizes_that_jump_are_met_too():
    """Odd cases that the estimate alone misses: halving what lies between comes close to them."""
    for seed in [2, 3, 7, 16, 21]:
        size = int(np.random.default_rng(seed).uniform(300, 900))
        stream = quantize_to_size(list(awkward(seed)), size, rans.encode, states=1)
        assert size - 32 <= len(stream) <= size


def test_the_largest_stream_that_fits_is_kept():
    """Where no size is at the target, the best one below it; none below it is an error."""
    sizes = iter([500, 90, 40, *[500, 60] * 12])
    small = matrix(gaussian(8, 8), torch.eye(8))
    stream = quantize_to_size([small], 200, lambda *_: bytes(next(sizes)), states=1)
    assert len(stream) == 90


def test_a_size_out_of_reach_is_an_error(monkeypatch):
    """Fewer bytes than the tables take name the size and what was reached, in few passes."""
    small = matrix(gaussian(8, 8), torch.eye(8))
    passes, real = [], Matrices.points
    monkeypatch.setattr(Matrices, "points", lambda *args: passes.append(1) or real(*args))
    with pytest.raises(ValueError, match="3 bytes are out of reach: 64 weights take"):
        quantize_to_size([small], 3, rans.encode, states=4)
    assert len(passes) <= 2


class FastClock:
    """A deadline that comes nearer by so many seconds with each look at the clock."""

    def __init__(self, seconds, each_look):
        self.seconds, self.each_look = seconds, each_look

    def __call__(self):
        self.seconds -= self.each_look
        return self.seconds


@pytest.mark.parametrize("seconds, each_look", [(1.0, 0.99), (0.9, 0.4), (1e3, 0)])
def test_a_deadline_leaves_a_stream_that_fits(seconds, each_look):
    """With time for a try or two the search ends with what fits; with more it meets the size."""
    weights = matrix(gaussian(64, 32), torch.eye(32))
    clock = FastClock(seconds, each_look)
    try:
        stream = quantize_to_size([weights], 700, rans.encode, seconds_left=clock, states=1)
    except TimeoutError as error:
        assert seconds < 2 and "too few" in str(error)
    else:
        assert len(stream) <= 700
        assert seconds < 2 or len(stream) > 680


def test_a_search_that_time_ended_says_so():
    """One try fits, and there is no time for another: what it gave, and a warning."""
    looks = iter([1e6, 1e6, 1e-9])
    small = matrix(gaussian(8, 8), torch.eye(8))
    with pytest.warns(EndedEarly, match="nearer than 90 bytes"):
        stream = quantize_to_size(
            [small], 200, lambda *_: bytes(90), seconds_left=lambda: next(looks), states=1
        )
    assert len(stream) == 90


def test_no_time_is_told_and_not_overrun():
    """Where the clock has run out nothing is quantised."""
    with pytest.raises(TimeoutError, match="are left"):
        quantize_to_size(
            [matrix(gaussian(8, 8), torch.eye(8))], 90, rans.encode, seconds_left=lambda: -1.0
        )


def test_far_sizes_are_measured_and_near_ones_coded(monkeypatch):
    """Of many weights only a try near the wanted size is coded; the size is met all the same."""
    monkeypatch.setattr(search, "MANY_WEIGHTS", 1)
    matrices = [matrix(gaussian(240, 160), hessian_of(160))]
    coded = []

    def encode(points, base_steps, states):
        coded.append(rans.encode(points, base_steps, states))
        return coded[-1]

    measured, real = [], rans.estimated_bytes
    size = 9000
    stream = quantize_to_size(
        matrices, size, encode, measure=lambda p: measured.append(real(p)) or measured[-1], states=1
    )
    assert 0.999 * size <= len(stream) <= size
    assert 0 < len(coded) < len(measured)
    assert measured[-1] == pytest.approx(len(stream), rel=0.004)
