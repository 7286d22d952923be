"""Verify a prepared folder: what its manifest says, against every byte that is on disk.

Nothing is taken on trust: shards are hashed and read whole, validation documents are decoded, and
every document of one split is looked for in the other. All faults are named, not only the first.

    ok      headers: 2 shards are whole
    fault   hashes: x_val_000000.bin is not as it was written: its SHA-256 is another; build …
    x: REFUSED
"""

from __future__ import annotations

import argparse
import json
import os
import re
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import evaluate
from data import gpt2_tokenizer, next_step, tokenizers
from data import manifest as manifests
from data.counted_progress import CountedProgress
from data.decoded_text import ROUND_TRIPS, DecodedText, explain
from data.files import sha256_file
from data.manifest import SPLITS
from data.near_duplicates import count_near_duplicates
from data.shard_facts import ShardFacts, join_hashes, read_facts
from data.start_check import MAX_PUBLISHED_FRAC, check_start
from engine.shards import find_shards, read_shard, sidecar_path

# Validation tokens of the challenge by vocabulary, as logs print them: cut to whole windows of at
# most 2,048. Source: recomputed from the logs of published records.
FINEWEB_TOKENS = {260: 151_130_112, 1024: 62_021_632, 4096: 45_508_608, 8192: 40_540_160}
FINEWEB_CASEOPS_TOKENS = 47_851_520
WINDOW_TOKENS = 2048


@dataclass(frozen=True)
class CheckResult:
    """The outcome of one check."""

    check: str
    level: str  # "ok", "warning" or "fault"
    message: str


def verify(path: Path, tokenizer_path: Path | None = None, workers: int = 1) -> list[CheckResult]:
    """Return all findings about a folder; without a fault, later starts may trust its files."""
    folder = Folder(path, tokenizer_path)
    folder.check_counts()
    tokenizer = folder.load_tokenizer()
    vocab_size = tokenizer.vocab_size if tokenizer else folder.tokenizer_entry.get("vocab_size")
    has_sidecar = folder.needs_sidecar(tokenizer)
    folder.check_shards(vocab_size or gpt2_tokenizer.MOST_PIECES, has_sidecar, workers)
    readable = not folder.failed("headers", "sidecar", "range") and folder.paths["val"]
    if tokenizer and readable:
        folder.check_bytes(tokenizer, has_sidecar)
        folder.ok("tokenizer", f"{folder.tokenizer_entry['kind']}, {tokenizer.vocab_size} ids")
    if folder.manifest and not folder.failed():
        manifests.write_stamp(path, folder.manifest)
    return folder.findings


