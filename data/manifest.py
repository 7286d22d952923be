"""What a prepared folder says about itself: manifest.json, and an index of document hashes.

The manifest names source, tokenizer, split rule and counts, and the SHA-256 of every shard. In
short (SCHEMA below has every key):

    {"version": 1,
     "source": {"name": "stories.jsonl", "sha256": "9f…"},
     "tokenizer": {"kind": "bytes", "file": null, "sha256": null, "vocab_size": 260},
     "split_rule": {"rule": "first", "val_documents": 2},
     "splits": {"train": {"documents": 3, "tokens": 40, …}, "val": {"documents": 2, …}},
     "shards": [{"file": "stories_train_000000.bin", "split": "train", "documents": 3,
                 "tokens": 40, "sha256": "07…", "sidecar": {"file": …, "sha256": …}}, …],
     "sidecar_required": true,
     "bos_id": 1,
     "document_index": {"file": "documents.idx", "sha256": "c2…", "of": "text",
                        "train": 3, "val": 2}}

A sidecar (NAME.bytes.bin) is a shard too: its "tokens" are the UTF-8 bytes of the original text
that each token of the shard beside it stands for. BOS has 0, so "hi" as bytes is

    shard    1 108 109        (BOS, "h" + 4, "i" + 4)
    sidecar  0   1   1

The index, documents.idx, is 8 bytes for each document, little-endian: the hashes of the training
documents, sorted, then those of the validation documents, sorted. So whether two splits meet is
one intersection of integers: train 10 20 30, val 4 20 -> they share the document 20.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data import gpt2_tokenizer
from data.files import sha256_file, write_atomic
from engine.shards import find_shards

VERSION = 1
MANIFEST = "manifest.json"
INDEX = "documents.idx"
STAMP = ".verified.json"  # size and time of every file of the manifest when it was last hashed
SPLITS = ("train", "val")
HASH_BYTES = 8  # two of 10^9 documents have the same hash with a probability of 3 %

# Every key of a manifest and the kind of its value: a type, a tuple of choices, or the same again.
# A key that ends in "?" may hold null, where the fact is not known. More keys are allowed.
COUNTS = {
    "documents": int,
    "tokens": int,
    "bytes?": int,  # UTF-8 of the decoded documents
    "raw_bytes?": int,  # UTF-8 of the documents before the tokenizer's normaliser
    "changed_documents?": int,  # how many the normaliser changed
}
SCHEMA = {
    "version": (VERSION,),
    "source": {"name": str, "sha256?": str},
    "tokenizer": {
        "kind": ("sentencepiece", "bytes", "gpt2"),
        "file?": str,  # relative to the folder
        "sha256?": str,
        "vocab_size": int,
    },
    "split_rule": {"rule": str, "val_documents?": int},
    "splits": {split: COUNTS for split in SPLITS},
    "shards": [
        {
            "file": str,
            "split": SPLITS,
            "documents": int,  # how many begin in it
            "tokens": int,
            "sha256": str,
            "sidecar?": {"file": str, "sha256": str},
        }
    ],
    "sidecar_required": bool,
    "bos_id": int,
    "document_index?": {
        "file": str,
        "sha256": str,
        "of": ("text", "tokens"),  # what was hashed
        "train": int,  # hashes in the file, those of train first, sorted within a split
        "val": int,
    },
}


class ManifestError(ValueError):
    """manifest.json is missing, damaged, or contradicts itself or the files it names."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ManifestError(f"{message}; build or fetch the folder again (data/prepare.py)")


# Schema -------------------------------------------------------------------------------------------


def check_kind(value, kind, name: str) -> None:
    """Raise ManifestError, by the name of the key, where a value is not of its kind."""
    if isinstance(kind, dict):
        _check_object(value, kind, name)
    elif isinstance(kind, list):
        require(isinstance(value, list) and value != [], f"{name} must be a list that is not empty")
        for number, item in enumerate(value):
            check_kind(item, kind[0], f"{name}[{number}]")
    elif isinstance(kind, tuple):
        require(value in kind, f"{name} must be one of {kind}, not {value!r}")
    else:
        # type() and not isinstance(): True is an int in Python and must not pass for a count.
        fits = type(value) is kind and (kind is not int or value >= 0)
        require(fits, f"{name} must be of type {kind.__name__} and not negative, not {value!r}")


