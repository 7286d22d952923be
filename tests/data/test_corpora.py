"""Corpora: marks, order and cuts as specified, the same bytes again, folders that verify."""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import pytest

import evaluate
import train_gpt
from baselines import gpt2_124m
from data import (
    build,
    containers,
    corpora,
    gpt2_tokenizer,
    tokenizers,
    verify,
)
from data import manifest as manifests
from data.files import sha256_file
from engine.ranks import Ranks
from engine.run_folder import RunFolder
from engine.settings import Choice
from engine.shards import read_shard, read_split, write_shard
from engine.text import TrainingText
from engine.trainer import Trainer
from tests.conftest import MERGES, write_vocabulary

STORIES = [[f"  Once {i} {j} the{'n' * (j % 5)}\n\nend é😀. " for j in range(30)] for i in range(4)]


TEXTS = [f"Page {i}. " + "the théâtre, héhé! " * (1 + i % 4) for i in range(40)]


def run(source, out, tokenizer, *options, workers=1) -> dict:
    parser = argparse.ArgumentParser()
    build.add_arguments(parser)
    arguments = [source, "--tokenizer", tokenizer, "--out", out, "--workers", workers, *options]
    return build.build(parser.parse_args(list(map(str, arguments))))


def tokens_of(folder: Path, split: str) -> np.ndarray:
    return np.array(read_split(folder, split))


def stated_hash(told: Path, path: Path) -> str:
    """The hash that a manifest has for a sidecar."""
    shards = json.loads(told.read_text())["shards"]
    return next(s["sidecar"]["sha256"] for s in shards if s["sidecar"]["file"] == path.name)


def faults(folder: Path) -> list[str]:
    return [f.message for f in verify.verify(folder) if f.level == "fault"]


@pytest.fixture
def gpt2(tmp_path) -> Path:
    pytest.importorskip("tokenizers")
    return write_vocabulary(tmp_path / "bpe", MERGES)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "any.model"
    path.write_bytes(tokenizers.train_bpe(TEXTS, 300))
    return path


@pytest.fixture
def stories(tmp_path) -> Path:
    """Four shards as published, JSON arrays with more keys; one is a list of lines instead."""
    folder = tmp_path / "stories"
    folder.mkdir()
    for i, texts in enumerate(STORIES):
        rows = [{"story": text, "source": "x"} for text in texts]
        text = json.dumps(rows) if i < 3 else "\n".join(map(json.dumps, rows)) + "\n"
        (folder / f"data{i:02d}.json").write_text(text)
    return folder


@pytest.fixture
def pages(tmp_path) -> Path:
    path = tmp_path / "pages.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


def test_tinystories(tmp_path, stories, gpt2):
    """D2: shard 0 validates; each shuffled with 1337 + its place; the mark before each story."""
    told = run(stories, tmp_path / "out", gpt2, "--corpus", "tinystories", "--name", "x")
    tokenizer = tokenizers.load(told["tokenizer"], tmp_path / "out")
    for split, shards in (("val", STORIES[:1]), ("train", STORIES[1:])):
        expected = []
        for place, shard in enumerate(shards):
            shard = list(shard)
            random.Random(1337 + place).shuffle(shard)
            expected += [text.strip() for text in shard]
        tokens_T = tokens_of(tmp_path / "out", split)
        rows = np.split(tokens_T, np.flatnonzero(tokens_T == tokenizer.bos_id)[1:])
        assert [tokenizer.decode(ids_T[1:]) for ids_T in rows] == expected
        assert tokens_T[0] == tokenizer.bos_id == told["bos_id"]
    assert told["split_rule"] == {"rule": "first file", "val_documents": 30}
    assert faults(tmp_path / "out") == []
    run(stories, tmp_path / "again", gpt2, "--corpus", "tinystories", "--name", "x", workers=2)
    assert files(tmp_path / "out") == files(tmp_path / "again")


