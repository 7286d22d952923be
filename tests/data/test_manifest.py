"""The manifest of a prepared folder: read back as written, and refused by name when wrong."""

import copy
import json

import numpy as np
import pytest

from data import files
from data import manifest as manifests
from data.files import sha256_file
from data.manifest import ManifestError


@pytest.fixture
def folder(tmp_path):
    """A folder with two files that stand for shards, an index and a manifest."""
    shards = []
    for split, documents in (("train", 3), ("val", 2)):
        path = tmp_path / f"x_{split}_000000.bin"
        path.write_bytes(split.encode() * 7)
        facts = {"file": path.name, "split": split, "documents": documents, "tokens": 9}
        shards.append(facts | {"sha256": sha256_file(path), "sidecar": None})
    counts = {"tokens": 9, "bytes": 20, "raw_bytes": 20, "changed_documents": 0}
    hashes = {"train": [30, 10, 20], "val": [5, 4]}
    manifests.write_manifest(
        tmp_path,
        {
            "version": 1,
            "source": {"name": "made up", "sha256": None},
            "tokenizer": {"kind": "bytes", "file": None, "sha256": None, "vocab_size": 260},
            "split_rule": {"rule": "first", "val_documents": 2},
            "splits": {"train": {"documents": 3, **counts}, "val": {"documents": 2, **counts}},
            "shards": shards,
            "sidecar_required": False,
            "bos_id": 1,
            "document_index": manifests.write_index(tmp_path, hashes, "text"),
        },
    )
    return tmp_path


def test_what_was_written_is_read_back(folder):
    """The manifest, the sorted index of each split, and a stamp of both shards."""
    manifest = manifests.read_manifest(folder)
    assert manifest["splits"]["train"]["documents"] == 3
    index = manifests.read_index(folder, manifest)
    assert index["train"].tolist() == [10, 20, 30] and index["val"].tolist() == [4, 5]
    stamp = json.loads((folder / manifests.STAMP).read_text())
    path = folder / "x_val_000000.bin"
    status = path.stat()
    expected = [sha256_file(path), status.st_size, status.st_mtime_ns]
    assert set(stamp) == {"x_train_000000.bin", path.name} and stamp[path.name] == expected
    assert not list(folder.glob("*.partial")) and not list(folder.glob(".*.partial"))


def change(manifest, keys, value):
    for key in keys[:-1]:
        manifest = manifest[key]
    if value is ...:
        del manifest[keys[-1]]
    else:
        manifest[keys[-1]] = value


@pytest.mark.parametrize(
    "keys, value, message",
    [
        (["version"], 2, r"version must be one of \(1,\), not 2"),
        (["source"], [], "source must be an object"),
        (["tokenizer", "kind"], "wordpiece", "tokenizer.kind must be one of"),
        (["tokenizer", "vocab_size"], "8192", "tokenizer.vocab_size must be of type int"),
        (["splits", "val"], ..., "splits lacks 'val'"),
        (["splits", "val", "bytes"], -1, "splits.val.bytes must be of type int and not negative"),
        (["splits", "train", "tokens"], 10, "train shards hold 9 tokens, split says 10"),
        (["shards"], [], "shards must be a list that is not empty"),
        (["shards", 1, "sha256"], None, r"shards\[1\].sha256 must be of type str"),
        (["shards", 0, "file"], "../x", "'../x' must be a plain name"),
        (["shards", 0, "file"], "x_val_000000.bin", "names a file twice"),
        (["sidecar_required"], True, "requires sidecars and names none for"),
        (["sidecar_required"], 1, "sidecar_required must be of type bool"),
        (["document_index", "val"], 1, "1 val hashes for 2 documents"),
    ],
)
def test_a_wrong_manifest_is_refused_by_name(folder, keys, value, message):
    """Each wrong, missing or contradictory key is named, when read and before it is written."""
    manifest = manifests.read_manifest(folder)
    change(manifest, keys, value)
    before = (folder / "manifest.json").read_text()
    with pytest.raises(ManifestError, match=message):
        manifests.write_manifest(folder, manifest)
    assert (folder / "manifest.json").read_text() == before
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ManifestError, match=message):
        manifests.read_manifest(folder)


