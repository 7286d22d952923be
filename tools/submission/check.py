"""Check a record folder, ours or anybody's: files, figures, bytes, time, seeds, score and claims.

    python3 golf.py tools.submission.check FOLDER [--track TRACK] [--run [--trust]]
        [--verbose] [--json]

Nothing is fetched. Without --run nothing of the folder is executed either; with it, the counted
code runs for a few steps on made-up text, isolated by bubblewrap: without network, read-only but
for an empty folder, everything that it started killed at the end. Where bubblewrap is missing it is
not run, unless --trust says that it may run with the rights of the caller.

What tools.submission.pack wrote is made again from the logs and compared byte for byte. In other
folders each number is looked for in the logs: those of submission.json and of the README's table of
seeds must be there, those of its prose should. --verbose also shows what was checked and holds.

Exit status 0: nothing to say, 1: something breaks a rule, 2: no folder, or code in it that cannot
be read and nothing else that breaks a rule, 3: warnings alone.
"""

import argparse
import ast
import base64
import bisect
import contextlib
import difflib
import hashlib
import json
import lzma
import re
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path

from evaluate import FINEWEB_VAL
from quantize import CAP_BYTES
from tools.legality import lint, sandbox
from tools.legality.rules import Finding, report, status
from tools.runs import registry, stats
from tools.runs.logs import Run, read_runs
from tools.runs.submissions import Submission, read_submission
from tools.submission import bundle, documents, leaderboard, size
from tools.submission.tracks import TRACKS, Track
from tools.submission.unwrap import Unwrapped, unwrap

SCRIPT = size.ENTRY
# One of these begins `packed_by` of a folder whose README.md can be made again.
OURS = ("tools.submission.pack ", "records.pack ")


WINDOWED_BYTES = dict(stats.WINDOWS.values())
# Ratios of implied to true bytes, and the mistake that gives them. Source: the corrections under
# upstream #1289 (U+FFFD), #1734 (space), #897 (no U+2581) and #2071 (CaseOps).
BYTE_MISTAKES = {
    1.0413: "a byte piece counted as the three bytes of U+FFFD",
    1.167: "the leading space counted twice",
    1.20: "a vocabulary without U+2581, whose unknown piece counts three bytes",
    1.0895: "CaseOps text scored without its byte sidecar",
}
MAX_TEXT = 1 << 26  # bytes of a README or log that are read
UNITS = (1, 1000, 1e6, 1 << 10, 1 << 20)  # of a figure: ms as s, bytes as MB or MiB
REPEATED_EFFECT = 0.0005  # bpb; less is no mistake in counting bytes
OVERLAP_SHARDS = 1499  # training shards of a CaseOps build that trains on validation (#2127)
# Present on the evaluation machine: upstream's requirements, and what they bring along.
PROVIDED = set(sys.stdlib_module_names) | {
    "compression", "numpy", "tqdm", "torch", "triton", "huggingface_hub", "kernels", "setuptools",
    "typing_extensions", "datasets", "tiktoken", "sentencepiece", "pyarrow", "packaging",
}  # fmt: skip
# To be had from PyPI, so to be named in requirements.txt; any other name is a missing file.
INSTALLABLE = {
    "brotli", "zstandard", "zstd", "lz4", "flash_attn", "flash_attn_interface", "python_minifier",
    "numba", "scipy", "pandas", "sklearn", "transformers", "safetensors", "tokenizers", "einops",
    "constriction", "psutil", "matplotlib", "mlx", "wandb", "requests", "xformers", "torchao",
    "pydantic", "yaml", "rich", "regex", "cython", "ninja", "pybind11", "google",
}  # fmt: skip
SOME = r"(?:\d+|two|three|four|five)"
PICKED = re.compile(
    r"best\s+\w+\s+(?:out\s+)?of\s+\w+"
    rf"|top[- ]{SOME}\s+(?:(?:out\s+)?of\s+{SOME}|seeds|runs)"
    r"|\d\s+(?:out\s+)?of\s+(?:the\s+)?\d\s+seeds"
    r"|(?:seeds?|runs?)\s+(?:was|were)\s+(?:dropped|excluded|discarded|omitted|left out)"
    r"|(?:dropped|excluded|discarded|omitted)\s+(?:the\s+)?(?:worst|outliers?|\w+\s+seeds?)"
    rf"|(?:mean|average|avg)\s+(?:of|over)\s+(?:the\s+)?(?:{SOME}\s+)?(?:lowest|best|top)\b"
    rf"|(?:lowest|best)\s+{SOME}\s+(?:seeds|runs|of)\b"
    r"|(?:submitted|submission|submitting|chosen|selected|picked|reported?)\b[^.\n|]{0,40}\bbest\b",
    re.IGNORECASE,
)
DENIED = re.compile(r"\b(?:no|not|none|never|without|nor)\b[^.\n]{0,30}$", re.IGNORECASE)
NUMBER = re.compile(r"(?<![\w.,])\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\w,])|(?<![\w.])\d+(?:\.\d+)?")
# What legality rests on; these findings go into the README that tools.submission.pack writes.
LEGALITY_RULES = (
    "causal", "normalised", "score-first", "one-pass", "isolation", "bytes", "validation",
    "artifact-only", "network", "phases", "dead-feature", "hard-coded", "size", "time",
)  # fmt: skip


def read_text(path: Path) -> str:
    """A file's text; empty where it is missing, is a link out of its folder, or is too large."""
    is_inside = path.resolve().is_relative_to(path.parent.resolve())
    if not path.is_file() or not is_inside or path.stat().st_size > MAX_TEXT:
        return ""
    return path.read_text(errors="replace")


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


# Files ---------------------------------------------------------------------------------------


