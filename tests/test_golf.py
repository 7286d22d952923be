"""The launcher: when it installs, what, how, and what it does when that goes wrong.

Python, pip and uv are shell scripts here, which log how they are called; the lock is the real one.
"""

import argparse
import ast
import importlib
import io
import json
import multiprocessing
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import golf

ROOT = Path(__file__).parents[1]
START = ["-P", "-m", "golf", "--as"]  # golf.become
SCRIPT = """#!/bin/sh
venv={folder}/.venv
say() {{ echo "$*" >> {folder}/calls; }}
say "$(basename $0) $*"
case "$*" in
*"-m venv"*)
    rm -rf $venv; mkdir -p $venv/bin; cp $0 $venv/bin/python
    exit ${{VENV_STATUS:-0}} ;;
-c*) test -e $venv/complete || echo $ABSENT ;;
*"index versions"*) echo "torch (2.15.0) 2.15.0, 2.13.0$BUILD, 2.13.0" ;;
*" uv") cp $0 $venv/bin/uv ;;
*tools.submission.size*) say "weighed in $PWD" ;;
*install*)
    say "certificates $UV_NATIVE_TLS $UV_SYSTEM_CERTS"
    test $(basename $0) = uv && test -n "$UV_FAILS" && exit 1
    test -n "$PIP_FAILS" && exit 1
    sleep ${{SECONDS_TO_INSTALL:-0}}; touch $venv/complete; say complete ;;
*"--as train_gpt")
    say "PRESET=$PRESET RUN_ID=$RUN_ID in $PWD"
    exit ${{STATUS:-0}} ;;
esac
"""


class Box:
    """A computer with a repository on it: what it has can be set, and what was called be read."""

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.env, self.tools = folder, monkeypatch.setenv, {}
        self.python = self.script("bin/python3")
        for name in ("pyproject.toml", "constraints.txt"):
            (folder / name).write_text((ROOT / name).read_text())
        monkeypatch.setattr(golf, "ROOT", folder)
        monkeypatch.setattr(golf, "VENV", folder / ".venv")
        monkeypatch.setattr(golf, "PYTHON", str(folder / ".venv/bin/python"))
        monkeypatch.setattr(golf, "NVIDIA_DRIVER", folder / "driver")
        monkeypatch.setattr(golf, "missing", lambda needs: os.environ["ABSENT"].split())
        monkeypatch.setattr(golf.sys, "stdin", io.StringIO())  # no terminal
        monkeypatch.setattr(golf.shutil, "which", self.tools.get)
        monkeypatch.setattr(golf.sys, "executable", self.python)
        monkeypatch.setattr(golf.sys, "platform", "linux")
        monkeypatch.setattr(golf.sys, "prefix", golf.sys.base_prefix)
        self.env("ABSENT", "torch>=2.9 numpy>=2.0")
        self.env("BUILD", "+cpu")
        for name in ("RUN_ID", "PRESET", "PYTHONPATH", "GOLF_YES"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(folder)

    def script(self, name: str) -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SCRIPT.format(folder=self.folder))
        path.chmod(0o755)
        return str(path)

    def calls(self, word: str = "") -> list[str]:
        log = self.folder / "calls"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line for line in lines if word in line]

    def installs(self) -> list[str]:
        return self.calls(" install ")


@pytest.fixture
def box(tmp_path, monkeypatch) -> Box:
    return Box(tmp_path, monkeypatch)


@pytest.fixture
def launched(monkeypatch) -> list:
    """What would replace this process: program, arguments, environment, folder."""
    seen: list = []
    monkeypatch.setattr(os, "execve", lambda *args: seen.append((*args, os.getcwd())))
    return seen


def test_an_old_python_gets_a_sentence(box, launched, monkeypatch):
    """The file parses on Python 3.8, and the first thing that it does is to look at the version."""
    ast.parse((ROOT / "golf.py").read_text(), feature_version=(3, 8))
    monkeypatch.setattr(golf.sys, "version_info", (3, 10, 12))
    with pytest.raises(SystemExit, match="Python 3.11 or newer is needed"):
        golf.main(["smoke"])
    assert not box.calls() and not launched


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"], ["--with"], ["--with", "test"]])
def test_the_list_of_commands_installs_nothing(box, launched, capsys, arguments):
    """Without a command all commands are listed, by what one wants to do."""
    golf.main(arguments)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if line in ("try it:", "train:", "publish:")]
    for command in golf.COMMANDS:
        assert [line for line in lines if line.split()[: len(command.name.split())] ==
                command.name.split() and command.purpose in line]  # fmt: skip
    assert not box.calls()


