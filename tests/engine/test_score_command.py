"""The command line of evaluate.py: what it scores, plans and prints, what it refuses."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import torch
from torch import nn

import evaluate
import quantize
import train_gpt
from baselines.sgd_adapter import sgd_adapter
from engine import log_lines, score_command
from engine.open_model import Opened, open_model
from engine.ranks import Ranks
from engine.shards import write_shard
from evaluate import BOS_ID, ByteTable, Scheme
from tests.engine.test_memory import Remembering
from tests.scoring_texts import HOSTILE, encode
from tests.test_evaluate import (
    ISOLATED,
    ONE_PASS,
    SCHEME,
    VOCAB,
    Causal,
    low_rank,
    stream,
    table_of,
)

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


# Modes and plans


def test_a_plan_of_one_pass_counts_what_is_read():
    """Forward tokens are those that the model gets; a layer's context grows up to the window."""
    tokens_T = np.array([BOS_ID, *range(2, 32), BOS_ID, 5, 6, BOS_ID])
    inputs = []

    class Counting(Remembering):
        def logits_at(self, tokens_BT, place_S, memory):
            inputs.append(tokens_BT.numel())
            return super().logits_at(tokens_BT, place_S, memory)

    plan = score_command.plan_of(tokens_T, ONE_PASS, table_of())
    evaluate.score_documents(Counting(), None, tokens_T, table_of(), ONE_PASS)
    assert plan.forward_tokens == sum(inputs) == 2 * 4 + 6 * 4 + 3  # chunks of a quarter window
    assert plan.targets == 34
    contexts = [min(i + 1, 16) for i in range(31)] + [1, 2, 3]
    assert plan.context_min == 1
    assert plan.context_median == int(np.median(contexts))


def test_a_plan_of_one_pass_says_what_its_adapter_costs():
    """In forward passes of the model without one; nothing is learned, and nothing is left."""
    lines = []
    model = Remembering()
    tokens_T = np.random.default_rng(26).integers(2, VOCAB, 200)
    tokens_T[::50] = BOS_ID
    text = (tokens_T, table_of(), ONE_PASS, Ranks(), lines.append)
    for adapter in (None, low_rank(model, chunk=2)):
        score_command.log_plan(model, *text, adapter)
    plain, learning = map(log_lines.PLAN.read, lines)
    assert plain["mode"] == "one_pass"
    assert plain["equivalents"] == plain["passes"]
    # A backward pass without gradients of the weights, down to the first matrix that is adapted,
    # is nearly another forward pass.
    assert 1.5 * plain["passes"] < learning["equivalents"] < 2.5 * plain["passes"]
    assert plain["seconds"] >= 0


def test_a_score_in_one_pass_is_logged_with_and_without_its_adapter():
    """score_by_modes takes either kind of adapter, each with its schemes only."""
    lines = []
    model = Remembering()
    tokens_T = stream(200, seed=24)
    result = score_command.score_by_modes(
        model, tokens_T, table_of(), ONE_PASS, adapter=low_rank(model), log=lines.append
    )
    plain = evaluate.score_documents(model, None, tokens_T, table_of(), ONE_PASS)
    ttt = evaluate.score_documents(model, low_rank(model), tokens_T, table_of(), ONE_PASS)
    assert result["one_pass"]["val_bpb_partial"] == plain.bpb
    assert result["ttt"] == result["final"]
    assert result["ttt"]["val_bpb_partial"] == ttt.bpb != plain.bpb
    assert "score mode:one_pass stride:0 isolate:1" in lines[0]
    assert "chunks" not in result
    with pytest.raises(ValueError, match="stride=4 does not fit .*; score with stride 0"):
        score_command.score_by_modes(model, tokens_T, table_of(), ISOLATED, adapter=low_rank(model))
    stream_adapter = sgd_adapter(Causal(), seq_len=16)
    with pytest.raises(ValueError, match="stride=0 does not fit .*; score with a stride of 1 or"):
        score_command.score_by_modes(model, tokens_T, table_of(), ONE_PASS, adapter=stream_adapter)


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("stride", [3, 16])
def test_a_plan_counts_contexts_as_a_loop_over_targets_does(stride, isolate):
    """Least and median number of inputs that a target is predicted from."""
    tokens_T = stream(120, seed=2)
    scheme = Scheme(16, stride, isolate)
    contexts = []
    for start, first, end in evaluate.plan_windows(tokens_T, scheme):
        contexts += [target - start + 1 for target in range(first, end)]
    plan = score_command.plan_of(tokens_T, scheme, table_of())
    assert plan.targets == len(contexts) == 119
    assert plan.context_min == min(contexts)
    assert plan.context_median == sorted(contexts)[(len(contexts) - 1) // 2]
    assert plan.forward_tokens >= plan.targets


def test_modes_write_lines_that_read_back():
    """The lines are those of engine.log_lines, with the values that are returned."""
    lines = []
    table = table_of()
    result = score_command.score_by_modes(
        Causal(), stream(200), table, SCHEME, blocks=True, log=lines.append
    )
    kinds = [log_lines.SCORE, log_lines.SCORE, log_lines.UNIGRAM, log_lines.FINAL]
    blocks, sliding, unigram, final = [
        kind.read(line) for kind, line in zip(kinds, lines, strict=True)
    ]
    assert [blocks["mode"], sliding["mode"]] == ["blocks", "sliding"]
    assert [blocks["stride"], sliding["stride"]] == [16, 4]
    assert sliding["bpb"] == pytest.approx(result["sliding"]["val_bpb_partial"], abs=1e-8)
    assert sliding["eval_ms"] == result["sliding"]["eval_time_ms"]
    assert unigram["bpb"] == pytest.approx(result["unigram"]["val_bpb_partial"], abs=1e-8)
    assert final.items() <= sliding.items()


@pytest.mark.parametrize("chunk_tokens", [0, 32])
@pytest.mark.parametrize("stride", [4, 16])
def test_a_score_with_ttt_tells_its_gain_by_place(stride, chunk_tokens, monkeypatch):
    """Targets, bytes and nats of each chunk, before and after, add up to the scores."""
    monkeypatch.setattr(score_command, "CHUNK_TOKENS", 32)  # taken where the scheme names none
    tokens_T = stream(100, seed=5)
    table = table_of()
    scheme = replace(SCHEME, stride=stride, chunk_tokens=chunk_tokens)
    model = Causal()
    adapt = sgd_adapter(model, seq_len=16)
    result = score_command.score_by_modes(model, tokens_T, table, scheme, adapter=adapt, log=str)
    chunks = result["chunks"]
    plain = result["blocks" if stride == 16 else "sliding"]
    assert chunks["targets"] == [32, 32, 32, 3]
    assert sum(chunks["bytes"]) == table.total(tokens_T) == result["bytes"]
    assert sum(chunks["before"]) == pytest.approx(plain["val_loss"] * 99)
    assert sum(chunks["after"]) == pytest.approx(result["ttt"]["val_loss"] * 99)
    assert chunks["before"][0] == chunks["after"][0]
    assert chunks["before"] != chunks["after"]
    fixed = score_command.score_by_modes(Causal(), tokens_T, table, scheme, log=str)
    assert "chunks" not in fixed
