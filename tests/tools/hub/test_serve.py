"""Serving: what is refused at once; OpenAI's client gets the model's own text."""

import json
import socket
import time
import urllib.error
import urllib.request

import pytest
import torch

from data import tokenizers
from tests.tools.hub.test_architectures import SMALL, checkpoint, own_modules
from tools.hub import generate, publish, serve

TEXT = "the quick brown fox and the quick dog"


@pytest.fixture
def folder(tmp_path):
    """A golf model of two layers with its tokenizer."""
    for name in ("tokenizers", "sentencepiece", "google.protobuf"):
        pytest.importorskip(name, reason="python3 golf.py --with hf test")
    model = tmp_path / "m.model"
    model.write_bytes(tokenizers.train_bpe([TEXT] * 3, 290))
    settings = {**SMALL["golf"], "vocab_size": 290, "num_layers": 2}
    source = checkpoint(tmp_path, "golf", settings, spread=0.3)
    saved = torch.load(source)
    saved["model"]["tok_emb.weight"][:260] = 0  # bytes and special tokens are never the likeliest
    torch.save(saved, source)
    publish.write_folder(source, tmp_path / "published", "fp32", model)
    return tmp_path / "published"


def test_a_folder_is_served_with_a_chat_template(folder, tmp_path):
    """Its files are links; a template of its own is kept, and the folder stays as it was."""
    before = sorted(folder.iterdir())
    served = serve.served_folder(folder, tmp_path / "a")
    assert (served / "config.json").read_bytes() == (folder / "config.json").read_bytes()
    assert (served / "chat_template.jinja").read_text() == serve.CHAT_TEMPLATE
    assert sorted(folder.iterdir()) == before
    (folder / "chat_template.jinja").write_text("own")
    served = serve.served_folder(folder, tmp_path / "b")
    assert (served / "chat_template.jinja").read_text() == "own"


def test_what_cannot_be_served_is_refused(tmp_path, monkeypatch, capsys):
    """A folder without a tokenizer, packages that are missing, a port that is none."""
    with pytest.raises(ValueError, match="has no tokenizer.json; publish it with its tokenizer"):
        serve.served_folder(tmp_path, tmp_path)
    monkeypatch.setattr(serve, "find_spec", lambda name: name != "uvicorn")
    with pytest.raises(ImportError, match="serving needs uvicorn: python3 golf.py generate"):
        serve.refuse_without_packages()
    assert generate.main([str(tmp_path), "--serve", "--port", "70000"]) == 2
    assert "--port 70000 must be at least 0 and below 65536" in capsys.readouterr().err


@pytest.mark.slow
def test_a_client_of_openai_gets_the_models_own_text(folder, tmp_path, capsys):
    """Greedy completions are those of `generate`; a chat is answered; a stream adds up."""
    for name in (*serve.PACKAGES, "transformers"):
        pytest.importorskip(name, reason="python3 golf.py --with hf,serve test -m slow")
    import openai

    with own_modules(tmp_path / "modules"):
        serve_and_ask(folder, tmp_path, capsys, openai)


def serve_and_ask(folder, tmp_path, capsys, openai):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--prompt", "the quick", "--tokens", "9", "--temperature", "0"]
    assert generate.main([str(folder), *options]) == 0
    expected = capsys.readouterr().out.removesuffix("\n")
    running = serve.start(folder, tmp_path / "scratch", "127.0.0.1", port, in_background=True)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                models = json.load(urllib.request.urlopen(f"{url}/v1/models"))
                break
            except urllib.error.URLError:
                time.sleep(0.1)
        assert models["object"] == "list"
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
        request = dict(model=running._model_manager.force_model, max_tokens=9, temperature=0)
        answer = client.completions.create(prompt="the quick", **request)
        assert expected == "the quick" + answer.choices[0].text
        parts = client.completions.create(prompt="the quick", stream=True, **request)
        assert "".join(part.choices[0].text for part in parts if part.choices) == (
            answer.choices[0].text
        )
        messages = [{"role": "user", "content": "the quick"}]
        chat = client.chat.completions.create(messages=messages, **request)
        assert chat.choices[0].message.role == "assistant"
    finally:
        running.kill_server()
    assert torch.is_grad_enabled()
