"""The comparison of codecs: peers are as described, figures are those of their artifacts."""

import json
import math
import sys
from dataclasses import replace

import pytest
import torch

import quantize
import train_gpt
from codec.report import byte_account
from engine.recipe import packed_settings
from engine.shards import read_split
from quantize import PlanRow, Quantized
from tests.codec.test_sigma_clip import gaussian, hessian
from tools.runs import codec_bench
from tools.runs.codec_bench import BenchRow, Codec, PackedModel, bench, percentile_rows


def subject(**changes) -> PackedModel:
    state = {"a.weight": gaussian(64, 64), "a.gain": gaussian(7, seed=1)}
    plan = (PlanRow("*.weight", 5, 2.9), PlanRow("*.gain", 16))
    return replace(PackedModel(state, {"a.weight": hessian(64)}, plan, {}), **changes)


def exact(factor: float = 1.0) -> Codec:
    """A codec that stores weights as they are, times a factor."""
    state = {name: factor * weight for name, weight in subject().state.items()}
    return Codec("exact", "", lambda s: (b"x" * 1000, 500.0), lambda blob: state)


def row(codec: str, nbytes: int, mnat: float) -> BenchRow:
    return BenchRow(codec, "", nbytes, nbytes / 1000, 0, 0, mnat, 0, mnat, mnat, None, 0, 0, None)


def test_baseline_rows_reach_to_their_percentile():
    """One outlier among few columns is kept; among a million it would be clipped."""
    weight_RC = torch.full((2, 100), 0.5)
    weight_RC[1, 3] = -4.0
    rows = percentile_rows(weight_RC)
    assert rows.scale_R.tolist() == pytest.approx([0.5 / 127, 4 / 127], rel=1e-3)
    assert rows.codes_RC[1, 3] == -127 and rows.codes_RC[0].eq(127).all()


@pytest.mark.parametrize("size", [0, 1, 2, 7])
def test_shuffling_is_undone(size):
    data = bytes(range(size))
    assert codec_bench.unshuffled(codec_bench.shuffled(data)) == data


def test_the_better_of_plain_and_shuffled_is_kept():
    """A compressor that likes either order gets it, and reading gives the data back."""
    data = b"\0\1" * 40 + b"\2"
    for wanted in (data, codec_bench.shuffled(data)):
        stream = codec_bench.better(lambda d, w=wanted: d if d == w else d + b"!")(data)
        assert len(stream) == len(data) + 1
        assert codec_bench.either(lambda d: d)(stream) == data


def test_every_codec_gives_its_weights_back():
    """What is decoded is near the weights; small tensors lose what fp16 loses."""
    model = subject()
    for codec in codec_bench.codecs(model, quick=True):
        if codec.name.startswith("trellis,") or "zpaq" in codec.name:
            continue
        blob, bound = codec.encode(model)
        state = codec.decode(blob)
        assert state.keys() == model.state.keys() and 0 < bound < len(blob), codec.name
        assert torch.equal(state["a.gain"], model.state["a.gain"].half().float())
        error = state["a.weight"] - model.state["a.weight"]
        assert error.square().mean() < 0.3, codec.name


def test_rows_are_stored_exactly():
    """The artifact's codes and steps are those that were given; its bound is their entropy."""
    rows = {"w": Quantized(torch.tensor([[1, 1, -3, 1]] * 2).char(), torch.tensor([0.5, 2]).half())}
    state = {"w": torch.zeros(2, 4), "g": torch.tensor([1.5])}
    blob, bound = codec_bench.rows_artifact(state, rows, lambda data: data)
    restored = codec_bench.read_rows(blob, lambda data: data)
    assert torch.equal(restored["w"], rows["w"].dequantize()) and restored["g"] == 1.5
    codes = 8 * (0.75 * math.log2(4 / 3) + 0.25 * 2) / 8
    assert bound == pytest.approx(codes + 2 / 8)  # and the high bytes of two steps, a bit each


def test_the_peers_embedding_is_finer_than_its_matrices():
    """int8 for the tied embedding, int6 for the others, as the records have it."""
    state = {"tok_emb.weight": gaussian(64, 32), "a.weight": gaussian(64, 32)}
    model = subject(state=state, hessians={name: torch.eye(32) for name in state})
    for codec in codec_bench.codecs(model, quick=True):
        if codec.name == "GPTQ + LZMA" and codec.setting == "k 12.85":
            back = codec.decode(codec.encode(model)[0])
    error = {name: (back[name] - state[name]).square().mean().sqrt() for name in state}
    assert error["a.weight"] == pytest.approx(12.85 / 31 / 12**0.5, rel=0.1)
    assert error["tok_emb.weight"] == pytest.approx(5 / 127 / 12**0.5, rel=0.1)


