"""The front door: every command of this repository, in an environment that is made on first use.

    python3 golf.py                      list the commands by what one wants to do
    python3 golf.py smoke                train, pack, score and weigh a small model
    python3 golf.py help seeds           what one command is for, with an example
    python3 golf.py tools.runs.stats …   any other module of the repository, by its dotted name

A command runs where you stand: paths that you type are yours, and run folders are made in logs/
there. Settings are environment variables and stand in front: SEED=42 python3 golf.py train

If the Python that starts golf.py has what a command needs, it is used as it is. Otherwise .venv is
made beside golf.py, and what is missing is installed there; each download is announced first.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Callable, Mapping, NamedTuple

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
TORCHRUN = "torch.distributed.run"
# Variable by which `train` and `score` tell their process the words of the next sensible command.
NEXT = "GOLF_NEXT"
NVIDIA_DRIVER = Path("/proc/driver/nvidia")


# Commands -----------------------------------------------------------------------------------------


def like(pattern: str) -> Callable[[str], bool]:
    """A test of one word of a command line: does the regular expression match all of it?"""
    return lambda word: re.fullmatch(pattern, word) is not None


class Command(NamedTuple):
    """One command: a row of the table from which the help, the README's table and main are made.

    `golf.py data fetch --variant sp1024` finds the row "data fetch", installs the extra "data", and
    starts `python -m data.prepare fetch --variant sp1024`.
    """

    name: str  # as it is typed: one word, or two
    group: str  # a key of GROUPS
    purpose: str
    module: str  # started with python -m
    example: str  # what stands after golf.py
    arguments: tuple[str, ...] = ()  # put before those that the user types
    extras: tuple[str, ...] = ()  # of pyproject.toml
    # Extras that only some arguments need: (test of one argument, extra).
    extras_by_argument: tuple[tuple[Callable[[str], bool], str], ...] = ()
    takes_gpus: bool = False  # --gpus N starts it in N processes, by torchrun; see Processes


GROUPS = {
    "try": "try it",
    "data": "prepare text",
    "train": "train",
    "score": "score",
    "pack": "pack",
    "prove": "prove",
    "compare": "compare",
    "publish": "publish",
}

TOOLS = ("ruff", "pytest")  # of others, that can be started by their names
# Sources of documents and tokenizers that need packages which a plain text file does not.
RAW_SOURCES = like(r".*\.parquet|tinystories|c4|fineweb-edu|wikitext-103|gpt2")
MODEL = "logs/RUN/artifact.pgz"

COMMANDS = (
    Command(
        name="smoke",
        group="try",
        purpose="train, pack, score and weigh a small model; about 2 minutes, no GPU, no data",
        module="train_gpt",
        example="smoke",
    ),
    Command(
        name="test",
        group="try",
        purpose="run the tests; options are pytest's",
        module="pytest",
        example="test -k size",
        arguments=("-n", "auto"),
        extras=("test",),
    ),
    Command(
        name="doctor",
        group="try",
        purpose="is this machine fit? forecast of steps, time and bytes",
        module="tools.runs.doctor",
        example="doctor",
    ),
    Command(
        name="data toy",
        group="data",
        purpose="English text from the installed Python, offline, in seconds",
        module="data.prepare",
        example="data toy",
        arguments=("toy",),
    ),
    Command(
        name="data fetch",
        group="data",
        purpose="published FineWeb shards and their tokenizer, verified",
        module="data.prepare",
        example="data fetch --variant sp1024 --train-shards 80",
        arguments=("fetch",),
        extras=("data",),
    ),
    Command(
        name="data build",
        group="data",
        purpose="shards from your own documents, with your own tokenizer",
        module="data.prepare",
        example="data build MY_TEXTS --tokenizer bpe:1024 --val-documents 100 --out my_shards",
        arguments=("build",),
        extras_by_argument=((RAW_SOURCES, "data-raw"),),
    ),
    Command(
        name="data verify",
        group="data",
        purpose="is a folder of shards what its manifest says, to the byte?",
        module="data.prepare",
        example="data verify my_shards",
        arguments=("verify",),
    ),
    Command(
        name="train",
        group="train",
        purpose="train, pack and score our recipe, or one of baselines/ by its name",
        module="train_gpt",
        example="train pr334 --gpus 8",
        takes_gpus=True,
    ),
    Command(
        name="seeds",
        group="train",
        purpose="one recipe with several seeds or settings, every launch registered",
        module="tools.runs.seeds",
        example="seeds -n 3 --name mine",
        extras_by_argument=(
            (like("(--(engine|on)=)?slurm"), "sweep"),
            (like("(--(engine|on)=)?ray"), "ray"),
        ),
    ),
    Command(
        name="store",
        group="train",
        purpose="a run or shards to s3:// or another store of objects, and back, verified",
        module="tools.runs.store",
        example="store logs/RUN s3://BUCKET/runs/RUN",
        extras=("store",),
        extras_by_argument=((like("s3://.*"), "s3"),),
    ),
    Command(
        name="watch",
        group="train",
        purpose="runs as they go: loss, rate, time left, curve",
        module="tools.runs.watch",
        example="watch logs/RUN",
        extras=("watch",),
        extras_by_argument=(
            (like("--html(=.*)?"), "plots"),
            (like("--tensorboard(=.*)?"), "tensorboard"),
            (like("--wandb(=.*)?"), "wandb"),
        ),
    ),
    Command(
        name="score",
        group="score",
        purpose="score a model again, in a fresh process",
        module="evaluate",
        example="score logs/RUN --ttt",
        takes_gpus=True,
    ),
    Command(
        name="evaluations",
        group="score",
        purpose="score by a named protocol, as the reference models were reported",
        module="baselines.evaluations",
        example="evaluations recipe logs/RUN",
    ),
    Command(
        name="generate",
        group="score",
        purpose="continue a text with a model",
        module="tools.hub.generate",
        example=f"generate {MODEL} --prompt 'The history of'",
        extras=("hf",),
        extras_by_argument=((like("--serve"), "serve"),),
    ),
    Command(
        name="size",
        group="pack",
        purpose="bytes of artifact and code against the cap",
        module="tools.submission.size",
        example="size logs/RUN",
        extras=("scripts",),
    ),
    Command(
        name="quantize",
        group="pack",
        purpose="pack a checkpoint again, to another size",
        module="quantize",
        example="quantize logs/RUN/checkpoint.pt --out small.pgz --target-bytes 200000",
    ),
    Command(
        name="codec report",
        group="pack",
        purpose="where the bytes of an artifact go",
        module="codec.report",
        example=f"codec report {MODEL}",
    ),
    Command(
        name="codec bench",
        group="pack",
        purpose="every codec on the same weights: bytes, error, loss, time",
        module="tools.runs.codec_bench",
        example="codec bench --quick",
        extras=("codecs", "plots"),
    ),
    Command(
        name="pack",
        group="pack",
        purpose="finished runs to one record folder; no number is typed",
        module="tools.submission.pack",
        example="pack logs/mine_seed* --name 'Mine' --author 'A. Name' --github-id name",
    ),
    Command(
        name="bundle",
        group="pack",
        purpose="the sources to one train_gpt.py that runs alone, and back",
        module="tools.submission.bundle",
        example="bundle unpack records/TRACK/FOLDER/train_gpt.py --out sources",
    ),
    Command(
        name="check",
        group="prove",
        purpose="is a record folder valid? files, figures, bytes, time, claims",
        module="tools.submission.check",
        example="check records/TRACK/FOLDER --run",
        extras=("scripts",),
    ),
    Command(
        name="audit",
        group="prove",
        purpose="is a score legal? shown on the artifact itself",
        module="tools.legality.audit",
        example="audit logs/RUN",
        extras=("scripts",),
    ),
    Command(
        name="lint",
        group="prove",
        purpose="read a script for what the rules forbid, without running it",
        module="tools.legality.lint",
        example="lint records/TRACK/FOLDER",
        extras=("scripts",),
    ),
    Command(
        name="cheaters",
        group="prove",
        purpose="does the audit catch the cheaters it must catch?",
        module="tools.legality.cheaters",
        example="cheaters",
    ),
    Command(
        name="stats",
        group="compare",
        purpose="is a gain real, or noise of the seeds?",
        module="tools.runs.stats",
        example="stats logs/mine_seed* --against logs/theirs_seed*",
    ),
    Command(
        name="speed",
        group="compare",
        purpose="tokens a second and use of the devices' peak",
        module="tools.runs.speed_report",
        example="speed logs/RUN --peak-flops 989e12",
    ),
    Command(
        name="compare",
        group="compare",
        purpose="systems on one text, as one table",
        module="tools.runs.compare",
        example="compare logs/mine_seed1337 logs/theirs_seed1337",
        extras_by_argument=((like("--plot(=.*)?"), "plots"),),
    ),
    Command(
        name="plot",
        group="compare",
        purpose="pictures of runs: curves, speed, bytes, error",
        module="tools.runs.plot",
        example="plot logs/mine_seed* --out plots",
        extras=("plots",),
    ),
    Command(
        name="logs",
        group="compare",
        purpose="what a log or a submission.json says, ours or the field's",
        module="tools.runs.logs",
        example="logs logs/RUN",
    ),
    Command(
        name="leaderboard",
        group="compare",
        purpose="the public history beside our own records",
        module="tools.submission.leaderboard",
        example="leaderboard --html board.html",
    ),
    Command(
        name="publish",
        group="publish",
        purpose="any model as a Hugging Face folder, proven equal to it",
        module="tools.hub.publish",
        example=f"publish {MODEL} --out my_model",
        extras=("hf",),
        extras_by_argument=((like("--push(=.*)?"), "data"),),
    ),
    Command(
        name="tokenizer",
        group="publish",
        purpose="a tokenizer in the form that Hugging Face's libraries read",
        module="tools.hub.tokenizer",
        example="tokenizer data/tokenizers/toy_1024_bpe.model --out my_tokenizer",
        extras=("hf",),
    ),
)


def find_command(words: list[str]) -> tuple[Command, list[str]]:
    """The row that the words name, and the words that are left for it.

    A dotted module name is a command too. Its row, if there is one, tells the extras: data.prepare
    fetch needs those of "data fetch".

    Raises: SystemExit for words that name nothing.
    """
    for length in (2, 1):
        for command in COMMANDS:
            if command.name == " ".join(words[:length]):
                return command, words[length:]
    if module_file(words[0]).is_file() or words[0] in TOOLS:
        plain = Command(name=words[0], group="", purpose="", module=words[0], example=words[0])
        for command in COMMANDS:
            first_words = tuple(words[1 : 1 + len(command.arguments)])
            if command.module == words[0] and command.arguments == first_words:
                extras = {
                    "extras": command.extras,
                    "extras_by_argument": command.extras_by_argument,
                }
                plain = plain._replace(**extras)
        return plain, words[1:]
    names = [command.name for command in COMMANDS]
    # "data" alone names four commands; "dat fetch" is nearly one; "smok" is nearly another.
    near = [name for name in names if name.split()[0] == words[0]]
    near = near or difflib.get_close_matches(" ".join(words[:2]), names, 1)
    near = near or difflib.get_close_matches(words[0], names, 1)
    hint = f"did you mean {' or '.join(near)}?" if near else "`python3 golf.py` lists the commands"
    sys.exit(f"golf.py: cannot run {' '.join(words)!r}; {hint}")


def module_file(module: str) -> Path:
    """The file of a module of ours, which need not exist."""
    return ROOT / (module.replace(".", "/") + ".py")


def list_commands() -> str:
    """The commands by what one wants to do, a line each."""
    width = max(len(command.name) for command in COMMANDS)
    lines = ["python3 golf.py COMMAND ...", ""]
    for group, title in GROUPS.items():
        lines.append(f"{title}:")
        for command in COMMANDS:
            if command.group == group:
                lines.append(f"    {command.name:{width}}  {command.purpose}")
    lines += ["", "python3 golf.py help COMMAND shows an example. The README tells the rest."]
    return "\n".join(lines)


def describe(command: Command) -> str:
    """What one command is for, with an example and what it runs."""
    lines = [f"{command.name}: {command.purpose}", ""]
    lines.append(f"    python3 golf.py {command.example}")
    lines.append("")
    if command.name == "train":
        lines.append(f"recipes: train_gpt (ours, taken without a name), {', '.join(recipes())}")
        lines.append("settings stand in front: SEED=42 MATRIX_LR=0.03 python3 golf.py train")
    if command.takes_gpus:
        lines.append("--gpus N starts N processes by torchrun, one for each GPU of this machine")
        lines.append(
            "--nodes M --node K --head HOST, typed on each of M machines: see docs/scale.md"
        )
    words = " ".join([command.module, *command.arguments])
    lines.append(f"runs python -m {words}")
    extras = [*command.extras, *(extra for _, extra in command.extras_by_argument)]
    if extras:
        lines.append(f"extras of pyproject.toml: {', '.join(extras)}")
    return "\n".join(lines)


def recipes() -> list[str]:
    """Names of the baselines that can be trained: the files that say RECIPE."""
    files = sorted((ROOT / "baselines").glob("*.py"))
    recipe = re.compile(r"^RECIPE\s*(:.*)?=", re.MULTILINE)
    return [path.stem for path in files if recipe.search(path.read_text(encoding="utf-8"))]


def recipe_name(name: str) -> str:
    """The module of a recipe, by its short name: pr334 is baselines.pr334.

    Raises: ValueError for a recipe that does not exist.
    """
    if name == "train_gpt":
        return name
    if name not in recipes():
        raise ValueError(f"no recipe {name!r}: there is train_gpt, {', '.join(recipes())}")
    return f"baselines.{name}"


def recipe_module(words: list[str]) -> str:
    """The module that trains the recipe which the words after `train` name.

    Raises: SystemExit for a recipe that does not exist, and for settings that stand behind.
    """
    settings = [word for word in words if re.fullmatch(r"[A-Za-z_]+=.*", word)]
    if settings:
        line = " ".join(map(shlex.quote, settings))
        sys.exit(f"golf.py: settings stand in front: {line} {shell_line('train')}")
    if len(words) > 1 or words and words[0].startswith("-"):
        sys.exit(f"golf.py: train takes one recipe and --gpus N, not {' '.join(words)!r}")
    try:
        return recipe_name(*words or ["train_gpt"])
    except ValueError as error:
        sys.exit(f"golf.py: {error}")


class Processes(NamedTuple):
    """The processes of one command: on one machine, or the same number on each of several."""

    gpus: int = 0  # of each machine; 0: one process, without torchrun
    nodes: int = 1
    node: int = 0  # which of them this machine is
    head: str = ""  # HOST or HOST:PORT of node 0

    def launcher(self) -> list[str]:
        """What stands in front of the command: nothing, or torchrun's module and its options."""
        if self.gpus == 0:
            return []
        place = ["--standalone"]
        if self.nodes > 1:
            host, _, port = self.head.partition(":")
            # Each node is told its number, for rank 0 has to be where the run's folder is. Left to
            # themselves the nodes are numbered as they arrive.
            place = [f"--nnodes={self.nodes}", f"--node_rank={self.node}"]
            place += [f"--master_addr={host}", f"--master_port={port or 29500}"]
        return [TORCHRUN, *place, f"--nproc_per_node={self.gpus}", "--no-python"]


