"""Read the training logs of the field, which are written by hundreds of scripts.

A log states many scores. The one that counts is found by this rule, and named in `score_reason`:

1. Of the scores that were computed from the artifact, after the last start that computed any: the
   most adapted kind (test-time training and other learning on scored text, before sliding windows,
   before plain blocks), of that kind the last, whether or not it is the lowest, and of the lines
   that print this evaluation the one with the most digits.
2. Never: a validation between steps, and what calls itself a diagnostic, pre-quantisation, an
   average before packing, a mean, a best, a bound. A name that says nothing (`val_bpb:1.2`) counts
   when the artifact's size is printed before it.
3. None: when nothing of rule 1 is there, when a traceback follows, and when the log ends within a
   later evaluation.

Example. Of these lines the third counts, because it is adapted to scored text:

    final_int8_zlib_roundtrip_exact val_loss:2.0606 val_bpb:1.2244
    final_sliding_window_exact val_loss:2.0101 val_bpb:1.1913
    legal_ttt_exact val_loss:2.0001 val_bpb:1.1871
    DIAGNOSTIC post_ema val_loss:1.9 val_bpb:1.1
"""

import math
import re
from collections import deque
from pathlib import Path
from typing import NamedTuple

from tools.runs.run_log import (
    CRASH,
    ERROR,
    Run,
    Scored,
    cuda_of_torch,
    read_lines,
    seed_of_name,
)

# Numbers ------------------------------------------------------------------------------------------

# The lengths are bounded: a line of 3,000 digits must not be tried from each of its places.
NUMBER = r"[-+]?\d[\d,_]{0,20}(?![\d,_])(?:\.\d{1,20})?(?:[eE][-+]?\d{1,3})?|[-+]?(?:nan|inf)\b"
# key:value, key=value, key (kind): value; a time has its unit: "eval_time: 61.2s". A key does not
# begin inside another word, so that "my.val_bpb:1" is one key and not two.
PAIR = re.compile(
    rf"(?<![\w./+-])(?P<key>[A-Za-z_][\w./+-]*)(?:[ \t]*\((?P<kind>[^()]*)\))?[ \t]*[:=][ \t]*"
    rf"(?P<number>{NUMBER})(?:[ \t]*(?P<unit>ms|s|sec|seconds|m|min|h)(?![\w:=/.]))?"
)
MILLISECONDS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3, "m": 6e4, "min": 6e4, "h": 3.6e6}


def as_number(text: str) -> float:
    """15_728_640 and 15,728,640 are the same number."""
    return float(text.replace(",", "").replace("_", ""))


def milliseconds(pair: re.Match) -> float:
    """A time in ms; without a unit its key tells it, and seconds are the field's habit."""
    unit = pair["unit"]
    if unit is None:
        unit = "ms" if pair["key"].lower().endswith("ms") else "s"
    return round(as_number(pair["number"]) * MILLISECONDS[unit], 3)


def as_setting(text: str):
    """A setting as Python has it: bool, int, float, None, or the text itself."""
    constants = {"True": True, "False": False, "None": None}
    if text in constants:
        return constants[text]
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text


# Kinds of lines -----------------------------------------------------------------------------------

