"""CaseOps: a lossless case transform, so that "The" and "the" share one piece of the vocabulary.

A word is a run of ASCII letters. It is written in lower case, and what it was stands before it:

    the -> the    The -> TITLE the    USA -> ALLCAPS usa    iPhone -> i NEXTCAP phone
    McDonald -> TITLE mc NEXTCAP donald    a marker in the text itself -> ESCAPE marker

The four markers are private-use characters, one token each, and stand for no bytes of text.

Source: the idea and the markers are of upstream PR #1729, the fusion of #2109; the code is ours.
"""

import re

import numpy as np

TITLE, ALLCAPS, NEXTCAP, ESCAPE = MARKERS = "\ue001\ue002\ue003\ue004"
MARKER_BYTES = 3  # each one's UTF-8: EE 80 81 .. EE 80 84
# No UTF-8 text holds these bytes, so their byte pieces are free to stand for "▁" and a marker.
FUSED_BYTES = {TITLE: 0xC0, ALLCAPS: 0xC1, NEXTCAP: 0xF5}
OPERATION = re.compile(f"{ESCAPE}([{MARKERS}]?)|{ALLCAPS}([a-z]*)|[{TITLE}{NEXTCAP}]([a-z]?)")


def encode_bytes(text: bytes) -> bytes:
    """The transform of UTF-8 text. Any byte that is no ASCII letter ends a word.

    All is done for whole arrays: one pass marks capitals and markers, one inserts what they need.
    """
    text_N = np.frombuffer(text, np.uint8)
    upper_N = text_N - ord("A") < np.uint8(26)
    inserts = [(_literal_markers(text_N), ESCAPE)]
    upper_U = np.flatnonzero(upper_N)
    if len(upper_U):
        # Runs of capitals, and whether a letter stands before or after each.
        new_run_U = np.diff(upper_U, prepend=-2) > 1
        run_U, first_R = np.cumsum(new_run_U) - 1, upper_U[new_run_U]
        length_R = np.bincount(run_U)
        ends_word_R = ~_is_letter(text_N, first_R + length_R)
        starts_word_R = ~_is_letter(text_N, first_R - 1)
        whole_R = starts_word_R & ends_word_R & (length_R > 1)
        title_U = new_run_U & starts_word_R[run_U]
        inserts += [
            (first_R[whole_R], ALLCAPS),
            (upper_U[title_U & ~whole_R[run_U]], TITLE),
            (upper_U[~title_U & ~whole_R[run_U]], NEXTCAP),
        ]
    at = np.concatenate([places for places, _ in inserts])
    marks = np.concatenate([np.full(len(places), ord(mark) & 63) for places, mark in inserts])
    order = np.argsort(at, kind="stable")
    # Marker i lands after at[i] bytes of text and i markers.
    start_M = at[order] + MARKER_BYTES * np.arange(len(at))
    result = np.empty(len(text_N) + MARKER_BYTES * len(at), np.uint8)
    is_text = np.ones(len(result), bool)
    lead, middle, _ = TITLE.encode()
    for offset, value in enumerate([lead, middle, 0x80 | marks[order]]):
        result[start_M + offset] = value
        is_text[start_M + offset] = False
    result[is_text] = text_N | (upper_N.view(np.uint8) << 5)
    return result.tobytes()


def _is_letter(text_N: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Whether an ASCII letter stands at each place; there is none outside the text."""
    inside = (at >= 0) & (at < len(text_N))
    return inside & ((text_N[np.where(inside, at, 0)] | 32) - ord("a") < np.uint8(26))


def _literal_markers(text_N: np.ndarray) -> np.ndarray:
    """Where the text itself holds a marker."""
    lead, middle, first = TITLE.encode()
    at = np.flatnonzero(text_N[:-2] == lead) if len(text_N) > 2 else np.empty(0, np.int64)
    return at[(text_N[at + 1] == middle) & (text_N[at + 2] - first < np.uint8(len(MARKERS)))]


def encode(text: str) -> str:
    """The transform of one string; decode undoes it for every string, lone surrogates included."""
    return encode_bytes(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def encode_all(texts: list[str]) -> list[str]:
    """The transforms of many strings at once, which for short ones is many times faster.

    Raises: UnicodeEncodeError for lone surrogates.
    """
    joined = b"\xff".join([text.encode() for text in texts])  # no UTF-8 text holds FF
    return [part.decode() for part in encode_bytes(joined).split(b"\xff")] if texts else []


def decode(text: str) -> str:
    """The text that was transformed.

    Markers vanish even where no letter follows, as a model may write them or a normaliser leave
    them, so the bytes of the result are always those of all that is no marker.
    """

    def undo(match: re.Match) -> str:
        literal, word, letter = match.groups(default="")
        return literal or word.upper() or letter.upper()

    return OPERATION.sub(undo, text)


def marker_bytes(tokens_T: np.ndarray, marker_ids: list[int]) -> np.ndarray:
    """Where a token is a marker that stands for no bytes; a marker after an ESCAPE is text."""
    silent_T = np.isin(tokens_T, marker_ids)
    literal = False
    previous = -2
    for at in np.flatnonzero(tokens_T == marker_ids[-1]).tolist():
        # Of a run of ESCAPEs every second one is text, and so is a marker after the others.
        literal = at == previous + 1 and not literal
        silent_T[at] = not literal
        if not literal and at + 1 < len(tokens_T) and tokens_T[at + 1] in marker_ids[:-1]:
            silent_T[at + 1] = False
        previous = at
    return silent_T


def fuse(
    tokens_T: np.ndarray, bytes_T: np.ndarray, space_id: int, fused_ids: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Every "▁" with a marker after it as one token, which takes the bytes of both.

    A marker after "▁" is never text: text would have an ESCAPE before it.
    """
    pair_P = (tokens_T[:-1] == space_id) & np.isin(tokens_T[1:], list(fused_ids))
    first_T = np.append(pair_P, False)[: len(tokens_T)]
    second_T = np.append(False, pair_P)[: len(tokens_T)]
    fused_T, bytes_T = tokens_T.copy(), bytes_T.copy()
    fused_T[second_T] = [fused_ids[token] for token in tokens_T[second_T].tolist()]
    bytes_T[second_T] += bytes_T[first_T]
    return fused_T[~first_T], bytes_T[~first_T]


def unfuse(tokens_T: np.ndarray, space_id: int, fused_ids: dict[int, int]) -> np.ndarray:
    """The tokens as they were before fuse."""
    tokens_T = np.asarray(tokens_T)
    fused_T = np.isin(tokens_T, list(fused_ids.values()))
    spread = np.repeat(tokens_T, 1 + fused_T)
    second = np.flatnonzero(fused_T) + np.arange(1, fused_T.sum() + 1)
    back = {fused: marker for marker, fused in fused_ids.items()}
    spread[second - 1] = space_id
    spread[second] = [back[token] for token in tokens_T[fused_T].tolist()]
    return spread
