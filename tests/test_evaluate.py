"""The score: bytes, windows, the order of learning, ranks, and what is logged."""

import copy
import json
import math
import os
from dataclasses import replace
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
from baselines.sgd_adapter import sgd_adapter
from engine import log_lines
from engine.adapters import LowRank
from engine.memory import Memory
from engine.ranks import Ranks
from engine.shards import ShardError, sidecar_path, write_shard
from evaluate import BOS_ID, ByteTable, IllegalScore, Ledger, Scheme, Score
from tests.engine.test_memory import Remembering, reference_logits
from tests.engine.test_repeats import by_hand as count_by_hand
from tests.scoring_texts import HOSTILE, encode, train_tokenizer

ROOT = Path(__file__).parents[1]
SHARED_TOKENIZERS = ROOT.parent / "shared" / "data" / "tokenizers"
VOCAB = 32
SCHEME = Scheme(seq_len=16, stride=4, batch_tokens=64)
ISOLATED = replace(SCHEME, isolate=True)
ONE_PASS = replace(ISOLATED, stride=0)
# Documents of every awkward length: without a token, of one, and of more than ten windows of 16.
HOSTILE_LENGTHS = [*HOSTILE, "", "", "", "x", "a b  c " * 45, "🙂", ""]


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


# Bytes


@pytest.fixture(params=["prefix", "keep", "inner", "1024", "8192"])
def tokenizer(request, tokenizers) -> Path:
    if request.param in tokenizers:
        return tokenizers[request.param]
    path = SHARED_TOKENIZERS / f"fineweb_{request.param}_bpe.model"
    if not path.exists():
        pytest.skip(f"the field's tokenizer {path.name} is not here")
    return path


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
    expected = sum(len(text.replace("▁", " ").encode()) for text in HOSTILE)
    assert evaluate.unigram_score(tokens_T, table).bytes == expected


def invalid_utf8(processor, tokens_T: np.ndarray) -> np.ndarray:
    """The tokens, and a document of byte pieces that are no UTF-8: a lead byte, a stray, a cut."""
    pieces = ["<0xC3>", "<0x28>", "<0x80>", "<0xF0>", "<0x9F>"]
    wild = [BOS_ID, *map(processor.piece_to_id, pieces), BOS_ID]
    return np.concatenate([tokens_T, np.array(wild, dtype=np.uint16)])


def bpb_by_hand(nats_of_target, tokens_T: np.ndarray, size_bytes: int) -> float:
    """nats_of_target(begin, at) is what target `at` of the document from `begin` costs."""
    nats = 0.0
    for at in range(len(tokens_T) - 1):
        begin = max(i for i in range(at + 1) if tokens_T[i] == BOS_ID)
        nats += nats_of_target(begin, at)
    return nats / math.log(2) / size_bytes


def nats_of(logits_V: np.ndarray, target: int) -> float:
    logits_V = logits_V.astype(np.float64)
    return np.log(np.exp(logits_V).sum()) - logits_V[target]


def hostile_text(
    tokenizer: Path, texts: list[str] = HOSTILE_LENGTHS
) -> tuple[np.ndarray, ByteTable, int]:
    """Tokens of every awkward length and character, their table, and the bytes of their text."""
    documents, tokens_T, processor, table = encode(tokenizer, tuple(texts))
    size_bytes = sum(len(processor.decode(ids).encode()) for ids in documents)
    # A byte piece is a byte, whatever a decoder makes of it.
    return invalid_utf8(processor, tokens_T), table, size_bytes + 5


def mixed_by_hand(nats: float, repeat: tuple[int, float], weights) -> float:
    """The nats of a target whose probability is mixed with the share of what is repeated."""
    cell, share = repeat
    weight = (0.0, *weights)[cell] if weights else 0.0
    return -math.log((1 - weight) * math.exp(-nats) + weight * share)


WEIGHTS = tuple(np.linspace(0.1, 0.8, 8))


@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("scheme", ["blocks", "stream", "documents"])
def test_bpb_equals_an_independent_computation(tokenizer, scheme, weights):
    """On hostile text, decoded documents and a model in float64 give the same bpb."""
    whole_T, table, size_bytes = hostile_text(tokenizer)
    stride = 16 if scheme == "blocks" else 4
    isolate = scheme == "documents"
    model = Causal(table.vocab_size).eval()
    exact = copy.deepcopy(model).double()
    repeats = count_by_hand(whole_T.tolist())

    def nats_of_target(begin, at):
        begin = begin if isolate else 0
        moves = max(0, math.ceil((at + 1 - begin - 16) / stride))
        context_T = whole_T[begin + stride * moves : at + 1].astype(np.int64)
        with torch.no_grad():
            logits_V = exact(torch.from_numpy(context_T)[None])[0, -1].numpy()
        return mixed_by_hand(nats_of(logits_V, whole_T[at + 1]), repeats[at], weights)

    chosen = replace(SCHEME, stride=stride, isolate=isolate, repeat_weights=weights)
    score = evaluate.score_windows(model, whole_T, table, chosen)
    assert score.bytes == size_bytes
    expected = bpb_by_hand(nats_of_target, whole_T, size_bytes)
    assert score.bpb == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_bpb_of_one_pass_equals_an_independent_computation(tokenizer, weights):
    """So does reading every document once, with its repeats and without: loops in float64."""
    whole_T, table, size_bytes = hostile_text(tokenizer)
    model = Remembering(table.vocab_size).eval()
    repeats = count_by_hand(whole_T.tolist())
    logits_of = {}  # of a document, by where it begins

    def nats_of_target(begin, at):
        if begin not in logits_of:
            end = end_of_document(whole_T, begin)
            logits_of[begin] = reference_logits(model, whole_T[begin:end].astype(int), 16)
        nats = nats_of(logits_of[begin][at - begin], whole_T[at + 1])
        return mixed_by_hand(nats, repeats[at], weights)

    scheme = replace(ONE_PASS, repeat_weights=weights)
    score = evaluate.score_documents(model, None, whole_T, table, scheme)
    assert score.bytes == size_bytes
    expected = bpb_by_hand(nats_of_target, whole_T, size_bytes)
    assert score.bpb == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("weights", [(), WEIGHTS])
