"""English text from the Python that runs this: a data set without a download, in seconds.

The help pages (pydoc_data.topics) and the docstrings of the standard library are cut into
documents, cleaned of what is not prose, and split by document:

    DIR/datasets/toy_sp1024/toy_train_000000.bin   about 580,000 tokens
    DIR/datasets/toy_sp1024/toy_val_000000.bin     about 46,000 tokens
    DIR/tokenizers/toy_1024_bpe.model              trained on the training part alone

The same Python installation makes the same files, to the byte.
"""

import argparse
import ast
import fcntl
import hashlib
import importlib
import os
import re
import shutil
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

import evaluate
from data import next_step
from data.files import DATA_FOLDER, sha256_file
from data.manifest import VERSION, hash_document, read_manifest, write_index, write_manifest
from data.tokenizers import train_bpe
from engine.shards import read_shard, write_shard

TOY_DATASET = "datasets/toy_sp1024"
TOY_TOKENIZER = "tokenizers/toy_1024_bpe.model"
TOY_VOCAB_SIZE = 1024
TOY_VAL_BYTES = 115_000  # about 45,000 tokens: enough to rank smoke runs, seconds to score
TOY_MIN_BYTES = 1_000_000
# Raise when text, split, tokenizer or manifest change: older folders are then made again.
TOY_EDITION = 3
# Other people's packages, test fixtures, and a grammar library whose docstrings are code.
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3"}
HEADING = re.compile(r'\n(?=[^\n]+\n[*=~"-]{3,}\n)')
DOCTEST = re.compile(r"^[ \t]*>>> .*\n?(?:.*\S.*\n?)*", re.MULTILINE)
MIN_CHARACTERS = 80  # shorter pieces are scraps: "See above."
MIN_LETTER_FRAC = 0.75  # of what is not blank; code and tables have less
RUN_WORDS = 8  # a run of so many words that two texts share is a copy, not chance
MAX_SHARED_FRAC = 0.2  # of a document's runs


# Text ---------------------------------------------------------------------------------------------


def docstrings(folder: Path) -> Iterator[str]:
    """Yield docstrings of every module, class and function under the folder, without importing."""
    definitions = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    for path in sorted(folder.rglob("*.py")):
        if SKIPPED_FOLDERS & set(path.relative_to(folder).parts):
            continue
        nodes: list = [ast.parse(path.read_bytes(), path)]
        while nodes:
            node = nodes.pop()
            yield ast.get_docstring(node) or ""
            nodes += [child for child in node.body if isinstance(child, definitions)]


def clean(text: str) -> str:
    """Return the text without doctests and trailing blanks; empty when the rest is not prose."""
    text = DOCTEST.sub("", text.expandtabs())
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(r"\n{3,}", "\n\n", text).strip()
    letters = sum(map(str.isalpha, text))
    visible = sum(not char.isspace() for char in text)
    if len(text) < MIN_CHARACTERS or letters < MIN_LETTER_FRAC * visible:
        return ""
    # U+2581 is SentencePiece's own sign for a space and would come back as one.
    plain = all(char.isprintable() or char == "\n" for char in text) and "▁" not in text
    return text if plain else ""


def distinct(documents: Iterable[str], shared_frac: float = MAX_SHARED_FRAC) -> list[str]:
    """Return the documents of which at most shared_frac of the 8-word runs are in one kept before.

    Reference pages quote each other and modules copy docstrings; a copy on both sides of the split
    would let memory pass for skill. Long ones are kept first, so that excerpts go and sources stay.

    Example: a page, and its second paragraph as a docstring -> the page alone.
    """
    runs_kept: set[int] = set()
    kept = []
    for document in sorted(set(documents), key=lambda text: (-len(text), text)):
        words = re.findall(r"\w+", document.lower())
        places = range(max(1, len(words) - RUN_WORDS + 1))
        # Only membership counts, so the per-process salt of hash() changes nothing.
        runs = {hash(tuple(words[place : place + RUN_WORDS])) for place in places}
        if len(runs & runs_kept) <= shared_frac * len(runs):
            runs_kept |= runs
            kept.append(document)
    return kept


def toy_documents() -> list[str]:
    """Return distinct English documents from this Python, in the order of their hashes.

    Raises: FileNotFoundError when this Python comes without its documentation or its sources.
    """
    stdlib = Path(sysconfig.get_path("stdlib"))
    try:
        pages = list(importlib.import_module("pydoc_data.topics").topics.values())
    except ModuleNotFoundError:
        pages = []
    sections = [section for page in pages for section in HEADING.split(page)]
    documents = distinct(filter(None, map(clean, [*sections, *docstrings(stdlib)])))
    size_bytes = sum(len(document.encode()) for document in documents)
    if not pages or size_bytes < TOY_MIN_BYTES:
        raise FileNotFoundError(
            f"toy data is made of the text that comes with Python; {sys.executable} has "
            f"{len(pages)} help pages (pydoc_data.topics) and, with the sources under {stdlib}, "
            f"{size_bytes:,} bytes of prose; {TOY_MIN_BYTES:,} are needed. Use a complete CPython, "
            "or set DATA_PATH and TOKENIZER_PATH to data of your own"
        )
    # An order that has nothing to do with the text: the first documents are a fair sample.
    return sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest())


def split_documents(documents: list[str], val_bytes: int) -> dict[str, list[str]]:
    """Return whole documents for "val" until val_bytes are reached, all others for "train"."""
    splits: dict[str, list[str]] = {"train": [], "val": []}
    for document in documents:
        splits["val" if val_bytes > 0 else "train"].append(document)
        val_bytes -= len(document.encode())
    return splits


# Files --------------------------------------------------------------------------------------------


