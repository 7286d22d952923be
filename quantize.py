"""Turn a state dict into artifact bytes, and artifact bytes back into weights.

    python quantize.py CHECKPOINT --out A.pgz [--target-bytes N] [--trellis]
    python -m codec.report A.pgz    says where its bytes go

Two codecs share one container. The trellis codec (`encode_trellis`) is what train_gpt.py packs
with: GPTQ around a trellis quantiser (trellis.py), whose points are entropy-coded (rans.py), to a
number of bytes. The rows codec (`encode`) needs neither calibration nor time: each row of a matrix
is rounded to a symmetric grid of its own, `weight = code * scale`, with an integer code of 2 to 8
bits and an fp16 scale. Codes are stored one to a byte and entropy-coded by zstd: packing bits first
would hide the symbols from the coder and cost 8-23 %. Which tensor gets which grid is a plan, that
is, data. With both, small tensors are stored as fp16. An artifact, little-endian:

    magic 4 | version u16 | header bytes u32 | artifact bytes u64 | header | streams | SHA-256

The header is JSON: {"settings": {...}, "tensors": [[name, shape, bits, half bytes, code bytes]]}.
Each tensor has two zstd streams, in table order. The first holds its fp16 numbers (the row scales,
or the weights themselves at 16 bits): all low bytes, then all high bytes. The second holds its
codes, shifted to start at 0. A stream of nothing is empty. Version 2 has a third key, "points":
"rans"; its tensors of 0 bits have no streams of their own, but one in common, of rans.py, after all
others. The checksum covers all bytes before it; since a hostile file can have a valid one, reading
bounds every size before it allocates.

Dimensions in names: R rows and C columns of a weight.
"""

import argparse
import hashlib
import json
import math
import os
import re
import struct
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from glob import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codec import rans, trellis

CAP_BYTES = 16_000_000  # code and artifact together, by the rules of the challenge
MAGIC = b"\x89PGZ"  # the first byte is not ASCII, so a transfer in text mode shows
ROWS_VERSION, TRELLIS_VERSION = 1, 2
POINT_CODER = "rans"  # of version 2
PREFIX = struct.Struct("<4sHIQ")
CHECKSUM_BYTES = 32
ZSTD_LEVEL = 22
TOP_CODE = {bits: 2 ** (bits - 1) - 1 for bits in range(2, 9)}  # grids are symmetric about 0
FP16_BITS, POINT_BITS = 16, 0
FP16_TINY = 2.0**-24
# The most that an artifact may ask a reader to allocate: the largest reference model, d12, has
# 261 million weights.
MAX_NUMBERS = 1 << 28
MAX_HEADER_BYTES = 1 << 20
STATES = 32  # of the trellis: 16 cost 0.009 bit a weight more and take nearly as long
# A token, by the Hessians; where it was measured, up to twice that (LOG.md).
NEGLIGIBLE_NATS = 1e-4
STEP_LOSS = 0.115  # nats a token that a weight of base step 1 adds, in units of its Hessian

# What an artifact needs to be read: the sources that count, beside those of the model.
SOURCES = tuple(module.__file__ for module in (trellis, rans)) + (__file__,)

State = dict[str, Tensor]


class ArtifactError(ValueError):
    """Bytes that are not one whole, undamaged artifact, or weights that no artifact can hold."""


