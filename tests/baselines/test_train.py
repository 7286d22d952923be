"""How baselines train: schedules, groups, one step in parts, tying, resuming, the report."""

import dataclasses
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import quantize
import train_gpt
from baselines import d12, evaluations, train
from tools.submission import size
from train_gpt import Runtime

ROOT = Path(__file__).parents[2]
CPU = Runtime(rank=0, world_size=1, device=torch.device("cpu"))
SYSTEMS = ["gelu_d12", "yat_d12", "gpt2_124m", "preln_53m"]
TINY = dict(
    vocab_size=1024, num_layers=2, model_dim=32, num_heads=2, num_kv_heads=1, train_seq_len=32,
    train_batch_tokens=256, micro_batch_tokens=256, iterations=6, warmup_steps=1, val_loss_every=0,
    train_log_every=1, checkpoint_seconds=0.0, eval_stride=32, compile=False, lr_warmup_steps=2,
    lr_decay_steps=6, peak_lr=3e-3,
)  # fmt: skip


def tiny(system: str, **changes) -> train.Recipe:
    return train.Recipe(**{**train.RECIPES[system], **TINY, **changes})


def trainer_on(toy: Path, folder: Path, monkeypatch, system: str, **changes) -> train_gpt.Trainer:
    """A trainer of a small baseline in this process, writing below a folder."""
    monkeypatch.chdir(folder)
    where = dict(
        data_path=str(toy / "datasets/toy_sp1024"),
        tokenizer_path=str(toy / "tokenizers/toy_1024_bpe.model"),
    )
    hp = tiny(system, **where, **changes)
    run, text = train_gpt.Run(hp, system, CPU, {}), train_gpt.TrainingText(hp)
    return train_gpt.Trainer(hp, CPU, run, text, train.system_of(system))


def losses(folder: Path) -> list[float]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [line["train_loss"] for line in lines]


# Recipes


def recipe(system: str, **changes) -> train.Recipe:
    return train.Recipe(**{**train.RECIPES[system], **changes})


@pytest.mark.parametrize(
    "system, points",
    [
        ("gpt2_124m", {0: 8.5714e-7, 699: 6e-4, 700: 6e-4, 10_000: 3.1708e-4, 10_350: 3e-4,
                       19_999: 3.97e-12}),
        ("preln_53m", {0: 0, 1: 1.5e-7, 2000: 3e-4, 16_000: 1.65e-4, 19_999: 1.06439e-4,
                       30_000: 3e-5, 40_000: 3e-5}),
        ("gelu_d12", {0: 0, 100: 0.005, 200: 0.01, 10_060: 0.00525, 19_920: 0.0005}),
        ("yat_d12", {200: 0.03, 19_920: 0.0015}),
        ("yat_neuron_d12", {200: 0.03, 19_922: 0.0015}),
    ],
)  # fmt: skip
def test_rates_are_those_of_the_specification(system, points):
    """Warm-up, peak, cosine and end of each recipe."""
    for step, lr in points.items():
        assert train.lr_at(step, recipe(system)) == pytest.approx(lr, rel=2e-3, abs=1e-15), step


# Rows x tokens of a step, of a forward pass; steps; validation every; weight decay; limit of the
# gradient's norm; seed (None: that of any run).
D12 = (256, 1024, 32_768, 19_920, 1000, 0.01, 1.0, None)
PUBLISHED = {
    "gelu_d12": D12,
    "yat_d12": D12,
    "yat_neuron_d12": (*D12[:3], 19_922, *D12[4:]),
    "gpt2_124m": (512, 1024, 65_536, 20_000, 250, 0.1, 1.0, 42),
    "preln_53m": (12, 512, 6144, 20_000, 1000, 0.1, 0.0, None),
    "preln_53m_untied": (12, 512, 6144, 20_000, 1000, 0.1, 0.0, None),
    "preln_53m_distilled": (12, 512, 6144, 15_000, 1000, 0.1, 1.0, None),
}


@pytest.mark.parametrize("name", list(train.RECIPES))
def test_recipes_are_those_of_the_specification(name):
    """Batch, length of the run, validation, decay, clip and seed; AdamW's constants are shared."""
    hp = recipe(name)
    rows, T, micro, steps, every, decay, clip, seed = PUBLISHED[name]
    assert (hp.train_batch_tokens, hp.train_seq_len) == (rows * T, T)
    assert (hp.micro_batch_tokens, hp.iterations, hp.val_loss_every) == (micro, steps, every)
    assert (hp.weight_decay, hp.grad_clip_norm) == (decay, clip)
    assert hp.seed == (seed or train_gpt.Hyperparameters.seed)
    assert (hp.adam_beta1, hp.adam_beta2, hp.adam_eps) == (0.9, 0.95, 1e-8)
    assert hp.max_wallclock_seconds == 0 and not (hp.teacher or hp.start_from)


