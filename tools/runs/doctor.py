"""Look this machine over before a run, and forecast the run: a minute, with or without a GPU.

    python3 golf.py doctor [RECIPE] [--data DIR] [--tokenizer FILE] [--gpus N] [--no-probe] [--json]
    MAX_WALLCLOCK_SECONDS=600 python3 golf.py doctor --from-run RUN
    PRESET=h100_10min python3 golf.py doctor --device H100

Settings are environment variables, as for training, and choose the run that is forecast. Each line
is `ok`, `warn` or `fail`, a name, the finding and, where it matters, what to do about it.

The step time is measured on made-up tokens, in a process that is ended when its time is over: first
a part of a batch as it is, then compiled, where the settings say so and the time allows. The time
to pack is that of the quantiser on one column of each shape, times the columns. The artifact's size
is not measured: packing stops at the cap or where more bytes make no difference to the loss, which
depends on what training finds. It is the bits a weight that our trained models took, or the cap.
--from-run forecasts from the log of a finished run of this toolkit instead, and probes nothing.
--device forecasts by a data sheet, for a machine that is not at hand: a plan, not a measurement.

Exit status 0: nothing fails, 1: something would stop the run, 2: no such settings or run.
"""

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

import golf
import quantize
from data import start_check, verify
from engine.open_model import find_recipe
from engine.ranks import Ranks, attention_kernel, compute_dtype
from engine.recipe import Recipe
from engine.settings import RunSettings, read_settings
from engine.shards import find_shards, read_shard
from engine.trainer import settle
from tools.legality.rules import LEVELS
from tools.runs.forecast import (
    ASSUMED_ENDING_SECONDS,
    ASSUMED_MFU,
    at_cap,
    forecast_for_device,
    forecast_from_probe,
    forecast_from_run,
)
from tools.runs.logs import read_runs
from tools.runs.probe import run_probe
from tools.runs.run_log import Run

# Limits that keep the whole under a minute.
COMPILE_SECONDS = 15
DATA_SECONDS = 15
PROBE_SECONDS = 30

PHASE_SECONDS = 600  # of training, and again of scoring, by the rules
FEW_STEPS = 100  # fewer are too few to learn anything
FULL_SHARDS = 80  # of the published training text, that records train on
GIB = 1 << 30


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    level: str  # one of tools.legality.rules.LEVELS
    finding: str
    remedy: str = ""


# The machine --------------------------------------------------------------------------------------


def installed(package: str) -> str:
    """The package's version; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def driver_version() -> str:
    """The NVIDIA driver's version; empty without one."""
    smi = shutil.which("nvidia-smi")
    if not smi:
        return ""
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    # On a machine whose driver hangs, this program hangs too.
    done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    return "" if done.returncode else done.stdout.split("\n")[0].strip()


def check_device() -> Iterator[Check]:
    """GPU, driver, capability, form and memory; or that there is none."""
    driver = driver_version() or "unknown"
    if torch.cuda.is_available():
        for i in range(torch.cuda.device_count()):
            yield check_gpu(torch.cuda.get_device_name(i), i)
        versions = f"torch for CUDA {torch.version.cuda}, NCCL {torch.cuda.nccl.version()}"
        yield Check("driver", "ok", f"driver {driver}, {versions}")
    elif driver != "unknown" or golf.NVIDIA_DRIVER.exists():
        finding = f"there is a GPU (driver {driver}), torch {torch.__version__} cannot use it"
        remedy = "install a CUDA build of torch that this driver supports"
        yield Check("device", "fail", finding, remedy)
    else:
        yield Check("device", "ok", "CPU only: fp32, PRESET=smoke; the real recipe needs a GPU")


