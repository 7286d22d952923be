"""Say how far a long phase has come: on a terminal at once, elsewhere a line a minute."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from engine import log_lines

TERMINAL_SECONDS = 0.5  # between two changes of the terminal's last line
LOG_SECONDS = 60.0


class Progress:
    """Call it with the share that is done, in [0, 1]; it says share and time left.

    log writes a line for good; where output is a terminal, its last line is rewritten instead.

        scoring, sliding 25%, about 90 s left       30 seconds after the start
    """

    def __init__(
        self, label: str, log: Callable[[str], None] = print, stream: TextIO | None = None
    ):
        self.label = label
        self.log = log
        # Looked up now, not when this module is imported: output may have been redirected since.
        self.stream = sys.stdout if stream is None else stream
        self.started = self.last = time.monotonic()

    def __call__(self, done_frac: float) -> None:
        now = time.monotonic()
        is_terminal = self.stream.isatty()
        if now - self.last < (TERMINAL_SECONDS if is_terminal else LOG_SECONDS):
            return
        self.last = now
        if done_frac <= 0:
            return  # nothing is done by which to tell the time
        line = log_lines.PROGRESS.write(
            label=self.label,
            percent=100 * done_frac,
            seconds_left=(now - self.started) * (1 - done_frac) / done_frac,
        )
        if is_terminal:
            print("\r\033[K" + line, end="\r", file=self.stream, flush=True)
        else:
            self.log(line)
