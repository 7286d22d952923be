"""The cheater kit: small evaluators, folders, logs and scripts that break one rule each, beside
honest ones that come close and break none. It is what shows that the probes of
tools.legality.audit work, and it reads as a list of what each rule forbids.

    python3 golf.py tools.legality.cheaters [--json]

Exit status 0: every cheater was caught under its rule's name and no other, and nothing was said of
an honest one. All evaluators share one model, Plain: a bigram table and the token before. What a
cheater does beyond it is the line that cheats. "Seen" names the upstream pull request or issue.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import evaluate
from engine.shards import write_shard
from tools.legality.alone import audit_alone
from tools.legality.audit import audit_data, audit_log
from tools.legality.phases import PhaseClock
from tools.legality.probes import (
    DEAD_STEPS,
    audit_features,
    audit_on_both_texts,
    audit_parameters,
)
from tools.legality.rules import Finding
from tools.legality.scorers import Log, Stream, Windows, logits_of, maker

# A vocabulary small enough to read: pieces as in SentencePiece, U+2581 for a leading space.
PIECES = ["<unk>", "<s>", "▁", "▁the", "▁cat", "▁sat", "s", "▁on", "<0xC3>", "<0xA9>", "\ue001"]
BOS, SPACE, C3, A9, CAPITAL = 1, 2, 8, 9, 10  # C3 A9 is "é"; CAPITAL: the next piece is a capital
V = len(PIECES)


def make_text(num_documents: int = 12, capitals: bool = False, seed: int = 0) -> np.ndarray:
    """Documents of 4 to 22 words from PIECES, each after its BOS; an "é" is always two bytes."""
    rng = np.random.default_rng(seed)
    ids = []
    words = [[3], [4], [4, 6], [5], [7], [SPACE, C3, A9], [C3, A9]]
    words += [[CAPITAL, 4]] if capitals else []
    for _ in range(num_documents):
        chosen = rng.integers(len(words), size=rng.integers(4, 23))
        ids += [BOS, *(i for word in chosen for i in words[word])]
    return np.array(ids)


TEXT = make_text()
LEARNED = make_text(40, capitals=True, seed=1)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    logits = logits - logits.max(axis=-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


def picked(rows_SV: np.ndarray, target_S: np.ndarray) -> np.ndarray:
    """The nats of the targets."""
    return -rows_SV[np.arange(len(target_S)), target_S]


@dataclass(frozen=True)
class Case:
    """One member of the kit, and what the audit should say of it."""

    name: str
    rule: str  # "" for an honest one
    seen: str
    sentence: str  # what it does
    findings: Callable[[], list[Finding]]

    def verdict(self) -> tuple[set[str], bool]:
        """The rules that were found broken or in doubt, and whether that is right."""
        rules = {f.rule for f in self.findings() if f.level != "ok"}
        return rules, rules == ({self.rule} if self.rule else set())


CASES: list[Case] = []


def case(rule: str, seen: str = "", through: Callable | None = None):
    """Enter what follows into the kit; `through` is the audit that fits it, of a scorer if none."""

    def enter(member):
        def findings():
            return (through or audit_evaluator)(member)

        sentence = " ".join((member.__doc__ or "").split())
        CASES.append(Case(member.__name__, rule, seen, sentence, findings))
        return member

    return enter


def cheats(rule: str, seen: str, through: Callable | None = None):
    return case(rule, seen, through)


def honest(member=None, through: Callable | None = None):
    return case("", "", through)(member) if member else case("", "", through)


def audit_evaluator(make) -> list[Finding]:
    return audit_on_both_texts(maker(make, make.__name__), place=make.__name__)


def side_by_side(tokens_T: np.ndarray, chunk: int = 8) -> list[list[tuple[int, int]]]:
    """Chunk k of every document that has one: lists of first target and end."""
    spans = evaluate.document_spans(tokens_T)
    rounds = []
    for k in range(0, len(tokens_T), chunk):
        rounds.append([(a + k, min(a + k + chunk, b)) for a, b in spans if a + k < b])
    return [parts for parts in rounds if parts]


# Evaluators: the order of scoring and learning ----------------------------------------------------


@honest
class Plain:
    """Blocks of 16 inputs, a fixed model."""

    vocab_size = V
    tokens_T = TEXT
    isolated = False
    seq_len, chunk_tokens = 16, 48

    def __init__(self):
        counts_VV = np.zeros((V, V))
        np.add.at(counts_VV, (LEARNED[:-1], LEARNED[1:]), 1)
        self.table_VV = np.log(counts_VV + 0.1)  # logits by the input token
        self.before_VV = np.random.default_rng(0).normal(size=(V, V))  # and by the one before it

    def logits(self, input_T):
        before_T = np.append(BOS, input_T[:-1])
        smeared = (input_T != BOS) & (np.arange(len(input_T)) > 0)  # nothing crosses a BOS
        return self.table_VV[input_T] + smeared[:, None] * self.before_VV[before_T]

    def rows(self, input_T):
        return log_softmax(self.logits(input_T))

    def learn(self, tokens_T, rate=0.3):
        """One step of gradient descent on the table."""
        error_SV = np.exp(self.rows(tokens_T[:-1]))
        error_SV[np.arange(len(error_SV)), tokens_T[1:]] -= 1
        np.subtract.at(self.table_VV, tokens_T[:-1], rate * error_SV)

    def windows(self, num_targets):
        """start of the inputs, first and end of the scored targets."""
        for first in range(0, num_targets, self.seq_len):
            yield first, first, min(first + self.seq_len, num_targets)

    def score(self, tokens_T, start, first, end, log):
        rows_SV = self.rows(tokens_T[start:end])[first - start :]
        log.score(first, end, picked(rows_SV, tokens_T[first + 1 : end + 1]), rows_SV)

    def after(self, tokens_T, first, end, log):
        """What happens once a window is scored."""

    def evaluate(self, tokens_T, log):
        for start, first, end in self.windows(len(tokens_T) - 1):
            self.score(tokens_T, start, first, end, log)
            self.after(tokens_T, first, end, log)


@honest
class Sliding(Plain):
    """Windows of 16 inputs that move by 4 and score what is new."""

    def windows(self, num_targets):
        yield 0, 0, min(16, num_targets)
        for first in range(16, num_targets, 4):
            yield first - 12, first, min(first + 4, num_targets)


@honest
class LongContext(Plain):
    """Windows of 96 inputs."""

    seq_len = 96


@honest
class ChunkedTTT(Plain):
    """Test-time training: gradient steps on a chunk once it is scored."""

    def after(self, tokens_T, first, end, log):
        log.train(first, end)
        for _ in range(3):
            self.learn(tokens_T[first : end + 1])


@cheats("score-first", "#1376")
class PreQuantTTT(Plain):
    """Trains on all validation tokens, then scores them."""

    def evaluate(self, tokens_T, log):
        log.train(0, len(tokens_T) - 1)
        self.learn(tokens_T)
        super().evaluate(tokens_T, log)


@cheats("score-first", "#568")
class LastEpochTTT(Plain):
    """Several epochs over each window, scored in the last one."""

    def score(self, tokens_T, start, first, end, log):
        for _ in range(2):
            log.train(first, end)
            self.learn(tokens_T[first : end + 1])
        super().score(tokens_T, start, first, end, log)


@cheats("score-first", "#1530")
class WarmUpTTT(ChunkedTTT):
    """Warms up the compiled training step on real validation tokens."""

    def evaluate(self, tokens_T, log):
        log.train(0, 8)
        self.learn(tokens_T[:9])
        super().evaluate(tokens_T, log)


@cheats("score-first", "C3")
class OffByOneTTT(Plain):
    """Learns from a window and the first target of the next one."""

    def after(self, tokens_T, first, end, log):
        end = min(end + 1, len(tokens_T) - 1)
        log.train(first, end)
        self.learn(tokens_T[first : end + 1])


@honest
class DocumentLoRA(Plain):
    """An adapter per document, documents side by side: chunk k of each is scored, then learned."""

    def evaluate(self, tokens_T, log):
        starts = [*np.flatnonzero(tokens_T == BOS), len(tokens_T) - 1]
        spans = [(a, b) for a, b in zip(starts, starts[1:], strict=False) if a < b]
        models = [Plain() for _ in spans]
        for k in range(0, len(tokens_T), 8):
            parts = [(m, a + k, min(a + k + 8, b)) for m, (a, b) in zip(models, spans, strict=True)]
            parts = [part for part in parts if part[1] < part[2]]
            for model, first, end in parts:
                model.score(tokens_T, first, first, end, log)
            for model, first, end in parts:
                log.train(first, end)
                model.learn(tokens_T[first : end + 1])


@honest
class IsolatedLoRA(DocumentLoRA):
    """Claims isolation: what a document's adapter learns stays in that document."""

    isolated = True


