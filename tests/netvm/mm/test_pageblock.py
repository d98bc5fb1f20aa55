"""Pageblocks: whom a request steals from, what is claimed, when the zone is boosted, and the HIGHATOMIC reserve.

``P`` is the first frame of the zone, aligned for every order.
"""

import pytest

from netvm.mm.frames import PG_LRU
from netvm.mm.gfp import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
)
from netvm.mm.invariants import check_zone
from netvm.mm.zone import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE

P = 1024
TYPES = [UNMOVABLE, MOVABLE, RECLAIMABLE]


# -- fallback ----------------------------------------------------------------------------------------------------------


def _other_types(start: int) -> list[int]:
    return {UNMOVABLE: [RECLAIMABLE, MOVABLE], MOVABLE: [RECLAIMABLE, UNMOVABLE], RECLAIMABLE: [UNMOVABLE, MOVABLE]}[
        start
    ]


def _typed(host, kinds: dict[int, tuple[int, int]]) -> None:
    """Put one free block, ``(order, migrate type)``, at each frame, in a pageblock of that type."""
    for pfn, (order, kind) in kinds.items():
        host.zone.set_pageblock_type(pfn, kind)
        host.put(pfn, order, kind)


@pytest.mark.parametrize("start", TYPES)
def test_the_fallback_table(make_host, start: int) -> None:
    """Of equal blocks the first type of the table is taken, then the second."""
    first, second = _other_types(start)
    host = make_host(free=0, pageblock_order=9)
    _typed(host, {P: (6, second), P + 1024: (6, first)})
    assert host.alloc(6, start) == P + 1024
    assert host.alloc(6, start) == P


@pytest.mark.parametrize("start", [UNMOVABLE, RECLAIMABLE])
def test_kernel_pages_steal_the_largest_block(make_host, start: int) -> None:
    """Unmovable and reclaimable requests search from the top: one large steal rather than many small."""
    host = make_host(free=0, pageblock_order=9)
    _typed(host, {P: (4, MOVABLE), P + 512: (6, MOVABLE), P + 1024: (5, MOVABLE)})
    assert host.alloc(4, start) == P + 512


def test_movable_pages_steal_the_smallest_block(make_host) -> None:
    """A movable request that may not claim a pageblock takes the smallest block that fits."""
    host = make_host(free=0, pageblock_order=10)
    _typed(host, {P: (4, UNMOVABLE), P + 1024: (2, UNMOVABLE)})
    assert host.alloc(1, MOVABLE) == P + 1024
    assert host.blocks(4, UNMOVABLE) == [P]


@pytest.mark.parametrize(("order", "taken"), [(4, P + 1024), (5, P)])
def test_movable_pages_claim_from_half_the_pageblock_order(make_host, order: int, taken: int) -> None:
    """From order 5 (pageblock order 10) a movable request may claim: then it takes the largest, too."""
    host = make_host(free=0, pageblock_order=10)
    _typed(host, {P: (order, UNMOVABLE), P + 1024: (2, UNMOVABLE)})
    assert host.alloc(1, MOVABLE) == taken


def test_a_smaller_block_of_the_later_type_comes_before_a_larger_of_the_first(make_host) -> None:
    """The smallest-first search goes by order first and by type within an order."""
    host = make_host(free=0, pageblock_order=10)
    _typed(host, {P: (4, RECLAIMABLE), P + 1024: (3, UNMOVABLE)})
    assert host.alloc(1, MOVABLE) == P + 1024


def test_a_small_steal_takes_one_block_only(make_host) -> None:
    """Without the right to claim, the rest of the pageblock stays where it was; what is split goes to the thief."""
    host = make_host(free=0, pageblock_order=10)
    host.zone.set_pageblock_type(P, UNMOVABLE)
    host.put(P, 3, UNMOVABLE)
    host.put(P + 16, 3, UNMOVABLE)
    assert host.alloc(1, MOVABLE) == P
    assert host.blocks(3, UNMOVABLE) == [P + 16]
    assert host.free_blocks()[2, MOVABLE] == [P + 4]
    assert host.zone.pageblock_type(P) == UNMOVABLE


def test_a_claim_moves_all_free_blocks_to_the_tail(make_host) -> None:
    """Every free block of the pageblock goes to the thief's lists, in order of frames; the smallest fit is taken."""
    host = make_host(free=0, pageblock_order=6)
    host.put(P, 2)
    host.put(P + 8, 3)
    host.put(P + 32, 5)
    assert host.alloc(4, UNMOVABLE) == P + 32
    assert host.free_blocks() == {
        (2, UNMOVABLE): [P],
        (3, UNMOVABLE): [P + 8],
        (4, UNMOVABLE): [P + 48],
    }
    check_zone(host.zone, host.frames)


