"""What the tests of several checkers say of findings."""


def broken_rules(findings) -> list[str]:
    """The rule of each finding that fails."""
    return [finding.rule for finding in findings if finding.level == "fail"]


def finding_of(findings, rule: str):
    """The one finding of a rule."""
    (finding,) = [finding for finding in findings if finding.rule == rule]
    return finding
