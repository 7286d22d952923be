"""One table of all systems, from their runs' logs: size, bytes, loss and bpb on the same text.

    python -m tools.runs.compare RUN... [--markdown | --json]
    python -m tools.runs.compare RUN... --plot curves.png [--data DIR]

A RUN is a log, a run folder or id, or a folder of run folders. Runs are refused together where
their scores do not compare: another validation text, part of it only, or windows of another kind.
Loss and perplexity compare between equal tokenizers alone, bpb between all that keep the text as it
is: of one that normalises it, as SentencePiece mostly does, the bytes are those of another text.

--plot draws the training losses of the runs against two lines of the training tokens themselves:
their unigram entropy, and their bigram entropy, that of a token when the one before it is known.
DIR is the folder of shards (that of the runs' settings).

Exit status 0; 1: the runs do not compare, 2: a RUN or the data cannot be read.
"""

import argparse
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.runs.logs import Run, find_logs, read_runs

ENTROPY_TOKENS = 100_000_000  # of the training split, at most
COLUMNS = {  # of the table: heading, format
    "system": ("system", "{}"),
    "parameters": ("parameters", "{:,}"),
    "artifact_bytes": ("artifact bytes", "{:,}"),
    "bits_per_parameter": ("bits / parameter", "{:.2f}"),
    "train_tokens": ("training tokens", "{:,}"),
    "loss": ("loss", "{:.4f}"),
    "bpb": ("bpb", "{:.4f}"),
    "tokens_per_second": ("tokens / s", "{:,.0f}"),
    "log": ("log", "{}"),
}


class NoComparison(ValueError):
    """Runs whose scores do not compare; str() says which, why, and what to do."""


@dataclass(frozen=True)
class Row:
    """One system's run."""

    system: str
    parameters: int | None
    artifact_bytes: int | None
    bits_per_parameter: float | None
    train_tokens: int | None
    loss: float
    bpb: float
    tokens_per_second: float | None
    log: str


def runs_of(path: Path) -> list[Run]:
    """The runs of a path, or of the folders in it. Raises: FileNotFoundError, ValueError."""
    parts = [path]
    if path.is_dir() and not find_logs(path):
        parts = [part for part in sorted(path.iterdir()) if part.is_dir() and find_logs(part)]
    return [run for part in parts or [path] for run in read_runs(part)]


def text_of(run: Run) -> dict:
    """What must be equal for two scores to compare, as the log tells it."""
    score, settings = run.score, run.settings
    seq_len, stride = settings.get("train_seq_len"), settings.get("eval_stride")
    unigram = [s.val_loss for s in run.scores if s.name == "unigram"]
    return {
        "bytes of validation text": score.bytes,
        # Of equal tokens; with another tokenizer the bytes alone tell the text.
        "unigram loss": (unigram or [None])[-1],
        "windows": "blocks" if stride == seq_len else f"sliding by {stride}",
    }


def check_comparable(runs: list[Run]) -> None:
    """Raise NoComparison where two scores are not of one text, whole, in windows of one kind."""
    for run in runs:
        if run.score is None:
            raise NoComparison(f"{run.path} has no score ({run.score_reason}); leave it out")
        if run.score.is_partial or not run.score.bytes:
            what = "a score of part of the text" if run.score.is_partial else "no count of bytes"
            raise NoComparison(f"{run.path} has {what}; score it on a verified folder")
    first = text_of(runs[0])
    for run in runs[1:]:
        found = text_of(run)
        if run.score.targets != runs[0].score.targets:
            found["unigram loss"] = first["unigram loss"]
        for what, value in found.items():
            if value != first[what]:
                both = f"{first[what]} in {runs[0].path}, {value} in {run.path}"
                if run.score.targets != runs[0].score.targets:
                    both += " (a tokenizer that normalises makes another text of the same)"
                raise NoComparison(f"{what}: {both}; compare runs of one text and one protocol")


def name_of(run: Run) -> str:
    """The system's name; a preset of the golf recipe, which has no single rate, says so.

    One that learned from a teacher is another system, whatever its recipe.
    """
    name = run.preset or run.run_id or run.path.stem
    name = name if "peak_lr" in run.settings else f"golf, {name}"
    return f"{name}, taught" if run.settings.get("teacher") else name


def row_of(run: Run) -> Row:
    """The run's row; what the log does not say is None."""
    timed = [p for p in run.curve if p["train_time_ms"] and p.get("tokens")]
    last = timed[-1] if timed else None
    known = run.model_bytes and run.model_params
    return Row(
        system=name_of(run),
        parameters=run.model_params,
        artifact_bytes=run.model_bytes,
        bits_per_parameter=8 * run.model_bytes / run.model_params if known else None,
        train_tokens=last and last["tokens"],
        loss=run.score.val_loss,
        bpb=run.score.val_bpb,
        tokens_per_second=last and last.get("tok_s"),
        log=os.path.relpath(run.path),
    )


def table(runs: list[Run]) -> list[Row]:
    """All rows, the best bpb first. Raises: NoComparison."""
    check_comparable(runs)
    return sorted(map(row_of, runs), key=lambda row: row.bpb)


def cells(row: Row) -> list[str]:
    values = ((form, getattr(row, name)) for name, (_, form) in COLUMNS.items())
    return ["–" if value is None else form.format(value) for form, value in values]


def as_markdown(rows: list[Row], runs: list[Run]) -> str:
    """The table with links, and one line on the text."""
    lines = [[heading for heading, _ in COLUMNS.values()], ["---"] * len(COLUMNS)]
    for row in rows:
        *values, log = cells(row)
        lines.append([*values, f"[log]({log})"])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{describe_text(runs)}"


