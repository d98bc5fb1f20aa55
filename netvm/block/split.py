"""A stacking driver that cuts requests: dm-stripe, bcache, anything with a boundary it may not cross.

Mirrors what block/bio.c and ``generic_make_request`` of block/blk-core.c do to such a driver. It takes a bio of its own
for each part, from a pool of 16. What it submits while it runs is only put on its task's list (recursion was made
iteration), and goes when the driver has returned. So a request of more parts than the pool has elements waits for the
end of a part that it has not sent.

The cure (``bio_rescuer``, 3.10) gives each pool a rescuer: an allocation first tries without sleeping; if that fails,
the bios on the list are punted to the rescuer's thread, which submits them, and only then does it wait.

# MODEL: one device below, which the whole device maps to; requests are formed above it and merged anew below. It runs
# in the worker that dispatches requests, not in each submitter's context.
"""

from collections import deque
from typing import Any, Final

from netvm.block.blk_mq import BLK_STS_OK, Request, RequestQueue
from netvm.block.plug import Plug
from netvm.block.stacked import Part, StackedDevice
from netvm.mm.gfp import GFP_NOIO, GFP_NOWAIT
from netvm.mm.mempool import Mempool, SlabElements
from netvm.mm.slab import SlabCache
from netvm.runtime.task import Provider, Task
from netvm.runtime.workqueue import WorkItem, Workqueue

__all__ = ["SPLIT_POOL_SIZE", "SplitDevice"]

SPLIT_POOL_SIZE: Final = 16
"""MIN_IOS of drivers/md/dm.c."""


class SplitDevice(StackedDevice):
    """A device-mapper device that cuts its requests at multiples of ``chunk_pages``."""

    blocking = True
    queue: RequestQueue

    def __init__(self, lower: RequestQueue, cache: SlabCache, *, chunk_pages: int, rescuer: Workqueue) -> None:
        super().__init__(lower)
        fixes = cache.pages.fixes
        self.chunk_pages = chunk_pages
        self.rescuer = rescuer if fixes.bio_rescuer else None
        self.pool: Mempool[int] = Mempool(
            lower.world,
            f"{self.name} bio_set {cache.name}",
            min_nr=SPLIT_POOL_SIZE,
            allocator=SlabElements(cache),
            nomemalloc=fixes.mempool_nomemalloc,
            providers=self._holders,
        )
        self._cache = cache
        self._rescue_work = WorkItem(f"bio_alloc_rescue {self.name}", self.bio_alloc_rescue)
        # invariant: parts that have their bio and are on the list of the task that cuts, or of the rescuer
        self._bio_list: deque[Part] = deque()
        self._rescue_list: deque[Part] = deque()
        self._cutter: Task | None = None

    def fill(self, task: Task) -> None:
        """Set the pool's bios aside (bioset_create). Raises UsageError if the machine has no memory for some."""
        self.pool.fill_at_boot(task)

    def _holders(self) -> list[Provider | Task]:
        """Say who could give a bio back: parts below, or who keeps parts on a list."""
        found: list[Provider | Task] = [self.lower.driver.needs(rq) for rq in self.lower.outstanding.values()]
        if self._bio_list and self._cutter is not None:
            name = f"{self.name}: {len(self._bio_list)} bios on the list of {self._cutter.comm}-{self._cutter.pid}"
            found.append(Provider(name=name, needs=(self._cutter,)))
        if self._rescue_list:
            found.append(self.needs_rescuer())
        return found

    def needs_rescuer(self) -> Provider:
        """The rescuer's list waits for its thread."""
        runner = self._rescue_work.running_on
        if runner is not None and runner.task is not None:
            return Provider(name="bio_alloc_rescue", needs=(runner.task,))
        assert self.rescuer is not None
        return Provider(name="bio_alloc_rescue, queued", needs=(self.rescuer.pool.needs_worker,))

    async def queue_rq(self, task: Task, rq: Request) -> int:
        """Cut a request, then send its parts (generic_make_request around the driver)."""
        self._cutter = task
        slot = rq.slot
        while slot < rq.end_slot:
            nr_pages = min(rq.end_slot, (slot // self.chunk_pages + 1) * self.chunk_pages) - slot
            bio = await self.bio_alloc_bioset(task)
            self._bio_list.append(Part(rq, slot, nr_pages, [bio]))
            slot += nr_pages
        await self._submit(task, self._bio_list)
        self._cutter = None
        return BLK_STS_OK

    def queue_rq_nowait(self, rq: Request) -> int:
        """Never called: the driver may sleep."""
        raise AssertionError(f"{self.name} is blocking: {rq}")

    async def bio_alloc_bioset(self, task: Task) -> int:
        """Take a bio; before it sleeps for one, what is on its list goes to the rescuer, if there is one."""
        bio = self.pool.try_alloc(task, GFP_NOWAIT)
        if bio is not None:
            return bio
        if self.rescuer is not None and self._bio_list:
            self._rescue_list += self._bio_list
            self._bio_list.clear()
            if self._rescue_work.running_on is None and not self._rescue_work.pending:
                self.rescuer.queue_work(self._rescue_work)
        return await self.pool.mempool_alloc(task, GFP_NOIO)

    async def bio_alloc_rescue(self, task: Task) -> None:
        """Submit what was punted (bio_alloc_rescue)."""
        while self._rescue_list:
            await self._submit(task, self._rescue_list)

    async def _submit(self, task: Task, parts: deque[Part]) -> None:
        plug: Plug = self.lower.start_plug(task)
        while parts:
            part = parts.popleft()
            begin = part.slot - part.rq.slot
            await self.hand_down(task, plug, part, part.rq.pfns[begin : begin + part.nr_pages])
        plug.finish()

    def part_done(self, part: Part, task: Task) -> None:  # noqa: ARG002  decrypting costs time, cutting does not
        """Give the part's bio back (bio_put)."""
        self.pool.free(part.held[0])

    def needs(self, rq: Request) -> Provider:
        """A request waits for a part below, for the rescuer, or for who cuts it."""
        below = self.needs_below(rq)
        if below is not None:
            return below
        if any(part.rq is rq for part in self._rescue_list):
            return self.needs_rescuer()
        if self._cutter is not None:
            return Provider(name=f"{self.name}: {rq}, being cut", needs=(self._cutter,))
        return Provider(name=f"{self.name}: {rq}")

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        return (len(self._bio_list), len(self._rescue_list), len(self.pool.elements), self.lower.digest())
