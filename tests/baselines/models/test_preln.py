"""The pre-LN 53M: logits against a textbook, counts, dropout, tying, initial values, cache."""

import dataclasses
import math
import random

import pytest
import torch
import torch.nn.functional as F

from baselines.models.preln import CONFIGS, GPT, Cache, Config, visible
from tests.conftest import golden

SMALL = Config(vocab_size=61, seq_len=64, num_layers=3, model_dim=48, num_heads=4)


def golden_model(config=SMALL, dtype=torch.float32) -> GPT:
    """Weights that show every path; norms stay at gain 1 and bias 0."""
    model = GPT(config, dtype).to(dtype).init_weights(0).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "ln" not in name:
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


def textbook(weights: dict, tokens_T: torch.Tensor, L: int, H: int) -> torch.Tensor:
    """The same model written out: one head at a time, GELU by its error function."""

    def norm(x, name):
        centred = x - x.mean(-1, keepdim=True)
        spread = (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def linear(x, name):
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    T = len(tokens_T)
    x = weights["token_embedding.weight"][tokens_T] + weights["position_embedding.weight"][:T]
    C = x.size(1)
    E = C // H
    later = torch.ones(T, T, dtype=torch.bool).triu(1)
    for i in range(L):
        qkv = linear(norm(x, f"blocks.{i}.ln1"), f"blocks.{i}.attn.qkv_proj")
        heads = []
        for h in range(H):
            q, k, v = (qkv[:, part * C + h * E :][:, :E] for part in range(3))
            scores = (q @ k.T / math.sqrt(E)).masked_fill(later, -math.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + linear(torch.cat(heads, 1), f"blocks.{i}.attn.out_proj")
        h = linear(norm(x, f"blocks.{i}.ln2"), f"blocks.{i}.ff.fc1")
        h = h * (1 + torch.erf(h / math.sqrt(2))) / 2
        x = x + linear(h, f"blocks.{i}.ff.fc2")
    head = weights.get("lm_head.weight", weights["token_embedding.weight"])
    return norm(x, "ln_f") @ head.T


@pytest.mark.parametrize("tied", [True, False])
def test_logits_are_those_of_a_textbook(tied):
    """In fp64 to rounding, in fp32 to 5e-5; dropout is off."""
    config = dataclasses.replace(SMALL, tied=tied)
    exact = golden_model(config, torch.float64).train()  # scoring drops nothing
    expected = textbook(exact.state_dict(), ids(64)[0], 3, 4)
    assert (logits(exact, ids(64))[0] - expected).abs().max() < 1e-11
    assert (logits(golden_model(config), ids(64))[0] - expected).abs().max() < 5e-5


def test_parameters_are_counted_exactly():
    """The counts of the specification, with the head tied and not."""
    assert count(on_meta(CONFIGS["preln_53m"])) == 33_691_776
    assert count(on_meta(CONFIGS["preln_53m_untied"])) == 52_990_464
    assert len(list(on_meta(CONFIGS["preln_53m"]).named_parameters())) == 100


def test_counts_follow_the_closed_form():
    """Of random shapes."""
    rng = random.Random(0)
    for _ in range(5):
        L, T, H, V = rng.randint(1, 5), rng.randint(8, 99), rng.randint(1, 4), rng.randint(60, 99)
        C, tied = H * rng.randint(4, 9), rng.random() < 0.5
        config = Config(
            vocab_size=V, seq_len=T, num_layers=L, model_dim=C, num_heads=H, tied=tied
        )  # fmt: skip
        expected = (V + T) * C + L * (12 * C * C + 13 * C) + 2 * C + (0 if tied else V * C)
        assert count(on_meta(config)) == expected


def test_parameter_names_are_those_of_the_card():
    """Names are what is published."""
    names = set(dict(on_meta(SMALL).named_parameters()))
    parts = ("ln1", "attn.qkv_proj", "attn.out_proj", "ln2", "ff.fc1", "ff.fc2")
    assert {f"blocks.{i}.{part}.bias" for i in range(3) for part in parts} <= names
    assert {"token_embedding.weight", "position_embedding.weight", "ln_f.weight"} <= names
    assert "lm_head.weight" in dict(on_meta(CONFIGS["preln_53m_untied"]).named_parameters())


def test_work_per_token_follows_the_convention_of_llm_c():
    """6 a parameter and 6*L*D*T."""
    assert on_meta(CONFIGS["preln_53m"]).flops_per_token(512) == 6 * 33_691_776 + 6 * 8 * 384 * 512


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(model_dim=50), "model_dim=50 must be a multiple of num_heads=4"),
        (dict(dropout=1.0), "dropout=1.0 must be at least 0 and below 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes, message):
    """By field, value and requirement."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMALL, **changes)


def test_dropout_acts_in_training_alone():
    """The loss of a module in training mode is random, that of eval mode and all logits are not."""
    model = golden_model()
    assert torch.equal(model.loss(ids(64)), model.loss(ids(64)))
    model.train()
    assert not torch.equal(model.loss(ids(64)), model.loss(ids(64)))
    assert torch.equal(logits(model, ids(64)), logits(model, ids(64)))
    without = golden_model(dataclasses.replace(SMALL, dropout=0.0)).train()
    assert torch.equal(without.loss(ids(64)), model.eval().loss(ids(64)))


def test_dropout_acts_in_five_places(monkeypatch):
    """After the embedding, on attention's probabilities and output, inside and after the MLP."""
    rates, shapes = [], []
    real = F.scaled_dot_product_attention

    def attention(q, k, v, dropout_p=0.0, **options):
        rates.append(dropout_p)
        return real(q, k, v, **options)

    def dropout(x, p):
        shapes.append((x.size(-1), p))
        return x

    monkeypatch.setattr(F, "scaled_dot_product_attention", attention)
    monkeypatch.setattr(F, "dropout", dropout)
    golden_model().train().loss(ids(64))
    assert rates == [0.1] * 3
    assert shapes == [(48, 0.1)] + [(48, 0.1), (192, 0.1), (48, 0.1)] * 3


def test_the_head_stays_the_embedding_while_it_learns():
    """After five steps there is one tensor, listed once; untied there are two that differ."""
    for tied in (True, False):
        model = GPT(dataclasses.replace(SMALL, tied=tied)).init_weights(0)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for _ in range(5):
            optimizer.zero_grad()
            model.loss(ids(64)).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            before = model(ids(9))
            model.token_embedding.weight[60] += 1  # a token that is not in the text
            moved = (model(ids(9)) != before).any(dim=(0, 1)).nonzero().flatten().tolist()
        assert moved == ([60] if tied else [])


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
    model = golden_model()
    assert torch.allclose(logits(model, ids(9), keep=2), logits(model, ids(9))[:, -2:], atol=1e-5)
    assert torch.allclose(logits(model, ids(1)), logits(model, ids(9))[:, :1], atol=1e-5)


def test_initial_values_are_those_of_the_specification():
    """normal(0.02) throughout, biases 0, gains 1, and the seed decides."""
    model = GPT(dataclasses.replace(SMALL, tied=False)).init_weights(0)
    for name, p in model.named_parameters():
        if name.endswith("bias"):
            assert not p.any()
        elif "ln" in name:
            assert torch.equal(p, torch.ones_like(p))
        else:
            assert p.std().item() == pytest.approx(0.02, rel=0.1), name
    again, other = GPT(SMALL).init_weights(0), GPT(SMALL).init_weights(1)
    assert torch.equal(model.token_embedding.weight, again.token_embedding.weight)
    assert not torch.equal(again.token_embedding.weight, other.token_embedding.weight)


@pytest.mark.slow
def test_the_full_model_starts_near_a_uniform_guess():
    """Loss of the initial weights on random tokens: ln 50257 and half the logits' variance."""
    model = GPT(CONFIGS["preln_53m"]).init_weights(0).eval()
    tokens = torch.randint(50_257, (1, 257), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert 10.8 <= model.loss(tokens).item() / 256 <= 11.0


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
    model, text = golden_model(), ids(48)
    tokens = torch.cat([F.pad(text, (12, 0), value=3), ids(60, first=5)])
    valid = torch.ones(2, 60, dtype=torch.bool)
    valid[0, :12] = False
    got = cached_logits(model, tokens, chunks, valid)
    assert got.isfinite().all()
    assert (got[0, 12:] - logits(model, text)[0]).abs().max() < 3e-5
    assert (got[1] - logits(model, ids(60, first=5))[0]).abs().max() < 3e-5


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
