"""SentencePiece's normaliser, as steps of Hugging Face's `tokenizers` library.

Before SentencePiece looks for pieces it replaces characters by a table ("charsmap"), drops blanks,
and writes spaces as "▁". With the usual table, nmt_nfkc, and blanks dropped:

    "  ﬁ\u0301  Ａ\n"  ->  "▁fí▁A"     a ligature, an accent, a wide letter, a line break
"""

import functools
import unicodedata
from collections import defaultdict
from collections.abc import Iterable

import numpy as np

SPACE = "▁"  # what SentencePiece writes for a space
ANY_CHARACTER = "[\\s\\S]"


class Unequal(ValueError):
    """The `tokenizers` library cannot give this model's ids; the message says why."""


# The table ----------------------------------------------------------------------------------------


@functools.lru_cache(2)
def charsmap_table(charsmap: bytes) -> dict[str, str]:
    """Every text that a precompiled charsmap replaces, and its replacement.

    The map is a double array (Darts) of the keys' bytes: from the unit of a prefix, the unit of
    prefix + byte lies at base XOR byte, and is real if its label is that byte. A leaf points into a
    pool of texts that end in a zero. At each place of a text SentencePiece takes the longest key.
    """
    if not charsmap:
        return {}
    size_bytes = int.from_bytes(charsmap[:4], "little")
    units = np.frombuffer(charsmap[4 : 4 + size_bytes], "<u4").astype(np.int64)
    pool = charsmap[4 + size_bytes :]
    # A unit: bits 0 to 7 label, bit 8 has a leaf, bit 9 scale of the offset, bits 10 to 30 offset.
    labels = units & 0x800000FF
    offsets = (units >> 10) << ((units & 0x200) >> 6)
    # Units that could have the same base, so that a key's children are found without trying bytes.
    children = defaultdict(list)
    for unit in np.flatnonzero((labels > 0) & (labels < 256)).tolist():
        children[unit ^ int(labels[unit])].append(unit)
    table = {}
    unvisited = [(int(offsets[0]), b"")]
    while unvisited:
        base, prefix = unvisited.pop()
        for unit in children[base]:
            key = prefix + bytes([int(labels[unit])])
            below = unit ^ int(offsets[unit])
            if units[unit] & 0x100:
                start = int(units[below] & 0x7FFFFFFF)
                table[key.decode()] = pool[start : pool.index(b"\0", start)].decode()
            unvisited.append((below, key))
    return table


# Regular expressions ------------------------------------------------------------------------------


def char_class(chars: Iterable[str]) -> str:
    """A class of a regular expression, by ranges of numbers.

    "abcx" -> "[\\x{61}-\\x{63}\\x{78}]"
    """
    ranges = []
    for number in sorted(map(ord, chars)):
        if ranges and number == ranges[-1][1] + 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    parts = []
    for first, last in ranges:
        parts.append(f"\\x{{{first:x}}}" if first == last else f"\\x{{{first:x}}}-\\x{{{last:x}}}")
    return f"[{''.join(parts)}]"


def longest_of(texts: Iterable[str]) -> str:
    """A regular expression that takes the longest of the texts; the empty one makes it optional.

    Texts are merged into a tree of classes, because a list of 200,000 alternatives takes minutes:
    "ab", "ac" -> "(?:[a](?:[bc]))".
    """
    rests = defaultdict(set)
    for text in texts:
        rests[text[:1]].add(text[1:])
    optional = "?" if rests.pop("", None) else ""
    first_chars = defaultdict(list)  # by what may follow them
    for char, following in rests.items():
        first_chars[frozenset(following)].append(char)
    parts = [char_class(chars) + longest_of(rest) for rest, chars in first_chars.items()]
    return f"(?:{'|'.join(sorted(parts))}){optional}" if parts else ""


# Steps --------------------------------------------------------------------------------------------


def nfkc(texts: Iterable[str]) -> list[str]:
    """Unicode's NFKC of each text, as the library knows it."""
    from tokenizers import normalizers

    return normalizers.NFKC().normalize_str("\n".join(texts)).split("\n")


def replace(chars: Iterable[str], text: str):
    """A step that replaces each of the characters."""
    from tokenizers import Regex, normalizers

    return normalizers.Replace(Regex(char_class(chars)), text)


def tails_of(keys: Iterable[str]) -> dict[str, set[str]]:
    """What may follow a key's first character, by that character."""
    tails = defaultdict(set)
    for key in keys:
        tails[key[0]].add(key[1:])
    return tails


def newer_characters(table, single, touched, joint: str) -> dict[str, str]:
    """Characters that the library's Unicode does not know yet, and what stands for them.

    Raises: Unequal where other marks join such a character than join its replacement.
    """
    tails = tails_of(table)
    newer = {}
    for key, text in single.items():
        if text not in ("", " ") and touched.get(key, key) != text:
            # Where the table joins nothing to the character, nothing may join its replacement.
            newer[key] = text + joint * (tails[key] == {""})
            if tails[key] - {""} and tails[key] - {""} != tails[text] - {""}:
                raise Unequal(f"its normaliser tells {key!r} from {text!r}")
    return newer