def test_bpb_while_adapting_equals_an_independent_computation(tokenizers, weights):
    """And reading with adapters, which learn through the mixture where there is one."""
    whole_T, table, size_bytes = hostile_text(tokenizers["keep"])
    model = Remembering(table.vocab_size).eval()
    repeats = count_by_hand(whole_T.tolist())
    adapter = low_rank(model)
    drawn = [down_IK.double() for down_IK in adapter.first_down_IK]
    nats = 0.0
    for begin, end in evaluate.document_spans(whole_T):
        document_T = whole_T[begin : end + 1]
        nats += sum(learn_by_hand(model, document_T, drawn, repeats[begin:end], weights))
    scheme = replace(ONE_PASS, repeat_weights=weights)
    score = evaluate.score_documents(model, adapter, whole_T, table, scheme)
    assert score.bytes == size_bytes
    assert score.bpb == pytest.approx(nats / math.log(2) / size_bytes, rel=1e-6)
    plain = evaluate.score_documents(model, None, whole_T, table, scheme)
    assert abs(score.bpb / plain.bpb - 1) > 1e-3, "learning counts here"


def end_of_document(tokens_T: np.ndarray, begin: int) -> int:
    """Where the next document begins, or the text ends."""
    starts = np.flatnonzero(tokens_T[begin + 1 :] == BOS_ID)
    return begin + 1 + int(starts[0]) if len(starts) else len(tokens_T)


def learn_by_hand(model, document_T, drawn, repeats, weights, window=16, chunk=5) -> list[float]:
    """The nats of one document's targets, in float64: scored, then learned from, by chunks.

    Remembering once more, for one row: fc of each layer has two small matrices beside it, and what
    earlier chunks left (keys and values) stays as it was when they were read.
    """
    named = {name: weight.double().detach() for name, weight in model.state_dict().items()}
    ids_T = torch.from_numpy(document_T.astype(np.int64))
    down = [down_IK.clone().requires_grad_() for down_IK in drawn]
    up = [torch.zeros(down_IK.size(1), 8, dtype=torch.float64) for down_IK in drawn]
    up = [up_KO.requires_grad_() for up_KO in up]
    squares = [torch.zeros_like(matrix) for matrix in (*down, *up)]
    kept = [[], []]  # of each layer, the key and value of every token so far
    nats = []
    steps = 0
    for first in range(0, len(ids_T) - 1, chunk):
        place_T = torch.arange(first, min(first + chunk, len(ids_T) - 1))
        x = named["tok_emb.weight"][ids_T[place_T]]
        before = 0.5 * named["tok_emb.weight"][ids_T[(place_T - 1).clamp(min=0)]]
        x = x + before * (place_T > 0)[:, None] + 0.1 * place_T[:, None].double().sin()
        for number in range(2):
            of_layer = {name: named[f"layers.{number}.{name}.weight"].T for name in "qkv"}
            q, k, v = (x @ of_layer[name] for name in "qkv")
            past = kept[number]
            rows = []
            for i, place in enumerate(place_T.tolist()):
                own = [(k[j], v[j]) for j in range(i + 1)]
                seen = [*past, *own][max(0, place - window + 1) :]
                scores = torch.stack([key @ q[i] for key, _ in seen]) / math.sqrt(8)
                share = scores.softmax(dim=0)
                rows.append(x[i] + share @ torch.stack([value for _, value in seen]))
            past += list(zip(k.detach(), v.detach(), strict=True))
            x = torch.stack(rows)
            fc = x @ named[f"layers.{number}.fc.weight"].T + x @ down[number] @ up[number]
            x = x + fc.tanh()
        logits = 3 * (x @ named["head.weight"].T + named["head.bias"])
        target_T = ids_T[place_T + 1]
        model_p = logits.softmax(dim=1)[torch.arange(len(target_T)), target_T]
        mixed = []
        for p, (cell, share) in zip(model_p, repeats[first:], strict=False):
            weight = (0.0, *weights)[cell] if weights else 0.0
            mixed.append(-((1 - weight) * p + weight * share).log())
        nats += [part.item() for part in mixed]
        grads = torch.autograd.grad(torch.stack(mixed).mean(), (*down, *up))
        steps += 1
        for matrix, square, grad in zip((*down, *up), squares, grads, strict=True):
            square.mul_(0.99).add_(0.01 * grad**2)
            size = (square / (1 - 0.99**steps)).sqrt() + 1e-8
            matrix.data -= 0.03 * grad / size
    return nats


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


