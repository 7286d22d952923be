"""Give a tokenizer the form that Hugging Face's libraries read, with the very same ids.

    python3 golf.py --with hf tools.hub.tokenizer TOKENIZER.model --out DIR
    python3 golf.py --with hf tools.hub.tokenizer FOLDER_WITH_VOCAB_AND_MERGES --out DIR

From a SentencePiece BPE model, or from GPT-2's vocab.json and merges.txt, it writes tokenizer.json
and tokenizer_config.json beside a copy of what was given. Before that it compares ids and decoded
text with the original's, on texts made to break it and on every entry of the model's own tables.

Where the `tokenizers` library cannot give the same ids, no tokenizer.json is written: the folder
then holds the SentencePiece model alone, and a line says why. Text that spells a special token
("<s>") is text, as it is for SentencePiece: only the numbers of special tokens are special.

Exit status 0: the whole tokenizer is written; 1: only the model is; 2: nothing is.
"""

import argparse
import functools
import json
import shutil
import sys
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

SPACE = "▁"  # what SentencePiece writes for a space
BPE, NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 2, 1, 2, 3, 4, 6  # of SentencePiece's format
GPT2_END = "<|endoftext|>"
FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json", "merges.txt",
)  # fmt: skip
NEEDS = "run it with: python3 golf.py --with hf ..."

# Texts on which tokenizers differ: blanks, joined and wide letters, marks in and out of order,
# jamo, writing from the right, control characters, what spells special tokens or bytes.
HOSTILE = (
    "", " ", "  ", "\n", "\t", "\r\n", "a\r\nb\rc\n\nd", " leading", "trailing ",
    "  two  blanks  ", "tab\tand\x0bvertical\x0cform", "▁", "▁a", "a▁b", "▁▁ a ▁▁", "a▁ ", " ▁ ▁",
    "\x00", "a\x00b\x00", "\x01 a", "e\x01\u0301", "\x7f\x80\x8f\x9f", "Zürich, naïve café",
    "e\u0301 e\u0301\u0302 \u0301e", "a\u0323\u0301 a\u0301\u0323 q\u0301\u0323",
    "x" + "\u0301\u0323\u0302" * 9, "\u0301", " \u0301a", "ﬁ ﬁ\u0301 ﬃ \ufdfa ½ № ℌ ① ㍿ ㋿ ß ẞ İ",
    "Ａｂｃ１２３\u3000wide ～ ~", "ｶ\uff9e ﾊ\uff9f ｶ\u3099 か\u3099 は\u309a",
    "한국어 각 가\u11a8", "\u1112\u1161\u11ab\u1100\u116e\u11a8 \u1161\u11ab \u1112\u1112\u1161",
    "漢字かな交じり文",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644 \u202b\u05e9\u05dc\u05d5\u05dd\u202c",
    "\u0644\u0627\u0651\u064e \u0640", "หน\u0e36\u0e48ง สอง",
    "क\u093f\u093c ड\u093c क\u094dष\u093f", "👩\u200d🔬🏳\ufe0f\u200d🌈👍🏽🇩🇪 ☺\ufe0f 🙂",
    "a\u200bb\u200cc\u200dd\u2060e\ufeff", "\xa0\u2003\u3000\u2028\u2029x",
    "\ue000\ue001\uf8ff\U000f0000\U0010fffd", "��\u0301 \uffff \U0001ffff",
    "\U0001e030\u0308 \U000107a5 \ua7f2\u0301", "\U00016d63\U00016d67\U00016d67",
    "<s> </s> <pad> <unk> <s>x</s>", "<0x41> <0x0A><0xE2>", "<|endoftext|> <mask> [INST]",
    "0123456789 3.14159 1,000,000 \u0661\u0662\u0663 四十二", "it's we'll they'd I'VE 'tis",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "w" * 300, "-" * 77 + "=" * 78 + "." * 79,
    "http://a.b/c?d=e&f=%20#g", "def f(x):\n    return {**x}\n\n\n\t\tpass",
    "ẛ\u0323 Å Ω \u0344 क़ ⫝̸\u0338", "Ǆ ǅ ǆ ŉ ſ ſ\u0307 ẛ", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟙𝟚𝟛 𐐷 𠀋 🈂\u3099",
)  # fmt: skip


