"""Losses with a teacher: the reference value, their limits, and what must not learn."""

import math

import pytest
import torch
import torch.nn.functional as F

from baselines import preln
from baselines.distill import continuation_loss, distillation_loss, loss_with_teacher


def logits(seed: int, rows: int = 3, vocabulary: int = 11) -> torch.Tensor:
    return torch.randn(2, rows, vocabulary, generator=torch.Generator().manual_seed(seed))


TARGETS = torch.tensor([[1, 5, 2], [0, 10, 4]])


def test_the_loss_has_the_value_worked_out_by_hand():
    """z_s = (0, 0), z_t = (ln 9, 0), y = 0, half each, T = 2: 0.60819766."""
    student, teacher = torch.zeros(1, 1, 2), torch.tensor([[[math.log(9), 0.0]]])
    y = torch.zeros(1, 1, dtype=torch.long)
    assert distillation_loss(student, teacher, y, 0.5, 2.0).item() == pytest.approx(0.60819766)
    soft = distillation_loss(student, teacher, y, 0.0, 2.0).item()
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
    student, teacher = logits(0).double(), logits(1).double()
    d = teacher - student
    limit = ((d - d.mean(-1, keepdim=True)) ** 2).sum() / (2 * 11)
    soft = distillation_loss(student, teacher, TARGETS, 0.0, 1000.0)
    assert soft.item() == pytest.approx(limit.item(), rel=0.01)


def test_the_teacher_gets_no_gradient():
    """Not even where its logits would have one."""
    student, teacher = logits(0).requires_grad_(), logits(1).requires_grad_()
    distillation_loss(student, teacher, TARGETS, 0.5, 2.0).backward()
    assert teacher.grad is None and student.grad.abs().sum() > 0


def test_the_teacher_runs_without_a_graph():
    """Its activations are not kept: a large teacher costs no more memory than to read."""
    graphs = []

    def teacher(tokens_BT):
        graphs.append(torch.is_grad_enabled())
        return logits(1)

    loss = loss_with_teacher(lambda tokens_BT: logits(0).requires_grad_(), teacher, 0.5, 2.0)
    loss(torch.zeros(2, 4, dtype=torch.long)).backward()
    assert graphs == [False]


def test_vocabularies_must_be_one():
    """Two sizes are refused with both numbers."""
    with pytest.raises(ValueError, match="student has 11 tokens, teacher 12"):
        distillation_loss(logits(0), logits(1, vocabulary=12), TARGETS, 0.5, 2.0)


def test_of_a_text_only_the_continuation_counts():
    """Positions of the prompt change nothing; the rest is CE, sharp and at the temperature."""
    student, kept = logits(0), torch.tensor([[0, 1, 1], [0, 0, 1]]).bool()
    loss = continuation_loss(student, TARGETS, kept, 0.5, 2.0).item()
    flat, y = student[kept], TARGETS[kept]
    hard = F.cross_entropy(flat, y, reduction="sum").item()
    soft = F.cross_entropy(flat / 2, y, reduction="sum").item()
    assert loss == pytest.approx((hard + soft) / 2)
    spoilt = student.clone()
    spoilt[~kept] = 7 * spoilt[~kept] + 1
    assert continuation_loss(spoilt, TARGETS, kept, 0.5, 2.0).item() == pytest.approx(loss)


def test_a_student_learns_its_teacher():
    """From the teacher's logits alone it comes near them; parameters and teacher are as before."""
    shape = dict(vocab_size=61, seq_len=32, num_layers=1, model_dim=32, num_heads=2)
    config = preln.Config(**shape)
    teacher, student = (preln.GPT(config).init_weights(seed) for seed in (0, 1))
    with torch.no_grad():
        for p in teacher.parameters():
            p.mul_(8)
    before = [p.clone() for p in teacher.parameters()]
    names = set(dict(student.named_parameters()))
    tokens = torch.randint(61, (8, 33), generator=torch.Generator().manual_seed(0))
    student.loss = loss_with_teacher(student, teacher, 0.0, 2.0)
    assert set(dict(student.named_parameters())) == names
    assert not torch.equal(student.loss(tokens), student.loss(tokens))  # dropout acts
    student.eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    first = student.loss(tokens).item()
    for _ in range(40):
        optimizer.zero_grad()
        student.loss(tokens).backward()
        optimizer.step()
    assert student.loss(tokens).item() < 0.5 * first
    assert all(torch.equal(a, b) for a, b in zip(before, teacher.parameters(), strict=True))
