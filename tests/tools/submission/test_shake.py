"""Functions, classes and methods that nothing reaches are left out; all else stays on its line."""

import ast

from tools.submission.shake import shake

TEXTS = {
    "train_gpt.py": """import helper
from helper import Kept


def main():
    print(Kept().speak(), getattr(helper, "by_name")())


def spare():
    pass


if __name__ == "__main__":
    main()
""",
    "helper.py": """import sys


class Kept:
    kind = "dog"

    def __init__(self):
        self.sound = sound()

    def speak(self):
        return self.sound

    def never_called(self):
        return far_away()


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
    "evaluate.py": """def main():
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
    """By name, through strings too; a script guard counts in the entry alone."""
    shaken = shake(TEXTS, "train_gpt.py")
    assert names_in(shaken["train_gpt.py"]) == ["main"]
    assert names_in(shaken["helper.py"]) == ["Kept", "sound", "by_name", "__init__", "speak"]
    assert "__main__" not in shaken["helper.py"] and "__main__" in shaken["train_gpt.py"]


def test_the_command_line_of_the_score_stays():
    """A reader starts it from outside; a probe is for tools."""
    assert names_in(shake(TEXTS, "train_gpt.py")["evaluate.py"]) == ["main", "scored"]


def test_every_statement_keeps_its_line():
    """So that a traceback names it."""
    shaken = shake(TEXTS, "train_gpt.py")
    for name, text in TEXTS.items():
        before = {ast.unparse(node): node.lineno for node in ast.parse(text).body}
        for node in ast.parse(shaken[name]).body:
            if not isinstance(node, ast.ClassDef):
                assert before[ast.unparse(node)] == node.lineno


def test_what_was_shaken_runs_and_is_shaken_no_further():
    """The same result, and nothing new to leave out."""
    shaken = shake(TEXTS, "train_gpt.py")
    assert shake(shaken, "train_gpt.py") == shaken
    space = {"__name__": "helper"}
    exec(shaken["helper.py"], space)
    assert space["Kept"]().speak() == "wuff"
