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

    def __init__(
        self,
        vocab_size=1024,
        max_position_embeddings=1024,
        num_hidden_layers=11,
        hidden_size=512,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=1536,
        rope_dims=16,
        rope_theta=50_000.0,
        final_logit_softcapping=30.0,
        bigram_vocab_size=2048,
        bigram_dim=64,
        initializer_range=0.005,
        qk_gain_init=1.5,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
        tie_word_embeddings=True,
        use_cache=True,
        **kwargs,
    ):
        if not isinstance(bos_token_id, int):
            raise ValueError(f"bos_token_id={bos_token_id} must be the id that begins documents")
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_key_value_heads
        self.intermediate_size = intermediate_size
        self.rope_dims = rope_dims
        self.rope_theta = rope_theta
        self.final_logit_softcapping = final_logit_softcapping
        self.bigram_vocab_size = bigram_vocab_size
        self.bigram_dim = bigram_dim
        self.initializer_range = initializer_range
        self.qk_gain_init = qk_gain_init
        self.use_cache = use_cache
        # Derived anew, whatever a file says.
        for derived in ("head_dim", "layer_types"):
            kwargs.pop(derived, None)
        self.head_dim = hidden_size // num_attention_heads
        self.layer_types = ["full_attention"] * num_hidden_layers
        super().__init__(
            bos_token_id=bos_token_id,
            eos_token_id=eos_token_id,
            pad_token_id=pad_token_id,
            tie_word_embeddings=tie_word_embeddings,
            **kwargs,
        )
