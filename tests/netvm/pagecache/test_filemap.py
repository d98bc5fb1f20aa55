"""The page cache: writing, rewriting, writing back, errors, and the tree's memory."""

from typing import Any

import pytest

from netvm.errors import Errno
from netvm.mm.frames import PG_DIRTY, PG_WRITEBACK
from netvm.pagecache.invariants import check_pagecache
from netvm.runtime.task import Task
from netvm.units import NS_PER_S


def test_what_was_written_reaches_the_store(make_host: Any) -> None:
    """After fsync nothing is dirty and the store has the newest version of each page."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> Any:
        mapping = host.cache.create(fs, "file")
        assert not await host.cache.generic_perform_write(task, mapping, 0, 300)
        assert not await host.cache.generic_perform_write(task, mapping, 100, 50)
        assert await host.cache.fsync(task, mapping) == (0, 0)
        return mapping

    mapping = host.run(body)
    assert host.vmstat.nr_dirty == host.vmstat.nr_writeback == host.zone.nr_write_pending == 0
    assert mapping.version[:300].tolist() == [*range(1, 101), *range(301, 351), *range(151, 301)]
    assert [fs.store[1, i] for i in range(300)] == mapping.version[:300].tolist() == mapping.stored[:300].tolist()


def test_counters_follow_a_page(host: Any) -> None:
    """A page counts as dirty, then under writeback, then as written; dirtied again meanwhile it counts as both."""
    fs = host.slow_store(pages_per_s=1000)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 8)
        assert (host.vmstat.nr_dirty, host.vmstat.nr_dirtied, fs.bdi.nr_reclaimable) == (8, 8, 8)
        pfns, versions = host.cache.start_writeback(mapping, 2, 4)
        assert versions == [3, 4, 5, 6]
        assert [host.frames.flags_of[pfn] & (PG_DIRTY | PG_WRITEBACK) for pfn in pfns] == [PG_WRITEBACK] * 4
        assert (host.vmstat.nr_dirty, host.vmstat.nr_writeback, host.zone.nr_write_pending) == (4, 4, 8)
        await host.cache.generic_perform_write(task, mapping, 3, 1)
        assert (host.vmstat.nr_dirty, host.vmstat.nr_writeback, host.zone.nr_write_pending) == (5, 4, 9)
        check_pagecache(host.cache)
        host.cache.end_writeback(mapping, mapping.tagged(2, 0, 8), error=0, task=task)
        assert (host.vmstat.nr_dirty, host.vmstat.nr_written, host.zone.nr_write_pending) == (5, 4, 5)

    host.run(body)


def test_a_failed_write_is_told_once_and_its_page_is_lost(host: Any) -> None:
    """Fsync says EIO once to whoever has not heard of it; the page is clean and lost; a rewrite heals it."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 4)
        fs.error = -Errno.EIO
        error, seen = await host.cache.fsync(task, mapping)
        assert error == -Errno.EIO
        assert (host.cache.nr_lost, mapping.nr_dirty) == (4, 0)
        fs.error = 0
        assert await host.cache.fsync(task, mapping, seen) == (0, seen)
        assert (await host.cache.fsync(task, mapping, 0))[0] == -Errno.EIO
        await host.cache.generic_perform_write(task, mapping, 0, 4)
        assert (await host.cache.fsync(task, mapping, seen))[0] == 0
        assert not mapping.lost[:4].any()

    host.run(body)


def test_a_page_redirtied_during_a_failing_write_is_not_lost(host: Any) -> None:
    """Its newest content is still in memory and dirty."""
    fs = host.slow_store(pages_per_s=10)
    fs.error = -Errno.EIO

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 1)
        host.flusher.wakeup_flusher_threads("sync")
        await host.pause(task, NS_PER_S // 100)
        assert mapping.nr_writeback == 1
        await host.cache.generic_perform_write(task, mapping, 0, 1)
        fs.error = -Errno.EIO
        await host.cache.wait_on_writeback(task, mapping)
        assert (host.cache.nr_lost, mapping.nr_dirty) == (0, 1)
        fs.error = 0

    host.run(body)


def test_the_tree_takes_a_node_for_64_pages(host: Any) -> None:
    """Nodes come with their first entry."""
    fs = host.slow_store()

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 60, 10)
        assert sorted(mapping.node_slab) == [0, 1]
        assert mapping.node_entries[:3].tolist() == [4, 6, 0]
        assert host.slabs["radix_tree_node"].nr_active == 2

    host.run(body)


