"""Settings that exclude each other, defaults that leave a cheat off, and the training clock."""

import textwrap

import pytest

from tools.legality.judge import ClockUse
from tools.legality.lint import lint
from tools.legality.values import Value

SLOT = """
import os, torch
import torch.nn.functional as F
{switch}
def evaluate(model, val_tokens):
    x, y = val_tokens[:-1], val_tokens[1:]
    h = model.hidden(x)
    if {test}:
        delta = torch.zeros(1, 8, requires_grad=True)
        F.cross_entropy(model.head(h + delta), y).backward()
    with torch.no_grad():
        return F.cross_entropy(model.head(h), y)
"""


@pytest.mark.parametrize(
    "switch, test, level",
    [
        ("SLOT = bool(int(os.environ.get('SLOT', '0')))", "SLOT", "warn"),
        ("SLOT = bool(int(os.environ.get('SLOT', '1')))", "SLOT", "fail"),
        ("SLOT = os.environ['SLOT']", "SLOT", "fail"),
        ("SLOT = os.environ.get('SLOT', '0') == '1'", "SLOT", "warn"),
        ("STEPS = int(os.environ.get('STEPS', 0))", "STEPS > 0", "warn"),
        ("SLOT = False", "SLOT", "warn"),
        ("SLOT = False\nSLOT = True", "SLOT", "fail"),
        ("class Args:\n    slot = False\nargs = Args()", "args.slot", "warn"),
        ("class Args:\n    slot = 3\nargs = Args()", "args.slot and not False", "fail"),
        ("parser.add_argument('--slot', action='store_true')\nargs = parser.parse_args()",
         "args.slot", "warn"),
    ],
)  # fmt: skip
def test_what_the_default_leaves_off_is_a_warning(switch, test, level):
    """The same cheat fails where it is on, or where nobody can say."""
    levels = [f.level for f in lint(SLOT.format(switch=switch, test=test)) if f.rule == "causal"]
    assert levels == [level]


TWO_WAYS = """
import os, torch
import torch.nn.functional as F
TTT = {setting}
def adapted(model, val_tokens, opt):
    for chunk in val_tokens.split(1024):
        x, y = chunk[:-1], chunk[1:]
        with torch.no_grad():
            total = F.cross_entropy(model(x), y)
        F.cross_entropy(model(x), y).backward()
        opt.step()
def plain(model, val_tokens):
    with torch.no_grad():
        return F.cross_entropy(model(val_tokens[:-1]), val_tokens[1:])
def main(model, opt):
    val_tokens = torch.load("fineweb_val_000000.bin")
    if TTT:
        adapted(model, val_tokens, opt)
{rest}
main(None, None)
"""


@pytest.mark.parametrize("setting", ["os.environ['TTT']", "bool(int(os.environ.get('TTT', '1')))"])
@pytest.mark.parametrize(
    "rest, rules",
    [
        ("    if not TTT:\n        plain(model, val_tokens)", []),
        ("    else:\n        plain(model, val_tokens)", []),
        ("        return\n    plain(model, val_tokens)", []),
        ("    plain(model, val_tokens)", ["one-pass"]),
    ],
)
def test_exclusive_branches_are_not_both_taken(setting, rest, rules):
    """Scored after training on it: only where both can happen in one run."""
    text = textwrap.dedent(TWO_WAYS.format(setting=setting, rest=rest))
    assert [f.rule for f in lint(text) if f.level == "fail"] == rules


def test_the_clock_is_over_after_a_loop_to_the_bare_limit():
    """A reserve, or a limit below the ten minutes, leaves time for calibration."""
    for limit, has_reserve, is_late in [
        (600, False, True),
        (590, False, False),
        (600, True, False),
    ]:
        clock = ClockUse()
        clock.trained([7, 8])
        clock.compared(Value(const=limit), has_reserve)
        clock.left(8)
        assert not clock.is_over
        clock.left(7)
        assert (clock.is_over and not clock.has_reserve) == is_late
