"""Train a reference model through the trainer of train_gpt.py, by the recipe of its own.

    python -m baselines.train gpt2_124m
    SEED=1 DATA_PATH=... torchrun --standalone --nproc_per_node=8 -m baselines.train gelu_d12
    NUM_LAYERS=4 MODEL_DIM=128 NUM_HEADS=4 PEAK_LR=0.003 python -m baselines.train preln_53m
    TEACHER=logs/<run_id>/checkpoint.pt python -m baselines.train preln_53m   # or golf
    START_FROM=logs/<run_id>/checkpoint.pt TEACHER=continuations.jsonl \
        python -m baselines.train preln_53m_distilled
    python -m baselines.train report logs/<run_id> --peak-flops 989e12
    python evaluate.py logs/<run_id>/artifact.pgz      # the score again, in a fresh process

Settings are environment variables, as for train_gpt.py: those of a run (`Hyperparameters` there)
and those that `Recipe` adds; one that only the golf recipe reads is refused. The run's folder, log,
checkpoints, RESUME and the score from packed bytes are train_gpt.py's. There is no cap on bytes,
but for `golf`: train_gpt.py's own model, recipe and packing, with a teacher's loss.
TOKENIZER_PATH is a SentencePiece model, or a folder with GPT-2's vocab.json and merges.txt.

`report` reads a run's metrics.jsonl: smoothed loss, tokens per second, and utilisation against a
peak that is given, never guessed; of several runs of one system also mean and spread.
Exit status 0; 2 where there is nothing to train or read.
"""

import argparse
import dataclasses
import json
import math
import statistics
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor, nn

import baselines
import data
import quantize
import train_gpt
from baselines import d12, distill, gpt2, preln, written_teachers
from data import gpt2_tokenizer

# Every system, by the name its settings carry, and the file that holds its model.
FILES = {name: module for module in (d12, gpt2, preln) for name in module.CONFIGS}

CODE = "baselines.train"  # what evaluate.py imports to load an artifact of these runs
# All that this module imports of ours but train_gpt.py and its four, kept with every run.
SOURCES = tuple(
    module.__file__
    for module in (baselines, data, gpt2_tokenizer, written_teachers, d12, distill, gpt2, preln)
)
SOURCES += (__file__,)
byte_table = gpt2_tokenizer.byte_table

GOLF = "golf"  # the model of train_gpt.py by its own recipe, for what a teacher adds

# Recipes that train a system further, by the name of that system.
STAGES = {"preln_53m_distilled": "preln_53m"}

