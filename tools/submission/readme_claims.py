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
    is_about,
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
        means[key] = []
        for row in rows:
            # The row of the mean may give the best or the worst seed beside it.
            means[key] += [statistics.fmean(row), min(row), max(row)]
    for number, runs, cells in seed_rows(record):
        source = " and ".join(run.path.name for run in runs) or "the mean"
        for title, cell in cells.items():
            logged = values_under(title, runs, means)
            if not logged:
                continue  # a column of another kind, as the learning rate
            figures = re.split(r"std|±|\+/-|\(|σ", cell)[0]  # what follows is the deviation
            for match in NUMBER.finditer(figures):
                text = match[0]
                is_stated = any(is_written(text, value) for value in logged)
                if re.search(r"[~≈]\s*$", figures[: match.start()]):
                    is_stated |= any(is_about(text, value) for value in logged)
                if not is_stated and not is_in_logs(text, runs or record.runs):
                    stated = ", ".join(f"{value:.10g}" for value in dict.fromkeys(logged))
                    yield number, f"{text} where {source} has {stated}"


def values_under(title: str, runs: list[Run], means: dict[str, list[float]]) -> list[float]:
    """What the logs have for a column with this title; in the row of the mean, the means."""
    if runs and re.search("bytes|artifact|size", title):
        sizes = []
        for run in runs:
            sizes += [run.model_bytes, run.total_bytes, run.code_bytes]
        return [size for size in sizes if size]
    measured = join_measured(runs) if runs else means
    if re.search("bpb|bpp", title):
        return measured.get("val_bpb", [])
    if "loss" in title:
        return measured.get("val_loss", [])
    return []


def stray_figures(record: Record) -> Iterator[tuple[int, str]]:
    """Figures of the README that look like a score or a size and that no log supports."""
    supported = sorted(supported_figures(record))
    judged = {number for number, _, _ in seed_rows(record)}
    for number, line in enumerate(record.readme.splitlines(), 1):
        if number in judged or re.search(r"#\d{2,4}\b|\bPR\b|https?://", line):
            continue  # somebody else's figure, with its source
        for match in NUMBER.finditer(line):
            text = match[0]
            is_score = re.fullmatch(r"[0-3]\.\d{4,}", text) and float(text) > 0.5
            # Decays of averages and percentiles of clipping: 0.9965, 0.99999.
            is_score = is_score and not text.startswith("0.99")
            is_size = re.fullmatch(r"1[0-9],?\d{3},?\d{3}", text) and "byte" in line.lower()
            if not is_score and not is_size:
                continue
            value = float(text.replace(",", ""))
            places = len(text.partition(".")[2])
            # Only the first figure above the lower end of the rounding can agree.
            nearest = bisect.bisect_left(supported, value - 10.0**-places * (1 - 1e-9))
            if nearest == len(supported) or not agrees(value, supported[nearest], places):
                yield number, text


def supported_figures(record: Record) -> set[float]:
    """Every number of the logs, the means over the seeds, and the cap."""
    figures = {CAP_BYTES}
    for run in record.runs:
        figures |= {float(text.replace(",", "")) for text in NUMBER.findall(read_text(run.path))}
    for rows in averages(record).values():
        figures |= {statistics.fmean(row) for row in rows}
    sizes = [run.total_bytes for run in record.scored if run.total_bytes]
    if sizes:
        figures.add(statistics.fmean(sizes))
    return figures
