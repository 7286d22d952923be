"""The artifact: one file that holds a model's weights and settings. Little-endian:

    magic 4 | version u16 | header bytes u32 | artifact bytes u64 | header | streams | SHA-256

The header is JSON: {"settings": {...}, "tensors": [[name, shape, bits, half bytes, code bytes]]}.
Each tensor has two zstd streams, in table order. The first holds its fp16 numbers (the row scales,
or the weights themselves at 16 bits): all low bytes, then all high bytes. The second holds its
codes, one to a byte and shifted to start at 0; packing their bits first would hide the symbols from
zstd, and cost 8 to 23 %. A stream of nothing is empty. So a gain of 4 numbers and a 3-bit matrix of
2 x 4 make

    [["gain", [4], 16, 17, 0], ["w", [2, 4], 3, 13, 17]]    streams of 17, 0, 13 and 17 bytes

Version 2 has a third key, "points": "rans". Its tensors of 0 bits have no streams of their own, but
one in common, of rans.py, after all others. In version 3, which is written now, the header of
version 2 is under zlib: 400 bytes instead of 2,470 for the 56 tensors of a mini-track model, which
is 0.8 % of its artifact. The checksum covers all bytes before it. A hostile file
can have a valid one, so reading bounds every size before it allocates.

Dimensions in names: R rows and C columns of a weight.
"""

import hashlib
import json
import math
import os
import re
import struct
import zlib
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from codec import rans
from codec.rows import FP16_BITS, TOP_CODE, PlanRow, Quantized, State, quantize_rows, to_fp16
from codec.trellis import Points

MAGIC = b"\x89PGZ"  # the first byte is not ASCII, so a transfer in text mode shows
ROWS_VERSION = 1
TRELLIS_VERSION = 2
SHORT_HEADER_VERSION = 3
POINT_CODER = "rans"  # of versions 2 and 3
POINT_BITS = 0  # in the table: points of the trellis
PREFIX = struct.Struct("<4sHIQ")
CHECKSUM_BYTES = 32
ZSTD_LEVEL = 22
# The most that an artifact may ask a reader to allocate: the largest reference model, d12, has
# 261 million weights.
MAX_NUMBERS = 1 << 28
MAX_HEADER_BYTES = 1 << 20
MAX_DIMENSIONS = 8


class ArtifactError(ValueError):
    """Bytes that are not one whole, undamaged artifact, or weights that no artifact can hold."""


class Entry(NamedTuple):
    """One line of the tensor table."""

    name: str
    shape: list[int]
    bits: int
    half_bytes: int
    code_bytes: int


def rows_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    """All dimensions but the last make rows: [2, 3, 4] is 6 x 4, a vector of 5 is 1 x 5."""
    columns = shape[-1] if shape else 1  # a single number is 1 x 1
    return math.prod(shape[:-1]), columns


# --- Tensors and their symbols ---------------------------------------------------------------
def symbols_of(name: str, tensor: Tensor, row: PlanRow) -> tuple[bytes, bytes]:
    """Both streams of a tensor before compression: its fp16 numbers, and its codes.

    Raises: ValueError naming a tensor that is not of floats, or that fp16 cannot hold.
    """
    try:
        if not tensor.is_floating_point():
            raise ValueError(f"dtype {tensor.dtype} is not a float type, so not of weights")
        weight = tensor.detach().to("cpu", torch.float32)
        if row.bits == FP16_BITS:
            halves = to_fp16(weight, "weights")
            codes = b""
        else:
            weight_RC = weight.reshape(rows_columns(weight.shape))
            quantized = quantize_rows(weight_RC, row.bits, row.clip_sigmas)
            halves = quantized.scale_R
            shifted_RC = quantized.codes_RC.to(torch.int16) + TOP_CODE[row.bits]
            codes = shifted_RC.to(torch.uint8).numpy().tobytes()
    except ValueError as error:
        raise ValueError(f"tensor {name!r}: {error}") from error
    # Signs and exponents repeat, mantissas do not: so all low bytes, then all high bytes.
    numbers = halves.reshape(-1).numpy().astype("<f2")
    low_and_high = numbers.view(np.uint8).reshape(-1, 2)
    return low_and_high.T.tobytes(), codes


