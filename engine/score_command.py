"""The command line of evaluate.py: open a model, read the text that it is scored on, and score.

    python evaluate.py logs/<run_id> --ttt

    score mode:documents stride:128 isolate:1 val_loss:4.11 val_bpb:2.37 ... eval_time:7300ms
    score mode:ttt stride:128 isolate:1 ...
    unigram val_loss:6.02 ...
    final val_loss:4.05 ...                      the last score, which is the model's

It lies apart from evaluate.py because it opens models of any recipe and any age, which a run does
not: the code of a submission is smaller without it.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.flop_counter import FlopCounterMode

from engine import log_lines
from engine.open_model import Opened, open_model
from engine.ranks import Ranks
from evaluate import (
    AdaptFunction,
    BatchNats,
    ByteTable,
    DocumentAdapter,
    Ledger,
    Scheme,
    count_forward_tokens,
    count_targets,
    document_spans,
    log_final,
    plan_batches,
    plan_groups,
    plan_windows,
    read_group,
    read_validation,
    require,
    score_and_log,
)

CHUNK_TOKENS = 32_768  # targets between two rounds of training on a stream
H100_FLOPS = 989e12  # dense bf16, by the data sheet
H100_SHARE = 0.25  # of that, in a forward pass of our models: an estimate, not measured


def score_artifact(args: argparse.Namespace, ranks: Ranks, log: Callable[[str], None]) -> dict:
    """Open a model, check the bytes of the text, and score."""
    opened = open_model(args.model, ranks.device, trust=args.trust)
    saved = opened.run_settings
    data_path = args.data or saved.get("data_path")
    tokenizer_path = args.tokenizer or saved.get("tokenizer_path")
    for value, flag in ((data_path, "--data"), (tokenizer_path, "--tokenizer")):
        require(value, f"{opened.path} lies in no run's folder; pass {flag}")
    vocab_size = opened.model_settings["vocab_size"]
    if opened.recipe is None:
        table = ByteTable.from_sentencepiece(tokenizer_path, vocab_size)
    else:
        table = opened.recipe.byte_table(tokenizer_path, vocab_size)
    tokens_T, table = read_validation(data_path, table)
    if table.sidecar_T is None:
        table.check(tokenizer_path, tokens_T)
    scheme = chosen_scheme(args, opened)
    context = {"seq_len": scheme.seq_len, "stride": scheme.stride, "isolate": scheme.isolate}
    adapter = None
    if args.ttt:
        adapter = opened.recipe and opened.recipe.adapter(opened.model, scheme.seq_len, ranks)
        require(adapter, f"--ttt: {opened.path} has no test-time adapter; score without it")
    if args.plan:
        log_plan(opened.model, tokens_T, table, scheme, ranks, log, adapter)
        return context | asdict(plan_of(tokens_T, scheme, table))
    results = score_by_modes(
        opened.model,
        tokens_T,
        table,
        scheme,
        ranks,
        blocks=args.blocks,
        adapter=adapter,
        log=log,
    )
    return context | {"ttt": args.ttt} | results


def chosen_scheme(args: argparse.Namespace, opened: Opened) -> Scheme:
    """That of the run, but for what the command says. Raises: ValueError for a bad stride."""
    saved = opened.run_settings
    seq_len = opened.seq_len if args.seq_len is None else args.seq_len
    stride = args.stride
    if stride is None:
        stride = min(saved.get("eval_stride", 64), seq_len)
    isolate = saved.get("eval_documents", False) if args.isolate is None else args.isolate
    return Scheme(seq_len, stride, isolate, repeat_weights=opened.repeat_weights)


# Modes --------------------------------------------------------------------------------------------


def score_by_modes(
    model,
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    ranks: Ranks | None = None,
    *,
    blocks: bool = False,
    adapter: AdaptFunction | DocumentAdapter | None = None,
    log: Callable[[str], None] = print,
) -> dict:
    """Log and return the score by the scheme, and with TTT; the last one is final.

    blocks scores in plain blocks of the stream first. An adapter may change the weights, so it
    comes last. Of one that learns from the stream, the windows before it are cut at the same
    chunks, so that the gain of each chunk can be told.
    Raises: ValueError for an adapter that does not fit the scheme.
    """
    learns_documents = hasattr(adapter, "learn")
    remedy = "score with stride 0" if learns_documents else "score with a stride of 1 or more"
    fits = adapter is None or learns_documents == (scheme.stride == 0)
    require(fits, f"stride={scheme.stride} does not fit the model's test-time adapter; {remedy}")
    learns_stream = adapter is not None and not learns_documents
    if learns_stream:
        scheme = replace(scheme, chunk_tokens=scheme.chunk_tokens or CHUNK_TOKENS)
    results = {}
    text = (tokens_T, table)

    def score(mode: str, scheme: Scheme, **learning) -> dict:
        result = score_and_log(model, *text, scheme, ranks, log=log, **learning)
        results[mode] = {
            "val_loss": result["val_loss"],
            table.metric: result["bpb"],
            "eval_time_ms": result["eval_ms"],
        }
        results["final"] = results[mode]
        return result

    if blocks:
        score("blocks", replace(scheme, stride=scheme.seq_len, isolate=False))
    before = Ledger()
    after = Ledger()
    result = score(scheme.mode, scheme, ledger=before)
    if adapter:
        result = score("ttt", scheme, adapter=adapter, ledger=after)
    results["unigram"] = {table.metric: log_final(result, *text, log).bpb}
    if learns_stream:
        results["chunks"] = _chunk_gains(after, before.nats, table.of_targets(tokens_T))
    return {"targets": result["targets"], "bytes": result["bytes"], **results}


def _chunk_gains(ledger: Ledger, before: list[float], bytes_S: np.ndarray) -> dict:
    """What TTT gains by place: targets, bytes and nats of each chunk (golf.py plot draws it)."""
    first_N = [first for first, _ in ledger.scored]
    return {
        "targets": [end - first for first, end in ledger.scored],
        "bytes": np.add.reduceat(bytes_S, first_N, dtype=np.int64).tolist(),
        "before": before,
        "after": ledger.nats,
    }


# Plans --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a scheme costs and gives, before anything runs."""

    targets: int
    forward_tokens: int  # inputs of all forward passes, filling included
    context_min: int  # inputs that a target is predicted from
    context_median: int

    @property
    def passes(self) -> float:
        """Forward tokens for each target."""
        return self.forward_tokens / self.targets


