"""Single files of a mirror: what counts as whole, what is tried again, and what a listing says."""

import errno
import hashlib
import json
import types

import numpy as np
import pytest

from data import mirrors
from data.mirrors import FetchError, Mirror, Remote
from engine.shards import write_shard


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_file_is_whole_when_size_hash_and_header_are_right(tmp_path):
    """Large files by SHA-256, small ones as git hashes them, shards by their header too."""
    path = tmp_path / "x.bin"
    write_shard(path, np.arange(100))
    content = path.read_bytes()
    size = len(content)
    assert mirrors.file_fault(path, Remote("x.bin", size, sha256(content))) == ""
    git = hashlib.sha1(b"blob %d\0" % size + content).hexdigest()
    assert mirrors.file_fault(path, Remote("x.bin", size, git)) == ""
    assert "bytes, must have" in mirrors.file_fault(path, Remote("x.bin", size + 1, git))
    assert "has the hash" in mirrors.file_fault(path, Remote("x.bin", size, "0" * 64))
    path.write_bytes(bytes(size))
    zeros = Remote("x.bin", size, sha256(bytes(size)))
    assert "is not a shard, though it is as published" in mirrors.file_fault(path, zeros)


def test_a_retry_ends_with_the_first_result(monkeypatch):
    """Pauses double; the last reason is told; what cannot be helped is not tried again."""
    pauses, failures = [], [OSError("cut")] * 2
    monkeypatch.setattr(mirrors.time, "sleep", pauses.append)

    def action():
        if failures:
            raise failures.pop()
        return "content"

    assert mirrors.retry(action, "x") == "content" and pauses == [1.0, 2.0]
    failures += [OSError("cut")] * 9
    with pytest.raises(FetchError, match="x: OSError: cut"):
        mirrors.retry(action, "x")
    assert len(failures) == 9 - mirrors.ATTEMPTS
    missing = OSError("not there")
    missing.response = types.SimpleNamespace(status_code=404)
    for error in (missing, OSError(errno.ENOSPC, "full")):
        failures[:] = [OSError("again"), error]
        with pytest.raises(FetchError):
            mirrors.retry(action, "x")
        assert len(failures) == 1


LISTING = {
    "datasets": [{"name": "d", "tokenizer_name": "t", "stats": {"files_train": 3, "files_val": 1}}],
    "tokenizers": [{"name": "t", "path": "tokenizers/t.model"}],
}


def test_a_listing_names_the_tokenizer_of_a_data_set():
    """By either key; a path that leaves the folder is refused."""
    dataset, tokenizer = mirrors.read_listing(json.dumps(LISTING).encode(), "d")
    assert dataset["stats"]["files_train"] == 3 and tokenizer["path"] == "tokenizers/t.model"
    for path in ("../t.model", "/t.model", "", None):
        listing = LISTING | {"tokenizers": [{"name": "t", "path": path}]}
        with pytest.raises(FetchError, match="no usable tokenizer for d"):
            mirrors.read_listing(json.dumps(listing).encode(), "d")


def test_a_mirror_is_named_by_repository_and_prefix():
    """With and without a prefix."""
    assert str(Mirror("a/b", "datasets")) == "a/b/datasets" and str(Mirror("a/b", "")) == "a/b"
    assert Mirror("a/b", "").path_in_repository("x.bin") == "x.bin"
    assert Mirror("a/b", "d").path_in_repository("x.bin") == "d/x.bin"
