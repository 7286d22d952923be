"""Turn a state dict into artifact bytes, and artifact bytes back into weights.

    python quantize.py CHECKPOINT --out A.pgz [--target-bytes N] [--trellis]
    python -m codec.report A.pgz    says where its bytes go

Two codecs share one container (codec/container.py):

    encode_trellis  what train_gpt.py packs with. Points on a trellis, chosen by what errors cost
                    the loss (codec/gptq.py), entropy-coded (codec/rans.py), to a number of bytes.
    encode          rows on grids (codec/rows.py), entropy-coded by zstd. It needs neither
                    calibration nor time.

With both, small tensors are stored as fp16.
"""

import argparse
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from codec import container, gptq, rans, search
from codec.container import (
    CHECKSUM_BYTES,
    MAGIC,
    MAX_NUMBERS,
    POINT_BITS,
    POINT_CODER,
    ArtifactError,
    compressed,
    load_zstd,
    order0_bytes,
    points_start,
    read_header,
    read_points,
    symbols_of,
)
from codec.container import read_state as decode
from codec.curvature import Hessian, flat_hessians
from codec.rows import (
    DEFAULT_PLAN,
    FP16_BITS,
    FP16_TINY,
    TOP_CODE,
    Plan,
    PlanRow,
    Quantized,
    State,
    int5_plan,
    int8_plan,
    match_plan,
    quantize_rows,
)

__all__ = [
    "CAP_BYTES",
    "CHECKSUM_BYTES",
    "DEFAULT_PLAN",
    "FP16_BITS",
    "FP16_TINY",
    "MAGIC",
    "MAX_NUMBERS",
    "POINT_BITS",
    "TOP_CODE",
    "ArtifactError",
    "Plan",
    "PlanRow",
    "Quantized",
    "State",
    "decode",
    "encode",
    "encode_to_target",
    "encode_trellis",
    "flat_hessians",
    "foreseen_nats",
    "int5_plan",
    "int8_plan",
    "load_checkpoint",
    "load_zstd",
    "match_plan",
    "order0_bytes",
    "points_start",
    "quantize_rows",
    "read_header",
    "read_points",
    "write_atomic",
]

CAP_BYTES = 16_000_000  # code and artifact together, by the rules of the challenge
STATES = 32  # of the trellis: 16 cost 0.009 bit a weight more and take nearly as long
# A token, by the Hessians; where it was measured, up to twice that (LOG.md).
NEGLIGIBLE_NATS = 1e-4
STEP_LOSS = 0.115  # nats a token that a weight of base step 1 adds, in units of its Hessian

Hessians = Mapping[str, Hessian | Tensor]  # a tensor: all rows alike


def encode(state_dict: State, plan: Plan, settings: dict, *, threads: int = 0) -> bytes:
    """The artifact that holds these weights on the plan's grids, and the settings as JSON.

    The bytes do not depend on the number of threads; 0 takes one for each core.
    Raises: ValueError naming the tensor that has no plan row, is not of floats, not finite or too
    large for fp16; naming the plan row without a tensor; for settings that are not JSON.
    """
    row_of = match_plan(plan, state_dict)
    symbols = [symbols_of(name, tensor, row_of[name]) for name, tensor in state_dict.items()]
    # 25,952,256 Gaussian codes on two cores: 14,619,989 bytes in 2.8 s like this, 14,612,784 in
    # 30.7 s with all tensors in one stream. Scales before the codes, in one: 15,024,593.
    streams = compressed([data for pair in symbols for data in pair], threads)
    table = [
        [name, list(state_dict[name].shape), row_of[name].bits, len(half), len(code)]
        for name, half, code in zip(state_dict, streams[::2], streams[1::2], strict=True)
    ]
    return container.write(table, streams, settings)


