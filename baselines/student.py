"""Our recipe with a teacher: train_gpt.py, but for the loss.

TEACHER=logs/<run_id>/checkpoint.pt golf.py train student
"""

from dataclasses import dataclass

import train_gpt
from baselines import teachers
from engine.recipe import LossFunction
from engine.text import TrainingText
from engine.trainer import train


@dataclass(frozen=True)
class StudentSettings(train_gpt.Settings, teachers.TeacherSettings):
    """The settings of both. Raises: ValueError as they do."""

    def __post_init__(self):
        train_gpt.Settings.__post_init__(self)
        teachers.TeacherSettings.__post_init__(self)


class Student(train_gpt.OurRecipe):
    name = "baselines.student"
    Settings = StudentSettings

    def text(self, settings: StudentSettings) -> TrainingText:
        return teachers.text_of(settings)

    def training_loss(self, model: train_gpt.GPT, settings: StudentSettings) -> LossFunction:
        device = next(model.parameters()).device
        return teachers.student_loss(model, settings, device)


RECIPE = Student()

if __name__ == "__main__":
    train(RECIPE)
