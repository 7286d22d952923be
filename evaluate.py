"""What the score is: bits per byte (bpb), the sum over all targets of -ln p(target) / ln 2, divided
by the UTF-8 bytes that the targets stand for; and what proves it.

All that lies between a shard on disk and that number is here: the shard format, the bytes of a
token, the windows a model sees, the order of scoring and test-time training (TTT), the probes. A
model maps tokens to logits; it hands over no probability, so none that is not normalised.

    python evaluate.py logs/<run_id>/artifact.pgz [--stride 64] [--ttt] [--json]
    torchrun --standalone --nproc_per_node=8 evaluate.py logs/<run_id>/artifact.pgz

Shapes: B batch rows, T tokens, V vocabulary, D documents, W windows, S scored targets, R training
rows, N batches, P positions. Target i is tokens[i+1], predicted from the inputs up to tokens[i].
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import mmap
import os
import re
import sys
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentencepiece import SentencePieceProcessor
from torch import Tensor

BOS_ID = 1  # starts every document
SHARD_MAGIC, SHARD_VERSION = 20240520, 1
HEADER_BYTES = 1024  # 256 little-endian int32: magic, version, count, and 253 reserved
BATCH_TOKENS = 32_768  # per forward pass; with a vocabulary of 8192, 1 GB of float32 logits
CHUNK_TOKENS = 32_768  # targets between two rounds of TTT
FINEWEB_VAL = {"documents": 50_000, "bytes": 151_080_891}  # the challenge's validation split
CASE_MARKERS = {"\ue001", "\ue002", "\ue003"}  # pieces that stand for no byte of the original


def require(condition: bool, message: str, error: type[Exception] = ValueError) -> None:
    if not condition:
        raise error(message)


class ShardError(ValueError):
    """A file is damaged or is not a shard, or a folder of shards is unfit."""


def refuse(fault: bool, what: str) -> None:
    require(not fault, f"{what}; build or fetch it again (data/prepare.py)", ShardError)


def read_shard(path: str | Path, verify: bool = True) -> np.ndarray:
    """Map the tokens of one shard, uint16, after checking that the file is whole.

    Shards from write_shard carry a CRC-32 of their tokens; to check it reads the file once, which
    verify=False saves. Published shards have zeros there: a changed token in them goes unnoticed.
    Raises: ShardError naming the file and what is wrong with it.
    """
    refuse(not Path(path).is_file(), f"{path}: is missing")
    size_bytes = Path(path).stat().st_size
    refuse(size_bytes < HEADER_BYTES, f"{path}: {size_bytes} bytes must be at least {HEADER_BYTES}")
    header = np.fromfile(path, dtype="<i4", count=HEADER_BYTES // 4)
    (*kind, count), want = header[:3].tolist(), [SHARD_MAGIC, SHARD_VERSION]
    refuse(kind != want, f"{path}: magic and version {kind} must be {want}, as in every shard")
    fits = count > 0 and size_bytes == HEADER_BYTES + 2 * count
    refuse(not fits, f"{path}: {size_bytes} bytes do not hold {count} tokens")
    reserved = header[3:].view("<u4")
    odd, stored = (reserved != reserved[0]).any(), int(reserved[0])
    refuse(odd, f"{path}: reserved header words must be zero or one repeated checksum")
    tokens_T = np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))
    if not verify:
        # For rows from all over it: reading ahead, a CPU fed 0.3 M tokens/s from a disk, not 130 M.
        tokens_T.base.madvise(mmap.MADV_RANDOM)
    found = zlib.crc32(tokens_T) if verify and stored else stored
    refuse(found != stored, f"{path}: checksum {found:08x} of the tokens must be {stored:08x}")
    return tokens_T


def write_shard(path: str | Path, tokens: np.ndarray) -> None:
    """Write, in one rename, a shard that read_shard can verify and upstream's readers accept.

    Raises: ValueError for tokens that are not one non-empty row of integers in 0..65535.
    """
    path, tokens_T = Path(path), np.asarray(tokens)
    fits = tokens_T.ndim == 1 and tokens_T.size > 0 and (tokens_T == tokens_T.astype("<u2")).all()
    what = f"{path}: {tokens_T.dtype} tokens of shape {tokens_T.shape}"
    require(fits, f"{what} must be one non-empty row of integers in 0..65535")
    body = tokens_T.astype("<u2").tobytes()
    # Upstream looks at three words. The others all hold the checksum: a damaged one stands out.
    header = np.full(HEADER_BYTES // 4, zlib.crc32(body), dtype="<u4")
    header[:3] = SHARD_MAGIC, SHARD_VERSION, len(tokens_T)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(header.tobytes() + body)
    partial.replace(path)


def find_shards(data_path: str | Path, split: str) -> list[Path]:
    """List a folder's shards of one split, "train" or "val", in reading order."""
    found = sorted(Path(data_path).glob(f"*_{split}_*.bin"))
    shards = [p for p in found if not re.search(rf"_{split}_bytes_|\.bytes\.bin$", p.name)]
    what = f"no *_{split}_*.bin in {Path(data_path).resolve()}; run: python -m data.prepare"
    require(bool(shards), f"{what} fetch --variant sp1024 (or toy)", FileNotFoundError)
    return shards