# Upstream's script prints this before anything else, once for each process that writes the log.
START = re.compile(r"Running Python \d")
# Many scripts print their own source first. It ends at a ruler, a start or a step.
SOURCE_BEGINS = re.compile(r"from __future__ import|import \w+$|Source code:|#!/|\"\"\"")
RULER = re.compile(r"={60,}$")
# "step:3/9 …", "[iter 3] …", "Step 3: …"
STEP = re.compile(
    r"(?:\[?(?P<word>step|iter|iteration)\b[\s:=]*)?(?P<step>\d{1,12})"
    r"(?:\s*/\s*(?P<last>\d{1,12}))?\b[\]:,|]?\s+(?=\D)",
    re.IGNORECASE,
)
# "ttt_chunk [3/9]", "sliding_eval [ 5.0%]", "ttp: b7/782", "ttt:start"
EVALUATION_GOES_ON = re.compile(
    r"\s*\[?\w{0,40}(?:ttt|ttp|slid|gram|slot)\w*[\s:]+"
    r"(?:start\b|\[?\s*(?:batch |phase:)?[a-z]?\d+(?:\.\d+)?\s*[/%])",
    re.IGNORECASE,
)
# "eval 3/9 val_bpb:1.2" is a score on the way, of the part that has been scored so far.
PROGRESS = re.compile(r"\d\s*[/%]|running|chunk\b|\bbatch\b", re.IGNORECASE)
# "Total submission size int8+zlib: 15863489 bytes". Of logs that
# print megabytes alone, these count, rounded as they are.
SIZE = re.compile(
    r"(?P<label>serialized[_ ]model|total[_ ]submission[_ ]size|total[_ ](?:artifact[_ ])?size"
    r"|code[_ ]size|total[_ ]artifact|submission[_ ]size|total[_ ]bytes|artifact[_ ]bytes"
    r"|model[_ ]bytes|code[_ ]bytes|(?<!\w)\w{1,20} artifact|(?<!\w)artifact)"
    r"(?P<form>[^:=]{0,40})[:=]\s*"
    r"(?P<bytes>\d[\d,_]{0,17}(?![\d.]|\s*[MK]i?B)|\d{1,6}(?:\.\d{1,6})?(?=\s?(?P<unit>[MK]i?B)))",
    re.IGNORECASE,
)
BYTES_IN = {"b": 1, "kb": 1e3, "mb": 1e6, "kib": 1 << 10, "mib": 1 << 20}
PEAK_MEMORY = re.compile(r"peak memory allocated: (\d+) MiB")
# The row of a GPU in the table of nvidia-smi, which many scripts print.
DEVICE = re.compile(
    r"\|\s+\d+\s+((?:NVIDIA|Tesla|AMD|Quadro)\b[^|]*?)\s{2,}|gpu:(.+?) cuda:\S+$|\bdevice:(cpu)$"
)
VERSION = {
    "python": re.compile(r"(?:Running Python |python:)(\d[\w.]*)"),
    "torch": re.compile(r"(?:PyTorch[ :]+|(?<!\w)torch[ :=]+|pytorch_version[:=]\s*)(\d[\w.+]*)"),
    "cuda": re.compile(r"CUDA Version:\s*([\d.]+)|gpu:.* cuda:(\S+)$"),
}

# Once training began, a line without any of these says nothing that is read here. Logs have up to
# 100,000 such lines, and each of them would be tried against every pattern.
WORDS_OF_USE = (
    "loss bpb byte size seed tokens start stop trained error trace ttt ttp slid gram slot memory"
    " artifact step python preset: shards params world nvidia cuda torch killed segm interrupt"
    " exception === gpu: hyperparam"
).split() + ["import "]

# Keys ---------------------------------------------------------------------------------------------

BPB = re.compile(r"(?:\w*_)?bpb(?:_exact|_partial|_final)?|bits_per_byte", re.IGNORECASE)
PLAIN_BPB = ("val_bpb", "val_bpb_partial", "bpb")  # they add nothing to the name of a score
LOSS_KEYS = ("val_loss", "loss", "val_nll", "nll")
TIME_KEYS = ("eval_time", "time", "elapsed", "t", "eval_time_ms", "eval_ms", "eval_time_s")
TARGETS_KEYS = ("targets", "scored_targets", "scored_tokens")
BYTES_KEYS = ("bytes", "scored_bytes")
CURVE_KEYS = {  # a step line's key -> ours
    "train_loss": "train_loss",
    "loss": "train_loss",
    "val_loss": "val_loss",
    "val_bpb": "val_bpb",
    "val_bpb_partial": "val_bpb",
    "tok_s": "tok_s",
    "tok/s": "tok_s",
    "mfu": "mfu",
    "tokens": "tokens",
}
FACT_KEYS = {  # a key as printed -> ours; the first in a log counts
    "seed": "seed",
    "val_tokens": "val_tokens",
    "train_shards": "train_shards",
    "world_size": "world_size",
    "max_wallclock_seconds": "cap_seconds",
    "model_params": "model_params",
    "total_params": "model_params",
    "num_params": "model_params",
    "params": "model_params",
}
# "gptq: calibration data (64 seqs, seed=42)" says nothing of the seed of the training.
SEED_OF_ANOTHER_STAGE = re.compile("calib|gptq|self-gen|autoreg|ttt|eval", re.IGNORECASE)

# Kinds of scores, by their names ------------------------------------------------------------------

