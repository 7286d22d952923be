"""Look this machine over before a run, and forecast the run: a minute, with or without a GPU.

    python3 golf.py tools.runs.doctor [--data DIR] [--tokenizer FILE] [--nproc N] [--no-probe]
        [--json]
    MAX_WALLCLOCK_SECONDS=600 python3 golf.py tools.runs.doctor --from-run RUN

Settings are environment variables, as for train_gpt.py, and choose the run that is forecast. Each
line is `ok`, `warn` or `fail`, a name, what was found and, where it matters, what to do about it.

The step time is measured on made-up tokens, in a process that is ended when its time is over: first
a part of a batch as it is, then compiled, where the settings say so and the time allows. The time
to pack is that of the quantiser on one column of each shape, times the columns. The artifact's size
is not measured: packing stops at the cap or where more bytes make no difference to the loss, which
depends on what training finds. It is the bits a weight that our trained models took, or the cap.
--from-run forecasts from the log of a finished run of this toolkit instead, and probes nothing.
Both assume that the machine stays as fast as it was: a CPU that is shared has been off by 10 to
40 %.

Exit status 0: nothing fails, 1: something would stop the run, 2: no such settings or run.
"""

import argparse
import json
import math
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
import torch.nn.functional as F

import evaluate
import quantize
import train_gpt
from codec import trellis
from data import verify
from golf import child_environment
from tools.legality.rules import LEVELS
from tools.runs.logs import Run, read_runs
from train_gpt import Hyperparameters

ROOT = Path(__file__).resolve().parents[2]
COMPILE_SECONDS = 15  # limits that keep the whole under a minute
DATA_SECONDS = 15
PROBE_SECONDS = 30
PHASE_SECONDS = 600  # of training, and again of scoring, by the rules
FULL_SHARDS = 80  # of the published training text, that records train on
USUAL_BITS = 3.4  # of a weight where bytes abound: smoke runs 3.8, 6.9 M weights on web text 3.4
AT_CAP_BYTES = quantize.CAP_BYTES // 1000  # what packing to the cap may leave
PASSES = 2  # of the quantiser, until a size is met
SECONDS = ("grad_seconds", "optimizer_seconds")  # the parts of a step
# A run's speed holds for another run only if these are the same.
SPEED_SETTINGS = {*train_gpt.MODEL_SETTINGS, "train_batch_tokens", "micro_batch_tokens", "compile"}


@dataclass(frozen=True)
class Check:
    """One line of the report."""

    name: str
    level: str  # one of tools.legality.rules.LEVELS
    what: str
    remedy: str = ""


# What is here -------------------------------------------------------------------------------------


