"""Fetch published FineWeb shards and their tokenizer from the Hugging Face hub, verified.

A file gets its final name once size, hash and header are right, the folder once all of them are
there and its validation split is the challenge's. What was fetched before is not fetched again.

    OUT/datasets/.fineweb10B_sp1024.partial/   while files come
    OUT/datasets/fineweb10B_sp1024/            when all is there and verified
    OUT/tokenizers/fineweb_1024_bpe.model
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import os
import shutil
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import numpy as np

import evaluate
from data import manifest as manifests
from data import next_step, tokenizers
from data.counted_progress import CountedProgress
from data.files import DATA_FOLDER, folder_lock, link_or_copy, sha256_file
from data.mirrors import FetchError, Mirror, Remote, file_fault, read_listing, retry
from data.shard_facts import ShardFacts, join_hashes, read_facts
from data.start_check import MAX_PUBLISHED_FRAC
from engine.shards import read_split, sidecar_path

# Repositories that hold the field's layout, and the prefix of everything in them.
MIRRORS = (
    ("willdepueoai/parameter-golf", "datasets"),
    ("kevclark/parameter-golf", "datasets"),
    ("romeerp/parameter-golf-caseops-v1", "datasets"),
)
CASEOPS = "caseops"  # variants with this in their name have validation sidecars
SPARE_BYTES = 1 << 28  # of the disk that stay free


def fetch(name: str, train_shards: int, out: Path, mirrors: list[Mirror], jobs: int = 8) -> dict:
    """Fetch a data set from the first mirror that has it; return the manifest.

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


def in_place(name: str, train_shards: int, out: Path) -> dict | None:
    """Return the manifest of what an earlier fetch left, if that is whole and enough."""
    folder = out / "datasets" / name
    if not (folder / manifests.MANIFEST).exists():
        return None
    try:
        manifest = manifests.read_manifest(folder)
        manifests.check_files(folder, manifest, folder / manifest["tokenizer"]["file"])
    except (ValueError, OSError) as error:
        print(f"fetch {folder} again: {error}", flush=True)
        return None
    return manifest if _train_shards(manifest) >= train_shards else None


def _train_shards(manifest: dict) -> int:
    return sum(shard["split"] == "train" for shard in manifest["shards"])


def fetch_from(mirror: Mirror, name: str, train_shards: int, out: Path, jobs: int) -> dict:
    """Make the data set stand in out/datasets, its tokenizer in out/tokenizers.

    Returns its manifest. Raises: FetchError where the mirror lacks it; ValueError where the data
    themselves are unfit.
    """
    final = out / "datasets" / name
    partial = out / "datasets" / f".{name}.partial"
    listing, commit = retry(lambda: mirror.describe("manifest.json"), "manifest.json")
    # From here on all files are of this commit, whatever is pushed meanwhile.
    mirror = replace(mirror, revision=commit)
    with folder_lock(partial):
        published = partial / "published.json"
        retry(lambda: mirror.download(listing, published), "manifest.json")
        dataset, tokenizer = read_listing(published.read_bytes(), name)
        there = {split: dataset["stats"][f"files_{split}"] for split in manifests.SPLITS}
        if train_shards > there["train"]:
            raise FetchError(f"it has {there['train']} train shards of {name}, not {train_shards}")
        files = shard_names("val", there["val"]) + shard_names("train", train_shards)
        if CASEOPS in name:
            files += shard_names("val", there["val"], sidecars=True)
        model = out / "tokenizers" / Path(tokenizer["path"]).name
        model.parent.mkdir(parents=True, exist_ok=True)
        side_model = partial / model.name
        _keep(model, side_model)
        for file in files:
            _keep(final / file, partial / file)
        paths = [f"datasets/{name}/{file}" for file in files] + [tokenizer["path"]]
        download_all(mirror, paths, [*(partial / file for file in files), side_model], jobs)
        source = {
            "name": name,
            "repository": str(mirror),
            "revision": commit,
            "sha256": sha256_file(published),
            "train_shards": there["train"],
            "val_shards": there["val"],
        }
        manifest = make_manifest(partial, side_model, files, source, jobs)
        manifest["tokenizer"]["file"] = os.path.relpath(model, final)
        os.replace(side_model, model)
        manifests.write_manifest(partial, manifest)
        _remove_others(partial, {*files, manifests.MANIFEST, manifests.INDEX, manifests.STAMP})
        if final.exists():
            shutil.rmtree(final)
        partial.rename(final)
    return manifest


