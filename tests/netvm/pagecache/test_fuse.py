"""FUSE in the kernel: requests, their limits, what a page is while the server has it, and who waits for it."""

from typing import Any

import pytest

from netvm.errors import Errno
from netvm.pagecache.fuse import FUSE_FSYNC, FUSE_READ, FUSE_WRITE, FuseConnection, FuseFileSystem
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.ports import WB_SYNC_ALL, WritebackControl
from netvm.pagecache.readahead import ReadAhead
from netvm.pagecache.reclaim import invalidate_mapping_pages
from netvm.runtime.task import Task

_COPIES = "6.1"
_STAYS = "6.18"


class _Mount:
    """A mount whose server does what the test says."""

    def __init__(self, host: Any, *, max_background: int = 12, congestion_threshold: int = 9, max_pages: int = 32):
        self.host = host
        self.connection = FuseConnection(
            host.cache, "fuse", max_background=max_background, congestion_threshold=congestion_threshold
        )
        self.bdi = host.throttle.add_device("fuse")
        host.flusher.add_device(self.bdi)
        self.fs = FuseFileSystem(
            host.cache,
            host.reader,
            self.connection,
            bdi=self.bdi,
            requests=host.slabs["kmalloc-1k"],
            max_pages=max_pages,
        )
        self.file: Mapping = host.cache.create(self.fs, "file")
        self.seen: list[tuple[str, int, int]] = []
        self.error = 0
        self.content: dict[int, int] = {}

    async def answer(self, task: Task, nr: int = 1) -> None:
        """Serve so many requests."""
        for _ in range(nr):
            req = await self.connection.read(task)
            self.seen.append((req.opcode, req.index, req.nr_pages))
            if req.opcode == FUSE_WRITE and not self.error:
                self.content.update(zip(req.indices.tolist(), req.versions, strict=True))
            if req.opcode == FUSE_READ:
                req.versions = [self.content.get(i, 0) for i in req.indices.tolist()]
            self.connection.end(req, self.error, task)

    async def serve(self, task: Task) -> None:
        """Serve without end."""
        self.connection.server = task
        while True:
            await self.answer(task)

    def start(self) -> None:
        """Start the server."""
        self.host.world.spawn("fuse", self.serve)

    async def write(self, task: Task, nr_pages: int, index: int = 0) -> None:
        """Dirty pages."""
        assert not await self.host.cache.generic_perform_write(task, self.file, index, nr_pages)

    async def writepages(self, task: Task, **how: Any) -> int:
        """Start writing what is dirty."""
        return await self.fs.writepages(task, self.file, WritebackControl(nr_to_write=1 << 30, **how))

    async def flush(self, task: Task) -> None:
        """Start writing all that is dirty, congested or not."""
        assert not await self.writepages(task, sync_mode=WB_SYNC_ALL)


def _mount(make_host: Any, kernel: str = _COPIES, **how: int) -> _Mount:
    return _Mount(make_host(zones=(("DMA32", 4096),), kernel=kernel), **how)


@pytest.mark.parametrize(("kernel", "nr_copies"), [(_COPIES, 40), (_STAYS, 0)])
def test_a_page_on_its_way_is_clean_or_under_writeback(make_host: Any, kernel: str, nr_copies: int) -> None:
    """With copies the page is clean at once, and a page is taken for each; without, it stays under writeback."""
    mount = _mount(make_host, kernel)
    host = mount.host

    async def body(task: Task) -> None:
        await mount.write(task, 40)
        free = host.node.nr_free
        await mount.flush(task)
        assert (mount.file.nr_dirty, mount.bdi.nr_writeback) == (0, 40)
        assert (mount.file.nr_writeback, host.vmstat.nr_writeback) == (40 - nr_copies, 40 - nr_copies)
        assert mount.fs.nr_writeback_temp == nr_copies
        assert free - host.node.nr_free >= nr_copies
        await mount.answer(task, 2)
        assert (mount.bdi.nr_writeback, mount.fs.nr_writeback_temp, host.vmstat.nr_writeback) == (0, 0, 0)
        assert host.ledger.counts[mount.fs.owner_temp] == 0
        assert mount.file.stored.tolist()[:40] == mount.file.version.tolist()[:40]

    host.run(body)
    assert mount.seen == [(FUSE_WRITE, 0, 32), (FUSE_WRITE, 32, 8)]
    assert host.cache.nr_cleaned == 40
    assert [f"up to {nr_copies} temporary" in note for note in mount.fs.notes()] == [True] * bool(nr_copies)


@pytest.mark.parametrize("kernel", [_COPIES, _STAYS])
def test_who_writes_again_waits_for_the_write_before(make_host: Any, kernel: str) -> None:
    """There is one write of a page at a time; pages that are not on their way are free to be written."""
    mount = _mount(make_host, kernel)

    async def again(task: Task) -> None:
        await mount.write(task, 1, 70)
        await mount.write(task, 1, 3)
        mount.seen.append(("again", 3, 1))

    async def body(task: Task) -> None:
        await mount.write(task, 8)
        await mount.flush(task)
        second = mount.host.world.spawn("again", again)
        await mount.host.world.sleep_ns(task, 1_000_000, mount.host.pages.memory)
        assert mount.file.pfn[70]
        assert not mount.file.tags[3] & 1
        assert [provider.name for provider in second.resource.providers()] == [
            "fuse: WRITE file 0+8 (unique 4), at its server"
        ]
        await mount.answer(task)
        await mount.host.world.sleep_ns(task, 1_000_000, mount.host.pages.memory)

    mount.host.run(body)
    assert mount.seen == [(FUSE_WRITE, 0, 8), ("again", 3, 1)]


