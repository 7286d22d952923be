"""Build a record folder from finished runs: no number in it is typed by hand.

    python3 golf.py records.pack RUN... --name NAME --author A --github-id G [--track TRACK]
        [--about FILE] [--date DAY] [--plain] [--out DIR] [--leave-out RUN_ID=REASON] [--json]

RUN is a folder logs/<run_id>, or a run id. The folder OUT/<track>/<date>_<name>/ gets the logs, one
train_gpt.py that holds the sources of the runs (--plain: readable), requirements.txt, the
tokenizer unless it is a published one, submission.json and README.md. It appears in one rename,
after records.check has found no fault in it.

submission.json says for each number where it comes from (`provenance`): a line of a log, or a
formula. README.md says nothing that is not in submission.json, a log or the sources. So both can be
made again from the folder, which is how records.check finds a number that was changed.

Exit status 0: built, 1: refused, with what would have to change, 2: nothing that can be packed.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import statistics
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import quantize
from records import seeds, size, source
from records.check import LEGALITY_RULES, check
from records.finding import Finding, report
from records.run import Run, find_logs, read_log
from records.track import TRACKS

FORMAT = 1  # of the two generated files; a change of what render() writes raises it
SCRIPT = "train_gpt.py"
GENERATED = ("submission.json", "README.md")
# What no log tells. It stands in submission.json and is taken from there to make both files again.
STATED = ("name", "author", "github_id", "date", "track", "blurb")
STATED += ("command", "launches", "bytes_by_group", "legality")
HEAD = ("author", "github_id", "date", "track", "hardware")  # columns in README.md
LEGALITY = ("rule", "level", "where", "evidence")
AUDIT = "audit.json of seed "  # begins `where` of what records.audit found
# SHA-256 of the tokenizers that everyone downloads with the shards; others go into the folder.
PUBLISHED_TOKENIZERS = {
    "4f5e8adb109c66b4886963bc75a7befd73bda36d27fd7102df8e9e66503b0e2a": "fineweb_1024_bpe.model",
}
# The name that pip knows, where it is not the module's.
PIP_NAMES = {"google": "protobuf", "yaml": "PyYAML", "flash_attn_interface": "flash-attn-3"}


class Refused(ValueError):
    """What keeps runs from becoming a record; `.findings` has each fault with its remedy."""

    def __init__(self, findings: list[Finding]):
        super().__init__("; ".join(f"{f.where}: {f.evidence}" for f in findings))
        self.findings = findings


def refuse(fault: bool, rule: str, where: object, evidence: str, remedy: str) -> list[Finding]:
    return [Finding(rule, "fail", str(where), evidence, remedy)] if fault else []


# Reading: what a folder of ours holds --------------------------------------------------------


def shipped_code_bytes(folder: Path) -> int:
    """Bytes of train_gpt.py and of every file of the folder that it can load."""
    return sum(path.stat().st_size for path in size.reached(folder))


@cache  # by the bytes: a file that changed is read again
def unpacked(script: bytes) -> dict[str, bytes]:
    """The sources that a packed train_gpt.py holds; of any other script, that script."""
    try:
        return source.unpack(script)
    except ValueError:
        return {SCRIPT: script}


@cache
def defaults(trainer: bytes) -> dict:
    """The defaults of `Hyperparameters`, read from the source without running it."""
    for node in ast.walk(ast.parse(trainer)):
        if isinstance(node, ast.ClassDef) and node.name == "Hyperparameters":
            fields = [f for f in node.body if isinstance(f, ast.AnnAssign) and f.value]
            return {field.target.id: ast.literal_eval(field.value) for field in fields}
    return {}


def changed_settings(run: Run, trainer: bytes) -> dict:
    """The run's settings that differ from the source's defaults, by variable."""
    known, own = defaults(trainer), {"run_id", "resume", "seed"}
    changed = {k: v for k, v in run.settings.items() if k in known and v != known[k]}
    return {name.upper(): value for name, value in changed.items() if name not in own}


def plain(value: object) -> str:
    """A setting as an environment variable has it."""
    return {"True": "1", "False": "0"}.get(str(value), str(value))


def digest(data: bytes) -> dict:
    return {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def line_of(log: Path, start: str) -> str:
    """file:line of the last line of a log that begins like this; the file alone without one."""
    lines = log.read_text(errors="replace").splitlines()
    numbers = [i for i, line in enumerate(lines, 1) if line.startswith(start)]
    return f"{log.name}:{numbers[-1]}" if numbers else log.name


# Writing: submission.json and README.md from logs and sources --------------------------------


def seed_result(run: Run, bpb: str, code_bytes: int) -> tuple[dict, dict]:
    """The numbers of one seed, and where each of them stands."""
    log, scored = run.path, f"{run.path.name}:{run.score.line}"
    trained, artifact = line_of(log, "trained "), line_of(log, "artifact ")
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
    return {k: v for k, v, _ in rows}, {k: where for k, v, where in rows if v is not None}


def seconds(time_ms: float | None) -> float | None:
    return None if time_ms is None else round(time_ms / 1000, 3)


def hardware(run: Run) -> str:
    return run.device if run.device == "cpu" else f"{run.world_size} x {run.device}"


def submission(folder: Path, stated: dict) -> dict:
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
    results, provenance = {}, {}
    bpb = "val_bpb_partial" if any(run.score.is_partial for run in runs) else "val_bpb"
    for run in runs:
        results[str(run.seed)], where = seed_result(run, bpb, code_bytes)
        provenance |= {f"seed_results.{run.seed}.{key}": text for key, text in where.items()}

    first, per_seed = runs[0], list(results.values())
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
    provenance |= {key: where for key, value, where in rows if value is not None}
    script = (folder / SCRIPT).read_bytes()
    sources = {name: digest(data) for name, data in unpacked(script).items()}
    files = {
        path.name: digest(path.read_bytes())
        for path in sorted(folder.glob("[!.]*"))
        if path.is_file() and path.name not in GENERATED
    }
    head = {key: stated[key] for key in STATED[:6]}
    tail = {key: stated[key] for key in STATED[6:]}
    seeds_run = {"seeds": [run.seed for run in runs], "seed_results": results}
    known = {"packed_by": f"records.pack {FORMAT}", "sources": sources, "files": files}
    return {**head, **computed, **seeds_run, **tail, **known, "provenance": provenance}


def table(columns: list[str], rows: list[list]) -> str:
    def line(cells: list) -> str:
        return "| " + " | ".join(show(cell) for cell in cells) + " |"

    return "\n".join([line(columns), "|" + "---|" * len(columns), *map(line, rows)])


def show(cell: object) -> str:
    """A number as people write it: thousands apart, as many decimals as were given."""
    if cell is None:
        return "–"
    return f"{cell:,}" if isinstance(cell, int) else " ".join(str(cell).replace("|", "\\|").split())


def readme(folder: Path, about: dict) -> str:
    """README.md of a folder, from its submission.json and, for the settings, its first log."""
    bpb = "val_bpb" if "val_bpb" in about else "val_bpb_partial"
    columns = [bpb, "val_loss", "steps", "train_time_s", "eval_time_s"]
    columns += ["artifact_bytes", "total_bytes"]
    rows = [[seed, *(row[c] for c in columns)] for seed, row in about["seed_results"].items()]
    for name, suffix in (("mean", ""), ("deviation", "_std")):
        if bpb + suffix in about:
            rows += [[name, about[bpb + suffix], about["val_loss" + suffix], *[None] * 5]]
    worst, cap, n = about["bytes_total"], about["bytes_cap"], len(about["seeds"])
    code, code_as_run = about["bytes_code"], about["bytes_code_as_run"]
    as_run = about["bytes_total_as_run"]
    partial = "" if bpb == "val_bpb" else " It is not of the whole validation split."
    run = read_log(find_logs(folder)[0])
    trainer = unpacked((folder / SCRIPT).read_bytes())[SCRIPT]
    known = defaults(trainer)
    changed = [
        [f"`{name}`", plain(known[name.lower()]), plain(value)]
        for name, value in changed_settings(run, trainer).items()
    ]
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    groups = about["bytes_by_group"]
    is_audited = any(row["where"].startswith(AUDIT) for row in about["legality"])
    audited = "" if is_audited else "records.audit was not asked."
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
it with `python -m records.source unpack train_gpt.py --out DIR`. All that is said here is checked
by `python -m records.check FOLDER --run`.

## Where the bytes go

The artifact of seed {groups["seed"]}, the largest, {groups["bytes"]:,} bytes.

{group_table(groups)}

## Legality

What records.check, records.lint and records.audit said when the folder was made. {audited}

{table(list(LEGALITY), [[row[key] for key in LEGALITY] for row in about["legality"]])}

## Every launch of this code with these settings

{launch_table(about["launches"])}

## Files

{table(["file", "bytes", "sha256"], file_rows(about["files"]))}

Sources, as they ran:

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
    columns = ["run_id", "seed", "status", "reason"]
    rows = [[row["run_id"], str(row["seed"]), row["status"], row["reason"]] for row in launches]
    return table(["run", *columns[1:3], "left out because"], rows)


def render(folder: Path, stated: dict) -> dict[str, bytes]:
    """Both generated files of a folder, made from its logs, its sources and what was stated.

    Raises: ValueError, KeyError for a folder or statements that no call of pack() leaves.
    """
    about = submission(folder, stated)
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    return {GENERATED[0]: text.encode(), GENERATED[1]: readme(folder, about).encode()}


# Packing: from run folders to a record folder ------------------------------------------------


def run_faults(run: Run) -> list[Finding]:
    """What keeps one run from being packed: no end, other sources, or another artifact."""
    folder, log = run.path.parent, run.path
    resume = f"finish it with RESUME={folder.name}"
    if run.score is None or run.model_bytes is None:
        missing = "final score" if run.score is None else "artifact size"
        return refuse(True, "figures", log, f"the log has no {missing}: {run.score_reason}", resume)
    faults = refuse(not run.sources, "files", log, "names no source", "run it with this train_gpt")
    taught = [name for name in run.sources if "/" in name]  # by a teacher, which no record holds
    evidence, remedy = f"ran {', '.join(taught)} too", "pack runs of train_gpt.py alone"
    faults += refuse(bool(taught), "files", log, evidence, remedy)
    for name, stated in run.sources.items():
        path = folder / name
        lies = hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else "missing"
        evidence = f"sha256 {lies[:16]} where {log} says {stated[:16]}"
        remedy = "put back the file that ran; git log -p or another seed's folder has it"
        faults += refuse(lies != stated, "files", path, evidence, remedy)
    artifact = folder / "artifact.pgz"
    lies = artifact.stat().st_size if artifact.exists() else "missing"
    evidence = f"{lies} bytes where {log} says {run.model_bytes}"
    return faults + refuse(lies != run.model_bytes, "files", artifact, evidence, resume)


def list_launches(runs: list[Run], left_out: dict[str, str]) -> tuple[list[dict], list[Finding]]:
    """Every launch of the runs' code and settings, each with the reason why it is left out."""
    packed, kin, faults = {run.path.parent.name for run in runs}, {}, []
    for logs in sorted({run.path.parent.parent for run in runs}):
        known = seeds.launches(logs)
        ours = {
            (row["settings_hash"], row["sources_hash"]) for row in known if row["run_id"] in packed
        }
        for row in known:
            if (row["settings_hash"], row["sources_hash"]) in ours or row["run_id"] in packed:
                kin[row["run_id"]] = row
    for run_id in sorted(kin.keys() - packed - left_out.keys()):
        row = kin[run_id]
        evidence = f"seed {row['seed']} of the same code and settings ({row['status']}) is left out"
        remedy = f"pack it too, or say why not: --leave-out {run_id}='REASON'"
        faults += refuse(True, "selection", run_id, evidence, remedy)
    for run_id in sorted(left_out.keys() - (kin.keys() - packed)):
        evidence = "no such launch of the same code and settings is left out"
        faults += refuse(True, "selection", run_id, evidence, "drop this --leave-out")
    rows = sorted(kin.values(), key=lambda row: (row["run_id"] not in packed, str(row["seed"])))
    reasons = {**left_out, **dict.fromkeys(packed, "")}
    launches = [
        {
            "run_id": row["run_id"],
            "seed": row["seed"],
            "status": row["status"],
            "reason": reasons.get(row["run_id"], ""),
        }
        for row in rows
    ]
    return launches, faults


