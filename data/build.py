"""Documents to shards: read, tokenise on all cores, split by document, write, describe.

    build SOURCE --tokenizer T --out DIR --val-documents N

Everything is made in a work folder beside the one asked for, .DIR.partial, and appears as DIR in
one rename, so a folder that exists is whole. A build that was cut off goes on from its last
finished shard. A range of documents can be built alone, on another machine too (--range); a merge
joins the parts of all ranges (--merge).

    corpora.py    which text, order, marks and split      documents.py  blocks to tokens
    sources.py    where documents come from               workers.py    … on all cores
    parts.py      one range of documents to shards        merge.py      parts to one data set
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

from data import corpora, merge, next_step, parts, sources
from data.build_tokenizer import prepare_tokenizer
from data.corpora import CORPORA, Corpus
from data.documents import MAX_DOCUMENT_MB, SHARD_TOKENS, Request
from data.files import folder_lock
from data.hub_sets import HUB_SETS

SAMPLE_MB = 100.0
MOST_NAMES = 5  # of files that are not read, in one line


class RenamedOption(argparse.Action):
    """An option's old spelling, refused with the new one named."""

    def __call__(self, parser, namespace, values, option_string=None):
        parser.error(f"{option_string} is called {self.const} now: {self.const} {values}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    sets = ", ".join(HUB_SETS)
    model = "a SentencePiece model, a folder of GPT-2's vocab.json and merges.txt, bpe:N to train"
    pad = "with --corpus c4: rows of T=TRAIN_SEQ_LEN tokens, filled with EOS, a target like others"
    add("source", nargs="?", help=f"a .jsonl, .txt or .parquet file or folder, or: {sets}")
    add("--corpus", default="documents", choices=CORPORA, help="whose rules (%(default)s)")
    add("--recipe", action=RenamedOption, const="--corpus", help=argparse.SUPPRESS)
    add("--tokenizer", help=f"{model} one of N pieces, bytes, gpt2")
    add("--pieces", type=int, metavar="N", help="keep N pieces of the model: its first merges")
    add("--out", type=Path, required=True, help="folder to make")
    add("--val-documents", type=int, metavar="N", help="the first N documents are for validation")
    add("--train-tokens", type=int, metavar="N", help="with --corpus fineweb-edu: to train on")
    add("--val-tokens", type=int, metavar="N", help="with --corpus fineweb-edu: to validate")
    add("--pad-to", type=int, default=0, metavar="T", help=pad)
    add("--name", help="of the shard files (that of the folder)")
    add("--caseops", action="store_true", help="write capitals as markers before tokenising")
    add("--fuse", action="store_true", help="one token for a space and the marker after it")
    add("--field", help="JSON key or Parquet column (text, or the corpus's)")
    add(
        "--separator",
        type=unescaped,
        default=sources.SEPARATOR,
        help=r"between documents of .txt, \\n for a new line (%(default)s)",
    )
    add("--skip-bad", action="store_true", help="leave out, and count, what cannot be used")
    add("--max-document-mb", type=float, default=MAX_DOCUMENT_MB, help="(%(default)s)")
    add("--sample-mb", type=float, default=SAMPLE_MB, help="text for bpe:N (%(default)s)")
    add("--shard-tokens", type=int, default=SHARD_TOKENS, help="at most, a shard (%(default)s)")
    add("--workers", type=int, default=len(os.sched_getaffinity(0)), help="(all cores)")
    add("--range", metavar="START:STOP", help="build these documents only, for a later --merge")
    add("--merge", action="store_true", help="join the ranges that stand beside --out")


def main(args: argparse.Namespace) -> int:
    build(args)
    return 0


def build(args: argparse.Namespace) -> dict:
    """Build what the arguments ask for; return the manifest, or the state of a range."""
    out = args.out.resolve()
    work = out.with_name(f".{out.name}.partial")
    if out.exists():
        message = f"{out} exists; a build never changes one: remove it, or name another --out"
        raise FileExistsError(message)
    if args.merge:
        return finish(work, out)
    corpus = check_arguments(args)
    about = sources.describe(args.source)
    _tell_skipped(args.source)
    if args.corpus != "documents":
        about |= {"corpus": args.corpus}
    # A whole build has the work folder for itself; ranges share it and lock their parts.
    lock = contextlib.nullcontext() if args.range else folder_lock(work)
    with lock:
        try:
            state = _build_range(args, corpus, about, work, args.name or out.name)
            return state if args.range else finish(work, out)
        except ValueError:
            if not args.range and not any(work.glob(merge.PARTS)):
                shutil.rmtree(work, ignore_errors=True)
            raise


def _build_range(
    args: argparse.Namespace, corpus: Corpus, about: dict, work: Path, name: str
) -> dict:
    """Build the range asked for, or everything, as one part; return the part's state."""
    tokenizer = prepare_tokenizer(args, work, about)
    source = args.source
    arranged = corpora.arrange(source, corpus, args.field, about)
    if arranged:
        source, args.val_documents = arranged
    request = make_request(args, corpus, tokenizer, name)
    start, stop = parse_range(args.range)
    return parts.build_part(
        source,
        work / f"part_{start:012d}",
        request,
        start=start,
        stop=stop,
        workers=args.workers,
        about=about,
    )


def make_request(args: argparse.Namespace, corpus: Corpus, tokenizer: dict, name: str) -> Request:
    return Request(
        name,
        tokenizer,
        val_documents=args.val_documents,
        shard_tokens=args.shard_tokens,
        field=args.field,
        separator=args.separator,
        max_document_mb=args.max_document_mb,
        skip_bad=args.skip_bad,
        split=corpus.split,
        train_tokens=corpus.train_tokens,
        val_tokens=corpus.val_tokens,
    )


def finish(work: Path, out: Path) -> dict:
    manifest = merge.merge_parts(work, out)
    words = [f"built {out} source_documents:{manifest['source']['documents']}"]
    for split, counts in manifest["splits"].items():
        words += [f"{split}_{key}:{value}" for key, value in counts.items()]
    words.append(f"left_out:{json.dumps(manifest['source']['left_out'])}")
    print(*words)
    print(next_step.verify_command(out))
    return manifest


def _tell_skipped(source: str) -> None:
    skipped = [] if source in HUB_SETS else sources.skipped_files(Path(source))
    if skipped:
        names = ", ".join(file.name for file in skipped[:MOST_NAMES])
        more = f" and {len(skipped) - MOST_NAMES} more" if len(skipped) > MOST_NAMES else ""
        print(f"not read, as they are not documents: {names}{more}", flush=True)


# Checking the arguments ---------------------------------------------------------------------------


def check_arguments(args: argparse.Namespace) -> Corpus:
    """Fill in what depends on the corpus or the source, and return the corpus.

    Raises: ValueError naming the option that is missing, or that does not fit.
    """
    if not args.source or not args.tokenizer:
        raise ValueError("build needs a SOURCE and --tokenizer; only --merge does without")
    corpus = _chosen_corpus(args)
    args.field = args.field or corpus.field
    if args.val_documents is None and corpus.split == "first":
        if args.source not in HUB_SETS:
            raise ValueError("--val-documents N must say how many of the first documents validate")
        args.val_documents = HUB_SETS[args.source].val_documents
    for name in ("workers", "shard_tokens"):
        number = getattr(args, name)
        if number < 1:
            raise ValueError(f"--{name.replace('_', '-')} {number} must be at least 1")
    parse_range(args.range)
    return corpus


def _chosen_corpus(args: argparse.Namespace) -> Corpus:
    """Return the corpus with the numbers asked for; raise ValueError for those it does not take."""
    corpus = CORPORA[args.corpus]
    by_tokens = corpus.split == "tokens"
    own_order = corpus.split != "first"
    for option, value, is_read in (
        ("--train-tokens", args.train_tokens, by_tokens),
        ("--val-tokens", args.val_tokens, by_tokens),
        ("--pad-to", args.pad_to or None, corpus.marks == "around"),
        ("--val-documents", args.val_documents, not own_order),
        ("--range", args.range, not own_order),
    ):
        if value is not None and not is_read:
            raise ValueError(
                f"{option} {value} is not read by --corpus {args.corpus}; leave it out"
            )
    if args.pad_to == 1 or args.pad_to < 0:
        raise ValueError(f"--pad-to {args.pad_to} must be 2 or more: a start and what follows it")
    if own_order:
        args.val_documents = 0
    if not by_tokens:
        return corpus
    for name in ("train_tokens", "val_tokens"):
        number = getattr(args, name)
        if number is not None:
            corpus = replace(corpus, **{name: number})
    if min(corpus.train_tokens, corpus.val_tokens) < 1:
        raise ValueError("--train-tokens and --val-tokens must be at least 1")
    return corpus


def unescaped(text: str) -> str:
    r"""Return the text with \n and \t as line end and tab: shells hand them over as they are."""
    return text.replace(r"\n", "\n").replace(r"\t", "\t")


def parse_range(text: str | None) -> tuple[int, int | None]:
    """Return start and stop of a range; "5:9" -> (5, 9), "5:" -> (5, None), None -> (0, None)."""
    if text is None:
        return 0, None
    start, colon, stop = text.partition(":")
    if not colon or not start.isdecimal() or not (stop == "" or stop.isdecimal()):
        raise ValueError(f"--range {text} must be START:STOP or START:, in documents")
    return int(start), int(stop) if stop else None
