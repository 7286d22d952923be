"""Train several seeds, or a small grid, and report mean and spread: never the best alone.

    python3 golf.py seeds -n 3 [--name NAME] [--gpus N] [--grid MATRIX_LR=0.03,0.04 ...]
    MATRIX_LR=0.03 python3 golf.py seeds --seeds 1337 42 7 --name lower
    python3 golf.py seeds -n 3 --max-hours 2 --price-per-hour 21.5 --max-spend 30

Settings are environment variables, as for training; SEED and RUN_ID (NAME_seedN) are set here. The
same command again does what is missing: it skips what is finished, resumes what was stopped or
killed, and refuses a NAME whose runs had other settings or sources. Every launch is entered in
logs/registry.jsonl before it starts, and stays there.

Ctrl-C, a cap or --stop-above sends SIGTERM: the trainer ends its step and writes a checkpoint. Of a
run that a cap stopped, the checkpoint is also packed, to stopped.pgz, which can be scored.

Exit status 0: all runs are finished and under the size cap, 1: not all, 2: nothing could be done.
"""

import argparse
import contextlib
import itertools
import json
import math
import re
import shutil
import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import golf
from tools.runs import launchers, ray_sweep
from tools.runs.launchers import SIGNALS, LocalProcess, SlurmJob
from tools.runs.live import format_seconds
from tools.runs.logs import Run
from tools.runs.registry import (
    NOT_COMPARED,
    finished,
    hash_sources,
    in_use,
    read_registry,
    read_run,
    register,
    settings_hash,
    sources_hash,
)
from tools.runs.resolve import Code, python_path, resolve

CAP_BYTES = 16_000_000
USUAL_SEEDS = (1337, 42, 7, 2025, 314, 1234, 0, 1, 2, 3)  # of the field
POLL_SECONDS = {"local": 0.2, "slurm": 5.0}
STDERR = 2  # file number

ELSEWHERE = """\
SLURM: one job a run, all at once; --slurm takes submitit's parameters.
    python3 golf.py seeds -n 3 --gpus 8 --on slurm \\
        --slurm slurm_partition=gpu timeout_min=60 cpus_per_task=64

Ray: as many at once as the cluster has room for; its machines have to share logs/. ASHA ends
the weaker half at step 500, 1000, 2000 and so on.
    python3 golf.py seeds -n 2 --grid MATRIX_LR=0.02,0.03,0.04 --on ray --asha 500

docs/scale.md tells what of this was really run.
"""


# What to run --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Job:
    """One run to be had: a seed at a point of the grid."""

    run_id: str
    seed: int
    point: str  # of the grid, as "MATRIX_LR=0.03"; empty without one
    variables: dict[str, str]  # of the environment, that this run adds
    settings: dict  # that they resolve to


def read_grid(axes: list[str]) -> list[list[tuple[str, str]]]:
    """The values of each axis: ["MATRIX_LR=0.03,0.04"] is [[("MATRIX_LR", "0.03"), (…)]].

    Raises: ValueError for an axis of another form, or of a setting that is set here.
    """
    grid = []
    for axis in axes:
        variable, _, values = axis.partition("=")
        if variable in ("", "RUN_ID", "RESUME", "SEED") or not values:
            raise ValueError(f"--grid {axis} must be SETTING=VALUE,VALUE")
        grid.append([(variable, value) for value in values.split(",")])
    return grid


