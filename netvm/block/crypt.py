"""dm-crypt: a device above a device that needs a page for each page it writes.

Mirrors drivers/md/dm-crypt.c, a target of :mod:`netvm.block.dm`. A bio that is mapped (``crypt_map``) is handed to the
``kcryptd`` workqueue; its worker takes a page for each page written from a mempool of 256, without sleeping at first,
and if that fails under a mutex with GFP_NOIO, and encrypts into them. The pages come back when the device below has
written them. So every page on its way out holds two, and reclaim that writes faster than the device can fills memory
with copies. A read is decrypted in place.

What is encrypted goes down from a thread of its own, ``dmcrypt_write``, in the order of the device and under one plug
(``crypt_write_thread``, 4.0): where the device below has no tag left it is that thread that waits, and the workers go
on to take pages. Before, the worker sends what it has encrypted and waits itself.

Two workers that each hold part of the pool and wait for the rest would wait for ever: hence the mutex
(``crypt_alloc_mutex``, 4.0), under which one at a time takes pages with sleeping. The rule behind it: pages of the
largest request times workers must not exceed the pool.

# MODEL: one worker a CPU. The bio that carries the copies (200 bytes, 64 of them kept) is left out. A read is sent by
the worker, as one that finds no memory at once is, and decrypted where it ends.
"""

from collections import deque
from typing import Any, Final

from netvm.block.blk_mq import BLK_STS_OK, Request, RequestQueue
from netvm.block.dm import MappedDevice
from netvm.block.stacked import Part, StackedDevice
from netvm.mm.gfp import GFP_HIGHMEM, GFP_NOIO, GFP_NOWAIT, PF_KTHREAD
from netvm.mm.mempool import Mempool
from netvm.mm.page_alloc import PageAllocator
from netvm.runtime.costs import CpuCosts
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import Semaphore, WaitQueue
from netvm.runtime.workqueue import WorkItem, Workqueue

__all__ = ["CRYPT_PAGE_POOL", "CryptDevice"]

CRYPT_PAGE_POOL: Final = 256
"""BIO_MAX_VECS pages in the pool."""


class _Pages:
    """The page allocator as the pool's underlying allocator."""

    __slots__ = ("owner", "pages")

    def __init__(self, pages: PageAllocator, owner: int) -> None:
        self.pages = pages
        self.owner = owner

    def try_alloc(self, task: Task, gfp: int) -> int | None:
        pfn = self.pages.try_alloc_pages(task, 0, gfp, self.owner)
        return pfn if pfn >= 0 else None

    async def alloc(self, task: Task, gfp: int) -> int | None:
        pfn = await self.pages.alloc_pages(task, 0, gfp, self.owner)
        return pfn if pfn >= 0 else None

    def free(self, element: int) -> None:
        self.pages.free_pages(element, 0)


