"""A pre-LN GPT with learned positions for transformers; shared_gpt.py has what models share.

The block is GPT-2's with another GELU (the exact one) and other names; dropout acts in training.
"""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import GenerationMixin
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import is_tracing

from .configuration_nanogpt import NanoGPTConfig
from .shared_gpt import SharedAttention, SharedForCausalLM, SharedModel, SharedPreTrainedModel


class Attention(SharedAttention):
    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x, mask, **kwargs):
        heads = (*x.shape[:2], 3, -1, self.head_dim)
        q, k, v = self.qkv_proj(x).view(heads).permute(2, 0, 3, 1, 4)  # each (B, H, T, E)
        y, weights = self.attend(q, k, v, mask, dropout=self.config.dropout, **kwargs)
        return self.out_proj(y), weights


class FeedForward(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, 4 * config.hidden_size)
        self.fc2 = nn.Linear(4 * config.hidden_size, config.hidden_size)
        self.dropout = config.dropout

    def forward(self, x):
        return self.fc2(F.dropout(F.gelu(self.fc1(x)), self.dropout, self.training))


class Block(GradientCheckpointingLayer):
    def __init__(self, config, layer):
        super().__init__()
        self.ln1 = nn.LayerNorm(config.hidden_size)
        self.attn = Attention(config, layer)
        self.ln2 = nn.LayerNorm(config.hidden_size)
        self.ff = FeedForward(config)
        self.dropout = config.dropout

    def forward(self, x, mask, **kwargs):
        y, _ = self.attn(self.ln1(x), mask, **kwargs)
        x = x + F.dropout(y, self.dropout, self.training)
        return x + F.dropout(self.ff(self.ln2(x)), self.dropout, self.training)


class NanoGPTPreTrainedModel(SharedPreTrainedModel):
    config_class = NanoGPTConfig
    base_model_prefix = "transformer"
    _can_record_outputs = {"hidden_states": Block, "attentions": Attention}
    _supports_attention_backend = True  # it looks at no tokens but its own

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Takes the names of the original code too: `mlp` is `ff`, the head lies in the trunk."""
        names = {r"\.mlp\.": ".ff.", r"^transformer\.lm_head\.": "lm_head."}
        return super().from_pretrained(*args, **{"key_mapping": names, **kwargs})

    @torch.no_grad()
    def _init_weights(self, module):
        """Those that training starts from."""
        for name, p in self.parameter_names(module).items():
            if name.endswith("bias"):
                init.zeros_(p)
            elif isinstance(module, nn.LayerNorm):
                init.ones_(p)
            else:
                init.normal_(p, std=self.config.initializer_range)


class NanoGPTModel(SharedModel, NanoGPTPreTrainedModel):
    """Tokens to what the head reads."""

    def __init__(self, config):
        super().__init__(config)
        self.token_embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.position_embedding = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.ln_f = nn.LayerNorm(config.hidden_size)
        self.post_init()

    def get_input_embeddings(self):
        return self.token_embedding

    def set_input_embeddings(self, embedding):
        self.token_embedding = embedding

    def run(self, row, **kwargs):
        """Raises: ValueError beyond the positions there are."""
        positions = self.config.max_position_embeddings
        if not is_tracing(row.position_ids) and row.position_ids.max() >= positions:
            raise ValueError(
                f"position {row.position_ids.max()} is beyond the {positions} learned positions"
            )
        x = row.embeddings_BWD[:, -row.length :] + self.position_embedding(row.position_ids)
        x = F.dropout(x, self.config.dropout, self.training)
        for block in self.blocks:
            x = block(x, row.masks[None], position_ids=row.position_ids, **kwargs)
        return self.ln_f(x)


class NanoGPTLMHeadModel(SharedForCausalLM, NanoGPTPreTrainedModel, GenerationMixin):
    model_class = NanoGPTModel
    _tied_weights_keys = {"lm_head.weight": "transformer.token_embedding.weight"}
