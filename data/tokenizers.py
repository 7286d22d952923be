"""Tokenizers: text to tokens, and to the UTF-8 bytes that each token stands for.

Every kind offers the same: encode(texts) gives the documents as one row of tokens, with the bytes
of every token; decode(tokens) gives back the text of one document, its marks left out or not.

Documents are told apart by marks: BOS "before" each, BOS before and EOS after ("around"), or BOS
alone and "after" each, which then ends it. The texts "ab" and "c" as bytes ("a" is 97 + 4):

    before   1 101 102 1 103          bytes of text  0 1 1 0 1
    around   1 101 102 2 1 103 2                     0 1 1 0 0 1 0
    after    101 102 1 103 1                         1 1 0 1 0
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
from data.files import sha256_file
from data.gpt2_tokenizer import MOST_PIECES

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
        model = _read_model(path)
        table = evaluate.ByteTable.from_sentencepiece(path, model.vocab_size())
        if model.vocab_size() > MOST_PIECES:
            message = f"{path} has {model.vocab_size()} pieces; shards hold at most"
            raise ValueError(f"{message} {MOST_PIECES:,}")
        if (marks == "around" or pad_to) and model.eos_id() != EOS_ID:
            message = f"{path} has eos_id={model.eos_id()}, must have {EOS_ID} to end documents"
            raise ValueError(f"{message}; name a model that has, or another --corpus")
        marker_ids = [model.piece_to_id(marker) for marker in caseops.MARKERS]
        if use_caseops and any(model.is_byte(i) or model.is_unknown(i) for i in marker_ids):
            message = f"{path} lacks the CaseOps pieces U+E001..U+E004"
            raise ValueError(f"{message}; train one with --tokenizer bpe:N --caseops")
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
        if self.marker_ids:
            texts = caseops.encode_all(texts)
        rows = self.model.encode(texts, num_threads=1)
        if self.pad_to:
            rows = [self._padded(ids) for ids in rows]
        tokens_T = _marked(rows, self.marks, self.bos_id)
        # The table needs the token before each one: a leading space vanishes after BOS.
        before_T = np.append(self.bos_id, tokens_T[:-1])
        bytes_T = self.table.count(before_T, tokens_T)
        if self.marker_ids:
            bytes_T[caseops.marker_bytes(tokens_T, self.marker_ids)] = 0
        if self.fused_ids:
            tokens_T, bytes_T = caseops.fuse(tokens_T, bytes_T, self.space_id, self.fused_ids)
        return tokens_T, bytes_T.astype(np.uint16)

    def _padded(self, ids: list[int]) -> list[int]:
        """Return a row's tokens but for BOS: cut, never within a character, or filled with EOS."""
        size = self.pad_to - 1
        if len(ids) > size:
            ids = ids[:size]
            # A character may be several byte pieces: half of it would decode to another text.
            while ids and self.model.is_byte(ids[-1]):
                ids.pop()
        return ids + [EOS_ID] * (size - len(ids))

    def decode(self, tokens_T: np.ndarray) -> str:
        if self.fused_ids:
            tokens_T = caseops.unfuse(tokens_T, self.space_id, self.fused_ids)
        text = self.model.decode(np.asarray(tokens_T).tolist())
        return caseops.decode(text) if self.marker_ids else text

    def changed(self, text: str, tokens_T: np.ndarray, excess_bytes: int) -> bool:
        """Return whether decoding gives another text; it decodes only where that is open."""
        if excess_bytes or (self.drops_lines and "\n" in text):
            return True
        # Blanks that are dropped change the length, and so are known already.
        plain = self.keeps_plain and text.isascii() and text.isprintable()
        if plain or not self.changes_text:
            return False
        return self.decode(tokens_T) != text


def _read_model(path: str | Path):
    """Read a SentencePiece model's file. Raises: FileNotFoundError, ValueError."""
    import sentencepiece

    if not Path(path).is_file():
        remedy = "give a model, a folder of GPT-2's form, bpe:N, bytes or gpt2"
        raise FileNotFoundError(f"no tokenizer at {path}; {remedy}")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        message = f"{path} is not a SentencePiece model ({error}); name another"
        raise ValueError(message) from None


@dataclass(frozen=True)
class Bytes:
    """The UTF-8 bytes themselves, 260 ids."""

    vocab_size: int = 256 + BYTE_OFFSET
    bos_id: int = evaluate.BOS_ID

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        # The byte FF never stands in UTF-8 text, so it can mark the starts.
        joined = b"".join(b"\xff" + text.encode() for text in texts)
        bytes_T = np.frombuffer(joined, np.uint8).astype(np.uint16)
        is_text_T = bytes_T != 0xFF
        tokens_T = np.where(is_text_T, bytes_T + BYTE_OFFSET, self.bos_id)
        return tokens_T, is_text_T.astype(np.uint16)

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
            raise ValueError("--corpus c4 ends documents with EOS, which GPT-2 lacks; name a model")
        if folder is None:
            return cls(*_from_tiktoken(), marks=marks)
        pieces = gpt2_tokenizer.read_pieces(folder)
        model = _from_folder(Path(folder))
        return cls(lambda text: model.encode(text).ids, pieces, pieces.index(b""), marks)

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        bytes_V = np.array([len(piece) for piece in self.pieces], np.uint16)
        rows = [self.encode_plain(text) for text in texts]
        tokens_T = _marked(rows, self.marks, self.bos_id)
        return tokens_T, bytes_V[tokens_T]

    def decode(self, tokens_T: np.ndarray) -> str:
        return b"".join(self.pieces[i] for i in np.asarray(tokens_T).tolist()).decode()

    def changed(self, text: str, tokens_T: np.ndarray, excess_bytes: int) -> bool:
        return False


