"""Read a training script for what the rules forbid, without running it.

    python -m tools.legality.lint SCRIPT_OR_FOLDER... [--json]

Exit status 0: nothing that fails (warnings included), 1: something breaks a rule, 2: nothing that
could be read. A folder means train_gpt.py and all code that it reaches (tools.submission.size);
scripts that unpack themselves are unpacked first (tools.submission.bundle), and findings name the
file inside.

It follows validation tokens from where they are read through assignments, slices, loops and calls
of functions in the same folder, in the order in which the program would run, and looks at what
meets them: a loss that is optimised, a score, a table, a hash. FAIL is for what breaks a rule as
written, WARN for what a person has to look at.

This is a weak signal. It cannot see values: which branch a setting takes, whether two slices hold
the same tokens, whether a distribution sums to one, what a kernel in another language or a compiled
extension does; nor names put together at run time, state hidden in nn.Module.forward, text copied
into the weights, or another tokenisation. Shortened names cost it the targets. A clean report means
that the usual mistakes are not in plain sight. The proof is tools.legality.audit, which runs the
scorer.
"""

import argparse
import ast
import itertools
import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from tools.legality.rules import Finding, report, status
from tools.submission.size import ENTRY, reached
from tools.submission.unwrap import unwrap

# Names as the field uses them. A name counts only where nothing else is known about a value.
WORD = r"(?:^|[^a-z])(?:{})(?:[^a-z]|$)"
VAL_TOKENS = re.compile(
    r"^_?val(id|idation)?_?(tok\w*|data|ids|stream|np|text|T|set|batches)$", re.I
)
VAL_PATH = re.compile(WORD.format("val|valid|validation"), re.I)
TRAIN_PATH = re.compile(WORD.format("train|training"), re.I)
NO_PATH = re.compile(r"\s|loss|bpb|every|step|batch|seq|iter|time|log|:", re.I)
PATH_NAME = re.compile(r"(files?|paths?|pattern|glob|shards?|dir|bin)$", re.I)
READS_VAL = re.compile(r"^_*(load|read|get)_\w*(val|valid|validation)(_|$)", re.I)
TARGET = re.compile(r"^(y|ys|y_\w+|tgt\w*|targets?(_\w+)?|labels?|gold\w*|next_tok\w*)$")
INPUT = re.compile(r"^(x|xs|x_\w+|inp\w*|prev\w*|ctx\w*|context\w*)$")
SCORES = re.compile(
    WORD.format("eval|evaluate|score|scored|scoring|ttt|slot|validate|sliding"), re.I
)
CALIBRATES = re.compile(r"calib|hessian|gptq|awq|collect_act", re.I)
BYTES = re.compile(r"^(?!.*(sum|count|total|path|file|per)).*(byte|(^|_)nb($|_))", re.I)
LOSS = re.compile(r"cross_entropy|nll|(^|_)loss$|log_prob", re.I)
GRADS = re.compile(r"^backward$|^(?!no_|zero_|enable_|clip_|all_|scale_)(\w+_)?grads?(_fn)?$")
READERS = {"fromfile", "memmap", "load", "frombuffer", "read_bytes", "read_text", "loadtxt", "open"}
SIZES = {"numel", "size", "dim", "shape", "len", "ndim", "dtype", "device", "stat", "exists"}
SAME = {
    "to",
    "eval",
    "train",
    "cuda",
    "cpu",
    "float",
    "half",
    "bfloat16",
    "compile",
    "DDP",
    "module",
}
SAME |= {"DistributedDataParallel", "requires_grad_", "contiguous", "unwrap"}
MUTATES = {"append", "extend", "add", "add_", "insert", "copy_", "index_add_"}
LEARNS = {"scatter_add_", "index_add_", "index_put_", "update", "observe", "ingest", "bincount"}
CHOOSES = {"min", "minimum", "fmin", "amin"}
TOKENS = frozenset({"val", "input", "target", "hashed"})
DEPTH, STEPS = 16, 400_000  # of calls in calls; of expressions, in one program


# Rule, what was found, what to do about it.
SAYS = {
    "hashed": (
        "normalised",
        "the target's id is part of a hashed lookup key",
        "look up the context alone, and mix in a distribution over all ids that sums to 1",
    ),
    "spread": (
        "normalised",
        "a token's probability is spread over its bytes",
        "score tokens, or bytes with a distribution of their own that sums to 1 over 256",
    ),
    "counted": (
        "score-first",
        "scores read a table that was counted over validation text beforehand",
        "count a chunk only after it has been scored, in the same loop",
    ),
    "trained": (
        "score-first",
        "a loss on validation tokens trains before they are scored",
        "score each chunk without gradients, keep that score, then train on it; compile and warm up"
        " on made-up tokens",
    ),
    "calibrated": (
        "score-first",
        "weights are calibrated on validation text",
        "collect activations on training text, or on text that the model wrote, while the training"
        " clock runs",
    ),
    "optimised": (
        "causal",
        "a vector is optimised on validation tokens before their score",
        "optimise it on tokens that have been scored, and use it for later ones",
    ),
    "epochs": (
        "one-pass",
        "validation text is scored again in every epoch of training on it",
        "make one pass: score a chunk, keep that score, train on it, go on to the next",
    ),
    "again": (
        "one-pass",
        "validation text is scored again after the model has learned from it",
        "keep the first score of every token, taken before anything learned from it",
    ),
    "smaller": (
        "one-pass",
        "the smaller of several losses of the same tokens is kept",
        "decide before the tokens are seen which pass counts, and report that one",
    ),
    "written": (
        "hard-coded",
        "a score is written down: {}",
        "print what was computed from the tokens",
    ),
    "train text": (
        "phases",
        "{} is read while scoring",
        "read training text, for calibration too, before the training clock ends",
    ),
    "file": (
        "artifact-only",
        "{} is read while scoring",
        "a score may use artifact, code, tokenizer and validation text alone",
    ),
    "network": (
        "network",
        "{} reaches the network",
        "put what it fetches into the artifact, or among the record's requirements",
    ),
    "long": (
        "score-first",
        "the program is too large to be followed to its end",
        "look at the order of scoring and training in the functions that are called last",
    ),
    "hidden": (
        "artifact-only",
        "code is executed that cannot be read here",
        "look at what it executes; nothing of it was checked",
    ),
}


