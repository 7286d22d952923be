"""Verify a prepared folder: what its manifest says, against every byte that is on disk.

Nothing is taken on trust: shards are hashed and read whole, validation documents are decoded, and
every document of one split is looked for in the other. All faults are named, not only the first.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import evaluate
from data import gpt2_tokenizer, tokenizers
from data import manifest as manifests
from data.manifest import hash_document, sha256_file

CHUNK_TOKENS = 1 << 22
HEAD_TOKENS = 64  # tell one document from another
START_TOKENS = 1_000_000  # of each training shard, read at a start
SHINGLE_TOKENS = 16  # about five words
SHINGLE_SHARE = 16  # one shingle of so many stands for the others
MIN_SHINGLES = 8  # fewer say nothing: about 130 tokens
NEAR_FRAC = 0.5  # of a validation document's shingles in one training document: a near-duplicate
MAX_PUBLISHED_FRAC = 0.01  # of documents that a published crawl may have in both splits
ROUND_TRIPS = 200  # documents that are decoded and encoded again
# Validation tokens of the challenge by vocabulary, as logs print them: cut to whole windows of at
# most 2,048. Source: recomputed from the logs of published records.
FINEWEB_TOKENS = {260: 151_130_112, 1024: 62_021_632, 4096: 45_508_608, 8192: 40_540_160}
FINEWEB_CASEOPS_TOKENS = 47_851_520


@dataclass(frozen=True)
class Finding:
    """The outcome of one check."""

    check: str
    level: str  # "ok", "warning" or "fault"
    message: str


@dataclass(frozen=True)
class ShardFacts:
    """What reading one shard whole tells about it and its documents."""

    faults: list[tuple[str, str]]  # check, message
    documents: int = 0
    tokens: int = 0
    sidecar_bytes: int = 0
    hashes_D: np.ndarray | None = None  # of all documents that begin here, but for the last one
    head_T: np.ndarray | None = None  # before the first BOS: the end of the last shard's document
    tail_T: np.ndarray | None = None  # from the last BOS on
    shingles: np.ndarray | None = None  # rows (hash, document within the shard)


def documents_of(tokens_T: np.ndarray, bos_id: int) -> Iterator[np.ndarray]:
    """The documents of a stream, each with its BOS."""
    starts = [*np.flatnonzero(tokens_T == bos_id).tolist(), len(tokens_T)]
    for start, end in zip(starts, starts[1:], strict=False):
        yield tokens_T[start:end]


def sampled_shingles(
    tokens_T: np.ndarray, bos_id: int, known_S: np.ndarray | None = None
) -> np.ndarray:
    """Hashes of one in SHINGLE_SHARE runs of SHINGLE_TOKENS tokens: rows (hash, document).

    Which runs are taken depends on their hash alone, so two copies of a text give the same ones.
    With known_S, sorted, only those that are in it.
    """
    rows, documents = [np.empty((0, 2), np.uint64)], 0
    for begin in range(0, len(tokens_T), CHUNK_TOKENS):
        chunk_T = tokens_T[begin : begin + CHUNK_TOKENS + SHINGLE_TOKENS - 1].astype(np.uint64)
        hash_T = np.zeros(max(0, len(chunk_T) - SHINGLE_TOKENS + 1), np.uint64)
        for offset in range(SHINGLE_TOKENS):
            hash_T *= np.uint64(0x9E3779B97F4A7C15)
            hash_T += chunk_T[offset : offset + len(hash_T)]
        hash_T ^= hash_T >> np.uint64(29)
        hash_T *= np.uint64(0xBF58476D1CE4E5B9)
        taken = np.flatnonzero((hash_T >> np.uint64(32)) % np.uint64(SHINGLE_SHARE) == 0)
        if known_S is not None:
            taken = taken[is_in(hash_T[taken], known_S)]
        starts_D = np.flatnonzero(chunk_T[:CHUNK_TOKENS] == bos_id)
        number = documents + np.searchsorted(starts_D, taken, side="right")
        rows.append(np.stack([hash_T[taken], number.astype(np.uint64)], axis=1))
        documents += len(starts_D)
    return np.unique(np.concatenate(rows), axis=0)


def is_in(values: np.ndarray, known_S: np.ndarray) -> np.ndarray:
    """Which values are among the known ones, which are sorted."""
    if not len(known_S):
        return np.zeros(len(values), bool)
    return known_S[np.searchsorted(known_S, values).clip(max=len(known_S) - 1)] == values


def read_facts(
    path: Path,
    entry: dict | None,
    vocab_size: int,
    bos_id: int,
    needs_sidecar: bool,
    known_S: np.ndarray | None = None,
) -> ShardFacts:
    """Read a shard and its sidecar whole, and compare them with the manifest's entry, if any."""
    try:
        tokens_T = evaluate.read_shard(path)
    except ValueError as error:
        return ShardFacts([("headers", str(error))])
    faults, again = [], "build or fetch it again"
    starts = np.flatnonzero(tokens_T == bos_id)
    top, sidecar, sidecar_bytes = int(tokens_T.max()), evaluate.sidecar_path(path), 0
    if top >= vocab_size:
        faults.append(("range", f"{path} holds token {top}, not below {vocab_size=}; {again}"))
    if needs_sidecar or sidecar.exists():
        try:
            bytes_T = evaluate.read_shard(sidecar)
            sidecar_bytes = int(bytes_T.sum(dtype=np.int64))
            if len(bytes_T) != len(tokens_T):
                what = f"{sidecar} has {len(bytes_T)} entries for {len(tokens_T)} tokens"
                faults.append(("sidecar", f"{what}; {again}"))
        except ValueError as error:
            faults.append(("sidecar", str(error)))
    if entry:
        files = [(path, entry)] + [(sidecar, entry["sidecar"])] * bool(entry["sidecar"])
        for file, want in files:
            if file.exists() and sha256_file(file) != want["sha256"]:
                what = f"{file} is not as it was written: its SHA-256 is another"
                faults.append(("hashes", f"{what}; {again}"))
        if len(starts) != entry["documents"]:
            what = f"{path} has {len(starts)} document starts (BOS={bos_id})"
            faults.append(("bos", f"{what} for {entry['documents']} documents; {again}"))
        if len(tokens_T) != entry["tokens"]:
            what = f"{path} holds {len(tokens_T)} tokens, the manifest says {entry['tokens']}"
            faults.append(("tokens", f"{what}; {again}"))
    counts = len(starts), len(tokens_T), sidecar_bytes
    if not len(starts):
        return ShardFacts(faults, *counts, head_T=np.array(tokens_T))
    return ShardFacts(
        faults,
        *counts,
        hashes_D=np.fromiter(
            (hash_document(ids_T[1:]) for ids_T in documents_of(tokens_T[: starts[-1]], bos_id)),
            np.uint64,
        ),
        head_T=np.array(tokens_T[: starts[0]]),
        tail_T=np.array(tokens_T[starts[-1] :]),
        shingles=sampled_shingles(tokens_T, bos_id, known_S),
    )


