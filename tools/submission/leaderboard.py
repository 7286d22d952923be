"""The leaderboard: upstream's public history and our own runs, as text, Markdown, JSON or a page.

    python3 golf.py tools.submission.leaderboard [--markdown FILE] [--html FILE] [--json]
        [--records DIR]

Exit status 0: every row could be read, 1: a record folder could not (named on stderr, the others
are shown), 2: leaderboard.json is damaged or a file cannot be written.

Our rows are not typed: each folder records/<track>/<date>_<name>/ is read by tools.runs.logs. The
history is records/leaderboard.json, {"upstream", "as_of", "source_note", "rows": [...]}. A row:

    date           "YYYY-MM-DD", or null where it is not known
    pr             number of the pull request, or null
    bpb            score of the row: the mean of its seeds, if no note says otherwise
    track          one of SECTIONS of tools/submission/tracks.py
    status         "record": took the lead when it came; "side": a row beside it; "non-record"
    technique      what it added, in a few words
    bytes          code and artifact as counted, of the largest seed known, or null; the artifact
                   alone where the track bounds that alone
    gpus, gpu      how many, of which kind
    train_minutes  of the clock, or null
    source         where the figures come from
    folder         of the record in the upstream repository, or null
    seeds          optional: {"seed": bpb}, as published
    published_p    optional: {"against": pr, "p": p, "spread": "sample" or "population"}, as printed
                   by the maintainers, who took either standard deviation
    note           optional: what a reader must know

The page needs nothing but itself. Its table sorts by a click or a key on a heading, and by its
address: board.html#sort=bytes,desc&track=10min_8xh100.
"""

import argparse
import dataclasses
import datetime
import html
import json
import math
import os
import re
import statistics
import sys
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

from evaluate import FINEWEB_VAL
from quantize import CAP_BYTES, write_atomic
from tools.runs.logs import Run, read_runs
from tools.runs.submissions import read_submission
from tools.submission.tracks import SECTIONS, TRACKS, Track

STATUS = ("record", "side", "non-record")
RECORDS = Path(__file__).parents[2] / "records"
UPSTREAM = "https://github.com/openai/parameter-golf"


@dataclass(frozen=True)
class LeaderboardRow:
    """One row of the leaderboard; None where something is not known."""

    date: str | None
    pr: int | None
    bpb: float
    track: str
    status: str
    technique: str
    bytes: int | None
    gpus: int | None
    gpu: str | None
    train_minutes: float | None
    source: str
    folder: str | None
    seeds: dict[int, float] = dataclasses.field(default_factory=dict)
    published_p: dict | None = None
    note: str = ""
    ours: bool = False
    is_fineweb: bool = True  # scored on the challenge's whole validation text

    @property
    def name(self) -> str:
        """#1493, or the name of the folder without its date."""
        if self.pr:
            return f"#{self.pr}"
        name = Path(self.folder or "?").name
        return name[11:] if is_date(name[:10]) else name

    @property
    def std(self) -> float | None:
        return statistics.stdev(self.seeds.values()) if len(self.seeds) > 1 else None

    @property
    def gpu_minutes(self) -> float | None:
        if not self.gpus or not self.train_minutes or self.gpu == "cpu":
            return None
        return self.gpus * self.train_minutes


# Reading ------------------------------------------------------------------------------------------

NUMBER = (int, float)
TEXT = (str,)
FIELDS = {  # field: (types, required, what it must be)
    "date": ((str, type(None)), True, "YYYY-MM-DD or null"),
    "pr": ((int, type(None)), True, "a number or null"),
    "bpb": (NUMBER, True, "a positive number"),
    "track": (TEXT, True, f"one of {', '.join(SECTIONS)}"),
    "status": (TEXT, True, f"one of {', '.join(STATUS)}"),
    "technique": (TEXT, True, "text"),
    "bytes": ((int, type(None)), True, "a whole number or null"),
    "gpus": ((int, type(None)), True, "a whole number or null"),
    "gpu": ((str, type(None)), True, "text or null"),
    "train_minutes": ((*NUMBER, type(None)), True, "a number or null"),
    "source": (TEXT, True, "text"),
    "folder": ((str, type(None)), True, "text or null"),
    "seeds": ((dict,), False, "an object of seed: bpb"),
    "published_p": ((dict,), False, '{"against": pr, "p": 0..1, "spread": sample or population}'),
    "note": (TEXT, False, "text"),
}


