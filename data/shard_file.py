"""A shard that is written while its tokens come, for builds that never hold a whole one."""

from __future__ import annotations

import contextlib
import os
import zlib
from pathlib import Path

import numpy as np

from data.files import sha256_file
from engine.shards import HEADER_BYTES, SHARD_MAGIC, SHARD_VERSION


class ShardFile:
    """A shard as write_shard makes it.

    The header holds count and checksum, which are known at the end, so its place is kept free:
    a file that was cut off has zeros there and is refused by every reader.
    """

    def __init__(self, path: Path):
        self.path = path
        self.count = 0
        self.checksum = 0
        self.file = path.open("wb")
        self.file.write(bytes(HEADER_BYTES))

    def append(self, tokens_T: np.ndarray) -> None:
        body = tokens_T.astype("<u2").tobytes()
        self.file.write(body)
        self.count += len(tokens_T)
        self.checksum = zlib.crc32(body, self.checksum)

    def close(self) -> dict:
        """Finish the file; return its name and hash, as a manifest has them."""
        # Every reserved word repeats the checksum, so that a damaged one stands out.
        header = np.full(HEADER_BYTES // 4, self.checksum, "<u4")
        header[:3] = SHARD_MAGIC, SHARD_VERSION, self.count
        self.file.seek(0)
        self.file.write(header.tobytes())
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()
        return {"file": self.path.name, "sha256": sha256_file(self.path)}

    def remove(self) -> None:
        """Remove a file that was not finished."""
        with contextlib.suppress(OSError):  # a full disk fails here too, with the same news
            self.file.close()
        self.path.unlink(missing_ok=True)
