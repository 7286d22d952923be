"""Is this score legal? Probes a run, an artifact, a log, a data folder, or any foreign evaluator.

    python3 golf.py tools.legality.audit RUN_OR_ARTIFACT [--data DIR] [--tokenizer FILE]
        [--device cuda]
    python3 golf.py tools.legality.audit train.log | DATA_FOLDER | path/to/scorer.py:NAME
    python3 golf.py tools.legality.cheaters    # every probe against its cheaters, one table

Exit status 0: no rule is broken, 1: one is, 2: nothing could be probed, 3: warnings alone. Our own
evaluator keeps the rules by construction; here that is shown on the artifact at hand, by changing
what must not matter. Models are opened by the code of this project; the code of a foreign evaluator
or of a published folder runs with your rights, and only after --trust.

A foreign evaluator comes in through a class whose instances run one whole evaluation and report:

    class Mine:                     # `python -m tools.legality.audit --trust mine.py:Mine`
        def __init__(self):                         # a fresh one for every evaluation
            self.model = load("final_model.ptz")

        def evaluate(self, tokens_T, log):          # int64 (T,); target i is tokens_T[i + 1]
            for first in range(0, len(tokens_T) - 1, 1024):
                end = min(first + 1024, len(tokens_T) - 1)
                logp_SV = self.model(tokens_T[first:end])     # float (S, V), natural logarithms
                nats_S = -logp_SV[range(end - first), tokens_T[first + 1 : end + 1]]
                log.score(first, end, nats_S, logp_SV)        # float (S,), as soon as it is final
                log.train(first, end)                                # before learning from them
                self.model.learn(tokens_T[first : end + 1])

    FILES = ["final_model.ptz"]                     # beside mine.py; all it may open

logp_SV may be left out; the probabilities are then added up by putting every id in the target's
place. Class attributes say more: vocab_size, tokens_T (text to probe with), isolated = True (claims
that no context crosses a document start), count_bytes(tokens_T) with decode(ids) (bytes of each
target; text), features() (name -> forward pass with and without). A function of one argument is a
scorer too: given the tokens so far it returns the log-probabilities of the next. For upstream-style
scripts: NAME = lambda: Windows(model.forward_logits, 1024, 64), or Windows(logits_of(model), ...)
where the model has nothing but model(x, y) -> loss.

What is judged is what is reported, and what moves when tokens change, at sampled targets. A leak
that takes a rare token to show can pass (--positions 1000 looks at more), and so can one bit, as
the better of two whole passes of which one is reported: read the code too (tools.legality.lint).
"""

import argparse
import contextlib
import copy
import hashlib
import importlib.util
import inspect
import itertools
import math
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Protocol
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
from engine.open_model import Opened, open_model
from engine.ranks import Ranks
from engine.shards import find_shards, read_shard, write_shard
from tools.legality.rules import UNREADABLE, Finding, is_unlawful, printable, report, status
from tools.legality.sandbox import Trace, run_alone

ROOT = Path(__file__).resolve().parents[2]
EXACT = 1e-6  # nats or probability; in fp32 on a CPU a causal scorer changes by 0
MASS_TOLERANCE = 1e-4
POSITIONS = 16  # targets from which on the tokens are changed
FOREIGN_POSITIONS = 64
SUBSTITUTED_IDS = 4096  # largest vocabulary whose ids are all put in a target's place
DEAD_STEPS = 3
PHASES = ("train", "calibrate", "pack", "score")
REMEDY = {
    "causal": "compute the distribution of a target from tokens before it alone",
    "normalised": "normalise over the whole vocabulary before the target is looked at",
    "score-first": "score a token first, learn from it afterwards; warm up on made-up tokens",
    "one-pass": "score every target once, in one pass, head and short last window included",
    "isolation": "reset what crosses a document start (mask it at BOS), or do not claim isolation",
    "bytes": "count bytes by evaluate.ByteTable, whose total equals the decoded text",
    "validation": "score the whole published validation split, and train on none of it",
    "artifact-only": "put what the score needs into the artifact or the counted code",
    "network": "fetch everything before scoring; the network is closed then",
    "phases": "read training data inside the training clock only; calibrate before it ends",
    "time": "end training, averaging, packing and writing before the cap",
    "dead-feature": "mend it or remove it; what does not act is not part of the result",
}


class Scorer(Protocol):
    """One whole evaluation; see the docstring of this module for what else a class may have."""

    def evaluate(self, tokens_T: np.ndarray, log: "Log") -> None: ...


class Log:
    """What one evaluation did, in the order in which it did it.

    Raises: ValueError for numbers that do not fit the targets they are reported for.
    """

    def __init__(self, tokens_T: np.ndarray):
        self.tokens_T = tokens_T
        self.num_targets = len(tokens_T) - 1
        self.nats_T = np.full(self.num_targets, np.nan)  # the last ones reported
        self.logp_TV: np.ndarray | None = None  # where they were given
        self.events: list[tuple[str, int, int]] = []

    def score(self, first: int, end: int, nats, logp=None) -> None:
        """Enter the final nats of targets first..end, and the distributions they are from."""
        first = int(first)
        end = int(end)
        nats_S = np.asarray(nats, np.float64)
        targets = f"targets {first}..{end}"
        if nats_S.shape != (end - first,) or not 0 <= first < end <= self.num_targets:
            fits = f"must be one number each of targets within 0..{self.num_targets}"
            raise ValueError(f"{targets}: nats of shape {nats_S.shape} {fits}")
        self.events.append(("score", first, end))
        self.nats_T[first:end] = nats_S
        if logp is not None:
            logp_SV = np.asarray(logp)
            if self.logp_TV is None:
                shape = (self.num_targets, logp_SV.shape[-1])
                self.logp_TV = np.full(shape, np.nan, logp_SV.dtype)
            self.logp_TV[first:end] = logp_SV

    def train(self, first: int, end: int) -> None:
        """Enter targets that something is about to learn from."""
        self.events.append(("train", int(first), int(end)))

    def probabilities(self) -> np.ndarray:
        """The distributions, zeros where none was given; of logarithms, -inf would not subtract."""
        if self.logp_TV is None:
            return np.zeros((self.num_targets, 1))
        return np.nan_to_num(np.exp(self.logp_TV.astype(np.float64)))


# What a scorer may be -----------------------------------------------------------------------------


