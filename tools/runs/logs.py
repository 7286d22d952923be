"""Read what a training log or a submission.json says, ours or the field's: the only parser here.

    python3 golf.py tools.runs.logs LOG_OR_FOLDER... [--json]

Exit status 0: every log has a score, 1: one has none, 2: something that is not a log.

A log states many scores. The one that counts is found by this rule, and named in `score_reason`:

1. Ours: the last `final` line, after the last start of the process. No such line, no score.
2. The field's: of the scores that were computed from the artifact, after the last start that
   computed any, the most adapted kind (test-time training and other learning on scored text,
   before sliding windows, before plain blocks), of that kind the last, whether or not it is the
   lowest, and of the lines that print this evaluation the one with the most digits.
3. Never: a validation between steps, and what calls itself a diagnostic, pre-quantisation, an
   average before packing, a mean, a best, a bound. A name that says nothing (`val_bpb:1.2`) counts
   when the artifact's size is printed before it.
4. None: when nothing of rule 2 is there, when a traceback follows, and when the log ends within a
   later evaluation.
"""

import argparse
import dataclasses
import json
import math
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# Names of training logs, the field's ten and ours; the last is taken where no other is found.
LOG_NAMES = (
    *("train.log", "train_*.log", "train*.txt", "seed*.log", "seed*.txt", "*_seed*.log"),
    *("run*.log", "log*.txt", "train*.log", "*seed*.txt"),
)
MAX_CHARS = 4_000  # of a line; longer ones are packed sources and garbage


@dataclass(frozen=True)
class Scored:
    """One score that a log states."""

    name: str  # as printed before the numbers: "final", "final_int8_zlib_roundtrip_exact"
    val_loss: float | None
    val_bpb: float | None
    is_partial: bool  # printed as val_bpb_partial
    line: int  # 1-based
    text: str  # that line
    eval_time_ms: float | None
    targets: int | None  # scored tokens
    bytes: int | None


@dataclass(frozen=True)
class Run:
    """One training run, as its log tells it; None where the log does not say."""

    path: Path  # the log
    run_id: str | None
    seed: int | None  # of the file's name where the log does not say
    score: Scored | None  # the one that counts
    score_reason: str  # which line was taken and why, for a person
    scores: list[Scored]  # all of them, in order, without those of the curve
    steps: int | None
    train_time_ms: float | None  # ours: until the artifact is on disk
    cap_ms: float | None  # 0: none
    eval_time_ms: float | None  # of all that was scored from the artifact, once each
    model_bytes: int | None
    code_bytes: int | None
    total_bytes: int | None
    val_tokens: int | None
    train_shards: int | None
    model_params: int | None
    world_size: int | None
    device: str | None  # "cpu", or the GPU's name
    versions: dict[str, str]  # python, torch, cuda
    settings: dict  # as printed
    overrides: dict[str, str]  # ours
    sources: dict[str, str]  # ours: file name -> sha256
    curve: list[dict]  # step, train_time_ms, and what there is of the fields in CURVE, and tokens
    resumed: bool  # ours
    peak_memory_mib: int | None
    data_note: str | None  # ours: how the data were checked
    preset: str | None = None  # ours: the system or preset that was trained

    def implied_bytes(self) -> float | None:
        """The bytes that the score's loss and bpb have been divided by; None without both."""
        score = self.score
        tokens = (score.targets if score else None) or self.val_tokens
        if not (score and score.val_loss and score.val_bpb and tokens):
            return None
        from evaluate import implied_bytes  # here, because torch takes seconds to load

        return implied_bytes(score.val_loss, score.val_bpb, tokens)


