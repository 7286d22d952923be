"""A BPE model that keeps the first merges of a larger one."""

import io

import numpy as np
import pytest
import sentencepiece

from data import tokenizers
from data.smaller_bpe import keep_first_merges, read_fields, read_varint, varint
from tests.data.conftest import TEXTS, VAL_DOCUMENTS, run_build, texts_in


def pieces_of(model: bytes) -> list[tuple[str, float]]:
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = range(processor.vocab_size())
    return [(processor.id_to_piece(i), processor.get_score(i)) for i in ids]


def test_it_keeps_what_training_would_have_given(model):
    """The markers of CaseOps are user-defined symbols, which stay as bytes and characters do."""
    larger = pieces_of(model.read_bytes())
    smaller = keep_first_merges(model.read_bytes(), 296)
    assert len(larger) == 300 and len(pieces_of(smaller)) == 296
    dropped = [pair for pair in larger if pair not in pieces_of(smaller)]
    assert [pair for pair in larger if pair not in dropped] == pieces_of(smaller)
    merges = [pair for pair in larger if len(pair[0]) > 1 and pair[0][0] != "<"]
    assert dropped == merges[-4:] and len(merges) == 6
    # The same pieces as a training that ends there, whose characters have other scores.
    trained = pieces_of(tokenizers.train_bpe(TEXTS, 296, use_caseops=True))
    assert [piece for piece, _ in trained] == [piece for piece, _ in pieces_of(smaller)]
    sizes = [dict(read_fields(value))[4] for number, value in read_fields(smaller) if number == 2]
    assert sizes[-1] == 296


def test_a_build_cuts_its_model_and_says_of_which(tmp_path, source, model):
    manifest = run_build(source, tmp_path / "out", model, "--pieces", 296)
    entry = manifest["tokenizer"]
    uncut = run_build(source, tmp_path / "uncut", model)["tokenizer"]
    assert entry["first_merges_of"] == {"sha256": uncut["sha256"], "vocab_size": 300}
    assert entry["vocab_size"] == 296 and "first_merges_of" not in uncut
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]


@pytest.mark.parametrize("pieces", [-1, 0, 261, 301])
def test_too_few_or_too_many_pieces_are_refused(tmp_path, source, model, pieces):
    with pytest.raises(ValueError, match=rf"--pieces {pieces} must be \d+..300: bytes"):
        run_build(source, tmp_path / "out", model, "--pieces", pieces)
    assert list(tmp_path.glob(".out*")) == []


@pytest.mark.parametrize("tokenizer", ["bpe:300", "bytes", "gpt2"])
def test_only_a_file_can_be_cut(tmp_path, source, tokenizer):
    with pytest.raises(ValueError, match=f"--pieces 296 cuts a model's file, not {tokenizer}"):
        run_build(source, tmp_path / "out", tokenizer, "--pieces", 296)


def test_a_model_without_merges_is_refused():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, vocab_size=300, minloglevel=2,
        model_type="unigram", byte_fallback=True, hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="only a BPE model has"):
        keep_first_merges(model.getvalue(), 296)


def test_numbers_and_fields_are_read_as_they_are_written():
    for number in (0, 127, 128, 300, 2**40):
        assert read_varint(b"\xff" + varint(number), 1) == (number, 1 + len(varint(number)))
    assert varint(300) == b"\xac\x02"
    message = b"\x08\x96\x01" + b"\x12\x02hi" + b"\x1d" + np.float32(1).tobytes()
    message += b"\x21" + np.float64(1).tobytes()
    assert [value for _, value in read_fields(message)] == [
        150, b"hi", np.float32(1).tobytes(), np.float64(1).tobytes()
    ]  # fmt: skip
