"""Runs from the first step to the score: clock, checkpoints, kills, ranks, packing."""

import copy
import json
import math
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend

import quantize
import train_gpt
from codec import container
from codec.search import EndedEarly
from engine import ranks as engine_ranks
from engine import trainer as engine_trainer
from engine.open_model import open_model
from engine.ranks import Ranks
from engine.settings import Choice
from engine.shards import read_shard, write_shard
from engine.trainer import (
    check_data,
    named_faults,
    peak_flops,
    plain_errors,
    read_sources,
    settle,
)
from tests.tiny_runs import (
    CPU,
    ROOT,
    TINY,
    environment,
    final_line,
    losses,
    run,
    start,
    tiny,
    tiny_model,
    toy_paths,
    trainer_on,
)

RECIPE = train_gpt.RECIPE


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    """A complete run of TINY: (folder it ran in, its console output)."""
    folder = tmp_path_factory.mktemp("finished")
    return folder, run(folder, environment(toy, run_id="one"))


def resuming(toy: Path, run_id: str) -> dict:
    """What a user sets to continue a run: nothing but its name."""
    ours = {name.upper() for name in (*TINY, "data_path", "tokenizer_path")}
    kept = {name: value for name, value in environment(toy).items() if name not in ours}
    return {**kept, "RESUME": run_id}


def kill_and_resume(folder: Path, toy: Path, run_id: str, delays, **settings) -> str:
    """Start a run, kill -9 after each delay in seconds, resume; the last one's output."""
    env = environment(toy, run_id=run_id, **settings)
    for delay in delays:
        process = start(folder, env)
        begun = time.monotonic()
        settings_file = folder / "logs" / run_id / "settings.json"
        while not settings_file.exists() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(max(0.0, delay - (time.monotonic() - begun)))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        env = resuming(toy, run_id)
    return run(folder, env)


def test_a_run_leaves_everything_in_its_folder(finished):
    """Log, metrics, settings, sources as they ran, checkpoint, artifact; nothing elsewhere."""
    folder, output = finished
    assert [path.name for path in folder.iterdir()] == ["logs"]
    run_folder = folder / "logs" / "one"
    assert {path.name for path in run_folder.iterdir()} == {
        "train.log",
        "metrics.jsonl",
        "settings.json",
        "train_gpt.py",
        "quantize.py",
        "evaluate.py",
        "engine",
        "codec",
        "checkpoint.pt",
        "artifact.pgz",
        ".lock",
    }
    for name in read_sources(RECIPE):
        assert (run_folder / name).read_bytes() == (ROOT / name).read_bytes()
    log = (run_folder / "train.log").read_text()
    assert all(line in log for line in output.splitlines())
    for key in (
        "hparams {",
        "source train_gpt.py sha256:",
        "overrides ",
        "model_params:",
        "torch:",
        "average ",
        "artifact model_bytes:",
    ):
        assert key in log
    assert len(losses(run_folder)) == TINY["iterations"]


def test_the_score_is_that_of_the_bytes_on_disk(finished, toy):
    """evaluate.py in a fresh process repeats the run's final line to the last digit, twice."""
    folder, output = finished
    command = [sys.executable, str(ROOT / "evaluate.py"), "logs/one"]
    env = {**environment(toy), "PYTHONPATH": ""}
    lines = [
        final_line(
            subprocess.run(
                command, cwd=folder, env=env, capture_output=True, text=True, check=True
            ).stdout
        )
        for _ in range(2)
    ]
    assert lines == [final_line(output)] * 2


def test_the_artifact_holds_the_chosen_average(finished):
    """The packed weights are those of the candidate with the lowest held-out loss."""
    folder, output = finished
    state = torch.load(folder / "logs/one/checkpoint.pt", weights_only=True)
    line = next(line for line in output.splitlines() if line.startswith("average "))
    fields = dict(part.split(":") for part in line.split()[1:])
    best = min(("raw", "ema", "swa"), key=lambda name: float(fields[f"{name}_loss"]))
    assert fields["exported"] == state["exported"] == best
    candidates = {"raw": state["model"], **state["averages"]}
    packed, _ = quantize.decode((folder / "logs/one/artifact.pgz").read_bytes())
    gains = [name for name, p in state["model"].items() if p.ndim < 2]  # stored as fp16

    def is_packed(weights):
        return all(torch.equal(packed[name], weights[name].half().float()) for name in gains)

    assert is_packed(candidates[best]) and not all(map(is_packed, candidates.values()))


def test_an_error_that_a_user_can_mend_is_one_line():
    """Whatever the library below wrote."""
    with pytest.raises(SystemExit, match="^error: one two$"), plain_errors():
        raise ValueError("one\n\n  two\n")