@cheats("causal", "C1")
class SharedAdapter(Plain):
    """Documents side by side with one adapter: a later document teaches an earlier one."""

    def evaluate(self, tokens_T, log):
        for parts in side_by_side(tokens_T):
            for first, end in parts:
                self.score(tokens_T, first, first, end, log)
            for first, end in parts:
                log.train(first, end)
                self.learn(tokens_T[first : end + 1])


@cheats("isolation", "#1530")
class StaleAdapter(Plain):
    """Claims isolation, and forgets to reset the adapter where a row takes its next document."""

    isolated = True

    def evaluate(self, tokens_T, log):
        for begin, stop in evaluate.document_spans(tokens_T):
            for first in range(begin, stop, 8):
                end = min(first + 8, stop)
                self.score(tokens_T, first, first, end, log)
                log.train(first, end)
                self.learn(tokens_T[first : end + 1], rate=0.1)


@cheats("score-first", "C3")
class EagerAdapter(Plain):
    """The chunk is learned from first and scored in the same pass afterwards."""

    def evaluate(self, tokens_T, log):
        for parts in side_by_side(tokens_T):
            for first, end in parts:
                log.train(first, end)
                self.learn(tokens_T[first : end + 1])
                self.score(tokens_T, first, first, end, log)


@honest
class KeptPrefix(Plain):
    """Claims isolation: documents in chunks, the last token of each kept for its next chunk."""

    isolated = True

    def evaluate(self, tokens_T, log):
        for parts in side_by_side(tokens_T):
            for first, end in parts:
                start = first if tokens_T[first] == BOS else first - 1
                self.score(tokens_T, start, first, end, log)