# Fields of train_gpt.Hyperparameters that no baseline reads; num_kv_heads only d12 does.
GOLF_ONLY = (
    "lr_warmup_frac", "warmdown_frac", "min_lr", "mlp_mult", "rope_base", "logit_softcap",
    "qk_gain_init", "bigram_vocab_size", "bigram_dim", "tied_embed_init_std", "tied_embed_lr",
    "matrix_lr", "scalar_lr", "muon_momentum", "muon_momentum_warmup_start",
    "muon_momentum_warmup_steps", "muon_wd", "ema_frac",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Student(train_gpt.Hyperparameters):
    """A run's settings and those of its teacher, if any.

    Raises: ValueError naming the variable.
    """

    teacher: str = ""  # checkpoint to learn the logits of, or .jsonl of written text
    distill_alpha: float = 0.5  # weight of the text itself beside what the teacher makes of it
    distill_temperature: float = 2.0
    loss_smoothing: float = 0.95  # of the report: the weight of what came before

    def __post_init__(self):
        super().__post_init__()
        if not (self.distill_alpha <= 1 and self.distill_temperature > 0):
            raise ValueError(
                f"DISTILL_ALPHA={self.distill_alpha} must be between 0 and 1, and"
                f" DISTILL_TEMPERATURE={self.distill_temperature} over 0"
            )
        if not self.loss_smoothing < 1:
            raise ValueError(f"LOSS_SMOOTHING={self.loss_smoothing} must be below 1")


@dataclasses.dataclass(frozen=True)
class Recipe(Student):
    """A run's settings and those of one AdamW for all weights, under warm-up and cosine.

    Raises: ValueError naming the variable, also for one that only the golf recipe reads.
    """

    max_wallclock_seconds: float = 0.0
    rope_dims: int = 2  # the least there is; not read
    num_kv_heads: int = 1  # d12 alone reads it
    peak_lr: float = 3e-4
    end_lr: float = 0.0  # of the cosine, and after it
    lr_warmup_steps: int = 700
    lr_first_step: int = 1  # the first step's place in the warm-up: 0 begins at a rate of 0
    lr_decay_steps: int = 20_000  # where the cosine ends, counted from the start of the run
    adam_beta1: float = 0.9
    adam_beta2: float = 0.95
    adam_eps: float = 1e-8
    bias_correction: bool = True  # of Adam's moments; MLX's AdamW, of preln_53m, has none
    weight_decay: float = 0.1  # of tensors with two dimensions and more
    random_windows: bool = False  # of the shards, with repeats, instead of blocks in epochs
    dropout: float = 0.0  # while training; preln alone has it
    precision: str = "bf16"  # of products on CUDA: bf16 or fp32; weights and AdamW are fp32
    val_protocol: str = ""  # the system's own validation, which `baselines.evaluations` names
    start_from: str = ""  # checkpoint whose weights training begins with; empty: initial ones

    def __post_init__(self):
        super().__post_init__()
        for field in dataclasses.fields(Recipe):
            if field.name in GOLF_ONLY and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{field.name.upper()}={getattr(self, field.name)} is of the golf recipe and"
                    " not read here; unset it"
                )
        if self.precision not in ("bf16", "fp32"):
            raise ValueError(f"PRECISION={self.precision!r} must be bf16 or fp32")
        for name in ("dropout", "adam_beta1", "adam_beta2"):
            if not getattr(self, name) < 1:
                raise ValueError(f"{name.upper()}={getattr(self, name)} must be below 1")
        if not self.peak_lr > 0:
            raise ValueError(f"PEAK_LR={self.peak_lr} must be over 0")


# What each system's recipe sets. The unpublished values of the first three (betas, decay, warm-up,
# end, clip) are choices, as are betas, decay and precision (what MLX computes in) of the last.
D12 = dict(
    vocab_size=32_768, num_layers=12, model_dim=768, num_heads=12, num_kv_heads=12,
    train_seq_len=1024, train_batch_tokens=262_144, micro_batch_tokens=32_768, iterations=19_920,
    peak_lr=0.01, end_lr=0.0005, lr_warmup_steps=200, lr_first_step=0, lr_decay_steps=19_920,
    weight_decay=0.01, train_log_every=1, val_protocol="wikitext103",
)  # fmt: skip
GPT2 = dict(
    vocab_size=50_257, num_layers=12, model_dim=768, num_heads=12, train_seq_len=1024,
    train_batch_tokens=524_288, micro_batch_tokens=65_536, iterations=20_000, peak_lr=6e-4,
    val_loss_every=250, seed=42, train_log_every=1, val_protocol="gpt2_val",
)  # fmt: skip
PRELN = dict(
    vocab_size=50_257, num_layers=8, model_dim=384, num_heads=8, train_seq_len=512,
    train_batch_tokens=6_144, micro_batch_tokens=6_144, iterations=20_000, peak_lr=3e-4,
    end_lr=3e-5, lr_warmup_steps=2000, lr_first_step=0, lr_decay_steps=30_000, grad_clip_norm=0.0,
    random_windows=True, dropout=0.1, precision="fp32", val_protocol="preln_val",
)  # fmt: skip
RECIPES = {
    "gelu_d12": D12,
    "yat_d12": {**D12, "peak_lr": 0.03, "end_lr": 0.0015},
    "yat_neuron_d12": {
        **D12, "peak_lr": 0.03, "end_lr": 0.0015, "iterations": 19_922, "lr_decay_steps": 19_922
    },
    "gpt2_124m": GPT2,
    "preln_53m": PRELN,
    "preln_53m_untied": PRELN,
    "preln_53m_distilled": {
        **PRELN, "iterations": 15_000, "peak_lr": 3e-5, "lr_warmup_steps": 0, "grad_clip_norm": 1.0
    },
}  # fmt: skip

SYSTEMS = (GOLF, *RECIPES)


