"""Runs so small that tests can have many: settings, models, text, processes."""

import contextlib
import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

import evaluate
import train_gpt
from engine.ranks import Ranks
from engine.recipe import Recipe
from engine.run_folder import RunFolder
from engine.settings import Choice
from engine.shards import write_shard
from engine.trainer import Trainer

ROOT = Path(__file__).parents[1]
CPU = Ranks()
TINY = dict(
    max_wallclock_seconds=0.0,
    iterations=12,
    train_batch_tokens=256,
    micro_batch_tokens=256,
    train_seq_len=32,
    warmup_steps=1,
    val_loss_every=0,
    train_log_every=1,
    checkpoint_seconds=0.05,
    eval_stride=32,
    compile=False,
    num_layers=3,
    model_dim=16,
    num_heads=2,
    num_kv_heads=1,
    mlp_mult=2,
    rope_dims=4,
    muon_momentum_warmup_steps=5,
)


def tiny(**changes) -> train_gpt.Settings:
    return train_gpt.Settings(**{**TINY, **changes})


def tiny_model(seed: int = 0, **changes) -> train_gpt.GPT:
    """A model whose output projections are not zero, so that every path shows in the logits."""
    model = train_gpt.GPT(tiny(**changes), torch.float32).init_weights(seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.2)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random tokens_BT without a document start."""
    return torch.randint(2, 1024, (rows, length), generator=torch.Generator().manual_seed(seed))


def plain_table(vocab_size: int = 1024) -> evaluate.ByteTable:
    """A table in which every token is one byte."""
    no_V = np.zeros(vocab_size, bool)
    return evaluate.ByteTable(np.ones(vocab_size, np.int64), no_V, no_V)


def write_shards(folder: Path, lengths: list[int], val: int = 200) -> Path:
    """Training shards whose tokens all differ, so that a block is known by its first token."""
    start = 2
    for i, length in enumerate(lengths):
        write_shard(folder / f"t_train_{i:06d}.bin", np.arange(start, start + length))
        start += length
    write_shard(folder / "t_val_000000.bin", np.arange(60_000, 60_000 + val))
    return folder


# In this process ----------------------------------------------------------------------------------


def toy_paths(toy: Path) -> dict[str, str]:
    return {
        "data_path": str(toy / "datasets/toy_sp1024"),
        "tokenizer_path": str(toy / "tokenizers/toy_1024_bpe.model"),
    }


def trainer_on(toy: Path, folder: Path, monkeypatch, recipe=train_gpt.RECIPE, **changes) -> Trainer:
    """A trainer in this process, writing below a folder."""
    monkeypatch.chdir(folder)
    settings = recipe.Settings(**{**TINY, **toy_paths(toy), **changes})
    choice = Choice(settings, "smoke", "as asked", {})
    run = RunFolder(recipe.name, choice, CPU, {})
    table = recipe.byte_table(settings.tokenizer_path, settings.vocab_size)
    return Trainer(recipe, settings, CPU, run, recipe.text(settings), table)


# In another process -------------------------------------------------------------------------------


def environment(toy: Path, **settings) -> dict:
    """What a user sets for a run of TINY on the toy text."""
    own = {
        name.upper(): str(int(value) if isinstance(value, bool) else value)
        for name, value in {**TINY, **toy_paths(toy), **settings}.items()
    }
    kept = {n: os.environ[n] for n in ("PATH", "HOME", "LD_LIBRARY_PATH") if n in os.environ}
    return {**kept, **own, "PRESET": "smoke", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(folder: Path, env: dict, ranks: int = 1) -> subprocess.Popen:
    launcher = []
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    return subprocess.Popen(
        [sys.executable, *launcher, str(ROOT / "train_gpt.py")],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder: Path, env: dict, ranks: int = 1) -> str:
    process = start(folder, env, ranks)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    return output


def final_line(output: str) -> str:
    last = [line for line in output.splitlines() if line.startswith("final ")][-1]
    return last.split(" eval_time")[0]


def losses(folder: Path) -> list[float]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["train_loss"] for line in lines]


# Runs of the reference systems of baselines/, in this process.

BASELINE = dict(
    vocab_size=1024,
    num_layers=2,
    model_dim=32,
    num_heads=2,
    num_kv_heads=1,
    train_seq_len=32,
    train_batch_tokens=256,
    micro_batch_tokens=256,
    iterations=6,
    warmup_steps=1,
    val_loss_every=0,
    train_log_every=1,
    checkpoint_seconds=0.0,
    eval_stride=32,
    compile=False,
    lr_warmup_steps=2,
    lr_decay_steps=6,
    peak_lr=3e-3,
)


def tiny_fields(recipe: Recipe) -> dict:
    """Those of BASELINE that the recipe reads."""
    own = {field.name for field in dataclasses.fields(recipe.Settings)}
    return {name: value for name, value in BASELINE.items() if name in own}


def as_variables(settings: dict) -> dict[str, str]:
    """Settings as environment variables."""
    texts = {}
    for name, value in settings.items():
        texts[name.upper()] = str(int(value)) if isinstance(value, bool) else str(value)
    return texts


@contextlib.contextmanager
def variables(monkeypatch, settings: dict):
    """The settings as variables, with nothing else that a recipe reads."""
    with monkeypatch.context() as patch:
        for name, text in as_variables(settings).items():
            patch.setenv(name, text)
        yield


def run_small(recipe: Recipe, toy: Path, folder: Path, monkeypatch, **changes) -> Path:
    """Run a recipe's file as the command would, in this process; returns the run's folder."""
    monkeypatch.chdir(folder)
    settings = {**tiny_fields(recipe), **toy_paths(toy), "run_id": "run", **changes}
    with variables(monkeypatch, settings):
        runpy.run_path(str(ROOT / f"{recipe.name.replace('.', '/')}.py"), run_name="__main__")
    return folder / "logs/run"
