"""Compare the gain of a record with the noise of seeds, and with the p that it claims."""

import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from tools.legality.rules import Finding
from tools.runs import stats
from tools.submission import leaderboard
from tools.submission.record_folder import Record

CLAIMED_P = re.compile(r"\bp\W{0,4}(?:value)?\W{0,4}[<=≈]\W{0,4}?(\d*\.?\d+(?:e-?\d+)?)", re.I)

SAME_SCORE = 5e-6  # bpb: submissions round to five decimals


def day_of(record: Record) -> str | None:
    """The day of the record: of submission.json, else of the folder's name."""
    for text in (str(record.raw.get("date")), record.folder.resolve().name):
        if match := re.match(r"\d{4}-\d\d-\d\d", text):
            return match[0]
    return None


def is_earlier_record(row: leaderboard.LeaderboardRow, day: str, record: Record) -> bool:
    """Whether a row of the leaderboard stood that day, and is not the record's own."""
    if row.track != "10min_8xh100" or row.status != "record":
        return False
    return bool(row.date) and row.date < day and not is_own_row(row, record)


def is_own_row(row: leaderboard.LeaderboardRow, record: Record) -> bool:
    """Whether a row is the record itself: the same folder, the same mean, or the score of a seed.

    A row of the leaderboard may bear the mean or the best seed, and a day before submission.json's.
    """
    if Path(row.folder or "").name == record.folder.resolve().name:
        return True
    scores = [run.score.val_bpb for run in record.scored]
    own = [statistics.fmean(scores), *scores]
    return any(abs(a - b) < SAME_SCORE for a in own for b in [row.bpb, *row.seeds.values()])


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
    theirs = list(best.seeds.values())
    # Some early rows bear the best of their seeds: the gain is over the mean, as p is.
    standing = statistics.fmean(theirs) if theirs else best.bpb
    gain = standing - statistics.fmean(scores)
    thresholds = stats.readings()
    evidence = f"{gain:+.5f} bpb gained over {best.name} ({best.date}, {standing:.8g})"
    p = {}
    try:
        p = {k: stats.welch(scores, theirs, bpb).p_one_sided for k, bpb in thresholds.items()}
        printed = [f"{value:.2g} (per {unit})" for unit, value in p.items() if unit != "any"]
        evidence += f": p = {p['any']:.2g} for any gain; for 0.005 nats {', '.join(printed)}"
    except ValueError as error:
        evidence += f"; no p ({error})"
    # Without p: a gain over every reading of 0.005 nats is ten times the noise of seeds.
    is_shown = max(p.values()) < stats.ALPHA if p else gain > max(thresholds.values())
    level = "ok" if is_shown else "warn"
    remedy = "" if is_shown else "run more seeds, or claim no record"
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
