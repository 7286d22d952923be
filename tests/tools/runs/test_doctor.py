"""The doctor: each fault of a machine is named with its remedy, and forecasts add up."""

import json
import os
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import quantize
from engine import ranks
from engine.shards import read_split
from tests.tools.runs.test_forecast import LOG, MEASURES
from tools.runs import doctor
from tools.runs.doctor import Check, main
from tools.runs.forecast import forecast_from_probe
from tools.runs.probe import USUAL_BITS
from train_gpt import PRESETS, RECIPE, Settings

ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")
TINY = Settings(
    **{
        **PRESETS["smoke"],
        "num_layers": 2,
        "model_dim": 32,
        "num_heads": 2,
        "train_seq_len": 64,
        "eval_stride": 64,
        "compile": False,
    }
)


def only(checks, name: str) -> Check:
    """The one check of that name."""
    (check,) = [check for check in checks if check.name == name]
    return check


@pytest.mark.parametrize(
    "name, form",
    [
        ("NVIDIA H100 80GB HBM3", "SXM"),
        ("NVIDIA H100 PCIe", "PCIe"),
        ("NVIDIA H100 NVL", "NVL"),
        ("NVIDIA H200", "SXM"),
        ("NVIDIA H200 NVL", "NVL"),
        ("NVIDIA B200", "SXM"),
        ("NVIDIA A100-SXM4-80GB", "SXM"),
        ("NVIDIA A100 80GB PCIe", "PCIe"),
        ("NVIDIA GeForce RTX 4090", "other"),
    ],
)
def test_the_form_of_a_gpu_is_read_from_its_name(name, form):
    """SXM, PCIe and NVL boards run at different speeds under nearly one name."""
    assert doctor.form_of(name) == form


@pytest.mark.parametrize(
    "name, free_gib, capability, level, message",
    [
        ("NVIDIA H100 80GB HBM3", 79, (9, 0), "ok", "H100 SXM, as records"),
        ("NVIDIA H100 PCIe", 79, (9, 0), "warn", "PCIe, not an H100 SXM"),
        ("NVIDIA H200", 79, (9, 0), "warn", "SXM, not an H100 SXM"),
        ("NVIDIA H100 80GB HBM3", 60, (9, 0), "warn", "60 of 80 GiB free"),
        ("Tesla T4", 79, (7, 5), "warn", "bf16 is slow"),
    ],
)
def test_a_gpu_that_records_are_not_timed_on_is_a_warning(
    monkeypatch, name, free_gib, capability, level, message
):
    """Another form, another user or an old GPU: named, with what to do."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (free_gib << 30, 80 << 30))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: capability)
    check = doctor.check_gpu(name, 0)
    assert (check.name, check.level) == ("gpu0", level)
    assert message in check.finding and bool(check.remedy) == (level == "warn")


def test_a_gpu_that_torch_cannot_use_fails(monkeypatch, tmp_path):
    """A driver without a CUDA build of torch is a fault; a machine without a GPU is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 550.54.15\n")
    smi.chmod(0o755)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: str(smi))
    check = only(doctor.check_device(), "device")
    assert check.level == "fail" and "550.54.15" in check.finding and "CUDA build" in check.remedy
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert only(doctor.check_device(), "device").level == "ok"


def test_a_missing_codec_is_named(monkeypatch):
    """Without any zstd a run would fail; with the library's own, bytes may differ."""
    assert only(doctor.check_software(), "codecs").level == "ok"
    monkeypatch.setattr(doctor, "installed", lambda package: "")
    check = only(doctor.check_software(), "codecs")
    assert check.level == "warn" and check.remedy == "pip install zstandard"

    def none():
        raise ImportError("no zstd: run `pip install zstandard` or use Python 3.14+")

    monkeypatch.setattr(quantize, "load_zstd", none)
    check = only(doctor.check_software(), "codecs")
    assert check.level == "fail" and "no zstd" in check.finding