# --- Grids: rounding rows --------------------------------------------------------------------
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
    The step is rounded to fp16 before use, so encode sees exactly what decode will see; one too
    small for fp16, as that of a zero row, becomes the smallest there is: no step is ever 0.

    Source: upstream PR #1394, there with the deviation about the mean.
    Raises: ValueError for bits outside 2..8, clip_sigmas <= 0, and steps that no fp16 can hold.
    """
    _check_grid(bits, clip_sigmas)
    top = TOP_CODE[bits]
    # in float64: fp32 sums differ between machines, and could then round to other fp16 steps
    rms_R = (weight_RC.double().square().sum(dim=1) / max(weight_RC.shape[1], 1)).sqrt()
    scale_R = _to_fp16((clip_sigmas * rms_R / top).clamp(min=FP16_TINY), "row steps")
    codes_RC = (weight_RC / scale_R.float().unsqueeze(1)).round().clamp(-top, top)
    return Quantized(codes_RC.to(torch.int8), scale_R)


def _check_grid(bits: int, clip_sigmas: float) -> None:
    if bits not in TOP_CODE:
        raise ValueError(f"bits={bits!r} must be 2..8 (a plan also takes 16, for fp16)")
    if not 0 < clip_sigmas < math.inf:
        raise ValueError(f"clip_sigmas={clip_sigmas!r} must be positive and finite")


def _to_fp16(numbers: Tensor, what: str) -> Tensor:
    halves = numbers.half()
    if not halves.isfinite().all():
        raise ValueError(f"{what} reach {numbers.abs().max():.4g}; fp16 holds up to 65504, no NaN")
    return halves


# --- Plan: which tensor gets which grid ------------------------------------------------------
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
            _check_grid(self.bits, self.clip_sigmas)


Plan = tuple[PlanRow, ...]

# int5 on Gaussian rows loses least at 2.9: 0.00367 of the variance in 4.41 bits a weight (2.75:
# 0.00377 in 4.48; 3.1: 0.00381 in 4.32). The embedding is the output head too: at 6.45 bits, 6
# sigmas leave its outliers unclipped and lose 0.0002.
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
    return tuple(
        PlanRow(escape(name), 8, 6.0)
        if weight.ndim == 2 and weight.numel() >= 4096
        else PlanRow(escape(name), FP16_BITS)
        for name, weight in state_dict.items()
    )


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
            found = ", ".join(repr(row.pattern) for row in matching) or "none"
            what = f"tensor {name!r} must match exactly one plan row, matches {found}"
            raise ValueError(f"{what}; mend the plan, or take int8_plan (--int8)")
        row_of[name] = matching[0]
    for row in plan:
        if row not in row_of.values():
            raise ValueError(f"plan row {row.pattern!r} matches no tensor; remove or correct it")
    return row_of


# --- Streams: symbols and their compression --------------------------------------------------
class Entry(NamedTuple):
    """One line of the tensor table."""

    name: str
    shape: list[int]
    bits: int
    half_bytes: int
    code_bytes: int


def _symbols(state_dict: State, row_of: dict[str, PlanRow]) -> list[bytes]:
    """Both streams of each tensor in turn, before compression."""
    streams = []
    for name, tensor in state_dict.items():
        row = row_of[name]
        try:
            if not tensor.is_floating_point():
                raise ValueError(f"dtype {tensor.dtype} is not a float type, so not of weights")
            weight = tensor.detach().to("cpu", torch.float32)
            if row.bits == FP16_BITS:
                halves, codes = _to_fp16(weight, "weights"), b""
            else:
                weight_RC = weight.reshape(_rows_columns(weight.shape))
                quantized = quantize_rows(weight_RC, row.bits, row.clip_sigmas)
                shifted_RC = quantized.codes_RC.to(torch.int16) + TOP_CODE[row.bits]
                halves, codes = quantized.scale_R, shifted_RC.to(torch.uint8).numpy().tobytes()
        except ValueError as error:
            raise ValueError(f"tensor {name!r}: {error}") from error
        # signs and exponents repeat, mantissas do not: so all low bytes, then all high bytes
        pairs = halves.reshape(-1).numpy().astype("<f2").view(np.uint8).reshape(-1, 2)
        streams += pairs.T.tobytes(), codes
    return streams


def stored_weight(entry: Entry, half_data: bytes, code_data: bytes) -> Tensor:
    """The tensor of two decompressed streams, once their numbers are seen to be in range."""
    pairs = np.frombuffer(half_data, np.uint8).reshape(2, -1).T.copy()
    halves = torch.from_numpy(pairs.reshape(-1).view("<f2").astype(np.float16))
    if not halves.isfinite().all():
        raise ArtifactError(f"tensor {entry.name!r}: an fp16 number is NaN or infinite")
    if entry.bits == FP16_BITS:
        return halves.float().reshape(entry.shape)
    shifted = np.frombuffer(code_data, np.uint8)
    top = TOP_CODE[entry.bits]
    if (halves < 0).any() or shifted.max(initial=0) > 2 * top:
        raise ArtifactError(f"tensor {entry.name!r}: a negative scale, or a code off the grid")
    codes = torch.from_numpy((shifted.astype(np.int16) - top).astype(np.int8))
    codes_RC = codes.reshape(_rows_columns(entry.shape))
    return Quantized(codes_RC, halves).dequantize().reshape(entry.shape)


def _rows_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """All dimensions but the last make rows, so a vector is one row."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


