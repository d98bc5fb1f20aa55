"""bios: the small objects without which no page can be written.

Mirrors block/bio.c as far as swap uses it: one bio a page from ``fs_bio_set``, a mempool of two elements over a slab
cache whose objects sit 21 to a page in the recorded kernel. While free memory is at or below the min mark (with its
boost) the slab cannot grow, since mempool masks carry ``__GFP_NOMEMALLOC``: then the objects of the slab pages that
are there, the pool's two among them, are all that can be in flight, and the next submitter sleeps.

A bio is known by its slab; nothing else of it is needed.
"""

from collections.abc import Callable, Iterable
from typing import Final

from netvm.mm.mempool import Mempool, SlabElements
from netvm.mm.slab import SlabCache
from netvm.runtime.task import Provider, Task
from netvm.runtime.world import World

__all__ = ["BIO_POOL_SIZE", "BioSet"]

BIO_POOL_SIZE: Final = 2


class BioSet:
    """``fs_bio_set``: where one-page bios come from."""

    __slots__ = ("cache", "pool")

    def __init__(
        self,
        world: World,
        cache: SlabCache,
        *,
        nomemalloc: bool,
        providers: Callable[[], Iterable[Task | Provider]],
    ) -> None:
        self.cache = cache
        self.pool: Mempool[int] = Mempool(
            world,
            f"fs_bio_set {cache.name}",
            min_nr=BIO_POOL_SIZE,
            allocator=SlabElements(cache),
            nomemalloc=nomemalloc,
            providers=providers,
        )

    def fill(self, task: Task) -> None:
        """Set the pool's elements aside (bioset_init); memory is plentiful then."""
        self.pool.fill_at_boot(task)

    def nr_ready(self) -> int:
        """Return how many bios could be had without a new slab page."""
        return self.cache.nr_ready()

    def take_many(self, task: Task, gfp: int, nr: int) -> list[int]:
        """Take up to ``nr`` bios that are there."""
        taken = self.cache.take_many(task, gfp, nr)
        self.pool.nr_out += len(taken)
        return taken

    async def bio_alloc_bioset(self, task: Task, gfp: int) -> int:
        """Take one bio, waiting for as long as it takes."""
        return await self.pool.mempool_alloc(task, gfp)

    def free(self, bios: list[int]) -> None:
        """Give bios back, one by one: each may end a wait (bio_put)."""
        pool = self.pool
        if len(pool.elements) >= pool.min_nr:
            pool.nr_out -= len(bios)
            self.cache.free_many(bios)
            return
        for bio in bios:
            pool.free(bio)
