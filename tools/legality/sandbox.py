"""Run a Python command alone, and see what it touches: files, network, child processes.

    trace = run_alone([sys.executable, "train_gpt.py"], folder)

An audit hook is put into the command and into every Python process that it starts, by a
sitecustomize module on PYTHONPATH. `python file.py`, `python -m module`, torchrun and worker
processes are all watched. Connections that leave the machine are refused, loopback is not.

What the hook cannot see: a C extension may open files and sockets without it (SentencePiece does
when it loads a model), and so may a program that is not Python, or Python with -I, -E or -S; such
children are listed as unwatched. The hook is a witness against mistakes, not a prison for malice.

The prison is bubblewrap, with isolated=True: namespaces of its own for network, processes and
users, everything read-only but the folder and a temporary one, all of it killed at the end. The
kernel limits the processes of everybody but root; so where root calls, the command runs as nobody,
and the two folders are nobody's meanwhile. Without bubblewrap the command is not run. Without
isolated=True it runs with the rights of the caller.
"""

import ast
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

MOST_PROCESSES = 512  # of an isolated command, threads included
ISOLATION = (
    "bubblewrap: no network, read-only outside its folder, processes of its own,"
    f" at most {MOST_PROCESSES}"
)
NOBODY = 65534
# What the command gets that runs for root: it still reads what root reads, such as Python itself
# in /root, and can do nothing else that nobody cannot.
RIGHTS = "-all,+dac_read_search"
MOST_FILE_BYTES = 1 << 30  # that an isolated command writes to one file, its output included
MOST_OUTPUT_BYTES = 1 << 20  # of the end of the output that are kept
TIMED_OUT = 124  # return code, as of the program `timeout`

