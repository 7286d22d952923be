"""Check submission.json: names and types of its fields, and its figures against the logs."""

import statistics
from collections.abc import Iterator
from datetime import datetime

from tools.legality.rules import Finding
from tools.submission.log_figures import (
    agrees,
    averages,
    decimals,
    is_in_logs,
    join_measured,
    runs_by_seed,
)
from tools.submission.record_folder import Record


def check_schema(record: Record) -> Iterator[Finding]:
    """submission.json has the field's names with values of their types."""
    if record.submission is None:
        return
    yield from check_texts(record)
    yield from check_numbers(record)
    yield Finding("schema", "ok", record.submission.path.name, f"{len(record.raw)} fields read")


def check_texts(record: Record) -> Iterator[Finding]:
    """Name, author and GitHub id are text, and the date is a day."""
    json_name = record.submission.path.name
    for key in ("name", "author", "github_id"):
        value = record.raw.get(key)
        if not isinstance(value, str) or not value.strip():
            evidence = f"{key} is {value!r}, must be text"
            yield Finding("schema", "warn", json_name, evidence, f"fill in {key}")
    date = record.raw.get("date")
    try:
        datetime.fromisoformat(str(date))
    except ValueError:
        evidence = f"date is {date!r}, must be YYYY-MM-DD or a timestamp"
        yield Finding("schema", "warn", json_name, evidence, "give the day of the run")


def check_numbers(record: Record) -> Iterator[Finding]:
    """Score and sizes are there, under the names that all readers know, and above 0."""
    submission = record.submission
    json_name = submission.path.name
    raw = record.raw
    # A record of ours that scored a part of the split says so in the name of its score.
    is_partial = isinstance(raw.get("val_bpb_partial"), float)
    if submission.val_bpb is None and not is_partial:
        evidence = "has no val_bpb"
        loss = submission.val_loss
        measured = [run.score.val_bpb for run in record.scored]
        if loss is not None and any(abs(loss - value) < 0.01 for value in measured):
            evidence += f"; val_loss {loss} is a score in bpb"
        remedy = "give the mean of the seeds as val_bpb"
        yield Finding("schema", "fail", json_name, evidence, remedy)
    for field in ("val_bpb", "val_loss", "bytes_total", "bytes_code"):
        key = submission.keys_used.get(field, field)
        value = raw.get(key)
        if key != field and not (is_partial and field == "val_bpb"):
            evidence = f"{key} is read as {field}"
            remedy = f"call it {field}, which all readers know"
            yield Finding("schema", "warn", json_name, evidence, remedy)
        # JSON's true would pass for the number 1.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and value > 0):
            evidence = f"{key} is {value!r}, must be a number above 0"
            remedy = "give the number, without quotes or unit"
            yield Finding("schema", "fail", json_name, evidence, remedy)
    if submission.bytes_total is None and "bytes_total" not in raw:
        evidence = "states no size (bytes_total)"
        remedy = "give artifact and code of the largest seed"
        yield Finding("schema", "warn", json_name, evidence, remedy)


def check_figures(record: Record) -> Iterator[Finding]:
    """The figures of submission.json are those of the logs: mean score, sizes, seeds."""
    if record.submission is None or not record.scored or record.is_ours:
        return
    faults = [
        *compare_means(record),
        *compare_seeds(record),
        *compare_total_bytes(record),
        *compare_code_bytes(record),
    ]
    json_name = record.submission.path.name
    evidence = f"score, sizes and seeds are those of {len(record.scored)} logs"
    yield from faults or [Finding("figures", "ok", json_name, evidence)]


