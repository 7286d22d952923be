"""Follow the values of a program of several files, in the order in which it would run.

Every loop is run once, as one turn; every function of the program is entered where it is called,
with the values of that call, and once by itself where nothing calls it. What the values are is not
known, only where they come from (values.py); what meets the text is told to the Judge (judge.py).

A branch on a setting counts as its default says: what the default leaves off is followed too, and
its findings are warnings. `if TTT: ... if not TTT: ...` are never both taken.
"""

import ast
import builtins
import itertools
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from tools.legality.judge import Frame, Judge
from tools.legality.rules import Finding
from tools.legality.values import (
    BYTES,
    FROM_TARGET,
    INPUT,
    ROLES,
    TARGET,
    TEXT,
    TOKENS,
    WORD,
    Class,
    Function,
    Scope,
    Value,
    join,
    join_scores,
    last_name,
    named,
    role,
    text_positions,
)
from tools.legality.verdicts import say

READS_VAL = re.compile(r"^_*(load|read|get)_\w*(val|valid|validation)(_|$)", re.I)
READS_SPLIT = re.compile(r"^_*(load|read)_", re.I)  # read_split(path, "val")
SPLITS = {"val", "valid", "validation"}
ADAPTS = re.compile(r"^_*adapt(_fn|_on|_to)?$", re.I)
SCORES = re.compile(
    WORD.format("eval|evaluate|score|scored|scoring|ttt|slot|validate|sliding"), re.I
)
CALIBRATES = re.compile(r"calib|hessian|gptq|awq|collect_act", re.I)
READS_ENVIRONMENT = re.compile(r"(environ\.get|get_?env)$")
LOSS = re.compile(r"cross_entropy|nll|(^|_)loss$|log_prob", re.I)
GRADS = re.compile(r"^backward$|^(?!no_|zero_|enable_|clip_|all_|scale_)(\w+_)?grads?(_fn)?$")
READERS = {"fromfile", "memmap", "load", "frombuffer", "read_bytes", "read_text", "loadtxt", "open"}
BYTES_IN = {"read_bytes", "read_text", "open", "read", "decompress", "loads", "unpack"}
BYTES_IN |= {"unpack_from", "from_bytes"}
SIZES = {"numel", "size", "dim", "shape", "len", "ndim", "dtype", "device", "stat", "exists"}
# Attributes and calls that give back what they are given.
SAME = {"to", "eval", "train", "cuda", "cpu", "float", "half", "bfloat16", "compile", "module"}
SAME |= {"DDP", "DistributedDataParallel", "requires_grad_", "contiguous", "unwrap", "DataLoader"}
MUTATES = {"append", "extend", "add", "add_", "insert", "copy_", "index_add_"}
LEARNS = {"scatter_add_", "index_add_", "index_put_", "update", "observe", "ingest", "bincount"}
CHOOSES = {"min", "minimum", "fmin", "amin", "where", "sorted", "nsmallest"}
LOOKS_UP = {"gather", "take", "take_along_dim", "take_along_axis", "index_select", "get"}
PICKS = {"gather", "take_along_dim", "take_along_axis"}  # the entry of the target
COMPARES = {"isin", "in1d", "eq", "ne", "equal", "not_equal", "isclose"}
HASHES = {"hash", "crc32", "adler32", "xxh64"}
PRODUCTS = {"einsum", "addmm", "addmm_", "mm", "matmul", "bmm", "outer"}
POWERS = {"exp", "exp2", "power", "pow", "float_power", "logaddexp", "logaddexp2", "logsumexp"}
LOGARITHMS = {"log", "log1p", "log2", "logaddexp", "logsumexp"}
CLOCKS = {"perf_counter", "monotonic", "time", "perf_counter_ns", "time_ns", "elapsed_time"}
CASTS = {"bool": bool, "int": int, "float": float, "str": str}
STATISTICS = re.compile(r"@|matmul|addmm|einsum|outer|amax|abs\(|square|pow\(")
MAKES_GRADIENTS = {"value_and_grad", "grad_and_value", "jacrev", "vjp"}
DEPTH = 16  # calls in calls
STEPS = 400_000  # expressions in one program


