"""The two scanners: which pages and which free frames they take, where they stop, and what they count.

Pageblocks are of 64 frames. ``P`` is the zone's first frame; what a test neither maps nor frees is the kernel's own.
"""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.mm.address_space import PTE_YOUNG, AddressSpace
from netvm.mm.compact_control import COMPACT_CLUSTER_MAX, CompactControl, CompactResult, MigrateMode, ZoneCompaction
from netvm.mm.compact_scan import Scanners
from netvm.mm.frames import PG_LOCKED, PG_SWAPCACHE, PG_WRITEBACK
from netvm.mm.gfp import GFP_FS, GFP_KERNEL, GFP_NOFS
from netvm.mm.invariants import check_ledger, check_lruvec, check_mappings, check_zone
from netvm.mm.lru import INACTIVE_ANON, INACTIVE_FILE
from netvm.mm.scan_control import SWAP_CLUSTER_MAX, ScanControl
from netvm.mm.zone import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE
from netvm.runtime.task import Task
from netvm.units import NS_PER_S

P = 1024
BLOCK = 64
LAST = P + 15 * BLOCK
"""Where the last pageblock of a zone of 1024 frames begins."""


def _host(make_host: Any, **how: Any) -> Any:
    """Return a host whose zone has 16 pageblocks, all of them the kernel's."""
    settled: dict[str, Any] = {
        "zones": (("DMA32", 1024),),
        "free": 0,
        "marks": (4, 5, 6),
        "pageblock_order": 6,
        "boost_factor": 0,
    }
    return make_host(**(settled | how))


def _scan(host: Any, **how: Any) -> tuple[Scanners, CompactControl, ZoneCompaction]:
    """Return the scanners, and a run that has just begun."""
    compaction = host.vmscan.compaction
    settled: dict[str, Any] = {
        "order": 3,
        "mode": MigrateMode.SYNC_LIGHT,
        "gfp": GFP_KERNEL,
        "migratetype": MOVABLE,
        "migrate_pfn": P,
        "free_pfn": LAST,
    }
    cc = CompactControl(zone=host.zone, **(settled | how))
    return compaction.scanners, cc, compaction.states[host.zone.name]


# -- pages that could move ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rescan", "nr"), [(False, COMPACT_CLUSTER_MAX), (True, BLOCK)])
def test_a_batch_is_32_pages_or_a_pageblock(make_host: Any, rescan: bool, nr: int) -> None:
    """Going on in a pageblock where it has been before it takes what is left; never of two pageblocks."""
    host = _host(make_host)
    host.program(list(range(P, P + 3 * BLOCK)))
    scanners, cc, state = _scan(host, rescan=rescan)
    assert scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages == list(range(P, P + nr))
    assert cc.migrate_pfn == P + nr
    assert cc.nr_migrate_scanned == host.vmstat.compact_isolated == nr
    assert len(host.lruvec.lists[INACTIVE_ANON]) == 3 * BLOCK - nr


def test_each_frame_that_is_passed_is_counted_and_paid_for(make_host: Any) -> None:
    """A pageblock of few pages is gone over to its end; what was skipped to get there costs nothing."""
    host = _host(make_host)
    host.program([P + BLOCK + 10, P + BLOCK + 40])
    scanners, cc, state = _scan(host)
    state.set_skip(P)
    task = host.task()
    assert scanners.isolate_migratepages(task, cc, state)
    assert (cc.migrate_pfn, cc.nr_migrate_scanned) == (P + 2 * BLOCK, BLOCK)
    assert task.charge_ns == BLOCK * host.costs.compact_scan
    assert cc.migrate_pages == [P + BLOCK + 10, P + BLOCK + 40]


def test_one_pageblock_at_a_time(make_host: Any) -> None:
    """One that has nothing ends the look, so that somebody may ask whether it is enough."""
    host = _host(make_host)
    host.program([P + BLOCK])
    scanners, cc, state = _scan(host)
    assert not scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pfn == P + BLOCK
    assert scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages == [P + BLOCK]


