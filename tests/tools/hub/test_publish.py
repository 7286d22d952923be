"""Publishing: sizes to the byte, code that needs nothing of ours, a tokenizer, an upload."""

import base64
import hashlib
import http.server
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import quantize
from data import tokenizers
from tests.tools.hub.test_architectures import SMALL, checkpoint
from tests.tools.hub.test_weights_file import read_safetensors
from tools.hub import fast_tokenizer, proof, publish
from tools.hub.architectures import read_model

ROOT = Path(__file__).parents[3]


def write(folder: Path, system: str, *options: str) -> Path:
    """The folder that is published of it, not verified."""
    out = folder / "published" / system
    source = checkpoint(folder, system)
    assert publish.main([str(source), "--out", str(out), "--no-verify", *options]) == 0
    return out


# Files


def test_gpt2_is_published_without_rows_that_are_no_tokens(tmp_path):
    """61 rows of 128, matrices (in, out), no head of its own; the bits are those of bf16."""
    out = write(tmp_path, "gpt2_124m")
    header, tensors = read_safetensors(out / "model.safetensors")
    weights, _ = read_model(tmp_path / "gpt2_124m.pt")
    assert list(header)[0] == "__metadata__" and list(tensors) == sorted(tensors)
    assert "lm_head.weight" not in tensors and tensors["transformer.wte.weight"].shape == (61, 48)
    matrix = tensors["transformer.h.0.attn.c_attn.weight"]
    assert matrix.dtype == torch.bfloat16 and matrix.shape == (48, 144)
    assert torch.equal(matrix, weights["h.0.attn.c_attn.weight"].bfloat16().T)
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "config.json", "generation_config.json", "model.safetensors"
    ]  # fmt: skip


def test_a_folder_is_written_without_libraries_of_hugging_face(tmp_path):
    """Where neither transformers nor safetensors can be imported; without --no-verify too."""
    source = checkpoint(tmp_path, "preln_53m")
    code = (
        "import sys; sys.modules.update(transformers=None, safetensors=None, tokenizers=None)\n"
        "import importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in sys.modules else find(name, *a)\n"
        "from tools.hub import publish; source, out = sys.argv[1:]\n"
        "assert publish.main([source, '--out', out]) == 0\n"
        "sys.exit(publish.main([source, '--verify', out]))"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "out")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert "not verified" in done.stdout and (tmp_path / "out" / "modeling_nanogpt.py").exists()
    note, refusal = done.stderr.splitlines()
    assert "the folder gets no tokenizer" in note and "verifying needs" in refusal
    assert done.returncode == 2


