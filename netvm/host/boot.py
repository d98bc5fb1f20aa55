"""Booting a host: memory laid out, rooms wired, threads made.

This is the only place that knows all rooms. It takes plain options (the tables of a scenario, whose attributes are
their keys) and returns a :class:`netvm.host.machine.Host`. The order is a kernel's: zones and their marks, the buddy,
slab and bio pools, the card with its full ring, the block device and its swap area, then kswapd, kblockd and the
rest.
"""

from dataclasses import dataclass
from typing import Any, Final

from netvm.block.bdev import BlockDevice
from netvm.block.bio import BioSet
from netvm.block.blk_mq import RequestQueue
from netvm.block.blk_wbt import Wbt
from netvm.block.crypt import CRYPT_PAGE_POOL, CryptDevice
from netvm.block.dm import CRYPT_CLONE_CACHE, MappedDevice
from netvm.block.split import SplitDevice
from netvm.block.swap import SwapArea
from netvm.block.swap_file import FileSwapIo, SwapFileSystem
from netvm.block.swap_io import BlockSwapIo, SwapIo
from netvm.fixes import preset
from netvm.host.backend import Backend, BackendContext, LinkPair, load_backend
from netvm.host.files import make_files, swap_pages
from netvm.host.machine import Host
from netvm.host.memory_map import MemoryMap, zone_report
from netvm.host.network import connect_nic, make_stack
from netvm.mm.address_space import BOOT_TABLE, OOM_SCORE_ADJ_MIN, PTE_DIRTY, PTE_WRITE, PTE_YOUNG
from netvm.mm.frames import PG_SWAPBACKED
from netvm.mm.gfp import GFP_KERNEL, PF_KTHREAD
from netvm.mm.kcompactd import Kcompactd
from netvm.mm.kswapd import Kswapd
from netvm.mm.ledger import Ledger
from netvm.mm.lru import Lruvec
from netvm.mm.memcontrol import MemControl
from netvm.mm.memory import Memory
from netvm.mm.oom import OomKiller
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.ports import LogPort
from netvm.mm.slab import CacheSpec, SlabCache, SlabCaches
from netvm.mm.vmscan import Vmscan
from netvm.mm.zone import Node
from netvm.net.skb import SkbAllocator
from netvm.net.stack import NetStack
from netvm.runtime.costs import CpuCosts
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Provider, Task
from netvm.runtime.workqueue import KthreadCreator, WorkerPool, Workqueue
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat, VmStat
from netvm.units import NS_PER_US, PAGE_SIZE

__all__ = ["boot", "start_threads"]

KTHREAD_STACK_PAGES: Final = 4
NR_CACHED_STACKS: Final = 2
"""Stacks of ended threads that each CPU keeps for new ones (kernel/fork.c)."""
BOOT_SLABS: Final = (
    "skbuff_head_cache",
    "skbuff_fclone_cache",
    "radix_tree_node",
    "kmalloc-1k",
    "kmalloc-4k",
)


def boot(world: World, options: Any, *, log: LogPort) -> Host:
    """Make a host from a scenario's tables; its threads start with :func:`start_threads` in the world's main."""
    return _Boot(world, options, log).host()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Workers:
    """Who runs deferred work."""

    creator: KthreadCreator
    pools: list[WorkerPool]
    kblockd: Workqueue
    events: Workqueue
    unbound: Workqueue


