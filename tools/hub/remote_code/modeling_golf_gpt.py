"""The golf model for transformers; what all published models share is in shared_gpt.py.

Beyond a textbook GPT: a hashed embedding of (previous token, token) and a smear of neighbouring
embeddings at the input, neither across the start of a document; partial RoPE; q and k RMS-normed, q
times a gain per head; normed inputs damped by 1/sqrt(layer + 1); the first half of the layers hands
its outputs to the second half; every layer mixes in the first embedding; softcapped logits.

Dimensions: B rows, T new tokens, W new tokens and up to two before them, D hidden_size, H query
heads, G key/value heads, E head_dim, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_golf_gpt import GolfGPTConfig
from .shared_gpt import (
    VIRTUAL,
    SharedAttention,
    SharedForCausalLM,
    SharedModel,
    SharedPreTrainedModel,
    shifted,
)


def norm(x):
    return F.rms_norm(x, (x.size(-1),))


def linear(in_features, out_features):
    return nn.Linear(in_features, out_features, bias=False)


def rotary_angles(position_ids, config, like):
    """cos and sin of shape (1 or B, T, 1, rope_dims/2)."""
    channel = torch.arange(0, config.rope_dims, 2, device=like.device, dtype=torch.float32)
    freqs = config.rope_theta ** -(channel / config.rope_dims)
    angles = (position_ids[..., None] * freqs)[:, :, None]
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x_BTHE, cos, sin):
    """Turn the first dims of each head by their position; the others pass."""
    half = cos.size(-1)
    a, b, rest = x_BTHE.split([half, half, x_BTHE.size(-1) - 2 * half], dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], dim=-1)


class Attention(SharedAttention):
    """Causal grouped-query attention; q and k RMS-normed and rotated, q times a gain per head."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q = linear(config.hidden_size, width)
        self.k = linear(config.hidden_size, kv_width)
        self.v = linear(config.hidden_size, kv_width)
        self.proj = linear(width, config.hidden_size)
        self.q_gain = nn.Parameter(torch.empty(config.num_attention_heads))

    def forward(self, x, angles, mask, **kwargs):
        heads = (*x.shape[:2], -1, self.head_dim)
        q = rotate(norm(self.q(x).view(heads)), *angles) * self.q_gain[:, None]
        k = rotate(norm(self.k(x).view(heads)), *angles)
        v = self.v(x).view(heads)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # (B, H or G, T, E)
        y, weights = self.attend(q, k, v, mask, **kwargs)
        return self.proj(y), weights


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc = linear(config.hidden_size, config.intermediate_size)
        self.proj = linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        return self.proj(F.relu(self.fc(x)).square())


class Block(GradientCheckpointingLayer):
    """One layer: mix with the first embedding, attention, MLP, each with a scale per channel."""

    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.attn_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.mlp_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.resid_mix = nn.Parameter(torch.empty(2, config.hidden_size))
        self.damping = 1 / math.sqrt(layer + 1)

    def forward(self, x, x0, angles, mask, **kwargs):
        keep, first = self.resid_mix
        x = keep * x + first * x0
        y, _ = self.attn(norm(x) * self.damping, angles, mask, **kwargs)
        x = x + self.attn_scale * y
        return x + self.mlp_scale * self.mlp(norm(x) * self.damping)


class SmearGate(nn.Module):
    """Blend each position with the one before, per channel, but never across a document start."""

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, x_BWD, begins_BW):
        # A token with nothing before it keeps its own embedding whole.
        g = torch.sigmoid(self.gate) * ~begins_BW[..., None]
        return torch.lerp(x_BWD, shifted(x_BWD, 0), g)


class BigramHash(nn.Module):
    """An embedding of (previous token, token), hashed to few rows; the last row: no previous."""

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.bigram_vocab_size, config.bigram_dim)
        self.proj = linear(config.bigram_dim, config.hidden_size)
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, tokens_BW, begins_BW):
        # Upstream's hash: two odd factors, so that a pair and its reverse fall apart.
        last = self.table.num_embeddings - 1
        previous = shifted(tokens_BW, 0)
        has_none = begins_BW | (tokens_BW == VIRTUAL) | (previous == VIRTUAL)
        rows = torch.where(has_none, last, (36313 * tokens_BW ^ 27191 * previous) % last)
        return self.proj(self.table(rows)) * self.scale


class GolfGPTPreTrainedModel(SharedPreTrainedModel):
    config_class = GolfGPTConfig
    _can_record_outputs = {"hidden_states": Block, "attentions": Attention}

    @torch.no_grad()
    def _init_weights(self, module):
        """Those that training starts from."""
        gain = (2 * self.config.num_hidden_layers) ** -0.5
        for name, p in self.parameter_names(module).items():
            match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
                case "bigram", "proj":
                    init.orthogonal_(p, gain)
                case "blocks", "q" | "k" | "v" | "fc":
                    init.orthogonal_(p)
                case _, "table" | "gate" | "proj":
                    init.zeros_(p)
                case _, "attn_scale" | "mlp_scale" | "skip_weights":
                    init.ones_(p)
                case _, "resid_mix":
                    init.copy_(p, torch.tensor([[1.0], [0.0]]).expand_as(p))
                case _, "q_gain":
                    init.constant_(p, self.config.qk_gain_init)
                case "bigram", "scale":
                    init.constant_(p, 0.05)
                case _:  # the embedding, and rows that are added to it
                    init.normal_(p, std=self.config.initializer_range)


class GolfGPTModel(SharedModel, GolfGPTPreTrainedModel):
    """Tokens to the normed residual stream."""

    def __init__(self, config):
        super().__init__(config)
        self.tok_emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.bigram = BigramHash(config)
        self.smear = SmearGate(config)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.num_skips = config.num_hidden_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(self.num_skips, config.hidden_size))
        self.post_init()

    def get_input_embeddings(self):
        return self.tok_emb

    def set_input_embeddings(self, embedding):
        self.tok_emb = embedding

    def run(self, row, **kwargs):
        begins = row.begins_BW | (row.tokens_BW == self.config.bos_token_id)
        x = norm(row.embeddings_BWD + self.bigram(row.tokens_BW, begins))
        x0 = x = self.smear(x, begins)[:, -row.length :]  # (B, T, D)
        angles = rotary_angles(row.position_ids, self.config, x)
        # The first half of the layers hands its outputs to the second half, the last one first.
        skips = []
        for i, block in enumerate(self.blocks):
            if i >= self.num_skips and skips:
                x = x + self.skip_weights[i - self.num_skips] * skips.pop()
            x = block(x, x0, angles, row.masks[None], position_ids=row.position_ids, **kwargs)
            if i < self.num_skips:
                skips.append(x)
        return norm(x)


class GolfGPTForCausalLM(SharedForCausalLM, GolfGPTPreTrainedModel, GenerationMixin):
    model_class = GolfGPTModel
    _tied_weights_keys = {"lm_head.weight": "model.tok_emb.weight"}
