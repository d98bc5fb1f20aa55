"""A host of memory only: small zones, a swap area or none, and a device that does what a test says.

:class:`MiniHost` wires the rooms of ``mm`` and ``block`` as boot does, without network and scenario, so a test sets
exactly the state it is about. Frames below the zone's first do not exist; what is not free at the start belongs to
``boot``. Nothing runs until :meth:`MiniHost.run`, and everything that may not sleep can be tried without it.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from netvm.block.bio import BioSet
from netvm.block.blk_mq import BLK_STS_OK, BLK_STS_RESOURCE, Request, RequestQueue
from netvm.block.plug import Plug
from netvm.block.swap import SwapArea
from netvm.block.swap_file import FileSwapIo, SwapFileSystem
from netvm.block.swap_io import BlockSwapIo
from netvm.fixes import Fixes, preset
from netvm.mm.address_space import BOOT_TABLE, AddressSpace
from netvm.mm.buddy import Buddy
from netvm.mm.frames import Frames, PfnArray
from netvm.mm.gfp import PF_KTHREAD
from netvm.mm.invariants import audit_memory
from netvm.mm.kswapd import Kswapd
from netvm.mm.ledger import FREE, PCP, Ledger
from netvm.mm.lru import Lruvec
from netvm.mm.memory import Memory
from netvm.mm.oom import OomKiller
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import SlabCaches
from netvm.mm.vmscan import Vmscan
from netvm.mm.zone import MAX_ORDER, MOVABLE, Node, PerCpuPages, Zone
from netvm.runtime.clock import run_virtual
from netvm.runtime.costs import CpuCosts
from netvm.runtime.cpu import Cpus
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.workqueue import KthreadCreator, WorkerPool, Workqueue
from netvm.runtime.world import World
from netvm.trace.vmstat import VmStat
from netvm.units import NS_PER_S

START_PFN = 1 << MAX_ORDER
"""First frame of the first zone: aligned for every order."""

NR_RETRIES_MAX = 20_000
"""Looks at something that did not change, in one run: more is a loop without end."""

PAUSE = Resource("timer", "a test's own pause", external=True)


class Swapless:
    """A swap port without a device: slots are numbers, and nothing can be written."""

    needs_fs = False
    writes_synchronously = False
    write_errors = 0

    def __init__(self, nr_free: int = 0, nr_total: int = 0) -> None:
        self.nr_free = nr_free
        self.nr_total = nr_total

    def nr_free_slots(self) -> int:
        """What the test says."""
        return self.nr_free

    def nr_total_slots(self) -> int:
        """What the test says."""
        return self.nr_total

    def is_full(self) -> bool:
        """Less than half is free."""
        return self.nr_free * 2 < self.nr_total

    def start_plug(self, task: Task) -> "Swapless":
        """It is its own plug."""
        return self

    def finish(self) -> None:
        """Nothing was collected."""

    @property
    def quick(self) -> "Swapless":
        """It is its own quick way out."""
        return self

    def look(self, task: Task, plug: object, nr_pages: int) -> tuple[int, int]:
        """Nothing is at hand."""
        return 0, 0

    def add_to_swap(self, task: Task, pfns: list[int]) -> int:
        """There is no slot."""
        return 0

    async def swap_write_unplug(self, task: Task, plug: object) -> None:
        """Nothing was collected."""

    def free_swap_and_cache(self, slots: Sequence[int]) -> list[int]:
        """No page table holds a slot."""
        assert not len(slots)
        return []

    def digest(self) -> tuple[Any, ...]:
        """Nothing changes."""
        return ()


class Device:
    """A block device of versions: reads give what was written, when the test lets them."""

    name = "fake0"

    def __init__(self, world: World, softirq: Task, *, blocking: bool) -> None:
        self.world = world
        self.softirq = softirq
        self.blocking = blocking
        self.queue: RequestQueue
        self.held = False
        """Requests stay until :meth:`complete`."""
        self.delay_ns: Callable[[Request], int] = lambda rq: 100_000
        self.send_ns: Callable[[Request], int] = lambda rq: 0
        """How long ``queue_rq`` sleeps, for a driver that may."""
        self.error: Callable[[Request], int] = lambda rq: BLK_STS_OK
        self.nr_refusals = 0
        """So many requests are answered with BLK_STS_RESOURCE."""
        self.refused: list[tuple[int, Request]] = []
        self.started: list[Request] = []
        self.shapes: list[tuple[str, int, int]] = []
        """Every request as it was when it came: direction, first slot, pages."""
        self.in_flight: list[Request] = []
        self.dispatchers: list[Task | None] = []
        """Who ran when each request came."""
        self.store: dict[int, int] = {}
        """Version by slot."""

    def queue_rq_nowait(self, rq: Request) -> int:
        """Take a request, or refuse it."""
        if self.nr_refusals:
            self.nr_refusals -= 1
            self.refused.append((self.world.now_ns, rq))
            return BLK_STS_RESOURCE
        self.started.append(rq)
        self.shapes.append(("W" if rq.write else "R", rq.slot, rq.nr_pages))
        self.in_flight.append(rq)
        self.dispatchers.append(self.world.current)
        if not self.held:
            self.world.call_after(self.delay_ns(rq), self.complete, rq)
        return BLK_STS_OK

    async def queue_rq(self, task: Task, rq: Request) -> int:
        """Take a request after sending it for as long as the test says."""
        if self.send_ns(rq):
            await self.world.sleep_ns(task, self.send_ns(rq), PAUSE, kind=TimerKind.PROGRESS)
        return self.queue_rq_nowait(rq)

    def complete(self, rq: Request) -> None:
        """Do what a request asks and end it."""
        self.in_flight.remove(rq)
        error = self.error(rq)
        if not error and rq.write:
            self.store.update(zip(range(rq.slot, rq.end_slot), rq.versions, strict=True))
        elif not error:
            rq.versions = [self.store.get(slot, 0) for slot in range(rq.slot, rq.end_slot)]
        self.queue.end_request(rq, error, self.softirq)

    def digest(self) -> tuple[Any, ...]:
        """What it holds is outstanding in its queue."""
        return ()

    def release(self) -> None:
        """Complete everything that is held, and hold nothing more."""
        self.held = False
        for rq in list(self.in_flight):
            self.complete(rq)

    def needs(self, rq: Request) -> Provider:
        """Nothing of this host."""
        return Provider(name=f"{self.name}: {rq}")


def _forget(_rq: Request, _error: int, _task: Task) -> None:
    """Take the end of a request: pages of one owner merge."""


class MiniHost:
    """One machine without network.

    ``zones`` lists ``(name, managed pages)``, lowest first. ``free`` is what the highest of them has free at the start,
    as the largest blocks that fit, lowest frames first; the others are all free. ``marks`` are min, low and high of the
    highest zone. ``swap_pages`` makes a swap area on a :class:`Device`; without, ``swap`` is :class:`Swapless`.
    ``cpus`` makes CPU time a resource; without, nothing costs time but waiting.
    """

    def __init__(
        self,
        *,
        zones: Sequence[tuple[str, int]] = (("DMA32", 2048),),
        free: int | None = None,
        marks: tuple[int, int, int] = (32, 40, 48),
        pageblock_order: int = 5,
        batch: int = 1,
        high: int = 0,
        kernel: str = "6.1",
        switches: dict[str, bool] | None = None,
        boost_factor: int = 15000,
        swap_pages: int = 0,
        swappiness: int = 60,
        page_cluster: int = 3,
        rotational: bool = False,
        swap_file: SwapFileSystem | None = None,
        blocking: bool = False,
        nr_requests: int = 256,
        queue_depth: int = 128,
        max_pages: int = 32,
        cpus: int = 0,
        seed: int = 1,
    ) -> None:
        self.fixes: Fixes = preset(kernel).switched(switches or {})
        self.world = World(seeds=Seeds(seed))
        self.world.retry_fired = self._retry_fired
        self.nr_retries = 0
        self.cpus = Cpus(self.world, cpus) if cpus else None
        self.costs = CpuCosts()
        self.vmstat = VmStat()
        self.ledger = Ledger()
        self.owner_boot = self.ledger.owner("boot")
        self.owner_test = self.ledger.owner("test")
        self.frames = Frames(START_PFN + sum(managed for _, managed in zones))
        self.buddy = Buddy(self.frames, self.ledger, self.vmstat, self.fixes, boost_factor=boost_factor)
        self.node = Node([])
        start = START_PFN
        for name, managed in zones:
            zone = Zone(
                name=name,
                start_pfn=start,
                present=managed,
                managed=managed,
                pageblock_order=pageblock_order,
                fixes=self.fixes,
            )
            zone.pcp = [PerCpuPages(batch, high or 4 * batch) for _ in range(cpus or 1)]
            self.node.zones.append(zone)
            self.frames.owner[start : start + managed] = self.owner_boot
            self.ledger.counts[self.owner_boot] += managed
            start += managed
        self.zone = self.node.zones[-1]
        self.zone.watermark[:] = marks
        for zone in self.node.zones:
            nr_free = zone.managed if free is None or zone is not self.zone else free
            self.put_range(zone.start_pfn, nr_free, MOVABLE, zone=zone)
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.softirq = self.task("swapper/0", 0)
        self.pages = PageAllocator(
            self.world,
            frames=self.frames,
            node=self.node,
            ledger=self.ledger,
            buddy=self.buddy,
            vmstat=self.vmstat,
            fixes=self.fixes,
            costs=self.costs,
            softirq=self.softirq,
            log=lambda event, **facts: self.logged.append((event, facts)),
        )
        self.slabs = SlabCaches(self.pages)
        self.lruvec = Lruvec(self.frames, self.vmstat)
        self.creator = KthreadCreator(self.world, self.cpus, self._no_stack)
        self.pool = WorkerPool(
            self.world, "0", self.creator, cpus=self.cpus, bound=True, nr_workers=2, nice=-20, flags=PF_KTHREAD
        )
        self.kblockd = Workqueue("kblockd", self.pool, mem_reclaim=True)
        self.device = Device(self.world, self.softirq, blocking=blocking)
        self.queue = RequestQueue(
            self.world,
            self.device.name,
            self.device,
            kblockd=self.kblockd,
            costs=self.costs,
            max_pages=max_pages,
            nr_requests=nr_requests,
            queue_depth=queue_depth,
            wake_singly=self.fixes.tags_woken_singly,
        )
        self.device.queue = self.queue
        self.swap: Any = Swapless()
        self.bios: BioSet
        self.swap_file = swap_file
        if swap_pages:
            self._swapon(swap_pages, page_cluster=page_cluster, rotational=rotational)
        self.vmscan = Vmscan(
            self.world,
            node=self.node,
            lruvec=self.lruvec,
            pages=self.pages,
            swap=self.swap,
            vmstat=self.vmstat,
            fixes=self.fixes,
            costs=self.costs,
            swappiness=swappiness,
        )
        self.swap.vmscan = self.vmscan
        self.shrinker = self.vmscan.shrinker
        self.oom = OomKiller(self.world, vmscan=self.vmscan, fixes=self.fixes, log=self.pages.log)
        rooms = {"pages": self.pages, "lruvec": self.lruvec, "shrinker": self.shrinker, "swap": self.swap}
        self.memory = Memory(self.world, **rooms, vmstat=self.vmstat, costs=self.costs)
        self.oom.unmap = self.memory.unmap_all
        self.kswapd = Kswapd(self.world, self.vmscan)

    async def _no_stack(self, task: Task) -> None:
        """Threads' stacks cost nothing here."""

    def _retry_fired(self, site: str) -> None:
        self.nr_retries += 1
        assert self.nr_retries < NR_RETRIES_MAX, f"no end in sight: {site}"

    def _swapon(self, nr_pages: int, *, page_cluster: int, rotational: bool) -> None:
        self.bios = BioSet(self.world, self.slabs["bio-160"], nomemalloc=self.fixes.mempool_nomemalloc, providers=list)
        self.bios.fill(self.softirq)
        self.swap = SwapArea(
            self.world,
            nr_pages=nr_pages,
            io=BlockSwapIo(self.queue, self.bios) if self.swap_file is None else self._file_io(self.swap_file),
            frames=self.frames,
            pages=self.pages,
            lruvec=self.lruvec,
            radix_nodes=self.slabs["radix_tree_node"],
            vmstat=self.vmstat,
            costs=self.costs,
            page_cluster=page_cluster,
            rotational=rotational,
            random=self.world.seeds.stream("swapon"),
        )

    def _file_io(self, file_system: SwapFileSystem) -> FileSwapIo:
        slabs, nomemalloc = self.slabs["kmalloc-1k"], self.fixes.mempool_nomemalloc
        io = FileSwapIo(self.world, file_system, slabs, nomemalloc=nomemalloc, log=self.pages.log)
        io.fill(self.softirq)
        return io

    # Setting the scene

    def task(self, comm: str = "test", number: int = 999, flags: int = 0) -> Task:
        """Return a task that does not run: enough for whatever does not sleep."""
        return Task(world=self.world, number=number, comm=comm, pid=None, cpus=None, flags=flags, nice=0)

    def put(self, pfn: int, order: int, migratetype: int = MOVABLE, *, zone: Zone | None = None) -> None:
        """Make a block of what boot holds free, at the tail of a list; neighbours are not merged."""
        zone = zone or self.zone
        size = 1 << order
        assert (self.frames.owner[pfn : pfn + size] == self.owner_boot).all()
        self.buddy.pageblocks.add_block(zone, pfn, order, migratetype, tail=True)
        zone.nr_free += size
        self.frames.owner[pfn : pfn + size] = FREE
        self.ledger.counts[FREE] += size
        self.ledger.counts[self.owner_boot] -= size

    def put_range(self, pfn: int, nr_pages: int, migratetype: int = MOVABLE, *, zone: Zone | None = None) -> None:
        """Make a run of frames free, as the largest blocks that fit, lowest first."""
        end = pfn + nr_pages
        while pfn < end:
            order = min((pfn & -pfn).bit_length() - 1, (end - pfn).bit_length() - 1, MAX_ORDER)
            self.put(pfn, order, migratetype, zone=zone)
            pfn += 1 << order

    def blocks(self, order: int, migratetype: int = MOVABLE) -> list[int]:
        """Return a free list of the highest zone, head first."""
        return list(self.zone.free_lists[order][migratetype])

    def free_blocks(self) -> dict[tuple[int, int], list[int]]:
        """Return every free list of the highest zone that is not empty, by order and migrate type."""
        lists = enumerate(self.zone.free_lists)
        return {(order, kind): list(heads) for order, kinds in lists for kind, heads in enumerate(kinds) if heads}

    def alloc(self, order: int = 0, migratetype: int = MOVABLE, alloc_flags: int = 0) -> int:
        """Take a block without asking the watermarks, for the owner ``test``."""
        pfn = self.buddy.rmqueue(self.zone, 0, order, migratetype, alloc_flags)
        if pfn >= 0:
            self.buddy.own(pfn, order, self.owner_test, pfmemalloc=False, reserve=False)
        return pfn

    def lru_pages(self, nr_pages: int, lru: int = 0) -> PfnArray:
        """Put frames of boot's on an LRU list; they have the owner ``anon`` and no mapping."""
        held = np.flatnonzero(self.frames.owner == self.owner_boot)[:nr_pages]
        assert len(held) == nr_pages
        for pfn in held.tolist():
            self.ledger.change_owner(self.frames, pfn, 1, self.memory.owner_anon)
        self.frames.flags[held] = 0x0048 | (0x0010 if lru & 1 else 0)  # PG_LRU, PG_SWAPBACKED, PG_ACTIVE
        self.lruvec.lists[lru].add_head(held)
        return held

    def program(self, pfns: list[int], task: Task | None = None) -> AddressSpace:
        """Map a program's pages at frames that boot holds, in this order, and put them on their list."""
        space = self.memory.map_anonymous(task or self.task(), len(pfns))
        space.table_of[:] = [BOOT_TABLE] * len(space.table_of)
        for pfn in pfns:
            self.ledger.change_owner(self.frames, pfn, 1, self.memory.owner_anon)
        self.memory._map_new(self.task(), space, 0, np.array(pfns, dtype=np.intp))
        self.lruvec.lru_add_drain()
        return space

    # Running

    def run(
        self, body: Callable[[Task], Awaitable[Any]], *, kswapd: bool = False, flags: int = 0, limit_s: int = 3600
    ) -> Any:
        """Run ``body(task)`` as a program until it returns; return what it returned.

        Raises what it raised, and AssertionError if it has not returned by ``limit_s`` of virtual time.
        """
        results: list[Any] = []

        async def main(task: Task) -> None:
            results.append(await body(task))
            self.world.stop()

        def late() -> None:
            self.world.fail(AssertionError(f"still running after {limit_s} s: {list(self.world.tasks.values())}"))

        def start() -> None:
            self.creator.start(PF_KTHREAD)
            self.pool.start()
            self.kblockd.start()
            if kswapd:
                self.kswapd.start(self.cpus)
            self.world.call_after(limit_s * NS_PER_S, late, kind=TimerKind.CLOCK)
            self.world.spawn("test", main, cpus=self.cpus, flags=flags)

        run_virtual(lambda: self.world.run(start))
        assert results or self.oom.panicked, "the program was killed"
        return results[0] if results else None

    async def submit_pages(
        self,
        task: Task,
        plug: Plug,
        slot: int,
        nr_pages: int,
        *,
        write: bool = True,
        opf: int = 0,
        ended: list[tuple[int, int, int]] | None = None,
    ) -> None:
        """Submit pages of the device under a plug; note each request's end. Those of one owner merge."""
        await self.queue.submit_pages(
            task,
            plug,
            write=write,
            slot=slot,
            pfns=list(range(100_000 + slot, 100_000 + slot + nr_pages)),
            bios=[0] * nr_pages,
            versions=list(range(slot, slot + nr_pages)),
            end_io=_forget if ended is None else lambda rq, error, _task: ended.append((rq.slot, rq.nr_pages, error)),
            opf=opf,
        )

    async def pause(self, task: Task, delay_ns: int) -> None:
        """Let virtual time pass."""
        await self.world.sleep_ns(task, delay_ns, PAUSE, kind=TimerKind.PROGRESS)

    async def mapped(self, task: Task, nr_pages: int, *, young: bool = True) -> AddressSpace:
        """Map and write so many pages; if not ``young``, nobody has looked at them since."""
        space = self.memory.map_anonymous(task, nr_pages)
        assert await self.memory.touch_run(task, space, 0, nr_pages, write=True)
        self.lruvec.lru_add_drain()
        if not young:
            space.bits[:] &= np.uint8(0xFE)
        return space

    # Looking

    def audit(self) -> None:
        """Check everything that must always hold."""
        found = audit_memory(self.node.zones, self.frames, self.ledger, self.lruvec, self.shrinker)
        assert not found, "\n".join(found)

    def owned(self, name: str) -> int:
        """Return the pages of an owner."""
        return self.ledger.table().get(name, 0)

    @property
    def nr_pcp(self) -> int:
        """Pages on per-cpu lists."""
        return self.ledger.counts[PCP]


@pytest.fixture(scope="session")
def make_host() -> type[MiniHost]:
    """Return the class of hosts: ``make_host(free=100, marks=(10, 12, 14))``."""
    return MiniHost


@pytest.fixture
def host() -> MiniHost:
    """Return a host of one zone of 2048 free pages and no swap."""
    return MiniHost()
