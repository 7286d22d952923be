"""Configuration of a pre-LN GPT with learned positions."""

from transformers import PreTrainedConfig

from .torch_gpt import Config


class NanoGPTConfig(PreTrainedConfig):
    model_type = "nanogpt"
    keys_to_ignore_at_inference = ["past_key_values"]

    def __init__(
        self,
        vocab_size=50_257,
        max_position_embeddings=512,
        num_hidden_layers=8,
        hidden_size=384,
        num_attention_heads=8,
        dropout=0.1,
        tie_word_embeddings=True,
        use_cache=True,
        **kwargs,
    ):
        self.vocab_size = vocab_size
        self.max_position_embeddings = max_position_embeddings
        self.num_hidden_layers = num_hidden_layers
        self.hidden_size = hidden_size
        self.num_attention_heads = num_attention_heads
        self.num_key_value_heads = num_attention_heads
        self.head_dim = hidden_size // num_attention_heads
        self.dropout = dropout
        self.tie_word_embeddings = tie_word_embeddings
        self.use_cache = use_cache
        for derived in ("head_dim", "num_key_value_heads"):
            kwargs.pop(derived, None)
        super().__init__(tie_word_embeddings=tie_word_embeddings, **kwargs)

    def shape(self) -> Config:
        """The trunk as torch_gpt.py takes it; the head is the class for transformers' own."""
        return Config(
            vocab_size=self.vocab_size,
            seq_len=self.max_position_embeddings,
            num_layers=self.num_hidden_layers,
            model_dim=self.hidden_size,
            num_heads=self.num_attention_heads,
            dropout=self.dropout,
        )
