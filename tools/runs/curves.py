"""Curves of runs as numbers: what the pictures, the sketches and the live view show.

Runs that differ by their seed alone form one group. Its mean is a line, from its lowest to its
highest a band.
"""

import itertools
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tools.runs.registry import settings_hash
from tools.runs.run_log import Run

AXES: dict[str, tuple[str, Callable[[dict], float]]] = {
    # name: label, and its value at a point of a curve
    "steps": ("optimizer steps", lambda point: point["step"]),
    "time": ("training time (s)", lambda point: point["train_time_ms"] / 1000),
    "tokens": ("training tokens", lambda point: point["tokens"]),
}
# Settings that no label tells: names, places, and how often something is written.
UNTOLD = re.compile(r"^(run_id|resume|seed)$|_path$|_every$|^checkpoint_seconds$")
SEED_IN_NAME = re.compile(r"[_-]?seed[_-]?\d+$")
START_FRAC = 0.04  # of a run: higher losses before it do not stretch the axis


class NothingToDraw(ValueError):
    """A picture has no data; str() says what is missing."""


@dataclass(frozen=True)
class SeedGroup:
    """Runs of equal settings, with different seeds."""

    label: str
    runs: list[Run]

    def bpb(self) -> str:
        """The final scores as one text: mean and standard deviation, never the best alone."""
        scores = [run.score for run in self.runs if run.score]
        bpbs = [score.val_bpb for score in scores]
        if not bpbs:
            return "no final score"
        text = f"{statistics.fmean(bpbs):.4f}"
        if len(bpbs) > 1:
            text += f" ± {statistics.stdev(bpbs):.4f}"
        text += " bpb"
        if any(score.is_partial for score in scores):
            text += " (part of the text)"
        if len(bpbs) < len(self.runs):
            text += f", {len(self.runs) - len(bpbs)} without a score"
        return text


def group_runs(runs: list[Run]) -> list[SeedGroup]:
    """Groups in the order of their first run, named by it and by settings that tell them apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        # A foreign log may print no settings: it stands alone.
        key = settings_hash(run.settings) if run.settings else str(run.path)
        groups.setdefault(key, []).append(run)
    firsts = [members[0] for members in groups.values()]
    # Only settings that tell the groups apart belong into a label.
    differing = []
    for name in firsts[0].settings:
        values = {str(run.settings.get(name)) for run in firsts}
        if len(values) > 1 and not UNTOLD.search(name):
            differing.append(name)
    return [SeedGroup(label_of(members, differing[:2]), members) for members in groups.values()]


def label_of(members: list[Run], settings: list[str]) -> str:
    """A group's label: its name, the settings that its name does not tell, and how many seeds."""
    first = members[0]
    label = first.run_id or first.path.stem
    if len(members) > 1:
        # mine_seed42 and mine_seed7 are "mine, 2 seeds".
        label = SEED_IN_NAME.sub("", label)
    values = {name: str(first.settings.get(name)) for name in settings}
    pairs = [f"{name.upper()}={value}" for name, value in values.items() if value not in label]
    if pairs:
        label += f" ({' '.join(pairs)})"
    if len(members) > 1:
        label += f", {len(members)} seeds"
    return label


def timed_points(run: Run) -> list[dict]:
    return [point for point in run.curve if point["train_time_ms"] is not None]


def points(run: Run) -> list[dict]:
    """The run's curve, with times between those that were logged where a point has none."""
    timed = timed_points(run)
    if not timed:
        return []
    steps = [point["step"] for point in timed]
    times = [point["train_time_ms"] for point in timed]
    filled = []
    # A validation has no time of its own: the clock stands still while it runs.
    for point in run.curve:
        time_ms = float(np.interp(point["step"], steps, times))
        filled.append({**point, "train_time_ms": time_ms})
    return filled


def series(run: Run, axis: str, key: str) -> np.ndarray:
    """x and y, one row for each point of the curve that has both."""
    read_x = AXES[axis][1]
    pairs = []
    for point in points(run):
        y = point.get(key)
        has_x = axis != "tokens" or "tokens" in point
        # A loss that is not a number would take the whole line with it.
        if has_x and y is not None and math.isfinite(y):
            pairs.append((read_x(point), y))
    return np.array(pairs, dtype=float).reshape(-1, 2)


def speeds(run: Run) -> list[dict]:
    """Milliseconds of a step and tokens per second between each two logged points."""
    between = []
    for previous, point in itertools.pairwise(timed_points(run)):
        steps = point["step"] - previous["step"]
        elapsed_ms = point["train_time_ms"] - previous["train_time_ms"]
        if elapsed_ms <= 0:
            continue  # a clock that is rounded to minutes, as some scripts print it
        speed = {"step": (point["step"] + previous["step"]) / 2, "step_ms": elapsed_ms / steps}
        if "tokens" in point:
            batch_tokens = point["tokens"] / point["step"]
            speed["tokens_per_second"] = 1000 * batch_tokens * steps / elapsed_ms
        between.append(speed)
    return between


@dataclass(frozen=True)
class Band:
    """Several curves as one: at each x the mean, the lowest and the highest y."""

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(curves: list[np.ndarray]) -> Band:
    """The curves, each of rows x and y, over the range that all of them cover."""
    # Outside this range the mean would be of some curves only, and jump where one ends.
    first = max(curve[0, 0] for curve in curves)
    last = min(curve[-1, 0] for curve in curves)
    x = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    x = x[(x >= first) & (x <= last)]
    if len(x) == 0:
        raise NothingToDraw("the runs of a group have no common range")
    y = np.stack([np.interp(x, curve[:, 0], curve[:, 1]) for curve in curves])
    return Band(x, y.mean(axis=0), y.min(axis=0), y.max(axis=0))


def after_start(x: np.ndarray) -> np.ndarray:
    """Which points are after the steep start, by which no axis is scaled."""
    return x >= x[0] + START_FRAC * (x[-1] - x[0])


def first_with(groups: list[SeedGroup], name: str) -> Run:
    """The first run in whose folder the file lies. Raises: NothingToDraw."""
    for group in groups:
        for run in group.runs:
            if (run.path.parent / name).is_file():
                return run
    raise NothingToDraw(f"no run's folder has {name}")