def check_files(record: Record) -> Iterator[Finding]:
    """What a record needs is there, under its name, and every import can be met."""
    folder = record.folder
    needed = {"README.md": "say what it does", SCRIPT: "ship the code that ran"}
    missing = [name for name in needed if not (folder / name).is_file()]
    for name in missing:
        yield Finding("files", "fail", name, "is not in the folder", needed[name])
    if not record.runs:
        remedy = "add the log of each seed, train_seed<N>.log"
        yield Finding("files", "fail", folder.name, "holds no log that can be read", remedy)
    others = [p.name for p in folder.glob("submission*.json") if p.name != "submission.json"]
    if record.submission and record.submission.path.name != "submission.json":
        evidence = f"is read as submission.json, which is what {SCRIPT}'s readers look for"
        yield Finding("files", "warn", others[0], evidence, "rename it")
    for name, reason in record.scripts.unread.items():
        missing.append(name)
        yield Finding("hidden", "warn", name, f"cannot be read: {reason}", "ship it as it ran")
    script = record.scripts.trees.get(SCRIPT)
    if script is not None and not any(not is_docstring(node) for node in script.body):
        missing.append(SCRIPT)
        yield Finding(
            "files", "fail", SCRIPT, "does nothing: it is empty", "ship the code that ran"
        )
    yield from check_imports(record)
    if not missing and record.runs:
        yield Finding("files", "ok", folder.name, f"README, code and {len(record.runs)} logs")


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def check_imports(record: Record) -> Iterator[Finding]:
    """Every module that a script imports is in the folder, provided, or in requirements.txt."""
    listed = ""
    for path in record.folder.glob("*requirements*.txt"):
        listed += path.read_text(errors="replace").lower().replace("-", "_") + "\n"
    local = {Path(name).stem for name in record.texts}
    local |= {part for name in record.texts for part in Path(name).parent.parts}
    local |= {path.stem for path in record.folder.rglob("*.so")}
    counted = {path.relative_to(record.folder).as_posix() for path in record.code}
    unlisted: dict[str, str] = {}
    for name in record.texts:
        for module, line in required_imports(record.scripts.trees.get(name)):
            if module in PROVIDED | local or re.search(rf"^{module.lower()}\b", listed, re.M):
                continue
            place = f"{name}:{line}"
            if module in INSTALLABLE:
                if not ("flash" in module and "flash" in listed):
                    unlisted.setdefault(module, place)
                continue
            is_counted = any(f"{name}/".startswith(f"{path}/") for path in counted)
            level = "fail" if is_counted else "warn"
            evidence = f"imports {module}, which is not in the folder nor in requirements.txt"
            remedy = f"add {module}.py, or name its package in requirements.txt"
            yield Finding("files", level, place, evidence, remedy)
    if unlisted:
        named = ", ".join(f"{module} ({place})" for module, place in unlisted.items())
        evidence = f"no requirements.txt of the folder names {named}"
        yield Finding("files", "warn", SCRIPT, evidence, "list them with the versions that ran")


def required_imports(tree: ast.Module | None) -> Iterator[tuple[str, int]]:
    """Top-level modules that a source cannot do without, and their lines; guarded ones left out."""
    todo: list[ast.AST] = [tree] if tree else []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno
        if isinstance(node, ast.Try):  # an import that may fail is made in its body
            todo += [*node.orelse, *node.finalbody]
        else:
            todo += ast.iter_child_nodes(node)


# submission.json -----------------------------------------------------------------------------


def check_schema(record: Record) -> Iterator[Finding]:
    """submission.json has the field's names with values of their types."""
    if record.submission is None:
        return
    json_name = record.submission.path.name
    raw = record.raw
    keys = record.submission.keys_used
    texts = {key: raw.get(key) for key in ("name", "author", "github_id")}
    for key, value in texts.items():
        if not isinstance(value, str) or not value.strip():
            evidence = f"{key} is {value!r}, must be text"
            yield Finding("schema", "warn", json_name, evidence, f"fill in {key}")
    try:
        datetime.fromisoformat(str(raw.get("date")))
    except ValueError:
        evidence = f"date is {raw.get('date')!r}, must be YYYY-MM-DD or a timestamp"
        yield Finding("schema", "warn", json_name, evidence, "give the day of the run")
    bpb = record.submission.val_bpb
    loss = record.submission.val_loss
    partial = isinstance(raw.get("val_bpb_partial"), float)
    if bpb is None and not partial:
        evidence = "has no val_bpb"
        measured = [run.score.val_bpb for run in record.scored]
        if loss is not None and any(abs(loss - value) < 0.01 for value in measured):
            evidence += f"; val_loss {loss} is a score in bpb"
        yield Finding(
            "schema", "fail", json_name, evidence, "give the mean of the seeds as val_bpb"
        )
    for ours in ("val_bpb", "val_loss", "bytes_total", "bytes_code"):
        key = keys.get(ours, ours)
        value = raw.get(key)
        if key != ours and not (partial and ours == "val_bpb"):
            evidence = f"{key} is read as {ours}"
            yield Finding(
                "schema", "warn", json_name, evidence, f"call it {ours}, which all readers know"
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and value > 0):
            evidence = f"{key} is {value!r}, must be a number above 0"
            yield Finding(
                "schema", "fail", json_name, evidence, "give the number, without quotes or unit"
            )
    if record.submission.bytes_total is None and "bytes_total" not in raw:
        evidence = "states no size (bytes_total)"
        yield Finding(
            "schema", "warn", json_name, evidence, "give artifact and code of the largest seed"
        )
    yield Finding("schema", "ok", json_name, f"{len(raw)} fields read")


# Figures: what is claimed against what the logs say ------------------------------------------


def decimals(number: float) -> int:
    text = f"{number!r}"
    return 0 if "e" in text or "." not in text else len(text.split(".")[1])


def agrees(claim: float, value: float | None, places: int | None = None) -> bool:
    """Whether a claim is this value, rounded or cut to as many decimals as it has."""
    places = decimals(claim) if places is None else places
    return value is not None and abs(claim - value) < 10.0**-places * (1 - 1e-9)


