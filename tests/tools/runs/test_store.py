"""Folders in a store of objects: what is copied, what is not, and what is refused."""

import os
from pathlib import Path

import pytest

from tools.runs import store

fsspec = pytest.importorskip("fsspec", reason="python3 golf.py --with store test")

RUN = {"train.log": b"final\n", "checkpoint.pt": b"\0" * 3_000_000, "engine/text.py": b"x = 1\n"}


@pytest.fixture
def memory():
    """A store in this process's memory, empty."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def write_run(folder: Path) -> Path:
    for name, content in {**RUN, ".lock": b"", "x.tmp": b"half"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_run_comes_back_as_it_was(tmp_path, memory, capsys):
    """All but locks and half-written files; the next command is said, quoted."""
    run = write_run(tmp_path / "my run")
    assert store.main([str(run), "memory://runs/one"]) == 0
    assert "golf.py store memory://runs/one '" in capsys.readouterr().out
    assert store.main(["memory://runs/one", str(tmp_path / "back")]) == 0
    assert contents(tmp_path / "back") == RUN


def test_only_what_changed_is_sent_and_fetched(tmp_path, memory, capsys):
    """The second time one file is named, both ways."""
    run = write_run(tmp_path / "run")
    store.main([str(run), "memory://runs/one"])
    store.main(["memory://runs/one", str(tmp_path / "back")])
    capsys.readouterr()
    (run / "checkpoint.pt").write_bytes(b"later")
    store.main([str(run), "memory://runs/one"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "store: checkpoint.pt, 5 bytes" and len(lines) == 2
    store.main(["memory://runs/one", str(tmp_path / "back")])
    assert capsys.readouterr().out == "store: checkpoint.pt\n"
    assert (tmp_path / "back/checkpoint.pt").read_bytes() == b"later"


def test_a_changed_object_is_refused_and_leaves_the_old_file(tmp_path, memory, capsys):
    """A hash that does not fit is status 2; no half of it is left."""
    run = write_run(tmp_path / "run")
    store.main([str(run), "memory://runs/one"])
    memory.pipe_file("/runs/one/train.log", b"finaL\n")
    back = tmp_path / "back"
    back.mkdir()
    (back / "train.log").write_bytes(b"older")
    assert store.main(["memory://runs/one", str(back)]) == 2
    assert "train.log is not as it was stored" in capsys.readouterr().err
    assert (back / "train.log").read_bytes() == b"older"
    assert not [name for name in os.listdir(back) if name.endswith(".partial")]


@pytest.mark.parametrize(
    "words, message",
    [
        (["a", "b"], "one of FROM and TO must be an address"),
        (["memory://a", "memory://b"], "one of FROM and TO must be an address"),
        (["memory://nothing", "b"], "memory://nothing has no SHA256SUMS"),
        (["nothing", "memory://b"], "nothing holds no files"),
        (["nosuch://a", "b"], "nosuch"),
    ],
)
def test_what_cannot_be_copied_is_one_line(tmp_path, monkeypatch, memory, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    assert store.main(words) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


@pytest.mark.parametrize("name", ["../x", "/etc/x", ""])
def test_a_list_cannot_name_files_outside_the_folder(tmp_path, memory, capsys, name):
    """Whoever can write to the store cannot write elsewhere on this machine."""
    memory.pipe_file("/runs/bad/SHA256SUMS", f"{'0' * 64}  {name}\n".encode())
    assert store.main(["memory://runs/bad", str(tmp_path / "back")]) == 2
    assert "SHA256SUMS has the line" in capsys.readouterr().err


@pytest.mark.slow
def test_s3_by_a_server_of_this_machine(tmp_path, monkeypatch):
    """moto answers as S3 does: a run is stored and comes back."""
    pytest.importorskip("s3fs", reason="pip install s3fs 'moto[server]'")
    server = pytest.importorskip("moto.server", reason="pip install s3fs 'moto[server]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    try:
        host, port = running.get_host_and_port()
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setitem(fsspec.config.conf, "s3", {"endpoint_url": f"http://{host}:{port}"})
        fsspec.filesystem("s3").mkdir("bucket")
        run = write_run(tmp_path / "run")
        assert store.main([str(run), "s3://bucket/runs/one"]) == 0
        assert store.main(["s3://bucket/runs/one", str(tmp_path / "back")]) == 0
        assert contents(tmp_path / "back") == RUN
    finally:
        running.stop()