# Lines --------------------------------------------------------------------------------------------

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
# What launchers and loggers put in front of a line: times, ranks, levels.
FRONT = re.compile(
    r"""\s*(?:
      \[?\d{4}-\d\d-\d\d[T\ _]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?
    | \[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?
    | \[?(?:default|rank|worker|gpu)[\ _:]?\d+\]?(?=[:\s])
    | \[\d+,\d+\]<std\w+> | \(\w+\ pid=\d+[^)]*\) | \[\d+/\d+\](?=:)
    | \d{1,4}(?=:\s) | \[?(?:INFO|DEBUG|WARNING|root)\]?(?=[\s:|\]-])
    )\s*[:|,-]?\s*""",
    re.VERBOSE,
)
NUMBER = r"[-+]?\d[\d,_]{0,20}(?![\d,_])(?:\.\d{1,20})?(?:[eE][-+]?\d{1,3})?|[-+]?(?:nan|inf)\b"
PAIR = re.compile(  # key:value, key=value, key (kind): value; a time with its unit
    rf"(?<![\w./+-])([A-Za-z_][\w./+-]*)(?:[ \t]*\(([^()]*)\))?[ \t]*[:=][ \t]*({NUMBER})"
    r"(?:[ \t]*(ms|s|sec|seconds|m|min|h)(?![\w:=/.]))?"
)
STEP = re.compile(
    r"(?:\[?(step|iter|iteration)\b[\s:=]*)?(\d{1,12})(?:\s*/\s*(\d{1,12}))?\b[\]:,|]?\s+(?=\D)",
    re.IGNORECASE,
)
BPB = re.compile(r"(?:\w*_)?bpb(?:_exact|_partial|_final)?|bits_per_byte", re.IGNORECASE)
LOSS = ("val_loss", "loss", "val_nll", "nll")
TIMES = ("eval_time", "time", "elapsed", "t", "eval_time_ms", "eval_ms", "eval_time_s")
COUNTS = [(key, p + key) for key in ("targets", "bytes") for p in ("", "scored_")]
COUNTS += [("targets", "scored_tokens")]
CURVE = {  # a step line's key -> ours
    **{name: name for name in ("train_loss", "val_loss", "val_bpb", "tok_s", "mfu", "tokens")},
    **{"val_bpb_partial": "val_bpb", "tok/s": "tok_s", "loss": "train_loss"},
}
MS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3, "m": 6e4, "min": 6e4, "h": 3.6e6}

# Kinds of scores, by their names; the higher the number, the more of rule 2.
NEVER = re.compile(
    r"(?<![a-z])(?:diag|unquant|pre[-_ ]?(?:quant|ttt|export)|post[-_ ]?ema|raw|unigram|before)"
    r"|(?<![a-z])best|(?<![a-z])(?:mean|avg|average|std|delta|gain|gap|target|baseline|sota|proxy|subset|oracle"
    r"|improvement)(?![a-z])|^(?:ema|swa|lawa)\b(?!.*(?:quant|int\d|trip))",
    re.IGNORECASE,
)
ADAPTED = re.compile(
    r"ttt|lora|slot|adapt|n-?gram|tilt|ppm|cache|knn|mixture|etlb|hedge|online|phased", re.I
)
SLIDING = re.compile(r"slid|stride|window|(?:^|_|\b)sw(?:_|\b)|overlap", re.IGNORECASE)
PACKED = re.compile(
    r"final|quant|int\d|round_?trip|zlib|zstd|lzma|brotli|ternary|binary|artifact|submission"
    r"|score|post",
    re.I,
)
KINDS = {3: "adapted to scored text", 2: "by sliding windows", 1: "of the artifact"}


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Every line with its number, without escapes and what stands in front of the message.

    A line that was rewritten with carriage returns comes in its parts, under one number.
    """
    with open(path, "rb") as file:
        mark = file.read(2)
    encoding = "utf-16" if mark in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    with open(path, encoding=encoding, errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            for part in line.rstrip("\r\n").split("\r"):
                yield number, clean(part[:MAX_CHARS])


def clean(line: str) -> str:
    """The line without terminal escapes, times and ranks."""
    if "\x1b" in line:
        line = ESCAPE.sub("", line)
    while (front := FRONT.match(line)) and front.end() < len(line):
        line = line[front.end() :]
    return line.rstrip()


def as_number(text: str) -> float:
    return float(text.replace(",", "").replace("_", ""))


def milliseconds(key: str, text: str, unit: str) -> float:
    """A time in ms; without a unit its key tells it, and seconds are the field's habit."""
    unit = unit if unit in MS else "ms" if key.endswith("ms") else "s"
    return round(as_number(text) * MS[unit], 3)


def value_of(text: str):
    """A setting as Python has it: bool, int, float, None, or the text itself."""
    word = {"True": True, "False": False, "None": None}.get(text, text)
    for kind in (int, float):
        try:
            return kind(word) if isinstance(word, str) else word
        except ValueError:
            continue
    return word


# A log --------------------------------------------------------------------------------------------

