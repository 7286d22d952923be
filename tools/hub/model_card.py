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
from baselines.teachers import TeacherSettings
from engine.recipe import model_settings_of
from tools.hub import self_check
from tools.hub import tokenizer as hf_tokenizer
from tools.hub.architectures import short_name
from tools.runs import logs
from tools.runs.run_log import Run

# What a folder of data is called -> the data set on the hub that it was made of; longest first.
DATASETS = {
    "fineweb-edu": "HuggingFaceFW/fineweb-edu",
    "fineweb": "HuggingFaceFW/fineweb",
    "tinystories": "roneneldan/TinyStories",
    "c4": "allenai/c4",
}
PROMPT = "The history of"  # of the example and of the hub's widget
FOLDER = "THIS FOLDER"
LIMITATIONS = (
    "A small language model, trained for comparison. It states falsehoods, repeats itself and",
    "follows no instructions. It has learned what its data say, errors and prejudice included.",
)


# Evidence -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Evidence:
    """What the files of a run say; empty where there is no run."""

    log: Run | None = None
    settings: dict = field(default_factory=dict)  # settings.json, else what the log prints
    losses: list[float] = field(default_factory=list)  # of training, as logged
    metrics: dict = field(default_factory=dict)  # the last of each name
    is_packed: bool = False  # the weights are those of the artifact, which is what was scored
    mixes_repeats: bool = False  # the score is of the model and of what a document repeats

    @property
    def dataset(self) -> str:
        """The hub's name of the data, empty where the folder's name tells none."""
        name = Path(self.settings.get("data_path", "")).name.lower().replace("_", "-")
        for key, hub_name in DATASETS.items():
            # A whole word of the name, or with the billions of its tokens: public4k is not C4.
            if re.search(rf"(?<![a-z0-9]){key}(\d+b)?(?![a-z0-9])", name):
                return hub_name
        return ""


def read_metrics(path: Path) -> tuple[list[float], dict]:
    """Losses of training, and the last value of each name; empty where there is no file."""
    losses = []
    latest = {}
    if path.is_file():
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "train_loss" in record:
                losses.append(record["train_loss"])
            latest |= record
    return losses, latest


def read_evidence(source: Path, parameters: int, mixes_repeats: bool = False) -> Evidence:
    """What lies beside a checkpoint or an artifact, if it lies in the folder of its run.

    Raises: ValueError for a file that is not a log, or is of a model with other parameters.
    """
    log = None
    log_path = source.with_name("train.log")
    if log_path.is_file():
        log = logs.read_log(log_path)
    if log and log.model_params not in (None, parameters):
        raise ValueError(
            f"{log_path} is of a model with {log.model_params:,} parameters, {source} has"
            f" {parameters:,}; keep a run's files together"
        )
    settings = dict(log.settings) if log else {}
    settings_path = source.with_name("settings.json")
    if settings_path.is_file():
        settings = json.loads(settings_path.read_text())
    with source.open("rb") as file:
        is_packed = file.read(len(quantize.MAGIC)) == quantize.MAGIC
    losses, latest = read_metrics(source.with_name("metrics.jsonl"))
    return Evidence(log, settings, losses, latest, is_packed, mixes_repeats)


# Front matter -------------------------------------------------------------------------------------


def results(evidence: Evidence) -> list[tuple[str, str, float]]:
    """(type on the hub, description, value) of the score that counts; none without one."""
    score = evidence.log.score if evidence.log else None
    if score is None or score.val_loss is None:
        return []
    source = f"train.log line {score.line}"
    part = " of a part of the validation text" if score.is_partial else ""
    weights = "" if evidence.is_packed else ", of the run's packed weights"
    perplexity = math.exp(score.val_loss)
    rows = [
        ("loss", f"nats per token{part}{weights}; {source}", score.val_loss),
        ("perplexity", f"exp of that loss, per token{part}{weights}; {source}", perplexity),
    ]
    if score.val_bpb is not None:
        rows.append(("bits_per_byte", f"bits per byte{part}{weights}; {source}", score.val_bpb))
    return rows


def index_lines(name: str, evidence: Evidence) -> list[str]:
    """The index of results, as the hub's leaderboards read it."""
    rows = results(evidence)
    if not rows:
        return []
    dataset = evidence.dataset or Path(evidence.settings["data_path"]).name
    lines = [
        "model-index:",
        f"- name: {json.dumps(name)}",
        "  results:",
        "  - task:",
        "      type: text-generation",
        "    dataset:",
        f"      type: {json.dumps(dataset)}",
        f"      name: {json.dumps(f'{dataset}, validation split')}",
        "    metrics:",
    ]
    for kind, description, value in rows:
        lines += [f"    - type: {kind}", f"      name: {json.dumps(description)}"]
        lines += [f"      value: {value:.8f}"]
    return lines


