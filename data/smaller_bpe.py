"""A SentencePiece BPE model with fewer pieces: the first merges of a larger one.

A model lists its merges in the order in which they were learned. So its first ones, with all
special pieces, bytes and single characters, are what training would have given with fewer pieces.
Cut to five, a model of seven:

    <unk> <0x41> ▁t he ▁the ▁ e   ->   <unk> <0x41> ▁t ▁ e

The file is a protobuf message, a row of fields: a number, and bytes of which the length stands
before them. It is read without the protobuf package, because only whole fields are left out.
"""

from collections.abc import Iterator

PIECE, TRAINER = 1, 2  # fields of a model
TEXT, TYPE = 1, 3  # fields of a piece
MODEL_TYPE, VOCAB_SIZE = 3, 4  # fields of the trainer's settings
BPE = 2  # a model type
NORMAL = 1  # the type of a piece that names none


def keep_first_merges(model: bytes, pieces: int) -> bytes:
    """Return the model with that many pieces; scores and order stay.

    Raises: ValueError for a model that is not BPE, or a number that it cannot be cut to.
    """
    fields = [(number, value) for number, value in read_fields(model)]
    settings = [dict(read_fields(value)) for number, value in fields if number == TRAINER]
    if not settings or settings[-1].get(MODEL_TYPE) != BPE:
        raise ValueError("--pieces keeps the first merges, which only a BPE model has; name one")
    merges = [number == PIECE and is_merge(value) for number, value in fields]
    size = sum(number == PIECE for number, _ in fields)
    first = pieces - (size - sum(merges))
    if not 0 < first <= sum(merges):
        allowed = f"{size - sum(merges) + 1}..{size}: bytes, characters and at least one merge"
        raise ValueError(f"--pieces {pieces} must be {allowed}")
    kept = []
    for field, merge in zip(fields, merges, strict=True):
        first -= merge
        if not merge or first >= 0:
            kept.append(write_field(*field))
    # Of a field that stands twice the last one counts, so this is the new size.
    size_field = bytes([VOCAB_SIZE << 3]) + varint(pieces)
    return b"".join(kept) + write_field(TRAINER, size_field)


def is_merge(piece: bytes) -> bool:
    fields = dict(read_fields(piece))
    return fields.get(TYPE, NORMAL) == NORMAL and len(fields[TEXT].decode()) > 1


def read_fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a message by their numbers; numbers of a fixed width as their bytes."""
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        kind = tag & 7
        if kind == 0:
            value, at = read_varint(message, at)
        else:
            size, at = (8 if kind == 1 else 4, at) if kind in (1, 5) else read_varint(message, at)
            value = message[at : at + size]
            at += size
        yield tag >> 3, value


def read_varint(message: bytes, at: int) -> tuple[int, int]:
    """The number that begins there, seven bits a byte, and where it ends: AC 02 is 300."""
    number = shift = 0
    while True:
        number |= (message[at] & 127) << shift
        shift += 7
        at += 1
        if message[at - 1] < 128:
            return number, at


def varint(number: int) -> bytes:
    low = number & 127
    return bytes([low | 128]) + varint(number >> 7) if number > 127 else bytes([low])


def write_field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + varint(len(value)) + value
