"""The cheater kit: every member is judged rightly, and the table says so."""

import ast
import inspect
import json
import re
from collections import Counter

import numpy as np
import pytest

from tools.legality import cheaters
from tools.legality.cheaters import CASES, PIECES, TEXT, Case, main
from tools.legality.rules import RULES, Finding

# What issue 4 and the facts about the field name: each must stay in the kit.
WANTED = """
PreQuantTTT LastEpochTTT WarmUpTTT Slot HashedCache ByteSpread GatedHint UnmaskedSmear DroppedTail
DroppedHead ScoredTwice BestOfTwoPasses DoublePass SpaceTwice ReplacementCharacter NoSpacePiece
SidecarOff TruncatedSplit OtherSplit OverlappingSplit CalibratedOnValidation CalibratedLate
ScoreBesideArtifact NetworkLookup DeadQAT DeadBigram DeadEMA PeekingAttention BetterOfTwoModels
Plain Sliding ChunkedTTT DocumentLoRA HintTilt NgramCache LongContext IsolatedDocuments ManyRanks
WorkingEMA WorkingQAT ByteLevel OnlineBias BestTemperature BestTemperatureOfNoise FixedTemperature
BestTemperatureUnsaid FixedTemperatureUnsaid
"""


@pytest.mark.parametrize("member", CASES, ids=lambda member: member.name)
def test_every_member_is_judged_rightly(member):
    """A cheater is found under its rule's name and no other; of an honest one nothing is said."""
    findings = member.findings()
    broken_rules = {finding.rule for finding in findings if finding.level != "ok"}
    assert broken_rules == ({member.rule} if member.rule else set())
    assert bool(member.rule) == any(finding.level == "fail" for finding in findings)
    assert findings, "a member of which nothing is said proves nothing"


def test_the_kit_is_large_and_has_what_was_asked_for():
    """At least 24 cheaters, 12 honest ones, and the named ones among them; names are distinct."""
    names = [member.name for member in CASES]
    cheating = [member for member in CASES if member.rule]
    assert len(cheating) >= 24 and len(CASES) - len(cheating) >= 12
    assert len(set(names)) == len(names) and set(WANTED.split()) <= set(names)


def test_every_rule_that_audit_judges_has_its_cheaters():
    """Each is broken by one at least, and the four conditions by three or more."""
    counts = Counter(member.rule for member in CASES)
    judged = set(list(RULES)[: list(RULES).index("hard-coded")]) | {"time"}
    assert set(counts) - {""} == judged
    assert all(counts[r] >= 3 for r in ("causal", "normalised", "score-first", "one-pass"))


def test_every_member_says_what_it_does_and_where_it_was_seen():
    """One sentence each; a cheater names the pull request or the condition."""
    for member in CASES:
        assert re.fullmatch(r"[A-Z0-9m].{10,110}[.]", member.sentence), member.name
        if member.rule:
            assert re.fullmatch(r"#\d+|C[1-4]|README|-", member.seen), member.name


def test_members_are_small():
    """Readable as a list of what each rule forbids: all but the base in under 15 lines of code."""
    tree = ast.parse(inspect.getsource(cheaters))
    sizes = {n.name: len(ast.unparse(n).splitlines()) for n in tree.body if hasattr(n, "name")}
    large = {m.name for m in CASES if sizes[m.name] > 18}
    assert large <= {"Plain", "ByteCount", "DocumentLoRA"}, {name: sizes[name] for name in large}


def test_the_text_can_be_decoded_and_holds_what_is_hard():
    """Every document is UTF-8, with a lone space, a character of two byte pieces and long gaps."""
    documents = np.split(TEXT, np.flatnonzero(TEXT == cheaters.BOS))[1:]
    text = [cheaters.ByteCount().decode(ids.tolist()) for ids in documents]
    assert len(text) == 12 and all("the" in part or "cat" in part for part in text)
    assert any("é" in part for part in text) and (TEXT == cheaters.SPACE).any()
    assert max(TEXT) < len(PIECES)


def test_the_table_is_one_command(monkeypatch, capsys):
    """One row a member, a last line that counts, status 0 only when all are right."""
    few = [member for member in CASES if member.name in ("Plain", "DroppedTail", "Slot")]
    monkeypatch.setattr(cheaters, "CASES", few)
    assert main([]) == 0
    header, *rows, last = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["name", "seen", "expected", "found", "verdict"]
    assert [row.split()[0] for row in rows] == [member.name for member in few]
    assert all("right" in row for row in rows)
    assert last == "kit: 2 of 2 cheaters caught under their rule's name, 0 of 1 honest ones flagged"


def test_a_wrong_verdict_fails_the_command(monkeypatch, capsys):
    """A cheater that goes free, one under another name and a false alarm: each is WRONG."""

    def say(*rules):
        return lambda: [Finding(rule, "warn", "here", "this") for rule in rules]

    kit = [
        Case("Free", "causal", "#1", "Goes free.", say()),
        Case("Misnamed", "causal", "#1", "Is found elsewhere.", say("bytes")),
        Case("Twice", "causal", "#1", "Is found under two names.", say("causal", "bytes")),
        Case("Alarm", "", "", "Is honest.", say("bytes")),
        Case("Fine", "", "", "Is honest.", say()),
    ]
    monkeypatch.setattr(cheaters, "CASES", kit)
    assert main([]) == 1
    out = capsys.readouterr().out
    assert out.count("WRONG") == 4
    assert "kit: 0 of 3 cheaters caught under their rule's name, 1 of 2 honest" in out
    assert main(["--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == 1 and [row["right"] for row in told["cases"]] == [False] * 4 + [True]
    assert told["cases"][2]["found"] == ["bytes", "causal"]
