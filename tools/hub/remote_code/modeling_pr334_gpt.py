"""The model of pull request #334 for transformers; it shares most with the golf model.

Beyond a textbook GPT: a hashed embedding of (previous token, token) and a smear of neighbouring
embeddings at the input, neither across the start of a document; partial RoPE; q and k RMS-normed, q
times a gain per head; normed inputs damped by 1/sqrt(layer + 1); the first half of the layers hands
its outputs to the second half; every layer mixes in the first embedding; softcapped logits.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_pr334_gpt import PR334GPTConfig
from .shared_golf_gpt import GolfAttention, linear, norm, rotary_angles
from .shared_gpt import VIRTUAL, SharedForCausalLM, SharedModel, SharedPreTrainedModel, shifted


class Attention(GolfAttention):
    """Causal grouped-query attention."""

    def forward(self, x, angles, mask, **kwargs):
        q, k = self.queries_and_keys(x, angles)
        v = self.split_heads(self.v(x)).transpose(1, 2)
        y, weights = self.attend(q, k, v, mask, **kwargs)
        return self.proj(y), weights


class MLP(nn.Module):
    """Two matrices with a squared ReLU between them."""

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
        share = torch.sigmoid(self.gate) * ~begins_BW[..., None]
        return torch.lerp(x_BWD, shifted(x_BWD, 0), share)


class BigramHash(nn.Module):
    """An embedding of (previous token, token), hashed to few rows; the last row: no previous."""

    def __init__(self, config):
        super().__init__()
        self.table = nn.Embedding(config.pair_rows, config.pair_dim)
        self.proj = linear(config.pair_dim, config.hidden_size)
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, tokens_BW, begins_BW):
        # Upstream's hash: two odd factors, so that a pair and its reverse fall apart.
        last = self.table.num_embeddings - 1
        previous = shifted(tokens_BW, 0)
        has_none = begins_BW | (tokens_BW == VIRTUAL) | (previous == VIRTUAL)
        rows = torch.where(has_none, last, (36313 * tokens_BW ^ 27191 * previous) % last)
        return self.proj(self.table(rows)) * self.scale


class PR334GPTPreTrainedModel(SharedPreTrainedModel):
    config_class = PR334GPTConfig
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


class PR334GPTModel(SharedModel, PR334GPTPreTrainedModel):
    """Tokens to the normed residual stream."""

    def __init__(self, config):
        super().__init__(config)
        self.tok_emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.bigram = BigramHash(config)
        self.smear = SmearGate(config)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        num_skips = config.num_hidden_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(num_skips, config.hidden_size))
        self.post_init()

    def get_input_embeddings(self):
        return self.tok_emb

    def set_input_embeddings(self, embedding):
        self.tok_emb = embedding

    def run(self, row, **kwargs):
        begins = row.begins_BW | (row.tokens_BW == self.config.bos_token_id)
        x = norm(row.embeddings_BWD + self.bigram(row.tokens_BW, begins))
        x0 = self.smear(x, begins)[:, -row.length :]  # (B, T, D)
        angles = rotary_angles(row.position_ids, self.config, x0)
        inputs = (x0, angles, row.masks[None])
        kwargs["position_ids"] = row.position_ids
        # Of five layers 0 and 1 hand their outputs over, 1 to 2 and 0 to 3.
        x = x0
        skips = []
        for i, block in enumerate(self.blocks):
            if i >= len(self.skip_weights) and skips:
                x = x + self.skip_weights[i - len(self.skip_weights)] * skips.pop()
            x = block(x, *inputs, **kwargs)
            if i < len(self.skip_weights):
                skips.append(x)
        return norm(x)


class PR334GPTForCausalLM(SharedForCausalLM, PR334GPTPreTrainedModel, GenerationMixin):
    model_class = PR334GPTModel
    _tied_weights_keys = {"lm_head.weight": "model.tok_emb.weight"}
