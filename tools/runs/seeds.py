"""Train several seeds, or a small grid, and report mean and spread: never the best alone.

    python3 golf.py tools.runs.seeds -n 3 [--name NAME] [--nproc N] [--grid MATRIX_LR=0.03,0.04 ...]
    MATRIX_LR=0.03 python3 golf.py tools.runs.seeds --seeds 1337 42 7 --name lower
    python3 golf.py tools.runs.seeds -n 3 --max-hours 2 --price-per-hour 21.5 --max-spend 30

Settings are environment variables, as for train_gpt.py; SEED and RUN_ID (NAME_seedN) are set here.
The same command again does what is missing: it skips what is finished, resumes what was stopped or
killed, and refuses a NAME whose runs had other settings or sources. Every launch is entered in
logs/registry.jsonl before it starts, and stays there.

Ctrl-C, a cap or --stop-above sends SIGTERM: train_gpt.py ends its step and writes a checkpoint. Of
a run that a cap stopped, the checkpoint is also packed, to stopped.pgz, which evaluate.py scores.

Exit status 0: all runs are finished and under the size cap, 1: not all, 2: nothing could be done.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import itertools
import json
import math
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tools.runs.logs import Run, read_log
from tools.submission.bundle import SOURCES

SCRIPT = Path(__file__).resolve().parents[2] / "train_gpt.py"
# Of the settings: a preset is resolved, and code is told by the hash of the sources.
NOT_COMPARED = {"run_id", "resume", "seed", "preset", "code"}
USUAL_SEEDS = (1337, 42, 7, 2025, 314, 1234, 0, 1, 2, 3)  # of the field
POLL_SECONDS = {"local": 0.2, "slurm": 5.0}
STDERR = 2  # file number
GRACE_SECONDS = 120.0  # for a step and a checkpoint, before a run is killed

RECIPES = """\
SLURM (pip install submitit): one job a run, all at once; --slurm takes submitit's parameters.
    python -m tools.runs.seeds -n 3 --nproc 8 --engine slurm \\
        --slurm slurm_partition=gpu timeout_min=60 cpus_per_task=64

Ray and SkyPilot call this command (not tried here); their machines have to share logs/.
    import ray, subprocess                                            # Ray: one run a node
    @ray.remote(num_gpus=8)
    def train(seed):
        words = ["python", "-m", "tools.runs.seeds", "--seeds", str(seed), "--nproc", "8"]
        subprocess.run(words, cwd="/shared/parameter-golf", check=True)
    ray.get([train.remote(seed) for seed in (1337, 42, 7)])

    # SkyPilot: seeds.yaml, then `sky launch --down -i 5 seeds.yaml` (machines end when idle)
    resources: {accelerators: "H100:8", use_spot: true}
    file_mounts: {/logs: {name: my-logs, mode: MOUNT_CACHED}}
    workdir: .
    run: ln -sfn /logs logs && python3 golf.py tools.runs.seeds -n 3 --nproc 8 --max-hours 2
"""


# What ran -----------------------------------------------------------------------------------------


def settings_hash(settings: dict) -> str:
    """A hash of all settings but the seed, names of runs and the name of the preset."""
    kept = {name: value for name, value in settings.items() if name not in NOT_COMPARED}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def sources_hash(folder: str | Path) -> str:
    """A hash of the training sources: of a run's folder all, else SOURCES; "" where none is."""
    folder = Path(folder)
    is_run = (folder / "settings.json").is_file()
    files = sorted(folder.rglob("*.py")) if is_run else [folder / name for name in sorted(SOURCES)]
    files = [path.relative_to(folder) for path in files if path.is_file()]
    lines = [
        f"{path} {hashlib.sha256((folder / path).read_bytes()).hexdigest()}\n" for path in files
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16] if lines else ""


