"""What a gain is worth against the noise of seeds."""

import re

import pytest

from tests.tools.submission.conftest import edit, edit_json, field_folder
from tools.submission import leaderboard, significance
from tools.submission.check import check
from tools.submission.record_folder import read_record_folder
from tools.submission.significance import is_own_row


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


ROW = leaderboard.find_row(leaderboard.load_leaderboard(), "315")


def rival_of(folder) -> str:
    (finding,) = [f for f in check(folder) if f.rule == "significance"]
    return re.search(r"gained over (\S+)", finding.evidence)[1]


@pytest.mark.parametrize("own_score", ["mean", "best seed"])
def test_a_record_is_not_compared_with_its_own_row(tmp_path, monkeypatch, own_score):
    """Whatever the folder is called, and though the row is a day older than submission.json."""
    folder = field_folder(tmp_path / "field")
    edit_json(folder, date="2026-03-22")
    assert rival_of(folder) == "#315"
    bpb = 1.12101234 if own_score == "mean" else 1.12001234
    own = {**vars(ROW), "bpb": bpb, "seeds": {}, "pr": 316}
    rows = [*leaderboard.load_leaderboard(), leaderboard.LeaderboardRow(**own)]
    monkeypatch.setattr(significance.leaderboard, "load_leaderboard", lambda: rows)
    assert rival_of(folder) == "#315"


def test_a_row_is_a_record_s_own_by_folder_or_by_a_seed(tmp_path):
    record, _ = read_record_folder(field_folder(tmp_path / "field"))
    assert not is_own_row(ROW, record)
    assert is_own_row(leaderboard.LeaderboardRow(**{**vars(ROW), "seeds": {2: 1.12101234}}), record)
    assert is_own_row(
        leaderboard.LeaderboardRow(**{**vars(ROW), "folder": "records/track/field"}), record
    )
    near = leaderboard.LeaderboardRow(**{**vars(ROW), "folder": "records/track/other_field"})
    assert not is_own_row(near, record)


def test_the_gain_is_over_the_mean_of_a_row_that_bears_its_best_seed(tmp_path):
    folder = field_folder(tmp_path / "field")
    edit_json(folder, date="2026-03-22")
    (finding,) = [f for f in check(folder) if f.rule == "significance"]
    assert "+0.00402 bpb gained over #315 (2026-03-21, 1.1250318)" in finding.evidence
