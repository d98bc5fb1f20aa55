"""Scatter-gather lists: the one allocation of a SCSI command that its preallocated parts do not cover.

Mirrors lib/sg_pool.c and ``scsi_alloc_sgtables`` of drivers/scsi/scsi_lib.c. A request has room for two entries
(SCSI_INLINE_SG_CNT); a longer list keeps one entry there and chains the rest from the slab caches sgpool-8 to
sgpool-128 with GFP_ATOMIC. Behind each cache stands a mempool of two elements, and mempool masks carry
``__GFP_NOMEMALLOC``: below the atomic floor two lists of a size can be in flight, and the next request is told
BLK_STS_RESOURCE and comes again.

# MODEL: every page is an entry of its own; the kernel merges neighbours that are contiguous in memory. Only caches that
# the largest request can need are made, when the session starts; the kernel makes all five at boot.
"""

from typing import Final

from netvm.mm.gfp import GFP_ATOMIC, GFP_KERNEL
from netvm.mm.mempool import Mempool, SlabElements
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import CacheSpec, SlabCache
from netvm.runtime.task import Task
from netvm.runtime.world import World
from netvm.units import PAGE_SIZE

__all__ = ["ScatterList", "SgPools"]

SCSI_INLINE_SG_CNT: Final = 2
SG_CHUNK_SIZE: Final = 128
SG_MEMPOOL_SIZE: Final = 2
ENTRY_BYTES: Final = 32
"""sizeof(struct scatterlist)."""
_SMALLEST: Final = 8
_MIN_OBJECTS: Final = 8
"""SLUB takes a larger block rather than fewer objects than this to a slab."""

ScatterList = tuple[tuple[int, int], ...]
"""The chained parts of one list: the pool of each and its object; empty if it all fits in the request."""


class SgPools:
    """The pools of one host."""

    __slots__ = ("_caches", "_pools")

    def __init__(self, world: World, pages: PageAllocator, *, max_pages: int) -> None:
        self._caches: list[SlabCache] = []
        self._pools: list[Mempool[int]] = []
        nr_entries = _SMALLEST
        while True:
            name = f"sgpool-{nr_entries}"
            cache = SlabCache(name, _spec(nr_entries * ENTRY_BYTES), pages)
            self._caches.append(cache)
            self._pools.append(
                Mempool(
                    world,
                    name,
                    min_nr=SG_MEMPOOL_SIZE,
                    allocator=SlabElements(cache),
                    nomemalloc=pages.fixes.mempool_nomemalloc,
                )
            )
            if nr_entries >= min(max_pages - 1, SG_CHUNK_SIZE):
                return
            nr_entries *= 2

    async def fill(self, task: Task) -> bool:
        """Set each pool's elements aside; False if there was no memory (sg_pool_init)."""
        for cache, pool in zip(self._caches, self._pools, strict=True):
            elements = [await cache.alloc(task, GFP_KERNEL) for _ in range(SG_MEMPOOL_SIZE)]
            if min(elements) < 0:
                return False
            pool.fill(elements)
        return True

    def try_alloc(self, task: Task, nr_pages: int) -> ScatterList | None:
        """Allocate a list for so many pages without sleeping; None if there is no memory (sg_alloc_table_chained)."""
        if nr_pages <= SCSI_INLINE_SG_CNT:
            return ()
        taken: list[tuple[int, int]] = []
        # each part but the last gives an entry to the link to the next
        left = nr_pages - (SCSI_INLINE_SG_CNT - 1)
        while left:
            size = min(left, SG_CHUNK_SIZE)
            left -= size if size == left else size - 1
            index = max(0, (size - 1).bit_length() - (_SMALLEST - 1).bit_length())
            element = self._pools[index].try_alloc(task, GFP_ATOMIC)
            if element is None:
                self.free(tuple(taken))
                return None
            taken.append((index, element))
        return tuple(taken)

    def free(self, parts: ScatterList) -> None:
        """Give a list back."""
        for index, element in parts:
            self._pools[index].free(element)

    def digest(self) -> tuple[int, ...]:
        """Return what of its state could make a retry succeed."""
        return tuple(len(pool.elements) for pool in self._pools) + tuple(c.nr_ready() for c in self._caches)


def _spec(object_bytes: int) -> CacheSpec:
    """Return a cache's slab as SLUB would size it (calculate_order)."""
    order = 0
    while PAGE_SIZE << order < _MIN_OBJECTS * object_bytes:
        order += 1
    return CacheSpec(object_bytes, (PAGE_SIZE << order) // object_bytes, order)