def load_zstd() -> tuple[Callable, Callable, type[Exception]]:
    """compress(data, level), decompress(stream, expected_bytes) and the error that they raise.

    decompress refuses a stream of any other size before it allocates more. The `zstandard` package
    is used or, where that is missing, the standard library: one format, but the bytes may differ.
    Raises: ImportError with the install command where there is neither.
    """
    try:
        import zstandard
    except ImportError:
        return _load_stdlib_zstd()

    def decompress(stream: bytes, expected_bytes: int) -> bytes:
        # the package allocates what the stream declares, whatever limit it is given
        if zstandard.get_frame_parameters(stream).content_size != expected_bytes:
            raise zstandard.ZstdError(f"does not unpack to {expected_bytes} bytes")
        return zstandard.ZstdDecompressor().decompress(stream, allow_extra_data=False)

    return zstandard.compress, decompress, zstandard.ZstdError


def _load_stdlib_zstd() -> tuple[Callable, Callable, type[Exception]]:
    try:
        from compression import zstd
    except ImportError as error:
        raise ImportError("no zstd: run `pip install zstandard` or use Python 3.14+") from error

    def decompress(stream: bytes, expected_bytes: int) -> bytes:
        frame = zstd.ZstdDecompressor()
        data = frame.decompress(stream, max_length=expected_bytes + 1)
        if not frame.eof or frame.unused_data or len(data) != expected_bytes:
            raise zstd.ZstdError(f"does not unpack to {expected_bytes} bytes")
        return data

    return zstd.compress, decompress, zstd.ZstdError


# --- Container: streams to an artifact and back ----------------------------------------------
def _write(table: list, streams: list[bytes], settings: dict, coder: str = "") -> bytes:
    """The whole artifact; with the coder of points, their stream is the last one."""
    header = {"settings": settings, "tensors": table, **({"points": coder} if coder else {})}
    try:
        text = json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"settings are not JSON: {error}") from error
    size = PREFIX.size + len(text) + sum(map(len, streams)) + CHECKSUM_BYTES
    version = TRELLIS_VERSION if coder else ROWS_VERSION
    body = b"".join([PREFIX.pack(MAGIC, version, len(text), size), text, *streams])
    artifact = body + hashlib.sha256(body).digest()
    read_header(artifact)  # what a reader would refuse, for its size or its names, is not written
    return artifact


def encode(state_dict: State, plan: Plan, settings: dict, *, threads: int = 0) -> bytes:
    """The artifact that holds these weights on the plan's grids, and the settings as JSON.

    The bytes do not depend on the number of threads; 0 takes one for each core.
    Raises: ValueError naming the tensor that has no plan row, is not of floats, not finite or too
    large for fp16; naming the plan row without a tensor; for settings that are not JSON.
    """
    compress, _, _ = load_zstd()
    row_of = match_plan(plan, state_dict)
    symbols = _symbols(state_dict, row_of)
    # 25,952,256 Gaussian codes on two cores: 14,619,989 bytes in 2.8 s like this, 14,612,784 in
    # 30.7 s with all tensors in one stream. Scales before the codes, in one: 15,024,593.
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        streams = list(pool.map(lambda data: compress(data, ZSTD_LEVEL) if data else b"", symbols))
    table = [
        [name, list(state_dict[name].shape), row_of[name].bits, len(half), len(code)]
        for name, half, code in zip(state_dict, streams[::2], streams[1::2], strict=True)
    ]
    return _write(table, streams, settings)