class Stream:
    """The scorer of a function: the tokens so far -> log-probabilities of the next one.

    What the function is not given it cannot use, so the order is right by construction.
    """

    def __init__(self, next_logp: Callable[[np.ndarray], np.ndarray]):
        self.next_logp = next_logp

    def evaluate(self, tokens_T: np.ndarray, log: Log) -> None:
        for i in range(len(tokens_T) - 1):
            logp_V = np.asarray(self.next_logp(tokens_T[: i + 1].copy()))
            log.score(i, i + 1, [-logp_V[tokens_T[i + 1]]], logp_V[None])


class Windows:
    """The scorer of a model that maps tokens_BT to logits_BTV, in the windows of evaluate.py.

    adapt(model) returns the adapt_fn of evaluate.score_first; the model is copied for every
    evaluation, so one that learns does not carry over.
    """

    def __init__(
        self,
        model: Callable[[torch.Tensor], torch.Tensor],
        seq_len: int,
        stride: int,
        *,
        vocab_size: int | None = None,
        isolate: bool = False,
        chunk_tokens: int | None = None,
        adapt: Callable | None = None,
        device: str = "cpu",
    ):
        self.model = model
        self.isolated = isolate
        self.adapt = adapt
        self.device = device
        self.scheme = evaluate.Scheme(seq_len, stride, isolate, chunk_tokens or 0)
        with torch.no_grad():
            probe_BT = torch.ones(1, 2, dtype=torch.long, device=device)
            self.vocab_size = vocab_size or model(probe_BT).size(-1)

    def batches(self, tokens_T: np.ndarray) -> Iterator[np.ndarray]:
        """The windows in the order in which evaluate.score_first hands them to the model."""
        windows_W3 = evaluate.plan_windows(tokens_T, self.scheme)
        for chunk_W3 in evaluate.split_by_chunk(windows_W3, self.scheme, len(tokens_T) - 1):
            for batch in evaluate.plan_batches(chunk_W3, self.scheme, self.vocab_size):
                yield batch.windows_B3

    def evaluate(self, tokens_T: np.ndarray, log: Log) -> None:
        """Score by evaluate.score_first, and report what it did, window by window.

        Raises: ValueError where the reported nats do not add up to its score.
        """
        model = copy.deepcopy(self.model) if self.adapt else self.model
        adapt_fn = self.adapt(model) if self.adapt else lambda *chunk: None
        batches = self.batches(tokens_T)
        done = []
        ledger = evaluate.Ledger()
        no_V = np.zeros(self.vocab_size, bool)
        table = evaluate.ByteTable(np.ones(self.vocab_size, np.int64), no_V, no_V)

        def logits_fn(input_BT):
            logits_BTV = model(input_BT)
            logp_BTV = F.log_softmax(logits_BTV.float(), dim=-1).cpu().numpy()
            for logp_TV, (start, first, end) in zip(logp_BTV, next(batches), strict=False):
                logp_SV = logp_TV[first - start : end - start].copy()
                nats_S = -logp_SV[range(end - first), tokens_T[first + 1 : end + 1]]
                done.append((first, end, nats_S, logp_SV))
            return logits_BTV

        def report_scores():
            for part in done:
                log.score(*part)
            done.clear()

        def learn(*chunk):
            report_scores()
            if self.adapt:
                log.train(*ledger.trained[-1])
                adapt_fn(*chunk)

        ranks = Ranks(device=torch.device(self.device))
        score = evaluate.score_first(
            logits_fn, learn, tokens_T, table, self.scheme, ranks, ledger=ledger
        )
        report_scores()
        total = math.fsum(np.nan_to_num(log.nats_T))
        if abs(total - score.nats) > 1e-5 * abs(score.nats):
            raise ValueError(f"reported nats add up to {total}, the score is {score.nats}")


