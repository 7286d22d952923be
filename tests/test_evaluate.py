"""The score: shards, bytes, windows, test-time training, ranks, and the command line."""

import io
import itertools
import json
import math
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import evaluate
from evaluate import BOS_ID, ByteTable, IllegalScore, Ledger, Score, ShardError

ROOT = Path(__file__).parents[1]
SHARED_TOKENIZERS = ROOT.parent / "shared" / "data" / "tokenizers"
VOCAB = 32
HOW = {"seq_len": 16, "stride": 4, "isolate": False, "device": "cpu", "batch_tokens": 64}
HOSTILE = [
    "Plain words, twice twice.",
    "",
    "emoji 👩‍🔬🏳️‍🌈 and 漢字かな交じり文 side by side",
    "▁ and a▁b ▁▁ x",
    "\x00nul\x00\x00",
    " leading",
    "two  blanks\tand\ttabs\nand lines\n",
    "",
    "é e\u0301 ﬁ ½ \u200b \u202e \ufffd",
    " ",
    "the end 🙂",
]


class Causal(nn.Module):
    """A small causal model: convolutions over the last positions, in numbered blocks."""

    def __init__(self, vocab=VOCAB, dim=16, num_blocks=3, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.tok_emb = nn.Embedding(vocab, dim)
        self.blocks = nn.ModuleList(nn.Conv1d(dim, dim, 3) for _ in range(num_blocks))
        self.head = nn.Linear(dim, vocab)

    def forward(self, tokens_BT):
        assert tokens_BT.numel() > 0
        x = self.tok_emb(tokens_BT).mT  # [B, D, T]
        for block in self.blocks:
            x = x + block(F.pad(x, (2, 0))).tanh()
        return 3 * self.head(x.mT)


class Peeking(nn.Module):
    """Logits that depend on every input up to the position, however far back."""

    def __init__(self, vocab=VOCAB):
        super().__init__()
        self.weight_VV = torch.randn(vocab, vocab, generator=torch.Generator().manual_seed(1))

    def forward(self, tokens_BT):
        return self.weight_VV[tokens_BT].cumsum(dim=1)


def stream(length: int, seed: int = 0, vocab: int = VOCAB) -> np.ndarray:
    """Random tokens of documents of all lengths, empty ones too."""
    tokens_T = np.random.default_rng(seed).integers(2, vocab, length).astype(np.uint16)
    tokens_T[np.random.default_rng(seed + 1).random(length) < 0.08] = BOS_ID
    tokens_T[0] = BOS_ID
    return tokens_T


def table_of(vocab: int = VOCAB) -> ByteTable:
    """A table in which token v stands for v % 5 bytes."""
    return ByteTable(np.arange(vocab) % 5, np.zeros(vocab, bool), np.zeros(vocab, bool))


# Shards


def test_shard_returns_its_tokens_and_pleases_a_reader_of_three_words(tmp_path):
    """What is written is read back, mapped; upstream's way of reading gives the same tokens."""
    path, tokens = tmp_path / "toy_val_000000.bin", np.arange(70, dtype=np.int64) * 900
    evaluate.write_shard(path, tokens)
    tokens_T = evaluate.read_shard(path)
    assert isinstance(tokens_T, np.memmap) and tokens_T.dtype == np.uint16
    assert tokens_T.tolist() == tokens.tolist()
    header = np.fromfile(path, "<i4", 256)
    assert header[:3].tolist() == [20240520, 1, 70]
    assert np.fromfile(path, "<u2", offset=1024).tolist() == tokens.tolist()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_published_shard_without_checksum_is_read(tmp_path):
    """Zeros in the reserved words mean that there is nothing to compare with."""
    path = tmp_path / "x.bin"
    header = np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 3
    path.write_bytes(header.tobytes() + np.array([1, 2, 3], "<u2").tobytes())
    assert evaluate.read_shard(path).tolist() == [1, 2, 3]


def corrupt(blob: bytes, rng: np.random.Generator) -> bytes:
    """One accident: flipped bits, a cut, added bytes, a hole of zeros, swapped or foreign parts."""
    data, at = bytearray(blob), int(rng.integers(len(blob)))
    match int(rng.integers(7)):
        case 0:
            data[at] ^= 1 << int(rng.integers(8))
        case 1:
            del data[at:]
        case 2:
            data += rng.bytes(int(rng.integers(1, 9)))
        case 3:
            data[at : at + 64] = bytes(len(data[at : at + 64]))
        case 4:
            word = 4 * int(rng.integers(256))
            data[word : word + 4] = rng.bytes(4)
        case 5:
            del data[at : at + int(rng.integers(1, 5))]
        case 6:
            data[at : at + 16] = rng.permutation(bytearray(data[at : at + 16])).tobytes()
    return bytes(data)


def test_a_thousand_corrupted_shards_are_refused(tmp_path):
    """Whatever happens to a shard of ours, reading it says which file and that it is damaged."""
    path, rng = tmp_path / "toy_train_000000.bin", np.random.default_rng(7)
    evaluate.write_shard(path, rng.integers(0, 1024, 1500))
    blob, refused = path.read_bytes(), 0
    while refused < 1000:
        damaged = corrupt(blob, rng)
        if damaged == blob:
            continue
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match="toy_train_000000.bin: .*; build or fetch it again"):
            evaluate.read_shard(path)
        refused += 1


@pytest.mark.parametrize(
    "word, value, message",
    [
        (0, 1, "magic"),
        (1, 2, "version"),
        (2, -5, "do not hold -5 tokens"),
        (2, 0, "do not hold 0 tokens"),
        (2, 4, "do not hold 4 tokens"),
        (2, 2**31 - 1, "do not hold"),
        (3, 9, "reserved header words"),
        (255, 9, "reserved header words"),
    ],
)
def test_header_damage_is_named(tmp_path, word, value, message):
    """Each word of a header without checksum is checked, the reserved ones too."""
    path, header = tmp_path / "x.bin", np.zeros(256, "<i4")
    header[:3] = 20240520, 1, 3
    header[word] = value
    path.write_bytes(header.tobytes() + bytes(6))
    with pytest.raises(ShardError, match=message):
        evaluate.read_shard(path)


def test_file_shorter_than_a_header_is_refused(tmp_path):
    """An empty file and half a header are damaged shards, not crashes."""
    for size_bytes in (0, 1, 1023):
        (tmp_path / "x.bin").write_bytes(bytes(size_bytes))
        with pytest.raises(ShardError, match=f"{size_bytes} bytes must be at least 1024"):
            evaluate.read_shard(tmp_path / "x.bin")


