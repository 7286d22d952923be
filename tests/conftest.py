"""Shared by all tests: one thread each, and the toy data, built once."""

import os
from pathlib import Path

import pytest
import torch

from data.prepare import build_toy

# Spinning threads of several processes on few cores slow each other five times and more.
torch.set_num_threads(1)
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """A folder with datasets/toy_sp1024 and tokenizers/toy_1024_bpe.model."""
    folder = tmp_path_factory.mktemp("toy")
    build_toy(folder)
    return folder
