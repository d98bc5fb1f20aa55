"""Page reclaim: how much is scanned, in what order, and by whom.

Mirrors mm/vmscan.c of 6.1 above the level of single pages: direct reclaim (``try_to_free_pages``,
``do_try_to_free_pages``), ``shrink_node``, ``shrink_lruvec``, and two waits in it: ``throttle_direct_reclaim`` and
``too_many_isolated``; naps between two attempts are :mod:`netvm.mm.reclaim_throttle`. How much of each list is scanned
is :mod:`netvm.mm.scan_control`, what happens to the pages of a batch :mod:`netvm.mm.shrink`; kswapd is
:mod:`netvm.mm.kswapd`.

A reclaim goes over priorities 12 to 0; at each it scans ``size >> priority`` of the lists in batches of 32, and stops
when 32 pages have been reclaimed, which is looked at only between priorities (and between batches, except in the
first pass of a direct reclaimer). So a direct reclaim frees some 39 pages, never fewer than 32.

A reclaim for a memory group (:mod:`netvm.mm.memcontrol`) goes over the group's lists alone and frees no slabs.

# MODEL: one node, classic LRU lists; the refault clock and the counts of refaults are the node's, for groups too.
# MODEL: before 4.8 the lists were the zones', and nothing had to be skipped (reclaim_idx).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from netvm.fixes import Fixes
from netvm.mm.compact_control import CompactResult
from netvm.mm.compaction import Compaction
from netvm.mm.frames import PG_LRU, PG_UNEVICTABLE
from netvm.mm.gfp import (
    ALLOC_WMARK_MIN,
    GFP_DIRECT_RECLAIM,
    GFP_FS,
    GFP_IO,
    GFP_KERNEL,
    PF_KTHREAD,
    PF_LOCAL_THROTTLE,
    PF_MEMALLOC,
    GfpScope,
    gfp_zone,
)
from netvm.mm.lru import ACTIVE_ANON, ACTIVE_FILE, INACTIVE_ANON, INACTIVE_FILE, Lruvec
from netvm.mm.page_alloc import PageAllocator
from netvm.mm.ports import FilePort, PlugPort, SwapPort
from netvm.mm.reclaim_throttle import MAX_KSWAPD_FAILURES, FruitlessLooks, Throttles
from netvm.mm.scan_control import (
    DEACTIVATE_ANON,
    DEACTIVATE_FILE,
    DEF_PRIORITY,
    SWAP_CLUSTER_MAX,
    ScanControl,
    adjust_targets,
    inactive_is_low,
)
from netvm.mm.shrink import Shrinker
from netvm.mm.shrink_file import FileShrinker
from netvm.mm.shrinker import SlabShrinkers
from netvm.mm.unreclaimable import Unreclaimable
from netvm.mm.zone import PAGE_ALLOC_COSTLY_ORDER, ZONE_MOVABLE, ZONE_NORMAL, Node, Zone
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Provider, Resource, Task
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.trace.latency import LatencyRecorder
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of
from netvm.trace.vmstat import VmStat
from netvm.units import NS_PER_S

if TYPE_CHECKING:
    from netvm.mm.kcompactd import Kcompactd
    from netvm.mm.memcontrol import MemCgroup

__all__ = ["Vmscan"]

_U16 = np.uint16
_NR_LOOKED_AT: Final = 1 << 14
"""Frames of a zone that are looked at together where one page decides."""
_DIRECT_RECLAIM_BEGIN: Final = number_of("mm_vmscan_direct_reclaim_begin")
_DIRECT_RECLAIM_END: Final = number_of("mm_vmscan_direct_reclaim_end")
_WAKEUP_KSWAPD: Final = number_of("mm_vmscan_wakeup_kswapd")
_PFMEMALLOC_WAIT_BEGIN: Final = number_of("pfmemalloc_wait_begin")
_PFMEMALLOC_WAIT_END: Final = number_of("pfmemalloc_wait_end")


@dataclass(slots=True)
class NodeFlags:
    """PGDAT_* bits of the node."""

    writeback: bool = False
    dirty: bool = False


class Vmscan:
    """Page reclaim of one host."""

    def __init__(
        self,
        world: World,
        *,
        node: Node,
        lruvec: Lruvec,
        pages: PageAllocator,
        swap: SwapPort,
        vmstat: VmStat,
        fixes: Fixes,
        costs: CpuCosts,
        swappiness: int,
        laptop_mode: bool = False,
        compaction_proactiveness: int = 20,
    ) -> None:
        self.world = world
        self.node = node
        self.lruvec = lruvec
        self.pages = pages
        self.swap = swap
        self.vmstat = vmstat
        self.fixes = fixes
        self.costs = costs
        self.swappiness = swappiness
        self.laptop_mode = laptop_mode
        self.flags = NodeFlags()
        self.direct_reclaim_latency = LatencyRecorder()
        self.reclaimers: list[Task] = []
        """Who is inside direct reclaim now."""
        self.kswapd: Task | None = None
        self.kswapd_wait = WaitQueue(world, Resource("memory", "kswapd_wait", external=True))
        self.kswapd_order = 0
        self.kswapd_highest = -1
        """Highest zone index somebody asked for since kswapd looked (kswapd_highest_zoneidx); -1 for nobody."""
        reserve = Resource("memory", "pfmemalloc_wait: free above half of min", self._providers_of_reserve)
        self.pfmemalloc_wait = WaitQueue(world, reserve)
        self.throttles = Throttles(self)
        self.unreclaimable = Unreclaimable(self)
        self.tracer: Recorder | None = None
        self.shrinker = Shrinker(self)
        self.slab_shrinkers = SlabShrinkers(vmstat)
        self.compaction = Compaction(self, proactiveness=compaction_proactiveness)
        self.kcompactd: Kcompactd | None = None
        self.file_shrinker: FileShrinker | None = None
        """None while the host has no page cache: then there are no file pages."""
        pages.vmscan = self
        pages.buddy.boosted = lambda zone: self.wakeup_kswapd(0, 0, zone.index)

    def attach_files(self, files: FilePort) -> None:
        """Give reclaim the page cache."""
        self.file_shrinker = FileShrinker(self, files)

    def providers_of_memory(self) -> list[Provider | Task]:
        """Whoever is throttled looks for a page again afterwards."""
        providers = self.pages.memory.providers
        return list(providers()) if providers is not None else []

    def providers_of_isolated(self) -> list[Provider | Task]:
        """Return who may have pages off the lists: whoever reclaims."""
        kswapd = [self.kswapd] if self.kswapd is not None and not len(self.kswapd_wait) else []
        return [*self.reclaimers, *kswapd]

    def _providers_of_reserve(self) -> list[Task]:
        return [self.kswapd] if self.kswapd is not None else []

    # -- waking kswapd --------------------------------------------------------------------------------------------

    def kswapd_gave_up(self) -> bool:
        """Return whether kswapd sleeps and nobody will wake it: it found nothing too often."""
        return bool(len(self.kswapd_wait)) and self.node.kswapd_failures >= MAX_KSWAPD_FAILURES

    def wakeup_kswapd(self, gfp: int, order: int, highest: int) -> None:
        """Wake kswapd if it sleeps and there is work in the zones up to this one (wakeup_kswapd)."""
        self.kswapd_order = max(self.kswapd_order, order)
        self.kswapd_highest = max(self.kswapd_highest, highest)
        if not len(self.kswapd_wait):
            return
        hopeless = self.kswapd_gave_up()
        boosted = any(zone.watermark_boost for zone in self.node.zones if zone.index <= highest)
        if hopeless or (self.pgdat_balanced(order, highest=highest) and not boosted):
            if not gfp & GFP_DIRECT_RECLAIM:
                # nothing to reclaim for, but who asks cannot compact either
                self.wakeup_kcompactd(order, highest)
            return
        if self.tracer is not None:
            self.tracer.emit(_WAKEUP_KSWAPD, self.world.current, 0, order, self.tracer.mask(gfp))
        self.kswapd_wait.wake_one()

    def wakeup_kcompactd(self, order: int, highest: int) -> None:
        """Ask kcompactd for blocks of an order, if there is one."""
        if self.kcompactd is not None:
            self.kcompactd.wakeup_kcompactd(order, highest)

    def pgdat_balanced(self, order: int, *, highest: int = ZONE_MOVABLE) -> bool:
        """Whether some zone up to this one is above its high mark for this order (pgdat_balanced)."""
        for zone in self.node.zones:
            if zone.index > highest:
                break
            if zone.watermark_ok(order, zone.high_wmark_pages(), highest, 0, zone.nr_free):
                return True
        return False

    # -- what there is to reclaim ---------------------------------------------------------------------------------

    def node_lru_pages(self) -> int:
        """Return the LRU pages that could be reclaimed: file pages, and anonymous ones while swap has room."""
        nr_pages = self.lruvec.nr_pages
        total = nr_pages(INACTIVE_FILE) + nr_pages(ACTIVE_FILE)
        if self.swap.nr_free_slots() > 0:
            total += nr_pages(INACTIVE_ANON) + nr_pages(ACTIVE_ANON)
        return total

    def zone_reclaimable_pages(self, zone: Zone) -> int:
        """Return a zone's reclaimable pages (zone_reclaimable_pages).

        With ``reclaimable_free_pages``, its free ones if there are none.
        """
        total = self.zone_lru_pages(zone)
        return zone.nr_free if not total and self.fixes.reclaimable_free_pages else total

    def zone_lru_pages(self, zone: Zone) -> int:
        """Return the pages on a zone's lists that could be reclaimed."""
        zones = self.node.zones
        if len(zones) == 1:
            return self.node_lru_pages()
        # the largest zone has what the others have not: nobody counts millions of pages
        others = [one for one in zones if one is not zone]
        if zone.present > max(one.present for one in others):
            return self.node_lru_pages() - sum(self._lru_pages_in(one.start_pfn, one.end_pfn) for one in others)
        return self._lru_pages_in(zone.start_pfn, zone.end_pfn)

    def _lru_pages_in(self, start: int, end: int) -> int:
        """Count the LRU pages among some frames that could be reclaimed (NR_ZONE_INACTIVE_ANON to ACTIVE_FILE)."""
        frames = self.lruvec.frames
        found = frames.flags[start:end] & _U16(PG_LRU | PG_UNEVICTABLE) == PG_LRU
        if self.swap.nr_free_slots() <= 0:
            found &= frames.mapping[start:end] < 0
        return int(np.count_nonzero(found))

    def _has_reclaimable_pages(self, zone: Zone) -> bool:
        """Whether :meth:`zone_reclaimable_pages` is not zero, which the first such page decides."""
        if self.fixes.reclaimable_free_pages and zone.nr_free:
            return True
        if len(self.node.zones) == 1:
            return self.node_lru_pages() > 0
        parts = range(zone.start_pfn, zone.end_pfn, _NR_LOOKED_AT)
        return any(self._lru_pages_in(start, min(start + _NR_LOOKED_AT, zone.end_pfn)) for start in parts)

    # -- direct reclaim -------------------------------------------------------------------------------------------

    async def try_to_free_pages(self, task: Task, order: int, gfp: int) -> int:
        """Reclaim for an allocation; return pages reclaimed, 0 for none (try_to_free_pages)."""
        await self.pages.cond_resched(task)
        with GfpScope(task, PF_MEMALLOC):
            if await self.throttle_direct_reclaim(task, gfp):
                return 1
            sc = ScanControl(
                gfp=gfp,
                order=order,
                zones_above=self.node.zones_above(gfp_zone(gfp)),
                zones_counted=self.unreclaimable.zones_counted(gfp_zone(gfp)),
                may_writepage=not self.laptop_mode,
            )
            begun_ns = task.time_ns
            self.direct_reclaim_latency.begin()
            if self.tracer is not None:
                self.tracer.emit(_DIRECT_RECLAIM_BEGIN, task, order, self.tracer.mask(gfp))
            self.reclaimers.append(task)
            try:
                nr_reclaimed = await self.do_try_to_free_pages(task, sc)
            finally:
                self.reclaimers.remove(task)
            self.direct_reclaim_latency.end(max(0, task.time_ns - begun_ns))
            if self.tracer is not None:
                self.tracer.emit(_DIRECT_RECLAIM_END, task, nr_reclaimed)
        await self.pages.cond_resched(task)
        return nr_reclaimed

    async def do_try_to_free_pages(self, task: Task, sc: ScanControl) -> int:
        """Go over the priorities until enough is reclaimed (do_try_to_free_pages)."""
        while True:
            if sc.memcg is None:
                self.vmstat.allocstall["movable" if sc.gfp & 0x08 else "normal"] += 1
            sc.priority = DEF_PRIORITY
            while sc.priority >= 0:
                sc.nr_scanned = 0
                if not self.unreclaimable.is_left_alone(sc):
                    await self.shrink_node(task, sc)
                await self._consider_reclaim_throttle(task, sc)
                if sc.nr_reclaimed >= sc.nr_to_reclaim:
                    break
                if sc.priority < DEF_PRIORITY - 2:
                    sc.may_writepage = True
                sc.priority -= 1
            self.snapshot_refaults(sc.memcg)
            if sc.zones_counted:
                return self.unreclaimable.progress(sc)
            if sc.nr_reclaimed:
                return sc.nr_reclaimed
            if not sc.skipped_deactivate or sc.force_deactivate:
                return 0
            sc.force_deactivate = True
            sc.skipped_deactivate = False

    async def _consider_reclaim_throttle(self, task: Task, sc: ScanControl) -> None:
        """Nap after a pass that got little (consider_reclaim_throttle; before 4.7 in do_try_to_free_pages itself)."""
        if sc.zones_counted:
            await self.unreclaimable.nap_after_pass(task, sc)
            return
        if sc.nr_reclaimed > sc.nr_scanned >> 3:
            self.throttles.queues["VMSCAN_THROTTLE_NOPROGRESS"].wake_all()
            return
        if not sc.kswapd and sc.memcg is None and sc.priority == 1 and not sc.nr_reclaimed:
            await self.throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_NOPROGRESS")

    def zones_with_reserve(self) -> list[Zone]:
        """Return the zones whose reserve counts for :meth:`allow_direct_reclaim`."""
        return [zone for zone in self.node.zones if zone.index <= ZONE_NORMAL and self._has_reclaimable_pages(zone)]

    def allow_direct_reclaim(self) -> bool:
        """Whether more than half of the min reserve is left (allow_direct_reclaim)."""
        if self.node.kswapd_failures >= MAX_KSWAPD_FAILURES:
            return True
        reserve = free = 0
        for zone in self.zones_with_reserve():
            reserve += zone.wmark_pages(ALLOC_WMARK_MIN)
            free += zone.nr_free
        if not reserve or free > reserve // 2:
            return True
        if len(self.kswapd_wait):
            if self.kswapd_highest < 0 or self.kswapd_highest > ZONE_NORMAL:
                self.kswapd_highest = ZONE_NORMAL
            self.kswapd_wait.wake_one()
        return False

    async def throttle_direct_reclaim(self, task: Task, gfp: int) -> bool:
        """Hold a reclaimer back while the reserve is half used; return True if it was killed meanwhile."""
        if not self.fixes.throttle_direct_reclaim:
            return False
        if task.flags & PF_KTHREAD and self.fixes.throttle_skips_kthreads:
            return False
        if (task.killed and self.fixes.throttle_skips_kthreads) or self.allow_direct_reclaim():
            return False
        self.vmstat.pgscan_direct_throttle += 1
        if self.tracer is not None:
            self.tracer.emit(_PFMEMALLOC_WAIT_BEGIN, task, self.node.nr_free, 0)
        with FruitlessLooks(self, task) as looks:
            if not gfp & GFP_FS and self.fixes.throttle_noio_bounded:
                deadline_ns = self.world.now_ns + NS_PER_S
                while not self.allow_direct_reclaim() and self.world.now_ns < deadline_ns:
                    await self.pfmemalloc_wait.wait(
                        task, timeout_ns=self.world.wheel_ns(deadline_ns - self.world.now_ns), interruptible=True
                    )
                    await looks.woken()
            else:
                while not self.allow_direct_reclaim():
                    await self.pfmemalloc_wait.wait(task, killable=True)
                    await looks.woken()
        if self.tracer is not None:
            self.tracer.emit(_PFMEMALLOC_WAIT_END, task, self.node.nr_free, 0)
        return task.killed

    # -- one pass over the node -----------------------------------------------------------------------------------

    async def shrink_node(self, task: Task, sc: ScanControl) -> None:
        """Scan the node once at the current priority (shrink_node)."""
        at_first = sc.nr_reclaimed
        target = self.lruvec if sc.memcg is None else sc.memcg.lruvec
        while True:
            before = sc.nr_reclaimed
            sc.clear_round()
            sc.prepare_scan_count(self.node, target, self.vmstat)
            task.charge_ns += self.costs.reclaim_pass
            for lruvec in target.tree():
                await self.shrink_lruvec(task, lruvec, sc)
            if sc.memcg is None:
                sc.nr_reclaimed += self.slab_shrinkers.shrink_slab(task, sc.gfp, sc.priority)
            if sc.kswapd:
                await self._note_round(task, sc)
            if not sc.kswapd and target.congested and not task.flags & PF_LOCAL_THROTTLE:
                await self.throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_CONGESTED")
            if not self._should_continue_reclaim(sc, sc.nr_reclaimed - before):
                break
        if sc.nr_reclaimed > at_first:
            self.node.kswapd_failures = 0

    async def _note_round(self, task: Task, sc: ScanControl) -> None:
        """Kswapd concludes from what it met what the node suffers from."""
        if sc.nr_writeback and sc.nr_writeback == sc.nr_taken:
            self.flags.writeback = True
        if sc.nr_unqueued_dirty == sc.nr_file_taken:
            self.flags.dirty = True
        if sc.nr_immediate:
            await self.throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_WRITEBACK")
        if sc.nr_dirty and sc.nr_dirty == sc.nr_congested:
            self.lruvec.congested = True

    def _should_continue_reclaim(self, sc: ScanControl, nr_reclaimed: int) -> bool:
        """Whether a high-order reclaim goes on at the same priority (should_continue_reclaim)."""
        in_compaction = sc.gfp & GFP_IO and (
            sc.order > PAGE_ALLOC_COSTLY_ORDER or (sc.order and sc.priority < DEF_PRIORITY - 2)
        )
        if not in_compaction or not nr_reclaimed:
            return False
        suitable = self.compaction.suitable_at_min
        if any(suitable(zone, sc.order) != CompactResult.SKIPPED for zone in self.node.zones):
            return False
        inactive = self.lruvec.nr_pages(INACTIVE_FILE)
        if self.swap.nr_free_slots() > 0:
            inactive += self.lruvec.nr_pages(INACTIVE_ANON)
        return inactive > 2 << sc.order

    def snapshot_refaults(self, memcg: "MemCgroup | None" = None) -> None:
        """Remember how many refaults were activated up to now, to see those that follow (snapshot_refaults)."""
        target = self.lruvec if memcg is None else memcg.lruvec
        target.refaults_anon = self.vmstat.workingset_activate_anon
        target.refaults_file = self.vmstat.workingset_activate_file

    def nr_swap_pages(self, lruvec: Lruvec) -> int:
        """Return the free slots that pages of a lruvec may take (mem_cgroup_get_nr_swap_pages)."""
        memcg = self.pages.memcg
        return 0 if memcg is not None and memcg.swapless(lruvec) else self.swap.nr_free_slots()

    async def shrink_lruvec(self, task: Task, lruvec: Lruvec, sc: ScanControl) -> None:
        """Scan the lists in batches of 32 under one plug (shrink_lruvec)."""
        nr = sc.get_scan_count(lruvec, nr_swap_pages=self.nr_swap_pages(lruvec), swappiness=self.swappiness)
        targets = list(nr)
        nr_to_reclaim = sc.nr_to_reclaim
        nr_reclaimed = 0
        proportional = not sc.kswapd and sc.priority == DEF_PRIORITY
        plug = self.swap.start_plug(task)
        cpus = task.cpus
        while nr[INACTIVE_ANON] or nr[ACTIVE_FILE] or nr[INACTIVE_FILE]:
            for lru in (INACTIVE_ANON, ACTIVE_ANON, INACTIVE_FILE, ACTIVE_FILE):
                if nr[lru]:
                    nr_to_scan = min(SWAP_CLUSTER_MAX, nr[lru])
                    nr[lru] -= nr_to_scan
                    nr_reclaimed += await self.shrink_list(task, lruvec, lru, nr_to_scan, sc, plug)
            if cpus is not None and cpus.should_pay(task):
                await cpus.cond_resched(task)
            if nr_reclaimed < nr_to_reclaim or proportional:
                continue
            if not adjust_targets(nr, targets):
                break
        plug.finish()
        sc.nr_reclaimed += nr_reclaimed
        if self.swap.nr_total_slots() > 0 and inactive_is_low(lruvec, file=False):
            self.shrinker.shrink_active_list(task, lruvec, SWAP_CLUSTER_MAX, sc)
        if not self.fixes.no_vm_writeout_throttle and self.file_shrinker is not None:
            await self.file_shrinker.files.throttle_vm_writeout(task, sc.gfp)

    async def shrink_list(
        self, task: Task, lruvec: Lruvec, lru: int, nr_to_scan: int, sc: ScanControl, plug: PlugPort
    ) -> int:
        """Scan one batch of one list; return pages reclaimed (shrink_list)."""
        if lru in (ACTIVE_ANON, ACTIVE_FILE):
            self._shrink_active_list(task, lruvec, lru, nr_to_scan, sc)
            return 0
        file = lru == INACTIVE_FILE
        too_many = not sc.kswapd and self.too_many_isolated(sc, file=file)
        if too_many and await self._wait_for_isolated(task, sc, file=file):
            return SWAP_CLUSTER_MAX if task.killed else 0
        if file:
            files = self.file_shrinker
            return await files.shrink_inactive_list(task, lruvec, nr_to_scan, sc) if files is not None else 0
        return await self.shrinker.shrink_inactive_list(task, lruvec, nr_to_scan, sc, plug)

    def _shrink_active_list(self, task: Task, lruvec: Lruvec, lru: int, nr_to_scan: int, sc: ScanControl) -> None:
        """Scan one batch of an active list, if its inactive one is to grow (shrink_list)."""
        if not sc.may_deactivate & (DEACTIVATE_ANON if lru == ACTIVE_ANON else DEACTIVATE_FILE):
            sc.skipped_deactivate = True
        elif lru == ACTIVE_ANON:
            self.shrinker.shrink_active_list(task, lruvec, nr_to_scan, sc)
        elif self.file_shrinker is not None:
            self.file_shrinker.shrink_active_list(task, lruvec, nr_to_scan, sc)

    async def _wait_for_isolated(self, task: Task, sc: ScanControl, *, file: bool) -> bool:
        """Wait since too many pages are isolated, from 4.14 on once; True if it did not help (too_many_isolated)."""
        while True:
            await self.throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_ISOLATED")
            if task.killed:
                return True
            if not self.too_many_isolated(sc, file=file):
                return False
            if self.fixes.isolated_wait_once:
                return True

    def too_many_isolated(self, sc: ScanControl, *, file: bool = False) -> bool:
        """Whether reclaimers have taken more pages off the lists than are left on them; if not, nobody waits for it."""
        if sc.memcg is not None:
            # who reclaims for a group of cgroup v1 is held back by its own pages under writeback
            return False
        inactive = self.lruvec.nr_pages(INACTIVE_FILE if file else INACTIVE_ANON)
        isolated = self.vmstat.nr_isolated_file if file else self.vmstat.nr_isolated_anon
        if sc.gfp & GFP_KERNEL & (GFP_IO | GFP_FS) == GFP_IO | GFP_FS and self.fixes.noio_isolation_limit:
            inactive >>= 3
        too_many = isolated > inactive
        if not too_many:
            self.throttles.queues["VMSCAN_THROTTLE_ISOLATED"].wake_all()
        return too_many
