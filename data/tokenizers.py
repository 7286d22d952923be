"""Tokenizers: text to tokens, and to the UTF-8 bytes that each token stands for.

Every kind offers the same: encode(texts) gives the documents as one row of tokens, each begun by
BOS, with the bytes of every token; decode(tokens) gives back the text of one document.
"""

import io
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import evaluate
from data import caseops
from data.manifest import sha256_file

MODEL_FILE = "tokenizer.model"
BYTE_OFFSET = 4  # after pad, BOS, EOS and unknown, as upstream's byte tokenizer has it
GPT2_BOS_ID = 50_256  # <|endoftext|>
# Everything that a normaliser may fold or drop: wide and joined letters, blanks of all sorts.
NORMALISER_PROBE = "  Ａ\ufb01\n\tx  y "
PLAIN_PROBES = [joint.join(map(chr, range(33, 127))) for joint in ("", " ")]


@dataclass(frozen=True)
class SentencePiece:
    """A SentencePiece model, with CaseOps before it and fusion behind it where asked for."""

    model: Any
    table: evaluate.ByteTable
    marker_ids: list[int]  # empty without CaseOps
    fused_ids: dict[int, int]  # empty without fusion
    space_id: int
    changes_text: bool
    drops_lines: bool
    keeps_plain: bool
    bos_id: int = evaluate.BOS_ID

    @classmethod
    def load(cls, path: str | Path, use_caseops: bool = False, fused: bool = False):
        """Load a model that spells every text and counts every byte.

        Raises: ValueError naming what the model lacks, and how to train one that has it.
        """
        import sentencepiece

        if not Path(path).is_file():
            raise FileNotFoundError(f"no tokenizer at {path}; give a model, bpe:N, bytes or gpt2")
        try:
            model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path} is no SentencePiece model ({error}); name another") from None
        table = evaluate.ByteTable.from_sentencepiece(path, model.vocab_size())
        if model.vocab_size() > 1 << 16:
            raise ValueError(f"{path} has {model.vocab_size()} pieces; shards hold at most 65,536")
        marker_ids = [model.piece_to_id(marker) for marker in caseops.MARKERS]
        if use_caseops and any(model.is_byte(i) or model.is_unknown(i) for i in marker_ids):
            what = f"{path} lacks the CaseOps pieces U+E001..U+E004"
            raise ValueError(f"{what}; train one with --tokenizer bpe:N --caseops")
        fused_ids = {
            model.piece_to_id(marker): model.piece_to_id(f"<0x{byte:02X}>")
            for marker, byte in caseops.FUSED_BYTES.items()
        }
        return cls(
            model=model,
            table=table,
            marker_ids=marker_ids if use_caseops else [],
            fused_ids=fused_ids if fused else {},
            space_id=model.piece_to_id("▁"),
            changes_text=model.decode(model.encode(NORMALISER_PROBE)) != NORMALISER_PROBE,
            keeps_plain=all(model.decode(model.encode(text)) == text for text in PLAIN_PROBES),
            drops_lines="\n" not in model.decode(model.encode("x\ny")),
        )

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size()

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        texts = caseops.encode_all(texts) if self.marker_ids else texts
        tokens_T = _flat(self.model.encode(texts, add_bos=True, num_threads=1))
        bytes_T = self.table.count(np.append(self.bos_id, tokens_T[:-1]), tokens_T)
        if self.marker_ids:
            bytes_T[caseops.marker_bytes(tokens_T, self.marker_ids)] = 0
        if self.fused_ids:
            tokens_T, bytes_T = caseops.fuse(tokens_T, bytes_T, self.space_id, self.fused_ids)
        return tokens_T, bytes_T.astype(np.uint16)

    def decode(self, tokens_T: np.ndarray) -> str:
        if self.fused_ids:
            tokens_T = caseops.unfuse(tokens_T, self.space_id, self.fused_ids)
        text = self.model.decode(np.asarray(tokens_T).tolist())
        return caseops.decode(text) if self.marker_ids else text

    def changed(self, text: str, tokens_T: np.ndarray, excess_bytes: int) -> bool:
        """Whether decoding gives another text; the tokens are decoded only where that is open."""
        if excess_bytes or (self.drops_lines and "\n" in text):
            return True
        # Blanks that are dropped change the length, and so are known already.
        plain = self.keeps_plain and text.isascii() and text.isprintable()
        return self.changes_text and not plain and self.decode(tokens_T) != text