class Unequal(ValueError):
    """The `tokenizers` library cannot give this model's ids; the message says why."""


@dataclass(frozen=True)
class Written:
    """What a folder was given."""

    tokens: int  # len(tokenizer): one more than the largest id
    note: str  # one or two sentences for the card
    is_whole: bool  # AutoTokenizer can load it
    marks: dict[str, int] = field(default_factory=dict)  # ids, by names as bos, eos


# SentencePiece's normaliser -----------------------------------------------------------------------


@functools.lru_cache(2)
def charsmap_table(charsmap: bytes) -> dict[str, str]:
    """Every text that a precompiled charsmap replaces, and by what.

    The map is a double array (Darts) of the keys' bytes, whose leaves point into a pool of texts
    that end in a zero. At each place of a text SentencePiece takes the longest key.
    """
    if not charsmap:
        return {}
    size_bytes = int.from_bytes(charsmap[:4], "little")
    units = np.frombuffer(charsmap[4 : 4 + size_bytes], "<u4").astype(np.int64)
    pool = charsmap[4 + size_bytes :]
    labels = units & 0x800000FF
    offsets = (units >> 10) << ((units & 0x200) >> 6)
    children = defaultdict(list)
    for place in np.flatnonzero((labels > 0) & (labels < 256)).tolist():
        children[place ^ int(labels[place])].append(place)
    table, todo = {}, [(int(offsets[0]), b"")]
    while todo:
        base, key = todo.pop()
        for place in children[base]:
            longer, below = key + bytes([int(labels[place])]), place ^ int(offsets[place])
            if units[place] & 0x100:
                start = int(units[below] & 0x7FFFFFFF)
                table[longer.decode()] = pool[start : pool.index(b"\0", start)].decode()
            todo.append((below, longer))
    return table


