"""Near-duplicates are counted, however a stream is cut."""

import random

import numpy as np

from data import near_duplicates, verify
from tests.data.conftest import TRAIN_TEXTS, VAL_TEXTS, make_folder


def test_near_duplicates_are_reported(models, tmp_path, monkeypatch):
    """Changed by a word here and there, cut, or inside a longer text: counted, not refused."""
    monkeypatch.setattr(near_duplicates, "SHINGLE_SHARE", 4)  # the documents are short
    rng = random.Random(5)
    near = []
    for text in VAL_TEXTS[:6]:
        words = text.split()
        words[rng.randrange(len(words))] = "changed"
        near.append(" ".join([*TRAIN_TEXTS[0].split()[:50], *words[3:]]))
    folder = make_folder(tmp_path / "x", models, train=near + TRAIN_TEXTS)
    findings = {f.check: f for f in verify.verify(folder)}
    assert findings["overlap"].level == "ok"
    assert findings["near-duplicates"].level == "warning"
    assert findings["near-duplicates"].message.startswith("6 more validation documents")


def test_shingles_do_not_depend_on_how_a_stream_is_cut(monkeypatch):
    """Read in small pieces or at once: the same hashes, for the same documents."""
    rng = np.random.default_rng(0)
    tokens_T = rng.integers(1, 50, size=5000).astype(np.uint16)
    single = near_duplicates.sampled_shingles(tokens_T, 1)
    monkeypatch.setattr(near_duplicates, "CHUNK_TOKENS", 97)
    assert len(single) > 50 and (near_duplicates.sampled_shingles(tokens_T, 1) == single).all()