def test_verify_is_what_reads_the_tokens(tmp_path):
    """verify=False opens a shard whose tokens have changed; the default does not."""
    path = tmp_path / "x.bin"
    evaluate.write_shard(path, np.arange(9))
    blob = bytearray(path.read_bytes())
    blob[-2] ^= 1
    path.write_bytes(blob)
    assert evaluate.read_shard(path, verify=False)[-1] == 9
    with pytest.raises(ShardError, match="checksum"):
        evaluate.read_shard(path)


@pytest.mark.parametrize("tokens", [[-1], [65_536], [0.5], [], [[1, 2]]])
def test_write_shard_refuses_what_is_no_row_of_uint16(tmp_path, tokens):
    """No file appears for tokens that a shard cannot hold."""
    with pytest.raises(ValueError, match="one non-empty row of integers in 0..65535"):
        evaluate.write_shard(tmp_path / "x.bin", np.array(tokens))
    assert not list(tmp_path.iterdir())


def test_split_is_its_shards_in_order(tmp_path):
    """Shards are found by split, sorted and joined; an absent split is an error with a remedy."""
    for number in (2, 0, 1):
        evaluate.write_shard(tmp_path / f"toy_val_{number:06d}.bin", np.full(2, number))
    evaluate.write_shard(tmp_path / "toy_train_000000.bin", np.full(2, 9))
    assert evaluate.read_split(tmp_path, "val").tolist() == [0, 0, 1, 1, 2, 2]
    assert evaluate.read_split(tmp_path, "train").tolist() == [9, 9]
    with pytest.raises(FileNotFoundError, match="data.prepare fetch --variant sp1024"):
        evaluate.find_shards(tmp_path / "nowhere", "val")


@pytest.mark.parametrize("name", ["toy_val_000000.bytes.bin", "toy_val_bytes_000000.bin"])
def test_a_sidecar_is_no_shard(tmp_path, name):
    """Neither our name nor that of published sidecars is read as tokens; both are found."""
    shard = tmp_path / "toy_val_000000.bin"
    evaluate.write_shard(shard, np.full(3, 7))
    evaluate.write_shard(tmp_path / name, np.full(3, 1))
    assert evaluate.find_shards(tmp_path, "val") == [shard]
    assert evaluate.sidecar_path(shard) == tmp_path / name


# Bytes


def train_tokenizer(folder: Path, name: str, **settings) -> Path:
    text = ["the quick brown fox jumps over the lazy dog. ", "def f(x):\n\treturn  x\n", "a b  c"]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text * 50),
        model_writer=model,
        model_type="bpe",
        normalization_rule_name="identity",
        hard_vocab_limit=False,
        minloglevel=2,
        **{"vocab_size": 320, "byte_fallback": True, "pad_id": 0, "bos_id": 1, "eos_id": 2}
        | {"unk_id": 3}
        | settings,
    )
    path = folder / f"{name}.model"
    path.write_bytes(model.getvalue())
    return path


@pytest.fixture(scope="session")
def tokenizers(tmp_path_factory) -> dict[str, Path]:
    """Small identity tokenizers: one loses a first space when decoding, one keeps it."""
    folder = tmp_path_factory.mktemp("tokenizers")
    keep = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
    odd = {**keep, "user_defined_symbols": ["<x▁y>", "q▁▁"], "split_by_whitespace": False}
    return {
        "prefix": train_tokenizer(folder, "prefix", remove_extra_whitespaces=False),
        "keep": train_tokenizer(folder, "keep", **keep),
        "inner": train_tokenizer(folder, "inner", **odd),
        "unknown": train_tokenizer(folder, "unknown", byte_fallback=False, vocab_size=60),
        "other_bos": train_tokenizer(folder, "other_bos", bos_id=2, eos_id=1),
    }


@pytest.fixture(params=["prefix", "keep", "inner", "1024", "8192"])
def tokenizer(request, tokenizers) -> Path:
    if request.param in tokenizers:
        return tokenizers[request.param]
    path = SHARED_TOKENIZERS / f"fineweb_{request.param}_bpe.model"
    if not path.exists():
        pytest.skip(f"the field's tokenizer {path.name} is not here")
    return path