def stored_weight(entry: Entry, half_data: bytes, code_data: bytes) -> Tensor:
    """The tensor of two decompressed streams, once their numbers are seen to be in range."""
    low_and_high = np.frombuffer(half_data, np.uint8).reshape(2, -1).T.copy()
    numbers = low_and_high.reshape(-1).view("<f2")
    halves = torch.from_numpy(numbers.astype(np.float16))
    if not halves.isfinite().all():
        raise ArtifactError(f"tensor {entry.name!r}: an fp16 number is NaN or infinite")
    if entry.bits == FP16_BITS:
        return halves.float().reshape(entry.shape)
    shifted = np.frombuffer(code_data, np.uint8)
    top = TOP_CODE[entry.bits]
    if (halves < 0).any() or shifted.max(initial=0) > 2 * top:
        raise ArtifactError(f"tensor {entry.name!r}: a negative scale, or a code off the grid")
    codes = (shifted.astype(np.int16) - top).astype(np.int8)
    codes_RC = torch.from_numpy(codes).reshape(rows_columns(entry.shape))
    return Quantized(codes_RC, halves).dequantize().reshape(entry.shape)


def order0_bytes(symbols: bytes) -> float:
    """The entropy of symbols by how often each occurs, in bytes: 8 for 64 fair zeros and ones."""
    counts = np.bincount(np.frombuffer(symbols, np.uint8))
    counts = counts[counts > 0]
    bits = np.log2(counts.sum() / counts)  # of one occurrence of each symbol
    return float((counts * bits).sum() / 8)


def compressed(symbols: list[bytes], threads: int = 0) -> list[bytes]:
    """Each stream of symbols by zstd; a stream of nothing is empty."""
    compress, _, _ = load_zstd()
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        return list(pool.map(lambda data: compress(data, ZSTD_LEVEL) if data else b"", symbols))


def halves_beside_points(state: State, on_trellis: Collection[str]) -> tuple[list, list[bytes]]:
    """The tensor table of a state, and all streams but that of points, which come last.

    The named tensors are points, the others fp16. Raises: as symbols_of.
    """
    half_row = PlanRow("*", FP16_BITS)
    symbols = {
        name: symbols_of(name, weight, half_row)[0]
        for name, weight in state.items()
        if name not in on_trellis
    }
    streams = dict(zip(symbols, compressed(list(symbols.values())), strict=True))
    table = []
    for name, weight in state.items():
        bits = FP16_BITS if name in streams else POINT_BITS
        table.append([name, list(weight.shape), bits, len(streams.get(name, b"")), 0])
    return table, list(streams.values())


def load_zstd() -> tuple[Callable, Callable, type[Exception]]:
    """compress(data, level), decompress(stream, expected_bytes) and the error that they raise.

    decompress refuses a stream of any other size before it allocates more. The `zstandard` package
    is used or, where that is missing, the standard library: one format, but the bytes may differ.
    Raises: ImportError with the install command where there is neither.
    """
    try:
        import zstandard
    except ImportError:
        return load_stdlib_zstd()

    def decompress(stream: bytes, expected_bytes: int) -> bytes:
        # The package allocates what the stream declares, whatever limit it is given.
        if zstandard.get_frame_parameters(stream).content_size != expected_bytes:
            raise zstandard.ZstdError(f"does not unpack to {expected_bytes} bytes")
        return zstandard.ZstdDecompressor().decompress(stream, allow_extra_data=False)

    return zstandard.compress, decompress, zstandard.ZstdError


def load_stdlib_zstd() -> tuple[Callable, Callable, type[Exception]]:
    """load_zstd with what Python 3.14 brings."""
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


