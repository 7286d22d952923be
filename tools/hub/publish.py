"""Write a model as a Hugging Face folder, and prove that the folder holds the same model.

    python3 golf.py publish CHECKPOINT_OR_ARTIFACT --out DIR [--tokenizer MODEL_OR_DIR]
        [--license mit] [--author NAME]
    python3 golf.py publish CHECKPOINT_OR_ARTIFACT --verify DIR [--push REPO_ID]

The first command needs no library of Hugging Face's, and is followed by the second where those are
installed. Without --tokenizer the folder gets that of the run which made the weights, where the
libraries for it are installed. Verifying prints the largest differences (`tools.hub.proof`); with
--push a folder that passed is uploaded, in one commit. GPT-2 becomes transformers' own class; the
others bring their code, which needs PyTorch and transformers alone.

Exit status 0: written and, where it was asked or possible, verified; 1: the folder holds another
model, or was not uploaded for that; 2: nothing could be written, verified or uploaded.
"""

import argparse
import json
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from engine.open_model import find_recipe
from tools.hub import model_card, self_check
from tools.hub import tokenizer as hf_tokenizer
from tools.hub.architectures import (
    HUB_MODELS,
    build_hub_model,
    code_files,
    config_json,
    published_weights,
    read_model,
    special_ids,
)
from tools.hub.proof import DTYPES, format_differences, verify
from tools.hub.weights_file import safetensors_bytes

# Folder -------------------------------------------------------------------------------------------