def check_figures(record: Record) -> Iterator[Finding]:
    """The figures of submission.json are those of the logs: mean score, sizes, seeds."""
    if record.submission is None or not record.scored or record.is_ours:
        return
    submission = record.submission
    json_name = record.submission.path.name
    runs = record.scored
    wrong = []
    for key in ("val_bpb", "val_loss"):
        claim = getattr(submission, key)
        values = [getattr(run.score, key) for run in runs]
        if claim is None or None in values:
            continue
        mean = statistics.fmean(values)
        places = max(4, decimals(claim))
        # A run may be scored with and without adaptation: the claim is a line that all logs share.
        shared = [statistics.fmean(row) for row in averages(record)[key]]
        if any(agrees(claim, value, places) for value in [mean, *shared]):
            continue
        one = [run.path.name for run in runs if agrees(claim, getattr(run.score, key), places)]
        which = f" is that of {one[0]}," if one else " is"
        listed = ", ".join(f"{value:.5f}" for value in values)
        evidence = f"{key} {claim}{which} not the mean {mean:.5f} of the logs ({listed})"
        wrong += [Finding("figures", "fail", json_name, evidence, f"give the mean, {mean:.8f}")]
    by_seed = runs_by_seed(record)
    others = []
    for seed, row in submission.seeds.items():
        logs = by_seed.get(seed, [])
        measured = join_measured(logs)
        for key, claim in row.items():
            if not measured.get(key) or any(agrees(claim, value) for value in measured[key]):
                continue
            if is_in_logs(repr(claim), logs):
                continue  # another line of the log states it
            logged = " or ".join(f"{value:,}" for value in dict.fromkeys(measured[key]))
            others += [f"seed {seed}: {key} {claim:,} where its log says {logged}"]
    if others:
        evidence = "; ".join(others)
        remedy = "take the numbers of the logs"
        wrong += [Finding("figures", "fail", json_name, evidence, remedy)]
    if absent := [str(seed) for seed in submission.seeds if seed not in by_seed]:
        evidence = f"lists seeds of which the folder has no log: {', '.join(absent)}"
        wrong += [Finding("figures", "fail", json_name, evidence, "add train_seed<N>.log of each")]
    totals = {run.path.name: run.total_bytes for run in runs if run.total_bytes}
    if submission.bytes_total and totals:
        log, worst = max(totals.items(), key=lambda item: item[1])
        evidence = (
            f"bytes_total {submission.bytes_total:,} stands in no log (largest: {worst:,}, {log})"
        )
        if submission.bytes_total < worst:
            evidence = f"bytes_total {submission.bytes_total:,} is less than the {worst:,} of {log}"
        if submission.bytes_total not in totals.values() or submission.bytes_total < worst:
            level = "fail" if submission.bytes_total < worst else "warn"
            wrong += [Finding("figures", level, json_name, evidence, f"give the largest, {worst}")]
    codes = {run.code_bytes for run in runs if run.code_bytes}
    codes |= {path.stat().st_size for path in record.code}
    if submission.bytes_code and codes and submission.bytes_code not in codes:
        listed = ", ".join(f"{value:,}" for value in sorted(codes))
        evidence = (
            f"bytes_code {submission.bytes_code:,} is neither in a log nor a file's size ({listed})"
        )
        remedy = "give the size of the code that is shipped"
        wrong += [Finding("figures", "warn", json_name, evidence, remedy)]
    evidence = f"score, sizes and seeds are those of {len(runs)} logs"
    yield from wrong or [Finding("figures", "ok", json_name, evidence)]


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
            index = bisect.bisect_right(numbers, (number - slack) * unit)
            if index < len(numbers) and numbers[index] < (number + slack) * unit:
                return True
    return False


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


def check_readme(record: Record) -> Iterator[Finding]:
    """The README's figures are those of the logs: row by row in its tables, then in its prose."""
    if record.is_ours or not record.scored or not record.readme:
        return
    rows = list(denied_cells(record))
    if rows:
        evidence = "; ".join(f"line {line}: {text}" for line, text in rows)
        yield Finding("figures", "fail", "README.md", evidence, "take the numbers of the logs")
    strays = list(stray_figures(record))
    if strays:
        examples = "; ".join(f"line {line}: {text}" for line, text in strays[:6])
        more = f" and {len(strays) - 6} more" if len(strays) > 6 else ""
        evidence = f"{len(strays)} figures stand in no log of the folder: {examples}{more}"
        remedy = "correct them, or say beside each where it is from"
        yield Finding("figures", "warn", "README.md", evidence, remedy)
    if not rows and not strays:
        yield Finding("figures", "ok", "README.md", "every score and size stands in a log")


def averages(record: Record) -> dict[str, list[list[float]]]:
    """For each kind of figure, the values over all runs of each score that every log states."""
    rows = {}
    for key in ("val_bpb", "val_loss"):
        chosen = [[getattr(run.score, key) for run in record.scored]]
        for name in {score.name for run in record.scored for score in run.scores}:
            chosen += [
                [getattr(s, key) for run in record.scored for s in run.scores if s.name == name]
            ]
        validations = [[p[key] for p in run.curve if p.get(key)][-1:] for run in record.scored]
        chosen.append([value for last in validations for value in last])
        rows[key] = [r for r in chosen if len(r) == len(record.scored) and None not in r]
    return rows


def seed_rows(record: Record) -> Iterator[tuple[int, list[Run], dict[str, str]]]:
    """Line, runs (none: the mean) and cells by title of the README's rows about one seed."""
    by_seed = {str(seed): runs for seed, runs in runs_by_seed(record).items()}
    header: list[str] = []
    for number, line in enumerate(record.readme.splitlines(), 1):
        if not line.lstrip().startswith("|"):
            header = []
            continue
        cells = [cell.strip(" *`") for cell in line.strip().strip("|").split("|")]
        header = header or [cell.lower() for cell in cells]
        name = cells[0].lower().replace("seed", "").strip(" =`")
        if "seed" in header[0] and (name in by_seed or name in ("mean", "average", "avg")):
            yield number, by_seed.get(name, []), dict(zip(header, cells, strict=False))


def denied_cells(record: Record) -> Iterator[tuple[int, str]]:
    """Figures in rows about a seed, or the mean, that no line of its log or logs states."""
    means = {}
    for key, rows in averages(record).items():
        # The row of the mean may give the best or the worst seed beside it.
        means[key] = [
            value for row in rows for value in (statistics.fmean(row), min(row), max(row))
        ]
    for number, runs, cells in seed_rows(record):
        for title, cell in cells.items():
            kind = "val_bpb" if re.search("bpb|bpp", title) else "val_loss" * ("loss" in title)
            logged = (join_measured(runs) if runs else means).get(kind, [])
            if re.search("bytes|artifact|size", title) and runs:
                sizes = [
                    size for r in runs for size in (r.model_bytes, r.total_bytes, r.code_bytes)
                ]
                logged = [size for size in sizes if size]
            figures = re.split(r"std|±|\+/-|\(|σ", cell)[0]  # what follows is no mean
            for text in NUMBER.findall(figures) if logged else ():
                is_stated = any(is_written(text, value) for value in logged)
                if not is_stated and not is_in_logs(text, runs or record.runs):
                    stated = ", ".join(f"{value:.10g}" for value in dict.fromkeys(logged))
                    source = " and ".join(run.path.name for run in runs) or "the mean"
                    yield number, f"{text} where {source} has {stated}"


def is_written(text: str, value: float) -> bool:
    """Whether a figure of a text is this value, in its own unit or in thousands or millions."""
    number = float(text.replace(",", ""))
    places = len(text.split(".")[1]) if "." in text else 0
    return any(agrees(number, value / unit, places) for unit in UNITS)