def test_figures_are_of_what_is_decoded():
    """Weights that come back a tenth too large: 20 dB, a hundredth of the weighted power."""
    model = subject()
    row, _ = bench(exact(1.1), model, None)
    parameters = 64 * 64 + 7
    assert row.bytes == 1000 and row.bits == pytest.approx(8000 / parameters)
    assert row.bound_bits == pytest.approx(4000 / parameters)
    assert row.sqnr_db == pytest.approx(20, abs=0.01)
    assert row.weighted_db == pytest.approx(20, abs=0.01)
    power = codec_bench.weighted(model.state["a.weight"], model.hessians["a.weight"])
    assert row.weighted_mnat == pytest.approx(10 * power, rel=1e-3)
    assert row.excess_bits == pytest.approx(row.bits - math.log2(10), abs=0.01)
    assert row.delta_bpb is None


def test_the_loss_is_measured_on_what_is_decoded():
    """Δ is loss after less loss before; bits a byte follow from bytes a token."""
    model = subject(measure=lambda state: float(state["a.gain"][0].abs()), bytes_per_token=2.0)
    before = model.measure(model.state)
    row, _ = bench(exact(1.5), model, before)
    assert row.delta_mnat == pytest.approx(500 * before)
    assert row.delta_bpb == pytest.approx(0.5 * before / math.log(2) / 2)
    assert row.excess_bits is None


