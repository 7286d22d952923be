"""Weigh a run or a record folder: the artifact and all code it runs, as shipped, against the cap.

    python3 golf.py tools.submission.size RUN_OR_FOLDER [--artifact FILE] [--json]

Exit status 0: at or under the cap, 1: over it, 2: nothing that can be weighed. Tokenizers and
shards are not counted, as is the field's practice. What is left out is listed with its size.
"""

import argparse
import json
import os
import sys
from pathlib import Path

from quantize import CAP_BYTES
from tools.submission.imports import mentioned_names, module_files
from tools.submission.unwrap import unwrap

ENTRY = "train_gpt.py"
ARTIFACTS = ("*.pgz", "*.ptz", "*.bin", "*.zst", "*.xz", "*.br", "*.lzma")
MAX_PATH = 1024  # characters; a longer word names no file
C_SOURCES = {".c", ".cc", ".cpp", ".cu", ".cuh", ".h", ".hpp"}  # to Python # is a comment
# Data, and what a run writes: free when the code names it, unless the code executes it.
FREE = {
    "data": ("*.model", "*.vocab", "*_train_*.bin", "*_val_*.bin"),
    "uncompressed weights": ("checkpoint.pt", "final_model.pt"),
    "report": ("*.log", "*.jsonl", "*.md", "*.txt", "*.lock", "settings.json", "submission.json"),
}


def free_because(path: Path) -> str:
    return next((kind for kind, names in FREE.items() if any(map(path.match, names))), "")


def entries(folder: Path) -> list[Path]:
    """What a run began with: train_gpt.py, and the trainer that settings.json names beside it."""
    paths = [folder / ENTRY]
    settings = folder / "settings.json"
    code = json.loads(settings.read_bytes()).get("code") if settings.is_file() else None
    return paths + [path for path in module_files(folder, str(code or "")) if path.suffix == ".py"]


def mentions(source: Path, package: tuple[str, ...]) -> list[tuple[str, str]]:
    """What a source of any kind imports, runs or names; packed sources are looked into.

    Raises: ValueError for a .py file of which nothing can be read.
    """
    scripts = unwrap(source.read_bytes(), source.name)
    if scripts.trees and source.suffix not in C_SOURCES:
        trees = scripts.trees.values()
        return [pair for tree in trees for pair in mentioned_names(tree, package)]
    if source.suffix == ".py":
        raise ValueError(f"{source} is not Python: {'; '.join(scripts.unread.values())}")
    # Another language: what stands in quotes.
    return [(word, "named in") for word in source.read_text(errors="ignore").split('"')]


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path lies in the folder by its name, and is not a link out of it."""
    return path.is_relative_to(folder) and path.resolve().is_relative_to(folder.resolve())


def reached(folder: Path) -> dict[Path, str]:
    """Every file of the folder that running its entries can load, and what says so.

    Found in the source, without running it: imports, and strings that are the name of a file, also
    those of code that is packed in a script. A name that is put together at run time is not seen;
    weigh() therefore lists the files left out. A link out of the folder is not followed: it is not
    shipped.

    Raises: ValueError where the entry itself is such a link, or is not Python.
    """
    files = dict.fromkeys(entries(folder), "entry")
    for path in files:
        if not is_inside(path, folder):
            raise ValueError(f"{path} is a link out of its folder; ship the file itself")
    roots = [folder]
    todo = list(files)
    while todo:
        source = todo.pop()
        name = source.relative_to(folder)
        named = mentions(source, name.parent.parts)
        loaded: dict[Path, str] = {}
        for word, relation in named:
            for base in (folder, source.parent) if relation != "imported by" else ():
                path = Path(os.path.normpath(base / word.lstrip("/")))
                if len(word) > MAX_PATH or not path.is_relative_to(folder):
                    continue
                if os.path.isfile(path) and (relation == "run by" or not free_because(path)):
                    loaded[path] = relation
                roots += [path] if os.path.isdir(path) and path not in roots else []
        for word, relation in named:
            if relation != "named in":
                for root in roots:
                    loaded |= dict.fromkeys(module_files(root, word), relation)
        new = {path for path in loaded if path not in files and is_inside(path, folder)}
        files |= {path: f"{loaded[path]} {name}" for path in new}
        todo += new
    return files


def weigh(folder: Path, artifact: Path | None = None) -> dict:
    """Sizes of the artifact and of every reached file, their sum, and what was not counted.

    The artifact is artifact.pgz, or else the largest packed file that is not a shard; a further
    one counts when the code names it. Raises: FileNotFoundError without code or artifact.
    """
    folder = Path(os.path.abspath(folder))
    if not (folder / ENTRY).is_file():
        raise FileNotFoundError(f"{folder} holds no {ENTRY}; name the folder of a run or a record")
    packed = [path for name in ARTIFACTS for path in folder.glob(name) if not free_because(path)]
    packed.sort(key=lambda path: (path.name == "artifact.pgz", path.stat().st_size))
    artifact = Path(os.path.abspath(artifact or [folder / "artifact.pgz", *packed][-1]))
    if not artifact.is_file():
        raise FileNotFoundError(f"no artifact {artifact}; finish the run, or give --artifact FILE")
    counted = {**reached(folder), artifact: "artifact"}
    others = [path for path in folder.rglob("*") if path.is_file() and path not in counted]
    left_out = {path: f"not counted: {free_because(path) or 'not reached'}" for path in others}

    def rows(files: dict[Path, str]) -> list[dict]:
        sizes = sorted(((path.stat().st_size, path) for path in files), reverse=True)
        return [{"path": os.path.relpath(p, folder), "bytes": n, "why": files[p]} for n, p in sizes]

    model = artifact.stat().st_size
    total = sum(path.stat().st_size for path in counted)
    sizes = {"model_bytes": model, "code_bytes": total - model, "total_bytes": total}
    cap = {"cap_bytes": CAP_BYTES, "margin_bytes": CAP_BYTES - total, "fits": total <= CAP_BYTES}
    return {**sizes, **cap, "counted": rows(counted), "not_counted": rows(left_out)}


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.submission.size", description=about)
    parser.add_argument("folder", type=Path, metavar="RUN_OR_FOLDER", help="folder, or a run id")
    parser.add_argument("--artifact", type=Path, help="when it lies elsewhere or has another name")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    folder = args.folder if args.folder.is_dir() else Path("logs") / args.folder
    try:
        weight = weigh(folder, args.artifact)
    except (OSError, ValueError) as error:
        print(f"tools.submission.size: {error}", file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(weight, indent=1))
    else:
        for row in weight["counted"] + weight["not_counted"]:
            print(f"{row['bytes']:>11,}  {row['path']}  ({row['why']})")
        print("size", *(f"{key}:{size}" for key, size in weight.items() if key.endswith("_bytes")))
        print("fits the cap" if weight["fits"] else f"OVER the cap by {-weight['margin_bytes']:,}")
    return 0 if weight["fits"] else 1


if __name__ == "__main__":
    sys.exit(main())
