"""The files that hold tokens: one header of 1,024 bytes, then the tokens as 16-bit numbers.

    bytes 0..11      three little-endian int32: 20240520, 1, and the number of tokens
    bytes 12..1023   zeros in published shards; in ours one checksum, repeated 253 times
    bytes 1024..     the tokens, little-endian uint16

So a shard of the tokens 1, 340, 17 has 1,030 bytes, of which the last six are 01 00 54 01 11 00.
A folder holds `*_train_*.bin` and `*_val_*.bin`. A sidecar has the same format: in place of each
token it holds how many bytes of the original text that token stands for.
"""

import mmap
import os
import re
import zlib
from pathlib import Path

import numpy as np

SHARD_MAGIC = 20240520
SHARD_VERSION = 1
HEADER_BYTES = 1024
REMEDY = "build or fetch it again (golf.py data)"


class ShardError(ValueError):
    """A file is damaged or is not a shard, or a folder of shards is unfit."""


def read_shard(path: str | Path, verify: bool = True) -> np.ndarray:
    """Map the tokens of one shard, uint16, after checking that the file is complete.

    verify reads the file once to compare its checksum, if it has one: published shards have none,
    so a changed token in them goes unnoticed.
    Raises: ShardError naming the file and what is wrong with it.
    """
    path = Path(path)
    if not path.is_file():
        raise ShardError(f"{path} is missing; {REMEDY}")
    size_bytes = path.stat().st_size
    if size_bytes < HEADER_BYTES:
        raise ShardError(f"{path}: {size_bytes} bytes must be at least {HEADER_BYTES}; {REMEDY}")
    header = np.fromfile(path, dtype="<i4", count=HEADER_BYTES // 4)
    magic, version, count = header[:3].tolist()
    if (magic, version) != (SHARD_MAGIC, SHARD_VERSION):
        expected = f"{SHARD_MAGIC} and {SHARD_VERSION}"
        marks = f"magic {magic} and version {version}"
        raise ShardError(f"{path}: {marks} must be {expected}; {REMEDY}")
    if count < 1 or size_bytes != HEADER_BYTES + 2 * count:
        raise ShardError(f"{path}: {size_bytes} bytes do not hold {count} tokens; {REMEDY}")
    checksums = header[3:].view("<u4")
    if (checksums != checksums[0]).any():
        raise ShardError(f"{path}: the header must hold zeros or one repeated checksum; {REMEDY}")
    tokens_T = np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
    if not verify:
        # Training takes rows from everywhere. Reading ahead, a CPU got 0.3 M tokens/s from a disk
        # in place of 130 M.
        tokens_T.base.madvise(mmap.MADV_RANDOM)
        return tokens_T
    stored = int(checksums[0])
    if stored and zlib.crc32(tokens_T) != stored:
        computed = zlib.crc32(tokens_T)
        raise ShardError(f"{path}: checksum {computed:08x} must be {stored:08x}; {REMEDY}")
    return tokens_T


def write_shard(path: str | Path, tokens: np.ndarray) -> None:
    """Write, in one rename, a shard that read_shard can verify and upstream's readers accept.

    Raises: ValueError for tokens that are not one non-empty row of integers in 0..65535.
    """
    path = Path(path)
    tokens_T = np.asarray(tokens)
    is_row = tokens_T.ndim == 1 and tokens_T.size > 0
    if not is_row or (tokens_T != tokens_T.astype("<u2")).any():
        shape = f"{tokens_T.dtype} tokens of shape {tokens_T.shape}"
        raise ValueError(f"{path}: {shape} must be one non-empty row of integers in 0..65535")
    body = tokens_T.astype("<u2").tobytes()
    # Upstream reads three words. All others hold the checksum, so a damaged one stands out.
    header = np.full(HEADER_BYTES // 4, zlib.crc32(body), dtype="<u4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, len(tokens_T)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(header.tobytes() + body)
    partial.replace(path)


def find_shards(data_path: str | Path, split: str) -> list[Path]:
    """List a folder's shards of one split, "train" or "val", in reading order.

    Raises: FileNotFoundError where there is none.
    """
    matching = sorted(Path(data_path).glob(f"*_{split}_*.bin"))
    is_sidecar = re.compile(rf"_{split}_bytes_|\.bytes\.bin$").search
    shards = [path for path in matching if not is_sidecar(path.name)]
    if not shards:
        folder = Path(data_path).resolve()
        fetch = "golf.py data fetch --variant sp1024 (or golf.py data toy)"
        raise FileNotFoundError(f"no *_{split}_*.bin in {folder}; run: {fetch}")
    return shards


def read_split(data_path: str | Path, split: str) -> np.ndarray:
    """Return all tokens of a split as one stream; a single shard stays mapped."""
    shards = [read_shard(path) for path in find_shards(data_path, split)]
    return shards[0] if len(shards) == 1 else np.concatenate(shards)


def sidecar_path(shard: Path) -> Path:
    """Name the file that holds the original bytes of each token of a shard; it may not exist."""
    published = shard.with_name(re.sub("_(train|val)_", r"_\1_bytes_", shard.name))
    return published if published.exists() else shard.with_suffix(".bytes.bin")