def char_class(chars: Iterable[str]) -> str:
    """A class of a regular expression, by ranges of numbers."""
    ranges = []
    for number in sorted(map(ord, chars)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    parts = (f"\\x{{{a:x}}}" + f"-\\x{{{b:x}}}" * (a < b) for a, b in ranges)
    return f"[{''.join(parts)}]"


def longest_of(texts: Iterable[str]) -> str:
    """A regular expression that takes the longest of the texts; the empty one makes it optional."""
    after = defaultdict(set)
    for text in texts:
        after[text[:1]].add(text[1:])
    optional = "?" if after.pop("", None) else ""
    firsts = defaultdict(list)
    for char, rest in after.items():
        firsts[frozenset(rest)].append(char)
    parts = [char_class(chars) + longest_of(rest) for rest, chars in firsts.items()]
    return f"(?:{'|'.join(sorted(parts))}){optional}" if parts else ""


@functools.lru_cache(2)
def folding(charsmap: bytes) -> list:
    """Steps of the `tokenizers` library that replace as a precompiled charsmap does.

    Its own step for charsmaps, `Precompiled`, does not: it looks for the shortest key, in whole
    graphemes of at most five bytes, so that an accent behind a ligature is lost and jamo stay
    apart. Unicode's NFKC is the table's content but joins and orders marks without end. So each
    key is first set apart from what follows by a character that the table erases, then NFKC is
    taken, and what it does not know or must not touch is replaced by name.

    Raises: Unequal for a charsmap that this does not cover.
    """
    from tokenizers import Regex, normalizers

    def nfkc(texts: list[str]) -> list[str]:
        return normalizers.NFKC().normalize_str("\n".join(texts)).split("\n")

    def replace(chars: Iterable[str], text: str):
        return normalizers.Replace(Regex(char_class(chars)), text)

    if not charsmap:
        return []
    table = charsmap_table(charsmap)
    single = {key: text for key, text in table.items() if len(key) == 1}
    erased = sorted(key for key, text in single.items() if text == "")
    blanks = [key for key, text in single.items() if text == " "]
    # Planes 3 and up hold ideographs without other forms, and private characters.
    every = [chr(i) for i in range(11, 0x30000) if not 0xD800 <= i < 0xE000]
    touched = {char: text for char, text in zip(every, nfkc(every), strict=True) if char != text}
    kept = sorted(set(touched) - set(single))  # the wide tilde
    if len(erased) <= len(kept) or erased[:1] > [" "]:
        raise Unequal("its normaliser erases no characters that could mark where a key ends")
    joint, aside = erased[0], dict(zip(kept, erased[1:], strict=False))

    tails = defaultdict(set)
    for key in table:
        tails[key[0]].add(key[1:])
    newer = {}  # characters that the library's Unicode does not know yet
    for key, text in single.items():
        if text not in ("", " ") and touched.get(key, key) != text:
            # Where the table joins nothing to the character, nothing may join its replacement.
            newer[key] = text + joint * (tails[key] == {""})
            if tails[key] - {""} and tails[key] - {""} != tails[text] - {""}:
                raise Unequal(f"its normaliser tells {key!r} from {text!r}")
    joined = {}
    for key, text in table.items():
        if len(key) > 1:
            key = newer.get(key[0], key[0]) + key[1:]
            if joined.setdefault(key, text) != text:
                raise Unequal(f"its normaliser tells {key!r} from a text of the same meaning")
    tails = defaultdict(set)
    for key in joined:
        tails[key[0]].add(key[1:])
    marks = {char for key in joined for char in key[1:]}
    marks |= {char for char in every if unicodedata.combining(char)}
    marks |= {char for char, text in touched.items() if text[:1] in marks}
    if marks & {*erased, *blanks} or set(tails) & {*erased, *blanks}:
        raise Unequal("its normaliser joins blanks or control characters with others")
    by_tails = defaultdict(list)
    for first, rests in tails.items():
        by_tails[frozenset(rests)].append(first)
    keys = [char_class(firsts) + longest_of(rests) for rests, firsts in by_tails.items()]
    mark, any_char = char_class(marks), "[\\s\\S]"
    longest = "|".join([*sorted(keys), f"{any_char}(?={mark})"])
    # \K: what was found so far stays; only the empty place behind a key is replaced.
    apart = f"(?={any_char}{mark})(?:{longest})\\K"

    wrong = [
        key for key, text in zip(joined, nfkc(list(joined)), strict=True) if text != joined[key]
    ]
    steps = [replace(erased, joint), replace(blanks, " ")]
    steps += [normalizers.Replace(key, text) for key, text in sorted(newer.items())]
    steps += [normalizers.Replace(Regex(apart), joint)]
    steps += [normalizers.Replace(key, joined[key]) for key in sorted(wrong, key=len, reverse=True)]
    steps += [normalizers.Replace(char, away) for char, away in aside.items()]
    steps += [normalizers.NFKC()]
    steps += [normalizers.Replace(away, char) for char, away in aside.items()]
    return [*steps, normalizers.Replace(joint, "")]


def normalizer(spec):
    """What SentencePiece does to a text before it looks for pieces, as a step of the library."""
    from tokenizers import Regex, normalizers

    squeeze, prefix = spec.remove_extra_whitespaces, spec.add_dummy_prefix
    front = [normalizers.Prepend(SPACE)] * prefix
    steps = [] if squeeze else front  # a text that is erased still gets its prefix
    steps += folding(spec.precompiled_charsmap)
    if squeeze:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
        steps += front
    steps += [normalizers.Replace(" ", SPACE)]
    if squeeze:
        steps += [normalizers.Replace(Regex(rf"{SPACE}+\z"), "")]
    return normalizers.Sequence(steps)


# SentencePiece's model ----------------------------------------------------------------------------


def merges_of(pieces) -> list[tuple[str, str]]:
    """Every pair of pieces that SentencePiece would join, the best first.

    It joins the neighbours whose piece has the best score, of equals the leftmost. So all ways to
    part a piece stand together; the short left parts first, as a run of one character needs it.
    """
    normal = {p.piece: p.score for p in pieces if p.type == NORMAL}
    merges = []
    for piece, score in normal.items():
        for i in range(1, len(piece)):
            if piece[:i] in normal and piece[i:] in normal:
                merges.append((-score, i, piece[:i], piece[i:]))
    return [(left, right) for _, _, left, right in sorted(merges)]


def refuse_other_kinds(proto) -> None:
    """Raises: Unequal for a model whose pieces are not found by merging alone."""
    trainer, spec = proto.trainer_spec, proto.normalizer_spec
    long = [p.piece for p in proto.pieces if p.type == USER_DEFINED and len(p.piece) > 1]
    normal = {p.piece for p in proto.pieces if p.type == NORMAL}
    lacking = {char for piece in normal for char in piece} - normal
    scores = [p.score for p in proto.pieces if p.type == NORMAL and len(p.piece) > 1]
    reasons = {
        "it is not a BPE model": trainer.model_type != BPE,
        "it has no bytes for unknown characters": sum(p.type == BYTE for p in proto.pieces) != 256,
        "it keeps spaces as they are": not spec.escape_whitespaces,
        "it writes spaces behind words": trainer.treat_whitespace_as_suffix,
        "it changes decoded text": proto.denormalizer_spec.precompiled_charsmap,
        f"its symbol {long and long[0]!r} is found before spaces are dropped": long,
        f"its pieces hold {min(lacking, default='')!r}, which is none itself": lacking,
        "two of its pieces have one score": len(scores) != len(set(scores)),
        "it has pieces of an unknown type": any(p.type > BYTE or p.type == 5 for p in proto.pieces),
    }
    for reason, applies in reasons.items():
        if applies:
            raise Unequal(reason)


def fast_tokenizer(proto):
    """The SentencePiece model as a tokenizer of the library, BOS in front where asked for.

    Raises: Unequal where that cannot give the same ids.
    """
    from tokenizers import Tokenizer, decoders, models, processors

    refuse_other_kinds(proto)
    spec, vocab = proto.normalizer_spec, {p.piece: i for i, p in enumerate(proto.pieces)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            merges_of(proto.pieces),
            unk_token=next(p.piece for p in proto.pieces if p.type == UNKNOWN),
            byte_fallback=True,
        )
    )
    tokenizer.normalizer = normalizer(spec)
    # Decoded text loses the blanks in front that encoding may have put there: all, or the one.
    front = 1 << 30 if spec.remove_extra_whitespaces else int(spec.add_dummy_prefix)
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", front, 0),
        ]
    )
    bos = special_pieces(proto).get("bos")
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, vocab[bos])],
        )
    return tokenizer


