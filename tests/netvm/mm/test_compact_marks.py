"""What a run of 6.1 counts as scanned, where it marks a pageblock, and when it looks again.

Pageblocks are of 64 frames. ``P`` is the zone's first frame; what a test neither maps nor frees is the kernel's own.
"""

from typing import Any

import numpy as np
import pytest

from netvm.mm.compact_control import CompactControl, CompactResult, MigrateMode
from netvm.mm.frames import PG_BUDDY, PG_DIRTY, PG_LOCKED
from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.memcontrol import MemControl
from netvm.mm.zone import MOVABLE
from netvm.runtime.task import Task

P = 1024
BLOCK = 64


def _host(make_host: Any) -> Any:
    """Return a host whose zone has 16 pageblocks, all of them the kernel's."""
    return make_host(zones=(("DMA32", 1024),), free=0, marks=(4, 5, 6), pageblock_order=6, boost_factor=0)


def _control(host: Any, **how: Any) -> CompactControl:
    """Return a run that has just begun."""
    settled: dict[str, Any] = {
        "order": 3,
        "mode": MigrateMode.SYNC_LIGHT,
        "gfp": GFP_KERNEL,
        "migratetype": MOVABLE,
        "migrate_pfn": P,
        "free_pfn": P + 15 * BLOCK,
    }
    return CompactControl(zone=host.zone, **(settled | how))


def _look(host: Any, cc: CompactControl) -> None:
    """Have the migration scanner look at a pageblock."""
    compaction = host.vmscan.compaction
    compaction.scanners.isolate_migratepages(host.task(), cc, compaction.states[host.zone.name])


def test_of_a_block_the_first_frame_is_counted(make_host: Any) -> None:
    """A free block is one look, and so is one in use; single pages are one each."""
    host = _host(make_host)
    host.put(P, 3)
    host.put(P + 16, 4)
    host.frames.block[P + 32] = 2  # a slab of four pages
    cc = _control(host)
    _look(host, cc)
    assert cc.migrate_pfn == P + BLOCK
    assert cc.nr_migrate_scanned == BLOCK - 7 - 15 - 3


def test_the_order_of_a_block_in_use_is_its_heads_alone(make_host: Any) -> None:
    """What a frame was the head of before is forgotten when it is handed out as the middle of another block."""
    host = make_host(free=64)
    tails = host.frames.flags & np.uint16(PG_BUDDY) == 0
    host.frames.block[tails] = 0x13
    for _ in range(4):
        pfn = host.pages.get_page_from_freelist(host.task(), 3, GFP_KERNEL, 0, host.owner_test)
        assert host.frames.block[pfn : pfn + 8].tolist() == [3, *[0] * 7]


def test_the_free_scanner_counts_a_free_block_whole(make_host: Any) -> None:
    """Of what is in use on the way to it, one look for each block."""
    host = _host(make_host)
    last = P + 15 * BLOCK
    host.put(last + 32, 4)
    host.put(P, 3)
    host.frames.block[last] = 3
    cc = _control(host, migrate_pages=list(range(P, P + 8)), order=-1)
    compaction = host.vmscan.compaction
    assert compaction.scanners.compaction_alloc(host.task(), cc, compaction.states["DMA32"]) == last + 47
    assert cc.nr_free_scanned == 32 - 7 + 16


def test_only_the_pageblock_in_which_it_was_is_a_rescan(make_host: Any) -> None:
    """The first pageblock of a run is taken 32 pages at a time, wherever the zone begins."""
    host = _host(make_host)
    host.program(list(range(P, P + BLOCK)))
    for pfn in range(P + 8 * BLOCK, P + 16 * BLOCK, 2):
        host.put(pfn, 0)
    seen = []
    scanners = host.vmscan.compaction.scanners
    look = scanners.isolate_migratepages

    def spy(task: Task, cc: CompactControl, state: Any) -> bool:
        found = look(task, cc, state)
        seen.append((cc.rescan, len(cc.migrate_pages)))
        return bool(found)

    scanners.isolate_migratepages = spy

    async def body(task: Task) -> None:
        await host.vmscan.compaction.compact_zone(task, _control(host, order=6))

    host.run(body)
    assert seen[:2] == [(False, 32), (True, 32)]


