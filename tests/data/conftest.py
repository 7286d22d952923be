"""Shared by the tests of data: builds by their arguments, and folders as a build leaves them."""

import argparse
import contextlib
import gzip
import io
import json
import os
import random
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zstandard

import train_gpt
from data import (
    build,
    containers,
    prepare,
    sources,
    tokenizers,
    verify,
)
from data import manifest as manifests
from data.files import sha256_file
from engine import trainer
from engine.shards import read_shard, sidecar_path, write_shard

TEXTS = [f"Document {i} of NASA.\nThe word é{'😀' * (i % 3)} {i * 'x '}" for i in range(60)]


VAL_DOCUMENTS = 10


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A lossless model with the CaseOps markers, which serves without them too."""
    path = tmp_path_factory.mktemp("tokenizer") / "any.model"
    path.write_bytes(tokenizers.train_bpe(TEXTS, 300, use_caseops=True))
    return path


def write_jsonl(path: Path, texts: list) -> Path:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(containers, "BLOCK_BYTES", 500)  # several blocks
    return write_jsonl(tmp_path / "source.jsonl", TEXTS)


def run_build(source, out, model, *options, workers=1, val_documents=VAL_DOCUMENTS):
    parser = argparse.ArgumentParser()
    build.add_arguments(parser)
    arguments = [source] if source else []
    arguments += ["--tokenizer", model] if model else []
    arguments += ["--out", out, "--workers", workers, "--val-documents", val_documents, *options]
    return build.build(parser.parse_args(list(map(str, arguments))))


def documents(folder: Path, split: str) -> list[tuple[list[int], int]]:
    """Tokens and bytes of every document in the shards of a split."""
    told = manifests.read_manifest(folder)
    tokenizer = tokenizers.load(told["tokenizer"], folder)
    tokens, sizes = [], []
    for shard in told["shards"]:
        if shard["split"] == split:
            tokens_T = read_shard(folder / shard["file"])
            assert len(tokens_T) == shard["tokens"]
            assert (tokens_T == told["bos_id"]).sum() == shard["documents"]
            tokens.append(tokens_T)
            if shard["sidecar"]:
                sizes.append(read_shard(folder / shard["sidecar"]["file"]))
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


WORDS = "time year people way Day man thing Woman life child WORLD school state Family iPhone é 🙂"


def made_up(count: int, seed: int) -> list[str]:
    """Documents of random words, no two alike."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS.split(), k=rng.randint(80, 160))) for _ in range(count)]


VAL_TEXTS = [f"{text} Ωμέγα" for text in made_up(40, 1)]  # letters that only byte pieces can spell


TRAIN_TEXTS = made_up(160, 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, bytes]:
    """Tokenizers of 300 pieces: of plain text, of other text, with CaseOps, and without U+2581."""
    joined = ["".join(made_up(20, 3)).replace(" ", "") + "abcdefghijklmnopqrstuvwxyz"] * 3
    text = TRAIN_TEXTS[:60]
    return {
        "plain": tokenizers.train_bpe(text, 300),
        "other": tokenizers.train_bpe([document[::-1] for document in text], 300),
        "caseops": tokenizers.train_bpe(text, 300, use_caseops=True),
        "bare": tokenizers.train_bpe(joined, 300),
    }