def test_a_read_waits_for_the_copy_that_is_newer(make_host: Any) -> None:
    """A page that was copied and evicted is read back as it was written, once the server has it."""
    mount = _mount(make_host)

    async def body(task: Task) -> None:
        await mount.write(task, 8)
        await mount.flush(task)
        assert invalidate_mapping_pages(mount.host.cache, mount.file) == 8
        mount.start()
        assert not await mount.host.reader.filemap_read(task, mount.file, ReadAhead(), 0, 8)

    mount.host.run(body)
    assert [opcode for opcode, _index, _nr in mount.seen] == [FUSE_WRITE, FUSE_READ]
    assert not mount.host.cache.corrupt


def test_background_requests_are_bounded_and_the_flusher_stops_at_congestion(make_host: Any) -> None:
    """The server is given max_background of them, the rest wait; from the threshold on the flusher sends none."""
    mount = _mount(make_host, max_background=4, congestion_threshold=3, max_pages=1)
    connection = mount.connection

    async def body(task: Task) -> None:
        await mount.write(task, 6)
        await mount.flush(task)
        assert (len(connection.pending), len(connection.bg_queue)) == (4, 2)
        await mount.write(task, 1, 9)
        assert not await mount.writepages(task)
        assert mount.file.nr_dirty == 1
        await mount.answer(task, 3)
        assert (connection.num_background, connection.active_background) == (3, 3)
        await mount.answer(task, 1)
        await mount.writepages(task)
        assert mount.file.nr_dirty == 0
        await mount.answer(task, 3)

    mount.host.run(body)
    assert connection.digest() == (0, 0, 7)


def test_a_reader_waits_while_the_background_is_full(make_host: Any) -> None:
    """A read-ahead is a background request, and waits until there is room for one more."""
    mount = _mount(make_host, max_background=1, max_pages=1)

    async def reader(task: Task) -> None:
        mount.file.extend(9)
        assert not await mount.host.reader.filemap_read(task, mount.file, ReadAhead(), 8, 1)
        mount.seen.append(("read", 8, 1))

    async def body(task: Task) -> None:
        await mount.write(task, 2)
        await mount.flush(task)
        mount.host.world.spawn("reader", reader)
        await mount.host.world.sleep_ns(task, 1_000_000, mount.host.pages.memory)
        assert mount.connection.num_background == 2
        await mount.answer(task, 3)
        await mount.host.world.sleep_ns(task, 1_000_000, mount.host.pages.memory)

    mount.host.run(body)
    assert mount.seen == [(FUSE_WRITE, 0, 1), (FUSE_WRITE, 1, 1), (FUSE_READ, 8, 1), ("read", 8, 1)]


@pytest.mark.parametrize("kernel", [_COPIES, _STAYS])
def test_fsync_waits_for_the_server_and_tells_its_error(make_host: Any, kernel: str) -> None:
    """An fsync writes, waits for copies too, and sends an FSYNC; an error of a WRITE is told once."""
    mount = _mount(make_host, kernel)
    cache = mount.host.cache

    async def body(task: Task) -> None:
        mount.start()
        await mount.write(task, 4)
        assert await cache.fsync(task, mount.file) == (0, 0)
        mount.error = -int(Errno.ENOSPC)
        await mount.write(task, 4)
        error, seen = await cache.fsync(task, mount.file)
        assert error == -Errno.ENOSPC
        mount.error = 0
        assert await cache.fsync(task, mount.file, seen) == (0, seen)

    mount.host.run(body)
    assert [opcode for opcode, _index, _nr in mount.seen] == [FUSE_WRITE, FUSE_FSYNC] * 2 + [FUSE_FSYNC]
    assert cache.nr_lost == 4


@pytest.mark.parametrize("kernel", [_COPIES, _STAYS])
def test_when_the_server_is_gone_everything_fails(make_host: Any, kernel: str) -> None:
    """What was not answered ends with EIO, and so does what comes later; nobody waits for ever."""
    mount = _mount(make_host, kernel, max_background=1, max_pages=2)
    cache = mount.host.cache

    async def body(task: Task) -> None:
        await mount.write(task, 8)
        await mount.flush(task)
        mount.connection.abort(task)
        assert (mount.bdi.nr_writeback, mount.connection.num_background) == (0, 0)
        assert (await cache.fsync(task, mount.file))[0] == -Errno.EIO
        assert await cache.generic_perform_write(task, mount.file, 0, 1) == -Errno.EIO
        assert await mount.host.reader.filemap_read(task, mount.file, ReadAhead(), 0, 8) == -Errno.EIO

    mount.host.run(body)
    assert cache.nr_lost == 8
    assert "the server is gone" in mount.fs.notes()[-1]


def test_what_the_server_does_not_hold_is_lost(make_host: Any) -> None:
    """The server's file is held against what it acknowledged; what is on its way is left out."""
    mount = _mount(make_host)
    cache = mount.host.cache

    async def body(task: Task) -> None:
        backing = mount.file.private = cache.create(mount.host.slow_store(), "backing", 64)
        await mount.write(task, 4)
        await mount.flush(task)
        await mount.answer(task)
        backing.version[:4] = mount.file.version[:4]
        assert mount.fs.lost_writes() == []
        backing.version[2] = 0
        version = int(mount.file.version[2])
        assert mount.fs.lost_writes() == [f"file page 2: the server holds version 0, acknowledged was {version}"]
        await mount.write(task, 1, 2)
        await mount.flush(task)
        assert mount.fs.lost_writes() == []

    mount.host.run(body)
