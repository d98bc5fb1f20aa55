"""The buddy allocator: which block is taken, where it returns to, and what a steal does to its pageblock.

Blocks of order 4 and more bypass the per-cpu lists, so tests of the lists themselves use those. ``P`` is the first
frame of the zone, aligned for every order.
"""

from itertools import pairwise

import pytest

from netvm.mm.gfp import (
    ALLOC_OOM,
)
from netvm.mm.invariants import check_zone
from netvm.mm.zone import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE

P = 1024
TYPES = [UNMOVABLE, MOVABLE, RECLAIMABLE]


# -- own lists ---------------------------------------------------------------------------------------------------------


def test_a_block_is_split_from_its_upper_half_down(make_host) -> None:
    """The lower end is handed out; the halves above it go back, one of each order (expand)."""
    host = make_host(free=0)
    host.put(P, 8)
    assert host.alloc(4) == P
    assert host.free_blocks() == {(7, MOVABLE): [P + 128], (6, MOVABLE): [P + 64], (5, MOVABLE): [P + 32]} | {
        (4, MOVABLE): [P + 16]
    }


def test_halves_go_to_the_head_of_their_lists(make_host) -> None:
    """What was just split is taken next: it stands before older blocks of its order."""
    host = make_host(free=0)
    host.put(P + 512, 5)
    host.put(P + 576, 5)
    host.put(P, 7)
    assert host.alloc(6) == P
    assert host.alloc(6) == P + 64
    host.put(P + 128, 7)
    assert host.alloc(4) == P + 512
    host.buddy.free_one_page(host.zone, P + 512, 4, MOVABLE)
    for _ in range(2):
        host.alloc(5)
    assert host.alloc(5) == P + 128
    assert host.blocks(5) == [P + 160]
    assert host.blocks(6) == [P + 192]


def test_the_smallest_block_that_fits_is_taken(make_host) -> None:
    """A large block stays whole while a smaller one does."""
    host = make_host(free=0)
    host.put(P, 9)
    host.put(P + 512, 5)
    assert host.alloc(4) == P + 512
    assert host.blocks(9) == [P]


def test_the_head_of_a_list_is_taken(make_host) -> None:
    """Of blocks of one order the first in the list goes first, wherever it lies."""
    host = make_host(free=0)
    for pfn in (P + 256, P, P + 128):
        host.put(pfn, 4)
    assert [host.alloc(4) for _ in range(3)] == [P + 256, P, P + 128]


def test_nothing_is_handed_out_of_nothing(make_host) -> None:
    """No block of the order or above: -1, and no count moves."""
    host = make_host(free=0)
    host.put(P, 4)
    assert host.alloc(5) == -1
    assert host.zone.nr_free == 16
    assert host.vmstat.pgalloc["dma32"] == 0


# -- giving back -------------------------------------------------------------------------------------------------------


def test_a_freed_block_goes_to_the_head(make_host) -> None:
    """Hot blocks are reused first."""
    host = make_host(free=0)
    host.put(P + 512, 4)
    host.buddy.free_one_page(host.zone, P, 4, MOVABLE)
    assert host.blocks(4) == [P, P + 512]


def test_a_block_likely_to_merge_goes_to_the_tail(make_host) -> None:
    """If the next-higher buddy is free, the block is left alone in the hope that its buddy comes back."""
    host = make_host(free=0)
    host.put(P + 512, 4)
    host.put(P + 32, 5)
    host.buddy.free_one_page(host.zone, P, 4, MOVABLE)
    assert host.blocks(4) == [P + 512, P]
    # the same for the upper one of the two
    host.put(P + 256 + 32, 5)
    host.buddy.free_one_page(host.zone, P + 256 + 16, 4, MOVABLE)
    assert host.blocks(4)[-1] == P + 256 + 16


def test_a_block_of_order_nine_goes_to_the_head_anyway(make_host) -> None:
    """buddy_merge_likely looks no higher than order 8: two order-10 blocks never merge."""
    host = make_host(zones=(("DMA32", 8192),), free=0, pageblock_order=10)
    base = 2048
    host.put(base + 4096, 9)
    host.put(base + 1024, 10)
    host.buddy.free_one_page(host.zone, base, 9, MOVABLE)
    assert host.blocks(9) == [base, base + 4096]
    host.put(base + 4096 + 1024 + 512, 9)
    host.put(base + 4096 + 1024, 8)
    host.buddy.free_one_page(host.zone, base + 2048 + 512, 8, MOVABLE)
    assert host.blocks(8)[0] == base + 2048 + 512


