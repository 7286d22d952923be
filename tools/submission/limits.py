"""Check the limits of a track: bytes of artifact and code, minutes of training and scoring."""

import base64
import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from quantize import CAP_BYTES
from tools.legality.rules import Finding
from tools.runs.logs import Run
from tools.submission import bundle
from tools.submission.record_folder import Record, read_text


def packed_estimate(files: Iterable[Path]) -> int:
    """About how many bytes the files would have as one self-extracting script, nothing minified."""
    data = b"".join(path.read_bytes() for path in files)
    return min(len(base64.b85encode(lzma.compress(data))) + 200, len(data))


def check_size(record: Record) -> Iterator[Finding]:
    """Artifact and code of the largest seed are at most the cap: as shipped, packed and claimed."""
    over = [run for run in record.runs if (run.total_bytes or 0) > CAP_BYTES]
    shrink = "pack to fewer bytes, as quantize.py CHECKPOINT --target-bytes N does"
    if over:
        excess = max(run.total_bytes for run in over) - CAP_BYTES
        listed = ", ".join(f"{run.path.name} {run.total_bytes:,}" for run in over)
        evidence = f"{excess:,} over the cap of {CAP_BYTES:,} by the logs: {listed}"
        yield Finding("size", "fail", record.folder.name, evidence, shrink)
    models = {run.seed: run.model_bytes for run in record.runs if run.model_bytes}
    if not models:
        if not over:
            evidence = "no log says how large the artifact is"
            yield Finding("size", "warn", record.folder.name, evidence, "log its size")
        return
    if not record.code:
        return
    seed, model = max(models.items(), key=lambda item: item[1])
    files = {path.relative_to(record.folder).as_posix(): path for path in record.code}
    files = {name: path.stat().st_size for name, path in files.items()}
    code = sum(files.values())
    packed = packed_estimate(record.code)
    listed = " + ".join(f"{name} {n:,}" for name, n in sorted(files.items(), key=lambda f: -f[1]))
    claims = [record.submission.bytes_total] if record.submission else []
    claim = f"; submission.json claims {claims[0]:,}" if claims and claims[0] else ""
    facts = (
        f"{model + code:,} bytes as shipped: artifact {model:,} (seed {seed}), code {code:,}"
        f" ({listed}){claim}"
    )
    facts += f"; with the code packed about {model + packed:,}" if packed < code else ""
    counted = max((run.code_bytes or 0 for run in record.runs), default=0)
    uncounted = 0 < counted < code and not record.is_ours
    if uncounted:
        others = [name for name, n in files.items() if n != counted]
        without = f"without {', '.join(others)}" if counted in files.values() else "of no file here"
        facts += f". The logs count {counted:,} bytes of code, {without}"
    ship = f"ship the packed file that is counted: {bundle.TOOL} pack FOLDER --out train_gpt.py"
    if model + code > CAP_BYTES:
        excess = f"{model + code - CAP_BYTES:,} over the cap: "
        remedy = ship if model + packed <= CAP_BYTES else shrink
        yield Finding("size", "fail", record.folder.name, excess + facts, remedy)
    elif uncounted:
        yield Finding("size", "warn", record.folder.name, facts, ship)
    elif not over:
        margin = f", {CAP_BYTES - model - code:,} below the cap"
        yield Finding("size", "ok", record.folder.name, facts + margin)


def late_calibration(run: Run) -> tuple[float, int]:
    """Seconds of calibration on training text after the training clock stopped, and its line.

    As `GPTQ:collected 67 Hessians in 4.7s` after `stopping_early: wallclock_cap`; text that the
    model wrote itself is no training text.
    """
    seconds = 0.0
    last = 0
    stopped = False
    for number, line in enumerate(read_text(run.path).splitlines(), 1):
        stopped |= "stopping_early" in line or line.startswith("trained ")
        is_own = re.search(r"self[-_ ]?gen|autoreg|generat|synthetic|\bval", line, re.I)
        if stopped and re.search(r"hessian|calibrat", line, re.I) and not is_own:
            if duration := re.search(r"(\d+(?:\.\d+)?)\s?(ms|s|sec|seconds)\b", line):
                seconds += float(duration[1]) / (1000 if duration[2] == "ms" else 1)
                last = number
    return seconds, last


def check_time(record: Record) -> Iterator[Finding]:
    """Training and scoring of each seed keep to the track's limits."""
    caps = {"training": record.track.train_cap_seconds, "scoring": record.track.eval_cap_seconds}
    for phase, cap in caps.items():
        if cap is None:
            continue
        slowest = 0.0
        unknown = []
        for run in record.scored:
            time_ms = run.train_time_ms if phase == "training" else run.eval_time_ms
            late, line = late_calibration(run) if phase == "training" else (0.0, 0)
            if time_ms is not None and late and time_ms / 1000 <= cap < time_ms / 1000 + late:
                evidence = f"training took {time_ms / 1000:,.3f} s, and reading training text for"
                evidence += (
                    f" calibration {late:,.3f} s after it: {time_ms / 1000 + late - cap:,.3f}"
                )
                evidence += f" over {cap:,.0f} (line {line})"
                remedy = "stop training earlier, so that calibration ends within the time"
                yield Finding("phases", "fail", run.path.name, evidence, remedy)
            if time_ms is None:
                unknown.append(run.path.name)
                continue
            seconds = time_ms / 1000
            name = run.path.name
            slowest = max(slowest, seconds)
            if seconds <= cap:
                continue
            evidence = f"{phase} took {seconds:,.3f} s, {seconds - cap:,.3f} over {cap:,.0f}"
            step = seconds / run.steps if run.steps else 0
            if phase == "training" and seconds - cap <= 2 * step:
                evidence += f": the last step (of {step:.3f} s on average) began before the cap"
                remedy = "stop one step earlier; merged records were over by up to 0.137 s"
                yield Finding("time", "warn", name, evidence, remedy)
            else:
                remedy = f"keep more of MAX_WALLCLOCK_SECONDS for what follows the {phase} loop"
                remedy = remedy if phase == "training" else "score with a larger stride or batch"
                yield Finding("time", "fail", name, evidence, remedy)
        if unknown:
            evidence = f"{', '.join(unknown)}: no time of {phase} in the log"
            yield Finding("time", "warn", record.folder.name, evidence, "log it")
        elif record.scored and slowest <= cap:
            evidence = f"{phase} took at most {slowest:,.3f} of {cap:,.0f} s"
            yield Finding("time", "ok", record.folder.name, evidence)
