"""Documents to shards: read, tokenise on all cores, split by document, write, describe.

Everything is made in a work folder beside the one asked for and appears there in one rename, so a
folder that exists is whole. A build that was cut off goes on from its last finished shard. A range
of documents can be built alone, on another machine too; merging joins the parts of all ranges.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

import evaluate
import quantize
from data import gpt2_tokenizer, recipes, sources, tokenizers
from data import manifest as manifests

SHARD_TOKENS = 100_000_000
MAX_DOCUMENT_MB = 10.0
SAMPLE_MB = 100.0
STATE = "state.json"
HASHES = "hashes.u64"
PARTS = "part_*"
COUNTS = ("documents", "tokens", "bytes", "raw_bytes", "changed_documents")


@dataclass(frozen=True)
class Request:
    """What decides the content of a part: equal requests over one source give equal shards."""

    name: str
    tokenizer: dict  # the manifest's entry
    val_documents: int
    shard_tokens: int = SHARD_TOKENS
    field: str = "text"
    separator: str = sources.SEPARATOR
    max_document_mb: float = MAX_DOCUMENT_MB
    skip_bad: bool = False
    split: str = "first"  # the rule, see recipes.Recipe; the numbers are those of "tokens"
    train_tokens: int = 0
    val_tokens: int = 0

    @property
    def sidecar(self) -> bool:
        return self.tokenizer["caseops"] or self.tokenizer["kind"] != "sentencepiece"


@dataclass(frozen=True)
class Documents:
    """Tokenised documents (D) and their tokens (T), in source order."""

    number_D: np.ndarray  # in the source
    hash_D: np.ndarray
    raw_bytes_D: np.ndarray
    changed_D: np.ndarray
    length_D: np.ndarray
    tokens_T: np.ndarray
    bytes_T: np.ndarray
    end: int  # number of the first document behind them, good or not
    faults: tuple[tuple[int, str], ...] = ()  # number, and what is wrong

    def __len__(self) -> int:
        return len(self.number_D)

    def select(self, keep_D: np.ndarray) -> Documents:
        if keep_D.all():
            return self
        keep_T = np.repeat(keep_D, self.length_D)
        per_token = {"tokens_T": self.tokens_T[keep_T], "bytes_T": self.bytes_T[keep_T]}
        names = ("number_D", "hash_D", "raw_bytes_D", "changed_D", "length_D")
        return replace(self, **{n: getattr(self, n)[keep_D] for n in names}, **per_token)


def tokenize(block: sources.Block, tokenizer, request: Request) -> Documents:
    """Tokenise a block; documents that cannot be used become faults."""
    found = block.texts(request.field, int(request.max_document_mb * 1e6))
    good_D = np.array([isinstance(text, str) for text in found], bool)
    texts = [text for text in found if isinstance(text, str)]
    raw_bytes_D = np.array([len(text.encode()) for text in texts], np.int64)
    if texts:
        tokens_T, bytes_T = tokenizer.encode(texts)
    else:
        tokens_T = bytes_T = np.zeros(0, np.uint16)
    start_D = np.flatnonzero(tokens_T == tokenizer.bos_id)
    assert len(start_D) == len(texts), f"{block.where}: {len(start_D)} BOS, {len(texts)} documents"
    text_at = slice(1, None)
    if getattr(tokenizer, "marks", "") == "after" and texts:  # BOS ends a document
        start_D, text_at = np.append(0, start_D[:-1] + 1), slice(None, -1)
    length_D = np.diff(start_D, append=len(tokens_T))
    excess_D = -raw_bytes_D
    if texts:
        excess_D = np.add.reduceat(bytes_T, start_D, dtype=np.int64) - raw_bytes_D
    rows = zip(texts, np.split(tokens_T, start_D[1:]), excess_D.tolist(), strict=False)
    return Documents(
        number_D=block.first + np.flatnonzero(good_D),
        hash_D=np.array([manifests.hash_document(text) for text in texts], np.uint64),
        raw_bytes_D=raw_bytes_D,
        changed_D=np.array([tokenizer.changed(t, ids_T[text_at], e) for t, ids_T, e in rows], bool),
        length_D=length_D,
        tokens_T=tokens_T,
        bytes_T=bytes_T,
        end=block.first + block.count,
        faults=tuple(
            (block.first + i, str(fault)) for i, fault in enumerate(found) if not good_D[i]
        ),
    )


_worker: dict = {}  # of a worker process: what its calls have in common


def _start_worker(request: Request, folder: Path, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent stops its workers

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # a killed parent would leave its workers waiting for ever

    threading.Thread(target=watch, daemon=True).start()
    _worker.update(request=request, tokenizer=tokenizers.load(request.tokenizer, folder))


def _in_worker(block: sources.Block) -> Documents:
    return tokenize(block, _worker["tokenizer"], _worker["request"])


def _ready() -> None:
    """Does nothing: a first call starts the workers."""


@contextlib.contextmanager
def worker_pool(request: Request, folder: Path, workers: int) -> Iterator[Callable]:
    """A map from blocks to Documents, in order, with few blocks under way at a time."""
    if workers == 1:
        tokenizer = tokenizers.load(request.tokenizer, folder)
        yield lambda blocks: (tokenize(block, tokenizer, request) for block in blocks)
        return
    # Forked before anything starts threads; what was imported is then shared memory.
    pool = ProcessPoolExecutor(
        workers,
        multiprocessing.get_context("fork"),
        initializer=_start_worker,
        initargs=(request, folder, os.getpid()),
    )

    def in_order(blocks: Iterable[sources.Block]) -> Iterator[Documents]:
        pending: deque = deque()
        for block in blocks:
            pending.append(pool.submit(_in_worker, block))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    try:
        pool.submit(_ready).result()
        yield in_order
    except BrokenProcessPool:
        what = "a worker was killed, most likely for want of memory"
        raise OSError(f"{what}; give the same command again with fewer --workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


class ShardFile:
    """A shard as evaluate.write_shard makes it, written while its tokens come."""

    def __init__(self, path: Path):
        self.path, self.count, self.checksum = path, 0, 0
        self.file = path.open("wb")
        self.file.write(bytes(evaluate.HEADER_BYTES))

    def append(self, tokens_T: np.ndarray) -> None:
        body = tokens_T.astype("<u2").tobytes()
        self.file.write(body)
        self.count, self.checksum = self.count + len(tokens_T), zlib.crc32(body, self.checksum)

    def close(self) -> dict:
        header = np.full(evaluate.HEADER_BYTES // 4, self.checksum, "<u4")
        header[:3] = evaluate.SHARD_MAGIC, evaluate.SHARD_VERSION, self.count
        self.file.seek(0)
        self.file.write(header.tobytes())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"file": self.path.name, "sha256": manifests.sha256_file(self.path)}


class Part:
    """The shards of one range of documents, and where to go on after an interruption."""

    def __init__(self, folder: Path, request: Request, start: int, stop: int | None, source: dict):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.request, self.files = folder, request, []
        asked = {"request": asdict(request), "start": start, "stop": stop, "source": source}
        asked = json.loads(json.dumps(asked))
        state_path = folder / STATE
        if state_path.exists():
            self.state = json.loads(state_path.read_text())
            differs = [key for key in asked if self.state[key] != asked[key]]
            if differs:
                what = f"{folder} holds an unfinished build with another {differs[0]}"
                raise ValueError(f"{what}; finish it with its own command, or remove that folder")
        else:
            splits = {split: dict.fromkeys(COUNTS, 0) for split in manifests.SPLITS}
            progress = {"next": start, "done": False, "shards": [], "left_out": {}}
            self.state = asked | progress | {"splits": splits}
        self.left_out: list[tuple[int, str]] = []  # number and reason, since the last shard
        hashes_path, documents = folder / HASHES, self.count("train") + self.count("val")
        hashes_path.touch()
        os.truncate(hashes_path, 8 * documents)
        self.val_hashes = np.fromfile(hashes_path, np.uint64, self.count("val"))
        self.hashes: list[np.ndarray] = []  # since the last shard
        self.save()

    def count(self, split: str) -> int:
        return self.state["splits"][split]["documents"]

    def tokens(self, split: str) -> int:
        return self.state["splits"][split]["tokens"]

    def save(self) -> None:
        manifests.write_atomic(self.folder / STATE, json.dumps(self.state))

    def add(self, docs: Documents, split: str) -> None:
        """Append documents of one split, whole, and begin a new shard where they do not fit."""
        limit, first, at = self.request.shard_tokens, 0, 0
        ends_D = np.cumsum(docs.length_D)
        while first < len(docs):
            if self.files and self.shard["split"] != split:
                self.close(int(docs.number_D[first]))
            room = limit - (self.shard["tokens"] if self.files else 0)
            last = int(np.searchsorted(ends_D, at + room, side="right"))
            if last > first:
                end = int(ends_D[last - 1])
                self._write(docs, split, first, last, at, end)
                at = end
            elif self.files:
                self.close(int(docs.number_D[first]))
                continue
            else:  # one document longer than a shard: the only one that is cut
                last = first + 1
                for begin in range(at, int(ends_D[first]), limit):
                    if self.files:
                        self.close(None)
                    end = min(begin + limit, int(ends_D[first]))
                    self._write(docs, split, first, last if begin == at else first, begin, end)
                at = int(ends_D[first])
            first = last

    def add_tokens(self, docs: Documents) -> bool:
        """Append documents as one stream, train first, each split cut where its tokens are full.

        A document counts where it ends. The first token of a split is no target, so its bytes do
        not count. Validation leaves out what equals a training document.
        Returns whether both splits are full.
        """
        request, begin = self.request, 0
        whole_D = np.cumsum(docs.length_D) <= request.train_tokens - self.tokens("train")
        if not whole_D.all():
            train_D = np.concatenate([*self.hashes, docs.hash_D[whole_D]])
            known_D = train_D[: self.count("train") + whole_D.sum()]
            same_D = ~whole_D & np.isin(docs.hash_D, known_D)
            same = docs.number_D[same_D].tolist()
            self.left_out += [(number, "equal to a training document") for number in same]
            docs = docs.select(~same_D)
        ends_D = np.cumsum(docs.length_D)
        for split, size in (("train", request.train_tokens), ("val", request.val_tokens)):
            rest = size - self.tokens(split)
            end = min(begin + rest, len(docs.tokens_T))
            if begin < end and rest == size:
                docs.bytes_T[begin] = 0
            while begin < end:
                full = self.files and self.shard["tokens"] == request.shard_tokens
                if full or (self.files and self.shard["split"] != split):
                    self.close(None)
                room = request.shard_tokens - (self.shard["tokens"] if self.files else 0)
                stop = min(end, begin + room)
                first, last = np.searchsorted(ends_D, [begin, stop], side="right").tolist()
                self._write(docs, split, first, last, begin, stop)
                begin = stop
        return self.tokens("val") == request.val_tokens

    def _write(self, docs: Documents, split: str, first: int, last: int, at: int, end: int) -> None:
        if not self.files:
            number = sum(shard["split"] == split for shard in self.state["shards"])
            stem = f"{self.request.name}_{split}_{number:06d}"
            names = [f"{stem}.bin"] + [f"{stem}.bytes.bin"] * self.request.sidecar
            self.shard = {"split": split, "documents": 0, "tokens": 0}
            self.files = [ShardFile(self.folder / name) for name in names]
        rows = (docs.tokens_T[at:end], docs.bytes_T[at:end])
        for file, row_T in zip(self.files, rows, strict=False):
            file.append(row_T)
        counts = {
            "documents": last - first,
            "tokens": end - at,
            "bytes": int(docs.bytes_T[at:end].sum(dtype=np.int64)),
            "raw_bytes": int(docs.raw_bytes_D[first:last].sum()),
            "changed_documents": int(docs.changed_D[first:last].sum()),
        }
        for key, value in counts.items():
            self.state["splits"][split][key] += value
        self.shard["documents"] += counts["documents"]
        self.shard["tokens"] += counts["tokens"]
        self.hashes.append(docs.hash_D[first:last])
        if split == "val":
            self.val_hashes = np.concatenate([self.val_hashes, docs.hash_D[first:last]])

    def close(self, next_document: int | None, done: bool = False) -> None:
        """Finish the shard; a build goes on from here if the next document is known."""
        if self.files:
            (tokens, *sidecar), self.files = [file.close() for file in self.files], []
            sidecar = sidecar[0] if sidecar else None
            self.state["shards"].append(self.shard | tokens | {"sidecar": sidecar})
            print(f"shard {tokens['file']} tokens:{self.shard['tokens']}", flush=True)
        if next_document is None:
            return
        with (self.folder / HASHES).open("ab") as file:
            file.write(b"".join(hash_D.tobytes() for hash_D in self.hashes))
        passed = Counter(what for number, what in self.left_out if number < next_document)
        self.left_out = [item for item in self.left_out if item[0] >= next_document]
        self.hashes = []
        left_out = dict(Counter(self.state["left_out"]) + passed)
        self.state |= {"next": next_document, "done": done, "left_out": left_out}
        self.save()

    def abandon(self) -> None:
        """Remove the shard that is being written; the finished ones stay."""
        for file in self.files:
            with contextlib.suppress(OSError):  # a full disk fails here too, with the same news
                file.file.close()
            file.path.unlink(missing_ok=True)


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
) -> dict:
    """Documents start..stop of a source stand in a part folder, as shards; returns its state.

    The tokenizer's file lies in the folder above. Training documents that equal a validation
    document are left out and counted. For an iterable source, which begins at document start,
    val_hashes must say what the validation documents before it are.

    Raises: ValueError at the first document that cannot be used, unless the request skips those.
    """
    about, given = about or {"name": request.name}, not isinstance(source, str | Path)
    if given and start and request.val_documents and val_hashes is None:
        raise ValueError(f"{start=}: give val_hashes, the document hashes of the part before")
    with manifests.folder_lock(folder):
        part = Part(folder, request, start, stop, about)
        if part.state["done"]:
            return part.state
        if given and part.state["next"] > start:
            source = _skip(source, part.state["next"] - start)
        options = {"field": request.field, "separator": request.separator}
        options |= {"val_documents": request.val_documents, "revision": about.get("revision")}
        begin, border = part.state["next"], request.val_documents
        with worker_pool(request, folder.parent, workers) as mapped:
            known = np.zeros(0, np.uint64) if val_hashes is None else np.asarray(val_hashes)
            if val_hashes is None and start and not given:
                before = sources.read(source, 0, min(start, border), **options)
                known = np.concatenate([known, *(docs.hash_D for docs in mapped(before))])
            try:
                for docs in mapped(sources.read(source, begin, stop, **options)):
                    begin = docs.end
                    if docs.faults and not request.skip_bad:
                        what = "repair it, or leave such documents out with --skip-bad"
                        raise ValueError(f"{docs.faults[0][1]}; {what}")
                    part.left_out += [(number, "bad") for number, _ in docs.faults]
                    if request.split == "tokens":
                        if part.add_tokens(docs):
                            break
                        continue
                    val_D = docs.number_D < border
                    part.add(docs.select(val_D), "val")
                    train = docs.select(~val_D)
                    same_D = np.isin(train.hash_D, np.concatenate([known, part.val_hashes]))
                    same = train.number_D[same_D].tolist()
                    part.left_out += [(number, "equal to a validation document") for number in same]
                    part.add(train.select(~same_D), "train")
                if request.split == "tokens" and part.tokens("val") < request.val_tokens:
                    found, want = (part.tokens(s) for s in manifests.SPLITS), request.train_tokens
                    what = f"{about['name']} has {sum(found)} tokens for {want} to train on and"
                    remedy = "lower --train-tokens or --val-tokens"
                    raise ValueError(f"{what} {request.val_tokens} to validate; {remedy}")
                part.close(begin, done=True)
            except BaseException as error:
                part.abandon()
                if isinstance(error, ValueError):
                    shutil.rmtree(folder)  # a source that is refused leaves nothing
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                    what = f"no space left for {folder} ({error.strerror})"
                    kept = "finished shards are kept; free some, then give the same command again"
                    raise OSError(f"{what}; {kept}") from error
                raise
        return part.state


def _skip(texts: Iterable[str], count: int) -> Iterator[str]:
    return (text for number, text in enumerate(texts) if number >= count)


def merge_parts(work: Path, out: Path) -> dict:
    """The parts under a work folder stand in out as one data set; returns its manifest.

    Raises: ValueError where parts are missing, overlap, or come from different requests.
    """
    folders = sorted(work.glob(PARTS))
    if not folders:
        raise FileNotFoundError(f"no {work / PARTS}; build the ranges first, with --range")
    states = {folder: json.loads((folder / STATE).read_text()) for folder in folders}
    # A range behind the end of the source is empty.
    folders = [
        f for f in folders if not states[f]["done"] or states[f]["next"] > states[f]["start"]
    ]
    folders.sort(key=lambda folder: states[folder]["start"])
    if not folders:
        raise ValueError(f"{work}: the source has no documents; give another one")
    first = states[folders[0]]
    request, border = first["request"], 0
    for folder in folders:
        state = states[folder]
        for what, is_so in (
            ("is not finished; give its command again", not state["done"]),
            ("is of another request; build it anew", state["request"] != request),
            ("is of another source; build it anew", state["source"] != first["source"]),
            (f"must start at document {border}; build that range", state["start"] != border),
        ):
            if is_so:
                raise ValueError(f"{folder} {what}")
        border, stop = state["next"], state["stop"]
    if stop is not None and border >= stop:
        raise ValueError(f"{work}: documents from {stop} on are missing; build --range {stop}:")
    splits = {
        split: {key: sum(s["splits"][split][key] for s in states.values()) for key in COUNTS}
        for split in manifests.SPLITS
    }
    rule = request["split"]
    if not splits["train"]["documents"] and rule != "whole":
        shutil.rmtree(work)  # another number is another request: nothing here can be used
        what = f"{border} documents, val_documents={request['val_documents']}: none to train on"
        raise ValueError(f"{first['source']['name']}: {what}; set --val-documents lower")
    side = work / "merged"
    shutil.rmtree(side, ignore_errors=True)
    side.mkdir()
    shards, hashes, digest = [], {split: [] for split in manifests.SPLITS}, hashlib.sha256()
    for folder in folders:
        for shard in states[folder]["shards"]:
            number = sum(other["split"] == shard["split"] for other in shards)
            stem = f"{request['name']}_{shard['split']}_{number:06d}"
            named = shard | {"file": _link(folder / shard["file"], side / f"{stem}.bin")}
            if shard["sidecar"]:
                path = folder / shard["sidecar"]["file"]
                file = _link(path, side / f"{stem}.bytes.bin")
                named["sidecar"] = shard["sidecar"] | {"file": file}
            shards.append(named)
        found = np.fromfile(folder / HASHES, np.uint64)
        digest.update(found.tobytes())
        count = states[folder]["splits"]["val"]["documents"]
        order = ("val", "train")
        if rule == "tokens":
            order, count = ("train", "val"), len(found) - count
        for split, part_D in zip(order, (found[:count], found[count:]), strict=True):
            hashes[split].append(part_D)
    left_out = sum((Counter(state["left_out"]) for state in states.values()), Counter())
    about = {"documents": border, "sha256": digest.hexdigest(), "left_out": dict(left_out)}
    tokenizer = request.pop("tokenizer")
    for file in filter(None, (tokenizer["file"], tokenizer.get("merges"))):
        _link(work / file, side / file)
    joined = {split: np.concatenate(hashes[split]) for split in manifests.SPLITS}
    if both := len(manifests.shared(np.sort(joined["train"]), joined["val"])):
        what = f"{both} validation documents are in a training part"
        raise ValueError(f"{work}: {what}; build that part with the val_hashes of the first one")
    split_rule = {"rule": rule, "val_documents": request["val_documents"]}
    if rule == "tokens":
        split_rule |= {n: request[n] for n in ("train_tokens", "val_tokens")}
        split_rule["val_documents"] = None
        for counts in splits.values():
            counts["raw_bytes"] = None  # of documents that are cut
    manifest = {
        "version": manifests.VERSION,
        "source": first["source"] | about,
        "tokenizer": tokenizer,
        "split_rule": split_rule,
        "splits": splits,
        "shards": shards,
        "sidecar_required": shards[0]["sidecar"] is not None,
        "bos_id": tokenizers.load(tokenizer, side).bos_id,
        "document_index": manifests.write_index(side, joined, "text"),
        "request": request,
    }
    manifests.write_manifest(side, manifest)
    side.rename(out)
    shutil.rmtree(work)
    return manifest


def _link(source: Path, target: Path) -> str:
    """The file stands at target too, without a second copy where the file system can do that."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target.name


