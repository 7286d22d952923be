"""Say how far a long phase has come: on a terminal at once, elsewhere a line a minute."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from engine import log_lines

TERMINAL_SECONDS = 0.5  # between two changes of the terminal's last line
LOG_SECONDS = 60.0
MOST_SHARE = 0.9  # of a phase that takes longer than expected: a tenth of its time is always left


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


@contextlib.contextmanager
def expecting(label: str, seconds: float, log: Callable[[str], None]):
    """Within it a thread says how much of the expected seconds is over; where they are 0, nothing.

    For phases that cannot count what they do, as packing by any codec.
    """
    progress = Progress(label, log)
    is_over = threading.Event()

    def say() -> None:
        while not is_over.wait(TERMINAL_SECONDS):
            passed = time.monotonic() - progress.started
            progress(min(passed / seconds, MOST_SHARE))

    thread = threading.Thread(target=say, daemon=True)
    if seconds:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        if seconds:
            thread.join()  # so that none of its lines comes after what is logged next
