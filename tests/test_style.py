"""The shape of the repository: import direction, one reader of settings, where tests lie."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

from train_gpt import PRESETS, Hyperparameters

ROOT = Path(__file__).parents[1]
OURS = {"train_gpt", "codec", "quantize", "evaluate", "golf", "data", "tools", "baselines"}
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not {"logs", ".venv", "build"} & set(path.relative_to(ROOT).parts)
    and not path.match("records/*/*/*.py")  # frozen
]


def imports(path: Path) -> set[str]:
    """Top-level names of every module that a file imports, wherever the statement stands."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def imported_modules() -> dict[str, set[str]]:
    """For every module of ours those of ours that it imports, wherever the statement stands."""
    graph = {}
    for name, path in MODULES.items():
        package = name if path.stem == "__init__" else name.rpartition(".")[0]
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above * bool(node.level), *[node.module] * bool(node.module)])
                names = {f"{base}.{alias.name}" for alias in node.names}
                found |= {full if full in MODULES else base for full in names}
        graph[name] = found & MODULES.keys()
    return graph


def test_presets_name_settings():
    """A preset changes settings that exist."""
    for preset in PRESETS.values():
        Hyperparameters(**preset)


def test_leaves_import_nothing_of_ours():
    """evaluate.py and the codec are leaves; train_gpt.py imports these alone."""
    assert not imports(ROOT / "evaluate.py") & OURS
    assert not imports(ROOT / "codec" / "trellis.py") & OURS
    assert imported_modules()["codec.rans"] == {"codec.trellis"}
    assert imported_modules()["quantize"] == {"codec.rans", "codec.trellis"}
    own = {"quantize", "codec", "evaluate"}
    assert imports(ROOT / "train_gpt.py") & OURS == own


@pytest.mark.parametrize("name", ["d12", "gpt2", "preln", "distill"])
def test_a_baseline_needs_pytorch_alone(name):
    """A baseline's file is published as it is, so that it runs where nothing of ours is."""
    assert imports(ROOT / "baselines" / f"{name}.py") <= {"dataclasses", "math", "torch"}


def test_one_place_reads_the_environment():
    """Only main of train_gpt.py touches os.environ; the other sources have no hidden settings."""
    readers = {}
    for path in SOURCES:
        if "tests" not in path.parts and path.name != "golf.py":
            text = path.read_text()
            readers[path.name] = text.count("os.environ") + text.count("getenv")
    assert readers.pop("train_gpt.py") == 2
    assert readers.pop("fetch.py") == 1  # the field names its repositories by variables
    assert not any(readers.values()), readers


def test_importing_has_no_effect(tmp_path):
    """Importing the sources and every tool writes nothing and prints nothing."""
    modules = ["train_gpt", "quantize", "codec.report", "evaluate", "data.prepare"]
    modules += ["baselines.train", *(name for name in MODULES if name.startswith("tools."))]
    modules = [name for name in modules if "remote_code" not in name]  # needs transformers
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}"
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=tmp_path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_error_is_swallowed(path):
    """No bare except, and no handler that only passes."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"bare except in line {node.lineno}"
            broad = ast.unparse(node.type) in ("Exception", "BaseException")
            only_passes = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (broad and only_passes), f"swallowed error in line {node.lineno}"


def test_every_source_file_has_its_tests():
    """Code in FOLDER/x.py is tested by tests/FOLDER/test_x.py, and every test file has its source;
    what is published is tested as published."""
    code = {path.relative_to(ROOT) for path in SOURCES if path.stem != "__init__"}
    tests = {path.relative_to("tests") for path in code if path.parts[0] == "tests"}
    code = {path for path in code if not {"tests", "remote_code"} & set(path.parts)}
    wanted = {path.with_name(f"test_{path.name}") for path in code}
    tests = {path for path in tests if path.name not in ("conftest.py", "test_style.py")}
    assert (wanted - tests, tests - wanted) == (set(), set())


def test_no_two_modules_import_each_other():
    """No circle of imports, those inside functions included."""
    list(graphlib.TopologicalSorter(imported_modules()).static_order())  # CycleError shows it


def test_nothing_but_tools_and_tests_imports_tools():
    """Tools act on runs from outside; golf.py starts them by name."""
    for name, needs in imported_modules().items():
        if name.split(".")[0] not in ("tools", "tests"):
            assert not [need for need in needs if need.split(".")[0] == "tools"], name