# --- Writing ---------------------------------------------------------------------------------
def write(table: list, streams: list[bytes], settings: dict, point_coder: str = "") -> bytes:
    """The whole artifact; with a coder of points, their stream is the last one.

    Raises: ValueError for settings that are not JSON; ArtifactError for what a reader would refuse.
    """
    header = {"settings": settings, "tensors": table}
    if point_coder:
        header["points"] = point_coder
    try:
        text = json.dumps(header, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"settings are not JSON: {error}") from error
    version = ROWS_VERSION
    if point_coder:
        version = SHORT_HEADER_VERSION
        text = zlib.compress(text, 9)
    size = PREFIX.size + len(text) + sum(map(len, streams)) + CHECKSUM_BYTES
    body = b"".join([PREFIX.pack(MAGIC, version, len(text), size), text, *streams])
    artifact = body + hashlib.sha256(body).digest()
    read_header(artifact)
    return artifact


# --- Reading ---------------------------------------------------------------------------------
def read_header(blob: bytes) -> tuple[dict, list[Entry], int]:
    """Settings, tensor table and offset of the streams, once every byte is accounted for.

    Raises: ArtifactError naming what is wrong with anything but the exact bytes of an artifact.
    """
    # From the cheapest check to the dearest, and none relies on what a later one shows.
    if len(blob) < PREFIX.size + CHECKSUM_BYTES:
        raise ArtifactError(f"truncated: {len(blob)} bytes cannot hold an artifact")
    magic, version, header_bytes, artifact_bytes = PREFIX.unpack_from(blob)
    if magic != MAGIC:
        raise ArtifactError(f"magic is {magic!r} where an artifact has {MAGIC!r}")
    if version not in (ROWS_VERSION, TRELLIS_VERSION, SHORT_HEADER_VERSION):
        raise ArtifactError(f"version is {version}, this code reads 1 to 3")
    if artifact_bytes != len(blob):
        kind = "truncated" if len(blob) < artifact_bytes else "trailing bytes"
        raise ArtifactError(f"{kind}: {len(blob)} bytes where {artifact_bytes} were written")
    if hashlib.sha256(blob[:-CHECKSUM_BYTES]).digest() != blob[-CHECKSUM_BYTES:]:
        raise ArtifactError("checksum does not match: the file is damaged, copy it again")
    if header_bytes > MAX_HEADER_BYTES:
        raise ArtifactError(f"header of {header_bytes} bytes is over {MAX_HEADER_BYTES}")
    offset = PREFIX.size + header_bytes
    text = blob[PREFIX.size : offset]
    if version == SHORT_HEADER_VERSION:
        text = long_header(text)
    settings, table = parse_header(text, version)
    check_table(table, len(blob) - CHECKSUM_BYTES - offset, version)
    return settings, [Entry(*line) for line in table], offset


