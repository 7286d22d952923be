"""One table of all systems, from their runs' logs: size, bytes, loss and bpb on the same text.

    python3 golf.py compare RUN... [--markdown | --json] [--own-windows]
    python3 golf.py compare RUN... --plot curves.png [--data DIR]

A RUN is a log, a run folder or id, or a folder of run folders. Runs are refused together where
their scores do not compare: another validation text, part of it only, windows of another kind, a
document's repeats mixed in or not. With --own-windows each system may read the text in its own way,
which a column then names: the systems compare, with their scoring, but not the models alone.
Loss and perplexity compare between equal tokenizers alone, bpb between all that keep the text as it
is: of one that normalises it, as SentencePiece mostly does, the bytes are those of another text.

--plot draws the training losses of the runs against two lines of the training tokens themselves:
their unigram entropy, and their bigram entropy, the uncertainty of a token when the one before it
is known. DIR is the folder of shards (that of the runs' settings).

Exit status 0; 1: the runs do not compare, 2: a RUN or the data cannot be read.
"""

import argparse
import io
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from tools.runs.logs import find_logs, read_runs
from tools.runs.run_log import Run

ENTROPY_TOKENS = 100_000_000  # of the training split, at most
TOKEN_IDS = 1 << 16  # shards hold uint16
COLUMNS = {  # of the table: heading, format
    "system": ("system", "{}"),
    "parameters": ("parameters", "{:,}"),
    "artifact_bytes": ("artifact bytes", "{:,}"),
    "bits_per_parameter": ("bits / parameter", "{:.2f}"),
    "train_tokens": ("training tokens", "{:,}"),
    "loss": ("loss", "{:.4f}"),
    "bpb": ("bpb", "{:.4f}"),
    "tokens_per_second": ("tokens / s", "{:,.0f}"),
    "windows": ("windows", "{}"),  # where they differ
    "log": ("log", "{}"),
}


class NoComparison(ValueError):
    """Runs whose scores do not compare; str() says which, the reason, and the remedy."""


@dataclass(frozen=True)
class SystemRow:
    """One system's run."""

    system: str
    parameters: int | None
    artifact_bytes: int | None
    bits_per_parameter: float | None
    train_tokens: int | None
    loss: float
    bpb: float
    tokens_per_second: float | None
    windows: str
    log: str


def runs_of(path: Path) -> list[Run]:
    """The runs of a path, or of the folders in it. Raises: FileNotFoundError, ValueError."""
    if path.is_dir() and not find_logs(path):
        folders = [part for part in sorted(path.iterdir()) if part.is_dir() and find_logs(part)]
        if folders:
            return [run for folder in folders for run in read_runs(folder)]
    return read_runs(path)


# Comparable runs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Protocol:
    """What must be equal for two scores to compare, as the log tells it."""

    text_bytes: int | None
    # Of equal tokens this tells one text from another of the same length. With another tokenizer
    # the bytes alone tell the text.
    unigram_loss: float | None
    windows: str


PROTOCOL_NAMES = {
    "text_bytes": "bytes of validation text",
    "unigram_loss": "unigram loss",
    "windows": "windows",
}


def last_unigram(run: Run):
    """The score of the unigram distribution of the same tokens; None where the log has none."""
    unigrams = [score for score in run.scores if score.name == "unigram"]
    return unigrams[-1] if unigrams else None


def protocol_of(run: Run) -> Protocol:
    windows = run.score.scheme
    if not windows:  # a log of the field: its settings may tell
        stride = run.settings.get("eval_stride")
        in_blocks = stride == run.settings.get("train_seq_len")
        windows = "blocks" if in_blocks else f"sliding by {stride}"
    unigram = last_unigram(run)
    return Protocol(
        text_bytes=run.score.bytes,
        unigram_loss=unigram.val_loss if unigram else None,
        windows=windows,
    )


def check_comparable(runs: list[Run], own_windows: bool = False) -> None:
    """Raise NoComparison where two scores are not of one text, complete, and read in one way.

    With own_windows each run may have read the text in its own way.
    """
    for run in runs:
        if run.score is None:
            raise NoComparison(f"{run.path} has no score ({run.score_reason}); leave it out")
        if run.score.is_partial:
            raise NoComparison(f"{run.path} has a score of part of the text; score it on all of it")
        if not run.score.bytes:
            raise NoComparison(f"{run.path} has no count of bytes; score it on a verified folder")
    first = runs[0]
    expected = asdict(protocol_of(first))
    for run in runs[1:]:
        same_tokens = run.score.targets == first.score.targets
        for name, value in asdict(protocol_of(run)).items():
            if value == expected[name] or name == "unigram_loss" and not same_tokens:
                continue
            remedy = "compare runs of one text"
            if name == "windows":
                if own_windows:
                    continue
                remedy = (
                    "score one again as the other (golf.py score RUN --stride N), or compare each"
                    " system with its own scoring: --own-windows"
                )
            both = f"{expected[name]} in {first.path}, {value} in {run.path}"
            if not same_tokens:
                both += " (a tokenizer that normalises makes another text of the same)"
            raise NoComparison(f"{PROTOCOL_NAMES[name]}: {both}; {remedy}")


