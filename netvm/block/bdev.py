"""What those who submit ask of a device that takes bios, whatever stands behind it.

Mirrors the part of ``struct block_device`` that ``submit_bio`` (block/blk-core.c) needs. Two devices take bios: one
with a request queue, where they are merged and wait for tags (:mod:`netvm.block.blk_mq`), and one of device-mapper,
which has no queue and maps each of them at once, in the context of who submits (:mod:`netvm.block.dm`).

What makes a device useful begins with a read of its first page: swapon looks for the signature there, mount for the
super block. That is the first data a connection carries, from which its receiver learns the round trip.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from netvm.block.blk_mq import BlockDriver, Request
from netvm.block.blk_wbt import Wbt
from netvm.block.plug import Plug
from netvm.errors import UsageError
from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.page_alloc import PageAllocator
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.trace.recorder import Recorder

__all__ = ["BlockDevice", "read_first_page"]


class BlockDevice(Protocol):
    """A device that bios are submitted to."""

    name: str
    wbt: Wbt | None
    """Its writeback throttle, if it has one."""

    @property
    def driver(self) -> BlockDriver:
        """Who says what a thing under way waits for."""
        ...

    @property
    def outstanding(self) -> Mapping[int, Request]:
        """What is on its way, by number."""
        ...

    @property
    def tracer(self) -> Recorder | None:
        """Where its requests are recorded."""
        ...

    @tracer.setter
    def tracer(self, recorder: Recorder | None) -> None: ...

    def start_plug(self, task: Task) -> Plug:
        """Begin to collect a task's requests."""
        ...

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
        """Submit one-page bios for consecutive pages, or, with no ``bios``, one bio of the caller's for all of them."""
        ...

    def try_plug_merge(
        self, plug: Plug, slot: int, pfns: list[int], bios: list[int], versions: list[int], end_io: object
    ) -> bool:
        """Merge writes into what the plug holds, if all fit."""
        ...

    def room(self, plug: Plug, slot: int, end_io: object, nr: int) -> int:
        """Return how many of so many pages written from a slot on would merge without sleeping."""
        ...

    def merge(
        self, plug: Plug, slot: int, pfns: list[int], bios: list[int], versions: list[int], end_io: object
    ) -> None:
        """Merge pages for which there is :meth:`room`."""
        ...

    def providers(self) -> list[Provider | Task]:
        """Return what each thing under way waits for."""
        ...

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        ...


async def read_first_page(device: BlockDevice, task: Task, pages: PageAllocator) -> None:
    """Read a device's first page and wait for it (read_swap_header of mm/swapfile.c, a file system's fill_super).

    Raises UsageError if the machine has no page for it.
    """
    pfn = await pages.alloc_pages(task, 0, GFP_KERNEL, pages.ledger.owner("page_cache"))
    if pfn < 0:
        raise UsageError(f"machine: too little memory is free to read the first page of {device.name}")
    read: list[Request] = []
    wait = WaitQueue(pages.world, Resource("page", f"{device.name}: its first page", device.providers))

    def end_io(rq: Request, _error: int, _task: Task) -> None:
        read.append(rq)
        wait.wake_all()

    plug = device.start_plug(task)
    await device.submit_pages(task, plug, write=False, slot=0, pfns=[pfn], bios=[], versions=[0], end_io=end_io)
    plug.finish()
    while not read:
        await wait.wait(task)
    pages.free_pages(pfn, 0)
