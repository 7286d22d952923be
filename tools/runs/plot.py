"""Draw runs: curves, speed, where the bytes go, what rounding loses, what TTT gains.

    python3 golf.py --with plots tools.runs.plot RUN... [--out DIR] [--format png|svg] [--ttt FILE]
    python3 golf.py tools.runs.plot RUN... --terminal    # a quick look, in characters

A RUN is a log, a run folder or id, or a record folder. Runs that differ by their seed alone form
one group: its mean as a line, from its lowest to its highest as a band. Pictures:

    curves  training loss, and bpb where the run validated, by steps, time and tokens
    speed   time of a step and tokens per second
    bytes   bytes of the artifact by tensor group, against the order-0 entropy of its symbols
    error   relative rounding error of each matrix by the bits it takes (needs checkpoint.pt)
    ttt     what test-time training gains by position: from FILE, or ttt.json in a run's folder

The JSON of the last is what `evaluate.py ARTIFACT --ttt --json` prints. Its "chunks" are four lists
with an entry for each chunk of the validation text: "targets" and "bytes", their numbers, "before"
and "after", the nats without and with TTT.

Exit status 0: something was drawn, 1: of nothing that was asked for, 2: a RUN cannot be read. What
is not drawn is listed with the reason.
"""

import argparse
import io
import itertools
import json
import math
import re
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tools.runs.logs import Run, read_runs
from tools.runs.registry import settings_hash

