"""CaseOps: a lossless case transform, so that "The" and "the" share one piece of the vocabulary.

A word is a run of ASCII letters. It is written in lower case, and a marker before it says how it
was written:

    the       ->  the
    The       ->  TITLE the
    USA       ->  ALLCAPS usa
    iPhone    ->  i NEXTCAP phone
    McDonald  ->  TITLE mc NEXTCAP donald
    a marker that the text itself holds  ->  ESCAPE marker

The four markers are private-use characters, one token each, and stand for no bytes of text.

Fusion goes one step further: "▁" (the space) with a marker behind it becomes one token.

    ▁ TITLE the  ->  ▁TITLE the

Source: the idea and the markers are of upstream PR #1729, the fusion of #2109; the code is ours.
"""

import re

import numpy as np

MARKERS = "\ue001\ue002\ue003\ue004"
TITLE, ALLCAPS, NEXTCAP, ESCAPE = MARKERS
# In UTF-8 the markers are EE 80 81, EE 80 82, EE 80 83 and EE 80 84: the last byte tells which.
MARKER_BYTES = 3
MARKER_LEAD, MARKER_MIDDLE, FIRST_MARKER = TITLE.encode()
# UTF-8 text never holds these bytes, so their byte pieces are free to stand for "▁" and a marker.
FUSED_BYTES = {TITLE: 0xC0, ALLCAPS: 0xC1, NEXTCAP: 0xF5}
OPERATION = re.compile(f"{ESCAPE}([{MARKERS}]?)|{ALLCAPS}([a-z]*)|[{TITLE}{NEXTCAP}]([a-z]?)")


def encode_bytes(text: bytes) -> bytes:
    """Return the transform of UTF-8 text. Any byte that is not an ASCII letter ends a word.

    Python loops over characters would be a hundred times slower, so whole arrays are handled: one
    pass finds where markers go, one makes room for them.

    Example: b"The USA" -> TITLE b"the " ALLCAPS b"usa"
    """
    text_N = np.frombuffer(text, np.uint8)
    # Unsigned bytes below "A" wrap to large numbers, so one comparison tests both ends of A..Z.
    upper_N = text_N - ord("A") < np.uint8(26)
    places = [_literal_markers(text_N)]
    markers = [ESCAPE]
    upper_U = np.flatnonzero(upper_N)
    if len(upper_U):
        for marker, places_M in _case_marks(text_N, upper_U).items():
            places.append(places_M)
            markers.append(marker)
    at_M = np.concatenate(places)
    last_bytes = [
        np.full(len(places_M), marker.encode()[-1])
        for places_M, marker in zip(places, markers, strict=True)
    ]
    # Sorting is stable: where an ESCAPE and a marker meet, the ESCAPE stays first.
    order_M = np.argsort(at_M, kind="stable")
    last_byte_M = np.concatenate(last_bytes)[order_M]
    # Marker i lands behind at[i] bytes of text and the i markers before it.
    start_M = at_M[order_M] + MARKER_BYTES * np.arange(len(at_M))
    result = np.empty(len(text_N) + MARKER_BYTES * len(at_M), np.uint8)
    is_text = np.ones(len(result), bool)
    for offset, value in enumerate([MARKER_LEAD, MARKER_MIDDLE, last_byte_M]):
        result[start_M + offset] = value
        is_text[start_M + offset] = False
    # Bit 5 is what tells "a" from "A" in ASCII.
    result[is_text] = text_N | (upper_N.view(np.uint8) << 5)
    return result.tobytes()


