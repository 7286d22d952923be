"""Comments and docstrings go, statements and their lines stay."""

import ast

import pytest

from tools.submission.strip import reads_docstrings, strip

SOURCE = '''#!/usr/bin/env python
"""Module."""  # with a comment

from __future__ import annotations

TEXT = """a # that is no comment
"""  # one that is
NAMES = [  # first
    "#",
    # second
    'x',
]


class Error(ValueError):
    """Nothing else."""


def area(r):
    """Of a circle,

    in metres."""
    "not a docstring"
    return 3 * r * r  # about


def one(): "on its line"
def two(): """with another"""; return 2
'''
STRIPPED = '''


from __future__ import annotations

TEXT = """a # that is no comment
"""
NAMES = [
    "#",

    'x',
]


class Error(ValueError):
    pass


def area(r):



    "not a docstring"
    return 3 * r * r


def one(): "on its line"
def two(): """with another"""; return 2
'''


def test_comments_and_docstrings_go():
    """What stands alone on its lines goes; a docstring beside other code stays."""
    assert strip(SOURCE) == STRIPPED
    assert strip(STRIPPED).count("\n") == SOURCE.count("\n")


def test_stripping_twice_changes_nothing():
    """Text without comments is kept as it is, but for a string that now stands first."""
    source = STRIPPED.replace('    "not a docstring"\n', "")
    assert strip(source) == source


def test_the_help_of_a_command_stays():
    """A module that names __doc__ keeps its own docstring, and loses the others."""
    source = '"""Help."""\n\n\ndef main():\n    """Gone."""\n    print(__doc__)\n'
    assert strip(source) == source.replace('"""Gone."""', "").replace("    \n", "\n")


@pytest.mark.parametrize(
    "source, reads",
    [
        ("print(__doc__)", False),
        ("print(main.__doc__)", True),
        ("import inspect\ninspect.getdoc(main)", True),
        ("from inspect import getdoc", True),
        ("getattr(main, '__doc__')", True),
        ("# main.__doc__", False),
    ],
)
def test_code_that_reads_docstrings(source, reads):
    """Of another object than the module itself; then every docstring is kept."""
    assert reads_docstrings(source) == reads
    text = f'{source}\n\n\ndef main():\n    """Kept?"""\n'
    assert ("Kept?" in strip(text, keep_docstrings=reads)) == reads


def test_only_docstrings_leave_the_syntax_tree():
    """The same statements, in the same lines, for a source of this repository."""
    with open(ast.__file__) as file:
        source = file.read()
    stripped = strip(source)
    lines = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    assert lines == [n.lineno for n in ast.walk(ast.parse(stripped)) if isinstance(n, ast.Call)]
    assert len(stripped) < 0.9 * len(source)


def test_other_line_ends_are_left_alone():
    """A carriage return ends a line for Python; such a source is packed as it is."""
    source = "x = 1  # one\r\ny = 2\r\n"
    assert strip(source) == source


TYPED = """class Point:
    x: int = 0  # a field

    def move(self, dx: float, *more: int, far: "Point | None" = None, **rest: str) -> "Point":
        total: float = dx
        self.y: int = 2
        declared: int
        return self


async def wide(
    a: dict[
        str, int
    ],
    b: int = 3,
) -> tuple[
    int
]:
    return a, b
"""
UNTYPED = """class Point:
    x: int = 0

    def move(self, dx, *more, far = None, **rest):
        total = dx
        self.y = 2
        declared: int
        return self


async def wide(
    a

,
    b = 3,
) -> tuple[
    int
]:
    return a, b
"""


def test_types_of_functions_go_and_fields_stay():
    """A class keeps its types, which make fields; each statement keeps its line."""
    assert strip(TYPED) == UNTYPED


@pytest.mark.parametrize(
    "reader",
    ["area.__annotations__", "typing.get_type_hints(area)", "inspect.signature(area)"],
)
def test_types_that_code_reads_stay(reader):
    """They are a part of how it behaves."""
    source = f"def area(r: int) -> int:\n    return r\n\n\nprint({reader})\n"
    assert strip(source) == source


def test_text_before_a_type_may_be_of_many_bytes():
    """Places are counted in bytes by the parser, in characters by the lines."""
    assert strip('def f(a="äöü", b: int = 2): pass\n') == 'def f(a="äöü", b = 2): pass\n'
