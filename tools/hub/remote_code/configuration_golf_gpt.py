"""Configuration of the golf model: an 11-layer GQA GPT for the 16 MB challenge."""

from transformers import PreTrainedConfig


class GolfGPTConfig(PreTrainedConfig):
    """The shape of one model; the defaults are those of the challenge's recipe.

    max_position_embeddings is the length of the rows in training, and limits nothing: positions are
    computed, so that longer inputs work, only that the model has learned nothing of such distances.
    A document begins with bos_token_id, wherever it stands; documents have no end of their own, so
    the next one's beginning is also what ends a text.

    Raises: ValueError where no id begins documents.
    """

    model_type = "golf_gpt"
    keys_to_ignore_at_inference = ["past_key_values"]

    vocab_size: int = 1024
    max_position_embeddings: int = 1024
    num_hidden_layers: int = 11
    hidden_size: int = 512
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    intermediate_size: int = 2048
    rope_dims: int = 16
    rope_theta: float = 10_000.0
    final_logit_softcapping: float = 30.0
    initializer_range: float = 0.005
    qk_gain_init: float = 5.0
    bos_token_id: int = 1
    eos_token_id: int | list[int] | None = 1
    pad_token_id: int | None = 0
    tie_word_embeddings: bool = True
    use_cache: bool = True
    # These follow from the shape, whatever a file says.
    head_dim: int | None = None
    layer_types: list[str] | None = None

    def __post_init__(self, **kwargs):
        if not isinstance(self.bos_token_id, int):
            raise ValueError(
                f"bos_token_id={self.bos_token_id} must be the id that begins documents"
            )
        self.head_dim = self.hidden_size // self.num_attention_heads
        self.layer_types = ["full_attention"] * self.num_hidden_layers
        super().__post_init__(**kwargs)

    def has_lanes(self, layer: int) -> bool:
        """The last quarter: of eleven layers from 8 on, of four the last."""
        return layer >= self.num_hidden_layers * 3 // 4

    @property
    def windows(self) -> list[int | None]:
        """How many tokens each layer sees, itself included; None: all of them."""
        return [None] * self.num_hidden_layers