def test_steps_follow_from_the_number_of_parameters():
    """d12 sees 20 tokens a parameter, rounded down to whole steps."""
    for system in ("gelu_d12", "yat_d12", "yat_neuron_d12"):
        hp = recipe(system)
        settings = train.model_settings(system, train.config_of(system, hp))
        model = train.build(settings, device="meta")
        parameters = sum(p.numel() for p in model.parameters())
        assert hp.iterations == 20 * parameters // hp.train_batch_tokens == hp.lr_decay_steps


@pytest.mark.parametrize("system", list(train.FILES))
def test_a_recipe_trains_the_published_shape(system):
    """Settings of the recipe give the configuration of the model's file."""
    assert train.config_of(system, recipe(system)) == train.FILES[system].CONFIGS[system]


def test_a_recipe_says_how_it_computes_and_is_validated():
    """Dropout, precision, smoothing and protocol are settings, and refused where they are wrong."""
    for name in train.RECIPES:
        hp, preln_s = recipe(name), name.startswith("preln")
        assert (hp.dropout, hp.precision) == ((0.1, "fp32") if preln_s else (0.0, "bf16"))
        own = "preln_val" if preln_s else "gpt2_val" if name == "gpt2_124m" else "wikitext103"
        assert hp.val_protocol == own and hp.val_protocol in evaluations.PROTOCOLS
        assert hp.loss_smoothing == 0.95
    make = train.system_of("preln_53m").GPT
    model = make(tiny("preln_53m", dropout=0.3), torch.bfloat16)
    assert model.config.dropout == 0.3 and model.compute_dtype is torch.float32
    model = make(tiny("preln_53m", precision="bf16"), torch.bfloat16)
    assert model.compute_dtype is torch.bfloat16 and model.config.dropout == 0.1
    with pytest.raises(ValueError, match="DROPOUT=0.1 must be 0: gelu_d12 has none"):
        train.config_of("gelu_d12", tiny("gelu_d12", dropout=0.1))
    with pytest.raises(ValueError, match="NUM_KV_HEADS=2 is not read by gpt2_124m; unset it"):
        train.config_of("gpt2_124m", tiny("gpt2_124m", num_kv_heads=2))
    with pytest.raises(ValueError, match="PRECISION='half' must be bf16 or fp32"):
        recipe("gpt2_124m", precision="half")
    with pytest.raises(ValueError, match="LOSS_SMOOTHING=1.0 must be below 1"):
        recipe("gpt2_124m", loss_smoothing=1.0)


def test_windows_are_drawn_from_the_blocks_own_text(toy):
    """Every place of the training text alike, none that is held out; the position seeds a row."""
    where = dict(
        data_path=str(toy / "datasets/toy_sp1024"),
        tokenizer_path=str(toy / "tokenizers/toy_1024_bpe.model"),
    )
    hp = tiny("preln_53m", **where)
    text = train.system_of("preln_53m").TrainingText(hp)
    blocks = train_gpt.TrainingText(hp)
    assert type(text) is train.Windows and recipe("preln_53m_distilled").random_windows
    for system, hp_of in (("gpt2_124m", {}), ("preln_53m", {"random_windows": False})):
        made = train.system_of(system).TrainingText(tiny(system, **where, **hp_of))
        assert type(made) is type(blocks)
    rows = text.rows(100, 6)
    assert rows.shape == (6, 33) and torch.equal(rows[2:4], text.rows(102, 2))
    assert not torch.equal(rows[0], rows[1])
    text.seed += 1
    assert not torch.equal(rows, text.rows(100, 6))
    # places, on shards whose tokens tell where they stand: 60 and 100 + 1, the last 20 held out
    text.shards = [np.arange(60), np.arange(1000, 1101)]
    text.holdout_T = text.shards[-1][-21:]
    text.seq_len, text.start_ends = 32, np.cumsum([60 - 32, 101 - 20 - 32])
    starts = [int(text.rows(i, 1)[0, 0]) for i in range(2000)]
    assert set(starts) == {*range(28), *range(1000, 1049)}
    assert 600 < sum(start < 1000 for start in starts) < 860  # 28 of 77
    last = max(int(text.rows(i, 1)[0, -1]) for i in range(2000))
    assert last == 1080 == text.holdout_T[0]  # a target only, as the last block's
    fresh = train.Windows(hp)
    end = sum(len(shard) for shard in fresh.shards) - (len(fresh.holdout_T) - 1)
    assert fresh.start_ends.tolist() == [end - 32]


