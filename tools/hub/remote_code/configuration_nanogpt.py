"""Configuration of a pre-LN GPT with learned positions."""

from transformers import PreTrainedConfig


class NanoGPTConfig(PreTrainedConfig):
    """The shape of one model; the defaults are those of preln_53m.

    There are max_position_embeddings learned positions; a longer document is an error.
    """

    model_type = "nanogpt"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 50_257
    max_position_embeddings: int = 512
    num_hidden_layers: int = 8
    hidden_size: int = 384
    num_attention_heads: int = 8
    dropout: float = 0.1
    initializer_range: float = 0.02
    bos_token_id: int | None = 50_256
    eos_token_id: int | list[int] | None = 50_256
    pad_token_id: int | None = 50_256
    tie_word_embeddings: bool = True
    use_cache: bool = True
    # These follow from the shape, whatever a file says.
    head_dim: int | None = None
    num_key_value_heads: int | None = None

    def __post_init__(self, **kwargs):
        self.head_dim = self.hidden_size // self.num_attention_heads
        self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)

    @property
    def windows(self) -> list[int | None]:
        """How many tokens each layer sees, itself included; None: all of them."""
        return [None] * self.num_hidden_layers
