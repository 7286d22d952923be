"""Our recipe: its settings, model, optimizer, schedule, averages and packing."""

import copy
import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import evaluate
import quantize
import train_gpt
from engine.memory import Memory
from engine.recipe import Budget
from tests.tiny_runs import (
    CPU,
    TINY,
    environment,
    plain_table,
    run,
    tiny,
    tiny_model,
    tokens,
)
from train_gpt import GATE_WINDOW, GPT, Settings


def test_default_recipe_has_its_published_size():
    """The field's layers without loops."""
    with torch.device("meta"):
        model = GPT(Settings(vocab_size=8192), torch.float32)
    # The field's log, less numbers of lanes in the layers without, and three skips of its loops.
    of_field = 35_945_671 - (11 - 3) * (2 + 4) - 3 * 2 * 512
    size = sum(p.numel() for p in model.parameters())
    assert size == of_field
    assert len(model.skip_weights) == 5
    of_layer = 2 * 512**2 + 2 * 512 * 256 + 2 * 4 * 512**2 + 8 * 12  # the last term: gates
    products = 11 * of_layer + 12 + 8192 * 512
    assert model.flops_per_token(1024) == 6 * products + 6 * 11 * 512 * 1024


def test_every_parameter_moves_within_three_steps():
    """No part of the model is dead; a table and its projection both at zero would never move."""
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


def test_the_smear_does_not_cross_a_document_start():
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
    model.smear.scale.data.fill_(5.0)
    assert torch.equal(model(x)[:, 0], before[:, 0])
    assert not torch.equal(model(x)[:, 1], before[:, 1])


