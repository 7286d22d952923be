"""Configuration of pull request #334's model, the golf model's forerunner."""

from .configuration_golf_gpt import GolfGPTConfig


class PR334GPTConfig(GolfGPTConfig):
    """The shape of one model, under the golf model's names; the defaults are the pull request's."""

    model_type = "pr334_gpt"

    intermediate_size: int = 1536
    rope_theta: float = 50_000.0
    qk_gain_init: float = 1.5
    pair_rows: int = 2048  # of the table of token pairs, hashed
    pair_dim: int = 64
