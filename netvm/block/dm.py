"""Device-mapper: a device without a queue, which maps each bio in the context of who submits it.

Mirrors the bio-based half of drivers/md/dm.c. ``dm_make_request`` (``dm_submit_bio`` since 5.9) is called by whoever
submits: a reclaimer that swaps comes here itself, with PF_MEMALLOC. Each bio is cloned (``__split_and_process_bio``,
``alloc_tio``, ``clone_bio``) with GFP_NOIO out of a bio set that keeps 16, and handed to the target, which may keep it
for as long as it likes. There are no tags and nothing is merged: how many bios are under way is bounded by the memory
for clones alone. Requests are formed in the queue of the device below, from what the target submits there.

A clone carries what dm and the target need to know about it: ``struct dm_target_io`` before it, and before that as much
as the target has asked for (``per_bio_data_size``, 3.8; ``per_io_data_size`` since 4.6). With dm-crypt (since 3.17)
that is ``struct dm_crypt_io``, the cipher's request and the initialisation vector: half a kilobyte, and 200 bytes of
bio.

Since 5.12 (``swap_bios_limit``) a semaphore bounds the bios of swap (``REQ_SWAP``) that a target has which asks for
that, as dm-crypt does: 2,048, which is 8 MiB of pages. Who submits one more waits until one has ended.

# MODEL: the clone's size is 4.6's. 3.6 had the same in four objects of 400 bytes together, and 6.1 has about a
kilobyte, since a cipher's request knows four runs of memory there. ``struct dm_io`` (56 bytes, a pool of its own until
4.15) is left out. Cloning and mapping cost no CPU time beside encrypting.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from netvm.block.blk_mq import BLK_STS_OK, BlockDriver, Request, RequestQueue
from netvm.block.blk_wbt import REQ_SWAP, Wbt
from netvm.block.plug import Plug
from netvm.mm.gfp import GFP_NOIO
from netvm.mm.mempool import Mempool, SlabElements
from netvm.mm.slab import CacheSpec, SlabCache
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.trace.recorder import Recorder

__all__ = ["CRYPT_CLONE_CACHE", "RESERVED_BIO_BASED_IOS", "SWAP_BIOS_LIMIT", "MappedDevice", "Target"]

RESERVED_BIO_BASED_IOS: Final = 16
"""Clones set aside for a mapped device."""
SWAP_BIOS_LIMIT: Final = 2048
"""dm_mod.swap_bios: DEFAULT_SWAP_BIOS is 8 MiB worth."""
CRYPT_CLONE_CACHE: Final = ("bio-720", CacheSpec(768, 10, 1))
"""Clones for dm-crypt with aes-xts, x86-64 of 4.6: dm_crypt_io 208, ablkcipher_request and what cryptd adds 168,
dm_crypt_request 80, the vector and its alignment 32, dm_target_io 32, a bio with four vectors 200; a bio's slab is
aligned to 64."""


class Target(BlockDriver, Protocol):
    """What a mapped device asks of its target (``struct target_type``); a bio is given to it as a request is."""

    lower: RequestQueue


class MappedDevice:
    """``/dev/dm-0`` (``struct mapped_device``): a target behind a device that takes bios."""

    def __init__(self, target: Target, cache: SlabCache, *, max_pages: int) -> None:
        fixes = cache.pages.fixes
        self.world = target.lower.world
        self.name = target.name
        self.driver = target
        self.max_pages = max_pages
        """Longest clone: a longer bio is split (dm_accept_partial_bio)."""
        self.wbt: Wbt | None = None
        self.limit = SWAP_BIOS_LIMIT if fixes.swap_bios_limit else None
        """Most bios of swap under way at once; None: no bound."""
        self.nr_swap_bios = self.nr_swap_bios_peak = 0
        self.completed = self.failed = 0
        self._cache = cache
        self._next_number = 1
        # invariant: bios that have been submitted and have not ended, each a run of pages, by number
        self._outstanding: dict[int, Request] = {}
        # invariant: who submits such a bio and has not given it to the target
        self._submitting: dict[int, Task] = {}
        self.pool: Mempool[int] = Mempool(
            self.world,
            f"{self.name} bio_set {cache.name}",
            min_nr=RESERVED_BIO_BASED_IOS,
            allocator=SlabElements(cache),
            nomemalloc=fixes.mempool_nomemalloc,
            providers=self._clones,
        )
        self._room = WaitQueue(
            self.world, Resource("request", f"swap_bios_semaphore {self.name}", self._swap_bios_under_way)
        )

    def fill(self, task: Task) -> None:
        """Set the clones aside (dm_alloc_md_mempools). Raises UsageError if the machine has no memory for some."""
        self.pool.fill_at_boot(task)

    @property
    def outstanding(self) -> Mapping[int, Request]:
        """Bios that have not ended, by number."""
        return self._outstanding

    @property
    def tracer(self) -> Recorder | None:
        """Requests are the device's below."""
        return self.driver.lower.tracer

    @tracer.setter
    def tracer(self, recorder: Recorder | None) -> None:
        self.driver.lower.tracer = recorder

    # -- submission -----------------------------------------------------------------------------------------------

    def start_plug(self, task: Task) -> Plug:
        """Begin to collect a task's requests: those that the target submits below while it maps."""
        return self.driver.lower.start_plug(task)

    async def submit_pages(
        self,
        task: Task,
        plug: Plug,  # noqa: ARG002  the device's shape: nothing is collected here
        *,
        write: bool,
        slot: int,
        pfns: list[int],
        bios: list[int],
        versions: list[int],
        end_io: Callable[[Request, int, Task], None],
        opf: int = 0,
    ) -> None:
        """Submit a bio for each page, or, with no ``bios``, one for all of them; may sleep for a clone."""
        length = 1 if bios else self.max_pages
        for begin in range(0, len(pfns), length):
            end = begin + length
            bio = Request(
                write=write,
                slot=slot + begin,
                pfns=pfns[begin:end],
                bios=bios[begin:end],
                versions=versions[begin:end],
                opf=opf,
            )
            bio.end_io = end_io
            await self._submit_bio(task, bio)

    async def _submit_bio(self, task: Task, bio: Request) -> None:
        """Clone a bio and map it (__split_and_process_bio, __map_bio)."""
        bio.number = self._next_number
        self._next_number += 1
        bio.queued_ns = self.world.now_ns
        self._outstanding[bio.number] = bio
        self._submitting[bio.number] = task
        bio.cookie = await self.pool.mempool_alloc(task, GFP_NOIO)
        if bio.opf & REQ_SWAP:
            while self.limit is not None and self.nr_swap_bios >= self.limit:
                await self._room.wait(task)
            self.nr_swap_bios += 1
            self.nr_swap_bios_peak = max(self.nr_swap_bios_peak, self.nr_swap_bios)
        del self._submitting[bio.number]
        bio.started_ns = self.world.now_ns
        status = self.driver.queue_rq_nowait(bio)
        assert status == BLK_STS_OK

    def try_plug_merge(self, *_bio: object) -> bool:
        """Nothing is merged before it is mapped."""
        return False

    def room(self, *_bio: object) -> int:
        """There is no request to merge with."""
        return 0

    def merge(self, *bio: object) -> None:
        """Never called: there is no room."""
        raise AssertionError(f"{self.name} has no requests: {bio}")

    # -- completion -----------------------------------------------------------------------------------------------

    def end_request(self, bio: Request, error: int, task: Task) -> None:
        """The target is done with a bio: free the clone, then end the bio itself (clone_endio, dec_pending)."""
        del self._outstanding[bio.number]
        if bio.opf & REQ_SWAP:
            self.nr_swap_bios -= 1
            self._room.wake_one()
        self.pool.free(bio.cookie)
        self.completed += 1
        if error:
            self.failed += 1
        assert bio.end_io is not None
        bio.end_io(bio, error, task)

    # -- looking in -----------------------------------------------------------------------------------------------

    def submitter(self, bio: Request) -> Task | None:
        """Return who submits a bio and has not come to the target with it."""
        return self._submitting.get(bio.number)

    def _clones(self) -> list[Provider | Task]:
        """Say who could give a clone back: bios that have one."""
        return [self.driver.needs(bio) for bio in self._outstanding.values() if bio.cookie is not None]

    def _swap_bios_under_way(self) -> list[Provider | Task]:
        return [
            self.driver.needs(bio)
            for bio in self._outstanding.values()
            if bio.opf & REQ_SWAP and bio.number not in self._submitting
        ]

    def providers(self) -> list[Provider | Task]:
        """Return what each bio under way waits for."""
        return [self.driver.needs(bio) for bio in self._outstanding.values()]

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state and its target's could make a retry succeed."""
        mine = (len(self._outstanding), len(self._submitting), len(self.pool.elements), self.completed, self.failed)
        return (*mine, self.driver.digest())
