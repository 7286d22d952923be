"""The launcher: when it installs, what, how, and what it does when that goes wrong.

Python, pip and uv are shell scripts here, which log how they are called; the lock is the real one.
"""

import ast
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import golf

ROOT = Path(__file__).parents[1]
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
*install*)
    test $(basename $0) = uv && test -n "$UV_FAILS" && exit 1
    test -n "$PIP_FAILS" && exit 1
    sleep ${{SECONDS_TO_INSTALL:-0}}; touch $venv/complete; say complete ;;
train_gpt.py)
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
        monkeypatch.setattr(golf, "DRIVER", folder / "driver")
        monkeypatch.setattr(golf, "missing", lambda needs: os.environ["ABSENT"].split())
        monkeypatch.setattr(golf.shutil, "which", self.tools.get)
        monkeypatch.setattr(golf.sys, "executable", self.python)
        monkeypatch.setattr(golf.sys, "platform", "linux")
        monkeypatch.setattr(golf.sys, "prefix", golf.sys.base_prefix)
        self.env("ABSENT", "torch>=2.9 numpy>=2.0")
        self.env("BUILD", "+cpu")
        for name in ("RUN_ID", "PRESET", "PYTHONPATH"):
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


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["--with"], ["--with", "test"]])
def test_usage_installs_nothing(box, launched, capsys, arguments):
    """Without a command the usage is printed."""
    golf.main(arguments)
    assert "golf.py smoke" in capsys.readouterr().out and not box.calls()


@pytest.mark.parametrize("arguments", [["smok"], ["data.prepar", "toy"], ["smoke", "SEED=1"]])
def test_an_unknown_command_is_refused_before_anything_is_installed(box, launched, arguments):
    """A typing error, or arguments that would be ignored, cost nothing and are quoted."""
    with pytest.raises(SystemExit, match=f"cannot run '{' '.join(arguments)}'"):
        golf.main(arguments)
    assert not box.calls()


def test_an_unknown_extra_is_refused(box, launched):
    """--with names an extra of pyproject.toml, or the error lists those there are."""
    with pytest.raises(SystemExit, match="lint"):
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
    "found, met",
    [
        ("2.13.0+cpu", True),
        ("2.9.0", True),
        ("2.10.0a0+git12", True),
        ("2.8.1", False),
        (None, False),
    ],
)
def test_versions_compare_as_numbers(monkeypatch, found, met):
    """2.10 is newer than 2.9, build tags do not matter, and what is absent is missing."""
    from types import SimpleNamespace

    def distributions(name):
        return [SimpleNamespace(version=found)] if name == "torch" and found else []

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
    assert arguments == [program, "-P", "-m", "data.prepare", "toy", "--out", "here"]
    assert env["PYTHONPATH"] == f"{box.folder}:/theirs"
    assert not (box.folder / ".venv.lock").exists()


def test_the_first_call_makes_an_environment_and_says_what_it_downloads(box, launched, capsys):
    """Without NVIDIA driver: the pinned torch, exact versions, and names and size beforehand."""
    golf.main(["test", "-k", "size"])
    assert "-m venv --clear --system-site-packages" in box.calls("venv")[0]
    [install] = box.installs()
    assert install.startswith("python -m pip install --no-input")
    assert install.endswith(f"-c {box.folder}/constraints.txt torch==2.13.0 numpy>=2.0")
    said = capsys.readouterr().out
    assert "torch==2.13.0, numpy>=2.0" in said and "up to 247 MB" in said
    [(program, arguments, _, folder)] = launched
    assert program == golf.PYTHON and folder == str(box.folder)
    assert arguments[1:] == ["-P", "-m", "pytest", "-n", "auto", "-k", "size"]


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
        golf.DRIVER.mkdir()
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
        golf.DRIVER.mkdir()
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


def test_the_size_is_honest_when_only_the_cuda_build_is_left(box, capsys):
    """uv fails as well: pip brings the CUDA build, and the announcement says how large it is."""
    box.env("BUILD", "")
    box.env("UV_FAILS", "1")
    golf.prepared([])
    assert capsys.readouterr().out.splitlines()[-1].endswith("with pip: up to 3047 MB")


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


def test_smoke_trains_and_weighs_the_same_run(box, launched):
    """PRESET=smoke under a fresh run id in the repository root, then the size of that run."""
    box.env("ABSENT", "")
    os.chdir("/")
    golf.main(["smoke"])
    [(_, arguments, _, folder)] = launched
    assert arguments[1:4] == ["-P", "-m", "tools.submission.size"] and folder == str(box.folder)
    run_id = arguments[4].removeprefix("logs/")
    assert box.calls("PRESET=") == [f"PRESET=smoke RUN_ID={run_id} in {box.folder}"]
    assert str(os.getpid()) in run_id


def test_smoke_keeps_a_given_run_id(box, launched):
    """RUN_ID from the environment names the run that is trained and weighed."""
    box.env("ABSENT", "")
    box.env("RUN_ID", "mine")
    golf.main(["smoke"])
    assert launched[0][1][-1] == "logs/mine" and "RUN_ID=mine " in box.calls("PRESET=")[0]


def test_smoke_fails_when_training_fails(box, launched):
    """A failed run is not weighed: the exit status is that of a failure."""
    box.env("ABSENT", "")
    box.env("STATUS", "3")
    with pytest.raises(SystemExit, match="failed") as failure:
        golf.main(["smoke"])
    assert failure.value.code not in (0, None) and not launched


def test_a_module_runs_where_the_user_stands_and_is_ours(tmp_path):
    """For real: relative paths are the user's, and their own folder named tools is not taken."""
    (tmp_path / "tools/submission").mkdir(parents=True)
    theirs = ("tools/__init__.py", "tools/submission/__init__.py", "tools/submission/size.py")
    for name in (*theirs, "train_gpt.py", "artifact.pgz"):
        (tmp_path / name).write_text("raise SystemExit('theirs')" if name in theirs else "")
    command = [sys.executable, str(ROOT / "golf.py"), "tools.submission.size", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "artifact.pgz" in done.stdout, done.stderr
