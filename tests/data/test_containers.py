"""Files of documents: damaged, cut and foreign ones are named with what to do."""

import gzip

import pytest
import zstandard

from data import containers
from tests.data.conftest import SOURCE_TEXTS, jsonl, texts_of, write_parquet


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b"", "has 0 bytes; fetch it again"),
        (
            "a.jsonl.gz",
            gzip.compress(jsonl(SOURCE_TEXTS))[:-20],
            "ends before its compressed data does",
        ),
        (
            "a.jsonl.zst",
            zstandard.compress(jsonl(SOURCE_TEXTS))[:-9],
            "ends before its compressed data",
        ),
        ("a.jsonl.zst", b"plain text", "is damaged"),
        ("a.jsonl.gz", b"plain text", "is damaged"),
        ("a.parquet", b"PAR1 but no more", "is damaged"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    """Empty, cut and damaged files end in an error with the file and what to do."""
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{tmp_path / name} {message}"):
        texts_of(tmp_path)


def test_parquet_without_the_column_names_those_it_has(tmp_path):
    """--field is the remedy."""
    write_parquet(tmp_path / "a.parquet", SOURCE_TEXTS, field="content")
    with pytest.raises(ValueError, match="a.parquet has no column 'text'.*--field: n, content"):
        texts_of(tmp_path)


def test_a_text_without_marks_says_how_to_name_them(tmp_path, monkeypatch):
    """A very long file that is one document is not read into memory."""
    monkeypatch.setattr(containers, "MAX_LINE_BYTES", 3000)
    monkeypatch.setattr(containers, "BLOCK_BYTES", 1000)
    (tmp_path / "a.txt").write_bytes(b"word " * 1000)
    with pytest.raises(ValueError, match="a.txt: no '<|endoftext|>' in 4,000 bytes.*--separator"):
        texts_of(tmp_path)
