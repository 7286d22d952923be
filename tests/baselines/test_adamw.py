"""What the reference systems share: schedule, groups, a step in parts, tying, resuming, packing."""

import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import quantize
from baselines import adamw, evaluations, gelu_d12, gpt2_124m, pr334, preln_53m, student, yat_d12
from engine.open_model import open_model
from engine.ranks import Ranks
from engine.recipe import Budget, Recipe, packed_settings
from engine.run_folder import RunFolder
from engine.settings import Choice, RunSettings, read_settings
from engine.text import RandomWindows, TrainingText
from engine.trainer import Trainer, read_sources
from tests.tiny_runs import (
    CPU,
    ROOT,
    as_variables,
    losses,
    tiny_fields,
    toy_paths,
)

RECIPES = {
    "gelu_d12": gelu_d12.RECIPE,
    "yat_d12": yat_d12.RECIPE,
    "gpt2_124m": gpt2_124m.RECIPE,
    "preln_53m": preln_53m.RECIPE,
}
SYSTEMS = list(RECIPES)
RECIPE_OF_PRESET = {
    preset: recipe
    for recipe in RECIPES.values()
    for preset in recipe.presets
    if preset != "smoke"  # which all of them have
}


def settings_of(preset: str, **changes) -> adamw.AdamWSettings:
    """The settings of a preset at full size, but for the changes."""
    recipe = RECIPE_OF_PRESET[preset]
    return recipe.Settings(**{**recipe.presets[preset], **changes})


def tiny_settings(preset: str, **changes) -> adamw.AdamWSettings:
    return settings_of(preset, **{**tiny_fields(RECIPE_OF_PRESET[preset]), **changes})


def model_of(preset: str, settings: adamw.AdamWSettings, dtype=torch.float32):
    recipe = RECIPE_OF_PRESET[preset]
    return recipe.model(recipe.model_settings(settings), dtype)


def trainer_of(recipe: Recipe, settings: RunSettings, preset: str = "tiny") -> Trainer:
    """A trainer in this process, whose run folder lies below the current one."""
    run = RunFolder(recipe.name, Choice(settings, preset, "as asked", {}), CPU, {})
    table = recipe.byte_table(settings.tokenizer_path, settings.vocab_size)
    return Trainer(recipe, settings, CPU, run, recipe.text(settings), table)


def baseline_trainer(toy: Path, folder: Path, monkeypatch, preset: str, **changes) -> Trainer:
    """A trainer of a small baseline on the toy text, writing below a folder."""
    monkeypatch.chdir(folder)
    settings = tiny_settings(preset, **{**toy_paths(toy), **changes})
    return trainer_of(RECIPE_OF_PRESET[preset], settings, preset)


def saved_state(trainer: Trainer) -> dict:
    """What the trainer would read from its checkpoint; state() itself shares the live tensors."""
    return torch.load(io.BytesIO(trainer.state_bytes()), weights_only=True)


# Settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_a_smoke_preset(system):
    """Small, on the toy text, under the system's own optimizer and loss: two minutes on a CPU."""
    recipe = RECIPES[system]
    choice = read_settings(recipe, {}, False)
    settings = choice.settings
    assert choice.preset == "smoke" and settings.data_path.endswith("toy_sp1024")
    assert settings.iterations * settings.train_batch_tokens <= 500_000
    assert settings.val_evaluation == "" and settings.lr_decay_steps == settings.iterations
    model = recipe.model(recipe.model_settings(settings), torch.float32)
    assert sum(p.numel() for p in model.parameters()) < 1_000_000
    full = recipe.Settings(**recipe.presets[next(iter(recipe.presets))])
    kept = ("weight_decay", "random_windows", "adam_beta2", "grad_clip_norm", "precision")
    assert all(getattr(settings, name) == getattr(full, name) for name in kept)


@pytest.mark.parametrize("preset", [*RECIPE_OF_PRESET])
def test_presets_share_adamws_constants(preset):
    """Betas, epsilon and no cap on time; no teacher but where one must be named."""
    required = dict(start_from="a.pt", teacher="b.pt") if preset.endswith("distilled") else {}
    settings = settings_of(preset, **required)
    assert (settings.adam_beta1, settings.adam_beta2, settings.adam_eps) == (0.9, 0.95, 1e-8)
    assert settings.max_wallclock_seconds == 0
    assert settings.loss_smoothing == 0.95
    assert settings.val_evaluation in evaluations.EVALUATIONS
    assert bool(settings.teacher) == bool(settings.start_from) == bool(required)


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_recipe_trains_the_published_shape(system):
    """Settings of the recipe give the configuration of the model's file."""
    recipe = RECIPES[system]
    config = recipe.config(recipe.model_settings(settings_of(system)))
    assert config == recipe.default == recipe.models.CONFIGS[system]


