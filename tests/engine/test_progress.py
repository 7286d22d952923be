"""Progress: seldom, with the time left, and in the manner of where it goes."""

import io
import sys
import threading
import time

import pytest

from engine import progress as progress_module
from engine.progress import Progress, expecting


class Terminal(io.StringIO):
    """A stream that is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def watch(monkeypatch):
    """A time that moves only when the test moves it: call it with seconds."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def test_a_log_gets_a_line_a_minute(watch):
    """Between two lines a minute passes, however often it is called; nothing goes to the stream."""
    lines = []
    stream = io.StringIO()
    progress = Progress("scoring, blocks", lines.append, stream)
    for second in range(1, 181):
        watch(1.0)
        progress(second / 240)
    assert lines == [
        "scoring, blocks 25%, about 180 s left",
        "scoring, blocks 50%, about 120 s left",
        "scoring, blocks 75%, about 60 s left",
    ]
    assert stream.getvalue() == ""


def test_a_short_phase_says_nothing(watch):
    """A phase that is over within a minute leaves no line in a log."""
    lines = []
    progress = Progress("scoring, blocks", lines.append, io.StringIO())
    for done in range(1, 60):
        watch(1.0)
        progress(done / 59)
    assert lines == []


def test_a_terminal_has_its_last_line_rewritten(watch):
    """Twice a second the line is erased and written again; the log gets none of it."""
    lines = []
    stream = Terminal()
    progress = Progress("scoring, ttt", lines.append, stream)
    for quarter in range(1, 9):
        watch(0.25)
        progress(quarter / 16)
    assert stream.getvalue().split("\r\033[K") == [
        "",
        "scoring, ttt 12%, about 4 s left\r",
        "scoring, ttt 25%, about 3 s left\r",
        "scoring, ttt 38%, about 2 s left\r",
        "scoring, ttt 50%, about 2 s left\r",
    ]
    assert lines == []


def test_without_a_share_nothing_is_said(watch):
    """At 0 % nothing is divided by nothing."""
    lines = []
    progress = Progress("packing", lines.append, io.StringIO())
    watch(61.0)
    progress(0.0)
    assert lines == []


def test_the_stream_is_the_one_of_now(watch, monkeypatch):
    """Standard output that was redirected after the import is the one that is looked at."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    progress = Progress("scoring, blocks")
    watch(1.0)
    progress(0.25)
    assert stream.getvalue() == "\r\033[Kscoring, blocks 25%, about 3 s left\r"


def shares_of(stream: Terminal) -> list[int]:
    """The percentages that a terminal showed."""
    return [
        int(line.split("%")[0].split()[-1]) for line in stream.getvalue().split("\r") if line[3:]
    ]


@pytest.mark.parametrize("seconds, last", [(60.0, 30), (0.2, 90)])
def test_a_phase_that_counts_nothing_is_told_by_its_time(monkeypatch, seconds, last):
    """The share of the expected seconds grows, to 90 % where they were too few; the thread ends."""
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(progress_module, "TERMINAL_SECONDS", 0.01)
    threads = threading.active_count()
    with expecting("packing", seconds, print):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and len(shares_of(stream)) < 30:
            time.sleep(0.01)
    shares = shares_of(stream)
    assert len(shares) >= 30 and shares == sorted(shares)
    assert shares[-1] == 90 if last == 90 else shares[-1] < last
    assert stream.getvalue().startswith("\r\033[Kpacking ")
    assert threading.active_count() == threads


def test_a_phase_of_unknown_length_is_not_told(monkeypatch):
    """Without expected seconds no thread starts, and nothing is divided by 0."""
    monkeypatch.setattr(progress_module, "TERMINAL_SECONDS", 0.0)
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    threads = threading.active_count()
    with expecting("packing", 0.0, print):
        assert threading.active_count() == threads
    assert stream.getvalue() == ""