def audit_findings(run: Run) -> list[Finding]:
    """What `records.audit RUN --json > RUN/audit.json` left beside the run; nothing without it.

    Raises: ValueError for a file that is not such a report.
    """
    path = run.path.parent / "audit.json"
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())["findings"]
        return [Finding(**{**row, "where": f"{AUDIT}{run.seed}: {row['where']}"}) for row in rows]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no report of records.audit --json ({error!r})") from error


def commands(runs: list[Run]) -> list[str]:
    """The command line of each run: its preset, what its environment overrode, and its seed."""
    lines = []
    for run in runs:
        preset = json.loads((run.path.parent / "settings.json").read_text())["preset"]
        given = run.overrides
        if run.resumed:  # the log tells what the last start overrode, which is nothing
            script = (run.path.parent / SCRIPT).read_bytes()
            given = changed_settings(run, unpacked(script)[SCRIPT])
        given = {"PRESET": preset, "SEED": run.seed, **given}
        words = [f"{name}={plain(value)}" for name, value in given.items() if name != "RUN_ID"]
        ranks = f"torchrun --standalone --nproc_per_node={run.world_size}"
        start = "python" if run.device == "cpu" and run.world_size == 1 else ranks
        lines.append(" ".join([*words, start, SCRIPT]))
    return lines


