"""Compaction: when it runs, how it ends, what an allocation makes of it, and who has to wait or to give up.

Most hosts have a zone of 1024 frames in pageblocks of 64, of which every other frame is free and the rest a program's.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from netvm.mm.compact_control import CompactControl, CompactPriority, CompactResult, CompactTries, MigrateMode
from netvm.mm.gfp import (
    ALLOC_WMARK_MIN,
    GFP_HIGHUSER_MOVABLE,
    GFP_KERNEL,
    GFP_NOFS,
    GFP_NOIO,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_RECLAIMABLE,
    PF_MEMALLOC,
)
from netvm.mm.lru import INACTIVE_FILE
from netvm.mm.zone import HIGHATOMIC, MOVABLE, RECLAIMABLE, UNMOVABLE
from netvm.runtime.task import Task
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import TRACEPOINTS

P = 1024
BLOCK = 64
END = P + 1024
MARKS = (8, 9, 10)


def _pieces(make_host: Any, *, movable: bool = True, nr_free: int = 512, **how: Any) -> Any:
    """Return a host whose free memory is single frames between pages of a program's, or of the kernel's."""
    settled: dict[str, Any] = {
        "zones": (("DMA32", 1024),),
        "free": 0,
        "marks": MARKS,
        "pageblock_order": 6,
        "boost_factor": 0,
    }
    host = make_host(**(settled | how))
    for pfn in range(P, P + 2 * nr_free, 2):
        host.put(pfn, 0)
    if movable:
        host.program(list(range(P + 1, END, 2)), host.task("owner", 998))
    return host


def _control(host: Any, **how: Any) -> CompactControl:
    settled: dict[str, Any] = {
        "order": 3,
        "search_order": 3,
        "mode": MigrateMode.SYNC_LIGHT,
        "gfp": GFP_KERNEL,
        "migratetype": MOVABLE,
    }
    return CompactControl(zone=host.zone, **(settled | how))


def _compact(host: Any, cc: CompactControl, *, before: Callable[[Task], None] = lambda _: None) -> CompactResult:
    """Run over the zone in a program of its own."""

    async def body(task: Task) -> CompactResult:
        before(task)
        result: CompactResult = await host.vmscan.compaction.compact_zone(task, cc)
        return result

    found: CompactResult = host.run(body)
    return found


def _has_block(host: Any, order: int) -> bool:
    return any(heads for lists in host.zone.free_lists[order:] for heads in lists)


# -- one zone ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [1, 3, 5])
@pytest.mark.parametrize("mode", list(MigrateMode))
def test_a_block_is_made_where_free_memory_is_in_pieces(make_host: Any, mode: MigrateMode, order: int) -> None:
    """Pages go from the zone's start to its end, and no more than are in the way."""
    host = _pieces(make_host)
    cc = _control(host, order=order, search_order=order, mode=mode)
    assert _compact(host, cc) == CompactResult.SUCCESS
    assert _has_block(host, order)
    assert 0 < host.vmstat.pgmigrate_success < 200
    assert (host.frames.mapping[P : P + BLOCK] > 0).sum() == 0
    assert (cc.nr_migrate_scanned, cc.nr_free_scanned) == (
        host.vmstat.compact_migrate_scanned,
        host.vmstat.compact_free_scanned,
    )
    assert host.node.nr_free + host.nr_pcp == 512
    host.audit()


@pytest.mark.parametrize(
    ("nr_free", "result"), [(24, CompactResult.SKIPPED), (25, CompactResult.PARTIAL_SKIPPED)], ids=str
)
def test_without_twice_the_block_above_min_it_does_not_begin(
    make_host: Any, nr_free: int, result: CompactResult
) -> None:
    """It needs frames to move to, and makes none."""
    host = _pieces(make_host, movable=False, nr_free=nr_free)
    assert _compact(host, _control(host)) == result
    assert bool(host.vmstat.compact_migrate_scanned) == (result != CompactResult.SKIPPED)


def test_a_block_that_is_there_needs_no_look(make_host: Any) -> None:
    """Above the mark with the block: nothing is scanned, and nothing drained."""
    host = make_host(free=100, marks=MARKS)
    pages = host.lru_pages(1)
    host.vmscan.compaction.migration.isolate(pages)
    host.lruvec.folio_add_lru(int(pages[0]))
    assert _compact(host, _control(host)) == CompactResult.SUCCESS
    assert host.lruvec.batched == pages.tolist()
    assert host.vmstat.compact_migrate_scanned == host.vmstat.compact_free_scanned == 0