def _check_object(value, kinds: dict, name: str) -> None:
    require(isinstance(value, dict), f"{name} must be an object, not {value!r}")
    for key, kind in kinds.items():
        bare = key.removesuffix("?")
        may_be_null = key.endswith("?")
        require(bare in value, f"{name} lacks {bare!r}")
        if value[bare] is None and may_be_null:
            continue
        check_kind(value[bare], kind, f"{name}.{bare}")


def check_manifest(manifest: dict, name: str) -> None:
    """Raise ManifestError where the manifest breaks the schema or contradicts itself."""
    check_kind(manifest, SCHEMA, name)
    _check_file_names(manifest, name)
    for split in SPLITS:
        _check_counts(manifest, split, name)
    if manifest["sidecar_required"]:
        val_shards = [shard for shard in manifest["shards"] if shard["split"] == "val"]
        bare = [shard for shard in val_shards if not shard["sidecar"]]
        require(not bare, f"{name} requires sidecars and names none for {bare[:1]}")


def named_files(manifest: dict) -> list[dict]:
    """Return the entry, with file and sha256, of every shard and sidecar."""
    shards = manifest["shards"]
    return shards + [shard["sidecar"] for shard in shards if shard["sidecar"]]


def _check_file_names(manifest: dict, name: str) -> None:
    files = [entry["file"] for entry in named_files(manifest)]
    if manifest["document_index"]:
        files.append(manifest["document_index"]["file"])
    for file in files:
        # A manifest comes from elsewhere at times: it must not reach out of its folder.
        plain = file == os.path.basename(file) and file not in ("", ".", "..")
        require(plain, f"{name}: file {file!r} must be a plain name in the folder")
    require(len(set(files)) == len(files), f"{name} names a file twice")


def _check_counts(manifest: dict, split: str, name: str) -> None:
    counts = manifest["splits"][split]
    # A test file for evaluation alone is validation as a whole, with nothing to train on.
    may_be_empty = split == "train" and manifest["split_rule"]["rule"] == "whole"
    require(counts["documents"] > 0 or may_be_empty, f"{name}: no {split} documents")
    shards = [shard for shard in manifest["shards"] if shard["split"] == split]
    for key in ("documents", "tokens"):
        total = sum(shard[key] for shard in shards)
        message = f"{name}: {split} shards hold {total} {key}, split says {counts[key]}"
        require(total == counts[key], message)
    index = manifest["document_index"]
    if index:
        message = f"{name}: {index[split]} {split} hashes for {counts['documents']} documents"
        require(index[split] == counts["documents"], message)


# Reading and writing ------------------------------------------------------------------------------


