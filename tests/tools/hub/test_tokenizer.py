"""A tokenizer's folder: whole as transformers loads it, or the model alone with the reason."""

import json
import sys
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings

from data import tokenizers as ours
from tests.tools.hub.test_fast_tokenizer import (
    HOSTILE,
    KINDS,
    SQUEEZED,
    WORDS,
    byte_level,
    gpt2_ids,
    trained,
    write_gpt2_files,
)
from tools.hub import tokenizer as hf_tokenizer
from tools.hub.fast_tokenizer import (
    GPT2_END,
    read_sentencepiece,
    refuse_differences,
    sentencepiece_tokenizer,
)
from tools.hub.fast_tokenizer import HOSTILE as HOSTILE_TEXTS

pytest.importorskip("tokenizers", reason="python3 golf.py --with hf test")
pytest.importorskip("google.protobuf", reason="python3 golf.py --with hf test")

SHARED = Path(__file__).parents[4] / "shared" / "data" / "tokenizers"


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return write_gpt2_files(tmp_path_factory.mktemp("gpt2"))


# SentencePiece


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


def test_auto_tokenizer_gives_the_original_ids(tmp_path):
    """As transformers loads it, saves it and loads it again; <s> is text where that is asked."""
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
        for text, ids in zip(HOSTILE_TEXTS, hf_tokenizer.original_rows(out), strict=True):
            assert ids == original.encode(text)
            assert loaded(text, split_special_tokens=True).input_ids == [1, *ids]
            assert loaded.decode([1, *ids, 2], skip_special_tokens=True) == original.decode(ids)
        assert loaded("a</s>b<s>", add_special_tokens=False).input_ids == [
            *original.encode("a"), 2, *original.encode("b"), 1,
        ]  # fmt: skip
    batch = tokenizer(["a", "a b c"], padding=True)
    assert batch.input_ids[0][0] == 0 and batch.attention_mask[0][0] == 0  # padded on the left


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(SHARED.glob("*.model")), ids=lambda path: path.stem)
def test_the_tokenizers_of_the_field_are_whole(tmp_path, path):
    """The published models keep every id, on the probes and on random text."""
    written = hf_tokenizer.write(path, tmp_path)
    assert written.is_whole, written.note
    proto, original = read_sentencepiece(path)
    fast = sentencepiece_tokenizer(proto)

    @settings(deadline=None, max_examples=1500)
    @given(text=HOSTILE)
    def search(text):
        refuse_differences(fast, original, [text])

    search()


def test_a_gpt2_folder_is_written_whole(gpt2, tmp_path):
    """AutoTokenizer has the mark as its special token, which text that spells it becomes."""
    transformers = pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    source, vocab, merges, letters = gpt2
    assert hf_tokenizer.main([str(source), "--out", str(tmp_path / "out")]) == 0
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    end = vocab[GPT2_END]
    assert len(tokenizer) == end + 1
    assert tokenizer.eos_token_id == tokenizer.bos_token_id == tokenizer.pad_token_id == end
    for text, ids in zip(HOSTILE_TEXTS, hf_tokenizer.original_rows(tmp_path / "out"), strict=True):
        as_text = tokenizer(text, split_special_tokens=True).input_ids
        assert as_text == ids == gpt2_ids(text, vocab, merges, letters)
        assert tokenizer.decode([*ids, end], skip_special_tokens=True) == text
    assert tokenizer(f"x{GPT2_END}").input_ids == [vocab["x"], end]
    assert tokenizer.decode([vocab["x"], end]) == f"x{GPT2_END}"


def test_the_marks_of_a_tokenizer_are_told(gpt2, tmp_path):
    """Which config.json then names: where they lie; what pads is the end where nothing else is."""
    (tmp_path / "m.model").write_bytes(trained(pad_id=-1, bos_id=2, eos_id=0, unk_id=1))
    marks = hf_tokenizer.write(tmp_path / "m.model", tmp_path).special_ids
    assert marks == {"bos": 2, "eos": 0, "unk": 1, "pad": 0}
    needs = hf_tokenizer.Needs(ends_with_bos=True)
    marks = hf_tokenizer.write(tmp_path / "m.model", tmp_path, needs).special_ids
    assert marks == {"bos": 2, "eos": 2, "unk": 1, "pad": 2}
    marks, end = hf_tokenizer.write(gpt2[0], tmp_path).special_ids, gpt2[1][GPT2_END]
    assert marks == dict.fromkeys(("bos", "eos", "unk", "pad"), end)


def test_files_of_another_form_are_refused(gpt2, tmp_path):
    """A merge that is none, with its line; a vocabulary without the mark, or without a byte."""
    source, vocab, merges, letters = gpt2
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    (tmp_path / "merges.txt").write_text("#version: 0.2\nt h\nx y\n")
    with pytest.raises(ValueError, match=r"merges.txt:3: 'x y' must be two tokens"):
        hf_tokenizer.write(tmp_path, tmp_path)


# Folders


def test_a_given_tokenizer_json_is_copied_as_it_is(gpt2, tmp_path):
    """Its bytes and its neighbours; what it says is what counts as the original."""
    original, out = tmp_path / "given", tmp_path / "out"
    original.mkdir(), out.mkdir()
    source, vocab, merges, _ = gpt2
    byte_level(vocab, merges).save(str(original / "tokenizer.json"))
    (original / "tokenizer_config.json").write_text("{}")
    (original / "other.txt").write_text("not a tokenizer's")
    written = hf_tokenizer.write(original, out, hf_tokenizer.Needs(most_tokens=len(vocab)))
    assert written.tokens == len(vocab) and written.is_whole
    end = vocab[GPT2_END]
    assert written.special_ids == dict.fromkeys(("bos", "eos", "pad"), end)
    named = {"bos_token": {"content": "t"}, "eos_token": "h", "pad_token": None}
    (original / "tokenizer_config.json").write_text(json.dumps(named))
    marks = hf_tokenizer.write(original, out).special_ids
    assert marks == {"bos": vocab["t"], "eos": vocab["h"], "pad": vocab["h"]}
    assert "`tokenizer.json`, `tokenizer_config.json` are those that were given" in written.note
    assert (out / "tokenizer.json").read_bytes() == (original / "tokenizer.json").read_bytes()
    assert not (out / "other.txt").exists()
    written = hf_tokenizer.write(original, out, hf_tokenizer.Needs(max_length=64))
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert config == {**named, "model_max_length": 64, "pad_token": "h"}
    assert "`tokenizer_config.json` stand model_max_length, pad_token besides" in written.note
    as_text = gpt2_ids(GPT2_END, vocab, gpt2[2], gpt2[3])
    assert hf_tokenizer.original_rows(out, [GPT2_END]) == [as_text]


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(gpt2, tmp_path):
    """Whatever its form, before anything is written; one more row is enough."""
    (tmp_path / "out").mkdir()
    (tmp_path / "sp").mkdir()
    model = tmp_path / "sp" / "tokenizer.model"
    model.write_bytes(ours.train_bpe([WORDS] * 3, 300))
    for source, tokens in ((model, 300), (model.parent, 300), (gpt2[0], len(gpt2[1]))):
        with pytest.raises(ValueError, match=f"has {tokens} tokens, the model only {tokens - 1}"):
            hf_tokenizer.write(source, tmp_path / "out", hf_tokenizer.Needs(tokens - 1))
        assert not list((tmp_path / "out").iterdir())
    assert hf_tokenizer.write(model.parent, tmp_path / "out", hf_tokenizer.Needs(300)).tokens == 300


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