def test_two_ranks_train_like_one(finished, toy, tmp_path):
    """torchrun with two gloo ranks: same batches, the loss curve within 1e-4, the same score."""
    folder, output = finished
    both = run(tmp_path, environment(toy, run_id="two"), ranks=2)
    one, two = losses(folder / "logs/one"), losses(tmp_path / "logs/two")
    assert len(one) == len(two) and max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    bpb = [float(final_line(text).split("val_bpb:")[1].split()[0]) for text in (output, both)]
    assert bpb[0] == pytest.approx(bpb[1], abs=2e-3)  # int5 rounding can tip a weight over an edge


def start_node(folder: Path, env: dict, node: int, port: int, each: int) -> subprocess.Popen:
    """One of two nodes: so many ranks that stand in a folder of their own."""
    place = ["--nnodes=2", f"--node_rank={node}", "--master_addr=127.0.0.1"]
    torchrun = ["-m", "torch.distributed.run", *place, f"--master_port={port}"]
    return subprocess.Popen(
        [sys.executable, *torchrun, f"--nproc_per_node={each}", str(ROOT / "train_gpt.py")],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def outputs_of(nodes: list[subprocess.Popen]) -> list[str]:
    return [node.communicate(timeout=240)[0] for node in nodes]


@pytest.fixture
def two_disks(toy, tmp_path) -> list[Path]:
    """Two folders, each with its own copy of the text, in the same place below it."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        shutil.copytree(toy, folder / "text")
    return folders


@pytest.mark.slow
def test_two_nodes_without_a_shared_disk_stop_and_go_on_in_other_numbers(finished, toy, two_disks):
    """Node 1 is told to stop, and both do; with two ranks, four, and two the losses are one's.

    Only the first folder ever holds the checkpoint, and both end with the same artifact.
    """
    relative = dict(data_path="text/datasets/toy_sp1024")
    relative |= dict(tokenizer_path="text/tokenizers/toy_1024_bpe.model")
    # Steps that take long enough for a signal between them.
    more = dict(run_id="far", iterations=200, checkpoint_seconds=0.0, **relative)
    env = environment(toy, **more)
    alone = two_disks[0].parent / "alone"
    shutil.copytree(toy, alone / "text")
    run(alone, env)

    metrics = two_disks[0] / "logs/far/metrics.jsonl"
    for each, env_of_part, until in ((1, env, 20), (2, resuming(toy, "far"), 60)):
        port = free_port()
        nodes = [start_node(two_disks[node], env_of_part, node, port, each) for node in (0, 1)]
        deadline = time.monotonic() + 200
        while not (metrics.exists() and len(metrics.read_text().splitlines()) > until):
            assert time.monotonic() < deadline and nodes[0].poll() is None, outputs_of(nodes)
            time.sleep(0.02)
        nodes[1].send_signal(signal.SIGTERM)  # the scheduler takes this node alone
        outputs = outputs_of(nodes)
        assert "continue with RESUME=far" in outputs[0], outputs
        assert (two_disks[0] / "logs/far/checkpoint.pt").exists()
        assert not (two_disks[1] / "logs").exists()
    port = free_port()
    nodes = [start_node(two_disks[i], resuming(toy, "far"), i, port, 1) for i in (0, 1)]
    outputs = outputs_of(nodes)
    assert [node.returncode for node in nodes] == [0, 0], outputs
    one, two = losses(alone / "logs/far"), losses(two_disks[0] / "logs/far")
    assert len(one) == len(two) == 200
    # Sums over ranks are added in another order: at most 6e-6 was seen.
    assert max(abs(a - b) for a, b in zip(one, two, strict=True)) < 1e-4
    artifacts = [(folder / "logs/far/artifact.pgz").read_bytes() for folder in two_disks]
    assert artifacts[0] == artifacts[1]


@pytest.mark.slow
def test_nodes_of_differing_text_are_refused_on_both(toy, two_disks):
    """One changed token in the second node's training text; nobody waits for anybody."""
    shard = two_disks[1] / "text/datasets/toy_sp1024/toy_train_000000.bin"
    changed = np.array(read_shard(shard))
    changed[5] ^= 1
    write_shard(shard, changed)
    (shard.parent / "manifest.json").unlink(missing_ok=True)
    relative = dict(data_path="text/datasets/toy_sp1024")
    relative |= dict(tokenizer_path="text/tokenizers/toy_1024_bpe.model")
    port = free_port()
    env = environment(toy, run_id="never", **relative)
    nodes = [start_node(two_disks[node], env, node, port, 1) for node in (0, 1)]
    for output in outputs_of(nodes):
        assert "error: rank 1 has other training text than rank 0" in output
    assert not any((folder / "logs").exists() for folder in two_disks)


def test_the_peak_is_that_of_all_ranks():
    """As set, of each device; unknown where it is neither set nor in the table."""
    eight = Ranks(0, 8)
    assert peak_flops(tiny(peak_flops=1e12), eight) == 8e12
    assert peak_flops(tiny(), eight) is None


@pytest.mark.parametrize("peak", [0.0, 1e9])
def test_the_log_has_rates_that_follow_and_the_peak_they_are_shares_of(
    toy, tmp_path, monkeypatch, peak
):
    """tok_s: 0.05 for the last step, corrected for the 0 it began with, without the first step,
    whose end a GPU does not wait for; PEAK_FLOPS is reported."""
    sizes = dict(iterations=4, train_log_every=1, max_wallclock_seconds=0.0, peak_flops=peak)
    trainer = trainer_on(toy, tmp_path, monkeypatch, **sizes)
    ends = [10.0, 12.0, 13.0, 17.0, 18.0]  # seconds at the end of each step
    trainer.clock.seconds = lambda: ends[trainer.step]
    trainer.train(validate=None)
    batch, average = trainer.settings.train_batch_tokens, 0.0
    wanted = [batch / 2]
    for i, seconds in enumerate([1.0, 4.0, 1.0], 1):
        average = 0.95 * average + 0.05 * batch / seconds
        wanted.append(average / (1 - 0.95**i))
    assert wanted[1] == pytest.approx(batch)
    lines = (trainer.run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["tok_s"] for line in lines] == pytest.approx(wanted)
    log = (trainer.run.path / "train.log").read_text()
    flops = trainer.model.flops_per_token(trainer.settings.train_seq_len)
    assert f"mfu of flops_per_token:{flops} and peak_flops:{peak or 'unknown'}\n" in log
    share = f"{wanted[-1] * flops / peak:.3f}" if peak else "unknown"
    assert f"step_avg:2000.00ms tok_s:{wanted[-1]:.0f} mfu:{share}\n" in log


def test_the_time_cap_drives_the_schedule(toy, tmp_path, monkeypatch):
    """With a cap, the run ends when time less the reserve is over, the rate at its floor."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=22.0, iterations=10**5)
    trainer.reserve_seconds = 2.0
    trainer.clock.seconds = lambda: float(trainer.step)  # each step takes a second
    trainer.train(validate=None)
    assert trainer.step == 20
    records = [json.loads(line) for line in (trainer.run.path / "metrics.jsonl").open()]
    assert [r["progress"] for r in records] == pytest.approx([s / 20 for s in range(1, 21)])
    assert records[1]["lr_scale"] == 1.0 and records[-1]["lr_scale"] == pytest.approx(0.1)


def test_a_cap_that_nothing_fits_into_is_refused(toy, tmp_path, monkeypatch):
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=0.001)
    with pytest.raises(ValueError, match="MAX_WALLCLOCK_SECONDS=0.001 must be over 1.0"):
        trainer.rehearse()


class BusyMachine:
    """A clock on which everything takes many times as long as it does."""

    def __init__(self, factor: float):
        self.factor = factor
        self.perf_counter_now = time.perf_counter

    def perf_counter(self) -> float:
        return self.factor * self.perf_counter_now()

    def __getattr__(self, name: str):
        return getattr(time, name)


def test_a_busy_machine_shortens_its_reserve_and_ends_in_an_artifact(
    toy, tmp_path, monkeypatch, capsys
):
    """A rehearsal longer than the whole cap is no reason to fail: half is left for training."""
    busy = BusyMachine(factor=400.0)
    monkeypatch.setattr(engine_trainer, "time", busy)
    monkeypatch.setattr(engine_ranks, "time", busy)
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=60.0)
    trainer.rehearse()
    assert trainer.reserve_seconds == 30.0
    output = capsys.readouterr().out
    assert "of MAX_WALLCLOCK_SECONDS=60; 30 s are kept for them" in output
    needed = float(re.search(r"with MAX_WALLCLOCK_SECONDS=(\d+)", output)[1])
    rehearsed = float(re.search(r"took ([\d.]+) s in rehearsal", output)[1])
    assert rehearsed > 60 and needed > 2 * rehearsed
    trainer.train(validate=None)
    assert trainer.step >= 1
    trainer.finish(code_bytes=0)
    assert quantize.decode(trainer.run.artifact_path.read_bytes())


def test_rehearsal_and_packing_are_told_by_what_they_should_take(toy, tmp_path, monkeypatch):
    """First as estimated for a CPU, then as rehearsed; a rank that writes no log says nothing."""
    phases = []
    real = engine_trainer.expecting

    def expecting(label, seconds, log):
        phases.append((label, seconds))
        return real(label, seconds, log)

    monkeypatch.setattr(engine_trainer, "expecting", expecting)
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    estimated = engine_trainer.END_SECONDS * sum(p.numel() for p in trainer.model.parameters())
    trainer.rehearse()
    rehearsed = trainer.end_seconds
    trainer.exported = "raw"
    trainer.finish(code_bytes=0)
    assert phases == [("rehearsing the end of the run", estimated), ("packing", rehearsed)]
    assert trainer.reserve_seconds == 1.2 * rehearsed + 1.0 and rehearsed != estimated
    trainer.run.is_writer = False
    trainer.expecting_end("packing")
    assert phases[-1] == ("packing", 0.0)


def test_the_rehearsal_leaves_no_trace(toy, tmp_path, monkeypatch):
    """Warm-up steps and packing on made-up numbers change no tensor and no counter."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, warmup_steps=2)
    before = copy.deepcopy(trainer.state())
    trainer.rehearse()
    after = trainer.state()
    assert after.pop("settings") == before.pop("settings")
    assert after.pop("model_settings") == before.pop("model_settings")
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    assert trainer.reserve_seconds > 0 and not list(trainer.run.path.glob("*.tmp"))


def test_a_loss_that_nobody_foresaw_is_packed_another_way(toy, tmp_path, monkeypatch, capsys):
    """A codec that spoils a matrix without a word is caught by the score of what it wrote."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, iterations=40)
    trainer.train(validate=None)
    weights = trainer.averages.candidates()["raw"]
    honest = trainer.recipe.pack

    def spoiled(weights, *arguments):
        worse = weights | {"tok_emb.weight": weights["tok_emb.weight"].roll(1, 0)}
        return honest(worse, *arguments)

    for codec in (honest, spoiled):
        monkeypatch.setattr(trainer.recipe, "pack", codec, raising=False)
        blob = trainer.pack_and_check(weights, code_bytes=0)
        output = capsys.readouterr().out
        assert re.search(r"packed bytes:\d+ unpacked_loss:\S+ packed_loss:\S+ lost:", output)
        assert ("warning: packing lost" in output) == (codec is spoiled)
        assert "as is usual" not in output
        decoded, _ = quantize.decode(blob)
        change = (decoded["tok_emb.weight"] - weights["tok_emb.weight"]).norm()
        assert change < 0.1 * weights["tok_emb.weight"].norm()
    # A model of three steps may lose as much without a fault, so nobody is alarmed.
    trainer.step = 3
    trainer.pack_and_check(weights, code_bytes=0)
    output = capsys.readouterr().out
    assert "note: packing lost" in output and "as is usual after 3 steps; int8 rows" in output
    assert "warning" not in output
    # Nothing of the candidates is left in the model.
    assert torch.equal(trainer.model.tok_emb.weight, weights["tok_emb.weight"])


def test_calibration_reads_the_held_out_text_and_leaves_no_trace(toy, tmp_path, monkeypatch):
    """No other token, and no more of it than it says; gradients and averages stay."""
    monkeypatch.setattr(engine_trainer, "CALIBRATION_TOKENS", 320)
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    loss = trainer.model.loss
    batches = []
    trainer.model.loss = lambda tokens_BT: batches.append(tokens_BT) or loss(tokens_BT)
    trainer.averages.ema["skip_weights"] += 1  # the weights to pack need not be those of training
    trainer.exported = "ema"
    before = copy.deepcopy(trainer.state())
    trainer.finish(code_bytes=0)
    assert [len(tokens_BT) for tokens_BT in batches] == [8, 2]  # of 32 tokens: micro-batches
    holdout_T = trainer.text.holdout_T.astype(np.int64)
    assert len(holdout_T) > 4 * 320
    tokens_BT = torch.cat(batches)
    assert tokens_BT[:, :-1].flatten().tolist() == holdout_T[:320].tolist()
    assert tokens_BT[:, 1:].flatten().tolist() == holdout_T[1:321].tolist()
    assert all(p.grad is None for p in trainer.model.parameters())
    torch.testing.assert_close(dict(trainer.model.named_parameters()), trainer.averages.ema)
    trainer.put(before["model"])
    after = trainer.state()
    assert after.pop("train_seconds") > before.pop("train_seconds")
    for key in ("settings", "model_settings", "exported"):
        assert after.pop(key) == before.pop(key)
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_every_matrix_and_no_gain_is_calibrated(toy, tmp_path, monkeypatch):
    """A positive Hessian of its columns each, in nats a token: twice the text, the same numbers."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    weights = tiny_model().state_dict()
    gates = [block.attn.gate for block in trainer.model.blocks]  # factors as matrices are
    block_T = np.arange(2, 34)
    once, twice = (trainer.hessians(weights, np.tile(block_T, n)) for n in (4, 8))  # a quarter
    groups = trainer.model.param_groups()
    ours = {id(p) for p in groups["matrix"] + groups["embedding"] + gates}
    named = trainer.model.named_parameters()
    sizes = {name: (p.shape[1], p.shape[1]) for name, p in named if id(p) in ours}
    columns = {name: hessian.columns_CC for name, hessian in once.items()}
    assert {name: tuple(columns_CC.shape) for name, columns_CC in columns.items()} == sizes
    assert all(torch.linalg.eigvalsh(columns_CC)[-1] > 0 for columns_CC in columns.values())
    for name, hessian in once.items():
        again = twice[name]
        torch.testing.assert_close(hessian.columns_CC, again.columns_CC, rtol=1e-4, atol=1e-9)
        # Rows that the text did not use are smoothed, the less the more text there is.
        assert hessian.rows_R.min() > 0 and hessian.rows_R.mean() == pytest.approx(1, rel=1e-4)


def test_a_clock_that_runs_fast_still_ends_in_an_artifact(toy, tmp_path, monkeypatch, capsys):
    """With time for a search, for part of one, and for none: int8 rows then; the log tells each."""
    is_rows = {}
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=1e6, iterations=2)
    trainer.train(validate=None)
    weights = trainer.averages.candidates()["raw"]
    honest = trainer.recipe.pack

    def ended_early(*arguments):
        warnings.warn("as a search does", EndedEarly, stacklevel=2)
        return honest(*arguments)

    for name, left in (("enough", math.inf), ("part", math.inf), ("little", 1e-9), ("none", -1.0)):
        with monkeypatch.context() as patch:
            if name == "part":
                patch.setattr(trainer.recipe, "pack", ended_early, raising=False)
            blob, _ = trainer.pack(weights, trainer.text.holdout_T, 0, lambda left=left: left)
        output = capsys.readouterr().out
        warning = f"warning: packing ran out of time and ended with {len(blob)} bytes"
        assert (warning in output) == (name != "enough"), name
        decoded, _ = quantize.decode(blob)
        assert decoded.keys() == weights.keys()
        is_rows[name] = container.PREFIX.unpack_from(blob)[1] == container.ROWS_VERSION
    assert is_rows == {"enough": False, "part": False, "little": True, "none": True}


