"""Turn the sources of a run into one train_gpt.py that runs alone, and back.

    python -m tools.submission.bundle pack RUN_OR_FOLDER --out FILE [--plain] [--json]
    python -m tools.submission.bundle unpack FILE --out FOLDER [--json]
    python -m tools.submission.bundle verify FILE FOLDER [--json]

Exit status 0: done, 1: FILE was not packed from the sources in FOLDER, 2: nothing could be done
(sources missing or unfit, file damaged or not ours). Nothing of the sources is run.

Which sources: those that the run's train.log lists; without a log, train_gpt.py and every file of
the folder that it imports. Folders are kept: engine/text.py is imported as engine.text.

Packed, the sources lose comments, docstrings, types and layout (see strip.py), the functions that
nothing in them can reach (shake.py) and the long names of local variables (shorten.py). The packed
file holds one sha256 over all sources as they were, and unpacks to what runs; `verify` packs a
folder's sources again and compares every statement. --plain keeps every character, and the sources
readable in the one file.

    train_gpt.py ─┐ strip   ┌ payload: RUNNER ␀ sha256 of all ␀ engine/text.py ␀ its text ␀ …
    engine/*.py  ─┼────────▶┤
    codec/*.py   ─┘  bzip2  └ one latin-1 string literal in train_gpt.py, which executes RUNNER

The literal is not for editors or pasting, but git keeps it as it is, and damage does not run, as
bzip2 has a checksum. Measured on our sources without comments, 155,000 characters: 37.7 KB in
bzip2, 42.4 in LZMA, 41.3 in brotli, 43.2 in zstd-22; base85, which editors would survive, adds a
quarter. PPMd would take 33.3, but has no decoder in Python's library.
"""

import argparse
import ast
import bz2
import hashlib
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engine import log_lines
from quantize import write_atomic
from tools.submission.imports import follow_imports
from tools.submission.shake import shake
from tools.submission.shorten import shorten
from tools.submission.strip import parse, reads_docstrings, strip

ENTRY = "train_gpt.py"
TOOL = "tools.submission.bundle"  # what the packed file tells to unpack it with
MAX_BYTES = 1 << 24  # of one unpacked payload; a larger one is no source of a submission

# What runs the sources: in the plain form as it is, in the packed one ahead of the sources.
RUNNER = '''\
import importlib.util, linecache, os, sys, traceback


class Bundle:
    """Imports the sources in this file as if each lay at its own path beside it."""

    def __init__(self, sources):
        self.sources = dict(sources)
        self.folder, self.base = os.path.split(os.path.abspath(__file__))

    def find_spec(self, name, path=None, target=None):
        stem = name.replace(".", "/")
        is_package = any(other.startswith(stem + "/") for other in self.sources)
        if is_package or stem + ".py" in self.sources:
            return importlib.util.spec_from_loader(name, self, is_package=is_package)

    def create_module(self, spec):
        return None  # Python makes it

    def exec_module(self, module):
        stem = module.__name__.replace(".", "/")
        is_package = module.__spec__.submodule_search_locations is not None
        self.execute(stem + ("/__init__.py" if is_package else ".py"), vars(module))

    def execute(self, name, space):
        text = self.sources.get(name, "")  # a package may have no __init__.py
        # Tracebacks and inspect look for a function by the path that it was compiled from, and for
        # a class by __file__, which is this file for every module: each spells it in its own way.
        shown = f"{self.folder}/{self.base}/{name}"
        depth = 1 + sorted({name, *self.sources}).index(name)
        space["__file__"] = self.folder + "/." * depth + "/" + self.base
        lines = [line + "\\n" for line in text.split("\\n")]
        for path in (shown, space["__file__"]):
            linecache.cache[path] = (len(text), None, lines, path)
        exec(compile(text, shown, "exec", dont_inherit=True), space)


def run_sources(sources):
    """Run the last source as this file; it and the others can be imported."""
    bundle = Bundle(sources)
    # Modules of these names that lie beside this file, or in an earlier copy of it, are forgotten.
    for path, text in sources[:-1]:
        parts = path.removesuffix(".py").split("/")
        for depth in range(1, len(parts) + 1):
            sys.modules.pop(".".join(parts[:depth]), None)
    sys.meta_path.insert(0, bundle)
    bundle.execute(sources[-1][0], globals())


if __name__ == "__main__":
    sys.excepthook = traceback.print_exception  # Python's own, before 3.13, knows no such lines
'''
# The literal is between three quotes: line feeds and single quotes stand in it as they are.
CODING = "latin-1"  # each byte of the payload is one character of the literal
PACKED = f'''\
# -*- coding: {CODING} -*-
# All sources of a training run in one file, which runs alone. Comments were left out of them.
# To read them and the sha256 of the originals, without running anything:
#     python -m {TOOL} unpack FILE --out FOLDER
import bz2

parts = bz2.decompress("""{{payload}}""".encode("{CODING}"))[::-1].decode().split("\\0")
exec(parts[0])  # defines run_sources
run_sources(list(zip(parts[2::2], parts[3::2])))  # parts[1]: sha256 of the originals
'''
PLAIN_HEAD = f"""\
# All sources of a training run in one file, which runs alone: {{names}}.
# To read or change them, without running anything:
#     python -m {TOOL} unpack FILE --out FOLDER
"""
PLAIN_TAIL = "\n\nrun_sources([\n{pairs}])\n"
ESCAPED = re.compile(r'(\0(?=[0-7]))|([\0\r\\]|""?"?\Z|"(?=""))')
ESCAPES = {"\0": r"\0", "\r": r"\r", "\\": r"\\"}


