"""Measure this machine with a recipe, on made-up tokens: a step, packing, scoring.

The measuring process is ended when its time is over, so it prints each result as it comes, as one
line of JSON. A later one of a kind replaces an earlier one:

    {"kind": "pack", "bytes": 215933, "seconds": 1.9}
    {"kind": "step", "tokens": 2048, "grad_seconds": 0.21, "optimizer_seconds": 0.04, ...}
    {"kind": "score", "seconds_per_input": 0.00003}
"""

import dataclasses
import json
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import torch

import evaluate
import golf
import quantize
from codec.trellis import path_steps
from codec.viterbi import ColumnQuantizer
from engine.open_model import find_recipe
from engine.ranks import Ranks
from engine.recipe import Recipe
from engine.settings import RunSettings

USUAL_BITS = 3.4  # of a weight where bytes abound: smoke runs 3.8, 6.9 M weights on web text 3.4
PASSES = 2  # of the quantiser, until a size is met
PROBE_SHARE = 0.8  # of the time of the process; the rest is for starting and ending it


class TrialModel:
    """A recipe's model with random weights, and what a step of it needs."""

    def __init__(self, recipe: Recipe, settings: RunSettings, device: torch.device, seconds: float):
        self.settings = settings
        self.device = device
        self.seconds = seconds
        self.started = time.perf_counter()
        self.ranks = Ranks(0, 1, device)
        self.rng = torch.Generator().manual_seed(0)
        self.model = recipe.model(recipe.model_settings(settings), recipe.dtype(settings, device))
        self.weights = {}
        # Random, and not as a recipe sets them: those begin with zeros, which cost no time to pack.
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                self.weights[name] = torch.randn(p.shape, generator=self.rng)
                p.copy_(0.02 * self.weights[name])
        self.model.to(device)
        # What the optimizer compiles would be timed too, and not what it does later.
        uncompiled = dataclasses.replace(settings, compile=False)
        self.optimizer = recipe.optimizer(self.model, uncompiled, self.ranks)
        self.averages = recipe.averages(self.model, settings)
        self.loss = recipe.training_loss(self.model, uncompiled)

    def passed(self) -> float:
        return time.perf_counter() - self.started

    def timed(self, call: Callable) -> float:
        """Seconds of one call, until the device has done it."""
        self.ranks.synchronize()
        began = time.perf_counter()
        call()
        self.ranks.synchronize()
        return time.perf_counter() - began

    def measure(self) -> Iterator[dict]:
        """Everything, as long as the time allows: packing, steps, scoring, compiled steps."""
        pack_seconds = PASSES * trellis_seconds(self.weights, self.timed, self.device)
        numbers = sum(weight.numel() for weight in self.weights.values())
        size = round(USUAL_BITS * numbers / 8)
        yield {"kind": "pack", "bytes": size, "seconds": pack_seconds}
        yield from self.steps(self.loss, until=0.4 * self.seconds, compiled=False)
        yield self.scoring(0.6 * self.seconds - self.passed())
        if self.settings.compile:
            yield from self.steps(torch.compile(self.loss), until=self.seconds, compiled=True)

    def steps(self, loss_fn: Callable, until: float, compiled: bool) -> Iterator[dict]:
        """Medians of some steps, on more and more tokens as long as the time allows."""
        settings = self.settings
        micro_tokens = min(settings.micro_batch_tokens, settings.train_batch_tokens)
        tokens = settings.train_seq_len
        cold = self.step(loss_fn, tokens)  # too slow, but it may be the only one
        yield {**cold, "compiled": compiled}
        step_seconds = 0.0
        measured = []
        while self.passed() + step_seconds < until:
            measured.append(self.step(loss_fn, tokens))
            middle = {}
            for part in ("grad_seconds", "optimizer_seconds"):
                middle[part] = statistics.median(one[part] for one in measured)
            yield {**measured[-1], **middle, "compiled": compiled}
            step_seconds = sum(middle.values())
            # More tokens use a GPU better. They are tried while four of today's steps would fit.
            if tokens < micro_tokens and 4 * step_seconds < until - self.passed():
                tokens = min(2 * tokens, micro_tokens)
                step_seconds = 2 * step_seconds
                measured = []

    def step(self, loss_fn: Callable, tokens: int) -> dict:
        """One step on so many tokens."""
        T = self.settings.train_seq_len
        shape = (tokens // T, T + 1)
        rows_BT = torch.randint(self.settings.vocab_size, shape, generator=self.rng)
        rows_BT = rows_BT.to(self.device)

        def update() -> None:
            self.optimizer.step(1, 0.5)
            self.averages.update(1, 0.5)

        grad_seconds = self.timed(lambda: (loss_fn(rows_BT, None) / tokens).backward())
        peak_memory = None
        if self.device.type == "cuda":
            peak_memory = torch.cuda.max_memory_allocated() >> 20
        return {
            "kind": "step",
            "tokens": tokens,
            "grad_seconds": grad_seconds,
            "optimizer_seconds": self.timed(update),
            "peak_memory_mib": peak_memory,
        }

    def scoring(self, seconds: float) -> dict:
        """Seconds for one pass of a window over one input, by evaluate's own windows."""
        settings = self.settings
        one_V = torch.ones(settings.vocab_size, dtype=torch.int64).numpy()
        table = evaluate.ByteTable(one_V, one_V == 0, one_V == 0)
        T = settings.train_seq_len
        rows = 1
        while True:
            inputs = rows * T
            tokens_T = torch.randint(settings.vocab_size, (inputs + 1,)).numpy()
            batch_tokens = min(inputs, evaluate.BATCH_TOKENS)
            scheme = evaluate.Scheme(T, T, batch_tokens=batch_tokens)
            began = time.perf_counter()
            evaluate.score_windows(self.model, tokens_T, table, scheme, self.ranks)
            elapsed = time.perf_counter() - began
            if inputs >= evaluate.BATCH_TOKENS or 3 * elapsed > seconds:
                return {"kind": "score", "seconds_per_input": elapsed / inputs}
            seconds -= elapsed
            rows *= 2


def trellis_seconds(weights: quantize.State, timed: Callable, device: torch.device) -> float:
    """Seconds of one pass of the quantiser, from one column of every group of its matrices.

    A matrix of R rows and C columns is cut into paths of equal length; paths of one length in
    matrices of one width are quantised together, column by column.
    """
    paths: Counter = Counter()  # (steps of a path, columns) -> paths
    for name in quantize.flat_hessians(weights):
        R, C = weights[name].shape
        steps = path_steps(R)
        paths[steps, C] += -(-R // steps)
    coder = ColumnQuantizer(quantize.STATES, device)
    total = 0.0
    for (steps, C), count in paths.items():
        x_PT = torch.randn(count, steps, device=device)
        # Of three the fastest: the others shared the machine with something.
        column_seconds = [timed(lambda x_PT=x_PT: coder.points(x_PT)) for _ in range(3)]
        total += C * min(column_seconds)
    return total


def run_probe(
    recipe_name: str, settings: RunSettings, seconds: float
) -> tuple[dict[str, dict], str]:
    """What a process measured until its time was over, by kind; and its error, if it had one."""
    request = {
        "recipe": recipe_name,
        "settings": dataclasses.asdict(settings),
        "seconds": PROBE_SHARE * seconds,
    }
    process = subprocess.Popen(
        [sys.executable, "-P", "-u", "-m", "tools.runs.probe", json.dumps(request)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=golf.child_environment(),
    )
    # What it has printed by then is kept. A kernel that hangs cannot be interrupted otherwise.
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    measures = {}
    for line in process.stdout:
        measure = json.loads(line)
        measures[measure.pop("kind")] = measure
    errors = process.stderr.read().strip().splitlines()
    was_ended = not timer.is_alive()
    timer.cancel()
    process.stdout.close()
    process.stderr.close()
    status = process.wait()
    if status == 0 or was_ended:
        return measures, ""
    return measures, errors[-1] if errors else f"status {status}"


def main(request: dict) -> None:
    """Print what is measured: the process that run_probe starts."""
    recipe = find_recipe(request["recipe"])
    settings = recipe.Settings(**request["settings"])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for measure in TrialModel(recipe, settings, device, request["seconds"]).measure():
        print(json.dumps(measure), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