@pytest.mark.parametrize(
    "system, name, value",
    [
        ("gpt2_124m", "MATRIX_LR", "1"),
        ("gpt2_124m", "NUM_KV_HEADS", "2"),
        ("gpt2_124m", "DROPOUT", "0.1"),
        ("gelu_d12", "DROPOUT", "0.1"),
        ("gelu_d12", "MLP", "yat"),
        ("preln_53m", "MUON_WD", "0.1"),
    ],
)
def test_a_setting_of_another_recipe_is_an_unknown_name(system, name, value):
    """By name and with a recipe that reads it: it would change nothing."""
    recipe = RECIPES[system]
    readers = {"MLP": "yat_d12", "DROPOUT": "preln_53m", "NUM_KV_HEADS": "(train_gpt|gelu_d12)"}
    reader = readers.get(name, "train_gpt")
    message = f"{name} is a setting of {reader}, not of {recipe.name}; unset it"
    with pytest.raises(ValueError, match=message):
        read_settings(recipe, {name: value}, False)


def test_settings_are_read_from_the_environment():
    """Those of a run, and those of the recipe."""
    environ = {"PEAK_LR": "0.5", "SEED": "7", "MODEL_DIM": "48", "NUM_HEADS": "4"}
    choice = read_settings(gpt2_124m.RECIPE, environ | {"PRESET": "gpt2_124m"}, False)
    settings = choice.settings
    assert (settings.peak_lr, settings.seed, settings.model_dim) == (0.5, 7, 48)
    assert settings.iterations == 20_000
    assert (choice.preset, choice.reason) == ("gpt2_124m", "as asked")
    assert set(choice.overrides) == {name.lower() for name in environ}


@pytest.mark.parametrize(
    "name, value, requirement",
    [
        ("dropout", 1.0, "below 1"),
        ("adam_beta1", 1.0, "below 1"),
        ("adam_beta2", 1.5, "below 1"),
        ("peak_lr", 0.0, "over 0"),
        ("precision", "half", "bf16 or fp32"),
        ("loss_smoothing", 1.0, "below 1"),
        ("num_layers", 0, "at least 1"),
        ("num_layers", 1001, "at most 1000"),
        ("distill_alpha", 1.5, "between 0 and 1"),
        ("distill_temperature", 0.0, "over 0"),
    ],
)
def test_a_setting_that_cannot_train_is_refused(name, value, requirement):
    """By one line that names the variable, before any run begins."""
    with pytest.raises(ValueError, match=f"{name.upper()}={value} must be {requirement}"):
        settings_of("preln_53m", **{name: value})


def test_settings_of_another_shape_are_refused():
    """A recipe names what does not match."""
    recipe = gelu_d12.RECIPE
    model_settings = recipe.model_settings(tiny_settings("gelu_d12"))
    with pytest.raises(ValueError, match=r"settings \['width'\] do not match baselines.gelu_d12"):
        recipe.model({**model_settings, "width": 3}, torch.float32)
    del model_settings["num_heads"]
    with pytest.raises(ValueError, match=r"settings \['num_heads'\] do not match"):
        recipe.model(model_settings, torch.float32)


