"""The packed form of the sources: it runs like them, proves what it came from, hides nothing."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tools.submission import bundle
from tools.submission.bundle import main, mismatches, pack, read_bundle, read_sources, unpack

ROOT = Path(__file__).parents[3]
OURS = read_sources(ROOT)
FORMS = pytest.mark.parametrize("plain", [False, True], ids=["packed", "plain"])
SMOKE = ROOT / "records/smoke_cpu/2026-11-21_Smoke/train_gpt.py"

# Small sources that have what ours have and what packing could break: folders with and without
# an __init__.py, relative and late imports, two modules that need each other.
TOY = {
    "quantize.py": '''"""Quantise."""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Plan:
    """This docstring goes."""

    bits: int = 5  # a comment \\ with a backslash, and quotes: \'\'\' """
    parent: Plan | None = None


def divide(a, b):
    return a / b
''',
    "engine/text.py": """from engine import batches  # which imports this


def ratio():
    return batches.divide(6, 3)
""",
    "engine/batches.py": """import engine.text
from quantize import divide
""",
    "codec/__init__.py": """from .rows import ROWS
""",
    "codec/rows.py": """ROWS = 7
""",
    "train_gpt.py": '''"""Train."""
import inspect
import sys
from pathlib import Path

import codec
import engine.batches
import engine.text
import quantize


def read_sources():
    modules = (quantize, engine.text, engine.batches, codec, codec.rows)
    files = (__file__, *(module.__file__ for module in modules))
    return {Path(file).name: Path(file).read_bytes() for file in files}


class Trainer:
    step = 3


def main():
    """This one too."""
    import importlib

    for member in (Trainer, main, engine.text.ratio, quantize.Plan, quantize.divide):
        print(inspect.getsource(member))
    late = importlib.import_module("codec.rows")
    print(engine.text.ratio(), quantize.Plan(), __name__, __doc__, list(read_sources()))
    print(codec.ROWS, late is codec.rows, quantize.divide.__module__)
    if sys.argv[1:]:
        quantize.divide(1, 0)


if __name__ == "__main__":
    main()
''',
}
TOY = {name: text.encode() for name, text in TOY.items()}


def run(folder: Path, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    """A process that finds no module of ours but those of the folder."""
    command = (sys.executable, "-B", *command)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd or folder, capture_output=True, text=True, env=env)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, source in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(source)
    return folder


def reduced(files: dict[str, bytes]) -> dict[str, bytes]:
    texts = bundle.check_sources(files)
    return {name: text.encode() for name, text in bundle.reduced(texts).items()}


@FORMS
@pytest.mark.parametrize("files", [OURS, TOY], ids=["ours", "toy"])
def test_packing_is_lossless_but_for_comments(files, plain):
    """What runs comes back, whatever the line ends, and the hash is that of the originals."""
    script = pack(files, plain)
    for text in (script, script.replace(b"\n", b"\r\n")):
        bundled = read_bundle(text)
        assert bundled.sources == (files if plain else reduced(files))
        hashes = {name: hashlib.sha256(source).hexdigest() for name, source in files.items()}
        lines = "".join(f"{name} {hashes[name]}\n" for name in sorted(files))
        assert bundled.originals_sha256 == hashlib.sha256(lines.encode()).hexdigest()


def test_the_packed_form_of_ours_is_small():
    """The whole recipe in 40 KB; plain adds under 4,000 bytes to the sources."""
    size = sum(map(len, OURS.values()))
    assert len(pack(OURS)) <= 40_000
    assert len(pack(OURS, plain=True)) < size + 4000


@settings(deadline=None, max_examples=200)
@given(st.text(alphabet="'\"\\\r\n ax\u2028\f{}"))
@example("'''\\")
@example("'\r\\'")
@example('r"""' + "'" * 7)
def test_the_plain_form_holds_any_text(text):
    """Quotes, backslashes and carriage returns in any order come back unchanged."""
    files = {"train_gpt.py": b"# " + repr(text).encode(), "a.py": ("#'" + text).encode()}
    try:
        compile(files["a.py"].decode(), "a.py", "exec")
    except SyntaxError:
        files["a.py"] = b"x = '''\r'''\r\n'\\\\'"
    assert unpack(pack(files, plain=True)) == files
    assert unpack(pack(files)) == reduced(files)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=300))
