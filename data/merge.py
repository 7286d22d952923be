"""Join the parts of all ranges into one data set that is described by a manifest.

Parts do not know of each other. A merge checks that they are of one request and one source, that
they touch, and that the last one reached the end:

    part_000000000000  documents 0..20     next=20
    part_000000000020  documents 20..40    next=40     must start where the last one ended
    part_000000000040  documents 40..      stop=null   the end of the source

It joins hashes and counts, and refuses parts that share a document across the splits. The shards of
several parts are packed again (repack.py), so that a build in ranges gives the files of a single
build, to the byte. Those of one part are linked, not copied, where the file system can do that.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from data import containers, tokenizers
from data import manifest as manifests
from data.files import link_or_copy
from data.parts import COUNTS, HASHES, STATE
from data.repack import repack

PARTS = "part_*"


def merge_parts(work: Path, out: Path) -> dict:
    """Make the parts under a work folder stand in out as one data set; return its manifest.

    Raises: ValueError where parts are missing, overlap, or come from different requests.
    """
    states = _read_states(work)
    documents = _check_ranges(work, states)
    all_states = list(states.values())
    request = dict(all_states[0]["request"])
    source = all_states[0]["source"]
    splits = {
        split: {key: sum(state["splits"][split][key] for state in all_states) for key in COUNTS}
        for split in manifests.SPLITS
    }
    if not splits["train"]["documents"] and request["split"] != "whole":
        shutil.rmtree(work)  # another number is another request: nothing here can be used
        message = f"{documents} documents, val_documents={request['val_documents']}"
        left_out = _sum_left_out(all_states)
        if left_out:
            message += f", left out: {json.dumps(left_out)}"
        remedy = "set --val-documents lower"
        # Every file is one document, so the separator was never met.
        if documents <= len(source.get("files", [])):
            remedy += f"; each file is one document: {containers.SEPARATOR_HELP}"
        raise ValueError(f"{source['name']}: {message}: none to train on; {remedy}")
    side = work / "merged"
    shutil.rmtree(side, ignore_errors=True)  # of a merge that was cut off
    side.mkdir()
    tokenizer = request.pop("tokenizer")
    for file in (tokenizer["file"], tokenizer.get("merges")):
        if file:
            link_or_copy(work / file, side / file)
    bos_id = tokenizers.load(tokenizer, side).bos_id
    if len(states) == 1:
        shards = _link_shards(states, side)
    else:
        shards = _repack_shards(states, request, side, bos_id)
    hashes, digest = _join_hashes(states, request["split"])
    both = len(manifests.shared(np.sort(hashes["train"]), hashes["val"]))
    if both:
        message = f"{both} validation documents are in a training part"
        raise ValueError(f"{work}: {message}; build that part with the val_hashes of the first one")
    left_out = _sum_left_out(all_states)
    about = {"documents": documents, "sha256": digest, "left_out": left_out}
    manifest = {
        "version": manifests.VERSION,
        "source": source | about,
        "tokenizer": tokenizer,
        "split_rule": _split_rule(request),
        "splits": splits,
        "shards": shards,
        "sidecar_required": shards[0]["sidecar"] is not None,
        "bos_id": bos_id,
        "document_index": manifests.write_index(side, hashes, "text"),
        "request": request,
    }
    if request["split"] == "tokens":
        for counts in splits.values():
            counts["raw_bytes"] = None  # of documents that are cut
    manifests.write_manifest(side, manifest)
    side.rename(out)
    shutil.rmtree(work)
    return manifest


def _sum_left_out(states: list[dict]) -> dict[str, int]:
    return dict(sum((Counter(state["left_out"]) for state in states), Counter()))


def _read_states(work: Path) -> dict[Path, dict]:
    """Return the state of every part, in the order of its documents."""
    folders = sorted(work.glob(PARTS))
    if not folders:
        raise FileNotFoundError(f"no {work / PARTS}; build the ranges first, with --range")
    states = {folder: json.loads((folder / STATE).read_text()) for folder in folders}
    # A range behind the end of the source is empty.
    states = {
        folder: state
        for folder, state in states.items()
        if not state["done"] or state["next"] > state["start"]
    }
    if not states:
        raise ValueError(f"{work}: the source has no documents; give another one")
    return dict(sorted(states.items(), key=lambda item: item[1]["start"]))


def _check_ranges(work: Path, states: dict[Path, dict]) -> int:
    """Check that the parts belong together and touch; return how many documents they cover."""
    first = next(iter(states.values()))
    border = 0
    for folder, state in states.items():
        if not state["done"]:
            raise ValueError(f"{folder} is not finished; give its command again")
        if state["request"] != first["request"]:
            raise ValueError(f"{folder} is of another request; build it anew")
        if state["source"] != first["source"]:
            raise ValueError(f"{folder} is of another source; build it anew")
        if state["start"] != border:
            raise ValueError(f"{folder} must start at document {border}; build that range")
        border = state["next"]
        stop = state["stop"]
    # The last part stopped because it was told to, not because the source ended.
    if stop is not None and border >= stop:
        raise ValueError(f"{work}: documents from {stop} on are missing; build --range {stop}:")
    return border


def _link_shards(states: dict[Path, dict], side: Path) -> list[dict]:
    """Make the shards of the only part stand in one folder; return their manifest entries."""
    ((folder, state),) = states.items()
    for shard in state["shards"]:
        link_or_copy(folder / shard["file"], side / shard["file"])
        if shard["sidecar"]:
            sidecar = shard["sidecar"]["file"]
            link_or_copy(folder / sidecar, side / sidecar)
    return state["shards"]


def _repack_shards(states: dict[Path, dict], request: dict, side: Path, bos_id: int) -> list[dict]:
    """Pack the shards of all parts again; return their manifest entries, in source order."""
    entries = []
    for split in ("val", "train"):
        paths = [
            (folder / shard["file"], _sidecar_of(folder, shard))
            for folder, state in states.items()
            for shard in state["shards"]
            if shard["split"] == split
        ]
        stem = f"{request['name']}_{split}"
        for entry in repack(paths, stem, side, bos_id, request["shard_tokens"]):
            entries.append({"split": split} | entry)
    return entries


def _sidecar_of(folder: Path, shard: dict) -> Path | None:
    return folder / shard["sidecar"]["file"] if shard["sidecar"] else None


def _join_hashes(states: dict[Path, dict], rule: str) -> tuple[dict[str, np.ndarray], str]:
    """Return the document hashes of both splits, and the hash of all of them in source order."""
    order = ("train", "val") if rule == "tokens" else ("val", "train")
    hashes: dict[str, list] = {split: [] for split in manifests.SPLITS}
    digest = hashlib.sha256()
    for folder, state in states.items():
        part_D = np.fromfile(folder / HASHES, np.uint64)
        digest.update(part_D.tobytes())
        val = state["splits"]["val"]["documents"]
        border = len(part_D) - val if rule == "tokens" else val
        hashes[order[0]].append(part_D[:border])
        hashes[order[1]].append(part_D[border:])
    joined = {split: np.concatenate(parts) for split, parts in hashes.items()}
    return joined, digest.hexdigest()


def _split_rule(request: dict) -> dict:
    if request["split"] != "tokens":
        return {"rule": request["split"], "val_documents": request["val_documents"]}
    return {
        "rule": "tokens",
        "val_documents": None,
        "train_tokens": request["train_tokens"],
        "val_tokens": request["val_tokens"],
    }
