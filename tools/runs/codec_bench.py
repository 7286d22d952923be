"""Compare the trellis codec with its peers: bytes, error, loss, time and memory of each.

    python3 golf.py --with codecs,plots tools.runs.codec_bench [MODEL --data DIR]
        [--out FOLDER]

With a model (a checkpoint, a run's folder or a Hugging Face folder), its weights are packed by
every codec at several rates, and the loss is measured on the beginning of the validation text in
DIR, in tokens of that model. Hessians come from the end of the training text. Without a model,
i.i.d. Gaussian matrices in the shapes of a block of the default model are packed, with flat
Hessians, and compared with the Gaussian rate-distortion bound. The codecs:

    int8 + zlib       the challenge's baseline: rows clipped at their 99.99984th percentile
    int5 + zstd       quantize.DEFAULT_PLAN, and the same at other clip widths
    GPTQ + brotli     int6 rows whose step is k standard deviations / 31, full-Hessian error
                      feedback; brotli-11, better of plain and shuffled. The embedding is int8 at
                      k = 20 as in the records, and at k = 5, which a trained model needs more
    GPTQ + LZMA/zpaq  the same codes under another compressor; zpaq needs the program lrzip
    NNCodec           the reference of ISO/IEC 15938-17 (dependent quantisation, CABAC), with a step
                      in proportion to each matrix's root-mean-square, small tensors at its default
    WaterSIC          arXiv 2603.04956: scalar, a spacing for each column by its pivot, error
                      feedback, least squares at the end; coded by LZMA, its entropy is the bound
    trellis           quantize.encode_trellis; also with fewer states at one rate, of which one
                      state is a scalar quantiser with the same steps, feedback and coder

Columns: bits/param counts every byte of the artifact; bound is the order-0 entropy of the codec's
own symbols, in bits a parameter; SQNR is of the matrices together; mnat H is half of tr(e H eᵀ), in
thousandths of a nat a token, and dB H the mean over matrices of tr(w H wᵀ) over it; the deltas are
measured. Seconds are of CPU, other programs' too: on a busy machine a clock says little. MB is the
rise of the peak resident memory while packing (Linux; else, and for other programs, empty).

What is written to FOLDER: codec_bench.json and, with matplotlib, codec_bench.png. Exit status 0,
or 2 after a line on stderr where the input is at fault.
"""

import argparse
import ctypes
import importlib.util
import io
import json
import lzma
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import quantize
from codec import rans
from codec.curvature import Curvature, Hessian
from codec.gptq import Matrices, Matrix, factor
from codec.report import byte_account
from codec.sigma_clip import gptq_rows
from engine.open_model import open_model
from engine.shards import find_shards, read_shard, read_split
from quantize import PlanRow, Quantized, State

PERCENTILE = 99.99984
GPTQ_SIGMAS, EMBEDDING_SIGMAS = (6.4, 12.85, 19.3, 32.0), 5.0
RECORD_SIGMAS = (12.85, 20.0)  # of matrices and of the embedding in the record of 1.0611
WIDTHS = (0.75, 1.0, 1.5, 2.25)  # of quantize.DEFAULT_PLAN's clips
RATES = (1.5, 2.0, 2.5, 3.0, 3.5)  # bits a parameter of the trellis codec
FEWER_STATES, STATES_RATE = (1, 4, 8, 16), 3.0
NNC_STEPS = (-12, -8, -4)  # quarter octaves of a matrix's root-mean-square
LOSS_TOKENS, CALIBRATION_TOKENS = 32_768, 65_536
LONGEST_BLOCK = 512  # tokens of a Hugging Face model that are read together
LANDINGS = 20
LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class PackedModel:
    """What is packed. measure tells the loss of weights, in nats a token; None for Gaussians."""

    state: State
    hessians: dict[str, Hessian | torch.Tensor]
    plan: quantize.Plan
    settings: dict
    measure: Callable[[State], float] | None = None
    bytes_per_token: float | None = 1.0  # None: not told


@dataclass(frozen=True)
class BenchRow:
    """One codec at one setting; the module's docstring describes the columns."""

    codec: str
    setting: str
    bytes: int
    bits: float
    bound_bits: float | None
    sqnr_db: float
    weighted_mnat: float
    weighted_db: float
    delta_mnat: float | None
    delta_bpb: float | None
    excess_bits: float | None
    encode_s: float
    decode_s: float
    peak_mb: float | None


@dataclass(frozen=True)
class Codec:
    """encode returns the artifact and the bytes of its symbols' entropy, where that is known."""

    name: str
    setting: str
    encode: Callable[[PackedModel], tuple[bytes, float | None]]
    decode: Callable[[bytes], State]
    outside: bool = False  # another program does the work, whose memory is not seen