def test_a_busy_or_small_machine_is_told(monkeypatch):
    """Load, spinning threads, memory and disk: each has its warning, and a free machine none."""
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0, 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    free = SimpleNamespace(free=10**12)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: free)
    assert {check.level for check in doctor.check_machine(1)} == {"ok"}
    assert only(doctor.check_machine(10**12), "memory").level == "warn"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert "golf.py" in only(doctor.check_machine(1), "cores").remedy
    monkeypatch.setattr(os, "getloadavg", lambda: (100.0, 0, 0))
    assert "busy" in only(doctor.check_machine(1), "cores").finding
    free.free = 10**7
    assert only(doctor.check_machine(1), "disk").level == "fail"


def test_attention_without_a_kernel_is_a_warning(monkeypatch):
    """A CPU takes its flash kernel; where only math is allowed, that is seen and warned of."""
    check = doctor.check_attention(TINY, CPU)
    assert check.level == "ok" and check.finding == "FLASH_ATTENTION, float32"
    monkeypatch.setattr(ranks, "ATTENTION_KERNELS", ["MATH"])
    check = doctor.check_attention(TINY, CPU)
    assert check.level == "warn" and check.finding.startswith("math")


@pytest.mark.parametrize(
    "code, needed, level, message",
    [
        ("print('1.5 8192.0')", True, "ok", "1.5 s"),
        ("print('1.5 0.0')", True, "fail", "torch.compile fails"),
        ("raise SystemExit('no C compiler')", True, "fail", "no C compiler"),
        ("raise SystemExit('no C compiler')", False, "ok", "do without"),
        ("import time; time.sleep(60)", True, "warn", "not done after"),
        ("import time; time.sleep(60)", False, "ok", "not done after"),
    ],
)
def test_compilation_is_tried_and_bounded(monkeypatch, code, needed, level, message):
    """A wrong gradient, an error and a hang are told apart; all matter only where it is used."""
    monkeypatch.setattr(doctor, "COMPILE_CODE", code)
    seconds = 0.2 if "sleep" in code else 30
    check = doctor.check_compile(doctor.start_compile(), needed, seconds)
    assert check.level == level and message in check.finding


def settings_on(toy: Path, **more) -> Settings:
    data, tokenizer = toy / "datasets/toy_sp1024", toy / "tokenizers/toy_1024_bpe.model"
    return replace(TINY, data_path=str(data), tokenizer_path=str(tokenizer), **more)


def test_good_data_are_ok(toy):
    """The check that a run makes passes, and its line is shown."""
    checks = list(doctor.check_data(RECIPE, settings_on(toy), {"data_path": ""}))
    assert [check.level for check in checks] == ["ok", "ok"]
    assert "train_shards:1/1" in only(checks, "shards").finding
    count = len(read_split(toy / "datasets/toy_sp1024", "val"))
    assert doctor.count_tokens(settings_on(toy), "val", 0) == count > 10_000


def test_missing_data_fail_with_the_command_that_fetches_them(tmp_path):
    """No shards and no tokenizer: two faults, each with its remedy."""
    hp = replace(TINY, data_path=str(tmp_path), tokenizer_path=str(tmp_path / "no.model"))
    for check in doctor.check_data(RECIPE, hp, {"data_path": ""}):
        assert check.level == "fail" and "golf.py data fetch" in check.remedy
    assert doctor.count_tokens(hp, "val", 62) == 62


def test_the_smoke_text_need_not_be_there(tmp_path, monkeypatch):
    """The smoke preset makes its text itself, unless a folder was asked for."""
    monkeypatch.chdir(tmp_path)
    assert [check.level for check in doctor.check_data(RECIPE, TINY, {})] == ["ok"]
    overrides = {"data_path": TINY.data_path}
    assert {check.level for check in doctor.check_data(RECIPE, TINY, overrides)} == {"fail"}


@pytest.mark.parametrize(
    "path, note, shards, level, message",
    [
        ("fineweb10B_sp1024", "data verified source:x train_shards:1/195", 1, "warn", "1 of 80"),
        ("fineweb10B_sp1024", "data verified source:x train_shards:80/195", 80, "ok", "80/195"),
        ("fineweb10B_sp1024", "warning: x has no manifest.json", 1, "warn", "1 of 80"),
        ("other", "data verified source:x train_shards:2/3", 2, "warn", "2 of 3"),
        ("other", "warning: other has no manifest.json", 1, "warn", "no manifest"),
    ],
)
def test_one_shard_of_eighty_is_a_warning(monkeypatch, path, note, shards, level, message):
    """Few shards are told with or without a manifest, and so is a missing manifest."""
    monkeypatch.setattr(doctor.start_check, "check_start", lambda *arguments: note)
    monkeypatch.setattr(doctor, "find_shards", lambda *arguments: ["shard"] * shards)
    check = doctor.check_shards(replace(TINY, data_path=path))
    assert check.level == level and message in check.finding
    assert ("data fetch" in check.remedy) == (level == "warn")