def test_fineweb_edu(tmp_path, pages, gpt2):
    """D3: the mark after each document, N tokens and the next M of one stream, cut exactly."""
    options = ["--corpus", "fineweb-edu", "--train-tokens", 501, "--val-tokens", 203, "--name", "x"]
    told = run(pages, tmp_path / "out", gpt2, *options)
    tokenizer = tokenizers.Gpt2.load(gpt2, "after")
    stream_T, bytes_T = tokenizer.encode(TEXTS)
    assert stream_T[0] != tokenizer.bos_id
    for split, part in (("train", slice(0, 501)), ("val", slice(501, 704))):
        assert np.array_equal(tokens_of(tmp_path / "out", split), stream_T[part])
        counts = told["splits"][split]
        assert counts["documents"] == (stream_T[part] == tokenizer.bos_id).sum()
        assert counts["bytes"] == bytes_T[part][1:].sum()  # the first token is no target
    assert stream_T[500] != tokenizer.bos_id and stream_T[703] != tokenizer.bos_id  # within texts
    assert faults(tmp_path / "out") == []
    run(pages, tmp_path / "again", gpt2, *options, workers=2)
    assert files(tmp_path / "out") == files(tmp_path / "again")
    run(pages, tmp_path / "shards", gpt2, *options, "--shard-tokens", 100)
    assert faults(tmp_path / "shards") == []
    assert len(list((tmp_path / "shards").glob("x_train_*[0-9].bin"))) == 6
    for split in manifests.SPLITS:
        assert np.array_equal(
            tokens_of(tmp_path / "shards", split), tokens_of(tmp_path / "out", split)
        )


@pytest.mark.parametrize("block_bytes", [300, 1 << 20])
def test_no_text_is_in_both_parts_of_a_stream(tmp_path, gpt2, monkeypatch, block_bytes):
    """A copy of a training document behind the border is left out and counted."""
    monkeypatch.setattr(containers, "BLOCK_BYTES", block_bytes)
    path = tmp_path / "pages.jsonl"
    texts = [*TEXTS[:20], TEXTS[3], *TEXTS[20:]]
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = tokenizers.Gpt2.load(gpt2, "after")
    stream_T, _ = tokenizer.encode(TEXTS)
    border = len(tokenizer.encode(TEXTS[:20])[0]) - 7  # within the last document before the copy
    options = ["--train-tokens", border, "--val-tokens", 300]
    told = run(path, tmp_path / "out", gpt2, "--corpus", "fineweb-edu", *options)
    assert told["source"]["left_out"] == {"equal to a training document": 1}
    assert np.array_equal(tokens_of(tmp_path / "out", "val"), stream_T[border : border + 300])
    assert faults(tmp_path / "out") == []


def test_a_stream_that_is_too_short_is_refused(tmp_path, pages, gpt2):
    """With what it has, and nothing is left behind."""
    with pytest.raises(ValueError, match="pages.jsonl has .* tokens for 10000000 to train on"):
        run(pages, tmp_path / "out", gpt2, "--corpus", "fineweb-edu")
    assert not list(tmp_path.glob("*out*")) and not list(tmp_path.glob(".*out*"))


def test_c4_is_packed(tmp_path, pages, model):
    """D4: BOS before and EOS after each document, back to back; nothing is padding.

    A row of training is a piece of that stream, so its targets are its inputs shifted by one.
    """
    run(pages, tmp_path / "out", model, "--corpus", "c4", "--val-documents", 5)
    plain = tokenizers.SentencePiece.load(model)
    for split, texts in (("val", TEXTS[:5]), ("train", TEXTS[5:])):
        expected = [[1, *plain.model.encode(text), 2] for text in texts]
        stream = sum(expected, [])
        assert tokens_of(tmp_path / "out", split).tolist() == stream
    text = TrainingText(
        train_gpt.Settings(
            data_path=str(tmp_path / "out"),
            vocab_size=300,
            train_seq_len=8,
            eval_stride=8,
            train_batch_tokens=8,
            micro_batch_tokens=8,
        )
    )
    pieces = {tuple(want_T) for want_T in np.lib.stride_tricks.sliding_window_view(stream, 9)}
    rows = text.rows(0, text.num_blocks).tokens_BT.tolist()
    assert len(rows) > 50 and set(map(tuple, rows)) <= pieces
    assert faults(tmp_path / "out") == []


