"""Copy a run folder or a folder of shards to a store of objects, or back: s3://, gs://, any fsspec.

    python3 golf.py store logs/mine s3://bucket/runs/mine             # there; again: what changed
    python3 golf.py store s3://bucket/runs/mine logs/mine             # back, on another machine
    python3 golf.py store s3://bucket/shards data/datasets/mine

Machines that share no disk share such a store. Beside the files lies SHA256SUMS, as sha256sum
writes it, which is stored last:

    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08  checkpoint.pt
    60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752  tokens/train_000000.bin

By it a file that is there already is not sent again, and one that was cut short or changed is
refused: a file gets its name only after its hash was compared. A store's address is read by fsspec;
s3 also needs the package s3fs, and reads AWS_* variables and FSSPEC_S3_ENDPOINT_URL.

Exit status 0: copied, 2: it could not be.
"""

import argparse
import hashlib
import os
import sys
from pathlib import Path

import golf

SUMS = "SHA256SUMS"
CHUNK_BYTES = 1 << 20
SKIPPED = {".lock", SUMS}  # of the folder; and files that are being written: *.tmp, *.partial


def is_remote(address: str) -> bool:
    """Whether an address names a store: s3://bucket/x does, logs/x does not."""
    return "://" in address


def read_sums(text: str) -> dict[str, str]:
    """The hash of each name in a SHA256SUMS. Raises: ValueError for a line of another form."""
    sums = {}
    for line in text.splitlines():
        digest, _, name = line.partition("  ")
        is_inside = name and not Path(name).is_absolute() and ".." not in Path(name).parts
        if len(digest) != 64 or not is_inside:
            raise ValueError(f"{SUMS} has the line {line!r}; store the folder again")
        sums[name] = digest
    return sums


def write_sums(sums: dict[str, str]) -> str:
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))


def copy_stream(source, target) -> str:
    """Copy an open file to another in pieces; returns the SHA-256 of what was copied."""
    digest = hashlib.sha256()
    while chunk := source.read(CHUNK_BYTES):
        digest.update(chunk)
        target.write(chunk)
    return digest.hexdigest()


def hash_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: Path) -> list[str]:
    """The files below a folder that are worth keeping, by their names relative to it."""
    names = []
    for path in sorted(folder.rglob("*")):
        is_half_written = path.suffix in (".tmp", ".partial")
        if path.is_file() and path.name not in SKIPPED and not is_half_written:
            names.append(path.relative_to(folder).as_posix())
    return names


def open_store(address: str):
    """(file system, path in it) of an address. Raises: ImportError, ValueError."""
    import fsspec

    return fsspec.core.url_to_fs(address)


def sums_in(store, path: str) -> dict[str, str]:
    """What the store's list says; empty where there is none yet."""
    try:
        return read_sums(store.cat_file(f"{path}/{SUMS}").decode())
    except FileNotFoundError:
        return {}


def put(folder: Path, address: str, say) -> None:
    """Store a folder's files, those alone that the store has not. Raises: ValueError, OSError."""
    names = files_of(folder)
    if not names:
        raise ValueError(f"{folder} holds no files; name a run's folder or one of shards")
    store, path = open_store(address)
    there = sums_in(store, path)
    sums = {}
    for name in names:
        digest = hash_file(folder / name)
        if there.get(name) != digest:
            say(f"{name}, {(folder / name).stat().st_size:,} bytes")
            # An object appears in a store when it is whole. A checkpoint that the trainer replaces
            # meanwhile is hashed as it was sent.
            store.makedirs(os.path.dirname(f"{path}/{name}"), exist_ok=True)
            with open(folder / name, "rb") as source, store.open(f"{path}/{name}", "wb") as target:
                digest = copy_stream(source, target)
        sums[name] = digest
    store.pipe_file(f"{path}/{SUMS}", write_sums(sums).encode())


def get(address: str, folder: Path, say) -> None:
    """Fetch what the folder has not. Raises: ValueError for a file that is not as it was stored."""
    store, path = open_store(address)
    sums = sums_in(store, path)
    if not sums:
        raise ValueError(f"{address} has no {SUMS}; store a folder there first")
    for name, expected in sums.items():
        place = folder / name
        if place.is_file() and hash_file(place) == expected:
            continue
        say(name)
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.{os.getpid()}.partial")
        try:
            with store.open(f"{path}/{name}", "rb") as source, open(partial, "wb") as target:
                digest = copy_stream(source, target)
            if digest != expected:
                raise ValueError(f"{address}/{name} is not as it was stored; store it again")
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="golf.py store",
        description=__doc__.splitlines()[0],
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", metavar="FROM", help="a folder, or the address of one in a store")
    parser.add_argument("target", metavar="TO", help="the other of the two")
    args = parser.parse_args(argv)

    def say(line: str) -> None:
        print(f"store: {line}", flush=True)

    try:
        if is_remote(args.source) == is_remote(args.target):
            raise ValueError("one of FROM and TO must be an address, as s3://bucket/runs/mine")
        if is_remote(args.target):
            put(Path(args.source), args.target.rstrip("/"), say)
            golf.say_next("store", args.target, args.source)
        else:
            get(args.source.rstrip("/"), Path(args.target), say)
    except Exception as error:  # stores raise errors of their own: of networks, of permissions
        message = " ".join(str(error).split()) or type(error).__name__
        print(f"golf.py store: {message}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
