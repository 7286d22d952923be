"""Findings: known rules only, worst first, and a status that warnings do not change."""

import json

import pytest

from tools.legality.rules import Finding, report, status

OK = Finding("size", "ok", "folder", "15 of 16 bytes")
WARN = Finding("network", "warn", "train_gpt.py:3", "imports requests", "remove it")
FAIL = Finding("causal", "fail", "target 7", "moved by 0.1", "mask it")


def test_only_a_failure_fails():
    """Warnings are for a person; what holds is no reason either."""
    assert status([OK, WARN]) == 0
    assert status([OK, WARN, FAIL]) == 1
    assert status([]) == 0


def test_a_report_shows_the_worst_first_with_its_remedy():
    """Failures before warnings, each with what to do; what holds is counted, or shown if asked."""
    lines = report([OK, WARN, FAIL]).splitlines()
    assert lines == [
        "FAIL  causal  target 7: moved by 0.1",
        "      -> mask it",
        "WARN  network  train_gpt.py:3: imports requests",
        "      -> remove it",
        "findings: 1 fail, 1 warn, 1 ok",
    ]
    assert "OK    size  folder: 15 of 16 bytes" in report([OK], verbose=True)


def test_json_holds_everything():
    """One object with the exit status and every finding."""
    found = json.loads(report([OK, FAIL], as_json=True))
    assert found["status"] == 1
    assert [f["rule"] for f in found["findings"]] == ["causal", "size"]


@pytest.mark.parametrize("rule, level", [("casual", "fail"), ("causal", "bad")])
def test_unknown_rules_are_refused(rule, level):
    """A rule's name is one of a list, so that a report can be compared with another."""
    with pytest.raises(ValueError, match="must be one of"):
        Finding(rule, level, "x", "y")
