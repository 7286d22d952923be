"""The files of a record folder: imports that nothing meets, and code that did not run."""

import pytest

from tests.tools.submission.conftest import SCRIPT, edit_logs, faults_in
from tests.tools.submission.test_pack import FOLDER as OURS
from tests.tools.submission.test_pack import pack as pack_runs
from tests.tools.submission.test_pack import runs  # noqa: F401 (a fixture)
from tools.submission import bundle
from tools.submission.check import check


@pytest.mark.parametrize(
    "line, level",
    [
        ("import brotli", "warn"),
        ("import torch, triton, numpy", None),
        ("import no_such_module", "fail"),
        ("from no_such_module.part import x", "fail"),
        ("try:\n    import no_such_module\nexcept ImportError:\n    no_such_module = None", None),
    ],
)
def test_imports_are_met(folder, line, level):
    """Provided, in the folder, or named in requirements.txt; a guarded import need not be."""
    text = f"{line}\n{SCRIPT}"
    (folder / "train_gpt.py").write_text(text)
    edit_logs(folder, r"Code size: \d+", f"Code size: {len(text)}")
    assert {f for f in faults_in(folder) if f[0] == "files"} == (
        {("files", level)} if level else set()
    )
    (folder / "requirements.txt").write_text("brotli==1.1.0\nno-such-module>=2\n")
    assert not {f for f in faults_in(folder) if f[0] == "files"}


@pytest.mark.parametrize("plain", [False, True])
def test_other_code_than_ran_is_found(runs, plain):  # noqa: F811
    """A packed script of another version does not match the hashes in the logs."""
    assert pack_runs(runs, *["--plain"] * plain) == 0
    script = OURS / "train_gpt.py"
    files = bundle.unpack(script.read_bytes())
    script.write_bytes(bundle.pack(files | {"evaluate.py": b"VERSION = 2\n"}, plain))
    findings = [f for f in check(OURS) if f.level == "fail" and f.rule == "files"]
    fault = next(f for f in findings if "those that train_seed" in f.evidence)
    assert "evaluate.py" in fault.evidence or not plain
    script.write_bytes(bundle.pack(files | {"more.py": b"VERSION = 2\n"}, plain))
    findings = [f for f in check(OURS) if f.level == "fail" and f.rule == "files"]
    assert any("more.py" in f.evidence for f in findings)
