"""Turn trellis points into bytes at their entropy, and back: rANS with frequency tables inside.

The coder is static rANS with 32-bit states in interleaved lanes. A state is a number that grows by
what a symbol is worth: with frequencies that add up to 2**TABLE_BITS, encoding a symbol turns x
into (x // frequency << TABLE_BITS) + x % frequency + start, and reading goes back. With TABLE_BITS
2 and two symbols, a of frequency 3 (start 0) and b of frequency 1 (start 3), from x = 5:

    write b    (5 // 1 << 2) + 5 % 1 + 3 = 23      b is worth 2 bits, so x is 4 times as large
    write a    (23 // 3 << 2) + 23 % 3 + 0 = 30    a is worth 0.4
    read       30 & 3 = 2 is below 3: a, and x = 3 * (30 >> 2) + 2 - 0 = 23
               23 & 3 = 3 is b's:     b, and x = 1 * (23 >> 2) + 3 - 3 = 5

Symbols are read in the reverse order of writing. A state that would leave 32 bits first gives its
low 16 bits to the words; a reader takes them back when its state is below STATE_LOW.

All that the coder and its tables compute is integers, so a stream means the same everywhere. A
point's table is chosen by its class, the spread of its row and column in quarter octaves, and by
its parity, which the trellis tells. Points are coded step by step of their paths, all paths of a
matrix side by side. A stream, little-endian:

    PREFIX | LZMA: log2-frequencies | LZMA: exponents | base steps f32 | lane states u32 | words u16

A point beyond MAX_POINT is coded as a small one of the same residue modulo 4 (trellis.folded), and
what it lacks stands apart. A stream with such points has WITH_LARGE added to the first byte of its
prefix, and after the base steps a LARGE with the size of an LZMA stream: first the places of those
points among all weights, u32, rising, then what each lacks over 4, i32. So 40,003 at place 7 is
coded as -1, and stands there as 7 and 10,001.

SORTED is added to that byte where paths go down the rows in trellis.coding_order. In a stream
without it they go down the rows as they stand.

LZMA is raw, by LZMA_FILTER. Log2-frequencies are K rows of M, of 255 where a cell is empty, and of
falling 1/LOG_UNITS bits else, through mantissas of 31 bits; what rounding leaves goes to the first
of the most frequent. Exponents are those of all rows' steps, matrix after matrix, then of columns'
steps, rows' spreads and columns' spreads. In each step of the paths, point j is lane j % lanes'.

Dimensions in names: K classes, M cells of magnitudes.
"""

import lzma
import struct
from dataclasses import replace

import numpy as np

from codec.trellis import (
    LARGEST_POINT,
    MAX_POINT,
    PARITY_CHECKS,
    Points,
    folded,
    path_steps,
    transitions,
)

TABLE_BITS = 14
LOG_UNITS = 16  # of a log2-frequency in a bit
ABSENT = 255
STATE_LOW = 1 << 16
SMALLEST_STEP, LARGEST_STEP = 2.0**-60, 2.0**40  # with any exponents and points, fp32 holds it
PREFIX = struct.Struct("<BhBHHII")  # states, low class, K, reach, lanes, two sizes
WITH_LARGE, SORTED = 128, 64  # in the prefix, beside the number of states
LARGE = struct.Struct("<II")  # points beyond MAX_POINT, bytes of their stream
# Literals without context: 18 % smaller than zlib on exponents, which hardly repeat unless matrices
# share their inputs; then whole rows of them do, and cost nothing.
LZMA_FILTER = {
    "id": lzma.FILTER_LZMA2,
    "preset": 9,
    "lc": 0,
    "lp": 0,
    "pb": 0,
    "dict_size": 1 << 20,
}


class StreamError(ValueError):
    """Bytes that are no stream of points."""


