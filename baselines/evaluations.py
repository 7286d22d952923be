"""Score a run by a named evaluation: the losses that the reference models were reported with.

    python -m baselines.evaluations recipe logs/<run_id>     # that of its recipe, on its own text
    python -m baselines.evaluations wikitext103 logs/<run_id> --tokens DIR_OR_SHARD...
    python -m baselines.evaluations gpt2_val logs/<run_id>/artifact.pgz --tokens DIR --tokenizer DIR
    python -m baselines.evaluations preln_val logs/<run_id>/checkpoint.pt --tokens DIR --seed 7

    wikitext103   windows of 1,024 that do not overlap and share no context; EOS is not a target
    gpt2_val      the first 20 batches of 64 x 1,024 tokens, in order
    preln_val     50 batches of 12 x 512 tokens at random places

A run's folder is scored by its artifact, as packed, or by its checkpoint if it has no artifact. A
checkpoint is scored by the weights that it exports. Tokens are those of shards, or of a folder's
validation split (`golf.py data build --corpus wikitext-103` writes that text). Each evaluation
prints nats in all, targets, perplexity, and bits per byte by the run's tokenizer.

Perplexities compare with the same tokenizer only. Numbers of two evaluations do not compare: a
sliding window is yet another evaluation, see evaluate.py.

Exit status 0; 2 where there is nothing to score.

Shapes: B rows, T tokens, V vocabulary, W windows, S scored targets.
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import evaluate
from baselines.models import gpt2, preln
from data import gpt2_tokenizer
from engine.open_model import Opened, open_model
from engine.shards import find_shards, read_shard, sidecar_path

EOS_ID = 2  # of SentencePiece models; the end of a text of GPT-2's vocabulary is its table's bos_id


@dataclass(frozen=True)
class Evaluation:
    """Which windows are scored.

    With rows and batches of 0 the whole text is taken, one window after another.
    """

    seq_len: int
    rows: int = 0
    batches: int = 0
    at_random: bool = False
    skips_eos: bool = False

    @property
    def num_windows(self) -> int:
        """0: as many as the text has."""
        return self.rows * self.batches


EVALUATIONS = {
    "wikitext103": Evaluation(1024, skips_eos=True),
    "gpt2_val": Evaluation(1024, rows=64, batches=20),
    "preln_val": Evaluation(512, rows=12, batches=50, at_random=True),
}
OF_RECIPE = "recipe"  # in place of a name: the evaluation that the run's settings name
NAMES = ", ".join(EVALUATIONS)


# Windows and their score --------------------------------------------------------------------------


def window_starts(evaluation: Evaluation, num_tokens: int, seed: int = 0) -> np.ndarray:
    """The first input of every window W; where the whole text is taken, the last may be short.

    2,050 tokens, of which 2,049 are inputs, give the windows 0, 1024 and 2048 of wikitext103; the
    last of them has one input.

    Raises: ValueError where the text is shorter than the evaluation needs.
    """
    T = evaluation.seq_len
    count = evaluation.num_windows
    if evaluation.at_random:
        least = T + 1
    elif count:
        least = count * T + 1
    else:
        least = 2
    if num_tokens < least:
        raise ValueError(f"{num_tokens} tokens must be {least} at least; give more with --tokens")
    if evaluation.at_random:
        return np.random.default_rng(seed).integers(0, num_tokens - T, size=count)
    end = count * T if count else num_tokens - 1
    return np.arange(0, end, T)


def score_at(
    logits_fn,
    tokens_T: np.ndarray,
    bytes_T: np.ndarray,
    starts_W: np.ndarray,
    seq_len: int,
    vocab_size: int,
    skipped_id: int | None = None,
    device: str = "cpu",
    batch_tokens: int = evaluate.BATCH_TOKENS,
) -> evaluate.Score:
    """Nats, targets and bytes of the windows; every target but skipped_id counts.

    logits_fn maps tokens_BT to logits_BTV. batch_tokens bound one forward pass; they are fewer in
    proportion where the vocabulary is large.

    Raises: ValueError for tokens outside the vocabulary, and logits of another shape or not finite.
    """
    highest = int(tokens_T.max())
    if highest >= vocab_size:
        raise ValueError(f"token {highest} must be below {vocab_size=}; give its own shards")
    large = evaluate.LARGE_VOCABULARY
    most_tokens = batch_tokens * large // max(large, vocab_size)
    width = min(seq_len, len(tokens_T) - 1)
    rows = max(1, most_tokens // width)
    total = evaluate.Score(0.0, 0, 0)
    for first in range(0, len(starts_W), rows):
        starts_B = starts_W[first : first + rows]
        total += score_batch(
            logits_fn, tokens_T, bytes_T, starts_B, width, vocab_size, skipped_id, device
        )
    if not total.tokens:
        raise ValueError(f"every target is {skipped_id}, which is not scored; give text")
    return total


def score_batch(
    logits_fn,
    tokens_T: np.ndarray,
    bytes_T: np.ndarray,
    starts_B: np.ndarray,
    width: int,
    vocab_size: int,
    skipped_id: int | None,
    device: str,
) -> evaluate.Score:
    """The score of one forward pass: log-softmax in float32, sums in float64."""
    last = len(tokens_T) - 1
    place_BT = starts_B[:, None] + np.arange(width)
    # A short window is filled up on the right, where a causal model does not look.
    input_BT = tokens_T[np.minimum(place_BT, last)].astype(np.int64)
    target_place_BT = np.minimum(place_BT + 1, last)
    target_BT = tokens_T[target_place_BT].astype(np.int64)
    is_scored_BT = place_BT < last
    if skipped_id is not None:
        is_scored_BT &= target_BT != skipped_id

    with torch.no_grad():
        logits_BTV = logits_fn(torch.from_numpy(input_BT).to(device))
        shape = tuple(logits_BTV.shape)
        expected = (*input_BT.shape, vocab_size)
        if shape != expected:
            raise ValueError(f"logits of shape {shape} must be {expected}")
        row_S = torch.from_numpy(np.flatnonzero(is_scored_BT)).to(device)
        target_S = torch.from_numpy(target_BT[is_scored_BT]).to(device)
        logits_SV = logits_BTV.flatten(0, 1)[row_S].float()
        nats_S = F.cross_entropy(logits_SV, target_S, reduction="none")
        nats = nats_S.double().sum().item()
    if not math.isfinite(nats):
        raise ValueError(f"the loss of windows from token {starts_B[0]} is {nats}; train again")
    num_bytes = int(bytes_T[target_place_BT][is_scored_BT].sum(dtype=np.int64))
    return evaluate.Score(nats, len(target_S), num_bytes)


def read_tokens(paths: list[Path], table: evaluate.ByteTable) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of shards, or of folders' validation, as one stream; and the bytes of each.

    Raises: engine.shards.ShardError; FileNotFoundError; ValueError for tokens of another tokenizer.
    """
    shards = []
    for path in paths:
        shards += find_shards(path, "val") if path.is_dir() else [path]
    tokens_T = np.concatenate([read_shard(shard) for shard in shards])
    highest = int(tokens_T.max())
    if highest >= table.vocab_size:
        raise ValueError(
            f"token {highest} is not one of {table.vocab_size}; name the shards' own tokenizer"
            " with --tokenizer"
        )
    sidecars = [sidecar_path(shard) for shard in shards]
    if table.needs_sidecar or any(path.exists() for path in sidecars):
        bytes_T = np.concatenate([read_shard(path) for path in sidecars])
        if len(bytes_T) != len(tokens_T):
            raise ValueError(f"{sidecars[0]}: {len(bytes_T)} entries for {len(tokens_T)} tokens")
        return tokens_T, bytes_T
    before_T = np.append(table.bos_id, tokens_T[:-1])
    return tokens_T, table.count(before_T, tokens_T)


