"""The table of systems: figures from the logs, runs that do not compare refused, the entropies."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from engine.shards import write_shard
from tools.runs import compare
from tools.runs.logs import read_log

LOG = """run:logs/{run_id} preset:{preset} (as asked)
hparams {hparams}
data verified source:web train_shards:1/1
data train_shards:1 train_tokens:4000 holdout_tokens:33 val_tokens:1001
model_params:{params}
step:1/4 train_loss:6.9000 train_time:100ms step_avg:100.00ms tok_s:1000 mfu:unknown
step:2/4 train_loss:6.0000 train_time:200ms step_avg:100.00ms tok_s:1000 mfu:unknown
step:4/4 train_loss:5.0000 train_time:500ms step_avg:125.00ms tok_s:{tok_s} mfu:unknown
artifact model_bytes:{model_bytes} code_bytes:10 total_bytes:20 cap_bytes:inf
score {scheme} val_loss:{loss} {metric}:{bpb} targets:{targets} bytes:{size} eval_time:5ms{repeats}
unigram val_loss:{unigram} {metric}:3.5
final val_loss:{loss} {metric}:{bpb} targets:{targets} bytes:{size} eval_time:5ms
"""


def write_log(folder: Path, run_id: str, **changes) -> str:
    """A finished run's log with these facts."""
    facts = {
        "run_id": run_id, "preset": run_id, "params": 1000, "model_bytes": 500, "loss": 4.0,
        "bpb": 2.0, "targets": 1000, "size": 2500, "unigram": 5.9, "metric": "val_bpb",
        "tok_s": 512, "scheme": "mode:blocks stride:32 isolate:0", "repeats": " repeats:0",
    } | changes  # fmt: skip
    hparams = {"train_seq_len": 32, "eval_stride": 32, "train_batch_tokens": 64, "peak_lr": 0.1}
    hparams |= {"data_path": str(folder / "shards"), **changes.pop("hparams", {})}
    facts["hparams"] = json.dumps(hparams)
    (folder / run_id).mkdir()
    (folder / run_id / "train.log").write_text(LOG.format(**facts))
    return str(folder / run_id)


def test_a_row_has_the_figures_of_its_log(tmp_path, capsys, monkeypatch):
    """Best bpb first; bits by parameter, tokens and their rate; a link to the log."""
    monkeypatch.chdir(tmp_path)
    paths = [
        write_log(tmp_path, "gpt2_124m", bpb=2.5, loss=4.4),
        write_log(tmp_path, "smoke", params=400, hparams={"peak_lr": None}),
    ]
    assert compare.main([*paths, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["system"] for row in rows] == ["smoke", "gpt2_124m"]
    assert rows[1] == {
        "system": "gpt2_124m", "parameters": 1000, "artifact_bytes": 500, "loss": 4.4, "bpb": 2.5,
        "bits_per_parameter": 4.0, "train_tokens": 256, "tokens_per_second": 512.0,
        "windows": "blocks", "log": "gpt2_124m/train.log",
    }  # fmt: skip
    assert compare.main([*paths, "--markdown"]) == 0
    message = capsys.readouterr().out
    assert "| 4.00 | 256 | 4.4000 | 2.5000 | 512 | [log](gpt2_124m/train.log) |" in message
    assert "2,500 bytes of validation text; 1,000 targets; windows: blocks; unigram" in message
    assert compare.main(paths) == 0
    message = capsys.readouterr().out
    assert message.splitlines()[1].split()[0] == "smoke"
    assert compare.main([str(tmp_path)]) == 0  # the folder of both
    assert capsys.readouterr().out == message


def test_a_golf_preset_says_that_it_is_one(tmp_path):
    """By the settings, which have no single rate; a log without settings keeps its name."""
    path = write_log(tmp_path, "smoke")
    log = Path(path) / "train.log"
    assert compare.name_of(read_log(log)) == "smoke"
    log.write_text(log.read_text().replace("peak_lr", "matrix_lr"))
    assert compare.name_of(read_log(log)) == "golf, smoke"
    path = write_log(tmp_path, "pr334", hparams={"teacher": "logs/t/checkpoint.pt"})
    log = Path(path) / "train.log"
    assert compare.name_of(read_log(log)) == "pr334, taught"
    log.write_text(log.read_text().replace("peak_lr", "matrix_lr"))
    assert compare.name_of(read_log(log)) == "golf, pr334, taught"


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"size": 2501}, "bytes of validation text: 2500 in .*, 2501 in [^(]*; compare"),
        ({"size": 2501, "targets": 9}, "2501 in .*a tokenizer that normalises"),
        ({"unigram": 5.8}, "unigram loss: 5.9 in .*, 5.8 in"),
        ({"scheme": "mode:sliding stride:8 isolate:0"}, "windows: blocks in .*, sliding by 8 in"),
        ({"scheme": "mode:documents stride:8 isolate:1"}, "blocks in .*, documents by 8 in"),
        ({"scheme": "mode:documents stride:32 isolate:1"}, "blocks in .*, documents by 32 in"),
        ({"scheme": "mode:one_pass stride:0 isolate:1"}, "blocks in .*, one pass a document in"),
        (
            {"scheme": "mode:ttt stride:32 isolate:0"},
            "blocks in .*, blocks, learning as it goes in",
        ),
        ({"repeats": " repeats:1"}, "windows: blocks in .*, blocks, with repeats in"),
        ({"metric": "val_bpb_partial"}, "a score of part of the text"),
        ({"size": 0}, "no count of bytes"),
    ],
)
def test_runs_that_do_not_compare_are_refused(tmp_path, capsys, changes, message):
    """Another text, other tokens of it, another protocol, a part: status 1, and what differs."""
    paths = [write_log(tmp_path, "a"), write_log(tmp_path, "b", **changes)]
    assert compare.main(paths) == 1
    assert not capsys.readouterr().out
    with pytest.raises(compare.NoComparison, match=message):
        compare.check_comparable([read_log(Path(path) / "train.log") for path in paths])


