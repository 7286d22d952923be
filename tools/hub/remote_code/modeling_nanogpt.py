"""A pre-LN GPT with learned positions for transformers: the trunk is in torch_gpt.py."""

import torch
import torch.nn.functional as F
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_nanogpt import NanoGPTConfig
from .torch_gpt import GPT


class NanoGPTLMHeadModel(PreTrainedModel, GenerationMixin):
    config_class = NanoGPTConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["Block"]
    _tied_weights_keys = {"lm_head.weight": "transformer.token_embedding.weight"}

    def __init__(self, config):
        super().__init__(config)
        self.loss_type = "ForCausalLM"
        self.transformer = GPT(config.shape())
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    @classmethod
    def from_pretrained(cls, *args, **kwargs):
        """Takes the names of the original code too: `mlp` is `ff`, the head lies in the trunk."""
        names = {r"\.mlp\.": ".ff.", r"^transformer\.lm_head\.": "lm_head."}
        return super().from_pretrained(*args, **{"key_mapping": names, **kwargs})

    def get_input_embeddings(self):
        return self.transformer.token_embedding

    def set_input_embeddings(self, embedding):
        self.transformer.token_embedding = embedding

    def get_output_embeddings(self):
        return self.lm_head

    @torch.no_grad()
    def _init_weights(self, module):
        names = {id(p): name for name, p in self.named_parameters()}
        for p in module.parameters(recurse=False):
            if not getattr(p, "_is_hf_initialized", False):  # else it was loaded
                self.transformer.init_parameter(names[id(p)], p)

    def forward(
        self,
        input_ids=None,
        attention_mask=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        logits_to_keep=0,
        return_dict=None,
        **kwargs,
    ):
        if input_ids is None:
            raise ValueError("input_ids are needed; this model does not take embeddings")
        cache, T = past_key_values, input_ids.size(1)
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = DynamicCache(config=self.config)
        if cache is not None and not isinstance(cache, DynamicCache):
            raise ValueError(f"past_key_values is a {type(cache).__name__}, not a DynamicCache")
        past = 0 if cache is None else cache.get_seq_length()
        if attention_mask is not None and attention_mask.shape != (len(input_ids), past + T):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, must be"
                f" {(len(input_ids), past + T)}: one number for each token, cached ones included"
            )
        self.transformer.compute_dtype = self.lm_head.weight.dtype
        dropout = self.config.dropout if self.training else 0.0
        x = self.transformer.hidden(input_ids, cache, attention_mask, logits_to_keep, dropout)
        logits = F.linear(x, self.lm_head.weight).float()
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        if return_dict is False:
            return (logits, cache) if loss is None else (loss, logits, cache)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
