"""Read the sources inside any script that unpacks itself, without running it.

Of a submission like this one, as many in the field are:

    import base64, lzma
    exec(lzma.decompress(base64.b85decode("{Wp48S^xk9=GL@E0stWa8~^|S5YJf5...")))

`unwrap` gives {"train_gpt.py": the two lines, "train_gpt.py/line2.py": what they execute}. Every
literal is tried with every encoding and compression that the field uses, one in the other. What a
script executes and what could not be read is told, never passed over.
"""

import ast
import base64
import binascii
import bz2
import importlib.util
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tools.submission.bundle import MAX_BYTES, unpack
from tools.submission.newer_python import parse, parse_here

DEPTH = 6  # layers of encoding and compression, one in the other
SHORTEST = 40  # characters of a literal that may hold a source
LOOKS_LIKE_PYTHON = re.compile(
    r"^(import \w|from [\w.]+ import |def \w+\(|class \w+|@\w|if __name__)", re.M
)


@dataclass
class Unwrapped:
    """Every source in a script, and what could not be read of it."""

    texts: dict[str, str] = field(default_factory=dict)  # virtual file name -> text
    trees: dict[str, ast.Module] = field(default_factory=dict)  # of those that are Python
    unread: dict[str, str] = field(default_factory=dict)  # virtual file name:line -> reason

    def add(self, other: "Unwrapped") -> None:
        self.texts |= other.texts
        self.trees |= other.trees
        self.unread |= other.unread


# Layers ------------------------------------------------------------------------------------------


def decompress(stream, packed: bytes) -> bytes:
    """What a decompressor object makes of all the bytes.

    Raises: ValueError when they end early or hold more than MAX_BYTES.
    """
    plain = stream.decompress(packed, MAX_BYTES)
    if not stream.eof:
        raise ValueError(f"the payload is cut short, or holds more than {MAX_BYTES} bytes")
    return plain


def has_brotli() -> bool:
    try:
        import brotli  # noqa: F401
    except ImportError:
        return False
    return True


def unbrotli(packed: bytes) -> bytes:
    import brotli

    try:
        return brotli.decompress(packed)
    except brotli.error as error:
        raise ValueError(str(error)) from None


def unzstd(packed: bytes) -> bytes:
    import zstandard

    try:
        return zstandard.ZstdDecompressor().stream_reader(packed).read(MAX_BYTES)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def lzma_filters(tree: ast.AST) -> list[list[dict]]:
    """The filters of LZMA without a header, as the script's own calls state them."""
    filters = [[{"id": lzma.FILTER_LZMA2, "dict_size": MAX_BYTES}]]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "filters":
            stated = ast.unparse(node.value)  # lzma.FILTER_LZMA1, whatever lzma is called there
            stated = re.sub(r"\w+\.([A-Z]\w+)", lambda m: str(getattr(lzma, m[1], 0)), stated)
            try:
                filters.append(ast.literal_eval(stated))
            except ValueError:
                continue  # put together at run time
    return filters


def decoders(tree: ast.AST) -> list[Callable[[bytes], bytes]]:
    """Every way of undoing one layer that a self-extracting script may use."""
    ways = [
        base64.b85decode,
        base64.a85decode,
        lambda data: base64.a85decode(data, adobe=True),
        lambda data: base64.b64decode(data, validate=True),
        lambda data: base64.b64decode(data, b"-_", validate=True),
        base64.b32decode,
        binascii.unhexlify,
        lambda data: decompress(zlib.decompressobj(zlib.MAX_WBITS | 32), data),  # zlib and gzip
        lambda data: decompress(zlib.decompressobj(-zlib.MAX_WBITS), data),
        lambda data: decompress(bz2.BZ2Decompressor(), data),
        lambda data: decompress(lzma.LZMADecompressor(), data),
        unzstd,
    ]
    for filters in lzma_filters(tree):
        raw = {"format": lzma.FORMAT_RAW, "filters": filters}
        ways.append(lambda data, raw=raw: decompress(lzma.LZMADecompressor(**raw), data))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {alias.name for node in ast.walk(tree) for alias in getattr(node, "names", [])
              if isinstance(alias, ast.alias)}  # fmt: skip
    if "brotli" in names and has_brotli():
        ways.append(unbrotli)
    return ways


# Literals -----------------------------------------------------------------------------------------