# Runs in the watched process before anything else. FOLDERS, TRACE and REFUSE are filled in.
HOOK = """
import importlib.machinery, importlib.util, os, sys

HERE, TRACE, REFUSE = {here!r}, {trace!r}, {refuse!r}
LOCAL = ("", "localhost", "0.0.0.0", "::", "::1", "<broadcast>", os.uname().nodename)
QUIET = [sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, *{quiet!r}]
QUIET += [sys.modules["site"].USER_SITE or HERE] if "site" in sys.modules else []
# Of an environment made from another one, whose packages a .pth file adds.
QUIET += [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
QUIET = tuple(os.path.realpath(path).rstrip("/") + "/" for path in QUIET)
seen = set()

def note(kind, what):
    if (kind, what) not in seen:
        seen.add((kind, what))
        line = repr((kind, what)).encode("utf-8", "backslashreplace") + b"\\n"
        fd = os.open(TRACE, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, line)
        os.close(fd)

def note_file(path, flags):
    path = os.path.realpath(os.fsdecode(path))
    if path.startswith(QUIET):
        return
    writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC)
    if os.path.isfile(path) and not flags & (os.O_WRONLY | os.O_TRUNC):
        note("read", path)
    if writes:
        note("write", path)

def note_child(program, words, env):
    words = [words] if isinstance(words, (str, bytes)) else words
    words = [os.fsdecode(word) for word in words]
    name = os.path.basename(os.fsdecode(program or words[0]))
    hidden = False
    for word in words[1:]:
        if word[:1] != "-" or word[:2] == "--":
            break
        hidden = hidden or bool(set(word) & set("IES"))
    if env is not None:
        env = {{os.fsdecode(key): os.fsdecode(value) for key, value in dict(env).items()}}
        hidden = hidden or HERE not in env.get("PYTHONPATH", "")
    if hidden or not name.startswith("python"):
        note("child", " ".join(words))

def note_host(host, port):
    host = host.decode() if isinstance(host, bytes) else host
    if not isinstance(host, str) or host in LOCAL:
        return
    number = host.removeprefix("::ffff:")
    if number.startswith("127.") and number.replace(".", "").isdigit():
        return
    place = host if port in (None, 0) else "%s:%s" % (host, port)
    note("host", place)
    if REFUSE:
        raise PermissionError("network refused by tools.legality.sandbox: " + place)

def watch(event, args):
    if event == "open":
        path, mode, flags = args
        if isinstance(path, (str, bytes)):
            note_file(path, flags or 0)
    elif event == "sqlite3.connect" or event == "ctypes.dlopen":
        if isinstance(args[0], (str, bytes)) and os.sep in os.fsdecode(args[0]):
            note_file(args[0], 0)
    elif event == "import":
        if args[1]:
            note_file(args[1], 0)
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        if isinstance(args[1], tuple):
            note_host(*args[1][:2])
    elif event in ("socket.getaddrinfo", "socket.gethostbyname"):
        note_host(args[0], args[1] if len(args) > 1 else None)
    elif event == "subprocess.Popen":
        note_child(args[0], args[1], args[3])
    elif event in ("os.exec", "os.posix_spawn"):
        note_child(args[0], args[1], args[2])
    elif event == "os.spawn":
        note_child(args[1], args[2], args[3])
    elif event == "os.system":
        note("child", os.fsdecode(args[0]))

note("start", " ".join(getattr(sys, "orig_argv", [])))
sys.addaudithook(watch)
# The module of this name that the installation itself may have.
elsewhere = [path for path in sys.path if os.path.realpath(path) != os.path.realpath(HERE)]
spec = importlib.machinery.PathFinder.find_spec("sitecustomize", elsewhere)
if spec:
    spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""


@dataclass(frozen=True)
class Trace:
    """What a command did. Paths are absolute, links resolved, in the order of first use."""

    returncode: int
    output: str  # stdout and stderr, as they came
    opened: list[str]  # files read outside the Python installation and the folder
    written: list[str]  # files opened for writing, but for temporary ones
    connections: list[str]  # hosts outside this machine that it tried to reach
    unwatched: list[str]  # command lines of children that the hook is not in
    seconds: float


REMEDY = (
    "which keeps a script from the network, other files and other processes; install it"
    " (apt-get install bubblewrap), or pass --trust: the code then runs with your rights"
)


@functools.cache
def can_isolate() -> bool:
    """Whether bubblewrap is there, and the kernel lets it make its namespaces."""
    if shutil.which("bwrap") is None:
        return False
    command = [*isolation_command([]), "true"]
    return subprocess.run(command, capture_output=True).returncode == 0


def isolation_command(writable: list[Path]) -> list[str]:
    """What goes before a command line to isolate it; the folders stay writable for it."""
    words = ["prlimit", f"--nproc={MOST_PROCESSES}", f"--fsize={MOST_FILE_BYTES}"]
    words += ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    for folder in writable:
        words += ["--bind", str(folder), str(folder)]
    # Those of users come by themselves, except for root, who needs none.
    words += [f"--unshare-{name}" for name in ("ipc", "pid", "net", "uts", "cgroup-try")]
    words += ["--die-with-parent", "--new-session", "--as-pid-1"]
    if os.geteuid() == 0:
        for right in ("SETUID", "SETGID", "SETPCAP", "DAC_READ_SEARCH"):
            words += ["--cap-add", f"CAP_{right}"]
        words += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        words += [f"--inh-caps={RIGHTS}", f"--ambient-caps={RIGHTS}", f"--bounding-set={RIGHTS}"]
        words += ["--no-new-privs"]
    # The first process of the namespace: with its end the kernel ends all others, and bubblewrap
    # waits for that. Without --as-pid-1 it waits for the command alone, and some outlived it by ms.
    return [*words, "sh", "-c", '"$@"; exit $?', "sh"]


def give(folders: list[Path], owner: int) -> None:
    """Make somebody the owner of folders and of all that is in them."""
    for folder in folders:
        for parent, _, names in os.walk(folder):
            for name in (".", *names):
                os.chown(Path(parent, name), owner, owner, follow_symlinks=False)


def run_alone(
    command: list[str],
    folder: Path,
    env: dict[str, str] | None = None,
    timeout_seconds: float = 600,
    allow_network: bool = False,
    isolated: bool = False,
) -> Trace:
    """Run a Python command line in a folder, and return what it did.

    env is added to this process's environment; a PYTHONPATH in it is kept, one outside it is not.
    Temporary files have a folder of their own. What the command reads after it wrote it, and files
    below /proc, /sys and /dev, are not reported. When the time is out the command and its children
    are killed, and the return code is 124.

    Raises: ValueError when the command ran without the hook, or could not be run, or is to be
    isolated where bubblewrap is missing.
    """
    folder = Path(folder).resolve()
    if isolated and not can_isolate():
        raise ValueError(f"this machine has no working bubblewrap (bwrap), {REMEDY}")
    if not folder.is_dir():
        raise ValueError(f"{folder} must be a folder to run in; make it first")
    with tempfile.TemporaryDirectory() as place:
        place = Path(place).resolve()
        here = place / "hook"
        scratch = place / "tmp"
        trace = place / "trace"
        here.mkdir()
        scratch.mkdir()
        quiet = [str(place), "/proc", "/sys", "/dev"]
        hook = HOOK.format(here=str(here), trace=str(trace), refuse=not allow_network, quiet=quiet)
        (here / "sitecustomize.py").write_text(hook)
        paths = [str(here), *filter(None, [(env or {}).get("PYTHONPATH")])]
        variables = {"PYTHONDONTWRITEBYTECODE": "1", **(env or {}), "TMPDIR": str(scratch)}
        variables["PYTHONPATH"] = os.pathsep.join(paths)
        words = ["env", *(f"{name}={value}" for name, value in variables.items()), *command]
        if isolated:
            words = [*isolation_command([folder, place]), *words]
        is_lent = isolated and os.geteuid() == 0
        if is_lent:
            give([folder, place], NOBODY)
        try:
            returncode, output, seconds = _run(words, folder, place / "output", timeout_seconds)
        finally:
            if is_lent:
                give([folder, place], 0)
        lines = trace.read_text().splitlines() if trace.exists() else []
    events = [ast.literal_eval(line) for line in lines]
    if not any(kind == "start" for kind, _ in events):
        fault = f"{' '.join(command)} was not watched (return code {returncode}): {output.strip()}"
        raise ValueError(f"{fault}; give a Python command line without -I, -E and -S")
    opened = {}
    written = {}
    for kind, subject in events:
        if kind == "write":
            written[subject] = True
        elif kind == "read" and subject not in written and not Path(subject).is_relative_to(folder):
            opened[subject] = True
    hosts = dict.fromkeys(subject for kind, subject in events if kind == "host")
    children = dict.fromkeys(subject for kind, subject in events if kind == "child")
    lists = [list(names) for names in (opened, written, hosts, children)]
    return Trace(returncode, output, *lists, seconds)


def _run(
    words: list[str], folder: Path, output: Path, timeout_seconds: float
) -> tuple[int, str, float]:
    """Run in a session of its own; returns the code, the output and how long it took."""
    started = time.perf_counter()
    with open(output, "wb") as file:  # not a pipe: a child left behind would hold it open
        running = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            returncode = running.wait(timeout_seconds)
            note = ""
        except subprocess.TimeoutExpired:
            returncode = TIMED_OUT
            note = f"\ntimed out after {timeout_seconds} s"
        finally:
            # Workers that outlive their parent are ended too.
            try:
                os.killpg(running.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # the usual case: nobody is left
            running.wait()
    with open(output, "rb") as file:
        file.seek(max(0, output.stat().st_size - MOST_OUTPUT_BYTES))
        text = file.read().decode(errors="replace") + note
    return returncode, text, time.perf_counter() - started
