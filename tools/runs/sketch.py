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

from tools.runs.curves import Band, NothingToDraw, SeedGroup, after_start, band, first_with, series

SEVERAL = "*"  # stands where curves meet
LABELLED_ROWS = 7  # a number stands at every seventh row


class Canvas:
    """Rows of characters, and which losses and steps they stand for."""

    def __init__(self, width: int, height: int, bands: list[Band]):
        self.width = width
        self.height = height
        self.last_step = max(curve.x[-1] for curve in bands)
        # The steep start would take most of the height, and leave a flat line for the rest.
        losses = np.concatenate([curve.mean[after_start(curve.x)] for curve in bands])
        self.low = losses.min()
        self.high = losses.max()
        self.rows = [[" "] * width for _ in range(height)]

    def draw(self, letter: str, curve: Band) -> None:
        """The letter stands where the curve goes."""
        for column in range(self.width):
            step = (column + 0.5) / self.width * self.last_step  # the middle of the column
            if not curve.x[0] <= step <= curve.x[-1]:
                continue
            loss = np.interp(step, curve.x, curve.mean)
            if loss <= self.high:
                self.put(letter, self.row_of(loss), column)

    def row_of(self, loss: float) -> int:
        """The row for a loss: 0 is the highest."""
        # A run whose loss never moved has no height to divide by.
        share = (self.high - loss) / max(self.high - self.low, 1e-9)
        return round(share * (self.height - 1))

    def put(self, letter: str, row: int, column: int) -> None:
        is_free = self.rows[row][column] in (" ", letter)
        self.rows[row][column] = letter if is_free else SEVERAL

    def lines(self) -> list[str]:
        """The rows with their axis."""
        lines = []
        for i, row in enumerate(self.rows):
            loss = self.high - (self.high - self.low) * i / (self.height - 1)
            label = f"{loss:.3f}" if i % LABELLED_ROWS == 0 else ""
            lines.append(f"{label:>7} |{''.join(row).rstrip()}")
        lines.append(f"{'':7} +{'-' * self.width}")
        name = f"{'optimizer steps':^{self.width - 12}}"
        lines.append(f"{'':8}0{name}{self.last_step:>11,.0f}")
        return lines


def sketch(groups: list[SeedGroup], width: int = 68, height: int = 15) -> str:
    """Training loss against steps, a letter for each group. Raises: NothingToDraw."""
    bands: dict[str, Band] = {}
    labels: dict[str, str] = {}
    # More groups than letters are not drawn: nobody could tell the lines apart.
    for group, letter in zip(groups, string.ascii_lowercase, strict=False):
        curves = [series(run, "steps", "train_loss") for run in group.runs]
        curves = [curve for curve in curves if len(curve) > 1]
        if curves:
            bands[letter] = band(curves)
            labels[letter] = f"{group.label}: {group.bpb()}"
    if not bands:
        raise NothingToDraw("no log has two timed steps with a loss")

    canvas = Canvas(width, height, list(bands.values()))
    for letter, curve in bands.items():
        canvas.draw(letter, curve)
    lines = ["training loss (nats per token)", *canvas.lines()]
    lines += [f"{letter} = {label}" for letter, label in labels.items()]
    if any(SEVERAL in row for row in canvas.rows):
        lines.append(f"{SEVERAL} = several")
    return "\n".join(lines)


def sketch_bytes(groups: list[SeedGroup], width: int = 40) -> str:
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