@cheats("isolation", "C1")
class OtherPrefix(Plain):
    """Claims isolation, and goes on with what it kept of the document in the row above."""

    isolated = True

    def evaluate(self, tokens_T, log):
        for parts in side_by_side(tokens_T):
            for row, (first, end) in enumerate(parts):
                kept = parts[max(0, row - 1)][0] - 1 if tokens_T[first] != BOS else first
                input_T = np.append(tokens_T[max(0, kept)], tokens_T[first:end])
                rows_SV = self.rows(input_T)[1:]
                log.score(first, end, picked(rows_SV, tokens_T[first + 1 : end + 1]), rows_SV)


@cheats("one-pass", "#991")
class DoublePass(ChunkedTTT):
    """Score and train, then score everything again with what was learned."""

    def evaluate(self, tokens_T, log):
        super().evaluate(tokens_T, log)
        super().evaluate(tokens_T, log)


@cheats("one-pass", "C4")
class BestOfTwoPasses(Plain):
    """Two passes at two temperatures; the better one stays."""

    def evaluate(self, tokens_T, log):
        super().evaluate(tokens_T, log)
        first = log.nats_T.copy()
        self.table_VV *= 2
        super().evaluate(tokens_T, log)
        if first.sum() < log.nats_T.sum():
            log.score(0, log.num_targets, first)


@cheats("one-pass", "#1218")
class ScoredTwice(Sliding):
    """Windows that overlap by more than their context: some targets count twice."""

    def windows(self, num_targets):
        for start, first, end in super().windows(num_targets):
            yield start, max(start, first - 2), end


@cheats("one-pass", "#124")
class DroppedTail(Plain):
    """Only whole windows are scored; the last short one is not."""

    def windows(self, num_targets):
        yield from super().windows(num_targets - num_targets % self.seq_len)


@cheats("one-pass", "C4")
class DroppedHead(Sliding):
    """Every window scores its last four targets, so the first twelve never are."""

    def windows(self, num_targets):
        for start, first, end in super().windows(num_targets):
            yield start, first + 12 * (first == 0), end


@honest
class ManyRanks(Plain):
    """Three ranks take the windows in turn and report one after the other."""

    def windows(self, num_targets):
        windows = list(super().windows(num_targets))
        for rank in range(3):
            yield from windows[rank::3]


@cheats("one-pass", "C4")
class RankRemainder(Plain):
    """Ranks get equal shares of the windows; what does not divide is lost."""

    def windows(self, num_targets):
        windows = list(super().windows(num_targets))
        for rank in range(4):
            share = len(windows) // 4
            yield from windows[rank * share : (rank + 1) * share]


# Evaluators: what a distribution depends on -------------------------------------------------------


@cheats("causal", "C1")
class PeekingAttention(Plain):
    """Attention without its mask: the token after the input is seen."""

    def logits(self, input_T):
        return super().logits(input_T) + self.before_VV[np.append(input_T[1:], BOS)]


@cheats("causal", "C1")
class WindowStatistics(Plain):
    """Normalises by the mean over the whole window, later inputs included."""

    def logits(self, input_T):
        return super().logits(input_T) - super().logits(input_T).mean(axis=0)


@cheats("causal", "C1")
class ValidationUnigram(Plain):
    """A prior of the frequencies in the whole validation text."""

    def evaluate(self, tokens_T, log):
        self.table_VV += 0.1 * np.log(1 + np.bincount(tokens_T, minlength=V))
        super().evaluate(tokens_T, log)


@cheats("causal", "#1084")
class Slot(Plain):
    """SLOT: a bias on the logits, optimised on the very window that it then scores."""

    def score(self, tokens_T, start, first, end, log):
        target_S = tokens_T[first + 1 : end + 1]
        bias_V = np.zeros(V)
        rows_SV = self.rows(tokens_T[start:end])
        for _ in range(3):
            bias_V += np.bincount(target_S, minlength=V) / len(target_S)
            bias_V -= np.exp(log_softmax(rows_SV + bias_V)).mean(axis=0)
        rows_SV = log_softmax(rows_SV + bias_V)
        log.score(first, end, picked(rows_SV, target_S), rows_SV)


@honest
class OnlineBias(Plain):
    """A bias that learns token by token, each after its score."""

    def evaluate(self, tokens_T, log):
        bias_V = np.zeros(V)
        for i in range(len(tokens_T) - 1):
            row_V = log_softmax(self.logits(tokens_T[max(0, i - 3) : i + 1])[-1] + bias_V)
            log.score(i, i + 1, [-row_V[tokens_T[i + 1]]], row_V[None])
            log.train(i, i + 1)
            bias_V += 0.2 * ((np.arange(V) == tokens_T[i + 1]) - np.exp(row_V))


@cheats("causal", "C1")
class BestTemperature(Plain):
    """Tries three temperatures on every window and keeps the one that scores best."""

    def score(self, tokens_T, start, first, end, log):
        target_S = tokens_T[first + 1 : end + 1]
        logits_SV = self.logits(tokens_T[start:end])
        tried = [log_softmax(logits_SV / heat) for heat in (0.5, 1.0, 2.0)]
        rows_SV = min(tried, key=lambda rows: picked(rows, target_S).sum())
        log.score(first, end, picked(rows_SV, target_S), rows_SV)