# The command --------------------------------------------------------------------------------------


def choose_name(args: argparse.Namespace, opened: Opened) -> str:
    """The evaluation that was asked for, or that of the recipe. Raises: ValueError for no name."""
    name = args.name
    if name == OF_RECIPE:
        saved = opened.run_settings
        # Runs from before it was renamed call the setting val_protocol.
        name = saved.get("val_evaluation") or saved.get("val_protocol")
    if not name:
        raise ValueError(f"{args.run} is of no recipe with an evaluation; name one of {NAMES}")
    if name not in EVALUATIONS:
        raise ValueError(
            f"VAL_EVALUATION={name} of {args.run} must be one of {NAMES}; name one of them"
        )
    return name


def with_length(evaluation: Evaluation, args: argparse.Namespace) -> Evaluation:
    """The evaluation with the length of --seq-len. Raises: ValueError for a length below 1."""
    if args.seq_len is None:
        return evaluation
    if args.seq_len < 1:
        raise ValueError(f"--seq-len {args.seq_len} must be at least 1")
    return replace(evaluation, seq_len=args.seq_len)


def refuse_too_long(evaluation: Evaluation, name: str, opened: Opened) -> None:
    """Raises: ValueError where the model has learned fewer positions than a window has tokens."""
    learns_positions = isinstance(opened.model, gpt2.GPT | preln.GPT)
    if learns_positions and evaluation.seq_len > opened.seq_len:
        raise ValueError(
            f"{opened.path} has {opened.seq_len} positions, not the {evaluation.seq_len} of {name};"
            f" set --seq-len {opened.seq_len}, which the evaluation's name then tells"
        )


