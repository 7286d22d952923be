"""The text of a log: fronts, line ends, encodings and hostile lines."""

import pytest

from tests.tools.runs.test_foreign_logs import BASELINE
from tests.tools.runs.test_own_logs import OURS
from tools.runs.logs import read_log


@pytest.fixture
def read(tmp_path):
    """A function that reads a log with the given text."""

    def from_text(text: str | bytes, name: str = "train.log"):
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_log(path)

    return from_text


@pytest.mark.parametrize(
    "front",
    [
        *("[2026-04-09 12:00:01] ", "2026-04-09T12:00:01.123Z ", "12:00:01 INFO ", "[rank0]: "),
        "1776143300.100 ",  # seconds of the epoch
        *("2026-04-09 12:00:01,123 - root - INFO - ", "0: ", "[1,0]<stdout>: ", "rank 3: "),
        *(
            "(RayTrainWorker pid=123, ip=1.2.3.4) ",
            "[default0]:",
            "[12:00:01] [rank7]: ",
            "[1/8]: ",
        ),
        *("\x1b[32m", "\x1b[1;31m2026-04-09 12:00:01\x1b[0m | "),
    ],
)
def test_what_stands_in_front_of_a_line(read, front):
    """Times, ranks, levels, launchers' labels and colours do not hide what a line says."""
    text = "".join(front + line for line in BASELINE.splitlines(keepends=True)[11:])
    run, plain = read(text), read("".join(BASELINE.splitlines(keepends=True)[11:]))
    assert run.score.name == "final_int8_zlib_roundtrip_exact"
    for field in (
        "seed",
        "steps",
        "curve",
        "total_bytes",
        "val_tokens",
        "settings",
        "eval_time_ms",
    ):
        assert getattr(run, field) == getattr(plain, field), field


def test_line_ends_encodings_and_rewritten_lines(read):
    """CRLF, UTF-16, a byte order mark and carriage returns: the same run, the same line number."""
    plain = read(OURS)
    rewritten = OURS.replace("step:100", "\r\x1b[Kstep 7  3%  2 s\r\x1b[Kstep:100")
    for text in (
        OURS.replace("\n", "\r\n").encode(),
        b"\xef\xbb\xbf" + OURS.encode(),
        OURS.encode("utf-16"),
        rewritten.encode(),
    ):
        run = read(text)
        assert (run.score.line, run.curve) == (plain.score.line, plain.curve)
        assert run.total_bytes == plain.total_bytes and run.sources == plain.sources
    both = read("step:1/9 train_loss:3.0\rstep:2/9 train_loss:2.0\rstep 3\n")
    assert [point["step"] for point in both.curve] == [1, 2]


def test_hostile_lines_are_read_in_passing(read):
    """Very long lines, digits without end and garbage between the lines change nothing."""
    evil = ["x" * 3_000_000, "val_loss:" + "1" * 9_000, "val_bpb " + "a(" * 9_000, "bpb_" * 9_000]
    evil += ["step:" + "9" * 5_000 + "/9 train_loss:1", "a:b" * 3_000 + " =", "seed:nan", "\0\1\2"]
    evil += ["final targets:nan bytes:inf val_bpb:inf", "Total submission size x: " + "9" * 5_000]
    lines = BASELINE.splitlines(keepends=True)
    run, plain = read("\n".join([*evil, "".join(lines[11:])])), read("".join(lines[11:]))
    assert run.score.val_bpb == plain.score.val_bpb and run.curve == plain.curve
    assert run.total_bytes == plain.total_bytes and run.seed == plain.seed