def plan(
    name: str, seeds: list[int], axes: list[str], module: str, script: Path | None = None
) -> tuple[list[Job], Code]:
    """One job for each seed at each point of the grid, its settings resolved by the recipe.

    Raises: ValueError for a setting that does not exist or has an unusable value.
    """
    grid = read_grid(axes)
    environ = golf.child_environment()
    if environ.get("RESUME"):
        raise ValueError("RESUME is set; unset it: --name tells which runs are resumed")
    points = []  # of each run
    choices = []  # the variables of each run
    for point in itertools.product(*grid):
        label = "".join(f"_{variable.lower()}{value}" for variable, value in point)
        for seed in seeds:
            run_id = f"{name}{label}_seed{seed}"
            # It becomes a folder: "../x" would leave logs/, and "-x" would be an option of others.
            if not re.fullmatch(r"\w[\w.+-]*", run_id):
                raise ValueError(f"--name: run id {run_id!r} must be of letters, digits, _ . + -")
            points.append(" ".join(f"{variable}={value}" for variable, value in point))
            choices.append({"RUN_ID": run_id, "SEED": str(seed), **dict(point)})
    run_ids = [variables["RUN_ID"] for variables in choices]
    # A value typed twice would train the same run twice, into one folder.
    repeated = {run_id for run_id in run_ids if run_ids.count(run_id) > 1}
    if repeated:
        raise ValueError(f"{', '.join(sorted(repeated))} stands there twice; give each value once")

    # All in one question: each start of the recipe's process takes seconds.
    environs = [{**environ, **variables} for variables in choices]
    code, settings = resolve(module, script, environs)
    for (variable, _), *_ in grid:
        if variable != "PRESET" and variable.lower() not in settings[0]:
            raise ValueError(f"--grid {variable}: {module or script} has no such setting")
    jobs = []
    for point, variables, resolved in zip(points, choices, settings, strict=True):
        jobs.append(Job(variables["RUN_ID"], resolved["seed"], point, variables, resolved))
    return jobs, code


def check_existing(jobs: list[Job], logs: Path, code: Code) -> None:
    """Refuse to mix: what exists under these run ids has the same settings and sources.

    Raises: ValueError naming the run, what differs, and the remedy.
    """
    for job in jobs:
        folder = logs / job.run_id
        if (folder / "settings.json").is_file():
            refuse_other_settings(job, folder)
            refuse_other_sources(folder, code)


def refuse_other_settings(job: Job, folder: Path) -> None:
    """Raises: ValueError where the run in the folder was begun with other settings."""
    saved = json.loads((folder / "settings.json").read_bytes())
    differences = []
    for name in sorted((saved.keys() | job.settings.keys()) - NOT_COMPARED):
        if saved.get(name) != job.settings.get(name):
            differences.append(f"{name.upper()}={saved.get(name)}, not {job.settings.get(name)}")
    if not differences and saved["seed"] != job.seed:
        differences.append(f"SEED={saved['seed']}")
    if differences:
        begun_with = "; ".join(differences[:3])
        raise ValueError(
            f"{folder} was begun with {begun_with}; set the same, or give another --name"
        )


def refuse_other_sources(folder: Path, code: Code) -> None:
    """Raises: ValueError where the run in the folder was begun by other sources."""
    sources = code.read()
    if sources_hash(folder) == hash_sources(sources):
        return
    differing = []
    for name, source in sources.items():
        if (folder / name).is_file() and (folder / name).read_bytes() != source:
            differing.append(name)
    other = ", ".join(differing) or "other files"
    raise ValueError(f"{folder} was begun with another {other}; restore it, or give another --name")


def remove_unbegun(folder: Path, code: Code) -> bool:
    """Remove a run that was killed before it wrote its settings; returns whether there was one.

    Raises: ValueError where the folder holds anything that it would be a pity to lose.
    """
    if not folder.is_dir() or (folder / "settings.json").exists():
        return False
    harmless = {folder / name for name in (".lock", *code.files)}
    for path in folder.rglob("*"):
        if path not in harmless and path.suffix != ".tmp" and not path.is_dir():
            raise ValueError(f"{folder} has {path.name} but no settings.json; move it away")
    shutil.rmtree(folder)
    return True


@dataclass(frozen=True)
class StopRule:
    """A run whose validation at or after a step is above a score is not worth its time."""

    bpb: float
    step: int


