"""Tokenizers for Hugging Face: the ids of the original on texts made to break them, or none."""

import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from data import caseops
from data import tokenizers as ours
from tools.hub import tokenizer as hf_tokenizer

pytest.importorskip("tokenizers", reason="python3 golf.py --with hf test")
pytest.importorskip("google.protobuf", reason="python3 golf.py --with hf test")

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"
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


@pytest.fixture(scope="module")
def kinds():
    """Of a kind: the model's description, SentencePiece's tokenizer and the library's."""
    found = {}
    for kind, changes in KINDS.items():
        model = trained(**changes)
        original = sentencepiece.SentencePieceProcessor(model_proto=model)
        found[kind] = proto_of(model), original, hf_tokenizer.fast_tokenizer(proto_of(model))
    return lambda kind: found[kind]  # whose text is short in a report


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
    probes = hf_tokenizer.probes(proto)
    hf_tokenizer.refuse_differences(fast, original, probes)
    assert len(probes) > len(hf_tokenizer.HOSTILE) + (100 if kind == "upstream" else 2)


def test_a_charsmap_is_read_whole(kinds):
    """The table says what SentencePiece does, of a letter with a mark, jamo, erased and blank."""
    table = hf_tokenizer.charsmap_table(kinds("upstream")[0].normalizer_spec.precompiled_charsmap)
    assert len(table) > 200_000
    assert (table["e\u0301"], table["\u1112\u1161\u11ab"], table["\ufb01"]) == ("é", "한", "fi")
    assert (table["\x01"], table["\n"], table["▁"]) == ("", " ", " ")
    assert hf_tokenizer.charsmap_table(b"") == {}


def test_the_library_step_for_charsmaps_would_lose_text(kinds):
    """Why it is not used: an accent behind a ligature vanishes, jamo stay apart; both are seen."""
    from tokenizers import Tokenizer, normalizers

    proto, original, fast = kinds("upstream")
    other = Tokenizer.from_str(fast.to_str())
    precompiled = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    assert precompiled.normalize_str("ﬁ\u0301") == "fi"
    assert precompiled.normalize_str("\u1112\u1161\u11ab") == "\u1112\u1161\u11ab"
    rest = [normalizers.Strip(), normalizers.Replace(" ", "▁")]
    other.normalizer = normalizers.Sequence([precompiled, *rest])
    assert other.encode("plain words").ids == fast.encode("plain words").ids
    with pytest.raises(hf_tokenizer.Unequal, match="ids would be others"):
        hf_tokenizer.refuse_differences(other, original, hf_tokenizer.HOSTILE)


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
    with pytest.raises(hf_tokenizer.Unequal):
        hf_tokenizer.refuse_differences(wrong, original, hf_tokenizer.probes(proto))


@pytest.mark.parametrize(
    "changes, reason",
    [
        (dict(model_type="unigram", vocab_size=310), "it is not a BPE model"),
        (dict(byte_fallback=False, vocab_size=100), "it has no bytes for unknown characters"),
        (dict(user_defined_symbols=["<sep>"]), "its symbol '<sep>' is found before spaces"),
        (dict(treat_whitespace_as_suffix=True), "it writes spaces behind words"),
        (SQUEEZED | dict(allow_whitespace_only_pieces=True), "of '▁a' the text would be others"),
        (dict(normalization_rule_name="nfkc"), "its normaliser erases no characters"),
    ],
)
def test_what_the_library_cannot_do_is_shipped_as_the_model_alone(tmp_path, changes, reason):
    """With the reason in the note, and nothing that AutoTokenizer would load."""
    path = tmp_path / "m.model"
    path.write_bytes(trained(**changes))
    (tmp_path / "out").mkdir()
    written = hf_tokenizer.write(path, tmp_path / "out")
    assert not written.is_whole and reason in written.note
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["tokenizer.model"]
    assert hf_tokenizer.original_rows(tmp_path / "out") is None


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
        with pytest.raises(hf_tokenizer.Unequal, match=reason):
            hf_tokenizer.fast_tokenizer(proto)


