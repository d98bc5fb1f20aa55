"""A file system on a block device: bios, blocks, errors, and the audit of the device's content."""

from typing import Any

import numpy as np
import pytest

from netvm.block.blk_mq import BLK_STS_IOERR
from netvm.errors import Errno, UsageError
from netvm.pagecache.readahead import ReadAhead
from netvm.pagecache.reclaim import invalidate_mapping_pages
from netvm.runtime.task import Task


def test_consecutive_pages_become_large_requests(make_host: Any) -> None:
    """A file written in order goes out in requests of 128 KiB, and its pages lie on the device in order."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.block_fs()

    async def body(task: Task) -> Any:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 320)
        assert await host.cache.fsync(task, mapping) == (0, 0)
        return mapping

    mapping = host.run(body)
    assert [nr for _kind, _slot, nr in host.device.shapes] == [32] * 10
    assert [host.device.store[1 + i] for i in range(320)] == mapping.version[:320].tolist()
    assert fs.lost_writes() == []
    host.device.store[5] = 0
    assert fs.lost_writes() == ["file page 4: the storage holds version 0, acknowledged was 5"]


def test_two_files_do_not_share_blocks(make_host: Any) -> None:
    """Files written in turn keep their own content, out and back."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.block_fs()

    async def body(task: Task) -> None:
        mappings = [host.cache.create(fs, f"file{i}") for i in range(2)]
        for index in range(0, 120, 3):
            for mapping in mappings:
                await host.cache.generic_perform_write(task, mapping, index, 3)
        for mapping in mappings:
            await host.cache.fsync(task, mapping)
            invalidate_mapping_pages(host.cache, mapping)
            assert await host.reader.filemap_read(task, mapping, ReadAhead(), 0, 120) == 0

    host.run(body)
    assert not host.cache.corrupt
    assert host.cache.nr_read == 240
    assert fs.lost_writes() == []


def test_everything_taken_comes_back(make_host: Any) -> None:
    """Bios and vectors return when their pages are through; a buffer head goes with its page."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.block_fs()

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 700)
        assert host.slabs["buffer_head"].nr_active == 700
        await host.cache.fsync(task, mapping)
        assert (fs.bios.pool.nr_out, fs.biovecs.pool.nr_out) == (0, 0)
        invalidate_mapping_pages(host.cache, mapping)
        assert host.slabs["buffer_head"].nr_active == 0

    host.run(body)


def test_a_failed_request_is_an_error_of_the_file(host: Any) -> None:
    """What the device could not write is reported by fsync and not by the audit."""
    fs = host.block_fs()
    host.device.error = lambda rq: BLK_STS_IOERR

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 10)
        error, _seen = await host.cache.fsync(task, mapping)
        assert error == -Errno.EIO

    host.run(body)
    assert host.cache.write_errors == host.cache.nr_lost == 10
    assert fs.lost_writes() == []


@pytest.mark.parametrize(
    ("without", "clean_after"),
    [
        ((), [0] * 9 + [300]),
        (("multipage_bvecs",), [0] * 7 + [256, 256, 300]),
        (("multipage_bvecs", "bio_any_size"), [*range(32, 300, 32), 300]),
    ],
)
def test_pages_end_with_the_last_part_of_their_bio(
    make_host: Any, without: tuple[str, ...], clean_after: list[int]
) -> None:
    """A bio of pages that lie in few runs goes out in requests of 32; none is clean before the last of them has ended.

    Of 256 pages at most before 5.1; and when a bio was no larger than a request each request ended its own.
    """
    host = make_host(zones=(("DMA32", 4096),), switches=dict.fromkeys(without, False))
    fs = host.block_fs()
    ended: list[tuple[int, int]] = []

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        end_io = fs.end_bio_write

        def watched(rq: Any, error: int, context: Task) -> None:
            end_io(rq, error, context)
            ended.append((rq.slot, host.vmstat.nr_written))

        fs.end_bio_write = watched
        await host.cache.generic_perform_write(task, mapping, 0, 300)
        await host.cache.fsync(task, mapping)

    host.run(body)
    assert [written for _slot, written in ended] == clean_after


def test_a_bio_takes_256_runs_of_frames(make_host: Any) -> None:
    """Of pages whose frames lie apart 256 go in a bio; each that follows on the one before it is one more."""
    host = make_host(zones=(("DMA32", 4096),))
    fs = host.block_fs()
    sizes: list[int] = []

    async def body(task: Task) -> None:
        first, other = (host.cache.create(fs, name, 300) for name in ("file", "other"))
        for index in range(300):
            # every tenth frame follows on the one before it
            await host.cache.generic_perform_write(task, first, index, 1)
            if index % 10:
                await host.cache.generic_perform_write(task, other, index, 1)
        runs = np.diff(first.pfn[:300]) != 1
        note_bio = fs._note_bio

        def noted(block: int, nr: int, *args: Any) -> None:
            if block <= 300:
                sizes.append(nr)
            note_bio(block, nr, *args)

        fs._note_bio = noted
        await host.cache.fsync(task, first)
        full = int(np.flatnonzero(runs)[255]) + 1
        assert sizes == [full, 300 - full]

    host.run(body)
    assert 256 < sizes[0] < 300


def test_a_part_that_failed_is_an_error_of_its_whole_bio(make_host: Any) -> None:
    """One request of eight fails: all pages of the bio are reported, those of the next one are not."""
    host = make_host(zones=(("DMA32", 4096),), switches={"multipage_bvecs": False})
    fs = host.block_fs()
    host.device.error = lambda rq: BLK_STS_IOERR if rq.slot == 1 + 64 else 0

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 300)
        assert (await host.cache.fsync(task, mapping))[0] == -Errno.EIO

    host.run(body)
    assert host.cache.write_errors == 256
    assert fs.lost_writes() == []


def test_a_full_device_is_no_space(host: Any) -> None:
    """Writing past the last block is ENOSPC; a file too large to begin with is refused."""
    fs = host.block_fs(nr_blocks=21)

    async def body(task: Task) -> None:
        mapping = host.cache.create(fs, "file")
        assert await host.cache.generic_perform_write(task, mapping, 0, 20) == 0
        assert await host.cache.generic_perform_write(task, mapping, 20, 1) == -Errno.ENOSPC

    host.run(body)
    with pytest.raises(UsageError, match=r"storage.size_mib: 0 pages are left on fake0, big needs 5"):
        host.cache.create(fs, "big", 5)


def test_who_could_end_a_write_is_named(host: Any) -> None:
    """A wait for a page names the request it is in."""
    fs = host.block_fs()
    host.device.held = True

    async def body(task: Task) -> list[str]:
        mapping = host.cache.create(fs, "file")
        await host.cache.generic_perform_write(task, mapping, 0, 4)
        host.flusher.wakeup_flusher_threads("sync")
        await host.pause(task, 1_000_000)
        return [provider.name for provider in fs.needs_page(mapping, 2)]

    (name,) = host.run(body)
    assert "WRITE 1+4" in name