def read_stop_rule(text: str) -> StopRule:
    """1.30@2000 is bpb 1.30 at step 2000. Raises: argparse.ArgumentTypeError for other texts."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)@(\d+)", text)
    if not parts:
        raise argparse.ArgumentTypeError(f"{text!r} must be BPB@STEP, as 1.30@2000")
    return StopRule(float(parts[1]), int(parts[2]))


def hopeless(run: Run | None, rules: list[StopRule]) -> str:
    """The reason why the run is not worth going on with; empty where it is."""
    if run is None:
        return ""
    for point in run.curve:
        for rule in rules:
            if point["step"] >= rule.step and point.get("val_bpb", 0) > rule.bpb:
                return f"bpb {point['val_bpb']:.4f} at step {point['step']} is above {rule.bpb}"
    return ""


# Running ------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A job that was started."""

    handle: LocalProcess | SlurmJob
    stop_reason: str = ""  # for which it was told to save and end
    kill_time: float = math.inf  # by time.monotonic(): it is not waited for any longer


class Runner:
    """Starts the jobs that are missing, watches over them, and enters what became of each."""

    def __init__(
        self, args: argparse.Namespace, code: Code, logs: Path, say: Callable[[str], None]
    ):
        self.args = args
        self.code = code
        self.logs = logs
        self.say = say
        self.signals: list[int] = []  # received
        self.submit: launchers.SubmitFunction | None = None
        if args.engine == "slurm":
            self.submit = launchers.slurm(logs, args.gpus, args.slurm)
        self.began = time.monotonic()
        self.sources = hash_sources(code.read())
        self.status: dict[str, str] = {}  # run_id -> how it ended, with the reason
        # Money is time at a price, so there is one cap: the lower of both.
        caps = []  # in hours
        texts = []
        if args.max_hours:
            caps.append(args.max_hours)
            texts.append(f"{args.max_hours:g} h")
        if args.max_spend:
            caps.append(args.max_spend / args.price_per_hour)
            texts.append(f"{args.max_spend:g} at {args.price_per_hour:g} an hour")
        self.cap_seconds = 3600 * min(caps, default=math.inf)
        self.cap_reason = f"the cap of {' or '.join(texts)} is reached"

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def stop_reason(self) -> str:
        """The reason why everything has to end now; empty where there is none."""
        if self.signals:
            return f"{signal.Signals(self.signals[0]).name} received"
        return self.cap_reason if self.seconds() >= self.cap_seconds else ""

    def command(self, job: Job, resume: bool) -> list[str]:
        """The command line of a run, its environment in front."""
        variables = dict(job.variables)
        if resume:
            variables["RESUME"] = job.run_id
        variables["PYTHONPATH"] = python_path(self.code.module)
        pairs = [f"{name}={value}" for name, value in variables.items()]
        return ["env", *pairs, *self.code.command(self.args.gpus)]

    def row(self, job: Job, status: str, **more) -> dict:
        """A line of the registry."""
        return {
            "run_id": job.run_id,
            "seed": job.seed,
            "settings_hash": settings_hash(job.settings),
            "sources_hash": self.sources,
            "engine": self.args.engine,
            "status": status,
            **more,
        }

    def prepare(self, job: Job) -> tuple[list[str], bool]:
        """The command line of a run, and whether it goes on with one that was begun."""
        folder = self.logs / job.run_id
        if remove_unbegun(folder, self.code):
            register(self.logs, self.row(job, "failed", began=False))
        resume = (folder / "settings.json").is_file()
        return self.command(job, resume), resume

    def enter_launch(self, job: Job, resume: bool) -> None:
        """Enter in the registry that a run is about to start."""
        self.say(f"{'resume' if resume else 'launch'} {job.run_id}")
        register(self.logs, self.row(job, "launched", resumed=resume))

    def start(self, job: Job) -> LocalProcess | SlurmJob:
        """Enter the launch in the registry, and make it."""
        command, resume = self.prepare(job)
        if self.submit:
            return self.start_on_slurm(job, command, resume)
        self.enter_launch(job, resume)
        # With --json the object alone may stand on standard output.
        return LocalProcess(command, STDERR if self.args.json else None)

    def start_on_slurm(self, job: Job, command: list[str], resume: bool) -> SlurmJob:
        """Submit the job, or wait for the one that an earlier command submitted."""
        entries = [row for row in read_registry(self.logs) if row["run_id"] == job.run_id]
        # An earlier command may have been killed while its jobs went on.
        job_id = None
        if entries and entries[-1].get("status") == "launched":
            job_id = entries[-1].get("job")
        command = launchers.resuming(self.logs / job.run_id, command)
        handle = self.submit(command, job.run_id, job_id)
        if handle.job_id == job_id:
            self.say(f"wait for {job.run_id}, job {handle.job_id}")
        else:
            row = self.row(job, "launched", resumed=resume)
            register(self.logs, row | {"job": handle.job_id})
            self.say(f"submit {job.run_id}, job {handle.job_id}")
        return handle

    def settle(self, job: Job, stop_reason: str) -> None:
        """Enter how a run ended; pack the checkpoint of one that a cap stopped."""
        folder = self.logs / job.run_id
        began = (folder / "settings.json").is_file()
        reason = stop_reason
        if finished(folder):
            # It was told to stop, but was through with everything: a result is a result.
            status = "finished"
            reason = ""
            (folder / "stopped.pgz").unlink(missing_ok=True)
        # A run that somebody else told to stop, as the scheduler at the end of its time, says so.
        elif stop_reason or last_line(folder).startswith("stopped step:"):
            status = "stopped"
        else:
            status = "failed"
        register(self.logs, self.row(job, status, reason=reason, began=began))
        self.status[job.run_id] = f"{status}: {reason}" if reason else status
        self.say(f"{job.run_id} {self.status[job.run_id]}")
        # A cap means that nobody will pay for more: what there is, is packed. Ctrl-C means less.
        if status == "stopped" and reason == self.cap_reason:
            pack_stopped(folder)

    def train(self, jobs: list[Job]) -> str:
        """Run the jobs, one after another on this machine, all at once on a cluster.

        Returns the reason for which it ended early, or an empty text.
        """
        if self.args.engine == "ray":
            return ray_sweep.train(self, jobs)
        waiting = list(jobs)
        running: dict[Job, Running] = {}
        at_once = len(jobs) if self.submit else 1
        ending = ""  # once there is a reason, nothing more is started
        while running or (waiting and not ending):
            # The first reason stands: a cap that is reached while Ctrl-C is obeyed changes nothing.
            ending = ending or self.stop_reason()
            if waiting and not ending and len(running) < at_once:
                # A file saved between two seeds would make them two recipes under one name.
                if hash_sources(self.code.read()) != self.sources:
                    ending = f"the sources in {self.code.root} changed meanwhile"
                    continue
                job = waiting.pop(0)
                running[job] = Running(self.start(job))
                continue
            # A scheduler is asked less often: each question is a process of its own.
            time.sleep(POLL_SECONDS[self.args.engine])
            for job, state in list(running.items()):
                if state.handle.done():
                    del running[job]
                    self.settle(job, state.stop_reason)
                    if self.status[job.run_id] == "failed" and not self.begun(job):
                        # The next one would not begin either.
                        ending = ending or f"{job.run_id} did not begin, as said above"
                    elif waiting and not ending:
                        self.say_time_left(job, len(waiting))
                else:
                    self.watch_over(job, state, ending)
        return ending

    def watch_over(self, job: Job, state: Running, ending: str) -> None:
        """Tell a run to save and end where there is a reason; kill one that does not."""
        if state.stop_reason:
            asked_twice = len(self.signals) > 1
            if time.monotonic() > state.kill_time or asked_twice:
                state.handle.kill()
            return
        reason = ending
        if not reason and self.args.stop_above:
            reason = hopeless(read_run(self.logs / job.run_id), self.args.stop_above)
        if reason:
            # One signal is enough: the trainer saves at the end of its step, which may take long.
            state.handle.stop()
            state.stop_reason = reason
            state.kill_time = time.monotonic() + launchers.GRACE_SECONDS
            self.say(f"{reason}; {job.run_id} is told to save and end")

    def begun(self, job: Job) -> bool:
        return (self.logs / job.run_id / "settings.json").is_file()

    def say_time_left(self, job: Job, count: int) -> None:
        """Forecast the runs that wait by the one that has just finished."""
        run = finished(self.logs / job.run_id)
        if run and run.train_time_ms:
            seconds = count * (run.train_time_ms + (run.eval_time_ms or 0)) / 1000
            self.say(f"{count} more, about {format_seconds(seconds)} by the time of this one")