START = re.compile(r"Running Python (\d[\d.]*)|run:(?:\S*[/\\])?(\S+) preset:(\S+)")
SOURCE_BEGINS = re.compile(r"from __future__ import|import \w+$|Source code:|#!/|\"\"\"")
RULER = re.compile(r"={60,}$")
CRASH = re.compile(
    r"Traceback \(most recent call last\)|.*ChildFailedError|Killed$|Segmentation fault"
)
ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b")
PROGRESS = re.compile(r"\d\s*[/%]|running|chunk\b|\bbatch\b", re.IGNORECASE)
UNDER_WAY = re.compile(  # "ttt_chunk [3/9]", "sliding_eval [ 5.0%]", "ttp: b7/782", "ttt:start"
    r"\s*\[?\w{0,40}(?:ttt|ttp|slid|gram|slot)\w*[\s:]+"
    r"(?:start\b|\[?\s*(?:batch |phase:)?[a-z]?\d+(?:\.\d+)?\s*[/%])",
    re.IGNORECASE,
)
WORTH = (  # once training began, a line without any of these says nothing that is read here
    *(
        "loss",
        "bpb",
        "byte",
        "size",
        "seed",
        "tokens",
        "start",
        "stop",
        "trained",
        "error",
        "trace",
    ),
    *("ttt", "ttp", "slid", "gram", "slot", "memory", "artifact", "step", "python", "preset:"),
    *("shards", "params", "world", "nvidia", "cuda", "torch"),
    *("killed", "segm", "interrupt", "exception", "===", "gpu:", "import ", "hyperparam"),
)
SIZE = re.compile(
    r"(?P<what>serialized[_ ]model|total[_ ]submission[_ ]size|total[_ ](?:artifact[_ ])?size"
    r"|code[_ ]size|total[_ ]artifact|submission[_ ]size|total[_ ]bytes|artifact[_ ]bytes"
    r"|model[_ ]bytes|code[_ ]bytes|(?<!\w)\w{1,20} artifact)(?P<form>[^:=]{0,40})[:=]\s*"
    r"(?P<bytes>\d[\d,_]{0,17})(?![\d.]|\s*[MK]i?B)",
    re.IGNORECASE,
)
FACTS = {  # a key as printed -> ours; the first in a log counts
    **{name: name for name in ("seed", "val_tokens", "train_shards", "model_params", "world_size")},
    **{"max_wallclock_seconds": "cap_seconds", "total_params": "model_params"},
    **{"num_params": "model_params", "params": "model_params"},
}
OTHER_SEED = re.compile("calib|gptq|self-gen|autoreg|ttt|eval", re.IGNORECASE)
PEAK_MEMORY = re.compile(r"peak memory allocated: (\d+) MiB")
GPU = re.compile(
    r"\|\s+\d+\s+((?:NVIDIA|Tesla|AMD|Quadro)\b[^|]*?)\s{2,}|gpu:(.+?) cuda:\S+$|\bdevice:(cpu)$"
)
VERSION = {
    "python": re.compile(r"(?:Running Python |python:)(\d[\w.]*)"),
    "torch": re.compile(r"(?:PyTorch[ :]+|(?<!\w)torch[ :=]+|pytorch_version[:=]\s*)(\d[\w.+]*)"),
    "cuda": re.compile(r"CUDA Version:\s*([\d.]+)|gpu:.* cuda:(\S+)$"),
}


