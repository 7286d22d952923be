"""The sandbox: what a command opens, writes and tries to reach, in itself and in its children."""

import os
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import pytest

from tools.legality import sandbox
from tools.legality.sandbox import TIMED_OUT, run_alone


def run(folder: Path, code: str, *options: str, **settings):
    """Run code as file.py in the folder."""
    (folder / "file.py").write_text(code)
    return run_alone([sys.executable, *options, "file.py"], folder, **settings)


@pytest.fixture
def outside(tmp_path_factory) -> Path:
    """A file that lies elsewhere."""
    path = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    path.write_text("1.05")
    return path


def test_files_of_the_folder_and_of_python_are_not_reported(tmp_path):
    """Own files, the standard library, /proc and temporary files are no outside input."""
    code = """
import json, tempfile, email.message
open("file.py").read(), open("/proc/self/stat").read()
with tempfile.NamedTemporaryFile("w+") as f:
    f.write("x"), f.flush(), open(f.name).read()
print("fine")
"""
    trace = run(tmp_path, code)
    assert (trace.returncode, trace.output) == (0, "fine\n")
    assert (trace.opened, trace.written, trace.connections, trace.unwatched) == ([], [], [], [])
    assert trace.seconds > 0


def test_packages_of_a_parent_environment_are_the_installation(tmp_path):
    """golf.py makes .venv so where it is started from an environment: by a .pth file."""
    parent = tmp_path / "other/site-packages"
    parent.mkdir(parents=True)
    (parent / "shared_package.py").write_text("print('fine')\n")
    venv.create(tmp_path / "venv", symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "parent.pth").write_text(str(parent))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "file.py").write_text("import shared_package\n")
    trace = run_alone([str(tmp_path / "venv/bin/python"), "file.py"], folder)
    assert (trace.output, trace.opened) == ("fine\n", [])


READS = [
    "open(p).read()",
    "open(p, 'rb').read()",
    "open(p, 'r+').read()",
    "open(p.encode()).read()",
    "os.read(os.open(p, os.O_RDONLY), 9)",
    "pathlib.Path(p).read_text()",
    "os.symlink(p, 'link'); open('link').read()",
    "open(os.path.relpath(p)).read()",
    "exec(open(p).read())",
    "sqlite3.connect(p)",
    "subprocess.run([sys.executable, '-c', f'open({p!r}).read()'])",
    "os.system(f'{sys.executable} -c \"open({p!r})\"')",
    "os.fork() or (open(p).read(), os._exit(0)); os.wait()",
    "m = multiprocessing.get_context('spawn').Process(target=open, args=(p,)); m.start(); m.join()",
]


def test_a_file_from_elsewhere_is_reported_however_it_is_read(tmp_path, outside):
    """Python and its children: plain, low-level, by link, by relative path."""
    paths = [outside.with_name(f"{number}.txt") for number in range(len(READS))]
    code = "import multiprocessing, os, pathlib, sqlite3, subprocess, sys\n"
    code += "if __name__ == '__main__':\n"
    for path, read in zip(paths, READS, strict=True):
        path.write_text("1.05")
        code += f"    p = {str(path)!r}; {read}\n"
    trace = run(tmp_path, code)
    assert trace.returncode == 0, trace.output
    assert trace.opened == [str(path) for path in paths]


def test_what_is_missing_is_not_reported_as_read(tmp_path, outside):
    """Looking for a file that is not there reads nothing."""
    outside.unlink()
    assert run(tmp_path, f"try: open({str(outside)!r})\nexcept OSError: 0").opened == []


def test_what_is_written_is_reported_and_its_reading_is_not(tmp_path, outside):
    """A file made by the command is no input; one written over without a look is none either."""
    code = f"open('new', 'w').write('1'); open('new').read(); open({str(outside)!r}, 'w').close()"
    trace = run(tmp_path, code + f"; open({str(outside)!r}).read()")
    assert trace.written == [str(tmp_path / "new"), str(outside)] and trace.opened == []


ASKS = {
    "203.0.113.1:80": "socket.create_connection(('203.0.113.1', 80), 1)",
    "203.0.113.2:80": "socket.socket().connect(('203.0.113.2', 80))",
    "a.invalid:443": "socket.getaddrinfo('a.invalid', 443)",
    "b.invalid": "socket.gethostbyname('b.invalid')",
    "203.0.113.1:53": "socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('203.0.113.1', 53))",
    "c.invalid:80": "urllib.request.urlopen('http://c.invalid/x')",
    "127.0.0.1.invalid:9": "socket.create_connection(('127.0.0.1.invalid', 9))",
}


def test_the_network_is_refused_and_reported(tmp_path):
    """Names and addresses outside this machine: refused, and in the list even if it goes on."""
    code = "import socket, urllib.request\n"
    for ask in ASKS.values():
        code += f"try: {ask}\nexcept OSError as error: print(error)\n"
    trace = run(tmp_path, code)
    assert trace.returncode == 0
    assert trace.output.count("refused by tools.legality.sandbox") == len(ASKS)
    assert trace.connections == list(ASKS)


