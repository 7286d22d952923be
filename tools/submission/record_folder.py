"""Read a record folder: its logs, submission.json, README and code, before anything is judged."""

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.legality.rules import Finding
from tools.runs.logs import Run, read_runs
from tools.runs.submissions import Submission, read_submission
from tools.submission import size
from tools.submission.tracks import TRACKS, Track
from tools.submission.unwrap import Unwrapped, unwrap

SCRIPT = size.ENTRY
# One of these begins `packed_by` of a folder whose README.md can be made again.
OURS = ("tools.submission.pack ", "records.pack ")
MAX_TEXT = 1 << 26  # bytes of a README or log that are read


def read_text(path: Path) -> str:
    """A file's text; empty where it is missing, is a link out of its folder, or is too large."""
    return path.read_text(errors="replace") if is_readable(path) else ""


def is_readable(path: Path) -> bool:
    is_inside = path.resolve().is_relative_to(path.parent.resolve())
    return path.is_file() and is_inside and path.stat().st_size <= MAX_TEXT


def unread(path: Path) -> Finding:
    evidence = f"is not read: a link out of the folder, or over {MAX_TEXT:,} bytes"
    return Finding("hidden", "warn", path.name, evidence, "ship it as a file of its own")


@dataclass(frozen=True)
class Record:
    """A record folder, read: what its files say, before anything is judged."""

    folder: Path
    track_name: str
    runs: list[Run]  # every log that could be read
    submission: Submission | None
    readme: str

    @property
    def track(self) -> Track:
        return TRACKS[self.track_name]

    @property
    def scored(self) -> list[Run]:
        """The runs whose log states a score in bpb."""
        return [run for run in self.runs if run.score and run.score.val_bpb is not None]

    @property
    def is_ours(self) -> bool:
        return bool(self.submission) and str(self.raw.get("packed_by")).startswith(OURS)

    @property
    def raw(self) -> dict:
        return self.submission.raw if self.submission else {}

    @cached_property
    def code(self) -> dict[Path, str]:
        """Every file that running train_gpt.py can load, and why; empty where that is unknown."""
        try:
            return size.reached(self.folder)
        except (OSError, ValueError):
            return {}  # check_files says what is wrong with it

    @cached_property
    def scripts(self) -> Unwrapped:
        """Every script in the folder, unwrapped, by a name that says where."""
        scripts = Unwrapped()
        for path in sorted(self.folder.rglob("*.py")):
            if not path.resolve().is_relative_to(self.folder.resolve()):
                reason = "it is a link out of the folder"
                scripts.unread[path.relative_to(self.folder).as_posix()] = reason
                continue
            scripts.add(unwrap(path.read_bytes(), path.relative_to(self.folder).as_posix()))
        return scripts

    @property
    def texts(self) -> dict[str, str]:
        return self.scripts.texts


def track_of(folder: Path, submission: Submission | None) -> str:
    """The track that submission.json or the folder's place names; else the record track."""
    stated = str(submission.track if submission else "").lower()
    for word in (stated, folder.resolve().parent.name):
        for name, track in TRACKS.items():
            if word in (name, track.folder):
                return name
        if re.search("non[-_ ]?record", word):
            return "non_record_16mb"
    return "10min_16mb"


def read_record_folder(folder: Path, track: str | None = None) -> tuple[Record, list[Finding]]:
    """A folder as it reads, and what could not be read.

    Raises: FileNotFoundError when there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; name the folder of a record")
    faults = []
    submission = None
    runs = []
    names = [folder / "submission.json", *sorted(folder.glob("submission*.json"))]
    path = next((name for name in names if name.is_file()), None)
    if path is None:
        remedy = "write it: name, author, github_id, date, val_bpb, bytes_total"
        faults += [Finding("files", "fail", "submission.json", "is not in the folder", remedy)]
    elif not is_readable(path):
        faults += [unread(path)]
    else:
        try:
            submission = read_submission(path)
        except ValueError as error:
            faults += [Finding("schema", "fail", path.name, str(error), "mend the JSON")]
    try:
        runs = read_runs(folder)
    except (OSError, ValueError):
        runs = []  # check_files says so
    readme = folder / "README.md"
    text = read_text(readme)
    if readme.is_file() and not text and readme.stat().st_size:
        faults += [unread(readme)]
    return Record(folder, track or track_of(folder, submission), runs, submission, text), faults