@dataclass(frozen=True)
class Bundled:
    """What a packed file holds."""

    sources: dict[str, bytes]  # as they run: without comments unless packed --plain
    originals_sha256: str  # hash_of_all the sources as they were before packing
    is_plain: bool


def digest(data: bytes) -> dict:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def hash_of_all(hashes: dict[str, str]) -> str:
    """One sha256 over the sha256 of every source, so also over those that a run's log lists.

    That of {"b.py": "02f1…", "a.py": "77ab…"} is the sha256 of "a.py 77ab…\nb.py 02f1…\n".
    """
    lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(hashes))
    return hashlib.sha256(lines.encode()).hexdigest()


def hash_of_sources(files: dict[str, bytes]) -> str:
    return hash_of_all({name: digest(source)["sha256"] for name, source in files.items()})


# Packing ------------------------------------------------------------------------------------------


def check_sources(files: dict[str, bytes]) -> dict[str, str]:
    """The sources as text, in the order of their names, the entry last.

    Raises: ValueError naming the file that cannot be packed, why, and what to do.
    """
    if ENTRY not in files:
        raise ValueError(f"no {ENTRY} among {sorted(files)}; name the folder of a run")
    texts = {}
    for name in sorted(files, key=lambda name: (name == ENTRY, name)):
        parts = PurePosixPath(name).with_suffix("").parts
        if not (name.endswith(".py") and all(map(str.isidentifier, parts))):
            raise ValueError(f"{name!r} must be a module's path beside {ENTRY}: folder/name.py")
        try:
            texts[name] = files[name].decode()
            ast.parse(texts[name])
        except (SyntaxError, ValueError) as error:
            raise ValueError(f"{name}: {error}; save it as Python in UTF-8, no BOM") from None
    return texts


def reduced(texts: dict[str, str]) -> dict[str, str]:
    """The sources as they are packed: what runs, and no more.

    Docstrings stay in all of them if one of them reads some.
    """
    keep_docstrings = any(map(reads_docstrings, texts.values()))
    stripped = {name: strip(text, keep_docstrings) for name, text in texts.items()}
    # Short names first: a variable called as a function elsewhere would keep that function.
    return shake(shorten(stripped), ENTRY)


def escape(payload: str) -> str:
    """The payload as it stands between three quotes."""

    def replacement(match: re.Match) -> str:
        if match[1]:  # a digit after \0 would be read as part of it
            return r"\x00"
        return ESCAPES.get(match[2]) or r"\"" * len(match[2])

    return ESCAPED.sub(replacement, payload)