def front_matter(hub_model, name: str, evidence: Evidence, license: str) -> list[str]:
    """The lines that the hub reads. Text is quoted as JSON, which YAML takes as it is."""
    lines = ["---", "language: en"]
    if license:
        lines.append(f"license: {license}")
    lines += ["library_name: transformers", "pipeline_tag: text-generation"]
    lines += ["tags:", f"- {hub_model.model_type}", "- causal-lm"]
    if evidence.dataset:
        lines += ["datasets:", f"- {evidence.dataset}"]
    lines += ["metrics:", "- perplexity"]
    lines += ["widget:", f"- text: {json.dumps(PROMPT)}"]
    return [*lines, *index_lines(name, evidence), "---"]


# Training -----------------------------------------------------------------------------------------


def optimizer_lines(settings: dict) -> list[str]:
    """The optimizer and its rates, by a run's settings."""
    if "peak_lr" in settings:
        lines = [
            f"AdamW, betas ({settings['adam_beta1']}, {settings['adam_beta2']}), eps"
            f" {settings['adam_eps']}, decay {settings['weight_decay']} on tensors of two"
            " dimensions and more",
            f"rate: to {settings['peak_lr']} in a line of {settings['lr_warmup_steps']} steps, then"
            f" to {settings['end_lr']} in a cosine that ends at step"
            f" {settings['lr_decay_steps']:,}",
        ]
    elif "matrix_lr" in settings:
        rise_frac = settings.get("lr_warmup_frac", 0)
        rise = f"up in {rise_frac:.0%}, " if rise_frac else ""
        lines = [
            f"Muon for matrices, rate {settings['matrix_lr']}, momentum"
            f" {settings['muon_momentum']}, decay {settings['muon_wd']}; Adam for the rest, rates"
            f" {settings['tied_embed_lr']} (embedding) and {settings['scalar_lr']}",
            f"rate: {rise}down in a line over the last {settings['warmdown_frac']:.0%} of the run,"
            f" to {settings['min_lr']} of it",
        ]
    else:
        return []
    if settings.get("teacher"):
        lines.append(
            f"distilled from `{Path(settings['teacher']).name}`: alpha"
            f" {settings['distill_alpha']}, temperature {settings['distill_temperature']}"
        )
    if settings.get("start_from"):
        lines.append(
            f"begun with the weights of `{Path(settings['start_from']).name}`, whose own steps and"
            " tokens are not counted here"
        )
    clip = settings.get("grad_clip_norm")
    return [*lines, f"gradients clipped to norm {clip}" if clip else "gradients not clipped"]


def training_lines(evidence: Evidence) -> list[str]:
    """Data, steps, optimizer and machine, one line each."""
    log = evidence.log
    settings = evidence.settings
    if not log or "train_batch_tokens" not in settings:
        return ["Not known: no run lies beside the weights."]
    data = f"`{Path(settings['data_path']).name}`"
    if evidence.dataset:
        data += f", made of {evidence.dataset}"
    lines = [f"data: {data}; seed {settings['seed']}"]
    if log.steps:
        batch = settings["train_batch_tokens"]
        lines.append(
            f"{log.steps:,} steps of {batch:,} tokens: {log.steps * batch:,} tokens, context"
            f" {settings['train_seq_len']:,}"
        )
    lines += optimizer_lines(settings)
    if log.train_time_ms:
        machine = f"{log.world_size or 1} x {log.device or 'an unnamed device'}"
        if "torch" in log.versions:
            machine += f", torch {log.versions['torch']}"
        lines.append(f"{log.train_time_ms / 1000:,.0f} s on {machine}")
    return [f"- {line}" for line in lines]


# Measured -----------------------------------------------------------------------------------------


def smoothed(losses: list[float], weight: float) -> float:
    """An exponential average: s = weight * s + (1 - weight) * loss, from the first loss on."""
    average = losses[0]
    for loss in losses[1:]:
        average = weight * average + (1 - weight) * loss
    return average


def loss_lines(evidence: Evidence) -> list[str]:
    """The last loss of training, and the smoothed one."""
    if not evidence.losses:
        return []
    settings = evidence.settings
    weight = settings.get("loss_smoothing", TeacherSettings.loss_smoothing)
    smooth = smoothed(evidence.losses, weight)
    unit = "of what the teacher asks, not of text" if settings.get("teacher") else "nats per token"
    return [
        f"- train_loss: {evidence.losses[-1]} {unit}, of the last step's batch",
        f"- smoothed train_loss: {smooth:.6f}, by s = {weight:g} s + {1 - weight:g} loss over"
        f" the {len(evidence.losses):,} steps that were logged",
    ]


def score_lines(evidence: Evidence) -> list[str]:
    """The score, and how it was taken."""
    rows = results(evidence)
    if not rows:
        return []
    score = evidence.log.score
    settings = evidence.settings
    lines = [f"- {kind}: {value:.8f} ({description})" for kind, description, value in rows]
    lines += [
        "",
        f"The score is of the run `{evidence.log.run_id}`: `train.log` in this folder. Every token"
        f" of the validation text but the first is a target once, {reading(settings)};"
        f" {score.targets or 0:,} targets, {score.bytes or 0:,} bytes. Bits per byte are nats"
        " divided by ln 2 and by those bytes, which no tokenizer changes; loss and perplexity"
        " compare with the same tokenizer only.",
    ]
    if evidence.mixes_repeats:
        lines += [
            "",
            "The score mixes in what a document repeats: its own pairs and triples of tokens before"
            " the target, by weights that the artifact holds. This model alone does not do that,"
            " and scores higher.",
        ]
    if not evidence.is_packed:
        lines += [
            "",
            "What was scored is the run's `artifact.pgz`, these weights after packing; the"
            " weights here are those before it.",
        ]
    return lines