def parse_row(raw, place: str) -> LeaderboardRow:
    """One row of the file.

    Raises: ValueError naming row, field, value and requirement.
    """
    if not isinstance(raw, dict):
        raise ValueError(f"{place}: {raw!r} must be an object")
    place += f" ({raw.get('date')}, pr {raw.get('pr')})"

    def require(ok: bool, field: str, requirement: str) -> None:
        if not ok:
            raise ValueError(f"{place}: {field}={raw.get(field)!r} must be {requirement}")

    for field in raw:
        require(field in FIELDS, field, f"left out; known fields are {', '.join(FIELDS)}")
    for field, (types, required, requirement) in FIELDS.items():
        if field not in raw:
            require(not required, field, f"there: {requirement}")
            continue
        require(type(raw[field]) in types, field, requirement)
        if isinstance(raw[field], float | int):
            require(0 < raw[field] < math.inf, field, f"{requirement}, above 0")
    require(raw["track"] in SECTIONS, "track", FIELDS["track"][2])
    require(raw["status"] in STATUS, "status", FIELDS["status"][2])
    if raw["date"] is not None:
        require(is_date(raw["date"]), "date", FIELDS["date"][2])
    seeds = raw.get("seeds", {})
    for seed, bpb in seeds.items():
        is_score = type(bpb) in NUMBER and bpb > 0
        require(seed.isdigit() and is_score, "seeds", FIELDS["seeds"][2])
    mean = statistics.fmean(seeds.values()) if seeds else raw["bpb"]
    require(abs(mean - raw["bpb"]) < 1e-5 or "note" in raw, "bpb", f"the seeds' mean {mean:.8f}")
    if published := raw.get("published_p"):
        require(is_published_p(published), "published_p", FIELDS["published_p"][2])
    return LeaderboardRow(**{**raw, "seeds": {int(seed): bpb for seed, bpb in seeds.items()}})


def is_published_p(published: dict) -> bool:
    """Whether this is a p as a maintainer printed it: against which row, by which spread."""
    if published.keys() != {"against", "p", "spread"}:
        return False
    is_number = type(published["p"]) in NUMBER and 0 <= published["p"] <= 1
    is_row = type(published["against"]) is int
    return is_number and is_row and published["spread"] in ("sample", "population")


def is_date(text: str) -> bool:
    try:
        return datetime.date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def load_leaderboard(path: Path | None = None) -> list[LeaderboardRow]:
    """The public history, in the order of the file.

    Raises: ValueError naming the row and what is wrong with it; FileNotFoundError.
    """
    path = path or RECORDS / "leaderboard.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: line {error.lineno}: {error.msg}; restore the file") from None
    except (KeyError, TypeError):
        raise ValueError(f'{path}: must be an object with "rows"; restore the file') from None
    return [parse_row(raw, f"{path.name}: row {i}") for i, raw in enumerate(rows, 1)]


def find_row(rows: list[LeaderboardRow], name: str) -> LeaderboardRow:
    """The row with this pull request (1493 or #1493), or with this in its folder's name.

    Raises: ValueError where none or several fit, with those that would.
    """
    number = name.removeprefix("#")
    if number.isdigit():
        matches = [row for row in rows if row.pr == int(number)]
    else:
        matches = [row for row in rows if row.folder and name.lower() in row.folder.lower()]
    if len(matches) == 1:
        return matches[0]
    some = ", ".join(row.name for row in matches or [row for row in rows if row.seeds][-12:])
    reason = "fits several rows" if matches else "is no run and no row"
    raise ValueError(f"{name!r} {reason}; give a log, a run folder or one of: {some}")


def read_own(records: Path) -> tuple[list[LeaderboardRow], list[str]]:
    """Our rows, one for each folder records/<track>/*/, and what could not be read."""
    rows = []
    problems = []
    for track in TRACKS.values():
        for folder in sorted(path for path in (records / track.folder).glob("*/") if path.is_dir()):
            try:
                rows.append(read_record(folder, track))
            except (OSError, ValueError) as error:
                problems.append(f"{folder}: {error}")
    return rows, problems


