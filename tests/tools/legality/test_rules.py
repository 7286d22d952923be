"""Findings: known rules only, worst first, one line a fault, and a status for each kind."""

import json

import pytest

from tools.legality import rules
from tools.legality.rules import Finding, format_findings, status

OK = Finding("size", "ok", "folder", "15 of 16 bytes")
WARN = Finding("network", "warn", "train_gpt.py:3", "imports requests", "remove it")
FAIL = Finding("causal", "fail", "target 7", "moved by 0.1", "mask it")


def test_the_status_tells_unlawful_unreadable_and_untidy_apart():
    """1 before 2 before 3: what breaks a rule, what could not be read, warnings alone."""
    unread = Finding("hidden", "warn", "train_gpt.py:9", "cannot be read")
    assert status([OK, WARN, unread, FAIL]) == 1
    assert status([OK, WARN, unread]) == 2
    assert status([OK, WARN]) == 3
    assert status([OK]) == status([]) == 0


def test_a_fault_is_one_line_however_often_it_is_found():
    """The first place and the number of others; --verbose shows each at full length."""
    faults = [
        Finding("causal", "fail", f"target {i}", f"moved by 0.{i}", "mask it") for i in (1, 2)
    ]
    assert "FAIL  causal  target 1 and 1 more: moved by 0.1" in format_findings(faults)
    assert "target 2" in format_findings(faults, verbose=True)
    long = Finding("causal", "fail", "x", "moved " * 200, "mask it")
    assert max(map(len, format_findings([long]).splitlines())) < 250
    assert "moved " * 199 in format_findings([long], verbose=True)


def test_a_name_does_not_steer_the_terminal():
    """Escape codes, line feeds and marks of direction are spelled out."""
    text = format_findings([Finding("causal", "fail", "a\x1b[2J\nb", "c\u202ed\x07")])
    assert text.isprintable() or "\n" in text
    assert "a\\x1b[2J b: c\\u202ed\\x07" in text


def test_a_report_shows_the_worst_first_with_its_remedy():
    """Failures before warnings, each with what to do; what holds is counted, or shown if asked."""
    lines = format_findings([OK, WARN, FAIL]).splitlines()
    assert lines == [
        "FAIL  causal  target 7: moved by 0.1",
        "      -> mask it",
        "WARN  network  train_gpt.py:3: imports requests",
        "      -> remove it",
        "findings: 1 fail, 1 warn, 1 ok",
    ]
    assert "OK    size  folder: 15 of 16 bytes" in format_findings([OK], verbose=True)


def test_json_holds_everything():
    """One object with the exit status and every finding."""
    content = json.loads(format_findings([OK, FAIL], as_json=True))
    assert content["status"] == 1
    assert [f["rule"] for f in content["findings"]] == ["causal", "size"]


@pytest.mark.parametrize("rule, level", [("casual", "fail"), ("causal", "bad")])
def test_unknown_rules_are_refused(rule, level):
    """A rule's name is one of a list, so that a report can be compared with another."""
    with pytest.raises(ValueError, match="must be one of"):
        Finding(rule, level, "x", "y")


def test_a_finding_is_read_back_from_its_row():
    """Reports in JSON and records call the place `where`; a row with other keys is an error."""
    finding = Finding("time", "fail", "train.log:9", "took 601 s", "train less")
    row = finding.row()
    assert row["where"] == "train.log:9" and Finding.from_row(row) == finding
    assert "place" not in row
    for other in ({**row, "seed": "1"}, {"rule": "time", "where": "here"}):
        with pytest.raises(TypeError):
            Finding.from_row(other)
    with pytest.raises(KeyError):
        Finding.from_row({"rule": "time"})


@pytest.mark.parametrize("rule", rules.REMEDIES)
def test_a_broken_rule_comes_with_its_remedy(rule):
    """Every remedy is of a rule that exists; what holds needs none."""
    fault = rules.broken(rule, "here", "it is so")
    assert (fault.level, fault.remedy) == ("fail", rules.REMEDIES[rule])
    assert rules.holds(rule, "here", "it is so").remedy == ""
