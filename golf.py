"""Run a command of this repository, in an environment that is made on first use.

    python3 golf.py smoke                  train, pack, score and weigh a small model
    python3 golf.py test [PYTEST OPTIONS]  run the test suite (in this folder, wherever you stand)
    python3 golf.py MODULE [ARGUMENTS]     run a module where you stand: train_gpt, quantize,
                                           evaluate, data.prepare, tools.submission.size, ...
    python3 golf.py --with EXTRA[,EXTRA] MODULE ...    with extras of pyproject.toml as well

A Python (Linux, macOS) that has what the command needs is used as it is. Else .venv is made here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = str(VENV / "bin" / "python")
DRIVER = Path("/proc/driver/nvidia")
# Rough downloads in MB, with what they pull in; 2 for all others.
MB = {"torch": 230, "cuda": 2800, "numpy": 17, "zstandard": 6, "ruff": 11, "matplotlib": 42}


def requirements(extras: list[str]) -> list[str]:
    """The base dependencies in pyproject.toml and those of the named extras."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    offered = project["optional-dependencies"]
    if not set(extras) <= set(offered):
        sys.exit(f"golf.py: --with takes extras of pyproject.toml: {', '.join(offered)}")
    return project["dependencies"] + [need for extra in extras for need in offered[extra]]


def missing(needs: list[str]) -> list[str]:
    """Those of the requirements, each name>=version, that this interpreter does not meet."""
    from importlib.metadata import distributions  # and no import: torch takes seconds to load

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text)[:3]]

    pairs = [need.split(">=") for need in needs]
    found = {name: next((d.version for d in distributions(name=name)), "") for name, _ in pairs}
    return [f"{name}>={least}" for name, least in pairs if numbers(found[name]) < numbers(least)]


def install(absent: list[str], run) -> None:
    """Install into .venv with uv, else with pip; each attempt says first what it downloads."""
    torch = any(need.startswith("torch>") for need in absent)
    driver = bool(shutil.which("nvidia-smi")) or DRIVER.exists()
    pins = ROOT / "constraints.txt"
    limits = [] if torch and driver else ["-c", str(pins)]  # with a driver any torch will do
    pip = [PYTHON, "-m", "pip", "install", "--no-input", *["--quiet"] * (not sys.stdout.isatty())]
    uv, cuda = shutil.which("uv"), torch and sys.platform == "linux"
    if torch and not driver:  # of a newer torch there may be no CPU build
        pin = re.search(r"^torch==.*", pins.read_text(), re.MULTILINE)[0]
        absent = [pin, *(need for need in absent if not need.startswith("torch>"))]
        # An index gives pip the CUDA build; a folder of wheels it was told of may hold another.
        ask = [PYTHON, "-m", "pip", "index", "versions", "torch"]
        known = subprocess.run(ask, capture_output=True, text=True).stdout
        cuda &= f"{pin[len('torch==') :]}+cpu" not in known
        if cuda and not uv:
            why = "fetching uv (17 MB), because pip finds only the CUDA build of torch"
            uv = run(why, [*pip, "uv"]) == 0 and str(VENV / "bin" / "uv")
    backend = f"--torch-backend={'auto' if driver else 'cpu'}"
    by_uv = [uv, "pip", "install", "--python", PYTHON, backend, *limits]
    for command in [by_uv] * bool(uv) + [[*pip, *limits], pip]:
        size = sum(MB.get(re.split("[=>]", need)[0], 2) for need in absent)
        size += MB["cuda"] * bool(cuda and (driver or command is not by_uv))
        tool = "uv" if command is by_uv else "pip"
        if run(f"fetching {', '.join(absent)} with {tool}: up to {size} MB", command + absent) == 0:
            return


def prepared(needs: list[str]) -> str:
    """The Python that meets the needs: this one, or that of .venv with what was missing."""
    if not missing(needs):
        return sys.executable
    import fcntl

    def run(why: str, command: list[str]) -> int:
        print(f"golf.py: {why}", flush=True)
        # The child holds the lock too: if we are killed, pip goes on and must be waited for.
        return subprocess.run(command, pass_fds=[lock.fileno()]).returncode

    def absent() -> list[str]:
        code = "import sys, golf; print(*golf.missing(sys.argv[1:]))"
        return subprocess.check_output([PYTHON, "-c", code, *needs], cwd=ROOT, text=True).split()

    with open(ROOT / ".venv.lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("golf.py: waiting for another golf.py, which is installing", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        unusable = lock.read() or not os.path.exists(PYTHON)  # text: killed while changing .venv
        if unusable or absent():
            os.write(lock.fileno(), b"changing .venv")
            venv = [sys.executable, "-m", "venv", "--clear", "--system-site-packages", str(VENV)]
            if unusable and run(f"making {VENV}", venv):
                sys.exit("golf.py: that failed; Debian and Ubuntu need: apt install python3-venv")
            if unusable and sys.prefix != sys.base_prefix:  # the new one sees our base, not us
                site = sysconfig.get_path("purelib", "venv", {"base": str(VENV)})
                Path(site, "parent.pth").write_text(sysconfig.get_path("purelib"))
            install(absent(), run)
            lock.truncate(0)
            if left := absent():
                sys.exit(f"golf.py: could not install {', '.join(left)}; is there a network?")
    return PYTHON


def main(arguments: list[str]) -> None:
    if sys.version_info < (3, 11):
        sys.exit(f"golf.py: Python 3.11 or newer is needed, {sys.executable} is older")
    extras = arguments[1].split(",") if arguments[:1] == ["--with"] and arguments[2:] else []
    arguments = arguments[2:] if extras else arguments
    command = arguments[0] if arguments else "--help"
    if command.startswith("-"):
        return print(__doc__)
    needs = requirements([*extras, "test"] if command == "test" else extras)
    known = arguments == ["smoke"] or command in ["test", *(n.split(">=")[0] for n in needs)]
    if not known and not (ROOT / f"{command.replace('.', '/')}.py").is_file():
        sys.exit(f"golf.py: cannot run {' '.join(arguments)!r} here; see golf.py --help")
    python = prepared(needs)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Threads that spin while waiting gain a third on a free CPU, and lose tenfold on a busy one.
    settings = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONPATH": path}
    if command in ("smoke", "test"):
        os.chdir(ROOT)
        arguments[:1] = ["pytest", "-n", "auto"]
    if command == "smoke":
        run_id = os.environ.get("RUN_ID") or time.strftime(f"smoke_%Y%m%d_%H%M%S_{os.getpid()}")
        training = {**settings, "PRESET": "smoke", "RUN_ID": run_id}
        if subprocess.run([python, "train_gpt.py"], env=training).returncode:
            sys.exit(f"golf.py: the run {run_id} failed, as the lines above say")
        arguments = ["tools.submission.size", f"logs/{run_id}"]
    # -P: a folder named data where the user stands must not hide ours.
    os.execve(python, [python, "-P", "-m", *arguments], settings)


if __name__ == "__main__":
    main(sys.argv[1:])