def requirements(runs: list[Run], sources: dict[str, bytes]) -> str:
    """requirements.txt: torch as in the logs, and what else the sources import."""
    found = set()
    for data in sources.values():
        for node in ast.walk(ast.parse(data)):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module.split(".")[0])
    # `compression` is the standard library of Python 3.14.
    found -= {*sys.stdlib_module_names, "compression", *(Path(name).stem for name in sources)}
    torch = runs[0].versions.get("torch", "")
    pins = {"torch": "==" + torch.split("+")[0]} if torch else {}
    names = [PIP_NAMES.get(name, name) + pins.get(name, "") for name in sorted(found)]
    ran = " ".join(f"{name} {version}" for name, version in runs[0].versions.items())
    return "\n".join([f"# The runs had {ran}.", *names]) + "\n"


def bytes_by_group(runs: list[Run]) -> dict:
    """Where the bytes of the largest artifact go."""
    run = max(runs, key=lambda run: run.model_bytes)
    summary = quantize.report((run.path.parent / "artifact.pgz").read_bytes())
    kept = ("tensors", "parameters", "bytes", "bits_per_parameter", "entropy_bytes")
    rows = sorted(summary["groups"].items(), key=lambda item: -item[1]["bytes"])
    groups = {name: {key: round(row[key] or 0, 4) for key in kept} for name, row in rows}
    for row in groups.values():
        if not row["parameters"]:  # as what describes the points of all matrices
            row["bits_per_parameter"] = None
    overhead = summary["bytes"] - sum(row["bytes"] for row in groups.values())
    about = {"seed": run.seed, "bytes": summary["bytes"], "overhead_bytes": overhead}
    return {**about, "groups": groups}


