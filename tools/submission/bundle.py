"""Turn train_gpt.py and what it imports of ours into one train_gpt.py that runs alone, and back.

    python -m tools.submission.bundle pack RUN_OR_FOLDER --out FILE [--plain] [--json]
    python -m tools.submission.bundle unpack FILE --out FOLDER [--json]

Exit status 0: written, 2: nothing could be written (sources missing or unfit, file damaged or not
ours). Both ways are lossless, run nothing of the sources, and print each file's size and sha256.

Packed, the sources and what runs them are bzip2 in a latin-1 string literal: not for editors or
pasting, but git keeps it as it is, and damage does not run, as bzip2 has a checksum. --plain keeps
the sources readable in the one file instead. Measured on the 162,982 bytes of a run's five files:
bzip2 44,582 (45,596 in the literal, 55,728 in base85, which editors would survive), LZMA with tuned
filters 46,716, zstd 47,533, zlib 52,218; brotli, 45,158, would have to be installed first. Shorter
names for frequent words and indentation save another 1 %, and were left out.
"""

import argparse
import ast
import base64
import binascii
import bz2
import graphlib
import hashlib
import importlib.util
import json
import lzma
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from quantize import write_atomic

ENTRY = "train_gpt.py"
SOURCES = (ENTRY, "quantize.py", "trellis.py", "rans.py", "evaluate.py")  # of older runs, some
TOOL = "tools.submission.bundle"  # what the packed file tells to unpack it with
FORMER_TOOL = "records.source"  # in files that were packed before this module moved
MAX_BYTES = 1 << 24  # of one unpacked payload; a larger one is no source of a submission

# What every form starts with, and what runs the sources: in the plain form as it is, in the packed
# one ahead of the sources in the payload.
HEAD = """\
# {names}: all in this one file, which runs alone.
# To read or change them, without running anything:
#     python -m {tool} unpack FILE --out FOLDER
"""
RUNNER = '''\
import linecache, os, sys, traceback, types


def run_sources(sources):
    """Run every source as a module of its own, the last one as this file."""
    folder, base = os.path.split(os.path.abspath(__file__))
    for depth, (name, text) in enumerate(sources, 1):
        module = types.ModuleType(name.removesuffix(".py"))
        if depth < len(sources):
            sys.modules[module.__name__] = module
        space = vars(module) if depth < len(sources) else globals()
        # Tracebacks and inspect look for a function by the path that it was compiled from, and for
        # a class by __file__, which is this file for every module: each spells it in its own way.
        shown = f"{folder}/{base}/{name}"
        space["__file__"] = folder + "/." * depth + "/" + base
        lines = [line + "\\n" for line in text.split("\\n")]
        for path in (shown, space["__file__"]):
            linecache.cache[path] = (len(text), None, lines, path)
        exec(compile(text, shown, "exec"), space)


if __name__ == "__main__":
    sys.excepthook = traceback.print_exception  # Python's own, before 3.13, knows no such lines
'''
CODING = "latin-1"  # each byte of the payload is one character of the literal
PACKED_HEAD = f"# -*- coding: {CODING} -*-\n"
PACKED_TAIL = f"""\
import bz2

parts = bz2.decompress("{{payload}}".encode("{CODING}")).decode().split("\\0")
exec(parts[0])  # defines run_sources
run_sources(list(zip(parts[1::2], parts[2::2])))
"""
ESCAPES = {"\0": r"\0", "\n": r"\n", "\r": r"\r", '"': r"\"", "\\": r"\\"}
PLAIN_TAIL = "run_sources([\n{pairs}])\n"


def local_imports(text: str) -> set[str]:
    """Names of the modules that a source imports when it starts."""
    found = set()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def decode_all(files: dict[str, bytes]) -> dict[str, str]:
    """The sources as text, each after those that it imports and the entry last.

    Raises: ValueError naming the file that cannot be packed, why, and what to do.
    """
    if ENTRY not in files:
        raise ValueError(f"no {ENTRY} among {sorted(files)}; name the folder of a run")
    texts, needs = {}, {}
    for name, source in sorted(files.items()):
        if not re.fullmatch(r"[A-Za-z_]\w*\.py", name):
            raise ValueError(f"{name!r} must be the name of a module beside {ENTRY}")
        try:
            texts[name] = source.decode()
            imported = local_imports(texts[name])
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{name}: {error}; save it as Python in UTF-8, no BOM") from None
        needs[name] = [other for other in files if other.removesuffix(".py") in imported]
    needs[ENTRY] = set(files) - {ENTRY}
    try:
        return {name: texts[name] for name in graphlib.TopologicalSorter(needs).static_order()}
    except graphlib.CycleError as error:
        raise ValueError(
            f"{' and '.join(error.args[1])} import each other; move one import"
        ) from None


