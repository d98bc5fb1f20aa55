"""A file system whose storage is a program on the same machine: the kernel's side of FUSE.

Mirrors fs/fuse/dev.c and file.c of 6.1 as far as memory and waiting go. What the page cache wants done becomes a
request on a queue; a server, an ordinary process, reads it from /dev/fuse, does it and writes the answer
(:mod:`netvm.pagecache.fuse_server`). Writeback and read-ahead are *background* requests: ``max_background`` of them are
with the server or on their way to it, the rest wait behind, and above ``congestion_threshold`` the flusher's own rounds
send nothing. An fsync is a request that its caller waits for.

What a page is while the server has it was decided twice:

- *A page under writeback* stays so until the server has answered. Whoever waits for writeback in reclaim then waits for
  a process, which may itself be in reclaim.
- *A temporary page* (``fuse_temp_pages``, 2.6.26): the content is copied to a page of its own, and the page in the
  cache is clean at once. What is on its way is counted as NR_WRITEBACK_TEMP and of the device alone, so that nobody in
  reclaim waits for it. It costs a page, which nobody can reclaim, for each page on its way. Who writes to the page
  again, or reads it back after it was evicted, waits for the copy.
- *Writeback that may last* (``fuse_writeback_indeterminate``, 6.16): no copies; pages stay under writeback, and the
  mapping says that reclaim must not wait for them.

# MODEL: write(2) goes through the page cache, as with FUSE_WRITEBACK_CACHE (3.15); before, it was sent to the server
# before it returned, and only stores to a mapping made dirty pages.
# MODEL: the flusher's test for congestion is that of 5.18 and later, once a call; sync(2) sends an FSYNC for each file.
"""

from collections import deque
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from netvm.errors import Errno
from netvm.mm.frames import PfnArray
from netvm.mm.gfp import GFP_HIGHMEM, GFP_KERNEL, GFP_NOFAIL, GFP_NOFS
from netvm.mm.slab import SlabCache
from netvm.pagecache.bdi import BackingDevice
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.mapping import TAG_WRITEBACK, Mapping
from netvm.pagecache.ports import WB_SYNC_NONE, WritebackControl
from netvm.pagecache.readahead import FileReader
from netvm.pagecache.walk import DirtyWalk
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue

__all__ = ["FUSE_FSYNC", "FUSE_READ", "FUSE_WRITE", "FuseConnection", "FuseFileSystem", "FuseRequest"]

FUSE_READ: Final = "READ"
FUSE_WRITE: Final = "WRITE"
FUSE_FSYNC: Final = "FSYNC"

GFP_TEMP_PAGE: Final = GFP_NOFS | GFP_HIGHMEM
"""Mask of a temporary page."""


class FuseRequest:
    """One request to the server (``struct fuse_req``) and the pages it is about."""

    __slots__ = ("done", "error", "index", "mapping", "nr_pages", "opcode", "temp", "unique", "versions", "waiting")

    def __init__(self, unique: int, opcode: str, mapping: Mapping, index: int = 0, nr_pages: int = 0) -> None:
        self.unique = unique
        self.opcode = opcode
        self.mapping = mapping
        self.index = index
        self.nr_pages = nr_pages
        self.versions: list[int] = []
        """Content of each page written, or read."""
        self.temp: list[int] = []
        """Frames of the temporary pages that hold what is written."""
        self.error = 0
        """What the server answered, a negative errno."""
        self.done = False
        self.waiting: WaitQueue | None = None
        """Who waits for the answer; None: a background request."""

    @property
    def indices(self) -> npt.NDArray[np.intp]:
        """The pages' indices."""
        return np.arange(self.index, self.index + self.nr_pages)

    def __repr__(self) -> str:
        pages = f" {self.index}+{self.nr_pages}" if self.nr_pages else ""
        return f"{self.opcode} {self.mapping.name}{pages} (unique {self.unique})"