def test_buddies_merge_as_far_as_it_goes(make_host) -> None:
    """The last page of 1024 makes them one block, on the list of the type it was freed as."""
    host = make_host(free=0)
    for order in range(10):
        host.put(P + (1 << order), order, TYPES[order % 3] if order < 5 else MOVABLE)
    host.buddy.free_one_page(host.zone, P, 0, RECLAIMABLE)
    assert host.free_blocks() == {(10, RECLAIMABLE): [P]}
    check_zone(host.zone, host.frames)


def test_nothing_merges_above_the_largest_order(host) -> None:
    """Two neighbours of order 10 stay two."""
    assert host.blocks(10) == [P, P + 1024]
    assert host.alloc(10) == P
    host.pages.free_pages(P, 10)
    assert host.blocks(10) == [P, P + 1024]


def test_only_equal_orders_merge(make_host) -> None:
    """A buddy that is split is no buddy."""
    host = make_host(free=0)
    host.put(P + 16, 3)
    host.buddy.free_one_page(host.zone, P, 4, MOVABLE)
    assert host.free_blocks() == {(4, MOVABLE): [P], (3, MOVABLE): [P + 16]}


@pytest.mark.parametrize(
    ("types", "merge"),
    [
        ((MOVABLE, UNMOVABLE), True),
        ((HIGHATOMIC, MOVABLE), False),
        ((MOVABLE, HIGHATOMIC), False),
        ((HIGHATOMIC, HIGHATOMIC), True),
    ],
)
def test_pageblocks_merge_unless_one_is_highatomic(make_host, types: tuple[int, int], merge: bool) -> None:
    """From the pageblock's order on, a HIGHATOMIC block merges with its like only."""
    host = make_host(free=0)
    for pfn, kind in ((P, types[0]), (P + 32, types[1])):
        host.zone.set_pageblock_type(pfn, kind)
    host.put(P, 5, types[0])
    host.buddy.free_one_page(host.zone, P + 32, 5, types[1])
    if merge:
        assert host.free_blocks() == {(6, types[1]): [P]}
    else:
        assert host.free_blocks() == {(5, types[0]): [P], (5, types[1]): [P + 32]}
    check_zone(host.zone, host.frames)


def test_nothing_merges_beyond_the_zone(make_host) -> None:
    """A buddy in the next zone belongs to other lists."""
    host = make_host(zones=(("DMA32", 16), ("Normal", 16)), free=16, pageblock_order=4)
    low, high = host.node.zones
    assert list(low.free_lists[4][MOVABLE]) == [P]
    pfn = host.buddy.rmqueue(low, 0, 4, MOVABLE, 0)
    host.buddy.own(pfn, 4, host.owner_test, pfmemalloc=False, reserve=False)
    host.pages.free_pages(pfn, 4)
    assert list(low.free_lists[4][MOVABLE]) == [P]
    assert list(high.free_lists[4][MOVABLE]) == [P + 16]


def test_a_page_cannot_be_freed_twice(host) -> None:
    """Freeing what is free stops the run, whether it lies in the buddy or on a per-cpu list."""
    large, small = host.alloc(5), host.alloc(0)
    for pfn, order in ((large, 5), (small, 0)):
        host.pages.free_pages(pfn, order)
        with pytest.raises(AssertionError, match="freed twice"):
            host.pages.free_pages(pfn, order)


# -- per-cpu lists -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "order", "nr_blocks"),
    [(3, 0, 3), (3, 1, 2), (3, 2, 2), (3, 3, 2), (7, 0, 7), (7, 1, 3), (7, 2, 2), (7, 3, 2), (1, 0, 1), (1, 3, 1)],
)
def test_a_refill_takes_a_batch_scaled_by_order(make_host, batch: int, order: int, nr_blocks: int) -> None:
    """Batch pages, but two blocks at least unless the batch is one: an order-3 request takes 16 pages out of free."""
    host = make_host(free=1024, batch=batch)
    assert host.alloc(order) == P
    assert 1024 - host.zone.nr_free == nr_blocks << order
    assert host.nr_pcp == host.zone.pcp[0].count == (nr_blocks - 1) << order
    # the rest is handed out in order, and free does not move
    rest = [host.alloc(order) for _ in range(nr_blocks - 1)]
    assert rest == [P + (i << order) for i in range(1, nr_blocks)]
    assert 1024 - host.zone.nr_free == nr_blocks << order
    host.alloc(order)
    assert 1024 - host.zone.nr_free == 2 * nr_blocks << order


def test_a_refill_uses_what_it_gets(make_host) -> None:
    """Where the buddy has less than a batch, the request is served from what there was."""
    host = make_host(free=2, batch=7)
    assert [host.alloc() for _ in range(3)] == [P, P + 1, -1]
    assert host.zone.nr_free == host.nr_pcp == 0


