"""Read a log of this toolkit, by the definitions that it was written with (engine/log_lines.py).

The score that counts is the last `final` line, after the last start of the process. Without such a
line there is no score.
"""

import json
import re
from pathlib import Path

from engine import log_lines
from tools.runs.run_log import CRASH, ERROR, Run, Scored, cuda_of_torch, read_lines, seed_of_name

PARTIAL = "val_bpb_partial"  # the metric of a score that is not of a complete validation split
DATA_NOTES = ("data verified", "warning: ")  # how the data were checked, before training


class OwnLog:
    """What a log has told so far: read() takes its lines one by one."""

    def __init__(self):
        self.run: dict = {}  # the fields of the last line that starts a process
        self.facts: dict = {}  # the fields of all lines that are written once
        self.settings: dict = {}
        self.overrides: dict[str, str] = {}
        self.sources: dict[str, str] = {}
        self.curve: dict[int, dict] = {}  # by step
        self.scores: list[Scored] = []  # of all processes
        self.final: Scored | None = None  # of the last process
        self.scheme = ""  # of the last score
        self.eval_times_ms: list[int] = []  # of the last process
        self.resumed = False
        self.data_note: str | None = None
        self.crash: tuple[int, str] | None = None  # a line's number and text
        self.last = (0, "")

    def read(self, number: int, line: str) -> None:
        """Take one line; lines of other programs are passed over."""
        if not line.strip():
            return
        self.last = (number, line)
        if self.read_start(line) or self.read_curve(line) or self.read_score(number, line):
            return
        if CRASH.match(line):
            self.crash = self.crash or (number, line)
        elif self.crash and ERROR.match(line):
            self.crash = (self.crash[0], line)  # the error says more than "Traceback"
        # Once training has begun, a warning is about something else.
        elif line.startswith(DATA_NOTES) and not self.curve and self.data_note is None:
            self.data_note = line
        else:
            self.read_facts(line)

    def read_start(self, line: str) -> bool:
        """A process starts: what happened in the one before does not count."""
        run = log_lines.RUN.read(line)
        if run is None:
            return False
        self.run = run
        # The artifact may have been packed anew: scores of an earlier process are not of this one.
        self.final = None
        self.eval_times_ms = []
        self.crash = None
        return True

    def read_curve(self, line: str) -> bool:
        """Take a training step or a validation; both of one step are put together."""
        step = log_lines.STEP.read(line)
        validation = log_lines.VALIDATION.read(line)
        if step:
            point = self.point(step["step"])
            point["train_loss"] = step["train_loss"]
            point["train_time_ms"] = step["train_ms"]
            point["tok_s"] = step["tokens_s"]
            if step["mfu"] != "unknown":
                point["mfu"] = float(step["mfu"])
        elif validation:
            point = self.point(validation["step"])
            point["val_loss"] = validation["val_loss"]
            point["val_bpb"] = validation["bpb"]
            if validation["metric"] == PARTIAL:
                point["is_partial"] = True
        elif resumed := log_lines.RESUMED.read(line):
            self.resumed = True
            # The steps after the checkpoint are trained again.
            self.curve = {
                number: point for number, point in self.curve.items() if number <= resumed["step"]
            }
        else:
            return False
        return True

    def point(self, step: int) -> dict:
        if step <= 1 < max(self.curve, default=0):
            self.curve.clear()  # killed before its first checkpoint, the run began again
        return self.curve.setdefault(step, {"step": step, "train_time_ms": None})

    def read_score(self, number: int, line: str) -> bool:
        """Take a score of the artifact, or of the unigram distribution beside it."""
        for name, kind in (
            ("score", log_lines.SCORE),
            ("unigram", log_lines.UNIGRAM),
            ("final", log_lines.FINAL),
        ):
            fields = kind.read(line)
            if fields is None:
                continue
            if name == "score":
                self.scheme = self.scheme_of(fields)  # also of the final line that repeats it
            score = Scored(
                name=f"score mode:{fields['mode']}" if name == "score" else name,
                val_loss=fields["val_loss"],
                val_bpb=fields["bpb"],
                is_partial=fields["metric"] == PARTIAL,
                line=number,
                text=line,
                eval_time_ms=fields.get("eval_ms"),
                targets=fields.get("targets"),
                bytes=fields.get("bytes"),
                scheme=self.scheme,
            )
            self.scores.append(score)
            if name == "score":
                self.eval_times_ms.append(fields["eval_ms"])
            elif name == "final":
                self.final = score
                self.crash = None
            return True
        return False

    def scheme_of(self, score: dict) -> str:
        """How a score's targets were read, in words, from the fields of its line."""
        stride = score["stride"]
        words = f"documents by {stride}" if score["isolate"] else f"sliding by {stride}"
        if stride == 0:
            words = "one pass a document"
        elif stride == self.settings.get("train_seq_len") and not score["isolate"]:
            words = "blocks"
        # Logs of before do not say it. Only our recipe reads in one pass by itself, and it mixed
        # repeats in as soon as there were any.
        unsaid = stride == 0 and "engine/repeats.py" in self.sources
        words += ", with repeats" if score.get("repeats", unsaid) else ""
        return f"{words}, learning as it goes" if score["mode"] == "ttt" else words

    def read_facts(self, line: str) -> None:
        """Take a line that is written once."""
        if settings := log_lines.SETTINGS.read(line):
            self.settings = json.loads(settings["settings"])
        elif overrides := log_lines.OVERRIDES.read(line):
            # DATA_PATH=data/my text MATRIX_LR=0.03: a value may hold spaces, a name may not.
            pairs = re.findall(r"([A-Z_0-9]+)=(.*?)(?= [A-Z_0-9]+=|$)", overrides["overrides"])
            self.overrides = dict(pairs)
        elif source := log_lines.SOURCE.read(line):
            self.sources[source["file"]] = source["sha256"]
        else:
            for kind in (
                log_lines.VERSIONS,
                log_lines.PROCESSES,
                log_lines.GPU,
                log_lines.DATA,
                log_lines.PARAMETERS,
                log_lines.TRAINED,
                log_lines.MEMORY,
                log_lines.ARTIFACT,
            ):
                fields = kind.read(line)
                if fields:
                    self.facts |= fields
                    return

    def score_reason(self) -> str:
        """Which line holds the score, or why there is none; for a person."""
        if self.crash:
            number, line = self.crash
            return f"no score: crashed, line {number}: {line[:80]!r}"
        if self.final is None:
            number, line = self.last
            end = f"the log ends at line {number}: {line.strip()[:80]!r}"
            return f"no score: no final line; {end}"
        return f"line {self.final.line}: the last final line of this run"

    def versions(self) -> dict[str, str]:
        facts = self.facts
        versions = {name: facts[name] for name in ("python", "torch") if name in facts}
        cuda = cuda_of_torch(facts.get("torch", "")) or facts.get("cuda")
        return {**versions, "cuda": cuda} if cuda else versions