def last_line(folder: Path) -> str:
    """The last line of the run's log that is not empty."""
    run = read_run(folder)
    if run is None:
        return ""
    return [line for line in run.path.read_text(errors="replace").splitlines() if line][-1]


def pack_stopped(folder: Path) -> None:
    """Afterwards stopped.pgz holds the checkpoint's weights, if there is one that can be packed."""
    import quantize  # here, because torch takes seconds to load

    checkpoint = folder / "checkpoint.pt"
    if checkpoint.is_file():
        with contextlib.redirect_stdout(sys.stderr):
            quantize.main([str(checkpoint), "--out", str(folder / "stopped.pgz")])


# Report -------------------------------------------------------------------------------------------


def results(jobs: list[Job], logs: Path, status: dict[str, str]) -> list[dict]:
    """A row for each run: what its log says, and how it ended."""
    registered = {row["run_id"]: row["status"] for row in read_registry(logs)}
    rows = []
    for job in jobs:
        run = finished(logs / job.run_id)
        if run:
            state = "finished"
        else:
            state = status.get(job.run_id, registered.get(job.run_id, "not begun"))
        if run and (run.total_bytes or 0) > CAP_BYTES:
            state = f"over the cap by {run.total_bytes - CAP_BYTES:,}"
        rows.append(
            {
                "run_id": job.run_id,
                "seed": job.seed,
                "point": job.point,
                "status": state,
                "val_bpb": run and run.score.val_bpb,
                "is_partial": run and run.score.is_partial,
                "total_bytes": run and run.total_bytes,
                "steps": run and run.steps,
                "train_time_ms": run and run.train_time_ms,
                "eval_time_ms": run and run.eval_time_ms,
            }
        )
    return rows


