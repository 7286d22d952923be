"""Generating: the text is the model's own, characters come whole, an error is one line."""

import dataclasses
import hashlib
import io
import json
import sys

import pytest
import torch

import quantize
from baselines.models import d12, gpt2, preln
from data import tokenizers
from tests.conftest import write_vocabulary
from tests.tools.hub.test_architectures import SMALL as OTHERS
from tests.tools.hub.test_architectures import checkpoint as write_checkpoint
from tests.tools.hub.test_architectures import settings_of
from tools.hub import architectures, generate, publish
from tools.hub import tokenizer as hf_tokenizer

TEXT = "The quick brown fox and the naïve dog: 漢字 🙂 quick and brown. "
SHAPE = dict(vocab_size=340, num_layers=2, model_dim=32, num_heads=2)
PRELN = preln.Config(**SHAPE, seq_len=64)
SMALL = {
    "gelu_d12": settings_of("baselines.gelu_d12", d12.Config(**SHAPE, seq_len=64, num_kv_heads=1)),
    "gpt2_124m": settings_of("baselines.gpt2_124m", gpt2.Config(**SHAPE, seq_len=64)),
    "preln_53m": settings_of("baselines.preln_53m", PRELN),
    "preln_53m_untied": settings_of("baselines.preln_53m", dataclasses.replace(PRELN, tied=False)),
    "golf": {**OTHERS["golf"], **SHAPE, "num_kv_heads": 1, "rope_dims": 4, "train_seq_len": 64},
}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """A SentencePiece model of 320 pieces, 256 of them bytes."""
    path = tmp_path_factory.mktemp("tokenizer") / "small.model"
    path.write_bytes(tokenizers.train_bpe([TEXT.replace(".", c) for c in "ab"], 320))
    return path


def checkpoint(folder, system: str):
    """A model that has much to say: its weights are random, and large enough to be sure of it."""
    return write_checkpoint(folder, system, SMALL[system], spread=0.3)


def forget_modules() -> None:
    """Code of published folders is loaded anew, from where it then lies."""
    for name in [name for name in sys.modules if name.startswith("transformers_modules")]:
        del sys.modules[name]


@pytest.fixture
def own_modules(monkeypatch):
    """What transformers knows of published code is, afterwards, what it knew before."""
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    from transformers import dynamic_module_utils

    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", "")
    monkeypatch.setattr(sys, "path", [*sys.path])
    kept = {n: m for n, m in sys.modules.items() if n.startswith("transformers_modules")}
    yield
    forget_modules()
    sys.modules.update(kept)


@torch.no_grad()
def greedy(path, tokenizer, prompt: str, tokens: int) -> str:
    """The same without transformers and without a cache: the likeliest token, again and again."""
    weights, settings = architectures.read_model(path)
    model, codec = architectures.load_hub_model(settings, weights), generate.read_codec(tokenizer)
    special = dict(architectures.HUB_MODELS[settings["recipe"]].special_ids)
    ids = [1, *codec.encode(prompt)]
    for _ in range(tokens):
        ids.append(int(model(torch.tensor([ids]))[0, -1, : codec.vocab_size].argmax()))
        if ids[-1] in (1, special["eos"]):
            break
    return codec.decode(ids) + "\n"


def run(capsys, *arguments) -> tuple[int, str, str]:
    forget_modules()
    status = generate.main([str(argument) for argument in arguments])
    return status, *capsys.readouterr()


# Text


def stream_bytes(text: bytes, decode) -> list[str]:
    """What is written when the bytes come one at a time, each a token."""
    writes = []

    class Out(io.StringIO):
        def write(self, piece):
            writes.append(piece)

    stream = generate.TextPrinter(decode, Out())
    for byte in text:
        stream.put(torch.tensor([byte]))
    stream.end()
    return writes


def test_a_character_of_several_bytes_is_written_whole():
    """No write holds a part of one; together they are the text."""
    text = "naïve 漢字 🙂🇩🇪 e\u0301."
    writes = stream_bytes(text.encode(), lambda ids: bytes(ids).decode(errors="replace"))
    assert "".join(writes) == text + "\n" and not any("\ufffd" in piece for piece in writes)
    assert {"ï", "漢", "🙂"} <= set(writes)  # and none is kept until the end


