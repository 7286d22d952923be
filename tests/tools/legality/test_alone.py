"""A command is run in its folder and with its files alone."""

import sys
from pathlib import Path

import pytest

from tests.tools.legality.conftest import broken_rules, finding_of
from tools.legality.alone import audit_alone


def alone(folder: Path, code: str, files=("eval.py",), **options):
    (folder / "eval.py").write_text(code)
    return audit_alone([sys.executable, "eval.py"], folder, list(files), **options)


def test_a_score_is_compared_without_its_times(tmp_path):
    """The last line, but for words about time, which differ from run to run."""
    code = "import time; print('final val_bpb:1.5', f'eval_time:{time.time_ns()}ms', '12.5s')"
    finding = finding_of(alone(tmp_path, code), "artifact-only")
    assert finding.level == "ok" and "'final val_bpb:1.5'" in finding.evidence
    code = "import os; print('final val_bpb:', os.path.exists('beside.txt'))"
    (tmp_path / "beside.txt").write_text("x")
    finding = finding_of(alone(tmp_path, code), "artifact-only")
    assert finding.level == "fail" and "'final val_bpb: True' becomes 'final val_bpb: False'" in (
        finding.evidence
    )
    assert (
        finding_of(alone(tmp_path, code, ("eval.py", "beside.txt")), "artifact-only").level == "ok"
    )


def test_what_is_allowed_elsewhere_is_allowed(tmp_path, tmp_path_factory):
    """Validation text may lie anywhere: a file, or a folder of files."""
    text = tmp_path_factory.mktemp("elsewhere") / "val.bin"
    text.write_text("text")
    code = f"print(open({str(text)!r}).read())"
    assert broken_rules(alone(tmp_path, code)) == ["artifact-only"]
    assert not broken_rules(alone(tmp_path, code, allowed=[text]))
    assert not broken_rules(alone(tmp_path, code, allowed=[text.parent]))


def test_what_cannot_be_run_or_watched_is_said(tmp_path):
    """A command that fails where it should run is no verdict; one that fails alone is one."""
    with pytest.raises(ValueError, match="fails in .*: ZeroDivisionError.*make it run there first"):
        alone(tmp_path, "1 / 0")
    with pytest.raises(ValueError, match="weights.ptz is missing"):
        alone(tmp_path, "0", ["eval.py", "weights.ptz"])
    (tmp_path / "weights.ptz").write_text("w")
    finding = finding_of(alone(tmp_path, "open('weights.ptz')"), "artifact-only")
    assert finding.level == "fail" and "fails with eval.py alone: FileNotFound" in finding.evidence
    finding = finding_of(alone(tmp_path, "import os; os.system('true')"), "artifact-only")
    assert finding.level == "warn" and "true" in finding.evidence