def test_lists_are_kept_by_order_and_type(make_host) -> None:
    """A page on the list of one type does not serve another, and a pair does not serve a single."""
    host = make_host(free=1024, batch=3, pageblock_order=9)
    host.alloc(0, MOVABLE)
    before = host.zone.nr_free
    host.alloc(1, MOVABLE)
    assert host.zone.nr_free < before
    before = host.zone.nr_free
    host.alloc(0, UNMOVABLE)
    assert host.zone.nr_free < before
    assert host.nr_pcp == 2 + 2 + 2


def test_what_was_freed_last_is_used_first(make_host) -> None:
    """The head of the list is hot."""
    host = make_host(free=16, batch=4)
    pages = [host.alloc() for _ in range(4)]
    for pfn in (pages[2], pages[0], pages[3]):
        host.pages.free_pages(pfn, 0)
    assert [host.alloc() for _ in range(3)] == [pages[3], pages[0], pages[2]]


def _freed(host, pages: list[int], order: int = 0) -> list[int]:
    """Free blocks one by one; return what is left on the per-cpu lists after each."""
    counts = []
    for pfn in pages:
        host.pages.free_pages(pfn, order)
        counts.append(host.zone.pcp[0].count)
    return counts


def test_a_full_list_gives_back_more_and_more(make_host) -> None:
    """At ``high`` a batch goes back, then two, then four, at most high - batch: it doubles while nobody takes."""
    host = make_host(free=64, batch=4, high=16)
    pages = [host.alloc() for _ in range(48)]
    counts = _freed(host, pages)
    assert counts[:16] == [*range(1, 16), 12]
    assert counts[16:20] == [13, 14, 15, 8]
    assert counts[20:28] == [9, 10, 11, 12, 13, 14, 15, 4]
    assert counts[28:40] == [*range(5, 16), 4]


def test_the_factor_is_halved_by_each_allocation(make_host) -> None:
    """Who takes in between keeps the lists from emptying: after one allocation two batches go back instead of four."""
    host = make_host(free=128, batch=4, high=32)
    pages = [host.alloc() for _ in range(100)]
    _freed(host, pages[:32])
    _freed(host, pages[32:36])
    assert host.zone.pcp[0].count == 32 - 8
    _freed(host, pages[36:43])
    assert host.zone.pcp[0].count == 31
    pages.append(host.alloc())
    assert _freed(host, pages[43:45]) == [31, 32 - 8]


def test_the_factor_stops_at_five(make_host) -> None:
    """At most 32 batches at once, however long nobody takes."""
    host = make_host(free=1024, batch=1, high=200)
    pages = [host.alloc() for _ in range(600)]
    counts = _freed(host, pages)
    given = [200 - count for before, count in pairwise(counts) if count <= before]
    assert given[:8] == [1, 2, 4, 8, 16, 32, 32, 32]
    assert max(given) == 32


def test_blocks_are_given_back_at_once_while_only_frees_happen(make_host) -> None:
    """free_high: freeing a block of order 1 to 3 after a batch of frees empties all lists."""
    host = make_host(free=256, batch=4, high=16)
    pages = [host.alloc() for _ in range(16)]
    pairs = [host.alloc(1) for _ in range(2)]
    left_over = host.nr_pcp
    _freed(host, pages[: 16 - left_over])
    assert host.nr_pcp == 12
    host.pages.free_pages(pairs[0], 1)
    assert host.nr_pcp == host.zone.pcp[0].count == 0
    host.audit()


def test_blocks_stay_on_their_list_otherwise(make_host) -> None:
    """Without frees in a row (free_factor 0) a pair is kept like a page."""
    host = make_host(free=256, batch=4, high=16)
    pair = host.alloc(1)
    before = host.nr_pcp
    host.pages.free_pages(pair, 1)
    assert host.nr_pcp == before + 2


@pytest.mark.parametrize(("batch", "limit"), [(3, 12), (7, 28)])
def test_lists_are_short_while_kswapd_balances(make_host, batch: int, limit: int) -> None:
    """ZONE_RECLAIM_ACTIVE: four batches at most, so that what is freed shows as free."""
    host = make_host(free=512, batch=batch, high=337)
    pages = [host.alloc() for _ in range(batch * 30)]
    host.zone.reclaim_active = True
    counts = _freed(host, pages)
    assert max(counts) == limit - 1
    assert counts[limit - 1] == limit - batch


def test_lists_are_emptied_from_the_one_just_used_and_from_the_tail(make_host) -> None:
    """free_pcppages_bulk: the cold end of the list that overflowed first, then the next lists in turn."""
    host = make_host(free=512, batch=4, high=16, pageblock_order=9)
    unmovable = [host.alloc(0, UNMOVABLE) for _ in range(4)]
    movable = [host.alloc(0, MOVABLE) for _ in range(12)]
    assert host.nr_pcp == 0
    _freed(host, movable[:12])
    for pfn in unmovable:
        host.zone.set_pageblock_type(pfn, MOVABLE)
    before = host.zone.nr_free
    _freed(host, unmovable)
    assert host.zone.nr_free == before + 4
    # the oldest of the movable ones are gone, so the newest is next and the rest in order of age
    order = [host.alloc() for _ in range(12)]
    assert order == [*reversed(unmovable), *reversed(movable[4:])]


