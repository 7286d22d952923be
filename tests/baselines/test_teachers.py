"""Learning from a teacher: its losses, which teachers fit, and its text as training rows."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import quantize
from baselines import preln_53m, teachers
from baselines.models import preln
from baselines.teachers import (
    Continuations,
    continuation_loss,
    distillation_loss,
    encode,
    read_continuations,
)
from engine import trainer as engine_trainer
from engine.text import Batches
from tests.baselines.test_adamw import (
    RECIPES,
    SYSTEMS,
    baseline_trainer,
    saved_state,
    tiny_settings,
)
from tests.tiny_runs import CPU, tiny_fields, toy_paths, variables

LINES = [
    {"prompt": [1, 2, 3], "continuation": [4, 5]},
    {"prompt": [9], "continuation": [8, 7, 6], "teacher": "any other key"},
    {"prompt": list(range(30)), "continuation": [1023, 0, 5]},
]
TARGETS = torch.tensor([[1, 5, 2], [0, 10, 4]])


def write(path: Path, lines) -> str:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return str(path)


# Losses -------------------------------------------------------------------------------------------


def logits(seed: int, rows: int = 3, vocabulary: int = 11) -> torch.Tensor:
    return torch.randn(2, rows, vocabulary, generator=torch.Generator().manual_seed(seed))


TARGETS = torch.tensor([[1, 5, 2], [0, 10, 4]])


def test_the_loss_has_the_value_worked_out_by_hand():
    """z_s = (0, 0), z_t = (ln 9, 0), y = 0, half each, T = 2: 0.60819766."""
    student = torch.zeros(1, 1, 2)
    teacher = torch.tensor([[[math.log(9), 0.0]]])
    target = torch.zeros(1, 1, dtype=torch.long)
    loss = distillation_loss(student, teacher, target, 0.5, 2.0).item()
    assert loss == pytest.approx(0.60819766)
    soft = distillation_loss(student, teacher, target, 0.0, 2.0).item()
    assert soft == pytest.approx(0.52324814)


def test_alpha_one_is_cross_entropy_to_the_bit():
    """And it is summed over targets; what the teacher says, be it no number, is not read."""
    student = logits(0)
    hard = F.cross_entropy(student.flatten(0, 1), TARGETS.flatten(), reduction="sum")
    for teacher in (logits(1), torch.full_like(student, math.nan)):
        assert torch.equal(distillation_loss(student, teacher, TARGETS, 1.0, 2.0), hard)


def test_equal_logits_have_no_soft_loss():
    """Whatever the temperature; and none of it is negative elsewhere."""
    assert abs(distillation_loss(logits(0), logits(0), TARGETS, 0.0, 3.0).item()) < 1e-5
    assert distillation_loss(logits(0), logits(1), TARGETS, 0.0, 3.0) > 0.1


def test_at_a_high_temperature_logits_are_compared():
    """T = 1000: the soft loss nears sum((d - mean d)^2) / (2 V), d the difference of logits."""
    student = logits(0).double()
    teacher = logits(1).double()
    d = teacher - student
    limit = ((d - d.mean(-1, keepdim=True)) ** 2).sum() / (2 * 11)
    soft = distillation_loss(student, teacher, TARGETS, 0.0, 1000.0)
    assert soft.item() == pytest.approx(limit.item(), rel=0.01)


def test_the_teacher_gets_no_gradient():
    """Not even where its logits would have one."""
    student = logits(0).requires_grad_()
    teacher = logits(1).requires_grad_()
    distillation_loss(student, teacher, TARGETS, 0.5, 2.0).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_vocabularies_must_be_one():
    """Two sizes are refused with both numbers."""
    with pytest.raises(ValueError, match="student has 11 tokens, teacher 12"):
        distillation_loss(logits(0), logits(1, vocabulary=12), TARGETS, 0.5, 2.0)


def test_of_a_text_only_the_continuation_counts():
    """Positions of weight 0 change nothing; the rest is CE, sharp and at the temperature."""
    student = logits(0)
    weights = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    loss = continuation_loss(student, TARGETS, weights, 0.5, 2.0).item()
    is_scored = weights.bool()
    scored = student[is_scored]
    targets = TARGETS[is_scored]
    hard = F.cross_entropy(scored, targets, reduction="sum").item()
    soft = F.cross_entropy(scored / 2, targets, reduction="sum").item()
    assert loss == pytest.approx((hard + soft) / 2)
    spoilt = student.clone()
    spoilt[~is_scored] = 7 * spoilt[~is_scored] + 1
    again = continuation_loss(spoilt, TARGETS, weights, 0.5, 2.0).item()
    assert again == pytest.approx(loss)
    doubled = continuation_loss(student, TARGETS, 2 * weights, 0.5, 2.0).item()
    assert doubled == pytest.approx(2 * loss)


# Teachers -----------------------------------------------------------------------------------------


def as_sure_as_trained(model) -> None:
    """Of weights as drawn, logits are so even that no temperature makes a difference."""
    model.token_embedding.weight.data *= 50


def mixed_loss(student, teacher, tokens_BT, alpha: float, temperature: float) -> float:
    """The loss by its formula: alpha CE + (1 - alpha) temperature**2 KL."""
    with torch.no_grad():
        student_BTV = student(tokens_BT[:, :-1])
        teacher_BTV = teacher(tokens_BT[:, :-1])
        q = (teacher_BTV / temperature).log_softmax(-1)
        p = (student_BTV / temperature).log_softmax(-1)
        soft = (q.exp() * (q - p)).sum()
        hard = student.loss(tokens_BT)
        return (alpha * hard + (1 - alpha) * temperature**2 * soft).item()


def test_a_teacher_is_learned_from_and_stays_as_it_is(toy, tmp_path, monkeypatch):
    """TEACHER names a checkpoint; its weights are not the student's, and it runs without a graph:
    its activations are not kept, so that a large teacher costs no more memory than to read."""
    teacher = baseline_trainer(toy, tmp_path, monkeypatch, "gpt2_124m", run_id="teacher")
    teacher.save()
    path = str(teacher.run.checkpoint_path)
    student = baseline_trainer(
        toy, tmp_path, monkeypatch, "preln_53m", run_id="s", teacher=path, distill_alpha=0.25
    )
    plain = baseline_trainer(toy, tmp_path, monkeypatch, "preln_53m", run_id="plain")
    assert set(student.model.state_dict()) == set(plain.model.state_dict())
    assert set(student.state()["model"]) == set(plain.state()["model"])
    tokens = torch.randint(1024, (2, 33))
    assert not torch.equal(student.loss_fn(tokens, None), student.loss_fn(tokens, None))  # dropout
    student.model.eval()
    as_sure_as_trained(student.model)
    expected = mixed_loss(student.model, teacher.model, tokens, 0.25, 2.0)
    assert student.loss_fn(tokens, None).item() == pytest.approx(expected, rel=1e-5)


def test_a_teacher_runs_without_a_graph(toy, tmp_path, monkeypatch):
    """Its activations are not kept: a large teacher costs no more memory than to read."""
    is_graph_kept = []

    def teacher(tokens_BT):
        is_graph_kept.append(torch.is_grad_enabled())
        return torch.zeros(*tokens_BT.shape, 1024)

    monkeypatch.setattr(teachers, "open_teacher", lambda settings, device: teacher)
    student = baseline_trainer(toy, tmp_path, monkeypatch, "preln_53m", teacher="a.pt")
    student.loss_fn(torch.zeros(2, 33, dtype=torch.long), None).backward()
    assert is_graph_kept == [False]


def test_a_student_learns_its_teacher(monkeypatch):
    """From the teacher's logits alone it comes near them, and the teacher is as before."""
    config = preln.Config(vocab_size=61, seq_len=32, num_layers=1, model_dim=32, num_heads=2)
    teacher = preln.GPT(config).init_weights(0)
    student = preln.GPT(config).init_weights(1)
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(8)
    before = [p.clone() for p in teacher.parameters()]
    names = set(dict(student.named_parameters()))
    monkeypatch.setattr(teachers, "open_teacher", lambda settings, device: teacher.eval())
    settings = tiny_settings("preln_53m", teacher="a.pt", distill_alpha=0.0)
    loss_fn = teachers.student_loss(student, settings, torch.device("cpu"))
    assert set(dict(student.named_parameters())) == names
    tokens = torch.randint(61, (8, 33), generator=torch.Generator().manual_seed(0))
    student.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    first = loss_fn(tokens, None).item()
    for _ in range(40):
        optimizer.zero_grad()
        loss_fn(tokens, None).backward()
        optimizer.step()
    assert loss_fn(tokens, None).item() < 0.5 * first
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))