def say(what: str, where: str, level: str = "fail", detail: str = "") -> Finding:
    rule, evidence, remedy = SAYS[what]
    return Finding(rule, level, where, evidence.format(detail), remedy)


@dataclass(eq=False)
class Value:
    """What is known about a value: where it comes from, not what it is."""

    kinds: frozenset[str] = frozenset()  # val, input, target, hashed, nll, bytes, fresh, ...
    loops: frozenset[int] = frozenset()  # loops whose variable selects it
    models: frozenset = frozenset()  # values that were called to make it
    parts: list | None = None  # elements of a tuple
    body: object = None  # Function, Class or Scope (a module)
    const: object = None  # text of a literal
    attrs: dict = field(default_factory=dict)
    learned: list = field(default_factory=list)  # loops around each count made from val tokens

    def but(self, **changes) -> "Value":
        """A copy with changes; what it holds is shared."""
        return Value(**{**vars(self), **changes})


@dataclass(eq=False)
class Scope:
    file: str
    parent: "Scope | None" = None
    names: dict = field(default_factory=dict)
    outer: set = field(default_factory=set)  # names declared global or nonlocal

    def find(self, name: str) -> Value | None:
        scope = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.parent
        return None

    def bind(self, name: str, value: Value) -> None:
        scope = self
        while name in scope.outer and scope.parent is not None:
            scope = scope.parent
        scope.names[name] = value


@dataclass(eq=False)
class Function:
    node: ast.FunctionDef | ast.Lambda
    scope: Scope
    receiver: Value | None = None


@dataclass(eq=False)
class Class:
    node: ast.ClassDef
    scope: Scope

    def method(self, name: str) -> ast.FunctionDef | None:
        found = [n for n in self.node.body if isinstance(n, ast.FunctionDef) and n.name == name]
        return found[0] if found else None

    def is_network(self) -> bool:
        return any("Module" in ast.unparse(base) for base in self.node.bases)


@dataclass(eq=False)
class Frame:
    name: str
    file: str
    returned: list = field(default_factory=list)
    has_hooks: bool = False


@dataclass(frozen=True)
class Event:
    """A score or an update made from validation tokens."""

    stack: frozenset[int]  # loops around it
    loops: frozenset[int]  # loops that select its tokens
    models: frozenset
    frame: Frame
    is_certain: bool = True  # of a score: without gradients, so no mere log of a training loss


def join(values: Iterable[Value]) -> Value:
    values = list(values)
    return Value(
        frozenset().union(*(v.kinds for v in values)),
        frozenset().union(*(v.loops for v in values)),
        frozenset().union(*(v.models for v in values)),
    )


def last_name(node: ast.AST) -> str:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def named(name: str, is_path: bool = False) -> frozenset[str]:
    """What a name or a string says about a value that nothing else is known about."""
    if VAL_TOKENS.search(name) and not is_path:
        return frozenset({"val"})
    if (is_path or PATH_NAME.search(name)) and not NO_PATH.search(name):
        if VAL_PATH.search(name):
            return frozenset({"val path"})
        if TRAIN_PATH.search(name):
            return frozenset({"train path"})
    return frozenset({"bytes"}) if BYTES.search(name) and not is_path else frozenset()


