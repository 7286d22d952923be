"""One clock for the phases of a run, and what it says of who read which data when."""

import time
from collections.abc import Callable

from tools.legality.rules import Finding, broken, holds

PHASES = ("train", "calibrate", "pack", "score")


class PhaseClock:
    """One clock for training, calibration, packing and scoring, and who read which data when.

        clock = PhaseClock(cap_seconds=600)
        clock.enter("train")
        clock.read("train")             # at every batch
        clock.enter("calibrate")
        clock.enter("pack")             # when the artifact is written
        clock.enter("score")
        clock.read("val")
        clock.findings()                # phases holds, or what was read too early or too late

    Raises: ValueError for a phase or a split that does not exist.
    """

    def __init__(self, cap_seconds: float, clock: Callable[[], float] = time.perf_counter):
        self.cap_seconds = cap_seconds
        self.clock = clock
        self.started = clock()
        self.entered: list[tuple[float, str]] = []
        self.reads: list[tuple[float, str, str]] = []  # seconds, phase, split

    def enter(self, phase: str) -> None:
        """Begin a phase; the one before ends."""
        if phase not in PHASES:
            raise ValueError(f"{phase=} must be one of {', '.join(PHASES)}")
        self.entered.append((self.clock() - self.started, phase))

    def read(self, split: str) -> None:
        """Note that data of a split, "train" or "val", is read now."""
        if split not in ("train", "val") or not self.entered:
            raise ValueError(f"{split=} must be train or val, and read after enter()")
        self.reads.append((self.clock() - self.started, self.entered[-1][1], split))

    def findings(self, place: str = "phases") -> list[Finding]:
        """Findings on phases, validation and time."""
        cap = self.cap_seconds
        for seconds, phase, split in self.reads:
            when = f"at {seconds:.1f} s, in phase {phase}"
            if split == "val" and phase != "score":
                return [broken("validation", place, f"validation data read {when}")]
            if split == "train" and (phase == "score" or seconds > cap):
                return [broken("phases", place, f"training data read {when} (cap {cap:g} s)")]
        scoring = [seconds for seconds, phase in self.entered if phase == "score"]
        # Training, calibration and packing share the cap; the artifact is done when scoring begins.
        ended = scoring[0] if scoring else self.clock() - self.started
        if ended > cap:
            return [broken("time", place, f"the artifact took {ended:.1f} s, the cap is {cap:g} s")]
        evidence = f"{len(self.reads)} reads, the artifact done at {ended:.1f} of {cap:g} s"
        return [holds("phases", place, evidence)]
