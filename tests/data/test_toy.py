"""The toy data: real text, split by document, lossless, and never half-written."""

import argparse
import hashlib
import json
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

import evaluate
import train_gpt
from baselines import pr334
from data import fetch, prepare, tokenizers, verify
from data import manifest as manifests
from data import toy as toy_data
from engine.shards import read_shard

ROOT = Path(__file__).parents[2]
MODEL = "tokenizers/toy_1024_bpe.model"


SHARDS = {name: f"datasets/toy_sp1024/toy_{name}_000000.bin" for name in ("train", "val")}


MANIFEST = "datasets/toy_sp1024/manifest.json"


def hashes(folder: Path) -> list[str]:
    names = (MODEL, *SHARDS.values())
    return [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names]


def word_runs(text: str) -> set[tuple]:
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 8]) for i in range(len(words) - 7)}


@pytest.fixture(scope="module")
def texts(toy) -> dict[str, list[str]]:
    """The documents of each split, decoded from the shards."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(toy / MODEL))
    documents = {}
    for split, name in SHARDS.items():
        tokens_T = np.array(read_shard(toy / name))
        parts = np.split(tokens_T, np.flatnonzero(tokens_T == evaluate.BOS_ID)[1:])
        documents[split] = tokenizer.decode([part[1:].tolist() for part in parts])
    return documents


@pytest.fixture
def small(monkeypatch):
    """Builds take a tenth of a second: sixty made-up documents instead of a standard library."""
    letters = "abcdefghijklmnopq"
    made_up = [" ".join(letters[i * j % 17] * (3 + i // 17) for j in range(60)) for i in range(61)]
    monkeypatch.setattr(toy_data, "toy_documents", lambda: made_up)
    monkeypatch.setattr(toy_data, "TOY_VOCAB_SIZE", 290)
    monkeypatch.setattr(toy_data, "TOY_VAL_BYTES", 1000)


def test_the_manifest_counts_what_the_shards_hold(toy, texts):
    """Documents, tokens and UTF-8 bytes of both splits; validation has 40,000 to 60,000 tokens."""
    splits = json.loads((toy / MANIFEST).read_text())["splits"]
    for split, counts in splits.items():
        tokens_T = np.array(read_shard(toy / SHARDS[split]))
        assert tokens_T[0] == evaluate.BOS_ID and tokens_T.max() < 1024
        assert counts["tokens"] == len(tokens_T)
        assert counts["documents"] == len(texts[split])
        assert counts["bytes"] == sum(len(text.encode()) for text in texts[split])
    assert 40_000 <= splits["val"]["tokens"] <= 60_000
    assert splits["train"]["tokens"] >= 400_000


def test_the_toy_folder_is_verified(toy):
    """Its manifest has the common schema, and every check of `verify` passes on it."""
    folder = toy / "datasets/toy_sp1024"
    manifest = manifests.read_manifest(folder)
    assert manifest["tokenizer"]["vocab_size"] == 1024 and not manifest["sidecar_required"]
    assert {finding.level for finding in verify.verify(folder)} == {"ok"}


def test_the_text_is_english_prose(texts):
    """No doctest, no scrap, no control characters; the commonest word is that of English."""
    documents = texts["train"] + texts["val"]
    assert not any(re.search(r"^\s*>>> ", text, re.MULTILINE) for text in documents)
    assert not any(char < " " and char != "\n" for text in documents for char in set(text))
    assert min(map(len, documents)) >= 80
    assert Counter(re.findall(r"\w+", " ".join(documents).lower())).most_common(1)[0][0] == "the"


def test_no_validation_text_is_in_the_training_text(texts):
    """No document is in both splits, and of the 8-word runs of validation under 5 % are."""
    everything = texts["train"] + texts["val"]
    assert len(set(everything)) == len(everything)
    train = set().union(*map(word_runs, texts["train"]))
    val = set().union(*map(word_runs, texts["val"]))
    assert len(val & train) < 0.05 * len(val)


def test_an_excerpt_is_dropped_and_its_source_is_kept():
    """A text that stands in a longer one goes, whatever the case and the line breaks."""
    long = " ".join(f"word{i}" for i in range(100))
    excerpt = long[100:400].upper().replace(" ", "\n")
    other = " ".join(f"other{i}" for i in range(50))
    assert sorted(toy_data.distinct([excerpt, long, other, long])) == sorted([long, other])


@pytest.mark.parametrize(
    "text, kept",
    [
        ("Some words that are long enough to be a text, " * 3, True),
        ("too short", False),
        ("x = {1: [2, 3], 4: (5, 6)} # " * 10, False),
        ("Words with \x00 inside, which no one could have meant to write. " * 3, False),
        ("Words with ▁ inside, which SentencePiece would give back as a space. " * 3, False),
    ],
)
def test_only_prose_is_clean(text, kept):
    """Short pieces, code, control characters and U+2581 make a text unfit."""
    assert toy_data.clean(text) == (text.strip() if kept else "")


def test_doctests_are_cut_out_and_the_words_around_them_stay():
    """The examples go up to the next empty line; the explanation before and after is kept."""
    before, after = "This explains a thing in words. " * 3, "And this is said after it. " * 3
    example = "    >>> f(\n    ...     1)\n    2\n\n"
    assert toy_data.clean(f"{before}\n\n{example}{after}") == f"{before.strip()}\n\n{after.strip()}"


def test_the_tokenizer_is_lossless(toy):
    """Decoding gives back emoji, CJK, NUL, tabs and runs of spaces, also at both ends."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(toy / MODEL))
    assert tokenizer.vocab_size() == 1024 and tokenizer.bos_id() == evaluate.BOS_ID
    text = "  two  spaces\ttab\x00 ﬁ é 日本 🙂\r\n\n end 2026 "
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert not tokenizer.encode("word", out_type=str)[0].startswith("▁")


