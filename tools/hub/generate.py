"""Continue a text with a model: of a checkpoint, of an artifact, or of a published folder.

    python3 golf.py generate CHECKPOINT_OR_ARTIFACT_OR_FOLDER --prompt TEXT
        [--tokenizer MODEL_OR_DIR] [--tokens N] [--temperature T] [--top-k K] [--top-p P] [--seed S]
        [--trust]
    python3 golf.py generate CHECKPOINT_OR_ARTIFACT_OR_FOLDER --serve
        [--tokenizer MODEL_OR_DIR] [--host ADDRESS] [--port N] [--trust]

The prompt, as the tokenizer reads it, and what follows go to standard output while they are made,
until there are N tokens or the model ends the document; the speed goes to standard error. A
checkpoint or artifact is first written as `tools.hub.publish` writes it, to a folder that does not
stay, so the published code is what runs, with its cache. A folder may bring code of its own: where
that is not what publishing writes here, it runs only after --trust, with your rights. Without
--tokenizer the folder's is used, or the one that a run was trained with.

--serve answers clients of OpenAI's protocol at http://127.0.0.1:8000/v1 (`tools.hub.serve`).

Exit status 0: there is a text; 2: there is none, and one line says why; 130: stopped by Ctrl-C.
"""

import argparse
import hashlib
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
from tools.hub import publish
from tools.hub import serve as server
from tools.hub import tokenizer as hf_tokenizer
from tools.hub.architectures import HUB_MODELS, REMOTE_CODE, code_files, read_model

UNREADABLE = "\ufffd"  # what decoding gives for bytes that are no whole character


@dataclass(frozen=True)
class TextCodec:
    """Text to tokens, without the one that begins a document, and back."""

    encode: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    vocab_size: int
    bos_id: int | None = None  # which begins the documents it makes; None: the model has to know


def read_codec(source: Path) -> TextCodec:
    """The tokenizer that a SentencePiece model, or a folder with the files of one, holds.

    Raises: ValueError where there is none; OSError; ImportError.
    """
    model = source / "tokenizer.model" if source.is_dir() else source
    if model.exists() or not source.is_dir():
        pieces = tokenizers.SentencePiece.load(model)
        marks = [pieces.model.piece_to_id(marker) for marker in caseops.MARKERS]
        if not any(pieces.model.is_unknown(i) or pieces.model.is_byte(i) for i in marks):
            pieces = tokenizers.SentencePiece.load(model, use_caseops=True)
        return TextCodec(
            lambda text: pieces.encode([text])[0].tolist()[1:],
            pieces.decode,
            pieces.vocab_size,
            pieces.bos_id,
        )
    with tempfile.TemporaryDirectory() as scratch:
        written = hf_tokenizer.write(source, Path(scratch))
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast.from_pretrained(scratch)

    def encode(text: str) -> list[int]:
        # A prompt that spells a special token is text.
        return tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True)

    def decode(ids: list[int]) -> str:
        return tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    return TextCodec(encode, decode, written.tokens, tokenizer.bos_token_id)


class TextPrinter:
    """What transformers hands tokens to: writes their text, each character when it is whole.

    All tokens are decoded anew each time, for what a token stands for depends on those around it.
    """

    def __init__(self, decode: Callable[[list[int]], str], out):
        self.decode = decode
        self.out = out
        self.ids = []
        self.written = ""

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


def load_published(folder: Path, scratch: Path):
    """The model of a published folder, whose code transformers copies to scratch.

    Raises: ValueError for a folder that holds no model of a system known here, or not whole.
    """
    model_type = json.loads((folder / "config.json").read_text()).get("model_type")
    types = {hub_model.model_type for hub_model in HUB_MODELS.values()}
    if model_type not in types:
        names = ", ".join(sorted(types))
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
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{folder} could not be loaded: {reason}") from error


def refuse_foreign_code(source: Path) -> None:
    """Raises: ValueError for a folder with code that is not ours, which is named with its hash."""
    own = {path.read_text() for path in REMOTE_CODE.glob("*.py")}
    for recipe in HUB_MODELS:
        own |= set(code_files(recipe).values())
    hashes = []
    for path in sorted(source.rglob("*.py")):
        if path.read_text(errors="replace") not in own:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            hashes.append(f"{path.name} {digest}")
    if hashes:
        listed = ", ".join(hashes)
        raise ValueError(
            f"{source} carries code of others ({listed}); read it, then pass --trust to run it"
        )


def refuse_too_long(config, prompt_tokens: int, tokens: int) -> None:
    """Raises: ValueError where the model has no position for the last tokens; else maybe a note."""
    total = prompt_tokens + tokens
    context = config.max_position_embeddings
    if total <= context:
        return
    sizes = f"{prompt_tokens} tokens of prompt and --tokens {tokens} are {total}"
    can_slide = {model.model_type: model.can_slide for model in HUB_MODELS.values()}
    if not can_slide[config.model_type]:
        raise ValueError(f"{sizes}; the model has positions for {context}")
    print(f"note: {sizes}; in training the model saw no more than {context}", file=sys.stderr)


