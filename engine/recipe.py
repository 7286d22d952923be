"""What a recipe is: the one seam between the engine and a file that trains a model.

A recipe file ends in a class that extends Recipe, one instance of it called RECIPE, and a call of
engine.trainer.train. The name of a recipe is the name of its module. It stands in settings.json, in
the checkpoint, in the artifact and in the record, and open_model finds the module by it.

    class TinyRecipe(Recipe):
        name = "baselines.tiny"
        Settings = TinySettings
        presets = {"tiny": {}}
        ...
    RECIPE = TinyRecipe()

Shapes: B rows, T tokens, V vocabulary.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

import evaluate
import quantize
from codec.gptq import Matrices, Matrix
from engine.ranks import Ranks, compute_dtype
from engine.settings import RunSettings
from engine.text import TrainingText

State = dict[str, Tensor]
# (tokens_BT, weights_BT or None) -> nats, summed over the targets, each times its weight
LossFunction = Callable[[Tensor, Tensor | None], Tensor]


# Tells, when called, what errors of each matrix cost (codec.curvature).
MeasureHessians = Callable[[], quantize.Hessians]


@dataclass(frozen=True)
class Budget:
    """What packing may take."""

    most_bytes: float  # of the artifact
    seconds_left: Callable[[], float] = lambda: math.inf  # where it runs out, coarser will do
    prepare: Callable[[list[Matrix]], Matrices] = Matrices  # engine.shared: ranks share the work


class Model(Protocol):
    """tokens_BT -> logits_BTV in fp32, as an nn.Module."""

    def __call__(self, tokens_BT: Tensor) -> Tensor: ...

    def loss(self, tokens_BT: Tensor) -> Tensor:
        """Cross-entropy in nats, summed over the T - 1 targets of every row."""

    def init_weights(self, seed: int) -> "Model":
        """Set every parameter; the same weights on every device."""

    def flops_per_token(self, T: int) -> int:
        """Forward and backward, of a sequence of T tokens."""

    # A model with takes_memory = True can read a document in one pass: logits_at(tokens_BT,
    # place_S, memory) gives the logits at places of the flattened tokens, after all that the
    # memory holds (engine/memory.py).


class Optimizer(Protocol):
    """All that changes the weights, under its schedule."""

    params: list[nn.Parameter]
    scale: float  # of the last step's rate, relative to its peak
    remedy: str  # what to change when a run diverges

    def step(self, step: int, progress: float) -> Tensor:
        """Clip, update, clear the gradients; returns their norm before clipping.

        step counts from 0; progress is the share of the run that is over.
        """

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class Averages(Protocol):
    """Averages of the weights over training."""

    def update(self, step: int, progress: float) -> None:
        """Take in the weights after step number `step` (from 1)."""

    def candidates(self) -> dict[str, State]:
        """Weights that could be exported, by name; "raw" are those of the model."""

    def state_dict(self) -> dict: ...

    def load_state_dict(self, state: dict) -> None: ...


class RawWeights:
    """The Averages of a recipe that exports its weights as they are."""

    def __init__(self, model: nn.Module):
        self.live = dict(model.named_parameters())

    def update(self, step: int, progress: float) -> None:
        """Nothing is averaged."""

    def candidates(self) -> dict[str, State]:
        return {"raw": {name: p.detach().clone() for name, p in self.live.items()}}

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Nothing was saved."""


class Recipe(Protocol):
    """One way to train, pack and score a model.

    Methods without a body are the recipe's to write; the others are what most recipes want.
    """

    name: str  # of the module that holds it, as train_gpt or baselines.pr334
    Settings: type[RunSettings]
    presets: dict[str, dict]  # changes of the defaults; the first is taken, or smoke without CUDA
    cap_bytes: float = quantize.CAP_BYTES  # code and artifact together; math.inf: none
    mixes_repeats: bool = False  # scores with a document's own repeats (engine/repeats.py)

    def text(self, settings: RunSettings) -> TrainingText:
        """What it trains on. Raises: ValueError naming the setting that does not fit; OSError."""
        return TrainingText(settings)

    def byte_table(self, tokenizer_path: str, vocab_size: int) -> evaluate.ByteTable:
        """How many bytes of text each token stands for."""
        return evaluate.ByteTable.from_sentencepiece(tokenizer_path, vocab_size)

    def model_settings(self, settings: RunSettings) -> dict:
        """What `model` needs to build the model again, as JSON; with train_seq_len, its context."""
        ...

    def model(self, model_settings: dict, dtype: torch.dtype) -> Model:
        """The model, its weights not yet set. Raises: ValueError for settings that are not its."""
        ...

    def dtype(self, settings: RunSettings, device: torch.device) -> torch.dtype:
        """Of the products in training."""
        return compute_dtype(device, settings.compile)

    def init_weights(self, model: Model, settings: RunSettings) -> None:
        """Set the weights that training begins with."""
        model.init_weights(settings.seed)

    def training_loss(self, model: Model, settings: RunSettings) -> LossFunction:
        """What training minimises; the model's own loss unless there is a teacher, say."""
        return lambda tokens_BT, weights_BT: model.loss(tokens_BT)

    def optimizer(self, model: Model, settings: RunSettings, ranks: Ranks) -> Optimizer: ...

    def averages(self, model: Model, settings: RunSettings) -> Averages:
        return RawWeights(model)

    def pack(
        self, weights: State, model_settings: dict, budget: Budget, hessians: MeasureHessians
    ) -> bytes:
        """The artifact, as fine as the budget allows, or as makes a difference by the Hessians.

        Raises: TimeoutError where no time is left; ValueError where nothing fits.
        """
        return quantize.encode_trellis(
            weights,
            hessians(),
            model_settings,
            budget.most_bytes,
            prepare=budget.prepare,
            seconds_left=budget.seconds_left,
        )

    def adapter(
        self, model: Model, seq_len: int, ranks: Ranks
    ) -> evaluate.AdaptFunction | evaluate.DocumentAdapter | None:
        """How the model learns from scored text (test-time training); None: it does not."""
        return None


# What an artifact's settings hold beside the model's own.
NOT_THE_MODEL = ("recipe", "repeat_weights")


def packed_settings(recipe: Recipe, settings: RunSettings) -> dict:
    """The settings that a checkpoint and an artifact carry: the recipe's name and the model's."""
    return {"recipe": recipe.name, **recipe.model_settings(settings)}


def model_settings_of(saved: dict) -> dict:
    """What recipe.model takes, of the settings that an artifact or a checkpoint carries."""
    return {name: value for name, value in saved.items() if name not in NOT_THE_MODEL}


def load_model(recipe: Recipe, weights: State, saved: dict, device: torch.device, compile: bool):
    """The model of an artifact's weights and settings, ready to score; compiled on CUDA if asked.

    Raises: ValueError, RuntimeError or TypeError where weights, settings and recipe do not fit.
    """
    model = recipe.model(model_settings_of(saved), compute_dtype(device))
    model.load_state_dict(weights)
    model.to(device).eval()
    if compile and device.type == "cuda":
        model.compile(dynamic=True)  # windows come in a few lengths
    return model