@honest
class FixedTemperature(Plain):
    """One temperature for all windows, probed on the default text."""

    tokens_T = None

    def logits(self, input_T):
        return super().logits(input_T) / 2.0


@cheats("causal", "C1")
class BestTemperatureOfNoise(BestTemperature):
    """As BestTemperature, probed on the default text: on its noise the hottest always fits best."""

    tokens_T = None


@cheats("causal", "C1")
class BestTemperatureUnsaid(BestTemperatureOfNoise):
    """As BestTemperatureOfNoise, and it reports no distributions to draw a text from."""

    def score(self, tokens_T, start, first, end, log):
        super().score(tokens_T, start, first, end, nats_alone(log))


@honest
class FixedTemperatureUnsaid(FixedTemperature):
    """As FixedTemperature, without distributions."""

    def score(self, tokens_T, start, first, end, log):
        super().score(tokens_T, start, first, end, nats_alone(log))


def nats_alone(log) -> SimpleNamespace:
    """The log, without the distributions that are reported to it."""
    return SimpleNamespace(score=lambda first, end, nats, _: log.score(first, end, nats))


@cheats("causal", "#1420")
class GatedHint(Plain):
    """An n-gram hint that is used only where the target begins a word."""

    def score(self, tokens_T, start, first, end, log):
        target_S = tokens_T[first + 1 : end + 1]
        rows_SV = self.rows(tokens_T[start:end])
        begins_word_V = np.array([piece.startswith("▁") for piece in PIECES])
        hinted_SV = log_softmax(rows_SV + 2.0 * begins_word_V)
        rows_SV = np.where(begins_word_V[target_S][:, None], hinted_SV, rows_SV)
        log.score(first, end, picked(rows_SV, target_S), rows_SV)


@honest
class HintTilt(Plain):
    """An n-gram hint added to the logits after a word, whatever the target; normalised again."""

    def logits(self, input_T):
        begins_word_V = np.array([piece.startswith("▁") for piece in PIECES])
        return super().logits(input_T) + 2.0 * begins_word_V * (input_T == 6)[:, None]


@honest
class StrictTilt(Plain):
    """What followed last time is made likelier, whatever the target; normalised again."""

    def boost(self, hint, target):
        return 2.0

    def evaluate(self, tokens_T, log):
        rows_TV = self.rows(tokens_T[:-1])
        last = {}
        for i, target in enumerate(tokens_T[1:]):
            pair = tuple(tokens_T[max(0, i - 1) : i + 1])
            if pair in last:
                rows_TV[i, last[pair]] += self.boost(last[pair], target)
            last[pair] = target
        rows_TV = log_softmax(rows_TV)
        log.score(0, log.num_targets, picked(rows_TV, tokens_T[1:]), rows_TV)


@cheats("causal", "#1420")
class TiltByTarget(StrictTilt):
    """The same tilt, only where the hint is the target: a wrong hint never costs."""

    def boost(self, hint, target):
        return 2.0 * (hint == target)


@honest
class StrideByPlace(Plain):
    """The stride is a matter of the place: short windows for the first targets, then long ones."""

    def windows(self, num_targets):
        first = 0
        while first < num_targets:
            end = min(first + (4 if first < 64 else 16), num_targets)
            yield max(0, end - 16), first, end
            first = end


@cheats("causal", "C1")
class StrideByResult(Plain):
    """Scores each sixteen targets with two strides, and reports what came out better."""

    def evaluate(self, tokens_T, log):
        for _, first, end in self.windows(log.num_targets):
            trials = []
            for stride in (4, 16):
                trials.append(Log(tokens_T))
                for start in range(first, end, stride):
                    self.score(tokens_T, start, start, min(start + stride, end), trials[-1])
            best = min(trials, key=lambda trial: trial.nats_T[first:end].sum())
            log.score(first, end, best.nats_T[first:end], best.logp_TV[first:end])


@honest
class DocumentCache(Plain):
    """Claims isolation: pairs of tokens counted in the document so far, mixed by weights."""

    isolated = True

    def counts(self, tokens_T, begin, at, stop):
        """Pairs that may be counted for target `at` of the document begin..stop."""
        return tokens_T[begin:at], tokens_T[begin + 1 : at + 1]

    def evaluate(self, tokens_T, log):
        rows_TV = self.rows(tokens_T[:-1])
        for begin, stop in evaluate.document_spans(tokens_T):
            for i in range(begin, stop):
                counts_VV = np.full((V, V), 0.1)
                np.add.at(counts_VV, self.counts(tokens_T, begin, i, stop), 1)
                share_V = counts_VV[tokens_T[i]] / counts_VV[tokens_T[i]].sum()
                row_V = np.log(0.7 * np.exp(rows_TV[i]) + 0.3 * share_V)
                log.score(i, i + 1, [-row_V[tokens_T[i + 1]]], row_V[None])


@cheats("causal", "C1")
class WholeDocumentCache(DocumentCache):
    """The same cache, with the pairs of the document's rest counted as well."""

    isolated = False

    def counts(self, tokens_T, begin, at, stop):
        return tokens_T[begin:stop], tokens_T[begin + 1 : stop + 1]


