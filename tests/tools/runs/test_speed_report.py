"""What a run's metrics say: smoothed loss, spread over seeds, utilisation, older runs too."""

import dataclasses
import json
import math
from pathlib import Path

import pytest

from baselines import pr334, student
from tests.baselines.test_adamw import RECIPE_OF_PRESET, tiny_settings
from tools.runs import speed_report


def write_run(folder: Path, preset: str, settings, losses: list[float]) -> Path:
    """A run's folder as the engine would write it, at 124 tokens a second and one more a step."""
    folder.mkdir(exist_ok=True)
    recipe = RECIPE_OF_PRESET.get(preset, pr334.RECIPE)
    saved = dataclasses.asdict(settings) | {"preset": preset, "recipe": recipe.name}
    (folder / "settings.json").write_text(json.dumps(saved))
    lines = []
    for i, loss in enumerate(losses, start=1):
        step = dict(step=i, tokens=256 * i, train_seconds=5.0, tok_s=124.0 + i)
        lines.append(json.dumps(step | {"train_loss": loss}))
        lines.append(json.dumps(dict(step=i, val_loss=3.0)))
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    return folder


def change_settings(folder: Path, changes: dict) -> None:
    """Overwrite entries of settings.json; None removes one."""
    saved = json.loads((folder / "settings.json").read_text()) | changes
    kept = {name: value for name, value in saved.items() if value is not None}
    (folder / "settings.json").write_text(json.dumps(kept))


# Figures


def test_smoothed_loss_follows_its_recursion():
    """Begun with the first loss, 0.05 of each."""
    assert speed_report.smoothed([2.0]) == 2.0
    assert speed_report.smoothed([2.0, 4.0]) == pytest.approx(0.95 * 2 + 0.05 * 4)
    expected = 0.95 * (0.95 * 3 + 0.05 * 1) + 0.05 * 2
    assert speed_report.smoothed([3.0, 1.0, 2.0]) == pytest.approx(expected)


def test_the_spread_of_seeds_is_that_of_a_population():
    """The published three seeds of gelu_d12, last and smoothed losses."""
    assert speed_report.spread([3.0745, 3.1355, 3.0765]) == "3.0955 +- 0.0283 (n=3)"
    assert speed_report.spread([3.1106, 3.1097, 3.1261]) == "3.1155 +- 0.0075 (n=3)"


def test_utilisation_is_that_of_the_specification():
    """llm.c's convention and the card's peak give 39.72 %, half the peak twice that."""
    rate = 524_288 / 2.53104
    share = speed_report.utilisation(803_478_528, rate, 419e12)
    assert share == pytest.approx(0.3972, abs=1e-4)
    share = speed_report.utilisation(803_478_528, rate, 209.5e12)
    assert share == pytest.approx(0.7944, abs=2e-4)


# Runs


def test_a_run_is_reported_from_its_metrics(tmp_path):
    """Loss and rates of what was logged; without a peak there is no utilisation."""
    run = write_run(tmp_path / "run", "gpt2_124m", tiny_settings("gpt2_124m"), [8.0, 7.0, 6.0, 5.0])
    figures = speed_report.speed_of_run(run, peak_flops=None)
    assert figures["recipe"] == "baselines.gpt2_124m"
    assert (figures["steps"], figures["tokens"], figures["losses_logged"]) == (4, 1024, 4)
    assert figures["last_loss"] == 5.0 and figures["tokens_per_second"] == 128
    smoothed = speed_report.smoothed([8.0, 7.0, 6.0, 5.0])
    assert math.isclose(figures["smoothed_loss"], smoothed)
    assert "mfu" not in figures and "product_mfu" not in figures
    figures = speed_report.speed_of_run(run, peak_flops=1e12)
    assert figures["mfu"] == figures["flops_per_token"] * 128 / 1e12
    assert "product_mfu" not in figures


def test_a_report_follows_its_run(tmp_path):
    """Its smoothing; of models of depth 12 both conventions of counting work."""
    settings = tiny_settings("gelu_d12", loss_smoothing=0.5)
    run = write_run(tmp_path / "run", "gelu_d12", settings, [8.0, 4.0])
    figures = speed_report.speed_of_run(run, peak_flops=1e9)
    assert figures["smoothed_loss"] == 6.0
    assert figures["mfu"] == figures["flops_per_token"] * 126 / 1e9
    assert figures["product_mfu"] == figures["product_flops_per_token"] * 126 / 1e9
    assert figures["flops_per_token"] != figures["product_flops_per_token"]


