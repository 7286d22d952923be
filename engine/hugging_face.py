"""Open a Hugging Face folder as one of our models: tokens_BT -> logits_BTV in fp32.

Apart from open_model, because no run needs it: the code of a submission is smaller without it.
"""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn


class HuggingFaceModel(nn.Module):
    """A causal language model of transformers in the manner of ours."""

    def __init__(self, folder: Path, trust: bool):
        super().__init__()
        from transformers import AutoModelForCausalLM

        self.inner = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=trust)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        return self.inner(tokens_BT, use_cache=False).logits.float()


def open_folder(folder: Path, device: torch.device, trust: bool) -> tuple[nn.Module, dict]:
    """The model and its config, with the context under train_seq_len.

    Raises: ValueError where the folder carries code and the caller does not trust it.
    """
    config = json.loads((folder / "config.json").read_text())
    code = sorted(folder.glob("*.py"))
    if code and not trust:
        hashes = ", ".join(f"{p.name} {hashlib.sha256(p.read_bytes()).hexdigest()}" for p in code)
        raise ValueError(f"{folder} carries code ({hashes}); read it, then pass --trust to run it")
    model = HuggingFaceModel(folder, trust).to(device).eval()
    context = config.get("max_position_embeddings") or config.get("n_positions") or 1024
    return model, config | {"train_seq_len": context}
