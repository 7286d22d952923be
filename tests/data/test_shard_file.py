"""A shard written in pieces is the shard that is written at once."""

import numpy as np

from data.files import sha256_file
from data.shard_file import ShardFile
from engine.shards import write_shard


def test_a_streamed_shard_is_write_shards(tmp_path):
    """Written in pieces, byte for byte what evaluate.py writes at once."""
    tokens_T = np.arange(1000, dtype=np.uint16)
    file = ShardFile(tmp_path / "pieces.bin")
    for piece_T in np.split(tokens_T, [3, 400]):
        file.append(piece_T)
    entry = file.close()
    write_shard(tmp_path / "whole.bin", tokens_T)
    assert (tmp_path / "pieces.bin").read_bytes() == (tmp_path / "whole.bin").read_bytes()
    assert entry["sha256"] == sha256_file(tmp_path / "whole.bin")