def test_c4_padded(tmp_path, pages, model):
    """Rows of T tokens: cut at 6 T characters and at T tokens, never in a character, then EOS."""
    told = run(
        pages, tmp_path / "out", model, "--corpus", "c4", "--pad-to", 9, "--val-documents", 5
    )
    assert told["tokenizer"]["pad_to"] == 9
    plain = tokenizers.SentencePiece.load(model)
    rows = tokens_of(tmp_path / "out", "train").reshape(-1, 9)
    cut = 0
    for row_T, text in zip(rows.tolist(), TEXTS[5:], strict=True):
        ids = plain.model.encode(text[:54])
        kept = [i for i in row_T[1:] if i != 2]
        assert row_T[0] == 1 and ids[: len(kept)] == kept and row_T[1 + len(kept) :].count(1) == 0
        rest = ids[len(kept) : 8]
        assert all(plain.model.is_byte(i) for i in rest)
        cut += bool(rest)
        assert "\ufffd" not in plain.decode(np.array(row_T))
    assert faults(tmp_path / "out") == []


def test_a_row_is_not_cut_within_a_character(model):
    """Bytes of a character that does not fit are left to EOS."""
    padded = tokenizers.SentencePiece.load(model, pad_to=4)
    single = tokenizers.SentencePiece.load(model)
    tokens_T, bytes_T = padded.encode(["a\U0001f600b"])
    assert len(tokens_T) == 4 and tokens_T[-1] == 2
    text = padded.decode(tokens_T[1:])
    assert text == "a" and bytes_T.sum() == 1
    assert len(single.encode(["a\U0001f600b"])[0]) > 4
    text = " théâtre" * 8  # pieces of 8 characters: the text is cut before the tokens are
    assert len(single.encode([text])[0]) == 1 + 8
    tokens_T, _ = tokenizers.SentencePiece.load(model, pad_to=5).encode([text])
    assert text[:24] < single.decode(tokens_T) <= text[:30]


def test_wikitext(tmp_path, gpt2):
    """Lines that are not blank, with a blank one between, encoded at once; all of it validates."""
    raw = " = Title = \n \n A line . \n\n\n Another é . \n"
    (tmp_path / "wiki.test.raw").write_text(raw)
    told = run(tmp_path / "wiki.test.raw", tmp_path / "out", gpt2, "--corpus", "wikitext-103")
    tokenizer = tokenizers.load(told["tokenizer"], tmp_path / "out")
    tokens_T = tokens_of(tmp_path / "out", "val")
    assert tokens_T[0] == tokenizer.bos_id and tokenizer.bos_id not in tokens_T[1:]
    assert tokenizer.decode(tokens_T[1:]) == " = Title = \n\n A line . \n\n Another é . "
    assert told["splits"]["train"]["tokens"] == 0 and faults(tmp_path / "out") == []
    rows = [{"text": line} for line in raw.splitlines(True)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(tmp_path / "rows.jsonl", tmp_path / "rows", gpt2, "--corpus", "wikitext-103")
    assert np.array_equal(tokens_of(tmp_path / "rows", "val"), tokens_T)
    with pytest.raises(FileNotFoundError, match="no .*train"):
        read_split(tmp_path / "out", "train")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--corpus", "tinystories", "--val-documents", 3], "--val-documents 3 is not read by"),
        (["--corpus", "wikitext-103", "--range", "0:5"], "--range 0:5 is not read by"),
        (["--corpus", "c4", "--train-tokens", 5], "--train-tokens 5 is not read by"),
        (["--pad-to", 5, "--val-documents", 3], "--pad-to 5 is not read by"),
        (["--corpus", "c4", "--pad-to", 1, "--val-documents", 3], "--pad-to 1 must be 2 or more"),
        (["--corpus", "fineweb-edu", "--val-tokens", 0], "must be at least 1"),
        (["--corpus", "c4", "--val-documents", 3], "ends documents with EOS, which GPT-2 lacks"),
        (["--corpus", "tinystories"], "has 1 file; the first validates"),
    ],
)
def test_what_a_corpus_does_not_read_is_refused(tmp_path, pages, gpt2, options, message):
    """By flag and corpus, and nothing is left behind."""
    with pytest.raises(ValueError, match=message):
        run(pages, tmp_path / "out", gpt2, *options)
    assert not (tmp_path / "out").exists() and not (tmp_path / ".out.partial").exists()


def test_a_hub_set_without_files_and_a_tokenizer_without_text_are_refused(tmp_path, stories):
    """The hub's TinyStories is another text; bpe:N would read files that are not lines."""
    with pytest.raises(ValueError, match="no files to split by; unpack the archive"):
        next(corpora.shuffled_files("tinystories", corpora.CORPORA["tinystories"], "story"))
    with pytest.raises(ValueError, match="has no text to train bpe:300 on first; name a model"):
        run(stories, tmp_path / "out", "bpe:300", "--corpus", "tinystories")
    (stories / "data01.json").write_text("[1, 2")
    with pytest.raises(ValueError, match="data01.json is not a JSON array of objects"):
        list(corpora.shuffled_files(str(stories), corpora.CORPORA["tinystories"], "story"))


