"""Check the limits of a track: bytes of artifact and code, minutes and FLOPs."""

import base64
import lzma
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from engine import log_lines
from quantize import CAP_BYTES
from tools.legality.rules import Finding
from tools.runs.logs import Run
from tools.submission import bundle
from tools.submission.record_folder import Record, read_text

SHRINK = "pack to fewer bytes, as quantize.py CHECKPOINT --target-bytes N does"
LOG_SIZE = "log its size"


def packed_estimate(files: Iterable[Path]) -> int:
    """About how many bytes the files would have as one self-extracting script, nothing minified."""
    data = b"".join(path.read_bytes() for path in files)
    return min(len(base64.b85encode(lzma.compress(data))) + 200, len(data))


def check_size(record: Record) -> Iterator[Finding]:
    """Artifact and code of the largest seed are at most the cap: as shipped, packed and claimed."""
    folder_name = record.folder.name
    over = [run for run in record.runs if (run.total_bytes or 0) > CAP_BYTES]
    if over:
        excess = max(run.total_bytes for run in over) - CAP_BYTES
        listed = ", ".join(f"{run.path.name} {run.total_bytes:,}" for run in over)
        evidence = f"{excess:,} over the cap of {CAP_BYTES:,} by the logs: {listed}"
        yield Finding("size", "fail", folder_name, evidence, SHRINK)
    artifacts = {run.seed: run.model_bytes for run in record.runs if run.model_bytes}
    if artifacts:
        yield from judge_shipped_bytes(record, artifacts, is_over_by_logs=bool(over))
    elif not over:
        yield Finding(
            "size", "warn", folder_name, "no log says how large the artifact is", LOG_SIZE
        )


def judge_shipped_bytes(
    record: Record, artifacts: dict[int | None, int], is_over_by_logs: bool
) -> Iterator[Finding]:
    """The largest artifact and all code that the folder ships, whatever code the logs count."""
    if not record.code:
        return  # check_files says what is wrong with it
    folder_name = record.folder.name
    seed = max(artifacts, key=artifacts.get)
    artifact = artifacts[seed]
    files = {
        path.relative_to(record.folder).as_posix(): path.stat().st_size for path in record.code
    }
    code = sum(files.values())
    shipped = artifact + code
    packed_code = packed_estimate(record.code)

    largest_first = sorted(files.items(), key=lambda item: -item[1])
    listed = " + ".join(f"{name} {size:,}" for name, size in largest_first)
    facts = f"{shipped:,} bytes as shipped: artifact {artifact:,} (seed {seed}), code {code:,}"
    facts += f" ({listed})"
    if record.submission and record.submission.bytes_total:
        facts += f"; submission.json claims {record.submission.bytes_total:,}"
    if packed_code < code:
        facts += f"; with the code packed about {artifact + packed_code:,}"
    counted = max((run.code_bytes or 0 for run in record.runs), default=0)
    # A folder of ours states both sizes of its code, as run and as shipped.
    is_uncounted = 0 < counted < code and not record.is_ours
    if is_uncounted:
        others = [name for name, size in files.items() if size != counted]
        without = f"without {', '.join(others)}" if counted in files.values() else "of no file here"
        facts += f". The logs count {counted:,} bytes of code, {without}"

    ship_packed = f"ship the packed file that is counted: {bundle.TOOL} pack FOLDER"
    ship_packed += " --out train_gpt.py"
    if shipped > CAP_BYTES:
        evidence = f"{shipped - CAP_BYTES:,} over the cap: {facts}"
        fits_packed = artifact + packed_code <= CAP_BYTES
        yield Finding("size", "fail", folder_name, evidence, ship_packed if fits_packed else SHRINK)
    elif is_uncounted:
        yield Finding("size", "warn", folder_name, facts, ship_packed)
    elif not is_over_by_logs:
        yield Finding("size", "ok", folder_name, f"{facts}, {CAP_BYTES - shipped:,} below the cap")


