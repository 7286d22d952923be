"""The packed form of the sources: lossless, runs like the single files, and hides nothing."""

import base64
import bz2
import gzip
import hashlib
import json
import lzma
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tools.submission.bundle import SOURCES, main, pack, unpack, unwrap

ROOT = Path(__file__).parents[3]
OURS = {name: (ROOT / name).read_bytes() for name in SOURCES}
FORMS = pytest.mark.parametrize("plain", [False, True], ids=["packed", "plain"])

# Three small modules that have what ours have and what packing could break.
TOY = {
    "quantize.py": '''"""Quantise."""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Plan:
    bits: int = 5  # a comment \\ with a backslash, and quotes: \'\'\' """
    parent: Plan | None = None


def divide(a, b):
    return a / b
''',
    "evaluate.py": """import quantize


class Score:
    nats = 1.5


def ratio():
    return quantize.divide(6, 3)
""",
    "train_gpt.py": '''"""Train."""
import inspect
import sys
from pathlib import Path

import evaluate
import quantize


def read_sources():
    files = (__file__, quantize.__file__, evaluate.__file__)
    return {Path(file).name: Path(file).read_bytes() for file in files}


class Trainer:
    step = 3


def main():
    for thing in (Trainer, main, evaluate.Score, evaluate.ratio, quantize.Plan, quantize.divide):
        print(inspect.getsource(thing))
    print(evaluate.ratio(), quantize.Plan(), __name__, __doc__, list(read_sources()))
    if sys.argv[1:]:
        quantize.divide(1, 0)


if __name__ == "__main__":
    main()
''',
}
TOY = {name: text.encode() for name, text in TOY.items()}