def test_a_diverged_run_stops_and_says_what_to_lower(toy, tmp_path, monkeypatch):
    """A loss that is not a number ends the run at once."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    trainer.model.tok_emb.weight.data.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="lower MATRIX_LR=0.028"):
        trainer.train(validate=None)
    assert trainer.step <= 2


def test_a_killed_run_resumes_to_the_same_weights(finished, toy, tmp_path):
    """kill -9 in the middle, RESUME, and the artifact is the uninterrupted one's to the byte."""
    folder, output = finished
    resumed = kill_and_resume(tmp_path, toy, "one", delays=[0.0])
    assert final_line(resumed) == final_line(output)
    assert losses(tmp_path / "logs/one") == losses(folder / "logs/one")
    artifacts = [(f / "logs/one/artifact.pgz").read_bytes() for f in (folder, tmp_path)]
    assert artifacts[0] == artifacts[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_stop_can_go_on(toy, tmp_path, monkeypatch, number):
    """SIGTERM or Ctrl-C ends it after a step and a checkpoint; then the artifact is the same."""
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    uninterrupted = trainer_on(toy, tmp_path, monkeypatch, run_id="all", checkpoint_seconds=0.0)
    uninterrupted.train(validate=None)
    uninterrupted.finish(code_bytes=0)
    one = trainer_on(toy, tmp_path, monkeypatch, run_id="one", checkpoint_seconds=0.0)
    train_step = one.train_step

    def stopped_at_the_third(*arguments):
        if one.step == 2:
            signal.raise_signal(number)
        return train_step(*arguments)

    one.train_step = stopped_at_the_third
    try:
        with pytest.raises(SystemExit) as stop:
            one.train(validate=None)
    finally:
        for n, handler in handlers.items():
            signal.signal(n, handler)
    assert stop.value.code == 128 + number and one.step == 3
    assert "stopped step:3 continue with RESUME=one\n" in (one.run.path / "train.log").read_text()
    assert not one.run.artifact_path.exists()
    one.train_step = train_step
    one.load(engine_trainer.read_checkpoint(one.run.checkpoint_path, CPU))
    assert one.step == 3
    one.train(validate=None)
    one.finish(code_bytes=0)
    assert one.run.artifact_path.read_bytes() == uninterrupted.run.artifact_path.read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_weights_are_chosen_waits_for_the_checkpoint(
    toy, tmp_path, monkeypatch, number
):
    """So the steps since the checkpoint before are not lost; nothing is packed."""
    one = trainer_on(toy, tmp_path, monkeypatch, run_id="one", checkpoint_seconds=0.0)
    one.train(validate=None)
    choose = one.choose

    def stopped(*arguments):
        signal.raise_signal(number)
        return choose(*arguments)

    one.choose = stopped
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stop:
        one.finish(code_bytes=0)
    assert stop.value.code == 128 + number and signal.getsignal(number) == before
    assert engine_trainer.read_checkpoint(one.run.checkpoint_path, CPU)["exported"]
    assert not one.run.artifact_path.exists()


@pytest.mark.parametrize("phase", ["rehearse", "pack", "score_artifact"])
def test_a_signal_in_any_other_phase_is_one_line(toy, tmp_path, monkeypatch, capsys, phase):
    """It says how to go on, where Ctrl-C was a traceback before."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(toy, run_id="one").items():
        monkeypatch.setenv(name, value)
    owner = engine_trainer if phase == "score_artifact" else engine_trainer.Trainer
    monkeypatch.setattr(owner, phase, lambda *args, **kwargs: signal.raise_signal(signal.SIGINT))
    if phase == "pack":
        monkeypatch.setattr(owner, "rehearse", lambda self: None)
    if phase == "score_artifact":
        monkeypatch.setattr(owner, "train_and_pack", lambda *args: None)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as stop:
        engine_trainer.train(train_gpt.RECIPE)
    assert stop.value.code == 128 + signal.SIGINT
    assert capsys.readouterr().out.endswith("\nstopped, continue with RESUME=one\n")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.slow
def test_a_run_killed_after_its_choice_trains_no_further(toy, tmp_path, monkeypatch):
    """Between choosing the average and writing the artifact, a kill repeats neither."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_wallclock_seconds=600.0)
    trainer.train(validate=None)
    trainer.finish(code_bytes=0)
    artifact = trainer.run.artifact_path.read_bytes()
    trainer.run.artifact_path.unlink()
    trainer.run.lock.close()
    output = run(tmp_path, resuming(toy, trainer.run.run_id))
    assert f"trained steps:{trainer.step} " in output and "average " not in output
    assert trainer.run.artifact_path.read_bytes() == artifact


@pytest.mark.slow
def test_twenty_kills_at_random_moments_change_nothing(toy, tmp_path):
    """Training, packing and scoring survive kill -9 at 20 random moments, with the same weights."""
    settings = dict(iterations=300, checkpoint_seconds=0.2)
    unbroken = run(tmp_path, environment(toy, run_id="whole", **settings))
    rng = random.Random(0)
    delays = [rng.uniform(2.0, 12.0) for _ in range(20)]
    killed = kill_and_resume(tmp_path, toy, "killed", delays, **settings)
    assert final_line(killed) == final_line(unbroken)
    artifacts = [(tmp_path / f"logs/{n}/artifact.pgz").read_bytes() for n in ("whole", "killed")]
    assert artifacts[0] == artifacts[1]
    assert not list((tmp_path / "logs/killed").glob("*.tmp"))


def test_scoring_and_calibration_see_the_model_as_it_is_scored(toy, tmp_path, monkeypatch):
    """In eval mode, where dropout is off; training goes on in training mode."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    modes = []
    trainer.model.register_forward_pre_hook(lambda module, inputs: modes.append(module.training))
    trainer.train_step(trainer.batches.get(0), progress=0.1)
    trainer.score_blocks(trainer.text.holdout_T)
    trainer.hessians(trainer.averages.candidates()["raw"], trainer.text.holdout_T)
    assert modes[0] and not any(modes[1:]) and trainer.model.training


def test_a_damaged_checkpoint_is_one_line(toy, tmp_path, monkeypatch):
    """The file is named, not a traceback of the library that reads it."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    trainer.save()
    path = trainer.run.checkpoint_path
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="checkpoint.pt is damaged"):
        engine_trainer.read_checkpoint(path, CPU)
    with pytest.raises(ValueError, match="the checkpoint is not of this recipe"):
        trainer.load({"model": trainer.model.state_dict()})


