"""The trainer: settings, model, optimizer, schedule, averages, data order, runs that are killed."""

import dataclasses
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import evaluate
import quantize
import train_gpt
from tools.submission import bundle
from train_gpt import GPT, Hyperparameters, Runtime

ROOT = Path(__file__).parents[1]
CPU = Runtime(rank=0, world_size=1, device=torch.device("cpu"))
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
    bigram_vocab_size=64,
    bigram_dim=8,
    muon_momentum_warmup_steps=5,
)


def tiny(**changes) -> Hyperparameters:
    return Hyperparameters(**{**TINY, **changes})


def tiny_model(seed: int = 0, **changes) -> GPT:
    """A model whose output projections are not zero, so that every path shows in the logits."""
    model = GPT(tiny(**changes), torch.float32).init_weights(seed)
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.2)
    return model


def tokens(rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random tokens_BT without a document start."""
    return torch.randint(2, 1024, (rows, length), generator=torch.Generator().manual_seed(seed))


# Settings


def from_env(has_cuda=False, **environ):
    return train_gpt.settings_from_env(environ, has_cuda)


def test_preset_follows_the_device_and_says_why():
    """Without CUDA the small preset, with CUDA the recipe; PRESET decides where it is set."""
    assert from_env()[1].startswith("smoke (default without CUDA")
    assert from_env(has_cuda=True)[0] == Hyperparameters()
    assert from_env(PRESET="pr334")[0] == Hyperparameters()
    with pytest.raises(ValueError, match="PRESET='big' must be one of pr334, smoke"):
        from_env(PRESET="big")


def test_values_are_parsed_by_the_type_of_their_field():
    """Numbers and 0/1 are converted, and a bad one names the variable and what it should be."""
    hp, _, given = from_env(SEED="42", MATRIX_LR="0.03", COMPILE="0", HOME="/", PATH="/bin")
    assert (hp.seed, hp.matrix_lr, hp.compile) == (42, 0.03, False)
    assert given == {"seed": 42, "matrix_lr": 0.03, "compile": False}
    for name, bad in [("SEED", "1.5"), ("MATRIX_LR", "x"), ("EMA_FRAC", "nan"), ("COMPILE", "2")]:
        with pytest.raises(ValueError, match=f"{name}='{bad}' must be"):
            from_env(**{name: bad})


@pytest.mark.parametrize(
    "name, meant",
    [
        ("MATRX_LR", "MATRIX_LR"),
        ("SEQ_LEN", "TRAIN_SEQ_LEN"),
        ("ITERATION", "ITERATIONS"),
        ("WARMDOWN_ITERS", "WARMDOWN_FRAC"),
        ("EMA_DECAY", "EMA_FRAC"),
    ],
)
def test_a_name_that_is_nearly_a_setting_is_refused(name, meant):
    """A typing mistake or a setting of another script stops the run and names the right one."""
    with pytest.raises(ValueError, match=f"{name} is set but .*{meant}"):
        from_env(**{name: "1"})


@pytest.mark.parametrize(
    "changes, message",
    [(dict(train_batch_tokens=99), "TRAIN_BATCH_TOKENS=99 must be a multiple of TRAIN_SEQ_LEN=32"),
     (dict(model_dim=15), "MODEL_DIM=15 must be a multiple of NUM_HEADS=2"),
     (dict(num_kv_heads=3), "NUM_KV_HEADS=3 must be a divisor of NUM_HEADS=2"),
     (dict(rope_dims=3), "ROPE_DIMS=3 must be even"), (dict(min_lr=2.0), "MIN_LR=2.0 must be"),
     (dict(eval_stride=33), "EVAL_STRIDE=33 must be at most"), (dict(seed=-1), "SEED=-1 must be")],
)  # fmt: skip
def test_unusable_values_are_refused_by_name(changes, message):
    """The error says name, value and requirement before anything starts."""
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


# Model


def test_default_recipe_has_its_published_size():
    """Upstream PR #334 has exactly 26,666,073 parameters."""
    with torch.device("meta"):
        model = GPT(Hyperparameters(), torch.float32)
    assert sum(p.numel() for p in model.parameters()) == 26_666_073
    assert len(model.skip_weights) == 5
    products = 25_952_256 + 64 * 512 + 1024 * 512  # layers, bigram projection, head
    assert model.flops_per_token(1024) == 6 * products + 6 * 11 * 512 * 1024


def test_every_parameter_moves_within_three_steps():
    """No part of the model is dead; with bigram table and projection both zero, two never move."""
    model = GPT(tiny(), torch.float32).init_weights(0)
    optimizers = train_gpt.Optimizers(model, tiny(), CPU)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for step in range(3):
        model.loss(tokens(4, 33, seed=step)).div(128).backward()
        optimizers.step(step, progress=0.1)
    still = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert still == []


def test_logits_depend_on_the_past_only():
    """Changing token t leaves every logit before t as it was."""
    model, x = tiny_model(), tokens(1, 24)
    changed = x.clone()
    changed[0, 15] = (x[0, 15] + 7) % 1000 + 2
    moved = (model(x) - model(changed)).abs().amax(dim=(0, 2))
    assert moved[:15].max() == 0 and moved[15:].min() > 0


def test_smear_and_bigram_do_not_cross_a_document_start():
    """With attention switched off, a document's logits do not change with the document before."""
    model, x = tiny_model(), tokens(1, 24)
    for block in model.blocks:
        block.attn.proj.weight.data.zero_()
    x[0, 10] = evaluate.BOS_ID
    other = x.clone()
    other[0, :10] = tokens(1, 10, seed=1)
    assert torch.equal(model(x)[:, 10:], model(other)[:, 10:])
    # The same model does look one token back inside a document.
    other[0, 11] = (x[0, 11] + 7) % 1000 + 2
    assert not torch.equal(model(x)[:, 12], model(other)[:, 12])


def test_a_window_begins_without_a_previous_token():
    """What stands before a window is unknown, so its first position is not smeared with zeros."""
    model, x = tiny_model(), tokens(1, 8)
    before = model(x)
    model.smear.gate.data.fill_(5.0)
    assert torch.equal(model(x)[:, 0], before[:, 0])
    assert not torch.equal(model(x)[:, 1], before[:, 1])


def test_a_bigram_row_needs_a_previous_token():
    """A document's first token, and a window's, get the row kept for 'no previous token'."""
    model, x = tiny_model(), tokens(1, 8)
    x[0, 3] = evaluate.BOS_ID
    starts = x == evaluate.BOS_ID
    starts[:, 0] = True
    rows = model.bigram.rows(x, starts)
    last = model.bigram.table.num_embeddings - 1
    assert (rows == last).tolist() == starts.tolist()
    assert rows[0, 5] == (36313 * int(x[0, 5]) ^ 27191 * int(x[0, 4])) % last


def test_attention_equals_its_definition():
    """Grouped heads, RMS-normed q and k, partial rotation and gain, against loops in float64."""
    hp = tiny(num_heads=4, num_kv_heads=2, model_dim=32)
    attn, T, E = tiny_model(num_heads=4, num_kv_heads=2, model_dim=32).blocks[0].attn.double(), 7, 8
    x = torch.randn(1, T, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cos, sin = train_gpt.rotary_angles(T, hp.rope_dims, hp.rope_base, x)

    def turned(vector, t):
        vector = vector / (vector.square().mean() + torch.finfo(torch.float64).eps).sqrt()
        out = vector.clone()
        for i in range(hp.rope_dims // 2):
            angle = torch.tensor(t * hp.rope_base ** (-2 * i / hp.rope_dims), dtype=torch.float32)
            c, s, j = angle.cos().double(), angle.sin().double(), i + hp.rope_dims // 2
            out[i], out[j] = vector[i] * c - vector[j] * s, vector[i] * s + vector[j] * c
        return out

    heads = torch.zeros(T, 4, E, dtype=torch.float64)
    for h in range(4):
        q, k, v = (getattr(attn, n)(x)[0].view(T, -1, E) for n in "qkv")
        for t in range(T):
            score = [
                turned(q[t, h], t) * attn.q_gain[h] @ turned(k[u, h // 2], u) / E**0.5
                for u in range(t + 1)
            ]
            heads[t, h] = torch.stack(score).softmax(0) @ v[: t + 1, h // 2]
    expected = attn.proj(heads.reshape(1, T, 32))
    torch.testing.assert_close(attn(x, cos, sin), expected, rtol=1e-5, atol=1e-5)


def test_loss_is_the_mean_of_the_scorer():
    """The trainer's loss and evaluate.py agree on the same tokens."""
    model, x = tiny_model(), tokens(1, 33)
    table = evaluate.ByteTable(np.ones(1024, np.int64), np.zeros(1024, bool), np.zeros(1024, bool))
    score = evaluate.score_windows(
        model, x[0].numpy(), table, seq_len=32, stride=32, isolate=False, device="cpu"
    )
    assert score.loss == pytest.approx(model.loss(x).item() / 32, rel=1e-5)


def test_an_unknown_parameter_has_no_initial_value_by_accident():
    """init_weights raises on a parameter it has no rule for."""
    model = GPT(tiny(), torch.float32)
    model.extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(AssertionError, match="no rule for extra"):
        model.init_weights(0)


def test_initial_weights_are_as_described():
    """Orthogonal matrices, zero output projections, and the scale of the one that is not zero."""
    model = GPT(tiny(), torch.float32).init_weights(0)
    q, fc = model.blocks[1].attn.q.weight, model.blocks[1].mlp.fc.weight
    torch.testing.assert_close(q @ q.T, torch.eye(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(fc.T @ fc, torch.eye(16), atol=1e-5, rtol=0)
    assert not model.blocks[1].attn.proj.weight.any() and not model.blocks[1].mlp.proj.weight.any()
    singular = torch.linalg.svdvals(model.bigram.proj.weight)
    torch.testing.assert_close(singular, torch.full((8,), (2 * 3) ** -0.5), atol=1e-5, rtol=0)
    assert model.tok_emb.weight.std().item() == pytest.approx(0.005, rel=0.05)


# Optimizer, schedule, averages


def test_newton_schulz_approaches_the_polar_factor():
    """Singular values end near one and the directions are those of the SVD."""
    G = torch.randn(3, 24, 40, generator=torch.Generator().manual_seed(0))
    X = train_gpt.newton_schulz(G)
    U, S, Vh = torch.linalg.svd(X, full_matrices=False)
    assert S.max() < 1.25 and S.min() > 0.6
    polar = torch.linalg.svd(G, full_matrices=False)
    exact = polar.U @ polar.Vh
    assert F.cosine_similarity(X.flatten(1), exact.flatten(1)).min() > 0.97


def test_muon_agrees_with_torch():
    """Five steps of ours and of torch.optim.Muon (always bf16) end within 2 % of the movement."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(24, 40), (40, 24), (24, 24), (24, 40)]
    ours = [torch.nn.Parameter(torch.randn(s, generator=rng)) for s in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    start = [p.detach().clone() for p in ours]
    muon = train_gpt.Muon(ours, CPU)
    muon.param_groups[0].update(lr=0.02, momentum=0.95, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=rng)
            q.grad = p.grad.clone()
        muon.step()
        reference.step()
    for p, q, s in zip(ours, theirs, start, strict=True):
        assert (p - q).norm() < 0.02 * (q - s).norm()


def test_every_parameter_is_in_one_group():
    """The three groups are disjoint and cover the model; a parameter used twice is an error."""
    model = GPT(tiny(), torch.float32)
    groups = model.param_groups()
    assert len(groups["embedding"]) == 2 and len(groups["matrix"]) == 3 * 6 + 1
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    model.twice = train_gpt.Linear(4, 4)
    model.twice.weight = model.blocks[0].attn.q.weight
    with pytest.raises(AssertionError, match="not in exactly one group"):
        model.param_groups()


def test_schedule_rises_stays_and_falls_to_its_floor():
    """Up from a tenth within lr_warmup_frac, down over the last warmdown_frac, to min_lr."""
    hp = tiny(lr_warmup_frac=0.1, warmdown_frac=0.5, min_lr=0.2)
    scales = [train_gpt.lr_scale(p, hp) for p in (0.0, 0.05, 0.1, 0.5, 0.75, 1.0)]
    assert scales == pytest.approx([0.1, 0.55, 1.0, 1.0, 0.6, 0.2])
    flat = tiny(lr_warmup_frac=0.0, warmdown_frac=0.0)
    assert [train_gpt.lr_scale(p, flat) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]


def test_averages_are_what_they_are_called():
    """SWA is the mean over the last 40 %; EMA's horizon follows the run's length, not its steps."""
    for steps in (200, 2000):
        model = torch.nn.Linear(1, 1, bias=False)
        averages = train_gpt.Averages(model, tiny(ema_frac=0.02))
        for step in range(1, steps + 1):
            model.weight.data.fill_(step / steps)
            averages.update(step, step / steps)
        values = [s / steps for s in range(1, steps + 1) if s / steps >= 0.6]
        assert averages.swa["weight"].item() == pytest.approx(np.mean(values), abs=1e-5)
        # An exponential average of a ramp lags by its horizon: a fiftieth of the run.
        assert 1 - averages.ema["weight"].item() == pytest.approx(0.02, abs=0.006)


def test_gradient_clipping_bounds_what_adam_and_muon_see():
    """The norm that is returned is the one before clipping, and clipping can be off."""
    for limit, expected in ((0.5, 0.5), (0.0, None)):
        model = GPT(tiny(grad_clip_norm=limit), torch.float32).init_weights(0)
        optimizers = train_gpt.Optimizers(model, tiny(grad_clip_norm=limit), CPU)
        seen = []
        optimizers.muon.step = lambda seen=seen, model=model: seen.append(
            torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
        )
        model.loss(tokens(2, 33)).backward()
        before = optimizers.step(0, 0.5).item()
        assert before > 0.5
        assert seen[0] == pytest.approx(expected or before, rel=1e-3)


# Data


def shards(folder: Path, lengths: list[int], val: int = 200) -> Path:
    """Training shards whose tokens all differ, so that a block is known by its first token."""
    start = 2
    for i, length in enumerate(lengths):
        evaluate.write_shard(folder / f"t_train_{i:06d}.bin", np.arange(start, start + length))
        start += length
    evaluate.write_shard(folder / "t_val_000000.bin", np.arange(60_000, 60_000 + val))
    return folder


def test_an_epoch_visits_every_block_once(tmp_path):
    """Coprime stride: all blocks of all shards but the held-out ones, once, in a seeded order."""
    hp = tiny(data_path=str(shards(tmp_path, [2000, 1700, 1500])), vocab_size=65_536)
    text = train_gpt.TrainingText(hp)
    n = text.num_blocks
    assert n == 62 + 53 + 46 - 3 and len(text.holdout_T) == 3 * 32 + 1
    first = [int(row[0]) for row in text.rows(0, n)]
    assert len(set(first)) == n and first != sorted(first)
    assert all((row[1:] - row[:-1] == 1).all() for row in text.rows(0, n)), "a row left its shard"
    assert not set(first) & set(text.holdout_T[:-1].tolist())
    again = [int(row[0]) for row in text.rows(n, n)]
    assert set(again) == set(first) and again != first
    other = train_gpt.TrainingText(dataclasses.replace(hp, seed=7))
    assert [int(row[0]) for row in other.rows(0, n)] != first


@pytest.mark.parametrize("ranks", range(1, 9))
def test_ranks_share_each_batch_without_overlap(tmp_path, ranks):
    """For 1 to 8 ranks the rows of a step are the same rows, each on one rank."""
    hp = tiny(data_path=str(shards(tmp_path, [8000])), vocab_size=65_536, micro_batch_tokens=64)
    text = train_gpt.TrainingText(hp)
    for step in (0, 1, 40):
        dealt = []
        for rank in range(ranks):
            batches = train_gpt.Batches(text, hp, Runtime(rank, ranks, torch.device("cpu")))
            parts = batches.get(step)
            assert [p.shape for p in parts] == [
                p.shape for p in batches.made_up(torch.Generator(), hp.vocab_size)
            ]
            assert max(p.size(0) for p in parts) <= 2
            dealt += [row for part in parts for row in part.tolist()]
        assert dealt == text.rows(8 * step, 8).tolist()


def test_a_validation_shard_in_training_is_refused(tmp_path):
    """By path, and by content under another name; other shards of the same length pass."""
    shards(tmp_path, [2000, 300], val=300)
    train_gpt.TrainingText(tiny(data_path=str(tmp_path), vocab_size=65_536))
    copy = tmp_path / "t_train_000009.bin"
    copy.write_bytes((tmp_path / "t_val_000000.bin").read_bytes())
    with pytest.raises(ValueError, match="t_train_000009.bin is the validation .*t_val_000000"):
        train_gpt.TrainingText(tiny(data_path=str(tmp_path), vocab_size=65_536))
    copy.unlink()
    copy.symlink_to(tmp_path / "t_val_000000.bin")
    with pytest.raises(ValueError, match="is the validation shard"):
        train_gpt.TrainingText(tiny(data_path=str(tmp_path), vocab_size=65_536))


def test_a_system_counts_bytes_by_its_own_table(monkeypatch):
    """main asks the system that it trains, by path and size; what it refuses is one line."""

    def byte_table(path, vocab_size):
        raise ValueError(f"no table of {vocab_size} in {path}")

    system = SimpleNamespace(**{**vars(train_gpt), "byte_table": byte_table})
    monkeypatch.setattr(train_gpt, "prepare_data", lambda *given: "")
    monkeypatch.setenv("TOKENIZER_PATH", "some/folder")
    with pytest.raises(SystemExit, match="error: no table of 1024 in some/folder"):
        train_gpt.main(system)


def test_unfit_data_is_refused_by_the_tool_that_makes_it(tmp_path, toy):
    """A folder that data.prepare refuses ends the start with its message; a good one is noted."""
    rt, given = Runtime(0, 1, torch.device("cpu")), {"data_path": "given"}
    dataset, tokenizer = toy / "datasets/toy_sp1024", toy / "tokenizers/toy_1024_bpe.model"
    good = tiny(data_path=str(dataset), tokenizer_path=str(tokenizer))
    assert train_gpt.prepare_data(good, given, rt).startswith("data verified source:")
    with pytest.raises(ValueError, match=r"^no \*_train_\*.bin in .*; run: python -m data.prepare"):
        train_gpt.prepare_data(tiny(data_path=str(tmp_path)), given, rt)


def test_a_script_alone_says_that_nobody_checked_its_data(tmp_path, monkeypatch):
    """A packed record has no data/ beside it: it trains, and its log says what was not done."""
    monkeypatch.setattr(train_gpt, "__file__", str(tmp_path / "train_gpt.py"))
    note = train_gpt.prepare_data(tiny(data_path="x"), {}, Runtime(0, 1, torch.device("cpu")))
    assert note == "warning: x is not verified: no data/prepare.py beside train_gpt.py"


def test_shards_of_another_tokenizer_or_too_little_text_are_refused(tmp_path):
    """The error names the file and the setting that it does not fit."""
    shards(tmp_path, [4000])
    with pytest.raises(ValueError, match="holds token 4001, outside VOCAB_SIZE=1024"):
        train_gpt.TrainingText(tiny(data_path=str(tmp_path)))
    with pytest.raises(ValueError, match="at least 50 blocks of TRAIN_SEQ_LEN=128"):
        train_gpt.TrainingText(
            tiny(
                data_path=str(tmp_path),
                vocab_size=65_536,
                train_seq_len=128,
                train_batch_tokens=128,
                micro_batch_tokens=128,
            )
        )


# Runs


def environment(toy: Path, **settings) -> dict:
    """What a user sets for a run of TINY on the toy text."""
    ours = {
        name.upper(): str(int(v) if isinstance(v, bool) else v)
        for name, v in {**TINY, **settings}.items()
    }
    kept = {n: os.environ[n] for n in ("PATH", "HOME", "LD_LIBRARY_PATH") if n in os.environ}
    return {
        **kept,
        **ours,
        "PRESET": "smoke",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "DATA_PATH": str(toy / "datasets/toy_sp1024"),
        "TOKENIZER_PATH": str(toy / "tokenizers/toy_1024_bpe.model"),
    }


def start(folder: Path, env: dict, ranks: int = 1) -> subprocess.Popen:
    launcher = (
        []
        if ranks == 1
        else ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"]
    )
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


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A complete run of TINY: (folder it ran in, its console output)."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder, environment(toy, run_id="one"))


def test_a_run_leaves_everything_in_its_folder(finished):
    """Log, metrics, settings, sources as they ran, checkpoint, artifact; nothing elsewhere."""
    folder, output = finished
    assert [path.name for path in folder.iterdir()] == ["logs"]
    run_folder = folder / "logs" / "one"
    assert {path.name for path in run_folder.iterdir()} == {
        "train.log",
        "metrics.jsonl",
        "settings.json",
        *bundle.SOURCES,
        "checkpoint.pt",
        "artifact.pgz",
        ".lock",
    }
    for name in bundle.SOURCES:
        assert (run_folder / name).read_bytes() == (ROOT / name).read_bytes()
    log = (run_folder / "train.log").read_text()
    assert all(line in log for line in output.splitlines())
    for key in (
        "hparams {",
        "source train_gpt.py sha256:",
        "overrides ",
        "model_params:",
        "torch:",
        "average ",
        "artifact model_bytes:",
    ):
        assert key in log
    assert len(losses(run_folder)) == TINY["iterations"]


def test_the_score_is_that_of_the_bytes_on_disk(finished, toy):
    """evaluate.py in a fresh process repeats the run's final line to the last digit, twice."""
    folder, output = finished
    command = [sys.executable, str(ROOT / "evaluate.py"), "logs/one/artifact.pgz"]
    env = {**environment(toy), "PYTHONPATH": ""}
    lines = [
        final_line(
            subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(2)
    ]
    assert lines == [final_line(output)] * 2


def test_the_artifact_holds_the_chosen_average(finished):
    """The packed weights are those of the candidate with the lowest held-out loss."""
    folder, output = finished
    state = torch.load(folder / "logs/one/checkpoint.pt", weights_only=True)
    line = next(line for line in output.splitlines() if line.startswith("average "))
    fields = dict(part.split(":") for part in line.split()[1:])
    best = min(("raw", "ema", "swa"), key=lambda name: float(fields[f"{name}_loss"]))
    assert fields["exported"] == state["exported"] == best
    candidates = {"raw": state["model"], **state["averages"]}
    packed, _ = quantize.decode((folder / "logs/one/artifact.pgz").read_bytes())
    gains = [name for name, p in state["model"].items() if p.ndim < 2]  # stored as fp16

    def is_packed(weights):
        return all(torch.equal(packed[name], weights[name].half().float()) for name in gains)

    assert is_packed(candidates[best]) and not all(map(is_packed, candidates.values()))


def test_two_runs_never_share_a_folder(finished, toy):
    """The same RUN_ID again, or a second process in a run, is refused with what to do."""
    folder, _ = finished
    process = start(folder, environment(toy, run_id="one"))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and "continue that run with RESUME=one" in output


def test_resume_refuses_other_settings_and_other_sources(finished, toy, monkeypatch):
    """A run goes on only as it began."""
    folder, _ = finished
    monkeypatch.chdir(folder)
    with pytest.raises(ValueError, match="MATRIX_LR=0.5 differs from 0.04"):
        from_env(RESUME="one", MATRIX_LR="0.5")
    with pytest.raises(ValueError, match="no such run"):
        from_env(RESUME="two")
    hp, preset, _ = from_env(RESUME="one")
    assert preset.startswith("smoke (as saved")
    with pytest.raises(ValueError, match="train_gpt.py differs from"):
        train_gpt.Run(hp, preset, CPU, {"train_gpt.py": b"changed"})


def test_an_error_that_a_user_can_mend_is_one_line():
    """Whatever the library below wrote."""
    with pytest.raises(SystemExit, match="^error: one two$"), train_gpt.plain_errors():
        raise ValueError("one\n\n  two\n")


def test_a_run_of_another_trainer_is_not_resumed(tmp_path, monkeypatch):
    """A setting that this trainer lacks, or one that the run lacks, is named in an error."""
    monkeypatch.chdir(tmp_path)
    saved = dataclasses.asdict(Hyperparameters()) | {"preset": "smoke", "run_id": "one"}
    (tmp_path / "logs/one").mkdir(parents=True)
    file = tmp_path / "logs/one/settings.json"
    file.write_text(json.dumps(saved))
    assert from_env(RESUME="one")[0].run_id == "one"
    file.write_text(json.dumps(saved | {"teacher": "x.jsonl"}))
    with pytest.raises(ValueError, match=r"of train_gpt smoke or of .*\['teacher'\]; resume"):
        from_env(RESUME="one")
    file.write_text(json.dumps(saved | {"code": "train_gpt"}))
    assert from_env(RESUME="one")[0].run_id == "one"
    file.write_text(json.dumps(saved | {"code": "baselines.train"}))
    with pytest.raises(ValueError, match="is a run of baselines.train smoke or of another"):
        from_env(RESUME="one")
    file.write_text(json.dumps(saved | {"preset": "other"}))  # of one trainer, another system
    with pytest.raises(ValueError, match="is a run of train_gpt other or of another version"):
        from_env(RESUME="one")
    del saved["matrix_lr"]
    file.write_text(json.dumps(saved))
    with pytest.raises(ValueError, match=r"\['matrix_lr'\]"):
        from_env(RESUME="one", MATRIX_LR="0.04")


def test_sources_elsewhere_are_kept_by_their_place(tmp_path, monkeypatch):
    """A trainer's own files lie in the run's folder as they lie beside train_gpt.py."""
    monkeypatch.chdir(tmp_path)
    sources = train_gpt.read_sources(
        str(ROOT / "data/gpt2_tokenizer.py"), str(ROOT / "data/__init__.py")
    )
    own = {"train_gpt.py", "quantize.py", "codec/trellis.py", "codec/rans.py", "evaluate.py"}
    assert set(sources) == own | {"data/gpt2_tokenizer.py", "data/__init__.py"}
    run = train_gpt.Run(tiny(), "tiny", CPU, sources, "data.gpt2_tokenizer")
    for name, text in sources.items():
        assert (run.folder / name).read_bytes() == text == (ROOT / name).read_bytes()
    saved = json.loads((run.folder / "settings.json").read_text())
    assert (saved["code"], saved["preset"]) == ("data.gpt2_tokenizer", "tiny")


def test_missing_data_is_named_with_the_command_that_fetches_it(tmp_path):
    """PRESET=pr334 without shards stops at once and says what to type."""
    env = {"PATH": os.environ["PATH"], "PRESET": "pr334", "PYTHONPATH": str(ROOT)}
    process = start(tmp_path, env)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and output.startswith("error: ")
    assert "data.prepare fetch" in output and not (tmp_path / "logs").exists()


def test_two_ranks_train_like_one(finished, toy, tmp_path):
    """torchrun with two gloo ranks: same batches, the loss curve within 1e-4, the same score."""
    folder, output = finished
    both = run(tmp_path, environment(toy, run_id="two"), ranks=2)
    one, two = losses(folder / "logs/one"), losses(tmp_path / "logs/two")
    assert len(one) == len(two) and max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    bpb = [float(final_line(text).split("val_bpb:")[1].split()[0]) for text in (output, both)]
    assert bpb[0] == pytest.approx(bpb[1], abs=2e-3)  # int5 rounding can tip a weight over an edge


def trainer_on(toy: Path, folder: Path, monkeypatch, **changes) -> train_gpt.Trainer:
    """A trainer in this process, writing below a folder."""
    monkeypatch.chdir(folder)
    hp = tiny(
        data_path=str(toy / "datasets/toy_sp1024"),
        tokenizer_path=str(toy / "tokenizers/toy_1024_bpe.model"),
        **changes,
    )
    return train_gpt.Trainer(
        hp, CPU, train_gpt.Run(hp, "smoke", CPU, {}), train_gpt.TrainingText(hp)
    )


def test_the_peak_is_that_of_all_ranks():
    """As set, of each device; unknown where it is neither set nor in the table."""
    eight = Runtime(rank=0, world_size=8, device=torch.device("cpu"))
    assert train_gpt.peak_flops(tiny(peak_flops=1e12), eight) == 8e12
    assert train_gpt.peak_flops(tiny(), eight) is None


@pytest.mark.parametrize("peak", [0.0, 1e9])
def test_the_log_has_rates_that_follow_and_the_peak_they_are_shares_of(
    toy, tmp_path, monkeypatch, peak
):
    """tok_s: 0.05 for the last step, corrected for the 0 it began with, without the first step,
    whose end a GPU does not wait for; PEAK_FLOPS is reported."""
    sizes = dict(iterations=4, train_log_every=1, max_wallclock_seconds=0.0, peak_flops=peak)
    trainer = trainer_on(toy, tmp_path, monkeypatch, **sizes)
    ends = [10.0, 12.0, 13.0, 17.0, 18.0]  # seconds at the end of each step
    trainer.clock.seconds = lambda: ends[trainer.step]
    trainer.train(validate=None)
    batch, average = trainer.hp.train_batch_tokens, 0.0
    wanted = [batch / 2]
    for i, seconds in enumerate([1.0, 4.0, 1.0], 1):
        average = 0.95 * average + 0.05 * batch / seconds
        wanted.append(average / (1 - 0.95**i))
    assert wanted[1] == pytest.approx(batch)
    lines = (trainer.run.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["tok_s"] for line in lines] == pytest.approx(wanted)
    log = (trainer.run.folder / "train.log").read_text()
    flops = trainer.model.flops_per_token(trainer.hp.train_seq_len)
    assert f"mfu of flops_per_token:{flops} and peak_flops:{peak or 'unknown'}\n" in log
    share = f"{wanted[-1] * flops / peak:.3f}" if peak else "unknown"
    assert f"step_avg:2000.00ms tok_s:{wanted[-1]:.0f} mfu:{share}\n" in log


def test_the_time_cap_drives_the_schedule(toy, tmp_path, monkeypatch):
    """With a cap, the run ends when time less the reserve is over, the rate at its floor."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=22.0, iterations=10**5)
    trainer.reserve_seconds = 2.0
    trainer.clock.seconds = lambda: float(trainer.step)  # each step takes a second
    trainer.train(validate=None)
    assert trainer.step == 20
    records = [json.loads(line) for line in (trainer.run.folder / "metrics.jsonl").open()]
    assert [r["progress"] for r in records] == pytest.approx([s / 20 for s in range(1, 21)])
    assert records[1]["lr_scale"] == 1.0 and records[-1]["lr_scale"] == pytest.approx(0.16)


def test_the_clock_counts_training_and_no_pauses(monkeypatch):
    """Validation between pause and run is free; what a killed process spent is not."""
    now = iter([10.0, 14.0, 100.0, 103.0])
    monkeypatch.setattr(train_gpt.time, "perf_counter", lambda: next(now))
    clock = train_gpt.Clock(CPU, seconds=5.0)
    clock.run()
    clock.pause()
    assert clock.seconds() == 9.0
    clock.run()
    assert clock.seconds() == 12.0


def test_a_cap_that_leaves_no_time_to_train_is_refused(toy, tmp_path, monkeypatch):
    """The rehearsal measures the end of the run, before training, and says what is needed."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=0.001)
    table = evaluate.ByteTable.from_sentencepiece(trainer.hp.tokenizer_path, 1024)
    with pytest.raises(ValueError, match="MAX_WALLCLOCK_SECONDS=0.001 must be over"):
        trainer.rehearse(table)


def test_the_rehearsal_leaves_no_trace(toy, tmp_path, monkeypatch):
    """Warm-up steps and packing on made-up numbers change no tensor and no counter."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, warmup_steps=2)
    before = torch.load(io.BytesIO(trainer.state()), weights_only=True)
    trainer.rehearse(evaluate.ByteTable.from_sentencepiece(trainer.hp.tokenizer_path, 1024))
    after = torch.load(io.BytesIO(trainer.state()), weights_only=True)
    assert after.pop("settings") == before.pop("settings")
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert trainer.reserve_seconds > 0 and not list(trainer.run.folder.glob("*.tmp"))


def test_a_loss_that_nobody_foresaw_is_packed_another_way(toy, tmp_path, monkeypatch, capsys):
    """A codec that spoils a matrix without a word is caught by the score of what it wrote."""
    tokenizer = toy / "tokenizers/toy_1024_bpe.model"
    table = evaluate.ByteTable.from_sentencepiece(tokenizer, 1024)
    trainer = trainer_on(toy, tmp_path, monkeypatch, iterations=40, max_wallclock_seconds=0)
    trainer.train(lambda trainer: None)
    real = train_gpt.pack

    def spoiled(weights, hp, code_bytes, hessians):
        worse = weights | {"tok_emb.weight": weights["tok_emb.weight"].roll(1, 0)}
        return real(worse, hp, code_bytes, hessians)

    kept = {}
    for name, codec in (("honest", real), ("spoiled", spoiled)):
        monkeypatch.setattr(train_gpt, "pack", codec)
        weights = trainer.averages.candidates()["raw"]
        kept[name] = trainer.pack(weights, trainer.text.holdout_T, table, 0)
        said = capsys.readouterr().out
        assert re.search(r"packed bytes:\d+ unpacked_loss:\S+ packed_loss:\S+ lost:", said)
        assert ("warning: packing lost" in said) == (name == "spoiled")
        decoded, _ = quantize.decode(kept[name])
        change = (decoded["tok_emb.weight"] - weights["tok_emb.weight"]).norm()
        assert change < 0.1 * weights["tok_emb.weight"].norm()
    assert torch.equal(trainer.model.tok_emb.weight, weights["tok_emb.weight"])  # nothing is left


def test_calibration_reads_the_held_out_text_and_leaves_no_trace(toy, tmp_path, monkeypatch):
    """No other token, and no more of it than is said; gradients, averages and random state stay."""
    monkeypatch.setattr(train_gpt, "CALIBRATION_TOKENS", 320)
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    seen, loss = [], trainer.model.loss
    trainer.model.loss = lambda tokens_BT: seen.append(tokens_BT) or loss(tokens_BT)
    trainer.averages.ema["skip_weights"] += 1  # what is packed need not be what was trained
    trainer.exported = "ema"
    before = torch.load(io.BytesIO(trainer.state()), weights_only=True)
    table = evaluate.ByteTable.from_sentencepiece(trainer.hp.tokenizer_path, 1024)
    trainer.finish(table, code_bytes=0)
    assert [len(tokens_BT) for tokens_BT in seen] == [8, 2]  # of 32 tokens: micro-batches
    holdout_T = trainer.text.holdout_T.astype(np.int64)
    assert len(holdout_T) > 4 * 320
    assert torch.cat(seen)[:, :-1].flatten().tolist() == holdout_T[:320].tolist()
    assert torch.cat(seen)[:, 1:].flatten().tolist() == holdout_T[1:321].tolist()
    assert all(p.grad is None for p in trainer.model.parameters())
    torch.testing.assert_close(dict(trainer.model.named_parameters()), trainer.averages.ema)
    trainer.put(before["model"])
    after = torch.load(io.BytesIO(trainer.state()), weights_only=True)
    assert after.pop("train_seconds") > before.pop("train_seconds")
    assert after.pop("settings") == before.pop("settings")
    assert after.pop("exported") == before.pop("exported")
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_every_matrix_and_no_gain_is_calibrated(toy, tmp_path, monkeypatch):
    """A positive Hessian of its columns each, in nats a token: twice the text, the same numbers."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    weights = tiny_model().state_dict()
    block_T = np.arange(2, 34)
    once, twice = (trainer.hessians(weights, np.tile(block_T, n)) for n in (4, 8))  # a quarter
    groups = trainer.model.param_groups()
    ours = {id(p) for p in groups["matrix"] + groups["embedding"]}
    named = trainer.model.named_parameters()
    sizes = {name: (p.shape[1], p.shape[1]) for name, p in named if id(p) in ours}
    assert {name: tuple(hessian.shape) for name, hessian in once.items()} == sizes
    assert all(torch.linalg.eigvalsh(h)[-1] > 0 for h in once.values())
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-9)


def test_a_diverged_run_stops_and_says_what_to_lower(toy, tmp_path, monkeypatch):
    """A loss that is not a number ends the run at once."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    trainer.model.tok_emb.weight.data.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="lower MATRIX_LR=0.04"):
        trainer.train(validate=None)
    assert trainer.step <= 2


def resuming(toy: Path, run_id: str) -> dict:
    """What a user sets to continue a run: nothing but its name."""
    ours = {name.upper() for name in (*TINY, "data_path", "tokenizer_path")}
    kept = {name: value for name, value in environment(toy).items() if name not in ours}
    return {**kept, "RESUME": run_id}


def kill_and_resume(folder: Path, toy: Path, run_id: str, delays, **settings) -> str:
    """Start a run, kill -9 after each delay in seconds, resume; the last one's output."""
    env = environment(toy, run_id=run_id, **settings)
    for delay in delays:
        process = start(folder, env)
        begun = time.monotonic()
        settings_file = folder / "logs" / run_id / "settings.json"
        while not settings_file.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(max(0.0, delay - (time.monotonic() - begun)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        env = resuming(toy, run_id)
    return run(folder, env)


def test_a_killed_run_resumes_to_the_same_weights(finished, toy, tmp_path):
    """kill -9 in the middle, RESUME, and the artifact is the uninterrupted one's to the byte."""
    folder, output = finished
    resumed = kill_and_resume(tmp_path, toy, "one", delays=[0.0])
    assert final_line(resumed) == final_line(output)
    assert losses(tmp_path / "logs/one") == losses(folder / "logs/one")
    artifacts = [(f / "logs/one/artifact.pgz").read_bytes() for f in (folder, tmp_path)]
    assert artifacts[0] == artifacts[1]


def test_a_run_that_is_told_to_stop_can_go_on(toy, tmp_path, monkeypatch):
    """SIGTERM ends it after a step and a checkpoint; from there the artifact is the same."""
    before = signal.getsignal(signal.SIGTERM)
    table = evaluate.ByteTable.from_sentencepiece(toy / "tokenizers/toy_1024_bpe.model", 1024)
    whole = trainer_on(toy, tmp_path, monkeypatch, run_id="whole", checkpoint_seconds=0.0)
    whole.train(validate=None)
    whole.finish(table, code_bytes=0)
    one = trainer_on(toy, tmp_path, monkeypatch, run_id="one", checkpoint_seconds=0.0)
    steps = one.train_step

    def told_at_the_third(*arguments):
        if one.step == 2:
            signal.raise_signal(signal.SIGTERM)
        return steps(*arguments)

    one.train_step = told_at_the_third
    try:
        with pytest.raises(SystemExit) as stop:
            one.train(validate=None)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stop.value.code == 128 + signal.SIGTERM and one.step == 3
    assert "stopped step:3 continue with RESUME=one\n" in (one.run.folder / "train.log").read_text()
    checkpoint = one.run.checkpoint_path.read_bytes()
    assert not one.run.artifact_path.exists()
    one.train_step = steps
    one.load(checkpoint)
    assert one.step == 3
    one.train(validate=None)
    one.finish(table, code_bytes=0)
    assert one.run.artifact_path.read_bytes() == whole.run.artifact_path.read_bytes()


def test_a_run_killed_after_its_choice_trains_no_further(toy, tmp_path, monkeypatch):
    """Between choosing the average and writing the artifact, a kill repeats neither."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=600.0)
    table = evaluate.ByteTable.from_sentencepiece(trainer.hp.tokenizer_path, 1024)
    trainer.train(validate=None)
    trainer.finish(table, code_bytes=0)
    artifact = trainer.run.artifact_path.read_bytes()
    trainer.run.artifact_path.unlink()
    trainer.run.lock.close()
    output = run(tmp_path, resuming(toy, trainer.run.run_id))
    assert f"trained steps:{trainer.step} " in output and "average " not in output
    assert trainer.run.artifact_path.read_bytes() == artifact


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(toy, tmp_path):
    """Training, packing and scoring survive kill -9 at 20 random moments, with the same weights."""
    settings = dict(iterations=300, checkpoint_seconds=0.2)
    whole = run(tmp_path, environment(toy, run_id="whole", **settings))
    rng = random.Random(0)
    delays = [rng.uniform(2.0, 12.0) for _ in range(20)]
    killed = kill_and_resume(tmp_path, toy, "killed", delays, **settings)
    assert final_line(killed) == final_line(whole)
    artifacts = [(tmp_path / f"logs/{n}/artifact.pgz").read_bytes() for n in ("whole", "killed")]
    assert artifacts[0] == artifacts[1]
    assert not list((tmp_path / "logs/killed").glob("*.tmp"))


@pytest.mark.slow
def test_compiled_model_equals_eager():
    """torch.compile of the step traces without a break and gives the same loss and gradients."""
    model, x = tiny_model(), tokens(2, 33)
    compiled = torch.compile(model.loss, fullgraph=True)
    model.loss(x).backward()
    eager = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    loss = compiled(x)
    loss.backward()
    assert loss.item() == pytest.approx(model.loss(x).item(), rel=1e-5)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, eager[name], rtol=1e-3, atol=1e-4)
    bf16 = GPT(tiny(), torch.bfloat16).init_weights(0)
    assert math.isfinite(torch.compile(bf16.loss, fullgraph=True)(x).item())


@pytest.mark.gpu
def test_the_full_recipe_runs_on_a_gpu(toy, tmp_path):
    """Thirty compiled bf16 steps of the default recipe learn, and the device is known."""
    env = environment(toy, run_id="gpu")
    ours = {name.upper() for name in TINY} | {"PRESET", "OMP_NUM_THREADS"}
    env = {name: value for name, value in env.items() if name not in ours}
    env |= {"PRESET": "pr334", "ITERATIONS": "30", "MAX_WALLCLOCK_SECONDS": "0"}
    output = run(tmp_path, env)
    fields = [json.loads(line) for line in (tmp_path / "logs/gpu/metrics.jsonl").open()][-1]
    assert fields["train_loss"] < 5.0
    assert "model_params:26666073" in output and "mfu:unknown" not in output