def run(folder: Path, *command: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
    command = (sys.executable, "-B", *command)
    return subprocess.run(command, cwd=cwd or folder, capture_output=True, text=True)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, source in files.items():
        (folder / name).write_bytes(source)
    return folder


@FORMS
@pytest.mark.parametrize("files", [OURS, TOY], ids=["ours", "toy"])
def test_packing_is_lossless(files, plain):
    """Every byte comes back, and a checkout with other line ends unpacks to the same bytes."""
    packed = pack(files, plain)
    assert unpack(packed) == files
    assert unpack(packed.replace(b"\n", b"\r\n")) == files


def test_the_packed_form_is_a_third_of_ours():
    """All comments kept, the packed file is under 37 % of the sources; plain adds under 2,000."""
    size = sum(map(len, OURS.values()))
    assert len(pack(OURS)) < 0.37 * size
    assert len(pack(OURS, plain=True)) < size + 2000


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


@FORMS
def test_a_packed_file_runs_like_the_three(tmp_path, plain):
    """Alone, from elsewhere: the same output, inspect.getsource and dataclasses included."""
    three = write(tmp_path / "three", TOY)
    alone = write(tmp_path / "alone", {"train_gpt.py": pack(TOY, plain)})
    want, got = run(three, "train_gpt.py"), run(alone, "../alone/train_gpt.py", cwd=three)
    assert (got.returncode, got.stderr) == (0, "")
    assert "bits: int = 5  # a comment" in want.stdout and "class Trainer" in want.stdout
    three_names = "['train_gpt.py', 'quantize.py', 'evaluate.py']"
    assert three_names in want.stdout
    assert got.stdout == want.stdout.replace(three_names, "['train_gpt.py']")
    by_name = "import runpy; runpy.run_path('train_gpt.py', run_name='__main__')"
    assert run(alone, "-c", by_name).stdout == got.stdout


@FORMS
def test_a_traceback_names_module_line_and_text(tmp_path, plain):
    """An error two modules deep shows each file's own name, line number and line."""
    alone = write(tmp_path, {"train_gpt.py": pack(TOY, plain)})
    error = run(alone, "train_gpt.py", "fail").stderr
    for name, line, text in [
        ("train_gpt.py", 24, "quantize.divide(1, 0)"),
        ("quantize.py", 14, "return a / b"),
    ]:
        assert TOY[name].decode().splitlines()[line - 1].strip() == text
        assert f'train_gpt.py/{name}", line {line}, in' in error
        assert f"    {text}\n" in error
    assert error.endswith("ZeroDivisionError: division by zero\n")


@FORMS
def test_it_can_be_imported_twice(tmp_path, plain):
    """By name and again by path: each has its own modules, and counts just its own file."""
    alone = write(tmp_path / "alone", {"train_gpt.py": pack(TOY, plain)})
    code = f"""
import importlib.util, inspect, sys
sys.path.insert(0, {str(alone)!r})
import train_gpt, evaluate
spec = importlib.util.spec_from_file_location("again", {str(alone / "train_gpt.py")!r})
again = sys.modules["again"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(again)
assert train_gpt.evaluate is evaluate is not again.evaluate is sys.modules["evaluate"]
for module in (train_gpt, again):
    assert module.evaluate.ratio() == 2.0
    assert "step = 3" in inspect.getsource(module.Trainer)
    assert "nats = 1.5" in inspect.getsource(module.evaluate.Score)
    [(name, source)] = module.read_sources().items()
    assert (name, source) == ("train_gpt.py", open({str(alone / "train_gpt.py")!r}, "rb").read())
"""
    done = run(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_our_trainer_imports_packed(tmp_path):
    """Our files as one: code bytes are those of the one file, classes have their source."""
    alone = write(tmp_path / "alone", {"train_gpt.py": pack(OURS)})
    code = f"""
import inspect, sys
sys.path.insert(0, {str(alone)!r})
import train_gpt, quantize, evaluate
print(sum(map(len, train_gpt.read_sources().values())))
for thing in (train_gpt.GPT, train_gpt.main, evaluate.ByteTable, evaluate.score_first,
              quantize.encode, quantize.ArtifactError):
    assert inspect.getsource(thing) in sources[inspect.getmodule(thing).__name__ + ".py"]
"""
    (tmp_path / "check.py").write_text(
        f"sources = { {n: s.decode() for n, s in OURS.items()}!r}\n{code}"
    )
    done = run(tmp_path, "check.py")
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) == len(pack(OURS))


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda p: p[: len(p) // 2], "damaged"),
        (lambda p: p.replace(b'decompress("BZh91AY', b'decompress("BZh92AY'), "damaged"),
        (lambda p: p[:-200] + bytes([p[-200] ^ 1]) + p[-199:], "damaged"),
        (lambda p: p.replace(b"import bz2", b"import socket, bz2"), "more or less"),
        (lambda p: p + b"print(1)\n", "not a file"),
        (lambda p: p + b"# a comment\n", "more or less"),
        (lambda p: b"import train_gpt\n", "not a file"),
        (lambda p: b"", "not a file"),
        (lambda p: b"\xff\xfe", "not a file"),
    ],
)
def test_what_is_not_exactly_ours_does_not_unpack(change, said):
    """Cut, damaged, extended or foreign: refused, because something else may run with it."""
    with pytest.raises(ValueError, match=said):
        unpack(change(pack(TOY)))


@pytest.mark.parametrize(
    "files, said",
    [
        ({"evaluate.py": b""}, "no train_gpt.py"),
        ({"train_gpt.py": b"", "../x.py": b""}, "must be the name of a module"),
        ({"train_gpt.py": b"def :"}, "train_gpt.py: .*save it as Python"),
        ({"train_gpt.py": b"'\xff'"}, "train_gpt.py: .*UTF-8"),
        ({"train_gpt.py": b"\xef\xbb\xbfx = 1"}, "no BOM"),
        ({"train_gpt.py": b"x = '\0'"}, "train_gpt.py"),
        ({"train_gpt.py": b"", "a.py": b"import b", "b.py": b"from a import x"}, "a.py and b.py"),
    ],
)
def test_sources_that_cannot_be_packed_are_named(files, said):
    """The error names the file and what to change."""
    with pytest.raises(ValueError, match=said):
        pack(files)