def test_settings_that_only_the_golf_recipe_reads_are_refused():
    """By name; those of a run, and those of the recipe, are taken from the environment."""
    environ = {"PEAK_LR": "0.5", "SEED": "7", "MODEL_DIM": "48", "NUM_HEADS": "4"}
    hp, why, given = train_gpt.settings_from_env(environ, False, train.system_of("gpt2_124m"))
    assert (hp.peak_lr, hp.seed, hp.model_dim, hp.iterations) == (0.5, 7, 48, 20_000)
    assert why == "gpt2_124m (as asked)" and set(given) == {n.lower() for n in environ}
    golf = {f.name: f.default for f in dataclasses.fields(train.Recipe)}
    for name in train.GOLF_ONLY:
        value = golf[name] + 1 if isinstance(golf[name], int) else golf[name] / 2
        with pytest.raises(ValueError, match=f"{name.upper()}=.* is of the golf recipe"):
            recipe("gpt2_124m", **{name: value})


@pytest.mark.parametrize("name, value", [
    ("dropout", 1.0), ("adam_beta1", 1.0), ("adam_beta2", 1.5), ("peak_lr", 0.0),
])  # fmt: skip
def test_a_setting_that_cannot_train_is_refused(name, value):
    """By one line that names the variable, before any run begins."""
    with pytest.raises(ValueError, match=f"{name.upper()}={value} must be"):
        recipe("preln_53m", **{name: value})


def test_settings_of_another_shape_are_refused():
    """`build` names what does not match, and a system that is none."""
    config = d12.Config(vocab_size=61, num_layers=2, model_dim=48, num_heads=4, num_kv_heads=2)
    settings = train.model_settings("gelu_d12", config)
    with pytest.raises(ValueError, match="system='other' must be one of gelu_d12, yat_d12"):
        train.build({**settings, "system": "other"})
    with pytest.raises(ValueError, match="do not match this train_gpt.py"):  # golf's name none
        train.build(dataclasses.asdict(config))
    with pytest.raises(ValueError, match=r"settings \['width'\] do not match those of gelu_d12"):
        train.build({**settings, "width": 3})


# Optimizer


def test_decay_is_on_matrices_and_embeddings_alone():
    """GPT-2: wte, wpe and 4 matrices a layer, 50 tensors of 148."""
    config = train.config_of("gpt2_124m", recipe("gpt2_124m", model_dim=24))
    model = train.build(train.model_settings("gpt2_124m", config), device="meta")
    groups = train.Optimizers(model, recipe("gpt2_124m"), CPU).adamw.param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(50, 0.1), (98, 0.0)]
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)].split(".", 2)[-1] for p in groups[0]["params"]}
    assert decayed == {"weight"} | {
        f"{part}.weight" for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert all(g["betas"] == (0.9, 0.95) and g["eps"] == 1e-8 for g in groups)


@pytest.mark.parametrize("corrected", [True, False])
def test_moments_are_corrected_unless_told_not_to(corrected):
    """Three steps of AdamW by its formula, decay apart from the gradient."""
    hp = tiny("preln_53m", bias_correction=corrected, weight_decay=0.3, adam_eps=1e-3)
    layer = torch.nn.Linear(3, 2, bias=False)
    optimizers = train.Optimizers(layer, hp, CPU)
    w, m, v = layer.weight.detach().clone(), torch.zeros(2, 3), torch.zeros(2, 3)
    b1, b2 = hp.adam_beta1, hp.adam_beta2
    for t in range(1, 4):
        layer.weight.grad = g = torch.full((2, 3), 0.1 * t) + 0.01 * torch.arange(6.0).view(2, 3)
        lr = train.lr_at(t - 1, hp)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        first, second = (1 - b1**t, 1 - b2**t) if corrected else (1, 1)
        w = w * (1 - lr * hp.weight_decay)
        w = w - lr * (m / first) / ((v / second).sqrt() + hp.adam_eps)
        optimizers.step(t - 1, 0.0)
        assert torch.allclose(layer.weight, w, rtol=1e-5, atol=1e-7), t


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_is_clipped_to_its_norm(system):
    """The gradients that AdamW sees have norm 1 at most; without a limit they are as they were."""
    for limit, expected in ((1.0, 1.0), (0.0, None)):
        hp = tiny(system, grad_clip_norm=limit)
        model = train.build(train.model_settings(system, train.config_of(system, hp)))
        model.init_weights(0)
        optimizers, seen = train.Optimizers(model, hp, CPU), []
        model.loss(torch.randint(1024, (2, 33))).backward()
        before = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()

        def spy(params=optimizers.params, seen=seen):
            seen.append(torch.stack([p.grad.norm() for p in params]).norm().item())

        optimizers.adamw.step = spy
        norm = optimizers.step(step=2, progress=0.5).item()
        assert before > 1 and norm == pytest.approx(before, rel=1e-4)
        assert seen[0] == pytest.approx(expected or before, rel=1e-4)
        assert optimizers.scale == 1.0 and optimizers.adamw.param_groups[0]["lr"] == hp.peak_lr
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("system", SYSTEMS)
def test_half_precision_is_of_products_alone(system):
    """Weights and logits are fp32, hence loss and gradients; in between, rounding is bf16's."""
    settings = train.model_settings(system, train.config_of(system, tiny(system)))
    half, full = (train.build(settings, d).init_weights(0) for d in (torch.bfloat16, torch.float32))
    tokens = torch.arange(64).view(2, 32)
    z = half.eval()(tokens)
    assert z.dtype == half.loss(tokens).dtype == torch.float32
    half.loss(tokens).backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in half.parameters())
    assert 0 < (z - full.eval()(tokens)).abs().max() < 0.05


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_head_stays_the_embedding_while_it_learns(system):
    """After five steps a token that was never read learned from the head, by one tensor."""
    hp = tiny(system, weight_decay=0.0)
    model = train.build(train.model_settings(system, train.config_of(system, hp)))
    model.init_weights(0).eval()
    optimizers, tokens = train.Optimizers(model, hp, CPU), torch.arange(64).view(2, 32)
    assert len({id(p) for p in optimizers.params}) == len(optimizers.params)
    name = "token_embedding.weight" if system == "preln_53m" else "wte.weight"
    table = model.get_parameter(name)
    first = table.detach().clone()
    for step in range(5):
        (model.loss(tokens) / 62).backward()
        optimizers.step(step + 1, step / 5)
    assert model.get_parameter(name) is table and not torch.equal(table[1000], first[1000])
    with torch.no_grad():
        before = model(tokens)
        table[1000] *= 2
        moved = (model(tokens) != before).any(dim=(0, 1)).nonzero().flatten().tolist()
    assert moved == [1000]
    assert sum(p.shape == table.shape for p in optimizers.params) == 1


