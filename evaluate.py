"""What the score is: bits per byte (bpb), the sum over all targets of -ln p(target) / ln 2, divided
by the UTF-8 bytes that the targets stand for; and what proves it.

    python evaluate.py logs/<run_id>/artifact.pgz [--stride 64] [--ttt] [--json]
    torchrun --standalone --nproc_per_node=8 evaluate.py logs/<run_id>/artifact.pgz

All that lies between tokens and that number is here: the bytes of a token, the windows that a model
sees, the order of scoring and test-time training (TTT), the probes. A model maps tokens to logits.
It never hands over a probability, so none that is not normalised.

Target i is tokens[i + 1], predicted from the inputs up to tokens[i]:

    tokens   1 340 17 1 22        a stream of two documents, each beginning with BOS = 1
    inputs   1 340 17 1           position 0 to 3
    targets  340 17 1 22          target 0 to 3; target 2 is the BOS of the next document

Shapes: B batch rows, T tokens, V vocabulary, D documents, W windows, S scored targets, N batches,
P positions.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from sentencepiece import SentencePieceProcessor
from torch import Tensor

from engine import log_lines
from engine.memory import Memory
from engine.progress import Progress
from engine.ranks import Ranks
from engine.repeats import Repeats
from engine.shards import ShardError, find_shards, read_shard, read_split, sidecar_path

BOS_ID = 1  # starts every document
BATCH_TOKENS = 32_768  # per forward pass; with a vocabulary of 8192, 1 GB of float32 logits
LARGE_VOCABULARY = 8192  # a larger one takes fewer tokens a pass, in proportion
WIDTHS = 16  # of inputs: a window is filled up to a sixteenth of seq_len, or several
FINEWEB_VAL = {"documents": 50_000, "bytes": 151_080_891}  # the challenge's validation split
CASE_MARKERS = {"\ue001", "\ue002", "\ue003"}  # pieces that stand for no byte of the original
BYTES_AT_ONCE = 1 << 20  # targets whose bytes are counted in one go: 24 bytes of memory each

# adapt_fn(chunk_tokens_T, chunk_index, num_chunks) trains a model on scored inputs and targets.
AdaptFunction = Callable[[Tensor, int, int], None]


def require(condition: bool, message: str, error: type[Exception] = ValueError) -> None:
    """Raises: the error with this message, unless the condition holds."""
    if not condition:
        raise error(message)


# Bytes --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ByteTable:
    """How many UTF-8 bytes of text each token stands for.

    A leading U+2581 in a piece is a space. It is counted apart, as it vanishes after a boundary
    token. With the pieces "▁the" (base 3, leading space) and "<s>" (base 0, boundary):

        prev "▁of", target "▁the"   3 + 1 = 4 bytes
        prev "<s>", target "▁the"   3 bytes

    SentencePiece takes a literal U+2581 in a text for a space: it comes back as one, 1 byte.
    """

    base_bytes_V: np.ndarray  # int64, without the leading space
    leading_space_V: np.ndarray  # bool
    boundary_V: np.ndarray  # bool: the next token's leading space does not count
    needs_sidecar: bool = False  # the text was changed before it was tokenised
    sidecar_T: np.ndarray | None = None  # bytes of each validation token, in place of the table
    metric: str = "val_bpb_partial"  # "val_bpb" where the validation split is known to be complete
    bos_id: int = BOS_ID  # the token that starts a document; other tokenizers have another

    @property
    def vocab_size(self) -> int:
        return len(self.base_bytes_V)

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
        missing = f"no tokenizer at {model_path}; name one with --tokenizer or TOKENIZER_PATH"
        require(Path(model_path).is_file(), missing, FileNotFoundError)
        model = SentencePieceProcessor(model_file=str(model_path))
        size = model.vocab_size()
        require(
            size == vocab_size,
            f"{model_path} has {size} pieces, VOCAB_SIZE is {vocab_size}; set VOCAB_SIZE={size}, or"
            " name another tokenizer",
        )
        ids = range(vocab_size)
        pieces = [model.id_to_piece(i) for i in ids]
        is_byte_V = np.array([model.is_byte(i) for i in ids])
        is_silent_V = np.array(
            [model.is_control(i) or model.is_unknown(i) or model.is_unused(i) for i in ids]
        )
        require("▁" in pieces, f'{model_path} lacks the piece "▁"; train it on text with spaces')
        has_bytes = is_byte_V.sum() == 256
        require(has_bytes, f"{model_path} lacks bytes; train it with byte_fallback=True")
        bos = model.bos_id()
        require(bos == BOS_ID, f"{model_path} has bos_id={bos}; train it with bos_id={BOS_ID}")

        # The piece "▁the" is "the" here; its leading space is counted apart, by leading_space_V.
        texts = [piece.removeprefix("▁").replace("▁", " ") for piece in pieces]
        length_V = np.array([len(text.encode()) for text in texts])
        base_bytes_V = np.where(is_byte_V, 1, np.where(is_silent_V, 0, length_V))
        leading_space_V = np.array([piece.startswith("▁") for piece in pieces])
        # A model that drops a first space drops it after every boundary: that space is no text.
        keeps_first_space = model.decode([pieces.index("▁")]) == " "
        boundary_V = is_silent_V & (not keeps_first_space)
        return cls(base_bytes_V, leading_space_V, boundary_V, CASE_MARKERS <= set(pieces))

    def count(self, prev_T: np.ndarray, target_T: np.ndarray) -> np.ndarray:
        """Return the bytes of each target, int64; prev_T holds the token before each."""
        has_space_T = self.leading_space_V[target_T] & ~self.boundary_V[prev_T]
        return self.base_bytes_V[target_T] + has_space_T

    def of_targets(self, tokens_T: np.ndarray) -> np.ndarray:
        """Return the bytes of each target; a stream as long as the sidecar is the sidecar's."""
        if self._has_sidecar_of(tokens_T):
            return self.sidecar_T[1:].astype(np.int64)
        return self.count(tokens_T[:-1], tokens_T[1:])

    def total(self, tokens_T: np.ndarray) -> int:
        """Return the bytes of all targets."""
        if self._has_sidecar_of(tokens_T):
            return int(self.sidecar_T[1:].sum(dtype=np.int64))
        total = 0
        for first in range(0, len(tokens_T) - 1, BYTES_AT_ONCE):
            part_T = tokens_T[first : first + BYTES_AT_ONCE + 1]
            total += int(self.count(part_T[:-1], part_T[1:]).sum())
        return total

    def _has_sidecar_of(self, tokens_T: np.ndarray) -> bool:
        return self.sidecar_T is not None and len(self.sidecar_T) == len(tokens_T)

    def check(self, model_path: str | Path, tokens_T: np.ndarray) -> None:
        """Compare the table with the decoded text of every document.

        A stream is read as if it began with BOS. Byte pieces at its end are left out, because a
        stream cut to a round length may stop inside a character.
        Raises: ValueError naming the first document that differs, by how much, and its text.
        """
        tokens_T = as_stream(tokens_T, self)
        model = SentencePieceProcessor(str(model_path))
        is_byte_V = np.array([model.is_byte(i) for i in range(self.vocab_size)])
        starts = np.union1d([0], np.flatnonzero(tokens_T == BOS_ID))
        end = len(tokens_T) - int(is_byte_V[tokens_T[::-1]].argmin())
        documents = np.split(tokens_T[:end].astype(np.int64), starts[1:])
        for number, ids_T in enumerate(documents):
            text = model.decode(ids_T.tolist())
            counted = int(self.count(np.append(BOS_ID, ids_T[:-1]), ids_T).sum())
            surplus = counted - len(text.encode())
            require(
                surplus == 0,
                f"document {number} (from token {starts[number]}) counts {surplus:+} bytes against"
                f" its decoded text, {text[:60]!r}; name the tokenizer of these shards, made from"
                " text that it can spell",
            )


