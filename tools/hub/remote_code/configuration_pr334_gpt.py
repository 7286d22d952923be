"""Configuration of pull request #334's model, the golf model's forerunner."""

from .configuration_golf_gpt import GolfGPTConfig


class PR334GPTConfig(GolfGPTConfig):
    """The shape of one model, under the golf model's names; the defaults are the pull request's."""

    model_type = "pr334_gpt"

    pair_rows: int = 2048
    pair_dim: int = 64