def test_splits_that_meet_get_no_manifest(folder):
    """A document in both splits is refused, unless published text is known to repeat as many."""
    manifest = manifests.read_manifest(folder)
    hashes = {"train": [30, 10, 20], "val": [5, 10]}
    manifest["document_index"] = manifests.write_index(folder, hashes, "text")
    with pytest.raises(ManifestError, match="1 validation documents are in the training text"):
        manifests.write_manifest(folder, manifest)
    manifests.write_manifest(folder, manifest | {"shared_documents": 1})


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_refused(folder, split):
    """A folder without documents on one side is fit for nothing."""
    manifest = manifests.read_manifest(folder)
    manifest["splits"][split]["documents"] = 0
    with pytest.raises(ManifestError, match=f"no {split} documents"):
        manifests.write_manifest(folder, manifest)


@pytest.mark.parametrize("key", ["bytes", "raw_bytes", "changed_documents"])
def test_what_is_not_known_may_be_null(folder, key):
    """Published shards come without their texts: those counts may be null, documents may not."""
    manifest = manifests.read_manifest(folder)
    manifest["splits"]["train"][key] = None
    manifests.write_manifest(folder, manifest)
    manifest["splits"]["train"]["documents"] = None
    with pytest.raises(ManifestError, match="train.documents must be of type int"):
        manifests.write_manifest(folder, manifest)


@pytest.mark.parametrize("content", ["", "{", "[1]", "null", '{"version": 1}', "\ud800"])
def test_a_damaged_file_is_refused(folder, content):
    """Empty, cut short, not an object, not UTF-8: a ManifestError that names the file."""
    (folder / "manifest.json").write_bytes(content.encode(errors="surrogatepass"))
    with pytest.raises(ManifestError, match="manifest.json"):
        manifests.read_manifest(folder)
    (folder / "manifest.json").unlink()
    with pytest.raises(FileNotFoundError, match="not finished"):
        manifests.read_manifest(folder)


@pytest.mark.parametrize("damage", ["gone", "short", "changed"])
def test_a_damaged_index_is_refused(folder, damage):
    """A missing, cut or changed index is found before it is used."""
    path, manifest = folder / "documents.idx", manifests.read_manifest(folder)
    data = path.read_bytes()
    path.write_bytes(data[:-8] if damage == "short" else data[:-1] + b"x")
    if damage == "gone":
        path.unlink()
    expected = {"gone": "is missing", "short": "32 bytes, must be 40", "changed": "not as it was"}
    with pytest.raises(ManifestError, match=expected[damage]):
        manifests.read_index(folder, manifest)


def test_the_same_document_has_one_hash():
    """Text by its UTF-8, tokens by value whatever their type; one change gives another hash."""
    tokens = [5, 6, 60_000]
    assert manifests.hash_document("é") == manifests.hash_document("\xe9")
    assert manifests.hash_document("é") != manifests.hash_document("e\u0301")
    assert manifests.hash_document(np.array(tokens)) == manifests.hash_document(
        np.array(tokens, dtype=np.uint16)
    )
    assert manifests.hash_document(np.array(tokens)) != manifests.hash_document(np.array([5, 6, 7]))
    assert 0 <= manifests.hash_document("") < 2**64


def test_shared_finds_what_is_in_both():
    """Equal to a set intersection, for random hashes and at the borders."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        train, val = (rng.integers(0, 40, size=n, dtype=np.uint64) for n in rng.integers(0, 30, 2))
        actual = manifests.shared(np.sort(train), val).tolist()
        assert actual == sorted(set(train.tolist()) & set(val.tolist()))


def test_a_manifest_is_never_half_written(folder, monkeypatch):
    """A write that fails leaves the old manifest, whole."""
    manifest = manifests.read_manifest(folder)
    changed = copy.deepcopy(manifest)
    changed["source"]["name"] = "another"
    monkeypatch.setattr(files.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        manifests.write_manifest(folder, changed)
    assert manifests.read_manifest(folder) == manifest
