"""Each probe on what must pass and on what must not."""

import numpy as np
import pytest
import torch

import evaluate
from tests.tools.legality.conftest import broken_rules, finding_of
from tools.legality import cheaters, probes, scorers
from tools.legality.cheaters import TEXT, Net, Plain, V, log_softmax
from tools.legality.probes import Probe, audit_scorer, text_of_scorer
from tools.legality.scorers import Log, Windows


def nats_of(look_ahead: int):
    """A whole evaluation of a stream in one pass; a position may also see a later token."""

    def nats_fn(tokens_T: np.ndarray) -> np.ndarray:
        logits_TV = Plain().logits(tokens_T)
        if look_ahead:
            logits_TV = logits_TV + np.roll(logits_TV, -look_ahead, axis=0)
        return cheaters.picked(log_softmax(logits_TV)[:-1], tokens_T[1:])

    return nats_fn


def test_influence_is_nothing_of_the_future_and_something_of_the_past():
    """A causal scorer does not move before a change, and moves after it; one that peeks does."""
    causal = nats_of(0)
    assert probes.influence(causal, TEXT, slice(41, None), slice(0, 40)) == 0.0
    assert probes.influence(causal, TEXT, slice(30, 41), slice(40, None)) > 0.01
    peeking = nats_of(2)
    assert probes.influence(peeking, TEXT, slice(41, None), slice(0, 40)) > 0.01
    no_scores_T = np.full(79, np.nan)
    assert probes.influence(lambda tokens_T: no_scores_T, TEXT, slice(9), slice(9)) == np.inf


def test_influence_changes_every_token_but_document_starts():
    """Each changed token is another id of the stream; documents begin where they began."""
    tokens_T = cheaters.make_text(40)[:300]
    streams = []

    def nats_fn(tokens_T: np.ndarray) -> np.ndarray:
        streams.append(tokens_T)
        return np.zeros(299)

    probes.influence(nats_fn, tokens_T, slice(50, 290), slice(9))
    flipped_T, same_T = streams
    assert (same_T == tokens_T).all()
    is_other_T = flipped_T != tokens_T
    is_changed_T = (np.arange(300) >= 50) & (np.arange(300) < 290)
    assert (is_other_T == (is_changed_T & (tokens_T != cheaters.BOS))).all()
    assert set(flipped_T) <= set(tokens_T)


def test_influence_needs_ids_to_change_to():
    """Of one id there is no other: said with the remedy, before anything is scored."""
    with pytest.raises(ValueError, match="1 ids besides BOS must be 2 or more"):
        probes.influence(None, np.array([cheaters.BOS, 5, 5]), slice(2), slice(1))


def test_mass_and_implied_bytes():
    """A softmax weighs one; a loss and its bpb tell the bytes that were divided by."""
    logp_PV = torch.randn(5, 32).log_softmax(1).numpy()
    assert probes.total_mass(logp_PV) == pytest.approx(np.ones(5), abs=1e-6)
    assert probes.total_mass(logp_PV + np.log(2)) == pytest.approx(np.full(5, 2.0), abs=1e-5)
    score = evaluate.Score(nats=123.0, tokens=40, bytes=90)
    assert probes.implied_bytes(score.loss, score.bpb, 40) == pytest.approx(90)


@pytest.mark.parametrize(
    "events, rule, says",
    [
        ([("score", 0, 4), ("train", 0, 4), ("score", 4, 6)], None, None),
        ([("score", 4, 6), ("score", 0, 4), ("train", 0, 6)], None, None),
        ([("train", 0, 1), ("score", 0, 6)], "score-first", "target 0 is not scored"),
        ([("score", 0, 4), ("train", 0, 5)], "score-first", "target 4 is not scored"),
        ([("score", 0, 4), ("train", 2, 3), ("score", 4, 6)], None, None),
        ([("score", 0, 4), ("score", 3, 6)], "one-pass", "target 3 is scored again"),
        ([("score", 0, 6), ("train", 0, 6), ("score", 0, 6)], "one-pass", "target 0 is scored"),
        ([("score", 0, 5)], "one-pass", "1 of 6 targets are never scored, the first is 5 (tail)"),
        ([("score", 1, 6)], "one-pass", "the first is 0 (head)"),
        ([("score", 0, 2), ("score", 3, 6)], "one-pass", "the first is 2 (middle)"),
        ([], "one-pass", "6 of 6"),
    ],
)
def test_the_order_of_events_is_judged(events, rule, says):
    """Scores before updates, each target once; between updates in any order."""
    log = Log(np.arange(7))
    for kind, first, end in events:
        log.score(first, end, np.ones(end - first)) if kind == "score" else log.train(first, end)
    fault = probes.order_fault(log)
    assert fault is None if rule is None else (fault[0] == rule and says in fault[1])


