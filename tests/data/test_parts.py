"""A part: whole documents in full shards, and every interruption survived."""

import errno
import json
import multiprocessing
import os
import signal

import numpy as np
import pytest

import evaluate
from data import documents as documents_module
from data import manifest as manifests
from data import merge, parts, tokenizers
from data.documents import Request
from data.shard_file import ShardFile
from engine.shards import read_shard
from tests.data.conftest import TEXTS, VAL_DOCUMENTS, files, run_build, texts_in, write_jsonl


def test_shards_are_full_and_cut_only_what_is_longer(tmp_path, source, model):
    """None holds more than asked; only a document that fits in no shard is cut, into full ones."""
    told = run_build(source, tmp_path / "out", model, "--shard-tokens", 60)
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]
    shards = [read_shard(tmp_path / "out" / s["file"]) for s in told["shards"]]
    assert max(map(len, shards)) <= 60
    cut = [i for i, tokens_T in enumerate(shards) if tokens_T[0] != evaluate.BOS_ID]
    assert cut
    for i in cut:
        assert len(shards[i - 1]) == 60 and (shards[i - 1] == evaluate.BOS_ID).sum() <= 1
    for shard in run_build(source, tmp_path / "wide", model, "--shard-tokens", 100)["shards"]:
        assert read_shard(tmp_path / "wide" / shard["file"])[0] == evaluate.BOS_ID


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 5, 10])
def test_an_interrupted_build_goes_on(tmp_path, source, model, monkeypatch, after):
    """The second call gives what one call gives, and does not tokenise finished shards again."""
    texts = [*TEXTS[:30], "", TEXTS[0], *TEXTS[30:], " "]  # bad ones and a copy, counted once
    write_jsonl(source, texts)
    options = ["--shard-tokens", 300, "--name", "x", "--caseops", "--skip-bad"]
    single = run_build(source, tmp_path / "whole", model, *options)
    assert single["source"]["left_out"] == {"bad": 2, "equal to a validation document": 1}
    calls, tokenize = [], documents_module.tokenize

    def counted(block, *args):
        calls.append(block.first)
        if len(calls) == after:
            raise Interrupt
        return tokenize(block, *args)

    monkeypatch.setattr(documents_module, "tokenize", counted)
    with pytest.raises(Interrupt):
        run_build(source, tmp_path / "out", model, *options)
    assert not (tmp_path / "out").exists()
    part = tmp_path / ".out.partial" / "part_000000000000"
    (part / "x_train_000077.bin").write_bytes(b"torn")  # as a killed process leaves it
    with (part / parts.HASHES).open("ab") as file:
        file.write(b"torn")
    done = json.loads((part / parts.STATE).read_text())["next"]
    assert done > 0 or after == 1
    del calls[:]
    monkeypatch.setattr(
        documents_module, "tokenize", lambda *args: (calls.append(args[0]), tokenize(*args))[1]
    )
    assert run_build(source, tmp_path / "out", model, *options) == single
    assert calls[0].first == done
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / ".out.partial").exists()


def test_an_unfinished_build_takes_no_other_request(tmp_path, source, model, monkeypatch):
    """Other settings or another source do not go on where a first build stopped."""

    def stop(*args):
        raise Interrupt

    with monkeypatch.context() as patched, pytest.raises(Interrupt):
        patched.setattr(documents_module, "tokenize", stop)
        run_build(source, tmp_path / "out", model)
    with pytest.raises(ValueError, match="unfinished build with another request.*remove"):
        run_build(source, tmp_path / "out", model, "--caseops")
    write_jsonl(source, TEXTS[1:])
    with pytest.raises(ValueError, match="unfinished build with another source.*remove"):
        run_build(source, tmp_path / "out", model)


def killed_build(source, out, model) -> None:
    tokenize = documents_module.tokenize

    def last(block, *args):
        if block.first > 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return tokenize(block, *args)

    documents_module.tokenize = last
    run_build(source, out, model, "--shard-tokens", 300, "--name", "x")