class FuseConnection:
    """The queue between a file system and its server (``struct fuse_conn``, /dev/fuse)."""

    def __init__(self, cache: PageCache, name: str, *, max_background: int, congestion_threshold: int) -> None:
        self.name = name
        self.max_background = max_background
        self.congestion_threshold = congestion_threshold
        self.server: Task | None = None
        """Who reads /dev/fuse."""
        self.connected = True
        self.pending: deque[FuseRequest] = deque()
        self.bg_queue: deque[FuseRequest] = deque()
        """Background requests that are not sent yet."""
        self.outstanding: dict[int, FuseRequest] = {}
        """Requests that are not answered, by unique, oldest first."""
        self.num_background = 0
        self.active_background = 0
        self.nr_done = 0
        idle = Resource("work", f"fuse_dev_do_read: a request of {name}", external=True)
        self._waitq = WaitQueue(cache.world, idle)
        answers = Resource("reply", f"fuse_get_req: background requests of {name}", self.providers)
        self._blocked_waitq = WaitQueue(cache.world, answers)
        self._world = cache.world
        self._next_unique = 2

    def make(self, opcode: str, mapping: Mapping, index: int = 0, nr_pages: int = 0) -> FuseRequest:
        """Make a request."""
        self._next_unique += 2
        return FuseRequest(self._next_unique, opcode, mapping, index, nr_pages)

    def providers(self) -> list[Provider | Task]:
        """Say who could answer: one server does one request after another."""
        return [self.needs(req) for req in self.outstanding.values()] or [Provider(name=f"{self.name}: its server")]

    def needs(self, req: FuseRequest) -> Provider:
        """A request waits for the server."""
        needs = (self.server,) if self.server is not None else ()
        return Provider(name=f"{self.name}: {req}, at its server", needs=needs)

    async def wait_unblocked(self, task: Task) -> None:
        """Wait until there is room for another background request (fuse_block_alloc)."""
        while self.num_background >= self.max_background and self.connected:
            await self._blocked_waitq.wait(task)

    def queue_background(self, req: FuseRequest, task: Task) -> None:
        """Send a request that nobody waits for, or put it behind those that are under way."""
        if not self.connected:
            self._refuse(req, task)
            return
        self.outstanding[req.unique] = req
        self.num_background += 1
        self.bg_queue.append(req)
        self._flush_bg_queue()

    def _flush_bg_queue(self) -> None:
        while self.bg_queue and self.active_background < self.max_background:
            self.active_background += 1
            self._queue(self.bg_queue.popleft())

    def _queue(self, req: FuseRequest) -> None:
        self.pending.append(req)
        self._waitq.wake_one()

    async def send(self, task: Task, req: FuseRequest) -> int:
        """Send a request and wait for its answer; return 0 or a negative errno (request_wait_answer)."""
        if not self.connected:
            return -int(Errno.EIO)
        resource = Resource("reply", f"request_wait_answer: {self.name}: {req}", lambda: [self.needs(req)])
        req.waiting = WaitQueue(self._world, resource)
        self.outstanding[req.unique] = req
        self._queue(req)
        while not req.done:
            await req.waiting.wait(task)
        return req.error

    async def read(self, task: Task) -> FuseRequest:
        """Give the server the next request, when there is one (fuse_dev_do_read)."""
        while not self.pending:
            await self._waitq.wait(task, killable=True)
        return self.pending.popleft()

    def end(self, req: FuseRequest, error: int, task: Task) -> None:
        """The server has answered (fuse_request_end)."""
        del self.outstanding[req.unique]
        req.error = error
        req.done = True
        self.nr_done += 1
        if req.waiting is None:
            self.num_background -= 1
            self.active_background -= 1
            assert self.num_background >= self.active_background >= 0
            self._blocked_waitq.wake_one()
            self._flush_bg_queue()
            fs = req.mapping.fs
            assert isinstance(fs, FuseFileSystem)
            fs.end_request(req, task)
        else:
            req.waiting.wake_all()

    def abort(self, task: Task) -> None:
        """The server is gone: nothing will be answered any more (fuse_abort_conn)."""
        self.connected = False
        self.pending.clear()
        self.active_background += len(self.bg_queue)
        self.bg_queue.clear()
        for req in list(self.outstanding.values()):
            self.end(req, -int(Errno.EIO), task)
        self._blocked_waitq.wake_all()

    def _refuse(self, req: FuseRequest, task: Task) -> None:
        req.error = -int(Errno.EIO)
        fs = req.mapping.fs
        assert isinstance(fs, FuseFileSystem)
        fs.end_request(req, task)

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self.pending), len(self.outstanding), self.nr_done)


