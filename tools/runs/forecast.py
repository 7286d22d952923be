"""Forecast a run: steps, tokens, time and bytes, from measurements, from the log of another run, or
by the data sheet of a device that is not at hand.

Example, from measurements: a step of 512 rows at 10 ms a row and 120 ms of the optimizer takes
5.24 s. Of 600 s, 9.8 are kept back for choosing, packing and writing. That leaves 113 steps.

The first two assume that the machine stays as fast as it was. A CPU that is shared has been off by
10 to 40 %. The third assumes far more, and says what.
"""

import functools
import math

import torch

import quantize
from engine.recipe import Recipe
from engine.settings import RunSettings
from engine.text import HOLDOUT_BATCHES, HOLDOUT_SHARE, HOLDOUT_TOKENS
from engine.trainer import (
    CALIBRATION_TOKENS,
    PEAK_FLOPS,
    RESERVE_FACTOR,
    RESERVE_SECONDS,
    read_sources,
)
from tools.runs.probe import USUAL_BITS
from tools.runs.run_log import Run

# Passes over the held-out text at a run's end: three averages of the weights are tried, and two
# more tell what packing costs.
HOLDOUT_PASSES = 5
# Of a device's bf16 peak, where nobody measured it. On H100 the field's models of width 512 had
# 0.20 (its first baseline) to 0.28 (FlashAttention-3, fused kernels); ours has tables and XSA too.
ASSUMED_MFU = 0.22
ASSUMED_ENDING_SECONDS = 30.0  # of choosing, packing and writing on a GPU; not measured
FIRST_STEPS = 10  # of a run, that its step time leaves out: they compile and warm up


def scoring_passes(seq_len: int, stride: int) -> float:
    """Forward tokens for each target, at most: a document that fits a window takes one pass."""
    return seq_len / stride if stride else 1.0


