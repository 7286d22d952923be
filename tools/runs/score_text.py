"""Which text a score was measured on. Scores of different texts are never put side by side.

A log does not hold the text. It tells the number of bytes, whether that is a whole validation
split, and what the unigram distribution of the same tokens reaches, which no other text repeats.
"""

from dataclasses import dataclass
from pathlib import Path

from tools.runs.run_log import Run

# The challenge's validation split, in UTF-8 bytes. Upstream's windows leave out some thousands of
# them at the end.
FINEWEB_BYTES = 151_080_891
TOLERANCE = 1e-3


@dataclass(frozen=True)
class ScoreText:
    """A text as scores tell it apart from others; None where nothing is known."""

    name: str  # for a person
    bytes: float | None
    is_partial: bool = False
    targets: int | None = None
    unigram_loss: float | None = None  # nats a token; it compares between equal tokenizers alone


FINEWEB = ScoreText("FineWeb's validation split", FINEWEB_BYTES)


def close(number: float, other: float) -> bool:
    return abs(number / other - 1) < TOLERANCE


def text_of(run: Run) -> ScoreText:
    """The text of a run's score."""
    score = run.score
    count = score.bytes or run.implied_bytes()
    unigrams = [other.val_loss for other in run.scores if other.name == "unigram"]
    folder = run.settings.get("data_path")
    if count and close(count, FINEWEB_BYTES) and not score.is_partial:
        name = FINEWEB.name
    elif count is None:
        name = "a text that its log does not tell"
    else:
        part = "part of a validation split, " if score.is_partial else ""
        source = f" of {Path(folder).name}" if isinstance(folder, str) else ""
        name = f"{part}{count:,.0f} bytes{source}"
    return ScoreText(
        name=name,
        bytes=count,
        is_partial=score.is_partial,
        targets=score.targets,
        unigram_loss=unigrams[-1] if unigrams else None,
    )


def difference(text: ScoreText, other: ScoreText) -> str:
    """What tells two texts apart, for a person; empty where they are one, or nobody can tell."""
    if text.bytes is None or other.bytes is None:
        return ""
    if text.is_partial != other.is_partial:
        return "one is a part of a validation split"
    if not close(text.bytes, other.bytes):
        return f"{text.bytes:,.0f} bytes and {other.bytes:,.0f}"
    if text.targets == other.targets and None not in (text.unigram_loss, other.unigram_loss):
        if text.unigram_loss != other.unigram_loss:
            return f"unigram losses {text.unigram_loss} and {other.unigram_loss}"
    return ""
