"""A build as a datatrove pipeline: tasks on the cores of one machine, or on a SLURM cluster.

    python3 golf.py --with datatrove data.pipeline SOURCE --tokenizer T --out DIR \\
        --val-documents N --tasks 16 [--on slurm --partition P]

It gives the files of `data build` with the same options, to the byte. Three stages, each a callable
that datatrove runs as task `rank` of `world_size`:

    CountDocuments   how many documents are in each of my files      .DIR.partial/counts/
    BuildRange       my range of all documents, as one part          .DIR.partial/part_*/
    MergeParts       the parts as one data set (one task)            DIR

Documents 0..100 on four tasks are the ranges 0..25, 25..50, 50..75 and 75.. to the end. A task that
was killed goes on from its last finished shard when the same command is given again; finished tasks
are skipped. A file is only opened by the tasks whose ranges lie in it, but one that holds several
ranges is read up to each of them, so give a large source as many files.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from data import build, merge, parts, sources
from data.build_tokenizer import prepare_tokenizer
from data.documents import Request
from data.files import write_atomic
from data.hub_sets import HUB_SETS
from data.workers import end_with_parent

ROOT = Path(__file__).resolve().parents[1]
COUNTS = "counts"
PLAN = "pipeline.json"


# Stages -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CountDocuments:
    """Count the documents of every world_size-th file, without parsing them."""

    source: str
    work: str
    request: Request

    def __call__(self, data, rank: int = 0, world_size: int = 1) -> None:
        folder = Path(self.work) / COUNTS
        folder.mkdir(parents=True, exist_ok=True)
        files = sources.list_files(Path(self.source))
        for number in range(rank, len(files), world_size):
            path = folder / f"{number:06d}.json"
            if path.exists():
                continue
            blocks = sources.read(
                str(files[number]), field=self.request.field, separator=self.request.separator
            )
            documents = sum(block.count for block in blocks)
            write_atomic(path, json.dumps({"file": str(files[number]), "documents": documents}))


@dataclass(frozen=True)
class BuildRange:
    """Build one range of the documents, as a part that a merge joins."""

    source: str
    work: str
    request: Request
    about: dict

    def __call__(self, data, rank: int = 0, world_size: int = 1) -> None:
        work = Path(self.work)
        counts = read_counts(work)
        start, stop = range_of(rank, world_size, sum(counts.values()))
        if start == stop:
            return  # more tasks than documents
        parts.build_part(
            self.source,
            work / f"part_{start:012d}",
            self.request,
            start=start,
            stop=stop,
            about=self.about,
            documents_of_file=counts,
        )


@dataclass(frozen=True)
class MergeParts:
    """Join the parts; overlap of the splits is looked for across all of them."""

    work: str
    out: str

    def __call__(self, data, rank: int = 0, world_size: int = 1) -> None:
        if Path(self.work).exists():  # else an earlier try has merged them
            merge.merge_parts(Path(self.work), Path(self.out))


def read_counts(work: Path) -> dict[str, int]:
    """Return how many documents each file has, in reading order."""
    entries = [json.loads(path.read_text()) for path in sorted((work / COUNTS).glob("*.json"))]
    return {entry["file"]: entry["documents"] for entry in entries}


def range_of(rank: int, world_size: int, documents: int) -> tuple[int, int | None]:
    """Return start and stop of a task's range; the last one is open, so that a merge sees the end.

    Example: 10 documents on 4 tasks -> 0..2, 2..5, 5..7, 7..
    """
    start = documents * rank // world_size
    if rank == world_size - 1:
        return start, None
    return start, documents * (rank + 1) // world_size


# Running them -------------------------------------------------------------------------------------

LOOK_SECONDS = 1.0  # between two looks at whether a task was killed


def run_task(stage: Callable, name: str, work: Path, tasks: int, rank: int) -> None:
    """Run one task of a stage in this process, under datatrove's own book-keeping.

    datatrove starts a helper process, which a killed task would leave behind. So the task leads a
    group of its own, which is ended as a whole: by the launcher, or here when that one is gone.
    """
    from datatrove.executor import LocalPipelineExecutor

    os.setsid()
    end_with_parent(os.getppid(), lambda: os.killpg(0, signal.SIGKILL))
    LocalPipelineExecutor(
        pipeline=[stage],
        tasks=tasks,
        workers=1,
        local_tasks=1,
        local_rank_offset=rank,
        logging_dir=str(work / "tasks" / name),
    ).run()


def run_local(stage: Callable, name: str, work: Path, tasks: int, workers: int) -> None:
    """Run all tasks of a stage, each in a process of its own, so many at a time.

    datatrove's pool waits for ever for a task whose process was killed. Here its exit is seen,
    though the helper of a killed task lives on and keeps its sentinel open: so it is looked at too.

    Raises: OSError naming the tasks that did not finish.
    """
    context = multiprocessing.get_context("spawn")
    waiting = list(range(tasks))
    running: dict[int, multiprocessing.Process] = {}
    failed: dict[int, int] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            rank = waiting.pop(0)
            running[rank] = context.Process(target=run_task, args=(stage, name, work, tasks, rank))
            running[rank].start()
        sentinels = [process.sentinel for process in running.values()]
        multiprocessing.connection.wait(sentinels, timeout=LOOK_SECONDS)
        for rank, process in list(running.items()):
            if process.exitcode is not None:
                del running[rank]
                if process.exitcode:
                    failed[rank] = process.exitcode
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)
    if failed:
        exits = ", ".join(f"task {rank} (exit {code})" for rank, code in sorted(failed.items()))
        remedy = "give the same command again: what is finished is kept"
        raise OSError(f"{name}: {exits} of {tasks} did not finish, see {work / 'tasks'}; {remedy}")


def submit(stages: dict[str, Callable], args: argparse.Namespace, work: Path) -> str:
    """Submit all stages to SLURM, each after the one before; return the last job's number."""
    from datatrove.executor import SlurmPipelineExecutor

    before = None
    for name, stage in stages.items():
        # The merge removes the work folder, so its log lies beside.
        logs = work.with_name(f"{work.name}_merge") if name == "merge" else work / "tasks" / name
        before = SlurmPipelineExecutor(
            pipeline=[stage],
            tasks=1 if name == "merge" else args.tasks,
            time=args.time,
            partition=args.partition,
            cpus_per_task=1,
            mem_per_cpu_gb=args.memory_gb,
            qos="",
            job_name=f"data_{name}",
            logging_dir=str(logs),
            depends=before,
            env_command=f"export PYTHONPATH={ROOT} PATH={Path(sys.executable).parent}:$PATH",
        )
    before.run()
    return str(before.job_id)


