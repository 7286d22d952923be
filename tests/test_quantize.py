"""Artifacts of both codecs: input errors, golden bytes, byte targets and the command line.

The golden artifact below is regenerated, after a deliberate change of format and version, by
`python -m tests.test_quantize`, which prints the literals to paste.
"""

import base64
import hashlib
import math
import os
import random
import time
from pathlib import Path

import pytest
import torch

import quantize
from codec import container, search
from quantize import ArtifactError, PlanRow, decode, encode, encode_to_target, encode_trellis
from tests.codec.test_container import corrupt
from tests.codec.test_gptq import hessian_of
from tests.codec.test_rows import FP16, INT5, gaussian, model_state, small_state
from tests.tiny_runs import tiny_model

# --- Input errors ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("plan", [INT5, FP16], ids=["int5", "fp16"])
def test_numbers_that_fp16_cannot_hold_are_refused_by_name(bad, plan):
    """NaN, infinity and values or steps beyond fp16 raise an error that names the tensor."""
    tensor = gaussian(4, 4)
    tensor[2, 1] = bad
    with pytest.raises(ValueError, match=r"'blocks.0.mlp.fc.weight'.*reach (nan|inf|\d).*65504"):
        encode({"fine": gaussian(2, 2), "blocks.0.mlp.fc.weight": tensor}, plan, {})


def test_other_inputs_are_refused():
    """Integer tensors, names that cannot be printed and settings that are not JSON are errors."""
    with pytest.raises(ValueError, match="'w'.*int64"):
        encode({"w": torch.arange(4)}, INT5, {})
    with pytest.raises(ArtifactError, match="unprintable"):
        encode({"w\n": gaussian(2, 2)}, INT5, {})
    for bad in ({"a": float("nan")}, {"a": {1, 2}}, {"a": Path("x")}):
        with pytest.raises(ValueError, match="settings are not JSON"):
            encode({"w": gaussian(2, 2)}, INT5, bad)
    with pytest.raises(ValueError, match="header"):
        encode({"w": gaussian(2, 2)}, INT5, [1])


def test_weights_of_any_float_type_are_taken():
    """bf16, fp64 and non-contiguous parameters encode like their fp32 copies."""
    weight = gaussian(6, 8).bfloat16()
    expected = encode({"w": weight.float()}, INT5, {})
    assert encode({"w": weight}, INT5, {}) == expected
    assert encode({"w": weight.double()}, INT5, {}) == expected
    assert encode({"w": torch.nn.Parameter(weight.float().T.contiguous().T)}, INT5, {}) == expected


# --- Bytes ---


GOLDEN_STATE = {
    "m": torch.tensor([[1.0, -2.0, 3.0], [0.0, 0.0, 0.0]]),
    "e": torch.tensor([[0.6, 0.25, -0.125]]),
    "v": torch.tensor([1.0, -0.5]),
}
GOLDEN_PLAN = (PlanRow("m", 5, 2.9), PlanRow("e", 8, 6.0), PlanRow("v", 16))
GOLDEN_SETTINGS = {"model_dim": 3, "name": "g\u00f6lden"}
GOLDEN_SHA256 = "7a6550db355efd18986fc99e9eccaadffea3de52b2eba92b5bd158716ed0a2c6"
GOLDEN_BASE85 = (
    "iBLyc0RW8v0093000000004U;b7gdNX>Mn8B03;@B5iMEWo%z$X>B4pATul=B5q-AWg<EtB4=E6Ffe8|Y-D9_B7H"
    "0%B6MYLb8m8UB03;jTOw^DEFfDlEFd#oEFd*3ATcv6ATc#vEFfDVWg;vfTQMvkGhHkoI4mGBF)Sc4GF>bnTOxKME"
    "FfDlT`V9mHY^}9Gb|u5U0r=BwJ-f31R($buK_jyD77#BAO<l201*ln4-XG0wJ-f30ucZJpCl-?Fa00`82|vFjd&="
    "vFa00{ApigX06e%+?dDicU=x7kAH4~?#G_e_txJ{qvszj&D%e!|if<e"
)
GOLDEN_WEIGHTS = {
    "m": [[0.83544921875, -2.088623046875, 2.924072265625], [0.0, 0.0, 0.0]],
    "e": [[0.5956878662109375, 0.252716064453125, -0.1263580322265625]],
    "v": [1.0, -0.5],
}