def test_without_a_teacher_a_student_learns_the_text(toy, tmp_path, monkeypatch):
    """Its loss is the model's own."""
    trainer = baseline_trainer(toy, tmp_path, monkeypatch, "gpt2_124m")
    tokens = torch.randint(1024, (2, 33))
    assert torch.equal(trainer.loss_fn(tokens, None), trainer.model.loss(tokens))


def test_a_teacher_that_does_not_fit_is_refused_at_the_start(toy, tmp_path, monkeypatch):
    """Another vocabulary, a shorter context, a file that is no model of ours."""
    teacher = baseline_trainer(toy, tmp_path, monkeypatch, "gpt2_124m", run_id="teacher")
    teacher.save()
    path = str(teacher.run.checkpoint_path)
    recipe = preln_53m.RECIPE
    settings = tiny_settings("preln_53m", **toy_paths(toy), teacher=path)
    assert recipe.text(settings).rows(0, 1).tokens_BT.shape == (1, 33)
    longer = dict(train_seq_len=64, train_batch_tokens=64, micro_batch_tokens=64)
    for changes, message in [
        (dict(vocab_size=2000), "has 1024 tokens, VOCAB_SIZE is 2000; teacher and student must"),
        (longer, "reads 32 tokens, TRAIN_SEQ_LEN is 64; lower it to that"),
    ]:
        with pytest.raises(ValueError, match=f"TEACHER=.* {message}"):
            recipe.text(dataclasses.replace(settings, **changes))
    torch.save({"model": dict(teacher.model.named_parameters())}, tmp_path / "plain.pt")
    settings = dataclasses.replace(settings, teacher=str(tmp_path / "plain.pt"))
    with pytest.raises(ValueError, match="plain.pt does not fit .* settings name no recipe"):
        recipe.text(settings)
    (tmp_path / "plain.pt").write_text("text")
    with pytest.raises(ValueError, match="plain.pt is not a checkpoint that loads"):
        recipe.text(settings)
    with pytest.raises(FileNotFoundError, match="none.pt is missing"):
        recipe.text(dataclasses.replace(settings, teacher="none.pt"))


