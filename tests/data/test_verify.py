"""What is wrong with a folder is found, by `verify` and by train_gpt.py before its first step."""

import contextlib
import io
import itertools
import json
import os
import random
import re
import subprocess
import time

import numpy as np
import pytest

import evaluate
import train_gpt
from data import caseops, prepare, tokenizers, verify
from data import manifest as manifests

WORDS = "time year people way Day man thing Woman life child WORLD school state Family iPhone é 🙂"


def made_up(count: int, seed: int) -> list[str]:
    """Documents of random words, no two alike."""
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS.split(), k=rng.randint(80, 160))) for _ in range(count)]


VAL = [f"{text} Ωμέγα" for text in made_up(40, 1)]  # letters that only byte pieces can spell
TRAIN = made_up(160, 2)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, bytes]:
    """Tokenizers of 300 pieces: of plain text, of other text, with CaseOps, and without U+2581."""
    joined = ["".join(made_up(20, 3)).replace(" ", "") + "abcdefghijklmnopqrstuvwxyz"] * 3
    text = TRAIN[:60]
    return {
        "plain": tokenizers.train_bpe(text, 300),
        "other": tokenizers.train_bpe([document[::-1] for document in text], 300),
        "caseops": tokenizers.train_bpe(text, 300, use_caseops=True),
        "bare": tokenizers.train_bpe(joined, 300),
    }


def make(folder, models, kind="plain", train=TRAIN, val=VAL, bos=True, miscount=None, **more):
    """A folder as `build` leaves it, by a build that may be faulty but is at one with itself."""
    folder.mkdir(parents=True)
    model = folder / "tokenizer.model"
    model.write_bytes(models[kind])
    entry = {"kind": "sentencepiece", "file": model.name, "sha256": manifests.sha256_file(model)}
    entry |= {"vocab_size": 300, "caseops": kind == "caseops", "fused": False}
    tokenizer = tokenizers.load(entry, folder)
    shards, splits = [], {}
    for split, texts in (("train", train), ("val", val)):
        splits[split] = dict.fromkeys(("documents", "tokens", "bytes", "raw_bytes"), 0)
        splits[split]["changed_documents"] = 0
        half = (len(texts) + 1) // 2
        for number, part in enumerate([texts[:half], texts[half:]]):
            tokens_T, bytes_T = tokenizer.encode(part)
            if miscount:
                bytes_T = bytes_T + miscount(tokenizer, tokens_T).astype(np.uint16)
            counts = {"documents": len(part), "tokens": len(tokens_T)}
            if not bos:
                tokens_T, bytes_T = tokens_T[tokens_T != 1], bytes_T[tokens_T != 1]
                counts["tokens"] = len(tokens_T)
            path = folder / f"x_{split}_{number:06d}.bin"
            evaluate.write_shard(path, tokens_T)
            sidecar = None
            if kind == "caseops":
                side = evaluate.sidecar_path(path)
                evaluate.write_shard(side, bytes_T)
                sidecar = {"file": side.name, "sha256": manifests.sha256_file(side)}
            shard = {"file": path.name, "split": split, **counts, "sidecar": sidecar}
            shards.append(shard | {"sha256": manifests.sha256_file(path)})
            counts |= {"bytes": int(bytes_T.sum())}
            counts |= {"raw_bytes": sum(len(text.encode()) for text in part)}
            for key, value in counts.items():
                splits[split][key] += value
    hashes = {
        "train": map(manifests.hash_document, train),
        "val": map(manifests.hash_document, val),
    }
    manifest = {
        "version": 1,
        "source": {"name": "made up", "sha256": None},
        "tokenizer": entry,
        "split_rule": {"rule": "first", "val_documents": len(val)},
        "splits": splits,
        "shards": shards,
        "sidecar_required": kind == "caseops",
        "bos_id": 1,
        "document_index": manifests.write_index(folder, hashes, "text"),
    }
    manifests.write_manifest(folder, manifest | more)
    return folder


