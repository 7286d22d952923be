"""Ask a recipe, in a process of its own, for its settings and its sources.

The recipe may be one of ours or a packed script with an engine of its own. Either reads the
environment by its own rules, and none of its modules meets one of ours of the same name: that is
why the question is put to a new process.

The process gets a request as JSON on its standard input, and answers with one on its output:

    {"module": "train_gpt", "script": "", "environs": [{"SEED": "42", ...}, ...]}
    {"settings": [{"seed": 42, ...}, ...], "root": "/home/me/golf", "files": ["train_gpt.py", ...]}

Settings that cannot be used are answered with {"error": "..."}.
"""

import dataclasses
import importlib
import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# Nothing of ours is imported up here: the process that is asked runs this file too.


@dataclass(frozen=True)
class Code:
    """The sources of a recipe, where they lie."""

    module: str  # of ours, as "baselines.pr334"; empty where a script is trained
    script: str  # a train_gpt.py elsewhere
    root: Path
    files: tuple[str, ...]  # relative to root

    def read(self) -> dict[str, bytes]:
        """The sources as they are now; one that is gone is left out."""
        paths = {name: self.root / name for name in self.files}
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}

    def command(self, gpus: int) -> list[str]:
        """The command that trains it, in so many processes."""
        from golf import ALONE, Processes, program

        if self.module:
            return program(sys.executable, self.module, Processes(gpus) if gpus > 1 else ALONE)
        if gpus == 1:
            return [sys.executable, self.script]
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [*torchrun, f"--nproc_per_node={gpus}", self.script]


def python_path(module: str) -> str:
    """PYTHONPATH for a recipe: our folder for one of ours; without it for a script.

    A script's engine may be a folder without __init__.py, and ours would be taken before it.
    """
    from golf import ROOT, child_environment

    path = child_environment()["PYTHONPATH"].split(os.pathsep)
    return os.pathsep.join(part for part in path if module or Path(part).resolve() != ROOT)


def resolve(
    module: str, script: Path | None, environs: list[dict[str, str]]
) -> tuple[Code, list[dict]]:
    """The sources of a recipe, and the settings that each environment gives it.

    Raises: FileNotFoundError; ValueError for settings that the recipe refuses, and for a script
    that is not this toolkit's.
    """
    from golf import child_environment

    if script and not script.is_file():
        raise FileNotFoundError(f"no script {script}; name a train_gpt.py with --script")
    request = {"module": module, "script": str(script or ""), "environs": environs}
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).resolve())],
        input=json.dumps(request),
        stdout=subprocess.PIPE,
        text=True,
        env={**child_environment(), "PYTHONPATH": python_path(module)},
    )
    if done.returncode:
        raise ValueError(f"{script or module} cannot be asked for its settings, as said above")
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise ValueError(answer["error"])
    code = Code(module, request["script"], Path(answer["root"]), tuple(answer["files"]))
    return code, answer["settings"]


def load_recipe(module: str, script: str):
    """The recipe of a module of ours, or of a script. Raises: ValueError for another script."""
    if module:
        return importlib.import_module(module).RECIPE
    # Before ours: the engine that lies beside the script, if one does. A packed script brings its
    # own, and puts it before all others.
    sys.path.insert(0, str(Path(script).parent))
    spec = importlib.util.spec_from_file_location("train_gpt", script)
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded  # its dataclasses look their module up
    spec.loader.exec_module(loaded)
    if not hasattr(loaded, "RECIPE"):
        raise ValueError(f"{script} has no RECIPE; give a train_gpt.py of this toolkit")
    return loaded.RECIPE


def answer_request(request: dict) -> dict:
    """What the process answers."""
    try:
        recipe = load_recipe(request["module"], request["script"])
        from engine.settings import ROOT, read_settings
        from engine.trainer import read_sources

        torch = sys.modules.get("torch")
        has_cuda = torch is not None and torch.cuda.is_available()
        settings = []
        for environ in request["environs"]:
            choice = read_settings(recipe, environ, has_cuda)
            # As settings.json has them: equal settings of two recipes are not equal runs.
            settings.append({**dataclasses.asdict(choice.settings), "recipe": recipe.name})
        files = sorted(read_sources(recipe))
    except ValueError as error:
        return {"error": str(error)}
    return {"settings": settings, "root": str(ROOT), "files": files}


if __name__ == "__main__":
    print(json.dumps(answer_request(json.load(sys.stdin))))
