"""preln_53m: a pre-LN GPT of 34 M parameters with its tied head, 53 M without.

    torchrun --standalone --nproc_per_node=1 -m baselines.preln_53m
    PRESET=preln_53m_untied torchrun ... -m baselines.preln_53m
    PRESET=preln_53m_distilled START_FROM=logs/<run_id>/checkpoint.pt TEACHER=continuations.jsonl \\
        torchrun ... -m baselines.preln_53m

Betas, weight decay and precision (that which MLX computes in) are not published: they are choices.
"""

from dataclasses import dataclass

from baselines.adamw import SMOKE, AdamWRecipe, AdamWSettings
from baselines.models import preln
from engine.trainer import train


@dataclass(frozen=True)
class PrelnSettings(AdamWSettings):
    """What the recipe of preln_53m sets, and reads beside AdamWSettings."""

    vocab_size: int = 50_257
    num_layers: int = 8
    model_dim: int = 384
    num_heads: int = 8
    train_seq_len: int = 512
    train_batch_tokens: int = 6_144
    micro_batch_tokens: int = 6_144
    iterations: int = 20_000
    peak_lr: float = 3e-4
    end_lr: float = 3e-5
    lr_warmup_steps: int = 2000
    lr_first_step: int = 0
    lr_decay_steps: int = 30_000
    grad_clip_norm: float = 0.0
    random_windows: bool = True
    precision: str = "fp32"
    val_evaluation: str = "preln_val"
    dropout: float = 0.1  # while training
    tied: bool = True  # the head is the embedding
    is_second_stage: bool = False  # a model that was trained learns from a teacher

    def __post_init__(self):
        super().__post_init__()
        self.require(self.dropout < 1, "dropout", "below 1")
        if self.is_second_stage and not (self.start_from and self.teacher):
            raise ValueError(
                "a second stage needs START_FROM=<checkpoint.pt of preln_53m> and TEACHER=<another"
                " checkpoint.pt, or .jsonl>"
            )


class Preln(AdamWRecipe):
    name = "baselines.preln_53m"
    Settings = PrelnSettings
    presets = {
        "preln_53m": {},
        "preln_53m_untied": {"tied": False},
        "preln_53m_distilled": {
            "is_second_stage": True,
            "iterations": 15_000,
            "peak_lr": 3e-5,
            "lr_warmup_steps": 0,
            "grad_clip_norm": 1.0,
        },
        "smoke": SMOKE,
    }
    models = preln
    default = preln.CONFIGS["preln_53m"]
    shape = ("dropout", "tied")


RECIPE = Preln()

if __name__ == "__main__":
    train(RECIPE)