# Models -------------------------------------------------------------------------------------------


def config_of(system: str, hp: Recipe):
    """The system's shape with the sizes that the settings give.

    Raises: ValueError for dropout, or heads that share keys, where the model has none.
    """
    sizes = dict(
        vocab_size=hp.vocab_size, seq_len=hp.train_seq_len, num_layers=hp.num_layers,
        model_dim=hp.model_dim, num_heads=hp.num_heads,
    )  # fmt: skip
    if FILES[system] is d12:
        sizes["num_kv_heads"] = hp.num_kv_heads
    elif hp.num_kv_heads != Recipe.num_kv_heads:
        raise ValueError(f"NUM_KV_HEADS={hp.num_kv_heads} is not read by {system}; unset it")
    if FILES[system] is preln:
        sizes["dropout"] = hp.dropout
    elif hp.dropout:
        raise ValueError(f"DROPOUT={hp.dropout} must be 0: {system} has none; unset it")
    return dataclasses.replace(FILES[system].CONFIGS[system], **sizes)


def model_settings(system: str, config) -> dict:
    """What `build` needs to make the model again: the system's name and its shape."""
    return {"system": system, **dataclasses.asdict(config)}


def build(settings: dict, compute_dtype=torch.float32, device="cpu") -> nn.Module:
    """The model that settings describe, its weights not yet set; the golf model's name no system.

    Raises: ValueError for settings that are not those of a baseline, nor of the golf model.
    """
    if "system" not in settings:
        with torch.device(device):
            return train_gpt.build(settings, compute_dtype)
    shape = dict(settings)
    system = shape.pop("system", None)
    if system not in FILES:
        raise ValueError(f"system={system!r} must be one of {', '.join(FILES)}")
    module = FILES[system]
    known = {field.name for field in dataclasses.fields(module.Config)}
    if set(shape) != known:
        raise ValueError(f"settings {sorted(set(shape) ^ known)} do not match those of {system}")
    with torch.device(device):
        return module.GPT(module.Config(**shape), compute_dtype)


def load_artifact(path: str | Path, device, compile: bool = True) -> tuple[nn.Module, dict]:
    """The model that an artifact holds, ready to score, and its settings, as in train_gpt.py.

    Raises: quantize.ArtifactError for damaged files; ValueError for settings of no model here.
    """
    weights, settings = quantize.decode(Path(path).read_bytes())
    model = load(settings, weights, device)
    if compile and torch.device(device).type == "cuda":
        model.compile(dynamic=True)
    return model, {"train_seq_len": settings.get("seq_len"), **settings}


def load(settings: dict, weights: dict[str, Tensor], device="cpu") -> nn.Module:
    """The model with its weights, in eval mode."""
    model = build(settings, train_gpt.compute_dtype(torch.device(device)))
    model.load_state_dict(weights)
    return model.to(device).eval()


def is_golf(settings: dict) -> bool:
    return set(settings) == set(train_gpt.MODEL_SETTINGS)


# Training -----------------------------------------------------------------------------------------


def lr_at(step: int, hp: Recipe) -> float:
    """The rate of a step, counted from 0: up in a line, down in half a cosine, then constant."""
    if step < hp.lr_warmup_steps:
        return hp.peak_lr * (step + hp.lr_first_step) / hp.lr_warmup_steps
    done = (step - hp.lr_warmup_steps) / max(1, hp.lr_decay_steps - hp.lr_warmup_steps)
    return hp.end_lr + (hp.peak_lr - hp.end_lr) * (1 + math.cos(math.pi * min(1.0, done))) / 2


