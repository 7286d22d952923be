"""Tokenizers: text to tokens, and to the UTF-8 bytes that each token stands for.

Every kind offers the same: encode(texts) gives the documents as one row of tokens, with the bytes
of every token; decode(tokens) gives back the text of one document, its marks left out or not.

Documents are told apart by marks: BOS "before" each, BOS before and EOS after ("around"), or BOS
alone and "after" each, which then ends it.
"""

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

import evaluate
from data import caseops, gpt2_tokenizer
from data.manifest import sha256_file

MODEL_FILE = "tokenizer.model"
BYTE_OFFSET = 4  # after pad, BOS, EOS and unknown, as upstream's byte tokenizer has it
GPT2_BOS_ID = 50_256  # <|endoftext|>
EOS_ID = 2
MARKS = ("before", "around", "after")
PAD_CHARACTERS = 6  # of a document for each token of its row, at most; the rest is not tokenised
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
    marks: str = "before"
    pad_to: int = 0  # tokens of a document's row, filled up with EOS or cut; 0: as they are

    @classmethod
    def load(
        cls,
        path: str | Path,
        use_caseops: bool = False,
        fused: bool = False,
        marks: str = "before",
        pad_to: int = 0,
    ):
        """Load a model that spells every text and counts every byte.

        Raises: ValueError naming what the model lacks, and how to train one that has it.
        """
        import sentencepiece

        if not Path(path).is_file():
            what = "give a model, a folder of GPT-2's form, bpe:N, bytes or gpt2"
            raise FileNotFoundError(f"no tokenizer at {path}; {what}")
        try:
            model = sentencepiece.SentencePieceProcessor(model_file=str(path))
        except (RuntimeError, OSError) as error:
            raise ValueError(f"{path} is no SentencePiece model ({error}); name another") from None
        table = evaluate.ByteTable.from_sentencepiece(path, model.vocab_size())
        if model.vocab_size() > 1 << 16:
            raise ValueError(f"{path} has {model.vocab_size()} pieces; shards hold at most 65,536")
        if (marks == "around" or pad_to) and model.eos_id() != EOS_ID:
            what = f"{path} has eos_id={model.eos_id()}, must have {EOS_ID} to end documents"
            raise ValueError(f"{what}; name a model that has, or another --recipe")
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
            marks=marks,
            pad_to=pad_to,
        )

    @property
    def vocab_size(self) -> int:
        return self.model.vocab_size()

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        if self.pad_to:
            texts = [text[: PAD_CHARACTERS * self.pad_to] for text in texts]
        texts = caseops.encode_all(texts) if self.marker_ids else texts
        rows = self.model.encode(texts, num_threads=1)
        tokens_T = _marked(map(self._row, rows) if self.pad_to else rows, self.marks, self.bos_id)
        bytes_T = self.table.count(np.append(self.bos_id, tokens_T[:-1]), tokens_T)
        if self.marker_ids:
            bytes_T[caseops.marker_bytes(tokens_T, self.marker_ids)] = 0
        if self.fused_ids:
            tokens_T, bytes_T = caseops.fuse(tokens_T, bytes_T, self.space_id, self.fused_ids)
        return tokens_T, bytes_T.astype(np.uint16)

    def _row(self, ids: list[int]) -> list[int]:
        """A row's tokens but for BOS: cut, though never within a character, or filled with EOS."""
        size = self.pad_to - 1
        if len(ids) > size:
            ids = ids[:size]
            while ids and self.model.is_byte(ids[-1]):
                ids.pop()
        return ids + [EOS_ID] * (size - len(ids))

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

    encode_plain: Callable[[str], list[int]]  # no special tokens are looked for
    pieces: list[bytes]  # by id
    bos_id: int = GPT2_BOS_ID
    marks: str = "before"

    @classmethod
    def load(cls, folder: str | Path | None = None, marks: str = "before"):
        """Load a folder's vocab.json and merges.txt, or without one what tiktoken downloads.

        Raises: FileNotFoundError, ValueError for a folder; ImportError with the install command;
        OSError when the download fails.
        """
        if marks == "around":
            raise ValueError("--recipe c4 ends documents with EOS, which GPT-2 lacks; name a model")
        if folder is None:
            return cls(*_from_tiktoken(), marks=marks)
        pieces = gpt2_tokenizer.read_pieces(folder)
        names = (gpt2_tokenizer.VOCABULARY, gpt2_tokenizer.MERGES)
        files = [str(Path(folder) / name) for name in names]
        if not Path(files[1]).is_file():
            raise FileNotFoundError(f"no {gpt2_tokenizer.MERGES} in {folder}; copy GPT-2's there")
        try:
            from tokenizers import Tokenizer, models, pre_tokenizers
        except ImportError:
            raise ImportError("GPT-2 files need tokenizers: pip install tokenizers") from None
        try:
            model = Tokenizer(models.BPE.from_file(*files))
        except Exception as error:  # the library raises no narrower one
            what = f"{files[1]} does not belong to {gpt2_tokenizer.VOCABULARY} ({error})"
            raise ValueError(f"{what}; copy GPT-2's as published") from None
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bos_id = pieces.index(b"")
        return cls(lambda text: model.encode(text).ids, pieces, bos_id, marks)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        bytes_V = np.array([len(piece) for piece in self.pieces], np.uint16)
        tokens_T = _marked(map(self.encode_plain, texts), self.marks, self.bos_id)
        return tokens_T, bytes_V[tokens_T]

    def decode(self, tokens_T: np.ndarray) -> str:
        return b"".join(self.pieces[i] for i in np.asarray(tokens_T).tolist()).decode()

    def changed(self, text: str, tokens_T: np.ndarray, excess_bytes: int) -> bool:
        return False