def test_check_catches_every_miscount(tokenizer):
    """A space counted twice, a byte piece counted 3, a missing space: each is caught and named."""
    _, tokens_T, processor, table = encode(tokenizer, ["ok", "a the fox", "ok 🙂"])
    byte_V = np.array([processor.is_byte(i) for i in range(processor.vocab_size())])
    base_V = table.base_bytes_V
    space_V = table.leading_space_V
    with pytest.raises(ValueError, match=r"document [01] \(from token \d+\) counts \+\d+ bytes"):
        replace(table, base_bytes_V=base_V + space_V).check(tokenizer, tokens_T)
    with pytest.raises(ValueError, match=r"document 1 .* counts -\d+ bytes .* text, 'a the fox'"):
        replace(table, leading_space_V=space_V & False).check(tokenizer, tokens_T)
    stream_T = np.append(tokens_T, BOS_ID)  # the emoji is not at the end of the stream
    with pytest.raises(ValueError, match=r"document 2 .* counts \+8 bytes .* text, 'ok 🙂'"):
        replace(table, base_bytes_V=np.where(byte_V, 3, base_V)).check(tokenizer, stream_T)
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
    assert table.total(tokens_T) == int(table.count(tokens_T[:-1], tokens_T[1:]).sum())
    long_T = np.tile(tokens_T, 800)
    assert len(long_T) > 2 * evaluate.BYTES_AT_ONCE
    assert table.total(long_T) == int(table.count(long_T[:-1], long_T[1:]).sum())
    assert table.of_targets(long_T).sum() == table.total(long_T)


def test_the_sidecar_replaces_the_table(tokenizers, tmp_path):
    """The bytes of the validation stream are the sidecar's, in every score; others' the table's."""
    _, tokens_T, _, table = encode(tokenizers["keep"], HOSTILE)
    spelt_T = np.append(0, table.count(tokens_T[:-1], tokens_T[1:]))
    bytes_T = np.where(np.arange(len(tokens_T)) % 3 == 0, 0, spelt_T)
    write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    assert evaluate.read_validation(tmp_path, table)[1].total(tokens_T) == spelt_T.sum()
    write_shard(tmp_path / "x_val_000000.bytes.bin", bytes_T)
    val_T, sidecar_table = evaluate.read_validation(tmp_path, table)
    assert (val_T == tokens_T).all()
    assert sidecar_table.total(val_T) == bytes_T.sum() < spelt_T.sum()
    assert sidecar_table.of_targets(val_T).tolist() == bytes_T[1:].tolist()
    assert sidecar_table.of_targets(val_T).dtype == np.int64
    assert sidecar_table.total(val_T[:-1]) == spelt_T[:-1].sum()
    assert sidecar_table.of_targets(val_T[:-1]).tolist() == spelt_T[1:-1].tolist()
    assert evaluate.unigram_score(val_T, sidecar_table).bytes == bytes_T.sum()


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
        write_shard(shard, tokens_T)
        if number == 0 or fault != "missing":
            cut = bytes_T[:-1] if fault == "short" else bytes_T
            write_shard(sidecar_path(shard), cut)
    messages = {
        "missing": "x_val_000001.bytes.bin is missing",
        "short": r"\d+ entries for \d+ tokens; build or fetch it again",
        "above": "entry 5 is more bytes than its token spells; build or fetch it again",
        "bos": "is more bytes than its token spells",
    }
    with pytest.raises(ShardError, match=messages[fault]):
        evaluate.read_validation(tmp_path, table)


def test_case_markers_demand_a_sidecar(tmp_path):
    """A vocabulary with the markers of CaseOps is of changed text: the table alone will not do."""
    marked = train_tokenizer(tmp_path, "m", user_defined_symbols=["\ue001", "\ue002", "\ue003"])
    _, tokens_T, _, table = encode(marked, ["a text"])
    write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    assert table.needs_sidecar
    with pytest.raises(ShardError, match="x_val_000000.bytes.bin is missing"):
        evaluate.read_validation(tmp_path, table)


def manifest_of(folder, documents, size):
    """The few keys of a manifest that scoring reads."""
    val = {"documents": documents, "bytes": size}
    (folder / "manifest.json").write_text(
        json.dumps({"version": 1, "splits": {"val": val}, "shards": []})
    )


def test_only_a_complete_split_has_a_val_bpb(tokenizers, tmp_path, monkeypatch):
    """val_bpb by the counts of the manifest, or the challenge's; else val_bpb_partial."""
    _, tokens_T, _, table = encode(tokenizers["keep"], HOSTILE)
    documents = len(HOSTILE)
    size = table.total(tokens_T)

    def metric() -> str:
        return evaluate.read_validation(tmp_path, table)[1].metric

    write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    assert metric() == "val_bpb_partial"
    monkeypatch.setattr(evaluate, "FINEWEB_VAL", {"documents": documents, "bytes": size})
    assert metric() == "val_bpb"
    manifest_of(tmp_path, documents, size + 1)
    assert metric() == "val_bpb_partial"
    manifest_of(tmp_path, documents, size)
    assert metric() == "val_bpb"
    write_shard(tmp_path / "x_val_000000.bin", tokens_T[:-1])
    assert metric() == "val_bpb_partial"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"version": 2}', "{"])
def test_a_manifest_that_cannot_be_read_is_refused(tmp_path, content):
    """Damaged, another version, not one of ours: refused by the file's name, never ignored."""
    (tmp_path / "manifest.json").write_text(content)
    write_shard(tmp_path / "x_val_000000.bin", np.array([BOS_ID, 2, 3]))
    with pytest.raises(ShardError, match="manifest.json is damaged, or not of golf.py data"):
        evaluate.read_validation(tmp_path, table_of())


def test_unknown_piece_in_the_text_is_caught(tokenizers):
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
    with pytest.raises(ValueError, match="pieces, VOCAB_SIZE is 1024; set VOCAB_SIZE="):
        ByteTable.from_sentencepiece(tokenizers["keep"], 1024)
    with pytest.raises(RuntimeError, match="junk.model"):
        ByteTable.from_sentencepiece(tmp_path / "junk.model", 320)
    with pytest.raises(FileNotFoundError, match="no tokenizer at .*none.model"):
        ByteTable.from_sentencepiece(tmp_path / "none.model", 320)


# Score


