"""Booting a host: memory laid out, rooms wired, threads made.

This is the only place that knows all rooms. It takes plain options (the tables of a scenario, whose attributes are
their keys) and returns a :class:`netvm.host.machine.Host`. The order is a kernel's: zones and their marks, the buddy,
slab and bio pools, the card with its full ring, the block device and its swap area, then kswapd, kblockd and the
rest.

What the machine holds before the scenario begins (kernel image, programs, page tables of boot) is one block of frames
with the owner ``boot``, low in the zone, that never comes back.

# MODEL: free memory at the start. Without a recorded buddyinfo it is one run of largest blocks. Which migrate types
# its pageblocks have is not recorded; hang dumps of the recorded machines show one partly used pageblock of UNMOVABLE
# and one of RECLAIMABLE among MOVABLE ones, so boot leaves that: free blocks of pageblock order -1, -2, -4 in the
# first, and -1, -3, -4 in the second.
"""

from collections.abc import Callable
from typing import Any, Final

from netvm.block.bio import BioSet
from netvm.block.blk_mq import RequestQueue
from netvm.block.swap import SwapArea
from netvm.errors import UsageError
from netvm.fixes import preset
from netvm.host.backend import BackendContext, LinkPair, load_backend
from netvm.host.machine import Host
from netvm.mm.address_space import PTE_DIRTY, PTE_WRITE, PTE_YOUNG
from netvm.mm.buddy import Buddy
from netvm.mm.frames import PG_SWAPBACKED, Frames
from netvm.mm.gfp import GFP_KERNEL, PF_KTHREAD
from netvm.mm.kswapd import Kswapd
from netvm.mm.ledger import FREE, PCP, Ledger
from netvm.mm.lru import Lruvec
from netvm.mm.memory import Memory
from netvm.mm.oom import OomKiller
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.ports import LogPort
from netvm.mm.slab import CacheSpec, SlabCaches
from netvm.mm.vmscan import Vmscan
from netvm.mm.zone import (
    MAX_ORDER,
    MOVABLE,
    RECLAIMABLE,
    UNMOVABLE,
    Node,
    PerCpuPages,
    Zone,
    calculate_min_free_kbytes,
    setup_lowmem_reserve,
    setup_watermarks,
    zone_batchsize,
)
from netvm.net.nic import Nic, NicModel
from netvm.net.skb import SkbAllocator
from netvm.net.sock import NetStack, ProtoMemory
from netvm.net.wire import LinkDirection
from netvm.runtime.costs import CpuCosts
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Provider, Task
from netvm.runtime.workqueue import KthreadCreator, WorkerPool, Workqueue
from netvm.runtime.world import World
from netvm.trace.vmstat import NetStat, VmStat
from netvm.units import MIB, PAGE_SIZE

__all__ = ["boot", "default_zones"]

PAGES_PER_MIB: Final = MIB // PAGE_SIZE
DMA32_END_MIB: Final = 4096
KTHREAD_STACK_PAGES: Final = 4
UNMOVABLE_BLOCKS: Final = (1, 2, 4)
"""Orders below the pageblock's of the free blocks in the partly used UNMOVABLE pageblock."""
RECLAIMABLE_BLOCKS: Final = (1, 3, 4)
RESERVED_SHARE: Final = 0.19
"""Share of RAM that the recorded kernel's image and boot-time tables take (not managed)."""
BOOT_HELD_PAGES: Final = 7640
"""Managed pages that the recorded machine's programs, slab and ring hold at the start."""
BIOS_HOLE_PAGES: Final = 97
"""640 KiB to 1 MiB: spanned by the lowest zone and not present."""
BOOT_SLABS: Final = (
    "skbuff_head_cache",
    "skbuff_fclone_cache",
    "radix_tree_node",
    "kmalloc-1k",
    "kmalloc-4k",
)


class _ZonePlan:
    """One zone before it exists."""

    __slots__ = ("buddyinfo", "free", "managed", "name", "pcp_pages", "present")

    def __init__(self, name: str, present: int, managed: int, free: int, buddyinfo: list[int], pcp_pages: int) -> None:
        self.name = name
        self.present = present
        self.managed = managed
        self.free = free
        self.buddyinfo = buddyinfo
        self.pcp_pages = pcp_pages


