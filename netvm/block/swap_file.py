"""Swapping to a file that its file system must write: batches of pages in a ``swap_iocb``.

Mirrors the ``SWP_FS_OPS`` half of mm/page_io.c of 6.1 (``swap_writepage_fs``, ``swap_readpage_fs``,
``swap_write_unplug``). Pages that follow each other in the file are collected, up to 32, and handed to the file
system's ``swap_rw`` together: when the next page does not follow, when the batch is full, and at the end of each list
of pages that reclaim works through. Unlike a block plug nothing is sent because its owner sleeps.

A batch needs a ``swap_iocb``, from a mempool of 32 over kmalloc; a page is under writeback, and unlocked, before that
is had. Nothing else bounds what is in flight: there are no tags and no queue.

Before 5.19 (``swap_file_batches``) ``swap_writepage`` called the file system's ``direct_IO`` with one page and waited
for it to be written: every reclaimer has one write under way, with all that its file system takes for one, and holds
it until the reply.

A batch that the file system does not take (no memory for its own requests) fails: its pages are dirty again and stay
(``Write error -12 on dio swapfile``).
"""

from collections.abc import Mapping
from typing import Any, Final, Protocol, runtime_checkable

from netvm.block.blk_mq import Request
from netvm.block.swap_io import SwapPages
from netvm.mm.gfp import GFP_KERNEL, GFP_NOIO
from netvm.mm.mempool import Mempool, SlabElements
from netvm.mm.ports import LogPort, PlugPort
from netvm.mm.slab import SlabCache
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World

__all__ = ["SIO_POOL_SIZE", "SWAP_CLUSTER_MAX", "FileSwapIo", "SwapFilePlug", "SwapFileSystem"]

SWAP_CLUSTER_MAX: Final = 32
SIO_POOL_SIZE: Final = 32
"""Elements of sio_pool (sio_pool_init)."""
RATELIMIT_BURST: Final = 10
"""Lines of the log about write errors (pr_err_ratelimited)."""


@runtime_checkable
class SwapFileSystem(Protocol):
    """A file system that can swap (``address_space_operations.swap_rw``)."""

    name: str

    async def swap_rw(self, task: Task, rq: Request) -> int:
        """Start writing or reading a run of pages; 0 if it was queued, or a negative errno."""
        ...

    def needs(self, rq: Request) -> Provider:
        """Say what an outstanding request waits for, as far as this host provides it."""
        ...


class SwapFilePlug:
    """The batches that a task is collecting (``struct swap_iocb **plug``), one for writing, one for reading."""

    __slots__ = ("reading", "writing")

    def __init__(self) -> None:
        self.writing: Request | None = None
        self.reading: Request | None = None

    def finish(self) -> None:
        """End the plug; whoever collected has sent everything."""
        assert self.writing is None
        assert self.reading is None


