"""Places where a run can be started: this machine, or a SLURM cluster.

A launched run answers to done(), stop() and kill(). stop() asks: the trainer ends its step, writes
a checkpoint and leaves. kill() does not ask.
"""

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

GRACE_SECONDS = 120.0  # for a step and a checkpoint, before a run is killed
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # on which everything ends cleanly


class LocalProcess:
    """A run as a process of this machine, in a session of its own: Ctrl-C does not reach it."""

    job_id = None

    def __init__(self, command: list[str], stdout: int | None):
        self.process = subprocess.Popen(command, stdout=stdout, start_new_session=True)

    def done(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


class SlurmJob:
    """A run as a job of submitit's; the scheduler, too, sends SIGTERM before it kills."""

    def __init__(self, job):
        self.job = job
        self.job_id = str(job.job_id)
        self.is_cancelled = False

    def done(self) -> bool:
        # A cancelled job leaves no result to see, so the scheduler itself has to be asked.
        if not self.job.done(force_check=self.is_cancelled):
            return False
        # One that was put back into the queue has a result, of its first part, and will go on.
        return self.is_cancelled or not is_queued(self.job_id)

    def stop(self) -> None:
        self.job.cancel(check=False)
        self.is_cancelled = True

    kill = stop


def is_queued(job_id: str) -> bool:
    """Whether SLURM will start the job, again perhaps, or has not ended it."""
    command = ["squeue", "--noheader", f"--jobs={job_id}", "--format=%T"]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return False
    return bool(done.stdout.strip())  # of a job that is unknown by now: nothing


# $1: settings.json of the run, $2: its id, then the command.
RESUME_IF_BEGUN = 'if [ -f "$1" ]; then export RESUME="$2"; fi; shift 2; exec "$@"'


def resuming(folder: Path, command: list[str]) -> list[str]:
    """The command, so that it goes on with the run in the folder if that has begun by then.

    A scheduler that took the machine away starts the very same command again later: what was a
    first start when it was submitted has to be a resumption then.
    """
    settings = str(folder / "settings.json")
    return ["sh", "-c", RESUME_IF_BEGUN, "sh", settings, folder.name, *command]


SubmitFunction = Callable[[list[str], str, str | None], SlurmJob]


def slurm_parameters(words: list[str]) -> dict:
    """submitit's parameters: ["timeout_min=60"] is {"timeout_min": 60}. Raises: ValueError."""
    parameters = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--slurm {word} must be NAME=VALUE, as slurm_partition=gpu")
        parameters[name] = int(value) if value.isdigit() else value
    return parameters


def slurm(logs: Path, gpus: int, words: list[str]) -> SubmitFunction:
    """A function that submits a command under a name, or finds the job that was submitted before.

    Raises: ImportError with the install command; ValueError for parameters of another form.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--engine slurm needs submitit: pip install submitit") from error
    folder = logs / "slurm"
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    parameters = {
        "timeout_min": 60,
        "nodes": 1,
        "tasks_per_node": 1,
        "gpus_per_node": gpus,
        # At the end of its time a job gets the signal on which the trainer saves, not submitit's.
        "slurm_additional_parameters": {"signal": f"TERM@{GRACE_SECONDS:.0f}"},
        **slurm_parameters(words),
    }

    def submit(command: list[str], name: str, job_id: str | None) -> SlurmJob:
        if job_id:
            earlier = submitit.SlurmJob(folder=folder, job_id=job_id)
            if not earlier.done(True) or is_queued(job_id):
                return SlurmJob(earlier)
        executor.update_parameters(**{**parameters, "name": name})
        return SlurmJob(executor.submit(submitit.helpers.CommandFunction(command)))

    return submit
