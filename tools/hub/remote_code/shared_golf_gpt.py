"""What both golf models share: norms, rotation, queries and keys, MLP, smear, pairs, U-Net.

Dimensions: B rows, T new tokens, W new tokens and up to two before them, D hidden_size, H query
heads, G key/value heads, E head_dim.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .shared_gpt import VIRTUAL, SharedAttention, shifted


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


class GolfAttention(SharedAttention):
    """The matrices of an attention; q and k RMS-normed and rotated, q times a gain per head."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        width = config.num_attention_heads * config.head_dim
        kv_width = config.num_key_value_heads * config.head_dim
        self.q = linear(config.hidden_size, width)
        self.k = linear(config.hidden_size, kv_width)
        self.v = linear(config.hidden_size, kv_width)
        self.proj = linear(width, config.hidden_size)
        self.q_gain = nn.Parameter(torch.empty(config.num_attention_heads))

    def split_heads(self, x):
        """(B, T, H*E) -> (B, T, H, E)."""
        return x.view(*x.shape[:2], -1, self.head_dim)

    def queries_and_keys(self, x, angles):
        """q_BHTE and k_BGTE."""
        q_BTHE = norm(self.split_heads(self.q(x)))
        k_BTGE = norm(self.split_heads(self.k(x)))
        q_BTHE = rotate(q_BTHE, *angles) * self.q_gain[:, None]
        k_BTGE = rotate(k_BTGE, *angles)
        return q_BTHE.transpose(1, 2), k_BTGE.transpose(1, 2)


class MLP(nn.Module):
    """Two matrices with a squared ReLU between them."""

    def __init__(self, config):
        super().__init__()
        self.fc = linear(config.hidden_size, config.intermediate_size)
        self.proj = linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        return self.proj(F.relu(self.fc(x)).square())


class SmearGate(nn.Module):
    """Blend each position with the one before, per channel, but never across a document start."""

    def __init__(self, config):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(config.hidden_size))

    def forward(self, x_BWD, begins_BW):
        # A token with nothing before it keeps its own embedding whole.
        share = torch.sigmoid(self.gate) * ~begins_BW[..., None]
        return torch.lerp(x_BWD, shifted(x_BWD, 0), share)


class PairTable(nn.Module):
    """An embedding of (previous token, token), hashed to few rows; the last row: no previous."""

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.pair_rows, config.pair_dim)
        self.proj = linear(config.pair_dim, config.hidden_size)

    def forward(self, tokens_BW, begins_BW):
        # Upstream's hash: two odd factors, so that a pair and its reverse fall apart.
        last = self.table.num_embeddings - 1
        previous = shifted(tokens_BW, 0)
        has_none = begins_BW | (tokens_BW == VIRTUAL) | (previous == VIRTUAL)
        rows = torch.where(has_none, last, (36313 * tokens_BW ^ 27191 * previous) % last)
        return self.proj(self.table(rows))


def through_blocks(blocks, skip_weights, x, *inputs, **options):
    """What the layers make of x: the first half hands its outputs to the second, the last first.

    Of five layers 0 and 1 are handed over, 1 to 2 and 0 to 3.
    """
    skips = []
    for i, block in enumerate(blocks):
        if i >= len(skip_weights) and skips:
            x = x + skip_weights[i - len(skip_weights)] * skips.pop()
        x = block(x, *inputs, **options)
        if i < len(skip_weights):
            skips.append(x)
    return norm(x)
