"""The entropy coder: round trips, size, golden bytes and refusals of rans.py.

The golden stream is regenerated, after a deliberate change of format and version, by
`python tests/test_rans.py`, which prints the literal to paste.
"""

import base64
import lzma
import random
import tracemalloc

import numpy as np
import pytest

from codec import rans, trellis
from codec.trellis import Points


def walk(rows, columns, states=8, spread=3.0, seed=0):
    """Points that the trellis allows, drawn by integers alone, so the same on every machine."""
    rng = random.Random(seed)
    next_state = trellis.transitions(states)
    points_RC = np.zeros((rows, columns), np.int16)
    steps = trellis.path_steps(rows)
    for c in range(columns):
        for r in range(rows):
            if r % steps == 0:
                state = 0
            low, high = -int(spread * (1 + r % 3)), int(spread * (1 + r % 3))
            point = 2 * rng.randint(low, high) + (state & 1 if states > 1 else 0)
            points_RC[r, c] = point
            state = next_state[state, (point >> 1) & 1]
    row = np.array([r % 3 for r in range(rows)], np.int8)
    column = np.array([c % 5 for c in range(columns)], np.int8)
    return Points(points_RC, -row, column, row, column)


def assert_equal(one, two):
    for name in ("points_RC", "row_step", "column_step", "row_spread", "column_spread"):
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


SHAPES = [(1, 9), (9, 1), (0, 5), (5, 0), (1, 1), (0, 0), (300, 3), (16, 40), (700, 1)]


@pytest.mark.parametrize("states", trellis.PARITY_CHECKS)
def test_streams_come_back_whole(states):
    """All shapes in one stream and each in its own, points, exponents and step, to the last bit."""
    matrices = [walk(*shape, states, seed=i) for i, shape in enumerate(SHAPES)]
    for some in (matrices, *([m] for m in matrices), []):
        shapes = [m.points_RC.shape for m in some]
        base_steps = [0.125 * (1 + i) for i in range(len(some))]
        decoded, steps = rans.decode(rans.encode(some, base_steps, states), shapes)
        assert steps == base_steps and len(decoded) == len(some)
        for one, two in zip(some, decoded, strict=True):
            assert_equal(one, two)


def test_large_points_and_constant_matrices_come_back():
    """The largest points, a matrix of zeros and exponents at both ends of int8."""
    largest = Points(
        np.array([[8190, -8190], [0, 2]], np.int16),
        *(np.array([-128, 127], np.int8) for _ in range(4)),
    )
    zeros = Points(np.zeros((40, 30), np.int16), *(np.zeros(n, np.int8) for n in (40, 30, 40, 30)))
    decoded, _ = rans.decode(rans.encode([largest, zeros], [2.0**-60] * 2, 1), [(2, 2), (40, 30)])
    assert_equal(decoded[0], largest)
    assert_equal(decoded[1], zeros)
    assert len(rans.encode([zeros], [1.0], 8)) < 80
    assert np.isfinite(decoded[0].dequantize(2.0**40)).all()


def test_cells_grow_with_the_magnitude():
    """Every magnitude below 32 has its own cell, larger ones share, in order and without a gap."""
    cells = rans.cell_of(np.arange(trellis.MAX_POINT + 1))
    assert cells[:34].tolist() == [*range(33), 32]
    assert set(np.diff(cells)) == {0, 1}
    assert cells[63] == cells[60] and cells[64] == cells[63] + 1 and cells[-1] == 103


def test_tables_add_up_and_are_symmetric():
    """Each row sums to 2**14, holds its parity alone, and misses no point that has a log."""
    rng = np.random.default_rng(0)
    tables = rans.Tables(rng.integers(0, 256, size=(5, 45)).astype(np.uint8), 100)
    assert (tables.frequency.sum(axis=1) == 1 << rans.TABLE_BITS).all()
    points = np.arange(-100, 101)
    for row, frequency in enumerate(tables.frequency):
        assert not frequency[(points & 1) != row % 2].any()
        asymmetric = np.abs(frequency.astype(int) - frequency[::-1])
        asymmetric[frequency.argmax()] = asymmetric[200 - frequency.argmax()] = 0
        assert not asymmetric.any()


def test_size_is_within_half_a_percent_of_the_models_entropy():
    """Prefix, tables, exponents and lanes included, for 200,000 points; without: 0.1 %."""
    matrices = [walk(400, 250, seed=i) for i in range(2)]
    stream = rans.encode(matrices, [1.0, 2.0], 8)
    ideal = sum(rans.coded_bytes(matrices))
    assert ideal < len(stream) < 1.005 * ideal
    side, words = rans.bytes_beside_and_of_words(stream, 2)
    assert side + words == len(stream) and abs(words / ideal - 1) < 0.001


GOLDEN = (
    "2mk;D6957LHUIzs9{>OV-~eL)E&u=p;QS0+6Fr;eXEqM!PaKSkYE`Ac=Ge^ocDNtzHA~V5j=ujg%&90FmIp=*MF8LcaR"
    "3(p002SY!nnO{?Vu8nRhL9KfaB+tHRaF%00000KL7y0K6Hl`0B%v?2QqW@MAZSB+JIetbf?esYpR+C@*k@0#|YTVz&RL"
    "_3x0`>0$%Fdf!j3KFks+{+kw&px3!=ZjqANKbksl==g)y(jEicZDeAuGhi}a%jZT$CS0K&LXo8M|o(hLFZU"
)


