"""Build a record folder from finished runs: no number in it is typed by hand.

    python3 golf.py tools.submission.pack RUN... --name NAME --author A --github-id G
        [--track TRACK] [--about FILE] [--date DAY] [--plain] [--out DIR]
        [--leave-out RUN_ID=REASON] [--json]

RUN is a folder logs/<run_id>, or a run id. The folder OUT/<track>/<date>_<name>/ gets the logs, one
train_gpt.py that holds the sources of the runs (--plain: readable), requirements.txt, the
tokenizer unless it is a published one, submission.json and README.md. It appears in one rename,
after tools.submission.check has found no fault in it.

submission.json says for each number where it comes from (`provenance`): a line of a log, or a
formula. README.md says nothing that is not in submission.json, a log or the sources. So both can be
made again from the folder, which is how tools.submission.check finds a number that was changed.

Exit status 0: built, 1: refused, with what would have to change, 2: nothing that can be packed.
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import quantize
from codec.report import byte_account
from tools.legality.rules import Finding, format_findings
from tools.runs import registry
from tools.runs.logs import Run, read_log
from tools.submission import bundle
from tools.submission.check import LEGALITY_RULES, check
from tools.submission.documents import (
    AUDIT,
    LEGALITY,
    SCRIPT,
    STATED,
    changed_settings,
    joined_sources,
    plain,
    render,
    unpacked,
)
from tools.submission.tracks import TRACKS

SCRATCH = ".packing-"  # beginning of the folder in which a record is made
# SHA-256 of the tokenizers that everyone downloads with the shards; others go into the folder.
PUBLISHED_TOKENIZERS = {
    "4f5e8adb109c66b4886963bc75a7befd73bda36d27fd7102df8e9e66503b0e2a": "fineweb_1024_bpe.model",
}
# The name that pip knows, where it is not the module's.
PIP_NAMES = {"google": "protobuf", "yaml": "PyYAML", "flash_attn_interface": "flash-attn-3"}


class Refused(ValueError):
    """What keeps runs from becoming a record; `.findings` has each fault with its remedy."""

    def __init__(self, findings: list[Finding]):
        super().__init__("; ".join(f"{f.place}: {f.evidence}" for f in findings))
        self.findings = findings


def refuse(fault: bool, rule: str, place: object, evidence: str, remedy: str) -> list[Finding]:
    return [Finding(rule, "fail", str(place), evidence, remedy)] if fault else []


# Packing: from run folders to a record folder ------------------------------------------------


def run_faults(run: Run) -> list[Finding]:
    """What keeps one run from being packed: no end, other sources, or another artifact."""
    folder = run.path.parent
    log = run.path
    resume = f"finish it with RESUME={folder.name}"
    if run.score is None or run.model_bytes is None:
        missing = "final score" if run.score is None else "artifact size"
        return refuse(True, "figures", log, f"the log has no {missing}: {run.score_reason}", resume)
    faults = refuse(not run.sources, "files", log, "names no source", "run it with this train_gpt")
    # Another recipe, or a teacher, which no record holds.
    others = [name for name in run.sources if name.startswith("baselines/")]
    evidence = f"ran {', '.join(others)} too"
    remedy = "pack runs of train_gpt.py alone"
    faults += refuse(bool(others), "files", log, evidence, remedy)
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
    packed = {run.path.parent.name for run in runs}
    kin = related_launches(runs, packed)
    faults = []
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


def related_launches(runs: list[Run], packed: set[str]) -> dict[str, dict]:
    """The launches, by run id, that had the code and the settings of a run that is packed."""
    related = {}
    for logs in sorted({run.path.parent.parent for run in runs}):
        logged = registry.launches(logs)
        recipes = {recipe_of(row) for row in logged if row["run_id"] in packed}
        for row in logged:
            if recipe_of(row) in recipes or row["run_id"] in packed:
                related[row["run_id"]] = row
    return related


def recipe_of(launch: dict) -> tuple[str, str]:
    """What the seeds of one record share: settings and sources, by their hashes."""
    return launch["settings_hash"], launch["sources_hash"]


def audit_findings(run: Run) -> list[Finding]:
    """What `tools.legality.audit RUN --json > RUN/audit.json` left beside the run, if it did.

    Raises: ValueError for a file that is not such a report.
    """
    path = run.path.parent / "audit.json"
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())["findings"]
        findings = [Finding.from_row(row) for row in rows]
        return [replace(f, place=f"{AUDIT}{run.seed}: {f.place}") for f in findings]
    except (ValueError, KeyError, TypeError) as error:
        message = f"{path} is no report of tools.legality.audit --json ({error!r})"
        raise ValueError(message) from error


def commands(runs: list[Run]) -> list[str]:
    """The command line of each run: its preset, what its environment overrode, and its seed."""
    lines = []
    for run in runs:
        preset = json.loads((run.path.parent / "settings.json").read_text())["preset"]
        variables = run.overrides
        if run.resumed:  # the log tells what the last start overrode, which is nothing
            script = (run.path.parent / SCRIPT).read_bytes()
            variables = changed_settings(run, joined_sources(script))
        variables = {"PRESET": preset, "SEED": run.seed, **variables}
        words = [f"{name}={plain(value)}" for name, value in variables.items() if name != "RUN_ID"]
        ranks = f"torchrun --standalone --nproc_per_node={run.world_size}"
        start = "python" if run.device == "cpu" and run.world_size == 1 else ranks
        lines.append(" ".join([*words, start, SCRIPT]))
    return lines


def requirements(runs: list[Run], sources: dict[str, bytes]) -> str:
    """requirements.txt: torch as in the logs, and what else the sources import."""
    modules = set()
    for data in sources.values():
        for node in ast.walk(ast.parse(data)):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.split(".")[0])
    # `compression` is the standard library of Python 3.14.
    modules -= {*sys.stdlib_module_names, "compression", *(Path(name).stem for name in sources)}
    torch = runs[0].versions.get("torch", "")
    pins = {"torch": "==" + torch.split("+")[0]} if torch else {}
    names = [PIP_NAMES.get(name, name) + pins.get(name, "") for name in sorted(modules)]
    ran = " ".join(f"{name} {version}" for name, version in runs[0].versions.items())
    return "\n".join([f"# The runs had {ran}.", *names]) + "\n"


def bytes_by_group(runs: list[Run]) -> dict:
    """Where the bytes of the largest artifact go."""
    run = max(runs, key=lambda run: run.model_bytes)
    summary = byte_account((run.path.parent / "artifact.pgz").read_bytes())
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
        remedy = "call tools.submission.pack from the folder in which the runs were started"
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
    script = sources[SCRIPT]
    if unpacked(script) == {SCRIPT: script}:
        script = bundle.pack(sources, plain)
    else:  # the run was one of a packed train_gpt.py, which is shipped as it ran
        sources = unpacked(script)
    quantize.write_atomic(folder / SCRIPT, script)
    needs = requirements(runs, sources)
    quantize.write_atomic(folder / "requirements.txt", needs.encode())
    copy_tokenizer(runs[0], folder)


def clear_killed(track_folder: Path) -> None:
    """Remove what a `pack` left behind that was killed: its folder names a process that is gone."""
    for folder in track_folder.glob(f"{SCRATCH}*"):
        number = folder.name.removeprefix(SCRATCH).partition("-")[0]
        if not (number.isdecimal() and is_alive(int(number))):
            shutil.rmtree(folder, ignore_errors=True)


def is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)  # no signal: it asks only whether one could be sent
    except ProcessLookupError:
        return False
    except PermissionError:  # alive, and somebody else's
        pass
    return True


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
    clear_killed(target.parent)
    prefix = f"{SCRATCH}{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=target.parent) as scratch:
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
            of_legality = [f for f in findings + audits if f.rule in LEGALITY_RULES]
            stated["legality"] = [{key: f.row()[key] for key in LEGALITY} for f in of_legality]
        if faults := unexplained + [f for f in findings + audits if f.level == "fail"]:
            raise Refused(faults)
        os.rename(folder, target)
    return target


# Command line --------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.submission.pack", description=about)
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
        print(
            format_findings(refused.findings, args.json),
            file=sys.stdout if args.json else sys.stderr,
        )
        print("tools.submission.pack: refused, nothing was written", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print("tools.submission.pack:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps({"folder": str(target)}))
    else:
        print(f"{target}\ncheck it: python -m tools.submission.check {target} --run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