def test_every_row_of_the_table_is_complete():
    """Each module is a file, each extra is in pyproject.toml, and each example is its own."""
    for command in golf.COMMANDS:
        assert command.group in golf.GROUPS and command.purpose
        assert golf.module_file(command.module).is_file() or command.module in golf.TOOLS
        golf.requirements([*command.extras, *(extra for _, extra in command.extras_by_argument)])
        assert golf.find_command(shlex.split(command.example))[0] == command
    assert len({command.name for command in golf.COMMANDS}) == len(golf.COMMANDS)
    assert {command.group for command in golf.COMMANDS} == set(golf.GROUPS)


@pytest.mark.parametrize("name", ["train", "seeds", "data fetch", "smoke"])
def test_help_of_one_command_installs_nothing(box, launched, capsys, name):
    """`help NAME` and `NAME --help` show an example; options are shown where there is .venv."""
    golf.main(["help", *name.split()])
    text = capsys.readouterr().out
    golf.main([*name.split(), "--help"])
    assert capsys.readouterr().out.startswith(text)
    assert f"python3 golf.py {golf.find_command(name.split())[0].example}" in text
    assert not launched and not box.installs()


def test_help_shows_the_options_where_they_can_be_had(box, launched):
    """With a complete Python --help goes on to the module."""
    box.env("ABSENT", "")
    golf.main(["seeds", "--help"])
    assert launched[0][1][1:] == [*START, "tools.runs.seeds", "--help"]