def test_our_recipes_are_reported(tmp_path):
    """pr334 and a student of train_gpt.py, each by its own name."""
    settings = pr334.Settings(**pr334.PRESETS["smoke"])
    run = write_run(tmp_path / "run", "smoke", settings, [8.0])
    figures = speed_report.speed_of_run(run, peak_flops=1e9)
    assert (figures["recipe"], figures["parameters"]) == ("baselines.pr334", 508_077)
    assert figures["flops_per_token"] > 0 and "product_mfu" not in figures
    smoke = student.RECIPE.presets["smoke"]
    settings = student.StudentSettings(**smoke, teacher="x.jsonl")
    run = write_run(tmp_path / "student", "smoke", settings, [8.0])
    change_settings(run, {"recipe": "baselines.student"})
    assert speed_report.speed_of_run(run, peak_flops=None)["recipe"] == "baselines.student"


@pytest.mark.parametrize("preset", ["gpt2_124m", "yat_neuron_d12", "preln_53m_untied"])
def test_older_runs_are_reported(tmp_path, preset):
    """They named no recipe, and saved settings that theirs did not read."""
    run = write_run(tmp_path / "run", preset, tiny_settings(preset), [8.0])
    figures = speed_report.speed_of_run(run, peak_flops=1e9)
    older = {"recipe": None, "mlp": None, "tied": None, "code": "baselines.train"}
    older |= {"bigram_vocab_size": 2048, "rope_dims": 2, "num_kv_heads": 1, "dropout": 0.0}
    change_settings(run, older)
    assert speed_report.speed_of_run(run, peak_flops=1e9) == figures


def test_an_older_run_of_train_gpt_is_of_pull_request_334(tmp_path):
    """A student's settings of that time are read as well."""
    settings = pr334.Settings(**pr334.PRESETS["smoke"])
    run = write_run(tmp_path / "run", "smoke", settings, [8.0, 4.0])
    older = {"recipe": None, "code": "baselines.train", "teacher": "x.jsonl"}
    change_settings(run, {**older, "loss_smoothing": 0.5})
    figures = speed_report.speed_of_run(run, peak_flops=None)
    assert (figures["recipe"], figures["parameters"]) == ("baselines.pr334", 508_077)
    assert figures["smoothed_loss"] == 6.0


# The command


def test_the_command_prints_figures_and_the_spread(tmp_path, capsys):
    """Of several runs of one model also mean and deviation; of two models neither."""
    losses = [8.0, 7.0, 6.0, 5.0]
    run = write_run(tmp_path / "run", "gpt2_124m", tiny_settings("gpt2_124m"), losses)
    assert speed_report.main([str(run), "--peak-flops", "1e12"]) == 0
    mfu = speed_report.speed_of_run(run, 1e12)["mfu"]
    assert f"peak_flops: {1e12}\nmfu: {mfu}" in capsys.readouterr().out
    assert speed_report.main([str(run), str(run)]) == 0
    printed = capsys.readouterr().out
    assert "last_loss: 5.0000 +- 0.0000 (n=2)" in printed
    assert "smoothed_loss: 7.7099 +- 0" in printed
    other = write_run(tmp_path / "other", "preln_53m", tiny_settings("preln_53m"), losses)
    untied = tiny_settings("preln_53m_untied")
    larger = write_run(tmp_path / "larger", "preln_53m_untied", untied, losses)
    for pair in ((run, other), (other, larger)):
        assert speed_report.main([str(path) for path in pair]) == 0
        assert "+-" not in capsys.readouterr().out


@pytest.mark.parametrize("peak", ["-5", "0", "nan", "inf"])
def test_a_peak_that_means_nothing_is_refused(peak, capsys):
    """A share of no peak does not exist."""
    assert speed_report.main(["run", "--peak-flops", peak]) == 2
    message = f"--peak-flops {float(peak)} must be a number over 0"
    assert message in capsys.readouterr().err


def test_what_cannot_be_reported_is_an_error(tmp_path, capsys):
    """Status 2 and one line: no logged step, no recipe, no folder."""
    run = write_run(tmp_path / "run", "gpt2_124m", tiny_settings("gpt2_124m"), [])
    assert speed_report.main([str(run)]) == 2
    assert "no logged step; train on with RESUME=run" in capsys.readouterr().err
    (run / "settings.json").write_text(json.dumps({"preset": "mine"}))
    assert speed_report.main([str(run)]) == 2
    error = capsys.readouterr().err
    assert "is not a run of a recipe: its settings name no recipe" in error
    assert error.count("\n") == 1
    assert speed_report.main([str(tmp_path / "none")]) == 2
    with pytest.raises(SystemExit, match="2"):
        speed_report.main([])
