"""The tokenizer of a build: copied, trained on training text, or refused."""

import pytest

from data import tokenizers
from tests.data.conftest import TEXTS, VAL_DOCUMENTS, run_build, texts_in


def test_a_trained_tokenizer_never_sees_validation(tmp_path, source, monkeypatch):
    """bpe:N trains on the first training documents, states how many, and repeats itself."""
    seen, train = [], tokenizers.train_bpe
    monkeypatch.setattr(
        tokenizers, "train_bpe", lambda docs, *rest: train(seen.extend(docs) or seen, *rest)
    )
    told = run_build(source, tmp_path / "out", "bpe:320", "--sample-mb", 0.002, "--caseops")
    assert (
        seen == TEXTS[VAL_DOCUMENTS : VAL_DOCUMENTS + len(seen)]
        and 0 < len(seen) < len(TEXTS) - VAL_DOCUMENTS
    )
    sample_bytes = sum(len(text.encode()) for text in seen)
    assert told["tokenizer"]["trained_on"] == {"documents": len(seen), "bytes": sample_bytes}
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]


def test_a_text_without_separators_says_what_a_separator_is(tmp_path):
    """It is one document, which validation takes: none is left to train on."""
    source = tmp_path / "one.txt"
    source.write_text("no separators at all\n")
    message = "one.txt has no document beyond the 1 of --val-documents.*a separator is the text"
    with pytest.raises(ValueError, match=message):
        run_build(source, tmp_path / "out", "bpe:320", val_documents=1)
    rows = tmp_path / "one.JSONL"
    rows.write_text('{"text": "one"}\n')
    with pytest.raises(ValueError, match="a tokenizer on; lower --val-documents, or give more"):
        run_build(rows, tmp_path / "out", "bpe:320", val_documents=1)


def test_a_wrong_column_is_named_before_a_tokenizer_is_trained(tmp_path):
    """Not blamed on separators: every line is at fault, so no document was seen before it."""
    source = tmp_path / "wrong.jsonl"
    source.write_text('{"id": 1, "body": "some text"}\n' * 99)
    with pytest.raises(ValueError, match="no key 'text'; name .* with --field: id, body"):
        run_build(source, tmp_path / "out", "bpe:320")
