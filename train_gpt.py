"""Train an 11-layer GQA GPT for the 16 MB challenge, pack it, and score it from the packed bytes.

    python train_gpt.py                                     # no GPU: PRESET=smoke, about a minute
    torchrun --standalone --nproc_per_node=1 train_gpt.py   # one H100/H200: PRESET=pr334
    SEED=42 MATRIX_LR=0.03 torchrun --standalone --nproc_per_node=8 train_gpt.py
    RESUME=<run_id> python train_gpt.py                     # continue a run that was killed

The default recipe is that of upstream PR #334 (26,666,073 parameters) without its faults: every
parameter learns, nothing is mixed across a document start, the step is compiled, the artifact is
under the cap by construction, and validation text is read once, after everything is decided.
Everything of a run lands in logs/<run_id>/. Settings are upper-case environment variables, see
`Hyperparameters`. The score is defined in evaluate.py, the artifact's format in quantize.py.

Dimensions: B rows, T tokens, D model_dim, H query heads, G key/value heads, E head_dim,
V vocabulary, N matrices of one shape, R and C their rows and columns.
"""

import contextlib
import dataclasses
import difflib
import fcntl
import functools
import hashlib
import io
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import evaluate
import quantize
from codec import trellis

# Settings -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hyperparameters:
    """Every number a run can be given; the environment variable is the field's name in upper case.

    Raises: ValueError naming the variable, its value, the requirement and what to set instead.
    """

    # Run
    run_id: str = ""  # folder under logs/; empty: date, time and process id
    resume: str = ""  # run id to continue; its saved settings are used
    seed: int = 1337  # initial weights and order of the training blocks
    data_path: str = "./data/datasets/fineweb10B_sp1024"  # holds *_train_*.bin and *_val_*.bin
    tokenizer_path: str = "./data/tokenizers/fineweb_1024_bpe.model"
    # Length
    max_wallclock_seconds: float = 600.0  # until the artifact is on disk; 0: iterations alone count
    iterations: int = 20_000  # upper bound on optimizer steps
    train_batch_tokens: int = 524_288  # per step, over all ranks
    train_seq_len: int = 1024
    micro_batch_tokens: int = 65_536  # per forward pass and rank; bounds memory, not the result
    warmup_steps: int = 10  # thrown-away steps on made-up tokens, before the clock starts
    lr_warmup_frac: float = 0.01  # of the run
    warmdown_frac: float = 0.75  # of the run, linear
    min_lr: float = 0.1  # floor of the warmdown, relative to the peak
    val_loss_every: int = 1000  # steps between validations outside the clock; 0: only at the end
    train_log_every: int = 200  # steps
    checkpoint_seconds: float = 120.0  # between checkpoints; 0: only the final one
    eval_stride: int = 64  # tokens each sliding window moves
    compile: bool = True  # torch.compile of step and scoring
    peak_flops: float = 0.0  # dense bf16 of one device, for the log's mfu; 0: by PEAK_FLOPS
    # Model
    vocab_size: int = 1024
    num_layers: int = 11
    model_dim: int = 512
    num_heads: int = 8
    num_kv_heads: int = 4
    mlp_mult: int = 3
    rope_dims: int = 16  # of each head's dimensions; the rest carry no position
    rope_base: float = 50_000.0
    logit_softcap: float = 30.0
    qk_gain_init: float = 1.5
    bigram_vocab_size: int = 2048  # hash rows
    bigram_dim: int = 64
    tied_embed_init_std: float = 0.005
    # Optimizer
    tied_embed_lr: float = 0.05
    matrix_lr: float = 0.04  # in units of spectral norm per step
    scalar_lr: float = 0.04
    muon_momentum: float = 0.95
    muon_momentum_warmup_start: float = 0.85
    muon_momentum_warmup_steps: int = 500
    muon_wd: float = 0.04
    grad_clip_norm: float = 1.0  # 0: off
    ema_frac: float = 0.04  # horizon of the exponential average, relative to the run

    def __post_init__(self):
        def require(ok: bool, field: str, requirement: str) -> None:
            if not ok:
                raise ValueError(f"{field.upper()}={getattr(self, field)} must be {requirement}")

        for field in dataclasses.fields(self):
            if field.type in (int, float):
                require(getattr(self, field.name) >= 0, field.name, "at least 0")
        for field in ("iterations", "train_seq_len", "eval_stride", "train_log_every", "num_layers",
                      "num_heads", "num_kv_heads", "mlp_mult", "bigram_dim", "logit_softcap"):
            require(getattr(self, field) >= 1, field, "at least 1")
        for field in ("lr_warmup_frac", "warmdown_frac", "min_lr", "ema_frac"):
            require(getattr(self, field) <= 1, field, "between 0 and 1")
        for field in ("train_batch_tokens", "micro_batch_tokens"):
            value, T = getattr(self, field), self.train_seq_len
            require(value >= T and value % T == 0, field, f"a multiple of TRAIN_SEQ_LEN={T}")
        heads, head_dim = self.num_heads, self.model_dim // self.num_heads
        require(self.model_dim == heads * head_dim > 0, "model_dim",
                f"a multiple of NUM_HEADS={heads}")
        require(heads % self.num_kv_heads == 0, "num_kv_heads", f"a divisor of NUM_HEADS={heads}")
        require(0 < self.rope_dims <= head_dim and self.rope_dims % 2 == 0, "rope_dims",
                f"even and between 2 and MODEL_DIM/NUM_HEADS={head_dim}")
        require(2 <= self.vocab_size <= 65_536, "vocab_size", "between 2 and 65536 (uint16 shards)")
        require(self.bigram_vocab_size >= 2, "bigram_vocab_size", "at least 2")
        require(self.eval_stride <= self.train_seq_len, "eval_stride",
                f"at most TRAIN_SEQ_LEN={self.train_seq_len}")


# What differs from the defaults. `smoke` is the same architecture, for two CPU cores and a minute.
PRESETS = {  # the first is the default with CUDA, the last without
    "pr334": {},
    "smoke": dict(
        data_path="./data/datasets/toy_sp1024",
        tokenizer_path="./data/tokenizers/toy_1024_bpe.model",
        max_wallclock_seconds=60.0, train_batch_tokens=2048, train_seq_len=256,
        micro_batch_tokens=2048, warmup_steps=1, lr_warmup_frac=0.02, val_loss_every=0,
        train_log_every=20, checkpoint_seconds=10.0, compile=False, model_dim=64, num_heads=4,
        num_kv_heads=2, rope_dims=4, bigram_dim=16, muon_momentum_warmup_steps=50,
    ),
}

# Names that upstream scripts read and this one does not. Setting one would change nothing, so it is
# refused with what to use instead.
RETIRED = {
    "WARMDOWN_ITERS": "WARMDOWN_FRAC, a fraction of the run",
    "EMA_DECAY": "EMA_FRAC, a fraction of the run",
    "VAL_BATCH_SIZE": "nothing: scoring batches itself",
    "TIE_EMBEDDINGS": "nothing: the embedding is always tied",
    **dict.fromkeys(("EMBED_LR", "HEAD_LR"), "TIED_EMBED_LR"),
    "MUON_BACKEND_STEPS": "nothing: five Newton-Schulz iterations",
    "TTT_ENABLED": "python evaluate.py logs/<run_id>/artifact.pgz --ttt",
    "QAT_ENABLED": "nothing: there is no quantization-aware training",
}


