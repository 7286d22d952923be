"""A packed folder is made again: no digit of it can be changed unseen."""

import json

import pytest

from tests.tools.submission.conftest import edit, faults_in
from tests.tools.submission.test_pack import FOLDER as OURS
from tests.tools.submission.test_pack import pack as pack_runs
from tests.tools.submission.test_pack import runs  # noqa: F401 (a fixture)
from tools.submission.documents import render
from tools.submission.record_folder import read_record_folder
from tools.submission.regenerated import check_generated


def flipped(data: bytes, place: int) -> bytes:
    """The bytes with the digit at this place changed."""
    digit = data[place] - ord("0")
    return data[:place] + str((digit + 1 + place % 9) % 10).encode() + data[place + 1 :]


@pytest.mark.parametrize("name", ["README.md", "submission.json"])
def test_any_digit_that_is_changed_is_found(runs, name):  # noqa: F811
    """One digit in 19 of both files, one at a time; `pack` made them, none is spared."""
    assert pack_runs(runs) == 0
    path = OURS / name
    data = path.read_bytes()
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    assert len(digits) > 500
    for place in digits[:: 19 if name == "README.md" else 37]:
        path.write_bytes(flipped(data, place))
        record, faults = read_record_folder(OURS)
        assert [f for f in [*faults, *check_generated(record)] if f.level == "fail"], data[
            place - 30 :
        ]
    path.write_bytes(data)
    assert faults_in(OURS) == set()


def test_what_no_log_tells_is_held_together(runs):  # noqa: F811
    """A statement changed in both files at once is at odds with a log or with the folder."""
    assert pack_runs(runs) == 0
    content = json.loads((OURS / "submission.json").read_text())
    groups = content["bytes_by_group"]
    changes = [
        {"date": "2026-05-04"},
        {"command": [content["command"][0].replace("0.03", "0.04"), *content["command"][1:]]},
        {"launches": content["launches"][:2]},
        {"bytes_by_group": groups | {"overhead_bytes": groups["overhead_bytes"] - 1}},
    ]
    for change in changes:
        for name, data in render(OURS, content | change).items():
            (OURS / name).write_bytes(data)
        assert ("figures", "fail") in faults_in(OURS), change


def test_a_file_added_or_changed_later_is_found(runs):  # noqa: F811
    """The hashes of all files stand in submission.json, those of logs too."""
    assert pack_runs(runs) == 0
    edit(OURS / "train_seed1.log", "train_loss:2.1", "train_loss:2.2")
    assert ("figures", "fail") in faults_in(OURS)
    edit(OURS / "train_seed1.log", "train_loss:2.2", "train_loss:2.1")
    assert faults_in(OURS) == set()
    (OURS / "notes.txt").write_text("later")
    assert ("figures", "fail") in faults_in(OURS)


def test_another_format_is_not_passed_over(runs):  # noqa: F811
    """A folder of a later version is not taken for checked."""
    assert pack_runs(runs) == 0
    edit(OURS / "submission.json", '"tools.submission.pack 4"', '"tools.submission.pack 5"')
    assert ("schema", "fail") in faults_in(OURS)
