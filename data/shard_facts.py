"""What reading one shard whole tells about it and its documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.files import sha256_file
from data.manifest import hash_document
from data.near_duplicates import sampled_shingles
from engine.shards import read_shard, sidecar_path

AGAIN = "build or fetch it again"


@dataclass(frozen=True)
class ShardFacts:
    """What one shard holds, and what is wrong with it.

    A document may begin in one shard and end in the next. The shard of BOS a b BOS c has one whole
    document, a b, and a tail, BOS c; its neighbour that goes on with d BOS e has the head d, and
    the document c d is joined from both (join_hashes).
    """

    faults: list[tuple[str, str]]  # check, message
    documents: int = 0
    tokens: int = 0
    sidecar_bytes: int = 0
    hashes_D: np.ndarray | None = None  # of all documents that begin here, but for the last one
    head_T: np.ndarray | None = None  # before the first BOS: the end of the last shard's document
    tail_T: np.ndarray | None = None  # from the last BOS on
    shingles: np.ndarray | None = None  # rows (hash, document within the shard)


def documents_of(tokens_T: np.ndarray, bos_id: int) -> Iterator[np.ndarray]:
    """Yield the documents of a stream, each with its BOS."""
    starts = [*np.flatnonzero(tokens_T == bos_id).tolist(), len(tokens_T)]
    for start, end in zip(starts, starts[1:], strict=False):
        yield tokens_T[start:end]


def read_facts(
    path: Path,
    entry: dict | None,
    vocab_size: int,
    bos_id: int,
    needs_sidecar: bool,
    among_S: np.ndarray | None = None,
) -> ShardFacts:
    """Read a shard and its sidecar whole, and compare them with the manifest's entry, if any."""
    try:
        tokens_T = read_shard(path)
    except ValueError as error:
        return ShardFacts([("headers", str(error))])
    faults = []
    top = int(tokens_T.max())
    if top >= vocab_size:
        faults.append(("range", f"{path} holds token {top}, not below {vocab_size=}; {AGAIN}"))
    sidecar_bytes = 0
    if needs_sidecar or sidecar_path(path).exists():
        sidecar_bytes, sidecar_faults = _read_sidecar(path, len(tokens_T))
        faults += sidecar_faults
    starts = np.flatnonzero(tokens_T == bos_id)
    if entry:
        faults += _differences(path, entry, len(starts), len(tokens_T), bos_id)
    counts = (len(starts), len(tokens_T), sidecar_bytes)
    if not len(starts):
        return ShardFacts(faults, *counts, head_T=np.array(tokens_T))
    finished = documents_of(tokens_T[: starts[-1]], bos_id)
    return ShardFacts(
        faults,
        *counts,
        hashes_D=np.fromiter((hash_document(ids_T[1:]) for ids_T in finished), np.uint64),
        head_T=np.array(tokens_T[: starts[0]]),
        tail_T=np.array(tokens_T[starts[-1] :]),
        shingles=sampled_shingles(tokens_T, bos_id, among_S),
    )


def _read_sidecar(path: Path, tokens: int) -> tuple[int, list[tuple[str, str]]]:
    """Return the sum of a sidecar, and its faults."""
    sidecar = sidecar_path(path)
    try:
        bytes_T = read_shard(sidecar)
    except ValueError as error:
        return 0, [("sidecar", str(error))]
    faults = []
    if len(bytes_T) != tokens:
        message = f"{sidecar} has {len(bytes_T)} entries for {tokens} tokens"
        faults.append(("sidecar", f"{message}; {AGAIN}"))
    return int(bytes_T.sum(dtype=np.int64)), faults


def _differences(
    path: Path, entry: dict, documents: int, tokens: int, bos_id: int
) -> list[tuple[str, str]]:
    """Return where a shard differs from what the manifest says of it."""
    faults = []
    files = [(path, entry["sha256"])]
    if entry["sidecar"]:
        files.append((sidecar_path(path), entry["sidecar"]["sha256"]))
    for file, sha256 in files:
        if file.exists() and sha256_file(file) != sha256:
            message = f"{file} is not as it was written: its SHA-256 is another"
            faults.append(("hashes", f"{message}; {AGAIN}"))
    if documents != entry["documents"]:
        message = f"{path} has {documents} document starts (BOS={bos_id})"
        faults.append(("bos", f"{message} for {entry['documents']} documents; {AGAIN}"))
    if tokens != entry["tokens"]:
        message = f"{path} holds {tokens} tokens, the manifest says {entry['tokens']}"
        faults.append(("tokens", f"{message}; {AGAIN}"))
    return faults


def join_hashes(shards: list[ShardFacts]) -> np.ndarray:
    """Return the hashes of all documents of a split; one cut by the end of a shard is joined."""
    hashes: list[int] = []
    open_parts: list[np.ndarray] = []  # of the document that the next shard may go on with
    for shard in shards:
        if open_parts and shard.head_T is not None:
            open_parts.append(shard.head_T)
        if shard.tail_T is None:
            continue  # no document begins here
        if open_parts:
            hashes.append(hash_document(np.concatenate(open_parts)[1:]))
        hashes += shard.hashes_D.tolist()
        open_parts = [shard.tail_T]
    if open_parts:
        hashes.append(hash_document(np.concatenate(open_parts)[1:]))
    return np.array(hashes, dtype=np.uint64)