def encode(path: Path, texts=tuple(HOSTILE)):
    """Tokens of the texts as documents, the processor, and its byte table."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    documents = [[BOS_ID, *processor.encode(text)] for text in texts]
    tokens_T = np.array(list(itertools.chain(*documents)), dtype=np.uint16)
    table = ByteTable.from_sentencepiece(path, processor.vocab_size())
    return documents, tokens_T, processor, table


def test_bytes_are_those_of_the_decoded_text(tokenizer):
    """Document by document the table counts the UTF-8 bytes of the decoded text, hostile or not."""
    documents, tokens_T, processor, table = encode(tokenizer)
    for ids in documents:
        counted = table.count(np.array(ids[:-1], int), np.array(ids[1:], int))
        assert counted.dtype == np.int64
        assert counted.sum() == len(processor.decode(ids).encode())
    table.check(tokenizer, tokens_T)


def test_bytes_are_those_of_the_text_itself(tokenizers):
    """Where nothing is normalised away, they are the bytes of the text, with U+2581 as a space."""
    _, tokens_T, _, table = encode(tokenizers["keep"])
    want = sum(len(text.replace("▁", " ").encode()) for text in HOSTILE)
    assert evaluate.unigram_score(tokens_T, table).bytes == want


def test_bpb_equals_an_independent_computation(tokenizer):
    """On hostile text, decoded documents and float64 log-probabilities give the same bpb."""
    documents, tokens_T, processor, table = encode(tokenizer)
    model = Causal(processor.vocab_size()).eval()
    score = evaluate.score_windows(model, tokens_T, table, **{**HOW, "isolate": True})

    nats = 0.0
    for at in range(len(tokens_T) - 1):
        begin = max(i for i in range(at + 1) if tokens_T[i] == BOS_ID)
        windows_behind = max(0, math.ceil((at + 1 - begin - 16) / 4))
        context = tokens_T[begin + 4 * windows_behind : at + 1].astype(np.int64)
        logits = model(torch.from_numpy(context)[None])[0, -1].double().detach().numpy()
        nats -= logits[tokens_T[at + 1]] - np.log(np.exp(logits).sum())
    size_bytes = sum(len(processor.decode(ids).encode()) for ids in documents)
    assert score.bytes == size_bytes
    assert score.bpb == pytest.approx(nats / math.log(2) / size_bytes, rel=1e-6)


def test_space_inside_a_piece_is_one_byte(tokenizers):
    """U+2581 within a piece decodes to a space, which is 1 byte and not 3."""
    _, tokens_T, processor, table = encode(tokenizers["inner"], ["<x y>q  "])
    assert [processor.id_to_piece(i) for i in tokens_T[1:].tolist()] == ["<x▁y>", "q▁▁"]
    assert table.base_bytes_V[tokens_T].tolist() == [0, 5, 3]


def test_first_space_counts_only_where_decoding_keeps_it(tokenizers):
    """After BOS a leading space is no text for one tokenizer and text for the other."""
    for name, space_bytes in (("prefix", 0), ("keep", 1)):
        _, _, processor, table = encode(tokenizers[name])
        word = processor.piece_to_id("▁b")
        prev_T, target_T = np.array([BOS_ID, word]), np.array([word, word])
        assert table.count(prev_T, target_T).tolist() == [1 + space_bytes, 2]
        assert len(processor.decode([BOS_ID, word]).encode()) == 1 + space_bytes


def altered(table: ByteTable, **changes) -> ByteTable:
    return ByteTable(**{**vars(table), **changes})


def test_check_catches_the_known_miscounts(tokenizer):
    """A space counted twice, a byte piece counted 3, a missing space: each is found and named."""
    _, tokens_T, processor, table = encode(tokenizer, ["ok", "a the fox", "ok 🙂"])
    byte_V = np.array([processor.is_byte(i) for i in range(processor.vocab_size())])
    base_V, space_V = table.base_bytes_V, table.leading_space_V
    with pytest.raises(ValueError, match=r"document [01] \(from token \d+\) counts \+\d+ bytes"):
        altered(table, base_bytes_V=base_V + space_V).check(tokenizer, tokens_T)
    with pytest.raises(ValueError, match=r"document 1 .* counts -\d+ bytes .* text, 'a the fox'"):
        altered(table, leading_space_V=space_V & False).check(tokenizer, tokens_T)
    stream_T = np.append(tokens_T, BOS_ID)  # the emoji is not at the end of the stream
    with pytest.raises(ValueError, match=r"document 2 .* counts \+8 bytes .* text, 'ok 🙂'"):
        altered(table, base_bytes_V=np.where(byte_V, 3, base_V)).check(tokenizer, stream_T)
    table.check(tokenizer, stream_T)


def test_check_accepts_a_stream_cut_anywhere(tokenizers):
    """Any end is fine, inside a character too; so is a stream that does not begin with BOS."""
    path = tokenizers["prefix"]
    _, tokens_T, _, table = encode(path, ["fox 🙂🙂", "the 漢"])
    for length in range(2, len(tokens_T) + 1):
        table.check(path, tokens_T[:length])
    table.check(path, tokens_T[1:])


def test_total_is_the_sum_over_all_targets():
    """However the stream is cut for counting, the total is that of all targets at once."""
    tokens_T = stream(3000)
    table = table_of()
    want = int(table.count(tokens_T[:-1], tokens_T[1:]).sum())
    assert table.total(tokens_T) == want
    long_T = np.tile(tokens_T, 800)  # more than one part
    want = int(table.count(long_T[:-1], long_T[1:]).sum())
    assert table.total(long_T) == want


def test_the_sidecar_replaces_the_table(tokenizers, tmp_path):
    """The bytes of the validation stream are the sidecar's, in every score; others' the table's."""
    _, tokens_T, _, table = encode(tokenizers["keep"], HOSTILE)
    spelt_T = np.append(0, table.count(tokens_T[:-1], tokens_T[1:]))
    bytes_T = np.where(np.arange(len(tokens_T)) % 3 == 0, 0, spelt_T)
    evaluate.write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    assert evaluate.read_validation(tmp_path, table)[1].total(tokens_T) == spelt_T.sum()
    evaluate.write_shard(tmp_path / "x_val_000000.bytes.bin", bytes_T)
    val_T, sided = evaluate.read_validation(tmp_path, table)
    assert (val_T == tokens_T).all() and sided.total(val_T) == bytes_T.sum() < spelt_T.sum()
    assert sided.total(val_T[:-1]) == spelt_T[:-1].sum()
    assert evaluate.unigram_score(val_T, sided).bytes == bytes_T.sum()


@pytest.mark.parametrize("fault", ["missing", "short", "above", "bos"])
def test_wrong_sidecars_are_refused(tokenizers, tmp_path, fault):
    """Missing beside one that is there, of another length, or more bytes than a piece spells."""
    _, tokens_T, _, table = encode(tokenizers["keep"], HOSTILE)
    bytes_T = np.append(0, table.count(tokens_T[:-1], tokens_T[1:]))
    if fault == "above":
        bytes_T[5] += 1
    if fault == "bos":
        bytes_T[np.flatnonzero(tokens_T == 1)[1]] = 1
    for number in range(2):
        shard = tmp_path / f"x_val_{number:06d}.bin"
        evaluate.write_shard(shard, tokens_T)
        if number == 0 or fault != "missing":
            cut = bytes_T[:-1] if fault == "short" else bytes_T
            evaluate.write_shard(evaluate.sidecar_path(shard), cut)
    messages = {
        "missing": "x_val_000001.bytes.bin: is missing",
        "short": r"\d+ entries for \d+ tokens",
        "above": "entry 5 is more bytes than its token spells",
        "bos": "is more bytes than its token spells",
    }
    with pytest.raises(ShardError, match=messages[fault]):
        evaluate.read_validation(tmp_path, table)


def test_case_markers_demand_a_sidecar(tmp_path):
    """A vocabulary with the markers of CaseOps is of changed text: the table alone will not do."""
    marked = train_tokenizer(tmp_path, "m", user_defined_symbols=["\ue001", "\ue002", "\ue003"])
    _, tokens_T, _, table = encode(marked, ["a text"])
    evaluate.write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    assert table.needs_sidecar
    with pytest.raises(ShardError, match="x_val_000000.bytes.bin: is missing"):
        evaluate.read_validation(tmp_path, table)


def manifest_of(folder, documents, size):
    """The few keys of a manifest that scoring reads."""
    val = {"documents": documents, "bytes": size}
    (folder / "manifest.json").write_text(
        json.dumps({"version": 1, "splits": {"val": val}, "shards": []})
    )


def test_only_a_whole_split_has_a_val_bpb(tokenizers, tmp_path, monkeypatch):
    """val_bpb by the counts of the manifest, or the challenge's; else val_bpb_partial."""
    _, tokens_T, _, table = encode(tokenizers["keep"], HOSTILE)
    documents, size = len(HOSTILE), table.total(tokens_T)

    def metric() -> str:
        return evaluate.read_validation(tmp_path, table)[1].metric

    evaluate.write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    assert metric() == "val_bpb_partial"
    monkeypatch.setattr(evaluate, "FINEWEB_VAL", {"documents": documents, "bytes": size})
    assert metric() == "val_bpb"
    manifest_of(tmp_path, documents, size + 1)
    assert metric() == "val_bpb_partial"
    manifest_of(tmp_path, documents, size)
    assert metric() == "val_bpb"
    evaluate.write_shard(tmp_path / "x_val_000000.bin", tokens_T[:-1])
    assert metric() == "val_bpb_partial"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2}', "{"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, content):
    """Damaged, another version, not one of ours: refused by the file's name, never ignored."""
    (tmp_path / "manifest.json").write_text(content)
    evaluate.write_shard(tmp_path / "x_val_000000.bin", np.array([BOS_ID, 2, 3]))
    with pytest.raises(ShardError, match="manifest.json is damaged, or not of data/prepare.py"):
        evaluate.read_validation(tmp_path, table_of())


