"""A part: the shards of one range of documents, made by one process, that a merge joins.

A part folder holds

    NAME_train_000000.bin   shards, and NAME_train_000000.bytes.bin, their sidecars
    hashes.u64              8 bytes for each document, in source order (those of val first)
    state.json              the request, the range, what is counted, and where to go on:

    {"request": {…}, "start": 0, "stop": 5000000, "source": {…},
     "next": 1234, "done": false, "left_out": {"bad": 2},
     "splits": {"train": {"documents": 1000, "tokens": …, …}, "val": {…}},
     "shards": [{"split": "train", "documents": 1000, "tokens": …, "file": …, "sha256": …}]}

state.json is written when a shard is finished, after the shard and the hashes. So everything that
it names is on disk; what lies beside it is from a build that was cut off, and is written over.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np

from data import manifest as manifests
from data import sources
from data.counted_progress import CountedProgress
from data.documents import Documents, Request
from data.files import folder_lock, write_atomic
from data.packing import Piece, plan_pieces
from data.shard_file import ShardFile
from data.workers import worker_pool

STATE = "state.json"
HASHES = "hashes.u64"
COUNTS = ("documents", "tokens", "bytes", "raw_bytes", "changed_documents")
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class Part:
    """The shards of one range of documents, and where to go on after an interruption."""

    def __init__(self, folder: Path, request: Request, start: int, stop: int | None, source: dict):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.request = request
        self.state = self._read_or_begin(start, stop, source)
        self.files: list[ShardFile] = []  # of the shard being written: tokens, sidecar
        self.shard: dict = {}  # what is in it
        self.left_out: list[tuple[int, str]] = []  # number and reason, since the last shard
        hashes_path = folder / HASHES
        hashes_path.touch()
        # Hashes behind the last finished shard are of documents that will come again.
        os.truncate(hashes_path, manifests.HASH_BYTES * (self.count("train") + self.count("val")))
        self.val_hashes = np.fromfile(hashes_path, np.uint64, self.count("val"))
        self.hashes: list[np.ndarray] = []  # since the last shard
        self.save()

    def _read_or_begin(self, start: int, stop: int | None, source: dict) -> dict:
        task = {"request": asdict(self.request), "start": start, "stop": stop, "source": source}
        task = json.loads(json.dumps(task))  # as it comes back from a file
        state_path = self.folder / STATE
        if not state_path.exists():
            splits = {split: dict.fromkeys(COUNTS, 0) for split in manifests.SPLITS}
            progress = {"next": start, "done": False, "shards": [], "left_out": {}}
            return task | progress | {"splits": splits}
        state = json.loads(state_path.read_text())
        differs = [key for key in task if state[key] != task[key]]
        if differs:
            message = f"{self.folder} holds an unfinished build with another {differs[0]}"
            raise ValueError(f"{message}; finish it with its own command, or remove that folder")
        return state

    def count(self, split: str) -> int:
        return self.state["splits"][split]["documents"]

    def tokens(self, split: str) -> int:
        return self.state["splits"][split]["tokens"]

    def room(self) -> int:
        """Return how many tokens still fit into the shard; all of one where none is begun."""
        return self.request.shard_tokens - (self.shard["tokens"] if self.files else 0)

    def save(self) -> None:
        write_atomic(self.folder / STATE, json.dumps(self.state))

    def add(self, docs: Documents, split: str) -> None:
        """Append documents of one split, whole, and begin a new shard where they do not fit."""
        if not len(docs):
            return
        if self.files and self.shard["split"] != split:
            self.close(int(docs.number_D[0]))
        for piece in plan_pieces(docs.length_D, self.room(), self.request.shard_tokens):
            if piece.opens:
                # A build cannot go on from within a document.
                self.close(None if piece.continues else int(docs.number_D[piece.first]))
            self._write(docs, split, piece)

    def add_tokens(self, docs: Documents) -> bool:
        """Append documents as one stream, train first, each split cut where its tokens are full.

        A document counts where it ends. The first token of a split is not a target, so its bytes
        do not count. Validation leaves out what equals a training document.

        Example, 5 tokens to train on and 3 to validate, documents a a a x, b b x, c c x:
        train a a a x b, val b x c.

        Returns whether both splits are full.
        """
        request = self.request
        docs = self._without_training_copies(docs)
        ends_D = np.cumsum(docs.length_D)
        begin = 0
        for split, size in (("train", request.train_tokens), ("val", request.val_tokens)):
            missing = size - self.tokens(split)
            end = min(begin + missing, len(docs.tokens_T))
            if begin < end and missing == size:
                docs.bytes_T[begin] = 0
            while begin < end:
                if self.files and (self.room() == 0 or self.shard["split"] != split):
                    self.close(None)
                stop = min(end, begin + self.room())
                first, last = np.searchsorted(ends_D, [begin, stop], side="right").tolist()
                self._write(docs, split, Piece(first, last, begin, stop, opens=False))
                begin = stop
        return self.tokens("val") == request.val_tokens

    def _without_training_copies(self, docs: Documents) -> Documents:
        """Leave out documents behind the border of train that equal one before it."""
        room = self.request.train_tokens - self.tokens("train")
        trains_D = np.cumsum(docs.length_D) <= room
        if trains_D.all():
            return docs
        hashes_D = np.concatenate([*self.hashes, docs.hash_D[trains_D]])
        train_hashes_D = hashes_D[: self.count("train") + trains_D.sum()]
        same_D = ~trains_D & np.isin(docs.hash_D, train_hashes_D)
        self.leave_out(docs.number_D[same_D], "equal to a training document")
        return docs.select(~same_D)

    def leave_out(self, numbers: Iterable[int], reason: str) -> None:
        self.left_out += [(int(number), reason) for number in numbers]

    def _write(self, docs: Documents, split: str, piece: Piece) -> None:
        """Append the tokens of a piece, and count its documents."""
        if not self.files:
            self._begin_shard(split)
        tokens = slice(piece.begin, piece.end)
        counted = slice(piece.first, piece.last)
        # Without a sidecar there is one file, and the bytes go nowhere.
        rows = (docs.tokens_T[tokens], docs.bytes_T[tokens])
        for file, row_T in zip(self.files, rows, strict=False):
            file.append(row_T)
        counts = {
            "documents": piece.last - piece.first,
            "tokens": piece.end - piece.begin,
            "bytes": int(docs.bytes_T[tokens].sum(dtype=np.int64)),
            "raw_bytes": int(docs.raw_bytes_D[counted].sum()),
            "changed_documents": int(docs.changed_D[counted].sum()),
        }
        for key, value in counts.items():
            self.state["splits"][split][key] += value
        self.shard["documents"] += counts["documents"]
        self.shard["tokens"] += counts["tokens"]
        hash_D = docs.hash_D[counted]
        self.hashes.append(hash_D)
        if split == "val":
            self.val_hashes = np.concatenate([self.val_hashes, hash_D])

    def _begin_shard(self, split: str) -> None:
        number = sum(shard["split"] == split for shard in self.state["shards"])
        stem = f"{self.request.name}_{split}_{number:06d}"
        names = [f"{stem}.bin"]
        if self.request.needs_sidecar:
            names.append(f"{stem}.bytes.bin")
        self.shard = {"split": split, "documents": 0, "tokens": 0}
        self.files = [ShardFile(self.folder / name) for name in names]

    def close(self, next_document: int | None, done: bool = False) -> None:
        """Finish the shard; a build goes on from here if the next document is known."""
        if self.files:
            entries = [file.close() for file in self.files]
            self.files = []
            sidecar = entries[1] if len(entries) == 2 else None
            self.state["shards"].append(self.shard | entries[0] | {"sidecar": sidecar})
            print(f"shard {entries[0]['file']} tokens:{self.shard['tokens']}", flush=True)
        if next_document is None:
            return
        with (self.folder / HASHES).open("ab") as file:
            file.write(b"".join(hash_D.tobytes() for hash_D in self.hashes))
        self.hashes = []
        # Those behind the next document will be met again, and counted then.
        passed = Counter(reason for number, reason in self.left_out if number < next_document)
        self.left_out = [item for item in self.left_out if item[0] >= next_document]
        self.state["left_out"] = dict(Counter(self.state["left_out"]) + passed)
        self.state["next"] = next_document
        self.state["done"] = done
        self.save()

    def abandon(self) -> None:
        """Remove the shard that is being written; the finished ones stay."""
        for file in self.files:
            file.remove()


def build_part(
    source: str | Iterable[str],
    folder: Path,
    request: Request,
    *,
    start: int = 0,
    stop: int | None = None,
    workers: int = 1,
    about: dict | None = None,
    val_hashes: np.ndarray | None = None,
    documents_of_file: dict[str, int] | None = None,
) -> dict:
    """Write documents start..stop of a source into a part folder, as shards; return its state.

    The tokenizer's file lies in the folder above. Training documents that equal a validation
    document are left out and counted. For an iterable source, which begins at document start,
    val_hashes must say what the validation documents before it are. documents_of_file, of all files
    of the source by their paths, spares reading those that end before start.

    Raises: ValueError at the first document that cannot be used, unless the request skips those.
    """
    about = about or {"name": request.name}
    is_iterable = not isinstance(source, str | Path)
    if is_iterable and start and request.val_documents and val_hashes is None:
        raise ValueError(f"{start=}: give val_hashes, the document hashes of the part before")
    with folder_lock(folder):
        part = Part(folder, request, start, stop, about)
        begin = part.state["next"]
        if part.state["done"]:
            return part.state
        if is_iterable and begin > start:
            source = _skip(source, begin - start)
        options = {
            "field": request.field,
            "separator": request.separator,
            "val_documents": request.val_documents,
            "revision": about.get("revision"),
            "documents_of_file": documents_of_file,
        }
        with worker_pool(request, folder.parent, workers) as tokenized:
            if val_hashes is None:
                # A range that begins later still must know the validation documents before it.
                earlier = 0 if is_iterable else min(start, request.val_documents)
                blocks = sources.read(source, 0, earlier, **options) if earlier else []
                val_hashes = _hash_texts(blocks, request)
            progress = _Progress(source, begin, stop)
            try:
                blocks = sources.read(source, begin, stop, on_read=progress.on_read, **options)
                batches = progress.watched(tokenized(blocks))
                _fill(part, batches, np.asarray(val_hashes), about["name"])
            except BaseException as error:
                part.abandon()
                if isinstance(error, ValueError):
                    shutil.rmtree(folder)  # a source that is refused leaves nothing
                if isinstance(error, OSError) and error.errno in DISK_FULL:
                    message = f"no space left for {folder} ({error.strerror})"
                    remedy = "finished shards are kept; free some, then give the same command again"
                    raise OSError(f"{message}; {remedy}") from error
                raise
        return part.state


def _fill(
    part: Part, batches: Iterable[Documents], earlier_val_hashes: np.ndarray, source_name: str
) -> None:
    """Add all documents to the part, each to its split, and finish it."""
    request = part.request
    next_document = part.state["next"]
    for docs in batches:
        next_document = docs.end
        if docs.faults and not request.skip_bad:
            remedy = "repair it, or leave such documents out with --skip-bad"
            raise ValueError(f"{docs.faults[0][1]}; {remedy}")
        part.leave_out([number for number, _ in docs.faults], "bad")
        if request.split == "tokens":
            if part.add_tokens(docs):
                break
        else:
            _add_by_number(part, docs, earlier_val_hashes)
    if request.split == "tokens" and part.tokens("val") < request.val_tokens:
        there = part.tokens("train") + part.tokens("val")
        message = f"{source_name} has {there} tokens for {request.train_tokens} to train on and"
        remedy = "lower --train-tokens or --val-tokens"
        raise ValueError(f"{message} {request.val_tokens} to validate; {remedy}")
    part.close(next_document, done=True)


def _add_by_number(part: Part, docs: Documents, earlier_val_hashes: np.ndarray) -> None:
    """Add documents before the border to val, those behind it to train unless val has them."""
    val_D = docs.number_D < part.request.val_documents
    part.add(docs.select(val_D), "val")
    train = docs.select(~val_D)
    same_D = np.isin(train.hash_D, np.concatenate([earlier_val_hashes, part.val_hashes]))
    part.leave_out(train.number_D[same_D], "equal to a validation document")
    part.add(train.select(~same_D), "train")


def _hash_texts(blocks: Iterable[sources.Block], request: Request) -> np.ndarray:
    """Return the hashes of the documents of blocks that can be used, without tokenising them."""
    max_bytes = int(request.max_document_mb * 1e6)
    texts = (text for block in blocks for text in block.texts(request.field, max_bytes))
    hashes = [manifests.hash_document(text) for text in texts if isinstance(text, str)]
    return np.array(hashes, np.uint64)


class _Progress:
    """How far a part has come: by documents where the last one is known, else by bytes read.

    A source that is streamed has neither: then the documents are counted.
    """

    def __init__(self, source: str | Iterable[str], begin: int, stop: int | None):
        self.begin = begin
        self.by_bytes = stop is None and sources.total_bytes(source) is not None
        if self.by_bytes:
            self.counted = CountedProgress("build", sources.total_bytes(source), "bytes")
        else:
            self.counted = CountedProgress("build", stop and stop - begin)

    def on_read(self, size: int) -> None:
        if self.by_bytes:
            self.counted.add(size)

    def watched(self, batches: Iterable[Documents]) -> Iterator[Documents]:
        for docs in batches:
            if not self.by_bytes:
                self.counted.reach(docs.end - self.begin)
            yield docs
        self.counted.finish()


def _skip(texts: Iterable[str], count: int) -> Iterator[str]:
    return (text for number, text in enumerate(texts) if number >= count)
