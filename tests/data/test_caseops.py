"""CaseOps: lossless on every string, as defined on words, fast, and exact in bytes."""

import re
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data import caseops

PARTS = "aAbBzZ @[`{\ue000\ue001\ue002\ue003\ue004\ue005éß▁\u212a\0\n"
CHARACTERS = st.one_of(st.sampled_from(PARTS + "\ud800\udfff"), st.characters())
TEXTS = st.text(CHARACTERS, max_size=60)
MARKER_IDS, SPACE_ID = [4, 5, 6, 7], 9
FUSED_IDS = {4: 20, 5: 21, 6: 22}


def by_words(text: str) -> str:
    """The definition, one word after the other."""

    def word(match):
        word = match[0]
        if word in caseops.MARKERS:
            return caseops.ESCAPE + word
        if len(word) > 1 and word.isupper():
            return caseops.ALLCAPS + word.lower()
        letters = []
        for place, letter in enumerate(word):
            mark = caseops.NEXTCAP if place else caseops.TITLE
            letters.append(mark + letter.lower() if letter.isupper() else letter)
        return "".join(letters)

    return re.sub(f"[A-Za-z]+|[{caseops.MARKERS}]", word, text)


@settings(deadline=None, max_examples=500)
@given(TEXTS)
@example("\ud800A\udfff \ue004\ue001a USA's McDONALD X")
def test_encode_is_its_definition_and_decode_undoes_it(text):
    """Every string comes back, surrogates and markers included, and words are marked as defined."""
    assert caseops.encode(text) == by_words(text)
    assert caseops.decode(caseops.encode(text)) == text


def test_words_are_marked():
    """The four forms of a word."""
    marks = dict(zip("TANE", caseops.MARKERS, strict=True))
    cases = {"the": "the", "The": "Tthe", "USA": "Ausa", "iPhone": "iNphone", "A": "Ta"}
    cases |= {"McDonald": "TmcNdonald", "HTMl": "ThNtNml", "x1Y": "x1Ty"}
    for text, marked in cases.items():
        assert caseops.encode(text) == "".join(marks.get(letter, letter) for letter in marked)


@settings(deadline=None)
@given(st.lists(st.text(st.sampled_from(PARTS), max_size=20), max_size=6))
def test_many_texts_do_not_touch(texts):
    """A batch gives what its texts give one by one: no word reaches into the next text."""
    assert caseops.encode_all(texts) == [caseops.encode(text) for text in texts]


@settings(deadline=None)
@given(TEXTS)
@example("\ue004\ue004\ue004\ue001a\ue001b")
def test_decode_keeps_all_bytes_but_those_of_operators(text):
    """Also for text that encode cannot have made, as a normaliser or a model may leave it."""
    tokens_T = np.array([4 + caseops.MARKERS.find(c) if c in caseops.MARKERS else 3 for c in text])
    silent_T = caseops.marker_bytes(tokens_T, MARKER_IDS)
    sizes = [len(c.encode("utf-8", "surrogatepass")) for c in text]
    counted = sum(size for size, silent in zip(sizes, silent_T, strict=True) if not silent)
    assert counted == len(caseops.decode(text).encode("utf-8", "surrogatepass"))


def test_the_bytes_of_a_literal_marker_are_its_own():
    """In a run of escapes every second one is text, and a marker only behind one of the others."""
    tokens_T = np.array([7, 7, 7, 4, 4, 3, 7, 7, 4, 7, 6])
    silent = [True, False, True, False, True, False, True, False, True, True, False]
    assert caseops.marker_bytes(tokens_T, MARKER_IDS).tolist() == silent


@settings(deadline=None)
@given(st.lists(st.sampled_from([*MARKER_IDS, SPACE_ID, 10, 11]), max_size=30))
def test_fusion_comes_apart_again(tokens):
    """unfuse undoes fuse, no byte is lost, and no space with a marker behind it is left."""
    tokens_T = np.array(tokens, np.uint16)
    bytes_T = np.arange(len(tokens_T))
    fused_T, fused_bytes_T = caseops.fuse(tokens_T, bytes_T, SPACE_ID, FUSED_IDS)
    assert caseops.unfuse(fused_T, SPACE_ID, FUSED_IDS).tolist() == tokens
    assert fused_bytes_T.sum() == bytes_T.sum() and len(fused_bytes_T) == len(fused_T)
    pairs = set(zip(fused_T[:-1].tolist(), fused_T[1:].tolist(), strict=True))
    assert not pairs & {(SPACE_ID, marker) for marker in FUSED_IDS}
    assert len(fused_T) == len(tokens) - len(re.findall("9[456]", "".join(map(_sign, tokens))))


def _sign(token: int) -> str:
    return str(token) if token < 10 else "x"


@pytest.mark.parametrize("capitals", ["rare", "everywhere"])
def test_it_is_fast(capitals):
    """At least 20 MB/s on one core, on ordinary text; not far less where all is in capitals."""
    line = {"rare": "The quick brown fox of the USA met iPhone users, ", "everywhere": "aB CD Ef "}
    texts = [line[capitals] * 60] * 1000
    size_mb = sum(map(len, texts)) / 1e6
    started = time.process_time()
    caseops.encode_all(texts)
    assert size_mb / (time.process_time() - started) > (20 if capitals == "rare" else 8)
