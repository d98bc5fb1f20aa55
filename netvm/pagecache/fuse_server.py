"""The server of a FUSE mount: a process of this host with one thread, which keeps its files in the file system below.

It is what libfuse's single-threaded loop and a pass-through file system do: read a request from /dev/fuse into a buffer
of its own, carry it out with ordinary system calls on a file below, write the answer. It is a program like any other.
Its buffer is anonymous memory that may be swapped out; its writes allocate page cache with full masks, so it reclaims
like anybody and is held back for dirt like anybody; it can be killed, and then whatever it had not answered fails.

PR_SET_IO_FLUSHER (5.6, ``io_flusher_servers``) makes it a part of the storage: it allocates in a NOIO scope, so that
its reclaim starts no I/O and waits for none, and is held back for the dirt of the device below alone.

# MODEL: one thread; requests are carried out in order; no splice, so every page is copied in and out.
"""

from typing import TYPE_CHECKING

from netvm.errors import Errno
from netvm.mm.gfp import PF_LOCAL_THROTTLE, PF_MEMALLOC_NOIO
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.fuse import FUSE_FSYNC, FUSE_READ, FuseConnection, FuseRequest
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.ports import FileSystem
from netvm.pagecache.readahead import FileReader, ReadAhead
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.mm.address_space import AddressSpace
    from netvm.mm.memory import Memory

__all__ = ["FuseServer"]


class FuseServer:
    """The process that serves one mount."""

    def __init__(
        self,
        cache: PageCache,
        reader: FileReader,
        connection: FuseConnection,
        lower: FileSystem,
        *,
        buffer_pages: int,
        oom_score_adj: int,
        memory_group: str = "",
    ) -> None:
        self.cache = cache
        self.reader = reader
        self.connection = connection
        self.lower = lower
        self.buffer_pages = buffer_pages
        self.oom_score_adj = oom_score_adj
        self.memory_group = memory_group
        self._ra: dict[int, ReadAhead] = {}
        self._seen_errors: dict[int, int] = {}

    async def serve(self, task: Task, memory: "Memory") -> None:
        """Mount, and answer one request after another until the end (fuse_session_loop)."""
        self.connection.server = task
        memcg = self.cache.pages.memcg
        if memcg is not None and self.memory_group:
            memcg.attach(task, self.memory_group)
        if self.cache.pages.fixes.io_flusher_servers:
            task.flags |= PF_MEMALLOC_NOIO | PF_LOCAL_THROTTLE
        space = memory.map_anonymous(task, self.buffer_pages, oom_score_adj=self.oom_score_adj)
        try:
            alive = await memory.touch_run(task, space, 0, space.nr_pages, write=True)
            while alive:
                req = await self.connection.read(task)
                alive = await self._answer(task, memory, space, req)
                if task.cpus is not None:
                    await task.cpus.cond_resched(task)
        finally:
            if not self.cache.world.stopped:
                self.connection.abort(task)
                memory.exit_mmap(space)

    async def _answer(self, task: Task, memory: "Memory", space: "AddressSpace", req: FuseRequest) -> bool:
        """Carry one request out; False if the process must die."""
        costs = self.cache.costs
        nr_pages = min(req.nr_pages, self.buffer_pages)
        task.charge_ns += costs.server_request + nr_pages * costs.copy_page
        # the request is copied into the buffer, which may have to be faulted in first; an answer is copied out of it
        if nr_pages and not await memory.touch_run(task, space, 0, nr_pages, write=True):
            return False
        error = await self._carry_out(task, req)
        if task.killed:
            return False
        self.connection.end(req, error, task)
        return True

    async def _carry_out(self, task: Task, req: FuseRequest) -> int:
        backing = self._open(req.mapping)
        if req.opcode == FUSE_READ:
            return await self._read(task, backing, req)
        if req.opcode == FUSE_FSYNC:
            error, seen = await self.cache.fsync(task, backing, self._seen_errors.get(backing.id, 0))
            self._seen_errors[backing.id] = seen
            return error
        return await self.cache.generic_file_write_iter(
            task, backing, req.index, req.nr_pages, content=list(req.versions)
        )

    def _open(self, mapping: Mapping) -> Mapping:
        """Return the file below, made when it is first heard of."""
        backing = mapping.private
        if backing is None:
            backing = mapping.private = self.cache.create(self.lower, f"{self.connection.name}:{mapping.name}")
        assert isinstance(backing, Mapping)
        return backing

    async def _read(self, task: Task, backing: Mapping, req: FuseRequest) -> int:
        """Read from the file below; what lies behind its end is zero."""
        there = max(0, min(req.nr_pages, backing.nr_pages - req.index))
        error = 0
        if there:
            ra = self._ra.setdefault(backing.id, ReadAhead())
            error = await self.reader.filemap_read(task, backing, ra, req.index, there)
        if error:
            return error if error != -Errno.EINTR else -int(Errno.EIO)
        req.versions = [*backing.version[req.index : req.index + there].tolist(), *([0] * (req.nr_pages - there))]
        return 0
