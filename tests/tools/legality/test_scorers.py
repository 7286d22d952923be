"""What a scorer may be, and the numbers that its log takes."""

import dataclasses

import numpy as np
import pytest
import torch

import evaluate
from engine.adapters import LowRank
from tests.engine.test_memory import Remembering
from tests.tools.legality.conftest import broken_rules
from tools.legality import cheaters, scorers
from tools.legality.cheaters import TEXT, Net, Plain, V, log_softmax
from tools.legality.probes import audit_scorer, order_fault
from tools.legality.scorers import Log, OnePass, Windows


@pytest.mark.parametrize(
    "candidate, kind",
    [
        (Plain, Plain),
        (Plain(), Plain),
        (lambda: Plain(), Plain),
        (lambda tokens_T, heat=1.0: np.zeros(V) - np.log(V), scorers.Stream),
        (cheaters.UpstreamModel, Windows),
    ],
)
def test_classes_objects_makers_and_functions_are_scorers(candidate, kind):
    """Whatever is named, every evaluation gets a fresh one."""
    make = scorers.maker(candidate, "name")
    one, other = make(), make()
    assert type(one) is kind and one is not other
    assert not broken_rules(audit_scorer(make, TEXT))


@pytest.mark.parametrize("candidate", [3, lambda: 3, lambda a, b: 0, int, type("Bare", (), {})])
def test_what_is_no_scorer_is_refused(candidate):
    """Neither an evaluation nor a function of the tokens so far."""
    with pytest.raises(ValueError, match="name must"):
        audit_scorer(scorers.maker(candidate, "name"), TEXT, "name")


def test_an_object_that_learns_starts_afresh():
    """What one evaluation learned is not there in the next one."""
    make = scorers.maker(cheaters.ChunkedTTT(), "name")
    nats = []
    for _ in range(2):
        log = Log(TEXT)
        make().evaluate(TEXT, log)
        nats.append(log.nats_T)
    assert np.array_equal(*nats)


def test_the_log_refuses_numbers_that_do_not_fit():
    """One score for each target, within the stream."""
    log = Log(np.arange(5))
    for first, end, nats in [(0, 2, [1.0]), (3, 5, [1.0, 1.0]), (-1, 1, [1.0, 1.0]), (2, 2, [])]:
        with pytest.raises(ValueError, match=r"targets .* must be one number each .* 0\.\.4"):
            log.score(first, end, nats)
    assert not log.events


@pytest.mark.parametrize("batch_tokens", [16, 64, 10_000])
@pytest.mark.parametrize("isolate", [False, True])
def test_windows_reports_every_target_as_evaluate_scores_it(isolate, batch_tokens):
    """Each target's score is that of its own window, however windows are batched and sorted."""
    model, log = Net(table_std=0.5), Log(TEXT)
    scorer = Windows(
        model, 16, 4, isolate=isolate, chunk_tokens=50, adapt=lambda m: lambda *c: None
    )
    scorer.scheme = dataclasses.replace(scorer.scheme, batch_tokens=batch_tokens)
    scorer.evaluate(TEXT, log)
    assert order_fault(log) is None
    assert [e[1:] for e in log.events if e[0] == "train"][:2] == [(0, 50), (50, 100)]
    for start, first, end in evaluate.plan_windows(TEXT, scorer.scheme):
        logits = model(torch.from_numpy(TEXT[None, start:end]))[0].detach().numpy()
        nats_S = cheaters.picked(log_softmax(logits)[first - start :], TEXT[first + 1 : end + 1])
        assert log.nats_T[first:end] == pytest.approx(nats_S, abs=1e-5)


def test_windows_that_report_other_numbers_stop(monkeypatch):
    """Were evaluate.py to batch in another order, nothing would be proved: an error says so."""
    scorer = Windows(Net(table_std=0.5), 16, 4)
    turned = [batch[::-1] for batch in scorer.batches(TEXT)]
    monkeypatch.setattr(scorer, "batches", lambda *args: iter(turned))
    with pytest.raises(ValueError, match="reported nats add up to"):
        scorer.evaluate(TEXT, Log(TEXT))


