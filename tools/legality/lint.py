"""Read a training script for what the rules forbid, without running it.

    python -m tools.legality.lint SCRIPT_OR_FOLDER... [--verbose] [--json]

Exit status 0: nothing to say, 1: something breaks a rule, 2: something could not be read, and the
rest breaks no rule, 3: warnings alone. A folder means train_gpt.py and all code that it reaches
(tools.submission.size). Scripts that unpack themselves are unpacked first, and findings name the
file inside (tools.submission.unwrap).

It follows tokens from where they are read through assignments, slices, loops and calls of functions
in the same folder, in the order in which the program would run (flow.py), and looks at what meets
them: a loss that is optimised, a score, a table, a hash (judge.py). Names count only where nothing
else is known. FAIL is for what breaks a rule as written, WARN for what a person has to look at,
such as a cheat that the defaults leave off.

This is a weak signal. It cannot see values: whether two slices hold the same tokens, whether a
distribution sums to one, what a kernel in another language or a compiled extension does; nor names
put together at run time, state hidden in nn.Module.forward, text copied into the weights, or
another tokenisation. A clean report means that the usual mistakes are not in plain sight. The
proof is tools.legality.audit, which runs the scorer.
"""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from tools.legality.flow import Flow
from tools.legality.places import plain_findings
from tools.legality.rules import UNREADABLE, Finding, format_findings, printable, status
from tools.legality.verdicts import say
from tools.submission.size import ENTRY, reached
from tools.submission.unwrap import Unwrapped, unwrap


def read_scripts(place: Path | str | bytes) -> Unwrapped:
    """Every source of a folder, a script or a source text, everything unwrapped.

    Raises: FileNotFoundError where there is no Python source.
    """
    if isinstance(place, bytes) or isinstance(place, str) and "\n" in place:
        return unwrap(place if isinstance(place, bytes) else place.encode(), ENTRY)
    path = Path(place)
    if path.is_dir():
        files = reached(path) if (path / ENTRY).is_file() else sorted(path.glob("*.py"))
        files = {file.relative_to(path).as_posix(): file for file in files if file.suffix == ".py"}
    else:
        files = {path.name: path}
    if not files or not all(file.is_file() for file in files.values()):
        raise FileNotFoundError(f"{path} is no script and no folder with one; name train_gpt.py")
    scripts = Unwrapped()
    for name, file in files.items():
        scripts.add(unwrap(file.read_bytes(), name))
    return scripts


def lint_scripts(scripts: Unwrapped) -> list[Finding]:
    """What unwrapped scripts show of broken rules, and what of them could not be read."""
    trees = scripts.trees
    findings = {}
    flow = Flow(trees).find_all() if trees else []
    for finding in [*flow, *plain_findings(trees)]:
        findings.setdefault((finding.rule, finding.place), finding)
    unread = [say("unread", place, "warn", reason) for place, reason in scripts.unread.items()]
    return [*findings.values(), *unread]


def lint(place: Path | str | bytes) -> list[Finding]:
    """What a script, a folder of scripts or a source text shows of broken rules, in their order.

    Raises: FileNotFoundError where there is nothing to read, ValueError where nothing of it is
    Python.
    """
    scripts = read_scripts(place)
    if not scripts.trees:
        reasons = [f"{name} is not Python: {reason}" for name, reason in scripts.unread.items()]
        raise ValueError("; ".join(reasons))
    return lint_scripts(scripts)


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.legality.lint", description=about)
    parser.add_argument("places", type=Path, nargs="+", metavar="SCRIPT_OR_FOLDER")
    parser.add_argument("--verbose", action="store_true", help="every place, at full length")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    findings = []
    for place in args.places:
        try:
            findings_here = lint(place)
        except (OSError, ValueError) as error:
            print(f"tools.legality.lint: {printable(str(error))}", file=sys.stderr)
            return UNREADABLE
        if len(args.places) > 1:
            findings_here = [replace(f, place=f"{place}: {f.place}") for f in findings_here]
        findings += findings_here
    print(format_findings(findings, args.json, args.verbose))
    return status(findings)


if __name__ == "__main__":
    sys.exit(main())
