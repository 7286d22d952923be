"""Workers change nothing but the time, and a dead one ends the build."""

import os

import pytest

from data import documents as documents_module
from tests.data.conftest import files, run_build


def test_workers_change_nothing(tmp_path, source, model):
    """Two processes give the files that one gives, to the byte."""
    for workers in (1, 2):
        run_build(
            source, tmp_path / f"w{workers}", model, "--name", "x", "--caseops", workers=workers
        )
    assert files(tmp_path / "w1") == files(tmp_path / "w2")


def test_a_dead_worker_ends_the_build(tmp_path, source, model, monkeypatch):
    """It does not hang, and says what to try."""
    monkeypatch.setattr(documents_module, "tokenize", lambda *args: os._exit(1))
    with pytest.raises(OSError, match="worker was killed.*fewer --workers"):
        run_build(source, tmp_path / "out", model, workers=2)
