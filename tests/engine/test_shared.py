"""Ranks that choose points together: the bytes of one rank, faults told, a share for each."""

import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest
import torch

import quantize
from codec.gptq import Matrices
from engine.ranks import Ranks
from engine.shared import Shared, help, shares
from tests.codec.test_rows import gaussian

SHAPES = [(300, 24), (24, 24), (24, 24), (40, 16), (0, 5), (24, 16)]


def packed(prepare, broken: bool = False) -> bytes:
    """A small state packed to a size, its Hessians measured on inputs that are unlike."""
    state = {f"w{i}": gaussian(R, C, seed=i) for i, (R, C) in enumerate(SHAPES)}
    hessians = {}
    for name, weight in state.items():
        inputs_NC = gaussian(50, weight.shape[1], seed=1) * (1 + torch.arange(weight.shape[1]))
        hessians[name] = inputs_NC.T @ inputs_NC
    if broken:
        hessians["w4"] = -torch.eye(5)
        hessians["w3"] = -torch.eye(16)
    return quantize.encode_trellis(state, hessians, {}, 6_000, prepare=prepare)


def pack_with_others(rank: int, world_size: int, folder: str, port: int) -> None:
    """One of several processes: the first packs, the others help; twice, the second in vain."""
    torch.set_num_threads(1)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ |= {"WORLD_SIZE": str(world_size), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    ranks = Ranks.start(os.environ, "cpu")
    if rank:
        help(ranks)
        help(ranks)
    else:
        prepare = partial(Shared, ranks=ranks)
        Path(folder, f"{world_size}.pgz").write_bytes(packed(prepare))
        ranks.broadcast(None)
        try:
            packed(prepare, broken=True)
        except ValueError as error:
            Path(folder, f"{world_size}.json").write_text(json.dumps(str(error)))
        ranks.broadcast(None)
    ranks.wait()
    ranks.leave()
    os._exit(0)  # a thread of gloo's once outlived the interpreter, and aborted it


@pytest.mark.parametrize("world_size", [2, 3])
def test_bytes_do_not_depend_on_ranks(tmp_path, world_size):
    """Two and three processes that talk by gloo write what one does; a fault reaches the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = world_size, str(tmp_path), port
    torch.multiprocessing.spawn(pack_with_others, arguments, nprocs=world_size)
    assert (tmp_path / f"{world_size}.pgz").read_bytes() == packed(Matrices)
    assert "no sum of squares" in json.loads((tmp_path / f"{world_size}.json").read_text())


def test_one_rank_alone_shares_with_nobody():
    """The same bytes, and no process group."""
    assert packed(partial(Shared, ranks=Ranks())) == packed(Matrices)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_every_matrix_has_one_rank(ranks):
    """Each is in one share, and what is quantised side by side is divided only if it is large."""
    shapes = [(512, 512)] * 22 + [(512, 2048)] * 22 + [(8192, 256)] * 20 + [(0, 5), (5, 512)]
    owned = shares(shapes, ranks)
    assert len(owned) == ranks
    assert sorted(i for share in owned for i in share) == list(range(len(shapes)))
    rank_of = {i: rank for rank, share in enumerate(owned) for i in share}
    assert len({rank_of[i] for i in range(22, 44)}) == 1  # 44 paths of 2048 columns
    assert (len({rank_of[i] for i in range(44, 64)}) > 1) == (ranks > 2)  # 640 of 256
    example = [(512, 2048), (512, 2048), (512, 512), (256, 512)]
    assert shares(example, 2) == [[0, 1], [2, 3]]
