"""Plugging a recorder into a host's tracepoints, and the counters it samples.

Recording is of the host as a whole: every room that has tracepoints gets the same recorder, and packets that are
dropped are told by the counters they are counted in.
"""

import numpy as np

from netvm.host.backend import TracedBackend
from netvm.host.machine import Host
from netvm.host.sched_trace import SchedTrace, WorkTrace
from netvm.mm.gfp import GFP_DIRECT_RECLAIM, PF_MEMALLOC, gfp_migratetype, gfp_name
from netvm.mm.mempool import Mempool
from netvm.mm.page_alloc import PageAllocator
from netvm.net.net_trace import NetTrace
from netvm.pagecache.block_fs import BlockFileSystem
from netvm.pagecache.writeback_trace import WritebackTrace
from netvm.runtime.task import Task
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of

__all__ = ["DROP_COUNTERS", "attach"]

_SKB_DROP = number_of("skb_drop")
_ALLOC = number_of("mm_page_alloc")
_FREE = number_of("mm_page_free")
_FREE_BATCHED = number_of("mm_page_free_batched")

DROP_COUNTERS = frozenset(
    {
        "PFMemallocDrop",
        "TCPBacklogDrop",
        "TCPOFODrop",
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


def _probe_pages(pages: PageAllocator, recorder: Recorder) -> None:
    """Put probes on the allocator's doors, as kprobes would: a host that is not fully traced does not pay for them."""
    take, take_run, free, free_singles = (
        pages.get_page_from_freelist,
        pages.try_alloc_run,
        pages.free_pages,
        pages.free_singles,
    )

    def get_page_from_freelist(task: Task, order: int, gfp: int, alloc_flags: int, owner: int) -> int:
        pfn = take(task, order, gfp, alloc_flags, owner)
        if pfn >= 0:
            recorder.emit(_ALLOC, task, -1, pfn, order, gfp_migratetype(gfp), recorder.mask(gfp))
        return pfn

    def try_alloc_run(task: Task, nr_pages: int, gfp: int, owner: int) -> list[int]:
        pfns = take_run(task, nr_pages, gfp, owner)
        rows = np.empty((len(pfns), 5), dtype=np.int64)
        rows[:] = (-1, 0, 0, gfp_migratetype(gfp), recorder.mask(gfp))
        rows[:, 1] = pfns
        recorder.emit_many(_ALLOC, task, rows)
        return pfns

    def free_pages(pfn: int, order: int) -> None:
        recorder.emit(_FREE, pages.world.current, -1, pfn, order)
        free(pfn, order)

    def free_page_list(pfns: list[int], owner: int, nr_reserve: int) -> None:
        rows = np.zeros((len(pfns), 3), dtype=np.int64)
        rows[:, 0] = -1
        rows[:, 1] = pfns
        recorder.emit_many(_FREE_BATCHED, pages.world.current, rows)
        free_singles(pfns, owner, nr_reserve)

    for name, probe in (
        ("get_page_from_freelist", get_page_from_freelist),
        ("try_alloc_run", try_alloc_run),
        ("free_pages", free_pages),
        ("free_singles", free_page_list),
    ):
        setattr(pages, name, probe)


def attach(host: Host, recorder: Recorder) -> None:
    """Turn the tracepoints of a host on."""
    recorder.gfp_name = gfp_name
    recorder.may_stall = lambda task, gfp: bool(gfp & GFP_DIRECT_RECLAIM) and not task.flags & PF_MEMALLOC
    host.vmscan.tracer = host.vmscan.compaction.trace.recorder = recorder
    host.pages.tracer = recorder
    host.oom.tracer = recorder
    host.swap.tracer = recorder
    if host.queue is not None:
        host.queue.tracer = recorder
    pool: Mempool[int] = host.swap.io.pool
    pool.tracer = recorder

    files = host.files
    if isinstance(files.fs, BlockFileSystem):
        recorder.pools.append(("biovec-max mempool", files.fs.biovecs.pool.elements))
    files.cache.tracer = files.flusher.tracer = files.throttle.tracer = WritebackTrace(recorder, files.throttle)
    if isinstance(host.backend, TracedBackend):
        host.backend.trace(recorder)
    if host.cpus is not None and recorder.wants("sched"):
        host.cpus.probe = SchedTrace(recorder)
    if recorder.wants("workqueue"):
        work = WorkTrace(recorder)
        for workers in host.pools:
            workers.probe = work
    sockets = host.stack.tracer = NetTrace(recorder)
    if recorder.wants("sock"):
        host.stack.tcp_memory.exceeded = host.stack.udp_memory.exceeded = sockets.exceed_buf_limit

    def dropped(name: str, nr: int) -> None:
        if name in DROP_COUNTERS:
            recorder.emit(_SKB_DROP, host.world.current, recorder.name(name), nr)
            sockets.kfree_skb(name, nr)

    host.netstat.told = dropped
    if recorder.wants("kmem"):
        _probe_pages(host.pages, recorder)
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
    recorder.owners = lambda: (ledger.names, ledger.reserve_by_owner)
    recorder.sample()