def special_pieces(proto) -> dict[str, str]:
    """Pieces by what they stand for: bos, eos, unk, pad; those that the model has."""
    t = proto.trainer_spec
    ids = {"bos": t.bos_id, "eos": t.eos_id, "unk": t.unk_id, "pad": t.pad_id}
    return {
        name: proto.pieces[i].piece
        for name, i in ids.items()
        if 0 <= i < len(proto.pieces) and proto.pieces[i].type in (CONTROL, UNKNOWN)
    }


def probes(proto) -> list[str]:
    """Texts to compare on: hostile ones, all pieces in a row, and every key of the normaliser."""
    normal = [p.piece for p in proto.pieces if p.type in (NORMAL, USER_DEFINED)]
    runs = [p * n for p in normal if len(set(p)) == 1 for n in (2, 3, 5, 7)]
    texts = [*HOSTILE, "".join(normal), " ".join(normal), "".join(reversed(normal)), *runs]
    keys = list(charsmap_table(proto.normalizer_spec.precompiled_charsmap))
    texts += ["a".join(keys[i : i + 2000]) for i in range(0, len(keys), 2000)]
    return [text.replace(SPACE, " ") if i % 2 else text for i, text in enumerate(texts)]


def refuse_differences(tokenizer, original, texts: Iterable[str]) -> None:
    """Raises: Unequal naming the first text whose ids, or whose ids' text, are others."""
    for text in texts:
        ids = original.encode(text)
        for what, found, expected in (
            ("ids", tokenizer.encode(text, add_special_tokens=False).ids, ids),
            ("text", tokenizer.decode(ids, skip_special_tokens=False), original.decode(ids)),
        ):
            if found != expected:
                raise Unequal(f"of {text[:60]!r} the {what} would be others")