class Flow:
    """Follows values through a program of several files, and collects what breaks a rule."""

    STATE = ("frames", "loops", "open_loops", "no_grad", "scores", "updates")

    def __init__(self, trees: dict[str, ast.Module]):
        self.trees = trees
        self.modules: dict[str, Scope] = {}
        self.findings: dict[tuple, Finding] = {}
        self.counted: set[int] = set()  # loops over a range, as epochs are
        self.ids = itertools.count(1)
        self.visited: set[ast.AST] = set()
        self.steps = 0

    def find_all(self) -> list[Finding]:
        for file in self.trees:
            self.module(Path(file).stem)
        for scope in list(self.modules.values()):
            for node in ast.walk(self.trees[scope.file]):
                if isinstance(node, ast.ClassDef):
                    for method in [n for n in node.body if isinstance(n, ast.FunctionDef)]:
                        self.visit_alone(method, scope, Class(node, scope))
                elif isinstance(node, ast.FunctionDef):
                    self.visit_alone(node, scope, None)
        if self.steps > STEPS:
            self.findings["steps", ""] = say("long", next(iter(self.trees)), "warn")
        return list(self.findings.values())

    def start(self, file: str) -> None:
        """Begin at the top of a file, or of a function that nothing calls."""
        self.frames, self.loops, self.no_grad = [Frame("<module>", file)], [], False
        self.open_loops: set[int] = set()  # while: whatever is assigned in one varies with it
        self.scores: list[Event] = []
        self.updates: list[Event] = []

    def visit_alone(self, node: ast.FunctionDef, scope: Scope, owner: Class | None) -> None:
        """Follow a function that nothing called, by the names of its parameters."""
        if node in self.visited or (owner and owner.is_network()):
            return
        values = {}
        for argument in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]:
            values[argument.arg] = Value(named(argument.arg))
        if owner and node.args.args:
            values[node.args.args[0].arg] = Value(body=owner)
        self.start(scope.file)
        self.call_function(Function(node, scope), [], values)

    def module(self, stem: str) -> Scope | None:
        """The names of one of the program's own modules, run on first use."""
        if stem not in self.modules:
            file = next((f for f in self.trees if Path(f).stem == stem), None)
            if file is None:
                return None
            scope = self.modules[stem] = Scope(file)
            kept = {name: vars(self).get(name) for name in self.STATE}
            self.start(file)
            self.run(self.trees[file].body, scope)
            vars(self).update(kept)
        return self.modules[stem]

    def report(self, what: str, node: ast.AST) -> None:
        finding = say(what, f"{self.frames[-1].file}:{node.lineno}")
        self.findings.setdefault((finding.rule, finding.where), finding)

    # Statements

    def run(self, body: list[ast.stmt], scope: Scope) -> None:
        for node in body:
            self.statement(node, scope)

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                scope.bind(node.name, Value(body=Function(node, scope)))
            case ast.ClassDef():
                scope.bind(node.name, Value(body=Class(node, scope)))
                for step in node.body:
                    if isinstance(step, ast.Assign | ast.AnnAssign) and step.value:
                        self.value(step.value, scope)
            case ast.Import():
                for alias in node.names:
                    module = self.module(alias.name)
                    name = alias.asname or alias.name.split(".")[0]
                    scope.bind(name, Value(body=module or "library"))
            case ast.ImportFrom():
                module = self.module((node.module or "").split(".")[-1])
                for alias in node.names:
                    found = module.names.get(alias.name) if module else None
                    scope.bind(alias.asname or alias.name, found or Value(body="library"))
            case ast.Global() | ast.Nonlocal():
                scope.outer |= set(node.names)
            case ast.Return() | ast.Expr() if node.value is None:
                pass
            case ast.Return():
                self.frames[-1].returned.append(self.value(node.value, scope))
            case ast.Assign():
                value = self.value(node.value, scope)
                for target in node.targets:
                    self.assign(target, value, scope)
            case ast.AnnAssign():
                if node.value:
                    self.assign(node.target, self.value(node.value, scope), scope)
            case ast.AugAssign():
                self.augment(node, scope)
            case ast.For() | ast.AsyncFor():
                self.loop(node.target, node.iter, scope, node.body)
                self.run(node.orelse, scope)
            case ast.While():
                self.loop(None, node.test, scope, node.body)
            case ast.If():
                self.value(node.test, scope)
                self.branch(node, scope)
            case ast.With() | ast.AsyncWith():
                self.block(node, scope)
            case ast.Try():
                for part in (node.body, *(h.body for h in node.handlers), node.orelse):
                    self.run(part, scope)
                self.run(node.finalbody, scope)
            case ast.Match():
                self.value(node.subject, scope)
                for case in node.cases:
                    self.run(case.body, scope)
            case _:
                for child in ast.iter_child_nodes(node):
                    if isinstance(child, ast.expr):
                        self.value(child, scope)

    def loop(self, target: ast.expr | None, over: ast.expr, scope: Scope, body: list) -> None:
        """Run a body once, as one turn of a loop."""
        value, number = self.value(over, scope), next(self.ids)
        self.loops.append(number)
        if target is None:
            self.open_loops.add(number)
        else:
            self.assign(target, self.element(value, number), scope)
        if "range(" in ast.unparse(over):
            self.counted.add(number)
        self.run(body, scope)
        self.loops.pop()
        self.open_loops.discard(number)

    def element(self, value: Value, number: int) -> Value:
        """One turn's element of what a loop runs over."""
        parts = value.parts if value.const == "zip" else None
        parts = parts and [self.element(part, number) for part in parts]
        whole = value if value.parts is None else join([value, *value.parts])
        return Value(whole.kinds, whole.loops | {number}, whole.models, parts)

    def branch(self, node: ast.If, scope: Scope) -> None:
        """Run both ways; a name afterwards is what either of them made it."""
        scopes = [scope]
        while scope.outer and scopes[-1].parent is not None:
            scopes.append(scopes[-1].parent)
        before = [dict(each.names) for each in scopes]
        self.run(node.body, scope)
        after = [each.names for each in scopes]
        for each, names in zip(scopes, before, strict=True):
            each.names = dict(names)
        self.run(node.orelse, scope)
        for each, old, new in zip(scopes, before, after, strict=True):
            for name, value in new.items():
                other = each.names.get(name)
                if other is None:
                    each.names[name] = value
                elif other is not value and value is not old.get(name):
                    both = join([value, other])
                    kept = value if value.body or value.attrs or value.learned else other
                    each.names[name] = kept.but(
                        kinds=both.kinds, loops=both.loops, models=both.models
                    )

    def block(self, node: ast.With, scope: Scope) -> None:
        outside = self.no_grad
        for item in node.items:
            value, text = self.value(item.context_expr, scope), ast.unparse(item.context_expr)
            if re.search("no_grad|inference_mode", text):
                self.no_grad = True
            elif "enable_grad" in text:
                self.no_grad = False
            if item.optional_vars:
                self.assign(item.optional_vars, value, scope)
        self.run(node.body, scope)
        self.no_grad = outside

    def assign(self, target: ast.expr, value: Value, scope: Scope) -> None:
        match target:
            case ast.Name(id=name):
                if "val" in value.kinds and not value.kinds & {"input", "target", "nll"}:
                    names = {"target": TARGET, "input": INPUT}
                    kinds = {kind for kind, pattern in names.items() if pattern.search(name)}
                    value = value.but(kinds=value.kinds | kinds) if kinds else value
                if BYTES.search(name) and value.body is None:
                    value = value.but(kinds=value.kinds | {"bytes"})
                if self.open_loops:
                    value = value.but(loops=value.loops | self.open_loops)
                scope.bind(name, value)
            case ast.Tuple(elts=names) | ast.List(elts=names):
                parts = value.parts if value.parts and len(value.parts) == len(names) else None
                whole = value if value.parts is None else join([value, *value.parts])
                for i, name in enumerate(names):
                    self.assign(name, parts[i] if parts else whole.but(parts=None), scope)
            case ast.Starred(value=name):
                self.assign(name, value, scope)
            case ast.Attribute(value=owner, attr=name):
                self.value(owner, scope).attrs[name] = value
            case ast.Subscript(value=base, slice=index):
                self.value(index, scope)
                self.mutate(base, value, scope)

    def mutate(self, target: ast.expr, value: Value, scope: Scope) -> None:
        """Let a container know what was put into it."""
        held = self.value(target, scope)
        held.kinds |= value.kinds - {"bytes", "hashed"}
        held.loops |= value.loops
        held.models |= value.models

    def augment(self, node: ast.AugAssign, scope: Scope) -> None:
        value, target = self.value(node.value, scope), node.target
        if isinstance(node.op, ast.Add):
            self.accumulate(value)
        if isinstance(target, ast.Subscript):
            if self.value(target.slice, scope).kinds & TOKENS:
                self.value(target.value, scope).learned.append(frozenset(self.loops))
            self.mutate(target.value, value, scope)
        else:
            known = self.value(target, scope)
            both = join([known, value])
            combined = self.combine(node.op, [known, value])
            kinds = combined - {"bytes"} if isinstance(node.op, ast.Add) else combined
            self.assign(target, known.but(kinds=kinds, loops=both.loops, models=both.models), scope)

    # Expressions

    def value(self, node: ast.expr | None, scope: Scope) -> Value:
        self.steps += 1
        if node is None or self.steps > STEPS:
            return Value()
        match node:
            case ast.Name(id=name):
                return scope.find(name) or Value(named(name))
            case ast.Constant(value=text):
                kinds = named(text, is_path=True) if isinstance(text, str) else frozenset()
                return Value(kinds, const=text)
            case ast.Attribute():
                return self.member(self.value(node.value, scope), node.attr)
            case ast.Subscript():
                return self.subscript(node, scope)
            case ast.Call():
                return self.call(node, scope)
            case ast.BinOp():
                sides = [self.value(node.left, scope), self.value(node.right, scope)]
                if isinstance(node.op, ast.Pow) and "per byte" in sides[1].kinds:
                    self.report("spread", node)
                both = join(sides)
                return Value(self.combine(node.op, sides), both.loops, both.models)
            case ast.Tuple(elts=elements) | ast.List(elts=elements):
                parts = [self.value(element, scope) for element in elements]
                both = join(parts)
                return Value(both.kinds, both.loops, both.models, parts)
            case ast.Lambda():
                return Value(body=Function(node, scope))
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return self.comprehension(node, node.generators, Scope(scope.file, scope))
            case ast.NamedExpr():
                value = self.value(node.value, scope)
                self.assign(node.target, value, scope)
                return value
            case ast.Yield() | ast.YieldFrom():
                self.frames[-1].returned.append(self.value(node.value, scope))
                return Value()
            case ast.IfExp():
                self.value(node.test, scope)
                left, right = self.value(node.body, scope), self.value(node.orelse, scope)
                return left if not right.kinds and not right.body else join([left, right])
            case ast.Compare():
                both = join(self.value(n, scope) for n in [node.left, *node.comparators])
                return Value(frozenset({"compared"} if "nll" in both.kinds else ()))
        children = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)]
        return join(self.value(child, scope) for child in children)

    def comprehension(self, node, generators: list, scope: Scope) -> Value:
        if not generators:
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            return join(self.value(part, scope) for part in parts)
        first, rest = generators[0], generators[1:]
        over, number = self.value(first.iter, scope), next(self.ids)
        self.assign(first.target, self.element(over, number), scope)
        return self.comprehension(node, rest, scope)

    def combine(self, op: ast.operator, sides: list[Value]) -> frozenset[str]:
        """The kinds of a result of arithmetic."""
        kinds = sides[0].kinds | sides[1].kinds
        if "target" in kinds and isinstance(op, ast.BitXor | ast.Mod | ast.BitAnd):
            kinds |= {"hashed"}
        if isinstance(op, ast.Div | ast.FloorDiv) and "bytes" in sides[1].kinds:
            kinds = kinds - {"bytes"} | {"per byte"}
        return kinds

    def member(self, value: Value, name: str) -> Value:
        if isinstance(value.body, Scope):
            return value.body.names.get(name) or Value()
        if name in value.attrs:
            return value.attrs[name]
        if isinstance(value.body, Class) and (method := value.body.method(name)):
            bound = Function(method, value.body.scope, value)
            if any("property" in ast.unparse(d) for d in method.decorator_list):
                return self.call_function(bound, [], {})
            return Value(body=bound)
        if name in SIZES:
            return Value()
        if name in SAME or value.body == "library":
            return value
        kinds = named(name) or (frozenset() if value.body else value.kinds)
        models = value.models or frozenset({value})
        found = Value(kinds, value.loops, models, body=value.body and "")
        if not value.kinds:
            value.attrs[name] = found
        return found

    def subscript(self, node: ast.Subscript, scope: Scope) -> Value:
        base, index = self.value(node.value, scope), self.value(node.slice, scope)
        match node.slice:
            case ast.Constant(value=int(place)) if base.parts and place < len(base.parts):
                return base.parts[place]
        self.look_up(base, index, node)
        counts = {"bytes"} if BYTES.search(last_name(node.value)) else set()
        if index.kinds & TOKENS and "val" not in base.kinds:
            # What a table says about a token is no token.
            kinds = base.kinds | (index.kinds & {"val"})
        else:
            kinds = base.kinds | (index.kinds & {"val", "per byte"})
        if "val" in base.kinds and not base.kinds & {"input", "target", "nll"}:
            kinds |= self.shift(node.slice)
        if "target" in index.kinds and base.models and "val" in base.kinds:
            kinds |= {"nll"}  # the probability of the target
        return Value(kinds | counts, base.loops | index.loops, base.models)

    def shift(self, index: ast.expr) -> set[str]:
        """Whether a slice of a stream gives its targets or its inputs."""
        last = index.elts[-1] if isinstance(index, ast.Tuple) and index.elts else index
        start = last.lower if isinstance(last, ast.Slice) else last
        match start:
            case ast.Constant(value=1) | ast.BinOp(op=ast.Add(), right=ast.Constant(value=1)):
                return {"target"}
        if isinstance(last, ast.Slice) and last.lower is None and last.upper is not None:
            return {"input"} if ast.unparse(last.upper) == "-1" else set()
        return set()

    def look_up(self, table: Value, key: Value, node: ast.AST) -> None:
        """Judge a table that is read by a key made from tokens."""
        if "hashed" in key.kinds:
            self.report("hashed", node)
        elif key.kinds & TOKENS and table.learned:
            if not any(set(self.loops) & around for around in table.learned):
                self.report("counted", node)

    # Calls

    def call(self, node: ast.Call, scope: Scope) -> Value:
        name, values = last_name(node.func), []
        for argument in node.args:
            value = self.value(argument, scope)
            spread = isinstance(argument, ast.Starred) and value.parts
            values += value.parts if spread else [value]
        keywords = {k.arg or "**": self.value(k.value, scope) for k in node.keywords}
        receiver = Value()
        if isinstance(node.func, ast.Attribute):
            receiver = self.value(node.func.value, scope)
            callee = self.member(receiver, name)
        else:
            callee = self.value(node.func, scope)
        everything = [*values, *keywords.values()]

        if GRADS.search(name):
            self.update(join([receiver, *everything]), node)
        if name in ("register_forward_hook", "register_forward_pre_hook"):
            self.frames[-1].has_hooks = True
            if CALIBRATES.search(self.frames[-1].name) and len(self.frames) > 1:
                self.frames[-2].has_hooks |= bool(CALIBRATES.search(self.frames[-2].name))
        if isinstance(callee.body, Function):
            return self.call_function(callee.body, values, keywords, node)
        if isinstance(callee.body, Class):
            return self.instance(callee.body, values, keywords, node)
        if name == "step":  # of an optimizer, with a closure
            for value in everything:
                if isinstance(value.body, Function):
                    self.call_function(value.body, [], {}, node)
        return self.unknown(node, scope, callee, receiver, everything, keywords)

    def unknown(
        self, node: ast.Call, scope: Scope, callee: Value, receiver: Value, values: list[Value],
        keywords: dict[str, Value],
    ) -> Value:  # fmt: skip
        """The result of calling what is not of this program: a library, a model, a tensor."""
        name, given = last_name(node.func), join(values)
        both = join([receiver, given])
        is_method = isinstance(node.func, ast.Attribute) and receiver.body != "library"
        if name in ("open", "fromfile", "memmap", "load") or (name in READERS and is_method):
            kinds = {"val path": "val", "train path": "train"}
            read = {kinds[kind] for kind in both.kinds if kind in kinds}
            if read:
                return Value(frozenset(read), both.loops)
        if READS_VAL.search(name):
            return Value(frozenset({"val"}))
        if name in SIZES:
            return Value()
        if name in SAME and (is_method or values):
            return receiver if is_method else values[0]
        if name in ("zip", "enumerate"):
            parts = [Value(), *values] if name == "enumerate" else values
            return Value(both.kinds, both.loops, both.models, parts, const="zip")
        if is_method and name in MUTATES and isinstance(node.func, ast.Attribute):
            receiver.kinds |= given.kinds - {"bytes"}
            receiver.loops |= given.loops
            receiver.models |= given.models
            self.accumulate(given)
        if name in LEARNS or ast.unparse(node.func).endswith("add.at"):
            table = receiver if is_method else (values or [Value()])[0]
            keys = join(values if is_method else values[1:])
            if keys.kinds & TOKENS:
                table.learned.append(frozenset(self.loops))
        if name in ("gather", "take", "take_along_dim", "take_along_axis", "index_select", "get"):
            self.look_up(receiver, given, node)
        if name in CHOOSES or name == "where":
            self.choose(node, values)
        if name in ("exp", "exp2") and "per byte" in both.kinds:
            self.report("spread", node)
        if name in ("hash", "crc32", "adler32", "xxh64") and "target" in given.kinds:
            return Value(both.kinds | {"hashed"}, both.loops)

        kinds, models = set(both.kinds), both.models
        is_model = not receiver.kinds & TOKENS and self.is_model(node.func, scope)
        if "val" in given.kinds and is_model:
            models |= {callee} if not callee.models else callee.models
            kinds |= {"nll"} if "target" in given.kinds else set()
            if self.frames[-1].has_hooks:
                self.report("calibrated", node)
        picks = name in ("gather", "take_along_dim", "take_along_axis") and "target" in given.kinds
        if "val" in kinds and (LOSS.search(name) or picks):
            kinds |= {"nll"}
        wants_grad = keywords.get("requires_grad", Value()).const is True
        if wants_grad or name == "Parameter":
            kinds |= {"fresh"}
        if name in ("sum", "mean", "item", "cumsum", "all_reduce"):
            kinds -= {"bytes", "per byte"}
        result = Value(frozenset(kinds), both.loops, models)
        if "nll" in kinds and self.no_grad and ("nll" not in both.kinds or LOSS.search(name)):
            self.score(result, node)
        return result

    def is_model(self, node: ast.AST, scope: Scope) -> bool:
        """Whether a value of the program is called, as a model is: no builtin and no import."""
        while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
            node = node.func if isinstance(node, ast.Call) else node.value
        found = scope.find(node.id) if isinstance(node, ast.Name) else None
        return found is not None and (found.body in (None, "") or isinstance(found.body, Class))

    def instance(self, cls: Class, values: list, keywords: dict, node: ast.Call) -> Value:
        given = join([*values, *keywords.values()])
        made = Value(given.kinds & {"val path", "train path"}, given.loops, body=cls)
        if cls.is_network():
            return Value()
        if init := cls.method("__init__"):
            self.call_function(Function(init, cls.scope, made), values, keywords, node)
        else:
            fields = [n.target.id for n in cls.node.body if isinstance(n, ast.AnnAssign)]
            made.attrs |= dict(zip(fields, values, strict=False)) | keywords
        return made

    def call_function(
        self, function: Function, values: list[Value], keywords: dict[str, Value],
        call: ast.Call | None = None,
    ) -> Value:  # fmt: skip
        """Run a function of the program on these values."""
        node, name = function.node, getattr(function.node, "name", "<lambda>")
        self.visited.add(node)
        given = join([*values, *keywords.values()])
        if len(self.frames) > DEPTH or sum(frame.name == name for frame in self.frames) > 2:
            return given
        known = len(self.findings)
        outside, frame = (self.no_grad, self.open_loops), Frame(name, function.scope.file)
        self.open_loops = set()
        arguments, scope = node.args, Scope(function.scope.file, function.scope)
        names = [a.arg for a in [*arguments.posonlyargs, *arguments.args]]
        if function.receiver is not None and not self.is_static(node):
            values = [function.receiver, *values]
        defaults = dict(zip(names[::-1], arguments.defaults[::-1], strict=False))
        defaults |= {
            a.arg: d for a, d in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if d
        }
        for parameter in [*names, *(a.arg for a in arguments.kwonlyargs)]:
            default = self.value(defaults.get(parameter), function.scope)
            self.assign(ast.Name(parameter), default, scope)
        for parameter, value in [*zip(names, values, strict=False), *keywords.items()]:
            self.assign(ast.Name(parameter), value, scope)
        if arguments.vararg:
            rest = values[len(names) :]
            scope.names[arguments.vararg.arg] = join(rest).but(parts=rest)
        if arguments.kwarg:
            scope.names[arguments.kwarg.arg] = given
        if isinstance(node, ast.Lambda):
            self.frames.append(frame)
            frame.returned.append(self.value(node.body, scope))
        else:
            text = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
            self.no_grad |= bool(re.search("no_grad|inference_mode", text))
            self.frames.append(frame)
            self.run(node.body, scope)
        self.frames.pop()
        self.no_grad, self.open_loops = outside
        if call and "val" in given.kinds and CALIBRATES.search(name) and not SCORES.search(name):
            if len(self.findings) == known:  # else it was seen inside, where the tokens go in
                self.report("calibrated", call)
        returned = frame.returned
        result = returned[0] if len(returned) == 1 else join(returned)
        if READS_VAL.search(name):
            result = result.but(kinds=result.kinds | {"val"}, parts=None)
        return result

    @staticmethod
    def is_static(node: ast.AST) -> bool:
        return any("staticmethod" in ast.unparse(d) for d in getattr(node, "decorator_list", []))

    # Rules

    def score(self, value: Value, node: ast.AST) -> None:
        """Note a loss on validation tokens that was computed without gradients."""
        here = frozenset(self.loops)
        for update in self.updates:
            shared = here & update.stack
            same_chunk = shared & value.loops & update.loops
            if same_chunk or (not shared and value.models & update.models):
                self.report("again", node)
        self.scores.append(Event(here, value.loops, value.models, self.frames[-1]))

    def accumulate(self, value: Value) -> None:
        """Note that losses on validation tokens are added up or collected: that is scoring too."""
        if {"val", "nll"} <= value.kinds:
            here = frozenset(self.loops)
            frame = self.frames[-1]
            self.scores.append(Event(here, value.loops, value.models, frame, self.no_grad))

    def update(self, loss: Value, node: ast.Call) -> None:
        """Judge a step of learning: were its tokens scored before, in the same turn of a loop?"""
        if "val" not in loss.kinds:
            return
        here, frame = frozenset(self.loops), self.frames[-1]
        was_scored, in_epochs = False, False
        for score in self.scores:
            shared = here & score.stack
            repeats = (shared & self.counted) - score.loops - loss.loops
            if repeats and score.is_certain:
                in_epochs = True
            elif shared & score.loops and not repeats:
                was_scored = True
            # All of it scored by this very function, and then trained on: harmless, unless it is
            # scored again with what was learned.
            alone = len(self.frames) > 1 and SCORES.search(frame.name)
            was_scored |= bool(score.is_certain and score.frame is frame and alone)
        if in_epochs:
            self.report("epochs", node)
        elif not was_scored:
            self.report("optimised" if "fresh" in loss.kinds else "trained", node)
        else:
            self.updates.append(Event(here, loss.loops, loss.models, frame))

    def choose(self, node: ast.Call, values: list[Value]) -> None:
        """Judge a choice between losses: it depends on what the tokens turned out to be."""
        losses = [v for v in values for v in (v.parts or [v]) if {"nll", "val"} <= v.kinds]
        if last_name(node.func) == "where":
            losses = [v for v in losses if any("compared" in other.kinds for other in values)]
        if len(losses) > 1:
            self.report("smaller", node)


