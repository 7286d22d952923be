"""Leave out of a Python source what only its readers need, and prove that nothing else changed.

That is comments, docstrings, and the types of arguments, results and variables of functions. Every
statement stays on its line, so that a traceback names the line of the original:

    def area(r: float) -> float:  # in metres             def area(r):
        \"\"\"Of a circle.\"\"\"               becomes
        return 3.14 * r * r                                   return 3.14 * r * r

Types in the body of a class stay: dataclasses make fields of them.
"""

import ast
import io
import tokenize
import warnings

HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def parse(text: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):  # of escapes such as "\\d" in others' sources
        return ast.parse(text)


def docstring(node: ast.AST) -> ast.Expr | None:
    """The statement that is the docstring of a module, class or function."""
    if not isinstance(node, HAS_DOCSTRING) or not node.body:
        return None
    first = node.body[0]
    is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return first if is_text and isinstance(first.value.value, str) else None


def reads_docstrings(text: str) -> bool:
    """Whether code may read the docstring of a class, a function or another module.

    `__doc__` alone is the module's own docstring, which a command line shows as its help.

        parser = ArgumentParser(description=__doc__)    False
        print(main.__doc__)                             True
        inspect.getdoc(main)                            True
    """
    names = {"__doc__", "getdoc"}
    for node in ast.walk(parse(text)):
        match node:
            case ast.Attribute(attr=name) if name in names:
                return True
            case ast.Constant(value=str() as name) if name in names:  # getattr(main, "__doc__")
                return True
            case ast.alias(name=name) if name in names:  # from inspect import getdoc
                return True
    return False


def removable(tree: ast.Module) -> list[tuple[ast.AST, ast.Expr]]:
    """Each docstring that no code of this source reads, with what it belongs to."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    owners = [node for node in ast.walk(tree) if docstring(node)]
    if "__doc__" in names:
        owners.remove(tree) if tree in owners else None
    return [(owner, docstring(owner)) for owner in owners]


def reads_types(text: str) -> bool:
    """Whether code may read the types of a function's arguments while it runs."""
    names = {"__annotations__", "get_type_hints", "get_annotations", "signature", "singledispatch"}
    for node in ast.walk(parse(text)):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name):
                if name in names:
                    return True
    return False


def remove_types(tree: ast.Module, lines: list[str]) -> None:
    """Take the types of functions out of both the tree and its lines.

    A type that ends on another line than it begins stays, unless it stands between the parentheses
    of the arguments, where a line may end anywhere; so does a variable that is only declared.
    """
    cuts = []  # (first line, first byte, last line, last byte), from name to end of the type

    def cut(name_end: tuple[int, int], annotation: ast.expr) -> None:
        cuts.append((*name_end, annotation.end_lineno, annotation.end_col_offset))

    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        arguments = function.args
        named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in [*named, arguments.vararg, arguments.kwarg]:
            if argument is not None and argument.annotation is not None:
                name_end = argument.col_offset + len(argument.arg.encode())
                cut((argument.lineno, name_end), argument.annotation)
                argument.annotation = None
        returns = function.returns
        if returns is not None and returns.lineno == returns.end_lineno:
            before = lines[returns.lineno - 1].encode()[: returns.col_offset]
            arrow = before.rfind(b"->")
            if arrow >= 0 and not before[arrow + 2 :].strip():
                cut((returns.lineno, len(before[:arrow].rstrip())), returns)
                function.returns = None
        for statements in bodies_of(function):
            for i, statement in enumerate(statements):
                if isinstance(statement, ast.AnnAssign) and statement.value is not None:
                    annotation = statement.annotation
                    if statement.lineno == annotation.end_lineno and statement.simple in (0, 1):
                        target = statement.target
                        cut((target.end_lineno, target.end_col_offset), annotation)
                        statements[i] = ast.copy_location(
                            ast.Assign([target], statement.value), statement
                        )
    for first_line, first, last_line, last in sorted(cuts, reverse=True):
        begin = lines[first_line - 1].encode()[:first].decode()
        rest = lines[last_line - 1].encode()[last:].decode()
        if first_line == last_line:
            lines[first_line - 1] = begin + rest
        else:
            lines[first_line - 1] = begin
            lines[first_line : last_line - 1] = [""] * (last_line - 1 - first_line)
            lines[last_line - 1] = rest


def bodies_of(function: ast.AST) -> list[list[ast.stmt]]:
    """The lists of statements in a function, but for those of classes and functions inside it."""
    bodies = []
    nodes = [function]
    while nodes:
        node = nodes.pop()
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                bodies.append(value)
            items = value if isinstance(value, list) else [value]
            inner = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            nodes += [i for i in items if isinstance(i, ast.AST) and not isinstance(i, inner)]
    return bodies


def is_alone(statement: ast.Expr, lines: list[str]) -> bool:
    """Whether a statement shares its lines with comments at most."""
    before = lines[statement.lineno - 1].encode()[: statement.col_offset]
    after = lines[statement.end_lineno - 1].encode()[statement.end_col_offset :].strip()
    return not before.strip() and (not after or after.startswith(b"#"))


def strip(text: str, keep_docstrings: bool = False) -> str:
    """The source without comments, docstrings and types; all other statements stay on their lines.

    Raises: ValueError where the syntax tree would change by more than that.
    """
    if "\r" in text:  # which Python counts as the end of a line, and split("\n") does not
        return text
    tree = parse(text)
    lines = text.split("\n")
    docstrings = [] if keep_docstrings else removable(tree)
    docstrings = [(owner, doc) for owner, doc in docstrings if is_alone(doc, lines)]
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    for row, column in [token.start for token in tokens if token.type == tokenize.COMMENT]:
        lines[row - 1] = lines[row - 1][:column].rstrip()
    for owner, doc in docstrings:
        lines[doc.lineno - 1 : doc.end_lineno] = [""] * (doc.end_lineno - doc.lineno + 1)
        owner.body.remove(doc)
        if not owner.body and not isinstance(owner, ast.Module):  # an empty block is no Python
            lines[doc.lineno - 1] = " " * doc.col_offset + "pass"
            owner.body.append(ast.Pass())
    if not reads_types(text):
        remove_types(tree, lines)
    stripped = "\n".join(lines)
    if ast.dump(parse(stripped)) != ast.dump(tree):
        raise ValueError("its comments cannot be told from its code; pack it with --plain")
    return stripped
