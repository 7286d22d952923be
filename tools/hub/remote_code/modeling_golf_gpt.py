"""The golf model for transformers; what all published models share is in shared_gpt.py.

Beyond a textbook GPT: a smear of neighbouring embeddings at the input, and in every layer a hashed
embedding of (previous token, token), neither across the start of a document; partial RoPE; q and k
RMS-normed, q times a gain per head; every other layer adds a row of its own table, that of the
token, to the values; attention brings nothing along a position's own value; normed inputs damped by
1/sqrt(layer + 1); the first half of the layers hands its outputs to the second half; every layer
mixes in the first embedding; softcapped logits.

Dimensions: B rows, T new tokens, W new tokens and up to two before them, D hidden_size, H query
heads, G key/value heads, R = H/G, E head_dim, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_golf_gpt import GolfGPTConfig
from .shared_golf_gpt import (
    MLP,
    GolfAttention,
    PairTable,
    SmearGate,
    norm,
    rotary_angles,
    through_blocks,
)
from .shared_gpt import VIRTUAL, SharedForCausalLM, SharedModel, SharedPreTrainedModel


def without_own_value(y_BTHE, v_BGTE):
    """Take out of each head's output its part along the position's own value.

    For y = (3, 4) and v = (2, 0): (0, 4).
    """
    own_BTG1E = F.normalize(v_BGTE, dim=-1).transpose(1, 2)[:, :, :, None]
    y_BTGRE = y_BTHE.unflatten(2, (v_BGTE.size(1), -1))
    along_BTGR1 = (y_BTGRE * own_BTG1E).sum(dim=-1, keepdim=True)
    return (y_BTGRE - along_BTGR1 * own_BTG1E).flatten(2, 3)


class Attention(GolfAttention):
    """Causal grouped-query attention, with a table of values by token in every other layer."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.value_table = None
        if config.has_value_table(layer):
            kv_width = config.num_key_value_heads * config.head_dim
            self.value_table = nn.Embedding(config.vocab_size, kv_width)
            self.value_scale = nn.Parameter(torch.empty(()))

    def values(self, x, tokens_BT):
        """v_BGTE; a virtual token has no row in the table."""
        v = self.v(x)
        if self.value_table is not None:
            rows = self.value_table(tokens_BT.clamp(min=0)) * (tokens_BT != VIRTUAL)[..., None]
            v = v + self.value_scale * rows
        return self.split_heads(v).transpose(1, 2)

    def forward(self, x, tokens_BT, angles, mask, **kwargs):
        q, k = self.queries_and_keys(x, angles)
        v = self.values(x, tokens_BT)
        y, weights = self.attend(q, k, v, mask, **kwargs)
        y = without_own_value(self.split_heads(y), v)
        return self.proj(y.flatten(2)), weights


class Block(GradientCheckpointingLayer):
    """One layer: mix in the first embedding and the pairs, then attention and MLP, each scaled."""

    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.pair_weight = nn.Parameter(torch.empty(()))
        self.attn_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.mlp_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.resid_mix = nn.Parameter(torch.empty(2, config.hidden_size))
        self.damping = 1 / math.sqrt(layer + 1)

    def forward(self, x, x0, pairs, tokens_BT, angles, mask, **kwargs):
        keep, first = self.resid_mix
        x = keep * x + first * x0 + self.pair_weight * pairs
        y, _ = self.attn(norm(x) * self.damping, tokens_BT, angles, mask, **kwargs)
        x = x + self.attn_scale * y
        return x + self.mlp_scale * self.mlp(norm(x) * self.damping)


class GolfGPTPreTrainedModel(SharedPreTrainedModel):
    config_class = GolfGPTConfig
    _can_record_outputs = {"hidden_states": Block, "attentions": Attention}

    @torch.no_grad()
    def _init_weights(self, module):
        """Those that training starts from."""
        for name, p in self.parameter_names(module).items():
            match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
                case ("pairs", "proj") | ("blocks", "q" | "k" | "v" | "fc"):
                    init.orthogonal_(p)
                case _, "table" | "value_table" | "gate" | "proj":
                    init.zeros_(p)
                case _, "attn_scale" | "mlp_scale" | "value_scale" | "skip_weights":
                    init.ones_(p)
                case _, "resid_mix":
                    init.copy_(p, torch.tensor([[1.0], [0.0]]).expand_as(p))
                case _, "q_gain":
                    init.constant_(p, self.config.qk_gain_init)
                case _, "pair_weight":
                    init.constant_(p, 0.1)
                case _:  # the embedding, and rows that are added to a table
                    init.normal_(p, std=self.config.initializer_range)


class GolfGPTModel(SharedModel, GolfGPTPreTrainedModel):
    """Tokens to the normed residual stream."""

    def __init__(self, config):
        super().__init__(config)
        self.tok_emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.pairs = PairTable(config)
        self.smear = SmearGate(config)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        num_skips = config.num_hidden_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(num_skips, config.hidden_size))
        self.post_init()

    def get_input_embeddings(self):
        return self.tok_emb

    def set_input_embeddings(self, embedding):
        self.tok_emb = embedding

    def token_tables(self):
        layers = [block.attn for block in self.blocks if block.attn.value_table is not None]
        return [(attention, "value_table") for attention in layers]

    def run(self, row, **kwargs):
        begins = row.begins_BW | (row.tokens_BW == self.config.bos_token_id)
        x0 = self.smear(norm(row.embeddings_BWD), begins)[:, -row.length :]  # (B, T, D)
        pairs = self.pairs(row.tokens_BW, begins)[:, -row.length :]
        angles = rotary_angles(row.position_ids, self.config, x0)
        inputs = (x0, pairs, row.tokens_BT, angles, row.masks[None])
        kwargs["position_ids"] = row.position_ids
        return through_blocks(self.blocks, self.skip_weights, x0, *inputs, **kwargs)


class GolfGPTForCausalLM(SharedForCausalLM, GolfGPTPreTrainedModel, GenerationMixin):
    model_class = GolfGPTModel
    _tied_weights_keys = {"lm_head.weight": "model.tok_emb.weight"}
