"""What a model trains on: rows of tokens from the shards, and each step's batch for each rank.

Dimensions: B rows, T tokens.
"""

import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.ranks import Ranks
from engine.settings import RunSettings
from engine.shards import find_shards, read_shard

HOLDOUT_TOKENS = 524_288  # at most, and at most 16 batches or 2 % of the training text
HOLDOUT_BATCHES = 16
HOLDOUT_SHARE = 50  # one block in so many
HEAD_TOKENS = 65_536  # two shards that begin with the same ones are the same text
CHECKED_TOKENS = 1_000_000  # of each shard, for ids outside the vocabulary


@dataclass(frozen=True)
class Rows:
    """Rows for training: tokens_BT, T being one more than the inputs, and what each target counts.

    weights_BT is None where every target counts once.
    """

    tokens_BT: Tensor
    weights_BT: Tensor | None = None

    def each(self, change: Callable[[Tensor], Tensor]) -> "Rows":
        """The rows with both tensors changed in one way."""
        weights_BT = self.weights_BT
        return Rows(change(self.tokens_BT), None if weights_BT is None else change(weights_BT))

    def split(self, parts: int) -> list["Rows"]:
        """So many Rows, of numbers of rows that differ by one at most."""
        tokens = self.tokens_BT.tensor_split(parts)
        if self.weights_BT is None:
            return [Rows(part) for part in tokens]
        weights = self.weights_BT.tensor_split(parts)
        return [Rows(*pair) for pair in zip(tokens, weights, strict=True)]


