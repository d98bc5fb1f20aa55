"""What a device above a device keeps: which parts of its requests are below, and what each part holds.

Mirrors what ``struct dm_io`` and ``clone_endio`` of drivers/md/dm.c do. A request of the device above goes down in one
part or in many. The queue below forms requests of its own, so one of them may bring pages of several parts, and a part
may come back in pieces. A part is through when its last page is back, and the request above with its last part; an
error of any of them is an error of all.
"""

from abc import ABC, abstractmethod
from typing import Protocol

from netvm.block.blk_mq import BLK_STS_IOERR, BLK_STS_OK, Request, RequestQueue
from netvm.block.plug import Plug
from netvm.runtime.task import Provider, Task

__all__ = ["Part", "StackedDevice"]


class Part:
    """A run of a request's pages on its way through the device below."""

    __slots__ = ("held", "left", "nr_pages", "rq", "slot")

    def __init__(self, rq: Request, slot: int, nr_pages: int, held: list[int]) -> None:
        self.rq = rq
        self.slot = slot
        self.nr_pages = nr_pages
        self.held = held
        """What it took to send it: pages, or a bio."""
        self.left = nr_pages
        """Pages that are not back."""


class _Above(Protocol):
    """Who is told that a request of the device above has ended."""

    def end_request(self, rq: Request, error: int, task: Task) -> None:
        """A request is done."""
        ...


class StackedDevice(ABC):
    """A block driver over another queue."""

    queue: _Above
    """The queue above, or the mapped device; set where the host is wired."""

    def __init__(self, lower: RequestQueue) -> None:
        self.name = "dm-1" if lower.name == "dm-0" else "dm-0"
        self.lower = lower
        # invariant: parts that are not wholly back, by their first page; no two of them share a page
        self._parts: dict[int, Part] = {}
        # invariant: requests with such parts: pages not back, and whether one has failed
        self._open: dict[int, tuple[int, int]] = {}

    async def hand_down(self, task: Task, plug: Plug, part: Part, pfns: list[int]) -> None:
        """Submit a part to the device below, its content in ``pfns``."""
        rq = part.rq
        # known before it goes: a device that has failed answers at once
        self._parts[part.slot] = part
        self._open.setdefault(rq.number, (rq.nr_pages, 0))
        begin = part.slot - rq.slot
        await self.lower.submit_pages(
            task,
            plug,
            write=rq.write,
            slot=part.slot,
            pfns=pfns,
            bios=[],
            versions=rq.versions[begin : begin + part.nr_pages],
            end_io=self.clone_endio,
            opf=rq.opf,
        )

    def clone_endio(self, below: Request, error: int, task: Task) -> None:
        """Give the pages of a request below to those above; one that is through is ended."""
        slot = below.slot
        while slot < below.end_slot:
            part = self._part_of(slot)
            rq = part.rq
            nr = min(below.end_slot, part.slot + part.nr_pages) - slot
            if not rq.write:
                offset = slot - rq.slot
                rq.versions[offset : offset + nr] = below.versions[slot - below.slot : slot - below.slot + nr]
            slot += nr
            part.left -= nr
            assert part.left >= 0
            left, failed = self._open[rq.number]
            self._open[rq.number] = left - nr, failed or error
            if not part.left:
                del self._parts[part.slot]
                self.part_done(part, task)
            if left == nr:
                del self._open[rq.number]
                self.queue.end_request(rq, BLK_STS_IOERR if failed or error else BLK_STS_OK, task)

    def is_below(self, rq: Request) -> bool:
        """Whether a request's first part has been submitted to the device below and is not back."""
        return rq.slot in self._parts

    def _part_of(self, slot: int) -> Part:
        part = self._parts.get(slot)
        return part or next(part for part in self._parts.values() if part.slot <= slot < part.slot + part.nr_pages)

    @abstractmethod
    def part_done(self, part: Part, task: Task) -> None:
        """Give back what a part held."""

    def needs_below(self, rq: Request) -> Provider | None:
        """Say what the device below needs for the first of a request's pages that it has; None if it has none."""
        for below in self.lower.outstanding.values():
            if below.slot < rq.end_slot and rq.slot < below.end_slot:
                return self.lower.driver.needs(below)
        return None
