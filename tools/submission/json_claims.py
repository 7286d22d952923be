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