@pytest.mark.parametrize("precision, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_is_a_setting(precision, dtype):
    """It counts on CUDA; a CPU computes in fp32."""
    settings = tiny_settings("preln_53m", precision=precision)
    assert preln_53m.RECIPE.dtype(settings, torch.device("cuda")) is dtype
    assert preln_53m.RECIPE.dtype(settings, torch.device("cpu")) is torch.float32


def test_random_windows_are_a_setting(toy):
    """Of preln_53m; the others read blocks in epochs."""
    assert (
        type(preln_53m.RECIPE.text(tiny_settings("preln_53m", **toy_paths(toy)))) is RandomWindows
    )
    blocks = tiny_settings("preln_53m", **toy_paths(toy), random_windows=False)
    assert type(preln_53m.RECIPE.text(blocks)) is TrainingText
    assert type(gpt2_124m.RECIPE.text(tiny_settings("gpt2_124m", **toy_paths(toy)))) is TrainingText


# Optimizer ----------------------------------------------------------------------------------------


def test_the_rate_goes_up_in_a_line_and_down_in_half_a_cosine():
    """Two steps up to 1, four down to 0.2, and there it stays."""
    settings = tiny_settings("gelu_d12", peak_lr=1.0, end_lr=0.2)
    rates = [adamw.lr_at(step, settings) for step in (0, 1, 2, 4, 6, 9)]
    assert rates == pytest.approx([0.0, 0.5, 1.0, 0.6, 0.2, 0.2])
    settings = tiny_settings(
        "gpt2_124m", peak_lr=1.0, end_lr=0.2
    )  # its first step is the warm-up's second
    assert [adamw.lr_at(step, settings) for step in (0, 1, 2)] == pytest.approx([0.5, 1.0, 1.0])


def test_decay_is_on_matrices_and_embeddings_alone():
    """GPT-2: wte, wpe and 4 matrices a layer, 50 tensors of 148."""
    settings = settings_of("gpt2_124m", model_dim=24)
    with torch.device("meta"):
        model = model_of("gpt2_124m", settings)
    groups = adamw.AdamW(model, settings, CPU).adamw.param_groups
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(50, 0.1), (98, 0.0)]
    names = {id(p): name for name, p in model.named_parameters()}
    decayed = {names[id(p)].split(".", 2)[-1] for p in groups[0]["params"]}
    matrices = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    assert decayed == {"weight", *(f"{matrix}.weight" for matrix in matrices)}
    assert all(g["betas"] == (0.9, 0.95) and g["eps"] == 1e-8 for g in groups)


@pytest.mark.parametrize("is_corrected", [True, False])
def test_moments_are_corrected_unless_told_not_to(is_corrected):
    """Three steps of AdamW by its formula, decay apart from the gradient."""
    settings = tiny_settings(
        "preln_53m", bias_correction=is_corrected, weight_decay=0.3, adam_eps=1e-3
    )
    layer = torch.nn.Linear(3, 2, bias=False)
    optimizer = adamw.AdamW(layer, settings, CPU)
    w = layer.weight.detach().clone()
    m = torch.zeros(2, 3)
    v = torch.zeros(2, 3)
    b1 = settings.adam_beta1
    b2 = settings.adam_beta2
    for t in range(1, 4):
        g = torch.full((2, 3), 0.1 * t) + 0.01 * torch.arange(6.0).view(2, 3)
        layer.weight.grad = g.clone()
        lr = adamw.lr_at(t - 1, settings)
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        c1 = 1 - b1**t if is_corrected else 1
        c2 = 1 - b2**t if is_corrected else 1
        w = w * (1 - lr * settings.weight_decay)
        w = w - lr * (m / c1) / ((v / c2).sqrt() + settings.adam_eps)
        optimizer.step(t - 1, 0.0)
        assert torch.allclose(layer.weight, w, rtol=1e-5, atol=1e-7), t


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_is_clipped_to_its_norm(system):
    """The gradients that AdamW sees have norm 1 at most; without a limit they are as they were."""
    for limit, expected in ((1.0, 1.0), (0.0, None)):
        settings = tiny_settings(system, grad_clip_norm=limit)
        model = model_of(system, settings)
        model.init_weights(0)
        optimizer = adamw.AdamW(model, settings, CPU)
        model.loss(torch.randint(1024, (2, 33))).backward()
        before = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        norms = []

        def spy(params=optimizer.params, norms=norms):
            norms.append(torch.stack([p.grad.norm() for p in params]).norm().item())

        optimizer.adamw.step = spy
        norm = optimizer.step(step=2, progress=0.5).item()
        assert before > 1 and norm == pytest.approx(before, rel=1e-4)
        assert norms[0] == pytest.approx(expected or before, rel=1e-4)
        assert optimizer.scale == 1.0
        assert optimizer.adamw.param_groups[0]["lr"] == settings.peak_lr
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("system", SYSTEMS)
def test_half_precision_is_of_products_alone(system):
    """Weights and logits are fp32, hence loss and gradients; in between, rounding is bf16's."""
    settings = tiny_settings(system)
    half = model_of(system, settings, torch.bfloat16).init_weights(0)
    full = model_of(system, settings, torch.float32).init_weights(0)
    tokens = torch.arange(64).view(2, 32)
    logits = half.eval()(tokens)
    assert logits.dtype == half.loss(tokens).dtype == torch.float32
    half.loss(tokens).backward()
    assert all(p.dtype == p.grad.dtype == torch.float32 for p in half.parameters())
    assert 0 < (logits - full.eval()(tokens)).abs().max() < 0.05


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_head_stays_the_embedding_while_it_learns(system):
    """After five steps a token that was never read learned from the head, by one tensor."""
    settings = tiny_settings(system, weight_decay=0.0)
    model = model_of(system, settings)
    model.init_weights(0).eval()
    optimizer = adamw.AdamW(model, settings, CPU)
    tokens = torch.arange(64).view(2, 32)
    assert len({id(p) for p in optimizer.params}) == len(optimizer.params)
    name = "token_embedding.weight" if system == "preln_53m" else "wte.weight"
    table = model.get_parameter(name)
    first = table.detach().clone()
    for step in range(5):
        (model.loss(tokens) / 62).backward()
        optimizer.step(step + 1, step / 5)
    assert model.get_parameter(name) is table
    assert not torch.equal(table[1000], first[1000])
    with torch.no_grad():
        before = model(tokens)
        table[1000] *= 2
        moved = (model(tokens) != before).any(dim=(0, 1)).nonzero().flatten().tolist()
    assert moved == [1000]
    assert sum(p.shape == table.shape for p in optimizer.params) == 1