def write_packed(texts: dict[str, str], originals_sha256: str, runner: str) -> bytes:
    parts = [runner, originals_sha256]
    for name, text in texts.items():
        parts += [name, text]
    # Backward: 0.7 % fewer bytes of bzip2 on our sources.
    payload = bz2.compress("\0".join(parts).encode()[::-1]).decode(CODING)
    return PACKED.format(payload=escape(payload)).encode(CODING)


def quote(text: str) -> str:
    """A literal that reads like the text: raw, but for what a raw literal cannot hold."""
    parts = re.split(r"(['\\]*'''['\\]*|['\\]+\Z|['\\]*\r+)", text)
    quoted = [repr(part) if i % 2 else f"r'''{part}'''" for i, part in enumerate(parts)]
    return " ".join(part for part in quoted if part != "r''''''") or "''"


def write_plain(texts: dict[str, str]) -> bytes:
    head = PLAIN_HEAD.format(names=", ".join(texts))
    pairs = [f"({name!r}, {quote(text)}),\n" for name, text in texts.items()]
    return (head + RUNNER + PLAIN_TAIL.format(pairs="".join(pairs))).encode()


def pack(files: dict[str, bytes], plain: bool = False) -> bytes:
    """One Python file that runs like files["train_gpt.py"] among the others.

    files: {path relative to train_gpt.py: source}, folders with "/". Raises: ValueError for
    sources that are not UTF-8 Python or not under the name of a module.
    """
    texts = check_sources(files)
    if plain:
        return write_plain(texts)
    return write_packed(reduced(texts), hash_of_sources(files), strip(RUNNER))


# Unpacking ----------------------------------------------------------------------------------------

# sha256 of the RUNNER of files that were packed before packages could be, and the tool's names
# then. Such a file holds pairs of name and text, and all of the text.
FORMER_RUNNER = "5c290c63a8207ea65f9d0d8a1f8ccbbe06b0fa5ac46a2326931a0af2e07ac721"
FORMER_TOOLS = ("records.source", TOOL)
FORMER_HEAD = """\
# {names}: all in this one file, which runs alone.
# To read or change them, without running anything:
#     python -m {tool} unpack FILE --out FOLDER
"""
FORMER_PACKED = f"""\
# -*- coding: {CODING} -*-
{{head}}import bz2

parts = bz2.decompress("{{payload}}".encode("{CODING}")).decode().split("\\0")
exec(parts[0])  # defines run_sources
run_sources(list(zip(parts[1::2], parts[2::2])))
"""
FORMER_ESCAPES = ESCAPES | {"\n": r"\n", '"': r"\""}


def write_former(texts: dict[str, str], runner: str, tool: str, plain: bool) -> bytes:
    """What this tool wrote before it packed folders, byte for byte."""
    if hashlib.sha256(runner.encode()).hexdigest() != FORMER_RUNNER:
        return b""
    head = FORMER_HEAD.format(names=", ".join(texts), tool=tool)
    if plain:
        pairs = [f"({name!r}, {quote(text)}),\n" for name, text in texts.items()]
        return (head + runner + "\n" + PLAIN_TAIL.lstrip().format(pairs="".join(pairs))).encode()
    parts = "\0".join([runner, *(part for pair in texts.items() for part in pair)])
    payload = re.sub(
        r'(\0(?=[0-7]))|([\0\n\r"\\])',
        lambda match: r"\x00" if match[1] else FORMER_ESCAPES[match[2]],
        bz2.compress(parts.encode()).decode(CODING),
    )
    return FORMER_PACKED.format(head=head, payload=payload).encode(CODING)


def decompress(payload: bytes) -> bytes:
    stream = bz2.BZ2Decompressor()
    text = stream.decompress(payload, MAX_BYTES)
    if not stream.eof:
        raise ValueError(f"the payload is cut short, or holds more than {MAX_BYTES} bytes")
    return text


def do_the_same(code: str, other: str) -> bool:
    """Whether two sources have the same statements, however a version of Python spells them."""
    return ast.dump(parse(code)) == ast.dump(parse(other))


