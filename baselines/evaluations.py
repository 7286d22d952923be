"""Score a run by a named protocol: the losses that the reference models were reported with.

    python -m baselines.evaluations recipe logs/<run_id>     # that of its recipe, on its own text
    python -m baselines.evaluations wikitext103 logs/<run_id> --tokens DIR_OR_SHARD...
    python -m baselines.evaluations gpt2_val logs/<run_id>/artifact.pgz --tokens DIR --tokenizer DIR
    python -m baselines.evaluations preln_val logs/<run_id>/checkpoint.pt --tokens DIR --seed 7

    wikitext103   windows of 1,024 that do not overlap and share no context; EOS is no target
    gpt2_val      the first 20 batches of 64 x 1,024 tokens, in order
    preln_val     50 batches of 12 x 512 tokens at random places

A run's folder is scored by its artifact, as packed; a checkpoint by the weights that it exports, or
as trained. Tokens are those of shards, or of a folder's validation split (`data.prepare build
--corpus wikitext-103` writes that text). Each protocol prints nats in all, targets, perplexity, and
bits per byte by the run's tokenizer. Perplexities compare with the same tokenizer only, and no
protocol's numbers with another's: a sliding window is another protocol, see evaluate.py.

Exit status 0; 2 where there is nothing to score.
"""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import evaluate
import quantize
from baselines import gpt2, preln, train
from data import gpt2_tokenizer

EOS_ID = 2  # of SentencePiece models; GPT-2's mark is the table's own


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Which windows are scored; rows and batches of 0: the whole text, one window after another."""

    seq_len: int
    rows: int = 0
    batches: int = 0
    at_random: bool = False
    skips_eos: bool = False


PROTOCOLS = {
    "wikitext103": Protocol(1024, skips_eos=True),
    "gpt2_val": Protocol(1024, rows=64, batches=20),
    "preln_val": Protocol(512, rows=12, batches=50, at_random=True),
}
RECIPE, NAMES = "recipe", ", ".join(PROTOCOLS)


def plan(protocol: Protocol, num_tokens: int, seed: int = 0) -> np.ndarray:
    """First input of every window W; the last one may be short where the text is taken whole.

    Raises: ValueError where the text is shorter than the protocol needs.
    """
    count, T = protocol.rows * protocol.batches, protocol.seq_len
    need = T + 1 if protocol.at_random else count * T + 1 if count else 2
    if num_tokens < need:
        raise ValueError(f"{num_tokens} tokens must be {need} at least; give more with --tokens")
    if protocol.at_random:
        return np.random.default_rng(seed).integers(0, num_tokens - T, size=count)
    return np.arange(0, count * T if count else num_tokens - 1, T)


def score(
    logits_fn, tokens_T: np.ndarray, bytes_T: np.ndarray, starts_W: np.ndarray, seq_len: int,
    vocab_size: int, skipped_id: int | None = None, device="cpu",
    batch_tokens: int = evaluate.BATCH_TOKENS,
) -> evaluate.Score:  # fmt: skip
    """Nats, targets and bytes of the windows, each target but skipped_id counted.

    logits_fn maps tokens_BT to logits_BTV; log-softmax in float32, sums in float64. Short windows
    are filled up on the right, where a causal model does not look.
    Raises: ValueError for tokens outside the vocabulary, and logits of another shape or not finite.
    """
    if int(tokens_T.max()) >= vocab_size:
        raise ValueError(f"token {tokens_T.max()} must be below {vocab_size=}; give its own shards")
    total, limit = evaluate.Score(0.0, 0, 0), batch_tokens * 8192 // max(8192, vocab_size)
    width = min(seq_len, len(tokens_T) - 1)
    rows = max(1, limit // width)
    for part_B in np.split(starts_W, range(rows, len(starts_W), rows)):
        at_BT = part_B[:, None] + np.arange(width)
        target_BT = np.minimum(at_BT + 1, len(tokens_T) - 1)
        scored_BT = at_BT + 1 < len(tokens_T)
        if skipped_id is not None:
            scored_BT &= tokens_T[target_BT] != skipped_id
        input_BT = tokens_T[np.minimum(at_BT, len(tokens_T) - 1)].astype(np.int64)
        with torch.no_grad():
            logits_BTV = logits_fn(torch.from_numpy(input_BT).to(device))
            if tuple(logits_BTV.shape) != (*input_BT.shape, vocab_size):
                want = (*input_BT.shape, vocab_size)
                raise ValueError(f"logits of shape {tuple(logits_BTV.shape)} must be {want}")
            place_S = torch.from_numpy(np.flatnonzero(scored_BT)).to(device)
            target_S = torch.from_numpy(tokens_T[target_BT][scored_BT].astype(np.int64)).to(device)
            logits_SV = logits_BTV.flatten(0, 1)[place_S].float()
            nats = F.cross_entropy(logits_SV, target_S, reduction="none").double().sum().item()
        if not math.isfinite(nats):
            raise ValueError(f"the loss of windows from token {part_B[0]} is {nats}; train again")
        size = int(bytes_T[target_BT][scored_BT].sum(dtype=np.int64))
        total += evaluate.Score(nats, len(target_S), size)
    if not total.tokens:
        raise ValueError(f"every target is {skipped_id}, which is not scored; give text")
    return total


def read_tokens(paths: list[Path], table: evaluate.ByteTable) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of shards, or of folders' validation, as one stream; and the bytes of each.

    Raises: evaluate.ShardError; FileNotFoundError.
    """
    shards = []
    for path in paths:
        shards += evaluate.find_shards(path, "val") if path.is_dir() else [path]
    tokens_T = np.concatenate([evaluate.read_shard(shard) for shard in shards])
    if int(tokens_T.max()) >= len(table.base_bytes_V):
        what = f"token {tokens_T.max()} is not one of {len(table.base_bytes_V)}"
        raise ValueError(f"{what}; name the shards' own tokenizer with --tokenizer")
    sidecars = [evaluate.sidecar_path(shard) for shard in shards]
    if table.needs_sidecar or any(path.exists() for path in sidecars):
        bytes_T = np.concatenate([evaluate.read_shard(path) for path in sidecars])
        if len(bytes_T) != len(tokens_T):
            raise ValueError(f"{sidecars[0]}: {len(bytes_T)} entries for {len(tokens_T)} tokens")
        return tokens_T, bytes_T
    before_T = np.append(table.bos_id, tokens_T[:-1])
    return tokens_T, table.count(before_T, tokens_T)