def test_modules_run_after_those_they_import(tmp_path):
    """Whatever the names and the order given, an imported module is there before its importer."""
    files = {"train_gpt.py": b"import a", "a.py": b"import z\nprint(z.x)", "z.py": b"x = 5"}
    assert run(write(tmp_path, {"train_gpt.py": pack(files)}), "train_gpt.py").stdout == "5\n"


INNER = "import torch\nval_bpb = 1.0\nfor step in range(10):\n    print('a naïve step', step)\n"
DATA = INNER.encode()
LZMA2 = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2}]}
TUNED = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA1, "lc": 4, "pb": 0}]}
BZ2_85 = base64.b85encode(bz2.compress(DATA)).decode()


def script(expression: str, payload: str | bytes = "") -> str:
    """A script that executes what the expression gives; PAYLOAD in it stands for the payload."""
    expression = expression.replace("PAYLOAD", repr(payload))
    return f"import lzma as L, zlib, gzip, bz2, base64 as B\nexec({expression})"


WRAPPED = {
    "lzma b85": script("L.decompress(B.b85decode(PAYLOAD))", base64.b85encode(lzma.compress(DATA))),
    "raw lzma2": script(
        "L.decompress(B.b85decode(PAYLOAD), format=L.FORMAT_RAW, filters=[{'id': L.FILTER_LZMA2}])",
        base64.b85encode(lzma.compress(DATA, **LZMA2)),
    ),
    "tuned lzma1": script(
        "L.decompress(B.b85decode(PAYLOAD), 3, filters=[{'id': L.FILTER_LZMA1, 'lc': 4, 'pb': 0}])",
        base64.b85encode(lzma.compress(DATA, **TUNED)),
    ),
    "zlib b64": script(
        "zlib.decompress(B.b64decode(PAYLOAD))", base64.b64encode(zlib.compress(DATA))
    ),
    "raw deflate": script("zlib.decompress(PAYLOAD, -15)", zlib.compress(DATA, wbits=-15)),
    "gzip a85": script(
        "gzip.decompress(B.a85decode(PAYLOAD))", base64.a85encode(gzip.compress(DATA))
    ),
    "adobe a85": script("B.a85decode(PAYLOAD, adobe=True)", base64.a85encode(DATA, adobe=True)),
    "bz2 hex": script("bz2.decompress(bytes.fromhex(PAYLOAD))", bz2.compress(DATA).hex()),
    "b64 in lines": script("B.b64decode(PAYLOAD)", base64.encodebytes(DATA).decode()),
    "url-safe b64": script(
        "B.urlsafe_b64decode(PAYLOAD)", base64.urlsafe_b64encode(lzma.compress(DATA))
    ),
    "b32": script("zlib.decompress(B.b32decode(PAYLOAD))", base64.b32encode(zlib.compress(DATA))),
    "text": script("compile(PAYLOAD, 'x', 'exec')", INNER),
    "two names": f"A = {BZ2_85[:90]!r}\nC = {BZ2_85[90:]!r}\n"
    + script("bz2.decompress(B.b85decode(A + C))"),
    "joined": script(f"bz2.decompress(B.b85decode(''.join([{BZ2_85[:90]!r}, {BZ2_85[90:]!r}])))"),
}


@pytest.mark.parametrize("text", WRAPPED.values(), ids=WRAPPED.keys())
@pytest.mark.parametrize("nested", [False, True])
def test_a_script_that_unpacks_itself_is_read(text, nested):
    """The sources inside are found without running them, whatever the layers; the stub stays."""
    if nested:
        text = script("zlib.decompress(PAYLOAD)", zlib.compress(text.encode()))
    found = unwrap(text.encode(), "train_gpt.py")
    assert found["train_gpt.py"] == text
    assert len(found) == 2 + nested
    assert list(found.values())[-1] == INNER
    assert all(name.startswith("train_gpt.py") for name in found)


