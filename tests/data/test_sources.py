"""Sources: the same documents from every container, ranges, and what bad files are told."""

import gzip
import http.server
import json
import os
import re
import subprocess
import sys
import threading
import types
import urllib.parse
from pathlib import Path

import pytest
import zstandard

from data import sources

TEXTS = [f"Document {i}.\nSecond line é {'x' * (i % 7)}" for i in range(50)]
MARK = sources.SEPARATOR


def jsonl(texts, field="text") -> bytes:
    return "".join(json.dumps({field: text}) + "\n" for text in texts).encode()


def write_parquet(path, texts, rows=7, field="text"):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pyarrow.table({"n": range(len(texts)), field: texts}), path, row_group_size=rows)


def write(path, texts):
    """A file of the kind that its name says."""
    if path.suffix == ".parquet":
        write_parquet(path, texts)
        return path
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    if ".txt" in path.suffixes:
        path.write_bytes(pack(f"\n{MARK}\n".join(texts).encode()))
    elif pack is bytes:
        path.write_bytes(jsonl(texts))
    else:  # two frames, as from cat
        path.write_bytes(pack(jsonl(texts[:9])) + pack(jsonl(texts[9:])))
    return path


def texts_of(source, start=0, stop=None, **options):
    blocks = list(sources.read(source, start, stop, **options))
    found = [text for block in blocks for text in block.texts("text", 10**6)]
    assert [block.first for block in blocks][:1] in ([], [start])
    assert sum(block.count for block in blocks) == len(found)
    return found


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.txt", "a.txt.gz", "a.parquet"],
)
def test_every_container_gives_the_same_documents(tmp_path, monkeypatch, name):
    """Whole and by range, whatever the size of the blocks that are read."""
    path = write(tmp_path / name, TEXTS)
    for block_bytes in (1 << 20, 300, 64):
        monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
        assert texts_of(path) == TEXTS
        for start, stop in ((0, 3), (5, 6), (13, 50), (20, 90), (50, None), (7, 7)):
            assert texts_of(path, start, stop) == TEXTS[start:stop]


def test_a_folder_is_read_by_path(tmp_path):
    """All files below it that can be read, in the order of their names, as one source."""
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "1.jsonl", TEXTS[20:])
    write(tmp_path / "a.jsonl.zst", TEXTS[:20])
    (tmp_path / "README.md").write_text("no document")
    assert texts_of(tmp_path) == TEXTS
    assert texts_of(str(tmp_path), 18, 23) == TEXTS[18:23]


def test_a_folder_of_text_files_has_a_document_a_file(tmp_path):
    """As OpenWebText is handed on; a file without the mark is one document."""
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:03d}.txt").write_text(text + "\n", encoding="utf-8")
    assert texts_of(tmp_path) == TEXTS


def test_iterables_hold_the_documents_from_start_on():
    """They are cut at stop, and numbered from start."""
    assert texts_of(iter(TEXTS[10:]), 10, 20) == TEXTS[10:20]