def prepare_tokenizer(args: argparse.Namespace, work: Path, about: dict) -> dict:
    """The tokenizer asked for stands in the work folder; returns the manifest's entry."""
    recipe = recipes.RECIPES[args.recipe]
    given = {"pad_to": args.pad_to} if args.pad_to else {"marks": recipe.marks}
    marked = {} if given == {"marks": "before"} else given
    kind, _, size = args.tokenizer.partition(":")
    if args.fuse and not args.caseops:
        raise ValueError("--fuse joins CaseOps markers with the space before; add --caseops")
    folder = Path(args.tokenizer)  # of GPT-2's files
    if args.caseops and (args.tokenizer in ("bytes", "gpt2") or folder.is_dir()):
        raise ValueError(f"--caseops needs pieces for its markers; {args.tokenizer} has none")
    if args.tokenizer in ("bytes", "gpt2"):
        return tokenizers.describe(args.tokenizer, None, False, False, **marked)
    work.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        tokenizers.Gpt2.load(folder, recipe.marks)
        for name in (gpt2_tokenizer.VOCABULARY, gpt2_tokenizer.MERGES):
            quantize.write_atomic(work / name, (folder / name).read_bytes())
        facts = {"merges": gpt2_tokenizer.MERGES, **marked}
        return tokenizers.describe("gpt2", work / gpt2_tokenizer.VOCABULARY, False, False, **facts)
    path, facts = work / tokenizers.MODEL_FILE, {}
    if kind == "bpe":
        if not size.isdecimal() or not 260 < int(size) <= 1 << 16:
            raise ValueError(f"--tokenizer {args.tokenizer}: the N of bpe:N must be 261..65536")
        if recipe.split in ("first file", "whole"):
            what = f"--recipe {args.recipe} has no text to train {args.tokenizer} on first"
            raise ValueError(f"{what}; name a model")
        asked = {"vocab_size": int(size), "caseops": args.caseops, "sample_mb": args.sample_mb}
        asked |= {"source": about, "val_documents": args.val_documents}
        notes = work / "tokenizer.json"
        done = json.loads(notes.read_text()) if notes.exists() else {}
        if done.get("asked") != json.loads(json.dumps(asked)):
            print(f"training a tokenizer of {size} pieces on {args.sample_mb} MB", flush=True)
            sample = Sample(args, about)
            model = tokenizers.train_bpe(sample, int(size), args.caseops)
            quantize.write_atomic(path, model)
            done = {"asked": asked, "facts": {"documents": sample.documents, "bytes": sample.bytes}}
            manifests.write_atomic(notes, json.dumps(done))
        facts = {"trained_on": done["facts"]}
    elif not path.exists() or not Path(args.tokenizer).samefile(path):
        tokenizers.SentencePiece.load(args.tokenizer, args.caseops, args.fuse)
        quantize.write_atomic(path, Path(args.tokenizer).read_bytes())
    return tokenizers.describe("sentencepiece", path, args.caseops, args.fuse, **marked, **facts)