def check_gpu(name: str, index: int) -> Check:
    """What a GPU is, whether it is what records are timed on, and whether it is free."""
    check = f"gpu{index}"
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
    memory = f"{free_bytes // GIB} of {total_bytes // GIB} GiB free"
    finding = f"{name}, capability {capability}, {memory}"
    # A context of CUDA alone takes some hundreds of MiB; more is somebody's work.
    if total_bytes - free_bytes > 2 * GIB:
        return Check(check, "warn", finding, "end what else uses it: it takes time and memory")
    if capability < "8.0":
        return Check(check, "warn", f"{finding}: bf16 is slow", "take an Ampere GPU or newer")
    form = form_of(name)
    if form != "SXM" or "H100" not in name:
        remedy = "train for a record's time on 8 H100 SXM; anything else is for trials"
        return Check(check, "warn", f"{finding}: {form}, not an H100 SXM", remedy)
    return Check(check, "ok", f"{finding}: H100 SXM, as records are timed on")


def form_of(name: str) -> str:
    """SXM, PCIe or NVL, by how NVIDIA names its data-centre GPUs; "other" for any other GPU."""
    form = re.search(r"\b(PCIe|NVL)\b", name)
    if form:
        return form[1]
    return "SXM" if re.search(r"HBM3|SXM|\b[HB][23]00\b", name) else "other"


def check_software() -> Iterator[Check]:
    """Python, torch and the codecs."""
    python = ".".join(map(str, sys.version_info[:3]))
    yield Check("versions", "ok", f"Python {python}, torch {torch.__version__}")
    try:
        quantize.load_zstd()
    except ImportError as error:
        yield Check("codecs", "fail", str(error), "pip install zstandard")
        return
    zstandard = installed("zstandard")
    if zstandard:
        yield Check("codecs", "ok", f"zstandard {zstandard}")
    else:
        finding = "zstd of the standard library: the artifact's bytes may differ from others'"
        yield Check("codecs", "warn", finding, "pip install zstandard")


def check_machine(parameters: int) -> Iterator[Check]:
    """Cores, threads, load, memory and disk, against what a run needs."""
    yield check_cores()
    memory = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    available_bytes = 1024 * int(memory[1])
    # fp32 weights, gradients, two moments, averages, and a checkpoint in memory: 12 numbers each.
    needed_bytes = 48 * parameters + 2 * GIB
    finding = f"{available_bytes / GIB:.1f} GiB available, about {needed_bytes / GIB:.1f} needed"
    if available_bytes > needed_bytes:
        yield Check("memory", "ok", finding)
    else:
        yield Check("memory", "warn", finding, "free some, or train a smaller model")
    free_bytes = shutil.disk_usage(".").free
    needed_bytes = 2 * 20 * parameters + 3 * quantize.CAP_BYTES  # a checkpoint and its successor
    finding = f"{free_bytes / 1e9:.1f} GB free here, {needed_bytes / 1e9:.2f} needed for logs/"
    if free_bytes > needed_bytes:
        yield Check("disk", "ok", finding)
    else:
        yield Check("disk", "fail", finding, "free some, or stand elsewhere")


def check_cores() -> Check:
    """Cores and threads, and whether somebody else uses them."""
    # Those that this process may use: a container or a scheduler gives fewer than there are.
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0]
    # As it is here, not as golf.py sets it for its commands.
    policy = golf.own_environment().get("OMP_WAIT_POLICY", "not set")
    threads = f"{torch.get_num_threads()} threads, OMP_WAIT_POLICY {policy}"
    finding = f"{cores} of {os.cpu_count()} cores, {threads}"
    if load > 0.6 * cores:
        finding += f"; load {load:.1f}: the machine is busy"
        remedy = "wait until it is free; the times below are too long"
        return Check("cores", "warn", finding, remedy)
    if not torch.cuda.is_available() and policy.upper() != "PASSIVE":
        remedy = "start with golf.py, which sets it to PASSIVE; only an idle machine does without"
        return Check("cores", "warn", finding, remedy)
    return Check("cores", "ok", finding)


