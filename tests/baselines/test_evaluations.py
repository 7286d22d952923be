"""Named evaluations: their windows, what they count, and that batches change nothing."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import evaluate
import quantize
from baselines import evaluations, pr334
from baselines.evaluations import EVALUATIONS, Evaluation, score_at, window_starts
from engine.open_model import open_model
from engine.ranks import Ranks
from engine.recipe import Budget, packed_settings
from engine.shards import read_split, write_shard
from tests.baselines.test_adamw import RECIPES
from tests.conftest import MERGES, write_vocabulary
from tests.tiny_runs import tiny_fields

V = 50
RNG = np.random.default_rng(0)
TOKENS = RNG.integers(3, V, size=700).astype(np.uint16)
BYTES = RNG.integers(1, 5, size=700)


def uniform(tokens_BT):
    return torch.zeros(*tokens_BT.shape, V)


def bigram(tokens_BT):
    """Logits that depend on the input token alone, not equal for any two."""
    return torch.sin(torch.outer(tokens_BT.flatten().float(), torch.arange(V) + 1.0)).view(
        *tokens_BT.shape, V
    )


def running(tokens_BT):
    """Logits that depend on the whole window up to here."""
    seen = tokens_BT.float().cumsum(dim=1) % 97
    return torch.cos(seen[..., None] * (torch.arange(V) + 1.0) / 50)


@pytest.mark.parametrize(
    "num_tokens, lengths", [(2049, [1024, 1024]), (1025, [1024]), (2, [1]), (2050, [1024, 1024, 1])]
)
def test_windows_score_every_token_but_the_first_once(num_tokens, lengths):
    """F2: from 0, 1024, ...; the last may be short; none is begun for inputs without a target."""
    starts = window_starts(EVALUATIONS["wikitext103"], num_tokens)
    assert starts.tolist() == [1024 * i for i in range(len(lengths))]
    ends = np.minimum(starts + 1024, num_tokens - 1)
    assert (ends - starts).tolist() == lengths
    tokens_T = np.full(num_tokens, 5)
    score = score_at(uniform, tokens_T, np.ones(num_tokens), starts, 1024, V)
    assert score.tokens == sum(lengths) == num_tokens - 1


def test_a_uniform_model_scores_the_log_of_the_vocabulary():
    """F1: ln V and perplexity V; targets that are EOS do not count, the first token neither."""
    tokens_T = TOKENS.copy()
    tokens_T[[0, 5, 64, 699]] = 2  # EOS, one as the first token and one as the last
    starts = window_starts(Evaluation(64), 700)
    score = score_at(uniform, tokens_T, BYTES, starts, 64, V, skipped_id=2)
    assert score.tokens == 700 - 1 - 3
    assert score.loss == pytest.approx(math.log(V), rel=1e-6)
    assert math.exp(score.loss) == pytest.approx(V, rel=1e-5)
    unskipped = score_at(uniform, tokens_T, BYTES, starts, 64, V)
    assert unskipped.tokens == 699 and unskipped.bytes == BYTES[1:].sum()
    assert unskipped.bytes - score.bytes == BYTES[[5, 64, 699]].sum()
    with pytest.raises(ValueError, match="every target is 7"):
        score_at(uniform, np.full(9, 7), BYTES, window_starts(Evaluation(4), 9), 4, V, skipped_id=7)


def test_no_context_is_carried():
    """A window's first prediction sees one token: against a loop over single windows."""
    starts, nats = window_starts(Evaluation(64), 700), 0.0
    for start in range(0, 699, 64):
        part = torch.from_numpy(TOKENS[start : start + 65].astype(np.int64))
        logp = running(part[None, :-1])[0].log_softmax(-1)
        nats -= logp[torch.arange(len(part) - 1), part[1:]].double().sum().item()
    assert score_at(running, TOKENS, BYTES, starts, 64, V).nats == pytest.approx(nats, rel=1e-6)