def test_the_card_and_the_log_are_of_the_run(tmp_path):
    """Numbers of the files beside the checkpoint; train.log comes along, if it is that model's."""
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 7, "train_loss": 4.25}) + "\n")
    log = "run:logs/r preset:gpt2_124m\nmodel_params:{}\nstep:1/9 train_loss:4.0000\n"
    (tmp_path / "train.log").write_text(log.format(122400))
    out = write(tmp_path, "gpt2_124m")
    assert "- train_loss: 4.25 nats" in (out / "README.md").read_text()
    assert (out / "train.log").read_bytes() == (tmp_path / "train.log").read_bytes()
    (tmp_path / "train.log").write_text(log.format(122401))
    source = [str(tmp_path / "gpt2_124m.pt"), "--no-verify", "--out"]
    assert publish.main([*source, str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


def test_a_tokenizer_comes_along_if_it_fits(tmp_path, capsys):
    """Given files are copied; one with more tokens than the model is refused, as is none."""
    tokenizer = tmp_path / "tokenizer"
    tokenizer.mkdir()
    source = checkpoint(tmp_path, "preln_53m")
    command = [str(source), "--no-verify", "--tokenizer", str(tokenizer), "--out"]
    assert publish.main([*command, str(tmp_path / "a")]) == 2
    end = {"id": 60, "content": "<|endoftext|>", "special": True, "normalized": False}
    end |= {"single_word": False, "lstrip": False, "rstrip": False}
    vocab = {chr(i): i for i in range(60)}
    text = {"version": "1.0", "model": {"type": "BPE", "vocab": vocab, "merges": []}}
    text["added_tokens"] = [end]
    (tokenizer / "tokenizer.json").write_text(json.dumps(text))
    assert publish.main([*command, str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b" / "tokenizer.json").read_text()) == text
    assert "tokenizer.json" in (tmp_path / "b" / "README.md").read_text()
    for name in ("config.json", "generation_config.json"):
        config = json.loads((tmp_path / "b" / name).read_text())
        assert (config["eos_token_id"], config["pad_token_id"]) == (60, 60)
    config = json.loads((tmp_path / "b" / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 64 and config["pad_token"] == "<|endoftext|>"
    text["added_tokens"][0]["id"] = 61
    (tokenizer / "tokenizer.json").write_text(json.dumps(text))
    assert publish.main([*command, str(tmp_path / "c")]) == 2
    assert "has 62 tokens, the model only 61" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "preln_53m.pt", "tokenizer"]


def test_without_a_given_tokenizer_the_run_s_comes_along(tmp_path, capsys, monkeypatch):
    """One line says why a folder has none: no run, its tokenizer gone, or no library for it."""
    for name in ("tokenizers", "sentencepiece"):
        pytest.importorskip(name, reason="python3 golf.py --with hf test")
    source = checkpoint(tmp_path, "gelu_d12", {**SMALL["gelu_d12"], "vocab_size": 320})
    model = tmp_path / "m.model"
    out = tmp_path / "out"
    command = [str(source), "--no-verify", "--out"]
    assert publish.main([*command, str(out / "a")]) == 0
    assert "no settings.json of a run is beside it" in capsys.readouterr().err
    (tmp_path / "settings.json").write_text(json.dumps({"tokenizer_path": str(model)}))
    assert publish.main([*command, str(out / "b")]) == 0
    assert f"its run's is not at {model}" in capsys.readouterr().err
    model.write_bytes(tokenizers.train_bpe(["the quick brown fox and the quick dog"] * 3, 290))
    assert publish.main([*command, str(out / "c")]) == 0 and not capsys.readouterr().err
    find = fast_tokenizer.find_spec
    monkeypatch.setattr(
        fast_tokenizer, "find_spec", lambda name: name != "tokenizers" and find(name)
    )
    assert publish.main([*command, str(out / "d")]) == 0
    assert "note: the folder gets no tokenizer: making" in capsys.readouterr().err
    held = [(out / folder / "tokenizer.json").exists() for folder in "abcd"]
    assert held == [False, False, True, False]


def test_what_cannot_be_published_is_refused_in_one_line(tmp_path, capsys):
    """A folder that exists, a file that is no model, a model that is no system: status 2."""
    source = checkpoint(tmp_path, "preln_53m")
    assert publish.main([str(source), "--out", str(tmp_path)]) == 2
    assert "exists; remove it, or choose another" in capsys.readouterr().err
    (tmp_path / "text").write_text("no model")
    assert publish.main([str(tmp_path / "text"), "--out", str(tmp_path / "a")]) == 2
    assert publish.main([str(tmp_path / "absent"), "--out", str(tmp_path / "a")]) == 2
    torch.save({"model": {}, "model_settings": {"recipe": "baselines.bert"}}, tmp_path / "other.pt")
    assert publish.main([str(tmp_path / "other.pt"), "--out", str(tmp_path / "a")]) == 2
    assert publish.main([str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 4 and "is of baselines.bert" in captured.err
    assert "is a folder; name the artifact.pgz" in captured.err
    assert not (tmp_path / "a").exists()


def test_an_artifact_is_published_with_the_weights_that_are_scored(tmp_path):
    """The weights of a packed model are those that `quantize.decode` gives."""
    weights, settings = read_model(checkpoint(tmp_path, "preln_53m"))
    plan = (quantize.PlanRow("*", 16),)
    artifact = tmp_path / "artifact.pgz"
    artifact.write_bytes(quantize.encode(weights, plan, settings))
    out = tmp_path / "out"
    assert publish.main([str(artifact), "--out", str(out), "--no-verify"]) == 0
    _, tensors = read_safetensors(out / "model.safetensors")
    name = "blocks.0.ff.fc1.weight"
    assert torch.equal(tensors[f"transformer.{name}"], weights[name].half().float())


@pytest.mark.parametrize("license", ["", "cc-by-4.0"])
def test_the_licence_is_chosen_when_publishing(tmp_path, capsys, license):
    """Where the system states none and none is chosen, a note says how; the card has no line."""
    options = ["--license", license, "--author", "A. Name"] if license else []
    card = (write(tmp_path, "golf", *options) / "README.md").read_text()
    assert (f"license: {license}" in card) == bool(license) == ("author = {A. Name}" in card)
    assert ("choose one, as --license mit" in capsys.readouterr().err) != bool(license)


# Upload


class Hub(http.server.BaseHTTPRequestHandler):
    """Speaks as much of the hub's protocol as an upload needs; what came is kept by path."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.answer()

    do_POST = do_PUT = do_GET

    def answer(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path, url = self.path, f"http://127.0.0.1:{self.server.server_address[1]}"
        self.server.seen.append((path, body, self.headers.get("Authorization")))
        reply = {}
        if path.endswith("/create"):
            reply = {"url": f"{url}/a/b", "name": "a/b"}
        elif "/preupload/" in path:
            kinds = {True: "lfs", False: "regular"}
            reply["files"] = [
                dict(path=f["path"], shouldIgnore=False,
                     uploadMode=kinds[f["path"].endswith("safetensors")])
                for f in json.loads(body)["files"]
            ]  # fmt: skip
        elif path.endswith("/objects/batch"):
            reply = {"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]}  # fmt: skip
        elif "/commit/" in path:
            reply = {"success": True, "commitOid": "c" * 40, "commitUrl": f"{url}/a/b/commit/c"}
        refused = self.server.refuse and self.server.refuse in path
        text = json.dumps(reply).encode()
        self.send_response(403 if refused else 200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


@pytest.fixture
def hub(monkeypatch):
    """A hub in this process, to which the real client is sent."""
    pytest.importorskip("huggingface_hub", reason="pip install huggingface_hub")
    from huggingface_hub import constants

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.seen, server.refuse = [], ""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # a protocol of compiled code
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    yield server
    server.shutdown()
    server.server_close()


def test_a_folder_is_uploaded_in_one_commit(hub, tmp_path):
    """Every file once, byte for byte: small ones in the commit, weights by their hash before it."""
    folder = tmp_path / "out"
    folder.mkdir()
    files = {"README.md": b"---\nlanguage: en\n---\n", "model.safetensors": b"w" * 999}
    files["config.json"] = b"{}"
    for name, data in files.items():
        (folder / name).write_bytes(data)
    assert publish.push(folder, "a/b", private=True).endswith("/a/b/commit/c")
    by_path = {path: body for path, body, _ in hub.seen}
    assert json.loads(by_path["/api/repos/create"])["visibility"] == "private"
    assert sum("/commit/" in path for path, _, _ in hub.seen) == 1
    lines = by_path["/api/models/a/b/commit/main"].decode().splitlines()
    values = [json.loads(line)["value"] for line in lines][1:]
    sent = {v["path"]: base64.b64decode(v.get("content", "")) for v in values}
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert sent == files | {"model.safetensors": b""} and len(values) == 3
    assert next(v["oid"] for v in values if v["path"] == "model.safetensors") == digest
    assert by_path[f"/put/{digest}"] == files["model.safetensors"]
    tokens = {token for path, _, token in hub.seen if path.startswith("/api/models")}
    assert tokens == {"Bearer hf_of_the_test"}


@pytest.mark.parametrize("refused", ["/create", "/preupload/", "/objects/batch", "/put/"])
def test_an_upload_that_is_refused_changes_nothing(hub, tmp_path, refused):
    """No commit is asked for, and the error says how to go on."""
    (tmp_path / "model.safetensors").write_bytes(b"w" * 999)
    hub.refuse = refused
    with pytest.raises(OSError, match="(?s)a/b: nothing was committed .*hf auth login.*--verify"):
        publish.push(tmp_path, "a/b", private=False)
    assert any(refused in path for path, _, _ in hub.seen)
    assert not any("/commit/" in path for path, _, _ in hub.seen)


def test_only_what_was_verified_is_uploaded(tmp_path, monkeypatch, capsys):
    """Not without verifying, not where a difference is over its limit; then as it was asked."""
    source, pushed = str(checkpoint(tmp_path, "preln_53m")), []
    monkeypatch.setattr(publish, "push", lambda *arguments: pushed.append(arguments) or "there")
    monkeypatch.setattr(publish, "find_spec", lambda name: True)
    out = str(tmp_path / "out")
    assert publish.main([source, "--out", out, "--no-verify", "--push", "a/b"]) == 2
    assert "--push uploads only what was verified" in capsys.readouterr().err
    assert not pushed and not (tmp_path / "out").exists()
    fine = dict.fromkeys(proof.LIMITS, 0.0)
    monkeypatch.setattr(publish, "verify", lambda *arguments: {**fine, "tokenizer_ids": 1})
    assert publish.main([source, "--out", out, "--push", "a/b"]) == 1 and not pushed
    assert "not pushed" in capsys.readouterr().out
    monkeypatch.setattr(publish, "verify", lambda *arguments: {**fine, "tokenizer_ids": None})
    assert publish.main([source, "--verify", out, "--push", "a/b", "--private"]) == 0
    assert pushed == [(tmp_path / "out", "a/b", True)]
    assert (
        "none  tokenizer_ids" in (output := capsys.readouterr().out) and "pushed: there" in output
    )
    monkeypatch.setattr(publish, "find_spec", lambda name: None)
    assert publish.main([source, "--verify", out, "--push", "a/b"]) == 2 and len(pushed) == 1
    for unread in (["--dtype", "bf16"], ["--tokenizer", out], ["--no-verify"]):
        assert publish.main([source, "--verify", out, *unread]) == 2
        assert "go with --out; leave them out" in capsys.readouterr().err