def _keep(old: Path, new: Path) -> None:
    """Make a file of an earlier fetch stand in the new folder too."""
    if old.exists() and not new.exists():
        link_or_copy(old, new)


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.iterdir():
        if path.name in names:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def shard_names(split: str, count: int, sidecars: bool = False) -> list[str]:
    """Return the published names: fineweb_val_000000.bin, fineweb_val_bytes_000000.bin."""
    middle = "_bytes" if sidecars else ""
    return [f"fineweb_{split}{middle}_{number:06d}.bin" for number in range(count)]


# Download -----------------------------------------------------------------------------------------


def _bytes_below(folder: Path) -> int:
    """Return the bytes of all files in a folder, finished or not."""
    size = 0
    # Folders are renamed and removed meanwhile; os.walk passes over those that are gone.
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                size += os.stat(os.path.join(place, name)).st_size
    return size


def download_all(mirror: Mirror, paths: list[str], targets: list[Path], jobs: int) -> None:
    """Make every path of the mirror stand at its target, verified; what is right there is kept."""
    folder = targets[0].parent
    with ThreadPoolExecutor(jobs) as pool:
        described = [
            pool.submit(retry, lambda path=path: mirror.describe(path)[0], path) for path in paths
        ]
        files = [future.result() for future in described]
        is_missing = list(pool.map(_is_missing, targets, files))
        missing = [
            (target, file)
            for target, file, absent in zip(targets, files, is_missing, strict=True)
            if absent
        ]
        need = sum(file.size for _, file in missing)
        _check_space(folder, need)
        for target, _ in missing:
            target.unlink(missing_ok=True)
        counts = f"{len(missing)} of {len(files)} files, {need:,} bytes"
        print(f"fetch {counts}, from {mirror}", flush=True)
        progress = CountedProgress("fetch", sum(file.size for file in files), "bytes")
        waiting = {
            pool.submit(
                retry, lambda file=file, target=target: mirror.download(file, target), file.path
            )
            for target, file in missing
        }
        try:
            while waiting:
                done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in done:
                    future.result()
                progress.reach(_bytes_below(folder))
        finally:
            progress.finish()
            pool.shutdown(cancel_futures=True)


def _is_missing(target: Path, file: Remote) -> bool:
    return not target.exists() or file_fault(target, file) != ""


