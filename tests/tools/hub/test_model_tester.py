"""transformers' own test: its files are unpacked with stand-ins for what is lacking, or refused."""

import ast
import io
import json
import tarfile

import pytest

from tools.hub import model_tester


def archive(path, *names: str):
    """A source distribution with these files."""
    with tarfile.open(path, "w:gz") as file:
        for name in names:
            member = tarfile.TarInfo(f"transformers-5.23.0/{name}")
            member.size = 6
            file.addfile(member, io.BytesIO(b"x = 1\n"))
    return path


def test_the_tests_are_unpacked_as_a_package(tmp_path):
    """Those of the top alone, with a stand-in for each file that they import and lack."""
    names = ("tests/test_modeling_common.py", "tests/models/x/test_x.py", "src/y.py")
    folder = tmp_path / "tests"
    folder.mkdir()
    model_tester.unpack_tests(archive(tmp_path / "a.tar.gz", *names), folder)
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.py")}
    packages = {"__init__.py", "generation/__init__.py", "exporters/__init__.py"}
    assert files == {"test_modeling_common.py", *model_tester.STAND_INS, *packages}
    with pytest.raises(ValueError, match="has no tests/test_modeling_common.py"):
        other = tmp_path / "other"
        other.mkdir()
        model_tester.unpack_tests(archive(tmp_path / "b.tar.gz", "src/y.py"), other)


def test_the_written_test_is_python():
    ast.parse(model_tester.TEST.format(folder="a", settings={"b": 1}))


def test_what_has_no_code_is_refused(tmp_path, capsys):
    """GPT-2's folder, a folder that is none, a file that is no archive."""
    assert model_tester.main([str(tmp_path), "--sdist", "a"]) == 2
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    assert model_tester.main([str(tmp_path), "--sdist", "a"]) == 2
    assert "brings no code" in capsys.readouterr().err