def read_split(data_path: str | Path, split: str) -> np.ndarray:
    """Return all tokens of a split as one stream; a single shard stays mapped."""
    shards = [read_shard(path) for path in find_shards(data_path, split)]
    return shards[0] if len(shards) == 1 else np.concatenate(shards)


def sidecar_path(shard: Path) -> Path:
    """Name the file that holds the original bytes of each token of a shard; it may not exist."""
    published = shard.with_name(re.sub("_(train|val)_", r"_\1_bytes_", shard.name))
    return published if published.exists() else shard.with_suffix(".bytes.bin")


@dataclass(frozen=True)
class ByteTable:
    """How many UTF-8 bytes of text each token stands for.

    A leading U+2581 in a piece is a space, counted apart as it vanishes after a boundary token.
    SentencePiece takes a literal U+2581 in a text for a space: it comes back as one, 1 byte.
    """

    base_bytes_V: np.ndarray  # int64, without the leading space
    leading_space_V: np.ndarray  # bool
    boundary_V: np.ndarray  # bool: the next token's leading space does not count
    needs_sidecar: bool = False  # the text was changed before it was tokenised
    sidecar_T: np.ndarray | None = None  # bytes of each validation token, in place of the table
    metric: str = "val_bpb_partial"  # "val_bpb" where the validation split is known to be whole
    bos_id: int = BOS_ID  # the token that starts a document; other tokenizers have another

    @classmethod
    def from_sentencepiece(cls, model_path: str | Path, vocab_size: int) -> ByteTable:
        """Build the table of a SentencePiece model.

        Control, unknown and unused pieces count 0 and are boundaries; byte pieces count 1; others
        their UTF-8 length. A model that decodes a first space as a space (no dummy prefix, extra
        whitespace kept) has no boundaries, because there that space is text.
        Source: upstream's root script; the last rule and the refusals are ours.
        Raises: ValueError for models of another size, and those that miscount: without the piece
        "▁" a lone space is 3 bytes, without byte pieces a rare character is none.
        """
        what = f"no tokenizer at {model_path}; name one with --tokenizer or TOKENIZER_PATH"
        require(Path(model_path).is_file(), what, FileNotFoundError)
        model, ids = SentencePieceProcessor(model_file=str(model_path)), range(vocab_size)
        size, bos = model.vocab_size(), model.bos_id()
        require(size == vocab_size, f"{model_path} has {size} pieces, must have {vocab_size=}")
        pieces = [model.id_to_piece(i) for i in ids]
        byte_V = np.array([model.is_byte(i) for i in ids])
        silent = [model.is_control(i) or model.is_unknown(i) or model.is_unused(i) for i in ids]
        require("▁" in pieces, f'{model_path} lacks the piece "▁"; train it on text with spaces')
        require(byte_V.sum() == 256, f"{model_path} lacks bytes; train it with byte_fallback=True")
        require(bos == BOS_ID, f"{model_path} has bos_id={bos}; train it with bos_id={BOS_ID}")
        text = [piece.removeprefix("▁").replace("▁", " ") for piece in pieces]
        length_V = np.array([len(piece.encode()) for piece in text])
        base_bytes_V = np.where(byte_V, 1, np.where(silent, 0, length_V))
        leading_space_V = np.array([piece.startswith("▁") for piece in pieces])
        keeps_first_space = model.decode([pieces.index("▁")]) == " "
        boundary_V = np.array(silent) & (not keeps_first_space)
        return cls(base_bytes_V, leading_space_V, boundary_V, CASE_MARKERS <= set(pieces))

    def count(self, prev_T: np.ndarray, target_T: np.ndarray) -> np.ndarray:
        """Return the bytes of each target, int64; prev_T holds the token before each."""
        space_T = self.leading_space_V[target_T] & ~self.boundary_V[prev_T]
        return self.base_bytes_V[target_T] + space_T

    def total(self, tokens_T: np.ndarray) -> int:
        """Return the bytes of all targets; a stream as long as the sidecar is the sidecar's."""
        if self.sidecar_T is not None and len(self.sidecar_T) == len(tokens_T):
            return int(self.sidecar_T[1:].sum(dtype=np.int64))
        prev_T, target_T, step = tokens_T[:-1], tokens_T[1:], 1 << 20  # at once: 24 bytes a token
        parts = (slice(a, a + step) for a in range(0, len(prev_T), step))
        return sum(int(self.count(prev_T[part], target_T[part]).sum()) for part in parts)

    def check(self, model_path: str | Path, tokens_T: np.ndarray) -> None:
        """Compare the table with the decoded text of every document.

        A stream is read as if it began with BOS. Byte pieces at its end are left out, because a
        stream cut to a round length may stop inside a character.
        Raises: ValueError naming the first document that differs, by how much, and its text.
        """
        tokens_T, model = _as_stream(tokens_T, self), SentencePieceProcessor(str(model_path))
        byte_V = np.array([model.is_byte(i) for i in range(len(self.base_bytes_V))])
        starts = np.union1d([0], np.flatnonzero(tokens_T == BOS_ID))
        end = len(tokens_T) - int(byte_V[tokens_T[::-1]].argmin())
        for number, ids_T in enumerate(np.split(tokens_T[:end].astype(np.int64), starts[1:])):
            text = model.decode(ids_T.tolist())
            wrong = int(self.count(np.append(BOS_ID, ids_T[:-1]), ids_T).sum()) - len(text.encode())
            what = f"document {number} (from token {starts[number]}) counts {wrong:+} bytes against"
            remedy = "name the tokenizer of these shards, made from text that it can spell"
            require(not wrong, f"{what} its decoded text, {text[:60]!r}; {remedy}")