def stored_zstd():
    """A stand-in for zstd that leaves data as it is, so that bytes do not hang on its version."""
    return (lambda data, level: data), (lambda data, expected: data), ValueError


def test_golden_bytes_do_not_drift(monkeypatch):
    """All bytes of the format but zstd's own are those of version 1."""
    monkeypatch.setattr(container, "load_zstd", stored_zstd)
    blob = encode(GOLDEN_STATE, GOLDEN_PLAN, GOLDEN_SETTINGS)
    assert hashlib.sha256(blob).hexdigest() == GOLDEN_SHA256


def test_golden_artifact_keeps_decoding():
    """An artifact written when version 1 was new decodes to the same numbers, written out here."""
    weights, stored = decode(base64.b85decode(GOLDEN_BASE85))
    assert stored == GOLDEN_SETTINGS
    assert {name: tensor.tolist() for name, tensor in weights.items()} == GOLDEN_WEIGHTS


def test_bytes_do_not_depend_on_threads(monkeypatch):
    """One, two, five and as many threads as cores write the same artifact."""
    pools = []

    class RecordedPool(container.ThreadPoolExecutor):
        def __init__(self, threads):
            pools.append(threads)
            super().__init__(threads)

    monkeypatch.setattr(container, "ThreadPoolExecutor", RecordedPool)
    state = model_state(layers=2, dim=64, heads=4, kv_dim=32, vocab=64, table=(64, 16))
    blobs = {encode(state, quantize.DEFAULT_PLAN, {}, threads=n) for n in (1, 2, 5, 0)}
    assert len(blobs) == 1 and pools == [1, 2, 5, os.cpu_count()]


def test_bytes_of_the_trellis_do_not_depend_on_threads():
    """Factors, feedback and paths of one and of two threads end in the same artifact."""
    # Over 32,768 numbers, so that torch divides operations on them.
    state = {"w": gaussian(192, 192)}
    hessians = {"w": hessian_of(192)}
    threads = torch.get_num_threads()
    blobs = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            assert torch.get_num_threads() == count
            blobs.append(encode_trellis(state, hessians, {}, math.inf, states=4))
    finally:
        torch.set_num_threads(threads)
    assert blobs[0] == blobs[1] and len(blobs[0]) > 10_000


@pytest.mark.parametrize("fraction", [1.04, 1.0, 0.8, 0.4, 0.15])
def test_target_lands_within_one_percent_under(fraction):
    """encode_to_target gives 99 to 100 % of the target, and its plan encodes to the same bytes."""
    state = model_state(layers=2, dim=64, heads=4, kv_dim=32, vocab=64, table=(64, 16))
    target_bytes = int(fraction * len(encode(state, quantize.DEFAULT_PLAN, {"a": 1})))
    blob, plan = encode_to_target(state, quantize.DEFAULT_PLAN, {"a": 1}, target_bytes)
    assert 0.99 * target_bytes <= len(blob) <= target_bytes
    assert encode(state, plan, {"a": 1}) == blob
    ratios = {
        new.clip_sigmas / old.clip_sigmas
        for new, old in zip(plan, quantize.DEFAULT_PLAN, strict=True)
        if old.bits != 16
    }
    assert max(ratios) == pytest.approx(min(ratios))
    assert [row.bits for row in plan] == [row.bits for row in quantize.DEFAULT_PLAN]


@pytest.mark.parametrize("target_bytes", [-1, 100, 10**9])
def test_targets_out_of_reach_name_the_range(target_bytes):
    """A target that no clip width meets is an error with the sizes that can be met."""
    with pytest.raises(ValueError, match=rf"{target_bytes} is out of reach.* \d+ to \d+ bytes"):
        encode_to_target({"w": gaussian(64, 64)}, INT5, {}, target_bytes)
    with pytest.raises(ValueError, match="out of reach"):
        encode_to_target({"w": torch.zeros(64, 64)}, INT5, {}, target_bytes)