def test_a_channel_turns_with_its_partner_in_the_second_half():
    """The example of the docstring; in bf16, which training uses, the same bits as written out."""
    cos, sin = torch.tensor([0.0, 0, 1, 1]), torch.tensor([-1.0, 1])
    turned = train_gpt.rotate(torch.tensor([3.0, 4, 5, 6])[None, None, None], cos, sin)
    assert turned.flatten().tolist() == [-4, 3, 5, 6]
    x = torch.randn(2, 9, 3, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    cos, sin = train_gpt.rotary_angles(9, 4, 8, 100.0, x)
    a, b, rest = x.split([2, 2, 4], dim=-1)
    c, s = cos[..., :2], sin[..., 2:]
    written_out = torch.cat([a * c - b * s, a * s + b * c, rest], dim=-1)
    assert torch.equal(train_gpt.rotate(x, cos, sin), written_out)


def test_attention_equals_its_definition():
    """Grouped heads, q and k normed and turned, gain, no own value, gate: loops in float64."""
    settings = tiny(num_heads=4, num_kv_heads=2, model_dim=32)
    attn, T, E = tiny_model(num_heads=4, num_kv_heads=2, model_dim=32).blocks[0].attn.double(), 7, 8
    x = torch.randn(1, T, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cos, sin = train_gpt.rotary_angles(T, settings.rope_dims, E, settings.rope_base, x)

    def turned(vector, t):
        vector = vector / (vector.square().mean() + torch.finfo(torch.float64).eps).sqrt()
        out = vector.clone()
        for i in range(settings.rope_dims // 2):
            angle = torch.tensor(
                t * settings.rope_base ** (-2 * i / settings.rope_dims), dtype=torch.float32
            )
            c, s, j = angle.cos().double(), angle.sin().double(), i + settings.rope_dims // 2
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
            own = v[t, h // 2] / v[t, h // 2].norm()
            attended = torch.stack(score).softmax(0) @ v[: t + 1, h // 2]
            open_part = torch.sigmoid(0.5 * x[0, t, :GATE_WINDOW] @ attn.gate[h])
            heads[t, h] = open_part * (attended - (attended @ own) * own)
    expected = attn.proj(heads.reshape(1, T, 32))
    torch.testing.assert_close(attn(x, cos, sin), expected, rtol=1e-5, atol=1e-5)


def test_attention_compiled_for_a_cpu_is_the_same(monkeypatch):
    """The products written out equal the kernel, values and gradients, for grouped heads."""
    rng = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 9, 8), (2, 2, 9, 8), (2, 2, 9, 8)]
    grads = []
    for is_compiling in (False, True):
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda value=is_compiling: value)
        rng.manual_seed(0)
        qkv = [torch.randn(shape, generator=rng, requires_grad=True) for shape in shapes]
        y_BHTE = train_gpt.causal_attention(*qkv)
        grads.append([y_BHTE, *torch.autograd.grad(y_BHTE.square().sum(), qkv)])
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_lanes_are_read_and_written_as_described():
    """Attention reads the first lane with the embedding mixed in, the MLP the second as it is."""
    model = tiny_model(num_layers=4)
    assert [block.has_lanes for block in model.blocks] == [False, False, False, True]
    block = model.blocks[3]
    rng = torch.Generator().manual_seed(3)
    first, second, x0 = (torch.randn(1, 6, 16, generator=rng) for _ in range(3))
    angles = train_gpt.rotary_angles(6, 4, 8, 1e4, first)
    with torch.no_grad():
        lanes = block.between(first, second, x0, *angles)
        mixed = block.resid_mix[0] * first + block.resid_mix[1] * x0
        a = block.attn_scale * block.attn(train_gpt.norm(mixed) / 2, *angles)
        m = block.mlp_scale * block.mlp(train_gpt.norm(second) / 2)
        for lane, old, keep, add in zip(
            lanes, (first, second), block.lane_keep, block.lane_add, strict=True
        ):
            assert torch.allclose(lane, keep * old + add[0] * a + add[1] * m, atol=1e-5)


def test_gates_of_heads_and_skips_begin_half_open():
    """With zero weights a skip is blended half and half, and a head gives half of its output."""
    model = GPT(tiny(), torch.float32).init_weights(0)
    x, skip = torch.full((1, 1, 16), 2.0), torch.full((1, 1, 16), 6.0)
    assert torch.allclose(model.with_skip(x, skip, 0), torch.full((1, 1, 16), 4.0))
    attention = tiny_model().blocks[0].attn
    x_BTD = torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(4))
    angles = train_gpt.rotary_angles(5, 4, 8, 1e4, x_BTD)
    with torch.no_grad():
        attention.gate.zero_()
        half = attention(x_BTD, *angles)
        attention.gate.copy_(1e3 * x_BTD[0, -1, :GATE_WINDOW].expand(2, GATE_WINDOW))
        whole = attention(x_BTD, *angles)
    assert torch.allclose(whole[0, -1], 2 * half[0, -1], atol=1e-5)


def test_loss_is_the_mean_of_the_scorer():
    """The trainer's loss and evaluate.py agree on the same tokens."""
    model, x = tiny_model(), tokens(1, 33)
    scheme = evaluate.Scheme(seq_len=32, stride=32)
    score = evaluate.score_windows(model, x[0].numpy(), plain_table(), scheme)
    assert score.loss == pytest.approx(model.loss(x).item() / 32, rel=1e-5)


def test_an_unknown_parameter_has_no_initial_value_by_accident():
    """init_weights raises on a parameter it has no rule for."""
    model = GPT(tiny(), torch.float32)
    model.extra = torch.nn.Parameter(torch.zeros(3))
    with pytest.raises(AssertionError, match="no rule for extra"):
        model.init_weights(0)


def test_initial_weights_are_as_described():
    """Orthogonal matrices, and output projections of zero."""
    model = GPT(tiny(), torch.float32).init_weights(0)
    q, fc = model.blocks[1].attn.q.weight, model.blocks[1].mlp.fc.weight
    torch.testing.assert_close(q @ q.T, torch.eye(16), atol=1e-5, rtol=0)
    torch.testing.assert_close(fc.T @ fc, torch.eye(16), atol=1e-5, rtol=0)
    assert not model.blocks[1].attn.proj.weight.any() and not model.blocks[1].mlp.proj.weight.any()
    assert model.tok_emb.weight.std().item() == pytest.approx(0.005, rel=0.05)


def test_polar_express_makes_singular_values_one():
    """All of a matrix of condition 100 end near one."""
    rng = torch.Generator().manual_seed(0)
    u, _ = torch.linalg.qr(torch.randn(24, 24, generator=rng))
    v, _ = torch.linalg.qr(torch.randn(40, 24, generator=rng))
    matrix = u @ torch.diag(torch.logspace(0, -2, 24)) @ v.T
    singular = torch.linalg.svdvals(train_gpt.polar_express(matrix[None])[0])
    assert singular.min() > 0.85 and singular.max() < 1.15


@pytest.mark.parametrize("shape", [(8, 24), (24, 8)])
def test_rows_weigh_alike_in_an_update(shape):
    """A gradient and the same with one row a thousand times larger give one update."""
    updates = []
    for factor in (1.0, 1000.0):
        p = torch.nn.Parameter(torch.zeros(shape))
        p.grad = torch.randn(shape, generator=torch.Generator().manual_seed(5))
        p.grad[3] *= factor
        optimizer = train_gpt.Muon([p], CPU)
        optimizer.param_groups[0].update(lr=1.0)
        optimizer.step()
        updates.append(p.detach().clone())
    assert torch.allclose(updates[0], updates[1], atol=1e-4)
    scale = math.sqrt(max(1.0, shape[0] / shape[1]))
    assert torch.linalg.matrix_norm(updates[0], 2) == pytest.approx(scale, rel=0.15)


def test_every_parameter_is_in_one_group():
    """The groups are disjoint and cover the model; a parameter used twice is an error."""
    model = GPT(tiny(), torch.float32)
    groups = model.param_groups()
    assert len(groups["embedding"]) == 1 and len(groups["matrix"]) == 3 * 6
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    model.twice = train_gpt.Linear(4, 4)
    model.twice.weight = model.blocks[0].attn.q.weight
    with pytest.raises(AssertionError, match="not in exactly one group"):
        model.param_groups()


def test_the_rate_stays_and_falls_to_its_floor():
    """Flat, then in a line towards zero over the last warmdown_frac, which the floor cuts off."""
    settings = tiny(warmdown_frac=0.5, min_lr=0.2)
    scales = [train_gpt.lr_scale(p, settings) for p in (0.0, 0.5, 0.75, 0.95, 1.0)]
    assert scales == pytest.approx([1.0, 1.0, 0.5, 0.2, 0.2])
    flat = tiny(warmdown_frac=0.0)
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
        norms = []
        optimizers.muon.step = lambda norms=norms, model=model: norms.append(
            torch.cat([p.grad.flatten() for p in model.parameters()]).norm().item()
        )
        model.loss(tokens(2, 33)).backward()
        before = optimizers.step(0, 0.5).item()
        assert before > 0.5
        assert norms[0] == pytest.approx(expected or before, rel=1e-3)


@pytest.mark.parametrize(
    "changes, message",
    [(dict(train_batch_tokens=99), "TRAIN_BATCH_TOKENS=99 must be a multiple of TRAIN_SEQ_LEN=32"),
     (dict(train_batch_tokens=2**33), "TRAIN_BATCH_TOKENS=8589934592 must be .* at most 2"),
     (dict(model_dim=15), "MODEL_DIM=15 must be a multiple of NUM_HEADS=2"),
     (dict(num_kv_heads=3), "NUM_KV_HEADS=3 must be a divisor of NUM_HEADS=2"),
     (dict(rope_dims=3), "ROPE_DIMS=3 must be even"), (dict(min_lr=2.0), "MIN_LR=2.0 must be"),
     (dict(eval_stride=33), "EVAL_STRIDE=33 must be at most"), (dict(seed=-1), "SEED=-1 must be")],
)  # fmt: skip
def test_unusable_values_are_refused_by_name(changes, message):
    """The error says name, value and requirement before anything starts."""
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


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


def test_the_training_loss_is_one_graph_and_is_compiled_once():
    """No graph break, and no second compilation once warm-up has seen the shapes."""
    settings = tiny()
    model = GPT(settings, torch.float32).init_weights(0)
    loss_fn = train_gpt.RECIPE.training_loss(model, settings)
    torch._dynamo.reset()
    explained = torch._dynamo.explain(loss_fn)(tokens(2, 33), None)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(loss_fn, backend=counter)
    optimizers = train_gpt.Optimizers(model, settings, CPU)
    for step in range(4):
        # As the rehearsal does: what it changed is put back, and gradients begin as None.
        compiled(tokens(2, 33, seed=step), None).backward()
        optimizers.step(step, progress=0.1 * step)
        assert counter.frame_count == 1
    torch._dynamo.reset()


@pytest.mark.gpu
def test_the_full_recipe_runs_on_a_gpu(toy, tmp_path):
    """Thirty compiled bf16 steps of the default recipe learn, and the device is known."""
    env = environment(toy, run_id="gpu")
    ours = {name.upper() for name in TINY} | {"PRESET", "OMP_NUM_THREADS"}
    env = {name: value for name, value in env.items() if name not in ours}
    env |= {"PRESET": "record", "ITERATIONS": "30", "MAX_WALLCLOCK_SECONDS": "0"}
    env |= {"VOCAB_SIZE": "1024"}  # of the toy text
    output = run(tmp_path, env)
    fields = [json.loads(line) for line in (tmp_path / "logs/gpu/metrics.jsonl").open()][-1]
    assert fields["train_loss"] < 5.0
    assert "model_params:" in output and "mfu:unknown" not in output
    assert "attention kernel:" in output and "kernel:MATH" not in output


def test_the_artifact_is_packed_by_the_trellis():
    """Under the size that is asked for, with the model's settings, and close to the weights."""
    model = tiny_model()
    weights = model.state_dict()
    settings = {"recipe": "train_gpt", **train_gpt.RECIPE.model_settings(tiny())}
    blob = train_gpt.RECIPE.pack(
        weights, settings, Budget(20_000), lambda: quantize.flat_hessians(weights)
    )
    decoded, saved = quantize.decode(blob)
    assert len(blob) <= 20_000 and saved == settings
    for name, weight in weights.items():
        assert (decoded[name] - weight).norm() < 0.2 * weight.norm(), name


def test_a_model_of_other_settings_is_refused():
    """The settings that differ are named."""
    own = train_gpt.RECIPE.model_settings(tiny())
    assert train_gpt.RECIPE.model(own, torch.float32).shape.model_dim == 16
    with pytest.raises(ValueError, match=r"\['extra'\] do not match those of train_gpt"):
        train_gpt.RECIPE.model({**own, "extra": 1}, torch.float32)


@pytest.mark.parametrize("parts", [[29], [1] * 29, [7, 16, 6]])
def test_a_document_is_read_in_parts_as_in_one(parts):
    """Logits do not depend on the parts; within the window they are those without a memory."""
    model = tiny_model()
    tokens_BT = tokens(2, 29)
    tokens_BT[0, 11] = evaluate.BOS_ID
    plain_BTV = model(tokens_BT)
    for window in (29, 8):
        memory = Memory(window)
        outputs = []
        for part_BT in tokens_BT.split(parts, dim=1):
            places = torch.arange(part_BT.numel())
            logits_SV = model.logits_at(part_BT, places, memory)
            outputs.append(logits_SV.unflatten(0, part_BT.shape))
        read_BTV = torch.cat(outputs, dim=1)
        first = slice(0, min(window, 29))
        torch.testing.assert_close(read_BTV[:, first], plain_BTV[:, first])
    assert not torch.allclose(read_BTV, plain_BTV)  # a window of 8 hides what lay before


@pytest.mark.parametrize(
    "preset, layers, parameters, bits",
    [("record", 11, 35_942_551, 3.49), ("h100_10min", 8, 27_284_313, 4.60)],
)
def test_presets_for_gpus_have_their_published_size(preset, layers, parameters, bits):
    """What README and forecasts say; and bits a parameter that the trellis was measured at."""
    settings = Settings(**train_gpt.PRESETS[preset])
    with torch.device("meta"):
        model = GPT(settings, torch.float32)
    size = sum(p.numel() for p in model.parameters())
    assert (settings.num_layers, size) == (layers, parameters)
    # The code that a run counts is about 305,000 bytes.
    assert 8 * (quantize.CAP_BYTES - 305_000) / size == pytest.approx(bits, abs=0.01)
    products = model.flops_per_token(0) // 6
    of_layer = 2 * 512**2 + 2 * 512 * 256 + 2 * 4 * 512**2 + 8 * GATE_WINDOW
    assert products == layers * of_layer + 512 * 8192 + GATE_WINDOW


def test_the_long_run_on_one_gpu_is_the_record_but_for_its_time():
    """Eighty minutes of one are ten of eight; what is tried on one then holds for the record."""
    record = Settings(**train_gpt.PRESETS["record"])
    long = Settings(**train_gpt.PRESETS["h100_80min"])
    assert long == dataclasses.replace(record, max_wallclock_seconds=4800.0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["record", "h100_10min"])
def test_a_preset_trains_and_resumes_at_its_full_shape(preset):
    """Two steps more after a checkpoint are the two of a run that went on, loss for loss."""
    settings = Settings(**train_gpt.PRESETS[preset])
    losses = {}
    state = {}
    for part, steps in (("first", range(4)), ("resumed", range(2, 4))):
        model = GPT(settings, torch.float32).init_weights(0 if part == "first" else 1)
        optimizers = train_gpt.Optimizers(model, settings, CPU)
        if part == "resumed":
            model.load_state_dict(state["model"])
            optimizers.load_state_dict(state["optimizer"])
        for step in steps:
            if step == 2 and part == "first":
                state = copy.deepcopy(
                    {"model": model.state_dict(), "optimizer": optimizers.state_dict()}
                )
            loss = model.loss(tokens(1, 65)) / 64
            loss.backward()
            optimizers.step(step, progress=0.1)
            losses[part, step] = loss.item()
    assert losses["first", 2] == losses["resumed", 2]
    assert losses["first", 3] == losses["resumed", 3] < losses["first", 0]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["record", "h100_10min"])
def test_a_preset_is_packed_under_the_cap_at_its_full_shape(preset):
    """Made-up weights and flat Hessians end within a thousandth of the cap."""
    settings = train_gpt.RECIPE.model_settings(Settings(**train_gpt.PRESETS[preset]))
    with torch.device("meta"):
        model = train_gpt.RECIPE.model(settings, torch.float32)
    rng = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(p.shape, generator=rng) for name, p in model.named_parameters()}
    most_bytes = quantize.CAP_BYTES - 305_000
    hessians = quantize.flat_hessians(weights)
    blob = train_gpt.RECIPE.pack(
        weights, {"recipe": "train_gpt", **settings}, Budget(most_bytes), lambda: hessians
    )
    assert 0.999 * most_bytes <= len(blob) <= most_bytes