def stray_figures(record: Record) -> Iterator[tuple[int, str]]:
    """Figures of the README that look like a score or a size and that no log supports."""
    supported = sorted({float(t.replace(",", "")) for t in NUMBER.findall(all_text(record))})
    sizes = [run.total_bytes for run in record.scored if run.total_bytes]
    rows = [row for rows in averages(record).values() for row in rows] + [sizes] * bool(sizes)
    supported = sorted([*supported, *map(statistics.fmean, rows), CAP_BYTES])
    judged = {number for number, _, _ in seed_rows(record)}
    for number, line in enumerate(record.readme.splitlines(), 1):
        if number in judged or re.search(r"#\d{2,4}\b|\bPR\b|https?://", line):
            continue  # somebody else's figure, with its source
        for match in NUMBER.finditer(line):
            text = match[0]
            is_score = re.fullmatch(r"[0-3]\.\d{4,}", text) and float(text) > 0.5
            is_size = re.fullmatch(r"1[0-9],?\d{3},?\d{3}", text) and "byte" in line.lower()
            if not is_score and not is_size:
                continue
            value = float(text.replace(",", ""))
            places = len(text.partition(".")[2])
            at = bisect.bisect_left(supported, value - 10.0**-places * (1 - 1e-9))
            if at == len(supported) or not agrees(value, supported[at], places):
                yield number, text


def all_text(record: Record) -> str:
    return "\n".join(read_text(run.path) for run in record.runs)


def check_generated(record: Record) -> Iterator[Finding]:
    """README.md and submission.json of ours are what the logs and the code give, byte for byte."""
    if not record.is_ours:
        return
    folder = record.folder
    raw = record.raw
    json_name = "submission.json"
    if raw["packed_by"] not in documents.TOOLS:
        evidence = f"packed_by {raw['packed_by']!r}, this is {documents.PACKED_BY}"
        yield Finding(
            "schema", "fail", json_name, evidence, "check it with the version that packed it"
        )
        return
    remedy = "pack the runs again; nothing in these two files is to be edited by hand"
    try:
        stated = {key: raw[key] for key in documents.STATED}
        made = documents.render(folder, stated, raw["packed_by"])
        conflicts = list(contradictions(record))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        evidence = f"cannot be made again from the folder: {error!r}"
        yield Finding("figures", "fail", json_name, evidence, remedy)
        return
    same = True
    for name, data in made.items():
        lies = (folder / name).read_bytes() if (folder / name).exists() else b""
        if lies == data:
            continue
        same = False
        if name == json_name:
            changes = list(differences(raw, json.loads(data))) or ["spacing"]
        else:
            changes = list(line_changes(lies.decode(errors="replace"), data.decode()))
        listed = "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" * (len(changes) > 4))
        yield Finding("figures", "fail", name, f"is not what the logs give: {listed}", remedy)
    for evidence in conflicts:
        same = False
        yield Finding("figures", "fail", json_name, evidence, remedy)
    if same:
        evidence = "both generated files are what logs and code give, byte for byte"
        yield Finding("figures", "ok", folder.name, evidence)


def differences(stated: object, made: object, path: str = "") -> Iterator[str]:
    """What differs between two JSON values, by path."""
    if isinstance(stated, dict) and isinstance(made, dict):
        for key in sorted(stated.keys() | made.keys()):
            yield from differences(stated.get(key), made.get(key), f"{path}.{key}".lstrip("."))
    elif stated != made:
        yield f"{path} is {json.dumps(stated)[:90]}, the logs give {json.dumps(made)[:90]}"


def line_changes(stated: str, made: str) -> Iterator[str]:
    lines = stated.splitlines()
    wanted = made.splitlines()
    matcher = difflib.SequenceMatcher(None, lines, wanted, autojunk=False)
    for kind, first, end, start, stop in matcher.get_opcodes():
        if kind != "equal":
            says = " ".join(lines[first:end])
            gives = " ".join(wanted[start:stop])
            yield f"line {first + 1} says {says[:90]!r}, the logs give {gives[:90]!r}"


def contradictions(record: Record) -> Iterator[str]:
    """Where a statement of submission.json that no log makes is at odds with one that they make."""
    raw = record.raw
    groups = record.raw["bytes_by_group"]
    total = sum(row["bytes"] for row in groups["groups"].values()) + groups["overhead_bytes"]
    sizes = {run.seed: run.model_bytes for run in record.runs}
    if not total == groups["bytes"] == sizes.get(groups["seed"]):
        yield f"bytes_by_group: {total:,} of {groups['bytes']:,} for seed {groups['seed']}"
    parameters = sum(row["parameters"] for row in groups["groups"].values())
    if parameters != record.runs[0].model_params:
        yield f"bytes_by_group has {parameters:,} of {record.runs[0].model_params} parameters"
    if not record.folder.name.startswith(raw["date"] + "_"):
        yield f"date {raw['date']} is not that of the folder {record.folder.name}"
    packed = {row["seed"] for row in raw["launches"] if not row["reason"]}
    if packed != set(raw["seeds"]):
        yield f"launches have seeds {sorted(packed)}, the logs {raw['seeds']}"
    for run, command in zip(record.runs, raw["command"], strict=False):
        for name, text in re.findall(r"\b([A-Z][A-Z0-9_]*)=(\S+)", command):
            value = run.settings.get(name.lower())
            if value is not None and text != str(int(value) if value in (True, False) else value):
                if not (isinstance(value, float) and float(text) == value):
                    yield f"command sets {name}={text}, {run.path.name} had {value}"


# Size and time -------------------------------------------------------------------------------


def packed_estimate(files: Iterable[Path]) -> int:
    """About how many bytes the files would have as one self-extracting script, nothing minified."""
    data = b"".join(path.read_bytes() for path in files)
    return min(len(base64.b85encode(lzma.compress(data))) + 200, len(data))


def check_size(record: Record) -> Iterator[Finding]:
    """Artifact and code of the largest seed are at most the cap: as shipped, packed and claimed."""
    over = [run for run in record.runs if (run.total_bytes or 0) > CAP_BYTES]
    shrink = "pack to fewer bytes, as quantize.py CHECKPOINT --target-bytes N does"
    if over:
        excess = max(run.total_bytes for run in over) - CAP_BYTES
        listed = ", ".join(f"{run.path.name} {run.total_bytes:,}" for run in over)
        evidence = f"{excess:,} over the cap of {CAP_BYTES:,} by the logs: {listed}"
        yield Finding("size", "fail", record.folder.name, evidence, shrink)
    models = {run.seed: run.model_bytes for run in record.runs if run.model_bytes}
    if not models:
        if not over:
            evidence = "no log says how large the artifact is"
            yield Finding("size", "warn", record.folder.name, evidence, "log its size")
        return
    if not record.code:
        return
    seed, model = max(models.items(), key=lambda item: item[1])
    files = {path.relative_to(record.folder).as_posix(): path for path in record.code}
    files = {name: path.stat().st_size for name, path in files.items()}
    code = sum(files.values())
    packed = packed_estimate(record.code)
    listed = " + ".join(f"{name} {n:,}" for name, n in sorted(files.items(), key=lambda f: -f[1]))
    claims = [record.submission.bytes_total] if record.submission else []
    claim = f"; submission.json claims {claims[0]:,}" if claims and claims[0] else ""
    facts = (
        f"{model + code:,} bytes as shipped: artifact {model:,} (seed {seed}), code {code:,}"
        f" ({listed}){claim}"
    )
    facts += f"; with the code packed about {model + packed:,}" if packed < code else ""
    counted = max((run.code_bytes or 0 for run in record.runs), default=0)
    uncounted = 0 < counted < code and not record.is_ours
    if uncounted:
        others = [name for name, n in files.items() if n != counted]
        without = f"without {', '.join(others)}" if counted in files.values() else "of no file here"
        facts += f". The logs count {counted:,} bytes of code, {without}"
    ship = f"ship the packed file that is counted: {bundle.TOOL} pack FOLDER --out train_gpt.py"
    if model + code > CAP_BYTES:
        excess = f"{model + code - CAP_BYTES:,} over the cap: "
        remedy = ship if model + packed <= CAP_BYTES else shrink
        yield Finding("size", "fail", record.folder.name, excess + facts, remedy)
    elif uncounted:
        yield Finding("size", "warn", record.folder.name, facts, ship)
    elif not over:
        margin = f", {CAP_BYTES - model - code:,} below the cap"
        yield Finding("size", "ok", record.folder.name, facts + margin)