def plan_of(tokens_T: np.ndarray, scheme: Scheme, table: ByteTable) -> Plan:
    """Count what scoring would do.

    A target of a document that is read once has as context what one layer sees; through deeper
    layers it sees more.
    """
    if scheme.stride == 0:
        start_W, end_W = document_spans(tokens_T, table.bos_id).T
        first_W = start_W
    else:
        start_W, first_W, end_W = plan_windows(tokens_T, scheme, table.bos_id).T
    # Target i of a window is predicted from i - start + 1 inputs, or seq_len. Counted as a
    # histogram: every context from that of first to that of end - 1 occurs once.
    shortest_W = first_W - start_W + 1
    longest_W = np.minimum(end_W - start_W, scheme.seq_len)
    change_T = np.bincount(shortest_W, minlength=scheme.seq_len + 2)
    change_T = change_T - np.bincount(longest_W + 1, minlength=scheme.seq_len + 2)
    targets_T = np.cumsum(change_T)
    targets_T[scheme.seq_len] += (end_W - start_W - longest_W).sum()
    num_targets = len(tokens_T) - 1
    return Plan(
        targets=num_targets,
        forward_tokens=count_forward_tokens(tokens_T, scheme, table),
        context_min=int(shortest_W.min()),
        context_median=int(np.searchsorted(np.cumsum(targets_T), num_targets / 2)),
    )


