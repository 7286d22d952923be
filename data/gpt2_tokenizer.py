"""GPT-2's byte-level vocabulary from a local folder, vocab.json and merges.txt as published.

A piece spells bytes, one character for each, so the bytes that a token stands for are in the
vocabulary itself: nothing has to be decoded, downloaded or guessed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import evaluate

VOCABULARY, MERGES = "vocab.json", "merges.txt"
END = "<|endoftext|>"  # stands between documents; the one piece that is no text


def vocabulary_file(path: str | Path) -> Path:
    """The file that a manifest's hash is of: the vocabulary of a folder, or the file itself."""
    return Path(path) / VOCABULARY if Path(path).is_dir() else Path(path)


def byte_of_character() -> dict[str, int]:
    """The byte that each character of a piece stands for.

    Printable bytes of Latin-1 stand for themselves, the others in order for U+0100 and on.
    Source: GPT-2's published encoder.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def read_pieces(folder: str | Path) -> list[bytes]:
    """The bytes of every token, by id; <|endoftext|> alone has none.

    Raises: FileNotFoundError; ValueError naming the file, the piece or id, and the remedy.
    """
    path, of = Path(folder) / VOCABULARY, byte_of_character()
    remedy = f"give GPT-2's {VOCABULARY} as published"
    if not path.is_file():
        raise FileNotFoundError(f"no {VOCABULARY} in {folder}; {remedy}")
    try:
        ids = json.loads(path.read_bytes())
        pieces: list = [None] * len(ids)
        for piece, i in ids.items():
            if i < 0 or not piece:
                raise ValueError(f"piece {piece!r} of id {i}")
            pieces[i] = b"" if piece == END else bytes(of[char] for char in piece)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is no JSON object of pieces ({error}); {remedy}") from None
    except KeyError:
        raise ValueError(f"{path}: piece {piece!r} spells no bytes; {remedy}") from None
    except IndexError:
        raise ValueError(f"{path}: id {i} of {len(ids)} pieces; {remedy}") from None
    missing = {bytes([byte]) for byte in range(256)} - set(pieces)
    if missing or END not in ids or None in pieces:
        what = f"{len(missing)} single bytes" if missing else END if END not in ids else "an id"
        raise ValueError(f"{path} lacks {what}; {remedy}")
    if len(pieces) > 1 << 16:
        raise ValueError(f"{path} has {len(pieces)} pieces; shards hold at most 65,536")
    return pieces


class PieceTable(evaluate.ByteTable):
    """Bytes that are the pieces' own spelling, whatever stands before them."""

    def check(self, model_path: str | Path, tokens_T: np.ndarray) -> None:
        """Nothing to compare: no decoder could read a piece in another way than it is spelled."""


def byte_table(path: str | Path, vocab_size: int) -> evaluate.ByteTable:
    """How many bytes each token stands for, by a GPT-2 folder or a SentencePiece model.

    Raises: ValueError where the vocabulary has another size, or miscounts; FileNotFoundError.
    """
    if not Path(path).is_dir():
        return evaluate.ByteTable.from_sentencepiece(path, vocab_size)
    pieces = read_pieces(path)
    if len(pieces) != vocab_size:
        raise ValueError(f"{path} has {len(pieces)} pieces, must have {vocab_size=}")
    no_V = np.zeros(vocab_size, bool)  # a space is a byte of its piece, never dropped
    length_V = np.array([len(piece) for piece in pieces], np.int64)
    return PieceTable(length_V, no_V, no_V, bos_id=pieces.index(b""))
