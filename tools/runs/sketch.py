"""Runs as characters, for a quick look in a terminal.

training loss (nats per token)
  6.934 |a
        | aa
        |   aaaaa
  3.571 |        aaaaaaaaaaaaaa
        +----------------------
         0    optimizer steps   300
a = mine, 3 seeds: 2.1755 ± 0.0033 bpb
"""

import string

import numpy as np

from tools.runs.curves import Band, Group, NothingToDraw, after_start, band, first_with, series

SEVERAL = "*"  # stands where curves meet
LABELLED_ROWS = 7  # a number stands at every seventh row


def sketch(groups: list[Group], width: int = 68, height: int = 15) -> str:
    """Training loss against steps, a letter for each group. Raises: NothingToDraw."""
    bands: dict[str, Band] = {}
    labels: dict[str, str] = {}
    for group, letter in zip(groups, string.ascii_lowercase, strict=False):
        curves = [series(run, "steps", "train_loss") for run in group.runs]
        curves = [curve for curve in curves if len(curve) > 1]
        if curves:
            bands[letter] = band(curves)
            labels[letter] = f"{group.label}: {group.bpb()}"
    if not bands:
        raise NothingToDraw("no log has two timed steps with a loss")

    last = max(curve.x[-1] for curve in bands.values())
    losses = np.concatenate([curve.mean[after_start(curve.x)] for curve in bands.values()])
    low = losses.min()
    high = losses.max()
    rows = [[" "] * width for _ in range(height)]
    for letter, curve in bands.items():
        for column in range(width):
            x = (column + 0.5) / width * last
            loss = np.interp(x, curve.x, curve.mean)
            if not curve.x[0] <= x <= curve.x[-1] or loss > high:
                continue
            row = rows[round((high - loss) / max(high - low, 1e-9) * (height - 1))]
            row[column] = letter if row[column] in (" ", letter) else SEVERAL

    lines = ["training loss (nats per token)"]
    for i, row in enumerate(rows):
        value = high - (high - low) * i / (height - 1)
        label = f"{value:.3f}" if i % LABELLED_ROWS == 0 else ""
        lines.append(f"{label:>7} |{''.join(row).rstrip()}")
    lines.append(f"{'':7} +{'-' * width}")
    lines.append(f"{'':8}0{'optimizer steps':^{width - 12}}{last:>11,.0f}")
    lines += [f"{letter} = {label}" for letter, label in labels.items()]
    if any(SEVERAL in row for row in rows):
        lines.append(f"{SEVERAL} = several")
    return "\n".join(lines)


def sketch_bytes(groups: list[Group], width: int = 40) -> str:
    """Bytes by tensor group, as bars. Raises: NothingToDraw."""
    from codec.report import byte_account  # here, because torch takes seconds to load

    run = first_with(groups, "artifact.pgz")
    summary = byte_account((run.path.parent / "artifact.pgz").read_bytes())["groups"]
    most = max(group["bytes"] for group in summary.values())
    lines = [f"bytes of {run.run_id or run.path.stem}"]
    for name, group in sorted(summary.items(), key=lambda item: -item[1]["bytes"]):
        bar = "#" * max(1, round(width * group["bytes"] / most))
        bits = ""
        if group["parameters"]:
            bits = f"{8 * group['bytes'] / group['parameters']:6.2f} bits"
        lines.append(f"{name:34} {group['bytes']:>11,} {bits:11} {bar}")
    return "\n".join(lines)