# The peers: rows on grids ---------------------------------------------------------------------


def percentile_rows(weight_RC: torch.Tensor) -> Quantized:
    """Int8 rows that reach to a percentile of their magnitudes: the challenge's baseline."""
    clip_R = torch.quantile(weight_RC.abs().float(), PERCENTILE / 100, dim=1)
    scale_R = (clip_R / 127).clamp(min=quantize.FP16_TINY).half()
    codes_RC = (weight_RC / scale_R.float()[:, None]).round().clamp(-127, 127)
    return Quantized(codes_RC.to(torch.int8), scale_R)


def watersic_columns(
    weight_RC: torch.Tensor, hessian_CC: torch.Tensor, step: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Integer codes and the fp16 factor of each column: WaterSIC's scalar quantiser.

    Column c is rounded to multiples of step / sqrt(pivot_c), its target with the errors of the
    columns before it. At low rates a column of codes is shorter than its targets; the factor that
    is stored is the one of least squares.

    Source: WaterSIC (arXiv 2603.04956): spacings by the Cholesky factor, interference cancelled
    column by column, each column at its entropy.
    """
    order_C, factor_CC, pivot_C = (part[0] for part in factor(hessian_CC[None], 0.01))
    w_RC = weight_RC.float()[:, order_C]
    spacing_C = (step * pivot_C.rsqrt()).float()
    error_RC, codes_RC = torch.zeros_like(w_RC), torch.zeros_like(w_RC)
    factor_C = torch.zeros_like(spacing_C)
    for c in range(w_RC.shape[1]):
        target_R = w_RC[:, c] + error_RC[:, :c] @ factor_CC[:c, c]
        codes_R = (target_R / spacing_C[c]).round()
        power = codes_R.square().sum()
        best = (target_R * codes_R).sum() / power if power else spacing_C[c]
        factor_C[c] = best.half().float()
        codes_RC[:, c] = codes_R
        error_RC[:, c] = w_RC[:, c] - codes_R * factor_C[c]
    back_C = order_C.argsort()
    return codes_RC[:, back_C].to(torch.int16), factor_C[back_C].half()


def watersic_artifact(subject: PackedModel, rate: float) -> tuple[bytes, float]:
    """A subject at about this many bits a weight; column by column, by LZMA; with its entropy."""
    matrices = []
    for name, hessian in subject.hessians.items():
        columns_CC = Hessian.of(hessian, len(subject.state[name])).columns_CC
        matrices.append(
            Matrix(subject.state[name], Hessian.of(columns_CC, len(subject.state[name])))
        )
    prepared = Matrices(matrices)
    weights = sum(matrix.weight_RC.numel() for matrix in matrices)
    fine, coarse = -40.0, 20.0
    for _ in range(40):
        middle = (fine + coarse) / 2
        if prepared.bits(2.0**middle) > rate * weights:
            fine = middle
        else:
            coarse = middle
    table, data, bound = [], [], 0.0
    for name, weight in subject.state.items():
        table.append([name, list(weight.shape), name in subject.hessians])
        if name not in subject.hessians:
            data.append(weight.half().numpy().tobytes())
            bound += len(data[-1])
            continue
        columns_CC = Hessian.of(subject.hessians[name], len(weight)).columns_CC
        # Points of the trellis that Matrices.bits tells of are two of its steps apart.
        codes_RC, factor_C = watersic_columns(weight, columns_CC, 2 * 2.0**coarse)
        data += [factor_C.numpy().tobytes(), codes_RC.T.contiguous().numpy().tobytes()]
        bound += 2 * len(factor_C)
        for codes_R in codes_RC.T:
            _, counts = codes_R.unique(return_counts=True)
            bound += float((counts * (counts.sum() / counts).log2()).sum() / 8)
    text = json.dumps(table).encode()
    body = lzma.compress(b"".join(data), preset=9)
    return LENGTH.pack(len(text)) + text + body, bound + len(text)


def read_watersic(blob: bytes) -> State:
    """What watersic_artifact stored."""
    (size,) = LENGTH.unpack_from(blob)
    table = json.loads(blob[LENGTH.size :][:size])
    data = lzma.decompress(blob[LENGTH.size + size :])
    state, at_byte = {}, 0
    for name, shape, has_codes in table:
        numbers = shape[1] if has_codes else math.prod(shape)
        halves = np.frombuffer(data, np.float16, numbers, at_byte).astype(np.float32)
        at_byte += 2 * numbers
        weight = torch.from_numpy(halves).reshape([-1] if has_codes else shape)
        if has_codes:
            codes = np.frombuffer(data, np.int16, math.prod(shape), at_byte).astype(np.float32)
            at_byte += 2 * math.prod(shape)
            weight = torch.from_numpy(codes).reshape(shape[::-1]).T * weight
        state[name] = weight
    return state


def rows_artifact(
    state: State, rows: dict[str, Quantized], compress: Callable[[bytes], bytes]
) -> tuple[bytes, float]:
    """Names and shapes as JSON, then the codes and fp16 numbers of all tensors in one stream."""
    table = [[name, list(weight.shape), name in rows] for name, weight in state.items()]
    streams, bound = [], 0.0
    for name, weight in state.items():
        halves = rows[name].scale_R if name in rows else weight.half()
        planes = halves.reshape(-1).numpy().view(np.uint8).reshape(-1, 2).T
        parts = [rows[name].codes_RC.numpy().tobytes()] if name in rows else []
        streams += [*parts, halves.reshape(-1).numpy().tobytes()]
        bound += sum(map(quantize.order0_bytes, [*parts, *(p.tobytes() for p in planes)]))
    text = json.dumps(table).encode()
    return LENGTH.pack(len(text)) + text + compress(b"".join(streams)), bound


def read_rows(blob: bytes, decompress: Callable[[bytes], bytes]) -> State:
    """What rows_artifact stored."""
    (size,) = LENGTH.unpack_from(blob)
    table, data = json.loads(blob[LENGTH.size :][:size]), decompress(blob[LENGTH.size + size :])
    state, at = {}, 0
    for name, shape, has_codes in table:
        count = math.prod(shape)
        if has_codes:
            codes_RC = np.frombuffer(data, np.int8, count, at).reshape(shape)
            at, count = at + count, shape[0]
        halves = torch.from_numpy(np.frombuffer(data, np.float16, count, at).copy())
        at += 2 * count
        if has_codes:
            state[name] = Quantized(torch.from_numpy(codes_RC.copy()), halves).dequantize()
        else:
            state[name] = halves.float().reshape(shape)
    return state


def shuffled(data: bytes) -> bytes:
    """All bytes at even places, then those at odd places."""
    return data[::2] + data[1::2]


def unshuffled(data: bytes) -> bytes:
    half = len(data) - len(data) // 2
    both = np.empty(len(data), np.uint8)
    both[::2] = np.frombuffer(data[:half], np.uint8)
    both[1::2] = np.frombuffer(data[half:], np.uint8)
    return both.tobytes()


def better(compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Compress both plain and shuffled; the first byte tells which is kept."""

    def compressed(data: bytes) -> bytes:
        return min((b"p" + compress(data), b"s" + compress(shuffled(data))), key=len)

    return compressed


def either(decompress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    def decompressed(stream: bytes) -> bytes:
        data = decompress(stream[1:])
        return unshuffled(data) if stream[:1] == b"s" else data

    return decompressed


def lrzip(data: bytes, *options: str) -> bytes:
    """What the program makes of a file of these bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in.lrz"), Path(folder, "out")
        source.write_bytes(data)
        command = ["lrzip", "-q", "-f", *options, "-o", str(out), str(source)]
        subprocess.run(command, check=True, capture_output=True)
        return out.read_bytes()


def compressors() -> tuple[dict[str, tuple[Callable, Callable]], list[str]]:
    """Compressors of GPTQ's codes, and a line for each that is missing."""
    pair_of, missing = {}, []
    if importlib.util.find_spec("brotli"):
        import brotli

        pair_of["brotli"] = (
            lambda data: brotli.compress(data, quality=11),
            brotli.decompress,
        )
    else:
        missing.append("brotli is not installed: golf.py --with codecs; LZMA stands in for it")
    pair_of["LZMA"] = (lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),) + (
        lzma.decompress,
    )
    if shutil.which("lrzip"):
        pair_of["zpaq"] = (lambda data: lrzip(data, "-z"), lambda data: lrzip(data, "-d"))
    else:
        missing.append("lrzip is not installed: no zpaq")
    return pair_of, missing


# Run by the interpreter that has the package. A file of arrays in, the stream and arrays out.
NNC_SCRIPT = """
import json, sys
import numpy as np
from nncodec import nnc
action, source, out, steps = sys.argv[1:]
if action == "encode":
    arrays = dict(np.load(source))
    data = nnc.compress(arrays, bitstream_path=out, qp_per_tensor=json.loads(steps), qp=-75,
                        use_dq=True, return_bitstream=True, verbose=False)
    open(out, "wb").write(data)
else:
    np.savez(out, **nnc.decompress(bytearray(open(source, "rb").read()), verbose=False))
"""


def nnc_run(python: str, action: str, data: bytes, steps: dict) -> bytes:
    """The stream of a file of arrays, or the other way round.

    Raises: ValueError where the interpreter fails, as without the package.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "in.npz"), Path(folder, "out.npz")
        source.write_bytes(data)
        command = [python, "-c", NNC_SCRIPT, action, str(source), str(out), json.dumps(steps)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(f"--nncodec {python} failed: {last:.300}; install nncodec for it")
        return out.read_bytes()


def nnc_codec(python: str, step: int, shapes: dict[str, torch.Size]) -> Codec:
    def encode(s: PackedModel):
        file = io.BytesIO()
        # the package knows no tensors without a dimension
        np.savez(file, **{name: np.atleast_1d(w.numpy()) for name, w in s.state.items()})
        rms = {name: float(s.state[name].square().mean().sqrt()) for name in s.hessians}
        steps = {name: step + round(4 * math.log2(max(v, 1e-9))) for name, v in rms.items()}
        return nnc_run(python, "encode", file.getvalue(), steps), None

    def decode(blob: bytes) -> State:
        arrays = np.load(io.BytesIO(nnc_run(python, "decode", blob, {})))
        return {n: torch.from_numpy(arrays[n]).float().reshape(shapes[n]) for n in arrays.files}

    return Codec("NNCodec", f"step {2 ** (step / 4):.2f} rms", encode, decode, outside=True)


# All codecs -----------------------------------------------------------------------------------


def report_bytes(blob: bytes) -> float:
    return byte_account(blob)["entropy_bytes"]


def codecs(
    subject: PackedModel, quick: bool = False, nncodec: str | None = None
) -> Iterator[Codec]:
    """Every codec at every setting, the peers first; nncodec is an interpreter."""

    def int8(s: PackedModel):
        rows = {name: percentile_rows(s.state[name]) for name in s.hessians}
        return rows_artifact(s.state, rows, lambda data: zlib.compress(data, 9))

    yield Codec("int8 + zlib", "", int8, lambda blob: read_rows(blob, zlib.decompress))

    def int5(width: float):
        def encode(s: PackedModel):
            plan = tuple(replace(row, clip_sigmas=row.clip_sigmas * width) for row in s.plan)
            blob = quantize.encode(s.state, plan, s.settings)
            return blob, report_bytes(blob)

        return encode

    for width in WIDTHS[1:3] if quick else WIDTHS:
        setting = f"clips x {width}"
        yield Codec("int5 + zstd", setting, int5(width), lambda blob: quantize.decode(blob)[0])

    def gptq(sigmas: float, embedding_sigmas: float, compress):
        def encode(s: PackedModel):
            rows = {}
            for name, hessian in s.hessians.items():
                hessian_CC = Hessian.of(hessian, len(s.state[name])).columns_CC
                grid = (8, embedding_sigmas) if name == "tok_emb.weight" else (6, sigmas)
                rows[name] = gptq_rows(s.state[name], hessian_CC, *grid)
            return rows_artifact(s.state, rows, better(compress))

        return encode

    widths = [(k, EMBEDDING_SIGMAS) for k in (GPTQ_SIGMAS[1:3] if quick else GPTQ_SIGMAS)]
    for name, (compress, decompress) in compressors()[0].items():
        alike = name == "brotli" and "tok_emb.weight" in subject.hessians
        for sigmas, embedding_sigmas in [RECORD_SIGMAS] * alike + widths:
            as_record = ", record" * (embedding_sigmas != EMBEDDING_SIGMAS)
            read = either(decompress)
            yield Codec(
                f"GPTQ + {name}{as_record}",
                f"k {sigmas}",
                gptq(sigmas, embedding_sigmas, compress),
                lambda blob, read=read: read_rows(blob, read),
                outside=name == "zpaq",
            )
    for step in (NNC_STEPS[:2] if quick else NNC_STEPS) if nncodec else ():
        yield nnc_codec(nncodec, step, {name: w.shape for name, w in subject.state.items()})

    for rate in RATES[2:4] if quick else RATES:
        yield Codec(
            "WaterSIC", f"{rate} bits", lambda s, r=rate: watersic_artifact(s, r), read_watersic
        )

    def ours(rate: float, states: int):
        def encode(s: PackedModel):
            most_bytes = int(rate * sum(weight.numel() for weight in s.state.values()) / 8)
            blob = quantize.encode_trellis(
                s.state, s.hessians, s.settings, most_bytes, states=states
            )
            return blob, report_bytes(blob)

        return encode

    plans = [(rate, quantize.STATES) for rate in (RATES[2:4] if quick else RATES)]
    for rate, states in plans + [(STATES_RATE, states) for states in FEWER_STATES]:
        name = "trellis" if states == quantize.STATES else f"trellis, {states} states"
        setting = f"{rate} bits"
        yield Codec(name, setting, ours(rate, states), lambda blob: quantize.decode(blob)[0])


class PeakMemory:
    """The rise of this process's resident memory within a `with`, in MB; None where not Linux."""

    def __enter__(self):
        try:
            # what was freed before goes back to the system, or reusing it would not count
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5")  # resets the kernel's high-water mark
            self.before = self._status("VmRSS")
        except (OSError, AttributeError, TypeError):
            self.before = None
        return self

    def __exit__(self, *_):
        self.rise = None if self.before is None else (self._status("VmHWM") - self.before) / 1e3

    @staticmethod
    def _status(key: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return float(next(line for line in lines if line.startswith(key)).split()[1])


def weighted(error_RC: torch.Tensor, hessian: Hessian | torch.Tensor) -> float:
    """Half of Σ_r weight_r e_r H e_rᵀ: what an error is foreseen to add, in nats a token."""
    hessian = Hessian.of(hessian, len(error_RC))
    cost_R = ((error_RC.double() @ hessian.columns_CC.double()) * error_RC).sum(dim=1)
    return float((cost_R * hessian.rows_R.double()).sum()) / 2


def cpu_seconds() -> float:
    """Of this process and of those that it waited for."""
    times = os.times()
    return time.process_time() + times.children_user + times.children_system


def bench(codec: Codec, subject: PackedModel, base_loss: float | None) -> tuple[BenchRow, bytes]:
    """Pack, unpack and judge what comes back; returns also the artifact."""
    with PeakMemory() as memory:
        start = cpu_seconds()
        blob, bound_bytes = codec.encode(subject)
        encode_s = cpu_seconds() - start
    start = cpu_seconds()
    state = codec.decode(blob)
    decode_s = cpu_seconds() - start
    parameters = sum(weight.numel() for weight in subject.state.values())
    power = error = nats = 0.0
    decibels = []
    for name, hessian in subject.hessians.items():
        exact_RC = subject.state[name]
        error_RC = state[name] - exact_RC
        power += float(exact_RC.double().square().sum())
        error += float(error_RC.double().square().sum())
        lost = weighted(error_RC, hessian)
        nats += lost
        decibels.append(10 * math.log10(weighted(exact_RC, hessian) / max(lost, 1e-30)))
    bits = 8 * len(blob) / parameters
    delta = None if base_loss is None else subject.measure(state) - base_loss
    delta_bpb = None
    if delta is not None and subject.bytes_per_token:
        delta_bpb = delta / math.log(2) / subject.bytes_per_token
    row = BenchRow(
        codec=codec.name,
        setting=codec.setting,
        bytes=len(blob),
        bits=bits,
        bound_bits=None if bound_bytes is None else 8 * bound_bytes / parameters,
        sqnr_db=10 * math.log10(power / error),
        weighted_mnat=1e3 * nats,
        weighted_db=float(np.mean(decibels)),
        delta_mnat=None if delta is None else 1e3 * delta,
        delta_bpb=delta_bpb,
        excess_bits=bits - math.log2(power / error) / 2 if base_loss is None else None,
        encode_s=encode_s,
        decode_s=decode_s,
        peak_mb=None if codec.outside else memory.rise,
    )
    return row, blob


# Subjects -------------------------------------------------------------------------------------


def gaussians(quick: bool = False) -> PackedModel:
    """Standard normal matrices in the shapes of one block of the default model."""
    import train_gpt

    settings = train_gpt.Settings(**({"model_dim": 128, "num_layers": 2} if quick else {}))
    with torch.device("meta"):
        model = train_gpt.RECIPE.model(train_gpt.RECIPE.model_settings(settings), torch.float32)
    rng = torch.Generator().manual_seed(0)
    state = {
        name: torch.randn(p.shape, generator=rng)
        for name, p in model.named_parameters()
        if name.startswith("blocks.0.") and name.endswith(".weight")
    }
    hessians = {name: torch.eye(weight.shape[1]) for name, weight in state.items()}
    return PackedModel(state, hessians, (PlanRow("*.weight", 5, 2.9),), {})


def trained(source: Path, data: Path, quick: bool = False) -> PackedModel:
    """The weights of any model of this project or of a Hugging Face folder, with a loss on text.

    The text in data is of the model's own tokens. Raises: ValueError for too little text, and for
    what is no model.
    """
    opened = open_model(source, "cpu", compile=False)
    model = opened.model
    T = min(opened.model_settings.get("train_seq_len", LONGEST_BLOCK), LONGEST_BLOCK)
    state = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    def blocks(tokens_T: np.ndarray) -> torch.Tensor:
        count = (len(tokens_T) - 1) // T
        if count < 1:
            raise ValueError(f"{data} holds a split of {len(tokens_T)} tokens; needs {T + 1}")
        return torch.from_numpy(tokens_T[: count * T + 1].astype(np.int64)).unfold(0, T + 1, T)

    def nats(part_BT: torch.Tensor) -> torch.Tensor:
        logits_NV = model(part_BT[:, :-1]).flatten(0, 1)
        return F.cross_entropy(logits_NV.float(), part_BT[:, 1:].flatten(), reduction="sum")

    scale = 16 if quick else 1
    train_T = read_shard(find_shards(data, "train")[-1])
    calibration_BT = blocks(train_T[-min(CALIBRATION_TOKENS // scale + 1, len(train_T)) :])
    with Curvature(model.named_parameters()) as curvature:
        for part_BT in calibration_BT.split(16):
            nats(part_BT).backward()
    model.zero_grad(set_to_none=True)
    measured = curvature.hessians(calibration_BT.shape[0] * T)
    hessians = {name: measured[name] for name in state if name in measured}
    val_T = read_split(data, "val")[: LOSS_TOKENS // scale + 1]
    val_BT = blocks(val_T)
    targets = val_BT.shape[0] * T

    @torch.no_grad()
    def measure(weights: State) -> float:
        for name, p in model.named_parameters():
            p.copy_(weights[name])
        return sum(nats(part_BT).item() for part_BT in val_BT.split(16)) / targets

    tokenizer = data / "tokenizer.model"
    bytes_per_token = None
    if opened.recipe is not None and tokenizer.is_file():
        table = opened.recipe.byte_table(str(tokenizer), opened.model_settings["vocab_size"])
        bytes_per_token = table.total(val_T[: targets + 1]) / targets
    plan = quantize.int8_plan(state)
    if "tok_emb.weight" in state:
        plan = quantize.int5_plan(state)
    return PackedModel(state, hessians, plan, opened.model_settings, measure, bytes_per_token)


# Answers --------------------------------------------------------------------------------------


def at(x: float, points: list[tuple[float, float]]) -> float | None:
    """y at x on the straight lines between points; None where x is outside of them."""
    if not points or not min(points)[0] <= x <= max(points)[0]:
        return None
    return float(np.interp(x, *zip(*sorted(points), strict=True)))


def bits_below(peer: list[BenchRow], own: list[BenchRow]) -> tuple[list[float], list[float]]:
    """Bits a parameter that own saves at the weighted error of each of the peer's rows.

    The second list has those rows that are worse than all of own, so that own saves at least that.
    """
    curve = [(-math.log(row.weighted_mnat), row.bits) for row in own]
    worst, fewest = min(curve)
    exact, at_least = [], []
    for row in peer:
        x = -math.log(row.weighted_mnat)
        if (bits := at(x, curve)) is not None:
            exact.append(row.bits - bits)
        elif x < worst:
            at_least.append(row.bits - fewest)
    return exact, at_least


def ratios(peer: list[BenchRow], own: list[BenchRow], value: str) -> list[float]:
    """How much larger the peer's value is than own at the bytes of each of the peer's rows."""
    # a measured loss may fall by chance: such rows have no ratio
    own = [row for row in own if getattr(row, value) > 0]
    peer = [row for row in peer if getattr(row, value) > 0]
    curve = [(row.bytes, math.log(getattr(row, value))) for row in own]
    pairs = [(math.log(getattr(row, value)), at(row.bytes, curve)) for row in peer]
    return [math.exp(mine - other) for mine, other in pairs if other is not None]


def landings(count: int) -> list[float]:
    """Per cent by which artifacts of small Gaussian matrices differ from random sizes."""
    rng = torch.Generator().manual_seed(1)
    shape = (384, 256)  # below 32 kB a landing may be 32 bytes off, more than 0.1 %
    state = {f"m.{i}": torch.randn(shape, generator=rng) for i in range(2)}
    hessians = quantize.flat_hessians(state)
    percents = []
    for bits in 1.8 + 3.2 * torch.rand(count, generator=rng):
        most_bytes = int(bits * 2 * math.prod(shape) / 8)
        blob = quantize.encode_trellis(state, hessians, {}, most_bytes, states=4)
        percents.append(100 * (len(blob) / most_bytes - 1))
    return percents


def side_information(blob: bytes) -> dict:
    """Coded words against the model's entropy, and shares of a trellis artifact's other parts."""
    _, entries, start = quantize.read_header(blob)
    points = [points for _, points, _ in quantize.read_points(blob, entries, start)]
    stream_start = quantize.points_start(entries, start)
    stream = blob[stream_start : -quantize.CHECKSUM_BYTES]
    side_bytes, word_bytes = rans.bytes_beside_and_of_words(stream, len(points))
    return {
        "words_over_entropy": word_bytes / sum(rans.coded_bytes(points)) - 1,
        "side_share": side_bytes / len(blob),
        "header_share": (start + quantize.CHECKSUM_BYTES) / len(blob),
        "fp16_share": (stream_start - start) / len(blob),
    }


def answers(rows: list[BenchRow], subject: PackedModel, blob: bytes, count: int = LANDINGS) -> dict:
    """What the lines of summary say, of the rows and of an artifact of the trellis codec.

    count is the number of sizes to be met.
    """
    of = {name: [row for row in rows if row.codec == name] for name in {r.codec for r in rows}}
    peers = [name for name in of if not name.startswith("trellis")]
    own = of["trellis"]
    below = {name: bits_below(of[name], own) for name in peers}
    figures = {
        "bits_below": {name: exact for name, (exact, _) in below.items()},
        "bits_at_least_below": {name: bound for name, (_, bound) in below.items()},
        "error_ratio": {name: ratios(of[name], own, "weighted_mnat") for name in peers},
        "landing_percent": landings(count),
        **side_information(blob),
    }
    numbers = sum(weight.numel() for weight in subject.state.values()) / 1e6
    for key in ("encode_s", "decode_s", "peak_mb"):
        values = [getattr(row, key) for row in own]
        figures[f"{key}_a_million"] = [value / numbers for value in values if value is not None]
    if subject.measure is None:
        figures["excess_bits"] = {f"{r.codec} {r.setting}": r.excess_bits for r in rows}
    else:
        figures["loss_ratio"] = {name: ratios(of[name], own, "delta_mnat") for name in peers}
    return figures


def spread(values: list[float], form: str) -> str:
    if not values:
        return "no figure"
    return f"{min(values):{form}} to {max(values):{form}} ({len(values)} points)"


def format_answers(figures: dict) -> str:
    """One line for each answer."""
    lines = []
    for key, label, form in (
        ("bits_below", "bits/param below, at equal weighted error", ".3f"),
        ("bits_at_least_below", "at least so many below, the error being out of reach", ".3f"),
        ("error_ratio", "weighted error over the trellis codec's, at equal bytes", ".2f"),
        ("loss_ratio", "loss added over the trellis codec's, at equal bytes", ".2f"),
    ):
        for name, values in sorted(figures.get(key, {}).items()):
            if values:
                lines.append(f"{label}: {name}: {spread(values, form)}")
    for name, excess in figures.get("excess_bits", {}).items():
        lines.append(f"bits/weight over the Gaussian bound: {name}: {excess:.3f}")
    lines.append(
        f"coded words over the model's entropy: {100 * figures['words_over_entropy']:.3f} %"
    )
    lines.append(
        "of the artifact, in %: tables, exponents and lanes {side_share:.2f}, header and checksum"
        " {header_share:.2f}, fp16 numbers {fp16_share:.2f}".format(
            **{key: 100 * share for key, share in figures.items() if key.endswith("_share")}
        )
    )
    landed = figures["landing_percent"]
    inside = sum(-0.1 <= percent <= 0 for percent in landed)
    lines.append(
        f"sizes met within -0.1 to 0 %: {inside} of {len(landed)}; {spread(landed, '.3f')}"
    )
    for key, label in (
        ("encode_s", "encode, CPU seconds"),
        ("decode_s", "decode, CPU seconds"),
        ("peak_mb", "memory while packing, MB"),
    ):
        values = figures[f"{key}_a_million"]
        lines.append(f"{label} a million parameters: {spread(values, '.2f')}")
    return "\n".join(lines)


COLUMNS = (
    ("codec", "codec", "{}"),
    ("setting", "setting", "{}"),
    ("bytes", "bytes", "{:,}"),
    ("bits", "bits/param", "{:.3f}"),
    ("bound_bits", "bound", "{:.3f}"),
    ("sqnr_db", "SQNR dB", "{:.2f}"),
    ("weighted_mnat", "mnat H", "{:.3f}"),
    ("weighted_db", "dB H", "{:.2f}"),
    ("delta_mnat", "Δ mnat", "{:.3f}"),
    ("delta_bpb", "Δ bpb", "{:.5f}"),
    ("excess_bits", "excess", "{:.3f}"),
    ("encode_s", "enc s", "{:.2f}"),
    ("decode_s", "dec s", "{:.2f}"),
    ("peak_mb", "MB", "{:.0f}"),
)


def format_table(rows: list[BenchRow]) -> str:
    lines = [[label for _, label, _ in COLUMNS]]
    for row in rows:
        values = [(getattr(row, key), form) for key, _, form in COLUMNS]
        lines.append(["" if value is None else form.format(value) for value, form in values])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def draw(rows: list[BenchRow]) -> bytes:
    """A PNG of the loss added against bytes; the bits over the bound where there is no loss."""
    import matplotlib

    from tools.runs import plot

    value, label = "excess_bits", "bits/weight over the bound"
    if rows[0].excess_bits is None:
        value, label = "delta_mnat", "loss added (thousandths of a nat a token)"
    with matplotlib.rc_context(plot.STYLE):
        fig, axes = plot.figure(1, 1, 7.5, 5)
        ax = axes[0, 0]
        for i, name in enumerate(dict.fromkeys(row.codec for row in rows)):
            line = sorted((r.bytes, getattr(r, value)) for r in rows if r.codec == name)
            x, y = zip(
                *[(x / 1e6, y) for x, y in line if y > 0] or [(math.nan, math.nan)], strict=True
            )
            look = {"color": plot.COLOURS[i % len(plot.COLOURS)]}
            look |= {"linestyle": plot.DASHES[i // len(plot.COLOURS) % 4]}
            ax.plot(x, y, marker="o", markersize=4, label=name, **look)
        ax.set(yscale="log", xlabel="artifact (MB)", ylabel=label, title="Codecs at their sizes")
        plot.legend_below(fig, axes)
        out = io.BytesIO()
        fig.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def main(argv: list[str] | None = None) -> int:
    """Run the comparison; returns 0, or 2 where the input is at fault."""
    parser = argparse.ArgumentParser(
        prog="tools.runs.codec_bench", description=__doc__.splitlines()[0]
    )
    add = parser.add_argument
    add("checkpoint", nargs="?", type=Path, metavar="MODEL", help="without one, Gaussians")
    add("--data", type=Path, help="folder of shards and tokenizer.model, with a checkpoint")
    add("--out", type=Path, help="folder for codec_bench.json and codec_bench.png")
    add("--quick", action="store_true", help="fewer settings, smaller matrices, a 16th of the text")
    add("--json", action="store_true", help="print one JSON object")
    add("--nncodec", metavar="PYTHON", help="an interpreter that has the package nncodec")
    args = parser.parse_args(argv)
    try:
        if (args.checkpoint is None) != (args.data is None):
            raise ValueError("CHECKPOINT and --data go together; give both or neither")
        if args.checkpoint is None:
            subject = gaussians(args.quick)
        else:
            subject = trained(args.checkpoint, args.data, args.quick)
        base_loss = subject.measure(subject.state) if subject.measure else None
        rows, of_rate = [], b""
        for codec in codecs(subject, args.quick, args.nncodec):
            row, blob = bench(codec, subject, base_loss)
            rows.append(row)
            if (row.codec, row.setting) == ("trellis", f"{STATES_RATE} bits"):
                of_rate = blob
            print(codec.name, codec.setting, row.bytes, file=sys.stderr, flush=True)
        figures = answers(rows, subject, of_rate, 3 if args.quick else LANDINGS)
        missing = compressors()[1]
        if not args.nncodec:
            # its numpy is older than ours: one environment cannot have both
            missing.append("NNCodec is not compared: --nncodec names a Python that has it")
        result = {
            "parameters": sum(weight.numel() for weight in subject.state.values()),
            "loss": base_loss,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
            "missing": missing,
            "rows": [asdict(row) for row in rows],
            "answers": figures,
        }
        if args.out:
            args.out.mkdir(parents=True, exist_ok=True)
            text = json.dumps(result, indent=1) + "\n"
            quantize.write_atomic(args.out / "codec_bench.json", text.encode())
            if importlib.util.find_spec("matplotlib"):
                quantize.write_atomic(args.out / "codec_bench.png", draw(rows))
            else:
                result["missing"].append("matplotlib is not installed: no picture")
    except (ValueError, OSError, ImportError) as error:
        print("tools.runs.codec_bench:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(result))
    else:
        print(format_table(rows), "", format_answers(figures), *result["missing"], sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