# Runs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_step_in_parts_is_the_same_step(toy, tmp_path, monkeypatch, system):
    """Eight micro-batches give the losses and weights of one batch."""
    loss_of = {}
    grads_of = {}
    for parts in (1, 8):
        trainer = baseline_trainer(
            toy,
            tmp_path,
            monkeypatch,
            system,
            run_id=f"parts{parts}",
            micro_batch_tokens=256 // parts,
        )
        trainer.model.eval()  # without dropout, which draws otherwise
        assert trainer.batches.parts == parts
        grads = grads_of[parts] = {}

        def keep(step, progress, trainer=trainer, grads=grads):
            grads.update({name: p.grad.clone() for name, p in trainer.model.named_parameters()})
            return torch.zeros(())

        trainer.optimizer.step = keep
        loss_of[parts], _ = trainer.train_step(trainer.batches.get(0), progress=0.0)
    assert abs(loss_of[1] - loss_of[8]) < 1e-6
    for name, grad in grads_of[1].items():
        assert (grad - grads_of[8][name]).abs().max() < 1e-6, name


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_resumed_run_goes_on_as_if_never_stopped(toy, tmp_path, monkeypatch, system):
    """Losses of ten steps, and of five plus five from the checkpoint, dropout included."""
    unbroken = baseline_trainer(
        toy, tmp_path, monkeypatch, system, run_id="unbroken", iterations=10
    )
    unbroken.train(validate=None)
    trainer = baseline_trainer(toy, tmp_path, monkeypatch, system, run_id="first")
    in_two_parts = []
    for _ in range(5):
        loss, _ = trainer.train_step(trainer.batches.get(trainer.step), 0.5)
        in_two_parts.append(loss.item())
    state = saved_state(trainer)
    again = baseline_trainer(toy, tmp_path, monkeypatch, system, run_id="second", seed=1337 + 5)
    again.text = trainer.text
    again.batches.text = trainer.text
    again.settings = trainer.settings  # a resumed run has its seed; only the first weights differ
    again.load(state)
    assert again.step == 5
    for _ in range(5):
        loss, _ = again.train_step(again.batches.get(again.step), 0.5)
        in_two_parts.append(loss.item())
    assert in_two_parts == losses(tmp_path / "logs/unbroken")
    assert in_two_parts[0] > in_two_parts[-1]