class _Boot:
    """Everything on the way to a host."""

    def __init__(self, world: World, options: Any, log: LogPort) -> None:
        self.world = world
        self.options = options
        self.log = log
        self.fixes = preset(options.kernel.preset).switched(options.kernel.fixes)
        world.wheel_cascades = not self.fixes.noncascading_timers
        machine = options.machine
        self.costs = CpuCosts().with_faults(machine.costs.faults)
        self.cpus = (
            Cpus(
                world,
                machine.cpus,
                scale=machine.costs.scale,
                noise=machine.costs.noise,
                switch_ns=self.costs.context_switch,
            )
            if machine.costs.scale
            else None
        )
        self.ledger = Ledger()
        self.vmstat = VmStat()
        self.netstat = NetStat()
        self.kcryptd: Workqueue | None = None
        self.crypt: CryptDevice | None = None
        self.rescuer: Workqueue | None = None
        self.memory_map = MemoryMap(options, fixes=self.fixes, ledger=self.ledger, vmstat=self.vmstat)

    def host(self) -> Host:
        """Wire everything."""
        pages = self._page_allocator()
        slabs = SlabCaches(pages)
        lruvec = Lruvec(self.memory_map.frames, self.vmstat)
        workers = self._workers(pages)
        bio_cache = self._bio_cache(slabs)
        self._boot_slabs(slabs, bio_cache.name)
        skbs = SkbAllocator(pages, slabs)
        stack = make_stack(self.options, pages, skbs, slabs, self.netstat)
        nic, link = connect_nic(self.options, stack, self.memory_map, workers.events)
        backend = self._backend(stack, link, workers.unbound, slabs)
        io, bios = self._swap_io(backend, workers.kblockd, workers.pools[2], bio_cache, slabs)
        swap = self._swap(pages, lruvec, slabs, io)
        vmscan = self._vmscan(pages, lruvec, swap)
        files = make_files(
            self.options,
            backend,
            pages=pages,
            lruvec=lruvec,
            slabs=slabs,
            vmscan=vmscan,
            io=io,
            bios=bios,
            kblockd=workers.kblockd,
            unbound=workers.pools[2],
            cpus=self.cpus,
        )
        self._memory_groups(pages, lruvec)
        memory = self._memory(pages, lruvec, vmscan, swap)
        oom = self._oom_killer(vmscan, memory)
        host = Host(
            world=self.world,
            fixes=self.fixes,
            costs=self.costs,
            cpus=self.cpus,
            node=pages.node,
            frames=self.memory_map.frames,
            ledger=self.ledger,
            vmstat=self.vmstat,
            netstat=self.netstat,
            buddy=self.memory_map.buddy,
            memory_map=self.memory_map,
            pages=pages,
            slabs=slabs,
            lruvec=lruvec,
            bios=bios,
            creator=workers.creator,
            pools=workers.pools,
            kblockd=workers.kblockd,
            events=workers.events,
            unbound=workers.unbound,
            skbs=skbs,
            stack=stack,
            nic=nic,
            link=link,
            backend=backend,
            queue=io.queue if isinstance(io, BlockSwapIo) else None,
            swap=swap,
            vmscan=vmscan,
            kswapd=Kswapd(self.world, vmscan),
            kcompactd=vmscan.kcompactd,
            oom=oom,
            memory=memory,
            files=files,
            softirq=pages.softirq,
        )
        self._finish(host)
        return host

    def _finish(self, host: Host) -> None:
        """See to what needs the whole host."""
        host.kcryptd, host.crypt = self.kcryptd, self.crypt
        host.rescuer = self.rescuer
        _set_memory_providers(host)
        self._boot_anon(host)
        host.boot_zones = [zone_report(zone, self.options) for zone in host.node.zones]

    def _oom_killer(self, vmscan: Vmscan, memory: Memory) -> OomKiller:
        killer = OomKiller(
            self.world,
            vmscan=vmscan,
            fixes=self.fixes,
            log=self.log,
            panic_on_oom=self.options.vm.panic_on_oom,
            oom_kill_allocating_task=self.options.vm.oom_kill_allocating_task,
        )
        killer.unmap = memory.unmap_all
        return killer

    def _memory(self, pages: PageAllocator, lruvec: Lruvec, vmscan: Vmscan, swap: SwapArea) -> Memory:
        return Memory(
            self.world,
            pages=pages,
            lruvec=lruvec,
            shrinker=vmscan.shrinker,
            swap=swap,
            vmstat=self.vmstat,
            costs=self.costs,
        )

    def _memory_groups(self, pages: PageAllocator, lruvec: Lruvec) -> None:
        """Make the memory groups, if there are any."""
        if not self.options.memory_group:
            return
        memcg = MemControl(self.world, pages, lruvec, fixes=self.fixes)
        for group in self.options.memory_group:
            memcg.create(group.name, limit_pages=group.limit_kib * 1024 // PAGE_SIZE, may_swap=group.swap)

    def _page_allocator(self) -> PageAllocator:
        softirq = Task(world=self.world, number=0, comm="swapper/0", pid=0, cpus=self.cpus, flags=0, nice=0)
        return PageAllocator(
            self.world,
            frames=self.memory_map.frames,
            node=Node(self.memory_map.zones),
            ledger=self.ledger,
            buddy=self.memory_map.buddy,
            vmstat=self.vmstat,
            fixes=self.fixes,
            costs=self.costs,
            softirq=softirq,
            log=self.log,
        )

    def _backend(self, stack: NetStack, link: LinkPair | None, unbound: Workqueue, slabs: SlabCaches) -> Backend:
        storage = self.options.storage
        return load_backend(storage.kind)(
            BackendContext(
                world=self.world,
                stack=stack,
                cpus=self.cpus,
                link=link if storage.place == "remote" else None,
                options=storage,
                slabs=slabs,
                unbound=unbound,
                log=self.log,
                transmit_inherits_memalloc=self.options.kernel.transmit_inherits_memalloc,
            )
        )

    def _swap_io(
        self, backend: Backend, kblockd: Workqueue, unbound: WorkerPool, bio_cache: SlabCache, slabs: SlabCaches
    ) -> tuple[SwapIo, BioSet]:
        """Make the way of swap pages to the backend: bios and a queue, or the batches of a file; and the bios."""
        nomemalloc, softirq = self.fixes.mempool_nomemalloc, slabs.pages.softirq
        driver = backend.driver
        if isinstance(driver, SwapFileSystem):
            file_io = FileSwapIo(
                self.world,
                driver,
                slabs["kmalloc-1k"],
                nomemalloc=nomemalloc,
                log=self.log,
                batches=self.fixes.swap_file_batches,
            )
            file_io.fill(softirq)
            backend.attach(file_io)
            bios = BioSet(self.world, bio_cache, nomemalloc=nomemalloc, providers=list)
            bios.fill(softirq)
            return file_io, bios
        storage = self.options.storage
        queue = RequestQueue(
            self.world,
            driver.name,
            driver,
            kblockd=kblockd,
            costs=self.costs,
            max_pages=max(1, storage.max_sectors_kb // 4),
            nr_requests=storage.nr_requests,
            queue_depth=storage.queue_depth,
            wake_singly=self.fixes.tags_woken_singly,
        )
        if storage.wbt_lat_usec:
            queue.wbt = self._wbt(queue)
        backend.attach(queue)
        if storage.split_kib:
            queue = self._split(queue, bio_cache, unbound)
        device = self._encrypt(queue, slabs, unbound) if storage.encrypted else queue
        bios = BioSet(self.world, bio_cache, nomemalloc=nomemalloc, providers=device.providers)
        bios.fill(softirq)
        return BlockSwapIo(device, bios), bios

    def _wbt(self, queue: RequestQueue) -> Wbt:
        """Make the writeback throttle of the storage's device; dm devices above it have none (they take bios)."""
        storage = self.options.storage
        return Wbt(
            self.world,
            queue.name,
            min_lat_ns=storage.wbt_lat_usec * NS_PER_US,
            # a SCSI device says how many commands it takes, others are asked how many requests they queue
            queue_depth=storage.queue_depth if storage.kind == "iscsi" else storage.nr_requests,
            write_cache=storage.write_cache == "write back",
            fixes=self.fixes,
            providers=queue.providers,
        )

    def _split(self, lower: RequestQueue, bio_cache: SlabCache, pool: WorkerPool) -> RequestQueue:
        """Put a driver that cuts requests on a queue; return the one above."""
        self.rescuer = Workqueue("bioset", pool, mem_reclaim=True)
        chunk_pages = self.options.storage.split_kib * 1024 // PAGE_SIZE
        device = SplitDevice(lower, bio_cache, chunk_pages=chunk_pages, rescuer=self.rescuer)
        device.fill(bio_cache.pages.softirq)
        device.queue = RequestQueue(
            self.world,
            device.name,
            device,
            kblockd=lower.kblockd,
            costs=self.costs,
            max_pages=lower.max_pages,
            nr_requests=lower.sched_tags.depth,
            queue_depth=lower.sched_tags.depth,
            wake_singly=self.fixes.tags_woken_singly,
        )
        return device.queue

    def _encrypt(self, lower: RequestQueue, slabs: SlabCaches, pool: WorkerPool) -> BlockDevice:
        """Put dm-crypt on a queue; return the mapped device."""
        self.kcryptd = Workqueue("kcryptd", pool, mem_reclaim=True)
        pages = slabs.pages
        self.crypt = device = CryptDevice(
            pages, lower, workqueue=self.kcryptd, costs=self.costs, nr_workers=self.options.machine.cpus
        )
        device.fill(pages.softirq)
        cache = slabs.add(*CRYPT_CLONE_CACHE)
        device.queue = MappedDevice(device, cache, max_pages=CRYPT_PAGE_POOL)
        device.queue.fill(pages.softirq)
        return device.queue

    def _swap(self, pages: PageAllocator, lruvec: Lruvec, slabs: SlabCaches, io: SwapIo) -> SwapArea:
        return SwapArea(
            self.world,
            nr_pages=swap_pages(self.options.storage),
            io=io,
            frames=self.memory_map.frames,
            pages=pages,
            lruvec=lruvec,
            radix_nodes=slabs["radix_tree_node"],
            vmstat=self.vmstat,
            costs=self.costs,
            page_cluster=self.options.vm.page_cluster,
            rotational=self.options.storage.rotational,
            random=self.world.seeds.stream("swapon"),
        )

    def _vmscan(self, pages: PageAllocator, lruvec: Lruvec, swap: SwapArea) -> Vmscan:
        vmscan = Vmscan(
            self.world,
            node=pages.node,
            lruvec=lruvec,
            pages=pages,
            swap=swap,
            vmstat=self.vmstat,
            fixes=self.fixes,
            costs=self.costs,
            swappiness=self.options.vm.swappiness,
            laptop_mode=bool(self.options.vm.laptop_mode),
            compaction_proactiveness=self.options.vm.compaction_proactiveness,
        )
        if self.fixes.compaction and self.fixes.kcompactd:
            vmscan.kcompactd = Kcompactd(self.world, vmscan.compaction)
        swap.vmscan = vmscan
        return vmscan

    def _workers(self, pages: PageAllocator) -> _Workers:
        world, cpus = self.world, self.cpus
        owner = self.ledger.owner("kernel_stack")
        nr_cached = NR_CACHED_STACKS * self.options.machine.cpus if self.fixes.cached_stacks else 0

        async def allocate_stack(task: Task) -> None:
            nonlocal nr_cached
            if nr_cached:
                nr_cached -= 1
            else:
                for _ in range(KTHREAD_STACK_PAGES):
                    await pages.alloc_pages(task, 0, GFP_KERNEL, owner)
            self.vmstat.nr_kernel_stack += KTHREAD_STACK_PAGES * 4

        creator = KthreadCreator(world, cpus, allocate_stack)

        def pool(name: str, *, bound: bool, nice: int, nr_workers: int) -> WorkerPool:
            return WorkerPool(
                world, name, creator, cpus=cpus, bound=bound, nr_workers=nr_workers, nice=nice, flags=PF_KTHREAD
            )

        # MODEL: recorded consoles list 2, 3 and 5; here others are made when needed, out of what memory there is
        high = pool("0", bound=True, nice=-20, nr_workers=2)
        normal = pool("0", bound=True, nice=0, nr_workers=2)
        unbound_pool = pool("u2", bound=False, nice=0, nr_workers=2)
        return _Workers(
            creator=creator,
            pools=[high, normal, unbound_pool],
            kblockd=Workqueue("kblockd", high, mem_reclaim=True),
            events=Workqueue("events", normal, mem_reclaim=False),
            unbound=Workqueue("unbound", unbound_pool, mem_reclaim=True),
        )

    def _bio_cache(self, slabs: SlabCaches) -> SlabCache:
        stride = self.options.kernel.bio_object_bytes
        name = "bio-160" if stride <= 192 else "bio-192"
        if stride in (192, 256):
            return slabs[name]
        return slabs.add(f"bio-{stride}", CacheSpec(stride, PAGE_SIZE // stride, 0))

    def _boot_slabs(self, slabs: SlabCaches, bio_name: str) -> None:
        """Give each cache of the cleaning path the partly used slab that a running system has."""
        for name in (*BOOT_SLABS, bio_name):
            cache = slabs[name]
            pfns = self.memory_map.set_aside(1, cache.spec.order)
            self.memory_map.own_blocks(pfns, cache.spec.order, cache.owner)
            # MODEL: what all of the kernel uses has its current slab half full; slabinfo counts such a slab as used up
            shared = name.startswith(("kmalloc-", "radix"))
            cache.adopt(pfns[0], cache.spec.nr_objects // 2 if shared else 0)

    def _boot_anon(self, host: Host) -> None:
        """Put other programs' idle anonymous pages on the inactive list.

        # MODEL: nobody touches them again, so they go out once and stay out.
        """
        nr = self.options.machine.boot.anon_pages
        if not nr:
            return
        space = host.memory.map_anonymous(host.softirq, nr, oom_score_adj=OOM_SCORE_ADJ_MIN)
        host.softirq.mm = None
        frames = self.memory_map.frames
        pfns = self.memory_map.set_aside(nr, 0)
        for vpn, pfn in enumerate(pfns):
            self.ledger.change_owner(frames, pfn, 1, host.memory.owner_anon)
            frames.block_of[pfn] = 0
            frames.flags_of[pfn] = PG_SWAPBACKED
            frames.mapping_of[pfn] = space.id
            frames.index_of[pfn] = vpn + 1
            space.pte_of[vpn] = pfn + 1
            space.bits_of[vpn] = PTE_YOUNG | PTE_WRITE | PTE_DIRTY
            host.lruvec.folio_add_lru(pfn)
        host.memory.write_versions(space, 0, nr)
        # its page tables are among what boot holds
        space.table_of = [BOOT_TABLE] * len(space.table_of)
        space.nr_anon = nr
        space.tasks.clear()
        host.vmstat.nr_anon_pages += nr


def _set_memory_providers(host: Host) -> None:
    """Say who could give a page back: reclaimers, the writes under way, and who was killed for its memory."""

    def providers() -> list[Provider | Task]:
        found: list[Provider | Task] = list(host.vmscan.reclaimers)
        if host.vmscan.kswapd is not None and not host.vmscan.kswapd_gave_up():
            found.append(host.vmscan.kswapd)
        found += host.swap.io.providers()
        found += host.oom.victims_on_their_way()
        return found

    object.__setattr__(host.pages.memory, "providers", providers)
    host.files.reclaim.vm_writeout.swap_writes = host.swap.io.providers


def start_threads(host: Host) -> None:
    """Start the host's kernel threads."""
    host.creator.start(PF_KTHREAD)
    for pool in host.pools:
        pool.start()
    files = host.files
    for queue in (
        host.kblockd,
        host.events,
        host.unbound,
        host.kcryptd,
        host.rescuer,
        files.writeback,
        files.loop_queue,
    ):
        if queue is not None:
            queue.start()
    if host.crypt is not None:
        host.crypt.start(host.cpus)
    host.kswapd.start(host.cpus)
    if host.kcompactd is not None:
        host.kcompactd.start(host.cpus)
    if files.fuse_server is not None:
        host.world.spawn("fuse", files.fuse_server.serve, host.memory, cpus=host.cpus)
