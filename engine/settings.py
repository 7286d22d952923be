"""The settings of a run: what every recipe reads, and how the environment gives them.

A recipe's settings are a dataclass that extends RunSettings. A setting is given as an environment
variable, the field's name in upper case:

    SEED=42 MATRIX_LR=0.03 PRESET=smoke torchrun train_gpt.py

A name that is nearly a setting, or a setting of another recipe, or one that other trainers use is
an error: a typing mistake in an hour-long run costs the hour.
"""

import ast
import dataclasses
import difflib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import quantize

# The project's folder; in a packed script, where every module is that one file, the script's.
ROOT = Path(quantize.__file__).resolve().parent

# The mini track (records/mini_cpu): its bounds alone end a run, so that no busy machine decides.
MINI_TRACK = dict(
    max_wallclock_seconds=0.0,
    iterations=1_000_000,
    max_train_flops=1e14,
    max_artifact_bytes=250_000,
)

# Names that upstream scripts and other trainers read. Setting one would change nothing, so it is
# refused with what to use instead.
FOREIGN_NAMES = {
    "WARMDOWN_ITERS": "WARMDOWN_FRAC, a fraction of the run",
    "EMA_DECAY": "EMA_FRAC, a fraction of the run",
    "VAL_BATCH_SIZE": "nothing: scoring batches itself",
    "TIE_EMBEDDINGS": "nothing: the recipe decides",
    "EMBED_LR": "TIED_EMBED_LR",
    "HEAD_LR": "TIED_EMBED_LR",
    "MUON_BACKEND_STEPS": "nothing: five Newton-Schulz iterations",
    "TTT_ENABLED": "golf.py score logs/<run_id> --ttt",
    "QAT_ENABLED": "nothing: there is no quantization-aware training",
    "LR": "the recipe's rates, as MATRIX_LR or PEAK_LR",
    "LEARNING_RATE": "the recipe's rates, as MATRIX_LR or PEAK_LR",
    "BATCH_SIZE": "TRAIN_BATCH_TOKENS, in tokens a step over all ranks",
    "EPOCHS": "ITERATIONS, in steps",
    "NUM_EPOCHS": "ITERATIONS, in steps",
    "MAX_STEPS": "ITERATIONS",
    "NUM_STEPS": "ITERATIONS",
}


class Checked:
    """A dataclass that names the variable of a field when it refuses its value."""

    def require(self, is_met: bool, field: str, requirement: str) -> None:
        """Raises: ValueError that names the field's variable and value, unless is_met."""
        if not is_met:
            raise ValueError(f"{field.upper()}={getattr(self, field)} must be {requirement}")

    def require_at_least(self, least: float, *fields: str) -> None:
        for field in fields:
            self.require(getattr(self, field) >= least, field, f"at least {least}")

    def require_fractions(self, *fields: str) -> None:
        for field in fields:
            self.require(0 <= getattr(self, field) <= 1, field, "between 0 and 1")


@dataclass(frozen=True)
class RunSettings(Checked):
    """What every recipe reads. A recipe adds its own, and checks them after these.

    Raises: ValueError naming the variable, its value, the requirement and what to set instead.
    """

    # Run
    run_id: str = ""  # folder under logs/; empty: date, time and process id
    resume: str = ""  # run id to continue; its saved settings are used
    seed: int = 1337  # initial weights and order of the training blocks
    data_path: str = "./data/datasets/fineweb10B_sp1024"  # holds *_train_*.bin and *_val_*.bin
    tokenizer_path: str = "./data/tokenizers/fineweb_1024_bpe.model"
    vocab_size: int = 1024
    # Length
    max_wallclock_seconds: float = 600.0  # until the artifact is on disk; 0: iterations alone count
    iterations: int = 20_000  # upper bound on optimizer steps
    max_train_flops: float = 0.0  # of all steps, by the model's flops_per_token; 0: no bound
    train_batch_tokens: int = 524_288  # per step, over all ranks
    train_seq_len: int = 1024
    micro_batch_tokens: int = 65_536  # per forward pass and rank; bounds memory, not the result
    warmup_steps: int = 10  # thrown-away steps on made-up tokens, before the clock starts
    # Watching and scoring
    val_loss_every: int = 1000  # steps between validations outside the clock; 0: only at the end
    train_log_every: int = 200  # steps
    checkpoint_seconds: float = 120.0  # between checkpoints; 0: only the final one
    eval_stride: int = 64  # targets that each window adds in scoring; 0: each document in one pass
    eval_documents: bool = False  # score each document alone; else the text is one stream
    compile: bool = True  # torch.compile of step and scoring; on a CPU where the run is long enough
    max_artifact_bytes: int = 0  # of the artifact alone; 0: what the cap leaves beside the code
    peak_flops: float = 0.0  # dense bf16 of one device, for the log's mfu; 0: by a table

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if field.type in (int, float):
                self.require_at_least(0, field.name)
        self.require_at_least(1, "iterations", "train_seq_len", "train_log_every")
        self.require(self.seed < 2**63, "seed", "below 2**63")
        self.require(self.train_seq_len <= 2**20, "train_seq_len", "at most 2**20")
        for field in ("train_batch_tokens", "micro_batch_tokens"):
            tokens = getattr(self, field)
            is_multiple = tokens >= self.train_seq_len and tokens % self.train_seq_len == 0
            requirement = f"a multiple of TRAIN_SEQ_LEN={self.train_seq_len}, and at most 2**32"
            self.require(is_multiple and tokens <= 2**32, field, requirement)
        in_range = 2 <= self.vocab_size <= 65_536
        self.require(in_range, "vocab_size", "between 2 and 65536 (uint16 shards)")
        requirement = f"at most TRAIN_SEQ_LEN={self.train_seq_len}"
        self.require(self.eval_stride <= self.train_seq_len, "eval_stride", requirement)
        is_apart = self.eval_stride > 0 or self.eval_documents
        self.require(is_apart, "eval_stride", "at least 1 where EVAL_DOCUMENTS=0")


