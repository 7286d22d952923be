"""gelu_d12: a nanochat-style GPT of depth 12 (261 M parameters) with a GELU MLP.

    torchrun --standalone --nproc_per_node=8 -m baselines.gelu_d12

Betas, weight decay, warm-up, end of the cosine and clipping are not published: they are choices.
"""

from dataclasses import dataclass

from baselines.adamw import SMOKE, AdamWRecipe, AdamWSettings
from baselines.models import d12
from engine.trainer import train


@dataclass(frozen=True)
class D12Settings(AdamWSettings):
    """What both models of depth 12 read."""

    vocab_size: int = 32_768
    num_kv_heads: int = 12
    train_seq_len: int = 1024
    train_batch_tokens: int = 262_144
    micro_batch_tokens: int = 32_768
    iterations: int = 19_920
    peak_lr: float = 0.01
    end_lr: float = 0.0005
    lr_warmup_steps: int = 200
    lr_first_step: int = 0
    lr_decay_steps: int = 19_920
    weight_decay: float = 0.01
    train_log_every: int = 1
    val_evaluation: str = "wikitext103"


D12_SMOKE = SMOKE | {"num_kv_heads": 4}  # a key head for each query head, as at full size


class GeluD12(AdamWRecipe):
    name = "baselines.gelu_d12"
    Settings = D12Settings
    presets = {"gelu_d12": {}, "smoke": D12_SMOKE}
    models = d12
    default = d12.CONFIGS["gelu_d12"]
    shape = ("num_kv_heads",)


RECIPE = GeluD12()

if __name__ == "__main__":
    train(RECIPE)
