"""Whether a score can be had from the named files alone, without the network.

    audit_alone(["python", "eval.py"], folder, ["eval.py", "artifact.ptz"])

runs the command twice, in the folder and in an empty one with copies of the two files, and compares
the last lines of output:

    final val_bpb:1.2345 eval_time:812ms        in the folder
    final val_bpb:1.2345 eval_time:640ms        alone: the same score, artifact-only holds
"""

import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from tools.legality.rules import Finding, broken, holds
from tools.legality.sandbox import Trace, run_alone


def audit_alone(
    command: list[str],
    folder: Path,
    files: list[str],
    allowed: Iterable[Path] = (),
    env: dict[str, str] | None = None,
    place: str = "",
    timeout_seconds: float = 600,
) -> list[Finding]:
    """Findings on artifact-only and network: run in the folder, then with its `files` alone.

    The last line of output that is not about time must be the same. `allowed` are files, or folders
    of files, that may be opened elsewhere: validation text, tokenizer, the tools themselves.

    Raises: ValueError when the command fails in its own folder, or a file is missing there.
    """
    place = place or " ".join(command[1:3])
    allowed = [Path(path).resolve() for path in allowed]
    with tempfile.TemporaryDirectory() as empty:
        for name in files:
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing; name files that are there")
            (Path(empty) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, Path(empty) / name)
        inside = run_alone(command, folder, env, timeout_seconds)
        alone = run_alone(command, Path(empty), env, timeout_seconds)
    # Before anything else: a command that fails because the network is closed asked for it.
    tried = dict.fromkeys(inside.connections + alone.connections)
    if tried:
        return [broken("network", place, f"tried to reach {', '.join(tried)}")]
    findings = [holds("network", place, "no connection was tried")]
    if inside.returncode:
        evidence = f"{' '.join(command)} fails in {folder}: {final_line(inside)}"
        raise ValueError(f"{evidence}; make it run there first")
    # What it opens beside the copies shows even where the score happens to stay the same.
    unexpected = [p for p in alone.opened if not any(Path(p).is_relative_to(a) for a in allowed)]
    score = final_line(inside)
    score_alone = final_line(alone)
    if alone.returncode:
        evidence = f"fails with {', '.join(files)} alone: {score_alone}"
        return [*findings, broken("artifact-only", place, evidence)]
    if unexpected:
        return [*findings, broken("artifact-only", place, f"opens {', '.join(unexpected[:5])}")]
    if score != score_alone:
        evidence = f"{score!r} becomes {score_alone!r} with {', '.join(files)} alone"
        return [*findings, broken("artifact-only", place, evidence)]
    if alone.unwatched:
        evidence = f"a child process could not be watched: {alone.unwatched[0][:80]}"
        remedy = "look at what it opens"
        return [*findings, Finding("artifact-only", "warn", place, evidence, remedy)]
    opened = f"{len(alone.opened)} files opened elsewhere, all of them allowed"
    return [*findings, holds("artifact-only", place, f"{score!r} alone too; {opened}")]


def final_line(trace: Trace) -> str:
    """The last line of output that holds text, without what differs from run to run: times."""
    lines = [line.strip() for line in trace.output.splitlines() if line.strip()] or [""]
    return " ".join(word for word in lines[-1].split() if not re.search(r"time|\d(ms|s)$", word))