def compare_means(record: Record) -> Iterator[Finding]:
    """val_bpb and val_loss are means over the seeds, of a line that all logs share."""
    told: list[str] = []  # the log whose score stands for the mean
    for key in ("val_bpb", "val_loss"):
        claim = getattr(record.submission, key)
        values = [getattr(run.score, key) for run in record.scored]
        if claim is None or None in values or agrees_with_mean(record, key, claim):
            continue
        if key == "val_loss" and agrees_with_mean(record, "val_bpb", claim):
            continue  # a score in bpb, of which check_numbers tells
        same = [
            run.path.name
            for run, value in zip(record.scored, values, strict=True)
            if agrees(claim, value, places_of(claim))
        ]
        if same and same == told:
            continue  # the loss of the same run as the score
        told = same
        mean = statistics.fmean(values)
        which = f" is that of {same[0]}," if same else " is"
        listed = ", ".join(f"{value:.5f}" for value in values)
        evidence = f"{key} {claim}{which} not the mean {mean:.5f} of the logs ({listed})"
        remedy = f"give the mean, {mean:.8f}"
        # One seed for all: picked where it flatters, and merely untidy where it does not.
        level = "warn" if same and claim > mean else "fail"
        yield Finding("figures", level, record.submission.path.name, evidence, remedy)


def places_of(claim: float) -> int:
    """The decimals that are compared: at least four, so that rounding hides no choice of a seed."""
    return max(4, decimals(claim))


def agrees_with_mean(record: Record, key: str, claim: float) -> bool:
    """Whether a claim is the mean of the scores, or of another line that all logs share."""
    means = [statistics.fmean(row) for row in averages(record)[key]]
    return any(agrees(claim, mean, places_of(claim)) for mean in means)


def compare_seeds(record: Record) -> Iterator[Finding]:
    """The results of each seed stand in a log of that seed, and each seed has a log."""
    json_name = record.submission.path.name
    by_seed = runs_by_seed(record)
    differences = []
    for seed, row in record.submission.seeds.items():
        logs = by_seed.get(seed, [])
        measured = join_measured(logs)
        for key, claim in row.items():
            values = measured.get(key)
            if not values or any(agrees(claim, value) for value in values):
                continue
            if is_in_logs(repr(claim), logs):
                continue  # another line of the log states it
            logged = " or ".join(f"{value:,}" for value in dict.fromkeys(values))
            differences.append(f"seed {seed}: {key} {claim:,} where its log says {logged}")
    if differences:
        remedy = "take the numbers of the logs"
        yield Finding("figures", "fail", json_name, "; ".join(differences), remedy)
    absent = [str(seed) for seed in record.submission.seeds if seed not in by_seed]
    if absent:
        evidence = f"lists seeds of which the folder has no log: {', '.join(absent)}"
        yield Finding("figures", "fail", json_name, evidence, "add train_seed<N>.log of each")


def compare_total_bytes(record: Record) -> Iterator[Finding]:
    """bytes_total is the size of the largest seed: less than any log says is false.

    The size of another seed, or the mean of all, is a figure of the logs, but not the one that has
    to fit; a size that stands in no log is unexplained.
    """
    claim = record.submission.bytes_total
    totals = {run.path.name: run.total_bytes for run in record.scored if run.total_bytes}
    if not claim or not totals:
        return
    log = max(totals, key=totals.get)
    largest = totals[log]
    if claim == largest:
        return
    level = "warn"
    if claim in totals.values():
        evidence = f"is not the largest: that is {largest:,} of {log}"
    elif abs(claim - statistics.fmean(totals.values())) <= 1:
        evidence = f"is the mean of the logs; the largest is {largest:,} of {log}"
    elif claim < largest:
        level = "fail"
        evidence = f"is less than the {largest:,} of {log}, and stands in no log"
    else:
        evidence = f"stands in no log (largest: {largest:,}, {log})"
    evidence = f"bytes_total {claim:,} {evidence}"
    remedy = f"give the largest, {largest}"
    yield Finding("figures", level, record.submission.path.name, evidence, remedy)


def compare_code_bytes(record: Record) -> Iterator[Finding]:
    """bytes_code is what a log counts, or the size of a file that is shipped."""
    claim = record.submission.bytes_code
    sizes = {run.code_bytes for run in record.scored if run.code_bytes}
    sizes |= {path.stat().st_size for path in record.code}
    if not claim or not sizes or claim in sizes:
        return
    listed = ", ".join(f"{value:,}" for value in sorted(sizes))
    evidence = f"bytes_code {claim:,} is neither in a log nor a file's size ({listed})"
    remedy = "give the size of the code that is shipped"
    yield Finding("figures", "warn", record.submission.path.name, evidence, remedy)