def test_scores_add_up():
    """The sum of the scores of two parts is the score of both; bpb is in bits and per byte."""
    total = Score(1.5, 3, 4) + Score(0.5, 1, 6)
    assert total == Score(2.0, 4, 10)
    assert total.loss == 0.5
    assert total.bpb == pytest.approx(2.0 / math.log(2) / 10)


def test_the_worked_example_of_a_score():
    """200 nats on 50 targets of 120 bytes, as in the docstring."""
    score = Score(200.0, 50, 120)
    assert score.loss == 4.0
    assert score.bpb == pytest.approx(2.404, abs=0.0005)


def test_no_bytes_is_an_error_that_says_so():
    """A stream of control tokens has no bpb."""
    with pytest.raises(ValueError, match="bytes=0 must be positive"):
        _ = Score(1.0, 1, 0).bpb


def test_unigram_score_is_that_of_the_targets_frequencies():
    """It equals a loop over the targets with their own relative frequencies."""
    tokens_T = stream(300)
    targets = tokens_T[1:].tolist()
    nats = -sum(math.log(targets.count(token) / len(targets)) for token in targets)
    score = evaluate.unigram_score(tokens_T, table_of())
    assert score.nats == pytest.approx(nats)
    assert (score.tokens, score.bytes) == (299, sum(token % 5 for token in targets))


def test_streams_that_cannot_be_scored_are_refused():
    """A token outside the vocabulary is named with its place; one token has no target."""
    tokens_T = stream(50)
    tokens_T[17] = VOCAB

    def score_windows(tokens_T: np.ndarray, table: ByteTable) -> Score:
        return evaluate.score_windows(None, tokens_T, table, SCHEME)

    for score in (evaluate.unigram_score, score_windows):
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
    chunk_tokens=st.integers(0, 200),
    seed=st.integers(0, 20),
)
def test_windows_score_each_target_once_with_full_context(
    length, seq_len, stride, isolate, chunk_tokens, seed
):
    """They tile the targets, fit the model, stay in their document and chunk, and see enough."""
    tokens_T = stream(length, seed)
    stride = min(stride, seq_len)
    windows_W3 = evaluate.plan_windows(tokens_T, Scheme(seq_len, stride, isolate, chunk_tokens))
    chunk_tokens = chunk_tokens or length  # 0: one chunk
    scored = [target for _, first, end in windows_W3.tolist() for target in range(first, end)]
    assert scored == list(range(length - 1))
    for start, first, end in windows_W3.tolist():
        assert start <= first and end - start <= seq_len
        assert first // chunk_tokens == (end - 1) // chunk_tokens
        begin = 0
        if isolate:
            assert BOS_ID not in tokens_T[start + 1 : end]
            begin = max(i for i in range(start + 1) if i == 0 or tokens_T[i] == BOS_ID)
        assert (start - begin) % stride == 0
        assert first - start >= min(seq_len - stride, first - begin)
        at_border = end == length - 1 or end % chunk_tokens == 0
        assert end - start == seq_len or at_border or isolate and tokens_T[end] == BOS_ID


def test_the_worked_example_of_windows():
    """Ten targets with seq_len 4 and stride 2, as in the docstring."""
    windows_W3 = evaluate.plan_windows(np.full(11, 5), Scheme(seq_len=4, stride=2))
    assert windows_W3.tolist() == [[0, 0, 4], [2, 4, 6], [4, 6, 8], [6, 8, 10]]


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"stride": -1}, "stride=-1 must lie in 0..seq_len=8"),
        ({"stride": 9}, "stride=9 must lie in 0..seq_len=8; choose a smaller stride"),
        ({"stride": 8, "seq_len": 0}, "stride=8 must lie in 0..seq_len=0"),
        ({"chunk_tokens": -1}, "chunk_tokens=-1 must not be negative"),
        ({"batch_tokens": 0}, "batch_tokens=0 must be positive"),
    ],
)
def test_impossible_schemes_are_refused(fields, message):
    """A stride must lie in 1..seq_len, or targets would be left out; sizes must be positive."""
    with pytest.raises(ValueError, match=message):
        Scheme(**{"seq_len": 8, "stride": 4, **fields})


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
    scheme = replace(SCHEME, seq_len=seq_len, stride=stride, isolate=isolate)
    model = Peeking()
    for length in (2, 3, seq_len, seq_len + 1, seq_len + 2, 90):
        tokens_T = stream(max(2, length), seed=length)
        score = evaluate.score_windows(model, tokens_T, table_of(), scheme)
        nats = reference_nats(model, tokens_T, seq_len, stride, isolate)
        assert score.nats == pytest.approx(nats, rel=1e-5)
        assert score.tokens == len(tokens_T) - 1
        assert score.bytes == sum(int(token) % 5 for token in tokens_T[1:])


def test_padding_and_batching_do_not_change_the_score():
    """Whatever the size of a batch, the score is the same; shapes are few and in order."""
    shapes = []
    tokens_T = np.full(3000, 5)
    tokens_T[np.cumsum(np.random.default_rng(1).integers(3, 200, 25))] = BOS_ID

    def model(tokens_BT):
        shapes.append(tuple(tokens_BT.shape))
        return Peeking()(tokens_BT)

    scheme = Scheme(seq_len=200, stride=50, isolate=True)
    nats = []
    for batch_tokens in (1, 1000, 10**9):
        shapes.clear()
        batched = replace(scheme, batch_tokens=batch_tokens)
        nats.append(evaluate.score_windows(model, tokens_T, table_of(), batched).nats)
        widths = [width for _, width in shapes]
        assert widths == sorted(widths) and set(widths) <= {*range(13, 200, 13), 200}
        assert len(set(shapes)) == len(set(widths))  # one shape for each width
        assert all(rows == 1 or rows * width <= batch_tokens for rows, width in shapes)
    assert nats[1:] == pytest.approx(nats[:1] * 2, rel=1e-6)