class Reader:
    """What a log has said so far: read() takes its lines one by one."""

    def __init__(self):
        self.scores: deque[tuple] = deque(maxlen=1000)  # (Scored, kind, decimals, start)
        self.curve: dict[int, dict] = {}  # by step
        self.facts: dict = {}
        self.sizes: list[tuple[str, str, int]] = []  # what, of which form, bytes
        self.settings, self.overrides, self.sources, self.versions = {}, {}, {}, {}
        self.starts = 0
        self.last = (0, "")
        self.crash = self.under_way = None  # (line number, line)
        self.in_source = self.in_settings = self.is_ours = self.resumed = False

    def read(self, number: int, line: str) -> None:
        if not line.strip():
            return
        self.last = (number, line)
        lower = line.lower()
        if self.curve and not self.in_settings and not any(word in lower for word in WORTH):
            return
        start = START.match(line)
        trains = "loss" in line and STEP.match(line)
        if self.in_source and not (start or trains or RULER.match(line)):
            return
        self.in_source = not start and bool(SOURCE_BEGINS.match(line))
        self.in_settings &= line.startswith(" ")
        if start:
            self.starts += 1
            self.crash = self.under_way = None
            if start[2]:
                self.is_ours = True
                self.facts |= {"run_id": start[2], "preset": start[3]}
        elif CRASH.match(line):
            self.crash = self.crash or (number, line)
        elif self.crash and ERROR.match(line):
            self.crash = (self.crash[0], line)
        elif self.in_settings and ":" in line:
            name, _, text = line.strip().partition(":")
            self.settings[name] = value_of(text.strip())
        elif UNDER_WAY.match(line):
            self.under_way = (number, line)
        elif self.read_step(line) or self.read_score(number, line) or self.read_size(line):
            return
        self.read_facts(line)

    def read_step(self, line: str) -> bool:
        """Take a line of the curve; those of one step are put together."""
        found = STEP.match(line) if "loss" in line else None
        if not found or not (found[1] or found[3]):
            return False
        pairs = {m[1].lower(): (m[3], m[4] or "") for m in PAIR.finditer(line, found.end())}
        if not any(name in pairs for name in ("train_loss", "val_loss", "loss")):
            return False
        step = int(found[2])
        if step <= 1 < max(self.curve, default=0):
            self.curve.clear()  # another training in the same log
        point = self.curve.setdefault(step, {"step": step, "train_time_ms": None})
        for key, ours in CURVE.items():
            if key in pairs:
                point[ours] = as_number(pairs[key][0])
        for key in ("elapsed", "train_time"):
            if key in pairs:
                point["train_time_ms"] = milliseconds(key, *pairs[key])
        if "val_bpb_partial" in pairs:
            point["is_partial"] = True
        return True

    def read_score(self, number: int, line: str) -> bool:
        """Take every score of a line."""
        if "bpb" not in line.lower() and "val_loss" not in line and "bits_per_byte" not in line:
            return False
        found = list(PAIR.finditer(line))
        bpbs = [match for match in found if BPB.fullmatch(match[1])]
        pairs = {match[1].lower(): match for match in reversed(found)}
        if not bpbs and "val_loss" not in pairs:
            return False
        name = line[: found[0].start()].strip(" \t:,|-(=>*#")
        if PROGRESS.search(name):
            self.under_way = (number, line)
            return False
        loss = next((as_number(pairs[key][3]) for key in LOSS if key in pairs), None)
        timed = next((pairs[key] for key in TIMES if key in pairs), None)
        counts = {
            key: int(as_number(pairs[given][3]))
            for key, given in COUNTS
            if given in pairs and pairs[given][3].isdigit()
        }
        for match in bpbs or [None]:
            key = match[1].lower() if match else ""
            more = "" if key in ("", "val_bpb", "val_bpb_partial", "bpb") else match[1]
            kind_said = (match and match[2]) or ""
            score = Scored(
                name=" ".join(filter(None, (name, more, kind_said))),
                val_loss=loss,
                val_bpb=as_number(match[3]) if match else None,
                is_partial="partial" in key,
                line=number,
                text=line,
                eval_time_ms=milliseconds(timed[1], timed[3], timed[4] or "") if timed else None,
                targets=counts.get("targets"),
                bytes=counts.get("bytes"),
            )
            decimals = len(match[3].partition(".")[2]) if match else 0
            kind = kind_of(score, bool(self.sizes))
            self.scores.append((score, kind, decimals, self.starts))
            if kind:
                self.under_way = self.crash = None
        return True

    def read_size(self, line: str) -> bool:
        found = list(SIZE.finditer(line))
        for match in found:
            what = match["what"].lower().replace("_", " ")
            form = match["form"].strip(" _").lower()
            self.sizes.append((what, form, int(as_number(match["bytes"]))))
        return bool(found)

    def read_facts(self, line: str) -> None:
        """Take what is said once: settings, versions, counts, times."""
        if line.startswith("hparams {"):
            self.settings = json.loads(line.removeprefix("hparams "))
        elif line.startswith("overrides "):
            self.overrides = dict(re.findall(r"([A-Z_0-9]+)=(.*?)(?= [A-Z_0-9]+=|$)", line))
        elif source := re.fullmatch(r"source (\S+) sha256:([0-9a-f]{64})", line):
            self.sources[source[1]] = source[2]
        elif line.startswith("Hyperparameters:"):
            self.in_settings = True
        elif memory := PEAK_MEMORY.search(line):
            self.facts["peak_memory_mib"] = int(memory[1])
        elif resumed := re.match(r"resumed step:(\d+)", line):
            self.resumed = True
            self.curve = {k: point for k, point in self.curve.items() if k <= int(resumed[1])}
        elif line.startswith(("data verified", "warning: ")) and not self.curve:
            self.facts.setdefault("data_note", line)
        if gpu := GPU.search(line):
            self.facts.setdefault("device", next(filter(None, gpu.groups())))
        for name, pattern in VERSION.items():
            if found := pattern.search(line):
                self.versions.setdefault(name, next(filter(None, found.groups())))
        words = [word.partition(":") for word in line.split()]
        if not (self.curve or self.is_ours) and all(name.isidentifier() for name, *_ in words):
            self.settings |= {name: value_of(text) for name, colon, text in words if colon and text}
        for found in PAIR.finditer(line):
            key, value = found[1].lower(), found[3]
            ours = FACTS.get(key) if value[0].isdigit() else None
            if ours and not (ours == "seed" and OTHER_SEED.search(line)):
                if ours == "seed" and self.scores:
                    self.starts += 1  # another run in the same log
                    self.facts.pop("seed", None)
                self.facts.setdefault(ours, as_number(value))
            elif key == "tokens" and line.lower().startswith(("val_loader", "val tokens")):
                self.facts.setdefault("val_tokens", as_number(value))
            elif line.startswith(("stopping_early", "trained ")):
                if key in ("train_time", "cap"):
                    self.facts[f"{key}_ms"] = milliseconds(key, value, found[4] or "")
                elif key in ("step", "steps"):
                    self.facts["steps"] = as_number(value)