@dataclass(frozen=True)
class Choice:
    """The settings that were chosen, and how."""

    settings: RunSettings
    preset: str
    reason: str  # why this preset
    overrides: dict  # what the environment gave, by field


def read_settings(recipe, environ: Mapping[str, str], has_cuda: bool) -> Choice:
    """Resolve the settings of a recipe: its preset, then what the environment gives.

    With RESUME the saved settings of that run are the base, and nothing may differ.
    Raises: ValueError for unknown presets, near-miss and foreign names, and unusable values.
    """
    fields = {field.name.upper(): field for field in dataclasses.fields(recipe.Settings)}
    refuse_unread_names(recipe.name, [*fields, "PRESET"], environ)
    overrides = {
        field.name: parse_setting(field, environ[name])
        for name, field in fields.items()
        if name in environ
    }
    if overrides.get("resume"):
        return saved_choice(recipe, overrides, environ.get("PRESET"))

    presets = list(recipe.presets)
    default = presets[0] if has_cuda or "smoke" not in presets else "smoke"
    preset = environ.get("PRESET") or default
    if preset not in presets:
        raise ValueError(f"PRESET={preset!r} must be one of {', '.join(presets)}")
    if "PRESET" in environ or len(presets) == 1:
        reason = "as asked"
    elif preset == "smoke":
        reason = f"default without CUDA, where {presets[0]} takes days"
    else:
        reason = "default with CUDA" if has_cuda else "default"
    settings = recipe.Settings(**{**recipe.presets[preset], **overrides})
    return Choice(settings, preset, reason, overrides)


def parse_setting(field: dataclasses.Field, text: str):
    """The value of one environment variable, by the type of its field.

    Raises: ValueError naming the variable, the text and the type that it must have.
    """
    try:
        if field.type is bool:
            return {"0": False, "1": True}[text]
        value = field.type(text)
        if field.type is float and not math.isfinite(value):
            raise ValueError
        return value
    except (ValueError, KeyError):
        kind = {bool: "0 or 1", int: "a whole number", float: "a finite number"}[field.type]
        raise ValueError(f"{field.name.upper()}={text!r} must be {kind}") from None


def refuse_unread_names(recipe_name: str, names: list[str], environ: Mapping[str, str]) -> None:
    """Raises: ValueError for a variable that would change nothing, with the name to use."""
    elsewhere = settings_of_all_recipes()
    for variable in environ:
        if variable in names:
            continue
        if variable in FOREIGN_NAMES:
            remedy = FOREIGN_NAMES[variable]
            raise ValueError(f"{variable} is set but is not read here; use {remedy}")
        if variable in elsewhere:
            owner = elsewhere[variable]
            raise ValueError(f"{variable} is a setting of {owner}, not of {recipe_name}; unset it")
        near = difflib.get_close_matches(variable, names, n=1, cutoff=0.85)
        if not near and "_" in variable:
            near = [name for name in names if name.endswith("_" + variable)]
        if near:
            raise ValueError(f"{variable} is set but is not a setting; did you mean {near[0]}?")


def settings_of_all_recipes() -> dict[str, str]:
    """The variables of every recipe beside this one's, each with a recipe that reads it.

    Read from the text of the files: to import every baseline would take a second at each start. A
    packed script has no other recipes beside it.
    """
    variables = {}
    for path in [ROOT / "train_gpt.py", *sorted((ROOT / "baselines").glob("*.py"))]:
        if not path.is_file():
            continue
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
                for line in node.body:
                    if isinstance(line, ast.AnnAssign):
                        variables.setdefault(line.target.id.upper(), path.stem)
    return variables


def saved_choice(recipe, overrides: dict, preset_asked: str | None) -> Choice:
    """The settings of the run to resume, which nothing may contradict.

    Raises: ValueError for a run that never began, is of another recipe, or differs.
    """
    run_id = overrides["resume"]
    path = Path("logs") / run_id / "settings.json"
    if not path.exists():
        raise ValueError(
            f"RESUME={run_id}: no such run, or it never began ({path} is missing); start a new run"
            " under another RUN_ID"
        )
    damage = f"RESUME={run_id}: {path} is damaged; start a new run"
    try:
        saved = json.loads(path.read_text())
        preset = saved.pop("preset")
        recipe_name = saved.pop("recipe", None)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise ValueError(damage) from None
    fields = {field.name for field in dataclasses.fields(recipe.Settings)}
    differing = sorted(set(saved) ^ fields)
    if differing or recipe_name != recipe.name or preset not in recipe.presets:
        raise ValueError(
            f"RESUME={run_id} is a run of {recipe_name} {preset} or of another version,"
            f" {differing}; resume it with the command that began it"
        )
    set_now = overrides if preset_asked is None else {**overrides, "preset": preset_asked}
    own = {**saved, "preset": preset, "resume": run_id}
    for name, value in set_now.items():
        if value != own[name]:
            raise ValueError(
                f"{name.upper()}={value} differs from {own[name]} of the run to resume; unset it,"
                " or start a new run"
            )
    try:
        settings = recipe.Settings(**{**saved, "resume": run_id})
    except TypeError:  # text where a number was
        raise ValueError(damage) from None
    return Choice(settings, preset, "as saved by the run that is resumed", {})