def test_unknown_piece_in_the_text_is_found(tokenizers):
    """An unknown piece decodes to text of its own, so no byte count of it is right."""
    _, tokens_T, _, table = encode(tokenizers["keep"], ["the", "fox"])
    tokens_T[-1] = 3
    with pytest.raises(ValueError, match=r"document 1 .* -\d bytes against its decoded text"):
        table.check(tokenizers["keep"], tokens_T)


def test_tokenizers_that_miscount_are_refused(tokenizers, tmp_path):
    """No U+2581, no byte fallback, another BOS, another size, no model at all: refused by name."""
    blob = tokenizers["keep"].read_bytes()
    piece = b"\x0a\x03" + "▁".encode()  # the field that holds the bare piece
    assert blob.count(piece) == 1
    (tmp_path / "bare.model").write_bytes(blob.replace(piece, b"\x0a\x03" + "▂".encode()))
    (tmp_path / "junk.model").write_bytes(b"no model")
    for path, message in (
        (tmp_path / "bare.model", 'bare.model lacks the piece "▁"'),
        (tokenizers["unknown"], "unknown.model lacks bytes; .*byte_fallback=True"),
        (tokenizers["other_bos"], "other_bos.model has bos_id=2"),
    ):
        size = sentencepiece.SentencePieceProcessor(model_file=str(path)).vocab_size()
        with pytest.raises(ValueError, match=message):
            ByteTable.from_sentencepiece(path, size)
    with pytest.raises(ValueError, match="must have vocab_size=1024"):
        ByteTable.from_sentencepiece(tokenizers["keep"], 1024)
    with pytest.raises(RuntimeError, match="junk.model"):
        ByteTable.from_sentencepiece(tmp_path / "junk.model", 320)
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*none.model"):
        ByteTable.from_sentencepiece(tmp_path / "none.model", 320)


# Score


def test_scores_add_up():
    """The sum of the scores of two parts is the score of both; bpb is in bits and per byte."""
    whole = Score(1.5, 3, 4) + Score(0.5, 1, 6)
    assert whole == Score(2.0, 4, 10)
    assert whole.loss == 0.5
    assert whole.bpb == pytest.approx(2.0 / math.log(2) / 10)


def test_no_bytes_is_an_error_that_says_so():
    """A stream of control tokens has no bpb."""
    with pytest.raises(ValueError, match="bytes=0 must be positive"):
        _ = Score(1.0, 1, 0).bpb


def test_unigram_score_is_that_of_the_targets_frequencies():
    """It equals a loop over the targets with their own relative frequencies."""
    tokens_T = stream(300)
    targets = tokens_T[1:].tolist()
    want = -sum(math.log(targets.count(token) / len(targets)) for token in targets)
    score = evaluate.unigram_score(tokens_T, table_of())
    assert score.nats == pytest.approx(want)
    assert (score.tokens, score.bytes) == (299, sum(token % 5 for token in targets))


def test_streams_that_cannot_be_scored_are_refused():
    """A token outside the vocabulary is named with its place; one token has no target."""
    tokens_T = stream(50)
    tokens_T[17] = VOCAB
    for score in (evaluate.unigram_score, lambda *args: evaluate.score_windows(None, *args, **HOW)):
        with pytest.raises(ValueError, match="token 32 at 17 must be below 32"):
            score(tokens_T, table_of())
        for bad in (tokens_T[:1], tokens_T[:0], tokens_T[None]):
            with pytest.raises(ValueError, match="must be one row of 2 or more"):
                score(bad, table_of())


# Windows


@settings(max_examples=200, deadline=None)
@given(
    length=st.integers(2, 120),
    seq_len=st.integers(1, 40),
    stride=st.integers(1, 40),
    isolate=st.booleans(),
    chunk_tokens=st.integers(1, 200),
    seed=st.integers(0, 20),
)
def test_windows_score_each_target_once_with_full_context(
    length, seq_len, stride, isolate, chunk_tokens, seed
):
    """They tile the targets, fit the model, stay in their document and chunk, and see enough."""
    stride, tokens_T = min(stride, seq_len), stream(length, seed)
    windows_W3 = evaluate.plan_windows(tokens_T, seq_len, stride, isolate, chunk_tokens)
    scored = [target for _, first, end in windows_W3.tolist() for target in range(first, end)]
    assert scored == list(range(length - 1))
    for start, first, end in windows_W3.tolist():
        assert start <= first and end - start <= seq_len
        assert first // chunk_tokens == (end - 1) // chunk_tokens
        begin = start
        if isolate:
            assert BOS_ID not in tokens_T[start + 1 : end]
            begin = max(i for i in range(start + 1) if i == 0 or tokens_T[i] == BOS_ID)
        else:
            begin = 0
        assert (start - begin) % stride == 0
        assert first - start >= min(seq_len - stride, first - begin)
        at_border = end == length - 1 or end % chunk_tokens == 0
        assert end - start == seq_len or at_border or isolate and tokens_T[end] == BOS_ID


@pytest.mark.parametrize("stride, chunk_tokens, name", [(0, 9, "stride=0"), (9, 9, "stride=9")])
def test_impossible_windows_are_refused(stride, chunk_tokens, name):
    """A stride must lie in 1..seq_len, or targets would be left out."""
    with pytest.raises(ValueError, match=f"{name} must lie in 1..seq_len=8"):
        evaluate.plan_windows(stream(20), 8, stride, False, chunk_tokens)


def reference_nats(model, tokens_T, seq_len, stride, isolate) -> float:
    """One target at a time, by the definition: the first window, on a grid, that reaches it."""
    nats = 0.0
    for at in range(len(tokens_T) - 1):
        begin = max(i for i in range(at + 1) if i == 0 or isolate and tokens_T[i] == BOS_ID)
        start = next(s for s in range(begin, at + 1, stride) if at < s + seq_len)
        logits = model(torch.from_numpy(tokens_T[start : at + 1].astype(np.int64))[None])[0, -1]
        nats -= logits.double().log_softmax(0)[int(tokens_T[at + 1])].item()
    return nats


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("seq_len, stride", [(1, 1), (7, 7), (16, 5), (16, 1), (64, 64), (100, 30)])
def test_score_equals_a_loop_over_targets(seq_len, stride, isolate):
    """Blocks and sliding windows, heads, tails, tiny streams: the definition's nats and bytes."""
    how = {**HOW, "seq_len": seq_len, "stride": stride, "isolate": isolate}
    model = Peeking()
    for length in (2, 3, seq_len, seq_len + 1, seq_len + 2, 90):
        tokens_T = stream(max(2, length), seed=length)
        score = evaluate.score_windows(model, tokens_T, table_of(), **how)
        want = reference_nats(model, tokens_T, seq_len, stride, isolate)
        assert score.nats == pytest.approx(want, rel=1e-5)
        assert score.tokens == len(tokens_T) - 1
        assert score.bytes == sum(int(token) % 5 for token in tokens_T[1:])


