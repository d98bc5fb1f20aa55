"""What one reclaim wants, and how much of each list it scans at a priority.

Mirrors ``struct scan_control``, ``prepare_scan_count``, ``get_scan_count`` and ``inactive_is_low`` (mm/vmscan.c of
6.1). At each priority a list's share is its size shifted right by it. How anonymous and file pages share the work is
decided by swappiness and by what reclaiming either has cost lately, unless something is plain before: no swap space,
the last priority, hardly any file pages, or plenty of idle ones.

The lists are the node's. A reclaim for lower zones counts only their pages, and moves those of others that it meets
from the tail to the head.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from netvm.mm.frames import PfnArray
from netvm.mm.gfp import ALLOC_WMARK_HIGH
from netvm.mm.lru import ACTIVE_ANON, ACTIVE_FILE, INACTIVE_ANON, INACTIVE_FILE, Lruvec
from netvm.mm.zone import Node, Zone
from netvm.runtime.task import Task
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of
from netvm.trace.vmstat import VmStat

if TYPE_CHECKING:
    from netvm.mm.memcontrol import MemCgroup

__all__ = [
    "DEACTIVATE_ANON",
    "DEACTIVATE_FILE",
    "DEF_PRIORITY",
    "SWAP_CLUSTER_MAX",
    "ScanControl",
    "adjust_targets",
    "inactive_is_low",
]

SWAP_CLUSTER_MAX: Final = 32
DEF_PRIORITY: Final = 12

_RECLAIM_FILE: Final = "RECLAIM_WB_FILE|RECLAIM_WB_ASYNC"
_RECLAIM_ANON: Final = "RECLAIM_WB_ANON|RECLAIM_WB_ASYNC"
_LRU_SHRINK_INACTIVE: Final = number_of("mm_vmscan_lru_shrink_inactive")
DEACTIVATE_ANON: Final = 1
DEACTIVATE_FILE: Final = 2


@dataclass(slots=True, kw_only=True)
class ScanControl:
    """What one reclaim wants and may do (``struct scan_control``), and what it has found so far."""

    gfp: int
    order: int
    nr_to_reclaim: int = SWAP_CLUSTER_MAX
    memcg: "MemCgroup | None" = None
    """The memory group whose limit is met (target_mem_cgroup); None: the node is short."""
    zones_above: tuple[Zone, ...] = ()
    """Zones whose pages would not help (those above reclaim_idx): they are skipped."""
    zones_counted: tuple[Zone, ...] = ()
    """Zones whose ``pages_scanned`` this reclaim adds to (before 4.7; see :mod:`netvm.mm.unreclaimable`)."""
    priority: int = DEF_PRIORITY
    may_writepage: bool = True
    may_unmap: bool = True
    may_swap: bool = True
    kswapd: bool = False
    force_scan: bool = False
    """Whether a list is scanned even where its share would be no page: kswapd's glance at a hopeless zone."""
    force_deactivate: bool = False
    nr_scanned: int = 0
    nr_reclaimed: int = 0
    skipped_deactivate: bool = False
    may_deactivate: int = 0
    cache_trim_mode: bool = False
    file_is_tiny: bool = False
    anon_cost: int = 0
    file_cost: int = 0
    # sc->nr: what this round met
    nr_taken: int = 0
    nr_file_taken: int = 0
    nr_writeback: int = 0
    nr_immediate: int = 0
    nr_dirty: int = 0
    nr_unqueued_dirty: int = 0
    nr_congested: int = 0
    nr_ref_keep: int = 0

    def clear_round(self) -> None:
        """Zero what the last round met."""
        self.nr_taken = self.nr_file_taken = self.nr_writeback = self.nr_immediate = 0
        self.nr_dirty = self.nr_unqueued_dirty = self.nr_congested = self.nr_ref_keep = 0

    def met(self) -> tuple[int, ...]:
        """Return what this round has met so far, for :meth:`trace_inactive`."""
        return (self.nr_dirty, self.nr_writeback, self.nr_congested, self.nr_immediate, self.nr_ref_keep)

    def trace_inactive(
        self,
        tracer: Recorder,
        task: Task,
        nr_scanned: int,
        nr_reclaimed: int,
        met: tuple[int, ...],
        nr_active: int,
        *,
        file: bool,
    ) -> None:
        """Pass the tracepoint at the end of a batch; ``met`` is what the round had met before it."""
        dirty, writeback, congested, immediate, ref_keep = met
        tracer.emit(
            _LRU_SHRINK_INACTIVE,
            task,
            0,
            nr_scanned,
            nr_reclaimed,
            self.nr_dirty - dirty,
            self.nr_writeback - writeback,
            self.nr_congested - congested,
            self.nr_immediate - immediate,
            0 if file else nr_active,
            nr_active if file else 0,
            self.nr_ref_keep - ref_keep,
            0,
            self.priority,
            tracer.name(_RECLAIM_FILE if file else _RECLAIM_ANON),
        )

    def prepare_scan_count(self, node: Node, lruvec: Lruvec, vmstat: VmStat) -> None:
        """Look at the node as it is now: costs, what to deactivate, whether files are few or many."""
        self.anon_cost = lruvec.anon_cost
        self.file_cost = lruvec.file_cost
        self.may_deactivate = 0
        if self.force_deactivate:
            self.may_deactivate = DEACTIVATE_ANON | DEACTIVATE_FILE
        else:
            if vmstat.workingset_activate_anon != lruvec.refaults_anon or inactive_is_low(lruvec, file=False):
                self.may_deactivate |= DEACTIVATE_ANON
            if vmstat.workingset_activate_file != lruvec.refaults_file or inactive_is_low(lruvec, file=True):
                self.may_deactivate |= DEACTIVATE_FILE
        inactive_file = lruvec.nr_pages(INACTIVE_FILE)
        self.cache_trim_mode = bool(inactive_file >> self.priority) and not self.may_deactivate & DEACTIVATE_FILE
        self.file_is_tiny = False
        if self.memcg is not None:
            return
        if not self.may_deactivate & DEACTIVATE_ANON and lruvec.nr_pages(INACTIVE_ANON) >> self.priority:
            left = inactive_file + lruvec.nr_pages(ACTIVE_FILE)
            for zone in node.zones:
                left += zone.nr_free - zone.wmark_pages(ALLOC_WMARK_HIGH)
            self.file_is_tiny = left <= 0

    def isolate_lru_folios(self, lruvec: Lruvec, lru: int, nr_to_scan: int, vmstat: VmStat) -> tuple[PfnArray, int]:
        """Take pages from a list's tail; return them and how many were looked at (isolate_lru_folios).

        Pages that are skipped count as looked at, not towards ``nr_to_scan``.
        """
        if not self.zones_above:
            taken = lruvec.lists[lru].isolate_tail(nr_to_scan)
            self._count(len(taken))
            return taken, len(taken)
        taken, skipped = lruvec.lists[lru].isolate_below(nr_to_scan, self.zones_above[0].start_pfn)
        for zone in self.zones_above:
            of_zone = (skipped >= zone.start_pfn) & (skipped < zone.end_pfn)
            vmstat.pgskip[zone.name.lower()] += int(np.count_nonzero(of_zone))
        self._count(len(taken))
        return taken, len(taken) + len(skipped)

    def _count(self, nr_scanned: int) -> None:
        for zone in self.zones_counted:
            zone.pages_scanned += nr_scanned

    def get_scan_count(self, lruvec: Lruvec, *, nr_swap_pages: int, swappiness: int) -> list[int]:
        """Return how many pages of each evictable list to scan (get_scan_count)."""
        lists = lruvec.lists[:4]
        if self.zones_above:
            sizes = [lru.nr_below(self.zones_above[0].start_pfn) >> self.priority for lru in lists]
        else:
            sizes = [lru.size >> self.priority for lru in lists]
        if self.force_scan:
            sizes = [size or min(lru.size, SWAP_CLUSTER_MAX) for size, lru in zip(sizes, lists, strict=True)]
        if not self.may_swap or nr_swap_pages <= 0 or (self.memcg is not None and not swappiness):
            return [0, 0, sizes[2], sizes[3]]
        if not self.priority and swappiness:
            return sizes
        if self.file_is_tiny:
            return [sizes[0], sizes[1], 0, 0]
        if self.cache_trim_mode:
            return [0, 0, sizes[2], sizes[3]]
        total = self.anon_cost + self.file_cost
        anon = total + self.anon_cost
        file = total + self.file_cost
        total = anon + file
        ap = swappiness * (total + 1) // (anon + 1)
        fp = (200 - swappiness) * (total + 1) // (file + 1)
        share = ap + fp
        return [sizes[0] * ap // share, sizes[1] * ap // share, sizes[2] * fp // share, sizes[3] * fp // share]


def inactive_is_low(lruvec: Lruvec, *, file: bool) -> bool:
    """Whether the inactive list is small beside the active one (inactive_is_low)."""
    inactive = lruvec.nr_pages(INACTIVE_FILE if file else INACTIVE_ANON)
    active = lruvec.nr_pages(ACTIVE_FILE if file else ACTIVE_ANON)
    gib = (inactive + active) >> 18
    ratio = int((10 * gib) ** 0.5) if gib else 1
    return inactive * ratio < active


def adjust_targets(nr: list[int], targets: list[int]) -> bool:
    """Enough is reclaimed: stop the smaller type, scale the other; False if one has nothing left."""
    nr_file = nr[INACTIVE_FILE] + nr[ACTIVE_FILE]
    nr_anon = nr[INACTIVE_ANON] + nr[ACTIVE_ANON]
    if not nr_file or not nr_anon:
        return False
    if nr_file > nr_anon:
        target = targets[INACTIVE_ANON] + targets[ACTIVE_ANON] + 1
        percentage = nr_anon * 100 // target
        stop, other = (INACTIVE_ANON, ACTIVE_ANON), (INACTIVE_FILE, ACTIVE_FILE)
    else:
        target = targets[INACTIVE_FILE] + targets[ACTIVE_FILE] + 1
        percentage = nr_file * 100 // target
        stop, other = (INACTIVE_FILE, ACTIVE_FILE), (INACTIVE_ANON, ACTIVE_ANON)
    for lru in stop:
        nr[lru] = 0
    for lru in other:
        scanned = targets[lru] - nr[lru]
        nr[lru] = max(0, targets[lru] * (100 - percentage) // 100 - scanned)
    return True