def kind_of(score: Scored, after_size: bool) -> int:
    """A key of KINDS, or 0 for what is not, or not known to be, a score of the artifact."""
    if score.val_bpb is None or not math.isfinite(score.val_bpb) or NEVER.search(score.name):
        return 0
    for kind, pattern in ((3, ADAPTED), (2, SLIDING), (1, PACKED)):
        if pattern.search(score.name):
            return kind
    return int(after_size)


def choose(log: Reader) -> tuple[Scored | None, str, float | None]:
    """The score that counts by the rule above, why, and the time all evaluations took, in ms."""
    number, line = log.last
    end = f"the log ends at line {number}: {line.strip()[:80]!r}"
    usable = [row for row in log.scores if row[1]]
    usable = [row for row in usable if row[3] == usable[-1][3]]  # of the last start that has one
    if log.is_ours:
        usable = [row for row in usable if row[3] == log.starts]
    evaluations: list[list] = []  # of lines that print the same one
    for row in usable:
        for lines in evaluations:
            if all(agree(row, other) for other in lines):
                lines.append(row)
                break
        else:
            evaluations.append([row])
    times = [max(row[0].eval_time_ms or 0 for row in lines) for lines in evaluations]
    eval_time_ms = sum(times) or None
    if log.crash:
        return None, f"no score: crashed, line {log.crash[0]}: {log.crash[1][:80]!r}", eval_time_ms
    if log.is_ours:
        final = [row[0] for row in usable if row[0].name == "final"]
        if not final:
            return None, f"no score: no final line; {end}", eval_time_ms
        return final[-1], f"line {final[-1].line}: the last final line of this run", eval_time_ms
    if log.under_way and usable:
        number, line = log.under_way
        why = f"no score: cut off in a later evaluation, line {number}: {line.strip()[:80]!r}"
        return None, why, eval_time_ms
    left = ", ".join(dict.fromkeys(repr(row[0].name) for row in log.scores if not row[1]))
    if not usable:
        return None, f"no score of the artifact{left and f', only {left}'}; {end}", eval_time_ms
    best = max(row[1] for row in usable)
    kept = [lines for lines in evaluations if max(row[1] for row in lines) == best]
    last = max(kept, key=lambda lines: max(row[0].line for row in lines))
    score, _, decimals, _ = max(last, key=lambda row: (row[2], row[1], row[0].line))
    why = f"line {score.line}, {score.name!r}: {KINDS[best]}, the last of its kind"
    why += f" among {len(evaluations)} evaluations of the artifact" * (len(evaluations) > 1)
    why += left and f"; never counted: {left}"
    return score, why, eval_time_ms


def agree(row: tuple, other: tuple) -> bool:
    """Whether two lines print one evaluation, as far as their decimals tell."""
    decimals = min(row[2], other[2])
    return decimals > 2 and abs(row[0].val_bpb - other[0].val_bpb) <= 0.5001 * 10.0**-decimals