ALONE = Processes()


def take_processes(words: list[str]) -> tuple[Processes, list[str]]:
    """What --gpus, --nodes, --node and --head say, and the other words.

    ["pr334", "--gpus", "8"] gives Processes(8) and ["pr334"].
    Raises: SystemExit for what is not a number, or where one is missing.
    """
    gpus, words = take_number(words, "--gpus", 0, least=1)
    nodes, words = take_number(words, "--nodes", 1, least=1)
    node, words = take_number(words, "--node", 0, least=0)
    head, words = take_option(words, "--head")
    if nodes > 1 and not (gpus and head and node < nodes):
        sys.exit(
            f"golf.py: --nodes {nodes} needs, on each of them, --gpus N, --node 0 to {nodes - 1},"
            " and --head HOST of node 0"
        )
    return Processes(gpus, nodes, node, head), words


def take_number(words: list[str], name: str, default: int, least: int) -> tuple[int, list[str]]:
    """The number after an option, the default without it, and the other words."""
    text, words = take_option(words, name)
    if not text:
        return default, words
    if not text.isdecimal() or int(text) < least:
        sys.exit(f"golf.py: {name} {text} must be a number from {least}")
    return int(text), words


def take_option(words: list[str], name: str) -> tuple[str, list[str]]:
    """The value of an option, empty without it, and the other words.

    Raises: SystemExit for an option without a value.
    """
    for place, word in enumerate(words):
        option, _, value = word.partition("=")
        if option == name:
            rest = words[place + 1 :]
            if option == word:
                value, rest = "".join(rest[:1]), rest[1:]
            if not value:
                sys.exit(f"golf.py: {name} needs a value")
            return value, words[:place] + rest
    return "", words


