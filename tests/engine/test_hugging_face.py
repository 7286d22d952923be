"""Hugging Face folders: their code needs trust, their logits are what transformers gives."""

import pytest
import torch

from engine.open_model import open_model
from tests.tiny_runs import tokens


def test_code_of_a_hugging_face_folder_needs_trust(tmp_path):
    """It is named with its hash, and not run."""
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "modeling_x.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(ValueError, match=r"modeling_x.py [0-9a-f]{64}.*pass --trust to run it"):
        open_model(tmp_path)


def test_a_stock_model_opens_without_trust(tmp_path):
    """It carries no code; the context is that of its config."""
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=1024, n_positions=16, n_embd=8, n_layer=1, n_head=2, bos_token_id=1
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    model.save_pretrained(tmp_path)
    opened = open_model(tmp_path)
    assert opened.recipe is None and opened.seq_len == 16
    tokens_BT = tokens(2, 9)
    with torch.no_grad():
        assert torch.equal(opened.model(tokens_BT), model(tokens_BT).logits)