# Okabe and Ito's colours, which all kinds of colour vision tell apart, without their yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", ":", "-.")
GREY = "#666666"
STYLE = {
    **{
        "font.size": 10.5,
        "axes.titlesize": 11.5,
        "axes.titleweight": "bold",
        "lines.linewidth": 1.8,
    },
    **{"axes.grid": True, "grid.color": "#dddddd", "grid.linewidth": 0.7, "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False},
    **{"svg.hashsalt": "tools.runs.plot", "svg.fonttype": "none", "axes.titlelocation": "left"},
}
AXES = {  # of a curve: label, and how it is made from a point of a log
    "steps": ("optimizer steps", lambda point: point["step"]),
    "time": ("training time (s)", lambda point: point["train_time_ms"] / 1000),
    "tokens": ("training tokens", lambda point: point["tokens"]),
}
# Settings that no label tells: names, places, and how often something is written.
UNTOLD = re.compile(r"^(run_id|resume|seed)$|_path$|_every$|^checkpoint_seconds$")
START_FRAC = 0.04  # of a run: higher losses before it do not stretch the axis


class NothingToDraw(ValueError):
    """A picture has no data; str() says what is missing."""


@dataclass(frozen=True)
class Group:
    """Runs of equal settings, with different seeds."""

    label: str
    runs: list[Run]

    def bpb(self) -> str:
        """The final scores as one text: mean and standard deviation, never the best alone."""
        bpbs = [run.score.val_bpb for run in self.runs if run.score]
        if not bpbs:
            return "no final score"
        spread = f" ± {statistics.stdev(bpbs):.4f}" if len(bpbs) > 1 else ""
        partial = (
            " (part of the text)" if any(r.score and r.score.is_partial for r in self.runs) else ""
        )
        missing = f", {len(self.runs) - len(bpbs)} without a score" * (len(bpbs) < len(self.runs))
        return f"{statistics.fmean(bpbs):.4f}{spread} bpb{partial}{missing}"


# Data ---------------------------------------------------------------------------------------------


def group_runs(runs: list[Run]) -> list[Group]:
    """Groups in the order of their first run, named by it and by settings that tell them apart."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        key = settings_hash(run.settings) if run.settings else str(run.path)
        groups.setdefault(key, []).append(run)
    firsts = [members[0] for members in groups.values()]
    values = {name: {str(run.settings.get(name)) for run in firsts} for name in firsts[0].settings}
    differing = [n for n, v in values.items() if len(v) > 1 and not UNTOLD.search(n)]
    found = []
    for members in groups.values():
        name = members[0].run_id or members[0].path.stem
        name = re.sub(r"[_-]?seed[_-]?\d+$", "", name) if len(members) > 1 else name
        shown = [f"{n.upper()}={members[0].settings.get(n)}" for n in differing[:2]]
        told = [text for text in shown if text.split("=")[1] not in name]
        label = name + (f" ({' '.join(told)})" if told else "")
        found.append(
            Group(label + (f", {len(members)} seeds" if len(members) > 1 else ""), members)
        )
    return found


def points(run: Run) -> list[dict]:
    """The run's curve, with times between those that were logged where a point has none."""
    timed = [point for point in run.curve if point["train_time_ms"] is not None]
    if not timed:
        return []
    steps, times = [p["step"] for p in timed], [p["train_time_ms"] for p in timed]
    return [p | {"train_time_ms": float(np.interp(p["step"], steps, times))} for p in run.curve]


def series(run: Run, axis: str, key: str) -> np.ndarray:
    """x and y, one row for each point of the curve that has both."""
    read_x = AXES[axis][1]
    has_x = (lambda point: "tokens" in point) if axis == "tokens" else (lambda point: True)
    pairs = [(read_x(p), p[key]) for p in points(run) if p.get(key) is not None and has_x(p)]
    return np.array([pair for pair in pairs if math.isfinite(pair[1])], dtype=float).reshape(-1, 2)


def speeds(run: Run) -> list[dict]:
    """Milliseconds of a step and tokens per second between each two logged points."""
    timed, found = [point for point in run.curve if point["train_time_ms"] is not None], []
    for previous, point in itertools.pairwise(timed):
        steps = point["step"] - previous["step"]
        took_ms = point["train_time_ms"] - previous["train_time_ms"]
        if took_ms > 0:
            speed = {"step": (point["step"] + previous["step"]) / 2, "step_ms": took_ms / steps}
            if "tokens" in point:
                batch_tokens = point["tokens"] / point["step"]
                speed["tokens_per_second"] = 1000 * batch_tokens * steps / took_ms
            found.append(speed)
    return found


def band(curves: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, and mean, lowest and highest y there, over the range that all curves cover."""
    first, last = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    x = np.unique(np.concatenate([c[:, 0] for c in curves]))
    x = x[(x >= first) & (x <= last)]
    if len(x) == 0:
        raise NothingToDraw("the runs of a group have no common range")
    y = np.stack([np.interp(x, c[:, 0], c[:, 1]) for c in curves])
    return x, y.mean(axis=0), y.min(axis=0), y.max(axis=0)


def read_ttt(path: Path) -> dict[str, np.ndarray]:
    """The four lists of a TTT record, checked.

    Raises: ValueError naming the file, what is wrong with it, and the form it must have.
    """
    try:
        record = json.loads(path.read_bytes())
        record = record.get("chunks", record)
        lists = {
            name: np.array(record[name], float) for name in ("targets", "bytes", "before", "after")
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: {error!r}; must be lists targets, bytes, before, after"
        ) from None
    sizes = {values.shape for values in lists.values()}
    if len(sizes) > 1 or not all(values.ndim == 1 and values.size for values in lists.values()):
        raise ValueError(f"{path}: lists of shapes {sorted(sizes)} must be equally long, not empty")
    if not (lists["bytes"].sum() > 0 and (lists["targets"] > 0).all()):
        raise ValueError(f"{path}: every chunk must have targets, and some must have bytes")
    return lists


def tensors(folder: Path) -> list[dict]:
    """Name, bits, bits stored for each parameter, and relative error of each tensor.

    A tensor on the trellis (bits: POINT_BITS) stores its points and a share of what describes the
    points of all, in the same proportion. Raises: NothingToDraw where artifact or checkpoint are
    missing, damaged, or not of one run.
    """
    import quantize
    from codec import rans

    paths = {name: folder / name for name in ("artifact.pgz", "checkpoint.pt")}
    for name, path in paths.items():
        if not path.is_file():
            raise NothingToDraw(f"{folder} has no {name}")
    blob = paths["artifact.pgz"].read_bytes()
    try:
        weights, _ = quantize.decode(blob)
        exported, _ = quantize.load_checkpoint(paths["checkpoint.pt"])
    except ValueError as error:
        raise NothingToDraw(f"{folder}: {error}") from error
    _, entries, offset = quantize.read_header(blob)
    stored = {entry.name: entry.half_bytes + entry.code_bytes for entry in entries}
    if on_trellis := list(quantize.read_points(blob, entries, offset)):
        shares = rans.coded_bytes([points for _, points, _ in on_trellis])
        stream = len(blob) - quantize.CHECKSUM_BYTES - quantize.points_start(entries, offset)
        for share, (entry, *_) in zip(shares, on_trellis, strict=True):
            stored[entry.name] = stream * share / max(sum(shares), 1)
    found = []
    for name, shape, bits, *_ in entries:
        if name not in exported or list(exported[name].shape) != shape:
            raise NothingToDraw(f"{folder}: checkpoint.pt is not what artifact.pgz was made from")
        exact, parameters = exported[name].double(), max(math.prod(shape), 1)
        power = float(exact.square().sum())
        error = float((weights[name] - exact).square().sum())
        found.append({
            **{"name": name, "bits": bits, "parameters": parameters},
            "stored_bits": 8 * stored[name] / parameters,
            "relative_rms": math.sqrt(error / power) if power else 0.0,
        })  # fmt: skip
    return found


# Pictures -----------------------------------------------------------------------------------------


def figure(columns: int, rows: int, width: float, height: float):
    """An empty figure and its axes, row by row."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained", dpi=160)
    return fig, fig.subplots(rows, columns, squeeze=False)


def count(value: float, _position=None) -> str:
    """A number of steps or tokens, short: 2,000, 50 k, 1.5 M, 8 B."""
    for least, size, unit in ((1e9, 1e9, " B"), (1e6, 1e6, " M"), (1e4, 1e3, " k")):
        if abs(value) >= least:
            return f"{value / size:g}{unit}"
    return f"{value:,g}"


def draw_lines(ax, groups: list[Group], curves_of: Callable[[Run], np.ndarray]) -> None:
    """Draw each group as a line, with a band over several seeds, in the axis' full height."""
    tops, lows = [], []
    for i, group in enumerate(groups):
        curves = [curve for curve in map(curves_of, group.runs) if len(curve) > 1]
        if not curves:
            continue
        x, mean, low, high = band(curves)
        look = {"color": COLOURS[i % len(COLOURS)], "linestyle": DASHES[i // len(COLOURS) % 4]}
        ax.plot(x, mean, label=f"{group.label}: {group.bpb()}", **look)
        if len(curves) > 1:
            ax.fill_between(x, low, high, color=look["color"], alpha=0.22, linewidth=0)
        late = x >= x[0] + START_FRAC * (x[-1] - x[0])
        tops.append(high[late].max())
        lows.append(low.min())
    if not tops:
        raise NothingToDraw("no log has two timed steps")
    margin = 0.05 * (max(tops) - min(lows)) or 0.05
    ax.set_ylim(min(lows) - margin, max(tops) + margin)
    ax.set_xlim(left=0)


def legend_below(fig, axes) -> None:
    """One legend under all axes, where it covers nothing."""
    handles, labels = max(
        (ax.get_legend_handles_labels() for ax in axes.flat), key=lambda p: len(p[1])
    )
    columns = 1 if max(map(len, labels)) > 44 else 2
    fig.legend(handles, labels, loc="outside lower center", ncols=min(columns, len(labels)))


def draw_curves(groups: list[Group]):
    """Loss, and bpb where there are validations, against steps, time and tokens."""
    runs = [run for group in groups for run in group.runs]
    rows = [("train_loss", "training loss (nats per token)")]
    if any(len(series(run, "steps", "val_bpb")) > 1 for run in runs):
        rows.append(("val_bpb", "validation, bits per byte"))
    columns = [
        axis for axis in AXES if any(len(series(run, axis, "train_loss")) > 1 for run in runs)
    ]
    if not columns:
        raise NothingToDraw("no log has two timed steps with a loss")
    fig, axes = figure(len(columns), len(rows), 1.2 + 3.5 * len(columns), 0.9 + 2.9 * len(rows))
    for row, (key, label) in zip(axes, rows, strict=True):
        for ax, axis in zip(row, columns, strict=True):
            draw_lines(ax, groups, lambda run, axis=axis, key=key: series(run, axis, key))
            ax.set_xlabel(AXES[axis][0])
            ax.xaxis.set_major_formatter(count)
            ax.xaxis.set_major_locator(max_ticks(6))
        row[0].set_ylabel(label)
        for ax in row[1:]:
            ax.tick_params(labelleft=False)
            ax.sharey(row[0])
    axes[0, 0].set_title("Loss" if len(rows) == 1 else "Loss and bits per byte")
    if any(len(group.runs) > 1 for group in groups):
        axes[0, -1].set_title(
            "line: mean, band: lowest to highest", fontweight="normal", loc="right"
        )
    legend_below(fig, axes)
    return fig


def max_ticks(number: int):
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(number)


def draw_speed(groups: list[Group]):
    """Time of a step, and tokens per second, against steps."""

    def read(key: str) -> Callable[[Run], np.ndarray]:
        def curve(run: Run) -> np.ndarray:
            pairs = [(point["step"], point[key]) for point in speeds(run) if key in point]
            return np.array(pairs, dtype=float).reshape(-1, 2)

        return curve

    panels = [("step_ms", "time of a step (ms)", "Time of a step")]
    if any(len(read("tokens_per_second")(run)) > 1 for group in groups for run in group.runs):
        panels.append(("tokens_per_second", "training tokens per second", "Throughput"))
    fig, axes = figure(len(panels), 1, 5.0 * len(panels), 3.7)
    for ax, (key, label, title) in zip(axes[0], panels, strict=True):
        draw_lines(ax, groups, read(key))
        ax.set_ylim(bottom=0)
        ax.set_xlabel("optimizer steps")
        ax.set_ylabel(label)
        ax.set_title(title)
        for set_format in (ax.xaxis, ax.yaxis):
            set_format.set_major_formatter(count)
    legend_below(fig, axes)
    return fig


def byte_rows(summary: dict, code_bytes: int | None) -> list[dict]:
    """Name, bytes, entropy bytes and parameters of each part, the largest first; they add up.

    summary is codec.report's. Groups under 1 % are one row; header and code have no parameters.
    """
    columns = ("bytes", "entropy_bytes", "parameters")
    groups = sorted(summary["groups"].items(), key=lambda item: -item[1]["bytes"])
    rows = [{"name": name} | {key: group[key] for key in columns} for name, group in groups]
    small = [row for row in rows if row["bytes"] < 0.01 * summary["bytes"]]
    rows = [row for row in rows if row not in small]
    if small:
        total = {key: sum(row[key] for row in small) for key in columns}
        rows.append({"name": "others, each under 1 %", **total})
    header_bytes = summary["bytes"] - sum(row["bytes"] for row in rows)
    for name, size in (("header and checksum", header_bytes), ("code", code_bytes)):
        rows += [{"name": name, "bytes": size, "entropy_bytes": None, "parameters": None}] * bool(
            size
        )
    return rows


def draw_bytes(groups: list[Group]):
    """Bytes by tensor group of the first run that has an artifact."""
    import quantize
    from codec.report import byte_account

    run = first_with(groups, "artifact.pgz")
    summary = byte_account((run.path.parent / "artifact.pgz").read_bytes())
    rows = byte_rows(summary, run.code_bytes)
    unit, scale = ("MB", 1e6) if summary["bytes"] > 2e6 else ("kB", 1e3)
    fig, ((ax,),) = figure(1, 1, 9.4, 1.3 + 0.34 * len(rows))
    for place, row in zip(range(len(rows), 0, -1), rows, strict=True):
        size, bound = row["bytes"] / scale, (row["entropy_bytes"] or 0) / scale
        text, colour = f"{row['bytes']:,}", "#999999"
        if row["parameters"]:
            bits, colour = 8 * row["bytes"] / row["parameters"], COLOURS[0]
            text += f"   {bits:.2f} bits × {row['parameters']:,}"
            ax.plot([bound, bound], [place - 0.43, place + 0.43], color="#000000", linewidth=1.6)
        ax.barh(place, size, color=colour, height=0.72)
        beside = {"xytext": (6, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        ax.annotate(text, (max(size, bound), place), **beside)
    ax.set_yticks(range(len(rows), 0, -1), [row["name"] for row in rows])
    ax.grid(False, axis="y")
    ax.set_xlim(0, 1.42 * max(row["bytes"] for row in rows) / scale)
    ax.set_xlabel(f"stored size ({unit}); black: order-0 entropy of the symbols")
    total = run.total_bytes or summary["bytes"]
    what = "with code" if run.total_bytes else "without code"
    share = f"{100 * total / quantize.CAP_BYTES:.1f} % of the cap of {quantize.CAP_BYTES:,}"
    fig.suptitle(
        f"Bytes of {run.run_id or run.path.stem}: {total:,} {what}, {share}",
        **{"fontsize": 11.5, "fontweight": "bold", "x": 0.01, "ha": "left"},
    )
    return fig


def first_with(groups: list[Group], name: str) -> Run:
    """The first run in whose folder the file lies. Raises: NothingToDraw."""
    for group in groups:
        for run in group.runs:
            if (run.path.parent / name).is_file():
                return run
    raise NothingToDraw(f"no run's folder has {name}")


def draw_error(groups: list[Group]):
    """Relative error of each matrix against the bits it takes, of the first run that can tell."""
    from matplotlib.ticker import LogLocator

    import quantize

    run = first_with(groups, "checkpoint.pt")
    rows = tensors(run.path.parent)
    matrices = [r for r in rows if r["bits"] != quantize.FP16_BITS and r["relative_rms"] > 0]
    if not matrices:
        raise NothingToDraw("no matrix was rounded")
    kinds = list(dict.fromkeys(re.sub(r"\b\d+\b", "*", row["name"]) for row in matrices))
    fig, ((ax,),) = figure(1, 1, 9.4, 4.6)
    for i, kind in enumerate(kinds):
        ours = [row for row in matrices if re.sub(r"\b\d+\b", "*", row["name"]) == kind]
        x, y = [row["stored_bits"] for row in ours], [100 * row["relative_rms"] for row in ours]
        look = {"marker": "osD^vPX*"[i % 8], "color": COLOURS[i % len(COLOURS)]}
        bits = sorted({row["bits"] for row in ours})
        grid = "" if bits == [quantize.POINT_BITS] else f" (int{'/'.join(map(str, bits))})"
        ax.scatter(x, y, s=38, alpha=0.75, linewidths=0, label=kind + grid, **look)
    bits = np.array([row["stored_bits"] for row in matrices])
    x = np.linspace(bits.min() - 0.3, bits.max() + 0.3, 50)
    ax.plot(
        x, 100 * 2.0**-x, color=GREY, linewidth=1.2, label="least possible for Gaussian weights"
    )
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


def draw_ttt(groups: list[Group], path: Path | None):
    """What TTT gains in each chunk, and up to there, against the position in the text."""
    if not path:
        try:
            path = first_with(groups, "ttt.json").path.parent / "ttt.json"
        except NothingToDraw as error:
            raise NothingToDraw(f"{error}, and there is no --ttt FILE") from None
    record = read_ttt(path)
    position = np.cumsum(record["targets"])
    nats = record["before"] - record["after"]
    with np.errstate(divide="ignore", invalid="ignore"):
        each = 1000 * nats / math.log(2) / record["bytes"]
    total = 1000 * np.cumsum(nats) / math.log(2) / np.cumsum(record["bytes"])
    fig, ((ax,),) = figure(1, 1, 9.4, 3.9)
    ax.plot(position, each, color=COLOURS[5], linewidth=1, label="of each chunk")
    ax.plot(position, total, color=COLOURS[0], linewidth=2.4, label="of all text up to there")
    ax.axhline(0, color=GREY, linewidth=1)
    ax.set_xlim(0, position[-1])
    ax.xaxis.set_major_formatter(count)
    ax.set_xlabel("position in the validation text (tokens)")
    ax.set_ylabel("gain (0.001 bits per byte)")
    ax.set_title(f"Gain of test-time training: {total[-1] / 1000:.4f} bpb in all")
    legend_below(fig, np.array([ax]))
    return fig


def draw_all(
    groups: list[Group], ttt: Path | None, form: str, out: Path
) -> tuple[list[Path], dict]:
    """Write every picture there are data for; returns the paths, and why others are missing.

    Raises: ImportError with the install command.
    """
    try:
        import matplotlib
    except ImportError as error:
        install = "python3 golf.py --with plots tools.runs.plot …"
        raise ImportError(f"pictures need matplotlib: {install}, or use --terminal") from error
    from quantize import ArtifactError, write_atomic

    pictures: dict[str, Callable] = {
        **{"curves": draw_curves, "speed": draw_speed, "bytes": draw_bytes, "error": draw_error},
        "ttt": lambda groups: draw_ttt(groups, ttt),
    }
    written, missing = [], {}
    with matplotlib.rc_context(STYLE):
        for name, draw in pictures.items():
            try:
                buffer = io.BytesIO()
                metadata = {"Date": None} if form == "svg" else None
                draw(groups).savefig(buffer, format=form, metadata=metadata)
            except (NothingToDraw, ArtifactError) as error:
                missing[name] = str(error)
                continue
            out.mkdir(parents=True, exist_ok=True)
            write_atomic(out / f"{name}.{form}", buffer.getvalue())
            written.append(out / f"{name}.{form}")
    return written, missing


# Terminal -----------------------------------------------------------------------------------------


def sketch(groups: list[Group], width: int = 68, height: int = 15) -> str:
    """Training loss against steps in characters, a letter for each group.

    Raises: NothingToDraw.
    """
    lines, letters = {}, {}
    for group, letter in zip(groups, "abcdefghijklmnopqrstuvwxyz", strict=False):
        curves = [series(run, "steps", "train_loss") for run in group.runs]
        if curves := [curve for curve in curves if len(curve) > 1]:
            lines[letter], letters[letter] = band(curves)[:2], group
    if not lines:
        raise NothingToDraw("no log has two timed steps with a loss")
    last = max(x[-1] for x, _ in lines.values())
    shown = [y[x >= x[0] + START_FRAC * (x[-1] - x[0])] for x, y in lines.values()]
    low, high = min(map(np.min, shown)), max(map(np.max, shown))
    rows = [[" "] * width for _ in range(height)]
    for letter, (x, y) in lines.items():
        columns = np.arange(width)
        at = (columns + 0.5) / width * last
        values = np.interp(at, x, y)
        for column in columns[(at >= x[0]) & (at <= x[-1]) & (values <= high)]:
            place = round((high - values[column]) / max(high - low, 1e-9) * (height - 1))
            rows[place][column] = "*" if rows[place][column] not in (" ", letter) else letter
    text = ["training loss (nats per token)"]
    for i, row in enumerate(rows):
        value = high - (high - low) * i / (height - 1)
        text.append(f"{f'{value:.3f}' if i % 7 == 0 else '':>7} |{''.join(row).rstrip()}")
    text.append(f"{'':7} +{'-' * width}")
    text.append(f"{'':8}0{'optimizer steps':^{width - 12}}{last:>11,.0f}")
    text += [f"{letter} = {group.label}: {group.bpb()}" for letter, group in letters.items()]
    return "\n".join(text + ["* = several"] * any("*" in row for row in rows))


def sketch_bytes(groups: list[Group], width: int = 40) -> str:
    """Bytes by tensor group, as bars of characters. Raises: NothingToDraw."""
    run = first_with(groups, "artifact.pgz")
    from codec.report import byte_account

    summary = byte_account((run.path.parent / "artifact.pgz").read_bytes())["groups"]
    most = max(group["bytes"] for group in summary.values())
    lines = [f"bytes of {run.run_id or run.path.stem}"]
    for name, group in sorted(summary.items(), key=lambda item: -item[1]["bytes"]):
        bar = "#" * max(1, round(width * group["bytes"] / most))
        bits = group["parameters"] and f"{8 * group['bytes'] / group['parameters']:6.2f} bits"
        lines.append(f"{name:34} {group['bytes']:>11,} {bits or '':11} {bar}")
    return "\n".join(lines)


# Command ------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.runs.plot", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="log, run folder or id, or record folder")
    add("--out", type=Path, default=Path("logs/plots"), help="folder, default logs/plots")
    add("--format", choices=("png", "svg"), default="png")
    add("--ttt", type=Path, metavar="FILE", help="JSON of nats by chunk, without and with TTT")
    add("--terminal", action="store_true", help="characters instead of pictures")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    written, missing, sketches = [], {}, []
    try:
        groups = group_runs([run for path in args.runs for run in read_runs(path)])
        if args.terminal:
            for name, draw in (("curves", sketch), ("bytes", sketch_bytes)):
                try:
                    sketches.append(draw(groups))
                except NothingToDraw as error:
                    missing[name] = str(error)
        else:
            written, missing = draw_all(groups, args.ttt, args.format, args.out)
    except (ValueError, OSError, ImportError) as error:
        print(f"tools.runs.plot: {error}", file=sys.stderr)
        return 2
    if args.json:
        paths = [str(path) for path in written]
        print(json.dumps({"written": paths, "missing": missing, "terminal": sketches}))
    else:
        print(*sketches, *written, sep="\n\n" if args.terminal else "\n")
        for name, why in missing.items():
            print(f"no {name}: {why}", file=sys.stderr)
    return 0 if written or sketches else 1


if __name__ == "__main__":
    sys.exit(main())
