"""Files that appear whole, their hashes, and one writer at a time in a folder."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

# Where shards and tokenizers are put unless another folder is named, and where every recipe looks
# for them: below the folder where the user stands, as logs/ is.
DATA_FOLDER = Path("data")


def write_atomic(path: Path, content: str | bytes) -> None:
    """Write a file that appears under its name only when all of it is on disk.

    The content goes to a file beside it first, .NAME.PID.partial. A killed process leaves that
    one at most, and a reader sees the old content or the new one, never a part.
    """
    if isinstance(content, str):
        content = content.encode()
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        # Without this a power cut could keep the new name and lose the content.
        os.fsync(file.fileno())
    partial.replace(path)


def sha256_file(path: str | Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def link_or_copy(source: Path, target: Path) -> None:
    """Make a file stand at target too, without a second copy where the file system can link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


@contextlib.contextmanager
def folder_lock(folder: str | Path) -> Iterator[Path]:
    """Hold a folder, made if absent, for one preparation.

    The system frees the lock however the process ends, so a killed one never blocks the next.

    Raises: BlockingIOError when another preparation holds the folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another preparation is writing to {folder}; wait for it, or name another"
            raise BlockingIOError(message) from None
        yield folder