def make_folder(
    folder, models, kind="plain", train=TRAIN_TEXTS, val=VAL_TEXTS, bos=True, miscount=None, **more
):
    """A folder as `build` leaves it, by a build that may be faulty but is at one with itself."""
    folder.mkdir(parents=True)
    model = folder / "tokenizer.model"
    model.write_bytes(models[kind])
    entry = {"kind": "sentencepiece", "file": model.name, "sha256": sha256_file(model)}
    entry |= {"vocab_size": 300, "caseops": kind == "caseops", "fused": False}
    tokenizer = tokenizers.load(entry, folder)
    shards, splits = [], {}
    for split, texts in (("train", train), ("val", val)):
        splits[split] = dict.fromkeys(("documents", "tokens", "bytes", "raw_bytes"), 0)
        splits[split]["changed_documents"] = 0
        half = (len(texts) + 1) // 2
        for number, part in enumerate([texts[:half], texts[half:]]):
            tokens_T, bytes_T = tokenizer.encode(part)
            if miscount:
                bytes_T = bytes_T + miscount(tokenizer, tokens_T).astype(np.uint16)
            counts = {"documents": len(part), "tokens": len(tokens_T)}
            if not bos:
                tokens_T, bytes_T = tokens_T[tokens_T != 1], bytes_T[tokens_T != 1]
                counts["tokens"] = len(tokens_T)
            path = folder / f"x_{split}_{number:06d}.bin"
            write_shard(path, tokens_T)
            sidecar = None
            if kind == "caseops":
                side = sidecar_path(path)
                write_shard(side, bytes_T)
                sidecar = {"file": side.name, "sha256": sha256_file(side)}
            shard = {"file": path.name, "split": split, **counts, "sidecar": sidecar}
            shards.append(shard | {"sha256": sha256_file(path)})
            counts |= {"bytes": int(bytes_T.sum())}
            counts |= {"raw_bytes": sum(len(text.encode()) for text in part)}
            for key, value in counts.items():
                splits[split][key] += value
    hashes = {
        "train": map(manifests.hash_document, train),
        "val": map(manifests.hash_document, val),
    }
    manifest = {
        "version": 1,
        "source": {"name": "made up", "sha256": None},
        "tokenizer": entry,
        "split_rule": {"rule": "first", "val_documents": len(val)},
        "splits": splits,
        "shards": shards,
        "sidecar_required": kind == "caseops",
        "bos_id": 1,
        "document_index": manifests.write_index(folder, hashes, "text"),
    }
    manifests.write_manifest(folder, manifest | more)
    return folder


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget_checksum(path) -> None:
    """As published shards are: zeros in the reserved words of the header."""
    data = bytearray(path.read_bytes())
    data[12:1024] = bytes(1012)
    path.write_bytes(data)


def faults_of(folder, **options) -> dict[str, str]:
    actual: dict[str, str] = {}
    for finding in verify.verify(folder, **options):
        if finding.level == "fault":
            actual[finding.check] = f"{actual.get(finding.check, '')} {finding.message}"
    return actual


@pytest.fixture
def start_training(tmp_path, monkeypatch):
    """Train train_gpt.py's recipe as far as its run folder: the error it ends with, or nothing."""

    class ReachedTheRun(Exception):
        pass

    def stop(*args):
        raise ReachedTheRun

    def run_here(command, **options):
        """Instead of a process for data.prepare, which would cost a second each time."""
        assert command[1:3] == ["-m", "data.prepare"] and (options["cwd"] / "data").is_dir()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                status = prepare.main(command[3:])
        return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())

    def call(folder, model=None) -> str:
        settings = {"PRESET": "smoke", "VOCAB_SIZE": 300, "TRAIN_SEQ_LEN": 32, "ITERATIONS": 1}
        settings |= {"TRAIN_BATCH_TOKENS": 64, "MICRO_BATCH_TOKENS": 64, "EVAL_STRIDE": 32}
        settings |= {"DATA_PATH": folder, "TOKENIZER_PATH": model or folder / "tokenizer.model"}
        monkeypatch.setattr(os, "environ", {key: str(value) for key, value in settings.items()})
        monkeypatch.setattr(trainer, "RunFolder", stop)
        monkeypatch.setattr(trainer.subprocess, "run", run_here)
        monkeypatch.chdir(tmp_path)
        try:
            trainer.train(train_gpt.RECIPE)
        except SystemExit as error:
            return str(error)
        except ReachedTheRun:
            return ""

    return call


def assert_matches(pattern: str, text: str) -> None:
    assert text.startswith("error: ") and re.search(pattern, text), text


# Sources ------------------------------------------------------------------------------------------

SOURCE_TEXTS = [f"Document {i}.\nSecond line é {'x' * (i % 7)}" for i in range(50)]


MARK = sources.SEPARATOR


def jsonl(texts, field="text") -> bytes:
    return "".join(json.dumps({field: text}) + "\n" for text in texts).encode()


def write_parquet(path, texts, rows=7, field="text"):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pyarrow.table({"n": range(len(texts)), field: texts}), path, row_group_size=rows)


def write_source(path, texts):
    """A file of the kind that its name says."""
    if path.suffix == ".parquet":
        write_parquet(path, texts)
        return path
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    if ".txt" in path.suffixes:
        path.write_bytes(pack(f"\n{MARK}\n".join(texts).encode()))
    elif pack is bytes:
        path.write_bytes(jsonl(texts))
    else:  # two frames, as from cat
        path.write_bytes(pack(jsonl(texts[:9])) + pack(jsonl(texts[9:])))
    return path


def texts_of(source, start=0, stop=None, **options):
    blocks = list(sources.read(source, start, stop, **options))
    actual = [text for block in blocks for text in block.texts("text", 10**6)]
    assert [block.first for block in blocks][:1] in ([], [start])
    assert sum(block.count for block in blocks) == len(actual)
    return actual