@pytest.mark.parametrize(
    "arguments, answer",
    [
        (["smok"], "cannot run 'smok'; did you mean smoke"),
        (["data"], "did you mean data toy or data fetch or data build or data verify"),
        (["data", "fech"], "did you mean data toy"),
        (["data.prepar", "toy"], "cannot run 'data.prepar toy'"),
        (["smoke", "SEED=1"], "smoke takes no arguments, not 'SEED=1'"),
        (["train", "pr335"], "no recipe 'pr335': there is train_gpt"),
        (["train", "a", "b"], "one recipe and --gpus N, not 'a b'"),
        (["train", "--seed", "1"], "one recipe and --gpus N"),
        (["train", "SEED=1", "A=b c"], "settings stand in front: SEED=1 'A=b c' python3 golf.py"),
        (["train", "--gpus"], "--gpus needs a value"),
        (["train", "--gpus=0"], "--gpus 0 must be a number from 1"),
        (["train", "--gpus=2", "--nodes", "2"], "--nodes 2 needs, on each of them"),
        (["train", "--gpus=2", "--nodes=2", "--head=a", "--node=2"], "--node 0 to 1"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_installed(box, launched, arguments, answer):
    """A typing error, or arguments that would be ignored, cost nothing and are quoted."""
    with pytest.raises(SystemExit) as refusal:
        golf.main(arguments)
    assert answer in str(refusal.value) and not box.calls() and not launched


def extras_of(monkeypatch, *words) -> list[str]:
    """The extras for which main asks."""
    extras_asked = []
    monkeypatch.setattr(golf, "requirements", lambda extras: extras_asked.extend(extras) or [])
    monkeypatch.setattr(golf, "prepared", lambda needs: sys.executable)
    monkeypatch.setattr(os, "execve", lambda *args: None)
    golf.main(list(words))
    return extras_asked


@pytest.mark.parametrize(
    "words, extras",
    [
        (["data", "fetch", "--variant", "sp1024"], ["data"]),
        (["data.prepare", "fetch"], ["data"]),
        (["data.prepare", "verify", "DIR"], []),
        (["data", "build", "text.txt", "--tokenizer", "bpe:1024"], []),
        (["data", "build", "a b.parquet", "--tokenizer", "bpe:1024"], ["data-raw"]),
        (["tools.hub.publish", "A.pgz", "--out", "DIR"], ["hf"]),
        (["publish", "A.pgz", "--out", "DIR", "--push", "me/it"], ["hf", "data"]),
        (["compare", "RUN"], []),
        (["compare", "RUN", "--plot", "a.png"], ["plots"]),
        (["--with", "lint,hf", "ruff", "check"], ["lint", "hf"]),
        (["--with", "codecs", "plot", "RUN"], ["codecs", "plots"]),
    ],
)
def test_a_command_brings_the_packages_that_it_needs(monkeypatch, words, extras):
    """Nobody has to name them: the row of the command does, and some arguments do."""
    assert extras_of(monkeypatch, *words) == extras


@pytest.mark.parametrize(
    "words, line",
    [
        (["score", "A.pgz", "--ttt"], ["evaluate", "A.pgz", "--ttt"]),
        (["data", "toy", "--out", "x"], ["data.prepare", "toy", "--out", "x"]),
        (["codec", "report", "A.pgz"], ["codec.report", "A.pgz"]),
        (["quantize", "A.pt", "--out", "A.pgz"], ["quantize", "A.pt", "--out", "A.pgz"]),
        (["train"], ["train_gpt"]),
        (["train", "train_gpt"], ["train_gpt"]),
        (["tools.runs.stats", "1493"], ["tools.runs.stats", "1493"]),
    ],
)
def test_the_words_become_one_module_and_its_arguments(box, launched, words, line):
    """A command of two words brings its first argument; a module's own name brings nothing."""
    box.env("ABSENT", "")
    (box.folder / "tools/runs").mkdir(parents=True)
    (box.folder / "tools/runs/stats.py").touch()
    golf.main(words)
    assert launched[0][1][1:] == [*START, *line]


def test_gpus_start_as_many_processes_each_with_our_folder_first(box, launched):
    """torchrun, of the same Python, starts the module; -P reaches every process."""
    box.env("ABSENT", "")
    golf.main(["train", "--gpus", "8"])
    golf.main(["score", "A.pgz", "--gpus=2", "--ttt"])
    start = [box.python, *START, "torch.distributed.run", "--standalone"]
    each = ["--no-python", box.python, *START]
    assert launched[0][1] == [*start, "--nproc_per_node=8", *each, "train_gpt"]
    assert launched[1][1] == [*start, "--nproc_per_node=2", *each, "evaluate", "A.pgz", "--ttt"]


def test_several_nodes_are_numbered_and_meet_at_the_first(box, launched):
    """--nodes, --node and --head become torchrun's options, on each machine."""
    box.env("ABSENT", "")
    golf.main(["train", "--nodes=2", "--gpus", "8", "--head", "10.0.0.1"])
    golf.main(["train", "--nodes=2", "--gpus", "8", "--node=1", "--head", "10.0.0.1:4000"])
    place = ["--nnodes=2", "--node_rank=0", "--master_addr=10.0.0.1", "--master_port=29500"]
    assert launched[0][1][6:11] == [*place, "--nproc_per_node=8"]
    place = ["--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=4000"]
    assert launched[1][1][6:11] == [*place, "--nproc_per_node=8"]


@pytest.mark.parametrize(
    "name, line, status, end",
    [
        ("theirs", "raise KeyboardInterrupt", 130, "\ngolf.py: stopped by Ctrl-C\n"),
        ("theirs", "raise BrokenPipeError", 141, ""),
        ("torch.distributed.run", "class ChildFailedError(Exception): ...", 1, ""),
        ("theirs", "raise ValueError('a fault of ours')", 1, "ValueError: a fault of ours\n"),
    ],
)
def test_no_traceback_where_nothing_is_at_fault(tmp_path, name, line, status, end):
    """Ctrl-C, a closed pipe, and torchrun's report of what its processes said already."""
    path = tmp_path / (name.replace(".", "/") + ".py")
    path.parent.mkdir(parents=True, exist_ok=True)
    if name != "theirs":
        line += "\nraise ChildFailedError"
    path.write_text(f"import sys\nassert sys.argv[1:] == ['a', '--b']\n{line}\n")
    done = subprocess.run(
        [sys.executable, *START, name, "a", "--b"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == status and done.stderr.endswith(end), done.stderr
    assert ("Traceback" in done.stderr) == ("fault" in line)


@pytest.mark.parametrize("name", ["RUN_ID", "RESUME", ""])
def test_training_ends_with_the_next_command(box, launched, monkeypatch, capsys, name):
    """Of rank 0 alone, and not after torchrun, whose processes have said it."""
    box.env("ABSENT", "")
    for variable in ("RUN_ID", "RESUME", "RANK"):
        monkeypatch.delenv(variable, raising=False)
    if name:
        monkeypatch.setenv(name, "my run")
    golf.main(["train", "--gpus", "2"])
    environment = launched[0][2]
    run_id = "my run" if name else environment["RUN_ID"]
    assert shlex.split(environment[golf.NEXT]) == ["audit", f"logs/{run_id}"] and run_id
    monkeypatch.setenv(golf.NEXT, environment[golf.NEXT])
    monkeypatch.setattr("runpy.run_module", lambda *args, **kwargs: None)
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [])
    golf.become("train_gpt", [])
    assert shlex.split(capsys.readouterr().out)[-2:] == ["audit", f"logs/{run_id}"]
    assert golf.NEXT not in os.environ  # nor is it said by what the run starts
    for module, rank in ((golf.TORCHRUN, "0"), ("train_gpt", "1")):
        monkeypatch.setenv(golf.NEXT, environment[golf.NEXT])
        monkeypatch.setenv("RANK", rank)
        golf.become(module, [])
    assert not capsys.readouterr().out


@pytest.mark.parametrize(
    "words, following",
    [
        (["a run", "--ttt"], ["audit", "a run"]),
        (["a run", "--plan", "--stride", "0"], ["score", "a run", "--stride", "0"]),
        (["x.pgz"], ["generate", "x.pgz", "--prompt", "The"]),
        (["a run", "--json"], None),
        (["--ttt", "a run"], None),
    ],
)
@pytest.mark.parametrize("status", [0, 2])
def test_scoring_says_a_line_at_once_and_the_next_command(
    box, launched, monkeypatch, capsys, words, following, status
):
    """torch loads for seconds in silence. With --json standard output is the object alone."""
    box.env("ABSENT", "")
    monkeypatch.delenv("RANK", raising=False)
    Path("a run").mkdir()
    Path("a run/settings.json").touch()
    golf.main(["score", *words])
    said = capsys.readouterr()
    assert "loads torch" in (said.err if "--json" in words else said.out)
    assert not said.out or "--json" not in words
    environment = launched[0][2]
    assert (golf.NEXT in environment) == (following is not None)
    monkeypatch.setenv(golf.NEXT, environment.get(golf.NEXT, ""))

    def ends(*args, **kwargs):
        sys.exit(status)

    monkeypatch.setattr("runpy.run_module", ends)
    monkeypatch.setattr(sys, "argv", [])
    if status:
        with pytest.raises(SystemExit):
            golf.become("evaluate", words)
        assert not capsys.readouterr().out
    else:
        golf.become("evaluate", words)
        out = capsys.readouterr().out
        assert (shlex.split(out)[-len(following) :] if following else out) == (following or "")


def test_a_reader_that_leaves_is_no_fault(tmp_path):
    """As of `golf.py leaderboard | head`: Python says nothing of it, at its end either."""
    (tmp_path / "theirs.py").write_text("import sys\nprint('a line')\nsys.exit(0)\n")
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, *START, "theirs"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_train_takes_the_name_of_a_baseline(box, launched):
    """The files of baselines/ that say RECIPE are trained by their names; others are not."""
    box.env("ABSENT", "")
    (box.folder / "baselines").mkdir()
    (box.folder / "baselines/mine.py").write_text("class MyRecipe: ...\nRECIPE = MyRecipe()\n")
    (box.folder / "baselines/helper.py").write_text("RECIPES = 3\n")
    golf.main(["train", "mine", "--gpus=2"])
    assert launched[0][1][-5:] == [*START, "baselines.mine"]
    with pytest.raises(SystemExit, match="no recipe 'helper': there is train_gpt, mine"):
        golf.main(["train", "helper"])


def test_the_published_recipes_are_there():
    """The reference models and the record that ours began with."""
    assert {"pr334", "gelu_d12", "yat_d12", "gpt2_124m", "preln_53m"} <= set(golf.recipes())


def test_a_line_for_the_shell_can_be_typed_where_the_user_stands(tmp_path, monkeypatch):
    """The script's path is relative inside the repository, else whole; all words are quoted."""
    monkeypatch.chdir(ROOT)
    assert golf.shell_line("score", "logs/a b") == "python3 golf.py score 'logs/a b'"
    monkeypatch.chdir(ROOT.parent)
    assert golf.shell_line("smoke") == f"python3 {shlex.quote(ROOT.name + '/golf.py')} smoke"
    monkeypatch.chdir(tmp_path)
    assert golf.shell_line("smoke") == f"python3 {shlex.quote(str(ROOT / 'golf.py'))} smoke"


def test_an_unknown_extra_is_refused(box, launched):
    """--with names an extra of pyproject.toml, or the error lists those there are."""
    with pytest.raises(SystemExit, match="no extra 'linter': pyproject.toml has .*lint"):
        golf.main(["--with", "linter", "ruff"])


def test_every_requirement_is_a_name_and_a_minimum():
    """missing() reads name>=version and nothing else, so pyproject.toml must hold nothing else."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for need in golf.requirements(list(extras["optional-dependencies"])):
        name, minimum = need.split(">=")
        assert name.isprintable() and all(map(str.isdigit, minimum.split("."))), need


def test_threads_sleep_while_they_wait(launched, monkeypatch):
    """A busy machine does not slow the commands tenfold; a setting of the user's own stands."""
    monkeypatch.setattr(golf, "prepared", lambda needs: sys.executable)
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    golf.main(["quantize", "report"])
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    golf.main(["quantize", "report"])
    assert [call[2]["OMP_WAIT_POLICY"] for call in launched] == ["PASSIVE", "ACTIVE"]


@pytest.mark.parametrize(
    "installed_version, met",
    [
        ("2.13.0+cpu", True),
        ("2.9.0", True),
        ("2.10.0a0+git12", True),
        ("2.8.1", False),
        (None, False),
    ],
)
def test_versions_compare_as_numbers(monkeypatch, installed_version, met):
    """2.10 is newer than 2.9, build tags do not matter, and what is absent is missing."""
    from types import SimpleNamespace

    def distributions(name):
        return (
            [SimpleNamespace(version=installed_version)]
            if name == "torch" and installed_version
            else []
        )

    monkeypatch.setattr("importlib.metadata.distributions", distributions)
    assert golf.missing(["torch>=2.9"]) == ([] if met else ["torch>=2.9"])


def test_a_complete_python_is_used_as_it_is(box, launched):
    """Nothing is called or made, and the module runs where the user stands, with ours first."""
    box.env("ABSENT", "")
    box.env("PYTHONPATH", "/theirs")
    (box.folder / "data").mkdir()
    (box.folder / "data/prepare.py").write_text("")
    elsewhere = box.folder / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    golf.main(["data.prepare", "toy", "--out", "here"])
    [(program, arguments, env, folder)] = launched
    assert program == box.python and folder == str(elsewhere) and not box.calls()
    assert arguments == [program, *START, "data.prepare", "toy", "--out", "here"]
    assert env["PYTHONPATH"] == f"{box.folder}:/theirs"
    assert not (box.folder / ".venv.lock").exists()


def test_the_first_call_makes_an_environment_and_says_what_it_downloads(box, launched, capsys):
    """Without NVIDIA driver: the pinned torch, exact versions, and names and size beforehand."""
    golf.main(["test", "-k", "size"])
    assert "-m venv --clear --system-site-packages" in box.calls("venv")[0]
    [install] = box.installs()
    assert install.startswith("python -m pip install --no-input")
    assert install.endswith(f"-c {box.folder}/constraints.txt torch==2.13.0 numpy>=2.0")
    lines = capsys.readouterr().out
    assert "torch==2.13.0, numpy>=2.0" in lines and "up to 247 MB" in lines
    [(program, arguments, _, folder)] = launched
    assert program == golf.PYTHON and folder == str(box.folder)
    assert arguments[1:] == [*START, "pytest", "-n", "auto", "-k", "size"]


def test_the_second_call_installs_nothing(box):
    """A complete .venv is asked once and used: no pip, no new environment."""
    assert golf.prepared(["numpy>=2.0"]) == golf.PYTHON
    before = len(box.calls())
    assert golf.prepared(["numpy>=2.0"]) == golf.PYTHON
    assert [line.split()[:2] for line in box.calls()[before:]] == [["python", "-c"]]


@pytest.mark.parametrize("sign", ["driver", "nvidia-smi"])
def test_with_a_driver_any_torch_will_do(box, capsys, sign):
    """No pin keeps pip from the build that suits the driver, and the size is that of CUDA."""
    if sign == "driver":
        golf.NVIDIA_DRIVER.mkdir()
    else:
        box.tools["nvidia-smi"] = "/usr/bin/nvidia-smi"
    golf.prepared([])
    assert box.installs()[0].endswith("--quiet torch>=2.9 numpy>=2.0")
    assert "up to 3047 MB" in capsys.readouterr().out


@pytest.mark.parametrize("driver, backend", [(False, "cpu"), (True, "auto")])
def test_uv_is_preferred_and_chooses_the_build(box, capsys, driver, backend):
    """With uv in the path: the CPU build without a driver, the matching one with it; no pip."""
    box.tools["uv"] = box.script("bin/uv")
    if driver:
        golf.NVIDIA_DRIVER.mkdir()
    golf.prepared([])
    [install] = box.installs()
    assert install.startswith(f"uv pip install --python {golf.PYTHON} --torch-backend={backend}")
    assert ("up to 3047 MB" if driver else "up to 247 MB") in capsys.readouterr().out


def test_pip_takes_over_when_uv_fails(box, capsys):
    """uv without a way to its index is followed by pip, and a line says so."""
    box.tools["uv"] = box.script("bin/uv")
    box.env("UV_FAILS", "1")
    golf.prepared([])
    assert [line.split()[0] for line in box.installs()] == ["uv", "python"]
    assert "with pip" in capsys.readouterr().out


def test_uv_is_fetched_where_pip_has_only_the_cuda_build(box, capsys):
    """A laptop is spared 3 GB: uv comes by pip and gets the CPU build."""
    box.env("BUILD", "")
    golf.prepared([])
    assert [line.split()[0] for line in box.installs()] == ["python", "uv"]
    assert box.installs()[0].endswith(" uv") and "--torch-backend=cpu" in box.installs()[1]
    assert "up to 3047 MB" not in capsys.readouterr().out


def test_uv_trusts_whom_the_system_trusts(box):
    """Behind a proxy with its own authority uv works as pip does; both its names for it are set."""
    box.tools["uv"] = box.script("bin/uv")
    golf.prepared([])
    assert box.calls("certificates") == ["certificates 1 1"]


def only_cuda_is_left(box) -> None:
    """pip knows only the CUDA build of torch, and uv cannot reach its index."""
    box.env("BUILD", "")
    box.env("UV_FAILS", "1")


def test_a_batch_job_does_not_fetch_ten_times_what_was_announced(box, capsys):
    """Without a terminal it ends with the remedies, and nothing large was fetched."""
    only_cuda_is_left(box)
    with pytest.raises(SystemExit, match="CUDA build is 3047 MB.*SSL_CERT_FILE.*GOLF_YES=1"):
        golf.prepared([])
    assert [line.split()[0] for line in box.installs()] == ["python", "uv"]  # the fetch of uv, uv
    assert "up to 3047 MB" not in capsys.readouterr().out
    box.env("GOLF_YES", "1")
    assert golf.prepared([]) == golf.PYTHON
    assert len(box.calls("venv --clear")) == 1  # what was made is kept


def test_the_cuda_build_is_fetched_where_it_was_allowed(box, capsys):
    """GOLF_YES=1 answers beforehand, and the announcement says how large the download is."""
    only_cuda_is_left(box)
    box.env("GOLF_YES", "1")
    golf.prepared([])
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("with pip: up to 3047 MB, some minutes in which pip says nothing")
    )


@pytest.mark.parametrize("answer, goes_on", [("y", True), ("YES", True), ("", False), ("n", False)])
def test_a_terminal_is_asked(box, monkeypatch, answer, goes_on):
    """Only yes goes on."""
    only_cuda_is_left(box)
    questions = []
    monkeypatch.setattr(golf.sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda text: questions.append(text) or answer)
    if goes_on:
        assert golf.prepared([]) == golf.PYTHON
    else:
        with pytest.raises(SystemExit, match="cannot be had"):
            golf.prepared([])
    assert len(questions) >= 1 and "3047 MB" in questions[0]


def test_a_failed_install_names_what_is_missing_and_keeps_the_environment(box):
    """All ways fail: exact versions, then ranges, then an error; what was there stays usable."""
    box.env("PIP_FAILS", "1")
    with pytest.raises(SystemExit, match="could not install torch>=2.9, numpy>=2.0"):
        golf.prepared([])
    first, second = box.installs()
    assert "-c " in first and second.endswith("--quiet torch==2.13.0 numpy>=2.0")
    box.env("PIP_FAILS", "")
    golf.prepared([])
    assert len(box.calls("venv --clear")) == 1


def test_a_python_without_venv_is_told_what_to_type(box):
    """Debian without python3-venv: the command that helps; and then it works."""
    box.env("VENV_STATUS", "1")
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        golf.prepared([])
    box.env("VENV_STATUS", "0")
    assert golf.prepared([]) == golf.PYTHON


def test_an_environment_inside_another_one_sees_its_packages(box, monkeypatch):
    """A torch in the user's own environment is kept, though .venv would see only its base."""
    monkeypatch.setattr(golf.sys, "prefix", "/theirs")
    site = box.folder / "site"
    paths = {3: str(site), 1: "/theirs/lib/site-packages"}
    monkeypatch.setattr(golf.sysconfig, "get_path", lambda *args: paths[len(args)])
    site.mkdir(parents=True)
    golf.prepared([])
    assert (site / "parent.pth").read_text() == "/theirs/lib/site-packages"


def started(function, *args) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(target=function, args=args)
    process.start()
    return process


def test_a_killed_install_is_waited_for_and_then_made_anew(box):
    """kill -9 leaves pip behind: the next call waits for its end and trusts nothing it left."""
    box.env("SECONDS_TO_INSTALL", "0.4")
    process = started(golf.prepared, [])
    while not box.installs():
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not box.calls("complete")
    golf.prepared([])
    log = [line.split() for line in box.calls()]
    steps = [word for words in log for word in ("venv", "install", "complete") if word in words]
    assert steps == ["venv", "install", "complete"] * 2


def test_two_calls_at_once_install_once(box, capfd):
    """The others wait for the first, say so, and then find everything in place."""
    box.env("SECONDS_TO_INSTALL", "0.2")
    processes = [started(golf.prepared, []) for _ in range(3)]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(box.installs()) == len(box.calls("venv --clear")) == 1
    assert capfd.readouterr().out.count("waiting for another golf.py") == 2


def test_smoke_trains_and_weighs_the_same_run(box, capsys):
    """PRESET=smoke under a fresh run id in our folder, its size, and the next command."""
    box.env("ABSENT", "")
    os.chdir("/")
    with pytest.raises(SystemExit) as end:
        golf.main(["smoke"])
    [trained] = box.calls("PRESET=")
    run_id = re.fullmatch(rf"PRESET=smoke RUN_ID=(\S+) in {box.folder}", trained)[1]
    assert end.value.code == 0 and str(os.getpid()) in run_id
    assert f"tools.submission.size logs/{run_id}" in box.calls("size")[0]
    assert box.calls("weighed") == [f"weighed in {box.folder}"]
    lines = capsys.readouterr().out.splitlines()
    assert "about 2 minutes" in lines[0]
    artifact = box.folder.relative_to("/") / "logs" / run_id / "artifact.pgz"
    assert lines[-1].startswith(f"next: python3 {box.folder.relative_to('/')}/golf.py generate")
    assert str(artifact) in lines[-1]


def test_smoke_keeps_a_given_run_id(box):
    """RUN_ID from the environment names the run that is trained and weighed."""
    box.env("ABSENT", "")
    box.env("RUN_ID", "mine")
    with pytest.raises(SystemExit):
        golf.main(["smoke"])
    assert "logs/mine" in box.calls("size")[0] and "RUN_ID=mine " in box.calls("PRESET=")[0]


def test_smoke_fails_when_training_fails(box):
    """A failed run is not weighed: the exit status is that of a failure."""
    box.env("ABSENT", "")
    box.env("STATUS", "3")
    with pytest.raises(SystemExit, match="failed") as failure:
        golf.main(["smoke"])
    assert failure.value.code not in (0, None) and not box.calls("size")


def test_a_module_runs_where_the_user_stands_and_is_ours(tmp_path):
    """For real: relative paths are the user's, and their own folder named tools is not taken."""
    (tmp_path / "tools/submission").mkdir(parents=True)
    theirs = ("tools/__init__.py", "tools/submission/__init__.py", "tools/submission/size.py")
    for name in (*theirs, "train_gpt.py", "artifact.pgz"):
        (tmp_path / name).write_text("raise SystemExit('theirs')" if name in theirs else "")
    command = [sys.executable, str(ROOT / "golf.py"), "tools.submission.size", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "artifact.pgz" in done.stdout, done.stderr


@pytest.mark.parametrize("encoding, letters", [("ascii", "? ?"), ("utf-8", "± ü"), (None, "± ü")])
def test_a_terminal_without_letters_gets_question_marks(tmp_path, encoding, letters):
    """For real: a letter that cannot be printed is not an error."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONIOENCODING"}
    environ |= {"PYTHONUTF8": "1"} | ({"PYTHONIOENCODING": encoding} if encoding else {})
    for name in ("golf.py", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "hello.py").write_text("print('± ü')")
    command = [sys.executable, str(tmp_path / "golf.py"), "hello"]
    done = subprocess.run(command, env=environ, capture_output=True)
    assert done.stdout.decode().strip() == letters, done.stderr


def test_a_repository_with_spaces_and_other_letters_is_reached_through_a_link(tmp_path):
    """For real: golf.py through a symbolic link, in a folder whose name needs quoting."""
    folder = tmp_path / "my golf übung"
    folder.mkdir()
    for name in ("golf.py", "pyproject.toml", "constraints.txt"):
        (folder / name).write_text((ROOT / name).read_text())
    (folder / "hello.py").write_text("import sys; print(sys.argv[1:], sys.path[0])")
    link = tmp_path / "ein weg"
    link.symlink_to(folder / "golf.py")
    elsewhere = tmp_path / "hier"
    elsewhere.mkdir()
    command = [sys.executable, str(link), "hello", "a b", "ü"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.stdout == f"{['a b', 'ü']} {folder}\n", done.stderr


# Documents


DOCUMENTS = (
    "README.md",
    "baselines/README.md",
    "tools/README.md",
    "docs/scale.md",
    "docs/quickstart.ipynb",
)


def commands_of(text: str) -> list[list[str]]:
    """The words of every command of golf.py that a document shows."""
    lines = [line.split("#")[0] for line in text.replace("\\\n", " ").splitlines()]
    typed = re.findall(r"python3 golf\.py ([a-z][^`|;\n]*)", "\n".join(lines))
    return [shlex.split(words) for words in typed]


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.endswith(".md")])
def test_every_command_in_a_document_exists(name):
    """Each is in the table; settings stand in front; nobody has to name an extra or a module."""
    text = (ROOT / name).read_text(encoding="utf-8")
    commands = commands_of(text)
    assert len(commands) >= (5 if name != "tools/README.md" else 0)
    for words in commands:
        if words[0] not in ("help", "COMMAND"):
            command, rest = golf.find_command(words)
            assert command.group, words
            if command.name == "train":
                golf.recipe_module(golf.take_processes(rest)[1])
    # The tests of engines alone need packages that no command brings.
    text = re.sub(r"--with \S+ test ", "", text)
    for other_form in ("python -m", "--with", "python3 -m"):
        assert other_form not in text


@pytest.mark.parametrize("name", [*DOCUMENTS[:-1], "data/README.md", "docs/slurm/README.md"])
def test_every_option_in_a_document_exists(name, monkeypatch):
    """The parser of the command itself takes the line, with 7 for N and optional words as given."""

    class ParsedError(Exception):
        """Nothing was wrong with the line."""

    parse = argparse.ArgumentParser.parse_args

    def parse_args(parser, words=None, namespace=None):
        parse(parser, words, namespace)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    text = (ROOT / name).read_text(encoding="utf-8")
    for words in commands_of(re.sub(r"\bN\b", "7", re.sub(r"[][]", "", text))):
        if words[0] == "help":
            continue
        command, rest = golf.find_command(words)
        if command.takes_gpus:
            _, rest = golf.take_processes(rest)
        # Of train no option is left; a bare name is a mention; pytest has no parser of ours.
        if rest and command.module not in ("train_gpt", "pytest"):
            score = "engine.score_command"
            module = score if command.module == "evaluate" else command.module
            with pytest.raises(ParsedError):
                importlib.import_module(module).main([*command.arguments, *rest])


def test_the_first_table_of_the_readme_names_commands():
    """Each row of "I want to …" begins with a command of the table, or a setting."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.split("## I want to …")[1].split("\n\n")[1]
    rows = [row.split("|")[2] for row in table.splitlines()[2:]]
    assert len(rows) > 12
    for row in rows:
        for code in re.findall(r"`([a-z][^`]*)`", row):
            assert golf.find_command(shlex.split(code))[0].group


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if name.endswith(".md")])
def test_every_file_that_a_document_names_is_there(name):
    """Links lead somewhere, and paths in backquotes are files or folders of the repository."""
    text = (ROOT / name).read_text(encoding="utf-8")
    folder = (ROOT / name).parent
    for link in re.findall(r"\]\(([^)#]+)\)", text):
        assert (folder / link).exists(), link
    for path in re.findall(r"`([\w/]+(?:\.py|/))`", text):
        places = [ROOT / path, folder / path, *(folder / sub / path for sub in os.listdir(folder))]
        assert any(place.exists() for place in places) or path.startswith("logs/"), path


def quickstart() -> dict:
    return json.loads((ROOT / "docs/quickstart.ipynb").read_text(encoding="utf-8"))


def test_the_notebook_holds_ten_commands_and_no_output():
    """Ten cells of code, each a command that exists; outputs are not kept."""
    cells = [cell for cell in quickstart()["cells"] if cell["cell_type"] == "code"]
    assert len(cells) == 10 and not any(cell["outputs"] for cell in cells)
    for number, cell in enumerate(cells, 1):
        text = "".join(cell["source"])
        assert text.startswith(f"# {number}. ")
        call = ast.parse(text).body[-1].value
        words = [word.value if isinstance(word, ast.Constant) else "x" for word in call.args]
        assert words == ["help"] or golf.find_command(words)[0].group


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """From nothing to a published model that writes, in a copy, with a few steps of training."""
    nbformat = pytest.importorskip("nbformat", reason="golf.py --with notebook,hf,plots test")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    pytest.importorskip("transformers")
    copy = tmp_path / "my golf"
    ignored = shutil.ignore_patterns(".git", ".venv", ".venv.lock", "logs", "records", "tests")
    shutil.copytree(ROOT, copy, ignore=ignored)
    notebook = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)
    few_steps = {"ITERATIONS": "30", "MAX_WALLCLOCK_SECONDS": "0"}  # fewer, and layers still sleep
    short = f"import os; os.environ |= {few_steps}"
    notebook.cells.insert(1, nbformat.v4.new_code_cell(short))
    resources = {"metadata": {"path": str(copy / "docs")}}
    nbclient.NotebookClient(notebook, timeout=900, resources=resources).execute()
    outputs = ["".join(out.get("text", "") for out in c.get("outputs", [])) for c in notebook.cells]
    assert "final val_loss" in outputs[3] and "The module" in outputs[-1]
    assert (copy / "logs/my_model/config.json").is_file()