def literals(tree: ast.AST) -> Iterator[tuple[int, bytes]]:
    """Line and bytes of every literal that may hold a source; those added up are one."""
    constants = {}  # name -> value, for a payload in several variables

    def concatenate(parts: list) -> str | bytes | None:
        if len({type(part) for part in parts}) != 1 or None in parts:
            return None
        return type(parts[0])().join(parts)

    def value(node: ast.AST) -> str | bytes | None:
        match node:
            case ast.Constant(value=str() | bytes() as literal):
                return literal
            case ast.Name(id=name):
                return constants.get(name)
            case ast.BinOp(op=ast.Add()):
                terms = []
                while isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
                    terms.append(node.right)
                    node = node.left
                return concatenate([value(term) for term in [node, *reversed(terms)]])
            case ast.Call(func=ast.Attribute(attr="join", value=glue), args=[ast.List() as row]):
                parts = [value(glue), *map(value, row.elts)]
                is_known = None not in parts and len({type(part) for part in parts}) == 1
                return parts[0].join(parts[1:]) if is_known else None
        return None

    skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = value(node.value)
        if isinstance(node, ast.BinOp):  # the sum is looked at, not its beginnings
            skipped |= {id(node.left)} if isinstance(node.left, ast.BinOp) else set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.BinOp | ast.Call) and id(node) not in skipped:
            literal = value(node)
            if literal is not None and len(literal) >= SHORTEST:
                if isinstance(literal, str) and "\x7f" < max(literal) <= "\xff":
                    yield node.lineno, literal.encode("latin-1")  # perhaps bytes
                if isinstance(literal, str):
                    literal = literal.encode(errors="replace")
                yield node.lineno, literal


def executions(tree: ast.AST) -> list[int]:
    """Lines that execute what is not written there: exec(x), eval(x)."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            if node.func.id in ("exec", "eval") and node.args:
                inner = ast.walk(node.args[0])
                is_written = isinstance(node.args[0], ast.Constant) or (
                    node.func.id == "eval"
                    and any(isinstance(n, ast.Constant | ast.JoinedStr) for n in inner)
                )
                if not is_written:
                    lines.append(node.lineno)
    return lines


# Sources ------------------------------------------------------------------------------------------


def does_something(tree: ast.Module) -> bool:
    """Whether a text that parses is a program: prose and data may be expressions of names."""
    for statement in tree.body:
        if not isinstance(statement, ast.Expr) or isinstance(statement.value, ast.Call):
            return True
    return False


def as_text(data: bytes) -> str | None:
    try:
        return importlib.util.decode_source(data)
    except (SyntaxError, ValueError):
        return None


def candidates(
    data: bytes, ways: list[Callable[[bytes], bytes]], depth: int
) -> Iterator[tuple[str, ast.Module | str]]:
    """Texts that a literal's bytes give, each with its syntax tree or why there is none."""
    text = as_text(data)
    if text is not None:
        # Newer syntax is read by a process of its own, which takes a second: not for every literal.
        is_likely = LOOKS_LIKE_PYTHON.search(text)
        try:
            tree = parse(text) if is_likely else parse_here(text)
        except ValueError as error:
            if is_likely:
                yield text, str(error)
                return
        else:
            if does_something(tree):
                yield text, tree
                return
    packed = b"".join(data.split()) if data.isascii() else data
    for way in ways if depth else ():
        try:
            inner = way(packed)
        except (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError):
            continue
        if len(inner) >= SHORTEST // 2:
            yield from candidates(inner, ways, depth - 1)


def unwrap(source: bytes, name: str) -> Unwrapped:
    """A script and all sources packed in it, by names that say where; nothing is run.

    A plain script is {name: text}. One of ours is {name/quantize.py: ..., ...} without its stub,
    which is known; of others the stub stays, under the script's own name.
    """
    try:
        files = unpack(source)
    except ValueError:
        return unwrap_foreign(source, name)
    texts = {f"{name}/{inner}": text.decode() for inner, text in files.items()}
    return Unwrapped(texts, {inner: parse(text) for inner, text in texts.items()})


def unwrap_foreign(source: bytes, name: str) -> Unwrapped:
    text = as_text(source)
    if text is None:
        text = source.decode(errors="replace")
        return Unwrapped({name: text}, unread={name: "it is not text of the encoding it states"})
    try:
        tree = parse(text)
    except ValueError as error:
        return Unwrapped({name: text}, unread={name: str(error)})
    result = Unwrapped({name: text}, {name: tree})
    add_packed(result, name, tree, DEPTH)
    return result


def add_packed(result: Unwrapped, name: str, tree: ast.Module, depth: int) -> None:
    """Add what the literals of a source hold, and say what it executes that none of them is."""
    ways = decoders(tree)
    count = len(result.texts)
    for line, data in literals(tree):
        inner_name = f"{name}/line{line}.py"
        for text, inner in candidates(data, ways, DEPTH):
            if text in result.texts.values():
                continue
            while inner_name in result.texts:
                inner_name = inner_name.removesuffix(".py") + "_.py"
            result.texts[inner_name] = text
            if isinstance(inner, str):
                result.unread[inner_name] = f"what is packed there is not Python: {inner}"
                continue
            result.trees[inner_name] = inner
            if depth:
                add_packed(result, inner_name, inner, depth - 1)
    lines = executions(tree)
    if lines and len(result.texts) == count:
        reason = "it executes code that is not in it"
        if "brotli" in result.texts[name] and not has_brotli():
            reason += " or is packed with brotli, which is not installed"
            reason += " (python3 golf.py --with scripts ...)"
        for line in lines:
            result.unread[f"{name}:{line}"] = reason