def shell_line(*words, settings: Mapping[str, str] = {}) -> str:
    """A command of golf.py as it is typed in the folder where the user stands.

    shell_line("score", "logs/my run") is "python3 golf.py score 'logs/my run'".
    """
    # Short where it can be: in the repository nobody wants to read its whole path.
    here = Path.cwd()
    script = ROOT / "golf.py"
    if here == ROOT or here in ROOT.parents:
        script = script.relative_to(here)
    in_front = [f"{name}={shlex.quote(text)}" for name, text in settings.items()]
    return " ".join([*in_front, *(shlex.quote(str(word)) for word in ("python3", script, *words))])


def say_next(*words, settings: Mapping[str, str] = {}) -> None:
    """Print the next sensible command, ready to be copied into a shell."""
    print(f"next: {shell_line(*words, settings=settings)}", flush=True)


# Environment --------------------------------------------------------------------------------------

# Rough downloads in MB, each with what it pulls in; DEFAULT_MB for all others.
PACKAGE_MB = {
    "torch": 230,
    "numpy": 17,
    "zstandard": 6,
    "ruff": 11,
    "matplotlib": 42,
    "transformers": 30,
    "datasets": 60,
    "pyarrow": 45,
    "tensorboard": 20,
    "wandb": 25,
    "ipykernel": 15,
}
DEFAULT_MB = 2
CUDA_MB = 2800  # that the CUDA build of torch takes more than the CPU build