def test_loopback_is_not_the_network(tmp_path):
    """Ranks of one machine talk to each other, by address or name, and sockets of other kinds."""
    code = """
import socket
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(("localhost", server.getsockname()[1]))
socket.getaddrinfo(socket.gethostname(), None)
try: socket.socket(socket.AF_UNIX).connect("/no/such/socket")
except OSError: print("talked")
"""
    trace = run(tmp_path, code)
    assert (trace.output, trace.connections) == ("talked\n", [])


def test_the_network_can_be_allowed_and_is_still_reported(tmp_path):
    """allow_network: nothing is refused. A number needs no server to be looked up."""
    code = "import socket; socket.getaddrinfo('203.0.113.1', 80)"
    trace = run(tmp_path, code, allow_network=True)
    assert (trace.returncode, trace.connections) == (0, ["203.0.113.1:80"])


def test_python_children_are_watched_and_others_are_listed(tmp_path):
    """Python by module or file is watched; other programs and an isolated Python are named."""
    code = """
import subprocess, sys, os
subprocess.run([sys.executable, "-u", "-c", "pass"])
subprocess.run([sys.executable, "-m", "this", "-I"], stdout=subprocess.DEVNULL)
subprocess.run(["true", "x"]); os.system("true y")
subprocess.run([sys.executable, "-I", "-c", "0"])
subprocess.run([sys.executable, "-c", "1"], env={})
os.posix_spawn("/bin/sh", ["sh", "-c", "true"], {})
"""
    unwatched = run(tmp_path, code).unwatched
    python = sys.executable
    expected = ["true x", "true y", f"{python} -I -c 0", f"{python} -c 1", "sh -c true"]
    assert unwatched == expected


def test_modules_run_as_well_as_files(tmp_path, outside):
    """`python -m name` is watched from its first line, and sees its folder."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "__main__.py").write_text(f"print(open({str(outside)!r}).read())")
    trace = run_alone([sys.executable, "-m", "mine"], tmp_path)
    assert (trace.output, trace.opened) == ("1.05\n", [str(outside)])


def test_environment_and_path_are_passed_on(tmp_path, outside):
    """env is added, its PYTHONPATH kept; that of the caller is not."""
    (outside.parent / "helper.py").write_text("NAME = 'helper'")
    code = "import helper, os, sys; print(helper.NAME, os.environ['SEED'])"
    env = {"PYTHONPATH": str(outside.parent), "SEED": "7"}
    trace = run(tmp_path, code, env=env)
    assert trace.output == "helper 7\n" and str(outside.parent / "helper.py") in trace.opened
    assert run(tmp_path, code).returncode == 1


def test_the_installation_keeps_its_own_sitecustomize(tmp_path, outside):
    """A module of that name further down the path still runs."""
    (outside.parent / "sitecustomize.py").write_text("print('theirs')")
    trace = run(tmp_path, "print('ours')", env={"PYTHONPATH": str(outside.parent)})
    assert trace.output == "theirs\nours\n"


def test_failure_is_returned_with_its_output(tmp_path):
    """The return code and both streams are the command's own."""
    trace = run(tmp_path, "import sys; print('out', flush=True); sys.exit('err')")
    assert (trace.returncode, trace.output) == (1, "out\nerr\n")


def is_running(pid: int) -> bool:
    """Whether the process is there and not a dead one that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_the_time_limit_ends_the_command_and_its_children(tmp_path):
    """Nothing is left running, and the return code says why."""
    code = "import os, time\nos.fork()\nprint(os.getpid(), flush=True)\ntime.sleep(60)"
    trace = run(tmp_path, code, timeout_seconds=0.5)
    assert trace.returncode == TIMED_OUT and "timed out after 0.5 s" in trace.output
    assert trace.seconds < 30
    waiting = {int(pid) for pid in trace.output.split()[:2]}
    assert len(waiting) == 2
    deadline = time.monotonic() + 20  # a killed process dies when the kernel next gives it its turn
    while waiting and time.monotonic() < deadline:
        waiting = {pid for pid in waiting if is_running(pid)}
        time.sleep(0.01)
    assert not waiting


@pytest.mark.parametrize(
    "command", [[sys.executable, "-I", "-c", "0"], ["true"], ["no-such-program"], ["sh", "-c", "0"]]
)
def test_a_command_that_cannot_be_watched_is_an_error(tmp_path, command):
    """Silence of a hook that is not there would look like innocence."""
    with pytest.raises(ValueError, match="was not watched .*without -I, -E and -S"):
        run_alone(command, tmp_path)


def test_a_folder_that_is_missing_is_an_error(tmp_path):
    """There is nowhere to run."""
    with pytest.raises(ValueError, match="must be a folder to run in"):
        run_alone([sys.executable, "-c", "0"], tmp_path / "no")


def test_nothing_is_left_in_the_folder(tmp_path, monkeypatch):
    """No bytecode, no traces: a second look at the folder sees what the author put there."""
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    (tmp_path / "helper.py").write_text("x = 1")
    run(tmp_path, "import helper, tempfile; tempfile.mkdtemp()")
    assert sorted(os.listdir(tmp_path)) == ["file.py", "helper.py"]


@pytest.mark.slow
def test_torch_is_quiet(tmp_path):
    """Importing torch and computing opens nothing outside, so what is listed means something."""
    code = "import torch; print(torch.ones(2).sum().item())"
    trace = run(tmp_path, code)
    assert (trace.output, trace.opened, trace.connections) == ("2.0\n", [], [])


def test_this_process_is_not_hooked(tmp_path):
    """Only the command is watched; the caller can still start what it likes."""
    run(tmp_path, "pass")
    assert subprocess.run([sys.executable, "-I", "-c", "0"], check=True).returncode == 0
    assert "sitecustomize" not in str(sys.path)


needs_bubblewrap = pytest.mark.skipif(not sandbox.can_isolate(), reason="needs bubblewrap")
HOSTILE = """
import os, socket, subprocess, sys

