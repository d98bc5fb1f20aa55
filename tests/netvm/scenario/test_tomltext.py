"""TOML text: what is written reads back as the same data."""

import tomllib

from hypothesis import given
from hypothesis import strategies as st

from netvm.scenario.tomltext import toml_text

_LEAVES = (
    st.booleans()
    | st.integers(min_value=-(2**63), max_value=2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)
_DATA = st.recursive(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6), _LEAVES | st.lists(_LEAVES, max_size=3)
    ),
    lambda tables: st.dictionaries(st.text("abc-_1 .", max_size=4), _LEAVES | tables | st.lists(tables, max_size=2)),
    max_leaves=12,
)


@given(_DATA)
def test_round_trip(data: dict[str, object]) -> None:
    """The standard library reads back every table, list of tables, key and value as it was."""
    assert tomllib.loads(toml_text(data)) == data


def test_layout_and_comments() -> None:
    """Plain keys come before tables, None is left out, comments stand before what they are filed under."""
    text = toml_text(
        {"b": {"y": 1, "list": [{"a.b": 1.0}, {}], "z": None}, "a": [1, 2]},
        comments={"": "Head.\nMore.", "a": "About a.", "b": "About b.", "b.list": "About the list."},
    )
    assert text.splitlines() == [
        "# Head.",
        "# More.",
        "",
        "# About a.",
        "a = [1, 2]",
        "",
        "# About b.",
        "[b]",
        "y = 1",
        "",
        "# About the list.",
        "[[b.list]]",
        '"a.b" = 1.0',
        "",
        "[[b.list]]",
    ]


def test_floats_stay_floats() -> None:
    """A float is never written as what TOML reads as an integer."""
    assert tomllib.loads(toml_text({"x": 1e16, "y": 1e-7, "z": float("inf")})) == {
        "x": 1e16,
        "y": 1e-7,
        "z": float("inf"),
    }
    assert isinstance(tomllib.loads(toml_text({"x": 1e16}))["x"], float)
