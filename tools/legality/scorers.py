"""What a scorer may be: the kinds of evaluator that the audit can run, and what they report to.

A scorer is an object with evaluate(tokens_T, log). It runs one whole evaluation and reports each
target's nats to a Log as soon as they are final:

    log = Log(tokens_T)                # 400 tokens, so 399 targets
    Stream(next_logp).evaluate(tokens_T, log)
    log.events[:2]                     # [("score", 0, 1), ("score", 1, 2)]
    log.nats_T.sum()                   # the score, in nats

Stream wraps a function of the tokens so far, Windows a model that maps tokens to logits;
load_scorer finds any of them in a file.
"""

import copy
import importlib.util
import inspect
import itertools
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
from engine.ranks import Ranks
from engine.repeats import BUCKETS


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
        repeat_weights: tuple[float, ...] = (),
        device: str = "cpu",
    ):
        self.model = model
        self.isolated = isolate
        self.adapt = adapt
        self.device = device
        self.scheme = evaluate.Scheme(
            seq_len, stride, isolate, chunk_tokens or 0, repeat_weights=repeat_weights
        )
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
        repeats = RepeatRows(tokens_T, self.scheme.repeat_weights)

        def logits_fn(input_BT):
            logits_BTV = model(input_BT)
            logp_BTV = F.log_softmax(logits_BTV.float(), dim=-1).cpu().numpy()
            for logp_TV, (start, first, end) in zip(logp_BTV, next(batches), strict=False):
                logp_SV = repeats.mix(logp_TV[first - start : end - start].copy(), first)
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
        require_total(log, score)


class OnePass:
    """The scorer of a model that takes a memory: evaluate.score_documents, and what it does.

    adapter(model) returns an evaluate.DocumentAdapter; it learns on a copy of the model.
    """

    isolated = True

    def __init__(
        self,
        model: torch.nn.Module,
        seq_len: int,
        *,
        vocab_size: int,
        adapter: Callable | None = None,
        repeat_weights: tuple[float, ...] = (),
        device: str = "cpu",
    ):
        self.model = model
        self.vocab_size = vocab_size
        self.adapter = adapter
        self.device = device
        self.scheme = evaluate.Scheme(seq_len, 0, isolate=True, repeat_weights=repeat_weights)

    def evaluate(self, tokens_T: np.ndarray, log: Log) -> None:
        """Score, and report chunk by chunk.

        Raises: ValueError where the reported nats do not add up to the score.
        """
        model = copy.deepcopy(self.model)
        adapter = self.adapter(model) if self.adapter else None
        no_V = np.zeros(self.vocab_size, bool)
        table = evaluate.ByteTable(np.ones(self.vocab_size, np.int64), no_V, no_V)
        batches = self.batches(tokens_T, table, adapter)
        repeats = RepeatRows(tokens_T, self.scheme.repeat_weights)
        last = []

        class Reporting:
            takes_memory = True

            def logits_at(self, tokens_BT, place_S, memory):
                logits_SV = model.logits_at(tokens_BT, place_S, memory)
                logp_SV = F.log_softmax(logits_SV.detach().float(), dim=-1).cpu().numpy()
                last[:] = [next(batches)]
                done = 0
                for _, first, end in last[0]:
                    logp = repeats.mix(logp_SV[done : done + end - first], first)
                    done += end - first
                    nats_S = -logp[range(end - first), tokens_T[first + 1 : end + 1]]
                    log.score(first, end, nats_S, logp)
                return logits_SV

        class Learning:
            rows = adapter.rows if adapter else 0

            def __getattr__(self, name):
                return getattr(adapter, name)

            def learn(self, loss_B):
                for _, first, end in last[0][: len(loss_B)]:
                    log.train(first, end)
                adapter.learn(loss_B)

        ranks = Ranks(device=torch.device(self.device))
        learning = Learning() if adapter else None
        score = evaluate.score_documents(Reporting(), learning, tokens_T, table, self.scheme, ranks)
        require_total(log, score)

    def batches(self, tokens_T, table, adapter) -> Iterator[np.ndarray]:
        """The windows in the order in which evaluate.score_documents hands them to the model."""
        chunk_tokens = evaluate.chunking(self.scheme, adapter)
        for group_D2 in evaluate.plan_groups(tokens_T, self.scheme, table, adapter):
            for batch in evaluate.read_on(group_D2, chunk_tokens):
                yield batch.windows_B3


class RepeatRows:
    """Whole distributions of a document's repeats, counted target by target (engine/repeats.py).

    Slow and plain, where the engine sorts: what it reports must add up to the engine's score.
    """

    def __init__(self, tokens_T: np.ndarray, weights: tuple[float, ...]):
        self.weights = weights
        self.rows: list[tuple[float, dict[int, int]]] = []  # weight and followers, by target
        followers: dict[tuple, Counter] = {}
        inputs: list[int] = []
        for token, target in itertools.pairwise(np.asarray(tokens_T).tolist()):
            if token == evaluate.BOS_ID:
                followers.clear()
                inputs.clear()
            inputs.append(token)
            row = (0.0, {})
            for length in (1, 2)[: len(inputs)]:
                counts = followers.setdefault(tuple(inputs[-length:]), Counter())
                if counts and weights:
                    bucket = min(BUCKETS, counts.total().bit_length()) - 1
                    row = (weights[BUCKETS * (length - 1) + bucket], dict(counts))
                counts[target] += 1
            self.rows.append(row)

    def mix(self, logp_SV: np.ndarray, first: int) -> np.ndarray:
        """The distributions of targets from `first` on, repeats mixed in."""
        if not self.weights:
            return logp_SV
        p_SV = np.exp(logp_SV.astype(np.float64))
        for p_V, (weight, counts) in zip(p_SV, self.rows[first:], strict=False):
            p_V *= 1 - weight
            for token, count in counts.items():
                p_V[token] += weight * count / sum(counts.values())
        return np.log(p_SV)


def require_total(log: Log, score: evaluate.Score) -> None:
    """Raises: ValueError where the reported nats do not add up to the score."""
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
