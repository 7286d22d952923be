"""Train, pack and score a recipe: what `torchrun train_gpt.py` runs, in the order of execution.

train() reads the settings and the data, opens the run's folder, and hands over to a Trainer. That
rehearses the end of the run on made-up numbers, steps until the clock or the iterations run out,
chooses between averages of the weights, packs, and checks what it packed. The score is then taken
from the bytes on disk, as a reader of them would.

Shapes: B rows, T tokens.
"""

import ast
import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import platform
import re
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

import evaluate
import quantize
from codec.curvature import Curvature
from codec.gptq import Matrices
from codec.search import EndedEarly
from engine import log_lines, shared
from engine.progress import expecting
from engine.ranks import Clock, Ranks, attention_kernel, prefer_attention_kernels
from engine.recipe import Budget, Recipe, State, load_model, packed_settings
from engine.run_folder import RunFolder
from engine.settings import ROOT, Choice, RunSettings, read_settings
from engine.text import HEAD_TOKENS, Batches, Rows, TrainingText

# Held-out tokens that show what errors of packing cost: at most these, and at most a quarter of
# them. On the smoke model 2,816 tokens did as well as 11,264: packing added 0.0011 nats with either
# (n = 1).
CALIBRATION_TOKENS = 32_768
REPEAT_TOKENS = 16_384  # enough for eight weights, in a pass that rehearsal times with the rest
CALIBRATION_BATCH_TOKENS = 16_384  # bounds memory: the pass keeps every input of every matrix
# Nats a token on held-out text that packing may cost beyond 4 times what is foreseen. Smoke models
# of 60 to 5,000 steps lost 0.0001 to 0.0025 (n = 5), the fault that this guards against 0.103.
UNSEEN_LOSS = 0.005
UNSEEN_FACTOR = 4
# After fewer steps a model has learned so little that its Hessians foresee nothing; a large loss of
# packing is then not a sign of a fault.
FEW_STEPS = 20
# Kept back from training: a little more than the rehearsal took. Packing depends on the weights,
# and on what else the machine does; where it needs longer, it ends coarser, but in time.
RESERVE_FACTOR = 1.2
RESERVE_SECONDS = 1.0
# Of the cap, at most. On a busy machine the end may take longer than that, but training is needed
# too. Packing then ends coarser, and where that is not enough, later than the cap.
MOST_RESERVE_SHARE = 0.5
# On a CPU compiling takes 60 to 100 s and makes the smoke model's step 1.4 to 2.3 times as fast, in
# fp32 and where bf16 is fast (n = 1), so it pays from about 3 minutes; from 10 it surely does.
COMPILE_FROM_SECONDS = 600.0
# Of a parameter on one thread of a CPU, for choosing, packing and checking: 9 to 24 (453,933 to
# 1,009,307 parameters, n = 19), 4 on two threads (n = 4). On a GPU it was never timed.
END_SECONDS = 15e-6
CPU_FLOPS = 40e9  # a second and thread, not compiled: 33e9 to 58e9 on small models (n = 2)
RATE_MEMORY = 0.95  # of the running mean of tokens a second, from step to step


def train(recipe: Recipe) -> None:
    """Train, pack and score what the environment describes. The only reader of the environment."""
    # Read before anything else: an edit while the run goes on must not change what is counted.
    sources = read_sources(recipe)
    with plain_errors():
        ranks = Ranks.start(os.environ)
        # Rank 0's environment, and its disk where a run is resumed, decide for every node.
        has_cuda = torch.cuda.is_available()
        choice = ranks.first(lambda: read_settings(recipe, os.environ, has_cuda))
        settings = choice.settings
        data_note = ranks.each(lambda: check_data(recipe, choice, ranks))
        text, val_T, table = ranks.each(lambda: read_text(recipe, settings))
        ranks.require_same("sources", *sources.values())
        heads = [shard[:HEAD_TOKENS] for shard in text.shards]
        ranks.require_same("training text", text.ends, text.holdout_T, *heads)
        ranks.require_same("validation text", val_T)
        unsettled = choice
        choice = ranks.first(lambda: settle(recipe, unsettled, ranks))  # nodes may have other CPUs
        settings = choice.settings
        run = RunFolder(recipe.name, choice, ranks, sources)

    go_on = f"; free space or mend that, then continue with RESUME={run.run_id}"
    with stopped_by(run.stop), plain_errors(OSError, remedy=go_on), told_of_lost_ranks():
        log_start(run, choice, sources, ranks)
        log_speed(run, recipe, settings, ranks)
        run.log(data_note)
        run.log(
            log_lines.DATA.write(
                train_shards=len(text.shards),
                train_tokens=text.num_blocks * text.seq_len,
                holdout_tokens=len(text.holdout_T),
                val_tokens=len(val_T),
            )
        )
        code_bytes = sum(len(source) for source in sources.values())
        if not ranks.first(run.artifact_path.exists):
            trainer = Trainer(recipe, settings, ranks, run, text, table)
            train_and_pack(trainer, val_T, code_bytes)
        score_artifact(recipe, settings, run, val_T, table, code_bytes)


