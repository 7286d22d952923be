"""Leave out of a bundle what nothing in it reaches: functions, classes, constants, imports.

A submission carries what it runs. The command line of quantize.py, or a probe that only tools call,
is not a part of that. What is reached is told by names alone, whatever module they stand in, so
that a mistake keeps too much, never too little:

    a.py  def used(): return helper()      used, because b.py says used;
          def helper(): ...                helper, because used says helper;
          def command(): ...               left out: only `if __name__ == "__main__":` says command,
    b.py  import a; a.used()               and that of a.py never runs where a.py is imported
          from a import command            left out as well: b.py does not say command again

A string counts as a name where it is one, as in getattr(x, "used"); that of a sentence does not.
Lists called __all__ count for nothing: only `from a import *` reads them, and our style forbids it.
Where a class extends one that is not in the bundle, all its methods are reached: nn.Module calls
forward() by itself.
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from tools.submission.imports import is_script_guard

CONSTANTS = (ast.Assign, ast.AnnAssign)
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
# Bases from elsewhere that call no method of the classes that extend them.
CALL_NOTHING = {"object", "Protocol", "NamedTuple", "Exception", "ValueError"}
DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_list_of_exports(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"


@dataclass
class Mentions:
    """The names that code says: alone, after a dot, or in a string that is a name."""

    names: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)

    def add(self, code: ast.AST) -> None:
        for node in ast.walk(code):
            match node:
                case ast.Name(id=name, ctx=ast.Load()) | ast.alias(name=name):
                    self.names |= set(name.split("."))
                case ast.Attribute(attr=name):
                    self.attributes.add(name)
                case ast.Constant(value=str() as text) if DOTTED_NAME.fullmatch(text):
                    self.attributes |= set(text.split("."))


@dataclass(frozen=True)
class Definition:
    """A function, class, method, constant or imported name that may be left out."""

    file: str
    statement: ast.stmt | ast.alias
    name: str
    owner: str = ""  # of a method, its class
    is_called_from_outside: bool = False  # a method that a base class from elsewhere may call

    def is_said(self, mentions: Mentions) -> bool:
        """Whether code that is reached says its name; a method is never called by a name alone."""
        if self.name in mentions.attributes or self.is_called_from_outside:
            return True
        if self.owner:  # Python itself calls __init__ and its like
            return self.name.startswith("__") and self.name.endswith("__")
        return self.name in mentions.names


def is_optional_import(statement: ast.stmt) -> bool:
    """Whether names of an import may be left out: it is a list of names of a module."""
    is_list = isinstance(statement, ast.ImportFrom) and statement.module != "__future__"
    return is_list and statement.names[0].name != "*"


def own_bases(tree: ast.Module, files: Iterable[str]) -> set[str]:
    """The names under which a source knows classes of the bundle: its own, and imported ones."""
    names = {statement.name for statement in tree.body if isinstance(statement, ast.ClassDef)}
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom):
            module = statement.module or ""
            is_own = statement.level > 0 or module.replace(".", "/") + ".py" in files
            names |= {alias.asname or alias.name for alias in statement.names if is_own}
    return names


def foreign_classes(trees: dict[str, ast.Module]) -> set[str]:
    """Names of the classes that extend one from outside the bundle, directly or not.

    class Net(nn.Module) is foreign, and so is class Wide(Net); class Error(ValueError) is not. A
    base with a dot counts as foreign, whatever it is: too much is kept rather than too little.
    """
    foreign: set[str] = set()
    while True:
        more = set()
        for tree in trees.values():
            harmless = (own_bases(tree, trees) - foreign) | CALL_NOTHING
            for statement in tree.body:
                if isinstance(statement, ast.ClassDef):
                    bases = {ast.unparse(base) for base in statement.bases}
                    more |= set() if bases <= harmless else {statement.name}
        if more == foreign:
            return foreign
        foreign = more


def is_constant(statement: ast.stmt, classes: set[str]) -> bool:
    """Whether it gives one name a value, and does nothing else: it calls own classes at most.

    LIMIT = 1 << 20 and PLAN = Line("plan {mode}") are constants, x = open("file") is not.
    """
    match statement:
        case ast.Assign(targets=[ast.Name()]) | ast.AnnAssign(target=ast.Name(), value=ast.expr()):
            calls = [node for node in ast.walk(statement.value) if isinstance(node, ast.Call)]
            return all(ast.unparse(call.func) in classes for call in calls)
    return False


def definitions_of(
    file: str, tree: ast.Module, classes: set[str], foreign: set[str]
) -> list[Definition]:
    """All that may be left out of a source; a class and each of its methods apart."""
    definitions = []
    for statement in tree.body:
        if is_constant(statement, classes):
            target = statement.target if hasattr(statement, "target") else statement.targets[0]
            definitions.append(Definition(file, statement, target.id))
        if isinstance(statement, DEFINITIONS):
            definitions.append(Definition(file, statement, statement.name))
        if isinstance(statement, ast.ClassDef):
            methods = [inner for inner in statement.body if isinstance(inner, DEFINITIONS)]
            is_foreign = statement.name in foreign
            for method in methods:
                definition = Definition(file, method, method.name, statement.name, is_foreign)
                definitions.append(definition)
        if is_optional_import(statement):
            for alias in statement.names:
                definitions.append(Definition(file, alias, alias.asname or alias.name))
    return definitions


def own_code(statement: ast.stmt | ast.alias) -> list[ast.AST]:
    """The code that is reached with a definition: of a class all but its methods."""
    if not isinstance(statement, ast.ClassDef):
        return [statement]
    body = [inner for inner in statement.body if not isinstance(inner, DEFINITIONS)]
    return [*statement.bases, *statement.keywords, *statement.decorator_list, *body]


def unreached(trees: dict[str, ast.Module], entry: str) -> dict[str, list[ast.stmt | ast.alias]]:
    """Of each source the statements and the imported names that no reached code mentions."""
    leftover = {file: [] for file in trees}
    waiting = []
    mentions = Mentions()
    classes = {
        statement.name
        for tree in trees.values()
        for statement in tree.body
        if isinstance(statement, ast.ClassDef)
    }
    foreign = foreign_classes(trees)
    for file, tree in trees.items():
        definitions = definitions_of(file, tree, classes, foreign)
        if file == entry:  # who imports the script reads its constants, as RECIPE
            definitions = [d for d in definitions if not isinstance(d.statement, CONSTANTS)]
        waiting += definitions
        optional = {id(definition.statement) for definition in definitions}
        for statement in tree.body:
            if is_list_of_exports(statement) or (is_script_guard(statement) and file != entry):
                leftover[file].append(statement)
            elif id(statement) not in optional and not isinstance(
                statement, (ast.Import, ast.ImportFrom)
            ):
                mentions.add(statement)
    reached_classes = set()
    while True:
        # A method is reached with its class only.
        possible = [d for d in waiting if not d.owner or d.owner in reached_classes]
        reached = [definition for definition in possible if definition.is_said(mentions)]
        if not reached:
            break
        for definition in reached:
            waiting.remove(definition)
            for code in own_code(definition.statement):
                mentions.add(code)
            if isinstance(definition.statement, ast.ClassDef) and not definition.owner:
                reached_classes.add(definition.name)
    for definition in waiting:
        if not definition.owner or definition.owner in reached_classes:
            leftover[definition.file].append(definition.statement)
    return leftover


def shake(texts: dict[str, str], entry: str) -> dict[str, str]:
    """The sources without what cannot be reached, written anew by Python."""
    trees = {file: ast.parse(text) for file, text in texts.items()}
    for file, leftover in unreached(trees, entry).items():
        remove(trees[file], leftover)
    return {file: ast.unparse(tree) + "\n" for file, tree in trees.items()}


def remove(tree: ast.Module, leftover: list[ast.stmt | ast.alias]) -> None:
    """Take these statements, methods and imported names out of a source."""
    unwanted = set(map(id, leftover))
    statements = []
    for statement in tree.body:
        if id(statement) in unwanted:
            continue
        if is_optional_import(statement):
            statement.names = [alias for alias in statement.names if id(alias) not in unwanted]
            if not statement.names:
                continue
        if isinstance(statement, ast.ClassDef):
            methods = [inner for inner in statement.body if id(inner) not in unwanted]
            statement.body = methods or [ast.Pass()]
        statements.append(statement)
    tree.body = statements
