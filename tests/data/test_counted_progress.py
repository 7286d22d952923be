"""Progress of data: shares and time left, counts without a total, on stderr alone."""

import pytest

from data import counted_progress
from data.counted_progress import CountedProgress


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves on."""
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_a_log_gets_a_line_a_minute(clock, capsys):
    """With the share and the time left; nothing in between, and nothing on stdout."""
    progress = CountedProgress("verify", 400, "bytes")
    for _ in range(3):
        clock(61)
        progress.add(100)
        progress.add(0)
    output = capsys.readouterr()
    assert output.out == ""
    lines = output.err.splitlines()
    assert lines[0] == "verify 25%, about 183 s left" and len(lines) == 3
    progress.finish()
    assert capsys.readouterr().err == ""


def test_without_a_total_the_count_is_told(clock, capsys):
    """As for a data set that is streamed."""
    progress = CountedProgress("build", None)
    progress.add(1000)
    clock(61)
    progress.add(234)
    assert capsys.readouterr().err == "build 1,234 documents\n"


@pytest.mark.parametrize("total, line", [(200, "build 50%, about 1 s left"), (None, "build 100 ")])
def test_a_terminal_sees_it_at_once(clock, capsys, monkeypatch, total, line):
    """Its last line is rewritten, and cleared at the end."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    progress = CountedProgress("build", total)
    clock(1)
    progress.add(100)
    error = capsys.readouterr().err
    assert line in error and "\n" not in error
    progress.finish()
    assert capsys.readouterr().err == counted_progress.ERASE_LINE