def test_it_ends_where_the_free_scanner_is(make_host: Any) -> None:
    """A pageblock that the free scanner has come to is not taken apart."""
    host = _host(make_host)
    host.program(list(range(P, P + BLOCK)))
    for free_pfn, found in ((P + BLOCK - 1, False), (P + BLOCK, True)):
        scanners, cc, state = _scan(host, free_pfn=free_pfn)
        assert scanners.isolate_migratepages(host.task(), cc, state) == found


@pytest.mark.parametrize("mode", list(MigrateMode))
def test_pages_under_writeback_are_never_taken(make_host: Any, mode: MigrateMode) -> None:
    """Nobody waits for a write here."""
    host = _host(make_host)
    host.program([P, P + 1, P + 2])
    host.frames.flags_of[P + 1] |= PG_WRITEBACK
    scanners, cc, state = _scan(host, mode=mode)
    scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages == [P, P + 2]


@pytest.mark.parametrize(("gfp", "may"), [(GFP_KERNEL, True), (GFP_NOFS, False), (GFP_FS, True)])
def test_without_fs_only_pages_of_programs_are_taken(make_host: Any, gfp: int, may: bool) -> None:
    """A page of a file or of the swap cache could need its file system's locks."""
    host = _host(make_host)
    host.program([P, P + 1])
    host.frames.flags_of[P + 1] |= PG_SWAPCACHE
    file_page = host.lru_pages(1, lru=INACTIVE_FILE).tolist()
    host.frames.mapping[file_page] = -5
    scanners, cc, state = _scan(host, gfp=gfp)
    scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages == ([P, P + 1, *file_page] if may else [P])


def test_a_pinned_page_of_a_program_is_not_taken(make_host: Any) -> None:
    """It could not move; of a page in the swap cache that is not known yet."""
    host = _host(make_host)
    host.program([P, P + 1])
    host.frames.pins[P : P + 2] = 1
    host.frames.flags_of[P + 1] |= PG_SWAPCACHE
    scanners, cc, state = _scan(host)
    scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages == [P + 1]


@pytest.mark.parametrize("migratetype", [UNMOVABLE, MOVABLE, RECLAIMABLE])
@pytest.mark.parametrize(("mode", "direct"), [(MigrateMode.ASYNC, True), (MigrateMode.ASYNC, False), (1, True)])
def test_an_async_allocator_takes_from_pageblocks_of_its_kind(
    make_host: Any, migratetype: int, mode: int, direct: bool
) -> None:
    """Who will not wait frees its own pageblocks only; others all, one after another."""
    host = _host(make_host)
    for number, kind in enumerate((RECLAIMABLE, UNMOVABLE, MOVABLE)):
        host.zone.set_pageblock_type(P + number * BLOCK, kind)
        host.program(list(range(P + number * BLOCK, P + number * BLOCK + 8)))
    scanners, cc, state = _scan(host, mode=MigrateMode(mode), direct=direct, migratetype=migratetype)
    scanners.isolate_migratepages(host.task(), cc, state)
    of_its_kind = {RECLAIMABLE: P, UNMOVABLE: P + BLOCK, MOVABLE: P + 2 * BLOCK}[migratetype]
    assert cc.migrate_pages[0] == (of_its_kind if direct and mode == MigrateMode.ASYNC else P)
    assert len(cc.migrate_pages) == 8


def test_an_async_allocator_gives_up_a_block_with_a_page_that_stays(make_host: Any) -> None:
    """Of an aligned block of its order all is free or can move, or nothing is taken of it."""
    host = _host(make_host)
    # a page of the kernel's in the first block of eight, one under writeback in the second
    host.program([P, P + 1, *range(P + 8, P + 16), P + 17, P + 20, *range(P + 24, P + 32)])
    host.put(P + 2, 1)
    host.frames.flags_of[P + 9] |= PG_WRITEBACK
    for pfn, order in ((P + 16, 0), (P + 18, 1), (P + 21, 0), (P + 22, 1)):
        host.put(pfn, order)
    scanners, cc, state = _scan(host, mode=MigrateMode.ASYNC, direct=True)
    scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages == [P + 17, P + 20]
    assert cc.migrate_pfn == P + 24
    host.vmscan.compaction.migration.migrate_pages(host.task(), cc.migrate_pages, lambda: -1, lambda _: None)
    cc.migrate_pages = []
    scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages == list(range(P + 24, P + 32))


