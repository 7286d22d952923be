"""submission.json: one form out of the field's many."""

import json
from pathlib import Path

import pytest

from tools.runs.submissions import read_submission


def submit(folder: Path, content) -> Path:
    path = folder / "submission.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_submission_json_in_the_usual_form(tmp_path):
    """Fields, seeds by name and the keys they were read from."""
    row = {"val_bpb": 1.0574, "val_loss": 2.314, "artifact_bytes": 15981945, "steps": 4888}
    raw = {
        **{"name": "N", "author": "A", "github_id": "g", "date": "2026-04-30", "track": "t"},
        **{"val_bpb": 1.05759252, "val_loss": 2.31441043, "bytes_total": 15984387},
        **{"bytes_code": 37155, "hardware": "8xH100 80GB SXM", "seeds": [42, 0]},
        "seed_results": {
            "42": {**row, "train_wallclock_ms": 596025, "eval_time_s": 572.4},
            "0": row,
        },
    }
    submission = read_submission(submit(tmp_path, raw).parent)
    assert (submission.name, submission.author, submission.github_id, submission.track) == (
        "N",
        "A",
        "g",
        "t",
    )
    assert (submission.val_bpb, submission.val_loss, submission.hardware) == (
        1.05759252,
        2.31441043,
        raw["hardware"],
    )
    assert (submission.bytes_total, submission.bytes_code, submission.date) == (
        15984387,
        37155,
        "2026-04-30",
    )
    assert submission.seeds == {42: {**row, "train_time_s": 596.025, "eval_time_s": 572.4}, 0: row}
    assert submission.keys_used["seeds"] == "seed_results" and submission.raw == raw


@pytest.mark.parametrize(
    "raw, field, value, key",
    [
        ({"mean_val_bpb": 1.1}, "val_bpb", 1.1, "mean_val_bpb"),
        ({"val_bpb": None, "mean_bpb": 1.1}, "val_bpb", 1.1, "mean_bpb"),
        ({"val_bpb": "1.0810"}, "val_bpb", 1.081, "val_bpb"),
        ({"val_bpb": True}, "val_bpb", None, None),
        ({"val_loss": float("nan")}, "val_loss", None, None),
        ({"artifact_bytes": "15,990,006 bytes"}, "bytes_total", 15990006, "artifact_bytes"),
        ({"artifact_bytes_max": 5.0, "artifact_bytes": 4}, "bytes_total", 5, "artifact_bytes_max"),
        ({"bytes_total": 1.5}, "bytes_total", None, None),
        ({"authors": ["a", "b"]}, "author", "a, b", "authors"),
        ({"seeds": {"seed_7": {"bpb": 1.2}}}, "seeds", {7: {"val_bpb": 1.2}}, "seeds"),
        ({"seed_results": {"7": 1.2, "mean": 1.3}}, "seeds", {7: {"val_bpb": 1.2}}, "seed_results"),
        ({"seeds": [7], "runs": [{"seed": 7, "steps": 9}]}, "seeds", {7: {"steps": 9}}, "runs"),
        ({"seeds": [7, 8]}, "seeds", {}, None),
        ({"seeds": [7], "seed_scores": [1.2]}, "seeds", {7: {"val_bpb": 1.2}}, "seed_scores"),
        ({"seed_results": {"7": {"eval_time_ms": 1500}}}, "seeds", {7: {"eval_time_s": 1.5}},
         "seed_results"),
    ],
)  # fmt: skip
def test_submission_json_variants(tmp_path, raw, field, value, key):
    """One form out of the field's many; what is missing, null or no number is None."""
    submission = read_submission(submit(tmp_path, raw))
    assert getattr(submission, field) == value and submission.keys_used.get(field) == key


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"a": 1,}', "submission.json: line 1, column"),
        ('{\n"a" 1}', "line 2, column 5"),
        ("[1]", "holds a list; must be one object"),
        ("", "line 1, column 1"),
    ],
)
def test_bad_json_is_named_with_its_place(tmp_path, content, message):
    """A ValueError with path, line, column and what to do."""
    with pytest.raises(ValueError, match=message):
        read_submission(submit(tmp_path, content))


def test_json_that_is_not_text_is_named(tmp_path):
    """Bytes that are no UTF-8 are an error with their place, not a traceback."""
    (tmp_path / "submission.json").write_bytes(b'{"a": "\xe9"}')
    with pytest.raises(ValueError, match="byte 7 is not UTF-8"):
        read_submission(tmp_path)
