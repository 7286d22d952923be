"""Tokenised documents, and what decides how they are made."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from data import sources
from data.manifest import hash_document

SHARD_TOKENS = 100_000_000  # as published shards have
MAX_DOCUMENT_MB = 10.0


@dataclass(frozen=True)
class Request:
    """What decides the content of a part: equal requests over one source give equal shards."""

    name: str  # of the shard files
    tokenizer: dict  # the manifest's entry
    val_documents: int
    shard_tokens: int = SHARD_TOKENS
    field: str = "text"
    separator: str = sources.SEPARATOR
    max_document_mb: float = MAX_DOCUMENT_MB
    skip_bad: bool = False
    split: str = "first"  # the rule, see corpora.py; the numbers are those of "tokens"
    train_tokens: int = 0
    val_tokens: int = 0

    @property
    def needs_sidecar(self) -> bool:
        """Whether no table of pieces can tell the bytes of the original text."""
        return self.tokenizer["caseops"] or self.tokenizer["kind"] != "sentencepiece"


@dataclass(frozen=True)
class Documents:
    """Tokenised documents (D) and their tokens (T), in source order.

    Two documents, "ab" and "c", as bytes:

        number_D   7 8        hash_D 51… 3f…       raw_bytes_D  2 1
        length_D   3 2        changed_D  no no
        tokens_T   1 101 102 1 103
        bytes_T    0   1   1 0   1
    """

    number_D: np.ndarray  # in the source
    hash_D: np.ndarray
    raw_bytes_D: np.ndarray
    changed_D: np.ndarray
    length_D: np.ndarray
    tokens_T: np.ndarray
    bytes_T: np.ndarray
    end: int  # number of the first document behind them, good or not
    faults: tuple[tuple[int, str], ...] = ()  # a document's number, and what is wrong with it

    def __len__(self) -> int:
        return len(self.number_D)

    def select(self, keep_D: np.ndarray) -> Documents:
        if keep_D.all():
            return self
        keep_T = np.repeat(keep_D, self.length_D)
        return replace(
            self,
            number_D=self.number_D[keep_D],
            hash_D=self.hash_D[keep_D],
            raw_bytes_D=self.raw_bytes_D[keep_D],
            changed_D=self.changed_D[keep_D],
            length_D=self.length_D[keep_D],
            tokens_T=self.tokens_T[keep_T],
            bytes_T=self.bytes_T[keep_T],
        )


def tokenize(block: sources.Block, tokenizer, request: Request) -> Documents:
    """Tokenise a block; documents that cannot be used become faults."""
    checked = block.texts(request.field, int(request.max_document_mb * 1e6))
    good_D = np.array([isinstance(text, str) for text in checked], bool)
    texts = [text for text in checked if isinstance(text, str)]
    raw_bytes_D = np.array([len(text.encode()) for text in texts], np.int64)
    if texts:
        tokens_T, bytes_T = tokenizer.encode(texts)
    else:
        tokens_T = np.zeros(0, np.uint16)
        bytes_T = np.zeros(0, np.uint16)
    start_D, mark_free = _document_starts(tokens_T, tokenizer, len(texts), block.place)
    excess_D = np.zeros(0, np.int64)
    if texts:
        excess_D = np.add.reduceat(bytes_T, start_D, dtype=np.int64) - raw_bytes_D
    rows = np.split(tokens_T, start_D[1:])[: len(texts)]
    changed = [
        tokenizer.changed(text, ids_T[mark_free], excess)
        for text, ids_T, excess in zip(texts, rows, excess_D.tolist(), strict=True)
    ]
    faults = [
        (block.first + number, str(fault))
        for number, fault in enumerate(checked)
        if isinstance(fault, ValueError)
    ]
    return Documents(
        number_D=block.first + np.flatnonzero(good_D),
        hash_D=np.array([hash_document(text) for text in texts], np.uint64),
        raw_bytes_D=raw_bytes_D,
        changed_D=np.array(changed, bool),
        length_D=np.diff(start_D, append=len(tokens_T)),
        tokens_T=tokens_T,
        bytes_T=bytes_T,
        end=block.first + block.count,
        faults=tuple(faults),
    )


def _document_starts(
    tokens_T: np.ndarray, tokenizer, documents: int, place: str
) -> tuple[np.ndarray, slice]:
    """Return where documents start, and which of a document's tokens are not its BOS."""
    bos_D = np.flatnonzero(tokens_T == tokenizer.bos_id)
    assert len(bos_D) == documents, f"{place}: {len(bos_D)} BOS, {documents} documents"
    if getattr(tokenizer, "marks", "") == "after" and documents:
        # BOS ends a document: the next one starts behind it.
        return np.append(0, bos_D[:-1] + 1), slice(None, -1)
    return bos_D, slice(1, None)