def test_systems_compare_with_their_own_scoring_where_that_is_asked_for(tmp_path, capsys):
    """The refusal names the option; with it a column says how each was read. The text stays one."""
    ours = write_log(tmp_path, "a", scheme="mode:one_pass stride:0 isolate:1")
    theirs = write_log(tmp_path, "b", scheme="mode:sliding stride:8 isolate:0")
    other = write_log(tmp_path, "c", size=2501)
    assert compare.main([ours, theirs]) == 1
    error = capsys.readouterr().err
    assert "golf.py score RUN --stride N" in error and error.rstrip().endswith("--own-windows")
    assert compare.main([ours, theirs, "--own-windows"]) == 0
    out = capsys.readouterr().out
    assert "windows" in out.splitlines()[0] and "windows: each system's own; unigram" in out
    assert "one pass a document" in out and "sliding by 8" in out
    assert compare.main([ours, theirs, "--own-windows", "--markdown"]) == 0
    assert "| sliding by 8 | [log](" in capsys.readouterr().out
    assert compare.main([ours, ours]) == 0
    assert "windows" not in capsys.readouterr().out.splitlines()[0]
    assert compare.main([ours, other, "--own-windows"]) == 1
    assert "bytes of validation text" in capsys.readouterr().err


def test_logs_of_before_tell_repeats_by_their_sources(tmp_path):
    """A line that does not say it: one pass by sources with engine/repeats.py mixed them in."""
    fields = dict(scheme="mode:one_pass stride:0 isolate:1", repeats="")
    path = Path(write_log(tmp_path, "a", **fields)) / "train.log"
    assert compare.protocol_of(read_log(path)).windows == "one pass a document"
    source = "source engine/repeats.py sha256:0a\nscore "
    path.write_text(path.read_text().replace("score ", source, 1))
    assert compare.protocol_of(read_log(path)).windows == "one pass a document, with repeats"
    path.write_text(path.read_text().replace("stride:0", "stride:8"))
    assert compare.protocol_of(read_log(path)).windows == "documents by 8"


def test_a_log_of_the_field_tells_its_windows_by_its_settings(tmp_path):
    """It has no line of our kind for its score."""
    path = Path(write_log(tmp_path, "a", hparams={"eval_stride": 8})) / "train.log"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("score ")))
    assert compare.protocol_of(read_log(path)).windows == "sliding by 8"


