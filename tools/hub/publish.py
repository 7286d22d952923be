"""Write a model as a Hugging Face folder, and prove that the folder holds the same model.

    python3 golf.py tools.hub.publish CHECKPOINT_OR_ARTIFACT --out DIR [--tokenizer MODEL_OR_DIR]
    python3 golf.py --with hf tools.hub.publish CHECKPOINT_OR_ARTIFACT --verify DIR [--push REPO_ID]

The first command needs no library of Hugging Face's, and is followed by the second where those are
installed. Without --tokenizer the folder gets that of the run which made the weights, where the
libraries for it are installed. Verifying loads the folder in a fresh process in which nothing of
this repository can be imported, and compares: logits with those of the original, cached with whole,
left-padded with not padded, saved and loaded with itself, greedy text with and without cache,
tokens with those of the given tokenizer. It prints the largest differences; with --push what passed
is uploaded, in one commit. GPT-2 becomes transformers' own class; the others bring their code,
which needs PyTorch and transformers alone.

Exit status 0: written and, where it was asked or possible, verified; 1: the folder holds another
model, or was not uploaded for that; 2: nothing could be written, verified or uploaded.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from tools.hub import model_card
from tools.hub import tokenizer as hf_tokenizer
from tools.hub.architectures import (
    FORMS,
    REMOTE_CODE,
    build,
    code_files,
    config_json,
    context,
    load,
    published_weights,
    read_model,
    special_ids,
)

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SAFETENSORS = {torch.float32: "F32", torch.bfloat16: "BF16"}

# The largest difference allowed, by what `tools/hub/remote_code/check.py` compares.
LIMITS = {
    "logits": 2e-5,
    "cached": 3e-5,
    "left_padded": 3e-5,
    "saved_and_loaded": 0.0,
    "greedy_tokens": 0,
    "tokenizer_ids": 0,  # texts; None where the folder has no tokenizer.json
}


# Weights ------------------------------------------------------------------------------------------


def safetensors_header(tensors: dict[str, Tensor], dtype: torch.dtype) -> bytes:
    """The bytes before the weights: a length, and JSON with each tensor's place, sorted by name."""
    table, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(tensors):
        begin, end = end, end + tensors[name].numel() * dtype.itemsize
        kind, shape = SAFETENSORS[dtype], list(tensors[name].shape)
        table[name] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def safetensors_bytes(tensors: dict[str, Tensor], dtype: torch.dtype) -> Iterator[bytes]:
    """The parts of a safetensors file, one tensor at a time; no package of that name is needed."""
    yield safetensors_header(tensors, dtype)
    for name in sorted(tensors):
        flat = tensors[name].to(dtype).reshape(-1)  # a single number has no bytes to view
        yield flat.view(torch.uint8).numpy().tobytes()


# Folder -------------------------------------------------------------------------------------------