def test_padding_and_batching_do_not_change_the_score():
    """Whatever the size of a batch, the score is the same; shapes are few and in order."""
    tokens_T, shapes = np.full(3000, 5), []
    tokens_T[np.cumsum(np.random.default_rng(1).integers(3, 200, 25))] = BOS_ID

    def model(tokens_BT):
        shapes.append(tuple(tokens_BT.shape))
        return Peeking()(tokens_BT)

    how, nats = {**HOW, "seq_len": 200, "stride": 50, "isolate": True}, []
    num_windows = len(evaluate.plan_windows(tokens_T, 200, 50, True, 3000))
    for batch_tokens, rows in ((1, 1), (1000, 5), (10**9, num_windows)):
        shapes.clear()
        how["batch_tokens"] = batch_tokens
        nats.append(evaluate.score_windows(model, tokens_T, table_of(), **how).nats)
        assert shapes == sorted(shapes) and set(shapes) <= {(rows, 64), (rows, 128), (rows, 200)}
        assert len(set(shapes)) > 1 or rows == num_windows
    assert nats[1:] == pytest.approx(nats[:1] * 2, rel=1e-6)


def test_isolated_documents_know_nothing_of_each_other():
    """With isolation the scores of documents add up, for a model that remembers all it reads."""
    one, two = stream(40, seed=5), stream(70, seed=6)
    nats = {}
    for isolate in (True, False):
        how = {**HOW, "isolate": isolate}
        parts = [np.append(one, BOS_ID), two, np.concatenate([one, two])]
        scores = [evaluate.score_windows(Peeking(), part, table_of(), **how) for part in parts]
        nats[isolate] = [score.nats for score in scores]
    first, second, both = nats[True]
    assert both == pytest.approx(first + second, rel=1e-6)
    first, second, both = nats[False]
    assert both != pytest.approx(first + second, rel=1e-3)


def test_logits_are_normalised_here():
    """Adding a constant to all logits of a position, which could fake any loss, changes nothing."""
    tokens_T, model = stream(200), Causal()
    plain = evaluate.score_windows(model, tokens_T, table_of(), **HOW)
    lifted = evaluate.score_windows(
        lambda tokens_BT: model(tokens_BT) + 5 * tokens_BT[..., None], tokens_T, table_of(), **HOW
    )
    assert lifted.nats == pytest.approx(plain.nats, rel=1e-5)
    low = evaluate.score_windows(lambda t: model(t).bfloat16(), tokens_T, table_of(), **HOW)
    assert low.nats == pytest.approx(plain.nats, rel=1e-2) and low.nats != plain.nats


def test_sums_are_exact():
    """A long batch of equal losses adds up to their multiple, as it does not in float32."""
    tokens_T = np.full(30_000, 2)
    how = {**HOW, "batch_tokens": 10**6}
    score = evaluate.score_windows(lambda t: torch.zeros(*t.shape, 32), tokens_T, table_of(), **how)
    one = F.cross_entropy(torch.zeros(1, VOCAB), torch.tensor([2])).item()
    assert score.nats == pytest.approx(29_999 * one, rel=1e-12)


def test_logits_that_are_no_distribution_are_refused():
    """Not finite, at a scored position: refused with the token's place; a wrong shape as well."""
    tokens_T = np.arange(2, 31, dtype=np.uint16)  # every token once, so that one can be spoilt

    def spoilt(value):
        def model(tokens_BT):
            logits_BTV = torch.zeros(*tokens_BT.shape, VOCAB)
            logits_BTV[..., 3][tokens_BT == 22] = value  # the input at 20 predicts token 21
            logits_BTV[tokens_BT == 0] = float("nan")  # padding is nobody's business
            return logits_BTV

        return model

    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="logits for token 21 of the stream must be finite"):
            evaluate.score_windows(spoilt(value), tokens_T, table_of(), **HOW)
    score = evaluate.score_windows(spoilt(0.0), tokens_T, table_of(), **HOW)
    assert score.loss == pytest.approx(math.log(VOCAB))
    for shape in ((VOCAB + 1,), (VOCAB - 1,), ()):
        with pytest.raises(ValueError, match="logits of shape .* must be"):
            evaluate.score_windows(
                lambda t, s=shape: torch.zeros(*t.shape, *s), tokens_T, table_of(), **HOW
            )


# Test-time training


def test_training_sees_only_what_was_scored():
    """adapt_fn gets each chunk right after its score, nothing beyond it, and never the last one."""
    tokens_T, ledger, seen, read = stream(150, seed=8), Ledger(), [], []
    model = Causal()

    def logits_fn(tokens_BT):
        read.append(len(seen))
        return model(tokens_BT)

    def adapt(chunk_T, index, num_chunks):
        assert ledger.scored[-1] == (40 * index, 40 * index + 40)
        assert chunk_T.tolist() == tokens_T[40 * index : 40 * index + 41].tolist()
        assert (
            chunk_T.untyped_storage().nbytes() == 8 * 41
        )  # no way to reach the rest of the stream
        assert num_chunks == 4 and read.count(index) > 0
        seen.append(index)

    how = {**HOW, "chunk_tokens": 40, "ledger": ledger}
    score = evaluate.score_first(logits_fn, adapt, tokens_T, table_of(), **how)
    assert seen == [0, 1, 2] and read == sorted(read) and read[-1] == 3
    assert ledger.scored == [(0, 40), (40, 80), (80, 120), (120, 149)]
    assert ledger.trained == ledger.scored[:-1]
    assert score.tokens == 149


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 30, 1000])
def test_without_training_chunks_change_nothing(chunk_tokens, isolate):
    """Cutting windows at chunk borders keeps every context: the score is that of plain windows."""
    tokens_T, how = stream(120, seed=9), {**HOW, "isolate": isolate}
    plain = evaluate.score_windows(Peeking(), tokens_T, table_of(), **how)
    how["chunk_tokens"] = chunk_tokens
    score = evaluate.score_first(Peeking(), lambda *_: None, tokens_T, table_of(), **how)
    assert score.nats == pytest.approx(plain.nats, rel=1e-6)
    assert (score.tokens, score.bytes) == (plain.tokens, plain.bytes)