def summaries(rows: list[dict]) -> list[dict]:
    """Mean and standard deviation (n - 1) of the finished runs of each point, and how many."""
    points = []
    for point in dict.fromkeys(row["point"] for row in rows):
        of_point = [row for row in rows if row["point"] == point]
        bpbs = [row["val_bpb"] for row in of_point if row["val_bpb"] is not None]
        points.append(
            {
                "point": point,
                "mean_bpb": statistics.fmean(bpbs) if bpbs else None,
                "std_bpb": statistics.stdev(bpbs) if len(bpbs) > 1 else None,
                "finished": len(bpbs),
                "wanted": len(of_point),
            }
        )
    return points


COLUMNS = {  # heading -> key of a row, format, divisor
    "bpb": ("val_bpb", ".6f", 1),
    "bytes": ("total_bytes", ",.0f", 1),
    "steps": ("steps", ",.0f", 1),
    "train s": ("train_time_ms", ".1f", 1000),
    "score s": ("eval_time_ms", ".1f", 1000),
}


def cells(row: dict) -> list[str]:
    """One row of the table, as texts."""
    texts = [row["run_id"], str(row["seed"])]
    for key, form, divisor in COLUMNS.values():
        texts.append("-" if row[key] is None else format(row[key] / divisor, form))
    return texts


