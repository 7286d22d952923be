"""The field's last stack: loops, lanes and gates are as described; it trains, packs and fits.

The golden losses were made by this file's own recipe, once. They are printed by

    python -m tests.baselines.test_field_stack
"""

import pytest
import torch

import quantize
from baselines import field_stack
from baselines.field_stack import GATE_WINDOW, Settings, lr_scale
from codec import sigma_clip
from engine.open_model import open_model
from engine.ranks import Ranks
from engine.recipe import Budget
from engine.settings import read_settings
from tests.tiny_runs import run_small

RECIPE = field_stack.RECIPE
GOLDEN_LOSSES = [
    6.929733,
    6.220999,
    4.898324,
    4.532488,
    4.49002,
    4.332404,
    4.350791,
    4.192853,
    4.205539,
    4.071292,
]


def smoke_settings(**changes) -> Settings:
    return Settings(**{**field_stack.PRESETS["smoke"], "compile": False, **changes})


def smoke_model(**changes) -> field_stack.GPT:
    settings = smoke_settings(**changes)
    model = RECIPE.model(RECIPE.model_settings(settings), torch.float32)
    RECIPE.init_weights(model, settings)
    return model


def shaken_model(**changes) -> field_stack.GPT:
    """A model whose output projections are not zero, so that every path shows in the logits."""
    model = smoke_model(**changes)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.1)
    return model


