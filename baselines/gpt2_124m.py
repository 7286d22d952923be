"""gpt2_124m: GPT-2's smallest model, by llm.c's recipe.

torchrun --standalone --nproc_per_node=8 -m baselines.gpt2_124m
"""

from dataclasses import dataclass

from baselines.adamw import SMOKE, AdamWRecipe, AdamWSettings
from baselines.models import gpt2
from engine.trainer import train


@dataclass(frozen=True)
class GPT2Settings(AdamWSettings):
    """What the recipe of gpt2_124m sets."""

    vocab_size: int = 50_257
    train_seq_len: int = 1024
    train_batch_tokens: int = 524_288
    micro_batch_tokens: int = 65_536
    iterations: int = 20_000
    peak_lr: float = 6e-4
    val_loss_every: int = 250
    seed: int = 42
    train_log_every: int = 1
    val_evaluation: str = "gpt2_val"


class GPT2(AdamWRecipe):
    name = "baselines.gpt2_124m"
    Settings = GPT2Settings
    presets = {"gpt2_124m": {}, "smoke": SMOKE}
    models = gpt2
    default = gpt2.CONFIGS["gpt2_124m"]


RECIPE = GPT2()

if __name__ == "__main__":
    train(RECIPE)