class CryptDevice(StackedDevice):
    """The encrypting target over another queue."""

    blocking = False
    queue: MappedDevice

    def __init__(
        self, pages: PageAllocator, lower: RequestQueue, *, workqueue: Workqueue, costs: CpuCosts, nr_workers: int = 1
    ) -> None:
        super().__init__(lower)
        self.workqueue = workqueue
        self.costs = costs
        fixes = pages.fixes
        self.takes_alone = fixes.crypt_alloc_mutex
        self.has_write_thread = fixes.crypt_write_thread
        self.nr_in_flight = 0
        """Pages written that have copies."""
        self._pages = _Pages(pages, pages.ledger.owner("dm-crypt"))
        self.page_pool: Mempool[int] = Mempool(
            pages.world,
            "crypt page_pool",
            min_nr=CRYPT_PAGE_POOL,
            allocator=self._pages,
            nomemalloc=fixes.mempool_nomemalloc,
            providers=self._writes_below,
        )
        self._alloc_lock = Semaphore(pages.world, "bio_alloc_lock dm-crypt")
        # invariant: writes that are encrypted and not yet sent, with their copies, by number
        self._write_tree: dict[int, tuple[Request, list[int]]] = {}
        idle = Resource("work", f"dmcrypt_write {self.name}: a write", external=True)
        self._write_thread_wait = WaitQueue(pages.world, idle)
        self._write_thread: Task | None = None
        self._commands: deque[Request] = deque()
        self._works = [WorkItem(f"kcryptd_crypt dm-0.{i}", self.kcryptd_crypt) for i in range(nr_workers)]

    def fill(self, task: Task) -> None:
        """Set the pool's pages aside (crypt_ctr). Raises UsageError if the machine has none for some."""
        self.page_pool.fill_at_boot(task)

    def start(self, cpus: Cpus | None) -> None:
        """Start the thread that sends what is encrypted (crypt_ctr)."""
        if self.has_write_thread:
            world = self.lower.world
            self._write_thread = world.spawn("dmcrypt_write", self.dmcrypt_write, cpus=cpus, flags=PF_KTHREAD)

    def _writes_below(self) -> list[Provider | Task]:
        """Say who could give a page back: writes below, and workers that hold pages."""
        found: list[Provider | Task] = [
            self.lower.driver.needs(rq) for rq in self.lower.outstanding.values() if rq.write
        ]
        if not found and self._write_tree and self._write_thread is not None:
            return [self._write_thread]
        return found or [
            work.running_on.task
            for work in self._works
            if work.running_on is not None and work.running_on.task is not None
        ]

    async def queue_rq(self, task: Task, rq: Request) -> int:  # noqa: ARG002  the driver's shape
        """Hand a bio to the worker."""
        return self.queue_rq_nowait(rq)

    def queue_rq_nowait(self, rq: Request) -> int:
        """Hand a bio to the worker (crypt_map)."""
        self._commands.append(rq)
        for work in self._works:
            if work.running_on is None and not work.pending:
                self.workqueue.queue_work(work)
                break
        return BLK_STS_OK

    async def kcryptd_crypt(self, task: Task) -> None:
        """Encrypt and send on what is queued (kcryptd_crypt_write_convert, kcryptd_io_read)."""
        while self._commands:
            rq = self._commands.popleft()
            if rq.write:
                await self.kcryptd_crypt_write_convert(task, rq)
            else:
                await self._submit(task, rq, [], rq.pfns)
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    async def kcryptd_crypt_write_convert(self, task: Task, rq: Request) -> None:
        """Encrypt a bio into pages of its own, and see that it is sent (kcryptd_crypt_write_io_submit)."""
        copies = await self.crypt_alloc_buffer(task, rq.nr_pages)
        self.nr_in_flight += rq.nr_pages
        task.charge_ns += rq.nr_pages * self.costs.crypt_page
        if self._write_thread is None:
            await self._submit(task, rq, copies, copies)
            return
        self._write_tree[rq.number] = (rq, copies)
        self._write_thread_wait.wake_all()

    async def dmcrypt_write(self, task: Task) -> None:
        """Send what is encrypted, as it lies on the device, under one plug (dmcrypt_write)."""
        while True:
            while not self._write_tree:
                await self._write_thread_wait.wait(task)
            plug = self.lower.start_plug(task)
            for rq, copies in sorted(self._write_tree.values(), key=lambda write: write[0].slot):
                await self.hand_down(task, plug, Part(rq, rq.slot, rq.nr_pages, copies), list(copies))
                del self._write_tree[rq.number]
            plug.finish()
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    async def crypt_alloc_buffer(self, task: Task, nr_pages: int) -> list[int]:
        """Take the pages of one request: without sleeping, or else alone and for as long as it takes."""
        if not self.takes_alone:
            return await self._take_one_by_one(task, nr_pages)
        copies: list[int] = []
        while len(copies) < nr_pages:
            page = self.page_pool.try_alloc(task, GFP_NOWAIT | GFP_HIGHMEM)
            if page is None:
                break
            copies.append(page)
        if len(copies) == nr_pages:
            return copies
        for page in copies:
            self.page_pool.free(page)
        await self._alloc_lock.down(task)
        copies = await self._take_one_by_one(task, nr_pages)
        self._alloc_lock.up(task)
        return copies

    async def _take_one_by_one(self, task: Task, nr_pages: int) -> list[int]:
        copies = []
        for _ in range(nr_pages):
            copies.append(await self.page_pool.mempool_alloc(task, GFP_NOIO | GFP_HIGHMEM))
            if task.cpus is not None:
                # a worker on another CPU takes its pages at the same time
                await task.cpus.pay(task)
        return copies

    async def _submit(self, task: Task, rq: Request, copies: list[int], pfns: list[int]) -> None:
        plug = self.lower.start_plug(task)
        await self.hand_down(task, plug, Part(rq, rq.slot, rq.nr_pages, copies), list(pfns))
        plug.finish()

    def part_done(self, part: Part, task: Task) -> None:
        """Give the copies of a write back; decrypt what a read has brought."""
        for page in part.held:
            self.page_pool.free(page)
        if part.rq.write:
            self.nr_in_flight -= part.nr_pages
        else:
            task.charge_ns += part.nr_pages * self.costs.crypt_page

    def needs(self, rq: Request) -> Provider:
        """A bio waits for who submits it, for a worker, for the thread that sends, or for the device below."""
        submitter = self.queue.submitter(rq)
        if submitter is not None:
            return Provider(name=f"{self.name}: {rq}, being submitted", needs=(submitter,))
        runners = [work.running_on.task for work in self._works if work.running_on is not None]
        if rq in self._commands:
            queued = Provider(name=f"{self.name}: {rq}, queued", needs=(self.workqueue.pool.needs_worker,))
            busy = [task for task in runners if task is not None]
            return Provider(name=queued.name, needs=(busy[0],)) if len(busy) == len(self._works) else queued
        if rq.number in self._write_tree and self._write_thread is not None:
            return Provider(name=f"{self.name}: {rq}, encrypted", needs=(self._write_thread,))
        below = self.needs_below(rq)
        if below is not None:
            return below
        if self.is_below(rq):
            return Provider(name=f"{self.name}: {rq}, in the queue of {self.lower.name}", needs=(self.lower.tag,))
        return Provider(name=f"{self.name}: {rq}, being encrypted", needs=(self.page_pool.resource,))

    def digest(self) -> tuple[Any, ...]:
        """Return what of its state could make a retry succeed."""
        mine = (len(self._commands), len(self._write_tree), self.nr_in_flight, len(self.page_pool.elements))
        return (*mine, self.lower.digest())
