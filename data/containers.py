"""Files of documents: what they are packed in, and where one document ends and the next begins.

Files are only cut here, at the ends of documents, into pieces of about a megabyte. What is
expensive, parsing and checking, is left to whoever calls sources.Block.texts, in any process.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

BLOCK_BYTES = 1 << 20
READ_BYTES = 1 << 16  # of a packed file: unpacked it may be many times as long
MAX_LINE_BYTES = 1 << 26
ROWS_AT_A_TIME = 64  # of a Parquet file; more would hold long documents in memory
MOST_TEXTS = 4096  # in a block, however short they are
KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text", ".raw": "text"}
PACKED = (".gz", ".zst")
SEPARATOR_HELP = (
    "a separator is the text that stands between two documents of a .txt file; "
    r"name yours with --separator, for example --separator '\n\n' for paragraphs"
)


def kind_of(path: Path) -> str | None:
    """Return "json", "parquet" or "text" by the ending, packed or not; None for other files.

    Example: a.jsonl.gz -> "json"; A.TXT -> "text"; README.md -> None
    """
    bare = path.with_suffix("") if packing_of(path) else path
    kind = KINDS.get(bare.suffix.lower())
    if kind == "parquet" and bare != path:
        return None  # Parquet is packed inside and must be read at any place
    return kind


def packing_of(path: Path) -> str:
    """Return ".gz" or ".zst", however it is spelled; empty for a file that is not packed."""
    ending = path.suffix.lower()
    return ending if ending in PACKED else ""


def _ignore(size: int) -> None:
    """Take no notice of how much was read."""


def unpacked(path: Path, on_read: Callable[[int], None] = _ignore) -> Iterator[bytes]:
    """Yield the content of a file in chunks; .gz and .zst, also of several frames, are unpacked.

    on_read is told how many bytes of the file each chunk took.

    Raises: ValueError for a damaged file, and for one that ends too early.
    """
    import zstandard

    new_unpacker = {
        ".gz": lambda: zlib.decompressobj(31),
        ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(),
    }.get(packing_of(path))
    if not new_unpacker:
        with path.open("rb") as file:
            while chunk := file.read(BLOCK_BYTES):
                on_read(len(chunk))
                yield chunk
        return
    unpacker = None
    with path.open("rb") as file:
        while chunk := file.read(READ_BYTES):
            on_read(len(chunk))
            # Files that were joined with cat have several frames: each takes its own unpacker.
            while chunk:
                unpacker = unpacker or new_unpacker()
                try:
                    yield unpacker.decompress(chunk)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise ValueError(f"{path} is damaged ({error}); fetch it again") from None
                chunk = b""
                if unpacker.eof:
                    chunk = unpacker.unused_data
                    unpacker = None
    if unpacker:
        raise ValueError(f"{path} ends before its compressed data does; fetch it again")


def cut(path: Path, separator: bytes, on_read: Callable[[int], None] = _ignore) -> Iterator[bytes]:
    """Yield the content of a file, cut at separators into runs of whole documents.

    Example, with a block of 5 bytes: b"ab\\ncd\\nef\\n" at b"\\n" -> b"ab\\ncd", b"ef"
    """
    buffer = bytearray()
    searched = 0
    for chunk in unpacked(path, on_read):
        buffer += chunk
        if len(buffer) < BLOCK_BYTES:
            continue
        # What was searched before has no separator, but one may begin at its very end.
        at = buffer.rfind(separator, max(0, searched - len(separator)))
        if at >= 0:
            yield bytes(buffer[:at])
            del buffer[: at + len(separator)]
        elif len(buffer) > MAX_LINE_BYTES:
            message = f"{path}: no {separator.decode()!r} in {len(buffer):,} bytes"
            raise ValueError(f"{message}; {SEPARATOR_HELP}")
        searched = len(buffer)
    rest = bytes(buffer).rstrip(b"\r\n")
    if rest:
        yield rest.removesuffix(separator)


def parquet_rows(
    path: Path, field: str, skip: int, on_read: Callable[[int], None] = _ignore
) -> Iterator[int | list]:
    """Yield the texts of a Parquet file; for row groups that are passed over, their number of rows.

    Example: three groups of 100 rows and skip=150 -> 100, the texts of group 2, those of group 3.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            if field not in columns:
                message = f"{path} has no column {field!r}; name one with --field"
                raise ValueError(f"{message}: {', '.join(columns)}")
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                # Groups are as many bytes as they have rows, near enough for a progress line.
                on_read(path.stat().st_size * rows // file.metadata.num_rows)
                if rows <= skip:
                    skip -= rows
                    yield rows
                    continue
                skip = 0
                batches = file.iter_batches(ROWS_AT_A_TIME, row_groups=[group], columns=[field])
                yield from grouped(text for batch in batches for text in batch[0].to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from None


def grouped(texts: Iterable) -> Iterator[list]:
    """Yield lists of texts, each of about a block's size."""
    batch = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text) if isinstance(text, str) else 1
        if size >= BLOCK_BYTES or len(batch) == MOST_TEXTS:
            yield batch
            batch = []
            size = 0
    if batch:
        yield batch
