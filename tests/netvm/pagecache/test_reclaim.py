"""The page cache's side of reclaim: shadows, private data, and what may be dropped."""

from typing import Any

import numpy as np

from netvm.mm.gfp import GFP_KERNEL
from netvm.pagecache.filemap import PTE_PRESENT
from netvm.pagecache.reclaim import invalidate_mapping_pages
from netvm.runtime.task import Task


async def _clean(host: Any, fs: Any, task: Task, nr_pages: int) -> Any:
    mapping = host.cache.create(fs, "file")
    await host.cache.generic_perform_write(task, mapping, 0, nr_pages)
    await host.cache.fsync(task, mapping)
    return mapping


def test_an_evicted_page_leaves_a_shadow_and_comes_back_active(make_host: Any) -> None:
    """A refault sooner than the active list is long is activated; the tree node stays for the shadow."""
    host = make_host(free=2000)
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = await _clean(host, fs, task, 2)
        host.lruvec.lru_add_drain()
        pfns = (mapping.pfn[:1] - 1).astype(np.intp)
        host.lruvec.forget_many(pfns)
        host.files.remove_mapping(pfns)
        host.vmscan.file_shrinker.free_file(pfns)
        assert mapping.shadow[0]
        assert mapping.node_entries[0] == 2
        host.lru_pages(8, lru=3)
        await host.cache.generic_perform_write(task, mapping, 0, 1)
        assert (host.vmstat.workingset_refault_file, host.vmstat.workingset_activate_file) == (1, 1)
        assert not mapping.shadow[0]

    host.run(body)


def test_private_data_is_asked_for(host: Any) -> None:
    """Pages with private data go only if their file system gives it up; others always."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = await _clean(host, fs, task, 3)
        pfns = (mapping.pfn[:3] - 1).astype(np.intp)
        fs.private = {int(pfns[1])}
        fs.releasable = False
        assert (await host.files.release_folios(task, pfns, GFP_KERNEL)).tolist() == [True, False, True]
        fs.releasable = True
        assert (await host.files.release_folios(task, pfns, GFP_KERNEL)).all()

    host.run(body)


def test_a_page_that_moves_is_found_in_its_new_frame(host: Any) -> None:
    """Its file is told, and says whether the shared mapping has it: such a page is on its list at once."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = await _clean(host, fs, task, 2)
        host.lruvec.lru_add_drain()
        mapping.pte[1] = PTE_PRESENT
        mapping.nr_mapped = 1
        migration = host.vmscan.compaction.migration
        for index, batched in ((0, 1), (1, 0)):
            src = int(mapping.pfn_of[index]) - 1
            dst = host.pages.get_page_from_freelist(task, 0, GFP_KERNEL, 0, host.owner_test)
            frames = [dst]
            migration.isolate(np.array([src]))
            assert migration.migrate_pages(task, [src], frames.pop, frames.append) == (1, False)
            assert mapping.pfn_of[index] == dst + 1
            assert len(host.lruvec.batched) == batched
        mapping.pte[1] = mapping.nr_mapped = 0

    host.run(body)


def test_only_clean_pages_are_dropped(host: Any) -> None:
    """POSIX_FADV_DONTNEED leaves dirty pages alone."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = await _clean(host, fs, task, 6)
        await host.cache.generic_perform_write(task, mapping, 2, 2)
        assert invalidate_mapping_pages(host.cache, mapping) == 4
        assert np.flatnonzero(mapping.pfn).tolist() == [2, 3]

    host.run(body)


def test_kswapd_may_write_a_single_page(host: Any) -> None:
    """``writepage`` sends the page that it is asked for."""
    fs = host.slow_store(pages_per_s=100_000)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 6)
        assert await host.files.writepage(task, int(mapping.pfn[3]) - 1)
        assert mapping.tagged(2, 0, 6).tolist() == [3]

    host.run(body)
