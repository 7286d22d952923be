"""A nanochat-style GPT with a GELU or a YatNMN-Softplus MLP, for transformers.

Beyond a textbook GPT: RMSNorm without gain; RoPE, then q and k normed and times 1.2; most layers
see a window of a quarter of the context; every other layer adds a gated embedding of the token to
its values; each layer mixes in the first embedding by two learned numbers; embeddings are smeared
with the token before; what the middle layer holds is taken off the end; logits are softcapped.
What all published models share is in shared_gpt.py.

Dimensions: B rows, T new tokens, W new tokens and up to two before them, D hidden_size, H query
heads, G key/value heads, E head_dim, F MLP width, V vocabulary.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_gelu_gpt import GeluGPTConfig
from .shared_gpt import (
    VIRTUAL,
    SharedAttention,
    SharedForCausalLM,
    SharedModel,
    SharedPreTrainedModel,
    shifted,
)

SMEAR_CHANNELS = 24  # of the embedding that the smear gate reads
VALUE_GATE_CHANNELS = 12  # of the attention input that a value gate reads


def norm(x):
    return F.rms_norm(x, (x.size(-1),), eps=1e-6)


def linear(in_features, out_features):
    return nn.Linear(in_features, out_features, bias=False)


def rotary_angles(position_ids, config, like):
    """cos and sin of shape (1 or B, 1, T, E/2)."""
    E = config.head_dim
    channel = torch.arange(0, E, 2, device=like.device, dtype=torch.float32)
    angles = position_ids[:, None, :, None] * config.rope_theta ** -(channel / E)
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x_BHTE, cos, sin):
    """Turn the halves of each head by minus their angle (a textbook's RoPE turns by plus it)."""
    a, b = x_BHTE.chunk(2, dim=-1)
    return torch.cat([a * cos + b * sin, b * cos - a * sin], dim=-1)


class Attention(SharedAttention):
    """Causal grouped-query attention; q and k are rotated, normed and lengthened by 1.2."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        D, E = config.hidden_size, config.head_dim
        self.c_q = linear(D, config.num_attention_heads * E)
        self.c_k = linear(D, config.num_key_value_heads * E)
        self.c_v = linear(D, config.num_key_value_heads * E)
        self.c_proj = linear(config.num_attention_heads * E, D)
        if config.has_value_embedding(layer):
            self.ve_gate = linear(VALUE_GATE_CHANNELS, config.num_key_value_heads)

    def forward(self, x, value_embedding, angles, mask, **kwargs):
        heads = (*x.shape[:2], -1, self.head_dim)
        q = self.c_q(x).view(heads).transpose(1, 2)  # (B, H, T, E)
        k = self.c_k(x).view(heads).transpose(1, 2)
        v = self.c_v(x).view(heads)
        if value_embedding is not None:
            gate = 3 * torch.sigmoid(self.ve_gate(x[..., :VALUE_GATE_CHANNELS]))  # (B, T, G)
            v = v + gate[..., None] * value_embedding.view(heads)
        # Normed after the rotation; the length 1.2 sharpens attention, as nanochat found.
        q = 1.2 * norm(rotate(q, *angles))
        k = 1.2 * norm(rotate(k, *angles))
        y, weights = self.attend(q, k, v.transpose(1, 2), mask, **kwargs)
        return self.c_proj(y), weights


class Yat(nn.Module):
    """alpha * (x.w + softplus(b))**2 / (|x - w|**2 + softplus(e)) for each column w of the kernel.

    In fp32 whatever the input's precision: the distance is a small difference of large numbers, and
    in bf16 the quotient would be off by up to 0.7 of itself. The kernel is no nn.Linear, because
    its columns count in two ways: LoRA has to name it as a parameter.
    """

    def __init__(self, in_features, out_features, biases):
        super().__init__()
        self.kernel = nn.Parameter(torch.empty(in_features, out_features))
        self.bias = nn.Parameter(torch.empty(biases))
        self.epsilon_param = nn.Parameter(torch.empty(1))
        self.alpha = nn.Parameter(torch.empty(1))

    def forward(self, x):
        wide = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            w = self.kernel.to(wide)
            bias = F.softplus(self.bias.to(wide))
            epsilon = F.softplus(self.epsilon_param.to(wide))
            wide_x = x.to(wide)
            dot = wide_x @ w
            # |x - w|^2 = |x|^2 + |w|^2 - 2 x.w; rounding may make it negative
            squares = wide_x.square().sum(dim=-1, keepdim=True) + w.square().sum(dim=0)
            distance = (squares - 2 * dot).clamp(min=0)
            y = self.alpha.to(wide) * (dot + bias).square() / (distance + epsilon)
        return y.to(x.dtype)


class MLP(nn.Module):
    def __init__(self, config):
        super().__init__()
        D = config.hidden_size
        self.is_gelu = config.mlp == "gelu"
        biases = 4 * D if config.mlp == "yat_neuron" else 1
        self.c_fc = linear(D, 4 * D) if self.is_gelu else Yat(D, 4 * D, biases)
        self.c_proj = linear(4 * D, D)

    def forward(self, x):
        x = self.c_fc(x)  # (B, T, F)
        return self.c_proj(F.gelu(x, approximate="tanh") if self.is_gelu else x)


class Block(GradientCheckpointingLayer):
    def __init__(self, config, layer):
        super().__init__()
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, value_embedding, angles, mask, **kwargs):
        y, _ = self.attn(norm(x), value_embedding, angles, mask, **kwargs)
        x = x + y
        return x + self.mlp(norm(x))


class GeluGPTPreTrainedModel(SharedPreTrainedModel):
    config_class = GeluGPTConfig
    _can_record_outputs = {"hidden_states": Block, "attentions": Attention}
    _keys_to_ignore_on_load_unexpected = [r"rope_(cos|sin)$"]  # computed here, stored elsewhere

    @torch.no_grad()
    def _init_weights(self, module):
        """Those that training starts from: every layer begins as the identity."""
        bound = math.sqrt(3 / self.config.hidden_size)
        L = self.config.num_hidden_layers
        for name, p in self.parameter_names(module).items():
            match name.split(".")[0], name.removesuffix(".weight").split(".")[-1]:
                case "lm_head", _:
                    init.normal_(p, std=0.001)
                case ("value_embeds", _) | (_, "c_q" | "c_k" | "c_v"):
                    init.uniform_(p, -bound, bound)
                case _, "c_fc":
                    init.uniform_(p, -0.4 * bound, 0.4 * bound)
                case _, "kernel":
                    init.normal_(p, std=math.sqrt(2 / sum(p.shape)))
                case _, "ve_gate" | "smear_gate":
                    init.uniform_(p, 0, 0.02)
                case _, "c_proj" | "bias" | "smear_lambda":
                    init.zeros_(p)
                case _, "epsilon_param":
                    init.constant_(p, math.log(math.expm1(0.001)))  # softplus gives 0.001
                case _, "alpha":
                    init.ones_(p)
                case _, "resid_lambdas":
                    init.copy_(p, torch.linspace(1.15, 1.05 if L > 1 else 1.15, L))
                case _, "x0_lambdas":
                    init.copy_(p, torch.linspace(0.20, 0.05 if L > 1 else 0.20, L))
                case _, "backout_lambda":
                    init.constant_(p, 0.2)
                case _:  # the embedding, and rows that are added to a table
                    init.normal_(p, std=self.config.initializer_range)


class GeluGPTModel(SharedModel, GeluGPTPreTrainedModel):
    """Tokens to the normed residual stream."""

    def __init__(self, config):
        super().__init__(config)
        V, D, L = config.vocab_size, config.hidden_size, config.num_hidden_layers
        kv_width = config.num_key_value_heads * config.head_dim
        value_layers = [i for i in range(L) if config.has_value_embedding(i)]
        self.wte = nn.Embedding(V, D)
        self.value_embeds = nn.ModuleDict({str(i): nn.Embedding(V, kv_width) for i in value_layers})
        self.smear_gate = linear(SMEAR_CHANNELS, 1)
        self.smear_lambda = nn.Parameter(torch.empty(1))
        self.resid_lambdas = nn.Parameter(torch.empty(L))
        self.x0_lambdas = nn.Parameter(torch.empty(L))
        self.backout_lambda = nn.Parameter(torch.empty(1))
        self.blocks = nn.ModuleList(Block(config, i) for i in range(L))
        self.post_init()

    def get_input_embeddings(self):
        return self.wte

    def set_input_embeddings(self, embedding):
        self.wte = embedding

    def token_tables(self):
        return [(self.value_embeds, layer) for layer in self.value_embeds]

    def embed(self, row):
        """Normed embeddings, each with a gated share of the one before it."""
        x = norm(row.embeddings_BWD)
        before = shifted(x, 0) * ~row.begins_BW[..., None]
        x = x[:, -row.length :]  # (B, T, D)
        gate = torch.sigmoid(self.smear_gate(x[..., :SMEAR_CHANNELS]))  # (B, T, 1)
        return x + self.smear_lambda * gate * before[:, -row.length :]

    def value_embedding(self, layer, tokens_BT):
        """What a layer adds to its values; a virtual token has none."""
        if str(layer) not in self.value_embeds:
            return None
        values = self.value_embeds[str(layer)](tokens_BT.clamp(min=0))
        return values * (tokens_BT != VIRTUAL)[..., None]

    def run(self, row, **kwargs):
        x0 = x = self.embed(row)
        angles = rotary_angles(row.position_ids, self.config, x)
        for i, block in enumerate(self.blocks):
            x = self.resid_lambdas[i] * x + self.x0_lambdas[i] * x0
            value_embedding = self.value_embedding(i, row.tokens_BT)
            mask = row.masks[self.config.windows[i]]
            x = block(x, value_embedding, angles, mask, position_ids=row.position_ids, **kwargs)
            if i == len(self.blocks) // 2:
                middle = x
        return norm(x - self.backout_lambda * middle)


class GeluGPTForCausalLM(SharedForCausalLM, GeluGPTPreTrainedModel, GenerationMixin):
    model_class = GeluGPTModel
    _tied_weights_keys = {"lm_head.weight": "model.wte.weight"}