# What can be seen without following values --------------------------------------------------------

NETWORK = {"requests", "urllib", "urllib3", "httpx", "aiohttp", "ftplib", "http", "huggingface_hub"}
NETWORK |= {"wget", "gdown", "boto3", "datasets", "kernels", "wandb", "socket", "torch.hub"}
LOCAL_ONLY = re.compile(r"^(urllib\.parse|http\.HTTPStatus|socket\.(gethost|AF_|SOCK_))")
SHELL_NETWORK = re.compile(
    r"\b(wget|curl|aria2c|gsutil|git clone|pip install|hf download)\b|hugging"
)
RUNS_SHELL = {"system", "popen", "run", "Popen", "call", "check_call", "check_output"}
HONEST_FILE = re.compile(
    r"val|tokenizer|\.model\b|artifact|\.p[tg]z|final_model|\blogs?\b|tmp|counter|__file__|/proc"
    r"|manifest|sidecar|settings|\.jsonl?\b",
    re.I,
)
SCORE_NAME = re.compile(r"^(\w+_)?(val_)?bpb$|^(\w+_)?val_loss$")
NOT_A_SCORE = re.compile(r"base|best|ref|target|thresh|prev|record|sota|min|max|init", re.I)
SCORE_TEXT = re.compile(r"(bpb|val_loss)\W{1,3}\d\.\d{3,}")
TRAIN_NAME = re.compile(r"^train(ing)?_(files?|paths?|pattern|glob|shards?|loader|tokens|stream)$")
LOGS = {"print", "log", "log0", "write", "info", "dumps", "dump"}