@pytest.mark.parametrize(
    "module, packer",
    [
        ("brotli", lambda brotli: brotli.compress(DATA)),
        ("zstandard", lambda zstandard: zstandard.compress(DATA)),
    ],
)
def test_codecs_that_have_to_be_installed(module, packer):
    """brotli and zstd payloads are read too."""
    packed = packer(pytest.importorskip(module))
    text = f"import {module}\nexec({module}.decompress({packed!r}))"
    assert INNER in unwrap(text.encode(), "x.py").values()


def test_a_missing_codec_is_named(monkeypatch):
    """Without brotli there is no guess about what a brotli script holds."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    text = f"import brotli\nexec(brotli.decompress({b'x' * 60!r}))"
    with pytest.raises(ModuleNotFoundError, match="--with codecs"):
        unwrap(text.encode(), "x.py")
    assert len(unwrap(WRAPPED["bz2 hex"].encode(), "x.py")) == 2


@FORMS
def test_ours_unwraps_to_its_sources(plain):
    """A packed file of ours: the sources under its name, without the stub."""
    found = unwrap(pack(TOY, plain), "train_gpt.py")
    assert found == {f"train_gpt.py/{name}": text.decode() for name, text in TOY.items()}


def test_nothing_is_run_and_nothing_invented():
    """A plain script is itself; prose, kernels and numbers in literals are no sources."""
    lines = [
        f'"""{INNER}"""',
        'raise SystemExit("this ran")',
        'KERNEL = "__global__ void f(int *x) { x[0] = 1; } // for the GPU"',
        "NAMES = 'attn_scale,attn_scales,mlp_scale,mlp_scales,resid_mix'",
        f"TABLE = {base64.b64encode(bytes(200))!r}",
    ]
    plain = "\n".join(lines)
    assert unwrap(plain.encode(), "a.py") == {"a.py": plain}
    assert unwrap(b"def :\xff", "b.py") == {"b.py": "def :\ufffd"}


def test_a_bomb_is_not_blown_up():
    """A payload that holds more than 16 MiB is left alone."""
    packed = zlib.compress(b"a=1\n" * ((1 << 22) + 1), 1)
    assert len(unwrap(f"import zlib\nexec(zlib.decompress({packed!r}))".encode(), "x.py")) == 1


def test_commands(tmp_path, capsys):
    """pack and unpack by command: the hashes printed are those of the files, in text and JSON."""
    folder = write(tmp_path / "run", TOY)
    one = tmp_path / "new/folder/train_gpt.py"
    assert main(["pack", str(folder), "--out", str(one), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["files"]
    sums = {row["path"]: row["sha256"] for row in rows}
    assert sums.pop(str(one)) == hashlib.sha256(one.read_bytes()).hexdigest()
    assert sums == {name: hashlib.sha256(source).hexdigest() for name, source in TOY.items()}
    assert main(["unpack", str(one), "--out", str(tmp_path / "back")]) == 0
    out = capsys.readouterr().out
    assert all(f"{digest}  {tmp_path}/back/{name}\n" in out for name, digest in sums.items())
    assert {p.name: p.read_bytes() for p in (tmp_path / "back").iterdir()} == TOY
    # A run of a packed file holds that file alone: packing it again changes nothing.
    assert main(["pack", str(one.parent), "--out", str(tmp_path / "x/train_gpt.py")]) == 0
    assert (tmp_path / "x/train_gpt.py").read_bytes() == one.read_bytes()


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


@pytest.mark.parametrize("plain", [False, True])
def test_a_file_that_names_the_former_tool_still_unpacks(plain):
    """Both forms, as records from before the tools moved have them; of any other name it is not."""
    files = {"train_gpt.py": b"print(1)\n"}
    assert unpack(pack(files, plain, "records.source")) == files
    with pytest.raises(ValueError, match="more or less"):
        unpack(pack(files, plain, "elsewhere"))
