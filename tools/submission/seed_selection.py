"""Check the seeds of a record: enough, all different, alike in all else, and none left out."""

import json
import re
from collections.abc import Iterator

from tools.legality.rules import Finding
from tools.runs import registry
from tools.runs.logs import Run
from tools.submission.log_figures import named_seed
from tools.submission.record_folder import Record

# Words by which a README says that seeds were chosen by their scores, as "we report the best 3 of 5
# seeds" (#1769), "Submitted: seed 1 (best)" or "two runs were dropped".
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
# Ends the text before a wording that is denied: "no seeds were dropped".
DENIED = re.compile(r"\b(?:no|not|none|never|without|nor)\b[^.\n]{0,30}$", re.IGNORECASE)


def check_seeds(record: Record) -> Iterator[Finding]:
    """Enough seeds, all different, of one code and one set of settings."""
    runs = record.scored
    folder_name = record.folder.name
    least = record.track.min_seeds
    for run in record.runs:
        if run not in runs:
            evidence = f"states no score in bpb: {run.score_reason}"
            # Beside enough scored logs it is one of another stage, or of a run that failed.
            level = "fail" if len(runs) < least else "warn"
            remedy = "finish the run, or leave it out"
            yield Finding("seeds", level, run.path.name, evidence, remedy)
    if len(runs) < least:
        evidence = f"{len(runs)} scored logs, the track {record.track_name} needs {least}"
        yield Finding(
            "seeds", "fail", folder_name, evidence, "run further seeds: tools.runs.seeds -n 3"
        )
    twice = list(repeated(runs))
    if twice:
        remedy = "give each run its own SEED, and one log"
        yield Finding("seeds", "fail", folder_name, "; ".join(twice), remedy)
    reruns = list(rerun(runs)) if not twice else []
    if reruns:
        evidence = f"{'; '.join(reruns)}: reruns of one seed show less noise than seeds do"
        yield Finding("seeds", "warn", folder_name, evidence, "give each run its own SEED")
    if runs and any(run.seed is None for run in runs) and len(runs) > 1:
        names = ", ".join(run.path.name for run in runs if run.seed is None)
        remedy = "name the log train_seed<N>.log"
        yield Finding("seeds", "warn", folder_name, f"no seed in {names}", remedy)
    differ = list(differing(runs))
    if differ:
        remedy = "run the seeds again, with one code and one set of settings"
        yield Finding("seeds", "fail", folder_name, "; ".join(differ), remedy)
    if len(runs) >= least and not twice and not reruns and not differ:
        evidence = f"{len(runs)} seeds of one code and one set of settings"
        yield Finding("seeds", "ok", folder_name, evidence)


def repeated(runs: list[Run]) -> Iterator[str]:
    """What shows that two logs are of one run, or that a log is not of the seed in its name."""
    for run in runs:
        if None not in (run.seed, named_seed(run)) and run.seed != named_seed(run):
            yield f"{run.path.name} is of a run that printed seed {run.seed}"
    scores = [(run.score.val_bpb, run.score.val_loss) for run in runs]
    # Two seeds may agree in a score of few digits, as 1.0855.
    exact = [score if len(f"{score[0]!r}") > 7 else None for score in scores]
    yield from equal(runs, exact, "score")
    yield from equal(runs, [first_losses(run) for run in runs], "first three training losses")


def rerun(runs: list[Run]) -> Iterator[str]:
    """Logs of runs that differ, and yet have one seed."""
    yield from equal(runs, [run.seed for run in runs], "seed")


def equal(runs: list[Run], values: list, sign: str) -> Iterator[str]:
    """Which runs have the same of something; None is equal to nothing."""
    for value in dict.fromkeys(values):
        if value is not None and values.count(value) > 1:
            pairs = zip(runs, values, strict=True)
            names = [run.path.name for run, other in pairs if other == value]
            yield f"{', '.join(names)} have the same {sign}, {value}"


def first_losses(run: Run) -> tuple[float, ...] | None:
    """The first three training losses; None where the log has fewer, which would tell nothing."""
    # The first point may be a validation before training, without a training loss.
    losses = [point["train_loss"] for point in run.curve[:4] if point.get("train_loss")]
    return tuple(losses[:3]) if len(losses) >= 3 else None


def differing(runs: list[Run]) -> Iterator[str]:
    """What tells the runs apart, but for the seed and names."""
    # Settings that say which run it is, and where; they differ between honest seeds too.
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
