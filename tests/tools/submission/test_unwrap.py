"""Scripts that unpack themselves are read without running them."""

import base64
import bz2
import gzip
import lzma
import sys
import zlib

import pytest

from tools.submission import newer_python
from tools.submission.bundle import pack, unpack
from tools.submission.unwrap import unwrap

TOY = {
    "train_gpt.py": b'"""Train."""\nimport codec.rows\nprint(codec.rows.BITS)\n',
    "codec/rows.py": b"BITS = 5  # of a weight\n",
}


def needs_new_libcst() -> None:
    """Skip where libcst is missing, or too old to read newer syntax itself."""
    if not hasattr(pytest.importorskip("libcst"), "TypeParameters"):
        pytest.skip("needs libcst 1.8")


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
    texts = unwrap(text.encode(), "train_gpt.py").texts
    assert texts["train_gpt.py"] == text
    assert len(texts) == 2 + nested
    assert list(texts.values())[-1] == INNER
    assert all(name.startswith("train_gpt.py") for name in texts)


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
    assert INNER in unwrap(text.encode(), "x.py").texts.values()


def test_a_missing_codec_is_named(monkeypatch):
    """Without brotli a script is read as far as it goes, and the rest is told."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    text = f"import brotli\nexec(brotli.decompress({b'x' * 60!r}))"
    scripts = unwrap(text.encode(), "x.py")
    assert list(scripts.texts) == ["x.py"]
    assert "brotli, which is not installed" in scripts.unread["x.py:2"]
    assert len(unwrap(WRAPPED["bz2 hex"].encode(), "x.py").texts) == 2


def test_a_mention_of_brotli_is_no_hidden_code(monkeypatch):
    """A script that imports brotli and executes nothing is read whole without it."""
    monkeypatch.setitem(sys.modules, "brotli", None)
    text = "import brotli\nNOTE = 'a plain text of more than forty characters, nothing packed here'"
    assert unwrap(text.encode(), "x.py").unread == {}


NEWER = 'def f(row):\n    print(f"{row["name"]:>{len("ab")}}")\n\n\nrun = 1\n'


def test_python_of_a_newer_version_is_read():
    """Packed or plain: what this Python cannot parse is read by a grammar of its own."""
    needs_new_libcst()
    packed = base64.b64encode(zlib.compress(NEWER.encode())).decode()
    text = f"import zlib, base64\nexec(zlib.decompress(base64.b64decode({packed!r})))"
    scripts = unwrap(text.encode(), "x.py")
    assert scripts.unread == {} and list(scripts.trees) == ["x.py", "x.py/line2.py"]
    assert scripts.texts["x.py/line2.py"] == NEWER
    assert [node.lineno for node in scripts.trees["x.py/line2.py"].body] == [1, 5]


@pytest.mark.parametrize("layer", [lambda data: data[::-1], lambda data: data[:-9]])
def test_an_unknown_layer_is_told(layer):
    """A payload that no decoder opens, and that is executed, is not passed over."""
    packed = base64.b64encode(layer(zlib.compress(INNER.encode()))).decode()
    scripts = unwrap(f"import zlib\nexec(undo({packed!r}))".encode(), "x.py")
    assert list(scripts.unread) == ["x.py:2"]


def test_packed_text_that_is_no_python_is_told():
    """Even in a grammar of the newest version; its text stays for who wants to look."""
    packed = base64.b64encode(zlib.compress(b"import torch\nfor x of y:\n    learn(x)\n")).decode()
    scripts = unwrap(f"exec(undo({packed!r}))".encode(), "x.py")
    assert "x.py/line1.py" in scripts.unread and "x.py/line1.py" in scripts.texts


def test_a_sum_of_many_terms_is_added_up():
    """No recursion: a payload in 100 pieces, and 800 that hold nothing."""
    packed = base64.b64encode(INNER.encode()).decode()
    pieces = " + ".join(repr(letter) for letter in packed) + " + ''" * 800
    scripts = unwrap(f"import base64\nexec(base64.b64decode({pieces}))".encode(), "x.py")
    assert list(scripts.texts.values())[-1] == INNER


@pytest.mark.parametrize("plain", [False, True], ids=["packed", "plain"])
def test_ours_unwraps_to_its_sources(plain):
    """A packed file of ours: the sources under its name and paths, without the stub."""
    script = pack(TOY, plain)
    sources = {f"train_gpt.py/{name}": text.decode() for name, text in unpack(script).items()}
    assert unwrap(script, "train_gpt.py").texts == sources
    assert "train_gpt.py/codec/rows.py" in sources


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
    assert unwrap(plain.encode(), "a.py").texts == {"a.py": plain}
    assert list(unwrap(b"def :\xff", "b.py").unread) == ["b.py"]


def test_prose_starts_no_process(monkeypatch):
    """Newer Python is read by a process of its own, for a second each: not for every sentence."""
    asked = []
    monkeypatch.setattr(newer_python, "simplify_apart", lambda text, why: asked.append(text) or "")
    unwrap(b"raise ValueError('no such tokenizer here; name one of those that lie beside it')", "x")
    assert asked == []


def test_a_bomb_is_not_blown_up():
    """A payload that holds more than 16 MiB is left alone."""
    packed = zlib.compress(b"a=1\n" * ((1 << 22) + 1), 1)
    assert (
        len(unwrap(f"import zlib\nexec(zlib.decompress({packed!r}))".encode(), "x.py").texts) == 1
    )