def test_the_plan_of_batches_in_the_docstring_is_right():
    """Four windows, three widths, about as many inputs each."""
    lengths = [100, 50, 200, 110]
    windows_W3 = np.array([(0, 0, length) for length in lengths])
    scheme = Scheme(seq_len=256, stride=256, batch_tokens=512)
    batches = evaluate.plan_batches(windows_W3, scheme, vocab_size=1024)
    dealt = [(b.width, b.windows_B3[:, 2].tolist()) for b in batches]
    assert dealt == [(64, [50]), (112, [100, 110]), (208, [200])]
    many = np.repeat(windows_W3, 50, axis=0)
    shapes = {(b.width, b.rows) for b in evaluate.plan_batches(many, scheme, vocab_size=1024)}
    assert shapes == {(64, 8), (112, 4), (208, 2)}
    halved = evaluate.plan_batches(many, scheme, vocab_size=16_384)
    assert {(b.width, b.rows) for b in halved} == {(64, 4), (112, 2), (208, 1)}


def test_a_model_may_project_scored_positions_only():
    """With logits_at the score is the same, and no other position reaches the vocabulary."""
    tokens_T = stream(300, seed=3)
    scheme = Scheme(seq_len=64, stride=16)

    class Places:
        positions = 0

        def __call__(self, tokens_BT):
            return Peeking()(tokens_BT)

        def logits_at(self, tokens_BT, place_S):
            self.positions += len(place_S)
            return self(tokens_BT).flatten(0, 1)[place_S]

    model = Places()
    score = evaluate.score_windows(model, tokens_T, table_of(), scheme)
    assert score == evaluate.score_windows(Peeking(), tokens_T, table_of(), scheme)
    assert 0 < model.positions <= score.tokens


def test_isolated_documents_know_nothing_of_each_other():
    """With isolation the scores of documents add up, for a model that remembers all it reads."""
    one = stream(40, seed=5)
    two = stream(70, seed=6)
    parts = [np.append(one, BOS_ID), two, np.concatenate([one, two])]

    def nats_of_parts(scheme: Scheme) -> list[float]:
        model = Peeking()
        return [evaluate.score_windows(model, part, table_of(), scheme).nats for part in parts]

    first, second, both = nats_of_parts(ISOLATED)
    assert both == pytest.approx(first + second, rel=1e-6)
    first, second, both = nats_of_parts(SCHEME)
    assert both != pytest.approx(first + second, rel=1e-3)


def test_logits_are_normalised_here():
    """Adding a constant to all logits of a position, which could fake any loss, changes nothing."""
    tokens_T = stream(200)
    model = Causal()

    def lifted_model(tokens_BT):
        return model(tokens_BT) + 5 * tokens_BT[..., None]

    def coarse_model(tokens_BT):
        return model(tokens_BT).bfloat16()

    plain = evaluate.score_windows(model, tokens_T, table_of(), SCHEME)
    lifted = evaluate.score_windows(lifted_model, tokens_T, table_of(), SCHEME)
    assert lifted.nats == pytest.approx(plain.nats, rel=1e-5)
    coarse = evaluate.score_windows(coarse_model, tokens_T, table_of(), SCHEME)
    assert coarse.nats == pytest.approx(plain.nats, rel=1e-2)
    assert coarse.nats != plain.nats


def test_sums_are_exact():
    """A long batch of equal losses adds up to their multiple, as it does not in float32."""
    tokens_T = np.full(30_000, 2)
    scheme = replace(SCHEME, batch_tokens=10**6)

    def model(tokens_BT):
        return torch.zeros(*tokens_BT.shape, VOCAB)

    score = evaluate.score_windows(model, tokens_T, table_of(), scheme)
    one = F.cross_entropy(torch.zeros(1, VOCAB), torch.tensor([2])).item()
    assert score.nats == pytest.approx(29_999 * one, rel=1e-12)


def test_logits_that_are_not_a_distribution_are_refused():
    """Not finite, at a scored position: refused with the token's place."""
    tokens_T = np.arange(2, 31, dtype=np.uint16)  # every token once, so that one can be spoilt

    def spoilt(value):
        def model(tokens_BT):
            logits_BTV = torch.zeros(*tokens_BT.shape, VOCAB)
            logits_BTV[..., 3][tokens_BT == 22] = value  # the input at 20 predicts token 21
            logits_BTV[tokens_BT == 0] = float("nan")  # padding is not scored
            return logits_BTV

        return model

    for value in (float("nan"), float("inf"), float("-inf")):
        with pytest.raises(ValueError, match="logits for token 21 of the stream must be finite"):
            evaluate.score_windows(spoilt(value), tokens_T, table_of(), SCHEME)
    score = evaluate.score_windows(spoilt(0.0), tokens_T, table_of(), SCHEME)
    assert score.loss == pytest.approx(math.log(VOCAB))


@pytest.mark.parametrize("shape", [(VOCAB + 1,), (VOCAB - 1,), ()])
def test_logits_of_another_shape_are_refused(shape):
    """Every token of the vocabulary has a logit, or a loss could leave some out."""

    def model(tokens_BT):
        return torch.zeros(*tokens_BT.shape, *shape)

    with pytest.raises(ValueError, match="logits of shape .* must be"):
        evaluate.score_windows(model, stream(30), table_of(), SCHEME)


# Test-time training


