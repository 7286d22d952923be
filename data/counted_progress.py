"""How far a phase of preparing data has come, counted in bytes, shards or documents, on stderr.

    build 42%, about 130 s left        where the total is known
    build 1,204,000 documents          where it is not, as for a data set that is streamed

Stdout is left to results, which other programs read.
"""

from __future__ import annotations

import sys
import time

from engine.progress import LOG_SECONDS, TERMINAL_SECONDS, Progress

ERASE_LINE = "\r\033[K"


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class CountedProgress:
    """Add what is done; share and time left are told, or the count where no total is known."""

    def __init__(self, label: str, total: int | None, unit: str = "documents"):
        self.label = label
        self.total = total
        self.unit = unit
        self.count = 0
        self.last = time.monotonic()
        self.progress = Progress(label, log=_log, stream=sys.stderr)

    def add(self, amount: int) -> None:
        self.reach(self.count + amount)

    def reach(self, count: int) -> None:
        """Tell that so much is done in all."""
        self.count = count
        if self.total:
            self.progress(min(1.0, count / self.total))
            return
        now = time.monotonic()
        is_terminal = sys.stderr.isatty()
        if now - self.last < (TERMINAL_SECONDS if is_terminal else LOG_SECONDS):
            return
        self.last = now
        line = f"{self.label} {count:,} {self.unit}"
        if is_terminal:
            print(ERASE_LINE + line, end="\r", file=sys.stderr, flush=True)
        else:
            _log(line)

    def finish(self) -> None:
        """Clear the terminal's last line, so that what is printed next stands alone."""
        if sys.stderr.isatty():
            print(ERASE_LINE, end="", file=sys.stderr, flush=True)
