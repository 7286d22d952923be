"""Data sets of the hub: validation first, by range, and streamed through the real client."""

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

from data import hub_sets
from tests.data.conftest import jsonl, texts_of, write_parquet


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
    articles = list(hub_sets.join_articles([*first, *second]))
    assert articles == ["".join(first), "".join(second)]


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
    requested: list[str] = []
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
        match = re.match(r"(api/)?datasets/([^/]+/[^/]+)/?(\w*)/?(\w*)/?(.*)", path)
        api, repository, place, commit, name = match.groups()
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
        tokens_T = read_shard(folder / shard["file"])
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
    requested = [("fineweb", 3, ""), ("tinystories", 2, "1:"), ("wikitext-103", 1, "")]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = subprocess.run(
            [sys.executable, "-c", STREAM, json.dumps(requested), tmp_path],
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
    actual = json.loads(done.stdout.splitlines()[-1])
    lines = ["".join(article) for article in articles]
    assert actual == {
        "fineweb": [Hub.commit, ["val", stories[:3]], ["train", stories[3:]]],
        "tinystories 1:": [Hub.commit, ["val", ["Val 1."]], ["train", stories]],
        "wikitext-103": [Hub.commit, ["val", lines[:1]], ["train", lines[1:]]],
    }


def test_a_wrong_column_names_those_of_the_data_set(monkeypatch):
    """--field is the remedy, for a data set of the hub too."""

    class Rows:
        def skip(self, count):
            return self

        def iter(self, size):
            yield {"content": ["x"], "id": [1]}

    datasets = types.SimpleNamespace(load_dataset=lambda *args, **options: Rows())
    monkeypatch.setitem(sys.modules, "datasets", datasets)
    texts = hub_sets.read_texts(hub_sets.HUB_SETS["fineweb-edu"], 0, 1, "text", None)
    with pytest.raises(ValueError, match="no column 'text'; name one with --field: content, id"):
        next(texts)


def test_an_error_of_the_hub_says_what_helps(monkeypatch):
    """The data set, the client's own words, and token, mirror or network."""
    error = OSError("401 Client Error")
    error.response = types.SimpleNamespace(status_code=401)

    def load_dataset(*args, **options):
        raise error

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    texts = hub_sets.read_texts(hub_sets.HUB_SETS["c4"], 0, 1, "text", None)
    with pytest.raises(OSError, match="allenai/c4 of the hub: OSError: 401.*; .*set HF_TOKEN"):
        next(texts)
