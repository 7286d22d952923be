"""The command that a user is likely to want after a data set is ready, as it is typed there."""

from __future__ import annotations

import shlex
from pathlib import Path

from golf import shell_line


def train_command(folder: Path, manifest: dict) -> str:
    """Return the command that trains on a prepared folder.

    Example: DATA_PATH=my/shards TOKENIZER_PATH=my/shards/tokenizer.model VOCAB_SIZE=1024 python3
    golf.py train. Empty where there is nothing to train on, or no file of the tokenizer.
    """
    tokenizer = manifest["tokenizer"]
    if not manifest["splits"]["train"]["documents"] or not tokenizer["file"]:
        return ""
    path = (folder / tokenizer["file"]).resolve()
    if tokenizer["kind"] == "gpt2":
        path = path.parent  # vocab.json and merges.txt
    settings = {
        "DATA_PATH": folder,
        "TOKENIZER_PATH": path,
        "VOCAB_SIZE": tokenizer["vocab_size"],
    }
    words = [f"{name}={shlex.quote(str(value))}" for name, value in settings.items()]
    return f"next: {' '.join(words)} {shell_line('train')}"


def verify_command(folder: Path) -> str:
    return f"next: {shell_line('data', 'verify', folder)}"