class Optimizers:
    """One AdamW for all weights; decay on tensors with two dimensions and more."""

    def __init__(self, model: nn.Module, hp: Recipe, rt: train_gpt.Runtime):
        self.hp, self.params, self.scale = hp, list(model.parameters()), 0.0
        self.remedy = f"lower PEAK_LR={hp.peak_lr} or set GRAD_CLIP_NORM"
        matrices = [p for p in self.params if p.ndim >= 2]
        others = [p for p in self.params if p.ndim < 2]
        groups = [
            dict(params=matrices, weight_decay=hp.weight_decay),
            dict(params=others, weight_decay=0.0),
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=0.0, eps=hp.adam_eps,
            betas=(hp.adam_beta1, hp.adam_beta2), fused=rt.device.type == "cuda",
        )  # fmt: skip
        self.given = [{k: g[k] for k in ("eps", "weight_decay")} for g in self.adamw.param_groups]

    def step(self, step: int, progress: float) -> Tensor:
        """Clip, update, clear the gradients; returns their norm before clipping."""
        limit = self.hp.grad_clip_norm or math.inf
        norm = nn.utils.clip_grad_norm_(self.params, limit, foreach=True)
        lr = lr_at(step, self.hp)
        self.scale = lr / self.hp.peak_lr
        for group, given in zip(self.adamw.param_groups, self.given, strict=True):
            group.update(lr=lr, **given)
            if not self.hp.bias_correction:  # torch always corrects: undone by what it is given
                root = math.sqrt(1 - self.hp.adam_beta2 ** (step + 1))
                undone = (1 - self.hp.adam_beta1 ** (step + 1)) / root
                group["lr"], group["eps"] = lr * undone, given["eps"] / root
                group["weight_decay"] = given["weight_decay"] / undone
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return norm

    def state_dict(self) -> dict:
        return self.adamw.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.adamw.load_state_dict(state)


class NoAverages:
    """The weights as trained are the only candidate."""

    def __init__(self, model: nn.Module, hp: Recipe):
        self.live = dict(model.named_parameters())
        self.ema, self.swa, self.swa_count = {}, {}, 0

    def update(self, step: int, progress: float) -> None:
        pass

    def candidates(self) -> dict[str, dict[str, Tensor]]:
        return {"raw": {name: p.detach().clone() for name, p in self.live.items()}}


def read_checkpoint(variable: str, path: str) -> tuple[dict[str, Tensor], dict]:
    """Weights and settings of a baseline's or the golf model's checkpoint.

    Raises: ValueError naming the variable, for a file that holds anything else; OSError.
    """
    weights, settings = quantize.load_checkpoint(path)
    if settings.get("system") not in FILES and not is_golf(settings):
        raise ValueError(f"{variable}={path} must be the checkpoint.pt of a run of a model here")
    return weights, settings


class Windows(train_gpt.TrainingText):
    """Rows at places drawn anew each time, all equally likely, from the same text as blocks are."""

    def __init__(self, hp: Recipe):
        super().__init__(hp)
        sizes = [len(shard) for shard in self.shards]
        sizes[-1] -= len(self.holdout_T) - 1
        self.start_ends = np.cumsum([max(0, size - self.seq_len) for size in sizes])

    def rows(self, position: int, count: int) -> Tensor:
        """tokens_BT of the count rows from a position in the run; T is seq_len + 1.

        A row's position seeds its place, so ranks and resumed runs draw the same.
        """
        rows = []
        for i in range(position, position + count):
            at = int(np.random.default_rng((self.seed, i)).integers(self.start_ends[-1]))
            shard = int(np.searchsorted(self.start_ends, at, side="right"))
            start = at - (int(self.start_ends[shard - 1]) if shard else 0)
            rows.append(self.shards[shard][start : start + self.seq_len + 1])
        return torch.from_numpy(np.stack(rows).astype(np.int64))


def learns_from_text(hp: Recipe) -> bool:
    return hp.teacher.endswith(".jsonl")


def text_for(hp: Student, shards=train_gpt.TrainingText) -> train_gpt.TrainingText:
    """What a student trains on: the shards, or what its teacher wrote.

    Raises: ValueError for a teacher that does not fit, naming the requirement and the remedy;
    OSError.
    """
    if learns_from_text(hp):
        return written_teachers.Continuations(hp)
    if hp.teacher:
        _, settings = read_checkpoint("TEACHER", hp.teacher)
        if settings["vocab_size"] != hp.vocab_size:
            raise ValueError(
                f"TEACHER={hp.teacher} has {settings['vocab_size']} tokens, VOCAB_SIZE is"
                f" {hp.vocab_size}; teacher and student must have one vocabulary"
            )
        context = settings["train_seq_len" if is_golf(settings) else "seq_len"]
        if context < hp.train_seq_len:
            raise ValueError(
                f"TEACHER={hp.teacher} reads {context} tokens, TRAIN_SEQ_LEN is"
                f" {hp.train_seq_len}; lower it to that"
            )
    return shards(hp)


