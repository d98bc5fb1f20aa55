"""What compaction remembers of a zone: which pageblocks it passes over, where it goes on, how long it lets others pass.

Pageblocks are of 32 frames; ``P`` is the first frame of the zone, aligned for every order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.fixes import preset
from netvm.mm.compact_control import CompactControl, CompactResult, MigrateMode, ZoneCompaction
from netvm.mm.frames import PG_BUDDY, PG_LRU, Frames
from netvm.mm.gfp import GFP_KERNEL, GFP_NOFS
from netvm.mm.zone import HIGHATOMIC, MOVABLE, UNMOVABLE, ZONE_NORMAL, Zone
from netvm.runtime.task import Task
from netvm.units import NS_PER_MS

P = 1024
BLOCK = 32


def _state(*, start_pfn: int = P, present: int = 512, pageblock_order: int = 5) -> tuple[ZoneCompaction, Frames]:
    """Return what compaction knows of a zone of nothing, and its frames."""
    zone = Zone(
        name="DMA",
        start_pfn=start_pfn,
        present=present,
        managed=present,
        pageblock_order=pageblock_order,
        fixes=preset("6.1"),
    )
    frames = Frames(start_pfn + present)
    return ZoneCompaction(zone, frames), frames


# -- deferring ---------------------------------------------------------------------------------------------------------


def _nr_let_pass(state: ZoneCompaction, order: int) -> int:
    """Count the tries that are let pass before one may go on."""
    nr = 0
    while state.compaction_deferred(order):
        nr += 1
        assert nr < 100
    return nr


@pytest.mark.parametrize(("nr_failed", "nr_passed"), [(0, 0), (1, 1), (2, 3), (3, 7), (6, 63), (7, 63), (20, 63)])
def test_each_failure_doubles_what_is_let_pass(nr_failed: int, nr_passed: int) -> None:
    """The shift grows by one with each failure, to six at most; of 1 << shift tries the last goes on."""
    state, _ = _state()
    for _ in range(nr_failed):
        state.defer_compaction(3)
    assert state.defer_shift == min(nr_failed, 6)
    assert _nr_let_pass(state, 3) == nr_passed


def test_once_the_limit_is_met_every_try_goes_on() -> None:
    """The count stays at the limit until another try fails, which counts from zero again."""
    state, _ = _state()
    state.defer_compaction(3)
    state.defer_compaction(3)
    assert _nr_let_pass(state, 3) == 3
    assert [_nr_let_pass(state, 3) for _ in range(3)] == [0, 0, 0]
    assert state.considered == 4
    state.defer_compaction(3)
    assert state.considered == 0
    assert _nr_let_pass(state, 3) == 7


def test_orders_below_the_one_that_failed_are_not_deferred() -> None:
    """They are not counted either; the lowest order that has failed counts."""
    state, _ = _state()
    state.compaction_defer_reset(9, alloc_success=True)
    state.defer_compaction(4)
    state.defer_compaction(6)
    assert state.order_failed == 4
    assert not state.compaction_deferred(3)
    assert state.considered == 0
    assert state.compaction_deferred(4)
    state.defer_compaction(2)
    assert state.order_failed == 2
    assert state.compaction_deferred(3)


@pytest.mark.parametrize("alloc_success", [False, True])
def test_a_block_that_is_there_raises_the_order_that_failed(alloc_success: bool) -> None:
    """compaction_defer_reset: the next higher order; only an allocation that had the block sets the rest back."""
    state, _ = _state()
    state.defer_compaction(2)
    state.defer_compaction(2)
    assert state.compaction_deferred(2)
    state.compaction_defer_reset(3, alloc_success=alloc_success)
    assert state.order_failed == 4
    assert (state.defer_shift, state.considered) == ((0, 0) if alloc_success else (2, 1))
    state.compaction_defer_reset(1, alloc_success=alloc_success)
    assert state.order_failed == 4, "a lower order says nothing of it"


def test_compaction_restarts_after_as_many_as_can_be() -> None:
    """Only at shift six with 64 let pass, and only for an order that has failed."""
    state, _ = _state()
    state.compaction_defer_reset(2, alloc_success=True)
    for _ in range(5):
        state.defer_compaction(3)
    _nr_let_pass(state, 3)
    assert not state.compaction_restarting(3)
    state.defer_compaction(3)
    assert not state.compaction_restarting(3)
    assert _nr_let_pass(state, 3) == 63
    assert state.compaction_restarting(3)
    assert state.compaction_restarting(4)
    assert not state.compaction_restarting(2)


@given(steps=st.lists(st.tuples(st.sampled_from("dfsr"), st.integers(1, 9)), max_size=120))
@settings(max_examples=60, deadline=None)
def test_deferral_against_plain_counting(steps: list[tuple[str, int]]) -> None:
    """Any order of failures, tries and successes: as many are let pass as somebody who writes it all down says."""
    state, _ = _state()
    failures, passed, lowest = 0, 0, 0
    for step, order in steps:
        if step == "d":
            expected = order >= lowest and passed + 1 < 2 ** min(failures, 6)
            passed = passed if order < lowest else min(passed + 1, 2 ** min(failures, 6))
            assert state.compaction_deferred(order) == expected
        elif step == "f":
            state.defer_compaction(order)
            failures, passed, lowest = failures + 1, 0, min(lowest, order)
        else:
            state.compaction_defer_reset(order, alloc_success=step == "s")
            if step == "s":
                failures = passed = 0
            lowest = order + 1 if order >= lowest else lowest


# -- pageblocks --------------------------------------------------------------------------------------------------------


def test_where_a_pageblock_begins_and_ends() -> None:
    """A zone may begin inside a pageblock: its part of it begins with the zone."""
    state, _ = _state(start_pfn=1, present=99)
    assert [state.block_start(pfn) for pfn in (1, 31, 32, 63, 99)] == [1, 1, 32, 32, 96]
    assert [state.block_end(pfn) for pfn in (1, 31, 32, 63, 99)] == [32, 32, 64, 64, 128]
    assert state.last_block == 96
    assert len(state.skip) == 4


@pytest.mark.parametrize("start_pfn", [1, P])
def test_a_hint_is_of_one_pageblock(start_pfn: int) -> None:
    """It is set and cleared by any of the block's frames, and is nobody else's."""
    state, _ = _state(start_pfn=start_pfn, present=128)
    inside = state.block_end(start_pfn)
    state.set_skip(inside + 5)
    found = [state.is_skipped(pfn) for pfn in (inside - 1, inside, inside + BLOCK - 1, inside + BLOCK)]
    assert found == [False, True, True, False]
    state.set_skip(inside, skip=False)
    assert not any(state.skip)


# -- where the scanners go on ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("start_pfn", "present", "last"), [(P, 512, P + 480), (P, 500, P + 480), (1, 64, 64)])
def test_both_ends(start_pfn: int, present: int, last: int) -> None:
    """The migration scanner begins with the zone, the free scanner with the last pageblock, cut off or not."""
    state, _ = _state(start_pfn=start_pfn, present=present)
    state.reset_cached_positions()
    assert state.cached_migrate_pfn == [start_pfn, start_pfn]
    assert state.cached_free_pfn == last


@pytest.mark.parametrize(("mode", "found"), [(MigrateMode.ASYNC, [96, 64]), (MigrateMode.SYNC_LIGHT, [96, 96])])
def test_an_asynchronous_run_leaves_the_other_position(mode: MigrateMode, found: list[int]) -> None:
    """Both go on behind the frame's pageblock, and never back."""
    state, _ = _state()
    state.cached_migrate_pfn = [P, P + 64]
    state.update_cached_migrate(P + 70, mode)
    assert state.cached_migrate_pfn == [P + pfn for pfn in found]
    state.update_cached_migrate(P, mode)
    assert state.cached_migrate_pfn == [P + pfn for pfn in found]


