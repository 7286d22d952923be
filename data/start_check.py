"""The cheap part of verifying, which every start of training runs: a second for 100 shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import evaluate
from data import gpt2_tokenizer
from data import manifest as manifests
from engine.shards import HEADER_BYTES, find_shards, read_shard

HEAD_TOKENS = 64  # tell one document from another
START_TOKENS = 1_000_000  # of each training shard, read at a start
MAX_PUBLISHED_FRAC = 0.01  # of documents that a published crawl may have in both splits


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"{message}; build or fetch it again (data/prepare.py)")


def check_start(folder: Path, tokenizer_path: Path, vocab_size: int) -> str:
    """Return a line for the run's log, or raise.

    With a manifest: every shard is there and no other, one touched since it was verified is hashed,
    tokenizer and counts are right. In any case: documents start with BOS, and of the first ones of
    a training shard not 1 % are in the validation split (the crawl itself repeats a few).

    Raises: ValueError naming the file or folder, what is wrong with it, and the remedy.
    """
    paths = find_shards(folder, "train")
    if (folder / manifests.MANIFEST).exists():
        manifest = manifests.read_manifest(folder)
        manifests.check_files(folder, manifest, tokenizer_path)
        source = manifest["source"]
        published = source.get("train_shards") or len(paths)
        note = f"data verified source:{source['name']} train_shards:{len(paths)}/{published}"
    else:
        manifest = None
        missing = f"{folder} has no {manifests.MANIFEST}"
        note = f"warning: {missing}; its first tokens alone were checked"
    table = gpt2_tokenizer.byte_table(tokenizer_path, vocab_size)
    val_T, table = evaluate.read_validation(folder, table)
    if manifest and table.metric != "val_bpb":
        counts = f"{(val_T == table.bos_id).sum()} documents and {table.total(val_T)} bytes"
        _require(False, f"{folder}: validation has {counts}, its manifest says otherwise")
    # Where BOS ends documents, validation may begin within one.
    starts_with_bos = not (manifest and manifest["tokenizer"].get("marks") == "after")
    if starts_with_bos:
        bos = f"BOS={table.bos_id}"
        _require(val_T[0] == table.bos_id, f"{folder}: validation must start with {bos}")
    val_D = _hash_heads(val_T, table.bos_id)
    documents = {s["file"]: s["documents"] for s in manifest["shards"]} if manifest else {}
    for path in paths:
        # With a manifest the checksum was compared already, by the hash of the whole file.
        read_shard(path, verify=manifest is None)
        has_starts = documents.get(path.name, 1) > 0
        _check_training_shard(path, table.bos_id, has_starts, val_D)
    return note


def _check_training_shard(path: Path, bos_id: int, has_starts: bool, val_D: np.ndarray) -> None:
    """Refuse a shard without document starts, and one that begins with validation documents."""
    tokens_T = np.fromfile(path, "<u2", START_TOKENS, offset=HEADER_BYTES)
    if has_starts:
        _require((tokens_T == bos_id).any(), f"{path} has no document start, BOS={bos_id}")
    shared_D = np.isin(_hash_heads(tokens_T, bos_id), val_D)
    few = shared_D.sum() <= MAX_PUBLISHED_FRAC * len(shared_D)
    message = f"{path}: of its first {len(shared_D)} documents {shared_D.sum()} are validation"
    _require(few, f"{message} documents")


def _hash_heads(tokens_T: np.ndarray, bos_id: int) -> np.ndarray:
    """Return a hash of the first HEAD_TOKENS tokens of every document: integers wrap."""
    start_D = np.flatnonzero(tokens_T[:-HEAD_TOKENS] == bos_id)
    head_DT = tokens_T[start_D[:, None] + np.arange(HEAD_TOKENS)].astype(np.uint64)
    factors_T = np.random.default_rng(0).integers(1 << 63, size=HEAD_TOKENS, dtype=np.uint64)
    return head_DT @ factors_T
