"""Try published folders with the clients that people use, and print a figure for each.

    python3 golf.py --with hf,clients tools.hub.clients FOLDER... [--only lora onnx ...]

Each folder goes through: Trainer on packed documents, SFT with TRL (plain, packed, with gradient
checkpointing), LoRA, prompt and prefix tuning with PEFT, accelerate's disk offload, a grown
vocabulary, torch's dynamic int8, ONNX with free rows and length, and lm_eval on the folder's own
text. A client whose package is missing is left out. Nothing of the folder is changed.

Exit status 0: all figures are within LIMITS; 1: one is not; 2: there is nothing to try.
"""

import argparse
import contextlib
import json
import math
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from tools.hub.remote_code import check

GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
ON_CPU = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}

# The largest figure allowed. A loss that training must lower is given as last minus first.
LIMITS = {
    "trainer_packed": 1e-5,  # nats, against each document alone
    "sft": -0.1,  # nats that the loss changes in four steps
    "sft_packed": -0.1,
    "sft_checkpointing": -0.1,
    "lora_merge": 3e-5,  # logits, merged against not merged
    "prompt_tuning": 0,  # tokens that the cache changes
    "prefix_tuning": 0,  # parameters without a gradient
    "disk_offload": 0.0,  # logits
    "grown_vocabulary": 1e-5,  # logits of the old tokens
    "int8": 1.0,  # logits, and some matrix must be converted
    "onnx": 1e-5,  # logits, on three shapes
    "lm_eval": 1e-6,  # bits per byte, against evaluate.py
}


@dataclass(frozen=True)
class Client:
    """One way to use a folder."""

    name: str
    packages: tuple[str, ...]
    measure: object  # folder -> figure


def tokens(folder: Path, length: int = 20, rows: int = 1, seed: int = 0) -> Tensor:
    """Random ids that the folder's vocabulary has, without special ones."""
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    rng = torch.Generator().manual_seed(seed)
    return torch.randint(4, vocab_size - 20, (rows, length), generator=rng)


def load_folder(folder: Path, **options):
    return check.load(str(folder), **options)


def tokenizer_of(folder: Path):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=True)


# Training -----------------------------------------------------------------------------------------


@torch.no_grad()
def trainer_packed(folder: Path) -> float:
    """Loss of Trainer with DataCollatorWithFlattening, against the mean over documents alone."""
    from datasets import Dataset
    from transformers import DataCollatorWithFlattening, Trainer, TrainingArguments

    documents = [tokens(folder, 9 + i, seed=i) for i in range(4)]
    model = load_folder(folder)
    with tempfile.TemporaryDirectory() as scratch:
        trainer = Trainer(
            model=model,
            args=TrainingArguments(scratch, per_device_eval_batch_size=4, **ON_CPU),
            data_collator=DataCollatorWithFlattening(),
            eval_dataset=Dataset.from_list([{"input_ids": d[0].tolist()} for d in documents]),
        )
        trainer.args.prediction_loss_only = True
        packed = trainer.evaluate()["eval_loss"]
    nats = sum(model(d, labels=d).loss.item() * (d.size(1) - 1) for d in documents)
    return abs(packed - nats / sum(d.size(1) - 1 for d in documents))