def logits_of(model: Callable) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return x -> logits of an upstream-style model that has nothing but model(x, y) -> mean loss.

    They are taken where the model hands them to torch.nn.functional.cross_entropy.
    Raises: ValueError for a model that does not call it, or whose loss is not what it returned.
    """

    def forward_logits(x_BT: torch.Tensor) -> torch.Tensor:
        calls = []
        cross_entropy = F.cross_entropy

        def spy(logits, *args, **options):
            calls.append((logits, cross_entropy(logits, *args, **options)))
            return calls[-1][1]

        with mock.patch.object(F, "cross_entropy", spy):
            loss = model(x_BT, torch.zeros_like(x_BT))
        if not calls:
            raise ValueError("model(x, y) does not call cross_entropy; give Windows its logits")
        logits, mean = calls[-1]
        if abs(loss.item() - mean.item()) > 1e-5:
            fault = f"model(x, y) returns {loss.item()}, its cross-entropy is {mean.item()}"
            raise ValueError(f"{fault}; give Windows the logits that are scored")
        return logits.view(*x_BT.shape, -1)

    return forward_logits


def load_scorer(subject: str) -> tuple[Callable[[], Scorer], object]:
    """Return what makes the scorer FILE.py:NAME afresh, and the module it is in.

    Raises: ValueError for names that are not there, or are no scorer.
    """
    file, _, name = subject.rpartition(":")
    path = Path(file).resolve()
    spec = importlib.util.spec_from_file_location(f"audited_{path.stem}", path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(path.parent))  # for good: it may import what lies beside it later
    spec.loader.exec_module(module)
    if not hasattr(module, name):
        raise ValueError(f"{path} has no {name!r}; name a class, a function or an object in it")
    return maker(getattr(module, name), subject), module


def maker(candidate, name: str) -> Callable[[], Scorer]:
    """A function without arguments that returns a fresh scorer, for whatever was named."""
    if not inspect.isclass(candidate) and hasattr(candidate, "evaluate"):
        return lambda: copy.deepcopy(candidate)
    if not callable(candidate):
        raise ValueError(f"{name} must be callable or have evaluate(tokens_T, log)")
    try:
        parameters = inspect.signature(candidate).parameters.values()
    except ValueError:  # of a builtin
        raise ValueError(f"{name} must be a class or a function written in Python") from None
    required = [p for p in parameters if p.default is p.empty and p.kind <= p.POSITIONAL_OR_KEYWORD]
    if len(required) == 1 and not inspect.isclass(candidate):
        return lambda: Stream(candidate)
    if required or (inspect.isclass(candidate) and not hasattr(candidate, "evaluate")):
        raise ValueError(f"{name} must be made without arguments and have evaluate(tokens_T, log)")
    return candidate


def made_up_tokens(vocab_size: int, num_tokens: int, seed: int = 0) -> np.ndarray:
    """Random documents of 8 to 64 tokens, each with its BOS."""
    rng = np.random.default_rng(seed)
    tokens_T = rng.integers(2, vocab_size, size=num_tokens)
    starts = np.cumsum([0, *rng.integers(8, 65, size=num_tokens)])
    tokens_T[starts[starts < num_tokens]] = evaluate.BOS_ID
    return tokens_T


# Probes of a scorer -------------------------------------------------------------------------------


def text_of_scorer(make: Callable[[], Scorer], rounds: int = 4, seed: int = 0) -> np.ndarray | None:
    """A text that the scorer itself finds likely; None where it has one, or gives no distributions.

    On uniform noise every choice by fit chooses alike: of three temperatures always the highest. So
    half of each stretch of 16 tokens is drawn from the scorer's distributions, round by round, each
    after the text of the round before.
    """
    scorer = make()
    vocab_size = getattr(scorer, "vocab_size", None)
    if vocab_size is None or getattr(scorer, "tokens_T", None) is not None:
        return None
    rng = np.random.default_rng(seed)
    tokens_T = made_up_tokens(vocab_size, 400)
    is_drawn_T = np.arange(1, len(tokens_T)) % 32 < 16
    is_drawn_T &= tokens_T[1:] != evaluate.BOS_ID
    for _ in range(rounds):
        log = Log(tokens_T.copy())
        make().evaluate(tokens_T.copy(), log)
        if log.logp_TV is None:
            return None
        noise_TV = rng.gumbel(size=log.logp_TV.shape)  # the argmax of the sum is a sample
        drawn_T = np.argmax(np.nan_to_num(log.logp_TV, nan=-1e9) + noise_TV, axis=1)
        tokens_T[1:] = np.where(is_drawn_T, drawn_T, tokens_T[1:])
    return tokens_T


class Probe:
    """Fresh evaluations of one scorer; the plain one and the last one are kept."""

    def __init__(self, make: Callable[[], Scorer], tokens_T: np.ndarray):
        self.make = make
        self.tokens_T = tokens_T
        self.last = None
        self.base = self.run(tokens_T)

    def run(self, tokens_T: np.ndarray) -> Log:
        log = Log(np.array(tokens_T))
        self.make().evaluate(np.array(tokens_T), log)
        return log

    def log(self, tokens_T: np.ndarray) -> Log:
        """The evaluation of these tokens, from memory where it is there."""
        for log in (self.base, self.last):
            if log is not None and np.array_equal(log.tokens_T, tokens_T):
                return log
        self.last = self.run(tokens_T)
        return self.last

    def nats(self, tokens_T: np.ndarray) -> np.ndarray:
        return self.log(tokens_T).nats_T

    def probabilities(self, tokens_T: np.ndarray) -> np.ndarray:
        return self.log(tokens_T).probabilities()


def order_fault(log: Log) -> tuple[str, str] | None:
    """The first event that breaks the order: its rule, and what happened; None where all is well.

    Targets may be scored in any order between two updates, as by several ranks or batches of
    documents; whether an update reaches back is for the flip probe to see.
    """
    scored_T = np.zeros(log.num_targets, bool)
    for kind, first, end in log.events:
        part_T = scored_T[max(0, first) : end]
        if kind == "train" and not part_T.all():
            at = max(0, first) + int(part_T.argmin())
            return "score-first", f"targets {first}..{end} learned from, target {at} is not scored"
        if kind == "score" and part_T.any():
            return "one-pass", f"target {first + int(part_T.argmax())} is scored again"
        if kind == "score":
            part_T[:] = True
    if not scored_T.all():
        left = int((~scored_T).sum())
        first = int(scored_T.argmin())
        part = "head" if first == 0 else "middle" if scored_T[first:].any() else "tail"
        of = f"of {log.num_targets} targets"
        return "one-pass", f"{left} {of} are never scored, the first is {first} ({part})"
    return None


def probe_order(probe: Probe, place: str) -> list[Finding]:
    """Findings on score-first and one-pass, for the stream and for two of other lengths."""
    lengths = [len(probe.tokens_T), len(probe.tokens_T) - 1, len(probe.tokens_T) * 2 // 3]
    for length in lengths:
        log = probe.log(probe.tokens_T[:length])
        if fault := order_fault(log):
            rule, evidence = fault
            return [broken(rule, place, f"{evidence} (stream of {log.num_targets} targets)")]
        wild = int((~np.isfinite(log.nats_T)).sum())
        if wild:
            return [broken("normalised", place, f"{wild} scores are not finite numbers")]
    events = probe.base.events
    scored = sum(kind == "score" for kind, *_ in events)
    counts = f"{scored} intervals scored, {len(events) - scored} trained on"
    return [
        holds("score-first", place, f"{counts}, each after its score"),
        holds("one-pass", place, f"every target once in streams of {lengths} tokens"),
    ]


def sample_positions(log: Log, count: int, seed: int = 0) -> list[int]:
    """Targets at which to flip: beside borders of scored and trained intervals, at document starts,
    the last one, and some at random."""
    rng = np.random.default_rng(seed)
    num_targets = log.num_targets
    borders = np.unique([edge for _, *span in log.events for edge in span])
    starts = np.flatnonzero(log.tokens_T[1:] == evaluate.BOS_ID)
    picked = {num_targets - 1}
    for places, share in ((borders, count // 2), (starts, count // 4)):
        some = rng.permutation(places)[:share]
        picked |= {int(i) for i in some + rng.integers(-1, 2, size=len(some))}
    picked = {min(max(1, i), num_targets - 1) for i in picked}
    spare = rng.permutation(num_targets).tolist()
    while len(picked) < min(count, num_targets):
        picked.add(spare.pop())
    return sorted(picked)


def probe_causal(probe: Probe, place: str, tolerance: float, count: int) -> list[Finding]:
    """Change a target and all that follow: no score before it moves, nor its own distribution."""
    worst = 0.0
    worst_target = 0
    positions = sample_positions(probe.base, count)
    for t in positions:
        changed = slice(t + 1, None)  # target t is token t + 1
        moved = max(
            evaluate.influence(probe.nats, probe.tokens_T, changed, slice(t), seed=t),
            evaluate.influence(probe.probabilities, probe.tokens_T, changed, slice(t + 1), seed=t),
        )
        if moved > worst:
            worst = moved
            worst_target = t
    if worst > tolerance:
        evidence = f"when the tokens from target {worst_target} on change, "
        evidence += f"a score or distribution before moves by {worst:.3g}"
        return [broken("causal", place, evidence)]
    evidence = f"change {worst:.3g} at {len(positions)} targets (tolerance {tolerance:.1g})"
    return [holds("causal", place, evidence)]


def probe_isolation(probe: Probe, place: str, tolerance: float) -> list[Finding]:
    """Replace a document: no score of the next one moves. Its BOS is still the old one's target."""
    tokens_T = np.array(probe.tokens_T)
    if np.count_nonzero(tokens_T == evaluate.BOS_ID) < 2:  # part of a long document: several of it
        tokens_T[np.linspace(0, len(tokens_T), 4, endpoint=False).astype(int)] = evaluate.BOS_ID
    pairs = list(itertools.pairwise(np.flatnonzero(tokens_T == evaluate.BOS_ID)))
    pairs = [pairs[i] for i in np.linspace(0, len(pairs) - 1, min(4, len(pairs))).astype(int)]
    moved = [
        evaluate.influence(probe.nats, tokens_T, slice(a + 1, b), slice(b, None), 1)
        for a, b in pairs
    ]
    worst = int(np.argmax(moved))
    if moved[worst] > tolerance:
        evidence = f"replacing the document at token {pairs[worst][0]} moves a later score by"
        return [broken("isolation", place, f"{evidence} {moved[worst]:.3g}")]
    return [holds("isolation", place, f"change {max(moved):.3g} after {len(moved)} documents")]


