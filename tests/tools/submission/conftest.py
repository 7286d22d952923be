"""Record folders that people of the field would hand in, made up, and ways to spoil them."""

import base64
import json
import math
import re
import zlib
from pathlib import Path

import pytest

from tools.submission.check import check
from tools.submission.scored_text import WINDOWED_BYTES

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


def stray_log(folder):
    """A folder with a log of 16,186,500 bytes and nothing else."""
    for path in folder.iterdir():
        if path.name != "train_seed42.log":
            path.unlink()
    edit_logs(folder, r"size int8\+zlib: \d+", "size int8+zlib: 16186500")


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
