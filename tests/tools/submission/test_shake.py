"""Functions, classes, methods, constants and imports that nothing reaches are left out."""

import ast

from tools.submission.shake import shake

TEXTS = {
    "train_gpt.py": """import helper
from helper import Kept, Dropped

RECIPE = 3  # who imports the script reads it


def main():
    print(Kept().speak(), Kept().limit(), getattr(helper, "by_name")())
    print(helper.Answers, helper.Linear)


def spare():
    pass


if __name__ == "__main__":
    main()
""",
    "helper.py": """import os, sys
from evaluate import (
    probe,
    scored as by_score,
)

__all__ = ["Dropped", "far_away"]
LIMIT = 1 << 4
UNUSED = LIMIT + 1
OPENED = open(os.devnull)  # may have an effect: stays


class Kept:
    kind = "dog"

    def __init__(self):
        self.sound = sound()

    def speak(self):
        return self.sound

    def never_called(self):
        return far_away()

    def limit(self):
        never_called = LIMIT  # a variable is not a call of the method
        print("far_away is only spoken of")
        return by_score() + never_called


class Answer(list):
    def append(self, item):  # list calls it, or may
        return item


class Answers(Answer):
    def extend(self, items):
        return items


class Linear(torch.nn.Linear):  # not its own base
    def forward(self, x):
        return x


class Dropped:
    def speak(self):
        return far_away()


def sound():
    return "wuff"


def by_name():
    return 1


def far_away():
    return 2


def main_of_helper():
    return far_away()


if __name__ == "__main__":
    sys.exit(main_of_helper())
""",
    "evaluate.py": """def command_line():
    return scored()


def scored():
    return 3


def probe():
    return 4
""",
}


def names_in(text: str) -> list[str]:
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in ast.walk(ast.parse(text)) if isinstance(node, kinds)]


def test_what_nothing_reaches_is_left_out():
    """By name, through strings that are names; a script guard counts in the entry alone."""
    shaken = shake(TEXTS, "train_gpt.py")
    assert names_in(shaken["train_gpt.py"]) == ["main"]
    classes = ["Kept", "Answer", "Answers", "Linear", "sound", "by_name"]
    methods = ["__init__", "speak", "limit", "append", "extend", "forward"]
    assert names_in(shaken["helper.py"]) == classes + methods
    assert "__main__" not in shaken["helper.py"] and "__main__" in shaken["train_gpt.py"]
    assert names_in(shaken["evaluate.py"]) == ["scored"]


def test_names_that_are_only_imported_are_left_out():
    """The others of the same statement stay, and so does a module that is imported as such."""
    shaken = shake(TEXTS, "train_gpt.py")
    assert shaken["helper.py"].startswith("import os, sys\nfrom evaluate import scored as by_score")
    assert shaken["train_gpt.py"].startswith("import helper\nfrom helper import Kept\nRECIPE = 3")


def test_constants_that_nothing_reads_are_left_out():
    """Unless making them may do more than give a name to a value."""
    shaken = shake(TEXTS, "train_gpt.py")["helper.py"]
    assert "LIMIT = 1 << 4" in shaken and "OPENED" in shaken
    assert "UNUSED" not in shaken and "__all__" not in shaken


def test_what_was_shaken_runs_and_is_shaken_no_further():
    """The same result, and nothing new to leave out."""
    shaken = shake(TEXTS, "train_gpt.py")
    assert shake(shaken, "train_gpt.py") == shaken
    text = shaken["helper.py"].replace("torch.nn.Linear", "object")
    space = {"__name__": "helper"}
    exec(text.replace("from evaluate import scored as by_score", "by_score = int"), space)
    assert space["Kept"]().speak() == "wuff" and space["Kept"]().limit() == 16