@cheats("causal", "C1")
class LaterCache(DocumentCache):
    """The same cache, with the pairs of the documents that come later."""

    isolated = False

    def counts(self, tokens_T, begin, at, stop):
        return tokens_T[stop:-1], tokens_T[stop + 1 :]


@cheats("isolation", "C1")
class EarlierCache(DocumentCache):
    """Claims isolation, and never empties the cache: earlier documents are counted too."""

    def counts(self, tokens_T, begin, at, stop):
        return tokens_T[:at], tokens_T[1 : at + 1]


@cheats("artifact-only", "C1")
class DropoutLeftOn(Plain):
    """Scores in training mode: every evaluation gives another number."""

    def logits(self, input_T):
        return super().logits(input_T) + 0.1 * np.random.default_rng().normal(size=V)


# Evaluators: one distribution ---------------------------------------------------------------------


@cheats("normalised", "#779")
class HashedCache(Plain):
    """An n-gram cache with the target in its key; the realised token alone is looked up."""

    def evaluate(self, tokens_T, log):
        counts = np.ones(32)
        rows_TV = self.rows(tokens_T[:-1])
        for i, (token, target) in enumerate(zip(tokens_T[:-1], tokens_T[1:], strict=True)):
            bucket = int(36313 * token + 27191 * target) % 32
            cached = counts[bucket] / (counts[bucket] + 4)
            log.score(i, i + 1, [-np.log(0.5 * np.exp(rows_TV[i, target]) + 0.5 * cached)])
            counts[bucket] += 1


@honest
class NgramCache(Plain):
    """An n-gram cache over all ids, filled after the score, mixed with weights that sum to one."""

    def evaluate(self, tokens_T, log):
        counts_VV = np.ones((V, V))
        rows_TV = self.rows(tokens_T[:-1])
        for i, (token, target) in enumerate(zip(tokens_T[:-1], tokens_T[1:], strict=True)):
            cached_V = counts_VV[token] / counts_VV[token].sum()
            row_V = np.log(0.5 * np.exp(rows_TV[i]) + 0.5 * cached_V)
            log.score(i, i + 1, [-row_V[target]], row_V[None])
            counts_VV[token, target] += 1


@honest
class NgramCacheScores(NgramCache):
    """The same cache, reporting scores alone: every id is put in the target's place."""

    def evaluate(self, tokens_T, log):
        full = Log(tokens_T)
        super().evaluate(tokens_T, full)
        log.score(0, log.num_targets, full.nats_T)


@cheats("normalised", "#1835")
class ByteSpread(Plain):
    """Mixes with a byte model whose p(byte) is taken as p(token)^(1/length)."""

    def rows(self, input_T):
        length_V = np.array([max(1, len(piece.encode())) for piece in PIECES])
        spread_SV = log_softmax(super().logits(input_T) / 2) / length_V
        return np.logaddexp(super().rows(input_T), spread_SV) - np.log(2)


@cheats("normalised", "C2")
class BetterOfTwoModels(Plain):
    """Scores each target by whichever of two models gave it more."""

    def score(self, tokens_T, start, first, end, log):
        input_T = tokens_T[start:end]
        target_S = tokens_T[first + 1 : end + 1]
        other_SV = log_softmax(self.table_VV.T[input_T])
        one_S = picked(self.rows(input_T), target_S)
        other_S = picked(other_SV, target_S)
        log.score(first, end, np.minimum(one_S, other_S))


@honest
class Mixture(Plain):
    """Two models weighted by how well each did so far."""

    def evaluate(self, tokens_T, log):
        nats = np.zeros(2)
        for i, (token, target) in enumerate(zip(tokens_T[:-1], tokens_T[1:], strict=True)):
            rows = log_softmax(np.stack([self.table_VV[token], self.table_VV.T[token]]))
            row_V = np.logaddexp(*(rows + log_softmax(-nats)[:, None]))
            log.score(i, i + 1, [-row_V[target]], row_V[None])
            nats -= rows[:, target]


@cheats("normalised", "C2")
class FlatteredScore(Plain):
    """Reports honest distributions, and scores that are a little better."""

    def score(self, tokens_T, start, first, end, log):
        rows_SV = self.rows(tokens_T[start:end])
        log.score(first, end, 0.99 * picked(rows_SV, tokens_T[first + 1 : end + 1]), rows_SV)


# Evaluators: documents ----------------------------------------------------------------------------


@honest
class MaskedSmear(Plain):
    """Claims isolation: the token before is used, never across a document start."""

    isolated = True


@cheats("isolation", "#1797")
class UnmaskedSmear(Plain):
    """Claims isolation, and mixes the last token of a document into the BOS of the next."""

    isolated = True

    def logits(self, input_T):
        before_T = np.append(BOS, input_T[:-1])
        return self.table_VV[input_T] + self.before_VV[before_T]


@cheats("isolation", "-")
class KeptAdapter(ChunkedTTT):
    """Claims isolation, and carries what it learned into the next document."""

    isolated = True


@honest
class IsolatedDocuments(UnmaskedSmear):
    """Claims isolation: a window ends where its document does."""

    def evaluate(self, tokens_T, log):
        for window in evaluate.plan_windows(tokens_T, evaluate.Scheme(16, 16, isolate=True)):
            self.score(tokens_T, *window, log)


