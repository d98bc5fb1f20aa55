"""Delayed allocation: extents, the leaf that the fifth one needs, and pages that wait in a bio nobody has sent."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from netvm.errors import Errno
from netvm.mm.gfp import GFP_FS
from netvm.mm.memcontrol import MemControl
from netvm.pagecache.readahead import ReadAhead
from netvm.pagecache.reclaim import invalidate_mapping_pages
from netvm.runtime.task import Task


def _host(make_host: Any, *, extent_pages: int, kernel: str = "6.1", **switches: bool) -> tuple[Any, Any]:
    host = make_host(zones=(("DMA32", 4096),), kernel=kernel, switches=switches)
    return host, host.block_fs(extent_pages=extent_pages)


def test_blocks_come_at_writeback_in_pieces(make_host: Any) -> None:
    """A page has no block before it is written back; then an extent is as long as a piece, with a gap behind it."""
    host, fs = _host(make_host, extent_pages=8)

    async def body(task: Task) -> Any:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 20)
        assert not fs.inode_of(mapping).blocks.any()
        assert fs.delalloc.nr_delayed == 20
        assert await host.cache.fsync(task, mapping) == (0, 0)
        return mapping

    mapping = host.run(body)
    assert fs.inode_of(mapping).blocks[:20].tolist() == [*range(2, 10), *range(11, 19), *range(20, 24)]
    assert host.device.shapes == [("W", 1, 8), ("W", 10, 8), ("W", 19, 4)]
    assert (fs.delalloc.nr_delayed, fs.delalloc.unsent, fs.lost_writes()) == (0, [], [])


@pytest.mark.parametrize(("nr_extents", "leaves"), [(4, 0), (5, 1), (40, 1), (341, 2)])
def test_the_fifth_extent_needs_a_leaf(make_host: Any, nr_extents: int, leaves: int) -> None:
    """Four extents fit into the inode, 340 into a leaf; a leaf is a page of the device's page cache."""
    host, fs = _host(make_host, extent_pages=2)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 2 * nr_extents)
        await host.cache.fsync(task, mapping)

    host.run(body)
    assert (fs.delalloc.leaves.nr_cached if fs.delalloc.leaves else 0) == leaves


def test_what_was_written_comes_back(make_host: Any) -> None:
    """Two files written in turn, some pages twice, are read as they were written last."""
    host, fs = _host(make_host, extent_pages=5)

    async def body(task: Task) -> None:
        mappings = [host.cache.create(fs, f"file{i}") for i in range(2)]
        for index in (*range(0, 90, 3), 12, 60):
            for mapping in mappings:
                await host.cache.generic_perform_write(task, mapping, index, 3)
                if index % 9 == 0:
                    await host.cache.fsync(task, mapping)
        for mapping in mappings:
            await host.cache.fsync(task, mapping)
            invalidate_mapping_pages(host.cache, mapping)
            assert await host.reader.filemap_read(task, mapping, ReadAhead(), 0, 90) == 0

    host.run(body)
    assert not host.cache.corrupt
    assert host.cache.nr_read == 180
    assert fs.lost_writes() == []