def register(logs: Path, row: dict) -> None:
    """Append one line to logs/registry.jsonl, whole and on the disk, whoever else writes there."""
    logs.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), **row}) + "\n"
    with open(logs / "registry.jsonl", "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if file.seek(0, os.SEEK_END):
            file.seek(-1, os.SEEK_END)
            line = line if file.read(1) == b"\n" else "\n" + line  # a kill cut the last one short
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def read_registry(logs: Path) -> list[dict]:
    """Every whole line of the registry, in order; one that a kill cut short is passed over."""
    path, rows = logs / "registry.jsonl", []
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) and isinstance(row.get("run_id"), str) else []
    return rows


def launches(logs: str | Path) -> list[dict]:
    """Every training that began: run_id, seed, settings_hash, sources_hash, status, oldest first.

    From the registry, and from each run's folder, which is right about what it holds and may be
    unknown to the registry. A run_id that was started anew, its folder having been removed, stands
    there for each start: the older ones as run_id#1, run_id#2. A launch that ended before its first
    settings were written is no training and is left out.
    """
    logs, found, again = Path(logs), {}, {}
    for row in read_registry(logs):
        run_id, old = row["run_id"], found.get(row["run_id"])
        if row.get("status") == "launched" and not row.get("resumed") and old:
            if old.get("began", True):
                again[run_id] = again.get(run_id, 0) + 1
                name = f"{run_id}#{again[run_id]}"
                found[name] = {**old, "run_id": name}
            del found[run_id]
        known = {name: value for name, value in row.items() if value not in ("", None)}
        first = {"time": found[run_id].get("time")} if run_id in found else {}
        found[run_id] = {**found.get(run_id, {}), **known, **first}
    found = {run_id: row for run_id, row in found.items() if row.get("began", True)}
    for path in sorted(logs.glob("*/settings.json"), key=lambda path: path.stat().st_mtime):
        folder = path.parent
        try:
            settings = json.loads(path.read_bytes())
            row = {"seed": settings["seed"], "settings_hash": settings_hash(settings)}
        except (ValueError, TypeError, KeyError):
            raise ValueError(f"{path} is damaged; restore it, or move {folder} away") from None
        row = {"run_id": folder.name, "sources_hash": sources_hash(folder)} | row
        row |= {"status": "finished"} if finished(folder) else {}
        found[folder.name] = {"status": "launched"} | found.get(folder.name, {}) | row
    names = ("run_id", "seed", "settings_hash", "sources_hash", "status")
    return [dict.fromkeys(names) | row for row in found.values()]


def read_run(folder: Path) -> Run | None:
    """What the run's log says; None where there is no log, or nothing in it yet."""
    try:
        return read_log(folder / "train.log")
    except (FileNotFoundError, ValueError):
        return None


def finished(folder: Path) -> Run | None:
    """The run, if its artifact is there and its log has the final score."""
    run = read_run(folder) if (folder / "artifact.pgz").is_file() else None
    return run if run and run.score else None


