"""A recipe tells its settings and sources, in a process of its own."""

import os
import sys
from pathlib import Path

import pytest

from golf import ROOT
from tests.tools.runs.test_seeds import write_stand_in
from tools.runs.resolve import Code, python_path, resolve


def test_a_script_is_asked_with_the_engine_beside_it(tmp_path):
    """Settings for each environment, and the files that count, none of them ours."""
    script = write_stand_in(tmp_path / "my code")
    code, settings = resolve("", script, [{"SEED": "1", "LR": "0.25"}, {"SEED": "2"}])
    assert [(row["seed"], row["lr"]) for row in settings] == [(1, 0.25), (2, 0.5)]
    assert code == Code("", str(script), tmp_path / "my code", ("train_gpt.py",))
    assert code.read() == {"train_gpt.py": script.read_bytes()}
    script.unlink()
    assert code.read() == {}


def test_one_of_ours_is_asked_by_its_name():
    """train_gpt.py with its engine, from wherever; a name that is nearly a setting is refused."""
    environ = {"PRESET": "smoke", "MATRIX_LR": "0.03"}
    code, (settings,) = resolve("train_gpt", None, [environ])
    assert settings["matrix_lr"] == 0.03 and settings["model_dim"] == 96
    assert {"train_gpt.py", "engine/trainer.py"} <= set(code.files) and code.root == ROOT
    with pytest.raises(ValueError, match="did you mean MATRIX_LR"):
        resolve("train_gpt", None, [{"MATRX_LR": "1"}])


@pytest.mark.parametrize(
    "text, message", [("x = 1", "has no RECIPE"), ("1 / 0", "cannot be asked for its settings")]
)
def test_another_script_is_refused(tmp_path, text, message):
    """One that says nothing of a recipe, and one that does not even run."""
    script = tmp_path / "train_gpt.py"
    script.write_text(text)
    with pytest.raises(ValueError, match=message):
        resolve("", script, [{}])
    with pytest.raises(FileNotFoundError, match="--script"):
        resolve("", tmp_path / "none.py", [{}])


def test_commands_of_ours_and_of_a_script():
    """Ours start as modules, also in several processes; a script by its path."""
    ours = Code("baselines.pr334", "", Path("/x"), ())
    assert ours.command(1) == [sys.executable, "-P", "-m", "golf", "--as", "baselines.pr334"]
    assert "--nproc_per_node=2" in ours.command(2) and ours.command(2)[-1] == "baselines.pr334"
    script = Code("", "/y/train_gpt.py", Path("/y"), ())
    assert script.command(1) == [sys.executable, "/y/train_gpt.py"]
    assert script.command(2)[-2:] == ["--nproc_per_node=2", "/y/train_gpt.py"]
    assert python_path("train_gpt").startswith(str(ROOT))
    paths = filter(None, python_path("").split(os.pathsep))
    assert ROOT not in [Path(path).resolve() for path in paths]
