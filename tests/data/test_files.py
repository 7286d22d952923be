"""Files appear whole, and one preparation writes to a folder at a time."""

import multiprocessing

import pytest

from data import files
from data.files import folder_lock


def try_lock(folder, results):
    try:
        with folder_lock(folder):
            results.put("held")
    except BlockingIOError as error:
        results.put(str(error))


def test_two_preparations_never_write_to_one_folder(tmp_path):
    """The second is told, by the name of the folder; afterwards the folder is free."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()

    def second() -> str:
        process = context.Process(target=try_lock, args=(tmp_path / "new", results))
        process.start()
        process.join()
        return results.get(timeout=10)

    with folder_lock(tmp_path / "new"):
        assert f"another preparation is writing to {tmp_path / 'new'}" in second()
    assert second() == "held"


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    """Text and bytes appear whole or not at all."""
    path = tmp_path / "x.json"
    files.write_atomic(path, "é")
    assert path.read_bytes() == "é".encode()
    monkeypatch.setattr(files.os, "fsync", lambda fd: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        files.write_atomic(path, b"new")
    assert path.read_bytes() == "é".encode()


def test_a_file_is_copied_where_it_cannot_be_linked(tmp_path, monkeypatch):
    """The content is the same either way."""
    (tmp_path / "a").write_text("x")
    files.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_ino == (tmp_path / "a").stat().st_ino
    monkeypatch.setattr(files.os, "link", lambda *paths: (_ for _ in ()).throw(OSError("no links")))
    files.link_or_copy(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "x"
    assert (tmp_path / "c").stat().st_ino != (tmp_path / "a").stat().st_ino