def encode_trellis(
    state_dict: State, hessians: State, settings: dict, most_bytes: int, *, states: int = STATES
) -> bytes:
    """An artifact of 99.9 to 100 % of most_bytes; smaller where the errors hardly cost anything.

    Matrices with a Hessian (trellis.Curvature, or `flat_hessians`) go through the trellis; the
    others are stored as fp16. No more bytes are spent than errors of NEGLIGIBLE_NATS need, by the
    Hessians. Of few weights sizes jump, and the largest artifact that was found to fit is taken.
    Raises: ValueError naming a tensor that is not of floats, not finite or too large for fp16, or a
    Hessian of no matrix; for settings that are not JSON; where no step lands under most_bytes.
    """
    compress, _, _ = load_zstd()
    if odd := [n for n in hessians if n not in state_dict or state_dict[n].ndim != 2]:
        raise ValueError(f"hessian {odd[0]!r} is of no matrix; remove it")
    halves = {name: weight for name, weight in state_dict.items() if name not in hessians}
    symbols = _symbols(halves, dict.fromkeys(halves, PlanRow("*", FP16_BITS)))
    streams = [compress(data, ZSTD_LEVEL) if data else b"" for data in symbols]
    sizes = dict(zip(halves, map(len, streams[::2]), strict=True))
    table = [
        [name, list(weight.shape), *((FP16_BITS, sizes[name]) if name in sizes else (0, 0)), 0]
        for name, weight in state_dict.items()
    ]
    overhead_bytes = len(_write(table, streams, settings, POINT_CODER))
    if most_bytes <= overhead_bytes:
        raise ValueError(f"{most_bytes=} is out of reach: {overhead_bytes} go to all but matrices")
    matrices = []
    for name in (name for name in state_dict if name in hessians):  # in the order of the table
        weight_RC, hessian_CC = state_dict[name].detach(), hessians[name]
        if not weight_RC.is_floating_point():
            raise ValueError(f"tensor {name!r}: dtype {weight_RC.dtype} is no float type")
        weight_RC = weight_RC.to(hessian_CC.device, torch.float32)
        matrices.append(trellis.Matrix(weight_RC, hessian_CC, f"tensor {name!r}"))
    weights = sum(matrix.weight_RC.numel() for matrix in matrices)
    points = trellis.quantize_to_size(
        matrices,
        most_bytes - overhead_bytes,
        rans.encode,
        states=states,
        finest_step=math.sqrt(NEGLIGIBLE_NATS / (STEP_LOSS * max(weights, 1))),
    )
    return _write(table, [*streams, points], settings, POINT_CODER)


def foreseen_nats(blob: bytes, hessians: Callable[[], State]) -> float:
    """What rounding to the points of an artifact should add to the loss, in nats a token.

    By the steps alone, as if every weight was in reach; infinite for an artifact without points.
    The base step of each matrix is a common one, over the root of its Hessian's mean diagonal.
    """
    _, entries, offset = read_header(blob)
    nats = []
    for entry, points, base_step in read_points(blob, entries, offset):
        mean = float(hessians()[entry.name].diagonal().mean())
        nats.append(STEP_LOSS * points.points_RC.size * mean * base_step**2)
    return math.fsum(nats) if nats else math.inf


def flat_hessians(state_dict: State) -> State:
    """Hessians for want of better ones: in each matrix equal relative errors cost the same."""
    found = {}
    for name, weight in state_dict.items():
        if weight.ndim == 2 and min(weight.shape) >= 8:  # fewer rows are gains, not a matrix
            power = float(weight.detach().double().square().sum())  # alike for any threads
            H = torch.eye(weight.shape[1], dtype=torch.float32)
            found[name] = H * (1 / power if power > 1e-30 else 1.0)
    return found


