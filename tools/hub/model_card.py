"""The README.md of a published model: what it is, how it was trained, and what was measured here.

Every number is counted from the weights, or read from the run's own files beside them: train.log
(by `tools.runs.logs`), metrics.jsonl and settings.json. Where there is no run there are no numbers.
"""

import json
import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import quantize
from baselines import train
from tools.hub import tokenizer as hf_tokenizer
from tools.runs import logs

# What a folder of data is called -> the data set on the hub that it was made of; longest first.
DATASETS = {
    "fineweb-edu": "HuggingFaceFW/fineweb-edu",
    "fineweb": "HuggingFaceFW/fineweb",
    "tinystories": "roneneldan/TinyStories",
    "c4": "allenai/c4",
}


@dataclass(frozen=True)
class Evidence:
    """What the files of a run say; empty where there is no run."""

    log: logs.Run | None = None
    settings: dict = field(default_factory=dict)  # settings.json, else what the log prints
    losses: list[float] = field(default_factory=list)  # of training, as logged
    metrics: dict = field(default_factory=dict)  # the last of each name
    is_packed: bool = False  # the weights are those of the artifact, which is what was scored

    @property
    def dataset(self) -> str:
        """The hub's name of the data, empty where the folder's name tells none."""
        name = Path(self.settings.get("data_path", "")).name.lower().replace("_", "-")
        for key, hub_name in DATASETS.items():
            # A whole word of the name, or with the billions of its tokens: public4k is not C4.
            if re.search(rf"(?<![a-z0-9]){key}(\d+b)?(?![a-z0-9])", name):
                return hub_name
        return ""


def evidence(source: Path, parameters: int) -> Evidence:
    """What lies beside a checkpoint or an artifact, if it lies in the folder of its run.

    Raises: ValueError for a log that is none, or of a model with other parameters.
    """
    paths = {
        name: source.with_name(name) for name in ("train.log", "metrics.jsonl", "settings.json")
    }
    log = logs.read_log(paths["train.log"]) if paths["train.log"].is_file() else None
    if log and log.model_params not in (None, parameters):
        raise ValueError(
            f"{paths['train.log']} is of a model with {log.model_params:,} parameters, {source} has"
            f" {parameters:,}; keep a run's files together"
        )
    settings = dict(log.settings) if log else {}
    if paths["settings.json"].is_file():
        settings = json.loads(paths["settings.json"].read_text())
    with source.open("rb") as file:
        is_packed = file.read(len(quantize.MAGIC)) == quantize.MAGIC
    losses, last = [], {}
    if paths["metrics.jsonl"].is_file():
        for line in map(json.loads, paths["metrics.jsonl"].read_text().splitlines()):
            losses += [line["train_loss"]] if "train_loss" in line else []
            last |= line
    return Evidence(log, settings, losses, last, is_packed)


def results(found: Evidence) -> list[tuple[str, str, float]]:
    """(type on the hub, what it is, value) of the score that counts; none without one."""
    score = found.log.score if found.log else None
    if score is None or score.val_loss is None:
        return []
    where = f"train.log line {score.line}"
    part = " of a part of the validation text" if score.is_partial else ""
    of = "" if found.is_packed else ", of the run's packed weights"
    rows = [
        ("loss", f"nats per token{part}{of}; {where}", score.val_loss),
        ("perplexity", f"exp of that loss, per token{part}{of}; {where}", math.exp(score.val_loss)),
    ]
    if score.val_bpb is not None:
        rows.append(("bits_per_byte", f"bits per byte{part}{of}; {where}", score.val_bpb))
    return rows


def front_matter(form, system: str, found: Evidence) -> list[str]:
    """The lines that the hub reads. Text is quoted as JSON, which YAML takes as it is."""
    lines = ["---", "language: en"]
    lines += [f"license: {form.license}"] * bool(form.license)
    lines += ["library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", f"- {form.model_type}", "- causal-lm"]
    if found.dataset:
        lines += ["datasets:", f"- {found.dataset}"]
    lines += ["metrics:", "- perplexity"]
    if rows := results(found):
        name = found.dataset or Path(found.settings["data_path"]).name
        lines += ["model-index:", f"- name: {json.dumps(system)}", "  results:", "  - task:"]
        lines += ["      type: text-generation", "    dataset:", f"      type: {json.dumps(name)}"]
        lines += [f"      name: {json.dumps(f'{name}, validation split')}", "    metrics:"]
        for kind, what, value in rows:
            lines += [f"    - type: {kind}", f"      name: {json.dumps(what)}"]
            lines += [f"      value: {value:.8f}"]
    return [*lines, "---"]


def optimizer(s: dict) -> list[str]:
    """How a run's settings say that the weights were found."""
    if "peak_lr" in s:
        told = [
            f"AdamW, betas ({s['adam_beta1']}, {s['adam_beta2']}), eps {s['adam_eps']}, decay"
            f" {s['weight_decay']} on tensors of two dimensions and more",
            f"rate: to {s['peak_lr']} in a line of {s['lr_warmup_steps']} steps, then to"
            f" {s['end_lr']} in a cosine that ends at step {s['lr_decay_steps']:,}",
        ]
    elif "matrix_lr" in s:
        told = [
            f"Muon for matrices, rate {s['matrix_lr']}, momentum {s['muon_momentum']}, decay"
            f" {s['muon_wd']}; Adam for the rest, rates {s['tied_embed_lr']} (embedding) and"
            f" {s['scalar_lr']}",
            f"rate: up in {s['lr_warmup_frac']:.0%} of the run, down in a line over the last"
            f" {s['warmdown_frac']:.0%} to {s['min_lr']} of it",
        ]
    else:
        return []
    if s.get("teacher"):
        told.append(
            f"distilled from `{Path(s['teacher']).name}`: alpha {s['distill_alpha']},"
            f" temperature {s['distill_temperature']}"
        )
    if s.get("start_from"):
        told.append(
            f"begun with the weights of `{Path(s['start_from']).name}`, whose own steps and tokens"
            " are not counted here"
        )
    clip = s.get("grad_clip_norm")
    return [*told, f"gradients clipped to norm {clip}" if clip else "gradients not clipped"]