@pytest.mark.parametrize(
    "fault, answer",
    [
        (
            "InvalidCxxCompiler: No working C++ compiler found in (None, 'g++')\n\nSet TORCH_LOGS",
            "",
        ),
        (
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: 2e12 bytes\nat",
            "2e12 bytes; l",
        ),
        ("Storage size calculation overflowed with sizes=[9, 9]", "=[9, 9]; lower MICRO_BATCH"),
    ],
)
def test_a_lack_of_memory_or_of_a_compiler_names_what_to_set(fault, answer):
    """In one line; any other fault of torch stays as it is."""
    answer = answer or "^no C\\+\\+ compiler was found; install g\\+\\+, or set COMPILE=0$"
    with pytest.raises(ValueError, match=answer.replace("[", "\\[")), named_faults():
        raise RuntimeError(fault)
    with pytest.raises(RuntimeError, match="shapes differ"), named_faults():
        raise RuntimeError("shapes differ")


def test_a_loss_that_is_not_a_number_in_rehearsal_says_what_to_lower(toy, tmp_path, monkeypatch):
    """Before the clock starts."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    trainer.model.tok_emb.weight.data.fill_(math.inf)
    with pytest.raises(FloatingPointError, match="warm-up step 1 is nan; lower MATRIX_LR=0.028"):
        trainer.rehearse()


def test_a_model_that_no_artifact_holds_is_refused():
    """By its parameters, counted without memory for them."""
    settled()
    with pytest.raises(ValueError, match=r"would have \d[\d,]+ parameters, an artifact holds"):
        settled(model_dim=10**6)
    with pytest.raises(ValueError, match="no such model can be: .*; lower NUM_LAYERS or MODEL_DIM"):
        settled(model_dim=10**10)
    with pytest.raises(ValueError, match="no such model can be: .*; lower NUM_LAYERS or MODEL_DIM"):
        settled(model_dim=10**30)


def settled(overrides: dict | None = None, **changes):
    """The settings of a tiny run after `settle`."""
    choice = Choice(tiny(**changes), "smoke", "as asked", overrides or {})
    return settle(RECIPE, choice, CPU).settings


def test_an_artifact_over_its_bound_fails_the_run(toy, tmp_path, monkeypatch):
    """Packing without time ends in int8 rows, which no bound holds back."""

    def pack(*arguments):
        raise TimeoutError

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(train_gpt.OurRecipe, "pack", pack)
    for name, value in environment(toy, run_id="run", max_artifact_bytes=1000).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit, match="bytes are over MAX_ARTIFACT_BYTES=1000"):
        engine_trainer.train(RECIPE)


def test_a_damaged_artifact_says_how_to_make_it_again(toy, tmp_path, monkeypatch):
    """A resumed run names the file; deleting it lets the run pack from its checkpoint."""

    def damage(trainer, *arguments):
        trainer.run.artifact_path.write_bytes(b"PGLF")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engine_trainer, "train_and_pack", damage)
    for name, value in environment(toy, run_id="one").items():
        monkeypatch.setenv(name, value)
    remedy = "; delete logs/one/artifact.pgz, then continue with RESUME=one$"
    with pytest.raises(SystemExit, match="^error: truncated: 4 bytes .*" + remedy):
        engine_trainer.train(RECIPE)


@pytest.mark.parametrize(
    "fault, answer",
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (RuntimeError("gloo: Connection reset by peer"), "another rank has gone; .* say why"),
    ],
)
def test_a_full_disk_or_a_lost_node_says_how_to_go_on(toy, tmp_path, monkeypatch, fault, answer):
    """While it trains as well as before; the run goes on from its checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name, value in environment(toy, run_id="one").items():
        monkeypatch.setenv(name, value)

    def fails(*arguments):
        raise fault

    monkeypatch.setattr(engine_trainer.Trainer, "rehearse", fails)
    remedy = "; free space or mend that, then continue with RESUME=one$"
    with pytest.raises(SystemExit, match=answer + remedy):
        engine_trainer.train(RECIPE)


