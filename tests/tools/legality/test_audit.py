"""The audit: each probe on what must pass and what must not, and the command around them."""

import dataclasses
import hashlib
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import quantize
import train_gpt
from engine.recipe import packed_settings
from engine.shards import read_shard, write_shard
from engine.trainer import read_sources
from tests.tiny_runs import tiny
from tools.legality import audit, cheaters
from tools.legality.audit import Log, PhaseClock, Windows, audit_bytes, audit_scorer, main
from tools.legality.cheaters import TEXT, Net, Plain, V, log_softmax

ROOT = Path(__file__).parents[3]


def broken(findings) -> list[str]:
    return [finding.rule for finding in findings if finding.level == "fail"]


def of(findings, rule: str):
    """The one finding of a rule."""
    (found,) = [finding for finding in findings if finding.rule == rule]
    return found


# What a scorer may be


def test_the_example_of_the_docstring_runs(tmp_path):
    """The adapter is what the docstring says it is, to the letter."""
    example = audit.__doc__.split("and report:\n\n")[1].split("    FILES =")[0]
    code = "\n".join(line.removeprefix("    ") for line in example.splitlines())
    assert len(code.strip().splitlines()) <= 15
    scope: dict = {"load": lambda name: Model()}

    class Model:
        def __call__(self, input_T):
            return Plain().rows(input_T)

        def learn(self, tokens_T):
            self.seen = tokens_T

    exec(code, scope)
    findings = audit_scorer(scope["Mine"], TEXT)
    assert not broken(findings) and {"causal", "normalised"} <= {f.rule for f in findings}


@pytest.mark.parametrize(
    "found, kind",
    [
        (Plain, Plain),
        (Plain(), Plain),
        (lambda: Plain(), Plain),
        (lambda tokens_T, heat=1.0: np.zeros(V) - np.log(V), audit.Stream),
        (cheaters.UpstreamModel, Windows),
    ],
)
def test_classes_objects_makers_and_functions_are_scorers(found, kind):
    """Whatever is named, every evaluation gets a fresh one."""
    make = audit.maker(found, "name")
    one, other = make(), make()
    assert type(one) is kind and one is not other
    assert not broken(audit_scorer(make, TEXT))


@pytest.mark.parametrize("found", [3, lambda: 3, lambda a, b: 0, int, type("Bare", (), {})])
def test_what_is_no_scorer_is_refused(found):
    """Neither an evaluation nor a function of the tokens so far."""
    with pytest.raises(ValueError, match="name must"):
        audit_scorer(audit.maker(found, "name"), TEXT, "name")


def test_an_object_that_learns_starts_afresh():
    """What one evaluation learned is not there in the next one."""
    make = audit.maker(cheaters.ChunkedTTT(), "name")
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
    assert audit.order_fault(log) is None
    assert [e[1:] for e in log.events if e[0] == "train"][:2] == [(0, 50), (50, 100)]
    for start, first, end in evaluate.plan_windows(TEXT, scorer.scheme):
        logits = model(torch.from_numpy(TEXT[None, start:end]))[0].detach().numpy()
        want_S = cheaters.picked(log_softmax(logits)[first - start :], TEXT[first + 1 : end + 1])
        assert log.nats_T[first:end] == pytest.approx(want_S, abs=1e-5)


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
    assert torch.equal(audit.logits_of(model)(x_BT), model.logits(x_BT))
    with pytest.raises(ValueError, match="does not call cross_entropy"):
        audit.logits_of(lambda x, y: x.sum())(x_BT)
    with pytest.raises(ValueError, match="returns .* its cross-entropy is"):
        audit.logits_of(lambda x, y: 0.9 * model(x, y))(x_BT)


# Order


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
    fault = audit.order_fault(log)
    assert fault is None if rule is None else (fault[0] == rule and says in fault[1])