class TrainingText:
    """Blocks of seq_len + 1 tokens from memory-mapped shards, in a seeded order without repeats.

    The blocks of all shards form one list. It is visited with a stride coprime to its length, so
    that every block comes once an epoch, neighbours in a batch are far apart, and the place in the
    data is one integer. Of 10 blocks, with first block 4 and stride 3: 4 7 0 3 6 9 2 5 8 1.
    The last blocks of the last shard are held out: averages are chosen and packing is checked on
    them, without validation text.

    Source: the coprime stride is upstream PR #1060's, here over all shards at once.
    Raises: ValueError for a shard that is too short, out of vocabulary, or also a validation shard.
    """

    weighs_targets = False  # whether `rows` returns weights_BT

    def __init__(self, settings: RunSettings):
        self.seq_len = settings.train_seq_len
        self.seed = settings.seed
        paths = find_shards(settings.data_path, "train")
        self.shards = [read_shard(path, verify=False) for path in paths]
        self._refuse_unfit_shards(paths, settings)
        blocks = [max(0, len(shard) - 1) // self.seq_len for shard in self.shards]
        holdout = self._holdout_blocks(blocks, settings)
        blocks[-1] -= holdout
        self.holdout_start = blocks[-1] * self.seq_len  # in the last shard
        end = self.holdout_start + holdout * self.seq_len + 1
        self.holdout_T = self.shards[-1][self.holdout_start : end]
        self.ends = np.cumsum(blocks)  # of each shard, counted in blocks
        self.num_blocks = int(self.ends[-1])

    def _refuse_unfit_shards(self, paths: list[Path], settings: RunSettings) -> None:
        validation_of_head = {}
        for path in find_shards(settings.data_path, "val"):
            head = read_shard(path, verify=False)[:HEAD_TOKENS]
            validation_of_head[head.tobytes()] = path
        for path, shard in zip(paths, self.shards, strict=True):
            highest = int(shard[:CHECKED_TOKENS].max(initial=0))
            if highest >= settings.vocab_size:
                raise ValueError(
                    f"{path} holds token {highest}, outside VOCAB_SIZE={settings.vocab_size}; its"
                    " tokenizer is another one"
                )
            twin = validation_of_head.get(shard[:HEAD_TOKENS].tobytes())
            if twin:
                raise ValueError(
                    f"{path} is the validation shard {twin}; training on it is not legal: remove it"
                    " from the training files"
                )

    def _holdout_blocks(self, blocks: list[int], settings: RunSettings) -> int:
        most_tokens = min(HOLDOUT_TOKENS, HOLDOUT_BATCHES * settings.train_batch_tokens)
        holdout = min(most_tokens // self.seq_len, sum(blocks) // HOLDOUT_SHARE, blocks[-1] - 1)
        if holdout < 1:
            raise ValueError(
                f"{settings.data_path} must hold at least {HOLDOUT_SHARE} blocks of TRAIN_SEQ_LEN="
                f"{self.seq_len} tokens, not {sum(blocks)}, and 2 in its last shard"
            )
        return holdout

    def order(self, epoch: int) -> tuple[int, int]:
        """(first block, stride) of one pass over the blocks."""
        rng = np.random.default_rng((self.seed, epoch))
        first, stride = (int(n) for n in rng.integers(1, self.num_blocks + 1, size=2))
        while math.gcd(stride, self.num_blocks) != 1:
            stride += 1
        return first, stride

    def places(self, position: int, count: int) -> list[int]:
        """The blocks at count positions of the seeded order, from a position in the run."""
        blocks = []
        order_of = {}
        for i in range(position, position + count):
            epoch, k = divmod(i, self.num_blocks)
            if epoch not in order_of:
                order_of[epoch] = self.order(epoch)
            first, stride = order_of[epoch]
            blocks.append((first + k * stride) % self.num_blocks)
        return blocks

    def rows(self, position: int, count: int) -> Rows:
        """The count rows from a position in the seeded order; T is seq_len + 1."""
        tokens_BT = np.empty((count, self.seq_len + 1), dtype=np.uint16)
        for row_T, block in zip(tokens_BT, self.places(position, count), strict=True):
            shard = int(np.searchsorted(self.ends, block, side="right"))
            first_of_shard = int(self.ends[shard - 1]) if shard else 0
            start = (block - first_of_shard) * self.seq_len
            row_T[:] = self.shards[shard][start : start + self.seq_len + 1]
        return Rows(torch.from_numpy(tokens_BT.astype(np.int64)))


class RandomWindows(TrainingText):
    """Rows at places drawn anew each time, all equally likely, from the same text as blocks are."""

    def __init__(self, settings: RunSettings):
        super().__init__(settings)
        sizes = [len(shard) for shard in self.shards]
        sizes[-1] = self.holdout_start + 1  # the last target of a window may be the first held out
        self.start_ends = np.cumsum([max(0, size - self.seq_len) for size in sizes])

    def rows(self, position: int, count: int) -> Rows:
        """The count rows from a position in the run; T is seq_len + 1.

        A row's position seeds its place, so ranks and resumed runs draw the same.
        """
        rows = []
        for i in range(position, position + count):
            at = int(np.random.default_rng((self.seed, i)).integers(self.start_ends[-1]))
            shard = int(np.searchsorted(self.start_ends, at, side="right"))
            start = at - (int(self.start_ends[shard - 1]) if shard else 0)
            rows.append(self.shards[shard][start : start + self.seq_len + 1])
        return Rows(torch.from_numpy(np.stack(rows).astype(np.int64)))


class Batches:
    """This rank's rows of every global batch, the next one read while the current one trains.

    Rows are dealt by their place in the global batch, so the number of ranks and the micro-batch
    size change who computes a row, never which rows make a step.
    """

    def __init__(self, text: TrainingText, settings: RunSettings, ranks: Ranks):
        self.text = text
        self.device = ranks.device
        self.rows = settings.train_batch_tokens // settings.train_seq_len  # over all ranks
        if self.rows < ranks.world_size:
            least = ranks.world_size * settings.train_seq_len
            raise ValueError(
                f"TRAIN_BATCH_TOKENS={settings.train_batch_tokens} must be at least"
                f" WORLD_SIZE*TRAIN_SEQ_LEN={least}"
            )
        self.first = self.rows * ranks.rank // ranks.world_size
        self.count = self.rows * (ranks.rank + 1) // ranks.world_size - self.first
        self.parts = -(-self.count * settings.train_seq_len // settings.micro_batch_tokens)
        self.reader = ThreadPoolExecutor(1)
        self.ready_step: int | None = None
        self.ready: Future[Rows]

    def read(self, step: int) -> Rows:
        rows = self.text.rows(step * self.rows + self.first, self.count)
        # From pinned memory the copy to the device goes on beside other work.
        return rows.each(Tensor.pin_memory) if self.device.type == "cuda" else rows

    def get(self, step: int) -> list[Rows]:
        """The micro-batches of a step; begins to read those of the next."""
        rows = self.ready.result() if self.ready_step == step else self.read(step)
        self.ready_step = step + 1
        self.ready = self.reader.submit(self.read, step + 1)
        rows = rows.each(lambda values_BT: values_BT.to(self.device, non_blocking=True))
        return rows.split(self.parts)

    def made_up(self, rng: torch.Generator, vocab_size: int) -> list[Rows]:
        """Random tokens, every target counting once, in the shapes that `get` returns."""
        shape = (self.count, self.text.seq_len + 1)
        tokens_BT = torch.randint(vocab_size, shape, generator=rng)
        weights_BT = None
        if self.text.weighs_targets:
            weights_BT = torch.ones(self.count, self.text.seq_len)
        rows = Rows(tokens_BT, weights_BT).each(lambda values_BT: values_BT.to(self.device))
        return rows.split(self.parts)
