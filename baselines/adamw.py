"""What the reference systems share: one AdamW for all weights, under warm-up and cosine.

A system's file (gelu_d12.py, yat_d12.py, gpt2_124m.py, preln_53m.py) adds its shape, its rates and
its model. There is no cap on bytes: the artifact is as fine as makes a difference.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

import evaluate
from baselines import teachers
from baselines.sgd_adapter import sgd_adapter
from baselines.teachers import TeacherSettings
from data import gpt2_tokenizer
from engine.open_model import read_weights
from engine.ranks import Ranks, compute_dtype
from engine.recipe import LossFunction, Recipe, State, packed_settings
from engine.text import RandomWindows, TrainingText


@dataclass(frozen=True)
class AdamWSettings(TeacherSettings):
    """A run's settings and those of its AdamW. Raises: ValueError naming the variable."""

    max_wallclock_seconds: float = 0.0
    num_layers: int = 12
    model_dim: int = 768
    num_heads: int = 12
    peak_lr: float = 3e-4
    end_lr: float = 0.0  # of the cosine, and after it
    lr_warmup_steps: int = 700
    lr_first_step: int = 1  # the first step's place in the warm-up: 0 begins at a rate of 0
    lr_decay_steps: int = 20_000  # where the cosine ends, counted from the start of the run
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    bias_correction: bool = True  # of Adam's moments; MLX's AdamW, of preln_53m, has none
    weight_decay: float = 0.1  # of tensors with two dimensions and more
    grad_clip_norm: float = 1.0  # 0: off
    random_windows: bool = False  # of the shards, with repeats, instead of blocks in epochs
    precision: str = "bf16"  # of products on CUDA: bf16 or fp32; weights and AdamW are fp32
    val_evaluation: str = ""  # the system's own evaluation, which baselines/evaluations.py names
    start_from: str = ""  # checkpoint whose weights training begins with; empty: initial ones

    def __post_init__(self):
        super().__post_init__()
        self.require_at_least(1, "num_layers", "num_heads", "model_dim")
        self.require(self.num_layers <= 1000, "num_layers", "at most 1000")
        self.require(self.precision in ("bf16", "fp32"), "precision", "bf16 or fp32")
        for field in ("adam_beta1", "adam_beta2"):
            self.require(getattr(self, field) < 1, field, "below 1")
        self.require(self.peak_lr > 0, "peak_lr", "over 0")


# A system's small twin: the same layers, optimizer and loss, for two CPU cores and a minute.
SMOKE = dict(
    data_path="./data/datasets/toy_sp1024",
    tokenizer_path="./data/tokenizers/toy_1024_bpe.model",
    vocab_size=1024,
    num_layers=4,
    model_dim=64,
    num_heads=4,
    train_seq_len=256,
    train_batch_tokens=2048,
    micro_batch_tokens=2048,
    iterations=100,
    lr_warmup_steps=10,
    lr_decay_steps=100,
    eval_stride=128,
    warmup_steps=1,
    val_loss_every=0,
    train_log_every=20,
    checkpoint_seconds=10.0,
    compile=False,
    val_evaluation="",  # the named ones read other texts
)


def lr_at(step: int, settings: AdamWSettings) -> float:
    """The rate of a step, counted from 0: up in a line, down in half a cosine, then constant."""
    warmup = settings.lr_warmup_steps
    if step < warmup:
        return settings.peak_lr * (step + settings.lr_first_step) / warmup
    share = (step - warmup) / max(1, settings.lr_decay_steps - warmup)
    height = (1 + math.cos(math.pi * min(1.0, share))) / 2
    return settings.end_lr + (settings.peak_lr - settings.end_lr) * height


