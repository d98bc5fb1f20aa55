"""Slab caches: objects cut from pages, and whose pages they are.

Mirrors mm/slub.c of 6.1 on one CPU: a cache has a current slab, a list of partial ones, and takes a new page block when
both are used up. A block is tried at the cache's best order first, without the reserve and without reclaim, and then at
the smallest order with the full mask (``allocate_slab``). An empty slab is given back once ``min_partial`` partial ones
are there.

A slab whose pages came from the reserve is *pfmemalloc*: once it has left the CPU, its objects go only to requests
that are entitled to the reserve themselves, others must take a fresh slab (commit 072bb0aa5e06, 3.6). While it is the
current slab its freelist serves everybody: the fast path does not look (commit 5091b74a95d4, 3.6; before it, a request
that may not have the current slab put it with the partial ones). On a machine that serves its own swap this leak is
what the server's replies live on. Without the first fix a reserve page becomes ordinary slab for good.

An object is known by the first frame of its slab; nothing here needs its address.
"""

from collections import OrderedDict
from typing import Final

from netvm.mm.frames import PG_PFMEMALLOC
from netvm.mm.gfp import (
    GFP_DIRECT_RECLAIM,
    GFP_NOFAIL,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWARN,
    GFP_RECLAIM,
    GFP_RECLAIMABLE,
)
from netvm.mm.page_alloc import PageAllocator
from netvm.runtime.task import Task
from netvm.units import PAGE_SIZE

__all__ = ["CACHES", "CacheSpec", "SlabCache", "SlabCaches"]

MIN_PARTIAL: Final = 5
MAX_PARTIAL: Final = 10


class CacheSpec:
    """Size, objects per slab and order of a cache, as /proc/slabinfo shows them."""

    __slots__ = ("nr_objects", "object_bytes", "order", "reclaimable")

    def __init__(self, object_bytes: int, nr_objects: int, order: int, *, reclaimable: bool = False) -> None:
        self.object_bytes = object_bytes
        self.nr_objects = nr_objects
        self.order = order
        self.reclaimable = reclaimable

    @property
    def min_order(self) -> int:
        """Smallest order that holds one object."""
        order = 0
        while PAGE_SIZE << order < self.object_bytes:
            order += 1
        return order


CACHES: Final = {
    "bio-160": CacheSpec(192, 21, 0),
    "bio-192": CacheSpec(256, 16, 0),
    "skbuff_head_cache": CacheSpec(256, 16, 0),
    "skbuff_fclone_cache": CacheSpec(448, 9, 0),
    "radix_tree_node": CacheSpec(584, 14, 1, reclaimable=True),
    "dentry": CacheSpec(192, 21, 0, reclaimable=True),
    "ext4_inode_cache": CacheSpec(1008, 8, 1, reclaimable=True),
    "buffer_head": CacheSpec(104, 39, 0, reclaimable=True),
    "biovec-max": CacheSpec(4096, 8, 3),
    "kmalloc-256": CacheSpec(256, 16, 0),
    "kmalloc-1k": CacheSpec(1024, 8, 1),
    "kmalloc-2k": CacheSpec(2048, 8, 2),
    "kmalloc-4k": CacheSpec(4096, 8, 3),
}
"""Caches of the cleaning path, as in the recorded kernel's slabinfo."""


