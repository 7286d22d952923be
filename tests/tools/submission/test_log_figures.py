"""Figures and the logs that state them: rounding, units, seeds and averages."""

import pytest

from tests.tools.submission.conftest import MODEL, SEEDS, bits, edit, edit_logs
from tools.submission.log_figures import (
    agrees,
    averages,
    decimals,
    is_in_logs,
    is_written,
    join_measured,
    named_seed,
    runs_by_seed,
)
from tools.submission.record_folder import read_record_folder


@pytest.mark.parametrize("number, places", [(1.1504, 4), (7200, 0), (1.5, 1), (1e-9, 0)])
def test_decimals_are_those_that_are_printed(number, places):
    """An exponent has no decimals: nothing is rounded to them."""
    assert decimals(number) == places


@pytest.mark.parametrize(
    "claim, value, expected",
    [
        (1.15, 1.1504, True),  # rounded
        (1.15, 1.1599, True),  # cut
        (1.15, 1.16, False),
        (1.15, 1.1401, True),
        (1.15, 1.14, False),
        (1.1504, None, False),
    ],
)
def test_a_claim_agrees_when_it_is_rounded_or_cut(claim, value, expected):
    """Less than one unit in the last place of the claim, either way."""
    assert agrees(claim, value) == expected


def test_more_places_are_stricter():
    """A claim of few decimals can be held to more of them than it has."""
    assert agrees(1.15, 1.1504)
    assert not agrees(1.15, 1.1504, places=4)


@pytest.mark.parametrize("text", ["15,811,090", "15.811", "15.81", "15811"])
def test_a_size_may_be_written_in_other_units(text):
    """Bytes, thousands or millions of them."""
    assert is_written(text, 15_811_090)
    assert not is_written(text, 15_911_090)


def test_a_figure_is_looked_for_in_the_logs_of_the_seed(folder):
    """Rounded or in another unit; a figure of another seed's log does not count."""
    by_seed = runs_by_seed(read_record_folder(folder)[0])
    assert set(by_seed) == set(SEEDS)
    assert is_in_logs(f"{MODEL[42]:,}", by_seed[42])
    assert is_in_logs("599.41", by_seed[42])
    assert not is_in_logs(f"{MODEL[42]:,}", by_seed[314])
    assert not is_in_logs(f"{MODEL[42] + 1:,}", by_seed[42])


def test_the_name_of_a_log_gives_its_seed(folder):
    """The seed that a log prints counts only where its name gives none."""
    edit(folder / "train_seed42.log", "seed:42", "seed:7")
    (folder / "train_seed1337.log").rename(folder / "train.log")
    runs = read_record_folder(folder)[0].runs
    seeds = {run.path.name: named_seed(run) for run in runs}
    assert seeds == {"train_seed42.log": 42, "train_seed314.log": 314, "train.log": 1337}


def test_what_two_logs_of_a_seed_say_is_joined(folder):
    """A folder may hold two logs of one seed: either may support a figure."""
    runs = read_record_folder(folder)[0].scored
    joined = join_measured(runs[:2])
    assert len(joined["steps"]) == 2
    assert {7200} == set(joined["steps"])
    assert joined["train_time_s"] == [599.412, 599.412]


def test_averages_are_over_lines_that_every_log_has(folder):
    """The final score and the last validation in training, of all three runs or not at all."""
    earlier = "step:0/20000 val_loss:6.9 val_bpb:4.1 train_time:0ms step_avg:0.01ms"
    edit_logs(folder, "step:1/20000 train_loss", f"{earlier}\nstep:1/20000 train_loss")
    record, _ = read_record_folder(folder)
    rows = averages(record)["val_bpb"]
    assert sorted(bits(seed)[1] for seed in SEEDS) in [sorted(row) for row in rows]
    assert sorted(round(bits(seed)[1] + 0.006, 4) for seed in SEEDS) in [sorted(r) for r in rows]
    assert all(len(row) == len(SEEDS) for row in rows)
    edit(folder / "train_seed42.log", r"step:(0|7200)/20000 val_loss.*\n", "")
    fewer = averages(read_record_folder(folder)[0])["val_bpb"]
    assert len(fewer) < len(rows)
