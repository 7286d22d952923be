"""Tokenizers: what comes back, what every token counts, and which models are refused."""

import io
import sys
import types

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import caseops, tokenizers
from data.files import sha256_file

WORDS = "The quick brown fox said: NASA and McDonald met in Zürich, 42 times. " * 3


PARTS = "aA bB.\n\0\t▁é\ue000\ue001\ue002\ue003\ue004 ﬁＡ\u0301日😀 "


HOSTILE = st.lists(
    st.text(st.one_of(st.sampled_from(PARTS), st.characters(exclude_categories=["Cs"]))),
    min_size=1,
    max_size=4,
)


def sp_train(folder, name="m.model", text=WORDS, **changes):
    """A model as others train them: defaults of the library, changed by keyword."""
    model = io.BytesIO()
    options = {"vocab_size": 300, "model_type": "bpe", "byte_fallback": True, "minloglevel": 2}
    options |= {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text]), model_writer=model, **options | changes
    )
    (folder / name).write_bytes(model.getvalue())
    return folder / name


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Every kind, by name: trained here (lossless), as upstream trains (NFKC), bytes."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, use_caseops in (("own.model", False), ("own_caseops.model", True)):
        (folder / name).write_bytes(tokenizers.train_bpe([WORDS] * 3, 300, use_caseops))
    symbols = {"user_defined_symbols": list(caseops.MARKERS)}
    nfkc = sp_train(folder, "nfkc.model", add_dummy_prefix=False, **symbols)
    load = tokenizers.SentencePiece.load
    return {
        "own": load(folder / "own.model"),
        "own_caseops": load(folder / "own_caseops.model", True),
        "own_fused": load(folder / "own_caseops.model", True, True),
        "nfkc": load(nfkc),
        "nfkc_fused": load(nfkc, True, True),
        "bytes": tokenizers.Bytes(),
    }


@pytest.mark.parametrize("kind", ["own", "own_caseops", "own_fused", "nfkc", "nfkc_fused", "bytes"])
@settings(deadline=None, max_examples=60)
@given(texts=HOSTILE)
@example(texts=["E\u0301 CAFE\u0301 \ue004\ue004\ue001x", "", " The  NASA\n\n The", "\0A"])
def test_round_trip_and_bytes(kinds, kind, texts):
    """Lossless kinds give back any text ("▁" as a space); every kind counts what it gives back."""
    tokenizer = kinds[kind]
    tokens_T, bytes_T = tokenizer.encode(texts)
    start_D = np.flatnonzero(tokens_T == tokenizer.bos_id)
    assert len(start_D) == len(texts) and (bytes_T[start_D] == 0).all()
    rows = zip(texts, np.split(tokens_T, start_D[1:]), np.split(bytes_T, start_D[1:]), strict=True)
    for text, ids_T, counts_T in rows:
        back = tokenizer.decode(ids_T[1:])
        assert counts_T.sum() == len(back.encode())
        if "nfkc" not in kind:
            assert back == (text if kind == "bytes" else text.replace("▁", " "))
        excess_bytes = len(back.encode()) - len(text.encode())
        assert tokenizer.changed(text, ids_T[1:], excess_bytes) == (back != text)


@pytest.mark.parametrize("text", ["a b", "a  b", " a", "a ", "a\tb", "é b", "\0a", "a b", "ﬁ"])
def test_changed_is_what_decoding_says(kinds, text):
    """Where decoding is saved, too: plain text never changes, and all else is looked at."""
    for name in ("own", "nfkc", "nfkc_fused"):
        ids_T = kinds[name].encode([text])[0][1:]
        back = kinds[name].decode(ids_T)
        excess_bytes = len(back.encode()) - len(text.encode())
        assert kinds[name].changed(text, ids_T, excess_bytes) == (back != text)


def test_fusion_shortens_the_stream(kinds):
    """A space and the marker behind it become one token, which counts the space."""
    plain_T, fused_T = (kinds[k].encode([WORDS])[0] for k in ("own_caseops", "own_fused"))
    assert len(plain_T) - len(fused_T) == sum(word[0].isupper() for word in WORDS.split()[1:])


def test_bytes_are_upstreams():
    """260 ids, a byte plus four, BOS 1."""
    assert tokenizers.Bytes().vocab_size == 260
    assert tokenizers.Bytes().encode(["A\n"])[0].tolist() == [1, 69, 14]