def read_validation(data_path: str | Path, table: ByteTable) -> tuple[np.ndarray, ByteTable]:
    """Return the validation tokens, and the table with their sidecar and the score's name.

    That is val_bpb where documents and bytes are those of the manifest, or of FINEWEB_VAL.
    Raises: ShardError for a sidecar that is missing or gives a token more bytes than it spells.
    """
    tokens_T = _as_stream(read_split(data_path, "val"), table)
    paths = [sidecar_path(shard) for shard in find_shards(data_path, "val")]
    if table.needs_sidecar or any(path.exists() for path in paths):
        sidecar_T = np.concatenate([read_shard(path) for path in paths])
        sizes = f"{len(sidecar_T)} entries for {len(tokens_T)} tokens"
        refuse(len(sidecar_T) != len(tokens_T), f"{paths[0]}: {sizes}")
        above_T = sidecar_T[1:] > table.count(tokens_T[:-1], tokens_T[1:])
        place = f"{paths[0]}: entry {1 + above_T.argmax()}"
        refuse(above_T.any(), f"{place} is more bytes than its token spells")
        table = replace(table, sidecar_T=sidecar_T)
    path, found = Path(data_path) / "manifest.json", (tokens_T == table.bos_id).sum()
    try:
        want = json.loads(path.read_bytes())["splits"]["val"] if path.exists() else FINEWEB_VAL
        whole = (found, table.total(tokens_T)) == (want["documents"], want["bytes"])
    except (ValueError, KeyError, TypeError):
        raise ShardError(f"{path} is damaged, or not of data/prepare.py: move it away") from None
    return tokens_T, replace(table, metric="val_bpb" if whole else "val_bpb_partial")


