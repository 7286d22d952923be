"""Sources: the same documents from every container, ranges, and what bad files are told."""

import json

import pytest

from data import containers, sources
from tests.data.conftest import MARK, SOURCE_TEXTS, jsonl, texts_of, write_source


@pytest.mark.parametrize(
    "name",
    ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json.gz", "a.txt", "a.txt.gz", "a.parquet"],
)
def test_every_container_gives_the_same_documents(tmp_path, monkeypatch, name):
    """Whole and by range, whatever the size of the blocks that are read."""
    path = write_source(tmp_path / name, SOURCE_TEXTS)
    for block_bytes in (1 << 20, 300, 64):
        monkeypatch.setattr(containers, "BLOCK_BYTES", block_bytes)
        assert texts_of(path) == SOURCE_TEXTS
        for start, stop in ((0, 3), (5, 6), (13, 50), (20, 90), (50, None), (7, 7)):
            assert texts_of(path, start, stop) == SOURCE_TEXTS[start:stop]


def test_a_folder_is_read_by_path(tmp_path):
    """All files below it that can be read, in the order of their names, as one source."""
    (tmp_path / "b").mkdir()
    write_source(tmp_path / "b" / "1.jsonl", SOURCE_TEXTS[20:])
    write_source(tmp_path / "a.jsonl.zst", SOURCE_TEXTS[:20])
    (tmp_path / "README.md").write_text("no document")
    assert texts_of(tmp_path) == SOURCE_TEXTS
    assert texts_of(str(tmp_path), 18, 23) == SOURCE_TEXTS[18:23]


def test_a_folder_of_text_files_has_a_document_a_file(tmp_path):
    """As OpenWebText is handed on; a file without the mark is one document."""
    for number, text in enumerate(SOURCE_TEXTS):
        (tmp_path / f"{number:03d}.txt").write_text(text + "\n", encoding="utf-8")
    assert texts_of(tmp_path) == SOURCE_TEXTS


def test_iterables_hold_the_documents_from_start_on():
    """They are cut at stop, and numbered from start."""
    assert texts_of(iter(SOURCE_TEXTS[10:]), 10, 20) == SOURCE_TEXTS[10:20]


@pytest.mark.parametrize(
    "line, message",
    [
        (b'{"text": "x"', "not JSON"),
        (b"[1]", "a line must be an object with the key 'text', not list"),
        (b'{"content": "x", "id": 1}', "no key 'text'; name .* with --field: content, id"),
        (b'{"text": null}', "'text' must be a string, not NoneType"),
        (b'{"text": " \\n"}', "the document is empty"),
        (b'{"text": "a\\u0000"}', "NUL at character 1"),
        (b'{"text": "ab\\ud800"}', "lone surrogate at character 2"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "' + b"x" * 2000 + b'"}', r"a document of 0.0 MB; at most 0.0 are taken"),
        (b"[" * 100_000, "not JSON"),
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
    assert good == "good" and "a.txt, document 2: not UTF-8 at byte 0" in str(bad)


def test_what_is_no_source_says_what_is(tmp_path):
    """A folder without readable files, and a name that is no data set."""
    for source in (tmp_path, "finewebb"):
        with pytest.raises(FileNotFoundError, match="c4.*tinystories"):
            sources.describe(str(source))


def test_a_description_changes_with_the_files(tmp_path):
    """Sizes and ends tell sources apart, and hold no path of this machine."""
    path = write_source(tmp_path / "a.jsonl", SOURCE_TEXTS)
    before = sources.describe(str(path))
    assert str(tmp_path) not in json.dumps(before)
    path.write_bytes(path.read_bytes().replace(b"Document 3", b"Document 8"))
    assert sources.describe(str(path)) != before
    assert before["files"]["a.jsonl"]["bytes"] == path.stat().st_size


@pytest.mark.parametrize("block_bytes", [1 << 20, 40])
def test_blank_lines_are_not_documents(tmp_path, monkeypatch, block_bytes):
    """They have no number and break no range; an error still names the line of an editor."""
    monkeypatch.setattr(containers, "BLOCK_BYTES", block_bytes)
    lines = ["", *(json.dumps({"text": text}) for text in SOURCE_TEXTS)]
    for place in (1, 5, 6, 20, len(lines)):
        lines.insert(place, " \t"[: place % 3])
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n\n\n")
    assert texts_of(tmp_path / "a.jsonl") == SOURCE_TEXTS
    for start, stop in ((0, 3), (2, 9), (17, None)):
        assert texts_of(tmp_path / "a.jsonl", start, stop) == SOURCE_TEXTS[start:stop]
    lines[7] = "{"
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    faults = [
        str(text)
        for block in sources.read(tmp_path / "a.jsonl", 1)
        for text in block.texts("text", 10**6)
        if isinstance(text, ValueError)
    ]
    assert len(faults) == 1 and "a.jsonl, line 8: not JSON" in faults[0]


def test_nothing_between_separators_is_not_a_document(tmp_path):
    """A file may begin with its separator, and end with several."""
    (tmp_path / "a.txt").write_text(f"{MARK}\none\n{MARK}\n \n{MARK}two{MARK}{MARK}\n")
    assert texts_of(tmp_path / "a.txt") == ["one", "two"]


@pytest.mark.parametrize("name", ["A.JSONL", "a.Json.GZ", "a.TXT", "B.jsonl.ZST"])
def test_endings_may_be_upper_case(tmp_path, name):
    """As some systems write them."""
    lower = write_source(tmp_path / name.lower(), SOURCE_TEXTS)
    lower.rename(tmp_path / name)
    assert texts_of(tmp_path / name) == SOURCE_TEXTS
    assert texts_of(tmp_path) == SOURCE_TEXTS


def test_what_comes_with_a_data_set_is_not_read(tmp_path):
    """README, licence and a client's cache are left out of a folder; what is named is read."""
    write_source(tmp_path / "a.jsonl", SOURCE_TEXTS)
    for name in ("README.txt", "LICENSE.txt", "dataset_infos.json", "notes.md"):
        (tmp_path / name).write_text("no document")
    (tmp_path / ".cache").mkdir()
    write_source(tmp_path / ".cache" / "b.jsonl", SOURCE_TEXTS)
    assert texts_of(tmp_path) == SOURCE_TEXTS
    skipped = [path.name for path in sources.skipped_files(tmp_path)]
    assert skipped == ["LICENSE.txt", "README.txt", "dataset_infos.json", "notes.md"]
    assert texts_of(tmp_path / "README.txt") == ["no document"]
    assert sources.skipped_files(tmp_path / "a.jsonl") == []


def test_a_text_that_is_too_long_says_what_a_separator_is(tmp_path):
    """A book in one file is one document, unless its separator is named."""
    (tmp_path / "book.txt").write_text("A chapter.\n\n" * 20)
    (block,) = sources.read(tmp_path / "book.txt")
    (fault,) = block.texts("text", 100)
    assert "a separator is the text that stands between two documents" in str(fault)
    assert texts_of(tmp_path / "book.txt", separator="\n\n") == ["A chapter."] * 20


def test_reading_tells_how_many_bytes_are_done(tmp_path):
    """In the end all of those of the files, packed or not."""
    write_source(tmp_path / "a.jsonl", SOURCE_TEXTS)
    write_source(tmp_path / "b.jsonl.gz", SOURCE_TEXTS)
    sizes = []
    list(sources.read(tmp_path, on_read=sizes.append))
    assert sum(sizes) == sources.total_bytes(str(tmp_path))
    assert sources.total_bytes("c4") is sources.total_bytes(["text"]) is None