def test_auto_tokenizer_gives_the_original_ids(tmp_path):
    """As transformers loads it, saves it and loads it again; <s> in a text is text."""
    transformers = pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    path, out = tmp_path / "m.model", tmp_path / "out"
    path.write_bytes(trained(**KINDS["own"]))
    assert hf_tokenizer.main([str(path), "--out", str(out)]) == 0
    assert (out / "tokenizer.model").read_bytes() == path.read_bytes()
    original = sentencepiece.SentencePieceProcessor(model_file=str(path))
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    tokenizer.save_pretrained(tmp_path / "again")
    for loaded in (tokenizer, transformers.AutoTokenizer.from_pretrained(tmp_path / "again")):
        assert len(loaded) == original.vocab_size()
        assert [loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id] == [0, 1, 2]
        for text, ids in zip(hf_tokenizer.HOSTILE, hf_tokenizer.original_rows(out), strict=True):
            assert ids == original.encode(text)
            assert loaded(text).input_ids == [1, *ids]
            assert loaded.decode([1, *ids, 2], skip_special_tokens=True) == original.decode(ids)
    batch = tokenizer(["a", "a b c"], padding=True)
    assert batch.input_ids[0][0] == 0 and batch.attention_mask[0][0] == 0  # padded on the left


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SHARED.glob("*.model")), ids=lambda path: path.stem)
def test_the_tokenizers_of_the_field_are_whole(tmp_path, path):
    """The published models keep every id, on the probes and on random text."""
    written = hf_tokenizer.write(path, tmp_path)
    assert written.is_whole, written.note
    proto, original = hf_tokenizer.read_sentencepiece(path)
    fast = hf_tokenizer.fast_tokenizer(proto)

    @settings(deadline=None, max_examples=1500)
    @given(text=HOSTILE)
    def search(text):
        hf_tokenizer.refuse_differences(fast, original, [text])

    search()


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


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """A stand-in for GPT-2's files: 256 bytes, some merges, the mark."""
    folder, letters = tmp_path_factory.mktemp("gpt2"), gpt2_letters()
    vocab, merges = {letter: i for i, letter in enumerate(letters)}, []
    for word in (" the", " quick", "they", "ll", "123", "  ", "\n\n", "é", " é", "日", "!!"):
        parts = [letters[byte] for byte in word.encode()]
        for i in range(1, len(parts)):
            pair = "".join(parts[:i]), parts[i]
            if pair not in merges:
                merges.append(pair)
                vocab.setdefault("".join(pair), len(vocab))
    vocab[hf_tokenizer.GPT2_END] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder, vocab, merges, letters


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
        MADE["fast"] = hf_tokenizer.byte_level_tokenizer(vocab, merges)
    return MADE["fast"]


