"""Where documents come from: files and folders of text, data sets of the hub, or an iterable.

A source is a row of documents, numbered from 0. It is read in blocks of about a megabyte, which
are small enough to hand to a worker process and know where they come from:

    Block("a.jsonl", "line", offset=2, first=12, count=2, content=b'{"text": …}\\n{"text": …}', …)

are the lines 3 and 4 of a.jsonl, the documents 12 and 13 of the source. Blank lines, and nothing
between two separators, are not documents: they are passed over and have no number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from data import containers, hub_sets
from data.hub_sets import HUB_SETS

SEPARATOR = "<|endoftext|>"
EMPTY = "the document is empty"
TOO_LONG = "a document"
# Files that come with a data set and are not documents of it, by their names without endings.
NOT_DOCUMENTS = {
    *("readme", "license", "licence", "notice", "copying", "citation", "authors", "changelog"),
    *("dataset_info", "dataset_infos", "dataset_dict", "checksums", "sha256sums", "manifest"),
}


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
    places: tuple[int, ...] = ()  # of each document in its file, where blank ones stood between

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
        offset = self.offset if self.places else self.offset + begin
        if self.separator:
            content = self.separator.join(content)
        return replace(
            self,
            content=content,
            count=end - begin,
            offset=offset,
            places=self.places[begin:end],
            first=self.first + begin,
        )

    def texts(self, field: str, max_bytes: int) -> list[str | ValueError]:
        """Return the documents; in place of each unusable one, an error that names it and why."""
        texts = []
        places = self.places or range(self.count)
        for number, part in zip(places, self.parts(), strict=True):
            text, fault = self._text(part, field, max_bytes)
            place = f"{self.place}, {self.unit} {self.offset + number + 1}"
            texts.append(ValueError(f"{place}: {fault}") if fault else text)
        return texts

    def _text(self, part, field: str, max_bytes: int) -> tuple[str, str]:
        """Return the text of a document and an empty fault, or the fault that makes it unusable."""
        try:
            if self.unit == "line":
                row = json.loads(part)
                if not isinstance(row, dict) or field not in row:
                    return "", _missing_key(row, field)
                text = row[field]
            elif isinstance(part, bytes):
                text = part.decode().strip("\r\n")
            else:
                text = part
            fault = _fault(text, field, max_bytes)
            if fault.startswith(TOO_LONG) and self.unit == "document" and self.separator:
                fault = f"{fault}; {containers.SEPARATOR_HELP}"
            return text, fault
        except UnicodeEncodeError as error:
            return "", f"lone surrogate at character {error.start}"
        except UnicodeDecodeError as error:
            return "", f"not UTF-8 at byte {error.start}"
        except (ValueError, RecursionError) as error:
            return "", f"not JSON ({error})"


def _missing_key(row, field: str) -> str:
    """Say what a line of JSON has instead of the text."""
    if not isinstance(row, dict):
        return f"a line must be an object with the key {field!r}, not {type(row).__name__}"
    keys = ", ".join(map(str, row)) or "none"
    return f"no key {field!r}; name the one that holds the text with --field: {keys}"


def _fault(text, field: str, max_bytes: int) -> str:
    """Say why a text cannot be a document; empty when it can.

    Raises: UnicodeEncodeError for a lone surrogate, which UTF-8 cannot write.
    """
    if not isinstance(text, str):
        return f"{field!r} must be a string, not {type(text).__name__}"
    if not text.strip():
        return EMPTY
    if "\0" in text:
        return f"NUL at character {text.index(chr(0))}"
    size = len(text.encode())
    if size > max_bytes:
        return f"{TOO_LONG} of {size / 1e6:.1f} MB; at most {max_bytes / 1e6:.1f} are taken"
    return ""


def list_files(path: Path) -> list[Path]:
    """Return the files of a source in reading order: by their path below it.

    A file that is named is read whatever its name; of a folder, README and its like are left out.

    Raises: FileNotFoundError when nothing there can be read.
    """
    files = [path] if path.is_file() else [file for file in _files_below(path) if _is_text(file)]
    files = [file for file in files if containers.kind_of(file)]
    if not files:
        names = ", ".join([*containers.KINDS, *HUB_SETS])
        message = f"{path} is not a file or folder that can be read, nor a known data set"
        raise FileNotFoundError(f"{message}; give one of: {names}; .gz and .zst are unpacked")
    return files


def skipped_files(path: Path) -> list[Path]:
    """Return the files of a folder that are not read, hidden ones not mentioned."""
    if not path.is_dir():
        return []
    files = set(list_files(path))
    return [file for file in _files_below(path) if file not in files]


def _files_below(folder: Path) -> list[Path]:
    """Return all files, without those of hidden folders, such as a hub client's .cache."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [
        file
        for file in files
        if not any(part.startswith(".") for part in file.relative_to(folder).parts)
    ]


