"""What is wrong with a folder is found, by `verify` and by the first step of training."""

import json
import os

import numpy as np
import pytest

import evaluate
from data import manifest as manifests
from data import prepare, tokenizers, verify
from data.files import sha256_file
from data.start_check import check_start
from engine.shards import read_shard, write_shard
from tests.data.conftest import (
    TRAIN_TEXTS,
    VAL_TEXTS,
    assert_matches,
    faults_of,
    flip,
    forget_checksum,
    make_folder,
)


@pytest.mark.parametrize("kind", ["plain", "caseops"])
def test_a_good_folder_passes(models, tmp_path, start_training, kind):
    """Every check of `verify` is ok, and training starts, with the bytes of the text itself."""
    folder = make_folder(tmp_path / "x", models, kind)
    assert {f.level for f in verify.verify(folder)} == {"ok"}
    assert start_training(folder) == ""
    note = check_start(folder, folder / "tokenizer.model", 300)
    table = evaluate.ByteTable.from_sentencepiece(folder / "tokenizer.model", 300)
    tokens_T, table = evaluate.read_validation(folder, table)
    assert table.metric == "val_bpb" and note.startswith("data verified source:made up")
    assert table.total(tokens_T) == sum(len(text.encode()) for text in VAL_TEXTS)
    for name in ("manifest.json", ".verified.json"):
        (folder / name).unlink()
    note = check_start(folder, folder / "tokenizer.model", 300)
    assert note.startswith("warning: ") and start_training(folder) == ""
    findings = verify.verify(folder, folder / "tokenizer.model")
    assert [(f.check, f.level) for f in findings if f.level != "ok"] == [("manifest", "warning")]


def spaces(tokenizer, tokens_T):
    return tokenizer.table.leading_space_V[tokens_T]


def bytes_as_three(tokenizer, tokens_T):
    byte_V = np.array([tokenizer.model.is_byte(i) for i in range(300)])
    return 2 * byte_V[tokens_T]


def test_validation_documents_in_train(models, tmp_path, start_training):
    """A split after 10 documents where validation has the first 40, with and without index."""
    with pytest.raises(manifests.ManifestError, match="30 validation documents are in the train"):
        make_folder(tmp_path / "x", models, train=VAL_TEXTS[10:] + TRAIN_TEXTS)
    # A manifest that permits it is not believed.
    folder = make_folder(
        tmp_path / "y", models, train=VAL_TEXTS[10:] + TRAIN_TEXTS, shared_documents=30
    )
    assert "30 of 40 validation documents are in the train" in faults_of(folder)["overlap"]
    message = r"x_train_000000.bin: of its first \d+ documents 30 are validation documents"
    assert_matches(message, start_training(folder))
    (folder / "manifest.json").unlink()
    actual = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert "30 of 40 validation documents" in actual["overlap"]
    assert_matches(message, start_training(folder))


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("name", ["x_train_000001.bin", "x_val_000000.bin"])
def test_a_flipped_byte(models, tmp_path, start_training, name, published):
    """One bit in the middle of a shard, whether or not its header has a checksum."""
    folder = make_folder(tmp_path / "x", models)
    if published:
        manifest = manifests.read_manifest(folder)
        for shard in manifest["shards"]:
            forget_checksum(folder / shard["file"])
            shard["sha256"] = sha256_file(folder / shard["file"])
        manifests.write_manifest(folder, manifest)
        assert not faults_of(folder) and start_training(folder) == ""
    flip(folder / name)
    assert name in faults_of(folder)["hashes" if published else "headers"]
    assert_matches(f"{name} is not the file that was verified", start_training(folder))


@pytest.mark.parametrize("name", ["x_train_000001.bin", "x_val_000001.bin"])
def test_missing_shards(models, tmp_path, start_training, name):
    """A shard of the manifest that is not there, of either split."""
    folder = make_folder(tmp_path / "x", models)
    (folder / name).unlink()
    assert f"{name} is missing" in faults_of(folder)["shards"]
    assert_matches(f"{name} is missing; build or fetch", start_training(folder))


def test_a_gap_in_the_numbers_is_a_missing_shard(models, tmp_path):
    """Without a manifest a number that is left out tells as much."""
    folder = make_folder(tmp_path / "x", models)
    (folder / "manifest.json").unlink()
    (folder / "x_train_000001.bin").rename(folder / "x_train_000002.bin")
    actual = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert "x_train_000001.bin is missing" in actual["shards"]


