"""How a swap area's pages get to where they are kept: bios to a block device.

``__swap_writepage`` of mm/page_io.c has three ways; two of them matter here. A swap device, or a file whose blocks
were mapped when it was switched on, gets one bio a page (:class:`BlockSwapIo`). A file that its file system must write
itself (``SWP_FS_OPS``: NFS) gets batches of pages through ``swap_rw`` (:mod:`netvm.block.swap_file`). :class:`SwapIo`
is what the area asks of either.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from netvm.block.bdev import BlockDevice
from netvm.block.bio import BioSet
from netvm.block.blk_mq import Request
from netvm.block.blk_wbt import REQ_SWAP
from netvm.block.plug import Plug
from netvm.mm.gfp import GFP_KERNEL, GFP_NOIO
from netvm.mm.mempool import Mempool
from netvm.mm.ports import PlugPort
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Provider, Task

__all__ = ["BlockSwapIo", "SwapIo", "SwapPages"]


class SwapPages(Protocol):
    """What a way of writing asks of the swap area."""

    costs: CpuCosts

    def blocked(self, pfns: list[int], task: Task | None) -> None:
        """Note who will write these locked pages once there is memory for it; None when there is."""
        ...

    def begin_writeback(self, pfns: list[int]) -> tuple[list[int], list[int]]:
        """Put locked pages under writeback and unlock them; return their slots and the versions of their content."""
        ...

    def end_swap_write(self, rq: Request, error: int) -> None:
        """End the writeback of a request's pages."""
        ...

    def end_swap_read(self, rq: Request, error: int, task: Task) -> None:
        """Unlock what a request has read."""
        ...