# A name that matches is not a score of the artifact, however low. Of averages (EMA, SWA) those
# count that were packed: "ema_int6" but not "ema".
NEVER = re.compile(
    r"(?<![a-z])(?:diag|unquant|pre[-_ ]?(?:quant|ttt|export)|post[-_ ]?ema|raw|unigram|before)"
    r"|(?<![a-z])best|(?<![a-z])(?:mean|avg|average|std|delta|gain|gap|target|baseline|sota|proxy"
    r"|subset|oracle|improvement)(?![a-z])|^(?:ema|swa|lawa)\b(?!.*(?:quant|int\d|trip))",
    re.IGNORECASE,
)
ADAPTED = re.compile(
    r"ttt|lora|slot|adapt|n-?gram|tilt|ppm|cache|knn|mixture|etlb|hedge|online|phased",
    re.IGNORECASE,
)
SLIDING = re.compile(r"slid|stride|window|(?:^|_|\b)sw(?:_|\b)|overlap", re.IGNORECASE)
PACKED = re.compile(
    r"final|quant|int\d|round_?trip|zlib|zstd|lzma|brotli|ternary|binary|artifact|submission"
    r"|score|post",
    re.IGNORECASE,
)
# The rank of a kind: the higher, the sooner it counts. 0: not a score of the artifact.
RANKS = {3: "adapted to scored text", 2: "by sliding windows", 1: "of the artifact"}


class Candidate(NamedTuple):
    """A score that may be the one that counts."""

    score: Scored
    rank: int  # a key of RANKS, or 0
    decimals: int  # with which its bpb is printed
    start: int  # how many starts of a process stand before it


class Size(NamedTuple):
    """A line on bytes: "Total submission size int8+zlib: 15863489 bytes"."""

    label: str  # "total submission size"
    form: str  # "int8+zlib"
    bytes: int


def rank_of(score: Scored, after_size: bool) -> int:
    """A key of RANKS, or 0 where the score is not known to be one of the artifact."""
    if score.val_bpb is None or not math.isfinite(score.val_bpb) or NEVER.search(score.name):
        return 0
    if ADAPTED.search(score.name):
        return 3
    if SLIDING.search(score.name):
        return 2
    if PACKED.search(score.name):
        return 1
    return 1 if after_size else 0


def score_of_line(
    number: int, line: str, name: str, bpb_pair: re.Match | None, by_key: dict[str, re.Match]
) -> Scored:
    """One score of a line, of its name, the pair with the bpb, and all of its pairs.

    A key that says which bpb it is, and a kind in brackets, become part of the name:
    "final ttt_bpb (sliding): 1.18" is the score "final ttt_bpb sliding".
    """

    def first(keys: tuple[str, ...]) -> re.Match | None:
        return next((by_key[key] for key in keys if key in by_key), None)

    def whole_number(keys: tuple[str, ...]) -> int | None:
        # Of several spellings on one line the last in the list is the most exact.
        counts = [by_key[key]["number"] for key in keys if key in by_key]
        return next((int(count) for count in reversed(counts) if count.isdigit()), None)

    loss = first(LOSS_KEYS)
    timed = first(TIME_KEYS)
    key = bpb_pair["key"].lower() if bpb_pair else ""
    parts = [name]
    if bpb_pair and key not in PLAIN_BPB:
        parts.append(bpb_pair["key"])
    if bpb_pair and bpb_pair["kind"]:
        parts.append(bpb_pair["kind"])
    return Scored(
        name=" ".join(part for part in parts if part),
        val_loss=as_number(loss["number"]) if loss else None,
        val_bpb=as_number(bpb_pair["number"]) if bpb_pair else None,
        is_partial="partial" in key,
        line=number,
        text=line,
        eval_time_ms=milliseconds(timed) if timed else None,
        targets=whole_number(TARGETS_KEYS),
        bytes=whole_number(BYTES_KEYS),
    )


# Reading ------------------------------------------------------------------------------------------