def read_manifest(folder: str | Path) -> dict:
    """Return the manifest of a folder, checked against the schema.

    Raises: ManifestError naming the key that is wrong; FileNotFoundError where there is none.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        message = "the folder was not made, or not finished, by data/prepare.py"
        raise FileNotFoundError(errno.ENOENT, message, str(path))
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(f"{path} is damaged ({error}); fetch or build it again") from None
    check_manifest(manifest, str(path))
    return manifest


def write_manifest(folder: str | Path, manifest: dict) -> None:
    """Write manifest.json, in one rename, as the last file of a folder, and stamp what it names.

    The caller has just hashed the shards: the stamp lets a run trust them until they are touched.

    Raises: ManifestError also where a document is in both splits. Published text may repeat some:
    "shared_documents" says how many.
    """
    path = Path(folder) / MANIFEST
    check_manifest(manifest, str(path))
    if manifest["document_index"]:
        index = read_index(folder, manifest)
        both = len(shared(index["train"], index["val"]))
        allowed = manifest.get("shared_documents") or 0
        message = f"{path}: {both} validation documents are in the training text"
        require(both <= allowed, message)
    write_atomic(path, json.dumps(manifest, indent=1) + "\n")
    write_stamp(folder, manifest)


def write_stamp(folder: str | Path, manifest: dict) -> None:
    """Note size and time of the shards and sidecars, whose hashes have been compared just now.

    Example: {"x_val_000000.bin": ["c2…", 2048, 1790000000000000000]}
    """
    folder = Path(folder)
    stamp = {entry["file"]: _stamp_entry(folder, entry) for entry in named_files(manifest)}
    write_atomic(folder / STAMP, json.dumps(stamp))


def _stamp_entry(folder: Path, entry: dict) -> list:
    status = (folder / entry["file"]).stat()
    return [entry["sha256"], status.st_size, status.st_mtime_ns]


def check_files(folder: str | Path, manifest: dict, tokenizer_path: str | Path) -> None:
    """Raise ManifestError where shards, sidecars or tokenizer are not those of the manifest.

    A file that was touched since it was verified is hashed. All others cost one stat.
    """
    folder = Path(folder)
    stamp_path = folder / STAMP
    stamp = json.loads(stamp_path.read_bytes()) if stamp_path.exists() else {}
    names = set()
    for entry in named_files(manifest):
        path = folder / entry["file"]
        names.add(path.name)
        require(path.is_file(), f"{path} is missing")
        if stamp.get(path.name) != _stamp_entry(folder, entry):
            same = sha256_file(path) == entry["sha256"]
            require(same, f"{path} is not the file that was verified")
    for path in [*find_shards(folder, "train"), *find_shards(folder, "val")]:
        require(path.name in names, f"{path} is not in {MANIFEST}, so nobody verified it")
    sha256 = manifest["tokenizer"]["sha256"]  # null where the tokenizer came without a file
    if sha256 is not None:
        same = sha256_file(gpt2_tokenizer.vocabulary_file(tokenizer_path)) == sha256
        require(same, f"{tokenizer_path} is not the tokenizer of {folder}")


# The document index -------------------------------------------------------------------------------


def hash_document(document: str | np.ndarray) -> int:
    """Return the hash of a text, or of tokens (uint16, without BOS): BLAKE2b of 8 bytes."""
    if isinstance(document, str):
        content = document.encode()
    else:
        content = np.ascontiguousarray(document, dtype="<u2").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=HASH_BYTES).digest(), "little")


def write_index(folder: str | Path, hashes: dict[str, Iterable[int]], of: str) -> dict:
    """Write the hashes of both splits, sorted; return the manifest's entry for them."""
    path = Path(folder) / INDEX
    sorted_hashes = {}
    for split in SPLITS:
        values = hashes[split]
        if not isinstance(values, np.ndarray):
            values = list(values)
        sorted_hashes[split] = np.sort(np.asarray(values, dtype="<u8"))
    write_atomic(path, b"".join(sorted_hashes[split].tobytes() for split in SPLITS))
    counts = {split: len(sorted_hashes[split]) for split in SPLITS}
    return {"file": path.name, "sha256": sha256_file(path), "of": of, **counts}


def read_index(folder: str | Path, manifest: dict) -> dict[str, np.ndarray]:
    """Return the sorted hashes of both splits, mapped.

    Raises: ManifestError when the file is missing or is not the one of the manifest.
    """
    entry = manifest["document_index"]
    path = Path(folder) / entry["file"]
    require(path.is_file(), f"{path} is missing")
    size = path.stat().st_size
    right_size = HASH_BYTES * (entry["train"] + entry["val"])
    require(size == right_size, f"{path} holds {size} bytes, must be {right_size}")
    require(sha256_file(path) == entry["sha256"], f"{path} is not as it was written")
    # An empty file cannot be mapped.
    hashes = np.memmap(path, dtype="<u8", mode="r") if size else np.zeros(0, dtype="<u8")
    return {"train": hashes[: entry["train"]], "val": hashes[entry["train"] :]}


def shared(train_D: np.ndarray, val_D: np.ndarray) -> np.ndarray:
    """Return the distinct hashes of val that are among those of train, which are sorted.

    Example: train 10 20 30, val 20 4 20 -> 20
    """
    val_D = np.unique(val_D)
    at_D = np.searchsorted(train_D, val_D)
    inside_D = at_D < len(train_D)
    inside_D[inside_D] = train_D[at_D[inside_D]] == val_D[inside_D]
    return val_D[inside_D]
