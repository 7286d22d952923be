"""Corpora of the reference models: which text, in which order, how marked, how split.

A corpus is data; build.py makes all of them the same way. What they ask of the source is here.
The rules with a two-file example, a.json and b.json with the stories A1 A2 and B1 B2 B3:

    split="first"         the first N documents validate: A1 | A2 B1 B2 B3 (N=1)
    split="first file"    a file validates: A1 A2 | B1 B2 B3, each file shuffled by itself
    split="tokens"        one stream of tokens, cut where it must be: the first train, the next
                          validate
    split="whole"         all of it is one text, and validates
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import containers, sources
from data.hub_sets import HUB_SETS

NO_LIMIT = 1 << 40  # bytes of a document; parts.py has the limit


@dataclass(frozen=True)
class Corpus:
    """What one data set asks of a build; the defaults are those of plain documents."""

    field: str = "text"
    marks: str = "before"  # one of tokenizers.MARKS
    split: str = "first"  # a manifest's rule, see above
    strip: bool = False
    shuffle_seed: int | None = None  # each file's documents, with its place in its split added
    train_tokens: int = 0  # with split="tokens"
    val_tokens: int = 0


CORPORA = {
    "documents": Corpus(),
    # The archive with all data: JSON arrays, of which the first is validation.
    "tinystories": Corpus(field="story", split="first file", strip=True, shuffle_seed=1337),
    "c4": Corpus(marks="around"),
    "fineweb-edu": Corpus(
        marks="after", split="tokens", train_tokens=10_000_000, val_tokens=1_000_000
    ),
    # The raw test file, for evaluation alone.
    "wikitext-103": Corpus(split="whole"),
}


def arrange(source: str, corpus: Corpus, field: str, about: dict) -> tuple[Iterator, int] | None:
    """Return the documents in the corpus's own order, and how many of the first validate.

    None where the corpus takes them as the source has them. Raises: as the functions below.
    """
    if corpus.split == "first file":
        files = shuffled_files(source, corpus, field)
        val_texts = next(files)
        return _chained(val_texts, files), len(val_texts)
    if corpus.split == "whole":
        return iter([joined_lines(source, field, about.get("revision"))]), 1
    return None


def _chained(val_texts: list, files: Iterator[list]) -> Iterator:
    yield from val_texts
    for texts in files:
        yield from texts


def shuffled_files(source: str, corpus: Corpus, field: str) -> Iterator[list]:
    """Yield the documents of each file, by name: validation first, each in its own random order.

    The seed is that of the corpus for validation and for the first training file, one more for
    each further file, since the published shards were shuffled by their place in their split.

    Raises: ValueError where there are not two files at least.
    """
    if source in HUB_SETS:
        message = f"{source} of the hub has no files to split by"
        raise ValueError(f"{message}; unpack the archive of all its data, and name that folder")
    paths = sources.list_files(Path(source))
    if len(paths) < 2:
        message = f"{source} has {len(paths)} file; the first validates, the others train"
        raise ValueError(f"{message}: give a folder with two or more")
    for number, path in enumerate(paths):
        texts = read_file(path, field)
        if corpus.strip:
            texts = [text.strip() if isinstance(text, str) else text for text in texts]
        if corpus.shuffle_seed is not None:
            place_in_split = max(0, number - 1)
            random.Random(corpus.shuffle_seed + place_in_split).shuffle(texts)
        yield texts


def read_file(path: Path, field: str) -> list:
    """Return the documents of one file: a JSON array of objects, or what sources.py reads.

    A document that cannot be used is None: the build refuses it by its number, not here.

    Raises: ValueError naming the file.
    """
    if path.name.lower().endswith((".json", ".json.gz", ".json.zst")):
        content = b"".join(containers.unpacked(path))
        if content.lstrip()[:1] == b"[":
            try:
                return [row.get(field) for row in json.loads(content)]
            except (ValueError, AttributeError) as error:
                message = f"{path} is not a JSON array of objects ({error}); fetch it again"
                raise ValueError(message) from None
    blocks = sources.read(path, field=field)
    texts = [text for block in blocks for text in block.texts(field, NO_LIMIT)]
    return [None if isinstance(text, ValueError) else text for text in texts]


def joined_lines(source: str, field: str, revision: str | None) -> str:
    """Return the lines of a source that are not blank, without their ends, a blank line between.

    Example: " = A = \\n", " \\n", " text \\n" -> " = A = \\n\\n text "

    Raises: ValueError for a line that cannot be read; FileNotFoundError.
    """
    blocks = sources.read(
        source, field=field, separator="\n", val_documents=NO_LIMIT, revision=revision
    )
    lines = []
    for block in blocks:
        for line in block.texts(field, NO_LIMIT):
            if isinstance(line, str):
                lines.append(line.strip("\r\n"))
            elif not str(line).endswith(sources.EMPTY):
                raise line
    return "\n\n".join(lines)
