"""Open any model of this project: artifact, checkpoint, run folder or Hugging Face folder.

    opened = open_model("logs/mine")              # its artifact, or its checkpoint if it has none
    logits_BTV = opened.model(tokens_BT)

It also reads what older versions wrote. A run opens its own artifact by recipe.load_model, so that
none of this counts as code of a submission.

Only code of this project builds a model. What lies beside an artifact is not run, except the code
of a Hugging Face folder, and that only where the caller trusts it.
"""

import importlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import quantize
from engine.recipe import Recipe, load_model, model_settings_of

# Names of the systems in files from before recipes had names; settings.json had them as presets.
OLDER_SYSTEMS = {
    "gelu_d12": "baselines.gelu_d12",
    "yat_d12": "baselines.yat_d12",
    "yat_neuron_d12": "baselines.yat_d12",
    "gpt2_124m": "baselines.gpt2_124m",
    "preln_53m": "baselines.preln_53m",
    "preln_53m_untied": "baselines.preln_53m",
    "preln_53m_distilled": "baselines.preln_53m",
}


@dataclass(frozen=True)
class Opened:
    """A model that is ready to score, and what is known of it."""

    model: nn.Module  # tokens_BT -> logits_BTV in fp32, in eval mode
    recipe: Recipe | None  # None: a Hugging Face folder
    model_settings: dict  # what recipe.model took, or the folder's config
    run_settings: dict  # settings.json of the run it lies in; empty where there is none
    path: Path  # the file or folder that holds the weights
    repeat_weights: tuple[float, ...] = ()  # of a document's repeats; see evaluate.Scheme

    @property
    def seq_len(self) -> int:
        """Tokens of the context that it was trained with."""
        return self.model_settings["train_seq_len"]


def open_model(
    path: str | Path, device: str | torch.device = "cpu", *, compile: bool = True, trust=False
) -> Opened:
    """The model with its weights on the device; compiled on CUDA unless compile is False.

    trust lets a Hugging Face folder run the code that it carries.
    Raises: FileNotFoundError; quantize.ArtifactError for a damaged artifact; ValueError for a file
    that is none of the four, or whose settings this version does not know.
    """
    path = Path(path)
    device = torch.device(device)
    if (path / "config.json").is_file():
        from engine.hugging_face import open_folder

        model, config = open_folder(path, device, trust)
        return Opened(model, None, config, {}, path)
    if path.is_dir():
        path = _weights_of_run(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; give a run's folder, artifact or checkpoint")
    weights, saved = read_weights(path)
    try:
        settings = current_settings(saved)
        recipe = find_recipe(settings["recipe"])
        model = load_model(recipe, weights, settings, device, compile)
    except (ValueError, RuntimeError, TypeError) as error:
        raise ValueError(f"{path} does not fit this version: {error}") from None
    model_settings = model_settings_of(settings)
    repeat_weights = tuple(settings.get("repeat_weights", ()))
    return Opened(model, recipe, model_settings, _run_settings(path), path, repeat_weights)


def find_recipe(name: str) -> Recipe:
    """The recipe of this name. Only files of this project are imported, whatever the name says.

    Raises: ValueError for any other name.
    """
    if not re.fullmatch(r"train_gpt|baselines\.[a-z][a-z0-9_]*", name):
        raise ValueError(f"recipe {name!r} must be train_gpt or baselines.NAME")
    running = getattr(sys.modules["__main__"], "RECIPE", None)
    if running is not None and running.name == name:
        return running  # a script need not be imported a second time
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError:
        raise ValueError(f"recipe {name!r} does not exist here; see baselines/") from None
    if not hasattr(module, "RECIPE"):
        raise ValueError(f"{name!r} is not a recipe: it has no RECIPE")
    return module.RECIPE


def recipe_name(saved: dict) -> str:
    """The recipe that an artifact's or checkpoint's settings name, also in older files.

    Raises: ValueError for settings that name none.
    """
    if "recipe" in saved and not is_early_train_gpt(saved):
        return str(saved["recipe"])
    if "system" in saved:
        if saved["system"] not in OLDER_SYSTEMS:
            raise ValueError(f"system {saved['system']!r} is not one of {', '.join(OLDER_SYSTEMS)}")
        return OLDER_SYSTEMS[saved["system"]]
    if "bigram_vocab_size" in saved:
        return "baselines.pr334"
    raise ValueError("its settings name no recipe; give a file of a run of this project")


def is_early_train_gpt(saved: dict) -> bool:
    """Whether train_gpt.py still trained the model of pull request 334: it had hashed bigrams.

    Its student did so too.
    """
    is_ours = saved.get("recipe") in ("train_gpt", "baselines.student")
    return is_ours and "bigram_vocab_size" in saved


def recipe_of_run(saved: dict) -> str:
    """The recipe that a run's settings.json names, also an older one, which names a preset.

    {"preset": "preln_53m_untied", ...} was written by a run of baselines.preln_53m.

    Raises: ValueError for settings that name none.
    """
    if "recipe" in saved:
        return recipe_name(saved)
    preset = str(saved.get("preset"))
    if preset in OLDER_SYSTEMS:
        return OLDER_SYSTEMS[preset]
    # Only now: older settings of every system had the fields of pull request 334's model as well.
    return recipe_name(saved)


def current_settings(saved: dict) -> dict:
    """Settings of an artifact or checkpoint under today's names; older files name a system.

    {"system": "gpt2_124m", "seq_len": 1024, ...}
        -> {"recipe": "baselines.gpt2_124m", "train_seq_len": 1024, ...}

    Raises: ValueError for settings that name no recipe.
    """
    settings = {"recipe": recipe_name(saved)}
    for name, value in saved.items():
        if name not in ("recipe", "system"):
            settings["train_seq_len" if name == "seq_len" else name] = value
    return settings


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights and settings of an artifact, or those that a checkpoint exports.

    Raises: quantize.ArtifactError; ValueError for a file that is neither; OSError.
    """
    with open(path, "rb") as file:
        is_artifact = file.read(len(quantize.MAGIC)) == quantize.MAGIC
    if is_artifact:
        return quantize.decode(path.read_bytes())
    return quantize.load_checkpoint(path)


def _weights_of_run(folder: Path) -> Path:
    artifact = folder / "artifact.pgz"
    return artifact if artifact.exists() else folder / "checkpoint.pt"


def _run_settings(path: Path) -> dict:
    """settings.json beside the file. Raises: ValueError where it is damaged."""
    saved = path.with_name("settings.json")
    if not saved.exists():
        return {}
    try:
        return dict(json.loads(saved.read_text()))
    except ValueError:
        raise ValueError(f"{saved} is damaged; move it away, and name data and tokenizer") from None