# Evaluators: bytes --------------------------------------------------------------------------------


@honest
class ByteCount(Plain):
    """Counts a piece as its UTF-8, a leading space as one byte, a byte piece as one."""

    def decode(self, ids):
        text, upper = b"", False
        for piece in (PIECES[i] for i in ids):
            plain = piece.replace("▁", " ")
            is_byte = piece.startswith("<0x")
            is_marker = piece == PIECES[CAPITAL]
            plain = plain.title() if upper and not is_byte else plain
            spelled = b"" if is_marker else plain.encode()
            text = text + (bytes([int(piece[3:5], 16)]) if is_byte else spelled)
            upper = is_marker
        return text.decode()

    def byte_table(self):
        spelled = [piece.removeprefix("▁").encode() for piece in PIECES]
        base_V = np.array([1 if s.startswith(b"<0x") else len(s) for s in spelled])
        base_V[[0, BOS, CAPITAL]] = 0
        return base_V

    def count_bytes(self, tokens_T):
        leading_V = np.array([piece.startswith("▁") for piece in PIECES])
        return self.byte_table()[tokens_T[1:]] + leading_V[tokens_T[1:]]


@cheats("bytes", "#1545")
class SpaceTwice(ByteCount):
    """Counts the leading space in the piece, and once more as the space it stands for."""

    def count_bytes(self, tokens_T):
        leading_V = np.array([piece.startswith("▁") for piece in PIECES])
        return super().count_bytes(tokens_T) + leading_V[tokens_T[1:]]


@cheats("bytes", "#1184")
class ReplacementCharacter(ByteCount):
    """Decodes byte pieces one at a time: each is U+FFFD, three bytes."""

    def byte_table(self):
        base_V = super().byte_table()
        base_V[[C3, A9]] = len("\ufffd".encode())
        return base_V


@cheats("bytes", "#897")
class NoSpacePiece(ByteCount):
    """A vocabulary without the piece U+2581: a lone space is counted as that character, 3 bytes."""

    def byte_table(self):
        base_V = super().byte_table()
        base_V[SPACE] = len("▁".encode()) - 1
        return base_V


@honest
class Capitals(ByteCount):
    """Text with case markers, which stand for no byte of the original."""

    tokens_T = make_text(capitals=True)


@cheats("bytes", "#2071")
class SidecarOff(Capitals):
    """Text with case markers, counted by the table: a marker's own three bytes are added."""

    def byte_table(self):
        base_V = super().byte_table()
        base_V[CAPITAL] = len(PIECES[CAPITAL].encode())
        return base_V


@honest
class ByteLevel:
    """A vocabulary of bytes, as a plain function of the tokens so far."""

    def __new__(cls):
        scorer = Stream(lambda tokens_T: log_softmax(-0.01 * np.abs(np.arange(260) - tokens_T[-1])))
        scorer.tokens_T = np.array([BOS, *(4 + byte for byte in "on été ☃".encode())] * 3)
        scorer.count_bytes = lambda tokens_T: (tokens_T[1:] >= 4).astype(int)
        scorer.decode = lambda ids: bytes(i - 4 for i in ids).decode()
        return scorer

    evaluate = Stream.evaluate


# Models: is it on? --------------------------------------------------------------------------------


class Net(nn.Module):
    """A bigram model in torch, with a table of hashed bigrams; x, y -> loss as upstream."""

    def __init__(self, table_std=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, 8)
        self.table = nn.Embedding(32, 4)
        self.project = nn.Linear(4, 8, bias=False)
        self.head = nn.Linear(8, V)
        nn.init.normal_(self.table.weight, std=table_std)

    def logits(self, x_BT):
        before_BT = F.pad(x_BT[:, :-1], (1, 0))
        bigram = self.project(self.table((31 * x_BT + 7 * before_BT) % 32))
        return self.head(self.embedding(x_BT) + bigram)

    def forward(self, x_BT, y_BT=None):
        logits_BTV = self.logits(x_BT)
        return (
            logits_BTV
            if y_BT is None
            else F.cross_entropy(logits_BTV.flatten(0, 1), y_BT.flatten())
        )


def audit_net(make) -> list[Finding]:
    x_BT = torch.from_numpy(TEXT[None, :65])
    model = make()
    batches = [x_BT] * DEAD_STEPS
    return audit_parameters(
        model, lambda m, x: m(x[:, :-1], x[:, 1:]), batches, x_BT, make.__name__
    )


def audit_claims(make) -> list[Finding]:
    return audit_features(make(), make.__name__)


@honest(through=audit_net)
def LiveBigram():
    """A bigram table that starts at noise: it learns, and so does its projection."""
    return Net(table_std=0.02)


@cheats("dead-feature", "#334", through=audit_net)
def DeadBigram():
    """Table and projection both start at zero: neither ever gets a gradient."""
    model = Net()
    nn.init.zeros_(model.project.weight)
    return model


def fake_quantize(w: torch.Tensor) -> torch.Tensor:
    return (w * 15).round() / 15