class Sample:
    """The first training documents of a source, up to sample_mb: validation text takes no part."""

    def __init__(self, args: argparse.Namespace, about: dict):
        self.args, self.revision, self.documents, self.bytes = args, about.get("revision"), 0, 0

    def __iter__(self) -> Iterator[str]:
        args = self.args
        options = {"field": args.field, "separator": args.separator, "revision": self.revision}
        options |= {"val_documents": args.val_documents}
        for block in sources.read(args.source, args.val_documents, **options):
            for text in block.texts(args.field, int(args.max_document_mb * 1e6)):
                if self.bytes >= args.sample_mb * 1e6:
                    return
                if isinstance(text, str):
                    self.documents, self.bytes = self.documents + 1, self.bytes + len(text.encode())
                    yield text
                elif not args.skip_bad:
                    raise ValueError(f"{text}; repair it, or leave it out with --skip-bad")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    sets = ", ".join(sources.HUB_SETS)
    add("source", nargs="?", help=f"a .jsonl, .txt or .parquet file or folder, or: {sets}")
    add("--recipe", default="documents", choices=recipes.RECIPES, help="whose rules (%(default)s)")
    pad = "with --recipe c4: rows of T=TRAIN_SEQ_LEN tokens, filled with EOS, a target like others"
    what = "a SentencePiece model, a folder of GPT-2's vocab.json and merges.txt, bpe:N to train"
    add("--tokenizer", help=f"{what} one of N pieces, bytes, gpt2")
    add("--out", type=Path, required=True, help="folder to make")
    add("--val-documents", type=int, metavar="N", help="the first N documents are for validation")
    add("--train-tokens", type=int, metavar="N", help="with --recipe fineweb-edu: to train on")
    add("--val-tokens", type=int, metavar="N", help="with --recipe fineweb-edu: to validate")
    add("--pad-to", type=int, default=0, metavar="T", help=pad)
    add("--name", help="of the shard files (that of the folder)")
    add("--caseops", action="store_true", help="write capitals as markers before tokenising")
    add("--fuse", action="store_true", help="one token for a space and the marker after it")
    add("--field", help="JSON key or Parquet column (text, or the recipe's)")
    add("--separator", default=sources.SEPARATOR, help="between documents of .txt (%(default)s)")
    add("--skip-bad", action="store_true", help="leave out, and count, what cannot be used")
    add("--max-document-mb", type=float, default=MAX_DOCUMENT_MB, help="(%(default)s)")
    add("--sample-mb", type=float, default=SAMPLE_MB, help="text for bpe:N (%(default)s)")
    add("--shard-tokens", type=int, default=SHARD_TOKENS, help="at most, a shard (%(default)s)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="(all cores)")
    add("--range", metavar="START:STOP", help="build these documents only, for a later --merge")
    add("--merge", action="store_true", help="join the ranges that stand beside --out")


def main(args: argparse.Namespace) -> int:
    build(args)
    return 0


def build(args: argparse.Namespace) -> dict:
    """Build what the arguments ask for; returns the manifest, or the state of a range."""
    out = args.out.resolve()
    work = out.with_name(f".{out.name}.partial")
    if out.exists():
        what = f"{out} exists; a build never changes one: remove it, or name another --out"
        raise FileExistsError(what)
    if args.merge:
        return _finish(work, out)
    if not args.source or not args.tokenizer:
        raise ValueError("build needs a SOURCE and --tokenizer; only --merge does without")
    recipe = _chosen_recipe(args)
    args.field = args.field or recipe.field
    if args.val_documents is None and recipe.split == "first":
        if args.source not in sources.HUB_SETS:
            raise ValueError("--val-documents N must say how many of the first documents validate")
        args.val_documents = sources.HUB_SETS[args.source].val_documents
    for name in ("workers", "shard_tokens"):
        if getattr(args, name) < 1:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag} {getattr(args, name)} must be at least 1")
    start, stop = _range(args.range)
    about = sources.describe(args.source)
    if args.recipe != "documents":
        about |= {"recipe": args.recipe}
    part = work / f"part_{start:012d}"
    # A whole build has the work folder for itself; ranges share it and lock their parts.
    with manifests.folder_lock(work) if not args.range else contextlib.nullcontext():
        try:
            tokenizer, source = prepare_tokenizer(args, work, about), args.source
            if arranged := recipes.arrange(source, recipe, args.field, about):
                source, args.val_documents = arranged
            names = ("val_documents", "shard_tokens", "field", "separator", "max_document_mb")
            options = {name: getattr(args, name) for name in (*names, "skip_bad")}
            options |= {n: getattr(recipe, n) for n in ("split", "train_tokens", "val_tokens")}
            request = Request(args.name or out.name, tokenizer, **options)
            whole = {"start": start, "stop": stop, "workers": args.workers, "about": about}
            state = build_part(source, part, request, **whole)
            return state if args.range else _finish(work, out)
        except ValueError:
            if not args.range and not any(work.glob(PARTS)):
                shutil.rmtree(work, ignore_errors=True)
            raise


