"""The folder check: each known fault by its rule's name, and nothing said of a clean folder."""

import base64
import json
import math
import re
import shutil
import zlib
from pathlib import Path

import pytest

from data import verify
from quantize import CAP_BYTES
from tests.tools.submission.test_pack import FOLDER as OURS
from tests.tools.submission.test_pack import make_run, runs  # noqa: F401 (a fixture)
from tests.tools.submission.test_pack import pack as pack_runs
from tools.legality.rules import report, status
from tools.legality.sandbox import Trace
from tools.submission import bundle
from tools.submission.check import WINDOWED_BYTES, check, check_generated, judge_trace, load, main
from tools.submission.documents import render

OWN = (Path(__file__).parents[3] / "records").glob("*/*/submission.json")

SCRIPT = '''"""A small model of the field."""

import glob
import os

import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F


class Hyperparameters:
    seed = int(os.environ.get("SEED", 1337))
    iterations = int(os.environ.get("ITERATIONS", 20000))
    data_path = os.environ.get("DATA_PATH", "./data/datasets/fineweb10B_sp1024")


def load_tokens(pattern):
    return np.concatenate([np.fromfile(path, np.uint16) for path in sorted(glob.glob(pattern))])


def train(model, optimizer, tokens):
    for step in range(Hyperparameters.iterations):
        x, y = tokens[step : step + 1024], tokens[step + 1 : step + 1025]
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()


def eval_val(model, tokens):
    with torch.inference_mode():
        return F.cross_entropy(model(tokens[:-1]), tokens[1:])
'''
SEEDS = {42: 1.1504, 314: 1.1508, 1337: 1.1500}
TOKENS, BYTES = 62_021_632, 151_080_363
MODEL = {42: 15_800_111, 314: 15_810_222, 1337: 15_805_333}


def bits(seed: int) -> tuple[float, float]:
    """val_loss and val_bpb of a seed, to the eight decimals that logs have."""
    loss = round(SEEDS[seed] * math.log(2) * BYTES / TOKENS, 8)
    return loss, round(loss / math.log(2) * TOKENS / BYTES, 8)


def make_log(seed: int) -> str:
    """A log as upstream's script writes it."""
    loss, bpb = bits(seed)
    code = len(SCRIPT)
    model = MODEL[seed]
    score = f"val_loss:{loss:.4f} val_bpb:{bpb:.4f} eval_time:91400ms"
    middle = f"val_loss:{loss + 0.01:.4f} val_bpb:{bpb + 0.006:.4f}"
    return f"""val_bpb:enabled tokenizer_kind=sentencepiece tokenizer_path=fineweb_1024_bpe.model
train_loader:dataset:fineweb10B_sp1024 train_shards:80
val_loader:shards pattern=./data/fineweb10B_sp1024/fineweb_val_*.bin tokens:{TOKENS}
model_params:22368340
world_size:8 grad_accum_steps:1
train_batch_tokens:524288 train_seq_len:1024 iterations:20000 max_wallclock_seconds:600.000
seed:{seed}
step:1/20000 train_loss:6.9{seed} train_time:82ms step_avg:82.12ms
step:2/20000 train_loss:16.7{seed} train_time:164ms step_avg:82.12ms
step:3/20000 train_loss:8.2{seed} train_time:246ms step_avg:82.12ms
step:7100/20000 train_loss:1.9411 train_time:591020ms step_avg:83.24ms
step:7200/20000 {middle} train_time:599412ms step_avg:83.25ms
stopping_early: wallclock_cap train_time:599412ms step:7200/20000
peak memory allocated: 20184 MiB reserved: 20200 MiB
Serialized model: 86224983 bytes
Code size: {code} bytes
Total submission size: {86224983 + code} bytes
Serialized model int8+zlib: {model} bytes (payload:17178912 raw_torch:17224025 payload_ratio:3.91x)
Total submission size int8+zlib: {model + code} bytes
final_int8_zlib_roundtrip {score}
final_int8_zlib_roundtrip_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}
"""


