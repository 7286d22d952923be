"""The normaliser: the whole table is read, and replaces as SentencePiece does."""

import pytest

from tests.tools.hub.test_fast_tokenizer import trained_kinds
from tools.hub import charsmap, fast_tokenizer

pytest.importorskip("tokenizers", reason="python3 golf.py --with hf test")
pytest.importorskip("google.protobuf", reason="python3 golf.py --with hf test")


@pytest.fixture(scope="module")
def kinds():
    made = trained_kinds(["upstream"])
    return lambda kind: made[kind]


def test_a_charsmap_is_read_whole(kinds):
    """The table says what SentencePiece does, of a letter with a mark, jamo, erased and blank."""
    table = charsmap.charsmap_table(kinds("upstream")[0].normalizer_spec.precompiled_charsmap)
    assert len(table) > 200_000
    assert (table["e\u0301"], table["\u1112\u1161\u11ab"], table["\ufb01"]) == ("é", "한", "fi")
    assert (table["\x01"], table["\n"], table["▁"]) == ("", " ", " ")
    assert charsmap.charsmap_table(b"") == {}


def test_the_library_step_for_charsmaps_would_lose_text(kinds):
    """Why it is not used: an accent behind a ligature vanishes, jamo stay apart; both are seen."""
    from tokenizers import Tokenizer, normalizers

    proto, original, fast = kinds("upstream")
    other = Tokenizer.from_str(fast.to_str())
    precompiled = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    assert precompiled.normalize_str("ﬁ\u0301") == "fi"
    assert precompiled.normalize_str("\u1112\u1161\u11ab") == "\u1112\u1161\u11ab"
    rest = [normalizers.Strip(), normalizers.Replace(" ", "▁")]
    other.normalizer = normalizers.Sequence([precompiled, *rest])
    assert other.encode("plain words").ids == fast.encode("plain words").ids
    with pytest.raises(charsmap.Unequal, match="ids would be others"):
        fast_tokenizer.refuse_differences(other, original, fast_tokenizer.HOSTILE)


def test_regular_expressions_take_what_their_names_say():
    """A class has ranges; of several texts the longest is taken."""
    from tokenizers import Regex, normalizers

    assert charsmap.char_class("xcab") == r"[\x{61}-\x{63}\x{78}]"
    longest = normalizers.Replace(Regex(charsmap.longest_of(["a", "ab", "abcd", "x"])), "-")
    assert longest.normalize_str("a ab abc abcd x") == "- - -c - -"
    assert charsmap.longest_of([]) == ""