def choose_sizes(sizes: list[tuple[str, str, int]]) -> tuple[int | None, int | None, int | None]:
    """Bytes of model, code and both, of the packed model, as the last lines on them say."""
    model = [n for what, form, n in sizes if what == "model bytes"]
    model += [n for what, form, n in sizes if what.startswith("serialized") and form]
    raw = [n for what, form, n in sizes if what.startswith("serialized") and not form]
    codes = [n for what, form, n in sizes if "code" in what and "uncompressed" not in form]
    model += [n for what, _, n in sizes if what.endswith(" artifact") and what != "total artifact"]
    totals = [n for what, form, n in sizes if what.startswith(("total", "submission")) and form]
    totals = [n for n in totals if not any(n == r + c for r in raw for c in [0, *codes])]
    if not totals:
        totals = [n for what, form, n in sizes if what.startswith(("total", "submission"))]
        totals = [n for n in totals if not any(n == r + c for r in raw for c in [0, *codes])]
    totals = totals or [n for what, _, n in sizes if what == "artifact bytes"]
    total, packed = totals[-1] if totals else None, model[-1] if model else None
    fitting = [n for n in codes if packed and total == packed + n]
    return packed, [*codes, *fitting][-1] if codes else None, total


def read_log(path: str | Path) -> Run:
    """Return what one log says.

    Raises: FileNotFoundError; ValueError, with what was looked for, where it is no log at all.
    """
    path, log = Path(path), Reader()
    for number, line in read_lines(path):
        log.read(number, line)
    if not (log.scores or log.curve or log.sizes or log.is_ours):
        where = f"in {log.last[0]} lines" if log.last[0] else "in an empty file"
        looked = "'step:1/20000 train_loss:…', '… val_bpb:…', 'Total submission size …: N bytes'"
        raise ValueError(f"{path}: no line as {looked} {where}; give a training log")
    facts, (score, why, eval_time_ms) = log.facts, choose(log)
    in_name = re.search(r"(?:seed|(?<![a-z])s)[_-]?(\d+)", path.stem)
    batch_tokens = log.settings.get("train_batch_tokens")
    curve = [log.curve[step] for step in sorted(log.curve)]
    for point in curve:
        if isinstance(batch_tokens, int):
            point.setdefault("tokens", point["step"] * batch_tokens)
    timed = [point["train_time_ms"] for point in curve if point["train_time_ms"] is not None]
    model_bytes, code_bytes, total_bytes = choose_sizes(log.sizes)
    if cuda := re.search(r"\+cu(\d+)(\d)$", log.versions.get("torch", "")):
        log.versions["cuda"] = f"{cuda[1]}.{cuda[2]}"

    def count(name: str) -> int | None:
        return int(facts[name]) if name in facts else None

    cap_seconds = facts.get("cap_seconds", log.settings.get("max_wallclock_seconds"))
    cap_seconds = cap_seconds if isinstance(cap_seconds, int | float) else None
    return Run(
        path=path,
        run_id=facts.get("run_id") or log.settings.get("run_id"),
        seed=count("seed")
        if "seed" in facts
        else log.settings.get("seed", in_name and int(in_name[1])),
        score=score,
        score_reason=why,
        scores=[row[0] for row in log.scores],
        steps=count("steps") if "steps" in facts else max(log.curve, default=None),
        train_time_ms=facts.get("train_time_ms", timed[-1] if timed else None),
        cap_ms=facts.get("cap_ms", None if cap_seconds is None else 1000.0 * cap_seconds),
        eval_time_ms=eval_time_ms,
        model_bytes=model_bytes,
        code_bytes=code_bytes,
        total_bytes=total_bytes,
        val_tokens=count("val_tokens"),
        train_shards=count("train_shards"),
        model_params=count("model_params"),
        world_size=count("world_size"),
        device=facts.get("device"),
        versions=log.versions,
        settings=log.settings,
        overrides=log.overrides,
        sources=log.sources,
        curve=curve,
        resumed=log.resumed,
        peak_memory_mib=count("peak_memory_mib"),
        data_note=facts.get("data_note"),
        preset=facts.get("preset"),
    )