class Flow(Judge):
    """Follows values through a program, and judges what meets the text."""

    def __init__(self, trees: dict[str, ast.Module]):
        super().__init__()
        self.trees = trees
        self.modules: dict[str, Scope] = {}
        self.ids = itertools.count(1)
        self.visited: set[ast.AST] = set()
        self.steps = 0
        self.options: dict[str, object] = {}  # defaults of a command line, by name
        self.unknown_names: dict[str, Value] = {}
        self.places: dict[ast.AST, dict] = {}
        self.stores = {file: count_stores(tree) for file, tree in trees.items()}

    def find_all(self) -> list[Finding]:
        for file in self.trees:
            self.module(file)
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

    def positions(self, function: ast.AST) -> dict:
        if function not in self.places:
            self.places[function] = text_positions(function)
        return self.places[function]

    def unknown(self) -> Value:
        """A value of which nothing is known, and which may be a text."""
        return Value(frozenset({"unknown"}), roots=frozenset({next(self.ids)}))

    def visit_alone(self, node: ast.FunctionDef, scope: Scope, owner: Class | None) -> None:
        """Follow a function that nothing called, by the names of its parameters."""
        if node in self.visited or (owner and owner.is_network()):
            return
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        optional = len(node.args.defaults)
        required = arguments[: len(arguments) - optional - len(node.args.kwonlyargs)]
        values = {}
        for argument in required:
            kinds = named(argument.arg)
            values[argument.arg] = Value(kinds) if kinds else self.unknown()
        if owner and node.args.args:
            values[node.args.args[0].arg] = Value(body=owner, const="instance")
        self.start(scope.file, self.positions(self.trees[scope.file]))
        self.call_function(Function(node, scope), [], values)

    def imported(self, name: str) -> Scope | None:
        """One of the program's own modules by its dotted name, or by the last part of it."""
        file = self.file_of(name) or self.file_of(name.split(".")[-1])
        return self.module(file) if file else None

    def file_of(self, name: str) -> str | None:
        """The file of the program that a dotted name ends in."""
        for file in self.trees:
            path = f"/{file.removesuffix('.py').removesuffix('/__init__')}"
            if path.endswith(f"/{name.replace('.', '/')}"):
                return file
        return None

    def module(self, file: str) -> Scope:
        """The names of a file of the program, run on first use."""
        if file not in self.modules:
            scope = self.modules[file] = Scope(file)
            kept = {name: vars(self).get(name) for name in self.STATE}
            self.start(file, self.positions(self.trees[file]))
            self.run(self.trees[file].body, scope)
            vars(self).update(kept)
        return self.modules[file]

    # Statements

    def run(self, body: list[ast.stmt], scope: Scope) -> None:
        for index, node in enumerate(body):
            try:
                self.statement(node, scope)
            except RecursionError:
                self.findings["deep", ""] = say(
                    "deep", f"{self.frames[-1].file}:{node.lineno}", "warn"
                )
            if isinstance(node, ast.If) and not node.orelse and ends_block(node.body):
                # What follows is run where the test fails.
                with self.assume(node.test, False, scope):
                    self.run(body[index + 1 :], scope)
                return

    def statement(self, node: ast.stmt, scope: Scope) -> None:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                scope.bind(node.name, Value(body=Function(node, scope)))
            case ast.ClassDef():
                self.define_class(node, scope)
            case ast.Import():
                for alias in node.names:
                    module = self.imported(alias.name)
                    name = alias.asname or alias.name.split(".")[0]
                    scope.bind(name, Value(body=module or "library"))
            case ast.ImportFrom():
                module = self.imported(node.module) if node.module else None
                for alias in node.names:
                    member = module.names.get(alias.name) if module else None
                    inner = ".".join(filter(None, [node.module, alias.name]))
                    if member is None and (file := self.file_of(inner)):
                        member = Value(body=self.module(file))
                    scope.bind(alias.asname or alias.name, member or Value(body="library"))
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

    def define_class(self, node: ast.ClassDef, scope: Scope) -> None:
        defined = Class(node, scope)
        inner = Scope(scope.file, scope)
        for step in node.body:
            if isinstance(step, ast.Assign | ast.AnnAssign) and step.value:
                value = self.value(step.value, inner)
                targets = step.targets if isinstance(step, ast.Assign) else [step.target]
                for target in targets:
                    defined.fields[last_name(target)] = value
                    inner.names[last_name(target)] = value
        scope.bind(node.name, Value(body=defined))

    def loop(self, target: ast.expr | None, over: ast.expr, scope: Scope, body: list) -> None:
        """Run a body once, as one turn of a loop."""
        number = next(self.ids)
        value = self.value(over, scope)
        self.loops.append(number)
        if target is None:
            self.open_loops.add(number)
            self.advance(number, over, scope, body)
        else:
            self.assign(target, self.element(value, number), scope)
        if "range(" in ast.unparse(over):
            self.counted.add(number)
        self.run(body, scope)
        self.loops.pop()
        self.open_loops.discard(number)
        self.clock.left(number)

    def advance(self, number: int, test: ast.expr, scope: Scope, body: list) -> None:
        """Let what a while loop counts vary with its turns; one that tests a count has epochs."""
        steps = [n for part in body for n in ast.walk(part) if isinstance(n, ast.AugAssign)]
        counts = {step.target.id for step in steps if isinstance(step.target, ast.Name)}
        for name in counts:
            if held := scope.find(name):
                scope.bind(name, held.but(loops=held.loops | {number}, is_setting=False))
        if any(isinstance(n, ast.Name) and n.id in counts for n in ast.walk(test)):
            self.counted.add(number)

    def element(self, value: Value, number: int) -> Value:
        """One turn's element of what a loop runs over."""
        if isinstance(value.body, Class) and value.const == "instance":
            for name in ("__getitem__", "__iter__", "__next__"):
                if method := value.body.method(name):
                    bound = Function(method, value.body.scope, value)
                    given = self.call_function(bound, [Value()] * (name == "__getitem__"), {})
                    value = given.but(const="zip") if given.parts else given
                    break
        parts = value.parts if value.const == "zip" else None
        parts = parts and [self.element(part, number) for part in parts]
        origin = value if value.parts is None else join([value, *value.parts])
        return Value(origin.kinds, origin.loops | {number}, origin.models, origin.roots, parts)

    # Branches

    @contextmanager
    def assume(self, test: ast.expr, outcome: bool, scope: Scope) -> Iterator[None]:
        """Follow what is run where a test has this outcome.

        Where the default of a setting says otherwise, findings are warnings, and what happens is
        forgotten afterwards.
        """
        value = self.value(test, scope)
        is_off = value.is_setting and bool(value.const) != outcome
        while isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            test = test.operand
            outcome = not outcome
        names = [node.id for node in ast.walk(test) if isinstance(node, ast.Name)]
        is_fixed = all(self.stores[scope.file][name] <= 1 for name in names)
        if is_fixed:
            self.conditions.append((ast.unparse(test), outcome))
        counts = [len(self.scores), len(self.updates), len(self.lookups)]
        is_default = is_off and value.const is not None  # None: another call may give an adapter
        self.off += is_default
        yield
        self.off -= is_default
        if is_fixed:
            self.conditions.pop()
        if is_off:
            for events, count in zip(
                (self.scores, self.updates, self.lookups), counts, strict=True
            ):
                del events[count:]

    def branch(self, node: ast.If, scope: Scope) -> None:
        """Run both ways; a name afterwards is what either of them made it."""
        test = self.value(node.test, scope)
        scopes = [scope]
        while scope.outer and scopes[-1].parent is not None:
            scopes.append(scopes[-1].parent)
        before = [dict(each.names) for each in scopes]
        self.rivals += "rivals" in test.kinds
        self.hits += bool(test.kinds & FROM_TARGET)
        tested = self.tested
        if "compared" in test.kinds:
            self.tested = tested | {n.id for n in ast.walk(node.test) if isinstance(n, ast.Name)}
        with self.assume(node.test, True, scope):
            self.run(node.body, scope)
        after_body = [each.names for each in scopes]
        for each, names in zip(scopes, before, strict=True):
            each.names = dict(names)
        with self.assume(node.test, False, scope):
            self.run(node.orelse, scope)
        self.rivals -= "rivals" in test.kinds
        self.hits -= bool(test.kinds & FROM_TARGET)
        self.tested = tested
        for each, old, names in zip(scopes, before, after_body, strict=True):
            if test.is_setting:  # the other branch is not taken
                each.names = names if test.const else {**names, **each.names}
                continue
            self.merge(each, old, names)

    @staticmethod
    def merge(scope: Scope, before: dict, after_body: dict) -> None:
        """Names after a branch, of which scope holds those after its other side."""
        for name, value in after_body.items():
            other = scope.names.get(name)
            if other is None:
                scope.names[name] = value
            elif other is not value and value is not before.get(name):
                both = join([value, other])
                kept = value if value.body or value.attrs or value.learned else other
                scope.names[name] = kept.but(
                    kinds=both.kinds,
                    loops=both.loops,
                    models=both.models,
                    roots=both.roots,
                    is_setting=False,
                )

    def block(self, node: ast.With, scope: Scope) -> None:
        outside = self.no_grad
        for item in node.items:
            value = self.value(item.context_expr, scope)
            text = ast.unparse(item.context_expr)
            if re.search("no_grad|inference_mode", text):
                self.no_grad = True
            elif "enable_grad" in text:
                self.no_grad = False
            if item.optional_vars:
                self.assign(item.optional_vars, value, scope)
        self.run(node.body, scope)
        self.no_grad = outside

    # Assignments

    def assign(self, target: ast.expr, value: Value, scope: Scope) -> None:
        match target:
            case ast.Name(id=name):
                scope.bind(name, self.as_named(value, name, scope))
            case ast.Tuple(elts=names) | ast.List(elts=names):
                parts = value.parts if value.parts and len(value.parts) == len(names) else None
                origin = value if value.parts is None else join([value, *value.parts])
                for index, name in enumerate(names):
                    part = parts[index] if parts else origin.but(parts=None)
                    self.assign(name, part, scope)
            case ast.Starred(value=name):
                self.assign(name, value, scope)
            case ast.Attribute(value=owner, attr=name):
                self.value(owner, scope).attrs[name] = value.but(is_setting=False)
            case ast.Subscript(value=base, slice=index):
                key = self.value(index, scope)
                self.put_in(base, value, scope)
                if "hashed" in key.kinds:  # counts[key] = counts.get(key, 0) + 1
                    self.learn(self.value(base, scope), key)

    def as_named(self, value: Value, name: str, scope: Scope) -> Value:
        """The value, with what its new name adds to what is known about it."""
        kinds = value.kinds
        if "val" in kinds and not kinds & ROLES:
            kinds |= {"target"} if TARGET.search(name) else set()
            kinds |= {"input"} if INPUT.search(name) else set()
        if BYTES.search(name) and value.body is None:
            kinds |= {"byte length"}
        if name in self.tested and "nll" in kinds and kinds & TEXT:
            kinds |= {"smallest"}  # if loss < best: best = loss
        before = scope.names.get(name)
        if self.hits and before and "nll" in before.kinds & kinds and "norm" not in kinds:
            kinds |= {"hit"}  # if hint == target: nll = nll - bonus
        # What a while loop assigns varies with its turns, but not what a loop in it goes through.
        is_open = self.loops[-1:] and self.loops[-1] in self.open_loops
        loops = value.loops | self.open_loops if is_open else value.loops
        # A name that is bound twice is no setting: its value depends on when it is read.
        is_setting = value.is_setting and self.stores[scope.file][name] <= 1
        if (kinds, loops, is_setting) == (value.kinds, value.loops, value.is_setting):
            return value
        return value.but(kinds=kinds, loops=loops, is_setting=is_setting)

    def put_in(self, target: ast.expr, value: Value, scope: Scope, adds: bool = False) -> None:
        """Let a container know what was put into it."""
        held = self.value(target, scope)
        if not adds:
            self.accumulate(value, target)
        dropped = {"hashed", *FROM_TARGET} | ({"byte length"} if adds else set())
        held.kinds |= value.kinds - dropped | self.tried(value, self.loops)
        held.loops |= value.loops
        held.models |= value.models
        held.roots |= value.roots

    @staticmethod
    def tried(value: Value, loops: list[int]) -> set[str]:
        """Whether the turns of the innermost loop give losses of the same tokens."""
        is_loss = "nll" in value.kinds and value.kinds & TEXT
        return {"tried"} if is_loss and loops and loops[-1] not in value.loops else set()

    def augment(self, node: ast.AugAssign, scope: Scope) -> None:
        value = self.value(node.value, scope)
        target = node.target
        if isinstance(node.op, ast.Add):
            self.accumulate(value, node)
        if isinstance(target, ast.Subscript):
            self.learn(self.value(target.value, scope), self.value(target.slice, scope))
            self.put_in(target.value, value, scope, adds=True)
            return
        held = self.value(target, scope)
        both = join([held, value])
        kinds = self.combine(node.op, [held, value])
        if isinstance(node.op, ast.Add):
            kinds -= {"byte length", "by target"}
        if (
            self.hits
            and "nll" in held.kinds
            and not {"nll", "norm"} & (value.kinds | held.kinds - {"nll"})
        ):
            kinds |= {"hit"}  # if hint == target: nll -= bonus
        combined = held.but(kinds=kinds, loops=both.loops, models=both.models, roots=both.roots)
        self.assign(target, combined.but(is_setting=False), scope)

    # Expressions

    def value(self, node: ast.expr | None, scope: Scope) -> Value:
        self.steps += 1
        if node is None or self.steps > STEPS:
            return Value()
        match node:
            case ast.Name(id=name):
                value = scope.find(name) or self.undefined(name)
                is_target = name in self.frames[-1].targets and value.kinds & TEXT
                if is_target and not value.kinds & ROLES:
                    return value.but(kinds=value.kinds | {"target"})
                return value
            case ast.Constant(value=literal):
                kinds = named(literal, is_path=True) if isinstance(literal, str) else frozenset()
                return Value(kinds, const=literal, is_setting=True)
            case ast.Attribute():
                return self.member(self.value(node.value, scope), node.attr)
            case ast.Subscript():
                return self.subscript(node, scope)
            case ast.Call():
                return self.call(node, scope)
            case ast.BinOp():
                return self.arithmetic(node, scope)
            case ast.UnaryOp():
                value = self.value(node.operand, scope)
                if isinstance(node.op, ast.Not) and value.is_setting:
                    return Value(const=not value.const, is_setting=True)
                return value.but(is_setting=False)
            case ast.BoolOp():
                return self.logic(node, scope)
            case ast.Tuple(elts=elements) | ast.List(elts=elements) | ast.Set(elts=elements):
                parts = [self.value(element, scope) for element in elements]
                both = join(parts)
                losses = [part for part in parts if "nll" in part.kinds and part.kinds & TEXT]
                kinds = both.kinds | ({"tried"} if len(losses) > 1 else set())
                return Value(kinds, both.loops, both.models, both.roots, parts)
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
                return self.choice(node, scope)
            case ast.Compare():
                return self.compare(node, scope)
        children = [n for n in ast.iter_child_nodes(node) if isinstance(n, ast.expr)]
        return join(self.value(child, scope) for child in children)

    def undefined(self, name: str) -> Value:
        """The value of a name that nothing binds, as in an excerpt of a program."""
        kinds = named(name)
        if kinds or hasattr(builtins, name) or name.startswith("__"):
            return Value(kinds)
        return self.unknown_names.setdefault(name, self.unknown())

    def logic(self, node: ast.BoolOp, scope: Scope) -> Value:
        values = [self.value(operand, scope) for operand in node.values]
        decides = isinstance(node.op, ast.Or)  # one that is true decides `or`, a false one `and`
        for value in values:
            if value.is_setting and bool(value.const) == decides:
                return Value(const=value.const, is_setting=True)
        both = join(values)
        if all(value.is_setting for value in values):
            return Value(const=values[-1].const, is_setting=True)
        return both

    def choice(self, node: ast.IfExp, scope: Scope) -> Value:
        test = self.value(node.test, scope)
        if test.is_setting:
            return self.value(node.body if test.const else node.orelse, scope)
        left = self.value(node.body, scope)
        right = self.value(node.orelse, scope)
        if "rivals" in test.kinds:
            self.choose("min", [left, right], node, False)
        if test.kinds & FROM_TARGET:
            left = left.but(kinds=left.kinds | {"hit"}, is_setting=False)
        if not right.kinds and not right.body:
            return left.but(is_setting=False)
        return join([left, right])

    def compare(self, node: ast.Compare, scope: Scope) -> Value:
        sides = [self.value(side, scope) for side in [node.left, *node.comparators]]
        if len(sides) == 2:
            outcome = compare_settings(node.ops[0], *sides)
            if outcome is not None:
                return Value(const=outcome, is_setting=True)
            for limit, measured in (sides, sides[::-1]):
                if "clock" in measured.kinds and "clock" not in limit.kinds:
                    has_reserve = "reserve" in limit.kinds | measured.kinds
                    self.clock.compared(limit, has_reserve)
                elif "deadline" in limit.kinds and "deadline" not in measured.kinds:
                    self.clock.compared(limit, "early" in limit.kinds)
        both = join(sides)
        if "nll" in both.kinds:
            is_rivalry = all("nll" in side.kinds and side.kinds & TEXT for side in sides)
            kinds = {"compared", "rivals"} if is_rivalry else {"compared"}
            return Value(frozenset(kinds), both.loops)
        is_equal = isinstance(node.ops[0], ast.Eq | ast.NotEq)
        if is_equal and any("target" in side.kinds for side in sides):
            return Value(frozenset({"hit"}), both.loops)
        return Value(both.kinds & FROM_TARGET, both.loops)

    def comprehension(self, node: ast.expr, generators: list, scope: Scope) -> Value:
        if not generators:
            parts = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
            return join(self.value(part, scope) for part in parts)
        first, *rest = generators
        number = next(self.ids)
        over = self.value(first.iter, scope)
        self.assign(first.target, self.element(over, number), scope)
        made = self.comprehension(node, rest, scope)
        return made.but(kinds=made.kinds | self.tried(made, [number]))

    # Arithmetic

    def arithmetic(self, node: ast.BinOp, scope: Scope) -> Value:
        # A sum of 1,400 terms is 1,400 nodes deep on the left.
        chain = [node]
        while isinstance(chain[-1].left, ast.BinOp):
            chain.append(chain[-1].left)
        left = self.value(chain[-1].left, scope)
        for step in reversed(chain):
            left = self.operate(step, left, self.value(step.right, scope))
        return left

    def operate(self, node: ast.BinOp, left: Value, right: Value) -> Value:
        sides = [left, right]
        if isinstance(node.op, ast.Pow) and "per byte" in right.kinds:
            self.report("spread", node)
        if isinstance(node.op, ast.MatMult) and is_gram(node.left, node.right):
            text = join(sides)
            if text.models:
                self.calibrate(text, node)
        both = join_scores(sides)
        kinds = self.combine(node.op, sides)
        if "unknown" not in both.kinds:
            kinds -= {"unknown"}
        const = fold(node.op, left.const, right.const)
        if "deadline" in kinds and const is None:
            const = right.const  # started + 600
        is_setting = const is not None and left.is_setting and right.is_setting
        return Value(kinds, both.loops, both.models, both.roots, const=const, is_setting=is_setting)

    def combine(self, op: ast.operator, sides: list[Value]) -> frozenset[str]:
        """The kinds of a result of arithmetic."""
        left, right = (side.kinds for side in sides)
        kinds = left | right
        if "target" in kinds and isinstance(op, ast.BitXor | ast.Mod | ast.BitAnd):
            kinds |= {"hashed"}
        if isinstance(op, ast.Div | ast.FloorDiv):
            if right & {"byte length", "by target"}:
                kinds = kinds - {"byte length", "by target"} | {"per byte"}
            elif "hit" in left and "hit" not in right and right:
                kinds -= FROM_TARGET  # divided by the sum over all ids
        if isinstance(op, ast.Add | ast.Sub) and "norm" in kinds and "nll" in kinds:
            kinds -= FROM_TARGET  # the logarithm of the sum over all ids
        if isinstance(op, ast.Mult) and "nll" in kinds and "hit" in kinds:
            # A mask: nll * (y != padding) leaves tokens out.
            kinds -= {"hit"}
        if isinstance(op, ast.Sub) and "clock" not in kinds and not kinds - {"unknown"}:
            kinds |= {"reserve"}
        if isinstance(op, ast.Add) and "clock" in kinds:
            for clock, other in (sides, sides[::-1]):
                is_constant = other.is_setting or "unknown" in other.kinds
                if "clock" in clock.kinds and "clock" not in other.kinds and is_constant:
                    kinds |= {"reserve", "deadline"}
                    kinds |= {"early"} if "reserve" in other.kinds else set()
        if isinstance(op, ast.Sub) and "deadline" in left:
            kinds |= {"early"}
        return kinds

    # Members and elements

    def member(self, value: Value, name: str) -> Value:
        if isinstance(value.body, Scope):
            return value.body.names.get(name) or Value()
        if name in value.attrs:
            return value.attrs[name]
        if isinstance(value.body, Class):
            if method := value.body.method(name):
                bound = Function(method, value.body.scope, value)
                if any("property" in ast.unparse(d) for d in method.decorator_list):
                    return self.call_function(bound, [], {})
                return Value(body=bound)
            if name in value.body.fields:
                return value.body.fields[name]
        if name in SIZES:
            return Value()
        if name in SAME or value.body == "library":
            return value
        if name in self.options:
            return Value(named(name), const=self.options[name], is_setting=True)
        return self.unknown_member(value, name)

    def unknown_member(self, value: Value, name: str) -> Value:
        kinds = named(name)
        roots = value.roots
        if not kinds and value.kinds == {"unknown"} and name not in ("T", "mT", "data", "flat"):
            # Another text than its owner: args.train_data, batch.targets.
            kinds = frozenset({"unknown"})
            roots = frozenset({next(self.ids)})
        elif not kinds and not value.body:
            kinds = value.kinds
        else:
            roots = frozenset()
        models = value.models or frozenset({value})
        attribute = Value(kinds, value.loops, models, roots, body=value.body and "")
        if not value.kinds or value.kinds == {"unknown"}:
            value.attrs[name] = attribute
        return attribute

    def subscript(self, node: ast.Subscript, scope: Scope) -> Value:
        base = self.value(node.value, scope)
        index = self.value(node.slice, scope)
        match node.slice:
            case ast.Constant(value=int(place)) if base.parts and place < len(base.parts):
                return base.parts[place]
        self.look_up(base, index, node)
        if "smallest" in index.kinds and "tried" in base.kinds:
            self.report("smaller", node)
        is_table = not base.kinds & {"val", "nll"} and not base.models
        is_row = not isinstance(node.slice, ast.Tuple)
        kinds = base.kinds
        roots = base.roots
        if index.kinds & TOKENS and "val" not in base.kinds:
            kinds |= index.kinds & {"val", "unknown"}  # what a table says about a token
            if is_row:
                roots |= index.roots
        else:
            kinds |= index.kinds & {"val", "per byte"}
        if BYTES.search(last_name(node.value)):
            kinds |= {"byte length"}
        if base.kinds & TEXT and not base.kinds & ROLES:
            kinds |= role(node, self.frames[-1].places)
        if "target" in index.kinds:
            picks = base.models and "val" in base.kinds or "output" in base.kinds
            picks = picks or (not is_row and "unknown" in base.kinds and not base.kinds & ROLES)
            if picks:
                kinds |= {"nll"}  # the probability of the target
                roots = index.roots or roots
            elif is_table and is_row and not base.learned:
                kinds = kinds - {"unknown"} | {"by target"}
        is_entry = index.kinds & TOKENS or index.kinds & TEXT and "nll" not in index.kinds
        is_entry = is_entry and is_table and is_row and not isinstance(node.slice, ast.Slice)
        const = "entry" if is_entry else None  # what a vocabulary says about a token
        return Value(kinds, base.loops | index.loops, base.models, roots, const=const)

    # Calls

    def call(self, node: ast.Call, scope: Scope) -> Value:
        name = last_name(node.func)
        values = []
        for argument in node.args:
            value = self.value(argument, scope)
            is_spread = isinstance(argument, ast.Starred) and value.parts
            values += value.parts if is_spread else [value]
        keywords = {k.arg or "**": self.value(k.value, scope) for k in node.keywords}
        receiver = Value()
        if isinstance(node.func, ast.Attribute):
            receiver = self.value(node.func.value, scope)
            callee = self.member(receiver, name)
        else:
            callee = self.value(node.func, scope)
        arguments = [*values, *keywords.values()]

        if "gradient function" in callee.kinds:
            made = [self.call_function(f.body, values, keywords) for f in callee.parts or ()]
            text = join([*arguments, *made])
            is_loss = {"nll"} if "target" in text.kinds else set()
            self.update(text.but(kinds=text.kinds | is_loss), node)
        elif name == "grad" and arguments and isinstance(arguments[0].body, Function):
            return Value(frozenset({"gradient function"}), parts=arguments[:1])
        elif GRADS.search(name) and not isinstance(callee.body, Function):
            self.update(join([receiver, *arguments]), node)
        if name in ("register_forward_hook", "register_forward_pre_hook"):
            self.hook(arguments)
        elif name == "remove":
            for frame in self.frames:
                frame.has_hooks = False
        elif name == "add_argument":
            self.add_option(node, keywords)
        if isinstance(callee.body, Function):
            return self.call_function(callee.body, values, keywords, node)
        if isinstance(callee.body, Class) and callee.const == "instance":
            if method := callee.body.method("__call__"):
                bound = Function(method, callee.body.scope, callee)
                return self.call_function(bound, values, keywords, node)
        elif isinstance(callee.body, Class):
            return self.instance(callee.body, values, keywords, node)
        if name == "step":  # of an optimizer, with a closure
            for value in arguments:
                if isinstance(value.body, Function):
                    self.call_function(value.body, [], {}, node)
        constant = self.constant_call(node, name, values, receiver)
        if constant is not None:
            return constant
        return self.library_call(node, scope, callee, receiver, values, keywords)

    def hook(self, arguments: list[Value]) -> None:
        """Note a hook; one that gathers statistics goes on after its function has returned."""
        self.frames[-1].has_hooks = True
        for value in arguments:
            if isinstance(value.body, Function) and STATISTICS.search(ast.unparse(value.body.node)):
                for frame in self.frames[-2:]:
                    frame.has_hooks = True

    def add_option(self, node: ast.Call, keywords: dict[str, Value]) -> None:
        """Remember the default of an option of the command line."""
        for argument in node.args:
            if isinstance(argument, ast.Constant) and str(argument.value).startswith("--"):
                option = str(argument.value)[2:].replace("-", "_")
                default = keywords.get("default", Value())
                if keywords.get("action", Value()).const == "store_true":
                    self.options[option] = False
                elif default.is_setting:
                    self.options[option] = default.const

    def constant_call(
        self, node: ast.Call, name: str, values: list[Value], receiver: Value
    ) -> Value | None:
        """The value of a setting that is read or converted, by its default."""
        function = ast.unparse(node.func)
        if READS_ENVIRONMENT.search(function) and values:
            default = values[1] if len(values) > 1 else Value()
            text = f"{values[0].const} {default.const}"
            kinds = named(text.split()[0].lower(), is_path=False)
            return Value(
                (kinds & {"val path", "train path"}) | default.kinds,
                const=default.const,
                is_setting=default.is_setting,
            )
        if name in CASTS and isinstance(node.func, ast.Name) and len(values) == 1:
            if values[0].is_setting:
                try:
                    return Value(const=CASTS[name](values[0].const), is_setting=True)
                except (TypeError, ValueError):
                    return None
        if name in ("lower", "upper", "strip") and receiver.is_setting and not values:
            return receiver.but(const=getattr(str(receiver.const), name)())
        return None

    def library_call(
        self,
        node: ast.Call,
        scope: Scope,
        callee: Value,
        receiver: Value,
        values: list[Value],
        keywords: dict[str, Value],
    ) -> Value:
        """The result of calling what is not of this program: a library, a model, a tensor."""
        name = last_name(node.func)
        arguments = [*values, *keywords.values()]
        merged = join_scores(arguments)
        both = join_scores([receiver, *arguments])
        is_method = isinstance(node.func, ast.Attribute) and receiver.body != "library"
        if name in ("open", "fromfile", "memmap", "load") or (name in READERS and is_method):
            kinds = {"val path": "val", "train path": "train"}
            read = {kinds[kind] for kind in both.kinds if kind in kinds}
            if read:
                return Value(frozenset(read), both.loops)
        if reads_validation(name, arguments):
            return Value(frozenset({"val"}))
        is_text = merged.kinds & TEXT and "nll" not in merged.kinds
        if ADAPTS.search(name) and is_text and callee.body is None:
            # The adapter that a recipe returned: what it does is unknown here, but not what for.
            self.update(merged.but(kinds=merged.kinds | {"nll"}), node)
            return Value()
        if name in BYTES_IN and both.kinds == {"unknown"}:
            return Value()  # the bytes of a file are no tokens
        if name in CLOCKS and not values and name != "time" or ast.unparse(node) == "time.time()":
            return Value(frozenset({"clock"}))
        if (
            name == "len"
            and values
            and ("encoded" in values[0].kinds or values[0].const == "entry")
        ):
            return Value(frozenset({"byte length"}), both.loops)
        if name in SIZES:
            return Value()
        if name in SAME and (is_method or values):
            return receiver if is_method else values[0]
        if name in MAKES_GRADIENTS:
            made_of = [value for value in values[:1] if isinstance(value.body, Function)]
            return Value(frozenset({"gradient function"}), parts=made_of)
        if name.endswith("_like") or name in ("new_zeros", "new_ones", "new_full"):
            return Value()  # the shape of a value tells nothing of it
        if name == "range":
            return Value(loops=both.loops)
        if name in ("zip", "enumerate"):
            parts = [Value(), *values] if name == "enumerate" else values
            return Value(both.kinds, both.loops, both.models, both.roots, parts, const="zip")
        if name in COMPARES:
            is_hit = any("target" in value.kinds for value in [receiver, *arguments])
            return Value(frozenset({"hit"} if is_hit else ()), both.loops)
        self.note_tables(node, name, is_method, receiver, values, arguments)
        is_key = name == "argmin" or "key" in keywords
        if name in PICKS and "smallest" in merged.kinds and "tried" in both.kinds:
            self.report("smaller", node)
        if name in CHOOSES and not is_key:
            options = [receiver, *values] if is_method else values
            has_axis = bool({"dim", "axis"} & keywords.keys())
            has_axis |= isinstance(node.func, ast.Attribute) and any(
                type(value.const) is int for value in values
            )
            self.choose(name, options, node, has_axis)
        if name in PRODUCTS and both.models:
            factors = [*node.args]
            if is_method and name in ("mm", "matmul", "bmm"):
                factors = [node.func.value, *node.args]
            if factors[1:] and is_gram(factors[-2], factors[-1]):
                self.calibrate(both, node)
        if name in POWERS and "per byte" in both.kinds:
            self.report("spread", node)
        result = self.result(node, scope, callee, receiver, values, keywords, merged, both)
        if is_method and name in LEARNS:
            result.learned = receiver.learned  # zeros(n).scatter_add_(...) gives the table
        return result

    def note_tables(
        self,
        node: ast.Call,
        name: str,
        is_method: bool,
        receiver: Value,
        values: list[Value],
        arguments: list[Value],
    ) -> None:
        """Note what a call puts into a table or container, or reads from one."""
        merged = join(arguments)
        if is_method and name in MUTATES:
            receiver.kinds |= merged.kinds - {"byte length", *FROM_TARGET}
            receiver.kinds |= self.tried(merged, self.loops)
            receiver.loops |= merged.loops
            receiver.models |= merged.models
            receiver.roots |= merged.roots
            self.accumulate(merged, node)
        if name in LEARNS or ast.unparse(node.func).endswith("add.at"):
            table = receiver if is_method else (values or [Value()])[0]
            self.learn(table, join(values if is_method else values[1:]))
        if name in LOOKS_UP:
            self.look_up(receiver, merged, node)

    def result(
        self,
        node: ast.Call,
        scope: Scope,
        callee: Value,
        receiver: Value,
        values: list[Value],
        keywords: dict[str, Value],
        merged: Value,
        both: Value,
    ) -> Value:
        name = last_name(node.func)
        kinds = set(both.kinds)
        loops = both.loops
        models = both.models
        roots = both.roots
        if receiver.kinds == {"unknown"} and merged.kinds & {"val", "train", "unknown"}:
            # A method of an unknown object that is given a text: the object is no text.
            kinds = set(merged.kinds)
            roots = merged.roots
        elif not both.kinds and callee.roots and not receiver.roots:
            kinds = {"unknown"}  # a function of unknown origin may read a text
            roots = callee.roots
        is_model = not receiver.kinds & TOKENS and self.is_model(node.func, scope)
        is_text = merged.kinds & {"val", "train", "unknown"}
        if is_text and is_model:
            models |= callee.models or {callee}
            kinds |= {"output"}
            if "target" in merged.kinds and self.is_loss_of(merged, [*values, *keywords.values()]):
                kinds |= {"nll"}
            else:
                kinds -= {"target"}  # what is read of one prediction is input of the next
            if any(frame.has_hooks for frame in self.frames):
                self.calibrate(merged, node)
        target = self.target_of(name, values, keywords, receiver)
        if target is not None:
            self.peek((receiver if name in PICKS else values[0]), target, node)
            kinds |= {"nll"} | target.kinds & TEXT
            if "unknown" not in target.kinds:
                kinds -= {"unknown"}
            roots = target.roots
            loops = target.loops  # those that select the tokens, not those that try temperatures
        elif "val" in kinds and LOSS.search(name):
            kinds |= {"nll"}
        if name in HASHES and "target" in merged.kinds:
            kinds |= {"hashed"}
        if name == "encode":
            kinds = {"encoded"}
        if keywords.get("requires_grad", Value()).const is True or name == "Parameter":
            kinds |= {"fresh"}
        if name in ("sum", "mean", "item", "cumsum", "all_reduce"):
            kinds -= {"byte length", "per byte", "by target", "tried"}
        is_choice = name in CHOOSES and self.tried(merged, self.loops)
        if is_choice or name == "argmin" or "key" in keywords:
            kinds |= {"smallest"}
        if "softmax" in name:
            kinds |= {"output"}
        if name in LOGARITHMS and kinds and not kinds & {"nll", *FROM_TARGET}:
            kinds |= {"norm"}
        result = Value(frozenset(kinds), loops, frozenset(models), frozenset(roots))
        is_loss = "nll" in kinds and kinds & TEXT
        # A pass that hooks listen to gathers their statistics; its loss is thrown away.
        is_gathering = any(frame.has_hooks for frame in self.frames)
        is_new = "nll" not in both.kinds or LOSS.search(name)
        if is_loss and self.no_grad and is_new and not is_gathering:
            if self.score(result, node):
                result.kinds |= {"again"}
        return result

    @staticmethod
    def is_loss_of(merged: Value, arguments: list[Value]) -> bool:
        """Whether a model that is given inputs and targets returns their loss."""
        if "val" in merged.kinds:
            return True
        # Of a text of unknown origin both must be seen: model(x, y).
        targets = [value for value in arguments if "target" in value.kinds]
        inputs = [value for value in arguments if "input" in value.kinds]
        return any(one.roots & other.roots for one in targets for other in inputs)

    def target_of(
        self, name: str, values: list[Value], keywords: dict[str, Value], receiver: Value
    ) -> Value | None:
        """The targets among the arguments of a loss, or of a look-up of their probabilities."""
        if LOSS.search(name):
            target = values[1] if len(values) > 1 else keywords.get("target")
            if target is not None and target.kinds & TEXT and "nll" not in target.kinds:
                return target
        elif name in PICKS:
            for value in [*values, *keywords.values()]:
                if "target" in value.kinds and value.kinds & TEXT:
                    return value
        return None

    def is_model(self, node: ast.AST, scope: Scope) -> bool:
        """Whether a value of the program is called, as a model is: no builtin and no import."""
        while isinstance(node, ast.Attribute | ast.Call | ast.Subscript):
            node = node.func if isinstance(node, ast.Call) else node.value
        if not isinstance(node, ast.Name):
            return False
        value = scope.find(node.id) or self.unknown_names.get(node.id)
        return value is not None and (value.body in (None, "") or isinstance(value.body, Class))

    def instance(self, cls: Class, values: list, keywords: dict, node: ast.Call) -> Value:
        merged = join([*values, *keywords.values()])
        kinds = merged.kinds & {"val path", "train path"}
        made = Value(kinds, merged.loops, body=cls, const="instance")
        if cls.is_network():
            return Value()
        if init := cls.method("__init__"):
            self.call_function(Function(init, cls.scope, made), values, keywords, node)
        else:
            fields = [n.target.id for n in cls.node.body if isinstance(n, ast.AnnAssign)]
            made.attrs |= dict(zip(fields, values, strict=False)) | keywords
        return made

    def call_function(
        self,
        function: Function,
        values: list[Value],
        keywords: dict[str, Value],
        call: ast.Call | None = None,
    ) -> Value:
        """Run a function of the program on these values."""
        node = function.node
        name = getattr(node, "name", "<lambda>")
        self.visited.add(node)
        merged = join([*values, *keywords.values()])
        if len(self.frames) > DEPTH or sum(frame.name == name for frame in self.frames) > 2:
            return merged
        count = len(self.findings)
        outside = (self.no_grad, self.open_loops)
        frame = Frame(name, function.scope.file, self.positions(node), loss_targets(node))
        self.open_loops = set()
        scope = self.bind_arguments(function, values, keywords, merged)
        self.frames.append(frame)
        if isinstance(node, ast.Lambda):
            frame.returned.append(self.value(node.body, scope))
        else:
            text = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
            self.no_grad |= bool(re.search("no_grad|inference_mode", text))
            self.run(node.body, scope)
        self.frames.pop()
        self.no_grad, self.open_loops = outside
        if call and "val" in merged.kinds and CALIBRATES.search(name) and not SCORES.search(name):
            if len(self.findings) == count:  # else it was seen inside, where the tokens go in
                self.report("calibrated", call)
        returned = frame.returned
        result = returned[0] if len(returned) == 1 else join_returned(returned)
        if reads_validation(name, [*values, *keywords.values()]):
            result = result.but(kinds=result.kinds | {"val"}, parts=None)
        return result

    def bind_arguments(
        self, function: Function, values: list[Value], keywords: dict[str, Value], merged: Value
    ) -> Scope:
        """The names of a call: parameters with their defaults, then what the call gives them."""
        arguments = function.node.args
        scope = Scope(function.scope.file, function.scope)
        names = [argument.arg for argument in [*arguments.posonlyargs, *arguments.args]]
        if function.receiver is not None and not is_static(function.node):
            values = [function.receiver, *values]
        defaults = dict(zip(names[::-1], arguments.defaults[::-1], strict=False))
        for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
            if default:
                defaults[argument.arg] = default
        for parameter in [*names, *(argument.arg for argument in arguments.kwonlyargs)]:
            default = self.value(defaults.get(parameter), function.scope)
            self.assign(ast.Name(parameter), default, scope)
        for parameter, value in [*zip(names, values, strict=False), *keywords.items()]:
            self.assign(ast.Name(parameter), value, scope)
        if arguments.vararg:
            rest = values[len(names) :]
            scope.names[arguments.vararg.arg] = join(rest).but(parts=rest)
        if arguments.kwarg:
            scope.names[arguments.kwarg.arg] = merged
        return scope


