"""The flusher: which files are written back, when, and how much of each at once.

Mirrors fs/fs-writeback.c of 6.1: ``wb_workfn`` on the ``writeback`` workqueue (unbound, with a rescuer), one work item
a device. It serves, in this order, explicit works (sync), a wake-up of all flushers by reclaim, data that is older
than ``dirty_expire``, and background writeback while the system or the device is over its background threshold.

Files wait on ``b_dirty`` by the time they were first dirtied; ``queue_io`` moves those that are due to ``b_io``; one
that has used up its chunk goes to ``b_more_io`` for the next round. A chunk is half a second of the device's bandwidth
or an eighth of the dirty limit, rounded to 4 MiB. It goes on while it writes anything and there is too much dirt.
Before 3.1 (``flusher_tries_more``) a round that wrote less than it might was the last, and what came in meanwhile was
left to whoever would wake it next.

A flusher has no PF_MEMALLOC: it allocates bios with GFP_NOFS like anybody and may end up in direct reclaim.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from netvm.errors import Errno
from netvm.pagecache.bdi import BackingDevice, jiffies
from netvm.pagecache.mapping import TAG_WRITEBACK
from netvm.pagecache.ports import WB_SYNC_ALL, WB_SYNC_NONE, WritebackControl
from netvm.pagecache.throttle import DirtyThrottle
from netvm.pagecache.writeback_trace import WritebackTrace
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.workqueue import WorkItem, Workqueue
from netvm.runtime.world import World
from netvm.units import HZ, NS_PER_MS, PAGE_SHIFT

if TYPE_CHECKING:
    from netvm.pagecache.mapping import Mapping

__all__ = ["MIN_WRITEBACK_PAGES", "Flusher", "WritebackWork"]

MIN_WRITEBACK_PAGES: Final = 4096 >> (PAGE_SHIFT - 10)
MAX_WRITEBACK_PAGES: Final = 1024
"""What a round wrote at most, before 3.1."""
DIRTY_SCOPE: Final = 8
LONG_MAX: Final = (1 << 63) - 1


@dataclass(slots=True, kw_only=True)
class WritebackWork:
    """One order to a flusher (``struct wb_writeback_work``)."""

    nr_pages: int
    sync_mode: int = WB_SYNC_NONE
    tagged_writepages: bool = False
    for_kupdate: bool = False
    for_background: bool = False
    range_cyclic: bool = True
    reason: str = "background"
    done: WaitQueue | None = None
    """Who waits for its end (wb_completion)."""
    is_done: bool = False


@dataclass(slots=True)
class _State:
    """What a flusher keeps for one device."""

    wb: BackingDevice
    item: WorkItem
    works: list[WritebackWork] = field(default_factory=list)
    start_all: str = ""
    """Reason of a pending wakeup_flusher_threads (WB_start_all)."""
    timer: TimerHandle | None = None
    last_old_flush: int = 0

    def workers(self) -> list[Task]:
        """Return who runs it now."""
        worker = self.item.running_on
        return [worker.task] if worker is not None and worker.task is not None else []


class Flusher:
    """The flushers of all devices of a host."""

    def __init__(self, world: World, throttle: DirtyThrottle, queue: Workqueue) -> None:
        self.world = world
        self.throttle = throttle
        self.queue = queue
        self._states: dict[str, _State] = {}
        self._inode_wait = WaitQueue(world, Resource("lock", "I_SYNC: writeback of an inode"))
        self.fdatawait: Callable[[Task, Mapping], Awaitable[None]]
        """Waits for a file's pages under writeback (the page cache's)."""
        self.mappings: dict[int, Mapping] = {}
        """All files of the host by their id (the page cache's)."""
        self.nr_chunks = 0
        """Rounds of writeback_sb_inodes over one file: writeback_start and writeback_written pairs."""
        self.tracer: WritebackTrace | None = None
        throttle.flusher = self

    def add_device(self, wb: BackingDevice) -> None:
        """Give a device its flusher (wb_init)."""

        async def wb_workfn(task: Task) -> None:
            await self.wb_workfn(task, self._states[wb.name])

        item = WorkItem(f"wb_workfn (flush-{wb.name})", wb_workfn)
        self._states[wb.name] = _State(wb, item, last_old_flush=jiffies(self.world))

    # -- waking it ------------------------------------------------------------------------------------------------

    def start_background_writeback(self, wb: BackingDevice) -> None:
        """Wake a device's flusher; it looks at the thresholds itself (wb_start_background_writeback)."""
        self._wakeup(self._states[wb.name])

    def wakeup_flusher_threads(self, reason: str) -> None:
        """Have every device with dirty files write all of what is dirty now (wakeup_flusher_threads)."""
        for state in self._states.values():
            if state.wb.has_dirty_io() and not state.start_all:
                state.start_all = reason
                self._wakeup(state)

    def queue_work(self, wb: BackingDevice, work: WritebackWork) -> None:
        """Give a flusher an order (wb_queue_work)."""
        state = self._states[wb.name]
        state.works.append(work)
        self._wakeup(state)

    def _wakeup(self, state: _State) -> None:
        self.queue.queue_work(state.item)

    def mark_inode_dirty(self, mapping: "Mapping") -> None:
        """Put a file on b_dirty with its first dirty page, and see to it that it expires (__mark_inode_dirty)."""
        if mapping.io_list or mapping.syncing:
            return
        wb = mapping.fs.bdi
        was_clean = not wb.has_dirty_io()
        mapping.dirtied_when_ns = self.world.now_ns
        self._move(mapping, "b_dirty")
        if self.tracer is not None:
            self.tracer.dirty_inode(mapping)
        if was_clean:
            self._wakeup_delayed(self._states[wb.name])

    def _wakeup_delayed(self, state: _State) -> None:
        interval_ns = self.throttle.sysctls.writeback_centisecs * 10 * NS_PER_MS
        if not interval_ns or (state.timer is not None and self.world.is_pending(state.timer)):
            return
        # files that are still too young will be written by and by; else the flusher only looks again
        kind = TimerKind.PROGRESS if self._has_young_files(state.wb) else TimerKind.RETRY
        site = f"wb_wakeup_delayed {state.wb.name}"
        state.timer = self.world.call_after(self.world.wheel_ns(interval_ns), self._wakeup, state, kind=kind, site=site)

    def _has_young_files(self, wb: BackingDevice) -> bool:
        """Whether a dirty file of a device is not old enough yet to be written for its age."""
        old_ns = self.world.now_ns - self.throttle.sysctls.expire_centisecs * 10 * NS_PER_MS
        return any(mapping.dirtied_when_ns > old_ns for mapping in wb.b_dirty)

    def _move(self, mapping: "Mapping", to: str) -> None:
        """Move a file to the end of one of its device's lists, or off them."""
        wb = mapping.fs.bdi
        if mapping.io_list:
            getattr(wb, mapping.io_list).remove(mapping)
        mapping.io_list = to
        if to:
            getattr(wb, to).append(mapping)

    # -- the work -------------------------------------------------------------------------------------------------

    async def wb_workfn(self, task: Task, state: _State) -> None:
        """Do what there is to do for one device, and be woken again for what is not due yet."""
        wb = state.wb
        while True:
            wb.in_progress = True
            await self._do_writeback(task, state)
            wb.in_progress = False
            if not state.works:
                break
        if wb.has_dirty_io():
            self._wakeup_delayed(state)

    async def _do_writeback(self, task: Task, state: _State) -> None:
        """Orders first, then reclaim's wish, then old data, then the background (wb_do_writeback)."""
        wb = state.wb
        while state.works:
            work = state.works.pop(0)
            await self.wb_writeback(task, state, work)
            work.is_done = True
            if work.done is not None:
                work.done.wake_all()
        if state.start_all:
            work = WritebackWork(nr_pages=max(wb.nr_reclaimable, 1), reason=state.start_all)
            await self.wb_writeback(task, state, work)
            state.start_all = ""
        await self._check_old_data_flush(task, state)
        if self.throttle.over_bg_thresh(wb):
            await self.wb_writeback(task, state, WritebackWork(nr_pages=LONG_MAX, for_background=True))

    async def _check_old_data_flush(self, task: Task, state: _State) -> None:
        interval = self.throttle.sysctls.writeback_centisecs * HZ // 100
        now = jiffies(self.world)
        if not interval or now < state.last_old_flush + interval:
            return
        state.last_old_flush = now
        nr_pages = self.throttle.vmstat.nr_dirty
        if nr_pages:
            work = WritebackWork(nr_pages=nr_pages, for_kupdate=True, reason="periodic")
            await self.wb_writeback(task, state, work)

    async def wb_writeback(self, task: Task, state: _State, work: WritebackWork) -> None:
        """Write until the order is carried out or nothing is left of it."""
        wb = state.wb
        while work.nr_pages > 0:
            if (work.for_background or work.for_kupdate) and state.works:
                break
            if work.for_background and not self.throttle.over_bg_thresh(wb):
                break
            if self.tracer is not None:
                self.tracer.work(task, wb, work, over=False)
            if not wb.b_io:
                self._queue_io(task, wb, work)
            nr_left = work.nr_pages
            progress = await self._writeback_sb_inodes(task, wb, work)
            if self.tracer is not None:
                self.tracer.work(task, wb, work, over=True)
            is_last = nr_left - work.nr_pages < MAX_WRITEBACK_PAGES and not wb.b_more_io
            if progress and (self.throttle.fixes.flusher_tries_more or not is_last):
                continue
            if not wb.b_more_io:
                break
            # nothing could be written now: wait for whoever writes one of these files
            mapping = wb.b_more_io[-1]
            if mapping.syncing:
                await self._inode_wait.wait(task)
            elif not mapping.nr_dirty:
                self._move(mapping, "")
            else:
                break

    def _queue_io(self, task: Task, wb: BackingDevice, work: WritebackWork) -> None:
        """Move what is due from b_dirty, and what was put off from b_more_io, to b_io (queue_io)."""
        before_ns = self.world.now_ns
        if work.for_kupdate:
            before_ns -= self.throttle.sysctls.expire_centisecs * 10 * NS_PER_MS
        for mapping in list(wb.b_more_io):
            self._move(mapping, "b_io")
        due = [mapping for mapping in wb.b_dirty if mapping.dirtied_when_ns <= before_ns]
        for mapping in due:
            self._move(mapping, "b_io")
        if self.tracer is not None:
            self.tracer.queue_io(task, wb, before_ns, len(due), work.reason)

    def chunk_size(self, wb: BackingDevice, work: WritebackWork) -> int:
        """Return how many pages of one file to write before the next has its turn (writeback_chunk_size)."""
        if work.sync_mode == WB_SYNC_ALL or work.tagged_writepages:
            return LONG_MAX
        pages = min(wb.avg_write_bandwidth // 2, self.throttle.dirty_limit // DIRTY_SCOPE, work.nr_pages)
        return (pages + MIN_WRITEBACK_PAGES) // MIN_WRITEBACK_PAGES * MIN_WRITEBACK_PAGES

    async def _writeback_sb_inodes(self, task: Task, wb: BackingDevice, work: WritebackWork) -> int:
        """Write files of b_io, a chunk each, for a tenth of a second; return pages written or files finished."""
        start = jiffies(self.world)
        progress = 0
        while wb.b_io:
            mapping = wb.b_io[0]
            if mapping.syncing and work.sync_mode != WB_SYNC_ALL:
                self._move(mapping, "b_more_io")
                continue
            while mapping.syncing:
                await self._inode_wait.wait(task)
            chunk = self.chunk_size(wb, work)
            wbc = WritebackControl(
                nr_to_write=chunk,
                sync_mode=work.sync_mode,
                range_cyclic=work.range_cyclic,
                tagged_writepages=work.tagged_writepages,
                for_kupdate=work.for_kupdate,
                for_background=work.for_background,
                reason=work.reason,
            )
            self._move(mapping, "")
            self.nr_chunks += 1
            if self.tracer is not None:
                self.tracer.single_inode(task, mapping, wbc, chunk, over=False)
            try:
                await self.writeback_single_inode(task, mapping, wbc)
            finally:
                self._requeue_inode(mapping, wbc)
            if self.tracer is not None:
                self.tracer.single_inode(task, mapping, wbc, chunk, over=True)
            written = chunk - wbc.nr_to_write
            work.nr_pages -= written
            progress += written + (not mapping.nr_dirty)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
            if jiffies(self.world) > start + HZ // 10 or work.nr_pages <= 0:
                break
        return progress

    async def writeback_inodes_wb(self, task: Task, wb: BackingDevice, nr_pages: int) -> int:
        """Write up to so many pages of a device in the caller's context; return how many (writeback_inodes, to 3.1)."""
        work = WritebackWork(nr_pages=nr_pages, reason="background")
        if not wb.b_io:
            self._queue_io(task, wb, work)
        await self._writeback_sb_inodes(task, wb, work)
        if work.nr_pages == nr_pages and task.cpus is not None:
            await task.cpus.cond_resched(task)
        return nr_pages - work.nr_pages

    def cleaners(self, devices: list[BackingDevice]) -> list[Provider | Task]:
        """Say who could bring these devices' dirt down: the writes under way, and flushers that have files to write.

        Pages that wait for a COMMIT count as dirt until 5.8, but once it is sent there is nothing left for a flusher.
        """
        found: list[Provider | Task] = []
        for wb in devices:
            found += self._states[wb.name].workers()
            if wb.has_dirty_io() and not wb.in_progress:
                found.append(Provider(name=f"flush-{wb.name}"))
        return found + self.writers(devices)

    def writers(self, devices: list[BackingDevice] | None = None) -> list[Provider | Task]:
        """Say who could end the writes that are under way, of these devices or of all."""
        found: list[Provider | Task] = []
        for mapping in self.mappings.values():
            if mapping.nr_writeback and (devices is None or mapping.fs.bdi in devices):
                index, _nr = mapping.first_tagged(TAG_WRITEBACK, 0, LONG_MAX, 1)
                found += mapping.fs.needs_page(mapping, index)
        return found

    def _requeue_inode(self, mapping: "Mapping", wbc: WritebackControl) -> None:
        """Put a file that is still dirty where it belongs (requeue_inode)."""
        if mapping.io_list or not mapping.nr_dirty:
            return
        if wbc.nr_to_write <= 0:
            self._move(mapping, "b_more_io")
            return
        # it was blocked, or dirtied meanwhile: let the others go first
        mapping.dirtied_when_ns = self.world.now_ns
        self._move(mapping, "b_dirty")

    async def writeback_single_inode(self, task: Task, mapping: "Mapping", wbc: WritebackControl) -> int:
        """Write a file's pages and what makes them durable; return 0 or a negative errno."""
        mapping.syncing = True
        try:
            error = await do_writepages(task, mapping, wbc)
            sync = wbc.sync_mode == WB_SYNC_ALL
            if sync:
                await self.fdatawait(task, mapping)
            return await mapping.fs.write_inode(task, mapping, sync=sync) or error
        finally:
            mapping.syncing = False
            self._inode_wait.wake_all()

    # -- sync -----------------------------------------------------------------------------------------------------

    async def sync(self, task: Task) -> None:
        """Write everything: first all devices start, then each is waited for (ksys_sync)."""
        self.wakeup_flusher_threads("sync")
        for state in list(self._states.values()):
            done = WaitQueue(self.world, Resource("work", f"sync: flush-{state.wb.name}", state.workers))
            work = WritebackWork(nr_pages=LONG_MAX, sync_mode=WB_SYNC_ALL, range_cyclic=False, reason="sync", done=done)
            self.queue_work(state.wb, work)
            while not work.is_done:
                await done.wait(task)


async def do_writepages(task: Task, mapping: "Mapping", wbc: WritebackControl) -> int:
    """Have the file system write a file's dirty pages, estimating the device's bandwidth around it (do_writepages)."""
    wb = mapping.fs.bdi
    if wbc.nr_to_write <= 0:
        return 0
    wb.bandwidth_estimate_start()
    while True:
        error = await mapping.fs.writepages(task, mapping, wbc)
        if error != -Errno.ENOMEM or wbc.sync_mode != WB_SYNC_ALL:
            break
        await task.world.sleep_ns(task, NS_PER_MS * 20, Resource("memory", "reclaim_throttle: writepages"))
    if wb.is_estimate_due():
        wb.update_bandwidth()
    return error