def encode_trellis(
    state_dict: State,
    hessians: Hessians,
    settings: dict,
    most_bytes: float,
    *,
    states: int = STATES,
    prepare: Callable[[list[gptq.Matrix]], gptq.Matrices] = gptq.Matrices,
    seconds_left: Callable[[], float] = lambda: math.inf,
) -> bytes:
    """An artifact of 99.9 to 100 % of most_bytes; smaller where the errors hardly cost anything.

    most_bytes may be infinite: then nothing but that sets its size.

    Matrices with a Hessian (codec.curvature, measured or flat) go through the trellis; the others
    are stored as fp16. No more bytes are spent than errors of NEGLIGIBLE_NATS need, by the
    Hessians. Of few weights sizes jump, and the largest artifact that was found to fit is taken.
    Where seconds_left() runs out, the search ends with what it has, which fits but may be smaller.
    Raises: ValueError naming a tensor that is not of floats, not finite or too large for fp16, or a
    Hessian of no matrix; for settings that are not JSON; where no step lands under most_bytes.
    TimeoutError where there was no time to begin.
    """
    for name in hessians:
        if name not in state_dict or state_dict[name].ndim != 2:
            raise ValueError(f"hessian {name!r} is of no matrix; remove it")
    table, without_points = container.halves_beside_points(state_dict, hessians)
    # All but the points has its final size now, so what is left for them is known exactly.
    overhead_bytes = len(container.write(table, without_points, settings, POINT_CODER))
    if most_bytes <= overhead_bytes:
        raise ValueError(f"{most_bytes=} is out of reach: {overhead_bytes} go to all but matrices")
    # Matrices stand in the order of the table, whatever that of the Hessians.
    matrices = [
        matrix_of(name, weight.detach(), hessians[name])
        for name, weight in state_dict.items()
        if name in hessians
    ]
    weights = sum(matrix.weight_RC.numel() for matrix in matrices)
    points = search.quantize_to_size(
        matrices,
        most_bytes,
        rans.encode,
        measure=rans.estimated_bytes,
        prepare=prepare,
        seconds_left=seconds_left,
        states=states,
        beside_bytes=overhead_bytes,
        finest_step=math.sqrt(NEGLIGIBLE_NATS / (STEP_LOSS * max(weights, 1))),
    )
    return container.write(table, [*without_points, points], settings, POINT_CODER)


def matrix_of(name: str, weight_RC: Tensor, hessian: Hessian | Tensor) -> gptq.Matrix:
    """A matrix to quantise, on the device of its Hessian. Raises: ValueError naming the tensor."""
    if not weight_RC.is_floating_point():
        raise ValueError(f"tensor {name!r}: dtype {weight_RC.dtype} is no float type")
    hessian = Hessian.of(hessian, len(weight_RC))
    weight_RC = weight_RC.to(hessian.columns_CC.device, torch.float32)
    return gptq.Matrix(weight_RC, hessian, f"tensor {name!r}")


def foreseen_nats(blob: bytes, hessians: Callable[[], Hessians]) -> float:
    """What rounding to the points of an artifact should add to the loss, in nats a token.

    By the steps alone, as if every weight was in reach; infinite for an artifact without points.
    The base step of each matrix is a common one, over the root of its Hessian's mean diagonal.
    """
    _, entries, offset = read_header(blob)
    nats = []
    for entry, points, base_step in read_points(blob, entries, offset):
        R, _ = entry.shape
        mean = Hessian.of(hessians()[entry.name], R).mean_diagonal()
        nats.append(STEP_LOSS * points.points_RC.size * mean * base_step**2)
    return math.fsum(nats) if nats else math.inf


def encode_to_target(
    state_dict: State, plan: Plan, settings: dict, target_bytes: int, *, threads: int = 0
) -> tuple[bytes, Plan]:
    """An artifact of 99 to 100 % of target_bytes, and the plan that encodes to it.

    One multiplier on all clip widths is the dial: wider clips have larger steps, so fewer distinct
    codes. (Very narrow ones save bytes too, but by saturating weights; that branch is left out.)
    A table of entropies gives the first guess and real encodings correct it. Fast zstd levels would
    not do: below 3 bits, level 1 needs up to half as much again as level 22.
    Raises: ValueError with the reachable range where no multiplier lands; what encode raises.
    """

    def widened(octave: float) -> Plan:
        return tuple(replace(row, clip_sigmas=row.clip_sigmas * 2.0**octave) for row in plan)

    def entropy_bytes(octave: float) -> float:
        row_of = match_plan(widened(octave), state_dict)
        return sum(
            order0_bytes(data)
            for name, tensor in state_dict.items()
            for data in symbols_of(name, tensor, row_of[name])
        )

    overhead_bytes = len(encode(state_dict, plan, settings, threads=threads)) - entropy_bytes(0)
    octaves = np.arange(8, -2.5, -0.5)
    sizes = overhead_bytes + np.array([entropy_bytes(octave) for octave in octaves])
    # np.interp wants rising sizes, which these are from the widest clip to the peak.
    peak = sizes.argmax() + 1
    octaves = octaves[:peak]
    sizes = sizes[:peak]
    aim = wanted = np.clip(0.995 * target_bytes, sizes[0], sizes[-1])
    for _ in range(8):
        chosen = widened(float(np.interp(wanted, sizes, octaves)))
        artifact = encode(state_dict, chosen, settings, threads=threads)
        if 0.99 * target_bytes <= len(artifact) <= target_bytes:
            return artifact, chosen
        # the damping, because real sizes can change up to twice as fast as the table
        last, wanted = wanted, wanted * (aim / len(artifact)) ** 0.75
        wanted = np.clip(wanted, sizes[0], sizes[-1])
        if wanted == last:
            break
    raise ValueError(
        f"target_bytes={target_bytes} is out of reach: clip widths of this plan give about "
        f"{sizes[0]:.0f} to {sizes[-1]:.0f} bytes; change the bits of the plan or the target"
    )


