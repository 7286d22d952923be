"""What a run does right now, as its folder tells it: state, step, loss, rate, time left.

A run is followed from outside. It writes one line of metrics.jsonl for each logged step, holds a
lock while it lives, and leaves an artifact and a score behind:

    lock held, no metrics yet        starting
    lock held, progress below 1      training
    lock held, progress 1            packing, and with an artifact scoring
    lock free, artifact and score    finished
    lock free otherwise              stopped (it can be resumed)
"""

import contextlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

from tools.runs.registry import finished, in_use

ENDED = ("finished", "stopped")  # states that nothing follows


@dataclass(frozen=True)
class LiveRun:
    """One run at one moment; None where nothing is known yet."""

    folder: Path
    state: str
    step: int = 0
    progress: float = 0.0  # of the training, in [0, 1]
    train_loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None  # of the training; packing and scoring come after it
    bpb: float | None = None  # the final score, or the last validation
    metrics: list[dict] = field(default_factory=list)  # the lines of metrics.jsonl

    @property
    def name(self) -> str:
        return self.folder.name

    def losses(self) -> list[tuple[int, float]]:
        """Steps and training losses, as far as they are numbers."""
        points = []
        for line in self.metrics:
            loss = line.get("train_loss")
            if loss is not None and math.isfinite(loss):
                points.append((line["step"], loss))
        return points


def read_metrics(path: Path) -> list[dict]:
    """The lines of a metrics.jsonl that can be read."""
    if not path.exists():
        return []
    metrics = []
    for line in path.read_text(errors="replace").splitlines():
        # Half a line is still being written, and is there next time; a disk that was full leaves
        # garbage.
        with contextlib.suppress(json.JSONDecodeError):
            metrics.append(json.loads(line))
    return metrics


def last_value(metrics: list[dict], *names: str) -> float | None:
    """The last value that stands under one of the names."""
    for line in reversed(metrics):
        for name in names:
            if name in line:
                return line[name]
    return None


def read_live(folder: Path) -> LiveRun:
    """The run in the folder, now."""
    metrics = read_metrics(folder / "metrics.jsonl")
    progress = last_value(metrics, "progress") or 0.0
    train_seconds = last_value(metrics, "train_seconds")
    # The order matters: while a run is scored again, its old score stands in the log already.
    done = finished(folder)
    if done:
        state = "finished"
    elif not in_use(folder):
        state = "stopped"
    elif not metrics:
        state = "starting"
    elif progress < 1:
        state = "training"
    else:
        state = "scoring" if (folder / "artifact.pgz").is_file() else "packing"
    seconds_left = None
    # Progress is of time where there is a cap, else of steps: either way it grows evenly.
    if state == "training" and train_seconds and progress > 0:
        seconds_left = train_seconds * (1 - progress) / progress
    bpb = last_value(metrics, "val_bpb", "val_bpb_partial")
    return LiveRun(
        folder=folder,
        state=state,
        step=int(last_value(metrics, "step") or 0),
        progress=progress,
        train_loss=last_value(metrics, "train_loss"),
        tokens_per_second=last_value(metrics, "tok_s"),
        seconds_left=seconds_left,
        bpb=done.score.val_bpb if done else bpb,
        metrics=metrics,
    )


def find_folders(words: list[str]) -> list[Path]:
    """The run folders that the words name: folders or run ids; without words, all in logs/.

    Raises: FileNotFoundError for a word that names no run, and where there are no runs at all.
    """
    if not words:
        begun = Path("logs").glob("*/settings.json")
        folders = [path.parent for path in sorted(begun, key=lambda path: path.stat().st_mtime)]
        if not folders:
            raise FileNotFoundError("no runs in logs/; name their folders, or start one")
        return folders
    folders = []
    for word in words:
        folder = Path(word) if Path(word).is_dir() else Path("logs") / word
        if not (folder / "settings.json").is_file():
            raise FileNotFoundError(f"{word} is not a run: {folder}/settings.json is missing")
        folders.append(folder)
    return folders


# For people ---------------------------------------------------------------------------------------

HEADINGS = ("run", "state", "step", "done", "left", "loss", "bpb", "tokens/s")


def format_seconds(seconds: float) -> str:
    """45 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def cells(run: LiveRun) -> list[str]:
    """A run as a row under HEADINGS; a dash for what is not known."""

    def number(value: float | None, form: str) -> str:
        return "-" if value is None else format(value, form)

    return [
        run.name,
        run.state,
        f"{run.step:,}",
        f"{run.progress:.0%}",
        "-" if run.seconds_left is None else format_seconds(run.seconds_left),
        number(run.train_loss, ".4f"),
        number(run.bpb, ".4f"),
        number(run.tokens_per_second, ",.0f"),
    ]


def as_text(runs: list[LiveRun]) -> str:
    """The runs as a table of characters."""
    rows = [list(HEADINGS), *map(cells, runs)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first = row[0].ljust(widths[0])
        others = [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join([first, *others]))
    return "\n".join(lines)
