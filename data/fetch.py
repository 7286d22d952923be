"""Fetch published FineWeb shards and their tokenizer from the Hugging Face hub, verified.

A file gets its final name once size, hash and header are right, the folder once all of them are
there and its validation split is the challenge's. What was fetched before is not fetched again.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

import evaluate
from data import manifest as manifests
from data import tokenizers, verify

HERE = Path(__file__).resolve().parent
# Repositories that hold the field's layout, and the prefix of everything in them.
MIRRORS = (
    ("willdepueoai/parameter-golf", "datasets"),
    ("kevclark/parameter-golf", "datasets"),
    ("romeerp/parameter-golf-caseops-v1", "datasets"),
)
CASEOPS = "caseops"  # variants with this in their name have validation sidecars
ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 1.0  # between attempts; doubled each time
SPARE_BYTES = 1 << 28  # of the disk that stay free


class FetchError(OSError):
    """A mirror does not give what was asked of it."""


@dataclass(frozen=True)
class Remote:
    """One file of a mirror, as the hub describes it."""

    path: str
    size: int
    etag: str  # SHA-256 of a large file, git's SHA-1 of a small one


@dataclass(frozen=True)
class Mirror:
    """A repository of the hub at one commit, so that all files belong together."""

    repository: str
    prefix: str
    endpoint: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        return f"{self.repository}/{self.prefix}".rstrip("/")

    def place(self, path: str) -> str:
        return f"{self.prefix}/{path}".lstrip("/")

    def describe(self, path: str) -> tuple[Remote, str]:
        """The file's size and hash, and the commit it is of."""
        import huggingface_hub

        where = {"repo_type": "dataset", "revision": self.revision, "endpoint": self.endpoint}
        url = huggingface_hub.hf_hub_url(self.repository, self.place(path), **where)
        facts = huggingface_hub.get_hf_file_metadata(url, endpoint=self.endpoint)
        if None in (facts.size, facts.etag, facts.commit_hash):
            raise FetchError(f"the hub does not say size, hash and commit of {path}")
        return Remote(path, facts.size, facts.etag), facts.commit_hash

    def download(self, file: Remote, target: Path) -> None:
        """The file stands at target, whole, or FetchError says what is wrong with it."""
        import huggingface_hub

        with tempfile.TemporaryDirectory(prefix=".download_", dir=target.parent) as folder:
            fetched = huggingface_hub.hf_hub_download(
                self.repository,
                self.place(file.path),
                repo_type="dataset",
                revision=self.revision,
                local_dir=folder,
                endpoint=self.endpoint,
            )
            if fault := file_fault(Path(fetched), file):
                raise FetchError(f"{file.path} {fault}")
            os.replace(fetched, target)


def file_fault(path: Path, file: Remote) -> str:
    """What is wrong with a file on disk; empty when it is the one that the hub describes."""
    size = path.stat().st_size
    if size != file.size:
        return f"has {size} bytes, must have {file.size}"
    if len(file.etag) == 64:
        digest = manifests.sha256_file(path)
    else:
        digest = hashlib.sha1(b"blob %d\0" % size + path.read_bytes()).hexdigest()
    if digest != file.etag:
        return f"has the hash {digest}, must have {file.etag}"
    if path.suffix == ".bin" or file.path.endswith(".bin"):
        try:
            evaluate.read_shard(path)
        except ValueError as error:
            return f"is not a shard, though it is as published: {error}"
    return ""


def retry(action: Callable, what: str, attempts: int = ATTEMPTS):
    """The action's result, after a few attempts; FetchError with the last reason after that."""
    pause = FIRST_PAUSE_SECONDS
    for attempt in range(1, attempts + 1):
        try:
            return action()
        # The client's errors have no common class that all of its versions know.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            if attempt == attempts or is_final(error):
                raise FetchError(f"{what}: {reason}") from error
            time.sleep(pause)
            pause *= 2


