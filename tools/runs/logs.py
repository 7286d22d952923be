"""Read training logs, ours or the field's: the one place where the other tools get runs from.

    python3 golf.py logs LOG_OR_FOLDER... [--json]

Exit status 0: every log has a score, 1: one has none, 2: something that is not a log.

Which of the scores in a log counts, and why, stands beside it. The rule for our logs stands in
tools/runs/own_logs.py, that for the field's in tools/runs/foreign_logs.py.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
from pathlib import Path

from tools.runs.foreign_logs import read_foreign_log
from tools.runs.own_logs import is_ours, read_own_log
from tools.runs.run_log import Run

# Names of training logs, the field's ten and ours.
LOG_NAMES = (
    "train.log",
    "train_*.log",
    "train*.txt",
    "seed*.log",
    "seed*.txt",
    "*_seed*.log",
    "run*.log",
    "log*.txt",
    "train*.log",
    "*seed*.txt",
)


MAX_LOG_BYTES = 1 << 26  # of a text that is looked into though its name is not that of a log


def read_log(path: str | Path) -> Run:
    """What one log says.

    Raises: FileNotFoundError; ValueError, with the lines that were looked for, for a file that is
    not a training log.
    """
    path = Path(path)
    return read_own_log(path) if is_ours(path) else read_foreign_log(path)


def natural_order(path: Path) -> list[int | str]:
    """A key for sorting by name with numbers as numbers: seed_9.log before seed_10.log."""
    parts = re.split(r"(\d+)", path.name)
    return [int(part) if part.isdigit() else part for part in parts]


def find_logs(folder: str | Path) -> list[Path]:
    """The training logs of a run or record folder, or of its logs/, in natural order, no copies.

    Any *.log is taken where none has a name that the field gives to training logs.
    """
    folder = Path(folder)
    for names in (LOG_NAMES, ("*.log",)):
        for place in (folder, folder / "logs"):
            paths = {path for name in names for path in place.glob(name) if path.is_file()}
            # Records hold some logs twice, under two names: the first is taken.
            by_content: dict[bytes, Path] = {}
            for path in sorted(paths, key=natural_order):
                by_content.setdefault(path.read_bytes(), path)
            if by_content:
                return list(by_content.values())
    return find_logs_by_content(folder)


def find_logs_by_content(folder: Path) -> list[Path]:
    """Texts anywhere in the folder that read as training logs, whatever their names."""
    logs: dict[bytes, Path] = {}
    texts = [path for suffix in ("*.txt", "*.log", "*.out") for path in folder.rglob(suffix)]
    for path in sorted(texts, key=natural_order):
        is_inside = path.resolve().is_relative_to(folder.resolve())
        if not is_inside or not path.is_file() or path.stat().st_size > MAX_LOG_BYTES:
            continue
        try:
            read_log(path)
        except (OSError, ValueError):
            continue  # a requirements.txt, or a note
        logs.setdefault(path.read_bytes(), path)
    return list(logs.values())


def read_runs(path: str | Path) -> list[Run]:
    """The runs of a log, of a run's folder or id, or of a record folder.

    Raises: FileNotFoundError without any log; ValueError for a file that is not one.
    """
    path = Path(path)
    if path.is_file():
        return [read_log(path)]
    # A word that is neither file nor folder is the id of a run.
    folder = path if path.is_dir() else Path("logs") / path
    logs = find_logs(folder)
    if not logs:
        raise FileNotFoundError(f"no log in {folder}; looked for {', '.join(LOG_NAMES)}")
    return [read_log(log) for log in logs]


# Command ------------------------------------------------------------------------------------------


def plain(value):
    """The value as JSON can hold it; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def to_json(run: Run) -> str:
    """All fields as one line of JSON."""
    return json.dumps(plain(dataclasses.asdict(run)))


def describe(run: Run) -> str:
    """A few lines for a person."""
    score = f"{run.score.val_bpb:.8f}" if run.score else "none"
    if run.score and run.score.is_partial:
        score += " (not the whole validation split)"
    facts = {
        "seed": run.seed,
        "steps": run.steps,
        "train_s": run.train_time_ms and round(run.train_time_ms / 1000, 1),
        "eval_s": run.eval_time_ms and round(run.eval_time_ms / 1000, 1),
        "total_bytes": run.total_bytes,
        "params": run.model_params,
        "gpus": run.world_size,
        "device": run.device,
        "torch": run.versions.get("torch"),
    }
    pairs = [f"{name}:{value}" for name, value in facts.items() if value is not None]
    return f"{run.path}\n  bpb {score}  {run.score_reason}\n  {'  '.join(pairs)}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="golf.py logs", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", metavar="LOG_OR_FOLDER", help="or a run id")
    parser.add_argument("--json", action="store_true", help="one line of JSON a run")
    args = parser.parse_args(argv)
    status = 0
    for path in args.paths:
        try:
            runs = read_runs(path)
        except (OSError, ValueError) as error:
            print(f"golf.py logs: {error}", file=sys.stderr)
            status = 2
            continue
        for run in runs:
            print(to_json(run) if args.json else describe(run))
            if run.score is None:
                status = max(status, 1)
    return status


if __name__ == "__main__":
    sys.exit(main())
