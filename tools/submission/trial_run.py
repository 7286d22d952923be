"""Run the counted code of a record alone, for a few steps, and judge what it opens and prints."""

import contextlib
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tools.legality import sandbox
from tools.legality.rules import Finding
from tools.submission.record_folder import SCRIPT, Record

RUN_SECONDS = 600


def tiny_settings(data: Path) -> dict[str, str]:
    """The environment of the run: a few steps on the toy text."""
    return {
        "RUN_ID": "tiny",
        "SEED": "1",
        "ITERATIONS": "3",
        "MAX_WALLCLOCK_SECONDS": "0",
        "DATA_PATH": str(data / "datasets/toy_sp1024"),
        "TOKENIZER_PATH": str(data / "tokenizers/toy_1024_bpe.model"),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


def check_run(record: Record, trust: bool = False) -> Iterator[Finding]:
    """The counted code runs alone, in an empty folder without network, to a final score.

    Raises: ValueError where it cannot be isolated, unless it is trusted.
    """
    from data.prepare import build_toy

    if not record.code:
        return
    with tempfile.TemporaryDirectory() as scratch:
        alone = Path(scratch).resolve() / "alone"
        toy = Path(scratch).resolve() / "toy"
        alone.mkdir()
        with contextlib.redirect_stdout(sys.stderr):  # stdout is the report's
            build_toy(toy)
        for path in record.code:
            copy = alone / path.relative_to(record.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
        settings = tiny_settings(toy)
        if b"EVAL_STRIDE" in b"".join(path.read_bytes() for path in record.code) or record.is_ours:
            settings |= {"EVAL_STRIDE": "256"}
        settings |= {"PRESET": "smoke"} if record.is_ours else {"VOCAB_SIZE": "1024"}
        command = [sys.executable, SCRIPT]
        trace = sandbox.run_alone(command, alone, settings, RUN_SECONDS, isolated=not trust)
        yield from judge_trace(trace, toy, alone)
        if trace.unwatched:
            evidence = f"running alone, it started {'; '.join(trace.unwatched[:4])}"
            remedy = "look at what that is for; nothing of it was watched"
            yield Finding("files", "warn", SCRIPT, evidence, remedy)
        yield Finding(
            "files", "ok", SCRIPT, f"ran in {'no isolation' if trust else sandbox.ISOLATION}"
        )


def judge_trace(trace: sandbox.Trace, toy: Path, alone: Path) -> Iterator[Finding]:
    """What a run alone says: how it ended, what it opened, whom it called."""
    lines = [line for line in trace.output.splitlines() if line.strip()] or ["no output"]
    for host in trace.connections:
        evidence = f"running alone, it tried to reach {host}"
        yield Finding("network", "fail", SCRIPT, evidence, "ship what it needs, or name it as data")
    strangers = [path for path in trace.opened if not Path(path).is_relative_to(toy)]
    if strangers:
        evidence = f"running alone, it opened {', '.join(strangers[:4])}"
        remedy = "ship the file with the code, where it is counted"
        yield Finding("artifact-only", "fail", SCRIPT, evidence, remedy)
    error = lines[-1][:200]
    if missing := re.search(r"No module named '([\w.]+)'", trace.output):
        remedy = f"ship {missing[1]}.py, or name its package in requirements.txt"
        yield Finding("files", "fail", SCRIPT, f"alone: {missing[0]}", remedy)
    elif trace.returncode and re.search(r"CUDA|NVIDIA|nvidia|cuda", trace.output):
        evidence = f"needs a GPU, so that it was not run here: {error}"
        yield Finding("files", "warn", SCRIPT, evidence, "run this check on a machine with CUDA")
    elif trace.returncode:
        evidence = f"alone, it ends with status {trace.returncode}: {error}"
        remedy = "ship what it needs; try it in an empty folder"
        yield Finding("files", "fail", SCRIPT, evidence, remedy)
    else:
        final = [line for line in lines if re.match(r"final\w* .*val_bpb", line)]
        if final:
            evidence = f"runs alone, without network, {trace.seconds:.0f} s: {final[-1]}"
            yield Finding("files", "ok", SCRIPT, evidence)
        else:
            evidence = f"runs alone, but states no final score; last line: {error}"
            yield Finding("files", "fail", SCRIPT, evidence, "print the score as its last line")