def copy_tokenizer(run: Run, folder: Path) -> None:
    """Copy the run's tokenizer into the folder, unless it is one that everyone downloads."""
    named = Path(run.settings.get("tokenizer_path", ""))
    # The path is relative to where the run was started: here, or beside logs/.
    places = [named, run.path.parent.parent.parent / named]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        remedy = "call records.pack from the folder in which the runs were started"
        evidence = f"the tokenizer {named} is not there"
        raise Refused(refuse(True, "files", run.path, evidence, remedy))
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() not in PUBLISHED_TOKENIZERS:
        quantize.write_atomic(folder / path.name, data)


def fill(folder: Path, runs: list[Run], plain: bool) -> None:
    """Put logs, code, requirements and tokenizer into the folder."""
    for run in runs:
        shutil.copyfile(run.path, folder / f"train_seed{run.seed}.log")
    sources = {name: (runs[0].path.parent / name).read_bytes() for name in runs[0].sources}
    if len(sources) == 1:  # the run was one of a packed train_gpt.py
        sources = unpacked(sources[SCRIPT])
    quantize.write_atomic(folder / SCRIPT, source.pack(sources, plain))
    needs = requirements(runs, sources)
    quantize.write_atomic(folder / "requirements.txt", needs.encode())
    copy_tokenizer(runs[0], folder)


