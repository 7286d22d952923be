"""The size check: what counts, what does not, and where the cap stands."""

import json
import os
from pathlib import Path

import pytest

from quantize import CAP_BYTES
from tools.submission.size import main, weigh

ARTIFACT_BYTES = 1000


def make(folder: Path, code: str = "", files: dict[str, str] | None = None) -> Path:
    """A run folder: an artifact, train_gpt.py with the given code, and the given files."""
    (folder / "artifact.pgz").write_bytes(b"\0" * ARTIFACT_BYTES)
    for name, text in {"train_gpt.py": code, **(files or {})}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def counted(folder: Path) -> set[str]:
    names = {row["path"] for row in weigh(folder)["counted"]}
    assert {"artifact.pgz", "train_gpt.py"} <= names
    return names - {"artifact.pgz", "train_gpt.py"}


@pytest.mark.parametrize("over, status", [(0, 0), (1, 1)])
def test_the_cap_is_exact(tmp_path, over, status):
    """16,000,000 bytes of artifact and code pass; one byte more fails."""
    make(tmp_path, "import helper", {"helper.py": "x = 1\n"})
    os.truncate(tmp_path / "artifact.pgz", 16_000_000 - len("import helper" + "x = 1\n") + over)
    assert main([str(tmp_path)]) == status
    assert weigh(tmp_path)["margin_bytes"] == -over
    assert CAP_BYTES == 16_000_000


@pytest.mark.parametrize(
    "code",
    [
        "import helper",
        "import helper as h",
        "from helper import *",
        "from helper import thing",
        "def later():\n    from helper import thing",
        "import importlib\nimportlib.import_module('helper')",
        "__import__('helper')",
        "import runpy\nrunpy.run_module('helper')",
        "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'helper'])",
        "import os\nos.system('python helper.py --fast')",
        "exec(open('helper.py').read())",
        "from pathlib import Path\nexec((Path(__file__).parent / 'helper.py').read_text())",
        "NAME = 'helper.py'\nsource = open(NAME).read()",
        "import os\nopen(f'{os.getcwd()}/helper.py')",
    ],
)
def test_a_helper_counts_however_it_is_loaded(tmp_path, code):
    """Imports, imports by name, subprocesses and plain opening all add the helper's bytes."""
    make(tmp_path, code, {"helper.py": "y = 2\n" * 100})
    assert counted(tmp_path) == {"helper.py"}
    assert weigh(tmp_path)["code_bytes"] == len(code) + 600


def test_a_stub_counts_what_it_opens_and_what_that_imports(tmp_path):
    """A 74-byte entry that executes a second file, which imports a third: all three count."""
    files = {
        "decoded.txt": "import deep.inner\n" + "z = 3\n" * 50,
        "deep/__init__.py": "# package\n",
        "deep/inner.py": "from . import sibling",
        "deep/sibling.py": "w = 4\n",
    }
    make(tmp_path, "exec(compile(open('decoded.txt').read(), 'decoded.txt', 'exec'))", files)
    assert counted(tmp_path) == set(files)


def test_kernels_binaries_and_folders_on_the_path_count(tmp_path):
    """A kernel and its header, an extension module, a module in another folder and its data."""
    (tmp_path / "outside.dat").write_text("of no interest")
    folder = tmp_path / "run"
    folder.mkdir()
    files = {
        "kernel.cpp": '#include "kernel.h"\nint f() { return \'"\'; }',
        "kernel.h": '#include "deeper.cuh"\n',  # which Python reads as a comment
        "deeper.cuh": "#define N 3",
        "lib/hidden.py": "open('table.dat')",
        "lib/table.dat": "1 2 3",
        "native.cpython-311.so": "\x7fELF",
    }
    code = (
        "import sys, native, hidden\nsys.path.insert(0, 'lib')\nK = 'kernel.cpp', '../outside.dat'"
    )
    make(folder, code, files)
    assert counted(folder) == set(files)


def test_weights_in_a_second_file_count(tmp_path):
    """Half of the weights under another name is no way around the cap."""
    make(tmp_path, "import torch\ntorch.load('half.ptz')", {"half.ptz": "h" * 70})
    assert counted(tmp_path) == {"half.ptz"}


def test_code_is_not_hidden_by_the_name_of_a_report(tmp_path):
    """A report that the code merely names is free; one that the code executes is not."""
    make(tmp_path, "open('settings.json')", {"settings.json": "{}"})
    assert counted(tmp_path) == set()
    make(tmp_path, "exec(open('settings.json').read())")
    assert counted(tmp_path) == {"settings.json"}


