"""What a source loads, read from its text."""

import ast

import pytest

from tools.submission.imports import follow_imports, imported_names, mentioned_names


@pytest.mark.parametrize(
    "statement, package, names",
    [
        ("import a.b, c", (), ["a.b", "c"]),
        ("from a import b, c", (), ["a.b", "a.c"]),
        ("from . import b", ("a",), ["a.b"]),
        ("from .. import b", ("a", "x"), ["a.b"]),
        ("from .b import *", ("a",), ["a.b.*"]),
        ("a = 1", (), []),
    ],
)
def test_names_are_full(statement, package, names):
    """Relative imports are resolved by the package that the source lies in."""
    assert imported_names(ast.parse(statement).body[0], package) == names


def test_what_a_call_runs_is_told_from_what_a_string_names():
    """The words of a command line are run; other strings are named; docstrings are neither."""
    tree = ast.parse('"""doc.py"""\nos.system("python x.py")\nname = "y.txt"')
    pairs = set(mentioned_names(tree, ()))
    assert {("x.py", "run by"), ("y.txt", "named in")} <= pairs
    assert "doc.py" not in {name for name, _ in pairs}


def test_imports_are_followed(tmp_path):
    """Through packages, late imports and relative ones; not to files that nothing imports."""
    sources = {
        "main.py": "import engine.text\ndef f():\n    import late\n",
        "engine/__init__.py": "",
        "engine/text.py": "from .batches import *\nimport json\n",
        "engine/batches.py": "import engine.text\n",
        "engine/idle.py": "",
        "late.py": "",
    }
    for name, text in sources.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert set(follow_imports(tmp_path, "main.py")) == set(sources) - {"engine/idle.py"}
    (tmp_path / "late.py").write_text("def :")
    with pytest.raises(ValueError, match="late.py is not Python"):
        follow_imports(tmp_path, "main.py")
