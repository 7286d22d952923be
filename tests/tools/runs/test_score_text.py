"""The text of a score: when two are one, and how it is called."""

import pytest

from tools.runs.logs import read_log
from tools.runs.score_text import FINEWEB, ScoreText, difference, text_of

SMOKE = ScoreText("smoke", 98_000, False, 40_000, 5.9)


def test_one_text_is_told_from_others():
    """Length, part and unigram loss; of another tokenizer the unigram loss says nothing."""
    assert difference(SMOKE, SMOKE) == "" == difference(SMOKE, ScoreText("?", None))
    longer = ScoreText("longer", 99_000, False, 40_000, 5.9)
    part = ScoreText("part", 98_000, True, 40_000, 5.9)
    other_words = ScoreText("other", 98_000, False, 40_000, 5.8)
    other_tokenizer = ScoreText("smoke", 98_000, False, 30_000, 6.8)
    assert difference(SMOKE, longer) == "98,000 bytes and 99,000"
    assert difference(SMOKE, part) == "one is a part of a validation split"
    assert difference(SMOKE, other_words) == "unigram losses 5.9 and 5.8"
    assert difference(SMOKE, other_tokenizer) == ""


@pytest.mark.parametrize(
    "score, name",
    [
        ("val_loss:2.0 val_bpb:1.19 targets:62021632 bytes:151080363", FINEWEB.name),
        ("val_loss:2.0 val_bpb_partial:1.1 targets:9 bytes:151080363", "part of a validation"),
        ("val_loss:2.0 val_bpb:1.1 targets:9 bytes:300", "300 bytes of my_shards"),
    ],
)
def test_a_score_names_its_text(tmp_path, score, name):
    """FineWeb by its length, any other by its length and folder."""
    path = tmp_path / "train.log"
    settings = 'hparams {"data_path": "data/my_shards"}'
    lines = f"run:logs/a preset:x (as asked)\n{settings}\nfinal {score} eval_time:1ms\n"
    path.write_text(lines)
    assert name in text_of(read_log(path)).name


def test_a_foreign_log_may_not_tell_its_text(tmp_path):
    """Without counts of tokens or bytes nothing is known, and nothing is made up."""
    path = tmp_path / "train.log"
    path.write_text("final_int6 val_loss:2.0 val_bpb:1.1\n")
    text = text_of(read_log(path))
    assert text.bytes is None and text.name == "a text that its log does not tell"