def late_calibration(run: Run) -> tuple[float, int]:
    """Seconds of calibration on training text after the training clock stopped, and its line.

    As `GPTQ:collected 67 Hessians in 4.7s` after `stopping_early: wallclock_cap`; text that the
    model wrote itself is no training text.
    """
    seconds = 0.0
    last = 0
    stopped = False
    for number, line in enumerate(read_text(run.path).splitlines(), 1):
        stopped |= "stopping_early" in line or line.startswith("trained ")
        is_own = re.search(r"self[-_ ]?gen|autoreg|generat|synthetic|\bval", line, re.I)
        if stopped and re.search(r"hessian|calibrat", line, re.I) and not is_own:
            if duration := re.search(r"(\d+(?:\.\d+)?)\s?(ms|s|sec|seconds)\b", line):
                seconds += float(duration[1]) / (1000 if duration[2] == "ms" else 1)
                last = number
    return seconds, last


def check_time(record: Record) -> Iterator[Finding]:
    """Training and scoring of each seed keep to the track's limits."""
    caps = {"training": record.track.train_cap_seconds, "scoring": record.track.eval_cap_seconds}
    for phase, cap in caps.items():
        if cap is None:
            continue
        slowest = 0.0
        unknown = []
        for run in record.scored:
            time_ms = run.train_time_ms if phase == "training" else run.eval_time_ms
            late, line = late_calibration(run) if phase == "training" else (0.0, 0)
            if time_ms is not None and late and time_ms / 1000 <= cap < time_ms / 1000 + late:
                evidence = f"training took {time_ms / 1000:,.3f} s, and reading training text for"
                evidence += (
                    f" calibration {late:,.3f} s after it: {time_ms / 1000 + late - cap:,.3f}"
                )
                evidence += f" over {cap:,.0f} (line {line})"
                remedy = "stop training earlier, so that calibration ends within the time"
                yield Finding("phases", "fail", run.path.name, evidence, remedy)
            if time_ms is None:
                unknown.append(run.path.name)
                continue
            seconds = time_ms / 1000
            name = run.path.name
            slowest = max(slowest, seconds)
            if seconds <= cap:
                continue
            evidence = f"{phase} took {seconds:,.3f} s, {seconds - cap:,.3f} over {cap:,.0f}"
            step = seconds / run.steps if run.steps else 0
            if phase == "training" and seconds - cap <= 2 * step:
                evidence += f": the last step (of {step:.3f} s on average) began before the cap"
                remedy = "stop one step earlier; merged records were over by up to 0.137 s"
                yield Finding("time", "warn", name, evidence, remedy)
            else:
                remedy = f"keep more of MAX_WALLCLOCK_SECONDS for what follows the {phase} loop"
                remedy = remedy if phase == "training" else "score with a larger stride or batch"
                yield Finding("time", "fail", name, evidence, remedy)
        if unknown:
            evidence = f"{', '.join(unknown)}: no time of {phase} in the log"
            yield Finding("time", "warn", record.folder.name, evidence, "log it")
        elif record.scored and slowest <= cap:
            evidence = f"{phase} took at most {slowest:,.3f} of {cap:,.0f} s"
            yield Finding("time", "ok", record.folder.name, evidence)


# Seeds, code, selection ----------------------------------------------------------------------


def check_seeds(record: Record) -> Iterator[Finding]:
    """Enough seeds, all different, of one code and one set of settings."""
    runs = record.scored
    folder_name = record.folder.name
    least = record.track.min_seeds
    for run in record.runs:
        if run not in runs:
            evidence = f"states no score in bpb: {run.score_reason}"
            yield Finding(
                "seeds", "fail", run.path.name, evidence, "finish the run, or leave it out"
            )
    if len(runs) < least:
        evidence = f"{len(runs)} scored logs, the track {record.track_name} needs {least}"
        yield Finding(
            "seeds", "fail", folder_name, evidence, "run further seeds: tools.runs.seeds -n 3"
        )
    twice = list(repeated(runs))
    if twice:
        remedy = "give each run its own SEED, and one log"
        yield Finding("seeds", "fail", folder_name, "; ".join(twice), remedy)
    if runs and any(run.seed is None for run in runs) and len(runs) > 1:
        names = ", ".join(run.path.name for run in runs if run.seed is None)
        remedy = "name the log train_seed<N>.log"
        yield Finding("seeds", "warn", folder_name, f"no seed in {names}", remedy)
    differ = list(differing(runs))
    if differ:
        remedy = "run the seeds again, with one code and one set of settings"
        yield Finding("seeds", "fail", folder_name, "; ".join(differ), remedy)
    if len(runs) >= least and not twice and not differ:
        evidence = f"{len(runs)} seeds of one code and one set of settings"
        yield Finding("seeds", "ok", folder_name, evidence)


def repeated(runs: list[Run]) -> Iterator[str]:
    """What shows that two logs are of one seed, or even of one run."""
    for run in runs:
        if None not in (run.seed, named_seed(run)) and run.seed != named_seed(run):
            yield f"{run.path.name} is of a run that printed seed {run.seed}"
    signs = {
        "seed": [run.seed for run in runs],
        "score": [(run.score.val_bpb, run.score.val_loss) for run in runs],
        "first three training losses": [
            tuple(point["train_loss"] for point in run.curve[:4] if point.get("train_loss"))[:3]
            for run in runs
        ],
    }
    for sign, values in signs.items():
        for value in dict.fromkeys(values):
            is_told = value is not None and (sign != "first three training losses" or value[2:])
            if is_told and values.count(value) > 1:
                names = [run.path.name for run, v in zip(runs, values, strict=True) if v == value]
                yield f"{', '.join(names)} have the same {sign}, {value}"