def test_gpt2_counts_bytes_and_starts_documents_with_endoftext(monkeypatch):
    """Checked with a stand-in of 258 pieces, because the real vocabulary is a download."""
    tiktoken = pytest.importorskip("tiktoken")
    ranks = {bytes([i]): i for i in range(256)} | {b"he": 256, b" he": 257}
    special = {"<|endoftext|>": tokenizers.GPT2_BOS_ID}
    model = tiktoken.Encoding(
        "gpt2", pat_str=r"\s?\w+|.", mergeable_ranks=ranks, special_tokens=special
    )
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: {"gpt2": model}[name])
    tokenizer = tokenizers.load({"kind": "gpt2"}, ".")
    tokens_T, bytes_T = tokenizer.encode(["he he", "<|endoftext|>é"])
    assert (tokens_T[:3].tolist(), bytes_T[:3].tolist()) == ([50256, 256, 257], [0, 2, 3])
    assert (tokens_T == 50256).sum() == 2  # text that spells the mark is not the mark
    assert bytes_T.sum() == len("he he<|endoftext|>é".encode())
    assert tokenizer.decode(tokens_T[4:]) == "<|endoftext|>é"


def test_gpt2_without_tiktoken_says_what_to_install(monkeypatch):
    """The error holds the command."""
    monkeypatch.setitem(sys.modules, "tiktoken", None)
    with pytest.raises(ImportError, match="pip install tiktoken"):
        tokenizers.Gpt2.load()


def test_gpt2_offline_says_what_to_do(monkeypatch):
    """A vocabulary that cannot be fetched is no stack trace."""

    def offline(name):
        raise OSError("no route")

    monkeypatch.setitem(sys.modules, "tiktoken", types.SimpleNamespace(get_encoding=offline))
    with pytest.raises(OSError, match="TIKTOKEN_CACHE_DIR"):
        tokenizers.Gpt2.load()


@pytest.mark.parametrize(
    "changes, use_caseops, message",
    [
        ({"byte_fallback": False, "vocab_size": 60}, False, "lacks bytes.*byte_fallback=True"),
        ({"text": "without_any_blank"}, False, "lacks the piece"),
        ({"bos_id": 2, "eos_id": 1}, False, "has bos_id=2"),
        ({}, True, r"lacks the CaseOps pieces.*--tokenizer bpe:N --caseops"),
    ],
)
def test_models_that_miscount_are_refused(tmp_path, changes, use_caseops, message):
    """By file and with the remedy."""
    options = {"add_dummy_prefix": False} if "text" in changes else {}
    path = sp_train(tmp_path, **changes, **options)
    with pytest.raises(ValueError, match=f"{path}.*{message}"):
        tokenizers.SentencePiece.load(path, use_caseops)


def test_what_is_no_model_is_refused(tmp_path):
    """A damaged file and a missing one are named."""
    path = tmp_path / "broken.model"
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match=f"{path} is not a SentencePiece model"):
        tokenizers.SentencePiece.load(path)
    with pytest.raises(FileNotFoundError, match="bpe:N, bytes or gpt2"):
        tokenizers.SentencePiece.load(tmp_path / "none.model")


def test_training_repeats_itself_and_refuses_too_many_pieces(tmp_path):
    """The same text gives the same bytes; too little text is an error with a remedy."""
    first, again = (tokenizers.train_bpe([WORDS], 300) for _ in range(2))
    assert first == again
    with pytest.raises(ValueError, match="cannot train 5000 pieces.*ask for fewer"):
        tokenizers.train_bpe([WORDS], 5000)


def test_description_holds_the_hash(tmp_path):
    """The manifest's entry says what load needs, and which file it was."""
    path = tmp_path / tokenizers.MODEL_FILE
    path.write_bytes(tokenizers.train_bpe([WORDS], 300, True))
    entry = tokenizers.describe("sentencepiece", path, True, True)
    assert (entry["vocab_size"], entry["sha256"]) == (300, sha256_file(path))
    loaded = tokenizers.load(entry, tmp_path)
    assert loaded.decode(loaded.encode(["The NASA"])[0][1:]) == "The NASA"


def test_fused_case_markers_are_decoded(models, tmp_path):
    """The pairs of a space and a marker count as one byte, and the text comes back."""
    tokenizer = tokenizers.SentencePiece
    path = tmp_path / "m.model"
    path.write_bytes(models["caseops"])
    fused = tokenizer.load(path, use_caseops=True, fused=True)
    tokens_T, bytes_T = fused.encode(["People of the WORLD"])
    assert fused.decode(tokens_T[1:]) == "People of the WORLD" and bytes_T.sum() == 19
    assert caseops.FUSED_BYTES
