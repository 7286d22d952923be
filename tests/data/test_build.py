"""build: the shards hold the documents, and wrong arguments are refused by name."""

import pytest

from data import manifest as manifests
from data.files import folder_lock, sha256_file
from tests.data.conftest import (
    TEXTS,
    VAL_DOCUMENTS,
    documents,
    run_build,
    texts_in,
    write_jsonl,
)


@pytest.mark.parametrize("options", [[], ["--caseops"], ["--caseops", "--fuse"], "bytes"])
def test_shards_hold_the_documents(tmp_path, source, model, options):
    """Every document stands whole in its split, in order, and its bytes count exactly."""
    arguments, options = ("bytes", []) if options == "bytes" else (model, options)
    told = run_build(source, tmp_path / "out", arguments, *options, "--shard-tokens", 400)
    sizes = {"train": TEXTS[VAL_DOCUMENTS:], "val": TEXTS[:VAL_DOCUMENTS]}
    for split, texts in sizes.items():
        actual = documents(tmp_path / "out", split)
        assert [text for text, _ in actual] == texts
        if told["sidecar_required"]:
            assert [size for _, size in actual] == [len(text.encode()) for text in texts]
        counts = told["splits"][split]
        assert counts["documents"] == len(texts) and counts["changed_documents"] == 0
        assert counts["bytes"] == counts["raw_bytes"] == sum(len(t.encode()) for t in texts)
    assert told["sidecar_required"] == (arguments == "bytes" or "--caseops" in options)
    assert told == manifests.read_manifest(tmp_path / "out")
    assert told["source"]["documents"] == len(TEXTS) and told["source"]["left_out"] == {}
    index = manifests.read_index(tmp_path / "out", told)
    expected = sorted(manifests.hash_document(text) for text in TEXTS[:VAL_DOCUMENTS])
    assert index["val"].tolist() == expected and len(index["train"]) == len(TEXTS) - VAL_DOCUMENTS
    for shard in told["shards"]:
        assert sha256_file(tmp_path / "out" / shard["file"]) == shard["sha256"]


def test_bad_arguments_are_refused(tmp_path, source, model):
    """Each by name, before anything is written."""
    cases = [
        ((source, model, "--fuse"), {}, "--fuse.*add --caseops"),
        ((source, "bytes", "--caseops"), {}, "--caseops needs pieces"),
        ((source, "bpe:9"), {}, "N of bpe:N must be"),
        ((source, model, "--range", "3"), {}, "--range 3 must be START:STOP"),
        ((source, model, "--shard-tokens", 0), {}, "--shard-tokens 0 must be at least 1"),
        ((source, None), {}, "SOURCE and --tokenizer"),
        ((source, model), {"val_documents": 60}, "source.jsonl: 60 documents.*none to train on"),
        ((source, "bpe:5000"), {}, "cannot train 5000 pieces"),
    ]
    for (arguments, tokenizer, *options), changes, message in cases:
        with pytest.raises(ValueError, match=message):
            run_build(arguments, tmp_path / "out", tokenizer, *options, **changes)
        assert [path.name for path in tmp_path.iterdir()] == [source.name], message
    for arguments, tokenizer in ((tmp_path / "none", model), (source, tmp_path / "none.model")):
        with pytest.raises(FileNotFoundError, match="none"):
            run_build(arguments, tmp_path / "out", tokenizer)


def test_an_existing_folder_is_left_alone(tmp_path, source, model):
    """A build never changes a folder that it did not make."""
    (tmp_path / "out").mkdir()
    with pytest.raises(FileExistsError, match="remove it, or name another --out"):
        run_build(source, tmp_path / "out", model)
    assert not list((tmp_path / "out").iterdir())


def test_two_builds_do_not_mix(tmp_path, source, model):
    """The second one is told that the folder is taken, and changes nothing."""
    work = tmp_path / ".out.partial"
    with folder_lock(work):
        with pytest.raises(BlockingIOError, match=f"another preparation is writing to {work}"):
            run_build(source, tmp_path / "out", model)
        assert [path.name for path in work.iterdir()] == [".lock"]
    run_build(source, tmp_path / "out", model)


def test_what_is_not_read_is_told(tmp_path, model, capsys):
    """In one line, before the build."""
    (tmp_path / "texts").mkdir()
    write_jsonl(tmp_path / "texts" / "a.jsonl", TEXTS)
    (tmp_path / "texts" / "README.txt").write_text("about")
    run_build(tmp_path / "texts", tmp_path / "out", model)
    output = capsys.readouterr().out
    assert output.startswith("not read, as they are not documents: README.txt\n")
    assert output.endswith(f"next: python3 golf.py data verify {tmp_path / 'out'}\n")
    assert texts_in(tmp_path / "out", "train") == TEXTS[VAL_DOCUMENTS:]


def test_one_text_without_separators_says_what_a_separator_is(tmp_path, model):
    """And the separator may be spelled as a shell hands it over."""
    (tmp_path / "book.txt").write_text("\n\n".join(f"Chapter {i}." for i in range(20)))
    with pytest.raises(ValueError, match="1 documents.*none to train on.*a separator is the text"):
        run_build(tmp_path / "book.txt", tmp_path / "out", model, val_documents=1)
    options = ["--separator", r"\n\n"]
    run_build(tmp_path / "book.txt", tmp_path / "out", model, *options, val_documents=1)
    assert texts_in(tmp_path / "out", "train") == [f"Chapter {i}." for i in range(1, 20)]


def test_a_build_in_which_nothing_is_usable_says_what_was_left_out(tmp_path, source, model):
    """As with a wrong --field and --skip-bad."""
    with pytest.raises(ValueError, match='left out: {"bad": 60}: none to train on'):
        run_build(source, tmp_path / "out", model, "--field", "content", "--skip-bad")
