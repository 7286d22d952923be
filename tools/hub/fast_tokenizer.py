"""A SentencePiece BPE model, or GPT-2's vocabulary, as a tokenizer of the `tokenizers` library.

The ids are the very same, or there is no tokenizer: `refuse_differences` compares ids and decoded
text with the original's, on texts made to break it and on every entry of the model's own tables.
"""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from tools.hub.charsmap import SPACE, Unequal, charsmap_table, normalizer

# Numbers of SentencePiece's format: one kind of model, and the types of pieces.
BPE = 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
GPT2_END = "<|endoftext|>"
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


def require(*libraries: str) -> None:
    """Raises: ImportError with the command, where one of the libraries is not installed."""
    for name in libraries:
        if not find_spec(name):
            raise ImportError(f"making a tokenizer needs {name}: {NEEDS}")


# SentencePiece ------------------------------------------------------------------------------------


def read_sentencepiece(path: Path):
    """The model's description and the model itself.

    Raises: ValueError for a file of another kind; ImportError.
    """
    require("sentencepiece", "google", "google.protobuf")
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    try:
        processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        raise ValueError(f"{path} is no SentencePiece model ({error}); name another") from None
    return sentencepiece_model_pb2.ModelProto.FromString(path.read_bytes()), processor


def merges_of(pieces) -> list[tuple[str, str]]:
    """Every pair of pieces that SentencePiece would join, the best first.

    SentencePiece joins the neighbours whose piece has the best score, of equals the leftmost. So
    all ways to part a piece stand together, the short left parts first, as a run of one character
    needs it. From the pieces a, b, c, ab (score -1) and abc (-2):

        (a, b)  (a, bc) is no pair, as there is no bc  (ab, c)
    """
    normal = {p.piece: p.score for p in pieces if p.type == NORMAL}
    merges = []
    for piece, score in normal.items():
        for cut in range(1, len(piece)):
            left = piece[:cut]
            right = piece[cut:]
            if left in normal and right in normal:
                merges.append((-score, cut, left, right))
    return [(left, right) for _, _, left, right in sorted(merges)]


def refuse_other_kinds(proto) -> None:
    """Raises: Unequal for a model whose pieces are not found by merging alone."""
    trainer = proto.trainer_spec
    spec = proto.normalizer_spec
    long_symbols = [p.piece for p in proto.pieces if p.type == USER_DEFINED and len(p.piece) > 1]
    normal = {p.piece for p in proto.pieces if p.type == NORMAL}
    lacking = {char for piece in normal for char in piece} - normal
    scores = [p.score for p in proto.pieces if p.type == NORMAL and len(p.piece) > 1]
    bytes_count = sum(p.type == BYTE for p in proto.pieces)
    reasons = {
        "it is not a BPE model": trainer.model_type != BPE,
        "it has no bytes for unknown characters": bytes_count != 256,
        "it keeps spaces as they are": not spec.escape_whitespaces,
        "it writes spaces behind words": trainer.treat_whitespace_as_suffix,
        "it changes decoded text": proto.denormalizer_spec.precompiled_charsmap,
        f"its symbol {long_symbols and long_symbols[0]!r} is found before spaces are dropped": (
            long_symbols
        ),
        f"its pieces hold {min(lacking, default='')!r}, which is not a piece": lacking,
        "two of its pieces have one score": len(scores) != len(set(scores)),
        "it has pieces of an unknown type": any(
            p.type > BYTE or p.type == UNUSED for p in proto.pieces
        ),
    }
    for reason, applies in reasons.items():
        if applies:
            raise Unequal(reason)


def special_pieces(proto) -> dict[str, str]:
    """Pieces by what they stand for: bos, eos, unk, pad; those that the model has."""
    trainer = proto.trainer_spec
    ids = {
        "bos": trainer.bos_id,
        "eos": trainer.eos_id,
        "unk": trainer.unk_id,
        "pad": trainer.pad_id,
    }
    pieces = {}
    for name, number in ids.items():
        if 0 <= number < len(proto.pieces) and proto.pieces[number].type in (CONTROL, UNKNOWN):
            pieces[name] = proto.pieces[number].piece
    return pieces


def sentencepiece_tokenizer(proto):
    """The SentencePiece model as a tokenizer of the library, BOS in front where there is one.

    Raises: Unequal where that cannot give the same ids.
    """
    from tokenizers import Tokenizer, decoders, models, processors

    refuse_other_kinds(proto)
    spec = proto.normalizer_spec
    vocab = {p.piece: i for i, p in enumerate(proto.pieces)}
    unknown = next(p.piece for p in proto.pieces if p.type == UNKNOWN)
    merges = merges_of(proto.pieces)
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token=unknown, byte_fallback=True))
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


# GPT-2 --------------------------------------------------------------------------------------------


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
    tokenizer.encode_special_tokens = True  # while texts are compared: what spells it is text
    for text in HOSTILE:
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        if tokenizer.decode(ids, skip_special_tokens=False) != text:
            raise Unequal(f"{text[:60]!r} does not come back; vocab.json lacks bytes")
    return tokenizer


# Proof --------------------------------------------------------------------------------------------


def probes(proto) -> list[str]:
    """Texts to compare on: hostile ones, all pieces in a row, and every key of the normaliser."""
    normal = [p.piece for p in proto.pieces if p.type in (NORMAL, USER_DEFINED)]
    runs = [piece * n for piece in normal if len(set(piece)) == 1 for n in (2, 3, 5, 7)]
    texts = [*HOSTILE, "".join(normal), " ".join(normal), "".join(reversed(normal)), *runs]
    keys = list(charsmap_table(proto.normalizer_spec.precompiled_charsmap))
    texts += ["a".join(keys[i : i + 2000]) for i in range(0, len(keys), 2000)]
    return [text.replace(SPACE, " ") if i % 2 else text for i, text in enumerate(texts)]


def refuse_differences(tokenizer, original, texts: Iterable[str]) -> None:
    """Raises: Unequal naming the first text whose ids, or whose ids' text, are others."""
    for text in texts:
        ids = original.encode(text)
        if tokenizer.encode(text, add_special_tokens=False).ids != ids:
            raise Unequal(f"of {text[:60]!r} the ids would be others")
        if tokenizer.decode(ids, skip_special_tokens=False) != original.decode(ids):
            raise Unequal(f"of {text[:60]!r} the text would be others")