def split_hashes(facts: list[ShardFacts]) -> np.ndarray:
    """Hashes of all documents of a split; one that is cut by the end of a shard is joined."""
    hashes, open_parts = [], []
    for shard in facts:
        if open_parts and shard.head_T is not None:
            open_parts.append(shard.head_T)
        if shard.tail_T is not None:
            if open_parts:
                hashes.append(hash_document(np.concatenate(open_parts)[1:]))
            hashes += shard.hashes_D.tolist()
            open_parts = [shard.tail_T]
    if open_parts:
        hashes.append(hash_document(np.concatenate(open_parts)[1:]))
    return np.array(hashes, dtype=np.uint64)


def near_duplicates(val: list[np.ndarray], train: list[np.ndarray]) -> int:
    """How many validation documents have NEAR_FRAC of their shingles in one training document."""
    first_D = np.cumsum([0, *(int(part[:, 1].max(initial=0)) + 1 for part in val)])
    rows = [
        part + np.array([0, first], np.uint64) for part, first in zip(val, first_D, strict=False)
    ]
    rows = np.concatenate([np.empty((0, 2), np.uint64), *rows])
    known_S, at, counts = np.unique(rows[:, 0], return_index=True, return_counts=True)
    owner_S = rows[at, 1].astype(np.int64)
    owner_S[counts > 1] = -1  # what several documents share tells nothing
    want_D = np.bincount(owner_S[counts == 1], minlength=1)
    found = set()
    for part in train:
        part = part[is_in(part[:, 0], known_S)]
        owner = owner_S[np.searchsorted(known_S, part[:, 0])]
        pairs = np.stack([owner, part[:, 1].astype(np.int64)], axis=1)[owner >= 0]
        pairs, shared = np.unique(pairs, axis=0, return_counts=True)
        want = want_D[pairs[:, 0]]
        found |= set(pairs[(want >= MIN_SHINGLES) & (shared >= NEAR_FRAC * want), 0].tolist())
    return len(found)


