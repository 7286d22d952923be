"""Log lines: each is written and read back, and taken for no other."""

import math
from string import Formatter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import log_lines
from engine.log_lines import Line

LINES = {name: value for name, value in vars(log_lines).items() if isinstance(value, Line)}
# One value of each type; none of them is what an empty or default field would give.
EXAMPLES = {int: 7, float: 2.5, str: "some-word"}


def example_of(line: Line) -> dict:
    return {name: EXAMPLES[kind] for name, kind in line.types.items()}


def specs_of(line: Line) -> dict[str, str]:
    """The format of each field, as ".4f"."""
    parts = Formatter().parse(line.template)
    return {name: spec for _, name, spec, _ in parts if name is not None}


def rounded(line: Line, fields: dict) -> dict:
    """The fields as a reader gets them: numbers with the digits that the line shows."""
    as_read = {}
    for name, spec in specs_of(line).items():
        value = fields[name]
        if line.types[name] is float:
            value = float(format(value, spec))
        as_read[name] = value
    return as_read


WORDS = st.text("abcXYZ019_.+=@-/", min_size=1)
TEXTS = st.lists(WORDS, min_size=1).map(" ".join)
NUMBERS = st.floats(allow_nan=False)  # infinities too


def fields_of(line: Line) -> st.SearchStrategy:
    """Any fields that the line can hold."""
    strategies = {}
    for name, spec in specs_of(line).items():
        kind = line.types[name]
        if kind is int:
            strategies[name] = st.integers()
        elif kind is float:
            strategies[name] = NUMBERS
        else:
            strategies[name] = TEXTS if spec == "s" else WORDS
    return st.fixed_dictionaries(strategies)


def test_what_is_added_to_a_line_does_not_make_older_logs_unreadable():
    """A line of before has the fields that it had; one of today has all."""
    older = Line("step:{step:d} loss:{loss:.2f}")
    line = Line("step:{step:d} loss:{loss:.2f}", " norm:{norm:.1f}", " rate:{rate}")
    fields = {"step": 3, "loss": 2.5, "norm": 0.5, "rate": "high"}
    assert line.write(**fields) == "step:3 loss:2.50 norm:0.5 rate:high"
    assert line.read(line.write(**fields)) == fields
    assert line.read("step:3 loss:2.50 norm:0.5") == {"step": 3, "loss": 2.5, "norm": 0.5}
    assert line.read(older.write(step=3, loss=2.5)) == {"step": 3, "loss": 2.5}
    assert line.read("step:3 loss:2.50 more") is None


def test_worked_example():
    """The three lines of the module's docstring."""
    line = Line("step:{step:d}/{iterations:d} train_loss:{train_loss:.4f}")
    text = line.write(step=3, iterations=20, train_loss=6.25)
    assert text == "step:3/20 train_loss:6.2500"
    assert line.read(text) == {"step": 3, "iterations": 20, "train_loss": 6.25}
    assert line.read("trained steps:3") is None


def test_the_step_line_is_as_ever():
    """The line that every reader of the field's logs takes for a step keeps its form."""
    text = log_lines.STEP.write(
        step=20,
        iterations=500,
        train_loss=4.12345,
        train_ms=1234.5,
        step_ms=61.726,
        tokens_s=33_178.6,
        mfu="unknown",
    )
    expected = "step:20/500 train_loss:4.1235 train_time:1234ms step_avg:61.73ms"
    assert text == expected + " tok_s:33179 mfu:unknown"


@pytest.mark.parametrize("name", LINES)
def test_every_line_reads_back(name):
    """Written and read, a line gives the fields again, each of its type."""
    line = LINES[name]
    fields = example_of(line)
    fields_read = line.read(line.write(**fields))
    assert fields_read == rounded(line, fields)
    assert {name: type(value) for name, value in fields_read.items()} == line.types


@pytest.mark.parametrize("name", LINES)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_any_fields_read_back(name, data):
    """Whatever the numbers, words and texts: negative, infinite, very large or very small."""
    line = LINES[name]
    fields = data.draw(fields_of(line))
    assert line.read(line.write(**fields)) == rounded(line, fields)


def test_a_loss_that_is_not_a_number_reads_back():
    """A run that diverged leaves a line, and a reader sees it."""
    line = log_lines.VALIDATION
    fields = dict(step=3, iterations=20, val_loss=math.nan, metric="val_bpb", bpb=-math.inf)
    fields_read = line.read(line.write(**fields))
    assert math.isnan(fields_read["val_loss"])
    assert fields_read["bpb"] == -math.inf


@pytest.mark.parametrize("name", LINES)
def test_a_line_of_another_kind_reads_as_none(name):
    """No line is taken for one of another kind."""
    text = LINES[name].write(**example_of(LINES[name]))
    readers = [other for other, line in LINES.items() if line.read(text) is not None]
    assert readers == [name]


@pytest.mark.parametrize("change", ["{}x", "x{}", "{} ", " {}", "{}\n"])
def test_more_than_the_line_is_not_the_line(change):
    """A template is the whole line: neither a part of one nor two of them are read."""
    text = log_lines.TRAINED.write(steps=3, train_ms=5.0, cap_ms=60_000.0)
    assert log_lines.TRAINED.read(text) is not None
    assert log_lines.TRAINED.read(change.format(text)) is None


@pytest.mark.parametrize("text", ["", "step:", "step:3/20", "step:x/20 val_loss:1.0 val_bpb:1.0"])
def test_a_cut_or_damaged_line_reads_as_none(text):
    """A line that a kill cut short is not an error."""
    assert log_lines.VALIDATION.read(text) is None


def test_signs_of_a_pattern_are_literal():
    """Brackets, dots and stars of a template stand for themselves."""
    line = Line("a (b) c.d* {number:d}")
    assert line.read("a (b) c.d* 5") == {"number": 5}
    assert line.read("a b c.d* 5") is None
    assert line.read("a (b) cxd* 5") is None


def test_objects_are_written_as_their_text():
    """A word may be given as any object: None, a number, a version."""
    line = Line("gpu:{gpu:s} cuda:{cuda}")
    assert line.write(gpu="NVIDIA H200", cuda=None) == "gpu:NVIDIA H200 cuda:None"
    assert line.read("gpu:NVIDIA H200 cuda:None") == {"gpu": "NVIDIA H200", "cuda": "None"}


def test_a_missing_field_and_one_too_many_are_errors():
    """A writer that forgets a field, or misspells one, does not go unnoticed."""
    with pytest.raises(KeyError, match="cap_ms"):
        log_lines.TRAINED.write(steps=3, train_ms=5.0)
    with pytest.raises(KeyError, match="minutes"):
        log_lines.TRAINED.write(steps=3, train_ms=5.0, cap_ms=6.0, minutes=1)
