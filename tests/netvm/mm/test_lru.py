"""LRU lists and the batches in front of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.mm.frames import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_SWAPBACKED,
    PG_UNEVICTABLE,
    PG_WRITEBACK,
    Frames,
)
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON, LRU_NAMES, PAGEVEC_SIZE, UNEVICTABLE_LIST, LruList, Lruvec
from netvm.trace.vmstat import VmStat


def _pfns(*numbers: int):
    return np.array(numbers, dtype=np.intp)


@pytest.fixture
def lruvec() -> Lruvec:
    """Return the lists of a node of 256 frames."""
    return Lruvec(Frames(256), VmStat())


def _list(lruvec: Lruvec, lru: int = INACTIVE_ANON) -> list[int]:
    """Return a list, oldest first."""
    return lruvec.lists[lru].pages().tolist()


# -- one list ----------------------------------------------------------------------------------------------------------


def test_pages_leave_at_the_tail_in_the_order_they_came() -> None:
    """The head is young, the tail is old."""
    lru = LruList(Frames(64))
    lru.add_head(_pfns(1, 2, 3))
    lru.add_head(_pfns(4))
    assert len(lru) == 4
    assert lru.isolate_tail(2).tolist() == [1, 2]
    assert lru.isolate_tail(32).tolist() == [3, 4]
    assert lru.isolate_tail(32).tolist() == []


def test_the_last_page_added_at_the_tail_is_scanned_first() -> None:
    """Each page of a rotated batch goes to the very tail: the next scan meets them in reverse."""
    lru = LruList(Frames(64))
    lru.add_head(_pfns(1))
    lru.add_tail(_pfns(2, 3, 4))
    assert lru.isolate_tail(32).tolist() == [4, 3, 2, 1]


def test_a_page_leaves_from_the_middle() -> None:
    """A hole is skipped by whoever isolates, and is not counted."""
    lru = LruList(Frames(64))
    lru.add_head(_pfns(1, 2, 3, 4, 5))
    lru.remove(3)
    lru.remove_many(_pfns(1, 5))
    assert (len(lru), lru.pages().tolist()) == (2, [2, 4])
    assert lru.isolate_tail(2).tolist() == [2, 4]
    assert len(lru) == 0


def test_isolating_reaches_past_a_run_of_holes() -> None:
    """However many pages have left, the oldest of the rest come, in order."""
    frames = Frames(1024)
    lru = LruList(frames)
    lru.add_head(np.arange(1000))
    lru.remove_many(np.arange(10, 900))
    assert lru.isolate_tail(12).tolist() == [*range(10), 900, 901]
    assert lru.isolate_tail(2).tolist() == [902, 903]
    assert len(lru) == 96


@given(
    order=st.permutations(range(40)), gone=st.sets(st.integers(0, 39)), nr=st.integers(1, 50), end=st.integers(0, 41)
)
def test_pages_of_zones_above_are_passed_to_the_head(order: list[int], gone: set[int], nr: int, end: int) -> None:
    """As when one takes page by page: those above that are met become the newest, in the order they were met."""
    lru = LruList(Frames(64))
    lru.add_head(_pfns(*order))
    for pfn in gone:
        lru.remove(pfn)
    left = [pfn for pfn in order if pfn not in gone]
    assert lru.nr_below(end) == sum(pfn < end for pfn in left)
    expected: list[int] = []
    passed: list[int] = []
    while left and len(expected) < nr:
        pfn = left.pop(0)
        (expected if pfn < end else passed).append(pfn)
    taken, skipped = lru.isolate_below(nr, end)
    assert (taken.tolist(), skipped.tolist()) == (expected, passed)
    assert lru.pages().tolist() == left + passed
    assert len(lru) == len(left) + len(passed)


def test_a_page_that_is_not_there_cannot_leave() -> None:
    """Taking a page off a list it is not on stops the run."""
    frames = Frames(64)
    here, there = LruList(frames), LruList(frames)
    here.add_head(_pfns(1, 2))
    there.add_head(_pfns(3))
    with pytest.raises(AssertionError, match="not on this list"):
        here.remove(3)
    with pytest.raises(AssertionError, match="not on this list"):
        here.remove_many(_pfns(1, 3))


# -- the batch of new pages --------------------------------------------------------------------------------------------


def test_new_pages_wait_for_a_batch_of_fifteen(lruvec: Lruvec) -> None:
    """Up to 14 pages are on no list, invisible to reclaim; the fifteenth brings all of them, in order."""
    for pfn in range(PAGEVEC_SIZE - 1):
        lruvec.folio_add_lru(pfn)
    assert (_list(lruvec), lruvec.nr_batched) == ([], 14)
    assert not lruvec.frames.flags[:14].any()
    lruvec.folio_add_lru(14)
    assert (_list(lruvec), lruvec.nr_batched) == (list(range(15)), 0)
    assert (lruvec.frames.flags[:15] == PG_LRU).all()


def test_a_drain_brings_them_early(lruvec: Lruvec) -> None:
    """lru_add_drain: what every reclaimer does first."""
    lruvec.folio_add_lru(7)
    lruvec.folio_add_lru(5)
    lruvec.lru_add_drain()
    assert (_list(lruvec), lruvec.nr_batched) == ([7, 5], 0)


def test_an_active_page_goes_to_the_active_list(lruvec: Lruvec) -> None:
    """A refault that was recognised has set PG_active before the page is added."""
    lruvec.frames.flags[3] = PG_ACTIVE
    for pfn in (2, 3, 4):
        lruvec.folio_add_lru(pfn)
    lruvec.lru_add_drain()
    assert (_list(lruvec), _list(lruvec, ACTIVE_ANON)) == ([2, 4], [3])


def test_lists_by_flags(lruvec: Lruvec) -> None:
    """Active and file choose among four lists; unevictable pages have one of their own."""
    flags = lruvec.frames.flags
    flags[:3] = [0, PG_ACTIVE, PG_ACTIVE | PG_UNEVICTABLE]
    assert [lruvec.lru_of(pfn) for pfn in range(3)] == [INACTIVE_ANON, ACTIVE_ANON, UNEVICTABLE_LIST]
    lruvec.frames.mapping[:2] = -1
    assert [LRU_NAMES[lruvec.lru_of(pfn)] for pfn in range(2)] == ["inactive_file", "active_file"]


@pytest.mark.parametrize("nr", [1, 13, 14, 15, 16, 29, 30, 31, 60, 100])
@pytest.mark.parametrize("batched", [0, 1, 14])
def test_many_pages_are_added_as_one_by_one(lruvec: Lruvec, nr: int, batched: int) -> None:
    """``add_many`` leaves the same list and the same batch as so many calls of folio_add_lru."""
    single = Lruvec(Frames(256), VmStat())
    for pfn in range(batched):
        lruvec.folio_add_lru(pfn)
        single.folio_add_lru(pfn)
    pages = np.arange(100, 100 + nr)
    lruvec.add_many(pages)
    for pfn in pages.tolist():
        single.folio_add_lru(pfn)
    for _ in range(2):
        assert _list(lruvec) == _list(single)
        assert lruvec.batched == single.batched
        assert (lruvec.frames.flags == single.frames.flags).all()
        lruvec.lru_add_drain()
        single.lru_add_drain()


# -- rotation ----------------------------------------------------------------------------------------------------------


def _listed(lruvec: Lruvec, pages, lru: int = INACTIVE_ANON) -> None:
    pages = np.array(pages, dtype=np.intp)
    lruvec.frames.flags[pages] = PG_LRU | PG_SWAPBACKED | (PG_ACTIVE if lru == ACTIVE_ANON else 0)
    lruvec.lists[lru].add_head(pages)


def test_written_pages_move_to_the_tail_in_batches_of_fifteen(lruvec: Lruvec) -> None:
    """Fourteen pages whose write has ended stay where they are; with the fifteenth all move, the last one outermost."""
    _listed(lruvec, range(40))
    lruvec.folio_rotate_reclaimable(list(range(20, 34)))
    assert _list(lruvec) == list(range(40))
    lruvec.folio_rotate_reclaimable([34])
    assert _list(lruvec) == [*range(34, 19, -1), *range(20), *range(35, 40)]
    assert lruvec.vmstat.pgrotated == 15


def test_a_drain_rotates_early(lruvec: Lruvec) -> None:
    """lru_add_drain flushes the rotation batch, after the new pages."""
    _listed(lruvec, range(4))
    lruvec.folio_rotate_reclaimable([2])
    lruvec.folio_add_lru(50)
    lruvec.lru_add_drain()
    assert _list(lruvec) == [2, 0, 1, 3, 50]
    assert lruvec.vmstat.pgrotated == 1


@pytest.mark.parametrize("flag", [PG_LOCKED, PG_DIRTY, PG_UNEVICTABLE, PG_LRU])
def test_some_pages_are_not_rotated(lruvec: Lruvec, flag: int) -> None:
    """Locked, dirty again, unevictable, or isolated by somebody: the page stays where it is."""
    _listed(lruvec, range(4))
    lruvec.frames.flags[2] ^= flag
    lruvec.folio_rotate_reclaimable([2])
    lruvec.lru_add_drain()
    assert _list(lruvec) == [0, 1, 2, 3]
    assert lruvec.vmstat.pgrotated == 0


def test_a_page_under_writeback_again_is_rotated(lruvec: Lruvec) -> None:
    """The flush looks at PG_lru and PG_unevictable only."""
    _listed(lruvec, range(4))
    lruvec.folio_rotate_reclaimable([3])
    lruvec.frames.flags[3] |= PG_WRITEBACK
    lruvec.lru_add_drain()
    assert _list(lruvec) == [3, 0, 1, 2]


def test_a_page_isolated_before_the_flush_is_left_alone(lruvec: Lruvec) -> None:
    """Between the end of a write and the flush a reclaimer may take the page off."""
    _listed(lruvec, range(4))
    lruvec.folio_rotate_reclaimable([0, 3])
    taken = lruvec.lists[INACTIVE_ANON].isolate_tail(1)
    lruvec.frames.flags[taken] &= np.uint16(~PG_LRU & 0xFFFF)
    lruvec.lru_add_drain()
    assert _list(lruvec) == [3, 1, 2]
    assert lruvec.vmstat.pgrotated == 1


def test_an_active_page_loses_its_rank_by_rotation(lruvec: Lruvec) -> None:
    """A page that was activated under writeback comes to the inactive tail in its turn of the batch."""
    _listed(lruvec, range(4))
    _listed(lruvec, [10, 11], ACTIVE_ANON)
    lruvec.folio_rotate_reclaimable([1, 10, 2])
    lruvec.lru_add_drain()
    assert _list(lruvec) == [2, 10, 1, 0, 3]
    assert _list(lruvec, ACTIVE_ANON) == [11]
    assert not lruvec.frames.flags[10] & PG_ACTIVE
    assert lruvec.vmstat.pgrotated == 3


# -- pages that go -----------------------------------------------------------------------------------------------------


def test_a_freed_page_is_forgotten_wherever_it_is(lruvec: Lruvec) -> None:
    """On a list, in the batch of new pages, or in the rotation batch as well."""
    _listed(lruvec, range(4))
    _listed(lruvec, [10], ACTIVE_ANON)
    lruvec.folio_add_lru(50)
    lruvec.folio_add_lru(51)
    lruvec.folio_rotate_reclaimable([1, 2])
    for pfn in (1, 3, 10, 50):
        lruvec.forget(pfn)
        assert not lruvec.frames.flags[pfn] & PG_LRU
    lruvec.lru_add_drain()
    assert (_list(lruvec), _list(lruvec, ACTIVE_ANON)) == ([2, 0, 51], [])


def test_many_pages_are_forgotten_at_once(lruvec: Lruvec) -> None:
    """What exit does: both lists and the batch."""
    _listed(lruvec, range(6))
    _listed(lruvec, [10, 11], ACTIVE_ANON)
    lruvec.folio_add_lru(50)
    lruvec.forget_many(_pfns(0, 5, 11, 50, 3))
    assert (_list(lruvec), _list(lruvec, ACTIVE_ANON), lruvec.nr_batched) == ([1, 2, 4], [10], 0)
    assert not (lruvec.frames.flags[[0, 5, 11, 50, 3]] & PG_LRU).any()


# -- costs -------------------------------------------------------------------------------------------------------------


def test_costs_fade(lruvec: Lruvec) -> None:
    """lru_note_cost: both are halved when their sum passes a quarter of the lists."""
    _listed(lruvec, range(100))
    lruvec.note_cost(file=False, nr_pages=20)
    lruvec.note_cost(file=True, nr_pages=5)
    assert (lruvec.anon_cost, lruvec.file_cost) == (20, 5)
    lruvec.note_cost(file=False, nr_pages=1)
    assert (lruvec.anon_cost, lruvec.file_cost) == (10, 2)


def test_costs_count_all_evictable_lists(lruvec: Lruvec) -> None:
    """Active pages belong to the size that costs are measured by; unevictable ones do not."""
    _listed(lruvec, range(40))
    _listed(lruvec, range(50, 90), ACTIVE_ANON)
    lruvec.note_cost(file=False, nr_pages=20)
    assert lruvec.anon_cost == 20
    lruvec.lists[UNEVICTABLE_LIST].add_head(np.arange(100, 200))
    lruvec.note_cost(file=False, nr_pages=1)
    assert lruvec.anon_cost == 10
