"""What those who submit ask of a device that takes bios, whatever stands behind it.

Mirrors the part of ``struct block_device`` that ``submit_bio`` (block/blk-core.c) needs. Two devices take bios: one
with a request queue, where they are merged and wait for tags (:mod:`netvm.block.blk_mq`), and one of device-mapper,
which has no queue and maps each of them at once, in the context of who submits (:mod:`netvm.block.dm`).
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from netvm.block.blk_mq import BlockDriver, Request
from netvm.block.blk_wbt import Wbt
from netvm.block.plug import Plug
from netvm.runtime.task import Provider, Task
from netvm.trace.recorder import Recorder

__all__ = ["BlockDevice"]


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
