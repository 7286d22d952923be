"""Serve a published model to clients of OpenAI's protocol: `python3 golf.py generate ... --serve`.

The server is transformers' own (`transformers serve`). It knows only classes that are part of
transformers, so the model's class is put there first; and it asks for a chat template, so a folder
without one is served with one that continues what was said.

    client = openai.OpenAI(base_url="http://127.0.0.1:8000/v1", api_key="none")
    client.completions.create(model="any", prompt="The history of", max_tokens=60)
"""

import json
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("fastapi", "uvicorn", "openai")
# A model that was never trained on conversations continues what was said, one message a line.
CHAT_TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }}\n{% endfor %}"


def refuse_without_packages() -> None:
    """Raises: ImportError with the command."""
    lacking = [name for name in PACKAGES if not find_spec(name)]
    if lacking:
        needed = ", ".join(lacking)
        raise ImportError(f"serving needs {needed}: python3 golf.py generate ... --serve")


def served_folder(folder: Path, scratch: Path) -> Path:
    """A folder of links to the model's files, with a chat template if it had none.

    Raises: ValueError where there is no whole tokenizer.
    """
    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder} has no tokenizer.json; publish it with its tokenizer")
    served = scratch / "served" / folder.name
    served.mkdir(parents=True)
    for path in folder.resolve().iterdir():
        (served / path.name).symlink_to(path)
    if not (folder / "chat_template.jinja").exists():
        (served / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return served


def register_class(folder: Path) -> None:
    """Make the class that config.json names an attribute of transformers."""
    import transformers
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    config = json.loads((folder / "config.json").read_text())
    reference = config.get("auto_map", {}).get("AutoModelForCausalLM")
    if reference:
        model_class = get_class_from_dynamic_module(reference, str(folder))
        setattr(transformers, config["architectures"][0], model_class)


def start(folder: Path, scratch: Path, host: str, port: int, in_background: bool = False):
    """Serve until stopped, or in a thread of its own; returns transformers' server.

    Raises: ValueError for a folder without a whole tokenizer; ImportError.
    """
    refuse_without_packages()
    from huggingface_hub import constants
    from transformers import dynamic_module_utils
    from transformers.cli.serve import Serve

    dynamic_module_utils.HF_MODULES_CACHE = str(scratch / "modules")  # else in the user's home
    Path(constants.HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)  # else /v1/models is an error
    served = served_folder(folder, scratch)
    register_class(served)
    return Serve(
        force_model=str(served),
        trust_remote_code=True,
        host=host,
        port=port,
        device="auto" if find_spec("accelerate") else "cpu",
        non_blocking=in_background,
    )
