"""Named protocols: their windows, what they count, and that batches change nothing."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

import evaluate
import quantize
import train_gpt
from baselines import evaluations, train
from baselines.evaluations import PROTOCOLS, Protocol, plan, score
from tests.conftest import MERGES, write_vocabulary

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
    starts = plan(PROTOCOLS["wikitext103"], num_tokens)
    assert starts.tolist() == [1024 * i for i in range(len(lengths))]
    ends = np.minimum(starts + 1024, num_tokens - 1)
    assert (ends - starts).tolist() == lengths
    tokens_T = np.full(num_tokens, 5)
    found = score(uniform, tokens_T, np.ones(num_tokens), starts, 1024, V)
    assert found.tokens == sum(lengths) == num_tokens - 1


def test_a_uniform_model_scores_the_log_of_the_vocabulary():
    """F1: ln V and perplexity V; targets that are EOS do not count, the first token neither."""
    tokens_T = TOKENS.copy()
    tokens_T[[0, 5, 64, 699]] = 2  # EOS, one as the first token and one as the last
    starts = plan(Protocol(64), 700)
    found = score(uniform, tokens_T, BYTES, starts, 64, V, skipped_id=2)
    assert found.tokens == 700 - 1 - 3
    assert found.loss == pytest.approx(math.log(V), rel=1e-6)
    assert math.exp(found.loss) == pytest.approx(V, rel=1e-5)
    whole = score(uniform, tokens_T, BYTES, starts, 64, V)
    assert whole.tokens == 699 and whole.bytes == BYTES[1:].sum()
    assert whole.bytes - found.bytes == BYTES[[5, 64, 699]].sum()
    with pytest.raises(ValueError, match="every target is 7"):
        score(uniform, np.full(9, 7), BYTES, plan(Protocol(4), 9), 4, V, skipped_id=7)


def test_no_context_is_carried():
    """A window's first prediction sees one token: against a loop over single windows."""
    starts, nats = plan(Protocol(64), 700), 0.0
    for start in range(0, 699, 64):
        part = torch.from_numpy(TOKENS[start : start + 65].astype(np.int64))
        logp = running(part[None, :-1])[0].log_softmax(-1)
        nats -= logp[torch.arange(len(part) - 1), part[1:]].double().sum().item()
    assert score(running, TOKENS, BYTES, starts, 64, V).nats == pytest.approx(nats, rel=1e-6)


def test_batches_change_nothing():
    """F3: batched is one by one, also where the last window is short; batches keep the limit."""
    starts, rows = plan(Protocol(64), 700), []

    def counted(tokens_BT):
        rows.append(len(tokens_BT))
        return running(tokens_BT)

    one = score(counted, TOKENS, BYTES, starts, 64, V, batch_tokens=1)
    for batch_tokens in (192, 64 * 1000):
        many = score(counted, TOKENS, BYTES, starts, 64, V, batch_tokens=batch_tokens)
        assert many.nats == pytest.approx(one.nats, rel=1e-6)
        assert (many.tokens, many.bytes) == (one.tokens, one.bytes)
    assert rows == [1] * 11 + [3, 3, 3, 2] + [11]


def test_bits_per_byte_are_nats_over_ln_2_and_bytes():
    """F4: of all targets, the first token's bytes left out."""
    found = score(bigram, TOKENS, BYTES, plan(Protocol(64), 700), 64, V)
    assert found.bpb == pytest.approx(found.nats / (math.log(2) * BYTES[1:].sum()), rel=1e-12)


@pytest.mark.parametrize("loss, perplexity", [(3.840, 46.53), (3.677, 39.53)])
def test_the_published_pairs(tmp_path, toy, capsys, monkeypatch, loss, perplexity):
    """F5: what is printed for the cards' losses is the perplexity that they have."""
    folder = write_run(tmp_path / "run", toy, "preln_53m")
    found = evaluate.Score(nats=loss * 1000, tokens=1000, bytes=2500)
    monkeypatch.setattr(evaluations, "score", lambda *args: found)
    given = ["--tokens", str(toy / "datasets/toy_sp1024"), "--seq-len", "64", "--json"]
    assert evaluations.main(["wikitext103", str(folder), *given]) == 0
    said = json.loads(capsys.readouterr().out)
    assert round(said["perplexity"], 2) == perplexity and said["loss"] == pytest.approx(loss)
    assert (said["nats"], said["targets"], said["bytes"]) == (loss * 1000, 1000, 2500)
    assert said["bpb"] == pytest.approx(loss / math.log(2) / 2.5)