def long_header(stream: bytes) -> bytes:
    """The text of a header under zlib. Raises: ArtifactError for any other bytes, or many."""
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(stream, MAX_HEADER_BYTES)
    except zlib.error as error:
        raise ArtifactError(f"header does not unpack: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise ArtifactError(f"header does not unpack to {MAX_HEADER_BYTES} bytes or fewer")
    return text


def parse_header(text: bytes, version: int) -> tuple[dict, list]:
    """Settings and table of a header. Raises: ArtifactError."""
    try:
        header = json.loads(text)
        settings, table = header["settings"], header["tensors"]
        coder = {} if version == ROWS_VERSION else {"points": POINT_CODER}
        # One spelling only, which rules out repeated keys and NaN.
        spelled = json.dumps({"settings": settings, "tensors": table, **coder}, allow_nan=False)
        if spelled.encode() != text or [type(settings), type(table)] != [dict, list]:
            raise ValueError("not as this format spells it")
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ArtifactError(f"header is not JSON of settings and tensors: {error!r}") from error
    return settings, table


def check_table(table: list, stream_bytes: int, version: int) -> None:
    """Raises: ArtifactError for a table that cannot be, or that does not fit the streams."""
    names = set()
    numbers = 0
    has_points = version != ROWS_VERSION
    possible_bits = {*TOP_CODE, FP16_BITS}
    if has_points:
        possible_bits.add(POINT_BITS)
    for line in table:
        # By type, because in JSON true is not 1, and in Python it is.
        if type(line) is not list or [*map(type, line)] != [str, list, int, int, int]:
            raise ArtifactError(f"table line {line!r:.200} is not name, shape, bits and two sizes")
        name, shape, bits, *sizes = line
        if name in names or not re.fullmatch(r"[!-~]{1,256}", name):
            raise ArtifactError(f"tensor {name!r}: the name is repeated, unprintable or too long")
        if bits not in possible_bits:
            raise ArtifactError(f"tensor {name!r}: bits={bits} must be 2..8 or 16")
        if bits == POINT_BITS and (len(shape) != 2 or any(sizes)):
            raise ArtifactError(f"tensor {name!r}: points of shape {shape} and sizes {sizes}")
        are_sizes = all(type(size) is int and size >= 0 for size in shape + sizes)
        if len(shape) > MAX_DIMENSIONS or not are_sizes:
            raise ArtifactError(
                f"tensor {name!r}: shape {shape} or stream sizes {sizes} are no sizes"
            )
        # An empty dimension counts as one, which bounds the rows of a matrix without columns.
        numbers += math.prod(max(size, 1) for size in shape)
        if numbers > MAX_NUMBERS:
            raise ArtifactError(f"tensor {name!r}: over {MAX_NUMBERS} numbers up to here")
        names.add(name)
        stream_bytes -= sum(sizes)
    if stream_bytes != 0 and not (has_points and stream_bytes > 0):
        raise ArtifactError(f"file and tensor table differ by {stream_bytes} bytes of streams")


def read_streams(
    blob: bytes, entries: list[Entry], offset: int
) -> Iterator[tuple[Entry, bytes, bytes]]:
    """Each entry with its two streams decompressed, to the sizes that its shape demands."""
    _, decompress, zstd_error = load_zstd()
    for entry in entries:
        if entry.bits == POINT_BITS:
            continue
        rows, columns = rows_columns(entry.shape)
        numbers = rows  # a scale for each row
        codes = rows * columns
        if entry.bits == FP16_BITS:
            numbers = rows * columns
            codes = 0
        data = []
        for size, expected in ((entry.half_bytes, 2 * numbers), (entry.code_bytes, codes)):
            stream = blob[offset : offset + size]
            offset += size
            try:
                data.append(decompress(stream, expected) if stream or expected else b"")
            except zstd_error as error:
                raise ArtifactError(f"tensor {entry.name!r}, to byte {offset}: {error}") from error
        yield entry, *data


def points_start(entries: list[Entry], offset: int) -> int:
    """Where the stream of points begins: after those of rows and halves, which begin at offset."""
    return offset + sum(entry.half_bytes + entry.code_bytes for entry in entries)


def read_points(
    blob: bytes, entries: list[Entry], offset: int
) -> Iterator[tuple[Entry, Points, float]]:
    """Each tensor on the trellis with its points and their base step."""
    _, version, *_ = PREFIX.unpack_from(blob)
    if version == ROWS_VERSION:
        return
    of_points = [entry for entry in entries if entry.bits == POINT_BITS]
    start = points_start(entries, offset)
    try:
        stream = blob[start:-CHECKSUM_BYTES]
        matrices, base_steps = rans.decode(stream, [tuple(entry.shape) for entry in of_points])
    except rans.StreamError as error:
        raise ArtifactError(f"points of tensors, from byte {start}: {error}") from error
    yield from zip(of_points, matrices, base_steps, strict=True)


def read_state(blob: bytes) -> tuple[State, dict]:
    """The fp32 weights and the settings of an artifact. Raises: ArtifactError."""
    settings, entries, offset = read_header(blob)
    # Points come last in the file, whatever their place in the table. The order of the table is
    # that of the state dict, so it is laid down before anything is read.
    state = {entry.name: torch.empty(0) for entry in entries}
    for entry, *data in read_streams(blob, entries, offset):
        state[entry.name] = stored_weight(entry, *data)
    for entry, points, base_step in read_points(blob, entries, offset):
        state[entry.name] = torch.from_numpy(points.dequantize(base_step))
    return state, settings
