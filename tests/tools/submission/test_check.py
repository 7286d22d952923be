"""The folder check: each known fault by its rule's name, and nothing said of a clean folder."""

import json
import math
import re
from pathlib import Path

import pytest

from tests.tools.submission.conftest import (
    BYTES,
    FIELD_CODE,
    SEEDS,
    TOKENS,
    bits,
    edit,
    edit_json,
    edit_logs,
    faults_in,
    field_folder,
    helper_not_counted,
    hypothetical_code,
    packed_code,
    stray_log,
)
from tests.tools.submission.field_styles import STYLES
from tests.tools.submission.test_pack import FOLDER as OURS
from tests.tools.submission.test_pack import pack as pack_runs
from tests.tools.submission.test_pack import runs  # noqa: F401 (a fixture)
from tools.legality.rules import status
from tools.submission.check import check, main

OWN = (Path(__file__).parents[3] / "records").glob("*/*/submission.json")


def test_a_clean_folder_of_others_has_no_finding(folder):
    """No failure, no warning; and something was checked under each rule that applies."""
    findings = check(folder)
    assert [f for f in findings if f.level != "ok"] == []
    rules = {f.rule for f in findings}
    assert rules >= {"files", "schema", "figures", "size", "time", "seeds", "selection"}
    assert rules >= {"validation", "significance"}


def test_a_clean_folder_of_ours_has_no_finding(runs):  # noqa: F811
    """What tools.submission.pack writes passes, without a warning."""
    assert pack_runs(runs) == 0
    assert [f for f in check(OURS) if f.level != "ok"] == []


def stub_and_second_file(folder):
    """#1412: a stub that opens a second file, which takes the whole over the cap."""
    code = "x = 1\n" + "# more of it\n" * 16_000
    (folder / "decoded.txt").write_text(code)
    stub = 'exec(compile(open("decoded.txt").read(), "decoded.txt", "exec"))\n'
    (folder / "train_gpt.py").write_text(stub)
    edit_logs(folder, r"Code size: \d+", f"Code size: {len(stub)}")


def other_validation(folder):
    """The launch baseline: 63,779,840 tokens of another validation set."""
    edit_logs(folder, r"tokens:62021632", "tokens:63960000")


def tail_dropped(folder):
    """A long context that leaves the last, short window out."""
    shorter = round(BYTES - 24_576 * BYTES / TOKENS)
    for seed in SEEDS:
        loss = bits(seed)[0]
        bpb = loss / math.log(2) * 61_997_056 / shorter
        edit(folder / f"train_seed{seed}.log", r"tokens:62021632", "tokens:61997056")
        edit(folder / f"train_seed{seed}.log", r"(exact .*val_bpb:)\S+", rf"\g<1>{bpb:.8f}")


def json_below_worst_seed(folder):
    """A size that is smaller than the largest seed's."""
    edit_json(folder, bytes_total=15_534_645)


def score_in_the_wrong_field(folder):
    """bpb in val_loss, and no val_bpb."""
    edit_json(folder, val_loss=1.1504, val_bpb=None)


def best_seed_for_the_mean(folder):
    """The best seed's score as that of the record."""
    edit_json(folder, val_bpb=bits(1337)[1])


def two_logs(folder):
    """Fewer than three logs."""
    (folder / "train_seed314.log").unlink()


def picked_afterwards(folder):
    """#1769: the best five of seven."""
    with open(folder / "README.md", "a") as file:
        file.write("By convention we report the best 3 of 5 seeds.\n")


def a_log_too_many(folder):
    """A seed that was run, and is not in the mean."""
    log = (folder / "train_seed42.log").read_text().replace("seed:42", "seed:7")
    (folder / "train_seed7.log").write_text(log.replace("val_bpb:1.15", "val_bpb:1.16"))


def leaky_helper(folder):
    """The merged prepare_caseops_data.py: 10,000 validation documents by default."""
    text = "import argparse\np = argparse.ArgumentParser()\n"
    text += 'p.add_argument("--val-docs", type=int, default=10_000)\n'
    (folder / "prepare_caseops_data.py").write_text(text)


def missing_module(folder):
    """#1868: a script that imports a module which is nowhere."""
    edit(folder / "train_gpt.py", "import glob\n", "import glob\nimport rerun_common\n")
    code = (folder / "train_gpt.py").stat().st_size
    edit_logs(folder, r"Code size: \d+", f"Code size: {code}")