def test_the_tokenizer_splits_numbers_into_digits():
    """However often a number stands in the text, its digits stay apart, as is the field's way."""
    model = tokenizers.train_bpe(["2026 and 2026 and 1999 " * 20, "and 2026 "] * 9, 272)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokenizer.encode("2026 and", out_type=str)[:4] == list("2026")


def test_long_documents_train_the_tokenizer():
    """A document beyond SentencePiece's default limit of 4192 bytes is not left out."""
    model = tokenizers.train_bpe(["zebra " * 2000], 271)
    tokenizer = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert tokenizer.encode("zebra zebra", out_type=str)[1] == "▁zebra"


def test_validation_text_does_not_train_the_tokenizer(small, tmp_path, monkeypatch):
    """The tokenizer sees the training documents and no other."""
    seen = []
    train = toy_data.train_bpe
    monkeypatch.setattr(toy_data, "train_bpe", lambda *args: seen.append(args[0]) or train(*args))
    toy_data.build_toy(tmp_path)
    splits = toy_data.split_documents(toy_data.toy_documents(), toy_data.TOY_VAL_BYTES)
    assert seen == [splits["train"]] and splits["val"]


def test_a_wrong_byte_count_stops_the_build(small, tmp_path, monkeypatch):
    """The byte table is compared with the text before anything gets its final name."""
    count = evaluate.ByteTable.count
    monkeypatch.setattr(evaluate.ByteTable, "count", lambda *args: count(*args) + 1)
    with pytest.raises(AssertionError, match="byte table says"):
        toy_data.build_toy(tmp_path)
    assert not any((tmp_path / name).exists() for name in (MODEL, *SHARDS.values(), MANIFEST))
    assert not list(tmp_path.glob(".toy_build_*"))