def check_device(device: str) -> None:
    """Raises: ValueError for a device that this machine does not have."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises either
        raise ValueError(f"--device {device}: {error}; choose another") from None


def run(args: argparse.Namespace) -> dict:
    """Score as the arguments ask; returns what is printed. Raises: ValueError, OSError."""
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must be at least 0")
    check_device(args.device)
    opened = open_model(args.run, args.device, compile=False)
    name = choose_name(args, opened)
    evaluation = with_length(EVALUATIONS[name], args)
    tokenizer = args.tokenizer or opened.run_settings.get("tokenizer_path")
    if not tokenizer:
        raise ValueError(f"{args.run} does not say its tokenizer; name it with --tokenizer")
    refuse_too_long(evaluation, name, opened)
    vocab_size = opened.model_settings["vocab_size"]
    table = gpt2_tokenizer.byte_table(tokenizer, vocab_size)
    texts = args.tokens
    if not texts:
        if "data_path" not in opened.run_settings:
            raise ValueError(
                f"{args.run} does not say its text; name shards or a folder with --tokens"
            )
        texts = [Path(opened.run_settings["data_path"])]
    tokens_T, bytes_T = read_tokens(texts, table)
    starts_W = window_starts(evaluation, len(tokens_T), args.seed)
    skipped_id = None
    if evaluation.skips_eos:
        skipped_id = EOS_ID if table.bos_id == evaluate.BOS_ID else table.bos_id
    score = score_at(
        opened.model,
        tokens_T,
        bytes_T,
        starts_W,
        evaluation.seq_len,
        vocab_size,
        skipped_id,
        args.device,
    )
    is_usual = evaluation.seq_len == EVALUATIONS[name].seq_len
    return {
        "evaluation": name if is_usual else f"{name}@{evaluation.seq_len}",
        "recipe": opened.recipe.name if opened.recipe else None,
        "file": str(opened.path),
        "windows": len(starts_W),
        "seq_len": evaluation.seq_len,
        **({"seed": args.seed} if evaluation.at_random else {}),
        "skipped_id": skipped_id,
        "nats": score.nats,
        "targets": score.tokens,
        "bytes": score.bytes,
        "loss": score.loss,
        "perplexity": math.exp(score.loss),
        "bpb": score.bpb,
    }


def main(argv: list[str] | None = None) -> int:
    purpose = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="baselines.evaluations", description=purpose)
    add = parser.add_argument
    add("name", choices=[OF_RECIPE, *EVALUATIONS], metavar="NAME", help=f"{OF_RECIPE}, {NAMES}")
    add("run", type=Path, metavar="RUN_OR_ARTIFACT")
    add("--tokens", type=Path, nargs="+", metavar="PATH", help="shards or folders (the run's)")
    add("--tokenizer", type=Path, help="of these shards (that of the run)")
    add("--seq-len", type=int, help="another length than the usual, which the name then tells")
    add("--seed", type=int, default=0, help="of preln_val's places (%(default)s)")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args(argv)
    try:
        figures = run(args)
    except (ValueError, OSError) as error:
        print("baselines.evaluations:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    if args.json:
        print(json.dumps(figures))
        return 0
    for name, value in figures.items():
        if isinstance(value, float):
            figures[name] = f"{value:.8f}"
    print(*(f"{name}:{value}" for name, value in figures.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
