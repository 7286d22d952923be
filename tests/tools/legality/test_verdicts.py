"""Every pattern has a rule, evidence and a remedy."""

import pytest

from tools.legality.rules import RULES
from tools.legality.verdicts import VERDICTS, say


@pytest.mark.parametrize("pattern", VERDICTS)
def test_a_verdict_names_rule_place_and_remedy(pattern):
    """With the detail where its evidence has a place for one."""
    finding = say(pattern, "a.py:3", detail="table.bin")
    assert finding.rule in RULES and finding.level == "fail" and finding.place == "a.py:3"
    assert finding.remedy and finding.evidence
    assert ("table.bin" in finding.evidence) == ("{}" in VERDICTS[pattern][1])
