"""Where documents come from: files and folders of text, data sets of the hub, or an iterable.

A source is a row of documents, numbered from 0. It is read in blocks of about a megabyte, which
are small enough to hand to a worker process and know where they come from:

    Block("a.jsonl", "line", offset=2, first=12, count=2, content=b'{"text": …}\\n{"text": …}', …)

are the lines 3 and 4 of a.jsonl, the documents 12 and 13 of the source.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data import containers, hub_sets
from data.hub_sets import HUB_SETS

SEPARATOR = "<|endoftext|>"
EMPTY = "the document is empty"


@dataclass(frozen=True)
class Block:
    """Some documents of a source, as they were read."""

    place: str  # file or data set
    unit: str  # what the documents of that file are: line, document, row
    offset: int  # documents of that file before these
    first: int  # documents of the whole source before these
    count: int
    content: bytes | list  # bytes: documents with separators between them
    separator: bytes = b""

    def parts(self) -> list:
        return self.content.split(self.separator) if self.separator else self.content

    def slice(self, start: int, stop: int | None) -> Block | None:
        """Return the part of this block between two places in the whole source; None if empty."""
        begin = max(0, start - self.first)
        end = self.count if stop is None else min(self.count, stop - self.first)
        if begin >= end:
            return None
        if (begin, end) == (0, self.count):
            return self
        content = self.parts()[begin:end]
        if self.separator:
            content = self.separator.join(content)
        return replace(
            self,
            content=content,
            count=end - begin,
            offset=self.offset + begin,
            first=self.first + begin,
        )

    def texts(self, field: str, max_bytes: int) -> list[str | ValueError]:
        """Return the documents; in place of each unusable one, an error that names it and why."""
        texts = []
        for number, part in enumerate(self.parts()):
            text, fault = self._text(part, field, max_bytes)
            place = f"{self.place}, {self.unit} {self.offset + number + 1}"
            texts.append(ValueError(f"{place}: {fault}") if fault else text)
        return texts

    def _text(self, part, field: str, max_bytes: int) -> tuple[str, str]:
        """Return the text of a document and an empty fault, or the fault that makes it unusable."""
        try:
            if self.unit == "line":
                row = json.loads(part)
                text = row.get(field) if isinstance(row, dict) else None
            elif isinstance(part, bytes):
                text = part.decode().strip("\r\n")
            else:
                text = part
            return text, _fault(text, field, max_bytes)
        except UnicodeEncodeError as error:
            return "", f"lone surrogate at character {error.start}"
        except UnicodeDecodeError as error:
            return "", f"not UTF-8 at byte {error.start}"
        except (ValueError, RecursionError) as error:
            return "", f"not JSON ({error})"


def _fault(text, field: str, max_bytes: int) -> str:
    """Say why a text cannot be a document; empty when it can.

    Raises: UnicodeEncodeError for a lone surrogate, which UTF-8 cannot write.
    """
    if not isinstance(text, str):
        return f"{field!r} must be a string"
    if not text.strip():
        return EMPTY
    if "\0" in text:
        return f"NUL at character {text.index(chr(0))}"
    size = len(text.encode())
    if size > max_bytes:
        return f"a document of {size / 1e6:.1f} MB; at most {max_bytes / 1e6:.1f} are taken"
    return ""


def list_files(path: Path) -> list[Path]:
    """Return the files of a source in reading order: by their path below it.

    Raises: FileNotFoundError when nothing there can be read.
    """
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in files if containers.kind_of(file)]
    if not files:
        names = ", ".join([*containers.KINDS, *HUB_SETS])
        message = f"{path} is not a file or folder that can be read, nor a known data set"
        raise FileNotFoundError(f"{message}; give one of: {names}; .gz and .zst are unpacked")
    return files


def describe(source: str) -> dict:
    """Return what tells a source from another one: its files' sizes and ends, or its commit.

    Example: {"name": "a.jsonl", "files": {"a.jsonl": {"bytes": 812, "sha256_of_ends": "5d…"}}}
    """
    if source in HUB_SETS:
        hub_set = HUB_SETS[source]
        commit = hub_sets.current_commit(hub_set)
        return {"name": source, "repository": hub_set.repository, "revision": commit}
    path = Path(source)
    files = {str(file.relative_to(path.parent)): file for file in list_files(path)}
    return {"name": path.name, "files": {name: _fingerprint(file) for name, file in files.items()}}


def _fingerprint(path: Path) -> dict:
    """Return size and hash of first and last block: cheap, and the same on every machine."""
    size_bytes = path.stat().st_size
    with path.open("rb") as file:
        ends = file.read(containers.BLOCK_BYTES)
        file.seek(max(0, size_bytes - containers.BLOCK_BYTES))
        ends += file.read(containers.BLOCK_BYTES)
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
    """Yield the documents start..stop of a file, a folder, a hub data set, or an iterable.

    An iterable holds the documents from start on.
    """
    if not isinstance(source, str | Path):
        blocks = _string_blocks("iterable", source, start)
    elif source in HUB_SETS:
        texts = hub_sets.read_texts(HUB_SETS[source], start, val_documents, field, revision)
        blocks = _string_blocks(source, texts, start)
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
        if containers.kind_of(path) == "parquet":
            blocks = _parquet_blocks(path, first, field, start - first)
        elif containers.kind_of(path) == "json":
            blocks = _cut_blocks(path, first, "line", b"\n")
        else:
            blocks = _cut_blocks(path, first, "document", separator)
        for block in blocks:
            # A count stands for rows that were passed over.
            if isinstance(block, int):
                first += block
                continue
            yield block
            first += block.count


def _parquet_blocks(path: Path, first: int, field: str, skip: int) -> Iterator[Block | int]:
    offset = 0
    for rows in containers.parquet_rows(path, field, skip):
        if isinstance(rows, int):
            offset += rows
            yield rows
            continue
        yield Block(str(path), "row", offset, first + offset, len(rows), rows)
        offset += len(rows)


def _cut_blocks(path: Path, first: int, unit: str, separator: bytes) -> Iterator[Block]:
    offset = 0
    for content in containers.cut(path, separator):
        count = content.count(separator) + 1
        yield Block(str(path), unit, offset, first + offset, count, content, separator)
        offset += count


def _string_blocks(place: str, texts: Iterable[str], start: int) -> Iterator[Block]:
    for batch in containers.grouped(texts):
        yield Block(place, "document", start, start, len(batch), batch)
        start += len(batch)
