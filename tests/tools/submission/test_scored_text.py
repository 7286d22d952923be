"""Which text was scored: miscounted bytes, another text, a split that is too short."""

import math

import pytest

from data import verify
from tests.tools.submission.conftest import (
    BYTES,
    SEEDS,
    TOKENS,
    bits,
    edit,
    faults_in,
    field_folder,
)
from tools.submission.check import check
from tools.submission.scored_text import WINDOWED_BYTES


def test_a_wrong_byte_count_is_named(folder):
    """The right tokens at other bytes: the miscount is named, with the score that is true."""
    for seed in SEEDS:
        loss = bits(seed)[0]
        bpb = loss / math.log(2) * TOKENS / BYTES / 1.167
        edit(folder / f"train_seed{seed}.log", r"(exact .*val_bpb:)\S+", rf"\g<1>{bpb:.8f}")
    finding = next(f for f in check(folder) if f.rule == "bytes")
    assert finding.level == "fail" and "leading space counted twice" in finding.evidence
    assert "1.15" in finding.remedy


def tail_evidence(folder, more: int, tail: int) -> str:
    """What is said of a folder whose last 64 targets, of so many bytes, are scored too often."""
    ratio = BYTES / (BYTES + more * tail) * (TOKENS + more * 64) / TOKENS
    findings = check(field_folder(folder / "2026-03-19_Field", bytes_ratio=ratio))
    assert {f.rule for f in findings if f.level == "fail"} == set()
    (first, *_) = [f for f in findings if f.rule == "one-pass"]
    assert first.level == "warn"
    return first.evidence


@pytest.mark.parametrize("more, tail", [(15, 143), (31, 143), (31, 190)])
def test_a_tail_that_is_scored_again_is_a_warning_with_its_number(tmp_path, more, tail):
    """Bytes a token that differ in the sixth digit are no mistake in counting bytes."""
    evidence = tail_evidence(tmp_path, more, tail)
    assert f"({tail} bytes) are scored {more + 1} times, {more * 64:,} targets" in evidence


def test_targets_too_many_that_no_window_explains_have_a_lower_bound(tmp_path):
    """By how much the bytes differ: a target more or less differs by one byte at least."""
    assert "382 targets or more too many" in tail_evidence(tmp_path, 20, 175)


@pytest.mark.parametrize("tokens", WINDOWED_BYTES)
def test_every_tokenizer_of_the_field_is_known(folder, tokens):
    """Tokens and bytes of the five tokenizers' whole windows pass, with a target more or less."""
    for seed in SEEDS:
        bpb = bits(seed)[0] / math.log(2) * tokens / WINDOWED_BYTES[tokens]
        edit(folder / f"train_seed{seed}.log", f"tokens:{TOKENS}", f"tokens:{tokens}")
        edit(folder / f"train_seed{seed}.log", r"(exact .*val_bpb:)\S+", rf"\g<1>{bpb:.8f}")
    assert not faults_in(folder) & {("validation", "fail"), ("bytes", "fail")}


def test_the_token_counts_are_those_of_the_data_check():
    """The same numbers stand in data/verify.py, which counts tokens of shards."""
    counts = {*verify.FINEWEB_TOKENS.values(), verify.FINEWEB_CASEOPS_TOKENS}
    assert counts == WINDOWED_BYTES.keys()


@pytest.mark.parametrize(
    "code, faulty",
    [
        ("VAL_DOCS = 10_000", True),
        ("def split(docs, num_val_docs=10000): pass", True),
        ("def split(docs, *, num_val_docs=10000): pass", True),
        ("split(docs, docs_val=10_000)", True),
        ("p.add_argument('--val-docs', default=10000)", True),
        ("p.add_argument('--val-docs', default=50_000)", False),
        ("def split(docs, val_docs, seed=10): pass", False),
        ("p.add_argument('--train-docs', default=10000)", False),
    ],
)
def test_a_short_split_is_found_however_it_is_set(folder, code, faulty):
    """As a constant, a parameter, an argument or an option."""
    (folder / "prepare.py").write_text(code + "\n")
    assert (("validation", "fail") in faults_in(folder)) == faulty
