"""The probes of a scorer: change what must not matter, and look whether the score moves.

    findings = audit_scorer(lambda: Windows(model, 1024, 64))    # every probe that fits

Each probe runs whole fresh evaluations, of the text and of altered copies of it. The flip test, for
one, puts other tokens behind target t and asks for the scores before it:

    tokens_T   1 5 3 7 4 6        1 5 3 2 8 9      changed from token 3 on
    nats_T       a b c d e          a b ? ? ?      a and b must stay as they were

The parameters of a model are probed too: each one must learn, and each one must matter.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterable

import numpy as np
import torch

import evaluate
from tools.legality.rules import Finding, broken, holds, is_unlawful
from tools.legality.scorers import Log, Scorer, made_up_tokens

EXACT = 1e-6  # nats or probability; in fp32 on a CPU a causal scorer changes by 0
MASS_TOLERANCE = 1e-4
POSITIONS = 16  # targets from which on the tokens are changed
SUBSTITUTED_IDS = 4096  # largest vocabulary whose ids are all put in a target's place
SHARPER = 8.0  # than what a scorer gives: nearly its likeliest token
DRAWING_ROUNDS = 32  # as many as two stretches of 16 tokens that follow each other
CLIMBING_ROUNDS = 96
DEAD_STEPS = 3  # gradient steps; see dead_parameters for why they are enough


def influence(nats_fn, tokens_T: np.ndarray, changed: slice, watched: slice, seed=0) -> float:
    """Return how far, at most, the nats of watched targets move when changed tokens are others.

    nats_fn(tokens_T) is a fresh evaluation: the nats of each target, float64. Document starts stay
    where they are. Of targets before a change a causal scorer gives 0.
    Source: the flip test of upstream PR #1240.
    """
    original_T = np.array(tokens_T)
    ids = np.setdiff1d(original_T, evaluate.BOS_ID)
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} ids besides BOS must be 2 or more; probe with real text")
    part_T = original_T[changed]
    # Another id at each place: so many further in the list of all ids, never all the way round.
    shift_T = np.random.default_rng(seed).integers(1, len(ids), size=len(part_T))
    others_T = ids[(np.searchsorted(ids, part_T) + shift_T) % len(ids)]
    flipped_T = original_T.copy()
    flipped_T[changed] = np.where(part_T == evaluate.BOS_ID, part_T, others_T)
    # A score that is no number in either text counts as moved without bound, not as unmoved.
    moved_S = np.abs(nats_fn(flipped_T)[watched] - nats_fn(original_T)[watched])
    return float(np.nan_to_num(moved_S, nan=math.inf).max(initial=0.0))


def total_mass(logp_PV: np.ndarray) -> np.ndarray:
    """Return the sum of the probabilities at each position, which must be 1."""
    return np.exp(np.asarray(logp_PV, dtype=np.float64)).sum(axis=-1)


def implied_bytes(loss: float, bpb: float, targets: int) -> float:
    """Return the bytes that a loss (nats per target) and its bpb have been divided by."""
    return loss / math.log(2) / bpb * targets


def text_of_scorer(make: Callable[[], Scorer], seed: int = 0) -> np.ndarray | None:
    """A text that the scorer itself finds likely; None where it has one, or gives no distributions.

    On uniform noise every choice by fit chooses alike: of three temperatures always the highest. So
    of each 48 tokens 16 stay noise, 16 are drawn from the scorer's distributions, and 16 from these
    distributions made sharper: a text drawn from the hottest is again fitted best by the hottest.

    A token is drawn after those before it, yet one evaluation gives the distributions of all. So
    all are drawn anew until none changes, each time with the same random numbers: after k rounds
    the first k of every stretch are what drawing them one by one would have given.
    """
    scorer = make()
    vocab_size = getattr(scorer, "vocab_size", None)
    if vocab_size is None or getattr(scorer, "tokens_T", None) is not None:
        return None
    rng = np.random.default_rng(seed)
    tokens_T = made_up_tokens(vocab_size, 400)
    stretch_T = np.arange(1, len(tokens_T)) // 16 % 3  # 0: noise, 1: drawn, 2: drawn sharply
    sharpness_T = np.where(stretch_T == 2, SHARPER, 1.0)
    is_drawn_T = (stretch_T > 0) & (tokens_T[1:] != evaluate.BOS_ID)
    noise_TV = rng.gumbel(size=(len(tokens_T) - 1, vocab_size))
    for _ in range(DRAWING_ROUNDS):
        log = Log(tokens_T.copy())
        make().evaluate(tokens_T.copy(), log)
        if log.logp_TV is None:
            return climbed_text(make, log, vocab_size, rng)
        if log.logp_TV.shape != noise_TV.shape:
            return None
        logp_TV = np.nan_to_num(log.logp_TV, nan=-1e9)
        # The argmax of log-probabilities and Gumbel noise is a sample.
        drawn_T = np.argmax(sharpness_T[:, None] * logp_TV + noise_TV, axis=1)
        drawn_T = np.where(is_drawn_T, drawn_T, tokens_T[1:])
        if np.array_equal(drawn_T, tokens_T[1:]):
            break
        tokens_T[1:] = drawn_T
    return tokens_T


def climbed_text(
    make: Callable[[], Scorer], log: Log, vocab_size: int, rng: np.random.Generator
) -> np.ndarray:
    """As text_of_scorer, of a scorer that reports no distributions: by exchanging tokens.

    Every third token is exchanged at once, by turns for a random one and for the one that was
    likeliest after the token before it, in any round. It stays where it and the next are likelier
    than before. Of each 48 tokens the first 8 stay noise, and the next 16 hear of no likeliest one:
    so some windows are fitted best by a sharp distribution, and others by a flat one.
    """
    tokens_T = log.tokens_T.copy()
    nats_T = log.nats_T.copy()
    least_V = np.full(vocab_size, np.inf)  # nats of the likeliest token seen after each id
    likeliest_V = np.zeros(vocab_size, tokens_T.dtype)
    place_T = np.arange(len(nats_T))
    for number in range(CLIMBING_ROUNDS):
        is_moved_T = (place_T % 48 >= 8) & (place_T % 3 == number % 3)
        at_S = np.flatnonzero(is_moved_T & (tokens_T[1:] != evaluate.BOS_ID))
        others_S = rng.integers(evaluate.BOS_ID + 1, vocab_size, len(at_S))
        is_told_S = (number % 2 == 1) & (at_S % 48 >= 24) & np.isfinite(least_V[tokens_T[at_S]])
        tried_T = tokens_T.copy()
        tried_T[1 + at_S] = np.where(is_told_S, likeliest_V[tokens_T[at_S]], others_S)
        tried = Log(tried_T.copy())
        make().evaluate(tried_T.copy(), tried)
        for before, after, nats in zip(tried_T[:-1], tried_T[1:], tried.nats_T, strict=True):
            if nats < least_V[before] and after != evaluate.BOS_ID:
                least_V[before] = nats
                likeliest_V[before] = after
        gain_T = np.append(nats_T - tried.nats_T, 0.0)
        kept_S = at_S[gain_T[at_S] + gain_T[at_S + 1] > 0]
        tokens_T[1 + kept_S] = tried_T[1 + kept_S]
        for shift in (0, 1):
            moved_S = kept_S[kept_S + shift < len(nats_T)] + shift
            nats_T[moved_S] = tried.nats_T[moved_S]
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
        # One is enough: probe_causal asks for nats and probabilities of the same text in a row.
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
    # The evidence counts what the plain text showed; the shorter streams only had to be in order.
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
            influence(probe.nats, probe.tokens_T, changed, slice(t), seed=t),
            influence(probe.probabilities, probe.tokens_T, changed, slice(t + 1), seed=t),
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
    moved = [influence(probe.nats, tokens_T, slice(a + 1, b), slice(b, None), 1) for a, b in pairs]
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
    mass_T = total_mass(log.logp_TV)
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
        masses[t] = float(total_mass(-np.array(nats)))
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
        # Two runs of one text differ by `noise` on a GPU; a leak has to stand out from that.
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


def audit_on_both_texts(
    make: Callable[[], Scorer], place: str = "scorer", count: int = POSITIONS
) -> list[Finding]:
    """Findings on the scorer's default text and, where that breaks no rule, on one of its own."""
    findings = audit_scorer(make, place=place, count=count)
    if is_unlawful(findings):
        return findings
    text_T = text_of_scorer(make)
    if text_T is not None:
        findings += audit_scorer(make, text_T, f"{place} [text of its own]", count)
    return findings


# Features and parameters --------------------------------------------------------------------------


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
        kept = p.clone()  # the model is the caller's: each parameter is put back
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
