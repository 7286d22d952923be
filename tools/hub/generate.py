"""Continue a text with a model: of a checkpoint, of an artifact, or of a published folder.

    python3 golf.py --with hf tools.hub.generate CHECKPOINT_OR_ARTIFACT_OR_FOLDER --prompt TEXT
        [--tokenizer MODEL_OR_DIR] [--tokens N] [--temperature T] [--top-k K] [--top-p P] [--seed S]

The prompt, as the tokenizer reads it, and what follows go to standard output while they are made,
until there are N tokens or the model ends the document; the speed goes to standard error. What is
no folder yet is first written as `tools.hub.publish` writes it, to one that does not stay, so the
published code is what runs, with its cache; a folder brings its own code, so name one that you
trust. Without --tokenizer the folder's is used, or the one that a run was trained with.

Exit status 0: there is a text; 2: there is none, and one line says why; 130: stopped by Ctrl-C.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from data import caseops, tokenizers
from tools.hub import architectures, publish
from tools.hub import tokenizer as hf_tokenizer

UNREADABLE = "\ufffd"  # what decoding gives for bytes that are no whole character


@dataclass(frozen=True)
class Codec:
    """Text to tokens, without the one that begins a document, and back."""

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    vocab_size: int
    bos_id: int | None = None  # which begins the documents it makes; None: the model has to know


def read_codec(source: Path) -> Codec:
    """The tokenizer that a SentencePiece model, or a folder with the files of one, holds.

    Raises: ValueError where there is none; OSError; ImportError.
    """
    model = source / "tokenizer.model" if source.is_dir() else source
    if model.exists() or not source.is_dir():
        pieces = tokenizers.SentencePiece.load(model)
        marks = [pieces.model.piece_to_id(marker) for marker in caseops.MARKERS]
        if not any(pieces.model.is_unknown(i) or pieces.model.is_byte(i) for i in marks):
            pieces = tokenizers.SentencePiece.load(model, use_caseops=True)
        return Codec(
            lambda text: pieces.encode([text])[0].tolist()[1:],
            pieces.decode,
            pieces.vocab_size,
            pieces.bos_id,
        )
    with tempfile.TemporaryDirectory() as scratch:
        written = hf_tokenizer.write(source, Path(scratch))
        from transformers import PreTrainedTokenizerFast

        whole = PreTrainedTokenizerFast.from_pretrained(scratch)
    # A prompt that spells a special token is text.
    plain = dict(add_special_tokens=False, split_special_tokens=True)
    return Codec(
        lambda text: whole.encode(text, **plain),
        lambda ids: whole.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        written.tokens,
        whole.bos_token_id,
    )


class Stream:
    """What transformers hands tokens to: writes their text, each character when it is whole.

    All tokens are decoded anew each time, for what a token stands for depends on those around it.
    """

    def __init__(self, decode: Callable[[list[int]], str], out):
        self.decode, self.out = decode, out
        self.ids, self.written = [], ""

    def put(self, ids: torch.Tensor) -> None:
        self.ids += ids.flatten().tolist()
        text = self.decode(self.ids).rstrip(UNREADABLE)  # the next token may make it readable
        if text.startswith(self.written):
            self.write(text)

    def end(self) -> None:
        self.write(self.decode(self.ids) + "\n")

    def write(self, text: str) -> None:
        self.out.write(text[len(self.written) :])
        self.out.flush()
        self.written = text


def load(folder: Path, scratch: Path):
    """The model of a published folder, whose code transformers copies to scratch.

    Raises: ValueError for a folder that holds no model of a system known here, or not whole.
    """
    model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    known = {form.model_type for form in architectures.FORMS.values()}
    if model_type not in known:
        names = ", ".join(sorted(known))
        raise ValueError(f"{folder} is of the type {model_type!r}; it must be one of {names}")
    from transformers import dynamic_module_utils
    from transformers.utils import logging

    from tools.hub.remote_code import check

    dynamic_module_utils.HF_MODULES_CACHE = str(scratch / "modules")  # else in the user's home
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        return check.load(str(folder))
    except Exception as error:  # of transformers, safetensors, or the folder's code
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder} could not be loaded: {what}") from error


def refuse_too_long(config, prompt_tokens: int, tokens: int) -> None:
    """Raises: ValueError where the model has no position for the last tokens; else maybe a note."""
    total, context = prompt_tokens + tokens, config.max_position_embeddings
    if total <= context:
        return
    told = f"{prompt_tokens} tokens of prompt and --tokens {tokens} are {total}"
    forms = architectures.FORMS.values()
    if not any(form.can_slide for form in forms if form.model_type == config.model_type):
        raise ValueError(f"{told}; the model has positions for {context}")
    print(f"note: {told}; in training the model saw no more than {context}", file=sys.stderr)


def generate(args: argparse.Namespace, scratch: Path) -> None:
    """Write the text to standard output, and the speed to standard error.

    Raises: ValueError; OSError; ImportError.
    """
    for name, is_fine, requirement in (
        ("tokens", args.tokens >= 1, "at least 1"),
        ("temperature", 0 <= args.temperature < math.inf, "a number, 0 or more"),
        ("top-k", args.top_k >= 0, "at least 0"),
        ("top-p", 0 < args.top_p <= 1, "above 0 and at most 1"),
        ("seed", 0 <= args.seed < 1 << 63, "at least 0 and below 2^63"),
    ):
        if not is_fine:
            value = getattr(args, name.replace("-", "_"))
            raise ValueError(f"--{name} {value} must be {requirement}")
    if not all(find_spec(name) for name in ("transformers", "safetensors")):
        raise ImportError("generating needs: python3 golf.py --with hf tools.hub.generate ...")
    folder = args.source
    own = folder if folder.is_dir() else None  # a folder's lies in it
    codec = read_codec(args.tokenizer or own or publish.tokenizer_of_run(folder))
    if not own:
        folder = scratch / "model"
        folder.mkdir()
        weights, settings = architectures.read_model(args.source)
        publish.write_model(weights, settings, torch.float32, folder)
    model = load(folder, scratch)
    config = model.config
    if codec.vocab_size > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {codec.vocab_size} tokens, the model only {config.vocab_size};"
            " name the one it was trained with by --tokenizer"
        )
    bos_id = config.bos_token_id if codec.bos_id is None else codec.bos_id
    if bos_id is None or bos_id >= config.vocab_size:
        raise ValueError(
            f"neither tokenizer nor model says which of {config.vocab_size} tokens begins a"
            " document (bos); name a tokenizer that does by --tokenizer"
        )
    ends = [bos_id]  # the next document's beginning ends this one
    if config.bos_token_id == bos_id and config.eos_token_id is not None:
        ends.append(config.eos_token_id)  # else its marks are of another tokenizer: here, text
    ids = [bos_id, *codec.encode(args.prompt)]
    refuse_too_long(config, len(ids), args.tokens)
    how = dict(do_sample=False)
    if args.temperature:
        how = dict(do_sample=True, temperature=args.temperature, top_k=args.top_k, top_p=args.top_p)
    lacking = list(range(codec.vocab_size, config.vocab_size))  # rows of no token have no text
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompt = torch.tensor([ids], device=device)
    torch.manual_seed(args.seed)
    stream, began = Stream(codec.decode, sys.stdout), time.perf_counter()
    model.to(device).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=args.tokens,
        eos_token_id=ends,
        pad_token_id=bos_id,
        suppress_tokens=lacking or None,
        streamer=stream,
        **how,
    )
    seconds, made = time.perf_counter() - began, len(stream.ids) - len(ids)
    print(f"{made} tokens in {seconds:.2f} s: {made / seconds:.1f} tokens/s", file=sys.stderr)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.hub.generate", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="CHECKPOINT_OR_ARTIFACT_OR_FOLDER")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help="empty: a new document")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="MODEL_OR_DIR", help="that the model was trained with"
    )
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="at most")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: greedy")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0: all tokens")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1: all tokens")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            generate(args, Path(scratch))
    except KeyboardInterrupt:
        print()
        return 130
    except (ValueError, OSError, ImportError) as error:
        print("tools.hub.generate:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
