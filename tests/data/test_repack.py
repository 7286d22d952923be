"""Repacking: parts that end anywhere give the shards of one build."""

import numpy as np
import pytest

from data.manifest import sha256_file
from data.repack import TokenStream, repack
from engine.shards import read_shard, write_shard


def documents(seed: int, count: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [np.append(1, rng.integers(2, 99, rng.choice([1, 3, 8, 45]))) for _ in range(count)]


def write(folder, name: str, tokens_T: np.ndarray):
    path = folder / f"{name}.bin"
    write_shard(path, tokens_T)
    return path


@pytest.mark.parametrize("seed", range(4))
def test_parts_become_the_shards_of_one_build(tmp_path, seed):
    """Cut anywhere: whole documents, cut ones, sidecars, counts and hashes."""
    docs = documents(seed)
    stream_T = np.concatenate(docs)
    cuts = np.sort(np.random.default_rng(seed).choice(len(stream_T), 5, replace=False))
    paths = [
        (
            write(tmp_path, f"t{number}", part_T),
            write(tmp_path, f"b{number}", (part_T != 1).astype(np.uint16)),
        )
        for number, part_T in enumerate(np.split(stream_T, np.append(0, cuts)[1:]))
    ]
    single = [(write(tmp_path, "t", stream_T), write(tmp_path, "b", (stream_T != 1) * 1))]
    folders = []
    for name, shards in (("many", paths), ("one", single)):
        folder = tmp_path / name
        folder.mkdir()
        folders.append(repack(shards, "x_train", folder, 1, 20))
    assert folders[0] == folders[1] and len(folders[0]) > 5
    assert sum(entry["documents"] for entry in folders[0]) == len(docs)
    rows = [read_shard(tmp_path / "many" / entry["file"]) for entry in folders[0]]
    assert np.array_equal(np.concatenate(rows), stream_T) and max(map(len, rows)) <= 20
    for entry, row_T in zip(folders[0], rows, strict=True):
        assert sha256_file(tmp_path / "many" / entry["file"]) == entry["sha256"]
        sidecar = read_shard(tmp_path / "many" / entry["sidecar"]["file"])
        assert np.array_equal(sidecar, row_T != 1)


def test_a_stream_is_read_over_the_ends_of_shards(tmp_path):
    """One row from each."""
    paths = [write(tmp_path, f"t{i}", np.arange(10 * i, 10 * i + 10)) for i in range(3)]
    rows = TokenStream(paths).read(8, 23)
    assert [row_T.tolist() for row_T in rows] == [[8, 9], list(range(10, 20)), [20, 21, 22]]


def test_nothing_gives_nothing(tmp_path):
    """A split without documents has no shards."""
    assert repack([], "x", tmp_path, 1, 20) == []
