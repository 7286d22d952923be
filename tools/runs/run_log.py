"""What a training log is read into, and its text as the readers take it.

Our own logs and the field's have a reader each (tools.runs.logs, tools.runs.foreign_logs); both end
in a Run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_CHARS = 4_000  # of a line that are read; longer ones are packed sources and garbage


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
    scheme: str = ""  # how targets were read, in words; empty where the log does not say


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
    curve: list[dict]  # step, train_time_ms, and what a line says of loss, bpb, speed, tokens
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
        from tools.legality.probes import implied_bytes  # here, because torch takes seconds to load

        return implied_bytes(score.val_loss, score.val_bpb, tokens)


CRASH = re.compile(
    r"Traceback \(most recent call last\)|.*ChildFailedError|Killed$|Segmentation fault"
)
ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Interrupt)\b")
TERMINAL_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
# What launchers and loggers put in front of a line: times, ranks, levels.
FRONT = re.compile(
    r"""\s*(?:
      \[?\d{4}-\d\d-\d\d[T\ _]\d\d:\d\d(?::\d\d)?(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?\]?
    | \[?\d\d:\d\d:\d\d(?:[.,]\d+)?\]?
    | \d{10}\.\d{1,9}(?=\s)
    | \[?(?:default|rank|worker|gpu)[\ _:]?\d+\]?(?=[:\s])
    | \[\d+,\d+\]<std\w+> | \(\w+\ pid=\d+[^)]*\) | \[\d+/\d+\](?=:)
    | \d{1,4}(?=:\s) | \[?(?:INFO|DEBUG|WARNING|root)\]?(?=[\s:|\]-])
    )\s*[:|,-]?\s*""",
    re.VERBOSE,
)


def cuda_of_torch(version: str) -> str:
    """The CUDA that a torch was built for: of "2.9.1+cu128" it is "12.8"; empty without one."""
    built_for = re.search(r"\+cu(\d+)(\d)$", version)
    return f"{built_for[1]}.{built_for[2]}" if built_for else ""


def seed_of_name(path: Path) -> int | None:
    """The seed in a log's name: train_seed42.log has 42."""
    seed = re.search(r"(?:seed|(?<![a-z])s)[_-]?(\d+)", path.stem)
    return int(seed[1]) if seed else None


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
    """The line without terminal escapes, times and ranks.

    clean("[2026-03-20 10:15:02] rank0: step:3/9 loss:2.1") is "step:3/9 loss:2.1".
    """
    if "\x1b" in line:
        line = TERMINAL_ESCAPE.sub("", line)
    # Several may stand in a row. A line that is nothing else is kept as it is.
    while (front := FRONT.match(line)) and front.end() < len(line):
        line = line[front.end() :]
    return line.rstrip()