@dataclass(frozen=True)
class Score:
    """Nats, targets and bytes. Scores of disjoint targets add up."""

    nats: float
    tokens: int
    bytes: int

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.tokens + other.tokens, self.bytes + other.bytes)

    @property
    def loss(self) -> float:
        """Nats per target."""
        return self.nats / self.tokens

    @property
    def bpb(self) -> float:
        """Bits per byte."""
        require(self.bytes > 0, f"bytes={self.bytes} must be positive; score tokens that are text")
        return self.nats / math.log(2) / self.bytes


def unigram_score(tokens_T: np.ndarray, table: ByteTable) -> Score:
    """Score the targets by their own frequencies: the bound for a model that sees no context."""
    counts = np.unique(_as_stream(tokens_T, table)[1:], return_counts=True)[1]
    nats = -(counts * np.log(counts / counts.sum())).sum()
    return Score(float(nats), len(tokens_T) - 1, table.total(tokens_T))


def _as_stream(tokens_T: np.ndarray, table: ByteTable) -> np.ndarray:
    """Return the tokens as an array, or say why they cannot be scored."""
    tokens_T, size = np.asarray(tokens_T), len(table.base_bytes_V)
    fits, shape = tokens_T.ndim == 1 and tokens_T.size > 1, tokens_T.shape
    require(fits, f"tokens {shape=} must be one row of 2 or more")
    what = f"token {tokens_T.max()} at {tokens_T.argmax()} must be below {size}"
    remedy = "give shards, tokenizer and model that belong together"
    require(tokens_T.max() < size, f"{what}; {remedy}")
    return tokens_T


def plan_windows(tokens_T, seq_len: int, stride: int, isolate: bool, chunk_tokens: int, bos=BOS_ID):
    """Return windows that score every target once, in order: int64 rows (start, first, end).

    The model reads inputs start..end and is scored on targets first..end. A document's windows
    start every `stride` inputs (stride == seq_len: plain blocks); the first scores all it sees, the
    others what is new. Where a chunk of targets ends, a window becomes two with one start, so each
    target keeps its context. With `isolate` a document reaches from its BOS to the next one, which
    it predicts; without, the stream is one document.
    Raises: ValueError for a stride outside 1..seq_len and for chunk_tokens below 1.
    """
    require(1 <= stride <= seq_len, f"{stride=} must lie in 1..{seq_len=}; choose a smaller stride")
    require(chunk_tokens > 0, f"{chunk_tokens=} must be positive; the usual is {CHUNK_TOKENS}")
    num_targets = len(tokens_T) - 1
    begin_D = np.union1d([0], np.flatnonzero(tokens_T[:-1] == bos) if isolate else [0])
    spans = zip(begin_D, [*begin_D[1:], num_targets], strict=True)
    later = [np.arange(begin + seq_len, end, stride) for begin, end in spans]
    first_W = np.unique(np.concatenate([begin_D, range(0, num_targets, chunk_tokens), *later]))
    begin_W = begin_D[np.searchsorted(begin_D, first_W, side="right") - 1]
    start_W = begin_W + stride * np.maximum(0, (first_W - begin_W - seq_len) // stride + 1)
    return np.stack([start_W, first_W, np.append(first_W[1:], num_targets)], axis=1)


class IllegalScore(ValueError):
    """A score breaks a rule: its name in tools.legality.rules.RULES, and what happened."""

    def __init__(self, rule: str, what: str):
        super().__init__(f"{rule}: {what}")
        self.rule = rule


@dataclass
class Ledger:
    """Which targets were scored and trained on, as intervals first..end. Raises: IllegalScore."""

    scored: list[tuple[int, int]] = field(default_factory=list)
    trained: list[tuple[int, int]] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)  # of each interval scored by score_first
    done: int = 0  # targets scored so far

    def score(self, first: int | np.ndarray, end: int | np.ndarray) -> None:
        """Enter targets just scored, one interval or an array of each: they tile what is next."""
        first_W, end_W = np.atleast_1d(first), np.atleast_1d(end)
        if not ((first_W == np.append(self.done, end_W[:-1])).all() and (first_W < end_W).all()):
            raise IllegalScore("one-pass", f"a target after {self.done} is scored twice or never")
        self.scored.append((self.done, int(end_W[-1])))
        self.done = int(end_W[-1])

    def train(self, first: int, end: int) -> None:
        """Enter targets about to be trained on: all of them have been scored."""
        if not 0 <= first < end <= self.done:
            what = f"targets {first} to {end} trained on when {self.done} were scored"
            raise IllegalScore("score-first", what)
        self.trained.append((first, end))

    def close(self, num_targets: int) -> None:
        """End the pass: no target is left."""
        if self.done != num_targets:
            raise IllegalScore("one-pass", f"{self.done} of {num_targets} targets were scored")


