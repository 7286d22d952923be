"""submission.json and README.md of a record folder, made from its logs, its code and what was
stated when it was packed: tools.submission.pack writes them, tools.submission.check makes them
again and compares.
"""

import ast
import json
import statistics
from functools import cache
from pathlib import Path

import quantize
from tools.runs.logs import Run, find_logs, read_log
from tools.submission import bundle, size
from tools.submission.bundle import digest

# `packed_by` of what render() writes now; a change of it raises the number.
PACKED_BY = "tools.submission.pack 4"
MOVED_TOOLS = ("tools.submission.bundle", "tools.submission.check")
MOVED_TOOLS += ("tools.legality.lint", "tools.legality.audit")
# What README.md calls the tools, by `packed_by`; the first is of folders from before they moved.
TOOLS = {
    "records.pack 1": ("records.source", "records.check", "records.lint", "records.audit"),
    "tools.submission.pack 2": MOVED_TOOLS,
    PACKED_BY: MOVED_TOOLS,
}
# Versions that shipped the sources with their comments.
BEFORE_STRIPPING = ("records.pack 1", "tools.submission.pack 2")
PACKING = """
Comments, docstrings, types and long names of local variables are left out of the packed sources.
The sha256 over all sources as they ran, each with the one in the logs, is
`{sha256}`; `python -m {bundle} verify train_gpt.py DIR` shows
that this `train_gpt.py` was packed from the ones in DIR.
"""
SCRIPT = "train_gpt.py"
GENERATED = ("submission.json", "README.md")
# What no log tells. It stands in submission.json and is taken from there to make both files again.
STATED = ("name", "author", "github_id", "date", "track", "blurb")
STATED += ("command", "launches", "bytes_by_group", "legality")
HEAD = ("author", "github_id", "date", "track", "hardware")  # columns in README.md
LEGALITY = ("rule", "level", "where", "evidence")
AUDIT = "audit.json of seed "  # begins `where` of what tools.legality.audit found


# Reading: what a folder of ours holds --------------------------------------------------------


def shipped_code_bytes(folder: Path) -> int:
    """Bytes of train_gpt.py and of every file of the folder that it can load."""
    return sum(path.stat().st_size for path in size.reached(folder))


@cache  # by the bytes: a file that changed is read again
def unpacked(script: bytes) -> dict[str, bytes]:
    """The sources that a packed train_gpt.py holds; of any other script, that script."""
    try:
        return bundle.unpack(script)
    except ValueError:
        return {SCRIPT: script}


def shipped_sources(script: bytes) -> dict[str, dict]:
    """Size and sha256 of every source that comes out of train_gpt.py."""
    return {name: digest(source) for name, source in unpacked(script).items()}


def originals_sha256(script: bytes) -> str:
    """The sha256 over all sources as they were, before they were packed."""
    try:
        return bundle.read_bundle(script).originals_sha256
    except ValueError:
        return bundle.hash_of_sources({SCRIPT: script})


SETTINGS_CLASSES = ("Hyperparameters", "RunSettings", "Shape", "Settings")


@cache
def defaults(sources: bytes) -> dict:
    """The defaults of every setting, read from the sources without running them."""
    values = {}
    for node in ast.walk(ast.parse(sources)):
        if not isinstance(node, ast.ClassDef) or node.name not in SETTINGS_CLASSES:
            continue
        for field in node.body:
            if isinstance(field, ast.AnnAssign) and isinstance(field.value, ast.Constant):
                values[field.target.id] = field.value.value
    return values


def joined_sources(script: bytes) -> bytes:
    """All sources in a script, one after the other."""
    return b"\n".join(unpacked(script).values())


def changed_settings(run: Run, trainer: bytes) -> dict:
    """The run's settings that differ from the source's defaults, by variable."""
    default_values = defaults(trainer)
    own = {"run_id", "resume", "seed"}
    changed = {
        k: v for k, v in run.settings.items() if k in default_values and v != default_values[k]
    }
    return {name.upper(): value for name, value in changed.items() if name not in own}


def plain(value: object) -> str:
    """A setting as an environment variable has it."""
    return {"True": "1", "False": "0"}.get(str(value), str(value))


def line_of(log: Path, start: str) -> str:
    """file:line of the last line of a log that begins like this; the file alone without one."""
    lines = log.read_text(errors="replace").splitlines()
    numbers = [i for i, line in enumerate(lines, 1) if line.startswith(start)]
    return f"{log.name}:{numbers[-1]}" if numbers else log.name


# Writing: submission.json and README.md from logs and sources --------------------------------