def test_large_blocks_bypass_the_lists(make_host) -> None:
    """From order 4 on a block goes straight to the buddy and comes straight from it."""
    host = make_host(free=256, batch=7)
    pfn = host.alloc(4)
    assert (host.zone.nr_free, host.nr_pcp) == (240, 0)
    host.pages.free_pages(pfn, 4)
    assert (host.zone.nr_free, host.nr_pcp) == (256, 0)


def test_draining_gives_everything_back(make_host) -> None:
    """drain_all_pages: free rises by what the lists held, and blocks merge again."""
    host = make_host(free=1024, batch=7)
    blocks = [(host.alloc(order), order) for order in (0, 1, 2, 3, 0)]
    for pfn, order in blocks:
        host.pages.free_pages(pfn, order)
    held = host.nr_pcp
    assert held
    free = host.zone.nr_free
    host.buddy.drain_all_pages(host.node.zones)
    assert (host.zone.nr_free, host.nr_pcp) == (free + held, 0)
    assert host.free_blocks() == {(10, MOVABLE): [P]}
    host.audit()


def test_a_highatomic_page_waits_among_the_movable_ones(make_host) -> None:
    """Freed to the MOVABLE list it serves any movable request; drained it goes home to its own."""
    host = make_host(free=0, batch=2)
    host.zone.set_pageblock_type(P, HIGHATOMIC)
    host.put(P, 1, HIGHATOMIC)
    pages = [host.alloc(0, UNMOVABLE, ALLOC_OOM) for _ in range(2)]
    assert host.alloc(0, MOVABLE) == -1
    host.pages.free_pages(pages[0], 0)
    assert host.alloc(0, MOVABLE) == pages[0]
    for pfn in pages:
        host.pages.free_pages(pfn, 0)
    host.buddy.drain_all_pages(host.node.zones)
    assert host.free_blocks() == {(1, HIGHATOMIC): [P]}
    assert host.zone.nr_highatomic_free == 2


def test_a_highatomic_page_goes_home_although_its_block_was_given_up(make_host) -> None:
    """free_pcppages_bulk uses the type recorded when the page was freed, not its pageblock's of now."""
    host = make_host(free=0, batch=2)
    host.zone.set_pageblock_type(P, HIGHATOMIC)
    host.zone.nr_reserved_highatomic = 32
    host.put(P, 1, HIGHATOMIC)
    pages = [host.alloc(0, UNMOVABLE, ALLOC_OOM) for _ in range(2)]
    for pfn in pages:
        host.pages.free_pages(pfn, 0)
    host.zone.set_pageblock_type(P, MOVABLE)
    host.buddy.drain_all_pages(host.node.zones)
    assert host.free_blocks() == {(1, HIGHATOMIC): [P]}


def test_events_count_pages(host) -> None:
    """PGALLOC and PGFREE count base pages, at hand-out and at free."""
    blocks = [(host.alloc(order), order) for order in (0, 2, 5)]
    assert host.vmstat.pgalloc["dma32"] == 1 + 4 + 32
    for pfn, order in blocks:
        host.pages.free_pages(pfn, order)
    assert host.vmstat.pgfree == 1 + 4 + 32


def test_a_list_of_pages_is_freed_in_its_order(make_host) -> None:
    """free_unref_page_list: the last one freed is the next one taken."""
    host = make_host(free=64, batch=4, high=16)
    pages = [host.alloc() for _ in range(8)]
    host.frames.owner[pages] = 1
    host.pages.free_singles(pages[:3], host.owner_test, 0)
    assert [host.alloc() for _ in range(3)] == pages[2::-1]


# -- handing out in runs -----------------------------------------------------------------------------------------------


def test_a_run_stops_at_the_end_of_its_block(make_host) -> None:
    """Consecutive frames of one block; the next call begins the next smallest block."""
    host = make_host(free=0)
    host.put(P + 64, 2)
    host.put(P, 4)
    assert host.buddy.take_run(host.zone, 3, MOVABLE) == range(P + 64, P + 67)
    assert host.buddy.take_run(host.zone, 100, MOVABLE) == range(P + 67, P + 68)
    assert host.buddy.take_run(host.zone, 100, MOVABLE) == range(P, P + 16)
    assert host.buddy.take_run(host.zone, 1, MOVABLE) is None