def read_packed(script: bytes) -> tuple[Bundled, bytes]:
    """What a packed script of any form holds, and what packing that again gives.

    The script ends with run_sources(...): in the plain form of a list of pairs, else of what the
    literal in the statement before the last but one unpacks to.
    """
    *_, assignment, _, call = ast.parse(script).body
    argument = call.value.args[0]
    if isinstance(argument, ast.List):
        texts = dict(ast.literal_eval(argument))
        sources = {name: text.encode() for name, text in texts.items()}
        return Bundled(sources, hash_of_sources(sources), True), write_plain(texts)
    (literal,) = [
        node.value
        for node in ast.walk(assignment)
        if isinstance(node, ast.Constant) and len(str(node.value)) > len(CODING)
    ]
    unpacked = decompress(literal.encode(CODING))[::-1]
    runner, originals_sha256, *parts = unpacked.decode().split("\0")
    if not do_the_same(runner, strip(RUNNER)):
        raise ValueError("its sources are run by other code than this tool writes")
    texts = dict(zip(parts[::2], parts[1::2], strict=True))
    sources = {name: text.encode() for name, text in texts.items()}
    again = write_packed(texts, originals_sha256, runner)
    return Bundled(sources, originals_sha256, False), again


def read_former(script: bytes) -> tuple[Bundled, bytes]:
    """The same of a script that was packed before packages could be."""
    *_, assignment, _, call = ast.parse(script).body
    argument = call.value.args[0]
    is_plain = isinstance(argument, ast.List)
    if is_plain:
        texts = dict(ast.literal_eval(argument))
        runner = script.decode().split("FOLDER\n", 1)[1].rsplit("\nrun_sources([", 1)[0]
    else:
        (literal,) = [
            node.value
            for node in ast.walk(assignment)
            if isinstance(node, ast.Constant) and len(str(node.value)) > len(CODING)
        ]
        runner, *parts = decompress(literal.encode(CODING)).decode().split("\0")
        texts = dict(zip(parts[::2], parts[1::2], strict=True))
    sources = {name: text.encode() for name, text in texts.items()}
    bundled = Bundled(sources, hash_of_sources(sources), is_plain)
    written = [write_former(texts, runner, tool, is_plain) for tool in FORMER_TOOLS]
    return bundled, script if script in written else b""


def read_bundle(script: bytes) -> Bundled:
    """What `pack` wrote, of both forms; line ends may be those of a checkout on Windows.

    Raises: ValueError unless packing it again gives exactly this file: nothing else hides in it.
    """
    script = script.replace(b"\r\n", b"\n")
    errors = []
    for read in (read_packed, read_former):
        try:
            bundled, again = read(script)
        except (RecursionError, MemoryError):
            errors.append("its expressions are nested too deeply")
            continue
        except (SyntaxError, LookupError, AttributeError, TypeError, ValueError, OSError) as error:
            errors.append(error)
            continue
        if again == script:
            return bundled
    if len(errors) == 2:
        raise ValueError(f"is not a file that {TOOL} packed, or is damaged ({errors[0]})")
    raise ValueError(f"holds more or less than {TOOL} packs; read it before you run it")


def unpack(script: bytes) -> dict[str, bytes]:
    """The sources in a packed script, as they run. Raises: ValueError, as read_bundle."""
    return read_bundle(script).sources


def mismatches(script: bytes, files: dict[str, bytes]) -> list[str]:
    """Why the script was not packed from these files; empty where it was.

    Raises: ValueError for a script that was not packed here, or sources that cannot be.
    """
    bundled = read_bundle(script)
    names = bundled.sources.keys()
    faults = [
        f"{name} is packed, and not among the sources" for name in sorted(names - files.keys())
    ]
    faults += [
        f"{name} is among the sources, and not packed" for name in sorted(files.keys() - names)
    ]
    if faults:
        return faults
    if bundled.is_plain:
        different = [name for name in files if bundled.sources[name] != files[name]]
        return [f"{name} differs from the packed text" for name in different]
    for name, text in reduced(check_sources(files)).items():
        if not do_the_same(bundled.sources[name].decode(), text):
            faults.append(f"{name} runs other statements than this source")
    sha256 = hash_of_sources(files)
    if not faults and bundled.originals_sha256 != sha256:
        packed_from = f"packed from sources of sha256 {bundled.originals_sha256}"
        faults.append(f"{packed_from}, these have {sha256}: comments, docstrings or types differ")
    return faults


