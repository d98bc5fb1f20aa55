"""The tracepoints: one table of names, groups and fields, as the kernel prints them.

Every event that netvm records, reads or writes is a :class:`Tracepoint`. Its format is a fact of the kernel's
``include/trace/events``: what ``TP_printk`` prints, in the order it prints it. The field names are those of the text
(``usect_delayed`` is spelled so in the kernel), so a filter written for a real machine works on an emulated one. Field
kinds follow the conversions: ``%d %u %ld %lu %lld %llu`` are integers, ``%#x`` one written in hexadecimal with ``0x``,
``%p`` a pointer, ``%s`` a string, which a record holds as an index into its recording's names.

The group ``netvm`` is our own: what the kernel has no tracepoint for and an emulated host can show (mempools, the
reserve, the storage's replies, counters). Its counters are sampled on change.

An event that is not in the table is not lost to a reader: it gets the number :data:`OTHER` and its name.
"""

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["ARGS_MAX", "BY_NAME", "COUNTERS", "OTHER", "TRACEPOINTS", "Field", "Tracepoint", "number_of"]

ARGS_MAX: Final = 16
"""Arguments that a record has room for."""

OTHER: Final = 0
"""Number of every event that the table does not know."""

_CONVERSION: Final = re.compile(r"%(#?)-?\d*(?:l|ll|h)?([dusxp])")


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One argument of an event."""

    name: str
    kind: str
    """``d`` integer, ``x`` integer written in hexadecimal, ``p`` pointer, ``s`` name."""
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


_CTYPES: Final = {"d": "long", "x": "unsigned long", "p": "void *", "s": "char *"}

_WRITEBACK_WORK: Final = (
    "bdi %s nr_pages=%ld sync_mode=%d kupdate=%d range_cyclic=%d background=%d reason=%s cgroup_ino=%lu"
)

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
writeback writeback_start: WORK
writeback writeback_written: WORK
writeback global_dirty_state: dirty=%lu writeback=%lu bg_thresh=%lu thresh=%lu limit=%lu dirtied=%lu written=%lu
sock sock_exceed_buf_limit: proto:%s sysctl_mem=%s allocated=%ld sysctl_rmem=%d rmem_alloc=%d sysctl_wmem=%d \
wmem_alloc=%d wmem_queued=%d kind=%s
skb kfree_skb: skbaddr=%p protocol=%u location=%p reason: %s
tcp tcp_retransmit_skb: skbaddr=%p skaddr=%p family=%s sport=%u dport=%u saddr=%s daddr=%s saddrv6=%s daddrv6=%s \
state=%s
block block_rq_issue: dev=%s rwbs=%s bytes=%u sector=%llu nr_sector=%u comm=%s
block block_rq_complete: dev=%s rwbs=%s sector=%llu nr_sector=%u error=%d
sched sched_switch: prev_comm=%s prev_pid=%d prev_prio=%d prev_state=%s ==> next_comm=%s next_pid=%d next_prio=%d
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
netvm reserve_owner: owner=%s pages=%ld
netvm counter: name=%s value=%lld
netvm wait_edge: from=%s to=%s kind=%s
netvm verdict: text=%s
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
    """Return the fields of a format: each is named by the word before its conversion."""
    fields = []
    for match in _CONVERSION.finditer(text):
        before = re.findall(r"\w+", text[: match.start()])
        kind = match[2] if match[2] in "sxp" else "d"
        fields.append(Field(name=before[-1], kind=kind, ctype=_CTYPES[kind]))
    assert len(fields) <= ARGS_MAX
    return tuple(fields)


def _tracepoints() -> tuple[Tracepoint, ...]:
    points = [Tracepoint(number=OTHER, group="", name="", format="%s", fields=_fields("text=%s"))]
    for line in _TABLE.strip().splitlines():
        head, _, text = line.partition(": ")
        group, name = head.split()
        text = _WRITEBACK_WORK if text == "WORK" else text
        points.append(Tracepoint(number=len(points), group=group, name=name, format=text, fields=_fields(text)))
    return tuple(points)


TRACEPOINTS: Final = _tracepoints()
"""The table, by number."""

BY_NAME: Final = {point.name: point for point in TRACEPOINTS[1:]}


def number_of(name: str) -> int:
    """Return the number of a tracepoint of the table."""
    return BY_NAME[name].number
