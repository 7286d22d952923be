"""Leave out of a bundle the functions, classes and methods that nothing in it can reach.

A submission carries what it runs. The command line of quantize.py, or a probe that only tools call,
is not a part of that. What is reached is told by names alone, whatever module they stand in, so
that a mistake keeps too much, never too little:

    a.py  def used(): return helper()      used, because b.py says used;
          def helper(): ...                helper, because used says helper;
          def command(): ...               left out: only `if __name__ == "__main__":` says command,
    b.py  import a; a.used()               and that of a.py never runs where a.py is imported

Statements keep their lines.
"""

import ast
import re
from dataclasses import dataclass

# Called from outside: what scores a packed script starts evaluate's command line.
ENTRANCES = {("evaluate.py", "main")}
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def is_script_guard(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def mentioned(node: ast.AST) -> set[str]:
    """Every identifier in the code, those in strings included, as getattr(x, "name") has one."""
    names = set()
    for inner in ast.walk(node):
        match inner:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.alias(name=name):
                names |= set(name.split("."))
            case ast.Constant(value=str() as text):
                names |= set(re.findall(r"[A-Za-z_]\w*", text))
    return names


@dataclass(frozen=True)
class Definition:
    """A function, class or method that may be left out."""

    file: str
    statement: ast.stmt
    owner: str = ""  # of a method, its class

    @property
    def is_special(self) -> bool:
        """Whether Python itself calls it, as __init__."""
        name = self.statement.name
        return bool(self.owner) and name.startswith("__") and name.endswith("__")


def definitions_of(file: str, tree: ast.Module) -> list[Definition]:
    """All that may be left out of a source; a class and each of its methods apart."""
    definitions = []
    for statement in tree.body:
        if isinstance(statement, DEFINITIONS):
            definitions.append(Definition(file, statement))
        if isinstance(statement, ast.ClassDef):
            methods = [s for s in statement.body if isinstance(s, DEFINITIONS)]
            definitions += [Definition(file, method, statement.name) for method in methods]
    return definitions


def own_code(statement: ast.stmt) -> list[ast.AST]:
    """The code that is reached with a definition: of a class all but its methods."""
    if not isinstance(statement, ast.ClassDef):
        return [statement]
    body = [inner for inner in statement.body if not isinstance(inner, DEFINITIONS)]
    return [*statement.bases, *statement.keywords, *statement.decorator_list, *body]


def unreached(texts: dict[str, str], entry: str) -> dict[str, list[ast.stmt]]:
    """Of each source the statements that no reached code mentions."""
    leftover = {name: [] for name in texts}
    waiting = []
    names = set()
    for file, text in texts.items():
        tree = ast.parse(text)
        waiting += definitions_of(file, tree)
        for statement in tree.body:
            if is_script_guard(statement) and file != entry:
                leftover[file].append(statement)
            elif not isinstance(statement, (*DEFINITIONS, ast.Import)):
                names |= mentioned(statement)  # of `from x import y`, which fails without it, y
    reached_classes = set()
    while True:
        reached = [
            definition
            for definition in waiting
            if definition.statement.name in names
            or (definition.file, definition.statement.name) in ENTRANCES
            or (definition.is_special and definition.owner in reached_classes)
        ]
        # A method is reached with its class only.
        reached = [d for d in reached if not d.owner or d.owner in reached_classes]
        if not reached:
            break
        for definition in reached:
            waiting.remove(definition)
            for code in own_code(definition.statement):
                names |= mentioned(code)
            if isinstance(definition.statement, ast.ClassDef) and not definition.owner:
                reached_classes.add(definition.statement.name)
    for definition in waiting:
        if not definition.owner or definition.owner in reached_classes:
            leftover[definition.file].append(definition.statement)
    return leftover


def shake(texts: dict[str, str], entry: str) -> dict[str, str]:
    """The sources without what cannot be reached, each statement on its line."""
    shaken = {}
    for file, statements in unreached(texts, entry).items():
        lines = texts[file].split("\n")
        for statement in statements:
            decorators = getattr(statement, "decorator_list", [])
            first = min([statement.lineno, *(d.lineno for d in decorators)])
            lines[first - 1 : statement.end_lineno] = [""] * (statement.end_lineno - first + 1)
            if statement.col_offset:  # the last method may be all that its class had
                lines[first - 1] = " " * statement.col_offset + "pass"
        shaken[file] = "\n".join(lines)
    return shaken