def cell_of(magnitude: np.ndarray) -> np.ndarray:
    """Cells of one frequency each: every magnitude below 32, then eighths of octaves.

    magnitude   0 .. 31   32 .. 35   36 .. 39   ..   60 .. 63   64 .. 71   ..
    cell        0 .. 31      32         33      ..      39         40      ..
    """
    exponent = np.frexp(np.maximum(magnitude, 32))[1] - 6  # octaves above 32
    eighth = magnitude >> (exponent + 2)  # of its octave: 8 to 15
    return np.where(magnitude < 32, magnitude, 24 + 8 * exponent + eighth)


class Tables:
    """Frequencies of the points of each class and parity, as integers that add up to a power of 2.

    They come from the log2-frequency of each cell; a point and its negative are equally frequent.
    Row 2 k + parity of the tables is that of class k, and column i that of the point i - reach.
    """

    def __init__(self, logs_KM: np.ndarray, reach: int):
        self.reach = reach
        K = len(logs_KM)
        point = np.arange(-reach, reach + 1)
        # 2 ** (31 - log2), in integers: computed in floats, the last bit would hang on the machine.
        mantissas = np.array([round(2 ** (31 - i / LOG_UNITS)) for i in range(LOG_UNITS)])
        whole_bits, part = np.divmod(logs_KM.astype(np.int64), LOG_UNITS)
        share_KM = np.where(logs_KM == ABSENT, 0, mantissas[part] >> whole_bits)
        share = np.repeat(share_KM[:, cell_of(np.abs(point))], 2, axis=0)
        # A state of the trellis allows points of its own parity only: the others take no room.
        parity = np.arange(2 * K)[:, None]
        share[(parity + point) % 2 == 1] = 0
        self.frequency = _normalised(share)
        self.start = self.frequency.cumsum(axis=1) - self.frequency
        # Which point each number below 2**TABLE_BITS reads as.
        self.symbol = np.full((2 * K, 1 << TABLE_BITS), reach, np.int16)
        for row, frequency in zip(self.symbol, self.frequency, strict=True):
            slots = np.repeat(np.arange(2 * reach + 1), frequency)
            row[: len(slots)] = slots
        self.frequency = self.frequency.astype(np.uint32)
        self.start = self.start.astype(np.uint32)


def _normalised(share: np.ndarray) -> np.ndarray:
    """Integers in proportion to each row, at least 1 where it is not 0, that add up exactly.

    With TABLE_BITS 3, [5, 0, 1, 1] becomes [4, 0, 1, 1], and the 2 that are left of 8 go to the
    first of the largest: [6, 0, 1, 1].
    """
    present = share > 0
    total = np.maximum(share.sum(axis=1, keepdims=True), 1)
    room = (1 << TABLE_BITS) - present.sum(axis=1, keepdims=True)
    frequency = present + share * room // total
    largest = frequency.argmax(axis=1)
    rest = (1 << TABLE_BITS) - frequency.sum(axis=1)
    rows = np.arange(len(share))
    frequency[rows, largest] += np.where(present.any(axis=1), rest, 0)
    return frequency


def count_logs(matrices: list[Points], low: int, K: int, reach: int) -> np.ndarray:
    """logs_KM for Tables: how rare a cell's magnitudes are in each class, in 1/LOG_UNITS bits."""
    counts = np.zeros(K * (reach + 1), np.int64)
    for p in matrices:
        # The place of a pair of class and magnitude in a table of K rows.
        first_of_class = p.classes(low, K).astype(np.int64) * (reach + 1)
        index = first_of_class + np.abs(p.points_RC)
        counts += np.bincount(index.reshape(-1), minlength=len(counts))
    counts = counts.reshape(K, reach + 1).astype(np.float64)
    counts[:, 0] *= 2  # 0 is its own negative, and any other magnitude stands for two points
    cells = cell_of(np.arange(reach + 1))
    mean_KM = np.zeros((K, cells[-1] + 1))
    for parity in (0, 1):  # one state uses even points only
        own = cells[parity::2]
        magnitudes = np.bincount(own, minlength=mean_KM.shape[1])  # in each cell
        for mean, row in zip(mean_KM, counts[:, parity::2], strict=True):
            uses = np.bincount(own, row, minlength=mean_KM.shape[1])
            np.maximum(mean, uses / np.maximum(magnitudes, 1), out=mean)
    is_used_KM = mean_KM > 0
    most_K1 = mean_KM.max(axis=1, keepdims=True)
    ratio_KM = most_K1 / np.where(is_used_KM, mean_KM, np.inf)
    bits_KM = np.log2(np.maximum(ratio_KM, 1))
    logs_KM = np.rint(LOG_UNITS * bits_KM).clip(max=ABSENT - 1)
    return np.where(is_used_KM, logs_KM, ABSENT).astype(np.uint8)