def log_plan(
    model,
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    ranks: Ranks,
    log: Callable[[str], None],
    adapter: DocumentAdapter | None = None,
) -> None:
    """Say what the scheme costs and gives, before it runs."""
    plan = plan_of(tokens_T, scheme, table)
    batch_nats = BatchNats(model, tokens_T, table, scheme, ranks.device)
    equivalents = plan.passes
    if scheme.stride == 0:
        part, part_tokens = _part_of_one_pass(batch_nats, tokens_T, table, scheme, adapter)
        equivalents *= part(adapter) / part(None)
    else:
        windows_W3 = plan_windows(tokens_T, scheme, table.bos_id)
        batches = plan_batches(windows_W3, scheme, table.vocab_size)
        batch = batches[len(batches) // 2]
        part_tokens = batch.rows * batch.width

        def part(adapter):
            with torch.no_grad():
                batch_nats(batch).item()

        part(None)  # the first pass may compile
    started = time.perf_counter()
    part(adapter)
    seconds = (time.perf_counter() - started) * plan.forward_tokens / part_tokens
    seconds_h100 = math.nan
    if hasattr(model, "flops_per_token"):
        # A forward pass is a third of a training step.
        flops = model.flops_per_token(scheme.seq_len) / 3 * plan.forward_tokens
        seconds_h100 = flops / (H100_FLOPS * H100_SHARE)
    log(
        log_lines.PLAN.write(
            mode=scheme.mode,
            stride=scheme.stride,
            targets=plan.targets,
            forward_tokens=plan.forward_tokens,
            passes=plan.passes,
            equivalents=equivalents,
            context_min=plan.context_min,
            context_median=plan.context_median,
            seconds=seconds / ranks.world_size,
            seconds_h100=seconds_h100,
        )
    )


def _part_of_one_pass(
    batch_nats: BatchNats,
    tokens_T: np.ndarray,
    table: ByteTable,
    scheme: Scheme,
    adapter: DocumentAdapter | None,
) -> tuple[Callable, int]:
    """A function that reads the beginning of some documents, and how many inputs those are.

    It takes an adapter, or None, and returns the floating-point operations of its products.
    """
    groups = plan_groups(tokens_T, scheme, table, adapter)
    begin_D, end_D = groups[len(groups) // 2].T
    end_D = np.minimum(end_D, begin_D + scheme.seq_len)
    group_D2 = np.stack([begin_D, end_D], axis=1)

    def part(adapter: DocumentAdapter | None) -> int:
        with FlopCounterMode(display=False) as counter:
            read_group(batch_nats, adapter, group_D2, scheme, lambda targets: None)
        return counter.get_total_flops()

    return part, count_targets(group_D2)


# Command ------------------------------------------------------------------------------------------


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Score a model on validation text.")
    add = parser.add_argument
    add("model", type=Path, help="artifact, checkpoint, run folder or Hugging Face folder")
    add("--stride", type=int, help="targets that a window adds; 0: one pass a document (the run's)")
    add("--seq-len", type=int, help="inputs that a window holds (those of training)")
    add("--data", metavar="DIR", help="folder with *_val_*.bin (the run's)")
    add("--tokenizer", metavar="FILE", help="of these shards (the run's)")
    context = parser.add_mutually_exclusive_group()
    context.add_argument(
        "--documents",
        dest="isolate",
        action="store_true",
        default=None,
        help="let no context cross a document start",
    )
    context.add_argument(
        "--stream",
        dest="isolate",
        action="store_false",
        default=None,
        help="let context reach into the documents before",
    )
    add("--blocks", action="store_true", help="score in plain blocks of the stream as well")
    add("--plan", action="store_true", help="say what scoring would cost, and stop")
    add("--ttt", action="store_true", help="score also while training on what has been scored")
    add("--json", action="store_true", help="print one JSON object; the lines go to stderr")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    add("--trust", action="store_true", help="run the code that a Hugging Face folder carries")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns 0, or 2 after one line on stderr where the input is at fault."""
    args = parse_arguments(argv)
    try:
        has_cuda = torch.cuda.is_available()
        no_cuda = f"--device {args.device}: there is no CUDA here; use cpu"
        require(args.device == "cpu" or has_cuda, no_cuda)
        ranks = Ranks.start(os.environ, args.device)

        def log(line: str) -> None:
            if ranks.is_first:
                print(line, file=sys.stderr if args.json else sys.stdout, flush=True)

        results = score_artifact(args, ranks, log)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print("error:", *str(error).split(), file=sys.stderr)
        return 2
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    if args.json and ranks.is_first:
        print(json.dumps({"artifact": str(args.model)} | results))
    return 0
