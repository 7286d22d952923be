"""A short text in a published folder, with the bits per byte that lm_eval must print for it.

lm_eval puts its own beginning in front of a text, and the tokenizer puts one there as well. With
both, the model also pays for the second, which costs 0.007 to 0.025 bits per byte on the five
systems; `add_bos_token=False` leaves it out, and lm_eval's figure is ours to the last digits:

    lm_eval --model hf --tasks self_check --include_path .
        --model_args pretrained=.,trust_remote_code=True,dtype=float32,add_bos_token=False
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import evaluate
from tools.hub.architectures import load_hub_model
from tools.hub.fast_tokenizer import require

# ASCII with single blanks, which every tokenizer gives back as it was: bytes are counted alike.
TEXTS = (
    "The ferry leaves at seven, and nobody on the quay believes the timetable any longer.",
    "A loaf takes flour, water, salt and a night. The rest is patience, and an oven that is hot.",
    "In 1912 the bridge was 84 metres long; after the flood they built it two metres higher.",
    "She read the letter twice, folded it along the old creases, and put it back in the drawer.",
)
COMMAND = (
    "lm_eval --model hf --tasks self_check --include_path . --model_args"
    " pretrained=.,trust_remote_code=True,dtype=float32,add_bos_token=False"
)
TASK = """\
task: self_check
dataset_path: json
dataset_kwargs:
  data_files:
    test: self_check.jsonl
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list:
  - metric: bits_per_byte
"""


def bits_per_byte(model, rows: list[list[int]], seq_len: int, vocab_size: int) -> float:
    """Of the texts that rows are the tokens of, each by itself with its beginning in front."""
    nothing_V = np.zeros(vocab_size, dtype=np.int64)  # bytes are those of TEXTS
    table = evaluate.ByteTable(nothing_V, nothing_V > 0, nothing_V > 0)
    scheme = evaluate.Scheme(seq_len, stride=seq_len, isolate=False)
    nats = 0.0
    for row in rows:
        tokens_T = np.array(row, dtype=np.uint16)
        nats += evaluate.score_windows(model, tokens_T, table, scheme).nats
    return nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)


def write(
    folder: Path, settings: dict, weights: dict[str, Tensor], dtype: torch.dtype, bos_id: int
) -> float | None:
    """Write the text and lm_eval's task; returns the figure of the weights, rounded to dtype.

    The folder has a tokenizer.json; bos_id begins a text. Nothing is written and None returned
    where a text is longer than the context: lm_eval gives its last window earlier tokens again.
    """
    require("tokenizers")
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [[bos_id, *tokenizer.encode(text, add_special_tokens=False).ids] for text in TEXTS]
    if max(map(len, rows)) > settings["train_seq_len"] + 1:
        return None
    lines = [json.dumps({"text": text}) + "\n" for text in TEXTS]
    (folder / "self_check.jsonl").write_text("".join(lines))
    (folder / "self_check.yaml").write_text(TASK)
    model = load_hub_model(settings, {name: w.to(dtype).float() for name, w in weights.items()})
    return bits_per_byte(model, rows, settings["train_seq_len"], settings["vocab_size"])