def reading(settings: dict) -> str:
    """How the run's scoring goes through the text."""
    T = settings["train_seq_len"]
    stride = settings["eval_stride"]
    if stride == 0:
        return f"in one pass over each document, every layer attending to the last {T:,} tokens"
    return f"in windows of {T:,} tokens, {stride:,} of them new in each"


def measured_lines(evidence: Evidence) -> list[str]:
    """Losses with what they mean, and how the score was taken."""
    lines = loss_lines(evidence)
    for name in ("val_loss", "val_bpb", "val_bpb_partial"):
        if name in evidence.metrics:
            lines.append(f"- {name}: {evidence.metrics[name]}, the last one during training")
    return lines + score_lines(evidence) or ["Nothing yet."]


# Use ----------------------------------------------------------------------------------------------


def example_lines(hub_model, tokenizer: hf_tokenizer.Written | None) -> list[str]:
    """Python that loads what is in the folder, and continues a text where there is a tokenizer."""
    remote = ", trust_remote_code=True" if hub_model.config_class else ""
    has_tokenizer = bool(tokenizer and tokenizer.is_whole)
    classes = {"AutoModelForCausalLM": "model"}
    if has_tokenizer:
        classes["AutoTokenizer"] = "tokenizer"
    code = [f"from transformers import {', '.join(classes)}"]
    for class_name, variable in classes.items():
        code.append(f'{variable} = {class_name}.from_pretrained("{FOLDER}"{remote})')
    if has_tokenizer:
        code += [
            f'inputs = tokenizer({json.dumps(PROMPT)}, return_tensors="pt")',
            "output = model.generate(**inputs, max_new_tokens=60, do_sample=True, temperature=0.8)",
            "print(tokenizer.decode(output[0], skip_special_tokens=True))",
        ]
    return ["```python", *code, "```"]


def evaluation_lines(figure: float | None) -> list[str]:
    """lm_eval's command for the text that the folder carries, and the figure that it prints."""
    if figure is None:
        return []
    return [
        "## Evaluation with lm_eval",
        "",
        "In this folder, which carries a short text of its own to check the set-up:",
        "",
        "```sh",
        self_check.COMMAND,
        "```",
        "",
        f"prints `bits_per_byte` {figure:.6f}. With another task, leave `--include_path` out and"
        " keep `add_bos_token=False`: lm_eval puts a beginning in front of a text, and so does the"
        " tokenizer; with both, the model also pays for the second.",
        "",
    ]


def citation_lines(hub_model, name: str, author: str) -> list[str]:
    """BibTeX."""
    fields = {"title": f"{hub_model.title}: {name}", "author": author}
    fields["note"] = "Trained and published with the parameter-golf toolkit"
    fields["howpublished"] = "Hugging Face model repository"
    inner = [f"  {field} = {{{value}}}," for field, value in fields.items() if value]
    return ["## Citation", "", "```bibtex", f"@misc{{{name},", *inner, "}", "```"]


def model_card(
    hub_model,
    settings: dict,
    stored: int,
    trained: int,
    evidence: Evidence,
    tokenizer: hf_tokenizer.Written | None,
    license: str = "",
    author: str = "",
    self_check_figure: float | None = None,
) -> str:
    """README.md of a model that is published in this form with so many parameters stored."""
    name = short_name(settings)
    note = "No tokenizer is included: none was at hand when the folder was written."
    if settings.get("tied", True):
        counts = f"{stored:,} parameters; the head is the embedding and is counted once."
    else:
        counts = f"{stored:,} parameters; embedding and head are two tensors, both counted."
    if stored != trained:
        counts += (
            f" In training there were {trained:,}: the tables then have rows that are no tokens,"
            " which are not published."
        )
    notes = []
    if hub_model.notes:
        notes = ["## With other tools", "", *(f"- {line}" for line in hub_model.notes), ""]
    body = [
        f"# {hub_model.title}: {name}",
        "",
        counts,
        "",
        *example_lines(hub_model, tokenizer),
        "",
        "## Shape",
        "",
        *(f"- {field}: {value}" for field, value in model_settings_of(settings).items()),
        "",
        "## Training",
        "",
        *training_lines(evidence),
        "",
        "## Measured",
        "",
        *measured_lines(evidence),
        "",
        "## Tokenizer",
        "",
        tokenizer.note if tokenizer else note,
        "",
        *evaluation_lines(self_check_figure),
        *notes,
        "## Limitations",
        "",
        *LIMITATIONS,
        "",
        *citation_lines(hub_model, name, author),
    ]
    front = front_matter(hub_model, name, evidence, license or hub_model.license)
    return "\n".join([*front, *body]) + "\n"