def test_ledger_refuses_every_cheat():
    """Training before scoring, scoring twice, leaving out, scoring nothing: all are caught."""

    def intervals(*spans):
        return np.array(spans).T

    with pytest.raises(IllegalScore, match="trained on when 0 were scored") as caught:
        Ledger().train(0, 4)
    assert caught.value.rule == "score-first"
    ledger = Ledger()
    ledger.score(*intervals((0, 4), (4, 8)))
    for ahead in ((0, 9), (8, 12), (4, 12), (-1, 4), (4, 4)):
        with pytest.raises(IllegalScore, match="trained on when 8 were scored"):
            ledger.train(*ahead)
    for spans in ([(0, 4)], [(7, 9)], [(9, 12)], [(8, 10), (9, 12)], [(8, 10), (11, 12)], [(8, 8)]):
        with pytest.raises(IllegalScore, match="twice or never") as caught:
            ledger.score(*intervals(*spans))
        assert caught.value.rule == "one-pass"
    ledger.train(0, 8)
    ledger.score(8, 10)
    for num_targets in (9, 11):
        with pytest.raises(IllegalScore, match=f"10 of {num_targets} targets were scored"):
            ledger.close(num_targets)
    ledger.close(10)


def test_scoring_with_faulty_windows_is_caught(monkeypatch):
    """A plan that drops, repeats or reorders windows cannot produce a score."""
    plan = evaluate.plan_windows
    faults = [
        lambda w: w[:-1],
        lambda w: w[1:],
        lambda w: np.concatenate([w, w[-1:]]),
        lambda w: np.delete(w, 2, axis=0),
        lambda w: w[[1, 0, *range(2, len(w))]],
    ]
    for fault in faults:
        monkeypatch.setattr(evaluate, "plan_windows", lambda *args, f=fault: f(plan(*args)))
        with pytest.raises(IllegalScore, match="one-pass"):
            evaluate.score_windows(Causal(), stream(60), table_of(), **HOW)


def nats_of(model, look_ahead: int):
    """A whole evaluation of a stream in one pass; a position may also see a later token."""

    def nats_fn(tokens_T: np.ndarray) -> np.ndarray:
        ids_T = torch.from_numpy(tokens_T.astype(np.int64))
        logits_TV = model(ids_T[None])[0]
        if look_ahead:
            logits_TV = logits_TV + logits_TV.detach().roll(-look_ahead, 0)
        nats_T = F.cross_entropy(logits_TV[:-1], ids_T[1:], reduction="none")
        return nats_T.detach().double().numpy()

    return nats_fn


def test_influence_is_nothing_of_the_future_and_something_of_the_past():
    """A causal scorer does not move before a change, and moves after it; one that peeks does."""
    tokens_T, causal = stream(80, seed=3), nats_of(Causal(), 0)
    assert evaluate.influence(causal, tokens_T, slice(41, None), slice(0, 40)) == 0.0
    assert evaluate.influence(causal, tokens_T, slice(30, 41), slice(40, None)) > 0.01
    peeking = nats_of(Causal(), 2)
    assert evaluate.influence(peeking, tokens_T, slice(41, None), slice(0, 40)) > 0.01
    nothing = np.full(79, np.nan)
    assert evaluate.influence(lambda t: nothing, tokens_T, slice(9), slice(9)) == np.inf


def test_influence_changes_every_token_but_document_starts():
    """Each changed token is another id of the stream; documents begin where they began."""
    tokens_T, seen, zeros = stream(300, seed=4), [], np.zeros(299)
    evaluate.influence(lambda t: seen.append(t) or zeros, tokens_T, slice(50, 290), slice(9))
    flipped_T, same_T = seen
    assert (same_T == tokens_T).all() and len(seen) == 2
    moved_T = flipped_T != tokens_T
    assert (moved_T == ((np.arange(300) >= 50) & (np.arange(300) < 290) & (tokens_T != 1))).all()
    assert set(flipped_T) <= set(tokens_T)


def test_influence_needs_ids_to_change_to():
    """Of one id there is no other: said with the remedy, before anything is scored."""
    with pytest.raises(ValueError, match="1 ids besides BOS must be 2 or more"):
        evaluate.influence(None, np.array([BOS_ID, 5, 5]), slice(2), slice(1))


def test_mass_and_implied_bytes():
    """A softmax weighs one; a loss and its bpb tell the bytes that were divided by."""
    logp_PV = torch.randn(5, 32).log_softmax(1).numpy()
    assert evaluate.total_mass(logp_PV) == pytest.approx(np.ones(5), abs=1e-6)
    assert evaluate.total_mass(logp_PV + np.log(2)) == pytest.approx(np.full(5, 2.0), abs=1e-5)
    score = Score(nats=123.0, tokens=40, bytes=90)
    assert evaluate.implied_bytes(score.loss, score.bpb, 40) == pytest.approx(90)


def test_training_on_the_past_helps_with_what_repeats():
    """On repeating text TTT scores better than the fixed model; two blocks and all flags stay."""
    tokens_T, model = np.tile(stream(50, seed=11), 40), Causal().eval()
    model.blocks[1].weight.requires_grad_(False)
    fixed = evaluate.score_windows(model, tokens_T, table_of(), **HOW)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    adapt = evaluate.sgd_adapter(model, seq_len=16, lr=0.1)
    score = evaluate.score_first(model, adapt, tokens_T, table_of(), **HOW, chunk_tokens=200)
    assert score.bpb < 0.9 * fixed.bpb
    changed = {
        name for name, weight in model.state_dict().items() if not weight.equal(before[name])
    }
    frozen = {f"blocks.{i}.{name}" for i in (0, 1) for name in ("weight", "bias")}
    assert changed == set(before) - frozen
    assert not model.training
    flags = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert flags == {"blocks.1.weight"}
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("length", [5, 17, 39])
def test_one_epoch_is_one_clipped_step_on_the_mean_loss(length):
    """The step is that of SGD on the loss of all rows, the short last one included."""
    chunk_T = torch.from_numpy(stream(length, seed=12).astype(np.int64))
    model, twin = Causal(num_blocks=1), Causal(num_blocks=1)
    adapt = evaluate.sgd_adapter(model, seq_len=16, lr=0.5, epochs=1, freeze_blocks=0)
    adapt(chunk_T, 1, 3)  # halfway down the cosine, so half the rate
    nats = 0.0
    for at in range(0, length - 1, 16):
        row = chunk_T[at : at + 17]
        nats += F.cross_entropy(twin(row[None, :-1])[0], row[1:], reduction="sum")
    (nats / (length - 1)).backward()
    assert nn.utils.clip_grad_norm_(twin.parameters(), 1.0) > 1  # the clip matters here
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(parameter, other - 0.25 * other.grad)
    before = [parameter.clone() for parameter in model.parameters()]
    adapt(chunk_T, 2, 3)  # the end of the cosine
    assert all(p.equal(old) for p, old in zip(model.parameters(), before, strict=True))