def _control(zone: Zone, **how: Any) -> CompactControl:
    settled: dict[str, Any] = {"mode": MigrateMode.SYNC_LIGHT, "gfp": GFP_KERNEL, "migratetype": MOVABLE}
    return CompactControl(zone=zone, order=3, search_order=3, **(settled | how))


@pytest.mark.parametrize(
    ("migrate_pfn", "free_pfn", "met"),
    [(31, 32, False), (32, 63, True), (32, 32, True), (63, 32, True), (64, 32, True), (0, 480, False)],
)
def test_scanners_meet_in_a_pageblock(migrate_pfn: int, free_pfn: int, met: bool) -> None:
    """Where in it each of them is makes no difference."""
    state, _ = _state()
    assert _control(state.zone, migrate_pfn=P + migrate_pfn, free_pfn=P + free_pfn).scanners_met == met


# -- looking at skipped pageblocks again -------------------------------------------------------------------------------


def _skipped(*, present: int = 256) -> tuple[ZoneCompaction, Frames]:
    """Return a zone whose pageblocks are all passed over, scanners met in the middle."""
    state, frames = _state(present=present)
    for block in range(len(state.skip)):
        state.skip[block] = True
    state.cached_migrate_pfn = [P + 128, P + 128]
    state.cached_free_pfn = P + 96
    state.blockskip_flush = True
    return state, frames