def made_up_tokens(step: int, settings: Settings) -> torch.Tensor:
    """A batch by integers alone: the same on every machine."""
    T = settings.train_seq_len + 1
    rows = settings.train_batch_tokens // settings.train_seq_len
    place = torch.arange(rows * T) + 7919 * step
    tokens = (place * place // 3 + 13 * place) % 97 + place % 5
    tokens[place % 61 == 0] = 1  # documents begin inside rows
    return tokens.view(rows, T)


def first_losses() -> list[float]:
    """Nats a token of the first 10 of 20 steps, in fp32, on a quarter of smoke's batch."""
    settings = smoke_settings(train_batch_tokens=512, micro_batch_tokens=512)
    model = RECIPE.model(RECIPE.model_settings(settings), torch.float32)
    RECIPE.init_weights(model, settings)
    optimizer = RECIPE.optimizer(model, settings, Ranks())
    losses = []
    for step in range(10):
        loss = model.loss(made_up_tokens(step, settings)) / settings.train_batch_tokens
        loss.backward()
        optimizer.step(step, progress=step / 20)
        losses.append(loss.item())
    return losses


def runs_of_layers(model: field_stack.GPT) -> list[int]:
    """The layers in the order in which one forward pass runs their MLPs."""
    ran = []
    for i, block in enumerate(model.blocks):
        block.mlp.register_forward_hook(lambda *_, i=i: ran.append(i))
    with torch.no_grad():
        model(torch.tensor([[1, 5, 9]]))
    return ran


def test_the_size_is_that_of_the_field():
    """35,945,671 parameters in the field's log, which has numbers of lanes in all 11 layers."""
    with torch.device("meta"):
        model = RECIPE.model(RECIPE.model_settings(Settings()), torch.float32)
    size = sum(p.numel() for p in model.parameters())
    assert size == 35_945_671 - (11 - 3) * (2 + 4)
    order = [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert model.shape.order(True) == order and model.shape.order(False) == list(range(11))


def test_the_middle_layers_run_as_often_as_stated():
    """Three times where looped, once at first."""
    model = smoke_model()
    assert runs_of_layers(model) == [0, 1, 2, 1, 2, 1, 2, 3]
    unlooped = smoke_model()
    unlooped.is_looped = False
    assert runs_of_layers(unlooped) == [0, 1, 2, 3]
    assert runs_of_layers(smoke_model(loop_repeats=0)) == [0, 1, 2, 3]


def test_flops_count_a_layer_as_often_as_it_runs():
    """8 passes from 35 % of the run on, 4 before; the head once."""
    model = smoke_model()
    D, T = 96, 256
    layer = D * D * 2 + 2 * D * 32 + 2 * 4 * D * D + 3 * GATE_WINDOW
    per_pass = 6 * layer + 6 * D * T
    head = 6 * (1024 * D + GATE_WINDOW)
    assert model.flops_of_pass(T, True) == 8 * per_pass + head
    mean_passes = 0.35 * 4 + 0.65 * 8
    assert model.flops_per_token(T) == pytest.approx(mean_passes * per_pass + head, abs=1)
    always = smoke_model(loop_from=0.0)
    assert always.flops_per_token(T) == model.flops_of_pass(T, True)


def test_loops_begin_at_their_share_of_the_run():
    """The optimizer switches them, and a resumed run has them as they were."""
    settings = smoke_settings(train_batch_tokens=256, micro_batch_tokens=256)
    model = smoke_model()
    assert model.is_looped  # as one that is opened to be scored
    optimizer = RECIPE.optimizer(model, settings, Ranks())
    looped = []
    for step, progress in enumerate((0.0, 0.34, 0.35, 1.0)):
        looped.append(model.is_looped)
        (model.loss(made_up_tokens(step, settings)) / 256).backward()
        optimizer.step(step, progress)
    assert [*looped, model.is_looped] == [False, False, False, True, True]
    other = smoke_model()
    resumed = RECIPE.optimizer(other, settings, Ranks())
    assert not other.is_looped
    resumed.load_state_dict(optimizer.state_dict())
    assert other.is_looped


def test_no_token_sees_a_later_one():
    """With every path open, the last token changes its own logits alone."""
    model = shaken_model()
    tokens = torch.randint(2, 1024, (1, 40), generator=torch.Generator().manual_seed(1))
    changed = tokens.clone()
    changed[0, 30] = 7
    with torch.no_grad():
        differ_T = (model(tokens) - model(changed)).abs().amax(dim=(0, 2))
    assert differ_T[:30].max() < 1e-5 and differ_T[30:].min() > 1e-4
    with torch.no_grad():
        at_places = model.logits_at(tokens, torch.tensor([3, 39]))
        assert torch.allclose(at_places, model(tokens)[0, [3, 39]], atol=1e-5)


def test_nothing_is_smeared_across_a_document_start():
    """The first embedding after BOS is its own."""
    model = shaken_model()
    embedded = []
    model.smear.register_forward_hook(lambda module, inputs, x_BTD: embedded.append(x_BTD))
    with torch.no_grad():
        for first in (5, 6):
            model(torch.tensor([[first, 1, 9, 9]]))
    same = (embedded[0] == embedded[1]).all(-1)[0].tolist()
    assert same == [False, True, True, True]
    x_BTD = torch.randn(1, 3, 96, generator=torch.Generator().manual_seed(2))
    smeared = model.smear(x_BTD, torch.tensor([[True, False, True]]))
    share = model.smear.scale * torch.sigmoid(x_BTD[0, 1, :12] @ model.smear.gate)
    assert torch.allclose(smeared[0, 1], x_BTD[0, 1] + share * x_BTD[0, 0], atol=1e-6)
    assert torch.equal(smeared[0, 2], x_BTD[0, 2])


def test_lanes_are_read_and_written_as_described():
    """Attention reads the first lane with the embedding mixed in, the MLP the second as it is."""
    block = shaken_model().blocks[3]
    rng = torch.Generator().manual_seed(3)
    first, second, x0 = (torch.randn(1, 6, 96, generator=rng) for _ in range(3))
    cos, sin = field_stack.rotary_angles(6, 8, 32, 1e4, first)
    with torch.no_grad():
        lanes = block.between(first, second, x0, cos, sin)
        mixed = block.resid_mix[0] * first + block.resid_mix[1] * x0
        a = block.attn_scale * block.attn(field_stack.norm(mixed) / 2, cos, sin)
        m = block.mlp_scale * block.mlp(field_stack.norm(second) / 2)
        for lane, old, keep, add in zip(
            lanes, (first, second), block.lane_keep, block.lane_add, strict=True
        ):
            assert torch.allclose(lane, keep * old + add[0] * a + add[1] * m, atol=1e-5)


def test_gates_of_heads_and_skips_begin_half_open():
    """With zero weights a head gives half of its output, and a skip is blended half and half."""
    model = smoke_model()
    x, skip = torch.full((1, 1, 96), 2.0), torch.full((1, 1, 96), 6.0)
    assert torch.allclose(model.with_skip(x, skip, 0), torch.full((1, 1, 96), 4.0))
    attention = shaken_model().blocks[0].attn
    x_BTD = torch.randn(1, 5, 96, generator=torch.Generator().manual_seed(4))
    angles = field_stack.rotary_angles(5, 8, 32, 1e4, x_BTD)
    with torch.no_grad():
        attention.gate.zero_()
        half = attention(x_BTD, *angles)
        attention.gate.copy_(1e3 * x_BTD[0, -1, :GATE_WINDOW].expand(3, GATE_WINDOW))
        whole = attention(x_BTD, *angles)
    assert torch.allclose(whole[0, -1], 2 * half[0, -1], atol=1e-5)


def test_the_rate_falls_to_its_floor():
    """Flat for 15 %, then in a line towards zero at the end, which the floor cuts off."""
    settings = Settings()
    rates = [lr_scale(f, settings) for f in (0.0, 0.15, 0.575, 0.95, 1.0)]
    assert rates == pytest.approx([1.0, 1.0, 0.5, 0.1, 0.1])


def test_every_parameter_learns():
    """With loops, within four steps."""
    settings = smoke_settings(loop_from=0.0, train_batch_tokens=256, micro_batch_tokens=256)
    model = smoke_model(loop_from=0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimizer = RECIPE.optimizer(model, settings, Ranks())
    for group in optimizer.adam.param_groups:
        group["weight_decay"] = 0.0
    for step in range(4):
        (model.loss(made_up_tokens(step, settings)) / 256).backward()
        optimizer.step(step, progress=0.5)
    for name, p in model.named_parameters():
        assert not torch.equal(p, before[name]), name


def test_the_first_losses_are_golden():
    """Of ten steps, the last two with loops. Processors differ in the last bits; steps add up."""
    losses = first_losses()
    assert losses == pytest.approx(GOLDEN_LOSSES, rel=5e-3)
    assert losses[:3] == pytest.approx(GOLDEN_LOSSES[:3], rel=1e-5)


def test_what_is_packed_fits_and_decodes(monkeypatch):
    """Under the bound and near it, whatever the bytes; to the weights but for their rounding."""
    monkeypatch.setattr(sigma_clip, "CLOSE_ENOUGH", 0.98)
    weights = {name: p.detach() for name, p in shaken_model().named_parameters()}
    model_settings = {"recipe": RECIPE.name, **RECIPE.model_settings(smoke_settings())}
    hessians = quantize.flat_hessians(weights)
    blob = RECIPE.pack(weights, model_settings, Budget(220_000), lambda: hessians)
    assert 0.97 * 220_000 < len(blob) <= 220_000
    decoded, saved = quantize.decode(blob)
    assert saved == model_settings
    for name, weight in weights.items():
        error = (decoded[name] - weight).square().mean().sqrt()
        assert error < 0.2 * weight.square().mean().sqrt() + 1e-4, name


def test_presets_are_those_of_the_recipe():
    """Without CUDA it is smoke; mini has the bounds of its track and windows of stride 64."""
    assert read_settings(RECIPE, {}, True).settings == Settings()
    assert read_settings(RECIPE, {}, False).preset == "smoke"
    mini = read_settings(RECIPE, {"PRESET": "mini"}, False).settings
    assert (mini.max_train_flops, mini.max_artifact_bytes) == (1e14, 250_000)
    assert mini.eval_documents and mini.eval_stride == 64


def test_settings_of_another_shape_are_refused():
    """By name."""
    model_settings = RECIPE.model_settings(smoke_settings())
    with pytest.raises(ValueError, match=r"settings \['width'\] do not match those of baselines"):
        RECIPE.model({**model_settings, "width": 3}, torch.float32)


@pytest.mark.parametrize(
    "name, value, requirement",
    [
        ("model_dim", 97, "a multiple of NUM_HEADS=3"),
        ("num_kv_heads", 2, "a divisor of NUM_HEADS=3"),
        ("rope_dims", 3, "even and between 2 and MODEL_DIM/NUM_HEADS=32"),
        ("loop_last", 0, "at least LOOP_FIRST=1"),
        ("lanes_from", 2, "above LOOP_LAST=2 and below NUM_LAYERS=4"),
        ("lanes_from", 4, "above LOOP_LAST=2 and below NUM_LAYERS=4"),
        ("loop_from", 1.5, "between 0 and 1"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(name, value, requirement):
    """By variable, value and requirement."""
    with pytest.raises(ValueError, match=f"{name.upper()}={value} must be {requirement}"):
        smoke_settings(**{name: value})


def test_averages_are_saved_and_restored():
    """The horizon is a share of the run, and what was averaged goes on."""
    model = smoke_model()
    averages = RECIPE.averages(model, smoke_settings(ema_frac=0.1))
    with torch.no_grad():
        model.smear.scale.fill_(1.0)
    averages.update(100, 0.5)  # a tenth of 200 steps, but not over (100 + 10) / 9
    assert averages.candidates()["ema"]["smear.scale"].item() == pytest.approx(9 / 110)
    other = RECIPE.averages(model, smoke_settings())
    other.load_state_dict(averages.state_dict())
    assert torch.equal(other.ema["smear.scale"], averages.ema["smear.scale"])


def test_the_file_trains_packs_and_scores(toy, tmp_path, monkeypatch, capsys):
    """`python -m baselines.field_stack` ends with a score from the packed bytes, in its bound."""
    changes = dict(preset="smoke", max_wallclock_seconds=0, rope_dims=4, iterations=5)
    changes |= dict(num_layers=4, max_artifact_bytes=60_000)
    folder = run_small(RECIPE, toy, tmp_path, monkeypatch, **changes)
    assert "final val_loss:" in capsys.readouterr().out
    assert (folder / "artifact.pgz").stat().st_size <= 60_000
    assert (folder / "baselines/field_stack.py").exists()
    assert (folder / "codec/sigma_clip.py").exists()
    opened = open_model(folder)
    assert opened.recipe is RECIPE and opened.model.is_looped


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("GOLDEN_LOSSES =", [round(loss, 6) for loss in first_losses()])