def read_record(folder: Path, track: Track) -> LeaderboardRow:
    """The row of one record folder, from its logs; submission.json adds the name.

    A track that bounds the artifact alone counts no code.
    Raises: ValueError, FileNotFoundError where there is no score.
    """
    runs = read_runs(folder)
    for run in runs:
        if run.score is None:
            raise ValueError(f"{run.path.name}: {run.score_reason}")
    scores = [run.score.val_bpb for run in runs]
    date = folder.name[:10] if is_date(folder.name[:10]) else None
    technique = folder.name[11:].replace("_", " ") if date else folder.name.replace("_", " ")
    shipped = None
    if (folder / "submission.json").exists():
        submission = read_submission(folder)
        date = date or (submission.date or "")[:10] or None
        technique = submission.name or technique
        shipped = submission.bytes_total  # with packed code: less than the runs counted
    is_without_code = track.artifact_cap_bytes is not None
    sizes = [run.model_bytes if is_without_code else run.total_bytes for run in runs]
    times = [run.train_time_ms for run in runs if run.train_time_ms]
    first = runs[0]
    notes = sorted({text for run in runs if (text := other_text(run))})
    return LeaderboardRow(
        date=date,
        pr=None,
        bpb=statistics.fmean(scores),
        track=track.section,
        status="non-record",
        technique=technique,
        bytes=shipped or max(filter(None, sizes), default=None),
        gpus=first.world_size,
        gpu=first.device,
        train_minutes=max(times) / 60_000 if times else None,
        source="logs of the folder",
        folder="/".join(folder.parts[-3:]),
        seeds={
            n if run.seed is None else run.seed: run.score.val_bpb for n, run in enumerate(runs)
        },
        note="; ".join(notes),
        ours=True,
        is_fineweb=not notes,
    )


def other_text(run: Run) -> str:
    """What keeps a score from being compared with others; empty on the challenge's whole text."""
    if run.score.is_partial:
        return "scored on a part of the validation split"
    counted = run.score.bytes or run.implied_bytes()
    split_bytes = FINEWEB_VAL["bytes"]
    # Upstream's windows leave out some thousands of bytes at the end.
    if counted is None or abs(counted / split_bytes - 1) < 1e-3:
        return ""
    return f"scored on another text, of {counted:,.0f} bytes"


# Text and Markdown --------------------------------------------------------------------------------

COLUMNS = {  # heading: (how a cell is printed, the value it sorts by)
    "date": lambda row: (row.date or "–", row.date),
    "run": lambda row: (row.name, row.name if row.pr is None else f"{row.pr:06}"),
    "bpb": lambda row: (f"{row.bpb:.5f}", row.bpb),
    "n": lambda row: (str(len(row.seeds)) if row.seeds else "–", len(row.seeds) or None),
    "std": lambda row: ("–" if row.std is None else f"{row.std:.5f}", row.std),
    "bytes": lambda row: ("–" if row.bytes is None else f"{row.bytes:,}", row.bytes),
    "compute": lambda row: (compute(row), row.gpu_minutes),
    "technique": lambda row: (row.technique, row.technique.lower()),
    "track": lambda row: (row.track, row.track),
}
NUMERIC = {"bpb", "n", "std", "bytes", "compute"}


def compute(row: LeaderboardRow) -> str:
    minutes = "?" if row.train_minutes is None else f"{row.train_minutes:.4g}"
    return f"{row.gpus or '?'}×{row.gpu or '?'} {minutes} min"


def ranked(rows: list[LeaderboardRow]) -> list[LeaderboardRow]:
    """Rows by track, in the order of SECTIONS, the lowest bpb first."""
    order = list(SECTIONS)
    return sorted(rows, key=lambda row: (order.index(row.track), row.bpb))


def as_text(rows: list[LeaderboardRow]) -> str:
    """The table for a terminal, one block a track."""
    names = ["date", "run", "bpb", "n", "std", "bytes", "technique"]
    lines = []
    for track, title in SECTIONS.items():
        cells = [
            [COLUMNS[name](row)[0] for name in names] for row in ranked(rows) if row.track == track
        ]
        if not cells:
            continue
        cells.insert(0, names)
        widths = [min(max(len(line[i]) for line in cells), 40) for i in range(len(names))]
        lines.append(f"{title} ({track})")
        for line in cells:
            padded = [
                word[:40].rjust(width) if name in NUMERIC else word[:40].ljust(width)
                for name, word, width in zip(names, line, widths, strict=True)
            ]
            padded[-1] = line[-1]
            lines.append("  " + "  ".join(padded).rstrip())
        lines.append("")
    return "\n".join(lines).rstrip()


