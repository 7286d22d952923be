"""The artifact: grids, plan, container, byte target and command line of quantize.py.

The golden artifact below is regenerated, after a deliberate change of format and version, by
`python tests/test_quantize.py`, which prints the literals to paste.
"""

import base64
import hashlib
import json
import math
import os
import random
import sys
import time
import tracemalloc
import types
from pathlib import Path

import pytest
import torch
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import quantize
from quantize import (
    ArtifactError,
    PlanRow,
    decode,
    encode,
    encode_to_target,
    encode_trellis,
    quantize_rows,
)

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


# --- Grids ---


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
    reach_R1 = step_R1 * quantize.TOP_CODE[bits]
    error = (quantized.dequantize().double() - matrix.double()).abs()
    inside = matrix.double().abs() <= reach_R1
    assert (error <= 0.5001 * step_R1)[inside].all()
    saturated = (matrix.sign() * reach_R1).float()
    assert torch.equal(quantized.dequantize()[~inside], saturated[~inside])
    assert quantized.codes_RC.abs().max().item() <= quantize.TOP_CODE[bits] if matrix.numel() else 1


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


# --- Plan and input errors ---


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
    assert sum(tensor.numel() for tensor in state.values()) == 26_666_073
    bits = {
        name: row.bits for name, row in quantize.match_plan(quantize.DEFAULT_PLAN, state).items()
    }
    assert bits.pop("tok_emb.weight") == 8
    assert all(bit == (5 if name.endswith(".weight") else 16) for name, bit in bits.items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("plan", [INT5, FP16], ids=["int5", "fp16"])
def test_numbers_that_fp16_cannot_hold_are_refused_by_name(bad, plan):
    """NaN, infinity and values or steps beyond fp16 raise an error that names the tensor."""
    tensor = gaussian(4, 4)
    tensor[2, 1] = bad
    with pytest.raises(ValueError, match=r"'blocks.0.mlp.fc.weight'.*reach (nan|inf|\d).*65504"):
        encode({"fine": gaussian(2, 2), "blocks.0.mlp.fc.weight": tensor}, plan, {})


def test_other_inputs_are_refused():
    """Integer tensors, names that cannot be printed and settings that are not JSON are errors."""
    with pytest.raises(ValueError, match="'w'.*int64"):
        encode({"w": torch.arange(4)}, INT5, {})
    with pytest.raises(ArtifactError, match="unprintable"):
        encode({"w\n": gaussian(2, 2)}, INT5, {})
    for bad in ({"a": float("nan")}, {"a": {1, 2}}, {"a": Path("x")}):
        with pytest.raises(ValueError, match="settings are not JSON"):
            encode({"w": gaussian(2, 2)}, INT5, bad)
    with pytest.raises(ValueError, match="header"):
        encode({"w": gaussian(2, 2)}, INT5, [1])


def test_weights_of_any_float_type_are_taken():
    """bf16, fp64 and non-contiguous parameters encode like their fp32 copies."""
    weight = gaussian(6, 8).bfloat16()
    expected = encode({"w": weight.float()}, INT5, {})
    assert encode({"w": weight}, INT5, {}) == expected
    assert encode({"w": weight.double()}, INT5, {}) == expected
    assert encode({"w": torch.nn.Parameter(weight.float().T.contiguous().T)}, INT5, {}) == expected


# --- Damage and hostility ---


def corrupt(blob, rng):
    kind = rng.choice(["flip", "truncate", "insert", "overwrite", "delete", "extend"])
    at = rng.randrange(len(blob))
    length = rng.randint(1, 64)
    match kind:
        case "flip":
            return blob[:at] + bytes([blob[at] ^ (1 << rng.randrange(8))]) + blob[at + 1 :]
        case "truncate":
            return blob[:at]
        case "insert":
            return blob[:at] + rng.randbytes(length) + blob[at:]
        case "overwrite":
            return blob[:at] + rng.randbytes(length)[: len(blob) - at] + blob[at + length :]
        case "delete":
            return blob[:at] + blob[at + length :]
        case "extend":
            return blob + rng.randbytes(length)


def test_a_thousand_random_corruptions_are_refused():
    """No damaged, truncated or extended artifact decodes, and each error says why."""
    blob = encode(small_state(), SMALL_PLAN, {"a": 1})
    rng = random.Random(0)
    reasons = set()
    for _ in range(1000):
        damaged = corrupt(blob, rng)
        if damaged == blob:
            continue
        with pytest.raises(ArtifactError) as caught:
            decode(damaged)
        reasons.add(str(caught.value).split()[0])
    assert reasons - {"version"} == {"magic", "truncated:", "trailing", "checksum"}


def dissect(blob):
    """The parsed header and the streams of an artifact."""
    header_bytes = quantize.PREFIX.unpack_from(blob)[2]
    end = quantize.PREFIX.size + header_bytes
    return json.loads(blob[quantize.PREFIX.size : end]), blob[end : -quantize.CHECKSUM_BYTES]


def seal(header, streams, magic=quantize.MAGIC, version=quantize.ROWS_VERSION):
    """An artifact with a correct length and checksum around any header and streams."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = quantize.PREFIX.size + len(text) + len(streams) + quantize.CHECKSUM_BYTES
    body = quantize.PREFIX.pack(magic, version, len(text), size) + text + streams
    return body + hashlib.sha256(body).digest()


def seal_prefix(header_bytes):
    """A sealed artifact without header or streams that claims to have a header."""
    size = quantize.PREFIX.size + quantize.CHECKSUM_BYTES
    body = quantize.PREFIX.pack(quantize.MAGIC, quantize.ROWS_VERSION, header_bytes, size)
    return body + hashlib.sha256(body).digest()


def table_of(*lines):
    return {"settings": {}, "tensors": list(lines)}


def zstd(data):
    return zstandard.ZstdCompressor(level=3).compress(data)


SCALE, CODES = zstd(b"\x00\x3c"), zstd(bytes(4))
CHECKED = zstandard.ZstdCompressor(write_checksum=True).compress(bytes(4))
LINE = ["w", [1, 4], 5, len(SCALE), len(CODES)]
HALF_LINE = ["w", [1], 16, len(SCALE), 0]
HUGE = 2**40


def line(**changes):
    fields = dict(zip(("name", "shape", "bits", "half", "code"), LINE, strict=True)) | changes
    return list(fields.values())


HOSTILE = {
    "other magic": ("magic", seal(table_of(LINE), SCALE + CODES, magic=b"PK\3\4")),
    "later version": ("version is 9", seal(table_of(LINE), SCALE + CODES, version=9)),
    "not JSON": ("header", seal(b"{", b"")),
    "not text": ("header", seal(b"\xff\xfe", b"")),
    "nested without end": ("header", seal(b"[" * 100_000, b"")),
    "huge integer": ("header", seal(b'{"settings": {}, "tensors": [' + b"9" * 9999 + b"]}", b"")),
    "a list": ("header", seal(b"[]", b"")),
    "no tensors": ("header", seal({"settings": {}}, b"")),
    "settings not a dict": ("header", seal({"settings": [], "tensors": []}, b"")),
    "table not a list": ("header", seal({"settings": {}, "tensors": 5}, b"")),
    "extra field": ("header", seal({"settings": {}, "tensors": [], "more": 1}, b"")),
    "NaN": ("header", seal(b'{"settings": {"a": NaN}, "tensors": []}', b"")),
    "repeated key": ("header", seal(b'{"settings": {"a": 1, "a": 2}, "tensors": []}', b"")),
    "header too long": (
        "header of .* is over",
        seal(table_of() | {"settings": {"a": "x" * 2**20}}, b""),
    ),
    "header past the end": (
        "header",
        seal_prefix(header_bytes=60),
    ),
    "line a number": ("table line", seal(table_of(5), b"")),
    "line not a list": ("table line", seal(table_of("w"), b"")),
    "line too short": ("table line", seal(table_of(["w", [1]]), b"")),
    "line too long": ("table line", seal(table_of([*LINE, 0]), SCALE + CODES)),
    "shape not a list": ("table line", seal(table_of(line(shape=4)), SCALE + CODES)),
    "bits as a float": ("table line", seal(table_of(line(bits=5.0)), SCALE + CODES)),
    "size as a boolean": ("table line", seal(table_of(line(code=True)), SCALE + CODES)),
    "unknown bits": ("bits=9", seal(table_of(line(bits=9)), SCALE + CODES)),
    "empty name": ("name is", seal(table_of(line(name="")), SCALE + CODES)),
    "control character": ("name is", seal(table_of(line(name="\x1b[2J")), SCALE + CODES)),
    "duplicate name": ("'w'.*repeated", seal(table_of(LINE, LINE), 2 * (SCALE + CODES))),
    "negative dimension": ("no sizes", seal(table_of(line(shape=[-1, -4])), SCALE + CODES)),
    "dimension as text": ("no sizes", seal(table_of(line(shape=["4"])), SCALE + CODES)),
    "negative stream": ("no sizes", seal(table_of(line(half=-1, code=1)), b"")),
    "nine dimensions": ("no sizes", seal(table_of(line(shape=[1] * 8 + [4])), SCALE + CODES)),
    "huge matrix": ("'w': over", seal(table_of(line(shape=[HUGE, HUGE])), SCALE + CODES)),
    "huge rows of nothing": ("'w': over", seal(table_of(line(shape=[HUGE, 0])), SCALE + CODES)),
    "nothing times huge": ("'w': over", seal(table_of(line(shape=[0, HUGE, HUGE])), SCALE + CODES)),
    "many large tensors": (
        "'t4': over",
        seal(table_of(*([f"t{i}", [1 << 26], 16, 0, 0] for i in range(5))), b""),
    ),
    "streams missing": ("differ by -", seal(table_of(LINE), SCALE)),
    "streams left over": ("differ by 1", seal(table_of(LINE), SCALE + CODES + b"x")),
    "not zstd": ("'w', to byte", seal(table_of(line(code=4)), SCALE + b"abcd")),
    "stream is empty": ("'w', to byte", seal(table_of(line(code=0)), SCALE)),
    "skippable frame": (
        "'w', to byte",
        seal(table_of(line(code=12)), SCALE + b"\x50\x2a\x4d\x18\4\0\0\0abcd"),
    ),
    "cut stream": ("'w', to byte", seal(table_of(line(code=len(CODES) - 1)), SCALE + CODES[:-1])),
    "cut frame checksum": (
        "'w', to byte",
        seal(table_of(line(code=len(CHECKED) - 2)), SCALE + CHECKED[:-2]),
    ),
    "stream with a tail": (
        "'w', to byte",
        seal(table_of(line(code=len(CODES) + 1)), SCALE + CODES + b"x"),
    ),
    "codes too few": (
        "'w'.*4 bytes",
        seal(table_of(line(code=len(zstd(bytes(3))))), SCALE + zstd(bytes(3))),
    ),
    "scales too many": (
        "'w'.*2 bytes",
        seal(table_of(line(half=len(zstd(bytes(4))))), zstd(bytes(4)) + CODES),
    ),
    "code off the grid": (
        "'w'.*off the grid",
        seal(table_of(line(code=len(zstd(b"\x1f" * 4)))), SCALE + zstd(b"\x1f" * 4)),
    ),
    "negative scale": ("'w'.*negative", seal(table_of(LINE), zstd(b"\x00\xbc") + CODES)),
    "infinite scale": ("'w'.*infinite", seal(table_of(LINE), zstd(b"\x00\x7c") + CODES)),
    "NaN weight": ("'w'.*NaN", seal(table_of(HALF_LINE), zstd(b"\x01\x7c"))),
}


def test_sealed_artifacts_decode():
    """The helper makes valid artifacts, so the hostile ones are refused for their reason."""
    weights, _ = decode(seal(table_of(LINE), SCALE + CODES))
    assert weights["w"].tolist() == [[-15.0] * 4]
    assert decode(seal(table_of(HALF_LINE), SCALE))[0]["w"].tolist() == [1.0]


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_artifacts_with_a_valid_checksum_are_refused(case):
    """Every crafted artifact is refused with the right reason and without large allocations."""
    reason, blob = HOSTILE[case]
    tracemalloc.start()
    with pytest.raises(ArtifactError, match=reason):
        decode(blob)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 40 * 2**20


POINTS_LINE = ["w", [4, 3], 0, 0, 0]


def points_of(weight, most_bytes=10**6):
    """The stream of points of one matrix, as encode_trellis stores it."""
    blob = encode_trellis({"w": weight}, {"w": torch.eye(weight.shape[1])}, {}, most_bytes)
    return dissect(blob)[1]


def points_table(*lines, **more):
    return table_of(*lines) | {"points": "rans"} | more


def seal_points(header, streams):
    return seal(header, streams, version=quantize.TRELLIS_VERSION)


HOSTILE_POINTS = {
    "points in version 1": ("bits=0", lambda s: seal(table_of(POINTS_LINE), s)),
    "no coder": ("not as this format", lambda s: seal_points(table_of(POINTS_LINE), s)),
    "another coder": (
        "not as this format",
        lambda s: seal_points(points_table(POINTS_LINE, points="zip"), s),
    ),
    "coder in version 1": ("not as this format", lambda s: seal(points_table(POINTS_LINE), s)),
    "a vector": ("points of shape", lambda s: seal_points(points_table(["w", [12], 0, 0, 0]), s)),
    "its own stream": (
        "points of shape",
        lambda s: seal_points(points_table(["w", [4, 3], 0, 1, 0]), s),
    ),
    "another shape": (
        "points of tensors",
        lambda s: seal_points(points_table(["w", [3, 4], 0, 0, 0]), s),
    ),
    "huge": ("'w': over", lambda s: seal_points(points_table(["w", [HUGE, 3], 0, 0, 0]), s)),
    "others run past the end": (
        "differ by -",
        lambda s: seal_points(points_table(["v", [2], 16, 9999, 0], POINTS_LINE), s),
    ),
    "no stream": ("points of tensors", lambda s: seal_points(points_table(POINTS_LINE), b"")),
    "cut": ("points of tensors", lambda s: seal_points(points_table(POINTS_LINE), s[:-2])),
    "a tail": ("points of tensors", lambda s: seal_points(points_table(POINTS_LINE), s + b"ab")),
    "a tensor too many": (
        "points of tensors",
        lambda s: seal_points(points_table(POINTS_LINE, ["x", [4, 3], 0, 0, 0]), s),
    ),
}


@pytest.mark.parametrize("case", HOSTILE_POINTS)
def test_hostile_points_with_a_valid_checksum_are_refused(case):
    """Every crafted artifact of version 2 is refused for its reason; the honest one is not."""
    stream = points_of(gaussian(4, 3))
    assert decode(seal_points(points_table(POINTS_LINE), stream))[0]["w"].shape == (4, 3)
    reason, make = HOSTILE_POINTS[case]
    with pytest.raises(ArtifactError, match=reason):
        decode(make(stream))


@pytest.mark.parametrize("declared", [True, False], ids=["size declared", "size not declared"])
def test_decompression_bombs_are_refused_without_unpacking(declared):
    """A stream of 200 MB of zeros behind a small tensor is refused before it is unpacked."""
    parameters = zstandard.ZstdCompressionParameters.from_level(3, write_content_size=declared)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    bomb = compressor.compress(bytes(200_000_000))
    blob = seal(table_of(line(code=len(bomb))), SCALE + bomb)
    tracemalloc.start()
    with pytest.raises(ArtifactError, match="'w'.*4 bytes"):
        decode(blob)
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak_bytes < 2**20


def test_resealed_corruptions_never_surprise():
    """Damage under a fresh checksum either raises ArtifactError or yields finite weights."""
    header, streams = dissect(encode(small_state(), SMALL_PLAN, {"a": 1}))
    text = json.dumps(header).encode()
    rng = random.Random(1)
    refused = 0
    for _ in range(2000):
        if rng.random() < 0.5:
            blob = seal(corrupt(text, rng), streams)
        else:
            blob = seal(text, corrupt(streams, rng))
        try:
            weights, _ = decode(blob)
        except ArtifactError:
            refused += 1
        else:
            assert all(tensor.isfinite().all() for tensor in weights.values())
    assert refused > 1500


# --- Bytes ---


GOLDEN_STATE = {
    "m": torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]),
    "e": torch.tensor([[0.6, 0.25, -0.125]]),
    "v": torch.tensor([1.0, -0.5]),
}
GOLDEN_PLAN = (PlanRow("m", 5, 2.9), PlanRow("e", 8, 6.0), PlanRow("v", 16))
GOLDEN_SETTINGS = {"model_dim": 3, "name": "g\u00f6lden"}
GOLDEN_SHA256 = "7a6550db355efd18986fc99e9eccaadffea3de52b2eba92b5bd158716ed0a2c6"
GOLDEN_BASE85 = (
    "iBLyc0RW8v0093000000004U;b7gdNX>Mn8B03;@B5iMEWo%z$X>B4pATul=B5q-AWg<EtB4=E6Ffe8|Y-D9_B7H"
    "0%B6MYLb8m8UB03;jTOw^DEFfDlEFd#oEFd*3ATcv6ATc#vEFfDVWg;vfTQMvkGhHkoI4mGBF)Sc4GF>bnTOxKME"
    "FfDlT`V9mHY^}9Gb|u5U0r=BwJ-f31R($buK_jyD77#BAO<l201*ln4-XG0wJ-f30ucZJpCl-?Fa00`82|vFjd&="
    "vFa00{ApigX06e%+?dDicU=x7kAH4~?#G_e_txJ{qvszj&D%e!|if<e"
)
GOLDEN_WEIGHTS = {
    "m": [[0.83544921875, -2.088623046875, 2.924072265625], [0.0, 0.0, 0.0]],
    "e": [[0.5956878662109375, 0.252716064453125, -0.1263580322265625]],
    "v": [1.0, -0.5],
}


def stored_zstd():
    """A stand-in for zstd that leaves data as it is, so that bytes do not hang on its version."""
    return (lambda data, level: data), (lambda data, expected: data), ValueError


def test_golden_bytes_do_not_drift(monkeypatch):
    """All bytes of the format but zstd's own are those of version 1."""
    monkeypatch.setattr(quantize, "load_zstd", stored_zstd)
    blob = encode(GOLDEN_STATE, GOLDEN_PLAN, GOLDEN_SETTINGS)
    assert hashlib.sha256(blob).hexdigest() == GOLDEN_SHA256


def test_golden_artifact_keeps_decoding():
    """An artifact written when version 1 was new decodes to the same numbers, written out here."""
    weights, stored = decode(base64.b85decode(GOLDEN_BASE85))
    assert stored == GOLDEN_SETTINGS
    assert {name: tensor.tolist() for name, tensor in weights.items()} == GOLDEN_WEIGHTS


def test_bytes_do_not_depend_on_threads(monkeypatch):
    """One, two, five and as many threads as cores write the same artifact."""
    pools = []

    class RecordedPool(quantize.ThreadPoolExecutor):
        def __init__(self, threads):
            pools.append(threads)
            super().__init__(threads)

    monkeypatch.setattr(quantize, "ThreadPoolExecutor", RecordedPool)
    state = model_state(layers=2, dim=64, heads=4, kv_dim=32, vocab=64, table=(64, 16))
    blobs = {encode(state, quantize.DEFAULT_PLAN, {}, threads=n) for n in (1, 2, 5, 0)}
    assert len(blobs) == 1 and pools == [1, 2, 5, os.cpu_count()]


@pytest.mark.parametrize("fraction", [1.04, 1.0, 0.8, 0.4, 0.15])
def test_target_lands_within_one_percent_under(fraction):
    """encode_to_target gives 99 to 100 % of the target, and its plan encodes to the same bytes."""
    state = model_state(layers=2, dim=64, heads=4, kv_dim=32, vocab=64, table=(64, 16))
    target_bytes = int(fraction * len(encode(state, quantize.DEFAULT_PLAN, {"a": 1})))
    blob, plan = encode_to_target(state, quantize.DEFAULT_PLAN, {"a": 1}, target_bytes)
    assert 0.99 * target_bytes <= len(blob) <= target_bytes
    assert encode(state, plan, {"a": 1}) == blob
    ratios = {
        new.clip_sigmas / old.clip_sigmas
        for new, old in zip(plan, quantize.DEFAULT_PLAN, strict=True)
        if old.bits != 16
    }
    assert max(ratios) == pytest.approx(min(ratios))
    assert [row.bits for row in plan] == [row.bits for row in quantize.DEFAULT_PLAN]


@pytest.mark.parametrize("target_bytes", [-1, 100, 10**9])
def test_targets_out_of_reach_name_the_range(target_bytes):
    """A target that no clip width meets is an error with the sizes that can be met."""
    with pytest.raises(ValueError, match=rf"{target_bytes} is out of reach.* \d+ to \d+ bytes"):
        encode_to_target({"w": gaussian(64, 64)}, INT5, {}, target_bytes)
    with pytest.raises(ValueError, match="out of reach"):
        encode_to_target({"w": torch.zeros(64, 64)}, INT5, {}, target_bytes)


# --- zstd ---


def test_missing_zstd_names_the_install_command(monkeypatch):
    """Without zstandard and without Python's own zstd the error says what to install."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(ImportError, match="pip install zstandard"):
        encode({"w": gaussian(2, 2)}, INT5, {})


class StandInDecompressor:
    """compression.zstd's decompressor as documented, on top of the zstandard package."""

    def __init__(self):
        self.inner = zstandard.ZstdDecompressor().decompressobj()

    def decompress(self, data, max_length=-1):
        whole = self.inner.decompress(data)
        self.eof = self.inner.eof and len(whole) <= max_length
        self.unused_data = self.inner.unused_data
        return whole[:max_length]


def test_standard_library_zstd_is_used_where_the_package_is_missing(monkeypatch):
    """The same artifact is read and written through compression.zstd, with the same refusals."""
    state = small_state()
    expected = encode(state, SMALL_PLAN, {})
    module = types.SimpleNamespace(
        compress=zstandard.compress,
        ZstdDecompressor=StandInDecompressor,
        ZstdError=zstandard.ZstdError,
    )
    if sys.version_info < (3, 14):
        package = types.ModuleType("compression")
        package.zstd = module
        monkeypatch.setitem(sys.modules, "compression", package)
        monkeypatch.setitem(sys.modules, "compression.zstd", module)
    monkeypatch.setitem(sys.modules, "zstandard", None)
    blob = encode(state, SMALL_PLAN, {})
    for name, tensor in decode(expected)[0].items():
        assert torch.equal(decode(blob)[0][name], tensor)
    for case in (
        "not zstd",
        "cut stream",
        "cut frame checksum",
        "stream with a tail",
        "codes too few",
        "scales too many",
    ):
        reason, hostile = HOSTILE[case]
        with pytest.raises(ArtifactError, match=reason):
            decode(hostile)


# --- Report, files, command line ---


def test_write_atomic_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    """The path holds the old bytes or the new ones, and no temporary file stays behind."""
    path = tmp_path / "a.pgz"
    quantize.write_atomic(path, b"old")
    quantize.write_atomic(str(path), b"new")
    assert path.read_bytes() == b"new"

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(quantize.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        quantize.write_atomic(path, b"newer")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def checkpoint(tmp_path):
    state = model_state(layers=2, dim=16, heads=2, kv_dim=8, vocab=32, table=(32, 8))
    ema = {name: 2 * tensor for name, tensor in state.items()}
    content = {
        "model": state,
        "averages": {"ema": ema, "swa": state},
        "exported": "ema",
        "settings": {"seed": 1, "num_layers": 2},
        "model_settings": {"num_layers": 2},
        "step": 7,
    }
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    return path, content


@pytest.mark.parametrize("exported", ["ema", "swa", "raw", None])
def test_command_packs_the_exported_weights(checkpoint, tmp_path, capsys, exported):
    """The command line packs what the checkpoint exports, with the model's settings."""
    path, content = checkpoint
    torch.save(content | {"exported": exported}, path)
    out = tmp_path / "a.pgz"
    assert quantize.main([str(path), "--out", str(out)]) == 0
    weights = content["averages"].get(exported, content["model"])
    assert out.read_bytes() == encode(weights, quantize.DEFAULT_PLAN, {"num_layers": 2})
    assert f"model_bytes:{out.stat().st_size} " in capsys.readouterr().out


def test_command_takes_older_checkpoints_and_plain_state_dicts(checkpoint, tmp_path):
    """Without model_settings the flat settings are stored; a plain state dict has none."""
    path, content = checkpoint
    del content["model_settings"]
    torch.save(content, path)
    assert quantize.load_checkpoint(path)[1] == {"seed": 1, "num_layers": 2}
    torch.save(content["model"], path)
    weights, stored = quantize.load_checkpoint(path)
    assert stored == {} and weights.keys() == content["model"].keys()


def test_command_meets_a_target(checkpoint, tmp_path, capsys):
    """--target-bytes lands under its number."""
    path, _ = checkpoint
    out = tmp_path / "a.pgz"
    assert quantize.main([str(path), "--out", str(out), "--target-bytes", "6000"]) == 0
    assert 5940 <= out.stat().st_size <= 6000
    assert "clip_sigmas" in capsys.readouterr().out


def test_command_packs_a_model_of_any_names(tmp_path, capsys):
    """--int8: rows for large matrices, fp16 for the rest, with a target too."""
    state = {"wte": gaussian(80, 64), "blocks.0.up": gaussian(64, 65), "small": gaussian(63, 65)}
    state |= {"kernel": gaussian(4, 64, 32), "gain": gaussian(5000)}
    path, out = tmp_path / "other.pt", tmp_path / "a.pgz"
    torch.save(state, path)
    assert quantize.main([str(path), "--out", str(out), "--int8"]) == 0
    assert "clip_sigmas wte:6.000 blocks.0.up:6.000\n" in capsys.readouterr().out
    found, _ = decode(out.read_bytes())
    for name, weight in state.items():
        exact = torch.equal(found[name], weight.half().float())
        assert exact == (name not in ("wte", "blocks.0.up"))
        assert (found[name] - weight).abs().max() < 0.06
    full = out.stat().st_size
    assert quantize.main([str(path), "--out", str(out), "--int8", "--target-bytes", "40000"]) == 0
    assert 39_600 <= out.stat().st_size <= 40_000 < full


def test_command_takes_names_with_the_signs_of_patterns(tmp_path):
    """--int8 on names with brackets and stars: each tensor has its own row of the plan."""
    state = {"h[0].w": gaussian(64, 64), "h*": gaussian(64, 65), "hx": gaussian(64, 66)}
    path, out = tmp_path / "other.pt", tmp_path / "a.pgz"
    torch.save(state, path)
    assert quantize.main([str(path), "--out", str(out), "--int8"]) == 0
    assert list(decode(out.read_bytes())[0]) == list(state)


@pytest.mark.parametrize(
    "state",
    [
        {0: gaussian(64, 64)},
        {"w": gaussian(64, 64).to_sparse()},
        {"w": torch.empty(64, 64, device="meta")},
    ],
)
@pytest.mark.parametrize("codec", ["--int8", "--trellis"])
def test_command_refuses_what_is_no_dense_tensor_under_a_name(state, codec, tmp_path, capsys):
    """Unnamed, sparse and meta tensors: one line that says which, not a traceback."""
    path = tmp_path / "odd.pt"
    torch.save(state, path)
    assert quantize.main([str(path), "--out", str(tmp_path / "a.pgz"), codec]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and f"{[*state][0]!r} is no dense" in captured.err


def test_command_errors_are_one_line_and_leave_the_output_alone(checkpoint, tmp_path, capsys):
    """Wrong input exits with 2 and one line on stderr, and an existing artifact stays."""
    path, content = checkpoint
    out = tmp_path / "a.pgz"
    out.write_bytes(b"precious")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(path.read_bytes()[:-300])
    other = tmp_path / "other.pt"
    torch.save({"w": gaussian(2, 2)}, other)
    lost = tmp_path / "lost.pt"
    torch.save(content | {"exported": "median"}, lost)
    foreign = tmp_path / "foreign.pt"
    torch.save({"model": random.Random(0)}, foreign)
    numbers = tmp_path / "numbers.pt"
    torch.save([1, 2, 3], numbers)
    for arguments, reason in (
        ([tmp_path / "absent.pt", "--out", out], "absent.pt"),
        ([broken, "--out", out], "broken.pt"),
        ([other, "--out", out], "'w' must match exactly one plan row, matches none; mend"),
        ([lost, "--out", out], "'median'"),
        ([foreign, "--out", out], "foreign.pt"),
        ([numbers, "--out", out], "no state dict"),
        ([path, "--out", out, "--target-bytes", 1], "out of reach"),
        ([path, "--out", tmp_path / "absent" / "a.pgz"], "absent"),
    ):
        assert quantize.main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and reason in captured.err
        assert out.read_bytes() == b"precious"


# --- The full model ---


@pytest.mark.slow
def test_the_full_model_fits_in_time():
    """26,666,073 Gaussian weights pack into [10, 15.85] MB in 60 s and unpack in 10 s."""
    state = model_state()
    start = time.perf_counter()
    blob = encode(state, quantize.DEFAULT_PLAN, {})
    packed = time.perf_counter()
    decode(blob)
    unpacked = time.perf_counter()
    target, _ = encode_to_target(state, quantize.DEFAULT_PLAN, {}, 14_000_000)
    searched = time.perf_counter()
    print(f"bytes:{len(blob)} pack:{packed - start:.1f}s unpack:{unpacked - packed:.2f}s", end=" ")
    print(f"target_bytes:{len(target)} search:{searched - unpacked:.1f}s")
    assert 10_000_000 <= len(blob) <= 15_850_000
    assert 13_860_000 <= len(target) <= 14_000_000
    assert packed - start < 60 and unpacked - packed < 10 and searched - unpacked < 60


# --- Trellis codec ---


def calibrated(state, nats=1e3, seed=0):
    """Hessians of unlike inputs for every matrix of a state; errors of its size cost about nats."""
    hessians = {}
    for name, weight in state.items():
        if weight.ndim == 2:
            inputs = gaussian(200, weight.shape[1], seed=seed) * torch.logspace(
                -1, 0.5, weight.shape[1]
            )
            hessians[name] = inputs.T @ inputs * (nats / 200 / weight.numel())
    return hessians


@pytest.mark.parametrize(
    "shape", [(1, 9), (9, 1), (0, 5), (5, 0), (1, 1), (300, 2), (2, 300), (700, 3)]
)
def test_every_matrix_comes_back_through_the_trellis(shape):
    """Fine enough, any shape is within a hundredth of its size; scalars and vectors are fp16."""
    state = {"w": gaussian(*shape), "v": gaussian(7), "s": torch.tensor(0.5), "e": torch.empty(0)}
    blob = encode_trellis(state, {"w": 1e3 * torch.eye(shape[1])}, {"a": 1}, 10**6)
    weights, stored = decode(blob)
    assert stored == {"a": 1} and list(weights) == list(state)
    assert weights["w"].shape == shape and weights["w"].dtype == torch.float32
    assert (weights["w"] - state["w"]).abs().max().item() < 0.01 if weights["w"].numel() else True
    assert torch.equal(weights["v"], state["v"].half().float()) and weights["s"] == 0.5


def test_constant_zero_and_huge_rows_come_back_through_the_trellis():
    """Rows that differ by four decades do not spoil each other; zeros stay zeros."""
    weight = torch.stack(
        [torch.zeros(64), torch.full((64,), 0.3), 3e3 * gaussian(64), gaussian(64)]
    )
    back = decode(encode_trellis({"w": weight}, {"w": torch.eye(64)}, {}, 10**6))[0]["w"]
    assert not back[0].any()
    assert (back - weight).norm(dim=1)[1:].div(weight.norm(dim=1)[1:]).max() < 0.02


def test_finest_artifact_loses_what_it_promises():
    """With bytes to spare, half of e H eᵀ is about NEGLIGIBLE_NATS, and no byte more is used."""
    state = {f"w{i}": gaussian(128, 96, sigma=0.1 * (i + 1), seed=i) for i in range(3)}
    hessians = calibrated(state, nats=1.0)
    blob = encode_trellis(state, hessians, {}, 10**7)
    back, nats = decode(blob)[0], 0.0
    for name, hessian_CC in hessians.items():
        error = back[name] - state[name]
        nats += float(((error @ hessian_CC) * error).sum()) / 2
    assert nats == pytest.approx(quantize.NEGLIGIBLE_NATS, rel=0.25)


def test_trellis_targets_are_met_to_a_thousandth():
    """20 random sizes: the whole artifact takes 99.9 to 100 % of each."""
    state = small_state() | {"w": gaussian(400, 200, sigma=0.03, seed=5)}
    hessians, rng = calibrated(state), random.Random(0)
    numbers = sum(weight.numel() for weight in state.values())
    for _ in range(20):
        target = int(numbers * rng.uniform(1.6, 5) / 8) + 600
        size = len(encode_trellis(state, hessians, {"a": 1}, target, states=1))
        assert 0.999 * target <= size <= target, target


def test_trellis_loses_less_than_rows_in_the_same_bytes():
    """Under the Hessians that it was given, at the bytes of int5 rows, by a factor of three."""
    state = {f"w{i}": gaussian(192, 96, sigma=0.1, seed=i) for i in range(2)}
    hessians = calibrated(state)
    rows = encode(state, (PlanRow("*", 5, 2.9),), {})
    trellis_blob = encode_trellis(state, hessians, {}, len(rows))

    def loss(blob):
        errors = {name: w - state[name] for name, w in decode(blob)[0].items()}
        return sum(float(((e @ hessians[n]) * e).sum()) for n, e in errors.items())

    assert loss(trellis_blob) < loss(rows) / 3


@pytest.mark.parametrize(
    "state, hessians, reason",
    [
        ({"w": gaussian(4)}, {"w": torch.eye(4)}, "hessian 'w' is of no matrix"),
        ({"w": gaussian(4, 4)}, {"x": torch.eye(4)}, "hessian 'x' is of no matrix"),
        ({"w": torch.ones(4, 4).int()}, {"w": torch.eye(4)}, "tensor 'w'.*no float type"),
        ({"w": torch.full((4, 4), math.nan)}, {"w": torch.eye(4)}, "'w': weights must be finite"),
        ({"w": gaussian(4, 4)}, {"w": torch.full((4, 4), math.inf)}, "'w': Hessian must be finite"),
        ({"w": gaussian(4, 4)}, {"w": torch.eye(3)}, r"'w': .*\[4, 4\] and \[3, 3\] must be"),
        ({"w": gaussian(4, 4)}, {"w": torch.ones(4)}, r"'w': .*\[4, 4\] and \[4\] must be"),
        ({"w": gaussian(4, 4)}, {"w": torch.eye(4).int()}, "'w': .*int32 is no float type"),
        ({"w": gaussian(4, 4)}, {"w": -torch.eye(4)}, "no sum of squares"),
        ({"w": torch.full((4, 4), 1e30)}, {"w": torch.eye(4)}, "tensor 'w': weights reach 1e\\+30"),
        ({"w": gaussian(4, 4), "v": torch.tensor([1e9])}, {"w": torch.eye(4)}, "tensor 'v'"),
    ],
)
def test_what_the_trellis_cannot_hold_is_refused(state, hessians, reason):
    """Weights and Hessians that make no artifact are named."""
    with pytest.raises(ValueError, match=reason):
        encode_trellis(state, hessians, {}, 1000)


def test_sizes_out_of_reach_of_the_trellis_are_refused():
    """Smaller than all but the points, and than these by the coarsest step."""
    small = {"w": gaussian(4, 4)}, {"w": torch.eye(4)}, {}
    with pytest.raises(ValueError, match="most_bytes=9 is out of reach: [0-9]+ go to all") as told:
        encode_trellis(*small, 9)
    overhead = int(str(told.value).split(": ")[1].split()[0])
    with pytest.raises(ValueError, match="most_bytes=1 for the points .* is out of reach"):
        encode_trellis(*small, overhead + 1)


def test_two_thousand_corruptions_of_points_are_refused():
    """Half with the checksum mended: then decode refuses or gives finite weights, never fails."""
    blob = encode_trellis({"w": gaussian(40, 16), "v": gaussian(5)}, {"w": torch.eye(16)}, {}, 900)
    rng, refused = random.Random(0), 0
    for _ in range(1000):
        damaged = corrupt(blob, rng)
        if damaged != blob:
            with pytest.raises(ArtifactError):
                decode(damaged)
    for _ in range(1000):
        body = bytearray(blob[: -quantize.CHECKSUM_BYTES])
        body[rng.randrange(quantize.PREFIX.size, len(body))] ^= 1 << rng.randrange(8)
        try:
            weights, _ = decode(bytes(body) + hashlib.sha256(body).digest())
        except ArtifactError:
            refused += 1
        else:
            assert all(weight.isfinite().all() for weight in weights.values())
    assert refused > 900


@pytest.mark.parametrize("weight", [1e-38, 1e-30, 1.0, 1e30])
def test_a_matrix_that_hardly_counts_does_not_stop_the_packing(weight):
    """A run must not fail at its end because one Hessian is nearly nothing, or very large."""
    state = {"a": gaussian(16, 16), "b": gaussian(16, 16, seed=1), "zero": torch.zeros(16, 16)}
    hessians = {"a": torch.eye(16), "b": weight * torch.eye(16), "zero": torch.zeros(16, 16)}
    back = decode(encode_trellis(state, hessians, {}, 2000))[0]
    assert all(matrix.isfinite().all() for matrix in back.values())
    assert (back["a"] - state["a"]).norm() < 0.2 * state["a"].norm()
    assert not back["zero"].any()


def test_the_order_of_hessians_means_nothing():
    """Points stand in the order of the table, whatever that of the Hessians."""
    state = {"a": gaussian(16, 16), "b": 5 * gaussian(16, 16, seed=1)}
    hessians = {name: torch.eye(16) for name in ("b", "a")}
    back = decode(encode_trellis(state, hessians, {}, 2000))[0]
    assert all((back[n] - state[n]).norm() < 0.1 * state[n].norm() for n in state)


def test_flat_hessians_do_not_hang_on_the_order_of_a_sum():
    """Summed in fp64: in fp32 other threads give other Hessians, and could give other bytes."""
    weight_RC = gaussian(384, 512)
    power = weight_RC.double().square().sum()
    found = quantize.flat_hessians({"w": weight_RC})["w"]
    assert torch.equal(found.diagonal(), (1 / power).float().expand(512))


def test_bytes_do_not_hang_on_default_or_hessian_types():
    """PyTorch's default of float64, and Hessians in bf16 (here exact), give the same artifact."""
    state, hessians = {"w": gaussian(64, 48)}, {"w": torch.eye(48)}
    flat = quantize.flat_hessians(state)["w"]
    exact = encode_trellis(state, hessians, {}, 4200)
    assert encode_trellis(state, {"w": torch.eye(48).bfloat16()}, {}, 4200) == exact
    torch.set_default_dtype(torch.float64)
    try:
        again = quantize.flat_hessians(state)["w"]
        assert again.dtype == flat.dtype == torch.float32 and torch.equal(again, flat)
        assert encode_trellis(state, hessians, {}, 4200) == exact
    finally:
        torch.set_default_dtype(torch.float32)


def test_flat_hessians_take_a_matrix_of_zeros():
    """It comes back as zeros, and the others are not spoilt."""
    state = {"w": gaussian(64, 64), "zero": torch.zeros(64, 64)}
    back = decode(encode_trellis(state, quantize.flat_hessians(state), {}, 20_000))[0]
    assert not back["zero"].any() and (back["w"] - state["w"]).norm() < 0.1 * state["w"].norm()


POINTS_BASE85 = (
    "iBLyc0sx-?006cE00000004U;b7gdNX>Mn8B03;@B5iMEWo%z$X>B4pATul=B5q-AWg<EtB4=E6Ffe8|Y-D9_B7H0%B6"
    "MYLb8m8UB03;jTOw^DEFfDlG%O%7FkLJlFf1T2EFdslEFfDVb|NewTQyxQATc&9ATc>CATV7lAX_4CA}k<VF)%D3F)&>"
    "$ATTT-Ff1T2U0p07B5-eMZgg`ZIv^r)VQzCGeJHgr{U8ca002iP9nvl~v$ecD5Y7Kt1_J^B8UX+RMgRZ+;1~P>5&!@IL"
    "H4$uQrRQ_07NAc=VN3rBYrXyi%VgvK*g-6qflmi_^2(_7wga??O6-nDW}O|k!R}VjSlbhiQblY*eru$s2GoaN_9z@D41"
    "D3!xnUx<!?v`1{1_>$lsdZ?tbA%+lQ^aezSi*S@DT+-EU{(uk||yCGgkcsR;aOX+fgB#jQN5Qf7m2MLSZgKum(};0T2O"
    "1An+?&#WhKy5e+~TV>Af*8hrN3lKn++bzbafp&#d3xZT;he;tkz=F3ZQMUj5i!g&hI+*aMLP8Z3`i<c0H8gz(gDMkrkY"
    "rt~iZj(Gh7W%2uD;>HmtN3<e3|P#6yDZK#naRk4iPGb8(o~5P?#FctmjFi)RQ71U;y9%YXCj~003^QUoGPDg#txl;8<o"
    "A$<wGl3aXbG3|fz75!$_I$E<$x>z>*mz>|BgkJ#+lEpq)$MXc^#nUzU~HLm~wSaAV8ARMPW)+7f26$}pt>%-(|D{<!XM"
    "FniQR5ERZBjYBWnfREn)a@Xc+jt~4z%U~ozJZC|3t{Qhk6>S*-l50fpi7T!zCHr@=oAee*~lP|_B}D0V$GTs|0Gn*mvL"
    "5ot#j%$^2t)pHBp^MXsR(P;yrz`AAQSZK?fJkfgS"
)
POINTS_SHA256 = "4c3189f8a1beb9b57b632b12fca4a583a916b816c8681ae4c420462f709119ae"


def golden_points():
    """An artifact of points. Its bytes may differ between machines, which round as they do."""
    state = {"m": gaussian(24, 10, sigma=0.1, seed=1), "v": gaussian(5, seed=2)}
    state["n"] = gaussian(10, 10, sigma=3.0, seed=3)
    return encode_trellis(state, calibrated(state), GOLDEN_SETTINGS, 700)


def test_golden_points_keep_decoding():
    """Version 2: these bytes are these weights, to the last bit, on every machine."""
    weights, stored = decode(base64.b85decode(POINTS_BASE85))
    assert stored == GOLDEN_SETTINGS and list(weights) == ["m", "v", "n"]
    data = b"".join(weight.numpy().astype("<f4").tobytes() for weight in weights.values())
    assert hashlib.sha256(data).hexdigest() == POINTS_SHA256


def test_command_packs_through_the_trellis(checkpoint, tmp_path, capsys):
    """--trellis meets a target without calibration."""
    checkpoint, _ = checkpoint
    assert quantize.main([str(checkpoint), "--out", str(tmp_path / "rows.pgz")]) == 0
    target = (tmp_path / "rows.pgz").stat().st_size
    out = tmp_path / "points.pgz"
    words = [str(checkpoint), "--out", str(out), "--target-bytes", str(target), "--trellis"]
    assert quantize.main(words) == 0
    assert f"model_bytes:{out.stat().st_size} trellis" in capsys.readouterr().out
    assert out.stat().st_size <= target
    assert (
        decode(out.read_bytes())[0].keys() == decode((tmp_path / "rows.pgz").read_bytes())[0].keys()
    )
    assert quantize.main([*words[:4], "0", "--trellis"]) == 2  # not the cap
    assert "out of reach" in capsys.readouterr().err


if __name__ == "__main__":
    artifact = encode(GOLDEN_STATE, GOLDEN_PLAN, GOLDEN_SETTINGS)
    print("GOLDEN_BASE85 =", base64.b85encode(artifact))
    print("GOLDEN_WEIGHTS =", {n: w.tolist() for n, w in decode(artifact)[0].items()})
    points = golden_points()
    print("POINTS_BASE85 =", base64.b85encode(points))
    data = b"".join(w.numpy().astype("<f4").tobytes() for w in decode(points)[0].values())
    print("POINTS_SHA256 =", hashlib.sha256(data).hexdigest())
    quantize.load_zstd = stored_zstd
    artifact = encode(GOLDEN_STATE, GOLDEN_PLAN, GOLDEN_SETTINGS)
    print("GOLDEN_SHA256 =", hashlib.sha256(artifact).hexdigest())