def test_a_checkpoint_is_measured_on_its_validation_text(toy, tmp_path):
    """Nats are the mean over whole blocks of the split's beginning, bytes those of their text."""
    sentencepiece = pytest.importorskip("sentencepiece")
    tokenizer = toy / "tokenizers/toy_1024_bpe.model"
    for source in [*(toy / "datasets/toy_sp1024").glob("*.bin"), tokenizer]:
        name = "tokenizer.model" if source == tokenizer else source.name
        (tmp_path / name).symlink_to(source)
    sizes = {"model_dim": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 8}
    settings = train_gpt.Settings(**sizes, train_seq_len=64, eval_stride=64)
    saved = packed_settings(train_gpt.RECIPE, settings)
    model_settings = train_gpt.RECIPE.model_settings(settings)
    model = train_gpt.RECIPE.model(model_settings, torch.float32)
    for i, weight in enumerate(model.parameters()):
        weight.data = 0.1 * gaussian(*weight.shape, seed=i)
    content = {"model": model.state_dict(), "model_settings": saved}
    torch.save(content, tmp_path / "c.pt")
    opened = codec_bench.trained(tmp_path / "c.pt", tmp_path, quick=True)
    tokens_T = read_split(tmp_path, "val")[: codec_bench.LOSS_TOKENS // 16 + 1]
    count = (len(tokens_T) - 1) // 64
    text_T = torch.tensor([int(t) for t in tokens_T[: 64 * count + 1]])
    losses = [model.loss(text_T[i * 64 :][None, :65]).item() for i in range(count)]
    assert opened.measure(opened.state) == pytest.approx(sum(losses) / (64 * count), rel=1e-5)
    assert sum(losses) > 0
    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    text = processor.decode(text_T[1:].tolist())
    assert opened.bytes_per_token == pytest.approx(len(text.encode()) / (64 * count), rel=0.02)
    factors = {name for name in opened.state if name.endswith((".weight", "attn.gate"))}
    assert opened.hessians.keys() == factors


def test_peers_are_compared_at_equal_error_and_at_equal_bytes():
    """Own error halves every 1,000 bytes; a peer that has twice that is a bit above, at 2 times."""
    own = [row("trellis", 2000, 8.0), row("trellis", 4000, 2.0)]
    peer = [row("p", 3000, 8.0), row("p", 4000, 4.0), row("p", 9000, 0.1)]
    below, at_least = codec_bench.bits_below(peer, own)
    assert below == pytest.approx([1.0, 1.0]) and at_least == []
    assert codec_bench.bits_below([row("p", 5000, 9.0)], own) == ([], [3.0])
    assert codec_bench.ratios(peer, own, "weighted_mnat") == pytest.approx([2.0, 2.0])
    assert codec_bench.at(5000, [(2000, 8.0), (4000, 2.0)]) is None
    assert codec_bench.ratios([row("p", 3000, -1.0)], own, "delta_mnat") == []
    lucky = [*own, row("trellis", 5000, -1.0)]  # a loss that fell has no logarithm
    assert codec_bench.ratios(peer, lucky, "delta_mnat") == pytest.approx([2.0, 2.0])


def test_landings_tell_the_distance(monkeypatch):
    """A size that is missed by half per cent shows as that."""
    monkeypatch.setattr(
        quantize, "encode_trellis", lambda *args, **_: b"x" * round(0.995 * args[3])
    )
    assert codec_bench.landings(4) == pytest.approx([-0.5] * 4, abs=0.01)


def test_the_parts_of_an_artifact_add_up():
    """Words are at their entropy; with tables, header and fp16 numbers they make all bytes."""
    model = subject()
    blob = quantize.encode_trellis(model.state, model.hessians, {"a": 1}, 1500)
    shares = codec_bench.side_information(blob)
    assert abs(shares["words_over_entropy"]) < 0.02
    assert shares["header_share"] == (quantize.read_header(blob)[2] + 32) / len(blob)
    halves = byte_account(blob)["groups"]["a.gain"]["bytes"]
    assert shares["fp16_share"] == pytest.approx(halves / len(blob), abs=1e-6)
    rest = byte_account(blob)["groups"]["exponents and tables of the points"]["bytes"]
    assert shares["side_share"] == pytest.approx(rest / len(blob))


def test_a_codec_of_another_interpreter(tmp_path):
    """Steps are in quarter octaves of each matrix's rms; what fails is said in one line."""
    (tmp_path / "nncodec").mkdir()
    (tmp_path / "nncodec/__init__.py").write_text("")
    (tmp_path / "nncodec/nnc.py").write_text(
        "import pickle\n"
        "def compress(arrays, qp_per_tensor, **_):\n"
        "    assert all(a.ndim for a in arrays.values())\n"
        "    steps = {n: 2 ** (q / 4) for n, q in qp_per_tensor.items()}\n"
        "    return pickle.dumps({n: (a / steps[n]).round() * steps[n] if n in steps else a\n"
        "                         for n, a in arrays.items()})\n"
        "def decompress(data, **_):\n"
        "    return pickle.loads(bytes(data))\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    model = subject()
    state = {"a.weight": model.state["a.weight"] / 8, "scale": torch.tensor(1.5)}
    codec = codec_bench.nnc_codec(str(python), -4, {n: w.shape for n, w in state.items()})
    row, blob = bench(codec, replace(model, state=state), None)
    assert row.sqnr_db == pytest.approx(10 * math.log10(12 * 4), abs=0.6)  # a step of half the rms
    assert torch.equal(codec.decode(blob)["scale"], state["scale"])  # it has no dimension
    assert row.bound_bits is None and row.peak_mb is None and row.encode_s > 0.01
    python.write_text("#!/bin/sh\necho no such package >&2; exit 1\n")
    with pytest.raises(ValueError, match="no such package; install nncodec"):
        codec.encode(model)


def test_memory_of_an_encoder_is_seen():
    """200 MB within the block are in the figure."""
    with codec_bench.PeakMemory() as memory:
        torch.ones(50_000_000)
    assert memory.rise is None or memory.rise == pytest.approx(200, abs=60)


def test_the_command_writes_json_and_picture(tmp_path, monkeypatch, capsys):
    """The table, one line of summary for each answer, and files; codecs that lack are named."""
    monkeypatch.setattr(codec_bench, "gaussians", lambda quick: subject())
    monkeypatch.setattr(codec_bench, "landings", lambda count: [0.0])
    real, few = codec_bench.codecs, ("int8 + zlib", "trellis")
    monkeypatch.setattr(
        codec_bench, "codecs", lambda *args: [c for c in real(*args) if c.name in few]
    )
    monkeypatch.setattr(codec_bench.shutil, "which", lambda name: None)
    assert codec_bench.main(["--quick", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert (
        "lrzip is not installed: no zpaq" in out and "sizes met within -0.1 to 0 %: 1 of 1" in out
    )
    result = json.loads((tmp_path / "codec_bench.json").read_text())
    assert [r["codec"] for r in result["rows"]][0] == "int8 + zlib"
    assert result["answers"]["excess_bits"] and result["loss"] is None
    if (picture := tmp_path / "codec_bench.png").exists():
        assert picture.read_bytes()[:4] == b"\x89PNG" and picture.stat().st_size < 150_000


def test_half_an_input_is_an_error(tmp_path, capsys):
    assert codec_bench.main(["--data", str(tmp_path)]) == 2
    assert "go together" in capsys.readouterr().err


def test_a_plain_state_dict_is_refused(tmp_path, capsys):
    """Without a model's settings there is no loss to measure."""
    torch.save({"w": torch.ones(2)}, tmp_path / "w.pt")
    assert codec_bench.main([str(tmp_path / "w.pt"), "--data", str(tmp_path)]) == 2
    assert "name no recipe" in capsys.readouterr().err