def parse_setting(field: dataclasses.Field, text: str):
    """The value of one environment variable, by the type of its field.

    Raises: ValueError naming the variable, the text and the type wanted.
    """
    try:
        if field.type is bool:
            return {"0": False, "1": True}[text]
        value = field.type(text)
        if field.type is float and not math.isfinite(value):
            raise ValueError
        return value
    except (ValueError, KeyError):
        kind = "0 or 1" if field.type is bool else f"of type {field.type.__name__}"
        raise ValueError(f"{field.name.upper()}={text!r} must be {kind}") from None


def settings_from_env(environ, has_cuda: bool, system=sys.modules[__name__]):
    """Resolve the settings: (hyperparameters, why this preset, what the environment overrode).

    A name that is nearly a setting is an error, because a typing mistake in an hour-long run costs
    the hour. With RESUME the saved settings of that run are the base, and nothing may differ.

    Raises: ValueError for unknown presets, near-miss and retired names, and unusable values.
    """
    settings, presets = system.Hyperparameters, system.PRESETS
    fields = {field.name.upper(): field for field in dataclasses.fields(settings)}
    for name in environ:
        if name in RETIRED:
            raise ValueError(f"{name} is set but is not read here; use {RETIRED[name]}")
        if name in fields or name == "PRESET":
            continue
        near = difflib.get_close_matches(name, [*fields, "PRESET"], n=1, cutoff=0.85)
        near = near or [known for known in fields if "_" in name and known.endswith("_" + name)]
        if near:
            raise ValueError(f"{name} is set but is not a setting; did you mean {near[0]}?")
    given = {f.name: parse_setting(f, environ[n]) for n, f in fields.items() if n in environ}

    if given.get("resume"):
        path = Path("logs") / given["resume"] / "settings.json"
        if not path.exists():
            raise ValueError(f"RESUME={given['resume']}: no such run, or it never began ({path} is"
                             " missing); start a new run under another RUN_ID")
        base = json.loads(path.read_text())
        preset, reason = base.pop("preset"), "as saved by the run that is resumed"
        code = base.pop("code", CODE)  # absent from older runs
        saved = {**base, "preset": preset, "resume": given["resume"]}
        odd = sorted(set(base) ^ {field.name for field in fields.values()})
        if odd or code != system.CODE or preset not in presets:
            raise ValueError(f"RESUME={given['resume']} is a run of {code} {preset} or of another"
                             f" version, {odd}; resume it with the command that began it")
        for name, value in {**given, "preset": environ.get("PRESET", preset)}.items():
            if value != saved[name]:
                raise ValueError(f"{name.upper()}={value} differs from {saved[name]} of the run to"
                                 " resume; unset it, or start a new run")
        return settings(**{**base, "resume": given["resume"]}), f"{preset} ({reason})", {}

    preset = environ.get("PRESET") or list(presets)[0 if has_cuda else -1]
    if preset not in presets:
        raise ValueError(f"PRESET={preset!r} must be one of {', '.join(presets)}")
    by_device = "with CUDA" if has_cuda else f"without CUDA, where {list(presets)[0]} takes days"
    reason = "as asked" if "PRESET" in environ or len(presets) == 1 else f"default {by_device}"
    return settings(**{**presets[preset], **given}), f"{preset} ({reason})", given


# Runtime: processes, clock, run folder ------------------------------------------------------------