def write_model(
    weights: dict[str, Tensor],
    settings: dict,
    dtype: torch.dtype,
    folder: Path,
    tokenizer_ids: dict[str, int] | None = None,
) -> None:
    """Write the files that a model is loaded from: weights, config and code, no tokenizer.

    tokenizer_ids are the special tokens of the tokenizer that the folder has, by name.
    """
    tensors = published_weights(settings, weights)
    with (folder / "model.safetensors").open("wb") as file:
        for part in safetensors_bytes(tensors, dtype):
            file.write(part)
    generation = special_ids(settings, tokenizer_ids) | {"use_cache": True}
    texts = {
        "config.json": json.dumps(config_json(settings, dtype, tokenizer_ids), indent=2) + "\n",
        "generation_config.json": json.dumps(generation, indent=2) + "\n",
        **code_files(settings["recipe"]),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def tokenizer_needs(settings: dict) -> hf_tokenizer.Needs:
    """What the model of these settings asks of its tokenizer."""
    return hf_tokenizer.Needs(
        most_tokens=settings["vocab_size"],
        max_length=settings["train_seq_len"],
        ends_with_bos=HUB_MODELS[settings["recipe"]].begins_documents,
    )


def tokenizer_of_run(source: Path) -> Path:
    """Where the tokenizer lies that settings.json beside a checkpoint or artifact names.

    Raises: ValueError where nothing tells, or it is gone.
    """
    settings = source.with_name("settings.json")
    named = json.loads(settings.read_text()).get("tokenizer_path") if settings.is_file() else None
    if not named or not Path(named).exists():
        reason = "no settings.json of a run is beside it"
        if named:
            reason = f"its run's is not at {named}"
        raise ValueError(f"{source} has no tokenizer: {reason}; name one with --tokenizer")
    return Path(named)


def write_tokenizer(
    source: Path, folder: Path, settings: dict, chosen: Path | None
) -> hf_tokenizer.Written | None:
    """Give the folder the chosen tokenizer, or the run's; None, with a note, where there is none.

    Raises: ValueError, ImportError where the chosen one does not fit or cannot be made.
    """
    try:
        path = chosen or tokenizer_of_run(source)
        return hf_tokenizer.write(path, folder, tokenizer_needs(settings))
    except (ValueError, ImportError) as reason:
        if chosen:
            raise
        print(f"note: the folder gets no tokenizer: {reason}", file=sys.stderr)
        return None


def write_folder(
    source: Path,
    out: Path,
    dtype_name: str | None = None,
    tokenizer: Path | None = None,
    license: str = "",
    author: str = "",
) -> None:
    """Afterwards out is the whole folder; if anything fails it does not exist.

    Without a tokenizer it gets that of the run; one line says why, if there is none to give.

    Raises: ValueError where out exists, or the tokenizer has more tokens than the model.
    """
    if out.exists():
        raise ValueError(f"{out} exists; remove it, or choose another")
    weights, settings = read_model(source)
    hub_model = HUB_MODELS[settings["recipe"]]
    dtype = DTYPES[dtype_name or hub_model.dtype]
    license = license or hub_model.license
    if not license:
        print("note: the card states no licence; choose one, as --license mit", file=sys.stderr)
    trained = sum(p.numel() for p in build_hub_model(settings, device="meta").parameters())
    stored = sum(w.numel() for w in published_weights(settings, weights).values())
    mixes_repeats = find_recipe(settings["recipe"]).mixes_repeats
    evidence = model_card.read_evidence(source, trained, mixes_repeats)
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside out, so that the last step is a rename: whoever looks sees all of it or nothing.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        folder = Path(scratch) / out.name
        folder.mkdir()
        written = write_tokenizer(source, folder, settings, tokenizer)
        write_model(weights, settings, dtype, folder, written.special_ids if written else None)
        figure = None
        has_beginning = written and written.is_whole and "bos" in written.special_ids
        if has_beginning and find_spec("tokenizers"):
            bos_id = written.special_ids["bos"]
            figure = self_check.write(folder, settings, weights, dtype, bos_id)
        card = model_card.model_card(
            hub_model,
            settings,
            stored,
            trained,
            evidence,
            written,
            license=license,
            author=author,
            self_check_figure=figure,
        )
        (folder / "README.md").write_text(card)
        if evidence.log:
            shutil.copyfile(evidence.log.path, folder / "train.log")
        folder.rename(out)


# Upload -------------------------------------------------------------------------------------------


def push(folder: Path, repo_id: str, private: bool) -> str:
    """Upload the folder in one commit; returns its address. `hf auth login` left the token.

    Large files go first and are seen by nobody until the commit; if that fails, nothing changed.

    Raises: ImportError; OSError for whatever the network or the hub refuses.
    """
    if not find_spec("huggingface_hub"):
        raise ImportError("uploading needs: python3 golf.py publish ...")
    from huggingface_hub import CommitOperationAdd, HfApi

    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    added = [CommitOperationAdd(str(path.relative_to(folder)), str(path)) for path in files]
    api = HfApi()
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        # Not upload_folder: that makes several commits of a folder that takes minutes.
        message = "Model, code, card and log, as verified"
        return api.create_commit(repo_id, added, commit_message=message).commit_url
    except Exception as error:  # the hub's client has its own, and those of the one below it
        raise OSError(
            f"{repo_id}: nothing was committed ({type(error).__name__}: {error}); log in with"
            f" `hf auth login`, then push again with --verify {folder}"
        ) from error


# Command ------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
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
    parser.add_argument("--license", default="", help="of the weights, as the hub abbreviates it")
    parser.add_argument(
        "--author", default="", metavar="NAME", help="whom the card's citation names"
    )
    parser.add_argument("--push", metavar="REPO_ID", help="then upload it, as one commit")
    parser.add_argument("--private", action="store_true", help="with --push: a new one is private")
    parser.add_argument("--no-verify", action="store_true", help="write only")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    of_writing = (args.dtype, args.tokenizer, args.license, args.author, args.no_verify)
    if args.push and args.no_verify:
        raise ValueError("--push uploads only what was verified; leave out --no-verify")
    if args.verify and any(of_writing):
        raise ValueError(
            "--dtype, --tokenizer, --license, --author and --no-verify go with --out;"
            " leave them out"
        )
    return args


def main(argv: list[str] | None = None) -> int:
    can_verify = all(find_spec(name) for name in ("transformers", "safetensors"))
    differences = address = None
    text, is_same = "not verified", True
    try:
        args = parse_arguments(argv)
        folder = args.verify or args.out
        if args.out:
            write_folder(
                args.source, args.out, args.dtype, args.tokenizer, args.license, args.author
            )
        if (args.verify or args.push) and not can_verify:
            raise ValueError("verifying needs: python3 golf.py publish ...")
        if args.verify or (can_verify and not args.no_verify):
            differences = verify(args.source, folder)
            text, is_same = format_differences(differences)
        if args.push and is_same:
            address = push(folder, args.push, args.private)
    except (ValueError, OSError, ImportError) as error:
        print("tools.hub.publish:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    if args.json:
        result = {"folder": str(folder), "files": sizes}
        print(json.dumps(result | {"differences": differences, "pushed": address}))
    else:
        print(*(f"{size:>13,}  {name}" for name, size in sizes.items()), text, sep="\n")
        if args.push:
            print(f"pushed: {address}" if address else "not pushed: the folder holds another model")
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