def test_a_resumed_rank_draws_its_own_dropout(toy, tmp_path, monkeypatch):
    """The one checkpoint is the first rank's; from it another rank drops what it would have."""
    first = baseline_trainer(toy, tmp_path, monkeypatch, "preln_53m", dropout=0.5)
    batch = first.batches.get(0)
    other = dataclasses.replace(CPU, rank=1)
    first.train_step(batch, 0.0)
    saved = saved_state(first)

    def next_loss(ranks: Ranks) -> float:
        torch.rand(7)  # nothing drawn before counts
        first.load(saved)
        first.ranks = ranks
        return first.train_step(batch, 0.0)[0].item()

    assert next_loss(CPU) == next_loss(CPU) != next_loss(other) == next_loss(other)


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_artifact_holds_the_model_that_was_trained(toy, tmp_path, monkeypatch, system):
    """Packed without a cap, under the recipe's name, read back as nearly the same model."""
    trainer = baseline_trainer(toy, tmp_path, monkeypatch, system, model_dim=64)
    # After six steps measured Hessians foresee nothing; by these relative errors are alike.
    monkeypatch.setattr(trainer, "hessians", lambda weights, _: quantize.flat_hessians(weights))
    trainer.train(validate=None)
    trainer.finish(code_bytes=10**9)
    live = dict(trainer.model.named_parameters())
    assert set(trainer.averages.candidates()) == {"raw"} and trainer.exported == "raw"

    recipe = RECIPES[system]
    opened = open_model(trainer.run.artifact_path)
    assert opened.recipe is recipe and not opened.model.training
    assert opened.seq_len == 32 and opened.path == trainer.run.artifact_path
    tokens = torch.randint(1024, (1, 32))
    with torch.no_grad():
        assert (opened.model(tokens) - trainer.model.eval()(tokens)).abs().max() < 0.05

    # The recipe's name stands wherever a run says what it holds.
    expected = packed_settings(recipe, trainer.settings)
    assert expected["recipe"] == f"baselines.{system}"
    _, in_artifact = quantize.decode(trainer.run.artifact_path.read_bytes())
    weights, in_checkpoint = quantize.load_checkpoint(trainer.run.checkpoint_path)
    assert in_artifact == in_checkpoint == expected
    assert set(weights) == set(live)
    saved = json.loads((trainer.run.path / "settings.json").read_text())
    assert (saved["recipe"], saved["preset"]) == (recipe.name, system)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_matrix_is_packed_as_points(toy, tmp_path, monkeypatch, system):
    """Fused or padded ones too, but for YatNMN's kernels, which are fp16; no cap is needed."""
    trainer = baseline_trainer(toy, tmp_path, monkeypatch, system)
    trainer.train(validate=None)  # at the start what writes into the stream is 0: no gradients
    live = dict(trainer.model.named_parameters())
    budget = Budget(math.inf)
    blob = trainer.recipe.pack(
        live, {}, budget, lambda: trainer.hessians(live, trainer.text.holdout_T)
    )
    _, entries, offset = quantize.read_header(blob)
    with_points = {entry.name for entry, *_ in quantize.read_points(blob, entries, offset)}
    matrices = {name for name, p in live.items() if p.ndim == 2}
    assert with_points == {name for name in matrices if not name.endswith("c_fc.kernel")}


@pytest.mark.parametrize("system", SYSTEMS)
def test_older_files_open(toy, tmp_path, monkeypatch, system):
    """Before recipes had names, files held a system and seq_len."""
    trainer = baseline_trainer(toy, tmp_path, monkeypatch, system)
    settings = dict(trainer.model_settings)
    older = {"system": system, "seq_len": settings.pop("train_seq_len"), **settings}
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    checkpoint = {"model": weights, "exported": "raw", "model_settings": older}
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    plan = (quantize.PlanRow("*", 16),)
    (tmp_path / "artifact.pgz").write_bytes(quantize.encode(weights, plan, older))
    tokens = torch.randint(1024, (1, 32))
    with torch.no_grad():
        expected = trainer.model.eval()(tokens)
        for name in ("checkpoint.pt", "artifact.pgz"):
            opened = open_model(tmp_path / name)
            assert opened.recipe is RECIPES[system] and opened.seq_len == 32
            assert (opened.model(tokens) - expected).abs().max() < 0.01, name
    torch.save(checkpoint | {"model_settings": {**older, "system": "bert"}}, tmp_path / "b.pt")
    with pytest.raises(ValueError, match="system 'bert' is not one of gelu_d12, yat_d12"):
        open_model(tmp_path / "b.pt")


def test_an_older_artifact_without_any_name_is_of_pull_request_334(tmp_path):
    """All that train_gpt.py trained at that time was that model."""
    recipe = pr334.RECIPE
    settings = recipe.model_settings(recipe.Settings(**recipe.presets["smoke"]))
    model = recipe.model(settings, torch.float32).init_weights(0)
    weights = dict(model.named_parameters())
    plan = (quantize.PlanRow("*", 16),)
    path = tmp_path / "artifact.pgz"
    path.write_bytes(quantize.encode(weights, plan, settings))
    opened = open_model(path)
    assert opened.recipe is recipe and opened.model_settings == settings
    path.write_bytes(quantize.encode(weights, plan, {"vocab_size": 1024}))
    with pytest.raises(ValueError, match="its settings name no recipe"):
        open_model(path)