def check_budget(record: Record) -> Iterator[Finding]:
    """FLOPs and artifact of each seed keep to the track's limits, where it has such."""
    most_flops = record.track.train_cap_flops
    most_bytes = record.track.artifact_cap_bytes
    for run in record.scored:
        if most_flops:
            yield judge_flops(run, most_flops)
        if most_bytes and run.model_bytes:
            evidence = f"artifact of {run.model_bytes:,} bytes, {most_bytes:,} are allowed"
            level = "ok" if run.model_bytes <= most_bytes else "fail"
            yield Finding("size", level, run.path.name, evidence, SHRINK)


def judge_flops(run: Run, most_flops: float) -> Finding:
    """Tokens that a run trained on, times what its log says that one costs."""
    lines = map(log_lines.PEAK.read, read_text(run.path).splitlines())
    per_token = next((line["flops_per_token"] for line in lines if line), None)
    batch_tokens = run.settings.get("train_batch_tokens")
    if not (per_token and batch_tokens and run.steps):
        evidence = "the log does not say steps, tokens a step and FLOPs a token"
        return Finding("time", "fail", run.path.name, evidence, "train with this toolkit")
    flops = run.steps * batch_tokens * per_token
    evidence = f"{flops:.4g} FLOP of training, {most_flops:.4g} are allowed"
    level = "ok" if flops <= most_flops else "fail"
    return Finding("time", level, run.path.name, evidence, f"set MAX_TRAIN_FLOPS={most_flops:g}")


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
        if cap is not None:
            yield from check_phase(record, phase, cap)


def check_phase(record: Record, phase: str, cap: float) -> Iterator[Finding]:
    """One phase of every seed against its limit in seconds."""
    slowest = 0.0
    untimed = []
    for run in record.scored:
        time_ms = run.train_time_ms if phase == "training" else run.eval_time_ms
        if time_ms is None:
            untimed.append(run.path.name)
            continue
        seconds = time_ms / 1000
        slowest = max(slowest, seconds)
        if phase == "training":
            yield from judge_calibration(run, seconds, cap)
        if seconds > cap:
            yield judge_overrun(run, phase, seconds, cap)
    if untimed:
        evidence = f"{', '.join(untimed)}: no time of {phase} in the log"
        yield Finding("time", "warn", record.folder.name, evidence, "log it")
    elif record.scored and slowest <= cap:
        evidence = f"{phase} took at most {slowest:,.3f} of {cap:,.0f} s"
        yield Finding("time", "ok", record.folder.name, evidence)


def judge_calibration(run: Run, seconds: float, cap: float) -> Iterator[Finding]:
    """Training that was in time, until calibration on training text took it over the limit."""
    late, line = late_calibration(run)
    if late and seconds <= cap < seconds + late:
        evidence = f"training took {seconds:,.3f} s, and reading training text for calibration"
        evidence += f" {late:,.3f} s after it: {seconds + late - cap:,.3f} over {cap:,.0f}"
        evidence += f" (line {line})"
        remedy = "stop training earlier, so that calibration ends within the time"
        yield Finding("phases", "fail", run.path.name, evidence, remedy)


def judge_overrun(run: Run, phase: str, seconds: float, cap: float) -> Finding:
    """A phase that took too long: a fault, unless it is training's last step that began in time."""
    evidence = f"{phase} took {seconds:,.3f} s, {seconds - cap:,.3f} over {cap:,.0f}"
    step = seconds / run.steps if run.steps else 0
    # A single step may take longer than the average of all: twice that is allowed.
    if phase == "training" and seconds - cap <= 2 * step:
        evidence += f": the last step (of {step:.3f} s on average) began before the cap"
        remedy = "stop one step earlier; merged records were over by up to 0.137 s"
        return Finding("time", "warn", run.path.name, evidence, remedy)
    remedy = "score with a larger stride or batch"
    if phase == "training":
        remedy = "keep more of MAX_WALLCLOCK_SECONDS for what follows the training loop"
    return Finding("time", "fail", run.path.name, evidence, remedy)
