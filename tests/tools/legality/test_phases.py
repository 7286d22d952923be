"""The clock of a run: who read which data when."""

import pytest

from tools.legality.phases import PhaseClock


def test_the_clock_judges_when_data_is_read():
    """On a real clock; phases and splits that do not exist are errors."""
    clock = PhaseClock(cap_seconds=600)
    with pytest.raises(ValueError, match="read after enter"):
        clock.read("train")
    with pytest.raises(ValueError, match="phase='cook' must be one of train, calibrate"):
        clock.enter("cook")
    clock.enter("train")
    clock.read("train")
    with pytest.raises(ValueError, match="split='test' must be train or val"):
        clock.read("test")
    (finding,) = clock.findings()
    assert (finding.rule, finding.level) == ("phases", "ok") and "1 reads" in finding.evidence


@pytest.mark.parametrize("seconds, level", [(600, "ok"), (600.1, "fail")])
def test_the_cap_itself_is_in_time(seconds, level):
    """A read at the cap passes, one after it does not."""
    times = iter([0, 0, seconds, seconds])
    clock = PhaseClock(600, clock=lambda: next(times))
    clock.enter("calibrate")
    clock.read("train")
    (finding,) = clock.findings()
    assert (finding.rule, finding.level) == ("phases", level)
