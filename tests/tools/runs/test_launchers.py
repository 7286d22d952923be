"""Runs as processes and as jobs; what SLURM is told stands with the seeds that are sent there."""

import os
import signal
import subprocess
import sys
import time
import types

import pytest

from tools.runs.launchers import (
    LocalProcess,
    SlurmJob,
    is_queued,
    resuming,
    slurm_parameters,
)


def wait_for(process: LocalProcess) -> int:
    ends = time.monotonic() + 20
    while not process.done() and time.monotonic() < ends:
        time.sleep(0.01)
    return process.process.returncode


def test_a_process_is_asked_to_stop_and_may_be_killed():
    """stop() is SIGTERM, kill() SIGKILL to all of the session; a dead one can be killed again."""
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = LocalProcess(command, None)
    assert not process.done()
    process.stop()
    assert wait_for(process) == -signal.SIGTERM
    other = LocalProcess(command, None)
    other.kill()
    assert wait_for(other) == -signal.SIGKILL
    other.kill()


def test_a_command_that_is_started_again_resumes(tmp_path):
    """The same words are a first start before the run has begun, and a resumption after it."""
    folder = tmp_path / "my run"
    command = resuming(folder, ["sh", "-c", "echo [$RESUME] $1", "sh", "a b"])
    folder.mkdir()
    first = subprocess.run(command, capture_output=True, text=True).stdout
    (folder / "settings.json").touch()
    again = subprocess.run(command, capture_output=True, text=True).stdout
    assert (first, again) == ("[] a b\n", "[my run] a b\n")


@pytest.mark.parametrize("state, queued", [("PENDING", True), ("RUNNING", True), ("", False)])
def test_a_job_that_was_put_back_into_the_queue_is_not_over(tmp_path, monkeypatch, state, queued):
    """It has a result, of its first part; squeue tells whether another part will come."""
    squeue = tmp_path / "squeue"
    squeue.write_text(f'#!/bin/sh\ntest "$2" = --jobs=7 && echo {state}\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    first_part = types.SimpleNamespace(job_id=7, done=lambda force_check: True)
    assert SlurmJob(first_part).done() is not queued
    first_part.cancel = lambda check: None
    job = SlurmJob(first_part)
    job.stop()
    assert job.done()


def test_without_slurm_nothing_is_queued(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_queued("7")


def test_slurm_parameters_are_numbers_where_they_can_be():
    """NAME=VALUE, the value a number or a text; a word without = is refused."""
    words = ["slurm_partition=gpu", "timeout_min=60", "slurm_comment=a=b"]
    assert slurm_parameters(words) == {
        "slurm_partition": "gpu",
        "timeout_min": 60,
        "slurm_comment": "a=b",
    }
    with pytest.raises(ValueError, match="--slurm gpu must be NAME=VALUE"):
        slurm_parameters(["gpu"])