def requirements(extras: list[str]) -> list[str]:
    """The base dependencies in pyproject.toml and those of the extras, as name>=version.

    Raises: SystemExit for an extra that pyproject.toml does not have.
    """
    import tomllib

    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]
    offered = project["optional-dependencies"]
    for extra in extras:
        if extra not in offered:
            sys.exit(f"golf.py: no extra {extra!r}: pyproject.toml has {', '.join(offered)}")
    needs = list(project["dependencies"])
    for extra in extras:
        needs += offered[extra]
    return needs


def missing(needs: list[str]) -> list[str]:
    """Those of the requirements, each name>=version, that this interpreter does not meet."""
    from importlib.metadata import distributions  # importing torch itself would take seconds

    def numbers(version: str) -> list[int]:
        # "2.10.0a0+git12" is [2, 10, 0], so that 2.10 is newer than 2.9.
        return [int(part) for part in re.findall(r"\d+", version)[:3]]

    absent = []
    for need in needs:
        name, least = need.split(">=")
        installed = next((package.version for package in distributions(name=name)), "")
        if numbers(installed) < numbers(least):
            absent.append(need)
    return absent


def missing_in_venv(needs: list[str]) -> list[str]:
    """Those of the requirements that .venv does not meet; its own Python looks."""
    # What a package of .venv would hide, and what its own base has, only that Python knows.
    code = "import sys, golf; print(*golf.missing(sys.argv[1:]))"
    done = subprocess.run(
        [PYTHON, "-c", code, *needs], cwd=ROOT, check=True, stdout=subprocess.PIPE
    )
    return done.stdout.decode().split()