# -- hints -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ignore", "taken"), [(False, P + BLOCK), (True, P)])
def test_marked_pageblocks_are_passed_over(make_host: Any, ignore: bool, taken: int) -> None:
    """Only who looks into everything takes their pages; in the middle of one the mark is not looked at."""
    host = _host(make_host)
    host.program([P, P + 40, P + BLOCK])
    scanners, cc, state = _scan(host, ignore_skip_hint=ignore)
    state.set_skip(P)
    scanners.isolate_migratepages(host.task(), cc, state)
    assert cc.migrate_pages[0] == taken
    _, middle, state = _scan(host, migrate_pfn=P + 32)
    state.set_skip(P)
    scanners.isolate_migratepages(host.task(), middle, state)
    assert middle.migrate_pages == ([] if ignore else [P + 40])


@pytest.mark.parametrize(("order", "direct", "found"), [(4, False, True), (3, False, False), (4, True, False)])
def test_a_costly_order_looks_for_a_pageblock_with_a_free_block(
    make_host: Any, order: int, direct: bool, found: bool
) -> None:
    """The fast search marks what it finds in the lower half, which is what passes it over then (until 6.3).

    An allocator that wants kernel pages does not search.
    """
    host = _host(make_host)
    host.program([P, P + 3 * BLOCK])
    host.put(P + 3 * BLOCK + 8, 3)
    scanners, cc, state = _scan(host, order=order, direct=direct, migratetype=UNMOVABLE)
    assert scanners.isolate_migratepages(host.task(), cc, state) != found
    assert state.is_skipped(P + 3 * BLOCK) == found
    assert cc.migrate_pages == ([] if found else [P])
    assert cc.migrate_pfn == (P + 4 * BLOCK if found else P + BLOCK)
    assert cc.nr_migrate_scanned == (2 if found else BLOCK)


# -- free pages --------------------------------------------------------------------------------------------------------


def _take_free(host: Any, nr: int, *, search: bool = False, **how: Any) -> tuple[CompactControl, ZoneCompaction]:
    """Isolate free frames for so many pages, by walking alone unless ``search``."""
    scanners, cc, state = _scan(host, **({"order": 3, "search_order": 3} if search else {"order": -1}), **how)
    cc.migrate_pages = [0] * nr
    before = host.owned("compaction")
    scanners._isolate_freepages(host.task(), cc, state)
    check_ledger(host.ledger, host.frames, host.node.zones)
    check_zone(host.zone, host.frames)
    assert host.owned("compaction") == before + len(cc.free_pages)
    return cc, state


def test_it_takes_whole_blocks_until_there_are_enough(make_host: Any) -> None:
    """From the last pageblock up, then the one before it; the last frame is the first to be used."""
    host = _host(make_host)
    for pfn, order in ((P, 5), (LAST + 8, 1), (LAST + 16, 3), (LAST - BLOCK + 4, 2)):
        host.put(pfn, order)
    cc, _ = _take_free(host, 3)
    assert cc.free_pages == [LAST + 8, LAST + 9, *range(LAST + 16, LAST + 24)]
    assert (cc.free_pfn, cc.nr_free_scanned) == (LAST + 24, 24)
    cc, _ = _take_free(host, 3, free_pfn=LAST + 24)
    assert cc.free_pages == list(range(LAST - BLOCK + 4, LAST - BLOCK + 8))
    assert host.vmstat.compact_isolated == 14


