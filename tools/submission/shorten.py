"""Give what only a function knows short names: its variables, and arguments that no call names.

In the order in which they appear they become a, b, c, but for names that something else in the
function has:

    def mean(values, start=0):                            def mean(a, start=0):
        total = start                                         b = start
        for term in values:                becomes            for c in a:
            total += term                                         b += c
        return total / len(values)                            return b / len(a)

    mean([1, 2], start=5)        (names `start`)          mean([1, 2], start=5)

Functions, classes, attributes, constants and texts keep their names: whoever reads an unpacked
source, or a traceback of it, finds them in the original. Measured on our sources: 3.6 of 39 KB,
0.9 of them by arguments; first letters of the names would give less and tell little more.
"""

import ast
import itertools
from collections.abc import Iterable, Iterator
from string import ascii_lowercase

from tools.submission.shake import foreign_classes

SHORT = 2  # letters of a name that stays as it is
# A function that says one of these may look for a variable by its name.
LOOKS_UP_NAMES = {"locals", "vars", "dir", "eval", "exec"}
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def names_spelled(trees: Iterable[ast.Module]) -> set[str]:
    """Every keyword of a call, and every text: an argument with such a name may be passed by it."""
    names = set()
    for tree in trees:
        for node in ast.walk(tree):
            match node:
                case ast.keyword(arg=str() as name) | ast.Constant(value=str() as name):
                    names.add(name)
    return names


def outermost_functions(tree: ast.Module, foreign: set[str]) -> list[tuple[ast.stmt, bool]]:
    """The functions of a source and the methods of its classes, but not those inside others.

    With each, whether code outside the bundle may call it, as torch calls forward of a module.
    """
    functions = [(statement, False) for statement in tree.body if isinstance(statement, FUNCTIONS)]
    for statement in tree.body:
        if isinstance(statement, ast.ClassDef):
            methods = [inner for inner in statement.body if isinstance(inner, FUNCTIONS)]
            functions += [(method, statement.name in foreign) for method in methods]
    return functions


def names_bound_otherwise(function: ast.stmt) -> set[str]:
    """Names in a function that are not its variables or arguments: imports, inner functions.

    With them all that an inner class says, whose variables are attributes, and all that stands in
    decorators and defaults, which belong to the code around the function.
    """
    names = set()
    for node in ast.walk(function):
        match node:
            case ast.ExceptHandler(name=str() as name):
                names.add(name)
            case ast.MatchAs(name=str() as name) | ast.MatchStar(name=str() as name):
                names.add(name)
            case ast.MatchMapping(rest=str() as name):
                names.add(name)
            case ast.alias(name=name, asname=asname):
                names.add((asname or name).split(".")[0])
            case ast.Global(names=several) | ast.Nonlocal(names=several):
                names.update(several)
            case ast.ClassDef():
                names |= all_names(node) | {node.name}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
    arguments = function.args
    around = [*function.decorator_list, *arguments.defaults, *arguments.kw_defaults]
    for node in around:
        if node is not None:
            names |= all_names(node)
    return names


def all_names(node: ast.AST) -> set[str]:
    return {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)}


def short_names(taken: set[str]) -> Iterator[str]:
    """a to z, a2 to z2 and so on, without those that are taken."""
    for number in itertools.count(1):
        for letter in ascii_lowercase:
            name = letter if number == 1 else f"{letter}{number}"
            if name not in taken:
                yield name


def shorten_function(function: ast.stmt, spelled: set[str], keeps_arguments: bool) -> None:
    """Rename what is known inside a function alone, inner functions and comprehensions included."""
    used = all_names(function)
    if used & LOOKS_UP_NAMES:
        return
    arguments = [node.arg for node in ast.walk(function) if isinstance(node, ast.arg)]
    fixed = names_bound_otherwise(function)
    fixed |= {"self", "cls"} | (spelled & set(arguments))
    if keeps_arguments:
        fixed |= {node.arg for node in ast.walk(function.args) if isinstance(node, ast.arg)}
    variables = [
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    ]
    # One name means one variable in all of the function, so different names stay different.
    shorter = short_names(used | fixed | set(arguments))
    short_of = {
        name: next(shorter)
        for name in dict.fromkeys([*arguments, *variables])
        if name not in fixed and len(name) > SHORT
    }
    for node in ast.walk(function):
        if isinstance(node, ast.Name):
            node.id = short_of.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = short_of.get(node.arg, node.arg)


def shorten(texts: dict[str, str]) -> dict[str, str]:
    """The sources of a bundle with short names for what their functions alone know."""
    trees = {file: ast.parse(text) for file, text in texts.items()}
    spelled = names_spelled(trees.values())
    foreign = foreign_classes(trees)
    for tree in trees.values():
        for function, keeps_arguments in outermost_functions(tree, foreign):
            shorten_function(function, spelled, keeps_arguments)
    return {file: ast.unparse(tree) + "\n" for file, tree in trees.items()}
