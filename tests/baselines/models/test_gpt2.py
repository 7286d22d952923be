"""GPT-2 124M: golden logits, counts, rows that are no tokens, initial values, cache."""

import dataclasses
import math
import random

import pytest
import torch
import torch.nn.functional as F

from baselines.models.gpt2 import CONFIGS, GPT, Cache, Config, visible
from tests.conftest import golden

SMALL = Config(vocab_size=61, seq_len=64, num_layers=3, model_dim=48, num_heads=4)


def golden_model(config=SMALL, dtype=torch.float32) -> GPT:
    """The model that the golden values are for; they are given for matrices stored (in, out)."""
    model = GPT(config, dtype).to(dtype).init_weights(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ln_" in name:
                continue
            rows = config.vocab_size if name == "wte.weight" else p.size(0)
            if name.startswith("h.") and p.ndim == 2:
                p.copy_(golden(f"transformer.{name}", (p.size(1), rows)).T)
            else:
                p[:rows] = golden(f"transformer.{name}", (rows, *p.shape[1:]))
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


def test_logits_are_those_of_the_specification():
    """Its golden case: single logits, mean loss and sums, in fp32 and in fp64."""
    for dtype in (torch.float32, torch.float64):
        z = logits(golden_model(dtype=dtype), ids(64))[0].double()
        first, last = [6.117991, -10.163470, 5.581189], [-0.443621, -8.147711, 9.822459]
        assert (z[0, :3] - torch.tensor(first)).abs().max() < 5e-5
        assert (z[63, :3] - torch.tensor(last)).abs().max() < 5e-5
        assert abs(F.cross_entropy(z[:-1], ids(64)[0, 1:]).item() - 12.413093) < 1e-5
        assert abs(z.sum() - 37.2165) < 2e-3 and abs(z.square().sum() - 202172.75) < 0.1


def test_the_activation_is_the_tanh_form():
    """Written out, on inputs where it differs from the exact one by 1e-4 and more."""
    mlp = golden_model(dtype=torch.float64).h[0].mlp
    x = torch.linspace(-30, 30, 48, dtype=torch.float64)
    h = x @ mlp.c_fc.weight.T + mlp.c_fc.bias
    cubic = (2 / math.pi) ** 0.5 * (h + 0.044715 * h**3)
    y = (h * (1 + torch.tanh(cubic)) / 2) @ mlp.c_proj.weight.T + mlp.c_proj.bias
    with torch.no_grad():
        assert (mlp(x) - y).abs().max() < 1e-12
        exact = h * (1 + torch.erf(h / 2**0.5)) / 2
        assert (exact - F.gelu(h, approximate="tanh")).abs().max() > 1e-4


def test_parameters_are_counted_exactly():
    """The counts of the specification, padded as trained and unpadded as exported."""
    assert count(on_meta(CONFIGS["gpt2_124m"])) == 124_475_904
    assert count(on_meta(Config(is_padded=False))) == 124_439_808
    assert len(list(on_meta(CONFIGS["gpt2_124m"]).named_parameters())) == 148


def test_counts_follow_the_closed_form():
    """Of random shapes, with rows rounded up to a multiple of 128."""
    rng = random.Random(0)
    for _ in range(5):
        L, T, H, V = rng.randint(1, 5), rng.randint(8, 99), rng.randint(1, 4), rng.randint(129, 256)
        C = H * rng.randint(4, 9)
        config = Config(vocab_size=V, seq_len=T, num_layers=L, model_dim=C, num_heads=H)
        blocks = L * (12 * C * C + 13 * C) + 2 * C
        assert count(on_meta(config)) == 256 * C + T * C + blocks
        assert count(on_meta(dataclasses.replace(config, is_padded=False))) == (V + T) * C + blocks


def test_work_per_token_follows_the_convention_of_llm_c():
    """6 a parameter, padding included, and 6*L*D*T."""
    assert on_meta(CONFIGS["gpt2_124m"]).flops_per_token(1024) == 803_478_528


def test_heads_divide_the_width():
    """A shape that cannot be is refused by field, value and requirement."""
    with pytest.raises(ValueError, match="model_dim=50 must be a multiple of num_heads=4"):
        dataclasses.replace(SMALL, model_dim=50)


def test_no_logit_depends_on_a_later_token():
    """Changing a token leaves every logit before it the same, bit for bit."""
    model, tokens = golden_model(), ids(64)
    changed = tokens.clone()
    changed[0, 30] = (changed[0, 30] + 1) % 58
    before, after = logits(model, tokens)[0], logits(model, changed)[0]
    assert torch.equal(before[:30], after[:30])
    assert not torch.equal(before[30], after[30])


def test_there_is_no_position_beyond_the_context():
    """65 tokens are refused where there are 64 positions, in one forward and through a cache."""
    model, cache = golden_model(), Cache(SMALL)
    with pytest.raises(ValueError, match="65 tokens are more than the 64 positions"):
        model(ids(65))
    logits(model, ids(64), cache=cache)
    with pytest.raises(ValueError, match="65 tokens are more"):
        model(ids(1), cache=cache)


def test_keep_asks_for_the_last_logits_alone():
    """keep=2 returns the last two positions of what keep=0 returns; one token is a sequence."""
    model = golden_model(dtype=torch.float64)  # in fp32 its rounding depends on the processor
    assert torch.allclose(logits(model, ids(9), keep=2), logits(model, ids(9))[:, -2:], atol=1e-10)
    assert torch.allclose(logits(model, ids(1)), logits(model, ids(9))[:, :1], atol=1e-10)


def test_rows_that_are_no_tokens_stay_zero():
    """They have no logit and no gradient, and decay keeps zero at zero."""
    model = GPT(SMALL).init_weights(0)
    assert model.wte.weight.shape == (128, 48) and logits(model, ids(5)).shape == (1, 5, 61)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model.loss(ids(64)).backward()
        assert not model.wte.weight.grad[61:].any() and model.wte.weight.grad[:61].any()
        optimizer.step()
    assert not model.wte.weight[61:].any()


def test_initial_values_are_those_of_the_specification():
    """normal(0.02), outputs 0.02/sqrt(2L), biases 0, gains 1, and the seed decides."""
    model = GPT(SMALL).init_weights(0)
    for name, p in model.named_parameters():
        std = 0.02 / 6**0.5 if "c_proj" in name else 0.02
        if name.endswith("bias"):
            assert not p.any()
        elif "ln_" in name:
            assert torch.equal(p, torch.ones_like(p))
        else:
            values = p[:61] if name == "wte.weight" else p
            assert values.std().item() == pytest.approx(std, rel=0.1), name
    again, other = GPT(SMALL).init_weights(0), GPT(SMALL).init_weights(1)
    assert torch.equal(model.wpe.weight, again.wpe.weight)
    assert not torch.equal(model.wpe.weight, other.wpe.weight)


@pytest.mark.slow
def test_the_full_model_starts_near_a_uniform_guess():
    """Loss of 124M initial weights on random tokens: ln 50257 and half the logits' variance."""
    model = GPT(CONFIGS["gpt2_124m"]).init_weights(42)
    tokens = torch.randint(50_257, (1, 257), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert 10.9 <= model.loss(tokens).item() / 256 <= 11.1


# Cache


def cached_logits(model: GPT, tokens_BT, chunks, valid_BS=None) -> torch.Tensor:
    """Logits of all tokens, computed chunk by chunk through a cache."""
    cache, end, parts = Cache(model.config), 0, []
    for chunk in chunks:
        start, end = end, end + chunk
        valid = None if valid_BS is None else valid_BS[:, :end]
        parts.append(logits(model, tokens_BT[:, start:end], cache=cache, valid_BS=valid))
    assert end == tokens_BT.size(1) == cache.get_seq_length()
    return torch.cat(parts, dim=1)


@pytest.mark.parametrize("chunks", [[1] * 64, [32, 32], [7, 1, 1, 55]])
def test_cached_logits_equal_those_of_one_forward(chunks):
    """However the text is cut: to rounding in fp64 (the golden model is sharp), and in fp32."""
    tokens = torch.cat([ids(64), ids(64, first=1)])
    model = golden_model(dtype=torch.float64)
    assert (cached_logits(model, tokens, chunks) - logits(model, tokens)).abs().max() < 1e-10
    model, rng = GPT(SMALL), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.3, generator=rng)
    assert (cached_logits(model, tokens, chunks) - logits(model, tokens)).abs().max() < 3e-5


@pytest.mark.parametrize("chunks", [[60], [9, 1, 50], [1, 59]])
def test_padding_on_the_left_changes_nothing(chunks):
    """A padded row has the logits of the same text without padding, cached or not."""
    model, text = golden_model(dtype=torch.float64), ids(48)
    tokens = torch.cat([F.pad(text, (12, 0), value=3), ids(60, first=5)])
    valid = torch.ones(2, 60, dtype=torch.bool)
    valid[0, :12] = False
    got = cached_logits(model, tokens, chunks, valid)
    assert got.isfinite().all()
    assert (got[0, 12:] - logits(model, text)[0]).abs().max() < 1e-10
    assert (got[1] - logits(model, ids(60, first=5))[0]).abs().max() < 1e-10


def test_padding_is_seen_by_itself_alone():
    """No row of a mask is empty, and text never sees padding: here two of four."""
    mask = visible(4, 4, torch.tensor([[0, 0, 1, 1]]), "cpu")[0, 0].int().tolist()
    assert mask == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 1]]