def loss_targets(function: ast.AST) -> frozenset[str]:
    """Names of what a function gives to a loss as its targets: y in cross_entropy(logits, y)."""
    names = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and LOSS.search(last_name(node.func)) and node.args[1:]:
            target = node.args[1]
            while isinstance(target, ast.Call) and isinstance(target.func, ast.Attribute):
                target = target.func.value  # y.reshape(-1)
            names.add(last_name(target))
    return frozenset(names)


def reads_validation(name: str, arguments: list[Value]) -> bool:
    """Whether a call gives validation text by its name, or by the split that it is asked for."""
    if READS_VAL.search(name):
        return True
    splits = [value.const for value in arguments if isinstance(value.const, str)]
    return bool(READS_SPLIT.search(name)) and not SPLITS.isdisjoint(splits)


def join_returned(values: list[Value]) -> Value:
    """What a function returns in one place or another; of tuples of one length part by part.

    `return read(), None` here and `return None, error` there give what read() gives, and an error.
    """
    telling = [value for value in values if value.kinds or value.parts or value.body]
    if len(telling) == 1:
        return telling[0]
    lengths = {len(value.parts) if value.parts else 0 for value in telling}
    if len(lengths) != 1 or lengths == {0}:
        return join(values)
    columns = zip(*(value.parts for value in telling), strict=True)
    return join(values).but(parts=[join_returned(list(column)) for column in columns])