def test_coverage_is_judged_at_several_lengths():
    """A tail that is dropped only where a window is short shows in a stream that needs one."""
    whole = TEXT[: 1 + 16 * (len(TEXT) // 16 - 1)]
    found = of(audit_scorer(cheaters.DroppedTail, whole), "one-pass")
    assert found.level == "fail" and f"(stream of {len(whole) - 2} targets)" in found.evidence


# Causal


def test_a_change_of_one_target_is_seen_where_it_is():
    """The evidence names target and size; what is below the tolerance is not a finding."""

    class Peeks(Plain):
        size = 1e-3

        def logits(self, input_T):
            logits_TV = super().logits(input_T)
            logits_TV[:-1, 3] += self.size * (input_T[1:] == 4)
            return logits_TV

    found = of(audit_scorer(Peeks, TEXT), "causal")
    assert found.level == "fail" and "moves by 0.000" in found.evidence and found.remedy
    Peeks.size = 1e-9
    assert of(audit_scorer(Peeks, TEXT), "causal").level == "ok"


def test_honest_scorers_change_by_exactly_nothing():
    """On a CPU the change is 0, not merely small, also while training."""
    for make in (Plain, cheaters.ChunkedTTT, cheaters.UpstreamModel):
        assert of(audit_scorer(make, TEXT), "causal").evidence.startswith("change 0 at 16 targets")


@pytest.mark.parametrize("name", ["PreQuantTTT", "LastEpochTTT", "WarmUpTTT", "OffByOneTTT"])
def test_training_that_is_not_reported_shows_in_the_scores(name):
    """A scorer that keeps its updates to itself is caught too, by what they do."""

    class Silent(getattr(cheaters, name)):
        def evaluate(self, tokens_T, log):
            log.train = lambda first, end: None
            super().evaluate(tokens_T, log)

    assert broken(audit_scorer(Silent, TEXT)) == ["causal"]


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

    assert broken(audit_scorer(Bare, TEXT)) == [rule]


def test_positions_lie_beside_borders_and_documents():
    """Half beside borders of what was scored, some at document starts, the last target always."""
    log = Log(np.array(([1] + [5] * 99) * 10))
    for first in range(0, 999, 37):
        end = min(first + 37, 999)
        log.score(first, end, np.zeros(end - first))
    positions = audit.sample_positions(log, 16)
    near = [t for t in positions if min(t % 37, -t % 37) <= 1]
    starts = [t for t in positions if (t + 1) % 100 in (0, 1, 99)]
    assert len(positions) == 16 and positions[-1] == 998 and min(positions) >= 1
    assert len(near) >= 7 and len(starts) >= 3
    assert all(audit.sample_positions(log, 4, seed)[-1] == 998 for seed in range(9))
    assert audit.sample_positions(Log(np.arange(2)), 8) == [0]


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
    assert broken(audit_scorer(lambda: scorer, TEXT)) == ["causal"]


# Normalised


def test_distributions_must_cover_the_vocabulary_and_be_finite():
    """Too few ids, scores that are no numbers."""

    class Few(Plain):
        def rows(self, input_T):
            return log_softmax(self.logits(input_T)[:, : V - 1])

    class Wild(Plain):
        def rows(self, input_T):
            return np.full((len(input_T), V), -np.inf)

    found = of(audit_scorer(Few, TEXT), "normalised")
    assert found.level == "fail" and f"over {V - 1} ids, the vocabulary has {V}" in found.evidence
    assert "not finite" in of(audit_scorer(Wild, TEXT), "normalised").evidence


def test_distributions_that_are_kept_back_are_put_together_by_substitution():
    """Where some are missing every id is put in the target's place, at few ids three times."""

    class Half(cheaters.BetterOfTwoModels):
        def score(self, tokens_T, start, first, end, log):
            kind = Plain if first < 100 else cheaters.BetterOfTwoModels
            kind.score(self, tokens_T, start, first, end, log)

    assert broken(audit_scorer(Half, TEXT)) == ["normalised"]
    Half.vocab_size = 5000
    found = of(audit_scorer(Half, TEXT), "normalised")
    assert (found.level, "5000 ids are too many" in found.evidence) == ("warn", True)


@pytest.mark.parametrize("off, level", [(0.9e-4, "ok"), (1.2e-4, "fail")])
def test_the_tolerance_of_a_sum_is_a_ten_thousandth(off, level):
    """1 +- 1e-4 passes, more does not."""

    class Off(Plain):
        def rows(self, input_T):
            return super().rows(input_T) + np.log1p(off)

    assert of(audit_scorer(Off, TEXT), "normalised").level == level


def test_masked_ids_are_no_fault():
    """A distribution may give an id nothing at all: -inf is a number here."""

    class Masked(Plain):
        def logits(self, input_T):
            logits_TV = super().logits(input_T)
            logits_TV[:, 0] = -np.inf
            return logits_TV

    assert not broken(audit_scorer(Masked, TEXT))


def test_a_scorer_without_text_or_vocabulary_is_refused():
    """There is nothing to probe it with; with a vocabulary documents are made up."""
    bare = type("BareScorer", (), {"evaluate": Plain.evaluate})
    with pytest.raises(ValueError, match="must have vocab_size or tokens_T"):
        audit_scorer(bare)
    tokens_T = audit.made_up_tokens(50, 400)
    assert len(tokens_T) == 400 and tokens_T[0] == 1 and 5 < (tokens_T == 1).sum() < 60
    assert set(tokens_T) <= set(range(1, 50))


# Bytes


@pytest.mark.parametrize(
    "targets, size, vocab_size, rule",
    [
        (62_021_632, 151_080_363, 1024, None),
        (45_508_608, 151_074_053, 4096, None),
        (40_540_160, 151_078_222, 8192, None),
        (47_851_520, 151_074_499, 8192, None),
        (41_234_567, 151_080_891, None, None),  # another tokenizer, the same text
        (47_851_520, 164_600_000, 8192, "bytes"),  # sidecar off, #2071
        (40_540_160, 1.167 * 151_078_222, 8192, "bytes"),  # space twice, #1734
        (62_021_632, 1.0413 * 151_080_363, 1024, "bytes"),  # U+FFFD, #1289
        (62_021_632, 1.002 * 151_080_363, 1024, "bytes"),  # near, on the whole split
        (63_779_840, 155_800_000, 1024, "validation"),  # the launch baseline's other split
        (61_997_056, 61_997_056 * 2.43593, 1024, "validation"),  # tail dropped
        (9_662_464, 9_662_464 * 3.72663, 8192, "validation"),  # a subset, #1854
        (36_560_000, 36_560_000 * 3.72663, None, "validation"),  # another split, #2109
        (9_662_464, 9_662_464 * 4.5, 8192, "bytes"),
    ],
)
@pytest.mark.parametrize("digits", [4, 8])
def test_implied_bytes_tell_a_miscount_from_another_text(targets, size, vocab_size, rule, digits):
    """The facts of published logs: each whole split passes, each fault has its name."""
    loss = 3.1
    bpb = loss / np.log(2) / (size / targets)
    (found,) = audit_bytes(round(loss, digits), round(bpb, digits), targets, vocab_size)
    if digits == 4 and targets == 61_997_056:
        return  # 0.04 % of the text: lost in the rounding of four digits
    assert (found.level, found.rule) == (("ok", "bytes") if rule is None else ("fail", rule))


def test_bytes_that_a_log_states_are_compared():
    """They are the divisor, to the rounding of the printed numbers; without targets no verdict."""
    loss, bpb = 3.73859635, 2.15400847
    assert audit_bytes(loss, bpb, 46_033, 1024, 115_267)[0].level == "ok"
    (found,) = audit_bytes(loss, bpb, 46_033, 1024, 115_268)
    assert (found.level, found.rule) == ("fail", "bytes") and "states 115,268" in found.evidence
    assert audit_bytes(loss, bpb, None) == []


def test_our_own_log_holds(tmp_path):
    """The log of a recorded run: bytes and clock; with other numbers in it, neither."""
    log = next(ROOT.glob("records/smoke_cpu/*/train.log"))
    findings = audit.audit_log(log)
    assert {(f.rule, f.level) for f in findings} == {("bytes", "ok"), ("phases", "ok")}
    text = log.read_text()
    took_ms = int(re.search(r"trained .*train_time:(\d+)ms", text)[1])
    for cap_ms, rules in ((took_ms, []), (took_ms - 1, ["time"])):
        (tmp_path / "late.log").write_text(re.sub(r" cap:\d+ms", f" cap:{cap_ms}ms", text))
        assert broken(audit.audit_log(tmp_path / "late.log")) == rules
    (tmp_path / "part.log").write_text(text.replace("val_bpb:", "val_bpb_partial:"))
    (found,) = [f for f in audit.audit_log(tmp_path / "part.log") if f.level != "ok"]
    assert (found.rule, found.level) == ("validation", "warn")


# Parameters, phases


def test_parameters_that_do_nothing_are_named():
    """Both zero: no gradient, no influence. One of them zero: alive. The model stays as it was."""
    model, x_BT = cheaters.DeadBigram(), torch.from_numpy(TEXT[None, :33])
    before = {name: w.clone() for name, w in model.state_dict().items()}

    def loss(model, x):
        return model(x[:, :-1], x[:, 1:])

    assert audit.dead_parameters(model, loss, [x_BT] * 3) == ["table.weight", "project.weight"]
    assert audit.silent_parameters(model, x_BT) == ["table.weight", "project.weight"]
    assert audit.dead_parameters(Net(), loss, [x_BT] * 3) == []
    assert audit.dead_parameters(Net(), loss, [x_BT]) == ["project.weight"]
    assert all(torch.equal(w, before[name]) for name, w in model.state_dict().items())


def test_the_clock_judges_when_data_is_read():
    """On a real clock; phases and splits that do not exist are errors."""
    clock = PhaseClock(cap_seconds=600)
    with pytest.raises(ValueError, match="read after enter"):
        clock.read("train")
    with pytest.raises(ValueError, match="phase='cook' must be one of train, calibrate"):
        clock.enter("cook")
    clock.enter("train")
    clock.read("train")
    with pytest.raises(ValueError, match="split='test' must be train or val"):
        clock.read("test")
    (found,) = clock.findings()
    assert (found.rule, found.level) == ("phases", "ok") and "1 reads" in found.evidence


@pytest.mark.parametrize("seconds, level", [(600, "ok"), (600.1, "fail")])
def test_the_cap_itself_is_in_time(seconds, level):
    """A read at the cap passes, one after it does not."""
    times = iter([0, 0, seconds, seconds])
    clock = PhaseClock(600, clock=lambda: next(times))
    clock.enter("calibrate")
    clock.read("train")
    (found,) = clock.findings()
    assert (found.rule, found.level) == ("phases", level)


# Run alone


def alone(folder: Path, code: str, files=("eval.py",), **how):
    (folder / "eval.py").write_text(code)
    return audit.audit_alone([sys.executable, "eval.py"], folder, list(files), **how)


def test_a_score_is_compared_without_its_times(tmp_path):
    """The last line, but for words about time, which differ from run to run."""
    code = "import time; print('final val_bpb:1.5', f'eval_time:{time.time_ns()}ms', '12.5s')"
    found = of(alone(tmp_path, code), "artifact-only")
    assert found.level == "ok" and "'final val_bpb:1.5'" in found.evidence
    code = "import os; print('final val_bpb:', os.path.exists('beside.txt'))"
    (tmp_path / "beside.txt").write_text("x")
    found = of(alone(tmp_path, code), "artifact-only")
    assert found.level == "fail" and "'final val_bpb: True' becomes 'final val_bpb: False'" in (
        found.evidence
    )
    assert of(alone(tmp_path, code, ("eval.py", "beside.txt")), "artifact-only").level == "ok"


def test_what_is_allowed_elsewhere_is_allowed(tmp_path, tmp_path_factory):
    """Validation text may lie anywhere: a file, or a folder of files."""
    text = tmp_path_factory.mktemp("elsewhere") / "val.bin"
    text.write_text("text")
    code = f"print(open({str(text)!r}).read())"
    assert broken(alone(tmp_path, code)) == ["artifact-only"]
    assert not broken(alone(tmp_path, code, allowed=[text]))
    assert not broken(alone(tmp_path, code, allowed=[text.parent]))


def test_what_cannot_be_run_or_watched_is_said(tmp_path):
    """A command that fails where it should run is no verdict; one that fails alone is one."""
    with pytest.raises(ValueError, match="fails in .*: ZeroDivisionError.*make it run there first"):
        alone(tmp_path, "1 / 0")
    with pytest.raises(ValueError, match="weights.ptz is missing"):
        alone(tmp_path, "0", ["eval.py", "weights.ptz"])
    (tmp_path / "weights.ptz").write_text("w")
    found = of(alone(tmp_path, "open('weights.ptz')"), "artifact-only")
    assert found.level == "fail" and "fails with eval.py alone: FileNotFound" in found.evidence
    found = of(alone(tmp_path, "import os; os.system('true')"), "artifact-only")
    assert found.level == "warn" and "true" in found.evidence


# Folders


def test_faults_of_a_folder_keep_evidence_and_remedy_apart(tmp_path):
    """data.verify's sentence ends in what to do; a folder that is fine is silent."""
    cheaters.write_data(tmp_path, cheaters.TRAIN, cheaters.VAL[:2], cheaters.VAL)
    faults = [f for f in audit.audit_data(tmp_path) if f.level == "fail"]
    assert faults and all("fetch" in f.remedy and ";" not in f.evidence for f in faults)
    cheaters.write_data(tmp_path, cheaters.TRAIN, cheaters.VAL, cheaters.VAL)
    assert main([str(tmp_path)]) == 0
    sidecar = tmp_path / "kit_val_000000.bytes.bin"
    bytes_T = np.array(read_shard(sidecar))
    bytes_T[5] = 3
    write_shard(sidecar, bytes_T)
    told = json.loads((tmp_path / "manifest.json").read_text())
    entry = next(s for s in told["shards"] if s["split"] == "val")["sidecar"]
    entry["sha256"] = hashlib.sha256(sidecar.read_bytes()).hexdigest()
    (tmp_path / "manifest.json").write_text(json.dumps(told))
    assert set(broken(audit.audit_data(tmp_path))) == {"bytes"}


# Our own artifact


def write_artifact(folder: Path, vocab_size: int = 64, dead: bool = False) -> Path:
    """A tiny packed model that uses every parameter, unless it is dead in its bigram table."""
    settings = tiny(eval_stride=16, vocab_size=vocab_size)
    model = train_gpt.GPT(settings, torch.float32).init_weights(0)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.2)
            if dead and name in ("bigram.table.weight", "bigram.proj.weight"):
                p.zero_()
    state = model.state_dict()
    saved = packed_settings(train_gpt.RECIPE, settings)
    blob = quantize.encode_trellis(state, quantize.flat_hessians(state), saved, 10**6)
    (folder / "artifact.pgz").write_bytes(blob)
    return folder / "artifact.pgz"


def test_our_artifact_keeps_the_rules_in_every_mode(tmp_path):
    """Blocks, sliding, isolated, with training: nothing moves by anything, every sum is one."""
    findings = audit.audit_artifact(write_artifact(tmp_path))
    assert not broken(findings)
    assert [f.rule for f in findings if f.level == "warn"] == ["validation"]
    modes = {f.where.partition("[")[2] for f in findings if f.rule == "causal"}
    assert modes == {
        "blocks of 32]",
        "sliding by 32]",
        "isolated documents]",
        "test-time training]",
    }
    changes = [f.evidence for f in findings if f.rule in ("causal", "isolation")]
    assert len(changes) == 5 and all(text.startswith("change 0 ") for text in changes)
    ttt = [f for f in findings if f.rule == "score-first" and "training" in f.where]
    assert "3 trained on" in ttt[0].evidence
    assert of(findings, "dead-feature").level == "ok"


def test_what_our_model_does_not_use_is_named(tmp_path):
    """A bigram table and its projection at zero, as in upstream PR #334."""
    findings = audit.audit_artifact(write_artifact(tmp_path, dead=True))
    assert broken(findings) == ["dead-feature", "dead-feature"]
    dead = [f.evidence for f in findings if f.level == "fail"]
    assert all("bigram.table.weight, bigram.proj.weight" in text for text in dead)


def test_a_run_is_found_where_it_was_started(tmp_path, monkeypatch):
    """Paths of its settings: as they stand, or from the folder above logs/."""
    run = tmp_path / "logs" / "one"
    (tmp_path / "data").mkdir()
    run.mkdir(parents=True)
    assert audit.find_path("./data", run) == tmp_path / "data"
    assert audit.find_path("./other", run) is None
    monkeypatch.chdir(tmp_path)
    assert audit.find_path("./data", Path("/no/such/run")) == Path("data")


@pytest.mark.parametrize(
    "scorer, found", [(cheaters.IsolatedDocuments, "ok"), (cheaters.UnmaskedSmear, "fail")]
)
@pytest.mark.parametrize("starts", [0, 1])
def test_isolation_is_probed_in_the_midst_of_a_document(scorer, found, starts):
    """A text with less than two starts, as 3,584 tokens of web text may be, is cut into more."""
    text = TEXT[TEXT != cheaters.BOS]
    text = np.insert(text, [30] * starts, cheaters.BOS)
    assert of(audit_scorer(scorer, text), "isolation").level == found


@pytest.mark.parametrize("border, first", [(None, 0), (50, 45), (2, 0), (99, 90)])
def test_the_border_of_two_shards_is_probed(border, first):
    """Where validation has two shards the text to probe with is around their border."""
    assert audit.probe_tokens(np.arange(100), 10, border).tolist() == [*range(first, first + 10)]


@pytest.mark.slow
def test_a_whole_run_is_audited(tmp_path, toy, capsys):
    """Sources, settings, text: bytes, split and files as well; a source that peeks is caught."""
    for name, source in read_sources(train_gpt.RECIPE).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(source)
    artifact = write_artifact(tmp_path, vocab_size=1024)
    paths = {
        "data_path": str(toy / "datasets/toy_sp1024"),
        "tokenizer_path": str(toy / "tokenizers/toy_1024_bpe.model"),
    }
    (tmp_path / "settings.json").write_text(json.dumps({**paths, "eval_stride": 16}))
    assert main([str(tmp_path), "--verbose"]) == 0
    out = capsys.readouterr().out
    for rule in ("bytes", "validation", "artifact-only", "network", "causal", "isolation"):
        assert f"OK    {rule}  " in out
    assert "0 fail, 0 warn" in out.splitlines()[-1]
    secret = tmp_path / "secret.txt"
    secret.write_text("1")
    source = tmp_path / "train_gpt.py"
    line = "        self.compute_dtype = compute_dtype\n"
    peek = f"        open({str(secret)!r}).read()\n"
    assert line in source.read_text()
    source.write_text(source.read_text().replace(line, line + peek))
    assert main([str(artifact)]) == 1
    assert "FAIL  artifact-only" in capsys.readouterr().out


# The command


SCORER = '''
"""A scorer whose weights lie beside it."""
import numpy as np
FILES = ["weights.txt"]

def next_logp(tokens_T):
    logits_V = np.fromstring(open("weights.txt").read(), sep=" ") * (1 + tokens_T[-1])
    return logits_V - np.log(np.exp(logits_V).sum())

def made():
    from tools.legality.audit import Stream
    scorer = Stream(next_logp)
    scorer.vocab_size = 8
    return scorer
'''


@pytest.fixture
def scorer(tmp_path) -> Path:
    (tmp_path / "scorer.py").write_text(SCORER)
    (tmp_path / "weights.txt").write_text("0 .1 .2 .3 .4 .5 .6 .7")
    return tmp_path / "scorer.py"


def test_a_foreign_scorer_is_probed_and_then_run_alone(scorer, monkeypatch, capsys):
    """FILE.py:NAME: in its own folder, with the files that it names."""
    seen = []
    monkeypatch.setattr(audit, "audit_alone", lambda *args, **how: seen.append((args, how)) or [])
    assert main(["--trust", f"{scorer}:made", "--verbose"]) == 0
    assert "OK    causal  scorer.py:made: change 0" in capsys.readouterr().out
    ((command, folder, files, _), _) = seen[0]
    assert command[-2:] == ["--total", "scorer.py:made"] and folder == scorer.parent
    assert files == ["scorer.py", "weights.txt"]
    monkeypatch.chdir(folder)
    assert main(["--total", "scorer.py:made"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("total nats:") and first.endswith("targets:399\n")


def test_more_positions_find_a_rare_leak(tmp_path, monkeypatch, capsys):
    """A leak through three ids of three hundred passes few positions, and not many."""
    code = """
import numpy as np
class Peek:
    vocab_size = 300
    def evaluate(self, tokens_T, log):
        num_targets = len(tokens_T) - 1
        logits_TV = np.random.default_rng(0).normal(size=(300, 300))[tokens_T[:-1]]
        logits_TV[:-3, 5] += tokens_T[4:] % 100 == 7
        logp_TV = logits_TV - np.log(np.exp(logits_TV).sum(axis=1, keepdims=True))
        log.score(0, num_targets, -logp_TV[range(num_targets), tokens_T[1:]], logp_TV)
"""
    (tmp_path / "peek.py").write_text(code)
    monkeypatch.setattr(audit, "audit_alone", lambda *args, **how: [])
    assert main(["--trust", f"{tmp_path}/peek.py:Peek", "--positions", "3"]) == 0
    assert main(["--trust", f"{tmp_path}/peek.py:Peek", "--positions", "400"]) == 1
    assert "FAIL  causal  peek.py:Peek" in capsys.readouterr().out


@pytest.mark.slow
def test_a_foreign_scorer_is_run_alone_for_real(scorer, capsys):
    """Its weights are named: fine. Not named: it cannot run, and that breaks artifact-only."""
    assert main(["--trust", f"{scorer}:made", "--verbose"]) == 0
    assert "OK    artifact-only" in capsys.readouterr().out
    scorer.write_text(SCORER.replace('FILES = ["weights.txt"]', ""))
    assert main(["--trust", f"{scorer}:made"]) == 1
    out = capsys.readouterr().out
    assert "FAIL  artifact-only  scorer.py:made: fails with scorer.py alone" in out


@pytest.mark.parametrize(
    "name, code, says",
    [
        ("nothing", SCORER, "has no 'nothing'"),
        ("next_logp", SCORER, "must have vocab_size or tokens_T"),
        ("made", "def made(:", "SyntaxError"),
        ("made", "import no_such_module", "ModuleNotFoundError"),
        ("made", SCORER.replace("vocab_size = 8", "vocab_size = 9"), "IndexError"),
    ],
)
def test_a_scorer_that_fails_is_one_line_and_status_2(scorer, capsys, name, code, says):
    """What goes wrong in foreign code is no verdict, and no traceback of ours."""
    scorer.write_text(code)
    assert main(["--trust", f"{scorer}:{name}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("tools.legality.audit: ") and says in error and error.count("\n") == 1


@pytest.mark.parametrize(
    "name, says",
    [
        ([], "name a run, an artifact, a log"),
        (["no/such/thing"], "must be an artifact, a log, a folder, or FILE.py:NAME"),
        (["empty"], "holds no artifact.pgz, train.log or"),
        (["broken.pgz"], "broken.pgz"),
        (["nothing.log"], "nothing.log"),
        (["scorer.py"], "give scorer.py:NAME"),
    ],
)
def test_nothing_to_probe_is_status_2(tmp_path, monkeypatch, capsys, name, says):
    """Nothing named, nothing there, nothing in it: one line that says what to do."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("broken.pgz").write_bytes(b"no artifact")
    Path("nothing.log").write_text("no log\n")
    Path("scorer.py").write_text(SCORER)
    assert main(name) == 2
    captured = capsys.readouterr()
    assert says in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_json_is_one_object_and_a_fault_is_status_1(tmp_path, capsys):
    """--json: findings with rule, level, where, evidence and remedy."""
    text = next(ROOT.glob("records/smoke_cpu/*/train.log")).read_text()
    (tmp_path / "train.log").write_text(text.replace("targets:", "targets:1"))
    assert main([str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    (fault,) = [f for f in told["findings"] if f["level"] == "fail"]
    assert told["status"] == 1 and fault["rule"] == "bytes" and fault["remedy"]
    assert fault["where"].startswith(str(tmp_path / "train.log") + ":")


def test_paths_of_a_run_are_found_and_shown_without_the_machines_folders(tmp_path, monkeypatch):
    """From where logs/ lies or from here; relative where that is possible."""
    run, text = tmp_path / "work/logs/one", tmp_path / "work/data"
    run.mkdir(parents=True)
    text.mkdir()
    monkeypatch.chdir(tmp_path / "work")
    assert audit.find_path("./data", run) == Path("data")
    monkeypatch.chdir(run)
    assert audit.find_path("./data", run) == text
    assert audit.find_path("nowhere", run) is None
