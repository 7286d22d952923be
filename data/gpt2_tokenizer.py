"""GPT-2's byte-level vocabulary from a local folder, vocab.json and merges.txt as published.

A piece spells bytes, one character for each byte, so the bytes that a token stands for are in the
vocabulary itself: nothing has to be decoded, downloaded or guessed. "Ġthe" spells b" the", since
U+0120 ("Ġ") stands for the byte 32.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

import evaluate

VOCABULARY = "vocab.json"
MERGES = "merges.txt"
END = "<|endoftext|>"  # stands between documents; the one piece that is not text
MOST_PIECES = 1 << 16  # a shard holds 16 bits a token


def vocabulary_file(path: str | Path) -> Path:
    """Return the file that a manifest's hash is of: the vocabulary of a folder, or the file."""
    return Path(path) / VOCABULARY if Path(path).is_dir() else Path(path)


def byte_of_character() -> dict[str, int]:
    """Return the byte that each character of a piece stands for.

    Printable bytes of Latin-1 stand for themselves, all others, in order, for U+0100 and on:
    "a" -> 97, "Ā" -> 0, "Ġ" -> 32.

    Source: GPT-2's published encoder.
    """
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    by_itself = {chr(byte): byte for byte in plain}
    moved = {chr(256 + place): byte for place, byte in enumerate(others)}
    return by_itself | moved


def read_pieces(folder: str | Path) -> list[bytes]:
    """Return the bytes of every token, by id; <|endoftext|> alone has none.

    Raises: FileNotFoundError; ValueError naming the file, the piece or id, and the remedy.
    """
    path = Path(folder) / VOCABULARY
    remedy = f"give GPT-2's {VOCABULARY} as published"
    if not path.is_file():
        raise FileNotFoundError(f"no {VOCABULARY} in {folder}; {remedy}")
    byte_of = byte_of_character()
    try:
        ids = json.loads(path.read_bytes())
        pieces: list = [None] * len(ids)
        for piece, token in ids.items():
            if token < 0 or not piece:
                raise ValueError(f"piece {piece!r} of id {token}")
            pieces[token] = b"" if piece == END else bytes(byte_of[char] for char in piece)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object of pieces ({error}); {remedy}") from None
    except KeyError:
        raise ValueError(f"{path}: piece {piece!r} spells no bytes; {remedy}") from None
    except IndexError:
        raise ValueError(f"{path}: id {token} of {len(ids)} pieces; {remedy}") from None
    lacks = _missing_pieces(ids, pieces)
    if lacks:
        raise ValueError(f"{path} lacks {lacks}; {remedy}")
    if len(pieces) > MOST_PIECES:
        raise ValueError(f"{path} has {len(pieces)} pieces; shards hold at most {MOST_PIECES:,}")
    return pieces


def _missing_pieces(ids: dict[str, int], pieces: list) -> str:
    """Name what a vocabulary needs and lacks; empty when it can spell every text."""
    single_bytes = {bytes([byte]) for byte in range(256)}
    missing = single_bytes - set(pieces)
    if missing:
        return f"{len(missing)} single bytes"
    if END not in ids:
        return END
    return "an id" if None in pieces else ""


class PieceTable(evaluate.ByteTable):
    """Bytes that are the pieces' own spelling, whatever stands before them."""

    def check(self, model_path: str | Path, tokens_T: np.ndarray) -> None:
        """Compare nothing: no decoder could read a piece in another way than it is spelled."""


def byte_table(path: str | Path, vocab_size: int) -> evaluate.ByteTable:
    """Return how many bytes each token stands for, by a GPT-2 folder or a SentencePiece model.

    Raises: ValueError where the vocabulary has another size, or miscounts; FileNotFoundError.
    """
    if not Path(path).is_dir():
        return evaluate.ByteTable.from_sentencepiece(path, vocab_size)
    pieces = read_pieces(path)
    if len(pieces) != vocab_size:
        raise ValueError(f"{path} has {len(pieces)} pieces, must have {vocab_size=}")
    length_V = np.array([len(piece) for piece in pieces], np.int64)
    no_V = np.zeros(vocab_size, bool)  # a space is a byte of its piece, never dropped
    return PieceTable(length_V, no_V, no_V, bos_id=pieces.index(b""))