def test_bytes_that_are_no_character_are_shown_as_such():
    """Where text follows they are final; at the end they are all that there will be."""
    writes = stream_bytes(b"a\xe6\xbcb\xe6", lambda ids: bytes(ids).decode(errors="replace"))
    assert "".join(writes) == "a\ufffdb\ufffd\n" and writes[-1] == "\ufffd\n"


def test_what_is_written_stays_when_decoding_changes_its_mind():
    """A decoder that takes a run of bytes as a whole spoils it while its end is missing."""

    def decode(ids):
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(ids)

    writes = stream_bytes("é漢é".encode(), decode)
    assert "".join(writes) == "é漢é\n" and "é" in writes


@pytest.mark.parametrize(
    "prompt", ["", " two  blanks ", "naïve 漢字 <s> </s>", "The\nquick\n\n fox"]
)
def test_a_prompt_comes_back_as_it_was(tokenizer, tmp_path, prompt):
    """By the SentencePiece model and by the tokenizer.json made of it; the ids are the same."""
    codec = generate.read_codec(tokenizer)
    assert codec.decode([1, *codec.encode(prompt)]) == prompt and codec.vocab_size == 320
    assert 1 not in codec.encode(prompt)
    pytest.importorskip("transformers", reason="python3 golf.py --with hf test")
    hf_tokenizer.write(tokenizer, tmp_path)
    (tmp_path / "tokenizer.model").unlink()
    other = generate.read_codec(tmp_path)
    assert other.encode(prompt) == codec.encode(prompt) and other.vocab_size == 320
    assert other.decode([1, *codec.encode(prompt)]) == prompt


def test_caseops_is_undone(tmp_path):
    """A tokenizer with its markers is used with it; nobody sees a marker."""
    (tmp_path / "tokenizer.model").write_bytes(tokenizers.train_bpe([TEXT] * 2, 320, True))
    codec = generate.read_codec(tmp_path)
    ids = codec.encode("The USA and iPhone")
    assert codec.decode(ids) == "The USA and iPhone"
    lower = generate.read_codec(tmp_path).encode("the")
    assert codec.encode("The")[1:] == lower


# Models


@pytest.mark.parametrize("system", SMALL)
def test_greedy_text_is_that_of_the_model_alone(system, tokenizer, tmp_path, capsys, own_modules):
    """Checkpoint and folder against a loop without a cache; text alone on standard output."""
    path = checkpoint(tmp_path, system)
    options = ["--prompt", "The fox", "--tokens", 30, "--temperature", 0]
    status, out, err = run(capsys, path, "--tokenizer", tokenizer, *options)
    assert status == 0 and out == greedy(path, tokenizer, "The fox", 30)
    assert out.startswith("The fox") and len(out) > 20
    assert err.count("\n") == 1 and " tokens/s\n" in err


def test_checkpoint_artifact_and_folder_say_the_same(tokenizer, tmp_path, capsys, own_modules):
    """A folder by its own tokenizer, an artifact by the one that its run's settings name."""
    weights, settings = quantize.load_checkpoint(checkpoint(tmp_path, "golf"))
    artifact, folder = tmp_path / "artifact.pgz", tmp_path / "published"
    artifact.write_bytes(quantize.encode(weights, (quantize.PlanRow("*", 16),), settings))
    (tmp_path / "settings.json").write_text(json.dumps({"tokenizer_path": str(tokenizer)}))
    publish.write_folder(artifact, folder, None, tokenizer)
    before = sorted(folder.rglob("*"))
    options = ["--prompt", "", "--tokens", 20, "--seed", 5]
    texts = [run(capsys, source, *options)[1] for source in (artifact, folder)]
    assert texts[0] == texts[1] and sorted(folder.rglob("*")) == before
    greedy_text = run(capsys, artifact, "--prompt", "", "--tokens", 20, "--temperature", 0)[1]
    assert greedy_text == greedy(artifact, tokenizer, "", 20)


def test_foreign_code_of_a_folder_runs_only_when_trusted(tokenizer, tmp_path, capsys, own_modules):
    """Published code as it stands here is ours; one line more and it is named with its hash."""
    folder = tmp_path / "published"
    publish.write_folder(checkpoint(tmp_path, "golf"), folder, None, tokenizer)
    capsys.readouterr()
    code = next(folder.glob("modeling_*.py"))
    ran = tmp_path / "ran"
    code.write_text(code.read_text() + f"\nopen({str(ran)!r}, 'w').close()\n")
    options = ["--prompt", "", "--tokens", 3]
    status, out, err = run(capsys, folder, *options)
    digest = hashlib.sha256(code.read_bytes()).hexdigest()
    assert (status, out, err.count("\n")) == (2, "", 1) and not ran.exists()
    assert f"{code.name} {digest}" in err and "--trust" in err
    assert run(capsys, folder, "--serve")[0] == 2 and not ran.exists()
    assert run(capsys, folder, *options, "--trust")[0] == 0 and ran.exists()