def test_reordered_rows_go_on_from_what_they_were():
    """After a reorder each row has the past of the row it was taken from."""
    model, tokens = golden_model(), torch.cat([ids(40, first=i) for i in range(3)])
    order, cache = torch.tensor([2, 0, 0]), Cache(SMALL)
    logits(model, tokens[:, :30], cache=cache)
    cache.reorder_cache(order)
    got = logits(model, tokens[:, 30:], cache=cache)
    mixed = torch.cat([tokens[order, :30], tokens[:, 30:]], dim=1)
    assert (got - logits(model, mixed)[:, 30:]).abs().max() < 3e-5


def test_logits_are_those_of_the_stock_class():
    """transformers' own GPT-2 gives the same logits with the same weights."""
    transformers = pytest.importorskip("transformers", reason="pip install transformers")
    shape = dict(n_layer=3, n_head=4, n_embd=48, n_positions=64, vocab_size=61)
    stock = transformers.GPT2LMHeadModel(transformers.GPT2Config(**shape)).double().eval()
    model = golden_model(dtype=torch.float64)
    state = {}
    for name, p in model.state_dict().items():
        is_matrix = name.startswith("h.") and p.ndim == 2
        state[f"transformer.{name}"] = p.T if is_matrix else p[:61] if "wte" in name else p
    state["lm_head.weight"] = state["transformer.wte.weight"]
    stock.load_state_dict(state)
    with torch.no_grad():
        assert (stock(ids(64)).logits - logits(model, ids(64))).abs().max() < 1e-10
