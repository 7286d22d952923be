"""Sources: the same documents from every container, ranges, and what bad files are told."""

import gzip
import json

import pytest
import zstandard

from data import sources

TEXTS = [f"Document {i}.\nSecond line é {'x' * (i % 7)}" for i in range(50)]
MARK = sources.SEPARATOR


def jsonl(texts, field="text") -> bytes:
    return "".join(json.dumps({field: text}) + "\n" for text in texts).encode()


def write_parquet(path, texts, rows=7, field="text"):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    pq.write_table(pyarrow.table({"n": range(len(texts)), field: texts}), path, row_group_size=rows)


def write(path, texts):
    """A file of the kind that its name says."""
    if path.suffix == ".parquet":
        write_parquet(path, texts)
        return path
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    if ".txt" in path.suffixes:
        path.write_bytes(pack(f"\n{MARK}\n".join(texts).encode()))
    elif pack is bytes:
        path.write_bytes(jsonl(texts))
    else:  # two frames, as from cat
        path.write_bytes(pack(jsonl(texts[:9])) + pack(jsonl(texts[9:])))
    return path


def texts_of(source, start=0, stop=None, **options):
    blocks = list(sources.read(source, start, stop, **options))
    found = [text for block in blocks for text in block.texts("text", 10**6)]
    assert [block.first for block in blocks][:1] in ([], [start])
    assert sum(block.count for block in blocks) == len(found)
    return found


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.txt", "a.txt.gz", "a.parquet"],
)
def test_every_container_gives_the_same_documents(tmp_path, monkeypatch, name):
    """Whole and by range, whatever the size of the blocks that are read."""
    path = write(tmp_path / name, TEXTS)
    for block_bytes in (1 << 20, 300, 64):
        monkeypatch.setattr(sources, "BLOCK_BYTES", block_bytes)
        assert texts_of(path) == TEXTS
        for start, stop in ((0, 3), (5, 6), (13, 50), (20, 90), (50, None), (7, 7)):
            assert texts_of(path, start, stop) == TEXTS[start:stop]


def test_a_folder_is_read_by_path(tmp_path):
    """All files below it that can be read, in the order of their names, as one source."""
    (tmp_path / "b").mkdir()
    write(tmp_path / "b" / "1.jsonl", TEXTS[20:])
    write(tmp_path / "a.jsonl.zst", TEXTS[:20])
    (tmp_path / "README.md").write_text("no document")
    assert texts_of(tmp_path) == TEXTS
    assert texts_of(str(tmp_path), 18, 23) == TEXTS[18:23]


def test_a_folder_of_text_files_has_a_document_a_file(tmp_path):
    """As OpenWebText is handed on; a file without the mark is one document."""
    for number, text in enumerate(TEXTS):
        (tmp_path / f"{number:03d}.txt").write_text(text + "\n", encoding="utf-8")
    assert texts_of(tmp_path) == TEXTS


def test_iterables_hold_the_documents_from_start_on():
    """They are cut at stop, and numbered from start."""
    assert texts_of(iter(TEXTS[10:]), 10, 20) == TEXTS[10:20]


def test_wikitext_lines_become_articles():
    """A title starts one where it follows an empty line; a subtitle never does."""
    first = [
        "",
        " = A = \n",
        "",
        " text \n",
        " = not a title = \n",
        " = = B = = \n",
        "",
        " x \n",
        "",
    ]
    second = [" = C = \n", "", " y \n"]
    articles = list(sources.join_articles([*first, *second]))
    assert articles == ["".join(first), "".join(second)]


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"text": "x"', "no JSON"),
        (b"", "no JSON"),
        (b"[1]", "'text' must be a string"),
        (b'{"content": "x"}', "'text' must be a string"),
        (b'{"text": null}', "'text' must be a string"),
        (b'{"text": " \\n"}', "the document is empty"),
        (b'{"text": "a\\u0000"}', "NUL at character 1"),
        (b'{"text": "ab\\ud800"}', "lone surrogate at character 2"),
        (b'{"text": "\xff"}', "no UTF-8"),
        (b'{"text": "' + b"x" * 2000 + b'"}', r"a document of 0.0 MB; at most 0.0 are taken"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_bad_lines_are_named(tmp_path, line, message):
    """File, line and reason, and only the bad one; the others are read."""
    path = tmp_path / "bad.jsonl"
    path.write_bytes(jsonl(["one"]) + line + b"\n" + jsonl(["three"]))
    (block,) = sources.read(path)
    first, bad, third = block.texts("text", 1000)
    assert (first, third) == ("one", "three")
    assert isinstance(bad, ValueError)
    with pytest.raises(ValueError, match=f"{path}, line 2: {message}"):
        raise bad


def test_text_that_is_no_utf8_is_named(tmp_path):
    """The same for .txt, by document."""
    (tmp_path / "a.txt").write_bytes(b"good" + MARK.encode() + b"\xff\xfe")
    (block,) = sources.read(tmp_path / "a.txt")
    good, bad = block.texts("text", 1000)
    assert good == "good" and "a.txt, document 2: no UTF-8 at byte 0" in str(bad)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.jsonl", b"", "has 0 bytes; fetch it again"),
        ("a.jsonl.gz", gzip.compress(jsonl(TEXTS))[:-20], "ends before its compressed data does"),
        ("a.jsonl.zst", zstandard.compress(jsonl(TEXTS))[:-9], "ends before its compressed data"),
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
    write_parquet(tmp_path / "a.parquet", TEXTS, field="content")
    with pytest.raises(ValueError, match="a.parquet has no column 'text'.*--field: n, content"):
        texts_of(tmp_path)


def test_a_text_without_marks_says_how_to_name_them(tmp_path, monkeypatch):
    """A very long file that is one document is not read into memory."""
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 3000)
    monkeypatch.setattr(sources, "BLOCK_BYTES", 1000)
    (tmp_path / "a.txt").write_bytes(b"word " * 1000)
    with pytest.raises(ValueError, match="a.txt: no '<|endoftext|>' in 4,000 bytes.*--separator"):
        texts_of(tmp_path)


def test_what_is_no_source_says_what_is(tmp_path):
    """A folder without readable files, and a name that is no data set."""
    for source in (tmp_path, "finewebb"):
        with pytest.raises(FileNotFoundError, match="c4.*tinystories"):
            sources.describe(str(source))


def test_a_description_changes_with_the_files(tmp_path):
    """Sizes and ends tell sources apart, and hold no path of this machine."""
    path = write(tmp_path / "a.jsonl", TEXTS)
    before = sources.describe(str(path))
    assert str(tmp_path) not in json.dumps(before)
    path.write_bytes(path.read_bytes().replace(b"Document 3", b"Document 8"))
    assert sources.describe(str(path)) != before
    assert before["files"]["a.jsonl"]["bytes"] == path.stat().st_size