@pytest.mark.parametrize("flush", [True, False])
def test_a_zone_let_alone_for_long_is_looked_at_anew(make_host: Any, flush: bool) -> None:
    """After 64 tries were let pass hints are reset, if somebody has gone all the way since the last time."""
    host = _host(make_host)
    for pfn in range(P + 8 * BLOCK, P + 16 * BLOCK, 2):
        host.put(pfn, 0)
    state = host.vmscan.compaction.states["DMA32"]
    for _ in range(6):
        state.defer_compaction(3)
    state.considered = 64
    state.blockskip_flush = flush
    state.set_skip(P + 15 * BLOCK)

    async def body(task: Task) -> CompactResult:
        return CompactResult(await host.vmscan.compaction.compact_zone(task, _control(host)))

    assert host.run(body) != CompactResult.SKIPPED
    assert not state.blockskip_flush
    assert state.init_free_pfn == (P + 16 * BLOCK - 1 if flush else 0)


def test_a_block_that_is_there_is_success_for_who_was_killed_too(make_host: Any) -> None:
    """A signal is asked for only where there is none."""
    host = _host(make_host)
    task = host.task()
    task.killed = True
    compaction = host.vmscan.compaction
    state = compaction.states["DMA32"]
    assert compaction.compact_finished(task, _control(host), state) == CompactResult.CONTENDED
    host.put(P + BLOCK, 3)
    assert compaction.compact_finished(task, _control(host), state) == CompactResult.SUCCESS


def test_who_will_not_wait_looks_at_a_spoilt_block_once(make_host: Any) -> None:
    """What is jumped over behind a page that cannot move is neither counted nor paid for."""
    host = _host(make_host)
    cc = _control(host, mode=MigrateMode.ASYNC, direct=True)
    _look(host, cc)
    assert (cc.migrate_pfn, cc.nr_migrate_scanned) == (P + BLOCK, BLOCK >> 3)


def test_a_pageblock_is_marked_by_its_first_page_though_it_is_given_back(make_host: Any) -> None:
    """Its aligned block is spoilt by the next page, and the one behind is taken."""
    host = _host(make_host)
    host.program([P, *range(P + 8, P + 16)])
    cc = _control(host, mode=MigrateMode.ASYNC, direct=True)
    _look(host, cc)
    assert cc.migrate_pages == list(range(P + 8, P + 16))
    assert host.vmscan.compaction.states["DMA32"].is_skipped(P)


@pytest.mark.parametrize(
    ("flags", "taken"), [(0, True), (PG_LOCKED, True), (PG_DIRTY, True), (PG_DIRTY | PG_LOCKED, False)]
)
def test_a_dirty_page_that_is_locked_is_left_alone(make_host: Any, flags: int, taken: bool) -> None:
    """Whether it could move is asked of its mapping, under its lock."""
    host = _host(make_host)
    host.program([P + 1])
    host.frames.flags_of[P + 1] |= flags
    cc = _control(host)
    _look(host, cc)
    assert cc.migrate_pages == ([P + 1] if taken else [])


def test_reclaim_may_help_a_costly_block_whatever_the_index_says(make_host: Any) -> None:
    """The fragmentation index counts where compaction would begin, not where memory must come first."""
    host = make_host(free=0, marks=(1, 2, 3))
    for pfn in range(P, P + 80, 16):
        host.put(pfn, 3)
    host.lru_pages(200, lru=2)
    assert not host.zone.is_fragmented(4)
    assert host.vmscan.compaction.compaction_zonelist_suitable(4, GFP_KERNEL)


@pytest.mark.parametrize("groups", [False, True])
def test_a_page_to_be_rotated_is_held_on_a_host_with_groups_too(make_host: Any, groups: bool) -> None:
    """Isolating it does not take it out of the batch."""
    host = make_host(free=0)
    if groups:
        MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes).create("g", limit_pages=64, may_swap=True)
    host.program([P])
    host.lruvec.folio_rotate_reclaimable([P])
    migration = host.vmscan.compaction.migration
    host.ledger.change_owner(host.frames, P + 512, 1, host.vmscan.compaction.scanners.owner)
    migration.isolate(np.array([P]))
    frames = [P + 512]
    assert migration.migrate_pages(host.task(), [P], frames.pop, frames.append) == (0, False)
    assert host.lruvec.rotating == [P]


def test_a_page_nobody_maps_waits_behind_the_last_that_is_mapped(make_host: Any) -> None:
    """Each mapped page drains the batch, so one that comes after it stays in it."""
    host = make_host(free=0)
    host.program([P])
    unmapped = host.lru_pages(1).tolist()
    frames = [P + 513, P + 512]
    for pfn in frames:
        host.ledger.change_owner(host.frames, pfn, 1, host.vmscan.compaction.scanners.owner)
    migration = host.vmscan.compaction.migration
    migration.isolate(np.array([P, *unmapped]))
    assert migration.migrate_pages(host.task(), [P, *unmapped], frames.pop, frames.append) == (2, False)
    assert host.lruvec.batched == [P + 513]