def write_split(documents: list[str], model_path: Path, shard: Path) -> dict[str, int]:
    """Write one shard, read it back, and prove that it holds these documents byte for byte."""
    import sentencepiece

    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(model_path))
    rows = [[evaluate.BOS_ID, *ids] for ids in tokenizer.encode(documents, num_threads=1)]
    write_shard(shard, np.concatenate([np.array(row, np.uint16) for row in rows]))
    tokens_T = np.array(read_shard(shard))
    table = evaluate.ByteTable.from_sentencepiece(model_path, tokenizer.vocab_size())
    counted = int(table.count(tokens_T[:-1], tokens_T[1:]).sum())  # the first token, a BOS, has 0
    size_bytes = sum(len(document.encode()) for document in documents)
    parts = np.split(tokens_T, np.flatnonzero(tokens_T == evaluate.BOS_ID)[1:])
    decoded = tokenizer.decode([part[1:].tolist() for part in parts])
    assert decoded == documents, f"{shard}: decoding gives another text"
    assert counted == size_bytes, f"{shard}: byte table says {counted}, the text has {size_bytes}"
    return {"documents": len(documents), "tokens": len(tokens_T), "bytes": size_bytes}


def toy_fault(out: Path) -> str:
    """Say why the toy data under out cannot be used as it is; empty when it can."""
    folder = out / TOY_DATASET
    try:
        manifest = read_manifest(folder)
        edition = manifest["source"].get("edition")
        if edition != TOY_EDITION:
            return f"it is of edition {edition}, this is {TOY_EDITION}"
        entries = [manifest["tokenizer"], manifest["document_index"], *manifest["shards"]]
        for entry in entries:
            if sha256_file(folder / entry["file"]) != entry["sha256"]:
                return f"{entry['file']} is not as it was written"
    except FileNotFoundError as error:
        return f"no {Path(error.filename).name}"
    except ValueError:
        return "manifest.json is damaged"
    return ""


def write_toy(folder: Path) -> None:
    """Make tokenizer, shards, document index and manifest under the empty folder."""
    dataset = folder / TOY_DATASET
    tokenizer = folder / TOY_TOKENIZER
    for path in (dataset, tokenizer.parent):
        path.mkdir(parents=True)
    documents = split_documents(toy_documents(), TOY_VAL_BYTES)
    # Validation text takes no part in the tokenizer either.
    tokenizer.write_bytes(train_bpe(documents["train"], TOY_VOCAB_SIZE))
    shards = []
    splits = {}
    for split in ("train", "val"):
        path = dataset / f"toy_{split}_000000.bin"
        counts = write_split(documents[split], tokenizer, path)
        splits[split] = counts | {"raw_bytes": counts["bytes"], "changed_documents": 0}
        shards.append(
            {
                "file": path.name,
                "split": split,
                "documents": counts["documents"],
                "tokens": counts["tokens"],
                "sha256": sha256_file(path),
                "sidecar": None,
            }
        )
    hashes = {split: map(hash_document, documents[split]) for split in splits}
    python = sys.version.split()[0]
    manifest = {
        "version": VERSION,
        "source": {
            "name": f"Python {python}: documentation and docstrings",
            "sha256": None,
            "edition": TOY_EDITION,
        },
        "tokenizer": {
            "kind": "sentencepiece",
            "file": os.path.relpath(tokenizer, dataset),
            "sha256": sha256_file(tokenizer),
            "vocab_size": TOY_VOCAB_SIZE,
        },
        "split_rule": {"rule": "first by hash", "val_documents": splits["val"]["documents"]},
        "splits": splits,
        "shards": shards,
        "sidecar_required": False,
        "bos_id": evaluate.BOS_ID,
        "document_index": write_index(dataset, hashes, "text"),
    }
    write_manifest(dataset, manifest)


def build_toy(out: Path = DATA_FOLDER) -> dict:
    """Make toy shards and tokenizer stand under out, whole; return their manifest.

    Everything is made in a side folder and renamed, tokenizer first. The manifest moves with the
    shards and holds the hashes of all three files, so a mixture of two builds is never trusted.
    """
    out = Path(out).resolve()
    dataset = out / TOY_DATASET
    tokenizer = out / TOY_TOKENIZER
    for folder in (dataset.parent, tokenizer.parent):
        folder.mkdir(parents=True, exist_ok=True)
    with (out / ".toy.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # freed by the system however this process ends
        for leftover in out.glob(".toy_build_*"):  # of a build that was killed
            shutil.rmtree(leftover)
        fault = toy_fault(out)
        if fault:
            print(f"toy data: building under {out} ({fault})", flush=True)
            started = time.perf_counter()
            side = Path(tempfile.mkdtemp(prefix=".toy_build_", dir=out))
            try:
                write_toy(side)
                os.replace(side / TOY_TOKENIZER, tokenizer)
                if dataset.exists():
                    dataset.rename(side / "old")
                (side / TOY_DATASET).rename(dataset)
            finally:
                shutil.rmtree(side)
            print(f"toy data: built in {time.perf_counter() - started:.1f}s")
        manifest = read_manifest(dataset)
    words = [f"toy data: {dataset}"]
    for split, counts in manifest["splits"].items():
        words += [f"{split}_{name}:{counts[name]}" for name in ("documents", "tokens", "bytes")]
        words.append(f"{split}_bytes_per_token:{counts['bytes'] / counts['tokens']:.3f}")
    print(" ".join(words))
    return manifest


# Command line -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=DATA_FOLDER, help="folder to write under (%(default)s)"
    )


def main(args: argparse.Namespace) -> int:
    manifest = build_toy(args.out)
    print(next_step.train_command(args.out / TOY_DATASET, manifest))
    return 0
