"""What a program shows by where a call or a literal stands: network, files, written scores."""

import ast
import re
from collections.abc import Iterable
from pathlib import Path

from tools.legality.flow import READERS, SCORES
from tools.legality.rules import Finding
from tools.legality.values import TRAIN_PATH, last_name
from tools.legality.verdicts import say

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
    origins = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            roots = [(alias, alias.name.split(".")[0]) for alias in node.names]
            origins |= {a.asname or root: a.name if a.asname else root for a, root in roots}
        elif isinstance(node, ast.ImportFrom) and node.module:
            origins |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    return origins


def functions(tree: ast.AST) -> dict[str, list[ast.AST]]:
    """Every function of a file by its name; "" is what runs when the file starts."""
    by_name: dict[str, list[ast.AST]] = {"": [tree]}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            by_name.setdefault(node.name, []).append(node)
    return by_name


def own_nodes(function: ast.AST) -> Iterable[ast.AST]:
    """The nodes of a function (or file) without those of functions defined in it."""
    todo = list(ast.iter_child_nodes(function))
    while todo:
        node = todo.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            todo += ast.iter_child_nodes(node)


def trains(function: ast.AST) -> bool:
    """Whether a function trains on training text: train_and_eval scores too, but when it is done.

    Told by what it does, or by its name where others do it for it.
    """
    reads_text = False
    learns = False
    for node in own_nodes(function):
        reads_text |= bool(TRAIN_NAME.search(last_name(node)))
        learns |= isinstance(node, ast.Call) and last_name(node.func) == "backward"
    return (reads_text and learns) or bool(TRAIN_PATH.search(getattr(function, "name", "")))


def scoring(trees: dict[str, ast.Module], imports: dict[str, dict]) -> set[ast.AST]:
    """Functions that run while scoring: those named so, and what they call or hand on."""
    tables = {file: functions(tree) for file, tree in trees.items()}
    stems = {Path(file).stem: file for file in trees}
    home = {node: file for file, table in tables.items() for n in table.values() for node in n}
    todo = []
    for file, table in tables.items():
        is_scorer = re.match("eval|score", Path(file).stem)
        for name, nodes in table.items():
            todo += nodes if SCORES.search(name) or (is_scorer and name in ("", "main")) else []
    reached: set[ast.AST] = set()
    while todo:
        function = todo.pop()
        if function in reached or trains(function):
            continue
        reached.add(function)
        file = home[function]
        for node in own_nodes(function):
            if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load):
                module, _, name = dotted(node, imports[file]).rpartition(".")
                if stem := stems.get(module):
                    todo += tables[stem].get(name, [])
                elif isinstance(node, ast.Name) or ast.unparse(node.value) == "self":
                    todo += tables[file].get(last_name(node), [])
    return reached


def dotted(node: ast.expr, names: dict[str, str]) -> str:
    """The full dotted name of what is called, through the file's imports."""
    root, _, rest = ast.unparse(node).partition(".")
    return names.get(root, "" if root.isidentifier() else root) + ("." + rest if rest else "")


def strings(node: ast.AST) -> str:
    """All text in the literals of an expression."""
    literals = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
    return " ".join(text for text in literals if isinstance(text, str))


def reaches_network(node: ast.Call, names: dict[str, str]) -> bool:
    name = dotted(node.func, names)
    if any(name.startswith(module + ".") for module in NETWORK):
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


def plain_findings(trees: dict[str, ast.Module]) -> Iterable[Finding]:
    """Network, files and literals, by where in the program they stand."""
    imports = {file: imported(tree) for file, tree in trees.items()}
    during = scoring(trees, imports)
    for file, tree in trees.items():
        constants = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                constants[node.targets[0].id] = strings(node.value)
        for function in [node for nodes in functions(tree).values() for node in nodes]:
            scores = function in during
            for node in own_nodes(function):
                line = getattr(node, "lineno", getattr(function, "lineno", 1))
                place = f"{file}:{line}"
                try:
                    yield from findings_at(node, function, scores, place, imports[file], constants)
                except RecursionError:
                    yield say("deep", place, "warn")


def findings_at(
    node: ast.AST,
    function: ast.AST,
    scores: bool,
    place: str,
    imports: dict[str, str],
    constants: dict[str, str],
) -> Iterable[Finding]:
    """Findings of one node of a function; `scores` where it runs while scoring."""
    if text := hard_coded(node, function):
        yield say("written", place, detail=text)
    if scores and TRAIN_NAME.search(last_name(node)):
        yield say("train text", place, detail=last_name(node))
    if not isinstance(node, ast.Call):
        return
    if reaches_network(node, imports):
        yield say("network", place, "fail" if scores else "warn", ast.unparse(node.func))
    path = file_read(node, constants) if scores else None
    if path and not HONEST_FILE.search(path):
        yield say("train text" if TRAIN_PATH.search(path) else "file", place, detail=path)