# --- Report, files, command line ---


def test_write_atomic_keeps_the_old_file_when_writing_fails(tmp_path, monkeypatch):
    """The path holds the old bytes or the new ones, and no temporary file stays behind."""
    path = tmp_path / "a.pgz"
    quantize.write_atomic(path, b"old")
    quantize.write_atomic(str(path), b"new")
    assert path.read_bytes() == b"new"

    def fail(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(quantize.os, "fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        quantize.write_atomic(path, b"newer")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.fixture
def checkpoint(tmp_path):
    state = model_state(layers=2, dim=16, heads=2, kv_dim=8, vocab=32, table=(32, 8))
    ema = {name: 2 * tensor for name, tensor in state.items()}
    content = {
        "model": state,
        "averages": {"ema": ema, "swa": state},
        "exported": "ema",
        "settings": {"seed": 1, "num_layers": 2},
        "model_settings": {"num_layers": 2},
        "step": 7,
    }
    path = tmp_path / "checkpoint.pt"
    torch.save(content, path)
    return path, content


@pytest.mark.parametrize("exported", ["ema", "swa", "raw", None])
def test_command_packs_the_exported_weights(checkpoint, tmp_path, capsys, exported):
    """The command line packs what the checkpoint exports, with the model's settings."""
    path, content = checkpoint
    torch.save(content | {"exported": exported}, path)
    out = tmp_path / "a.pgz"
    assert quantize.main([str(path), "--out", str(out)]) == 0
    weights = content["averages"].get(exported, content["model"])
    assert out.read_bytes() == encode(weights, quantize.DEFAULT_PLAN, {"num_layers": 2})
    assert f"model_bytes:{out.stat().st_size} " in capsys.readouterr().out


def test_command_takes_older_checkpoints_and_plain_state_dicts(checkpoint, tmp_path):
    """Without model_settings the flat settings are stored; a plain state dict has none."""
    path, content = checkpoint
    del content["model_settings"]
    torch.save(content, path)
    assert quantize.load_checkpoint(path)[1] == {"seed": 1, "num_layers": 2}
    torch.save(content["model"], path)
    weights, stored = quantize.load_checkpoint(path)
    assert stored == {} and weights.keys() == content["model"].keys()


def test_command_meets_a_target(checkpoint, tmp_path, capsys):
    """--target-bytes lands under its number."""
    path, _ = checkpoint
    out = tmp_path / "a.pgz"
    assert quantize.main([str(path), "--out", str(out), "--target-bytes", "6000"]) == 0
    assert 5940 <= out.stat().st_size <= 6000
    assert "clip_sigmas" in capsys.readouterr().out


def test_command_packs_a_model_of_any_names(tmp_path, capsys):
    """--int8: rows for large matrices, fp16 for the rest, with a target too."""
    state = {"wte": gaussian(80, 64), "blocks.0.up": gaussian(64, 65), "small": gaussian(63, 65)}
    state |= {"kernel": gaussian(4, 64, 32), "gain": gaussian(5000)}
    path, out = tmp_path / "other.pt", tmp_path / "a.pgz"
    torch.save(state, path)
    assert quantize.main([str(path), "--out", str(out), "--int8"]) == 0
    assert "clip_sigmas 8 bits:6.000\n" in capsys.readouterr().out
    decoded, _ = decode(out.read_bytes())
    for name, weight in state.items():
        exact = torch.equal(decoded[name], weight.half().float())
        assert exact == (name not in ("wte", "blocks.0.up"))
        assert (decoded[name] - weight).abs().max() < 0.06
    full = out.stat().st_size
    assert quantize.main([str(path), "--out", str(out), "--int8", "--target-bytes", "40000"]) == 0
    assert 39_600 <= out.stat().st_size <= 40_000 < full


def test_command_packs_our_model_without_options(tmp_path, capsys):
    """Its names are not those of the default plan: the embedding gets 8 bits, matrices 5."""
    state = tiny_model(model_dim=64).state_dict()
    path, out = tmp_path / "ours.pt", tmp_path / "a.pgz"
    torch.save(state, path)
    assert quantize.main([str(path), "--out", str(out)]) == 0
    assert "clip_sigmas 5 bits:2.900 8 bits:6.000\n" in capsys.readouterr().out
    _, entries, _ = quantize.read_header(out.read_bytes())
    bits = {entry.name: entry.bits for entry in entries}
    assert bits["tok_emb.weight"] == 8 and bits["smear.gate"] == 16
    assert bits["blocks.0.mlp.fc.weight"] == bits["blocks.1.mlp.proj.weight"] == 5


def test_command_takes_names_with_the_signs_of_patterns(tmp_path):
    """--int8 on names with brackets and stars: each tensor has its own row of the plan."""
    state = {"h[0].w": gaussian(64, 64), "h*": gaussian(64, 65), "hx": gaussian(64, 66)}
    path, out = tmp_path / "other.pt", tmp_path / "a.pgz"
    torch.save(state, path)
    assert quantize.main([str(path), "--out", str(out), "--int8"]) == 0
    assert list(decode(out.read_bytes())[0]) == list(state)


@pytest.mark.parametrize(
    "state",
    [
        {0: gaussian(64, 64)},
        {"w": gaussian(64, 64).to_sparse()},
        {"w": torch.empty(64, 64, device="meta")},
    ],
)
@pytest.mark.parametrize("codec", ["--int8", "--trellis"])
def test_command_refuses_what_is_no_dense_tensor_under_a_name(state, codec, tmp_path, capsys):
    """Unnamed, sparse and meta tensors: one line that says which, not a traceback."""
    path = tmp_path / "odd.pt"
    torch.save(state, path)
    assert quantize.main([str(path), "--out", str(tmp_path / "a.pgz"), codec]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and f"{[*state][0]!r} is no dense" in captured.err


def test_command_errors_are_one_line_and_leave_the_output_alone(checkpoint, tmp_path, capsys):
    """Wrong input exits with 2 and one line on stderr, and an existing artifact stays."""
    path, content = checkpoint
    out = tmp_path / "a.pgz"
    out.write_bytes(b"precious")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(path.read_bytes()[:-300])
    lost = tmp_path / "lost.pt"
    torch.save(content | {"exported": "median"}, lost)
    foreign = tmp_path / "foreign.pt"
    torch.save({"model": random.Random(0)}, foreign)
    numbers = tmp_path / "numbers.pt"
    torch.save([1, 2, 3], numbers)
    for arguments, reason in (
        ([tmp_path / "absent.pt", "--out", out], "absent.pt"),
        ([broken, "--out", out], "broken.pt"),
        ([lost, "--out", out], "'median'"),
        ([foreign, "--out", out], "foreign.pt"),
        ([numbers, "--out", out], "no state dict"),
        ([path, "--out", out, "--target-bytes", 1], "out of reach"),
        ([path, "--out", tmp_path / "absent" / "a.pgz"], "absent"),
    ):
        assert quantize.main([str(argument) for argument in arguments]) == 2
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("\n") == 1 and reason in captured.err
        assert out.read_bytes() == b"precious"


# --- The full model ---


@pytest.mark.slow
def test_the_full_model_fits_in_time():
    """26,666,073 Gaussian weights pack into [10, 15.85] MB in 60 s and unpack in 10 s."""
    state = model_state()
    start = time.perf_counter()
    blob = encode(state, quantize.DEFAULT_PLAN, {})
    packed = time.perf_counter()
    decode(blob)
    unpacked = time.perf_counter()
    target, _ = encode_to_target(state, quantize.DEFAULT_PLAN, {}, 14_000_000)
    searched = time.perf_counter()
    print(f"bytes:{len(blob)} pack:{packed - start:.1f}s unpack:{unpacked - packed:.2f}s", end=" ")
    print(f"target_bytes:{len(target)} search:{searched - unpacked:.1f}s")
    assert 10_000_000 <= len(blob) <= 15_850_000
    assert 13_860_000 <= len(target) <= 14_000_000
    assert packed - start < 60 and unpacked - packed < 10 and searched - unpacked < 60


# --- Trellis codec ---


def calibrated(state, nats=1e3, seed=0):
    """Hessians of unlike inputs for every matrix of a state; errors of its size cost about nats."""
    hessians = {}
    for name, weight in state.items():
        if weight.ndim == 2:
            inputs = gaussian(200, weight.shape[1], seed=seed) * torch.logspace(
                -1, 0.5, weight.shape[1]
            )
            hessians[name] = inputs.T @ inputs * (nats / 200 / weight.numel())
    return hessians


@pytest.mark.parametrize(
    "shape", [(1, 9), (9, 1), (0, 5), (5, 0), (1, 1), (300, 2), (2, 300), (700, 3)]
)
def test_every_matrix_comes_back_through_the_trellis(shape):
    """Fine enough, any shape is within a hundredth of its size; scalars and vectors are fp16."""
    state = {"w": gaussian(*shape), "v": gaussian(7), "s": torch.tensor(0.5), "e": torch.empty(0)}
    blob = encode_trellis(state, {"w": 1e3 * torch.eye(shape[1])}, {"a": 1}, 10**6)
    weights, stored = decode(blob)
    assert stored == {"a": 1} and list(weights) == list(state)
    assert weights["w"].shape == shape and weights["w"].dtype == torch.float32
    assert (weights["w"] - state["w"]).abs().max().item() < 0.01 if weights["w"].numel() else True
    assert torch.equal(weights["v"], state["v"].half().float()) and weights["s"] == 0.5


def test_constant_zero_and_huge_rows_come_back_through_the_trellis():
    """Rows that differ by four decades do not spoil each other; zeros stay zeros."""
    weight = torch.stack(
        [torch.zeros(64), torch.full((64,), 0.3), 3e3 * gaussian(64), gaussian(64)]
    )
    back = decode(encode_trellis({"w": weight}, {"w": torch.eye(64)}, {}, 10**6))[0]["w"]
    assert not back[0].any()
    assert (back - weight).norm(dim=1)[1:].div(weight.norm(dim=1)[1:]).max() < 0.02


def test_finest_artifact_loses_what_it_promises():
    """With bytes to spare, half of e H eᵀ is about NEGLIGIBLE_NATS, and no byte more is used."""
    state = {f"w{i}": gaussian(128, 96, sigma=0.1 * (i + 1), seed=i) for i in range(3)}
    hessians = calibrated(state, nats=1.0)
    blob = encode_trellis(state, hessians, {}, 10**7)
    back, nats = decode(blob)[0], 0.0
    for name, hessian_CC in hessians.items():
        error = back[name] - state[name]
        nats += float(((error @ hessian_CC) * error).sum()) / 2
    assert nats == pytest.approx(quantize.NEGLIGIBLE_NATS, rel=0.25)


def test_without_a_bound_the_artifact_is_the_finest():
    """Infinitely many bytes are as good as more than it needs, also where sizes are estimated."""
    state = {"w": gaussian(1024, 1024, seed=1)}
    hessians = calibrated(state, nats=1.0)
    assert state["w"].numel() >= search.MANY_WEIGHTS
    unbounded = encode_trellis(state, hessians, {}, math.inf, states=4)
    assert unbounded == encode_trellis(state, hessians, {}, 10**8, states=4)


def test_trellis_targets_are_met_to_a_thousandth():
    """20 random sizes: the whole artifact takes 99.9 to 100 % of each."""
    state = small_state() | {"w": gaussian(400, 200, sigma=0.03, seed=5)}
    hessians, rng = calibrated(state), random.Random(0)
    numbers = sum(weight.numel() for weight in state.values())
    for _ in range(20):
        # finer ones would cost more than errors that are negligible by these Hessians
        target = int(numbers * rng.uniform(1.6, 4.5) / 8) + 600
        size = len(encode_trellis(state, hessians, {"a": 1}, target, states=1))
        assert 0.999 * target <= size <= target, target


def test_trellis_loses_less_than_rows_in_the_same_bytes():
    """Under the Hessians that it was given, at the bytes of int5 rows, by a factor of three."""
    state = {f"w{i}": gaussian(192, 96, sigma=0.1, seed=i) for i in range(2)}
    hessians = calibrated(state)
    rows = encode(state, (PlanRow("*", 5, 2.9),), {})
    trellis_blob = encode_trellis(state, hessians, {}, len(rows))

    def loss(blob):
        errors = {name: w - state[name] for name, w in decode(blob)[0].items()}
        return sum(float(((e @ hessians[n]) * e).sum()) for n, e in errors.items())

    assert loss(trellis_blob) < loss(rows) / 3


@pytest.mark.parametrize(
    "state, hessians, reason",
    [
        ({"w": gaussian(4)}, {"w": torch.eye(4)}, "hessian 'w' is of no matrix"),
        ({"w": gaussian(4, 4)}, {"x": torch.eye(4)}, "hessian 'x' is of no matrix"),
        ({"w": torch.ones(4, 4).int()}, {"w": torch.eye(4)}, "tensor 'w'.*no float type"),
        ({"w": torch.full((4, 4), math.nan)}, {"w": torch.eye(4)}, "'w': weights must be finite"),
        ({"w": gaussian(4, 4)}, {"w": torch.full((4, 4), math.inf)}, "'w': Hessian must be finite"),
        ({"w": gaussian(4, 4)}, {"w": torch.eye(3)}, r"'w': .*\[4, 4\] and \[3, 3\] must be"),
        ({"w": gaussian(4, 4)}, {"w": torch.ones(4)}, r"'w': .*\[4, 4\] and \[4\] must be"),
        ({"w": gaussian(4, 4)}, {"w": torch.eye(4).int()}, "'w': .*int32 is no float type"),
        ({"w": gaussian(4, 4)}, {"w": -torch.eye(4)}, "no sum of squares"),
        ({"w": torch.full((4, 4), 1e30)}, {"w": torch.eye(4)}, "tensor 'w': weights reach 1e\\+30"),
        ({"w": gaussian(4, 4), "v": torch.tensor([1e9])}, {"w": torch.eye(4)}, "tensor 'v'"),
    ],
)
def test_what_the_trellis_cannot_hold_is_refused(state, hessians, reason):
    """Weights and Hessians that make no artifact are named."""
    with pytest.raises(ValueError, match=reason):
        encode_trellis(state, hessians, {}, 1000)


def test_sizes_out_of_reach_of_the_trellis_are_refused():
    """Smaller than all but the points, and than these by the coarsest step."""
    small = {"w": gaussian(4, 4)}, {"w": torch.eye(4)}, {}
    with pytest.raises(ValueError, match="most_bytes=9 is out of reach: [0-9]+ go to all") as told:
        encode_trellis(*small, 9)
    overhead = int(str(told.value).split(": ")[1].split()[0])
    with pytest.raises(ValueError, match=f"{overhead + 1} bytes are out of reach: .*MAX_ARTIFACT"):
        encode_trellis(*small, overhead + 1)


def test_the_smallest_artifact_is_named_where_a_bound_is_out_of_reach():
    """Errors of a model cost so little that the coarsest steps would leave the coder's range."""
    state = {"w": gaussian(64, 64), "v": gaussian(64, 64, seed=1), "gain": gaussian(8)}
    hessians = {"w": 1e-9 * torch.eye(64), "v": 1e-7 * torch.eye(64)}
    with pytest.raises(ValueError, match="go to all but matrices") as told:
        encode_trellis(state, hessians, {}, 9)
    bound = int(str(told.value).split(": ")[1].split()[0]) + 10
    with pytest.raises(ValueError, match=f"{bound} bytes are out of reach: 8192 w") as told:
        encode_trellis(state, hessians, {}, bound)
    fewest = int(str(told.value).split(" take ")[1].split()[0])
    assert bound < fewest < bound + 200
    assert len(encode_trellis(state, hessians, {}, fewest)) == fewest


def test_two_thousand_corruptions_of_points_are_refused():
    """Half with the checksum mended: then decode refuses or gives finite weights, never fails."""
    blob = encode_trellis({"w": gaussian(40, 16), "v": gaussian(5)}, {"w": torch.eye(16)}, {}, 900)
    rng, refused = random.Random(0), 0
    for _ in range(1000):
        damaged = corrupt(blob, rng)
        if damaged != blob:
            with pytest.raises(ArtifactError):
                decode(damaged)
    for _ in range(1000):
        body = bytearray(blob[: -quantize.CHECKSUM_BYTES])
        body[rng.randrange(container.PREFIX.size, len(body))] ^= 1 << rng.randrange(8)
        try:
            weights, _ = decode(bytes(body) + hashlib.sha256(body).digest())
        except ArtifactError:
            refused += 1
        else:
            assert all(weight.isfinite().all() for weight in weights.values())
    assert refused > 900


@pytest.mark.parametrize("weight", [1e-38, 1e-30, 1.0, 1e30])
def test_a_matrix_that_hardly_counts_does_not_stop_the_packing(weight):
    """A run must not fail at its end because one Hessian is nearly nothing, or very large."""
    state = {"a": gaussian(16, 16), "b": gaussian(16, 16, seed=1), "zero": torch.zeros(16, 16)}
    hessians = {"a": torch.eye(16), "b": weight * torch.eye(16), "zero": torch.zeros(16, 16)}
    back = decode(encode_trellis(state, hessians, {}, 2000))[0]
    assert all(matrix.isfinite().all() for matrix in back.values())
    assert (back["a"] - state["a"]).norm() < 0.2 * state["a"].norm()
    assert not back["zero"].any()


def test_the_order_of_hessians_means_nothing():
    """Points stand in the order of the table, whatever that of the Hessians."""
    state = {"a": gaussian(16, 16), "b": 5 * gaussian(16, 16, seed=1)}
    hessians = {name: torch.eye(16) for name in ("b", "a")}
    back = decode(encode_trellis(state, hessians, {}, 2000))[0]
    assert all((back[n] - state[n]).norm() < 0.1 * state[n].norm() for n in state)


def test_flat_hessians_do_not_hang_on_the_order_of_a_sum():
    """Summed in fp64: in fp32 other threads give other Hessians, and could give other bytes."""
    weight_RC = gaussian(384, 512)
    power = weight_RC.double().square().sum()
    hessian_CC = quantize.flat_hessians({"w": weight_RC})["w"]
    assert torch.equal(hessian_CC.diagonal(), (1 / power).float().expand(512))


def test_bytes_do_not_hang_on_default_or_hessian_types():
    """PyTorch's default of float64, and Hessians in bf16 (here exact), give the same artifact."""
    state, hessians = {"w": gaussian(64, 48)}, {"w": torch.eye(48)}
    flat = quantize.flat_hessians(state)["w"]
    exact = encode_trellis(state, hessians, {}, 4200)
    assert encode_trellis(state, {"w": torch.eye(48).bfloat16()}, {}, 4200) == exact
    torch.set_default_dtype(torch.float64)
    try:
        again = quantize.flat_hessians(state)["w"]
        assert again.dtype == flat.dtype == torch.float32 and torch.equal(again, flat)
        assert encode_trellis(state, hessians, {}, 4200) == exact
    finally:
        torch.set_default_dtype(torch.float32)


def test_flat_hessians_take_a_matrix_of_zeros():
    """It comes back as zeros, and the others are not spoilt."""
    state = {"w": gaussian(64, 64), "zero": torch.zeros(64, 64)}
    back = decode(encode_trellis(state, quantize.flat_hessians(state), {}, 20_000))[0]
    assert not back["zero"].any() and (back["w"] - state["w"]).norm() < 0.1 * state["w"].norm()


POINTS_BASE85 = (
    "iBLyc0sx-?006cE00000004U;b7gdNX>Mn8B03;@B5iMEWo%z$X>B4pATul=B5q-AWg<EtB4=E6Ffe8|Y-D9_B7H0%B6"
    "MYLb8m8UB03;jTOw^DEFfDlG%O%7FkLJlFf1T2EFdslEFfDVb|NewTQyxQATc&9ATc>CATV7lAX_4CA}k<VF)%D3F)&>"
    "$ATTT-Ff1T2U0p07B5-eMZgg`ZIv^r)VQzCGeJHgr{U8ca002iP9nvl~v$ecD5Y7Kt1_J^B8UX+RMgRZ+;1~P>5&!@IL"
    "H4$uQrRQ_07NAc=VN3rBYrXyi%VgvK*g-6qflmi_^2(_7wga??O6-nDW}O|k!R}VjSlbhiQblY*eru$s2GoaN_9z@D41"
    "D3!xnUx<!?v`1{1_>$lsdZ?tbA%+lQ^aezSi*S@DT+-EU{(uk||yCGgkcsR;aOX+fgB#jQN5Qf7m2MLSZgKum(};0T2O"
    "1An+?&#WhKy5e+~TV>Af*8hrN3lKn++bzbafp&#d3xZT;he;tkz=F3ZQMUj5i!g&hI+*aMLP8Z3`i<c0H8gz(gDMkrkY"
    "rt~iZj(Gh7W%2uD;>HmtN3<e3|P#6yDZK#naRk4iPGb8(o~5P?#FctmjFi)RQ71U;y9%YXCj~003^QUoGPDg#txl;8<o"
    "A$<wGl3aXbG3|fz75!$_I$E<$x>z>*mz>|BgkJ#+lEpq)$MXc^#nUzU~HLm~wSaAV8ARMPW)+7f26$}pt>%-(|D{<!XM"
    "FniQR5ERZBjYBWnfREn)a@Xc+jt~4z%U~ozJZC|3t{Qhk6>S*-l50fpi7T!zCHr@=oAee*~lP|_B}D0V$GTs|0Gn*mvL"
    "5ot#j%$^2t)pHBp^MXsR(P;yrz`AAQSZK?fJkfgS"
)
POINTS_SHA256 = "4c3189f8a1beb9b57b632b12fca4a583a916b816c8681ae4c420462f709119ae"


def golden_points():
    """An artifact of points. Its bytes may differ between machines, which round as they do."""
    state = {"m": gaussian(24, 10, sigma=0.1, seed=1), "v": gaussian(5, seed=2)}
    state["n"] = gaussian(10, 10, sigma=3.0, seed=3)
    return encode_trellis(state, calibrated(state), GOLDEN_SETTINGS, 700)


def test_golden_points_keep_decoding():
    """Version 2: these bytes are these weights, to the last bit, on every machine."""
    weights, stored = decode(base64.b85decode(POINTS_BASE85))
    assert stored == GOLDEN_SETTINGS and list(weights) == ["m", "v", "n"]
    data = b"".join(weight.numpy().astype("<f4").tobytes() for weight in weights.values())
    assert hashlib.sha256(data).hexdigest() == POINTS_SHA256


def test_command_packs_through_the_trellis(checkpoint, tmp_path, capsys):
    """--trellis meets a target without calibration."""
    checkpoint, _ = checkpoint
    assert quantize.main([str(checkpoint), "--out", str(tmp_path / "rows.pgz")]) == 0
    target = (tmp_path / "rows.pgz").stat().st_size
    out = tmp_path / "points.pgz"
    words = [str(checkpoint), "--out", str(out), "--target-bytes", str(target), "--trellis"]
    assert quantize.main(words) == 0
    assert f"model_bytes:{out.stat().st_size} trellis" in capsys.readouterr().out
    assert out.stat().st_size <= target
    assert (
        decode(out.read_bytes())[0].keys() == decode((tmp_path / "rows.pgz").read_bytes())[0].keys()
    )
    assert quantize.main([*words[:4], "0", "--trellis"]) == 2  # not the cap
    assert "out of reach" in capsys.readouterr().err


if __name__ == "__main__":
    artifact = encode(GOLDEN_STATE, GOLDEN_PLAN, GOLDEN_SETTINGS)
    print("GOLDEN_BASE85 =", base64.b85encode(artifact))
    print("GOLDEN_WEIGHTS =", {n: w.tolist() for n, w in decode(artifact)[0].items()})
    points = golden_points()
    print("POINTS_BASE85 =", base64.b85encode(points))
    data = b"".join(w.numpy().astype("<f4").tobytes() for w in decode(points)[0].values())
    print("POINTS_SHA256 =", hashlib.sha256(data).hexdigest())
    container.load_zstd = stored_zstd
    artifact = encode(GOLDEN_STATE, GOLDEN_PLAN, GOLDEN_SETTINGS)
    print("GOLDEN_SHA256 =", hashlib.sha256(artifact).hexdigest())
