"""Publishing: sizes to the byte, code that needs nothing of ours, logits and texts that agree."""

import base64
import hashlib
import http.server
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import quantize
import train_gpt
from baselines import d12, gpt2, preln, train
from data import tokenizers
from tools.hub import architectures, publish

ROOT = Path(__file__).parents[3]
SHAPE = dict(vocab_size=61, num_layers=4, model_dim=48, num_heads=4)
ODD = dict(rope_base=5000.0, logit_softcap=12.0, embed_init_std=0.03)  # not the defaults
SMALL = {
    "gelu_d12": d12.Config(**SHAPE, **ODD, seq_len=256, num_kv_heads=2),
    "yat_d12": d12.Config(**SHAPE, seq_len=256, num_kv_heads=2, mlp="yat"),
    "gpt2_124m": gpt2.Config(**SHAPE, seq_len=64),
    "preln_53m": preln.Config(**SHAPE, seq_len=64),
    "preln_53m_untied": preln.Config(**SHAPE, seq_len=64, tied=False),
    "golf": train_gpt.Hyperparameters(
        **{**SHAPE, "num_layers": 5}, num_kv_heads=2, mlp_mult=2, rope_dims=6, rope_base=5000.0,
        logit_softcap=12.0, bigram_vocab_size=97, bigram_dim=8, train_seq_len=128,
        train_batch_tokens=128, micro_batch_tokens=128,
    ),
}  # fmt: skip
REMOTE = ["gelu_d12", "yat_d12", "preln_53m", "golf"]


def settings_of(system: str) -> dict:
    """As a checkpoint holds them."""
    if system == "golf":
        return train_gpt.model_settings(SMALL[system])
    return train.model_settings(system, SMALL[system])


def checkpoint(folder: Path, system: str) -> Path:
    """A checkpoint of a small model in which every path shows."""
    settings = settings_of(system)
    model = architectures.build({"system": system, **settings}).init_weights(0)
    rng = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=rng) * 0.15)
    path = folder / f"{system}.pt"
    torch.save({"model": model.state_dict(), "model_settings": settings}, path)
    return path


def write(folder: Path, system: str, *options: str) -> Path:
    """The folder that is published of it, not verified."""
    out = folder / "published" / system
    source = checkpoint(folder, system)
    assert publish.main([str(source), "--out", str(out), "--no-verify", *options]) == 0
    return out


def read_safetensors(path: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Header and tensors, read from the format's description alone."""
    blob = path.read_bytes()
    length = int.from_bytes(blob[:8], "little")
    header, data = json.loads(blob[8 : 8 + length]), bytearray(blob[8 + length :])
    kinds = {"F32": torch.float32, "BF16": torch.bfloat16}
    tensors, end = {}, 0
    for name, entry in header.items():
        if name != "__metadata__":
            begin, after = entry["data_offsets"]
            assert begin == end, "a gap"
            flat = torch.frombuffer(data[begin:after], dtype=kinds[entry["dtype"]])
            tensors[name], end = flat.view(entry["shape"]), after
    assert end == len(data) and length % 8 == 0
    return header, tensors


# Files


@pytest.mark.parametrize(
    "system, config, dtype, size, tensors",
    [
        ("gpt2_124m", gpt2.CONFIGS["gpt2_124m"], "bf16", 248_894_656, 148),
        ("gelu_d12", d12.CONFIGS["gelu_d12"], "fp32", 1_044_394_688, 90),
        ("yat_d12", d12.CONFIGS["yat_d12"], "fp32", 1_044_398_384, 126),
        ("preln_53m", preln.CONFIGS["preln_53m"], "fp32", 134_777_488, 100),
        ("preln_53m_untied", preln.CONFIGS["preln_53m_untied"], "fp32", 211_972_488, 101),
    ],
)
def test_files_have_the_size_of_the_specification(system, config, dtype, size, tensors):
    """To the byte, from the header that would be written; no weight is allocated."""
    settings = train.model_settings(system, config)
    weights = dict(train.build(settings, device="meta").named_parameters())
    published, kind = publish.published_weights(settings, weights), publish.DTYPES[dtype]
    assert publish.FORMS[system].dtype == dtype
    header = publish.safetensors_header(published, kind)
    assert len(header) + sum(w.numel() * kind.itemsize for w in published.values()) == size
    assert len(published) == tensors


def test_gpt2_is_published_without_rows_that_are_no_tokens(tmp_path):
    """61 rows of 128, matrices (in, out), no head of its own; the bits are those of bf16."""
    out = write(tmp_path, "gpt2_124m")
    header, tensors = read_safetensors(out / "model.safetensors")
    weights, _ = publish.read_model(tmp_path / "gpt2_124m.pt")
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
    assert "the folder gets no tokenizer" in note and "--with hf" in refusal
    assert done.returncode == 2


def test_the_card_and_the_log_are_of_the_run(tmp_path):
    """Numbers of the files beside the checkpoint; train.log comes along, if it is that model's."""
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 7, "train_loss": 4.25}) + "\n")
    (tmp_path / "train.log").write_text("run:logs/r preset:gpt2_124m\nmodel_params:122400\n")
    out = write(tmp_path, "gpt2_124m")
    assert "- train_loss: 4.25 nats" in (out / "README.md").read_text()
    assert (out / "train.log").read_bytes() == (tmp_path / "train.log").read_bytes()
    (tmp_path / "train.log").write_text("run:logs/r preset:gpt2_124m\nmodel_params:122401\n")
    source = [str(tmp_path / "gpt2_124m.pt"), "--no-verify", "--out"]
    assert publish.main([*source, str(tmp_path / "other")]) == 2
    assert not (tmp_path / "other").exists()


