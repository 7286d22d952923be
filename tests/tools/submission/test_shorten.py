"""Local variables get short names, whatever else has names stays, and the code does the same."""

import ast

import pytest

from tools.submission import shorten as shortening

EXAMPLE = """def mean(values, start=0):
    total = start
    for term in values:
        total += term
    return total / len(values)
"""


def shorten(source: str, *others: str) -> str:
    """One source of a bundle."""
    texts = {"a.py": source} | {f"b{i}.py": text for i, text in enumerate(others)}
    return shortening.shorten(texts)["a.py"]


def run(source: str) -> object:
    """What the source leaves in `result`."""
    space = {"__name__": "source"}
    exec(source, space)
    return space["result"]


def test_variables_and_arguments_get_letters():
    """In the order in which they appear, unless a call anywhere in the bundle names them."""
    shortened = shorten(EXAMPLE, "import a\na.mean([1, 2], start=5)\n")
    assert shortened.startswith("def mean(a, start=0):\n    b = start\n    for c in a:\n")
    assert "def mean(a, b=0)" in shorten(EXAMPLE)
    assert "def mean(a, start=0)" in shorten(EXAMPLE, "mean(**{'start': 5})\n")


def test_methods_that_other_code_may_call_keep_their_arguments():
    """Of a class that extends one from outside the bundle; its variables are short all the same."""
    source = "class Net(nn.Module):\n    def forward(self, tokens):\n        rows = tokens\n"
    assert "def forward(self, tokens):\n        a = tokens" in shorten(source)
    assert "def forward(self, a):\n        b = a" in shorten(source.replace("(nn.Module)", ""))


# Each has a name that a careless renaming would break.
HARD = {
    "an argument by its name": "def f(size=1):\n    size = size + 1\n    return size\n"
    "result = f(size=4)",
    "a global": "total = 1\ndef f():\n    global total\n    total = 5\nf()\nresult = total",
    "a variable of the function around": """def f():
    count = 0
    def inner():
        nonlocal count
        count += 1
        return count
    inner()
    return inner()
result = f()""",
    "a variable that an inner function reads": """def f():
    factor = 3
    def inner(number):
        doubled = 2 * number
        return factor * doubled
    return [inner(number) for number in range(4)]
result = f()""",
    "attributes of an inner class": """def f():
    width = 3
    class Box:
        width = 4
        def area(self):
            height = 2
            return self.width * height
    return Box().area() + width
result = f()""",
    "an exception": """def f():
    try:
        raise ValueError("seven")
    except ValueError as error:
        return str(error)
result = f()""",
    "a default and a decorator": """total = 3
def twice(function):
    return lambda *values: 2 * function(*values)
@twice
def f(value=total):
    total = value + 1
    return total
result = f()""",
    "a pattern": """def f(pair):
    match pair:
        case {"name": name, **others}:
            return name, others
        case [first, *others]:
            return first, others
result = f([1, 2, 3]), f({"name": 1, "age": 2})""",
    "an import": "def f():\n    import math as numbers\n    return numbers.pi\nresult = f()",
    "a text with a name in it": 'def f():\n    size = 2\n    return f"{size=}"\nresult = f()',
    "short names that are taken": """def f(a, c):
    total = 1
    b, d = 2, 3
    rest = total + 4
    return a, c, total, b, d, rest
result = f(0, 1)""",
    "more names than letters": "def f():\n"
    + "".join(f"    name_{i} = {i}\n" for i in range(40))
    + "    return ["
    + ", ".join(f"name_{i}" for i in range(40))
    + "]\nresult = f()",
    "names without letters": "def f():\n    ___ = 3\n    变量 = 4\n    return ___ + 变量\n"
    "result = f()",
    "names looked up": "def f():\n    total = 3\n    return locals()['total']\nresult = f()",
    "a comprehension and a lambda": """def f():
    rows = [[value for value in row] for row in ((1, 2), (3, 4))]
    largest = max(rows, key=lambda row: sum(row))
    return largest, (last := rows[-1]), last
result = f()""",
    "a method": """class Box:
    size = 4
    def grown(self):
        size = self.size + 1
        return size
result = Box().grown()""",
}


@pytest.mark.parametrize("source", HARD.values(), ids=HARD)
def test_the_code_does_the_same(source):
    """Whatever Python offers to name something."""
    assert run(shorten(source)) == run(source)


def test_a_source_of_the_library_does_the_same():
    """A long one: textwrap, with all its methods."""
    import textwrap

    with open(textwrap.__file__) as file:
        source = file.read()
    code = 'result = fill("some words in lines of ten " * 4, 10, initial_indent="> ")'
    shortened = shorten(f"{source}\n{code}")
    assert run(shortened) == run(f"{source}\n{code}")

    def kept_names(text: str) -> list[str]:
        nodes = list(ast.walk(ast.parse(text)))
        attributes = [node.attr for node in nodes if isinstance(node, ast.Attribute)]
        return attributes + [node.name for node in nodes if isinstance(node, ast.FunctionDef)]

    assert kept_names(shortened) == kept_names(f"{source}\n{code}")
    assert len(shortened) < 0.98 * len(ast.unparse(ast.parse(source)))
