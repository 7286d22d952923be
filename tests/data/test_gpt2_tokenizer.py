"""GPT-2's vocabulary from a folder: its bytes are exact, and what is not it is refused."""

import dataclasses

import numpy as np
import pytest

import evaluate
from data import gpt2_tokenizer, tokenizers
from tests.conftest import MERGES, write_vocabulary

HOSTILE = [
    "", " ", "  x\n\n\ty ", "é😀▁ ▁", "<|endoftext|> is text here", "ﬁ １ \u200b\u00a0\u00ad",
    "\x00\x7f\x1b[0m", "naïve Ġ Ċ", "'s 've 1234 " * 3, "नमस्ते 한국어",
]  # fmt: skip


def test_every_byte_has_one_character():
    """256 of them; the space is Ġ and a line end Ċ, as in the published file."""
    of = gpt2_tokenizer.byte_of_character()
    assert sorted(of.values()) == list(range(256))
    assert (of["Ġ"], of["Ċ"], of["A"], of["Ã"], of[chr(256 + 67)]) == (32, 10, 65, 0xC3, 0xAD)
    assert not any(char.isspace() for char in of)


def test_bytes_of_a_text_are_counted_exactly(tmp_path):
    """On hostile text: the table's sum is the UTF-8 length, and decoding gives the text back."""
    pytest.importorskip("tokenizers")
    folder = write_vocabulary(tmp_path / "bpe", MERGES)
    tokenizer = tokenizers.Gpt2.load(folder)
    table = gpt2_tokenizer.byte_table(folder, tokenizer.vocab_size)
    assert table.bos_id == tokenizer.bos_id == 256 + len(MERGES)
    tokens_T, bytes_T = tokenizer.encode(HOSTILE)
    counted_T = table.count(np.append(table.bos_id, tokens_T[:-1]), tokens_T)
    assert np.array_equal(counted_T, bytes_T)
    assert counted_T.sum() == sum(len(text.encode()) for text in HOSTILE)
    start_D = np.flatnonzero(tokens_T == tokenizer.bos_id)
    rows = np.split(tokens_T, start_D[1:])
    assert [tokenizer.decode(row_T) for row_T in rows] == HOSTILE  # the mark in a text is text
    assert tokenizer.encode([" the"])[0].tolist() == [table.bos_id, 258]


def test_bpb_is_that_of_the_text(tmp_path):
    """A model that knows nothing: V ways a token, over the bytes of the text.

    It would be worse behind a second mark; where documents are isolated it never sees one.
    """
    pytest.importorskip("tokenizers")
    import torch

    folder = write_vocabulary(tmp_path / "bpe", MERGES)
    tokenizer = tokenizers.Gpt2.load(folder)
    tokens_T, _ = tokenizer.encode(HOSTILE)
    V = tokenizer.vocab_size
    table = gpt2_tokenizer.byte_table(folder, V)

    def model(tokens_BT):
        logits_BTV = torch.zeros(*tokens_BT.shape, V)
        logits_BTV[..., 0] = 9.0 * ((tokens_BT == table.bos_id).cumsum(1) > 1)
        return logits_BTV

    alone, joined = (
        evaluate.score_windows(model, tokens_T, table, evaluate.Scheme(16, 16, isolate))
        for isolate in (True, False)
    )
    size = len("".join(HOSTILE).encode())
    assert alone.bpb == pytest.approx((len(tokens_T) - 1) * np.log2(V) / size, rel=1e-6)
    assert alone.bytes == joined.bytes == size and joined.bpb > 1.05 * alone.bpb


def test_windows_isolate_at_the_tables_own_mark():
    """A document starts at <|endoftext|>, wherever its id is; token 1 is an ordinary one."""
    tokens_T = np.array([9, 1, 2, 9, 1, 1, 9, 3])
    plan = evaluate.plan_windows(tokens_T, evaluate.Scheme(8, 8, True, 99), 9)
    assert plan[:, 0].tolist() == [0, 3, 6]


def test_a_path_is_a_folder_or_a_model(tmp_path, toy):
    """A SentencePiece file gives its own table; sizes must agree in both."""
    model = toy / "tokenizers/toy_1024_bpe.model"
    assert gpt2_tokenizer.byte_table(model, 1024).bos_id == evaluate.BOS_ID
    folder = write_vocabulary(tmp_path / "bpe")
    with pytest.raises(ValueError, match="has 257 pieces, must have vocab_size=256"):
        gpt2_tokenizer.byte_table(folder, 256)
    assert gpt2_tokenizer.vocabulary_file(folder) == folder / "vocab.json"
    assert gpt2_tokenizer.vocabulary_file(model) == model


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"A": None}, "id 256 of 256 pieces"),
        ({"▁the": 257}, "piece '▁the' spells no bytes"),
        ({gpt2_tokenizer.END: None}, r"lacks <\|endoftext\|>"),
        ({"he": 256}, "lacks an id"),
        ({"A": 66}, "lacks 1 single bytes"),
        ({"": 257}, "piece '' of id 257"),
        ({"he": -1}, "piece 'he' of id -1"),
        ({"A": "x"}, "is not a JSON object of pieces"),
    ],
)
def test_other_vocabularies_are_refused(tmp_path, changes, message):
    """By file, piece and remedy."""
    folder = write_vocabulary(tmp_path / "bpe", **changes)
    with pytest.raises(ValueError, match=f"vocab.json.*{message}.*as published|{message}"):
        gpt2_tokenizer.read_pieces(folder)


def test_missing_files_are_named(tmp_path):
    """Each of the two; a merge of unknown pieces is no fit."""
    pytest.importorskip("tokenizers")
    with pytest.raises(FileNotFoundError, match="no vocab.json"):
        gpt2_tokenizer.read_pieces(tmp_path)
    folder = write_vocabulary(tmp_path / "bpe", MERGES)
    (folder / "merges.txt").write_text("#version: 0.2\nq q\n")
    with pytest.raises(ValueError, match="merges.txt does not belong to vocab.json"):
        tokenizers.Gpt2.load(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no merges.txt"):
        tokenizers.Gpt2.load(folder)


def test_a_piece_is_its_bytes_whatever_stands_before(tmp_path):
    """`check`, which decodes the text again for SentencePiece, has nothing to find."""
    table = gpt2_tokenizer.byte_table(write_vocabulary(tmp_path / "bpe", MERGES), 257 + len(MERGES))
    assert table.check(tmp_path, np.arange(20, dtype=np.uint16)) is None
    assert type(dataclasses.replace(table)) is gpt2_tokenizer.PieceTable