def test_a_bound_on_flops_ends_the_run():
    """The steps that it leaves room for, and never more than ITERATIONS."""
    step_flops = tiny_model().flops_per_token(32) * 256
    assert settled(max_train_flops=7.9 * step_flops).iterations == 7
    assert settled(max_train_flops=1e18).iterations == 12
    with pytest.raises(ValueError, match="MAX_TRAIN_FLOPS=10 must be at least .* one step"):
        settled(max_train_flops=10.0)


def test_a_long_run_on_the_cpu_is_compiled(monkeypatch):
    """Compiling takes longer than a short run; who asks for it gets it, and COMPILE=0 holds."""
    monkeypatch.setattr(engine_trainer, "CPU_FLOPS", 1e6)
    long = dict(compile=True, iterations=1000)
    assert settled(**long).compile
    assert not settled(**long, max_wallclock_seconds=60.0).compile
    assert not settled(**{**long, "compile": False}).compile
    compiled = settled({"compile": True}, **long, max_wallclock_seconds=60.0)
    assert compiled.compile
    assert settled(**long, max_wallclock_seconds=60.0, resume="x").compile


def test_the_log_says_which_attention_a_gpu_takes(monkeypatch):
    """One line, with what torch answers for the model's shapes."""
    monkeypatch.setattr(engine_trainer, "attention_kernel", lambda *shapes: "CUDNN_ATTENTION")
    lines = []
    run = SimpleNamespace(log=lines.append)
    ranks = Ranks(device=torch.device("cuda"))
    engine_trainer.log_speed(run, train_gpt.RECIPE, tiny(), ranks)
    assert lines == ["attention kernel:CUDNN_ATTENTION in:bfloat16"]