def test_space_is_set_aside_when_a_page_is_written(make_host: Any) -> None:
    """A device without room for the dirt says so at once, and what was promised a block gets one."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.block_fs(64, extent_pages=8)

    async def body(task: Task) -> list[int]:
        mapping = host.cache.create(fs, "file")
        told = [await host.cache.generic_perform_write(task, mapping, index, 8) for index in range(0, 80, 8)]
        assert await host.cache.fsync(task, mapping) == (0, 0)
        return told

    told = host.run(body)
    assert told[0] == 0
    assert told[-1] == -Errno.ENOSPC
    assert told == sorted(told, reverse=True)


@pytest.mark.parametrize(
    ("nolock", "clean_after"),
    [(True, [0] * 9 + [300]), (False, [0] * 7 + [256, 256, 300])],
)
def test_new_pages_that_are_mapped_at_once_end_together(make_host: Any, nolock: bool, clean_after: list[int]) -> None:
    """Two bios of a run end their pages when both are written, and a rewrite each by itself; before 5.6 all do so."""
    host, fs = _host(make_host, extent_pages=1000, ext4_dioread_nolock=nolock)
    written: list[int] = []

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        end_io = fs.end_bio_write

        def watched(rq: Any, error: int, context: Task) -> None:
            end_io(rq, error, context)
            written.append(host.vmstat.nr_written)

        fs.end_bio_write = watched
        await host.cache.generic_perform_write(task, mapping, 0, 300)
        await host.cache.fsync(task, mapping)
        assert written == clean_after
        await host.cache.generic_perform_write(task, mapping, 0, 300)
        await host.cache.fsync(task, mapping)

    host.run(body)
    assert written[len(clean_after) :] == [300] * 7 + [556, 556, 600]
    assert fs.lost_writes() == []


async def _look_while_mapping(host: Any, fs: Any, task: Task, look: Callable[[Any], Awaitable[None]]) -> None:
    """Write a file of 40 pages in extents of eight, and look before the fifth extent takes its leaf."""
    mapping = host.cache.create(fs, "file")
    await host.cache.generic_perform_write(task, mapping, 0, 40)
    leaf = fs.delalloc._create_new_leaf

    async def create_new_leaf(task: Task) -> None:
        await look(mapping)
        await leaf(task)

    fs.delalloc._create_new_leaf = create_new_leaf
    await host.cache.fsync(task, mapping)


def test_a_page_that_waits_for_its_run_is_the_task_s_who_maps_it(make_host: Any) -> None:
    """A bio that is written does not end its pages while its writer maps the next extent of the run."""
    host, fs = _host(make_host, extent_pages=8)
    seen: list[Any] = []

    async def body(task: Task) -> None:
        async def look(mapping: Any) -> None:
            while host.queue.outstanding:
                await host.world.sleep(task, 1_000_000)
            seen.extend(fs.needs_page(mapping, 0))
            assert host.vmstat.nr_written == 0

        await _look_while_mapping(host, fs, task, look)
        assert seen == [task]

    host.run(body)
    assert host.vmstat.nr_written == 40


def test_a_page_in_an_unsent_bio_is_the_task_s_who_holds_it(make_host: Any) -> None:
    """While the fifth extent is mapped the fourth is under writeback, and only its writer can send it."""
    host, fs = _host(make_host, extent_pages=8)
    seen: list[Any] = []

    async def body(task: Task) -> None:
        async def look(mapping: Any) -> None:
            seen.extend(fs.needs_page(mapping, 24))

        await _look_while_mapping(host, fs, task, look)
        assert task in seen[0].needs

    host.run(body)
    assert seen[0].name.startswith("a bio of 8 pages that test-")


@pytest.mark.parametrize("before", [True, False])
def test_pages_of_a_write_are_taken_before_the_transaction(make_host: Any, before: bool) -> None:
    """Without ext4_page_before_handle a page for a write is taken and charged with GFP_NOFS."""
    host, fs = _host(make_host, extent_pages=8, ext4_page_before_handle=before)
    memcg = MemControl(host.world, host.pages, host.lruvec, fixes=host.fixes)
    memcg.create("g", limit_pages=4, may_swap=False)
    masks: list[int] = []
    charge = memcg.charge

    async def note(task: Task, pfn: int, gfp: int, *, fault: bool = False) -> bool:
        masks.append(gfp)
        return await charge(task, pfn, gfp, fault=fault)

    memcg.charge = note

    async def body(task: Task) -> None:
        memcg.attach(task, "g")
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 4)
        await host.cache.fsync(task, mapping)
        await host.cache.generic_perform_write(task, mapping, 4, 4)

    host.run(body)
    assert masks
    assert all(bool(gfp & GFP_FS) == before for gfp in masks)
    assert memcg.groups[0].peak_pages == 4