def quote(text: str) -> str:
    """A literal that reads like the text: raw, but for what a raw literal cannot hold."""
    parts = re.split(r"(['\\]*'''['\\]*|['\\]+\Z|['\\]*\r+)", text)
    quoted = [repr(part) if i % 2 else f"r'''{part}'''" for i, part in enumerate(parts)]
    return " ".join(part for part in quoted if part != "r''''''") or "''"


def pack(files: dict[str, bytes], plain: bool = False, tool: str = TOOL) -> bytes:
    """One Python file that runs like files["train_gpt.py"] among the others, and unpacks to them.

    Raises: ValueError for sources that are not UTF-8 Python, or that import each other.
    """
    texts = decode_all(files)
    head = HEAD.format(names=", ".join(texts), tool=tool)
    if plain:
        pairs = [f"({name!r}, {quote(text)}),\n" for name, text in texts.items()]
        return (head + RUNNER + "\n" + PLAIN_TAIL.format(pairs="".join(pairs))).encode()
    parts = "\0".join([RUNNER, *(part for pair in texts.items() for part in pair)])
    packed = bz2.compress(parts.encode()).decode(CODING)
    # A digit after \0 would be read as part of it.
    odd = r'(\0(?=[0-7]))|([\0\n\r"\\])'
    payload = re.sub(odd, lambda m: r"\x00" if m[1] else ESCAPES[m[2]], packed)
    return (PACKED_HEAD + head + PACKED_TAIL.format(payload=payload)).encode(CODING)


def unpack(packed: bytes) -> dict[str, bytes]:
    """The files that `pack` was given; of both forms, and of a checkout with other line ends.

    Raises: ValueError unless packing them again gives exactly this file: nothing else hides in it.
    """
    packed = packed.replace(b"\r\n", b"\n")
    try:
        *_, assignment, _, call = ast.parse(packed).body
        last = call.value.args[0]
        if isinstance(last, ast.List):
            pairs = ast.literal_eval(last)
        else:
            (_, payload), *_ = literals(assignment)
            _, *parts = decompress(bz2.BZ2Decompressor(), payload).decode().split("\0")
            pairs = list(zip(parts[::2], parts[1::2], strict=True))
        files = {name: source.encode() for name, source in pairs}
        is_plain = isinstance(last, ast.List)
        same = any(pack(files, is_plain, tool) == packed for tool in (TOOL, FORMER_TOOL))
    except (SyntaxError, LookupError, AttributeError, TypeError, ValueError, OSError) as error:
        what = f"is not a file that {TOOL} packed, or is damaged"
        raise ValueError(f"{what} ({error}); pack the run again") from None
    if not same:
        raise ValueError(f"holds more or less than {TOOL} packs; read it before you run it")
    return files


# Any script that unpacks itself -------------------------------------------------------------------

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


# Commands -----------------------------------------------------------------------------------------


def read_sources(folder: Path) -> dict[str, bytes]:
    """The source files of a run or record folder, unpacked where they are packed already.

    Raises: FileNotFoundError where there is no train_gpt.py.
    """
    files = {name: (folder / name).read_bytes() for name in SOURCES if (folder / name).is_file()}
    if ENTRY not in files:
        raise FileNotFoundError(f"{folder} holds no {ENTRY}; name the folder of a run or a record")
    try:
        return unpack(files[ENTRY])
    except ValueError:
        return files


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.submission.bundle", description=about)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="several files to one")
    packing.add_argument("given", type=Path, metavar="RUN_OR_FOLDER", help="folder, or a run id")
    packing.add_argument("--plain", action="store_true", help="readable, not compressed")
    unpacking = verbs.add_parser("unpack", help="one file to several; runs nothing")
    unpacking.add_argument("given", type=Path, metavar="FILE")
    for verb in (packing, unpacking):
        verb.add_argument("--out", type=Path, required=True, help="where to write")
        verb.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        if args.verb == "pack":
            files = read_sources(args.given if args.given.is_dir() else "logs" / args.given)
            written = {args.out: pack(files, args.plain)}
        else:
            files = unpack(args.given.read_bytes())
            written = {args.out / name: source for name, source in files.items()}
        for path, data in written.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data)
    except (OSError, ValueError) as error:
        print(f"tools.submission.bundle: {args.given}: {error}", file=sys.stderr)
        return 2
    shown = ({Path(name): files[name] for name in files} if args.verb == "pack" else {}) | written
    rows = [
        {"path": str(path), "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        for path, data in shown.items()
    ]
    if args.json:
        print(json.dumps({"files": rows}))
    else:
        for row in rows:
            print(f"{row['bytes']:>9,}  {row['sha256']}  {row['path']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
