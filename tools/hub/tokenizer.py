"""Give a tokenizer the form that Hugging Face's libraries read, with the very same ids.

    python3 golf.py tokenizer TOKENIZER.model --out DIR
    python3 golf.py tokenizer FOLDER_WITH_VOCAB_AND_MERGES --out DIR

From a SentencePiece BPE model, or from GPT-2's vocab.json and merges.txt, it writes tokenizer.json
and tokenizer_config.json beside a copy of its source. Before that it compares ids and decoded text
with the original's (`tools.hub.fast_tokenizer`). Where the `tokenizers` library cannot give the
same ids, no tokenizer.json is written: the folder then holds the SentencePiece model alone, and a
line says why.

Text that spells a special token ("</s>") becomes that token, as with every tokenizer of the hub:
training on chats needs it. For SentencePiece it is text; `split_special_tokens=True` makes it text
here too, and with that the ids are the original's for every text.

Exit status 0: the whole tokenizer is written; 1: only the model is; 2: nothing is.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tools.hub.charsmap import Unequal
from tools.hub.fast_tokenizer import (
    GPT2_END,
    HOSTILE,
    byte_level_tokenizer,
    probes,
    read_sentencepiece,
    refuse_differences,
    require,
    sentencepiece_tokenizer,
    special_pieces,
)

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
)
SPECIAL_NOTE = (
    "Text that spells a special token becomes that token; with `split_special_tokens=True` it is"
    " text, and the ids of every text are the original tokenizer's."
)


@dataclass(frozen=True)
class Needs:
    """What a model asks of its tokenizer."""

    most_tokens: int | None = None  # rows of its embedding
    max_length: int | None = None  # tokens of its context
    ends_with_bos: bool = False  # it knows no end but the beginning of the next document


@dataclass(frozen=True)
class Written:
    """What a folder was given."""

    tokens: int  # len(tokenizer): one more than the largest id
    note: str  # a few sentences for the card
    is_whole: bool  # AutoTokenizer can load it
    special_ids: dict[str, int] = field(default_factory=dict)  # by names as bos, eos


def complete(specials: dict[str, str], needs: Needs) -> dict[str, str]:
    """Pieces by what they stand for, for this model.

    A tokenizer without a token for padding pads with its end, as GPT-2's does.
    """
    completed = dict(specials)
    if needs.ends_with_bos and "bos" in specials:
        completed["eos"] = specials["bos"]
    if "pad" not in completed and "eos" in completed:
        completed["pad"] = completed["eos"]
    return completed


def configuration(specials: dict[str, str], needs: Needs) -> dict:
    """tokenizer_config.json: the class, the special tokens, and the longest text."""
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",  # so that a batch can be continued
    }
    if needs.max_length:
        described["model_max_length"] = needs.max_length
    return described | {f"{name}_token": piece for name, piece in specials.items()}


def write_json(path: Path, value: dict) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def refuse_too_many(source: Path, tokens: int, needs: Needs) -> None:
    """Raises: ValueError where a tokenizer has more tokens than the model has rows."""
    if needs.most_tokens is not None and tokens > needs.most_tokens:
        raise ValueError(f"{source} has {tokens} tokens, the model only {needs.most_tokens}")


def write_sentencepiece(model: Path, folder: Path, needs: Needs) -> Written:
    """Write the tokenizer of a SentencePiece model; where it would differ, the model alone."""
    require("tokenizers")
    proto, processor = read_sentencepiece(model)
    tokens = len(proto.pieces)
    refuse_too_many(model, tokens, needs)
    shutil.copyfile(model, folder / "tokenizer.model")
    try:
        tokenizer = sentencepiece_tokenizer(proto)
        refuse_differences(tokenizer, processor, probes(proto))
    except Unequal as reason:
        note = (
            f"Only `tokenizer.model` is included, for the `sentencepiece` library: {reason}, so the"
            " `tokenizers` library would give other tokens."
        )
        return Written(tokens, note, is_whole=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    specials = complete(special_pieces(proto), needs)
    write_json(folder / "tokenizer_config.json", configuration(specials, needs))
    note = (
        f"{tokens:,} tokens. `tokenizer.json` was made from `tokenizer.model` and gives the same"
        " tokens and the same decoded text."
    )
    if "bos" in specials:
        note += f" `{specials['bos']}` is put in front of a text, as in training."
    ids = {name: tokenizer.token_to_id(piece) for name, piece in specials.items()}
    return Written(tokens, f"{note} {SPECIAL_NOTE}", is_whole=True, special_ids=ids)


def read_merges(path: Path, vocab: dict[str, int]) -> list[tuple[str, str]]:
    """The pairs of a merges.txt, the first learned first.

    Raises: ValueError naming a line that is not a pair of tokens.
    """
    merges = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line or line.startswith("#version"):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2 or not {*pair, "".join(pair)} <= set(vocab):
            raise ValueError(
                f"{path}:{number}: {line!r} must be two tokens of vocab.json that join to a third"
            )
        merges.append(pair)
    return merges


def write_gpt2(source: Path, folder: Path, needs: Needs) -> Written:
    """Write the tokenizer of a folder with vocab.json and merges.txt.

    Raises: ValueError for files of another form.
    """
    require("tokenizers")
    vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    merges = read_merges(source / "merges.txt", vocab)
    tokens = 1 + max(vocab.values())
    refuse_too_many(source, tokens, needs)
    byte_level_tokenizer(vocab, merges).save(str(folder / "tokenizer.json"))
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(source / name, folder / name)
    specials = dict.fromkeys(("bos", "eos", "unk", "pad"), GPT2_END)
    write_json(folder / "tokenizer_config.json", configuration(specials, needs))
    note = f"{tokens:,} tokens, byte-level BPE from `vocab.json` and `merges.txt`. {SPECIAL_NOTE}"
    ids = dict.fromkeys(specials, vocab[GPT2_END])
    return Written(tokens, note, is_whole=True, special_ids=ids)


def read_config(folder: Path) -> dict:
    """tokenizer_config.json of a folder, empty where there is none."""
    path = folder / "tokenizer_config.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def vocabulary_of(described: dict) -> dict[str, int]:
    """Ids by token of a parsed tokenizer.json, added tokens included."""
    vocab = described["model"]["vocab"]  # a dict, or a list of pairs
    ids = dict(vocab) if isinstance(vocab, dict) else {v[0]: i for i, v in enumerate(vocab)}
    return ids | {token["content"]: token["id"] for token in described.get("added_tokens", [])}


def copy_given(source: Path, folder: Path, needs: Needs) -> Written:
    """Copy a tokenizer that has its tokenizer.json already.

    Its special tokens are those that tokenizer_config.json names; where it names none, GPT-2's, if
    there. Of that file alone something may be added: the longest text, and the token for padding.
    """
    ids = vocabulary_of(json.loads((source / "tokenizer.json").read_text(encoding="utf-8")))
    tokens = 1 + max(ids.values())
    refuse_too_many(source, tokens, needs)
    config = read_config(source)
    specials = {}
    for name in ("bos", "eos", "pad"):
        piece = config.get(f"{name}_token", GPT2_END)
        piece = piece["content"] if isinstance(piece, dict) else piece
        if piece in ids:
            specials[name] = piece
    specials = complete(specials, needs)
    present = [name for name in FILES if (source / name).is_file()]
    for name in present:
        shutil.copyfile(source / name, folder / name)
    note = f"{tokens:,} tokens. The files {', '.join(f'`{name}`' for name in present)} are those"
    note += " that were given."
    added = {f"{name}_token": piece for name, piece in specials.items()}
    if needs.max_length:
        added["model_max_length"] = needs.max_length
    added = {name: value for name, value in added.items() if config.get(name) is None}
    if needs.ends_with_bos and "eos" in specials:
        added["eos_token"] = specials["eos"]
    if added:
        write_json(folder / "tokenizer_config.json", config | added)
        note += f" In `tokenizer_config.json` stand {', '.join(sorted(added))} besides."
    special_ids = {name: ids[piece] for name, piece in specials.items()}
    return Written(tokens, note, is_whole=True, special_ids=special_ids)


def write(source: Path, folder: Path, needs: Needs = Needs()) -> Written:
    """Give the folder the tokenizer that source is or holds.

    Raises: ValueError where there is none, or it has too many tokens; OSError; ImportError.
    """
    if source.is_file():
        return write_sentencepiece(source, folder, needs)
    if (source / "tokenizer.json").is_file():
        return copy_given(source, folder, needs)
    if (source / "tokenizer.model").is_file():
        return write_sentencepiece(source / "tokenizer.model", folder, needs)
    if all((source / name).is_file() for name in ("vocab.json", "merges.txt")):
        return write_gpt2(source, folder, needs)
    raise ValueError(
        f"{source} holds no tokenizer; give a SentencePiece model, or a folder with"
        " tokenizer.json, tokenizer.model, or vocab.json and merges.txt"
    )


def original_rows(folder: Path, texts: Iterable[str] = HOSTILE) -> list[list[int]] | None:
    """The ids that the original of a folder's tokenizer gives for texts, all of it being text.

    The original is the SentencePiece model or vocab.json; where tokenizer.json was given, that
    file. None for a folder whose tokenizer, if any, is not of the `tokenizers` library.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    require("tokenizers")
    from tokenizers import Tokenizer

    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if (folder / "tokenizer.model").is_file() and not described.get("added_tokens"):
        _, processor = read_sentencepiece(folder / "tokenizer.model")
        return [processor.encode(text) for text in texts]
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.encode_special_tokens = True  # what spells a special token is text here
    return [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tools.hub.tokenizer", description=__doc__.split("\n")[0])
    parser.add_argument("source", type=Path, metavar="MODEL_OR_FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    args = parser.parse_args(argv)
    try:
        if args.out.exists():
            raise ValueError(f"{args.out} exists; remove it, or choose another")
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tokenizer.", dir=args.out.parent) as scratch:
            folder = Path(scratch) / args.out.name
            folder.mkdir()
            written = write(args.source, folder)
            folder.rename(args.out)
    except (ValueError, KeyError, OSError, ImportError) as error:
        print(f"tools.hub.tokenizer: {error}", file=sys.stderr)
        return 2
    print(written.note)
    return 0 if written.is_whole else 1


if __name__ == "__main__":
    sys.exit(main())