def imported(tree: ast.AST) -> dict[str, str]:
    """Local name -> dotted name of what is imported, of the whole file."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = [(alias, alias.name.split(".")[0]) for alias in node.names]
            found |= {a.asname or root: a.name if a.asname else root for a, root in roots}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return found


def functions(tree: ast.AST) -> dict[str, list[ast.AST]]:
    """Every function of a file by its name; "" is what runs when the file starts."""
    found: dict[str, list[ast.AST]] = {"": [tree]}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.setdefault(node.name, []).append(node)
    return found


def own_nodes(function: ast.AST) -> Iterable[ast.AST]:
    """The nodes of a function (or file) without those of functions defined in it."""
    todo = list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)


def scoring(trees: dict[str, ast.Module], imports: dict[str, dict]) -> set[ast.AST]:
    """Functions that run while scoring: those named so, and what they call or hand on."""
    tables = {file: functions(tree) for file, tree in trees.items()}
    stems = {Path(file).stem: file for file in trees}
    home = {node: file for file, table in tables.items() for n in table.values() for node in n}
    todo = []
    for file, table in tables.items():
        whole = re.match("eval|score", Path(file).stem)
        for name, nodes in table.items():
            todo += nodes if SCORES.search(name) or (whole and name in ("", "main")) else []
    found: set[ast.AST] = set()
    while todo:
        function = todo.pop()
        if function in found:
            continue
        found.add(function)
        file = home[function]
        for node in own_nodes(function):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                module, _, name = dotted(node, imports[file]).rpartition(".")
                if stem := stems.get(module):
                    todo += tables[stem].get(name, [])
                elif isinstance(node, ast.Name) or ast.unparse(node.value) == "self":
                    todo += tables[file].get(last_name(node), [])
    return found


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full dotted name of what is called, through the file's imports."""
    root, _, rest = ast.unparse(node).partition(".")
    return names.get(root, "" if root.isidentifier() else root) + ("." + rest if rest else "")