@pytest.mark.parametrize(
    ("how", "result"),
    [({}, CompactResult.PARTIAL_SKIPPED), ({"whole_zone": True}, CompactResult.COMPLETE)],
    ids=["from where it was", "whole zone"],
)
@pytest.mark.parametrize("direct", [False, True])
def test_scanners_that_meet_end_it(make_host: Any, how: dict[str, Any], result: CompactResult, direct: bool) -> None:
    """COMPLETE if it began at the zone's ends; both begin there again, and an allocator has the hints looked at."""
    host = _pieces(make_host, movable=False)
    state = host.vmscan.compaction.states["DMA32"]
    assert _compact(host, _control(host, direct=direct, **how)) == result
    assert state.cached_migrate_pfn == [P, P]
    assert state.cached_free_pfn == END - BLOCK
    assert state.blockskip_flush == direct


def test_a_run_that_begins_at_the_first_source_is_of_the_whole_zone(make_host: Any) -> None:
    """Where nothing below could move, from there to the meeting is all there is."""
    host = _pieces(make_host, movable=False)
    state = host.vmscan.compaction.states["DMA32"]
    state.init_migrate_pfn = P + 4 * BLOCK
    state.cached_migrate_pfn = [P + 4 * BLOCK, P + 4 * BLOCK]
    state.cached_free_pfn = END - BLOCK
    assert _compact(host, _control(host)) == CompactResult.COMPLETE


def test_the_next_run_goes_on_where_the_last_ended(make_host: Any) -> None:
    """The migration scanner does not go over pageblocks again that had nothing for it."""
    host = _pieces(make_host, movable=False)
    host.program([P + 5 * BLOCK + 1, *range(P + 9 * BLOCK + 1, P + 10 * BLOCK, 2)], host.task("owner", 998))
    host.vmscan.compaction.states["DMA32"].cached_migrate_pfn = [P + 9 * BLOCK] * 2
    _compact(host, _control(host))
    assert host.frames.mapping_of[P + 5 * BLOCK + 1], "a page below has moved"
    assert not host.frames.mapping_of[P + 9 * BLOCK + 1]


def test_pages_in_the_batch_are_found(make_host: Any) -> None:
    """A run begins with a drain: a page that is on no list yet could not be taken."""
    host = _pieces(make_host, movable=False)
    task = host.task("owner", 998)
    host.program([P + 1], task)
    host.vmscan.compaction.migration.isolate(np.array([P + 1]))
    host.lruvec.folio_add_lru(P + 1)
    _compact(host, _control(host))
    assert host.vmstat.pgmigrate_success == 1


@pytest.mark.parametrize(
    ("kind", "order", "wanted", "found"),
    [
        (MOVABLE, 2, MOVABLE, False),
        (MOVABLE, 3, MOVABLE, True),
        (MOVABLE, 4, MOVABLE, True),
        (UNMOVABLE, 3, MOVABLE, True),
        (UNMOVABLE, 2, MOVABLE, False),
        (MOVABLE, 3, UNMOVABLE, True),
        (HIGHATOMIC, 5, MOVABLE, False),
    ],
)
def test_when_the_block_is_there(make_host: Any, kind: int, order: int, wanted: int, found: bool) -> None:
    """One of its kind, or one that would be stolen with its pageblock; the high-order atomic reserve is not."""
    host = make_host(free=0, pageblock_order=6)
    host.put(P, order, kind)
    compaction = host.vmscan.compaction
    cc = _control(host, migratetype=wanted, migrate_pfn=P + BLOCK, free_pfn=P + 10 * BLOCK)
    state = compaction.states["DMA32"]
    task = host.task()
    expected = CompactResult.SUCCESS if found else CompactResult.CONTINUE
    assert compaction.compact_finished(task, cc, state) == expected
    cc.migrate_pfn += 1
    assert compaction.compact_finished(task, cc, state) == CompactResult.CONTINUE, "a pageblock is done first"


def test_small_blocks_are_not_stolen_by_movable_requests(make_host: Any) -> None:
    """Below half of the pageblock order a steal would mix kinds for nothing; kernel pages are stolen for at any."""
    host = make_host(free=0, pageblock_order=8)
    host.put(P, 3, UNMOVABLE)
    compaction = host.vmscan.compaction
    for wanted, found in ((MOVABLE, False), (RECLAIMABLE, True)):
        assert compaction._has_block(_control(host, migratetype=wanted)) == found


def test_a_killed_task_is_contended(make_host: Any) -> None:
    """It ends between two pageblocks, with nothing left off the lists."""
    host = _pieces(make_host)

    def kill(task: Task) -> None:
        task.killed = True

    assert _compact(host, _control(host, order=5, search_order=5), before=kill) == CompactResult.CONTENDED
    host.audit()