def test_wikitext_lines_become_articles():
    """A title starts one where it follows an empty line; a subtitle never does."""
    first = [
        "",
        " = A = \n",
        "",
        " text \n",
        " = not a title = \n",
        " = = B = = \n",
        "",
        " x \n",
        "",
    ]
    second = [" = C = \n", "", " y \n"]
    articles = list(sources.join_articles([*first, *second]))
    assert articles == ["".join(first), "".join(second)]


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"text": "x"', "no JSON"),
        (b"", "no JSON"),
        (b"[1]", "'text' must be a string"),
        (b'{"content": "x"}', "'text' must be a string"),
        (b'{"text": null}', "'text' must be a string"),
        (b'{"text": " \\n"}', "the document is empty"),
        (b'{"text": "a\\u0000"}', "NUL at character 1"),
        (b'{"text": "ab\\ud800"}', "lone surrogate at character 2"),
        (b'{"text": "\xff"}', "no UTF-8"),
        (b'{"text": "' + b"x" * 2000 + b'"}', r"a document of 0.0 MB; at most 0.0 are taken"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    """File, line and reason, and only the bad one; the others are read."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(jsonl(["one"]) + line + b"\n" + jsonl(["three"]))
    (block,) = sources.read(path)
    first, bad, third = block.texts("text", 1000)
    assert (first, third) == ("one", "three")
    assert isinstance(bad, ValueError)
    with pytest.raises(ValueError, match=f"{path}, line 2: {message}"):
        raise bad


def test_text_that_is_no_utf8_is_named(tmp_path):
    """The same for .txt, by document."""
    (tmp_path / "a.txt").write_bytes(b"good" + MARK.encode() + b"\xff\xfe")
    (block,) = sources.read(tmp_path / "a.txt")
    good, bad = block.texts("text", 1000)
    assert good == "good" and "a.txt, document 2: no UTF-8 at byte 0" in str(bad)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b"", "has 0 bytes; fetch it again"),
        ("a.jsonl.gz", gzip.compress(jsonl(TEXTS))[:-20], "ends before its compressed data does"),
        ("a.jsonl.zst", zstandard.compress(jsonl(TEXTS))[:-9], "ends before its compressed data"),
        ("a.jsonl.zst", b"plain text", "is damaged"),
        ("a.jsonl.gz", b"plain text", "is damaged"),
        ("a.parquet", b"PAR1 but no more", "is damaged"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    """Empty, cut and damaged files end in an error with the file and what to do."""
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name} {message}"):
        texts_of(tmp_path)


def test_parquet_without_the_column_names_those_it_has(tmp_path):
    """--field is the remedy."""
    write_parquet(tmp_path / "a.parquet", TEXTS, field="content")
    with pytest.raises(ValueError, match="a.parquet has no column 'text'.*--field: n, content"):
        texts_of(tmp_path)


def test_a_text_without_marks_says_how_to_name_them(tmp_path, monkeypatch):
    """A very long file that is one document is not read into memory."""
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 3000)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1000)
    (tmp_path / "a.txt").write_bytes(b"word " * 1000)
    with pytest.raises(ValueError, match="a.txt: no '<|endoftext|>' in 4,000 bytes.*--separator"):
        texts_of(tmp_path)


def test_what_is_no_source_says_what_is(tmp_path):
    """A folder without readable files, and a name that is no data set."""
    for source in (tmp_path, "finewebb"):
        with pytest.raises(FileNotFoundError, match="c4.*tinystories"):
            sources.describe(str(source))


def test_a_description_changes_with_the_files(tmp_path):
    """Sizes and ends tell sources apart, and hold no path of this machine."""
    path = write(tmp_path / "a.jsonl", TEXTS)
    before = sources.describe(str(path))
    assert str(tmp_path) not in json.dumps(before)
    path.write_bytes(path.read_bytes().replace(b"Document 3", b"Document 8"))
    assert sources.describe(str(path)) != before
    assert before["files"]["a.jsonl"]["bytes"] == path.stat().st_size


@pytest.mark.parametrize("start", [0, 1, 2, 5])
@pytest.mark.parametrize("name, val_split", [("tinystories", "validation"), ("fineweb-edu", None)])
def test_hub_sets_begin_with_their_validation_documents(monkeypatch, name, val_split, start):
    """The first N of the validation split, then all of train; or the first N of train."""
    splits = {"validation": ["v0", "v1", "v2"], "train": ["t0", "t1", "t2", "t3"]}

    class Rows(list):
        def skip(self, count):
            return Rows(self[count:])

        def iter(self, size):
            yield {"text": self}

    def load_dataset(repository, *, split, streaming, **options):
        assert streaming
        return Rows(splits[split])

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    texts = (["v0", "v1"] if val_split else []) + splits["train"]
    assert texts_of(name, start, val_documents=2) == texts[start:]


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as the `datasets` client asks for: files at one commit, and their list."""

    protocol_version = "HTTP/1.1"
    commit, later = "5" * 40, "6" * 40  # main moves on after the first question
    asked: list[str] = []
    files: dict[str, dict[str, bytes]] = {}  # by repository and path

    def log_message(self, *args):
        pass

    def answer(self, body: bytes, status: int = 200, **headers) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": len(body)} | headers).items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path = urllib.parse.unquote(self.path.partition("?")[0]).strip("/")
        where = re.match(r"(api/)?datasets/([^/]+/[^/]+)/?(\w*)/?(\w*)/?(.*)", path)
        api, repository, place, commit, name = where.groups()
        if commit != self.commit:
            commit = self.later if repository in self.asked else self.commit
            self.asked.append(repository)
        files = self.files[repository] if commit == self.commit else {}
        if api and place == "tree":
            inside = [file for file in files if file.startswith(name)]
            entry = {"type": "file", "oid": "0"}
            entries = [entry | {"path": file, "size": len(files[file])} for file in inside]
            if not name:
                folders = {file.partition("/")[0] for file in files}
                entries = [entry | {"type": "directory", "path": f, "size": 0} for f in folders]
            self.answer(json.dumps(entries).encode())
        elif api:
            siblings = [{"rfilename": file} for file in files]
            about = {"id": repository, "sha": commit, "siblings": siblings}
            self.answer(json.dumps(about | {"downloads": 0, "tags": []}).encode())
        elif name not in files:
            self.answer(b"{}", 404, X_Error_Code="EntryNotFound")
        else:
            data = files[name]
            headers = {"ETag": f'"{len(data)}"', "X-Repo-Commit": self.commit}
            span = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            if span and self.command == "GET":
                begin, end = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
                headers["Content-Range"] = f"bytes {begin}-{end}/{len(data)}"
                self.answer(data[begin : end + 1], 206, **headers)
            else:
                self.answer(data, **headers)

    do_HEAD = do_GET


STREAM = """
import argparse, json, sys
from pathlib import Path
from data import build, tokenizers
import evaluate
found = {}
for name, val_documents, span in json.loads(sys.argv[1]):
    parser = argparse.ArgumentParser()
    build.add_arguments(parser)
    out = Path(sys.argv[2], name)
    options = ["--out", out, "--tokenizer", "bytes", "--val-documents", val_documents]
    options += ["--workers", 2] + (["--range", span] if span else [])
    told = build.build(parser.parse_args([name, *map(str, options)]))
    folder = out.with_name(f".{name}.partial") / f"part_{int(span[:-1]):012d}" if span else out
    key = f"{name} {span}".strip()
    found[key] = [told["source"]["revision"]]
    for shard in told["shards"]:
        tokens_T = evaluate.read_shard(folder / shard["file"])
        texts = "".join("|" if i == 1 else chr(i - 4) for i in tokens_T.tolist())
        found[key].append([shard["split"], texts[1:].split("|")])
print(json.dumps(found))
"""


def test_hub_sets_are_streamed(tmp_path, monkeypatch):
    """Through the real client from a stand-in for the hub: Parquet, JSON lines, split, range."""
    for name in ("datasets", "pyarrow"):
        pytest.importorskip(name, reason=f"pip install {name}")

    def parquet(texts) -> bytes:
        write_parquet(tmp_path / "x.parquet", texts)
        return (tmp_path / "x.parquet").read_bytes()

    articles = [["", f" = T{i} = \n", "", f" text {i} \n"] for i in range(4)]
    stories = [f"Story {i}." for i in range(20)]
    wikitext = "wikitext-103-raw-v1"
    card = f"---\nconfigs:\n- config_name: {wikitext}\n  data_files:\n"
    card += "".join(f"  - split: {s}\n    path: {wikitext}/{s}*\n" for s in ("train", "validation"))
    files = {
        "willdepueoai/parameter-golf": {"datasets/docs_selected.jsonl": jsonl(stories)},
        "roneneldan/TinyStories": {
            "data/train-00000-of-00002.parquet": parquet(stories[:9]),
            "data/train-00001-of-00002.parquet": parquet(stories[9:]),
            "data/validation-00000-of-00001.parquet": parquet(["Val 0.", "Val 1.", "Val 2."]),
        },
        "Salesforce/wikitext": {
            "README.md": f"{card}---\n".encode(),
            f"{wikitext}/train.parquet": parquet(sum(articles[1:], [])),
            f"{wikitext}/validation.parquet": parquet(articles[0]),
        },
    }
    monkeypatch.setattr(Hub, "files", files)
    asked = [("fineweb", 3, ""), ("tinystories", 2, "1:"), ("wikitext-103", 1, "")]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, "-c", STREAM, json.dumps(asked), tmp_path],
            cwd=Path(__file__).parents[2],
            env=os.environ
            | {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_address[1]}"}
            | {"HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=100,
        )
        server.shutdown()
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    lines = ["".join(article) for article in articles]
    assert found == {
        "fineweb": [Hub.commit, ["val", stories[:3]], ["train", stories[3:]]],
        "tinystories 1:": [Hub.commit, ["val", ["Val 1."]], ["train", stories]],
        "wikitext-103": [Hub.commit, ["val", lines[:1]], ["train", lines[1:]]],
    }