def test_shards_that_nobody_verified(models, tmp_path, start_training):
    """A shard beside those of the manifest, a validation shard under another name perhaps."""
    folder = make_folder(tmp_path / "x", models)
    (folder / "x_train_000002.bin").write_bytes((folder / "x_val_000000.bin").read_bytes())
    assert "x_train_000002.bin is not in the manifest; move it" in faults_of(folder)["shards"]
    assert_matches("x_train_000002.bin is not in manifest.json", start_training(folder))


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_sidecar(models, tmp_path, start_training, number, with_manifest):
    """CaseOps shards without the bytes of their tokens, by manifest or by their vocabulary."""
    folder = make_folder(tmp_path / "x", models, "caseops")
    name = f"x_val_{number:06d}.bytes.bin"
    for path in [folder / name] if with_manifest else folder.glob("*.bytes.bin"):
        path.unlink()
    if not with_manifest:
        (folder / "manifest.json").unlink()
    actual = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert ".bytes.bin is missing" in actual["sidecar"]
    assert_matches(r"x_val_\d+.bytes.bin:? is missing", start_training(folder))


def test_a_swapped_tokenizer(models, tmp_path, start_training):
    """Another model of the same size, in place of the right one or beside it."""
    folder = make_folder(tmp_path / "x", models)
    other = tmp_path / "other.model"
    other.write_bytes(models["other"])
    actual = faults_of(folder, tokenizer_path=other)
    assert f"{other} is not the tokenizer of {folder}" in actual["tokenizer"]
    assert_matches("other.model is not the tokenizer of", start_training(folder, other))
    (folder / "tokenizer.model").write_bytes(models["other"])
    assert "tokenizer.model is not the tokenizer of" in faults_of(folder)["tokenizer"]
    assert_matches("tokenizer.model is not the tokenizer of", start_training(folder))
    (folder / "manifest.json").unlink()  # decoded and encoded again, the shards are others
    assert "would not write the shards" in faults_of(folder, tokenizer_path=other)["tokenizer"]


def test_a_missing_bos(models, tmp_path, start_training):
    """Shards in which no document start is marked, with and without a manifest."""
    folder = make_folder(tmp_path / "x", models, bos=False)
    assert "0 document starts (BOS=1) for 80 documents" in faults_of(folder)["bos"]
    assert_matches("validation has 0 documents|BOS=1", start_training(folder))
    (folder / "manifest.json").unlink()
    assert (
        "must start with BOS=1"
        in faults_of(folder, tokenizer_path=folder / "tokenizer.model")["bos"]
    )
    assert_matches("must start with BOS=1", start_training(folder))


def test_one_missing_bos(models, tmp_path):
    """A single document that runs into the next one is found by its count."""
    folder = make_folder(tmp_path / "x", models)
    manifest = manifests.read_manifest(folder)
    path = folder / "x_train_000000.bin"
    tokens_T = np.array(read_shard(path))
    tokens_T[np.flatnonzero(tokens_T == 1)[3]] = 5
    write_shard(path, tokens_T)
    manifest["shards"][0]["sha256"] = sha256_file(path)
    manifests.write_manifest(folder, manifest)
    assert "79 document starts (BOS=1) for 80 documents" in faults_of(folder)["bos"]


@pytest.mark.parametrize("kind", ["plain", "caseops"])
@pytest.mark.parametrize(
    "miscount, name",
    [
        (spaces, "every leading space were counted twice"),
        (bytes_as_three, "every byte piece were counted 3"),
    ],
)
def test_miscounted_bytes(models, tmp_path, start_training, kind, miscount, name):
    """Spaces twice, byte pieces as 3: in the manifest's total, and in a sidecar."""
    folder = make_folder(tmp_path / "x", models, kind, miscount=miscount)
    actual = faults_of(folder)
    assert name in actual["bytes"] and ("sidecar" in actual) == (kind == "caseops")
    assert name in actual.get("sidecar", name)
    error = start_training(folder)
    plain = r"validation has 40 documents and \d+ bytes, its manifest says otherwise"
    assert_matches("is more bytes than its token spells" if kind == "caseops" else plain, error)


def test_a_vocabulary_without_the_space(models, tmp_path, start_training):
    """Without the piece U+2581 a space is three bytes: refused, whatever the manifest says."""
    folder = make_folder(tmp_path / "x", models)
    (folder / "tokenizer.model").write_bytes(models["bare"])
    manifest = manifests.read_manifest(folder)
    manifest["tokenizer"]["sha256"] = sha256_file(folder / "tokenizer.model")
    manifests.write_manifest(folder, manifest)
    assert 'lacks the piece "▁"' in faults_of(folder)["tokenizer"]
    assert_matches('lacks the piece "▁"', start_training(folder))


