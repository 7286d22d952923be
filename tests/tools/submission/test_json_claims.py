"""submission.json: its names and types, and its figures against the logs."""

import pytest

from tests.tools.submission.conftest import MODEL, SCRIPT, SEEDS, bits, edit_json, faults_in
from tools.submission.check import check


@pytest.mark.parametrize(
    "changes, level",
    [
        ({"author": None}, "warn"),
        ({"github_id": ""}, "warn"),
        ({"date": "last week"}, "warn"),
        ({"date": "2026-03-18T00:05:35Z"}, None),
        ({"bytes_total": "15 MB"}, "fail"),
        ({"bytes_total": None}, "warn"),
        ({"val_bpb": None, "mean_val_bpb": 1.1504}, "warn"),
        ({"val_bpb": "1.1504"}, "fail"),
    ],
)
def test_the_schema_of_the_field(folder, changes, level):
    """Names and types; the field's other spellings are read, with a warning."""
    edit_json(folder, **changes)
    levels = {f[1] for f in faults_in(folder) if f[0] == "schema"}
    assert levels == ({level} if level else set())


@pytest.mark.parametrize(
    "changes",
    [
        {"val_loss": 1.9},
        {"seeds": [42, 314, 1337, 7], "seed_results": {"7": {"val_bpb": 1.15}}},
        {"seed_results": {str(s): {"val_bpb": 1.1401, "steps": 7200} for s in SEEDS}},
        {"seed_results": {str(s): {"steps": 7201} for s in SEEDS}},
    ],
)
def test_the_figures_of_the_json_are_those_of_the_logs(folder, changes):
    """Mean loss, seeds without a log, and numbers of a seed that its log does not say."""
    edit_json(folder, **changes)
    assert ("figures", "fail") in faults_in(folder)


def figure_faults(folder, **changes) -> list[tuple[str, str]]:
    """Level and evidence of what is said about the figures of a changed submission.json."""
    edit_json(folder, **changes)
    return [(f.level, f.evidence) for f in check(folder) if f.rule == "figures" and f.level != "ok"]


@pytest.mark.parametrize(
    "size, level, says",
    [
        (MODEL[42] + len(SCRIPT), "warn", "is not the largest"),
        (sum(MODEL.values()) // 3 + len(SCRIPT), "warn", "is the mean of the logs"),
        (15_700_000, "fail", "and stands in no log"),
        (15_999_999, "warn", "stands in no log (largest"),
    ],
)
def test_a_size_is_that_of_the_largest_seed(folder, size, level, says):
    """Another seed's or the mean is a figure of the logs; one that flatters and is none fails."""
    [(found_level, evidence)] = figure_faults(folder, bytes_total=size)
    assert found_level == level and says in evidence


def test_one_seed_for_the_mean_fails_where_it_flatters(folder):
    """1337 is the best of the three, 314 the worst; of one run score and loss are one finding."""
    loss, bpb = bits(1337)
    [(level, evidence)] = figure_faults(folder, val_bpb=bpb, val_loss=loss)
    assert level == "fail" and "val_bpb 1.15" in evidence and "train_seed1337.log" in evidence
    loss, bpb = bits(314)
    [(level, _)] = figure_faults(folder, val_bpb=bpb, val_loss=loss)
    assert level == "warn"


def test_a_score_in_the_place_of_the_loss_is_told_once(folder):
    """By the schema, which also says what it is."""
    assert figure_faults(folder, val_bpb=None, val_loss=1.1504) == []
    assert ("schema", "fail") in faults_in(folder)
