"""The registry: every launch stays, whatever is killed, removed or started anew."""

import fcntl
import json
import threading
import time
from pathlib import Path

import pytest

from tools.runs.registry import (
    hash_sources,
    launches,
    read_registry,
    register,
    settings_hash,
    sources_hash,
)


def test_the_registry_survives_a_kill_in_the_middle_of_a_line(tmp_path):
    """What follows a cut line stands whole on its own; the cut one is passed over."""
    register(tmp_path, {"run_id": "a", "seed": 1, "status": "launched"})
    with open(tmp_path / "registry.jsonl", "a") as file:
        file.write('{"time": "2026", "run_id": "b", "se')
    register(tmp_path, {"run_id": "c", "seed": 3, "status": "launched"})
    assert [row["run_id"] for row in read_registry(tmp_path)] == ["a", "c"]
    assert (tmp_path / "registry.jsonl").read_text().count("\n") == 3


def test_writers_wait_for_each_other(tmp_path):
    """While the registry is locked by one writer, another one's line is not written."""
    register(tmp_path, {"run_id": "a", "seed": 1, "status": "launched"})
    row = {"run_id": "b", "seed": 2, "status": "launched"}
    thread = threading.Thread(target=register, args=[tmp_path, row])
    with open(tmp_path / "registry.jsonl") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        thread.start()
        time.sleep(0.1)
        assert [row["run_id"] for row in read_registry(tmp_path)] == ["a"]
    thread.join()
    assert [row["run_id"] for row in read_registry(tmp_path)] == ["a", "b"]


def make_folder(logs: Path, run_id: str, **settings) -> Path:
    folder = logs / run_id
    folder.mkdir(parents=True)
    settings = {"run_id": run_id, "resume": "", "seed": 1, "lr": 0.5, **settings}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "train_gpt.py").write_text("x = 1\n")
    return folder


def test_a_launch_that_the_registry_does_not_know_counts(tmp_path):
    """A run started without this command is listed from its folder, finished or not."""
    make_folder(tmp_path, "by_hand")
    done = make_folder(tmp_path, "done", seed=2)
    done.joinpath("artifact.pgz").touch()
    done.joinpath("train.log").write_text(
        "run:logs/done preset:x\nfinal val_loss:1.0 val_bpb:1.0 targets:1 bytes:1 eval_time:1ms\n"
    )
    rows = {row["run_id"]: row for row in launches(tmp_path)}
    assert {name: row["status"] for name, row in rows.items()} == {
        "by_hand": "launched", "done": "finished"
    }  # fmt: skip
    assert rows["done"]["seed"] == 2 and rows["done"]["settings_hash"]
    assert rows["done"]["sources_hash"] == sources_hash(done)


def test_a_run_that_was_removed_and_started_anew_stands_there_twice(tmp_path):
    """Deleting a folder and taking the run_id again does not hide the first launch."""
    row = {"run_id": "a", "seed": 1, "settings_hash": "s", "sources_hash": "c"}
    for status in ("launched", "finished", "launched", "stopped"):
        register(tmp_path, {**row, "status": status, "resumed": False})
    register(tmp_path, {**row, "status": "launched", "resumed": True})
    register(tmp_path, {**row, "status": "finished"})
    rows = launches(tmp_path)
    assert [(row["run_id"], row["status"]) for row in rows] == [
        ("a#1", "finished"), ("a", "finished")
    ]  # fmt: skip
    lines = read_registry(tmp_path)
    lines[4]["time"] = "later"
    (tmp_path / "registry.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert launches(tmp_path)[1]["time"] == lines[2]["time"]  # that of the start
    register(tmp_path, {**row, "run_id": "b", "status": "failed", "began": False})
    register(tmp_path, {**row, "run_id": "b", "status": "launched", "resumed": False})
    assert [row["run_id"] for row in launches(tmp_path)] == ["a#1", "a", "b"]


def test_damaged_settings_are_named(tmp_path):
    """A settings.json that is no JSON is an error with its path, not a launch that vanishes."""
    make_folder(tmp_path, "a").joinpath("settings.json").write_text("{")
    with pytest.raises(ValueError, match=r"a/settings.json is damaged"):
        launches(tmp_path)


def test_hashes_tell_what_matters():
    """Names, seed and preset do not change the hash of settings; anything else does."""
    settings = {"run_id": "a", "resume": "", "seed": 1, "lr": 0.5}
    same = settings | {"run_id": "b", "resume": "a", "seed": 2, "preset": "smoke"}
    assert settings_hash(settings) == settings_hash(same)
    assert settings_hash(settings) == settings_hash(dict(reversed(settings.items())))
    assert settings_hash(settings) != settings_hash(settings | {"lr": 0.25})
    assert settings_hash(settings) != settings_hash(settings | {"data_path": "other"})


def test_sources_are_hashed_whole(tmp_path):
    """Each source counts by its place and its text, nothing else does."""
    assert sources_hash(tmp_path) == ""
    (tmp_path / "engine").mkdir()
    (tmp_path / "train_gpt.py").write_text("a")
    alone = sources_hash(tmp_path)
    (tmp_path / "engine/text.py").write_text("a")
    both = sources_hash(tmp_path)
    (tmp_path / "train.log").write_text("a")
    assert sources_hash(tmp_path) == both
    assert both == hash_sources({"engine/text.py": b"a", "train_gpt.py": b"a"})
    (tmp_path / "engine/text.py").rename(tmp_path / "text.py")
    elsewhere = sources_hash(tmp_path)
    (tmp_path / "text.py").write_text("b")
    assert len({alone, both, elsewhere, sources_hash(tmp_path)}) == 4