class Folder:
    """A folder under verification: what it should hold, what it holds, and the findings."""

    def __init__(self, path: Path, tokenizer_path: Path | None):
        self.path = path
        self.findings: list[CheckResult] = []
        try:
            self.manifest: dict | None = manifests.read_manifest(path)
        except FileNotFoundError:
            self.manifest = None
        if self.manifest:
            self.tokenizer_entry = self.manifest["tokenizer"]
            self.source = self.manifest["source"]
            self.entries = {shard["file"]: shard for shard in self.manifest["shards"]}
            self.bos_id = self.manifest["bos_id"]
        else:
            message = f"{path} has no manifest.json, so what it should hold is not known"
            if tokenizer_path is None:
                raise ValueError(f"{message}; name its tokenizer with --tokenizer")
            self.add("manifest", "warning", message)
            is_gpt2 = tokenizer_path.is_dir()
            self.tokenizer_entry = {"kind": "gpt2" if is_gpt2 else "sentencepiece"}
            self.source = {"name": path.resolve().name}
            self.entries = {}
            self.bos_id = tokenizers.GPT2_BOS_ID if is_gpt2 else evaluate.BOS_ID
        self.tokenizer_path = self._tokenizer_file(tokenizer_path)
        self.ends = self.tokenizer_entry.get("marks") == "after"  # documents end with BOS
        self.paths = {split: self.find_shards(split) for split in SPLITS}

    def _tokenizer_file(self, named: Path | None) -> Path | None:
        """Return the tokenizer that was named, else that of the manifest; None for bytes."""
        if named is None:
            file = self.tokenizer_entry["file"]
            if not file:
                return None
            named = self.path / file
        return gpt2_tokenizer.vocabulary_file(named)

    # Findings

    def add(self, check: str, level: str, message: str) -> None:
        self.findings.append(CheckResult(check, level, message))

    def fault(self, check: str, message: str, remedy: str = "") -> None:
        remedy = remedy or "build or fetch the folder again"
        self.add(check, "fault", f"{message}; {remedy}")

    def ok(self, check: str, message: str) -> None:
        """Note that the check is done: it passed, unless it has a finding from before."""
        if not any(finding.check == check for finding in self.findings):
            self.add(check, "ok", message)

    def failed(self, *checks: str) -> bool:
        """Return whether one of these checks, or any if none is named, found a fault."""
        faults = [finding.check for finding in self.findings if finding.level == "fault"]
        return any(check in checks for check in faults) if checks else bool(faults)

    # Shards

    def find_shards(self, split: str) -> list[Path]:
        """Return the shards of a split that are there and should be; all others are faults."""
        if self.manifest and not self.manifest["splits"][split]["documents"]:
            return []
        try:
            there = {path.name: path for path in find_shards(self.path, split)}
        except FileNotFoundError as error:
            self.add("shards", "fault", str(error))
            there = {}
        if self.entries or not there:
            expected = {name for name, entry in self.entries.items() if entry["split"] == split}
        else:
            expected = _without_gaps(there)
        for name in sorted(expected - set(there)):
            self.fault("shards", f"{self.path / name} is missing")
        for name in sorted(set(there) - expected):
            self.fault("shards", f"{there[name]} is not in the manifest", "move it away")
        return [there[name] for name in sorted(expected & set(there))]

    def check_counts(self) -> None:
        """Compare the number of shards with what the source is known to have."""
        for split in SPLITS:
            have = len(self.paths[split])
            published = self.source.get(f"{split}_shards")
            if published and have < published:
                level = "fault" if split == "val" else "warning"
                message = f"{have} of {published} {split} shards of {self.source['name']} are here"
                self.add("shards", level, f"{message}; fetch the others to use all of the text")
        counts = " and ".join(f"{len(paths)} {split}" for split, paths in self.paths.items())
        self.ok("shards", f"{counts} shards")

    def check_shards(self, vocab_size: int, needs_sidecar: bool, workers: int) -> None:
        """Check headers, hashes, token range, BOS and sidecars of every shard, and overlap."""
        facts = self._read_all(vocab_size, needs_sidecar, workers)
        all_facts = facts["train"] + facts["val"]
        for shard in all_facts:
            for check, message in shard.faults:
                self.add(check, "fault", message)
        for split, shards in facts.items():
            self._check_first_token(split, shards)
            if needs_sidecar:
                self._check_sidecar_total(split, shards)
        self.ok("headers", f"{len(all_facts)} shards are whole")
        if self.manifest:
            tokens = {split: sum(shard.tokens for shard in facts[split]) for split in SPLITS}
            self.ok("hashes", f"{len(all_facts)} shards are as they were written")
            self.ok("tokens", f"{tokens['train']} train and {tokens['val']} validation")
        self.ok("range", f"every token is below {vocab_size}")
        self.ok("bos", f"{sum(shard.documents for shard in all_facts)} document starts")
        self.check_overlap(facts)

    def _read_all(
        self, vocab_size: int, needs_sidecar: bool, workers: int
    ) -> dict[str, list[ShardFacts]]:
        facts: dict[str, list[ShardFacts]] = {}
        among_S = None
        size = sum(path.stat().st_size for paths in self.paths.values() for path in paths)
        progress = CountedProgress("verify shards", size, "bytes")
        with ProcessPoolExecutor(workers) as pool:
            # Validation comes first: of training text only what it repeats is kept, else the
            # shingles of 100 shards would not fit into memory.
            for split in ("val", "train"):
                jobs = [
                    pool.submit(
                        read_facts,
                        path,
                        self.entries.get(path.name),
                        vocab_size,
                        self.bos_id,
                        needs_sidecar and split == "val",
                        among_S,
                    )
                    for path in self.paths[split]
                ]
                facts[split] = []
                for path, job in zip(self.paths[split], jobs, strict=True):
                    facts[split].append(job.result())
                    progress.add(path.stat().st_size)
                if split == "val":
                    rows = [shard.shingles for shard in facts["val"] if shard.shingles is not None]
                    hashes = [np.empty(0, np.uint64), *(part[:, 0] for part in rows)]
                    among_S = np.unique(np.concatenate(hashes))
        progress.finish()
        return facts

    def _check_first_token(self, split: str, shards: list[ShardFacts]) -> None:
        if self.ends or not shards or shards[0].head_T is None:
            return
        if len(shards[0].head_T):
            self.fault("bos", f"{self.paths[split][0]} must start with BOS={self.bos_id}")

    def _check_sidecar_total(self, split: str, shards: list[ShardFacts]) -> None:
        stated = self.manifest["splits"][split]["bytes"] if self.manifest else None
        total = sum(shard.sidecar_bytes for shard in shards)
        if total and stated not in (None, total):
            message = f"{split} sidecars add up to {total} bytes, the manifest says {stated}"
            self.fault("sidecar", message)

    # Overlap of the splits

    def check_overlap(self, facts: dict[str, list[ShardFacts]]) -> None:
        """Refuse validation documents that are training documents; report those that nearly are."""
        hashes = {split: np.sort(join_hashes(facts[split])) for split in SPLITS}
        both = len(manifests.shared(hashes["train"], hashes["val"]))
        allowed = 0
        if self.manifest:
            # A manifest may permit what the crawl itself repeats, but not more than that.
            allowed = self.manifest.get("shared_documents", 0)
            both = max(both, self.check_index(hashes))
        allowed = min(allowed, int(MAX_PUBLISHED_FRAC * len(hashes["val"])))
        message = f"{both} of {len(hashes['val'])} validation documents are in the training text"
        if both > allowed:
            self.fault("overlap", message)
        elif both:
            self.add("overlap", "warning", f"{message}, as in the published shards")
        self.ok("overlap", message)
        shingles = {
            split: [shard.shingles for shard in shards if shard.shingles is not None]
            for split, shards in facts.items()
        }
        # Equal documents are near-duplicates too, and have been counted.
        near = max(0, count_near_duplicates(shingles["val"], shingles["train"]) - both)
        message = f"{near} more validation documents are nearly in one training document"
        self.add("near-duplicates", "warning" if near else "ok", message)

    def check_index(self, hashes: dict[str, np.ndarray]) -> int:
        """Check the document index; return how many documents it has in both splits."""
        entry = self.manifest["document_index"]
        if not entry:
            return 0
        try:
            stored = manifests.read_index(self.path, self.manifest)
        except ValueError as error:
            self.add("index", "fault", str(error))
            return 0
        if entry["of"] == "tokens":
            for split in SPLITS:
                if not np.array_equal(stored[split], hashes[split]):
                    message = f"the index lists other {split} documents than the shards hold"
                    self.fault("index", message)
        self.ok("index", f"{sum(map(len, stored.values()))} document hashes")
        return len(manifests.shared(stored["train"], stored["val"]))

    # Tokenizer and bytes

    def load_tokenizer(self) -> tokenizers.Tokenizer | None:
        """Return the tokenizer if it is that of the manifest and fit to count bytes."""
        entry = self.tokenizer_entry
        path = self.tokenizer_path
        if path and not path.is_file():
            self.fault("tokenizer", f"{path} is missing", "name it with --tokenizer")
        elif path and entry.get("sha256") not in (None, sha256_file(path)):
            message = f"{path} is not the tokenizer of {self.path}: its SHA-256 is another"
            self.fault("tokenizer", message, "name the right one with --tokenizer")
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
        stated = entry.get("vocab_size", tokenizer.vocab_size)
        if tokenizer.vocab_size != stated:
            self.fault("tokenizer", f"{path} has {tokenizer.vocab_size} pieces, must have {stated}")
        return tokenizer

    def needs_sidecar(self, tokenizer: tokenizers.Tokenizer | None) -> bool:
        if self.manifest and self.manifest["sidecar_required"]:
            return True
        if isinstance(tokenizer, tokenizers.SentencePiece) and tokenizer.table.needs_sidecar:
            return True
        return any(sidecar_path(path).exists() for path in self.paths["val"])

    def check_bytes(self, tokenizer: tokenizers.Tokenizer, has_sidecar: bool) -> None:
        """Compare the bytes of every validation document, by table or sidecar, with its text."""
        tokens_T = np.concatenate([read_shard(path) for path in self.paths["val"]])
        if has_sidecar:
            check = "sidecar"
            files = [sidecar_path(path) for path in self.paths["val"]]
            bytes_T = np.concatenate([read_shard(file) for file in files])
        elif isinstance(tokenizer, tokenizers.SentencePiece):
            check = "bytes"
            before_T = np.append(self.bos_id, tokens_T[:-1])
            bytes_T = tokenizer.table.count(before_T, tokens_T)
            bytes_T[0] *= not self.ends  # not a target, and here it may be text
        else:
            kind = self.tokenizer_entry["kind"]
            self.fault("sidecar", f"{kind} tokens have their bytes in a sidecar; it is missing")
            return
        decoded = DecodedText(tokens_T, bytes_T, self.bos_id, self.ends, tokenizer)
        if decoded.miscounts:
            count = f"{len(decoded.miscounts)} documents of {len(decoded.hashes)}"
            self.fault(check, f"{decoded.miscounts[0]} ({count})")
        # A normaliser changes some documents; another tokenizer changes nearly all of them.
        if decoded.round_trips < min(len(decoded.hashes), ROUND_TRIPS) / 2:
            message = f"{self.tokenizer_path} would not write the shards' documents as they are"
            self.fault("tokenizer", message, "name the tokenizer of these shards")
        if self.manifest:
            self._check_decoded(decoded, tokens_T, tokenizer)
        self.ok("bytes", f"{decoded.total} bytes of decoded validation text")
        if has_sidecar:
            self.ok("sidecar", "has the bytes of every validation document")
        self.check_fingerprint(len(decoded.hashes), decoded.total, len(tokens_T), tokenizer)

    def _check_decoded(self, decoded: DecodedText, tokens_T: np.ndarray, tokenizer) -> None:
        """Compare the decoded validation text with the counts and the index of the manifest."""
        stated = self.manifest["splits"]["val"]
        if stated["bytes"] not in (None, decoded.total):
            reason = explain(stated["bytes"] - decoded.total, tokens_T, tokenizer)
            message = f"validation text has {decoded.total} bytes, the manifest says"
            self.fault("bytes", f"{message} {stated['bytes']}{reason}")
        index = self.manifest["document_index"]
        if not index or index["of"] != "text" or stated["changed_documents"] != 0:
            return
        stored = manifests.read_index(self.path, self.manifest)["val"]
        hashes = np.sort(np.array(decoded.hashes, np.uint64))
        # Where BOS ends documents, the first and the last one may be cut, and are not compared.
        same = np.isin(hashes, stored).all() if self.ends else np.array_equal(hashes, stored)
        if not same:
            self.fault("index", "the index lists other val documents than the shards hold")

    def check_fingerprint(self, documents: int, size: int, tokens: int, tokenizer) -> None:
        """Check that this is the validation split of the challenge, where the source says so."""
        challenge = evaluate.FINEWEB_VAL
        sizes = [size]
        if self.manifest:
            sizes.append(self.manifest["splits"]["val"]["raw_bytes"])
        counts = f"{documents} documents, {size} bytes, {tokens} tokens"
        if documents == challenge["documents"] and challenge["bytes"] in sizes:
            usual = _usual_tokens(tokenizer)
            if usual and not usual <= tokens < usual + WINDOW_TOKENS:
                message = f"{tokens} tokens where published records have about {usual}"
                self.add("fingerprint", "warning", f"{message}: the tokenizer is another")
            self.ok("fingerprint", f"validation is that of the challenge: {counts}")
        elif re.search(r"fineweb(?!-edu)", self.source["name"].lower()):
            must = f"{challenge['documents']} documents and {challenge['bytes']} bytes"
            self.fault("fingerprint", f"FineWeb's validation has {must}, this has {counts}")
        else:
            self.ok("fingerprint", f"not the validation split of the challenge: {counts}")