# Runs


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_in_parts_is_the_same_step(toy, tmp_path, monkeypatch, system):
    """Eight micro-batches give the losses and weights of one batch."""
    found = {}
    for parts in (1, 8):
        trainer = trainer_on(toy, tmp_path, monkeypatch, system, run_id=f"parts{parts}",
                             micro_batch_tokens=256 // parts)  # fmt: skip
        trainer.model.eval()  # without dropout, which draws otherwise
        assert trainer.batches.parts == parts
        grads = {}

        def keep(step, progress, trainer=trainer, grads=grads):
            grads.update({n: p.grad.clone() for n, p in trainer.model.named_parameters()})
            return torch.zeros(())

        trainer.optimizers.step = keep
        loss, _ = trainer.train_step(trainer.batches.get(0), progress=0.0)
        found[parts] = (loss, grads)
    assert abs(found[1][0] - found[8][0]) < 1e-6
    for name, g in found[1][1].items():
        assert (g - found[8][1][name]).abs().max() < 1e-6, name


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_resumed_run_goes_on_as_if_never_stopped(toy, tmp_path, monkeypatch, system):
    """Losses of ten steps, and of five plus five from the checkpoint, dropout included."""
    whole = trainer_on(toy, tmp_path, monkeypatch, system, run_id="whole", iterations=10)
    whole.train(validate=None)
    trainer, seen = trainer_on(toy, tmp_path, monkeypatch, system, run_id="first"), []
    for _ in range(5):
        seen.append(trainer.train_step(trainer.batches.get(trainer.step), 0.5)[0].item())
    state = trainer.state()
    again = trainer_on(toy, tmp_path, monkeypatch, system, run_id="second", seed=1337 + 5)
    again.text, again.batches.text = trainer.text, trainer.text
    again.hp = trainer.hp  # a resumed run has its seed; only the initial weights are others
    again.load(state)
    assert again.step == 5
    for _ in range(5):
        seen.append(again.train_step(again.batches.get(again.step), 0.5)[0].item())
    assert seen == losses(tmp_path / "logs/whole")
    assert seen[0] > seen[-1]


def test_a_resumed_rank_draws_its_own_dropout(toy, tmp_path, monkeypatch):
    """The one checkpoint is the first rank's; from it another rank drops what it would have."""
    (tmp_path / "one").mkdir()
    first = trainer_on(toy, tmp_path / "one", monkeypatch, "preln_53m", dropout=0.5)
    batch, other = first.batches.get(0), dataclasses.replace(CPU, rank=1)
    first.train_step(batch, 0.0)
    saved = first.state()

    def next_loss(rt) -> float:
        torch.rand(7)  # nothing drawn before counts
        first.load(saved)
        first.rt = rt
        return first.train_step(batch, 0.0)[0].item()

    assert next_loss(CPU) == next_loss(CPU) != next_loss(other) == next_loss(other)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_artifact_holds_the_model_that_was_trained(toy, tmp_path, monkeypatch, system):
    """Packed without a cap, read back by name and shape, nearly the same logits."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, system, model_dim=64)
    trainer.train(validate=None)
    table = train_gpt.evaluate.ByteTable.from_sentencepiece(trainer.hp.tokenizer_path, 1024)
    trainer.finish(table, code_bytes=10**9)
    assert set(trainer.averages.candidates()) == {"raw"} and trainer.exported == "raw"
    bits = {row.pattern: row.bits for row in quantize.int8_plan(trainer.averages.live)}
    assert set(bits.values()) == {8, 16}
    assert all((b == 8) == (trainer.averages.live[name].ndim == 2) for name, b in bits.items()
               if trainer.averages.live[name].numel() >= 4096)  # fmt: skip
    model, settings = trainer.system.load_artifact(trainer.run.artifact_path, "cpu")
    assert settings["system"] == system and not model.training
    tokens = torch.randint(1024, (1, 32))
    with torch.no_grad():
        assert (model(tokens) - trainer.model(tokens)).abs().max() < 0.05
    weights, saved = quantize.load_checkpoint(trainer.run.checkpoint_path)
    assert saved | {"train_seq_len": 32} == settings and set(weights) == {
        n for n, _ in trainer.model.named_parameters()
    }


def test_a_teacher_is_learned_from_and_stays_as_it_is(toy, tmp_path, monkeypatch):
    """TEACHER names a checkpoint; its weights are not the student's; vocabularies must agree."""
    teacher = trainer_on(toy, tmp_path, monkeypatch, "gpt2_124m", run_id="teacher")
    teacher.save()
    path = str(teacher.run.checkpoint_path)
    system = train.system_of("preln_53m")
    make = system.GPT
    hp = tiny("preln_53m", teacher=path, distill_alpha=0.25)
    student = make(hp, torch.float32).init_weights(0).eval()
    plain = make(tiny("preln_53m"), torch.float32).init_weights(0).eval()
    for model in student, plain:  # as sure as a trained one: else no temperature makes a difference
        model.token_embedding.weight.data *= 50
    assert set(student.state_dict()) == set(plain.state_dict())
    tokens = torch.randint(1024, (2, 33))
    with torch.no_grad():
        z_s, z_t = plain(tokens[:, :-1]), teacher.model(tokens[:, :-1])
        soft = (z_t / 2).softmax(-1) * ((z_t / 2).log_softmax(-1) - (z_s / 2).log_softmax(-1))
        expected = 0.25 * plain.loss(tokens) + 0.75 * 4 * soft.sum()
        assert student.loss(tokens).item() == pytest.approx(expected.item(), rel=1e-5)
    other = make(tiny("preln_53m", teacher=path, vocab_size=1000), torch.float32).init_weights(0)
    with pytest.raises(ValueError, match="student has 1000 tokens, teacher 1024"):
        other.loss(tokens % 1000)
    with pytest.raises(ValueError, match="DISTILL_ALPHA=1.5 must be between 0 and 1"):
        tiny("preln_53m", distill_alpha=1.5)


def golf(**changes) -> train.Student:
    names = {field.name for field in dataclasses.fields(train.Student)}
    sizes = {name: value for name, value in TINY.items() if name in names}
    return train.Student(**{**train_gpt.PRESETS["smoke"], **sizes, "rope_dims": 8, **changes})


@pytest.mark.parametrize("kind", ["golf", "gpt2_124m"])
def test_the_golf_model_learns_from_a_teacher(toy, tmp_path, monkeypatch, kind):
    """Its loss in training is the teacher's mix; its matrices are weighed by the text's alone."""
    teacher = trainer_on(toy, tmp_path, monkeypatch, "gpt2_124m", run_id="teacher")
    if kind == "golf":
        hp = golf(run_id="other", data_path=teacher.hp.data_path)
        run, text = train_gpt.Run(hp, "smoke", CPU, {}), train_gpt.TrainingText(hp)
        teacher = train_gpt.Trainer(hp, CPU, run, text)
    teacher.save()
    hp = golf(teacher=str(teacher.run.checkpoint_path), distill_alpha=0.25)
    system = train.system_of("golf")
    student = system.GPT(hp, torch.float32).init_weights(0)
    plain = train_gpt.GPT(golf(), torch.float32).init_weights(0)
    for model in student, plain:  # as sure as a trained one: else no temperature makes a difference
        model.tok_emb.weight.data *= 50
    assert set(student.state_dict()) == set(plain.state_dict())
    tokens = torch.randint(1024, (2, 33))
    with torch.no_grad():
        z_s, z_t = plain(tokens[:, :-1]), teacher.model.eval()(tokens[:, :-1])
        soft = (z_t / 2).softmax(-1) * ((z_t / 2).log_softmax(-1) - (z_s / 2).log_softmax(-1))
        expected = 0.25 * plain.loss(tokens) + 0.75 * 4 * soft.sum()
        assert student.loss(tokens).item() == pytest.approx(expected.item(), rel=1e-5)

    weighed = []

    def hessians():
        weighed.append(student.loss(tokens).item())
        return quantize.flat_hessians(student.state_dict())

    blob = system.pack(student.state_dict(), hp, 0, hessians)
    assert weighed == [pytest.approx(plain.loss(tokens).item(), rel=1e-6)]
    assert quantize.decode(blob)[1] == train_gpt.model_settings(golf())


def test_a_teacher_of_the_golf_model_must_fit(toy, tmp_path, monkeypatch):
    """Another vocabulary, or a shorter context, is an error before anything is made."""
    teacher = trainer_on(toy, tmp_path, monkeypatch, "preln_53m", run_id="teacher")
    teacher.save()
    path, where = str(teacher.run.checkpoint_path), teacher.hp.data_path
    text_of = train.system_of("golf").TrainingText
    assert text_of(golf(teacher=path, data_path=where)).num_blocks > 0
    with pytest.raises(ValueError, match="has 1024 tokens, VOCAB_SIZE is 512"):
        text_of(golf(teacher=path, data_path=where, vocab_size=512))
    with pytest.raises(ValueError, match="reads 32 tokens, TRAIN_SEQ_LEN is 64; lower it"):
        text_of(golf(teacher=path, data_path=where, train_seq_len=64))
    with pytest.raises(ValueError, match="DISTILL_TEMPERATURE=0"):
        golf(distill_temperature=0)
    hp = golf(run_id="other", data_path=where)
    run, text = train_gpt.Run(hp, "smoke", CPU, {}), train_gpt.TrainingText(hp)
    train_gpt.Trainer(hp, CPU, run, text).save()
    short = dict(teacher=str(run.checkpoint_path), train_seq_len=64)
    with pytest.raises(ValueError, match="reads 32 tokens, TRAIN_SEQ_LEN is 64; lower it"):
        text_of(golf(data_path=where, **short))


def test_the_golf_model_learns_what_a_teacher_wrote(toy, tmp_path):
    """Rows are the lines of TEACHER, and the loss is the mean over what is scored of them."""
    path = tmp_path / "teacher.jsonl"
    path.write_text(json.dumps({"prompt": [5, 6], "continuation": [7, 8, 9]}) + "\n")
    hp = golf(teacher=str(path), data_path=str(toy / "datasets/toy_sp1024"), distill_alpha=1.0)
    system = train.system_of("golf")
    tokens = system.TrainingText(hp).rows(0, hp.train_batch_tokens // hp.train_seq_len)
    assert len(tokens) == 8 and (tokens % 65_536)[3, :6].tolist() == [5, 6, 7, 8, 9, 0]
    student = system.GPT(hp, torch.float32).init_weights(0)
    with torch.no_grad():
        logits = student(torch.tensor([[5, 6, 7, 8]]))[0, 1:]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor([7, 8, 9])).item()
        assert student.loss(tokens).item() / hp.train_batch_tokens == pytest.approx(expected)


def test_the_golf_student_is_of_train_gpt_but_for_its_teacher():
    """TEACHER is read from the environment; the presets, the cap and the tools are its own."""
    system = train.system_of("golf")
    environ = {"TEACHER": "a.jsonl", "PRESET": "smoke", "MUON_WD": "0.5"}
    hp, preset, given = train_gpt.settings_from_env(environ, False, system)
    assert (hp.teacher, hp.muon_wd, preset) == ("a.jsonl", 0.5, "smoke (as asked)")
    assert given == {"teacher": "a.jsonl", "muon_wd": 0.5}
    own = ("PRESETS", "CAP_BYTES", "Optimizers", "Averages", "model_settings", "load_artifact")
    assert all(getattr(system, name) is getattr(train_gpt, name) for name in own)
    assert (system.CODE, system.SOURCES) == ("baselines.train", train.SOURCES)


def test_a_run_keeps_all_that_it_runs(tmp_path):
    """The log counts what tools.submission.size counts, and it imports nothing more."""
    sources = train_gpt.read_sources(*train.SOURCES)
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text)
    (tmp_path / "artifact.pgz").write_bytes(b"12345")
    (tmp_path / "settings.json").write_text(json.dumps({"code": train.CODE}))
    weight = size.weigh(tmp_path)
    assert {row["path"] for row in weight["counted"]} == {"artifact.pgz", *sources}
    assert weight["code_bytes"] == sum(map(len, sources.values()))
    code = "import baselines.train as t; print(t.__file__); t.byte_table('none', 7)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == str(tmp_path / "baselines/train.py")
    assert "none" in done.stderr and "ModuleNotFoundError" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_from_start_to_score(toy, tmp_path, system):
    """The command trains, packs, scores and logs; its own sources are kept with the run."""
    settings = {name.upper(): str(value) for name, value in TINY.items() if name != "compile"}
    settings |= {"COMPILE": "0", "RUN_ID": "run", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    settings["DATA_PATH"] = str(toy / "datasets/toy_sp1024")
    settings["TOKENIZER_PATH"] = str(toy / "tokenizers/toy_1024_bpe.model")
    pairs = [f"{name}={value}" for name, value in settings.items()]
    command = ["env", *pairs, sys.executable, "-m", "baselines.train", system]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "final val_loss:" in done.stdout and "cap_bytes:inf" in done.stdout
    folder = tmp_path / "logs/run"
    command = [sys.executable, str(folder / "evaluate.py"), str(folder / "artifact.pgz")]
    again = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True)
    final = [line for line in done.stdout.splitlines() if line.startswith("final ")]
    assert final[0].split(" eval_time")[0] in again.stdout, again.stderr
    figures = train.report(folder, peak_flops=1e12)
    assert figures["system"] == system and figures["steps"] == 6 and 0 < figures["mfu"] < 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "system, lr", [("gelu_d12", 1e-2), ("yat_d12", 3e-2), ("gpt2_124m", 3e-3), ("preln_53m", 3e-3)]
)
def test_a_model_can_learn_one_batch_by_heart(system, lr):
    """150 steps on four rows of 64 random bytes bring the loss below 0.1."""
    hp = recipe(
        system, vocab_size=256, num_layers=4, model_dim=64, num_heads=4, train_seq_len=64,
        num_kv_heads=4 if "d12" in system else 1, train_batch_tokens=256, micro_batch_tokens=256,
        eval_stride=64, peak_lr=lr, end_lr=0.0, lr_warmup_steps=20, lr_decay_steps=150,
        weight_decay=0.1, grad_clip_norm=1.0,
    )  # fmt: skip
    model = train.build(train.model_settings(system, train.config_of(system, hp)))
    model.init_weights(0).eval()
    tokens = torch.randint(256, (4, 65), generator=torch.Generator().manual_seed(0))
    optimizers = train.Optimizers(model, hp, CPU)
    for step in range(150):
        loss = model.loss(tokens) / 256
        loss.backward()
        optimizers.step(step, step / 150)
    assert loss.item() < 0.1