def decode(blob: bytes) -> tuple[State, dict]:
    """The fp32 weights and the settings of an artifact.

    Raises: ArtifactError naming what is wrong with anything but the exact bytes of an artifact.
    """
    settings, entries, offset = read_header(blob)
    state = {entry.name: None for entry in entries}
    for entry, *data in read_streams(blob, entries, offset):
        state[entry.name] = stored_weight(entry, *data)
    for entry, points, base_step in read_points(blob, entries, offset):
        state[entry.name] = torch.from_numpy(points.dequantize(base_step))
    return state, settings


def read_header(blob: bytes) -> tuple[dict, list[Entry], int]:
    """Settings, tensor table and offset of the streams, once every byte is accounted for."""
    if len(blob) < PREFIX.size + CHECKSUM_BYTES:
        raise ArtifactError(f"truncated: {len(blob)} bytes cannot hold an artifact")
    magic, version, header_bytes, artifact_bytes = PREFIX.unpack_from(blob)
    if magic != MAGIC:
        raise ArtifactError(f"magic is {magic!r} where an artifact has {MAGIC!r}")
    if version not in (ROWS_VERSION, TRELLIS_VERSION):
        raise ArtifactError(f"version is {version}, this code reads 1 and 2")
    if artifact_bytes != len(blob):
        kind = "truncated" if len(blob) < artifact_bytes else "trailing bytes"
        raise ArtifactError(f"{kind}: {len(blob)} bytes where {artifact_bytes} were written")
    if hashlib.sha256(blob[:-CHECKSUM_BYTES]).digest() != blob[-CHECKSUM_BYTES:]:
        raise ArtifactError("checksum does not match: the file is damaged, copy it again")
    offset = PREFIX.size + header_bytes
    if header_bytes > MAX_HEADER_BYTES:
        raise ArtifactError(f"header of {header_bytes} bytes is over {MAX_HEADER_BYTES}")
    text = blob[PREFIX.size : offset]
    try:
        header = json.loads(text)
        settings, table = header["settings"], header["tensors"]
        coder = {} if version == ROWS_VERSION else {"points": POINT_CODER}
        # one spelling only, which rules out repeated keys and NaN
        spelled = json.dumps({"settings": settings, "tensors": table, **coder}, allow_nan=False)
        if spelled.encode() != text or [type(settings), type(table)] != [dict, list]:
            raise ValueError("not as this format spells it")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(f"header is not JSON of settings and tensors: {error!r}") from error
    _check_table(table, len(blob) - CHECKSUM_BYTES - offset, version)
    return settings, [Entry(*line) for line in table], offset


def _check_table(table: list, stream_bytes: int, version: int) -> None:
    names, numbers = set(), 0
    has_points = version == TRELLIS_VERSION
    for line in table:
        if type(line) is not list or [*map(type, line)] != [str, list, int, int, int]:
            raise ArtifactError(f"table line {line!r:.200} is not name, shape, bits and two sizes")
        name, shape, bits, *sizes = line
        if name in names or not re.fullmatch(r"[!-~]{1,256}", name):
            raise ArtifactError(f"tensor {name!r}: the name is repeated, unprintable or too long")
        if bits not in (*TOP_CODE, FP16_BITS, *[POINT_BITS] * has_points):
            raise ArtifactError(f"tensor {name!r}: bits={bits} must be 2..8 or 16")
        if bits == POINT_BITS and (len(shape) != 2 or any(sizes)):
            raise ArtifactError(f"tensor {name!r}: points of shape {shape} and sizes {sizes}")
        if len(shape) > 8 or not all(type(size) is int and size >= 0 for size in shape + sizes):
            raise ArtifactError(
                f"tensor {name!r}: shape {shape} or stream sizes {sizes} are no sizes"
            )
        # an empty dimension counts as one, which bounds the rows of a matrix without columns
        numbers += math.prod(max(size, 1) for size in shape)
        if numbers > MAX_NUMBERS:
            raise ArtifactError(f"tensor {name!r}: over {MAX_NUMBERS} numbers up to here")
        names.add(name)
        stream_bytes -= sum(sizes)
    if stream_bytes != 0 and not (has_points and stream_bytes > 0):
        raise ArtifactError(f"file and tensor table differ by {stream_bytes} bytes of streams")