class AdamW:
    """One AdamW for all weights; decay on tensors with two dimensions and more."""

    def __init__(self, model: nn.Module, settings: AdamWSettings, ranks: Ranks):
        self.settings = settings
        self.params = list(model.parameters())
        self.scale = 0.0
        self.remedy = f"lower PEAK_LR={settings.peak_lr} or set GRAD_CLIP_NORM"
        matrices = [p for p in self.params if p.ndim >= 2]
        others = [p for p in self.params if p.ndim < 2]
        groups = [
            dict(params=matrices, weight_decay=settings.weight_decay),
            dict(params=others, weight_decay=0.0),
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=0.0,
            eps=settings.adam_eps,
            betas=(settings.adam_beta1, settings.adam_beta2),
            fused=ranks.device.type == "cuda",
        )
        self.decays = [group["weight_decay"] for group in self.adamw.param_groups]

    def step(self, step: int, progress: float) -> Tensor:
        """Clip, update, clear the gradients; returns their norm before clipping."""
        most = self.settings.grad_clip_norm or math.inf
        grad_norm = nn.utils.clip_grad_norm_(self.params, most, foreach=True)
        lr = lr_at(step, self.settings)
        self.scale = lr / self.settings.peak_lr
        for group, decay in zip(self.adamw.param_groups, self.decays, strict=True):
            group.update(lr=lr, eps=self.settings.adam_eps, weight_decay=decay)
            if not self.settings.bias_correction:
                self.undo_bias_correction(group, step)
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return grad_norm

    def undo_bias_correction(self, group: dict, step: int) -> None:
        """Choose rate, eps and decay so that torch's correction, which it always makes, cancels.

        torch divides the first moment by c1 = 1 - beta1**t and the root of the second by
        root = sqrt(1 - beta2**t), and adds eps after that.
        """
        root = math.sqrt(1 - self.settings.adam_beta2 ** (step + 1))
        factor = (1 - self.settings.adam_beta1 ** (step + 1)) / root
        group["lr"] *= factor
        group["eps"] /= root
        group["weight_decay"] /= factor

    def state_dict(self) -> dict:
        return self.adamw.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.adamw.load_state_dict(state)


class AdamWRecipe(Recipe):
    """A reference system: a model of baselines/models under AdamW."""

    Settings: type[AdamWSettings] = AdamWSettings
    cap_bytes = math.inf
    models: ModuleType  # with Config and GPT
    default: object  # its Config at full size
    # Settings that Config has under the same name, beside sizes that all have.
    shape: tuple[str, ...] = ()

    def text(self, settings: AdamWSettings) -> TrainingText:
        """Also refuses teachers and beginnings that do not fit the model."""
        if settings.start_from:
            self.read_start(settings)
        return teachers.text_of(
            settings, RandomWindows if settings.random_windows else TrainingText
        )

    def byte_table(self, tokenizer_path: str, vocab_size: int) -> evaluate.ByteTable:
        return gpt2_tokenizer.byte_table(tokenizer_path, vocab_size)

    def model_settings(self, settings: AdamWSettings) -> dict:
        sizes = ("vocab_size", "num_layers", "model_dim", "num_heads", *self.shape)
        changed = {name: getattr(settings, name) for name in sizes}
        config = dataclasses.replace(self.default, seq_len=settings.train_seq_len, **changed)
        fields = dataclasses.asdict(config)
        return {"train_seq_len": fields.pop("seq_len"), **fields}

    def config(self, model_settings: dict):
        """The model's own Config. Raises: ValueError for settings that are not its."""
        fields = dict(model_settings)
        fields["seq_len"] = fields.pop("train_seq_len", None)
        own = {field.name for field in dataclasses.fields(self.models.Config)}
        if set(fields) != own:
            raise ValueError(f"settings {sorted(set(fields) ^ own)} do not match {self.name}")
        return self.models.Config(**fields)

    def model(self, model_settings: dict, dtype: torch.dtype) -> nn.Module:
        return self.models.GPT(self.config(model_settings), dtype)

    def dtype(self, settings: AdamWSettings, device: torch.device) -> torch.dtype:
        if settings.precision == "fp32":
            return torch.float32
        return compute_dtype(device, settings.compile)

    def init_weights(self, model: nn.Module, settings: AdamWSettings) -> None:
        if settings.start_from:
            model.load_state_dict(self.read_start(settings))
        else:
            model.init_weights(settings.seed)

    def read_start(self, settings: AdamWSettings) -> State:
        """The weights of START_FROM. Raises: ValueError for those of another model; OSError."""
        weights, saved = read_weights(Path(settings.start_from))
        own = packed_settings(self, settings)
        if saved != own:
            raise ValueError(
                f"START_FROM={settings.start_from} holds {saved}, the run trains {own}; set the"
                " sizes that it has"
            )
        return weights

    def training_loss(self, model: nn.Module, settings: AdamWSettings) -> LossFunction:
        device = next(model.parameters()).device
        return teachers.student_loss(model, settings, device)

    def optimizer(self, model: nn.Module, settings: AdamWSettings, ranks: Ranks) -> AdamW:
        return AdamW(model, settings, ranks)

    def adapter(self, model: nn.Module, seq_len: int, ranks: Ranks) -> evaluate.AdaptFunction:
        return sgd_adapter(model, seq_len=seq_len, ranks=ranks)