class FileSwapIo:
    """A swap file, written by its file system."""

    def __init__(
        self,
        world: World,
        file_system: SwapFileSystem,
        cache: SlabCache,
        *,
        nomemalloc: bool,
        log: LogPort,
        batches: bool = True,
    ) -> None:
        self.world = world
        self.file_system = file_system
        self.cache = cache
        self.log = log
        self.batches = batches
        """Pages are collected; else each is written by itself and waited for."""
        self._direct_waits: dict[int, WaitQueue] = {}
        """Who waits for a page that is written by itself, by request."""
        self._area: SwapPages
        self._outstanding: dict[int, Request] = {}
        self._next_number = 1
        self._nr_errors = 0
        self._pool: Mempool[int] = Mempool(
            world,
            "sio_pool",
            min_nr=SIO_POOL_SIZE,
            allocator=SlabElements(cache),
            nomemalloc=nomemalloc,
            providers=self.providers,
        )

    @property
    def needs_fs(self) -> bool:
        """Reclaim needs ``__GFP_FS`` to write here."""
        return True

    @property
    def writes_synchronously(self) -> bool:
        """Before there were batches a page was written by direct I/O."""
        return not self.batches

    @property
    def outstanding(self) -> Mapping[int, Request]:
        """Requests that the file system has."""
        return self._outstanding

    @property
    def pool(self) -> Mempool[int]:
        """sio_pool."""
        return self._pool

    def attach(self, area: SwapPages) -> None:
        """Take the area whose pages are written."""
        self._area = area

    def fill(self, task: Task) -> None:
        """Set the pool's elements aside (sio_pool_init); memory is plentiful then."""
        self._pool.fill_at_boot(task)

    def start_plug(self, _task: Task) -> PlugPort:
        """Begin to collect a task's pages."""
        return SwapFilePlug()

    def nr_ready(self) -> int:
        """Return 0: there are no bios."""
        return 0

    async def write(
        self, task: Task, plug: PlugPort, pfns: list[int], begun: tuple[int, list[int]] | None = None
    ) -> None:
        """Put pages under writeback and add them to the batch, which goes when it must (swap_writepage_fs)."""
        assert isinstance(plug, SwapFilePlug)
        assert begun is None, "without bios nothing is at hand"
        if not self.batches:
            for pfn in pfns:
                await self._direct_write(task, pfn)
            return
        slots, versions = self._area.begin_writeback(pfns)
        for slot, pfn, version in zip(slots, pfns, versions, strict=True):
            sio = plug.writing
            if sio is not None and sio.end_slot != slot:
                await self.swap_write_unplug(task, plug)
                sio = None
            if sio is None:
                sio = plug.writing = await self._new_sio(task, GFP_NOIO, write=True, slot=slot)
            sio.pfns.append(pfn)
            sio.versions.append(version)
            if len(sio.pfns) == SWAP_CLUSTER_MAX:
                await self.swap_write_unplug(task, plug)

    def room(self, _plug: PlugPort, _slot: int, _nr_pages: int) -> int:
        """Return 0: each page may be the one that sends the batch."""
        return 0

    def merge(self, _task: Task, _plug: PlugPort, _slot: int, pfns: list[int], _versions: list[int]) -> None:
        """Do nothing: there is never room."""
        assert not pfns

    async def _direct_write(self, task: Task, pfn: int) -> None:
        """Write one page and wait until it is written (__swap_writepage before 5.19, by direct_IO)."""
        slots, versions = self._area.begin_writeback([pfn])
        rq = self._request(write=True, slot=slots[0])
        rq.pfns.append(pfn)
        rq.versions.append(versions[0])
        resource = Resource("request", f"direct_IO: {rq}", lambda: [self.file_system.needs(rq)])
        wait = self._direct_waits[rq.number] = WaitQueue(self.world, resource)
        await self._swap_rw(task, rq)
        while rq.number in self._outstanding:
            await wait.wait(task)
        del self._direct_waits[rq.number]

    async def read(self, task: Task, plug: PlugPort, slot: int, pfn: int) -> None:
        """Add a locked page to the batch to read (swap_readpage_fs)."""
        assert isinstance(plug, SwapFilePlug)
        sio = plug.reading
        if sio is not None and sio.end_slot != slot:
            await self.swap_read_unplug(task, plug)
            sio = None
        if sio is None:
            sio = plug.reading = (
                await self._new_sio(task, GFP_KERNEL, write=False, slot=slot)
                if self.batches
                else self._request(write=False, slot=slot)
            )
        sio.pfns.append(pfn)
        sio.versions.append(0)
        if len(sio.pfns) == SWAP_CLUSTER_MAX or not self.batches:
            await self.swap_read_unplug(task, plug)

    async def _new_sio(self, task: Task, gfp: int, *, write: bool, slot: int) -> Request:
        bio = await self._pool.mempool_alloc(task, gfp)
        sio = self._request(write=write, slot=slot)
        sio.bios.append(bio)
        sio.cookie = task
        return sio

    def _request(self, *, write: bool, slot: int) -> Request:
        rq = Request(write=write, slot=slot, pfns=[], bios=[], versions=[])
        rq.number = self._next_number
        self._next_number += 1
        rq.queued_ns = self.world.now_ns
        self._outstanding[rq.number] = rq
        return rq

    async def unplug(self, task: Task, plug: PlugPort) -> None:
        """Send both batches."""
        assert isinstance(plug, SwapFilePlug)
        await self.swap_write_unplug(task, plug)
        await self.swap_read_unplug(task, plug)

    async def swap_write_unplug(self, task: Task, plug: SwapFilePlug) -> None:
        """Hand the batch of writes to the file system."""
        sio, plug.writing = plug.writing, None
        if sio is not None:
            await self._swap_rw(task, sio)

    async def swap_read_unplug(self, task: Task, plug: SwapFilePlug) -> None:
        """Hand the batch of reads to the file system."""
        sio, plug.reading = plug.reading, None
        if sio is not None:
            await self._swap_rw(task, sio)

    async def _swap_rw(self, task: Task, sio: Request) -> None:
        # a request that is still being collected has not started
        sio.started_ns = max(1, self.world.now_ns)
        sio.cookie = None
        error = await self.file_system.swap_rw(task, sio)
        if error:
            self.complete(sio, error, task)

    def complete(self, sio: Request, error: int, task: Task) -> None:
        """End a request (sio_write_complete, sio_read_complete); ``error`` is 0 or a negative errno."""
        if error:
            self._nr_errors += 1
            if self._nr_errors <= RATELIMIT_BURST:
                verb = "Write" if sio.write else "Read"
                self.log(f"{verb} error {error} on dio swapfile ({sio.slot << 12})")
        del self._outstanding[sio.number]
        if sio.write:
            task.charge_ns += sio.nr_pages * self._area.costs.end_writeback_page
            self._area.end_swap_write(sio, error)
        else:
            self._area.end_swap_read(sio, error, task)
        for bio in sio.bios:
            self._pool.free(bio)
        if sio.number in self._direct_waits:
            self._direct_waits[sio.number].wake_all()

    def providers(self, pfn: int | None = None) -> list[Provider | Task]:
        """Return what the requests that are on their way wait for."""
        found = (rq for rq in self._outstanding.values() if pfn is None or pfn in rq.pfns)
        return [self.file_system.needs(rq) if rq.started_ns else rq.cookie for rq in found]

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self._pool.elements), len(self._outstanding))