def probe_normalised(probe: Probe, place: str, vocab_size: int | None) -> list[Finding]:
    """The distributions add up to one and hold the score; where some are missing, by substitution.

    All targets are looked at, not a sample: the numbers are there.
    """
    log = probe.base
    if log.logp_TV is None:
        return probe_by_substitution(probe, place, vocab_size, np.arange(log.num_targets))
    missing_T = np.isnan(log.logp_TV).any(axis=1)
    if missing_T.any():
        return probe_by_substitution(probe, place, vocab_size, np.flatnonzero(missing_T))
    size = log.logp_TV.shape[1]
    top = int(log.tokens_T.max())
    if size != (vocab_size or size) or top >= size:
        evidence = f"a distribution over {size} ids, the vocabulary has {vocab_size or top + 1}"
        return [broken("normalised", place, evidence)]
    mass_T = evaluate.total_mass(log.logp_TV)
    worst = int(np.abs(mass_T - 1).argmax())
    if abs(mass_T[worst] - 1) > MASS_TOLERANCE:
        evidence = f"probabilities at target {worst} add up to {mass_T[worst]:.6g}"
        return [broken("normalised", place, evidence)]
    off_T = np.abs(log.nats_T + log.logp_TV[range(log.num_targets), log.tokens_T[1:]])
    if off_T.max() > MASS_TOLERANCE:
        evidence = f"the score of target {off_T.argmax()} is {off_T.max():.3g} nats from"
        return [broken("normalised", place, f"{evidence} what its distribution gives")]
    evidence = f"sums within {abs(mass_T[worst] - 1):.1g} of 1 at {log.num_targets} targets"
    return [holds("normalised", place, f"{evidence}, scores within {off_T.max():.1g} nats")]


