"""The command line of evaluate.py: what it scores, what it prints, what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import sentencepiece
import torch
from torch import nn

import quantize
import train_gpt
from engine import log_lines, score_command
from engine.open_model import Opened, open_model
from engine.ranks import Ranks
from engine.shards import write_shard
from evaluate import ByteTable
from tests.scoring_texts import HOSTILE, encode

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def artifact(tokenizers) -> bytes:
    """An untrained model of the root recipe, small and packed."""
    tokenizer = sentencepiece.SentencePieceProcessor(model_file=str(tokenizers["keep"]))
    model_settings = {
        "vocab_size": tokenizer.vocab_size(),
        "num_layers": 3,
        "model_dim": 16,
        "num_heads": 2,
        "num_kv_heads": 1,
        "mlp_mult": 1,
        "rope_dims": 4,
        "rope_base": 10_000.0,
        "logit_softcap": 30.0,
        "pair_rows": 32,
        "pair_dim": 4,
        "train_seq_len": 32,
    }
    model = train_gpt.RECIPE.model(model_settings, torch.float32)
    model.init_weights(seed=0)
    # A new model prefers no token, and its attention adds nothing: every way of scoring would
    # agree. Random numbers make it prefer some tokens by their context.
    rng = torch.Generator().manual_seed(0)
    for matrix in (model.tok_emb, *(block.attn.proj for block in model.blocks)):
        nn.init.normal_(matrix.weight, generator=rng)
    weights = model.state_dict()
    saved = {"recipe": "train_gpt", **model_settings}
    return quantize.encode(weights, quantize.int8_plan(weights), saved)


@pytest.fixture
def run_folder(tmp_path, tokenizers, artifact) -> Path:
    """What a finished run leaves behind, as far as scoring is concerned."""
    _, tokens_T, _, _ = encode(tokenizers["keep"], HOSTILE * 4)
    write_shard(tmp_path / "toy_val_000000.bin", tokens_T)
    folder = tmp_path / "logs" / "run"
    folder.mkdir(parents=True)
    (folder / "artifact.pgz").write_bytes(artifact)
    saved = {"data_path": str(tmp_path), "tokenizer_path": str(tokenizers["keep"])}
    saved |= {"eval_stride": 8, "seed": 1}
    (folder / "settings.json").write_text(json.dumps(saved))
    # The sources in a run's folder are a record. Scoring takes the recipe of this checkout.
    for name in ("train_gpt.py", "evaluate.py", "quantize.py"):
        (folder / name).write_text("raise SystemExit('a file beside the artifact was run')")
    return folder


def run_cli(*arguments) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "evaluate.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT.anchor)


@pytest.fixture
def call_main(capsys, monkeypatch):
    """Run the command line in this process: exit status, standard output and error."""

    def call(*arguments, open_model=open_model) -> tuple[int, str, str]:
        monkeypatch.setattr(score_command, "open_model", open_model)
        status = score_command.main([*map(str, arguments), "--device", "cpu"])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return call


def test_command_line_scores_an_artifact(run_folder, call_main):
    """A fresh process prints the lines, --json one object, and both the same digits.

    Neither runs the code that lies beside the artifact.
    """
    fresh = run_cli(run_folder / "artifact.pgz", "--device", "cpu", "--stream", "--blocks")
    assert fresh.returncode == 0, fresh.stderr
    lines = fresh.stdout.splitlines()
    assert [line[: line.index(" val_loss")] for line in lines] == [
        "score mode:blocks stride:32 isolate:0",
        "score mode:sliding stride:8 isolate:0",
        "unigram",
        "final",
    ]
    flags = ("--stream", "--blocks", "--json")
    status, out, err = call_main(run_folder / "artifact.pgz", *flags)
    assert status == 0, err
    assert len(out.splitlines()) == 1
    result = json.loads(out)
    sliding = result["sliding"]
    digits = f"val_loss:{sliding['val_loss']:.8f} val_bpb_partial:{sliding['val_bpb_partial']:.8f}"
    assert f"final {digits} targets:{result['targets']} bytes:{result['bytes']} " in lines[-1]
    assert result["final"] == sliding
    assert sliding["val_bpb_partial"] != result["blocks"]["val_bpb_partial"]
    assert [line.split()[0] for line in err.splitlines()] == ["score"] * 2 + ["unigram", "final"]


def test_command_line_learns_from_documents_while_it_scores(run_folder, call_main):
    """With --ttt each document is read once without adapters, once with them."""
    path = run_folder / "artifact.pgz"
    status, out, err = call_main(path, "--documents", "--stride", 0, "--ttt", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["final"] == result["ttt"] != result["one_pass"]
    status, _, err = call_main(path, "--stream", "--ttt")
    assert status == 2
    assert "does not fit the model's test-time adapter; score with stride 0" in err


def test_json_holds_the_settings_of_the_score(run_folder, call_main):
    """The object names the model, and all that a reader needs to score it again."""
    path = run_folder / "artifact.pgz"
    _, out, _ = call_main(path, "--json", "--documents")
    result = json.loads(out)
    expected = {"artifact": str(path), "seq_len": 32, "stride": 8, "isolate": True, "ttt": False}
    assert {name: result[name] for name in expected} == expected


def test_the_runs_own_scheme_is_the_default(run_folder, call_main):
    """Documents apart where its settings say so; --stream gives the other figure."""
    saved = json.loads((run_folder / "settings.json").read_text())
    settings = saved | {"eval_documents": True}
    (run_folder / "settings.json").write_text(json.dumps(settings))
    _, out, _ = call_main(run_folder)
    assert "score mode:documents stride:8 isolate:1 " in out
    _, out, _ = call_main(run_folder, "--stream")
    assert "score mode:sliding stride:8 isolate:0 " in out


def test_a_plan_says_what_scoring_costs_and_scores_nothing(run_folder, call_main):
    """Forward tokens, context and time; a bad stride is refused before the first pass."""
    status, out, err = call_main(run_folder, "--plan", "--stream")
    assert status == 0, err
    plan = log_lines.PLAN.read(out.strip())
    assert plan["mode"] == "sliding" and plan["passes"] > 3
    assert plan["passes"] == pytest.approx(plan["forward_tokens"] / plan["targets"], abs=0.01)
    _, out, _ = call_main(run_folder, "--plan", "--json")
    assert json.loads(out)["context_min"] == 1
    status, _, err = call_main(run_folder, "--plan", "--stride", 33)
    assert status == 2 and "stride=33 must lie in 0..seq_len=32" in err


def test_command_line_takes_a_runs_folder(run_folder, call_main):
    """A run's folder scores as the artifact in it."""
    results = []
    for path in (run_folder / "artifact.pgz", run_folder):
        _, out, _ = call_main(path, "--json")
        results.append(json.loads(out)["final"]["val_loss"])
    assert results[0] == results[1]