def class_range(matrices: list[Points]) -> tuple[int, int]:
    """The lowest class and the number of classes; sparse ones at either end join the last.

    A thousandth of all points may lie beyond either end: a class of few points costs more for its
    table than it saves.
    """
    lowest, most = -512, 1024
    counts = np.zeros(most, np.int64)
    for p in matrices:
        counts += np.bincount(p.classes(lowest, most).reshape(-1), minlength=most)
    total = counts.cumsum()
    low = int(np.searchsorted(total, total[-1] / 1000, side="right"))
    high = min(int(np.searchsorted(total, total[-1] * 0.999)), most - 1)
    low = min(max(low, high - 254), high)  # at most 255 classes: their number is one byte
    return lowest + low, high - low + 1


def encode(matrices: list[Points], base_steps: list[float], states: int) -> bytes:
    """The stream that decode turns back into exactly these matrices, each with its base step.

    Raises: ValueError for a base step that could leave the range of fp32.
    """
    for base_step in base_steps:
        if not SMALLEST_STEP <= base_step <= LARGEST_STEP:
            raise ValueError(f"base_step={base_step} must be {SMALLEST_STEP} to {LARGEST_STEP}")
    large, matrices = _large_apart(matrices)
    low, K, reach, logs_KM = _model_of(matrices)
    lanes = _lanes_for(matrices)
    lane_states, words = _coded_words(matrices, Tables(logs_KM, reach), low, K, lanes)
    is_sorted = any((np.diff(p.row_order) < 0).any() for p in matrices)
    if is_sorted and not all(p.rows_sorted for p in matrices):
        raise ValueError("paths must go down sorted rows in all matrices of a stream, or in none")
    first = states + (WITH_LARGE if large else 0) + (SORTED if is_sorted else 0)
    logs = _deflated(logs_KM.tobytes())
    exponents = _deflated(_exponents(matrices))
    prefix = PREFIX.pack(first, low, K, reach, lanes, len(logs), len(exponents))
    steps = np.array(base_steps, "<f4").tobytes()
    coded = lane_states.astype("<u4").tobytes() + words.astype("<u2").tobytes()
    return b"".join((prefix, logs, exponents, steps, large, coded))