def as_markdown(rows: list[LeaderboardRow], root: str = ".") -> str:
    """The table as Markdown, one section a track; root leads from the file to the repository."""
    names = ["run", "date", "bpb", "n", "std", "bytes", "compute", "technique"]
    lines = ["# Leaderboard"]
    for track, title in SECTIONS.items():
        own = [row for row in ranked(rows) if row.track == track]
        if not own:
            continue
        lines += ["", f"## {title}", "", "| " + " | ".join(names) + " |"]
        lines.append("|" + "|".join("---:" if name in NUMERIC else "---" for name in names) + "|")
        for row in own:
            cells = [COLUMNS[name](row)[0] for name in names]
            cells[-1] += f" ({row.note})" if row.note else ""
            cells = [re.sub(r"([\\|<>\[\]])", r"\\\1", cell) for cell in cells]
            cells[0] = f"[{cells[0]}]({link(row, root)})" if link(row, root) else cells[0]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def link(row: LeaderboardRow, root: str) -> str:
    """Where a row leads: our folder, upstream's pull request or folder; empty without."""
    if row.ours:
        return urllib.parse.quote(f"{root}/{row.folder}")
    if row.pr:
        return f"{UPSTREAM}/pull/{row.pr}"
    return f"{UPSTREAM}/tree/main/{urllib.parse.quote(row.folder)}" if row.folder else ""


# Page ---------------------------------------------------------------------------------------------

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --zebra: #f5f7f9; --record: #0b5cad; --side: #59636e; --other: #8a4600; --ours: #1a6b2f; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171a; --ink: #e8ebee; --soft: #a3adb8;
  --line: #363c43; --zebra: #1b1f24; --record: #78b4ff; --side: #a3adb8; --other: #f0a860;
  --ours: #6fd68a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: .4rem 0; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, figcaption, .key { color: var(--soft); margin: .3rem 0; }
a { color: var(--record); }
.charts { display: grid; gap: 1.5rem; margin-top: 1.5rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 380px), 1fr)); }
figure { margin: 0; min-width: 0; }
figure h2 { margin: 0; font-size: 1rem; }
figcaption { font-size: .85rem; min-height: 3em; overflow-wrap: anywhere; }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 13px; font-family: system-ui, sans-serif; }
svg .label { fill: var(--ink); font-weight: 600; }
.grid { stroke: var(--line); } .lead { stroke: var(--record); fill: none; stroke-width: 1.5;
  opacity: .6; } .limit { stroke: var(--soft); stroke-dasharray: 4 4; }
.mark { stroke: var(--ground); stroke-width: 1; cursor: pointer; }
.mark:hover, .mark.chosen { stroke: var(--ink); stroke-width: 2; }
.record { fill: var(--record); } .side { fill: var(--side); } .other { fill: var(--other); }
.ours { fill: var(--ours); }
.key span { display: inline-flex; align-items: center; gap: .35rem; margin-right: 1.1rem; }
.key svg { width: 14px; height: 14px; }
label { display: inline-block; margin: .3rem 0 .7rem; }
select { font: inherit; color: inherit; background: var(--ground); padding: .3rem .5rem;
  border: 1px solid var(--line); border-radius: 6px; }
.scroll { overflow-x: auto; border: 1px solid var(--line); border-radius: 8px; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top; }
td { border-top: 1px solid var(--line); } tbody tr:nth-child(even) { background: var(--zebra); }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.run { min-width: 8rem; max-width: 17rem; overflow-wrap: anywhere; }
td.technique { min-width: 16rem; } td.date { white-space: nowrap; }
th { padding: 0; background: var(--zebra); white-space: nowrap; }
th button { all: unset; box-sizing: border-box; width: 100%; padding: .5rem .6rem;
  cursor: pointer; font-weight: 600; }
