"""Report a run from its metrics: smoothed loss, tokens per second, share of the devices' peak.

    python -m tools.runs.speed_report logs/<run_id> --peak-flops 989e12
    python -m tools.runs.speed_report logs/a logs/b logs/c     # of one model: also mean and spread

The peak is the dense one of all devices together. It is given, never guessed: without --peak-flops
there is no utilisation. Utilisation (mfu) counts a model's work in llm.c's convention; product_mfu,
of the models that define it, counts the products alone, as nanochat does.

Exit status 0; 2 where there is nothing to read.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
from pathlib import Path

import torch

from engine.open_model import find_recipe, recipe_of_run
from engine.recipe import Recipe
from engine.settings import RunSettings

LOSS_SMOOTHING = 0.95  # where a run's settings name no other


def smoothed(losses: list[float], weight: float = LOSS_SMOOTHING) -> float:
    """The running mean, begun with the first loss, so that no bias has to be corrected.

    Losses of 2 and 4 with a weight of 0.95: 0.95 * 2 + 0.05 * 4 = 2.1.
    """
    mean = losses[0]
    for loss in losses:
        mean = weight * mean + (1 - weight) * loss
    return mean


def utilisation(flops_per_token: int, tokens_per_second: float, peak_flops: float) -> float:
    """Share of the peak that went into the model's own products."""
    return flops_per_token * tokens_per_second / peak_flops


def spread(losses: list[float]) -> str:
    """Mean and standard deviation. They are all the runs there are, so ddof is 0."""
    mean = statistics.fmean(losses)
    deviation = statistics.pstdev(losses)
    return f"{mean:.4f} +- {deviation:.4f} (n={len(losses)})"


def read_run_settings(saved: dict) -> tuple[Recipe, RunSettings]:
    """The recipe of a settings.json, and its settings.

    Runs from before recipes had names also saved settings that their recipe did not read.

    Raises: ValueError where no recipe is named.
    """
    recipe = find_recipe(recipe_of_run(saved))
    own = {field.name for field in dataclasses.fields(recipe.Settings)}
    fields = {name: value for name, value in saved.items() if name in own}
    of_preset = recipe.presets.get(saved.get("preset"), {})
    return recipe, recipe.Settings(**{**of_preset, **fields})


def speed_of_run(folder: Path, peak_flops: float | None) -> dict:
    """Figures of a run, from its settings and its metrics.

    Raises: ValueError for a folder that no recipe wrote or where no step was logged; OSError.
    """
    saved = json.loads((folder / "settings.json").read_text())
    try:
        recipe, settings = read_run_settings(saved)
    except ValueError as error:
        raise ValueError(f"{folder} is not a run of a recipe: {error}") from None
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if "train_loss" in line]
    if not steps:
        raise ValueError(f"{folder} has no logged step; train on with RESUME={folder.name}")
    with torch.device("meta"):
        model = recipe.model(recipe.model_settings(settings), torch.float32)
    T = settings.train_seq_len
    losses = [line["train_loss"] for line in steps]
    last = steps[-1]
    figures = {
        "recipe": recipe.name,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": last["step"],
        "tokens": last["tokens"],
        "last_loss": losses[-1],
        "smoothed_loss": smoothed(losses, saved.get("loss_smoothing", LOSS_SMOOTHING)),
        "losses_logged": len(steps),
        "tokens_per_second": last["tok_s"],
        "flops_per_token": model.flops_per_token(T),
    }
    if peak_flops:
        rate = figures["tokens_per_second"]
        figures["peak_flops"] = peak_flops
        figures["mfu"] = utilisation(figures["flops_per_token"], rate, peak_flops)
        if hasattr(model, "product_flops_per_token"):
            product_flops = model.product_flops_per_token(T)
            figures["product_flops_per_token"] = product_flops
            figures["product_mfu"] = utilisation(product_flops, rate, peak_flops)
    return figures


def main(argv: list[str] | None = None) -> int:
    purpose = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.runs.speed_report", description=purpose)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--peak-flops", type=float, help="dense peak of all devices together")
    args = parser.parse_args(argv)
    try:
        if args.peak_flops is not None and not 0 < args.peak_flops < math.inf:
            raise ValueError(f"--peak-flops {args.peak_flops} must be a number over 0")
        reports = [speed_of_run(run, args.peak_flops) for run in args.runs]
    except (ValueError, OSError) as error:
        print(f"tools.runs.speed_report: {error}", file=sys.stderr)
        return 2
    for figures in reports:
        print(*(f"{name}: {value}" for name, value in figures.items()), sep="\n")
    models = {(figures["recipe"], figures["parameters"]) for figures in reports}
    if len(reports) > 1 and len(models) == 1:
        for name in ("last_loss", "smoothed_loss"):
            print(f"{name}: {spread([figures[name] for figures in reports])}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
