"""Train on what a teacher wrote: a JSONL of its continuations, in place of the shards' text.

A line is {"prompt": [ids], "continuation": [ids]}, or both as text, which TOKENIZER_PATH encodes
(a SentencePiece model; nothing is put before or after). Other keys are not read. A line is one row
of training: a prompt, of which nothing is scored, and the continuation, then padding. The order is
that of the shards' blocks, seeded, so that a resumed run goes on where it was.
"""

import json
from pathlib import Path

import numpy as np
import torch
from sentencepiece import SentencePieceProcessor
from torch import Tensor

import train_gpt
from baselines import distill

PARTS = ("prompt", "continuation")


def encode(texts: list[str], tokenizer_path: str) -> list[list[int]]:
    """Ids of a prompt and of what follows it, encoded as one text.

    A token that only the continuation makes complete belongs to the continuation.
    Raises: ValueError where there is no SentencePiece model.
    """
    if not Path(tokenizer_path).is_file():
        raise ValueError(
            f"is text, but TOKENIZER_PATH={tokenizer_path} is no SentencePiece model to encode it"
            " by; give lists of token ids"
        )
    tokenizer = SentencePieceProcessor(model_file=tokenizer_path)
    whole, prompt = tokenizer.encode("".join(texts)), tokenizer.encode(texts[0])
    shared = 0
    while shared < len(prompt) and prompt[shared : shared + 1] == whole[shared : shared + 1]:
        shared += 1
    return [whole[:shared], whole[shared:]]


def read_line(line: bytes, hp) -> tuple[np.ndarray, int]:
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
        parts = encode(parts, hp.tokenizer_path)
    if not all(isinstance(part, list) for part in parts):
        raise ValueError('"prompt" and "continuation" must be two lists of token ids, or two texts')
    for name, part in zip(PARTS, parts, strict=True):
        if not part:
            raise ValueError(f'"{name}" has no token; both need one at least, or drop the line')
        for token in part:
            if type(token) is not int or not 0 <= token < hp.vocab_size:
                raise ValueError(
                    f'"{name}" holds {token!r}, which is no token id below VOCAB_SIZE='
                    f"{hp.vocab_size}; teacher and student must have one vocabulary"
                )
    tokens = parts[0] + parts[1]
    if len(tokens) > hp.train_seq_len + 1:
        raise ValueError(
            f"has {len(tokens)} tokens, more than TRAIN_SEQ_LEN+1={hp.train_seq_len + 1}; cut the"
            " prompt's beginning, or raise TRAIN_SEQ_LEN"
        )
    return np.array(tokens, dtype=np.uint16), len(parts[0])


def read(path: str, hp) -> list[tuple[np.ndarray, int]]:
    """`read_line` of every line.

    Raises: ValueError naming the file, the line and what is wrong with it; OSError.
    """
    sequences = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                sequences.append(read_line(line, hp))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}") from None
    if not sequences:
        raise ValueError(f"{path} has no lines; a teacher of text must have written something")
    return sequences


class Continuations(train_gpt.TrainingText):
    """Rows of a teacher's text for training; what is held out is still of the shards.

    A scored token carries, as a multiple of distill.COUNTED, how many tokens of its step's batch
    are scored. By that a loss is the mean over them, whatever ranks and micro-batches share them.
    Raises: ValueError for lines that cannot be rows, and as TrainingText does; OSError.
    """

    def __init__(self, hp):
        super().__init__(hp)
        self.sequences = read(hp.teacher, hp)
        self.num_blocks = len(self.sequences)
        self.batch_rows = hp.train_batch_tokens // hp.train_seq_len

    def places(self, position: int, count: int) -> list[int]:
        """Which sequences stand at positions of the seeded order."""
        passes = [divmod(position + i, self.num_blocks) for i in range(count)]
        orders = {epoch: self.order(epoch) for epoch in {epoch for epoch, _ in passes}}
        return [(orders[n][0] + k * orders[n][1]) % self.num_blocks for n, k in passes]

    def rows(self, position: int, count: int) -> Tensor:
        """tokens_BT of the rows from a position in the seeded order; T is seq_len + 1."""
        first = position - position % self.batch_rows
        batch = [self.sequences[i] for i in self.places(first, self.batch_rows)]
        scored = sum(len(tokens) - prompt for tokens, prompt in batch)
        rows = np.zeros((count, self.seq_len + 1), dtype=np.int64)
        for row, (tokens, prompt) in zip(rows, batch[position - first :], strict=False):
            row[: len(tokens)] = tokens
            row[prompt : len(tokens)] += scored * distill.COUNTED
        return torch.from_numpy(rows)