@dataclass(frozen=True)
class Bytes:
    """The UTF-8 bytes themselves, 260 ids."""

    vocab_size: int = 256 + BYTE_OFFSET
    bos_id: int = evaluate.BOS_ID

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        joined = b"".join(b"\xff" + text.encode() for text in texts)  # no UTF-8 text holds FF
        bytes_T = np.frombuffer(joined, np.uint8).astype(np.uint16)
        text_T = bytes_T != 0xFF
        return np.where(text_T, bytes_T + BYTE_OFFSET, self.bos_id), text_T.astype(np.uint16)

    def decode(self, tokens_T: np.ndarray) -> str:
        return (np.asarray(tokens_T) - BYTE_OFFSET).astype(np.uint8).tobytes().decode()

    def changed(self, text: str, tokens_T: np.ndarray, excess_bytes: int) -> bool:
        return False


@dataclass(frozen=True)
class Gpt2:
    """GPT-2's byte-level BPE, for the baselines; its document start is <|endoftext|>."""

    model: Any
    bytes_V: np.ndarray
    vocab_size: int = GPT2_BOS_ID + 1
    bos_id: int = GPT2_BOS_ID

    @classmethod
    def load(cls):
        try:
            import tiktoken
        except ImportError:
            raise ImportError("GPT-2 tokens need tiktoken: pip install tiktoken") from None
        try:
            model = tiktoken.get_encoding("gpt2")  # downloads its vocabulary on first use
        except OSError as error:
            what = f"tiktoken could not get the vocabulary of GPT-2 ({error})"
            raise OSError(f"{what}; go online once, or set TIKTOKEN_CACHE_DIR to a copy") from None
        pieces = {*model.token_byte_values()}
        assert len(pieces) <= GPT2_BOS_ID, f"{len(pieces)} pieces are not those of GPT-2"
        bytes_V = np.zeros(GPT2_BOS_ID + 1, np.uint16)
        for piece in pieces:
            bytes_V[model.encode_single_token(piece)] = len(piece)
        return cls(model, bytes_V)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.model.encode_ordinary_batch(texts, num_threads=1)
        tokens_T = _flat([[self.bos_id, *ids] for ids in encoded])
        return tokens_T, self.bytes_V[tokens_T]

    def decode(self, tokens_T: np.ndarray) -> str:
        return self.model.decode_bytes(np.asarray(tokens_T).tolist()).decode()

    def changed(self, text: str, tokens_T: np.ndarray, excess_bytes: int) -> bool:
        return False


Tokenizer = SentencePiece | Bytes | Gpt2


def _flat(rows: list[list[int]]) -> np.ndarray:
    return np.fromiter(chain.from_iterable(rows), np.uint16, sum(map(len, rows)))


def load(entry: dict, folder: str | Path) -> Tokenizer:
    """Load what the "tokenizer" entry of a manifest describes, from the manifest's folder."""
    if entry["kind"] == "bytes":
        return Bytes()
    if entry["kind"] == "gpt2":
        return Gpt2.load()
    path = Path(folder) / entry["file"]
    return SentencePiece.load(path, entry.get("caseops", False), entry.get("fused", False))


def describe(kind: str, path: Path | None, use_caseops: bool, fused: bool, **facts) -> dict:
    """The "tokenizer" entry of a manifest, once the tokenizer has been loaded and found good."""
    entry = {"kind": kind, "file": path.name if path else None}
    entry |= {"sha256": sha256_file(path) if path else None}
    entry |= {"caseops": use_caseops, "fused": fused}
    tokenizer = load(entry, path.parent if path else ".")
    return entry | {"vocab_size": tokenizer.vocab_size, **facts}


def train_bpe(documents: Iterable[str], vocab_size: int, use_caseops: bool = False) -> bytes:
    """A lossless SentencePiece BPE model with byte fallback, the same for the same documents.

    Raises: ValueError when the documents cannot fill the vocabulary.
    """
    import sentencepiece

    model = io.BytesIO()
    if use_caseops:
        documents = map(caseops.encode, documents)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(documents),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            split_digits=True,
            character_coverage=0.999,
            # Nothing is added, folded or dropped: decoding gives back the very text.
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            max_sentence_length=1 << 30,  # longer documents would be left out without a word
            num_threads=1,
            minloglevel=2,
            user_defined_symbols=list(caseops.MARKERS) if use_caseops else [],
            **{"pad_id": 0, "bos_id": evaluate.BOS_ID, "eos_id": 2, "unk_id": 3},
        )
    except RuntimeError as error:
        what = f"cannot train {vocab_size} pieces on this text ({error})"
        raise ValueError(f"{what}; ask for fewer, or give more text") from None
    return model.getvalue()
