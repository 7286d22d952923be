"""Recipes of the reference models' data: which text, in which order, how marked, how split.

A recipe is data; build.py makes all of them the same way. What they ask of the source is here.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data import sources

NO_LIMIT = 1 << 40  # bytes of a document; build.py has the limit


@dataclass(frozen=True)
class Recipe:
    """What one data set asks of a build; the defaults are those of a build without a recipe.

    split is a manifest's rule: "first" documents validate, or those of the "first file"; the first
    "tokens" train and the next ones validate, cut where they end; or the source is one text, and
    the "whole" of it validates.
    """

    field: str = "text"
    marks: str = "before"  # one of tokenizers.MARKS
    split: str = "first"
    strip: bool = False
    shuffle_seed: int | None = None  # each file's documents, with its place in its split added
    train_tokens: int = 0
    val_tokens: int = 0


RECIPES = {
    "documents": Recipe(),
    # The archive with all data: JSON arrays, of which the first is validation.
    "tinystories": Recipe(field="story", split="first file", strip=True, shuffle_seed=1337),
    "c4": Recipe(marks="around"),
    "fineweb-edu": Recipe(
        marks="after", split="tokens", train_tokens=10_000_000, val_tokens=1_000_000
    ),
    # The raw test file, for evaluation alone.
    "wikitext-103": Recipe(split="whole"),
}


def read_file(path: Path, field: str) -> list:
    """The documents of one file: a JSON array of objects, or what sources.py reads.

    Raises: ValueError naming the file, and the line of a document that cannot be used.
    """
    if path.name.endswith((".json", ".json.gz", ".json.zst")):
        data = b"".join(sources.unpacked(path))
        if data.lstrip()[:1] == b"[":
            try:
                return [row.get(field) for row in json.loads(data)]
            except (ValueError, AttributeError) as error:
                what = f"{path} is no JSON array of objects ({error}); fetch it again"
                raise ValueError(what) from None
    blocks = sources.read(path, field=field)
    texts = [text for block in blocks for text in block.texts(field, NO_LIMIT)]
    return [None if isinstance(text, ValueError) else text for text in texts]


def shuffled_files(source: str, recipe: Recipe, field: str) -> Iterator[list]:
    """The documents of each file, by name: validation first, each file in its own random order.

    Raises: ValueError where there are not two files at least.
    """
    if source in sources.HUB_SETS:
        what = f"{source} of the hub has no files to split by"
        raise ValueError(f"{what}; unpack the archive of all its data, and name that folder")
    paths = sources.list_files(Path(source))
    if len(paths) < 2:
        what = f"{source} has {len(paths)} file; the first validates, the others train"
        raise ValueError(f"{what}: give a folder with two or more")
    for number, path in enumerate(paths):
        texts = read_file(path, field)
        if recipe.strip:
            texts = [text.strip() if isinstance(text, str) else text for text in texts]
        if recipe.shuffle_seed is not None:
            random.Random(recipe.shuffle_seed + max(0, number - 1)).shuffle(texts)
        yield texts


def joined_lines(source: str, field: str, revision: str | None) -> str:
    """The lines of a source that are not blank, without their ends, a blank line between them.

    Raises: ValueError for a line that cannot be read; FileNotFoundError.
    """
    options = {"field": field, "separator": "\n", "val_documents": NO_LIMIT, "revision": revision}
    lines = []
    for block in sources.read(source, **options):
        for line in block.texts(field, NO_LIMIT):
            if isinstance(line, str):
                lines.append(line.strip("\r\n"))
            elif not str(line).endswith(sources.EMPTY):
                raise line
    return "\n\n".join(lines)


def arrange(source: str, recipe: Recipe, field: str, about: dict) -> tuple[Iterator, int] | None:
    """The documents in the recipe's own order, and how many of the first validate.

    None where the recipe takes them as the source has them. Raises: as the functions above.
    """
    if recipe.split == "first file":
        files = shuffled_files(source, recipe, field)
        first = next(files)
        rest = (text for texts in files for text in texts)
        return (text for part in (first, rest) for text in part), len(first)
    if recipe.split == "whole":
        return iter([joined_lines(source, field, about.get("revision"))]), 1
    return None