class SwapIo(Protocol):
    """One way of writing and reading swap pages."""

    @property
    def needs_fs(self) -> bool:
        """Whether writing enters a file system, so that reclaim needs ``__GFP_FS`` for it (may_enter_fs)."""
        ...

    @property
    def writes_synchronously(self) -> bool:
        """Whether a write has ended when the call that started it returns."""
        ...

    @property
    def outstanding(self) -> Mapping[int, Request]:
        """Requests that are on their way, by number."""
        ...

    @property
    def pool(self) -> Mempool[int]:
        """Where writers wait when there is no memory for a request."""
        ...

    def attach(self, area: SwapPages) -> None:
        """Be told whose pages they are."""
        ...

    def start_plug(self, task: Task) -> PlugPort:
        """Begin to collect a task's requests."""
        ...

    def nr_ready(self) -> int:
        """Return for how many pages there are bios."""
        ...

    async def write(
        self, task: Task, plug: PlugPort, pfns: list[int], begun: tuple[int, list[int]] | None = None
    ) -> None:
        """Start writing locked pages of the swap cache, or some from a slot on whose writeback has begun."""
        ...

    def room(self, plug: PlugPort, slot: int, nr_pages: int) -> int:
        """Return how many of so many pages from a slot on would merge into a request that is there."""
        ...

    def merge(self, task: Task, plug: PlugPort, slot: int, pfns: list[int], versions: list[int]) -> None:
        """Merge pages under writeback for which there are room and bios into the request before this slot."""
        ...

    async def read(self, task: Task, plug: PlugPort, slot: int, pfn: int) -> None:
        """Start reading one page."""
        ...

    async def unplug(self, task: Task, plug: PlugPort) -> None:
        """Send what is being collected for a file; a block device's plug goes when it is finished."""
        ...

    def providers(self, pfn: int | None = None) -> Sequence[Provider | Task]:
        """Return who is to complete what is outstanding, or what of it has this page."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...


class BlockSwapIo:
    """One bio a page, merged by the request queue if the device has one."""

    needs_fs = False
    writes_synchronously = False

    def __init__(self, queue: BlockDevice, bios: BioSet) -> None:
        self.queue = queue
        self.bios = bios
        self._area: SwapPages
        self._end_io_write = self._end_swap_bio_write

    @property
    def outstanding(self) -> Mapping[int, Request]:
        """Requests that are on their way."""
        return self.queue.outstanding

    @property
    def pool(self) -> Mempool[int]:
        """The bios' mempool."""
        return self.bios.pool

    def attach(self, area: SwapPages) -> None:
        """Take the area whose pages are written."""
        self._area = area

    def start_plug(self, task: Task) -> PlugPort:
        """Begin to collect a task's requests (blk_start_plug)."""
        return self.queue.start_plug(task)

    def nr_ready(self) -> int:
        """Return how many bios can be had without a new slab."""
        return self.bios.nr_ready()

    async def write(
        self, task: Task, plug: PlugPort, pfns: list[int], begun: tuple[int, list[int]] | None = None
    ) -> None:
        """Start writing pages, one bio each (swap_writepage_bdev_async); unlocked before it is submitted."""
        assert isinstance(plug, Plug)
        nr = len(pfns)
        bios = self.bios.take_many(task, GFP_NOIO, nr)
        if begun is not None:
            assert len(bios) == nr
            await self._submit(task, plug, begun[0], pfns, bios, begun[1])
            return
        if len(bios) < nr:
            self._area.blocked(pfns, task)
            while len(bios) < nr:
                bios.append(await self.bios.bio_alloc_bioset(task, GFP_NOIO))
            self._area.blocked(pfns, None)
        slots, versions = self._area.begin_writeback(pfns)
        start = 0
        for i in range(1, nr + 1):
            if i < nr and slots[i] == slots[i - 1] + 1:
                continue
            await self._submit(task, plug, slots[start], pfns[start:i], bios[start:i], versions[start:i])
            start = i

    def room(self, plug: PlugPort, slot: int, nr_pages: int) -> int:
        """Return how many of so many pages from a slot on a request has room for."""
        assert isinstance(plug, Plug)
        return self.queue.room(plug, slot, self._end_io_write, nr_pages)

    def merge(self, task: Task, plug: PlugPort, slot: int, pfns: list[int], versions: list[int]) -> None:
        """Merge pages at the end of a request (blk_attempt_plug_merge, blk_mq_sched_bio_merge)."""
        assert isinstance(plug, Plug)
        bios = self.bios.take_many(task, GFP_NOIO, len(pfns))
        assert len(bios) == len(pfns)
        self.queue.merge(plug, slot, pfns, bios, versions, self._end_io_write)

    async def _submit(
        self, task: Task, plug: Plug, slot: int, pfns: list[int], bios: list[int], versions: list[int]
    ) -> None:
        end_io = self._end_io_write
        if not self.queue.try_plug_merge(plug, slot, pfns, bios, versions, end_io):
            await self.queue.submit_pages(
                task,
                plug,
                write=True,
                slot=slot,
                pfns=pfns,
                bios=bios,
                versions=versions,
                end_io=end_io,
                opf=REQ_SWAP,
            )

    async def read(self, task: Task, plug: PlugPort, slot: int, pfn: int) -> None:
        """Start reading one page with a bio of its own (swap_readpage_bdev_async)."""
        assert isinstance(plug, Plug)
        bios = self.bios.take_many(task, GFP_KERNEL, 1)
        if not bios:
            bios = [await self.bios.bio_alloc_bioset(task, GFP_KERNEL)]
        await self.queue.submit_pages(
            task,
            plug,
            write=False,
            slot=slot,
            pfns=[pfn],
            bios=bios,
            versions=[0],
            end_io=self._end_swap_bio_read,
            opf=REQ_SWAP,
        )

    async def unplug(self, task: Task, plug: PlugPort) -> None:
        """Do nothing: the requests go when the plug is finished, or before its owner sleeps."""

    def _end_swap_bio_write(self, rq: Request, error: int, task: Task) -> None:
        task.charge_ns += rq.nr_pages * self._area.costs.end_swap_page
        self._area.end_swap_write(rq, error)
        self.bios.free(rq.bios)

    def _end_swap_bio_read(self, rq: Request, error: int, task: Task) -> None:
        self._area.end_swap_read(rq, error, task)
        self.bios.free(rq.bios)

    def providers(self, pfn: int | None = None) -> list[Provider | Task]:
        """Return what the requests that are on their way wait for."""
        driver = self.queue.driver
        return [driver.needs(rq) for rq in self.queue.outstanding.values() if pfn is None or pfn in rq.pfns]

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self.bios.pool.elements), self.bios.nr_ready(), self.queue.digest())