class OwnTable(type(train_gpt.RECIPE)):
    """A recipe that counts bytes in its own way."""

    def byte_table(self, tokenizer_path: str, vocab_size: int) -> ByteTable:
        raise ValueError(f"{vocab_size} of {Path(tokenizer_path).name}, counted by the recipe")


def test_command_line_takes_the_byte_table_of_the_recipe(run_folder, call_main):
    """The recipe builds the table; without a recipe, as of Hugging Face, SentencePiece does."""
    opened = open_model(run_folder / "artifact.pgz")
    size = opened.model_settings["vocab_size"]
    own = replace(opened, recipe=OwnTable())
    status, _, err = call_main("any", open_model=lambda *args, **more: own)
    assert (status, err) == (2, f"error: {size} of keep.model, counted by the recipe\n")
    published = replace(opened, recipe=None)
    status, out, _ = call_main("any", open_model=lambda *args, **more: published)
    assert status == 0
    assert out.splitlines()[-1].startswith("final ")


class Unadapted(type(train_gpt.RECIPE)):
    """A recipe without test-time training."""

    def adapter(self, model, seq_len: int, ranks: Ranks) -> None:
        return None


@pytest.mark.parametrize("recipe", [Unadapted(), None])
def test_ttt_needs_an_adapter(run_folder, call_main, recipe):
    """A recipe without one, and a folder without a recipe, are refused before any score."""
    fixed = replace(open_model(run_folder / "artifact.pgz"), recipe=recipe)
    status, out, err = call_main("any", "--ttt", open_model=lambda *args, **more: fixed)
    assert (status, out) == (2, "")
    assert "artifact.pgz has no test-time adapter; score without it" in err


