"""The loop driver: a block device whose blocks are the pages of a file.

Mirrors drivers/block/loop.c with buffered I/O: a request is handed to a worker of the device's own workqueue, which
writes it into the page cache of the file below (``lo_write_simple``), or reads it from there, and completes it. So the
pages of the file system above are clean as soon as they have been copied down, and dirty there: every page is dirtied
twice, and two throttles measure each other.

The worker writes like any program and is held back like one, unless it is marked by PF_LESS_THROTTLE
(``loop_less_throttle``, 4.13), which PF_LOCAL_THROTTLE replaced; and it enters reclaim with full flags, which may wait
for pages that only it can clean, unless it runs in a NOIO scope (``loop_noio``, 5.4).

# MODEL: one worker a device, as before 5.13 (one a cgroup since); whole pages; no flush or discard.
"""

from collections import deque
from typing import Any

from netvm.block.blk_mq import BLK_STS_OK, Request, RequestQueue, errno_to_blk_status
from netvm.fixes import Fixes
from netvm.mm.gfp import PF_LOCAL_THROTTLE, PF_MEMALLOC_NOIO
from netvm.pagecache.filemap import PageCache
from netvm.pagecache.mapping import Mapping
from netvm.pagecache.readahead import FileReader, ReadAhead
from netvm.runtime.task import Provider, Task
from netvm.runtime.workqueue import WorkItem, Workqueue

__all__ = ["LoopDevice"]


class LoopDevice:
    """``/dev/loop0``."""

    blocking = False

    def __init__(
        self, cache: PageCache, reader: FileReader, backing: Mapping, *, name: str, workqueue: Workqueue, fixes: Fixes
    ) -> None:
        self.cache = cache
        self.reader = reader
        self.backing = backing
        self.name = name
        self.workqueue = workqueue
        self.fixes = fixes
        self.queue: RequestQueue
        self._commands: deque[Request] = deque()
        self._work = WorkItem(f"loop_workfn {name}", self.loop_workfn)
        self._ra = ReadAhead()
        self.nr_done = 0

    async def queue_rq(self, task: Task, rq: Request) -> int:  # noqa: ARG002  the driver's shape
        """Hand a request to the worker."""
        return self.queue_rq_nowait(rq)

    def queue_rq_nowait(self, rq: Request) -> int:
        """Hand a request to the worker (loop_queue_rq)."""
        self._commands.append(rq)
        self.workqueue.queue_work(self._work)
        return BLK_STS_OK

    async def loop_workfn(self, task: Task) -> None:
        """Serve requests in order (loop_process_work)."""
        flags = PF_LOCAL_THROTTLE if self.fixes.loop_less_throttle else 0
        flags |= PF_MEMALLOC_NOIO if self.fixes.loop_noio else 0
        saved = task.flags
        task.flags |= flags
        while self._commands:
            rq = self._commands.popleft()
            error = await (self.lo_write_simple(task, rq) if rq.write else self.lo_read_simple(task, rq))
            self.nr_done += 1
            task.charge_ns += self.cache.costs.complete_request
            self.queue.end_request(rq, errno_to_blk_status(error), task)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        task.flags = saved

    async def lo_write_simple(self, task: Task, rq: Request) -> int:
        """Copy a request's pages into the file below."""
        return await self.cache.generic_file_write_iter(task, self.backing, rq.slot, rq.nr_pages, content=rq.versions)

    async def lo_read_simple(self, task: Task, rq: Request) -> int:
        """Copy a request's pages out of the file below."""
        error = await self.reader.filemap_read(task, self.backing, self._ra, rq.slot, rq.nr_pages)
        rq.versions = self.backing.version[rq.slot : rq.end_slot].tolist()
        return error

    def needs(self, rq: Request) -> Provider:
        """A request waits for the worker, or for one to be free."""
        runner = self._work.running_on
        if runner is not None and runner.task is not None:
            return Provider(name=f"{self.name}: {rq}, with its worker", needs=(runner.task,))
        return Provider(name=f"{self.name}: {rq}, queued", needs=(self.workqueue.pool.needs_worker,))

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self._commands), self.nr_done)