def _chosen_recipe(args: argparse.Namespace) -> recipes.Recipe:
    """The recipe with the numbers that were given; raises ValueError for those it does not take."""
    recipe = recipes.RECIPES[args.recipe]
    by_tokens, own_order = recipe.split == "tokens", recipe.split != "first"
    for flag, given, taken in (
        ("--train-tokens", args.train_tokens, by_tokens),
        ("--val-tokens", args.val_tokens, by_tokens),
        ("--pad-to", args.pad_to or None, recipe.marks == "around"),
        ("--val-documents", args.val_documents, not own_order),
        ("--range", args.range, not own_order),
    ):
        if given is not None and not taken:
            raise ValueError(f"{flag} {given} is not read by --recipe {args.recipe}; leave it out")
    if args.pad_to == 1 or args.pad_to < 0:
        raise ValueError(f"--pad-to {args.pad_to} must be 2 or more: a start and what follows it")
    if own_order:
        args.val_documents = 0
    given = {"train_tokens": args.train_tokens, "val_tokens": args.val_tokens}
    recipe = replace(recipe, **{name: value for name, value in given.items() if value is not None})
    if by_tokens and min(recipe.train_tokens, recipe.val_tokens) < 1:
        raise ValueError("--train-tokens and --val-tokens must be at least 1")
    return recipe


def _range(text: str | None) -> tuple[int, int | None]:
    if text is None:
        return 0, None
    start, colon, stop = text.partition(":")
    if not colon or not start.isdecimal() or not (stop == "" or stop.isdecimal()):
        raise ValueError(f"--range {text} must be START:STOP or START:, in documents")
    return int(start), int(stop) if stop else None


def _finish(work: Path, out: Path) -> dict:
    manifest = merge_parts(work, out)
    facts = [f"built {out} source_documents:{manifest['source']['documents']}"]
    for split, counts in manifest["splits"].items():
        facts += [f"{split}_{key}:{value}" for key, value in counts.items()]
    facts += [f"left_out:{json.dumps(manifest['source']['left_out'])}"]
    print(*facts)
    return manifest
