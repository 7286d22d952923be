"""What the lint knows about a value of a program: where it comes from, not what it is.

A kind is one word about the origin of a value. Example, the kinds of some expressions:

    tokens = load("fineweb_val_*.bin")          val
    x, y = tokens[:-1], tokens[1:]              val input; val target
    loss = F.cross_entropy(model(x), y)         val target nll
    key = (x * 31 ^ y) % 4096                   val input target hashed
    n = np.array([len(p.encode()) ...])[y]      byte length, by target
"""

import ast
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

# Names as the field uses them. A name counts only where nothing else is known about a value.
WORD = r"(?:^|[^a-z])(?:{})(?:[^a-z]|$)"
VAL_TOKENS = re.compile(
    r"^_?val(id|idation)?_?(tok\w*|data|ids|stream|np|text|T|set|batches)$", re.I
)
VAL_PATH = re.compile(WORD.format("val|valid|validation"), re.I)
TRAIN_PATH = re.compile(WORD.format("train|training"), re.I)
NO_PATH = re.compile(r"\s|loss|bpb|every|step|batch|seq|iter|time|log|:", re.I)
PATH_NAME = re.compile(r"(files?|paths?|pattern|glob|shards?|dir|bin)$", re.I)
TARGET = re.compile(r"^(y|ys|y_\w+|tgt\w*|targets?(_\w+)?|labels?|gold\w*|next_tok\w*)$")
INPUT = re.compile(r"^(x|xs|x_\w+|inp\w*|prev\w*|ctx\w*|context\w*)$")
BYTES = re.compile(r"^(?!.*(sum|count|total|path|file|per)).*(byte|(^|_)nb($|_))", re.I)

TEXT = frozenset({"val", "unknown"})  # may be text that is scored
TOKENS = frozenset({"val", "input", "target", "hashed"})
ROLES = frozenset({"input", "target", "nll"})  # what a token or a loss of it is used as
FROM_TARGET = frozenset({"by target", "hit"})  # chosen by what the target turned out to be


@dataclass(eq=False)
class Value:
    """Where a value comes from."""

    kinds: frozenset[str] = frozenset()  # val, input, target, hashed, nll, byte length, fresh, ...
    loops: frozenset[int] = frozenset()  # loops whose variable selects it
    models: frozenset = frozenset()  # values that were called to make it
    roots: frozenset[int] = frozenset()  # of unknown text: which argument or attribute it was
    parts: list | None = None  # elements of a tuple
    body: object = None  # Function, Class, Scope (a module) or "library"
    const: object = None  # a literal, or the default of a setting
    is_setting: bool = False  # const is what a setting is when nobody sets it
    attrs: dict = field(default_factory=dict)
    learned: list = field(default_factory=list)  # loops around each count made from tokens

    def but(self, **changes) -> "Value":
        """A copy with changes; what it holds is shared."""
        return Value(**{**vars(self), **changes})


@dataclass(eq=False)
class Scope:
    """The names of a module or of one call of a function."""

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
    fields: dict = field(default_factory=dict)

    def method(self, name: str) -> ast.FunctionDef | None:
        for node in self.node.body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                return node
        return None

    def is_network(self) -> bool:
        return any("Module" in ast.unparse(base) for base in self.node.bases)


def join(values: Iterable[Value]) -> Value:
    """A value that may be any of these, or was made from all of them."""
    values = list(values)
    return Value(
        frozenset().union(*(value.kinds for value in values)),
        frozenset().union(*(value.loops for value in values)),
        frozenset().union(*(value.models for value in values)),
        frozenset().union(*(value.roots for value in values)),
    )


def join_scores(values: list[Value]) -> Value:
    """As join, where a loss meets numbers: whose text those came from says nothing about it."""
    if any("nll" in value.kinds for value in values):
        values = [
            value
            if "nll" in value.kinds
            else value.but(kinds=value.kinds - {"unknown"}, roots=frozenset())
            for value in values
        ]
    return join(values)