def read_streams(blob: bytes, entries: list[Entry], offset: int):
    """Each entry with its two streams decompressed, to the sizes that its shape demands."""
    _, decompress, zstd_error = load_zstd()
    for entry in entries:
        if entry.bits == POINT_BITS:
            continue
        rows, columns = _rows_columns(entry.shape)
        is_fp16 = entry.bits == FP16_BITS
        numbers, codes = (rows * columns, 0) if is_fp16 else (rows, rows * columns)
        data = []
        for size, expected in ((entry.half_bytes, 2 * numbers), (entry.code_bytes, codes)):
            stream, offset = blob[offset : offset + size], offset + size
            try:
                data.append(decompress(stream, expected) if stream or expected else b"")
            except zstd_error as error:
                raise ArtifactError(f"tensor {entry.name!r}, to byte {offset}: {error}") from error
        yield entry, *data


def points_start(entries: list[Entry], offset: int) -> int:
    """Where the stream of points begins: after those of rows and halves, which begin at offset."""
    return offset + sum(entry.half_bytes + entry.code_bytes for entry in entries)


def read_points(blob: bytes, entries: list[Entry], offset: int):
    """Each tensor on the trellis with its points and their base step."""
    if PREFIX.unpack_from(blob)[1] == ROWS_VERSION:
        return
    of_points = [entry for entry in entries if entry.bits == POINT_BITS]
    start = points_start(entries, offset)
    try:
        stream = blob[start:-CHECKSUM_BYTES]
        matrices, base_steps = rans.decode(stream, [tuple(entry.shape) for entry in of_points])
    except rans.StreamError as error:
        raise ArtifactError(f"points of tensors, from byte {start}: {error}") from error
    yield from zip(of_points, matrices, base_steps, strict=True)


def encode_to_target(
    state_dict: State, plan: Plan, settings: dict, target_bytes: int, *, threads: int = 0
) -> tuple[bytes, Plan]:
    """An artifact of 99 to 100 % of target_bytes, and the plan that encodes to it.

    One multiplier on all clip widths is the dial: wider clips have larger steps, so fewer distinct
    codes. (Very narrow ones save bytes too, but by saturating weights; that branch is left out.)
    A table of entropies gives the first guess and real encodings correct it. Fast zstd levels would
    not do: below 3 bits, level 1 needs up to half as much again as level 22.
    Raises: ValueError with the reachable range where no multiplier lands; what encode raises.
    """

    def widened(octave: float) -> Plan:
        return tuple(replace(row, clip_sigmas=row.clip_sigmas * 2.0**octave) for row in plan)

    def entropy_bytes(octave: float) -> float:
        row_of = match_plan(widened(octave), state_dict)
        return sum(map(order0_bytes, _symbols(state_dict, row_of)))

    overhead_bytes = len(encode(state_dict, plan, settings, threads=threads)) - entropy_bytes(0)
    octaves = np.arange(8, -2.5, -0.5)
    sizes = overhead_bytes + np.array([entropy_bytes(octave) for octave in octaves])
    # np.interp wants rising sizes, which these are from the widest clip to the peak
    octaves, sizes = octaves[: sizes.argmax() + 1], sizes[: sizes.argmax() + 1]
    aim = wanted = np.clip(0.995 * target_bytes, sizes[0], sizes[-1])
    for _ in range(8):
        chosen = widened(float(np.interp(wanted, sizes, octaves)))
        artifact = encode(state_dict, chosen, settings, threads=threads)
        if 0.99 * target_bytes <= len(artifact) <= target_bytes:
            return artifact, chosen
        # the damping, because real sizes can change up to twice as fast as the table
        last, wanted = wanted, wanted * (aim / len(artifact)) ** 0.75
        wanted = np.clip(wanted, sizes[0], sizes[-1])
        if wanted == last:
            break
    raise ValueError(
        f"target_bytes={target_bytes} is out of reach: clip widths of this plan give about "
        f"{sizes[0]:.0f} to {sizes[-1]:.0f} bytes; change the bits of the plan or the target"
    )