# -- for an allocation -------------------------------------------------------------------------------------------------


def _direct(host: Any, *, order: int = 3, gfp: int = GFP_HIGHUSER_MOVABLE, **tries: Any) -> tuple[int, CompactTries]:
    """Compact in an allocating task; return the block and what was noted."""
    noted = CompactTries(**tries)

    async def body(task: Task) -> int:
        pfn: int = await host.vmscan.compaction.direct_compact(
            task, order, gfp, ALLOC_WMARK_MIN, noted, host.owner_test
        )
        assert not task.flags & PF_MEMALLOC
        return pfn

    return host.run(body), noted


def _stalls(host: Any) -> tuple[int, int, int]:
    return host.vmstat.compact_stall, host.vmstat.compact_fail, host.vmstat.compact_success


def test_an_allocator_has_the_block_that_it_made(make_host: Any) -> None:
    """COMPACTSTALL and COMPACTSUCCESS; failures before it are forgotten."""
    host = _pieces(make_host)
    state = host.vmscan.compaction.states["DMA32"]
    state.defer_compaction(4)
    state.considered = 1
    state.blockskip_flush = True
    pfn, tries = _direct(host)
    assert pfn >= 0
    assert host.owned("test") == 8
    assert tries.result == CompactResult.SUCCESS
    assert _stalls(host) == (1, 0, 1)
    assert (state.defer_shift, state.considered, state.order_failed) == (0, 0, 4)
    assert not state.blockskip_flush
    host.audit()


def test_a_try_in_vain_has_others_let_pass(make_host: Any) -> None:
    """COMPACTSTALL and COMPACTFAIL; the next is deferred, which counts as one too."""
    host = _pieces(make_host, movable=False)
    state = host.vmscan.compaction.states["DMA32"]
    pfn, tries = _direct(host)
    assert (pfn, tries.result) == (-1, CompactResult.PARTIAL_SKIPPED)
    assert (_stalls(host), state.defer_shift, state.order_failed) == ((1, 1, 0), 1, 0)
    assert state.compaction_deferred(3)


@pytest.mark.parametrize(
    ("priority", "result", "shift"),
    [
        (CompactPriority.ASYNC, CompactResult.DEFERRED, 6),
        (CompactPriority.SYNC_LIGHT, CompactResult.DEFERRED, 6),
        (CompactPriority.SYNC_FULL, CompactResult.COMPLETE, 6),
    ],
)
def test_the_hardest_try_is_not_deferred(
    make_host: Any, priority: CompactPriority, result: CompactResult, shift: int
) -> None:
    """It goes over the whole zone, hints or not; the others are let pass."""
    host = _pieces(make_host, movable=False)
    state = host.vmscan.compaction.states["DMA32"]
    state.defer_shift = shift
    for block in range(16):
        state.skip[block] = True
    _, tries = _direct(host, priority=priority)
    assert tries.result == result
    assert bool(host.vmstat.compact_migrate_scanned) == (result == CompactResult.COMPLETE)
    assert _stalls(host) == (1, 1, 0)


def test_an_asynchronous_try_in_vain_defers_nobody(make_host: Any) -> None:
    """It has given up at the first page that was in its way."""
    host = _pieces(make_host, movable=False)
    _direct(host, priority=CompactPriority.ASYNC)
    assert host.vmscan.compaction.states["DMA32"].defer_shift == 0


@pytest.mark.parametrize(
    ("how", "direct"),
    [
        ({}, {"gfp": GFP_NOIO}),
        ({}, {"order": 0}),
        ({"nr_free": 24, "movable": False}, {}),
        ({"switches": {"compaction": False}}, {}),
    ],
    ids=["no IO", "a single page", "too little free", "before 2.6.35"],
)
def test_who_does_not_compact(make_host: Any, how: dict[str, Any], direct: dict[str, Any]) -> None:
    """Nothing is scanned, and no stall counted."""
    host = _pieces(make_host, **how)
    pfn, tries = _direct(host, **direct)
    assert (pfn, tries.result) == (-1, CompactResult.SKIPPED)
    assert (_stalls(host), host.vmstat.compact_migrate_scanned) == ((0, 0, 0), 0)