def find_logs(folder: str | Path) -> list[Path]:
    """The training logs of a run or record folder, or of its logs/, in natural order, no copies.

    Any *.log is taken where none has a name that the field gives to training logs.
    """
    for names in (LOG_NAMES, ("*.log",)):
        for place in (Path(folder), Path(folder) / "logs"):
            found = {path for name in names for path in place.glob(name) if path.is_file()}
            texts = {path: path.read_bytes() for path in found}
            order = sorted(
                found,
                key=lambda p: [int(w) if w.isdigit() else w for w in re.split(r"(\d+)", p.name)],
            )
            logs = [p for i, p in enumerate(order) if texts[p] not in [texts[q] for q in order[:i]]]
            if logs:
                return logs
    return []


def read_runs(path: str | Path) -> list[Run]:
    """The runs of a log, of a run's folder or id, or of a record folder.

    Raises: FileNotFoundError where there is no log; ValueError for a file that is none.
    """
    path = Path(path)
    if path.is_file():
        return [read_log(path)]
    folder = path if path.is_dir() else Path("logs") / path
    if not (logs := find_logs(folder)):
        raise FileNotFoundError(f"no log in {folder}; looked for {', '.join(LOG_NAMES)}")
    return [read_log(log) for log in logs]


# submission.json ----------------------------------------------------------------------------------

KEYS = {  # our name -> the keys it is read from, the best first
    "name": ("name", "run_name", "title", "submission_name"),
    "author": ("author", "authors", "author_name"),
    "github_id": ("github_id", "github", "github_username", "github_handle"),
    "date": ("date", "submission_date", "timestamp"),
    "track": ("track",),
    "val_bpb": ("val_bpb", "mean_val_bpb", "val_bpb_mean", "mean_bpb", "sliding_val_bpb", "bpb"),
    "val_loss": ("val_loss", "mean_val_loss", "val_loss_mean", "val_loss_nats"),
    "bytes_total": (
        *("bytes_total", "total_bytes", "artifact_bytes_max", "artifact_bytes"),
        *("artifact_size_bytes", "submission_bytes", "artifact_bytes_mean", "artifact_size"),
    ),
    "bytes_code": ("bytes_code", "code_bytes", "code_size_bytes", "bytes_code_max"),
    "hardware": ("hardware", "gpu", "gpus", "device"),
    "seeds": ("seed_results", "seeds", "per_seed", "results_per_seed", "per_seed_results", "runs"),
}
SEED_KEYS = {  # of one seed's results; milliseconds become seconds
    "val_bpb": ("val_bpb", "ttt_val_bpb", "bpb", "val_bpb_exact", "ttt_bpb", "sliding_val_bpb"),
    "val_loss": ("val_loss", "val_loss_nats", "ttt_val_loss", "loss"),
    "artifact_bytes": ("artifact_bytes", "bytes_total", "total_bytes", "artifact_size_bytes"),
    "steps": ("steps", "step_stop", "stop_step", "step", "train_steps"),
    "train_time_s": ("train_time_s", "train_seconds", "wallclock_seconds", "train_wallclock_s"),
    "eval_time_s": ("eval_time_s", "eval_seconds", "ttt_eval_time_s", "eval_wallclock_s"),
    "train_time_ms": ("train_time_ms", "train_wallclock_ms"),
    "eval_time_ms": ("eval_time_ms", "ttt_time_ms", "ttt_eval_time_ms"),
}


@dataclass(frozen=True)
class Submission:
    """A submission.json, its variants brought to one form; None where it does not say."""

    path: Path
    raw: dict
    name: str | None
    author: str | None
    github_id: str | None
    date: str | None
    track: str | None
    val_bpb: float | None
    val_loss: float | None
    seeds: dict[int, dict]  # seed -> what there is of SEED_KEYS
    bytes_total: int | None
    bytes_code: int | None
    hardware: str | None
    keys_used: dict[str, str]  # our name -> the key it was read from