def test_a_run_starts_where_another_ended(toy, tmp_path, monkeypatch):
    """START_FROM gives the first weights; those of another model are refused."""
    base = baseline_trainer(toy, tmp_path, monkeypatch, "gpt2_124m", run_id="base")
    base.train_step(base.batches.get(0), 0.5)
    base.save()
    changes = dict(start_from=str(base.run.checkpoint_path), run_id="next")
    following = baseline_trainer(toy, tmp_path, monkeypatch, "gpt2_124m", **changes)
    for name, p in base.model.named_parameters():
        assert torch.equal(p, following.model.get_parameter(name)), name
    settings = following.settings
    with pytest.raises(ValueError, match="START_FROM=.* holds .*set the sizes that it has"):
        gpt2_124m.RECIPE.text(dataclasses.replace(settings, num_layers=3))
    with pytest.raises(ValueError, match="START_FROM=.* holds .*'baselines.gpt2_124m'"):
        gelu_d12.RECIPE.text(
            tiny_settings("gelu_d12", **toy_paths(toy), start_from=settings.start_from)
        )


@pytest.mark.parametrize(
    "recipe",
    [
        gelu_d12.RECIPE,
        *(pytest.param(r, marks=pytest.mark.slow) for r in [*RECIPES.values(), student.RECIPE]),
    ],
    ids=lambda r: r.name,
)
def test_a_run_keeps_all_that_it_runs(tmp_path, recipe):
    """The copies that a run keeps, and the log counts, import nothing of ours beside them."""
    for name, text in read_sources(recipe).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(text)
    code = f"import sys, {recipe.name} as r; print(*(m.__file__ for m in sys.modules.values()"
    code += " if getattr(m, '__file__', None)))"
    code += "; r.RECIPE.byte_table('none', 7)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert "none" in done.stderr and "ModuleNotFoundError" not in done.stderr, done.stderr
    assert str(ROOT) + "/" not in done.stdout.replace(str(ROOT / ".venv"), "")
    assert str(tmp_path / "engine/trainer.py") in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_a_run_from_start_to_score(toy, tmp_path, system):
    """The command trains, packs, scores and logs; its own sources are kept with the run."""
    settings = {**tiny_fields(RECIPES[system]), **toy_paths(toy), "run_id": "run"}
    run_variables = {**as_variables(settings), "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", f"baselines.{system}"],
        cwd=tmp_path,
        env={**os.environ, **run_variables},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "final val_loss:" in done.stdout and "cap_bytes:inf" in done.stdout
    folder = tmp_path / "logs/run"
    again = subprocess.run(
        [sys.executable, str(ROOT / "evaluate.py"), str(folder / "artifact.pgz")]
        + ["--device", "cpu"],
        capture_output=True,
        text=True,
    )
    (final,) = [line for line in done.stdout.splitlines() if line.startswith("final ")]
    assert final.split(" eval_time")[0] in again.stdout, again.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "system, lr", [("gelu_d12", 1e-2), ("yat_d12", 3e-2), ("gpt2_124m", 3e-3), ("preln_53m", 3e-3)]
)
def test_a_model_can_learn_one_batch_by_heart(system, lr):
    """150 steps on four rows of 64 random bytes bring the loss below 0.1."""
    heads = {"num_kv_heads": 4} if "d12" in system else {}
    settings = settings_of(
        system,
        vocab_size=256,
        num_layers=4,
        model_dim=64,
        num_heads=4,
        **heads,
        train_seq_len=64,
        train_batch_tokens=256,
        micro_batch_tokens=256,
        eval_stride=64,
        peak_lr=lr,
        end_lr=0.0,
        lr_warmup_steps=20,
        lr_decay_steps=150,
        weight_decay=0.1,
        grad_clip_norm=1.0,
    )
    model = model_of(system, settings)
    model.init_weights(0).eval()
    tokens = torch.randint(256, (4, 65), generator=torch.Generator().manual_seed(0))
    optimizer = adamw.AdamW(model, settings, CPU)
    for step in range(150):
        loss = model.loss(tokens) / 256
        loss.backward()
        optimizer.step(step, step / 150)
    assert loss.item() < 0.1