def installed(package: str) -> str:
    """The package's version; empty where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def check_device() -> Iterator[Check]:
    """GPU, driver, capability, form and memory; or that there is none."""
    smi = shutil.which("nvidia-smi")
    query = [smi, "--query-gpu=driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, timeout=20) if smi else None
    driver = found.stdout.split("\n")[0].strip() if found and not found.returncode else ""
    if not torch.cuda.is_available():
        if driver or Path("/proc/driver/nvidia").exists():
            what = (
                f"there is a GPU (driver {driver or 'unknown'}), torch {torch.__version__} has none"
            )
            remedy = "install a CUDA build of torch that this driver supports"
            yield Check("device", "fail", what, remedy)
        else:
            yield Check("device", "ok", "CPU only: fp32, PRESET=smoke; the real recipe needs a GPU")
        return
    for i in range(torch.cuda.device_count()):
        yield check_gpu(torch.cuda.get_device_name(i), i)
    name, cuda = f"driver {driver or 'unknown'}", torch.version.cuda
    yield Check("driver", "ok", f"{name}, torch for CUDA {cuda}, NCCL {torch.cuda.nccl.version()}")


def check_gpu(name: str, index: int) -> Check:
    """What a GPU is, whether it is what records are timed on, and whether it is free."""
    free_bytes, total_bytes = torch.cuda.mem_get_info(index)
    capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
    what = f"{name}, capability {capability}, {free_bytes >> 30} of {total_bytes >> 30} GiB free"
    if total_bytes - free_bytes > 2 << 30:
        return Check(f"gpu{index}", "warn", what, "end what else uses it: it takes time and memory")
    if capability < "8.0":
        return Check(f"gpu{index}", "warn", f"{what}: bf16 is slow", "take an Ampere GPU or newer")
    form = form_of(name)
    if form != "SXM" or "H100" not in name:
        remedy = "train for a record's time on 8 H100 SXM; anything else is for trials"
        return Check(f"gpu{index}", "warn", f"{what}: {form}, no H100 SXM", remedy)
    return Check(f"gpu{index}", "ok", f"{what}: H100 SXM, as records are timed on")


def form_of(name: str) -> str:
    """SXM, PCIe or NVL, by how NVIDIA names its data-centre GPUs; "other" for any other GPU."""
    if found := re.search(r"\b(PCIe|NVL)\b", name):
        return found[1]
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
    brotli = installed("brotli")
    others = f"; brotli {brotli or 'is not installed'}, which nothing here needs"
    if zstandard := installed("zstandard"):
        yield Check("codecs", "ok", f"zstandard {zstandard}{others}")
    else:
        what = "zstd of the standard library: the artifact's bytes may differ from others'"
        yield Check("codecs", "warn", what, "pip install zstandard")


def check_machine(parameters: int) -> Iterator[Check]:
    """Cores, threads, load, memory and disk, against what a run needs."""
    cores, threads = len(os.sched_getaffinity(0)), torch.get_num_threads()
    load, environ = os.getloadavg()[0], child_environment()
    policy = environ.get("OMP_WAIT_POLICY", "not set")
    what = f"{cores} of {os.cpu_count()} cores, {threads} threads, OMP_WAIT_POLICY {policy}"
    if load > 0.6 * cores:
        remedy = "wait until it is free; the times below are too long"
        yield Check("cores", "warn", f"{what}; load {load:.1f}: the machine is busy", remedy)
    elif not torch.cuda.is_available() and policy.upper() != "PASSIVE":
        remedy = "start with golf.py, which sets it to PASSIVE; only an idle machine does without"
        yield Check("cores", "warn", what, remedy)
    else:
        yield Check("cores", "ok", what)
    memory = re.search(r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text())
    available_bytes, need_bytes = 1024 * int(memory[1]), 48 * parameters + (2 << 30)
    level = "ok" if available_bytes > need_bytes else "warn"
    what = f"{available_bytes / 2**30:.1f} GiB available, about {need_bytes / 2**30:.1f} wanted"
    yield Check(
        "memory", level, what, "" if level == "ok" else "free some, or train a smaller model"
    )
    free_bytes = shutil.disk_usage(".").free
    need_bytes = 2 * 20 * parameters + 3 * quantize.CAP_BYTES  # a checkpoint and its successor
    what = f"{free_bytes / 1e9:.1f} GB free here, {need_bytes / 1e9:.2f} wanted for logs/"
    level = "ok" if free_bytes > need_bytes else "fail"
    yield Check("disk", level, what, "" if level == "ok" else "free some, or stand elsewhere")


def check_attention(hp: Hyperparameters, device: torch.device) -> Check:
    """The kernel that attention takes, seen in the graph of a call in the model's shapes."""
    E, dtype = hp.model_dim // hp.num_heads, train_gpt.compute_dtype(device)

    def heads(count: int) -> torch.Tensor:
        shape = (1, count, hp.train_seq_len, E)
        return torch.zeros(shape, device=device, dtype=dtype, requires_grad=True)

    q, k, v = heads(hp.num_heads), heads(hp.num_kv_heads), heads(hp.num_kv_heads)
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
    names, nodes = [], [y.grad_fn]
    while nodes:
        node = nodes.pop()
        names.append(node.name())
        nodes += [parent for parent, _ in node.next_functions if parent]
    found = [re.search(r"ScaledDotProduct(\w+?)(?:Attention|Backward)", name) for name in names]
    backend = next((match[1].lower() for match in found if match), "math")
    if backend == "math":
        remedy = "use bf16, a head dimension that is a multiple of 8, and a newer torch"
        return Check("attention", "warn", "math: every score is written to memory", remedy)
    return Check("attention", "ok", f"{backend} kernel, {dtype}".replace("torch.", ""))


COMPILE_CODE = """
import time, torch
started = time.perf_counter()
device = "cuda" if torch.cuda.is_available() else "cpu"
x = torch.ones(64, 64, device=device, requires_grad=True)
torch.compile(lambda x: (torch.relu(x) * 2 + 1).sum())(x).backward()
print(f"{time.perf_counter() - started:.1f}", float(x.grad.sum()))
"""