def probe_by_substitution(
    probe: Probe, place: str, vocab_size: int | None, targets: np.ndarray
) -> list[Finding]:
    """Put every id in a target's place and add up the probabilities that the scores imply.

    At up to six of the targets that have no distribution; in a large vocabulary at the first.
    """
    tokens_T = probe.tokens_T
    size = vocab_size or int(probe.tokens_T.max()) + 1
    if size > SUBSTITUTED_IDS:
        evidence = f"no distributions given, and {size} ids are too many to try"
        remedy = "give log.score the distributions as its fourth argument"
        return [Finding("normalised", "warn", place, evidence, remedy)]
    count = min(len(targets), max(1, min(6, 512 // size)))
    masses = {}
    for t in targets[np.linspace(1, len(targets), count + 1).astype(int)[:-1] - 1]:
        nats = []
        for token in range(size):
            changed_T = np.array(tokens_T)  # whole: a peeking model sees what follows its input
            changed_T[t + 1] = token
            nats.append(probe.run(changed_T).nats_T[t])
        masses[t] = float(evaluate.total_mass(-np.array(nats)))
    worst = max(masses, key=lambda t: abs(masses[t] - 1))
    evidence = f"every id in its place, probabilities at target {worst} "
    evidence += f"add up to {masses[worst]:.6g}"
    if abs(masses[worst] - 1) > MASS_TOLERANCE:
        return [broken("normalised", place, evidence)]
    return [holds("normalised", place, evidence)]


def probe_bytes(scorer, tokens_T: np.ndarray, place: str) -> list[Finding]:
    """The bytes of every document's targets against its decoded text, and why they differ."""
    counted_T = np.asarray(scorer.count_bytes(tokens_T))
    starts = np.flatnonzero(tokens_T == evaluate.BOS_ID)
    total = 0
    for start, end in itertools.pairwise([*starts, len(tokens_T)]):
        text = scorer.decode(tokens_T[start + 1 : end].tolist())
        size = len(text.encode())
        counted = int(counted_T[start : end - 1].sum())
        if size != counted:
            evidence = f"the document at token {start} counts {counted} bytes, its text has {size}"
            return [broken("bytes", place, f"{evidence}: {text[:40]!r}")]
        total += size
    return [holds("bytes", place, f"{total} bytes in {len(starts)} documents, as decoded")]


def audit_scorer(
    make: Callable[[], Scorer],
    tokens_T: np.ndarray | None = None,
    place: str = "scorer",
    count: int = POSITIONS,
) -> list[Finding]:
    """Findings of every probe that fits the scorer that make() returns.

    What follows from a fault is not judged: a score that learned from its target moves with it, so
    causal is judged where the order is legal, and the sum over all ids where causal holds.
    """
    scorer = make()
    if not hasattr(scorer, "evaluate"):
        raise ValueError(f"{place} must have evaluate(tokens_T, log); see tools.legality.audit")
    vocab_size = getattr(scorer, "vocab_size", None)
    if tokens_T is None:
        tokens_T = getattr(scorer, "tokens_T", None)
    if tokens_T is None:
        if vocab_size is None:
            raise ValueError(f"{place} must have vocab_size or tokens_T, so that it can be probed")
        tokens_T = made_up_tokens(vocab_size, 400)
    tokens_T = np.asarray(tokens_T).astype(np.int64)
    probe = Probe(make, tokens_T)
    findings = probe_order(probe, place)
    noise = 0.0
    if not is_unlawful(findings):
        noise = float(np.abs(probe.run(tokens_T).nats_T - probe.base.nats_T).max())
    if noise > EXACT and str(getattr(scorer, "device", "cpu")).startswith("cpu"):
        evidence = f"two evaluations of one text differ by {noise:.3g} nats"
        findings.append(broken("artifact-only", place, evidence))
    if not is_unlawful(findings):
        tolerance = max(EXACT, 4 * noise)
        findings += probe_causal(probe, place, tolerance, count)
        if not is_unlawful(findings):
            findings += probe_normalised(probe, place, vocab_size)
            if getattr(scorer, "isolated", False):
                findings += probe_isolation(probe, place, tolerance)
    if hasattr(scorer, "count_bytes") and hasattr(scorer, "decode"):
        findings += probe_bytes(scorer, tokens_T, place)
    if hasattr(scorer, "features"):
        findings += audit_features(scorer.features(), place)
    return findings


def broken(rule: str, place: str, evidence: str) -> Finding:
    return Finding(rule, "fail", place, evidence, REMEDY[rule])


def holds(rule: str, place: str, evidence: str) -> Finding:
    return Finding(rule, "ok", place, evidence)


# Other probes -------------------------------------------------------------------------------------


def audit_features(features: dict[str, tuple], place: str) -> list[Finding]:
    """Findings on what claims to act: name -> the forward pass with it, and without."""
    findings = []
    for name, (with_it, without) in features.items():
        change = float((torch.as_tensor(with_it) - torch.as_tensor(without)).abs().max())
        if change == 0:
            findings.append(broken("dead-feature", f"{place}: {name}", "changes no output at all"))
        else:
            findings.append(holds("dead-feature", f"{place}: {name}", f"changes by {change:.3g}"))
    return findings


def dead_parameters(model: torch.nn.Module, loss_fn: Callable, batches: Iterable) -> list[str]:
    """Names of parameters that got no gradient in any step; loss_fn(model, batch) is minimised.

    The model is copied. Three batches are enough: a table and a projection that are both zero, as
    in upstream PR #334, keep each other's gradient at zero for ever.
    """
    model = copy.deepcopy(model)
    named = dict(model.named_parameters())
    alive = set()
    for batch in itertools.islice(batches, DEAD_STEPS):
        with torch.enable_grad():
            loss_fn(model, batch).backward()
        with torch.no_grad():
            for name, p in named.items():
                if p.grad is not None and p.grad.any():
                    alive.add(name)
                    p.sub_(p.grad, alpha=1e-3)
                p.grad = None
    return [name for name in named if name not in alive]


@torch.no_grad()
def silent_parameters(model: torch.nn.Module, inputs: torch.Tensor) -> list[str]:
    """Names of parameters that can be changed without changing the output."""
    before = model(inputs)
    silent = []
    rng = torch.Generator().manual_seed(0)
    for name, p in model.named_parameters():
        kept = p.clone()
        noise = torch.randn(p.shape, generator=rng).to(p)
        p.add_(noise * (0.1 * p.float().pow(2).mean().sqrt() + 0.01))
        silent += [name] if torch.equal(model(inputs), before) else []
        p.copy_(kept)
    return silent


def audit_parameters(model, loss_fn, batches: list, inputs, place: str) -> list[Finding]:
    """Findings on the parameters of a model: each one learns, and each one matters."""
    dead = dead_parameters(model, loss_fn, batches)
    silent = silent_parameters(model, inputs)
    names_by_fault = {
        f"no gradient in {DEAD_STEPS} steps": dead,
        "no influence on the logits": silent,
    }
    findings = [
        broken("dead-feature", place, f"{fault}: {', '.join(names)}")
        for fault, names in names_by_fault.items()
        if names
    ]
    count = sum(1 for _ in model.parameters())
    return findings or [holds("dead-feature", place, f"all {count} parameters learn and matter")]


class PhaseClock:
    """One clock for training, calibration, packing and scoring, and who read which data when.

    clock = PhaseClock(cap_seconds=600); clock.enter("train"); clock.read("train") at every batch;
    clock.enter("calibrate"), "pack" when the artifact is written, "score"; then findings().

    Raises: ValueError for a phase or a split that does not exist.
    """

    def __init__(self, cap_seconds: float, clock: Callable[[], float] = time.perf_counter):
        self.cap_seconds = cap_seconds
        self.clock = clock
        self.started = clock()
        self.entered: list[tuple[float, str]] = []
        self.reads: list[tuple[float, str, str]] = []  # seconds, phase, split

    def enter(self, phase: str) -> None:
        """Begin a phase; the one before ends."""
        if phase not in PHASES:
            raise ValueError(f"{phase=} must be one of {', '.join(PHASES)}")
        self.entered.append((self.clock() - self.started, phase))

    def read(self, split: str) -> None:
        """Note that data of a split, "train" or "val", is read now."""
        if split not in ("train", "val") or not self.entered:
            raise ValueError(f"{split=} must be train or val, and read after enter()")
        self.reads.append((self.clock() - self.started, self.entered[-1][1], split))

    def findings(self, place: str = "phases") -> list[Finding]:
        """Findings on phases, validation and time."""
        cap = self.cap_seconds
        for seconds, phase, split in self.reads:
            when = f"at {seconds:.1f} s, in phase {phase}"
            if split == "val" and phase != "score":
                return [broken("validation", place, f"validation data read {when}")]
            if split == "train" and (phase == "score" or seconds > cap):
                return [broken("phases", place, f"training data read {when} (cap {cap:g} s)")]
        scoring = [seconds for seconds, phase in self.entered if phase == "score"]
        ended = scoring[0] if scoring else self.clock() - self.started
        if ended > cap:
            return [broken("time", place, f"the artifact took {ended:.1f} s, the cap is {cap:g} s")]
        evidence = f"{len(self.reads)} reads, the artifact done at {ended:.1f} of {cap:g} s"
        return [holds("phases", place, evidence)]


def audit_alone(
    command: list[str],
    folder: Path,
    files: list[str],
    allowed: Iterable[Path] = (),
    env: dict[str, str] | None = None,
    place: str = "",
    timeout_seconds: float = 600,
) -> list[Finding]:
    """Findings on artifact-only and network: run in the folder, then with its `files` alone.

    The last line of output that is not about time must be the same. `allowed` are files, or folders
    of files, that may be opened elsewhere: validation text, tokenizer, the tools themselves.

    Raises: ValueError when the command fails in its own folder, or a file is missing there.
    """
    place = place or " ".join(command[1:3])
    allowed = [Path(path).resolve() for path in allowed]
    with tempfile.TemporaryDirectory() as empty:
        for name in files:
            if not (folder / name).is_file():
                raise ValueError(f"{folder / name} is missing; name files that are there")
            (Path(empty) / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(folder / name, Path(empty) / name)
        inside = run_alone(command, folder, env, timeout_seconds)
        alone = run_alone(command, Path(empty), env, timeout_seconds)
    tried = dict.fromkeys(inside.connections + alone.connections)
    if tried:
        return [broken("network", place, f"tried to reach {', '.join(tried)}")]
    findings = [holds("network", place, "no connection was tried")]
    if inside.returncode:
        evidence = f"{' '.join(command)} fails in {folder}: {final_line(inside)}"
        raise ValueError(f"{evidence}; make it run there first")
    unexpected = [p for p in alone.opened if not any(Path(p).is_relative_to(a) for a in allowed)]
    score = final_line(inside)
    score_alone = final_line(alone)
    if alone.returncode:
        evidence = f"fails with {', '.join(files)} alone: {score_alone}"
        return [*findings, broken("artifact-only", place, evidence)]
    if unexpected:
        return [*findings, broken("artifact-only", place, f"opens {', '.join(unexpected[:5])}")]
    if score != score_alone:
        evidence = f"{score!r} becomes {score_alone!r} with {', '.join(files)} alone"
        return [*findings, broken("artifact-only", place, evidence)]
    if alone.unwatched:
        evidence = f"a child process could not be watched: {alone.unwatched[0][:80]}"
        remedy = "look at what it opens"
        return [*findings, Finding("artifact-only", "warn", place, evidence, remedy)]
    opened = f"{len(alone.opened)} files opened elsewhere, all of them allowed"
    return [*findings, holds("artifact-only", place, f"{score!r} alone too; {opened}")]


def final_line(trace: Trace) -> str:
    """The last line of output that holds text, without what differs from run to run: times."""
    lines = [line.strip() for line in trace.output.splitlines() if line.strip()] or [""]
    return " ".join(word for word in lines[-1].split() if not re.search(r"time|\d(ms|s)$", word))


def audit_data(folder: Path, tokenizer: Path | None = None) -> list[Finding]:
    """Findings of data.verify on a prepared folder, under the rules they belong to.

    Where the shards are not those of the manifest, their bytes are another text's: one rule.
    """
    from data import verify

    levels = {"fault": "fail", "warning": "warn", "ok": "ok"}
    outcomes = verify.verify(folder, tokenizer)
    about_bytes = {"bytes", "sidecar", "tokenizer"}
    if any(outcome.level == "fault" and outcome.check not in about_bytes for outcome in outcomes):
        about_bytes = set()
    findings = []
    for outcome in outcomes:
        evidence = outcome.message
        remedy = ""
        if outcome.level != "ok" and "; " in evidence:
            evidence, _, remedy = evidence.rpartition("; ")
        rule = "bytes" if outcome.check in about_bytes else "validation"
        findings.append(
            Finding(rule, levels[outcome.level], f"{folder}: {outcome.check}", evidence, remedy)
        )
    return findings


def audit_log(path: Path) -> list[Finding]:
    """Findings on the bytes that a log's score was divided by, and on its training clock."""
    from tools.runs.logs import read_log

    run = read_log(path)
    findings = []
    place = str(path)
    if run.score is not None and run.score.val_loss and run.score.val_bpb:
        place = f"{path}:{run.score.line}"
        vocab_size = run.settings.get("vocab_size")
        targets = run.score.targets or run.val_tokens
        findings += audit_bytes(
            run.score.val_loss, run.score.val_bpb, targets, vocab_size, run.score.bytes, place
        )
        if run.score.is_partial:
            evidence = "the score is called val_bpb_partial: a part of the split, or an unknown one"
            findings.append(Finding("validation", "warn", place, evidence, REMEDY["validation"]))
    if run.train_time_ms and run.cap_ms:
        took = run.train_time_ms / 1000
        cap = run.cap_ms / 1000
        evidence = f"training, averaging, packing and writing took {took:.1f} s of {cap:g} s"
        findings.append(
            broken("time", place, evidence) if took > cap else holds("phases", place, evidence)
        )
    return findings


def audit_bytes(
    loss: float,
    bpb: float,
    targets: int | None,
    vocab_size: int | None = None,
    stated_bytes: int | None = None,
    place: str = "score",
) -> list[Finding]:
    """Findings on a loss and its bpb: the bytes they imply, against those stated or published.

    Bytes that the log states are compared; otherwise the text is taken for FineWeb's validation
    split. Fewer tokens at the usual bytes a token is a part of that split; the usual tokens at
    other bytes is a miscount.
    """
    from data.verify import FINEWEB_CASEOPS_TOKENS, FINEWEB_TOKENS

    if not targets:
        return []
    implied = evaluate.implied_bytes(loss, bpb, targets)
    digits = max(len(str(x).partition(".")[2]) for x in (loss, bpb))
    rounding = 0.5 * 10.0**-digits * (1 / loss + 1 / bpb)
    implied_text = f"{implied:,.0f} bytes implied by loss {loss}, bpb {bpb} and {targets:,} targets"
    if stated_bytes:
        if abs(implied / stated_bytes - 1) > 1e-6 + rounding:
            return [broken("bytes", place, f"{implied_text}; the log states {stated_bytes:,}")]
        return [holds("bytes", place, f"{implied_text}, as stated")]
    split_bytes = evaluate.FINEWEB_VAL["bytes"]
    counts = {*FINEWEB_TOKENS.values()}
    counts |= {FINEWEB_CASEOPS_TOKENS}
    tolerance = 1e-4 + rounding  # logs cut the stream to whole windows
    if abs(implied / split_bytes - 1) <= tolerance:
        return [holds("bytes", place, f"{implied_text}; the split has {split_bytes:,}")]
    is_whole = any(0 <= targets - count < 2048 for count in counts)
    usual = [FINEWEB_TOKENS[vocab_size]] if vocab_size in FINEWEB_TOKENS else counts
    near = any(
        abs(implied / targets / (split_bytes / count) - 1) < 0.003 + rounding for count in usual
    )
    rule = "validation" if near and not is_whole else "bytes"
    return [broken(rule, place, f"{implied_text}; FineWeb's validation split has {split_bytes:,}")]


# Our own artifact ---------------------------------------------------------------------------------

# What scores a run's artifact in its folder. A packed script is all of it, and brings its own
# evaluate and engine; scripts from before there was an engine open artifacts in evaluate.
DRIVER = """
import sys, train_gpt, evaluate
try:
    from engine.open_model import Opened, open_model
    status = evaluate.main(sys.argv[1:], open_model)
except ImportError:
    status = evaluate.main(sys.argv[1:])
sys.exit(status)
"""


LONGEST_CONTEXT = 2048  # tokens that a probe gives a model, whatever context it was made for


def find_path(text: str, folder: Path) -> Path | None:
    """A path of a run's settings: from where logs/<run_id>/ lies, or as it stands."""
    here = Path.cwd()
    places = [folder.resolve().parents[1] / text, here / text]
    path = next((place for place in places if place.exists()), None)
    # Short where it can be: the evidence goes into a record, and no machine's folders with it.
    return path.relative_to(here) if path and path.is_relative_to(here) else path


def probe_tokens(tokens_T: np.ndarray, num_tokens: int, border: int | None) -> np.ndarray:
    """Tokens to probe with: around the border of two shards where there is one, else the first."""
    first = max(0, min(border - num_tokens // 2, len(tokens_T) - num_tokens)) if border else 0
    return np.array(tokens_T[first : first + num_tokens]).astype(np.int64)


def audit_artifact(
    artifact: Path,
    data: Path | None = None,
    tokenizer: Path | None = None,
    device: str = "cpu",
    alone: bool = True,
    trust: bool = False,
) -> list[Finding]:
    """Findings on any recipe's model or a Hugging Face folder: scoring, parameters, bytes, files.

    The model is built by the code of this project; the code of a Hugging Face folder runs only
    where it is trusted.

    Without validation text the probes run on made-up documents, and a warning says so.
    Raises: ValueError or OSError for an artifact that does not load.
    """
    try:
        opened = open_model(artifact, device, compile=False, trust=trust)
    except RuntimeError as error:
        raise ValueError(f"{artifact} does not load: {error}") from error
    model = opened.model
    folder = opened.path.resolve()
    folder = folder if folder.is_dir() else folder.parent
    settings = opened.run_settings
    seq_len = min(opened.seq_len, LONGEST_CONTEXT)
    vocab_size = opened.model_settings["vocab_size"]
    stride = min(settings.get("eval_stride", 64), seq_len)
    place = str(artifact)
    data = data or find_path(settings.get("data_path", "no data_path"), folder)
    tokenizer = tokenizer or find_path(settings.get("tokenizer_path", "no path"), folder)
    table = None
    findings = []
    num_tokens = 3 * seq_len + seq_len // 2
    if data is None or tokenizer is None:
        evidence = "no validation text or tokenizer found: probed on made-up documents, "
        evidence += "bytes are not"
        remedy = "name them with --data and --tokenizer"
        findings.append(Finding("validation", "warn", place, evidence, remedy))
        tokens_T = made_up_tokens(vocab_size, num_tokens)
    else:
        table = byte_table(opened, tokenizer)
        val_T, table = evaluate.read_validation(data, table)
        findings += audit_text(val_T, table, tokenizer, str(data))
        lengths = [len(read_shard(path)) for path in find_shards(data, "val")]
        tokens_T = probe_tokens(val_T, num_tokens, lengths[0] if len(lengths) > 1 else None)

    def learning(model):
        return opened.recipe.adapter(model, seq_len, Ranks(device=torch.device(device)))

    modes = {
        f"blocks of {seq_len}": dict(stride=seq_len),
        f"sliding by {stride}": dict(stride=stride),
        "isolated documents": dict(stride=stride, isolate=True),
    }
    if opened.recipe and learning(copy.deepcopy(model)):
        adaptive = dict(stride=stride, chunk_tokens=seq_len, adapt=learning)
        modes["test-time training"] = adaptive
    shape = dict(seq_len=seq_len, vocab_size=vocab_size, device=device)
    for mode, special in modes.items():
        scorer = Windows(model, **shape, **special)
        findings += audit_scorer(lambda s=scorer: s, tokens_T, f"{place} [{mode}]", POSITIONS // 4)
    short_BT = torch.from_numpy(tokens_T[: min(seq_len, 128) + 1])[None].to(device)
    findings += audit_parameters(model, loss_of, [short_BT] * DEAD_STEPS, short_BT, place)
    is_run = opened.path.is_file() and (folder / "train_gpt.py").is_file()
    if alone and table is not None and is_run:
        findings += audit_files(opened.path, tokens_T, tokenizer, stride, device)
    return findings


def byte_table(opened: Opened, tokenizer: Path) -> evaluate.ByteTable:
    """The byte table of an opened model's tokens."""
    vocab_size = opened.model_settings["vocab_size"]
    if opened.recipe is None:
        return evaluate.ByteTable.from_sentencepiece(tokenizer, vocab_size)
    return opened.recipe.byte_table(str(tokenizer), vocab_size)


def loss_of(model: torch.nn.Module, tokens_BT: torch.Tensor) -> torch.Tensor:
    """The loss of any model that maps tokens_BT to logits_BTV, summed over the targets."""
    if hasattr(model, "loss"):
        return model.loss(tokens_BT)
    logits_BTV = model(tokens_BT[:, :-1])
    return F.cross_entropy(logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), reduction="sum")


def audit_text(val_T: np.ndarray, table: evaluate.ByteTable, tokenizer: Path, place: str):
    """Findings on bytes and validation: table against text, split against manifest or challenge."""
    findings = []
    if table.sidecar_T is None:
        try:
            table.check(tokenizer, val_T)
            evidence = f"{table.total(val_T):,} bytes in {len(val_T):,} tokens, as decoded"
            findings.append(holds("bytes", place, evidence))
        except ValueError as error:
            findings.append(broken("bytes", place, str(error)))
    if table.metric == "val_bpb":
        evidence = f"{len(val_T):,} tokens: documents and bytes of the whole split"
        return [*findings, holds("validation", place, evidence)]
    evidence = "documents or bytes are not those of manifest or challenge: "
    evidence += "a score is val_bpb_partial"
    return [*findings, Finding("validation", "warn", place, evidence, REMEDY["validation"])]


def audit_files(
    artifact: Path, tokens_T: np.ndarray, tokenizer: Path, stride: int, device: str
) -> list[Finding]:
    """Findings on artifact-only and network: score a little text beside the artifact, and alone."""
    folder = artifact.resolve().parent
    sources = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.py"))]
    names = [*sources, "requirements.txt"]
    files = [artifact.name, *(name for name in names if (folder / name).is_file())]
    with tempfile.TemporaryDirectory() as text_folder:
        write_shard(Path(text_folder) / "probe_val_000000.bin", tokens_T)
        command = [sys.executable, "-c", DRIVER, artifact.name, "--data", text_folder]
        command += ["--tokenizer", str(tokenizer.resolve()), "--stride", str(stride)]
        command += ["--device", device]
        allowed = [Path(text_folder), tokenizer]
        return audit_alone(command, folder, files, allowed, place=str(artifact))


# Command ------------------------------------------------------------------------------------------


ALONE = "import sys; sys.path.insert(0, {root!r}); from tools.legality import audit as a; "
ALONE += "sys.exit(a.main())"


def audit_foreign(path: Path, name: str, count: int = FOREIGN_POSITIONS) -> list[Finding]:
    """Findings on the scorer FILE.py:NAME, and on what it opens when it is run alone.

    Raises: ValueError where its own code fails.
    """
    subject = f"{path.name}:{name}"
    with contextlib.chdir(path.parent):
        try:
            make, module = load_scorer(subject)
            findings = audit_scorer(make, place=subject, count=count)
            text_T = text_of_scorer(make)
            if text_T is not None and not is_unlawful(findings):
                place = f"{subject} [text of its own]"
                findings += audit_scorer(make, text_T, place, count)
        except Exception as error:  # of any kind: it is foreign code
            raise ValueError(f"{subject} fails: {type(error).__name__}: {error}") from error
    files = [path.name, *getattr(module, "FILES", [])]
    files = list(dict.fromkeys(files))
    command = [sys.executable, "-c", ALONE.format(root=str(ROOT)), "--total", subject]
    tools = [*ROOT.glob("*.py"), *ROOT.glob("tools/**/*.py"), *ROOT.glob("**/__pycache__")]
    return findings + audit_alone(command, path.parent, files, tools, place=subject)


def audit(subject: str, args: argparse.Namespace) -> list[Finding]:
    """Findings on whatever was named.

    Raises: ValueError where nothing of that name can be probed.
    """
    file, colon, name = subject.rpartition(":")
    if colon and file.endswith(".py") and Path(file).is_file():
        if not args.trust:
            sha256 = hashlib.sha256(Path(file).read_bytes()).hexdigest()
            raise ValueError(
                f"{file} (sha256 {sha256}) is code; read it, then pass --trust to run it"
            )
        return audit_foreign(Path(file).resolve(), name, args.positions)
    path = Path(subject) if Path(subject).exists() else Path("logs") / subject
    if not path.exists():
        raise ValueError(f"{subject} must be an artifact, a log, a folder, or FILE.py:NAME")
    if path.suffix == ".py":
        raise ValueError(f"{path} holds a scorer under some name; give {path}:NAME")
    if path.is_dir() and list(path.glob("*_val_*.bin")):
        return audit_data(path, args.tokenizer)
    if (path / "config.json").is_file():
        return audit_artifact(path, args.data, args.tokenizer, args.device, trust=args.trust)
    if path.is_dir():
        artifact = path / "artifact.pgz"
        log = path / "train.log"
        if not artifact.is_file() and not log.is_file():
            raise ValueError(f"{path} holds no artifact.pgz, train.log or *_val_*.bin; name a file")
        findings = audit_log(log) if log.is_file() else []
    elif path.suffix in (".log", ".txt"):
        return audit_log(path)
    else:
        artifact = path
        findings = []
    if artifact.is_file():
        findings += audit_artifact(
            artifact, args.data, args.tokenizer, args.device, trust=args.trust
        )
    return findings


def print_total(subject: str) -> None:
    """Print what a scorer gives its probing text: the score to compare between folders."""
    make, _ = load_scorer(subject)
    scorer = make()
    tokens_T = getattr(scorer, "tokens_T", None)
    if tokens_T is None:
        tokens_T = made_up_tokens(scorer.vocab_size, 400)
    log = Log(np.asarray(tokens_T).astype(np.int64))
    scorer.evaluate(log.tokens_T.copy(), log)
    print(f"total nats:{math.fsum(log.nats_T)} targets:{log.num_targets}")


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.legality.audit", description=about)
    add = parser.add_argument
    add("subjects", nargs="*", metavar="SUBJECT", help="run, artifact, log, data folder, FILE:NAME")
    add("--data", type=Path, metavar="DIR", help="folder with *_val_*.bin, for an artifact")
    add("--tokenizer", type=Path, metavar="FILE", help="of these shards")
    add("--device", default="cpu", help="cpu, where results are exact, or cuda")
    positions_help = f"targets of a scorer to probe (default {FOREIGN_POSITIONS})"
    add("--positions", type=int, default=FOREIGN_POSITIONS, metavar="N", help=positions_help)
    add("--trust", action="store_true", help="run the code of FILE:NAME, or of a published folder")
    add("--json", action="store_true", help="print one JSON object")
    add("--verbose", action="store_true", help="also show what holds")
    add("--total", metavar="FILE:NAME", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    try:
        if args.total:
            print_total(args.total)
            return 0
        if not args.subjects:
            raise ValueError("name a run, an artifact, a log, a data folder, or FILE.py:NAME")
        findings = [finding for subject in args.subjects for finding in audit(subject, args)]
        if not findings:
            raise ValueError(f"{', '.join(args.subjects)}: nothing in it could be probed")
    except (ValueError, OSError, ImportError) as error:
        print("tools.legality.audit:", printable(str(error)), file=sys.stderr)
        return UNREADABLE
    print(report(findings, args.json, args.verbose))
    return status(findings)


if __name__ == "__main__":
    sys.exit(main())
