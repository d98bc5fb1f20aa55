"""The table of tracepoints."""

import numpy as np

from netvm.trace.tracepoints import ARGS_MAX, BY_NAME, OTHER, TRACEPOINTS, number_of


def test_fields_are_named_as_the_text_names_them() -> None:
    """A field's name is the word before its conversion, so filters of a real machine work."""
    point = BY_NAME["mm_vmscan_throttled"]
    assert [field.name for field in point.fields] == ["nid", "usec_timeout", "usect_delayed", "reason"]
    assert [field.kind for field in point.fields] == ["d", "d", "d", "s"]
    assert point.index("reason") == 3


def test_kinds_follow_the_conversions() -> None:
    """Pointers, hexadecimal numbers, integers and strings are told apart."""
    assert [field.kind for field in BY_NAME["mm_page_alloc"].fields] == ["p", "x", "d", "d", "s"]


def test_numbers_are_positions_and_names_are_unique() -> None:
    """A tracepoint's number is its place in the table, and no name stands there twice."""
    assert [point.number for point in TRACEPOINTS] == list(range(len(TRACEPOINTS)))
    assert len(BY_NAME) == len(TRACEPOINTS) - 1
    assert number_of("mm_vmscan_kswapd_wake") != OTHER
    assert all(len(point.fields) <= ARGS_MAX for point in TRACEPOINTS)
    assert len(TRACEPOINTS) <= np.iinfo(np.uint16).max
