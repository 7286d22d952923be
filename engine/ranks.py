"""This process among those of a run: its rank, its device, what it shares, and the clock."""

import time
from dataclasses import dataclass

import torch
import torch.distributed as dist

MOST_RANKS = 8  # one machine; several do not share a disk, which checkpoints still need


@dataclass(frozen=True)
class Ranks:
    """This process among its ranks, and the device it computes on."""

    rank: int = 0
    world_size: int = 1
    device: torch.device = torch.device("cpu")

    @classmethod
    def start(cls, environ, device_type: str | None = None) -> "Ranks":
        """Read torchrun's variables (absent: one process) and join the process group.

        device_type is "cpu" or "cuda"; without it CUDA is taken where it is available.
        Raises: ValueError for a number of processes that is not supported.
        """
        world_size = int(environ.get("WORLD_SIZE", 1))
        if not 1 <= world_size <= MOST_RANKS:
            raise ValueError(f"WORLD_SIZE={world_size} must be between 1 and {MOST_RANKS}")
        device_type = device_type or ("cuda" if torch.cuda.is_available() else "cpu")
        device = torch.device("cpu")
        if device_type == "cuda":
            device = torch.device("cuda", int(environ.get("LOCAL_RANK", 0)))
            torch.cuda.set_device(device)
        if world_size > 1:
            # gloo beside nccl: the clock is agreed on the CPU, without waiting for the GPU.
            backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
            dist.init_process_group(backend)
        return cls(int(environ.get("RANK", 0)), world_size, device)

    @property
    def is_first(self) -> bool:
        """Whether this process is the one that writes and prints."""
        return self.rank == 0

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


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 on CUDA; fp32 on a CPU, where bf16 is two to three times slower."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


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
