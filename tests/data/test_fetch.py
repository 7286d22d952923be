"""Published shards are fetched whole or not at all, from a hub that does all it can to prevent it.

The hub is a server in this process that speaks its protocol: HEAD and GET of a file at a commit,
with size, hash and ranges. It cuts connections, sends short and changed files, and lies.
"""

import hashlib
import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

import evaluate
from data import fetch, mirrors, prepare, verify
from data.files import folder_lock
from data.mirrors import FetchError, Mirror
from data.shard_facts import documents_of
from data.start_check import check_start
from engine.shards import read_shard, write_shard

pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")


ROOT = Path(__file__).parents[2]


NAME = "fineweb10B_sp1024"


COMMIT = "c" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Files by repository and path; faults by path, one for each GET until they are used up."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: dict[str, list[str]] = {}
        self.requests, self.ranges = Counter(), Counter()
        self.revisions: set[tuple[str, str]] = set()
        self.lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def put(
        self, path: str, data: bytes, repository: str = "a/b", prefix: str = "datasets"
    ) -> None:
        self.files[f"datasets/{repository}/{prefix}/{path}".replace("//", "/")] = data

    def fault(self, path: str, *faults: str, repository: str = "a/b") -> None:
        self.faults[f"datasets/{repository}/datasets/{path}"] = list(faults)

    def handle_error(self, request, client_address):
        """A client that went away is no news."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        before, _, rest = self.path.lstrip("/").partition("/resolve/")
        path = f"{before}/{rest.partition('/')[2]}".replace("%2F", "/")
        data, fault = self.server.files.get(path), ""
        with self.server.lock:
            self.server.requests[self.command, path.rpartition("/")[2]] += 1
            self.server.revisions.add((path.rpartition("/")[2], rest.partition("/")[0]))
            if with_body and self.server.faults.get(path):
                fault = self.server.faults[path].pop(0)
        if data is None or fault == "503":
            self.send_response(404 if data is None else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        linked = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT}
        size = len(data)
        first = 0
        if wanted := self.headers.get("Range", "").removeprefix("bytes=").partition("-")[0]:
            first = int(wanted)
            with self.server.lock:
                self.server.ranges[path.rpartition("/")[2]] += 1
        if fault == "short":
            data = data[: size // 2]
        if fault == "changed":
            data = data[:-1] + bytes([data[-1] ^ 1])
        body = data[first:]
        self.send_response(206 if first else 200)
        for key, value in linked.items():
            self.send_header(key, value)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body[: len(body) // 2] if fault == "cut" else body)
            if fault == "cut":
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(2)


@pytest.fixture(scope="module")
def texts(toy):
    """Documents for three training shards and one of validation, and the toy tokenizer."""
    model = (toy / "tokenizers/toy_1024_bpe.model").read_bytes()
    stream_T = np.array(read_shard(toy / "datasets/toy_sp1024/toy_train_000000.bin"))
    documents = list(documents_of(stream_T, evaluate.BOS_ID))
    return model, [documents[i : i + 150] for i in range(0, 600, 150)]


def listing(name=NAME, **changes) -> dict:
    stats = {"files_train": 3, "files_val": 1} | changes.pop("stats", {})
    dataset = {"name": name, "tokenizer_name": "bpe", "stats": stats} | changes
    tokenizer = {"name": "bpe", "model_path": "tokenizers/fineweb_1024_bpe.model"}
    return {"datasets": [dataset], "tokenizers": [tokenizer]}


@pytest.fixture
def hub(texts, tmp_path, monkeypatch):
    """A hub with three training shards, which the challenge's validation split is made to fit."""
    model, parts = texts
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    for split, number, part in [
        ("val", 0, parts[0]),
        *(("train", i, parts[i + 1]) for i in range(3)),
    ]:
        path = tmp_path / "shard.bin"
        write_shard(path, np.concatenate(part))
        server.put(f"datasets/{NAME}/fineweb_{split}_{number:06d}.bin", path.read_bytes())
    server.put("tokenizers/fineweb_1024_bpe.model", model)
    server.put("manifest.json", json.dumps(listing()).encode())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    size = sum(len(processor.decode(ids[1:].tolist()).encode()) for ids in parts[0])
    monkeypatch.setattr(evaluate, "FINEWEB_VAL", {"documents": 150, "bytes": size})
    monkeypatch.setattr(mirrors, "FIRST_PAUSE_SECONDS", 0.01)
    yield server
    server.shutdown()
    server.server_close()