def is_static(node: ast.AST) -> bool:
    return any("staticmethod" in ast.unparse(d) for d in getattr(node, "decorator_list", []))


def is_gram(left: ast.expr, right: ast.expr) -> bool:
    """Whether a product of these is x.T @ x, of which GPTQ's Hessians are made."""
    first = ast.unparse(left)
    second = ast.unparse(right)
    return (first + ".").startswith(second + ".") or second.startswith(first + ".")


def ends_block(body: list[ast.stmt]) -> bool:
    """Whether nothing after this block is run once it was."""
    last = body[-1]
    if isinstance(last, ast.Return | ast.Raise | ast.Continue | ast.Break):
        return True
    return isinstance(last, ast.Expr) and "exit(" in ast.unparse(last)


def count_stores(tree: ast.AST) -> Counter:
    """How often each name is bound in a file, arguments and definitions left out."""
    names = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names[node.id] += 1
    return names


def fold(op: ast.operator, left: object, right: object) -> object:
    """The result of arithmetic on two numbers; None where that is not known."""
    if not (isinstance(left, int | float) and isinstance(right, int | float)):
        return None
    try:
        match op:
            case ast.Add():
                return left + right
            case ast.Sub():
                return left - right
            case ast.Mult():
                return left * right
            case ast.Div():
                return left / right
    except (ArithmeticError, ValueError):
        return None
    return None


def compare_settings(op: ast.cmpop, left: Value, right: Value) -> bool | None:
    """The outcome of comparing settings by their defaults; None where it is not known."""
    options = right.parts if right.parts else None
    if options and left.is_setting and all(option.is_setting for option in options):
        is_in = left.const in [option.const for option in options]
        return {ast.In: is_in, ast.NotIn: not is_in}.get(type(op))
    if not (left.is_setting and right.is_setting):
        return None
    try:
        match op:
            case ast.Eq():
                return left.const == right.const
            case ast.NotEq():
                return left.const != right.const
            case ast.Lt():
                return left.const < right.const
            case ast.LtE():
                return left.const <= right.const
            case ast.Gt():
                return left.const > right.const
            case ast.GtE():
                return left.const >= right.const
    except TypeError:
        return None
    return None
