"""Judge what meets the text: losses that are optimised, scores, tables, hashes, calibration.

The flow tells a Judge in the order in which the program would run what it computes from a text, and
asks it for findings at the end. A text is validation text where a path or a name says so. A text of
unknown origin, as the argument of a function that nothing calls, counts as validation text where it
is scored without gradients: training on it before that is reported when the score comes.
"""

import ast
from dataclasses import dataclass, field

from tools.legality.rules import Finding
from tools.legality.values import FROM_TARGET, TEXT, TOKENS, Value
from tools.legality.verdicts import say

ELEMENTWISE = {"minimum", "fmin"}  # the smaller one of each pair of numbers


@dataclass(eq=False)
class Frame:
    """One call of a function, or the top of a file."""

    name: str
    file: str
    places: dict  # text_positions of the function
    targets: frozenset[str] = frozenset()  # names of what it gives to a loss as targets
    returned: list = field(default_factory=list)
    has_hooks: bool = False


@dataclass(frozen=True)
class Event:
    """A score, an update or a calibration that was made from a text."""

    stack: frozenset[int]  # loops around it
    loops: frozenset[int]  # loops that select its tokens
    models: frozenset
    roots: frozenset[int]
    frame: Frame
    conditions: frozenset  # settings that have to be on or off to get there
    is_certain: bool = True  # of a score: without gradients, so no mere log of a training loss


@dataclass(frozen=True)
class Pending:
    """A finding that holds once its text, or its table, turns out to be what is scored."""

    pattern: str
    frame: Frame
    line: int
    is_off: bool
    event: Event


def can_both_happen(one: Event, other: Event) -> bool:
    """Whether no setting has to be on for one of the events and off for the other."""
    return not any((name, not is_on) in other.conditions for name, is_on in one.conditions)


