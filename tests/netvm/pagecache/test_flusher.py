"""The flusher: chunks, old data, the background threshold, reclaim's wish, and sync."""

from typing import Any

import pytest

from netvm.pagecache.flusher import MIN_WRITEBACK_PAGES, WritebackWork
from netvm.pagecache.ports import WB_SYNC_ALL
from netvm.pagecache.position import DirtySysctls
from netvm.runtime.task import Task
from netvm.units import NS_PER_MS, NS_PER_S


@pytest.mark.parametrize(
    ("bandwidth", "limit", "chunk"), [(25_600, 3600, 1024), (25_600, 80_000, 10_240), (100, 1 << 20, 1024)]
)
def test_a_chunk_is_bounded_by_bandwidth_and_limit(host: Any, bandwidth: int, limit: int, chunk: int) -> None:
    """Half a second of the device or an eighth of the dirty limit, rounded up to 4 MiB."""
    wb = host.throttle.add_device("disk")
    wb.avg_write_bandwidth = bandwidth
    host.throttle.dirty_limit = limit
    assert host.flusher.chunk_size(wb, WritebackWork(nr_pages=1 << 40)) == chunk
    assert chunk % MIN_WRITEBACK_PAGES == 0
    assert host.flusher.chunk_size(wb, WritebackWork(nr_pages=1, sync_mode=WB_SYNC_ALL)) > 1 << 60


def test_little_dirt_is_written_when_it_is_old(make_host: Any) -> None:
    """Below every threshold a page waits for dirty_expire, looked at every dirty_writeback interval.

    The device must have written before: one that has no share of the completions is over its share with any page.
    """
    host = make_host(sysctls=DirtySysctls(expire_centisecs=300, writeback_centisecs=100))
    fs = host.slow_store(pages_per_s=100_000)
    fs.bdi.writeout_add(1000)

    async def body(task: Task) -> list[int]:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 4)
        left = []
        for _ in range(5):
            await host.pause(task, NS_PER_S)
            left.append(mapping.nr_dirty)
        return left

    left = host.run(body)
    assert left[:2] == [4, 4]
    assert left[-1] == 0


@pytest.mark.parametrize(("expire_centisecs", "is_progress"), [(300, True), (0, False)])
def test_dirt_that_will_be_old_is_no_standstill(make_host: Any, expire_centisecs: int, is_progress: bool) -> None:
    """While a file is too young to be written for its age its flusher's next look is progress, else only a retry."""
    host = make_host(sysctls=DirtySysctls(expire_centisecs=expire_centisecs, writeback_centisecs=100))
    fs = host.slow_store(pages_per_s=100_000)
    fs.bdi.writeout_add(1000)
    fs.writepages = _writes_nothing

    async def body(task: Task) -> bool:
        await host.cache.generic_perform_write(task, host.cache.create(fs, "file"), 0, 4)
        await host.pause(task, NS_PER_S // 2)
        return bool(host.world.nr_pending_progress)

    assert host.run(body) is is_progress


async def _writes_nothing(_task: Task, _mapping: Any, _wbc: Any) -> int:
    """A store that is congested."""
    return 0


def test_without_an_interval_nothing_is_written_by_age(make_host: Any) -> None:
    """dirty_writeback_centisecs = 0 switches periodic writeback off."""
    host = make_host(sysctls=DirtySysctls(expire_centisecs=100, writeback_centisecs=0))
    fs = host.slow_store()

    async def body(task: Task) -> int:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 4)
        await host.pause(task, 20 * NS_PER_S)
        return int(mapping.nr_dirty)

    assert host.run(body) == 4


def test_the_background_threshold_starts_it(make_host: Any) -> None:
    """Above the background threshold the flusher writes until it is below, long before anybody is held back."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> tuple[int, int]:
        mapping = host.cache.create(fs, "file")
        bg_thresh = host.throttle.limits().bg_thresh
        await host.cache.generic_perform_write(task, mapping, 0, bg_thresh + 40)
        await host.pause(task, NS_PER_S)
        return bg_thresh, int(mapping.nr_dirty)

    bg_thresh, left = host.run(body)
    assert left <= bg_thresh
    assert host.throttle.nr_pauses == 0


@pytest.mark.parametrize("tries_more", [True, False])
def test_a_short_round_was_the_last(make_host: Any, tries_more: bool) -> None:
    """What is dirtied while a round writes less than 1024 pages is written by the next; before 3.1 there was none."""
    host = make_host(zones=(("DMA32", 4096),), switches={"flusher_tries_more": tries_more})
    fs = host.slow_store(pages_per_s=1_000_000)
    write = fs.writepages
    nr_rounds = 0

    async def body(task: Task) -> int:
        first, second = (host.cache.create(fs, name) for name in ("first", "second"))
        nr_pages = host.throttle.limits().bg_thresh + 40

        async def writepages(*args: Any) -> int:
            nonlocal nr_rounds
            nr_rounds += 1
            error: int = await write(*args)
            await host.pause(args[0], 10 * NS_PER_MS)
            if nr_rounds == 1:
                await host.cache.generic_perform_write(args[0], second, 0, nr_pages)
            return error

        fs.writepages = writepages
        await host.cache.generic_perform_write(task, first, 0, nr_pages)
        await host.pause(task, NS_PER_S)
        return int(second.nr_dirty) // nr_pages

    assert (host.run(body), nr_rounds) == ((0, 2) if tries_more else (1, 1))


def test_reclaim_wakes_all_flushers(host: Any) -> None:
    """wakeup_flusher_threads writes what every device has dirty."""
    stores = [host.slow_store(name, pages_per_s=100_000) for name in ("a", "b")]

    async def body(task: Task) -> list[int]:
        mappings = [host.cache.create(fs, fs.name) for fs in stores]
        for mapping in mappings:
            await host.cache.generic_perform_write(task, mapping, 0, 4)
        host.flusher.wakeup_flusher_threads("vmscan")
        await host.pause(task, 100 * NS_PER_MS)
        return [mapping.nr_dirty + mapping.nr_writeback for mapping in mappings]

    assert host.run(body) == [0, 0]


def test_sync_comes_back_when_all_is_stored(host: Any) -> None:
    """After sync no page of any file is dirty or under writeback."""
    fs = host.slow_store(pages_per_s=1000)

    async def body(task: Task) -> None:
        mappings = [host.cache.create(fs, f"file{i}") for i in range(3)]
        for mapping in mappings:
            await host.cache.generic_perform_write(task, mapping, 0, 20)
        await host.flusher.sync(task)
        assert [m.nr_dirty + m.nr_writeback for m in mappings] == [0, 0, 0]

    host.run(body)
    assert len(fs.store) == 60


def test_files_take_turns(make_host: Any) -> None:
    """A file that has used up its chunk lets the others go first."""
    host = make_host(zones=(("DMA32", 8192),), sysctls=DirtySysctls(ratio=90, background_ratio=80))
    fs = host.slow_store(pages_per_s=1_000_000)
    order: list[int] = []

    async def body(task: Task) -> None:
        mappings = [host.cache.create(fs, f"file{i}") for i in range(2)]
        for mapping in mappings:
            await host.cache.generic_perform_write(task, mapping, 0, 1500)
        real = fs.writepages

        async def noted(task: Task, mapping: Any, wbc: Any) -> int:
            order.append(mapping.id)
            return int(await real(task, mapping, wbc))

        fs.writepages = noted
        host.throttle.dirty_limit = 0
        host.flusher.wakeup_flusher_threads("sync")
        await host.pause(task, NS_PER_S)

    host.run(body)
    assert order[:4] == [1, 2, 1, 2]