def flip(path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def forget_checksum(path) -> None:
    """As published shards are: zeros in the reserved words of the header."""
    data = bytearray(path.read_bytes())
    data[12:1024] = bytes(1012)
    path.write_bytes(data)


def faults_of(folder, **how) -> dict[str, str]:
    found: dict[str, str] = {}
    for finding in verify.verify(folder, **how):
        if finding.level == "fault":
            found[finding.check] = f"{found.get(finding.check, '')} {finding.message}"
    return found


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Call main of train_gpt.py as far as its run folder: the error it ends with, or nothing."""

    class ReachedTheRun(Exception):
        pass

    def stop(*args):
        raise ReachedTheRun

    def run_here(command, **how):
        """Instead of a process for data.prepare, which would cost a second each time."""
        assert command[1:3] == ["-m", "data.prepare"] and (how["cwd"] / "data").is_dir()
        with contextlib.redirect_stdout(io.StringIO()) as out:
            with contextlib.redirect_stderr(io.StringIO()) as errors:
                status = prepare.main(command[3:])
        return subprocess.CompletedProcess(command, status, out.getvalue(), errors.getvalue())

    def call(folder, model=None) -> str:
        settings = {"PRESET": "smoke", "VOCAB_SIZE": 300, "TRAIN_SEQ_LEN": 32, "ITERATIONS": 1}
        settings |= {"TRAIN_BATCH_TOKENS": 64, "MICRO_BATCH_TOKENS": 64, "EVAL_STRIDE": 32}
        settings |= {"DATA_PATH": folder, "TOKENIZER_PATH": model or folder / "tokenizer.model"}
        monkeypatch.setattr(os, "environ", {key: str(value) for key, value in settings.items()})
        monkeypatch.setattr(train_gpt, "Run", stop)
        monkeypatch.setattr(train_gpt.subprocess, "run", run_here)
        monkeypatch.chdir(tmp_path)
        try:
            train_gpt.main()
        except SystemExit as error:
            return str(error)
        except ReachedTheRun:
            return ""

    return call


@pytest.mark.parametrize("kind", ["plain", "caseops"])
def test_a_good_folder_passes(models, tmp_path, train, kind):
    """Every check of `verify` is ok, and training starts, with the bytes of the text itself."""
    folder = make(tmp_path / "x", models, kind)
    assert {f.level for f in verify.verify(folder)} == {"ok"}
    assert train(folder) == ""
    note = verify.check_start(folder, folder / "tokenizer.model", 300)
    table = evaluate.ByteTable.from_sentencepiece(folder / "tokenizer.model", 300)
    tokens_T, table = evaluate.read_validation(folder, table)
    assert table.metric == "val_bpb" and note.startswith("data verified source:made up")
    assert table.total(tokens_T) == sum(len(text.encode()) for text in VAL)
    for name in ("manifest.json", ".verified.json"):
        (folder / name).unlink()
    note = verify.check_start(folder, folder / "tokenizer.model", 300)
    assert note.startswith("warning: ") and train(folder) == ""
    findings = verify.verify(folder, folder / "tokenizer.model")
    assert [(f.check, f.level) for f in findings if f.level != "ok"] == [("manifest", "warning")]


def spaces(tokenizer, tokens_T):
    return tokenizer.table.leading_space_V[tokens_T]


def bytes_as_three(tokenizer, tokens_T):
    byte_V = np.array([tokenizer.model.is_byte(i) for i in range(300)])
    return 2 * byte_V[tokens_T]


def test_validation_documents_in_train(models, tmp_path, train):
    """A split after 10 documents where validation has the first 40, with and without index."""
    with pytest.raises(manifests.ManifestError, match="30 validation documents are in the train"):
        make(tmp_path / "x", models, train=VAL[10:] + TRAIN)
    # A manifest that permits it is not believed.
    folder = make(tmp_path / "y", models, train=VAL[10:] + TRAIN, shared_documents=30)
    assert "30 of 40 validation documents are in the train" in faults_of(folder)["overlap"]
    message = r"x_train_000000.bin: of its first \d+ documents 30 are validation documents"
    assert_matches(message, train(folder))
    (folder / "manifest.json").unlink()
    found = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert "30 of 40 validation documents" in found["overlap"]
    assert_matches(message, train(folder))


def assert_matches(pattern: str, text: str) -> None:
    assert text.startswith("error: ") and re.search(pattern, text), text


@pytest.mark.parametrize("published", [False, True])
@pytest.mark.parametrize("name", ["x_train_000001.bin", "x_val_000000.bin"])
def test_a_flipped_byte(models, tmp_path, train, name, published):
    """One bit in the middle of a shard, whether or not its header has a checksum."""
    folder = make(tmp_path / "x", models)
    if published:
        manifest = manifests.read_manifest(folder)
        for shard in manifest["shards"]:
            forget_checksum(folder / shard["file"])
            shard["sha256"] = manifests.sha256_file(folder / shard["file"])
        manifests.write_manifest(folder, manifest)
        assert not faults_of(folder) and train(folder) == ""
    flip(folder / name)
    assert name in faults_of(folder)["hashes" if published else "headers"]
    assert_matches(f"{name} is not the file that was verified", train(folder))


@pytest.mark.parametrize("name", ["x_train_000001.bin", "x_val_000001.bin"])
def test_missing_shards(models, tmp_path, train, name):
    """A shard of the manifest that is not there, of either split."""
    folder = make(tmp_path / "x", models)
    (folder / name).unlink()
    assert f"{name} is missing" in faults_of(folder)["shards"]
    assert_matches(f"{name} is missing; build or fetch", train(folder))


def test_a_gap_in_the_numbers_is_a_missing_shard(models, tmp_path):
    """Without a manifest a number that is left out tells as much."""
    folder = make(tmp_path / "x", models)
    (folder / "manifest.json").unlink()
    (folder / "x_train_000001.bin").rename(folder / "x_train_000002.bin")
    found = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert "x_train_000001.bin is missing" in found["shards"]


def test_shards_that_nobody_verified(models, tmp_path, train):
    """A shard beside those of the manifest, a validation shard under another name perhaps."""
    folder = make(tmp_path / "x", models)
    (folder / "x_train_000002.bin").write_bytes((folder / "x_val_000000.bin").read_bytes())
    assert "x_train_000002.bin is not in the manifest; move it" in faults_of(folder)["shards"]
    assert_matches("x_train_000002.bin is not in manifest.json", train(folder))


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize("number", [0, 1])
def test_a_missing_sidecar(models, tmp_path, train, number, with_manifest):
    """CaseOps shards without the bytes of their tokens, by manifest or by their vocabulary."""
    folder = make(tmp_path / "x", models, "caseops")
    name = f"x_val_{number:06d}.bytes.bin"
    for path in [folder / name] if with_manifest else folder.glob("*.bytes.bin"):
        path.unlink()
    if not with_manifest:
        (folder / "manifest.json").unlink()
    found = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert ".bytes.bin: is missing" in found["sidecar"]
    assert_matches(r"x_val_\d+.bytes.bin:? is missing", train(folder))


def test_a_swapped_tokenizer(models, tmp_path, train):
    """Another model of the same size, in place of the right one or beside it."""
    folder = make(tmp_path / "x", models)
    other = tmp_path / "other.model"
    other.write_bytes(models["other"])
    found = faults_of(folder, tokenizer_path=other)
    assert f"{other} is not the tokenizer of {folder}" in found["tokenizer"]
    assert_matches("other.model is not the tokenizer of", train(folder, other))
    (folder / "tokenizer.model").write_bytes(models["other"])
    assert "tokenizer.model is not the tokenizer of" in faults_of(folder)["tokenizer"]
    assert_matches("tokenizer.model is not the tokenizer of", train(folder))
    (folder / "manifest.json").unlink()  # decoded and encoded again, the shards are others
    assert "would not write the shards" in faults_of(folder, tokenizer_path=other)["tokenizer"]


def test_a_missing_bos(models, tmp_path, train):
    """Shards in which no document start is marked, with and without a manifest."""
    folder = make(tmp_path / "x", models, bos=False)
    assert "0 document starts (BOS=1) for 80 documents" in faults_of(folder)["bos"]
    assert_matches("validation has 0 documents|BOS=1", train(folder))
    (folder / "manifest.json").unlink()
    assert (
        "must start with BOS=1"
        in faults_of(folder, tokenizer_path=folder / "tokenizer.model")["bos"]
    )
    assert_matches("must start with BOS=1", train(folder))


def test_a_training_shard_without_bos(models, tmp_path, train):
    """One training shard in which no document starts is named, the others being right."""
    folder = make(tmp_path / "x", models)
    (folder / "manifest.json").unlink()
    path = folder / "x_train_000001.bin"
    tokens_T = np.array(evaluate.read_shard(path))
    evaluate.write_shard(path, tokens_T[tokens_T != 1])
    assert_matches("x_train_000001.bin has no document start, BOS=1", train(folder))


def test_one_missing_bos(models, tmp_path):
    """A single document that runs into the next one is found by its count."""
    folder = make(tmp_path / "x", models)
    manifest = manifests.read_manifest(folder)
    path = folder / "x_train_000000.bin"
    tokens_T = np.array(evaluate.read_shard(path))
    tokens_T[np.flatnonzero(tokens_T == 1)[3]] = 5
    evaluate.write_shard(path, tokens_T)
    manifest["shards"][0]["sha256"] = manifests.sha256_file(path)
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
def test_miscounted_bytes(models, tmp_path, train, kind, miscount, name):
    """Spaces twice, byte pieces as 3: in the manifest's total, and in a sidecar."""
    folder = make(tmp_path / "x", models, kind, miscount=miscount)
    found = faults_of(folder)
    assert name in found["bytes"] and ("sidecar" in found) == (kind == "caseops")
    assert name in found.get("sidecar", name)
    error = train(folder)
    plain = r"validation has 40 documents and \d+ bytes, its manifest says otherwise"
    assert_matches("is more bytes than its token spells" if kind == "caseops" else plain, error)


def test_a_vocabulary_without_the_space(models, tmp_path, train):
    """Without the piece U+2581 a space is three bytes: refused, whatever the manifest says."""
    folder = make(tmp_path / "x", models)
    (folder / "tokenizer.model").write_bytes(models["bare"])
    manifest = manifests.read_manifest(folder)
    manifest["tokenizer"]["sha256"] = manifests.sha256_file(folder / "tokenizer.model")
    manifests.write_manifest(folder, manifest)
    assert 'lacks the piece "▁"' in faults_of(folder)["tokenizer"]
    assert_matches('lacks the piece "▁"', train(folder))


def test_tokens_outside_the_vocabulary(models, tmp_path, train):
    """A token that the tokenizer does not have, anywhere in a shard."""
    folder = make(tmp_path / "x", models)
    (folder / "manifest.json").unlink()
    path = folder / "x_train_000001.bin"
    tokens_T = np.array(evaluate.read_shard(path))
    tokens_T[-1] = 300
    evaluate.write_shard(path, tokens_T)
    found = faults_of(folder, tokenizer_path=folder / "tokenizer.model")
    assert "x_train_000001.bin holds token 300" in found["range"]
    assert_matches("x_train_000001.bin holds token 300", train(folder))


def test_a_damaged_shard_does_not_hide_the_others(models, tmp_path):
    """Empty, cut and foreign files are named beside each other, with all else that is wrong."""
    folder = make(tmp_path / "x", models)
    os.truncate(folder / "x_train_000000.bin", 0)
    os.truncate(folder / "x_val_000001.bin", 1500)
    (folder / "x_train_000001.bin").unlink()
    findings = [f for f in verify.verify(folder) if f.level == "fault"]
    named = " ".join(f.message for f in findings)
    for name in ("x_train_000000.bin", "x_train_000001.bin", "x_val_000001.bin"):
        assert name in named


def test_an_index_of_other_documents(models, tmp_path):
    """Hashes that are not those of the decoded validation documents are found."""
    folder = make(tmp_path / "x", models)
    manifest = manifests.read_manifest(folder)
    hashes = {"train": range(160), "val": range(1000, 1040)}
    manifest["document_index"] = manifests.write_index(folder, hashes, "text")
    manifests.write_manifest(folder, manifest)
    assert "lists other val documents" in faults_of(folder)["index"]


def test_a_copied_folder_is_hashed_again_until_verified(models, tmp_path, monkeypatch):
    """Files with another time are hashed at every start, until `verify` has seen them."""
    folder, hashed = make(tmp_path / "x", models), []
    digest = manifests.hashlib.file_digest
    monkeypatch.setattr(
        manifests.hashlib, "file_digest", lambda f, n: hashed.append(f.name) or digest(f, n)
    )

    def shards_hashed() -> int:
        hashed.clear()
        verify.check_start(folder, folder / "tokenizer.model", 300)
        return sum(str(name).endswith(".bin") for name in hashed)

    assert shards_hashed() == 0
    for path in folder.glob("*.bin"):
        os.utime(path, (1, 1))
    assert shards_hashed() == 4
    assert not faults_of(folder)
    assert shards_hashed() == 0


def test_near_duplicates_are_reported(models, tmp_path, monkeypatch):
    """Changed by a word here and there, cut, or inside a longer text: counted, not refused."""
    monkeypatch.setattr(verify, "SHINGLE_SHARE", 4)  # the documents are short
    rng = random.Random(5)
    near = []
    for text in VAL[:6]:
        words = text.split()
        words[rng.randrange(len(words))] = "changed"
        near.append(" ".join([*TRAIN[0].split()[:50], *words[3:]]))
    folder = make(tmp_path / "x", models, train=near + TRAIN)
    findings = {f.check: f for f in verify.verify(folder)}
    assert findings["overlap"].level == "ok"
    assert findings["near-duplicates"].level == "warning"
    assert findings["near-duplicates"].message.startswith("6 more validation documents")


def test_shingles_do_not_depend_on_how_a_stream_is_cut(monkeypatch):
    """Read in small pieces or at once: the same hashes, for the same documents."""
    rng = np.random.default_rng(0)
    tokens_T = rng.integers(1, 50, size=5000).astype(np.uint16)
    whole = verify.sampled_shingles(tokens_T, 1)
    monkeypatch.setattr(verify, "CHUNK_TOKENS", 97)
    assert len(whole) > 50 and (verify.sampled_shingles(tokens_T, 1) == whole).all()


def test_a_document_cut_by_the_end_of_a_shard_is_one(tmp_path):
    """Its hash is that of the joined document, over two shards or three."""
    documents = [[1, 7, 8], [1, 9, 10, 11, 12, 13], [1, 14]]
    stream = [*itertools.chain(*documents)]
    for cuts in itertools.combinations(range(1, len(stream)), 2):
        facts = []
        for number, part in enumerate(np.split(np.array(stream), cuts)):
            path = tmp_path / f"x_train_{number:06d}.bin"
            evaluate.write_shard(path, part)
            facts.append(verify.read_facts(path, None, 100, 1, False))
        want = [manifests.hash_document(np.array(document[1:])) for document in documents]
        assert verify.split_hashes(facts).tolist() == want


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
    folder = verify.Folder(make(tmp_path / "x", models), None)
    folder.source["name"] = name
    tokenizer = tokenizers.SentencePiece.load(toy / "tokenizers/toy_1024_bpe.model")
    folder.check_fingerprint(documents, size, tokens, tokenizer)
    assert [f.level for f in folder.findings] == [level]
    assert message in folder.findings[0].message


def test_the_command_prints_findings_and_a_status(models, tmp_path, capsys):
    """Lines or one JSON object; 0 when verified, 1 when refused or when nothing can be said."""
    folder = make(tmp_path / "x", models)
    assert prepare.main(["verify", str(folder), "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "ok      bos: 200 document starts" in out and out.endswith(f"{folder}: verified\n")
    flip(folder / "x_val_000000.bin")
    assert prepare.main(["verify", str(folder), "--workers", "2", "--json"]) == 1
    result = json.loads(capsys.readouterr().out)
    assert not result["ok"] and "x_val_000000.bin" in str(result["findings"])
    (folder / "manifest.json").unlink()
    assert prepare.main(["verify", str(folder)]) == 1
    assert "name its tokenizer with --tokenizer" in capsys.readouterr().err


def test_fused_case_markers_are_decoded(models, tmp_path):
    """The pairs of a space and a marker count as one byte, and the text comes back."""
    tokenizer = tokenizers.SentencePiece
    path = tmp_path / "m.model"
    path.write_bytes(models["caseops"])
    fused = tokenizer.load(path, use_caseops=True, fused=True)
    tokens_T, bytes_T = fused.encode(["People of the WORLD"])
    assert fused.decode(tokens_T[1:]) == "People of the WORLD" and bytes_T.sum() == 19
    assert caseops.FUSED_BYTES


def sparse_shards(folder, count: int, tokens: int) -> None:
    """Shards as large as published ones, of which only the head takes room on disk."""
    head = np.zeros(20_000, np.uint16)
    head[::500] = 1
    for split, number in [("val", 0), *(("train", i) for i in range(count))]:
        path = folder / f"x_{split}_{number:06d}.bin"
        size = tokens if split == "train" else 10_000_000
        head[1::500] = number + (split == "train") + 2
        header = np.zeros(256, "<i4")
        header[:3] = evaluate.SHARD_MAGIC, evaluate.SHARD_VERSION, size
        path.write_bytes(header.tobytes() + head.tobytes())
        os.truncate(path, 1024 + 2 * size)


@pytest.mark.slow  # a benchmark: it measures time
def test_a_hundred_large_shards_open_at_once(models, tmp_path):
    """Start-up over 100 shards of 100 M tokens is a matter of two seconds, not of their size."""
    sparse_shards(tmp_path, 100, 100_000_000)
    (tmp_path / "tokenizer.model").write_bytes(models["plain"])
    started = time.perf_counter()
    hp = train_gpt.Hyperparameters(data_path=str(tmp_path), vocab_size=300)
    verify.check_start(tmp_path, tmp_path / "tokenizer.model", 300)
    train_gpt.TrainingText(hp)
    assert time.perf_counter() - started < 8  # 1 s is measured; the machine may be busy


@pytest.mark.slow  # a benchmark: it measures time
def test_feeding_costs_little(models, tmp_path):
    """A tenth of a core feeds 1.5 M tokens a second from shards that are not in memory."""
    sparse_shards(tmp_path, 20, 100_000_000)
    hp = train_gpt.Hyperparameters(data_path=str(tmp_path), vocab_size=300)
    text, tokens = train_gpt.TrainingText(hp), 512 * hp.train_seq_len
    started = time.process_time()
    for step in range(3):
        text.rows(step * 512, 512)
    assert time.process_time() - started < 0.1 * 3 * tokens / 1.5e6


def test_bytes_without_a_sidecar_are_refused(tmp_path):
    """Tokens of no SentencePiece model have their bytes in a sidecar or nowhere."""
    source, folder = tmp_path / "docs.jsonl", tmp_path / "bytes"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in VAL))
    how = ["--tokenizer", "bytes", "--out", str(folder), "--val-documents", "5", "--workers", "1"]
    assert prepare.main(["build", str(source), *how]) == 0
    assert not faults_of(folder)
    manifest = manifests.read_manifest(folder)
    for shard in manifest["shards"]:
        if shard["sidecar"]:
            (folder / shard["sidecar"]["file"]).unlink()
            shard["sidecar"] = None
    manifests.write_manifest(folder, manifest | {"sidecar_required": False})
    assert "bytes tokens have their bytes in a sidecar" in faults_of(folder)["sidecar"]


def test_the_start_check_names_what_it_lacks(models, tmp_path, capsys):
    """Without a tokenizer it says so, instead of ending in a traceback; with it, a line."""
    folder = make(tmp_path / "x", models)
    assert prepare.main(["verify", str(folder), "--start", "300"]) == 1
    assert "add --tokenizer FILE" in capsys.readouterr().err
    how = ["--tokenizer", str(folder / "tokenizer.model"), "--start", "300"]
    assert prepare.main(["verify", str(folder), *how]) == 0
    assert "data verified source:made up" in capsys.readouterr().out