def taught(model: nn.Module, hp: Student) -> nn.Module:
    """The model, its loss replaced by that of its teacher where it has one."""
    how = hp.distill_alpha, hp.distill_temperature
    if learns_from_text(hp):
        model.loss = distill.loss_on_continuations(model, *how, hp.train_batch_tokens)
    elif hp.teacher:
        weights, settings = read_checkpoint("TEACHER", hp.teacher)
        teacher = load(settings, weights, "cuda" if torch.cuda.is_available() else "cpu")
        model.loss = distill.loss_with_teacher(model, teacher, *how)
    return model


def golf_student() -> SimpleNamespace:
    """All of train_gpt.py, but a teacher's loss."""
    students = []

    def make(hp: Student, compute_dtype: torch.dtype) -> nn.Module:
        students.append(taught(train_gpt.GPT(hp, compute_dtype), hp))
        return students[-1]

    def pack(weights: dict[str, Tensor], hp: Student, code_bytes: int, hessians) -> bytes:
        for model in students:  # errors are weighed by what they do to the score, not to learning
            vars(model).pop("loss", None)
        return train_gpt.pack(weights, hp, code_bytes, hessians)

    changed = dict(
        Hyperparameters=Student,
        TrainingText=text_for,
        GPT=make,
        pack=pack,
        SOURCES=SOURCES,
        CODE=CODE,
    )
    return SimpleNamespace(**{**vars(train_gpt), **changed})


def system_of(name: str) -> SimpleNamespace:
    """What train_gpt.main takes: the names it would else find in train_gpt.py."""
    if name == GOLF:
        return golf_student()
    system = STAGES.get(name, name)

    def settings_of(hp: Recipe) -> dict:
        return model_settings(system, config_of(system, hp))

    def training_text(hp: Recipe) -> train_gpt.TrainingText:
        """What a run trains on; also refuses teachers and beginnings that do not fit the model.

        Raises: ValueError naming the variable, the requirement and the remedy; OSError.
        """
        if name in STAGES and not (hp.start_from and hp.teacher):
            raise ValueError(
                f"{name} needs START_FROM=<checkpoint.pt of {system}> and TEACHER=<checkpoint.pt of"
                " a baseline, or .jsonl>"
            )
        if hp.start_from:
            _, settings = read_checkpoint("START_FROM", hp.start_from)
            if settings != settings_of(hp):
                raise ValueError(
                    f"START_FROM={hp.start_from} holds {settings}, not what is to be trained,"
                    f" {settings_of(hp)}; set the sizes that it has"
                )
        return text_for(hp, Windows if hp.random_windows else train_gpt.TrainingText)

    def make(hp: Recipe, compute_dtype: torch.dtype) -> nn.Module:
        dtype = torch.float32 if hp.precision == "fp32" else compute_dtype
        model = taught(build(settings_of(hp), dtype), hp)
        if hp.start_from:
            weights, _ = read_checkpoint("START_FROM", hp.start_from)
            model.load_state_dict(weights)
            model.init_weights = lambda seed: model
        return model

    def pack(weights: dict[str, Tensor], hp: Recipe, code_bytes: int, hessians) -> bytes:
        state = {key: w.float().cpu() for key, w in weights.items()}
        return quantize.encode(state, quantize.int8_plan(state), settings_of(hp))

    return SimpleNamespace(
        Hyperparameters=Recipe,
        PRESETS={name: RECIPES[name]},
        TrainingText=training_text,
        GPT=make,
        Optimizers=Optimizers,
        Averages=NoAverages,
        model_settings=settings_of,
        pack=pack,
        load_artifact=load_artifact,
        CAP_BYTES=math.inf,
        SOURCES=SOURCES,
        CODE=CODE,
        byte_table=byte_table,
    )


# Report -------------------------------------------------------------------------------------------


def smoothed(losses: list[float], weight: float = Student.loss_smoothing) -> float:
    """s = weight * s + (1 - weight) * loss over all, begun with the first; no bias correction."""
    smooth = losses[0]
    for loss in losses:
        smooth = weight * smooth + (1 - weight) * loss
    return smooth


