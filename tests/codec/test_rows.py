"""Rows on grids, and the plans that say which tensor gets which grid."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codec import rows
from codec.rows import DEFAULT_PLAN, PlanRow, int5_plan, match_plan, quantize_rows
from quantize import decode, encode

FUZZ = settings(
    max_examples=200,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
INT5 = (PlanRow("*", 5, 2.9),)
FP16 = (PlanRow("*", 16),)


def gaussian(*shape, sigma=1.0, seed=0):
    return sigma * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_state():
    return {
        "tok_emb.weight": gaussian(40, 16, seed=1),
        "blocks.0.attn.q.weight": gaussian(16, 16, seed=2),
        "blocks.0.attn_scale": gaussian(16, seed=3),
        "bigram.scale": torch.tensor(0.05),
    }


SMALL_PLAN = (
    PlanRow("tok_emb.weight", 8, 6.0),
    PlanRow("blocks.*.weight", 5, 2.9),
    PlanRow("*scale", 16),
)


def model_state(layers=11, dim=512, heads=8, kv_dim=256, vocab=1024, table=(2048, 64)):
    """Gaussian weights with the trainer's names; the defaults are the shapes of the full recipe."""
    shapes = {
        "tok_emb.weight": (vocab, dim),
        "bigram.table.weight": table,
        "bigram.proj.weight": (dim, table[1]),
        "bigram.scale": (),
        "smear.gate": (dim,),
        "skip_weights": (layers // 2, dim),
    }
    for layer in range(layers):
        for name, shape in {
            "attn.q.weight": (dim, dim),
            "attn.k.weight": (kv_dim, dim),
            "attn.v.weight": (kv_dim, dim),
            "attn.proj.weight": (dim, dim),
            "attn.q_gain": (heads,),
            "mlp.fc.weight": (3 * dim, dim),
            "mlp.proj.weight": (dim, 3 * dim),
            "attn_scale": (dim,),
            "mlp_scale": (dim,),
            "resid_mix": (2, dim),
        }.items():
            shapes[f"blocks.{layer}.{name}"] = shape
    return {
        name: gaussian(*shape, sigma=0.03, seed=seed)
        for seed, (name, shape) in enumerate(shapes.items())
    }


@st.composite
def matrices(draw):
    """Matrices of awkward shapes whose rows differ in size by up to 33 decades."""
    rows, columns = draw(st.integers(0, 6)), draw(st.integers(0, 12))
    seed = draw(st.integers(0, 2**31))
    matrix = gaussian(rows, columns, seed=seed)
    kinds = st.sampled_from([0.0, 1e-30, 1e-6, 1e-3, 1.0, 30.0, 1e3])
    for row in range(rows):
        matrix[row] *= draw(kinds)
        if draw(st.booleans()):
            matrix[row] = matrix[row, :1] if columns else 0.0
    return matrix


@FUZZ
@given(matrices(), st.integers(2, 8), st.floats(0.5, 8))
def test_round_trip_is_exact_to_the_grid(matrix, bits, clip):
    """decode(encode(x)) is what quantize_rows says, to the last bit, for every shape and size."""
    expected = quantize_rows(matrix, bits, clip).dequantize()
    weights, stored = decode(encode({"w": matrix}, (PlanRow("w", bits, clip),), {"a": [1, None]}))
    assert torch.equal(weights["w"], expected) and weights["w"].dtype == torch.float32
    assert stored == {"a": [1, None]}


@FUZZ
@given(matrices(), st.integers(2, 8), st.floats(0.5, 8))
def test_error_is_half_a_step_of_the_rows_own_range(matrix, bits, clip):
    """Inside the clip no weight moves by more than half its row's step; outside it saturates."""
    quantized = quantize_rows(matrix, bits, clip)
    step_R1 = quantized.scale_R.double().unsqueeze(1)
    reach_R1 = step_R1 * rows.TOP_CODE[bits]
    error = (quantized.dequantize().double() - matrix.double()).abs()
    inside = matrix.double().abs() <= reach_R1
    assert (error <= 0.5001 * step_R1)[inside].all()
    saturated = (matrix.sign() * reach_R1).float()
    assert torch.equal(quantized.dequantize()[~inside], saturated[~inside])
    assert quantized.codes_RC.abs().max().item() <= rows.TOP_CODE[bits] if matrix.numel() else 1


@pytest.mark.parametrize("bits, clip", [(5, 2.9), (8, 4.0)])
@pytest.mark.parametrize("sigma", [1e-6, 1e-4, 1e-2, 1.0, 1e2, 1e4])
def test_rows_of_any_size_get_a_proper_step(bits, clip, sigma):
    """The relative error stays small for rows of sigma 1e-6 to 1e4, beside rows of other sizes."""
    matrix = torch.cat([gaussian(8, 512, sigma=sigma), gaussian(1, 512, sigma=100)])
    restored = quantize_rows(matrix, bits, clip).dequantize()
    error = (restored - matrix)[:8].square().mean(dim=1).sqrt() / sigma
    assert error.max() < 0.12


def test_step_is_the_clip_width_over_the_top_code():
    """The step is clip_sigmas * rms / (2**(bits-1) - 1), in fp16; both rows have rms 5."""
    quantized = quantize_rows(torch.tensor([[5.0, -5.0, 5.0, 5.0], [7.0, 1.0, 5.0, 5.0]]), 5, 2.0)
    assert quantized.scale_R.dtype == torch.float16
    assert quantized.scale_R.tolist() == [torch.tensor(10 / 15).half().item()] * 2
    assert quantized.codes_RC.tolist() == [[8, -8, 8, 8], [11, 2, 8, 8]]


def test_zero_rows_stay_zero_and_constant_rows_do_not():
    """Zero rows decode to zeros, constant ones to within 10 %, and tiny rows keep their sign."""
    rows = torch.tensor([[0.0] * 4, [0.3] * 4, [-4e-8] * 4])
    restored = quantize_rows(rows, 5, 2.9).dequantize()
    assert torch.equal(restored[0], torch.zeros(4))
    assert torch.allclose(restored[1], rows[1], rtol=0.1)
    assert (restored[2] < 0).all()


@pytest.mark.parametrize("shape", [(), (1,), (7,), (0,), (0, 5), (5, 0), (1, 9), (9, 1), (2, 3, 4)])
@pytest.mark.parametrize("plan", [INT5, FP16], ids=["int5", "fp16"])
def test_every_shape_survives(shape, plan):
    """Scalars, vectors, empty and three-dimensional tensors come back with their shape."""
    tensor = gaussian(*shape) if 0 not in shape else torch.zeros(shape)
    restored = decode(encode({"w": tensor}, plan, {}))[0]["w"]
    assert restored.shape == tensor.shape
    assert torch.allclose(restored, tensor, atol=2.0 if plan is INT5 else 2e-3)


def test_fp16_tensors_are_rounded_once():
    """16-bit tensors decode to exactly their fp16 value, subnormals and negatives included."""
    tensor = torch.tensor([1.0, -1.0 / 3, 6e-8, -65504.0, 0.0])
    assert torch.equal(decode(encode({"w": tensor}, FP16, {}))[0]["w"], tensor.half().float())


@pytest.mark.parametrize("bits, clip", [(1, 3.0), (9, 3.0), (5, 0.0), (5, -1.0), (5, float("nan"))])
def test_impossible_grids_are_refused(bits, clip):
    """Bits outside 2..8 and clip widths that are not positive are errors, in a plan too."""
    with pytest.raises(ValueError, match="must be"):
        quantize_rows(gaussian(2, 4), bits, clip)
    with pytest.raises(ValueError, match="must be"):
        PlanRow("w", bits, clip)


def test_plan_and_tensors_must_match_one_to_one():
    """A tensor without a row, with two rows, and a row without a tensor are named."""
    state = small_state()
    with pytest.raises(ValueError, match=r"'bigram.scale'.*none"):
        encode(state, SMALL_PLAN[:2] + (PlanRow("blocks.*scale", 16),), {})
    with pytest.raises(ValueError, match=r"'tok_emb.weight'.*'tok_emb.weight', '\*.weight'"):
        encode(state, (SMALL_PLAN[0], PlanRow("*.weight", 5, 2.9), SMALL_PLAN[2]), {})
    with pytest.raises(ValueError, match=r"'head.weight' matches no tensor"):
        encode(state, SMALL_PLAN + (PlanRow("head.weight", 5, 2.9),), {})


def test_default_plan_covers_the_model():
    """The default plan holds int5 matrices, an int8 embedding and fp16 for all small tensors."""
    state = model_state()
    assert int5_plan(state) is DEFAULT_PLAN
    assert sum(tensor.numel() for tensor in state.values()) == 26_666_073
    bits = {name: row.bits for name, row in match_plan(DEFAULT_PLAN, state).items()}
    assert bits.pop("tok_emb.weight") == 8
    assert all(bit == (5 if name.endswith(".weight") else 16) for name, bit in bits.items())


def test_the_default_grids_fit_models_of_other_names():
    """As the docstring says: the embedding in 8 bits, matrices in 5, the rest in fp16."""
    state = {
        "wte.weight": gaussian(64, 64),
        "h.0.up.weight": gaussian(64, 64),
        "gain": gaussian(64),
    }
    assert int5_plan(state) == (
        PlanRow("wte.weight", 8, 6.0),
        PlanRow("h.0.up.weight", 5, 2.9),
        PlanRow("gain", 16),
    )