def start_compile() -> subprocess.Popen:
    """A process that compiles a small function and its gradient."""
    command, pipe = [sys.executable, "-c", COMPILE_CODE], subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)


def check_compile(process: subprocess.Popen, is_needed: bool, seconds: float) -> Check:
    """Whether it came to its right end, and in what time."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        what = f"torch.compile of a small function is not done after {COMPILE_SECONDS} s"
        remedy = "try again with the cache warm; COMPILE=0 does without, slower"
        return Check("compile", "warn" if is_needed else "ok", what, remedy if is_needed else "")
    words = out.split()
    if not process.returncode and words[1:] == ["8192.0"]:
        return Check("compile", "ok", f"torch.compile works: {words[0]} s for a small function")
    what = f"torch.compile fails: {(err.strip().splitlines() or ['no output'])[-1][:200]}"
    if is_needed:
        return Check("compile", "fail", what, "install gcc and Triton, or set COMPILE=0: slower")
    return Check("compile", "ok", f"{what}; these settings do without")


def check_data(hp: Hyperparameters, given: dict) -> Iterator[Check]:
    """Shards and tokenizer by the check that a run makes at its start, and how many of them."""
    smoke = train_gpt.PRESETS["smoke"]["data_path"]
    if hp.data_path == smoke and "data_path" not in given and not Path(smoke).exists():
        yield Check("shards", "ok", f"{smoke} is made at the start of the run")
        return
    fetch = "python3 golf.py --with data data.prepare fetch --variant sp1024 --train-shards 80"
    try:
        evaluate.ByteTable.from_sentencepiece(hp.tokenizer_path, hp.vocab_size)
        yield Check("tokenizer", "ok", f"{hp.tokenizer_path}, {hp.vocab_size} pieces")
    except (ValueError, OSError) as error:
        yield Check("tokenizer", "fail", str(error), f"TOKENIZER_PATH=…, or {fetch}")
    outcome: list[Check] = []
    thread = threading.Thread(target=lambda: outcome.extend(check_shards(hp, fetch)), daemon=True)
    thread.start()  # hashing 16 GB that were never verified takes longer than we have
    thread.join(DATA_SECONDS)
    what = f"{hp.data_path}: not checked after {DATA_SECONDS} s, as every start of a run will"
    verify_it = f"python3 golf.py data.prepare verify {hp.data_path}, once"
    yield from outcome or [Check("shards", "warn", what, verify_it)]


def check_shards(hp: Hyperparameters, fetch: str) -> list[Check]:
    """What a run says of its shards at its start, and whether they are few."""
    try:
        note = verify.check_start(Path(hp.data_path), Path(hp.tokenizer_path), hp.vocab_size)
        shards = len(evaluate.find_shards(hp.data_path, "train"))
    except (ValueError, OSError) as error:
        return [Check("shards", "fail", str(error), f"DATA_PATH=…, or {fetch}")]
    of = re.search(r"train_shards:\d+/(\d+)", note)
    wanted = int(of[1]) if of else FULL_SHARDS if "fineweb" in hp.data_path else 0
    wanted = min(wanted, FULL_SHARDS) if "fineweb" in hp.data_path else wanted
    if shards < wanted:
        what = f"{shards} of {wanted} training shards; one cost 0.1 bpb (upstream #363)"
        return [Check("shards", "warn", f"{hp.data_path}: {what}", fetch)]
    if note.startswith("warning: "):
        return [Check("shards", "warn", note.removeprefix("warning: "), f"or {fetch}")]
    return [Check("shards", "ok", f"{hp.data_path}: {note}")]


# How fast -----------------------------------------------------------------------------------------


def probe(hp: Hyperparameters, device: torch.device, seconds: float) -> Iterator[dict]:
    """Measurements as they come, a later one of a kind replaces an earlier one.

    "step": seconds of gradients for so many tokens, and of the optimizer; "score": seconds for a
    target in blocks, and for the passes of windows over one; "pack": seconds of one packing, and
    bytes before a cap at the bits that a weight usually takes.
    """
    started, T = time.perf_counter(), hp.train_seq_len
    rt = train_gpt.Runtime(0, 1, device)
    rng = torch.Generator().manual_seed(0)
    model = train_gpt.GPT(hp, train_gpt.compute_dtype(device))
    weights = {name: torch.randn(p.shape, generator=rng) for name, p in model.named_parameters()}
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.02 * weights[name])
    model.to(device)
    optimizers = train_gpt.Optimizers(model, replace(hp, compile=False), rt)
    averages = train_gpt.Averages(model, hp)
    micro_tokens = min(hp.micro_batch_tokens, hp.train_batch_tokens)

    def timed(call: Callable) -> float:
        rt.synchronize()
        began = time.perf_counter()
        call()
        rt.synchronize()
        return time.perf_counter() - began

    def step(loss_fn: Callable, tokens: int) -> dict:
        rows = torch.randint(hp.vocab_size, (tokens // T, T + 1), generator=rng).to(device)
        grad_seconds = timed(lambda: (loss_fn(rows) / tokens).backward())
        optimizer_seconds = timed(lambda: (optimizers.step(1, 0.5), averages.update(1, 0.5)))
        peak = torch.cuda.max_memory_allocated() >> 20 if device.type == "cuda" else None
        return {
            **{"kind": "step", "tokens": tokens, "grad_seconds": grad_seconds},
            **{"optimizer_seconds": optimizer_seconds, "peak_memory_mib": peak},
        }

    def steps(loss_fn: Callable, until: float, **more) -> Iterator[dict]:
        """Medians of some steps, on more and more tokens as long as the time allows."""
        cold = step(loss_fn, T)  # too slow, but it may be the only one
        yield cold | more
        tokens, took, taken = T, 0.0, []
        while time.perf_counter() - started + took < until:
            taken.append(step(loss_fn, tokens))
            middle = {key: statistics.median(one[key] for one in taken) for key in SECONDS}
            yield taken[-1] | middle | more
            took = sum(middle.values())
            left = until - (time.perf_counter() - started)
            if tokens < micro_tokens and 4 * took < left:
                tokens, took, taken = min(2 * tokens, micro_tokens), 2 * took, []

    numbers = sum(weight.numel() for weight in weights.values())
    pack_seconds = PASSES * trellis_seconds(weights, timed, device)
    yield {"kind": "pack", "bytes": round(USUAL_BITS * numbers / 8), "seconds": pack_seconds}
    yield from steps(model.loss, 0.4 * seconds, compiled=False)
    yield measure_scoring(model, hp, device, 0.6 * seconds - (time.perf_counter() - started))
    if hp.compile:
        yield from steps(torch.compile(model.loss), seconds, compiled=True)


def trellis_seconds(weights: quantize.State, timed: Callable, device: torch.device) -> float:
    """Seconds of one pass of the quantiser, from one column of every group of its matrices."""
    paths, total = Counter(), 0.0
    for name in quantize.flat_hessians(weights):
        R, C = weights[name].shape
        steps = trellis.path_steps(R)
        paths[steps, C] += -(-R // steps)
    coder = trellis.ColumnQuantizer(quantize.STATES, device)
    for (steps, C), count in paths.items():
        x_PT = torch.randn(count, steps, device=device)
        column = [timed(lambda: coder.points(x_PT)) for _ in range(3)]  # noqa: B023
        total += C * min(column)
    return total


def measure_scoring(model, hp: Hyperparameters, device: torch.device, seconds: float) -> dict:
    """Seconds for one pass of a window over one input, by evaluate's own windows."""
    one_V = torch.ones(hp.vocab_size, dtype=torch.int64).numpy()
    table = evaluate.ByteTable(one_V, one_V == 0, one_V == 0)
    T, rows = hp.train_seq_len, 1
    took, inputs = 0.0, T
    while True:
        tokens_T = torch.randint(hp.vocab_size, (rows * T + 1,)).numpy()
        began = time.perf_counter()
        evaluate.score_windows(
            model, tokens_T, table, seq_len=T, stride=T, isolate=False, device=device,
            batch_tokens=min(rows * T, evaluate.BATCH_TOKENS),
        )  # fmt: skip
        took, inputs = time.perf_counter() - began, rows * T
        if rows * T >= evaluate.BATCH_TOKENS or 3 * took > seconds:
            return {"kind": "score", "seconds_per_input": took / inputs}
        seconds, rows = seconds - took, 2 * rows


