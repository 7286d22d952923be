"""The nanochat-style d12: golden logits, counts, windows, smear, Yat, initial values, cache."""

import dataclasses
import math
import random

import pytest
import torch
import torch.nn.functional as F

from baselines.models import d12
from baselines.models.d12 import CONFIGS, GPT, Attention, Cache, Config, Yat
from tests.conftest import golden

SMALL = Config(vocab_size=61, seq_len=256, num_layers=4, model_dim=48, num_heads=4, num_kv_heads=2)
KEPT = ("resid_lambdas", "x0_lambdas", "backout_lambda")


def golden_model(config=SMALL, dtype=torch.float32) -> GPT:
    """The model that the golden values are for."""
    model = GPT(config, dtype).to(dtype).init_weights(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name == "smear_lambda":
                p.fill_(0.5)
            elif name not in KEPT and name.split(".")[-1] not in ("bias", "epsilon_param", "alpha"):
                p.copy_(golden(name, p.shape))
    return model


def ids(T: int, first: int = 0) -> torch.Tensor:
    t = torch.arange(first, first + T)
    return ((7 * t + 3 * t * t) % (SMALL.vocab_size - 3))[None]


@torch.no_grad()
def logits(model: GPT, tokens_BT: torch.Tensor, **options) -> torch.Tensor:
    return model(tokens_BT, **options)


def on_meta(config: Config) -> GPT:
    with torch.device("meta"):
        return GPT(config)


def count(model: GPT) -> int:
    return sum(p.numel() for p in model.parameters())


# Golden values

GOLDEN = {0: [5.269216, -3.139589, -1.826270], 100: [0.862956, 3.498907, -4.793112],
          199: [5.300363, -5.061665, 0.524755]}  # fmt: skip


def test_logits_are_those_of_the_specification():
    """Its golden case: single logits, mean loss and sums, in fp32 and in fp64."""
    for dtype in (torch.float32, torch.float64):
        z = logits(golden_model(dtype=dtype), ids(200))[0].double()
        for t, first_three in GOLDEN.items():
            assert (z[t, :3] - torch.tensor(first_three)).abs().max() < 5e-5
        assert abs(F.cross_entropy(z[:-1], ids(200)[0, 1:]).item() - 7.511470) < 1e-5
        assert abs(z.sum() - 188.7693) < 2e-3 and abs(z.square().sum() - 138197.83) < 0.1


@pytest.mark.parametrize("mlp", ["yat", "yat_neuron"])
def test_a_yat_model_is_the_same_trunk_with_another_formula(mlp, monkeypatch):
    """Logits equal those of the trunk with the formula written out over pairs, in fp64."""
    model = golden_model(dataclasses.replace(SMALL, mlp=mlp), torch.float64)
    squares = logits(model, ids(200)).square().sum().item()
    assert squares == pytest.approx(218929.9838, abs=1e-3)  # ours: biases begin equal
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.c_fc.bias.copy_(golden("bias", block.mlp.c_fc.bias.shape))
    got = logits(model, ids(200))

    def by_pairs(layer: Yat, x: torch.Tensor) -> torch.Tensor:
        dot = torch.einsum("btd,df->btf", x, layer.kernel)
        between = (x[:, :, None] - layer.kernel.T).square().sum(-1)
        bias, epsilon = (torch.log1p(p.exp()) for p in (layer.bias, layer.epsilon_param))
        return layer.alpha * (dot + bias) ** 2 / (between + epsilon)

    monkeypatch.setattr(Yat, "forward", by_pairs)
    assert (logits(model, ids(200)) - got).abs().max() < 1e-9


# Counts


@pytest.mark.parametrize(
    "config, parameters",
    [
        (CONFIGS["gelu_d12"], 261_096_338),
        (CONFIGS["yat_d12"], 261_096_374),
        (CONFIGS["yat_neuron_d12"], 261_133_226),
        (Config(tied=False), 286_262_162),
    ],
)
def test_parameters_are_counted_exactly(config, parameters):
    """The counts of the specification, without allocating a weight."""
    assert count(on_meta(config)) == parameters


@pytest.mark.parametrize(
    "depth, parameters",
    [(2, 8_781_878), (4, 28_311_682), (6, 60_948_734), (8, 109_052_330), (16, 503_318_074)],
)
def test_the_series_of_depths_has_the_counts_of_upstream(depth, parameters):
    """Width 64 a layer and one head for 64 channels give the sizes of nanochat's scaling table."""
    config = Config(
        num_layers=depth, model_dim=64 * depth, num_heads=depth, num_kv_heads=depth
    )  # fmt: skip
    assert count(on_meta(config)) == parameters


def test_counts_follow_the_closed_form():
    """Of random shapes: grouped heads, odd depths, vocabularies that are no multiple of 64."""
    rng = random.Random(0)
    for _ in range(5):
        K, d, L, V = rng.choice([1, 2, 3]), 2 * rng.randint(6, 20), rng.randint(1, 7), 64 * 3
        H, mlp, tied = K * rng.choice([1, 2]), rng.choice(["gelu", "yat", "yat_neuron"]), L % 2 == 0
        C, kv, n_ve = H * d, K * d, (L + 1) // 2
        config = Config(
            vocab_size=V - rng.randrange(64), num_layers=L, model_dim=C, num_heads=H,
            num_kv_heads=K, mlp=mlp, tied=tied,
        )  # fmt: skip
        expected = V * C + n_ve * V * kv + L * (2 * C * C + 2 * C * kv) + L * 8 * C * C
        expected += n_ve * 12 * K + 2 * L + 24 + 1 + 1 + (0 if tied else V * C)
        expected += {"gelu": 0, "yat": 3 * L, "yat_neuron": L * (4 * C + 2)}[mlp]
        assert count(on_meta(config)) == expected


def test_parameter_names_are_the_published_ones():
    """90 tensors of the GELU model, 126 of the other; Yat stores its kernel (in, out)."""
    names = dict(on_meta(CONFIGS["gelu_d12"]).named_parameters())
    assert len(names) == 90
    assert tuple(names["blocks.1.attn.ve_gate.weight"].shape) == (12, 12)
    assert {f"blocks.0.attn.{part}.weight" for part in ("c_q", "c_k", "c_v", "c_proj")} <= set(
        names
    )
    assert {"wte.weight", "value_embeds.11.weight", "smear_gate.weight"} <= set(names)
    yat = dict(on_meta(CONFIGS["yat_d12"]).named_parameters())
    assert len(yat) == 126
    assert tuple(yat["blocks.0.mlp.c_fc.kernel"].shape) == (768, 3072)
    assert {"bias", "epsilon_param", "alpha", "kernel"} == {
        name.split(".")[-1] for name in yat if "blocks.0.mlp.c_fc" in name
    }


def test_work_per_token_follows_the_conventions():
    """llm.c: 6 a parameter and 6*L*D*T; nanochat: of products and of the window alone."""
    model, untied = on_meta(CONFIGS["gelu_d12"]), on_meta(Config(tied=False))
    assert model.flops_per_token(1024) == 6 * 261_096_338 + 6 * 12 * 768 * 1024
    assert model.product_flops_per_token(1024) == 710_153_424
    assert untied.product_flops_per_token(1024) == 710_153_424
    for T, seen in ((128, 12 * 128), (512, 9 * 256 + 3 * 512)):
        assert untied.product_flops_per_token(T) == 710_153_424 - 12 * 768 * (5376 - seen)


@pytest.mark.parametrize(
    "changes, message",
    [(dict(mlp="relu"), "mlp='relu' must be gelu, yat or yat_neuron"),
     (dict(num_kv_heads=5), "num_kv_heads=5 must be a divisor of num_heads=12"),
     (dict(model_dim=770), r"model_dim=770 must be a multiple of 2\*num_heads=24"),
     (dict(model_dim=16, num_heads=2, num_kv_heads=2), "model_dim=16 must be at least 24")],
)  # fmt: skip
def test_shapes_that_cannot_be_are_refused(changes, message):
    """By field, value and requirement."""
    with pytest.raises(ValueError, match=message):
        Config(**changes)


# Architecture


@pytest.mark.parametrize(
    "seq_len, short",
    [(128, 128), (256, 128), (512, 128), (1000, 256), (1024, 256), (2048, 512), (4096, 1024)],
)
def test_short_windows_are_a_quarter_in_steps_of_128(seq_len, short):
    """Three short windows, then a long one; the last layer is always long."""
    S, L = short, seq_len
    assert Config(seq_len=seq_len).windows == (S, S, S, L) * 3
    assert dataclasses.replace(SMALL, seq_len=seq_len, num_layers=5).windows == (S, S, S, L, L)


@pytest.mark.parametrize("depth, layers", [(12, {1, 3, 5, 7, 9, 11}), (3, {0, 2}), (1, {0})])
def test_value_embeddings_alternate_and_end_with_the_last_layer(depth, layers):
    """The layers of the specification own a table and a gate, and no others."""
    model = on_meta(dataclasses.replace(SMALL, num_layers=depth))
    assert {int(i) for i in model.value_embeds} == layers
    assert {i for i, b in enumerate(model.blocks) if hasattr(b.attn, "ve_gate")} == layers


def test_no_logit_depends_on_a_later_token():
    """Changing a token leaves every logit before it the same, bit for bit."""
    model, tokens = golden_model(), ids(150)
    changed = tokens.clone()
    changed[0, 70] = (changed[0, 70] + 1) % 58
    before, after = logits(model, tokens)[0], logits(model, changed)[0]
    assert torch.equal(before[:70], after[:70])
    assert not torch.equal(before[70], after[70])


@pytest.mark.parametrize("layer, window", [(0, 128), (3, 512)])
def test_a_layer_sees_its_window_and_itself(layer, window):
    """One layer alone carries token 5 to the window's tokens after it, and beyond the context too.

    The long layers slide as well: a token more than seq_len back is out of sight.
    """
    model = golden_model(dataclasses.replace(SMALL, seq_len=512))
    with torch.no_grad():
        model.smear_lambda.zero_()
        for i, block in enumerate(model.blocks):
            if i != layer:
                block.attn.c_proj.weight.zero_()
    tokens = ids(600)
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 58
    moved = (logits(model, tokens) != logits(model, changed)).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == list(range(5, 5 + window + 1))


def test_logits_are_softcapped():
    """However large the weights, no logit is beyond 15, and padding rows have none."""
    model = golden_model()
    with torch.no_grad():
        model.wte.weight.mul_(1e3)
    z = logits(model, ids(50))
    assert z.shape == (1, 50, 61) and z.abs().max() <= 15


def test_one_token_is_a_sequence():
    """A forward of one token works and is the first position of a longer one."""
    model = golden_model()
    assert torch.allclose(logits(model, ids(1)), logits(model, ids(20))[:, :1], atol=1e-5)


def test_keep_asks_for_the_last_logits_alone():
    """keep=2 returns the last two positions of what keep=0 returns."""
    model = golden_model()
    assert torch.allclose(logits(model, ids(9), keep=2), logits(model, ids(9))[:, -2:], atol=1e-5)


def test_backout_takes_off_what_the_middle_layer_left():
    """The head reads norm(x - lambda * x after block L // 2); without smear its gate is mute."""
    model, left = golden_model(), []
    for block in model.blocks:
        block.register_forward_hook(lambda block, args, x: left.append(x))
    with torch.no_grad():
        for factor in (0.2, 0.0, 3.0):
            model.backout_lambda.fill_(factor)
            left.clear()
            z = model(ids(40))
            head = d12.norm(left[3] - factor * left[2]) @ model.wte.weight[:61].T
            assert torch.allclose(z, 15 * torch.tanh(head / 15), atol=1e-5)
        model.smear_lambda.zero_()
        before = model(ids(40))
        model.smear_gate.weight.add_(1.0)
        assert torch.equal(model(ids(40)), before)


def test_smear_reads_the_embedding_as_looked_up():
    """x_t = e_t + lambda * sigmoid(w . e_t[:24]) * e_(t-1), the first one as it is."""
    model = golden_model()
    with torch.no_grad():
        e = F.rms_norm(model.wte(ids(30)), (48,), eps=1e-6)
        x = model.embed(ids(30), 30, None)
        gate = torch.sigmoid(e[0, 1:, :24] @ model.smear_gate.weight[0])
        expected = e[0, 1:] + 0.5 * gate[:, None] * e[0, :-1]
    assert torch.equal(x[:, 0], e[:, 0])
    assert torch.allclose(x[0, 1:], expected, atol=1e-6)


def test_queries_and_keys_have_one_length(monkeypatch):
    """|q| = |k| = 1.2 sqrt(head_dim), so that no score is beyond 1.44 sqrt(head_dim)."""
    seen = []
    real = F.scaled_dot_product_attention

    def spy(q, k, v, **options):
        seen.extend((q, k))
        return real(q, k, v, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", spy)
    logits(golden_model(), ids(20))
    assert len(seen) == 8
    for part in seen:
        lengths = part.norm(dim=-1) / (1.2 * math.sqrt(12))
        assert (lengths - 1).abs().max() < 1e-4


def test_rope_turns_backwards_and_by_distance():
    """A unit vector at position 1 becomes (cos 1, .., -sin 1, ..); products see distances only."""
    config = Config(model_dim=64, num_heads=1, num_kv_heads=1)
    unit = torch.zeros(1, 1, 2, 64)
    unit[..., 0] = 1
    cos, sin = d12.rotary_angles(0, 2, config, unit)
    turned = d12.rotate(unit, cos, sin)[0, 0, 1]
    assert turned[0].item() == pytest.approx(math.cos(1), abs=1e-6)
    assert turned[32].item() == pytest.approx(-math.sin(1), abs=1e-6)
    assert math.acos(cos[1, 1].item()) == pytest.approx(0.69783058, rel=1e-5)
    assert math.asin(sin[1, 31].item()) == pytest.approx(1.4330126e-5, rel=1e-5)
    rng = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 64, generator=rng).expand(2, 1, 1, 9, 64)
    q, k = (d12.rotate(part, *d12.rotary_angles(3, 9, config, unit))[0, 0] for part in (q, k))
    products = q @ k.T
    for distance in range(-8, 9):
        diagonal = products.diagonal(distance)
        assert (diagonal - diagonal[0]).abs().max() < 1e-4


def test_grouped_heads_repeat_keys_in_order():
    """Query head h uses key/value head h // (H / G), as with keys repeated by hand."""
    grouped = golden_model()
    config = dataclasses.replace(SMALL, num_kv_heads=4)
    full = GPT(config).init_weights(0)
    state = grouped.state_dict()

    def repeat(weight, rows):
        return weight.view(2, rows, -1).repeat_interleave(2, 0).reshape(4 * rows, -1)

    for name, weight in state.items():
        if name.endswith(("c_k.weight", "c_v.weight")):
            state[name] = repeat(weight, 12)
        if name.endswith("ve_gate.weight"):
            state[name] = repeat(weight, 1)
        if name.startswith("value_embeds"):
            state[name] = repeat(weight.T, 12).T
    full.load_state_dict(state)
    assert torch.allclose(logits(full, ids(30)), logits(grouped, ids(30)), atol=1e-5)


# Yat


def test_yat_has_the_values_worked_out_by_hand():
    """x = (1, 2) on the unit vectors, with the initial bias, epsilon and alpha."""
    layer = Yat(2, 2, 1)
    for name, p in layer.named_parameters():
        GPT.init_parameter(golden_model(), f"blocks.0.mlp.c_fc.{name}", p)
    with torch.no_grad():
        layer.kernel.copy_(torch.eye(2))
        y = layer(torch.tensor([1.0, 2.0]))
    assert y.tolist() == pytest.approx([0.7165077168, 3.6247085138], rel=1e-6)
    assert F.softplus(layer.epsilon_param).item() == pytest.approx(0.001, rel=1e-6)


def yat(features: int, neurons: int, seed: int = 0) -> tuple[Yat, torch.Tensor]:
    """A layer with its initial values, and normed inputs."""
    model = GPT(dataclasses.replace(SMALL, mlp="yat")).init_weights(seed)
    layer, rng = Yat(features, neurons, 1), torch.Generator().manual_seed(seed)
    for name, p in layer.named_parameters():
        model.init_parameter(f"blocks.0.mlp.c_fc.{name}", p, rng)
    return layer, d12.norm(torch.randn(50, features, generator=rng))


def test_yat_is_computed_in_fp32_whatever_comes_in():
    """Within 2e-4 of fp64 in fp32, and the same under autocast and for bf16 input."""
    layer, x = yat(768, 256)
    with torch.no_grad():
        exact = layer.double()(x.double())
        y = layer.float()(x)
        large = exact > 1e-6
        assert ((y - exact).abs() / exact)[large].max() < 2e-4 and large.float().mean() > 0.9
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(layer(x), y)
            half = x.bfloat16()
            assert torch.equal(layer(half), layer(half.float()).bfloat16())


def test_yat_is_positive_and_finite_where_input_meets_kernel():
    """No negative value for a positive alpha; a distance of 0 gives finite numbers and slopes."""
    layer, x = yat(48, 32)
    assert layer(x).min() >= 0
    x = layer.kernel.detach()[:, 3].clone().requires_grad_()
    y = layer(x)
    y.sum().backward()
    assert y.isfinite().all() and y[3] > 100 and x.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in layer.parameters())
    with torch.no_grad():  # rounding makes some of these distances negative, and larger than e
        layer.kernel.mul_(1000)
        assert layer(layer.kernel.T).min() >= 0