def _numbers(state: ZoneCompaction) -> list[int]:
    return [block for block, skip in enumerate(state.skip) if not skip]


@pytest.mark.parametrize(("offset", "found"), [(0, True), (8, True), (24, True), (1, False), (7, False), (31, False)])
@pytest.mark.parametrize("flag", [PG_LRU, PG_BUDDY])
def test_only_every_eighth_frame_is_looked_at(offset: int, found: bool, flag: int) -> None:
    """A page in between does not make a pageblock worth another look; it is a source or a target from either end."""
    state, frames = _skipped()
    # the first of the lower half for pages that could go, the last of the upper one for free ones
    block = 0 if flag == PG_LRU else 7
    frames.flags[P + BLOCK * block + offset] = flag
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert _numbers(state) == ([block] if found else [])
    assert not state.blockskip_flush


def test_sources_are_looked_for_from_below_and_targets_from_above() -> None:
    """A free block low in the zone is no target, a page high in it no source, until one of the other kind is found."""
    state, frames = _skipped()
    frames.flags[P] = PG_BUDDY
    frames.flags[P + BLOCK * 7] = PG_LRU
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert _numbers(state) == []
    frames.flags[P + BLOCK] = PG_LRU
    frames.flags[P + BLOCK * 6] = PG_BUDDY
    frames.flags[P + BLOCK * 2] = PG_BUDDY
    frames.flags[P + BLOCK * 5] = PG_LRU
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert _numbers(state) == [1, 2, 5, 6], "behind the first of its kind either will do"


def test_the_scanners_begin_where_something_was_found() -> None:
    """The first source from below and the first target from above are the new positions, and the initial ones."""
    state, frames = _skipped()
    for block, flag in ((1, PG_LRU), (2, PG_LRU), (5, PG_BUDDY), (6, PG_BUDDY)):
        frames.flags[P + BLOCK * block] = flag
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert state.cached_migrate_pfn == [P + BLOCK] * 2
    assert state.init_migrate_pfn == P + BLOCK
    assert state.cached_free_pfn == state.init_free_pfn == P + BLOCK * 7 - 1


def test_without_source_and_target_the_scanners_stay_together() -> None:
    """Nothing to go or nothing to come: the next run meets at once, in the middle."""
    state, _ = _skipped()
    state.cached_migrate_pfn, state.cached_free_pfn = [P, P], P + 224
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert state.cached_migrate_pfn == [P + 128, P + 128]
    assert state.cached_free_pfn == P + 127
    assert state.init_migrate_pfn == state.init_free_pfn == 0


@pytest.mark.parametrize(("kind", "found"), [(MOVABLE, [7]), (UNMOVABLE, []), (HIGHATOMIC, [])])
def test_a_target_is_in_a_movable_pageblock(kind: int, found: list[int]) -> None:
    """Free pages of other pageblocks are nothing to move into."""
    state, frames = _skipped()
    frames.flags[P + BLOCK * 7] = PG_BUDDY
    state.zone.set_pageblock_type(P + BLOCK * 7, kind)
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert _numbers(state) == found


def test_a_pageblock_that_is_not_passed_over_counts_once_a_source_is_found() -> None:
    """With both kinds wanted a pageblock without a hint is good as it is, whatever is in it."""
    state, frames = _skipped()
    state.skip[1] = False
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert state.init_migrate_pfn == 0
    frames.flags[P] = PG_LRU
    frames.flags[P + BLOCK * 7] = PG_BUDDY
    state.skip[6] = False
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert _numbers(state) == [0, 1, 6, 7]
    assert (state.init_migrate_pfn, state.init_free_pfn) == (P, P + 255)