def score_artifact(
    recipe: Recipe,
    settings: RunSettings,
    run: RunFolder,
    val_T: np.ndarray,
    table: evaluate.ByteTable,
    code_bytes: int,
) -> None:
    """Weigh and score what lies on disk. Raises: SystemExit where it is over a cap."""
    ranks = run.ranks
    model_bytes = run.share_artifact()
    total_bytes = model_bytes + code_bytes
    run.log(
        log_lines.ARTIFACT.write(
            model_bytes=model_bytes,
            code_bytes=code_bytes,
            total_bytes=total_bytes,
            cap_bytes=recipe.cap_bytes,
        )
    )
    # From the bytes, never from the weights in memory: the score is that of the artifact.
    remedy = f"; delete {run.artifact_path}, then continue with RESUME={run.run_id}"
    with plain_errors(remedy=remedy):
        weights, saved = quantize.decode(run.artifact_path.read_bytes())
    model = load_model(recipe, weights, saved, ranks.device, settings.compile)
    repeat_weights = tuple(saved.get("repeat_weights", ()))
    scheme = dataclasses.replace(final_scheme(settings), repeat_weights=repeat_weights)
    scored = evaluate.score_and_log(model, val_T, table, scheme, ranks, log=run.log)
    evaluate.log_final(scored, val_T, table, run.log)
    ranks.leave()
    if total_bytes > recipe.cap_bytes:
        sys.exit(f"error: {total_bytes} bytes are over the cap of {recipe.cap_bytes}")
    # Packing that ran out of time ends in int8 rows, whatever their size.
    if 0 < settings.max_artifact_bytes < model_bytes:
        sys.exit(
            f"error: {model_bytes} bytes are over MAX_ARTIFACT_BYTES={settings.max_artifact_bytes}"
        )


@prefer_attention_kernels()
def train_and_pack(trainer: "Trainer", val_T: np.ndarray, code_bytes: int) -> None:
    """All that the clock measures, from the first step to the artifact on disk; resumed or not."""
    run = trainer.run
    settings = trainer.settings
    parameters = sum(p.numel() for p in trainer.model.parameters())
    run.log(log_lines.PARAMETERS.write(model_params=parameters))
    if trainer.ranks.first(run.checkpoint_path.exists):
        with plain_errors():
            trainer.load(read_checkpoint(run.checkpoint_path, trainer.ranks))
            run.drop_metrics_after(trainer.step)
        train_ms = 1000 * trainer.clock.seconds()
        run.log(log_lines.RESUMED.write(step=trainer.step, train_ms=train_ms))

    def validate() -> None:
        score = trainer.score_blocks(val_T)
        metric = trainer.table.metric
        fields = dict(step=trainer.step, iterations=settings.iterations, val_loss=score.loss)
        run.log(log_lines.VALIDATION.write(**fields, metric=metric, bpb=score.bpb))
        run.metrics(step=trainer.step, val_loss=score.loss, **{metric: score.bpb})

    # A run that was killed between the choice of weights and the artifact trains no further.
    if trainer.exported is None:
        with plain_errors((ValueError, FloatingPointError)):
            with named_faults():
                trainer.rehearse()
            log_expected(trainer, val_T)
            trainer.train(validate)
    trainer.finish(code_bytes)

    seconds = trainer.clock.seconds()
    cap = settings.max_wallclock_seconds
    run.log(log_lines.TRAINED.write(steps=trainer.step, train_ms=1000 * seconds, cap_ms=1000 * cap))
    if 0 < cap < seconds:
        run.log(log_lines.OVERTIME.write(seconds=seconds, cap=cap))
    if trainer.ranks.device.type == "cuda":
        allocated = torch.cuda.max_memory_allocated() // 2**20
        reserved = torch.cuda.max_memory_reserved() // 2**20
        run.log(log_lines.MEMORY.write(allocated=allocated, reserved=reserved))


def final_scheme(settings: RunSettings) -> evaluate.Scheme:
    """How a run scores its artifact."""
    return evaluate.Scheme(settings.train_seq_len, settings.eval_stride, settings.eval_documents)


# Before training ----------------------------------------------------------------------------------


def read_sources(recipe: Recipe) -> dict[str, bytes]:
    """The files that count, by their place in the project, as they are when the run starts.

    They are the recipe's file, all that it imports of ours when it starts, and so on. A packed
    script imports nothing beside itself, and so is its only source.
    """
    module = sys.modules.get(recipe.name) or sys.modules["__main__"]
    # Resolved: a checkout may be reached through a link.
    waiting = [Path(module.__file__).resolve()]
    sources = {}
    while waiting:
        path = waiting.pop()
        name = os.path.relpath(path, ROOT)
        if name not in sources:
            sources[name] = path.read_bytes()
            waiting += imported_files(sources[name])
    return dict(sorted(sources.items()))


def imported_files(source: bytes) -> list[Path]:
    """The files of this project that a source imports when it starts, not inside a function.

    b"import numpy\\nfrom engine import text, ranks"  ->  [engine/text.py, engine/ranks.py]
    """
    modules = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.append(node.module)
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    paths = [ROOT / (module.replace(".", "/") + ".py") for module in modules]
    return [path for path in paths if path.is_file()]


