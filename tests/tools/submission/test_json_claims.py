"""submission.json: its names and types, and its figures against the logs."""

import pytest

from tests.tools.submission.conftest import SEEDS, edit_json, faults_in


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
