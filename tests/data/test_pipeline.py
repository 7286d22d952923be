"""The pipeline: its stages by hand, and under datatrove in two tasks, killed and restarted.

Tests under datatrove skip where it is not installed: pip install datatrove.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data import containers, pipeline
from data import manifest as manifests
from tests.data.conftest import TEXTS, VAL_DOCUMENTS, files, run_build, write_jsonl

ROOT = Path(__file__).parents[2]
COPY = TEXTS[3]  # of a validation document, in the last task's range


@pytest.fixture
def folder(tmp_path) -> Path:
    """A source of three files; validation lies in the first two."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, texts in (("a", TEXTS[:8]), ("b", TEXTS[8:30]), ("c", [*TEXTS[30:], COPY])):
        write_jsonl(folder / f"{name}.jsonl", texts)
    return folder


def options(folder, model, out, tasks=2) -> list[str]:
    words = [folder, "--tokenizer", model, "--out", out, "--val-documents", VAL_DOCUMENTS]
    words += ["--shard-tokens", 300, "--caseops", "--name", "x", "--tasks", tasks]
    return list(map(str, words))


def single_build(folder, model, out, shard_tokens=300) -> dict[str, bytes]:
    run_build(folder, out, model, "--shard-tokens", shard_tokens, "--caseops", "--name", "x")
    return files(out)


def parse(words):
    import argparse

    parser = argparse.ArgumentParser()
    pipeline.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("tasks", [1, 2, 5, 70])
def test_the_stages_give_the_files_of_one_build(tmp_path, folder, model, tasks, monkeypatch):
    """To the byte, manifest included, in any order of tasks and with more tasks than documents."""
    monkeypatch.setattr(containers, "BLOCK_BYTES", 500)  # several blocks a file
    args = parse(options(folder, model, tmp_path / "out", tasks))
    stages, work = pipeline.make_stages(args)
    for name in ("count", "build"):
        for rank in reversed(range(tasks)):
            stages[name](None, rank, tasks)
    assert list(pipeline.read_counts(work).values()) == [8, 22, 31]
    stages["merge"](None, 0, 1)
    stages["merge"](None, 0, 1)  # as a cluster may, after it has been done
    assert files(tmp_path / "out") == single_build(folder, model, tmp_path / "single")
    manifest = manifests.read_manifest(tmp_path / "out")
    assert manifest["source"]["left_out"] == {"equal to a validation document": 1}


def test_ranges_cover_all_documents_once():
    """The docstring's example; the last range is open."""
    assert [pipeline.range_of(rank, 4, 10) for rank in range(4)] == [
        (0, 2),
        (2, 5),
        (5, 7),
        (7, None),
    ]


def test_files_before_a_range_are_not_opened(tmp_path, folder, model, monkeypatch):
    """But for the validation documents, which every task must know."""
    args = parse(options(folder, model, tmp_path / "out", 3))
    stages, _ = pipeline.make_stages(args)
    for rank in range(3):
        stages["count"](None, rank, 3)
    opened = []
    unpacked = containers.unpacked
    monkeypatch.setattr(
        containers,
        "unpacked",
        lambda path, *more: opened.append(path.name) or unpacked(path, *more),
    )
    stages["build"](None, 2, 3)
    assert opened == ["a.jsonl", "b.jsonl", "c.jsonl"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--range", "0:5"], "makes and merges its ranges itself"),
        (["--tasks", "0"], "--tasks 0 must be at least 1"),
        (["--corpus", "fineweb-edu"], "fineweb-edu"),
    ],
)
def test_what_a_pipeline_does_not_do_is_refused(tmp_path, folder, model, words, message):
    """By option, before anything is written."""
    with pytest.raises(ValueError, match=message):
        pipeline.make_stages(parse([*options(folder, model, tmp_path / "out"), *words]))


