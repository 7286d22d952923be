"""Pass the metrics of runs on to TensorBoard or Weights & Biases.

The trainer knows neither of them. A tracker reads a run's metrics.jsonl and passes on the lines
that it has not passed on before, so it can be started before, during or after the run.
"""

from pathlib import Path
from typing import Protocol

from tools.runs.live import LiveRun


class Tracker(Protocol):
    """Something that takes in runs as they go."""

    def update(self, runs: list[LiveRun]) -> None: ...

    def close(self) -> None: ...


class NewLines:
    """Tells of each run the lines of metrics that it has not told before."""

    def __init__(self):
        self.told: dict[str, int] = {}  # run -> lines

    def of(self, run: LiveRun) -> list[dict]:
        before = self.told.get(run.name, 0)
        if len(run.metrics) < before:
            before = 0  # the run was removed and begun anew, or resumed from an earlier step
        self.told[run.name] = len(run.metrics)
        return run.metrics[before:]


def values_of(line: dict) -> dict[str, float]:
    """The numbers of a line of metrics but the step: {"step": 3, "train_loss": 5.1} has one."""
    return {name: value for name, value in line.items() if name != "step"}


class TensorBoard:
    """Event files of every run in a folder of its own. `tensorboard --logdir FOLDER` shows them."""

    def __init__(self, folder: Path):
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            command = "python3 golf.py watch … --tensorboard DIR"
            raise ImportError(f"no tensorboard here; {command} installs it") from error
        self.make_writer = SummaryWriter
        self.folder = folder
        self.writers: dict = {}
        self.new_lines = NewLines()

    def update(self, runs: list[LiveRun]) -> None:
        for run in runs:
            if run.name not in self.writers:
                self.writers[run.name] = self.make_writer(str(self.folder / run.name))
            writer = self.writers[run.name]
            for line in self.new_lines.of(run):
                for name, value in values_of(line).items():
                    writer.add_scalar(name, value, line["step"])
            writer.flush()

    def close(self) -> None:
        for writer in self.writers.values():
            writer.close()


class WeightsAndBiases:
    """Offline runs of a project, in ./wandb. `wandb sync wandb/offline-run-*` uploads them."""

    def __init__(self, project: str):
        try:
            import wandb
        except ImportError as error:
            command = "python3 golf.py watch … --wandb PROJECT"
            raise ImportError(f"no wandb here; {command} installs it") from error
        self.wandb = wandb
        self.project = project
        self.runs: dict = {}
        self.new_lines = NewLines()

    def update(self, runs: list[LiveRun]) -> None:
        for run in runs:
            if run.name not in self.runs:
                self.runs[run.name] = self.wandb.init(
                    project=self.project, name=run.name, mode="offline", reinit="create_new"
                )
            for line in self.new_lines.of(run):
                self.runs[run.name].log(values_of(line), step=line["step"])

    def close(self) -> None:
        for run in self.runs.values():
            run.finish()
