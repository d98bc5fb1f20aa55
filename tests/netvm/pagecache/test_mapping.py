"""Address spaces: tags by index, runs of them, and growth."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.pagecache import mapping as module
from netvm.pagecache.mapping import TAG_DIRTY, TAG_WRITEBACK, Mapping


def _mapping(tags: list[int]) -> Mapping:
    nothing: Any = None
    mapping = Mapping(1, "file", nothing, nothing, len(tags))
    mapping.nr_reached = len(tags)
    mapping.tags[: len(tags)] = tags
    return mapping


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60), st.integers(0, 60), st.integers(0, 70), st.integers(1, 9))
def test_the_first_run_is_that_of_a_plain_search(tags: list[int], start: int, end: int, limit: int) -> None:
    """``first_tagged`` finds what going over the pages one by one finds."""
    hits = [i for i in range(start, min(end, len(tags))) if tags[i] & TAG_DIRTY]
    expected = 0
    while hits and expected < limit and hits[0] + expected in hits:
        expected += 1
    index, nr = _mapping(tags).first_tagged(TAG_DIRTY, start, end, limit)
    assert nr == expected
    assert not nr or index == hits[0]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_tagged_lists_every_index_once(tags: list[int]) -> None:
    """All indices that carry the tag, in order."""
    found = _mapping(tags).tagged(TAG_WRITEBACK, 0, 1 << 40).tolist()
    assert found == [i for i, tag in enumerate(tags) if tag & TAG_WRITEBACK]


def test_growth_keeps_what_is_there() -> None:
    """A longer file has its old pages, and empty ones behind them."""
    mapping = _mapping([1, 2, 3])
    mapping.pfn[:3] = [7, 8, 9]
    mapping.extend(5000)
    assert mapping.nr_pages == 5000
    assert mapping.tags[:4].tolist() == [1, 2, 3, 0]
    assert mapping.pfn_of[2] == 9
    mapping.tags_of[4999] = TAG_DIRTY
    mapping.nr_reached = 5000
    assert mapping.first_tagged(TAG_DIRTY, 3, 5000, 8) == (4999, 1)
    assert not np.count_nonzero(mapping.version)


def test_a_tag_is_looked_for_as_far_as_pages_were() -> None:
    """However long a file is, the search ends behind the last page that was ever cached."""
    mapping = _mapping([0, TAG_DIRTY, 0])
    mapping.extend(1 << 20)
    mapping.tags_of[1 << 19] = TAG_DIRTY
    assert mapping.first_tagged(TAG_DIRTY, 2, 1 << 20, 8) == (3, 0)
    assert mapping.tagged(TAG_DIRTY, 0, 1 << 20).tolist() == [1]


def test_a_file_never_shrinks_by_writing() -> None:
    """A write inside the file leaves its size alone."""
    mapping = _mapping([0] * 10)
    mapping.extend(4)
    assert mapping.nr_pages == 10


@given(st.lists(st.integers(0, 40), max_size=6, unique=True), st.integers(0, 2600), st.integers(0, 2700))
def test_what_lies_far_ahead_is_found_by_its_node(nodes: list[int], start: int, end: int) -> None:
    """In a file that is nearly empty ``first_tagged`` finds what going over the pages finds."""
    mapping = _mapping([0] * 2624)
    for node in nodes:
        index = node * 64 + node
        mapping.tags[index] = TAG_DIRTY
        mapping.node_entries[index >> 6] = 1
    hits = [index for index in sorted(node * 65 for node in nodes) if start <= index < end]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_FAR_PAGES", 0)
        patch.setattr(module, "_NODES_AT_ONCE", 3)
        index, nr = mapping.first_tagged(TAG_DIRTY, start, end, 9)
    assert nr == bool(hits)
    assert not hits or index == hits[0]


def test_room_that_is_reserved_changes_no_length() -> None:
    """A file that will be long is as long as it is, and grows without looking for room again."""
    mapping = _mapping([TAG_DIRTY])
    mapping.reserve(5000)
    assert (mapping.nr_pages, mapping.capacity_pages, mapping.tags[0]) == (1, 5000, TAG_DIRTY)
    tags = mapping.tags
    mapping.extend(5000)
    assert mapping.tags is tags
    assert mapping.nr_pages == 5000
    mapping.reserve(10)
    assert mapping.capacity_pages == 5000