def _steal(make_host, *, start: int, old: int, nr_free: int, nr_lru: int) -> int:
    """Steal from a pageblock of 64 pages, of which so many are free (one block) and on an LRU list; return its type."""
    host = make_host(free=0, pageblock_order=6)
    host.zone.set_pageblock_type(P, old)
    host.put(P, nr_free.bit_length() - 1, old)
    host.frames.flags[P + nr_free : P + nr_free + nr_lru] |= PG_LRU
    assert host.alloc(3, start) == P
    return host.zone.pageblock_type(P)


@pytest.mark.parametrize(
    ("start", "old", "nr_free", "nr_lru", "claimed"),
    [
        # an unmovable thief counts what is neither free nor movable as its own kind: 64 - (free + movable)
        (UNMOVABLE, MOVABLE, 8, 32, True),
        (UNMOVABLE, MOVABLE, 8, 33, False),
        # a movable one counts the pages on LRU lists
        (MOVABLE, UNMOVABLE, 8, 24, True),
        (MOVABLE, UNMOVABLE, 8, 23, False),
        # between unmovable and reclaimable only what is free counts
        (RECLAIMABLE, UNMOVABLE, 32, 0, True),
        (RECLAIMABLE, UNMOVABLE, 16, 0, False),
        (UNMOVABLE, RECLAIMABLE, 16, 48, False),
    ],
)
def test_a_pageblock_is_claimed_at_half(
    make_host, start: int, old: int, nr_free: int, nr_lru: int, claimed: bool
) -> None:
    """The pageblock becomes the thief's when at least half of it is free or of the thief's kind."""
    found = _steal(make_host, start=start, old=old, nr_free=nr_free, nr_lru=nr_lru)
    assert found == (start if claimed else old)


def test_whole_pageblocks_change_hands(make_host) -> None:
    """A block of the pageblock's order or more takes the type of all its pageblocks along, and boosts nothing."""
    host = make_host(free=0)
    host.put(P, 7)
    assert host.alloc(4, UNMOVABLE, ALLOC_KSWAPD) == P
    assert [host.zone.pageblock_type(P + 32 * i) for i in range(5)] == [UNMOVABLE] * 4 + [MOVABLE]
    assert host.zone.watermark_boost == 0


def test_a_pageblock_cut_off_by_the_end_of_the_zone_is_not_claimed(make_host) -> None:
    """move_freepages_block returns 0 if the zone does not span the pageblock's end: one block moves, the type stays."""
    host = make_host(zones=(("DMA32", 1024 + 48),), free=0, pageblock_order=6)
    host.put(P + 1024, 4)
    host.put(P + 1024 + 24, 3)
    assert host.alloc(4, UNMOVABLE) == P + 1024
    assert host.blocks(3, MOVABLE) == [P + 1024 + 24]
    assert host.zone.pageblock_type(P + 1024) == MOVABLE


# -- the boost ---------------------------------------------------------------------------------------------------------


def test_a_steal_below_the_pageblock_boosts(make_host) -> None:
    """Breaking into a pageblock of another type raises every mark by a pageblock."""
    host = make_host(free=0, marks=(100, 120, 140))
    host.put(P, 4)
    assert host.alloc(4, UNMOVABLE) == P
    assert host.zone.watermark_boost == 32


@pytest.mark.parametrize(
    ("high", "boosts"),
    [(404, [1024, 1024]), (3072, [1024, 2048, 3072, 4096, 4608, 4608])],
)
def test_the_boost_is_capped(make_host, high: int, boosts: list[int]) -> None:
    """At 150 % of the stored high mark, but never below one pageblock: 1024 and 4608 pages on the recorded machines."""
    host = make_host(zones=(("DMA32", 19835),), free=0, pageblock_order=10, marks=(0, 0, high))
    found = []
    for _ in boosts:
        assert host.buddy.pageblocks.boost_watermark(host.zone)
        found.append(host.zone.watermark_boost)
    assert found == boosts


def test_the_cap_does_not_grow_with_the_boost(make_host) -> None:
    """It is taken of the stored mark, not of the mark in use."""
    host = make_host(marks=(0, 0, 40))
    for _ in range(5):
        host.buddy.pageblocks.boost_watermark(host.zone)
    assert host.zone.watermark_boost == 60