class FuseFileSystem:
    """One FUSE mount."""

    tells_nospc = False

    def __init__(
        self,
        cache: PageCache,
        reader: FileReader,
        connection: FuseConnection,
        *,
        bdi: BackingDevice,
        requests: SlabCache,
        max_pages: int,
    ) -> None:
        self.cache = cache
        self.reader = reader
        self.connection = connection
        self.name = connection.name
        self._bdi = bdi
        self.requests = requests
        self.max_pages = max_pages
        """Pages of one request."""
        fixes = cache.pages.fixes
        self.copies = fixes.fuse_temp_pages and not fixes.fuse_writeback_indeterminate
        """Whether what is written is copied to temporary pages."""
        self.writeback_may_last = fixes.fuse_writeback_indeterminate
        self.owner_temp = cache.pages.ledger.owner("fuse_temp")
        self.nr_writeback_temp = 0
        """NR_WRITEBACK_TEMP."""
        self.nr_writeback_temp_max = 0
        self._objects: dict[int, int] = {}
        """Slab of each request, by unique."""
        self._writes: dict[int, FuseRequest] = {}
        """Copies on their way, by unique."""
        resource = Resource("page", f"fuse_wait_on_page_writeback: {self.name}", connection.providers)
        self._page_waitq = WaitQueue(cache.world, resource)
        cache.filesystems.append(self)

    @property
    def bdi(self) -> BackingDevice:
        """The device its pages are written back to."""
        return self._bdi

    def attach(self, mapping: Mapping) -> None:
        """The server makes its file when it first hears of it."""

    # -- writing --------------------------------------------------------------------------------------------------

    async def write_begin(self, task: Task, mapping: Mapping, index: int, nr_pages: int) -> int:
        """Wait for what is on its way of these pages: there is one write of a page at a time."""
        if self.copies:
            await self.wait_on_page_writeback(task, mapping, index, index + nr_pages)
        else:
            await self.cache.wait_on_writeback(task, mapping, index, index + nr_pages)
        return 0 if self.connection.connected else -int(Errno.EIO)

    def write_end(self, task: Task, mapping: Mapping, index: int, pfns: PfnArray) -> None:
        """Nothing is left to do: the pages are dirty."""

    async def wait_on_page_writeback(self, task: Task, mapping: Mapping, start: int, end: int) -> None:
        """Wait until no copy of pages in ``[start, end)`` is on its way (fuse_wait_on_page_writeback)."""
        while any(
            req.mapping is mapping and req.index < end and start < req.index + req.nr_pages
            for req in self._writes.values()
        ):
            await self._page_waitq.wait(task)

    async def writepages(self, task: Task, mapping: Mapping, wbc: WritebackControl) -> int:
        """Put runs of dirty pages in WRITE requests (fuse_writepages)."""
        connection = self.connection
        if wbc.sync_mode == WB_SYNC_NONE and connection.num_background >= connection.congestion_threshold:
            return 0
        walk = DirtyWalk(self.cache, mapping, wbc)
        req: FuseRequest | None = None
        spare = -1
        error = 0
        while True:
            # memory first: pages that are marked must go out
            temp: list[int] = []
            if spare < 0:
                spare = await self.requests.alloc(task, GFP_NOFS)
            if self.copies and spare >= 0:
                temp = [await self.cache.pages.alloc_pages(task, 0, GFP_TEMP_PAGE, self.owner_temp)]
            if spare < 0 or -1 in temp:
                error = -int(Errno.ENOMEM)
                break
            run = await walk.next_run(task, 1 if self.copies else self.max_pages)
            if run is None:
                self._free_temp(temp)
                break
            index, nr = run
            if req is not None and (index != req.index + req.nr_pages or req.nr_pages + nr > self.max_pages):
                self._send(req, task)
                req = None
            if req is None:
                req = connection.make(FUSE_WRITE, mapping, index)
                self._objects[req.unique] = spare
                spare = -1
            self._fill(task, req, nr, temp)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        if spare >= 0:
            self.requests.free(spare)
        if req is not None:
            self._send(req, task)
        return error

    def _fill(self, task: Task, req: FuseRequest, nr: int, temp: list[int]) -> None:
        """Add pages to a request: under writeback, or copied and clean (fuse_writepages_fill)."""
        cache, mapping, index = self.cache, req.mapping, req.index + req.nr_pages
        _pfns, versions = cache.start_writeback(mapping, index, nr)
        req.nr_pages += nr
        req.versions += versions
        task.charge_ns += nr * cache.costs.writepage
        if not temp:
            return
        assert len(temp) == nr
        req.temp += temp
        task.charge_ns += nr * cache.costs.copy_page
        self._writes[req.unique] = req
        self.nr_writeback_temp += nr
        self.nr_writeback_temp_max = max(self.nr_writeback_temp_max, self.nr_writeback_temp)
        cache.end_writeback(mapping, np.arange(index, index + nr), error=0, task=task, copied=True)

    def _send(self, req: FuseRequest, task: Task) -> None:
        self.connection.queue_background(req, task)

    def _free_temp(self, temp: list[int]) -> None:
        for pfn in temp:
            self.cache.pages.free_pages(pfn, 0)

    def end_request(self, req: FuseRequest, task: Task) -> None:
        """A background request has its answer: end its pages' I/O and give its memory back."""
        self.requests.free(self._objects.pop(req.unique))
        cache, mapping = self.cache, req.mapping
        if req.opcode == FUSE_READ:
            self.reader.end_read(mapping, req.indices, req.versions, error=req.error, task=task)
            return
        if not req.error:
            cache.note_stored(mapping, req.indices, np.array(req.versions, dtype=np.int64))
        if not req.temp:
            cache.end_writeback(mapping, req.indices, error=req.error, task=task)
            return
        del self._writes[req.unique]
        self.nr_writeback_temp -= req.nr_pages
        self._free_temp(req.temp)
        cache.writeout_ended(mapping, req.indices, error=req.error)
        self._page_waitq.wake_all()

    async def write_inode(self, task: Task, mapping: Mapping, *, sync: bool) -> int:
        """Wait for the copies on their way and have the server make the file durable (fuse_fsync)."""
        if not sync:
            return 0
        await self.wait_on_page_writeback(task, mapping, 0, mapping.nr_pages)
        return await self.connection.send(task, self.connection.make(FUSE_FSYNC, mapping))

    # -- reading --------------------------------------------------------------------------------------------------

    async def readpages(self, task: Task, mapping: Mapping, indices: npt.NDArray[np.intp], pfns: PfnArray) -> None:
        """Read locked pages by background requests; a copy on its way is newer than what the server has."""
        cuts = [0, *(np.flatnonzero(np.diff(indices) != 1) + 1).tolist(), len(pfns)]
        for start, stop in pairwise(cuts):
            for at in range(start, stop, self.max_pages):
                nr = min(self.max_pages, stop - at)
                index = int(indices[at])
                await self.wait_on_page_writeback(task, mapping, index, index + nr)
                await self.connection.wait_unblocked(task)
                req = self.connection.make(FUSE_READ, mapping, index, nr)
                self._objects[req.unique] = await self.requests.alloc(task, GFP_KERNEL | GFP_NOFAIL)
                self.connection.queue_background(req, task)

    # -- reclaim --------------------------------------------------------------------------------------------------

    def is_dirty_writeback(self, pfns: PfnArray) -> None:  # noqa: ARG002  the port's shape
        """As the pages' flags say."""
        return

    def has_private(self, pfns: PfnArray) -> None:  # noqa: ARG002  the port's shape
        """Its pages have no private data."""
        return

    async def release_folios(self, task: Task, pfns: PfnArray, gfp: int) -> npt.NDArray[np.bool_]:  # noqa: ARG002
        """There is nothing to give up."""
        return np.ones(len(pfns), dtype=np.bool_)

    def forget_folios(self, pfns: PfnArray) -> None:
        """Nothing belongs to its pages."""

    # -- looking in -----------------------------------------------------------------------------------------------

    def needs_page(self, mapping: Mapping, index: int) -> list[Provider | Task]:
        """Say who could end the I/O of a page: the server, by answering the request it is in."""
        connection = self.connection
        for req in connection.outstanding.values():
            if req.mapping is mapping and req.index <= index < req.index + req.nr_pages:
                return [connection.needs(req)]
        return connection.providers()

    def notes(self) -> list[str]:
        """Say what the copies cost, and whether the server is gone."""
        found = []
        if self.nr_writeback_temp_max:
            found.append(
                f"{self.name}: up to {self.nr_writeback_temp_max} temporary pages were on their way to the server at "
                "once (nr_writeback_temp), which nobody can reclaim"
            )
        if not self.connection.connected:
            found.append(f"{self.name}: the server is gone; what it had not answered has failed")
        return found

    def lost_writes(self) -> list[str]:
        """Return where the server's file does not hold the newest content that it has acknowledged."""
        found = []
        for mapping in self.cache.mappings.values():
            backing = mapping.private
            if mapping.fs is not self or not isinstance(backing, Mapping):
                continue
            nr = min(mapping.nr_pages, backing.nr_pages)
            busy = mapping.tags[:nr] & np.uint8(TAG_WRITEBACK) != 0
            for req in self.connection.outstanding.values():
                if req.mapping is mapping:
                    busy[req.index : req.index + req.nr_pages] = True
            for index in np.flatnonzero((mapping.stored[:nr] != backing.version[:nr]) & ~busy).tolist():
                held = int(backing.version[index])
                if self.cache.is_lost(mapping, index, held):
                    found.append(
                        f"{mapping.name} page {index}: the server holds version {held}, acknowledged was "
                        f"{int(mapping.stored[index])}"
                    )
        return found

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (self.nr_writeback_temp, self.connection.digest())
