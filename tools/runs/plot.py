"""Draw runs: curves, speed, where the bytes go, what rounding loses, what TTT gains.

    python3 golf.py plot RUN... [--out DIR] [--format png|svg] [--ttt FILE]
    python3 golf.py plot RUN... --terminal    # a quick look, in characters

A RUN is a log, a run folder or id, or a record folder. Pictures:

    curves  training loss, and bpb where the run validated, by steps, time and tokens
    speed   time of a step and tokens per second
    bytes   bytes of the artifact by tensor group, against the order-0 entropy of its symbols
    error   relative rounding error of each matrix by the bits it takes (needs checkpoint.pt)
    ttt     what test-time training gains by position: from FILE, or ttt.json in a run's folder

The JSON of the last is what `golf.py score ARTIFACT --ttt --json` prints. Its "chunks" are four
lists with an entry for each chunk of the validation text: "targets" and "bytes", their numbers,
"before" and "after", the nats without and with TTT.

Exit status 0: something was drawn, 1: there was nothing to draw, 2: a RUN cannot be read. What is
not drawn is listed with the reason.
"""

import argparse
import io
import json
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

from tools.runs.curves import (
    AXES,
    NothingToDraw,
    SeedGroup,
    after_start,
    band,
    first_with,
    group_runs,
    series,
    speeds,
)
from tools.runs.logs import read_runs
from tools.runs.run_log import Run
from tools.runs.sketch import sketch, sketch_bytes

# Okabe and Ito's colours, which all kinds of colour vision tell apart, without their yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
MARKERS = "osD^vPX*"
GREY = "#666666"
LIGHT_GREY = "#999999"
STYLE = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "golf.py plot",  # the same runs give the same file
}
SMALL_SHARE = 0.01  # of all bytes: groups below it are drawn as one


# Figures ------------------------------------------------------------------------------------------


def figure(columns: int, rows: int, width: float, height: float):
    """An empty figure and its axes, row by row."""
    from matplotlib.figure import Figure

    # Without pyplot: no window is opened, and nothing is kept between two figures.
    fig = Figure(figsize=(width, height), layout="constrained", dpi=160)
    return fig, fig.subplots(rows, columns, squeeze=False)


def count(value: float, _position=None) -> str:
    """A number of steps or tokens, short: 2,000, 50 k, 1.5 M, 8 B."""
    if abs(value) >= 1e9:
        return f"{value / 1e9:g} B"
    if abs(value) >= 1e6:
        return f"{value / 1e6:g} M"
    if abs(value) >= 1e4:
        return f"{value / 1e3:g} k"
    return f"{value:,g}"