def read_validation(data_path: str | Path, table: ByteTable) -> tuple[np.ndarray, ByteTable]:
    """Return the validation tokens, and the table with their sidecar and the score's name.

    That is val_bpb where documents and bytes are those of the manifest, or of FINEWEB_VAL.
    Raises: ShardError for a sidecar that is missing or gives a token more bytes than it spells.
    """
    tokens_T = as_stream(read_split(data_path, "val"), table)
    sidecars = [sidecar_path(shard) for shard in find_shards(data_path, "val")]
    if table.needs_sidecar or any(path.exists() for path in sidecars):
        table = replace(table, sidecar_T=_read_sidecars(sidecars, tokens_T, table))
    manifest = Path(data_path) / "manifest.json"
    try:
        published = FINEWEB_VAL
        if manifest.exists():
            published = json.loads(manifest.read_bytes())["splits"]["val"]
        expected = (published["documents"], published["bytes"])
    except (ValueError, KeyError, TypeError):
        raise ShardError(f"{manifest} is damaged, or not of golf.py data: move it away") from None
    # Both must agree: other documents could have as many bytes, and a cut text as many starts.
    documents = int((tokens_T == table.bos_id).sum())
    is_complete = (documents, table.total(tokens_T)) == expected
    return tokens_T, replace(table, metric="val_bpb" if is_complete else "val_bpb_partial")


