"""Comments, docstrings, types and layout go, statements stay."""

import ast

import pytest

from tools.submission.strip import reads_docstrings, strip

SOURCE = '''#!/usr/bin/env python
"""Module."""  # with a comment

from __future__ import annotations

TEXT = """a # that is not a comment
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
    "a text of no effect"
    if r < 0:
        "as well"
    return 3 * r * r  # about


def one(): "on its line"
def two(): """with another"""; return 2
'''
STRIPPED = """from __future__ import annotations
TEXT = 'a # that is not a comment\\n'
NAMES = ['#', 'x']

class Error(ValueError):
    pass

def area(r):
    if r < 0:
        pass
    return 3 * r * r

def one():
    pass

def two():
    return 2
"""


def test_comments_and_docstrings_go():
    """Wherever they stand, and the layout with them."""
    assert strip(SOURCE) == STRIPPED


def test_stripping_twice_changes_nothing():
    """Also where only a docstring was in a block."""
    assert strip(STRIPPED) == STRIPPED
    assert strip("") == "\n" == strip("\n")


def test_the_help_of_a_command_stays():
    """A module that names __doc__ keeps its own docstring, and loses the others."""
    source = '"""Help."""\n\ndef main():\n    """Gone."""\n    print(__doc__)\n'
    assert strip(source) == source.replace('    """Gone."""\n', "")


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


def test_only_texts_and_types_leave_the_syntax_tree():
    """The same calls in the same order, for a long source of the library."""
    with open(ast.__file__) as file:
        source = file.read()
    stripped = strip(source)

    def calls(text: str) -> list[str]:
        return [ast.dump(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]

    assert sorted(calls(source)) == sorted(calls(stripped))
    assert len(stripped) < 0.9 * len(source)


def test_line_ends_of_any_kind_are_read():
    """A carriage return in a text is written as Python spells it."""
    assert strip("x = 1  # one\r\ny = 'a\\r'\r\n") == "x = 1\ny = 'a\\r'\n"


TYPED = """class Point:
    x: int = 0  # a field

    def move(self, dx: float, *more: int, far: "Point | None" = None, **rest: str) -> "Point":
        total: float = dx
        self.y: int = 2
        declared: int

        class Inner:
            size: int = 3

            def grow(self) -> int:
                more: int = 1
                return lambda step: step
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

LIMIT: int = 3
"""
UNTYPED = """class Point:
    x: int = 0

    def move(self, dx, *more, far=None, **rest):
        total = dx
        self.y = 2
        declared: int

        class Inner:
            size: int = 3

            def grow(self):
                more = 1
                return lambda step: step
        return self

async def wide(a, b=3):
    return (a, b)
LIMIT: int = 3
"""


def test_types_of_functions_go_and_fields_stay():
    """A class keeps its types, which make fields."""
    assert strip(TYPED) == UNTYPED


@pytest.mark.parametrize(
    "reader",
    ["area.__annotations__", "typing.get_type_hints(area)", "inspect.signature(area)"],
)
def test_types_that_code_reads_stay(reader):
    """They are a part of how it behaves."""
    source = f"def area(r: int) -> int:\n    return r\nprint({reader})\n"
    assert strip(source) == source
