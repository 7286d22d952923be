"""Data sets of the Hugging Face hub that a build can read by name, streamed at one commit."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from data import hub_errors

ARTICLE = re.compile(r" = [^=].* = \n?")  # the title line of a WikiText article
ROWS_AT_A_TIME = 256
REASON_CHARACTERS = 300  # of a client's error: its text may be a whole page


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


WIKITEXT = {"repository": "Salesforce/wikitext", "config": "wikitext-103-raw-v1", "articles": True}
HUB_SETS = {
    # The documents that the challenge selected, in its order.
    "fineweb": HubSet(
        "willdepueoai/parameter-golf", 50_000, data_files="datasets/docs_selected.jsonl"
    ),
    "fineweb-edu": HubSet("HuggingFaceFW/fineweb-edu", 50_000, config="sample-10BT"),
    "c4": HubSet("allenai/c4", 50_000, config="en", val_split="validation"),
    "tinystories": HubSet("roneneldan/TinyStories", 21_990, val_split="validation"),
    "wikitext-103": HubSet(**WIKITEXT, val_documents=60, val_split="validation"),
    # The test text as lines, for the corpus of that name, which joins them itself.
    "wikitext-103-test": HubSet(
        **WIKITEXT | {"articles": False}, val_documents=1, val_split="test", val_only=True
    ),
}


def current_commit(hub_set: HubSet) -> str:
    """Return the commit that the main branch is at, so that a resumed build reads the same."""
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("data sets of the hub need: pip install datasets") from None
    try:
        return huggingface_hub.HfApi().dataset_info(hub_set.repository).sha
    except Exception as error:  # the client's errors have no common class
        raise _hub_failure(hub_set, error) from error


def read_texts(
    hub_set: HubSet, start: int, val_documents: int, field: str, revision: str | None
) -> Iterator[str]:
    """Yield the texts of a streamed data set from document start on, validation documents first.

    Example: with val_documents=2 and a validation split v0 v1 v2, the documents are
    v0 v1 t0 t1 t2 …; without one they are t0 t1 t2 …, and the first two validate.
    """
    try:
        import datasets
    except ImportError:
        raise ImportError("data sets of the hub need: pip install datasets") from None

    def stream(split: str, skip: int) -> Iterator[str]:
        try:
            rows = datasets.load_dataset(
                hub_set.repository,
                split=split,
                streaming=True,
                name=hub_set.config,
                data_files=hub_set.data_files,
                revision=revision,
            )
        except Exception as error:  # the client's errors have no common class
            raise _hub_failure(hub_set, error) from error
        if hub_set.articles:
            # Articles are counted, not rows, so rows cannot be skipped.
            texts = join_articles(_column(row, field, hub_set) for row in rows)
            yield from islice(texts, skip, None)
            return
        for batch in rows.skip(skip).iter(ROWS_AT_A_TIME):
            yield from _column(batch, field, hub_set)

    if not hub_set.val_split:
        yield from stream("train", start)
        return
    if start < val_documents:
        yield from islice(stream(hub_set.val_split, start), val_documents - start)
    if not hub_set.val_only:
        yield from stream("train", max(0, start - val_documents))


def _hub_failure(hub_set: HubSet, error: Exception) -> OSError:
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_CHARACTERS]
    help_text = hub_errors.remedy(error) or "try again"
    return OSError(f"{hub_set.repository} of the hub: {reason}; {help_text}")


def _column(row: dict, field: str, hub_set: HubSet):
    if field not in row:
        message = f"{hub_set.repository} has no column {field!r}; name one with --field"
        raise ValueError(f"{message}: {', '.join(row)}")
    return row[field]


def join_articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield WikiText's articles, each from its title line to the next one.

    Example: "", " = A = ", "", " text ", "", " = B = ", … -> the article A, then the article B.
    """
    article: list[str] = []
    for line in lines:
        # A title stands after an empty line; the same form inside a paragraph is not a title.
        after_empty_line = not article or not article[-1].strip()
        if after_empty_line and ARTICLE.fullmatch(line):
            if "".join(article).strip():
                yield "".join(article)
            article = []
        article.append(line)
    if "".join(article).strip():
        yield "".join(article)