def _read_sidecars(paths: list[Path], tokens_T: np.ndarray, table: ByteTable) -> np.ndarray:
    sidecar_T = np.concatenate([read_shard(path) for path in paths])
    if len(sidecar_T) != len(tokens_T):
        sizes = f"{len(sidecar_T)} entries for {len(tokens_T)} tokens"
        raise ShardError(f"{paths[0]}: {sizes}; build or fetch it again (golf.py data)")
    is_above_T = sidecar_T[1:] > table.count(tokens_T[:-1], tokens_T[1:])
    if is_above_T.any():
        entry = 1 + int(is_above_T.argmax())
        raise ShardError(
            f"{paths[0]}: entry {entry} is more bytes than its token spells; build or fetch it"
            " again (golf.py data)"
        )
    return sidecar_T


def as_stream(tokens_T: np.ndarray, table: ByteTable) -> np.ndarray:
    """Return the tokens as an array. Raises: ValueError for tokens that cannot be scored."""
    tokens_T = np.asarray(tokens_T)
    is_row = tokens_T.ndim == 1 and tokens_T.size > 1
    require(is_row, f"tokens of shape {tokens_T.shape} must be one row of 2 or more")
    highest = int(tokens_T.max())
    require(
        highest < table.vocab_size,
        f"token {highest} at {tokens_T.argmax()} must be below {table.vocab_size}; give shards,"
        " tokenizer and model that belong together",
    )
    return tokens_T


# Scores -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Score:
    """Nats, targets and bytes. Scores of disjoint targets add up.

    200 nats on 50 targets that stand for 120 bytes: loss 4.0 and 200 / ln 2 / 120 = 2.404 bpb.
    """

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
    targets = as_stream(tokens_T, table)[1:]
    counts = np.unique(targets, return_counts=True)[1]
    nats = -(counts * np.log(counts / counts.sum())).sum()
    return Score(float(nats), len(targets), table.total(tokens_T))


# Windows ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scheme:
    """Which context each target gets, and how much is done at once.

    Windows of seq_len inputs move by stride (stride == seq_len: plain blocks). With isolate no
    context crosses a document start. With stride 0 nothing is read twice: each document takes one
    pass, in which every layer attends to the last seq_len inputs. chunk_tokens are the targets
    between two rounds of TTT; 0 makes the text one chunk.
    Raises: ValueError for a stride outside 0..seq_len, 0 without isolate, and sizes below 1.
    """

    seq_len: int
    stride: int
    isolate: bool = False
    chunk_tokens: int = 0
    batch_tokens: int = BATCH_TOKENS  # of one forward pass
    repeat_weights: tuple[float, ...] = ()  # of a document's repeats (engine/repeats.py); (): none

    def __post_init__(self):
        in_range = 0 <= self.stride <= self.seq_len and self.seq_len > 0
        bounds = f"0..seq_len={self.seq_len}"
        require(in_range, f"stride={self.stride} must lie in {bounds}; choose a smaller stride")
        is_apart = self.stride > 0 or self.isolate
        require(is_apart, "stride=0 reads document by document; isolate them, or name a stride")
        in_range = self.chunk_tokens >= 0
        require(in_range, f"chunk_tokens={self.chunk_tokens} must not be negative")
        require(self.batch_tokens > 0, f"batch_tokens={self.batch_tokens} must be positive")

    @property
    def mode(self) -> str:
        """What the log calls it."""
        if self.stride == 0:
            return "one_pass"
        if self.isolate:
            return "documents"
        return "blocks" if self.stride == self.seq_len else "sliding"


def document_spans(tokens_T: np.ndarray, bos: int = BOS_ID) -> np.ndarray:
    """First target and end of each document: int64 rows. A document predicts the BOS of the next.

    The stream 1 340 17 1 22 has the spans (0, 3) and (3, 4). Text before the first BOS is one too.
    """
    begin_D = np.union1d([0], np.flatnonzero(tokens_T[:-1] == bos))
    return np.stack([begin_D, np.append(begin_D[1:], len(tokens_T) - 1)], axis=1)


