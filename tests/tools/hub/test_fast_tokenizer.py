"""Tokenizers of Hugging Face's library: the ids of the original on texts made to break them."""

import io
import json
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data import caseops
from tools.hub import fast_tokenizer
from tools.hub.charsmap import Unequal

pytest.importorskip("tokenizers", reason="python3 golf.py --with hf test")
pytest.importorskip("google.protobuf", reason="python3 golf.py --with hf test")

WORDS = "The quick brown fox said: NASA and McDonald met in Zürich, 42 times; aaaa -- == ▁▁▁▁ ▁▁. "
TEXTS = [
    WORDS * 3,
    "      run of    blanks        here",
    "한국 한국어 日本 日 ééé ﬁﬁ",
    "--------- aaaaaaa",
]
MARKS = "\u0301\u0323\u0302\u3099\u11a8\u1161\u200d\ufe0f\u064b"
PARTS = (
    "aA bB.-=\n\0\t\r\x01▁é\ue000\ue001\ue004 ﬁＡ～\u200b\u3000\ufffdカｶ\uff9e한ᄒ日😀1<s>" + MARKS
)
ANY = st.characters(exclude_categories=["Cs"])
HOSTILE = st.text(st.one_of(st.sampled_from(PARTS), st.sampled_from("a \n-▁é"), ANY), max_size=30)
SQUEEZED = dict(normalization_rule_name="identity", allow_whitespace_only_pieces=False)
KINDS = {
    "own": dict(normalization_rule_name="identity", add_dummy_prefix=False, split_digits=True,
                remove_extra_whitespaces=False),
    "identity_prefix": dict(normalization_rule_name="identity", remove_extra_whitespaces=False),
    "identity_squeezed": dict(SQUEEZED, add_dummy_prefix=False),
    "identity_both": SQUEEZED,
    "upstream": dict(add_dummy_prefix=False, split_digits=True),
    "caseops": dict(add_dummy_prefix=False, user_defined_symbols=list(caseops.MARKERS)),
    "nfkc_prefix": dict(remove_extra_whitespaces=False),
}  # fmt: skip


def trained(**changes) -> bytes:
    """A small model by the library's defaults, changed by keyword; runs of blanks may be pieces."""
    model = io.BytesIO()
    options = dict(vocab_size=400, model_type="bpe", byte_fallback=True, minloglevel=2, pad_id=0,
                   bos_id=1, eos_id=2, unk_id=3, hard_vocab_limit=False,
                   normalization_rule_name="nmt_nfkc", allow_whitespace_only_pieces=True,
                   character_coverage=1.0)  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=model, **options | changes
    )
    return model.getvalue()


def proto_of(model: bytes):
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto.FromString(model)


def trained_kinds(names) -> dict:
    """Of each kind: the model's description, SentencePiece's tokenizer and the library's."""
    made = {}
    for kind in names:
        model = trained(**KINDS[kind])
        original = sentencepiece.SentencePieceProcessor(model_proto=model)
        proto = proto_of(model)
        made[kind] = proto, original, fast_tokenizer.sentencepiece_tokenizer(proto)
    return made


@pytest.fixture(scope="module")
def kinds():
    made = trained_kinds(KINDS)
    return lambda kind: made[kind]  # whose text is short in a report


# SentencePiece


@pytest.mark.parametrize("kind", list(KINDS))
@settings(deadline=None, max_examples=120)
@given(text=HOSTILE)
def test_any_text_has_the_original_ids_and_comes_back_as_from_it(kinds, kind, text):
    """Whatever the normaliser, the prefix and the blanks."""
    _, original, fast = kinds(kind)
    ids = original.encode(text)
    assert fast.encode(text, add_special_tokens=False).ids == ids
    assert fast.encode(text).ids == [1, *ids]  # BOS, as in training
    assert fast.decode(ids, skip_special_tokens=False) == original.decode(ids)


@pytest.mark.parametrize("kind", ["own", "identity_both", "upstream"])
def test_the_probes_find_nothing(kinds, kind):
    """Hostile texts, runs of every piece, and every key of the normaliser."""
    proto, original, fast = kinds(kind)
    probes = fast_tokenizer.probes(proto)
    fast_tokenizer.refuse_differences(fast, original, probes)
    assert len(probes) > len(fast_tokenizer.HOSTILE) + (100 if kind == "upstream" else 2)


@pytest.mark.parametrize(
    "fault", ["no prefix", "no blanks dropped", "worst merge first", "no bytes", "decoder keeps"]
)
def test_a_wrong_tokenizer_is_refused(kinds, fault):
    """Each part that is left out or changed is noticed on the probes."""
    from tokenizers import Tokenizer

    proto, original, fast = kinds("identity_both")
    described = json.loads(fast.to_str())
    steps = described["normalizer"]["normalizers"]
    if fault == "no prefix":
        steps[:] = [step for step in steps if step["type"] != "Prepend"]
    if fault == "no blanks dropped":
        steps[:] = [step for step in steps if step.get("pattern") != {"Regex": " {2,}"}]
    if fault == "worst merge first":
        described["model"]["merges"].reverse()
    if fault == "no bytes":
        described["model"]["byte_fallback"] = False
    if fault == "decoder keeps":
        described["decoder"]["decoders"].pop()
    wrong = Tokenizer.from_str(json.dumps(described))
    with pytest.raises(Unequal):
        fast_tokenizer.refuse_differences(wrong, original, fast_tokenizer.probes(proto))