# Commands -----------------------------------------------------------------------------------------


def read_sources(folder: Path) -> dict[str, bytes]:
    """The sources of a run, a record or a checkout, unpacked where they are packed already.

    Raises: OSError where a source is missing, ValueError where one is not Python.
    """
    entry = folder / ENTRY
    if not entry.is_file():
        raise FileNotFoundError(f"{folder} holds no {ENTRY}; name the folder of a run or a record")
    try:
        return unpack(entry.read_bytes())
    except ValueError:
        pass  # the sources lie beside it
    log = folder / "train.log"
    lines = log.read_text(errors="replace").splitlines() if log.is_file() else []
    listed = [fields["file"] for fields in map(log_lines.SOURCE.read, lines) if fields]
    if listed:
        return {name: (folder / name).read_bytes() for name in listed}
    return follow_imports(folder, ENTRY)


def read_originals_sha256(folder: Path) -> str:
    """hash_of_all the sources of a folder, as they were before they were packed."""
    try:
        return read_bundle((folder / ENTRY).read_bytes()).originals_sha256
    except ValueError:
        return hash_of_sources(read_sources(folder))


# Of this checkout, for what has to name them without a run's log at hand.
SOURCES = tuple(follow_imports(Path(__file__).parents[2], ENTRY))


def write_files(files: dict[Path, bytes]) -> None:
    for path, data in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, data)


def print_rows(rows: list[dict], as_json: bool, **more: str) -> None:
    if as_json:
        print(json.dumps({"files": rows, **more}))
        return
    for row in rows:
        print(f"{row['bytes']:>9,}  {row['sha256']}  {row['path']}")


def pack_command(args: argparse.Namespace) -> int:
    files = read_sources(args.folder if args.folder.is_dir() else "logs" / args.folder)
    script = pack(files, args.plain)
    write_files({args.out: script})
    rows = [{"path": name, **digest(source)} for name, source in files.items()]
    print_rows([*rows, {"path": str(args.out), **digest(script)}], args.json)
    return 0


def unpack_command(args: argparse.Namespace) -> int:
    bundled = read_bundle(args.script.read_bytes())
    files = {args.out / name: source for name, source in bundled.sources.items()}
    write_files(files)
    rows = [{"path": str(path), **digest(source)} for path, source in files.items()]
    print_rows(rows, args.json, originals_sha256=bundled.originals_sha256)
    if not args.json:
        print(f"           {bundled.originals_sha256}  all sources before packing (hash_of_all)")
    return 0


def verify_command(args: argparse.Namespace) -> int:
    files = read_sources(args.folder)
    faults = mismatches(args.script.read_bytes(), files)
    if args.json:
        print(json.dumps({"same": not faults, "mismatches": faults}))
    elif faults:
        print("\n".join(faults))
    else:
        print(f"{args.script} was packed from the {len(files)} sources in {args.folder}")
    return 1 if faults else 0


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog=TOOL, description=about)
    verbs = parser.add_subparsers(dest="verb", required=True)
    packing = verbs.add_parser("pack", help="several files to one")
    packing.add_argument("folder", type=Path, metavar="RUN_OR_FOLDER", help="folder, or a run id")
    packing.add_argument("--plain", action="store_true", help="readable, not compressed")
    packing.set_defaults(command=pack_command)
    unpacking = verbs.add_parser("unpack", help="one file to several; runs nothing")
    unpacking.add_argument("script", type=Path, metavar="FILE")
    unpacking.set_defaults(command=unpack_command)
    verifying = verbs.add_parser("verify", help="whether FILE was packed from FOLDER's sources")
    verifying.add_argument("script", type=Path, metavar="FILE")
    verifying.add_argument("folder", type=Path, metavar="FOLDER")
    verifying.set_defaults(command=verify_command)
    for verb in (packing, unpacking):
        verb.add_argument("--out", type=Path, required=True, help="where to write")
    for verb in (packing, unpacking, verifying):
        verb.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        return args.command(args)
    except (OSError, ValueError) as error:
        path = args.folder if args.verb == "pack" else args.script
        print(f"{TOOL}: {path}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