def _from_tiktoken() -> tuple[Callable[[str], list[int]], list[bytes]]:
    try:
        import tiktoken
    except ImportError:
        what = "GPT-2 tokens need tiktoken: pip install tiktoken"
        raise ImportError(f"{what}; or name a folder with vocab.json and merges.txt") from None
    try:
        model = tiktoken.get_encoding("gpt2")  # downloads its vocabulary on first use
    except OSError as error:
        what = f"tiktoken could not get the vocabulary of GPT-2 ({error})"
        raise OSError(f"{what}; go online once, or set TIKTOKEN_CACHE_DIR to a copy") from None
    found = {*model.token_byte_values()}
    assert len(found) <= GPT2_BOS_ID, f"{len(found)} pieces are not those of GPT-2"
    pieces = [b""] * (GPT2_BOS_ID + 1)
    for piece in found:
        pieces[model.encode_single_token(piece)] = piece
    return model.encode_ordinary, pieces


Tokenizer = SentencePiece | Bytes | Gpt2


def _marked(rows: Iterable[list[int]], marks: str, bos_id: int) -> np.ndarray:
    """The documents as one row, with their marks."""
    before = [] if marks == "after" else [bos_id]
    after = {"before": [], "around": [EOS_ID], "after": [bos_id]}[marks]
    marked = [[*before, *ids, *after] for ids in rows]
    return np.fromiter(chain.from_iterable(marked), np.uint16, sum(map(len, marked)))


def load(entry: dict, folder: str | Path) -> Tokenizer:
    """Load what the "tokenizer" entry of a manifest describes, from the manifest's folder."""
    marks, pad_to = entry.get("marks", "before"), entry.get("pad_to", 0)
    if entry["kind"] == "bytes":
        if marks != "before" or pad_to:
            raise ValueError("the byte tokenizer marks starts alone; name a model with --tokenizer")
        return Bytes()
    path = Path(folder) / entry["file"] if entry.get("file") else None
    if entry["kind"] == "gpt2":
        if pad_to:
            raise ValueError(f"--pad-to {pad_to} fills up with EOS, which GPT-2 does not have")
        return Gpt2.load(path and path.parent, marks)
    caseops_too = entry.get("caseops", False), entry.get("fused", False)
    return SentencePiece.load(path, *caseops_too, marks, pad_to)


def describe(kind: str, path: Path | None, use_caseops: bool, fused: bool, **facts) -> dict:
    """The "tokenizer" entry of a manifest, once the tokenizer has been loaded and found good.

    Facts are more of the entry: marks and pad_to where they are not the usual ones.
    """
    entry = {"kind": kind, "file": path.name if path else None}
    entry |= {"sha256": sha256_file(path) if path else None}
    entry |= {"caseops": use_caseops, "fused": fused, **facts}
    tokenizer = load(entry, path.parent if path else ".")
    return entry | {"vocab_size": tokenizer.vocab_size}


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
