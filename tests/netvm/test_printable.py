"""What is shown of text that may come from anywhere."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.printable import printable, printable_strings


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kswapd0", "kswapd0"),
        ("größe µs", "größe µs"),
        ("a\nb\tc", "a\\x0ab\\x09c"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\x7f\x9b", "\\u007f\\u009b"),
        ("\u202e\U000e0001", "\\u202e\\udb40\\udc01"),
        ("\udcff", "\\udcff"),
    ],
)
def test_what_does_not_print_is_written_out(text: str, shown: str) -> None:
    """Controls, directions of writing and bytes that are no UTF-8 are written out; letters of any script stay."""
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_nothing_is_left_that_does_not_print(text: str) -> None:
    """Whatever the text, surrogates among it; and what is shown once is shown the same again."""
    shown = printable(text)
    assert shown.isprintable()
    assert printable(shown) == shown
    assert printable(text, keep="\n").count("\n") == text.count("\n")


@given(st.dictionaries(st.text(), st.text()))
def test_json_stays_json(value: dict[str, str]) -> None:
    """JSON that was made printable says what it said."""
    assert json.loads(printable(json.dumps(value, ensure_ascii=False))) == value


def test_strings_in_a_tree() -> None:
    """Keys and values at any depth; what is no string is left."""
    assert printable_strings({"a\n": [1, None, 0.5, True, {"b": "\x1b"}]}) == {
        "a\\x0a": [1, None, 0.5, True, {"b": "\\x1b"}]
    }