@pytest.mark.parametrize(
    "options",
    [
        {"boost_factor": 0},
        {"switches": {"watermark_boost": False}},
        {"zones": (("DMA32", 127),)},
        {"marks": (0, 0, 0)},
    ],
    ids=["factor 0", "without the fix", "small zone", "no mark"],
)
def test_some_zones_are_never_boosted(make_host, options: dict) -> None:
    """vm.watermark_boost_factor = 0, a kernel before 5.0, fewer than four pageblocks: no boost."""
    host = make_host(**({"free": 0} | options))
    assert not host.buddy.pageblocks.boost_watermark(host.zone)
    assert host.zone.watermark_boost == 0


def test_four_pageblocks_are_enough_for_a_boost(make_host) -> None:
    """The size of a zone that boosts begins at four pageblocks."""
    host = make_host(zones=(("DMA32", 128),), free=0)
    assert host.buddy.pageblocks.boost_watermark(host.zone)


@pytest.mark.parametrize(("flags", "wakes"), [(ALLOC_KSWAPD, 1), (0, 0)])
def test_a_boost_wakes_kswapd_once(make_host, flags: int, wakes: int) -> None:
    """The allocator tells kswapd of a boost after the allocation, if the request may wake it."""
    host = make_host(free=0, marks=(100, 120, 140))
    host.put(P, 4)
    host.put(P + 64, 4)
    woken = []
    host.buddy.boosted = woken.append
    assert host.alloc(4, UNMOVABLE, flags) >= 0
    assert host.alloc(4, MOVABLE, flags) >= 0
    assert woken == [host.zone] * wakes


# -- the high-order atomic reserve -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("managed", "pageblock_order", "exact", "nr_blocks"),
    [
        (19835, 10, False, 2),
        (19835, 9, False, 2),
        (28027, 10, False, 2),
        (19835, 10, True, 0),
        (51199, 9, True, 0),
        (51200, 9, True, 1),
        (51400, 9, True, 2),
        (4000, 5, False, 3),
        (4000, 5, True, 2),
    ],
)
def test_the_cap_of_the_high_order_reserve(
    make_host, managed: int, pageblock_order: int, exact: bool, nr_blocks: int
) -> None:
    """Fix ``highatomic_exact_cap``: 1 % rounded up to pageblocks and none below one; before, 1 % and a pageblock more.

    So the recorded 96 MB machine gives up to two pageblocks, a tenth of its memory.
    """
    host = make_host(
        zones=(("DMA32", managed),), free=0, pageblock_order=pageblock_order, switches={"highatomic_exact_cap": exact}
    )
    size = 1 << pageblock_order
    base = -(-P // size) * size
    for i in range(nr_blocks + 2):
        host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, base + i * size)
        assert host.zone.nr_reserved_highatomic == min(i + 1, nr_blocks) * size
    types = [host.zone.pageblock_type(base + i * size) for i in range(nr_blocks + 2)]
    assert types == [HIGHATOMIC] * nr_blocks + [MOVABLE] * 2


def test_a_reserved_pageblock_takes_its_free_pages_along(make_host) -> None:
    """What is free in the block leaves the ordinary lists; a second request from the same block adds nothing."""
    host = make_host(free=0)
    host.put(P + 8, 3)
    host.put(P + 16, 4, UNMOVABLE)
    host.put(P + 64, 3)
    host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, P)
    assert host.free_blocks() == {(3, HIGHATOMIC): [P + 8], (4, HIGHATOMIC): [P + 16], (3, MOVABLE): [P + 64]}
    assert host.zone.nr_highatomic_free == 24
    host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, P + 31)
    assert host.zone.nr_reserved_highatomic == 32
    check_zone(host.zone, host.frames)


def test_without_the_fix_nothing_is_reserved(make_host) -> None:
    """Fix ``highatomic_reserve``: before 4.4 no pageblock becomes HIGHATOMIC."""
    host = make_host(free=512, switches={"highatomic_reserve": False})
    host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, P)
    assert host.zone.nr_reserved_highatomic == 0
    assert host.zone.pageblock_type(P) == MOVABLE


