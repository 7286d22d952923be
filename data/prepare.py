"""Prepare training data: documents in, tokenizer and shards out.

    python3 golf.py data.prepare toy [--out DIR]
    python3 golf.py --with data data.prepare fetch --variant sp1024 --train-shards 80
    python3 golf.py data.prepare build SOURCE --tokenizer bpe:1024 --val-documents 50000 --out DIR
    python3 golf.py data.prepare verify DIR

`toy` makes real English text from the Python that runs it, so a first run needs no download.
"""

import argparse
import sys

from data import build, fetch, toy, verify
from data.toy import build_toy

__all__ = ["build_toy", "main"]
COMMANDS = {"toy": toy, "fetch": fetch, "build": build, "verify": verify}


def main(argv: list[str] | None = None) -> int:
    """Run one command; return its status, 1 with one line on stderr where it failed."""
    parser = argparse.ArgumentParser(prog="data.prepare", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    for name, module in COMMANDS.items():
        summary = module.__doc__.splitlines()[0]
        command = commands.add_parser(name, help=summary, description=summary)
        module.add_arguments(command)
        command.set_defaults(run=module.main)
    args = parser.parse_args(argv)
    try:
        return args.run(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"data.prepare {args.command}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