def make_json() -> dict:
    mean = sum(bits(seed)[1] for seed in SEEDS) / 3
    loss = sum(bits(seed)[0] for seed in SEEDS) / 3
    rows = {
        str(seed): {
            "val_bpb": bits(seed)[1],
            "val_loss": bits(seed)[0],
            "artifact_bytes": MODEL[seed] + len(SCRIPT),
            "steps": 7200,
        }
        for seed in SEEDS
    }
    return {
        "author": "A. Golfer",
        "github_id": "golfer",
        "name": "Eleven layers",
        "blurb": "Eleven layers and a sliding window.",
        "date": "2026-03-19",
        "track": "10min_16mb",
        "val_loss": round(loss, 8),
        "val_bpb": round(mean, 8),
        "bytes_total": max(MODEL.values()) + len(SCRIPT),
        "bytes_code": len(SCRIPT),
        "seeds": list(SEEDS),
        "seed_results": rows,
        "hardware": "8xH100 80GB SXM",
    }


def make_readme() -> str:
    claims = make_json()
    rows = []
    for seed in SEEDS:
        loss, bpb = bits(seed)
        size = MODEL[seed] + len(SCRIPT)
        rows += [f"| {seed} | 7200 | {loss:.4f} | **{bpb:.4f}** | {size:,} |"]
    mean = f"| **Mean** | 7200 | {claims['val_loss']:.4f} | **{claims['val_bpb']:.4f}** | |"
    return "\n".join(
        [
            f"# Eleven layers: val_bpb {claims['val_bpb']:.4f}",
            "",
            "| Seed | Steps | val_loss | val_bpb | Artifact (bytes) |",
            "|---|---|---|---|---|",
            *rows,
            mean,
            "",
            f"The largest of the three is {claims['bytes_total']:,} bytes. Rotary base 10000.0.",
            "",
            "    SEED=42 torchrun --standalone --nproc_per_node=8 train_gpt.py",
            "",
        ]
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A clean record folder as others write it: three seeds, one script."""
    folder = tmp_path / "records/track_10min_16mb/2026-03-19_Eleven_layers"
    folder.mkdir(parents=True)
    for seed in SEEDS:
        (folder / f"train_seed{seed}.log").write_text(make_log(seed))
    (folder / "train_gpt.py").write_text(SCRIPT)
    (folder / "submission.json").write_text(json.dumps(make_json(), indent=2))
    (folder / "README.md").write_text(make_readme())
    return folder


def faults_in(folder: Path, **options) -> set[tuple[str, str]]:
    """(rule, level) of everything that is not in order."""
    return {(f.rule, f.level) for f in check(folder, **options) if f.level != "ok"}


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert re.search(old, text), f"{old} is not in {path}"
    path.write_text(re.sub(old, new, text))


def edit_logs(folder: Path, old: str, new: str) -> None:
    for path in folder.glob("*.log"):
        edit(path, old, new)


def edit_json(folder: Path, **changes) -> None:
    content = json.loads((folder / "submission.json").read_text()) | changes
    content = {key: value for key, value in content.items() if value is not None}
    (folder / "submission.json").write_text(json.dumps(content))


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


# The twelve findings in merged records (users of a checker asked for exactly these) -----------


def stub_and_second_file(folder):
    """#1412: a stub that opens a second file, which takes the whole over the cap."""
    code = "x = 1\n" + "# more of it\n" * 16_000
    (folder / "decoded.txt").write_text(code)
    stub = 'exec(compile(open("decoded.txt").read(), "decoded.txt", "exec"))\n'
    (folder / "train_gpt.py").write_text(stub)
    edit_logs(folder, r"Code size: \d+", f"Code size: {len(stub)}")


def helper_not_counted(folder):
    """#1514: a helper that is used at evaluation, and no part of the counted code."""
    with open(folder / "train_gpt.py", "a") as file:
        file.write("    import ngram_tilt\n")
    (folder / "ngram_tilt.py").write_text("# a tilt\n" * 24_000)
    code = (folder / "train_gpt.py").stat().st_size
    edit_logs(folder, r"Code size: \d+", f"Code size: {code}")


def hypothetical_code(folder):
    """Since #1530: what is counted is minified and compressed, what is shipped is not."""
    with open(folder / "train_gpt.py", "a") as file:
        file.write("# a comment that the counted code does not have\n" * 4_200)
    for seed in SEEDS:
        log = folder / f"train_seed{seed}.log"
        edit(log, r"Code size: \d+", "Code size: 31999")
        edit(log, r"(int8.zlib): \d+ bytes\n", rf"\1: {MODEL[seed] + 31_999} bytes\n")
    largest = max(MODEL.values()) + 31_999
    edit_json(folder, bytes_total=largest, bytes_code=31_999, seed_results=None)


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


def stray_log(folder):
    """A folder with a log of 16,186,500 bytes and nothing else."""
    for path in folder.iterdir():
        if path.name != "train_seed42.log":
            path.unlink()
    edit_logs(folder, r"size int8\+zlib: \d+", "size int8+zlib: 16186500")


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
    evidence = [f.where + f.evidence for f in check(folder) if f.level == "fail"]
    assert any("16,186,500" in text for text in evidence)
    for name in ("README.md", "submission.json", "train_gpt.py"):
        assert any(name in text for text in evidence)


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


def test_a_wrong_byte_count_is_named(folder):
    """The right tokens at other bytes: the miscount is named, with the score that is true."""
    for seed in SEEDS:
        loss = bits(seed)[0]
        bpb = loss / math.log(2) * TOKENS / BYTES / 1.167
        edit(folder / f"train_seed{seed}.log", r"(exact .*val_bpb:)\S+", rf"\g<1>{bpb:.8f}")
    finding = next(f for f in check(folder) if f.rule == "bytes")
    assert finding.level == "fail" and "leading space counted twice" in finding.evidence
    assert "1.15" in finding.remedy


@pytest.mark.parametrize("tokens", WINDOWED_BYTES)
def test_every_tokenizer_of_the_field_is_known(folder, tokens):
    """Tokens and bytes of the five tokenizers' whole windows pass, with a target more or less."""
    for seed in SEEDS:
        bpb = bits(seed)[0] / math.log(2) * tokens / WINDOWED_BYTES[tokens]
        edit(folder / f"train_seed{seed}.log", f"tokens:{TOKENS}", f"tokens:{tokens}")
        edit(folder / f"train_seed{seed}.log", r"(exact .*val_bpb:)\S+", rf"\g<1>{bpb:.8f}")
    assert not faults_in(folder) & {("validation", "fail"), ("bytes", "fail")}


def test_the_token_counts_are_those_of_the_data_check():
    """The same numbers stand in data/verify.py, which counts tokens of shards."""
    counts = {*verify.FINEWEB_TOKENS.values(), verify.FINEWEB_CASEOPS_TOKENS}
    assert counts == WINDOWED_BYTES.keys()


@pytest.mark.parametrize(
    "code, faulty",
    [
        ("VAL_DOCS = 10_000", True),
        ("def split(docs, num_val_docs=10000): pass", True),
        ("def split(docs, *, num_val_docs=10000): pass", True),
        ("split(docs, docs_val=10_000)", True),
        ("p.add_argument('--val-docs', default=10000)", True),
        ("p.add_argument('--val-docs', default=50_000)", False),
        ("def split(docs, val_docs, seed=10): pass", False),
        ("p.add_argument('--train-docs', default=10000)", False),
    ],
)
def test_a_short_split_is_found_however_it_is_set(folder, code, faulty):
    """As a constant, a parameter, an argument or an option."""
    (folder / "prepare.py").write_text(code + "\n")
    assert (("validation", "fail") in faults_in(folder)) == faulty


@pytest.mark.parametrize(
    "line, level",
    [
        ("import brotli", "warn"),
        ("import torch, triton, numpy", None),
        ("import no_such_module", "fail"),
        ("from no_such_module.part import x", "fail"),
        ("try:\n    import no_such_module\nexcept ImportError:\n    no_such_module = None", None),
    ],
)
def test_imports_are_met(folder, line, level):
    """Provided, in the folder, or named in requirements.txt; a guarded import need not be."""
    text = f"{line}\n{SCRIPT}"
    (folder / "train_gpt.py").write_text(text)
    edit_logs(folder, r"Code size: \d+", f"Code size: {len(text)}")
    assert {f for f in faults_in(folder) if f[0] == "files"} == (
        {("files", level)} if level else set()
    )
    (folder / "requirements.txt").write_text("brotli==1.1.0\nno-such-module>=2\n")
    assert not {f for f in faults_in(folder) if f[0] == "files"}


@pytest.mark.parametrize(
    "changes, level",
    [
        ({"author": None}, "warn"),
        ({"github_id": ""}, "warn"),
        ({"date": "last week"}, "warn"),
        ({"date": "2026-03-18T00:05:35Z"}, None),
        ({"bytes_total": "15 MB"}, "fail"),
        ({"bytes_total": None}, "warn"),
        ({"val_bpb": None, "mean_val_bpb": 1.1504}, "warn"),
        ({"val_bpb": "1.1504"}, "fail"),
    ],
)
def test_the_schema_of_the_field(folder, changes, level):
    """Names and types; the field's other spellings are read, with a warning."""
    edit_json(folder, **changes)
    levels = {f[1] for f in faults_in(folder) if f[0] == "schema"}
    assert levels == ({level} if level else set())


def test_broken_json_is_placed(folder):
    """A trailing comma is a finding with line and column, and the rest is still checked."""
    edit(folder / "submission.json", "\n}", ",\n}")
    findings = [f for f in check(folder) if f.rule == "schema"]
    assert findings[0].level == "fail" and "column" in findings[0].evidence
    assert any(f.rule == "size" for f in check(folder))


@pytest.mark.parametrize(
    "old, new, level",
    [
        (r"\*\*1\.1508\*\*", "**1.1507**", "fail"),  # of a seed
        (r"15,80[0-4],\d+ \|", "15,800,000 |", "fail"),
        (r"(\| \*\*Mean\*\* .*)1\.1504", r"\g<1>1.1503", "fail"),
        (r"(# Eleven .*)1\.1504", r"\g<1>1.1494", "warn"),
        (r"is 15,8\d\d", "is 15,700", "warn"),
        (r"10000\.0", "20000.0", None),  # no score and no size
    ],
)
def test_the_figures_of_a_readme_are_looked_for(folder, old, new, level):
    """A changed figure fails in the table of seeds; in prose a person is asked."""
    edit(folder / "README.md", old, new)
    assert faults_in(folder) == ({("figures", level)} if level else set())


@pytest.mark.parametrize(
    "changes",
    [
        {"val_loss": 1.9},
        {"seeds": [42, 314, 1337, 7], "seed_results": {"7": {"val_bpb": 1.15}}},
        {"seed_results": {str(s): {"val_bpb": 1.1401, "steps": 7200} for s in SEEDS}},
        {"seed_results": {str(s): {"steps": 7201} for s in SEEDS}},
    ],
)
def test_the_figures_of_the_json_are_those_of_the_logs(folder, changes):
    """Mean loss, seeds without a log, and numbers of a seed that its log does not say."""
    edit_json(folder, **changes)
    assert ("figures", "fail") in faults_in(folder)


def test_a_gain_within_noise_is_told(folder):
    """Against the row that stood on its day: p for each reading of 0.005 nats, and no more."""
    edit_json(folder, date="2026-04-30")
    (finding,) = [f for f in check(folder) if f.rule == "significance"]
    assert finding.level == "warn" and "p = 1 for any gain" in finding.evidence
    assert finding.evidence.startswith("-0.0") and "claim no record" in finding.remedy
    with open(folder / "README.md", "a") as file:
        file.write("Welch, one-sided: p < 1e-7.\n")
    claims = [f.evidence for f in check(folder) if f.rule == "significance"]
    assert any(text.startswith("claims p of 1e-7") for text in claims)
    assert not [f for f in check(folder, track="unlimited") if f.rule == "significance"]


def test_the_track_is_read_from_where_it_stands(folder):
    """From the JSON in its spellings, else from the path; given, it is taken as given."""
    for stated, track in (
        ("10min_16mb", "10min_16mb"),
        ("track_10min_16mb", "10min_16mb"),
        ("non-record-16mb", "non_record_16mb"),
        ("track_non_record_16mb", "non_record_16mb"),
        (None, "10min_16mb"),
    ):
        edit_json(folder, track=stated)
        assert load(folder)[0].track_name == track
    assert load(folder, "unlimited")[0].track_name == "unlimited"


# Folders of ours ------------------------------------------------------------------------------


def flipped(data: bytes, place: int) -> bytes:
    """The bytes with the digit at this place changed."""
    digit = data[place] - ord("0")
    return data[:place] + str((digit + 1 + place % 9) % 10).encode() + data[place + 1 :]


@pytest.mark.parametrize("name", ["README.md", "submission.json"])
def test_any_digit_that_is_changed_is_found(runs, name):  # noqa: F811
    """One digit in 19 of both files, one at a time; `pack` made them, none is spared."""
    assert pack_runs(runs) == 0
    path = OURS / name
    data = path.read_bytes()
    digits = [i for i, byte in enumerate(data) if chr(byte).isdigit()]
    assert len(digits) > 500
    for place in digits[:: 19 if name == "README.md" else 37]:
        path.write_bytes(flipped(data, place))
        record, faults = load(OURS)
        assert [f for f in [*faults, *check_generated(record)] if f.level == "fail"], data[
            place - 30 :
        ]
    path.write_bytes(data)
    assert faults_in(OURS) == set()


def test_what_no_log_tells_is_held_together(runs):  # noqa: F811
    """A statement changed in both files at once is at odds with a log or with the folder."""
    assert pack_runs(runs) == 0
    content = json.loads((OURS / "submission.json").read_text())
    groups = content["bytes_by_group"]
    changes = [
        {"date": "2026-05-04"},
        {"command": [content["command"][0].replace("0.03", "0.04"), *content["command"][1:]]},
        {"launches": content["launches"][:2]},
        {"bytes_by_group": groups | {"overhead_bytes": groups["overhead_bytes"] - 1}},
    ]
    for change in changes:
        for name, data in render(OURS, content | change).items():
            (OURS / name).write_bytes(data)
        assert ("figures", "fail") in faults_in(OURS), change


def test_a_launch_without_a_reason_is_found(runs):  # noqa: F811
    """A launch that is listed, not packed and not explained was left out."""
    assert pack_runs(runs) == 0
    content = json.loads((OURS / "submission.json").read_text())
    content["launches"] += [{"run_id": "s9", "seed": 9, "status": "finished", "reason": " "}]
    for name, data in render(OURS, content).items():
        (OURS / name).write_bytes(data)
    assert ("selection", "fail") in faults_in(OURS)


def test_other_code_than_ran_is_found(runs):  # noqa: F811
    """A packed script of another version does not match the hashes in the logs."""
    assert pack_runs(runs) == 0
    script = OURS / "train_gpt.py"
    files = bundle.unpack(script.read_bytes())
    script.write_bytes(bundle.pack(files | {"evaluate.py": b"VERSION = 2\n"}))
    findings = [f for f in check(OURS) if f.level == "fail" and f.rule == "files"]
    assert any("evaluate.py has sha256" in f.evidence for f in findings)


def test_a_file_added_or_changed_later_is_found(runs):  # noqa: F811
    """The hashes of all files stand in submission.json, those of logs too."""
    assert pack_runs(runs) == 0
    edit(OURS / "train_seed1.log", "train_loss:2.1", "train_loss:2.2")
    assert ("figures", "fail") in faults_in(OURS)
    edit(OURS / "train_seed1.log", "train_loss:2.2", "train_loss:2.1")
    assert faults_in(OURS) == set()
    (OURS / "notes.txt").write_text("later")
    assert ("figures", "fail") in faults_in(OURS)


def test_another_format_is_not_passed_over(runs):  # noqa: F811
    """A folder of a later version is not taken for checked."""
    assert pack_runs(runs) == 0
    edit(OURS / "submission.json", '"tools.submission.pack 3"', '"tools.submission.pack 4"')
    assert ("schema", "fail") in faults_in(OURS)


# The run, and the command ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "returncode, output, opened, connections, expected",
    [
        (0, "final val_loss:6.0 val_bpb:3.5", [], [], ("files", "ok")),
        (0, "done", [], [], ("files", "fail")),
        (1, "ModuleNotFoundError: No module named 'helper'", [], [], ("files", "fail")),
        (1, "RuntimeError: CUDA is required", [], [], ("files", "warn")),
        (1, "Killed", [], [], ("files", "fail")),
        (0, "final val_bpb:3.5", ["/toy/data/x_val_0.bin"], [], ("files", "ok")),
        (0, "final val_bpb:3.5", ["/home/a/ngram.bin"], [], ("artifact-only", "fail")),
        (0, "final val_bpb:3.5", [], ["hub.example:443"], ("network", "fail")),
    ],
)
def test_a_run_alone_is_judged(returncode, output, opened, connections, expected):
    """How it ended, what it opened, whom it called."""
    trace = Trace(returncode, output, opened, [], connections, [], 1.0)
    findings = {(f.rule, f.level) for f in judge_trace(trace, Path("/toy"), Path("/alone"))}
    assert expected in findings
    assert len({f for f in findings if f[1] == "fail"}) == (expected[1] == "fail")


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
    evidence = {f.where for f in check(tmp_path) if f.level == "fail"}
    assert {"README.md", "submission.json", "train_gpt.py"} <= evidence