def _coded_words(
    matrices: list[Points], tables: Tables, low: int, K: int, lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    """The states that a reader starts from, and the words that it takes, in its order."""
    lane_states = np.full(lanes, STATE_LOW, np.uint32)
    words = [np.empty(0, np.uint16)]
    width = 2 * tables.reach + 1
    # From the last point to the first: rANS reads in the reverse order.
    for p in reversed(matrices):
        order = p.row_order
        steps = path_steps(len(order))
        for t in reversed(range(steps)):
            rows = order[t::steps]
            points = p.points_RC[rows].reshape(-1).astype(np.int64)
            classes = p.classes(low, K, rows).reshape(-1).astype(np.int64)
            table = 2 * classes + (points & 1)
            index = table * width + points + tables.reach
            frequency = tables.frequency.take(index)
            start = tables.start.take(index)
            for at in reversed(range(0, len(points), lanes)):
                f = frequency[at : at + lanes]
                x = lane_states[: len(f)]
                # Invariant: STATE_LOW <= x < 2**32. A state that this point would take beyond gives
                # up its low 16 bits first, and is then small enough for any frequency.
                is_full = x >= f.astype(np.uint64) << (32 - TABLE_BITS)
                words.append(x[is_full].astype(np.uint16)[::-1])
                x = np.where(is_full, x >> 16, x)
                quotient = x // f
                lane_states[: len(f)] = (quotient << TABLE_BITS) + x % f + start[at : at + lanes]
    return lane_states, np.concatenate(words)[::-1]


def _large_apart(matrices: list[Points]) -> tuple[bytes, list[Points]]:
    """The bytes that stand for what points beyond MAX_POINT lack, and all points as coded."""
    rows = [p.points_RC.reshape(-1) for p in matrices]
    points = np.concatenate([np.empty(0, np.int32), *rows])
    place = np.flatnonzero(np.abs(points) > MAX_POINT)
    if not len(place):
        return b"", matrices
    large = points[place]
    lacking = (large - folded(large)) // 4
    places = place.astype("<u4").tobytes()
    stream = _deflated(places + lacking.astype("<i4").tobytes())
    coded = [replace(p, points_RC=folded(p.points_RC)) for p in matrices]
    return LARGE.pack(len(place), len(stream)) + stream, coded


def _large_back(stream: bytes, at: int, matrices: list[Points]) -> None:
    """Give the points that stand apart, from byte `at` of a stream, their full size."""
    count, size = LARGE.unpack_from(stream, at)
    borders = np.cumsum([0, *(p.points_RC.size for p in matrices)])  # of matrices, in places
    total = borders[-1]
    if not 0 < count <= total:
        raise StreamError(f"{count} large points among {total} are not possible")
    at += LARGE.size
    numbers = _inflated(stream[at : at + size], 8 * count)
    place = numbers[: 4 * count].view("<u4").astype(np.int64)
    lacking = numbers[4 * count :].view("<i4").astype(np.int64)
    if (np.diff(place) <= 0).any() or place[-1] >= total:
        raise StreamError("the places of large points do not rise")
    for p, first, end in zip(matrices, borders, borders[1:], strict=False):
        own = slice(*np.searchsorted(place, (first, end)))
        flat = p.points_RC.reshape(-1)  # a view: writing to it changes the matrix
        points = flat[place[own] - first] + 4 * lacking[own]
        magnitude = np.abs(points)
        if (magnitude <= MAX_POINT).any() or (magnitude > LARGEST_POINT).any():
            raise StreamError("a point that stands apart is not a large one")
        flat[place[own] - first] = points


def _model_of(matrices: list[Points]) -> tuple[int, int, int, np.ndarray]:
    """The lowest class and the number of classes, the largest point, and logs_KM for Tables."""
    low, K = class_range(matrices)
    reach = 0
    for p in matrices:
        reach = max(reach, int(np.abs(p.points_RC).max(initial=0)))
    return low, K, reach, count_logs(matrices, low, K, reach)


def _lanes_for(matrices: list[Points]) -> int:
    """Lanes of a stream of these points: more for many, since each costs four bytes."""
    numbers = sum(p.points_RC.size for p in matrices)
    return 1 << min(max((numbers >> 14).bit_length(), 1), 10)


def _exponents(matrices: list[Points]) -> bytes:
    """Exponents of one kind after the other, each of all matrices."""
    kinds = ("row_step", "column_step", "row_spread", "column_spread")
    return b"".join(getattr(p, kind).tobytes() for kind in kinds for p in matrices)


def estimated_bytes(matrices: list[Points]) -> float:
    """What encode will take, to a thousandth of many points, in a fourth of the time."""
    large, small = _large_apart(matrices)
    *_, logs_KM = _model_of(small)
    side = PREFIX.size + len(large)
    side += len(_deflated(logs_KM.tobytes()))
    side += len(_deflated(_exponents(small)))
    side += 4 * (len(matrices) + _lanes_for(matrices))  # base steps and states
    return side + sum(coded_bytes(matrices))


def coded_bytes(matrices: list[Points]) -> list[float]:
    """The entropy of each matrix's points under the frequency tables of a stream of them all."""
    _, matrices = _large_apart(matrices)
    low, K, reach, logs_KM = _model_of(matrices)
    frequency = Tables(logs_KM, reach).frequency
    bits = TABLE_BITS - np.log2(np.maximum(frequency, 1))
    sizes = []
    for p in matrices:
        points = p.points_RC.astype(np.int64)
        table = 2 * p.classes(low, K) + (points & 1)
        point_bits = bits[table, points + reach]
        sizes.append(float(point_bits.sum()) / 8)
    return sizes


def bytes_beside_and_of_words(stream: bytes, matrices: int) -> tuple[int, int]:
    """Bytes of all that describes the points of so many matrices, and of the coded words."""
    first, *_, lanes, logs_bytes, exponents_bytes = PREFIX.unpack_from(stream)
    side_bytes = PREFIX.size + logs_bytes + exponents_bytes + 4 * (matrices + lanes)
    if first >= WITH_LARGE:
        _, size = LARGE.unpack_from(stream, side_bytes - 4 * lanes)
        side_bytes += LARGE.size + size
    return side_bytes, len(stream) - side_bytes


class Reader:
    """Takes points from interleaved lanes: undoes _coded_words, from its last step to its first."""

    def __init__(self, tables: Tables, lane_states: np.ndarray, words: np.ndarray):
        self.tables = tables
        self.lane_states = lane_states
        self.words = words
        self.position = 0  # words taken so far
        self.width = np.uint32(2 * tables.reach + 1)  # columns of the tables

    def read(self, table: np.ndarray) -> np.ndarray:
        """The next points, one from each of these rows of the tables."""
        points = np.empty(len(table), np.int16)
        lanes = len(self.lane_states)
        for at in range(0, len(table), lanes):
            row = table[at : at + lanes]
            x = self.lane_states[: len(row)]  # a view: x changes the states themselves
            slot = x & np.uint32((1 << TABLE_BITS) - 1)
            symbol = self.tables.symbol.take((row << np.uint32(TABLE_BITS)) + slot)
            points[at : at + lanes] = symbol
            index = row * self.width + symbol
            x >>= np.uint32(TABLE_BITS)
            x *= self.tables.frequency.take(index)
            x += slot - self.tables.start.take(index)
            # The lanes that gave up a word before this point was written take it back. Words stand
            # in the order of their lanes, so that all lanes read at once.
            low = np.flatnonzero(x < STATE_LOW)
            words = self.words[self.position : self.position + len(low)]
            if len(words) < len(low):
                raise StreamError("the coded points end early")
            x[low] = (x[low] << np.uint32(16)) | words
            self.position += len(low)
        points -= self.tables.reach
        return points


def decode(stream: bytes, shapes: list[tuple[int, int]]) -> tuple[list[Points], list[float]]:
    """The matrices of these shapes that a stream holds, and their base steps.

    Raises: StreamError for bytes that encode cannot have written.
    """
    if len(stream) < PREFIX.size:
        raise StreamError(f"{len(stream)} bytes cannot hold a stream of points")
    first, low, K, reach, lanes, logs_bytes, exponents_bytes = PREFIX.unpack_from(stream)
    has_large = bool(first & WITH_LARGE)
    is_sorted = bool(first & SORTED)
    states = first & ~(WITH_LARGE | SORTED)
    # With few lanes for many points, a stream of zeros in 60 bytes would take hours.
    numbers = sum(R * C for R, C in shapes)
    least_lanes = min(numbers >> 14, 1023) + 1
    if states not in PARITY_CHECKS or not K or lanes < least_lanes or reach > MAX_POINT:
        raise StreamError("the prefix of the points is not as this format has it")

    exponents_at = PREFIX.size + logs_bytes
    steps_at = exponents_at + exponents_bytes
    large_at = steps_at + 4 * len(shapes)
    lanes_at = large_at
    if has_large and large_at + LARGE.size <= len(stream):
        _, large_bytes = LARGE.unpack_from(stream, large_at)
        lanes_at += LARGE.size + large_bytes
    words_at = lanes_at + 4 * lanes
    cells = int(cell_of(np.array(reach))) + 1
    logs = _inflated(stream[PREFIX.size : exponents_at], K * cells)
    exponents = _split_exponents(stream[exponents_at:steps_at], shapes)
    if words_at > len(stream) or (len(stream) - words_at) % 2:
        raise StreamError("the coded points are cut off")
    base_steps = np.frombuffer(stream[steps_at:large_at], "<f4").astype(float)
    if not ((SMALLEST_STEP <= base_steps) & (base_steps <= LARGEST_STEP)).all():
        raise StreamError("a base step is not one of this format")

    lane_states = np.frombuffer(stream[lanes_at:words_at], "<u4").astype(np.uint32)
    words = np.frombuffer(stream[words_at:], "<u2").astype(np.uint32)
    reader = Reader(Tables(logs.reshape(K, cells), reach), lane_states, words)
    next_state = transitions(states).astype(np.uint32)
    matrices = []
    for shape, own_exponents in zip(shapes, exponents, strict=True):
        p = Points(np.empty(shape, np.int32), *own_exponents, rows_sorted=is_sorted)
        _read_points(p, reader, next_state, low, K)
        matrices.append(p)
    # The writer began with states of STATE_LOW, so this is where a reader ends.
    if reader.position != len(words) or (reader.lane_states != STATE_LOW).any():
        raise StreamError("the coded points do not end where they should")
    if has_large:
        _large_back(stream, large_at, matrices)
    return matrices, base_steps.tolist()


def _read_points(p: Points, reader: Reader, next_state: np.ndarray, low: int, K: int) -> None:
    """Fill in the points of a matrix, step by step of its paths."""
    R, C = p.points_RC.shape
    if not R * C:
        return
    order = p.row_order
    steps = path_steps(R)
    state_PC = np.zeros((-(-R // steps), C), np.uint32)  # of the paths of every column
    for t in range(steps):
        rows = order[t::steps]  # the last part may be one row short
        tables = 2 * p.classes(low, K, rows).astype(np.uint32)
        state = state_PC[: len(rows)]
        tables += state & np.uint32(1)  # the trellis tells the parity of what comes
        points = reader.read(tables.reshape(-1)).reshape(tables.shape)
        p.points_RC[rows] = points
        state_PC[: len(rows)] = next_state[state, (points >> 1) & 1]


def _split_exponents(data: bytes, shapes: list[tuple[int, int]]) -> list[list[np.ndarray]]:
    """The four kinds of exponents of each matrix, of what _exponents wrote."""
    of_rows = [R for R, _ in shapes]
    of_columns = [C for _, C in shapes]
    counts = of_rows + of_columns + of_rows + of_columns  # steps, then spreads
    numbers = _inflated(data, sum(counts)).view(np.int8)
    exponents = np.split(numbers, np.cumsum(counts)[:-1])
    return [exponents[i :: len(shapes)] for i in range(len(shapes))]


def _deflated(data: bytes) -> bytes:
    """What _inflated turns back; raw, since a container would add 50 bytes to each."""
    return lzma.compress(data, lzma.FORMAT_RAW, filters=[LZMA_FILTER])


def _inflated(data: bytes, count: int) -> np.ndarray:
    """So many bytes, as uint8. Raises: StreamError for data of any other number."""
    inflater = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[LZMA_FILTER])
    try:
        # One byte more than expected shows too long a stream without unpacking all of it.
        unpacked = inflater.decompress(data, count + 1)
    except lzma.LZMAError as error:
        raise StreamError(f"tables or exponents: {error}") from error
    if len(unpacked) != count or not inflater.eof or inflater.unused_data:
        raise StreamError(f"tables or exponents do not unpack to {count} bytes")
    return np.frombuffer(unpacked, np.uint8)