def order0_bytes(symbols: bytes) -> float:
    """The entropy of symbols by how often each occurs, in bytes."""
    counts = np.bincount(np.frombuffer(symbols, np.uint8))
    counts = counts[counts > 0]
    return float((counts * np.log2(counts.sum() / counts)).sum() / 8)


# --- Files and command line ------------------------------------------------------------------
def write_atomic(path: str | Path, data: bytes) -> None:
    """Afterwards path holds exactly data; killed at any moment, it holds what it held before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> tuple[State, dict]:
    """The exported weights and the model's settings of a checkpoint, or a plain state dict and {}.

    "exported" names an average, or "raw" (also None) for the weights as trained. The settings are
    "model_settings" where the checkpoint has them, else "settings".
    Raises: ValueError for a file that is neither; OSError.
    """
    with open(path, "rb") as file:
        try:
            checkpoint = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # of ten kinds; the words of one advise to load unsafely
            raise ValueError(f"{path} is not a checkpoint that loads; give a run's own") from error
    weights, settings, exported = checkpoint, {}, None
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("model"), dict):
        exported = checkpoint.get("exported") or "raw"
        weights = {"raw": checkpoint["model"], **(checkpoint.get("averages") or {})}.get(exported)
        settings = checkpoint.get("model_settings", checkpoint.get("settings", {}))
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"{path} holds no state dict of tensors (exported: {exported!r})")
    for name, w in weights.items():
        if type(name) is not str or w.layout != torch.strided or w.is_meta or w.is_quantized:
            raise ValueError(f"{path}: {name!r} is no dense tensor under a name; store it as one")
    return weights, settings


def main(arguments: list[str] | None = None) -> int:
    """Pack a checkpoint; returns 0, or 2 after one line on stderr where the input is at fault."""
    try:
        print(_pack(arguments))
    except (ValueError, OSError, ImportError) as error:
        print("quantize.py:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _pack(arguments: list[str] | None) -> str:
    description = "Pack a checkpoint; codec.report says where the bytes of an artifact go."
    parser = argparse.ArgumentParser("quantize.py", description=description)
    parser.add_argument("checkpoint", type=Path, help="from the trainer, or a plain state dict")
    parser.add_argument("--out", type=Path, required=True, help="artifact to write")
    parser.add_argument("--target-bytes", type=int, help="land within 1 %% under this size")
    codec = parser.add_mutually_exclusive_group()
    codec.add_argument("--int8", action="store_true", help="int8_plan: for models of other names")
    codec.add_argument(
        "--trellis", action="store_true", help="the other codec, without the trainer's calibration"
    )
    options = parser.parse_args(arguments)
    weights, settings = load_checkpoint(options.checkpoint)
    if options.trellis:
        most_bytes = CAP_BYTES if options.target_bytes is None else options.target_bytes
        artifact = encode_trellis(weights, flat_hessians(weights), settings, most_bytes)
        write_atomic(options.out, artifact)
        return f"artifact model_bytes:{len(artifact)} trellis, relative errors alike"
    plan = int8_plan(weights) if options.int8 else DEFAULT_PLAN
    if options.target_bytes is None:
        artifact = encode(weights, plan, settings)
    else:
        artifact, plan = encode_to_target(weights, plan, settings, options.target_bytes)
    write_atomic(options.out, artifact)
    clips = " ".join(f"{row.pattern}:{row.clip_sigmas:.3f}" for row in plan if row.clip_sigmas)
    return f"artifact model_bytes:{len(artifact)} clip_sigmas {clips}"


if __name__ == "__main__":
    sys.exit(main())