def load(path: Path, device: str) -> tuple[nn.Module, dict]:
    """The model of a run's folder, artifact or checkpoint, golf's or a baseline's, and its facts.

    These are the settings of the file, over those of the run where it lies in its folder.
    Raises: FileNotFoundError; ValueError for a file that is neither, or of another version.
    """
    path = path / "artifact.pgz" if path.is_dir() else path
    if not path.is_file():
        what = f"no artifact at {path}; give a run that has finished, an artifact or a checkpoint"
        raise FileNotFoundError(what)
    with open(path, "rb") as file:
        packed = file.read(len(quantize.MAGIC)) == quantize.MAGIC
    found = quantize.decode(path.read_bytes()) if packed else quantize.load_checkpoint(path)
    weights, settings = found
    saved = path.with_name("settings.json")
    known = json.loads(saved.read_text()) if saved.exists() else {}
    try:
        model = train.load(settings, weights, device)
    except ValueError as error:
        raise ValueError(f"{path}: {error}; train again") from None
    return model, known | settings | {"file": path}


def run(args: argparse.Namespace) -> dict:
    """Score as asked; returns what is printed. Raises: ValueError, OSError."""
    if args.seed < 0:
        raise ValueError(f"--seed {args.seed} must be at least 0")
    try:
        torch.empty(0, device=args.device)
    except (RuntimeError, AssertionError) as error:  # torch's, for what this machine lacks
        raise ValueError(f"--device {args.device}: {error}; choose another") from None
    model, known = load(args.run, args.device)
    name = known.get("val_protocol") if args.name == RECIPE else args.name
    if not name:
        raise ValueError(f"{args.run} is of no recipe with a protocol; name one of {NAMES}")
    if name not in PROTOCOLS:
        raise ValueError(f"VAL_PROTOCOL={name} of {args.run} must be one of {NAMES}; name one")
    protocol = PROTOCOLS[name]
    if args.seq_len is not None:
        if args.seq_len < 1:
            raise ValueError(f"--seq-len {args.seq_len} must be at least 1")
        protocol = dataclasses.replace(protocol, seq_len=args.seq_len)
    tokenizer = args.tokenizer or known.get("tokenizer_path")
    if not tokenizer:
        raise ValueError(f"{args.run} does not say its tokenizer; name it with --tokenizer")
    places = known.get("seq_len") if train.FILES.get(known.get("system")) in (gpt2, preln) else None
    if places and protocol.seq_len > places:
        what = f"{args.run} has {places} positions, not the {protocol.seq_len} of {name}"
        raise ValueError(f"{what}; set --seq-len {places}, which the protocol's name then tells")
    V = known["vocab_size"]
    table = gpt2_tokenizer.byte_table(tokenizer, V)
    texts = args.tokens or [Path(known["data_path"])] * ("data_path" in known)
    if not texts:
        raise ValueError(f"{args.run} does not say its text; name shards or a folder with --tokens")
    tokens_T, bytes_T = read_tokens(texts, table)
    starts_W = plan(protocol, len(tokens_T), args.seed)
    skipped = (EOS_ID if table.bos_id == evaluate.BOS_ID else table.bos_id) if (
        protocol.skips_eos) else None  # fmt: skip
    found = score(model, tokens_T, bytes_T, starts_W, protocol.seq_len, V, skipped, args.device)
    usual = PROTOCOLS[name].seq_len
    return {
        "protocol": name if protocol.seq_len == usual else f"{name}@{protocol.seq_len}",
        "system": known.get("system", "golf"),
        "file": str(known["file"]),
        "windows": len(starts_W),
        "seq_len": protocol.seq_len,
        **({"seed": args.seed} if protocol.at_random else {}),
        "skipped_id": skipped,
        "nats": found.nats,
        "targets": found.tokens,
        "bytes": found.bytes,
        "loss": found.loss,
        "perplexity": math.exp(found.loss),
        "bpb": found.bpb,
    }


def main(argv: list[str] | None = None) -> int:
    about = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="baselines.evaluations", description=about)
    add = parser.add_argument
    add("name", choices=[RECIPE, *PROTOCOLS], metavar="NAME", help=f"{RECIPE}, {NAMES}")
    add("run", type=Path, metavar="RUN_OR_ARTIFACT")
    add("--tokens", type=Path, nargs="+", metavar="PATH", help="shards or folders (the run's)")
    add("--tokenizer", type=Path, help="of these shards (that of the run)")
    add("--seq-len", type=int, help="another length than the protocol's, which its name then tells")
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
    else:
        shown = {k: f"{v:.8f}" if isinstance(v, float) else v for k, v in figures.items()}
        print(*(f"{name}:{value}" for name, value in shown.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