def test_an_unfinished_pipeline_takes_no_other_options(tmp_path, folder, model):
    """Another number of tasks would build other ranges."""
    pipeline.make_stages(parse(options(folder, model, tmp_path / "out", 2)))
    with pytest.raises(ValueError, match="holds an unfinished pipeline with other options.*remove"):
        pipeline.make_stages(parse(options(folder, model, tmp_path / "out", 3)))


def test_without_datatrove_the_command_says_what_to_install(tmp_path, monkeypatch, capsys):
    """Status 1, and nothing is written."""
    monkeypatch.setitem(sys.modules, "datatrove", None)
    words = ["x.jsonl", "--tokenizer", "bytes", "--out", str(tmp_path / "out")]
    assert pipeline.main(words) == 1
    assert "pip install datatrove" in capsys.readouterr().err


def die_and_leave_a_helper(stage, name, work, tasks, rank) -> None:
    """In place of run_task: killed, while a helper that shares its files lives for 20 s more."""
    os.setsid()
    if os.fork():
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(20)
    (work / "helper ended by itself").touch()
    os._exit(0)


def test_a_killed_task_is_seen_while_its_helper_lives(tmp_path, monkeypatch):
    """The last task to run is killed: its helper is ended with it, and not waited for."""
    monkeypatch.setattr(pipeline, "run_task", die_and_leave_a_helper)
    with pytest.raises(OSError, match=r"build: task 0 \(exit -9\) of 1 did not finish"):
        pipeline.run_local(None, "build", tmp_path, tasks=1, workers=1)
    assert not (tmp_path / "helper ended by itself").exists()


# Under datatrove ----------------------------------------------------------------------------------


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "data.pipeline", *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow  # starts six processes
def test_two_tasks_of_datatrove_give_the_files_of_one_build(tmp_path, folder, model):
    """Its local executor, each task in a process; its book-keeping is removed with the parts."""
    pytest.importorskip("datatrove", reason="pip install datatrove")
    process = start(options(folder, model, tmp_path / "out"))
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    assert files(tmp_path / "out") == single_build(folder, model, tmp_path / "single")
    assert not (tmp_path / ".out.partial").exists()


def kill_while_building(process: subprocess.Popen, work: Path, target: int) -> int:
    """Kill the process of a task, or the launcher with all, once a shard stands; return its id."""
    # As long as it lives: on a busy machine the tasks alone took over a minute to import.
    deadline = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < deadline:
        for state_path in work.glob("part_*/state.json"):
            state = json.loads(state_path.read_text())
            if state["start"] and state["shards"] and not state["done"]:
                children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
                pid = process.pid if target == 0 else int(children.split()[-1])
                if target == 0:
                    os.killpg(process.pid, signal.SIGKILL)
                else:
                    os.kill(pid, signal.SIGKILL)
                return pid
        time.sleep(0.005)
    raise AssertionError(f"no shard was built; the launcher's status is {process.poll()}")


@pytest.mark.slow  # starts ten processes
@pytest.mark.parametrize("target", ["launcher", "task"])
def test_a_killed_task_goes_on(tmp_path, model, target):
    """SIGKILL of a task is seen, not waited for; the same command ends in the same files."""
    pytest.importorskip("datatrove", reason="pip install datatrove")
    folder = tmp_path / "texts"
    folder.mkdir()
    texts = [f"{text} {number}" for number in range(100) for text in TEXTS]
    write_jsonl(folder / "a.jsonl", texts[:3000])
    write_jsonl(folder / "b.jsonl", texts[3000:])
    words = [*options(folder, model, tmp_path / "out"), "--shard-tokens", "5000"]
    process = start(words)
    kill_while_building(process, tmp_path / ".out.partial", ["launcher", "task"].index(target))
    output, _ = process.communicate(timeout=600)
    if target == "task":
        assert process.returncode == 1 and "(exit -9) of 2 did not finish" in output
    assert not (tmp_path / "out").exists()
    process = start(words)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    single = single_build(folder, model, tmp_path / "single", 5000)
    assert files(tmp_path / "out") == single
