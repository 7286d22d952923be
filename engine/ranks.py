"""This process among those of a run: its rank, its device, what it shares, and the clock.

The ranks may be on several machines (nodes) without a common disk. So what a file decides, rank 0
reads and tells: whether there is a checkpoint, what it holds, which settings the run began with.
"""

import functools
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

# Kernels of attention in the order of preference. By its bytes and products, PR #334's step of
# 524,288 tokens on an H100 takes 92 ms in cuDNN's and 133 in FlashAttention-2; not measured.
ATTENTION_KERNELS = ["CUDNN_ATTENTION", "FLASH_ATTENTION", "EFFICIENT_ATTENTION", "MATH"]


@dataclass(frozen=True)
class Ranks:
    """This process among its ranks, and the device it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")
    local_rank: int = 0  # among those of this node

    @classmethod
    def start(cls, environ, device_type: str | None = None) -> "Ranks":
        """Read torchrun's variables (absent: one process) and join the process group.

        device_type is "cpu" or "cuda"; without it CUDA is taken where it is available.
        Raises: ValueError for a number of processes that is not supported.
        """
        world_size = int(environ.get("WORLD_SIZE", 1))
        local_rank = int(environ.get("LOCAL_RANK", 0))
        if world_size < 1:
            raise ValueError(f"WORLD_SIZE={world_size} must be at least 1")
        device_type = device_type or ("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device("cpu")
        if device_type == "cuda":
            device = torch.device("cuda", local_rank)
            torch.cuda.set_device(device)
        if world_size > 1:
            # gloo beside nccl: the clock is agreed on the CPU, without waiting for the GPU.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend)
        return cls(int(environ.get("RANK", 0)), world_size, device, local_rank)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

    @property
    def is_first_of_node(self) -> bool:
        """Whether this process is the one that writes what each node needs on its own disk."""
        return self.local_rank == 0

    def first(self, read: Callable):
        """What read() returns on rank 0, on every rank.

        Raises: on every rank the ValueError or OSError that it raises on rank 0; without this the
        others would wait for it.
        """
        value, error = outcome(read) if self.is_first else (None, None)
        value, error = self.broadcast((value, error))
        if error is not None:
            raise error
        return value

    def each(self, read: Callable):
        """What read() returns on this rank, once it has returned on every rank.

        Raises: on every rank the first ValueError or OSError that it raises on any.
        """
        value, error = outcome(read)
        for error_of_rank in self.gather(error):
            if error_of_rank is not None:
                raise error_of_rank
        return value

    def require_same(self, name: str, *parts) -> None:
        """Raises: ValueError where the parts, each bytes or an array, differ from rank to rank.

        Each node reads its own disk. Two that differ would train one model on two texts or by two
        recipes, and nothing would show it.
        """
        if self.world_size == 1:
            return
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
        digests = self.gather(digest.hexdigest())
        for rank, digest_of_rank in enumerate(digests):
            if digest_of_rank != digests[0]:
                raise ValueError(
                    f"rank {rank} has other {name} than rank 0; copy the same sources and shards"
                    " to every node"
                )

    def broadcast(self, value):
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def broadcast_float(self, value: float) -> float:
        """Rank 0's number, on every rank; cheap enough for every step."""
        box = torch.tensor(value, dtype=torch.float64)
        if self.world_size > 1:
            dist.broadcast(box, src=0)
        return box.item()

    def broadcast_bytes(self, blob: bytes) -> bytes:
        """Rank 0's bytes, on every rank, without the copies that pickling makes of a checkpoint."""
        if self.world_size == 1:
            return blob
        count = self.broadcast(len(blob))
        numbers = torch.empty(count, dtype=torch.uint8)
        if self.is_first and count:
            numbers.copy_(torch.frombuffer(bytearray(blob), dtype=torch.uint8))
        dist.broadcast(numbers, src=0)
        return numbers.numpy().tobytes()

    def gather(self, value) -> list:
        """Every rank's value, in the order of the ranks, on every rank."""
        if self.world_size == 1:
            return [value]
        values = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is true on any rank; cheap enough for every step."""
        box = torch.tensor(float(flag))
        if self.world_size > 1:
            dist.all_reduce(box, op=dist.ReduceOp.MAX)
        return bool(box.item())

    def wait(self) -> None:
        """Wait until every rank is here."""
        # A broadcast promises no wait to its sender, and dist.barrier goes through the GPU.
        if self.world_size > 1:
            dist.all_reduce(torch.zeros(()))

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def leave(self) -> None:
        """End the process group."""
        if self.world_size > 1:
            dist.destroy_process_group()


def outcome(read: Callable) -> tuple:
    """(what read() returns, None), or (None, the ValueError or OSError that it raises)."""
    try:
        return read(), None
    except (ValueError, OSError) as error:
        return None, error


def compute_dtype(device: torch.device, is_compiled: bool = False) -> torch.dtype:
    """bf16 on CUDA, and compiled on a CPU that is fast in it; else fp32.

    With AVX512-BF16 products take a quarter of the time (450 GFLOP/s a core for 105 in fp32), but
    what lies between them is slower than in fp32 unless it is compiled: the smoke model's step of
    335 ms for 243 as it is, of 83 for 155 compiled and 96 wide (n = 1).
    """
    if device.type == "cuda" or (is_compiled and bf16_is_fast()):
        return torch.bfloat16
    return torch.float32


@functools.cache
def bf16_is_fast() -> bool:
    """Whether this CPU multiplies in bf16 in at most half the time of fp32, as timed now."""
    seconds = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(1024, 128, dtype=dtype)
        b = torch.ones(256, 128, dtype=dtype)
        times = []
        for _ in range(10):
            started = time.perf_counter()
            F.linear(a, b)
            times.append(time.perf_counter() - started)
        seconds[dtype] = min(times)
    return seconds[torch.bfloat16] <= seconds[torch.float32] / 2


def prefer_attention_kernels():
    """A context in which attention takes the first of ATTENTION_KERNELS that can do it."""
    return sdpa_kernel([getattr(SDPBackend, name) for name in ATTENTION_KERNELS], set_priority=True)


def attention_kernel(settings, device: torch.device, dtype: torch.dtype) -> str:
    """The kernel that attention in the model's shapes takes there, by its name in SDPBackend."""
    H = settings.num_heads
    E = settings.model_dim // H
    T = settings.train_seq_len
    q_BHTE = torch.empty(1, H, T, E, device=device, dtype=dtype, requires_grad=True)
    k_BGTE = q_BHTE[:, : getattr(settings, "num_kv_heads", H)]
    with prefer_attention_kernels():
        # torch asks this itself at every call, and tells nobody.
        choice = torch._fused_sdp_choice(q_BHTE, k_BGTE, k_BGTE, is_causal=True, enable_gqa=True)
    return SDPBackend(choice).name


class Clock:
    """Training seconds: all from the first step to the artifact on disk, but for the pauses."""

    def __init__(self, ranks: Ranks, seconds: float = 0.0):
        self.ranks = ranks
        self.banked = seconds
        self.since: float | None = None  # None while paused

    def run(self) -> None:
        self.ranks.synchronize()
        if self.since is None:
            self.since = time.perf_counter()

    def pause(self) -> None:
        self.ranks.synchronize()
        self.banked = self.seconds()
        self.since = None

    def seconds(self) -> float:
        if self.since is None:
            return self.banked
        return self.banked + time.perf_counter() - self.since