def _is_text(file: Path) -> bool:
    return file.name.partition(".")[0].lower() not in NOT_DOCUMENTS


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
    on_read: Callable[[int], None] = lambda size: None,
    documents_of_file: dict[str, int] | None = None,
) -> Iterator[Block]:
    """Yield the documents start..stop of a file, a folder, a hub data set, or an iterable.

    An iterable holds the documents from start on. on_read is told the bytes of files that were
    read; total_bytes says how many there are. A file that ends before start is not opened if
    documents_of_file says how many documents it has.
    """
    if not isinstance(source, str | Path):
        blocks = _string_blocks("iterable", source, start)
    elif source in HUB_SETS:
        texts = hub_sets.read_texts(HUB_SETS[source], start, val_documents, field, revision)
        blocks = _string_blocks(source, texts, start)
    else:
        files = list_files(Path(source))
        counts = documents_of_file or {}
        blocks = _file_blocks(files, start, field, separator.encode(), on_read, counts)
    for block in blocks:
        if stop is not None and block.first >= stop:
            return
        if part := block.slice(start, stop):
            yield part
        # Not one block further: it may be in another file, or a download away.
        if stop is not None and block.first + block.count >= stop:
            return


def total_bytes(source: str | Iterable[str]) -> int | None:
    """Return the bytes of a source's files; None for a data set of the hub, or an iterable."""
    if not isinstance(source, str | Path) or source in HUB_SETS:
        return None
    return sum(file.stat().st_size for file in list_files(Path(source)))


def _file_blocks(
    files: list[Path],
    start: int,
    field: str,
    separator: bytes,
    on_read: Callable[[int], None],
    counts: dict[str, int],
) -> Iterator[Block]:
    first = 0
    for path in files:
        if first + counts.get(str(path), start + 1) <= start:
            first += counts[str(path)]
            on_read(path.stat().st_size)
            continue
        if path.stat().st_size == 0:
            raise ValueError(f"{path} has 0 bytes; fetch it again, or remove it")
        if containers.kind_of(path) == "parquet":
            blocks = _parquet_blocks(path, first, field, start - first, on_read)
        elif containers.kind_of(path) == "json":
            blocks = _cut_blocks(path, first, "line", b"\n", on_read)
        else:
            blocks = _cut_blocks(path, first, "document", separator, on_read)
        for block in blocks:
            # A count stands for rows that were passed over.
            if isinstance(block, int):
                first += block
                continue
            yield block
            first += block.count


def _parquet_blocks(
    path: Path, first: int, field: str, skip: int, on_read: Callable[[int], None]
) -> Iterator[Block | int]:
    offset = 0
    for rows in containers.parquet_rows(path, field, skip, on_read):
        if isinstance(rows, int):
            offset += rows
            yield rows
            continue
        yield Block(str(path), "row", offset, first + offset, len(rows), rows)
        offset += len(rows)


def _cut_blocks(
    path: Path, first: int, unit: str, separator: bytes, on_read: Callable[[int], None]
) -> Iterator[Block]:
    offset = 0  # in the file, blank lines included: errors name lines as an editor counts them
    for content in containers.cut(path, separator, on_read):
        parts = content.split(separator)
        places = [place for place, part in enumerate(parts) if part and not part.isspace()]
        if len(places) == len(parts):
            yield Block(str(path), unit, offset, first, len(parts), content, separator)
        elif places:
            kept = separator.join(parts[place] for place in places)
            count = len(places)
            yield Block(
                str(path), unit, offset, first, count, kept, separator, places=tuple(places)
            )
        first += len(places)
        offset += len(parts)


def _string_blocks(place: str, texts: Iterable[str], start: int) -> Iterator[Block]:
    for batch in containers.grouped(texts):
        yield Block(place, "document", start, start, len(batch), batch)
        start += len(batch)
