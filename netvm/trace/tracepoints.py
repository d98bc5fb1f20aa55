"""The tracepoints: one table of names, groups and fields, as the kernel prints them.

Every event that netvm records, reads or writes is a :class:`Tracepoint`. Its format is a fact of the kernel's
``include/trace/events``: what ``TP_printk`` prints, in the order it prints it. The field names are those of the text
(``usect_delayed`` is spelled so in the kernel), so a filter written for a real machine works on an emulated one. Field
kinds follow the conversions: ``%d %u %ld %lu %lld %llu`` are integers, ``%#x`` one written in hexadecimal with ``0x``,
``%08x`` one without, ``%p`` a pointer, ``%s`` a string, which a record holds as an index into its recording's names.
Where no word stands before a conversion the table names the field in braces behind it.

The group ``netvm`` is our own: what the kernel has no tracepoint for and an emulated host can show (mempools, the
reserve, the storage's replies, counters). Its counters are sampled on change.

An event that is not in the table is not lost to a reader: it gets the number :data:`OTHER` and its name.
"""

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["ARGS_MAX", "BY_NAME", "CONVERSION", "COUNTERS", "OTHER", "TRACEPOINTS", "Field", "Tracepoint", "number_of"]

ARGS_MAX: Final = 16
"""Arguments that a record has room for."""

OTHER: Final = 0
"""Number of every event that the table does not know."""