TWELVE = {
    "over the cap by a second file": (stub_and_second_file, "size"),
    "helper not counted": (helper_not_counted, "size"),
    "counted code is not shipped": (hypothetical_code, "size"),
    "another validation set": (other_validation, "validation"),
    "tail of validation dropped": (tail_dropped, "validation"),
    "stray folder": (stray_log, "files"),
    "size of a smaller seed": (json_below_worst_seed, "figures"),
    "score in the wrong field": (score_in_the_wrong_field, "schema"),
    "best seed for the mean": (best_seed_for_the_mean, "figures"),
    "two logs": (two_logs, "seeds"),
    "seeds picked afterwards": (picked_afterwards, "selection"),
    "a log too many": (a_log_too_many, "selection"),
    "leaky helper": (leaky_helper, "validation"),
    "missing module": (missing_module, "files"),
}


@pytest.mark.parametrize("spoil, rule", TWELVE.values(), ids=TWELVE)
def test_what_merged_records_had_is_found(folder, spoil, rule):
    """Each of the known faults fails under its own rule."""
    spoil(folder)
    assert (rule, "fail") in faults_in(folder)


@pytest.mark.parametrize(
    "spoil, evidence",
    [
        (tail_dropped, "short of the split: its tail is not scored"),
        (other_validation, "another validation set"),
        (json_below_worst_seed, "is less than the 15,811,090 of train_seed314.log"),
        (best_seed_for_the_mean, "is that of train_seed1337.log, not the mean 1.15040"),
        (score_in_the_wrong_field, "val_loss 1.1504 is a score in bpb"),
        (picked_afterwards, "best 3 of 5"),
        (missing_module, "imports rerun_common"),
    ],
)
def test_the_evidence_says_what_is_wrong(folder, spoil, evidence):
    """A reader need not look the fault up: what was found stands there."""
    spoil(folder)
    assert any(evidence in f.evidence for f in check(folder) if f.level == "fail")


def test_a_stray_log_over_the_cap_is_over_the_cap(folder):
    """The size that a log states is judged, code or no code; what is missing is listed."""
    stray_log(folder)
    evidence = [f.place + f.evidence for f in check(folder) if f.level == "fail"]
    assert any("16,186,500" in text for text in evidence)
    for name in ("README.md", "submission.json", "train_gpt.py"):
        assert any(name in text for text in evidence)