def pack(
    run_folders: list[Path],
    stated: dict,
    out: Path,
    plain: bool = False,
    left_out: dict[str, str] | None = None,
) -> Path:
    """The new record folder of these runs.

    Raises: Refused with every fault; ValueError, OSError for what is no finished run of ours.
    """
    runs = sorted((read_log(folder / "train.log") for folder in run_folders), key=lambda r: r.seed)
    faults = [fault for run in runs for fault in run_faults(run)]
    repeated = {run.seed for run in runs if sum(run.seed == other.seed for other in runs) > 1}
    remedy = "name each run once; two runs of a seed are one measurement"
    faults += refuse(bool(repeated), "seeds", "RUN", f"two runs of seed {repeated}", remedy)
    launches, unexplained = list_launches(runs, left_out or {})
    audits = [finding for run in runs for finding in audit_findings(run)]
    track = TRACKS[stated["track"]]
    slug = re.sub(r"[^A-Za-z0-9.]+", "_", stated["name"]).strip("_")
    target = out / track.folder / f"{stated['date']}_{slug}"
    evidence = "a record with this date and name exists"
    faults += refuse(target.exists(), "files", target, evidence, "give another --name or --date")
    if faults:
        raise Refused(faults + unexplained)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".packing-", dir=target.parent) as scratch:
        folder = Path(scratch) / target.name
        folder.mkdir()
        fill(folder, runs, plain)
        told = {"command": commands(runs), "launches": launches, "legality": []}
        stated = {**stated, **told, "bytes_by_group": bytes_by_group(runs)}
        # Twice: what the checks say of the logs and the code stands in the README that they check.
        for _ in range(2):
            for name, data in render(folder, stated).items():
                quantize.write_atomic(folder / name, data)
            findings = check(folder, stated["track"])
            said = [f for f in findings + audits if f.rule in LEGALITY_RULES]
            stated["legality"] = [{key: getattr(f, key) for key in LEGALITY} for f in said]
        if faults := unexplained + [f for f in findings + audits if f.level == "fail"]:
            raise Refused(faults)
        os.rename(folder, target)
    return target


# Command line --------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="records.pack", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="logs/<run_id>, or a run id")
    add("--name", required=True, help="what the record is called")
    add("--author", required=True)
    add("--github-id", required=True)
    add("--track", choices=TRACKS, default="10min_16mb", help="default: %(default)s")
    add("--about", type=Path, metavar="FILE", help="Markdown that tells the idea, for README.md")
    add("--date", default=time.strftime("%Y-%m-%d"), help="YYYY-MM-DD; default: today")
    add("--plain", action="store_true", help="ship readable code, not compressed")
    add("--out", type=Path, default=Path("records"), help="default: %(default)s")
    add("--leave-out", action="append", default=[], metavar="RUN_ID=REASON")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        folders = [path if path.is_dir() else Path("logs") / path for path in args.runs]
        left_out = dict(entry.split("=", 1) for entry in args.leave_out if "=" in entry)
        if len(left_out) < len(args.leave_out) or not all(map(str.strip, left_out.values())):
            raise ValueError(f"--leave-out {args.leave_out} must be RUN_ID=REASON, each once")
        time.strptime(args.date, "%Y-%m-%d")
        stated = {key: getattr(args, key) for key in STATED[:5]}
        stated["blurb"] = args.about.read_text().strip() if args.about else ""
        target = pack(folders, stated, args.out, args.plain, left_out)
    except Refused as refused:
        print(report(refused.findings, args.json), file=sys.stdout if args.json else sys.stderr)
        print("records.pack: refused, nothing was written", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print("records.pack:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"folder": str(target)}))
    else:
        print(f"{target}\ncheck it: python -m records.check {target} --run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
