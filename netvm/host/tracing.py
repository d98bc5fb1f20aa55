"""Plugging a recorder into a host's tracepoints, and the counters it samples.

Recording is of the host as a whole: every room that has tracepoints gets the same recorder, and packets that are
dropped are told by the counters they are counted in.
"""

from netvm.host.machine import Host
from netvm.mm.gfp import GFP_DIRECT_RECLAIM, PF_MEMALLOC, gfp_name
from netvm.mm.mempool import Mempool
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of

__all__ = ["DROP_COUNTERS", "attach"]

_SKB_DROP = number_of("skb_drop")

DROP_COUNTERS = frozenset(
    {
        "PFMemallocDrop",
        "TCPBacklogDrop",
        "TCPRcvQDrop",
        "UdpRcvbufErrors",
        "rx_dropped",
        "rx_missed_errors",
        "rx_alloc_failed",
        "rx_skb_alloc_failed",
        "tx_dropped",
    }
)
"""Counters of /proc/net/netstat and of the driver that mean a packet was lost on this host."""


def attach(host: Host, recorder: Recorder) -> None:
    """Turn the tracepoints of a host on."""
    recorder.gfp_name = gfp_name
    recorder.may_stall = lambda task, gfp: bool(gfp & GFP_DIRECT_RECLAIM) and not task.flags & PF_MEMALLOC
    host.vmscan.tracer = recorder
    host.pages.tracer = recorder
    host.oom.tracer = recorder
    host.swap.tracer = recorder
    if host.queue is not None:
        host.queue.tracer = recorder
    pool: Mempool[int] = host.swap.io.pool
    pool.tracer = recorder

    def dropped(name: str, nr: int) -> None:
        if name in DROP_COUNTERS:
            recorder.emit(_SKB_DROP, host.world.current, recorder.name(name), nr)

    host.netstat.told = dropped
    zones = host.node.zones
    vmstat = host.vmstat
    ledger = host.ledger
    swap = host.swap

    def counters() -> tuple[int, ...]:
        free = minimum = low = high = 0
        for zone in zones:
            boost = zone.watermark_boost
            free += zone.nr_free
            minimum += zone.watermark[0] + boost
            low += zone.watermark[1] + boost
            high += zone.watermark[2] + boost
        return (
            free,
            minimum,
            low,
            high,
            vmstat.nr_dirty,
            vmstat.nr_writeback,
            ledger.reserve_used,
            host.nic.occupancy if host.nic is not None else 0,
            host.stack.tcp_memory.allocated,
            swap.nr_total_slots() - swap.nr_free_slots(),
            len(pool.elements),
            host.node.kswapd_failures,
        )

    recorder.counters = counters
    recorder.owners = lambda: [(ledger.names[i], pages) for i, pages in enumerate(ledger.reserve_by_owner)]
    recorder.sample()