def read_submission(path: str | Path) -> Submission:
    """Return what a submission.json, or a folder that holds one, says.

    Raises: FileNotFoundError; ValueError naming path, position and remedy for bad JSON.
    """
    path = Path(path)
    path = path / "submission.json" if path.is_dir() else path
    try:
        raw = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"{path}: {where}: {error.msg}; mend it, or write it again") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: holds a {type(raw).__name__}; must be one object {{…}}")
    used = {}

    def pick(ours: str, kind):
        for key in KEYS[ours]:
            if (value := as_kind(raw.get(key), kind)) is not None:
                used[ours] = key
                return value
        return None

    found = {ours: pick(ours, str) for ours in ("name", "author", "github_id", "date", "track")}
    found |= {ours: pick(ours, float) for ours in ("val_bpb", "val_loss")}
    found |= {ours: pick(ours, int) for ours in ("bytes_total", "bytes_code")}
    seeds = {}
    for key in KEYS["seeds"]:
        if seeds := read_seeds(raw.get(key)):
            used["seeds"] = key
            break
    names, scores = raw.get("seeds"), raw.get("seed_scores")
    if not seeds and isinstance(names, list) and isinstance(scores, list):
        seeds, used["seeds"] = read_seeds(dict(zip(names, scores, strict=False))), "seed_scores"
    return Submission(
        path=path, raw=raw, seeds=seeds, hardware=pick("hardware", str), keys_used=used, **found
    )


def as_kind(value, kind):
    """The value as text, float or int; None for what is not one. True is no number."""
    if kind is str:
        text = ", ".join(map(str, value)) if isinstance(value, list) else value
        return str(text) if isinstance(text, str | int) and text != "" else None
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d[\d,_]*(?:\.\d+)?)\s*(?:bytes|bpb)?\s*", value)
        value = as_number(match[1]) if match else None
    if not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return kind(value) if kind is float or value == int(value) else None


def read_seeds(results) -> dict[int, dict]:
    """Results by seed, from a dict by seed or a list of dicts with the seed in them."""
    if isinstance(results, dict):
        rows = [(name, row) for name, row in results.items()]
    elif isinstance(results, list):
        rows = [(row.get("seed"), row) for row in results if isinstance(row, dict)]
    else:
        return {}
    seeds = {}
    for name, row in rows:
        seed = re.fullmatch(r"(?:seed[_ -]?)?(\d+)", str(name).lower())
        row = {"val_bpb": row} if isinstance(row, int | float) else row
        if not seed or not isinstance(row, dict):
            continue
        values = {}
        for ours, keys in SEED_KEYS.items():
            kind = int if ours in ("artifact_bytes", "steps") else float
            found = [as_kind(row.get(key), kind) for key in keys]
            values[ours] = next((value for value in found if value is not None), None)
        for name in ("train_time", "eval_time"):
            ms = values.pop(f"{name}_ms")
            if values[f"{name}_s"] is None and ms is not None:
                values[f"{name}_s"] = ms / 1000
        seeds[int(seed[1])] = {k: v for k, v in values.items() if v is not None}
    return seeds


# Command ------------------------------------------------------------------------------------------


def to_json(run: Run) -> str:
    """All fields as one line of JSON; a number that is not finite becomes null."""

    def plain(value):
        if isinstance(value, dict):
            return {str(key): plain(item) for key, item in value.items()}
        if isinstance(value, list):
            return [plain(item) for item in value]
        if isinstance(value, float) and not math.isfinite(value):
            return None
        return str(value) if isinstance(value, Path) else value

    return json.dumps(plain(dataclasses.asdict(run)))


def describe(run: Run) -> str:
    """A few lines for a person."""
    score = f"{run.score.val_bpb:.8f}" if run.score else "none"
    partial = " (not the whole validation split)" if run.score and run.score.is_partial else ""
    facts = {
        "seed": run.seed,
        "steps": run.steps,
        "train_s": run.train_time_ms and round(run.train_time_ms / 1000, 1),
        "eval_s": run.eval_time_ms and round(run.eval_time_ms / 1000, 1),
        "total_bytes": run.total_bytes,
        "params": run.model_params,
        "gpus": run.world_size,
        "device": run.device,
        "torch": run.versions.get("torch"),
    }
    known = "  ".join(f"{name}:{value}" for name, value in facts.items() if value is not None)
    return f"{run.path}\n  bpb {score}{partial}  {run.score_reason}\n  {known}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.runs.logs", description=__doc__.splitlines()[0])
    parser.add_argument("paths", nargs="+", metavar="LOG_OR_FOLDER", help="or a run id")
    parser.add_argument("--json", action="store_true", help="one line of JSON a run")
    args = parser.parse_args(argv)
    status = 0
    for path in args.paths:
        try:
            runs = read_runs(path)
        except (OSError, ValueError) as error:
            print(f"tools.runs.logs: {error}", file=sys.stderr)
            status = 2
            continue
        for run in runs:
            print(to_json(run) if args.json else describe(run))
            status = max(status, int(run.score is None))
    return status


if __name__ == "__main__":
    sys.exit(main())