CONVERSION: Final = re.compile(r"%(#?)-?(\d*)(?:l|ll|h)?([dusxp])")
"""A conversion of a format: its ``#``, its width, its letter."""
_NAMED: Final = re.compile(r"(%#?-?\d*(?:l|ll|h)?[dusxp])(?:\{(\w+)\})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One argument of an event."""

    name: str
    kind: str
    """``d`` integer, ``x`` one written in hexadecimal with ``0x``, ``h`` without it, ``p`` pointer, ``s`` name."""
    ctype: str
    """Its C type in a format file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracepoint:
    """One event: ``TRACE_EVENT(name, ...)`` of a group."""

    number: int
    group: str
    name: str
    format: str
    """What follows ``name: `` in the text, with one conversion for each field."""
    fields: tuple[Field, ...]

    def index(self, field: str) -> int:
        """Return the position of ``field`` among the arguments."""
        return next(index for index, known in enumerate(self.fields) if known.name == field)


_CTYPES: Final = {"d": "long", "x": "unsigned long", "h": "unsigned long", "p": "void *", "s": "char *"}

_WRITEBACK_WORK: Final = (
    "bdi %s: sb_dev %d{sb_major}:%d{sb_minor} nr_pages=%ld sync_mode=%d kupdate=%d range_cyclic=%d background=%d "
    "reason=%s cgroup_ino=%lu"
)

_SINGLE_INODE: Final = (
    "bdi %s: ino=%lu state=%s dirtied_when=%lu age=%lu index=%lu to_write=%ld wrote=%lu cgroup_ino=%lu"
)
_FILEID: Final = "fileid=%02x{major}:%02x{minor}:%llu{fileid} fhandle=0x%08x{fhandle} offset=%lld"
_TASK: Final = "task:%08x@%08x{client}"
_WORDS: Final = {"WORK": _WRITEBACK_WORK, "SINGLE_INODE": _SINGLE_INODE, "FILEID": _FILEID, "TASK": _TASK}
"""What several formats of the table have in common."""

_TABLE: Final = """
vmscan mm_vmscan_kswapd_sleep: nid=%d
vmscan mm_vmscan_kswapd_wake: nid=%d order=%d
vmscan mm_vmscan_wakeup_kswapd: nid=%d order=%d gfp_flags=%s
vmscan mm_vmscan_direct_reclaim_begin: order=%d gfp_flags=%s
vmscan mm_vmscan_direct_reclaim_end: nr_reclaimed=%lu
vmscan mm_vmscan_memcg_reclaim_begin: order=%d gfp_flags=%s
vmscan mm_vmscan_memcg_reclaim_end: nr_reclaimed=%lu
vmscan mm_vmscan_memcg_softlimit_reclaim_begin: order=%d gfp_flags=%s
vmscan mm_vmscan_memcg_softlimit_reclaim_end: nr_reclaimed=%lu
vmscan mm_vmscan_lru_isolate: isolate_mode=%d classzone=%d order=%d nr_requested=%lu nr_scanned=%lu nr_skipped=%lu \
nr_taken=%lu lru=%s
vmscan mm_vmscan_write_folio: page=%p pfn=%#x flags=%s
vmscan mm_vmscan_lru_shrink_inactive: nid=%d nr_scanned=%ld nr_reclaimed=%ld nr_dirty=%ld nr_writeback=%ld \
nr_congested=%ld nr_immediate=%ld nr_activate_anon=%d nr_activate_file=%d nr_ref_keep=%ld nr_unmap_fail=%ld \
priority=%d flags=%s
vmscan mm_vmscan_lru_shrink_active: nid=%d nr_taken=%ld nr_active=%ld nr_deactivated=%ld nr_referenced=%ld \
priority=%d flags=%s
vmscan mm_vmscan_node_reclaim_begin: nid=%d order=%d gfp_flags=%s
vmscan mm_vmscan_node_reclaim_end: nr_reclaimed=%lu
vmscan mm_vmscan_throttled: nid=%d usec_timeout=%d usect_delayed=%d reason=%s
kmem mm_page_alloc: page=%p pfn=%#x order=%d migratetype=%d gfp_flags=%s
kmem mm_page_free: page=%p pfn=%#x order=%d
kmem mm_page_free_batched: page=%p pfn=%#x order=%d
kmem mm_page_alloc_zone_locked: page=%p pfn=%#x order=%u migratetype=%d percpu_refill=%d
compaction mm_compaction_isolate_migratepages: range=(0x%lx{start_pfn} ~ 0x%lx{end_pfn}) nr_scanned=%lu nr_taken=%lu
compaction mm_compaction_isolate_freepages: range=(0x%lx{start_pfn} ~ 0x%lx{end_pfn}) nr_scanned=%lu nr_taken=%lu
compaction mm_compaction_migratepages: nr_migrated=%lu nr_failed=%lu
compaction mm_compaction_begin: zone_start=0x%lx{zone_start} migrate_pfn=0x%lx{migrate_pfn} free_pfn=0x%lx{free_pfn} \
zone_end=0x%lx{zone_end}, mode=%s
compaction mm_compaction_end: zone_start=0x%lx{zone_start} migrate_pfn=0x%lx{migrate_pfn} free_pfn=0x%lx{free_pfn} \
zone_end=0x%lx{zone_end}, mode=%s status=%s
compaction mm_compaction_try_to_compact_pages: order=%d gfp_mask=%s priority=%d
compaction mm_compaction_kcompactd_sleep: nid=%d
compaction mm_compaction_wakeup_kcompactd: nid=%d order=%d classzone_idx=%-6s
compaction mm_compaction_kcompactd_wake: nid=%d order=%d classzone_idx=%-6s
oom mark_victim: pid=%d
oom wake_reaper: pid=%d
oom start_task_reaping: pid=%d
oom finish_task_reaping: pid=%d
oom skip_task_reaping: pid=%d
oom reclaim_retry_zone: node=%d zone=%s order=%d reclaimable=%lu available=%lu min_wmark=%lu no_progress_loops=%d \
wmark_check=%d
writeback balance_dirty_pages: bdi %s: limit=%lu setpoint=%lu dirty=%lu bdi_setpoint=%lu bdi_dirty=%lu \
dirty_ratelimit=%lu task_ratelimit=%lu dirtied=%u dirtied_pause=%u paused=%lu pause=%ld period=%lu think=%ld \
cgroup_ino=%lu
writeback writeback_dirty_inode: bdi %s: ino=%lu state=%s flags=%s
writeback writeback_queue_io: bdi %s: older=%lu age=%ld enqueue=%d reason=%s cgroup_ino=%lu
writeback writeback_start: WORK
writeback writeback_written: WORK
writeback writeback_single_inode_start: SINGLE_INODE
writeback writeback_single_inode: SINGLE_INODE
writeback writeback_pages_written: %ld{pages}
writeback bdi_dirty_ratelimit: bdi %s: write_bw=%lu awrite_bw=%lu dirty_rate=%lu dirty_ratelimit=%lu \
task_ratelimit=%lu balanced_dirty_ratelimit=%lu cgroup_ino=%lu
writeback global_dirty_state: dirty=%lu writeback=%lu bg_thresh=%lu thresh=%lu limit=%lu dirtied=%lu written=%lu
writeback writeback_congestion_wait: usec_timeout=%u usec_delayed=%u
sock sock_exceed_buf_limit: proto:%s sysctl_mem=%s allocated=%ld sysctl_rmem=%d rmem_alloc=%d sysctl_wmem=%d \
wmem_alloc=%d wmem_queued=%d kind=%s
skb kfree_skb: skbaddr=%p protocol=%u location=%p reason: %s
tcp tcp_retransmit_skb: skbaddr=%p skaddr=%p family=%s sport=%u dport=%u saddr=%s daddr=%s saddrv6=%s daddrv6=%s \
state=%s
nfs nfs_initiate_read: FILEID count=%u
nfs nfs_readpage_done: error=%d FILEID count=%u res=%u
nfs nfs_initiate_write: FILEID count=%u stable=%s
nfs nfs_writeback_done: error=%d FILEID count=%u res=%u stable=%s verifier=%s
nfs nfs_initiate_commit: FILEID count=%u
nfs nfs_commit_done: error=%d FILEID stable=%s verifier=%s
sunrpc rpc_request: TASK %s{program}v%d{version} %s{procedure} (%s{mode}sync)
sunrpc rpc_task_sleep: TASK flags=%s runstate=%s status=%d timeout=%lu queue=%s
sunrpc rpc_task_wakeup: TASK flags=%s runstate=%s status=%d timeout=%lu queue=%s
sunrpc xprt_transmit: TASK xid=0x%08x{xid} seqno=%u status=%d
sunrpc xprt_retransmit: TASK xid=0x%08x{xid} %s{program}v%d{version} %s{procedure} ntrans=%d timeout=%lu
sunrpc xprt_lookup_rqst: peer=[%s{address}]:%s{port} xid=0x%08x{xid} status=%d
sunrpc rpc_socket_nospace: TASK total=%u remaining=%u
sunrpc rpc_stats_latency: TASK xid=0x%08x{xid} %s{program}v%d{version} %s{procedure} backlog=%lu rtt=%lu execute=%lu
block block_rq_issue: dev=%s rwbs=%s bytes=%u sector=%llu nr_sector=%u comm=%s
block block_rq_complete: dev=%s rwbs=%s sector=%llu nr_sector=%u error=%d
sched sched_switch: prev_comm=%s prev_pid=%d prev_prio=%d prev_state=%s ==> next_comm=%s next_pid=%d next_prio=%d
sched sched_wakeup: comm=%s pid=%d prio=%d target_cpu=%03d
workqueue workqueue_queue_work: work=%p function=%s workqueue=%s req_cpu=%d cpu=%d
workqueue workqueue_execute_start: work=%p function=%s
workqueue workqueue_execute_end: work=%p function=%s
netvm alloc_stall_begin: order=%d gfp_flags=%s
netvm alloc_stall_end: order=%d pfn=%ld
netvm swapin_begin: pfn=%d
netvm swapin_end: pfn=%d
netvm mempool_wait_begin: pool=%s min_nr=%d
netvm mempool_wait_end: pool=%s waited=%d
netvm pfmemalloc_wait_begin: free=%ld reserve=%ld
netvm pfmemalloc_wait_end: free=%ld reserve=%ld
netvm request_issue: request=%d rwbs=%s slot=%lld nr_pages=%d
netvm request_sent: request=%d
netvm request_complete: request=%d rwbs=%s error=%d nr_pages=%d
netvm skb_drop: reason=%s len=%d
netvm pages_written: bdi=%s ino=%d nr_pages=%d dirty_us=%lld writeback_us=%lld error=%d
netvm socket_wait_begin: socket=%s wmem_queued=%d sndbuf=%d
netvm socket_wait_end: socket=%s wmem_queued=%d sndbuf=%d
netvm reserve_owner: owner=%s pages=%ld
netvm counter: name=%s value=%lld
"""

COUNTERS: Final = (
    "free",
    "min",
    "low",
    "high",
    "nr_dirty",
    "nr_writeback",
    "reserve_used",
    "rx_ring",
    "tcp_mem",
    "swap_used",
    "bio_pool",
    "kswapd_failures",
)
"""Names of the counters that a recorder samples; pages, but for ``rx_ring`` (buffers), ``bio_pool`` (elements in the
pool) and ``kswapd_failures``."""


def _fields(text: str) -> tuple[Field, ...]:
    """Return the fields of a format: each is named in braces behind its conversion or by the word before it."""
    fields = []
    for match in _NAMED.finditer(text):
        before = re.findall(r"\w+", text[: match.start()])
        parts = CONVERSION.fullmatch(match[1])
        assert parts is not None
        kind = parts[3] if parts[3] in "sp" else "d"
        if parts[3] == "x":
            kind = "x" if parts[1] else "h"
        fields.append(Field(name=match[2] or before[-1], kind=kind, ctype=_CTYPES[kind]))
    assert len(fields) <= ARGS_MAX
    return tuple(fields)


def _tracepoints() -> tuple[Tracepoint, ...]:
    points = [Tracepoint(number=OTHER, group="", name="", format="%s", fields=_fields("text=%s"))]
    for line in _TABLE.strip().splitlines():
        head, _, text = line.partition(": ")
        group, name = head.split()
        for word, meant in _WORDS.items():
            text = re.sub(rf"\b{word}\b", meant, text)
        plain = _NAMED.sub(lambda match: match[1], text)
        points.append(Tracepoint(number=len(points), group=group, name=name, format=plain, fields=_fields(text)))
    return tuple(points)


TRACEPOINTS: Final = _tracepoints()
"""The table, by number."""

BY_NAME: Final = {point.name: point for point in TRACEPOINTS[1:]}


def number_of(name: str) -> int:
    """Return the number of a tracepoint of the table."""
    return BY_NAME[name].number