def run_probe(hp: Hyperparameters, seconds: float) -> tuple[dict, str]:
    """What a process measured until its time was over, by kind; and why it ended, if badly."""
    path = ":".join([str(ROOT), *filter(None, [child_environment().get("PYTHONPATH")])])
    command = ["env", f"PYTHONPATH={path}", sys.executable, "-P", "-u", "-m", "tools.runs.doctor"]
    command += ["--measure", json.dumps(asdict(hp) | {"seconds": 0.8 * seconds})]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    timer = threading.Timer(seconds, process.kill)
    timer.start()
    found = {}
    for line in process.stdout:
        measure = json.loads(line)
        found[measure.pop("kind")] = measure
    errors, late = process.stderr.read().strip().splitlines(), not timer.is_alive()
    timer.cancel()
    process.stdout.close()
    process.stderr.close()
    bad = process.wait() and not late
    return found, (errors or [f"status {process.returncode}"])[-1] if bad else ""


# Forecast -----------------------------------------------------------------------------------------


def forecast_from_probe(
    hp: Hyperparameters, found: dict, nproc: int, train_tokens: float, val_tokens: int
) -> dict:
    """What the whole run will be, as far as the probe's measurements reach.

    A step is as many passes of a micro-batch as a rank has to do, and the optimizer. Nothing is
    known of the exchange between ranks. The time kept back is twice that of three candidates on
    held-out text, of calibration and of packing, as the trainer reserves it.
    """
    result, T, reserve_seconds = {}, hp.train_seq_len, 0.0
    holdout = min(train_gpt.HOLDOUT_TOKENS, 16 * hp.train_batch_tokens, train_tokens / 50)
    if pack := found.get("pack"):
        result["code_bytes"] = sum(map(len, train_gpt.read_sources().values()))
        room_bytes = quantize.CAP_BYTES - result["code_bytes"]
        result["model_bytes"] = min(pack["bytes"], room_bytes)
        result["total_bytes"] = result["model_bytes"] + result["code_bytes"]
        reserve_seconds += 2 * pack["seconds"]
    if score := found.get("score"):
        input_seconds = score["seconds_per_input"] / nproc
        passes = 1 + (T / hp.eval_stride if hp.eval_stride != T else 0)
        result["score_seconds"] = input_seconds * passes * val_tokens
        reserve_seconds += 2 * 3 * holdout * input_seconds
    if step := found.get("step"):
        calibration = min(train_gpt.CALIBRATION_TOKENS, holdout / 4)
        reserve_seconds += 2 * calibration * step["grad_seconds"] / step["tokens"]
        tokens = math.ceil(hp.train_batch_tokens // T / nproc) * T
        seconds = step["grad_seconds"] * tokens / step["tokens"] + step["optimizer_seconds"]
        result |= {"step_seconds": seconds, "compiled": step["compiled"]}
        result |= count_steps(hp, seconds, reserve_seconds)
    return result


def forecast_from_run(hp: Hyperparameters, run: Run, nproc: int) -> dict:
    """What a run of these settings will be, by the log of a run that differs in length alone.

    Its first ten steps are left out of the step time. More ranks are taken to share all work.
    Raises: ValueError where the log has too few timed steps, or another speed is to be expected.
    """
    points = [p for p in run.curve if p["train_time_ms"] and p["step"] >= 10]
    if len(points) < 2 or not run.train_time_ms:
        raise ValueError(
            f"{run.path}: needs two timed steps after the first ten, has {len(points)}"
        )
    ours = {name: getattr(hp, name) for name in SPEED_SETTINGS}
    other = [f"{n.upper()}={ours[n]}" for n in sorted(ours) if run.settings.get(n) != ours[n]]
    if other:
        raise ValueError(f"{', '.join(other)}: not so in {run.path}; run without --from-run")
    first, last, share = points[0], points[-1], (run.world_size or 1) / nproc
    steps, seconds = last["step"] - first["step"], last["train_time_ms"] - first["train_time_ms"]
    step_seconds = share * seconds / steps / 1000
    # A run ended by its cap stops where the time kept back begins; another shows half of it.
    by_cap = run.cap_ms and last["step"] < run.settings.get("iterations", math.inf)
    kept_ms = run.cap_ms if by_cap else 2 * run.train_time_ms - last["train_time_ms"]
    reserve_seconds = share * max(0.0, kept_ms - last["train_time_ms"]) / 1000
    head_seconds = share * first["train_time_ms"] / 1000 - first["step"] * step_seconds
    result = {"step_seconds": step_seconds, "compiled": hp.compile}
    if run.eval_time_ms:
        passes = [
            1 + (hp.train_seq_len / s if s != hp.train_seq_len else 0)
            for s in (hp.eval_stride, run.settings["eval_stride"])
        ]
        result["score_seconds"] = share * run.eval_time_ms / 1000 * passes[0] / passes[1]
    sizes = {"model_bytes": run.model_bytes, "code_bytes": run.code_bytes}
    sizes |= {"total_bytes": run.total_bytes} if run.total_bytes else {}
    return result | sizes | count_steps(hp, step_seconds, reserve_seconds, head_seconds)


def count_steps(
    hp: Hyperparameters, step_seconds: float, reserve_seconds: float, head_seconds: float = 0.0
) -> dict:
    """Steps, tokens and seconds of training; head_seconds are what the first steps take longer."""
    steps, cap = hp.iterations, hp.max_wallclock_seconds
    if cap:
        fitting = math.ceil((cap - reserve_seconds - head_seconds) / step_seconds)
        steps = max(0, min(steps, fitting))
    return {
        **{"steps": steps, "tokens": steps * hp.train_batch_tokens},
        "tokens_per_second": hp.train_batch_tokens / step_seconds,
        "train_seconds": steps * step_seconds + head_seconds + reserve_seconds / 2,
        "reserve_seconds": reserve_seconds,
    }


def check_forecast(hp: Hyperparameters, result: dict, nproc: int) -> Iterator[Check]:
    """The forecast as lines, with a warning where a rule or the point of the run is in danger."""
    if "step_seconds" in result:
        yield from check_steps(hp, result, nproc)
    if "score_seconds" in result:
        what = f"{result['score_seconds']:,.0f} s in blocks and by windows, stride {hp.eval_stride}"
        slow = result["score_seconds"] > PHASE_SECONDS
        remedy = "a longer EVAL_STRIDE, or more GPUs (--nproc)" if slow else ""
        yield Check("scoring time", "warn" if slow else "ok", what, remedy)
    if "total_bytes" in result:
        margin = quantize.CAP_BYTES - result["total_bytes"]
        what = f"{result['model_bytes']:,} and code {result['code_bytes']:,}: "
        side = "OVER" if margin < 0 else "under"
        what += f"{result['total_bytes']:,} bytes, {abs(margin):,} {side} the cap"
        if margin < 0:
            remedy = "a smaller model; else packing coarsens the steps until it fits"
            yield Check("size", "warn", what, remedy)
        else:
            coarser = "; the cap decides how fine packing is" if margin <= AT_CAP_BYTES else ""
            yield Check("size", "ok", what + coarser)


def check_steps(hp: Hyperparameters, result: dict, nproc: int) -> Iterator[Check]:
    """Time of a step and number of steps."""
    cap, steps, milliseconds = (
        hp.max_wallclock_seconds,
        result["steps"],
        1e3 * result["step_seconds"],
    )
    how = "compiled" if result["compiled"] else "not compiled"
    how += ", which the run will be: too slow" if hp.compile and not result["compiled"] else ""
    speed = f"{result['tokens_per_second']:,.0f} tokens/s"
    what = f"{milliseconds:,.1f} ms a step of {hp.train_batch_tokens:,} tokens, {speed}, {how}"
    yield Check("step time", "ok", f"{what}, {nproc} process{'es' * (nproc > 1)}")
    what = f"{steps:,} steps, {result['tokens']:,} tokens, in {result['train_seconds']:,.0f} s"
    what += f" of {cap:,.0f}, {result['reserve_seconds']:.1f} s kept back" if cap else ", no cap"
    if steps < 100:
        remedy = "a smaller model or batch (PRESET=smoke), more time, or a faster machine"
        yield Check("steps", "fail" if not steps else "warn", f"{what}: too few to learn", remedy)
    elif cap > PHASE_SECONDS:
        remedy = f"MAX_WALLCLOCK_SECONDS={PHASE_SECONDS} for a record in ten minutes"
        yield Check("steps", "warn", what, remedy)
    else:
        yield Check("steps", "ok", what)


# Command ------------------------------------------------------------------------------------------


def count_tokens(hp: Hyperparameters, split: str, unknown: float) -> float:
    """Tokens in the shards of a split, by their headers; `unknown` where there are none."""
    try:
        shards = evaluate.find_shards(hp.data_path, split)
        return sum(len(evaluate.read_shard(path, verify=False)) for path in shards)
    except (ValueError, OSError):
        return unknown


def examine(hp: Hyperparameters, given: dict, args: argparse.Namespace) -> tuple[list, dict]:
    """All checks of the machine, and the forecast where probing is wanted and succeeds."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    compiling, began = None if args.no_probe else start_compile(), time.monotonic()
    with torch.device("meta"):
        model = train_gpt.GPT(hp, torch.float32)
    parameters = sum(p.numel() for p in model.parameters())
    checks = [*check_software(), *check_device(), *check_machine(parameters)]
    checks += [check_attention(hp, device), *check_data(hp, given)]
    if not compiling:
        return checks, {}
    left = max(1.0, COMPILE_SECONDS - (time.monotonic() - began))
    checks.append(check_compile(compiling, hp.compile, left))
    found, error = run_probe(hp, PROBE_SECONDS)
    if error:
        remedy = "lower MICRO_BATCH_TOKENS if memory is short; train_gpt.py says more"
        checks.append(Check("probe", "fail", f"ended with {error[:200]}", remedy))
    missing = [kind for kind in ("pack", "step", "score") if kind not in found]
    if missing and not error:
        what = f"{parameters:,} parameters: {PROBE_SECONDS} s were not enough to measure"
        remedy = "PRESET=smoke here, or a GPU"
        checks.append(Check("probe", "warn", f"{what} {', '.join(missing)}", remedy))
    usual = verify.FINEWEB_TOKENS.get(hp.vocab_size, verify.FINEWEB_TOKENS[1024])
    tokens = count_tokens(hp, "train", math.inf), count_tokens(hp, "val", usual)
    result = forecast_from_probe(hp, found, args.nproc, *tokens)
    return checks + list(check_forecast(hp, result, args.nproc)), {"probe": found, **result}


def resolve(args: argparse.Namespace) -> tuple[Hyperparameters, dict, Run | None]:
    """Settings, what of them was given, and the run to forecast from.

    Raises: ValueError, OSError.
    """
    environ = {name: text for name, text in child_environment().items() if name != "RESUME"}
    paths = {"DATA_PATH": args.data, "TOKENIZER_PATH": args.tokenizer}
    environ |= {name: str(path) for name, path in paths.items() if path}
    hp, _, given = train_gpt.settings_from_env(environ, torch.cuda.is_available())
    if not 1 <= args.nproc <= 8:
        raise ValueError(f"--nproc {args.nproc} must be between 1 and 8")
    if not args.from_run:
        return hp, given, None
    run = read_runs(args.from_run)[0]
    names = {field.name for field in fields(Hyperparameters)}
    saved = {name: value for name, value in run.settings.items() if name in names}
    return Hyperparameters(**{**saved, **given}), given, run


def report(checks: list[Check]) -> str:
    """One line for each check and one for each remedy, then how many there are of each level."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.level:4}  {check.name:{width}}  {check.what}")
        lines += [f"{'':{width + 6}}  -> {check.remedy}"] if check.remedy else []
    counts = [f"{sum(c.level == level for c in checks)} {level}" for level in LEVELS]
    return "\n".join([*lines, f"doctor: {', '.join(counts)}"])


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.runs.doctor", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--data", type=Path, metavar="DIR", help="folder of shards, in place of DATA_PATH")
    add("--tokenizer", type=Path, metavar="FILE", help="in place of TOKENIZER_PATH")
    add("--nproc", type=int, default=1, help="GPUs, or processes, of the run that is forecast")
    add("--from-run", metavar="RUN", help="forecast from a log, run folder or run id")
    add("--no-probe", action="store_true", help="compile and time nothing: a few seconds")
    add("--json", action="store_true", help="print one JSON object")
    add("--measure", help=argparse.SUPPRESS)  # what run_probe starts
    args = parser.parse_args(argv)
    if args.measure:
        settings = json.loads(args.measure)
        seconds = settings.pop("seconds")
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        for measure in probe(Hyperparameters(**settings), device, seconds):
            print(json.dumps(measure), flush=True)
        return 0
    try:
        hp, given, run = resolve(args)
        if run:
            result = forecast_from_run(hp, run, args.nproc)
            checks = list(check_forecast(hp, result, args.nproc))
        else:
            checks, result = examine(hp, given, args)
    except (ValueError, OSError) as error:
        print(f"tools.runs.doctor: {error}", file=sys.stderr)
        return 2
    status = int(any(check.level == "fail" for check in checks))
    if args.json:
        shown = {"status": status, "checks": [asdict(c) for c in checks], "forecast": result}
        print(json.dumps(shown))
    else:
        print(report(checks))
    return status


if __name__ == "__main__":
    sys.exit(main())
