"""Which pages a round writes: in order, cyclic, tagged, and past those under writeback."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netvm.pagecache.mapping import TAG_DIRTY, TAG_WRITEBACK, Mapping
from netvm.pagecache.ports import WB_SYNC_ALL, WritebackControl
from netvm.pagecache.walk import DirtyWalk


def _finish(coroutine: Any) -> Any:
    """Run what does not sleep."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it sleeps")


def _walk(mapping: Mapping, wbc: WritebackControl, limit: int = 1000) -> list[int]:
    """Write what a walk gives, and return the indices."""
    cache: Any = None
    walk = DirtyWalk(cache, mapping, wbc)
    written: list[int] = []
    while run := _finish(walk.next_run(cache, limit)):
        index, nr = run
        mapping.tags[index : index + nr] = TAG_WRITEBACK
        written += range(index, index + nr)
    return written


def _mapping(tags: list[int], writeback_index: int = 0) -> Mapping:
    nothing: Any = None
    mapping = Mapping(1, "file", nothing, nothing, len(tags))
    mapping.nr_reached = len(tags)
    mapping.tags[: len(tags)] = tags
    mapping.writeback_index = writeback_index
    return mapping


@given(
    st.lists(st.sampled_from([0, TAG_DIRTY, TAG_WRITEBACK, TAG_DIRTY | TAG_WRITEBACK]), min_size=1, max_size=40),
    st.integers(0, 45),
    st.integers(1, 50),
    st.integers(1, 7),
)
def test_a_cyclic_round_goes_on_where_the_last_one_stopped(
    tags: list[int], begin: int, nr_to_write: int, limit: int
) -> None:
    """Dirty pages from the last place on, then from the start; busy ones are passed over; no more than asked."""
    mapping = _mapping(tags, begin)
    wbc = WritebackControl(nr_to_write=nr_to_write, range_cyclic=True)
    order = [*range(min(begin, len(tags)), len(tags)), *range(min(begin, len(tags)))]
    expected = [i for i in order if tags[i] == TAG_DIRTY][:nr_to_write]
    assert _walk(mapping, wbc, limit) == expected
    assert wbc.nr_to_write == nr_to_write - len(expected)


def test_a_range_is_kept_to() -> None:
    """Only the pages of the range are written."""
    mapping = _mapping([TAG_DIRTY] * 10)
    assert _walk(mapping, WritebackControl(nr_to_write=100, start=3, end=6)) == [3, 4, 5]


def test_a_sync_does_not_chase_a_writer() -> None:
    """What is dirtied after the round began is left to the next one."""
    mapping = _mapping([TAG_DIRTY, TAG_DIRTY, 0, 0])
    cache: Any = None
    walk = DirtyWalk(cache, mapping, WritebackControl(nr_to_write=1 << 60, sync_mode=WB_SYNC_ALL))
    assert _finish(walk.next_run(cache, 1)) == (0, 1)
    mapping.tags[0] = TAG_WRITEBACK
    mapping.tags[2] |= np.uint8(TAG_DIRTY)
    assert _finish(walk.next_run(cache, 8)) == (1, 1)
    mapping.tags[1] = TAG_WRITEBACK
    assert _finish(walk.next_run(cache, 8)) is None


def test_a_page_given_back_is_given_out_again() -> None:
    """``back_to`` returns to a page whose write was put off."""
    mapping = _mapping([TAG_DIRTY] * 4)
    cache: Any = None
    walk = DirtyWalk(cache, mapping, WritebackControl(nr_to_write=100))
    assert _finish(walk.next_run(cache, 4)) == (0, 4)
    mapping.tags[:2] = TAG_WRITEBACK
    walk.back_to(2)
    assert _finish(walk.next_run(cache, 4)) == (2, 2)