@contextlib.contextmanager
def plain_errors(kinds=(ValueError, OSError, FloatingPointError), remedy: str = ""):
    """End with one line, not a traceback, where the user can mend what is wrong."""
    try:
        yield
    except kinds as error:
        sys.exit("error: " + " ".join(str(error).split()) + remedy)


@contextlib.contextmanager
def named_faults():
    """Raises: ValueError with the remedy where torch found no compiler, or no memory."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        remedy = "lower MICRO_BATCH_TOKENS or MODEL_DIM"
        if "compiler" in text:
            text, remedy = "no C++ compiler was found", "install g++, or set COMPILE=0"
        elif not re.search("memory|Storage size", text):
            raise
        raise ValueError(f"{text.splitlines()[0]}; {remedy}") from error


@contextlib.contextmanager
def told_of_lost_ranks():
    """Raises: ConnectionError where another rank ended without a word, as by kill -9."""
    try:
        yield
    except RuntimeError as error:
        if "by peer" not in str(error):  # reset, or closed
            raise
        raise ConnectionError("another rank has gone; its own output may say why") from error


@contextlib.contextmanager
def stopped_by(handler: Callable):
    """Within it SIGTERM, as of a scheduler, and Ctrl-C call handler(number, frame)."""
    before = {n: signal.signal(n, handler) for n in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)


def check_data(recipe: Recipe, choice: Choice, ranks: Ranks) -> str:
    """Make the smoke preset's text where it is used and absent; have any other checked.

    Once on every node, for each may have a disk of its own. Returns a line for the log.
    Raises: ValueError naming what is wrong, and the remedy.
    """
    settings = choice.settings
    if not (ROOT / "data" / "prepare.py").exists():
        return f"warning: {settings.data_path} is not verified: no data/prepare.py beside the code"
    if not ranks.is_first_of_node:
        return ""
    commands = []
    toy_path = recipe.presets.get("smoke", {}).get("data_path")
    if settings.data_path == toy_path and "data_path" not in choice.overrides:
        commands.append(["toy", "--out", os.path.abspath("data")])
    tokenizer = os.path.abspath(settings.tokenizer_path)
    verify = ["verify", os.path.abspath(settings.data_path), "--tokenizer", tokenizer, "--start"]
    commands.append([*verify, str(settings.vocab_size)])
    # In a process of its own: data/ is a tool, not a part of what is counted.
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", "data.prepare", *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ValueError(done.stderr.strip().removeprefix("data.prepare verify: "))
    return done.stdout.strip()


def read_text(
    recipe: Recipe, settings: RunSettings
) -> tuple[TrainingText, np.ndarray, evaluate.ByteTable]:
    """The text to train on, and the tokens to score with the bytes that they stand for."""
    table = recipe.byte_table(settings.tokenizer_path, settings.vocab_size)
    val_T, table = evaluate.read_validation(settings.data_path, table)
    return recipe.text(settings), val_T, table


def settle(recipe: Recipe, choice: Choice, ranks: Ranks) -> Choice:
    """The choice with what follows from the size of the model: the steps, and whether to compile.

    Raises: ValueError for a model that no artifact could hold or that could not be scored, and for
    a bound on FLOPs that leaves no step.
    """
    settings = choice.settings
    # On the meta device a tensor has a shape and no memory.
    try:
        with torch.device("meta"):
            model = recipe.model(recipe.model_settings(settings), torch.float32)
    except (RuntimeError, TypeError) as error:  # a size that no computer can count
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"no such model can be: {reason}; lower NUM_LAYERS or MODEL_DIM"
        ) from error
    parameters = sum(p.numel() for p in model.parameters())
    if parameters > quantize.MAX_NUMBERS:
        raise ValueError(
            f"the model would have {parameters:,} parameters, an artifact holds"
            f" {quantize.MAX_NUMBERS:,} at most; lower NUM_LAYERS or MODEL_DIM"
        )
    if settings.eval_stride == 0 and not getattr(model, "takes_memory", False):
        raise ValueError(
            f"EVAL_STRIDE=0 needs a model that takes a memory, {recipe.name}'s does not; set"
            " EVAL_STRIDE to 1 or more"
        )
    step_flops = model.flops_per_token(settings.train_seq_len) * settings.train_batch_tokens
    iterations = settings.iterations
    if settings.max_train_flops:
        iterations = min(iterations, int(settings.max_train_flops / step_flops))
    if not iterations:
        raise ValueError(
            f"MAX_TRAIN_FLOPS={settings.max_train_flops:g} must be at least {step_flops:g}, the"
            " FLOPs of one step; or lower TRAIN_BATCH_TOKENS"
        )
    # Compiling takes a minute or two of a CPU, before the clock starts. Who asks for it gets it.
    seconds = iterations * step_flops / (CPU_FLOPS * torch.get_num_threads() * ranks.world_size)
    seconds = min(seconds, settings.max_wallclock_seconds or math.inf)
    pays = ranks.device.type == "cuda" or seconds >= COMPILE_FROM_SECONDS
    is_asked = "compile" in choice.overrides or bool(settings.resume)
    compiled = settings.compile and (pays or is_asked)
    settings = dataclasses.replace(settings, iterations=iterations, compile=compiled)
    return dataclasses.replace(choice, settings=settings)


def log_speed(run: RunFolder, recipe: Recipe, settings: RunSettings, ranks: Ranks) -> None:
    """Say what was settled about the run's length and speed."""
    if settings.max_train_flops:
        fields = dict(iterations=settings.iterations, max_flops=settings.max_train_flops)
        run.log(log_lines.LENGTH.write(**fields))
    dtype = recipe.dtype(settings, ranks.device)
    name = str(dtype).removeprefix("torch.")
    if ranks.device.type == "cpu":
        run.log(log_lines.ON_CPU.write(compiled=settings.compile, dtype=name))
    else:
        kernel = attention_kernel(settings, ranks.device, dtype)
        run.log(log_lines.ATTENTION.write(kernel=kernel, dtype=name))


