"""The golf model for transformers; the cache is in token_cache.py.

Beyond a textbook GPT: a hashed embedding of (previous token, token) and a smear of neighbouring
embeddings at the input, neither across the start of a document; partial RoPE; q and k RMS-normed, q
times a gain per head; normed inputs damped by 1/sqrt(layer + 1); the first half of the layers hands
its outputs to the second half; every layer mixes in the first embedding; softcapped logits.

Dimensions: B rows, T new tokens, S all tokens so far, D hidden_size, H query heads, G key/value
heads, E head_dim, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin, PreTrainedModel

from .configuration_golf_gpt import GolfGPTConfig
from .token_cache import WithTokenCache


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def positions(past, T, valid_BS, device):
    """Of the last T tokens, (1 or B, T). The first one that is no padding is at 0.

    Attention sees differences alone, so that all places plus one number would do as well; but far
    from 0 the angles are coarser, and a padded row would not have quite the logits of one alone.
    """
    if valid_BS is None:
        return torch.arange(past, past + T, device=device)[None]
    return valid_BS.long().cumsum(dim=1)[:, -T:] - 1


def rotary_angles(positions_BT, config, like):
    """cos and sin of shape (1 or B, T, 1, rope_dims/2)."""
    channel = torch.arange(0, config.rope_dims, 2, device=like.device, dtype=torch.float32)
    freqs = config.rope_theta ** -(channel / config.rope_dims)
    angles = (positions_BT[..., None] * freqs)[:, :, None]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x_BTHE, cos, sin):
    """Turn the first dims of each head by their position; the others pass."""
    half = cos.size(-1)
    a, b, rest = x_BTHE.split([half, half, x_BTHE.size(-1) - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


def visible(T, S, valid_BS, device):
    """Mask (1 or B, 1, T, S) of what the last T of S tokens see: all before, and themselves.

    A token of padding is seen by itself alone, so that no row of the mask is empty. None where
    plain causal attention does.
    """
    if valid_BS is None and (T == 1 or T == S):
        return None
    distance = torch.arange(S - T, S, device=device)[:, None] - torch.arange(S, device=device)
    mask = (distance >= 0)[None, None]
    if valid_BS is not None:
        mask = mask & (valid_BS[:, None, None].bool() | (distance == 0))
    return mask


def linear(in_features, out_features):
    return nn.Linear(in_features, out_features, bias=False)


class Attention(nn.Module):
    """Causal grouped-query attention; q and k RMS-normed and rotated, q times a gain per head."""

    def __init__(self, config, layer):
        super().__init__()
        self.layer, self.E = layer, config.head_dim
        width, kv_width = (
            heads * self.E for heads in (config.num_attention_heads, config.num_key_value_heads)
        )
        self.q = linear(config.hidden_size, width)
        self.k = linear(config.hidden_size, kv_width)
        self.v = linear(config.hidden_size, kv_width)
        self.proj = linear(width, config.hidden_size)
        self.q_gain = nn.Parameter(torch.empty(config.num_attention_heads))

    def forward(self, x, angles, mask, cache):
        B, T, _ = x.shape
        q, k, v = (part(x).view(B, T, -1, self.E) for part in (self.q, self.k, self.v))
        q = rotate(norm(q), *angles) * self.q_gain[:, None]
        k = rotate(norm(k), *angles)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H or G, T, E)
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        causal = mask is None and T > 1
        y = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True
        )
        return self.proj(y.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc = linear(config.hidden_size, config.intermediate_size)
        self.proj = linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        return self.proj(F.relu(self.fc(x)).square())


class Block(nn.Module):
    """One layer: mix with the first embedding, attention, MLP, each with a scale per channel."""

    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.attn_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.mlp_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.resid_mix = nn.Parameter(torch.empty(2, config.hidden_size))
        self.damping = 1 / math.sqrt(layer + 1)

    def forward(self, x, x0, angles, mask, cache):
        keep, first = self.resid_mix
        x = keep * x + first * x0
        x = x + self.attn_scale * self.attn(norm(x) * self.damping, angles, mask, cache)
        return x + self.mlp_scale * self.mlp(norm(x) * self.damping)


class SmearGate(nn.Module):
    """Blend each position with the one before, per channel, but never across a document start."""

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, x, starts_BT):
        g = torch.sigmoid(self.gate) * ~starts_BT[..., None]
        return torch.lerp(x, F.pad(x[:, :-1], (0, 0, 1, 0)), g)


class BigramHash(nn.Module):
    """An embedding of (previous token, token), hashed to few rows; the last row: no previous."""

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.bigram_vocab_size, config.bigram_dim)
        self.proj = linear(config.bigram_dim, config.hidden_size)
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, tokens_BT, starts_BT):
        none = self.table.num_embeddings - 1
        previous = F.pad(tokens_BT[:, :-1], (1, 0))
        rows = torch.where(starts_BT, none, (36313 * tokens_BT ^ 27191 * previous) % none)
        return self.proj(self.table(rows)) * self.scale


class GPT(nn.Module):
    """The trunk: tokens to the normed residual stream."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.tok_emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.bigram = BigramHash(config)
        self.smear = SmearGate(config)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.num_skips = config.num_hidden_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(self.num_skips, config.hidden_size))

    def embed(self, tokens_BS, T, valid_BS):
        """Embeddings of the last T tokens; the first token, and one after padding, has none before.

        They depend on two tokens more: the first new token is smeared with the one before it, whose
        bigram reads the one before that.
        """
        tokens = tokens_BS[:, -(T + 2) :]
        starts = tokens == self.config.bos_token_id
        starts[:, 0] = True  # nothing is before it, or else it is one of the two and not used
        if valid_BS is not None:
            starts[:, 1:] |= ~valid_BS[:, -(T + 2) : -1].bool()
        x = norm(self.tok_emb(tokens) + self.bigram(tokens, starts))
        return self.smear(x, starts)[:, -T:]

    def forward(self, tokens_BT, cache, valid_BS, keep):
        """Of the new tokens, or of the last `keep` of them; the cache takes in what is new."""
        T = tokens_BT.size(1)
        past = 0 if cache is None else cache.get_seq_length()
        seen_BS = tokens_BT if cache is None else cache.see(tokens_BT)
        x0 = x = self.embed(seen_BS, T, valid_BS)  # (B, T, D)
        angles = rotary_angles(positions(past, T, valid_BS, x.device), self.config, x)
        mask = visible(T, past + T, valid_BS, x.device)
        skips = []
        for i, block in enumerate(self.blocks):
            if i >= self.num_skips and skips:
                x = x + self.skip_weights[i - self.num_skips] * skips.pop()
            x = block(x, x0, angles, mask, cache)
            if i < self.num_skips:
                skips.append(x)
        return norm(x[:, -keep:])

    @torch.no_grad()
    def init_parameter(self, name, p):
        """Set one parameter to its initial values: those that training starts from.

        Raises: AssertionError for a parameter that has no rule.
        """

        def orthogonal(gain=1.0):  # in fp32: there is no QR of half precision
            p.copy_(nn.init.orthogonal_(torch.empty_like(p, dtype=torch.float32), gain=gain))

        match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
            case "tok_emb" | "lm_head", _:
                p.normal_(std=self.config.initializer_range)
            case "bigram", "proj":
                orthogonal((2 * len(self.blocks)) ** -0.5)
            case "blocks", "q" | "k" | "v" | "fc":
                orthogonal()
            case _, "table" | "gate" | "proj":
                p.zero_()
            case _, "attn_scale" | "mlp_scale" | "skip_weights":
                p.fill_(1.0)
            case _, "resid_mix":
                p[0].fill_(1.0)
                p[1].zero_()
            case _, "q_gain":
                p.fill_(self.config.qk_gain_init)
            case "bigram", "scale":
                p.fill_(0.05)
            case _:
                raise AssertionError(f"init_parameter has no rule for {name}")


class GolfGPTForCausalLM(WithTokenCache, PreTrainedModel, GenerationMixin):
    config_class = GolfGPTConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _tied_weights_keys = {"lm_head.weight": "model.tok_emb.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.model = GPT(config)
        self.lm_head = linear(config.hidden_size, config.vocab_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.tok_emb

    def set_input_embeddings(self, embedding):
        self.model.tok_emb = embedding

    def get_output_embeddings(self):
        return self.lm_head

    def logits(self, tokens_BT, cache, valid_BS, keep):
        z = self.lm_head(self.model(tokens_BT, cache, valid_BS, keep))
        z = z.to(torch.promote_types(z.dtype, torch.float32))
        cap = self.config.final_logit_softcapping
        return cap * torch.tanh(z / cap)
