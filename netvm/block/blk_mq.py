"""The request queue: plugging, merging, tags, and dispatch.

Mirrors block/blk-mq.c, blk-merge.c and blk-core.c of 6.1 for a device with one hardware queue. A bio is merged into
the most recent request of its task's plug, then into a request that waits in the elevator
(:mod:`netvm.block.mq_deadline`); else it takes a scheduler tag (:mod:`netvm.block.sbitmap`) and becomes a request of
its own. A plug is flushed when its last request is full (128 KiB), when it holds 32 requests, when its owner is through
(``blk_finish_plug``) or sleeps. A request that is dispatched takes a driver tag. The requests themselves are
preallocated: no memory is needed from here to the driver.

A driver that may sleep in ``queue_rq`` (NBD) is always run by kblockd, one request after another; one that does not
is run by whoever flushes the plug, or by kblockd when that was done while going to sleep.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

from netvm.block.blk_wbt import RqWait, Wbt
from netvm.block.mq_deadline import MqDeadline
from netvm.block.plug import Plug
from netvm.block.sbitmap import SbitmapQueue
from netvm.errors import Errno
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.workqueue import WorkItem, Workqueue
from netvm.runtime.world import World
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of
from netvm.units import NS_PER_MS, NS_PER_S

__all__ = [
    "BLK_STS_IOERR",
    "BLK_STS_NOSPC",
    "BLK_STS_OK",
    "BLK_STS_RESOURCE",
    "BlockDriver",
    "Request",
    "RequestQueue",
    "blk_status_to_errno",
    "errno_to_blk_status",
]

_REQUEST_ISSUE: Final = number_of("request_issue")
_REQUEST_SENT: Final = number_of("request_sent")
_REQUEST_COMPLETE: Final = number_of("request_complete")

BLK_STS_OK: Final = 0
BLK_STS_NOSPC: Final = 3
BLK_STS_RESOURCE: Final = 9
BLK_STS_IOERR: Final = 10

BLK_MAX_REQUEST_COUNT: Final = 32
BLK_PLUG_FLUSH_PAGES: Final = 32
BLK_MQ_RESOURCE_DELAY_NS: Final = 3 * NS_PER_MS
BLK_TIMEOUT_NS: Final = 30 * NS_PER_S
OVERTAKEN_NS: Final = NS_PER_MS
"""How late a request completes that others overtake (a mishap)."""


class Request:
    """A run of consecutive pages of the device, read or written together (``struct request``)."""

    __slots__ = (
        "bios",
        "cookie",
        "end_io",
        "number",
        "opf",
        "pfns",
        "queued_ns",
        "rq_wait",
        "slot",
        "started_ns",
        "versions",
        "write",
    )

    def __init__(
        self, *, write: bool, slot: int, pfns: list[int], bios: list[int], versions: list[int], opf: int = 0
    ) -> None:
        self.write = write
        self.opf = opf
        """``REQ_*`` of its first bio (:mod:`netvm.block.blk_wbt`)."""
        self.slot = slot
        """First page of the device."""
        self.pfns = pfns
        self.bios = bios
        self.versions = versions
        """Content of each page written, or received."""
        self.rq_wait: RqWait | None = None
        """Whose write token it has."""
        self.number = 0
        self.queued_ns = 0
        self.started_ns = 0
        self.cookie: Any = None
        """The driver's own."""
        self.end_io: Callable[[Request, int, Task], None] | None = None

    @property
    def nr_pages(self) -> int:
        """Length in pages."""
        return len(self.pfns)

    @property
    def end_slot(self) -> int:
        """First page after it."""
        return self.slot + len(self.pfns)

    def append(self, following: "Request", nr: int) -> None:
        """Take the first pages of what follows in the device."""
        self.extend(following.pfns[:nr], following.bios[:nr], following.versions[:nr])

    def extend(self, pfns: list[int], bios: list[int], versions: list[int]) -> None:
        """Take pages that follow in the device."""
        self.pfns += pfns
        self.bios += bios
        self.versions += versions

    def prepend(self, before: "Request") -> None:
        """Take the pages right before it in the device."""
        self.slot = before.slot
        self.pfns[:0] = before.pfns
        self.bios[:0] = before.bios
        self.versions[:0] = before.versions

    def drop(self, nr: int) -> None:
        """Leave out the first pages: they have gone elsewhere."""
        self.slot += nr
        del self.pfns[:nr], self.bios[:nr], self.versions[:nr]

    def __repr__(self) -> str:
        return f"<rq{self.number} {'WRITE' if self.write else 'READ'} {self.slot}+{len(self.pfns)}>"