def seed_result(run: Run, bpb: str, code_bytes: int) -> tuple[dict, dict]:
    """The numbers of one seed, and where each of them stands."""
    log = run.path
    scored = f"{run.path.name}:{run.score.line}"
    trained = line_of(log, "trained ")
    artifact = line_of(log, "artifact ")
    as_shipped = "artifact_bytes + bytes_code"
    rows = [
        (bpb, run.score.val_bpb, scored),
        ("val_loss", run.score.val_loss, scored),
        ("targets", run.score.targets, scored),
        ("target_bytes", run.score.bytes, scored),
        ("eval_time_s", seconds(run.eval_time_ms), f"{log.name}, eval_time of each score mode"),
        ("steps", run.steps, trained),
        ("train_time_s", seconds(run.train_time_ms), trained),
        ("artifact_bytes", run.model_bytes, artifact),
        ("total_bytes", run.model_bytes + code_bytes, as_shipped),
        ("total_bytes_as_run", run.total_bytes, artifact),
    ]
    return {k: v for k, v, _ in rows}, {k: source for k, v, source in rows if v is not None}


def seconds(time_ms: float | None) -> float | None:
    return None if time_ms is None else round(time_ms / 1000, 3)


def hardware(run: Run) -> str:
    return run.device if run.device == "cpu" else f"{run.world_size} x {run.device}"


def submission(folder: Path, stated: dict, packed_by: str = PACKED_BY) -> dict:
    """submission.json of a folder that holds logs and sources, as a dictionary.

    Raises: ValueError for logs without a final score or an artifact's size, or of one seed twice.
    """
    runs = sorted((read_log(log) for log in find_logs(folder)), key=lambda run: run.seed)
    for run in runs:
        if None in (run.score, run.model_bytes, run.seed):
            raise ValueError(f"{run.path} has no final score, artifact size or seed")
    if len({run.seed for run in runs}) < len(runs) or not runs:
        raise ValueError(f"{folder} needs one log for each of its seeds, has {len(runs)} logs")
    code_bytes = shipped_code_bytes(folder)
    results = {}
    provenance = {}
    bpb = "val_bpb_partial" if any(run.score.is_partial for run in runs) else "val_bpb"
    for run in runs:
        result, places = seed_result(run, bpb, code_bytes)
        results[str(run.seed)] = result
        provenance |= {f"seed_results.{run.seed}.{key}": text for key, text in places.items()}

    first = runs[0]
    per_seed = list(results.values())
    rows = []
    for key in (bpb, "val_loss"):
        values = [row[key] for row in per_seed]
        rows += [(key, round(statistics.fmean(values), 8), f"mean of seed_results.*.{key}")]
        if len(values) > 1:
            spread = round(statistics.stdev(values), 8)
            rows += [(f"{key}_std", spread, f"deviation of seed_results.*.{key}, n - 1")]
    worst = max(row["total_bytes"] for row in per_seed)
    worst_as_run = max(run.total_bytes for run in runs)
    log = first.path.name
    rows += [
        ("bytes_total", worst, "largest seed_results.*.total_bytes"),
        ("bytes_code", code_bytes, f"size of {SCRIPT}"),
        ("bytes_total_as_run", worst_as_run, "largest seed_results.*.total_bytes_as_run"),
        ("bytes_code_as_run", first.code_bytes, line_of(first.path, "artifact ")),
        ("bytes_cap", quantize.CAP_BYTES, "rule of the challenge"),
        ("model_params", first.model_params, line_of(first.path, "model_params:")),
        ("val_tokens", first.val_tokens, line_of(first.path, "data train_shards:")),
        ("train_shards", first.train_shards, line_of(first.path, "data train_shards:")),
        ("hardware", hardware(first), f"{log}, device and world_size"),
        ("python_version", first.versions.get("python"), line_of(first.path, "python:")),
        ("pytorch_version", first.versions.get("torch"), line_of(first.path, "python:")),
        ("cuda_version", first.versions.get("cuda"), line_of(first.path, "gpu:")),
    ]
    computed = {key: value for key, value, _ in rows if value is not None}
    provenance |= {key: source for key, value, source in rows if value is not None}
    script = (folder / SCRIPT).read_bytes()
    sources = shipped_sources(script)
    files = {
        path.name: digest(path.read_bytes())
        for path in sorted(folder.glob("[!.]*"))
        if path.is_file() and path.name not in GENERATED
    }
    head = {key: stated[key] for key in STATED[:6]}
    tail = {key: stated[key] for key in STATED[6:]}
    seeds_run = {"seeds": [run.seed for run in runs], "seed_results": results}
    contents = {"packed_by": packed_by, "sources": sources, "files": files}
    if packed_by not in BEFORE_STRIPPING:
        contents["sources_sha256"] = originals_sha256(script)
    return {**head, **computed, **seeds_run, **tail, **contents, "provenance": provenance}


def table(columns: list[str], rows: list[list]) -> str:
    def line(cells: list) -> str:
        return "| " + " | ".join(show(cell) for cell in cells) + " |"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])


def show(cell: object) -> str:
    """A number as people write it: thousands apart, as many decimals as were given."""
    if cell is None:
        return "–"
    if isinstance(cell, int):
        return f"{cell:,}"
    # A bar or a line break in a text would end the cell.
    return " ".join(str(cell).replace("|", "\\|").split())


