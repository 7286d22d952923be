"""For models that look at earlier tokens beside attention: a cache that knows the tokens so far.

A model with such a cache brings its `logits`; what all of them do around it is here.
"""

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast


class TokenCache(DynamicCache):
    """A DynamicCache that also knows the tokens so far, and which of them are padding.

    The first new token is mixed with the embedding of the last one before it. Ids, rather than
    embeddings, are kept of all tokens, so that rows and ends are changed by an index.
    """

    def __init__(self, config, **how):
        super().__init__(config=config, **how)
        self.tokens_BS = self.valid_BS = None

    def see(self, tokens_BT):
        """Take in new tokens; returns all so far."""
        past = [] if self.tokens_BS is None else [self.tokens_BS]
        self.tokens_BS = torch.cat([*past, tokens_BT], dim=1)
        return self.tokens_BS

    def change(self, how) -> None:
        """Apply a function to the ids, and to the record of padding."""
        self.tokens_BS, self.valid_BS = (
            part if part is None else how(part) for part in (self.tokens_BS, self.valid_BS)
        )

    def reset(self):
        super().reset()
        self.tokens_BS = self.valid_BS = None

    def reorder_cache(self, beam_idx):
        super().reorder_cache(beam_idx)
        self.change(lambda part: part[beam_idx.to(part.device)])

    def batch_repeat_interleave(self, repeats):
        super().batch_repeat_interleave(repeats)
        self.change(lambda part: part.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices):
        super().batch_select_indices(indices)
        self.change(lambda part: part[indices])

    def crop(self, tokens_to_remove):
        super().crop(tokens_to_remove)
        left = self.get_seq_length()
        self.change(lambda part: part[:, :left])


class WithTokenCache:
    """The causal model around its trunk `model` and its `logits(tokens_BT, cache, valid_BS, keep)`.

    valid_BS is false where there is padding, among the tokens in the cache too.
    """

    @torch.no_grad()
    def _init_weights(self, module):
        names = {id(p): name.removeprefix("model.") for name, p in self.named_parameters()}
        for p in module.parameters(recurse=False):
            if not getattr(p, "_is_hf_initialized", False):  # else it was loaded
                self.model.init_parameter(names[id(p)], p)

    def _prepare_cache_for_generation(self, generation_config, model_kwargs, *rest):
        given = model_kwargs.get("past_key_values")
        super()._prepare_cache_for_generation(generation_config, model_kwargs, *rest)
        made = model_kwargs.get("past_key_values")
        if given is None and type(made) is DynamicCache:
            cache = TokenCache(self.config, offloading=made.offloading)
            if generation_config.is_assistant:
                cache.activate_past_recording()
            model_kwargs["past_key_values"] = cache

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
            raise ValueError("input_ids are needed: the model looks tokens up by their id")
        cache, T = past_key_values, input_ids.size(1)
        if cache is None and (self.config.use_cache if use_cache is None else use_cache):
            cache = TokenCache(self.config)
        if cache is not None and not isinstance(cache, TokenCache):
            raise ValueError(
                f"past_key_values is a {type(cache).__name__}, which does not know the tokens that"
                " smear needs; pass none, or one that this model returned"
            )
        past = 0 if cache is None else cache.get_seq_length()
        if attention_mask is None and cache is not None and cache.valid_BS is not None:
            new = torch.ones_like(input_ids, dtype=cache.valid_BS.dtype)
            attention_mask = torch.cat([cache.valid_BS, new], dim=1)
        if attention_mask is not None and attention_mask.shape != (len(input_ids), past + T):
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}, must be"
                f" {(len(input_ids), past + T)}: one number for each token, cached ones included"
            )
        if cache is not None:
            cache.valid_BS = attention_mask
        logits = self.logits(input_ids, cache, attention_mask, logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        if return_dict is False:
            return (logits, cache) if loss is None else (loss, logits, cache)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=cache)