def training(found: Evidence) -> list[str]:
    """Data, steps, optimizer and machine, one line each."""
    log, s = found.log, found.settings
    if not log or "train_batch_tokens" not in s:
        return ["Not known: no run lies beside the weights."]
    data = f"`{Path(s['data_path']).name}`" + f", made of {found.dataset}" * bool(found.dataset)
    told = [f"data: {data}; seed {s['seed']}"]
    if log.steps:
        tokens = log.steps * s["train_batch_tokens"]
        told.append(
            f"{log.steps:,} steps of {s['train_batch_tokens']:,} tokens: {tokens:,} tokens, context"
            f" {s['train_seq_len']:,}"
        )
    told += optimizer(s)
    if log.train_time_ms:
        machine = f"{log.world_size or 1} x {log.device or 'an unnamed device'}"
        torch = f", torch {log.versions['torch']}" if "torch" in log.versions else ""
        told.append(f"{log.train_time_ms / 1000:,.0f} s on {machine}{torch}")
    return [f"- {line}" for line in told]


def measured(found: Evidence) -> list[str]:
    """Losses with what they mean, and how the score was taken."""
    lines, s = [], found.settings
    if found.losses:
        weight = s.get("loss_smoothing", train.Student.loss_smoothing)
        smooth = train.smoothed(found.losses, weight)
        what = "of what the teacher asks, not of text" if s.get("teacher") else "nats per token"
        lines += [
            f"- train_loss: {found.losses[-1]} {what}, of the last step's batch",
            f"- smoothed train_loss: {smooth:.6f}, by s = {weight:g} s + {1 - weight:g} loss over"
            f" the {len(found.losses):,} steps that were logged",
        ]
    for name in ("val_loss", "val_bpb", "val_bpb_partial"):
        if name in found.metrics:
            lines.append(f"- {name}: {found.metrics[name]}, the last one during training")
    rows = results(found)
    lines += [f"- {kind}: {value:.8f} ({what})" for kind, what, value in rows]
    if rows:
        score = found.log.score
        lines += [
            "",
            f"The score is of the run `{found.log.run_id}`: `train.log` in this folder. Every token"
            " of the validation text but the first is a target once, in windows of"
            f" {s['train_seq_len']:,} tokens, {s['eval_stride']:,} of them new in each;"
            f" {score.targets or 0:,} targets, {score.bytes or 0:,} bytes. Bits per byte are nats"
            " divided by ln 2 and by those bytes, which no tokenizer changes; loss and perplexity"
            " compare with the same tokenizer only.",
        ]
        if not found.is_packed:
            lines += [
                "",
                "What was scored is the run's `artifact.pgz`, these weights after packing; the"
                " weights here are those before it.",
            ]
    return lines or ["Nothing yet."]


def example(form, tokenizer: hf_tokenizer.Written | None) -> list[str]:
    """Python that loads what is in the folder, and nothing that is not."""
    remote = ", trust_remote_code=True" if form.config_class else ""
    names = {"AutoModelForCausalLM": "model"}
    if tokenizer and tokenizer.is_whole:
        names["AutoTokenizer"] = "tokenizer"
    return [
        f"    from transformers import {', '.join(names)}",
        *(f'    {name} = {c}.from_pretrained("THIS FOLDER"{remote})' for c, name in names.items()),
    ]


def model_card(
    form,
    settings: dict,
    stored: int,
    trained: int,
    found: Evidence,
    tokenizer: hf_tokenizer.Written | None,
) -> str:
    """README.md of a model that is published in a form with so many parameters stored."""
    note = "No tokenizer is included: none was at hand when the folder was written."
    if settings.get("tied", True):
        counts = f"{stored:,} parameters; the head is the embedding and is counted once."
    else:
        counts = f"{stored:,} parameters; embedding and head are two tensors, both counted."
    if stored != trained:
        counts += (
            f" In training there were {trained:,}: the embedding then has rows that are no tokens,"
            " which are not published."
        )
    body = [
        f"# {form.title}: {settings['system']}",
        "",
        counts,
        "",
        *example(form, tokenizer),
        "",
        "## Shape",
        "",
        *(f"- {name}: {value}" for name, value in settings.items() if name != "system"),
        "",
        "## Training",
        "",
        *training(found),
        "",
        "## Measured",
        "",
        *measured(found),
        "",
        "## Tokenizer",
        "",
        tokenizer.note if tokenizer else note,
        "",
        "## Limitations",
        "",
        "A small language model, trained for comparison. It states falsehoods, repeats itself and",
        "follows no instructions. It has learned what its data say, errors and prejudice included.",
    ]
    return "\n".join([*front_matter(form, settings["system"], found), *body]) + "\n"