def test_batches_change_nothing():
    """F3: batched is one by one, also where the last window is short; batches keep the limit."""
    starts, rows = window_starts(Evaluation(64), 700), []

    def counted(tokens_BT):
        rows.append(len(tokens_BT))
        return running(tokens_BT)

    one = score_at(counted, TOKENS, BYTES, starts, 64, V, batch_tokens=1)
    for batch_tokens in (192, 64 * 1000):
        many = score_at(counted, TOKENS, BYTES, starts, 64, V, batch_tokens=batch_tokens)
        assert many.nats == pytest.approx(one.nats, rel=1e-6)
        assert (many.tokens, many.bytes) == (one.tokens, one.bytes)
    assert rows == [1] * 11 + [3, 3, 3, 2] + [11]


def test_bits_per_byte_are_nats_over_ln_2_and_bytes():
    """F4: of all targets, the first token's bytes left out."""
    score = score_at(bigram, TOKENS, BYTES, window_starts(Evaluation(64), 700), 64, V)
    assert score.bpb == pytest.approx(score.nats / (math.log(2) * BYTES[1:].sum()), rel=1e-12)


@pytest.mark.parametrize("loss, perplexity", [(3.840, 46.53), (3.677, 39.53)])
def test_the_published_pairs(tmp_path, toy, capsys, monkeypatch, loss, perplexity):
    """F5: what is printed for the cards' losses is the perplexity that they have."""
    folder = write_run(tmp_path / "run", toy, "preln_53m")
    score = evaluate.Score(nats=loss * 1000, tokens=1000, bytes=2500)
    monkeypatch.setattr(evaluations, "score_at", lambda *args: score)
    arguments = ["--tokens", str(toy / "datasets/toy_sp1024"), "--seq-len", "64", "--json"]
    assert evaluations.main(["wikitext103", str(folder), *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert round(figures["perplexity"], 2) == perplexity and figures["loss"] == pytest.approx(loss)
    assert (figures["nats"], figures["targets"], figures["bytes"]) == (loss * 1000, 1000, 2500)
    assert figures["bpb"] == pytest.approx(loss / math.log(2) / 2.5)


def test_gpt2_takes_the_first_batches_in_order():
    """20 x 64 x 1,024 targets of the stream's front; fewer tokens are refused."""
    starts = window_starts(EVALUATIONS["gpt2_val"], 1_310_721)
    assert starts.tolist() == list(range(0, 1_310_720, 1024)) and len(starts) == 20 * 64
    with pytest.raises(ValueError, match="1310720 tokens must be 1310721 at least"):
        window_starts(EVALUATIONS["gpt2_val"], 1_310_720)
    small = Evaluation(8, rows=2, batches=3)
    score = score_at(bigram, TOKENS, BYTES, window_starts(small, 700), 8, V)
    front = score_at(bigram, TOKENS[:49], BYTES[:49], window_starts(Evaluation(8), 49), 8, V)
    assert score.tokens == 48 and score.nats == pytest.approx(front.nats, rel=1e-6)


def test_random_batches_are_seeded_and_whole():
    """50 x 12 windows of 512 whole targets, the last place among them; one set a seed."""
    evaluation = EVALUATIONS["preln_val"]
    starts = window_starts(evaluation, 520, seed=3)
    assert len(starts) == 600 and set(starts.tolist()) == set(range(8))  # 7 + 513 = 520
    assert np.array_equal(starts, window_starts(evaluation, 520, seed=3))
    assert not np.array_equal(starts, window_starts(evaluation, 520, seed=4))
    score = score_at(uniform, TOKENS, BYTES, window_starts(evaluation, 700), 512, V)
    assert score.tokens == 50 * 12 * 512
    with pytest.raises(ValueError, match="512 tokens must be 513 at least"):
        window_starts(evaluation, 512)


def test_wrong_tokens_and_logits_are_refused():
    """By value and remedy."""
    starts = window_starts(Evaluation(64), 700)
    with pytest.raises(ValueError, match="token 49 must be below vocab_size=40"):
        score_at(uniform, np.full(700, 49), BYTES, starts, 64, 40)
    with pytest.raises(ValueError, match=r"logits of shape \(11, 64, 50\) must be \(11, 64, 60\)"):
        score_at(uniform, TOKENS, BYTES, starts, 64, 60)
    with pytest.raises(ValueError, match="is nan; train again"):
        score_at(lambda x: uniform(x) * math.nan, TOKENS, BYTES, starts, 64, V)


def write_run(folder: Path, toy: Path, system: str, **changes) -> Path:
    """A finished run's artifact, checkpoint and settings, with random weights."""
    folder.mkdir()
    recipe = {"pr334": pr334.RECIPE, **RECIPES}[system]
    fields = {**recipe.presets.get("smoke", {}), **tiny_fields(recipe)}
    fields |= dict(train_seq_len=64, train_batch_tokens=64, micro_batch_tokens=64, eval_stride=64)
    fields |= dict(data_path="", tokenizer_path=str(toy / "tokenizers/toy_1024_bpe.model"))
    settings = recipe.Settings(**{**fields, **changes})
    own = packed_settings(recipe, settings)
    model = recipe.model(recipe.model_settings(settings), torch.float32).init_weights(0)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    blob = recipe.pack(weights, own, Budget(1e9), lambda: quantize.flat_hessians(weights))
    quantize.write_atomic(folder / "artifact.pgz", blob)
    exported = {name: w.clone() for name, w in quantize.decode(blob)[0].items()}
    checkpoint = {"model": weights, "averages": {"ema": exported}, "exported": "ema"}
    torch.save(checkpoint | {"model_settings": own}, folder / "checkpoint.pt")
    saved = dataclasses.asdict(settings) | {"preset": system, "recipe": recipe.name}
    (folder / "settings.json").write_text(json.dumps(saved))
    return folder


@pytest.mark.parametrize("system", ["pr334", "gelu_d12", "gpt2_124m", "preln_53m"])
def test_runs_of_every_kind_are_scored(tmp_path, toy, capsys, system):
    """A folder or an artifact; in blocks of the run's own length it is evaluate.py's score."""
    folder = write_run(tmp_path / "run", toy, system)
    tokens_T = np.array(read_split(toy / "datasets/toy_sp1024", "val"))[:1000]
    write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    arguments = ["--tokens", str(tmp_path), "--seq-len", "64", "--json"]
    assert evaluations.main(["wikitext103", str(folder), *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["evaluation"] == "wikitext103@64"
    assert figures["recipe"] == f"baselines.{system}"
    model = open_model(folder).model
    table = evaluate.ByteTable.from_sentencepiece(toy / "tokenizers/toy_1024_bpe.model", 1024)
    scheme = evaluate.Scheme(seq_len=64, stride=64)
    expected = evaluate.score_windows(model, tokens_T, table, scheme, Ranks())
    assert figures["nats"] == pytest.approx(expected.nats, rel=1e-5)
    assert (figures["targets"], figures["bytes"]) == (expected.tokens, expected.bytes)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["loss"]))
    assert figures["file"] == str(folder / "artifact.pgz")
    assert evaluations.main(["wikitext103", str(folder / "checkpoint.pt"), *arguments]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == figures | {"file": str(folder / "checkpoint.pt")}  # the weights it exports


def test_a_recipe_has_its_own_evaluation(tmp_path, toy, capsys):
    """Named by the run's settings, on the run's text; a run of pr334 has none."""
    text = {"data_path": str(toy / "datasets/toy_sp1024")}
    own = {"val_evaluation": "preln_val"}
    folder = write_run(tmp_path / "run", toy, "preln_53m", **text, **own)
    assert evaluations.main(["recipe", str(folder), "--seq-len", "64", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["evaluation"] == "preln_val@64" and figures["targets"] == 50 * 12 * 64
    arguments = [
        "preln_val",
        str(folder),
        "--seq-len",
        "64",
        "--json",
        "--tokens",
        text["data_path"],
    ]
    assert evaluations.main(arguments) == 0 and json.loads(capsys.readouterr().out) == figures
    saved = json.loads((folder / "settings.json").read_text())
    saved["val_protocol"] = saved.pop("val_evaluation")  # its name in older runs
    (folder / "settings.json").write_text(json.dumps(saved))
    assert evaluations.main(["recipe", str(folder), "--seq-len", "64", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == figures
    other = write_run(tmp_path / "other", toy, "pr334")
    assert evaluations.main(["recipe", str(other)]) == 2
    assert (
        "is of no recipe with an evaluation; name one of wikitext103, " in capsys.readouterr().err
    )
    assert evaluations.main(["wikitext103", str(other / "artifact.pgz"), "--seq-len", "64"]) == 2
    unknown = write_run(tmp_path / "unknown", toy, "gpt2_124m", val_evaluation="none")
    assert evaluations.main(["recipe", str(unknown)]) == 2
    assert "VAL_EVALUATION=none of" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["SentencePiece", "GPT-2"])
def test_the_end_of_a_text_is_no_target_of_wikitext(tmp_path, toy, capsys, kind):
    """EOS is 2 of a model and <|endoftext|> of GPT-2; the other evaluations score it."""
    V, end, changes = 1024, 2, {}
    if kind == "GPT-2":
        folder = write_vocabulary(tmp_path / "bpe", MERGES)
        V = 257 + len(MERGES)
        end, changes = V - 1, {"vocab_size": V, "tokenizer_path": str(folder)}
    folder = write_run(tmp_path / "run", toy, "gpt2_124m", **changes)
    tokens_T = RNG.integers(5, 200, size=1000)
    tokens_T[[0, 7, 500, 999]] = end
    tokens_T[[3, 4]] = 2
    write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    arguments = [str(folder), "--tokens", str(tmp_path), "--seq-len", "64", "--json"]
    assert evaluations.main(["wikitext103", *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["targets"] == 999 - (tokens_T[1:] == end).sum() and figures["skipped_id"] == end
    assert evaluations.main(["preln_val", *arguments]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["targets"] == 50 * 12 * 64 and figures["skipped_id"] is None


def test_a_refusal_is_one_line(tmp_path, toy, capsys):
    """Status 2 and one line: no artifact, no tokens, no tokenizer, too long for its positions."""
    folder = write_run(tmp_path / "run", toy, "gpt2_124m")
    shards = str(toy / "datasets/toy_sp1024")
    assert evaluations.main(["gpt2_val", str(tmp_path), "--tokens", shards]) == 2
    assert evaluations.main(["preln_val", str(folder), "--tokens", shards]) == 2
    short = ["preln_val", str(folder), "--seq-len"]
    assert evaluations.main([*short, "64", "--tokens", str(tmp_path)]) == 2
    assert evaluations.main([*short, "0", "--tokens", shards]) == 2
    assert evaluations.main([*short, "64", "--tokens", shards, "--seed", "-1"]) == 2
    assert evaluations.main([*short, "64", "--tokens", shards, "--device", "none"]) == 2
    if no_cuda := not torch.cuda.is_available():
        assert evaluations.main([*short, "64", "--tokens", shards, "--device", "cuda"]) == 2
    (folder / "settings.json").unlink()
    assert evaluations.main(["preln_val", str(folder), "--tokens", shards]) == 2
    torch.save({"model": {}, "model_settings": {"layers": 3}}, folder / "other.pt")
    assert evaluations.main(["preln_val", str(folder / "other.pt"), "--tokens", shards]) == 2
    (folder / "other.pt").write_text("text")
    assert evaluations.main(["preln_val", str(folder / "other.pt"), "--tokens", shards]) == 2
    errors = capsys.readouterr().err
    assert errors.count("baselines.evaluations: ") == errors.count("\n") == 9 + no_cuda
    assert (
        "checkpoint.pt is missing; give a run" in errors
        and "--seed -1 must be at least 0" in errors
    )
    assert "64 positions, not the 512 of preln_val; set --seq-len 64" in errors
    assert "its settings name no recipe" in errors and "is not a checkpoint that loads" in errors
    assert (
        "no *_val_*.bin" in errors
        and "--seq-len 0" in errors
        and "name it with --tokenizer" in errors
    )


def test_a_sidecar_is_what_counts(tmp_path, toy):
    """Bytes beside the shard, not the table; one of another length is refused."""
    table = evaluate.ByteTable.from_sentencepiece(toy / "tokenizers/toy_1024_bpe.model", 1024)
    shard = tmp_path / "x_val_000000.bin"
    write_shard(shard, TOKENS)
    assert evaluations.read_tokens([shard], table)[1].sum() != 700
    write_shard(tmp_path / "x_val_000000.bytes.bin", np.ones(700, int))
    assert evaluations.read_tokens([tmp_path], table)[1].sum() == 700
    write_shard(tmp_path / "x_val_000000.bytes.bin", np.ones(699, int))
    with pytest.raises(ValueError, match="699 entries for 700 tokens"):
        evaluations.read_tokens([shard], table)