# Initial values


def test_initial_values_are_those_of_the_specification():
    """Lambdas slope, outputs are zero, other matrices keep to their bounds."""
    model = GPT(SMALL).init_weights(0)
    assert model.resid_lambdas.tolist() == pytest.approx([1.15 - 0.1 * i / 3 for i in range(4)])
    assert model.x0_lambdas.tolist() == pytest.approx([0.2 - 0.15 * i / 3 for i in range(4)])
    assert (model.smear_lambda.item(), model.backout_lambda.item()) == (0, pytest.approx(0.2))
    bounds = {"c_q": 0.25, "c_k": 0.25, "c_v": 0.25, "c_fc": 0.1, "value_embeds": 0.25}
    for name, p in model.named_parameters():
        part = next((key for key in bounds if key in name), "")
        if part:
            assert 0.95 * bounds[part] < p.abs().max() <= bounds[part], name
            assert abs(p.mean()) < 0.1 * bounds[part]
        elif "c_proj" in name:
            assert not p.any()
        elif "gate" in name:
            assert p.min() >= 0 and 0.01 < p.max() <= 0.02
    assert model.wte.weight.std().item() == pytest.approx(0.02, rel=0.1)
    large = GPT(dataclasses.replace(SMALL, mlp="yat", tied=False)).init_weights(0)
    assert large.blocks[0].mlp.c_fc.kernel.std().item() == pytest.approx((2 / 240) ** 0.5, rel=0.1)
    assert large.lm_head.weight.std().item() == pytest.approx(0.001, rel=0.1)


