"""What a call needs in memory before it can be sent: sunrpc's and NFS's slab caches and their reserves.

Sizes and order are those of 6.1. Every object is asked for with its own mask first; only where there is a mempool, and
only when that failed, an element of it is taken without waiting (``rpc_malloc``, ``rpc_alloc_task``,
``nfs_writehdr_alloc``): a mempool here is a fallback for workers that must not sleep. Without the fix
``rpc_alloc_nowait`` the buffer is a mempool allocation like any other, and a worker of rpciod may sleep in it; without
``nfs_alloc_nowait`` so are the headers of WRITEs and COMMITs, and a worker of nfsiod may.

A pool knows its objects that are out and who has each: the task that took it and then, once there is one, the call
that it is for. So a wait in the pool names what it waits for.

What a run of pages costs besides: one ``nfs_page`` a page, an array of page pointers where there are more than eight,
and the ``bio_vec`` array that sendmsg walks.
"""

from collections.abc import Callable
from typing import Final

from netvm.fixes import Fixes
from netvm.mm.gfp import GFP_KERNEL, GFP_NOIO, GFP_NORETRY, GFP_NOWAIT, GFP_NOWARN
from netvm.mm.mempool import Mempool, SlabElements
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import CacheSpec, SlabCache, SlabCaches
from netvm.runtime.task import Provider, Task
from netvm.runtime.workqueue import PF_WQ_WORKER
from netvm.runtime.world import World

__all__ = ["NfsPools", "PoolObject", "SlabPool", "kmalloc_cache", "rpc_task_gfp_mask"]

MIN_POOL_WRITE: Final = 32
MIN_POOL_COMMIT: Final = 4
RPC_TASK_POOLSIZE: Final = 8
RPC_BUFFER_POOLSIZE: Final = 8
NFS_PAGEVEC_SIZE: Final = 8
"""Pages whose pointers fit into the header itself."""
PAGE_POINTER_BYTES: Final = 8
BIO_VEC_BYTES: Final = 16

_CACHES: Final = {
    "rpc_tasks": CacheSpec(256, 16, 0),
    "rpc_buffers": CacheSpec(2048, 8, 2),
    "nfs_write_data": CacheSpec(1024, 8, 1),
    "nfs_read_data": CacheSpec(1024, 8, 1),
    "nfs_commit_data": CacheSpec(768, 10, 1),
    "nfs_direct_cache": CacheSpec(184, 22, 0),
    "nfs_page": CacheSpec(128, 32, 0),
    "kmalloc-128": CacheSpec(128, 32, 0),
    "kmalloc-512": CacheSpec(512, 8, 0),
}
_KMALLOC: Final = (128, 256, 512, 1024, 2048, 4096)


def rpc_task_gfp_mask(task: Task) -> int:
    """Return the mask of an RPC task's allocations (rpc_task_gfp_mask, nfs_io_gfp_mask): a worker gives up early."""
    return GFP_KERNEL | GFP_NORETRY | GFP_NOWARN if task.flags & PF_WQ_WORKER else GFP_KERNEL


def kmalloc_cache(size_bytes: int) -> str:
    """Return the kmalloc cache of a size; the smallest here is of 128 bytes."""
    for size in _KMALLOC:
        if size_bytes <= size:
            return f"kmalloc-{size}" if size < 1024 else f"kmalloc-{size // 1024}k"
    raise AssertionError(f"{size_bytes} bytes are no kmalloc object of this model")


class PoolObject:
    """An object that somebody has."""

    __slots__ = ("holder", "slab")

    def __init__(self, slab: int, holder: Callable[[], Task | Provider]) -> None:
        self.slab = slab
        self.holder = holder
        """Says who has it, and what that one waits for."""


class SlabPool:
    """A slab cache with elements set aside for when it fails."""

    __slots__ = ("_out", "cache", "pool")

    def __init__(self, world: World, cache: SlabCache, *, min_nr: int, nomemalloc: bool) -> None:
        self.cache = cache
        self.pool: Mempool[int] = Mempool(
            world,
            f"{cache.name} mempool",
            min_nr=min_nr,
            allocator=SlabElements(cache),
            nomemalloc=nomemalloc,
            providers=self.holders,
        )
        # invariant: what is out, oldest first
        self._out: dict[PoolObject, None] = {}

    def holders(self) -> list[Task | Provider]:
        """Return who has an object, and would give it back."""
        return [out.holder() for out in self._out]

    def fill(self, task: Task) -> None:
        """Set the elements aside; memory is plentiful then."""
        elements = [self.cache.try_alloc(task, GFP_NOWAIT) for _ in range(self.pool.min_nr)]
        self.pool.fill(elements)

    async def alloc(self, task: Task, gfp: int) -> PoolObject | None:
        """Take an object: the cache with the mask, then the reserve without waiting; None if both are empty."""
        found = await self.cache.alloc(task, gfp)
        if found < 0:
            return self.try_alloc(task, GFP_NOWAIT)
        self.pool.nr_out += 1
        return self._taken(task, found)

    def try_alloc(self, task: Task, gfp: int) -> PoolObject | None:
        """Take an object without sleeping: the cache, then the reserve; None if both are empty."""
        found = self.pool.try_alloc(task, gfp)
        return None if found is None else self._taken(task, found)

    async def wait_for(self, task: Task, gfp: int) -> PoolObject:
        """Take an object, sleeping for one if it must be (mempool_alloc)."""
        return self._taken(task, await self.pool.mempool_alloc(task, gfp))

    def _taken(self, task: Task, slab: int) -> PoolObject:
        taken = PoolObject(slab, lambda: task)
        self._out[taken] = None
        return taken

    def free(self, taken: PoolObject) -> None:
        """Give an object back, to the reserve first (mempool_free)."""
        del self._out[taken]
        self.pool.free(taken.slab)