def test_gpt2_takes_the_first_batches_in_order():
    """20 x 64 x 1,024 targets of the stream's front; fewer tokens are refused."""
    starts = plan(PROTOCOLS["gpt2_val"], 1_310_721)
    assert starts.tolist() == list(range(0, 1_310_720, 1024)) and len(starts) == 20 * 64
    with pytest.raises(ValueError, match="1310720 tokens must be 1310721 at least"):
        plan(PROTOCOLS["gpt2_val"], 1_310_720)
    small = Protocol(8, rows=2, batches=3)
    found = score(bigram, TOKENS, BYTES, plan(small, 700), 8, V)
    front = score(bigram, TOKENS[:49], BYTES[:49], plan(Protocol(8), 49), 8, V)
    assert found.tokens == 48 and found.nats == pytest.approx(front.nats, rel=1e-6)


def test_random_batches_are_seeded_and_whole():
    """50 x 12 windows of 512 whole targets, the last place among them; one set a seed."""
    protocol = PROTOCOLS["preln_val"]
    starts = plan(protocol, 520, seed=3)
    assert len(starts) == 600 and set(starts.tolist()) == set(range(8))  # 7 + 513 = 520
    assert np.array_equal(starts, plan(protocol, 520, seed=3))
    assert not np.array_equal(starts, plan(protocol, 520, seed=4))
    found = score(uniform, TOKENS, BYTES, plan(protocol, 700), 512, V)
    assert found.tokens == 50 * 12 * 512
    with pytest.raises(ValueError, match="512 tokens must be 513 at least"):
        plan(protocol, 512)


def test_wrong_tokens_and_logits_are_refused():
    """By value and remedy."""
    starts = plan(Protocol(64), 700)
    with pytest.raises(ValueError, match="token 49 must be below vocab_size=40"):
        score(uniform, np.full(700, 49), BYTES, starts, 64, 40)
    with pytest.raises(ValueError, match=r"logits of shape \(11, 64, 50\) must be \(11, 64, 60\)"):
        score(uniform, TOKENS, BYTES, starts, 64, 60)
    with pytest.raises(ValueError, match="is nan; train again"):
        score(lambda x: uniform(x) * math.nan, TOKENS, BYTES, starts, 64, V)


def write_run(folder, toy, system: str, **changes):
    """A finished run's artifact, checkpoint and settings, with random weights."""
    folder.mkdir()
    sizes = dict(
        vocab_size=1024, num_layers=2, model_dim=32, num_heads=2, train_seq_len=64,
        train_batch_tokens=64, micro_batch_tokens=64, eval_stride=64,
    )  # fmt: skip
    where = dict(data_path="", tokenizer_path=str(toy / "tokenizers/toy_1024_bpe.model")) | changes
    if system == "golf":
        hp = train_gpt.Hyperparameters(**{**train_gpt.PRESETS["smoke"], **(sizes | where)})
        made = train_gpt
    else:
        hp = train.Recipe(**{**train.RECIPES[system], **(sizes | where), "num_kv_heads": 1})
        made = train.system_of(system)
    model = made.GPT(hp, torch.float32).init_weights(0)
    weights = {name: p.detach() for name, p in model.named_parameters()}
    blob = made.pack(weights, hp, 0, lambda: quantize.flat_hessians(weights))
    quantize.write_atomic(folder / "artifact.pgz", blob)
    exported = {name: w.clone() for name, w in quantize.decode(blob)[0].items()}
    checkpoint = {"model": weights, "averages": {"ema": exported}, "exported": "ema"}
    torch.save(checkpoint | {"model_settings": made.model_settings(hp)}, folder / "checkpoint.pt")
    (folder / "settings.json").write_text(json.dumps(dataclasses.asdict(hp) | {"preset": system}))
    return folder