def test_a_tokenizer_comes_along_if_it_fits(tmp_path, capsys):
    """Given files are copied; one with more tokens than the model is refused, as is none."""
    given = tmp_path / "tokenizer"
    given.mkdir()
    source = checkpoint(tmp_path, "preln_53m")
    command = [str(source), "--no-verify", "--tokenizer", str(given), "--out"]
    assert publish.main([*command, str(tmp_path / "a")]) == 2
    added = [{"id": 60, "content": "<|endoftext|>"}]
    text = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": added}
    (given / "tokenizer.json").write_text(json.dumps(text))
    assert publish.main([*command, str(tmp_path / "b")]) == 0
    assert json.loads((tmp_path / "b" / "tokenizer.json").read_text()) == text
    assert "tokenizer.json" in (tmp_path / "b" / "README.md").read_text()
    for name in ("config.json", "generation_config.json"):
        assert json.loads((tmp_path / "b" / name).read_text())["eos_token_id"] == 60
    text["added_tokens"][0]["id"] = 61
    (given / "tokenizer.json").write_text(json.dumps(text))
    assert publish.main([*command, str(tmp_path / "c")]) == 2
    assert "has 62 tokens, the model only 61" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["b", "preln_53m.pt", "tokenizer"]


def test_without_a_given_tokenizer_the_run_s_comes_along(tmp_path, capsys, monkeypatch):
    """One line says why a folder has none: no run, its tokenizer gone, or no library for it."""
    for name in ("tokenizers", "sentencepiece"):
        pytest.importorskip(name, reason="python3 golf.py --with hf test")
    monkeypatch.setitem(
        SMALL, "gelu_d12", d12.Config(**{**SHAPE, "vocab_size": 320}, num_kv_heads=2)
    )
    source, model, out = checkpoint(tmp_path, "gelu_d12"), tmp_path / "m.model", tmp_path / "out"
    command = [str(source), "--no-verify", "--out"]
    assert publish.main([*command, str(out / "a")]) == 0
    assert "no settings.json of a run is beside it" in capsys.readouterr().err
    (tmp_path / "settings.json").write_text(json.dumps({"tokenizer_path": str(model)}))
    assert publish.main([*command, str(out / "b")]) == 0
    assert f"its run's is not at {model}" in capsys.readouterr().err
    model.write_bytes(tokenizers.train_bpe(["the quick brown fox and the quick dog"] * 3, 290))
    assert publish.main([*command, str(out / "c")]) == 0 and not capsys.readouterr().err
    find = publish.hf_tokenizer.find_spec
    monkeypatch.setattr(
        publish.hf_tokenizer, "find_spec", lambda name: name != "tokenizers" and find(name)
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
    torch.save({"model": {}, "model_settings": {"system": "bert"}}, tmp_path / "other.pt")
    assert publish.main([str(tmp_path / "other.pt"), "--out", str(tmp_path / "a")]) == 2
    assert publish.main([str(tmp_path), "--out", str(tmp_path / "a")]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 4 and "of the system 'bert'" in captured.err
    assert "is a folder; name the artifact.pgz" in captured.err
    (tmp_path / "config.json").write_text('{"dtype": "float16"}')
    with pytest.raises(ValueError, match="config.json has dtype 'float16', must be one of float32"):
        publish.verify(source, tmp_path)
    assert not (tmp_path / "a").exists()


def test_documents_begin_where_the_check_cuts(tmp_path):
    """Of the golf model, whose bigram and smear do not reach across a beginning."""
    tokens = publish.probe(checkpoint(tmp_path, "golf"), torch.float32)["tokens_BT"]
    T = tokens.size(1)
    assert (tokens[1, [3, 7, T // 2, T - 20, T - 1]] == 1).all() and (tokens[0] != 1).any()


def test_an_artifact_is_published_with_the_weights_that_are_scored(tmp_path):
    """What is written of a packed model is what `quantize.decode` gives."""
    weights, settings = publish.read_model(checkpoint(tmp_path, "preln_53m"))
    plan = (quantize.PlanRow("*", 16),)
    artifact = tmp_path / "artifact.pgz"
    artifact.write_bytes(quantize.encode(weights, plan, settings))
    out = tmp_path / "out"
    assert publish.main([str(artifact), "--out", str(out), "--no-verify"]) == 0
    _, tensors = read_safetensors(out / "model.safetensors")
    name = "blocks.0.ff.fc1.weight"
    assert torch.equal(tensors[f"transformer.{name}"], weights[name].half().float())


def test_a_difference_over_its_limit_fails():
    """Status and text follow the limits; a comparison that is missing is an error."""
    fine = dict.fromkeys(publish.LIMITS, 0.0)
    assert publish.report(fine)[1]
    for name, limit in publish.LIMITS.items():
        text, is_fine = publish.report({**fine, name: 1.01 * limit + 1e-9})
        assert not is_fine and f"FAIL  {name}" in text
        assert not publish.report({**fine, name: float("nan")})[1]
    with pytest.raises(KeyError):
        publish.report({})


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
        found = {}
        if path.endswith("/create"):
            found = {"url": f"{url}/a/b", "name": "a/b"}
        elif "/preupload/" in path:
            kinds = {True: "lfs", False: "regular"}
            found["files"] = [
                dict(path=f["path"], shouldIgnore=False,
                     uploadMode=kinds[f["path"].endswith("safetensors")])
                for f in json.loads(body)["files"]
            ]  # fmt: skip
        elif path.endswith("/objects/batch"):
            found = {"transfer": "basic", "objects": [
                {**o, "actions": {"upload": {"href": f"{url}/put/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]}  # fmt: skip
        elif "/commit/" in path:
            found = {"success": True, "commitOid": "c" * 40, "commitUrl": f"{url}/a/b/commit/c"}
        refused = self.server.refuse and self.server.refuse in path
        text = json.dumps(found).encode()
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
    monkeypatch.setattr(publish, "push", lambda *how: pushed.append(how) or "there")
    monkeypatch.setattr(publish, "find_spec", lambda name: True)
    out = str(tmp_path / "out")
    assert publish.main([source, "--out", out, "--no-verify", "--push", "a/b"]) == 2
    assert "--push uploads only what was verified" in capsys.readouterr().err
    assert not pushed and not (tmp_path / "out").exists()
    fine = dict.fromkeys(publish.LIMITS, 0.0)
    monkeypatch.setattr(publish, "verify", lambda *how: {**fine, "tokenizer_ids": 1})
    assert publish.main([source, "--out", out, "--push", "a/b"]) == 1 and not pushed
    assert "not pushed" in capsys.readouterr().out
    monkeypatch.setattr(publish, "verify", lambda *how: {**fine, "tokenizer_ids": None})
    assert publish.main([source, "--verify", out, "--push", "a/b", "--private"]) == 0
    assert pushed == [(tmp_path / "out", "a/b", True)]
    assert "none  tokenizer_ids" in (said := capsys.readouterr().out) and "pushed: there" in said
    monkeypatch.setattr(publish, "find_spec", lambda name: None)
    assert publish.main([source, "--verify", out, "--push", "a/b"]) == 2 and len(pushed) == 1
    for unread in (["--dtype", "bf16"], ["--tokenizer", out], ["--no-verify"]):
        assert publish.main([source, "--verify", out, *unread]) == 2
        assert "go with --out; leave them out" in capsys.readouterr().err


# With transformers


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Every small system as published, and transformers with a place of its own for their code."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    from transformers import dynamic_module_utils

    folder = tmp_path_factory.mktemp("hf")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
        patch.setattr(sys, "path", [*sys.path])
        yield {system: write(folder, system) for system in SMALL}


def original(folder: Path) -> torch.nn.Module:
    weights, settings = publish.read_model(folder.parents[1] / f"{folder.name}.pt")
    return architectures.load(settings, weights)


def published(folder: Path, **how):
    from transformers import AutoModelForCausalLM

    how = {"dtype": torch.float32, "trust_remote_code": True, **how}
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **how)
    assert not any(told.values()), told
    return model.eval()


def ids(T: int, rows: int = 1, seed: int = 0) -> torch.Tensor:
    return torch.randint(3, 61, (rows, T), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def logits(model, *args, **how) -> torch.Tensor:
    out = model(*args, **how)
    return getattr(out, "logits", out)


@pytest.mark.parametrize("system", [name for name in SMALL if name != "gpt2_124m"])
def test_published_logits_are_the_original_ones(folders, system):
    """Bit for bit, with every weight found and none left over."""
    tokens = ids(64 if "preln" in system else 300, rows=2)
    ours, theirs = original(folders[system]), published(folders[system])
    assert torch.equal(logits(theirs, tokens), logits(ours, tokens))
    config = theirs.config
    tied = theirs.get_input_embeddings().weight is theirs.get_output_embeddings().weight
    assert tied == config.tie_word_embeddings == (system != "preln_53m_untied")


def test_gpt2_needs_no_code_of_ours(folders):
    """It is transformers' own class, and its logits are ours with the weights rounded to bf16."""
    model = published(folders["gpt2_124m"], trust_remote_code=False)
    ours = original(folders["gpt2_124m"]).bfloat16().float()
    assert type(model).__name__ == "GPT2LMHeadModel" and model.config.resid_pdrop == 0
    assert (logits(model, ids(64)) - logits(ours, ids(64))).abs().max() < 1e-4


def test_the_bytes_are_those_of_the_safetensors_package(folders, tmp_path):
    """Its own writer makes the same file of the same tensors."""
    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    path = folders["gpt2_124m"] / "model.safetensors"
    tensors = safetensors.load_file(path)
    safetensors.save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    assert (tmp_path / "theirs").read_bytes() == path.read_bytes()


def test_a_cache_of_transformers_holds_the_windows(folders):
    """After 300 tokens 128 keys in short layers; the long one keeps all and slides by its mask."""
    model = published(folders["gelu_d12"])
    cache = model(ids(300), use_cache=True).past_key_values
    assert [layer.keys.size(2) for layer in cache.layers] == [128, 128, 128, 300]
    for start in range(300, 320):
        step = logits(model, ids(320)[:, start : start + 1], past_key_values=cache)
        assert (step - logits(model, ids(320)[:, : start + 1])[:, -1:]).abs().max() < 3e-5


@pytest.mark.parametrize("system", REMOTE)
@pytest.mark.parametrize(
    "how",
    [
        dict(),
        dict(num_beams=4, num_return_sequences=3),
        dict(prompt_lookup_num_tokens=3),
        dict(do_sample=True, top_k=20, num_return_sequences=2),
    ],
    ids=["greedy", "beams", "prompt lookup", "sampling"],
)
def test_text_is_the_same_with_a_cache(folders, system, how):
    """Greedy, beams, prompt lookup and sampling, past the short window, against no cache at all."""
    model = published(folders[system])
    prompt = ids(20).repeat(1, 2) if "preln" in system else ids(60).repeat(1, 2)
    fixed = dict(max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0) | how
    torch.manual_seed(0)
    cached = model.generate(prompt, use_cache=True, **fixed)
    fixed.pop("prompt_lookup_num_tokens", None)  # greedy by another way
    torch.manual_seed(0)
    assert torch.equal(cached, model.generate(prompt, use_cache=False, **fixed))
    assert cached.shape == (how.get("num_return_sequences", 1), prompt.size(1) + 20)


@pytest.mark.parametrize("system", ["gelu_d12", "golf"])
def test_a_model_can_assist_itself(folders, system):
    """Assisted decoding crops both caches past the short windows, and gives the greedy text."""
    model, assistant = published(folders[system]), published(folders[system])
    with torch.no_grad():  # wrong now and then
        mlp = assistant.model.blocks[3].mlp
        (mlp.proj if system == "golf" else mlp.c_proj).weight.mul_(0.5)
    fixed = dict(max_new_tokens=24, do_sample=False, eos_token_id=None, pad_token_id=0)
    greedy = model.generate(ids(140), **fixed)
    assert torch.equal(model.generate(ids(140), assistant_model=assistant, **fixed), greedy)


@pytest.mark.parametrize("system", REMOTE)
def test_padded_rows_get_the_text_of_unpadded_ones(folders, system):
    """Two prompts of different length, padded on the left, against each alone."""
    model = published(folders[system])
    fixed = dict(max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=0)
    short, long = ids(9, seed=1), ids(30, seed=2)
    padded = torch.cat([torch.cat([torch.zeros(1, 21, dtype=torch.long), short], 1), long])
    mask = torch.ones_like(padded)
    mask[0, :21] = 0
    shifted = logits(model, padded, attention_mask=mask)[0, 21:]
    assert (shifted - logits(model, short)[0]).abs().max() < 3e-5
    texts = model.generate(padded, attention_mask=mask, **fixed)
    assert torch.equal(texts[0, 21:], model.generate(short, **fixed)[0])
    assert torch.equal(texts[1], model.generate(long, **fixed)[0])


@pytest.mark.parametrize("system", REMOTE)
def test_text_goes_on_from_a_returned_cache(folders, system):
    """A second call with the first one's cache gives what one call gives."""
    model = published(folders[system])
    fixed = dict(do_sample=False, eos_token_id=None, pad_token_id=0, return_dict_in_generate=True)
    first = model.generate(ids(30), max_new_tokens=10, **fixed)
    second = model.generate(
        first.sequences, max_new_tokens=10, past_key_values=first.past_key_values, **fixed
    )
    whole = model.generate(ids(30), max_new_tokens=20, **fixed)
    assert torch.equal(second.sequences, whole.sequences)


@pytest.mark.parametrize("system", ["gelu_d12", "golf"])
def test_a_padded_cache_remembers_its_padding(folders, system):
    """A later call without a mask does not take padding for text."""
    model, tokens = published(folders[system]), ids(30)
    mask = torch.ones_like(tokens)
    mask[:, :6] = 0
    cache = model(tokens[:, :25], attention_mask=mask[:, :25], use_cache=True).past_key_values
    without = logits(model, tokens[:, 25:], past_key_values=cache)
    assert (without - logits(model, tokens, attention_mask=mask)[:, 25:]).abs().max() < 3e-5


@pytest.mark.parametrize("chunks", [[1, 1, 1, 157], [2, 158], [80, 1, 79], [81, 2, 77], [160]])
def test_a_golf_model_remembers_what_stands_before_a_chunk(folders, chunks):
    """Documents begin at, before and after each border; each token's two neighbours count."""
    model, ours = published(folders["golf"]), original(folders["golf"])
    tokens = ids(160, rows=3)
    tokens[1, [0, 1, 2, 3, 80, 81, 82, 83]] = 1
    tokens[2, [1, 3, 79, 159]] = 1
    whole, cache, start = logits(ours, tokens), None, 0
    assert torch.equal(logits(model, tokens, use_cache=False), whole)
    for chunk in chunks:
        with torch.no_grad():
            out = model(tokens[:, start : start + chunk], past_key_values=cache, use_cache=True)
        assert (out.logits - whole[:, start : start + chunk]).abs().max() < 3e-5
        cache, start = out.past_key_values, start + chunk


def test_much_padding_of_a_golf_model_makes_its_angles_no_coarser(folders):
    """The first token of text is at 0, as it is alone; 6,000 places on, angles are rounded."""
    code = sys.modules[type(published(folders["golf"])).__module__]
    mask = torch.cat([torch.zeros(1, 6000), torch.ones(1, 9)], dim=1)
    places = torch.arange(9)[None]
    assert torch.equal(code.positions(6000, 9, mask, "cpu"), places)
    assert torch.equal(code.positions(6004, 5, mask, "cpu"), places[:, 4:])
    assert torch.equal(code.positions(4, 5, None, "cpu"), places[:, 4:])


def test_padding_of_a_golf_model_sees_itself(folders):
    """No row of the mask is empty, as that would be no number; text sees the text before it."""
    code = sys.modules[type(published(folders["golf"])).__module__]
    seen = code.visible(3, 5, torch.tensor([[0, 0, 0, 1, 1]]), "cpu")[0, 0]
    assert seen.int().tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]


@pytest.mark.parametrize("system", ["gelu_d12", "golf"])
def test_rows_and_ends_of_a_cache_can_be_changed(folders, system):
    """Reorder, repeat, select, crop and reset act on keys, ids and padding alike."""
    model = published(folders[system])
    tokens, new = ids(40, rows=2), ids(3, rows=1, seed=5)
    mask = torch.ones_like(tokens)
    mask[0, :4] = 0

    def after(change, past, valid, rows):
        cache = model(tokens, attention_mask=mask, use_cache=True).past_key_values
        change(cache)
        step = new.expand(rows, -1)
        got = logits(model, step, past_key_values=cache)
        valid = torch.cat([valid, torch.ones_like(step)], 1)
        whole = logits(model, torch.cat([past, step], 1), attention_mask=valid)
        assert (got - whole[:, -3:]).abs().max() < 3e-5

    order = torch.tensor([1, 1])
    after(lambda c: c.reorder_cache(order), tokens[order], mask[order], 2)
    after(lambda c: c.batch_select_indices(order[:1]), tokens[1:], mask[1:], 1)
    twice = torch.tensor([0, 0, 1, 1])
    after(lambda c: c.batch_repeat_interleave(2), tokens[twice], mask[twice], 4)
    after(lambda c: c.crop(-5), tokens[:, :-5], mask[:, :-5], 2)
    after(lambda c: c.reset(), tokens[:, :0], mask[:, :0], 2)


@pytest.mark.parametrize("system", REMOTE)
def test_caches_and_masks_that_do_not_fit_are_refused(folders, system):
    """Another class of cache or a mask of another length raises; nothing decodes silently wrong."""
    from transformers import DynamicCache, StaticCache

    model = published(folders[system])
    caches = [StaticCache(config=model.config, max_cache_len=64)]
    caches += [] if "preln" in system else [DynamicCache(config=model.config)]
    for cache in caches:
        with pytest.raises(ValueError, match=f"past_key_values is a {type(cache).__name__}"):
            model(ids(5), past_key_values=cache)
    with pytest.raises(ValueError, match="past_key_values is a StaticCache"):
        model.generate(ids(5), max_new_tokens=3, cache_implementation="static")
    with pytest.raises(ValueError, match=r"attention_mask has shape \(1, 4\), must be \(1, 5\)"):
        model(ids(5), attention_mask=torch.ones(1, 4))
    with pytest.raises(ValueError, match="input_ids are needed"):
        model(inputs_embeds=torch.zeros(1, 5, 48))


def test_learned_positions_end_with_the_context(folders):
    """The pre-LN model refuses to generate past its positions."""
    with pytest.raises(ValueError, match="65 tokens are more than the 64 positions"):
        published(folders["preln_53m"]).generate(ids(60), max_new_tokens=9, eos_token_id=None)


@pytest.mark.parametrize("system", REMOTE)
def test_a_new_model_has_initial_weights(folders, system):
    """One that is built from the config alone has those of `init_weights`, not torch's own."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folders[system], trust_remote_code=True)
    model = AutoModelForCausalLM.from_config(config, trust_remote_code=True)
    assert all(p.isfinite().all() for p in model.parameters())
    settings = {"system": system, **settings_of(system)}
    fresh = architectures.build(settings).init_weights(0)
    state = publish.published_weights(settings, dict(fresh.named_parameters()))
    for name, p in model.named_parameters():
        expected = state[name]
        if expected.unique().numel() <= 2 or "lambdas" in name:
            assert torch.equal(p, expected), name
        elif p.numel() > 300:
            assert p.std().item() == pytest.approx(expected.std().item(), rel=0.15), name


@pytest.mark.parametrize("system", [*REMOTE, "gpt2_124m"])
def test_half_precision_gives_finite_logits(folders, system):
    """Loaded in bf16, logits are near those in fp32; those of our code are fp32."""
    half, full = (published(folders[system], dtype=t) for t in (torch.bfloat16, torch.float32))
    seen = []
    for part in (half.get_submodule(name) for name, _ in half.named_modules() if "proj" in name):
        part.register_forward_hook(lambda part, args, x: seen.append(x.dtype))
    z = logits(half, ids(50))
    assert set(seen) == {torch.bfloat16}
    assert (z - logits(full, ids(50))).abs().mean() < 0.2
    assert z.isfinite().all() and (z.dtype == torch.float32 or system == "gpt2_124m")


@pytest.mark.parametrize("system", REMOTE)
def test_a_model_gives_what_is_asked_of_it(folders, system):
    """The last logits alone, a cache unless there should be none, other embeddings."""
    model, tokens = published(folders[system]), ids(40, rows=2)
    with torch.no_grad():
        whole, last = model(tokens), model(tokens, logits_to_keep=3)
    assert last.logits.shape == (2, 3, 61)
    assert (last.logits - whole.logits[:, -3:]).abs().max() < 1e-5
    assert whole.past_key_values.get_seq_length() == 40
    assert model(tokens, use_cache=False).past_key_values is None
    model.config.use_cache = False
    assert model(tokens).past_key_values is None
    if system.endswith("_d12"):  # its value embeddings are for the same tokens
        with pytest.raises(ValueError, match="69 tokens: the value embeddings of 61 do not grow"):
            model.resize_token_embeddings(69)
        assert model.resize_token_embeddings(61) is model.get_input_embeddings()
    else:
        model.resize_token_embeddings(69)
        assert model(tokens).logits.shape == (2, 40, 69)
    other = torch.nn.Embedding(61, 48)
    model.set_input_embeddings(other)
    assert model.get_input_embeddings() is other


# What verifying must find: a line of the published code, what it is made, and what then differs.
SPOILT = {
    "places that the cache moves": (
        "(positions(past, T,",
        "(positions(past + (past > 0), T,",
        "cached",
    ),
    "padding that is read": (
        "            starts[:, 1:] |=",
        "            starts[:, 1:] &",
        "left_padded",
    ),
    "weights that are not saved": (
        "    def get_input_embeddings(self):",
        "    def save_pretrained(self, where):\n"
        "        self.model.skip_weights.data += 1\n"
        "        super().save_pretrained(where)\n"
        "        self.model.skip_weights.data -= 1\n\n"
        "    def get_input_embeddings(self):",
        "saved_and_loaded",
    ),
    "another text without a cache": (
        "        return cap * torch.tanh(z / cap)",
        "        return cap * torch.tanh(z / cap) * (-1 if self.training_done(cache) else 1)\n\n"
        "    def training_done(self, cache):\n"
        "        import inspect\n"
        "        frames = {frame.function for frame in inspect.stack()}\n"
        "        return '_sample' in frames and cache is None",
        "greedy_tokens",
    ),
}


@pytest.mark.parametrize("what", [None, *SPOILT])
def test_verifying_finds_what_a_folder_does_wrong(folders, tmp_path, capsys, what):
    """Each comparison fails for a folder that is wrong in that, and none as published."""
    from tools.hub.remote_code import check

    out = tmp_path / f"folder_{len(what or '')}"
    shutil.copytree(folders["golf"], out)
    differs = None
    if what:
        line, made, differs = SPOILT[what]
        code = (out / "modeling_golf_gpt.py").read_text()
        assert code.count(line) == 1
        (out / "modeling_golf_gpt.py").write_text(code.replace(line, made))
    source = folders["golf"].parents[1] / "golf.pt"
    torch.save(publish.probe(source, torch.float32), tmp_path / "probe.pt")
    check.main(str(out), str(tmp_path / "probe.pt"))
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    limits = {name: limit for name, limit in publish.LIMITS.items() if found[name] is not None}
    failed = {name for name in limits if found[name] > limits[name]}
    assert differs in failed if what else not failed


def test_verifying_refuses_weights_that_do_not_fit_the_code(folders, tmp_path):
    """One that the code asks for and the file lacks would be random."""
    from tools.hub.remote_code import check

    out = tmp_path / "folder_more"
    shutil.copytree(folders["golf"], out)
    code, line = (out / "modeling_golf_gpt.py").read_text(), "        self.num_skips = "
    more = code.replace(line, "        self.smear_2 = SmearGate(config)\n" + line)
    (out / "modeling_golf_gpt.py").write_text(more)
    with pytest.raises(ValueError, match="weights do not fit the code: .*smear_2"):
        check.load(str(out))


@pytest.mark.parametrize("system", REMOTE)
def test_labels_give_the_mean_loss_of_the_next_tokens(folders, system):
    """Shifted inside, -100 left out, divided by num_items_in_batch where a trainer gives that."""
    model, tokens = published(folders[system]), ids(40)
    total = original(folders[system]).loss(tokens).item()
    assert model.loss_type == "ForCausalLM"  # else transformers guesses, with a warning
    with torch.no_grad():
        assert model(tokens, labels=tokens).loss.item() == pytest.approx(total / 39, rel=1e-5)
        halved = model(tokens, labels=tokens, num_items_in_batch=78).loss.item()
        assert halved == pytest.approx(total / 78, rel=1e-5)
        masked = torch.where(torch.arange(40) < 20, -100, tokens)
        z = logits(model, tokens)[0, 19:-1]
        last_20 = torch.nn.functional.cross_entropy(z, tokens[0, 20:]).item()
        assert model(tokens, labels=masked).loss.item() == pytest.approx(last_20, rel=1e-5)
        assert len(model(tokens, labels=tokens, return_dict=False)) == 3


def test_tables_that_others_store_are_ignored(folders, tmp_path):
    """A file that holds upstream's rope_cos and rope_sin loads without a word."""
    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    folder = tmp_path / "with_tables"
    subprocess.run(["cp", "-r", str(folders["gelu_d12"]), str(folder)], check=True)
    tensors = safetensors.load_file(folder / "model.safetensors")
    tensors |= {f"model.rope_{part}": torch.zeros(1, 2560, 1, 6) for part in ("cos", "sin")}
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(
        logits(published(folder), ids(20)), logits(original(folders["gelu_d12"]), ids(20))
    )


def test_the_names_of_the_original_code_are_read(folders, tmp_path):
    """Of preln_53m: `mlp` for `ff`, and a head within the trunk; ours stay ours when saved."""
    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    folder, model = tmp_path / "theirs", published(folders["preln_53m"])
    subprocess.run(["cp", "-r", str(folders["preln_53m"]), str(folder)], check=True)
    tensors = safetensors.load_file(folder / "model.safetensors")
    theirs = {name.replace(".ff.", ".mlp."): w for name, w in tensors.items()}
    theirs["transformer.lm_head.weight"] = tensors["transformer.token_embedding.weight"].clone()
    safetensors.save_file(theirs, folder / "model.safetensors", metadata={"format": "pt"})
    assert torch.equal(logits(published(folder), ids(20)), logits(model, ids(20)))
    model.save_pretrained(tmp_path / "ours")
    assert set(safetensors.load_file(tmp_path / "ours/model.safetensors")) == set(tensors)


@pytest.mark.parametrize("system, lacking", [("gelu_d12", "smear_lambda"), ("golf", "smear.gate")])
def test_only_what_a_file_lacks_gets_initial_weights(folders, tmp_path, system, lacking):
    """Of a file without the smear's weight all other weights are kept as they are."""
    from transformers import AutoModelForCausalLM

    safetensors = pytest.importorskip("safetensors.torch", reason="python3 golf.py --with hf test")
    folder = tmp_path / "lacking_it"
    subprocess.run(["cp", "-r", str(folders[system]), str(folder)], check=True)
    tensors = safetensors.load_file(folder / "model.safetensors")
    del tensors[f"model.{lacking}"]
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
    state = model.state_dict()
    assert not state.pop(f"model.{lacking}").any()
    assert all(torch.equal(state[name], w) for name, w in tensors.items())


@pytest.mark.slow
@pytest.mark.parametrize("system", list(SMALL))
def test_a_folder_is_verified_in_a_fresh_process(folders, system, capsys, tmp_path):
    """`--verify` finds no difference over its limit, and one where a weight was changed."""
    source, folder = folders[system].parents[1] / f"{system}.pt", folders[system]
    assert publish.main([str(source), "--verify", str(folder), "--json"]) == 0
    differences = json.loads(capsys.readouterr().out)["differences"]
    assert set(differences) == set(publish.LIMITS) and differences["tokenizer_ids"] is None
    spoilt = torch.load(source)
    next(w for w in spoilt["model"].values() if w.ndim == 2)[:30] *= 1.01
    torch.save(spoilt, tmp_path / "spoilt.pt")
    assert publish.main([str(tmp_path / "spoilt.pt"), "--verify", str(folder)]) == 1
    assert "FAIL  logits" in capsys.readouterr().out


@pytest.mark.slow
def test_code_that_needs_ours_is_found_out(tmp_path, monkeypatch):
    """The fresh process finds no module of this repository, whatever PYTHONPATH says."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    source, out = checkpoint(tmp_path, "preln_53m"), tmp_path / "out"
    publish.write_folder(source, out, None, None)
    with (out / "torch_gpt.py").open("a") as file:
        file.write("import quantize\n")
    with pytest.raises(ValueError, match="could not be loaded: .*quantize"):
        publish.verify(source, out)


@pytest.mark.slow
def test_tokens_are_verified_in_a_fresh_process(tmp_path, capsys, monkeypatch):
    """A SentencePiece model comes along whole; a merge that is taken away is a difference."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    monkeypatch.setitem(SMALL, "gelu_d12", d12.Config(**{**SHAPE, "vocab_size": 320}, seq_len=256,
                                                      num_kv_heads=2))  # fmt: skip
    model, source = tmp_path / "m.model", checkpoint(tmp_path, "gelu_d12")
    model.write_bytes(tokenizers.train_bpe(["the quick brown fox and the quick dog"] * 3, 290))
    out = tmp_path / "out"
    command = [str(source), "--json"]
    assert publish.main([*command, "--out", str(out), "--tokenizer", str(model)]) == 0
    assert json.loads(capsys.readouterr().out)["differences"]["tokenizer_ids"] == 0
    described = json.loads((out / "tokenizer.json").read_text())
    described["normalizer"] = None
    (out / "tokenizer.json").write_text(json.dumps(described))
    assert publish.main([*command, "--verify", str(out)]) == 1
    assert json.loads(capsys.readouterr().out)["differences"]["tokenizer_ids"] > 5


@pytest.mark.slow
def test_greedy_text_agrees_over_200_tokens(folders):
    """From 200 to 400 tokens: past the short windows and past the context."""
    model = published(folders["gelu_d12"])
    fixed = dict(max_new_tokens=200, do_sample=False, eos_token_id=None, pad_token_id=0)
    texts = [model.generate(ids(200), use_cache=cached, **fixed) for cached in (True, False)]
    assert torch.equal(*texts)
