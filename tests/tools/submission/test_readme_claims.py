"""The figures of a README against the logs."""

import pytest

from tests.tools.submission.conftest import edit, faults_in


@pytest.mark.parametrize(
    "old, new, level",
    [
        (r"\*\*1\.1508\*\*", "**1.1507**", "fail"),  # of a seed
        (r"15,80[0-4],\d+ \|", "15,800,000 |", "fail"),
        (r"(\| \*\*Mean\*\* .*)1\.1504", r"\g<1>1.1503", "fail"),
        (r"(# Eleven .*)1\.1504", r"\g<1>1.1494", "warn"),
        (r"is 15,8\d\d", "is 15,700", "warn"),
        (r"10000\.0", "20000.0", None),  # no score and no size
        (r"10000\.0", "0.9965, clipped at 0.99999", None),  # a decay and a percentile
        (r"15,80[0-4],\d+ \|", "~15.9M |", None),  # called approximate, and within 1 %
        (r"15,80[0-4],\d+ \|", "~13.1M |", "fail"),
    ],
)
def test_the_figures_of_a_readme_are_looked_for(folder, old, new, level):
    """A changed figure fails in the table of seeds; in prose a person is asked."""
    edit(folder / "README.md", old, new)
    assert faults_in(folder) == ({("figures", level)} if level else set())
