"""The tokenizer that a build asks for: copied, trained on the source, or one without a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from data import containers, corpora, gpt2_tokenizer, sources, tokenizers
from data.counted_progress import CountedProgress
from data.files import sha256_file, write_atomic
from data.gpt2_tokenizer import MERGES, MOST_PIECES, VOCABULARY
from data.smaller_bpe import keep_first_merges

WITHOUT_FILE = ("bytes", "gpt2")
FEWEST_PIECES = 261  # 256 byte pieces, four special ones, and one to be learned
NOTES = "tokenizer.json"  # in the work folder: what the trained model there was trained on


def prepare_tokenizer(args: argparse.Namespace, work: Path, about: dict) -> dict:
    """Make the tokenizer asked for stand in the work folder; return the manifest's entry.

    Raises: ValueError naming the option that does not fit, or what the model lacks.
    """
    corpus = corpora.CORPORA[args.corpus]
    _check_options(args)
    # The usual marks are left out of the entry, as in manifests of plain documents.
    marks = {} if corpus.marks == "before" else {"marks": corpus.marks}
    if args.pad_to:
        marks = {"pad_to": args.pad_to}
    if args.tokenizer in WITHOUT_FILE:
        return tokenizers.describe(args.tokenizer, None, False, False, **marks)
    work.mkdir(parents=True, exist_ok=True)
    if Path(args.tokenizer).is_dir():
        folder = Path(args.tokenizer)
        tokenizers.Gpt2.load(folder, corpus.marks)
        for name in (VOCABULARY, MERGES):
            write_atomic(work / name, (folder / name).read_bytes())
        path = work / gpt2_tokenizer.VOCABULARY
        return tokenizers.describe("gpt2", path, False, False, merges=MERGES, **marks)
    path = work / tokenizers.MODEL_FILE
    origin = {}
    if args.tokenizer.partition(":")[0] == "bpe":
        origin = {"trained_on": _train(args, path, about)}
    elif args.pieces is not None or not path.exists() or not Path(args.tokenizer).samefile(path):
        larger = tokenizers.SentencePiece.load(args.tokenizer, args.caseops, args.fuse)
        model = Path(args.tokenizer).read_bytes()
        if args.pieces is not None:
            sha256 = sha256_file(Path(args.tokenizer))
            origin = {"first_merges_of": {"sha256": sha256, "vocab_size": larger.vocab_size}}
            model = keep_first_merges(model, args.pieces)
        write_atomic(path, model)
    return tokenizers.describe("sentencepiece", path, args.caseops, args.fuse, **marks, **origin)


def _check_options(args: argparse.Namespace) -> None:
    if args.fuse and not args.caseops:
        raise ValueError("--fuse joins CaseOps markers with the space before; add --caseops")
    is_folder = Path(args.tokenizer).is_dir()
    if args.caseops and (args.tokenizer in WITHOUT_FILE or is_folder):
        raise ValueError(f"--caseops needs pieces for its markers; {args.tokenizer} has none")
    is_trained = args.tokenizer.partition(":")[0] == "bpe"
    if args.pieces is not None and (is_trained or is_folder or args.tokenizer in WITHOUT_FILE):
        message = f"--pieces {args.pieces} cuts a model's file, not {args.tokenizer}"
        raise ValueError(f"{message}; name a FILE.model, or train with bpe:{args.pieces}")


def _train(args: argparse.Namespace, path: Path, about: dict) -> dict:
    """Train a model on the source, unless it stands there already; return on how much text."""
    size = args.tokenizer.partition(":")[2]
    if not size.isdecimal() or not FEWEST_PIECES <= int(size) <= MOST_PIECES:
        allowed = f"the N of bpe:N must be {FEWEST_PIECES}..{MOST_PIECES}"
        raise ValueError(f"--tokenizer {args.tokenizer}: {allowed}")
    if corpora.CORPORA[args.corpus].split in ("first file", "whole"):
        message = f"--corpus {args.corpus} has no text to train {args.tokenizer} on first"
        raise ValueError(f"{message}; name a model")
    task = {
        "vocab_size": int(size),
        "caseops": args.caseops,
        "sample_mb": args.sample_mb,
        "source": about,
        "val_documents": args.val_documents,
    }
    notes_path = path.with_name(NOTES)
    notes = json.loads(notes_path.read_text()) if notes_path.exists() else {}
    if notes.get("task") == json.loads(json.dumps(task)):
        return notes["trained_on"]
    print(f"training a tokenizer of {size} pieces on {args.sample_mb} MB", flush=True)
    sample = Sample(args, about)
    try:
        model = tokenizers.train_bpe(sample, int(size), args.caseops)
    except ValueError:
        if sample.documents or sample.has_fault:
            raise
        raise ValueError(_no_documents(args)) from None
    write_atomic(path, model)
    trained_on = {"documents": sample.documents, "bytes": sample.bytes}
    # Written last: a model without its note is trained again.
    write_atomic(notes_path, json.dumps({"task": task, "trained_on": trained_on}))
    return trained_on


def _no_documents(args: argparse.Namespace) -> str:
    """What to do where validation takes every document of the source."""
    message = (
        f"{args.source} has no document beyond the {args.val_documents} of --val-documents, so none"
        " to train a tokenizer on"
    )
    if Path(args.source).suffix.lower() in (".jsonl", ".json", ".parquet"):  # rows are documents
        return f"{message}; lower --val-documents, or give more text"
    return f"{message}; {containers.SEPARATOR_HELP}; or lower --val-documents"


class Sample:
    """The first training documents of a source, up to sample_mb: validation text takes no part."""

    def __init__(self, args: argparse.Namespace, about: dict):
        self.args = args
        self.revision = about.get("revision")
        self.documents = 0
        self.bytes = 0
        self.has_fault = False  # a document was refused, maybe the first

    def __iter__(self) -> Iterator[str]:
        args = self.args
        blocks = sources.read(
            args.source,
            args.val_documents,
            field=args.field,
            separator=args.separator,
            revision=self.revision,
            val_documents=args.val_documents,
        )
        progress = CountedProgress(
            "read text for the tokenizer", int(args.sample_mb * 1e6), "bytes"
        )
        for block in blocks:
            progress.reach(self.bytes)
            for text in block.texts(args.field, int(args.max_document_mb * 1e6)):
                if self.bytes >= args.sample_mb * 1e6:
                    progress.finish()
                    return
                if isinstance(text, str):
                    self.documents += 1
                    self.bytes += len(text.encode())
                    yield text
                elif not args.skip_bad:
                    self.has_fault = True
                    raise ValueError(f"{text}; repair it, or leave it out with --skip-bad")
