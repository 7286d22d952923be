"""Read the sources inside any script that unpacks itself, without running it.

Of a submission like this one, which many in the field are:

    import base64, lzma
    exec(lzma.decompress(base64.b85decode("{Wp48S^xk9=GL@E0stWa8~^|S5YJf5...")))

`unwrap` gives {"train_gpt.py": the two lines, "train_gpt.py/line2.py": what they execute}.
"""

import ast
import base64
import binascii
import bz2
import importlib.util
import lzma
import re
import warnings
import zlib
from collections.abc import Callable, Iterator

from tools.submission.bundle import MAX_BYTES, unpack

DEPTH = 6  # layers of encoding and compression, one in the other
SHORTEST = 40  # characters of a literal that may hold a source


def decompress(stream, packed: bytes) -> bytes:
    """What a decompressor object makes of all the bytes.

    Raises: ValueError when they end early or hold more than MAX_BYTES.
    """
    plain = stream.decompress(packed, MAX_BYTES)
    if not stream.eof:
        raise ValueError(f"the payload is cut short, or holds more than {MAX_BYTES} bytes")
    return plain


def unbrotli(packed: bytes) -> bytes:
    try:
        import brotli
    except ImportError:
        what = "brotli is not installed, and this script unpacks itself with it"
        raise ModuleNotFoundError(f"{what}; python3 golf.py --with codecs ...") from None
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
    found = [[{"id": lzma.FILTER_LZMA2, "dict_size": MAX_BYTES}]]
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "filters":
            stated = ast.unparse(node.value)  # lzma.FILTER_LZMA1, whatever lzma is called there
            stated = re.sub(r"\w+\.([A-Z]\w+)", lambda m: str(getattr(lzma, m[1], 0)), stated)
            try:
                found.append(ast.literal_eval(stated))
            except ValueError:
                continue  # put together at run time
    return found


def decoders(tree: ast.AST, text: str) -> list[Callable[[bytes], bytes]]:
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
    return ways + [unbrotli] * ("brotli" in text)


def as_code(data: bytes) -> str | None:
    """The text, where the bytes are a Python source that does something."""
    try:
        text = importlib.util.decode_source(data)
        with warnings.catch_warnings(action="ignore"):  # of bytes that are no Python at all
            body = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    does = [not isinstance(n, ast.Expr) or isinstance(n.value, ast.Call) for n in body]
    return text if any(does) else None


def sources_in(data: bytes, ways: list[Callable[[bytes], bytes]], depth: int) -> Iterator[str]:
    """The sources that a literal's bytes give, after undoing the layers around them."""
    if (text := as_code(data)) is not None:
        yield text
        return
    lines = data.split()
    for way in ways if depth else ():
        try:
            inner = way(b"".join(lines) if data.isascii() else data)
        except (ValueError, OSError, EOFError, zlib.error, lzma.LZMAError):
            continue
        if len(inner) >= SHORTEST // 2:
            yield from sources_in(inner, ways, depth - 1)


def literals(tree: ast.AST) -> Iterator[tuple[int, bytes]]:
    """Line and bytes of every literal that may hold a source; those added up are one."""
    constants = {}  # name -> value, for a payload in several variables

    def value(node: ast.AST) -> str | bytes | None:
        match node:
            case ast.Constant(value=str() | bytes() as found):
                return found
            case ast.Name(id=name):
                return constants.get(name)
            case ast.BinOp(op=ast.Add()):
                parts = [value(node.left), value(node.right)]
                return parts[0] + parts[1] if None not in parts and same_type(parts) else None
            case ast.Call(func=ast.Attribute(attr="join", value=glue), args=[ast.List() as row]):
                parts = [value(glue), *map(value, row.elts)]
                return parts[0].join(parts[1:]) if None not in parts and same_type(parts) else None
        return None

    def same_type(parts: list) -> bool:
        return len({type(part) for part in parts}) == 1

    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = value(node.value)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant | ast.BinOp | ast.Call) and id(node) not in docstrings:
            found = value(node)
            if found is not None and len(found) >= SHORTEST:
                if isinstance(found, str) and "\x7f" < max(found) <= "\xff":
                    yield node.lineno, found.encode("latin-1")  # perhaps bytes
                found = found.encode(errors="replace") if isinstance(found, str) else found
                yield node.lineno, found


def unwrap(source: bytes, name: str) -> dict[str, str]:
    """{virtual file name: text} of a script and of all sources packed in it; nothing is run.

    A plain script is {name: text}. One of ours is {name/quantize.py: ..., ...} without its stub,
    which is known; of others the stub stays, under the script's own name. Raises:
    ModuleNotFoundError where a package is needed to look inside.
    """
    try:
        return {f"{name}/{inner}": text.decode() for inner, text in unpack(source).items()}
    except ValueError:
        text = as_code(source)
    if text is None:
        return {name: source.decode(errors="replace")}
    found, tree = {name: text}, ast.parse(text)
    ways = decoders(tree, text)
    for line, data in literals(tree):
        for inner in sources_in(data, ways, DEPTH):
            if inner not in found.values():
                found |= unwrap(inner.encode(), f"{name}/line{line}.py")
    return found
