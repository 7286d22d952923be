"""The limits of a track: bytes as shipped, and minutes of training and scoring."""

from types import SimpleNamespace

import pytest

from quantize import CAP_BYTES
from tests.tools.submission.conftest import (
    MODEL,
    SCRIPT,
    edit,
    faults_in,
    field_folder,
    hypothetical_code,
    packed_code,
)
from tools.submission.check import check
from tools.submission.limits import check_budget, late_calibration
from tools.submission.tracks import TRACKS


@pytest.mark.parametrize("over, level", [(0, "ok"), (1, "fail")])
def test_the_cap_holds_for_what_is_shipped(folder, over, level):
    """Exactly 16,000,000 bytes of the largest seed's artifact and the shipped code pass."""
    model = CAP_BYTES - len(SCRIPT) + over
    edit(folder / "train_seed314.log", r"(int8.zlib): 158\d+ bytes \(", rf"\1: {model} bytes (")
    edit(folder / "train_seed314.log", r"size int8\+zlib: \d+", "size int8+zlib: 16000000")
    levels = [f.level for f in check(folder) if f.rule == "size"]
    assert levels == [level]


def test_size_is_told_three_ways(folder):
    """As shipped, with the code packed, and as claimed; with the files that make it."""
    hypothetical_code(folder)
    (finding,) = [f for f in check(folder) if f.rule == "size"]
    code = (folder / "train_gpt.py").stat().st_size
    for number in (MODEL[314] + code, code, MODEL[314], MODEL[314] + 31_999, 31_999):
        assert f"{number:,}" in finding.evidence
    assert "packed about 15,81" in finding.evidence
    assert "tools.submission.bundle pack" in finding.remedy


def test_packed_code_is_weighed_with_what_it_imports(tmp_path):
    """A helper counts, whether the script that imports it is packed or not."""
    for code in ("import helper\n", packed_code("import helper\nhelper.run()\nprint(1)\n")):
        folder = field_folder(tmp_path / f"2026-03-{10 + len(code) % 9}_Field", code=code)
        (folder / "helper.py").write_text("# not much\n" * 100_000)
        assert "size" in {f.rule for f in check(folder) if f.level == "fail"}


def test_an_overshoot_of_one_step_is_shown_with_its_cause(folder):
    """600.137 s whose last step began in time is for a person to judge; 601 s is over time."""
    edit(folder / "train_seed42.log", "train_time:599412ms step:", "train_time:600137ms step:")
    finding = next(f for f in check(folder) if f.rule == "time" and f.level == "warn")
    assert "600.137" in finding.evidence and "last step" in finding.evidence
    edit(folder / "train_seed42.log", "train_time:600137ms step:", "train_time:601000ms step:")
    assert ("time", "fail") in faults_in(folder)


def test_slow_scoring_is_over_time(folder):
    """602.048 s of evaluation fail, on the record track and not on the other."""
    edit(folder / "train_seed42.log", r"eval_time:\d+ms", "eval_time:602048ms")
    assert faults_in(folder) == {("time", "fail")}
    assert faults_in(folder, track="non_record_16mb") == set()


@pytest.mark.parametrize(
    "steps, artifact_bytes, broken",
    [(1000, 250_000, set()), (1001, 250_000, {"time"}), (1000, 250_001, {"size"})],
)
def test_the_mini_track_bounds_flops_and_artifact(tmp_path, steps, artifact_bytes, broken):
    """Both exactly at their limit pass; a step or a byte more fails under its rule."""
    log = tmp_path / "train.log"
    log.write_text("mfu of flops_per_token:48828125 and peak_flops:unknown\n")  # 1e11 a step
    run = SimpleNamespace(
        path=log,
        steps=steps,
        settings={"train_batch_tokens": 2048},
        model_bytes=artifact_bytes,
    )
    record = SimpleNamespace(track=TRACKS["mini_cpu"], scored=[run])
    assert {f.rule for f in check_budget(record) if f.level == "fail"} == broken
    log.write_text("no figure of FLOPs\n")
    assert "time" in {f.rule for f in check_budget(record) if f.level == "fail"}
    assert not list(check_budget(SimpleNamespace(track=TRACKS["smoke_cpu"], scored=[run])))


@pytest.mark.parametrize(
    "lines, expected",
    [
        ("stopping_early: x\nGPTQ:collected 67 Hessians in 4.7s\n", (4.7, 2)),
        ("stopping_early: x\ncalibration took 500ms\nhessians: 2 s\n", (2.5, 3)),
        ("GPTQ:collected 67 Hessians in 4.7s\nstopping_early: x\n", (0.0, 0)),  # in time
        ("stopping_early: x\nself-generated calibration text in 9s\n", (0.0, 0)),  # its own text
    ],
)
def test_calibration_after_the_clock_is_timed(tmp_path, lines, expected):
    """Seconds in any unit, of lines after the end of training, on training text alone."""
    log = tmp_path / "train_seed1.log"
    log.write_text(lines)
    assert late_calibration(SimpleNamespace(path=log)) == expected
