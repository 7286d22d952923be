"""Check the files of a record folder: all there, every import met, the code the one that ran."""

import ast
import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.legality import lint
from tools.legality.rules import Finding
from tools.submission import bundle
from tools.submission.record_folder import SCRIPT, Record
from tools.submission.unwrap import Unwrapped, unwrap

# Present on the evaluation machine: upstream's requirements, and what they bring along.
PROVIDED = set(sys.stdlib_module_names) | {
    "compression", "numpy", "tqdm", "torch", "triton", "huggingface_hub", "kernels", "setuptools",
    "typing_extensions", "datasets", "tiktoken", "sentencepiece", "pyarrow", "packaging",
}  # fmt: skip
# To be had from PyPI, so to be named in requirements.txt; any other name is a missing file.
INSTALLABLE = {
    "brotli", "zstandard", "zstd", "lz4", "flash_attn", "flash_attn_interface", "python_minifier",
    "numba", "scipy", "pandas", "sklearn", "transformers", "safetensors", "tokenizers", "einops",
    "constriction", "psutil", "matplotlib", "mlx", "wandb", "requests", "xformers", "torchao",
    "pydantic", "yaml", "rich", "regex", "cython", "ninja", "pybind11", "google",
}  # fmt: skip


def check_files(record: Record) -> Iterator[Finding]:
    """What a record needs is there, under its name, and every import can be met."""
    folder = record.folder
    needed = {"README.md": "say what it does", SCRIPT: "ship the code that ran"}
    missing = [name for name in needed if not (folder / name).is_file()]
    for name in missing:
        yield Finding("files", "fail", name, "is not in the folder", needed[name])
    if not record.runs:
        remedy = "add the log of each seed, train_seed<N>.log"
        yield Finding("files", "fail", folder.name, "holds no log that can be read", remedy)
    others = [p.name for p in folder.glob("submission*.json") if p.name != "submission.json"]
    if record.submission and record.submission.path.name != "submission.json":
        evidence = f"is read as submission.json, which is what {SCRIPT}'s readers look for"
        yield Finding("files", "warn", others[0], evidence, "rename it")
    for name, reason in record.scripts.unread.items():
        missing.append(name)
        yield Finding("hidden", "warn", name, f"cannot be read: {reason}", "ship it as it ran")
    script = record.scripts.trees.get(SCRIPT)
    if script is not None and not any(not is_docstring(node) for node in script.body):
        missing.append(SCRIPT)
        yield Finding(
            "files", "fail", SCRIPT, "does nothing: it is empty", "ship the code that ran"
        )
    yield from check_imports(record)
    if not missing and record.runs:
        yield Finding("files", "ok", folder.name, f"README, code and {len(record.runs)} logs")


def is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def check_imports(record: Record) -> Iterator[Finding]:
    """Every module that a script imports is in the folder, provided, or in requirements.txt."""
    listed = ""
    for path in record.folder.glob("*requirements*.txt"):
        listed += path.read_text(errors="replace").lower().replace("-", "_") + "\n"
    local = {Path(name).stem for name in record.texts}
    local |= {part for name in record.texts for part in Path(name).parent.parts}
    local |= {path.stem for path in record.folder.rglob("*.so")}
    counted = {path.relative_to(record.folder).as_posix() for path in record.code}
    unlisted: dict[str, str] = {}
    for name in record.texts:
        for module, line in required_imports(record.scripts.trees.get(name)):
            if module in PROVIDED | local or re.search(rf"^{module.lower()}\b", listed, re.M):
                continue
            place = f"{name}:{line}"
            if module in INSTALLABLE:
                if not ("flash" in module and "flash" in listed):
                    unlisted.setdefault(module, place)
                continue
            is_counted = any(f"{name}/".startswith(f"{path}/") for path in counted)
            level = "fail" if is_counted else "warn"
            evidence = f"imports {module}, which is not in the folder nor in requirements.txt"
            remedy = f"add {module}.py, or name its package in requirements.txt"
            yield Finding("files", level, place, evidence, remedy)
    if unlisted:
        named = ", ".join(f"{module} ({place})" for module, place in unlisted.items())
        evidence = f"no requirements.txt of the folder names {named}"
        yield Finding("files", "warn", SCRIPT, evidence, "list them with the versions that ran")


def required_imports(tree: ast.Module | None) -> Iterator[tuple[str, int]]:
    """Top-level modules that a source cannot do without, and their lines; guarded ones left out."""
    todo: list[ast.AST] = [tree] if tree else []
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], node.lineno
        if isinstance(node, ast.Try):  # an import that may fail is made in its body
            todo += [*node.orelse, *node.finalbody]
        else:
            todo += ast.iter_child_nodes(node)


def check_code(record: Record) -> Iterator[Finding]:
    """The code that is shipped is the code that the logs say ran."""
    logged = {run.path.name: run.sources for run in record.runs if run.sources}
    script = record.folder / SCRIPT
    if not logged or not script.is_file():
        return
    # A run of the packed script logs the hash of that one file; others those of all sources.
    of_script = bundle.hash_of_sources({SCRIPT: script.read_bytes()})
    of_originals = bundle.read_originals_sha256(record.folder)
    different = {
        log: hashes
        for log, hashes in logged.items()
        if bundle.hash_of_all(hashes) not in (of_script, of_originals)
    }
    for log, hashes in different.items():
        evidence = f"its sources have sha256 {of_originals[:16]} together, those that {log} ran"
        evidence += f" {bundle.hash_of_all(hashes)[:16]}{names_that_differ(record.folder, hashes)}"
        remedy = "ship the sources in the run's folder; tools.submission.bundle verify names them"
        yield Finding("files", "fail", SCRIPT, evidence, remedy)
    if not different:
        evidence = f"its sources are those that {len(logged)} logs ran, by sha256"
        yield Finding("files", "ok", SCRIPT, evidence)


def names_that_differ(folder: Path, logged: dict[str, str]) -> str:
    """Which sources are missing, too many or, where they are shipped whole, others."""
    shipped = {
        name: hashlib.sha256(source).hexdigest()
        for name, source in bundle.read_sources(folder).items()
    }
    names = shipped.keys() ^ logged.keys()
    if bundle.hash_of_all(shipped) == bundle.read_originals_sha256(folder):
        names |= {name for name in shipped.keys() & logged.keys() if shipped[name] != logged[name]}
    return f" ({', '.join(sorted(names))})" if names else ""


def check_lint(record: Record) -> Iterator[Finding]:
    """What reading the code says of the four conditions, the network and written-down scores."""
    if not record.code:
        return
    scripts = Unwrapped()
    for path in record.code:
        if path.suffix == ".py":
            scripts.add(unwrap(path.read_bytes(), path.relative_to(record.folder).as_posix()))
    findings = [
        f for f in lint.lint_scripts(scripts) if f.rule != "hidden" or "read:" not in f.evidence
    ]
    yield from findings
    if not findings and not scripts.unread:
        evidence = f"tools.legality.lint finds nothing in {len(scripts.texts)} sources"
        yield Finding("score-first", "ok", SCRIPT, evidence)