class SlabCache:
    """One ``struct kmem_cache``."""

    __slots__ = (
        "_free",
        "_nr_at_min",
        "_order_of",
        "_partial",
        "_slab",
        "fast_path",
        "fix_pfmemalloc",
        "min_partial",
        "name",
        "nr_active",
        "nr_slabs",
        "owner",
        "pages",
        "spec",
    )

    def __init__(self, name: str, spec: CacheSpec, pages: PageAllocator) -> None:
        self.name = name
        self.spec = spec
        self.pages = pages
        self.owner = pages.ledger.owner(f"slab:{name}")
        self.fix_pfmemalloc = pages.fixes.slab_pfmemalloc
        self.fast_path = pages.fixes.slub_fast_path or not self.fix_pfmemalloc
        self.min_partial = min(max((spec.object_bytes.bit_length() - 1) // 2, MIN_PARTIAL), MAX_PARTIAL)
        # a slab made at the smallest order holds fewer objects
        self._nr_at_min = max(1, (PAGE_SIZE << spec.min_order) // max(spec.object_bytes, 1))
        self._free: dict[int, int] = {}
        """Free objects by slab."""
        self._order_of: dict[int, int] = {}
        self._slab = -1
        """The current slab (kmem_cache_cpu.slab)."""
        self._partial: OrderedDict[int, None] = OrderedDict()
        self.nr_active = 0
        self.nr_slabs = 0

    def _capacity(self, slab: int) -> int:
        return self.spec.nr_objects if self._order_of[slab] == self.spec.order else self._nr_at_min

    def _match(self, slab: int, *, entitled: bool) -> bool:
        """Whether a request may take objects of this slab (pfmemalloc_match)."""
        if not self.fix_pfmemalloc or entitled:
            return True
        return not self.pages.frames.flags_of[slab] & PG_PFMEMALLOC

    def _take(self, task: Task, gfp: int) -> int:
        """Take a free object without a new slab, or return -1."""
        slab = self._slab
        free = self._free
        if slab >= 0 and free[slab]:
            if self.fast_path or self._match(slab, entitled=self.pages.gfp_pfmemalloc_allowed(task, gfp)):
                free[slab] -= 1
                self.nr_active += 1
                return slab
            self._deactivate()
        if self._partial:
            entitled = self.pages.gfp_pfmemalloc_allowed(task, gfp)
            for candidate in self._partial:
                if self._match(candidate, entitled=entitled):
                    del self._partial[candidate]
                    self._slab = candidate
                    free[candidate] -= 1
                    self.nr_active += 1
                    return candidate
        return -1

    def _deactivate(self) -> None:
        """Put the current slab, which has free objects, with the partial ones (deactivate_slab)."""
        slab, self._slab = self._slab, -1
        self._note_freed(slab, 0)

    def take_many(self, task: Task, gfp: int, nr: int) -> list[int]:
        """Take up to ``nr`` objects that are there without a new slab."""
        slab = self._slab
        if slab >= 0 and self._free[slab] >= nr and self.fast_path:
            self._free[slab] -= nr
            self.nr_active += nr
            return [slab] * nr
        taken: list[int] = []
        while len(taken) < nr:
            found = self._take(task, gfp)
            if found < 0:
                break
            # what else the slab has
            more = min(self._free[found], nr - len(taken) - 1)
            self._free[found] -= more
            self.nr_active += more
            taken += [found] * (more + 1)
        return taken

    def nr_ready(self) -> int:
        """Return how many free objects the slabs hold, reserved ones not counted."""
        flags = self.pages.frames.flags_of
        free = self._free
        current = self._slab
        total = free[current] if current >= 0 and (self.fast_path or not flags[current] & PG_PFMEMALLOC) else 0
        for slab in self._partial:
            if not flags[slab] & PG_PFMEMALLOC:
                total += free[slab]
        return total

    def _first_mask(self, gfp: int) -> int:
        """The mask for the best order: a blocking request neither reclaims nor uses the reserve for it."""
        mask = (gfp | GFP_NOWARN | GFP_NORETRY) & ~GFP_NOFAIL
        if mask & GFP_DIRECT_RECLAIM and self.spec.order > self.spec.min_order:
            mask = (mask | GFP_NOMEMALLOC) & ~GFP_RECLAIM
        return mask | (GFP_RECLAIMABLE if self.spec.reclaimable else 0)

    def _add_slab(self, pfn: int, order: int) -> int:
        """Make a page block the current slab and take its first object."""
        self._order_of[pfn] = order
        self._free[pfn] = self._capacity(pfn) - 1
        if self._slab >= 0 and self._free[self._slab]:
            self._partial[self._slab] = None
        self._slab = pfn
        self.nr_slabs += 1
        self.nr_active += 1
        vmstat = self.pages.vmstat
        if self.spec.reclaimable:
            vmstat.nr_slab_reclaimable += 1 << order
        else:
            vmstat.nr_slab_unreclaimable += 1 << order
        return pfn

    def try_alloc(self, task: Task, gfp: int) -> int:
        """Allocate an object without sleeping; return its slab or -1."""
        found = self._take(task, gfp)
        if found >= 0:
            return found
        spec = self.spec
        mask = self._first_mask(gfp & ~GFP_DIRECT_RECLAIM)
        pfn = self.pages.try_alloc_pages(task, spec.order, mask, self.owner)
        if pfn >= 0:
            return self._add_slab(pfn, spec.order)
        if spec.order > spec.min_order:
            reclaimable = GFP_RECLAIMABLE if spec.reclaimable else 0
            pfn = self.pages.try_alloc_pages(task, spec.min_order, gfp & ~GFP_DIRECT_RECLAIM | reclaimable, self.owner)
            if pfn >= 0:
                return self._add_slab(pfn, spec.min_order)
        elif not gfp & GFP_NOWARN:
            self.pages.warn_alloc(task, spec.order, gfp)
        return -1

    async def alloc(self, task: Task, gfp: int) -> int:
        """Allocate an object, sleeping as the mask allows; return its slab or -1."""
        found = self._take(task, gfp)
        if found >= 0:
            return found
        spec = self.spec
        if spec.order > spec.min_order:
            pfn = self.pages.try_alloc_pages(task, spec.order, self._first_mask(gfp) & ~GFP_DIRECT_RECLAIM, self.owner)
            if pfn >= 0:
                return self._add_slab(pfn, spec.order)
        # MODEL: where the best order is the smallest it is tried once, as asked; allocate_slab tries it first without
        # retrying, which differs only by a second reclaim while memory is short
        reclaimable = GFP_RECLAIMABLE if spec.reclaimable else 0
        pfn = await self.pages.alloc_pages(task, spec.min_order, gfp | reclaimable, self.owner)
        return self._add_slab(pfn, spec.min_order) if pfn >= 0 else -1

    def free(self, slab: int) -> None:
        """Give one object back to its slab; an empty slab may go back to the page allocator."""
        free = self._free
        before = free[slab]
        free[slab] = before + 1
        self.nr_active -= 1
        assert self.nr_active >= 0
        if slab != self._slab and (not before or len(self._partial) >= self.min_partial):
            self._note_freed(slab, before)

    def free_many(self, slabs: list[int]) -> None:
        """Give objects back one after another; those of one slab that follow each other, together."""
        free = self._free
        start = 0
        nr = len(slabs)
        while start < nr:
            slab = slabs[start]
            end = start + 1
            while end < nr and slabs[end] == slab:
                end += 1
            before = free[slab]
            free[slab] = before + end - start
            self.nr_active -= end - start
            start = end
            if slab != self._slab:
                self._note_freed(slab, before)
        assert self.nr_active >= 0

    def _note_freed(self, slab: int, before: int) -> None:
        """A slab that is not the current one has more free objects than before: it is partial, or may go."""
        if not before:
            self._partial[slab] = None
        if len(self._partial) >= self.min_partial and self._free[slab] == self._capacity(slab):
            self._discard(slab)

    def _discard(self, slab: int) -> None:
        del self._partial[slab]
        del self._free[slab]
        order = self._order_of.pop(slab)
        self.nr_slabs -= 1
        vmstat = self.pages.vmstat
        if self.spec.reclaimable:
            vmstat.nr_slab_reclaimable -= 1 << order
        else:
            vmstat.nr_slab_unreclaimable -= 1 << order
        self.pages.free_pages(slab, order)

    def adopt(self, pfn: int, nr_used: int) -> None:
        """Make a block that boot set aside the current slab; some of its objects are in use and never come back."""
        assert self._slab < 0
        self._order_of[pfn] = self.spec.order
        self._free[pfn] = self.spec.nr_objects - nr_used
        self.nr_active += nr_used
        self._slab = pfn
        self.nr_slabs += 1
        if self.spec.reclaimable:
            self.pages.vmstat.nr_slab_reclaimable += 1 << self.spec.order
        else:
            self.pages.vmstat.nr_slab_unreclaimable += 1 << self.spec.order

    def free_objects(self) -> int:
        """Return how many objects are free in all slabs."""
        return sum(self._free.values())

    def slabs(self) -> dict[int, int]:
        """Return free objects by slab."""
        return dict(self._free)


class SlabCaches:
    """The caches of one host, by name."""

    __slots__ = ("_caches", "pages")

    def __init__(self, pages: PageAllocator) -> None:
        self.pages = pages
        self._caches: dict[str, SlabCache] = {}

    def __getitem__(self, name: str) -> SlabCache:
        cache = self._caches.get(name)
        if cache is None:
            cache = self._caches[name] = SlabCache(name, CACHES[name], self.pages)
        return cache

    def add(self, name: str, spec: CacheSpec) -> SlabCache:
        """Make a cache that is not in the table (kmem_cache_create)."""
        assert name not in self._caches
        cache = self._caches[name] = SlabCache(name, spec, self.pages)
        return cache

    def caches(self) -> list[SlabCache]:
        """Return all caches in use, in order of first use."""
        return list(self._caches.values())