def test_momentum_carries_over_and_epochs_repeat():
    """Two epochs, or two chunks, move like torch's SGD with momentum over the same gradients."""
    chunk_T = torch.from_numpy(stream(17, seed=13).astype(np.int64))
    models = [Causal(num_blocks=1) for _ in range(3)]
    how = {"seq_len": 16, "lr": 0.5, "momentum": 0.8, "freeze_blocks": 0}
    evaluate.sgd_adapter(models[0], epochs=2, **how)(chunk_T, 0, 9)
    adapt = evaluate.sgd_adapter(models[1], epochs=1, **how)
    for _ in range(2):
        adapt(chunk_T, 0, 9)
    optimizer = torch.optim.SGD(models[2].parameters(), lr=0.5, momentum=0.8)
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(models[2](chunk_T[None, :-1])[0], chunk_T[1:]).backward()
        nn.utils.clip_grad_norm_(models[2].parameters(), 1.0)
        optimizer.step()
    for one, two, three in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, two)
        torch.testing.assert_close(one, three)


def test_adapter_without_blocks_to_freeze_is_refused():
    """Freezing by name must not silently freeze nothing."""
    with pytest.raises(ValueError, match="freeze_blocks=2 finds no parameters blocks"):
        evaluate.sgd_adapter(nn.Linear(2, 2), seq_len=4)


def test_what_a_model_caches_while_scored_is_fit_for_training():
    """A model that keeps tensors between calls can be scored and trained in turn."""

    class Caching(Causal):
        cache = None

        def forward(self, tokens_BT):
            if self.cache is None:
                self.cache = torch.ones(VOCAB)
            return super().forward(tokens_BT) * self.cache

    model, tokens_T = Caching(), stream(90)
    adapt = evaluate.sgd_adapter(model, seq_len=16)
    evaluate.score_windows(model, tokens_T, table_of(), **HOW)
    evaluate.score_first(model, adapt, tokens_T, table_of(), **HOW, chunk_tokens=30)


# Ranks


def score_on(rank: int, world_size: int, folder: str) -> None:
    """Write the scores that this rank gets."""
    torch.set_num_threads(1)
    if world_size > 1:
        store = f"file://{folder}/store"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    ranks, tokens_T = {"rank": rank, "world_size": world_size}, stream(300, seed=14)
    model, how = Causal(), {**HOW, **ranks, "isolate": True}
    windows = evaluate.score_windows(model, tokens_T, table_of(), **how)
    result = {"windows": windows.nats.hex(), "first": [], "bytes": windows.bytes}
    for how["chunk_tokens"] in (100, 12):  # seven rows to share, and one
        adapt = evaluate.sgd_adapter(model, seq_len=16, lr=0.1, **ranks)
        score = evaluate.score_first(model, adapt, tokens_T, table_of(), **how)
        result["first"].append(score.nats)
    Path(folder, f"{world_size}_{rank}.json").write_text(json.dumps(result))
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()
        os._exit(0)  # seen once: a thread of gloo's outlived the interpreter, and aborted it


def test_any_number_of_ranks_gives_one_score(tmp_path):
    """Two ranks return the score of one to the last bit; with training, up to rounding."""
    score_on(0, 1, str(tmp_path))
    torch.multiprocessing.spawn(score_on, (2, str(tmp_path)), nprocs=2)
    one, *two = (
        json.loads((tmp_path / name).read_text()) for name in ("1_0.json", "2_0.json", "2_1.json")
    )
    assert two[0] == two[1]
    assert two[0]["windows"] == one["windows"] and two[0]["bytes"] == one["bytes"]
    assert two[0]["first"] == pytest.approx(one["first"], rel=1e-5)


# Command line

FAKE_TRAINER = """
import json, sys, torch
from torch import nn
import neighbour  # a source beside it, as quantize.py is

class Model(nn.Module):
    def __init__(self, vocab_size):
        super().__init__()
        torch.manual_seed(0)
        self.tok_emb = nn.Embedding(vocab_size, 8)
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
    def forward(self, tokens_BT):
        x = self.tok_emb(tokens_BT).cumsum(dim=1) / 9
        for block in self.blocks:
            x = x + block(x)
        return x @ self.tok_emb.weight.T

def load_artifact(path, device):
    settings = json.loads(path.read_text())
    if not settings:
        raise ValueError("nothing\\nin it")
    return Model(settings["vocab_size"]).to(device), settings
"""


@pytest.fixture
def run_folder(tmp_path, tokenizers) -> Path:
    """What a finished run leaves behind, as far as scoring is concerned."""
    _, tokens_T, processor, _ = encode(tokenizers["keep"], HOSTILE * 4)
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    evaluate.write_shard(tmp_path / "toy_val_000000.bin", tokens_T)
    vocab_size = processor.vocab_size()
    (folder / "train_gpt.py").write_text(FAKE_TRAINER)
    (folder / "neighbour.py").write_text("")
    (folder / "artifact.pgz").write_text(
        json.dumps({"vocab_size": vocab_size, "train_seq_len": 32})
    )
    saved = {"data_path": str(tmp_path), "tokenizer_path": str(tokenizers["keep"])}
    saved |= {"eval_stride": 8, "train_seq_len": 32, "seed": 1}
    (folder / "settings.json").write_text(json.dumps(saved))
    return folder