def is_final(error: Exception) -> bool:
    """Whether asking again cannot help: not there, not allowed, or a full disk."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return status in (401, 403, 404) or (isinstance(error, OSError) and error.errno == errno.ENOSPC)


def read_listing(text: bytes, name: str) -> tuple[dict, dict]:
    """The entries of a data set and of its tokenizer in a mirror's manifest.json.

    Raises: FetchError naming the key that is missing or wrong.
    """
    try:
        listing = json.loads(text)
        offered = {entry["name"]: entry for entry in listing["datasets"]}
        known = {entry["name"]: entry for entry in listing["tokenizers"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FetchError(f"its manifest.json cannot be used ({error!r})") from None
    if name not in offered:
        raise FetchError(f"its manifest.json lists {', '.join(sorted(offered))}, not {name}")
    dataset = offered[name]
    for key in ("files_train", "files_val"):
        count = (dataset.get("stats") or {}).get(key)
        if type(count) is not int or count < 1:
            raise FetchError(f"its manifest.json gives {name} stats.{key}={count!r}")
    tokenizer = known.get(dataset.get("tokenizer_name"))
    path = tokenizer and (tokenizer.get("model_path") or tokenizer.get("path"))
    if not isinstance(path, str) or not path or ".." in path.split("/") or path.startswith("/"):
        raise FetchError(f"its manifest.json names no usable tokenizer for {name}")
    return dataset, {**tokenizer, "path": path}


def shard_names(split: str, count: int, sidecars: bool = False) -> list[str]:
    middle = "_bytes" if sidecars else ""
    return [f"fineweb_{split}{middle}_{number:06d}.bin" for number in range(count)]


class Progress:
    """One bar over all files: what stands in the folder, finished or not."""

    def __init__(self, folder: Path, total: int):
        from tqdm import tqdm

        self.folder = folder
        self.bar = tqdm(total=total, unit="B", unit_scale=True, desc="fetch", mininterval=0.5)

    def update(self) -> None:
        found = 0
        for path in self.folder.rglob("*"):
            try:
                found += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue  # renamed between the two looks
        self.bar.update(min(found, self.bar.total) - self.bar.n)

    def close(self) -> None:
        self.update()
        self.bar.close()


def download_all(mirror: Mirror, paths: list[str], targets: list[Path], jobs: int) -> None:
    """Every path of the mirror stands at its target, verified; what stood there so is kept."""
    folder = targets[0].parent
    with ThreadPoolExecutor(jobs) as pool:
        asked = [pool.submit(retry, lambda p=path: mirror.describe(p)[0], path) for path in paths]
        files = [future.result() for future in asked]

        def is_missing(target: Path, file: Remote) -> bool:
            return not target.exists() or file_fault(target, file) != ""

        missing = list(pool.map(is_missing, targets, files))
        pairs = [(t, f) for t, f, absent in zip(targets, files, missing, strict=True) if absent]
        need, free = sum(file.size for _, file in pairs), shutil.disk_usage(folder).free
        if need + SPARE_BYTES > free:
            what = f"{need:,} bytes are to come and {free:,} are free under {folder}"
            raise OSError(
                errno.ENOSPC, f"{what}; free some, fetch fewer shards or name another --out"
            )
        for target, _ in pairs:
            target.unlink(missing_ok=True)
        print(
            f"fetch {len(pairs)} of {len(files)} files, {need:,} bytes, from {mirror}", flush=True
        )
        progress = Progress(folder, sum(file.size for file in files))
        waiting = {
            pool.submit(retry, lambda f=file, t=target: mirror.download(f, t), file.path)
            for target, file in pairs
        }
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                progress.update()
        finally:
            progress.close()
            pool.shutdown(cancel_futures=True)


def make_manifest(folder: Path, model: Path, wanted: list[str], source: dict, jobs: int) -> dict:
    """The manifest of fetched files, of what is in them; their documents are indexed by tokens.

    Raises: ValueError where the splits meet, or validation is not that of the challenge.
    """
    name = source["name"]
    entry = {"kind": "sentencepiece", "file": model.name, "sha256": manifests.sha256_file(model)}
    if name.endswith("byte260"):
        entry["kind"] = "bytes"
    entry |= {"caseops": CASEOPS in name, "fused": False}
    tokenizer = tokenizers.load(entry | {"file": model.absolute()}, folder)
    entry["vocab_size"] = tokenizer.vocab_size
    shards, found = [], {}
    for split in manifests.SPLITS:
        paths = [folder / file for file in wanted if file.startswith(f"fineweb_{split}_0")]
        needs = [entry["caseops"] and split == "val"] * len(paths)
        with ProcessPoolExecutor(min(jobs, len(paths))) as pool:
            jobs_of = (paths, [None] * len(paths), [tokenizer.vocab_size] * len(paths))
            bos = [evaluate.BOS_ID] * len(paths)
            found[split] = list(pool.map(verify.read_facts, *jobs_of, bos, needs))
        for path, facts in zip(paths, found[split], strict=True):
            if facts.faults:
                raise ValueError(facts.faults[0][1])
            shard = {"file": path.name, "split": split, "documents": facts.documents}
            shard |= {"tokens": facts.tokens, "sha256": manifests.sha256_file(path)}
            sidecar = evaluate.sidecar_path(path) if needs[0] else None
            hashed = sidecar and {"file": sidecar.name, "sha256": manifests.sha256_file(sidecar)}
            shards.append(shard | {"sidecar": hashed})
    hashes = {split: verify.split_hashes(facts) for split, facts in found.items()}
    shared = len(manifests.shared(np.sort(hashes["train"]), hashes["val"]))
    if shared > verify.MAX_PUBLISHED_FRAC * len(hashes["val"]):
        what = f"{shared} of {len(hashes['val'])} validation documents are in the training text"
        raise ValueError(f"{name} of {source['repository']}: {what}; fetch from another repository")
    splits = {}
    for split, facts in found.items():
        counts = {"documents": len(hashes[split]), "tokens": sum(f.tokens for f in facts)}
        unknown = {"bytes": None, "raw_bytes": None, "changed_documents": None}
        splits[split] = counts | unknown
    splits["val"]["bytes"] = val_bytes(folder, tokenizer, found["val"])
    got = {key: splits["val"][key] for key in ("documents", "bytes")}
    if got != evaluate.FINEWEB_VAL:
        what = f"validation is {got}, the challenge's is {evaluate.FINEWEB_VAL}"
        raise ValueError(f"{name} of {source['repository']}: {what}; fetch from another repository")
    return {
        "version": manifests.VERSION,
        "source": source,
        "tokenizer": entry,
        "split_rule": {"rule": "first, as published", "val_documents": splits["val"]["documents"]},
        "splits": splits,
        "shards": shards,
        "sidecar_required": entry["caseops"],
        "bos_id": evaluate.BOS_ID,
        "shared_documents": shared,
        "document_index": manifests.write_index(folder, hashes, "tokens"),
    }


def val_bytes(folder: Path, tokenizer, facts: list[verify.ShardFacts]) -> int:
    if isinstance(tokenizer, tokenizers.Bytes):
        return sum(f.tokens - f.documents for f in facts)
    return evaluate.read_validation(folder, tokenizer.table)[1].total(
        evaluate.read_split(folder, "val")
    )


def fetch_from(mirror: Mirror, name: str, train_shards: int, out: Path, jobs: int) -> dict:
    """The data set stands in out/datasets, its tokenizer in out/tokenizers; returns its manifest.

    Raises: FetchError where the mirror lacks it; ValueError where the data themselves are unfit.
    """
    final, partial = out / "datasets" / name, out / "datasets" / f".{name}.partial"
    listing, commit = retry(lambda: mirror.describe("manifest.json"), "manifest.json")
    mirror = replace(mirror, revision=commit)
    with manifests.folder_lock(partial):
        published = partial / "published.json"
        retry(lambda: mirror.download(listing, published), "manifest.json")
        dataset, tokenizer = read_listing(published.read_bytes(), name)
        known = {split: dataset["stats"][f"files_{split}"] for split in manifests.SPLITS}
        if train_shards > known["train"]:
            raise FetchError(f"it has {known['train']} train shards of {name}, not {train_shards}")
        wanted = shard_names("val", known["val"]) + shard_names("train", train_shards)
        if CASEOPS in name:
            wanted += shard_names("val", known["val"], sidecars=True)
        paths = [f"datasets/{name}/{file}" for file in wanted] + [tokenizer["path"]]
        model = out / "tokenizers" / Path(tokenizer["path"]).name
        model.parent.mkdir(parents=True, exist_ok=True)
        side_model = partial / model.name
        for file, old in [(side_model, model), *((partial / n, final / n) for n in wanted)]:
            if old.exists() and not file.exists():
                link_or_copy(old, file)
        download_all(mirror, paths, [*(partial / file for file in wanted), side_model], jobs)
        source = {"name": name, "repository": str(mirror), "revision": commit}
        source |= {"sha256": manifests.sha256_file(published)}
        source |= {f"{split}_shards": count for split, count in known.items()}
        manifest = make_manifest(partial, side_model, wanted, source, jobs)
        manifest["tokenizer"]["file"] = os.path.relpath(model, final)
        os.replace(side_model, model)
        keep = {*wanted, manifests.MANIFEST, manifests.INDEX, manifests.STAMP}
        manifests.write_manifest(partial, manifest)
        for path in partial.iterdir():
            if path.name not in keep:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    return manifest


def link_or_copy(old: Path, new: Path) -> None:
    try:
        os.link(old, new)
    except OSError:  # a file system without links
        shutil.copy2(old, new)


def in_place(name: str, train_shards: int, out: Path) -> dict | None:
    """The manifest of what an earlier fetch left, if that is whole and enough."""
    folder = out / "datasets" / name
    if not (folder / manifests.MANIFEST).exists():
        return None
    try:
        manifest = manifests.read_manifest(folder)
        manifests.check_files(folder, manifest, folder / manifest["tokenizer"]["file"])
    except (ValueError, OSError) as error:
        print(f"fetch {folder} again: {error}", flush=True)
        return None
    have = sum(shard["split"] == "train" for shard in manifest["shards"])
    return manifest if have >= train_shards else None


def fetch(name: str, train_shards: int, out: Path, mirrors: list[Mirror], jobs: int = 8) -> dict:
    """Fetch a data set from the first mirror that has it; returns the manifest.

    Raises: FetchError with what every mirror answered; ValueError where the data are unfit.
    """
    if train_shards < 1:
        raise ValueError(f"--train-shards {train_shards} must be at least 1")
    if manifest := in_place(name, train_shards, out):
        print(f"fetch {out / 'datasets' / name} is in place")
        return manifest
    reasons = []
    for mirror in mirrors:
        try:
            return fetch_from(mirror, name, train_shards, out, jobs)
        except FetchError as error:
            reasons.append(f"{mirror}: {error}")
            print(f"fetch {reasons[-1]}", flush=True)
    partial = out / "datasets" / f".{name}.partial"
    remedy = f"give the command again to go on from what is in {partial}, or name a repository"
    raise FetchError(f"{name}: {'; '.join(reasons)}; {remedy} with MATCHED_FINEWEB_REPO_ID")


def mirrors_from(environ) -> list[Mirror]:
    """The repositories to ask, in order: the field's variables, else those that are known."""
    prefix = environ.get("MATCHED_FINEWEB_REMOTE_ROOT_PREFIX")
    given = environ.get("MATCHED_FINEWEB_REPO_ID", "").split(",")
    pairs = [(repository.strip(), "datasets") for repository in given if repository.strip()]
    return [Mirror(r, (p if prefix is None else prefix).strip("/")) for r, p in pairs or MIRRORS]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--variant", default="sp1024", help="sp1024, sp8192, byte260, ... (%(default)s)")
    add("--train-shards", type=int, default=80, metavar="N", help="the first N (%(default)s)")
    add("--out", type=Path, default=HERE, help="folder to write under (%(default)s)")
    add("--jobs", type=int, default=8, help="files at a time (%(default)s)")


def main(args: argparse.Namespace) -> int:
    try:
        import huggingface_hub.utils
    except ImportError:
        what = "fetch needs the client of the Hugging Face hub"
        raise ImportError(f"{what}: python3 golf.py --with data data.prepare fetch ...") from None
    huggingface_hub.utils.disable_progress_bars()  # one bar over all files instead
    name, mirrors = f"fineweb10B_{args.variant}", mirrors_from(os.environ)
    manifest = fetch(name, args.train_shards, args.out.resolve(), mirrors, args.jobs)
    source, shards = manifest["source"], manifest["shards"]
    have = sum(shard["split"] == "train" for shard in shards)
    facts = [f"fetched {args.out / 'datasets' / name} train_shards:{have}/{source['train_shards']}"]
    for split, counts in manifest["splits"].items():
        facts += [f"{split}_{key}:{counts[key]}" for key in ("documents", "tokens")]
    print(*facts, f"shared_documents:{manifest['shared_documents']}")
    return 0
