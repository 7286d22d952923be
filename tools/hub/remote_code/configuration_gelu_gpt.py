"""Configuration of a nanochat-style GPT; what follows from the shape is in torch_gpt.py."""

from transformers import PreTrainedConfig

from .torch_gpt import Config


class GeluGPTConfig(PreTrainedConfig):
    model_type = "gelu_gpt"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=32_768,
        max_position_embeddings=1024,
        num_hidden_layers=12,
        hidden_size=768,
        num_attention_heads=12,
        num_key_value_heads=12,
        mlp="gelu",
        rope_theta=100_000.0,
        final_logit_softcapping=15.0,
        initializer_range=0.02,
        tie_word_embeddings=True,
        use_cache=True,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.mlp = mlp
        self.rope_theta = rope_theta
        self.final_logit_softcapping = final_logit_softcapping
        self.initializer_range = initializer_range
        self.tie_word_embeddings = tie_word_embeddings
        self.use_cache = use_cache
        # Derived anew, whatever a file says. A long layer is "full" for the cache: it slides too,
        # at max_position_embeddings, by its mask.
        for derived in ("head_dim", "layer_types", "sliding_window"):
            kwargs.pop(derived, None)
        shape = self.shape()
        self.head_dim = shape.head_dim
        short = [window for window in shape.windows if window != shape.seq_len]
        # transformers counts the token itself as one of the window
        self.sliding_window = (short or [shape.seq_len])[0] + 1
        self.layer_types = [
            "full_attention" if window == shape.seq_len else "sliding_attention"
            for window in shape.windows
        ]
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    def shape(self) -> Config:
        """The same as torch_gpt.py takes it."""
        return Config(
            vocab_size=self.vocab_size,
            seq_len=self.max_position_embeddings,
            num_layers=self.num_hidden_layers,
            model_dim=self.hidden_size,
            num_heads=self.num_attention_heads,
            num_kv_heads=self.num_key_value_heads,
            mlp=self.mlp,
            tied=self.tie_word_embeddings,
            embed_init_std=self.initializer_range,
            rope_base=self.rope_theta,
            logit_softcap=self.final_logit_softcapping,
        )
