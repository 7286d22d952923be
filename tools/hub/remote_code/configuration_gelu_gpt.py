"""Configuration of a nanochat-style GPT."""

from transformers import PreTrainedConfig


class GeluGPTConfig(PreTrainedConfig):
    """The shape of one model; the defaults are those of gelu_d12.

    max_position_embeddings is the length of the rows in training. Layers see windows of it or of a
    quarter of it, so that longer inputs work.

    Raises: ValueError for an MLP that there is not.
    """

    model_type = "gelu_gpt"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 32_768
    max_position_embeddings: int = 1024
    num_hidden_layers: int = 12
    hidden_size: int = 768
    num_attention_heads: int = 12
    num_key_value_heads: int = 12
    mlp: str = "gelu"  # or "yat": one bias for a layer; or "yat_neuron": one for each neuron
    rope_theta: float = 100_000.0
    final_logit_softcapping: float = 15.0
    initializer_range: float = 0.02
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    # These follow from the shape, whatever a file says.
    head_dim: int | None = None
    layer_types: list[str] | None = None
    sliding_window: int | None = None

    def __post_init__(self, **kwargs):
        if self.mlp not in ("gelu", "yat", "yat_neuron"):
            raise ValueError(f"mlp={self.mlp!r} must be gelu, yat or yat_neuron")
        self.head_dim = self.hidden_size // self.num_attention_heads
        long = self.max_position_embeddings + 1
        # A long layer is "full" for the cache; it slides by its mask. Of a short context the other
        # window is the wider one, as it is rounded up.
        self.sliding_window = next((w for w in self.windows if w != long), long)
        self.layer_types = [
            "full_attention" if window == long else "sliding_attention" for window in self.windows
        ]
        super().__post_init__(**kwargs)

    @property
    def windows(self) -> list[int]:
        """How many tokens each layer sees, itself included: short, short, short, long; last long.

        A short window is a quarter of the long one, rounded up to a multiple of 128.
        """
        long = self.max_position_embeddings
        quarter = -(-long // 4)
        short = -(-quarter // 128) * 128
        last = self.num_hidden_layers - 1
        is_long = [layer % 4 == 3 or layer == last for layer in range(last + 1)]
        return [(long if is_long[layer] else short) + 1 for layer in range(last + 1)]

    def has_value_embedding(self, layer: int) -> bool:
        """Every other layer, the last one always."""
        return layer % 2 == (self.num_hidden_layers - 1) % 2
