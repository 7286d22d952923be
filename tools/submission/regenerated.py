"""Make README.md and submission.json of a packed folder again, and compare them byte for byte."""

import difflib
import json
import re
from collections.abc import Iterator

from tools.legality.rules import Finding
from tools.submission import documents
from tools.submission.record_folder import Record


def check_generated(record: Record) -> Iterator[Finding]:
    """README.md and submission.json of ours are what the logs and the code give, byte for byte."""
    if not record.is_ours:
        return
    folder = record.folder
    raw = record.raw
    json_name = "submission.json"
    if raw["packed_by"] not in documents.TOOLS:
        evidence = f"packed_by {raw['packed_by']!r}, this is {documents.PACKED_BY}"
        yield Finding(
            "schema", "fail", json_name, evidence, "check it with the version that packed it"
        )
        return
    remedy = "pack the runs again; nothing in these two files is to be edited by hand"
    try:
        stated = {key: raw[key] for key in documents.STATED}
        made = documents.render(folder, stated, raw["packed_by"])
        conflicts = list(contradictions(record))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        evidence = f"cannot be made again from the folder: {error!r}"
        yield Finding("figures", "fail", json_name, evidence, remedy)
        return
    same = True
    for name, data in made.items():
        lies = (folder / name).read_bytes() if (folder / name).exists() else b""
        if lies == data:
            continue
        same = False
        if name == json_name:
            changes = list(differences(raw, json.loads(data))) or ["spacing"]
        else:
            changes = list(line_changes(lies.decode(errors="replace"), data.decode()))
        listed = "; ".join(changes[:4]) + (f"; and {len(changes) - 4} more" * (len(changes) > 4))
        yield Finding("figures", "fail", name, f"is not what the logs give: {listed}", remedy)
    for evidence in conflicts:
        same = False
        yield Finding("figures", "fail", json_name, evidence, remedy)
    if same:
        evidence = "both generated files are what logs and code give, byte for byte"
        yield Finding("figures", "ok", folder.name, evidence)


def differences(stated: object, made: object, path: str = "") -> Iterator[str]:
    """What differs between two JSON values, by path."""
    if isinstance(stated, dict) and isinstance(made, dict):
        for key in sorted(stated.keys() | made.keys()):
            yield from differences(stated.get(key), made.get(key), f"{path}.{key}".lstrip("."))
    elif stated != made:
        yield f"{path} is {json.dumps(stated)[:90]}, the logs give {json.dumps(made)[:90]}"


def line_changes(stated: str, made: str) -> Iterator[str]:
    lines = stated.splitlines()
    wanted = made.splitlines()
    matcher = difflib.SequenceMatcher(None, lines, wanted, autojunk=False)
    for kind, first, end, start, stop in matcher.get_opcodes():
        if kind != "equal":
            says = " ".join(lines[first:end])
            gives = " ".join(wanted[start:stop])
            yield f"line {first + 1} says {says[:90]!r}, the logs give {gives[:90]!r}"


def contradictions(record: Record) -> Iterator[str]:
    """Where a statement of submission.json that no log makes is at odds with one that they make."""
    raw = record.raw
    groups = record.raw["bytes_by_group"]
    total = sum(row["bytes"] for row in groups["groups"].values()) + groups["overhead_bytes"]
    sizes = {run.seed: run.model_bytes for run in record.runs}
    if not total == groups["bytes"] == sizes.get(groups["seed"]):
        yield f"bytes_by_group: {total:,} of {groups['bytes']:,} for seed {groups['seed']}"
    parameters = sum(row["parameters"] for row in groups["groups"].values())
    if parameters != record.runs[0].model_params:
        yield f"bytes_by_group has {parameters:,} of {record.runs[0].model_params} parameters"
    if not record.folder.name.startswith(raw["date"] + "_"):
        yield f"date {raw['date']} is not that of the folder {record.folder.name}"
    packed = {row["seed"] for row in raw["launches"] if not row["reason"]}
    if packed != set(raw["seeds"]):
        yield f"launches have seeds {sorted(packed)}, the logs {raw['seeds']}"
    for run, command in zip(record.runs, raw["command"], strict=False):
        for name, text in re.findall(r"\b([A-Z][A-Z0-9_]*)=(\S+)", command):
            value = run.settings.get(name.lower())
            if value is not None and text != str(int(value) if value in (True, False) else value):
                if not (isinstance(value, float) and float(text) == value):
                    yield f"command sets {name}={text}, {run.path.name} had {value}"