def explain(excess: int, tokens_T: np.ndarray, tokenizer) -> str:
    """What kind of miscount would give so many bytes too many in this document."""
    if not isinstance(tokenizer, tokenizers.SentencePiece):
        return ""
    table, ids = tokenizer.table, tokens_T[1:].astype(np.int64)
    spaces = int(table.leading_space_V[ids].sum())
    if excess == spaces > 0:
        return ": as if every leading space were counted twice"
    byte_V = np.array([tokenizer.model.is_byte(i) for i in range(len(table.base_bytes_V))])
    if excess == 2 * int(byte_V[ids].sum()) > 0:
        return ": as if every byte piece were counted 3"
    if excess == 2 * spaces > 0:
        return ": as if every space were counted 3, as without the piece U+2581"
    return ""


class Folder:
    """A folder under verification: what it should hold, what it holds, and what was found."""

    def __init__(self, path: Path, tokenizer_path: Path | None):
        self.path, self.findings = path, []
        try:
            self.manifest: dict | None = manifests.read_manifest(path)
            self.tokenizer_entry = self.manifest["tokenizer"]
        except FileNotFoundError:
            what = f"{path} has no manifest.json, so what it should hold is not known"
            if tokenizer_path is None:
                raise ValueError(f"{what}; name its tokenizer with --tokenizer") from None
            kind = "gpt2" if tokenizer_path.is_dir() else "sentencepiece"
            self.manifest, self.tokenizer_entry = None, {"kind": kind}
            self.add("manifest", "warning", what)
        file = tokenizer_path or self.tokenizer_entry["file"]
        self.tokenizer_path = file and (path / file if tokenizer_path is None else tokenizer_path)
        if self.tokenizer_path:
            self.tokenizer_path = gpt2_tokenizer.vocabulary_file(self.tokenizer_path)
        self.entries = {s["file"]: s for s in self.manifest["shards"]} if self.manifest else {}
        self.source = self.manifest["source"] if self.manifest else {"name": path.resolve().name}
        self.bos_id = self.manifest["bos_id"] if self.manifest else evaluate.BOS_ID
        if not self.manifest and self.tokenizer_entry["kind"] == "gpt2":
            self.bos_id = tokenizers.GPT2_BOS_ID
        self.ends = self.tokenizer_entry.get("marks") == "after"  # documents end with BOS
        self.paths = {split: self.find_shards(split) for split in manifests.SPLITS}

    def add(self, check: str, level: str, message: str) -> None:
        self.findings.append(Finding(check, level, message))

    def fault(self, check: str, what: str, remedy: str = "build or fetch the folder again") -> None:
        self.add(check, "fault", f"{what}; {remedy}")

    def ok(self, check: str, message: str) -> None:
        """The check is done: it passed, unless it found something before."""
        if not any(finding.check == check for finding in self.findings):
            self.add(check, "ok", message)

    def failed(self, *checks: str) -> bool:
        return any(f.level == "fault" and f.check in checks for f in self.findings)

    def find_shards(self, split: str) -> list[Path]:
        """Shards of a split that are there and should be; all others are faults."""
        if self.manifest and not self.manifest["splits"][split]["documents"]:
            return []
        try:
            there = {path.name: path for path in evaluate.find_shards(self.path, split)}
        except FileNotFoundError as error:
            self.add("shards", "fault", str(error))
            there = {}
        want = {name for name, entry in self.entries.items() if entry["split"] == split}
        if not self.entries and there:
            *_, (stem, _, last) = (name.rpartition("_") for name in there)
            first, last = (
                int(re.search(r"\d+", name.rpartition("_")[2])[0])
                for name in (min(there), max(there))
            )
            want = {f"{stem}_{number:06d}.bin" for number in range(first, last + 1)}
        for name in sorted(want - set(there)):
            self.fault("shards", f"{self.path / name} is missing")
        for name in sorted(set(there) - want):
            self.fault("shards", f"{there[name]} is not in the manifest", "move it away")
        return [there[name] for name in sorted(want & set(there))]

    def check_counts(self) -> None:
        """Shards against what the source is known to have."""
        for split in manifests.SPLITS:
            have, known = len(self.paths[split]), self.source.get(f"{split}_shards")
            if known and have < known:
                level = "fault" if split == "val" else "warning"
                what = f"{have} of {known} {split} shards of {self.source['name']} are here"
                self.add("shards", level, f"{what}; fetch the others to use all of the text")
        named = " and ".join(f"{len(paths)} {split}" for split, paths in self.paths.items())
        self.ok("shards", f"{named} shards")

    def load_tokenizer(self) -> tokenizers.Tokenizer | None:
        """The tokenizer if it is that of the manifest and fit to count bytes."""
        entry, path = self.tokenizer_entry, self.tokenizer_path
        if path and not path.is_file():
            self.fault("tokenizer", f"{path} is missing", "name it with --tokenizer")
        elif path and entry.get("sha256") not in (None, sha256_file(path)):
            what = f"{path} is not the tokenizer of {self.path}: its SHA-256 is another"
            self.fault("tokenizer", what, "name the right one with --tokenizer")
        if self.failed("tokenizer"):
            return None
        try:
            entry = entry | {"file": path and path.absolute()}
            tokenizer = tokenizers.load(entry, self.path)
            is_model = isinstance(tokenizer, tokenizers.SentencePiece)
            if self.manifest is None and is_model and tokenizer.table.needs_sidecar:
                tokenizer = tokenizers.load(entry | {"caseops": True}, self.path)
        except ValueError as error:
            self.add("tokenizer", "fault", str(error))
            return None
        want = entry.get("vocab_size", tokenizer.vocab_size)
        if tokenizer.vocab_size != want:
            self.fault("tokenizer", f"{path} has {tokenizer.vocab_size} pieces, must have {want}")
        return tokenizer

    def needs_sidecar(self, tokenizer: tokenizers.Tokenizer | None) -> bool:
        required = self.manifest is not None and self.manifest["sidecar_required"]
        markers = isinstance(tokenizer, tokenizers.SentencePiece) and tokenizer.table.needs_sidecar
        there = any(evaluate.sidecar_path(path).exists() for path in self.paths["val"])
        return required or markers or there

    def check_shards(self, vocab_size: int, needs_sidecar: bool, workers: int) -> None:
        """Headers, hashes, token range, BOS and sidecars of every shard; overlap of the splits."""
        found: dict[str, list[ShardFacts]] = {}
        known_S = None  # validation comes first: of training text only what it repeats is kept
        with ProcessPoolExecutor(workers) as pool:
            for split in ("val", "train"):
                jobs = [
                    pool.submit(
                        read_facts,
                        path,
                        self.entries.get(path.name),
                        vocab_size,
                        self.bos_id,
                        needs_sidecar and split == "val",
                        known_S,
                    )
                    for path in self.paths[split]
                ]
                found[split] = [job.result() for job in jobs]
                parts = [
                    facts.shingles[:, 0] for facts in found[split] if facts.hashes_D is not None
                ]
                known_S = np.unique(np.concatenate([np.empty(0, np.uint64), *parts]))
        results = found["train"] + found["val"]
        for facts in results:
            for check, message in facts.faults:
                self.add(check, "fault", message)
        for split, shards in found.items():
            if shards and shards[0].head_T is not None and len(shards[0].head_T) and not self.ends:
                self.fault("bos", f"{self.paths[split][0]} must start with BOS={self.bos_id}")
            want = self.manifest["splits"][split]["bytes"] if self.manifest else None
            size = sum(facts.sidecar_bytes for facts in shards)
            if needs_sidecar and size and want not in (None, size):
                what = f"{split} sidecars add up to {size} bytes, the manifest says {want}"
                self.fault("sidecar", what)
        tokens = {split: sum(f.tokens for f in shards) for split, shards in found.items()}
        self.ok("headers", f"{len(results)} shards are whole")
        if self.manifest:
            self.ok("hashes", f"{len(results)} shards are as they were written")
            self.ok("tokens", f"{tokens['train']} train and {tokens['val']} validation")
        self.ok("range", f"every token is below {vocab_size}")
        self.ok("bos", f"{sum(f.documents for f in results)} document starts")
        self.check_overlap(found)

    def check_overlap(self, found: dict[str, list[ShardFacts]]) -> None:
        """No validation document is a training document; those that nearly are get reported."""
        hashes = {split: np.sort(split_hashes(found[split])) for split in manifests.SPLITS}
        both = len(manifests.shared(hashes["train"], hashes["val"]))
        allowed = 0
        if self.manifest:
            allowed = self.manifest.get("shared_documents", 0)
            both = max(both, self.check_index(hashes))
        limit = min(allowed, int(MAX_PUBLISHED_FRAC * len(hashes["val"])))
        what = f"{both} of {len(hashes['val'])} validation documents are in the training text"
        if both > limit:
            self.fault("overlap", what)
        elif both:
            self.add("overlap", "warning", f"{what}, as in the published shards")
        self.ok("overlap", what)
        parts = {s: [f.shingles for f in fs if f.shingles is not None] for s, fs in found.items()}
        near = max(0, near_duplicates(parts["val"], parts["train"]) - both)
        what = f"{near} more validation documents are nearly in one training document"
        self.add("near-duplicates", "warning" if near else "ok", what)

    def check_index(self, hashes: dict[str, np.ndarray]) -> int:
        """The document index: damaged or not, and how many documents it has in both splits."""
        if not self.manifest["document_index"]:
            return 0
        try:
            stored = manifests.read_index(self.path, self.manifest)
        except ValueError as error:
            self.add("index", "fault", str(error))
            return 0
        of_tokens = self.manifest["document_index"]["of"] == "tokens"
        for split in manifests.SPLITS if of_tokens else ():
            if not np.array_equal(stored[split], hashes[split]):
                self.fault("index", f"the index lists other {split} documents than the shards hold")
        self.ok("index", f"{sum(map(len, stored.values()))} document hashes")
        return len(manifests.shared(stored["train"], stored["val"]))

    def check_bytes(self, tokenizer: tokenizers.Tokenizer, has_sidecar: bool) -> None:
        """Every validation document: its bytes by table or sidecar against its decoded text."""
        tokens_T = np.concatenate([evaluate.read_shard(path) for path in self.paths["val"]])
        if has_sidecar:
            files = [evaluate.sidecar_path(path) for path in self.paths["val"]]
            bytes_T, check = np.concatenate([evaluate.read_shard(f) for f in files]), "sidecar"
        elif not isinstance(tokenizer, tokenizers.SentencePiece):
            what = f"{self.tokenizer_entry['kind']} tokens have their bytes in a sidecar"
            self.fault("sidecar", f"{what}, and there is none")
            return
        else:
            before_T, check = np.append(self.bos_id, tokens_T[:-1]), "bytes"
            bytes_T = tokenizer.table.count(before_T, tokens_T)
            bytes_T[0] *= not self.ends  # no target, and here it may be text
        # Where BOS ends documents, what is before the first and behind the last one may be cut.
        start = int((tokens_T == self.bos_id).argmax())
        total, same, hashes, wrong = int(bytes_T[:start].sum(dtype=np.int64)), 0, [], []
        documents = list(documents_of(tokens_T, self.bos_id))
        if self.ends and documents:
            total += int(bytes_T[len(tokens_T) - len(documents.pop()) :].sum(dtype=np.int64))
        for number, ids_T in enumerate(documents):
            text = tokenizer.decode(ids_T[1:])
            size, counted = len(text.encode()), int(bytes_T[start : start + len(ids_T)].sum())
            if size != counted:
                why = explain(counted - size, ids_T, tokenizer)
                wrong.append(f"validation document {number} has {size} bytes, not {counted}{why}")
            if number < ROUND_TRIPS:
                again_T = tokenizer.encode([text])[0]
                same += np.array_equal(np.roll(again_T, 1) if self.ends else again_T, ids_T)
            start, total = start + len(ids_T), total + size
            hashes.append(hash_document(text))
        if wrong:
            self.fault(check, f"{wrong[0]} ({len(wrong)} documents of {len(hashes)})")
        if same < min(len(hashes), ROUND_TRIPS) / 2:
            what = f"{self.tokenizer_path} would not write the shards' documents as they are"
            self.fault("tokenizer", what, "name the tokenizer of these shards")
        want = self.manifest["splits"]["val"] if self.manifest else {"bytes": None}
        if want["bytes"] not in (None, total):
            why = explain(want["bytes"] - total, tokens_T, tokenizer)
            what = f"validation text has {total} bytes, the manifest says {want['bytes']}{why}"
            self.fault("bytes", what)
        index = self.manifest and self.manifest["document_index"]
        if index and index["of"] == "text" and want["changed_documents"] == 0:
            stored = manifests.read_index(self.path, self.manifest)["val"]
            found = np.sort(np.array(hashes, np.uint64))
            same = np.isin(found, stored).all() if self.ends else np.array_equal(found, stored)
            if not same:
                self.fault("index", "the index lists other val documents than the shards hold")
        self.ok("bytes", f"{total} bytes of decoded validation text")
        if has_sidecar:
            self.ok("sidecar", "has the bytes of every validation document")
        self.check_fingerprint(len(hashes), total, len(tokens_T), tokenizer)

    def check_fingerprint(self, documents: int, size: int, tokens: int, tokenizer) -> None:
        """Whether this is the validation split of the challenge, where the source says so."""
        want = evaluate.FINEWEB_VAL
        name, sizes = self.source["name"].lower(), [size]
        sizes += [self.manifest["splits"]["val"]["raw_bytes"]] if self.manifest else []
        fused = getattr(tokenizer, "fused_ids", None)
        usual = FINEWEB_TOKENS.get(tokenizer.vocab_size, 0)
        if getattr(tokenizer, "marker_ids", None):
            usual = FINEWEB_CASEOPS_TOKENS if tokenizer.vocab_size == 8192 and not fused else 0
        found = f"{documents} documents, {size} bytes, {tokens} tokens"
        if documents == want["documents"] and want["bytes"] in sizes:
            if usual and not usual <= tokens < usual + 2048:
                what = f"{tokens} tokens where published records have about {usual}"
                self.add("fingerprint", "warning", f"{what}: the tokenizer is another")
            self.ok("fingerprint", f"validation is that of the challenge: {found}")
        elif re.search(r"fineweb(?!-edu)", name):
            must = f"{want['documents']} documents and {want['bytes']} bytes"
            self.fault("fingerprint", f"FineWeb's validation has {must}, this has {found}")
        else:
            self.ok("fingerprint", f"not the validation split of the challenge: {found}")