def get(hub, out: Path, shards: int = 3, repositories=("a/b",), **more) -> dict:
    mirrors = [Mirror(name, "datasets", hub.url) for name in repositories]
    return fetch.fetch(NAME, shards, out, mirrors, jobs=2, **more)


def test_what_is_published_is_fetched_and_verified(hub, tmp_path):
    """Shards and tokenizer stand in the field's places, bit for bit, and `verify` passes."""
    manifest = get(hub, tmp_path)
    folder = tmp_path / "datasets" / NAME
    for path, data in hub.files.items():
        if path.endswith(("bin", "model")):
            assert (tmp_path / path.removeprefix("datasets/a/b/datasets/")).read_bytes() == data
    # Whatever is pushed meanwhile: all files are of the commit that main was at.
    revisions = hub.revisions - {("manifest.json", "main")}
    assert {revision for _, revision in revisions} == {COMMIT} and len(revisions) == 6
    assert manifest["source"]["revision"] == COMMIT and manifest["source"]["train_shards"] == 3
    assert manifest["splits"]["val"]["documents"] == 150
    # Its tokens are fewer than the challenge's, and nothing else is remarkable.
    remarks = [(f.check, f.level) for f in verify.verify(folder) if f.level != "ok"]
    assert remarks == [("fingerprint", "warning")]
    kept = {path.name for path in folder.iterdir()}
    assert kept == {"manifest.json", "documents.idx", ".verified.json"} | {
        f"fineweb_{name}.bin" for name in ("val_000000", *(f"train_{i:06d}" for i in range(3)))
    }
    assert [path.name for path in folder.parent.iterdir()] == [NAME]


@pytest.mark.parametrize("fault", ["cut", "short", "changed", "503"])
def test_a_bad_transfer_is_repeated(hub, tmp_path, fault, monkeypatch):
    """Cut, short, changed and refused transfers end with the right file all the same."""
    hub.fault(f"datasets/{NAME}/fineweb_train_000001.bin", fault)
    hub.fault("tokenizers/fineweb_1024_bpe.model", fault)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    get(hub, tmp_path)
    path = f"datasets/{NAME}/fineweb_train_000001.bin"
    assert (tmp_path / path).read_bytes() == hub.files[f"datasets/a/b/datasets/{path}"]
    assert hub.requests["GET", "fineweb_train_000001.bin"] >= 2
    assert bool(hub.ranges) == (fault == "cut")  # the client goes on from where it was cut


@pytest.mark.parametrize("fault", ["short", "changed"])
def test_a_file_that_never_comes_right_is_refused(hub, tmp_path, fault):
    """After a few attempts: an error with the file's name, and nothing under a final name."""
    hub.fault(f"datasets/{NAME}/fineweb_train_000001.bin", *[fault] * 9)
    with pytest.raises(FetchError, match="fineweb_train_000001.bin.*(bytes|size|hash)"):
        get(hub, tmp_path)
    assert not (tmp_path / "datasets" / NAME).exists()
    assert not list(tmp_path.rglob("fineweb_train_000001.bin"))
    assert not list((tmp_path / "tokenizers").iterdir())


def test_a_fetch_that_was_broken_off_goes_on(hub, tmp_path):
    """What is verified is not transferred again; what a kill left in between is."""
    hub.fault(f"datasets/{NAME}/fineweb_train_000002.bin", *["changed"] * 9)
    with pytest.raises(FetchError):
        get(hub, tmp_path)
    hub.faults.clear()
    partial = tmp_path / "datasets" / f".{NAME}.partial"
    (partial / "fineweb_train_000000.bin").write_bytes(b"")
    (partial / ".download_x").mkdir()
    hub.requests.clear()
    get(hub, tmp_path)
    fetched = {name for command, name in hub.requests if command == "GET"}
    assert "fineweb_val_000000.bin" not in fetched
    assert {"fineweb_train_000000.bin", "fineweb_train_000002.bin"} <= fetched
    assert not partial.exists()
    hub.requests.clear()
    get(hub, tmp_path)
    assert not hub.requests  # in place: nobody is asked


