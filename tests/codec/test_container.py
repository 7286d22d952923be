"""The container: damage, hostile files with a valid checksum, zstd without its package."""

import hashlib
import json
import random
import sys
import tracemalloc
import types
import zlib

import pytest
import torch
import zstandard

from codec import container
from codec.container import ArtifactError
from quantize import decode, encode, encode_trellis
from tests.codec.test_rows import INT5, SMALL_PLAN, gaussian, small_state


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
    header_bytes = container.PREFIX.unpack_from(blob)[2]
    end = container.PREFIX.size + header_bytes
    text = blob[container.PREFIX.size : end]
    if text[:1] != b"{":
        text = zlib.decompress(text)
    return json.loads(text), blob[end : -container.CHECKSUM_BYTES]


def seal(header, streams, magic=container.MAGIC, version=container.ROWS_VERSION):
    """An artifact with a correct length and checksum around any header and streams."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = container.PREFIX.size + len(text) + len(streams) + container.CHECKSUM_BYTES
    body = container.PREFIX.pack(magic, version, len(text), size) + text + streams
    return body + hashlib.sha256(body).digest()


def seal_prefix(header_bytes):
    """A sealed artifact without header or streams that claims to have a header."""
    size = container.PREFIX.size + container.CHECKSUM_BYTES
    body = container.PREFIX.pack(container.MAGIC, container.ROWS_VERSION, header_bytes, size)
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
    return seal(header, streams, version=container.TRELLIS_VERSION)


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


def short_header(header):
    return zlib.compress(json.dumps(header).encode())


def test_a_short_header_says_what_a_long_one_says():
    """Version 3 is version 2 but for zlib around its header."""
    stream = points_of(gaussian(4, 3))
    long = seal_points(points_table(POINTS_LINE), stream)
    text = short_header(points_table(POINTS_LINE))
    short = seal(text, stream, version=container.SHORT_HEADER_VERSION)
    assert container.read_header(short)[:2] == container.read_header(long)[:2]
    assert torch.equal(decode(short)[0]["w"], decode(long)[0]["w"])


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(points_table(POINTS_LINE)).encode(),
        short_header(points_table(POINTS_LINE)) + b"a",
        short_header(points_table(POINTS_LINE))[:-1],
        short_header(points_table(POINTS_LINE) | {"more": " " * 2 * container.MAX_HEADER_BYTES}),
        short_header(table_of(POINTS_LINE)),
    ],
    ids=["long", "a tail", "cut", "huge", "no coder"],
)
def test_short_headers_that_nobody_wrote_are_refused(text):
    """Those that do not unpack to the one spelling of a header, within bounds."""
    stream = points_of(gaussian(4, 3))
    with pytest.raises(ArtifactError, match="header"):
        decode(seal(text, stream, version=container.SHORT_HEADER_VERSION))


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
        unpacked = self.inner.decompress(data)
        self.eof = self.inner.eof and len(unpacked) <= max_length
        self.unused_data = self.inner.unused_data
        return unpacked[:max_length]


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