def test_the_command_makes_the_same_files_again(toy, tmp_path):
    """Another process with another hash seed, from another folder: the same bytes."""
    command = [sys.executable, "-m", "data.prepare", "toy", "--out", "here"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "train_documents:" in done.stdout and "val_bytes_per_token:" in done.stdout
    assert hashes(tmp_path / "here") == hashes(toy)


def test_text_is_put_where_training_looks_for_it(toy, tmp_path, monkeypatch):
    """From a folder of any name, through a link, without an option: below where one stands."""
    folder = tmp_path / "grüne Wiese"
    folder.mkdir()
    link = tmp_path / "link"
    link.symlink_to(folder)
    monkeypatch.chdir(link)
    options = argparse.ArgumentParser()
    toy_data.add_arguments(options)
    shutil.copytree(toy, options.parse_args([]).out)
    for recipe in (train_gpt.RECIPE, pr334.RECIPE):
        settings = recipe.Settings(**recipe.presets["smoke"])
        assert recipe.text(settings).num_blocks > 1000
        assert recipe.byte_table(settings.tokenizer_path, settings.vocab_size)
    options = argparse.ArgumentParser()
    fetch.add_arguments(options)
    shards = options.parse_args([]).out / "datasets/fineweb10B_sp1024"
    assert shards == Path(train_gpt.Settings().data_path)


def test_a_second_call_changes_nothing(small, tmp_path, capsys):
    """Data that is in place is left alone, which takes one line to say."""
    first = toy_data.build_toy(tmp_path)
    capsys.readouterr()
    times = [(tmp_path / name).stat().st_mtime_ns for name in (MODEL, MANIFEST)]
    assert toy_data.build_toy(tmp_path) == first
    assert times == [(tmp_path / name).stat().st_mtime_ns for name in (MODEL, MANIFEST)]
    assert capsys.readouterr().out.count("\n") == 1


def flip(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


@pytest.mark.parametrize("name", [MODEL, *SHARDS.values(), MANIFEST])
@pytest.mark.parametrize(
    "damage", [Path.unlink, flip, lambda path: os.truncate(path, 0)], ids=["gone", "flip", "empty"]
)
def test_damaged_data_is_made_again(small, tmp_path, name, damage):
    """A file that is missing, changed or empty is noticed and the whole set is rebuilt."""
    toy_data.build_toy(tmp_path)
    single = hashes(tmp_path)
    damage(tmp_path / name)
    assert toy_data.toy_fault(tmp_path)
    toy_data.build_toy(tmp_path)
    assert hashes(tmp_path) == single and not toy_data.toy_fault(tmp_path)


def test_data_of_an_older_edition_is_made_again(small, tmp_path, monkeypatch, capsys):
    """Raising the edition replaces what older code made, and says why."""
    toy_data.build_toy(tmp_path)
    monkeypatch.setattr(toy_data, "TOY_EDITION", toy_data.TOY_EDITION + 1)
    toy_data.build_toy(tmp_path)
    assert "of edition" in capsys.readouterr().out


def build_and_die(folder: Path, module: object, name: str, calls: int) -> None:
    """Build, and be killed just after the given call of a function that the build uses."""
    function = getattr(module, name)

    def deadly(*args, **kwargs):
        nonlocal calls
        result = function(*args, **kwargs)
        calls -= 1
        if calls == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, deadly)
    toy_data.build_toy(folder)


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize(
    "module, name, calls",
    [
        (toy_data.tempfile, "mkdtemp", 1),
        (toy_data, "write_shard", 1),
        (toy_data, "write_shard", 2),
        (toy_data, "write_index", 1),
        (toy_data, "write_manifest", 1),
        (toy_data.os, "replace", 1),
        (toy_data.Path, "rename", 1),
        (toy_data.Path, "rename", 2),
    ],
)
def test_a_killed_build_leaves_nothing_to_trust(small, tmp_path, module, name, calls, rebuild):
    """kill -9 after any step, over nothing or over damaged data: the next call makes it whole."""
    toy_data.build_toy(tmp_path / "reference")
    out = tmp_path / "out"
    if rebuild:
        toy_data.build_toy(out)
        flip(out / SHARDS["train"])
    context = multiprocessing.get_context("fork")
    process = context.Process(target=build_and_die, args=(out, module, name, calls))
    process.start()
    process.join()
    moves = 2 if rebuild else 1  # what is there is moved away first
    assert process.exitcode == (0 if (name, calls) == ("rename", moves + 1) else -signal.SIGKILL)
    toy_data.build_toy(out)
    assert hashes(out) == hashes(tmp_path / "reference")
    assert not list(out.glob(".toy_build_*"))


def test_three_builds_at_once_make_it_once(small, tmp_path, capfd, monkeypatch):
    """Three processes, one folder: one builds, the others wait and find the data in place."""
    documents = toy_data.toy_documents()
    monkeypatch.setattr(toy_data, "toy_documents", lambda: time.sleep(0.3) or documents)
    context = multiprocessing.get_context("fork")
    builders = [context.Process(target=toy_data.build_toy, args=(tmp_path,)) for _ in range(3)]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert [builder.exitcode for builder in builders] == [0, 0, 0]
    assert capfd.readouterr().out.count("built in") == 1
    assert not toy_data.toy_fault(tmp_path)


@pytest.mark.parametrize("lack", ["pydoc_data", "sources"])
def test_a_python_without_its_texts_is_told_so(tmp_path, monkeypatch, capsys, lack):
    """No help pages, or no sources: status 1, the remedy in words, and nothing written."""
    monkeypatch.setattr(toy_data.sysconfig, "get_path", lambda name: str(tmp_path / "empty"))
    if lack == "pydoc_data":
        monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
        monkeypatch.setattr(toy_data, "TOY_MIN_BYTES", 0)
    assert prepare.main(["toy", "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert "Use a complete CPython" in error and "DATA_PATH" in error
    assert not list((tmp_path / "out").rglob("toy_*"))
