"""Repositories of the hub that hold published shards, and single files from them, verified.

A mirror has the field's layout, below a prefix:

    manifest.json                                      lists data sets and tokenizers
    datasets/fineweb10B_sp1024/fineweb_val_000000.bin
    datasets/fineweb10B_sp1024/fineweb_train_000000.bin …
    tokenizers/fineweb_1024_bpe.model

and its manifest.json, in the part that is read here:

    {"datasets": [{"name": "fineweb10B_sp1024", "tokenizer_name": "sp_bpe_1024",
                   "stats": {"files_train": 195, "files_val": 1}}],
     "tokenizers": [{"name": "sp_bpe_1024", "model_path": "tokenizers/fineweb_1024_bpe.model"}]}
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data import hub_errors
from data.files import sha256_file
from engine.shards import read_shard

ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 1.0  # between attempts; doubled each time
REASON_CHARACTERS = 300  # of a client's error: its text may be a whole page
NOT_HELPED_BY_RETRY = (401, 403, 404)
SHA256_DIGITS = 64


class FetchError(OSError):
    """A mirror does not give what was asked of it."""


@dataclass(frozen=True)
class Remote:
    """One file of a mirror, as the hub describes it."""

    path: str
    size: int
    etag: str  # SHA-256 of a large file, git's SHA-1 of a small one


@dataclass(frozen=True)
class Mirror:
    """A repository of the hub at one commit, so that all files belong together."""

    repository: str
    prefix: str
    endpoint: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}/{self.prefix}".rstrip("/")

    def path_in_repository(self, path: str) -> str:
        return f"{self.prefix}/{path}".lstrip("/")

    def describe(self, path: str) -> tuple[Remote, str]:
        """Return the file's size and hash, and the commit it is of."""
        import huggingface_hub

        url = huggingface_hub.hf_hub_url(
            self.repository,
            self.path_in_repository(path),
            repo_type="dataset",
            revision=self.revision,
            endpoint=self.endpoint,
        )
        answer = huggingface_hub.get_hf_file_metadata(url, endpoint=self.endpoint)
        if None in (answer.size, answer.etag, answer.commit_hash):
            raise FetchError(f"the hub does not say size, hash and commit of {path}")
        return Remote(path, answer.size, answer.etag), answer.commit_hash

    def download(self, file: Remote, target: Path) -> None:
        """Make the file stand at target, whole, or raise FetchError saying what is wrong."""
        import huggingface_hub

        with tempfile.TemporaryDirectory(prefix=".download_", dir=target.parent) as folder:
            fetched = huggingface_hub.hf_hub_download(
                self.repository,
                self.path_in_repository(file.path),
                repo_type="dataset",
                revision=self.revision,
                local_dir=folder,
                endpoint=self.endpoint,
            )
            if fault := file_fault(Path(fetched), file):
                raise FetchError(f"{file.path} {fault}")
            os.replace(fetched, target)


def file_fault(path: Path, file: Remote) -> str:
    """Say what is wrong with a file on disk; empty when it is the one that the hub describes."""
    size = path.stat().st_size
    if size != file.size:
        return f"has {size} bytes, must have {file.size}"
    if len(file.etag) == SHA256_DIGITS:
        digest = sha256_file(path)
    else:
        # Small files are in git itself, which hashes them with a header before.
        digest = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
    if digest != file.etag:
        return f"has the hash {digest}, must have {file.etag}"
    if path.suffix == ".bin" or file.path.endswith(".bin"):
        try:
            read_shard(path)
        except ValueError as error:
            return f"is not a shard, though it is as published: {error}"
    return ""


def retry(action: Callable, name: str, attempts: int = ATTEMPTS):
    """Return the action's result, after a few attempts; raise FetchError with the last reason."""
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, attempts + 1):
        try:
            return action()
        # The client's errors have no common class that all of its versions know.
        except Exception as error:
            if attempt == attempts or is_final(error):
                raise FetchError(f"{name}: {describe_error(error)}") from error
            time.sleep(pause)
            pause *= 2


def describe_error(error: Exception) -> str:
    """Return an error's name and text on one line, cut, and what helps against it."""
    reason = " ".join(f"{type(error).__name__}: {error}".split())[:REASON_CHARACTERS]
    help_text = hub_errors.remedy(error)
    return f"{reason} ({help_text})" if help_text else reason


def is_final(error: Exception) -> bool:
    """Return whether asking again cannot help: not there, not allowed, or a full disk."""
    disk_full = isinstance(error, OSError) and error.errno == errno.ENOSPC
    return disk_full or hub_errors.http_status(error) in NOT_HELPED_BY_RETRY


def read_listing(text: bytes, name: str) -> tuple[dict, dict]:
    """Return the entries of a data set and of its tokenizer in a mirror's manifest.json.

    Raises: FetchError naming the key that is missing or wrong.
    """
    try:
        listing = json.loads(text)
        datasets = {entry["name"]: entry for entry in listing["datasets"]}
        tokenizers = {entry["name"]: entry for entry in listing["tokenizers"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"its manifest.json cannot be used ({error!r})") from None
    if name not in datasets:
        raise FetchError(f"its manifest.json lists {', '.join(sorted(datasets))}, not {name}")
    dataset = datasets[name]
    for key in ("files_train", "files_val"):
        count = (dataset.get("stats") or {}).get(key)
        if type(count) is not int or count < 1:
            raise FetchError(f"its manifest.json gives {name} stats.{key}={count!r}")
    tokenizer = tokenizers.get(dataset.get("tokenizer_name")) or {}
    path = tokenizer.get("model_path") or tokenizer.get("path")
    if not _is_safe(path):
        raise FetchError(f"its manifest.json names no usable tokenizer for {name}")
    return dataset, tokenizer | {"path": path}


def _is_safe(path) -> bool:
    """Return whether a path from elsewhere stays inside its folder."""
    if not isinstance(path, str) or not path:
        return False
    return ".." not in path.split("/") and not path.startswith("/")