def plan_windows(tokens_T: np.ndarray, scheme: Scheme, bos: int = BOS_ID) -> np.ndarray:
    """Return windows that score every target once, in order: int64 rows (start, first, end).

    The model reads inputs start..end and is scored on targets first..end. A document's windows
    start every `stride` inputs. The first scores all it sees, the others what is new. Where a chunk
    of targets ends, a window becomes two with one start, so each target keeps its context. With
    `isolate` a document reaches from its BOS to the next one, which it predicts; without, the
    stream is one document.

    Ten targets with seq_len 4 and stride 2:  (0, 0, 4)  (2, 4, 6)  (4, 6, 8)  (6, 8, 10)
    """
    num_targets = len(tokens_T) - 1
    chunk_tokens = scheme.chunk_tokens or num_targets
    begin_D = np.array([0])
    end_D = np.array([num_targets])
    if scheme.isolate:
        begin_D, end_D = document_spans(tokens_T, bos).T
    # Where windows begin to score: at document starts, at chunk starts, and every stride after
    # the first window of a document is full.
    first_of = [begin_D, np.arange(0, num_targets, chunk_tokens)]
    for begin, end in zip(begin_D, end_D, strict=True):
        first_of.append(np.arange(begin + scheme.seq_len, end, scheme.stride))
    first_W = np.unique(np.concatenate(first_of))
    begin_W = begin_D[np.searchsorted(begin_D, first_W, side="right") - 1]
    # A window that begins to score at first_W must have moved often enough to reach past it, and no
    # more, so that its context is as long as the scheme allows.
    moves_W = np.maximum(0, (first_W - begin_W - scheme.seq_len) // scheme.stride + 1)
    start_W = begin_W + scheme.stride * moves_W
    end_W = np.append(first_W[1:], num_targets)
    return np.stack([start_W, first_W, end_W], axis=1)


def count_forward_tokens(tokens_T: np.ndarray, scheme: Scheme, table: ByteTable) -> int:
    """Inputs of all forward passes that scoring takes, filling included."""
    batches = []
    if scheme.stride == 0:
        for group_D2 in plan_groups(tokens_T, scheme, table):
            batches += read_on(group_D2, chunking(scheme))
    else:
        windows_W3 = plan_windows(tokens_T, scheme, table.bos_id)
        for chunk_W3 in split_by_chunk(windows_W3, scheme, len(tokens_T) - 1):
            batches += plan_batches(chunk_W3, scheme, table.vocab_size)
    return sum(batch.rows * batch.width for batch in batches)


# Order --------------------------------------------------------------------------------------------


class IllegalScore(ValueError):
    """A score breaks a rule: its name in tools.legality.rules.RULES, and what happened."""

    def __init__(self, rule: str, event: str):
        super().__init__(f"{rule}: {event}")
        self.rule = rule


@dataclass
class Ledger:
    """Which targets were scored and trained on, as intervals first..end. Raises: IllegalScore.

    Invariant: `scored` tiles 0..done without gap or overlap, and every interval of `trained` lay
    below `done` when it was entered.
    """

    scored: list[tuple[int, int]] = field(default_factory=list)
    trained: list[tuple[int, int]] = field(default_factory=list)
    nats: list[float] = field(default_factory=list)  # of each interval scored by score_first
    done: int = 0  # targets scored so far

    def score(self, first: int | np.ndarray, end: int | np.ndarray) -> None:
        """Enter targets just scored, one interval or an array of each: they tile what is next."""
        first_W = np.atleast_1d(first)
        end_W = np.atleast_1d(end)
        is_tiling = (first_W == np.append(self.done, end_W[:-1])).all()
        if not is_tiling or (first_W >= end_W).any():
            raise IllegalScore("one-pass", f"a target after {self.done} is scored twice or never")
        # One entry for all windows: what training may see is a matter of chunks, not of windows.
        self.scored.append((self.done, int(end_W[-1])))
        self.done = int(end_W[-1])

    def train(self, first: int, end: int) -> None:
        """Enter targets about to be trained on: all of them have been scored."""
        if not 0 <= first < end <= self.done:
            event = f"targets {first} to {end} trained on when {self.done} were scored"
            raise IllegalScore("score-first", event)
        self.trained.append((first, end))

    def close(self, num_targets: int) -> None:
        """End the pass: no target is left."""
        if self.done != num_targets:
            raise IllegalScore("one-pass", f"{self.done} of {num_targets} targets were scored")


# Scoring ------------------------------------------------------------------------------------------


def score_windows(
    logits_fn: Callable[[Tensor], Tensor],
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    ranks: Ranks | None = None,
) -> Score:
    """Score every target once by a model that does not change."""
    return score_first(logits_fn, None, tokens_T, table, scheme, ranks)


def score_first(
    logits_fn: Callable[[Tensor], Tensor],
    adapt_fn: AdaptFunction | None,
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    ranks: Ranks | None = None,
    *,
    ledger: Ledger | None = None,
    progress: Callable[[float], None] = lambda done_frac: None,
) -> Score:
    """Score chunk after chunk, and let the model learn from each once its score is final.

    adapt_fn gets a copy of the chunk's inputs and targets, no more; None trains nothing. The last
    chunk is never trained on: nothing is left to gain. Any number of ranks returns one score:
    batches are planned before they are dealt out, and each has its own place for its sum. Contexts
    reach back into earlier chunks.
    Source: upstream's score-first rule, conditions C3 and C4 of its issue #1017.
    Raises: ValueError for tokens outside the vocabulary, logits of another shape or not finite.
    """
    tokens_T = as_stream(tokens_T, table)
    ranks = Ranks() if ranks is None else ranks
    ledger = Ledger() if ledger is None else ledger
    num_targets = len(tokens_T) - 1
    windows_W3 = plan_windows(tokens_T, scheme, table.bos_id)
    chunks = split_by_chunk(windows_W3, scheme, num_targets)
    batch_nats = BatchNats(logits_fn, tokens_T, table, scheme, ranks.device)
    for number, chunk_W3 in enumerate(chunks):
        # Each batch has its own place for its sum. So the score is the same whichever rank computes
        # a batch, to the last digit.
        batches = plan_batches(chunk_W3, scheme, table.vocab_size)
        nats_N = torch.zeros(len(batches), dtype=torch.float64, device=ranks.device)
        # Not inference_mode: tensors that a model caches in it are unfit for training later on.
        with torch.no_grad():
            for i in range(ranks.rank, len(batches), ranks.world_size):
                nats_N[i] = batch_nats(batches[i])
                progress((number + (i + 1) / len(batches)) / len(chunks))
        if ranks.world_size > 1:
            dist.all_reduce(nats_N)  # exact: all other ranks hold 0.0
        ledger.nats.append(math.fsum(nats_N.tolist()))
        ledger.score(chunk_W3[:, 1], chunk_W3[:, 2])
        if adapt_fn and number + 1 < len(chunks):
            # The ledger refuses what was not scored. A copy, so that the model sees these tokens
            # and no others.
            first, end = ledger.scored[-1]
            ledger.train(first, end)
            chunk_tokens_T = torch.from_numpy(tokens_T[first : end + 1].astype(np.int64))
            adapt_fn(chunk_tokens_T.to(ranks.device), number, len(chunks))
    ledger.close(num_targets)
    return Score(math.fsum(ledger.nats), num_targets, table.total(tokens_T))


class DocumentAdapter(Protocol):
    """How a model learns from documents while they are read side by side: each has its own weights.

    It is called in this order, so nothing it learns reaches another document, or a target that is
    not scored yet: reset(2), learn(loss_B of 2), learn(loss_B of 1: the other has ended), reset(0).
    """

    rows: int  # documents side by side

    def chunk_tokens(self, position: int) -> int:
        """How many targets lie between two steps, from this place in the document on.

        By the place alone: the length of a document tells what its tokens do not tell yet.
        """

    def reset(self, rows: int) -> None:
        """Begin so many documents with fresh weights; 0: leave the model as it was."""

    def learn(self, loss_B: Tensor) -> None:
        """One step on the mean nats of the chunk just scored, for each document that goes on.

        loss_B carries the graph of the very pass that was scored: no other pass is needed.
        """


def score_documents(
    model,
    adapter: DocumentAdapter | None,
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    ranks: Ranks | None = None,
    *,
    progress: Callable[[float], None] = lambda done_frac: None,
) -> Score:
    """Score each document in one pass, and let its adapter learn from each chunk once it is scored.

    Documents of like length are read side by side, a chunk of each at a time; what they were stays
    in the model's memory (engine/memory.py). Every document has its own ledger: scored from its
    first target to its last without a gap, trained on nothing but what was scored of it. Ranks
    share the groups of documents, and any number of ranks returns one score.
    Source: per-document adapters, upstream PR #1530.
    Raises: ValueError where the model takes no memory, and as score_first.
    """
    takes_memory = getattr(model, "takes_memory", False)
    require(
        takes_memory, "stride=0: this model takes no memory; score it with a stride of 1 or more"
    )
    tokens_T = as_stream(tokens_T, table)
    ranks = Ranks() if ranks is None else ranks
    batch_nats = BatchNats(model, tokens_T, table, scheme, ranks.device)
    groups = plan_groups(tokens_T, scheme, table, adapter)
    own = deal_groups(groups, ranks.world_size)[ranks.rank]
    own_targets = sum(count_targets(groups[number]) for number in own)
    done = 0

    def tell(targets: int) -> None:
        nonlocal done
        done += targets
        progress(done / own_targets)

    # Each group has its own place for its sum, so the score is the same whichever rank reads it.
    nats_N = torch.zeros(len(groups), dtype=torch.float64, device=ranks.device)
    for number in own:
        nats_N[number] = read_group(batch_nats, adapter, groups[number], scheme, tell)
    if ranks.world_size > 1:
        dist.all_reduce(nats_N)  # exact: all other ranks hold 0.0
    return Score(math.fsum(nats_N.tolist()), len(tokens_T) - 1, table.total(tokens_T))


def plan_groups(
    tokens_T: np.ndarray,
    scheme: Scheme,
    table: ByteTable,
    adapter: DocumentAdapter | None = None,
) -> list[np.ndarray]:
    """Spans of the documents that are read side by side, longest first: little is filled up."""
    spans_D2 = document_spans(tokens_T, table.bos_id)
    length_D = spans_D2[:, 1] - spans_D2[:, 0]
    spans_D2 = spans_D2[np.argsort(-length_D, kind="stable")]
    most_rows = _most_tokens(scheme, table.vocab_size) // scheme.seq_len
    rows = adapter.rows if adapter else max(1, most_rows)
    return [spans_D2[first : first + rows] for first in range(0, len(spans_D2), rows)]


def deal_groups(groups: list[np.ndarray], world_size: int) -> list[list[int]]:
    """Numbers of the groups that each rank reads: the next goes to the rank with the least to do.

    Groups of 9, 5, 4 and 3 targets among two ranks: 0 and 3, 1 and 2.
    """
    hands = [[] for _ in range(world_size)]
    targets = [0] * world_size
    for number, group_D2 in enumerate(groups):
        rank = targets.index(min(targets))
        hands[rank].append(number)
        targets[rank] += count_targets(group_D2)
    return hands


def count_targets(spans_D2: np.ndarray) -> int:
    """How many targets documents have together."""
    return int((spans_D2[:, 1] - spans_D2[:, 0]).sum())


def chunking(scheme: Scheme, adapter: DocumentAdapter | None = None) -> Callable[[int], int]:
    """How many targets are read at once, by their place in the document.

    Without an adapter it changes no score. A quarter of seq_len, because a document's last chunk is
    filled up to the longest beside it: 1.43 forward tokens a target became 1.15 on short documents.
    """
    if adapter:
        return adapter.chunk_tokens
    return lambda position: -(-scheme.seq_len // 4)


def read_on(group_D2: np.ndarray, chunk_tokens: Callable[[int], int]) -> Iterator[Batch]:
    """The next chunk of every document that has one, until all have ended.

    Documents of 5 and 3 targets, (0, 5) and (5, 8), in chunks of 2:
    (0, 2) and (5, 7), then (2, 4) and (7, 8), then (4, 5).
    """
    begin_D, end_D = group_D2.T
    position = 0
    longest = int((end_D - begin_D).max())
    while position < longest:
        rows = int((begin_D + position < end_D).sum())  # longest first: the others have ended
        chunk = chunk_tokens(position)
        first_B = begin_D[:rows] + position
        end_B = np.minimum(first_B + chunk, end_D[:rows])
        yield Batch(np.stack([first_B, first_B, end_B], axis=1), rows, int((end_B - first_B).max()))
        position += chunk


def read_group(
    batch_nats: BatchNats,
    adapter: DocumentAdapter | None,
    group_D2: np.ndarray,
    scheme: Scheme,
    tell: Callable[[int], None],
) -> float:
    """The nats of documents that are read side by side; tell(targets) hears of each chunk."""
    memory = Memory(scheme.seq_len)
    ledgers = [Ledger() for _ in group_D2]
    nats = 0.0
    if adapter:
        adapter.reset(len(group_D2))
    for batch in read_on(group_D2, chunking(scheme, adapter)):
        begin_B, end_B = group_D2[: batch.rows].T
        _, first_B, stop_B = batch.windows_B3.T
        going_on = int((stop_B < end_B).sum())  # what ends here has nothing left to gain
        # The pass that is scored is also the one that is learned from: its graph is kept, and
        # learning costs no pass of its own.
        with torch.set_grad_enabled(adapter is not None and going_on > 0):
            nats_B = batch_nats.by_row(batch, memory)
        nats += nats_B.detach().sum().item()
        for ledger, first, stop in zip(ledgers, first_B - begin_B, stop_B - begin_B, strict=False):
            ledger.score(first, stop)
        if adapter and going_on > 0:
            for ledger in ledgers[:going_on]:
                ledger.train(*ledger.scored[-1])
            adapter.learn(nats_B[:going_on] / batch.width)
        tell(int((stop_B - first_B).sum()))
    for ledger, (begin, end) in zip(ledgers, group_D2, strict=True):
        ledger.close(end - begin)
    if adapter:
        adapter.reset(0)
    return nats


def fit_repeats(
    logits_fn: Callable[[Tensor], Tensor],
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    ranks: Ranks | None = None,
) -> tuple[float, ...]:
    """The weights of a document's repeats for this model, from training text."""
    tokens_T = as_stream(tokens_T, table)
    ranks = Ranks() if ranks is None else ranks
    plain = replace(scheme, repeat_weights=(), chunk_tokens=0)
    batch_nats = BatchNats(logits_fn, tokens_T, table, plain, ranks.device)
    windows_W3 = plan_windows(tokens_T, plain, table.bos_id)
    nats_S = np.empty(len(tokens_T) - 1)
    with torch.no_grad():
        for batch in plan_batches(windows_W3, plain, table.vocab_size):
            batch_S = batch_nats.of_targets(batch, None)[0].double().cpu().numpy()
            done = 0
            for _, first, end in batch.windows_B3:
                nats_S[first:end] = batch_S[done : done + end - first]
                done += end - first
    return tuple(Repeats.of(tokens_T, table.bos_id).fit(nats_S))


def split_by_chunk(windows_W3: np.ndarray, scheme: Scheme, num_targets: int) -> list[np.ndarray]:
    """The windows of each chunk of targets."""
    chunk_tokens = scheme.chunk_tokens or num_targets
    borders = np.searchsorted(windows_W3[:, 1], range(chunk_tokens, num_targets, chunk_tokens))
    return np.split(windows_W3, borders)


@dataclass(frozen=True)
class Batch:
    """Windows for one forward pass, and the shape of its input."""

    windows_B3: np.ndarray  # (start, first, end)
    rows: int  # at least B; those beyond it are filling
    width: int


def _most_tokens(scheme: Scheme, vocab_size: int) -> int:
    """Inputs of one forward pass."""
    return scheme.batch_tokens * LARGE_VOCABULARY // max(LARGE_VOCABULARY, vocab_size)


def plan_batches(windows_W3: np.ndarray, scheme: Scheme, vocab_size: int) -> list[Batch]:
    """Deal out windows to forward passes of about batch_tokens inputs each.

    Few shapes are quick to compile. So a window is filled up on the right, where a causal model
    does not look, to one of 16 widths, and all passes of one width have one number of rows. With
    seq_len 256 and batch_tokens 512, many windows of 100, 50, 200 and 110 inputs become

        width 64    8 rows   50
        width 112   4 rows   100 110
        width 208   2 rows   200
    """
    most_tokens = _most_tokens(scheme, vocab_size)
    length_W = windows_W3[:, 2] - windows_W3[:, 0]
    unit = -(-scheme.seq_len // WIDTHS)
    width_W = np.minimum(-(-length_W // unit) * unit, scheme.seq_len)
    batches = []
    for width in np.unique(width_W):
        of_width = windows_W3[width_W == width]
        of_width = of_width[np.argsort(of_width[:, 2] - of_width[:, 0], kind="stable")]
        rows = max(1, min(most_tokens // int(width), len(of_width)))
        for first in range(0, len(of_width), rows):
            batches.append(Batch(of_width[first : first + rows], rows, int(width)))
    return batches


class BatchNats:
    """The nats of one batch of windows: log-softmax in float32, sum in float64.

    A model with `logits_at` projects only the scored positions onto the vocabulary.
    """

    def __init__(
        self,
        logits_fn: Callable[[Tensor], Tensor],
        tokens_T: np.ndarray,
        table: ByteTable,
        scheme: Scheme,
        device: torch.device,
    ):
        self.logits_fn = logits_fn
        self.tokens_T = tokens_T
        self.vocab_size = table.vocab_size
        self.device = device
        self.mixture = None
        if scheme.repeat_weights:
            self.mixture = Repeats.of(tokens_T, table.bos_id).mixture(scheme.repeat_weights)

    def __call__(self, batch: Batch) -> Tensor:
        """Raises: ValueError for logits of another shape or not finite."""
        nats_S, _ = self.of_targets(batch, None)
        return nats_S.double().sum()

    def by_row(self, batch: Batch, memory: Memory) -> Tensor:
        """nats_B of documents that are read on; a gradient may flow from them."""
        nats_S, row_S = self.of_targets(batch, memory)
        nats_B = torch.zeros(batch.rows, dtype=torch.float64, device=self.device)
        return nats_B.index_add(0, row_S, nats_S.double())

    def of_targets(self, batch: Batch, memory: Memory | None) -> tuple[Tensor, Tensor]:
        """The nats of each scored target in float32, and the row it is in."""
        start_B1, first_B1, end_B1 = np.split(batch.windows_B3, 3, axis=1)
        # at_BT is the place of each input in the stream. Of a window that moved by less than its
        # length, only the new targets are scored; the others were the context's.
        at_BT = start_B1 + np.arange(batch.width)
        is_inside_BT = at_BT < end_B1
        is_scored_BT = is_inside_BT & (at_BT >= first_B1)

        input_BT = np.zeros((batch.rows, batch.width), dtype=np.int64)
        input_BT[: len(at_BT)][is_inside_BT] = self.tokens_T[at_BT[is_inside_BT]]
        target_S = self.tokens_T[at_BT[is_scored_BT] + 1].astype(np.int64)
        place_S = torch.from_numpy(np.flatnonzero(is_scored_BT)).to(self.device)
        logits_SV = self.scored_logits(torch.from_numpy(input_BT).to(self.device), place_S, memory)
        # One pass over the logits: isfinite() and all() took five, 6 % of a CPU's time (n = 2).
        lowest_S, highest_S = logits_SV.aminmax(dim=1)
        is_finite_S = lowest_S.isfinite() & highest_S.isfinite()
        if not is_finite_S.all():
            token = 1 + at_BT[is_scored_BT][int(is_finite_S.int().argmin())]
            raise ValueError(f"logits for token {token} of the stream must be finite; train again")
        target_S = torch.from_numpy(target_S).to(self.device)
        nats_S = F.cross_entropy(logits_SV, target_S, reduction="none")
        if self.mixture is not None:
            # Shares of a document's repeats add up to one over the vocabulary, as the model's
            # probabilities do: the target's own is all that its score needs.
            factor_S, added_S = (
                torch.from_numpy(part_S[at_BT[is_scored_BT]]).to(self.device)
                for part_S in self.mixture
            )
            nats_S = -torch.log(factor_S * torch.exp(-nats_S.double()) + added_S)
        return nats_S, place_S // batch.width

    def scored_logits(self, input_BT: Tensor, place_S: Tensor, memory: Memory | None) -> Tensor:
        """The logits at places of the flattened input, in float32."""
        is_part = len(place_S) < input_BT.numel()
        if memory is not None or is_part and hasattr(self.logits_fn, "logits_at"):
            past = () if memory is None else (memory,)
            logits_SV = self.logits_fn.logits_at(input_BT, place_S, *past)
            self.require_shape(logits_SV, (len(place_S), self.vocab_size))
            return logits_SV.float()
        logits_BTV = self.logits_fn(input_BT)
        self.require_shape(logits_BTV, (*input_BT.shape, self.vocab_size))
        return logits_BTV.flatten(0, 1)[place_S].float()

    def require_shape(self, logits: Tensor, expected: tuple) -> None:
        shape = tuple(logits.shape)
        require(
            shape == expected,
            f"logits of shape {shape} must be {expected}; score every token there is",
        )


# Results ------------------------------------------------------------------------------------------


def score_and_log(
    model,
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    ranks: Ranks | None = None,
    *,
    adapter: AdaptFunction | DocumentAdapter | None = None,
    ledger: Ledger | None = None,
    log: Callable[[str], None] = print,
) -> dict:
    """Score by the scheme, in mode "ttt" with an adapter; returns the fields of its result.

    Raises: ValueError as score_first and score_documents.
    """
    ranks = Ranks() if ranks is None else ranks
    mode = "ttt" if adapter else scheme.mode
    progress = Progress(f"scoring, {mode}", log) if ranks.is_first else lambda done_frac: None
    started = time.perf_counter()
    text = (tokens_T, table, scheme, ranks)
    if scheme.stride == 0:
        score = score_documents(model, adapter, *text, progress=progress)
    else:
        score = score_first(model, adapter, *text, ledger=ledger, progress=progress)
    result = dict(
        val_loss=score.loss,
        metric=table.metric,
        bpb=score.bpb,
        targets=score.tokens,
        bytes=score.bytes,
        eval_ms=round(1000 * (time.perf_counter() - started)),
    )
    way = dict(stride=scheme.stride, isolate=scheme.isolate, repeats=bool(scheme.repeat_weights))
    log(log_lines.SCORE.write(mode=mode, **way, **result))
    return result


def log_final(result: dict, tokens_T: np.ndarray, table: ByteTable, log: Callable) -> Score:
    """Log what a model must beat, and the last score once more; returns the former."""
    # A model that does not beat the frequencies of the tokens has learned nothing.
    unigram = unigram_score(tokens_T, table)
    log(log_lines.UNIGRAM.write(val_loss=unigram.loss, metric=table.metric, bpb=unigram.bpb))
    log(log_lines.FINAL.write(**result))
    return unigram


if __name__ == "__main__":
    from engine.score_command import main

    sys.exit(main())