# Command line -------------------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    build.add_arguments(parser)
    add = parser.add_argument
    add("--tasks", type=int, default=2, help="ranges to build (%(default)s)")
    add("--on", choices=("local", "slurm"), default="local", help="where (%(default)s)")
    add("--partition", default="main", help="of SLURM (%(default)s)")
    add("--time", default="24:00:00", help="a task may take, on SLURM (%(default)s)")
    add("--memory-gb", type=int, default=2, help="of a task, on SLURM (%(default)s)")


def make_stages(args: argparse.Namespace) -> tuple[dict[str, Callable], Path]:
    """Prepare tokenizer and work folder; return the stages by name, and the work folder."""
    if args.range or args.merge:
        raise ValueError(
            "a pipeline makes and merges its ranges itself; leave --range, --merge out"
        )
    if args.source in HUB_SETS:
        raise ValueError(f"{args.source} is streamed: download its files, and name their folder")
    if args.tasks < 1:
        raise ValueError(f"--tasks {args.tasks} must be at least 1")
    out = args.out.resolve()
    if out.exists():
        raise FileExistsError(f"{out} exists; remove it, or name another --out")
    corpus = build.check_arguments(args)
    if corpus.split != "first":
        raise ValueError(f"--corpus {args.corpus} has its own order; use data build")
    work = out.with_name(f".{out.name}.partial")
    work.mkdir(parents=True, exist_ok=True)
    source = str(Path(args.source).resolve())
    about = sources.describe(source)
    if args.corpus != "documents":
        about |= {"corpus": args.corpus}
    tokenizer = prepare_tokenizer(args, work, about)
    request = build.make_request(args, corpus, tokenizer, args.name or out.name)
    plan = {"tasks": args.tasks, "request": asdict(request), "source": about}
    plan_path = work / PLAN
    if plan_path.exists() and json.loads(plan_path.read_text()) != json.loads(json.dumps(plan)):
        message = f"{work} holds an unfinished pipeline with other options"
        raise ValueError(f"{message}; finish it with its own command, or remove that folder")
    write_atomic(plan_path, json.dumps(plan))
    stages: dict[str, Callable] = {
        "count": CountDocuments(source, str(work), request),
        "build": BuildRange(source, str(work), request, about),
        "merge": MergeParts(str(work), str(out)),
    }
    return stages, work


def main(argv: list[str] | None = None) -> int:
    summary = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="data.pipeline", description=summary)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        import datatrove  # noqa: F401  before any work is done
    except ImportError:
        print("data.pipeline needs datatrove: pip install datatrove", file=sys.stderr)
        return 1
    try:
        stages, work = make_stages(args)
        if args.on == "slurm":
            print(f"submitted; {args.out} appears when job {submit(stages, args, work)} has ended")
            return 0
        workers = min(args.tasks, args.workers)
        for name in ("count", "build"):
            run_local(stages[name], name, work, args.tasks, workers)
        build.finish(work, args.out.resolve())
    except (ValueError, OSError, ImportError) as error:
        print(f"data.pipeline: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # The stages are pickled for SLURM as classes of this module: a job has another __main__.
    from data.pipeline import main as main_of_module

    sys.exit(main_of_module())