def differing(runs: list[Run]) -> Iterator[str]:
    """What tells the runs apart, but for the seed and names."""
    ignored = re.compile(r"seed|run_id|resume|path|dir|file|name|rank|host|time|^id$", re.I)
    for run in runs[1:]:
        first = runs[0]
        names = f"{first.path.name} and {run.path.name}"
        if run.sources != first.sources:
            changed = sorted(k for k, v in run.sources.items() if first.sources.get(k) != v)
            yield f"{names} ran different sources: {', '.join(changed) or 'one states none'}"
        elif not run.sources and None not in (run.code_bytes, first.code_bytes):
            if run.code_bytes != first.code_bytes:
                yield f"{names} count {first.code_bytes:,} and {run.code_bytes:,} bytes of code"
        keys = [k for k in run.settings.keys() & first.settings.keys() if not ignored.search(k)]
        changed = [k for k in sorted(keys) if run.settings[k] != first.settings[k]]
        if changed:
            examples = [f"{k} {first.settings[k]} and {run.settings[k]}" for k in changed[:4]]
            yield f"{names} have different settings: {', '.join(examples)}"
        elif run.sources and len({registry.settings_hash(r.settings) for r in (first, run)}) > 1:
            yield f"{names} have different settings, as their hashes say"
        if None not in (run.train_shards, first.train_shards):
            if run.train_shards != first.train_shards:
                yield f"{names} trained on {first.train_shards} and {run.train_shards} shards"


def check_code(record: Record) -> Iterator[Finding]:
    """The code that is shipped is the code that the logs say ran."""
    logged = {run.path.name: run.sources for run in record.runs if run.sources}
    if not logged or not (record.folder / SCRIPT).is_file():
        return
    shipped = {name: row["sha256"] for name, row in bundle.read_originals(record.folder).items()}
    packed = hashlib.sha256((record.folder / SCRIPT).read_bytes()).hexdigest()
    same = True
    for log, hashes in logged.items():
        for name, stated in hashes.items():
            lies = shipped.get(name, "missing")
            # A run of the packed script logs the hash of that one file.
            if stated != (packed if hashes == {SCRIPT: packed} else lies):
                same = False
                evidence = f"{name} has sha256 {lies[:16]}, {log} ran {stated[:16]}"
                yield Finding(
                    "files", "fail", SCRIPT, evidence, "ship the sources in the run's folder"
                )
    if same:
        evidence = f"{len(shipped)} sources are those that {len(logged)} logs ran, by sha256"
        yield Finding("files", "ok", SCRIPT, evidence)


def check_selection(record: Record) -> Iterator[Finding]:
    """Every launch is told; no seed was left out for its score."""
    folder_name = record.folder.name
    count = len(record.scored)
    faults = []
    if record.is_ours:
        rows = [row for row in as_list(record.raw.get("launches")) if isinstance(row, dict)]
        packed = {run.run_id for run in record.runs}
        count = len(rows)
        for row in rows:
            if row.get("run_id") not in packed and not str(row.get("reason") or "").strip():
                evidence = (
                    f"{row.get('run_id')} (seed {row.get('seed')}) is left out without a reason"
                )
                faults += [("submission.json", evidence, "pack it, or give the reason")]
    elif record.submission:
        listed = {seed for seed in as_list(record.raw.get("seeds")) if type(seed) is int}
        listed |= set(record.submission.seeds)
        spare = [run for run in record.scored if named_seed(run) not in listed | {None}]
        if listed and spare:
            names = ", ".join(f"{named_seed(run)} ({run.score.val_bpb})" for run in spare)
            evidence = f"logs of seeds that submission.json does not list: {names}"
            faults += [(folder_name, evidence, "count every seed in the mean")]
    texts = {"README.md": record.readme, "submission.json": json.dumps(record.raw)}
    for name, text in texts.items() if not record.is_ours else ():
        matches = [m for m in PICKED.finditer(text) if not DENIED.search(text[: m.start()])]
        for match in matches[:1]:
            line = text[: match.start()].count("\n") + 1
            evidence = f"says {match[0]!r}: seeds picked after their scores were known"
            faults += [(f"{name}:{line}", evidence, "give the mean of all seeds that were run")]
    for place, evidence, remedy in faults:
        yield Finding("selection", "fail", place, evidence, remedy)
    if not faults:
        yield Finding("selection", "ok", folder_name, f"{count} launches, none left out unsaid")


def as_list(value: object) -> list:
    return value if isinstance(value, list) else []


# Validation text and bytes -------------------------------------------------------------------


def check_validation(record: Record) -> Iterator[Finding]:
    """The score is of the whole split, and its bytes are the bytes of that text."""
    for run in record.scored:
        yield from check_split(run, record.track)
    for name, tree in record.scripts.trees.items():
        for line, count in short_splits(tree):
            evidence = f"takes {count:,} validation documents by default, the split has"
            evidence += f" {FINEWEB_VAL['documents']:,}: the others would be trained on (#2127)"
            remedy = f"set the default to {FINEWEB_VAL['documents']:,}"
            yield Finding("validation", "fail", f"{name}:{line}", evidence, remedy)
    shards = {run.train_shards for run in record.runs}
    if OVERLAP_SHARDS in shards:
        evidence = (
            f"{OVERLAP_SHARDS} training shards are those of a build that trains on validation"
        )
        yield Finding(
            "validation", "warn", record.folder.name, evidence, "see #2127; check the split"
        )


def check_split(run: Run, track: Track) -> Iterator[Finding]:
    """One run's implied bytes against those of the split."""
    name = run.path.name
    implied = run.implied_bytes()
    score = run.score
    tokens = run.val_tokens or score.targets
    split_bytes = FINEWEB_VAL["bytes"]
    if not track.is_fineweb:
        evidence = f"{score.targets or tokens} targets, {score.bytes} bytes; {run.data_note or ''}"
        yield Finding("validation", "ok", name, evidence.strip("; "))
        return
    if score.is_partial:
        evidence = f"its score is called val_bpb_partial: {run.data_note or 'not the whole split'}"
        yield Finding("validation", "fail", name, evidence, "score the challenge's whole split")
        return
    if implied is None or tokens is None:
        evidence = "val_loss, val_bpb or the number of tokens is not in the log, so no bytes follow"
        yield Finding("validation", "warn", name, evidence, "log all three with 8 decimals")
        return
    # Half a unit in the last place of both figures, and of a target more or less.
    slack = sum(10.0 ** -decimals(x) / x for x in (score.val_loss, score.val_bpb)) + 2 / tokens
    slack = slack * split_bytes + 1
    facts = f"{tokens:,} tokens imply {implied:,.0f} bytes"
    if abs(implied - split_bytes) <= slack:
        yield Finding("validation", "ok", name, f"{facts}, the whole split")
    elif tokens in WINDOWED_BYTES and abs(implied - WINDOWED_BYTES[tokens]) <= slack:
        yield Finding("validation", "ok", name, f"{facts}, all whole windows of the split")
    elif tokens in WINDOWED_BYTES:
        yield from judge_bytes(name, score.val_bpb, implied / WINDOWED_BYTES[tokens], facts)
    elif 0 < split_bytes - implied < 0.01 * split_bytes:
        evidence = (
            f"{facts}, {split_bytes - implied:,.0f} short of the split: its tail is not scored"
        )
        yield Finding("validation", "fail", name, evidence, "score the last, short window too")
    else:
        evidence = (
            f"{facts} where the challenge's split has {split_bytes:,}: another validation set"
        )
        yield Finding("validation", "fail", name, evidence, "fetch and verify the published split")


