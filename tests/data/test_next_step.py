"""The next command names the folder, its tokenizer and its vocabulary, quoted for the shell."""

import shlex
from pathlib import Path

import pytest

from data import next_step

ROOT = Path(__file__).resolve().parents[2]


def manifest(kind="sentencepiece", file="tokenizer.model", documents=3) -> dict:
    tokenizer = {"kind": kind, "file": file, "vocab_size": 300}
    return {"tokenizer": tokenizer, "splits": {"train": {"documents": documents}}}


@pytest.mark.parametrize(
    "kind, file, path",
    [("sentencepiece", "tokenizer.model", "tokenizer.model"), ("gpt2", "vocab.json", "")],
)
def test_training_is_next(kind, file, path, tmp_path, monkeypatch):
    """Spaces and letters beyond ASCII survive the shell; golf.py is named from where one stands."""
    monkeypatch.chdir(tmp_path)
    folder = Path("/my données/shards")
    words = shlex.split(next_step.train_command(folder, manifest(kind, file)))
    assert words == [
        "next:",
        f"DATA_PATH={folder}",
        f"TOKENIZER_PATH={folder / path}",
        "VOCAB_SIZE=300",
        "python3",
        str(ROOT / "golf.py"),
        "train",
    ]
    assert shlex.split(next_step.verify_command(folder))[-1] == str(folder)


def test_nothing_is_next_where_nothing_can_be_trained():
    """Without training text, and without a file of the tokenizer."""
    assert next_step.train_command(Path("x"), manifest(documents=0)) == ""
    assert next_step.train_command(Path("x"), manifest(file=None)) == ""
