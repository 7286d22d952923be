"""Losses by which a student learns from a teacher: from its logits, or from text it wrote.

Both give nats summed over targets, as a model's own `loss` does. The teacher is never trained, and
its vocabulary must be the student's.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

COUNTED = 1 << 16  # above every token id: a row's tokens hold a count in multiples of it


def distillation_loss(
    student_BTV: Tensor, teacher_BTV: Tensor, targets_BT: Tensor, alpha: float, temperature: float
) -> Tensor:
    """alpha * CE + (1 - alpha) * temperature**2 * KL(teacher || student), summed over targets.

    Both distributions of the KL are at the temperature; its square keeps the gradient's size.

    Raises: ValueError where the vocabularies differ.
    """
    if student_BTV.size(-1) != teacher_BTV.size(-1):
        raise ValueError(
            f"student has {student_BTV.size(-1)} tokens, teacher {teacher_BTV.size(-1)}; they must"
            " have one vocabulary"
        )
    student = student_BTV.flatten(0, -2)
    hard = F.cross_entropy(student, targets_BT.flatten(), reduction="sum")
    if alpha == 1:
        return hard
    teacher = teacher_BTV.detach().flatten(0, -2)
    soft = F.kl_div(
        F.log_softmax(student / temperature, dim=-1),
        F.log_softmax(teacher / temperature, dim=-1),
        reduction="sum",
        log_target=True,
    )
    return alpha * hard + (1 - alpha) * temperature**2 * soft


def continuation_loss(
    student_BTV: Tensor,
    targets_BT: Tensor,
    weights_BT: Tensor,
    alpha: float,
    temperature: float,
) -> Tensor:
    """alpha * CE + (1 - alpha) * CE at the temperature, on what the teacher wrote, summed.

    The text is the teacher's own: a prompt, whose weights are 0, and its continuation. A teacher
    of which only the text is known has no logits, so no square of the temperature.
    """
    nats = [
        F.cross_entropy((student_BTV / t).flatten(0, -2), targets_BT.flatten(), reduction="none")
        for t in (1.0, temperature)
    ]
    weights = weights_BT.flatten().to(student_BTV.dtype)
    return ((alpha * nats[0] + (1 - alpha) * nats[1]) * weights).sum()


def loss_with_teacher(student, teacher, alpha: float, temperature: float):
    """A function to stand for `student.loss`: the loss of tokens_BT with the teacher's logits.

    The teacher is held by the function, not by the student: no optimizer and no checkpoint sees it.
    """

    def loss(tokens_BT: Tensor) -> Tensor:
        inputs, targets = tokens_BT[:, :-1], tokens_BT[:, 1:]
        with torch.no_grad():
            teacher_BTV = teacher(inputs)
        student_BTV = getattr(student, "training_logits", student)(inputs)
        return distillation_loss(student_BTV, teacher_BTV, targets, alpha, temperature)

    return loss


def loss_on_continuations(student, alpha: float, temperature: float, batch_tokens: int):
    """A function to stand for `student.loss`: the loss of rows that hold a teacher's text.

    A scored token of a row is its id and, in multiples of COUNTED, how many tokens of the batch are
    scored. Divided by batch_tokens, as a trainer does, the sum over a batch is the mean over those.
    """

    def loss(tokens_BT: Tensor) -> Tensor:
        ids_BT, scored_BT = tokens_BT % COUNTED, tokens_BT[:, 1:] // COUNTED
        weights_BT = batch_tokens / scored_BT.clamp(min=1) * (scored_BT > 0)
        student_BTV = getattr(student, "training_logits", student)(ids_BT[:, :-1])
        return continuation_loss(student_BTV, ids_BT[:, 1:], weights_BT, alpha, temperature)

    return loss