@example(b'""""')
@example(b'\0001\\"\r\n""')
def test_the_literal_holds_any_payload(payload):
    """Python reads back every byte from between the three quotes."""
    text = payload.decode("latin-1")
    literal = f'x = """{bundle.escape(text)}"""'
    space = {}
    exec(compile(f"# -*- coding: latin-1 -*-\n{literal}".encode("latin-1"), "x", "exec"), space)
    assert space["x"] == text


@FORMS
def test_a_packed_file_runs_like_its_sources(tmp_path, plain):
    """Alone, from elsewhere: the same output, inspect.getsource and dataclasses included."""
    files = TOY if plain else reduced(TOY)
    single = write(tmp_path / "single", files)
    alone = write(tmp_path / "alone", {"train_gpt.py": pack(TOY, plain)})
    expected = run(single, "train_gpt.py")
    actual = run(alone, "../alone/train_gpt.py", cwd=single)
    assert (actual.returncode, actual.stderr) == (0, "")
    assert "bits: int = 5" in expected.stdout and "class Trainer" in expected.stdout
    assert "7 True quantize" in expected.stdout and "__main__ Train. [" in expected.stdout
    names = "['train_gpt.py', 'quantize.py', 'text.py', 'batches.py', '__init__.py', 'rows.py']"
    assert names in expected.stdout
    assert actual.stdout == expected.stdout.replace(names, "['train_gpt.py']")
    by_name = "import runpy; runpy.run_path('train_gpt.py', run_name='__main__')"
    assert run(alone, "-c", by_name).stdout == actual.stdout


def test_sources_beside_the_packed_file_are_not_used(tmp_path):
    """A changed quantize.py in the same folder does not replace the packed one."""
    folder = write(tmp_path / "run", {"train_gpt.py": pack(TOY), "quantize.py": b"1 / 0\n"})
    write(folder, {"codec/__init__.py": b"1 / 0\n", "engine/text.py": b"1 / 0\n"})
    assert run(folder, "train_gpt.py").returncode == 0


@FORMS
def test_a_traceback_names_module_line_and_text(tmp_path, plain):
    """An error two modules deep shows each module's name, the line's number and the line.

    Lines are those of what runs, as unpack writes it.
    """
    alone = write(tmp_path, {"train_gpt.py": pack(TOY, plain)})
    sources = TOY if plain else reduced(TOY)
    error = run(alone, "train_gpt.py", "fail").stderr
    for name, text in [("train_gpt.py", "quantize.divide(1, 0)"), ("quantize.py", "return a / b")]:
        lines = [line.strip() for line in sources[name].decode().splitlines()]
        assert f'train_gpt.py/{name}", line {1 + lines.index(text)}, in' in error
        assert f"    {text}\n" in error
    assert error.endswith("ZeroDivisionError: division by zero\n")


@FORMS
def test_it_can_be_imported_twice(tmp_path, plain):
    """By name and again by path: each has its own modules, and counts just its own file."""
    alone = write(tmp_path / "alone", {"train_gpt.py": pack(TOY, plain)})
    code = f"""
import importlib.util, inspect, sys
sys.path.insert(0, {str(alone)!r})
import train_gpt, engine.text
spec = importlib.util.spec_from_file_location("again", {str(alone / "train_gpt.py")!r})
again = sys.modules["again"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(again)
assert train_gpt.engine is engine is not again.engine is sys.modules["engine"]
for module in (train_gpt, again):
    assert module.engine.text.ratio() == 2.0
    assert "step = 3" in inspect.getsource(module.Trainer)
    assert "bits: int = 5" in inspect.getsource(module.quantize.Plan)
    [(name, source)] = module.read_sources().items()
    assert (name, source) == ("train_gpt.py", open({str(alone / "train_gpt.py")!r}, "rb").read())
"""
    done = run(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_our_trainer_imports_packed(tmp_path):
    """Our files as one: classes and functions of every module have their source."""
    script = pack(OURS)
    alone = write(tmp_path / "alone", {"train_gpt.py": script})
    texts = {name: source.decode() for name, source in unpack(script).items()}
    code = f"""
import importlib, inspect, sys
sys.path.insert(0, {str(alone)!r})
import train_gpt
for path, text in sources.items():
    module = importlib.import_module(path.removesuffix(".py").replace("/", "."))
    assert open(module.__file__, "rb").read() == script
    for name, member in vars(module).items():
        is_own = getattr(member, "__module__", "") == module.__name__ and name != "run_sources"
        if is_own and inspect.isfunction(member):
            assert inspect.getsource(inspect.unwrap(member)) in text, name
"""
    (tmp_path / "check.py").write_text(f"sources = {texts!r}\nscript = {script!r}\n{code}")
    done = run(tmp_path, "check.py")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda p: p[: len(p) // 2], "damaged"),
        (lambda p: p.replace(b'decompress("""BZh91AY', b'decompress("""BZh92AY'), "damaged"),
        (lambda p: p[:-200] + bytes([p[-200] ^ 1]) + p[-199:], "damaged"),
        (lambda p: p.replace(b"import bz2", b"import socket, bz2"), "more or less"),
        (lambda p: p + b"print(1)\n", "not a file"),
        (lambda p: p + b"# a comment\n", "more or less"),
        (lambda p: b"import train_gpt\n", "not a file"),
        (lambda p: b"", "not a file"),
        (lambda p: b"\xff\xfe", "not a file"),
    ],
)
def test_what_is_not_exactly_ours_does_not_unpack(change, message):
    """Cut, damaged, extended or foreign: refused, because something else may run with it."""
    with pytest.raises(ValueError, match=message):
        unpack(change(pack(TOY)))