# Report


def test_smoothed_loss_follows_its_recursion():
    """Begun with the first loss, 0.05 of each."""
    assert train.smoothed([2.0]) == 2.0
    assert train.smoothed([2.0, 4.0]) == pytest.approx(0.95 * 2 + 0.05 * 4)
    steps = [3.0, 1.0, 2.0]
    assert train.smoothed(steps) == pytest.approx(0.95 * (0.95 * 3 + 0.05 * 1) + 0.05 * 2)


def test_the_spread_of_seeds_is_that_of_a_population():
    """The published three seeds of gelu_d12, last and smoothed losses."""
    assert train.spread([3.0745, 3.1355, 3.0765]) == "3.0955 +- 0.0283 (n=3)"
    assert train.spread([3.1106, 3.1097, 3.1261]) == "3.1155 +- 0.0075 (n=3)"


def test_utilisation_is_that_of_the_specification():
    """llm.c's convention and the card's peak give 39.72 %, half the peak twice that."""
    rate = 524_288 / 2.53104
    assert train.utilisation(803_478_528, rate, 419e12) == pytest.approx(0.3972, abs=1e-4)
    assert train.utilisation(803_478_528, rate, 209.5e12) == pytest.approx(0.7944, abs=2e-4)


def test_a_run_is_reported_from_its_metrics(tmp_path, capsys):
    """Loss and rates of what was logged; without a peak there is no utilisation."""
    saved = dataclasses.asdict(tiny("gpt2_124m")) | {"preset": "gpt2_124m"}
    (tmp_path / "settings.json").write_text(json.dumps(saved))
    lines = [
        dict(step=i, tokens=256 * i, train_seconds=5.0, train_loss=9.0 - i, tok_s=124.0 + i)
        for i in range(1, 5)
    ]
    lines.insert(2, dict(step=2, val_loss=3.0))
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    figures = train.report(tmp_path, peak_flops=None)
    assert figures["tokens_per_second"] == pytest.approx(128) and "mfu" not in figures
    assert "product_mfu" not in figures
    assert figures["last_loss"] == 5.0 and figures["losses_logged"] == 4
    assert train.main(["report", str(tmp_path), "--peak-flops", "1e12"]) == 0
    mfu = figures["flops_per_token"] * 128 / 1e12
    assert f"peak_flops: {1e12}\nmfu: {mfu}"[:30] in capsys.readouterr().out
    assert train.main(["report", str(tmp_path), str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert (
        "last_loss: 5.0000 +- 0.0000 (n=2)" in printed and "smoothed_loss: 7.7099 +- 0" in printed
    )
    other = tmp_path / "other"
    other.mkdir()
    saved = dataclasses.asdict(tiny("preln_53m")) | {"preset": "preln_53m"}
    (other / "settings.json").write_text(json.dumps(saved))
    (other / "metrics.jsonl").write_bytes(path.read_bytes())
    assert train.main(["report", str(tmp_path), str(other)]) == 0
    assert "+-" not in capsys.readouterr().out  # no mean over two systems
    assert math.isclose(figures["smoothed_loss"], train.smoothed([8.0, 7.0, 6.0, 5.0]))
    path.write_text(json.dumps(lines[2]) + "\n")
    assert train.main(["report", str(tmp_path)]) == 2
    assert train.main(["report"]) == train.main(["score"]) == train.main(["bert"]) == 2
    (tmp_path / "settings.json").write_text(json.dumps({"preset": "mine"}))
    assert train.main(["report", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"no logged step; train on with RESUME={tmp_path.name}" in error
    assert "a run of 'mine'; report takes golf, gelu_d12" in error


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["report", "run", "--peak-flops", "-5"], "--peak-flops -5.0 must be a number over 0"),
        (["report", "run", "--peak-flops", "0"], "--peak-flops 0.0 must be a number over 0"),
        (["report", "run", "--peak-flops", "nan"], "--peak-flops nan must be a number over 0"),
        (["gelu_d12", "logs/run"], "runs and --peak-flops go with report alone"),
        (["gelu_d12", "--peak-flops", "1e12"], "runs and --peak-flops go with report alone"),
    ],
)
def test_arguments_that_mean_nothing_are_refused(arguments, message, capsys, monkeypatch):
    """A share of no peak is none, and a run that is named with a system would not be read."""
    monkeypatch.setattr(train_gpt, "main", lambda system: pytest.fail("it trained"))
    monkeypatch.setattr(train, "report", lambda *how: pytest.fail("it reported"))
    assert train.main(arguments) == 2 and message in capsys.readouterr().err


def test_a_report_follows_its_run(tmp_path):
    """Its smoothing; of d12 both conventions of counting work; of the golf model its own."""
    line = dict(step=1, tokens=256, train_seconds=5.0, tok_s=100.0)
    lines = [line | {"train_loss": loss} for loss in (8.0, 4.0)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))

    def report_of(preset: str, hp) -> dict:
        saved = dataclasses.asdict(hp) | {"preset": preset, "code": train.CODE}
        (tmp_path / "settings.json").write_text(json.dumps(saved))
        return train.report(tmp_path, peak_flops=1e9)

    figures = report_of("gelu_d12", tiny("gelu_d12", loss_smoothing=0.5))
    assert figures["smoothed_loss"] == 6.0 and figures["losses_logged"] == 2
    assert figures["mfu"] == figures["flops_per_token"] * 100 / 1e9
    assert figures["product_mfu"] == figures["product_flops_per_token"] * 100 / 1e9
    assert figures["flops_per_token"] != figures["product_flops_per_token"]
    student = train.Student(**train_gpt.PRESETS["smoke"], teacher="x.jsonl")
    figures = report_of("smoke", student)
    assert (figures["system"], figures["parameters"]) == ("golf", 508_077)
    assert figures["flops_per_token"] > 0 and "product_mfu" not in figures
    assert report_of("smoke", train_gpt.Hyperparameters(**train_gpt.PRESETS["smoke"])) == figures