def test_training_sees_only_what_was_scored():
    """adapt_fn gets each chunk right after its score, nothing beyond it, and never the last one."""
    tokens_T = stream(150, seed=8)
    ledger = Ledger()
    trained_chunks = []
    chunks_before_pass = []  # how many chunks were trained on before each forward pass
    model = Causal()

    def logits_fn(tokens_BT):
        chunks_before_pass.append(len(trained_chunks))
        return model(tokens_BT)

    def adapt(chunk_T, index, num_chunks):
        assert ledger.scored[-1] == (40 * index, 40 * index + 40)
        assert chunk_T.tolist() == tokens_T[40 * index : 40 * index + 41].tolist()
        # Its memory ends with the chunk: there is no way to reach the rest of the stream.
        assert chunk_T.untyped_storage().nbytes() == 8 * 41
        assert num_chunks == 4
        assert chunks_before_pass.count(index) > 0
        trained_chunks.append(index)

    scheme = replace(SCHEME, chunk_tokens=40)
    score = evaluate.score_first(logits_fn, adapt, tokens_T, table_of(), scheme, ledger=ledger)
    assert trained_chunks == [0, 1, 2]
    assert chunks_before_pass == sorted(chunks_before_pass)
    assert chunks_before_pass[-1] == 3
    assert ledger.scored == [(0, 40), (40, 80), (80, 120), (120, 149)]
    assert ledger.trained == ledger.scored[:-1]
    assert score.tokens == 149


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("chunk_tokens", [1, 7, 30, 1000])
def test_without_training_chunks_change_nothing(chunk_tokens, isolate):
    """Cutting windows at chunk borders keeps every context: the score is that of plain windows."""
    tokens_T = stream(120, seed=9)
    scheme = replace(SCHEME, isolate=isolate)
    plain = evaluate.score_windows(Peeking(), tokens_T, table_of(), scheme)
    chunked = replace(scheme, chunk_tokens=chunk_tokens)
    score = evaluate.score_first(Peeking(), lambda *_: None, tokens_T, table_of(), chunked)
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
            evaluate.score_windows(Causal(), stream(60), table_of(), SCHEME)


def test_tensors_cached_while_scored_are_fit_for_training():
    """A model that keeps tensors between calls can be scored and trained in turn."""

    class Caching(Causal):
        cache = None

        def forward(self, tokens_BT):
            if self.cache is None:
                self.cache = torch.ones(VOCAB)
            return super().forward(tokens_BT) * self.cache

    model = Caching()
    tokens_T = stream(90)
    adapt = sgd_adapter(model, seq_len=16)
    evaluate.score_windows(model, tokens_T, table_of(), SCHEME)
    scheme = replace(SCHEME, chunk_tokens=30)
    evaluate.score_first(model, adapt, tokens_T, table_of(), scheme)


# Documents read once


def low_rank(model, **changes) -> LowRank:
    return LowRank(model, ("fc",), **dict(rank=2, rate=0.03, chunk=5, rows=4) | changes)


@pytest.mark.parametrize("length", [2, 3, 40, 300])
@pytest.mark.parametrize("batch_tokens", [16, 64, 1000])
def test_one_pass_does_not_depend_on_how_documents_are_batched(length, batch_tokens):
    """Documents side by side score as one after the other; consecutive BOS included."""
    tokens_T = stream(length, seed=21)
    tokens_T[:2] = BOS_ID
    model = Remembering()
    together = evaluate.score_documents(
        model, None, tokens_T, table_of(), replace(ONE_PASS, batch_tokens=batch_tokens)
    )
    nats = 0.0
    for begin, end in evaluate.document_spans(tokens_T):
        part_T = tokens_T[begin : end + 1]
        # The next BOS is a target here, not a document: as an input it would be one.
        nats += evaluate.score_documents(model, None, part_T, table_of(), ONE_PASS).nats
    assert together.nats == pytest.approx(nats, rel=1e-6)
    assert together.tokens == length - 1
    assert together.bytes == table_of().total(tokens_T)


def test_documents_read_side_by_side_are_those_of_the_docstring():
    """Chunks of two documents, and hands of two ranks."""
    batches = list(evaluate.read_on(np.array([[0, 5], [5, 8]]), lambda position: 2))
    spans = [batch.windows_B3[:, 1:].tolist() for batch in batches]
    assert spans == [[[0, 2], [5, 7]], [[2, 4], [7, 8]], [[4, 5]]]
    assert [(batch.rows, batch.width) for batch in batches] == [(2, 2), (2, 2), (1, 1)]
    groups = [np.array([[0, size]]) for size in (9, 5, 4, 3)]
    assert evaluate.deal_groups(groups, 2) == [[0, 3], [1, 2]]
    assert evaluate.document_spans(np.array([1, 340, 17, 1, 22])).tolist() == [[0, 3], [3, 4]]


def test_eight_ranks_share_documents_evenly():
    """By targets, no rank has over a tenth more than the mean."""
    tokens_T = stream(20_000, seed=22)
    groups = evaluate.plan_groups(tokens_T, replace(ONE_PASS, batch_tokens=64), table_of())
    hands = evaluate.deal_groups(groups, 8)
    assert sorted(number for hand in hands for number in hand) == list(range(len(groups)))
    loads = [sum(evaluate.count_targets(groups[number]) for number in hand) for hand in hands]
    assert sum(loads) == len(tokens_T) - 1
    assert max(loads) < 1.1 * sum(loads) / 8