def refuse_bad_options(args: argparse.Namespace) -> None:
    """Raises: ValueError naming the option, its value and the requirement."""
    for name, is_fine, requirement in (
        ("tokens", args.tokens >= 1, "at least 1"),
        ("temperature", 0 <= args.temperature < math.inf, "a number, 0 or more"),
        ("top-k", args.top_k >= 0, "at least 0"),
        ("top-p", 0 < args.top_p <= 1, "above 0 and at most 1"),
        ("seed", 0 <= args.seed < 1 << 63, "at least 0 and below 2^63"),
        ("port", 0 <= args.port < 1 << 16, "at least 0 and below 65536"),
    ):
        if not is_fine:
            value = getattr(args, name.replace("-", "_"))
            raise ValueError(f"--{name} {value} must be {requirement}")


def first_and_last_ids(codec: TextCodec, config) -> tuple[int, list[int]]:
    """The id that begins a document, and those that end one.

    Raises: ValueError where the tokenizer does not fit the model, or neither names a beginning.
    """
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
    end_ids = [bos_id]  # the next document's beginning ends this one
    # Otherwise the model's special ids are of another tokenizer: here they are text.
    if config.bos_token_id == bos_id and config.eos_token_id is not None:
        end_ids.append(config.eos_token_id)
    return bos_id, end_ids


def folder_of(args: argparse.Namespace, scratch: Path) -> Path:
    """The folder to load: the one that was named, or one that is written of a checkpoint."""
    if args.source.is_dir():
        return args.source
    folder = scratch / "model"
    folder.mkdir()
    weights, settings = read_model(args.source)
    publish.write_model(weights, settings, torch.float32, folder)
    return folder


def generate(args: argparse.Namespace, scratch: Path) -> None:
    """Write the text to standard output, and the speed to standard error.

    Raises: ValueError; OSError; ImportError.
    """
    own = args.source if args.source.is_dir() else None  # a folder's tokenizer lies in it
    codec = read_codec(args.tokenizer or own or publish.tokenizer_of_run(args.source))
    model = load_published(folder_of(args, scratch), scratch)
    config = model.config
    bos_id, end_ids = first_and_last_ids(codec, config)
    ids = [bos_id, *codec.encode(args.prompt)]
    refuse_too_long(config, len(ids), args.tokens)
    sampling = {"do_sample": False}
    if args.temperature:
        sampling = {
            "do_sample": True,
            "temperature": args.temperature,
            "top_k": args.top_k,
            "top_p": args.top_p,
        }
    without_text = list(range(codec.vocab_size, config.vocab_size))  # rows that are no tokens
    device = "cuda" if torch.cuda.is_available() else "cpu"
    prompt = torch.tensor([ids], device=device)
    torch.manual_seed(args.seed)
    stream = TextPrinter(codec.decode, sys.stdout)
    start = time.perf_counter()
    model.to(device).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=args.tokens,
        eos_token_id=end_ids,
        pad_token_id=bos_id,
        suppress_tokens=without_text or None,
        streamer=stream,
        **sampling,
    )
    seconds = time.perf_counter() - start
    made = len(stream.ids) - len(ids)
    print(f"{made} tokens in {seconds:.2f} s: {made / seconds:.1f} tokens/s", file=sys.stderr)


# Server -------------------------------------------------------------------------------------------


def serve(args: argparse.Namespace, scratch: Path) -> None:
    """Answer requests of OpenAI's protocol until stopped.

    Raises: ValueError where there is no whole tokenizer; OSError; ImportError.
    """
    server.refuse_without_packages()
    folder = args.source
    if not folder.is_dir():
        folder = scratch / "model"
        publish.write_folder(args.source, folder, "fp32", args.tokenizer)
    print(f"serving {args.source} at http://{args.host}:{args.port}/v1", file=sys.stderr)
    server.start(folder, scratch, args.host, args.port)


# Command ------------------------------------------------------------------------------------------


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.hub.generate", description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, metavar="CHECKPOINT_OR_ARTIFACT_OR_FOLDER")
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--prompt", metavar="TEXT", help="empty: a new document")
    action.add_argument("--serve", action="store_true", help="answer OpenAI's protocol instead")
    parser.add_argument(
        "--tokenizer", type=Path, metavar="MODEL_OR_DIR", help="that the model was trained with"
    )
    parser.add_argument("--tokens", type=int, default=200, metavar="N", help="at most")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0: greedy")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="0: all tokens")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="1: all tokens")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--host", default="127.0.0.1", help="with --serve")
    parser.add_argument("--port", type=int, default=8000, help="with --serve")
    parser.add_argument("--trust", action="store_true", help="run the code that a folder carries")
    args = parser.parse_args(argv)
    try:
        refuse_bad_options(args)
        if args.source.is_dir() and not args.trust:
            refuse_foreign_code(args.source)
        if not all(find_spec(name) for name in ("transformers", "safetensors")):
            raise ImportError("generating needs: python3 golf.py generate ...")
        with tempfile.TemporaryDirectory() as scratch:
            if args.serve:
                serve(args, Path(scratch))
            else:
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