def verify(path: Path, tokenizer_path: Path | None = None, workers: int = 1) -> list[Finding]:
    """All findings about a folder; where nothing is wrong, later starts may trust its files."""
    folder = Folder(path, tokenizer_path)
    folder.check_counts()
    tokenizer = folder.load_tokenizer()
    vocab_size = tokenizer.vocab_size if tokenizer else folder.tokenizer_entry.get("vocab_size")
    has_sidecar = folder.needs_sidecar(tokenizer)
    folder.check_shards(vocab_size or 1 << 16, has_sidecar, workers)
    readable = not folder.failed("headers", "sidecar", "range") and folder.paths["val"]
    if tokenizer and readable:
        folder.check_bytes(tokenizer, has_sidecar)
        folder.ok("tokenizer", f"{folder.tokenizer_entry['kind']}, {tokenizer.vocab_size} ids")
    if folder.manifest and not any(f.level == "fault" for f in folder.findings):
        manifests.write_stamp(path, folder.manifest)
    return folder.findings


def check_start(folder: Path, tokenizer_path: Path, vocab_size: int) -> str:
    """The cheap part, run at every start of training: raise, or return a line for its log.

    With a manifest: every shard is there and no other, one touched since it was verified is hashed,
    tokenizer and counts are right. In any case: documents start with BOS, and of the first ones of
    a training shard not 1 % are in the validation split (the crawl itself repeats a few).

    Raises: ValueError naming the file or folder, what is wrong with it, and the remedy.
    """
    manifest, paths = None, evaluate.find_shards(folder, "train")
    note = f"warning: {folder} has no {manifests.MANIFEST}; its first tokens alone were checked"
    if (folder / manifests.MANIFEST).exists():
        manifest = manifests.read_manifest(folder)
        manifests.check_files(folder, manifest, tokenizer_path)
        source = manifest["source"]
        of = source.get("train_shards") or len(paths)
        note = f"data verified source:{source['name']} train_shards:{len(paths)}/{of}"
    table = gpt2_tokenizer.byte_table(tokenizer_path, vocab_size)
    val_T, table = evaluate.read_validation(folder, table)
    bos_id, ends = table.bos_id, manifest and manifest["tokenizer"].get("marks") == "after"
    if manifest and table.metric != "val_bpb":
        counts = f"{(val_T == bos_id).sum()} documents and {table.total(val_T)} bytes"
        evaluate.refuse(True, f"{folder}: validation has {counts}, its manifest says otherwise")

    def heads(tokens_T: np.ndarray) -> np.ndarray:
        start_D = np.flatnonzero(tokens_T[:-HEAD_TOKENS] == bos_id)
        head_DT = tokens_T[start_D[:, None] + np.arange(HEAD_TOKENS)].astype(np.uint64)
        factors_T = np.random.default_rng(0).integers(1 << 63, size=HEAD_TOKENS, dtype=np.uint64)
        return head_DT @ factors_T  # a hash: integers wrap

    val_D, bos = heads(val_T), f"BOS={bos_id}"
    evaluate.refuse(val_T[0] != bos_id and not ends, f"{folder}: validation must start with {bos}")
    starts = {s["file"]: s["documents"] for s in manifest["shards"]} if manifest else {}
    for path in paths:
        evaluate.read_shard(path, verify=manifest is None)
        tokens_T = np.fromfile(path, "<u2", START_TOKENS, offset=evaluate.HEADER_BYTES)
        no_start = (tokens_T != bos_id).all() and starts.get(path.name, 1) > 0
        evaluate.refuse(no_start, f"{path} has no document start, {bos}")
        shared_D = np.isin(heads(tokens_T), val_D)
        what = f"{path}: of its first {len(shared_D)} documents {shared_D.sum()} are validation"
        too_many = shared_D.sum() > MAX_PUBLISHED_FRAC * len(shared_D)
        evaluate.refuse(too_many, f"{what} documents")
    return note


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=Path, help="with shards and, if it was made here, a manifest"
    )
    parser.add_argument("--tokenizer", type=Path, metavar="FILE", help="(that of the manifest)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--start", type=int, metavar="V", help="what a run checks, of V pieces")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="(all cores)")


def main(args: argparse.Namespace) -> int:
    """Print the findings; 0 where nothing is wrong, else 1."""
    if args.start:
        evaluate.require(bool(args.tokenizer), "--start needs the tokenizer: add --tokenizer FILE")
        print(check_start(args.folder, args.tokenizer, args.start))
        return 0
    findings = verify(args.folder, args.tokenizer, args.workers)
    passed = not any(finding.level == "fault" for finding in findings)
    if args.json:
        result = {"folder": str(args.folder), "ok": passed, "findings": [*map(asdict, findings)]}
        print(json.dumps(result))
    else:
        for finding in findings:
            print(f"{finding.level:8}{finding.check}: {finding.message}")
        print(f"{args.folder}: {'verified' if passed else 'REFUSED'}")
    return 0 if passed else 1