def influence(nats_fn, tokens_T: np.ndarray, changed: slice, watched: slice, seed=0) -> float:
    """Return how far, at most, the nats of watched targets move when changed tokens are others.

    nats_fn(tokens_T) is a fresh evaluation: the nats of each target, float64. Document starts stay
    where they are. Of targets before a change a causal scorer gives 0.
    Source: the flip test of upstream PR #1240.
    """
    flipped_T, ids = np.array(tokens_T), np.setdiff1d(tokens_T, BOS_ID)
    require(len(ids) > 1, f"{len(ids)} ids besides BOS must be 2 or more; probe with real text")
    part_T = flipped_T[changed]
    shift_T = np.random.default_rng(seed).integers(1, len(ids), size=len(part_T))
    others_T = ids[(np.searchsorted(ids, part_T) + shift_T) % len(ids)]
    part_T[:] = np.where(part_T == BOS_ID, part_T, others_T)
    moved_S = np.abs(nats_fn(flipped_T)[watched] - nats_fn(np.array(tokens_T))[watched])
    return float(np.nan_to_num(moved_S, nan=math.inf).max(initial=0.0))


def total_mass(logp_PV: np.ndarray) -> np.ndarray:
    """Return what the probabilities at each position add up to: 1, or they are none."""
    return np.exp(np.asarray(logp_PV, dtype=np.float64)).sum(axis=-1)


def implied_bytes(loss: float, bpb: float, targets: int) -> float:
    """Return the bytes that a loss (nats per target) and its bpb have been divided by."""
    return loss / math.log(2) / bpb * targets


def score_windows(logits_fn, tokens_T: np.ndarray, table: ByteTable, **how) -> Score:
    """Score every target once by a fixed model: score_first, with its keywords, in one chunk."""
    return score_first(logits_fn, None, tokens_T, table, chunk_tokens=len(tokens_T), **how)


