"""Merging: the parts of all ranges give what one build gives, or are refused by name."""

import json
import multiprocessing

import numpy as np
import pytest

from data import merge, parts, tokenizers
from data.documents import Request
from tests.data.conftest import TEXTS, VAL_DOCUMENTS, files, run_build, write_jsonl


def run_range(source, out, model, span, results) -> None:
    try:
        run_build(source, out, model, "--range", span, "--caseops", "--name", "x")
        results.put(None)
    except Exception as error:
        results.put(repr(error))
        raise


def test_ranges_built_by_two_processes_merge_into_one(tmp_path, source, model):
    """Two processes and one merge give the documents, index and source hash of a single build."""
    write_jsonl(source, [*TEXTS, TEXTS[3]])  # a copy of a validation document, in the other range
    single = run_build(source, tmp_path / "whole", model, "--caseops", "--name", "x")
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    spans = ["0:25", "25:"]
    arguments = [(source, tmp_path / "out", model, span, results) for span in spans]
    processes = [fork.Process(target=run_range, args=args) for args in arguments]
    for process in processes:
        process.start()
    assert [results.get(timeout=60) for _ in processes] == [None, None]
    for process in processes:
        process.join()
    told = run_build(None, tmp_path / "out", None, "--merge")
    assert told == single
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert not (tmp_path / ".out.partial").exists()


def test_merging_wants_every_range_once_and_of_one_request(tmp_path, source, model):
    """A missing, unfinished, foreign or last range that is absent is refused by name."""
    out, work = tmp_path / "out", tmp_path / ".out.partial"
    with pytest.raises(FileNotFoundError, match="build the ranges first"):
        run_build(None, out, None, "--merge")
    run_build(source, out, model, "--range", "0:20")
    with pytest.raises(ValueError, match="documents from 20 on are missing; build --range 20:"):
        run_build(None, out, None, "--merge")
    run_build(source, out, model, "--range", "40:")
    with pytest.raises(ValueError, match="part_000000000040 must start at document 20"):
        run_build(None, out, None, "--merge")
    run_build(source, out, model, "--range", "20:40", "--max-document-mb", 1)
    with pytest.raises(ValueError, match="part_000000000020 is of another request"):
        run_build(None, out, None, "--merge")
    state_path = work / "part_000000000020" / parts.STATE
    state = json.loads(state_path.read_text())
    state_path.write_text(json.dumps(state | {"done": False}))
    with pytest.raises(ValueError, match="part_000000000020 is not finished"):
        run_build(None, out, None, "--merge")
    assert not out.exists()


def test_a_merge_refuses_validation_text_in_a_training_part(tmp_path, model):
    """A part built without the hashes of the first one cannot slip in a copy."""
    work = tmp_path / "work"
    work.mkdir()
    (work / tokenizers.MODEL_FILE).write_bytes(model.read_bytes())
    entry = tokenizers.describe("sentencepiece", work / tokenizers.MODEL_FILE, False, False)
    request = Request("x", entry, VAL_DOCUMENTS)
    parts.build_part(TEXTS[:20], work / "part_0", request, stop=20)
    none = np.zeros(0, np.uint64)
    parts.build_part([TEXTS[3]], work / "part_1", request, start=20, val_hashes=none)
    with pytest.raises(ValueError, match="1 validation documents are in a training part"):
        merge.merge_parts(work, tmp_path / "out")
