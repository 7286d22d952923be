"""Where documents come from: files and folders of text, and data sets of the Hugging Face hub.

A source is read in blocks of about a megabyte. Files are only cut here, at the ends of documents;
what is expensive, parsing and checking, is left to whoever calls Block.texts, in any process.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

BLOCK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 26
SEPARATOR = "<|endoftext|>"
KINDS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".txt": "text", ".raw": "text"}
EMPTY = "the document is empty"
ARTICLE = re.compile(r" = [^=].* = \n?")  # the title line of a WikiText article


@dataclass(frozen=True)
class HubSet:
    """A data set of the hub, and how many of its documents are for validation."""

    repository: str
    val_documents: int
    config: str | None = None
    data_files: str | None = None
    val_split: str | None = None  # validation documents come from here, else from the front
    articles: bool = False  # rows are lines of articles
    val_only: bool = False  # the validation split is all that is read


HUB_SETS = {
    # The documents that the challenge selected, in its order.
    "fineweb": HubSet(
        "willdepueoai/parameter-golf", 50_000, data_files="datasets/docs_selected.jsonl"
    ),
    "fineweb-edu": HubSet("HuggingFaceFW/fineweb-edu", 50_000, config="sample-10BT"),
    "c4": HubSet("allenai/c4", 50_000, config="en", val_split="validation"),
    "tinystories": HubSet("roneneldan/TinyStories", 21_990, val_split="validation"),
    "wikitext-103": HubSet(
        "Salesforce/wikitext",
        60,
        config="wikitext-103-raw-v1",
        val_split="validation",
        articles=True,
    ),
    "wikitext-103-test": HubSet(
        "Salesforce/wikitext", 1, config="wikitext-103-raw-v1", val_split="test", val_only=True
    ),
}


@dataclass(frozen=True)
class Block:
    """Some documents of a source, as they were read."""

    where: str  # file or data set
    unit: str  # what the documents of that file are: line, document, row
    offset: int  # documents of that file before these
    first: int  # documents of the whole source before these
    count: int
    data: bytes | list  # bytes: documents with separators between them
    separator: bytes = b""

    def slice(self, start: int, stop: int | None) -> Block | None:
        """The part of this block between two places in the whole source."""
        begin = max(0, start - self.first)
        end = self.count if stop is None else min(self.count, stop - self.first)
        if begin >= end:
            return None
        if (begin, end) == (0, self.count):
            return self
        parts = self.data.split(self.separator) if self.separator else self.data
        data = self.separator.join(parts[begin:end]) if self.separator else parts[begin:end]
        moved = {"offset": self.offset + begin, "first": self.first + begin}
        return replace(self, data=data, count=end - begin, **moved)

    def texts(self, field: str, max_bytes: int) -> list[str | ValueError]:
        """The documents; in place of each that cannot be used, an error that says where and why."""
        parts = self.data.split(self.separator) if self.separator else self.data
        return [self._text(i, part, field, max_bytes) for i, part in enumerate(parts)]

    def _text(self, index: int, part, field: str, max_bytes: int) -> str | ValueError:
        what = ""
        try:
            if self.unit == "line":
                part = json.loads(part)
                part = part.get(field) if isinstance(part, dict) else None
            elif isinstance(part, bytes):
                part = part.decode().strip("\r\n")
            if not isinstance(part, str):
                what = f"{field!r} must be a string"
            elif not part.strip():
                what = EMPTY
            elif "\0" in part:
                what = f"NUL at character {part.index(chr(0))}"
            elif len(part.encode()) > max_bytes:
                size_mb = len(part.encode()) / 1e6
                what = f"a document of {size_mb:.1f} MB; at most {max_bytes / 1e6:.1f} are taken"
        except UnicodeEncodeError as error:
            what = f"lone surrogate at character {error.start}"
        except UnicodeDecodeError as error:
            what = f"no UTF-8 at byte {error.start}"
        except (ValueError, RecursionError) as error:
            what = f"no JSON ({error})"
        place = f"{self.where}, {self.unit} {self.offset + index + 1}"
        return ValueError(f"{place}: {what}") if what else part


def list_files(path: Path) -> list[Path]:
    """The files of a source in reading order: by their path below it.

    Raises: FileNotFoundError when there is nothing that can be read.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if _kind(file)]
    if not files:
        names = ", ".join([*KINDS, *HUB_SETS])
        what = f"{path} is no file or folder that can be read, and no known data set"
        raise FileNotFoundError(f"{what}; give one of: {names}; .gz and .zst are unpacked")
    return files