def test_the_shards_to_fetch_are_those_of_the_settings():
    """A record's text is not that of 1,024 pieces."""
    record = doctor.fetch_command(PRESETS["record"]["data_path"])
    assert "data fetch --variant sp8192 --train-shards 80" in record
    assert "--variant sp1024 " in doctor.fetch_command("my_shards")


def test_a_check_of_shards_that_takes_too_long_is_given_up(monkeypatch, toy):
    """Hashing many shards is left to `verify`."""
    monkeypatch.setattr(doctor, "DATA_SECONDS", 0.05)
    monkeypatch.setattr(doctor, "check_shards", lambda *arguments: time.sleep(1))
    check = only(doctor.check_data(RECIPE, settings_on(toy), {}), "shards")
    assert check.level == "warn" and "golf.py data verify" in check.remedy


RESULT = {"step_seconds": 1.0, "compiled": True, "steps": 500, "tokens": 5, "score_seconds": 84.0}
RESULT |= {"tokens_per_second": 5.0, "train_seconds": 590.0, "reserve_seconds": 9.0}
RESULT |= {"model_bytes": 15_000_000, "code_bytes": 120_000, "total_bytes": 15_120_000}


@pytest.mark.parametrize(
    "name, change, settings, level, message",
    [
        ("steps", {}, {}, "ok", "500 steps"),
        ("steps", {"steps": 99}, {}, "warn", "too few"),
        ("steps", {"steps": 0}, {}, "fail", "too few"),
        ("steps", {}, {"max_wallclock_seconds": 601.0}, "warn", "of 601"),
        ("step time", {"compiled": False}, {}, "ok", "which the run will be"),
        ("scoring time", {"score_seconds": 601.0}, {}, "warn", "601 s"),
        ("scoring time", {}, {}, "ok", "84 s"),
        ("size", {}, {}, "ok", "880,000 under the cap"),
        ("size", {"total_bytes": 15_990_000}, {}, "ok", "under the cap; the cap decides"),
        ("size", {"total_bytes": 16_000_001}, {}, "warn", "1 OVER the cap"),
    ],
)
def test_a_forecast_warns_of_what_breaks_a_rule(name, change, settings, level, message):
    """Time, size and steps have limits; each line beyond one is a warning with a remedy."""
    hp = replace(Settings(), **settings)
    check = only(doctor.check_forecast(hp, RESULT | change, 1), name)
    assert check.level == level and message in check.finding
    assert bool(check.remedy) == (level != "ok")


def test_what_was_not_measured_is_not_forecast():
    """A probe that only packed gives the size alone."""
    result = forecast_from_probe(RECIPE, Settings(), {"pack": MEASURES["pack"]}, 1, 8e9, 1)
    assert [check.name for check in doctor.check_forecast(Settings(), result, 1)] == ["size"]