def fine_tune(folder: Path, **options) -> float:
    """Nats that the loss changes in four steps of TRL's SFTTrainer; the end token is trained.

    Raises: ValueError where the end token is in no row.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    tokenizer = tokenizer_of(folder)
    texts = [{"text": f"the quick brown fox {i} and the dog"} for i in range(16)]
    settings = {"gradient_checkpointing": False, **ON_CPU, **options}
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=load_folder(folder),
            processing_class=tokenizer,
            train_dataset=Dataset.from_list(texts),
            args=SFTConfig(
                output_dir=scratch,
                max_steps=4,
                per_device_train_batch_size=4,
                max_length=48,
                learning_rate=1e-2,
                logging_steps=1,
                **settings,
            ),
        )
        rows = [list(row["input_ids"]) for row in trainer.train_dataset]
        if not any(tokenizer.eos_token_id in row[1:] for row in rows):
            raise ValueError(f"{folder}: SFT never trains the end token")
        trainer.train()
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return losses[-1] - losses[0]


def sft(folder: Path) -> float:
    return fine_tune(folder)


def sft_packed(folder: Path) -> float:
    return fine_tune(folder, packing=True, padding_free=True)


def sft_checkpointing(folder: Path) -> float:
    return fine_tune(folder, gradient_checkpointing=True)


# PEFT ---------------------------------------------------------------------------------------------


@torch.no_grad()
def lora_merge(folder: Path) -> float:
    """LoRA on all matrices, YatNMN's kernel included: merged against not merged.

    Raises: ValueError where the adapter changes nothing.
    """
    from peft import LoraConfig, get_peft_model

    model = load_folder(folder)
    rows = tokens(folder)
    plain = model(rows).logits
    is_yat = any(name.endswith("kernel") for name, _ in model.named_parameters())
    options = {"target_parameters": ["mlp.c_fc.kernel"]} if is_yat else {}
    config = LoraConfig(
        target_modules="all-linear", r=4, init_lora_weights=False, task_type="CAUSAL_LM", **options
    )
    adapted = get_peft_model(model, config).eval()
    with_adapter = adapted(input_ids=rows).logits
    if (with_adapter - plain).abs().max() < 1e-3:
        raise ValueError(f"{folder}: LoRA changes nothing")
    merged = adapted.merge_and_unload()
    return (merged(rows).logits - with_adapter).abs().max().item()


def prompt_tuning(folder: Path) -> int:
    """Tokens after a learned prompt that the cache changes."""
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    model = get_peft_model(load_folder(folder), config).eval()
    rows = tokens(folder, rows=2)
    texts = [
        model.generate(
            input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=is_cached, **GREEDY
        )
        for is_cached in (True, False)
    ]
    return int((texts[0] != texts[1]).sum())


def prefix_tuning(folder: Path) -> int:
    """Parameters of a learned prefix without a gradient; text goes on behind the prefix."""
    from peft import PrefixTuningConfig, get_peft_model

    config = PrefixTuningConfig(num_virtual_tokens=5, task_type="CAUSAL_LM")
    model = get_peft_model(load_folder(folder), config).train()
    rows = tokens(folder, rows=2)
    mask = torch.ones_like(rows)
    model(input_ids=rows, attention_mask=mask, labels=rows).loss.backward()
    trained = [p for p in model.parameters() if p.requires_grad]
    model.eval().generate(input_ids=rows, attention_mask=mask, **GREEDY)
    return sum(p.grad is None or not p.grad.any() for p in trained)


# Other tools --------------------------------------------------------------------------------------


@torch.no_grad()
def disk_offload(folder: Path) -> float:
    from accelerate import disk_offload as offload

    rows = tokens(folder)
    with tempfile.TemporaryDirectory() as scratch:
        offloaded = offload(load_folder(folder), scratch, execution_device="cpu")
        return (offloaded(rows).logits - load_folder(folder)(rows).logits).abs().max().item()


@torch.no_grad()
def grown_vocabulary(folder: Path) -> float:
    """Logits of the old tokens after eight were added, one of which is used."""
    model = load_folder(folder)
    rows = tokens(folder)
    plain = model(rows).logits
    vocab_size = plain.size(-1)
    model.resize_token_embeddings(vocab_size + 8)
    grown = model(rows).logits
    model(torch.full((1, 3), vocab_size + 7))
    return (grown[..., :vocab_size] - plain).abs().max().item()


@torch.no_grad()
def int8(folder: Path) -> float:
    """Logits of torch's dynamic int8. Raises: ValueError where it converts nothing."""
    model = load_folder(folder)
    rows = tokens(folder)
    plain = model(rows).logits
    quantized = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, torch.qint8)
    if not any("quantized" in type(part).__module__ for part in quantized.modules()):
        raise ValueError(f"{folder}: dynamic int8 converts no matrix")
    return (quantized(rows).logits - plain).abs().max().item()


