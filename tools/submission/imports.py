"""Which files a Python source loads: what it imports, runs or names, read without running it."""

import ast
from collections.abc import Iterator
from pathlib import Path

MODULE_SUFFIXES = (".py", ".pyc", ".so", ".pyd")
# Calls that execute what their strings name: a file, a module or a command line.
RUNNERS = {"exec", "compile", "__import__", "import_module", "run_path", "run_module", "system"}
RUNNERS |= {"run", "Popen", "call", "check_call", "check_output", "spec_from_file_location"}


def imported_names(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    """Full names of what an import statement may load; of another node none.

    >>> imported_names(ast.parse("from .text import Batches").body[0], ("engine",))
    ['engine.text.Batches']
    """
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = package[: len(package) + 1 - node.level] if node.level else ()
    base += (node.module,) if node.module else ()
    return [".".join((*base, alias.name)) for alias in node.names]


def mentioned_names(tree: ast.AST, package: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """What the code imports, runs or merely names in a string that is no docstring.

    Pairs of a name and of "imported by", "run by" or "named in".
    """
    todo = [(tree, "named in")]
    while todo:
        node, relation = todo.pop()
        if isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "attr", None) or getattr(function, "id", "")
            relation = "run by" if name in RUNNERS else relation
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from ((name, "imported by") for name in imported_names(node, package))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            # A command line runs one of its words: os.system("python helper.py --fast").
            words = {node.value, *node.value.split()} if relation == "run by" else {node.value}
            yield from ((word, relation) for word in words)
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            todo += [(child, relation) for child in ast.iter_child_nodes(node)]


def module_files(root: Path, name: str) -> Iterator[Path]:
    """The files under root that importing or running the module loads: its packages and itself."""
    parts = name.removesuffix(".*").split(".")  # "from x import *"
    if not all(map(str.isidentifier, parts)):
        return
    for depth in range(1, len(parts) + 1):
        place = root.joinpath(*parts[:depth])
        for stem in (place, place / "__init__", place / "__main__"):
            for path in stem.parent.glob(f"{stem.name}.*"):
                if path.suffix in MODULE_SUFFIXES:
                    yield path


def is_script_guard(node: ast.stmt) -> bool:
    """Whether it is `if __name__ == "__main__":`, which never runs in what is imported."""
    return isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'"


def follow_imports(folder: Path, entry: str) -> dict[str, bytes]:
    """The entry and every source of the folder that it imports, at once or later.

    What another source imports only when it is started itself does not count: of evaluate.py, its
    command line.

    {path relative to the folder: bytes}. Raises: OSError without the entry, ValueError for a
    source that is not Python.
    """
    files = {}
    todo = [folder / entry]
    while todo:
        path = todo.pop()
        name = path.relative_to(folder).as_posix()
        if name in files:
            continue
        files[name] = path.read_bytes()
        package = Path(name).parent.parts
        try:
            statements = ast.parse(files[name]).body
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{name} is not Python: {error}") from None
        if name != entry:
            statements = [statement for statement in statements if not is_script_guard(statement)]
        nodes = [node for statement in statements for node in ast.walk(statement)]
        for module in [module for node in nodes for module in imported_names(node, package)]:
            todo += [file for file in module_files(folder, module) if file.suffix == ".py"]
    return files
