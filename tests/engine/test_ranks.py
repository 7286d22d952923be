"""Ranks and the clock: in one process, and in two that talk by gloo."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend

from engine import ranks as ranks_module
from engine.ranks import (
    Clock,
    Ranks,
    attention_kernel,
    compute_dtype,
    prefer_attention_kernels,
)
from tests.tiny_runs import tiny

CPU = torch.device("cpu")
LATE_SECONDS = 0.5  # by which the second process comes later


def without_cuda(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def refuse(message: str, error=ValueError):
    raise error(message)


def message_of(call) -> str:
    """What the ValueError or OSError of a call says."""
    try:
        call()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def test_one_process_is_the_first_and_keeps_its_values(monkeypatch):
    """Without torchrun there is one rank: nothing is sent, and no process group is needed."""
    without_cuda(monkeypatch)
    ranks = Ranks.start({})
    assert ranks == Ranks() == Ranks(0, 1, CPU)
    assert ranks.is_first
    value = object()
    assert ranks.broadcast(value) is value
    assert ranks.broadcast_float(0.1) == 0.1
    assert ranks.broadcast_bytes(b"ab") == b"ab"
    assert ranks.first(lambda: value) is ranks.each(lambda: value) is value
    assert ranks.gather(value) == [value]
    assert ranks.any(True) and not ranks.any(False)
    ranks.require_same("text", b"ab")
    with pytest.raises(ValueError, match="one"):
        ranks.first(lambda: refuse("one"))
    with pytest.raises(OSError, match="two"):
        ranks.each(lambda: refuse("two", OSError))
    ranks.wait()
    ranks.synchronize()
    ranks.leave()
    assert not dist.is_initialized()


@pytest.mark.parametrize("world_size", ["0", "-1"])
def test_unsupported_numbers_of_processes_are_refused(world_size):
    """The variable, its value and the least are named; there is no most: nodes can be many."""
    with pytest.raises(ValueError, match=f"WORLD_SIZE={world_size} must be at least 1"):
        Ranks.start({"WORLD_SIZE": world_size, "RANK": "0"})


def test_only_rank_0_is_the_first():
    """Only rank 0 writes and prints."""
    assert [Ranks(rank, 3).is_first for rank in range(3)] == [True, False, False]


def test_the_first_of_a_node_writes_what_the_node_needs():
    """Ranks 0 to 3 on two nodes of two."""
    ranks = [Ranks(rank, 4, local_rank=rank % 2) for rank in range(4)]
    assert [rank.is_first_of_node for rank in ranks] == [True, False, True, False]


def test_products_are_in_bf16_where_that_is_fast(monkeypatch):
    """On CUDA always, on a CPU where the step is compiled and bf16 is the faster one."""
    assert compute_dtype(torch.device("cuda", 0)) is torch.bfloat16
    for is_fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("engine.ranks.bf16_is_fast", lambda value=is_fast: value)
        assert compute_dtype(CPU, is_compiled=True) is dtype
        assert compute_dtype(CPU) is torch.float32


def meet(rank: int, folder: str, port: int) -> None:
    """One of two processes: write the values that it got from the first, and if it waited."""
    torch.set_num_threads(1)
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # a machine may have one GPU, too few for two
    # The variables that torchrun sets; init_process_group reads them too.
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank)}
    ranks = Ranks.start(os.environ)
    record = {
        "rank": ranks.rank,
        "world_size": ranks.world_size,
        "is_first": ranks.is_first,
        "broadcast": ranks.broadcast({"name": ["run", rank]}),
        "float": ranks.broadcast_float(rank + 0.1),
        "bytes": list(ranks.broadcast_bytes(bytes([rank, 7]) if rank == 0 else b"")),
        "no bytes": list(ranks.broadcast_bytes(b"")),
        "gathered": ranks.gather(f"rank {rank}"),
        "any": [ranks.any(rank == 1), ranks.any(False)],
        "first": ranks.first(lambda: rank),
        "each": ranks.each(lambda: rank),
        # A fault of one rank reaches both, so that neither waits for the other.
        "fault of the first": message_of(lambda: ranks.first(lambda: refuse(f"of {rank}"))),
        "fault of one": message_of(lambda: ranks.each(lambda: refuse("of 1") if rank else 0)),
        "same": message_of(lambda: ranks.require_same("text", b"ab", np.arange(3))),
        "other": message_of(lambda: ranks.require_same("text", np.arange(3 + rank))),
    }
    arrived = Path(folder, "arrived")
    if rank == 1:
        time.sleep(LATE_SECONDS)
        arrived.touch()
    ranks.wait()
    record["all_arrived"] = arrived.exists()
    Path(folder, f"{rank}.json").write_text(json.dumps(record))
    ranks.wait()
    ranks.leave()
    os._exit(0)  # a thread of gloo's once outlived the interpreter, and aborted it


def test_two_processes_share_the_values_of_the_first(tmp_path):
    """Objects and numbers are rank 0's on both, to the last bit; wait lets no rank go ahead."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store  # the port is free again
    torch.multiprocessing.spawn(meet, (str(tmp_path), port), nprocs=2)
    records = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for rank, record in enumerate(records):
        assert record == {
            "rank": rank,
            "world_size": 2,
            "is_first": rank == 0,
            "broadcast": {"name": ["run", 0]},
            "float": 0.1,
            "bytes": [0, 7],
            "no bytes": [],
            "gathered": ["rank 0", "rank 1"],
            "any": [True, False],
            "first": 0,
            "each": rank,
            "fault of the first": "of 0",
            "fault of one": "of 1",
            "same": "",
            "other": "rank 1 has other text than rank 0; copy the same sources and shards to every"
            " node",
            "all_arrived": True,
        }


