"""A student learns from a teacher: from its logits, or from text that it wrote.

    TEACHER=logs/<run_id>/checkpoint.pt golf.py train preln_53m     # its logits on the shards' text
    TEACHER=continuations.jsonl golf.py train preln_53m             # what it wrote

All losses are nats summed over targets, as a model's own `loss` is. The teacher is never trained,
and its vocabulary must be the student's.

A line of continuations is {"prompt": [ids], "continuation": [ids]}, or both as text, which
TOKENIZER_PATH encodes (a SentencePiece model; nothing is put before or after). Other keys are not
read. A line is one row of training. Only the continuation is scored; padding follows it. For
TRAIN_SEQ_LEN=6 the line {"prompt": [1, 5], "continuation": [9, 8, 2]} becomes

    tokens   1 5 9 8 2 0 0        7 tokens are 6 inputs and 6 targets
    scored     0 1 1 1 0 0        a target each

Dimensions: B rows, T tokens, V vocabulary.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sentencepiece import SentencePieceProcessor
from torch import Tensor, nn

from engine.open_model import open_model
from engine.recipe import LossFunction, Model
from engine.settings import RunSettings
from engine.text import Rows, TrainingText

PARTS = ("prompt", "continuation")


@dataclass(frozen=True)
class TeacherSettings(RunSettings):
    """A run's settings and those of its teacher, if it has one.

    Raises: ValueError naming the variable.
    """

    teacher: str = ""  # checkpoint to learn the logits of, or .jsonl of written text
    distill_alpha: float = 0.5  # weight of the text itself beside what the teacher makes of it
    distill_temperature: float = 2.0
    loss_smoothing: float = 0.95  # of the report: the weight of what came before

    def __post_init__(self):
        super().__post_init__()
        self.require_fractions("distill_alpha")
        self.require(self.distill_temperature > 0, "distill_temperature", "over 0")
        self.require(self.loss_smoothing < 1, "loss_smoothing", "below 1")

    @property
    def learns_from_writing(self) -> bool:
        return self.teacher.endswith(".jsonl")


# Losses -------------------------------------------------------------------------------------------


def distillation_loss(
    student_BTV: Tensor, teacher_BTV: Tensor, targets_BT: Tensor, alpha: float, temperature: float
) -> Tensor:
    """alpha * CE + (1 - alpha) * temperature**2 * KL(teacher || student), summed over targets.

    Both distributions of the KL are at the temperature; its square keeps the gradient's size.

    Raises: ValueError where the vocabularies differ.
    """
    if student_BTV.size(-1) != teacher_BTV.size(-1):
        raise ValueError(
            f"student has {student_BTV.size(-1)} tokens, teacher {teacher_BTV.size(-1)}; they must"
            " have one vocabulary"
        )
    student = student_BTV.flatten(0, -2)
    hard = F.cross_entropy(student, targets_BT.flatten(), reduction="sum")
    if alpha == 1:
        return hard
    teacher = teacher_BTV.detach().flatten(0, -2)
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def continuation_loss(
    student_BTV: Tensor, targets_BT: Tensor, weights_BT: Tensor, alpha: float, temperature: float
) -> Tensor:
    """alpha * CE + (1 - alpha) * CE at the temperature, each target times its weight, summed.

    A teacher of which only the text is known has no logits, so there is no square of the
    temperature.
    """
    student = student_BTV.flatten(0, -2)
    targets = targets_BT.flatten()
    plain = F.cross_entropy(student, targets, reduction="none")
    softened = F.cross_entropy(student / temperature, targets, reduction="none")
    weights = weights_BT.flatten().to(student.dtype)
    return ((alpha * plain + (1 - alpha) * softened) * weights).sum()


def student_loss(model: Model, settings: TeacherSettings, device: torch.device) -> LossFunction:
    """What a student minimises: its own loss where it has no teacher.

    Raises: ValueError for a teacher that does not fit; OSError.
    """
    alpha = settings.distill_alpha
    temperature = settings.distill_temperature
    # Dropout, of the models that have it, acts in training_logits alone.
    logits_fn = getattr(model, "training_logits", model)
    if not settings.teacher:
        return lambda tokens_BT, weights_BT: model.loss(tokens_BT)
    if settings.learns_from_writing:

        def from_writing(tokens_BT: Tensor, weights_BT: Tensor) -> Tensor:
            student_BTV = logits_fn(tokens_BT[:, :-1])
            return continuation_loss(student_BTV, tokens_BT[:, 1:], weights_BT, alpha, temperature)

        return from_writing
    teacher = open_teacher(settings, device)

    def from_logits(tokens_BT: Tensor, weights_BT: None) -> Tensor:
        with torch.no_grad():
            teacher_BTV = teacher(tokens_BT[:, :-1])
        student_BTV = logits_fn(tokens_BT[:, :-1])
        return distillation_loss(student_BTV, teacher_BTV, tokens_BT[:, 1:], alpha, temperature)

    return from_logits


def open_teacher(settings: TeacherSettings, device: torch.device) -> nn.Module:
    """The teacher's model. No optimizer and no checkpoint of the student sees it.

    Raises: ValueError where vocabulary or context do not fit, naming requirement and remedy.
    """
    opened = open_model(settings.teacher, device, compile=False)
    vocab_size = opened.model_settings["vocab_size"]
    if vocab_size != settings.vocab_size:
        raise ValueError(
            f"TEACHER={settings.teacher} has {vocab_size} tokens, VOCAB_SIZE is"
            f" {settings.vocab_size}; teacher and student must have one vocabulary"
        )
    if opened.seq_len < settings.train_seq_len:
        raise ValueError(
            f"TEACHER={settings.teacher} reads {opened.seq_len} tokens, TRAIN_SEQ_LEN is"
            f" {settings.train_seq_len}; lower it to that"
        )
    return opened.model


def text_of(settings: TeacherSettings, of_shards=TrainingText) -> TrainingText:
    """What a student trains on: the shards, or what its teacher wrote.

    Raises: ValueError for a teacher that does not fit; OSError.
    """
    if settings.learns_from_writing:
        return Continuations(settings)
    if settings.teacher:
        open_teacher(settings, torch.device("cpu"))  # say now what would not fit
    return of_shards(settings)


# What a teacher wrote -----------------------------------------------------------------------------


class Continuations(TrainingText):
    """Rows of a teacher's text for training; what is held out is still of the shards.

    A step's loss is the mean over the scored targets of its batch, whatever ranks and micro-batches
    share them: a trainer divides by the tokens of a batch, so a target weighs those over the number
    of scored targets.
    Raises: ValueError for lines that cannot be rows, and as TrainingText does; OSError.
    """

    weighs_targets = True

    def __init__(self, settings: TeacherSettings):
        super().__init__(settings)
        self.sequences = read_continuations(settings.teacher, settings)
        self.num_blocks = len(self.sequences)
        self.batch_rows = settings.train_batch_tokens // settings.train_seq_len

    def rows(self, position: int, count: int) -> Rows:
        """The rows from a position in the seeded order; T is seq_len + 1."""
        first = position - position % self.batch_rows  # the batch that they belong to
        batch = [self.sequences[i] for i in self.places(first, self.batch_rows)]
        scored = sum(len(tokens) - prompt for tokens, prompt in batch)
        tokens_BT = np.zeros((count, self.seq_len + 1), dtype=np.int64)
        weights_BT = np.zeros((count, self.seq_len), dtype=np.float32)
        own = batch[position - first :][:count]
        for row, (tokens, prompt) in enumerate(own):
            tokens_BT[row, : len(tokens)] = tokens
            # Target i is token i + 1, so the continuation's first token is target prompt - 1.
            weight = self.batch_rows * self.seq_len / scored
            weights_BT[row, prompt - 1 : len(tokens) - 1] = weight
        return Rows(torch.from_numpy(tokens_BT), torch.from_numpy(weights_BT))


def read_continuations(path: str, settings: RunSettings) -> list[tuple[np.ndarray, int]]:
    """Of every line its tokens and how many of them are its prompt.

    Raises: ValueError naming the file, the line and what is wrong with it; OSError.
    """
    sequences = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                sequences.append(read_line(line, settings))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    if not sequences:
        raise ValueError(f"{path} has no lines; a teacher of text must have written something")
    return sequences


def read_line(line: bytes, settings: RunSettings) -> tuple[np.ndarray, int]:
    """The tokens of a line, as uint16, and how many of them are its prompt.

    Raises: ValueError saying what is wrong with the line and what it must be.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"is not JSON ({error}); write one object a line") from None
    if not isinstance(record, dict) or not set(PARTS) <= set(record):
        raise ValueError('must be an object with "prompt" and "continuation"')
    parts = [record[name] for name in PARTS]
    if all(isinstance(part, str) for part in parts):
        parts = encode(parts, settings.tokenizer_path)
    if not all(isinstance(part, list) for part in parts):
        raise ValueError('"prompt" and "continuation" must be two lists of token ids, or two texts')
    for name, part in zip(PARTS, parts, strict=True):
        if not part:
            raise ValueError(f'"{name}" has no token; both need one at least, or drop the line')
        for token in part:
            if type(token) is not int or not 0 <= token < settings.vocab_size:
                raise ValueError(
                    f'"{name}" holds {token!r}, which is not a token id below VOCAB_SIZE='
                    f"{settings.vocab_size}; teacher and student must have one vocabulary"
                )
    tokens = parts[0] + parts[1]
    most = settings.train_seq_len + 1
    if len(tokens) > most:
        raise ValueError(
            f"has {len(tokens)} tokens, more than TRAIN_SEQ_LEN+1={most}; cut the prompt's"
            " beginning, or raise TRAIN_SEQ_LEN"
        )
    return np.array(tokens, dtype=np.uint16), len(parts[0])


def encode(texts: list[str], tokenizer_path: str) -> list[list[int]]:
    """Ids of a prompt and of what follows it, encoded as one text.

    A token that only the continuation makes complete belongs to the continuation.
    Raises: ValueError where there is no SentencePiece model.
    """
    if not Path(tokenizer_path).is_file():
        raise ValueError(
            f"is text, but TOKENIZER_PATH={tokenizer_path} is not a SentencePiece model to encode"
            " it by; give lists of token ids"
        )
    tokenizer = SentencePieceProcessor(model_file=tokenizer_path)
    together = tokenizer.encode("".join(texts))
    prompt = tokenizer.encode(texts[0])
    shared = 0
    while shared < len(prompt) and prompt[shared : shared + 1] == together[shared : shared + 1]:
        shared += 1
    return [together[:shared], together[shared:]]
