"""Settings: the environment, presets, names that are refused, and runs that are resumed."""

import dataclasses
import json

import pytest

import train_gpt
from engine import settings
from engine.settings import read_settings
from tests.tiny_runs import tiny
from train_gpt import RECIPE, Settings


def choose(has_cuda=False, **environ):
    return read_settings(RECIPE, environ, has_cuda)


def test_preset_follows_the_device_and_says_why():
    """Without CUDA the small preset, with CUDA the recipe; PRESET decides where it is set."""
    choice = choose()
    assert choice.preset == "smoke" and choice.reason.startswith("default without CUDA")
    record = Settings(**train_gpt.PRESETS["record"])
    assert choose(has_cuda=True).settings == record
    assert choose(PRESET="record").settings == record
    with pytest.raises(ValueError, match="PRESET='big' must be one of record, .*, smoke"):
        choose(PRESET="big")


def test_values_are_parsed_by_the_type_of_their_field():
    """Numbers and 0/1 are converted, and a bad one names the variable and what it should be."""
    choice = choose(SEED="42", MATRIX_LR="0.03", COMPILE="0", HOME="/", PATH="/bin")
    chosen = choice.settings
    assert (chosen.seed, chosen.matrix_lr, chosen.compile) == (42, 0.03, False)
    assert choice.overrides == {"seed": 42, "matrix_lr": 0.03, "compile": False}
    for name, bad in [("SEED", "1.5"), ("MATRIX_LR", "x"), ("EMA_FRAC", "nan"), ("COMPILE", "2")]:
        with pytest.raises(ValueError, match=f"{name}='{bad}' must be"):
            choose(**{name: bad})


@pytest.mark.parametrize(
    "name, remedy",
    [
        ("MATRX_LR", "MATRIX_LR"),
        ("SEQ_LEN", "TRAIN_SEQ_LEN"),
        ("ITERATION", "ITERATIONS"),
        ("WARMDOWN_ITERS", "WARMDOWN_FRAC"),
        ("EMA_DECAY", "EMA_FRAC"),
        ("LR", "MATRIX_LR"),
        ("BATCH_SIZE", "TRAIN_BATCH_TOKENS"),
        ("EPOCHS", "ITERATIONS"),
        ("MAX_STEPS", "ITERATIONS"),
    ],
)
def test_a_name_that_is_nearly_a_setting_is_refused(name, remedy):
    """A typing mistake or a setting of another script stops the run and names the right one."""
    with pytest.raises(ValueError, match=f"{name} is set but .*{remedy}"):
        choose(**{name: "1"})


def test_a_setting_of_another_recipe_is_refused(tmp_path, monkeypatch):
    """Its owner is named; a packed script, which has no recipes beside it, knows none."""
    with pytest.raises(ValueError, match="PEAK_LR is a setting of adamw, not of train_gpt; unset"):
        choose(PEAK_LR="0.1")
    monkeypatch.setattr(settings, "ROOT", tmp_path)
    assert choose(PEAK_LR="0.1").settings == choose().settings


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"seed": 10**23}, r"SEED=\d+ must be below 2\*\*63"),
        ({"train_seq_len": 2**40}, "TRAIN_SEQ_LEN=1099511627776 must be at most"),
        ({"vocab_size": 10**9}, "VOCAB_SIZE=1000000000 must be between"),
        ({"num_layers": 10**8}, "NUM_LAYERS=100000000 must be at most 1000"),
        ({"iterations": 0}, "ITERATIONS=0 must be at least 1"),
    ],
)
def test_absurd_values_are_refused(changes, message):
    """Before anything is built of that size."""
    with pytest.raises(ValueError, match=message):
        tiny(**changes)


def saved_run(folder, **changes):
    """A run's settings.json below a folder; a change to None leaves the key out."""
    saved = dataclasses.asdict(Settings())
    saved |= {"preset": "smoke", "recipe": "train_gpt", "run_id": "one"}
    saved |= changes
    path = folder / "logs/one/settings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({k: v for k, v in saved.items() if v is not None}))


def test_a_run_goes_on_only_as_it_began(tmp_path, monkeypatch):
    """Its own settings again; any that differs is refused with both values."""
    monkeypatch.chdir(tmp_path)
    saved_run(tmp_path)
    choice = choose(RESUME="one", MATRIX_LR="0.028")
    assert choice.settings.run_id == "one" and choice.reason.startswith("as saved")
    with pytest.raises(ValueError, match="MATRIX_LR=0.5 differs from 0.028"):
        choose(RESUME="one", MATRIX_LR="0.5")
    with pytest.raises(ValueError, match="PRESET=record differs from smoke"):
        choose(RESUME="one", PRESET="record")
    with pytest.raises(ValueError, match="no such run"):
        choose(RESUME="two")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"teacher": "x.jsonl"}, r"of another version, \['teacher'\]; resume it with"),
        ({"matrix_lr": None}, r"\['matrix_lr'\]"),
        ({"recipe": "baselines.pr334"}, "is a run of baselines.pr334 smoke or of another"),
        ({"recipe": None}, "is a run of None smoke or of another"),
        ({"preset": "other"}, "is a run of train_gpt other or of another version"),
        ({"preset": None}, "settings.json is damaged"),
    ],
)
def test_a_run_of_another_recipe_or_version_is_not_resumed(tmp_path, monkeypatch, changes, message):
    """What differs is named in the error."""
    monkeypatch.chdir(tmp_path)
    saved_run(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        choose(RESUME="one")


@pytest.mark.parametrize("text", ["{", "[]", "5", "\\xff", None])
def test_damaged_settings_are_named(tmp_path, monkeypatch, text):
    """Not JSON, no object, or text where a number was: one line with the file's path."""
    monkeypatch.chdir(tmp_path)
    saved_run(tmp_path, seed="abc")
    if text is not None:
        (tmp_path / "logs/one/settings.json").write_text(text)
    with pytest.raises(ValueError, match="logs/one/settings.json is damaged; start a new run"):
        choose(RESUME="one")