@pytest.mark.parametrize(
    "files, message",
    [
        ({"evaluate.py": b""}, "no train_gpt.py"),
        ({"train_gpt.py": b"", "../x.py": b""}, "must be a module's path"),
        ({"train_gpt.py": b"", "/x.py": b""}, "must be a module's path"),
        ({"train_gpt.py": b"", "a-b/x.py": b""}, "must be a module's path"),
        ({"train_gpt.py": b"", "x.txt": b""}, "must be a module's path"),
        ({"train_gpt.py": b"def :"}, "train_gpt.py: .*save it as Python"),
        ({"train_gpt.py": b"'\xff'"}, "train_gpt.py: .*UTF-8"),
        ({"train_gpt.py": b"\xef\xbb\xbfx = 1"}, "no BOM"),
        ({"train_gpt.py": b"x = '\0'"}, "train_gpt.py"),
    ],
)
def test_sources_that_cannot_be_packed_are_named(files, message):
    """The error names the file and what to change."""
    with pytest.raises(ValueError, match=message):
        pack(files)


def test_docstrings_stay_where_some_source_reads_them():
    """One source that prints another's docstring keeps them all."""
    files = {"train_gpt.py": b"import a\nprint(a.f.__doc__)\n", "a.py": b"def f():\n    'Help.'\n"}
    assert b"Help." in unpack(pack(files))["a.py"]
    files["train_gpt.py"] = b"import a\n"
    assert b"Help." not in unpack(pack(files))["a.py"]


def test_verify_tells_other_sources(tmp_path, capsys):
    """The packed folder verifies; a changed comment, a missing or a further file do not."""
    folder = write(tmp_path / "run", TOY)
    script = tmp_path / "train_gpt.py"
    script.write_bytes(pack(TOY))
    assert main(["verify", str(script), str(folder)]) == 0
    assert "was packed from the 6 sources" in capsys.readouterr().out
    (folder / "quantize.py").write_bytes(TOY["quantize.py"] + b"# one more comment\n")
    assert main(["verify", str(script), str(folder), "--json"]) == 1
    (mismatch,) = json.loads(capsys.readouterr().out)["mismatches"]
    assert mismatch.startswith("packed from sources of sha256 ")
    assert mismatch.endswith(": comments, docstrings or types differ")
    assert mismatches(pack(TOY), TOY | {"more.py": b""}) == [
        "more.py is among the sources, and not packed"
    ]
    fewer = {name: source for name, source in TOY.items() if name != "codec/rows.py"}
    assert mismatches(pack(TOY), fewer) == ["codec/rows.py is packed, and not among the sources"]
    assert main(["verify", str(folder / "quantize.py"), str(folder)]) == 2


def test_verify_does_not_believe_the_hashes_alone():
    """Other statements under the hash of the real source are told."""
    texts = {name: source.decode() for name, source in TOY.items()}
    texts["quantize.py"] += "divide = max\n"
    runner = bundle.strip(bundle.RUNNER)
    script = bundle.write_packed(texts, bundle.hash_of_sources(TOY), runner)
    assert "quantize.py runs other statements than this source" in mismatches(script, TOY)
    with pytest.raises(ValueError, match="by other code than this tool writes"):
        unpack(bundle.write_packed(texts, bundle.hash_of_sources(TOY), runner + "import os\n"))