def in_use(folder: Path) -> bool:
    """Whether a process trains in this folder now."""
    try:
        with open(folder / ".lock", "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


# What to run --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """One run to be had: a seed at a point of the grid."""

    run_id: str
    seed: int
    point: str  # of the grid, as "MATRIX_LR=0.03"; empty without one
    given: dict[str, str]  # environment variables
    settings: dict  # what they resolve to


def environment() -> dict[str, str]:
    """The variables that a command started here would see."""
    shown = subprocess.run(["env", "-0"], capture_output=True, text=True, check=True).stdout
    return dict(line.split("=", 1) for line in shown.split("\0") if "=" in line)


def load_trainer(script: Path):
    """The script as a module, for its own reading of the settings.

    Raises: FileNotFoundError; ValueError for a script that is not this toolkit's.
    """
    if not script.is_file():
        raise FileNotFoundError(f"no script {script}; name a train_gpt.py with --script")
    spec = importlib.util.spec_from_file_location("trainer_of_seeds", script)
    trainer = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = trainer  # its dataclasses look their module up
    spec.loader.exec_module(trainer)
    if not hasattr(trainer, "settings_from_env"):
        raise ValueError(f"{script} has no settings_from_env; give this toolkit's, or a packed one")
    return trainer


def plan(name: str, seeds: list[int], grid: list[str], trainer) -> list[Job]:
    """One job for each seed at each point of the grid, its settings resolved by the trainer.

    Raises: ValueError for a setting that does not exist or has an unusable value.
    """
    import torch

    known = {field.name.upper() for field in fields(trainer.Hyperparameters)} | {"PRESET"}
    axes = []
    for axis in grid:
        variable, _, values = axis.partition("=")
        if variable not in known - {"RUN_ID", "RESUME", "SEED"} or not values:
            raise ValueError(f"--grid {axis} must be SETTING=VALUE,VALUE; see Hyperparameters")
        axes.append([(variable, value) for value in values.split(",")])
    environ, jobs = environment(), []
    if environ.get("RESUME"):
        raise ValueError("RESUME is set; unset it: what is to be resumed is found by --name")
    for point in itertools.product(*axes):
        label = "".join(f"_{variable.lower()}{value}" for variable, value in point)
        for seed in seeds:
            run_id = f"{name}{label}_seed{seed}"
            if not re.fullmatch(r"\w[\w.+-]*", run_id):
                raise ValueError(f"--name: run id {run_id!r} must be of letters, digits, _ . + -")
            given = {"RUN_ID": run_id, "SEED": str(seed), **dict(point)}
            hp, _, _ = trainer.settings_from_env({**environ, **given}, torch.cuda.is_available())
            shown = " ".join(f"{variable}={value}" for variable, value in point)
            jobs.append(Job(run_id, seed, shown, given, asdict(hp)))
    run_ids = [job.run_id for job in jobs]
    if twice := {run_id for run_id in run_ids if run_ids.count(run_id) > 1}:
        raise ValueError(f"{', '.join(sorted(twice))} stands there twice; give each value once")
    return jobs


def check_existing(jobs: list[Job], logs: Path, script: Path) -> None:
    """Refuse to mix: what exists under these run ids has the same settings and sources.

    Raises: ValueError naming the run, what differs, and the remedy.
    """
    remedy = "give another --name"
    for job in jobs:
        folder = logs / job.run_id
        if not (folder / "settings.json").is_file():
            continue
        saved = json.loads((folder / "settings.json").read_bytes())
        names = sorted((saved.keys() | job.settings.keys()) - NOT_COMPARED)
        other = [name for name in names if saved.get(name) != job.settings.get(name)]
        if other or saved["seed"] != job.seed:
            shown = [f"{n.upper()}={saved.get(n)}, not {job.settings.get(n)}" for n in other[:3]]
            what = "; ".join(shown or [f"SEED={saved['seed']}"])
            raise ValueError(f"{folder} was begun with {what}; set the same, or {remedy}")
        if sources_hash(folder) != sources_hash(script.parent):
            here = {n for n in SOURCES if (script.parent / n).is_file() and (folder / n).is_file()}
            differ = [
                n for n in here if (folder / n).read_bytes() != (script.parent / n).read_bytes()
            ]
            what = ", ".join(sorted(differ)) or "other files"
            raise ValueError(f"{folder} was begun with another {what}; restore it, or {remedy}")


def remove_unbegun(folder: Path) -> bool:
    """Whether there was a run that was killed before it wrote its settings; it can start again.

    Raises: ValueError where the folder holds anything that it would be a pity to lose.
    """
    if not folder.is_dir() or (folder / "settings.json").exists():
        return False
    known = {".lock", *SOURCES}
    files = [str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()]
    others = [name for name in files if not (name in known or name.endswith(".tmp"))]
    if others:
        raise ValueError(f"{folder} has {others[0]} but no settings.json; move it away")
    shutil.rmtree(folder)
    return True


def read_stop_rule(text: str) -> tuple[float, int]:
    """(bpb, step) of BPB@STEP. Raises: argparse.ArgumentTypeError for anything else."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)@(\d+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} must be BPB@STEP, as 1.30@2000")
    return float(found[1]), int(found[2])


def hopeless(run: Run | None, rules: list[tuple[float, int]]) -> str:
    """Why the run is not worth going on with, by its validations; empty where it is."""
    for point in run.curve if run else []:
        for bpb, step in rules:
            if point["step"] >= step and point.get("val_bpb", 0) > bpb:
                return f"bpb {point['val_bpb']:.4f} at step {point['step']} is above {bpb}"
    return ""


# Engines ------------------------------------------------------------------------------------------


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
        self.job, self.job_id, self.cancelled = job, str(job.job_id), False

    def done(self) -> bool:
        return self.job.done(force_check=self.cancelled)  # such a job leaves no result to see

    def stop(self) -> None:
        self.job.cancel(check=False)
        self.cancelled = True

    kill = stop


def slurm(
    logs: Path, nproc: int, words: list[str]
) -> Callable[[list[str], str, str | None], SlurmJob]:
    """A function that submits a command under a name, or finds the job that was submitted before.

    Raises: ImportError with the install command; ValueError for parameters of another form.
    """
    try:
        import submitit
    except ImportError as error:
        raise ImportError("--engine slurm needs submitit: pip install submitit") from error
    parameters = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"--slurm {word} must be NAME=VALUE, as slurm_partition=gpu")
        parameters[name] = int(value) if value.isdigit() else value
    folder = logs / "slurm"
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm")
    defaults = {"timeout_min": 60, "nodes": 1, "tasks_per_node": 1, "gpus_per_node": nproc}
    # At the end of its time a job gets the signal on which train_gpt.py saves, not submitit's own.
    defaults["slurm_additional_parameters"] = {"signal": f"TERM@{GRACE_SECONDS:.0f}"}

    def submit(command: list[str], name: str, job_id: str | None) -> SlurmJob:
        if job_id and not (earlier := submitit.SlurmJob(folder=folder, job_id=job_id)).done(True):
            return SlurmJob(earlier)
        executor.update_parameters(**{**defaults, **parameters, "name": name})
        return SlurmJob(executor.submit(submitit.helpers.CommandFunction(command)))

    return submit


# Running ------------------------------------------------------------------------------------------


class Runner:
    """Starts the jobs that are missing, watches over them, and enters what became of each."""

    def __init__(self, args: argparse.Namespace, logs: Path, say: Callable[[str], None]):
        self.args, self.logs, self.say, self.signals = args, logs, say, []
        self.engine = slurm(logs, args.nproc, args.slurm) if args.engine == "slurm" else None
        self.began = time.monotonic()
        self.sources = sources_hash(args.script.parent)
        self.status: dict[str, str] = {}  # run_id -> how it ended, with the reason
        hours = [args.max_hours or math.inf]
        hours += [args.max_spend / args.price_per_hour] if args.max_spend else []
        self.cap_seconds = 3600 * min(hours)
        shown = [f"{args.max_hours:g} h"] if args.max_hours else []
        shown += (
            [f"{args.max_spend:g} at {args.price_per_hour:g} an hour"] if args.max_spend else []
        )
        self.cap_reason = f"the cap of {' or '.join(shown)} is reached"

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def stop_reason(self) -> str:
        """Why everything has to end now; empty where it has not."""
        if self.signals:
            return f"{signal.Signals(self.signals[0]).name} received"
        return self.cap_reason if self.seconds() >= self.cap_seconds else ""

    def command(self, job: Job, resume: bool) -> list[str]:
        """The command line of a run, its environment in front."""
        given = {**job.given, **({"RESUME": job.run_id} if resume else {})}
        ranks = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={self.args.nproc}",
        ]
        python = [sys.executable, *(ranks if self.args.nproc > 1 else []), str(self.args.script)]
        return ["env", *(f"{name}={value}" for name, value in given.items()), *python]

    def row(self, job: Job, status: str, **more) -> dict:
        """A line of the registry."""
        row = {"run_id": job.run_id, "seed": job.seed, "settings_hash": settings_hash(job.settings)}
        row |= {"sources_hash": self.sources, "engine": self.args.engine, "status": status}
        return row | more

    def start(self, job: Job) -> LocalProcess | SlurmJob:
        """Enter the launch in the registry, and make it."""
        folder = self.logs / job.run_id
        if remove_unbegun(folder):
            register(self.logs, self.row(job, "failed", began=False))
        resume = (folder / "settings.json").is_file()
        command = self.command(job, resume)
        if not self.engine:
            self.say(f"{'resume' if resume else 'launch'} {job.run_id}")
            register(self.logs, self.row(job, "launched", resumed=resume))
            return LocalProcess(command, STDERR if self.args.json else None)
        earlier = [row for row in read_registry(self.logs) if row["run_id"] == job.run_id][-1:]
        earlier = [row.get("job") for row in earlier if row.get("status") == "launched"]
        handle = self.engine(command, job.run_id, earlier[0] if earlier else None)
        if handle.job_id not in earlier:
            register(self.logs, self.row(job, "launched", resumed=resume) | {"job": handle.job_id})
        verb = "wait for" if handle.job_id in earlier else "submit"
        self.say(f"{verb} {job.run_id}, job {handle.job_id}")
        return handle

    def settle(self, job: Job, reason: str) -> None:
        """Enter how a run ended; pack the checkpoint of one that a cap stopped."""
        folder = self.logs / job.run_id
        began, last = (folder / "settings.json").is_file(), ""
        if run := read_run(folder):
            last = [line for line in run.path.read_text(errors="replace").splitlines() if line][-1]
        status = "stopped" if reason or last.startswith("stopped step:") else "failed"
        if finished(folder):
            status, reason = "finished", ""
            (folder / "stopped.pgz").unlink(missing_ok=True)
        register(self.logs, self.row(job, status, reason=reason, began=began))
        self.status[job.run_id] = f"{status}: {reason}" if reason else status
        self.say(f"{job.run_id} {self.status[job.run_id]}")
        if status == "stopped" and reason == self.cap_reason:
            pack_stopped(folder)

    def train(self, jobs: list[Job]) -> str:
        """Run the jobs, one after another on this machine; returns why it ended early, or ""."""
        waiting, running, why = list(jobs), {}, ""
        at_once = len(jobs) if self.engine else 1
        while running or (waiting and not why):
            why = why or self.stop_reason()
            if waiting and not why and len(running) < at_once:
                if sources_hash(self.args.script.parent) != self.sources:
                    why = f"the sources beside {self.args.script} changed meanwhile"
                    continue
                job = waiting.pop(0)
                running[job] = [self.start(job), "", math.inf]  # handle, reason, end of patience
                continue
            time.sleep(POLL_SECONDS[self.args.engine])
            for job, state in list(running.items()):
                handle, asked, patience = state
                if handle.done():
                    del running[job]
                    self.settle(job, asked)
                    if self.status[job.run_id] == "failed" and not self.begun(job):
                        why = why or f"{job.run_id} did not begin, as said above"
                elif time.monotonic() > patience or (asked and len(self.signals) > 1):
                    handle.kill()
                elif not asked:
                    run = read_run(self.logs / job.run_id) if self.args.stop_above else None
                    if reason := why or hopeless(run, self.args.stop_above):
                        handle.stop()
                        state[1:] = reason, time.monotonic() + GRACE_SECONDS
                        self.say(f"{reason}; {job.run_id} is told to save and end")
        return why

    def begun(self, job: Job) -> bool:
        return (self.logs / job.run_id / "settings.json").is_file()


def pack_stopped(folder: Path) -> None:
    """Afterwards stopped.pgz holds the checkpoint's weights, if there is one that can be packed."""
    import quantize

    if (folder / "checkpoint.pt").is_file():
        with contextlib.redirect_stdout(sys.stderr):
            quantize.main([str(folder / "checkpoint.pt"), "--out", str(folder / "stopped.pgz")])


# Report -------------------------------------------------------------------------------------------


def results(jobs: list[Job], logs: Path, status: dict[str, str]) -> list[dict]:
    """A row for each run: what its log says, and how it ended."""
    rows, known = [], {row["run_id"]: row["status"] for row in read_registry(logs)}
    for job in jobs:
        folder = logs / job.run_id
        run = finished(folder)
        state = "finished" if run else status.get(job.run_id, known.get(job.run_id, "not begun"))
        row = {"run_id": job.run_id, "seed": job.seed, "point": job.point, "status": state}
        rows.append(row | {"val_bpb": run and run.score.val_bpb})
        rows[-1] |= {"is_partial": run and run.score.is_partial}
        rows[-1] |= {"total_bytes": run and run.total_bytes, "steps": run and run.steps}
        rows[-1] |= {"train_time_ms": run and run.train_time_ms}
        rows[-1] |= {"eval_time_ms": run and run.eval_time_ms}
        if run and (run.total_bytes or 0) > 16_000_000:
            rows[-1]["status"] = f"over the cap by {run.total_bytes - 16_000_000:,}"
    return rows


def summaries(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation (n - 1) of the finished runs of each point, and how many."""
    found = []
    for point in dict.fromkeys(row["point"] for row in rows):
        ours = [row for row in rows if row["point"] == point]
        bpbs = [row["val_bpb"] for row in ours if row["val_bpb"] is not None]
        mean = statistics.fmean(bpbs) if bpbs else None
        std = statistics.stdev(bpbs) if len(bpbs) > 1 else None
        counts = {"finished": len(bpbs), "wanted": len(ours)}
        found.append({"point": point, "mean_bpb": mean, "std_bpb": std, **counts})
    return found


def format_table(rows: list[dict], points: list[dict]) -> str:
    """The rows as a table, then a line for each point of the grid."""

    def cells(row: dict) -> list[str]:
        def shown(name: str, form: str, scale: float = 1) -> str:
            return "-" if row[name] is None else format(row[name] / scale, form)

        return [
            *(row["run_id"], str(row["seed"]), shown("val_bpb", ".6f")),
            *(shown("total_bytes", ",.0f"), shown("steps", ",.0f")),
            *(shown("train_time_ms", ".1f", 1000), shown("eval_time_ms", ".1f", 1000)),
        ]

    head = ["run", "seed", "bpb", "bytes", "steps", "train s", "score s"]
    table = [head, *map(cells, rows)]
    widths = [max(len(line[i]) for line in table) for i in range(len(head))]
    lines = []
    for line, state in zip(table, ["status", *(row["status"] for row in rows)], strict=True):
        first, *others = (
            text.ljust(w) if i == 0 else text.rjust(w)
            for i, (text, w) in enumerate(zip(line, widths, strict=True))
        )
        lines.append("  ".join([first, *others, state]))
    for point in points:
        name = point["point"] or "all seeds"
        count = f"n = {point['finished']} of {point['wanted']}"
        mean = "-" if point["mean_bpb"] is None else f"{point['mean_bpb']:.6f}"
        std = "-" if point["std_bpb"] is None else f"{point['std_bpb']:.6f}"
        lines.append(f"{name}: mean bpb {mean}  standard deviation {std}  {count}")
    if any(row["is_partial"] for row in rows):
        lines.append("bpb is of a part of the validation split, or of another text")
    return "\n".join(lines)


# Command ------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments. Raises: ValueError for some that do not go together."""
    parser = argparse.ArgumentParser(
        prog="tools.runs.seeds",
        description=__doc__.splitlines()[0],
        epilog=RECIPES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    which = parser.add_mutually_exclusive_group()
    which.add_argument("-n", type=int, default=3, help="how many seeds, default 3")
    which.add_argument("--seeds", type=int, nargs="+", help="these seeds")
    add("--name", default="run", help="run ids are NAME_seedN; default run")
    add("--grid", nargs="+", default=[], metavar="SETTING=V,V", help="every combination of values")
    add("--nproc", type=int, default=1, help="GPUs, or processes, of a run")
    add("--max-hours", type=float, help="stop after so long, counted from now")
    add("--price-per-hour", type=float, help="what the machine costs")
    add("--max-spend", type=float, help="stop when this command has cost so much")
    add(
        "--stop-above",
        type=read_stop_rule,
        nargs="+",
        default=[],
        metavar="BPB@STEP",
        help="stop a run whose validation at or after STEP is above BPB",
    )
    add("--engine", choices=("local", "slurm"), default="local", help="slurm needs submitit")
    add("--slurm", nargs="+", default=[], metavar="NAME=VALUE", help="submitit's parameters")
    add("--script", type=Path, default=SCRIPT, help="another train_gpt.py, as a record's")
    add("--json", action="store_true", help="print one JSON object; all else goes to stderr")
    args = parser.parse_args(argv)
    args.script = args.script.resolve()
    if not args.seeds:
        if not 1 <= args.n <= len(USUAL_SEEDS):
            raise ValueError(f"-n {args.n} must be 1 to {len(USUAL_SEEDS)}; else name --seeds")
        args.seeds = list(USUAL_SEEDS[: args.n])
    if not 1 <= args.nproc <= 8:
        raise ValueError(f"--nproc {args.nproc} must be between 1 and 8")
    for name in ("max_hours", "price_per_hour", "max_spend"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be positive")
    if args.max_spend and not args.price_per_hour:
        raise ValueError("--max-spend needs --price-per-hour")
    if args.slurm and args.engine != "slurm":
        raise ValueError("--slurm needs --engine slurm")
    return args


def run_all(args: argparse.Namespace, say: Callable[[str], None]) -> tuple[dict, str]:
    """Train what is missing; returns the report as an object and as text."""
    logs = Path("logs")
    jobs = plan(args.name, args.seeds, args.grid, load_trainer(args.script))
    check_existing(jobs, logs, args.script)
    blind = [job.run_id for job in jobs if not job.settings.get("val_loss_every")]
    if args.stop_above and blind:
        raise ValueError(f"--stop-above needs validations: {blind[0]} has VAL_LOSS_EVERY=0")
    runner, todo = Runner(args, logs, say), []
    for job in jobs:
        folder = logs / job.run_id
        reason = hopeless(read_run(folder), args.stop_above)
        if finished(folder) or in_use(folder) or reason:
            state = "finished" if finished(folder) else f"stopped: {reason}"
            state = "running elsewhere" if in_use(folder) else state
            runner.status[job.run_id] = state
            say(f"skip {job.run_id}: {state}")
        else:
            todo.append(job)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [
        signal.signal(n, lambda number, frame: runner.signals.append(number)) for n in numbers
    ]
    try:
        why = runner.train(todo)
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    rows = results(jobs, logs, runner.status)
    points, hours = summaries(rows), runner.seconds() / 3600
    spent = hours * args.price_per_hour if args.price_per_hour else None
    text = format_table(rows, points)
    text += f"\nthis command: {hours:.2f} h" + (f", {spent:.2f} spent" if spent else "")
    if any(row["status"] != "finished" for row in rows) and why:
        text += f"\nended early: {why}; the same command goes on from here"
    report = {"runs": rows, "points": points, "ended_early": why, "hours": hours, "spent": spent}
    return report, text


def main(argv: list[str] | None = None) -> int:
    try:
        args = parse(argv)
        say_to = sys.stderr if args.json else sys.stdout
        report, text = run_all(args, lambda line: print(f"seeds: {line}", file=say_to, flush=True))
    except (ValueError, OSError, ImportError) as error:
        print(f"tools.runs.seeds: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report) if args.json else text)
    return int(any(row["status"] != "finished" for row in report["runs"]))


if __name__ == "__main__":
    sys.exit(main())
