"""Decoded text: right counts pass, and known miscounts are told by name."""

import numpy as np
import pytest

from data import tokenizers
from data.decoded_text import DecodedText, explain
from data.manifest import hash_document
from tests.data.conftest import TEXTS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "any.model"
    path.write_bytes(tokenizers.train_bpe(TEXTS, 300))
    return tokenizers.SentencePiece.load(path)


def test_right_counts_pass(tokenizer):
    """Total, hashes and round trips of every document."""
    tokens_T, bytes_T = tokenizer.encode(TEXTS)
    decoded = DecodedText(tokens_T, bytes_T, 1, False, tokenizer)
    assert decoded.miscounts == [] and decoded.round_trips == len(TEXTS)
    assert decoded.total == sum(len(text.encode()) for text in TEXTS)
    assert decoded.hashes == [hash_document(text) for text in TEXTS]


@pytest.mark.parametrize(
    "miscount, reason",
    [
        (lambda t, ids: t.table.leading_space_V[ids] * 1, "every leading space were counted twice"),
        (lambda t, ids: t.table.leading_space_V[ids] * 2, "every space were counted 3"),
        (
            lambda t, ids: np.array([2 * t.model.is_byte(i) for i in ids.tolist()]),
            "every byte piece were counted 3",
        ),
    ],
)
def test_known_miscounts_are_named(tokenizer, miscount, reason):
    """In the message of the document, and for the text as a whole."""
    tokens_T, bytes_T = tokenizer.encode(["one Ω two six", "three"])
    excess_T = miscount(tokenizer, tokens_T).astype(np.uint16)
    decoded = DecodedText(tokens_T, bytes_T + excess_T, 1, False, tokenizer)
    assert reason in decoded.miscounts[0]
    assert "document 0 has 14 bytes" in decoded.miscounts[0]
    assert reason in explain(int(excess_T.sum()), tokens_T, tokenizer)
    assert explain(int(excess_T.sum()) + 1, tokens_T, tokenizer) == ""
    assert explain(1, tokens_T, tokenizers.Bytes()) == ""


def test_cut_documents_at_the_ends_count_as_stored():
    """Where BOS ends documents, the first and last one may be cut within a character."""
    tokenizer = tokenizers.Bytes()
    tokens_T = np.array([5, 1, 101, 102, 1, 103])  # a cut one, "ab" behind its mark, a cut one
    bytes_T = np.array([1, 0, 1, 1, 0, 1])
    decoded = DecodedText(tokens_T, bytes_T, 1, True, tokenizer)
    assert decoded.total == 4 and decoded.hashes == [hash_document("ab")]