@pytest.mark.parametrize("ignore", [False, True])
@pytest.mark.parametrize("kind", [UNMOVABLE, RECLAIMABLE, HIGHATOMIC])
def test_free_frames_are_taken_from_movable_pageblocks(make_host: Any, kind: int, ignore: bool) -> None:
    """Who compacts at the highest priority takes them from any."""
    host = _host(make_host)
    host.zone.set_pageblock_type(LAST, kind)
    host.put(P, 5)
    host.put(LAST, 2, kind)
    host.put(LAST - BLOCK, 2)
    cc, _ = _take_free(host, 1, ignore_block_suitable=ignore)
    assert cc.free_pages[0] == (LAST if ignore else LAST - BLOCK)
    assert host.zone.pageblock_type(LAST) == kind


@pytest.mark.parametrize("ignore", [False, True])
def test_a_wholly_free_pageblock_is_left_alone(make_host: Any, ignore: bool) -> None:
    """It is what compaction is for; one that has a page in it is not."""
    host = _host(make_host)
    host.put(LAST, 6)
    host.put(LAST - BLOCK, 5)
    cc, _ = _take_free(host, 1, ignore_block_suitable=ignore)
    assert cc.free_pages == list(range(LAST - BLOCK, LAST - BLOCK + 32))


def test_a_pageblock_half_of_which_is_taken_becomes_movable(make_host: Any) -> None:
    """Unless it is a HIGHATOMIC one."""
    for kind, left in ((UNMOVABLE, MOVABLE), (HIGHATOMIC, HIGHATOMIC)):
        host = _host(make_host)
        host.zone.set_pageblock_type(LAST, kind)
        host.put(P, 6)
        host.put(LAST, 5, kind)
        _take_free(host, 1, ignore_block_suitable=True)
        assert host.zone.pageblock_type(LAST) == left


@pytest.mark.parametrize("search", [False, True])
@pytest.mark.parametrize(("nr_free", "taken"), [(12, False), (13, True)])
def test_free_frames_are_taken_down_to_min(make_host: Any, nr_free: int, taken: bool, search: bool) -> None:
    """A block is left if it would take free memory to the stored min mark; the boost does not count."""
    host = _host(make_host, marks=(8, 9, 10))
    host.zone.watermark_boost = 500
    host.put(LAST, 2)
    for pfn in range(P, P + 2 * (nr_free - 4), 2):
        host.put(pfn, 0)
    cc, _ = _take_free(host, 1, search=search)
    assert cc.free_pages == (list(range(LAST, LAST + 4)) if taken else [])


def test_a_pageblock_that_was_gone_over_is_marked(make_host: Any) -> None:
    """The next run begins at it, or below; a pageblock that had enough is not through."""
    host = _host(make_host)
    host.put(P, 5)
    host.put(LAST - BLOCK + 4, 2)
    _, state = _take_free(host, 1)
    assert state.is_skipped(LAST)
    assert not state.is_skipped(LAST - BLOCK)
    state.cached_free_pfn = LAST
    _, state = _take_free(host, 5, free_pfn=LAST - 3 * BLOCK)
    assert state.is_skipped(P + BLOCK)
    assert state.cached_free_pfn == P + BLOCK


@pytest.mark.parametrize(("mode", "nr_scanned"), [(MigrateMode.SYNC_LIGHT, 64 + 32 + 16 + 1), (MigrateMode.ASYNC, 7)])
def test_an_async_run_looks_at_every_32nd_frame(make_host: Any, mode: MigrateMode, nr_scanned: int) -> None:
    """Until it finds something; another begins with each, and doubles its step with each pageblock of nothing."""
    host = _host(make_host)
    host.put(P, 5)
    host.put(LAST - 3 * BLOCK, 0)
    cc, _ = _take_free(host, 1, mode=mode)
    assert cc.free_pages == [LAST - 3 * BLOCK]
    assert cc.nr_free_scanned == nr_scanned


def test_the_free_scanner_ends_where_the_other_is(make_host: Any) -> None:
    """It takes nothing out of the pageblock that pages are moved from."""
    host = _host(make_host)
    host.zone.set_pageblock_type(P + 4 * BLOCK, UNMOVABLE)
    for pfn in (P, P + BLOCK, P + 4 * BLOCK):
        host.put(pfn, 5, host.zone.pageblock_type(pfn))
    cc, _ = _take_free(host, 100, migrate_pfn=P + 40)
    assert cc.free_pages == list(range(P + BLOCK, P + BLOCK + 32))
    cc, _ = _take_free(host, 1, migrate_pfn=P + 40, free_pfn=P)
    assert cc.free_pages == []


