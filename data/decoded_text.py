"""Validation text as its tokenizer decodes it, against the bytes that are counted for it.

The score divides by those bytes. Three threads of the field counted every space twice, others a
byte piece or U+FFFD as three bytes; each changed the score by more than the prize margin. So every
document is decoded, and where the count is not that of the text, the known miscounts are named.
"""

from __future__ import annotations

import numpy as np

from data import tokenizers
from data.counted_progress import CountedProgress
from data.manifest import hash_document
from data.shard_facts import documents_of

ROUND_TRIPS = 200  # documents that are decoded and encoded again


class DecodedText:
    """Validation text as its tokenizer decodes it, and where the counted bytes are not its bytes.

    total counts the bytes of decoded documents. Where BOS ends documents, what stands before the
    first BOS and behind the last one may be cut within a character, so it is counted as stored.
    """

    def __init__(
        self, tokens_T: np.ndarray, bytes_T: np.ndarray, bos_id: int, ends: bool, tokenizer
    ):
        self.hashes: list[int] = []
        self.miscounts: list[str] = []
        self.round_trips = 0  # of the first ROUND_TRIPS documents
        start = int((tokens_T == bos_id).argmax())
        self.total = int(bytes_T[:start].sum(dtype=np.int64))
        documents = list(documents_of(tokens_T, bos_id))
        if ends and documents:
            tail = documents.pop()
            self.total += int(bytes_T[len(tokens_T) - len(tail) :].sum(dtype=np.int64))
        progress = CountedProgress("verify validation text", len(documents))
        for number, ids_T in enumerate(documents):
            progress.add(1)
            text = tokenizer.decode(ids_T[1:])
            size = len(text.encode())
            counted = int(bytes_T[start : start + len(ids_T)].sum())
            if size != counted:
                reason = explain(counted - size, ids_T, tokenizer)
                message = f"validation document {number} has {size} bytes, not {counted}{reason}"
                self.miscounts.append(message)
            if number < ROUND_TRIPS:
                again_T = tokenizer.encode([text])[0]
                if ends:
                    again_T = np.roll(again_T, 1)  # its BOS is the last token
                self.round_trips += np.array_equal(again_T, ids_T)
            self.hashes.append(hash_document(text))
            self.total += size
            start += len(ids_T)
        progress.finish()


def explain(excess: int, tokens_T: np.ndarray, tokenizer) -> str:
    """Say which known miscount would give so many bytes too many; empty when none would.

    Example: " a b" with every space counted twice has 2 bytes too many, and 2 spaces.
    """
    if not isinstance(tokenizer, tokenizers.SentencePiece):
        return ""
    table = tokenizer.table
    ids = tokens_T[1:].astype(np.int64)
    spaces = int(table.leading_space_V[ids].sum())
    if excess == spaces > 0:
        return ": as if every leading space were counted twice"
    byte_V = np.array([tokenizer.model.is_byte(i) for i in range(len(table.base_bytes_V))])
    if excess == 2 * int(byte_V[ids].sum()) > 0:
        return ": as if every byte piece were counted 3"
    if excess == 2 * spaces > 0:
        return ": as if every space were counted 3, as without the piece U+2581"
    return ""
