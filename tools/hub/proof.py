"""Prove that a published folder holds the same model as its checkpoint or artifact.

The folder is loaded in a fresh process in which nothing of this repository can be imported, which
compares what stands in LIMITS (`tools/hub/remote_code/check.py` says how each is taken).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from tools.hub import tokenizer as hf_tokenizer
from tools.hub.architectures import HUB_MODELS, REMOTE_CODE, load_hub_model, read_model
from tools.hub.fast_tokenizer import HOSTILE

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

# The largest difference allowed, by the name of the comparison. Two orders of the same fp32 sums
# differ by up to 1e-5 in the logits of the five systems.
LIMITS = {
    "logits": 2e-5,  # the folder's and the original's
    "cached": 3e-5,  # in pieces and in one go
    "left_padded": 3e-5,
    "packed": 3e-5,  # documents in one row and each alone
    "embeddings": 3e-5,  # inputs_embeds and input_ids
    "eager_attention": 3e-5,
    "exported": 3e-5,  # by torch.export, rows and length free
    "checkpointing": 1e-5,  # loss and gradients
    "saved_and_loaded": 0.0,
    "greedy_tokens": 0,  # with and without a cache
    "static_cache_tokens": 0,
    "tokenizer_ids": 0,  # texts with other ids; None where the folder has no tokenizer.json
    "special_tokens": 0,  # that text does not become, or that have two ids
}


def probe(source: Path, dtype: torch.dtype) -> dict:
    """Token rows of several lengths, and the original's logits for each, weights rounded to dtype.

    Lengths reach beyond the windows, and beyond the context where the model can. In the second row
    documents begin where check.py cuts the rows, and elsewhere.
    """
    weights, settings = read_model(source)
    model = load_hub_model(settings, {name: w.to(dtype).float() for name, w in weights.items()})
    hub_model = HUB_MODELS[settings["recipe"]]
    seq_len = settings["train_seq_len"]
    T = min(seq_len + seq_len // 4, 1280) if hub_model.can_slide else min(seq_len, 256)
    rng = torch.Generator().manual_seed(0)
    tokens_BT = torch.randint(settings["vocab_size"], (2, T), generator=rng)
    bos = dict(hub_model.special_ids)["bos"]
    if bos < settings["vocab_size"]:
        tokens_BT[1, [3, 7, T // 2, T - 20, T - 1]] = bos
    with torch.no_grad():
        return {"tokens_BT": tokens_BT, "logits_BTV": model(tokens_BT)}


def tokenizer_probe(folder: Path) -> dict:
    """Hostile texts, and what the tokenizer's original gives for each; nothing without one."""
    rows = hf_tokenizer.original_rows(folder)
    return {} if rows is None else {"texts": list(HOSTILE), "ids": rows}


def verify(source: Path, folder: Path) -> dict[str, float]:
    """The largest differences between the original and the folder, as a fresh process finds them.

    Raises: ValueError where the folder cannot be loaded, with the last line of the reason.
    """
    config = json.loads((folder / "config.json").read_text())
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
    dtype = dtypes.get(config.get("dtype"))
    if dtype is None:
        raise ValueError(
            f"{folder}/config.json has dtype {config.get('dtype')!r}, must be one of"
            f" {', '.join(dtypes)}; write the folder again"
        )
    with tempfile.TemporaryDirectory() as scratch:
        torch.save(probe(source, dtype) | tokenizer_probe(folder), Path(scratch) / "probe.pt")
        # -I: nothing of this repository on the path, wherever it is run from
        check = [sys.executable, "-I", str(REMOTE_CODE / "check.py"), str(folder.resolve())]
        done = subprocess.run(
            ["env", f"HF_HOME={scratch}/home", "HF_HUB_OFFLINE=1", *check, "probe.pt"],
            cwd=scratch,
            capture_output=True,
            text=True,
        )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{folder} could not be loaded: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def format_differences(differences: dict[str, float]) -> tuple[str, bool]:
    """One line for each comparison, and whether all are within their limits."""
    lines = []
    all_fine = True
    for name, limit in LIMITS.items():
        difference = differences[name]
        if difference is None:
            lines.append(f"none  {name}: the folder has nothing to compare")
            continue
        is_fine = difference <= limit
        all_fine &= is_fine
        verdict = "ok" if is_fine else "FAIL"
        lines.append(f"{verdict:4}  {name}: {difference:.3g} (at most {limit:.3g})")
    return "\n".join(lines), all_fine