def test_models_changed_by_hand_are_refused(kinds):
    """Equal scores, a piece of a letter that is none, unused pieces: no merging alone does it."""
    proto = type(kinds("own")[0])()
    for reason, change in {
        "two of its pieces have one score": lambda short, long: setattr(long[0], "score", -3.0),
        "its pieces hold 'T'": lambda short, long: setattr(short["T"], "piece", "\u4e00"),
        "unknown type": lambda short, long: setattr(long[-1], "type", 5),
    }.items():
        proto.CopyFrom(kinds("own")[0])
        short = {p.piece: p for p in proto.pieces if len(p.piece) == 1}
        change(short, [p for p in proto.pieces if p.type == 1 and len(p.piece) > 1])
        with pytest.raises(Unequal, match=reason):
            fast_tokenizer.sentencepiece_tokenizer(proto)


# GPT-2


def is_space(char: str) -> bool:
    return unicodedata.category(char) in ("Zs", "Zl", "Zp") or char in "\t\n\x0b\x0c\r\x85"


def kind_of(char: str) -> str:
    category = unicodedata.category(char)[0]
    return "space" if is_space(char) else category if category in "LN" else "other"


def gpt2_words(text: str) -> list[str]:
    """GPT-2's split, from its description: contractions, runs of a kind with one blank in front.

    Of a run of blanks before a word the last goes to the word if it is a space, else stands alone.
    """
    words, i = [], 0
    while i < len(text):
        short = next(
            (s for s in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(s, i)), ""
        )
        start = i + (text[i] == " " and i + 1 < len(text) and not is_space(text[i + 1]))
        end = start
        while end < len(text) and kind_of(text[end]) == kind_of(text[start]):
            end += 1
        if kind_of(text[start]) == "space" and end < len(text) and end - i > 1:
            end -= 1
        end = i + len(short) if short else end
        words.append(text[i:end])
        i = end
    return words


def gpt2_ids(text: str, vocab: dict[str, int], merges: list[tuple[str, str]], letters: str):
    """Bytes as letters; of all neighbours the pair that was learned first is joined everywhere."""
    ids, rank = [], {pair: i for i, pair in enumerate(merges)}
    for word in gpt2_words(text):
        parts = [letters[byte] for byte in word.encode()]
        while pairs := [pair for pair in zip(parts, parts[1:], strict=False) if pair in rank]:
            best, joined, i = min(pairs, key=rank.get), [], 0
            while i < len(parts):
                step = 2 if tuple(parts[i : i + 2]) == best else 1
                joined.append("".join(parts[i : i + step]))
                i += step
            parts = joined
        ids += [vocab[part] for part in parts]
    return ids


def gpt2_letters() -> str:
    """The letter of every byte: itself where it can be seen, else the next from U+0100 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return "".join(chr(256 + hidden.index(b)) if b in hidden else chr(b) for b in range(256))


def write_gpt2_files(folder: Path):
    """A stand-in for GPT-2's files: 256 bytes, some merges, the mark."""
    letters = gpt2_letters()
    vocab, merges = {letter: i for i, letter in enumerate(letters)}, []
    for word in (" the", " quick", "they", "ll", "123", "  ", "\n\n", "é", " é", "日", "!!"):
        parts = [letters[byte] for byte in word.encode()]
        for i in range(1, len(parts)):
            pair = "".join(parts[:i]), parts[i]
            if pair not in merges:
                merges.append(pair)
                vocab.setdefault("".join(pair), len(vocab))
    vocab[fast_tokenizer.GPT2_END] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder, vocab, merges, letters


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return write_gpt2_files(tmp_path_factory.mktemp("gpt2"))


ASSIGNED = st.text(
    st.one_of(
        st.sampled_from("theyquick123  \n\n'sll!é日\u3000\x85\x1c\u200b\u0301"),
        st.characters(exclude_categories=["Cs", "Cn", "Co"]),
    ),
    max_size=25,
)


@settings(deadline=None, max_examples=300)
@given(text=ASSIGNED)
def test_gpt2_ids_are_those_of_its_description(gpt2, text):
    """Against a reference written from the description; and text comes back as it was."""
    _, vocab, merges, letters = gpt2
    fast = byte_level(vocab, merges)
    ids = fast.encode(text, add_special_tokens=False).ids
    assert ids == gpt2_ids(text, vocab, merges, letters)
    assert fast.decode(ids, skip_special_tokens=False) == text


MADE = {}


def byte_level(vocab, merges):
    if not MADE:
        MADE["fast"] = fast_tokenizer.byte_level_tokenizer(vocab, merges)
    return MADE["fast"]


def test_gpt2_ids_are_those_of_tiktoken(gpt2):
    """The other library that is in use, with the same stand-in."""
    tiktoken = pytest.importorskip("tiktoken")
    _, vocab, merges, letters = gpt2
    ranks = {
        bytes(letters.index(c) for c in piece): i
        for piece, i in vocab.items()
        if piece != fast_tokenizer.GPT2_END
    }
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    other = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    for text in fast_tokenizer.HOSTILE:
        ids = byte_level(vocab, merges).encode(text, add_special_tokens=False).ids
        assert ids == other.encode_ordinary(text), text


def test_files_of_another_form_are_refused(gpt2):
    """A vocabulary without the mark, or without a byte."""
    _, vocab, merges, letters = gpt2
    with pytest.raises(ValueError, match="lacks '<|endoftext|>'"):
        fast_tokenizer.byte_level_tokenizer({"a": 0}, [])
    less = {piece: i for piece, i in vocab.items() if piece != letters[0]}
    with pytest.raises(Unequal, match="vocab.json lacks bytes"):
        fast_tokenizer.byte_level_tokenizer(less, merges)