class LogReader:
    """What a log has told so far: read() takes its lines one by one."""

    def __init__(self):
        # The first of very many are forgotten: a log may print a score for each of its batches.
        self.candidates: deque[Candidate] = deque(maxlen=1000)
        self.curve: dict[int, dict] = {}  # by step
        self.facts: dict = {}
        self.sizes: list[Size] = []
        self.settings: dict = {}
        self.versions: dict[str, str] = {}
        self.starts = 0
        # A line's number and text:
        self.last = (0, "")
        self.crash: tuple[int, str] | None = None
        self.unfinished: tuple[int, str] | None = None  # an evaluation that goes on
        self.in_source = False
        self.in_settings = False

    def read(self, number: int, line: str) -> None:
        """Take one line: first what kind it is, then the facts that any line may hold."""
        if not line.strip():
            return
        self.last = (number, line)
        lower = line.lower()
        is_of_use = self.in_settings or any(word in lower for word in WORDS_OF_USE)
        if self.curve and not is_of_use:
            return
        start = START.match(line)
        is_step = "loss" in line and STEP.match(line)
        # A source that is printed holds lines that look like scores: f"val_bpb:{bpb}" does not, but
        # the comments and the expected values beside it do.
        if self.in_source and not (start or is_step or RULER.match(line)):
            return
        self.in_source = not start and bool(SOURCE_BEGINS.match(line))
        self.in_settings = self.in_settings and line.startswith(" ")

        if start:
            # What went wrong in the process before does not count.
            self.starts += 1
            self.crash = None
            self.unfinished = None
        elif CRASH.match(line):
            self.crash = self.crash or (number, line)
        elif self.crash and ERROR.match(line):
            self.crash = (self.crash[0], line)  # the error says more than "Traceback"
        elif self.in_settings and ":" in line:
            name, _, text = line.strip().partition(":")
            self.settings[name] = as_setting(text.strip())
        elif EVALUATION_GOES_ON.match(line):
            self.unfinished = (number, line)
        elif self.read_step(line) or self.read_score(number, line) or self.read_size(line):
            return
        self.read_facts(line)

    def read_start(self, start: re.Match) -> None:
        """A process starts: what went wrong in the one before does not count."""
        self.starts += 1
        self.crash = None
        self.unfinished = None
        if start["run_id"]:
            self.is_ours = True
            self.facts |= {"run_id": start["run_id"], "preset": start[3]}

    def read_step(self, line: str) -> bool:
        """Take a line of the curve; those of one step are put together."""
        head = STEP.match(line) if "loss" in line else None
        # A bare number in front is a step only with its last: "3/9 loss:2", not "3 loss:2".
        if not head or not (head["word"] or head["last"]):
            return False
        pairs = {pair["key"].lower(): pair for pair in PAIR.finditer(line, head.end())}
        if not pairs.keys() & {"train_loss", "val_loss", "loss"}:
            return False
        step = int(head["step"])
        if step <= 1 < max(self.curve, default=0):
            self.curve.clear()  # another training in the same log
        point = self.curve.setdefault(step, {"step": step, "train_time_ms": None})
        for key, name in CURVE_KEYS.items():
            if key in pairs:
                point[name] = as_number(pairs[key]["number"])
        for key in ("elapsed", "train_time"):
            if key in pairs:
                point["train_time_ms"] = milliseconds(pairs[key])
        if "val_bpb_partial" in pairs:
            point["is_partial"] = True
        return True

    def read_score(self, number: int, line: str) -> bool:
        """Take every score of a line."""
        if "bpb" not in line.lower() and "val_loss" not in line and "bits_per_byte" not in line:
            return False
        pairs = list(PAIR.finditer(line))
        bpb_pairs = [pair for pair in pairs if BPB.fullmatch(pair["key"])]
        # Of a key that stands there twice the first counts.
        by_key = {pair["key"].lower(): pair for pair in reversed(pairs)}
        if not bpb_pairs and "val_loss" not in by_key:
            return False
        name = line[: pairs[0].start()].strip(" \t:,|-(=>*#")
        # An evaluation under way must not end the log: if it does, a later score was cut off.
        if PROGRESS.search(name):
            self.unfinished = (number, line)
            return False

        for pair in bpb_pairs or [None]:
            score = score_of_line(number, line, name, pair, by_key)
            rank = rank_of(score, after_size=bool(self.sizes))
            decimals = len(pair["number"].partition(".")[2]) if pair else 0
            self.candidates.append(Candidate(score, rank, decimals, self.starts))
            if rank:
                # Whatever went wrong before, it went on to a score.
                self.unfinished = None
                self.crash = None
        return True

    def read_size(self, line: str) -> bool:
        """Take every number of bytes of a line."""
        sizes = list(SIZE.finditer(line))
        for size in sizes:
            label = size["label"].lower().replace("_", " ")
            form = size["form"].strip(" _").lower()
            unit = BYTES_IN[(size["unit"] or "B").lower()]
            self.sizes.append(Size(label, form, round(as_number(size["bytes"]) * unit)))
        return bool(sizes)

    def read_facts(self, line: str) -> None:
        """Take what is told once: settings, versions, counts, times."""
        if line.startswith("Hyperparameters:"):
            self.in_settings = True
        elif memory := PEAK_MEMORY.search(line):
            self.facts["peak_memory_mib"] = int(memory[1])
        if device := DEVICE.search(line):
            self.facts.setdefault("device", next(filter(None, device.groups())))
        for name, pattern in VERSION.items():
            if version := pattern.search(line):
                self.versions.setdefault(name, next(filter(None, version.groups())))
        if not self.curve:
            self.read_settings(line)
        for pair in PAIR.finditer(line):
            self.read_fact(line, pair)

    def read_settings(self, line: str) -> None:
        """Take a line that is nothing but name:value, as "train_seq_len:1024 iterations:20000"."""
        words = [word.partition(":") for word in line.split()]
        if all(name.isidentifier() for name, *_ in words):
            for name, colon, text in words:
                if colon and text:
                    self.settings[name] = as_setting(text)

    def read_fact(self, line: str, pair: re.Match) -> None:
        """Take one key and its number, if it is a fact of the run."""
        key = pair["key"].lower()
        number = pair["number"]
        # "seed:nan" and "params:-1" are not facts.
        name = FACT_KEYS.get(key) if number[0].isdigit() else None
        if name == "seed" and SEED_OF_ANOTHER_STAGE.search(line):
            name = None
        if name:
            if name == "seed" and self.candidates:
                self.starts += 1  # another run in the same log
                self.facts.pop("seed", None)
            self.facts.setdefault(name, as_number(number))
        # "tokens" alone may be anything; on these lines it is the validation split.
        elif key == "tokens" and line.lower().startswith(("val_loader", "val tokens")):
            self.facts.setdefault("val_tokens", as_number(number))
        elif line.startswith("stopping_early"):
            if key == "train_time":
                self.facts["train_time_ms"] = milliseconds(pair)
            elif key == "step":
                self.facts["steps"] = as_number(number)