@honest(through=audit_claims)
def WorkingQAT():
    """Quantization-aware training: the forward pass uses rounded weights."""
    w = torch.randn(4, 4)
    x = torch.randn(4)
    return {"qat": (fake_quantize(w) @ x, w @ x)}


@cheats("dead-feature", "#315", through=audit_claims)
def DeadQAT():
    """The flag is a constant when the step is compiled: switching it on later changes nothing."""
    w = torch.randn(4, 4)
    x = torch.randn(4)
    switched_on = False

    def compiled(w, x, on=switched_on):
        return (fake_quantize(w) if on else w) @ x

    return {"qat": (compiled(w, x), w @ x)}


@honest(through=audit_claims)
def WorkingEMA():
    """An exponential average of the weights is exported."""
    w = torch.zeros(3)
    average = torch.zeros(3)
    for _ in range(5):
        w = w + 1
        average = 0.9 * average + 0.1 * w
    return {"ema": (average, w)}


@cheats("dead-feature", "-", through=audit_claims)
def DeadEMA():
    """The average is a second name of the weights it should average."""
    w = torch.zeros(3)
    average = w
    for _ in range(5):
        w += 1
        average.lerp_(w, 0.1)
    return {"ema": (average, w)}


@honest
def UpstreamModel():
    """model(x, y) -> loss, as upstream's: scored in sliding windows through its cross-entropy."""
    scorer = Windows(logits_of(Net(table_std=0.5)), 16, 4, vocab_size=V)
    scorer.tokens_T = TEXT[:150]
    return scorer


# Clocks: which data is read when ------------------------------------------------------------------


def audit_clock(run) -> list[Finding]:
    """Run with a clock that advances by a hundred seconds at every look."""
    ticks = iter(range(0, 100_000, 100))
    clock = PhaseClock(cap_seconds=600, clock=lambda: next(ticks))
    run(clock)
    return clock.findings(run.__name__)


@honest(through=audit_clock)
def CalibratedInTime(clock):
    """Calibrates on training data, packs, and then reads validation text to score it."""
    clock.enter("train")
    clock.enter("calibrate")
    clock.read("train")
    clock.enter("pack")
    clock.enter("score")
    clock.read("val")


@cheats("phases", "#1028", through=audit_clock)
def CalibratedLate(clock):
    """GPTQ reads training data when the clock has run out."""
    clock.enter("train")
    for _ in range(7):
        clock.read("train")
    clock.enter("calibrate")
    clock.read("train")


@cheats("phases", "#593", through=audit_clock)
def CalibratedAtEvaluation(clock):
    """GPTQ reads training data at evaluation, on a clock of its own."""
    clock.enter("train")
    clock.enter("pack")
    clock.enter("score")
    clock.read("train")


@cheats("validation", "#728", through=audit_clock)
def CalibratedOnValidation(clock):
    """Hessians for GPTQ are collected on validation text."""
    clock.enter("train")
    clock.enter("calibrate")
    clock.read("val")


@cheats("time", "#1037", through=audit_clock)
def PackedLate(clock):
    """Training stops at the cap, packing and writing come on top."""
    for _ in range(7):
        clock.enter("train")
    clock.enter("pack")
    clock.enter("score")


# Logs: what a score was divided by ----------------------------------------------------------------


def audit_text(log) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "train.log"
        path.write_text(log())
        return audit_log(path)


def final_lines(loss: float, bytes_per_token: float, targets: int, vocab_size: int = 8192) -> str:
    bpb = loss / np.log(2) / bytes_per_token
    return (
        f"vocab_size:{vocab_size}\nval_tokens:{targets}\nstep:100/100 train_time:590000ms\n"
        f"final_int8_zlib_roundtrip_exact val_loss:{loss:.8f} val_bpb:{bpb:.8f}\n"
    )


@honest(through=audit_text)
def WholeLog():
    """40,540,160 tokens of sp8192, 3.72663 bytes each."""
    return final_lines(2.9, 151_078_222 / 40_540_160, 40_540_160)


@cheats("bytes", "#1734", through=audit_text)
def InflatedLog():
    """The usual tokens, and 1.167 times the bytes."""
    return final_lines(2.9, 1.167 * 151_078_222 / 40_540_160, 40_540_160)


@cheats("validation", "#1854", through=audit_text)
def SubsetLog():
    """9,662,464 tokens, called the full split."""
    return final_lines(2.9, 151_078_222 / 40_540_160, 9_662_464)


# Folders: which text is scored and trained on -----------------------------------------------------


def byte_documents(texts: list[str]) -> np.ndarray:
    return np.concatenate([[BOS, *(4 + byte for byte in text.encode())] for text in texts])