def test_coverage_is_judged_at_several_lengths():
    """A tail that is dropped only where a window is short shows in a stream that needs one."""
    text_T = TEXT[: 1 + 16 * (len(TEXT) // 16 - 1)]
    finding = finding_of(audit_scorer(cheaters.DroppedTail, text_T), "one-pass")
    assert finding.level == "fail" and f"(stream of {len(text_T) - 2} targets)" in finding.evidence


def test_a_change_of_one_target_is_seen_where_it_is():
    """The evidence names target and size; what is below the tolerance is not a finding."""

    class Peeks(Plain):
        size = 1e-3

        def logits(self, input_T):
            logits_TV = super().logits(input_T)
            logits_TV[:-1, 3] += self.size * (input_T[1:] == 4)
            return logits_TV

    finding = finding_of(audit_scorer(Peeks, TEXT), "causal")
    assert finding.level == "fail" and "moves by 0.000" in finding.evidence and finding.remedy
    Peeks.size = 1e-9
    assert finding_of(audit_scorer(Peeks, TEXT), "causal").level == "ok"


def test_honest_scorers_change_by_exactly_nothing():
    """On a CPU the change is 0, not merely small, also while training."""
    for make in (Plain, cheaters.ChunkedTTT, cheaters.UpstreamModel):
        assert finding_of(audit_scorer(make, TEXT), "causal").evidence.startswith(
            "change 0 at 16 targets"
        )


@pytest.mark.parametrize("name", ["PreQuantTTT", "LastEpochTTT", "WarmUpTTT", "OffByOneTTT"])
def test_training_that_is_not_reported_shows_in_the_scores(name):
    """A scorer that keeps its updates to itself is caught too, by what they do."""

    class Silent(getattr(cheaters, name)):
        def evaluate(self, tokens_T, log):
            log.train = lambda first, end: None
            super().evaluate(tokens_T, log)

    assert broken_rules(audit_scorer(Silent, TEXT)) == ["causal"]


@pytest.mark.parametrize(
    "name, rule",
    [("Slot", "causal"), ("ValidationUnigram", "causal"), ("PeekingAttention", "normalised")],
)
def test_a_leak_shows_in_scores_alone(name, rule):
    """Without distributions too. Who sees no more than the target itself fails by the sum over ids;
    where a later token matters, that sum is not looked at."""

    class Bare(getattr(cheaters, name)):
        def evaluate(self, tokens_T, log):
            full = Log(tokens_T)
            super().evaluate(tokens_T, full)
            log.score(0, log.num_targets, full.nats_T)

    assert broken_rules(audit_scorer(Bare, TEXT)) == [rule]


def test_positions_lie_beside_borders_and_documents():
    """Half beside borders of what was scored, some at document starts, the last target always."""
    log = Log(np.array(([1] + [5] * 99) * 10))
    for first in range(0, 999, 37):
        end = min(first + 37, 999)
        log.score(first, end, np.zeros(end - first))
    positions = probes.sample_positions(log, 16)
    near = [t for t in positions if min(t % 37, -t % 37) <= 1]
    starts = [t for t in positions if (t + 1) % 100 in (0, 1, 99)]
    assert len(positions) == 16 and positions[-1] == 998 and min(positions) >= 1
    assert len(near) >= 7 and len(starts) >= 3
    assert all(probes.sample_positions(log, 4, seed)[-1] == 998 for seed in range(9))
    assert probes.sample_positions(Log(np.arange(2)), 8) == [0]


def test_a_leak_in_test_time_training_is_seen():
    """An adapter that is right for scores and wrong for the future: chunk k+1 trains before it."""
    later_T = torch.from_numpy(TEXT)

    def leaking(model):
        def adapt(chunk_tokens_T, index, count):
            with torch.no_grad():
                model.head.bias += 0.01 * torch.bincount(later_T, minlength=V)

        return adapt

    class Leaks(Windows):
        def evaluate(self, tokens_T, log):
            nonlocal later_T
            later_T = torch.from_numpy(tokens_T)
            super().evaluate(tokens_T, log)

    scorer = Leaks(Net(table_std=0.5), 16, 16, chunk_tokens=40, adapt=leaking)
    assert broken_rules(audit_scorer(lambda: scorer, TEXT)) == ["causal"]


def test_distributions_must_cover_the_vocabulary_and_be_finite():
    """Too few ids, scores that are no numbers."""

    class Few(Plain):
        def rows(self, input_T):
            return log_softmax(self.logits(input_T)[:, : V - 1])

    class Wild(Plain):
        def rows(self, input_T):
            return np.full((len(input_T), V), -np.inf)

    finding = finding_of(audit_scorer(Few, TEXT), "normalised")
    assert (
        finding.level == "fail" and f"over {V - 1} ids, the vocabulary has {V}" in finding.evidence
    )
    assert "not finite" in finding_of(audit_scorer(Wild, TEXT), "normalised").evidence


def test_distributions_that_are_kept_back_are_put_together_by_substitution():
    """Where some are missing every id is put in the target's place, at few ids three times."""

    class Half(cheaters.BetterOfTwoModels):
        def score(self, tokens_T, start, first, end, log):
            kind = Plain if first < 100 else cheaters.BetterOfTwoModels
            kind.score(self, tokens_T, start, first, end, log)

    assert broken_rules(audit_scorer(Half, TEXT)) == ["normalised"]
    Half.vocab_size = 5000
    finding = finding_of(audit_scorer(Half, TEXT), "normalised")
    assert (finding.level, "5000 ids are too many" in finding.evidence) == ("warn", True)


@pytest.mark.parametrize("off, level", [(0.9e-4, "ok"), (1.2e-4, "fail")])
def test_the_tolerance_of_a_sum_is_a_ten_thousandth(off, level):
    """1 +- 1e-4 passes, more does not."""

    class Off(Plain):
        def rows(self, input_T):
            return super().rows(input_T) + np.log1p(off)

    assert finding_of(audit_scorer(Off, TEXT), "normalised").level == level


def test_masked_ids_are_no_fault():
    """A distribution may give an id nothing at all: -inf is a number here."""

    class Masked(Plain):
        def logits(self, input_T):
            logits_TV = super().logits(input_T)
            logits_TV[:, 0] = -np.inf
            return logits_TV

    assert not broken_rules(audit_scorer(Masked, TEXT))


def test_a_scorer_without_text_or_vocabulary_is_refused():
    """There is nothing to probe it with; with a vocabulary documents are made up."""
    bare = type("BareScorer", (), {"evaluate": Plain.evaluate})
    with pytest.raises(ValueError, match="must have vocab_size or tokens_T"):
        audit_scorer(bare)
    tokens_T = scorers.made_up_tokens(50, 400)
    assert len(tokens_T) == 400 and tokens_T[0] == 1 and 5 < (tokens_T == 1).sum() < 60
    assert set(tokens_T) <= set(range(1, 50))


@pytest.mark.parametrize(
    "scorer, level", [(cheaters.IsolatedDocuments, "ok"), (cheaters.UnmaskedSmear, "fail")]
)
@pytest.mark.parametrize("starts", [0, 1])
def test_isolation_is_probed_in_the_midst_of_a_document(scorer, level, starts):
    """A text with less than two starts, as 3,584 tokens of web text may be, is cut into more."""
    text = TEXT[TEXT != cheaters.BOS]
    text = np.insert(text, [30] * starts, cheaters.BOS)
    assert finding_of(audit_scorer(scorer, text), "isolation").level == level


def test_parameters_that_do_nothing_are_named():
    """Both zero: no gradient, no influence. One of them zero: alive. The model stays as it was."""
    model, x_BT = cheaters.DeadBigram(), torch.from_numpy(TEXT[None, :33])
    before = {name: w.clone() for name, w in model.state_dict().items()}

    def loss(model, x):
        return model(x[:, :-1], x[:, 1:])

    assert probes.dead_parameters(model, loss, [x_BT] * 3) == ["table.weight", "project.weight"]
    assert probes.silent_parameters(model, x_BT) == ["table.weight", "project.weight"]
    assert probes.dead_parameters(Net(), loss, [x_BT] * 3) == []
    assert probes.dead_parameters(Net(), loss, [x_BT]) == ["project.weight"]
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def test_a_text_of_its_own_is_likely_in_two_of_three_stretches():
    """Noise, drawn from the scorer, drawn more sharply: each fits better than the one before."""

    class Unnamed(Plain):
        tokens_T = None

    tokens_T = text_of_scorer(Unnamed)
    nats_T = Probe(Unnamed, tokens_T).base.nats_T
    stretch_T = np.arange(1, len(tokens_T)) // 16 % 3
    noise, drawn, sharp = (nats_T[stretch_T == kind].mean() for kind in range(3))
    assert sharp < drawn - 0.1 < noise - 1
    assert text_of_scorer(Plain) is None  # it has a text


def test_a_text_of_a_scorer_without_distributions_is_likely_too():
    """By exchanging tokens: noise, then what chance finds, then what is likely after its token."""
    tokens_T = text_of_scorer(cheaters.FixedTemperatureUnsaid)
    nats_T = Probe(cheaters.FixedTemperatureUnsaid, tokens_T).base.nats_T
    place_T = np.arange(len(nats_T)) % 48
    parts = (place_T < 8), (place_T >= 8) & (place_T < 24), (place_T >= 24)
    noise, chance, likely = (nats_T[part_T].mean() for part_T in parts)
    assert likely < chance - 0.1 < noise - 0.5