def test_adapters_learn_from_their_own_document_after_its_score():
    """Documents that repeat themselves are learned, each one as if it were alone."""
    rng = np.random.default_rng(23)
    documents = [np.append(BOS_ID, np.tile(rng.integers(2, VOCAB, 7), n)) for n in (3, 12, 20, 6)]
    tokens_T = np.append(np.concatenate(documents), BOS_ID)
    model = Remembering()
    plain = evaluate.score_documents(model, None, tokens_T, table_of(), ONE_PASS)
    learned = evaluate.score_documents(model, low_rank(model), tokens_T, table_of(), ONE_PASS)
    assert learned.nats < 0.9 * plain.nats
    alone = 0.0
    for document in documents:
        part_T = np.append(document, BOS_ID)
        alone += evaluate.score_documents(model, low_rank(model), part_T, table_of(), ONE_PASS).nats
    assert learned.nats == pytest.approx(alone, rel=1e-5)
    again = evaluate.score_documents(model, None, tokens_T, table_of(), ONE_PASS)
    assert again.nats == plain.nats, "the model is left as it was"


class Recorder:
    """An adapter that keeps what it is told, and learns nothing."""

    rows = 2

    def __init__(self):
        self.events = []

    def chunk_tokens(self, position):
        return 2 if position < 4 else 3

    def reset(self, rows):
        self.events.append(("reset", rows))

    def learn(self, loss_B):
        assert loss_B.requires_grad
        self.events.append(("learn", len(loss_B)))


def test_an_adapter_is_called_in_the_order_of_its_protocol():
    """One step after each chunk, of the documents that go on; fresh weights for each group."""
    tokens_T = np.array([BOS_ID, *[5] * 6, BOS_ID, *[6] * 3, BOS_ID, 7, 8])
    recorder = Recorder()
    evaluate.score_documents(Remembering(), recorder, tokens_T, table_of(), ONE_PASS)
    # Seven targets in chunks of 2, 2, 3 beside four in 2, 2; then two targets, in one.
    first = [("reset", 2), ("learn", 2), ("learn", 1), ("reset", 0)]
    assert recorder.events == [*first, ("reset", 1), ("reset", 0)]


def test_reading_that_drops_or_repeats_a_chunk_is_caught(monkeypatch):
    """Every document has a ledger, which no faulty reading passes."""
    read_on = evaluate.read_on
    faults = [
        lambda batches: batches[1:],
        lambda batches: batches[:-1],
        lambda batches: [batches[0], *batches],
        lambda batches: [batches[1], batches[0], *batches[2:]],
    ]
    tokens_T = np.array([BOS_ID, *range(2, 32), BOS_ID, *range(2, 32), BOS_ID])
    for fault in faults:
        monkeypatch.setattr(evaluate, "read_on", lambda *args, f=fault: f(list(read_on(*args))))
        with pytest.raises(IllegalScore, match="one-pass"):
            evaluate.score_documents(Remembering(), Recorder(), tokens_T, table_of(), ONE_PASS)


def test_training_on_a_chunk_before_its_score_is_caught(monkeypatch):
    """A ledger that is told of training first refuses."""

    class Late(Ledger):
        def score(self, first, end):
            self.train(int(first), int(end))
            super().score(first, end)

    monkeypatch.setattr(evaluate, "Ledger", Late)
    with pytest.raises(IllegalScore, match="score-first"):
        evaluate.score_documents(Remembering(), None, stream(30), table_of(), ONE_PASS)


def test_one_pass_needs_a_model_with_a_memory():
    """Models without one are refused before anything runs, and so is a stream in one pass."""
    with pytest.raises(ValueError, match="stride=0: this model takes no memory; score it with"):
        evaluate.score_documents(Causal(), None, stream(30), table_of(), ONE_PASS)
    with pytest.raises(ValueError, match="stride=0 reads document by document; isolate them"):
        Scheme(seq_len=16, stride=0)


def test_weights_of_repeats_are_learned_from_the_models_own_nats():
    """On text that repeats itself they lower the score, in one pass and in windows alike."""
    rng = np.random.default_rng(25)
    phrases = [rng.integers(2, VOCAB, 9) for _ in range(4)]
    documents = [np.append(BOS_ID, np.tile(phrase, 8)) for phrase in phrases]
    tokens_T = np.append(np.concatenate(documents), BOS_ID)
    model = Causal().eval()
    weights = evaluate.fit_repeats(model, tokens_T, table_of(), ISOLATED)
    assert len(weights) == 8
    assert min(weights) > 0
    plain = evaluate.score_windows(model, tokens_T, table_of(), ISOLATED)
    mixed = replace(ISOLATED, repeat_weights=weights)
    score = evaluate.score_windows(model, tokens_T, table_of(), mixed)
    assert score.nats < 0.7 * plain.nats
    refitted = evaluate.fit_repeats(model, tokens_T, table_of(), mixed)
    assert refitted == weights, "weights in the scheme do not enter the fit"


# Ranks


def score_on(rank: int, world_size: int, folder: str) -> None:
    """Write the scores that this rank gets, and how many targets of documents it read itself."""
    torch.set_num_threads(1)
    if world_size > 1:
        store = f"file://{folder}/store{world_size}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    ranks = Ranks(rank, world_size)
    tokens_T = stream(3000, seed=14)
    read_group = evaluate.read_group
    targets = []

    def counting(batch_nats, adapter, group_D2, *rest):
        targets.append(evaluate.count_targets(group_D2))
        return read_group(batch_nats, adapter, group_D2, *rest)

    evaluate.read_group = counting  # in this process alone
    reader = Remembering()
    once = evaluate.score_documents(reader, None, tokens_T, table_of(), ONE_PASS, ranks)
    result = {"once": [once.nats.hex(), once.bytes], "targets": sum(targets)}
    if world_size < 8:  # the rest takes seconds
        text = (tokens_T[:600], table_of())
        model = Causal()
        windows = evaluate.score_windows(model, *text, ISOLATED, ranks)
        learned = evaluate.score_documents(reader, low_rank(reader), *text, ONE_PASS, ranks)
        result["windows"] = windows.nats.hex()
        result["learned"] = learned.nats.hex()
        result["trained"] = []
        for chunk_tokens in (100, 12):  # seven rows to share, and one
            adapt = sgd_adapter(model, seq_len=16, ranks=ranks, lr=0.1)
            scheme = replace(ISOLATED, chunk_tokens=chunk_tokens)
            score = evaluate.score_first(model, adapt, tokens_T[:200], table_of(), scheme, ranks)
            result["trained"].append(score.nats)
    Path(folder, f"{world_size}_{rank}.json").write_text(json.dumps(result))
    if world_size > 1:
        dist.barrier()
        dist.destroy_process_group()
    os._exit(0)  # a thread of gloo's once outlived the interpreter, and aborted it