@dataclass(frozen=True)
class Runtime:
    """This process among its ranks, and the device it computes on."""

    rank: int
    world_size: int
    device: torch.device

    @classmethod
    def start(cls, environ) -> "Runtime":
        """Read torchrun's variables (absent: one process) and join the process group."""
        world_size = int(environ.get("WORLD_SIZE", 1))
        if not 1 <= world_size <= 8:
            raise ValueError(f"WORLD_SIZE={world_size} must be between 1 and 8")
        device = torch.device("cpu")
        if torch.cuda.is_available():
            device = torch.device("cuda", int(environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        if world_size > 1:
            # gloo beside nccl: the clock is agreed on the CPU, without waiting for the GPU.
            dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
        return cls(int(environ.get("RANK", 0)), world_size, device)

    def broadcast(self, value):
        """Rank 0's value, on every rank."""
        if self.world_size > 1:
            box = [value]
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
            value = box[0]
        return value

    def broadcast_float(self, value: float) -> float:
        """Rank 0's number, on every rank; cheap enough for every step."""
        box = torch.tensor(value, dtype=torch.float64)
        if self.world_size > 1:
            dist.broadcast(box, src=0)
        return box.item()

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Clock:
    """Training seconds: everything from the first step to the artifact on disk, pauses left out."""

    def __init__(self, rt: Runtime, seconds: float = 0.0):
        self.rt, self.banked, self.since = rt, seconds, None

    def run(self) -> None:
        self.rt.synchronize()
        self.since = self.since or time.perf_counter()

    def pause(self) -> None:
        self.rt.synchronize()
        self.banked, self.since = self.seconds(), None

    def seconds(self) -> float:
        return self.banked + (time.perf_counter() - self.since if self.since is not None else 0.0)


def read_sources(*more: str) -> dict[str, bytes]:
    """The sources that count, as they are when the run starts; more are those of a system."""
    files = (__file__, *quantize.SOURCES, evaluate.__file__, *more)
    return {os.path.relpath(file, Path(__file__).parent): Path(file).read_bytes() for file in files}


class Run:
    """logs/<run_id>/: log, metrics, settings, sources, checkpoint and artifact of one run.

    Only rank 0 writes. A lock that dies with the process keeps a second one out of the folder.

    Raises: ValueError when the folder exists already, is in use, or was made by other sources.
    """

    def __init__(self, hp: Hyperparameters, preset: str, rt: Runtime, sources: dict[str, bytes],
                 code: str = "train_gpt"):
        stamp = time.strftime("%Y-%m-%d_%H%M%S")
        self.run_id = rt.broadcast(hp.resume or hp.run_id or f"{stamp}_{os.getpid()}")
        self.folder = Path("logs") / self.run_id
        self.checkpoint_path = self.folder / "checkpoint.pt"
        self.artifact_path = self.folder / "artifact.pgz"
        self.is_writer = rt.rank == 0
        if not self.is_writer:
            return
        if not hp.resume:
            try:
                self.folder.mkdir(parents=True)
            except FileExistsError:
                raise ValueError(f"RUN_ID={self.run_id}: {self.folder} exists; continue that run"
                                 f" with RESUME={self.run_id}, or choose another") from None
        self.lock = open(self.folder / ".lock", "w")  # held until the process ends
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.folder} is in use by another process; wait for it") from None
        for leftover in self.folder.glob("*.tmp"):  # of a write that a kill cut short
            leftover.unlink()
        for name, text in sources.items():
            copy = self.folder / name
            copy.parent.mkdir(exist_ok=True)
            if not copy.exists():
                quantize.write_atomic(copy, text)
            elif copy.read_bytes() != text:
                raise ValueError(f"{name} differs from {copy}, which began this run; restore those"
                                 " sources, or start a new run")
        log_path = self.folder / "train.log"
        if log_path.exists() and not log_path.read_bytes().endswith(b"\n"):
            self.log("", console=False)  # a kill cut the last line short
        if not hp.resume:
            settings = dataclasses.asdict(hp) | {"run_id": self.run_id, "preset": preset.split()[0],
                                                 "code": code}
            # Last: a folder with settings.json is a folder that can be resumed.
            text = json.dumps(settings, indent=1)
            quantize.write_atomic(self.folder / "settings.json", text.encode())

    def log(self, line: str, console: bool = True) -> None:
        """Append one line to train.log and, for what a person waits for, to the console."""
        if self.is_writer:
            with open(self.folder / "train.log", "a") as file:
                file.write(line + "\n")
            if console:
                print("\r\033[K" + line if sys.stdout.isatty() else line, flush=True)

    def progress(self, line: str) -> None:
        """Rewrite the terminal's last line; nothing where output is not a terminal."""
        if self.is_writer and sys.stdout.isatty():
            print("\r\033[K" + line, end="", flush=True)

    def metrics(self, **record: float) -> None:
        if self.is_writer:
            with open(self.folder / "metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget steps that a resumed run will take again, so that each step stands once."""
        path = self.folder / "metrics.jsonl"
        if self.is_writer and path.exists():
            # A line that a kill cut short is the last one, and has no end.
            lines = [line for line in path.read_text().splitlines(True) if line.endswith("\n")]
            kept = [line for line in lines if json.loads(line)["step"] <= step]
            quantize.write_atomic(path, "".join(kept).encode())


# Data ---------------------------------------------------------------------------------------------

HOLDOUT_TOKENS = 524_288  # at most, and at most 16 batches or 2 % of the training text
# At most, and at most a quarter of these, show what errors of packing cost. On the smoke model
# 2,816 tokens did as well as 11,264: packing added 0.0011 nats with either (n = 1).
CALIBRATION_TOKENS = 32_768
# Nats a token on held-out text that packing may cost beyond 4 times what is foreseen. Smoke models
# of 200 to 5,000 steps lost 0.0001 to 0.0025 (n = 4), the fault that this guards against 0.103.
UNSEEN_LOSS = 0.005


class TrainingText:
    """Blocks of seq_len + 1 tokens from memory-mapped shards, in a seeded order without repeats.

    The blocks of all shards form one list, visited with a stride coprime to its length: every block
    once an epoch, neighbours in a batch far apart, and the place in the data is one integer. The
    last blocks of the last shard are held out, to choose between averages without validation text.

    Source: the coprime stride is upstream PR #1060's, here over all shards at once.
    Raises: ValueError for a shard that is too short, out of vocabulary, or also a validation shard.
    """

    def __init__(self, hp: Hyperparameters):
        paths = evaluate.find_shards(hp.data_path, "train")
        heads = {evaluate.read_shard(path, verify=False)[:65_536].tobytes(): path
                 for path in evaluate.find_shards(hp.data_path, "val")}
        self.seq_len, self.seed = hp.train_seq_len, hp.seed
        self.shards = [evaluate.read_shard(path, verify=False) for path in paths]
        for path, shard in zip(paths, self.shards, strict=True):
            highest = int(shard[:1_000_000].max(initial=0))
            if highest >= hp.vocab_size:
                raise ValueError(f"{path} holds token {highest}, outside VOCAB_SIZE="
                                 f"{hp.vocab_size}; its tokenizer is another one")
            if twin := heads.get(shard[:65_536].tobytes()):
                raise ValueError(f"{path} is the validation shard {twin}; training on it is not"
                                 " legal: remove it from the training files")
        blocks = [max(0, len(shard) - 1) // self.seq_len for shard in self.shards]
        holdout = min(HOLDOUT_TOKENS, 16 * hp.train_batch_tokens) // self.seq_len
        holdout = min(holdout, sum(blocks) // 50, blocks[-1] - 1)
        if holdout < 1:
            raise ValueError(f"{hp.data_path} must hold at least 50 blocks of TRAIN_SEQ_LEN="
                             f"{self.seq_len} tokens, not {sum(blocks)}, and 2 in its last shard")
        blocks[-1] -= holdout
        self.holdout_T = self.shards[-1][blocks[-1] * self.seq_len :][: holdout * self.seq_len + 1]
        self.ends = np.cumsum(blocks)
        self.num_blocks = int(self.ends[-1])

    def order(self, epoch: int) -> tuple[int, int]:
        """(first block, stride) of one pass over the blocks."""
        rng = np.random.default_rng((self.seed, epoch))
        first, stride = (int(n) for n in rng.integers(1, self.num_blocks + 1, size=2))
        while math.gcd(stride, self.num_blocks) != 1:
            stride += 1
        return first, stride

    def rows(self, position: int, count: int) -> Tensor:
        """tokens_BT of the count blocks from a position in the seeded order; T is seq_len + 1."""
        rows = np.empty((count, self.seq_len + 1), dtype=np.uint16)
        known = None
        for i in range(count):
            epoch, k = divmod(position + i, self.num_blocks)
            if epoch != known:
                known, (first, stride) = epoch, self.order(epoch)
            block = (first + k * stride) % self.num_blocks
            shard = int(np.searchsorted(self.ends, block, side="right"))
            start = (block - (int(self.ends[shard - 1]) if shard else 0)) * self.seq_len
            rows[i] = self.shards[shard][start : start + self.seq_len + 1]
        return torch.from_numpy(rows.astype(np.int64))


class Batches:
    """This rank's rows of every global batch, the next one read while the current one trains.

    Rows are dealt by their place in the global batch, so the number of ranks and the micro-batch
    size change who computes a row, never which rows make a step.
    """

    def __init__(self, text: TrainingText, hp: Hyperparameters, rt: Runtime):
        self.text, self.device = text, rt.device
        self.rows = hp.train_batch_tokens // hp.train_seq_len
        if self.rows < rt.world_size:
            raise ValueError(f"TRAIN_BATCH_TOKENS={hp.train_batch_tokens} must be at least"
                             f" WORLD_SIZE*TRAIN_SEQ_LEN={rt.world_size * hp.train_seq_len}")
        self.first = self.rows * rt.rank // rt.world_size
        self.count = self.rows * (rt.rank + 1) // rt.world_size - self.first
        self.parts = -(-self.count * hp.train_seq_len // hp.micro_batch_tokens)
        self.reader, self.ready_step, self.ready = ThreadPoolExecutor(1), None, None

    def read(self, step: int) -> Tensor:
        rows = self.text.rows(step * self.rows + self.first, self.count)
        return rows.pin_memory() if self.device.type == "cuda" else rows

    def get(self, step: int) -> list[Tensor]:
        """Micro-batches tokens_BT of a step; begins to read those of the next."""
        rows = self.ready.result() if self.ready_step == step else self.read(step)
        self.ready_step, self.ready = step + 1, self.reader.submit(self.read, step + 1)
        return list(rows.to(self.device, non_blocking=True).tensor_split(self.parts))

    def made_up(self, rng: torch.Generator, vocab_size: int) -> list[Tensor]:
        """Random tokens in the shapes that `get` returns."""
        rows = torch.randint(vocab_size, (self.count, self.text.seq_len + 1), generator=rng)
        return list(rows.to(self.device).tensor_split(self.parts))


# Model --------------------------------------------------------------------------------------------


def norm(x: Tensor) -> Tensor:
    return F.rms_norm(x, (x.size(-1),))


class Linear(nn.Linear):
    """A matrix kept in fp32 and used in the precision of its input; no bias."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__(in_features, out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype))


def rotary_angles(T: int, dims: int, base: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (T, 1, dims/2) for T positions."""
    freqs = base ** -(torch.arange(0, dims, 2, device=like.device, dtype=torch.float32) / dims)
    angles = torch.outer(torch.arange(T, device=like.device, dtype=torch.float32), freqs)[:, None]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x_BTHE: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first dims of each head by its position; the others pass."""
    half = cos.size(-1)
    a, b, rest = x_BTHE.split([half, half, x_BTHE.size(-1) - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


class Attention(nn.Module):
    """Causal grouped-query attention; q and k RMS-normed, q scaled by a learned gain per head."""

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.H, self.G, self.E = hp.num_heads, hp.num_kv_heads, hp.model_dim // hp.num_heads
        self.q = Linear(hp.model_dim, self.H * self.E)
        self.k = Linear(hp.model_dim, self.G * self.E)
        self.v = Linear(hp.model_dim, self.G * self.E)
        self.proj = Linear(self.H * self.E, hp.model_dim)
        self.q_gain = nn.Parameter(torch.empty(self.H))

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        B, T, _ = x.shape
        q = self.q(x).view(B, T, self.H, self.E)
        k = self.k(x).view(B, T, self.G, self.E)
        v = self.v(x).view(B, T, self.G, self.E)
        q = rotate(norm(q), cos, sin) * self.q_gain.to(x.dtype)[:, None]
        k = rotate(norm(k), cos, sin)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
        )  # (B, H, T, E)
        return self.proj(y.transpose(1, 2).reshape(B, T, self.H * self.E))


class MLP(nn.Module):
    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.fc = Linear(hp.model_dim, hp.mlp_mult * hp.model_dim)
        self.proj = Linear(hp.mlp_mult * hp.model_dim, hp.model_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(F.relu(self.fc(x)).square())


class Block(nn.Module):
    """One layer: mix with the first embedding, attention, MLP, each with a scale per channel."""

    def __init__(self, hp: Hyperparameters, layer: int):
        super().__init__()
        self.attn = Attention(hp)
        self.mlp = MLP(hp)
        self.attn_scale = nn.Parameter(torch.empty(hp.model_dim))
        self.mlp_scale = nn.Parameter(torch.empty(hp.model_dim))
        self.resid_mix = nn.Parameter(torch.empty(2, hp.model_dim))
        self.damping = 1 / math.sqrt(layer + 1)

    def forward(self, x: Tensor, x0: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        keep, first = self.resid_mix.to(x.dtype)
        x = keep * x + first * x0
        x = x + self.attn_scale.to(x.dtype) * self.attn(norm(x) * self.damping, cos, sin)
        return x + self.mlp_scale.to(x.dtype) * self.mlp(norm(x) * self.damping)


class SmearGate(nn.Module):
    """Blend each position with the one before, per channel, but never across a document start."""

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(hp.model_dim))

    def forward(self, x_BTD: Tensor, starts_BT: Tensor) -> Tensor:
        g = torch.sigmoid(self.gate).to(x_BTD.dtype) * ~starts_BT[..., None]
        return torch.lerp(x_BTD, F.pad(x_BTD[:, :-1], (0, 0, 1, 0)), g)


class BigramHash(nn.Module):
    """An embedding of (previous token, token), hashed to few rows; the last row: no previous.

    The table starts at zero and the projection does not: with both at zero, as in upstream PR #334,
    neither would ever get a gradient.
    """

    def __init__(self, hp: Hyperparameters):
        super().__init__()
        self.table = nn.Embedding(hp.bigram_vocab_size, hp.bigram_dim)
        self.proj = Linear(hp.bigram_dim, hp.model_dim)
        self.scale = nn.Parameter(torch.empty(()))

    def rows(self, tokens_BT: Tensor, starts_BT: Tensor) -> Tensor:
        none = self.table.num_embeddings - 1
        previous = F.pad(tokens_BT[:, :-1], (1, 0))
        return torch.where(starts_BT, none, (36313 * tokens_BT ^ 27191 * previous) % none)

    def forward(self, tokens_BT: Tensor, starts_BT: Tensor, dtype: torch.dtype) -> Tensor:
        x = self.table(self.rows(tokens_BT, starts_BT)).to(dtype)
        return self.proj(x) * self.scale.to(dtype)


class GPT(nn.Module):
    """tokens_BT -> softcapped logits_BTV in fp32.

    Beyond a textbook GPT: tied embedding; a hashed bigram embedding and a smear of neighbouring
    embeddings at the input; partial RoPE; normed inputs damped by 1/sqrt(layer + 1); the first half
    of the layers hands its outputs to the second half (U-Net); every layer can mix in the first
    embedding. Attention may look across a document start; smear and bigram never do.
    """

    def __init__(self, hp: Hyperparameters, compute_dtype: torch.dtype):
        super().__init__()
        self.hp, self.compute_dtype = hp, compute_dtype
        self.tok_emb = nn.Embedding(hp.vocab_size, hp.model_dim)
        self.bigram = BigramHash(hp)
        self.smear = SmearGate(hp)
        self.blocks = nn.ModuleList(Block(hp, layer) for layer in range(hp.num_layers))
        self.num_skips = hp.num_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(self.num_skips, hp.model_dim))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        starts = tokens_BT == evaluate.BOS_ID
        starts[:, 0] = True  # what precedes the window is unknown
        x = self.tok_emb(tokens_BT).to(self.compute_dtype)
        x = norm(x + self.bigram(tokens_BT, starts, x.dtype))
        x0 = x = self.smear(x, starts)  # (B, T, D)
        cos, sin = rotary_angles(x.size(1), self.hp.rope_dims, self.hp.rope_base, x)
        skips = []
        for i, block in enumerate(self.blocks):
            if i >= self.num_skips and skips:
                x = x + self.skip_weights[i - self.num_skips].to(x.dtype) * skips.pop()
            x = block(x, x0, cos, sin)
            if i < self.num_skips:
                skips.append(x)
        logits = F.linear(norm(x), self.tok_emb.weight.to(x.dtype)).float()  # (B, T, V)
        return self.hp.logit_softcap * torch.tanh(logits / self.hp.logit_softcap)

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the T - 1 targets of every row."""
        logits = self(tokens_BT[:, :-1])
        return F.cross_entropy(logits.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")

    @torch.no_grad()
    def init_weights(self, seed: int) -> "GPT":
        """Set every parameter; drawn on the CPU, so that every device starts from the same weights.

        Embedding normal(tied_embed_init_std); bigram table, gates and the output projections of
        attention and MLP zero; other matrices orthogonal, those that write into the residual stream
        times 1/sqrt(2L); scales and skip weights one; residual mix (1, 0); bigram scale 0.05.

        Raises: AssertionError for a parameter that has no rule.
        """
        rng = torch.Generator().manual_seed(seed)
        for name, p in self.named_parameters():
            match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
                case "tok_emb", _:
                    p.normal_(std=self.hp.tied_embed_init_std, generator=rng)
                case "bigram", "proj":
                    nn.init.orthogonal_(p, gain=(2 * len(self.blocks)) ** -0.5, generator=rng)
                case "blocks", "q" | "k" | "v" | "fc":
                    nn.init.orthogonal_(p, generator=rng)
                case _, "table" | "gate" | "proj":
                    p.zero_()
                case _, "attn_scale" | "mlp_scale" | "skip_weights":
                    p.fill_(1.0)
                case "blocks", "resid_mix":
                    p.copy_(torch.tensor([1.0, 0.0])[:, None].expand_as(p))
                case "blocks", "q_gain":
                    p.fill_(self.hp.qk_gain_init)
                case "bigram", "scale":
                    p.fill_(0.05)
                case _:
                    raise AssertionError(f"init_weights has no rule for {name}")
        return self

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """matrix, embedding and scalar parameters, by the kind of module that owns them."""
        groups = {"matrix": [], "embedding": [], "scalar": []}
        for module in self.modules():
            kind = {Linear: "matrix", nn.Embedding: "embedding"}.get(type(module), "scalar")
            groups[kind] += module.parameters(recurse=False)
        grouped = [id(p) for group in groups.values() for p in group]
        assert sorted(grouped) == sorted(map(id, self.parameters())), "not in exactly one group"
        return groups

    def flops_per_token(self, T: int) -> int:
        """Forward and backward: 6 a weight of every product, 6*L*D*T for causal attention."""
        matmul = sum(p.numel() for p in self.param_groups()["matrix"]) + self.tok_emb.weight.numel()
        return 6 * matmul + 6 * self.hp.num_layers * self.hp.model_dim * T


# Dense bf16 peaks by what the device calls itself (vendor data sheets); the first match counts.
PEAK_FLOPS = {
    "B200": 2250e12, "H200": 989e12, "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12,
    "A100": 312e12, "L40S": 362e12, "RTX 5090": 209e12, "RTX 4090": 165e12,
}


def peak_flops(hp: Hyperparameters, rt: Runtime) -> float | None:
    """Peak of all ranks together: as set, else by the table; None where it is in neither."""
    name = torch.cuda.get_device_name(rt.device) if rt.device.type == "cuda" else "CPU"
    known = hp.peak_flops or next((peak for key, peak in PEAK_FLOPS.items() if key in name), 0.0)
    return known * rt.world_size or None


# Optimizer ----------------------------------------------------------------------------------------


def newton_schulz(G_NRC: Tensor) -> Tensor:
    """Push the singular values of N matrices (R <= C) towards one, in five quintic iterations.

    The coefficients maximise the slope at zero and do not converge: singular values end between
    about 0.7 and 1.2, which trains as well as the exact polar factor and needs fewer products.
    bf16 on CUDA, fp32 on a CPU, where bf16 products are several times slower.
    Source: Keller Jordan's Muon.
    """
    X = G_NRC.bfloat16() if G_NRC.is_cuda else G_NRC
    X = X / (X.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        A = X @ X.mT
        B = -4.7750 * A + 2.0315 * A @ A
        X = 3.4445 * X + B @ X
    return X


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalised: a step has spectral norm lr, whatever the gradient.

    Matrices of one shape (up to transposition) are stacked and orthogonalised in one batched call;
    the stack is shared out among ranks and gathered. Weight decay is decoupled.

    Source: Keller Jordan's Muon (Nesterov form); the shared stack is upstream PR #549's.
    """

    def __init__(self, params, rt: Runtime, compile: bool = False):
        super().__init__(params, dict(lr=0.0, momentum=0.0, weight_decay=0.0))
        self.rt = rt
        self.orthogonalize = torch.compile(newton_schulz) if compile else newton_schulz
        self.stacks: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in self.param_groups[0]["params"]:
            self.state[p]["momentum"] = torch.zeros_like(p)
            self.stacks.setdefault((min(p.shape), max(p.shape)), []).append(p)

    @torch.no_grad()
    def step(self):
        group = self.param_groups[0]
        lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
        for params in self.stacks.values():
            grads = [p.grad for p in params]
            momenta = [self.state[p]["momentum"] for p in params]
            torch._foreach_mul_(momenta, mu)
            torch._foreach_add_(momenta, grads)
            updates = torch._foreach_add(grads, momenta, alpha=mu)
            wide = [u.mT if u.size(0) > u.size(1) else u for u in updates]
            for p, u in zip(params, self.shared(torch.stack(wide)), strict=True):
                tall = p.size(0) > p.size(1)
                scale = math.sqrt(max(1.0, p.size(0) / p.size(1)))
                p.mul_(1 - lr * decay)
                p.add_((u.mT if tall else u).to(p.dtype), alpha=-lr * scale)

    def shared(self, stack_NRC: Tensor) -> Tensor:
        """Orthogonalise this rank's part of the stack and gather everyone's."""
        N, ranks = stack_NRC.size(0), self.rt.world_size
        if ranks == 1:
            return self.orthogonalize(stack_NRC)
        each = -(-N // ranks)
        padded = F.pad(stack_NRC, (0, 0, 0, 0, 0, each * ranks - N))
        mine = self.orthogonalize(padded[self.rt.rank * each :][:each]).contiguous()
        everyone = mine.new_empty(padded.shape)
        dist.all_gather_into_tensor(everyone, mine)
        return everyone[:N]


def lr_scale(progress: float, hp: Hyperparameters) -> float:
    """Learning rate relative to its peak: up from a tenth, plateau, linearly down to min_lr."""
    up = 0.1 + 0.9 * progress / hp.lr_warmup_frac if hp.lr_warmup_frac else 1.0
    down = (1 - progress) / hp.warmdown_frac if hp.warmdown_frac else 1.0
    return min(1.0, up, hp.min_lr + (1 - hp.min_lr) * min(1.0, down))


class Optimizers:
    """Muon for matrices, Adam (0.9, 0.95) for embeddings and scalars, under one schedule."""

    def __init__(self, model: GPT, hp: Hyperparameters, rt: Runtime):
        self.hp, self.params = hp, list(model.parameters())
        self.remedy = f"lower MATRIX_LR={hp.matrix_lr} or set GRAD_CLIP_NORM"  # for a diverged run
        groups = model.param_groups()
        self.muon = Muon(groups["matrix"], rt, compile=hp.compile and rt.device.type == "cuda")
        self.adam = torch.optim.Adam(
            [dict(params=groups["embedding"], peak_lr=hp.tied_embed_lr),
             dict(params=groups["scalar"], peak_lr=hp.scalar_lr)],
            lr=0.0, betas=(0.9, 0.95), eps=1e-8, fused=rt.device.type == "cuda",
        )
        self.muon.param_groups[0].update(peak_lr=hp.matrix_lr, weight_decay=hp.muon_wd)

    def step(self, step: int, progress: float) -> Tensor:
        """Clip, update, clear the gradients; returns their norm before clipping."""
        hp = self.hp
        norm = nn.utils.clip_grad_norm_(self.params, hp.grad_clip_norm or math.inf, foreach=True)
        warm = min(1.0, step / max(1, hp.muon_momentum_warmup_steps))
        low, high = hp.muon_momentum_warmup_start, hp.muon_momentum
        self.muon.param_groups[0]["momentum"] = (1 - warm) * low + warm * high
        self.scale = lr_scale(progress, hp)
        for optimizer in (self.muon, self.adam):
            for group in optimizer.param_groups:
                group["lr"] = group["peak_lr"] * self.scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adam": self.adam.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.muon.load_state_dict(state["muon"])
        self.adam.load_state_dict(state["adam"])


class Averages:
    """EMA and SWA of the weights, in fp32 (a bf16 average stops moving).

    The EMA's horizon is ema_frac of the run, in steps: one that outlasts the warmdown ruins short
    runs (upstream #1763: raw 1.205, averaged 1.246). SWA is the plain mean over the last 40 %.
    """

    def __init__(self, model: GPT, hp: Hyperparameters):
        self.live = dict(model.named_parameters())
        self.ema_frac, self.swa_count = hp.ema_frac, 0
        self.ema = {name: p.detach().clone() for name, p in self.live.items()}
        self.swa = {name: p.detach().clone() for name, p in self.live.items()}

    @torch.no_grad()
    def update(self, step: int, progress: float) -> None:
        """Take in the weights after step number `step` (from 1) at a progress in (0, 1]."""
        live = list(self.live.values())
        horizon = max(1.0, min(self.ema_frac * step / progress, (step + 10) / 9))
        torch._foreach_lerp_(list(self.ema.values()), live, 1 / horizon)
        if progress >= 0.6:
            self.swa_count += 1
            torch._foreach_lerp_(list(self.swa.values()), live, 1 / self.swa_count)

    def candidates(self) -> dict[str, dict[str, Tensor]]:
        """Weights that could be exported, by name."""
        raw = {name: p.detach().clone() for name, p in self.live.items()}
        return {"raw": raw, "ema": self.ema, **({"swa": self.swa} if self.swa_count else {})}


# Training -----------------------------------------------------------------------------------------


class Trainer:
    """The state of one run, from made-up warm-up steps to weights ready for packing."""

    def __init__(self, hp: Hyperparameters, rt: Runtime, run: Run, text: TrainingText,
                 system=sys.modules[__name__]):
        self.hp, self.rt, self.run, self.text, self.system = hp, rt, run, text, system
        self.batches = Batches(text, hp, rt)
        self.model = system.GPT(hp, compute_dtype(rt.device)).init_weights(hp.seed).to(rt.device)
        self.loss_fn = torch.compile(self.model.loss) if hp.compile else self.model.loss
        self.logits_fn = torch.compile(self.model) if hp.compile else self.model
        self.optimizers = system.Optimizers(self.model, hp, rt)
        self.averages = system.Averages(self.model, hp)
        self.clock, self.step = Clock(rt), 0
        self.exported = None  # name of the candidate to pack, once chosen
        self.reserve_seconds = 0.0  # kept back from the cap for choosing, packing and writing

    def state(self) -> bytes:
        """The checkpoint: everything that `load` needs to go on as if nothing had happened."""
        buffer = io.BytesIO()
        state = {
            "model": {name: p.detach() for name, p in self.model.named_parameters()},
            "averages": {"ema": self.averages.ema, "swa": self.averages.swa},
            "swa_count": self.averages.swa_count,
            "exported": self.exported,
            "optimizers": self.optimizers.state_dict(),
            "step": self.step,
            "loader_position": self.step * self.batches.rows,
            "train_seconds": self.clock.seconds(),
            "settings": dataclasses.asdict(self.hp),
            "model_settings": self.system.model_settings(self.hp),
        }
        torch.save(state, buffer)
        return buffer.getvalue()

    def save(self) -> None:
        if self.run.is_writer:
            quantize.write_atomic(self.run.checkpoint_path, self.state())

    @torch.no_grad()
    def load(self, checkpoint: bytes) -> None:
        """Continue from what `state` returned, in this process or a killed one."""
        state = torch.load(io.BytesIO(checkpoint), map_location="cpu", weights_only=True)
        self.put(state["model"])
        for average, saved in ((self.averages.ema, "ema"), (self.averages.swa, "swa")):
            for name, shadow in average.items():
                shadow.copy_(state["averages"][saved][name])
        self.averages.swa_count, self.step = state["swa_count"], state["step"]
        self.exported = state["exported"]
        self.optimizers.load_state_dict(state["optimizers"])
        self.clock = Clock(self.rt, state["train_seconds"])

    @torch.no_grad()
    def put(self, weights: dict[str, Tensor]) -> None:
        """Overwrite the model's parameters."""
        for name, p in self.model.named_parameters():
            p.copy_(weights[name])

    def train_step(self, micro_batches: list[Tensor], progress: float) -> tuple[Tensor, Tensor]:
        """One optimizer step on the global batch: (mean loss in nats per token, gradient norm)."""
        # What a model draws, as for dropout, follows from these: a resumed rank draws it again.
        torch.manual_seed(hash((self.hp.seed, self.step, self.rt.rank)))
        loss = torch.zeros((), device=self.rt.device)
        for tokens in micro_batches:
            part = self.loss_fn(tokens) / self.hp.train_batch_tokens
            part.backward()
            loss += part.detach()
        if self.rt.world_size > 1:
            grads = [p.grad for p in self.optimizers.params]
            flat = torch.cat([*(g.flatten() for g in grads), loss[None]])
            dist.all_reduce(flat)
            for g, summed in zip(grads, flat[:-1].split([g.numel() for g in grads]), strict=True):
                g.copy_(summed.view_as(g))
            loss = flat[-1]
        grad_norm = self.optimizers.step(self.step, progress)
        self.step += 1
        return loss, grad_norm

    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]: of time where there is a cap, else steps."""
        done = self.step / self.hp.iterations
        if cap := self.hp.max_wallclock_seconds:
            seconds = self.rt.broadcast_float(self.clock.seconds())
            done = max(done, seconds / (cap - self.reserve_seconds))
        return min(done, 1.0)

    def rehearse(self, table: evaluate.ByteTable) -> None:
        """Compile, warm up, choose and pack once on made-up numbers, then restore every tensor.

        It runs before the clock starts and reads no text. A missing codec or a lack of memory shows
        now instead of after training, and the time that the end of the run takes is measured: that
        much is kept back from the cap.

        Raises: ValueError when the cap leaves no time for training.
        """
        hp, rng = self.hp, torch.Generator().manual_seed(0)
        before, started = self.state(), time.perf_counter()
        for i in range(hp.warmup_steps):
            self.train_step(self.batches.made_up(rng, hp.vocab_size), progress=1.0)
            self.averages.update(self.step, 1.0)
            self.run.progress(f"warm-up {i + 1}/{hp.warmup_steps}")
        self.rt.synchronize()
        warm_seconds = time.perf_counter() - started
        made_up_T = torch.randint(hp.vocab_size, self.text.holdout_T.shape, generator=rng).numpy()
        for _ in range(2 if hp.compile else 1):  # the first pass may compile, the last is timed
            started = time.perf_counter()
            self.choose(made_up_T.astype(np.uint16), table)
        noise = {n: torch.randn(p.shape, generator=rng) for n, p in self.averages.live.items()}
        blob = self.pack(noise, made_up_T.astype(np.uint16), table, 0, rehearsal=True)
        if self.run.is_writer:
            scratch = self.run.folder / "rehearsal.tmp"
            quantize.write_atomic(scratch, self.state() + blob)
            scratch.unlink()
        seconds = self.rt.broadcast_float(time.perf_counter() - started)
        self.load(before)
        # Twice the rehearsal: packing depends on the weights, and on what else the machine does.
        self.reserve_seconds = 2 * seconds
        if 0 < hp.max_wallclock_seconds <= self.reserve_seconds:
            raise ValueError(f"MAX_WALLCLOCK_SECONDS={hp.max_wallclock_seconds} must be over"
                             f" {self.reserve_seconds:.0f} (or 0: no cap), because choosing,"
                             f" packing and writing took {seconds:.1f} s in rehearsal")
        self.run.log(f"warmup steps:{hp.warmup_steps} warmup_time:{1000 * warm_seconds:.0f}ms"
                     f" reserve_time:{1000 * self.reserve_seconds:.0f}ms")

    def train(self, validate) -> None:
        """Start the clock and step until it or iterations run out; it stops during `validate`.

        SIGTERM, as of a scheduler, ends the process after a step and a checkpoint.
        Raises: FloatingPointError when the loss is no longer a number.
        """
        hp, run, first_step, stop_signals = self.hp, self.run, self.step, []
        signal.signal(signal.SIGTERM, lambda number, frame: stop_signals.append(number))
        self.clock.run()
        last_saved = first_seconds = self.clock.seconds()
        peak, flops = peak_flops(hp, self.rt), self.model.flops_per_token(hp.train_seq_len)
        run.log(f"mfu of flops_per_token:{flops} and peak_flops:{peak or 'unknown'}")
        progress, previous, average, before = self.progress(), None, 0.0, first_seconds
        while progress < 1.0:
            loss, grad_norm = self.train_step(self.batches.get(self.step), progress)
            # Waiting for the step before keeps the queue of a GPU one step long: the clock stays
            # right, and a run that diverged stops at once.
            if previous is not None and not math.isfinite(previous.item()):
                raise FloatingPointError(f"train_loss is {previous.item()} at step {self.step - 1};"
                                         f" {self.optimizers.remedy}")
            previous, progress = loss, self.progress()
            self.averages.update(self.step, progress)
            seconds = self.clock.seconds()
            taken = self.step - first_step
            rate, before = hp.train_batch_tokens / (seconds - before), seconds
            if taken > 1:  # the first step was only queued by now
                average = 0.95 * average + 0.05 * rate
            if self.step <= 10 or self.step % hp.train_log_every == 0 or progress >= 1.0:
                step_seconds = (seconds - first_seconds) / taken
                # corrected for the 0 that it began with
                tokens_s = average / (1 - 0.95 ** (taken - 1)) if taken > 1 else rate
                mfu = f"{tokens_s * flops / peak:.3f}" if peak else "unknown"
                run.log(f"step:{self.step}/{hp.iterations} train_loss:{loss.item():.4f}"
                        f" train_time:{1000 * seconds:.0f}ms step_avg:{1000 * step_seconds:.2f}ms"
                        f" tok_s:{tokens_s:.0f} mfu:{mfu}")
                run.metrics(
                    step=self.step, tokens=self.step * hp.train_batch_tokens, train_seconds=seconds,
                    progress=progress, train_loss=loss.item(), grad_norm=grad_norm.item(),
                    lr_scale=self.optimizers.scale, tok_s=tokens_s)
            else:
                run.progress(f"step {self.step}  {progress:.0%}  {seconds:.0f} s")
            if hp.val_loss_every and self.step % hp.val_loss_every == 0 and progress < 1.0:
                self.clock.pause()
                validate(self)
                self.clock.run()
            stopped = self.rt.broadcast_float(bool(stop_signals))
            if stopped or 0 < hp.checkpoint_seconds <= seconds - last_saved:
                last_saved = seconds
                self.save()
            if stopped:
                run.log(f"stopped step:{self.step} continue with RESUME={run.run_id}")
                sys.exit(128 + signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)

    @torch.no_grad()
    def choose(self, holdout_T: np.ndarray, table: evaluate.ByteTable) -> dict[str, evaluate.Score]:
        """Set `exported` to the candidate with the lowest loss on held-out training text.

        Returns every candidate's score; the model keeps its raw weights.
        """
        scores, candidates = {}, self.averages.candidates()
        for name, weights in candidates.items():
            self.put(weights)
            scores[name] = self.score_blocks(holdout_T, table)
        self.put(candidates["raw"])
        self.exported = min(scores, key=lambda name: scores[name].loss)
        return scores

    def hessians(self, weights: dict[str, Tensor], tokens_T: np.ndarray) -> dict[str, Tensor]:
        """What errors of each matrix cost (trellis.Curvature), measured on the text's beginning."""
        self.put(weights)
        T = self.hp.train_seq_len
        count = max(T, min(CALIBRATION_TOKENS, len(tokens_T) // 4)) // T
        blocks_BT = torch.from_numpy(tokens_T[: count * T + 1].astype(np.int64)).unfold(0, T + 1, T)
        with trellis.Curvature(self.model.named_parameters()) as curvature:
            for part_BT in blocks_BT.split(max(1, min(16_384, self.hp.micro_batch_tokens) // T)):
                self.model.loss(part_BT.to(self.rt.device)).backward()
        self.model.zero_grad(set_to_none=True)
        return curvature.hessians(count * T)

    def score_blocks(self, tokens_T: np.ndarray, table: evaluate.ByteTable) -> evaluate.Score:
        """Score of the model as it is, in blocks of the training length."""
        return evaluate.score_windows(
            self.logits_fn, tokens_T, table, seq_len=self.hp.train_seq_len,
            stride=self.hp.train_seq_len, isolate=False, batch_tokens=self.hp.micro_batch_tokens,
            device=self.rt.device, rank=self.rt.rank, world_size=self.rt.world_size,
        )

    def finish(self, table: evaluate.ByteTable, code_bytes: int) -> None:
        """Choose the weights, save them, and write the artifact: the last part of the timed run."""
        self.clock.run()
        if self.exported is None:
            scores = self.choose(self.text.holdout_T, table)
            gain = scores["raw"].loss - scores[self.exported].loss
            losses = " ".join(f"{name}_loss:{score.loss:.4f}" for name, score in scores.items())
            self.run.log(f"average {losses} exported:{self.exported} gain:{gain:.4f}"
                         f" holdout_tokens:{len(self.text.holdout_T)}")
            self.save()
        weights = self.averages.candidates()[self.exported]
        blob = self.pack(weights, self.text.holdout_T, table, code_bytes)
        if self.run.is_writer:
            quantize.write_atomic(self.run.artifact_path, blob)
        self.clock.pause()

    def pack(self, weights: dict[str, Tensor], holdout_T: np.ndarray, table: evaluate.ByteTable,
             code_bytes: int, rehearsal: bool = False) -> bytes:
        """The artifact, on every rank, after what it decodes to was scored on held-out text.

        A loss out of proportion to what the codec foresees is a fault that no byte shows (a weight
        beyond the largest point once cost 0.06 bpb, the more bytes the worse). Then int8 rows are
        tried as well, where they fit, and the artifact that scores better is kept.
        """
        blob, foreseen = b"", math.inf
        if self.run.is_writer:
            hessians = functools.cache(lambda: self.hessians(weights, holdout_T))
            blob = self.system.pack(weights, self.hp, code_bytes, hessians)
            foreseen = quantize.foreseen_nats(blob, hessians)
        blob, foreseen = self.rt.broadcast((blob, foreseen))
        self.put(weights)
        unpacked = self.score_blocks(holdout_T, table).loss
        lost = self.packed_loss(blob, holdout_T, table) - unpacked
        if rehearsal:
            return blob
        self.run.log(f"packed bytes:{len(blob)} unpacked_loss:{unpacked:.4f}"
                     f" packed_loss:{unpacked + lost:.4f} lost:{lost:.4f} foreseen:{foreseen:.4f}")
        if lost > UNSEEN_LOSS + 4 * foreseen:
            rows = quantize.encode(weights, quantize.int8_plan(weights),
                                   self.system.model_settings(self.hp))
            fits = len(rows) + code_bytes <= self.system.CAP_BYTES
            rows_lost = self.packed_loss(rows, holdout_T, table) - unpacked if fits else math.inf
            kept = rows if rows_lost < lost else blob
            self.run.log(f"warning: packing lost {lost:.4f} nats where {foreseen:.4f} were"
                         f" foreseen; int8 rows of {len(rows)} bytes lose {rows_lost:.4f}:"
                         f" kept the {'rows' if kept is rows else 'first'}")
            blob = kept
        self.put(weights)
        return blob

    def packed_loss(self, blob: bytes, tokens_T: np.ndarray, table: evaluate.ByteTable) -> float:
        """Nats a target of the model that the artifact holds."""
        self.put(quantize.decode(blob)[0])
        return self.score_blocks(tokens_T, table).loss


# Artifact -----------------------------------------------------------------------------------------

CAP_BYTES, SOURCES, byte_table = quantize.CAP_BYTES, (), evaluate.ByteTable.from_sentencepiece
CODE = "train_gpt"  # the module whose load_artifact and byte_table evaluate.py takes
# What load_artifact needs to rebuild the model, and the context it was trained with.
MODEL_SETTINGS = (
    "vocab_size", "num_layers", "model_dim", "num_heads", "num_kv_heads", "mlp_mult", "rope_dims",
    "rope_base", "logit_softcap", "bigram_vocab_size", "bigram_dim", "train_seq_len",
)


def model_settings(hp: Hyperparameters) -> dict:
    return {name: getattr(hp, name) for name in MODEL_SETTINGS}


def pack(weights: dict[str, Tensor], hp: Hyperparameters, code_bytes: int, hessians) -> bytes:
    """The artifact's bytes: as fine as the cap allows, or as makes a difference by hessians()."""
    limit = CAP_BYTES - code_bytes
    return quantize.encode_trellis(weights, hessians(), model_settings(hp), limit)


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 on CUDA; fp32 on a CPU, where bf16 is two to three times slower."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def build(settings: dict, dtype: torch.dtype) -> GPT:
    """The model of MODEL_SETTINGS, its weights not yet set. Raises: ValueError for others."""
    if odd := sorted(set(settings) ^ set(MODEL_SETTINGS)):
        raise ValueError(f"settings {odd} do not match this train_gpt.py; evaluate.py --code"
                         " names another trainer")
    T = settings["train_seq_len"]
    unread = dict(train_batch_tokens=T, micro_batch_tokens=T, eval_stride=1)
    return GPT(Hyperparameters(**settings, **unread), dtype)


def load_artifact(path: str | Path, device: str | torch.device, compile=True) -> tuple[GPT, dict]:
    """The model that an artifact holds, ready to score (compiled on CUDA), and its settings.

    Raises: quantize.ArtifactError for damaged files, and for settings this code does not know.
    """
    state, settings = quantize.decode(Path(path).read_bytes())
    device = torch.device(device)
    try:
        model = build(settings, compute_dtype(device))
    except ValueError as error:
        raise quantize.ArtifactError(f"{path}: {error}") from None
    model.load_state_dict(state)
    model.to(device).eval()
    if compile and device.type == "cuda":
        model.compile(dynamic=True)  # windows come in a few lengths
    return model, settings


# main ---------------------------------------------------------------------------------------------


def prepare_data(hp: Hyperparameters, given: dict, rt: Runtime) -> str:
    """Make the smoke preset's text where it is used and absent; have any other checked.

    Returns a line for the log. Raises: ValueError naming what is wrong, and the remedy.
    """
    here, text = Path(__file__).resolve().parent, os.path.abspath(hp.data_path)
    if not (here / "data" / "prepare.py").exists():
        return f"warning: {hp.data_path} is not verified: no data/prepare.py beside train_gpt.py"
    check = ["verify", text, "--tokenizer", os.path.abspath(hp.tokenizer_path), "--start"]
    make_toy = hp.data_path == PRESETS["smoke"]["data_path"] and "data_path" not in given
    failed, said = 0, ""
    for words in [["toy", "--out", os.path.abspath("data")], [*check, str(hp.vocab_size)]]:
        if rt.rank == 0 and not failed and (words[0] != "toy" or make_toy):
            done = subprocess.run([sys.executable, "-m", "data.prepare", *words], cwd=here,
                                  capture_output=True, text=True)
            failed, said = done.returncode, done.stderr if done.returncode else done.stdout
    failed, said = rt.broadcast((failed, said.strip()))
    if failed:
        raise ValueError(said.removeprefix("data.prepare verify: "))
    return said


def describe_machine(rt: Runtime) -> list[str]:
    """Versions and hardware, for the log file."""
    lines = [f"python:{platform.python_version()} torch:{torch.__version__} device:{rt.device}",
             f"world_size:{rt.world_size} cores:{os.cpu_count()} threads:{torch.get_num_threads()}"]
    if rt.device.type == "cuda":
        name = torch.cuda.get_device_name(rt.device)
        # By a shell: a container without this program is no reason to stop.
        shown = subprocess.run("nvidia-smi", shell=True, capture_output=True, text=True)
        lines += [f"gpu:{name} cuda:{torch.version.cuda}", shown.stdout]
    return lines


@contextlib.contextmanager
def plain_errors():
    """End with one line, not a traceback, where the user can mend what is wrong."""
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit("error: " + " ".join(str(error).split()))


def main(system=sys.modules[__name__]) -> None:
    """Train, pack and score what a system names: this module, or one with its own GPT and so on."""
    sources = read_sources(*system.SOURCES)
    with plain_errors():
        rt = Runtime.start(os.environ)
        hp, preset, given = settings_from_env(os.environ, torch.cuda.is_available(), system)
        note = prepare_data(hp, given, rt)
        table = system.byte_table(hp.tokenizer_path, hp.vocab_size)
        val_T, table = evaluate.read_validation(hp.data_path, table)
        text = system.TrainingText(hp)
        run = Run(hp, preset, rt, sources, system.CODE)

    run.log(f"run:{run.folder} preset:{preset}")
    run.log("overrides " + (" ".join(f"{n.upper()}={v}" for n, v in given.items()) or "none"))
    run.log("hparams " + json.dumps(dataclasses.asdict(hp)), console=False)
    hashes = {name: hashlib.sha256(source).hexdigest() for name, source in sources.items()}
    for line in [*(f"source {n} sha256:{h}" for n, h in hashes.items()), *describe_machine(rt)]:
        run.log(line, console=False)
    run.log(note)
    run.log(f"data train_shards:{len(text.shards)} train_tokens:{text.num_blocks * text.seq_len}"
            f" holdout_tokens:{len(text.holdout_T)} val_tokens:{len(val_T)}")
    if rt.device.type == "cpu":
        run.log("no CUDA device: training in fp32 on the CPU")
    code_bytes = sum(len(source) for source in sources.values())
    if not run.artifact_path.exists():
        trainer = Trainer(hp, rt, run, text, system)
        run.log(f"model_params:{sum(p.numel() for p in trainer.model.parameters())}")
        if run.checkpoint_path.exists():
            trainer.load(run.checkpoint_path.read_bytes())
            run.drop_metrics_after(trainer.step)
            run.log(f"resumed step:{trainer.step} train_time:{1e3 * trainer.clock.seconds():.0f}ms")

        def validate(trainer: Trainer) -> None:
            score = trainer.score_blocks(val_T, table)
            run.log(f"step:{trainer.step}/{hp.iterations} val_loss:{score.loss:.4f}"
                    f" {table.metric}:{score.bpb:.4f}")
            run.metrics(step=trainer.step, val_loss=score.loss, **{table.metric: score.bpb})

        if trainer.exported is None:  # else it was killed between that choice and the artifact
            with plain_errors():
                trainer.rehearse(table)
            trainer.train(validate)
        trainer.finish(table, code_bytes)
        seconds, cap = trainer.clock.seconds(), hp.max_wallclock_seconds
        run.log(f"trained steps:{trainer.step} train_time:{1000 * seconds:.0f}ms"
                f" cap:{1000 * cap:.0f}ms")
        if 0 < cap < seconds:
            run.log(f"warning: training took {seconds:.1f} s, over MAX_WALLCLOCK_SECONDS={cap}")
        if rt.device.type == "cuda":
            run.log(f"peak memory allocated: {torch.cuda.max_memory_allocated() // 2**20} MiB"
                    f" reserved: {torch.cuda.max_memory_reserved() // 2**20} MiB")
    rt.broadcast(None)  # the artifact is on disk for every rank

    model_bytes = run.artifact_path.stat().st_size
    total = model_bytes + code_bytes
    run.log(f"artifact model_bytes:{model_bytes} code_bytes:{code_bytes} total_bytes:{total}"
            f" cap_bytes:{system.CAP_BYTES}")
    model, _ = system.load_artifact(run.artifact_path, rt.device, hp.compile)
    evaluate.score_and_log(
        model, val_T, table, seq_len=hp.train_seq_len, stride=hp.eval_stride,
        device=rt.device, rank=rt.rank, world_size=rt.world_size, log=run.log,
    )
    if rt.world_size > 1:
        dist.destroy_process_group()
    if total > system.CAP_BYTES:
        sys.exit(f"error: {total} bytes are over the cap of {system.CAP_BYTES}")


if __name__ == "__main__":
    main()