def test_the_best_of_the_zones_counts(make_host: Any) -> None:
    """From the highest down; one that lacks memory does not hide that another was gone over."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 512)), free=0, marks=MARKS, pageblock_order=6)
    low = host.node.zones[0]
    low.watermark[:] = [600, 600, 600]
    for pfn in range(host.zone.start_pfn, host.zone.end_pfn, 2):
        host.put(pfn, 0)
    _, tries = _direct(host)
    assert tries.result == CompactResult.PARTIAL_SKIPPED
    assert [host.vmscan.compaction.states[name].defer_shift for name in ("DMA32", "Normal")] == [0, 1]


@pytest.mark.parametrize(
    ("gfp", "order", "flags", "asked"),
    [
        (GFP_KERNEL, 1, 0, True),
        (GFP_KERNEL | GFP_RECLAIMABLE, 3, 0, True),
        (GFP_NOFS, 2, 0, True),
        (GFP_HIGHUSER_MOVABLE, 3, 0, False),
        (GFP_HIGHUSER_MOVABLE, 4, 0, True),
        (GFP_NOIO, 3, 0, False),
        (GFP_KERNEL, 3, PF_MEMALLOC, False),
        (GFP_KERNEL | GFP_NOMEMALLOC, 3, PF_MEMALLOC, True),
    ],
)
def test_who_compacts_before_reclaim(make_host: Any, gfp: int, order: int, flags: int, asked: bool) -> None:
    """A block of the kernel's, or a costly one, tries without waiting first, unless it may use the reserve."""
    host = make_host(free=0)
    met = []

    async def direct_compact(task: Task, order: int, gfp: int, alloc_flags: int, tries: Any, owner: int) -> int:
        met.append(tries.priority)
        return 77

    host.vmscan.compaction.direct_compact = direct_compact

    async def body(task: Task) -> int:
        pfn: int = await host.pages._compact_first(task, order, gfp, 0, host.owner_test)
        return pfn

    assert host.run(body, flags=flags) == (77 if asked else -1)
    assert met == [CompactPriority.ASYNC] * asked


def test_a_request_compacts_instead_of_reclaiming(make_host: Any) -> None:
    """Where memory is in pieces only, a costly block is had without a page being reclaimed."""
    host = _pieces(make_host)

    async def body(task: Task) -> int:
        pfn: int = await host.pages.alloc_pages(task, 4, GFP_HIGHUSER_MOVABLE | GFP_NORETRY, host.owner_test)
        return pfn

    assert host.run(body) >= 0
    assert sum(host.vmstat.allocstall.values()) == 0
    assert host.vmstat.compact_success == 1
    host.audit()


# -- once more? --------------------------------------------------------------------------------------------------------

SYNC_LIGHT, SYNC_FULL, ASYNC = CompactPriority.SYNC_LIGHT, CompactPriority.SYNC_FULL, CompactPriority.ASYNC


@pytest.mark.parametrize(
    ("order", "result", "priority", "retries", "again", "left"),
    [
        # progress: sixteen times, a quarter of that for a costly order, each time harder then
        (3, CompactResult.SUCCESS, SYNC_LIGHT, 0, True, (SYNC_LIGHT, 1)),
        (3, CompactResult.SUCCESS, SYNC_LIGHT, 15, True, (SYNC_LIGHT, 16)),
        (3, CompactResult.SUCCESS, SYNC_LIGHT, 16, True, (SYNC_FULL, 0)),
        (3, CompactResult.SUCCESS, SYNC_FULL, 16, False, (SYNC_FULL, 17)),
        (4, CompactResult.SUCCESS, ASYNC, 3, True, (ASYNC, 4)),
        (4, CompactResult.SUCCESS, ASYNC, 4, True, (SYNC_LIGHT, 0)),
        (4, CompactResult.SUCCESS, SYNC_LIGHT, 4, False, (SYNC_LIGHT, 5)),
        # all gone over, or somebody in the way: harder, or never
        (3, CompactResult.COMPLETE, SYNC_LIGHT, 5, True, (SYNC_FULL, 0)),
        (3, CompactResult.COMPLETE, SYNC_FULL, 5, False, (SYNC_FULL, 5)),
        (4, CompactResult.COMPLETE, SYNC_LIGHT, 5, False, (SYNC_LIGHT, 5)),
        (3, CompactResult.DEFERRED, SYNC_LIGHT, 2, True, (SYNC_FULL, 0)),
        (3, CompactResult.CONTENDED, SYNC_FULL, 2, False, (SYNC_FULL, 2)),
        (3, CompactResult.PARTIAL_SKIPPED, ASYNC, 2, True, (SYNC_LIGHT, 0)),
        (3, CompactResult.NO_SUITABLE_PAGE, SYNC_LIGHT, 2, True, (SYNC_LIGHT, 2)),
        (0, CompactResult.SUCCESS, SYNC_LIGHT, 0, False, (SYNC_LIGHT, 0)),
    ],
)
def test_whether_to_go_round_again(
    host: Any,
    order: int,
    result: CompactResult,
    priority: CompactPriority,
    retries: int,
    again: bool,
    left: tuple[CompactPriority, int],
) -> None:
    """should_compact_retry, by what the last try came to."""
    tries = CompactTries(priority=priority, nr_retries=retries, result=result)
    assert host.vmscan.compaction.should_compact_retry(host.task(), order, GFP_KERNEL, tries) == again
    assert (tries.priority, tries.nr_retries) == left