def test_the_cut_of_a_write_does_not_matter(make_host: Any) -> None:
    """One write of many pages leaves the same pages, versions and counters as many writes of one."""
    results = []
    for step in (1, 7, 200):
        host = make_host(zones=(("DMA32", 4096),))
        fs = host.slow_store(pages_per_s=3000)

        async def body(task: Task, host: Any = host, fs: Any = fs, step: int = step) -> Any:
            mapping = host.cache.create(fs, "file")
            for index in range(0, 1400, step):
                await host.cache.generic_perform_write(task, mapping, index, min(step, 1400 - index))
            return mapping.version[:1400].tolist(), host.vmstat.nr_dirtied, host.world.now_ns, host.throttle.nr_pauses

        results.append(host.run(body))
    assert results[0] == results[1] == results[2]


@pytest.mark.parametrize("nr_pages", [2, 5, 11])
def test_an_event_finds_what_was_written_before_it(make_host: Any, nr_pages: int) -> None:
    """What falls due in the middle of a write sees the pages that were begun by then, and no other."""
    host = make_host(zones=(("DMA32", 4096),), cpus=1)
    fs = host.slow_store()
    seen: list[int] = []

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 1)
        await task.cpus.pay(task)
        host.world.call_after(nr_pages * host.costs.write_page - 1, lambda: seen.append(host.vmstat.nr_dirtied - 1))
        await host.cache.generic_perform_write(task, mapping, 1, 20)
        await task.cpus.pay(task)

    host.run(body)
    assert seen == [nr_pages]


def test_unstable_pages_count_as_writeback(host: Any) -> None:
    """Pages that wait for a COMMIT hold writers back like those on their way."""
    fs = host.slow_store()
    mapping = host.cache.create(fs, "file")
    host.cache.account_unstable(mapping, 5)
    assert (host.vmstat.nr_writeback, fs.bdi.nr_writeback, host.throttle.limits().dirty) == (5, 5, 5)
    host.cache.account_unstable(mapping, -5)
    assert host.vmstat.nr_writeback == 0


def test_one_file_has_one_writer_at_a_time(make_host: Any) -> None:
    """write(2) holds the inode's lock while it writes; others wait for it, and nobody for another file's."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.slow_store(pages_per_s=100_000)
    other = host.task("other")

    async def body(task: Task) -> None:
        mapping, another = host.cache.create(fs, "file"), host.cache.create(fs, "another")
        assert mapping.i_rwsem.try_down(other)
        assert not await host.cache.generic_file_write_iter(task, another, 0, 4)
        assert another.i_rwsem.holders == []
        host.world.call_after(NS_PER_S, mapping.i_rwsem.up, other)
        assert not await host.cache.generic_file_write_iter(task, mapping, 0, 4)
        assert host.world.now_ns >= NS_PER_S
        assert mapping.i_rwsem.holders == []

    host.run(body)


def test_what_was_reported_as_failed_may_have_arrived(host: Any) -> None:
    """After a failed write a newer version than the last acknowledged is no loss; an older one always is."""
    fs = host.slow_store(pages_per_s=1000)
    mapping = host.cache.create(fs, "file")
    mapping.stored[3] = 7
    assert [host.cache.is_lost(mapping, 3, held) for held in (6, 7, 8)] == [True, False, True]
    host.cache.write_errors = 1
    assert [host.cache.is_lost(mapping, 3, held) for held in (6, 7, 8)] == [True, False, False]
    mapping.lost[3] = True
    assert not host.cache.is_lost(mapping, 3, 6)


@pytest.mark.parametrize(("tells", "errno"), [(True, Errno.ENOSPC), (True, Errno.EIO), (False, Errno.ENOSPC)])
def test_a_write_tells_of_a_server_that_is_full(make_host: Any, tells: bool, errno: Errno) -> None:
    """Over NFS a write(2) during which the storage ran full returns ENOSPC; any other error waits for fsync."""
    host = make_host(zones=(("DMA32", 8192),), cpus=1)
    fs = host.slow_store(pages_per_s=100_000)
    fs.tells_nospc = tells
    fs.error = -int(errno)

    async def body(task: Task) -> tuple[int, int]:
        mapping = host.cache.create(fs, "file")
        told = 0
        while not told and mapping.nr_pages < 6400:
            told = await host.cache.generic_file_write_iter(task, mapping, mapping.nr_pages, 64)
        error, _seen = await host.cache.fsync(task, mapping)
        return told, error

    assert host.run(body) == (-Errno.ENOSPC if tells and errno == Errno.ENOSPC else 0, -errno)