def test_verify_sees_what_was_changed(tmp_path, pages, gpt2):
    """In a stream marked after its documents too: other bytes of a token, another text."""
    options = ["--corpus", "fineweb-edu", "--train-tokens", 501, "--val-tokens", 203, "--name", "x"]
    run(pages, tmp_path / "out", gpt2, *options)
    tokens_T = tokens_of(tmp_path / "out", "val")
    second, third = np.flatnonzero(tokens_T == 261)[1:3] + 1
    path, told = tmp_path / "out/x_val_000000.bytes.bin", tmp_path / "out/manifest.json"
    bytes_T = np.array(read_shard(path))
    bytes_T[second], bytes_T[third] = bytes_T[second] - 1, bytes_T[third] + 1
    before = sha256_file(path)
    write_shard(path, bytes_T)
    told.write_text(told.read_text().replace(before, sha256_file(path)))
    actual = faults(tmp_path / "out")
    assert len(actual) == 1 and "bytes, not" in actual[0] and "2 documents of" in actual[0]
    with pytest.raises(ValueError, match="is more bytes than its token spells"):
        verify.check_start(tmp_path / "out", gpt2, 262)
    bytes_T[third] -= 1
    write_shard(path, bytes_T)
    told.write_text(told.read_text().replace(stated_hash(told, path), sha256_file(path)))
    with pytest.raises(ValueError, match="validation has .* bytes, its manifest says otherwise"):
        verify.check_start(tmp_path / "out", gpt2, 262)


@pytest.mark.parametrize("corpus", ["tinystories", "fineweb-edu"])
def test_a_baseline_trains_on_what_a_corpus_wrote(
    tmp_path, stories, pages, gpt2, monkeypatch, corpus
):
    """Start check, training and score by the folder's own bytes; the whole split is recognised."""
    numbers = ["--train-tokens", 1600, "--val-tokens", 303] if corpus == "fineweb-edu" else []
    source = pages if numbers else stories
    told = run(source, tmp_path / "out", gpt2, "--corpus", corpus, *numbers)
    V = told["tokenizer"]["vocab_size"]
    assert "data verified" in verify.check_start(tmp_path / "out", gpt2, V)
    monkeypatch.chdir(tmp_path)
    recipe = gpt2_124m.RECIPE
    settings = recipe.Settings(
        vocab_size=V,
        num_layers=1,
        model_dim=16,
        num_heads=2,
        train_seq_len=16,
        iterations=2,
        train_batch_tokens=32,
        micro_batch_tokens=32,
        warmup_steps=0,
        compile=False,
        eval_stride=16,
        val_loss_every=0,
        data_path=str(tmp_path / "out"),
        tokenizer_path=str(gpt2),
    )
    table = recipe.byte_table(settings.tokenizer_path, settings.vocab_size)
    val_T, table = evaluate.read_validation(settings.data_path, table)
    assert table.metric == "val_bpb"
    ranks = Ranks()
    run_folder = RunFolder(recipe.name, Choice(settings, "full", "as asked", {}), ranks, {})
    trainer = Trainer(recipe, settings, ranks, run_folder, recipe.text(settings), table)
    trainer.train(validate=lambda: None)
    score = trainer.score_blocks(val_T)
    assert (score.tokens, score.bytes) == (len(val_T) - 1, told["splits"]["val"]["bytes"])


def test_a_gpt2_folder_without_a_manifest_is_verified(tmp_path, stories, gpt2):
    """With --tokenizer naming the folder; another tokenizer folder is not that of the manifest."""
    run(stories, tmp_path / "out", gpt2, "--corpus", "tinystories", "--name", "x")
    assert faults(tmp_path / "out") == []
    other = write_vocabulary(tmp_path / "other", MERGES[:2])
    with pytest.raises(ValueError, match="is not the tokenizer of"):
        verify.check_start(tmp_path / "out", other, 259)
    actual = verify.verify(tmp_path / "out", other)
    assert any(f.check == "tokenizer" and f.level == "fault" for f in actual)
    assert gpt2_tokenizer.vocabulary_file(other).name == "vocab.json"
