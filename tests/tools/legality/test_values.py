"""Where values come from: names, paths and positions in a text."""

import ast

import pytest

from tools.legality.values import Value, join, join_scores, named, role, text_positions


@pytest.mark.parametrize(
    "name, is_path, kinds",
    [
        ("val_tokens", False, {"val"}),
        ("fineweb_val_*.bin", True, {"val path"}),
        ("train_files", False, {"train path"}),
        ("val_loss", False, set()),
        ("base_bytes_lut", False, {"byte length"}),
        ("byte_count", False, set()),
    ],
)
def test_names_count_where_nothing_else_is_known(name, is_path, kinds):
    """Those of the field for tokens, shards and byte tables; not those of results."""
    assert named(name, is_path) == kinds


@pytest.mark.parametrize(
    "code, roles",
    [
        ("t[1:]", [{"target"}]),
        ("t[:-1]", [{"input"}]),
        ("t[a + 1 : b]", [{"target"}]),
        ("t[a:b]", [set()]),
        ("(t[j - 1], t[j])", [{"input"}, {"target"}]),
        ("(t[j], t[j + 1])", [{"input"}, {"target"}]),
        ("(t[j - k], t[j])", [{"input"}, {"target"}]),
        ("(t[a:j], t[j])", [set(), {"target"}]),
        ("t[j]", [set()]),
    ],
)
def test_positions_tell_targets_from_what_comes_before(code, roles):
    """By slices, and of single tokens by which one is the last."""
    tree = ast.parse(code)
    places = text_positions(tree)
    subscripts = [node for node in ast.walk(tree) if isinstance(node, ast.Subscript)]
    assert [role(node, places) for node in subscripts] == roles


def test_a_loss_keeps_the_text_it_is_of():
    """Numbers that meet it add their kinds, but not the text that they came from."""
    loss = Value(frozenset({"unknown", "nll"}), roots=frozenset({1}))
    weight = Value(frozenset({"unknown", "fresh"}), roots=frozenset({2}))
    assert join([loss, weight]).roots == {1, 2}
    assert join_scores([loss, weight]).roots == {1}
    assert "fresh" in join_scores([loss, weight]).kinds