def test_a_killed_build_goes_on(tmp_path, source, model):
    """SIGKILL leaves no folder, no lock and nothing that the next call trusts wrongly."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=killed_build, args=(source, tmp_path / "out", model))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "out").exists()
    for out in ("out", "whole"):
        run_build(source, tmp_path / out, model, "--shard-tokens", 300, "--name", "x")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    "bad, message",
    [
        ("", "the document is empty"),
        ("a\0b", "NUL at character 1"),
        ("\ud800", "lone surrogate at character 0"),
        (None, "'text' must be a string, not NoneType"),
        ("x " * 26_000_000, r"a document of 52.0 MB; at most 10.0 are taken"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_document_stops_the_build(tmp_path, source, model, bad, message, workers):
    """File, line, reason and remedy; nothing of the build stays, and --skip-bad gets past."""
    write_jsonl(source, [*TEXTS[:30], bad, *TEXTS[30:]])
    expected = f"{source}, line 31: {message}; repair it, or leave.*--skip-bad"
    with pytest.raises(ValueError, match=expected):
        run_build(source, tmp_path / "out", model, "--shard-tokens", 300, workers=workers)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    if workers == 1:
        told = run_build(source, tmp_path / "out", model, "--skip-bad")
        assert told["source"]["left_out"] == {"bad": 1}
        assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]


def test_a_full_disk_is_named_and_what_is_finished_is_kept(tmp_path, source, model, monkeypatch):
    """The shard under way goes, finished ones stay, and the same command completes the build."""
    append, written = ShardFile.append, []

    def full(self, tokens_T):
        written.append(len(tokens_T))
        if sum(written) > 1500:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, tokens_T)

    with monkeypatch.context() as patched:
        patched.setattr(ShardFile, "append", full)
        with pytest.raises(OSError, match="no space left for .*the same command again"):
            run_build(source, tmp_path / "out", model, "--shard-tokens", 400)
    part = tmp_path / ".out.partial" / "part_000000000000"
    shards = json.loads((part / parts.STATE).read_text())["shards"]
    assert shards and {path.name for path in part.glob("*.bin")} == {s["file"] for s in shards}
    run_build(source, tmp_path / "out", model, "--shard-tokens", 400)
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]


def test_training_documents_that_validate_are_left_out(tmp_path, source, model):
    """Exact copies of validation documents are dropped, counted, and absent from train."""
    write_jsonl(source, [*TEXTS, TEXTS[3], TEXTS[5], TEXTS[40]])
    told = run_build(source, tmp_path / "out", model)
    assert told["source"]["left_out"] == {"equal to a validation document": 2}
    assert texts_in(tmp_path / "out", "train") == [*TEXTS[VAL_DOCUMENTS:], TEXTS[40]]
    index = manifests.read_index(tmp_path / "out", told)
    assert len(manifests.shared(index["train"], index["val"])) == 0


def test_an_engine_hands_over_its_own_documents(tmp_path, source, model):
    """build_part takes an iterable, and the hashes of the part before it; merging joins both."""
    write_jsonl(source, [*TEXTS, TEXTS[3]])
    single = run_build(source, tmp_path / "whole", model, "--name", "x")
    work, texts = tmp_path / "work", [*TEXTS, TEXTS[3]]
    work.mkdir()
    (work / tokenizers.MODEL_FILE).write_bytes(model.read_bytes())
    entry = tokenizers.describe("sentencepiece", work / tokenizers.MODEL_FILE, False, False)
    request = Request("x", entry, VAL_DOCUMENTS)
    parts.build_part(texts[:20], work / "part_0", request, stop=20)
    with pytest.raises(ValueError, match="give val_hashes"):
        parts.build_part(texts[20:], work / "part_1", request, start=20)
    hashes = np.array([manifests.hash_document(text) for text in TEXTS[:VAL_DOCUMENTS]], np.uint64)
    parts.build_part(texts[20:], work / "part_1", request, start=20, val_hashes=hashes)
    told = merge.merge_parts(work, tmp_path / "out")
    assert told["splits"] == single["splits"]
    assert told["source"]["sha256"] == single["source"]["sha256"]
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]


def test_datasets_builds_ranges_in_its_processes(tmp_path, source, model):
    """The recipe of data/README.md: two processes of map, a range a batch, one merge."""
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    write_jsonl(source, [*TEXTS, TEXTS[3]])
    single = run_build(source, tmp_path / "whole", model, "--name", "x")
    work, size = tmp_path / "work", 20
    work.mkdir()
    (work / tokenizers.MODEL_FILE).write_bytes(model.read_bytes())
    entry = tokenizers.describe("sentencepiece", work / tokenizers.MODEL_FILE, False, False)
    request = Request("x", entry, VAL_DOCUMENTS)
    dataset = datasets.Dataset.from_dict({"text": [*TEXTS, TEXTS[3]]})
    documents_in_all = len(dataset)

    def build_range(texts, start, stop):
        val = None
        if start:
            val = np.fromfile(work / "part_000000000000/hashes.u64", "<u8", VAL_DOCUMENTS)
        part = work / f"part_{start:012d}"
        parts.build_part(texts, part, request, start=start, stop=stop, val_hashes=val)

    def build_batch(batch, at):
        stop = at[-1] + 1
        build_range(batch["text"], at[0], stop if stop < documents_in_all else None)
        return {"documents": [len(at)]}

    build_range(dataset[:size]["text"], 0, size)
    options = {"batched": True, "with_indices": True, "remove_columns": ["text"]}
    dataset.map(build_batch, batch_size=size, num_proc=2, **options)
    assert len(list(work.glob("part_*"))) == 4  # 31 and 30 documents, at most 20 a range
    told = merge.merge_parts(work, tmp_path / "out")
    assert told["splits"] == single["splits"]
    assert told["source"]["sha256"] == single["source"]["sha256"]
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]