@pytest.mark.parametrize(
    ("flags", "gets"),
    [
        (0, False),
        (ALLOC_MIN_RESERVE, False),
        (ALLOC_NO_WATERMARKS, False),
        (ALLOC_NO_WATERMARKS | ALLOC_KSWAPD, False),
        (ALLOC_NON_BLOCK, True),
        (ALLOC_OOM, True),
        (ALLOC_HIGHATOMIC | ALLOC_NON_BLOCK | ALLOC_MIN_RESERVE, True),
    ],
)
@pytest.mark.parametrize("order", [0, 4])
@pytest.mark.parametrize("start", TYPES)
def test_who_may_take_from_the_high_order_reserve(make_host, flags: int, gets: bool, order: int, start: int) -> None:
    """Only high-order atomic, non-blocking and OOM victims' requests: NO_WATERMARKS has replaced these bits."""
    host = make_host(free=0)
    host.zone.set_pageblock_type(P, HIGHATOMIC)
    host.put(P, 4, HIGHATOMIC)
    assert host.alloc(order, start, flags) == (P if gets else -1)
    assert host.zone.nr_highatomic_free == (16 - (1 << order) if gets else 16)


def test_high_order_atomic_requests_take_from_their_reserve_first(make_host) -> None:
    """ALLOC_HIGHATOMIC looks there before the ordinary lists, the others only after them."""
    for flags, taken in ((ALLOC_HIGHATOMIC, P), (ALLOC_NON_BLOCK, P + 64), (ALLOC_OOM, P + 64)):
        host = make_host(free=0)
        host.zone.set_pageblock_type(P, HIGHATOMIC)
        host.put(P, 4, HIGHATOMIC)
        host.put(P + 64, 4, UNMOVABLE)
        assert host.alloc(4, UNMOVABLE, flags) == taken


def _reserved(make_host, nr_blocks: int, nr_free: int = 8):
    host = make_host(free=0)
    for i in range(nr_blocks):
        host.put(P + 32 * i, nr_free.bit_length() - 1)
        host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, P + 32 * i)
    assert host.zone.nr_reserved_highatomic == 32 * nr_blocks
    return host


def test_the_last_reserved_block_is_kept_unless_forced(make_host) -> None:
    """Reclaim that made progress gives up all but one block; a task about to give up forces the last."""
    host = _reserved(make_host, 2)
    zones = host.node.zones
    assert host.buddy.pageblocks.unreserve_highatomic_pageblock(zones, RECLAIMABLE, force=False)
    assert host.zone.nr_reserved_highatomic == 32
    assert host.zone.pageblock_type(P) == RECLAIMABLE
    assert host.blocks(3, RECLAIMABLE) == [P]
    assert not host.buddy.pageblocks.unreserve_highatomic_pageblock(zones, MOVABLE, force=False)
    assert host.buddy.pageblocks.unreserve_highatomic_pageblock(zones, MOVABLE, force=True)
    assert host.zone.nr_reserved_highatomic == host.zone.nr_highatomic_free == 0
    assert not host.buddy.pageblocks.unreserve_highatomic_pageblock(zones, MOVABLE, force=True)


def test_a_reserved_block_without_a_free_page_is_not_found(make_host) -> None:
    """Unreserving starts from a free page: a block that is used up stays reserved."""
    host = _reserved(make_host, 1)
    assert host.alloc(3, UNMOVABLE, ALLOC_HIGHATOMIC) == P
    assert not host.buddy.pageblocks.unreserve_highatomic_pageblock(host.node.zones, MOVABLE, force=True)
    assert host.zone.nr_reserved_highatomic == 32


def test_the_block_with_the_smallest_free_piece_is_given_up_first(make_host) -> None:
    """The search goes from order 0 up and takes the head of the first list."""
    host = make_host(free=0)
    for pfn, order in ((P, 4), (P + 32, 2)):
        host.put(pfn, order)
        host.buddy.pageblocks.reserve_highatomic_pageblock(host.zone, pfn)
    assert host.buddy.pageblocks.unreserve_highatomic_pageblock(host.node.zones, MOVABLE, force=False)
    assert [host.zone.pageblock_type(pfn) for pfn in (P, P + 32)] == [HIGHATOMIC, MOVABLE]


def test_the_reserve_of_the_highest_zone_is_given_up_first(make_host) -> None:
    """unreserve_highatomic_pageblock walks the zonelist: Normal before DMA32."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 512)), free=512)
    low, high = host.node.zones
    for zone in (low, high):
        host.buddy.pageblocks.reserve_highatomic_pageblock(zone, zone.start_pfn)
    assert host.buddy.pageblocks.unreserve_highatomic_pageblock(host.node.zones, MOVABLE, force=True)
    assert (low.nr_reserved_highatomic, high.nr_reserved_highatomic) == (32, 0)