def last_name(node: ast.AST) -> str:
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def named(name: str, is_path: bool = False) -> frozenset[str]:
    """What a name or a string says about a value that nothing else is known about.

    >>> named("fineweb_val_*.bin", is_path=True)
    frozenset({'val path'})
    """
    if VAL_TOKENS.search(name) and not is_path:
        return frozenset({"val"})
    if (is_path or PATH_NAME.search(name)) and not NO_PATH.search(name):
        if VAL_PATH.search(name):
            return frozenset({"val path"})
        if TRAIN_PATH.search(name):
            return frozenset({"train path"})
    return frozenset({"byte length"}) if BYTES.search(name) and not is_path else frozenset()


# Positions in a text ------------------------------------------------------------------------------


def position(index: ast.expr) -> tuple[str, float] | None:
    """What an index counts from, and how far it is from there.

    tokens[j] is ("j", 0), tokens[j + 1] ("j", 1); tokens[j - k] is somewhere before j, ("j", -0.5).
    """
    match index:
        case ast.Name(id=name):
            return name, 0
        case ast.BinOp(left=ast.Name(id=name), op=ast.Add(), right=ast.Constant(value=int(far))):
            return name, far
        case ast.BinOp(left=ast.Name(id=name), op=ast.Sub(), right=ast.Constant(value=int(far))):
            return name, -far
        case ast.BinOp(left=ast.Name(id=name), op=ast.Sub()):
            return name, -0.5
    return None


def last_index(subscript: ast.Subscript) -> ast.expr:
    """The index along the last axis, in which a text runs."""
    index = subscript.slice
    return index.elts[-1] if isinstance(index, ast.Tuple) and index.elts else index


def text_positions(function: ast.AST) -> dict[tuple[str, str], set[float]]:
    """Every position at which a function reads, by what it reads from and what it counts from."""
    places: dict[tuple[str, str], set[float]] = {}
    for node in ast.walk(function):
        if not isinstance(node, ast.Subscript) or not isinstance(node.value, ast.Name):
            continue
        index = last_index(node)
        is_slice = isinstance(index, ast.Slice)
        place = position(index.upper) if is_slice and index.upper else position(index)
        if is_slice and index.upper:
            for part in ast.walk(index.upper):  # tokens[k : len(tokens) - n + k] leaves out n
                if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub):
                    places.setdefault((node.value.id, f"-{ast.unparse(part.right)}"), set()).add(0)
                elif isinstance(part, ast.UnaryOp) and isinstance(part.op, ast.USub):
                    places.setdefault((node.value.id, f"-{ast.unparse(part.operand)}"), set()).add(
                        0
                    )
        if place:
            before = 1 if is_slice else 0  # tokens[a:j] ends one before j
            places.setdefault((node.value.id, place[0]), set()).add(place[1] - before)
    return places


def role(subscript: ast.Subscript, places: dict[tuple[str, str], set[float]]) -> set[str]:
    """Whether a slice or an index of a text gives targets or what comes before them.

    tokens[1:] and tokens[a + 1 : b] are targets, tokens[:-1] inputs. Of single tokens the last one
    is the target, where earlier ones are read too: tokens[j] beside tokens[j - 1].
    """
    index = last_index(subscript)
    if isinstance(index, ast.Slice):
        match index.lower:
            case ast.Constant(value=1) | ast.BinOp(op=ast.Add(), right=ast.Constant(value=1)):
                return {"target"}
        base = ast.unparse(subscript.value)
        if index.lower is None and index.upper is not None:
            return {"input"} if ast.unparse(index.upper) == "-1" else set()
        if index.upper is None and index.lower is not None:
            return {"target"} if (base, f"-{ast.unparse(index.lower)}") in places else set()
        place = position(index.upper) if index.upper else None
        seen = places.get((base, place[0]), set()) if place else set()
        # tokens[j - 3 : j + 1] beside tokens[j - 3 : j] holds the target.
        return {"target"} if place and {place[1] - 1, place[1] - 2} <= seen else set()
    place = position(index)
    if place is None or not isinstance(subscript.value, ast.Name):
        return {"target"} if isinstance(index, ast.Constant) and index.value == 1 else set()
    seen = places.get((subscript.value.id, place[0]), set())
    if len(seen) > 1:
        return {"target"} if place[1] == max(seen) else {"input"}
    return {"target"} if place[1] == 1 else set()