def _kind(path: Path) -> str | None:
    bare = path.with_suffix("") if path.suffix in (".gz", ".zst") else path
    kind = KINDS.get(bare.suffix)
    return None if kind == "parquet" and bare != path else kind


def describe(source: str) -> dict:
    """What tells a source from another one: the sizes of its files, or the revision on the hub."""
    if source in HUB_SETS:
        hub = HUB_SETS[source]
        return {"name": source, "repository": hub.repository, "revision": _revision(hub)}
    path = Path(source)
    files = {str(file.relative_to(path.parent)): file for file in list_files(path)}
    return {"name": path.name, "files": {name: _fingerprint(file) for name, file in files.items()}}


def _fingerprint(path: Path) -> dict:
    """Size of a file and hash of its first and last block: cheap, and the same on every machine."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(BLOCK_BYTES)
        file.seek(max(0, size_bytes - BLOCK_BYTES))
        ends += file.read(BLOCK_BYTES)
    return {"bytes": size_bytes, "sha256_of_ends": hashlib.sha256(ends).hexdigest()}


def read(
    source: str | Iterable[str],
    start: int = 0,
    stop: int | None = None,
    *,
    field: str = "text",
    separator: str = SEPARATOR,
    val_documents: int = 0,
    revision: str | None = None,
) -> Iterator[Block]:
    """The documents start..stop of a file, a folder, a hub data set, or an iterable of strings.

    An iterable holds the documents from start on.
    """
    if not isinstance(source, str | Path):
        blocks = _string_blocks("documents given", source, start)
    elif source in HUB_SETS:
        rows = _hub_rows(HUB_SETS[source], start, val_documents, field, revision)
        blocks = _string_blocks(source, rows, start)
    else:
        blocks = _file_blocks(list_files(Path(source)), start, field, separator.encode())
    for block in blocks:
        if stop is not None and block.first >= stop:
            return
        if part := block.slice(start, stop):
            yield part


def _file_blocks(files: list[Path], start: int, field: str, separator: bytes) -> Iterator[Block]:
    first = 0
    for path in files:
        if path.stat().st_size == 0:
            raise ValueError(f"{path} has 0 bytes; fetch it again, or remove it")
        offset = 0
        kind = _kind(path)
        if kind == "parquet":
            pieces = _parquet_rows(path, field, start - first)
        else:
            pieces = _cut(path, b"\n" if kind == "json" else separator)
        for data in pieces:
            if isinstance(data, int):  # rows that were passed over
                offset, first = offset + data, first + data
                continue
            if kind == "parquet":
                block = Block(str(path), "row", offset, first, len(data), data)
            else:
                cut = b"\n" if kind == "json" else separator
                unit = "line" if kind == "json" else "document"
                block = Block(str(path), unit, offset, first, data.count(cut) + 1, data, cut)
            yield block
            offset, first = offset + block.count, first + block.count


def unpacked(path: Path) -> Iterator[bytes]:
    """The content of a file in chunks; .gz and .zst, also of several frames, are unpacked.

    Raises: ValueError for a damaged file, and for one that ends too early.
    """
    import zstandard

    unpackers = {
        ".gz": lambda: zlib.decompressobj(31),
        ".zst": lambda: zstandard.ZstdDecompressor(max_window_size=2**31).decompressobj(),
    }
    unpacker, stream = unpackers.get(path.suffix), None
    with path.open("rb") as file:
        while chunk := file.read(1 << 16 if unpacker else BLOCK_BYTES):
            if not unpacker:
                yield chunk
                continue
            while chunk:
                stream = stream or unpacker()
                try:
                    yield stream.decompress(chunk)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise ValueError(f"{path} is damaged ({error}); fetch it again") from None
                chunk = stream.unused_data if stream.eof else b""
                stream = None if stream.eof else stream
    if stream:
        raise ValueError(f"{path} ends before its compressed data does; fetch it again")


def _cut(path: Path, separator: bytes) -> Iterator[bytes]:
    """The content of a file, cut at separators into runs of whole documents."""
    buffer, searched = bytearray(), 0
    for chunk in unpacked(path):
        buffer += chunk
        if len(buffer) < BLOCK_BYTES:
            continue
        cut = buffer.rfind(separator, max(0, searched - len(separator)))
        if cut >= 0:
            yield bytes(buffer[:cut])
            del buffer[: cut + len(separator)]
        elif len(buffer) > MAX_LINE_BYTES:
            what = f"{path}: no {separator.decode()!r} in {len(buffer):,} bytes"
            raise ValueError(f"{what}; name the mark between documents with --separator")
        searched = len(buffer)
    rest = bytes(buffer).rstrip(b"\r\n")
    if rest:
        yield rest.removesuffix(separator)


def _parquet_rows(path: Path, field: str, skip: int) -> Iterator[int | list]:
    """The texts of a Parquet file; for rows that can be passed over unread, their number."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise ImportError(f"{path}: Parquet needs pyarrow: pip install pyarrow") from None
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if field not in file.schema_arrow.names:
                names = ", ".join(file.schema_arrow.names)
                raise ValueError(f"{path} has no column {field!r}; name one with --field: {names}")
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if rows <= skip:
                    skip -= rows
                    yield rows
                    continue
                skip = 0
                batches = file.iter_batches(64, row_groups=[group], columns=[field])
                yield from _grouped(text for batch in batches for text in batch[0].to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}); fetch it again") from None


