"""Shared by all tests: one thread each, the toy data, built once, and weights for baselines,
and a small vocabulary in GPT-2's form."""

import json
import math
import os
import zlib
from pathlib import Path

import pytest
import torch

from data import gpt2_tokenizer
from data.prepare import build_toy
from tests.scoring_texts import train_tokenizer

# Spinning threads of several processes on few cores slow each other five times and more.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A folder with datasets/toy_sp1024 and tokenizers/toy_1024_bpe.model."""
    folder = tmp_path_factory.mktemp("toy")
    build_toy(folder)
    return folder


def golden(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights that the golden values of the baselines are for, of one parameter."""
    place = torch.arange(math.prod(shape), dtype=torch.float64)
    phase = 2 * math.pi * (zlib.crc32(name.encode()) % 1000) / 1000
    return (0.3 * torch.sin(0.7 * place + phase)).view(shape)


MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he"), ("Ã", "©"), ("Ċ", "Ċ")]


def write_vocabulary(folder: Path, merges=(), **changes) -> Path:
    """A small vocabulary in GPT-2's form: bytes, then merges, then the end of a text."""
    pieces = [*gpt2_tokenizer.byte_of_character(), *(a + b for a, b in merges), gpt2_tokenizer.END]
    ids = {piece: i for i, piece in enumerate(pieces)} | changes
    folder.mkdir(exist_ok=True)
    kept = {piece: i for piece, i in ids.items() if i is not None}
    (folder / "vocab.json").write_text(json.dumps(kept))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges))
    return folder


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory) -> dict[str, Path]:
    """Small identity tokenizers: one loses a first space when decoding, one keeps it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    keep = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
    inner = {**keep, "user_defined_symbols": ["<x▁y>", "q▁▁"], "split_by_whitespace": False}
    return {
        "prefix": train_tokenizer(folder, "prefix", remove_extra_whitespaces=False),
        "keep": train_tokenizer(folder, "keep", **keep),
        "inner": train_tokenizer(folder, "inner", **inner),
        "unknown": train_tokenizer(folder, "unknown", byte_fallback=False, vocab_size=60),
        "other_bos": train_tokenizer(folder, "other_bos", bos_id=2, eos_id=1),
    }