def format_table(rows: list[dict], points: list[dict]) -> str:
    """The rows as a table, then a line for each point of the grid."""
    table = [["run", "seed", *COLUMNS], *map(cells, rows)]
    states = ["status", *(row["status"] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for texts, state in zip(table, states, strict=True):
        padded = [text.rjust(width) for text, width in zip(texts, widths, strict=True)]
        padded[0] = texts[0].ljust(widths[0])
        lines.append("  ".join([*padded, state]))
    for point in points:
        name = point["point"] or "all seeds"
        mean = "-" if point["mean_bpb"] is None else f"{point['mean_bpb']:.6f}"
        std = "-" if point["std_bpb"] is None else f"{point['std_bpb']:.6f}"
        count = f"n = {point['finished']} of {point['wanted']}"
        lines.append(f"{name}: mean bpb {mean}  standard deviation {std}  {count}")
    if any(row["is_partial"] for row in rows):
        lines.append("bpb is of a part of the validation split, or of another text")
    return "\n".join(lines)


# Command ------------------------------------------------------------------------------------------


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments. Raises: ValueError for some that do not go together."""
    parser = argparse.ArgumentParser(
        prog="golf.py seeds",
        description=__doc__.splitlines()[0],
        epilog=ELSEWHERE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    which_seeds = parser.add_mutually_exclusive_group()
    which_seeds.add_argument("-n", type=int, default=3, help="how many seeds, default 3")
    which_seeds.add_argument("--seeds", type=int, nargs="+", help="these seeds")
    add("--name", default="run", help="run ids are NAME_seedN; default run")
    add("--grid", nargs="+", default=[], metavar="SETTING=V,V", help="every combination of values")
    add("--gpus", "--nproc", type=int, default=1, help="GPUs, or processes, of a run")
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
    add("--on", "--engine", dest="engine", choices=("local", "slurm", "ray"), default="local")
    add("--asha", type=int, metavar="STEP", help="with Ray: the weaker half ends, first at STEP")
    add("--slurm", nargs="+", default=[], metavar="NAME=VALUE", help="submitit's parameters")
    add("--recipe", default="train_gpt", metavar="NAME", help="train_gpt, or one of baselines/")
    add("--script", type=Path, help="in place of a recipe: a train_gpt.py elsewhere, as a record's")
    add("--json", action="store_true", help="print one JSON object; all else goes to stderr")
    args = parser.parse_args(argv)
    if args.script:
        args.script = args.script.resolve()
    args.module = "" if args.script else golf.recipe_name(args.recipe)
    if not args.seeds:
        if not 1 <= args.n <= len(USUAL_SEEDS):
            raise ValueError(f"-n {args.n} must be 1 to {len(USUAL_SEEDS)}; else name --seeds")
        args.seeds = list(USUAL_SEEDS[: args.n])
    if not 1 <= args.gpus <= 8:
        raise ValueError(f"--gpus {args.gpus} must be between 1 and 8")
    for name in ("max_hours", "price_per_hour", "max_spend"):
        value = getattr(args, name)
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"--{name.replace('_', '-')} {value} must be positive")
    if args.max_spend and not args.price_per_hour:
        raise ValueError("--max-spend needs --price-per-hour")
    if args.asha is not None and (args.engine != "ray" or args.asha < 1):
        raise ValueError(f"--asha {args.asha} must be a step from 1, and needs --on ray")
    if args.slurm and args.engine != "slurm":
        raise ValueError("--slurm needs --on slurm")
    return args


def find_todo(jobs: list[Job], logs: Path, runner: Runner) -> list[Job]:
    """The jobs that are left to do; what became of the others is said, and kept by the runner."""
    todo = []
    for job in jobs:
        folder = logs / job.run_id
        reason = hopeless(read_run(folder), runner.args.stop_above)
        if runner.args.asha and not reason:
            reason = weaker_half(logs, job.run_id)
        # In use comes first: a run may be finished and still be scored again by somebody.
        if in_use(folder):
            state = "running elsewhere"
        elif finished(folder):
            state = "finished"
        elif reason:
            state = f"stopped: {reason}"
        else:
            todo.append(job)
            continue
        runner.status[job.run_id] = state
        runner.say(f"skip {job.run_id}: {state}")
    return todo


def weaker_half(logs: Path, run_id: str) -> str:
    """The reason for which ASHA ended the run in an earlier command; empty where it did not."""
    rows = [row for row in read_registry(logs) if row["run_id"] == run_id]
    reason = rows[-1].get("reason", "") if rows else ""
    return reason if reason.startswith("ASHA:") else ""


def expected_time(jobs: list[Job]) -> str:
    """How many runs there are to do, and how long each may train, as far as a cap tells."""
    count = "1 run" if len(jobs) == 1 else f"{len(jobs)} runs"
    cap = max(job.settings.get("max_wallclock_seconds", 0) for job in jobs)
    if not cap:
        return f"{count} to do"
    each = f"up to {format_seconds(cap)} of training, then scoring"
    return f"{count} to do: {each}" if len(jobs) == 1 else f"{count} to do: each {each}"


@contextlib.contextmanager
def collected_signals(signals: list[int]):
    """Signals that would end this process are appended to the list instead."""
    handlers = [signal.signal(number, lambda received, _: signals.append(received))
                for number in SIGNALS]  # fmt: skip
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, handlers, strict=True):
            signal.signal(number, handler)


def run_all(args: argparse.Namespace, say: Callable[[str], None]) -> tuple[dict, str]:
    """Train what is missing; returns the report as an object and as text."""
    logs = Path("logs")
    jobs, code = plan(args.name, args.seeds, args.grid, args.module, args.script)
    check_existing(jobs, logs, code)
    if args.stop_above or args.asha:
        for job in jobs:
            if not job.settings.get("val_loss_every"):
                option = "--stop-above" if args.stop_above else "--asha"
                raise ValueError(f"{option} needs validations: {job.run_id} has VAL_LOSS_EVERY=0")
    runner = Runner(args, code, logs, say)
    todo = find_todo(jobs, logs, runner)
    if todo:
        say(expected_time(todo))
    # From here a signal does not end this process: it tells the runs to save, and waits for them.
    with collected_signals(runner.signals):
        ended_early = runner.train(todo)
    rows = results(jobs, logs, runner.status)
    points = summaries(rows)
    hours = runner.seconds() / 3600
    spent = hours * args.price_per_hour if args.price_per_hour else None
    text = format_table(rows, points)
    text += f"\nthis command: {hours:.2f} h"
    if spent:
        text += f", {spent:.2f} spent"
    if ended_early and any(row["status"] != "finished" for row in rows):
        text += f"\nended early: {ended_early}; the same command goes on from here"
    report = {
        "runs": rows,
        "points": points,
        "ended_early": ended_early,
        "hours": hours,
        "spent": spent,
    }
    return report, text


def main(argv: list[str] | None = None) -> int:
    try:
        args = parse(argv)
        say_to = sys.stderr if args.json else sys.stdout
        report, text = run_all(args, lambda line: print(f"seeds: {line}", file=say_to, flush=True))
    except (ValueError, OSError, ImportError) as error:
        print(f"golf.py seeds: {error}", file=sys.stderr)
        return 2
    print(json.dumps(report) if args.json else text)
    all_finished = all(row["status"] == "finished" for row in report["runs"])
    if all_finished and not args.json:
        golf.say_next("audit", f"logs/{report['runs'][0]['run_id']}")
    return 0 if all_finished else 1


if __name__ == "__main__":
    sys.exit(main())