def joined_keys(table, newer: dict[str, str]) -> dict[str, str]:
    """Keys of several characters, as they read after newer characters are replaced.

    Raises: Unequal where two keys then read the same and mean different texts.
    """
    joined = {}
    for key, text in table.items():
        if len(key) > 1:
            key = newer.get(key[0], key[0]) + key[1:]
            if joined.setdefault(key, text) != text:
                raise Unequal(f"its normaliser tells {key!r} from a text of the same meaning")
    return joined


def key_ends(joined: dict[str, str], marks: set[str]) -> str:
    """A regular expression of the empty places behind keys that a mark follows."""
    first_chars = defaultdict(list)
    for char, rests in tails_of(joined).items():
        first_chars[frozenset(rests)].append(char)
    keys = sorted(char_class(chars) + longest_of(rests) for rests, chars in first_chars.items())
    mark = char_class(marks)
    longest = "|".join([*keys, f"{ANY_CHARACTER}(?={mark})"])
    # \K: what was read so far stays; only the empty place behind a key is replaced.
    return f"(?={ANY_CHARACTER}{mark})(?:{longest})\\K"


@functools.lru_cache(2)
def folding(charsmap: bytes) -> list:
    """Steps of the `tokenizers` library that replace as a precompiled charsmap does.

    The library's own step for charsmaps, `Precompiled`, does not: it looks for the shortest key, in
    whole graphemes of at most five bytes, so that an accent behind a ligature is lost and jamo stay
    apart. Unicode's NFKC is the table's content but joins and orders marks without end. So each
    key is first set apart from what follows by a character that the table erases (`joint`), then
    NFKC is taken, and what NFKC does not know or must not touch is replaced by name.

    Raises: Unequal for a charsmap that this does not cover.
    """
    from tokenizers import Regex, normalizers

    if not charsmap:
        return []
    table = charsmap_table(charsmap)
    single = {key: text for key, text in table.items() if len(key) == 1}
    erased = sorted(key for key, text in single.items() if text == "")
    blanks = [key for key, text in single.items() if text == " "]
    # Planes 3 and up hold ideographs without other forms, and private characters.
    every = [chr(i) for i in range(11, 0x30000) if not 0xD800 <= i < 0xE000]
    touched = {char: text for char, text in zip(every, nfkc(every), strict=True) if char != text}
    kept = sorted(set(touched) - set(single))  # NFKC changes them, the table does not: wide tilde
    if len(erased) <= len(kept) or erased[:1] > [" "]:
        raise Unequal("its normaliser erases no characters that could mark where a key ends")
    joint = erased[0]
    aside = dict(zip(kept, erased[1:], strict=False))  # NFKC passes over an erased character

    newer = newer_characters(table, single, touched, joint)
    joined = joined_keys(table, newer)
    marks = {char for key in joined for char in key[1:]}
    marks |= {char for char in every if unicodedata.combining(char)}
    marks |= {char for char, text in touched.items() if text[:1] in marks}
    if marks & {*erased, *blanks} or set(tails_of(joined)) & {*erased, *blanks}:
        raise Unequal("its normaliser joins blanks or control characters with others")
    by_nfkc = dict(zip(joined, nfkc(joined), strict=True))
    wrong = [key for key, text in by_nfkc.items() if text != joined[key]]

    steps = [replace(erased, joint), replace(blanks, " ")]
    steps += [normalizers.Replace(key, text) for key, text in sorted(newer.items())]
    steps += [normalizers.Replace(Regex(key_ends(joined, marks)), joint)]
    steps += [normalizers.Replace(key, joined[key]) for key in sorted(wrong, key=len, reverse=True)]
    steps += [normalizers.Replace(char, away) for char, away in aside.items()]
    steps += [normalizers.NFKC()]
    steps += [normalizers.Replace(away, char) for char, away in aside.items()]
    return [*steps, normalizers.Replace(joint, "")]


def normalizer(spec):
    """What SentencePiece does to a text before it looks for pieces, as a step of the library."""
    from tokenizers import Regex, normalizers

    prefix = [normalizers.Prepend(SPACE)] if spec.add_dummy_prefix else []
    spaces = [normalizers.Replace(" ", SPACE)]
    folded = folding(spec.precompiled_charsmap)
    if not spec.remove_extra_whitespaces:
        # The prefix comes first: a text that is erased still gets it.
        return normalizers.Sequence(prefix + folded + spaces)
    leading = normalizers.Replace(Regex(r"\A +"), "")
    runs = normalizers.Replace(Regex(" {2,}"), " ")
    trailing = normalizers.Replace(Regex(rf"{SPACE}+\z"), "")
    return normalizers.Sequence([*folded, leading, runs, *prefix, *spaces, trailing])