@pytest.mark.parametrize("folder", sorted(path.parent for path in OWN), ids=lambda f: f.name)
def test_our_own_records_are_clean(folder):
    """Every record here that was packed breaks no rule, and nothing in it waits for a person."""
    assert {f.level for f in check(folder)} == {"ok"}


# Folders of the field, made up ----------------------------------------------------------------

FIELD_LOG = """seed:{seed}
train_loader:dataset:fineweb10B_sp1024 train_shards:80
val_loader:shards pattern=fineweb_val_*.bin tokens:62021632
step:7000/20000 val_loss:1.9200 val_bpb:1.1354 train_time:599000ms step_avg:85.00ms
{stop}
Serialized model int6+zstd: {model} bytes
Code size: {code} bytes
Total submission size int6+zstd: {total} bytes
final_int6_roundtrip_exact val_loss:{raw_loss:.8f} val_bpb:{raw:.8f} eval_time:9000ms
final_int6_sliding_window_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f} eval_time:{eval_ms}ms
"""
STOP = "stopping_early: wallclock_cap train_time: {ms}ms step: 7000/20000"
NATS_PER_BPB = math.log(2) * WINDOWED_BYTES[62_021_632] / 62_021_632
FIELD_CODE = """import torch
import torch.nn.functional as F


def evaluate(model, tokens):
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, 64):
            x, y = tokens[start : start + 64], tokens[start + 1 : start + 65]
            total += F.cross_entropy(model(x), y, reduction="sum").item()
    return total
"""
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


