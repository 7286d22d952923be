"""What a prepared folder says about itself: manifest.json, and an index of document hashes.

The manifest names source, tokenizer, split rule and counts, and the SHA-256 of every shard. The
index holds 8 bytes for each document, so whether two splits meet is one intersection of integers.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from data import gpt2_tokenizer
from evaluate import find_shards

VERSION = 1
MANIFEST = "manifest.json"
INDEX = "documents.idx"
STAMP = ".verified.json"  # size and time of every file of the manifest when it was last hashed
SPLITS = ("train", "val")

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
    """manifest.json is missing, damaged, or says what cannot be."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ManifestError(f"{message}; build or fetch the folder again (data/prepare.py)")


def check_kind(value, kind, name: str) -> None:
    """Raise ManifestError, by the name of the key, where a value is not of its kind."""
    if isinstance(kind, dict):
        require(isinstance(value, dict), f"{name} must be an object, not {value!r}")
        for key, inner in kind.items():
            bare = key.removesuffix("?")
            require(bare in value, f"{name} lacks {bare!r}")
            if not (key.endswith("?") and value[bare] is None):
                check_kind(value[bare], inner, f"{name}.{bare}")
    elif isinstance(kind, list):
        require(isinstance(value, list) and value != [], f"{name} must be a list that is not empty")
        for number, item in enumerate(value):
            check_kind(item, kind[0], f"{name}[{number}]")
    elif isinstance(kind, tuple):
        require(value in kind, f"{name} must be one of {kind}, not {value!r}")
    else:
        fits = type(value) is kind and (kind is not int or value >= 0)
        require(fits, f"{name} must be of type {kind.__name__} and not negative, not {value!r}")


def check_manifest(manifest: dict, name: str) -> None:
    """Raise ManifestError where the manifest breaks the schema or contradicts itself."""
    check_kind(manifest, SCHEMA, name)
    shards, index = manifest["shards"], manifest["document_index"]
    files = [shard["file"] for shard in shards]
    files += [shard["sidecar"]["file"] for shard in shards if shard["sidecar"]]
    files += [index["file"]] if index else []
    for file in files:
        plain = file == os.path.basename(file) and file not in ("", ".", "..")
        require(plain, f"{name}: file {file!r} must be a plain name in the folder")
    require(len(set(files)) == len(files), f"{name} names a file twice")
    for split in SPLITS:
        may_lack = split == "train" and manifest["split_rule"]["rule"] == "whole"
        found = manifest["splits"][split]["documents"] > 0 or may_lack
        require(found, f"{name}: no {split} documents")
        for key in ("documents", "tokens"):
            want = manifest["splits"][split][key]
            total = sum(shard[key] for shard in shards if shard["split"] == split)
            require(total == want, f"{name}: {split} shards hold {total} {key}, split says {want}")
        if index:
            count, want = index[split], manifest["splits"][split]["documents"]
            require(count == want, f"{name}: {count} {split} hashes for {want} documents")
    if manifest["sidecar_required"]:
        bare = [s["file"] for s in shards if s["split"] == "val" and not s["sidecar"]]
        require(not bare, f"{name} requires sidecars and names none for {bare[:1]}")