@pytest.mark.parametrize("system", ["golf", "gelu_d12", "gpt2_124m", "preln_53m"])
def test_runs_of_every_kind_are_scored(tmp_path, toy, capsys, system):
    """A folder or an artifact; in blocks of the run's own length it is evaluate.py's score."""
    folder = write_run(tmp_path / "run", toy, system)
    tokens_T = np.array(evaluate.read_split(toy / "datasets/toy_sp1024", "val"))[:1000]
    evaluate.write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    given = ["--tokens", str(tmp_path), "--seq-len", "64", "--json"]
    assert evaluations.main(["wikitext103", str(folder), *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "wikitext103@64" and found["system"] == system
    model, _ = evaluations.load(folder / "artifact.pgz", "cpu")
    table = evaluate.ByteTable.from_sentencepiece(toy / "tokenizers/toy_1024_bpe.model", 1024)
    how = dict(seq_len=64, stride=64, isolate=False, device="cpu")
    want = evaluate.score_windows(model, tokens_T, table, **how)
    assert found["nats"] == pytest.approx(want.nats, rel=1e-5)
    assert (found["targets"], found["bytes"]) == (want.tokens, want.bytes)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    assert found["file"] == str(folder / "artifact.pgz")
    assert evaluations.main(["wikitext103", str(folder / "checkpoint.pt"), *given]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again == found | {"file": str(folder / "checkpoint.pt")}  # the weights it exports


def test_a_recipe_has_its_own_protocol(tmp_path, toy, capsys):
    """Named by the run's settings, on the run's text; a golf run has none."""
    text = {"data_path": str(toy / "datasets/toy_sp1024")}
    folder = write_run(tmp_path / "run", toy, "preln_53m", **text)
    assert evaluations.main(["recipe", str(folder), "--seq-len", "64", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["protocol"] == "preln_val@64" and found["targets"] == 50 * 12 * 64
    given = ["preln_val", str(folder), "--seq-len", "64", "--json", "--tokens", text["data_path"]]
    assert evaluations.main(given) == 0 and json.loads(capsys.readouterr().out) == found
    golf = write_run(tmp_path / "golf", toy, "golf")
    assert evaluations.main(["recipe", str(golf)]) == 2
    assert "is of no recipe with a protocol; name one of wikitext103, " in capsys.readouterr().err
    assert evaluations.main(["wikitext103", str(golf / "artifact.pgz"), "--seq-len", "64"]) == 2
    odd = write_run(tmp_path / "odd", toy, "gpt2_124m", val_protocol="odd")
    assert evaluations.main(["recipe", str(odd)]) == 2
    assert "VAL_PROTOCOL=odd of" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["SentencePiece", "GPT-2"])
def test_the_end_of_a_text_is_no_target_of_wikitext(tmp_path, toy, capsys, kind):
    """EOS is 2 of a model and <|endoftext|> of GPT-2; the other protocols score it."""
    V, end, changes = 1024, 2, {}
    if kind == "GPT-2":
        folder = write_vocabulary(tmp_path / "bpe", MERGES)
        V = 257 + len(MERGES)
        end, changes = V - 1, {"vocab_size": V, "tokenizer_path": str(folder)}
    folder = write_run(tmp_path / "run", toy, "gpt2_124m", **changes)
    tokens_T = RNG.integers(5, 200, size=1000)
    tokens_T[[0, 7, 500, 999]] = end
    tokens_T[[3, 4]] = 2
    evaluate.write_shard(tmp_path / "x_val_000000.bin", tokens_T)
    given = [str(folder), "--tokens", str(tmp_path), "--seq-len", "64", "--json"]
    assert evaluations.main(["wikitext103", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["targets"] == 999 - (tokens_T[1:] == end).sum() and found["skipped_id"] == end
    assert evaluations.main(["preln_val", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["targets"] == 50 * 12 * 64 and found["skipped_id"] is None


def test_what_cannot_be_scored_is_said(tmp_path, toy, capsys):
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
    said = capsys.readouterr().err
    assert said.count("baselines.evaluations: ") == said.count("\n") == 9 + no_cuda
    assert "no artifact at" in said and "--seed -1 must be at least 0" in said
    assert "64 positions, not the 512 of preln_val; set --seq-len 64" in said
    assert "do not match this train_gpt.py" in said and "is not a checkpoint that loads" in said
    assert "no *_val_*.bin" in said and "--seq-len 0" in said and "name it with --tokenizer" in said


def test_a_sidecar_is_what_counts(tmp_path, toy):
    """Bytes beside the shard, not the table; one of another length is refused."""
    table = evaluate.ByteTable.from_sentencepiece(toy / "tokenizers/toy_1024_bpe.model", 1024)
    shard = tmp_path / "x_val_000000.bin"
    evaluate.write_shard(shard, TOKENS)
    assert evaluations.read_tokens([shard], table)[1].sum() != 700
    evaluate.write_shard(tmp_path / "x_val_000000.bytes.bin", np.ones(700, int))
    assert evaluations.read_tokens([tmp_path], table)[1].sum() == 700
    evaluate.write_shard(tmp_path / "x_val_000000.bytes.bin", np.ones(699, int))
    with pytest.raises(ValueError, match="699 entries for 700 tokens"):
        evaluations.read_tokens([shard], table)