def field_folder(
    folder: Path,
    seeds=(1, 2, 3),
    code=FIELD_CODE,
    stop_ms=599_500,
    after="",
    model=15_000_000,
    eval_ms=80_000,
    names="train_seed{seed}.log",
    claim=None,
    readme="",
    bytes_ratio=1.0,
) -> Path:
    """A record folder as people of the field make them, by hand."""
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text(code)
    results = {}
    rows = []
    for seed in seeds:
        bpb = round(1.11901234 + 0.001 * seed, 8)
        raw = bpb + 0.02
        nats = NATS_PER_BPB / bytes_ratio
        log = FIELD_LOG.format(
            seed=seed,
            stop="\n".join(filter(None, [STOP.format(ms=stop_ms), after])),
            model=model,
            code=len(code),
            total=model + len(code),
            raw=raw,
            raw_loss=raw * nats,
            bpb=bpb,
            loss=bpb * nats,
            eval_ms=eval_ms,
        )
        path = folder / names.format(seed=seed)
        path.parent.mkdir(exist_ok=True)
        path.write_text(log)
        results[str(seed)] = {"val_bpb": bpb, "steps": 7000, "eval_time_ms": eval_ms}
        rows.append(f"| {seed} | 1.1354 | {bpb:.4f} |")
    mean = sum(row["val_bpb"] for row in results.values()) / len(results)
    submission = {
        "name": "Field record",
        "author": "A. Golfer",
        "github_id": "golfer",
        "date": "2026-03-19",
        "track": "10min_16mb",
        "val_bpb": claim or round(mean, 8),
        "bytes_total": model + len(code),
        "seed_results": results,
    }
    (folder / "submission.json").write_text(json.dumps(submission))
    table = ["| Seed | Pre-quant bpb | Sliding bpb |", "|---|---|---|", *rows]
    table.append(f"| **Mean** | | {mean:.4f} (std 0.0010) |")
    (folder / "README.md").write_text("\n".join(["# Field record", "", *table, "", readme, ""]))
    return folder