def test_the_search_takes_a_block_far_up_and_what_is_around_it(make_host: Any) -> None:
    """From the lists' tails, in the zone's last quarter; an allocator that will not wait leaves what is around."""
    far = LAST - 2 * BLOCK
    for how, around in (({}, [far + 8]), ({"mode": MigrateMode.ASYNC, "direct": True}, [])):
        host = _host(make_host)
        for pfn, order in ((P, 5), (P + 4 * BLOCK, 2), (far + 32, 2), (far + 8, 0), (LAST - 6 * BLOCK, 2)):
            host.put(pfn, order)
        cc, _ = _take_free(host, 5, search=True, **how)
        assert cc.free_pages == [*range(far + 32, far + 36), *around]
        assert host.blocks(2) == [LAST - 6 * BLOCK, P + 4 * BLOCK], "who comes next begins at another block"
        assert (cc.search_order, cc.fast_search_fail) == (2, 0)


def test_the_search_finds_nothing_in_the_lower_half(make_host: Any) -> None:
    """Blocks that pages will be moved out of are no place to move to: then it walks."""
    host = _host(make_host)
    for pfn, order in ((P, 5), (P + 4 * BLOCK, 2)):
        host.put(pfn, order)
    cc, _ = _take_free(host, 1, search=True)
    assert cc.fast_search_fail == 1
    assert cc.free_pages == list(range(P + 4 * BLOCK, P + 4 * BLOCK + 4))


def test_what_was_not_used_is_freed(make_host: Any) -> None:
    """The highest of these frames is where the next run may begin."""
    host = _host(make_host)
    host.put(P, 5)
    host.put(LAST + 8, 2)
    scanners, cc, state = _scan(host, order=-1)
    cc.migrate_pages = [0]
    assert scanners.compaction_alloc(host.task(), cc, state) == LAST + 11
    host.ledger.change_owner(host.frames, LAST + 11, 1, host.owner_boot)
    assert scanners.release_freepages(cc) == LAST + 10
    assert scanners.release_freepages(cc) == -1
    assert host.owned("compaction") == 0
    check_ledger(host.ledger, host.frames, host.node.zones)


# -- any layout --------------------------------------------------------------------------------------------------------

KINDS = (*["free"] * 4, *["page"] * 5, "cached", "cached", "kernel", "locked", "writeback", "pinned")
SMALL = 16
NR_BLOCKS = 16