def test_tokens_outside_the_vocabulary(models, tmp_path, start_training):
    """A token that the tokenizer does not have, anywhere in a shard."""
    folder = make_folder(tmp_path / "x", models)
    (folder / "manifest.json").unlink()
    path = folder / "x_train_000001.bin"
    tokens_T = np.array(read_shard(path))
    tokens_T[-1] = 300
    write_shard(path, tokens_T)
    actual = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert "x_train_000001.bin holds token 300" in actual["range"]
    assert_matches("x_train_000001.bin holds token 300", start_training(folder))


def test_a_damaged_shard_does_not_hide_the_others(models, tmp_path):
    """Empty, cut and foreign files are named beside each other, with all else that is wrong."""
    folder = make_folder(tmp_path / "x", models)
    os.truncate(folder / "x_train_000000.bin", 0)
    os.truncate(folder / "x_val_000001.bin", 1500)
    (folder / "x_train_000001.bin").unlink()
    findings = [f for f in verify.verify(folder) if f.level == "fault"]
    named = " ".join(f.message for f in findings)
    for name in ("x_train_000000.bin", "x_train_000001.bin", "x_val_000001.bin"):
        assert name in named


def test_an_index_of_other_documents(models, tmp_path):
    """Hashes that are not those of the decoded validation documents are found."""
    folder = make_folder(tmp_path / "x", models)
    manifest = manifests.read_manifest(folder)
    hashes = {"train": range(160), "val": range(1000, 1040)}
    manifest["document_index"] = manifests.write_index(folder, hashes, "text")
    manifests.write_manifest(folder, manifest)
    assert "lists other val documents" in faults_of(folder)["index"]


@pytest.mark.parametrize(
    "documents, size, tokens, name, level, message",
    [
        (50_000, 151_080_891, 62_021_846, "fineweb10B_sp1024", "ok", "is that of the challenge"),
        (50_000, 151_080_891, 62_000_000, "fineweb10B_sp1024", "warning", "about 62021632"),
        (10_000, 30_000_000, 12_000_000, "fineweb10B_sp1024", "fault", "has 50000 documents"),
        (50_000, 151_080_890, 62_021_846, "fineweb", "fault", "has 50000 documents"),
        (10_000, 30_000_000, 12_000_000, "fineweb-edu", "ok", "not the validation split"),
    ],
)
def test_the_challenges_validation_split_is_known(
    models, tmp_path, toy, documents, size, tokens, name, level, message
):
    """50,000 documents and 151,080,891 bytes: what calls itself FineWeb has them or is refused."""
    folder = verify.Folder(make_folder(tmp_path / "x", models), None)
    folder.source["name"] = name
    tokenizer = tokenizers.SentencePiece.load(toy / "tokenizers/toy_1024_bpe.model")
    folder.check_fingerprint(documents, size, tokens, tokenizer)
    assert [f.level for f in folder.findings] == [level]
    assert message in folder.findings[0].message


def test_the_command_prints_findings_and_a_status(models, tmp_path, capsys):
    """Lines or one JSON object; 0 when verified, 1 when refused or when nothing can be said."""
    folder = make_folder(tmp_path / "x", models)
    assert prepare.main(["verify", str(folder), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert (
        "ok      bos: 200 document starts" in out
        and f"{folder}: verified\nnext: DATA_PATH={folder} " in out
    )
    flip(folder / "x_val_000000.bin")
    assert prepare.main(["verify", str(folder), "--workers", "2", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["ok"] and "x_val_000000.bin" in str(result["findings"])
    (folder / "manifest.json").unlink()
    assert prepare.main(["verify", str(folder)]) == 1
    assert "name its tokenizer with --tokenizer" in capsys.readouterr().err


def test_bytes_without_a_sidecar_are_refused(tmp_path):
    """Tokens of no SentencePiece model have their bytes in a sidecar or nowhere."""
    source, folder = tmp_path / "docs.jsonl", tmp_path / "bytes"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in VAL_TEXTS))
    options = [
        "--tokenizer",
        "bytes",
        "--out",
        str(folder),
        "--val-documents",
        "5",
        "--workers",
        "1",
    ]
    assert prepare.main(["build", str(source), *options]) == 0
    assert not faults_of(folder)
    manifest = manifests.read_manifest(folder)
    for shard in manifest["shards"]:
        if shard["sidecar"]:
            (folder / shard["sidecar"]["file"]).unlink()
            shard["sidecar"] = None
    manifests.write_manifest(folder, manifest | {"sidecar_required": False})
    assert "bytes tokens have their bytes in a sidecar" in faults_of(folder)["sidecar"]