def test_more_shards_are_added_to_those_that_are_there(hub, tmp_path):
    """One shard first, all three later: the first is kept, fewer again changes nothing."""
    assert len(get(hub, tmp_path, shards=1)["shards"]) == 2
    hub.requests.clear()
    assert len(get(hub, tmp_path, shards=3)["shards"]) == 4
    assert hub.requests["GET", "fineweb_train_000000.bin"] == 0
    assert len(get(hub, tmp_path, shards=1)["shards"]) == 4


def test_fewer_shards_than_published_are_reported(hub, tmp_path):
    """One of three training shards is a warning of `verify` and in the line of a run's log."""
    get(hub, tmp_path, shards=1)
    folder = tmp_path / "datasets" / NAME
    levels = {f.check: f.level for f in verify.verify(folder)}
    assert levels["shards"] == "warning" and "fault" not in levels.values()
    model = tmp_path / "tokenizers/fineweb_1024_bpe.model"
    assert "train_shards:1/3" in check_start(folder, model, 1024)


def test_mirrors_are_tried_in_order(hub, tmp_path):
    """The first has no such repository, the second a bad file: the third gives the data."""
    for path, data in list(hub.files.items()):
        hub.files[path.replace("a/b", "c/d")] = data
    bad = f"datasets/{NAME}/fineweb_train_000000.bin"
    hub.fault(bad, *["changed"] * 9)
    manifest = get(hub, tmp_path, repositories=("no/where", "a/b", "c/d"))
    assert manifest["source"]["repository"] == "c/d/datasets"
    with pytest.raises(FetchError, match="no/where/datasets: .*404.*; nor/this/datasets: .*404"):
        get(hub, tmp_path / "other", repositories=("no/where", "nor/this"))


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "manifest.json cannot be used"),
        ("[]", "manifest.json cannot be used"),
        ('{"datasets": []}', "manifest.json cannot be used"),
        (listing("fineweb10B_sp4096"), f"lists fineweb10B_sp4096, not {NAME}"),
        (listing(stats={"files_train": 0}), "stats.files_train=0"),
        (listing(stats={"files_val": "1"}), "stats.files_val='1'"),
        (listing(stats={"files_train": 2}), "it has 2 train shards"),
        (listing(stats={"files_val": 2}), "fineweb_val_000001.bin.*404"),
        (listing(tokenizer_name="other"), "names no usable tokenizer"),
        ({**listing(), "tokenizers": [{"name": "bpe", "path": "../../x"}]}, "no usable tokenizer"),
    ],
)
def test_wrong_manifests_are_refused_by_what_is_wrong(hub, tmp_path, content, message):
    """Damaged, without the data set, with impossible counts, or naming files that are not there."""
    content = content if isinstance(content, str) else json.dumps(content)
    hub.put("manifest.json", content.encode())
    with pytest.raises(FetchError, match=message):
        get(hub, tmp_path)
    assert not (tmp_path / "datasets" / NAME).exists()


def test_a_published_file_that_is_no_shard_is_refused(hub, tmp_path):
    """A file of zeros is as published, and still no shard."""
    hub.put(f"datasets/{NAME}/fineweb_train_000001.bin", bytes(5000))
    with pytest.raises(FetchError, match="fineweb_train_000001.bin is not a shard"):
        get(hub, tmp_path)


def test_another_validation_split_is_refused(hub, tmp_path, monkeypatch):
    """A repository whose validation is not the challenge's, or stands in its training text."""
    monkeypatch.setattr(evaluate, "FINEWEB_VAL", {"documents": 50_000, "bytes": 151_080_891})
    with pytest.raises(ValueError, match="validation is .*150.* the challenge's is .*50000"):
        get(hub, tmp_path)
    val = hub.files[f"datasets/a/b/datasets/datasets/{NAME}/fineweb_val_000000.bin"]
    hub.put(f"datasets/{NAME}/fineweb_train_000002.bin", val)
    with pytest.raises(ValueError, match="150 of 150 validation documents are in the training"):
        get(hub, tmp_path)
    assert not (tmp_path / "datasets" / NAME).exists()


def test_a_full_disk_is_noticed_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    """The sum of all sizes is compared with what is free, and both are told."""
    free = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(OSError, match="bytes are to come and 1,000 are free"):
        get(hub, tmp_path)
    assert set(hub.requests) & {("GET", "fineweb_val_000000.bin")} == set()


def test_two_fetches_never_share_a_folder(hub, tmp_path):
    """The second is told, and the first goes on."""
    with folder_lock(tmp_path / "datasets" / f".{NAME}.partial"):
        with pytest.raises(BlockingIOError, match="another preparation is writing"):
            get(hub, tmp_path)
    get(hub, tmp_path)