th button::after { content: " \\2195"; color: var(--soft); font-weight: 400; }
th[aria-sort=ascending] button::after { content: " \\2191"; color: var(--ink); }
th[aria-sort=descending] button::after { content: " \\2193"; color: var(--ink); }
:focus-visible { outline: 2px solid var(--record); outline-offset: -2px; }
small { display: block; color: var(--soft); } .over { color: var(--other); font-weight: 600; }
"""

# Sorts and filters by the part of the address after #, so that a view can be linked to.
SCRIPT = """
const table = document.querySelector("table"), body = table.tBodies[0];
const heads = [...table.tHead.rows[0].cells], pick = document.querySelector("select");
function view() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const [name, way] = (asked.get("sort") || "bpb,asc").split(",");
  return { name, way: way === "desc" ? -1 : 1, track: asked.get("track") || "" };
}
function show() {
  const { name, way, track } = view();
  const at = Math.max(0, heads.findIndex((head) => head.dataset.name === name));
  const numeric = heads[at].classList.contains("number");
  const value = (row) => row.cells[at].dataset.value;
  const order = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");  // what is not known comes last
    return way * (numeric ? x - y : x.localeCompare(y, "en", { numeric: true }));
  };
  body.append(...[...body.rows].sort(order));
  for (const row of body.rows) row.hidden = track !== "" && row.dataset.track !== track;
  heads.forEach((head, i) => head.setAttribute("aria-sort",
    i !== at ? "none" : way > 0 ? "ascending" : "descending"));
  pick.value = track;
}
function go(change) {
  const { name, way, track } = { ...view(), ...change };
  location.hash = `sort=${name},${way > 0 ? "asc" : "desc"}` + (track ? `&track=${track}` : "");
}
heads.forEach((head) => head.firstElementChild.addEventListener("click", () => {
  const now = view(), name = head.dataset.name;
  go({ name, way: now.name === name ? -now.way : 1 });
}));
pick.addEventListener("change", () => go({ track: pick.value }));
addEventListener("hashchange", show);
document.querySelectorAll("figure").forEach((figure) => {
  const tell = (event) => {
    const mark = event.target.closest(".mark");
    if (!mark) return;
    figure.querySelectorAll(".chosen").forEach((other) => other.classList.remove("chosen"));
    mark.classList.add("chosen");
    figure.querySelector("figcaption").textContent = mark.querySelector("title").textContent;
  };
  figure.addEventListener("click", tell);
  figure.addEventListener("pointerover", tell);
});
show();
"""

WIDTH, HEIGHT = 460, 340
LEFT, RIGHT, TOP, BOTTOM = 56, 14, 14, 52
KINDS = {  # how a row is drawn, and what the key says
    "record": "took the lead when it came",
    "side": "a row beside it",
    "other": "not a record",
    "ours": "ours",
}


def kind_of(row: LeaderboardRow) -> str:
    if row.ours:
        return "ours"
    return "other" if row.status == "non-record" else row.status


def mark(kind: str, x: float, y: float, title: str) -> str:
    """One point: a circle, ring, diamond or square, so that colour is not all that tells them."""
    shapes = {
        "record": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>',
        "side": f'<rect x="{x - 4.5:.1f}" y="{y - 2:.1f}" width="9" height="4"/>',
        "other": f'<path d="M{x:.1f} {y - 6:.1f}l6 6l-6 6l-6-6z"/>',
        "ours": f'<rect x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10"/>',
    }
    about = f"<title>{html.escape(title)}</title>" if title else ""
    return f'<g class="mark {kind}">{about}{shapes[kind]}</g>'


def round_ticks(low: float, high: float) -> list[float]:
    """Three to eight round numbers from low to high."""
    rough = (high - low) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def chart(
    title: str, rows: list[LeaderboardRow], x_of, x_axis: dict, lead=False, limit=None
) -> str:
    """A figure: bpb against x_of(row), for the rows where both are known.

    x_axis: label, and ticks as {position: text} or a function that prints a round number.
    """
    points = [(x_of(row), row) for row in filter(is_comparable, rows) if x_of(row) is not None]
    if not points:
        return ""
    xs = [x for x, _ in points]
    ys = [row.bpb for _, row in points]

    def padded(values: list[float], below: float) -> tuple[float, float]:
        reach = max(values) - min(values) or 0.1 * abs(max(values)) or 1.0
        return min(values) - below * reach, max(values) + 0.05 * reach

    x_low, x_high = padded([*xs, *([limit] if limit else [])], 0.05)
    y_low, y_high = padded(ys, 0.14)  # room for the best one's name

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT)
        down = (y_high - y) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM)
        return LEFT + across, TOP + down

    ticks = x_axis["ticks"]
    if callable(ticks):
        ticks = {x: ticks(x) for x in round_ticks(x_low, x_high)}
    parts = []
    for y in round_ticks(y_low, y_high):
        line = at(x_low, y)[1]
        parts.append(f'<path class="grid" d="M{LEFT} {line:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{line + 4:.1f}" text-anchor="end">{y:.2f}</text>')
    for x, text in ticks.items():
        if x_low <= x <= x_high:
            place = at(x, y_low)[0]
            base = HEIGHT - BOTTOM
            parts.append(f'<path class="grid" d="M{place:.1f} {TOP}V{base}"/>')
            parts.append(
                f'<text x="{place:.1f}" y="{base + 18}" text-anchor="middle">{text}</text>'
            )
    middle = (LEFT + WIDTH - RIGHT) / 2
    label = html.escape(x_axis["label"])
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{label}</text>')
    centre = (TOP + HEIGHT - BOTTOM) / 2
    turned = f'transform="translate(13 {centre}) rotate(-90)" text-anchor="middle"'
    parts.append(f"<text {turned}>bits per byte (bpb), lower is better</text>")
    if limit:
        place = at(limit, y_low)[0]
        parts.append(f'<path class="limit" d="M{place:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{place - 5:.1f}" y="{TOP + 12}" text-anchor="end">cap</text>')
    if lead:
        parts.append(f'<path class="lead" d="{lead_path(points, at, x_high)}"/>')
    for x, row in sorted(points, key=lambda point: point[1].ours):
        parts.append(mark(kind_of(row), *at(x, row.bpb), about(row)))
    best = min(points, key=lambda point: point[1].bpb)
    place, line = at(best[0], best[1].bpb)
    side = ("end", -8) if place > WIDTH / 2 else ("start", 8)
    parts.append(
        f'<text class="label" x="{place + side[1]:.1f}" y="{line + 16:.1f}"'
        f' text-anchor="{side[0]}">{html.escape(best[1].name)} {best[1].bpb:.4f}</text>'
    )
    summary = html.escape(f"{title}: {len(points)} points; all of them are in the table below.")
    picture = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{summary}">'
    return (
        f"<figure><h2>{html.escape(title)}</h2>{picture}{''.join(parts)}</svg>"
        f"<figcaption>Point at a mark, or tap it, for its row.</figcaption></figure>"
    )


def lead_path(points: list, at, x_high: float) -> str:
    """The steps of the best score so far among the records."""
    path = ""
    best = math.inf
    for x, row in sorted(points, key=lambda point: (point[0], -point[1].bpb)):
        if row.status == "record" and row.bpb < best:
            across, down = at(x, row.bpb)
            path += f"H{across:.1f}V{down:.1f}" if path else f"M{across:.1f} {down:.1f}"
            best = row.bpb
    return path + f"H{at(x_high, best)[0]:.1f}" if path else ""


def about(row: LeaderboardRow) -> str:
    size = f", {row.bytes:,} bytes" if row.bytes else ""
    seeds = f", {len(row.seeds)} seed{'s' * (len(row.seeds) != 1)}" if row.seeds else ""
    return f"{row.name}: {row.bpb:.5f} bpb{size}, {compute(row)}{seeds}. {row.technique}"


def is_comparable(row: LeaderboardRow) -> bool:
    """Whether the charts show it: only scores on one text compare."""
    return row.is_fineweb


def day(row: LeaderboardRow) -> float | None:
    return float(datetime.date.fromisoformat(row.date).toordinal()) if row.date else None


def charts(rows: list[LeaderboardRow]) -> str:
    """The three figures."""
    days = [x for x in map(day, filter(is_comparable, rows)) if x is not None] or [1.0]
    spacing = max(1, round((max(days) - min(days)) / 5))
    dates = {
        float(x): datetime.date.fromordinal(x).strftime("%d %b" if spacing < 60 else "%b %Y")
        for x in range(int(min(days)), int(max(days)) + 1, spacing)
    }
    minutes = {math.log10(m): f"{m:,}" for m in (1, 10, 30, 100, 300, 1000, 3000, 10_000)}
    ten = [row for row in rows if row.track == "10min_8xh100" or row.ours]
    return "".join(
        (
            chart("Score over time", ten, day, {"label": "date", "ticks": dates}, lead=True),
            chart(
                "Score against size",
                rows,
                lambda row: row.bytes and row.bytes / 1e6,
                {"label": "code and artifact, millions of bytes", "ticks": lambda x: f"{x:g}"},
                limit=CAP_BYTES / 1e6,
            ),
            chart(
                "Score against training compute",
                rows,
                lambda row: row.gpu_minutes and math.log10(row.gpu_minutes),
                {"label": "GPU minutes, logarithmic (H100 or H200)", "ticks": minutes},
            ),
        )
    )


def as_html(rows: list[LeaderboardRow], as_of: str, root: str = ".") -> str:
    """The page: charts, key and table; one file that asks the network for nothing."""
    heads = "".join(
        f'<th scope="col" data-name="{name}" class="{"number" if name in NUMERIC else ""}">'
        f'<button type="button">{name}</button></th>'
        for name in COLUMNS
    )
    lines = []
    for row in sorted(rows, key=lambda row: row.bpb):
        cells = []
        for name, column in COLUMNS.items():
            content, value = column(row)
            content = html.escape(content)
            if name == "run":
                address = link(row, root)  # quoted: no character of it ends the attribute
                content = f'<a href="{address}">{content}</a>' if address else content
                content += "<small>ours</small>" if row.ours else ""
            if name == "bytes" and row.bytes and row.bytes > CAP_BYTES:
                content = f'<span class="over">{content}<small>over the cap</small></span>'
            if name == "technique" and row.note:
                content += f"<small>{html.escape(row.note)}</small>"
            kind = f"number {name}" if name in NUMERIC else name
            value = "" if value is None else html.escape(str(value))
            cells.append(f'<td class="{kind}" data-value="{value}">{content}</td>')
        lines.append(f'<tr data-track="{row.track}">{"".join(cells)}</tr>')
    picks = "".join(
        f'<option value="{track}">{html.escape(title)}</option>'
        for track, title in SECTIONS.items()
        if any(row.track == track for row in rows)
    )
    box = '<svg viewBox="0 0 14 14" aria-hidden="true">'
    key = "".join(
        f"<span>{box}{mark(kind, 7, 7, '')}</svg>{text}</span>" for kind, text in KINDS.items()
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<title>Parameter golf: leaderboard</title>
<style>{STYLE}</style>
</head>
<body>
<h1>Parameter golf: leaderboard</h1>
<p>Language models in 16,000,000 bytes of code and weights, by bits per byte on the FineWeb
validation text. {len(rows)} rows; upstream as of {html.escape(as_of)}.
Marks in the charts are scores on that text alone.</p>
<p class="key">{key}</p>
<div class="charts">{charts(rows)}</div>
<h2>Rows</h2>
<label>Track <select><option value="">all</option>{picks}</select></label>
<div class="scroll" tabindex="0" role="region" aria-label="table of rows">
<table>
<thead><tr>{heads}</tr></thead>
<tbody>
{chr(10).join(lines)}
</tbody>
</table>
</div>
<p>bpb: mean of n seeds, std: their sample deviation; bytes: of the largest seed known; compute: of
training. A sign &#8211; stands for what is not known.</p>
<script>{SCRIPT}</script>
</body>
</html>
"""


# Command ------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.submission.leaderboard", description=about)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the page there")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--records", type=Path, default=RECORDS, metavar="DIR", help="our folders")
    args = parser.parse_args(argv)
    records = args.records.resolve()
    try:
        if not records.is_dir():
            raise FileNotFoundError(f"--records {args.records} is no folder; give records/")
        rows = load_leaderboard()
        as_of = json.loads((RECORDS / "leaderboard.json").read_text(encoding="utf-8"))["as_of"]
        own, problems = read_own(records)
        rows += own
        for path, write in ((args.markdown, as_markdown), (args.html, as_html)):
            if path:
                root = Path(os.path.relpath(records.parent, path.resolve().parent)).as_posix()
                text = write(rows, root) if write is as_markdown else write(rows, as_of, root)
                write_atomic(path, text.encode())
    except (OSError, ValueError) as error:
        print(f"tools.submission.leaderboard: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(
            json.dumps({"as_of": as_of, "rows": [dataclasses.asdict(row) for row in ranked(rows)]})
        )
    elif not (args.markdown or args.html):
        print(as_text(rows))
    for problem in problems:
        print(f"tools.submission.leaderboard: {problem}", file=sys.stderr)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
