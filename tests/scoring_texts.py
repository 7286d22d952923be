"""Texts and tokenizers that the tests of scoring share."""

import io
import itertools
from pathlib import Path

import numpy as np
import sentencepiece

from evaluate import BOS_ID, ByteTable

# What breaks a count of bytes that is not exact.
HOSTILE = [
    "Plain words, twice twice.",
    "",
    "emoji 👩‍🔬🏳️‍🌈 and 漢字かな交じり文 side by side",
    "▁ and a▁b ▁▁ x",
    "\x00nul\x00\x00",
    " leading",
    "two  blanks\tand\ttabs\nand lines\n",
    "",
    "é e\u0301 ﬁ ½ \u200b \u202e \ufffd",
    " ",
    "the end 🙂",
]


def train_tokenizer(folder: Path, name: str, **settings) -> Path:
    text = ["the quick brown fox jumps over the lazy dog. ", "def f(x):\n\treturn  x\n", "a b  c"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 50),
        model_writer=model,
        model_type="bpe",
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 320, "byte_fallback": True, "pad_id": 0, "bos_id": 1, "eos_id": 2}
        | {"unk_id": 3}
        | settings,
    )
    path = folder / f"{name}.model"
    path.write_bytes(model.getvalue())
    return path


def encode(path: Path, texts=tuple(HOSTILE)):
    """Tokens of the texts as documents, the processor, and its byte table."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    documents = [[BOS_ID, *processor.encode(text)] for text in texts]
    tokens_T = np.array(list(itertools.chain(*documents)), dtype=np.uint16)
    table = ByteTable.from_sentencepiece(path, processor.vocab_size())
    return documents, tokens_T, processor, table