def score_first(
    logits_fn: Callable[[Tensor], Tensor], adapt_fn: Callable[[Tensor, int, int], None] | None,
    tokens_T: np.ndarray, table: ByteTable, *, seq_len: int, stride: int, isolate: bool,
    device: torch.device | str, chunk_tokens: int = CHUNK_TOKENS, batch_tokens: int = BATCH_TOKENS,
    rank: int = 0, world_size: int = 1, ledger: Ledger | None = None,
    progress: Callable[[float], None] = lambda done_frac: None,
) -> Score:
    """Score chunk after chunk, and let the model learn from each once its score is final.

    adapt_fn(chunk_tokens_T, chunk_index, num_chunks) gets a copy of the chunk's inputs and targets,
    no more; None trains nothing. The last chunk is never trained on: nothing is left to gain. Any
    number of ranks returns one score: batches are planned before they are dealt out, and each has
    its own place for its sum. Contexts reach back into earlier chunks.
    Source: upstream's score-first rule, conditions C3 and C4 of its issue #1017.
    Raises: ValueError for tokens outside the vocabulary, logits of another shape or not finite.
    """
    tokens_T, ledger = _as_stream(tokens_T, table), Ledger() if ledger is None else ledger
    windows_W3 = plan_windows(tokens_T, seq_len, stride, isolate, chunk_tokens, table.bos_id)
    limit = batch_tokens * 8192 // max(8192, len(table.base_bytes_V))  # so many logits, no more
    rows = max(1, min(limit // seq_len, len(windows_W3)))
    num_targets = len(tokens_T) - 1
    borders = np.searchsorted(windows_W3[:, 1], range(chunk_tokens, num_targets, chunk_tokens))
    chunks = np.split(windows_W3, borders)
    for number, chunk_W3 in enumerate(chunks):
        sorted_W3 = chunk_W3[np.argsort(chunk_W3[:, 2] - chunk_W3[:, 0], kind="stable")]
        batches = np.split(sorted_W3, range(rows, len(sorted_W3), rows))
        nats_N = torch.zeros(len(batches), dtype=torch.float64, device=device)
        # Not inference_mode: tensors that a model caches in it are unfit for training later on.
        with torch.no_grad():
            for i in range(rank, len(batches), world_size):
                nats_N[i] = _nats(logits_fn, tokens_T, batches[i], rows, seq_len, table, device)
                progress((number + (i + 1) / len(batches)) / len(chunks))
        if world_size > 1:
            dist.all_reduce(nats_N)  # exact: all other ranks hold 0.0
        ledger.nats.append(math.fsum(nats_N.tolist()))
        ledger.score(chunk_W3[:, 1], chunk_W3[:, 2])
        if number + 1 < len(chunks) and adapt_fn:
            first, end = ledger.scored[-1]
            ledger.train(first, end)
            chunk_tokens_T = torch.from_numpy(tokens_T[first : end + 1].astype(np.int64))
            adapt_fn(chunk_tokens_T.to(device), number, len(chunks))
    ledger.close(num_targets)
    return Score(math.fsum(ledger.nats), num_targets, table.total(tokens_T))


def _nats(logits_fn, tokens_T, windows_B3, rows, seq_len, table, device) -> Tensor:
    """Return the nats of one batch: log-softmax in float32, sum in float64.

    Every shape is a compilation, so inputs are padded to a power of two on the right, where a
    causal model does not look, and to a constant number of rows.
    """
    start_B1, first_B1, end_B1 = np.split(windows_B3, 3, axis=1)
    width = min(seq_len, max(64, 1 << int((end_B1 - start_B1).max() - 1).bit_length()))
    at_BT = start_B1 + np.arange(width)
    inside_BT = at_BT < end_B1
    scored_BT = inside_BT & (at_BT >= first_B1)
    input_BT = np.zeros((rows, width), dtype=np.int64)
    input_BT[: len(windows_B3)][inside_BT] = tokens_T[at_BT[inside_BT]]
    target_S = torch.from_numpy(tokens_T[at_BT[scored_BT] + 1].astype(np.int64)).to(device)
    place_S = torch.from_numpy(np.flatnonzero(scored_BT)).to(device)
    logits_BTV = logits_fn(torch.from_numpy(input_BT).to(device))
    found, want = tuple(logits_BTV.shape), (rows, width, len(table.base_bytes_V))
    require(found == want, f"logits of shape {found} must be {want}; score every token there is")
    logits_SV = logits_BTV.flatten(0, 1)[place_S].float()
    finite_S = logits_SV.isfinite().all(dim=1)
    token = 1 + at_BT[scored_BT][int(finite_S.int().argmin())]
    require(finite_S.all(), f"logits for token {token} of the stream must be finite; train again")
    return F.cross_entropy(logits_SV, target_S, reduction="none").double().sum()


def sgd_adapter(model, *, seq_len, lr=0.002, momentum=0.9, epochs=3, freeze_blocks=2, rank=0,
                world_size=1) -> Callable[[Tensor, int, int], None]:
    """Return an adapt_fn that trains the model in place: its weights are changed for good.

    An epoch is one step on the chunk's mean loss, in rows of seq_len (the last may be short). The
    rate falls by half a cosine over the chunks, momentum carries over. All but the first blocks is
    trained, the embedding too. Ranks share the rows and add up their gradients, so that they agree
    with one rank but for rounding. Modes and flags of the model stay as they are.
    Source: upstream PR #549.
    Raises: ValueError when there are no parameters blocks.N.* to freeze.
    """
    named = dict(model.named_parameters())
    frozen = tuple(f"blocks.{i}." for i in range(freeze_blocks))
    trained = [p for name, p in named.items() if not name.startswith(frozen)]
    found = len(trained) < len(named) or not frozen
    require(found, f"{freeze_blocks=} finds no parameters blocks.N.*; set it to 0")
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum)

    def adapt(chunk_tokens_T: Tensor, chunk_index: int, num_chunks: int) -> None:
        num_targets = len(chunk_tokens_T) - 1
        width = min(seq_len, num_targets)
        spare = (0, -num_targets % (width * world_size))  # no rank is left without a row
        input_RT = F.pad(chunk_tokens_T[:-1], spare).view(-1, width)[rank::world_size]
        target_RT = F.pad(chunk_tokens_T[1:], spare, value=-100).view(-1, width)[rank::world_size]
        angle = math.pi * chunk_index / max(1, num_chunks - 1)
        optimizer.param_groups[0]["lr"] = lr * (1 + math.cos(angle)) / 2
        for _ in range(epochs):
            with torch.enable_grad():
                logits = model(input_RT).float().flatten(0, 1)
                nats = F.cross_entropy(logits, target_RT.flatten(), reduction="sum")
                (nats / num_targets).backward(inputs=trained)
            for parameter in trained if world_size > 1 else []:
                dist.all_reduce(parameter.grad)
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad()

    return adapt


def score_and_log(model, tokens_T, table, *, seq_len, stride, ttt=False, log=print, **how) -> dict:
    """Log and return the score in blocks, by sliding window and with TTT; the last one is final.

    Keywords are those of score_windows; isolate is off unless given. TTT changes the weights.
    """
    how = {"seq_len": seq_len, "isolate": False, **how}
    ranks = {name: how[name] for name in ("rank", "world_size") if name in how}
    results, nats, bpb = {}, {}, table.metric
    for mode in ["blocks"] + ["sliding"] * (stride != seq_len) + ["ttt"] * ttt:
        started, step = time.perf_counter(), seq_len if mode == "blocks" else stride
        adapt_fn, ledger = None, Ledger()
        if mode == "ttt":
            adapt_fn = sgd_adapter(model, seq_len=seq_len, **ranks)
        chunks = {} if ttt else {"chunk_tokens": len(tokens_T)}  # those of TTT, to compare with
        how |= {"stride": step, "ledger": ledger}
        score = score_first(model, adapt_fn, tokens_T, table, **how, **chunks)
        nats[mode] = ledger.nats
        time_ms = round(1000 * (time.perf_counter() - started))
        line = (f"val_loss:{score.loss:.8f} {bpb}:{score.bpb:.8f} targets:{score.tokens}"
                f" bytes:{score.bytes} eval_time:{time_ms}ms")
        log(f"score mode:{mode} stride:{step} isolate:{how['isolate']:d} {line}")
        results[mode] = {"val_loss": score.loss, bpb: score.bpb, "eval_time_ms": time_ms}
    unigram = unigram_score(tokens_T, table)
    log(f"unigram val_loss:{unigram.loss:.8f} {bpb}:{unigram.bpb:.8f}")
    log(f"final {line}")
    results |= {"final": results[mode], "unigram": {bpb: unigram.bpb}}
    if ttt:  # what it gains by place; python -m tools.runs.plot draws it
        is_plain, first_N = table.sidecar_T is None, [first for first, _ in ledger.scored]
        bytes_S = table.count(tokens_T[:-1], tokens_T[1:]) if is_plain else table.sidecar_T[1:]
        before, *_, after = nats.values() if stride == seq_len else list(nats.values())[1:]
        results["chunks"] = {"targets": [end - first for first, end in ledger.scored],
                             "bytes": np.add.reduceat(bytes_S, first_N, dtype=np.int64).tolist(),
                             "before": before, "after": after}
    return {"targets": score.tokens, "bytes": score.bytes, **results}


def score_artifact(args: argparse.Namespace, log: Callable[[str], None], **ranks) -> dict:
    """Load an artifact with the code that ran, check the bytes of the text, and score."""
    folder = args.artifact.resolve().parent
    sys.path.insert(0, str(folder))  # its own sources, or where it has none those beside this file
    saved = folder / "settings.json"
    known = (json.loads(saved.read_text()) if saved.exists() else {}) | vars(args)
    code = importlib.import_module(str(known.get("code", "train_gpt")))
    sys.path.remove(str(folder))
    require(hasattr(code, "load_artifact"), f"{code.__name__} is no trainer; name one with --code")
    model, settings = code.load_artifact(args.artifact, args.device)
    settings = known | settings | vars(args)
    for name, flag in (("data_path", "--data"), ("tokenizer_path", "--tokenizer")):
        require(name in settings, f"{name} is not in {saved}; pass {flag}")
    byte_table = getattr(code, "byte_table", ByteTable.from_sentencepiece)  # older code has none
    table = byte_table(settings["tokenizer_path"], settings["vocab_size"])
    tokens_T, table = read_validation(settings["data_path"], table)
    if table.sidecar_T is None:
        table.check(settings["tokenizer_path"], tokens_T)
    if sys.stdout.isatty():
        ranks["progress"] = lambda done_frac: log(f"scored:{done_frac:.1%}", end="\r")
    how = {"seq_len": settings["train_seq_len"], "stride": settings.get("eval_stride", 64),
           "isolate": args.isolate, "ttt": args.ttt}
    return how | score_and_log(model, tokens_T, table, log=log, device=args.device, **how, **ranks)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Score an artifact on validation text.")
    add, on_off = parser.add_argument, argparse.BooleanOptionalAction
    run = {"default": argparse.SUPPRESS}  # what is not given is as in the run's settings
    add("artifact", type=Path)
    add("--stride", dest="eval_stride", type=int, help="targets that a window adds", **run)
    add("--seq-len", dest="train_seq_len", type=int, help="inputs that a window holds", **run)
    add("--data", dest="data_path", metavar="DIR", help="folder with *_val_*.bin", **run)
    add("--tokenizer", dest="tokenizer_path", metavar="FILE", help="of these shards", **run)
    add("--code", metavar="MODULE", help="trainer that made it, as baselines.train", **run)
    add("--isolate", action=on_off, default=False, help="let no context cross a document start")
    add("--ttt", action="store_true", help="score also while training on what has been scored")
    add("--json", action="store_true", help="print one JSON object; the lines go to stderr")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    args, rank, world_size = parser.parse_args(argv), 0, 1
    if dist.is_torchelastic_launched():
        if args.device == "cuda":
            torch.cuda.set_device(dist.get_node_local_rank())
        dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
        rank, world_size = dist.get_rank(), dist.get_world_size()

    def log(line: str, end: str = "\n") -> None:
        if rank == 0:
            print(line, end=end, file=sys.stderr if args.json else sys.stdout, flush=True)

    try:
        results = score_artifact(args, log, rank=rank, world_size=world_size)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if args.json and rank == 0:
        print(json.dumps({"artifact": str(args.artifact)} | results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