class Judge:
    """Collects events and findings of a program, in the order in which it would run."""

    # What begins anew at the top of each file and of each function that nothing calls.
    STATE = ("frames", "loops", "open_loops", "no_grad", "scores", "updates", "pending", "lookups")
    STATE += ("conditions", "clock")

    def __init__(self):
        self.findings: dict[tuple, Finding] = {}
        self.counted: set[int] = set()  # loops over a range, as epochs are
        self.off = 0  # depth of branches that the defaults leave off
        self.rivals = 0  # depth of branches that depend on which of two losses is smaller
        self.hits = 0  # depth of branches that depend on what the target turned out to be
        self.tested: set[str] = set()  # names in the tests of branches that depend on a loss

    def start(self, file: str, places: dict) -> None:
        self.frames = [Frame("<module>", file, places)]
        self.loops: list[int] = []
        self.open_loops: set[int] = set()  # while: whatever is assigned in one varies with it
        self.no_grad = False
        self.scores: list[Event] = []
        self.updates: list[Event] = []
        self.pending: list[Pending] = []
        self.lookups: list[tuple[Value, Pending]] = []  # of tables that may be counted later
        self.conditions: list[tuple[str, bool]] = []
        self.clock = ClockUse()

    def event(self, value: Value, is_certain: bool = True) -> Event:
        return Event(
            frozenset(self.loops),
            value.loops,
            value.models,
            value.roots,
            self.frames[-1],
            frozenset(self.conditions),
            is_certain,
        )

    # Findings

    def report(self, pattern: str, node: ast.AST) -> None:
        self.add(pattern, self.frames[-1], node.lineno, self.off > 0)

    def add(self, pattern: str, frame: Frame, line: int, is_off: bool) -> None:
        finding = say(pattern, f"{frame.file}:{line}", "warn" if is_off else "fail")
        earlier = self.findings.get((finding.rule, finding.place))
        if earlier is None or (earlier.level == "warn" and finding.level == "fail"):
            self.findings[finding.rule, finding.place] = finding

    def report_once_scored(self, pattern: str, node: ast.AST, event: Event) -> None:
        """Report now what concerns validation text, and else when its text is scored."""
        self.pending.append(Pending(pattern, self.frames[-1], node.lineno, self.off > 0, event))

    # Scores and updates

    def score(self, value: Value, node: ast.AST) -> bool:
        """Note a loss of a text that was computed without gradients.

        Returns whether the model learned from that very chunk before: harmless, unless it is kept.
        """
        event = self.event(value)
        is_again = False
        for update in self.updates:
            if not self.is_same_text(update, event) or not can_both_happen(update, event):
                continue
            shared = event.stack & update.stack
            is_again |= bool(shared & value.loops & update.loops)
            if not shared and value.models & update.models:
                self.report("again", node)
        for pending in self.pending:
            if pending.event.roots & event.roots and can_both_happen(pending.event, event):
                self.add(pending.pattern, pending.frame, pending.line, pending.is_off)
        if value.kinds & FROM_TARGET:
            self.report("gated", node)
        self.scores.append(event)
        return is_again

    @staticmethod
    def is_same_text(one: Event, other: Event) -> bool:
        """Of validation text there is one; unknown texts are told apart by where they come from."""
        return not (one.roots and other.roots) or bool(one.roots & other.roots)

    def accumulate(self, value: Value, node: ast.AST) -> None:
        """Note that losses of a text are added up or collected: that is scoring too."""
        if "nll" in value.kinds and value.kinds & TEXT:
            self.scores.append(self.event(value, is_certain=self.no_grad))
            if "again" in value.kinds:
                self.report("again", node)
            if (self.rivals or "smallest" in value.kinds) and self.is_of_window([value]):
                self.report("smaller", node)
            if value.kinds & FROM_TARGET:
                self.report("gated", node)

    def update(self, loss: Value, node: ast.Call) -> None:
        """Judge a step of learning: were its tokens scored before, in the same turn of a loop?"""
        if "val" not in loss.kinds and not ("nll" in loss.kinds and loss.roots):
            self.clock.trained(self.loops)
            return
        event = self.event(loss)
        is_scored = False
        in_epochs = False
        for score in self.scores:
            if not self.is_same_text(score, event) or not can_both_happen(score, event):
                continue
            shared = event.stack & score.stack
            repeats = (shared & self.counted) - score.loops - loss.loops
            if repeats and score.is_certain:
                in_epochs = True
            elif shared & score.loops and not repeats:
                is_scored = True
            # All of it scored by this very function, and then trained on: harmless, unless it is
            # scored again with what was learned.
            is_local = len(self.frames) > 1 and score.frame is self.frames[-1]
            is_scored |= bool(score.is_certain and is_local)
        if in_epochs:
            pattern = "epochs"
        elif is_scored:
            self.updates.append(event)
            return
        else:
            pattern = "optimised" if "fresh" in loss.kinds else "trained"
        if "val" in loss.kinds or in_epochs:
            self.report(pattern, node)
        else:
            self.clock.trained(self.loops)
            self.report_once_scored(pattern, node, event)

    def choose(self, name: str, values: list[Value], node: ast.Call, has_axis: bool) -> None:
        """Judge a choice between losses: it depends on what the tokens turned out to be."""
        options = [part for value in values for part in (value.parts or [value])]
        losses = [value for value in options if "nll" in value.kinds and value.kinds & TEXT]
        if name == "where":
            condition, *choices = values or [Value()]
            if len(losses) > 1 and any("compared" in value.kinds for value in values):
                self.report("smaller", node)
            elif condition.kinds & FROM_TARGET and len(choices) == 2:
                # where(is_padding, 0, nll) leaves a token out; where(hit, nll - b, nll) rewards it.
                if all("nll" in value.kinds for value in choices):
                    self.report("gated", node)
        elif len(losses) > 1 or any("tried" in value.kinds for value in losses):
            # The smaller of two whole losses is a score where the text is that of the score; else
            # it may be which artifact is kept.
            is_scored = len(losses) > 1 and any("val" in value.kinds for value in losses)
            if has_axis or name in ELEMENTWISE or is_scored or self.is_of_window(losses):
                self.report("smaller", node)

    def is_of_window(self, losses: list[Value]) -> bool:
        """Whether these are losses of the tokens of one turn of a loop, not of a whole text."""
        return any(value.loops & set(self.loops) for value in losses)

    def peek(self, logits: Value, target: Value, node: ast.AST) -> None:
        """Judge logits that are made from the very targets that they are scored on."""
        is_seen = "target" in logits.kinds and not {"nll", "hashed", "hit"} & logits.kinds
        if is_seen and self.is_same_text(self.event(logits), self.event(target)):
            self.report("peeked", node)

    # Tables

    def look_up(self, table: Value, key: Value, node: ast.AST) -> None:
        """Judge a table that is read by a key made from tokens."""
        if "hashed" in key.kinds and "val" in key.kinds:
            self.report("hashed", node)
        elif "hashed" in key.kinds:
            pending = Pending("hashed", self.frames[-1], node.lineno, self.off > 0, self.event(key))
            self.lookups.append((table, pending))
            if table.learned:
                self.report("hashed", node)
        elif key.kinds & TOKENS and key.kinds & TEXT and table.learned:
            if not any(set(self.loops) & around for around in table.learned):
                if "val" in key.kinds:
                    self.report("counted", node)

    def learn(self, table: Value, key: Value) -> None:
        """Note that a table counts tokens, and judge how it was read before that line."""
        if not key.kinds & TOKENS:
            return
        table.learned.append(frozenset(self.loops))
        if "hashed" in key.kinds:
            for other, pending in self.lookups:
                if other is table:
                    self.add(pending.pattern, pending.frame, pending.line, pending.is_off)

    # Calibration

    def calibrate(self, text: Value, node: ast.AST) -> None:
        """Judge statistics of a model's inputs that are collected over a text."""
        if "val" in text.kinds:
            self.report("calibrated", node)
        elif self.clock.is_over and not self.clock.has_reserve:
            if "train" in text.kinds or text.roots:
                self.report("late", node)
        elif text.roots:
            self.report_once_scored("calibrated", node, self.event(text))


@dataclass
class ClockUse:
    """What a program does with its training time.

    is_over after a loop that trains until the bare limit: whatever reads training text then is too
    late. Not so where the loop compares with less than the limit, as 600 - reserve or 590.
    """

    training_loops: set[int] = field(default_factory=set)
    is_limited: bool = False
    has_reserve: bool = False
    is_over: bool = False

    def trained(self, loops: list[int]) -> None:
        self.training_loops |= set(loops[:1])

    def compared(self, limit: Value, has_reserve: bool) -> None:
        number = limit.const if isinstance(limit.const, int | float) else None
        is_shorter = number is not None and (number < 600 or 1000 < number < 600_000)
        self.is_limited = True
        self.has_reserve |= has_reserve or is_shorter

    def left(self, loop: int) -> None:
        if loop in self.training_loops and self.is_limited:
            self.is_over = True