def _case_marks(text_N: np.ndarray, upper_U: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each case marker the places before which it stands.

    R counts runs of capitals, U single capitals. A run that is a whole word of two letters or more
    is ALLCAPS. Else the first capital is a TITLE if it starts its word, and all others NEXTCAP.
    """
    starts_run_U = np.diff(upper_U, prepend=-2) > 1
    run_U = np.cumsum(starts_run_U) - 1
    first_R = upper_U[starts_run_U]
    length_R = np.bincount(run_U)
    starts_word_R = ~_is_letter(text_N, first_R - 1)
    ends_word_R = ~_is_letter(text_N, first_R + length_R)
    all_caps_R = starts_word_R & ends_word_R & (length_R > 1)
    title_U = starts_run_U & starts_word_R[run_U]
    single_U = ~all_caps_R[run_U]
    return {
        ALLCAPS: first_R[all_caps_R],
        TITLE: upper_U[title_U & single_U],
        NEXTCAP: upper_U[~title_U & single_U],
    }


def _is_letter(text_N: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return whether an ASCII letter stands at each place; outside the text there is none."""
    inside = (at >= 0) & (at < len(text_N))
    byte = text_N[np.where(inside, at, 0)]
    return inside & ((byte | 32) - ord("a") < np.uint8(26))


def _literal_markers(text_N: np.ndarray) -> np.ndarray:
    """Return the places where the text itself holds a marker."""
    if len(text_N) < MARKER_BYTES:
        return np.empty(0, np.int64)
    at = np.flatnonzero(text_N[:-2] == MARKER_LEAD)
    is_middle = text_N[at + 1] == MARKER_MIDDLE
    is_last = text_N[at + 2] - FIRST_MARKER < np.uint8(len(MARKERS))
    return at[is_middle & is_last]


def encode(text: str) -> str:
    """Transform one string; decode undoes it for every string, lone surrogates included."""
    return encode_bytes(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")


def encode_all(texts: list[str]) -> list[str]:
    """Transform many strings at once, which for short ones is many times faster.

    Raises: UnicodeEncodeError for lone surrogates.
    """
    if not texts:
        return []
    # The byte FF never stands in UTF-8 text, so it can stand between texts.
    joined = b"\xff".join([text.encode() for text in texts])
    return [part.decode() for part in encode_bytes(joined).split(b"\xff")]


def decode(text: str) -> str:
    """Return the text that was transformed.

    Markers vanish even where no letter follows, as a model may write them or a normaliser leave
    them. So the bytes of the result are always those of everything that is not a marker.
    """

    def undo(match: re.Match) -> str:
        literal, word, letter = match.groups(default="")
        return literal or word.upper() or letter.upper()

    return OPERATION.sub(undo, text)


def marker_bytes(tokens_T: np.ndarray, marker_ids: list[int]) -> np.ndarray:
    """Return which tokens are markers that stand for no bytes; a marker after ESCAPE is text.

    Example: TITLE the ESCAPE TITLE -> True False True False
    """
    silent_T = np.isin(tokens_T, marker_ids)
    escape_id = marker_ids[-1]
    literal = False
    previous = -2
    for at in np.flatnonzero(tokens_T == escape_id).tolist():
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
    """Write every "▁" with a marker behind it as one token, which takes the bytes of both.

    fused_ids maps a marker to the token of "▁" and that marker. A marker after "▁" is never text:
    text would have an ESCAPE before it.

    Example, with {TITLE: ▁TITLE}: ▁ TITLE the -> ▁TITLE the; bytes 1 0 3 -> 1 3
    """
    pair_P = (tokens_T[:-1] == space_id) & np.isin(tokens_T[1:], list(fused_ids))
    # The slices keep the length right for an empty row too.
    first_T = np.append(pair_P, False)[: len(tokens_T)]
    second_T = np.append(False, pair_P)[: len(tokens_T)]
    fused_T = tokens_T.copy()
    fused_T[second_T] = [fused_ids[token] for token in tokens_T[second_T].tolist()]
    bytes_T = bytes_T.copy()
    bytes_T[second_T] += bytes_T[first_T]
    return fused_T[~first_T], bytes_T[~first_T]


def unfuse(tokens_T: np.ndarray, space_id: int, fused_ids: dict[int, int]) -> np.ndarray:
    """Return the tokens as they were before fuse."""
    tokens_T = np.asarray(tokens_T)
    fused_T = np.isin(tokens_T, list(fused_ids.values()))
    spread = np.repeat(tokens_T, 1 + fused_T)
    # Each fused token is there twice now: the first becomes the space, the second the marker.
    second = np.flatnonzero(fused_T) + np.arange(1, fused_T.sum() + 1)
    marker_of = {fused: marker for marker, fused in fused_ids.items()}
    spread[second - 1] = space_id
    spread[second] = [marker_of[token] for token in tokens_T[fused_T].tolist()]
    return spread