def test_every_seed_has_its_own_weights():
    """The same seed gives the same weights, another gives others."""
    first, again, other = (GPT(SMALL).init_weights(seed).wte.weight for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_parameter_without_a_rule_is_an_error():
    """A new parameter cannot be forgotten by init_weights."""
    model = GPT(SMALL)
    model.blocks[0].novelty = torch.nn.Parameter(torch.zeros(1))
    with pytest.raises(AssertionError, match="no rule for blocks.0.novelty"):
        model.init_weights(0)


@pytest.mark.parametrize("mlp", ["gelu", "yat"])
def test_what_learns_in_the_first_step(mlp):
    """Behind zero matrices nothing gets a gradient, the zero matrices themselves and wte do."""
    model = GPT(dataclasses.replace(SMALL, mlp=mlp)).init_weights(0)
    model.loss(ids(65)).backward()
    for name, p in model.named_parameters():
        learns = "c_proj" in name or name in ("wte.weight", "smear_lambda")
        if not name.endswith("_lambdas") and name != "backout_lambda":  # noise: norm follows
            assert bool(p.grad.any()) == learns, name


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes, low, high",
    [
        (dict(), 11.6, 12.2),
        (dict(embed_init_std=0.8), 22, 24),
        (dict(embed_init_std=0.8, tied=False), 10.39, 10.41),
    ],
)
def test_the_full_model_starts_where_the_specification_says(changes, low, high):
    """Loss of 261M initial weights on random tokens: near ln V only with an untied head."""
    model = GPT(Config(**changes)).init_weights(0)
    tokens = torch.randint(32_768, (1, 257), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert low <= model.loss(tokens).item() / 256 <= high


# Cache


def cached_logits(model: GPT, tokens_BT, chunks, valid_BS=None, cache=None) -> torch.Tensor:
    """Logits of all tokens, computed chunk by chunk through a cache."""
    cache, end, parts = cache or Cache(model.config), 0, []
    for chunk in chunks:
        start, end = end, end + chunk
        valid = None if valid_BS is None else valid_BS[:, :end]
        parts.append(logits(model, tokens_BT[:, start:end], cache=cache, valid_BS=valid))
    assert end == tokens_BT.size(1) == cache.get_seq_length()
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("mlp", ["gelu", "yat"])
@pytest.mark.parametrize("chunks", [[160] * 2, [7, 1, 1, 311], [300, *[1] * 20]])
def test_cached_logits_equal_those_of_one_forward(mlp, chunks):
    """However the text is cut, also past both windows: smear goes on over the cut."""
    model = golden_model(dataclasses.replace(SMALL, mlp=mlp))
    tokens = torch.cat([ids(320), ids(320, first=1)])
    got = cached_logits(model, tokens, chunks)
    assert (got - logits(model, tokens)).abs().max() < 3e-5


@pytest.mark.slow
def test_cached_logits_one_by_one_over_600_tokens():
    """A token at a time to more than twice the context."""
    model = golden_model()
    got = cached_logits(model, ids(600), [1] * 600)
    assert (got - logits(model, ids(600))).abs().max() < 3e-5


def test_a_cache_holds_its_windows_and_no_more():
    """After 320 tokens: 128 keys in the short layers, 256 in the long one."""
    model, cache = golden_model(), Cache(SMALL)
    cached_logits(model, ids(320), [320], cache=cache)
    assert [k.size(2) for k, _ in cache.layers] == [128, 128, 128, 256]


@pytest.mark.parametrize("chunks", [[170], [9, 1, 150, 10], [1, 169]])
def test_padding_on_the_left_changes_nothing(chunks):
    """A padded row has the logits of the same text without padding, cached or not."""
    model, text = golden_model(), ids(150)
    tokens = torch.cat([F.pad(text, (20, 0), value=3), ids(170, first=5)])
    valid = torch.ones(2, 170, dtype=torch.bool)
    valid[0, :20] = False
    padded = logits(model, tokens, valid_BS=valid)
    assert padded.isfinite().all()
    assert (padded[0, 20:] - logits(model, text)[0]).abs().max() < 3e-5
    assert (padded[1] - logits(model, ids(170, first=5))[0]).abs().max() < 3e-5
    got = cached_logits(model, tokens, chunks, valid)
    assert (got - padded)[valid].abs().max() < 3e-5


def test_padding_is_seen_by_itself_alone():
    """No row of a mask is empty, and text never sees padding: here two of six, the window one."""
    valid = torch.tensor([[0, 0, 1, 1, 1, 1]])
    mask = d12.visible(4, 6, 1, valid, "cpu")[0, 0].int().tolist()
    assert mask == [[0, 0, 1, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 1, 1]]
    assert d12.visible(6, 6, 1, valid, "cpu")[0, 0, :2].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 0, 0],
    ]


def test_reordered_rows_go_on_from_what_they_were():
    """After a reorder each row has the past of the row it was taken from, smear included."""
    model, tokens = golden_model(), torch.cat([ids(150, first=i) for i in range(3)])
    order = torch.tensor([2, 0, 0])
    cache = Cache(SMALL)
    cached_logits(model, tokens[:, :140], [140], cache=cache)
    cache.reorder_cache(order)
    got = logits(model, tokens[:, 140:], cache=cache)
    mixed = torch.cat([tokens[order, :140], tokens[:, 140:]], dim=1)
    assert (got - logits(model, mixed)[:, 140:]).abs().max() < 3e-5


def test_attention_knows_its_layer():
    """The layer number, by which the cache is addressed, is that of the list."""
    assert [block.attn.layer for block in on_meta(SMALL).blocks] == [0, 1, 2, 3]
    assert Attention(SMALL, 3).layer == 3