def draw_lines(ax, groups: list[SeedGroup], curves_of: Callable[[Run], np.ndarray]) -> None:
    """Draw each group as a line, with a band over several seeds, in the axis' full height."""
    tops = []
    lows = []
    for i, group in enumerate(groups):
        curves = [curve for curve in map(curves_of, group.runs) if len(curve) > 1]
        if not curves:
            continue
        drawn = band(curves)
        colour = COLOURS[i % len(COLOURS)]
        ax.plot(
            drawn.x,
            drawn.mean,
            label=f"{group.label}: {group.bpb()}",
            color=colour,
            linestyle=DASHES[i // len(COLOURS) % len(DASHES)],
        )
        if len(curves) > 1:
            ax.fill_between(drawn.x, drawn.low, drawn.high, color=colour, alpha=0.22, linewidth=0)
        # The first losses are twice as high as the last; with them every curve would look flat.
        tops.append(drawn.high[after_start(drawn.x)].max())
        lows.append(drawn.low.min())
    if not tops:
        raise NothingToDraw("no log has two timed steps")
    margin = 0.05 * (max(tops) - min(lows)) or 0.05
    ax.set_ylim(min(lows) - margin, max(tops) + margin)
    ax.set_xlim(left=0)


def legend_below(fig, axes) -> None:
    """One legend under all axes, where it covers nothing."""
    legends = [ax.get_legend_handles_labels() for ax in axes.flat]
    handles, labels = max(legends, key=lambda legend: len(legend[1]))
    columns = 1 if max(map(len, labels)) > 44 else 2  # two long labels do not fit side by side
    fig.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


# Curves and speed ---------------------------------------------------------------------------------


def draw_curves(groups: list[SeedGroup]):
    """Loss, and bpb where there are validations, against steps, time and tokens."""
    from matplotlib.ticker import MaxNLocator

    runs = [run for group in groups for run in group.runs]
    rows = [("train_loss", "training loss (nats per token)")]
    if any(len(series(run, "steps", "val_bpb")) > 1 for run in runs):
        rows.append(("val_bpb", "validation, bits per byte"))
    columns = []
    for axis in AXES:
        if any(len(series(run, axis, "train_loss")) > 1 for run in runs):
            columns.append(axis)
    if not columns:
        raise NothingToDraw("no log has two timed steps with a loss")

    fig, axes = figure(len(columns), len(rows), 1.2 + 3.5 * len(columns), 0.9 + 2.9 * len(rows))
    for row, (key, label) in zip(axes, rows, strict=True):
        for ax, axis in zip(row, columns, strict=True):
            # axis and key are bound here: the loop has gone on when the function is called.
            draw_lines(ax, groups, lambda run, axis=axis, key=key: series(run, axis, key))
            ax.set_xlabel(AXES[axis][0])
            ax.xaxis.set_major_formatter(count)
            ax.xaxis.set_major_locator(MaxNLocator(6))
        row[0].set_ylabel(label)
        # One axis of losses for all: its numbers stand once, at the left.
        for ax in row[1:]:
            ax.tick_params(labelleft=False)
            ax.sharey(row[0])
    axes[0, 0].set_title("Loss" if len(rows) == 1 else "Loss and bits per byte")
    if any(len(group.runs) > 1 for group in groups):
        note = "line: mean, band: lowest to highest"
        axes[0, -1].set_title(note, fontweight="normal", loc="right")
    legend_below(fig, axes)
    return fig


def speed_curve(run: Run, key: str) -> np.ndarray:
    """Rows of step and speed."""
    pairs = [(point["step"], point[key]) for point in speeds(run) if key in point]
    return np.array(pairs, dtype=float).reshape(-1, 2)


def draw_speed(groups: list[SeedGroup]):
    """Time of a step, and tokens per second, against steps."""
    runs = [run for group in groups for run in group.runs]
    panels = [("step_ms", "time of a step (ms)", "Time of a step")]
    if any(len(speed_curve(run, "tokens_per_second")) > 1 for run in runs):
        panels.append(("tokens_per_second", "training tokens per second", "Throughput"))
    fig, axes = figure(len(panels), 1, 5.0 * len(panels), 3.7)
    for ax, (key, label, title) in zip(axes[0], panels, strict=True):
        draw_lines(ax, groups, lambda run, key=key: speed_curve(run, key))
        ax.set_ylim(bottom=0)
        ax.set_xlabel("optimizer steps")
        ax.set_ylabel(label)
        ax.set_title(title)
        ax.xaxis.set_major_formatter(count)
        ax.yaxis.set_major_formatter(count)
    legend_below(fig, axes)
    return fig


# Bytes and rounding -------------------------------------------------------------------------------


def byte_rows(summary: dict, code_bytes: int | None) -> list[dict]:
    """Name, bytes, entropy bytes and parameters of each part, the largest first; they add up.

    summary is codec.report's. Groups under 1 % are one row; header and code have no parameters.
    """
    columns = ("bytes", "entropy_bytes", "parameters")
    rows = []
    small = dict.fromkeys(columns, 0)
    for name, group in sorted(summary["groups"].items(), key=lambda item: -item[1]["bytes"]):
        if group["bytes"] >= SMALL_SHARE * summary["bytes"]:
            rows.append({"name": name, **{column: group[column] for column in columns}})
        else:
            for column in columns:
                small[column] += group[column]
    if small["bytes"]:
        rows.append({"name": "others, each under 1 %", **small})
    # What no group accounts for, so that the bars add up to the file.
    header_bytes = summary["bytes"] - sum(row["bytes"] for row in rows)
    for name, size in (("header and checksum", header_bytes), ("code", code_bytes)):
        if size:
            rows.append({"name": name, "bytes": size, "entropy_bytes": None, "parameters": None})
    return rows


def draw_bytes(groups: list[SeedGroup]):
    """Bytes by tensor group of the first run that has an artifact."""
    import quantize
    from codec.report import byte_account

    run = first_with(groups, "artifact.pgz")
    summary = byte_account((run.path.parent / "artifact.pgz").read_bytes())
    rows = byte_rows(summary, run.code_bytes)
    # A smoke model has 0.3 MB: in kB its bars have numbers that can be read.
    unit, scale = ("MB", 1e6) if summary["bytes"] > 2e6 else ("kB", 1e3)
    fig, ((ax,),) = figure(1, 1, 9.4, 1.3 + 0.34 * len(rows))
    places = range(len(rows), 0, -1)
    for place, row in zip(places, rows, strict=True):
        size = row["bytes"] / scale
        bound = (row["entropy_bytes"] or 0) / scale
        text = f"{row['bytes']:,}"
        colour = LIGHT_GREY
        if row["parameters"]:
            bits = 8 * row["bytes"] / row["parameters"]
            text += f"   {bits:.2f} bits × {row['parameters']:,}"
            colour = COLOURS[0]
            # A codec cannot be below this line without a model of the order of its symbols.
            ax.plot([bound, bound], [place - 0.43, place + 0.43], color="#000000", linewidth=1.6)
        ax.barh(place, size, color=colour, height=0.72)
        ax.annotate(
            text,
            (max(size, bound), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    ax.set_yticks(places, [row["name"] for row in rows])
    ax.grid(False, axis="y")
    # Room for the numbers behind the longest bar.
    ax.set_xlim(0, 1.42 * max(row["bytes"] for row in rows) / scale)
    ax.set_xlabel(f"stored size ({unit}); black: order-0 entropy of the symbols")
    total = run.total_bytes or summary["bytes"]
    scope = "with code" if run.total_bytes else "without code"
    share = f"{100 * total / quantize.CAP_BYTES:.1f} % of the cap of {quantize.CAP_BYTES:,}"
    title = f"Bytes of {run.run_id or run.path.stem}: {total:,} {scope}, {share}"
    fig.suptitle(title, fontsize=11.5, fontweight="bold", x=0.01, ha="left")
    return fig


def tensors(folder: Path) -> list[dict]:
    """Name, bits, bits stored for each parameter, and relative error of each tensor.

    What describes the points of all tensors on the trellis (bits: POINT_BITS) belongs to none.
    Raises: NothingToDraw where artifact or checkpoint are missing, damaged, or not of one run.
    """
    import quantize
    from codec.report import tensor_accounts

    artifact = folder / "artifact.pgz"
    checkpoint = folder / "checkpoint.pt"
    for path in (artifact, checkpoint):
        if not path.is_file():
            raise NothingToDraw(f"{folder} has no {path.name}")
    blob = artifact.read_bytes()
    try:
        accounts, _ = tensor_accounts(blob)
        exported, _ = quantize.load_checkpoint(checkpoint)
    except ValueError as error:
        raise NothingToDraw(f"{folder}: {error}") from error
    account_of = {account.name: account for account in accounts}
    _, entries, _ = quantize.read_header(blob)
    rows = []
    for name, shape, bits, *_ in entries:
        if name not in exported or list(exported[name].shape) != shape:
            raise NothingToDraw(f"{folder}: checkpoint.pt is not what artifact.pgz was made from")
        exact = exported[name].double()
        parameters = max(math.prod(shape), 1)
        # In double precision: sums of 10^7 squares lose digits in fp32.
        power = float(exact.square().sum())
        error = float((account_of[name].weight - exact).square().sum())
        rows.append(
            {
                "name": name,
                "bits": bits,
                "parameters": parameters,
                "stored_bits": 8 * account_of[name].stored_bytes / parameters,
                "relative_rms": math.sqrt(error / power) if power else 0.0,
            }
        )
    return rows


def kind_of(name: str) -> str:
    """The name with every number as a star: blocks.3.attn.q is blocks.*.attn.q."""
    return re.sub(r"\b\d+\b", "*", name)


def draw_error(groups: list[SeedGroup]):
    """Relative error of each matrix against the bits it takes, of the first run that can tell."""
    from matplotlib.ticker import LogLocator

    import quantize

    run = first_with(groups, "checkpoint.pt")
    rows = tensors(run.path.parent)
    matrices = []
    for row in rows:
        if row["bits"] != quantize.FP16_BITS and row["relative_rms"] > 0:
            matrices.append(row)
    if not matrices:
        raise NothingToDraw("no matrix was rounded")
    fig, ((ax,),) = figure(1, 1, 9.4, 4.6)
    kinds = dict.fromkeys(kind_of(row["name"]) for row in matrices)
    for i, kind in enumerate(kinds):
        of_kind = [row for row in matrices if kind_of(row["name"]) == kind]
        bits = sorted({row["bits"] for row in of_kind})
        grid = "" if bits == [quantize.POINT_BITS] else f" (int{'/'.join(map(str, bits))})"
        ax.scatter(
            [row["stored_bits"] for row in of_kind],
            [100 * row["relative_rms"] for row in of_kind],
            s=38,
            alpha=0.75,
            linewidths=0,
            label=kind + grid,
            marker=MARKERS[i % len(MARKERS)],
            color=COLOURS[i % len(COLOURS)],
        )
    # The bound is drawn a little beyond the points on both sides.
    stored = np.array([row["stored_bits"] for row in matrices])
    x = np.linspace(stored.min() - 0.3, stored.max() + 0.3, 50)
    # The rate-distortion bound of a Gaussian: each bit halves the error.
    bound = "least possible for Gaussian weights"
    ax.plot(x, 100 * 2.0**-x, color=GREY, linewidth=1.2, label=bound)
    ax.set_yscale("log")
    ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    ax.grid(True, axis="y", which="minor")
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter("{x:g}")
    ax.tick_params(axis="y", which="minor", labelsize=8)
    ax.set_xlabel("stored bits of a parameter, scales or exponents included")
    ax.set_ylabel("error, % of the matrix's norm (rms)")
    ax.set_title(f"Rounding error by matrix, {run.run_id or run.path.stem}")
    fig.legend(*ax.get_legend_handles_labels(), loc="outside right upper", fontsize=9)
    return fig


# Test-time training -------------------------------------------------------------------------------


def read_ttt(path: Path) -> dict[str, np.ndarray]:
    """The four lists of a TTT record, checked.

    Raises: ValueError naming the file, what is wrong with it, and the form it must have.
    """
    names = ("targets", "bytes", "before", "after")
    try:
        record = json.loads(path.read_bytes())
        record = record.get("chunks", record)
        lists = {name: np.array(record[name], float) for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: {error!r}; must be lists targets, bytes, before, after"
        ) from None
    shapes = {values.shape for values in lists.values()}
    are_lists = all(values.ndim == 1 and values.size for values in lists.values())
    if len(shapes) > 1 or not are_lists:
        raise ValueError(
            f"{path}: lists of shapes {sorted(shapes)} must be equally long, not empty"
        )
    if not (lists["bytes"].sum() > 0 and (lists["targets"] > 0).all()):
        raise ValueError(f"{path}: every chunk must have targets, and some must have bytes")
    return lists


def draw_ttt(groups: list[SeedGroup], path: Path | None):
    """What TTT gains in each chunk, and up to there, against the position in the text."""
    if not path:
        try:
            path = first_with(groups, "ttt.json").path.parent / "ttt.json"
        except NothingToDraw as error:
            raise NothingToDraw(f"{error}, and there is no --ttt FILE") from None
    record = read_ttt(path)
    position = np.cumsum(record["targets"])
    bits = (record["before"] - record["after"]) / math.log(2)
    with np.errstate(divide="ignore", invalid="ignore"):  # a chunk may have no bytes
        of_each = 1000 * bits / record["bytes"]
    # Of sums, not of means: a chunk of few bytes must not count as much as one of many.
    so_far = 1000 * np.cumsum(bits) / np.cumsum(record["bytes"])
    fig, ((ax,),) = figure(1, 1, 9.4, 3.9)
    ax.plot(position, of_each, color=COLOURS[5], linewidth=1, label="of each chunk")
    ax.plot(position, so_far, color=COLOURS[0], linewidth=2.4, label="of all text up to there")
    ax.axhline(0, color=GREY, linewidth=1)
    ax.set_xlim(0, position[-1])
    ax.xaxis.set_major_formatter(count)
    ax.set_xlabel("position in the validation text (tokens)")
    ax.set_ylabel("gain (0.001 bits per byte)")
    ax.set_title(f"Gain of test-time training: {so_far[-1] / 1000:.4f} bpb in all")
    legend_below(fig, np.array([ax]))
    return fig


# Command ------------------------------------------------------------------------------------------


def draw_all(
    groups: list[SeedGroup], ttt: Path | None, form: str, out: Path
) -> tuple[list[Path], dict[str, str]]:
    """Write every picture there are data for; returns the paths, and why others are missing.

    Raises: ImportError with the install command.
    """
    try:
        import matplotlib
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which `python3 golf.py plot` installs; or use --terminal"
        ) from error
    from quantize import ArtifactError, write_atomic

    pictures: dict[str, Callable] = {
        "curves": draw_curves,
        "speed": draw_speed,
        "bytes": draw_bytes,
        "error": draw_error,
        "ttt": lambda groups: draw_ttt(groups, ttt),
    }
    written = []
    missing = {}
    with matplotlib.rc_context(STYLE):
        for name, draw in pictures.items():
            buffer = io.BytesIO()
            metadata = {"Date": None} if form == "svg" else None
            # One picture that cannot be drawn must not cost the others.
            try:
                draw(groups).savefig(buffer, format=form, metadata=metadata)
            except (NothingToDraw, ArtifactError) as error:
                missing[name] = str(error)
                continue
            out.mkdir(parents=True, exist_ok=True)
            path = out / f"{name}.{form}"
            write_atomic(path, buffer.getvalue())
            written.append(path)
    return written, missing


def sketch_all(groups: list[SeedGroup]) -> tuple[list[str], dict[str, str]]:
    """Every sketch there are data for, and why others are missing."""
    sketches = []
    missing = {}
    for name, draw in (("curves", sketch), ("bytes", sketch_bytes)):
        try:
            sketches.append(draw(groups))
        except NothingToDraw as error:
            missing[name] = str(error)
    return sketches, missing


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="golf.py plot", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="log, run folder or id, or record folder")
    add("--out", type=Path, default=Path("logs/plots"), help="folder, default logs/plots")
    add("--format", choices=("png", "svg"), default="png")
    add("--ttt", type=Path, metavar="FILE", help="JSON of nats by chunk, without and with TTT")
    add("--terminal", action="store_true", help="characters instead of pictures")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    written = []
    sketches = []
    try:
        groups = group_runs([run for path in args.runs for run in read_runs(path)])
        if args.terminal:
            sketches, missing = sketch_all(groups)
        else:
            written, missing = draw_all(groups, args.ttt, args.format, args.out)
    except (ValueError, OSError, ImportError) as error:
        print(f"golf.py plot: {error}", file=sys.stderr)
        return 2
    if args.json:
        paths = [str(path) for path in written]
        print(json.dumps({"written": paths, "missing": missing, "terminal": sketches}))
    else:
        print(*sketches, sep="\n\n") if args.terminal else print(*written, sep="\n")
        for name, reason in missing.items():
            print(f"no {name}: {reason}", file=sys.stderr)
    return 0 if written or sketches else 1


if __name__ == "__main__":
    sys.exit(main())