def read_manifest(folder: str | Path) -> dict:
    """Return the manifest of a folder, checked against the schema.

    Raises: ManifestError naming the key that is wrong; FileNotFoundError where there is none.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        what = "the folder was not made, or not finished, by data/prepare.py"
        raise FileNotFoundError(errno.ENOENT, what, str(path))
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
        both, allowed = len(shared(index["train"], index["val"])), manifest.get("shared_documents")
        what = f"{path}: {both} validation documents are in the training text"
        require(both <= (allowed or 0), what)
    write_atomic(path, json.dumps(manifest, indent=1) + "\n")
    write_stamp(folder, manifest)


def write_stamp(folder: str | Path, manifest: dict) -> None:
    """Note size and time of the shards and sidecars, whose hashes have been compared just now."""
    folder, stamp = Path(folder), {}
    for shard in manifest["shards"]:
        for entry in filter(None, (shard, shard["sidecar"])):
            status = (folder / entry["file"]).stat()
            stamp[entry["file"]] = [entry["sha256"], status.st_size, status.st_mtime_ns]
    write_atomic(folder / STAMP, json.dumps(stamp))


def check_files(folder: str | Path, manifest: dict, tokenizer_path: str | Path) -> None:
    """Raise ManifestError where shards, sidecars or tokenizer are not those of the manifest.

    A file that was touched since it was verified is hashed.
    """
    folder = Path(folder)
    stamp = folder / STAMP
    stamps = json.loads(stamp.read_bytes()) if stamp.exists() else {}
    known = {e["file"]: e["sha256"] for s in manifest["shards"] for e in (s, s["sidecar"]) if e}
    for name, sha256 in known.items():
        path = folder / name
        require(path.is_file(), f"{path} is missing")
        same = stamps.get(name) == [sha256, path.stat().st_size, path.stat().st_mtime_ns]
        require(same or sha256_file(path) == sha256, f"{path} is not the file that was verified")
    for path in [*find_shards(folder, "train"), *find_shards(folder, "val")]:
        require(path.name in known, f"{path} is not in {MANIFEST}, so nobody verified it")
    want = manifest["tokenizer"]["sha256"]  # null where the tokenizer came without a file
    same = want is None or sha256_file(gpt2_tokenizer.vocabulary_file(tokenizer_path)) == want
    require(same, f"{tokenizer_path} is not the tokenizer of {folder}")


def write_atomic(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def sha256_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_document(document: str | np.ndarray) -> int:
    """Return 8 bytes of BLAKE2b of a text, or of tokens (uint16, without BOS), as an integer."""
    text = isinstance(document, str)
    data = document.encode() if text else np.ascontiguousarray(document, dtype="<u2").tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def write_index(folder: str | Path, hashes: dict[str, Iterable[int]], of: str) -> dict:
    """Write the hashes of both splits, sorted; return the manifest's entry for them."""
    path = Path(folder) / INDEX
    sorted_splits = {}
    for split in SPLITS:
        given = hashes[split]
        given = given if isinstance(given, np.ndarray) else list(given)
        sorted_splits[split] = np.sort(np.asarray(given, dtype="<u8"))
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(b"".join(sorted_splits[split].tobytes() for split in SPLITS))
    partial.replace(path)
    counts = {split: len(sorted_splits[split]) for split in SPLITS}
    return {"file": path.name, "sha256": sha256_file(path), "of": of, **counts}


def read_index(folder: str | Path, manifest: dict) -> dict[str, np.ndarray]:
    """Return the sorted hashes of both splits, mapped.

    Raises: ManifestError when the file is missing or is not the one of the manifest.
    """
    entry = manifest["document_index"]
    path = Path(folder) / entry["file"]
    require(path.is_file(), f"{path} is missing")
    found, want = path.stat().st_size, 8 * (entry["train"] + entry["val"])
    require(found == want, f"{path} holds {found} bytes, must be {want}")
    require(sha256_file(path) == entry["sha256"], f"{path} is not as it was written")
    hashes = np.memmap(path, dtype="<u8", mode="r") if want else np.zeros(0, dtype="<u8")
    return {"train": hashes[: entry["train"]], "val": hashes[entry["train"] :]}


def shared(train_D: np.ndarray, val_D: np.ndarray) -> np.ndarray:
    """Return the distinct hashes of val that are among those of train, which are sorted."""
    val_D = np.unique(val_D)
    at_D = np.searchsorted(train_D, val_D)
    inside_D = at_D < len(train_D)
    inside_D[inside_D] = train_D[at_D[inside_D]] == val_D[inside_D]
    return val_D[inside_D]


@contextlib.contextmanager
def folder_lock(folder: str | Path) -> Iterator[Path]:
    """Hold a folder, made if absent, for one preparation; freed however the process ends.

    Raises: BlockingIOError when another one is writing there.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            what = f"another preparation is writing to {folder}; wait for it, or name another"
            raise BlockingIOError(what) from None
        yield folder