def _without_gaps(names: dict[str, Path]) -> set[str]:
    """Return the names from the first to the last number, those that are missing included.

    Example: x_train_000000.bin, x_train_000002.bin -> those two and x_train_000001.bin
    """
    numbers = [int(re.search(r"\d+", name.rpartition("_")[2])[0]) for name in sorted(names)]
    stem = max(names).rpartition("_")[0]
    return {f"{stem}_{number:06d}.bin" for number in range(numbers[0], numbers[-1] + 1)}


def _usual_tokens(tokenizer) -> int:
    """Return the tokens that the challenge's validation split has with this vocabulary; 0: open."""
    if not getattr(tokenizer, "marker_ids", None):
        return FINEWEB_TOKENS.get(tokenizer.vocab_size, 0)
    is_published = tokenizer.vocab_size == 8192 and not tokenizer.fused_ids
    return FINEWEB_CASEOPS_TOKENS if is_published else 0


def _print_next(folder: Path, passed: bool) -> None:
    if not passed or not (folder / manifests.MANIFEST).exists():
        return
    command = next_step.train_command(folder, manifests.read_manifest(folder))
    if command:
        print(command)


# Command line -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("folder", type=Path, help="with shards and, if it was made here, a manifest")
    add("--tokenizer", type=Path, metavar="FILE", help="(that of the manifest)")
    add("--json", action="store_true", help="print one JSON object")
    add("--start", type=int, metavar="V", help="check what a run of V pieces checks")
    add("--workers", type=int, default=os.cpu_count(), help="(all cores)")


def main(args: argparse.Namespace) -> int:
    """Print the findings; return 0 where nothing is wrong, else 1."""
    if args.start:
        if not args.tokenizer:
            raise ValueError("--start needs the tokenizer: add --tokenizer FILE")
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
        _print_next(args.folder, passed)
    return 0 if passed else 1