# Choosing -----------------------------------------------------------------------------------------


class CountedScore(NamedTuple):
    """The score that counts, the reason, and the time that all evaluations took."""

    score: Scored | None
    reason: str
    eval_time_ms: float | None


def print_one_evaluation(candidate: Candidate, other: Candidate) -> bool:
    """Do two lines print the same evaluation, as far as their decimals tell?

    1.2244 and 1.22436570 do: they differ by less than half of the shorter one's last digit.
    """
    decimals = min(candidate.decimals, other.decimals)
    difference = abs(candidate.score.val_bpb - other.score.val_bpb)
    return decimals > 2 and difference <= 0.5001 * 10.0**-decimals


def group_evaluations(candidates: list[Candidate]) -> list[list[Candidate]]:
    """The lines, those of one evaluation together."""
    evaluations: list[list[Candidate]] = []
    for candidate in candidates:
        for lines in evaluations:
            if all(print_one_evaluation(candidate, other) for other in lines):
                lines.append(candidate)
                break
        else:
            evaluations.append([candidate])
    return evaluations


def choose(log: LogReader) -> CountedScore:
    """The score that counts by the rule above."""
    usable = [candidate for candidate in log.candidates if candidate.rank]
    if usable:
        last_start = usable[-1].start
        usable = [candidate for candidate in usable if candidate.start == last_start]
    evaluations = group_evaluations(usable)
    # Only one of the lines that print an evaluation may tell its time.
    times = [max(line.score.eval_time_ms or 0 for line in lines) for lines in evaluations]
    eval_time_ms = sum(times) or None

    def none(reason: str) -> CountedScore:
        return CountedScore(None, f"no score{reason}", eval_time_ms)

    number, line = log.last
    end = f"the log ends at line {number}: {line.strip()[:80]!r}"
    if log.crash:
        number, line = log.crash
        return none(f": crashed, line {number}: {line[:80]!r}")
    if log.unfinished and usable:
        number, line = log.unfinished
        return none(f": cut off in a later evaluation, line {number}: {line.strip()[:80]!r}")
    names = [repr(candidate.score.name) for candidate in log.candidates if not candidate.rank]
    not_counted = ", ".join(dict.fromkeys(names))
    if not usable:
        only = f", only {not_counted}" if not_counted else ""
        return none(f" of the artifact{only}; {end}")

    best_rank = max(candidate.rank for candidate in usable)
    of_best_rank = [lines for lines in evaluations if max(line.rank for line in lines) == best_rank]
    last = max(of_best_rank, key=lambda lines: max(line.score.line for line in lines))
    # The same number with more digits says more.
    chosen = max(last, key=lambda line: (line.decimals, line.rank, line.score.line)).score
    reason = f"line {chosen.line}, {chosen.name!r}: {RANKS[best_rank]}, the last of its kind"
    if len(evaluations) > 1:
        reason += f" among {len(evaluations)} evaluations of the artifact"
    if not_counted:
        reason += f"; never counted: {not_counted}"
    return CountedScore(chosen, reason, eval_time_ms)


