"""What a gain is worth against the noise of seeds."""

from tests.tools.submission.conftest import edit, edit_json, field_folder
from tools.submission.check import check


def test_a_gain_within_noise_is_told(folder):
    """Against the row that stood on its day: p for each reading of 0.005 nats, and no more."""
    edit_json(folder, date="2026-04-30")
    (finding,) = [f for f in check(folder) if f.rule == "significance"]
    assert finding.level == "warn" and "p = 1 for any gain" in finding.evidence
    assert finding.evidence.startswith("-0.0") and "claim no record" in finding.remedy
    with open(folder / "README.md", "a") as file:
        file.write("Welch, one-sided: p < 1e-7.\n")
    claims = [f.evidence for f in check(folder) if f.rule == "significance"]
    assert any(text.startswith("claims p of 1e-7") for text in claims)
    assert not [f for f in check(folder, track="unlimited") if f.rule == "significance"]


def test_without_a_date_there_is_no_row_to_compare_with(tmp_path):
    """Neither the newest record nor its own row."""
    folder = field_folder(tmp_path / "field")
    edit(folder / "submission.json", '"2026-03-19"', "null")
    (finding,) = [f for f in check(folder) if f.rule == "significance"]
    assert finding.level == "warn" and "no row to compare" in finding.evidence