def test_the_trainer_that_a_run_names_counts_too(tmp_path):
    """With what it imports; train_gpt.py counts in any case, whatever settings.json says."""
    files = {
        "settings.json": json.dumps({"code": "other.train"}),
        "other/__init__.py": "x = 1",
        "other/train.py": "import train_gpt\nfrom other import model",
        "other/model.py": "y = 2",
        "other/idle.py": "z = 3",
        "helper.py": "h = 4",
    }
    make(tmp_path, "import helper", files)
    names = {"other/__init__.py", "other/train.py", "other/model.py", "helper.py"}
    assert counted(tmp_path) == names
    for code in ("other.none", None, 3):
        (tmp_path / "settings.json").write_text(json.dumps({"code": code}))
        assert counted(tmp_path) - {"other/__init__.py"} == {"helper.py"}
    (tmp_path / "settings.json").write_text("{")
    assert main([str(tmp_path)]) == 2


def test_honest_files_are_free_and_listed(tmp_path):
    """Docs, logs, data, checkpoints, unreached code and docstrings cost nothing but are shown."""
    free = ["README.md", "train.log", "checkpoint.pt", "sp_1024.model", "x_val_000000.bin"]
    code = f'"""helper.py"""\nNAMES = {free}\nprint("see helper.py for more")\nimport json, torch\n'
    make(tmp_path, code, {"helper.py": "pass"})
    for name in free:
        (tmp_path / name).write_text("text")
    assert counted(tmp_path) == set()
    rest = {row["path"]: row["why"] for row in weigh(tmp_path)["not_counted"]}
    assert set(rest) == {*free, "helper.py"} and "not reached" in rest["helper.py"]


def test_the_largest_packed_file_is_the_artifact_of_a_foreign_folder(tmp_path):
    """Without artifact.pgz the largest packed file but shards; with it, that one, large or not."""
    (tmp_path / "train_gpt.py").write_text("")
    sizes = {"small.ptz": 5, "final_model.int6.ptz": 50, "fineweb_val_000000.bin": 500}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(b"\0" * size)
    assert weigh(tmp_path)["model_bytes"] == 50
    assert weigh(tmp_path, tmp_path / "small.ptz")["model_bytes"] == 5
    (tmp_path / "artifact.pgz").write_bytes(b"\0")
    assert weigh(tmp_path)["model_bytes"] == 1


def test_json_is_one_object_with_these_fields(tmp_path, capsys):
    """--json: the sums add up, and every counted file stands in it with its size and reason."""
    make(tmp_path, "import helper", {"helper.py": "u = 6"})
    assert main([str(tmp_path), "--json"]) == 0
    weight = json.loads(capsys.readouterr().out)
    sizes = ["model_bytes", "code_bytes", "total_bytes", "cap_bytes", "margin_bytes"]
    assert list(weight) == [*sizes, "fits", "counted", "not_counted"]
    assert weight["model_bytes"] == ARTIFACT_BYTES and weight["fits"] is True
    assert weight["total_bytes"] == sum(row["bytes"] for row in weight["counted"])
    assert weight["total_bytes"] == weight["model_bytes"] + weight["code_bytes"]
    assert weight["counted"][-1] == {
        "path": "helper.py",
        "bytes": 5,
        "why": "imported by train_gpt.py",
    }


def test_a_run_is_found_by_its_id(tmp_path, monkeypatch, capsys):
    """A run id stands for logs/<run_id>, and the table ends with sums and verdict."""
    (tmp_path / "logs/one").mkdir(parents=True)
    make(tmp_path / "logs/one")
    monkeypatch.chdir(tmp_path)
    assert main(["one"]) == 0
    *_, sums, verdict = capsys.readouterr().out.splitlines()
    assert sums.startswith("size model_bytes:1000 code_bytes:0 total_bytes:1000 cap_bytes:16000000")
    assert verdict == "fits the cap"


@pytest.mark.parametrize(
    "missing, remedy", [("artifact.pgz", "finish the run"), ("train_gpt.py", "name the folder")]
)
def test_what_cannot_be_weighed_is_status_2(tmp_path, capsys, missing, remedy):
    """No artifact or no code: an error that says what to do, and neither a pass nor a fail."""
    make(tmp_path)
    (tmp_path / missing).unlink()
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert missing in error and remedy in error


def test_code_that_is_not_python_is_status_2(tmp_path, capsys):
    """Sources that cannot be read could load anything, so there is no verdict."""
    make(tmp_path, "import helper", {"helper.py": "def :"})
    assert main([str(tmp_path)]) == 2
    assert "helper.py is not Python" in capsys.readouterr().err


def test_a_link_out_of_the_folder_is_not_followed(tmp_path, capsys):
    """Neither weighed nor read: what it names is not shipped; the folder itself may be a link."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "secret.py").write_text("print('password')\n" * 1000)
    (real / "helper.py").symlink_to(tmp_path / "secret.py")
    (real / "train_gpt.py").write_text("import helper\n")
    (real / "artifact.pgz").write_bytes(b"x" * 1000)
    folder = tmp_path / "linked"
    folder.symlink_to(real)
    assert weigh(folder)["total_bytes"] == 1000 + len("import helper\n")
    (real / "train_gpt.py").unlink()
    (real / "train_gpt.py").symlink_to(tmp_path / "secret.py")
    assert main([str(folder)]) == 2
    assert "link out of its folder; ship the file itself" in capsys.readouterr().err