def is_ours(path: Path) -> bool:
    """Does a process of this toolkit start in the log?"""
    return any(log_lines.RUN.read(line) for _, line in read_lines(path))


def read_own_log(path: Path) -> Run:
    """What a log of this toolkit says. Raises: FileNotFoundError."""
    log = OwnLog()
    for number, line in read_lines(path):
        log.read(number, line)
    facts = log.facts
    settings = log.settings
    curve = [log.curve[step] for step in sorted(log.curve)]
    batch_tokens = settings.get("train_batch_tokens")
    if isinstance(batch_tokens, int):
        for point in curve:
            point["tokens"] = point["step"] * batch_tokens
    times = [point["train_time_ms"] for point in curve if point["train_time_ms"] is not None]
    cap_seconds = settings.get("max_wallclock_seconds")
    cap_ms = 1000.0 * cap_seconds if isinstance(cap_seconds, int | float) else None
    # `final` repeats one of the scores, so its time is not added.
    eval_time_ms = sum(log.eval_times_ms) or (log.final and log.final.eval_time_ms)
    device = facts.get("device")
    return Run(
        path=path,
        run_id=Path(log.run["folder"].replace("\\", "/")).name if log.run else None,
        seed=settings.get("seed", seed_of_name(path)),
        score=None if log.crash else log.final,
        score_reason=log.score_reason(),
        scores=log.scores,
        steps=facts.get("steps", max(log.curve, default=None)),
        train_time_ms=facts.get("train_ms", times[-1] if times else None),
        cap_ms=facts.get("cap_ms", cap_ms),
        eval_time_ms=float(eval_time_ms) if eval_time_ms else None,
        model_bytes=facts.get("model_bytes"),
        code_bytes=facts.get("code_bytes"),
        total_bytes=facts.get("total_bytes"),
        val_tokens=facts.get("val_tokens"),
        train_shards=facts.get("train_shards"),
        model_params=facts.get("model_params"),
        world_size=facts.get("world_size"),
        device=facts.get("gpu", device if device == "cpu" else None),
        versions=log.versions(),
        settings=settings,
        overrides=log.overrides,
        sources=log.sources,
        curve=curve,
        resumed=log.resumed,
        peak_memory_mib=facts.get("allocated"),
        data_note=log.data_note,
        preset=log.run.get("preset"),
    )