def test_the_command_reports_as_text_and_json(toy, monkeypatch, capsys):
    """--no-probe: checks alone; status 1 with a fault, and then its remedy is shown."""
    monkeypatch.setenv("PRESET", "smoke")
    hp = settings_on(toy)
    words = ["--no-probe", "--data", hp.data_path, "--tokenizer", hp.tokenizer_path]
    assert main([*words, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    names = [check["name"] for check in report["checks"]]
    assert {"versions", "codecs", "memory", "disk", "attention", "shards"} <= set(names)
    assert report["status"] == 0 and report["forecast"] == {}
    assert main(["--no-probe", "--data", str(toy), "--tokenizer", hp.tokenizer_path]) == 1
    out = capsys.readouterr().out
    assert "\nfail  shards" in out and "-> DATA_PATH=" in out and "doctor: 1 fail" in out


def test_the_probe_is_part_of_the_command(monkeypatch, toy, capsys):
    """What the probe found is forecast; what it had no time for is a warning."""
    monkeypatch.setattr(doctor, "start_compile", lambda: object())
    monkeypatch.setattr(doctor, "check_compile", lambda *arguments: Check("compile", "ok", "fine"))
    monkeypatch.setattr(doctor, "run_probe", lambda *arguments: ({"pack": MEASURES["pack"]}, ""))
    monkeypatch.setenv("PRESET", "smoke")
    hp = settings_on(toy)
    words = ["--data", hp.data_path, "--tokenizer", hp.tokenizer_path]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "not enough to measure step, score" in out and "under the cap" in out
    monkeypatch.setattr(doctor, "run_probe", lambda *arguments: ({}, "out of memory"))
    assert main(words) == 1
    assert "MICRO_BATCH_TOKENS" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words, settings, message",
    [
        (["--from-run", "none"], {}, "no log in logs/none"),
        (["--gpus", "0"], {}, "--gpus 0 must be"),
        (["pr335"], {}, "no recipe 'pr335'"),
        ([], {"MATRX_LR": "1"}, "did you mean MATRIX_LR"),
        (["--device", "X100"], {}, "--device X100 must name one of"),
        (["--from-run", str(LOG)], {"NUM_LAYERS": "3"}, "NUM_LAYERS=3"),
    ],
)
def test_what_cannot_be_forecast_is_status_2(monkeypatch, capsys, words, settings, message):
    """Wrong settings and runs end with one line."""
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_a_run_is_forecast_for_another_length(monkeypatch, capsys):
    """--from-run takes the run's settings, and from the environment what differs."""
    monkeypatch.setenv("MAX_WALLCLOCK_SECONDS", "60")
    assert main(["pr334", "--from-run", str(LOG), "--json"]) == 0
    assert 200 < json.loads(capsys.readouterr().out)["forecast"]["steps"] < 260


def test_a_run_is_forecast_for_a_device_that_is_not_here(monkeypatch, capsys):
    """The preset's size, steps, bits and bytes, and what was assumed; nothing is probed."""
    monkeypatch.setenv("PRESET", "h100_10min")
    assert main(["--device", "H100"]) == 0
    out = capsys.readouterr().out
    for text in (
        "22% of it",
        "not measured",
        "27,284,313 parameters",
        "3.40 bits",
        "under the cap",
    ):
        assert text in out, text
    assert out.splitlines()[-1].startswith("next: PRESET=h100_10min python3 ")
    monkeypatch.delenv("PRESET")
    assert main(["--device", "H100", "--gpus", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["forecast"]["parameters"] == 35_942_551


def test_the_next_command_trains_what_was_forecast(monkeypatch, capsys):
    """Settings stand in front as they were typed, quoted; recipe and GPUs behind."""
    monkeypatch.setenv("MATRIX_LR", "0.02")
    arguments = ["pr334", "--from-run", str(LOG), "--gpus", "8", "--data", "a b"]
    monkeypatch.setattr(doctor, "check_forecast", lambda *args: [doctor.Check("a", "ok", "b")])
    assert main(arguments) == 0
    words = shlex.split(capsys.readouterr().out.splitlines()[-1])
    assert words[:4] == ["next:", "DATA_PATH=a b", "MATRIX_LR=0.02", "python3"]
    assert words[-4:] == ["train", "pr334", "--gpus", "8"]


@pytest.mark.slow
def test_a_full_examination_takes_less_than_a_minute(tmp_path):
    """The whole command on the smoke preset, its child processes included."""
    command = ["env", f"PYTHONPATH={ROOT}", "PRESET=smoke", sys.executable]
    command += ["-m", "tools.runs.doctor"]
    done = subprocess.run([*command, "--json"], cwd=tmp_path, capture_output=True, timeout=90)
    report = json.loads(done.stdout)
    names = {check["name"] for check in report["checks"]}
    assert done.returncode == 0 and {"compile", "step time", "size", "steps"} <= names
    model = RECIPE.model(RECIPE.model_settings(Settings(**PRESETS["smoke"])), torch.float32)
    weights = sum(p.numel() for p in model.parameters())
    assert report["forecast"]["model_bytes"] == round(USUAL_BITS * weights / 8)
