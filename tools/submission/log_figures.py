"""Look a figure up in the logs of a record: what each log states, and when two numbers agree."""

import bisect
import re
from functools import cache
from pathlib import Path

from tools.runs.logs import Run
from tools.submission.record_folder import Record, read_text

UNITS = (1, 1000, 1e6, 1 << 10, 1 << 20)  # of a figure: ms as s, bytes as MB or MiB
NUMBER = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w,])|(?<![\w.])\d+(?:\.\d+)?")


def decimals(number: float) -> int:
    """How many decimals a number is printed with; 1e-09 has none that a claim could be cut to."""
    text = f"{number!r}"
    return 0 if "e" in text or "." not in text else len(text.split(".")[1])


def agrees(claim: float, value: float | None, places: int | None = None) -> bool:
    """Whether a claim is this value, rounded or cut to as many decimals as it has.

    >>> agrees(1.15, 1.1504), agrees(1.15, 1.1599), agrees(1.15, 1.16)
    (True, True, False)
    """
    places = decimals(claim) if places is None else places
    return value is not None and abs(claim - value) < 10.0**-places * (1 - 1e-9)


def is_written(text: str, value: float) -> bool:
    """Whether a figure of a text is this value, in its own unit or in thousands or millions.

    >>> is_written("15.81", 15_811_090)
    True
    """
    number = float(text.replace(",", ""))
    places = len(text.split(".")[1]) if "." in text else 0
    return any(agrees(number, value / unit, places) for unit in UNITS)


def is_about(text: str, value: float) -> bool:
    """Whether a figure that a text calls approximate, as ~15.8M, is within 1 % of this value."""
    number = float(text.replace(",", ""))
    return any(abs(number * unit - value) <= 0.01 * abs(value) for unit in UNITS)


def named_seed(run: Run) -> int | None:
    """The seed that the log's name gives; where it gives none, that of the log."""
    match = re.search(r"seed[_-]?(\d+)", run.path.stem)
    return int(match[1]) if match else run.seed


def runs_by_seed(record: Record) -> dict[int | None, list[Run]]:
    """The scored runs of each seed: a folder may hold two logs of one."""
    by_seed: dict[int | None, list[Run]] = {}
    for run in record.scored:
        by_seed.setdefault(named_seed(run), []).append(run)
    return by_seed


def measured_of(run: Run) -> dict[str, list[float]]:
    """What a log says under each name that per-seed results of submission.json use."""
    scores = [score for score in run.scores if score.val_bpb is not None]
    sizes = [run.model_bytes, run.total_bytes]
    times = [run.train_time_ms, run.eval_time_ms, *(score.eval_time_ms for score in run.scores)]
    seconds = [None if time_ms is None else time_ms / 1000 for time_ms in times]
    measured = {
        "val_bpb": [score.val_bpb for score in scores],
        "val_loss": [score.val_loss for score in run.scores if score.val_loss is not None],
        "artifact_bytes": sizes,
        "steps": [run.steps],
        "train_time_s": seconds[:1],
        "eval_time_s": seconds[1:],
    }
    return {key: [v for v in values if v is not None] for key, values in measured.items()}


def join_measured(runs: list[Run]) -> dict[str, list[float]]:
    """What any of the logs says under each name."""
    joined: dict[str, list[float]] = {}
    for run in runs:
        for key, values in measured_of(run).items():
            joined[key] = joined.get(key, []) + values
    return joined


@cache
def numbers_in(log: Path) -> list[float]:
    """Every number that a log prints, in order of size."""
    return sorted({float(text.replace(",", "")) for text in NUMBER.findall(read_text(log))})


def is_in_logs(text: str, runs: list[Run]) -> bool:
    """Whether any line of the logs prints this figure, rounded or in another unit."""
    number = float(text.replace(",", ""))
    places = len(text.partition(".")[2])
    slack = 10.0**-places * (1 - 1e-9)
    for run in runs:
        numbers = numbers_in(run.path)
        for unit in UNITS:
            # The smallest number above the lower end: a long log has tens of thousands of them.
            index = bisect.bisect_right(numbers, (number - slack) * unit)
            if index < len(numbers) and numbers[index] < (number + slack) * unit:
                return True
    return False


def averages(record: Record) -> dict[str, list[list[float]]]:
    """For each kind of figure, the values over all runs of each score that every log states."""
    rows = {}
    for key in ("val_bpb", "val_loss"):
        candidates = [[getattr(run.score, key) for run in record.scored]]
        scores = [score for run in record.scored for score in run.scores]
        for name in {score.name for score in scores}:
            candidates.append([getattr(score, key) for score in scores if score.name == name])
        last_validations = []
        for run in record.scored:
            validations = [point[key] for point in run.curve if point.get(key)]
            last_validations += validations[-1:]
        candidates.append(last_validations)
        # A score that some logs lack, or state twice, has no mean over the seeds.
        rows[key] = [
            values
            for values in candidates
            if len(values) == len(record.scored) and None not in values
        ]
    return rows