def test_an_artifact_can_teach(toy, tmp_path, monkeypatch):
    """Any model that opens is a teacher."""
    teacher = baseline_trainer(toy, tmp_path, monkeypatch, "gpt2_124m", run_id="teacher")
    teacher.save()
    artifact = tmp_path / "artifact.pgz"
    weights, saved = quantize.load_checkpoint(teacher.run.checkpoint_path)
    artifact.write_bytes(quantize.encode(weights, (quantize.PlanRow("*", 16),), saved))
    settings = tiny_settings("preln_53m", **toy_paths(toy), teacher=str(artifact))
    opened = teachers.open_teacher(settings, torch.device("cpu"))
    tokens = torch.randint(1024, (1, 32))
    with torch.no_grad():
        assert (opened(tokens) - teacher.model.eval()(tokens)).abs().max() < 0.01


# What a teacher wrote -----------------------------------------------------------------------------


@pytest.fixture
def written(tmp_path) -> str:
    """The path of a file of three lines; the longest fills a row of 32 + 1 tokens."""
    return write(tmp_path / "teacher.jsonl", LINES)


def text_of(toy: Path, path: str, **changes) -> Continuations:
    return Continuations(tiny_settings("preln_53m", **toy_paths(toy), teacher=path, **changes))


def test_a_row_is_a_line_and_says_what_each_target_counts(toy, written):
    """Ids are as written, then padding; the weights of a batch sum to its tokens."""
    text = text_of(toy, written, train_batch_tokens=96, micro_batch_tokens=96)
    rows = text.rows(0, 3)
    assert rows.tokens_BT.shape == (3, 33) and rows.weights_BT.shape == (3, 32)
    assert text.num_blocks == 3
    order = text.places(0, 3)
    assert sorted(order) == [0, 1, 2]
    for tokens, weights, i in zip(
        rows.tokens_BT.tolist(), rows.weights_BT.tolist(), order, strict=True
    ):
        prompt = LINES[i]["prompt"]
        continuation = LINES[i]["continuation"]
        padding = 33 - len(prompt) - len(continuation)
        assert tokens == prompt + continuation + [0] * padding
        scored = [96 / 8] * len(continuation)  # of the batch's 96 targets 8 are scored
        assert weights == [0.0] * (len(prompt) - 1) + scored + [0.0] * padding
    assert rows.weights_BT.sum() == 96
    part = text.rows(1, 2)  # as another rank reads them
    assert torch.equal(part.tokens_BT, rows.tokens_BT[1:])
    assert torch.equal(part.weights_BT, rows.weights_BT[1:])