def run_cli(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "evaluate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT.anchor)


@pytest.fixture
def call_main(monkeypatch, capsys):
    """Run the command line in this process, with nothing left of a train_gpt seen before."""

    def call(*arguments):
        for name in ("train_gpt", "neighbour"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        before = list(sys.path)
        code = evaluate.main([str(argument) for argument in arguments])
        assert sys.path == before
        for name in ("train_gpt", "neighbour"):
            sys.modules.pop(name, None)
        return code, *capsys.readouterr()

    return call


def test_command_line_scores_an_artifact(run_folder, call_main):
    """A fresh process prints the lines, --json one object, and both the same digits."""
    fresh = run_cli(run_folder / "artifact.pgz", "--device", "cpu")
    assert fresh.returncode == 0, fresh.stderr
    lines = fresh.stdout.splitlines()
    assert [line[: line.index(" val_loss")] for line in lines] == [
        "score mode:blocks stride:32 isolate:0",
        "score mode:sliding stride:8 isolate:0",
        "unigram",
        "final",
    ]
    code, out, err = call_main(run_folder / "artifact.pgz", "--json", "--ttt", "--device", "cpu")
    assert code == 0 and len(out.splitlines()) == 1
    result = json.loads(out)
    sliding = result["sliding"]
    digits = f"val_loss:{sliding['val_loss']:.8f} val_bpb_partial:{sliding['val_bpb_partial']:.8f}"
    assert f"final {digits} targets:{result['targets']} bytes:{result['bytes']} " in lines[-1]
    assert result["final"] == result["ttt"] and result["seq_len"] == 32
    assert sliding["val_bpb_partial"] != result["blocks"]["val_bpb_partial"]
    assert [line.split()[0] for line in err.splitlines()] == ["score"] * 3 + ["unigram", "final"]


def test_command_line_takes_the_trainer_that_the_run_names(run_folder, call_main, monkeypatch):
    """settings.json names a module of the folder, whose model and byte table are the ones."""
    (run_folder / "other").mkdir()
    (run_folder / "other/__init__.py").write_text("")
    code = "from train_gpt import load_artifact\ndef byte_table(path, size):\n"
    (run_folder / "other/trainer.py").write_text(code + "    raise ValueError(f'{size} of ours')\n")
    saved = json.loads((run_folder / "settings.json").read_text())
    (run_folder / "settings.json").write_text(json.dumps(saved | {"code": "other.trainer"}))
    for name in ("other", "other.trainer"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    status, _, err = call_main(run_folder / "artifact.pgz", "--device", "cpu")
    assert status == 2 and err.startswith("error: ") and err.endswith(" of ours\n")
    (run_folder / "settings.json").write_text(json.dumps(saved | {"code": "other.none"}))
    command = [run_folder / "artifact.pgz", "--device", "cpu"]
    assert " of ours" in call_main(*command, "--code", "other.trainer")[2]
    assert "json is no trainer; name one with --code" in call_main(*command, "--code", "json")[2]
    fresh = run_cli(*command)
    assert fresh.returncode == 2 and fresh.stderr == "error: No module named 'other.none'\n"
    for name in ("other", "other.trainer"):
        sys.modules.pop(name, None)


def test_command_line_takes_what_the_run_does_not_say(run_folder, call_main, tokenizers, tmp_path):
    """Flags replace the run's settings, and stand in for a missing settings.json."""
    (run_folder / "settings.json").unlink()
    code, out, err = call_main(run_folder / "artifact.pgz")
    assert code == 2 and err.startswith("error: data_path is not in") and "pass --data" in err
    assert out == "" and len(err.splitlines()) == 1
    flags = ["--data", tmp_path, "--tokenizer", tokenizers["keep"], "--device", "cpu"]
    finals = {}
    for isolate in ("--isolate", "--no-isolate"):
        code, out, _ = call_main(run_folder / "artifact.pgz", *flags, "--stride", 4, isolate)
        assert code == 0 and f"sliding stride:4 isolate:{isolate == '--isolate':d} " in out
        finals[isolate] = out.splitlines()[-1].split()[1]
    assert finals["--isolate"] != finals["--no-isolate"]
    code, out, _ = call_main(run_folder / "artifact.pgz", *flags, "--seq-len", 5, "--stride", 5)
    assert code == 0 and "mode:blocks stride:5" in out and "sliding" not in out


def test_command_line_errors_are_one_line_and_exit_2(run_folder, call_main, tokenizers, tmp_path):
    """A missing artifact, no shards, another tokenizer, a damaged shard, a wild stride."""
    artifact, empty = run_folder / "artifact.pgz", tmp_path / "empty"
    empty.mkdir()
    shard, nothing = tmp_path / "toy_val_000000.bin", run_folder / "nothing.pgz"
    nothing.write_text("{}")
    cases = [
        ([run_folder / "none.pgz"], "none.pgz"),
        ([artifact, "--data", empty], "no *_val_*.bin in"),
        ([artifact, "--tokenizer", tokenizers["unknown"]], "pieces, must have vocab_size="),
        ([artifact, "--tokenizer", shard], "toy_val_000000.bin"),
        ([artifact, "--stride", 33], "stride=33 must lie in 1..seq_len=32"),
        ([nothing], "error: nothing in it"),
        ([artifact], "bytes do not hold"),
    ]
    for arguments, message in cases:
        if arguments == [artifact]:
            shard.write_bytes(shard.read_bytes()[:-1])
        code, out, err = call_main(*arguments, "--device", "cpu")
        assert code == 2 and message in err, (arguments, err)
        assert err.startswith("error: ") and len(err.splitlines()) == 1 and "final" not in out


def test_score_and_log_returns_what_it_logs():
    """The trainer's call: lines go to its log, the final score is the last mode's."""
    lines, tokens_T = [], stream(200)
    result = evaluate.score_and_log(
        Causal(), tokens_T, table_of(), seq_len=16, stride=4, device="cpu", log=lines.append
    )
    score = evaluate.score_windows(Causal(), tokens_T, table_of(), **HOW)
    assert result["final"]["val_bpb_partial"] == pytest.approx(score.bpb)
    assert lines[-1].startswith(f"final val_loss:{score.loss:.6f}"[:-2])
    assert f"targets:199 bytes:{score.bytes} eval_time:" in lines[-1]
    unigram = evaluate.unigram_score(tokens_T, table_of())
    assert f"unigram val_loss:{unigram.loss:.8f} val_bpb_partial:{unigram.bpb:.8f}" == lines[-2]


@pytest.mark.parametrize("stride", [4, 16])
def test_a_score_with_ttt_tells_what_it_gains_by_place(stride, monkeypatch):
    """Targets, bytes and nats of each chunk, before and after, add up to the scores."""
    monkeypatch.setattr(evaluate, "CHUNK_TOKENS", 32)
    tokens_T, table, how = stream(100, seed=5), table_of(), {**HOW, "stride": stride}
    chunked = partial(evaluate.score_first, chunk_tokens=32)
    monkeypatch.setattr(evaluate, "score_first", lambda *a, **k: chunked(*a, **k))
    result = evaluate.score_and_log(Causal(), tokens_T, table, ttt=True, log=str, **how)
    chunks, plain = result["chunks"], result["blocks" if stride == 16 else "sliding"]
    assert chunks["targets"] == [32, 32, 32, 3]
    assert sum(chunks["bytes"]) == table.total(tokens_T) == result["bytes"]
    assert sum(chunks["before"]) == pytest.approx(plain["val_loss"] * 99)
    assert sum(chunks["after"]) == pytest.approx(result["ttt"]["val_loss"] * 99)
    assert chunks["before"][0] == chunks["after"][0] and chunks["before"] != chunks["after"]
    assert "chunks" not in evaluate.score_and_log(Causal(), tokens_T, table, log=str, **how)