refused = []
os.symlink("{outside}", "link")
for path in ("{outside}", "link"):
    try:
        open(path, "w").write("escaped")
    except OSError as error:
        refused.append(error.strerror)
subprocess.run(["sh", "-c", "echo by-child > {outside}.child; echo by-child > link"])
code = "import socket; socket.create_connection(('127.0.0.1', {port}), 2); print('reached')"
reply = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True).stdout
if os.fork() == 0:  # a daemon
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "{mark}"])
    os._exit(0)
if os.fork() == 0:  # a fork bomb, bounded for the machine's sake: 256 processes
    os.setsid()
    for _ in range(8):
        os.fork()
    os.execvp("sleep", ["sleep", "{mark}"])
open("inside.txt", "w").write("kept")
print("x" * 3_000_000)
print(reply, refused, "done")
"""


@needs_bubblewrap
def test_an_isolated_script_is_kept_in(tmp_path):
    """No file outside or by a link, no network by a child, no daemon or fork left, short output."""
    folder = tmp_path / "alone"
    folder.mkdir()
    outside = tmp_path / "outside"
    mark = f"9{os.getpid()}.25"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        script = HOSTILE.format(outside=str(outside), port=port, mark=mark)
        (folder / "train_gpt.py").write_text(script)
        command = [sys.executable, "train_gpt.py"]
        trace = run_alone(command, folder, timeout_seconds=120, isolated=True)
    assert "reached" not in trace.output and len(trace.output) < 2_000_000
    assert "['Read-only file system', 'Read-only file system'] done" in trace.output
    assert not outside.exists() and not Path(f"{outside}.child").exists()
    assert (folder / "inside.txt").read_text() == "kept"
    assert any(word.startswith("sh -c") for word in trace.unwatched)
    left = [path for path in Path("/proc").glob("[0-9]*/cmdline") if mark.encode() in read(path)]
    assert left == []


FORKS = """
import os, time

made = 0
try:
    for _ in range(200):  # no more, for the machine's sake
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except OSError as error:
    print(error.strerror, made)
print("made", made)
"""


@needs_bubblewrap
def test_a_fork_bomb_stops_at_the_limit(tmp_path, monkeypatch):
    """For root too, whose processes the kernel does not count; its files are its own afterwards."""
    monkeypatch.setattr(sandbox, "MOST_PROCESSES", 30)
    (tmp_path / "train_gpt.py").write_text(FORKS + "open('new', 'w')\n")
    command = [sys.executable, "train_gpt.py"]
    trace = run_alone(command, tmp_path, timeout_seconds=60, isolated=True)
    assert trace.returncode == 0 and "Resource temporarily unavailable" in trace.output
    assert 0 < int(trace.output.split()[-1]) < 30
    owners = {path.stat().st_uid for path in (tmp_path, *tmp_path.iterdir())}
    assert owners == {os.geteuid()} and (tmp_path / "new").exists()


@needs_bubblewrap
def test_an_isolated_script_has_no_rights_of_root(tmp_path):
    """It sees nobody or the caller, who is not root; a file that only root writes stays closed."""
    code = """
import os
from pathlib import Path
rights = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines()
          if line.startswith(("CapEff", "CapBnd"))]
print(os.getuid(), [bin(int(word, 16)).count("1") for word in rights])
"""
    (tmp_path / "train_gpt.py").write_text(code)
    trace = run_alone([sys.executable, "train_gpt.py"], tmp_path, isolated=True)
    uid, rights = trace.output.split(maxsplit=1)
    if os.geteuid() == 0:
        assert (uid, rights) == (str(sandbox.NOBODY), "[1, 1]\n")  # to read
    else:
        assert uid == str(os.geteuid()) and rights.startswith("[0, ")


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""  # the process has ended meanwhile


def test_without_bubblewrap_nothing_runs(tmp_path, monkeypatch):
    """It is refused, with what to install and what --trust means."""
    monkeypatch.setattr("tools.legality.sandbox.can_isolate", lambda: False)
    (tmp_path / "x.py").write_text("open('ran', 'w')")
    with pytest.raises(ValueError, match="bubblewrap.*--trust"):
        run_alone([sys.executable, "x.py"], tmp_path, isolated=True)
    assert not (tmp_path / "ran").exists()