def test_logits_of_takes_them_from_the_loss():
    """model(x, y) -> loss gives the logits that its cross-entropy is of."""
    model, x_BT = Net(table_std=0.5), torch.from_numpy(TEXT[None, :20])
    assert torch.equal(scorers.logits_of(model)(x_BT), model.logits(x_BT))
    with pytest.raises(ValueError, match="does not call cross_entropy"):
        scorers.logits_of(lambda x, y: x.sum())(x_BT)
    with pytest.raises(ValueError, match="returns .* its cross-entropy is"):
        scorers.logits_of(lambda x, y: 0.9 * model(x, y))(x_BT)


SHORT = cheaters.make_text(5)


class Reading(Remembering):
    """A model of the kit's vocabulary that takes a memory."""

    def __init__(self):
        super().__init__(V)


class Leaking(LowRank):
    """Every document is moved by the mean of all their gradients."""

    def learn(self, loss_B):
        super().learn(loss_B.mean().expand(len(loss_B)))
        for weight in self.weights:
            weight.data[:] = weight.data.mean(dim=0)


WEIGHTS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)  # of repeats


def one_pass(adapter=LowRank, rows=3, repeat_weights=()) -> OnePass:
    def learning(model):
        return adapter(model, ("fc",), rank=2, rate=0.1, chunk=8, rows=rows)

    return OnePass(
        Reading(), 8, vocab_size=V, adapter=adapter and learning, repeat_weights=repeat_weights
    )


@pytest.mark.parametrize("weights", [(), WEIGHTS])
@pytest.mark.parametrize("adapter", [None, LowRank])
def test_one_pass_keeps_every_rule(adapter, weights):
    """With adapters and without, with a document's repeats and without: all four conditions."""
    findings = audit_scorer(lambda: one_pass(adapter, repeat_weights=weights), SHORT, count=8)
    assert not broken_rules(findings)
    assert {"isolation", "normalised", "score-first"} <= {f.rule for f in findings}
    order = next(f.evidence for f in findings if f.rule == "score-first")
    assert ("0 trained on" in order) == (adapter is None)


def test_an_adapter_that_leaks_between_documents_is_caught():
    """Documents side by side that share what they learn: a later one moves an earlier one."""
    assert set(broken_rules(audit_scorer(lambda: one_pass(Leaking), SHORT, count=8))) == {"causal"}


def test_an_adapter_that_is_not_reset_is_caught():
    """Documents one after the other, the second with what the first has learned."""

    class Kept(LowRank):
        def reset(self, rows):
            if not getattr(self, "steps", 0):
                super().reset(rows)

    findings = audit_scorer(lambda: one_pass(Kept, rows=1), SHORT, count=8)
    assert set(broken_rules(findings)) <= {"causal", "isolation"}
    assert broken_rules(findings)


def test_one_pass_reports_what_evaluate_scores():
    """A model whose reported and scored logits differ is refused."""
    scorer = one_pass(None)
    log = Log(TEXT)
    scorer.evaluate(TEXT, log)
    assert np.isfinite(log.nats_T).all()
    assert {kind for kind, *_ in log.events} == {"score"}


def test_repeats_in_a_stream_keep_every_rule():
    """Windows that reach into the document before, with repeats that do not."""
    model = Net(table_std=0.5)
    scorer = Windows(model, 16, 4, repeat_weights=WEIGHTS)
    plain = Windows(model, 16, 4)
    assert not broken_rules(audit_scorer(lambda: scorer, SHORT, count=8))
    nats = []
    for one in (scorer, plain):
        log = Log(SHORT)
        one.evaluate(SHORT, log)
        nats.append(log.nats_T.sum())
    assert nats[0] != nats[1]
