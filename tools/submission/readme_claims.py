"""Check the figures of a README against the logs: its table of seeds, then its prose."""

import bisect
import re
import statistics
from collections.abc import Iterator

from quantize import CAP_BYTES
from tools.legality.rules import Finding
from tools.runs.logs import Run
from tools.submission.log_figures import (
    NUMBER,
    agrees,
    averages,
    is_in_logs,
    is_written,
    join_measured,
    runs_by_seed,
)
from tools.submission.record_folder import Record, read_text


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