def strings(node: ast.AST) -> str:
    """All text in the literals of an expression."""
    found = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return " ".join(text for text in found if isinstance(text, str))


def reaches_network(node: ast.Call, names: dict[str, str]) -> bool:
    name = dotted(node.func, names)
    if any(name.startswith(known + ".") for known in NETWORK):
        return not LOCAL_ONLY.search(name)
    shell = last_name(node.func) in RUNS_SHELL and SHELL_NETWORK.search(strings(node))
    return bool(shell) or last_name(node.func) in ("hf_hub_download", "snapshot_download")


def file_read(node: ast.Call, constants: dict[str, str]) -> str | None:
    """The literal name of a file that a call reads, if it has one."""
    name = last_name(node.func)
    if name not in READERS:
        return None
    mode = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "mode")]
    if name == "open" and any(set(strings(m)) & set("wax") for m in mode):
        return None
    is_method = name in ("read_bytes", "read_text") and isinstance(node.func, ast.Attribute)
    path = node.func.value if is_method else node.args[0] if node.args else None
    if path is None:
        return None
    literal = f"{strings(path)} {constants.get(last_name(path), '')}"
    has_name = re.search(r"\.\w{2,5}\b", literal)
    return f"{ast.unparse(path)} {literal}".strip() if has_name else None