def test_sampling_does_as_it_is_told(tokenizer, tmp_path, capsys, own_modules):
    """A seed fixes the text, another changes it; top-k 1 and a small top-p leave the likeliest."""
    path = checkpoint(tmp_path, "golf")

    def text(*options):
        words = ["--prompt", "fox", "--tokens", 20, "--tokenizer", tokenizer, *options]
        return run(capsys, path, *words)[1]

    likeliest = text("--temperature", 0)
    hot = text("--temperature", 5, "--seed", 1)
    assert hot == text("--temperature", 5, "--seed", 1) != text("--temperature", 5, "--seed", 2)
    assert likeliest == text("--temperature", 5, "--top-k", 1) != hot
    assert likeliest == text("--temperature", 5, "--top-p", 1e-6)
    assert likeliest == text("--temperature", 1e-4, "--seed", 9)


def test_a_text_ends_where_the_next_document_begins(tokenizer, tmp_path, capsys, own_modules):
    """Whatever the config calls the end: documents of our shards have a beginning alone."""
    path, counts = checkpoint(tmp_path, "preln_53m_untied"), []
    saved = torch.load(path)
    for sign in (40, -1):  # of a large row the logit is the largest, with one sign or the other
        saved["model"]["lm_head.weight"][1] *= sign
        torch.save(saved, path)
        options = ["--tokenizer", tokenizer, "--prompt", "fox", "--tokens", 9, "--temperature", 0]
        status, out, err = run(capsys, path, *options)
        assert status == 0 and out == greedy(path, tokenizer, "fox", 9)
        counts.append(err.split()[0])
    assert sorted(counts) == ["1", "9"]


def test_the_usual_end_is_text_in_another_vocabulary(tmp_path, capsys, own_modules):
    """GPT-2's scheme: id 2, where SentencePiece's documents end, is the number sign."""
    path, texts = checkpoint(tmp_path, "gelu_d12"), []
    folder, saved = write_vocabulary(tmp_path / "bytes"), torch.load(path)
    for sign in (40, -1):  # of a large row the logit is the largest, with one sign or the other
        saved["model"]["wte.weight"][2] *= sign
        torch.save(saved, path)
        options = ["--tokenizer", folder, "--prompt", "fox", "--tokens", 9, "--temperature", 0]
        status, out, err = run(capsys, path, *options)
        assert status == 0 and err.startswith("9 tokens")
        texts.append(out)
    assert "fox" + "#" * 9 + "\n" in texts


def test_a_row_of_no_token_is_never_chosen(tokenizer, tmp_path, capsys, own_modules):
    """The model has 340 rows, the tokenizer 320 pieces: another id would have no text."""
    path = checkpoint(tmp_path, "golf")
    saved = torch.load(path)
    saved["model"]["tok_emb.weight"][320:] *= 100  # the likeliest by far, or the least likely
    torch.save(saved, path)
    options = ["--tokenizer", tokenizer, "--prompt", "fox", "--tokens", 20, "--temperature", 3]
    assert run(capsys, path, *options)[0] == 0


def test_a_smaller_vocabulary_has_its_own_beginning(tmp_path, capsys, monkeypatch, own_modules):
    """GPT-2's scheme with 257 tokens: the last begins documents; where none does, it is said."""
    folder = write_vocabulary(tmp_path / "bytes")
    options = ["--prompt", "fox", "--tokens", 5, "--tokenizer", folder]
    path, codec = checkpoint(tmp_path, "gpt2_124m"), generate.read_codec(folder)
    assert codec.bos_id == 256 and run(capsys, path, *options)[0] == 0
    unmarked = dataclasses.replace(codec, bos_id=None)
    monkeypatch.setattr(generate, "read_codec", lambda source: unmarked)
    status, _, err = run(capsys, path, *options)
    assert status == 2 and "says which of 340 tokens begins a document" in err