@pytest.fixture
def watch(monkeypatch):
    """A time that moves only when the test moves it: call it with seconds."""
    now = [100.0]
    monkeypatch.setattr(ranks_module.time, "perf_counter", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_clock_counts_from_run_to_pause(watch):
    """Time before the first run and during pauses does not count."""
    clock = Clock(Ranks())
    watch(5.0)
    assert clock.seconds() == 0.0
    clock.run()
    watch(2.0)
    assert clock.seconds() == 2.0
    clock.pause()
    watch(7.0)
    assert clock.seconds() == 2.0
    clock.run()
    watch(1.5)
    assert clock.seconds() == 3.5


def test_clock_goes_on_from_a_checkpoint(watch):
    """A resumed run begins with the seconds of the first part."""
    clock = Clock(Ranks(), seconds=40.0)
    watch(3.0)
    assert clock.seconds() == 40.0
    clock.run()
    watch(2.0)
    assert clock.seconds() == 42.0


def test_running_or_pausing_twice_changes_nothing(watch):
    """The clock neither starts again nor counts a span twice."""
    clock = Clock(Ranks())
    clock.run()
    watch(1.0)
    clock.run()
    watch(1.0)
    clock.pause()
    watch(1.0)
    clock.pause()
    assert clock.seconds() == 2.0


def test_attention_prefers_cudnn_while_a_run_trains():
    """The order is ours within the context, and torch's own again after it."""
    before = torch._C._get_sdp_priority_order()
    with prefer_attention_kernels():
        first, second, *_ = torch._C._get_sdp_priority_order()
        assert SDPBackend(first) == SDPBackend.CUDNN_ATTENTION
        assert SDPBackend(second) == SDPBackend.FLASH_ATTENTION
    assert torch._C._get_sdp_priority_order() == before


def test_the_kernel_of_attention_is_the_one_that_torch_takes(monkeypatch):
    """A CPU has a flash kernel and none of cuDNN; a kernel that is not allowed is not named."""
    assert attention_kernel(tiny(), CPU, torch.float32) == "FLASH_ATTENTION"
    monkeypatch.setattr(ranks_module, "ATTENTION_KERNELS", ["MATH"])
    assert attention_kernel(tiny(), CPU, torch.float32) == "MATH"
