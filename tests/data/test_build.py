"""build: the same shards however they are made, nothing half-written, every fault by name."""

import argparse
import errno
import json
import multiprocessing
import os
import signal
from pathlib import Path

import numpy as np
import pytest

import evaluate
from data import build, manifest, sources, tokenizers

TEXTS = [f"Document {i} of NASA.\nThe word é{'😀' * (i % 3)} {i * 'x '}" for i in range(60)]
VAL = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A lossless model with the CaseOps markers, which serves without them too."""
    path = tmp_path_factory.mktemp("tokenizer") / "any.model"
    path.write_bytes(tokenizers.train_bpe(TEXTS, 300, use_caseops=True))
    return path


def write(path: Path, texts: list) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(sources, "BLOCK_BYTES", 500)  # several blocks
    return write(tmp_path / "source.jsonl", TEXTS)


def run(source, out, model, *options, workers=1, val_documents=VAL):
    parser = argparse.ArgumentParser()
    build.add_arguments(parser)
    given = [source] if source else []
    given += ["--tokenizer", model] if model else []
    given += ["--out", out, "--workers", workers, "--val-documents", val_documents, *options]
    return build.build(parser.parse_args(list(map(str, given))))


def documents(folder: Path, split: str) -> list[tuple[list[int], int]]:
    """Tokens and bytes of every document in the shards of a split."""
    told = manifest.read_manifest(folder)
    tokenizer = tokenizers.load(told["tokenizer"], folder)
    tokens, sizes = [], []
    for shard in told["shards"]:
        if shard["split"] == split:
            tokens_T = evaluate.read_shard(folder / shard["file"])
            assert len(tokens_T) == shard["tokens"]
            assert (tokens_T == told["bos_id"]).sum() == shard["documents"]
            tokens.append(tokens_T)
            if shard["sidecar"]:
                sizes.append(evaluate.read_shard(folder / shard["sidecar"]["file"]))
                assert len(sizes[-1]) == len(tokens_T)
    tokens_T = np.concatenate(tokens)
    bytes_T = np.concatenate(sizes) if sizes else np.zeros(len(tokens_T), np.uint16)
    start_D = np.flatnonzero(tokens_T == told["bos_id"])
    rows = zip(np.split(tokens_T, start_D[1:]), np.split(bytes_T, start_D[1:]), strict=True)
    return [(tokenizer.decode(ids_T[1:]), int(counts_T.sum())) for ids_T, counts_T in rows]


def texts_in(folder: Path, split: str) -> list[str]:
    return [text for text, _ in documents(folder, split)]


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file but the note of the times at which they were hashed."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


@pytest.mark.parametrize("options", [[], ["--caseops"], ["--caseops", "--fuse"], "bytes"])
def test_shards_hold_the_documents(tmp_path, source, model, options):
    """Every document stands whole in its split, in order, and its bytes count exactly."""
    given, options = ("bytes", []) if options == "bytes" else (model, options)
    told = run(source, tmp_path / "out", given, *options, "--shard-tokens", 400)
    sizes = {"train": TEXTS[VAL:], "val": TEXTS[:VAL]}
    for split, texts in sizes.items():
        found = documents(tmp_path / "out", split)
        assert [text for text, _ in found] == texts
        if told["sidecar_required"]:
            assert [size for _, size in found] == [len(text.encode()) for text in texts]
        counts = told["splits"][split]
        assert counts["documents"] == len(texts) and counts["changed_documents"] == 0
        assert counts["bytes"] == counts["raw_bytes"] == sum(len(t.encode()) for t in texts)
    assert told["sidecar_required"] == (given == "bytes" or "--caseops" in options)
    assert told == manifest.read_manifest(tmp_path / "out")
    assert told["source"]["documents"] == len(TEXTS) and told["source"]["left_out"] == {}
    index = manifest.read_index(tmp_path / "out", told)
    want = sorted(manifest.hash_document(text) for text in TEXTS[:VAL])
    assert index["val"].tolist() == want and len(index["train"]) == len(TEXTS) - VAL
    for shard in told["shards"]:
        assert manifest.sha256_file(tmp_path / "out" / shard["file"]) == shard["sha256"]


def test_shards_are_full_and_cut_only_what_is_longer(tmp_path, source, model):
    """None holds more than asked; only a document that fits in no shard is cut, into full ones."""
    told = run(source, tmp_path / "out", model, "--shard-tokens", 60)
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL:]
    shards = [evaluate.read_shard(tmp_path / "out" / s["file"]) for s in told["shards"]]
    assert max(map(len, shards)) <= 60
    cut = [i for i, tokens_T in enumerate(shards) if tokens_T[0] != evaluate.BOS_ID]
    assert cut
    for i in cut:
        assert len(shards[i - 1]) == 60 and (shards[i - 1] == evaluate.BOS_ID).sum() <= 1
    for shard in run(source, tmp_path / "wide", model, "--shard-tokens", 100)["shards"]:
        assert evaluate.read_shard(tmp_path / "wide" / shard["file"])[0] == evaluate.BOS_ID


def test_a_streamed_shard_is_write_shards(tmp_path):
    """Written in pieces, byte for byte what evaluate.py writes at once."""
    tokens_T = np.arange(1000, dtype=np.uint16)
    file = build.ShardFile(tmp_path / "pieces.bin")
    for piece_T in np.split(tokens_T, [3, 400]):
        file.append(piece_T)
    entry = file.close()
    evaluate.write_shard(tmp_path / "whole.bin", tokens_T)
    assert (tmp_path / "pieces.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert entry["sha256"] == manifest.sha256_file(tmp_path / "whole.bin")


def test_workers_change_nothing(tmp_path, source, model):
    """Two processes give the files that one gives, to the byte."""
    for workers in (1, 2):
        run(source, tmp_path / f"w{workers}", model, "--name", "x", "--caseops", workers=workers)
    assert files(tmp_path / "w1") == files(tmp_path / "w2")


class Interrupt(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 5, 10])
def test_an_interrupted_build_goes_on(tmp_path, source, model, monkeypatch, after):
    """The second call gives what one call gives, and does not tokenise finished shards again."""
    texts = [*TEXTS[:30], "", TEXTS[0], *TEXTS[30:], " "]  # bad ones and a copy, counted once
    write(source, texts)
    options = ["--shard-tokens", 300, "--name", "x", "--caseops", "--skip-bad"]
    whole = run(source, tmp_path / "whole", model, *options)
    assert whole["source"]["left_out"] == {"bad": 2, "equal to a validation document": 1}
    calls, tokenize = [], build.tokenize

    def counted(block, *args):
        calls.append(block.first)
        if len(calls) == after:
            raise Interrupt
        return tokenize(block, *args)

    monkeypatch.setattr(build, "tokenize", counted)
    with pytest.raises(Interrupt):
        run(source, tmp_path / "out", model, *options)
    assert not (tmp_path / "out").exists()
    part = tmp_path / ".out.partial" / "part_000000000000"
    (part / "x_train_000077.bin").write_bytes(b"torn")  # as a killed process leaves it
    with (part / build.HASHES).open("ab") as file:
        file.write(b"torn")
    done = json.loads((part / build.STATE).read_text())["next"]
    assert done > 0 or after == 1
    del calls[:]
    monkeypatch.setattr(
        build, "tokenize", lambda *args: (calls.append(args[0]), tokenize(*args))[1]
    )
    assert run(source, tmp_path / "out", model, *options) == whole
    assert calls[0].first == done
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / ".out.partial").exists()


def test_an_unfinished_build_takes_no_other_request(tmp_path, source, model, monkeypatch):
    """Other settings or another source do not go on where a first build stopped."""

    def stop(*args):
        raise Interrupt

    with monkeypatch.context() as patched, pytest.raises(Interrupt):
        patched.setattr(build, "tokenize", stop)
        run(source, tmp_path / "out", model)
    with pytest.raises(ValueError, match="unfinished build with another request.*remove"):
        run(source, tmp_path / "out", model, "--caseops")
    write(source, TEXTS[1:])
    with pytest.raises(ValueError, match="unfinished build with another source.*remove"):
        run(source, tmp_path / "out", model)


def killed_build(source, out, model) -> None:
    tokenize = build.tokenize

    def last(block, *args):
        if block.first > 40:
            os.kill(os.getpid(), signal.SIGKILL)
        return tokenize(block, *args)

    build.tokenize = last
    run(source, out, model, "--shard-tokens", 300, "--name", "x")


def test_a_killed_build_goes_on(tmp_path, source, model):
    """SIGKILL leaves no folder, no lock and nothing that the next call trusts wrongly."""
    fork = multiprocessing.get_context("fork")
    process = fork.Process(target=killed_build, args=(source, tmp_path / "out", model))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and not (tmp_path / "out").exists()
    for out in ("out", "whole"):
        run(source, tmp_path / out, model, "--shard-tokens", 300, "--name", "x")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize(
    "bad, message",
    [
        ("", "the document is empty"),
        ("a\0b", "NUL at character 1"),
        ("\ud800", "lone surrogate at character 0"),
        (None, "'text' must be a string"),
        ("x " * 26_000_000, r"a document of 52.0 MB; at most 10.0 are taken"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_bad_document_stops_the_build(tmp_path, source, model, bad, message, workers):
    """File, line, reason and remedy; nothing of the build stays, and --skip-bad gets past."""
    write(source, [*TEXTS[:30], bad, *TEXTS[30:]])
    want = f"{source}, line 31: {message}; repair it, or leave.*--skip-bad"
    with pytest.raises(ValueError, match=want):
        run(source, tmp_path / "out", model, "--shard-tokens", 300, workers=workers)
    assert [path.name for path in tmp_path.iterdir()] == [source.name]
    if workers == 1:
        told = run(source, tmp_path / "out", model, "--skip-bad")
        assert told["source"]["left_out"] == {"bad": 1}
        assert texts_in(tmp_path / "out", "train") == TEXTS[VAL:]


def test_bad_arguments_are_refused(tmp_path, source, model):
    """Each by name, before anything is written."""
    cases = [
        ((source, model, "--fuse"), {}, "--fuse.*add --caseops"),
        ((source, "bytes", "--caseops"), {}, "--caseops needs pieces"),
        ((source, "bpe:9"), {}, "N of bpe:N must be"),
        ((source, model, "--range", "3"), {}, "--range 3 must be START:STOP"),
        ((source, model, "--shard-tokens", 0), {}, "--shard-tokens 0 must be at least 1"),
        ((source, None), {}, "SOURCE and --tokenizer"),
        ((source, model), {"val_documents": 60}, "source.jsonl: 60 documents.*none to train on"),
        ((source, "bpe:5000"), {}, "cannot train 5000 pieces"),
    ]
    for (given, tokenizer, *options), changes, message in cases:
        with pytest.raises(ValueError, match=message):
            run(given, tmp_path / "out", tokenizer, *options, **changes)
        assert [path.name for path in tmp_path.iterdir()] == [source.name], message
    for given, tokenizer in ((tmp_path / "none", model), (source, tmp_path / "none.model")):
        with pytest.raises(FileNotFoundError, match="none"):
            run(given, tmp_path / "out", tokenizer)


def test_an_existing_folder_is_left_alone(tmp_path, source, model):
    """A build never changes a folder that it did not make."""
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="remove it, or name another --out"):
        run(source, tmp_path / "out", model)
    assert not list((tmp_path / "out").iterdir())


def test_two_builds_do_not_mix(tmp_path, source, model):
    """The second one is told that the folder is taken, and changes nothing."""
    work = tmp_path / ".out.partial"
    with manifest.folder_lock(work):
        with pytest.raises(BlockingIOError, match=f"another preparation is writing to {work}"):
            run(source, tmp_path / "out", model)
        assert [path.name for path in work.iterdir()] == [".lock"]
    run(source, tmp_path / "out", model)


def test_a_full_disk_is_named_and_what_is_finished_is_kept(tmp_path, source, model, monkeypatch):
    """The shard under way goes, finished ones stay, and the same command completes the build."""
    append, written = build.ShardFile.append, []

    def full(self, tokens_T):
        written.append(len(tokens_T))
        if sum(written) > 1500:
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, tokens_T)

    with monkeypatch.context() as patched:
        patched.setattr(build.ShardFile, "append", full)
        with pytest.raises(OSError, match="no space left for .*the same command again"):
            run(source, tmp_path / "out", model, "--shard-tokens", 400)
    part = tmp_path / ".out.partial" / "part_000000000000"
    shards = json.loads((part / build.STATE).read_text())["shards"]
    assert shards and {path.name for path in part.glob("*.bin")} == {s["file"] for s in shards}
    run(source, tmp_path / "out", model, "--shard-tokens", 400)
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL:]


def test_a_dead_worker_ends_the_build(tmp_path, source, model, monkeypatch):
    """It does not hang, and says what to try."""
    monkeypatch.setattr(build, "tokenize", lambda *args: os._exit(1))
    with pytest.raises(OSError, match="worker was killed.*fewer --workers"):
        run(source, tmp_path / "out", model, workers=2)


def test_training_documents_that_validate_are_left_out(tmp_path, source, model):
    """Exact copies of validation documents are dropped, counted, and absent from train."""
    write(source, [*TEXTS, TEXTS[3], TEXTS[5], TEXTS[40]])
    told = run(source, tmp_path / "out", model)
    assert told["source"]["left_out"] == {"equal to a validation document": 2}
    assert texts_in(tmp_path / "out", "train") == [*TEXTS[VAL:], TEXTS[40]]
    index = manifest.read_index(tmp_path / "out", told)
    assert len(manifest.shared(index["train"], index["val"])) == 0


def test_a_trained_tokenizer_never_sees_validation(tmp_path, source, monkeypatch):
    """bpe:N trains on the first training documents, states how many, and repeats itself."""
    seen, train = [], tokenizers.train_bpe
    monkeypatch.setattr(
        tokenizers, "train_bpe", lambda docs, *rest: train(seen.extend(docs) or seen, *rest)
    )
    told = run(source, tmp_path / "out", "bpe:320", "--sample-mb", 0.002, "--caseops")
    assert seen == TEXTS[VAL : VAL + len(seen)] and 0 < len(seen) < len(TEXTS) - VAL
    sample_bytes = sum(len(text.encode()) for text in seen)
    assert told["tokenizer"]["trained_on"] == {"documents": len(seen), "bytes": sample_bytes}
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL:]


def run_range(source, out, model, span, results) -> None:
    try:
        run(source, out, model, "--range", span, "--caseops", "--name", "x")
        results.put(None)
    except Exception as error:
        results.put(repr(error))
        raise


def test_ranges_built_by_two_processes_merge_into_one(tmp_path, source, model):
    """Two processes and one merge give the documents, index and source hash of a single build."""
    write(source, [*TEXTS, TEXTS[3]])  # a copy of a validation document, in the other range
    whole = run(source, tmp_path / "whole", model, "--caseops", "--name", "x")
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    spans = ["0:25", "25:"]
    given = [(source, tmp_path / "out", model, span, results) for span in spans]
    processes = [fork.Process(target=run_range, args=args) for args in given]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [None, None]
    for process in processes:
        process.join()
    told = run(None, tmp_path / "out", None, "--merge")
    for key in ("source", "splits", "tokenizer", "split_rule", "document_index", "request"):
        assert told[key] == whole[key], key
    for split in ("train", "val"):
        assert documents(tmp_path / "out", split) == documents(tmp_path / "whole", split)
    assert len(told["shards"]) == len(whole["shards"]) + 1
    assert not (tmp_path / ".out.partial").exists()


def test_merging_wants_every_range_once_and_of_one_request(tmp_path, source, model):
    """A missing, unfinished, foreign or last range that is absent is refused by name."""
    out, work = tmp_path / "out", tmp_path / ".out.partial"
    with pytest.raises(FileNotFoundError, match="build the ranges first"):
        run(None, out, None, "--merge")
    run(source, out, model, "--range", "0:20")
    with pytest.raises(ValueError, match="documents from 20 on are missing; build --range 20:"):
        run(None, out, None, "--merge")
    run(source, out, model, "--range", "40:")
    with pytest.raises(ValueError, match="part_000000000040 must start at document 20"):
        run(None, out, None, "--merge")
    run(source, out, model, "--range", "20:40", "--max-document-mb", 1)
    with pytest.raises(ValueError, match="part_000000000020 is of another request"):
        run(None, out, None, "--merge")
    state_path = work / "part_000000000020" / build.STATE
    state = json.loads(state_path.read_text())
    state_path.write_text(json.dumps(state | {"done": False}))
    with pytest.raises(ValueError, match="part_000000000020 is not finished"):
        run(None, out, None, "--merge")
    assert not out.exists()


def test_an_engine_hands_over_its_own_documents(tmp_path, source, model):
    """build_part takes an iterable, and the hashes of the part before it; merging joins both."""
    write(source, [*TEXTS, TEXTS[3]])
    whole = run(source, tmp_path / "whole", model, "--name", "x")
    work, texts = tmp_path / "work", [*TEXTS, TEXTS[3]]
    work.mkdir()
    (work / tokenizers.MODEL_FILE).write_bytes(model.read_bytes())
    entry = tokenizers.describe("sentencepiece", work / tokenizers.MODEL_FILE, False, False)
    request = build.Request("x", entry, VAL)
    build.build_part(texts[:20], work / "part_0", request, stop=20)
    with pytest.raises(ValueError, match="give val_hashes"):
        build.build_part(texts[20:], work / "part_1", request, start=20)
    hashes = np.array([manifest.hash_document(text) for text in TEXTS[:VAL]], np.uint64)
    build.build_part(texts[20:], work / "part_1", request, start=20, val_hashes=hashes)
    told = build.merge_parts(work, tmp_path / "out")
    assert told["splits"] == whole["splits"]
    assert told["source"]["sha256"] == whole["source"]["sha256"]
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL:]


def test_a_merge_refuses_validation_text_in_a_training_part(tmp_path, model):
    """A part built without the hashes of the first one cannot slip in a copy."""
    work = tmp_path / "work"
    work.mkdir()
    (work / tokenizers.MODEL_FILE).write_bytes(model.read_bytes())
    entry = tokenizers.describe("sentencepiece", work / tokenizers.MODEL_FILE, False, False)
    request = build.Request("x", entry, VAL)
    build.build_part(TEXTS[:20], work / "part_0", request, stop=20)
    none = np.zeros(0, np.uint64)
    build.build_part([TEXTS[3]], work / "part_1", request, start=20, val_hashes=none)
    with pytest.raises(ValueError, match="1 validation documents are in a training part"):
        build.merge_parts(work, tmp_path / "out")


def test_datasets_builds_ranges_in_its_processes(tmp_path, source, model):
    """The recipe of data/README.md: two processes of map, a range a batch, one merge."""
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    write(source, [*TEXTS, TEXTS[3]])
    whole = run(source, tmp_path / "whole", model, "--name", "x")
    work, size = tmp_path / "work", 20
    work.mkdir()
    (work / tokenizers.MODEL_FILE).write_bytes(model.read_bytes())
    entry = tokenizers.describe("sentencepiece", work / tokenizers.MODEL_FILE, False, False)
    request = build.Request("x", entry, VAL)
    dataset = datasets.Dataset.from_dict({"text": [*TEXTS, TEXTS[3]]})
    documents_in_all = len(dataset)

    def build_range(texts, start, stop):
        val = None
        if start:
            val = np.fromfile(work / "part_000000000000/hashes.u64", "<u8", VAL)
        part = work / f"part_{start:012d}"
        build.build_part(texts, part, request, start=start, stop=stop, val_hashes=val)

    def build_batch(batch, at):
        stop = at[-1] + 1
        build_range(batch["text"], at[0], stop if stop < documents_in_all else None)
        return {"documents": [len(at)]}

    build_range(dataset[:size]["text"], 0, size)
    options = {"batched": True, "with_indices": True, "remove_columns": ["text"]}
    dataset.map(build_batch, batch_size=size, num_proc=2, **options)
    assert len(list(work.glob("part_*"))) == 4  # 31 and 30 documents, at most 20 a range
    told = build.merge_parts(work, tmp_path / "out")
    assert told["splits"] == whole["splits"]
    assert told["source"]["sha256"] == whole["source"]["sha256"]
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL:]