def test_command_line_trusts_only_when_told(run_folder, call_main):
    """open_model gets the path, the device and --trust, which is off by default."""
    calls = []

    def record(path, device, trust) -> Opened:
        calls.append((path, device, trust))
        return open_model(path, device)

    path = run_folder / "artifact.pgz"
    call_main(path, open_model=record)
    call_main(path, "--trust", open_model=record)
    cpu = torch.device("cpu")
    assert calls == [(path, cpu, False), (path, cpu, True)]


def test_flags_stand_in_for_the_runs_settings(run_folder, call_main, tokenizers, tmp_path):
    """Flags replace the run's settings, and stand in for a missing settings.json."""
    path = run_folder / "artifact.pgz"
    (run_folder / "settings.json").unlink()
    status, out, err = call_main(path)
    assert (status, out) == (2, "")
    assert err == f"error: {path} lies in no run's folder; pass --data\n"
    _, _, err = call_main(path, "--data", tmp_path)
    assert err.endswith("pass --tokenizer\n")

    flags = [path, "--data", tmp_path, "--tokenizer", tokenizers["keep"]]
    finals = {}
    for context, mode in (("--documents", "documents"), ("--stream", "sliding")):
        status, out, _ = call_main(*flags, "--stride", 4, context)
        assert status == 0
        assert f"{mode} stride:4 isolate:{context == '--documents':d} " in out
        finals[context] = out.splitlines()[-1].split()[1]
    assert finals["--documents"] != finals["--stream"]
    status, out, _ = call_main(*flags, "--seq-len", 5, "--stride", 5)
    assert status == 0
    assert "mode:blocks stride:5" in out
    assert "sliding" not in out


def test_a_context_shorter_than_the_runs_stride_is_scored_in_blocks(run_folder, call_main):
    """The run's stride is cut to the context; one that the command names is not."""
    path = run_folder / "artifact.pgz"
    status, out, _ = call_main(path, "--seq-len", 5)
    assert status == 0
    assert "mode:blocks stride:5" in out
    status, _, err = call_main(path, "--seq-len", 5, "--stride", 8)
    assert status == 2
    assert "stride=8 must lie in 0..seq_len=5" in err


def test_command_line_errors_are_one_line_and_exit_2(run_folder, call_main, tokenizers, tmp_path):
    """A missing artifact, no shards, another tokenizer, a damaged shard, a wild stride."""
    artifact = run_folder / "artifact.pgz"
    shard = tmp_path / "toy_val_000000.bin"
    empty = tmp_path / "empty"
    empty.mkdir()
    text = run_folder / "text.pgz"
    text.write_text("{}")
    cases = [
        ([run_folder / "none.pgz"], "none.pgz"),
        ([text], "text.pgz"),
        ([artifact, "--data", empty], "no *_val_*.bin in"),
        ([artifact, "--tokenizer", tokenizers["unknown"]], "pieces, VOCAB_SIZE is"),
        ([artifact, "--tokenizer", shard], "toy_val_000000.bin"),
        ([artifact, "--stride", 33], "stride=33 must lie in 0..seq_len=32"),
        ([artifact, "--stride", 0], "stride=0 reads document by document; isolate them"),
        ([artifact, "--stride", -1], "stride=-1 must lie in 0..seq_len=32"),
        ([artifact, "--seq-len", 0], "must lie in 0..seq_len=0"),
        ([artifact], "bytes do not hold"),
    ]
    for arguments, message in cases:
        if arguments == [artifact]:
            shard.write_bytes(shard.read_bytes()[:-1])
        status, out, err = call_main(*arguments)
        assert (status, out) == (2, ""), arguments
        assert err.startswith("error: ")
        assert message in err
        assert len(err.splitlines()) == 1


@pytest.mark.parametrize("kind", [ValueError, OSError, ImportError, RuntimeError])
def test_an_error_of_several_lines_is_printed_as_one(call_main, kind):
    """Whatever opening a model raises, standard error gets one line."""

    def fail(*args, **more):
        raise kind("nothing\n  in it")

    assert call_main("any", open_model=fail) == (2, "", "error: nothing in it\n")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_without_a_device_is_refused(capsys):
    """The error names the flag, and the value to take instead."""
    assert score_command.main(["any", "--device", "cuda"]) == 2
    assert "--device cuda: there is no CUDA here; use cpu" in capsys.readouterr().err