def default_zones(ram_mib: int, reserved_pages: int | None) -> list[tuple[str, int, int, int]]:
    """Return ``(name, present, managed, free)`` of the zones of a machine that does not list its own."""
    total = ram_mib * PAGES_PER_MIB
    reserved = min(int(total * RESERVED_SHARE), 4700 + total // 64) if reserved_pages is None else reserved_pages
    held = min(BOOT_HELD_PAGES, total // 3)
    low = min(total, DMA32_END_MIB * PAGES_PER_MIB)
    zones = [("DMA32", low, max(low - reserved, 1), max(low - reserved - held, 0))]
    if total > low:
        high = total - low
        zones.append(("Normal", high, high, high))
    return zones


def _plans(machine: Any) -> list[_ZonePlan]:
    if machine.zones:
        return [
            _ZonePlan(
                zone.name,
                zone.present_pages,
                zone.managed_pages,
                _free_of(zone),
                list(zone.buddyinfo),
                zone.pcp_pages,
            )
            for zone in machine.zones
        ]
    return [
        _ZonePlan(name, present, managed, free, [], 0)
        for name, present, managed, free in default_zones(machine.ram_mib, machine.reserved_pages)
    ]


def _free_of(zone: Any) -> int:
    if zone.buddyinfo:
        return sum(int(count) << order for order, count in enumerate(zone.buddyinfo))
    if zone.free_pages is not None:
        return int(zone.free_pages)
    return max(0, int(zone.managed_pages) - BOOT_HELD_PAGES)


def boot(world: World, options: Any, *, log: LogPort) -> Host:
    """Make a host from a scenario's tables; its threads start with :func:`start_threads` in the world's main."""
    return _Boot(world, options, log).host()


class _Boot:
    """Everything on the way to a host."""

    def __init__(self, world: World, options: Any, log: LogPort) -> None:
        self.world = world
        self.options = options
        self.log = log
        self.fixes = preset(options.kernel.preset).switched(options.kernel.fixes)
        self.costs = CpuCosts()
        machine = options.machine
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
        self.owner_boot = self.ledger.owner("boot")
        self.vmstat = VmStat()
        self.netstat = NetStat()
        self.plans = _plans(machine)
        # frame 0 is never managed, and neither is the BIOS's hole below 1 MiB
        self.frames = Frames(1 + BIOS_HOLE_PAGES + sum(plan.present for plan in self.plans))
        self.buddy = Buddy(
            self.frames, self.ledger, self.vmstat, self.fixes, boost_factor=options.vm.watermark_boost_factor
        )
        self._boot_cursor: list[tuple[int, int]] = []
        """Runs of frames that boot holds, from which rings and slabs are set aside."""

    # -- memory ---------------------------------------------------------------------------------------------------

    def zones(self) -> list[Zone]:
        """Lay out the zones, their free blocks and marks."""
        zones = []
        start = 1
        for plan in self.plans:
            hole = BIOS_HOLE_PAGES if start == 1 else 0
            zone = Zone(
                name=plan.name,
                start_pfn=start,
                spanned=plan.present + hole,
                present=plan.present,
                managed=plan.managed,
                pageblock_order=self.options.kernel.pageblock_order,
                fixes=self.fixes,
            )
            start += plan.present + hole
            zones.append(zone)
        vm = self.options.vm
        mfk = vm.min_free_kbytes or calculate_min_free_kbytes(sum(z.managed for z in zones))
        setup_watermarks(zones, min_free_kbytes=mfk, scale_factor=vm.watermark_scale_factor, fixes=self.fixes)
        names = ("DMA", "DMA32", "Normal", "Movable")
        setup_lowmem_reserve(zones, dict(zip(names, vm.lowmem_reserve_ratio, strict=False)))
        for zone, plan in zip(zones, self.plans, strict=True):
            self._per_cpu_pages(zone)
            self._free_blocks(zone, plan)
        return zones

    def _per_cpu_pages(self, zone: Zone) -> None:
        nr_cpus = self.options.machine.cpus
        batch = zone_batchsize(zone.managed)
        fraction = self.options.vm.percpu_pagelist_high_fraction
        high = zone.managed // fraction // nr_cpus if fraction else zone.watermark[1] // nr_cpus
        zone.pcp = [PerCpuPages(batch, max(high, 4 * batch)) for _ in range(nr_cpus)]

    def _free_blocks(self, zone: Zone, plan: _ZonePlan) -> None:
        """Put the free memory of the start on the lists; boot holds the rest of what is managed."""
        self.ledger.counts[self.owner_boot] += zone.managed
        if plan.buddyinfo:
            blocks = [order for order in range(len(plan.buddyinfo) - 1, -1, -1) for _ in range(plan.buddyinfo[order])]
        else:
            blocks = _orders_of(plan.free)
        free = sum(1 << order for order in blocks)
        self._place(zone, blocks)
        zone.nr_free = 0
        for lists in zone.free_lists:
            for free_list in lists:
                for pfn in free_list:
                    zone.nr_free += 1 << (self.frames.block_of[pfn] & 0x0F)
        assert zone.nr_free == free, f"zone {zone.name}: placed {zone.nr_free} of {free} free pages"
        self.ledger.counts[FREE] += free
        self.ledger.counts[self.owner_boot] -= free
        self.frames.owner[zone.start_pfn : zone.end_pfn] = self.owner_boot
        for lists in zone.free_lists:
            for free_list in lists:
                for pfn in free_list:
                    self.frames.owner[pfn : pfn + (1 << (self.frames.block_of[pfn] & 0x0F))] = FREE
        if plan.pcp_pages:
            self._fill_pcp(zone, plan.pcp_pages)

    def _place(self, zone: Zone, blocks: list[int]) -> None:
        """Place free blocks from the top of the zone down, so that no two free buddies touch."""
        pageblock = 1 << zone.pageblock_order
        special = self._kernel_pageblocks(zone, blocks)
        cursor = zone.end_pfn
        for order in blocks:
            size = 1 << order
            start = (cursor - size) & -size
            if order < MAX_ORDER and self._buddy_is_free(zone, start, order):
                start -= size
            if start < zone.start_pfn:
                start, size = self._squeeze(zone, order)
            self.buddy.add_block(zone, start, order, MOVABLE, tail=True)
            cursor = min(cursor, start)
        for migratetype, orders in special:
            cursor &= -pageblock
            block = cursor - pageblock
            if block < zone.start_pfn:
                # no room for a pageblock of their own: they stay movable
                migratetype, block = MOVABLE, zone.start_pfn & -pageblock
            zone.set_pageblock_type(max(block, zone.start_pfn), migratetype)
            end = cursor
            for order in orders:
                end = (end - (1 << order)) & -(1 << order)
                if end < zone.start_pfn:
                    break
                self.buddy.add_block(zone, end, order, migratetype, tail=True)
            cursor = block
        self._boot_cursor.append((zone.start_pfn, max(zone.start_pfn, cursor & -8)))

    def _kernel_pageblocks(self, zone: Zone, blocks: list[int]) -> list[tuple[int, list[int]]]:
        """Take out of the list what lies in the partly used UNMOVABLE and RECLAIMABLE pageblocks."""
        top = zone.pageblock_order
        if zone.managed < 8 << top:
            return []
        found = []
        for migratetype, below in ((UNMOVABLE, UNMOVABLE_BLOCKS), (RECLAIMABLE, RECLAIMABLE_BLOCKS)):
            orders = []
            for less in below:
                order = top - less
                self._make_block(blocks, order)
                if order in blocks:
                    blocks.remove(order)
                    orders.append(order)
            found.append((migratetype, orders))
        return found

    @staticmethod
    def _make_block(blocks: list[int], order: int) -> None:
        """Split a larger block of the list if it has none of this order."""
        if order in blocks:
            return
        larger = [o for o in blocks if o > order]
        if not larger:
            return
        split = min(larger)
        blocks.remove(split)
        blocks += [*range(order, split), order]
        blocks.sort(reverse=True)

    def _buddy_is_free(self, zone: Zone, start: int, order: int) -> bool:
        buddy = start ^ (1 << order)
        return buddy >= zone.start_pfn and any(buddy in lists for lists in zone.free_lists[order])

    def _squeeze(self, zone: Zone, order: int) -> tuple[int, int]:
        raise UsageError(
            f"machine.zones ({zone.name}): free blocks do not fit in {zone.present} present pages; "
            f"the first that does not is of order {order}"
        )

    def _fill_pcp(self, zone: Zone, nr_pages: int) -> None:
        """Put single pages on CPU 0's list, out of what boot holds, so that free stays as recorded."""
        pcp = zone.pcp[0]
        for pfn in self.set_aside(nr_pages, 0):
            self.frames.owner_of[pfn] = PCP
            self.frames.flags_of[pfn] = 0x8000
            self.frames.block_of[pfn] = MOVABLE
            pcp.lists[MOVABLE].append(pfn)
        pcp.count += nr_pages
        self.ledger.counts[self.owner_boot] -= nr_pages
        self.ledger.counts[PCP] += nr_pages

    def set_aside(self, nr_blocks: int, order: int) -> list[int]:
        """Take blocks out of what boot holds, lowest first; the caller changes their owner."""
        taken: list[int] = []
        size = 1 << order
        for i, (start, end) in enumerate(self._boot_cursor):
            cursor = (start + size - 1) & -size
            while len(taken) < nr_blocks and cursor + size <= end:
                taken.append(cursor)
                cursor += size
            self._boot_cursor[i] = (cursor, end)
            if len(taken) == nr_blocks:
                return taken
        raise UsageError(
            f"machine.ram_mib = {self.options.machine.ram_mib}: too little is held at boot for the RX ring and slabs; "
            "give the machine more memory or less that is free"
        )

    def own_blocks(self, pfns: list[int], order: int, owner: int) -> None:
        """Hand blocks from boot to another owner."""
        for pfn in pfns:
            self.ledger.change_owner(self.frames, pfn, 1 << order, owner)
            self.frames.block_of[pfn] = order

    # -- the rest -------------------------------------------------------------------------------------------------

    def host(self) -> Host:
        """Wire everything."""
        world, options, fixes, costs = self.world, self.options, self.fixes, self.costs
        zones = self.zones()
        node = Node(zones)
        softirq = Task(world=world, number=0, comm="swapper/0", pid=0, cpus=self.cpus, flags=0, nice=0)
        pages = PageAllocator(
            world,
            frames=self.frames,
            node=node,
            ledger=self.ledger,
            buddy=self.buddy,
            vmstat=self.vmstat,
            fixes=fixes,
            costs=costs,
            softirq=softirq,
            log=self.log,
        )
        slabs = SlabCaches(pages)
        lruvec = Lruvec(self.frames, self.vmstat)
        creator, pools, kblockd, events, unbound = self._workqueues(pages)
        bio_cache = self._bio_cache(slabs)
        self._boot_slabs(slabs, bio_cache.name)
        skbs = SkbAllocator(pages, slabs)
        stack = self._stack(pages, skbs, node)
        nic, link = self._nic(stack, events)
        backend = load_backend(options.storage.kind)(
            BackendContext(
                world=world,
                stack=stack,
                cpus=self.cpus,
                link=link if options.storage.place == "remote" else None,
                options=options.storage,
                unbound=unbound,
                log=self.log,
                transmit_inherits_memalloc=options.kernel.transmit_inherits_memalloc,
            )
        )
        queue = RequestQueue(
            world,
            backend.driver.name,
            backend.driver,
            kblockd=kblockd,
            costs=costs,
            max_pages=max(1, options.storage.max_sectors_kb // 4),
            nr_requests=options.storage.nr_requests,
            queue_depth=options.storage.queue_depth,
        )
        backend.attach(queue)
        bios = BioSet(world, bio_cache, nomemalloc=fixes.mempool_nomemalloc, providers=lambda: _bio_providers(queue))
        bios.fill(softirq)
        swap = SwapArea(
            world,
            nr_pages=options.storage.size_mib * PAGES_PER_MIB,
            queue=queue,
            bios=bios,
            frames=self.frames,
            pages=pages,
            lruvec=lruvec,
            radix_nodes=slabs["radix_tree_node"],
            vmstat=self.vmstat,
            costs=costs,
            page_cluster=options.vm.page_cluster,
            rotational=options.storage.rotational,
            random=world.seeds.stream("swapon"),
        )
        vmscan = Vmscan(
            world,
            node=node,
            lruvec=lruvec,
            pages=pages,
            swap=swap,
            vmstat=self.vmstat,
            fixes=fixes,
            costs=costs,
            swappiness=options.vm.swappiness,
            laptop_mode=bool(options.vm.laptop_mode),
        )
        swap.vmscan = vmscan
        oom = OomKiller(world, vmscan=vmscan, fixes=fixes, log=self.log)
        memory = Memory(
            world,
            pages=pages,
            lruvec=lruvec,
            shrinker=vmscan.shrinker,
            swap=swap,
            vmstat=self.vmstat,
            costs=costs,
        )
        oom.unmap = memory.unmap_all
        host = Host(
            world=world,
            fixes=fixes,
            costs=costs,
            cpus=self.cpus,
            node=node,
            frames=self.frames,
            ledger=self.ledger,
            vmstat=self.vmstat,
            netstat=self.netstat,
            buddy=self.buddy,
            pages=pages,
            slabs=slabs,
            lruvec=lruvec,
            bios=bios,
            creator=creator,
            pools=pools,
            kblockd=kblockd,
            events=events,
            unbound=unbound,
            skbs=skbs,
            stack=stack,
            nic=nic,
            link=link,
            backend=backend,
            queue=queue,
            swap=swap,
            vmscan=vmscan,
            kswapd=Kswapd(world, vmscan),
            oom=oom,
            memory=memory,
            softirq=softirq,
        )
        _set_memory_providers(host)
        self._boot_anon(host)
        host.boot_zones = [_zone_report(zone, options) for zone in zones]
        return host

    def _workqueues(
        self, pages: PageAllocator
    ) -> tuple[KthreadCreator, list[WorkerPool], Workqueue, Workqueue, Workqueue]:
        world, cpus = self.world, self.cpus
        owner = self.ledger.owner("kernel_stack")

        async def allocate_stack(task: Task) -> None:
            for _ in range(KTHREAD_STACK_PAGES):
                await pages.alloc_pages(task, 0, GFP_KERNEL, owner)
            self.vmstat.nr_kernel_stack += KTHREAD_STACK_PAGES * 4

        creator = KthreadCreator(world, cpus, allocate_stack)

        def pool(name: str, *, bound: bool, nice: int, nr_workers: int) -> WorkerPool:
            return WorkerPool(
                world, name, creator, cpus=cpus, bound=bound, nr_workers=nr_workers, nice=nice, flags=PF_KTHREAD
            )

        high = pool("0", bound=True, nice=-20, nr_workers=2)
        normal = pool("0", bound=True, nice=0, nr_workers=2)
        unbound_pool = pool("u2", bound=False, nice=0, nr_workers=2)
        return (
            creator,
            [high, normal, unbound_pool],
            Workqueue("kblockd", high, mem_reclaim=True),
            Workqueue("events", normal, mem_reclaim=False),
            Workqueue("unbound", unbound_pool, mem_reclaim=True),
        )

    def _bio_cache(self, slabs: SlabCaches) -> Any:
        stride = self.options.kernel.bio_object_bytes
        name = "bio-160" if stride <= 192 else "bio-192"
        if stride in (192, 256):
            return slabs[name]
        return slabs.add(f"bio-{stride}", CacheSpec(stride, PAGE_SIZE // stride, 0))

    def _boot_slabs(self, slabs: SlabCaches, bio_name: str) -> None:
        """Give each cache of the cleaning path the partly used slab that a running system has."""
        for name in (*BOOT_SLABS, bio_name):
            cache = slabs[name]
            pfns = self.set_aside(1, cache.spec.order)
            self.own_blocks(pfns, cache.spec.order, cache.owner)
            # MODEL: what all of the kernel uses has its current slab half full; slabinfo counts such a slab as used up
            shared = name.startswith(("kmalloc-", "radix"))
            cache.adopt(pfns[0], cache.spec.nr_objects // 2 if shared else 0)

    def _stack(self, pages: PageAllocator, skbs: SkbAllocator, node: Node) -> NetStack:
        # tcp_init (net/ipv4/tcp.c) sizes these while the machine boots, before any sysctl raises the marks
        vm = self.options.vm
        mfk = calculate_min_free_kbytes(sum(z.managed for z in node.zones))
        marks = [list(z.watermark) for z in node.zones]
        setup_watermarks(node.zones, min_free_kbytes=mfk, scale_factor=10, fixes=self.fixes)
        buffer_pages = sum(max(0, z.managed - z.high_wmark_pages()) for z in node.zones)
        for zone, recorded in zip(node.zones, marks, strict=True):
            zone.watermark[:] = recorded
        limit = max(buffer_pages // 16, 128)
        tcp_mem = vm.tcp_mem or [limit // 4 * 3, limit, limit // 4 * 6]
        udp_limit = max(buffer_pages // 8, 128)
        udp_mem = vm.udp_mem or [udp_limit // 4 * 3, udp_limit, udp_limit // 4 * 6]
        most = max(65536, min(4 << 20, buffer_pages << 5))
        return NetStack(
            self.world,
            pages=pages,
            skbs=skbs,
            netstat=self.netstat,
            costs=self.costs,
            tcp_memory=ProtoMemory("TCP", tcp_mem),
            udp_memory=ProtoMemory("UDP", udp_mem),
            tcp_wmem=vm.tcp_wmem or [4096, 16384, most],
            tcp_rmem=vm.tcp_rmem or [4096, 131072, max(131072, min(6 << 20, buffer_pages << 5))],
            random=self.world.seeds.stream("sk_stream_wait_memory"),
        )

    def _nic(self, stack: NetStack, events: Workqueue) -> tuple[Nic | None, LinkPair | None]:
        options = self.options
        if options.nic.kind == "loopback":
            return None, None
        nic = Nic(
            self.world,
            "eth0",
            NicModel.named(options.nic.kind),
            ring=options.nic.ring,
            retry=options.nic.refill_retry,
            recycle=options.nic.recycle,
            skbs=stack.skbs,
            pages=stack.pages,
            netstat=self.netstat,
            costs=self.costs,
            receive=stack.netif_receive,
            workqueue=events,
        )
        blocks = self.set_aside(nic.blocks_at_boot(), 3)
        self.own_blocks(blocks, 3, nic.owner)
        nic.fill_at_boot(blocks)
        stack.nic = nic
        link = options.link

        def direction(name: str, deliver: Callable[..., None]) -> LinkDirection:
            return LinkDirection(
                self.world,
                name,
                bandwidth_bytes_per_s=link.bandwidth_bytes_per_s,
                delay_us=link.delay_us,
                queue_packets=link.queue_packets,
                deliver=deliver,
                loss=link.loss,
                reorder=link.reorder,
                duplicate=link.duplicate,
            )

        up = direction("link0.up", lambda packet: packet.to.take(packet, None))
        nic.link = up
        down = direction("link0.down", nic.packet_arrived)
        return nic, LinkPair(up=up, down=down, acks_every_frame=link.peer_acks == "frame")

    def _boot_anon(self, host: Host) -> None:
        """Put other programs' idle anonymous pages on the inactive list.

        # MODEL: nobody touches them again, so they go out once and stay out.
        """
        nr = self.options.machine.boot.anon_pages
        if not nr:
            return
        space = host.memory.map_anonymous(host.softirq, nr, oom_score_adj=-1000)
        host.softirq.mm = None
        pfns = self.set_aside(nr, 0)
        for vpn, pfn in enumerate(pfns):
            self.ledger.change_owner(self.frames, pfn, 1, host.memory.owner_anon)
            self.frames.block_of[pfn] = 0
            self.frames.flags_of[pfn] = PG_SWAPBACKED
            self.frames.mapping_of[pfn] = space.id
            self.frames.index_of[pfn] = vpn + 1
            space.pte_of[vpn] = pfn + 1
            space.bits_of[vpn] = PTE_YOUNG | PTE_WRITE | PTE_DIRTY
            host.lruvec.folio_add_lru(pfn)
        host.memory.write_versions(space, 0, nr)
        space.nr_anon = nr
        space.task = None
        host.vmstat.nr_anon_pages += nr


def _orders_of(nr_pages: int) -> list[int]:
    """Return the fewest blocks that make up so many pages, largest first."""
    orders = [MAX_ORDER] * (nr_pages >> MAX_ORDER)
    orders += [order for order in range(MAX_ORDER - 1, -1, -1) if nr_pages & (1 << order)]
    return orders


def _bio_providers(queue: RequestQueue) -> list[Provider | Task]:
    return [queue.driver.needs(rq) for rq in queue.outstanding.values()]


def _set_memory_providers(host: Host) -> None:
    """Say who could give a page back: reclaimers, and the writes under way."""

    def providers() -> list[Provider | Task]:
        found: list[Provider | Task] = list(host.vmscan.reclaimers)
        if host.vmscan.kswapd is not None:
            found.append(host.vmscan.kswapd)
        found += _bio_providers(host.queue)
        return found

    object.__setattr__(host.pages.memory, "providers", providers)


def _zone_report(zone: Zone, options: Any) -> dict[str, Any]:
    """Return a zone's figures as /proc/zoneinfo prints them at boot."""
    has_dma = any(z.name == "DMA" for z in options.machine.zones)
    protection = list(zone.lowmem_reserve)
    protection = [*protection, protection[-1]] if has_dma else protection[1:]
    return {
        "name": zone.name,
        "managed": zone.managed,
        "min": zone.watermark[0],
        "low": zone.watermark[1],
        "high": zone.watermark[2],
        "protection": protection,
    }


def start_threads(host: Host) -> None:
    """Start the host's kernel threads."""
    host.creator.start(PF_KTHREAD)
    for pool in host.pools:
        pool.start()
    for queue in (host.kblockd, host.events, host.unbound):
        queue.start()
    host.kswapd.start(host.cpus)