def _check_space(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if need + SPARE_BYTES > free:
        message = f"{need:,} bytes are to come and {free:,} are free under {folder}"
        remedy = "free some, fetch fewer shards or name another --out"
        raise OSError(errno.ENOSPC, f"{message}; {remedy}")


# Manifest -----------------------------------------------------------------------------------------


def make_manifest(folder: Path, model: Path, files: list[str], source: dict, jobs: int) -> dict:
    """Return the manifest of fetched files, of what is in them; documents are indexed by tokens.

    Raises: ValueError where the splits meet, or validation is not that of the challenge.
    """
    name = source["name"]
    entry = {
        "kind": "bytes" if name.endswith("byte260") else "sentencepiece",
        "file": model.name,
        "sha256": sha256_file(model),
        "caseops": CASEOPS in name,
        "fused": False,
    }
    tokenizer = tokenizers.load(entry | {"file": model.absolute()}, folder)
    entry["vocab_size"] = tokenizer.vocab_size
    shards: list[dict] = []
    facts: dict[str, list[ShardFacts]] = {}
    for split in manifests.SPLITS:
        paths = [folder / file for file in files if file.startswith(f"fineweb_{split}_0")]
        needs_sidecar = entry["caseops"] and split == "val"
        facts[split] = _read_shards(paths, tokenizer.vocab_size, needs_sidecar, jobs)
        for path, shard in zip(paths, facts[split], strict=True):
            shards.append(_shard_entry(path, split, shard, needs_sidecar))
    hashes = {split: join_hashes(shard_facts) for split, shard_facts in facts.items()}
    unfit = f"{name} of {source['repository']}"
    remedy = "fetch from another repository"
    shared = len(manifests.shared(np.sort(hashes["train"]), hashes["val"]))
    if shared > MAX_PUBLISHED_FRAC * len(hashes["val"]):
        count = f"{shared} of {len(hashes['val'])} validation documents"
        raise ValueError(f"{unfit}: {count} are in the training text; {remedy}")
    splits = {}
    for split in manifests.SPLITS:
        splits[split] = {
            "documents": len(hashes[split]),
            "tokens": sum(shard.tokens for shard in facts[split]),
            "bytes": None,
            "raw_bytes": None,
            "changed_documents": None,
        }
    splits["val"]["bytes"] = val_bytes(folder, tokenizer, facts["val"])
    fingerprint = {key: splits["val"][key] for key in ("documents", "bytes")}
    if fingerprint != evaluate.FINEWEB_VAL:
        difference = f"validation is {fingerprint}, the challenge's is {evaluate.FINEWEB_VAL}"
        raise ValueError(f"{unfit}: {difference}; {remedy}")
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


def _read_shards(
    paths: list[Path], vocab_size: int, needs_sidecar: bool, jobs: int
) -> list[ShardFacts]:
    """Return the facts of every shard. Raises: ValueError with the first fault."""
    with ProcessPoolExecutor(min(jobs, len(paths))) as pool:
        futures = [
            pool.submit(read_facts, path, None, vocab_size, evaluate.BOS_ID, needs_sidecar)
            for path in paths
        ]
        progress = CountedProgress("read shards", len(paths), "shards")
        facts = []
        for future in futures:
            facts.append(future.result())
            progress.add(1)
        progress.finish()
    for shard in facts:
        if shard.faults:
            _, message = shard.faults[0]
            raise ValueError(message)
    return facts


def _shard_entry(path: Path, split: str, facts: ShardFacts, needs_sidecar: bool) -> dict:
    sidecar = None
    if needs_sidecar:
        file = sidecar_path(path)
        sidecar = {"file": file.name, "sha256": sha256_file(file)}
    return {
        "file": path.name,
        "split": split,
        "documents": facts.documents,
        "tokens": facts.tokens,
        "sha256": sha256_file(path),
        "sidecar": sidecar,
    }


def val_bytes(folder: Path, tokenizer, facts: list[ShardFacts]) -> int:
    """Return the bytes of the validation text: a token each, or by table or sidecar."""
    if isinstance(tokenizer, tokenizers.Bytes):
        return sum(shard.tokens - shard.documents for shard in facts)
    _, table = evaluate.read_validation(folder, tokenizer.table)
    return table.total(read_split(folder, "val"))


# Command line -------------------------------------------------------------------------------------


def mirrors_from(environ) -> list[Mirror]:
    """Return the repositories to ask, in order: the field's variables, else those of MIRRORS."""
    repositories = environ.get("MATCHED_FINEWEB_REPO_ID", "").split(",")
    pairs = [(name.strip(), "datasets") for name in repositories if name.strip()] or MIRRORS
    prefix = environ.get("MATCHED_FINEWEB_REMOTE_ROOT_PREFIX")
    if prefix is not None:
        pairs = [(repository, prefix) for repository, _ in pairs]
    return [Mirror(repository, own_prefix.strip("/")) for repository, own_prefix in pairs]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--variant", default="sp1024", help="sp1024, sp8192, byte260, ... (%(default)s)")
    add("--train-shards", type=int, default=80, metavar="N", help="the first N (%(default)s)")
    add("--out", type=Path, default=DATA_FOLDER, help="folder to write under (%(default)s)")
    add("--jobs", type=int, default=8, help="files at a time (%(default)s)")


def main(args: argparse.Namespace) -> int:
    try:
        import huggingface_hub.utils
    except ImportError:
        message = "fetch needs the client of the Hugging Face hub"
        raise ImportError(
            f"{message}: python3 golf.py --with data data.prepare fetch ..."
        ) from None
    huggingface_hub.utils.disable_progress_bars()  # one bar over all files instead
    name = f"fineweb10B_{args.variant}"
    mirrors = mirrors_from(os.environ)
    manifest = fetch(name, args.train_shards, args.out.resolve(), mirrors, args.jobs)
    shards = f"{_train_shards(manifest)}/{manifest['source']['train_shards']}"
    words = [f"fetched {args.out / 'datasets' / name} train_shards:{shards}"]
    for split, counts in manifest["splits"].items():
        words += [f"{split}_{key}:{counts[key]}" for key in ("documents", "tokens")]
    print(*words, f"shared_documents:{manifest['shared_documents']}")
    command = next_step.train_command(args.out / "datasets" / name, manifest)
    if command:
        print(command)
    return 0
