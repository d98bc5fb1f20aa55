"""The careful reader of one line, and what it learns from it."""

import numpy as np
import pytest

from netvm.report.ftraceline import LineReader
from netvm.trace.records import RECORD, Recorded
from netvm.trace.tracepoints import BY_NAME

_LINE = "             hog-155     [002] d.h..     4.605268: mm_vmscan_kswapd_wake: nid=0 order=3"


def test_a_layout_is_where_the_columns_are() -> None:
    """What the layout says of a line is what stands there."""
    layout = LineReader(Recorded()).layout(_LINE)
    assert layout is not None
    assert _LINE[layout.cpu : layout.cpu_end] == "002"
    assert _LINE[layout.flags : layout.flags_end] == "d.h.."
    assert _LINE[layout.second : layout.dot] == "4"
    assert _LINE[layout.event :].startswith("mm_vmscan_kswapd_wake:")
    assert all(ord(_LINE[column]) == character for column, character in layout.marks)
    assert layout.fraction_ns == 1000


def test_a_variant_needs_every_field() -> None:
    """From a line that lacks a field nothing is learned."""
    reader = LineReader(Recorded())
    number = BY_NAME["mm_vmscan_kswapd_wake"].number
    variant = reader.variant(number, " nid=0 order=3 new=7")
    assert variant is not None
    assert (variant.keys, variant.places) == ((b" nid", b" order", b" new"), (0, 1, -1))
    assert reader.variant(number, " nid=0") is None
    assert reader.variant(number, " nid=0  order=1") is None


def test_a_variant_has_no_field_without_a_key_but_the_first() -> None:
    """The device of a file system, ``sb_dev 0:0``, is no part of the name before it."""
    reader = LineReader(Recorded())
    rest = "nr_pages=17 sync_mode=0 kupdate=0 range_cyclic=1 background=1 reason=background cgroup_ino=1"
    number = BY_NAME["writeback_start"].number
    assert reader.variant(number, f" bdi nfs: sb_dev 0:0 {rest}") is None
    older = reader.variant(number, f" bdi nfs: {rest}")
    assert older is not None
    assert older.head_place == 0


@pytest.mark.parametrize(
    ("event", "payload", "right"),
    [
        ("mm_page_free", " page=(____ptrval____) pfn=0x10 order=2", [-1, 16, 2]),
        ("kfree_skb", " skbaddr=00000000ffff1234 protocol=2048 location=1a reason: PFMEMALLOC", [0xFFFF1234, 2048, 26]),
        ("mm_vmscan_direct_reclaim_end", " nr_reclaimed=99999999999999999999", [2**63 - 1]),
    ],
)
def test_fields(event: str, payload: str, right: list[int]) -> None:
    """Fields are read by the event's format, whatever separates them."""
    record = np.zeros(1, dtype=RECORD)[0]
    assert LineReader(Recorded()).fields(BY_NAME[event].number, payload, record["args"])
    assert record["args"][: len(right)].tolist() == right


def test_a_bad_field_is_no_record() -> None:
    """A value that is no number makes the line malformed."""
    record = np.zeros(1, dtype=RECORD)[0]
    reader = LineReader(Recorded())
    assert not reader.fields(BY_NAME["mm_vmscan_kswapd_wake"].number, " nid=0 order=many", record["args"])
    assert not reader.read("rubbish", record)
    assert reader.recorded.losses.examples == ["rubbish"]
