"""A run alone: how it ended, what it opened, whom it called."""

from pathlib import Path

import pytest

from tools.legality.sandbox import Trace
from tools.submission.trial_run import judge_trace


@pytest.mark.parametrize(
    "returncode, output, opened, connections, expected",
    [
        (0, "final val_loss:6.0 val_bpb:3.5", [], [], ("files", "ok")),
        (0, "done", [], [], ("files", "fail")),
        (1, "ModuleNotFoundError: No module named 'helper'", [], [], ("files", "fail")),
        (1, "RuntimeError: CUDA is required", [], [], ("files", "warn")),
        (1, "Killed", [], [], ("files", "fail")),
        (0, "final val_bpb:3.5", ["/toy/data/x_val_0.bin"], [], ("files", "ok")),
        (0, "final val_bpb:3.5", ["/home/a/ngram.bin"], [], ("artifact-only", "fail")),
        (0, "final val_bpb:3.5", [], ["hub.example:443"], ("network", "fail")),
    ],
)
def test_a_run_alone_is_judged(returncode, output, opened, connections, expected):
    """How it ended, what it opened, whom it called."""
    trace = Trace(returncode, output, opened, [], connections, [], 1.0)
    findings = {(f.rule, f.level) for f in judge_trace(trace, Path("/toy"), Path("/alone"))}
    assert expected in findings
    assert len({f for f in findings if f[1] == "fail"}) == (expected[1] == "fail")