def is_score(value: ast.AST) -> bool:
    """Whether a literal has the size and the digits of a measured score."""
    numbers = [n.value for n in ast.walk(value) if isinstance(n, ast.Constant)]
    literal = isinstance(value, ast.Constant | ast.Tuple)
    return literal and any(
        isinstance(n, float) and 0.2 < n < 20 and len(repr(n).partition(".")[2]) >= 3
        for n in numbers
    )


def hard_coded(node: ast.AST, function: ast.AST) -> str | None:
    """What shows that a score is written down in this statement or expression."""
    pairs: list[tuple[str, ast.AST]] = []
    match node:
        case ast.Assign(targets=targets, value=value):
            pairs = [(last_name(target), value) for target in targets]
        case ast.AnnAssign(target=target, value=value) if value:
            pairs = [(last_name(target), value)]
        case ast.Dict(keys=keys, values=values):
            pairs = [(strings(k), v) for k, v in zip(keys, values, strict=True) if k]
        case ast.keyword(arg=name, value=value) if name:
            pairs = [(name, value)]
        case ast.Return(value=value) if value and SCORES.search(getattr(function, "name", "")):
            pairs = [("val_bpb", value)]
        case ast.Call() if last_name(node.func) in LOGS and SCORE_TEXT.search(strings(node)):
            return SCORE_TEXT.search(strings(node))[0]
    for name, value in pairs:
        if SCORE_NAME.search(name) and not NOT_A_SCORE.search(name) and is_score(value):
            return f"{name} = {ast.unparse(value)}"
    return None