def write_model(
    weights: dict[str, Tensor],
    settings: dict,
    dtype: torch.dtype,
    folder: Path,
    marks: dict[str, int] | None = None,
) -> None:
    """Write the files that a model is loaded from: weights, config and code, no tokenizer.

    marks are those of the tokenizer that the folder has, by name.
    """
    tensors = published_weights(settings, weights)
    with (folder / "model.safetensors").open("wb") as file:
        for part in safetensors_bytes(tensors, dtype):
            file.write(part)
    generation = special_ids(settings, marks)
    texts = {
        "config.json": json.dumps(config_json(settings, dtype, marks), indent=2) + "\n",
        "generation_config.json": json.dumps(generation | {"use_cache": True}, indent=2) + "\n",
        **code_files(settings["system"]),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def tokenizer_of_run(source: Path) -> Path:
    """Where the tokenizer lies that settings.json beside a checkpoint or artifact names.

    Raises: ValueError where nothing tells, or it is gone.
    """
    settings = source.with_name("settings.json")
    named = json.loads(settings.read_text()).get("tokenizer_path") if settings.is_file() else None
    if not named or not Path(named).exists():
        why = f"its run's is not at {named}" if named else "no settings.json of a run is beside it"
        raise ValueError(f"{source} has no tokenizer: {why}; name one with --tokenizer")
    return Path(named)


def write_folder(source: Path, out: Path, dtype_name: str | None, tokenizer: Path | None) -> None:
    """Afterwards out is the whole folder; if anything fails it does not exist.

    Without a tokenizer it gets that of the run; one line says why, if there is none to give.

    Raises: ValueError where out exists, or the tokenizer has more tokens than the model.
    """
    if out.exists():
        raise ValueError(f"{out} exists; remove it, or choose another")
    weights, settings = read_model(source)
    form = FORMS[settings["system"]]
    trained = sum(p.numel() for p in build(settings, device="meta").parameters())
    stored = sum(w.numel() for w in published_weights(settings, weights).values())
    found = model_card.evidence(source, trained)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        given = marks = None
        try:
            found_at = tokenizer or tokenizer_of_run(source)
            given = hf_tokenizer.write(found_at, folder, settings["vocab_size"])
            marks = given.marks
        except (ValueError, ImportError) as why:
            if tokenizer:
                raise
            print(f"note: the folder gets no tokenizer: {why}", file=sys.stderr)
        write_model(weights, settings, DTYPES[dtype_name or form.dtype], folder, marks)
        text = model_card.model_card(form, settings, stored, trained, found, given)
        (folder / "README.md").write_text(text)
        if found.log:
            shutil.copyfile(found.log.path, folder / "train.log")
        folder.rename(out)


# Proof --------------------------------------------------------------------------------------------


def probe(source: Path, dtype: torch.dtype) -> dict:
    """Token rows of several lengths, and the original's logits for each, weights rounded to dtype.

    Lengths reach beyond the windows, and beyond the context where the model can. In the second row
    documents begin where `tools/hub/remote_code/check.py` cuts the rows, and elsewhere.
    """
    weights, settings = read_model(source)
    model = load(settings, {name: w.to(dtype).float() for name, w in weights.items()})
    seq_len, rng = context(settings), torch.Generator().manual_seed(0)
    can_slide = FORMS[settings["system"]].can_slide
    T = min(seq_len + seq_len // 4, 1280) if can_slide else min(seq_len, 256)
    tokens_BT = torch.randint(settings["vocab_size"], (2, T), generator=rng)
    bos = dict(FORMS[settings["system"]].special_ids)["bos"]
    if bos < settings["vocab_size"]:
        tokens_BT[1, [3, 7, T // 2, T - 20, T - 1]] = bos
    with torch.no_grad():
        return {"tokens_BT": tokens_BT, "logits_BTV": model(tokens_BT)}


def tokenizer_probe(folder: Path) -> dict:
    """Hostile texts, and what the tokenizer's original gives for each; nothing without one."""
    rows = hf_tokenizer.original_rows(folder)
    return {} if rows is None else {"texts": list(hf_tokenizer.HOSTILE), "ids": rows}


def verify(source: Path, folder: Path) -> dict[str, float]:
    """The largest differences between the original and the folder, as a fresh process finds them.

    Raises: ValueError where the folder cannot be loaded, with the last line of why.
    """
    config = json.loads((folder / "config.json").read_text())
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in DTYPES.values()}
    dtype = dtypes.get(config.get("dtype"))
    if dtype is None:
        what = f"{folder}/config.json has dtype {config.get('dtype')!r}, must be one of"
        raise ValueError(f"{what} {', '.join(dtypes)}; write the folder again")
    with tempfile.TemporaryDirectory() as scratch:
        known = probe(source, dtype) | tokenizer_probe(folder)
        torch.save(known, Path(scratch) / "probe.pt")
        # -I: nothing of this repository on the path, wherever it is run from
        command = [sys.executable, "-I", str(REMOTE_CODE / "check.py"), str(folder.resolve())]
        done = subprocess.run(
            ["env", f"HF_HOME={scratch}/home", "HF_HUB_OFFLINE=1", *command, "probe.pt"],
            cwd=scratch, capture_output=True, text=True,
        )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ValueError(f"{folder} could not be loaded: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def report(differences: dict[str, float]) -> tuple[str, bool]:
    """One line for each comparison, and whether all are within their limits."""
    lines, fine = [], True
    for name, limit in LIMITS.items():
        if differences[name] is None:
            lines.append(f"none  {name}: the folder has nothing to compare")
            continue
        is_fine = differences[name] <= limit
        fine &= is_fine
        verdict = "ok" if is_fine else "FAIL"
        lines.append(f"{verdict:4}  {name}: {differences[name]:.3g} (at most {limit:.3g})")
    return "\n".join(lines), fine


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Upload the folder in one commit; returns where it is. The token is what `hf auth login` left.

    Large files go first and are seen by nobody until the commit; if that fails, nothing changed.

    Raises: ImportError; OSError for whatever the network or the hub refuses.
    """
    if not find_spec("huggingface_hub"):
        raise ImportError("uploading needs: python3 golf.py --with hf,data tools.hub.publish ...")
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    added = [CommitOperationAdd(str(p.relative_to(folder)), str(p)) for p in files]
    how, api = dict(commit_message="Model, code, card and log, as verified"), HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        # Not upload_folder: that makes several commits of a folder that takes minutes.
        return api.create_commit(repo_id, added, **how).commit_url
    except Exception as error:  # the hub's client has its own, and those of the one below it
        raise OSError(
            f"{repo_id}: nothing was committed ({type(error).__name__}: {error}); log in with"
            f" `hf auth login`, then push again with --verify {folder}"
        ) from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.hub.publish", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="CHECKPOINT_OR_ARTIFACT")
    target = parser.add_mutually_exclusive_group(required=True)
    target.add_argument("--out", type=Path, metavar="DIR", help="folder to write, and to verify")
    target.add_argument("--verify", type=Path, metavar="DIR", help="folder that was written before")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights; else what is usual for it")
    parser.add_argument(
        "--tokenizer",
        type=Path,
        metavar="MODEL_OR_DIR",
        help="SentencePiece model, or a folder; else the run's",
    )
    parser.add_argument("--push", metavar="REPO_ID", help="then upload it, as one commit")
    parser.add_argument("--private", action="store_true", help="with --push: a new one is private")
    parser.add_argument("--no-verify", action="store_true", help="write only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    folder = args.verify or args.out
    can_verify = all(find_spec(name) for name in ("transformers", "safetensors"))
    try:
        if args.push and args.no_verify:
            raise ValueError("--push uploads only what was verified; leave out --no-verify")
        if args.verify and (args.dtype or args.tokenizer or args.no_verify):
            raise ValueError("--dtype, --tokenizer and --no-verify go with --out; leave them out")
        if args.out:
            write_folder(args.source, args.out, args.dtype, args.tokenizer)
        if (args.verify or args.push) and not can_verify:
            raise ValueError("verifying needs: python3 golf.py --with hf tools.hub.publish ...")
        differences = None
        if args.verify or (can_verify and not args.no_verify):
            differences = verify(args.source, folder)
        text, fine = report(differences) if differences else ("not verified", True)
        where = push(folder, args.push, args.private) if args.push and fine else None
    except (ValueError, OSError, ImportError) as error:
        print("tools.hub.publish:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    if args.json:
        print(
            json.dumps(
                {"folder": str(folder), "files": sizes, "differences": differences, "pushed": where}
            )
        )
    else:
        print(*(f"{size:>13,}  {name}" for name, size in sizes.items()), text, sep="\n")
        if args.push:
            print(f"pushed: {where}" if where else "not pushed: the folder holds another model")
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
