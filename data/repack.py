"""Pack the shards of several parts again, so that they are those of a build in one process.

A part ends its last shard where its documents end. Two parts, shards of 10 tokens:

    part 0   BOS a b BOS c d BOS e      part 1   BOS f BOS g h BOS i j k
    packed   BOS a b BOS c d BOS e BOS f   BOS g h BOS i j k

The tokens are read once and written once, a shard at a time; nothing is tokenised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.counted_progress import CountedProgress
from data.packing import Piece, plan_pieces
from data.shard_file import ShardFile
from engine.shards import read_shard


class TokenStream:
    """The tokens of many shards as one row, mapped."""

    def __init__(self, paths: list[Path]):
        self.shards = [read_shard(path) for path in paths]
        # of the first token of each shard, and of the end
        self.starts = np.cumsum([0, *map(len, self.shards)]).tolist()

    def read(self, begin: int, end: int) -> Iterator[np.ndarray]:
        """Yield the tokens begin..end, a row from each shard that they lie in."""
        for shard_T, start in zip(self.shards, self.starts, strict=False):
            first = max(0, begin - start)
            last = min(len(shard_T), end - start)
            if first < last:
                yield shard_T[first:last]


def plan_stream(stream: TokenStream, bos_id: int, limit: int) -> Iterator[Piece]:
    """Yield the pieces of all documents of a stream; each document begins with BOS.

    One source shard is planned at a time: of all documents of a large set even the lengths would
    take a gigabyte.
    """
    room = limit
    open_start = 0  # of the last document of the shards before, whose end is not known yet
    has_open = False
    for shard_T, start in zip(stream.shards, stream.starts, strict=False):
        starts_D = start + np.flatnonzero(shard_T == bos_id)
        if not len(starts_D):
            continue  # within a document that is longer than a shard
        if has_open:
            starts_D = np.append(open_start, starts_D)
        room = yield from _moved(np.diff(starts_D), int(starts_D[0]), room, limit)
        open_start = int(starts_D[-1])
        has_open = True
    if has_open:
        yield from _moved(np.array([stream.starts[-1] - open_start]), open_start, room, limit)


def _moved(length_D: np.ndarray, start: int, room: int, limit: int) -> Iterator[Piece]:
    """Yield pieces at their places in the stream; return the room that is left."""
    for piece in plan_pieces(length_D, room, limit):
        if piece.opens:
            room = limit
        room -= piece.end - piece.begin
        yield replace(piece, begin=start + piece.begin, end=start + piece.end)
    return room


def repack(
    shards: list[tuple[Path, Path | None]], stem: str, folder: Path, bos_id: int, limit: int
) -> list[dict]:
    """Write the shards and sidecars of one split anew into a folder; return what is in each.

    Each entry has documents, tokens, file, sha256 and sidecar, as a part's state has them. The
    files are called STEM_000000.bin, STEM_000000.bytes.bin and so on.
    """
    streams = [TokenStream([path for path, _ in shards])]
    endings = [".bin"]
    if shards and shards[0][1]:
        streams.append(TokenStream([sidecar for _, sidecar in shards]))
        endings.append(".bytes.bin")
    progress = CountedProgress("merge", streams[0].starts[-1], "tokens")
    entries: list[dict] = []
    files: list[ShardFile] = []
    for piece in plan_stream(streams[0], bos_id, limit):
        if piece.opens:
            _close(files, entries[-1])
            files = []
        if not files:
            name = f"{stem}_{len(entries):06d}"
            files = [ShardFile(folder / f"{name}{ending}") for ending in endings]
            entries.append({"documents": 0, "tokens": 0})
        for file, stream in zip(files, streams, strict=True):
            for row_T in stream.read(piece.begin, piece.end):
                file.append(row_T)
        entries[-1]["documents"] += piece.last - piece.first
        entries[-1]["tokens"] += piece.end - piece.begin
        progress.reach(piece.end)
    if files:
        _close(files, entries[-1])
    progress.finish()
    return entries


def _close(files: list[ShardFile], entry: dict) -> None:
    written = [file.close() for file in files]
    entry |= written[0]
    entry["sidecar"] = written[1] if len(written) == 2 else None