def _from_folder(folder: Path):
    """Load vocab.json and merges.txt into the tokenizers library's byte-level BPE."""
    names = (gpt2_tokenizer.VOCABULARY, gpt2_tokenizer.MERGES)
    files = [str(folder / name) for name in names]
    if not Path(files[1]).is_file():
        raise FileNotFoundError(f"no {gpt2_tokenizer.MERGES} in {folder}; copy GPT-2's there")
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers
    except ImportError:
        raise ImportError("GPT-2 files need tokenizers: pip install tokenizers") from None
    try:
        model = Tokenizer(models.BPE.from_file(*files))
    except Exception as error:  # the library raises no narrower one
        message = f"{files[1]} does not belong to {gpt2_tokenizer.VOCABULARY} ({error})"
        raise ValueError(f"{message}; copy GPT-2's as published") from None
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return model


def _from_tiktoken() -> tuple[Callable[[str], list[int]], list[bytes]]:
    try:
        import tiktoken
    except ImportError:
        message = "GPT-2 tokens need tiktoken: pip install tiktoken"
        raise ImportError(f"{message}; or name a folder with vocab.json and merges.txt") from None
    try:
        model = tiktoken.get_encoding("gpt2")  # downloads its vocabulary on first use
    except OSError as error:
        message = f"tiktoken could not get the vocabulary of GPT-2 ({error})"
        raise OSError(f"{message}; go online once, or set TIKTOKEN_CACHE_DIR to a copy") from None
    spellings = set(model.token_byte_values())
    assert len(spellings) <= GPT2_BOS_ID, f"{len(spellings)} pieces are not those of GPT-2"
    pieces = [b""] * (GPT2_BOS_ID + 1)
    for piece in spellings:
        pieces[model.encode_single_token(piece)] = piece
    return model.encode_ordinary, pieces


Tokenizer = SentencePiece | Bytes | Gpt2


def _marked(rows: Iterable[list[int]], marks: str, bos_id: int) -> np.ndarray:
    """Return the documents as one row, with their marks."""
    before = [] if marks == "after" else [bos_id]
    after = {"before": [], "around": [EOS_ID], "after": [bos_id]}[marks]
    marked = [[*before, *ids, *after] for ids in rows]
    # With the length given, numpy makes no list of Python integers on the way.
    return np.fromiter(chain.from_iterable(marked), np.uint16, sum(map(len, marked)))


def load(entry: dict, folder: str | Path) -> Tokenizer:
    """Load what the "tokenizer" entry of a manifest describes, from the manifest's folder."""
    marks = entry.get("marks", "before")
    pad_to = entry.get("pad_to", 0)
    if entry["kind"] == "bytes":
        if marks != "before" or pad_to:
            raise ValueError("the byte tokenizer marks starts alone; name a model with --tokenizer")
        return Bytes()
    path = Path(folder) / entry["file"] if entry.get("file") else None
    if entry["kind"] == "gpt2":
        if pad_to:
            raise ValueError(f"--pad-to {pad_to} fills up with EOS, which GPT-2 does not have")
        return Gpt2.load(path and path.parent, marks)
    use_caseops = entry.get("caseops", False)
    fused = entry.get("fused", False)
    return SentencePiece.load(path, use_caseops, fused, marks, pad_to)


def describe(kind: str, path: Path | None, use_caseops: bool, fused: bool, **more) -> dict:
    """Return the "tokenizer" entry of a manifest, once the tokenizer has loaded well.

    More keys of the entry may be given: marks and pad_to where they are not the usual ones.
    """
    entry = {
        "kind": kind,
        "file": path.name if path else None,
        "sha256": sha256_file(path) if path else None,
        "caseops": use_caseops,
        "fused": fused,
        **more,
    }
    tokenizer = load(entry, path.parent if path else ".")
    return entry | {"vocab_size": tokenizer.vocab_size}


def train_bpe(documents: Iterable[str], vocab_size: int, use_caseops: bool = False) -> bytes:
    """Train a lossless SentencePiece BPE model with byte fallback; same documents, same bytes.

    Raises: ValueError when the documents cannot fill the vocabulary.
    """
    import sentencepiece

    if use_caseops:
        documents = map(caseops.encode, documents)
    model = io.BytesIO()
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
            num_threads=1,  # with more, ties are broken by who comes first
            minloglevel=2,
            user_defined_symbols=list(caseops.MARKERS) if use_caseops else [],
            pad_id=0,
            bos_id=evaluate.BOS_ID,
            eos_id=EOS_ID,
            unk_id=3,
        )
    except RuntimeError as error:
        message = f"cannot train {vocab_size} pieces on this text ({error})"
        raise ValueError(f"{message}; ask for fewer, or give more text") from None
    return model.getvalue()