class LogitsAlone(torch.nn.Module):
    """ids -> logits: what an ONNX file computes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids=input_ids, use_cache=False).logits


@torch.no_grad()
def onnx(folder: Path) -> float:
    """Logits of onnxruntime on three shapes that were not exported."""
    import onnxruntime

    model = LogitsAlone(load_folder(folder))
    rows = torch.export.Dim("rows", min=1, max=8)
    length = torch.export.Dim("length", min=2, max=60)
    worst = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        path = f"{scratch}/model.onnx"
        torch.onnx.export(
            model,
            (tokens(folder, 20, 2),),
            path,
            dynamo=True,
            dynamic_shapes={"input_ids": {0: rows, 1: length}},
            input_names=["input_ids"],
            output_names=["logits"],
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path)
        for shape in ((7, 1), (41, 3), (60, 2)):
            ids = tokens(folder, *shape, seed=5)
            logits = torch.from_numpy(session.run(None, {"input_ids": ids.numpy()})[0])
            worst = max(worst, (logits - model(ids)).abs().max().item())
    return worst


def lm_eval(folder: Path) -> float:
    """Bits per byte that the card's command prints, against the figure on the card.

    Raises: ValueError where lm_eval fails, or the card has no figure.
    """
    card = (folder / "README.md").read_text()
    figure = re.search(r"prints `bits_per_byte` ([0-9.]+\d)", card)
    command = re.search(r"^lm_eval (.*)$", card, re.MULTILINE)
    if not figure or not command:
        raise ValueError(f"{folder}/README.md has no figure of lm_eval")
    with tempfile.TemporaryDirectory() as scratch:
        done = subprocess.run(
            ["env", "HF_HUB_OFFLINE=1", f"HF_HOME={scratch}/home", sys.executable, "-P", "-m"]
            + ["lm_eval", *command[1].split(), "--output_path", scratch, "--device", "cpu"],
            cwd=folder,
            capture_output=True,
            text=True,
        )
        results = sorted(Path(scratch).glob("**/results_*.json"))
        if not results:
            raise ValueError(f"{folder}: lm_eval failed: {done.stderr[-300:]}")
        measured = json.loads(results[-1].read_text())["results"]["self_check"]
    return abs(measured["bits_per_byte,none"] - float(figure[1]))


CLIENTS = (
    Client("trainer_packed", ("accelerate", "datasets"), trainer_packed),
    Client("sft", ("trl",), sft),
    Client("sft_packed", ("trl",), sft_packed),
    Client("sft_checkpointing", ("trl",), sft_checkpointing),
    Client("lora_merge", ("peft",), lora_merge),
    Client("prompt_tuning", ("peft",), prompt_tuning),
    Client("prefix_tuning", ("peft",), prefix_tuning),
    Client("disk_offload", ("accelerate",), disk_offload),
    Client("grown_vocabulary", (), grown_vocabulary),
    Client("int8", (), int8),
    Client("onnx", ("onnx", "onnxruntime", "onnxscript"), onnx),
    Client("lm_eval", ("lm_eval",), lm_eval),
)


def lacking(client: Client) -> list[str]:
    """Packages of a client that are not installed."""
    return [name for name in client.packages if not find_spec(name)]


def is_fine(name: str, figure: float) -> bool:
    return not math.isnan(figure) and figure <= LIMITS[name]


def try_folder(folder: Path, names: list[str]) -> bool:
    """Print one line for each client; returns whether all figures are within their limits."""
    all_fine = True
    for client in CLIENTS:
        if client.name not in names:
            continue
        if missing := lacking(client):
            print(f"none  {folder.name} {client.name}: needs {', '.join(missing)}", flush=True)
            continue
        try:
            with contextlib.redirect_stdout(sys.stderr):  # clients print as they like
                figure = client.measure(folder)
        except Exception as error:  # of any client
            reason = " ".join(str(error).split())[:200]
            print(
                f"FAIL  {folder.name} {client.name}: {type(error).__name__}: {reason}", flush=True
            )
            all_fine = False
            continue
        fine = is_fine(client.name, figure)
        verdict = "ok" if fine else "FAIL"
        limit = LIMITS[client.name]
        print(
            f"{verdict:4}  {folder.name} {client.name}: {figure:.3g} (at most {limit:.3g})",
            flush=True,
        )
        all_fine &= fine
    return all_fine


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.hub.clients", description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    names = [client.name for client in CLIENTS]
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="CLIENT")
    args = parser.parse_args(argv)
    for folder in args.folders:
        if not (folder / "config.json").is_file():
            print(f"tools.hub.clients: {folder} has no config.json; publish first", file=sys.stderr)
            return 2
    if not find_spec("transformers"):
        print("tools.hub.clients: run it with: python3 golf.py --with hf,clients", file=sys.stderr)
        return 2
    results = [try_folder(folder, args.only) for folder in args.folders]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
