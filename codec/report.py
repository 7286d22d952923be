"""Where the bytes of an artifact go, and what packing cost each group of tensors.

python -m codec.report A.pgz [--reference CHECKPOINT] [--json]
"""

import argparse
import json
import math
import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import quantize
from codec import rans
from codec.container import (
    CHECKSUM_BYTES,
    order0_bytes,
    points_start,
    read_header,
    read_points,
    read_streams,
    stored_weight,
)
from codec.rows import State

SHARED_GROUP = "exponents and tables of the points"


@dataclass
class TensorAccount:
    """One tensor of an artifact: what it decodes to, what it takes, and how it was stored."""

    name: str
    weight: Tensor
    stored_bytes: float
    entropy_bytes: float
    plan: dict


def tensor_accounts(blob: bytes) -> tuple[list[TensorAccount], int]:
    """Every tensor of an artifact, and the bytes that describe the points of all of them.

    All points are coded in one stream: each tensor is given its share of the coded words, by their
    entropy. Tables, exponents and lanes of that stream belong to no tensor.
    Raises: ArtifactError.
    """
    _, entries, offset = read_header(blob)
    accounts = []
    for entry, half_data, code_data in read_streams(blob, entries, offset):
        low, high = half_data[: len(half_data) // 2], half_data[len(half_data) // 2 :]
        accounts.append(
            TensorAccount(
                entry.name,
                weight=stored_weight(entry, half_data, code_data),
                stored_bytes=entry.half_bytes + entry.code_bytes,
                entropy_bytes=sum(order0_bytes(plane) for plane in (low, high, code_data)),
                plan={"bits": entry.bits},
            )
        )
    on_trellis = list(read_points(blob, entries, offset))
    if not on_trellis:
        return accounts, 0
    stream = blob[points_start(entries, offset) : -CHECKSUM_BYTES]
    side_bytes, word_bytes = rans.bytes_beside_and_of_words(stream, len(on_trellis))
    shares = rans.coded_bytes([points for _, points, _ in on_trellis])
    all_shares = max(sum(shares), 1)
    for share, (entry, points, base_step) in zip(shares, on_trellis, strict=True):
        weight = torch.from_numpy(points.dequantize(base_step))
        bits = 8 * share / max(weight.numel(), 1)
        plan = {"base_step": base_step, "bits": bits}
        words = word_bytes * share / all_shares
        accounts.append(TensorAccount(entry.name, weight, words, share, plan))
    return accounts, side_bytes


def byte_account(blob: bytes, reference_state: State | None = None) -> dict:
    """Where the bytes of an artifact go and, given the weights it was made from, what was lost.

    Tensors whose names differ by a number form a group: blocks.0.w and blocks.1.w are blocks.*.w.
    entropy_bytes is the order-0 bound: what an ideal coder needs that knows, for each tensor, how
    often each code and fp16 byte occurs, or of points the entropy under the artifact's own tables.
    relative_rms is the norm of the error over that of the reference, sqnr_db its inverse in
    decibels; both are None where there is nothing to compare. The plan is what was chosen for each
    tensor: bits of its grid, or the base step of its points and the bits that a weight then took.
    Raises: ArtifactError as decode; ValueError when the reference holds other tensors.
    """
    accounts, shared_bytes = tensor_accounts(blob)
    if reference_state is not None:
        references = {(name, *tensor.shape) for name, tensor in reference_state.items()}
        different = references ^ {(a.name, *a.weight.shape) for a in accounts}
        if different:
            raise ValueError(f"artifact and reference differ in {sorted(map(str, different))[0]}")
    groups: dict[str, Counter] = {}
    for account in accounts:
        group = groups.setdefault(re.sub(r"\b\d+\b", "*", account.name), Counter())
        group["tensors"] += 1
        group["parameters"] += account.weight.numel()
        group["bytes"] += account.stored_bytes
        group["entropy_bytes"] += account.entropy_bytes
        if reference_state is not None:
            reference = reference_state[account.name].detach().cpu().double()
            group["error"] += float((account.weight - reference).square().sum())
            group["power"] += float(reference.square().sum())
    if shared_bytes:
        groups[SHARED_GROUP] = Counter(bytes=shared_bytes, entropy_bytes=shared_bytes)
    for group in groups.values():
        error, power = group.pop("error", 0), group.pop("power", 0)
        numbers = group["parameters"]
        group["bytes"] = round(group["bytes"])
        group["bits_per_parameter"] = 8 * group["bytes"] / numbers if numbers else None
        group["relative_rms"] = math.sqrt(error / power) if power else None
        group["sqnr_db"] = 10 * math.log10(power / error) if power and error else None
    parameters = sum(group["parameters"] for group in groups.values())
    _, entries, _ = read_header(blob)
    plans = {account.name: account.plan for account in accounts}
    return {
        "bytes": len(blob),
        "parameters": parameters,
        "bits_per_parameter": 8 * len(blob) / max(parameters, 1),
        "entropy_bytes": sum(group["entropy_bytes"] for group in groups.values()),
        "groups": groups,
        "plan": {entry.name: plans[entry.name] for entry in entries},
    }


def format_account(summary: dict) -> str:
    """The report as a table, largest group first."""
    columns = ("tensors", "parameters", "bytes", "bits_per_parameter", "entropy_bytes")
    columns += ("relative_rms", "sqnr_db")
    groups = sorted(summary["groups"].items(), key=lambda item: -item[1]["bytes"])
    lines = [("group", *columns)]
    for name, group in [*groups, ("total, with header and checksum", summary)]:
        cells = (group.get(column) for column in columns)
        lines.append((name, *(f"{c:.4f}" if isinstance(c, float) else str(c or "") for c in cells)))
    return "\n".join(f"{name:31}" + "".join(f"{t:>19}" for t in texts) for name, *texts in lines)


def main(arguments: list[str] | None = None) -> int:
    """Print the report; returns 0, or 2 after one line on stderr where the input is at fault."""
    parser = argparse.ArgumentParser("codec.report", description=__doc__.splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--reference", type=Path, help="checkpoint to measure the error against")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        reference = quantize.load_checkpoint(options.reference)[0] if options.reference else None
        summary = byte_account(options.artifact.read_bytes(), reference)
    except (ValueError, OSError, ImportError) as error:
        print("codec.report:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(json.dumps(summary) if options.json else format_account(summary))
    return 0


if __name__ == "__main__":
    sys.exit(main())
