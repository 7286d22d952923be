"""logs/<run_id>/: all that a run leaves, and the only place it writes to.

train.log         lines of engine.log_lines, and what the machine said of itself
metrics.jsonl     one object a logged step
settings.json     every setting, the preset and the recipe's name; written last of the start,
                  so a folder that has it can be resumed
*.py, engine/...  the sources as they ran
checkpoint.pt     everything needed to go on (engine.trainer.Trainer.state)
artifact.pgz      the model as packed (quantize.py)

Of several nodes, the one of rank 0 has all of it. The others get the artifact alone, which every
rank scores.
"""

import dataclasses
import fcntl
import json
import os
import re
import sys
import time
from pathlib import Path

from engine import log_lines
from engine.ranks import Ranks
from engine.settings import Choice
from quantize import write_atomic

RUN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+=@-]{0,127}")


class RunFolder:
    """The folder of one run. Only rank 0 writes.

    A lock that dies with the process keeps a second one out of the folder.
    Raises: ValueError when the folder exists already, is in use, or was made by other sources.
    """

    def __init__(self, recipe_name: str, choice: Choice, ranks: Ranks, sources: dict[str, bytes]):
        settings = choice.settings
        self.run_id = ranks.first(lambda: self._choose_run_id(settings))
        self.path = Path("logs") / self.run_id
        self.checkpoint_path = self.path / "checkpoint.pt"
        self.artifact_path = self.path / "artifact.pgz"
        self.ranks = ranks
        self.is_writer = ranks.is_first
        ranks.first(lambda: self._open(recipe_name, choice, sources))

    def _open(self, recipe_name: str, choice: Choice, sources: dict[str, bytes]) -> None:
        settings = choice.settings
        if not settings.resume:
            self._make()
        self._lock()
        for leftover in self.path.glob("*.tmp"):  # of a write that a kill cut short
            leftover.unlink()
        self._keep_sources(sources)
        self._end_cut_line()
        if not settings.resume:
            saved = dataclasses.asdict(settings)
            saved |= {"run_id": self.run_id, "preset": choice.preset, "recipe": recipe_name}
            write_atomic(self.path / "settings.json", json.dumps(saved, indent=1).encode())

    @staticmethod
    def _choose_run_id(settings) -> str:
        stamp = time.strftime("%Y-%m-%d_%H%M%S")
        run_id = settings.resume or settings.run_id or f"{stamp}_{os.getpid()}"
        if not RUN_ID.fullmatch(run_id):
            requirement = "letters, digits and _.+=@-, beginning with none of .+=@-"
            raise ValueError(f"RUN_ID={run_id!r} must be a name: {requirement}")
        return run_id

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True)
        except FileExistsError:
            raise ValueError(
                f"RUN_ID={self.run_id}: {self.path} exists; continue that run with RESUME="
                f"{self.run_id}, or choose another"
            ) from None

    def _lock(self) -> None:
        self.lock = open(self.path / ".lock", "w")  # held until the process ends
        try:
            fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{self.path} is in use by another process; wait for it") from None

    def _keep_sources(self, sources: dict[str, bytes]) -> None:
        for name, text in sources.items():
            copy = self.path / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if not copy.exists():
                write_atomic(copy, text)
            elif copy.read_bytes() != text:
                raise ValueError(
                    f"{name} differs from {copy}, which began this run; restore those sources, or"
                    " start a new run"
                )

    def share_artifact(self) -> int:
        """Put rank 0's artifact, once it is written, on every node's disk; returns its bytes."""
        blob = self.artifact_path.read_bytes() if self.is_writer else b""
        blob = self.ranks.broadcast_bytes(blob)
        path = self.artifact_path
        is_there = path.exists() and path.read_bytes() == blob
        if self.ranks.is_first_of_node and not is_there:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, blob)
        self.ranks.wait()  # the other ranks of a node read what its first one wrote
        return len(blob)

    def _end_cut_line(self) -> None:
        log = self.path / "train.log"
        if log.exists() and not log.read_bytes().endswith(b"\n"):
            self.log("", console=False)

    def log(self, line: str, console: bool = True) -> None:
        """Append one line to train.log and, for what a person waits for, to the console."""
        if not self.is_writer:
            return
        with open(self.path / "train.log", "a") as file:
            file.write(line + "\n")
        if console:
            erase = "\r\033[K" if sys.stdout.isatty() else ""
            print(erase + line, flush=True)

    def stop(self, number: int, frame) -> None:
        """End the process on a signal, with how to go on. Raises: SystemExit."""
        self.log(log_lines.STOPPED_ELSEWHERE.write(run_id=self.run_id))
        sys.exit(128 + number)

    def progress(self, line: str) -> None:
        """Rewrite the terminal's last line; nothing where output is not a terminal."""
        if self.is_writer and sys.stdout.isatty():
            print("\r\033[K" + line, end="", flush=True)

    def metrics(self, **record: float) -> None:
        """Append one object to metrics.jsonl."""
        if self.is_writer:
            with open(self.path / "metrics.jsonl", "a") as file:
                file.write(json.dumps(record) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget steps that a resumed run will take again, so that each step stands once.

        A line that a kill cut short is the last one. It has no end, and is dropped as well.
        """
        path = self.path / "metrics.jsonl"
        if not self.is_writer or not path.exists():
            return
        kept = []
        for number, line in enumerate(path.read_bytes().splitlines(True), 1):
            try:
                if line.endswith(b"\n") and json.loads(line)["step"] <= step:
                    kept.append(line)
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"line {number} of {path} is damaged; delete it") from None
        write_atomic(path, b"".join(kept))