def test_made_up_batches_are_shaped_like_those_of_the_text(toy, written):
    """The rehearsal must take the way that training takes."""
    text = text_of(toy, written, train_batch_tokens=96, micro_batch_tokens=32)
    settings = tiny_settings("preln_53m", train_batch_tokens=96, micro_batch_tokens=32)
    batches = Batches(text, settings, CPU)
    made_up = batches.made_up(torch.Generator().manual_seed(0), 1024)
    for rehearsed, real in zip(made_up, batches.get(0), strict=True):
        assert rehearsed.tokens_BT.shape == real.tokens_BT.shape
        assert rehearsed.weights_BT.shape == real.weights_BT.shape
        assert rehearsed.weights_BT.dtype == real.weights_BT.dtype


def test_every_line_comes_once_a_pass_in_an_order_of_the_seed(toy, written):
    """Passes follow each other, differ, and begin anywhere: a place is one integer."""
    text = text_of(toy, written)
    places = text.places(0, 30)
    passes = [places[i : i + 3] for i in range(0, 30, 3)]
    assert all(sorted(p) == [0, 1, 2] for p in passes) and len(set(map(tuple, passes))) > 1
    assert text.places(7, 9) == places[7:16]
    assert text_of(toy, written).places(0, 30) == places
    assert text_of(toy, written, seed=1).places(0, 30) != places


def test_text_is_encoded_as_one(toy):
    """The ids of both are those of the text; a token across the border is of the continuation."""
    path = str(toy / "tokenizers/toy_1024_bpe.model")
    text = "The old man said that the sea"
    as_one, _ = encode([text, ""], path)
    for cut in range(1, len(text)):
        prompt, continuation = encode([text[:cut], text[cut:]], path)
        alone, nothing = encode([text[:cut], ""], path)
        assert prompt + continuation == as_one and nothing == []
        assert prompt == alone[: len(prompt)]
        assert prompt == alone or continuation[0] != alone[len(prompt)]


@pytest.mark.parametrize(
    "line, message",
    [
        ('{"prompt": [1], ', r"is not JSON \(.*\); write one object a line"),
        ("[" * 100_000, "is not JSON"),
        (b"\xff\xfe{", "is not JSON"),
        ("", "is not JSON"),
        ("[1, 2]", 'must be an object with "prompt" and "continuation"'),
        ('{"prompt": [1]}', 'must be an object with "prompt" and "continuation"'),
        ('{"prompt": [1], "continuation": "sea"}', "must be two lists of token ids, or two texts"),
        ('{"prompt": 1, "continuation": 2}', "must be two lists of token ids, or two texts"),
        ('{"prompt": [], "continuation": [2]}', '"prompt" has no token; .*, or drop the line'),
        ('{"prompt": [1], "continuation": []}', '"continuation" has no token'),
        (
            '{"prompt": [1], "continuation": [1024]}',
            "holds 1024, which is not a token id below VOCAB",
        ),
        ('{"prompt": [-1], "continuation": [2]}', '"prompt" holds -1, .* must have one vocabulary'),
        ('{"prompt": [true], "continuation": [2]}', '"prompt" holds True, which is not a token id'),
        ('{"prompt": [1.0], "continuation": [2]}', '"prompt" holds 1.0, which is not a token id'),
        (
            json.dumps({"prompt": [0] * 32, "continuation": [1, 2]}),
            r"has 34 tokens, more than TRAIN_SEQ_LEN\+1=33; cut the prompt's beginning, or raise",
        ),
        ('{"prompt": "a", "continuation": "b"}', "TOKENIZER_PATH=nowhere is not a SentencePiece"),
    ],
)
def test_a_line_that_cannot_be_a_row_is_refused(tmp_path, line, message):
    """By file, line, what is wrong and what to do; the lines before it were good."""
    path = tmp_path / "bad.jsonl"
    good = json.dumps(LINES[0]).encode()
    path.write_bytes(good + b"\n" + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(ValueError, match=rf"bad\.jsonl:2: .*{message}"):
        read_continuations(str(path), tiny_settings("preln_53m", tokenizer_path="nowhere"))


def test_a_file_without_lines_is_refused(tmp_path):
    """It is not a teacher."""
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="empty.jsonl has no lines"):
        read_continuations(str(tmp_path / "empty.jsonl"), tiny_settings("preln_53m"))


