"""Reclaim of file pages: clean ones go at first sight, dirty ones are left to the flusher."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from netvm.mm.frames import PG_ACTIVE, PG_RECLAIM, PG_REFERENCED
from netvm.mm.gfp import GFP_KERNEL, GFP_NOFS, GFP_NOIO
from netvm.mm.lru import ACTIVE_FILE, INACTIVE_FILE
from netvm.mm.memcontrol import MemCgroup, MemControl
from netvm.mm.scan_control import ScanControl
from netvm.pagecache.ports import WritebackControl
from netvm.runtime.task import Task
from netvm.units import JIFFY_NS, NS_PER_S

_spec = spec_from_file_location("file_host", Path(__file__).parents[1] / "pagecache" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture
def host() -> Any:
    """A small host with a page cache."""
    return _module.FileHost()


def _scan(host: Any, body: Any) -> Any:
    """Run ``body(task, mapping, pfns)`` over a file of eight dirty pages on the inactive list."""
    fs = host.slow_store(pages_per_s=100_000)

    async def main(task: Task) -> Any:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 8)
        host.lruvec.lru_add_drain()
        return await body(task, mapping, (mapping.pfn[:8] - 1).tolist())

    return host.run(main)


def _control(*, kswapd: bool = False, gfp: int = GFP_KERNEL) -> ScanControl:
    return ScanControl(gfp=gfp, order=0, kswapd=kswapd)


def test_clean_pages_are_freed_at_once(host: Any) -> None:
    """One look at a clean page frees it: scanned and reclaimed are the same."""

    async def body(task: Task, mapping: Any, pfns: list[int]) -> None:
        await host.cache.fsync(task, mapping)
        free = host.node.nr_free + sum(pcp.count for pcp in host.zone.pcp)
        sc = _control()
        assert await host.vmscan.file_shrinker.shrink_inactive_list(task, host.lruvec, 32, sc) == 8
        assert host.node.nr_free + sum(pcp.count for pcp in host.zone.pcp) == free + 8
        assert (host.vmstat.pgscan_file, host.vmstat.pgsteal_file, mapping.nr_cached) == (8, 8, 0)
        assert (sc.nr_taken, sc.nr_file_taken, sc.nr_dirty) == (8, 8, 0)

    _scan(host, body)


def test_direct_reclaim_never_writes_a_file_page(host: Any) -> None:
    """Dirty pages are marked, activated and counted, and the flushers are woken: all of the batch was unqueued dirt."""

    async def body(task: Task, mapping: Any, pfns: list[int]) -> None:
        sc = _control()
        assert await host.vmscan.file_shrinker.shrink_inactive_list(task, host.lruvec, 32, sc) == 0
        assert (sc.nr_dirty, sc.nr_unqueued_dirty, host.vmstat.nr_vmscan_immediate_reclaim) == (8, 8, 8)
        assert host.vmstat.nr_vmscan_write == 0
        assert [host.frames.flags_of[pfn] & (PG_RECLAIM | PG_ACTIVE) for pfn in pfns] == [PG_RECLAIM | PG_ACTIVE] * 8
        assert len(host.lruvec.lists[ACTIVE_FILE]) == 8
        await host.pause(task, 10_000_000)
        assert mapping.nr_dirty == 0
        host.lruvec.lru_add_drain()
        assert len(host.lruvec.lists[INACTIVE_FILE]) == 8

    _scan(host, body)


@pytest.mark.parametrize(("gfp", "nr_written"), [(GFP_KERNEL, 8), (GFP_NOFS, 0)])
def test_kswapd_writes_marked_pages_of_a_dirty_node(host: Any, gfp: int, nr_written: int) -> None:
    """With PG_reclaim and PGDAT_DIRTY set kswapd writes pages itself, if the mask lets it enter the file system."""

    async def body(task: Task, mapping: Any, pfns: list[int]) -> None:
        for pfn in pfns:
            host.frames.flags_of[pfn] |= PG_RECLAIM
        host.vmscan.flags.dirty = True
        await host.vmscan.file_shrinker.shrink_inactive_list(task, host.lruvec, 32, _control(kswapd=True, gfp=gfp))
        assert host.vmstat.nr_vmscan_write == nr_written
        assert mapping.nr_dirty == 8 - nr_written

    _scan(host, body)


def test_pages_under_writeback_come_round(host: Any) -> None:
    """The first meeting marks and activates; kswapd meeting its mark again in PGDAT_WRITEBACK counts it immediate."""

    async def body(task: Task, mapping: Any, pfns: list[int]) -> None:
        host.cache.start_writeback(mapping, 0, 8)
        sc = _control(kswapd=True)
        await host.vmscan.file_shrinker.shrink_inactive_list(task, host.lruvec, 32, sc)
        assert (sc.nr_writeback, sc.nr_immediate, sc.nr_congested) == (8, 0, 0)
        host.vmscan.file_shrinker.shrink_active_list(task, host.lruvec, 32, _control())
        host.vmscan.flags.writeback = True
        sc = _control(kswapd=True)
        await host.vmscan.file_shrinker.shrink_inactive_list(task, host.lruvec, 32, sc)
        assert (sc.nr_writeback, sc.nr_immediate, sc.nr_congested) == (0, 8, 8)
        host.cache.end_writeback(mapping, mapping.tagged(2, 0, 8), error=0, task=task)
        host.lruvec.lru_add_drain()
        assert host.vmstat.pgrotated == 8

    _scan(host, body)


def test_a_referenced_dirty_page_gets_another_round(host: Any) -> None:
    """A page read twice is active; one read once and clean goes."""

    async def body(task: Task, mapping: Any, pfns: list[int]) -> None:
        await host.cache.fsync(task, mapping)
        host.lruvec.mark_accessed([pfns[0], pfns[1], pfns[0]])
        assert host.frames.flags_of[pfns[0]] & (PG_ACTIVE | PG_REFERENCED) == PG_ACTIVE
        assert await host.vmscan.file_shrinker.shrink_inactive_list(task, host.lruvec, 32, _control()) == 7
        assert mapping.nr_cached == 1

    _scan(host, body)


def test_pages_that_cannot_be_released_stay(host: Any) -> None:
    """Private data that the file system keeps activates its page."""

    async def body(task: Task, mapping: Any, pfns: list[int]) -> None:
        await host.cache.fsync(task, mapping)
        mapping.fs.private, mapping.fs.releasable = {pfns[2]}, False
        assert await host.vmscan.file_shrinker.shrink_inactive_list(task, host.lruvec, 32, _control()) == 7
        assert host.frames.flags_of[pfns[2]] & PG_ACTIVE

    _scan(host, body)


async def _dirty_group(host: Any, task: Task) -> tuple[MemCgroup, Any]:
    """Let a task fill a memory group of eight pages with the dirty pages of a file, whose storage is slow."""
    memcg = MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes)
    group = memcg.create("g", limit_pages=8, may_swap=False)
    memcg.attach(task, "g")
    mapping = host.cache.create(host.slow_store(pages_per_s=8), "file")
    await host.cache.generic_perform_write(task, mapping, 0, 8)
    return group, mapping


@pytest.mark.parametrize(
    ("gfp", "strict", "waits"),
    [(GFP_KERNEL, True, True), (GFP_NOFS, True, False), (GFP_NOFS, False, True), (GFP_NOIO, False, False)],
)
def test_a_group_waits_for_its_writeback_if_the_mask_allows(gfp: int, strict: bool, waits: bool) -> None:
    """Met with the mark of an earlier look, a page under writeback is waited for; who may wait is the fix's test."""
    host = _module.FileHost(switches={"memcg_wait_enters_fs": strict})

    async def body(task: Task) -> int:
        group, mapping = await _dirty_group(host, task)
        await mapping.fs.writepages(task, mapping, WritebackControl(nr_to_write=8))
        sc = ScanControl(gfp=gfp, order=0, memcg=group)
        files = host.vmscan.file_shrinker
        assert await files.shrink_inactive_list(task, group.lruvec, 32, sc) == 0
        assert host.world.now_ns == 0
        files.shrink_active_list(task, group.lruvec, 32, sc)
        return await files.shrink_inactive_list(task, group.lruvec, 32, sc)

    assert host.run(body) == (8 if waits else 0)
    assert (host.world.now_ns >= NS_PER_S) == waits


@pytest.mark.parametrize("throttled", [True, False])
def test_a_group_full_of_dirt_lets_the_flusher_work(throttled: bool) -> None:
    """Reclaim that meets nothing but unqueued dirt wakes the flusher and, with memcg_dirty_throttle, sleeps."""
    host = _module.FileHost(switches={"memcg_dirty_throttle": throttled})

    async def body(task: Task) -> int:
        group, _ = await _dirty_group(host, task)
        sc = ScanControl(gfp=GFP_KERNEL, order=0, memcg=group)
        await host.vmscan.file_shrinker.shrink_inactive_list(task, group.lruvec, 32, sc)
        return host.world.now_ns

    assert host.run(body) == (NS_PER_S // 10 + JIFFY_NS if throttled else 0)
