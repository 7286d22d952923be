"""The self-check: bits per byte of the carried text, each text by itself, whatever the window."""

import json
import math

import pytest
import torch

from data import tokenizers
from tests.tools.hub.test_architectures import SMALL, checkpoint
from tools.hub import self_check
from tools.hub.architectures import load_hub_model, read_model


@torch.no_grad()
def nats(model, row: list[int]) -> float:
    logits = model(torch.tensor([row[:-1]]))[0]
    targets = torch.tensor(row[1:])
    return -logits.log_softmax(-1)[range(len(targets)), targets].sum().item()


def test_the_figure_is_that_of_a_loop(tmp_path):
    """Each text by itself; bytes are those of the text."""
    weights, settings = read_model(checkpoint(tmp_path, "gelu_d12"))
    model = load_hub_model(settings, weights)
    rows = [[1, *range(3, 30)], [1, *range(10, 60)]]
    expected = sum(nats(model, row) for row in rows) / math.log(2)
    expected /= sum(len(text) for text in self_check.TEXTS)
    assert self_check.bits_per_byte(model, rows, 256, 61) == pytest.approx(expected, rel=1e-6)


def test_the_text_and_the_task_are_written(tmp_path):
    """With the tokens of the folder's tokenizer, and weights in the folder's precision."""
    pytest.importorskip("tokenizers", reason="python3 golf.py --with hf test")
    from tools.hub import tokenizer

    path = tmp_path / "m.model"
    path.write_bytes(tokenizers.train_bpe(list(self_check.TEXTS) * 3, 300))
    tokenizer.write(path, tmp_path)
    settings = {**SMALL["preln_53m"], "vocab_size": 300, "train_seq_len": 30}
    weights, _ = read_model(checkpoint(tmp_path, "short", settings))
    assert self_check.write(tmp_path, settings, weights, torch.float32, bos_id=1) is None
    assert not (tmp_path / "self_check.yaml").exists()
    settings["train_seq_len"] = 128
    weights, _ = read_model(checkpoint(tmp_path, "preln", settings))
    figures = [
        self_check.write(tmp_path, settings, weights, dtype, bos_id=1)
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert figures[0] != figures[1] == pytest.approx(figures[0], rel=0.02)
    lines = (tmp_path / "self_check.jsonl").read_text().splitlines()
    assert tuple(json.loads(line)["text"] for line in lines) == self_check.TEXTS
    assert "task: self_check" in (tmp_path / "self_check.yaml").read_text()


def test_every_tokenizer_counts_the_same_bytes():
    """The texts have no blank or letter that a normaliser would change."""
    for text in self_check.TEXTS:
        assert text.isascii() and text == " ".join(text.split())
