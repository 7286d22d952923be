"""Run transformers' own test of a model class, ModelTesterMixin, on a published folder's classes.

    pip download --no-deps --no-binary :all: transformers==5.23.0
    python3 golf.py --with hf,test tools.hub.model_tester FOLDER --sdist transformers-5.23.0.tar.gz

The mixin is not part of the installed package; its source distribution has it (needs the package
`parameterized`). Classes are built with two layers and random weights. The distribution lacks the
file of GenerationTesterMixin, so an empty class stands in for it, and the mixin's one test that
asks for that file is left out.

Exit status is pytest's; 2: there is nothing to run.
"""

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
from importlib.util import find_spec
from pathlib import Path

# Files that the mixin imports and the distribution lacks.
STAND_INS = {
    "generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "exporters/test_export.py": "class ExportTesterMixin: pass\n",
}
SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SMALLER = {
    "num_key_value_heads": 1,
    "intermediate_size": 64,
    "rope_dims": 4,
    "pair_rows": 31,
    "pair_dim": 8,
    "dropout": 0.0,
}
TEST = """
import json
import unittest
from pathlib import Path

import torch
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.models.auto import modeling_auto

from .test_modeling_common import ModelTesterMixin, ids_tensor

FOLDER = {folder!r}
SETTINGS = {settings!r}
NAMES = json.loads((Path(FOLDER) / "config.json").read_text())["auto_map"]
BASE, CAUSAL, CONFIG = (
    get_class_from_dynamic_module(NAMES[name], FOLDER)
    for name in ("AutoModel", "AutoModelForCausalLM", "AutoConfig")
)
# The mixin gives labels to the classes that it finds in these tables.
modeling_auto.MODEL_MAPPING_NAMES["published"] = BASE.__name__
modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES["published"] = CAUSAL.__name__


class Tester:
    batch_size = 3
    seq_length = 17
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 2
    is_training = True

    def __init__(self, parent):
        self.parent = parent

    def get_config(self):
        return CONFIG(**SETTINGS)

    def prepare_config_and_inputs_for_common(self):
        mask = torch.ones(3, 17, dtype=torch.long)
        return self.get_config(), {{"input_ids": ids_tensor([3, 17], 99), "attention_mask": mask}}


class PublishedTest(ModelTesterMixin, unittest.TestCase):
    all_model_classes = (BASE, CAUSAL)
    all_generative_model_classes = (CAUSAL,)
    model_tester_class = Tester

    def setUp(self):
        self.model_tester = Tester(self)
"""


def unpack_tests(sdist: Path, folder: Path) -> None:
    """The distribution's tests as a package in folder. Raises: ValueError where they are not."""
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            parts = Path(member.name).parts
            if len(parts) == 3 and parts[1] == "tests" and parts[2].endswith(".py"):
                (folder / parts[2]).write_bytes(archive.extractfile(member).read())
    if not (folder / "test_modeling_common.py").exists():
        raise ValueError(f"{sdist} has no tests/test_modeling_common.py; give transformers' sdist")
    for name, text in STAND_INS.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).with_name("__init__.py").write_text("")
    (folder / "__init__.py").write_text("")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="tools.hub.model_tester", description=__doc__.splitlines()[0]
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--sdist", type=Path, required=True, metavar="TAR_GZ")
    args = parser.parse_args(argv)
    try:
        config = json.loads((args.folder / "config.json").read_text())
        if "auto_map" not in config:
            raise ValueError(f"{args.folder} brings no code: transformers tests its own classes")
        if not find_spec("parameterized"):
            raise ValueError("transformers' tests need parameterized: pip install parameterized")
        settings = SIZES | {name: value for name, value in SMALLER.items() if name in config}
        settings |= {"mlp": config["mlp"]} if "mlp" in config else {}
        with tempfile.TemporaryDirectory() as scratch:
            tests = Path(scratch) / "tests"
            tests.mkdir()
            unpack_tests(args.sdist, tests)
            text = TEST.format(folder=str(args.folder.resolve()), settings=settings)
            (tests / "test_published.py").write_text(text)
            command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
            command += ["tests/test_published.py", "-k", "not generation_tester_mixin_inheritance"]
            return subprocess.run(command, cwd=scratch).returncode
    except (ValueError, OSError, tarfile.TarError) as error:
        print("tools.hub.model_tester:", " ".join(str(error).split()), file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