def test_gpt2_ids_are_those_of_tiktoken(gpt2):
    """The other library that is in use, with the same stand-in."""
    tiktoken = pytest.importorskip("tiktoken")
    _, vocab, merges, letters = gpt2
    ranks = {
        bytes(letters.index(c) for c in piece): i
        for piece, i in vocab.items()
        if piece != hf_tokenizer.GPT2_END
    }
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
    other = tiktoken.Encoding("gpt2", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    for text in hf_tokenizer.HOSTILE:
        ids = byte_level(vocab, merges).encode(text, add_special_tokens=False).ids
        assert ids == other.encode_ordinary(text), text


def test_a_gpt2_folder_is_written_whole(gpt2, tmp_path):
    """AutoTokenizer has the mark as its special token, and text that spells it is text."""
    transformers = pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    source, vocab, merges, letters = gpt2
    assert hf_tokenizer.main([str(source), "--out", str(tmp_path / "out")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    end = vocab[hf_tokenizer.GPT2_END]
    assert len(tokenizer) == end + 1
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == tokenizer.pad_token_id == end
    for text, ids in zip(
        hf_tokenizer.HOSTILE, hf_tokenizer.original_rows(tmp_path / "out"), strict=True
    ):
        assert tokenizer(text).input_ids == ids == gpt2_ids(text, vocab, merges, letters)
        assert tokenizer.decode([*ids, end], skip_special_tokens=True) == text


def test_the_marks_of_a_tokenizer_are_told(gpt2, tmp_path):
    """Which config.json then names: where they lie, and only those that there are."""
    (tmp_path / "m.model").write_bytes(trained(pad_id=-1, bos_id=2, eos_id=0, unk_id=1))
    marks = hf_tokenizer.write(tmp_path / "m.model", tmp_path).marks
    assert marks == {"bos": 2, "eos": 0, "unk": 1}
    marks, end = hf_tokenizer.write(gpt2[0], tmp_path).marks, gpt2[1][hf_tokenizer.GPT2_END]
    assert marks == dict.fromkeys(("bos", "eos", "unk", "pad"), end)


def test_files_of_another_form_are_refused(gpt2, tmp_path):
    """A merge that is none, with its line; a vocabulary without the mark, or without a byte."""
    source, vocab, merges, letters = gpt2
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nx y\n")
    with pytest.raises(ValueError, match=r"merges.txt:3: 'x y' must be two tokens"):
        hf_tokenizer.write(tmp_path, tmp_path)
    with pytest.raises(ValueError, match="lacks '<|endoftext|>'"):
        hf_tokenizer.byte_level_tokenizer({"a": 0}, [])
    less = {piece: i for piece, i in vocab.items() if piece != letters[0]}
    with pytest.raises(hf_tokenizer.Unequal, match="vocab.json lacks bytes"):
        hf_tokenizer.byte_level_tokenizer(less, merges)


# Folders


def test_a_given_tokenizer_json_is_copied_as_it_is(gpt2, tmp_path):
    """Its bytes and its neighbours; what it says is what counts as the original."""
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir(), out.mkdir()
    source, vocab, merges, _ = gpt2
    byte_level(vocab, merges).save(str(given / "tokenizer.json"))
    (given / "tokenizer_config.json").write_text("{}")
    (given / "other.txt").write_text("not a tokenizer's")
    written = hf_tokenizer.write(given, out, room=len(vocab))
    assert written.tokens == len(vocab) and written.is_whole
    end = vocab[hf_tokenizer.GPT2_END]
    assert written.marks == dict.fromkeys(("bos", "eos", "pad"), end)
    named = {"bos_token": {"content": "t"}, "eos_token": "h", "pad_token": None}
    (given / "tokenizer_config.json").write_text(json.dumps(named))
    marks = hf_tokenizer.write(given, out).marks
    assert marks == {"bos": vocab["t"], "eos": vocab["h"]}
    assert "`tokenizer.json`, `tokenizer_config.json` are those that were given" in written.note
    for path in out.iterdir():
        assert path.read_bytes() == (given / path.name).read_bytes()
    assert hf_tokenizer.original_rows(out, [hf_tokenizer.GPT2_END]) == [[end]]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(gpt2, tmp_path):
    """Whatever its form, before anything is written; one more row is enough."""
    (tmp_path / "out").mkdir()
    (tmp_path / "sp").mkdir()
    model = tmp_path / "sp" / "tokenizer.model"
    model.write_bytes(ours.train_bpe([WORDS] * 3, 300))
    for source, tokens in ((model, 300), (model.parent, 300), (gpt2[0], len(gpt2[1]))):
        with pytest.raises(ValueError, match=f"has {tokens} tokens, the model only {tokens - 1}"):
            hf_tokenizer.write(source, tmp_path / "out", room=tokens - 1)
        assert not list((tmp_path / "out").iterdir())
    assert hf_tokenizer.write(model.parent, tmp_path / "out", room=300).tokens == 300


def test_the_command_refuses_in_one_line(tmp_path, capsys, monkeypatch):
    """A folder that is there, a folder without a tokenizer, a file that is no model, no library."""
    command = [str(tmp_path / "m.model"), "--out", str(tmp_path / "out")]
    (tmp_path / "m.model").write_bytes(b"no model")
    assert hf_tokenizer.main([*command[:2], str(tmp_path)]) == 2
    assert hf_tokenizer.main([str(tmp_path), *command[1:]]) == 2
    assert hf_tokenizer.main(command) == 2
    (tmp_path / "m.model").write_bytes(trained(model_type="char", vocab_size=300))
    assert hf_tokenizer.main(command) == 1
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert hf_tokenizer.main([*command[:2], str(tmp_path / "other")]) == 2
    error = capsys.readouterr().err.splitlines()
    wanted = ("exists; remove it", "holds no tokenizer", "is no SentencePiece model", "--with hf")
    assert len(error) == 4 and all(w in line for w, line in zip(wanted, error, strict=True))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.model", "out"]
