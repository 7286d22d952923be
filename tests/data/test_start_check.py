"""The check at every start of training: what it refuses, and what it costs."""

import os
import time

import numpy as np
import pytest

import train_gpt
from data import files, prepare
from data.start_check import check_start
from engine.shards import SHARD_MAGIC, SHARD_VERSION, read_shard, write_shard
from engine.text import TrainingText
from tests.data.conftest import assert_matches, faults_of, make_folder


def test_a_training_shard_without_bos(models, tmp_path, start_training):
    """One training shard in which no document starts is named, the others being right."""
    folder = make_folder(tmp_path / "x", models)
    (folder / "manifest.json").unlink()
    path = folder / "x_train_000001.bin"
    tokens_T = np.array(read_shard(path))
    write_shard(path, tokens_T[tokens_T != 1])
    assert_matches("x_train_000001.bin has no document start, BOS=1", start_training(folder))


def test_a_copied_folder_is_hashed_again_until_verified(models, tmp_path, monkeypatch):
    """Files with another time are hashed at every start, until `verify` has seen them."""
    folder, hashed = make_folder(tmp_path / "x", models), []
    digest = files.hashlib.file_digest
    monkeypatch.setattr(
        files.hashlib, "file_digest", lambda f, n: hashed.append(f.name) or digest(f, n)
    )

    def shards_hashed() -> int:
        hashed.clear()
        check_start(folder, folder / "tokenizer.model", 300)
        return sum(str(name).endswith(".bin") for name in hashed)

    assert shards_hashed() == 0
    for path in folder.glob("*.bin"):
        os.utime(path, (1, 1))
    assert shards_hashed() == 4
    assert not faults_of(folder)
    assert shards_hashed() == 0


def sparse_shards(folder, count: int, tokens: int) -> None:
    """Shards as large as published ones, of which only the head takes room on disk."""
    head = np.zeros(20_000, np.uint16)
    head[::500] = 1
    for split, number in [("val", 0), *(("train", i) for i in range(count))]:
        path = folder / f"x_{split}_{number:06d}.bin"
        size = tokens if split == "train" else 10_000_000
        head[1::500] = number + (split == "train") + 2
        header = np.zeros(256, "<i4")
        header[:3] = SHARD_MAGIC, SHARD_VERSION, size
        path.write_bytes(header.tobytes() + head.tobytes())
        os.truncate(path, 1024 + 2 * size)


@pytest.mark.slow  # a benchmark: it measures time
def test_a_hundred_large_shards_open_at_once(models, tmp_path):
    """Start-up over 100 shards of 100 M tokens is a matter of two seconds, not of their size."""
    sparse_shards(tmp_path, 100, 100_000_000)
    (tmp_path / "tokenizer.model").write_bytes(models["plain"])
    started = time.perf_counter()
    hp = train_gpt.Settings(data_path=str(tmp_path), vocab_size=300)
    check_start(tmp_path, tmp_path / "tokenizer.model", 300)
    TrainingText(hp)
    assert time.perf_counter() - started < 8  # 1 s is measured; the machine may be busy


@pytest.mark.slow  # a benchmark: it measures time
def test_feeding_costs_little(models, tmp_path):
    """A tenth of a core feeds 1.5 M tokens a second from shards that are not in memory."""
    sparse_shards(tmp_path, 20, 100_000_000)
    hp = train_gpt.Settings(data_path=str(tmp_path), vocab_size=300)
    text, tokens = TrainingText(hp), 512 * hp.train_seq_len
    started = time.process_time()
    for step in range(3):
        text.rows(step * 512, 512)
    assert time.process_time() - started < 0.1 * 3 * tokens / 1.5e6


def test_the_start_check_names_what_it_lacks(models, tmp_path, capsys):
    """Without a tokenizer it says so, instead of ending in a traceback; with it, a line."""
    folder = make_folder(tmp_path / "x", models)
    assert prepare.main(["verify", str(folder), "--start", "300"]) == 1
    assert "add --tokenizer FILE" in capsys.readouterr().err
    options = ["--tokenizer", str(folder / "tokenizer.model"), "--start", "300"]
    assert prepare.main(["verify", str(folder), *options]) == 0
    assert "data verified source:made up" in capsys.readouterr().out
