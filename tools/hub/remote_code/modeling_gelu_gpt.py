"""A nanochat-style GPT for transformers: the model is in torch_gpt.py, the cache in token_cache.py.

What smears the first new token is the token before it, which the cache therefore knows.
"""

from transformers import GenerationMixin, PreTrainedModel

from .configuration_gelu_gpt import GeluGPTConfig
from .token_cache import WithTokenCache
from .torch_gpt import GPT


class GeluGPTForCausalLM(WithTokenCache, PreTrainedModel, GenerationMixin):
    config_class = GeluGPTConfig
    base_model_prefix = "model"
    _no_split_modules = ["Block"]
    _keys_to_ignore_on_load_unexpected = [r"rope_(cos|sin)$"]  # computed here, stored elsewhere

    def __init__(self, config):
        super().__init__(config)
        self.model = GPT(config.shape())
        self.post_init()

    def get_input_embeddings(self):
        return self.model.wte

    def set_input_embeddings(self, embedding):
        self.model.wte = embedding

    def resize_token_embeddings(self, new_num_tokens=None, *args, **kwargs):
        if new_num_tokens in (None, self.config.vocab_size):
            return self.model.wte
        raise ValueError(
            f"{new_num_tokens} tokens: the value embeddings of {self.config.vocab_size} do not"
            " grow; train a model of that vocab_size"
        )

    def get_output_embeddings(self):
        return self.model.wte if self.config.tie_word_embeddings else self.model.lm_head

    def logits(self, tokens_BT, cache, valid_BS, keep):
        self.model.compute_dtype = self.model.wte.weight.dtype
        return self.model(tokens_BT, cache, valid_BS, keep)
