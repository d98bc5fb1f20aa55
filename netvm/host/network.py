"""A host's network as it comes up: protocol memory, socket buffers, the card with its full ring, the wire.

Mirrors ``tcp_init`` and ``udp_init`` (net/ipv4/tcp.c, net/ipv4/udp.c), which size ``tcp_mem``, ``udp_mem``,
``tcp_wmem`` and ``tcp_rmem`` by the memory there is, and a driver's ``open``, which fills the ring. The wire goes to
whatever is at its other end: a packet on its way up finds its endpoint by itself, one on its way down arrives at the
card.
"""

from collections.abc import Callable
from typing import Any

from netvm.fixes import Fixes
from netvm.host.backend import LinkPair
from netvm.host.memory_map import MemoryMap
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.slab import SlabCaches
from netvm.mm.zone import Zone, calculate_min_free_kbytes, setup_watermarks
from netvm.net.ip_fragment import FragmentCache, FragmentMemory
from netvm.net.nic import Nic
from netvm.net.nic_model import NicModel
from netvm.net.sk_memory import ProtoMemory
from netvm.net.skb import SkbAllocator
from netvm.net.stack import NetStack
from netvm.net.wire import LinkDirection
from netvm.runtime.workqueue import Workqueue
from netvm.trace.vmstat import NetStat
from netvm.units import MIB, NS_PER_S

__all__ = ["connect_nic", "make_stack", "nr_free_buffer_pages"]


def nr_free_buffer_pages(zones: list[Zone], fixes: Fixes, *, init_pages: int = 0) -> int:
    """Return the pages above the high marks that ``tcp_init`` finds.

    It runs while the machine boots, before any sysctl raises the marks: those it sees are of the computed
    ``min_free_kbytes``; and before the ``init_pages`` of the kernel's init sections are free. The zones keep the marks
    they have.
    """
    marks = [list(zone.watermark) for zone in zones]
    setup_watermarks(
        zones,
        min_free_kbytes=calculate_min_free_kbytes(sum(zone.managed for zone in zones) - init_pages),
        scale_factor=10,
        fixes=fixes,
        init_pages=init_pages,
    )
    found = max(0, sum(max(0, zone.managed - zone.high_wmark_pages()) for zone in zones) - init_pages)
    for zone, recorded in zip(zones, marks, strict=True):
        zone.watermark[:] = recorded
    return found


def make_stack(options: Any, pages: PageAllocator, skbs: SkbAllocator, slabs: SlabCaches, netstat: NetStat) -> NetStack:
    """Return the sockets' room, its limits from ``[vm]`` or sized by memory."""
    vm = options.vm
    buffer_pages = nr_free_buffer_pages(pages.node.zones, pages.fixes, init_pages=options.machine.boot.init_pages)
    tcp_wmem = vm.tcp_wmem or [4096, 16384, max(65536, min(4 << 20, buffer_pages << 5))]
    tcp_rmem = vm.tcp_rmem or [4096, 131072, max(131072, min(6 << 20, buffer_pages << 5))]

    def memory(name: str, limits: list[int] | None, share: int, *, has_pressure: bool) -> ProtoMemory:
        limit = max(buffer_pages // share, 128)
        return ProtoMemory(
            name,
            limits or [limit // 4 * 3, limit, limit // 4 * 6],
            rmem_min=tcp_rmem[0],
            wmem_min=tcp_wmem[0],
            netstat=netstat,
            has_pressure=has_pressure,
        )

    stack = NetStack(
        pages.world,
        pages=pages,
        skbs=skbs,
        netstat=netstat,
        costs=pages.costs,
        tcp_memory=memory("TCP", vm.tcp_mem, 16, has_pressure=True),
        udp_memory=memory("UDP", vm.udp_mem, 8, has_pressure=False),
        tcp_wmem=tcp_wmem,
        tcp_rmem=tcp_rmem,
        random=pages.world.seeds.stream("sk_stream_wait_memory"),
    )
    stack.ip_frags = _fragment_cache(vm, pages, skbs, slabs, netstat)
    return stack


def _fragment_cache(
    vm: Any, pages: PageAllocator, skbs: SkbAllocator, slabs: SlabCaches, netstat: NetStat
) -> FragmentCache:
    """Return the cache that fragments are put together in; its bounds are 256 and 192 KiB, later 4 and 3 MiB."""
    high_bytes = vm.ipfrag_high_thresh or (4 * MIB if pages.fixes.ipfrag_4mib else MIB // 4)
    memory = FragmentMemory(
        high_bytes=high_bytes,
        low_bytes=min(vm.ipfrag_low_thresh or high_bytes // 4 * 3, high_bytes),
        evicts=not pages.fixes.ipfrag_no_evictor,
        softirq=pages.softirq,
        queues=lambda: slabs["kmalloc-256"],
        free=skbs.kfree_skb,
    )
    return FragmentCache(pages.world, netstat=netstat, memory=memory, time_ns=vm.ipfrag_time * NS_PER_S)


def connect_nic(
    options: Any, stack: NetStack, memory: MemoryMap, events: Workqueue
) -> tuple[Nic | None, LinkPair | None]:
    """Open the card of ``[nic]`` with a full ring and plug in the wire of ``[link]``; neither for loopback alone."""
    if options.nic.kind == "loopback":
        return None, None
    nic = Nic(
        stack.world,
        "eth0",
        NicModel.named(options.nic.kind),
        ring=options.nic.ring,
        retry=options.nic.refill_retry,
        recycle=options.nic.recycle,
        skbs=stack.skbs,
        pages=stack.pages,
        netstat=stack.netstat,
        costs=stack.costs,
        receive=stack.netif_receive,
        workqueue=events,
    )
    blocks = memory.set_aside(nic.blocks_at_boot(), 3)
    memory.own_blocks(blocks, 3, nic.owner)
    nic.fill_at_boot(blocks)
    stack.nic = nic
    link = options.link

    def direction(name: str, deliver: Callable[..., None]) -> LinkDirection:
        return LinkDirection(
            stack.world,
            name,
            bandwidth_bytes_per_s=link.bandwidth_bytes_per_s,
            delay_us=link.delay_us,
            queue_packets=link.queue_packets,
            deliver=deliver,
            loss=link.loss,
            reorder=link.reorder,
            duplicate=link.duplicate,
        )

    nic.link = direction("link0.up", lambda packet: packet.to.take(packet, None))
    down = direction("link0.down", nic.packet_arrived)
    return nic, LinkPair(up=nic.link, down=down, acks_every_frame=link.peer_acks == "frame")
