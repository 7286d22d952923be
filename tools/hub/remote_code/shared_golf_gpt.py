"""What both golf models share: norms, rotation, queries and keys.

Dimensions: B rows, T new tokens, D hidden_size, H query heads, G key/value heads, E head_dim.
"""

import torch
import torch.nn.functional as F
from torch import nn

from .shared_gpt import SharedAttention


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
