"""Watch runs as they go: state, step, time left, loss, score, rate and curve.

    python3 golf.py watch                    # all runs in logs/
    python3 golf.py watch mine_seed42        # a run id or a run's folder; arrows choose, q ends
    python3 golf.py watch --html runs.html   # the same as one page that loads itself again
    python3 golf.py watch --tensorboard events    # or --wandb PROJECT, offline

Where output is not a terminal, the table is printed once. --html, --tensorboard and --wandb follow
the runs until all have ended, and print the table once a minute.

Exit status 0; 2: no such run, or a package is missing.
"""

import argparse
import sys
import time
from pathlib import Path

from tools.runs.live import ENDED, HEADINGS, LiveRun, as_text, cells, find_folders, read_live
from tools.runs.trackers import TensorBoard, Tracker, WeightsAndBiases
from tools.runs.watch_page import Page

REFRESH_SECONDS = 2.0
TABLE_SECONDS = 60.0


def read_all(folders: list[Path]) -> list[LiveRun]:
    return [read_live(folder) for folder in folders]


def follow(folders: list[Path], trackers: list[Tracker], seconds: float = REFRESH_SECONDS) -> None:
    """Bring the trackers up to date until all runs have ended."""
    last_table = -TABLE_SECONDS
    try:
        while True:
            runs = read_all(folders)
            for tracker in trackers:
                tracker.update(runs)
            has_ended = all(run.state in ENDED for run in runs)
            if has_ended or time.monotonic() - last_table >= TABLE_SECONDS:
                last_table = time.monotonic()
                print(as_text(runs), flush=True)
            if has_ended:
                return  # after a last update: the final score came with the end
            time.sleep(seconds)
    finally:
        for tracker in trackers:
            tracker.close()


def make_app(folders: list[Path]):
    """The program on the terminal. Raises: ImportError with the command that installs it."""
    try:
        from textual.app import App
        from textual.widgets import DataTable, Footer, Header
        from textual_plotext import PlotextPlot
    except ImportError as error:
        command = "`python3 golf.py watch` installs them"
        raise ImportError(f"the live view needs textual and textual-plotext; {command}") from error

    class WatchApp(App):
        """A table of all runs, and under it the training loss of the one that is chosen."""

        TITLE = "golf.py watch"
        BINDINGS = [("q", "quit", "quit")]
        CSS = "DataTable { height: auto; max-height: 50%; } PlotextPlot { height: 1fr; }"

        def compose(self):
            yield Header()
            yield DataTable(cursor_type="row")
            yield PlotextPlot()
            yield Footer()

        def on_mount(self) -> None:
            table = self.query_one(DataTable)
            self.columns = table.add_columns(*HEADINGS)
            # Rows are made once and their cells changed later, so that the cursor stays.
            for folder in folders:
                table.add_row(*[""] * len(HEADINGS), key=str(folder))
            self.refresh_runs()
            self.set_interval(REFRESH_SECONDS, self.refresh_runs)

        def refresh_runs(self) -> None:
            """Read the folders again."""
            self.runs = read_all(folders)
            table = self.query_one(DataTable)
            for run in self.runs:
                for column, text in zip(self.columns, cells(run), strict=True):
                    table.update_cell(str(run.folder), column, text, update_width=True)
            self.draw()

        def on_data_table_row_highlighted(self) -> None:
            self.draw()

        def draw(self) -> None:
            """The curve of the run under the cursor."""
            run = self.runs[self.query_one(DataTable).cursor_row]
            widget = self.query_one(PlotextPlot)
            # Without this every refresh would draw one more line over the last.
            widget.plt.clear_data()
            points = run.losses()
            if points:
                steps, losses = zip(*points, strict=True)
                widget.plt.plot(steps, losses, marker="braille")
            widget.plt.title(f"training loss of {run.name}, nats per token")
            widget.plt.xlabel("optimizer steps")
            widget.refresh()

    return WatchApp()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="golf.py watch", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="*", metavar="RUN", help="run folder or id; default: all in logs/")
    add("--html", type=Path, metavar="FILE", help="write a page, and keep it up to date")
    add("--tensorboard", type=Path, metavar="DIR", help="pass the metrics on, as event files")
    add("--wandb", metavar="PROJECT", help="pass the metrics on, as offline runs")
    args = parser.parse_args(argv)
    try:
        folders = find_folders(args.runs)
        trackers: list[Tracker] = []
        if args.html:
            trackers.append(Page(args.html))
        if args.tensorboard:
            trackers.append(TensorBoard(args.tensorboard))
        if args.wandb:
            trackers.append(WeightsAndBiases(args.wandb))
        if trackers:
            follow(folders, trackers)
        elif sys.stdout.isatty():
            make_app(folders).run()
        else:
            print(as_text(read_all(folders)))
    except KeyboardInterrupt:
        return 0
    except (OSError, ImportError) as error:
        print(f"golf.py watch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
