"""Blocks to tokenised documents: the example of the docstring, marks, faults and selection."""

import numpy as np
import pytest

from data import tokenizers
from data.documents import Request, tokenize
from data.manifest import hash_document
from data.sources import Block
from tests.conftest import MERGES, write_vocabulary

BYTES = Request("x", {"kind": "bytes", "caseops": False}, 0)


def block(*texts, first=7) -> Block:
    return Block("a.txt", "document", 0, first, len(texts), list(texts))


def test_two_documents_as_bytes():
    """Every row of the docstring's example."""
    docs = tokenize(block("ab", "c"), tokenizers.Bytes(), BYTES)
    assert docs.number_D.tolist() == [7, 8] and docs.end == 9
    assert docs.hash_D.tolist() == [hash_document("ab"), hash_document("c")]
    assert docs.raw_bytes_D.tolist() == [2, 1] and docs.length_D.tolist() == [3, 2]
    assert docs.tokens_T.tolist() == [1, 101, 102, 1, 103]
    assert docs.bytes_T.tolist() == [0, 1, 1, 0, 1]
    assert not docs.changed_D.any() and docs.faults == ()


def test_marks_after_documents_begin_the_next_behind_them(tmp_path):
    """A document then ends with its mark, and its length counts it."""
    pytest.importorskip("tokenizers")
    model = tokenizers.Gpt2.load(write_vocabulary(tmp_path / "bpe", MERGES), "after")
    docs = tokenize(block("ab", "c"), model, BYTES)
    assert docs.length_D.tolist() == [3, 2]
    assert docs.tokens_T[[2, 4]].tolist() == [model.bos_id] * 2
    assert not docs.changed_D.any()


def test_bad_documents_become_faults_and_the_others_keep_their_numbers():
    """Also where no good one is left."""
    docs = tokenize(block("ab", "", "c", "d\0"), tokenizers.Bytes(), BYTES)
    assert docs.number_D.tolist() == [7, 9] and docs.end == 11
    assert [number for number, _ in docs.faults] == [8, 10]
    assert "a.txt, document 2: the document is empty" in docs.faults[0][1]
    nothing = tokenize(block(" "), tokenizers.Bytes(), BYTES)
    assert len(nothing) == 0 and len(nothing.tokens_T) == 0 and nothing.end == 8


def test_selection_takes_whole_documents():
    """Tokens and bytes go with their documents; all of them is the same object."""
    docs = tokenize(block("ab", "c", "def"), tokenizers.Bytes(), BYTES)
    kept = docs.select(np.array([True, False, True]))
    assert kept.number_D.tolist() == [7, 9]
    assert kept.tokens_T.tolist() == [1, 101, 102, 1, 104, 105, 106]
    assert kept.bytes_T.tolist() == [0, 1, 1, 0, 1, 1, 1]
    assert docs.select(np.ones(3, bool)) is docs