def score_on_each(number: int, folder: str) -> None:
    """The ranks of three worlds, forked: importing torch once costs as much as all they do."""
    for world_size in (1, 2, 8):
        arguments = (score_on, (world_size, folder), world_size)
        torch.multiprocessing.start_processes(*arguments, start_method="fork")


def test_any_number_of_ranks_gives_one_score(tmp_path):
    """Two and eight ranks return the score of one to the last bit; with SGD, up to rounding.

    Documents are shared by their targets: no rank reads over a tenth more than the mean.
    """
    torch.multiprocessing.spawn(score_on_each, (str(tmp_path),), nprocs=1)

    def results(world_size: int) -> list[dict]:
        paths = [tmp_path / f"{world_size}_{rank}.json" for rank in range(world_size)]
        return [json.loads(path.read_text()) for path in paths]

    [one] = results(1)
    for world_size in (2, 8):
        ranks = results(world_size)
        assert all(rank["once"] == one["once"] for rank in ranks)
        loads = [rank["targets"] for rank in ranks]
        assert sum(loads) == 2999
        assert max(loads) < 1.1 * sum(loads) / world_size
    first, second = results(2)
    for name in ("windows", "learned"):
        assert first[name] == second[name] == one[name]
    assert first["trained"] == second["trained"]
    assert first["trained"] == pytest.approx(one["trained"], rel=1e-5)


# Results


def test_a_score_returns_the_values_that_it_logs():
    """The trainer's calls: a score's line, what frequencies alone reach, and the last line."""
    lines = []
    tokens_T = stream(200)
    scheme = Scheme(seq_len=16, stride=4)
    result = evaluate.score_and_log(Causal(), tokens_T, table_of(), scheme, log=lines.append)
    logged = log_lines.SCORE.read(lines[0])
    assert result == pytest.approx({name: logged[name] for name in result}, abs=1e-8)
    score = evaluate.score_windows(Causal(), tokens_T, table_of(), SCHEME)
    assert result["bpb"] == pytest.approx(score.bpb)
    unigram = evaluate.log_final(result, tokens_T, table_of(), lines.append)
    assert f"unigram val_loss:{unigram.loss:.8f} val_bpb_partial:{unigram.bpb:.8f}" == lines[1]
    assert unigram == evaluate.unigram_score(tokens_T, table_of())
    assert lines[2].startswith(f"final val_loss:{score.loss:.6f}"[:-2])
    assert f"targets:199 bytes:{score.bytes} eval_time:" in lines[2]


@pytest.mark.parametrize("weights, repeats", [((), 0), (WEIGHTS, 1)])
def test_a_score_says_whether_repeats_are_mixed_in(weights, repeats):
    """In its line: compare tells such scores apart."""
    lines = []
    scheme = replace(SCHEME, repeat_weights=weights)
    evaluate.score_and_log(Causal(), stream(60), table_of(), scheme, log=lines.append)
    assert lines[0].endswith(f" repeats:{repeats}")


@pytest.mark.parametrize("world_size, rank, labels", [(1, 0, ["scoring, sliding"]), (2, 1, [])])
def test_only_the_first_rank_tells_its_progress(world_size, rank, labels, monkeypatch):
    """On a terminal the ranks would write over each other's line."""
    told = []

    class Recording:
        def __init__(self, label, log):
            told.append(label)

        def __call__(self, done_frac):
            assert 0 < done_frac <= 1

    monkeypatch.setattr(evaluate, "Progress", Recording)
    monkeypatch.setattr(dist, "all_reduce", lambda tensor: None)
    ranks = Ranks(rank, world_size)
    evaluate.score_and_log(Causal(), stream(100), table_of(), SCHEME, ranks, log=str)
    assert told == labels


def test_forward_tokens_are_those_that_the_model_gets():
    """In one pass, in windows of documents and of the stream, in chunks too; filling included."""
    tokens_T = stream(200, seed=27)
    inputs = []

    class Counting(Remembering):
        def __call__(self, tokens_BT):
            return self.logits_at(tokens_BT, torch.arange(tokens_BT.numel())).unflatten(
                0, tokens_BT.shape
            )

        def logits_at(self, tokens_BT, place_S, memory=None):
            inputs.append(tokens_BT.numel())
            return super().logits_at(tokens_BT, place_S, memory or Memory(16))

    for scheme in (ONE_PASS, ISOLATED, SCHEME, replace(SCHEME, chunk_tokens=30)):
        inputs.clear()
        evaluate.score_and_log(Counting(), tokens_T, table_of(), scheme, log=str)
        assert evaluate.count_forward_tokens(tokens_T, scheme, table_of()) == sum(inputs)


def test_progress_rises_to_the_end():
    """Each batch tells the share that is done, over all chunks; the last one tells 1."""
    shares = []
    scheme = replace(SCHEME, chunk_tokens=40)
    model = Causal()
    evaluate.score_first(model, None, stream(150), table_of(), scheme, progress=shares.append)
    assert len(shares) > 4
    assert shares == sorted(shares)
    assert 0 < shares[0]
    assert shares[-1] == 1.0