def as_text(rows: list[Row], runs: list[Run]) -> str:
    lines = [[heading for heading, _ in COLUMNS.values()], *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[f"{c:>{w}}" for c, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join([*("  ".join(line) for line in padded), "", describe_text(runs)])


def describe_text(runs: list[Run]) -> str:
    """What the scores are of, and what a model without context would have."""
    said, score = text_of(runs[0]), runs[0].score
    same = all(run.score.targets == score.targets for run in runs)
    bound = [s.val_bpb for s in runs[0].scores if s.name == "unigram"]
    facts = [f"{score.bytes:,} bytes of validation text"]
    facts += [f"{score.targets:,} targets"] * same + [f"windows: {said['windows']}"]
    facts += [f"unigram distribution of the same tokens: {bound[-1]:.4f} bpb"] if bound else []
    return "; ".join(facts) + "."


# Curves against entropies -------------------------------------------------------------------------


def entropies(shards: list[np.ndarray]) -> tuple[float, float, int]:
    """Nats of a token by its frequency, and where the token before it is known; and of how many.

    The second is H(pair) - H(first): what a table of all pairs would reach on this very text, less
    than on other text. No pair reaches from one shard into the next.
    """
    first_V, second_V, pairs = np.zeros(1 << 16, int), np.zeros(1 << 16, int), []
    for shard_T in shards:
        before_T, target_T = shard_T[:-1], shard_T[1:]
        first_V += np.bincount(before_T, minlength=1 << 16)
        second_V += np.bincount(target_T, minlength=1 << 16)
        pairs.append(before_T.astype(np.uint32) << np.uint32(16) | target_T)

    def nats(counts: np.ndarray) -> float:
        share = counts[counts > 0] / counts.sum()
        return float(-(share * np.log(share)).sum())

    pair_counts = np.unique(np.concatenate(pairs), return_counts=True)[1]
    return nats(second_V), nats(pair_counts) - nats(first_V), int(first_V.sum())


def training_shards(runs: list[Run], folder: Path | None) -> list[np.ndarray]:
    """The runs' training tokens, at most ENTROPY_TOKENS of them.

    Raises: NoComparison where runs trained on several folders; ValueError, FileNotFoundError.
    """
    import evaluate  # here, because torch takes seconds to load

    named = {run.settings.get("data_path") for run in runs}
    if folder is None:
        if len(named) > 1:
            raise NoComparison(f"runs trained on {sorted(map(str, named))}; name one with --data")
        folder = Path(named.pop() or "")
    shards, room = [], ENTROPY_TOKENS
    for path in evaluate.find_shards(folder, "train"):
        shards.append(evaluate.read_shard(path)[: max(0, room)])
        room -= len(shards[-1])
    return [shard for shard in shards if len(shard) > 1]


def draw(runs: list[Run], shards: list[np.ndarray]):
    """Training loss of every run against tokens, with both entropies of these tokens as lines."""
    from tools.runs import plot

    groups = [plot.Group(name_of(run), [run]) for run in runs]
    fig, ((ax,),) = plot.figure(1, 1, 9.0, 5.2)
    plot.draw_lines(ax, groups, lambda run: plot.series(run, "tokens", "train_loss"))
    unigram, bigram, count = entropies(shards)
    low, high = ax.get_ylim()
    margin = 0.05 * (high - low)
    ax.set_ylim(min(low, bigram - margin), max(high, unigram + margin))
    for value, name in ((unigram, "unigram"), (bigram, "bigram")):
        ax.axhline(value, color=plot.GREY, linestyle="--", linewidth=1.2)
        text = f"{name} entropy of the training tokens: {value:.3f}"
        place = {"xy": (1, value), "xycoords": ("axes fraction", "data"), "ha": "right"}
        beside = {"xytext": (-2, 4), "textcoords": "offset points", "fontsize": 9}
        ax.annotate(text, **place, **beside, color=plot.GREY)
    ax.set_xlabel("training tokens")
    ax.xaxis.set_major_formatter(plot.count)
    ax.set_ylabel("training loss (nats per token)")
    ax.set_title(f"Systems on one text; entropies of {plot.count(float(f'{count:.3g}'))} tokens")
    plot.legend_below(fig, np.array([[ax]]))
    return fig


def write_plot(runs: list[Run], shards: list[np.ndarray], path: Path) -> None:
    """The picture stands at path, PNG. Raises: ImportError with the install command."""
    try:
        import matplotlib
    except ImportError as error:
        install = "python3 golf.py --with plots tools.runs.compare …"
        raise ImportError(f"a picture needs matplotlib: {install}") from error
    from quantize import write_atomic
    from tools.runs.plot import STYLE

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        draw(runs, shards).savefig(buffer, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.runs.compare", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="log, run folder or id, or a folder of them")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    form.add_argument("--json", action="store_true", help="print one JSON object")
    add("--plot", type=Path, metavar="FILE", help="draw the curves there, as PNG")
    add("--data", type=Path, metavar="DIR", help="with --plot: shards (those of the settings)")
    args = parser.parse_args(argv)
    try:
        runs = [run for path in args.runs for run in runs_of(Path(path))]
        rows = table(runs)
        if args.plot:
            write_plot(runs, training_shards(runs, args.data), args.plot)
    except NoComparison as error:
        print(f"tools.runs.compare: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"tools.runs.compare: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"text": text_of(runs[0]), "rows": [vars(row) for row in rows]}))
    else:
        print((as_markdown if args.markdown else as_text)(rows, runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