def test_a_zone_that_ends_inside_a_pageblock() -> None:
    """Frames behind its end are nobody's: they are not looked at."""
    state, frames = _state(present=BLOCK * 4 + 8)
    state.set_skip(P + BLOCK * 4)
    frames.flags[P + BLOCK * 4] = PG_BUDDY
    state.blockskip_flush = True
    state.reset_isolation_suitable()
    assert not state.is_skipped(P + BLOCK * 4)
    assert state.init_free_pfn == P + BLOCK * 4 + 7


# -- what the migration scanner leaves behind --------------------------------------------------------------------------


def _host(make_host: Any, pages: list[int], free: list[int] | None = None, **how: Any) -> Any:
    """Return a host of 16 pageblocks, of a program's pages, free ones, and the kernel's."""
    host = make_host(zones=(("DMA32", 512),), free=0, marks=(8, 9, 10), boost_factor=0, **how)
    host.program(pages, host.task("owner", 998))
    for pfn in free or []:
        host.put(pfn, 0)
    return host


def _isolate(host: Any, **how: Any) -> tuple[CompactControl, ZoneCompaction]:
    """Have the migration scanner look at one pageblock."""
    compaction = host.vmscan.compaction
    cc = _control(host.zone, **({"migrate_pfn": P, "free_pfn": P + 15 * BLOCK} | how))
    state = compaction.states["DMA32"]
    compaction.scanners.isolate_migratepages(host.task(), cc, state)
    return cc, state


def test_a_pageblock_without_pages_is_passed_over_from_now_on(make_host: Any) -> None:
    """It is marked, and the next run begins behind the one after it (update_cached_migrate of its end)."""
    cc, state = _isolate(_host(make_host, [P + 2 * BLOCK]))
    assert not cc.migrate_pages
    assert (state.is_skipped(P), state.is_skipped(P + BLOCK)) == (True, False)
    assert state.cached_migrate_pfn == [P + 2 * BLOCK] * 2


@pytest.mark.parametrize(("first", "ignore", "marked"), [(P, False, True), (P + 1, False, False), (P, True, False)])
def test_a_pageblock_is_marked_by_its_first_page(make_host: Any, first: int, ignore: bool, marked: bool) -> None:
    """Who takes a pageblock's first frame has others pass it over, unless it looks at no hints itself."""
    cc, state = _isolate(_host(make_host, [first, P + 5]), ignore_skip_hint=ignore)
    assert cc.migrate_pages == [first, P + 5]
    assert state.is_skipped(P) == marked
    assert state.cached_migrate_pfn == [0, 0], "it is not through"


def test_a_pageblock_that_is_scanned_for_the_second_time_is_through(make_host: Any) -> None:
    """Whatever was taken of it, the next run begins behind it."""
    cc, state = _isolate(_host(make_host, [P, P + 20]), rescan=True, migrate_pfn=P + 16)
    assert cc.migrate_pages == [P + 20]
    assert state.cached_migrate_pfn == [P + 2 * BLOCK] * 2


# -- too many pages isolated -------------------------------------------------------------------------------------------


def _crowded(make_host: Any, **how: Any) -> Any:
    """Return a host of 256 pages on the lists with as many free frames between them."""
    return _host(make_host, list(range(P + 1, P + 512, 2)), list(range(P, P + 512, 2)), **how)


def _compact(host: Any, cc: CompactControl, *, before: Callable[[Task], None] = lambda _: None) -> CompactResult:
    async def body(task: Task) -> CompactResult:
        before(task)
        result: CompactResult = await host.vmscan.compaction.compact_zone(task, cc)
        return result

    found: CompactResult = host.run(body)
    return found


@pytest.mark.parametrize(
    ("gfp", "fix", "limit"), [(GFP_KERNEL, True, 16), (GFP_KERNEL, False, 128), (GFP_NOFS, True, 128)]
)
def test_how_many_pages_others_may_have_isolated(make_host: Any, gfp: int, fix: bool, limit: int) -> None:
    """Half of those that are left on the lists, or with ``compaction_isolation_limit`` an eighth of that.

    Who may not enter a file system keeps the larger limit, and so never waits for who may.
    """
    host = _crowded(make_host, switches={"compaction_isolation_limit": fix})
    compaction = host.vmscan.compaction
    cc = _control(host.zone, gfp=gfp)
    host.vmstat.nr_isolated_anon, host.vmstat.nr_isolated_file = limit - 1, 1
    assert not compaction._too_many_isolated(cc)
    host.vmstat.nr_isolated_file += 1
    assert compaction._too_many_isolated(cc)


