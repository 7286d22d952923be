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