def write_data(folder: Path, train: list[str], val: list[str], claimed: list[str]) -> None:
    """Shards of byte-level text, and a manifest that says the validation text is `claimed`."""

    def write(split, texts):
        path = folder / f"kit_{split}_000000.bin"
        tokens_T = byte_documents(texts)
        files = {path: tokens_T, path.with_suffix(".bytes.bin"): tokens_T >= 4}
        for file, values_T in files.items() if split == "val" else [(path, tokens_T)]:
            write_shard(file, values_T.astype(np.uint16))
        entries = [
            {"file": file.name, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
            for file in files
            if file.exists()
        ]
        counts = {"documents": len(texts), "tokens": len(tokens_T)}
        size = sum(len(text.encode()) for text in texts)
        splits[split] = {**counts, "bytes": size, "raw_bytes": size, "changed_documents": 0}
        sidecar = entries[1] if len(entries) > 1 else None
        shards.append({**entries[0], "split": split, "sidecar": sidecar, **counts})

    splits = {}
    shards = []
    for split, texts in (("train", train), ("val", claimed)):
        write(split, texts)
    manifest = {
        "version": 1,
        "source": {"name": "kit", "sha256": None},
        "tokenizer": {"kind": "bytes", "file": None, "sha256": None, "vocab_size": 260},
        "split_rule": {"rule": "first", "val_documents": len(claimed)},
        "splits": splits,
        "shards": shards,
        "sidecar_required": True,
        "bos_id": BOS,
        "document_index": None,
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    write("val", val)


def audit_folder(texts) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder:
        write_data(Path(folder), *texts())
        return audit_data(Path(folder))


TRAIN = [f"training document {i}, été" for i in range(8)]
VAL = [f"validation document {i} ☃" for i in range(4)]


@honest(through=audit_folder)
def WholeSplit():
    """Validation documents as the manifest lists them, none of them in the training text."""
    return TRAIN, VAL, VAL


@cheats("validation", "#1835", through=audit_folder)
def TruncatedSplit():
    """The validation shard ends early."""
    return TRAIN, VAL[:2], VAL


@cheats("validation", "#2109", through=audit_folder)
def OtherSplit():
    """As many validation documents, drawn anew."""
    return TRAIN, [text.replace("document", "paragraph") for text in VAL], VAL


@cheats("validation", "#2127", through=audit_folder)
def OverlappingSplit():
    """Validation documents are also in the training text."""
    return TRAIN + VAL[1:3], VAL, VAL


# Scripts: what the score depends on ---------------------------------------------------------------


def audit_script(write) -> list[Finding]:
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as elsewhere:
        folder = Path(folder)
        cache = Path(elsewhere) / "cache.bin"
        cache.write_bytes(b"1.05")
        (folder / "artifact.ptz").write_bytes(b"weights")
        (folder / "scores.txt").write_text("1.05")
        (folder / "eval.py").write_text(write(cache))
        command = [sys.executable, "eval.py"]
        return audit_alone(command, folder, ["eval.py", "artifact.ptz"], place=write.__name__)


SCORE = "import hashlib\nw = open('artifact.ptz', 'rb').read()\nbpb = 1 + len(w) / 100\n"
PRINT = "print(f'final val_bpb:{bpb:.4f}')\n"


@honest(through=audit_script)
def ArtifactAlone(cache):
    """The score comes from the artifact."""
    return SCORE + PRINT


@cheats("artifact-only", "C1", through=audit_script)
def ScoreBesideArtifact(cache):
    """The score is read from a file that is there in the author's folder."""
    return SCORE + "import os\nif os.path.exists('scores.txt'): bpb = 1.05\n" + PRINT


@cheats("artifact-only", "-", through=audit_script)
def TableElsewhere(cache):
    """A table of n-grams lies outside the folder and is not counted."""
    return SCORE + f"bpb -= float(open({str(cache)!r}).read()) / 10\n" + PRINT


@cheats("network", "README", through=audit_script)
def NetworkLookup(cache):
    """Asks a server, and goes on quietly where there is none."""
    ask = (
        "import socket\ntry: socket.create_connection(('203.0.113.1', 80), 1)\nexcept OSError: 0\n"
    )
    return SCORE + ask + PRINT


# The table ----------------------------------------------------------------------------------------


def show(as_json: bool = False) -> int:
    """Print a row for each member and a last line that counts; returns 0 where all are right."""
    rows = []
    for member in CASES:
        rules, right = member.verdict()
        rows.append(
            dict(name=member.name, what=member.sentence, seen=member.seen, expected=member.rule,
                 found=sorted(rules), right=right)
        )  # fmt: skip
    cheaters = [row for row in rows if row["expected"]]
    right = [sum(row["right"] for row in kind) for kind in (cheaters, rows)]
    totals = f"kit: {right[0]} of {len(cheaters)} cheaters caught under their rule's name,"
    totals += f" {len(rows) - len(cheaters) - right[1] + right[0]} of {len(rows) - len(cheaters)}"
    totals += " honest ones flagged"
    if as_json:
        print(json.dumps({"status": int(right[1] < len(rows)), "cases": rows}))
        return int(right[1] < len(rows))
    print(f"{'name':24} {'seen':10} {'expected':14} {'found':14} verdict  what it does")
    for row in rows:
        rules = ",".join(row["found"]) or "-"
        verdict = "right" if row["right"] else "WRONG"
        expected = row["expected"] or "-"
        print(
            f"{row['name']:24} {row['seen']:10} {expected:14} {rules:14} {verdict:7}  {row['what']}"
        )
    print(totals)
    return int(right[1] < len(rows))


def main(argv: list[str] | None = None) -> int:
    about = "Probe the cheater kit and print its table."
    parser = argparse.ArgumentParser(prog="tools.legality.cheaters", description=about)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return show(parser.parse_args(argv).json)


if __name__ == "__main__":
    sys.exit(main())