def test_active_and_file_pages_count_as_left_on_the_lists(make_host: Any) -> None:
    """Unevictable ones do not."""
    host = _host(make_host, [P])
    for lru, nr in ((1, 40), (2, 50), (3, 70)):
        host.lru_pages(nr, lru=lru)
    host.lruvec.lists[4].add_head(np.arange(P + 300, P + 400))
    host.vmstat.nr_isolated_anon = 80
    cc = _control(host.zone, gfp=GFP_NOFS)
    assert not host.vmscan.compaction._too_many_isolated(cc)
    host.vmstat.nr_isolated_anon = 81
    assert host.vmscan.compaction._too_many_isolated(cc)


def test_an_asynchronous_run_gives_up_where_too_many_are_isolated(make_host: Any) -> None:
    """At once, and nothing is taken."""
    host = _crowded(make_host)
    host.vmstat.nr_isolated_file = 500
    assert _compact(host, _control(host.zone, mode=MigrateMode.ASYNC)) == CompactResult.CONTENDED
    assert (host.world.now_ns, host.vmstat.compact_isolated) == (0, 0)


@pytest.mark.parametrize("kill", [False, True])
def test_another_run_sleeps_where_too_many_are_isolated(make_host: Any, kill: bool) -> None:
    """In reclaim_throttle, 20 ms at a time, until there are fewer or it is killed."""
    host = _crowded(make_host)
    host.vmstat.nr_isolated_file = 500

    def later(task: Task) -> None:
        def change() -> None:
            task.killed = kill
            host.vmstat.nr_isolated_file = 500 if kill else 0

        host.world.call_after(50 * NS_PER_MS, change)

    expected = CompactResult.CONTENDED if kill else CompactResult.SUCCESS
    assert _compact(host, _control(host.zone), before=later) == expected
    assert host.vmscan.throttles.count["VMSCAN_THROTTLE_ISOLATED"] == 3
    host.vmstat.nr_isolated_file = 0
    host.audit()


def test_who_finds_few_isolated_wakes_those_who_wait(make_host: Any) -> None:
    """wake_throttle_isolated ends the others' 20 ms."""
    host = _crowded(make_host)
    ended_ns: list[int] = []

    async def waiter(task: Task) -> None:
        await host.vmscan.throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_ISOLATED")
        ended_ns.append(host.world.now_ns)

    async def body(task: Task) -> None:
        host.world.spawn("waiter", waiter)
        await host.pause(task, NS_PER_MS)
        await host.vmscan.compaction.compact_zone(task, _control(host.zone))
        await host.pause(task, NS_PER_MS)

    host.run(body)
    assert ended_ns == [NS_PER_MS]


# -- whether it could help ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "free", "reach"), [(3, 24, False), (3, 25, True), (4, 73, False), (4, 74, True), (3, 300, True)]
)
def test_whether_a_zone_could_be_compacted(make_host: Any, order: int, free: int, reach: bool) -> None:
    """Twice the block above min, boost included, above low for a costly order; by so many pages as are told."""
    host = make_host(zones=(("DMA32", 1024),), free=0, marks=(8, 41, 99))
    for pfn in range(P, P + 800, 2):
        host.put(pfn, 0)
    assert host.zone.could_compact(order, ZONE_NORMAL, free) == reach
    host.zone.watermark_boost = 4
    assert host.zone.could_compact(order, ZONE_NORMAL, free) == (free == 300)


@pytest.mark.parametrize(
    ("order", "piece", "nr", "reach"), [(3, 2, 5, True), (4, 3, 5, False), (4, 0, 40, True), (3, 0, 40, True)]
)
def test_a_costly_block_that_lacks_memory_rather_than_order(
    make_host: Any, order: int, piece: int, nr: int, reach: bool
) -> None:
    """Fragmentation has to be what is wrong: an index above vm.extfrag_threshold, for costly orders only."""
    host = make_host(free=0, marks=(1, 2, 3))
    for pfn in range(P, P + nr * 16, 16):
        host.put(pfn, piece)
    index = host.zone.fragmentation_index(order)
    assert 500 < index <= 1000 if piece == 0 else 0 <= index <= 500
    assert host.zone.could_compact(order, ZONE_NORMAL, host.zone.nr_free)
    assert host.zone.is_fragmented(order) == reach