def _layout(host: Any, task: Task, kinds: list[str], migratetypes: list[int]) -> tuple[AddressSpace, list[int]]:
    """Make the second zone one of these frames; return the program whose pages they are, and those that are held."""
    zone, frames = host.zone, host.frames
    start = zone.start_pfn
    for number, kind in enumerate(migratetypes):
        zone.set_pageblock_type(start + number * SMALL, kind)
        zone.nr_reserved_highatomic += SMALL if kind == HIGHATOMIC else 0
    at = 0
    while at < len(kinds):
        end = at
        while end < len(kinds) and kinds[end] == "free" and (end == at or end % SMALL):
            end += 1
        if end > at:
            host.put_range(start + at, end - at, migratetypes[at // SMALL])
        at = max(end, at + 1)
    pfns = [start + i for i, kind in enumerate(kinds) if kind not in ("free", "kernel")]
    space = host.program(pfns, task)
    cached = [start + i for i, kind in enumerate(kinds) if kind == "cached"]
    assert host.swap.add_to_swap(task, cached) == len(cached)
    held = {"locked": PG_LOCKED, "writeback": PG_WRITEBACK}
    for i, kind in enumerate(kinds):
        frames.flags_of[start + i] |= held.get(kind, 0)
        frames.pins_of[start + i] = kind == "pinned"
    return space, [start + i for i, kind in enumerate(kinds) if kind in ("locked", "writeback", "pinned")]


def _owned(host: Any) -> dict[str, int]:
    """Return the pages of each owner, those of nobody together."""
    table: dict[str, int] = host.ledger.table()
    return table | {"free": table.get("free", 0) + table.get("pcp", 0), "pcp": 0}


def _check(host: Any) -> None:
    for zone in host.node.zones:
        check_zone(zone, host.frames)
    check_ledger(host.ledger, host.frames, host.node.zones)
    check_lruvec(host.lruvec, host.frames)
    check_mappings(host.shrinker, host.frames)
    cached = np.flatnonzero(host.frames.flags & np.uint16(PG_SWAPCACHE))
    assert (host.swap.cache[host.frames.swap[cached] - 1] == cached + 1).all(), "a slot has another page"


async def _read_back(host: Any, task: Task, space: AddressSpace) -> None:
    """Swap everything out and in again: what does not come back as it was written is noted by the swap area."""
    space.bits[:] &= np.uint8(0xFF & ~PTE_YOUNG)
    for _ in range(2):
        sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=0)
        for _ in range(NR_BLOCKS):
            plug = host.swap.start_plug(task)
            await host.shrinker.shrink_inactive_list(task, host.lruvec, SWAP_CLUSTER_MAX, sc, plug)
            plug.finish()
        await host.pause(task, NS_PER_S)
        host.lruvec.lru_add_drain()
    assert len(space.swapped()) == space.nr_pages
    assert await host.memory.touch_run(task, space, 0, space.nr_pages, write=False)


@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=SMALL * NR_BLOCKS, max_size=SMALL * NR_BLOCKS),
    migratetypes=st.lists(
        st.sampled_from([*[MOVABLE] * 8, UNMOVABLE, HIGHATOMIC]), min_size=NR_BLOCKS, max_size=NR_BLOCKS
    ),
    runs=st.lists(
        st.tuples(st.sampled_from([3, -1, 2, 4]), st.sampled_from(MigrateMode), st.booleans(), st.booleans()),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=40, deadline=None)
def test_compaction_loses_nothing(
    make_host: Any, kinds: list[str], migratetypes: list[int], runs: list[tuple[int, MigrateMode, bool, bool]]
) -> None:
    """Whatever was run over whatever zone: each owner has what it had, books and lists agree, and content is right."""
    host = make_host(
        zones=(("DMA32", 512), ("Normal", SMALL * NR_BLOCKS)),
        free=0,
        marks=(2, 3, 4),
        pageblock_order=4,
        boost_factor=0,
        swap_pages=256,
    )
    compaction = host.vmscan.compaction

    async def body(task: Task) -> None:
        space, held = _layout(host, task, kinds, migratetypes)
        where = {vpn: space.pte_of[vpn] for vpn in range(space.nr_pages) if space.pte_of[vpn] - 1 in held}
        owned, versions = _owned(host), space.version.tolist()
        for order, mode, hardest, direct in runs:
            cc = CompactControl(
                zone=host.zone,
                order=order,
                search_order=order,
                mode=mode,
                gfp=GFP_KERNEL,
                migratetype=MOVABLE,
                direct=direct and order > 0,
                whole_zone=hardest or order < 0,
                ignore_skip_hint=hardest or order < 0,
                ignore_block_suitable=hardest and order > 0,
                proactive=order < 0,
            )
            assert await compaction.compact_zone(task, cc) != CompactResult.CONTINUE
            assert not cc.free_pages
            assert not cc.migrate_pages
            _check(host)
        assert _owned(host) == owned
        assert {vpn: space.pte_of[vpn] for vpn in where} == where, "a page that somebody holds has moved"
        assert space.version.tolist() == versions
        for pfn in held:
            host.frames.flags_of[pfn] &= ~(PG_LOCKED | PG_WRITEBACK)
            host.frames.pins_of[pfn] = 0
        await _read_back(host, task, space)

    host.run(body)
    assert host.swap.corrupt == []
    _check(host)