# --- Files and command line ------------------------------------------------------------------
def write_atomic(path: str | Path, data: bytes) -> None:
    """Afterwards path holds exactly data; killed at any moment, it holds what it held before."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())  # else a rename may reach the disk before the data does
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> tuple[State, dict]:
    """The exported weights and the model's settings of a checkpoint, or a plain state dict and {}.

    "exported" names an average, or "raw" (also None) for the weights as trained. The settings are
    "model_settings" where the checkpoint has them, else "settings".
    Raises: ValueError for a file that is neither; OSError.
    """
    with open(path, "rb") as file:
        try:
            # weights_only: a checkpoint of a stranger must not run code.
            checkpoint = torch.load(file, weights_only=True, map_location="cpu")
        except Exception as error:  # of ten kinds; the words of one advise to load unsafely
            raise ValueError(f"{path} is not a checkpoint that loads; give a run's own") from error
    weights = checkpoint
    settings = {}
    exported = None
    if isinstance(checkpoint, dict) and isinstance(checkpoint.get("model"), dict):
        exported = checkpoint.get("exported") or "raw"
        candidates = {"raw": checkpoint["model"], **(checkpoint.get("averages") or {})}
        weights = candidates.get(exported)
        settings = checkpoint.get("model_settings", checkpoint.get("settings", {}))
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise ValueError(f"{path} holds no state dict of tensors (exported: {exported!r})")
    for name, w in weights.items():
        if type(name) is not str or w.layout != torch.strided or w.is_meta or w.is_quantized:
            raise ValueError(f"{path}: {name!r} is no dense tensor under a name; store it as one")
    return weights, settings


def main(arguments: list[str] | None = None) -> int:
    """Pack a checkpoint; returns 0, or 2 after one line on stderr where the input is at fault."""
    try:
        print(_pack(arguments))
    except (ValueError, OSError, ImportError) as error:
        print("quantize.py:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


def _pack(arguments: list[str] | None) -> str:
    description = "Pack a checkpoint; codec.report says where the bytes of an artifact go."
    parser = argparse.ArgumentParser("quantize.py", description=description)
    parser.add_argument("checkpoint", type=Path, help="from the trainer, or a plain state dict")
    parser.add_argument("--out", type=Path, required=True, help="artifact to write")
    parser.add_argument("--target-bytes", type=int, help="land within 1 %% under this size")
    codec = parser.add_mutually_exclusive_group()
    codec.add_argument(
        "--int8", action="store_true", help="rows of 8 bits, not 5, for all matrices"
    )
    codec.add_argument(
        "--trellis", action="store_true", help="the other codec, without the trainer's calibration"
    )
    options = parser.parse_args(arguments)
    weights, settings = load_checkpoint(options.checkpoint)
    if options.trellis:
        most_bytes = CAP_BYTES if options.target_bytes is None else options.target_bytes
        artifact = encode_trellis(weights, flat_hessians(weights), settings, most_bytes)
        write_atomic(options.out, artifact)
        return f"artifact model_bytes:{len(artifact)} trellis, relative errors alike"
    plan = int8_plan(weights) if options.int8 else int5_plan(weights)
    if options.target_bytes is None:
        artifact = encode(weights, plan, settings)
    else:
        artifact, plan = encode_to_target(weights, plan, settings, options.target_bytes)
    write_atomic(options.out, artifact)
    # The rows of one number of bits have one width, whatever the target.
    clips = {row.bits: row.clip_sigmas for row in plan if row.clip_sigmas}
    widths = " ".join(f"{bits} bits:{width:.3f}" for bits, width in sorted(clips.items()))
    return f"artifact model_bytes:{len(artifact)} clip_sigmas {widths}"


if __name__ == "__main__":
    sys.exit(main())