def ready_python(needs: list[str]) -> str:
    """The Python that meets the needs already; empty where something has to be installed."""
    if not missing(needs):
        return sys.executable
    if os.path.exists(PYTHON) and not missing_in_venv(needs):
        return PYTHON
    return ""


class Attempt(NamedTuple):
    """One way to install: the command without the names of the packages, and its download."""

    tool: str
    command: list[str]
    is_cuda: bool  # it brings the CUDA build of torch


def has_driver() -> bool:
    return bool(shutil.which("nvidia-smi")) or NVIDIA_DRIVER.exists()


def uv_environment() -> dict[str, str]:
    """The environment for uv: it must trust whom the system trusts, as pip and curl do.

    Without this it refuses ("UnknownIssuer") behind a proxy that has a certificate authority of
    its own. Older versions read the first name, newer ones the second.
    """
    return {"UV_NATIVE_TLS": "1", "UV_SYSTEM_CERTS": "1", **os.environ}


def size_mb(packages: list[str], is_cuda: bool) -> int:
    """About how many megabytes the packages are to download."""
    names = [re.split("[=>]", package)[0] for package in packages]
    total = sum(PACKAGE_MB.get(name, DEFAULT_MB) for name in names)
    return total + CUDA_MB if is_cuda else total


def install(absent: list[str], run) -> None:
    """Install into .venv with uv, otherwise with pip; each attempt says first what it downloads.

    run(reason, command) prints the reason and gives the exit status of the command.

    Without an NVIDIA driver the CPU build of torch is wanted: of a newer torch there may be none,
    so the version in constraints.txt is taken. The index of pip gives the CUDA build; a folder of
    wheels that pip was told of may hold another. So uv, which can choose, is fetched first where
    pip has no CPU build.
    """
    # The name ends at ">": torchvision is another package.
    wants_torch = any(need.startswith("torch>") for need in absent)
    wants_cuda = wants_torch and has_driver()
    constraints = ROOT / "constraints.txt"
    limits = [] if wants_cuda else ["-c", str(constraints)]  # with a driver any torch will do
    # By the module: the script bin/pip names its Python in its first line, which fails where the
    # path has spaces.
    pip = [PYTHON, "-m", "pip", "install", "--no-input"]
    if not sys.stdout.isatty():
        pip.append("--quiet")
    uv = shutil.which("uv")
    pip_gives_cuda = wants_torch and sys.platform == "linux"
    if wants_torch and not wants_cuda:
        pattern = r"^torch==.*"
        pin = re.search(pattern, constraints.read_text(encoding="utf-8"), re.MULTILINE)[0]
        absent = [pin, *(need for need in absent if not need.startswith("torch>"))]
        query = [PYTHON, "-m", "pip", "index", "versions", "torch"]
        # "2.13.0+cpu, 2.13.0" where pip was told of a folder with the CPU build.
        answer = subprocess.run(query, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        version = pin[len("torch==") :]
        pip_gives_cuda = pip_gives_cuda and f"{version}+cpu" not in answer.stdout.decode()
        if pip_gives_cuda and not uv:
            reason = "fetching uv (17 MB), because pip finds only the CUDA build of torch"
            if run(reason, [*pip, "uv"]) == 0:
                uv = str(VENV / "bin" / "uv")

    attempts = []
    if uv:
        backend = f"--torch-backend={'auto' if has_driver() else 'cpu'}"
        by_uv = [uv, "pip", "install", "--python", PYTHON, backend, *limits]
        attempts.append(Attempt("uv", by_uv, wants_cuda))
    # The exact versions were tested. Where an index does not have one of them, any newer will do.
    attempts.append(Attempt("pip", [*pip, *limits], pip_gives_cuda))
    attempts.append(Attempt("pip", pip, pip_gives_cuda))
    for attempt in attempts:
        if attempt.is_cuda and not wants_cuda:
            allow_cuda(size_mb(absent, True))
        size = size_mb(absent, attempt.is_cuda)
        reason = f"fetching {', '.join(absent)} with {attempt.tool}: up to {size} MB"
        if "--quiet" in attempt.command:
            reason += ", some minutes in which pip says nothing"
        if run(reason, attempt.command + absent) == 0:
            return


def allow_cuda(megabytes: int) -> None:
    """Go on only if somebody wants a download that is ten times the one that was announced.

    A terminal is asked. A batch job has nobody to ask: it ends with what can be done, or is told
    GOLF_YES=1 beforehand. Raises: SystemExit.
    """
    if os.environ.get("GOLF_YES") == "1":
        return
    problem = f"the CPU build of torch cannot be had here; the CUDA build is {megabytes} MB"
    if sys.stdin.isatty():
        answer = input(f"golf.py: {problem}. Fetch it all the same? [y/N] ")
        if answer.strip().lower() in ("y", "yes"):
            return
    sys.exit(
        f"golf.py: {problem}. Let uv reach download.pytorch.org (a proxy: HTTPS_PROXY, its"
        " certificate: SSL_CERT_FILE), or install torch yourself and start golf.py with that"
        " Python, or set GOLF_YES=1 to take the CUDA build"
    )


def prepared(needs: list[str]) -> str:
    """The Python that meets the needs: this one, or that of .venv with what was missing.

    Several golf.py may be started at once, and one may be killed while it installs. A lock lets the
    others wait. What stands in the lock file means that .venv was being changed when its owner
    ended, and that it must be made anew.
    """
    if not missing(needs):
        return sys.executable
    import fcntl

    def run(reason: str, command: list[str]) -> int:
        print(f"golf.py: {reason}", flush=True)
        # The child holds the lock too: if we are killed, pip goes on and must be waited for.
        return subprocess.run(command, pass_fds=[lock.fileno()], env=uv_environment()).returncode

    with open(ROOT / ".venv.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("golf.py: waiting for another golf.py, which is installing", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        # It was opened for appending, so that opening it never empties it.
        lock.seek(0)
        is_unusable = lock.read() != "" or not os.path.exists(PYTHON)
        if is_unusable or missing_in_venv(needs):
            # At once, past Python's buffers: a kill -9 must leave the mark behind.
            os.write(lock.fileno(), b"changing .venv")
            if is_unusable:
                make_venv(run)
            try:
                install(missing_in_venv(needs), run)
            finally:
                lock.truncate(0)  # we are alive, so nothing was left half done
            absent = missing_in_venv(needs)
            if absent:
                sys.exit(f"golf.py: could not install {', '.join(absent)}; is there a network?")
    return PYTHON


def make_venv(run) -> None:
    """Make .venv anew; it sees the packages of the Python that golf.py was started with."""
    venv = [sys.executable, "-m", "venv", "--clear", "--system-site-packages", str(VENV)]
    if run(f"making {VENV}", venv):
        sys.exit("golf.py: that failed; Debian and Ubuntu need: apt install python3-venv")
    if sys.prefix != sys.base_prefix:
        # Started from an environment, the new one would see only the Python below that one.
        site = sysconfig.get_path("purelib", "venv", {"base": str(VENV)})
        Path(site, "parent.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")


# Running ------------------------------------------------------------------------------------------


def own_environment() -> dict[str, str]:
    """The environment as it is, for tools that read settings in it."""
    return dict(os.environ)


def child_environment() -> dict[str, str]:
    """The environment of what golf.py starts: our folder first among those that are imported."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # A terminal that knows ASCII only gets "?" for a letter, and not an error in place of a table.
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    return {
        # Threads that spin while waiting gain a third on a free CPU, and lose tenfold on another.
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        "PYTHONPATH": path,
        "PYTHONIOENCODING": f"{encoding}:{errors or 'replace'}",
    }


def program(python: str, module: str, processes: Processes = ALONE) -> list[str]:
    """The start of the command line of a module: alone, or as one of several processes.

    -P keeps the folder where the user stands out of what is imported: a folder of theirs that is
    named data must not hide ours.
    """
    start = [python, "-P", "-m", "golf", "--as"]
    launcher = processes.launcher()
    return [*start, *launcher, *start, module] if launcher else [*start, module]


def name_run(environ: Mapping[str, str]) -> dict[str, str]:
    """Variables that name the run which is to be trained, and what its process says to do next."""
    names = {}
    run_id = environ.get("RESUME") or environ.get("RUN_ID")
    if not run_id:
        run_id = time.strftime(f"%Y-%m-%d_%H%M%S_{os.getpid()}")
        names["RUN_ID"] = run_id
    return {NEXT: shlex.join(["audit", f"logs/{run_id}"]), **names}


def after_score(words: list[str]) -> dict[str, str]:
    """The variable that names the command after `score WORDS`; none where output is JSON.

    After a plan that is the score itself, after that of a run its audit; any other model can write.
    """
    model = words[0] if words else "-"
    if "--json" in words or model.startswith("-"):
        return {}
    following = ["generate", model, "--prompt", "The"]
    if "--plan" in words:
        following = ["score", *(word for word in words if word != "--plan")]
    elif Path(model, "settings.json").exists():
        following = ["audit", model]
    return {NEXT: shlex.join(following)}


def become(module: str, words: list[str]) -> None:
    """Do what `python -m MODULE WORDS` does, without a traceback where nothing is at fault.

    Ctrl-C is one line. torchrun, whose processes have said already what stopped them, adds nothing.
    """
    import runpy

    sys.argv = [module, *words]
    is_first = os.environ.get("RANK", "0") == "0"
    # Taken away, so that what the module starts itself does not say it too.
    following = os.environ.pop(NEXT, "") if module != TORCHRUN else ""
    try:
        try:
            try:
                runpy.run_module(module, run_name="__main__", alter_sys=True)
            except SystemExit as end:
                if end.code:
                    raise
            if following and is_first:
                say_next(*shlex.split(following))
        finally:
            sys.stdout.flush()  # here, where a closed pipe can be told
    except KeyboardInterrupt:
        if is_first:
            print("\ngolf.py: stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:  # as of `golf.py leaderboard | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        kind = type(error).__name__
        if module != TORCHRUN or kind not in ("ChildFailedError", "SignalException"):
            raise
        sys.exit(1)


def smoke(python: str) -> int:
    """Train, pack, score and weigh a small model in our own folder; returns the exit status."""
    environ = child_environment()
    run_id = os.environ.get("RUN_ID") or time.strftime(f"smoke_%Y%m%d_%H%M%S_{os.getpid()}")
    environ |= {"PRESET": "smoke", "RUN_ID": run_id}
    folder = ROOT / "logs" / run_id
    print("golf.py: about 2 minutes: text, 1 minute of training, packing, scoring", flush=True)
    if subprocess.run(program(python, "train_gpt"), cwd=ROOT, env=environ).returncode:
        sys.exit(f"golf.py: the run {run_id} failed, as the lines above say")
    size = [*program(python, "tools.submission.size"), f"logs/{run_id}"]
    status = subprocess.run(size, cwd=ROOT, env=child_environment()).returncode
    artifact = os.path.relpath(folder / "artifact.pgz")
    say_next("generate", artifact, "--prompt", "The module")
    return status


def main(arguments: list[str]) -> None:
    """Find the command, make what it needs, and become it."""
    if sys.version_info < (3, 11):
        sys.exit(f"golf.py: Python 3.11 or newer is needed, {sys.executable} is older")
    if arguments[:1] == ["--as"]:
        become(arguments[1], arguments[2:])
        return
    extras = []
    if arguments[:1] == ["--with"] and len(arguments) > 2:
        extras = arguments[1].split(",")
        arguments = arguments[2:]
    if not arguments or arguments[0] in ("-h", "--help", "--with") or arguments == ["help"]:
        print(list_commands())
        return
    if arguments[0] == "help":
        print(describe(find_command(arguments[1:])[0]))
        return
    command, words = find_command(arguments)
    extras += command.extras
    for needs_extra, extra in command.extras_by_argument:
        if any(map(needs_extra, words)):
            extras.append(extra)

    module = command.module
    names: dict[str, str] = {}
    processes = ALONE
    if command.takes_gpus:
        processes, words = take_processes(words)
    asks_help = "-h" in words or "--help" in words
    if asks_help and command.group:
        print(describe(command))
        # These two take no options of a module's. Help of the others never installs anything.
        if command.name in ("train", "smoke") or not ready_python(requirements(extras)):
            return
        print(flush=True)
    elif command.name == "train":
        module, words = recipe_module(words), []
        print(f"golf.py: {module} loads torch and looks at the text, then says more", flush=True)
        names = name_run(os.environ)
    elif command.name == "score":
        stream = sys.stderr if "--json" in words else sys.stdout
        print("golf.py: loads torch and reads the text, then says more", file=stream, flush=True)
        names = after_score(words)
    elif command.name == "smoke" and words:
        sys.exit(f"golf.py: smoke takes no arguments, not {' '.join(words)!r}")

    python = prepared(requirements(extras))
    if command.name == "smoke":
        sys.exit(smoke(python))
    if command.name == "test":
        os.chdir(ROOT)  # pytest finds its settings, and the tests, where it stands
    line = [*program(python, module, processes), *command.arguments, *words]
    # Replacing this process, and not waiting for another: signals and the exit status need no care.
    os.execve(line[0], line, {**child_environment(), **names})


if __name__ == "__main__":
    main(sys.argv[1:])