def readme(folder: Path, about: dict) -> str:
    """README.md of a folder, from its submission.json and, for the settings, its first log."""
    bpb = "val_bpb" if "val_bpb" in about else "val_bpb_partial"
    columns = [bpb, "val_loss", "steps", "train_time_s", "eval_time_s"]
    columns += ["artifact_bytes", "total_bytes"]
    rows = [[seed, *(row[c] for c in columns)] for seed, row in about["seed_results"].items()]
    for name, suffix in (("mean", ""), ("deviation", "_std")):
        if bpb + suffix in about:
            rows += [[name, about[bpb + suffix], about["val_loss" + suffix], *[None] * 5]]
    worst = about["bytes_total"]
    cap = about["bytes_cap"]
    n = len(about["seeds"])
    code = about["bytes_code"]
    code_as_run = about["bytes_code_as_run"]
    as_run = about["bytes_total_as_run"]
    partial = "" if bpb == "val_bpb" else " It is not of the whole validation split."
    run = read_log(find_logs(folder)[0])
    trainer = joined_sources((folder / SCRIPT).read_bytes())
    default_values = defaults(trainer)
    changed = [
        [f"`{name}`", plain(default_values[name.lower()]), plain(value)]
        for name, value in changed_settings(run, trainer).items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    groups = about["bytes_by_group"]
    unpacker, check, lint, audit = TOOLS[about["packed_by"]]
    packing = ""
    shipped_sha256 = bundle.hash_of_sources(unpacked((folder / SCRIPT).read_bytes()))
    if about.get("sources_sha256", shipped_sha256) != shipped_sha256:
        packing = PACKING.format(bundle=unpacker, sha256=about["sources_sha256"])
    came = "ran" if about["packed_by"] in BEFORE_STRIPPING else f"come out of `{SCRIPT}`"
    is_audited = any(row["where"].startswith(AUDIT) for row in about["legality"])
    audited = "" if is_audited else f"{audit} was not asked."
    return f"""# {about["name"]}

{about["blurb"]}

{table(list(HEAD), [[about[key] for key in HEAD]])}

## Results

{table(["seed", *columns], rows)}

The score is the mean of {n} seeds.{partial}

| size of the largest seed | code | artifact and code | below the cap |
|---|---|---|---|
| as shipped: `train_gpt.py` of this folder | {code:,} | {worst:,} | {cap - worst:,} |
| as run: the sources as they are | {code_as_run:,} | {as_run:,} | {cap - as_run:,} |

## Settings that differ from the defaults

{table(["setting", "default", "here"], changed) if changed else "None."}

## Commands

    pip install -r requirements.txt
    {data_command(run)}
{chr(10).join("    " + line for line in about["command"])}

The runs had {versions}. `train_gpt.py` needs no other file of this folder. Its sources come out of
it with `python -m {unpacker} unpack train_gpt.py --out DIR`. All that is said here is checked
by `python -m {check} FOLDER --run`.
{packing}
## Where the bytes go

The artifact of seed {groups["seed"]}, the largest, {groups["bytes"]:,} bytes.

{group_table(groups)}

## Legality

What {check}, {lint} and {audit} said when the folder was made. {audited}

{table(list(LEGALITY), [[row[key] for key in LEGALITY] for row in about["legality"]])}

## Every launch of this code with these settings

{launch_table(about["launches"])}

## Files

{table(["file", "bytes", "sha256"], file_rows(about["files"]))}

Sources, as they {came}:

{table(["source", "bytes", "sha256"], file_rows(about["sources"]))}
"""


def data_command(run: Run) -> str:
    """The command that brings the run's data, by the name of its folder."""
    name = Path(run.settings.get("data_path", "")).name
    if name.startswith("toy_"):
        return "python -m data.prepare toy"
    if not name.startswith("fineweb10B_"):
        return f"# put the data in {name}: {run.data_note}"
    variant = name.removeprefix("fineweb10B_")
    return f"python -m data.prepare fetch --variant {variant} --train-shards {run.train_shards}"


def file_rows(files: dict) -> list[list]:
    return [[f"`{name}`", row["bytes"], f"`{row['sha256']}`"] for name, row in files.items()]


def group_table(groups: dict) -> str:
    columns = ["tensors", "parameters", "bytes", "bits_per_parameter", "entropy_bytes"]
    rows = [[f"`{name}`", *(row[c] for c in columns)] for name, row in groups["groups"].items()]
    rows += [["header and checksum", None, None, groups["overhead_bytes"], None, None]]
    return table(["group", *columns], rows)


def launch_table(launches: list[dict]) -> str:
    rows = [[row["run_id"], str(row["seed"]), row["status"], row["reason"]] for row in launches]
    return table(["run", "seed", "status", "left out because"], rows)


def render(folder: Path, stated: dict, packed_by: str = PACKED_BY) -> dict[str, bytes]:
    """Both generated files of a folder, made from its logs, its sources and what was stated.

    Raises: ValueError, KeyError for a folder or statements that no call of pack() leaves.
    """
    about = submission(folder, stated, packed_by)
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    return {GENERATED[0]: text.encode(), GENERATED[1]: readme(folder, about).encode()}