def log_start(run: RunFolder, choice: Choice, sources: dict[str, bytes], ranks: Ranks) -> None:
    """Say what runs: the settings for everyone, sources and machine for the log file."""
    run.log(log_lines.RUN.write(folder=run.path, preset=choice.preset, reason=choice.reason))
    overrides = " ".join(f"{name.upper()}={value}" for name, value in choice.overrides.items())
    run.log(log_lines.OVERRIDES.write(overrides=overrides or "none"))
    settings = json.dumps(dataclasses.asdict(choice.settings))
    run.log(log_lines.SETTINGS.write(settings=settings), console=False)
    for name, source in sources.items():
        digest = hashlib.sha256(source).hexdigest()
        run.log(log_lines.SOURCE.write(file=name, sha256=digest), console=False)
    for line in describe_machine(ranks):
        run.log(line, console=False)


def describe_machine(ranks: Ranks) -> list[str]:
    """Versions and hardware, for the log file."""
    versions = log_lines.VERSIONS.write(
        python=platform.python_version(), torch=torch.__version__, device=ranks.device
    )
    processes = log_lines.PROCESSES.write(
        world_size=ranks.world_size, cores=os.cpu_count(), threads=torch.get_num_threads()
    )
    lines = [versions, processes]
    if ranks.device.type == "cuda":
        name = torch.cuda.get_device_name(ranks.device)
        lines.append(log_lines.GPU.write(gpu=name, cuda=torch.version.cuda))
        # By a shell: a container without this program is no reason to stop.
        table = subprocess.run("nvidia-smi", shell=True, capture_output=True, text=True).stdout
        lines.append(table)
    return lines


# Dense bf16 peaks by what the device calls itself (vendor data sheets); the first match counts.
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "RTX 5090": 209e12,
    "RTX 4090": 165e12,
}


def peak_flops(settings: RunSettings, ranks: Ranks) -> float | None:
    """Peak of all ranks together: as set, else by the table; None where it is in neither."""
    name = torch.cuda.get_device_name(ranks.device) if ranks.device.type == "cuda" else "CPU"
    of_table = next((peak for key, peak in PEAK_FLOPS.items() if key in name), 0.0)
    return (settings.peak_flops or of_table) * ranks.world_size or None


def read_checkpoint(path: Path, ranks: Ranks) -> dict:
    """What Trainer.state returned, read by rank 0 for all, since other nodes may not have it.

    Raises: ValueError where the file is damaged.
    """
    blob = ranks.broadcast_bytes(path.read_bytes() if ranks.is_first else b"")
    try:
        return torch.load(io.BytesIO(blob), map_location="cpu", weights_only=True)
    except Exception as error:  # of ten kinds
        raise ValueError(f"{path} is damaged ({type(error).__name__}); start a new run") from error


def log_expected(trainer: "Trainer", val_T: np.ndarray) -> None:
    """Say how long the run will take, where a clock bounds it, and scoring after it."""
    settings = trainer.settings
    forward_tokens = evaluate.count_forward_tokens(val_T, final_scheme(settings), trainer.table)
    score_s = trainer.seconds_per_forward_token * forward_tokens / trainer.ranks.world_size
    training = "as-long-as-it-takes"
    if settings.max_wallclock_seconds:
        training = f"{settings.max_wallclock_seconds - trainer.clock.seconds():.0f}s"
    trainer.run.log(log_lines.EXPECTED.write(training=training, score_s=score_s))


# Training -----------------------------------------------------------------------------------------