def choose_sizes(sizes: list[Size]) -> tuple[int | None, int | None, int | None]:
    """Bytes of model, code and both, of the packed model, as the last lines on them say.

    A form tells the packed model from the raw one, which is not shipped:

        Serialized model: 67224983 bytes
        Code size: 47686 bytes
        Total submission size: 67272669 bytes
        Serialized model int8+zlib: 15815847 bytes
        Total submission size int8+zlib: 15863489 bytes

    gives (15815847, 47686, 15863489).
    """
    packed = [size.bytes for size in sizes if size.label == "model bytes"]
    packed += [size.bytes for size in sizes if size.label.startswith("serialized") and size.form]
    for size in sizes:
        if size.label.endswith(" artifact") and size.label != "total artifact":
            packed.append(size.bytes)
    raw = [size.bytes for size in sizes if size.label.startswith("serialized") and not size.form]
    codes = [
        size.bytes for size in sizes if "code" in size.label and "uncompressed" not in size.form
    ]
    sums_of_raw = {model + code for model in raw for code in [0, *codes]}

    totals = [size for size in sizes if size.label.startswith(("total", "submission"))]
    totals = [size for size in totals if size.bytes not in sums_of_raw]
    totals = [size for size in totals if size.form] or totals
    totals = totals or [size for size in sizes if size.label in ("artifact bytes", "artifact")]

    model_bytes = packed[-1] if packed else None
    total_bytes = totals[-1].bytes if totals else None
    # Of several sizes of the code the one counts that makes up the total.
    fitting = [code for code in codes if model_bytes and total_bytes == model_bytes + code]
    code_bytes = [*codes, *fitting][-1] if codes else None
    return model_bytes, code_bytes, total_bytes


def read_foreign_log(path: Path) -> Run:
    """What one log says.

    Raises: FileNotFoundError; ValueError, with the lines that were looked for, for a file that is
    not a training log.
    """
    log = LogReader()
    for number, line in read_lines(path):
        log.read(number, line)
    if not (log.candidates or log.curve or log.sizes):
        place = f"in {log.last[0]} lines" if log.last[0] else "in an empty file"
        forms = "'step:1/20000 train_loss:…', '… val_bpb:…', 'Total submission size …: N bytes'"
        raise ValueError(f"{path}: no line as {forms} {place}; give a training log")

    facts = log.facts
    settings = log.settings
    curve = [log.curve[step] for step in sorted(log.curve)]
    batch_tokens = settings.get("train_batch_tokens")
    if isinstance(batch_tokens, int):
        for point in curve:
            point.setdefault("tokens", point["step"] * batch_tokens)
    times = [point["train_time_ms"] for point in curve if point["train_time_ms"] is not None]
    cap_seconds = facts.get("cap_seconds", settings.get("max_wallclock_seconds"))
    cap_ms = 1000.0 * cap_seconds if isinstance(cap_seconds, int | float) else None
    if cuda := cuda_of_torch(log.versions.get("torch", "")):
        log.versions["cuda"] = cuda  # the driver may run a newer one

    def count(name: str) -> int | None:
        return int(facts[name]) if name in facts else None

    seed = count("seed")
    if seed is None:
        seed = settings.get("seed", seed_of_name(path))
    choice = choose(log)
    model_bytes, code_bytes, total_bytes = choose_sizes(log.sizes)
    return Run(
        path=path,
        run_id=settings.get("run_id"),
        seed=seed,
        score=choice.score,
        score_reason=choice.reason,
        scores=[candidate.score for candidate in log.candidates],
        steps=count("steps") if "steps" in facts else max(log.curve, default=None),
        train_time_ms=facts.get("train_time_ms", times[-1] if times else None),
        cap_ms=cap_ms,
        eval_time_ms=choice.eval_time_ms,
        model_bytes=model_bytes,
        code_bytes=code_bytes,
        total_bytes=total_bytes,
        val_tokens=count("val_tokens"),
        train_shards=count("train_shards"),
        model_params=count("model_params"),
        world_size=count("world_size"),
        device=facts.get("device"),
        versions=log.versions,
        settings=settings,
        overrides={},
        sources={},
        curve=curve,
        resumed=False,
        peak_memory_mib=count("peak_memory_mib"),
        data_note=None,
    )
