"""Seeds: all different, alike in all else, and none left out."""

import json
import shutil

import pytest

from tests.tools.submission.conftest import SCRIPT, edit, edit_logs, faults_in
from tests.tools.submission.test_pack import FOLDER as OURS
from tests.tools.submission.test_pack import pack as pack_runs
from tests.tools.submission.test_pack import runs  # noqa: F401 (a fixture)
from tools.submission.documents import render


def same_score(folder):
    shutil.copy(folder / "train_seed42.log", folder / "train_seed314.log")


def same_losses(folder):
    edit_logs(folder, r"train_loss:(\d+)\.\d+", r"train_loss:\1.5")


def another_seed(folder):
    edit(folder / "train_seed42.log", "seed:42", "seed:1337")


def a_seed_of_another_name(folder):
    edit(folder / "train_seed42.log", "seed:42", "seed:7")


def another_setting(folder):
    edit(folder / "train_seed42.log", "train_seq_len:1024", "train_seq_len:2048")


def other_shards(folder):
    edit(folder / "train_seed42.log", "train_shards:80", "train_shards:39")


def other_code(folder):
    edit(folder / "train_seed42.log", r"Code size: \d+", f"Code size: {len(SCRIPT) - 1}")


def test_a_copy_of_a_log_is_not_another_run(folder):
    """train.log beside train_seed1337.log, byte for byte: three runs are still three."""
    shutil.copy(folder / "train_seed1337.log", folder / "train.log")
    assert faults_in(folder) == set()


def test_reruns_of_one_seed_are_for_a_person_to_weigh(folder):
    """Other losses, another score, the same SEED: more than one run, less than three seeds."""
    for path in folder.glob("*.log"):
        edit(path, r"\nseed:\d+", "\nseed:1337")
        path.rename(folder / f"train_v{path.stem[10:]}.txt")
    assert ("seeds", "warn") in faults_in(folder) and ("seeds", "fail") not in faults_in(folder)


def test_a_log_without_a_score_counts_only_where_others_are_missing(folder):
    log = (folder / "train_seed42.log").read_text().split("final_")[0]
    (folder / "train_crashed.log").write_text(log.replace("6.942", "7.1"))
    assert {level for rule, level in faults_in(folder) if rule == "seeds"} == {"warn"}
    (folder / "train_seed42.log").unlink()
    assert ("seeds", "fail") in faults_in(folder)


@pytest.mark.parametrize(
    "spoil",
    [
        same_score,
        same_losses,
        another_seed,
        a_seed_of_another_name,
        another_setting,
        other_shards,
        other_code,
    ],
)
def test_seeds_are_runs_of_one_thing(folder, spoil):
    """The same seed twice, other settings, shards or code: these are not three seeds."""
    spoil(folder)
    assert ("seeds", "fail") in faults_in(folder)


def test_a_launch_without_a_reason_is_found(runs):  # noqa: F811
    """A launch that is listed, not packed and not explained was left out."""
    assert pack_runs(runs) == 0
    content = json.loads((OURS / "submission.json").read_text())
    content["launches"] += [{"run_id": "s9", "seed": 9, "status": "finished", "reason": " "}]
    for name, data in render(OURS, content).items():
        (OURS / name).write_bytes(data)
    assert ("selection", "fail") in faults_in(OURS)