class NfsPools:
    """Everything the client allocates from."""

    def __init__(self, world: World, pages: PageAllocator, slabs: SlabCaches, fixes: Fixes) -> None:
        self.pages = pages
        self.fixes = fixes
        self._slabs = slabs
        self.caches = {name: self._cache(name) for name in _CACHES}
        nomemalloc = fixes.mempool_nomemalloc

        def reserve(name: str, min_nr: int) -> SlabPool:
            return SlabPool(world, self.caches[name], min_nr=min_nr, nomemalloc=nomemalloc)

        self.tasks = reserve("rpc_tasks", RPC_TASK_POOLSIZE)
        self.buffers = reserve("rpc_buffers", RPC_BUFFER_POOLSIZE)
        self.write_headers = reserve("nfs_write_data", MIN_POOL_WRITE)
        self.commit_headers = reserve("nfs_commit_data", MIN_POOL_COMMIT)
        self.read_headers = self.caches["nfs_read_data"]
        self.direct_requests = self.caches["nfs_direct_cache"]
        self.nfs_pages = self.caches["nfs_page"]

    def _cache(self, name: str) -> SlabCache:
        for cache in self._slabs.caches():
            if cache.name == name:
                return cache
        return self._slabs.add(name, _CACHES[name])

    def fill(self, task: Task) -> None:
        """Set every reserve aside (rpc_init_mempool, nfs_init_writepagecache)."""
        for reserve in (self.tasks, self.buffers, self.write_headers, self.commit_headers):
            reserve.fill(task)

    def kmalloc(self, size_bytes: int) -> SlabCache:
        """Return the cache that an object of this size comes from."""
        name = kmalloc_cache(size_bytes)
        return self.caches[name] if name in self.caches else self._slabs[name]

    def io_gfp_mask(self, task: Task, *, write: bool) -> int:
        """Return the mask of what a READ or WRITE takes (nfs_io_gfp_mask)."""
        return rpc_task_gfp_mask(task) if self.fixes.nfs_alloc_nowait or not write else GFP_NOIO

    async def header_alloc(self, task: Task, *, write: bool) -> PoolObject | None:
        """Take the header of a READ or WRITE, or None (nfs_readhdr_alloc, nfs_writehdr_alloc)."""
        if write:
            return await self._from_reserve(task, self.write_headers)
        slab = await self.read_headers.alloc(task, self.io_gfp_mask(task, write=False))
        return PoolObject(slab, lambda: task) if slab >= 0 else None

    def header_free(self, header: PoolObject, *, write: bool) -> None:
        """Give the header of a READ or WRITE back (nfs_readhdr_free, nfs_writehdr_free)."""
        if write:
            self.write_headers.free(header)
        else:
            self.read_headers.free(header.slab)

    async def pgio_header_alloc(
        self, task: Task, nr_pages: int, gfp: int, *, write: bool
    ) -> tuple[PoolObject, int] | None:
        """Take a header and, for many pages, the array of their pointers; or None (nfs_generic_pgio).

        The array, -1 if there is none, is asked for with ``gfp``.
        """
        header = await self.header_alloc(task, write=write)
        if header is None:
            return None
        if nr_pages <= NFS_PAGEVEC_SIZE:
            return header, -1
        array = await self.kmalloc(nr_pages * PAGE_POINTER_BYTES).alloc(task, gfp)
        if array < 0:
            self.header_free(header, write=write)
            return None
        return header, array

    def pgio_header_free(self, header: PoolObject, array: int, nr_pages: int, *, write: bool) -> None:
        """Give a header and its array back (nfs_pgio_header_free)."""
        if array >= 0:
            self.kmalloc(nr_pages * PAGE_POINTER_BYTES).free(array)
        self.header_free(header, write=write)

    async def commitdata_alloc(self, task: Task) -> PoolObject | None:
        """Take the header of a COMMIT, or None (nfs_commitdata_alloc)."""
        return await self._from_reserve(task, self.commit_headers)

    async def _from_reserve(self, task: Task, headers: SlabPool) -> PoolObject | None:
        gfp = self.io_gfp_mask(task, write=True)
        return await (headers.alloc if self.fixes.nfs_alloc_nowait else headers.wait_for)(task, gfp)

    async def nfs_pages_alloc(self, task: Task, nr: int, gfp: int) -> list[int] | None:
        """Take one ``nfs_page`` for each of ``nr`` pages, or none and return None (nfs_page_create)."""
        taken = self.nfs_pages.take_many(task, gfp, nr)
        while len(taken) < nr:
            found = await self.nfs_pages.alloc(task, gfp)
            if found < 0:
                self.nfs_pages_free(taken)
                return None
            taken.append(found)
        return taken

    def nfs_pages_free(self, taken: list[int]) -> None:
        """Give ``nfs_page`` objects back."""
        self.nfs_pages.free_many(taken)
