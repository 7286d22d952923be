"""TensorBoard and Weights & Biases get each line once."""

import sys
from types import SimpleNamespace

import pytest

from tests.tools.runs.test_live import make_run
from tools.runs.live import read_live
from tools.runs.trackers import NewLines, TensorBoard, WeightsAndBiases


def test_each_line_is_told_once(tmp_path):
    """A longer file tells its new lines, a shorter one begins anew."""
    new_lines = NewLines()
    folder = make_run(tmp_path / "a", [0.1, 0.2])
    assert [line["step"] for line in new_lines.of(read_live(folder))] == [1, 2]
    assert new_lines.of(read_live(folder)) == []
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join([*lines, '{"step": 3, "val_bpb": 1.5}\n']))
    assert new_lines.of(read_live(folder)) == [{"step": 3, "val_bpb": 1.5}]
    (folder / "metrics.jsonl").write_text(lines[0])
    assert [line["step"] for line in new_lines.of(read_live(folder))] == [1]


def test_tensorboard_holds_the_curves(tmp_path):
    """Its own reader finds every number of the run under its step."""
    pytest.importorskip("tensorboard", reason="python3 golf.py --with tensorboard test")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = read_live(make_run(tmp_path / "a", [0.25, 0.5]))
    tracker = TensorBoard(tmp_path / "events")
    tracker.update([run])
    tracker.update([run])
    tracker.close()
    events = EventAccumulator(str(tmp_path / "events/a"))
    events.Reload()
    losses = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert losses == [(1, 4.75), (2, 4.5)]


def test_weights_and_biases_gets_an_offline_run(tmp_path, monkeypatch):
    """One run of theirs for each of ours, without the network, finished at the end."""
    calls = []

    def init(**words):
        calls.append(words)
        return SimpleNamespace(
            log=lambda values, step: calls.append((step, values["train_loss"])),
            finish=lambda: calls.append("finish"),
        )

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    tracker = WeightsAndBiases("golf")
    tracker.update([read_live(make_run(tmp_path / "a", [0.25, 0.5]))])
    tracker.close()
    words = {"project": "golf", "name": "a", "mode": "offline", "reinit": "create_new"}
    assert calls == [words, (1, 4.75), (2, 4.5), "finish"]


@pytest.mark.parametrize(
    "make, module, option",
    [
        (TensorBoard, "torch.utils.tensorboard", "--tensorboard DIR"),
        (WeightsAndBiases, "wandb", "--wandb PROJECT"),
    ],
)
def test_a_missing_package_is_named_with_the_command(tmp_path, monkeypatch, make, module, option):
    """One line that says how to get it."""
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=option):
        make(tmp_path)