@pytest.mark.parametrize(("nr_lru", "again"), [(38, False), (39, True)])
def test_a_try_that_lacked_memory_is_worth_another_if_reclaim_helps(make_host: Any, nr_lru: int, again: bool) -> None:
    """A part of what could be reclaimed, one in so many as the order says, is reckoned as free."""
    host = _pieces(make_host, movable=False, nr_free=12)
    host.lru_pages(nr_lru, lru=INACTIVE_FILE)
    tries = CompactTries()
    assert host.vmscan.compaction.should_compact_retry(host.task(), 3, GFP_KERNEL, tries) == again
    assert tries == CompactTries()


def test_a_killed_task_does_not_go_round_again(host: Any) -> None:
    """Nor one that could not compact at all."""
    compaction = host.vmscan.compaction
    tries = CompactTries(result=CompactResult.NO_SUITABLE_PAGE)
    task = host.task()
    assert compaction.should_compact_retry(task, 3, GFP_KERNEL, tries)
    task.killed = True
    assert not compaction.should_compact_retry(task, 3, GFP_KERNEL, tries)


# -- tracepoints -------------------------------------------------------------------------------------------------------


def test_what_a_trace_tells(make_host: Any) -> None:
    """The try, its begin, what was isolated and moved, and how it ended, by the kernel's names and words."""
    host = _pieces(make_host)
    recorder = host.vmscan.compaction.trace.recorder = Recorder(host.world)
    _direct(host)
    found = [
        (TRACEPOINTS[int(record["event"])].name.removeprefix("mm_compaction_"), record["args"].tolist())
        for batch in recorder.batches()
        for record in batch
    ]
    names = [name for name, _ in found]
    assert names[:3] == ["try_to_compact_pages", "begin", "isolate_migratepages"]
    assert (names[-1], set(names[3:-1])) == ("end", {"isolate_freepages", "migratepages"})
    args = dict(found)
    assert (args["try_to_compact_pages"][0], args["try_to_compact_pages"][2]) == (3, CompactPriority.SYNC_LIGHT)
    assert args["begin"][:4] == [P, P, END - BLOCK, END]
    assert args["isolate_migratepages"][:4] == [P, P + BLOCK, BLOCK, 32]
    assert args["migratepages"][:2] == [32, 0] == [host.vmstat.pgmigrate_success, host.vmstat.pgmigrate_fail]
    end, word = args["end"], recorder.recorded.names
    assert (end[1], word[end[4]], word[end[5]]) == (P + BLOCK, "sync", "success")
    taken = sum(numbers[3] for name, numbers in found if name == "isolate_freepages")
    assert 0 < taken <= host.vmstat.compact_isolated - 32


# -- fragmentation -----------------------------------------------------------------------------------------------------


def test_how_much_of_free_memory_is_in_small_blocks(make_host: Any) -> None:
    """extfrag_for_order, in percent, rounded down; none of nothing."""
    host = make_host(free=0)
    assert host.zone.extfrag_for_order(3) == 0
    for pfn, order in ((P, 0), (P + 8, 3), (P + 32, 5)):
        host.put(pfn, order)
    assert [host.zone.extfrag_for_order(order) for order in (0, 1, 3, 4, 5, 6)] == [0, 2, 2, 21, 21, 100]


def test_the_score_is_of_the_zones_by_their_size(make_host: Any) -> None:
    """Each weighs as much as its share of memory."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 1536)), free=0)
    compaction = host.vmscan.compaction
    assert compaction.fragmentation_score_node() == 0
    host.put(host.zone.start_pfn, 3)
    assert compaction.fragmentation_score_node() == 1536 * 100 // 2049


@pytest.mark.parametrize(("proactiveness", "low", "high"), [(20, 80, 90), (0, 100, 100), (95, 5, 15), (100, 5, 15)])
def test_from_which_score_on(host: Any, proactiveness: int, low: int, high: int) -> None:
    """It begins above one mark and ends at another, ten below it."""
    host.vmscan.compaction.proactiveness = proactiveness
    found = [host.vmscan.compaction.fragmentation_score_wmark(low=is_low) for is_low in (True, False)]
    assert found == [low, high]