class Trainer:
    """The state of one run, from made-up warm-up steps to weights ready for packing."""

    def __init__(
        self,
        recipe: Recipe,
        settings: RunSettings,
        ranks: Ranks,
        run: RunFolder,
        text: TrainingText,
        table: evaluate.ByteTable,
    ):
        self.recipe = recipe
        self.settings = settings
        self.ranks = ranks
        self.run = run
        self.text = text
        self.table = table
        self.batches = Batches(text, settings, ranks)
        self.model_settings = recipe.model_settings(settings)
        model = recipe.model(self.model_settings, recipe.dtype(settings, ranks.device))
        recipe.init_weights(model, settings)
        self.model = model.to(ranks.device)
        loss = recipe.training_loss(model, settings)
        self.loss_fn = torch.compile(loss) if settings.compile else loss
        self.logits_fn = torch.compile(model) if settings.compile else model
        self.optimizer = recipe.optimizer(model, settings, ranks)
        self.averages = recipe.averages(model, settings)
        self.clock = Clock(ranks)
        self.step = 0
        self.exported: str | None = None  # name of the candidate to pack, once chosen
        # Choosing, packing and writing, as expected and then as rehearsed; 0: nobody can tell.
        parameters = sum(p.numel() for p in model.parameters())
        self.end_seconds = END_SECONDS * parameters if ranks.device.type == "cpu" else 0.0
        self.reserve_seconds = 0.0  # kept back from the cap for choosing, packing and writing
        self.check_seconds = 0.0  # of scoring what was packed, as rehearsed
        self.seconds_per_forward_token = 0.0  # of one rank, as rehearsed
        self.stop_signals: list[int] = []

    # Checkpoints ------------------------------------------------------------------------------

    def state(self) -> dict:
        """Everything that `load` needs to go on as if nothing had happened."""
        return {
            "model": {name: p.detach() for name, p in self.model.named_parameters()},
            "averages": self.averages.state_dict(),
            "exported": self.exported,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "train_seconds": self.clock.seconds(),
            "settings": dataclasses.asdict(self.settings),
            "model_settings": packed_settings(self.recipe, self.settings),
        }

    def state_bytes(self) -> bytes:
        buffer = io.BytesIO()
        torch.save(self.state(), buffer)
        return buffer.getvalue()

    def save(self) -> None:
        if self.run.is_writer:
            quantize.write_atomic(self.run.checkpoint_path, self.state_bytes())

    @torch.no_grad()
    def load(self, state: dict) -> None:
        """Continue from what `state` returned, in this process or a killed one."""
        try:
            self.put(state["model"])
            self.averages.load_state_dict(state["averages"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.exported = state["exported"]
            self.step = state["step"]
            self.clock = Clock(self.ranks, state["train_seconds"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"the checkpoint is not of this recipe and these settings: {error}; start a new run"
            ) from error

    @torch.no_grad()
    def put(self, weights: State) -> None:
        """Overwrite the model's parameters."""
        for name, p in self.model.named_parameters():
            p.copy_(weights[name])

    # Steps ------------------------------------------------------------------------------------

    def train_step(self, micro_batches: list[Rows], progress: float) -> tuple[Tensor, Tensor]:
        """One optimizer step on the global batch: (mean loss in nats per token, gradient norm)."""
        # What a model draws, as for dropout, follows from these: a resumed rank draws it again.
        torch.manual_seed(hash((self.settings.seed, self.step, self.ranks.rank)))
        # Micro-batches bound the memory. Each is divided by the tokens of the whole batch, so that
        # their gradients add up to that of the mean, over ranks too.
        loss = torch.zeros((), device=self.ranks.device)
        for rows in micro_batches:
            nats = self.loss_fn(rows.tokens_BT, rows.weights_BT)
            part = nats / self.settings.train_batch_tokens
            part.backward()
            loss += part.detach()
        if self.ranks.world_size > 1:
            loss = self.add_up_gradients(loss)
        grad_norm = self.optimizer.step(self.step, progress)
        self.step += 1
        return loss, grad_norm

    def add_up_gradients(self, loss: Tensor) -> Tensor:
        """Give every rank the sum of all gradients; returns that of the losses."""
        # One message for all gradients: hundreds of small ones would take longer.
        grads = [p.grad for p in self.optimizer.params]
        flat = torch.cat([*(g.flatten() for g in grads), loss[None]])
        dist.all_reduce(flat)
        sums = flat[:-1].split([g.numel() for g in grads])
        for g, summed in zip(grads, sums, strict=True):
            g.copy_(summed.view_as(g))
        return flat[-1]

    def progress(self) -> float:
        """Share of the run that is over, in [0, 1]: of time where there is a cap, else of steps."""
        done = self.step / self.settings.iterations
        cap = self.settings.max_wallclock_seconds
        if cap:
            # Rank 0's clock decides for all, else one rank could stop a step before the others.
            seconds = self.ranks.broadcast_float(self.clock.seconds())
            done = max(done, seconds / (cap - self.reserve_seconds))
        return min(done, 1.0)

    def expecting_end(self, label: str):
        """Within it the terminal and the log are told how much of the run's end is over."""
        self.run.progress(label)
        seconds = self.end_seconds if self.run.is_writer else 0.0
        return expecting(label, seconds, self.run.log)

    def rehearse(self) -> None:
        """Compile, warm up, choose and pack once on made-up numbers, then restore every tensor.

        It runs before the clock starts and reads no text. A missing codec or a lack of memory shows
        now instead of after training, and the time that the end of the run takes is measured: that
        much is kept back from the cap.

        Raises: ValueError when the cap leaves no time for training; FloatingPointError when a
        warm-up step gives a loss that is not a number.
        """
        settings = self.settings
        rng = torch.Generator().manual_seed(0)
        before = self.state_bytes()
        if settings.compile:
            self.run.log(log_lines.COMPILING.write())
        started = time.perf_counter()
        for i in range(settings.warmup_steps):
            rows = self.batches.made_up(rng, settings.vocab_size)
            loss, _ = self.train_step(rows, progress=1.0)
            if not math.isfinite(loss.item()):
                raise FloatingPointError(
                    f"the loss of warm-up step {i + 1} is {loss.item()}; {self.optimizer.remedy}"
                )
            self.averages.update(self.step, 1.0)
            self.run.progress(f"warm-up {i + 1}/{settings.warmup_steps}")
        self.ranks.synchronize()
        warmup_seconds = time.perf_counter() - started
        with self.expecting_end("rehearsing the end of the run"):
            shape = self.text.holdout_T.shape
            made_up_T = torch.randint(settings.vocab_size, shape, generator=rng).numpy()
            made_up_T = made_up_T.astype(np.uint16)
            # The first may compile, the last is timed.
            for _ in range(2 if settings.compile else 1):
                started = time.perf_counter()
                self.choose(made_up_T)
            # Made-up weights, because at this point the real ones are hardly trained.
            candidates = len(self.averages.candidates())
            tokens = candidates * len(made_up_T) / self.ranks.world_size
            self.seconds_per_forward_token = (time.perf_counter() - started) / tokens
            noise = {
                name: torch.randn(p.shape, generator=rng)
                for name, p in self.model.named_parameters()
            }
            blob, _ = self.pack(noise, made_up_T, code_bytes=0, seconds_left=lambda: math.inf)
            check_started = time.perf_counter()
            self.packed_loss(blob, made_up_T)
            self.score_blocks(made_up_T)
            self.check_seconds = self.ranks.broadcast_float(time.perf_counter() - check_started)
            if self.run.is_writer:
                scratch = self.run.path / "rehearsal.tmp"
                quantize.write_atomic(scratch, self.state_bytes() + blob)
                scratch.unlink()
            seconds = self.ranks.broadcast_float(time.perf_counter() - started)
            self.end_seconds = seconds
        self.load(torch.load(io.BytesIO(before), map_location="cpu", weights_only=True))
        self.reserve_seconds = RESERVE_FACTOR * seconds + RESERVE_SECONDS
        cap = settings.max_wallclock_seconds
        if 0 < cap <= RESERVE_SECONDS:
            raise ValueError(
                f"MAX_WALLCLOCK_SECONDS={cap} must be over {RESERVE_SECONDS} (or 0: no cap),"
                " because choosing, packing and writing take time"
            )
        most_seconds = MOST_RESERVE_SHARE * cap
        if cap and self.reserve_seconds > most_seconds:
            self.run.log(
                log_lines.SHORT_RESERVE.write(
                    seconds=seconds,
                    cap=cap,
                    kept=most_seconds,
                    enough=self.reserve_seconds / most_seconds * cap,
                )
            )
            self.reserve_seconds = most_seconds
        self.run.log(
            log_lines.WARMUP.write(
                steps=settings.warmup_steps,
                warmup_ms=1000 * warmup_seconds,
                reserve_ms=1000 * self.reserve_seconds,
            )
        )

    def train(self, validate: Callable[[], None]) -> None:
        """Start the clock and step until it or iterations run out; it stops during `validate`.

        SIGTERM and Ctrl-C end the process after a step and a checkpoint.
        Raises: FloatingPointError when the loss is no longer a number.
        """
        with stopped_by(self.note_signal):
            self._train(validate)

    def note_signal(self, number: int, frame) -> None:
        self.stop_signals.append(number)

    def is_stopped(self) -> bool:
        """Whether any rank got a signal: it may reach one alone, or one a step later."""
        return self.ranks.any(bool(self.stop_signals))

    def stop(self) -> None:
        """End the process; the checkpoint was just written."""
        self.run.log(log_lines.STOPPED.write(step=self.step, run_id=self.run.run_id))
        number = self.stop_signals.pop() if self.stop_signals else signal.SIGTERM
        sys.exit(128 + number)

    def _train(self, validate: Callable[[], None]) -> None:
        settings = self.settings
        self.clock.run()
        last_saved = self.clock.seconds()
        speed = Speed(self, last_saved)
        progress = self.progress()
        previous_loss: Tensor | None = None
        while progress < 1.0:
            loss, grad_norm = self.train_step(self.batches.get(self.step), progress)
            # Waiting for the step before keeps the queue of a GPU one step long: the clock stays
            # right, and a run that diverged stops at once.
            if previous_loss is not None and not math.isfinite(previous_loss.item()):
                raise FloatingPointError(
                    f"train_loss is {previous_loss.item()} at step {self.step - 1};"
                    f" {self.optimizer.remedy}"
                )
            previous_loss = loss
            progress = self.progress()
            self.averages.update(self.step, progress)
            seconds = self.clock.seconds()
            speed.step(seconds)
            # The first steps are all logged: that is where a run goes wrong.
            every = settings.train_log_every
            if self.step <= 10 or self.step % every == 0 or progress >= 1.0:
                self.log_step(loss, grad_norm, progress, seconds, speed)
            else:
                self.run.progress(f"step {self.step}  {progress:.0%}  {seconds:.0f} s")
            every = settings.val_loss_every
            if every and self.step % every == 0 and progress < 1.0:
                self.clock.pause()
                validate()
                self.clock.run()
            is_stopped = self.is_stopped()
            if is_stopped or 0 < settings.checkpoint_seconds <= seconds - last_saved:
                last_saved = seconds
                self.save()
            if is_stopped:
                self.stop()

    def log_step(
        self, loss: Tensor, grad_norm: Tensor, progress: float, seconds: float, speed: "Speed"
    ) -> None:
        tokens_s = speed.tokens_per_second()
        self.run.log(
            log_lines.STEP.write(
                step=self.step,
                iterations=self.settings.iterations,
                train_loss=loss.item(),
                train_ms=1000 * seconds,
                step_ms=1000 * speed.seconds_per_step(),
                tokens_s=tokens_s,
                mfu=speed.mfu(),
            )
        )
        self.run.metrics(
            step=self.step,
            tokens=self.step * self.settings.train_batch_tokens,
            train_seconds=seconds,
            progress=progress,
            train_loss=loss.item(),
            grad_norm=grad_norm.item(),
            lr_scale=self.optimizer.scale,
            tok_s=tokens_s,
        )

    # The end of a run -------------------------------------------------------------------------

    def score_blocks(self, tokens_T: np.ndarray) -> evaluate.Score:
        """Score of the model as it is, in blocks of the training length."""
        length = self.settings.train_seq_len
        scheme = evaluate.Scheme(length, length, batch_tokens=self.settings.micro_batch_tokens)
        with as_scored(self.model):
            return evaluate.score_windows(self.logits_fn, tokens_T, self.table, scheme, self.ranks)

    @torch.no_grad()
    def choose(self, holdout_T: np.ndarray) -> dict[str, evaluate.Score]:
        """Set `exported` to the candidate with the lowest loss on held-out training text.

        Returns every candidate's score; the model keeps its raw weights.
        """
        candidates = self.averages.candidates()
        scores = {}
        for name, weights in candidates.items():
            self.put(weights)
            scores[name] = self.score_blocks(holdout_T)
        self.put(candidates["raw"])
        self.exported = min(scores, key=lambda name: scores[name].loss)
        return scores

    def hessians(self, weights: State, tokens_T: np.ndarray) -> State:
        """What errors of each matrix cost (codec.curvature), measured on the text's beginning."""
        self.put(weights)
        T = self.settings.train_seq_len
        count = max(T, min(CALIBRATION_TOKENS, len(tokens_T) // 4)) // T
        # Row b holds the tokens from b * T to (b + 1) * T: one more than its inputs.
        tokens_T = torch.from_numpy(tokens_T[: count * T + 1].astype(np.int64))
        rows_BT = tokens_T.unfold(0, T + 1, T)
        batch_tokens = min(CALIBRATION_BATCH_TOKENS, self.settings.micro_batch_tokens)
        curvature = Curvature(self.model.named_parameters())
        with as_scored(self.model), curvature:
            for part_BT in rows_BT.split(max(1, batch_tokens // T)):
                self.model.loss(part_BT.to(self.ranks.device)).backward()
        self.model.zero_grad(set_to_none=True)
        return curvature.hessians(count * T)

    def repeat_weights(self, weights: State, tokens_T: np.ndarray) -> list[float]:
        """How much a document's repeats count beside this model, on the text's beginning."""
        self.put(weights)
        length = self.settings.train_seq_len
        scheme = evaluate.Scheme(
            length, length, isolate=True, batch_tokens=self.settings.micro_batch_tokens
        )
        tokens_T = tokens_T[: REPEAT_TOKENS + 1]
        with as_scored(self.model):
            fitted = evaluate.fit_repeats(self.model, tokens_T, self.table, scheme, self.ranks)
        return [round(weight, 4) for weight in fitted]

    def most_bytes(self, code_bytes: int) -> float:
        """Of the artifact: its own bound, and what the cap leaves beside the code."""
        own = self.settings.max_artifact_bytes or math.inf
        return min(own, self.recipe.cap_bytes - code_bytes)

    def seconds_left(self) -> float:
        """Until the cap, less what checking the artifact takes; without a cap there is no end."""
        cap = self.settings.max_wallclock_seconds
        if not cap:
            return math.inf
        return cap - self.clock.seconds() - self.check_seconds

    def pack(
        self,
        weights: State,
        holdout_T: np.ndarray,
        code_bytes: int,
        seconds_left: Callable[[], float],
    ) -> tuple[bytes, float]:
        """The artifact, on every rank, and the nats a token that its rounding should cost.

        Where time runs out the codec ends its search with what it has. Where there was none to
        begin with, int8 rows are written, which take a second: no run ends without its artifact.
        """
        blob = b""
        foreseen = math.inf
        if self.run.is_writer:
            settings = packed_settings(self.recipe, self.settings)
            prepare = Matrices
            if self.ranks.world_size > 1:
                prepare = functools.partial(shared.Shared, ranks=self.ranks)
            budget = Budget(self.most_bytes(code_bytes), seconds_left, prepare)
            hessians = functools.cache(lambda: self.hessians(weights, holdout_T))
            if self.recipe.mixes_repeats:
                settings["repeat_weights"] = self.repeat_weights(weights, holdout_T)
            try:
                with warnings.catch_warnings(record=True) as told:
                    warnings.simplefilter("always", EndedEarly)
                    blob = self.recipe.pack(weights, settings, budget, hessians)
                foreseen = quantize.foreseen_nats(blob, hessians)
                ended_early = any(warning.category is EndedEarly for warning in told)
            except TimeoutError:
                ended_early = True
                blob = quantize.encode(weights, quantize.int8_plan(weights), settings)
            finally:
                self.ranks.broadcast(None)  # the others' help ends
            if ended_early or seconds_left() < 0:
                self.run.log(log_lines.OUT_OF_TIME.write(bytes=len(blob)))
        else:
            shared.help(self.ranks)
        return self.ranks.broadcast((blob, foreseen))

    def packed_loss(self, blob: bytes, tokens_T: np.ndarray) -> float:
        """Nats a target of the model that the artifact holds."""
        weights, _ = quantize.decode(blob)
        self.put(weights)
        return self.score_blocks(tokens_T).loss

    def pack_and_check(self, weights: State, code_bytes: int) -> bytes:
        """The artifact, on every rank, after what it decodes to was scored on held-out text.

        A loss out of proportion to what the codec foresees is a fault that no byte shows (a weight
        beyond the largest point once cost 0.06 bpb, the more bytes the worse). Then int8 rows are
        tried as well, where they fit, and the artifact that scores better is kept.
        """
        holdout_T = self.text.holdout_T
        blob, foreseen = self.pack(weights, holdout_T, code_bytes, self.seconds_left)
        self.put(weights)
        unpacked = self.score_blocks(holdout_T).loss
        packed = self.packed_loss(blob, holdout_T)
        lost = packed - unpacked
        fields = dict(unpacked=unpacked, packed=packed, lost=lost, foreseen=foreseen)
        self.run.log(log_lines.PACKED.write(bytes=len(blob), **fields))
        if lost > UNSEEN_LOSS + UNSEEN_FACTOR * foreseen:
            plan = quantize.int8_plan(weights)
            rows_blob = quantize.encode(weights, plan, packed_settings(self.recipe, self.settings))
            rows_lost = math.inf
            if len(rows_blob) <= self.most_bytes(code_bytes):
                rows_lost = self.packed_loss(rows_blob, holdout_T) - unpacked
            kept = "rows" if rows_lost < lost else "first"
            is_trained = self.step >= FEW_STEPS
            self.run.log(
                log_lines.REPACKED.write(
                    level="warning" if is_trained else "note",
                    reason="" if is_trained else f", as is usual after {self.step} steps",
                    lost=lost,
                    foreseen=foreseen,
                    rows_bytes=len(rows_blob),
                    rows_lost=rows_lost,
                    kept=kept,
                )
            )
            if kept == "rows":
                blob = rows_blob
        self.put(weights)
        return blob

    def decide(self) -> None:
        """Choose the weights to pack, and save which; a signal waits until that is done."""
        with stopped_by(self.note_signal):
            scores = self.choose(self.text.holdout_T)
            losses = " ".join(f"{name}_loss:{score.loss:.4f}" for name, score in scores.items())
            self.run.log(
                log_lines.AVERAGE.write(
                    losses=losses,
                    exported=self.exported,
                    gain=scores["raw"].loss - scores[self.exported].loss,
                    holdout_tokens=len(self.text.holdout_T),
                )
            )
            self.save()
        if self.is_stopped():
            self.stop()

    def finish(self, code_bytes: int) -> None:
        """Choose the weights, save them, and write the artifact: the last part of the timed run."""
        self.clock.run()
        with self.expecting_end("packing"):
            # A resumed run may come here with its choice made and saved.
            if self.exported is None:
                self.decide()
            weights = self.averages.candidates()[self.exported]
            blob = self.pack_and_check(weights, code_bytes)
            if self.run.is_writer:
                quantize.write_atomic(self.run.artifact_path, blob)
        self.clock.pause()


@contextlib.contextmanager
def as_scored(model: torch.nn.Module):
    """Within it the model is in eval mode: what only training does, as dropout, is off."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class Speed:
    """Tokens a second and the share of the devices' peak, as the log states them."""

    def __init__(self, trainer: Trainer, seconds: float):
        settings = trainer.settings
        self.batch_tokens = settings.train_batch_tokens
        self.started = self.before = self.seconds = seconds
        self.steps = 0
        self.rate = 0.0  # tokens a second of the last step
        self.mean = 0.0  # running, begun with 0
        self.peak = peak_flops(settings, trainer.ranks)
        self.flops_per_token = trainer.model.flops_per_token(settings.train_seq_len)
        peak = self.peak or "unknown"
        trainer.run.log(log_lines.PEAK.write(flops_per_token=self.flops_per_token, peak_flops=peak))

    def step(self, seconds: float) -> None:
        """Take in one more step, at so many training seconds."""
        self.steps += 1
        self.rate = self.batch_tokens / (seconds - self.before)
        self.before = self.seconds = seconds
        if self.steps > 1:  # on a GPU the first step was only queued by now
            self.mean = RATE_MEMORY * self.mean + (1 - RATE_MEMORY) * self.rate

    def seconds_per_step(self) -> float:
        return (self.seconds - self.started) / self.steps

    def tokens_per_second(self) -> float:
        """The running mean, corrected for the 0 that it began with."""
        if self.steps < 2:
            return self.rate
        return self.mean / (1 - RATE_MEMORY ** (self.steps - 1))

    def mfu(self) -> str:
        """Share of the peak, or "unknown"."""
        if not self.peak:
            return "unknown"
        return f"{self.tokens_per_second() * self.flops_per_token / self.peak:.3f}"