def test_another_tokenizer_of_the_same_bytes_compares(tmp_path):
    """Other targets have another unigram loss; the bytes tell that the text is the same."""
    paths = [write_log(tmp_path, "a"), write_log(tmp_path, "b", targets=700, unigram=6.7)]
    assert compare.main(paths) == 0


def test_a_run_without_a_score_is_refused(tmp_path, capsys):
    """Status 1 with the parser's reason; no log at all is status 2."""
    path = Path(write_log(tmp_path, "a")) / "train.log"
    path.write_text(
        "\n".join(line for line in path.read_text().splitlines() if "final" not in line)
    )
    assert compare.main([str(path)]) == 1
    assert compare.main([str(tmp_path / "none")]) == 2
    assert "has no score" in capsys.readouterr().err


def test_entropies_are_those_of_known_texts():
    """Fair coin: ln 2 and ln 2; alternating: ln 2 and 0; by hand on five pairs."""
    coin = np.random.default_rng(0).integers(0, 2, size=200_000).astype(np.uint16)
    unigram, bigram, count = compare.entropies([coin])
    assert unigram == pytest.approx(math.log(2), abs=1e-3)
    assert bigram == pytest.approx(math.log(2), abs=1e-3) and count == 199_999
    unigram, bigram, _ = compare.entropies([np.array([7, 65_535] * 500, np.uint16)])
    assert unigram == pytest.approx(math.log(2), abs=1e-5) and bigram == pytest.approx(0, abs=1e-9)
    # Pairs 1-2, 2-1, 1-2, 2-3, 3-1: after 1 comes 2; after 2 comes 1 or 3; after 3 comes 1.
    unigram, bigram, _ = compare.entropies([np.array([1, 2, 1, 2, 3, 1], np.uint16)])
    assert bigram == pytest.approx(0.4 * math.log(2))
    shares = [2 / 5, 2 / 5, 1 / 5]
    assert unigram == pytest.approx(-sum(p * math.log(p) for p in shares))
    # Pairs 1-1, 1-1, 1-2: what comes first is certain, what follows is not.
    unigram, bigram, _ = compare.entropies([np.array([1, 1, 1, 2], np.uint16)])
    assert unigram == bigram == pytest.approx(math.log(3) - 2 / 3 * math.log(2))


def test_no_pair_reaches_over_the_end_of_a_shard():
    """Two shards of one repeated token each are certain; joined they would not be."""
    shards = [np.full(50, 3, np.uint16), np.full(50, 4, np.uint16)]
    assert compare.entropies(shards)[1:] == (pytest.approx(0, abs=1e-12), 98)


def test_the_picture_has_a_curve_for_each_run_and_both_lines(tmp_path, capsys, monkeypatch):
    """Labelled; the lines lie within the axis though no curve reaches them."""
    pytest.importorskip("matplotlib")
    paths = [write_log(tmp_path, "a"), write_log(tmp_path, "b", bpb=2.5)]
    (tmp_path / "shards").mkdir()
    tokens_T = np.random.default_rng(0).integers(0, 2, size=500)
    write_shard(tmp_path / "shards/x_train_000000.bin", tokens_T)
    runs = [read_log(Path(path) / "train.log") for path in paths]
    shards = compare.training_shards(runs, None)
    (ax,) = compare.draw(runs, shards).axes
    labels = [line.get_label() for line in ax.lines]
    assert labels[:2] == ["a: 2.0000 bpb", "b: 2.5000 bpb"]
    assert [line.get_ydata()[0] for line in ax.lines[2:]] == list(compare.entropies(shards)[:2])
    assert ax.get_ylim()[0] < 0.69 and ax.get_ylim()[1] > 6
    assert ax.texts[1].get_text().startswith("bigram entropy of the training tokens: 0.6")
    monkeypatch.setattr(compare, "ENTROPY_TOKENS", 100)
    assert [len(shard) for shard in compare.training_shards(runs, None)] == [100]
    out = tmp_path / "more/curves.png"
    assert compare.main([*paths, "--plot", str(out)]) == 0
    assert out.read_bytes()[:4] == b"\x89PNG"
    other = write_log(tmp_path, "c", hparams={"data_path": "elsewhere"})
    assert compare.main([paths[0], other, "--plot", str(out)]) == 1
    assert "name one with --data" in capsys.readouterr().err
    assert compare.main([other, "--plot", str(out)]) == 2