def test_the_command_says_it_in_a_screen(folder, capsys):
    """Status 1, the fault with its remedy, in less than a screen; what holds is counted."""
    helper_not_counted(folder)
    assert main([str(folder)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("FAIL  size") and "ngram_tilt.py" in lines[0]
    assert lines[1].startswith("      -> ") and len(lines) < 25
    assert re.fullmatch(r"findings: \d fail, \d warn, \d+ ok", lines[-1])


def test_json_is_one_object(folder, capsys):
    """--json: the status and every finding with rule, level, place, evidence and remedy."""
    assert main([str(folder), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["status"] == 0
    for row in content["findings"]:
        assert list(row) == ["rule", "level", "where", "evidence", "remedy"]


def test_what_is_no_folder_is_status_2(tmp_path, capsys):
    """No folder, no verdict: one line that says what was given."""
    assert main([str(tmp_path / "nowhere")]) == 2
    error = capsys.readouterr().err
    assert "nowhere" in error and error.count("\n") == 1


def test_an_empty_folder_fails(tmp_path):
    """Everything that is missing is named; nothing stops the check."""
    evidence = {f.place for f in check(tmp_path) if f.level == "fail"}
    assert {"README.md", "submission.json", "train_gpt.py"} <= evidence


@pytest.mark.parametrize("folder", sorted(path.parent for path in OWN), ids=lambda f: f.name)
def test_our_own_records_are_clean(folder):
    """Every record here that was packed breaks no rule, and nothing in it waits for a person."""
    assert {f.level for f in check(folder)} == {"ok"}


SLOT_CODE = """import torch
import torch.nn.functional as F


def evaluate(model, tokens):
    total = 0.0
    for start in range(0, len(tokens) - 1, 64):
        x, y = tokens[start : start + 64], tokens[start + 1 : start + 65]
        delta = torch.zeros(512, requires_grad=True)
        F.cross_entropy(model.head(model.hidden(x) + delta), y).backward()
        with torch.no_grad():
            total += F.cross_entropy(model.head(model.hidden(x) + delta), y).item()
    return total
"""

LAWFUL = {
    "plain": {},
    "logs in a folder, by other names": {"names": "logs_experiment/hybrid_600s_s{seed}.txt"},
    "ternary logs": {"names": "ternary_log_{seed}.txt"},
    "packed code": {"code": packed_code(FIELD_CODE)},
    "the claim is a line that all logs share": {"claim": 1.14101234},
    "calibration within the time": {
        "stop_ms": 590_000,
        "after": "GPTQ:collected 67 Hessians in 4.7s",
    },
    "seeds are told": {"readme": "No seeds were dropped. All three runs are reported."},
    "a cheat that is left off": {
        "code": "import os\nSLOT = int(os.environ.get('SLOT', '0'))\n"
        + SLOT_CODE.replace("        delta =", "        if SLOT:\n          delta =").replace(
            "        F.cross", "          F.cross"
        )
    },
}

UNLAWFUL = {
    "late calibration": ({"after": "GPTQ:collected 67 Hessians in 4.7s"}, "phases"),
    "too large": ({"model": 15_999_900}, "size"),
    "training too long": ({"stop_ms": 604_000}, "time"),
    "scoring too long": ({"eval_ms": 612_000}, "time"),
    "SLOT, packed": ({"code": packed_code(SLOT_CODE)}, "causal"),
    "the best of three": ({"readme": "Submitted: seed 1 (best)"}, "selection"),
    "the lowest of five": ({"readme": "Score: mean of the 3 lowest"}, "selection"),
    "another score than the logs": ({"claim": 1.1105}, "figures"),
    "an empty script": ({"code": ""}, "files"),
    "bytes counted twice": ({"bytes_ratio": 1.167}, "bytes"),
    "two seeds": ({"seeds": (1, 2)}, "seeds"),
}


@pytest.mark.parametrize("changes", LAWFUL.values(), ids=LAWFUL)
def test_a_lawful_folder_of_the_field_has_no_failure(tmp_path, changes):
    """Warnings at most: status 0 or 3."""
    findings = check(field_folder(tmp_path / "2026-03-19_Field", **changes))
    assert [f for f in findings if f.level == "fail"] == []
    assert status(findings) in (0, 3)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_a_lawful_folder_of_another_author_has_no_failure(tmp_path, style):
    """Other names of logs, tables and fields, in the manner of public folders."""
    findings = check(style(tmp_path / "2026-04-05_Style"))
    assert [f for f in findings if f.level == "fail"] == []
    assert status(findings) in (0, 3)


def hide_slot(folder):
    (folder / "train_gpt.py").write_text(packed_code(SLOT_CODE))


def pick_a_seed(folder):
    with open(folder / "README.md", "a") as file:
        file.write("Submitted: the best of them.\n")


def flatter_the_claim(folder):
    path = next(folder.glob("submission*.json"))
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"val_bpb": content["val_bpb"] - 0.002}))


def train_too_long(folder):
    for path in [*folder.glob("*.log"), *folder.glob("ternary*.txt")]:
        edit(path, r"wallclock_cap train_time:( ?)\d+ms", r"wallclock_cap train_time:\g<1>604000ms")
    path = next(folder.glob("submission*.json"))
    path.write_text(path.read_text().replace("588004", "604000"))


SPOILERS = {
    hide_slot: "causal",
    pick_a_seed: "selection",
    flatter_the_claim: "figures",
    train_too_long: "time",
}


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
@pytest.mark.parametrize(
    "spoil, rule", SPOILERS.items(), ids=lambda item: getattr(item, "__name__", "")
)
def test_what_is_unlawful_is_so_in_every_style(tmp_path, style, spoil, rule):
    """One cheat in a folder of each author: its rule, no other, and status 1."""
    folder = style(tmp_path / "2026-04-05_Style")
    spoil(folder)
    findings = check(folder)
    assert {f.rule for f in findings if f.level == "fail"} == {rule}
    assert status(findings) == 1


@pytest.mark.parametrize("changes, rule", UNLAWFUL.values(), ids=UNLAWFUL)
def test_an_unlawful_folder_of_the_field_fails_by_its_rule(tmp_path, changes, rule):
    """And by no other rule: status 1."""
    findings = check(field_folder(tmp_path / "2026-03-19_Field", **changes))
    assert {f.rule for f in findings if f.level == "fail"} == {rule}
    assert status(findings) == 1
