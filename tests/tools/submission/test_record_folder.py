"""Reading a record folder: its track, its broken JSON, and links out of it."""

from tests.tools.submission.conftest import edit, edit_json, field_folder
from tools.legality.rules import format_findings
from tools.submission.check import check
from tools.submission.record_folder import read_record_folder


def test_the_track_is_read_from_where_it_stands(folder):
    """From the JSON in its spellings, else from the path; given, it is taken as given."""
    for stated, track in (
        ("10min_16mb", "10min_16mb"),
        ("track_10min_16mb", "10min_16mb"),
        ("non-record-16mb", "non_record_16mb"),
        ("track_non_record_16mb", "non_record_16mb"),
        (None, "10min_16mb"),
    ):
        edit_json(folder, track=stated)
        assert read_record_folder(folder)[0].track_name == track
    assert read_record_folder(folder, "unlimited")[0].track_name == "unlimited"


def test_broken_json_is_placed(folder):
    """A trailing comma is a finding with line and column, and the rest is still checked."""
    edit(folder / "submission.json", "\n}", ",\n}")
    findings = [f for f in check(folder) if f.rule == "schema"]
    assert findings[0].level == "fail" and "column" in findings[0].evidence
    assert any(f.rule == "size" for f in check(folder))


def test_what_lies_outside_the_folder_is_not_read(tmp_path):
    """A README, a script or a submission.json that links out of it is told, not followed."""
    folder = field_folder(tmp_path / "2026-03-19_Field")
    (tmp_path / "secret").write_text("password")
    names = ("README.md", "more.py", "submission.json")
    for name in names:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "secret")
    findings = check(folder)
    assert {f.place for f in findings if f.rule == "hidden"} == set(names)
    assert "password" not in format_findings(findings, verbose=True)