# Table --------------------------------------------------------------------------------------------


def name_of(run: Run) -> str:
    """The system's name; a preset of the golf recipe, which has no single rate, says so.

    One that learned from a teacher is another system, whatever its recipe.
    """
    name = run.preset or run.run_id or run.path.stem
    if "peak_lr" not in run.settings:
        name = f"golf, {name}"
    return f"{name}, taught" if run.settings.get("teacher") else name


def row_of(run: Run) -> SystemRow:
    """The run's row; what the log does not say is None."""
    timed = [point for point in run.curve if point["train_time_ms"] and point.get("tokens")]
    last = timed[-1] if timed else {}
    bits = None
    if run.model_bytes and run.model_params:
        bits = 8 * run.model_bytes / run.model_params
    return SystemRow(
        system=name_of(run),
        parameters=run.model_params,
        artifact_bytes=run.model_bytes,
        bits_per_parameter=bits,
        train_tokens=last.get("tokens"),
        loss=run.score.val_loss,
        bpb=run.score.val_bpb,
        tokens_per_second=last.get("tok_s"),
        windows=protocol_of(run).windows,
        log=os.path.relpath(run.path),
    )


def table(runs: list[Run], own_windows: bool = False) -> list[SystemRow]:
    """All rows, the best bpb first. Raises: NoComparison."""
    check_comparable(runs, own_windows)
    return sorted(map(row_of, runs), key=lambda row: row.bpb)


def lines_of(rows: list[SystemRow]) -> list[list[str]]:
    """Headings and one line a row, as texts; a dash for what is not known."""
    columns = dict(COLUMNS)
    if len({row.windows for row in rows}) == 1:
        del columns["windows"]  # the line below the table says it once
    lines = [[heading for heading, _ in columns.values()]]
    for row in rows:
        texts = []
        for name, (_, form) in columns.items():
            value = getattr(row, name)
            texts.append("–" if value is None else form.format(value))
        lines.append(texts)
    return lines


def as_markdown(rows: list[SystemRow], runs: list[Run]) -> str:
    """The table with links, and one line on the text."""
    headings, *others = lines_of(rows)
    lines = [headings, ["---"] * len(headings)]
    for *texts, log in others:
        lines.append([*texts, f"[log]({log})"])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{text}\n\n{describe_text(runs)}"


def as_text(rows: list[SystemRow], runs: list[Run]) -> str:
    """The table in columns, and one line on the text."""
    lines = lines_of(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = []
    for line in lines:
        texts = [text.rjust(width) for text, width in zip(line, widths, strict=True)]
        padded.append("  ".join(texts))
    return "\n".join([*padded, "", describe_text(runs)])


def describe_text(runs: list[Run]) -> str:
    """What the scores are of, and what a model without context would have."""
    protocol = protocol_of(runs[0])
    # With several tokenizers there is no one number of targets.
    targets = {run.score.targets for run in runs}
    facts = [f"{protocol.text_bytes:,} bytes of validation text"]
    if len(targets) == 1:
        facts.append(f"{targets.pop():,} targets")
    same_windows = len({protocol_of(run).windows for run in runs}) == 1
    windows = protocol.windows if same_windows else "each system's own"
    facts.append(f"windows: {windows}")
    unigram = last_unigram(runs[0])
    if unigram:
        facts.append(f"unigram distribution of the same tokens: {unigram.val_bpb:.4f} bpb")
    return "; ".join(facts) + "."


# Curves against entropies -------------------------------------------------------------------------


def nats(counts: np.ndarray) -> float:
    """Entropy of a distribution that is given by counts: nats([1, 1]) is log 2."""
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum())