def test_damage_to_what_is_in_place_is_mended(hub, tmp_path):
    """A shard that was touched since is fetched again, the others stay."""
    get(hub, tmp_path)
    path = tmp_path / "datasets" / NAME / "fineweb_train_000001.bin"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    hub.requests.clear()
    get(hub, tmp_path)
    assert path.read_bytes() == data
    assert hub.requests["GET", "fineweb_train_000000.bin"] == 0


def test_case_sidecars_are_fetched_with_their_shards(hub, tmp_path, texts, monkeypatch):
    """A CaseOps variant brings the bytes of its validation tokens, and they are what counts."""
    name = "fineweb10B_sp1024_caseops"
    documents = texts[1][0]
    stream_T = np.concatenate(documents)
    for path in [p for p in hub.files if NAME in p]:
        hub.files[path.replace(NAME, name)] = hub.files.pop(path)
    bytes_T = np.where(stream_T == 1, 0, 1).astype(np.uint16)
    write_shard(tmp_path / "side.bin", bytes_T)
    hub.put(f"datasets/{name}/fineweb_val_bytes_000000.bin", (tmp_path / "side.bin").read_bytes())
    hub.put("manifest.json", json.dumps(listing(name)).encode())
    expected = {"documents": 150, "bytes": int(bytes_T.sum())}
    monkeypatch.setattr(evaluate, "FINEWEB_VAL", expected)
    # The toy model has no markers, which a real one must have.
    load = fetch.tokenizers.load
    monkeypatch.setattr(fetch.tokenizers, "load", lambda e, f: load(e | {"caseops": False}, f))
    mirror = Mirror("a/b", "datasets", hub.url)
    manifest = fetch.fetch(name, 1, tmp_path, [mirror], jobs=2)
    assert manifest["sidecar_required"] and manifest["splits"]["val"]["bytes"] == expected["bytes"]
    assert manifest["shards"][-1]["sidecar"]["file"] == "fineweb_val_bytes_000000.bin"


def test_the_fields_variables_choose_the_repository():
    """Repository and prefix as people know them; several go in order; else the known ones."""
    both = {"MATCHED_FINEWEB_REPO_ID": "x/y, z/w", "MATCHED_FINEWEB_REMOTE_ROOT_PREFIX": "p/"}
    assert fetch.mirrors_from(both) == [Mirror("x/y", "p"), Mirror("z/w", "p")]
    one = {"MATCHED_FINEWEB_REPO_ID": "x/y"}
    assert fetch.mirrors_from(one) == [Mirror("x/y", "datasets")]
    assert fetch.mirrors_from(one | {"MATCHED_FINEWEB_REMOTE_ROOT_PREFIX": ""})[0].prefix == ""
    assert [mirror.repository for mirror in fetch.mirrors_from({})] == [r for r, _ in fetch.MIRRORS]


def test_the_command_fetches_over_the_clients_own_endpoint(hub, tmp_path):
    """A process of its own, HF_ENDPOINT and the field's variables set: files, bar and a summary."""
    expected = evaluate.FINEWEB_VAL
    code = f"import evaluate, sys; evaluate.FINEWEB_VAL = {expected}; from data import prepare; "
    code += "sys.exit(prepare.main(sys.argv[1:]))"
    arguments = ["fetch", "--variant", "sp1024", "--train-shards", "2", "--out", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path)}
    env |= {"MATCHED_FINEWEB_REPO_ID": "a/b", "MATCHED_FINEWEB_REMOTE_ROOT_PREFIX": "datasets"}
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "train_shards:2/3" in done.stdout and "val_documents:150" in done.stdout
    assert f"next: DATA_PATH={tmp_path / 'datasets' / NAME} " in done.stdout
    assert done.stderr == ""  # a line a minute, and this takes a second
    command = [*command[:3], "fetch", "--train-shards", "0", "--out", str(tmp_path)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "--train-shards 0 must be at least 1" in done.stderr


def test_without_the_client_the_command_says_what_to_install(monkeypatch, capsys, tmp_path):
    """No huggingface_hub: status 1 and the command that brings it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub.utils", None)
    assert prepare.main(["fetch", "--out", str(tmp_path)]) == 1
    assert "golf.py --with data data.prepare fetch" in capsys.readouterr().err
