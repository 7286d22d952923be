"""Sources of a newer Python than this one are parsed, line by line as they are."""

import ast
import sys

import pytest

from tools.submission import newer_python
from tools.submission.newer_python import parse


def needs_new_libcst() -> None:
    """Skip where libcst is missing, or too old to read newer syntax itself."""
    if not hasattr(pytest.importorskip("libcst"), "TypeParameters"):
        pytest.skip("needs libcst 1.8")


def test_what_this_python_reads_is_not_touched(monkeypatch):
    """libcst is asked only where the running Python fails."""
    monkeypatch.setattr(newer_python, "simplify_apart", None)
    assert ast.unparse(parse("x = f'{y}'")) == "x = f'{y}'"


NEW = '''def first[T](x: T) -> T:
    type Row = dict
    print(f"{x["a"]} {", ".join(f"{y!r:>{w}}" for y in x)}")
    print("a" f"""{a
      + 1} {b["c"]}""" "d")
    z = 3


class Rows[T]:
    pass
'''


def test_new_syntax_gives_way_to_old():
    """The values of an f-string stay, type parameters go, and every statement keeps its line."""
    needs_new_libcst()
    tree = newer_python.parse_here(newer_python.simplify(NEW, "new"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {"x", "y", "w", "a", "b", "z", "Row"} <= names
    lines = {
        node.targets[0].id: node.lineno for node in ast.walk(tree) if isinstance(node, ast.Assign)
    }
    assert lines == {"Row": 2, "z": 6}


@pytest.mark.parametrize(
    "text", ["def :", "x = '\0'", "for x of y: pass", "(" * 3000, "not " * 1500 + "x of"]
)
def test_what_is_no_python_is_an_error(text):
    """One line that says why."""
    with pytest.raises(ValueError) as error:
        parse(text)
    assert str(error.value) and "\n" not in str(error.value)


def test_without_libcst_the_error_says_so(monkeypatch):
    """And how to get it."""
    monkeypatch.setitem(sys.modules, "libcst", None)
    with pytest.raises(ValueError, match="--with scripts"):
        newer_python.simplify("def f[T](x) = 1", "invalid syntax")