def judge_bytes(name: str, bpb: float, ratio: float, facts: str) -> Iterator[Finding]:
    """A score whose bytes are not those of its tokens, by how many times as many they are."""
    effect = bpb * (ratio - 1)
    if abs(effect) < REPEATED_EFFECT:
        # A mistake in counting bytes changes them by percents. So small a change comes of targets
        # that are counted more than once: their bytes a token differ from the mean of the text.
        most = abs(ratio - 1) * FINEWEB_VAL["bytes"]
        evidence = (
            f"{facts}, {ratio - 1:+.7f} of them: a part of the text is scored more than once,"
        )
        evidence += f" {most:,.0f} targets or more too many; {abs(effect):.6f} bpb"
        remedy = "score every target once: the last window only where no earlier one scored"
        yield Finding("one-pass", "warn", name, evidence, remedy)
        return
    causes = [text for mistake, text in BYTE_MISTAKES.items() if abs(ratio - mistake) < 0.004]
    cause = f" (as of {causes[0]})" if causes else ""
    evidence = f"{facts}, {ratio:.4f} times as many as they have{cause}"
    remedy = f"count bytes as evaluate.ByteTable does; the score is {bpb * ratio:.4f}"
    yield Finding("bytes", "fail", name, evidence, remedy)


def short_splits(tree: ast.Module) -> Iterator[tuple[int, int]]:
    """Lines where a source sets a number of validation documents that is not the whole split."""

    def is_count(name: str) -> bool:
        return bool(re.search(r"val\w*doc|doc\w*val", name.lower().replace("-", "_")))

    def short(node: ast.AST | None) -> bool:
        value = node.value if isinstance(node, ast.Constant) else None
        return type(value) is int and 0 < value < FINEWEB_VAL["documents"]

    for node in ast.walk(tree):
        pairs: list[tuple[str, ast.AST | None]] = []
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            pairs = [(ast.unparse(target), node.value) for target in targets]
        elif isinstance(node, ast.Call):
            words = " ".join(arg.value for arg in node.args if is_text(arg))
            pairs = [(words, word.value) for word in node.keywords if word.arg == "default"]
            pairs += [(word.arg or "", word.value) for word in node.keywords]
        elif isinstance(node, ast.arguments):
            named = [*node.posonlyargs, *node.args][-len(node.defaults) or len(node.args) + 9 :]
            pairs = [(a.arg, d) for a, d in zip(named, node.defaults, strict=False)]
            pairs += [(a.arg, d) for a, d in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        for name, value in pairs:
            if is_count(name) and short(value):
                yield value.lineno, value.value


def is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


# Code, claims, and a run ---------------------------------------------------------------------


def check_lint(record: Record) -> Iterator[Finding]:
    """What reading the code says of the four conditions, the network and written-down scores."""
    if not record.code:
        return
    scripts = Unwrapped()
    for path in record.code:
        if path.suffix == ".py":
            scripts.add(unwrap(path.read_bytes(), path.relative_to(record.folder).as_posix()))
    findings = [
        f for f in lint.lint_scripts(scripts) if f.rule != "hidden" or "read:" not in f.evidence
    ]
    yield from findings
    if not findings and not scripts.unread:
        evidence = f"tools.legality.lint finds nothing in {len(scripts.texts)} sources"
        yield Finding("score-first", "ok", SCRIPT, evidence)


CLAIMED_P = re.compile(r"\bp\W{0,4}(?:value)?\W{0,4}[<=≈]\W{0,4}?(\d*\.?\d+(?:e-?\d+)?)", re.I)


def day_of(record: Record) -> str | None:
    """The day of the record: of submission.json, else of the folder's name."""
    for text in (str(record.raw.get("date")), record.folder.resolve().name):
        if match := re.match(r"\d{4}-\d\d-\d\d", text):
            return match[0]
    return None


def is_earlier_record(row, day: str, record: Record) -> bool:
    """Whether a row of the leaderboard stood that day, and is not the record's own."""
    if row.track != "10min_8xh100" or row.status != "record" or not row.date or row.date >= day:
        return False
    mean = statistics.fmean(run.score.val_bpb for run in record.scored)
    is_own = abs(row.bpb - mean) < 5e-6 or str(row.folder or "").endswith(record.folder.name)
    return not is_own


def check_significance(record: Record) -> Iterator[Finding]:
    """What the gain over the row that stood when the record was made is worth, and what is said."""
    scores = [run.score.val_bpb for run in record.scored]
    if record.track_name not in ("10min_16mb", "10min_8xh100") or not scores:
        return
    day = day_of(record)
    if day is None:
        evidence = "neither submission.json nor the folder gives a date, so no row to compare with"
        yield Finding(
            "significance", "warn", record.folder.name, evidence, "give the day of the run"
        )
        return
    rows = [row for row in leaderboard.load_leaderboard() if is_earlier_record(row, day, record)]
    if not rows:
        return
    best = min(rows, key=lambda row: row.bpb)
    gain = best.bpb - statistics.fmean(scores)
    thresholds = stats.readings()
    evidence = f"{gain:+.5f} bpb gained over {best.name} ({best.date}, {best.bpb})"
    p = {}
    try:
        theirs = list(best.seeds.values())
        p = {k: stats.welch(scores, theirs, bpb).p_one_sided for k, bpb in thresholds.items()}
        printed = [f"{value:.2g} (per {unit})" for unit, value in p.items() if unit != "any"]
        evidence += f": p = {p['any']:.2g} for any gain; for 0.005 nats {', '.join(printed)}"
    except ValueError as error:
        evidence += f"; no p ({error})"
    # Without p: a gain over every reading of 0.005 nats is ten times the noise of seeds.
    is_shown = max(p.values()) < stats.ALPHA if p else gain > max(thresholds.values())
    level, remedy = ("ok", "") if is_shown else ("warn", "run more seeds, or claim no record")
    if gain <= 0:
        remedy = "it does not beat that row; claim no record"
    elif not is_shown and not best.seeds:
        remedy = "the seeds of that row are not public, so that no test can be made against it"
    yield Finding("significance", level, record.folder.name, evidence, remedy)
    claims = CLAIMED_P.findall(record.readme + json.dumps(record.raw, ensure_ascii=False))
    bold = [text for text in claims if float(text) < stats.ALPHA]
    if bold and p and p["any"] >= stats.ALPHA:
        evidence = f"claims p of {bold[0]}; against {best.name} it is {p['any']:.2g}"
        remedy = "say against which row and by which test p was computed"
        yield Finding("significance", "warn", record.folder.name, evidence, remedy)


RUN_SECONDS = 600


def tiny_settings(data: Path) -> dict[str, str]:
    """The environment of the run: a few steps on the toy text."""
    return {
        "RUN_ID": "tiny",
        "SEED": "1",
        "ITERATIONS": "3",
        "MAX_WALLCLOCK_SECONDS": "0",
        "DATA_PATH": str(data / "datasets/toy_sp1024"),
        "TOKENIZER_PATH": str(data / "tokenizers/toy_1024_bpe.model"),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def check_run(record: Record, trust: bool = False) -> Iterator[Finding]:
    """The counted code runs alone, in an empty folder without network, to a final score.

    Raises: ValueError where it cannot be isolated, unless it is trusted.
    """
    from data.prepare import build_toy

    if not record.code:
        return
    with tempfile.TemporaryDirectory() as scratch:
        alone = Path(scratch).resolve() / "alone"
        toy = Path(scratch).resolve() / "toy"
        alone.mkdir()
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
            build_toy(toy)
        for path in record.code:
            copy = alone / path.relative_to(record.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        settings = tiny_settings(toy)
        if b"EVAL_STRIDE" in b"".join(path.read_bytes() for path in record.code) or record.is_ours:
            settings |= {"EVAL_STRIDE": "256"}
        settings |= {"PRESET": "smoke"} if record.is_ours else {"VOCAB_SIZE": "1024"}
        command = [sys.executable, SCRIPT]
        trace = sandbox.run_alone(command, alone, settings, RUN_SECONDS, isolated=not trust)
        yield from judge_trace(trace, toy, alone)
        if trace.unwatched:
            evidence = f"running alone, it started {'; '.join(trace.unwatched[:4])}"
            remedy = "look at what that is for; nothing of it was watched"
            yield Finding("files", "warn", SCRIPT, evidence, remedy)
        yield Finding(
            "files", "ok", SCRIPT, f"ran in {'no isolation' if trust else sandbox.ISOLATION}"
        )


def judge_trace(trace: sandbox.Trace, toy: Path, alone: Path) -> Iterator[Finding]:
    """What a run alone says: how it ended, what it opened, whom it called."""
    lines = [line for line in trace.output.splitlines() if line.strip()] or ["no output"]
    for host in trace.connections:
        evidence = f"running alone, it tried to reach {host}"
        yield Finding("network", "fail", SCRIPT, evidence, "ship what it needs, or name it as data")
    strangers = [path for path in trace.opened if not Path(path).is_relative_to(toy)]
    if strangers:
        evidence = f"running alone, it opened {', '.join(strangers[:4])}"
        remedy = "ship the file with the code, where it is counted"
        yield Finding("artifact-only", "fail", SCRIPT, evidence, remedy)
    error = lines[-1][:200]
    if missing := re.search(r"No module named '([\w.]+)'", trace.output):
        remedy = f"ship {missing[1]}.py, or name its package in requirements.txt"
        yield Finding("files", "fail", SCRIPT, f"alone: {missing[0]}", remedy)
    elif trace.returncode and re.search(r"CUDA|NVIDIA|nvidia|cuda", trace.output):
        evidence = f"needs a GPU, so that it was not run here: {error}"
        yield Finding("files", "warn", SCRIPT, evidence, "run this check on a machine with CUDA")
    elif trace.returncode:
        evidence = f"alone, it ends with status {trace.returncode}: {error}"
        remedy = "ship what it needs; try it in an empty folder"
        yield Finding("files", "fail", SCRIPT, evidence, remedy)
    else:
        final = [line for line in lines if re.match(r"final\w* .*val_bpb", line)]
        if final:
            evidence = f"runs alone, without network, {trace.seconds:.0f} s: {final[-1]}"
            yield Finding("files", "ok", SCRIPT, evidence)
        else:
            evidence = f"runs alone, but states no final score; last line: {error}"
            yield Finding("files", "fail", SCRIPT, evidence, "print the score as its last line")


# All of it -----------------------------------------------------------------------------------

CHECKS: tuple[Callable[[Record], Iterator[Finding]], ...] = (
    check_files,
    check_schema,
    check_generated,
    check_figures,
    check_readme,
    check_size,
    check_time,
    check_seeds,
    check_code,
    check_selection,
    check_validation,
    check_lint,
    check_significance,
)


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


def load(folder: Path, track: str | None = None) -> tuple[Record, list[Finding]]:
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
        evidence = f"is not read: a link out of the folder, or over {MAX_TEXT:,} bytes"
        faults += [Finding("hidden", "warn", "README.md", evidence, "ship it as a file of its own")]
    return Record(folder, track or track_of(folder, submission), runs, submission, text), faults


def check(
    folder: Path, track: str | None = None, run: bool = False, trust: bool = False
) -> list[Finding]:
    """Every finding about a record folder. With `run` its code is executed, isolated and briefly.

    Raises: FileNotFoundError when there is no such folder; ValueError where code is to be run that
    cannot be isolated and is not trusted.
    """
    record, findings = load(Path(folder), track)
    for look in CHECKS:
        findings += look(record)
    if run:
        findings += check_run(record, trust)
    return findings


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.submission.check", description=about)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of one record")
    parser.add_argument("--track", choices=TRACKS, help="default: as submission.json or the path")
    parser.add_argument("--run", action="store_true", help="also run the code, for a few steps")
    parser.add_argument("--trust", action="store_true", help="run it with your own rights")
    parser.add_argument("--verbose", action="store_true", help="show what holds, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        if args.run and args.trust:
            print(
                "tools.submission.check: the folder's code runs with your rights", file=sys.stderr
            )
        findings = check(args.folder, args.track, args.run, args.trust)
    except (OSError, ValueError) as error:
        print("tools.submission.check:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(report(findings, as_json=args.json, verbose=args.verbose))
    return status(findings)


if __name__ == "__main__":
    sys.exit(main())
