"""Leave out of a Python source what only its readers need: comments, docstrings, types, layout.

What remains is written anew by Python, in one form whatever the layout was:

    def area(r: float) -> float:  # in metres             def area(r):
        \"\"\"Of a circle.\"\"\"               becomes             return 3.14 * r * r

        return (
            3.14 * r * r
        )

Types in the body of a class stay: dataclasses make fields of them.
"""

import ast
import warnings

HAS_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def parse(text: str) -> ast.Module:
    with warnings.catch_warnings(action="ignore"):  # of escapes such as "\\d" in others' sources
        return ast.parse(text)


def is_text(node: ast.stmt) -> bool:
    """Whether a statement is a string and nothing else: a docstring, or of no effect."""
    is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return is_constant and isinstance(node.value.value, str)


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


def reads_types(tree: ast.Module) -> bool:
    """Whether code may read the types of a function's arguments while it runs."""
    names = {"__annotations__", "get_type_hints", "get_annotations", "signature", "singledispatch"}
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) | ast.alias(name=name):
                if name in names:
                    return True
    return False


def remove_texts(tree: ast.Module) -> None:
    """Take out docstrings, and other strings that stand alone.

    Of a module that names `__doc__`, its own docstring stays.
    """
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    for node in ast.walk(tree):
        for field in ("body", "orelse", "finalbody"):
            statements = getattr(node, field, None)
            if not isinstance(statements, list):
                continue  # of a lambda the body is an expression
            kept = [statement for statement in statements if not is_text(statement)]
            if node is tree and "__doc__" in names and ast.get_docstring(tree) is not None:
                kept.insert(0, statements[0])
            # A block of nothing is not Python; an `else` of nothing is.
            is_required = statements and field == "body" and node is not tree
            setattr(node, field, kept or ([ast.Pass()] if is_required else []))


class TypeRemover(ast.NodeTransformer):
    """Takes the types of arguments, results and variables out of functions."""

    def __init__(self):
        self.is_in_function = False

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        node.returns = None
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                argument.annotation = None
        return self.visit_body(node, is_in_function=True)

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        return self.visit_body(node, is_in_function=False)

    def visit_body(self, node: ast.AST, is_in_function: bool) -> ast.AST:
        before = self.is_in_function
        self.is_in_function = is_in_function
        self.generic_visit(node)
        self.is_in_function = before
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        # `total: int` without a value makes the name one of this function, and so stays.
        if not self.is_in_function or node.value is None:
            return node
        return ast.copy_location(ast.Assign([node.target], node.value), node)


def strip(text: str, keep_docstrings: bool = False) -> str:
    """The source without comments, docstrings and types. Stripped again, it stays as it is."""
    tree = parse(text)
    if not keep_docstrings:
        remove_texts(tree)
    if not reads_types(tree):
        tree = TypeRemover().visit(tree)
    return ast.unparse(tree) + "\n"