def entropies(shards: list[np.ndarray]) -> tuple[float, float, int]:
    """Nats of a token by its frequency, and where the token before it is known; and of how many.

    The second is H(pair) - H(first): what a table of all pairs would reach on this very text, less
    than on other text. No pair reaches from one shard into the next.
    """
    first_V = np.zeros(TOKEN_IDS, int)
    second_V = np.zeros(TOKEN_IDS, int)
    pairs = []
    for shard_T in shards:
        before_T = shard_T[:-1]
        target_T = shard_T[1:]
        first_V += np.bincount(before_T, minlength=TOKEN_IDS)
        second_V += np.bincount(target_T, minlength=TOKEN_IDS)
        # Two ids of 16 bits as one of 32, so that counting pairs is counting numbers.
        pairs.append(before_T.astype(np.uint32) << np.uint32(16) | target_T)
    pair_counts = np.unique(np.concatenate(pairs), return_counts=True)[1]
    return nats(second_V), nats(pair_counts) - nats(first_V), int(first_V.sum())


def training_shards(runs: list[Run], folder: Path | None) -> list[np.ndarray]:
    """The runs' training tokens, at most ENTROPY_TOKENS of them.

    Raises: NoComparison where runs trained on several folders; ValueError, FileNotFoundError.
    """
    import evaluate  # here, because torch takes seconds to load

    if folder is None:
        named = {run.settings.get("data_path") for run in runs}
        if len(named) > 1:
            raise NoComparison(f"runs trained on {sorted(map(str, named))}; name one with --data")
        folder = Path(named.pop() or "")
    shards = []
    room = ENTROPY_TOKENS
    for path in evaluate.find_shards(folder, "train"):
        shards.append(evaluate.read_shard(path)[: max(0, room)])
        room -= len(shards[-1])
    return [shard for shard in shards if len(shard) > 1]


def draw(runs: list[Run], shards: list[np.ndarray]):
    """Training loss of every run against tokens, with both entropies of these tokens as lines."""
    from tools.runs import curves, plot

    groups = [curves.SeedGroup(name_of(run), [run]) for run in runs]
    fig, ((ax,),) = plot.figure(1, 1, 9.0, 5.2)
    plot.draw_lines(ax, groups, lambda run: curves.series(run, "tokens", "train_loss"))
    unigram, bigram, count = entropies(shards)
    low, high = ax.get_ylim()
    margin = 0.05 * (high - low)
    # The entropies are the point of the picture: they are never cut off.
    ax.set_ylim(min(low, bigram - margin), max(high, unigram + margin))
    for value, name in ((unigram, "unigram"), (bigram, "bigram")):
        ax.axhline(value, color=plot.GREY, linestyle="--", linewidth=1.2)
        ax.annotate(
            f"{name} entropy of the training tokens: {value:.3f}",
            xy=(1, value),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 4),
            textcoords="offset points",
            ha="right",
            fontsize=9,
            color=plot.GREY,
        )
    ax.set_xlabel("training tokens")
    ax.xaxis.set_major_formatter(plot.count)
    ax.set_ylabel("training loss (nats per token)")
    tokens = plot.count(float(f"{count:.3g}"))
    ax.set_title(f"Systems on one text; entropies of {tokens} tokens")
    plot.legend_below(fig, np.array([[ax]]))
    return fig


def write_plot(runs: list[Run], shards: list[np.ndarray], path: Path) -> None:
    """The picture stands at path, PNG. Raises: ImportError with the install command."""
    try:
        import matplotlib
    except ImportError as error:
        command = "python3 golf.py compare … --plot FILE"
        raise ImportError(f"a picture needs matplotlib, which this installs: {command}") from error
    from quantize import write_atomic
    from tools.runs.plot import STYLE

    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        draw(runs, shards).savefig(buffer, format="png", dpi=110)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


# Command ------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="golf.py compare", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="log, run folder or id, or a folder of them")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="print a Markdown table")
    form.add_argument("--json", action="store_true", help="print one JSON object")
    add("--own-windows", action="store_true", help="let each system read the text in its own way")
    add("--plot", type=Path, metavar="FILE", help="draw the curves there, as PNG")
    add("--data", type=Path, metavar="DIR", help="with --plot: shards (those of the settings)")
    args = parser.parse_args(argv)
    try:
        runs = [run for path in args.runs for run in runs_of(Path(path))]
        rows = table(runs, args.own_windows)
        if args.plot:
            write_plot(runs, training_shards(runs, args.data), args.plot)
    except NoComparison as error:
        print(f"golf.py compare: {error}", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"golf.py compare: {error}", file=sys.stderr)
        return 2
    if args.json:
        report = {"text": asdict(protocol_of(runs[0])), "rows": [asdict(row) for row in rows]}
        print(json.dumps(report))
    elif args.markdown:
        print(as_markdown(rows, runs))
    else:
        print(as_text(rows, runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
