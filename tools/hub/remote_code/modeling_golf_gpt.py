"""The golf model for transformers; what all published models share is in shared_gpt.py.

Beyond a textbook GPT: a smear of neighbouring embeddings at the input, never across the start of a
document; partial RoPE; q and k RMS-normed, q times a gain per head; attention brings nothing along
a position's own value, and a gate says how much of each head; normed inputs damped by 1/sqrt(layer
+ 1); the first half of the layers hands its outputs to the second half, each through a gate; every
layer mixes in the first embedding; in the last quarter the stream has two lanes; softcapped logits.

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
from .shared_golf_gpt import GolfAttention, linear, norm, rotary_angles
from .shared_gpt import SharedForCausalLM, SharedModel, SharedPreTrainedModel, shifted

GATE_WINDOW = 12  # channels that gates look at


def without_own_value(y_BTHE, v_BGTE):
    """Take out of each head's output its part along the position's own value.

    For y = (3, 4) and v = (2, 0): (0, 4).
    """
    own_BTG1E = F.normalize(v_BGTE, dim=-1).transpose(1, 2)[:, :, :, None]
    y_BTGRE = y_BTHE.unflatten(2, (v_BGTE.size(1), -1))
    along_BTGR1 = (y_BTGRE * own_BTG1E).sum(dim=-1, keepdim=True)
    return (y_BTGRE - along_BTGR1 * own_BTG1E).flatten(2, 3)


class Attention(GolfAttention):
    """Causal grouped-query attention without each position's own value; heads are gated."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.gate = nn.Parameter(torch.empty(config.num_attention_heads, GATE_WINDOW))

    def forward(self, x, angles, mask, **kwargs):
        q, k = self.queries_and_keys(x, angles)
        v = self.split_heads(self.v(x)).transpose(1, 2)
        y, weights = self.attend(q, k, v, mask, **kwargs)
        scores_BTH = F.linear(x[..., :GATE_WINDOW], self.gate)
        y = without_own_value(self.split_heads(y), v) * torch.sigmoid(0.5 * scores_BTH)[..., None]
        return self.proj(y.flatten(2)), weights


class MLP(nn.Module):
    """Two matrices with a squared leaky ReLU between them."""

    def __init__(self, config):
        super().__init__()
        self.fc = linear(config.hidden_size, config.intermediate_size)
        self.proj = linear(config.intermediate_size, config.hidden_size)

    def forward(self, x):
        return self.proj(F.leaky_relu(self.fc(x), 0.5).square())


class Block(GradientCheckpointingLayer):
    """One layer: mix in the first embedding, then attention and MLP, on one stream or between two.

    Of two lanes, attention reads the first and the MLP the second, and both write to both.
    """

    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)
        self.attn_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.mlp_scale = nn.Parameter(torch.empty(config.hidden_size))
        self.resid_mix = nn.Parameter(torch.empty(2, config.hidden_size))
        self.damping = 1 / math.sqrt(layer + 1)
        self.has_lanes = config.has_lanes(layer)
        if self.has_lanes:
            self.lane_keep = nn.Parameter(torch.empty(2))
            self.lane_add = nn.Parameter(torch.empty(2, 2))  # [lane, attention or MLP]

    def forward(self, x, second, x0, angles, mask, **kwargs):
        """The stream after the layer, and the second lane; None while there is one stream."""
        keep, first = self.resid_mix
        mixed = keep * x + first * x0
        y, _ = self.attn(norm(mixed) * self.damping, angles, mask, **kwargs)
        attended = self.attn_scale * y
        if not self.has_lanes:
            x = mixed + attended
            return x + self.mlp_scale * self.mlp(norm(x) * self.damping), None
        thought = self.mlp_scale * self.mlp(norm(second) * self.damping)
        lanes = []
        for lane, keep, add in zip((x, second), self.lane_keep, self.lane_add, strict=True):
            lanes.append(keep * lane + add[0] * attended + add[1] * thought)
        return tuple(lanes)


class SmearGate(nn.Module):
    """Add a share of the embedding before, as the token tells, never across a document start."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Parameter(torch.empty(GATE_WINDOW))
        self.scale = nn.Parameter(torch.empty(()))

    def forward(self, x_BWD, begins_BW):
        score_BW = (x_BWD[..., :GATE_WINDOW] * self.gate).sum(dim=-1)
        share_BW = self.scale * torch.sigmoid(score_BW) * ~begins_BW
        return x_BWD + share_BW[..., None] * shifted(x_BWD, 0)


class GolfGPTPreTrainedModel(SharedPreTrainedModel):
    config_class = GolfGPTConfig
    _can_record_outputs = {"hidden_states": Block, "attentions": Attention}

    @torch.no_grad()
    def _init_weights(self, module):
        """Those that training starts from."""
        for name, p in self.parameter_names(module).items():
            match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
                case "blocks", "q" | "k" | "v" | "fc":
                    init.orthogonal_(p)
                case ("smear", _) | (_, "gate" | "proj" | "skip_gates"):
                    init.zeros_(p)
                case _, "attn_scale" | "mlp_scale" | "skip_weights" | "lane_add":
                    init.ones_(p)
                case _, "lane_keep":
                    init.constant_(p, 1.1)
                case _, "resid_mix":
                    init.copy_(p, torch.tensor([[1.0], [0.0]]).expand_as(p))
                case _, "q_gain":
                    init.constant_(p, self.config.qk_gain_init)
                case _:  # the embedding, and rows that are added to a table
                    init.normal_(p, std=self.config.initializer_range)


class GolfGPTModel(SharedModel, GolfGPTPreTrainedModel):
    """Tokens to the normed residual stream."""

    def __init__(self, config):
        super().__init__(config)
        self.tok_emb = nn.Embedding(config.vocab_size, config.hidden_size)
        self.smear = SmearGate()
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        num_skips = config.num_hidden_layers // 2
        self.skip_weights = nn.Parameter(torch.empty(num_skips, config.hidden_size))
        self.skip_gates = nn.Parameter(torch.empty(num_skips, config.hidden_size))
        self.post_init()

    def get_input_embeddings(self):
        return self.tok_emb

    def set_input_embeddings(self, embedding):
        self.tok_emb = embedding

    def run(self, row, **kwargs):
        begins = row.begins_BW | (row.tokens_BW == self.config.bos_token_id)
        x0 = norm(self.smear(row.embeddings_BWD, begins))[:, -row.length :]  # (B, T, D)
        angles = rotary_angles(row.position_ids, self.config, x0)
        inputs = (x0, angles, row.masks[None])
        kwargs["position_ids"] = row.position_ids
        # Of five layers 0 and 1 hand their outputs over, 1 to 2 and 0 to 3.
        x = x0
        second = None
        num_skips = len(self.skip_weights)
        skips = []
        for i, block in enumerate(self.blocks):
            if block.has_lanes and second is None:
                second = x
            if i >= num_skips and skips:
                gate = torch.sigmoid(self.skip_gates[i - num_skips])
                x = gate * x + (1 - gate) * self.skip_weights[i - num_skips] * skips.pop()
            x, second = block(x, second, *inputs, **kwargs)
            if i < num_skips:
                skips.append(x)
        return norm((x + second) / 2)


class GolfGPTForCausalLM(SharedForCausalLM, GolfGPTPreTrainedModel, GenerationMixin):
    model_class = GolfGPTModel
    _tied_weights_keys = {"lm_head.weight": "model.tok_emb.weight"}
