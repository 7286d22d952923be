"""The shape of the repository: who imports whom, who reads the environment, where tests lie.

How a file reads is judged by reading it. Here stands what is structural.
"""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [
    path
    for path in sorted(ROOT.rglob("*.py"))
    if not {"logs", ".venv", "build"} & set(path.relative_to(ROOT).parts)
    and not path.match("records/*/*/*.py")  # frozen
]
TEST_HELPERS = (
    "conftest.py",
    "field_styles.py",
    "scoring_texts.py",
    "test_style.py",
    "tiny_runs.py",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in SOURCES}


def is_script_guard(node: ast.AST) -> bool:
    """Whether this is `if __name__ == "__main__":`, which no importer runs."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def imported_names(path: Path) -> set[str]:
    """Full names of all that a module imports, inside functions too; relative ones resolved."""
    name = module_name(path)
    package = name if path.stem == "__init__" else name.rpartition(".")[0]
    names = set()
    statements = [node for node in ast.parse(path.read_text()).body if not is_script_guard(node)]
    for node in (inner for statement in statements for inner in ast.walk(statement)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = package.split(".")
                above = parts[: len(parts) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            full_names = {f"{base}.{alias.name}" for alias in node.names}
            names |= {full if full in MODULES else base for full in full_names}
    return names


IMPORTS = {name: imported_names(path) & MODULES.keys() for name, path in MODULES.items()}


def room(module: str) -> str:
    """The folder of a module; a file at the top is a room of its own."""
    return module.split(".")[0]


def test_no_two_modules_import_each_other():
    """No circle of imports, those inside functions included."""
    list(graphlib.TopologicalSorter(IMPORTS).static_order())  # CycleError shows it


@pytest.mark.parametrize(
    "importer, allowed",
    [
        ("codec", {"codec"}),
        ("quantize", {"codec"}),
        ("evaluate", {"engine"}),
        ("engine", {"engine", "evaluate", "quantize", "codec"}),
        ("train_gpt", {"engine", "evaluate", "quantize"}),
        # codec: a baseline may bring a codec of its own, which train_gpt.py does not import
        (
            "baselines",
            {"baselines", "engine", "evaluate", "quantize", "codec", "train_gpt", "data"},
        ),
        # golf: the next command, as it is typed
        ("data", {"data", "engine", "evaluate", "quantize", "golf"}),
    ],
)
def test_rooms_import_one_way(importer, allowed):
    """codec <- quantize <- engine <- recipes <- baselines; nothing imports tools but tools."""
    for name, needs in IMPORTS.items():
        if room(name) == importer and name != "codec.report":  # it reads artifacts, for people
            others = {need for need in needs if room(need) not in allowed}
            assert not others, f"{name} imports {others}"


def test_the_score_needs_only_leaves_of_the_engine():
    """evaluate.py stands below the engine: what it takes from there imports nothing of ours."""
    for need in IMPORTS["evaluate"]:
        assert not IMPORTS[need] - {"engine", "engine.log_lines"}, need  # itself a leaf


def test_nothing_but_tools_and_tests_imports_tools():
    """Tools act on runs from outside; golf.py starts them by name."""
    for name, needs in IMPORTS.items():
        if room(name) not in ("tools", "tests"):
            assert not [need for need in needs if room(need) == "tools"], name


@pytest.mark.parametrize("name", ["d12", "gpt2", "preln"])
def test_a_published_model_needs_pytorch_alone(name):
    """Its file is published as it is, so that it runs where nothing of ours is."""
    names = {full.split(".")[0] for full in imported_names(ROOT / f"baselines/models/{name}.py")}
    assert names <= {"dataclasses", "math", "torch"}


def test_one_place_reads_the_environment():
    """Only the trainer touches os.environ; the other sources have no hidden settings."""
    readers = {}
    for name, path in MODULES.items():
        if room(name) not in ("tests", "golf"):
            text = path.read_text()
            readers[name] = text.count("os.environ") + text.count("getenv")
    assert readers.pop("engine.trainer") == 2
    assert readers.pop("engine.score_command") == 1  # which of its ranks torchrun started
    assert readers.pop("data.fetch") == 1  # the field names its repositories by variables
    assert readers.pop("tools.runs.ray_sweep") == 1  # Ray is told by variables alone
    assert not any(readers.values()), {name: n for name, n in readers.items() if n}


def test_importing_has_no_effect(tmp_path):
    """Importing the sources and every tool writes nothing and prints nothing."""
    modules = [name for name in MODULES if room(name) not in ("tests", "golf")]
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
            is_broad = ast.unparse(node.type) in ("Exception", "BaseException")
            only_passes = all(isinstance(step, ast.Pass) for step in node.body)
            assert not (is_broad and only_passes), f"swallowed error in line {node.lineno}"


def test_a_class_name_means_one_thing():
    """Recipes and published models have each their own Attention and Settings; all else is once."""
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        if room(module) in ("tests", "train_gpt", "baselines") or "remote_code" in path.parts:
            continue
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}


def test_every_source_file_has_its_tests():
    """Code in FOLDER/x.py is tested by tests/FOLDER/test_x.py, and every test file has its source.

    What is published is tested as published.
    """
    places = {path.relative_to(ROOT) for path in SOURCES if path.stem != "__init__"}
    tests = {path.relative_to("tests") for path in places if path.parts[0] == "tests"}
    tests = {path for path in tests if path.name not in TEST_HELPERS}
    code = {path for path in places if not {"tests", "remote_code"} & set(path.parts)}
    expected = {path.with_name(f"test_{path.name}") for path in code}
    assert (expected - tests, tests - expected) == (set(), set())
