"""What a program shows by where a call stands: training text while scoring, files, network."""

import pytest

from tools.legality.lint import lint

TRAIN_AND_EVAL = """
def {name}(args, model):
    train_loader = Loader(args.train_files)
    for step in range(args.steps):
        x, y = train_loader.next_batch()
        {learn}
    return eval_val(model)
def eval_val(model):
    return model.score()
"""


@pytest.mark.parametrize(
    "name, learn, rules",
    [
        ("train_and_eval", "loss = model(x, y); loss.backward()", set()),
        ("run_then_eval", "loss = model(x, y); loss.backward()", set()),
        ("training_with_eval", "learn(model, x, y)", set()),
        ("main", "learn(model, x, y)", set()),
        ("eval_with_memory", "remember(model, x, y)", {"phases"}),
    ],
)
def test_training_text_is_read_by_who_trains(name, learn, rules):
    """Told by what the function does, not by the word eval in its name."""
    findings = lint(TRAIN_AND_EVAL.format(name=name, learn=learn))
    assert {f.rule for f in findings if f.level == "fail"} == rules


def test_what_an_evaluation_calls_runs_while_scoring():
    """A helper of the scorer that reads a further file fails; beside the scorer it does not."""
    helper = "import numpy as np\ndef helper():\n    return np.load('table.npz')\n"
    assert lint(helper) == []
    (finding,) = lint(helper + "def eval_val(model):\n    return helper()\n")
    assert (finding.rule, finding.place) == ("artifact-only", "train_gpt.py:3")