@pytest.mark.parametrize("parts", [1, 3])
def test_the_loss_is_the_mean_over_what_the_teacher_wrote(
    toy, written, tmp_path, monkeypatch, parts
):
    """Part CE, part CE at the temperature, over continuations alone, however the step is split."""
    student = baseline_trainer(
        toy,
        tmp_path,
        monkeypatch,
        "preln_53m",
        teacher=written,
        distill_alpha=0.25,
        train_batch_tokens=96,
        micro_batch_tokens=96 // parts,
    )
    student.model.eval()
    nats = 0.0
    for line in LINES:
        first = len(line["prompt"])
        tokens_T = torch.tensor(line["prompt"] + line["continuation"])
        with torch.no_grad():
            logits_SV = student.model(tokens_T[None, :-1])[0, first - 1 :]
        hard = F.cross_entropy(logits_SV, tokens_T[first:], reduction="sum")
        soft = F.cross_entropy(logits_SV / 2, tokens_T[first:], reduction="sum")
        nats += (0.25 * hard + 0.75 * soft).item()
    rows = student.text.rows(0, 3)
    student.model.train()
    first_draw = student.loss_fn(rows.tokens_BT, rows.weights_BT)
    assert not torch.equal(student.loss_fn(rows.tokens_BT, rows.weights_BT), first_draw)  # dropout
    student.model.eval()
    assert len(student.batches.get(0)) == parts
    loss, grad_norm = student.train_step(student.batches.get(0), progress=0.0)
    assert loss.item() == pytest.approx(nats / 8, rel=1e-5) and grad_norm > 0


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_student_learns_what_its_teacher_wrote(toy, tmp_path, monkeypatch, system):
    """The loss falls from that of a guess; a resumed run has the losses of one never stopped."""
    ids = [[(3 * n + k) % 9 for k in range(9)] for n in range(9)]
    lines = [{"prompt": [5, n], "continuation": ids[n]} for n in range(9)]
    path = write(tmp_path / "teacher.jsonl", lines)

    def student(run_id: str):
        return baseline_trainer(
            toy,
            tmp_path,
            monkeypatch,
            system,
            teacher=path,
            run_id=run_id,
            iterations=12,
            peak_lr=0.02,
            lr_decay_steps=12,
            train_batch_tokens=9 * 32,
            micro_batch_tokens=9 * 32,
        )

    def train_to(trainer, step: int) -> list[float]:
        losses = []
        while trainer.step < step:
            loss, _ = trainer.train_step(trainer.batches.get(trainer.step), 0.5)
            losses.append(loss.item())
        return losses

    unbroken = train_to(student("unbroken"), 12)
    first = student("first")
    in_two_parts = train_to(first, 5)
    second = student("second")
    second.load(saved_state(first))
    in_two_parts += train_to(second, 12)
    assert in_two_parts == unbroken
    assert unbroken[0] > 6.5 and unbroken[-1] < 0.75 * unbroken[0]


def test_a_bad_line_ends_the_command_in_one_line(toy, tmp_path, monkeypatch):
    """The text is read before a folder is made."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine_trainer, "check_data", lambda *_: "")
    path = write(tmp_path / "teacher.jsonl", [LINES[0], {"prompt": [1]}])
    recipe = RECIPES["preln_53m"]
    with variables(monkeypatch, {**tiny_fields(recipe), **toy_paths(toy), "teacher": path}):
        message = r"error: .*teacher\.jsonl:2: must be an object with \"prompt\""
        with pytest.raises(SystemExit, match=message):
            engine_trainer.train(recipe)
    assert not (tmp_path / "logs").exists()