def check_attention(settings: RunSettings, device: torch.device) -> Check:
    """The kernel that a run's attention takes, and whether it is one that is worth its name."""
    dtype = compute_dtype(device, settings.compile)
    kernel = attention_kernel(settings, device, dtype)
    if kernel == "MATH":
        remedy = "use bf16, a head dimension that is a multiple of 8, and a newer torch"
        return Check("attention", "warn", "math: every score is written to memory", remedy)
    return Check("attention", "ok", f"{kernel}, {str(dtype).removeprefix('torch.')}")


# Compilation --------------------------------------------------------------------------------------

COMPILE_CODE = """
import time, torch
started = time.perf_counter()
device = "cuda" if torch.cuda.is_available() else "cpu"
x = torch.ones(64, 64, device=device, requires_grad=True)
torch.compile(lambda x: (torch.relu(x) * 2 + 1).sum())(x).backward()
print(f"{time.perf_counter() - started:.1f}", float(x.grad.sum()))
"""
RIGHT_SUM = "8192.0"  # of the gradient: 2 for each of 64 * 64 ones


def start_compile() -> subprocess.Popen:
    """A process that compiles a small function and its gradient."""
    command = [sys.executable, "-c", COMPILE_CODE]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def check_compile(process: subprocess.Popen, is_needed: bool, seconds: float) -> Check:
    """Whether it came to its right end, and in what time."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        finding = f"torch.compile of a small function is not done after {COMPILE_SECONDS} s"
        if not is_needed:
            return Check("compile", "ok", finding)
        remedy = "try again with the cache warm; COMPILE=0 does without, slower"
        return Check("compile", "warn", finding, remedy)
    words = out.split()
    if process.returncode == 0 and words[1:] == [RIGHT_SUM]:
        return Check("compile", "ok", f"torch.compile works: {words[0]} s for a small function")
    errors = err.strip().splitlines() or ["no output"]
    finding = f"torch.compile fails: {errors[-1][:200]}"
    if is_needed:
        return Check("compile", "fail", finding, "install gcc and Triton, or set COMPILE=0: slower")
    return Check("compile", "ok", f"{finding}; these settings do without")


# Data ---------------------------------------------------------------------------------------------


def fetch_command(data_path: str) -> str:
    """The command that brings a folder of published shards, or where it is none, the usual one."""
    published = re.search(r"fineweb10B_(\w+)", data_path)
    variant = published[1] if published else "sp1024"
    shards = str(FULL_SHARDS)
    return golf.shell_line("data", "fetch", "--variant", variant, "--train-shards", shards)


def check_data(recipe: Recipe, settings: RunSettings, overrides: dict) -> Iterator[Check]:
    """Shards and tokenizer by the check that a run makes at its start, and how many of them."""
    smoke_path = recipe.presets.get("smoke", {}).get("data_path")
    # The smoke preset makes its own text, but only where nobody asked for another.
    is_made = settings.data_path == smoke_path and "data_path" not in overrides
    if is_made and not Path(smoke_path).exists():
        yield Check("shards", "ok", f"{smoke_path} is made at the start of the run")
        return
    try:
        recipe.byte_table(settings.tokenizer_path, settings.vocab_size)
        yield Check("tokenizer", "ok", f"{settings.tokenizer_path}, {settings.vocab_size} pieces")
    except (ValueError, OSError) as error:
        fetch = fetch_command(settings.data_path)
        yield Check("tokenizer", "fail", str(error), f"TOKENIZER_PATH=…, or {fetch}")
    outcome: list[Check] = []
    # Hashing 16 GB that were never verified takes longer than we have.
    thread = threading.Thread(target=lambda: outcome.append(check_shards(settings)), daemon=True)
    thread.start()
    thread.join(DATA_SECONDS)
    if outcome:
        yield outcome[0]
        return
    finding = f"{settings.data_path}: not checked after {DATA_SECONDS} s, as every run will"
    remedy = f"{golf.shell_line('data', 'verify', settings.data_path)}, once"
    yield Check("shards", "warn", finding, remedy)


def check_shards(settings: RunSettings) -> Check:
    """What a run says of its shards at its start, and whether they are few."""
    path = settings.data_path
    fetch = fetch_command(path)
    try:
        tokenizer = Path(settings.tokenizer_path)
        note = start_check.check_start(Path(path), tokenizer, settings.vocab_size)
        shards = len(find_shards(path, "train"))
    except (ValueError, OSError) as error:
        return Check("shards", "fail", str(error), f"DATA_PATH=…, or {fetch}")
    is_fineweb = "fineweb" in path
    # A verified folder tells how many shards were published; of FineWeb 80 are enough.
    published = re.search(r"train_shards:\d+/(\d+)", note)
    complete = int(published[1]) if published else 0
    if is_fineweb:
        complete = min(complete or FULL_SHARDS, FULL_SHARDS)
    if shards < complete:
        few = f"{shards} of {complete} training shards; one cost 0.1 bpb (upstream #363)"
        return Check("shards", "warn", f"{path}: {few}", fetch)
    if note.startswith("warning: "):
        return Check("shards", "warn", note.removeprefix("warning: "), f"or {fetch}")
    return Check("shards", "ok", f"{path}: {note}")


def count_tokens(settings: RunSettings, split: str, unknown: float) -> float:
    """Tokens in the shards of a split, by their headers; `unknown` where there are none."""
    try:
        shards = find_shards(settings.data_path, split)
        return sum(len(read_shard(path, verify=False)) for path in shards)
    except (ValueError, OSError):
        return unknown


# Forecast -----------------------------------------------------------------------------------------


def check_forecast(settings: RunSettings, result: dict, gpus: int) -> Iterator[Check]:
    """The forecast as lines, with a warning where a rule or the point of the run is in danger."""
    if "step_seconds" in result:
        yield check_step_time(settings, result, gpus)
        yield check_steps(settings, result)
    if "score_seconds" in result:
        seconds = result["score_seconds"]
        finding = f"{seconds:,.0f} s in blocks and by windows, stride {settings.eval_stride}"
        if seconds > PHASE_SECONDS:
            remedy = "a longer EVAL_STRIDE, or more GPUs (--gpus)"
            yield Check("scoring time", "warn", finding, remedy)
        else:
            yield Check("scoring time", "ok", finding)
    if "total_bytes" in result:
        yield check_size(result)


def check_size(result: dict) -> Check:
    """Bytes of model and code against the cap."""
    total = result["total_bytes"]
    margin = quantize.CAP_BYTES - total
    side = "OVER" if margin < 0 else "under"
    parts = f"{result['model_bytes']:,} and code {result['code_bytes']:,}"
    finding = f"{parts}: {total:,} bytes, {abs(margin):,} {side} the cap"
    if margin < 0:
        remedy = "a smaller model; else packing coarsens the steps until it fits"
        return Check("size", "warn", finding, remedy)
    if at_cap(total):
        finding += "; the cap decides how fine packing is"
    return Check("size", "ok", finding)


def check_plan(result: dict) -> Iterator[Check]:
    """What a forecast by a data sheet rests on, the model, and what packing should make of it."""
    peak = f"{result['peak_flops']:g} FLOP/s a device"
    ending = f"{ASSUMED_ENDING_SECONDS:.0f} s for the end"
    assumed = f"{peak} by its data sheet; {ASSUMED_MFU:.0%} of it and {ending} are assumed"
    yield Check("device", "ok", f"{result['device']}: {assumed}, not measured")
    size = f"{result['parameters']:,} parameters, {result['flops_per_token']:,} FLOPs a token"
    share = f"{result['tokens_per_parameter']:.1f} tokens a parameter"
    yield Check("model", "ok", f"{size}, {share}")
    bits = f"{result['bits']:.2f} bits a parameter"
    lost = f"about {result['packing_nats']:.3f} nats a token lost"
    yield Check("packing", "ok", f"{bits}, {lost}")


def check_step_time(settings: RunSettings, result: dict, gpus: int) -> Check:
    """Time of a step and tokens a second."""
    compiled = "compiled" if result["compiled"] else "not compiled"
    if settings.compile and not result["compiled"]:
        compiled += ", which the run will be: too slow"
    processes = "1 process" if gpus == 1 else f"{gpus} processes"
    step = (
        f"{1e3 * result['step_seconds']:,.1f} ms a step of {settings.train_batch_tokens:,} tokens"
    )
    speed = f"{result['tokens_per_second']:,.0f} tokens/s"
    return Check("step time", "ok", f"{step}, {speed}, {compiled}, {processes}")


def check_steps(settings: RunSettings, result: dict) -> Check:
    """Number of steps, against what learning needs and what the rules allow."""
    cap = settings.max_wallclock_seconds
    steps = result["steps"]
    finding = f"{steps:,} steps, {result['tokens']:,} tokens, in {result['train_seconds']:,.0f} s"
    if cap:
        finding += f" of {cap:,.0f}, {result['reserve_seconds']:.1f} s kept back"
    else:
        finding += ", no cap"
    if steps < FEW_STEPS:
        remedy = "a smaller model or batch (PRESET=smoke), more time, or a faster machine"
        level = "fail" if steps == 0 else "warn"
        return Check("steps", level, f"{finding}: too few to learn", remedy)
    if cap > PHASE_SECONDS:
        remedy = f"MAX_WALLCLOCK_SECONDS={PHASE_SECONDS} for a record in ten minutes"
        return Check("steps", "warn", finding, remedy)
    return Check("steps", "ok", finding)


# Command ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlannedRun:
    """The run that is forecast."""

    recipe: Recipe
    settings: RunSettings
    overrides: dict  # settings that the environment gave
    asked: dict[str, str]  # the same and the preset, as they are typed in front of a command
    run: Run | None  # that it is forecast from


def examine(subject: PlannedRun, gpus: int, wants_probe: bool) -> tuple[list[Check], dict]:
    """All checks of the machine, and the forecast where probing is wanted and succeeds."""
    recipe = subject.recipe
    settings = subject.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # It compiles while the other checks are made.
    compiling = start_compile() if wants_probe else None
    began = time.monotonic()
    # Without memory: a model that is too large for this machine is to be reported, not to fail.
    with torch.device("meta"):
        model = recipe.model(recipe.model_settings(settings), torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    checks = [*check_software(), *check_device(), *check_machine(parameters)]
    checks.append(check_attention(settings, device))
    checks += check_data(recipe, settings, subject.overrides)
    if not wants_probe:
        return checks, {}
    # It has been compiling since the beginning, while the other checks ran.
    seconds_left = max(1.0, COMPILE_SECONDS - (time.monotonic() - began))
    checks.append(check_compile(compiling, settings.compile, seconds_left))
    measures, error = run_probe(recipe.name, settings, PROBE_SECONDS)
    missing = [kind for kind in ("pack", "step", "score") if kind not in measures]
    if error:
        remedy = "lower MICRO_BATCH_TOKENS if memory is short; training says more"
        checks.append(Check("probe", "fail", f"ended with {error[:200]}", remedy))
    elif missing:
        short = f"{PROBE_SECONDS} s were not enough to measure {', '.join(missing)}"
        finding = f"{parameters:,} parameters: {short}"
        checks.append(Check("probe", "warn", finding, "PRESET=smoke here, or a GPU"))
    train_tokens = count_tokens(settings, "train", math.inf)
    usual = verify.FINEWEB_TOKENS.get(settings.vocab_size, verify.FINEWEB_TOKENS[1024])
    val_tokens = count_tokens(settings, "val", usual)
    result = forecast_from_probe(recipe, settings, measures, gpus, train_tokens, val_tokens)
    checks += check_forecast(settings, result, gpus)
    return checks, {"probe": measures, **result}


def read_subject(args: argparse.Namespace) -> PlannedRun:
    """What the command is asked to forecast. Raises: ValueError, OSError."""
    recipe = find_recipe(golf.recipe_name(args.recipe))
    environ = golf.own_environment()
    environ.pop("RESUME", None)  # its saved settings would be forecast instead of those asked for
    if args.data:
        environ["DATA_PATH"] = str(args.data)
    if args.tokenizer:
        environ["TOKENIZER_PATH"] = str(args.tokenizer)
    choice = read_settings(recipe, environ, bool(args.device) or torch.cuda.is_available())
    choice = settle(recipe, choice, Ranks())
    if args.gpus < 1:
        raise ValueError(f"--gpus {args.gpus} must be at least 1")
    names = ["PRESET", *(name.upper() for name in choice.overrides)]
    asked = {name: environ[name] for name in names if environ.get(name)}
    if not args.from_run:
        return PlannedRun(recipe, choice.settings, choice.overrides, asked, None)
    run = read_runs(args.from_run)[0]
    names = {field.name for field in fields(recipe.Settings)}
    # An older run may have had settings that are gone; they are not needed for its length.
    saved = {name: value for name, value in run.settings.items() if name in names}
    settings = recipe.Settings(**{**saved, **choice.overrides})
    return PlannedRun(recipe, settings, choice.overrides, asked, run)


def format_checks(checks: list[Check]) -> str:
    """One line for each check and one for each remedy, then how many there are of each level."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.level:4}  {check.name:{width}}  {check.finding}")
        if check.remedy:
            lines.append(f"{'':{width + 6}}  -> {check.remedy}")
    counts = []
    for level in LEVELS:
        counts.append(f"{sum(check.level == level for check in checks)} {level}")
    return "\n".join([*lines, f"doctor: {', '.join(counts)}"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="golf.py doctor", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("recipe", nargs="?", default="train_gpt", help="train_gpt (default), or one of baselines/")
    add("--data", type=Path, metavar="DIR", help="folder of shards, in place of DATA_PATH")
    add("--tokenizer", type=Path, metavar="FILE", help="in place of TOKENIZER_PATH")
    add("--gpus", "--nproc", type=int, default=1, help="GPUs, or processes, of the run")
    add("--from-run", metavar="RUN", help="forecast from a log, run folder or run id")
    add("--device", metavar="NAME", help="forecast for another device, as H100, by its data sheet")
    add("--no-probe", action="store_true", help="compile and time nothing: a few seconds")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        subject = read_subject(args)
        if subject.run:
            result = forecast_from_run(subject.recipe, subject.settings, subject.run, args.gpus)
            checks = list(check_forecast(subject.settings, result, args.gpus))
        elif args.device:
            planned = (subject.recipe, subject.settings, args.device, args.gpus)
            result = forecast_for_device(*planned)
            checks = [*check_plan(result), *check_forecast(subject.settings, result, args.gpus)]
        else:
            checks, result = examine(subject, args.gpus, not args.no_probe)
    except (ValueError, OSError) as error:
        print(f"golf.py doctor: {error}", file=sys.stderr)
        return 2
    status = int(any(check.level == "fail" for check in checks))
    if args.json:
        rows = [asdict(check) for check in checks]
        print(json.dumps({"status": status, "checks": rows, "forecast": result}))
    else:
        print(format_checks(checks))
        if status == 0:
            words = [] if args.recipe == "train_gpt" else [args.recipe]
            if args.gpus > 1:
                words += ["--gpus", args.gpus]
            golf.say_next("train", *words, settings=subject.asked)
    return status


if __name__ == "__main__":
    sys.exit(main())