# GPT-2's model ------------------------------------------------------------------------------------


def byte_level_tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]):
    """GPT-2's byte-level BPE, with <|endoftext|> as a special token.

    Raises: ValueError for a vocabulary without the mark; Unequal where text does not come back.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    if GPT2_END not in vocab:
        raise ValueError(f"vocab.json lacks {GPT2_END!r}; give the vocabulary of GPT-2")
    tokenizer = Tokenizer(models.BPE(vocab, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(GPT2_END, normalized=False)])
    tokenizer.encode_special_tokens = True
    for text in HOSTILE:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if tokenizer.decode(ids, skip_special_tokens=False) != text:
            raise Unequal(f"{text[:60]!r} does not come back; vocab.json lacks bytes")
    return tokenizer


# Folder -------------------------------------------------------------------------------------------


def configuration(specials: dict[str, str]) -> str:
    """tokenizer_config.json: the class, and which tokens are special, though never in a text."""
    described = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",  # so that a batch can be continued
        "split_special_tokens": True,
    }
    described |= {f"{name}_token": piece for name, piece in specials.items()}
    return json.dumps(described, indent=2, ensure_ascii=False) + "\n"


def require(*libraries: str) -> None:
    """Raises: ImportError with the command, where one of the libraries is not installed."""
    for name in libraries:
        if not find_spec(name):
            raise ImportError(f"making a tokenizer needs {name}: {NEEDS}")


def read_sentencepiece(path: Path):
    """The model's description and the model itself.

    Raises: ValueError for a file that is none; ImportError.
    """
    require("sentencepiece", "google", "google.protobuf")
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no SentencePiece model ({error}); name another") from None
    return sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes()), processor


def write_sentencepiece(model: Path, folder: Path, room: int | None = None) -> Written:
    """Write the tokenizer of a SentencePiece model; where it would differ, the model alone."""
    require("tokenizers")
    proto, processor = read_sentencepiece(model)
    tokens = len(proto.pieces)
    refuse_too_many(model, tokens, room)
    shutil.copyfile(model, folder / "tokenizer.model")
    try:
        tokenizer = fast_tokenizer(proto)
        refuse_differences(tokenizer, processor, probes(proto))
    except Unequal as reason:
        note = (
            f"Only `tokenizer.model` is included, for the `sentencepiece` library: {reason}, so the"
            " `tokenizers` library would give other tokens."
        )
        return Written(tokens, note, is_whole=False)
    specials = special_pieces(proto)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(configuration(specials))
    front = f" `{specials['bos']}` is put in front of a text, as in training." * ("bos" in specials)
    note = (
        f"{tokens:,} tokens. `tokenizer.json` was made from `tokenizer.model` and gives the same"
        f" tokens and the same decoded text.{front} Text that spells a special token is text."
    )
    marks = {name: tokenizer.token_to_id(piece) for name, piece in specials.items()}
    return Written(tokens, note, is_whole=True, marks=marks)


def write_gpt2(source: Path, folder: Path, room: int | None = None) -> Written:
    """Write the tokenizer of a folder with vocab.json and merges.txt.

    Raises: ValueError for files of another form.
    """
    require("tokenizers")
    vocab = json.loads((source / "vocab.json").read_text(encoding="utf-8"))
    lines = (source / "merges.txt").read_text(encoding="utf-8").split("\n")
    merges = []
    for number, line in enumerate(lines, 1):
        if line and not line.startswith("#version"):
            pair = tuple(line.split(" "))
            if len(pair) != 2 or not {*pair, "".join(pair)} <= set(vocab):
                where = f"{source / 'merges.txt'}:{number}: {line!r}"
                raise ValueError(f"{where} must be two tokens of vocab.json that join to a third")
            merges.append(pair)
    tokens = 1 + max(vocab.values())
    refuse_too_many(source, tokens, room)
    byte_level_tokenizer(vocab, merges).save(str(folder / "tokenizer.json"))
    for name in ("vocab.json", "merges.txt"):
        shutil.copyfile(source / name, folder / name)
    specials = dict.fromkeys(("bos", "eos", "unk", "pad"), GPT2_END)
    (folder / "tokenizer_config.json").write_text(configuration(specials))
    note = (
        f"{tokens:,} tokens, byte-level BPE from `vocab.json` and `merges.txt`. Text that spells"
        f" `{GPT2_END}` is text."
    )
    return Written(tokens, note, is_whole=True, marks=dict.fromkeys(specials, vocab[GPT2_END]))


def copy_given(source: Path, folder: Path, room: int | None = None) -> Written:
    """Copy a tokenizer that has its tokenizer.json already, as it is.

    Its marks are those that tokenizer_config.json names; where it names none, GPT-2's, if there.
    """
    described = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocab = described["model"]["vocab"]  # a dict, or a list of pairs
    ids = dict(vocab) if isinstance(vocab, dict) else {v[0]: i for i, v in enumerate(vocab)}
    ids |= {token["content"]: token["id"] for token in described.get("added_tokens", [])}
    tokens = 1 + max(ids.values())
    config = source / "tokenizer_config.json"
    config = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    named = {name: config.get(f"{name}_token", GPT2_END) for name in ("bos", "eos", "pad")}
    named = {k: v["content"] if isinstance(v, dict) else v for k, v in named.items()}
    marks = {name: ids[piece] for name, piece in named.items() if piece in ids}
    refuse_too_many(source, tokens, room)
    present = [name for name in FILES if (source / name).is_file()]
    for name in present:
        shutil.copyfile(source / name, folder / name)
    names = ", ".join(f"`{name}`" for name in present)
    note = f"{tokens:,} tokens. The files {names} are those that were given."
    return Written(tokens, note, is_whole=True, marks=marks)


def refuse_too_many(source: Path, tokens: int, room: int | None) -> None:
    """Raises: ValueError where a tokenizer has more tokens than the model has rows."""
    if room is not None and tokens > room:
        raise ValueError(f"{source} has {tokens} tokens, the model only {room}")


def write(source: Path, folder: Path, room: int | None = None) -> Written:
    """Give the folder the tokenizer that source is or holds; room is the model's vocab_size.

    Raises: ValueError where there is none, or it has more tokens than room; OSError; ImportError.
    """
    if source.is_file():
        return write_sentencepiece(source, folder, room)
    if (source / "tokenizer.json").is_file():
        return copy_given(source, folder, room)
    if (source / "tokenizer.model").is_file():
        return write_sentencepiece(source / "tokenizer.model", folder, room)
    if all((source / name).is_file() for name in ("vocab.json", "merges.txt")):
        return write_gpt2(source, folder, room)
    raise ValueError(
        f"{source} holds no tokenizer; give a SentencePiece model, or a folder with"
        " tokenizer.json, tokenizer.model, or vocab.json and merges.txt"
    )


def original_rows(folder: Path, texts: Iterable[str] = HOSTILE) -> list[list[int]] | None:
    """What a folder's tokenizer was made from gives for texts, without BOS.

    That is the SentencePiece model or vocab.json; where tokenizer.json was given, that file. None
    for a folder whose tokenizer, if any, is not of the `tokenizers` library.
    """
    if not (folder / "tokenizer.json").is_file():
        return None
    require("tokenizers")
    from tokenizers import Tokenizer

    given = Tokenizer.from_file(str(folder / "tokenizer.json"))
    described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if (folder / "tokenizer.model").is_file() and not described.get("added_tokens"):
        _, processor = read_sentencepiece(folder / "tokenizer.model")
        return [processor.encode(text) for text in texts]
    config = folder / "tokenizer_config.json"
    config = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    given.encode_special_tokens = config.get("split_special_tokens", False)
    return [given.encode(text, add_special_tokens=False).ids for text in texts]


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
