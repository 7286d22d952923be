"""Which trainings were launched, and what became of them: logs/registry.jsonl and the run folders.

The registry is a file of lines, one JSON object each, and only grows. A launch is entered before it
starts and again when it has ended, so that a run which went badly cannot be forgotten:

    {"time": "2026-11-21T10:00:00Z", "run_id": "mine_seed42", "seed": 42, "status": "launched", ...}
    {"time": "2026-11-21T10:12:41Z", "run_id": "mine_seed42", "seed": 42, "status": "finished", ...}
"""

import contextlib
import fcntl
import hashlib
import json
import os
import time
from pathlib import Path

from tools.runs.logs import Run, read_log

# Two runs are of one recipe whatever these are. A preset is resolved into the other settings, and
# code is told by the hash of the sources.
NOT_COMPARED = {"run_id", "resume", "seed", "preset", "code"}
HASH_DIGITS = 16


def short_hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:HASH_DIGITS]


def settings_hash(settings: dict) -> str:
    """A hash of all settings but the seed, names of runs and the name of the preset."""
    compared = {name: value for name, value in settings.items() if name not in NOT_COMPARED}
    return short_hash(json.dumps(compared, sort_keys=True).encode())


def hash_sources(sources: dict[str, bytes]) -> str:
    """A hash of training sources, by their names; empty where there are none."""
    lines = []
    for name in sorted(sources, key=Path):
        digest = hashlib.sha256(sources[name]).hexdigest()
        lines.append(f"{name} {digest}\n")
    return short_hash("".join(lines).encode()) if lines else ""


def sources_hash(folder: str | Path) -> str:
    """A hash of the sources in a run's folder, which holds all that ran and no others."""
    folder = Path(folder)
    paths = folder.rglob("*.py")
    return hash_sources({str(path.relative_to(folder)): path.read_bytes() for path in paths})


# The registry -------------------------------------------------------------------------------------


def register(logs: Path, row: dict) -> None:
    """Append one line to logs/registry.jsonl, whole and on the disk, whoever else writes there."""
    logs.mkdir(parents=True, exist_ok=True)
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    line = json.dumps({"time": now, **row}) + "\n"
    # Several commands may launch at once. The lock keeps their lines apart.
    with open(logs / "registry.jsonl", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # a kill cut the last line short
                line = "\n" + line
        file.write(line.encode())
        # A launch that is forgotten when the power fails would be one nobody has to explain.
        file.flush()
        os.fsync(file.fileno())


def read_registry(logs: Path) -> list[dict]:
    """Every whole line of the registry, in order; one that a kill cut short is passed over."""
    path = logs / "registry.jsonl"
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(errors="replace").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get("run_id"), str):
                rows.append(row)
    return rows


# Run folders --------------------------------------------------------------------------------------


def read_run(folder: Path) -> Run | None:
    """What the run's log says; None where there is no log, or nothing in it yet."""
    try:
        return read_log(folder / "train.log")
    except (FileNotFoundError, ValueError):
        return None


def finished(folder: Path) -> Run | None:
    """The run, if its artifact is there and its log has the final score."""
    if not (folder / "artifact.pgz").is_file():
        return None
    run = read_run(folder)
    return run if run and run.score else None


def in_use(folder: Path) -> bool:
    """Does a process train in this folder now?"""
    # The trainer holds the lock as long as its process lives, however that ends.
    try:
        with open(folder / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def read_settings_file(path: Path) -> dict:
    """The settings of a run. Raises: ValueError naming the file and the remedy."""
    try:
        settings = json.loads(path.read_bytes())
        settings["seed"]
    except (ValueError, TypeError, KeyError):
        remedy = f"restore it, or move {path.parent} away"
        raise ValueError(f"{path} is damaged; {remedy}") from None
    return settings


# Launches -----------------------------------------------------------------------------------------

LAUNCH_FIELDS = ("run_id", "seed", "settings_hash", "sources_hash", "status")


def launches_of_registry(logs: Path) -> dict[str, dict]:
    """The launches that the registry tells, by run id, those of a run id that was used again too.

    Of several lines on one launch the last word counts, and the time of the first. A launch that
    does not resume an earlier one of its run id is another training: the earlier stays, as
    run_id#1.
    """
    rows: dict[str, dict] = {}
    times_used_again: dict[str, int] = {}
    for line in read_registry(logs):
        run_id = line["run_id"]
        is_new_training = line.get("status") == "launched" and not line.get("resumed")
        if is_new_training and run_id in rows:
            earlier = rows.pop(run_id)
            if earlier.get("began", True):
                number = times_used_again[run_id] = times_used_again.get(run_id, 0) + 1
                name = f"{run_id}#{number}"
                rows[name] = {**earlier, "run_id": name}
        # What a later line leaves empty, as the reason of a run that was resumed, stays as it was.
        told = {name: value for name, value in line.items() if value not in ("", None)}
        if run_id in rows:
            told["time"] = rows[run_id].get("time")
        rows[run_id] = {**rows.get(run_id, {}), **told}
    return rows


def launches(logs: str | Path) -> list[dict]:
    """Every training that began, oldest first, each with LAUNCH_FIELDS.

    From the registry, and from each run's folder, which is right about its content and may be
    unknown to the registry. A run_id that was started anew, its folder having been removed, stands
    there for each start: the older ones as run_id#1, run_id#2. A launch that ended before its first
    settings were written was not a training and is left out.
    """
    logs = Path(logs)
    rows = launches_of_registry(logs)
    rows = {run_id: row for run_id, row in rows.items() if row.get("began", True)}
    # settings.json is written at the start, so its time is that of the launch.
    for path in sorted(logs.glob("*/settings.json"), key=lambda path: path.stat().st_mtime):
        folder = path.parent
        settings = read_settings_file(path)
        row = {"status": "launched", **rows.get(folder.name, {})}
        row["run_id"] = folder.name
        row["sources_hash"] = sources_hash(folder)
        row["seed"] = settings["seed"]
        row["settings_hash"] = settings_hash(settings)
        if finished(folder):
            row["status"] = "finished"
        rows[folder.name] = row
    return [dict.fromkeys(LAUNCH_FIELDS) | row for row in rows.values()]