def _string_blocks(where: str, texts: Iterable[str], start: int) -> Iterator[Block]:
    for batch in _grouped(texts):
        yield Block(where, "document", start, start, len(batch), batch)
        start += len(batch)


def _grouped(texts: Iterable) -> Iterator[list]:
    """Lists of about a block's size."""
    batch, size = [], 0
    for text in texts:
        batch.append(text)
        size += len(text) if isinstance(text, str) else 1
        if size >= BLOCK_BYTES or len(batch) == 4096:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _revision(hub: HubSet) -> str:
    """The commit that the data set's main branch is at, so that a resumed build reads the same."""
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("data sets of the hub need: pip install datasets") from None
    return huggingface_hub.HfApi().dataset_info(hub.repository).sha


def _hub_rows(
    hub: HubSet, start: int, val_documents: int, field: str, revision: str | None
) -> Iterator[str]:
    """Texts of a streamed data set from document start on, validation documents first."""
    try:
        import datasets
    except ImportError:
        raise ImportError("data sets of the hub need: pip install datasets") from None

    def stream(split: str, skip: int) -> Iterator[str]:
        options = {"name": hub.config, "data_files": hub.data_files, "revision": revision}
        rows = datasets.load_dataset(hub.repository, split=split, streaming=True, **options)
        if hub.articles:
            texts = join_articles(row[field] for row in rows)
            yield from islice(texts, skip, None)
        else:
            for batch in rows.skip(skip).iter(256):
                yield from batch[field]

    if not hub.val_split:
        yield from stream("train", start)
        return
    if start < val_documents:
        yield from islice(stream(hub.val_split, start), val_documents - start)
    if hub.val_only:
        return
    yield from stream("train", max(0, start - val_documents))


def join_articles(lines: Iterable[str]) -> Iterator[str]:
    """WikiText's articles, each from its title line to the next one."""
    article: list[str] = []
    for line in lines:
        # A title stands after an empty line; the same form inside a paragraph does not.
        if ARTICLE.fullmatch(line) and (not article or not article[-1].strip()):
            if "".join(article).strip():
                yield "".join(article)
            article = []
        article.append(line)
    if "".join(article).strip():
        yield "".join(article)