def test_all_that_the_clock_measures_prefers_our_kernels(toy, tmp_path, monkeypatch):
    """Attention is asked for in our order from the first step to the last byte, and not after."""
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    trainer.exported = "raw"  # nothing is left to train
    orders = []

    def finish(code_bytes: int) -> None:
        orders.append(torch._C._get_sdp_priority_order())

    monkeypatch.setattr(trainer, "finish", finish)
    engine_trainer.train_and_pack(trainer, trainer.text.holdout_T, code_bytes=0)
    [order] = orders
    assert SDPBackend(order[0]) == SDPBackend.CUDNN_ATTENTION
    assert order != torch._C._get_sdp_priority_order()


def test_the_artifact_has_a_bound_of_its_own(toy, tmp_path, monkeypatch):
    """MAX_ARTIFACT_BYTES counts no code; the cap counts both."""
    trainer = trainer_on(toy, tmp_path, monkeypatch, max_artifact_bytes=30_000)
    assert trainer.most_bytes(code_bytes=100) == 30_000
    assert trainer.most_bytes(code_bytes=15_999_000) == 1_000
    assert len(trainer.pack_and_check(trainer.averages.candidates()["raw"], 0)) <= 30_000


def test_weights_of_repeats_travel_in_the_artifact(toy, tmp_path, monkeypatch):
    """A recipe that mixes repeats packs their weights; whoever opens the artifact has them."""
    monkeypatch.setattr(type(RECIPE), "mixes_repeats", True)
    trainer = trainer_on(toy, tmp_path, monkeypatch)
    holdout_T = trainer.text.holdout_T
    weights = trainer.averages.candidates()["raw"]
    blob, _ = trainer.pack(weights, holdout_T, code_bytes=0, seconds_left=lambda: math.inf)
    (tmp_path / "artifact.pgz").write_bytes(blob)
    opened = open_model(tmp_path / "artifact.pgz")
    assert len(opened.repeat_weights) == 8
    assert list(opened.repeat_weights) == trainer.repeat_weights(weights, holdout_T)
    assert "repeat_weights" not in opened.model_settings
    monkeypatch.setattr(type(RECIPE), "mixes_repeats", False)
    blob, _ = trainer.pack(weights, holdout_T, code_bytes=0, seconds_left=lambda: math.inf)
    (tmp_path / "artifact.pgz").write_bytes(blob)
    assert open_model(tmp_path / "artifact.pgz").repeat_weights == ()