PACKED_CODE = "import base64, zlib\nexec(zlib.decompress(base64.b64decode({payload!r})))\n"


def packed_code(text: str) -> str:
    payload = base64.b64encode(zlib.compress(text.encode())).decode()
    return PACKED_CODE.format(payload=payload)


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


@pytest.mark.parametrize("changes, rule", UNLAWFUL.values(), ids=UNLAWFUL)
def test_an_unlawful_folder_of_the_field_fails_by_its_rule(tmp_path, changes, rule):
    """And by no other rule: status 1."""
    findings = check(field_folder(tmp_path / "2026-03-19_Field", **changes))
    assert {f.rule for f in findings if f.level == "fail"} == {rule}
    assert status(findings) == 1


def test_a_tail_that_is_scored_again_is_a_warning(tmp_path):
    """Bytes a token that differ in the sixth digit are no mistake in counting bytes."""
    findings = check(field_folder(tmp_path / "2026-03-19_Field", bytes_ratio=1.0000027))
    assert {f.rule for f in findings if f.level == "fail"} == set()
    (first, *_) = [f for f in findings if f.rule == "one-pass"]
    assert first.level == "warn" and "targets or more too many" in first.evidence


def test_packed_code_is_weighed_with_what_it_imports(tmp_path):
    """A helper counts, whether the script that imports it is packed or not."""
    for code in ("import helper\n", packed_code("import helper\nhelper.run()\nprint(1)\n")):
        folder = field_folder(tmp_path / f"2026-03-{10 + len(code) % 9}_Field", code=code)
        (folder / "helper.py").write_text("# not much\n" * 100_000)
        assert "size" in {f.rule for f in check(folder) if f.level == "fail"}


def test_without_a_date_there_is_no_row_to_compare_with(tmp_path):
    """Neither the newest record nor its own row."""
    folder = field_folder(tmp_path / "field")
    edit(folder / "submission.json", '"2026-03-19"', "null")
    (finding,) = [f for f in check(folder) if f.rule == "significance"]
    assert finding.level == "warn" and "no row to compare" in finding.evidence


def test_what_lies_outside_the_folder_is_not_read(tmp_path):
    """A README or a script that links out of it is told, not followed."""
    folder = field_folder(tmp_path / "2026-03-19_Field")
    (tmp_path / "secret").write_text("password")
    for name in ("README.md", "more.py"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(tmp_path / "secret")
    findings = check(folder)
    assert {f.where for f in findings if f.rule == "hidden"} == {"README.md", "more.py"}
    assert "password" not in report(findings, verbose=True)