def test_text_longer_than_the_context(tokenizer, tmp_path, capsys, own_modules):
    """Where positions end it is refused before a word is written; else it goes on, with a note."""
    options = ["--tokenizer", tokenizer, "--prompt", "fox " * 10, "--temperature", 0, "--tokens"]
    path = checkpoint(tmp_path, "preln_53m")
    status, out, err = run(capsys, path, *options, 60)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "the model has positions for 64" in err
    path = checkpoint(tmp_path, "golf")
    status, out, err = run(capsys, path, *options, 60)
    assert status == 0 and out == greedy(path, tokenizer, "fox " * 10, 60)
    assert "the model saw no more than 64" in err


# Errors


@pytest.mark.parametrize(
    "options, message",
    [
        (["--tokens", 0], "--tokens 0 must be at least 1"),
        (["--temperature", "nan"], "--temperature nan must be a number, 0 or more"),
        (["--top-k", -1], "--top-k -1 must be at least 0"),
        (["--top-p", 0], "--top-p 0.0 must be above 0 and at most 1"),
        (["--seed", -1], "--seed -1 must be at least 0"),
        (["--tokenizer", "absent"], "no tokenizer at absent"),
        ([], "no settings.json of a run is beside it; name one with --tokenizer"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path, capsys, monkeypatch, options, message):
    """Status 2, nothing on standard output; no library of Hugging Face's is needed to say so."""
    monkeypatch.setattr(generate, "find_spec", lambda name: True)
    path = checkpoint(tmp_path, "golf")
    status, out, err = run(capsys, path, "--prompt", "x", *options)
    assert (status, out, err.count("\n")) == (2, "", 1) and message in err


def test_a_tokenizer_that_is_gone_is_named(tmp_path, capsys, monkeypatch):
    """settings.json was written elsewhere, or the run was moved."""
    monkeypatch.setattr(generate, "find_spec", lambda name: True)
    path = checkpoint(tmp_path, "golf")
    (tmp_path / "settings.json").write_text(json.dumps({"tokenizer_path": "gone.model"}))
    status, _, err = run(capsys, path, "--prompt", "x")
    assert status == 2 and "its run's is not at gone.model; name one with --tokenizer" in err


def test_the_extra_is_named_where_it_is_not_installed(tmp_path, capsys, monkeypatch):
    """The command that installs it is the one to type."""
    monkeypatch.setattr(generate, "find_spec", lambda name: None)
    status, out, err = run(capsys, tmp_path, "--prompt", "x")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "generating needs: python3 golf.py generate" in err


def test_models_and_folders_that_do_not_fit_are_refused(tokenizer, tmp_path, capsys, own_modules):
    """Another type, fewer rows than the tokenizer has tokens, weights that are none, no file."""
    options = ["--prompt", "x", "--tokenizer", tokenizer]
    other, empty = tmp_path / "other", tmp_path / "empty"
    other.mkdir()
    empty.mkdir()
    (other / "config.json").write_text('{"model_type": "bert"}')
    path, spoilt = checkpoint(tmp_path, "golf"), tmp_path / "spoilt"
    publish.write_folder(path, spoilt, None, None)
    capsys.readouterr()  # it tells that the folder has no tokenizer
    (spoilt / "model.safetensors").write_bytes(b"no weights")
    large = tmp_path / "large.model"
    large.write_bytes(tokenizers.train_bpe([TEXT.replace(".", c * 9) for c in "abcdef"], 345))
    for source, words, message in (
        (other, options, "is of the type 'bert'; it must be one of gelu_gpt, golf_gpt"),
        (empty, options, "config.json"),
        (spoilt, options, "spoilt could not be loaded"),
        (tmp_path / "absent", options, "absent"),
        (empty, options[:2], "holds no tokenizer; give"),
        (path, [*options[:2], "--tokenizer", large], "has 345 tokens, the model only 340"),
    ):
        status, out, err = run(capsys, source, *words)
        assert (status, out, err.count("\n")) == (2, "", 1) and message in err


def test_a_stopped_text_ends_its_line(tmp_path, capsys, monkeypatch):
    """Ctrl-C is no error: what was written stays."""

    def interrupted(*arguments):
        print("half a", end="")
        raise KeyboardInterrupt

    monkeypatch.setattr(generate, "generate", interrupted)
    assert run(capsys, tmp_path, "--prompt", "x") == (130, "half a\n", "")
