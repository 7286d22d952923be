"""The script for a GPU's hour: every command parses, and what logs say is gathered."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

import golf
from engine.open_model import find_recipe
from engine.settings import read_settings
from tools.runs import gpu_hour
from tools.runs.gpu_hour import main, plan, shell, summary

RUNS = plan(Path("/text/sp8192"), Path("/text/sp1024"), 300)


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
@pytest.mark.parametrize("is_rehearsal", [False, True])
def test_every_command_parses(run, is_rehearsal):
    """The recipe is there, and reads each of the settings; rehearsed it is small."""
    recipe = find_recipe(golf.recipe_name(run.recipe))
    environ = run.environment(is_rehearsal)
    choice = read_settings(recipe, environ, True)
    assert set(choice.overrides) == {name.lower() for name in environ} - {"preset"}
    assert choice.settings.num_layers == (2 if is_rehearsal else choice.settings.num_layers)
    assert (choice.settings.model_dim == 64) == is_rehearsal
    vocab_size = 1024 if run.name == "pr334" else 8192
    assert choice.settings.vocab_size == vocab_size
    assert str(vocab_size) in choice.settings.data_path


def test_ours_and_the_peer_have_the_same_time():
    """What is compared differs in the recipe and the pieces alone."""
    seconds = {run.name: run.settings["MAX_WALLCLOCK_SECONDS"] for run in RUNS}
    assert seconds["ours"] == seconds["pr334"] == 300


def test_commands_are_printed_as_they_are_typed(capsys):
    """One line each, settings in front."""
    assert main(["--data8192", "/a", "--data1024", "/b", "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(RUNS)
    assert "PRESET=h100_10min" in lines[1] and lines[1].endswith("train train_gpt --gpus 1")
    assert "DATA_PATH=/b TOKENIZER_PATH=/b/tokenizer.model" in lines[2]
    assert shell(RUNS[3]).startswith("DATA_PATH=/text/sp8192 ")


def test_the_summary_has_the_last_line_of_each_kind():
    """Speed at the end of a run is its speed; lines of other kinds are left out."""
    step = "step:{}/60 train_loss:5.0000 train_time:9ms step_avg:1.00ms tok_s:{} mfu:0.220"
    log = "\n".join(
        [
            "attention kernel:CUDNN_ATTENTION in:bfloat16",
            step.format(10, 5),
            "noise",
            step.format(60, 7),
        ]
    )
    assert summary(log) == [log.splitlines()[0], step.format(60, 7)]


def test_a_run_that_fails_is_told_and_the_next_is_made(monkeypatch, tmp_path, capsys):
    """Its status is the command's, its log is kept, and every run has its part of the summary."""
    seen = []

    def pretend(command, stdout, stderr, env):
        seen.append(env["DATA_PATH"])
        stdout.write("model_params:7\n")
        return SimpleNamespace(returncode=int(len(seen) == 2))

    monkeypatch.setattr(subprocess, "run", pretend)
    words = ["--data8192", "a", "--data1024", "b", "--out", str(tmp_path / "out")]
    assert main(words) == 1
    assert len(seen) == len(RUNS)
    text = (tmp_path / "out/summary.txt").read_text()
    assert "== ours: status 1" in text and "== pr334: status 0" in text
    assert text.count("model_params:7") == len(RUNS) and text == capsys.readouterr().out
    assert gpu_hour.summary((tmp_path / "out/ours.log").read_text()) == ["model_params:7"]
