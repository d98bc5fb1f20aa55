"""mempool_t: elements set aside so that somebody who frees memory never waits for memory.

Mirrors mm/mempool.c. ``mempool_alloc`` tries in an exact order: the underlying allocator without reclaim and IO; an
element of the pool; the underlying allocator with the full mask (only if the masks differ); then, if it may sleep, it
waits uninterruptibly for an element, looking again every five seconds, and starts over *with the full mask*. The mask
always carries ``__GFP_NOMEMALLOC``: the pool *is* the caller's reserve, the page reserve is not. ``mempool_free``
refills the pool before it gives anything back, and wakes every waiter: none waits exclusively.

Without the fix ``mempool_nomemalloc`` the page reserve is open to pool users whose pool has run dry, as in 4.6 and 4.7.
"""

from collections.abc import Callable, Iterable
from typing import Final, Generic, Protocol, TypeVar

from netvm.errors import UsageError
from netvm.mm.gfp import GFP_AT_BOOT, GFP_DIRECT_RECLAIM, GFP_IO, GFP_NOMEMALLOC, GFP_NORETRY, GFP_NOWARN, gfp_name
from netvm.mm.slab import SlabCache
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of
from netvm.units import NS_PER_S

__all__ = ["Mempool", "SlabElements", "UnderlyingAllocator"]

_MEMPOOL_WAIT_BEGIN: Final = number_of("mempool_wait_begin")
_MEMPOOL_WAIT_END: Final = number_of("mempool_wait_end")

RETRY_NS: Final = 5 * NS_PER_S

T = TypeVar("T")


class UnderlyingAllocator(Protocol[T]):
    """Where a pool's elements come from when the pool is not needed."""

    def try_alloc(self, task: Task, gfp: int) -> T | None:
        """Allocate without sleeping."""
        ...

    async def alloc(self, task: Task, gfp: int) -> T | None:
        """Allocate, sleeping as the mask allows."""
        ...

    def free(self, element: T) -> None:
        """Give an element back."""
        ...


class SlabElements:
    """A slab cache as a pool's underlying allocator (mempool_alloc_slab, mempool_free_slab)."""

    __slots__ = ("cache",)

    def __init__(self, cache: SlabCache) -> None:
        self.cache = cache

    def try_alloc(self, task: Task, gfp: int) -> int | None:
        """Allocate an object without sleeping."""
        found = self.cache.try_alloc(task, gfp & ~GFP_DIRECT_RECLAIM)
        return found if found >= 0 else None

    async def alloc(self, task: Task, gfp: int) -> int | None:
        """Allocate an object, sleeping as the mask allows."""
        found = await self.cache.alloc(task, gfp)
        return found if found >= 0 else None

    def free(self, element: int) -> None:
        """Give an object back."""
        self.cache.free(element)


class Mempool(Generic[T]):
    """One ``mempool_t``."""

    __slots__ = (
        "_allocator",
        "_nomemalloc",
        "_queue",
        "elements",
        "min_nr",
        "name",
        "nr_out",
        "resource",
        "tracer",
        "world",
    )

    def __init__(
        self,
        world: World,
        name: str,
        *,
        min_nr: int,
        allocator: UnderlyingAllocator[T],
        nomemalloc: bool = True,
        providers: Callable[[], Iterable[Task | Provider]] | None = None,
    ) -> None:
        self.world = world
        self.name = name
        self.min_nr = min_nr
        self.elements: list[T] = []
        """The reserve, last in first out."""
        self.tracer: Recorder | None = None
        self.nr_out = 0
        """Elements handed out and not yet freed."""
        self._allocator = allocator
        self._nomemalloc = nomemalloc
        self.resource = Resource("mempool", f"{name} (min_nr {min_nr})", providers)
        self._queue = WaitQueue(world, self.resource)

    def fill(self, elements: Iterable[T]) -> None:
        """Put the first elements in (mempool_init). Raises UsageError if the machine had no memory for some (-1)."""
        self.elements.extend(elements)
        assert len(self.elements) <= self.min_nr
        if len(self.elements) < self.min_nr or -1 in self.elements:
            raise UsageError(
                f"machine.ram_mib: no memory at boot for the {self.min_nr} elements of {self.name}; must be more"
            )

    def fill_at_boot(self, task: Task) -> None:
        """Set the first elements aside while nobody reclaims yet. Raises UsageError as :meth:`fill` does."""
        found = (self._allocator.try_alloc(task, GFP_AT_BOOT) for _ in range(self.min_nr))
        self.fill(element for element in found if element is not None)

    @property
    def waiters(self) -> list[Task]:
        """Who waits for an element."""
        return self._queue.waiters

    def _mask(self, gfp: int) -> int:
        gfp |= GFP_NORETRY | GFP_NOWARN
        return gfp | GFP_NOMEMALLOC if self._nomemalloc or self.elements else gfp

    def try_alloc(self, task: Task, gfp: int) -> T | None:
        """Allocate without sleeping: the allocator, then the pool."""
        assert not gfp & GFP_DIRECT_RECLAIM, f"{gfp_name(gfp)} may sleep"
        element = self._allocator.try_alloc(task, self._mask(gfp))
        if element is None and self.elements:
            element = self.elements.pop()
        if element is not None:
            self.nr_out += 1
        return element

    async def mempool_alloc(self, task: Task, gfp: int) -> T:
        """Allocate, waiting for as long as it takes (mempool_alloc)."""
        assert gfp & GFP_DIRECT_RECLAIM, f"{gfp_name(gfp)} may not sleep"
        mask = self._mask(gfp) & ~(GFP_DIRECT_RECLAIM | GFP_IO)
        while True:
            full = self._mask(gfp)
            element = (
                self._allocator.try_alloc(task, mask)
                if not mask & GFP_DIRECT_RECLAIM
                else await self._allocator.alloc(task, mask)
            )
            if element is None and self.elements:
                element = self.elements.pop()
            if element is not None:
                self.nr_out += 1
                return element
            if mask != full:
                mask = full
                continue
            tracer = self.tracer
            if tracer is not None:
                tracer.emit(_MEMPOOL_WAIT_BEGIN, task, tracer.name(self.name), self.min_nr)
            await self._queue.wait(task, timeout_ns=self._queue.world.wheel_ns(RETRY_NS))
            if tracer is not None:
                tracer.emit(_MEMPOOL_WAIT_END, task, tracer.name(self.name), 1)

    def free(self, element: T) -> None:
        """Refill the pool first and wake the waiters; else give the element back (mempool_free)."""
        self.nr_out -= 1
        assert self.nr_out >= 0
        if len(self.elements) < self.min_nr:
            self.elements.append(element)
            self._queue.wake_all()
        else:
            self._allocator.free(element)
