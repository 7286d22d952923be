"""Training text: blocks, windows, their order, and what is refused."""

import dataclasses

import pytest
import torch

from engine.ranks import Ranks
from engine.text import Batches, RandomWindows, Rows, TrainingText
from tests.tiny_runs import tiny, write_shards


def wide(folder, **changes):
    return tiny(data_path=str(folder), vocab_size=65_536, **changes)


def first_tokens(rows: Rows) -> list[int]:
    return rows.tokens_BT[:, 0].tolist()


def test_an_epoch_visits_every_block_once(tmp_path):
    """Coprime stride: all blocks of all shards but the held-out ones, once, in a seeded order."""
    settings = wide(write_shards(tmp_path, [2000, 1700, 1500]))
    text = TrainingText(settings)
    n = text.num_blocks
    assert n == 62 + 53 + 46 - 3 and len(text.holdout_T) == 3 * 32 + 1
    rows = text.rows(0, n)
    first = first_tokens(rows)
    assert rows.weights_BT is None
    assert len(set(first)) == n and first != sorted(first)
    assert (rows.tokens_BT.diff(dim=1) == 1).all(), "a row left its shard"
    assert not set(first) & set(text.holdout_T[:-1].tolist())
    again = first_tokens(text.rows(n, n))
    assert set(again) == set(first) and again != first
    other = TrainingText(dataclasses.replace(settings, seed=7))
    assert first_tokens(other.rows(0, n)) != first


def test_the_docstring_shows_a_real_order():
    """First block 4 and stride 3 of 10 blocks."""
    assert [(4 + k * 3) % 10 for k in range(10)] == [4, 7, 0, 3, 6, 9, 2, 5, 8, 1]
    assert "4 7 0 3 6 9 2 5 8 1" in TrainingText.__doc__


@pytest.mark.parametrize("world_size", range(1, 9))
def test_ranks_share_each_batch_without_overlap(tmp_path, world_size):
    """For 1 to 8 ranks the rows of a step are the same rows, each on one rank."""
    settings = wide(write_shards(tmp_path, [8000]), micro_batch_tokens=64)
    text = TrainingText(settings)
    for step in (0, 1, 40):
        dealt = []
        for rank in range(world_size):
            batches = Batches(text, settings, Ranks(rank, world_size))
            parts = batches.get(step)
            made_up = batches.made_up(torch.Generator(), settings.vocab_size)
            assert [p.tokens_BT.shape for p in parts] == [p.tokens_BT.shape for p in made_up]
            assert max(len(p.tokens_BT) for p in parts) <= 2
            dealt += [row for part in parts for row in part.tokens_BT.tolist()]
        assert dealt == text.rows(8 * step, 8).tokens_BT.tolist()


def test_a_batch_smaller_than_the_ranks_is_refused(tmp_path):
    """Every rank needs a row."""
    settings = wide(write_shards(tmp_path, [8000]), train_batch_tokens=96, micro_batch_tokens=96)
    with pytest.raises(ValueError, match=r"TRAIN_BATCH_TOKENS=96 must be at least .*=128"):
        Batches(TrainingText(settings), settings, Ranks(0, 4))


def test_weights_stay_beside_their_tokens():
    """Split and changed together."""
    rows = Rows(torch.arange(12).view(4, 3), torch.arange(8.0).view(4, 2))
    parts = rows.split(3)
    assert [len(part.tokens_BT) for part in parts] == [2, 1, 1]
    for part in parts:
        assert (part.tokens_BT[:, 0] // 3 == part.weights_BT[:, 0] // 2).all()
    doubled = rows.each(lambda values_BT: values_BT * 2)
    assert doubled.weights_BT.sum() == 2 * rows.weights_BT.sum()


def test_random_windows_are_drawn_by_their_position(tmp_path):
    """Everywhere but in what is held out, with repeats, the same for any number of ranks."""
    settings = wide(write_shards(tmp_path, [2000, 1700, 1500]))
    text = RandomWindows(settings)
    rows = text.rows(0, 400)
    assert (rows.tokens_BT.diff(dim=1) == 1).all()
    assert rows.tokens_BT.max() <= text.holdout_T[0]
    assert first_tokens(text.rows(100, 5)) == first_tokens(rows)[100:105]
    assert len({first % 32 for first in first_tokens(rows)}) == 32


def test_a_validation_shard_in_training_is_refused(tmp_path):
    """By path, and by content under another name; other shards of the same length pass."""
    write_shards(tmp_path, [2000, 300], val=300)
    TrainingText(wide(tmp_path))
    copy = tmp_path / "t_train_000009.bin"
    copy.write_bytes((tmp_path / "t_val_000000.bin").read_bytes())
    with pytest.raises(ValueError, match="t_train_000009.bin is the validation .*t_val_000000"):
        TrainingText(wide(tmp_path))
    copy.unlink()
    copy.symlink_to(tmp_path / "t_val_000000.bin")
    with pytest.raises(ValueError, match="is the validation shard"):
        TrainingText(wide(tmp_path))


def test_shards_of_another_tokenizer_or_too_little_text_are_refused(tmp_path):
    """The error names the file and the setting that it does not fit."""
    write_shards(tmp_path, [4000])
    with pytest.raises(ValueError, match="holds token 4001, outside VOCAB_SIZE=1024"):
        TrainingText(tiny(data_path=str(tmp_path)))
    long = dict(train_seq_len=128, train_batch_tokens=128, micro_batch_tokens=128)
    with pytest.raises(ValueError, match="at least 50 blocks of TRAIN_SEQ_LEN=128"):
        TrainingText(wide(tmp_path, **long))
