"""Reading: what comes back, what is read ahead, and what cannot be read."""

from typing import Any

import pytest

from netvm.errors import Errno
from netvm.pagecache.readahead import READ_AHEAD_PAGES, ReadAhead
from netvm.pagecache.reclaim import invalidate_mapping_pages
from netvm.runtime.task import Task


async def _stored_file(host: Any, fs: Any, task: Task, nr_pages: int) -> Any:
    """Make a file that is stored and not cached."""
    mapping = host.cache.create(fs, "file")
    await host.cache.generic_perform_write(task, mapping, 0, nr_pages)
    await host.cache.fsync(task, mapping)
    assert invalidate_mapping_pages(host.cache, mapping) == nr_pages
    assert mapping.nr_cached == 0
    assert not mapping.node_slab
    return mapping


def test_what_was_written_comes_back(host: Any) -> None:
    """A sequential reader finds every page's newest version, with fewer reads than pages."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> Any:
        mapping = await _stored_file(host, fs, task, 200)
        begun_ns = host.world.now_ns
        assert await host.reader.filemap_read(task, mapping, ReadAhead(), 0, 200) == 0
        return mapping, host.world.now_ns - begun_ns

    mapping, took_ns = host.run(body)
    assert host.cache.nr_read == 200
    assert not host.cache.corrupt
    assert mapping.nr_cached == 200
    assert took_ns < 20 * 1_000_000


def test_a_jump_reads_what_was_asked_for(host: Any) -> None:
    """A reader that does not go on where it stopped reads no page ahead."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = await _stored_file(host, fs, task, 200)
        ra = ReadAhead()
        for index in (150, 20, 77):
            await host.reader.filemap_read(task, mapping, ra, index, 1)

    host.run(body)
    assert host.cache.nr_read == 3


def test_the_window_is_bounded(host: Any) -> None:
    """One sequential read has no more than two windows in the cache ahead of it."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = await _stored_file(host, fs, task, 400)
        ra = ReadAhead()
        for index in range(100):
            await host.reader.filemap_read(task, mapping, ra, index, 1)
            assert host.cache.nr_read <= index + 1 + 2 * READ_AHEAD_PAGES

    host.run(body)


@pytest.mark.parametrize(("nr_pages", "copied"), [(1, 15), (15, 15), (16, 30), (100, 105)])
def test_an_event_finds_whole_batches_copied(make_host: Any, nr_pages: int, copied: int) -> None:
    """What falls due in the middle of a read sees what was copied up to the end of that batch of 15 pages."""
    host = make_host(zones=(("DMA32", 4096),), cpus=1)
    fs = host.slow_store()
    ra = ReadAhead()
    seen: list[int] = []

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 200)
        await task.cpus.pay(task)
        host.world.call_after(nr_pages * host.costs.read_page - 1, lambda: seen.append(ra.expected))
        await host.reader.filemap_read(task, mapping, ra, 0, 200)
        await task.cpus.pay(task)

    host.run(body)
    assert seen == [copied]


def test_old_content_is_noticed(host: Any) -> None:
    """A page that comes back with another version than the newest written is corruption."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = await _stored_file(host, fs, task, 2)
        fs.store[1, 1] = 77
        await host.reader.filemap_read(task, mapping, ReadAhead(), 0, 2)

    host.run(body)
    assert host.cache.corrupt == ["file page 1: read version 77, newest written 2"]


def test_a_failed_read_is_an_error(host: Any) -> None:
    """The reader is told EIO at the page that could not be read."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> int:
        mapping = await _stored_file(host, fs, task, 4)
        fs.error = -Errno.EIO
        mapping.version[0] = 99
        return int(await host.reader.filemap_read(task, mapping, ReadAhead(), 0, 4))

    assert host.run(body) == -Errno.EIO
    assert host.cache.read_errors


@pytest.mark.parametrize("nr_readers", [2, 3])
def test_readers_of_one_page_share_its_read(host: Any, nr_readers: int) -> None:
    """Who finds the page locked waits for it and reads nothing itself."""
    fs = host.slow_store(pages_per_s=100_000)
    done: list[int] = []

    async def body(task: Task) -> None:
        mapping = await _stored_file(host, fs, task, 1)

        async def read(task: Task) -> None:
            done.append(await host.reader.filemap_read(task, mapping, ReadAhead(), 0, 1))

        for i in range(nr_readers):
            host.world.spawn(f"reader{i}", read)
        await host.pause(task, 10_000_000)

    host.run(body)
    assert done == [0] * nr_readers
    assert host.cache.nr_read == 1
