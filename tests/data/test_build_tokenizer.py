"""The tokenizer of a build: copied, trained on training text, or refused."""

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