GOLDEN_STEPS = [0.5, 0.375]


def golden_matrices():
    return [walk(37, 5, seed=3), walk(4, 11, seed=4)]


def unpacked(stream):
    """A stream without what may depend on LZMA's version: how well it packs."""
    *fields, logs_bytes, exponents_bytes = rans.PREFIX.unpack_from(stream)
    at = rans.PREFIX.size + logs_bytes
    logs, exponents = stream[rans.PREFIX.size : at], stream[at : at + exponents_bytes]
    rest = stream[at + exponents_bytes :]
    return (
        fields,
        *(
            lzma.decompress(part, lzma.FORMAT_RAW, filters=[rans.LZMA_FILTER])
            for part in (logs, exponents)
        ),
        rest,
    )


def test_golden_stream():
    """These points give these bytes, and these bytes give these points, on every machine."""
    matrices = golden_matrices()
    assert unpacked(rans.encode(matrices, GOLDEN_STEPS, 8)) == unpacked(base64.b85decode(GOLDEN))
    decoded, steps = rans.decode(base64.b85decode(GOLDEN), [(37, 5), (4, 11)])
    assert steps == GOLDEN_STEPS
    for one, two in zip(matrices, decoded, strict=True):
        assert_equal(one, two)


def test_dequantize_is_exact():
    """Steps are a base, times powers of two and of its fourth root, rounded once."""
    exponents = np.array([0, 4, -8, 2], np.int8)
    points = Points(
        np.array([[3, 1, 4, -2]], np.int16), np.zeros(1, np.int8), exponents, *[exponents] * 2
    )
    restored = points.dequantize(0.75)
    assert restored.dtype == np.float32
    assert restored[0, :3].tolist() == [2.25, 1.5, 0.75]
    assert restored[0, 3] == np.float32(-2) * np.float32(0.75 * 2**0.5)


@pytest.mark.parametrize("step", [0.0, -1.0, 2.0**41, float("nan"), float("inf")])
def test_steps_out_of_range_are_refused(step):
    """A base step that could overflow is refused in writing and in reading."""
    with pytest.raises(ValueError, match="base_step"):
        rans.encode([walk(4, 4)], [step], 8)
    stream = bytearray(rans.encode([walk(4, 4)], [1.0], 8))
    at = stream.index(np.float32(1.0).tobytes(), rans.PREFIX.size)
    stream[at : at + 4] = np.float32(step).tobytes()
    with pytest.raises(rans.StreamError, match="base step"):
        rans.decode(bytes(stream), [(4, 4)])


def test_damaged_streams_are_refused_or_harmless():
    """Of 200 damages most are refused, by StreamError alone; the rest give finite weights."""
    matrices = golden_matrices()
    stream = rans.encode(matrices, GOLDEN_STEPS, 8)
    rng = random.Random(0)
    refused = 0
    tracemalloc.start()
    for _ in range(200):
        damaged = bytearray(stream)
        at = rng.randrange(len(stream))
        match rng.randrange(3):
            case 0:
                damaged[at] ^= 1 << rng.randrange(8)
            case 1:
                del damaged[at:]
            case 2:
                damaged[at : at + 4] = rng.randbytes(4)
        try:
            decoded, steps = rans.decode(bytes(damaged), [(37, 5), (4, 11)])
        except rans.StreamError:
            refused += 1
        else:
            assert all(
                np.isfinite(m.dequantize(s)).all() for m, s in zip(decoded, steps, strict=True)
            )
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused > 180 and peak_bytes < 200 * 2**20


def test_streams_of_other_shapes_are_refused():
    """Shapes that are not those of the stream do not decode, nor does an empty stream."""
    stream = rans.encode(golden_matrices(), GOLDEN_STEPS, 8)
    for shapes in ([(37, 5)], [(37, 5), (4, 11), (1, 1)], [(37, 5), (11, 3)], []):
        with pytest.raises(rans.StreamError):
            rans.decode(stream, shapes)
    with pytest.raises(rans.StreamError, match="where they should"):
        rans.decode(stream + bytes(2), [(37, 5), (4, 11)])
    fields = list(rans.PREFIX.unpack_from(stream))
    fields[3] = 65_535  # the largest point: tables of gigabytes
    with pytest.raises(rans.StreamError, match="prefix"):
        rans.decode(rans.PREFIX.pack(*fields) + stream[rans.PREFIX.size :], [(37, 5), (4, 11)])
    with pytest.raises(rans.StreamError, match="0 bytes"):
        rans.decode(b"", [])