def plain_findings(trees: dict[str, ast.Module], packed: set[str]) -> Iterable[Finding]:
    """Network, files and literals, by where in the program they stand."""
    imports = {file: imported(tree) for file, tree in trees.items()}
    during = scoring(trees, imports)
    for file, tree in trees.items():
        names, constants = imports[file], {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = strings(node.value)
        for function in [node for nodes in functions(tree).values() for node in nodes]:
            for node in own_nodes(function):
                where = f"{file}:{getattr(node, 'lineno', getattr(function, 'lineno', 1))}"
                if text := hard_coded(node, function):
                    yield say("written", where, detail=text)
                if function in during and TRAIN_NAME.search(last_name(node)):
                    yield say("train text", where, detail=last_name(node))
                if not isinstance(node, ast.Call):
                    continue
                if reaches_network(node, names):
                    level = "fail" if function in during else "warn"
                    yield say("network", where, level, ast.unparse(node.func))
                path = file_read(node, constants) if function in during else None
                if path and not HONEST_FILE.search(path):
                    what = "train text" if TRAIN_PATH.search(path) else "file"
                    yield say(what, where, detail=path)
                runs = isinstance(node.func, ast.Name) and node.func.id in ("exec", "eval")
                if runs and file not in packed and not strings(node):
                    yield say("hidden", where, "warn")


# Commands -----------------------------------------------------------------------------------------


def sources(given: Path | str | bytes) -> dict[str, str]:
    """{file: text} of a folder, a script or a source text, everything unwrapped.

    Raises: FileNotFoundError where there is no Python source.
    """
    if isinstance(given, bytes) or isinstance(given, str) and "\n" in given:
        return unwrap(given if isinstance(given, bytes) else given.encode(), ENTRY)
    path = Path(given)
    if path.is_dir():
        files = reached(path) if (path / ENTRY).is_file() else sorted(path.glob("*.py"))
        files = {file.relative_to(path).as_posix(): file for file in files if file.suffix == ".py"}
    else:
        files = {path.name: path}
    if not files or not all(file.is_file() for file in files.values()):
        raise FileNotFoundError(f"{path} is no script and no folder with one; name train_gpt.py")
    found = {}
    for name, file in files.items():
        found |= unwrap(file.read_bytes(), name)
    return found


def lint(given: Path | str | bytes) -> list[Finding]:
    """What a script, a folder of scripts or a source text shows of broken rules, in their order.

    Raises: FileNotFoundError where there is nothing to read, ValueError for what is not Python,
    ModuleNotFoundError where a package is missing to unpack it.
    """
    texts = sources(given)
    trees = {}
    for name, text in texts.items():
        try:
            with warnings.catch_warnings(action="ignore"):
                trees[name] = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError) as error:
            raise ValueError(f"{name} is not Python: {error}") from None
    packed = {name for name in trees for other in trees if other.startswith(f"{name}/")}
    found = {}
    for finding in [*Flow(trees).find_all(), *plain_findings(trees, packed)]:
        found.setdefault((finding.rule, finding.where), finding)
    return list(found.values())


def main(argv: list[str] | None = None) -> int:
    about = __doc__.splitlines()[0]
    parser = argparse.ArgumentParser(prog="tools.legality.lint", description=about)
    parser.add_argument("given", type=Path, nargs="+", metavar="SCRIPT_OR_FOLDER")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    findings = []
    for given in args.given:
        try:
            found = lint(given)
        except (OSError, ValueError, ImportError) as error:
            print(f"tools.legality.lint: {error}", file=sys.stderr)
            return 2
        several = len(args.given) > 1
        findings += [replace(f, where=f"{given}: {f.where}") if several else f for f in found]
    print(report(findings, as_json=args.json))
    return status(findings)


if __name__ == "__main__":
    sys.exit(main())
