"""Clients: what takes seconds is tried on every system; the whole suite is slow and needs packages.

The slow tests need the extra, and .ci/clients runs them:
python3 golf.py --with hf,clients,serve test -m slow tests/tools/hub
"""

from pathlib import Path

import pytest
import torch

from data import tokenizers
from tests.tools.hub.test_architectures import SMALL, checkpoint, own_modules
from tools.hub import clients, publish, self_check

SYSTEMS = ["golf", "pr334", "gelu_d12", "yat_d12", "preln_53m", "gpt2_124m"]
# Those that take less than a second, once their package is imported.
QUICK = ["lora_merge", "prompt_tuning", "prefix_tuning", "disk_offload"]
SIZES = dict(vocab_size=340, num_layers=2, model_dim=32, num_heads=2, train_seq_len=128)


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Two layers of every system, published with a tokenizer."""
    for name in ("transformers", "tokenizers", "sentencepiece", "google.protobuf"):
        pytest.importorskip(name, reason="python3 golf.py --with hf test")
    scratch = tmp_path_factory.mktemp("clients")
    model = scratch / "m.model"
    texts = ["the quick brown fox 7 and the dog", *self_check.TEXTS]
    model.write_bytes(tokenizers.train_bpe(texts * 3, 320))
    made = {}
    with own_modules(scratch / "modules"):
        for system in SYSTEMS:
            settings = {**SMALL[system], **SIZES}
            settings |= {"rope_dims": 4} if system in ("golf", "pr334") else {}
            settings |= {"num_kv_heads": 1} if "num_kv_heads" in settings else {}
            source = checkpoint(scratch, system, settings)
            made[system] = scratch / "published" / system
            publish.write_folder(source, made[system], "fp32", model)
        yield made


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("name", ["grown_vocabulary", "int8"])
def test_transformers_alone(folders, system, name):
    """What needs no further package."""
    (client,) = [client for client in clients.CLIENTS if client.name == name]
    assert clients.is_fine(name, client.measure(folders[system]))


def check_client(client: clients.Client, folder: Path) -> None:
    """The client's figure is within its limit; skipped where its packages are not installed."""
    if missing := clients.lacking(client):
        pytest.skip(f"needs {', '.join(missing)}: python3 golf.py --with hf,clients test")
    assert clients.is_fine(client.name, client.measure(folder))


@pytest.mark.parametrize("name", QUICK)
def test_quick_clients_on_our_own_system(folders, name):
    """Adapters and offloading, where their packages are there."""
    (client,) = [client for client in clients.CLIENTS if client.name == name]
    check_client(client, folders["golf"])


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("client", clients.CLIENTS, ids=lambda client: client.name)
def test_every_client_on_every_system(folders, system, client):
    """Training, adapters, offloading, export and evaluation, each within its limit."""
    check_client(client, folders[system])


def test_a_figure_over_its_limit_or_an_error_fails(tmp_path, capsys, monkeypatch):
    """Each line says which folder and client; a package that is missing is named, not failed."""

    def fail(folder):
        raise RuntimeError("no such\nthing")

    measures = [lambda folder: 1e-9, lambda folder: 1.0, lambda folder: float("nan"), fail]
    names = ["onnx", "lora_merge", "lm_eval", "sft"]
    made = [clients.Client(n, (), m) for n, m in zip(names, measures, strict=True)]
    made.append(clients.Client("int8", ("no_such_package",), fail))
    monkeypatch.setattr(clients, "CLIENTS", made)
    assert not clients.try_folder(tmp_path, [*names, "int8"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "FAIL", "FAIL", "FAIL", "none"]
    assert "RuntimeError: no such thing" in lines[3] and "no_such_package" in lines[4]
    assert clients.try_folder(tmp_path, ["onnx", "int8"])


def test_a_folder_that_is_not_published_is_refused(tmp_path, capsys):
    assert clients.main([str(tmp_path)]) == 2
    assert "has no config.json; publish first" in capsys.readouterr().err


def test_every_client_has_a_limit():
    assert set(clients.LIMITS) == {client.name for client in clients.CLIENTS}


def test_ids_are_those_of_text(folders):
    """Random tokens are in the vocabulary, and repeat by their seed."""
    ids = clients.tokens(folders["golf"], 50, 2, seed=3)
    assert ids.shape == (2, 50) and 4 <= ids.min() and ids.max() < 320
    assert torch.equal(ids, clients.tokens(folders["golf"], 50, 2, seed=3))
