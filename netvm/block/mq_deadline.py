"""The elevator: requests that wait for the driver, where they grow, join and are put in order.

Mirrors block/mq-deadline.c, elevator.c and blk-merge.c of 6.1 as far as one device with one hardware queue shows them.
A bio is merged at the end of a request that waits (found by its end), else in front of one (found by its start); a
request that is inserted behind one that waits is joined to it, and so are two that have grown to touch. Each joining
gives a scheduler tag back. So two writers that take slots by turns, each under its own plug, do not leave the device
with a request a page once it falls behind.

Dispatch goes up by sector within a batch of 16, reads before writes, which may starve for two batches; what has waited
past its expiry goes first.

# MODEL: its per-priority queues, zoned devices and async depth have no part in this.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from netvm.runtime.world import World
from netvm.units import NS_PER_S

if TYPE_CHECKING:
    from netvm.block.blk_mq import Request

__all__ = ["MqDeadline"]

FIFO_BATCH: Final = 16
WRITES_STARVED: Final = 2
READ_EXPIRE_NS: Final = NS_PER_S // 2
WRITE_EXPIRE_NS: Final = 5 * NS_PER_S

Key = tuple[bool, int]


class MqDeadline:
    """The requests of one queue that are not dispatched yet.

    ``joined`` is called with each request that has become part of another: its tag is free.
    """

    def __init__(self, world: World, *, max_pages: int, joined: "Callable[[Request], None]") -> None:
        self.world = world
        self.max_pages = max_pages
        self._joined = joined
        self._by_start: dict[Key, Request] = {}
        self._by_end: dict[Key, Request] = {}
        self._fifo: dict[bool, list[Request]] = {False: [], True: []}
        self._sorted: dict[bool, list[tuple[int, int, Request]]] = {False: [], True: []}
        self._last_write = False
        self._last_end = {False: 0, True: 0}
        self._batched = 0
        self._starved = 0

    def __len__(self) -> int:
        return len(self._fifo[False]) + len(self._fifo[True])

    # -- merging --------------------------------------------------------------------------------------------------

    def merge(self, bios: "Request") -> int:
        """Merge the first bios of a request that is not one yet into one that waits (elv_merge); return how many."""
        back = self._by_end.get((bios.write, bios.slot))
        if back is not None and back.end_io == bios.end_io:
            taken = min(len(bios.pfns), self.max_pages - len(back.pfns))
            if taken:
                del self._by_end[back.write, bios.slot]
                back.append(bios, taken)
                end = back.write, bios.slot + taken
                self._by_end[end] = back
                latter = self._by_start.get(end)
                if latter is not None:
                    self._attempt_merge(back, latter)
                return taken
        front = self._by_start.get((bios.write, bios.end_slot))
        # the first of several bios would begin a request of its own, and the others follow it there
        if front is None or bios.nr_pages > 1 or front.nr_pages >= self.max_pages or front.end_io != bios.end_io:
            return 0
        former = self._by_end.get((bios.write, bios.slot))
        self._forget_place(front)
        front.prepend(bios)
        self._note_place(front)
        if former is not None:
            self._attempt_merge(former, front)
        return 1

    def room_behind(self, slot: int, end_io: object, nr: int) -> int:
        """Return how many of so many pages written from a slot on could be merged at the end of a request that waits.

        No more than leave it apart from what follows it in the device: to join that takes a tag back.
        """
        back = self._by_end.get((True, slot))
        if back is None or back.end_io != end_io:
            return 0
        nr = min(nr, self.max_pages - len(back.pfns))
        by_start = self._by_start
        for end in range(slot + 1, slot + nr + 1):
            if (True, end) in by_start:
                return end - slot - 1
        return nr

    def merge_behind(self, slot: int, pfns: list[int], bios: list[int], versions: list[int]) -> None:
        """Merge pages for which there is room at the end of the request that waits before this slot."""
        back = self._by_end.pop((True, slot))
        back.extend(pfns, bios, versions)
        self._by_end[True, slot + len(pfns)] = back

    def insert(self, rq: "Request") -> None:
        """Take a request in, or join it to the one it continues, and that to the one before (dd_insert_request)."""
        inserted = False
        while (former := self._by_end.get((rq.write, rq.slot))) is not None and self._attempt_merge(former, rq):
            rq = former
            inserted = True
        if not inserted:
            self._fifo[rq.write].append(rq)
            self._note_place(rq)

    def _attempt_merge(self, rq: "Request", following: "Request") -> bool:
        """Join a request to the one it continues if they fit (attempt_merge)."""
        assert rq.end_slot == following.slot
        if rq.nr_pages + following.nr_pages > self.max_pages or rq.end_io != following.end_io:
            return False
        fifo = self._fifo[rq.write]
        if self._by_start.get((following.write, following.slot)) is following:
            self._forget_place(following)
            if following.queued_ns < rq.queued_ns:
                rq.queued_ns = following.queued_ns
                fifo.remove(rq)
                fifo[fifo.index(following)] = rq
            else:
                fifo.remove(following)
        del self._by_end[rq.write, rq.end_slot]
        rq.append(following, following.nr_pages)
        self._by_end[rq.write, rq.end_slot] = rq
        self._joined(following)
        return True

    def _note_place(self, rq: "Request") -> None:
        insort(self._sorted[rq.write], (rq.slot, rq.number, rq))
        self._by_start[rq.write, rq.slot] = rq
        self._by_end[rq.write, rq.end_slot] = rq

    def _forget_place(self, rq: "Request") -> None:
        queue = self._sorted[rq.write]
        del queue[bisect_left(queue, (rq.slot, rq.number))]
        for index, key in ((self._by_start, rq.slot), (self._by_end, rq.end_slot)):
            if index.get((rq.write, key)) is rq:
                del index[rq.write, key]

    # -- dispatch -------------------------------------------------------------------------------------------------

    def next_request(self) -> "Request":
        """Choose what goes next and take it out (dd_dispatch_request)."""
        rq = self._next_in_batch()
        if rq is None:
            write = not self._fifo[False]
            if not write and self._fifo[True]:
                self._starved += 1
                if self._starved > WRITES_STARVED:
                    write = True
            if write:
                self._starved = 0
            self._last_write = write
            self._batched = 0
            rq = self._find_request(write)
        self._batched += 1
        self._fifo[rq.write].remove(rq)
        self._forget_place(rq)
        self._last_end[rq.write] = rq.end_slot
        return rq

    def _next_in_batch(self) -> "Request | None":
        if self._batched >= FIFO_BATCH or not self._batched:
            return None
        return self._following(self._last_write)

    def _following(self, write: bool) -> "Request | None":
        queue = self._sorted[write]
        place = bisect_left(queue, (self._last_end[write],))
        return queue[place][2] if place < len(queue) else None

    def _find_request(self, write: bool) -> "Request":
        oldest = self._fifo[write][0]
        expired = self.world.now_ns - oldest.queued_ns >= (WRITE_EXPIRE_NS if write else READ_EXPIRE_NS)
        following = None if expired else self._following(write)
        return oldest if following is None else following
