"""The shard format: reading back, damage, splits and sidecars."""

import numpy as np
import pytest

from engine.shards import (
    ShardError,
    find_shards,
    read_shard,
    read_split,
    sidecar_path,
    write_shard,
)


def header_of(count: int) -> np.ndarray:
    """The 256 words of a published shard's header, without checksum."""
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, count
    return header


def test_shard_returns_its_tokens_and_pleases_a_reader_of_three_words(tmp_path):
    """The tokens written are read back, mapped; upstream's way of reading gives the same tokens."""
    path = tmp_path / "toy_val_000000.bin"
    tokens = np.arange(70, dtype=np.int64) * 900
    write_shard(path, tokens)
    tokens_T = read_shard(path)
    assert isinstance(tokens_T, np.memmap)
    assert tokens_T.dtype == np.uint16
    assert tokens_T.tolist() == tokens.tolist()
    header = np.fromfile(path, "<i4", 256)
    assert header[:3].tolist() == [20240520, 1, 70]
    assert np.fromfile(path, "<u2", offset=1024).tolist() == tokens.tolist()
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_the_worked_example_of_the_format(tmp_path):
    """The tokens 1, 340, 17 take 1,030 bytes, and the last six are those of the docstring."""
    path = tmp_path / "x.bin"
    write_shard(path, [1, 340, 17])
    blob = path.read_bytes()
    assert len(blob) == 1030
    assert blob[-6:].hex(" ") == "01 00 54 01 11 00"
    checksums = {blob[i : i + 4] for i in range(12, 1024, 4)}
    assert len(checksums) == 1


def test_published_shard_without_checksum_is_read(tmp_path):
    """Zeros in place of the checksum mean that there is nothing to compare with."""
    path = tmp_path / "x.bin"
    path.write_bytes(header_of(3).tobytes() + np.array([1, 2, 3], "<u2").tobytes())
    assert read_shard(path).tolist() == [1, 2, 3]


def corrupt(blob: bytes, rng: np.random.Generator) -> bytes:
    """One accident: flipped bits, a cut, added bytes, a hole of zeros, swapped or foreign parts."""
    data = bytearray(blob)
    at = int(rng.integers(len(blob)))
    match int(rng.integers(7)):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            del data[at:]
        case 2:
            data += rng.bytes(int(rng.integers(1, 9)))
        case 3:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        case 4:
            word = 4 * int(rng.integers(256))
            data[word : word + 4] = rng.bytes(4)
        case 5:
            del data[at : at + int(rng.integers(1, 5))]
        case 6:
            data[at : at + 16] = rng.permutation(bytearray(data[at : at + 16])).tobytes()
    return bytes(data)


def test_a_thousand_corrupted_shards_are_refused(tmp_path):
    """Whatever happens to a shard of ours, reading it names the file, the damage, the remedy."""
    path = tmp_path / "toy_train_000000.bin"
    rng = np.random.default_rng(7)
    write_shard(path, rng.integers(0, 1024, 1500))
    blob = path.read_bytes()
    refused = 0
    while refused < 1000:
        damaged = corrupt(blob, rng)
        if damaged == blob:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match="toy_train_000000.bin: .*; build or fetch it again"):
            read_shard(path)
        refused += 1


@pytest.mark.parametrize(
    "word, value, message",
    [
        (0, 1, "magic 1 and version 1 must be 20240520 and 1; build or fetch"),
        (1, 2, "magic 20240520 and version 2 must be"),
        (2, -5, "do not hold -5 tokens"),
        (2, 0, "do not hold 0 tokens"),
        (2, 4, "do not hold 4 tokens"),
        (2, 2**31 - 1, "do not hold"),
        (3, 9, "the header must hold zeros or one repeated checksum"),
        (255, 9, "the header must hold zeros or one repeated checksum"),
    ],
)
def test_header_damage_is_named(tmp_path, word, value, message):
    """Each word of a header without checksum is checked, the reserved ones too."""
    path = tmp_path / "x.bin"
    header = header_of(3)
    header[word] = value
    path.write_bytes(header.tobytes() + bytes(6))
    with pytest.raises(ShardError, match=message):
        read_shard(path)


def test_file_shorter_than_a_header_is_refused(tmp_path):
    """An empty file and half a header are damaged shards, not crashes."""
    path = tmp_path / "x.bin"
    for size_bytes in (0, 1, 1023):
        path.write_bytes(bytes(size_bytes))
        with pytest.raises(ShardError, match=f"{size_bytes} bytes must be at least 1024"):
            read_shard(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    """Neither is a shard, and both errors say so with the remedy."""
    for path in (tmp_path / "none.bin", tmp_path):
        with pytest.raises(ShardError, match=f"{path} is missing; build or fetch it again"):
            read_shard(path)


def test_only_verifying_compares_the_tokens(tmp_path):
    """verify=False opens a shard whose tokens have changed; the default does not."""
    path = tmp_path / "x.bin"
    write_shard(path, np.arange(9))
    blob = bytearray(path.read_bytes())
    blob[-2] ^= 1
    path.write_bytes(blob)
    assert read_shard(path, verify=False)[-1] == 9
    with pytest.raises(ShardError, match="checksum [0-9a-f]{8} must be [0-9a-f]{8}; build or"):
        read_shard(path)


@pytest.mark.parametrize("tokens", [[-1], [65_536], [0.5], [], [[1, 2]]])
def test_write_shard_refuses_other_than_a_row_of_uint16(tmp_path, tokens):
    """No file appears for tokens that a shard cannot hold."""
    with pytest.raises(ValueError, match="one non-empty row of integers in 0..65535"):
        write_shard(tmp_path / "x.bin", np.array(tokens))
    assert not list(tmp_path.iterdir())


def test_split_is_its_shards_in_order(tmp_path):
    """Shards are listed by split, sorted and joined."""
    for number in (2, 0, 1):
        write_shard(tmp_path / f"toy_val_{number:06d}.bin", np.full(2, number))
    write_shard(tmp_path / "toy_train_000000.bin", np.full(2, 9))
    assert read_split(tmp_path, "val").tolist() == [0, 0, 1, 1, 2, 2]
    assert read_split(tmp_path, "train").tolist() == [9, 9]
    assert isinstance(read_split(tmp_path, "train"), np.memmap)


def test_an_absent_split_is_an_error_with_a_remedy(tmp_path):
    """The error names the folder, and the command that fetches the shards."""
    nowhere = tmp_path / "nowhere"
    message = rf"no \*_val_\*.bin in {nowhere}; run: golf.py data fetch --variant sp1024"
    with pytest.raises(FileNotFoundError, match=message):
        find_shards(nowhere, "val")


@pytest.mark.parametrize("name", ["toy_val_000000.bytes.bin", "toy_val_bytes_000000.bin"])
def test_a_sidecar_is_not_a_shard(tmp_path, name):
    """Our sidecars and published ones have other names; neither is read as tokens."""
    shard = tmp_path / "toy_val_000000.bin"
    write_shard(shard, np.full(3, 7))
    write_shard(tmp_path / name, np.full(3, 1))
    assert find_shards(tmp_path, "val") == [shard]
    assert sidecar_path(shard) == tmp_path / name


def test_a_missing_sidecar_has_our_name(tmp_path):
    """Where there is none, the path is the one that golf.py data would write."""
    shard = tmp_path / "toy_val_000000.bin"
    assert sidecar_path(shard) == tmp_path / "toy_val_000000.bytes.bin"