def utilisation(flops_per_token: int, tokens_per_second: float, peak_flops: float) -> float:
    """Share of the peak that went into the model's own products."""
    return flops_per_token * tokens_per_second / peak_flops


def saved_settings(folder: Path) -> tuple[str, Student]:
    """The system that a run trained, and its settings.

    Raises: ValueError for a run of something else; OSError.
    """
    saved = json.loads((folder / "settings.json").read_text())
    recipe, _ = saved.pop("preset"), saved.pop("code", None)
    if recipe not in RECIPES and recipe not in train_gpt.PRESETS:
        raise ValueError(f"{folder} is a run of {recipe!r}; report takes {', '.join(SYSTEMS)}")
    if recipe in RECIPES:
        return STAGES.get(recipe, recipe), Recipe(**saved)
    return GOLF, Student(**saved)


def report(folder: Path, peak_flops: float | None) -> dict:
    """Figures of a run, from its settings and its metrics; utilisation is in llm.c's convention.

    Raises: ValueError where no step was logged; OSError.
    """
    system, hp = saved_settings(folder)
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    steps = [line for line in lines if "train_loss" in line]
    if not steps:
        raise ValueError(f"{folder} has no logged step; train on with RESUME={folder.name}")
    if system == GOLF:
        settings = train_gpt.model_settings(hp)
    else:
        settings = model_settings(system, config_of(system, hp))
    model, T = build(settings, device="meta"), hp.train_seq_len
    figures = {
        "system": system,
        "parameters": sum(p.numel() for p in model.parameters()),
        "steps": steps[-1]["step"],
        "tokens": steps[-1]["tokens"],
        "last_loss": steps[-1]["train_loss"],
        "smoothed_loss": smoothed([line["train_loss"] for line in steps], hp.loss_smoothing),
        "losses_logged": len(steps),
        "tokens_per_second": steps[-1]["tok_s"],
        "flops_per_token": model.flops_per_token(T),
    }
    if peak_flops:
        rate, flops = figures["tokens_per_second"], figures["flops_per_token"]
        figures |= {"peak_flops": peak_flops, "mfu": utilisation(flops, rate, peak_flops)}
        if system in d12.CONFIGS:
            flops = model.product_flops_per_token(T)
            figures |= {"product_flops_per_token": flops}
            figures |= {"product_mfu": utilisation(flops, rate, peak_flops)}
    return figures


def spread(losses: list[float]) -> str:
    """Mean and standard deviation of the runs that there are: that of a population (ddof 0)."""
    return f"{statistics.fmean(losses):.4f} +- {statistics.pstdev(losses):.4f} (n={len(losses)})"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="baselines.train", description=__doc__.splitlines()[0])
    known = f"{', '.join(SYSTEMS)}; report"
    parser.add_argument("system", metavar="SYSTEM", help=known)
    parser.add_argument("runs", type=Path, nargs="*", help="with report: folders of runs")
    parser.add_argument("--peak-flops", type=float, help="with report: dense peak of all devices")
    args = parser.parse_args(argv)
    try:
        if args.peak_flops is not None and not 0 < args.peak_flops < math.inf:
            raise ValueError(f"--peak-flops {args.peak_flops} must be a number over 0")
        if args.system == "report":
            if not args.runs:
                raise ValueError("report needs the folder of a run")
            reports = [report(run, args.peak_flops) for run in args.runs]
            for figures in reports:
                print(*(f"{name}: {value}" for name, value in figures.items()), sep="\n")
            if len(reports) > 1 and len({figures["system"] for figures in reports}) == 1:
                for name in ("last_loss", "smoothed_loss"):
                    print(f"{name}: {spread([figures[name] for figures in reports])}")
            return 0
        if args.system not in SYSTEMS:
            raise ValueError(f"{args.system!r} must be one of {known}")
        if args.runs or args.peak_flops:
            raise ValueError("runs and --peak-flops go with report alone; settings are variables")
    except (ValueError, OSError) as error:
        print(f"baselines.train: {error}", file=sys.stderr)
        return 2
    train_gpt.main(system_of(args.system))
    return 0


if __name__ == "__main__":
    sys.exit(main())