def test_the_spelling_of_another_python_verifies():
    """Versions of Python write one statement in two ways; what counts is what it does."""
    texts = {name: source.decode() for name, source in reduced(TOY).items()}
    texts["quantize.py"] = texts["quantize.py"].replace("return a / b", "return (a / b)")
    runner = bundle.strip(bundle.RUNNER) + "\n"
    script = bundle.write_packed(texts, bundle.hash_of_sources(TOY), runner)
    assert mismatches(script, TOY) == []


def test_files_of_the_former_format_unpack():
    """A record from before folders could be packed: all sources, comments included."""
    bundled = read_bundle(SMOKE.read_bytes())
    assert sorted(bundled.sources) == ["evaluate.py", "quantize.py", "train_gpt.py"]
    assert b'"""' in bundled.sources["train_gpt.py"]
    log = (SMOKE.parent / "train_seed7.log").read_text()
    hashes = {name: hashlib.sha256(source).hexdigest() for name, source in bundled.sources.items()}
    assert all(f"source {name} sha256:{sha256}" in log for name, sha256 in hashes.items())
    assert bundled.originals_sha256 == bundle.hash_of_all(hashes)
    texts = {name: source.decode() for name, source in bundled.sources.items()}
    payload = SMOKE.read_bytes().replace(b"import bz2", b"import bz2, os")
    with pytest.raises(ValueError, match="more or less"):
        unpack(payload)
    assert bundle.write_former(texts, "import os", "records.source", False) == b""


def test_commands(tmp_path, capsys):
    """pack and unpack by command: the hashes printed are those of the files, in text and JSON."""
    folder = write(tmp_path / "run", TOY)
    script = tmp_path / "new/folder/train_gpt.py"
    assert main(["pack", str(folder), "--out", str(script), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    sums = {row["path"]: row["sha256"] for row in rows}
    assert sums.pop(str(script)) == hashlib.sha256(script.read_bytes()).hexdigest()
    assert sums == {name: hashlib.sha256(source).hexdigest() for name, source in TOY.items()}
    back = tmp_path / "back"
    assert main(["unpack", str(script), "--out", str(back)]) == 0
    out = capsys.readouterr().out
    for name, source in reduced(TOY).items():
        assert (back / name).read_bytes() == source
        assert f"{hashlib.sha256(source).hexdigest()}  {back}/{name}\n" in out
    assert f"{bundle.hash_of_all(sums)}  all sources before packing" in out
    # A run of a packed file holds that file alone: its sources are those that it unpacks to.
    assert read_sources(script.parent) == reduced(TOY)


def test_the_log_says_which_sources_count(tmp_path):
    """Of a run those that its log lists, though nothing imports them by a statement."""
    files = TOY | {"recipes/wide.py": b"WIDTH = 2\n"}
    folder = write(tmp_path / "run", files | {"recipes/idle.py": b""})
    lines = [f"source {n} sha256:{hashlib.sha256(s).hexdigest()}\n" for n, s in files.items()]
    (folder / "train.log").write_text("".join(lines) + "step:1/2 train_loss:3.0\n")
    assert read_sources(folder) == files
    (folder / "recipes/wide.py").unlink()
    with pytest.raises(FileNotFoundError, match="wide.py"):
        read_sources(folder)


def test_a_run_is_found_by_its_id(tmp_path, monkeypatch):
    """A run id stands for logs/<run_id>."""
    (tmp_path / "logs").mkdir()
    write(tmp_path / "logs/one", TOY)
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "one", "--out", "train_gpt.py", "--plain"]) == 0
    assert unpack(Path("train_gpt.py").read_bytes()) == TOY


@pytest.mark.parametrize("command", [["pack", "missing"], ["unpack", "missing"], ["unpack", "own"]])
def test_what_cannot_be_done_is_status_2(tmp_path, capsys, command):
    """One line that names the path, and nothing written."""
    (tmp_path / "own").write_text("import torch\n")
    out = tmp_path / "out"
    assert main([command[0], str(tmp_path / command[1]), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert command[1] in error and error.count("\n") == 1
    assert not out.exists()