def test_one_pass_without_a_memory_is_refused_before_training(monkeypatch):
    """A model that takes no memory cannot be scored with EVAL_STRIDE=0; the remedy is named."""
    monkeypatch.setattr(train_gpt.GPT, "takes_memory", False, raising=False)
    one_pass = dict(eval_stride=0, eval_documents=True)
    with pytest.raises(ValueError, match="EVAL_STRIDE=0 needs a model .*; set EVAL_STRIDE to 1"):
        settled(**one_pass)
    monkeypatch.setattr(train_gpt.GPT, "takes_memory", True, raising=False)
    assert settled(**one_pass).eval_stride == 0


def test_sources_are_named_by_their_place():
    """The recipe's and the engine's files, once each, as they lie in the project."""
    sources = read_sources(RECIPE)
    assert {"train_gpt.py", "evaluate.py", "quantize.py", "codec/rans.py"} <= set(sources)
    assert {"engine/trainer.py", "engine/text.py"} <= set(sources)
    assert not any(name.startswith(("tools", "tests", "baselines", "..")) for name in sources)
    for name, source in sources.items():
        assert (ROOT / name).read_bytes() == source


def test_every_module_that_a_run_imports_is_counted():
    """A fresh process: what train_gpt imports of ours is what read_sources returns."""
    code = (
        "import sys, pathlib, train_gpt; from engine.trainer import read_sources;"
        "files = {getattr(m, '__file__', None) for m in list(sys.modules.values())};"
        "root = pathlib.Path(train_gpt.__file__).parent;"
        "own = {str(pathlib.Path(f).relative_to(root)) for f in files"
        " if f and root in pathlib.Path(f).parents and '.venv' not in f};"
        "own = {name for name in own if not name.endswith('__init__.py')};"
        "counted = set(read_sources(train_gpt.RECIPE)); assert own == counted, own ^ counted"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_a_checkout_reached_through_a_link_weighs_all_its_sources(tmp_path):
    """As much as when it is reached by its own path."""
    link = tmp_path / "link"
    link.symlink_to(ROOT)
    code = (
        f"import sys; sys.path.insert(0, {str(link)!r}); import train_gpt;"
        "from engine.trainer import read_sources;"
        "print(*sorted(read_sources(train_gpt.RECIPE)))"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.stdout.split() == list(read_sources(RECIPE)), done.stderr


def choice_of(toy, **overrides):
    settings = tiny(**{**toy_paths(toy), **overrides})
    return Choice(settings, "smoke", "as asked", overrides)


def test_unfit_data_is_refused_by_the_tool_that_makes_it(tmp_path, toy):
    """A folder that data.prepare refuses ends the start with its message; a good one is noted."""
    assert check_data(RECIPE, choice_of(toy), CPU).startswith("data verified source:")
    with pytest.raises(ValueError, match=r"^no \*_train_\*.bin in .*; run: "):
        check_data(RECIPE, choice_of(toy, data_path=str(tmp_path)), CPU)


def test_a_script_alone_says_that_nobody_checked_its_data(tmp_path, toy, monkeypatch):
    """A packed record has no data/ beside it: it trains, and its log says what was not done."""
    monkeypatch.setattr(engine_trainer, "ROOT", tmp_path)
    note = check_data(RECIPE, choice_of(toy, data_path="x"), CPU)
    assert note == "warning: x is not verified: no data/prepare.py beside the code"


def test_missing_data_is_named_with_the_command_that_fetches_it(tmp_path):
    """PRESET=record without shards stops at once and says what to type."""
    env = {"PATH": os.environ["PATH"], "PRESET": "record", "PYTHONPATH": str(ROOT)}
    process = start(tmp_path, env)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and output.startswith("error: ")
    assert "fetch" in output and not (tmp_path / "logs").exists()
