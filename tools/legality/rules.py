"""What every checker here reports: one finding, with its rule, its evidence and its remedy."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

# Every rule that audit, lint and check know, in the order in which a report shows them. C1 to C4
# are the four conditions of upstream issue #1017, the others the challenge's README and rulings.
RULES = {
    "causal": "C1: a score depends on the artifact and the tokens before it, on nothing else",
    "normalised": "C2: one full distribution over the vocabulary, before the target is looked at",
    "score-first": "C3: a token is scored before anything learns from it",
    "one-pass": "C4: every target is scored exactly once, in order, head and tail included",
    "isolation": "where it is claimed, no score depends on another document",
    "bytes": "the bytes of the targets are those of the decoded text",
    "validation": "the whole validation split, as published, and nothing of it in training",
    "artifact-only": "the score depends on artifact, code, tokenizer and validation text alone",
    "network": "nothing is fetched while scoring",
    "phases": "training data is read inside the training clock only, calibration included",
    "dead-feature": "what claims to act changes the forward pass; every parameter learns",
    "hard-coded": "a score is computed, not written down",
    "hidden": "all code that runs can be read",
    "size": "code and artifact, as shipped, are at most 16,000,000 bytes, for every seed",
    "time": "training and scoring keep to their ten minutes each, for every seed",
    "files": "the folder holds what a record needs, and runs from inside itself",
    "schema": "submission.json is valid JSON with the field's names and types",
    "figures": "every number in submission.json and README.md is that of a log",
    "seeds": "three seeds or more, of one code and one set of settings",
    "selection": "every launch is listed; none is left out without a stated reason",
    "significance": "the gain over the row it claims to beat is not noise",
}
# What to do about a broken rule, of those that the audit judges by running what it is given.
REMEDIES = {
    "causal": "compute the distribution of a target from tokens before it alone",
    "normalised": "normalise over the whole vocabulary before the target is looked at",
    "score-first": "score a token first, learn from it afterwards; warm up on made-up tokens",
    "one-pass": "score every target once, in one pass, head and short last window included",
    "isolation": "reset what crosses a document start (mask it at BOS), or do not claim isolation",
    "bytes": "count bytes by evaluate.ByteTable, whose total equals the decoded text",
    "validation": "score the whole published validation split, and train on none of it",
    "artifact-only": "put what the score needs into the artifact or the counted code",
    "network": "fetch everything before scoring; the network is closed then",
    "phases": "read training data inside the training clock only; calibrate before it ends",
    "time": "end training, averaging, packing and writing before the cap",
    "dead-feature": "mend it or remove it; what does not act is not part of the result",
}
UNLAWFUL = 1
UNREADABLE = 2
UNTIDY = 3
LONGEST = 200  # characters of evidence or remedy, unless the report is verbose
LEVELS = ("fail", "warn", "ok")


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Raises: ValueError for a rule or a level that does not exist.
    """

    rule: str  # a key of RULES
    level: str  # "fail": breaks the rule; "warn": a person has to look; "ok": checked and holds
    place: str  # file, file:line, or what was probed; "where" in JSON
    evidence: str  # what was found, with its numbers
    remedy: str = ""  # what to do about it; empty where the level is "ok"

    def __post_init__(self):
        for value, allowed in ((self.rule, RULES), (self.level, LEVELS)):
            if value not in allowed:
                raise ValueError(f"{value!r} must be one of {', '.join(allowed)}")

    def row(self) -> dict[str, str]:
        """The finding as reports in JSON and records spell it.

        >>> Finding("time", "ok", "train.log:9", "599 s").row()
        {'rule': 'time', 'level': 'ok', 'where': 'train.log:9', 'evidence': '599 s', 'remedy': ''}
        """
        return {
            "rule": self.rule,
            "level": self.level,
            "where": self.place,
            "evidence": self.evidence,
            "remedy": self.remedy,
        }

    @classmethod
    def from_row(cls, row: dict[str, str]) -> "Finding":
        """The finding of a row of such a report.

        Raises: KeyError or TypeError for a row with other keys.
        """
        fields = dict(row)
        place = fields.pop("where")
        return cls(place=place, **fields)


def broken(rule: str, place: str, evidence: str) -> Finding:
    """The finding that a rule is broken, with the usual remedy."""
    return Finding(rule, "fail", place, evidence, REMEDIES[rule])


def holds(rule: str, place: str, evidence: str) -> Finding:
    """The finding that a rule was checked and is kept."""
    return Finding(rule, "ok", place, evidence)


def is_unlawful(findings: Iterable[Finding]) -> bool:
    return any(finding.level == "fail" for finding in findings)


def status(findings: Iterable[Finding]) -> int:
    """Exit status: 1 unlawful, 2 not all could be read, 3 untidy (warnings alone), 0 neither."""
    findings = list(findings)
    if is_unlawful(findings):
        return UNLAWFUL
    if any(finding.rule == "hidden" and finding.level == "warn" for finding in findings):
        return UNREADABLE
    if any(finding.level == "warn" for finding in findings):
        return UNTIDY
    return 0


def printable(text: str) -> str:
    """The text on one line, its control characters spelled out: they would steer the terminal.

    >>> printable("seed\\x1b[2J 1")
    'seed\\\\x1b[2J 1'
    """
    words = " ".join(text.split())
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in words
    )


def shorten(text: str) -> str:
    """The beginning of a long text."""
    return text if len(text) <= LONGEST else text[: LONGEST - 2].rsplit(" ", 1)[0] + " …"


def grouped(findings: list[Finding]) -> list[tuple[Finding, int]]:
    """The first finding of each fault, and in how many places it is.

    Two findings are one fault where rule, level, remedy and, but for its numbers, evidence agree.
    """
    counts: dict[tuple, int] = {}
    first: dict[tuple, Finding] = {}
    for finding in findings:
        evidence = re.sub(r"\d[\d.,]*", "0", finding.evidence)
        fault = (finding.level, finding.rule, evidence, finding.remedy)
        first.setdefault(fault, finding)
        counts[fault] = counts.get(fault, 0) + 1
    return [(finding, counts[fault]) for fault, finding in first.items()]


def format_findings(
    findings: Iterable[Finding], as_json: bool = False, verbose: bool = False
) -> str:
    """The findings as text, worst first and by rule, or as one JSON object.

    As text one line a fault, with its first place and the number of others, and its remedy. What
    holds is counted in the last line. verbose shows every place, at full length, and what holds.
    """
    order = [(level, rule) for level in LEVELS for rule in RULES]
    ranked = sorted(findings, key=lambda f: order.index((f.level, f.rule)))
    if as_json:
        return json.dumps({"status": status(ranked), "findings": [f.row() for f in ranked]})
    faults = (
        [(f, 1) for f in ranked] if verbose else grouped([f for f in ranked if f.level != "ok"])
    )
    lines = []
    for finding, count in faults:
        place = printable(finding.place) + (f" and {count - 1} more" if count > 1 else "")
        evidence = printable(finding.evidence)
        remedy = printable(finding.remedy)
        if not verbose:
            evidence = shorten(evidence)
            remedy = shorten(remedy)
        lines.append(f"{finding.level.upper():4}  {finding.rule}  {place}: {evidence}")
        lines += [f"      -> {remedy}"] if remedy else []
    counts = [f"{sum(f.level == level for f in ranked)} {level}" for level in LEVELS]
    return "\n".join([*lines, f"findings: {', '.join(counts)}"])
