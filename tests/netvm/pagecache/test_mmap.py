"""Shared mappings: the first store faults, later ones do not, until writeback protects the page again."""

from typing import Any

from netvm.pagecache.mmap import SharedMapping
from netvm.runtime.task import Task


def test_a_store_faults_once_between_two_writebacks(host: Any) -> None:
    """Two stores to a page are one fault and one dirtying; after fsync the next store faults again."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        shared = SharedMapping(host.cache, host.reader, mapping)
        await shared.touch(task, 0, 1, write=True)
        await shared.touch(task, 0, 1, write=True)
        assert (host.vmstat.pgfault, host.vmstat.nr_dirtied, host.vmstat.nr_mapped) == (1, 1, 1)
        await host.cache.fsync(task, mapping)
        assert fs.store[1, 0] == mapping.version[0]
        await shared.touch(task, 0, 1, write=True)
        assert (host.vmstat.pgfault, host.vmstat.nr_dirtied) == (2, 2)
        assert mapping.version[0] > fs.store[1, 0]
        await host.cache.fsync(task, mapping)
        assert fs.store[1, 0] == mapping.version[0] == mapping.stored[0]

    host.run(body)


def test_a_mapped_page_is_found_by_reclaim(host: Any) -> None:
    """A young page is kept at the first look; its PTE goes with it at a later one."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> Any:
        mapping = host.cache.create(fs, "file")
        shared = SharedMapping(host.cache, host.reader, mapping)
        await shared.touch(task, 0, 4, write=True)
        await host.cache.fsync(task, mapping)
        pfns = mapping.pfn[:4].astype(int) - 1
        assert host.files.take_young(pfns).all()
        assert not host.files.take_young(pfns).any()
        host.files.unmap(pfns)
        return mapping

    mapping = host.run(body)
    assert (mapping.nr_mapped, host.vmstat.nr_mapped) == (0, 0)


def test_a_mapping_writer_is_throttled(make_host: Any) -> None:
    """Stores to more pages than the limit allows make the writer sleep."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.slow_store(pages_per_s=1000)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await SharedMapping(host.cache, host.reader, mapping).touch(task, 0, 1500, write=True)

    host.run(body)
    assert host.throttle.nr_pauses
    assert host.throttle.limits().dirty <= host.throttle.dirty_limit + 64
