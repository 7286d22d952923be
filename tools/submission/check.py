"""Check a record folder, ours or anybody's: files, figures, bytes, time, seeds, score and claims.

    python3 golf.py tools.submission.check FOLDER [--track TRACK] [--run [--trust]]
        [--verbose] [--json]

Nothing is fetched. Without --run nothing of the folder is executed either; with it, the counted
code runs for a few steps on made-up text, isolated by bubblewrap: without network, read-only but
for an empty folder, everything that it started killed at the end. Where bubblewrap is missing it is
not run, unless --trust says that it may run with the rights of the caller.

What tools.submission.pack wrote is made again from the logs and compared byte for byte. In other
folders each number is looked for in the logs: those of submission.json and of the README's table of
seeds must be there, those of its prose should. --verbose also shows what was checked and holds.

Exit status 0: nothing to say, 1: something breaks a rule, 2: no folder, or code in it that cannot
be read and nothing else that breaks a rule, 3: warnings alone.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tools.legality.rules import Finding, format_findings, status
from tools.submission.json_claims import check_figures, check_schema
from tools.submission.limits import check_budget, check_size, check_time
from tools.submission.readme_claims import check_readme
from tools.submission.record_folder import Record, read_record_folder
from tools.submission.regenerated import check_generated
from tools.submission.scored_text import check_validation
from tools.submission.seed_selection import check_seeds, check_selection
from tools.submission.shipped_files import check_code, check_files, check_lint
from tools.submission.significance import check_significance
from tools.submission.tracks import TRACKS
from tools.submission.trial_run import check_run

# What legality rests on; these findings go into the README that tools.submission.pack writes.
LEGALITY_RULES = (
    "causal", "normalised", "score-first", "one-pass", "isolation", "bytes", "validation",
    "artifact-only", "network", "phases", "dead-feature", "hard-coded", "size", "time",
)  # fmt: skip
CHECKS: tuple[Callable[[Record], Iterator[Finding]], ...] = (
    check_files,
    check_schema,
    check_generated,
    check_figures,
    check_readme,
    check_size,
    check_time,
    check_budget,
    check_seeds,
    check_code,
    check_selection,
    check_validation,
    check_lint,
    check_significance,
)


def check(
    folder: Path, track: str | None = None, run: bool = False, trust: bool = False
) -> list[Finding]:
    """Every finding about a record folder. With `run` its code is executed, isolated and briefly.

    Raises: FileNotFoundError when there is no such folder; ValueError where code is to be run that
    cannot be isolated and is not trusted.
    """
    record, findings = read_record_folder(Path(folder), track)
    for look in CHECKS:
        findings += look(record)
    if run:
        findings += check_run(record, trust)
    return findings


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.submission.check", description=about)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of one record")
    parser.add_argument("--track", choices=TRACKS, help="default: as submission.json or the path")
    parser.add_argument("--run", action="store_true", help="also run the code, for a few steps")
    parser.add_argument("--trust", action="store_true", help="run it with your own rights")
    parser.add_argument("--verbose", action="store_true", help="show what holds, too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        if args.run and args.trust:
            print(
                "tools.submission.check: the folder's code runs with your rights", file=sys.stderr
            )
        findings = check(args.folder, args.track, args.run, args.trust)
    except (OSError, ValueError) as error:
        print("tools.submission.check:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(format_findings(findings, as_json=args.json, verbose=args.verbose))
    return status(findings)


if __name__ == "__main__":
    sys.exit(main())