def errno_to_blk_status(errno: int) -> int:
    """Return the status of a request that ended with an errno, whatever its sign."""
    if not errno:
        return BLK_STS_OK
    return BLK_STS_NOSPC if abs(errno) == Errno.ENOSPC else BLK_STS_IOERR


def blk_status_to_errno(status: int) -> int:
    """Return what a status means to whoever submitted: 0 or a negative errno."""
    if status == BLK_STS_OK:
        return 0
    return -Errno.ENOSPC if status == BLK_STS_NOSPC else -Errno.EIO


class BlockDriver(Protocol):
    """What a storage driver gives the queue (``struct blk_mq_ops``)."""

    name: str
    blocking: bool
    """BLK_MQ_F_BLOCKING: queue_rq may sleep."""

    async def queue_rq(self, task: Task, rq: Request) -> int:
        """Send a request; return BLK_STS_OK, or BLK_STS_RESOURCE to get it again later."""
        ...

    def queue_rq_nowait(self, rq: Request) -> int:
        """Send a request without sleeping (drivers that are not ``blocking``)."""
        ...

    def needs(self, rq: Request) -> Provider:
        """Say what an outstanding request waits for, as far as this host provides it."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...


class RequestQueue:
    """The queue of one device."""

    def __init__(
        self,
        world: World,
        name: str,
        driver: BlockDriver,
        *,
        kblockd: Workqueue,
        costs: CpuCosts,
        max_pages: int,
        nr_requests: int,
        queue_depth: int,
        wake_singly: bool,
    ) -> None:
        self.world = world
        self.name = name
        self.driver = driver
        self.costs = costs
        self.max_pages = max_pages
        self.queue_depth = queue_depth
        self.kblockd = kblockd
        self.run_work = WorkItem(f"blk_mq_run_work_fn {name}", self.blk_mq_run_work_fn)
        self.timeout_work = WorkItem(f"blk_mq_timeout_work {name}", self.blk_mq_timeout_work)
        self._overtaken: set[int] = set()
        self.outstanding: dict[int, Request] = {}
        """Requests the driver has, by number."""
        self.tracer: Recorder | None = None
        self.wbt: Wbt | None = None
        """Its writeback throttle; None: it has none (CONFIG_BLK_WBT=n, or wbt_lat_usec is 0)."""
        self.completed = 0
        self.failed = 0
        self._next_number = 1
        self._elevator = MqDeadline(world, max_pages=max_pages, joined=self._put_joined)
        self._dispatch: list[Request] = []
        self._rerun: TimerHandle | None = None
        self._timeout: TimerHandle | None = None
        self.tag = Resource("request", f"{name}: request tag ({nr_requests})", self.providers)
        min_shallow_depth = 1 if wake_singly else 3 * nr_requests // 4
        self.sched_tags = SbitmapQueue(world, self.tag, nr_requests, min_shallow_depth=min_shallow_depth)

    def providers(self) -> list[Provider | Task]:
        """Return what each request under way waits for: they give back tags, tokens and bios.

        Where the driver has none it is those that wait for it, or for a worker to send them.
        """
        if self.outstanding or not self.nr_queued:
            return [self.driver.needs(rq) for rq in self.outstanding.values()]
        worker = self.run_work.running_on
        if worker is None and not self.run_work.pending:
            return [self.driver.needs(rq) for rq in self._dispatch]
        needs = worker.task if worker is not None and worker.task is not None else self.kblockd.pool.needs_worker
        return [Provider(name=f"{self.name}: {self.nr_queued} requests in the queue", needs=(needs,))]

    @property
    def nr_queued(self) -> int:
        """Requests that wait in the elevator."""
        return len(self._elevator) + len(self._dispatch)

    def start_plug(self, task: Task) -> Plug:
        """Begin to collect a task's requests (blk_start_plug)."""
        return Plug(self, task)

    # -- submission -----------------------------------------------------------------------------------------------

    async def submit_pages(
        self,
        task: Task,
        plug: Plug,
        *,
        write: bool,
        slot: int,
        pfns: list[int],
        bios: list[int],
        versions: list[int],
        end_io: Callable[[Request, int, Task], None],
        opf: int = 0,
    ) -> None:
        """Submit one-page bios for consecutive pages of the device, merging as they go; may sleep for a tag."""
        rest = Request(write=write, slot=slot, pfns=pfns, bios=bios, versions=versions, opf=opf)
        rest.end_io = end_io
        while rest.pfns:
            taken = self._plug_merge(plug, rest) or self._elevator.merge(rest)
            if not taken:
                rq_wait = None if self.wbt is None else await self.wbt.wbt_wait(task, opf, write=write)
                await self.sched_tags.get(task)
                rq = self._make_request(rest)
                rq.rq_wait = rq_wait
                taken = rq.nr_pages
                self._add_rq_to_plug(plug, rq)
            rest.drop(taken)
            if rest.pfns and task.cpus is not None:
                # what is left of a bio that was split is submitted anew (submit_bio_noacct, might_sleep)
                await task.cpus.cond_resched(task)

    def try_plug_merge(
        self,
        plug: Plug,
        slot: int,
        pfns: list[int],
        bios: list[int],
        versions: list[int],
        end_io: object,
    ) -> bool:
        """Merge writes of a page at the end of the plug's last request if all fit: most calls of :meth:`submit_pages`.

        It takes neither a tag nor a request of its own, so it cannot sleep and needs no coroutine.
        """
        rq = self._last_with_room(plug, slot, end_io)
        if rq is None or len(rq.pfns) + len(pfns) > self.max_pages:
            return False
        rq.extend(pfns, bios, versions)
        return True

    def room(self, plug: Plug, slot: int, end_io: object, nr: int) -> int:
        """Return how many of so many pages written from a slot on could be merged: neither tag nor sleep is needed.

        Into the plug's last request, or if that does not end there, one that waits in the elevator.
        """
        rq = self._last_with_room(plug, slot, end_io)
        return min(nr, self.max_pages - len(rq.pfns)) if rq else self._elevator.room_behind(slot, end_io, nr)

    def merge(
        self, plug: Plug, slot: int, pfns: list[int], bios: list[int], versions: list[int], end_io: object
    ) -> None:
        """Merge pages for which there is :meth:`room`."""
        rq = self._last_with_room(plug, slot, end_io)
        if rq is None:
            self._elevator.merge_behind(slot, pfns, bios, versions)
            return
        rq.extend(pfns, bios, versions)

    def _last_with_room(self, plug: Plug, slot: int, end_io: object) -> Request | None:
        """Return the plug's last request if writes from this slot on can be merged at its end."""
        rq = plug.requests[-1] if plug.requests else None
        if rq is None or rq.slot + len(rq.pfns) != slot or not rq.write or rq.end_io != end_io:
            return None
        return rq if len(rq.pfns) < self.max_pages else None

    def _plug_merge(self, plug: Plug, bios: Request) -> int:
        """Merge at the end of the plug's last request (blk_attempt_plug_merge); return pages merged."""
        rq = plug.requests[-1] if plug.requests else None
        if rq is None or rq.write is not bios.write or rq.end_slot != bios.slot or rq.end_io != bios.end_io:
            return 0
        taken = min(len(bios.pfns), self.max_pages - len(rq.pfns))
        rq.append(bios, taken)
        return taken

    def _make_request(self, bios: Request) -> Request:
        """Make a request of the first bios, as many as it may have."""
        nr = self.max_pages
        rq = Request(
            write=bios.write,
            slot=bios.slot,
            pfns=bios.pfns[:nr],
            bios=bios.bios[:nr],
            versions=bios.versions[:nr],
            opf=bios.opf,
        )
        rq.number = self._next_number
        self._next_number += 1
        rq.queued_ns = self.world.now_ns
        rq.end_io = bios.end_io
        return rq

    def _put_joined(self, rq: Request) -> None:
        """A request has become part of another."""
        rq.pfns = rq.bios = rq.versions = []
        self.sched_tags.put()
        if self.wbt is not None:
            self.wbt.done(rq)

    def _add_rq_to_plug(self, plug: Plug, rq: Request) -> None:
        if plug.requests and (
            len(plug.requests) >= BLK_MAX_REQUEST_COUNT or plug.requests[-1].nr_pages >= BLK_PLUG_FLUSH_PAGES
        ):
            plug.flush(from_schedule=False)
        plug.requests.append(rq)

    def insert_requests(self, requests: list[Request], *, async_run: bool) -> None:
        """Hand requests to the elevator and run the queue (blk_mq_sched_insert_requests)."""
        for rq in requests:
            self._elevator.insert(rq)
        self.run_hw_queue(async_run=async_run)

    # -- dispatch -------------------------------------------------------------------------------------------------

    def run_hw_queue(self, *, async_run: bool) -> None:
        """Dispatch now, or have kblockd do it (blk_mq_run_hw_queue)."""
        if self.driver.blocking or async_run:
            self.kblockd.queue_work(self.run_work)
            return
        while self._can_dispatch():
            rq = self._next_request()
            self._start(rq)
            if self.driver.queue_rq_nowait(rq) == BLK_STS_RESOURCE:
                self._requeue(rq)
                return

    async def blk_mq_run_work_fn(self, task: Task) -> None:
        """Dispatch requests one after another until none can go (kblockd)."""
        while self._can_dispatch():
            rq = self._next_request()
            task.charge_ns += self.costs.dispatch_request
            if self.driver.blocking:
                self._start(rq)
                status = await self.driver.queue_rq(task, rq)
            else:
                self._start(rq)
                status = self.driver.queue_rq_nowait(rq)
            if self.tracer is not None and status == BLK_STS_OK:
                self.tracer.emit(_REQUEST_SENT, task, rq.number)
            if status == BLK_STS_RESOURCE:
                self._requeue(rq)
                return
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    def _can_dispatch(self) -> bool:
        return bool(self._dispatch or self._elevator) and len(self.outstanding) < self.queue_depth

    def _start(self, rq: Request) -> None:
        """Give a request its driver tag (blk_mq_start_request)."""
        rq.started_ns = self.world.now_ns
        self.outstanding[rq.number] = rq
        if self.wbt is not None:
            self.wbt.issue(rq)
        if self.tracer is not None:
            rwbs = self.tracer.name("W" if rq.write else "R")
            self.tracer.emit(_REQUEST_ISSUE, self.world.current, rq.number, rwbs, rq.slot, rq.nr_pages)
        if self._timeout is None or not self.world.is_pending(self._timeout):
            self._timeout = self.world.call_after(BLK_TIMEOUT_NS, self._blk_rq_timed_out, kind=TimerKind.CLOCK)

    def _requeue(self, rq: Request) -> None:
        """Take a request back and try again in a moment, or when another completes."""
        del self.outstanding[rq.number]
        if self.wbt is not None:
            self.wbt.requeue(rq)
        self._dispatch.insert(0, rq)
        if self._rerun is None or not self.world.is_pending(self._rerun):
            site = f"{self.name}: BLK_STS_RESOURCE"
            self._rerun = self.world.call_after(
                self.world.wheel_ns(BLK_MQ_RESOURCE_DELAY_NS), self._run_again, kind=TimerKind.RETRY, site=site
            )

    def _run_again(self) -> None:
        self.run_hw_queue(async_run=True)

    def _next_request(self) -> Request:
        """Choose what goes next: what came back, else what the elevator chooses."""
        return self._dispatch.pop(0) if self._dispatch else self._elevator.next_request()

    # -- completion -----------------------------------------------------------------------------------------------

    def end_request(self, rq: Request, error: int, task: Task) -> None:
        """A request is done: end its bios, give its tags back, run the queue (blk_mq_end_request).

        ``task`` is the context it completes in.
        """
        if self.world.mishaps and rq.number not in self._overtaken and self.world.mishap("complete", 2):
            self._overtaken.add(rq.number)
            self.world.call_after(OVERTAKEN_NS, self.end_request, rq, error, task)
            return
        self._overtaken.discard(rq.number)
        del self.outstanding[rq.number]
        self.sched_tags.put()
        if self.wbt is not None:
            self.wbt.ended(rq)
        self.completed += 1
        if error:
            self.failed += 1
        if self.tracer is not None:
            rwbs = self.tracer.name("W" if rq.write else "R")
            self.tracer.emit(_REQUEST_COMPLETE, task, rq.number, rwbs, error, rq.nr_pages)
        assert rq.end_io is not None
        rq.end_io(rq, error, task)
        if self._dispatch or self._elevator:
            self.run_hw_queue(async_run=True)

    # -- time-outs ------------------------------------------------------------------------------------------------

    def _blk_rq_timed_out(self) -> None:
        """Thirty seconds after a request started: let kblockd look (blk_rq_timed_out_timer)."""
        if self.outstanding:
            self.kblockd.queue_work(self.timeout_work)

    async def blk_mq_timeout_work(self, _task: Task) -> None:
        """Look at old requests and look again later; the driver says when it gives up (blk_mq_timeout_work)."""
        if self.outstanding:
            self._timeout = self.world.call_after(BLK_TIMEOUT_NS, self._blk_rq_timed_out, kind=TimerKind.CLOCK)

    def digest(self) -> tuple[Any, ...]:
        """Return what of the queue's state and its driver's could make a retry succeed."""
        mine = (self.nr_queued, len(self.outstanding), self.sched_tags.nr_used, self.completed, self.failed)
        return (*mine, self.wbt.digest() if self.wbt is not None else (), self.driver.digest())
