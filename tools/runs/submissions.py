"""Read a submission.json: the field spells its keys in about 130 ways.

    {"name": "Mine", "mean_val_bpb": 1.19, "seed_results": {"1337": {"val_bpb": 1.19}}}

is read as name "Mine", val_bpb 1.19, seeds {1337: {"val_bpb": 1.19}}.
"""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

from tools.runs.foreign_logs import as_number

KEYS = {  # our name -> the keys that it is read from, the best first
    "name": ("name", "run_name", "title", "submission_name"),
    "author": ("author", "authors", "author_name"),
    "github_id": ("github_id", "github", "github_username", "github_handle"),
    "date": ("date", "submission_date", "timestamp"),
    "track": ("track",),
    "val_bpb": ("val_bpb", "mean_val_bpb", "val_bpb_mean", "mean_bpb", "sliding_val_bpb", "bpb"),
    "val_loss": ("val_loss", "mean_val_loss", "val_loss_mean", "val_loss_nats"),
    "bytes_total": (
        "bytes_total",
        "total_bytes",
        "artifact_bytes_max",
        "artifact_bytes",
        "artifact_size_bytes",
        "submission_bytes",
        "artifact_bytes_mean",
        "artifact_size",
    ),
    "bytes_code": ("bytes_code", "code_bytes", "code_size_bytes", "bytes_code_max"),
    "hardware": ("hardware", "gpu", "gpus", "device"),
    "seeds": ("seed_results", "seeds", "per_seed", "results_per_seed", "per_seed_results", "runs"),
}
SEED_KEYS = {  # of one seed's results; milliseconds become seconds
    "val_bpb": ("val_bpb", "ttt_val_bpb", "bpb", "val_bpb_exact", "ttt_bpb", "sliding_val_bpb"),
    "val_loss": ("val_loss", "val_loss_nats", "ttt_val_loss", "loss"),
    "artifact_bytes": ("artifact_bytes", "bytes_total", "total_bytes", "artifact_size_bytes"),
    "steps": ("steps", "step_stop", "stop_step", "step", "train_steps"),
    "train_time_s": ("train_time_s", "train_seconds", "wallclock_seconds", "train_wallclock_s"),
    "eval_time_s": ("eval_time_s", "eval_seconds", "ttt_eval_time_s", "eval_wallclock_s"),
    "train_time_ms": ("train_time_ms", "train_wallclock_ms"),
    "eval_time_ms": ("eval_time_ms", "ttt_time_ms", "ttt_eval_time_ms"),
}
WHOLE_NUMBERS = ("artifact_bytes", "steps")  # of SEED_KEYS; the others have decimals


@dataclass(frozen=True)
class Submission:
    """A submission.json, its variants brought to one form; None where it does not say."""

    path: Path
    raw: dict
    name: str | None
    author: str | None
    github_id: str | None
    date: str | None
    track: str | None
    val_bpb: float | None
    val_loss: float | None
    seeds: dict[int, dict]  # seed -> those of SEED_KEYS that are there
    bytes_total: int | None
    bytes_code: int | None
    hardware: str | None
    keys_used: dict[str, str]  # our name -> the key that it was read from


def read_object(path: Path) -> dict:
    """The JSON object in a file. Raises: ValueError naming path, position and remedy."""
    try:
        content = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}: {place}: {error.msg}; mend it, or write it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds a {type(content).__name__}; must be one object {{…}}")
    return content


def read_submission(path: str | Path) -> Submission:
    """What a submission.json, or a folder that holds one, says.

    Raises: FileNotFoundError; ValueError naming path, position and remedy for bad JSON.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "submission.json"
    raw = read_object(path)
    keys_used = {}

    def pick(name: str, kind: type):
        for key in KEYS[name]:
            value = as_kind(raw.get(key), kind)
            if value is not None:
                keys_used[name] = key
                return value
        return None

    # "seeds" may be a list of numbers alone, beside another key that holds their results.
    seeds = {}
    for key in KEYS["seeds"]:
        seeds = read_seeds(raw.get(key))
        if seeds:
            keys_used["seeds"] = key
            break
    numbers = raw.get("seeds")
    scores = raw.get("seed_scores")
    if not seeds and isinstance(numbers, list) and isinstance(scores, list):
        seeds = read_seeds(dict(zip(numbers, scores, strict=False)))
        keys_used["seeds"] = "seed_scores"
    return Submission(
        path=path,
        raw=raw,
        name=pick("name", str),
        author=pick("author", str),
        github_id=pick("github_id", str),
        date=pick("date", str),
        track=pick("track", str),
        val_bpb=pick("val_bpb", float),
        val_loss=pick("val_loss", float),
        seeds=seeds,
        bytes_total=pick("bytes_total", int),
        bytes_code=pick("bytes_code", int),
        hardware=pick("hardware", str),
        keys_used=keys_used,
    )


def as_kind(value, kind: type):
    """The value as text, float or int; None where it is something else. True is not a number."""
    if kind is str:
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        return str(text) if isinstance(text, str | int) and text != "" else None
    if isinstance(value, bool):
        return None  # "val_bpb": true stands in a list of what was complied with
    # "15,990,006 bytes" and "1.0810 bpb" were typed by hand.
    if isinstance(value, str):
        number = re.fullmatch(r"\s*(\d[\d,_]*(?:\.\d+)?)\s*(?:bytes|bpb)?\s*", value)
        value = as_number(number[1]) if number else None
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    if kind is int and value != int(value):
        return None
    return kind(value)


def read_seeds(results) -> dict[int, dict]:
    """Results by seed, from a dict by seed or a list of dicts with the seed in them.

    {"seed_42": 1.19} and [{"seed": 42, "val_bpb": 1.19}] are both {42: {"val_bpb": 1.19}}.
    """
    if isinstance(results, dict):
        rows = list(results.items())
    elif isinstance(results, list):
        rows = [(row.get("seed"), row) for row in results if isinstance(row, dict)]
    else:
        return {}
    seeds = {}
    for name, row in rows:
        # "mean" and "std" stand among the seeds in some files.
        seed = re.fullmatch(r"(?:seed[_ -]?)?(\d+)", str(name).lower())
        if isinstance(row, int | float):
            row = {"val_bpb": row}
        if seed and isinstance(row, dict):
            seeds[int(seed[1])] = read_seed(row)
    return seeds


def read_seed(row: dict) -> dict:
    """One seed's results, under our names."""
    values = {}
    for name, keys in SEED_KEYS.items():
        kind = int if name in WHOLE_NUMBERS else float
        candidates = [as_kind(row.get(key), kind) for key in keys]
        values[name] = next((value for value in candidates if value is not None), None)
    for name in ("train_time", "eval_time"):
        milliseconds = values.pop(f"{name}_ms")
        if values[f"{name}_s"] is None and milliseconds is not None:
            values[f"{name}_s"] = milliseconds / 1000
    return {name: value for name, value in values.items() if value is not None}