def test_classes_that_span_more_than_a_byte_counts_come_back():
    """Rows that reach far and hardly over their steps: the lowest classes join, none is lost."""
    spread = np.array([-128, 127, 0, 0], np.int8)
    points = np.arange(0, 8, 2, dtype=np.int16)[:, None] * np.ones((1, 3), np.int16)
    original = Points(points, -1 - spread, *(np.zeros(3, np.int8), spread, np.zeros(3, np.int8)))
    assert np.ptp(original.classes(-512, 1024)) > 255
    assert_equal(rans.decode(rans.encode([original], [1.0], 1), [(4, 3)])[0][0], original)


def large_at(stream):
    """Where those that stand apart begin in a stream of two matrices."""
    *_, logs_bytes, exponents_bytes = rans.PREFIX.unpack_from(stream)
    return rans.PREFIX.size + logs_bytes + exponents_bytes + 4 * 2


def large_points():
    """Two matrices with points beyond those that have a frequency of their own."""
    matrices = [walk(40, 6, seed=1), walk(9, 9, seed=2)]
    points = [p.points_RC.astype(np.int32) for p in matrices]
    for i, place, lacking in ((0, (7, 3), 10_001), (0, (39, 5), -30_000), (1, (8, 8), 1_000_000)):
        points[i][place] += 4 * lacking  # the residue, and with it the path, stays
    return [
        Points.of(p, m.row_step, m.column_step, rows_sorted=False)
        for p, m in zip(points, matrices, strict=True)
    ]


def test_points_beyond_the_tables_come_back():
    """They stand apart, and leave tables, spreads and paths as if they were small."""
    matrices = large_points()
    stream = rans.encode(matrices, [1.0, 2.0], 8)
    decoded, _ = rans.decode(stream, [(40, 6), (9, 9)])
    for one, two in zip(matrices, decoded, strict=True):
        assert_equal(one, two)
    assert decoded[1].points_RC[8, 8] > 3_900_000
    side_bytes, word_bytes = rans.bytes_beside_and_of_words(stream, 2)
    apart = rans.LARGE.size + rans.LARGE.unpack_from(stream, large_at(stream))[1]
    small = [
        Points.of(trellis.folded(p.points_RC), p.row_step, p.column_step, rows_sorted=False)
        for p in matrices
    ]
    plain = rans.encode(small, [1.0, 2.0], 8)
    assert len(stream) == len(plain) + apart
    assert side_bytes + word_bytes == len(stream)


def test_damage_to_points_that_stand_apart_is_refused():
    """Counts, places and sizes that encode cannot have written."""
    stream, shapes = rans.encode(large_points(), [1.0, 2.0], 8), [(40, 6), (9, 9)]
    at = large_at(stream)
    count, size = rans.LARGE.unpack_from(stream, at)
    assert count == 3
    body = stream[at + rans.LARGE.size : at + rans.LARGE.size + size]
    numbers = np.frombuffer(rans._inflated(body, 24), "<i4")

    def spoiled(numbers, count=3):
        new = rans._deflated(np.asarray(numbers, "<i4").tobytes())
        rest = stream[at + rans.LARGE.size + size :]
        return stream[:at] + rans.LARGE.pack(count, len(new)) + new + rest

    assert rans.decode(spoiled(numbers), shapes)
    for bad, message in (
        (spoiled(numbers[[1, 0, 2, 3, 4, 5]]), "places"),
        (spoiled([*numbers[:2], 321, *numbers[3:]]), "places"),
        (spoiled([*numbers[:5], 1]), "not a large one"),
        (spoiled([*numbers[:5], 2_000_000]), "not a large one"),
        (spoiled(numbers, 2), "unpack"),
        (spoiled(numbers, 0), "not possible"),
        (spoiled(numbers, 400), "not possible"),
        (stream[: at + 4], "cut off"),
    ):
        with pytest.raises(rans.StreamError, match=message):
            rans.decode(bad, shapes)


def test_bytes_behind_the_tables_are_refused():
    """A table that ends before its size says is not taken, whatever follows it."""
    stream = rans.encode([walk(4, 4)], [1.0], 8)
    fields = list(rans.PREFIX.unpack_from(stream))
    at = rans.PREFIX.size + fields[5]
    fields[5] += 2
    longer = rans.PREFIX.pack(*fields) + stream[rans.PREFIX.size : at] + b"ab" + stream[at:]
    with pytest.raises(rans.StreamError, match="tables or exponents"):
        rans.decode(longer, [(4, 4)])


def test_few_lanes_for_many_points_are_refused():
    """Zeros take no words: sixty bytes of one lane would keep a reader busy for hours."""
    zeros = Points(np.zeros((512, 256), np.int16), *(np.zeros(n, np.int8) for n in (512, 256) * 2))
    stream = rans.encode([zeros], [1.0], 1)
    assert rans.decode(stream, [(512, 256)])[0][0].points_RC.shape == (512, 256)
    fields = list(rans.PREFIX.unpack_from(stream))
    assert fields[4] == 16
    fields[4] = 8
    fewer = rans.PREFIX.pack(*fields) + stream[rans.PREFIX.size : -4 * 8]
    with pytest.raises(rans.StreamError, match="prefix"):
        rans.decode(fewer, [(512, 256)])


if __name__ == "__main__":
    print(base64.b85encode(rans.encode(golden_matrices(), GOLDEN_STEPS, 8)).decode())