def forecast_from_probe(
    recipe: Recipe,
    settings: RunSettings,
    measures: dict[str, dict],
    gpus: int,
    train_tokens: float,
    val_tokens: int,
) -> dict:
    """The whole run, as far as the probe's measurements reach.

    A step is as many passes of a micro-batch as a rank has to do, and the optimizer. The exchange
    between ranks is not known. The time kept back is that of scoring held-out text, of calibration
    and of packing, and a little more, as the trainer reserves it.
    """
    T = settings.train_seq_len
    batch_tokens = settings.train_batch_tokens
    holdout_tokens = min(
        HOLDOUT_TOKENS, HOLDOUT_BATCHES * batch_tokens, train_tokens / HOLDOUT_SHARE
    )
    result = {}
    ending_seconds = 0.0
    if "pack" in measures:
        pack = measures["pack"]
        code_bytes = code_size(recipe)
        # Packing coarsens the steps until the artifact fits, so no forecast is over the cap.
        model_bytes = min(pack["bytes"], recipe.cap_bytes - code_bytes)
        result["code_bytes"] = code_bytes
        result["model_bytes"] = model_bytes
        result["total_bytes"] = model_bytes + code_bytes
        ending_seconds += pack["seconds"]
    if "score" in measures:
        input_seconds = measures["score"]["seconds_per_input"] / gpus
        passes = scoring_passes(T, settings.eval_stride)
        result["score_seconds"] = input_seconds * passes * val_tokens
        ending_seconds += HOLDOUT_PASSES * holdout_tokens * input_seconds
    if "step" in measures:
        step = measures["step"]
        token_seconds = step["grad_seconds"] / step["tokens"]
        ending_seconds += min(CALIBRATION_TOKENS, holdout_tokens / 4) * token_seconds
        # Rows are not divided: 9 rows on 8 ranks take as long as 16.
        rank_tokens = math.ceil(batch_tokens // T / gpus) * T
        step_seconds = rank_tokens * token_seconds + step["optimizer_seconds"]
        result["step_seconds"] = step_seconds
        result["compiled"] = step["compiled"]
        reserve_seconds = RESERVE_FACTOR * ending_seconds + RESERVE_SECONDS
        result |= count_steps(settings, step_seconds, reserve_seconds)
    return result


@functools.cache
def code_size(recipe: Recipe) -> int:
    """Bytes of the sources that a run counts."""
    return sum(len(source) for source in read_sources(recipe).values())


def packing_nats(bits: float, tokens_per_parameter: float) -> float:
    """Nats a target that packing to so many bits a parameter adds, roughly: a rule of few points.

    Our model of 1.0 M parameters and 21 tokens each lost 0.0915 at 1.98 bits. The smoke model's
    loss fell 8.5 times a bit, from 1.5 to 3 bits; from 6 to 21 tokens it grows by their 0.2nd
    power. So 2.6 bits and 74 tokens make 0.031.
    """
    return 0.0915 * 8.5 ** (1.98 - bits) * (tokens_per_parameter / 21) ** 0.2


def forecast_for_device(recipe: Recipe, settings: RunSettings, device: str, gpus: int) -> dict:
    """What a run would be on devices that are not at hand, by their peak and assumptions.

    Raises: ValueError for a device whose peak is in no table.
    """
    peak = settings.peak_flops or next((PEAK_FLOPS[key] for key in PEAK_FLOPS if key in device), 0)
    if not peak:
        raise ValueError(
            f"--device {device} must name one of {', '.join(PEAK_FLOPS)}; or set PEAK_FLOPS, dense"
            " bf16 of one device"
        )
    with torch.device("meta"):
        model = recipe.model(recipe.model_settings(settings), torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    flops = model.flops_per_token(settings.train_seq_len)
    step_seconds = settings.train_batch_tokens * flops / (ASSUMED_MFU * peak * gpus)
    reserve_seconds = RESERVE_FACTOR * ASSUMED_ENDING_SECONDS + RESERVE_SECONDS
    result = count_steps(settings, step_seconds, reserve_seconds)
    code_bytes = code_size(recipe)
    most_bytes = min(settings.max_artifact_bytes or math.inf, recipe.cap_bytes - code_bytes)
    model_bytes = int(min(most_bytes, USUAL_BITS * parameters / 8))
    bits = 8 * model_bytes / parameters
    tokens_per_parameter = result["tokens"] / parameters
    return result | {
        "device": device,
        "peak_flops": peak,
        "parameters": parameters,
        "flops_per_token": flops,
        "products": model.flops_per_token(0) / 6,
        "tokens_per_parameter": tokens_per_parameter,
        "bits": bits,
        "packing_nats": packing_nats(bits, tokens_per_parameter),
        "step_seconds": step_seconds,
        "compiled": True,
        "model_bytes": model_bytes,
        "code_bytes": code_bytes,
        "total_bytes": model_bytes + code_bytes,
    }


def speed_settings(recipe: Recipe, settings: RunSettings) -> dict:
    """The settings on which the speed depends: a run's speed holds only where they are the same."""
    names = [*recipe.model_settings(settings), "train_batch_tokens", "micro_batch_tokens"]
    names.append("compile")
    return {name: getattr(settings, name) for name in names if hasattr(settings, name)}


def forecast_from_run(recipe: Recipe, settings: RunSettings, run: Run, gpus: int) -> dict:
    """What a run of these settings will be, by the log of a run that differs in length alone.

    Its first ten steps are left out of the step time. More ranks are taken to share all work.
    Raises: ValueError where the log has too few timed steps, or another speed is to be expected.
    """
    points = []
    for point in run.curve:
        if point["train_time_ms"] and point["step"] >= FIRST_STEPS:
            points.append(point)
    if len(points) < 2 or not run.train_time_ms:
        raise ValueError(
            f"{run.path}: needs two timed steps after the first ten, has {len(points)}"
        )
    differing = []
    for name, value in sorted(speed_settings(recipe, settings).items()):
        if run.settings.get(name) != value:
            differing.append(f"{name.upper()}={value}")
    if differing:
        raise ValueError(f"{', '.join(differing)}: not so in {run.path}; run without --from-run")

    first = points[0]
    last = points[-1]
    share = (run.world_size or 1) / gpus
    steps = last["step"] - first["step"]
    seconds = (last["train_time_ms"] - first["train_time_ms"]) / 1000
    step_seconds = share * seconds / steps
    head_seconds = share * first["train_time_ms"] / 1000 - first["step"] * step_seconds
    # A run ended by its cap stops where the time kept back begins; another shows half of it.
    ended_by_cap = run.cap_ms and last["step"] < run.settings.get("iterations", math.inf)
    if ended_by_cap:
        end_ms = run.cap_ms
    else:
        end_ms = last["train_time_ms"] + 2 * (run.train_time_ms - last["train_time_ms"])
    reserve_seconds = share * max(0.0, end_ms - last["train_time_ms"]) / 1000
    result = {
        "step_seconds": step_seconds,
        "compiled": settings.compile,
        "model_bytes": run.model_bytes,
        "code_bytes": run.code_bytes,
    }
    if run.total_bytes:
        result["total_bytes"] = run.total_bytes
    if run.eval_time_ms:
        T = settings.train_seq_len
        wanted = scoring_passes(T, settings.eval_stride)
        measured = scoring_passes(T, run.settings["eval_stride"])
        result["score_seconds"] = share * run.eval_time_ms / 1000 * wanted / measured
    return result | count_steps(settings, step_seconds, reserve_seconds, head_seconds)


def count_steps(
    settings: RunSettings,
    step_seconds: float,
    reserve_seconds: float,
    head_seconds: float = 0.0,
) -> dict:
    """Steps, tokens and seconds of training; head_seconds are what the first steps take longer."""
    steps = settings.iterations
    cap = settings.max_wallclock_seconds
    if cap:
        # The clock is looked at after a step, so the last one begins before the time is over.
        fitting = math.ceil((cap - reserve_seconds - head_seconds) / step_seconds)
        steps = max(0, min(steps, fitting))
    return {
        "steps": steps,
        "tokens": steps * settings.train_batch_tokens,
        "tokens_per_second": settings.train_batch_tokens / step_seconds,
        "train_seconds": steps * step_seconds + head_seconds + reserve_seconds / RESERVE_FACTOR,
        "reserve_seconds": reserve_seconds,
    }


def at_cap(total_bytes: int) -> bool:
    """Does the cap decide how fine packing is? Packing to the cap may leave a thousandth of it."""
    return quantize.CAP_BYTES - total_bytes <= quantize.CAP_BYTES // 1000
