"""Parse Python that is newer than the one that runs here.

`parse` gives the syntax tree of a source. Where the running Python does not know its syntax,
libcst, which has a grammar of its own, finds what is new, and simpler statements with the same
values take its place, on the same lines:

    print(f"{row["name"]}")       becomes       print((row["name"],))
    def first[T](x: T): ...                     def first(x: T): ...
    type Rows = list[int]                       Rows = list[int]

Good for reading where values come from, not for running. Errors name what could not be read.
"""

import ast
import subprocess
import sys
import warnings

SECONDS = 60  # a source of 200,000 characters takes 2
NEEDS_LIBCST = "libcst 1.8 or newer, which reads it, is missing: python3 golf.py --with scripts ..."


class TooDeep(ValueError):
    """Expressions are nested too deeply to be read; libcst takes minutes to say so."""


def parse(text: str) -> ast.Module:
    """The syntax tree of a source, of whatever version of Python.

    Raises: ValueError for what is not Python, or too deep to be read.
    """
    try:
        return parse_here(text)
    except TooDeep:
        raise
    except ValueError as error:
        return parse_here(simplify_apart(text, str(error)))


def parse_here(text: str) -> ast.Module:
    """Raises: ValueError for what the running Python does not read."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of escapes in others' strings
            return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        raise ValueError(str(error)) from None
    except (RecursionError, MemoryError):
        raise TooDeep("its expressions are nested too deeply") from None


def simplify_apart(text: str, complaint: str) -> str:
    """As `simplify`, in a process of its own: libcst's parser ends with a crash on deep nesting."""
    command = [sys.executable, "-P", __file__, complaint]
    try:
        done = subprocess.run(command, input=text.encode(), capture_output=True, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{complaint}; libcst does not read it in {SECONDS} s") from None
    if done.returncode:
        reason = done.stdout.decode() if done.returncode == 1 else ""
        raise ValueError(reason or complaint)
    return done.stdout.decode()


def simplify(text: str, complaint: str) -> str:
    """The source in the syntax of Python 3.11, every statement on its line.

    Raises: ValueError with the complaint of the running Python for what libcst cannot read either.
    """
    try:
        import libcst
        from libcst.metadata import MetadataWrapper, PositionProvider
    except ImportError:
        raise ValueError(f"{complaint}; {NEEDS_LIBCST}") from None
    if not hasattr(libcst, "TypeParameters"):  # of a version that reads no newer syntax itself
        raise ValueError(f"{complaint}; {NEEDS_LIBCST}")
    try:
        module = libcst.parse_module(text)
        wrapper = MetadataWrapper(module, unsafe_skip_copy=True)
        positions = wrapper.resolve(PositionProvider)
    except (libcst.ParserSyntaxError, RecursionError):
        raise ValueError(complaint) from None
    edits = []
    for node, place in positions.items():
        replacement = replace(libcst, module, node)
        if replacement is not None:
            edits.append((place.start.line, place.start.column, place, replacement))
    return apply_edits(text, sorted(edits, key=lambda edit: edit[:2]))


def replace(libcst, module, node) -> str | None:
    """What takes the place of a node of new syntax; None for any other."""
    if isinstance(node, libcst.FormattedString | libcst.ConcatenatedString):
        values = expressions_in(libcst, node)
        if values or isinstance(node, libcst.FormattedString):
            codes = [simplify_expression(module.code_for_node(value)) for value in values]
            return "(" + "".join(f"{code}, " for code in codes) + ")"
    if isinstance(node, libcst.TypeParameters):
        return ""
    if isinstance(node, libcst.TypeAlias):
        return f"{node.name.value} = {module.code_for_node(node.value)}"
    return None


def expressions_in(libcst, node) -> list:
    """The values that an f-string shows, those of its formats included."""
    if isinstance(node, libcst.ConcatenatedString):
        return expressions_in(libcst, node.left) + expressions_in(libcst, node.right)
    if not isinstance(node, libcst.FormattedString):
        return []
    values = []
    for part in node.parts:
        if isinstance(part, libcst.FormattedStringExpression):
            values.append(part.expression)
            for inner in part.format_spec or ():
                if isinstance(inner, libcst.FormattedStringExpression):
                    values.append(inner.expression)
    return values


def simplify_expression(code: str) -> str:
    """An expression out of an f-string, on one line."""
    lines = simplify(f"(\n{code}\n)\n", "an f-string").split("\n")
    return "(" + " ".join(lines[1:-2]) + ")"


def apply_edits(text: str, edits: list) -> str:
    """The text with every outermost edit made, and as many lines as before."""
    lines = text.split("\n")
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    pieces = []
    done = 0
    for _, _, place, replacement in edits:
        start = starts[place.start.line - 1] + place.start.column
        end = starts[place.end.line - 1] + place.end.column
        if start < done:
            continue  # inside one that was replaced
        missing = text.count("\n", start, end) - replacement.count("\n")
        if missing and replacement.endswith(")"):
            replacement = replacement[:-1] + "\n" * missing + ")"
        pieces += [text[done:start], replacement]
        done = end
    return "".join([*pieces, text[done:]])


if __name__ == "__main__":
    try:
        sys.stdout.buffer.write(simplify(sys.stdin.buffer.read().decode(), sys.argv[1]).encode())
    except ValueError as unreadable:
        sys.stdout.buffer.write(str(unreadable).encode())
        sys.exit(1)
