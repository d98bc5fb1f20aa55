"""kswapd: the thread that reclaims before anybody has to.

Mirrors ``kswapd``, ``balance_pgdat``, ``kswapd_try_to_sleep`` and ``kswapd_age_node`` (mm/vmscan.c of 6.1). kswapd
always has PF_MEMALLOC and is never throttled for the reserve; it wakes those that are. It is woken by allocators that
fell below the low mark, by a watermark boost, and by its own nap of 100 ms. While it sleeps anywhere else than on
``kswapd_wait`` (in a mempool, say) wake-ups are lost on it.

A run that starts because of a boost reclaims without swapping or writing, at priority 10 and above, until the boost is
paid back. A run that reclaims nothing at all counts as a failure, one for a boost too; after 16 of them the node is
hopeless and kswapd sleeps until a direct reclaimer succeeds.
"""

from typing import Final

from netvm.mm.gfp import GFP_KERNEL, PF_KSWAPD, PF_KTHREAD, PF_MEMALLOC
from netvm.mm.reclaim_throttle import MAX_KSWAPD_FAILURES
from netvm.mm.scan_control import DEF_PRIORITY, SWAP_CLUSTER_MAX, ScanControl, inactive_is_low
from netvm.mm.vmscan import Vmscan
from netvm.mm.zone import ZONE_MOVABLE, Zone
from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Task
from netvm.runtime.world import World
from netvm.trace.tracepoints import number_of
from netvm.units import NS_PER_S

__all__ = ["Kswapd"]

_KSWAPD_WAKE: Final = number_of("mm_vmscan_kswapd_wake")
_KSWAPD_SLEEP: Final = number_of("mm_vmscan_kswapd_sleep")

NAP_NS: Final = NS_PER_S // 10


class Kswapd:
    """The node's kswapd thread."""

    def __init__(self, world: World, vmscan: Vmscan) -> None:
        self.world = world
        self.vmscan = vmscan
        self.nr_sleeps = 0
        """Real sleeps, after a nap that found the node still balanced."""
        self.highest = ZONE_MOVABLE
        """Index of the highest zone this run is for (highest_zoneidx)."""
        self.nr_vain = 0
        """Runs in vain since kswapd last slept, where failures are not counted (before ``oom_detection``)."""

    def start(self, cpus: Cpus | None) -> Task:
        """Start the thread."""
        task = self.world.spawn("kswapd0", self.kswapd, cpus=cpus, flags=PF_MEMALLOC | PF_KSWAPD | PF_KTHREAD)
        self.vmscan.kswapd = task
        return task

    async def kswapd(self, task: Task) -> None:
        """Sleep, balance, and start over for ever."""
        vmscan = self.vmscan
        await self.kswapd_full_sleep(task)
        while True:
            if vmscan.tracer is not None:
                vmscan.tracer.emit(_KSWAPD_WAKE, task, 0, vmscan.kswapd_order)
            alloc_order, vmscan.kswapd_order = vmscan.kswapd_order, 0
            self.highest, vmscan.kswapd_highest = self._kswapd_highest_zoneidx(), -1
            reclaim_order = await self.balance_pgdat(task, alloc_order)
            asked_order = alloc_order
            if reclaim_order == alloc_order:
                # a run that kept its order may sleep for what was asked meanwhile, not for what it was woken for
                reclaim_order = vmscan.kswapd_order
                self.highest = self._kswapd_highest_zoneidx()
                asked_order = reclaim_order
            await self.kswapd_try_to_sleep(task, asked_order, reclaim_order)

    def _kswapd_highest_zoneidx(self) -> int:
        """Return the highest zone somebody asked for, or that of the last run."""
        asked = self.vmscan.kswapd_highest
        return self.highest if asked < 0 else asked

    def _prepare_kswapd_sleep(self, order: int) -> bool:
        """Whether kswapd may sleep; throttled reclaimers are woken in any case (prepare_kswapd_sleep)."""
        vmscan = self.vmscan
        vmscan.pfmemalloc_wait.wake_all()
        if vmscan.node.kswapd_failures >= MAX_KSWAPD_FAILURES:
            return True
        if self._nothing_to_be_had():
            return True
        if vmscan.pgdat_balanced(order, highest=self.highest):
            vmscan.lruvec.congested = False
            vmscan.flags.dirty = False
            vmscan.flags.writeback = False
            return True
        return False

    def _nothing_to_be_had(self) -> bool:
        """Whether a kernel before 4.7 leaves a node short.

        # MODEL: where there was nothing to scan kswapd of old went on; here the next request wakes it again.
        """
        zones = self.vmscan.unreclaimable.zones_counted(self.highest)
        return self.vmscan.unreclaimable.is_hopeless(zones) or self.nr_vain >= MAX_KSWAPD_FAILURES

    async def kswapd_try_to_sleep(self, task: Task, alloc_order: int, reclaim_order: int) -> None:
        """Nap, and if the node is still balanced then, sleep until woken; kcompactd sees to the order meanwhile."""
        vmscan = self.vmscan
        if not self._prepare_kswapd_sleep(reclaim_order):
            vmscan.vmstat.kswapd_high_wmark_hit_quickly += 1
            return
        if self._nothing_to_be_had():
            # each request in vain wakes it for another glance: one more who looks at what did not change
            task.spins_at, task.spins_on = f"{task.comm}-{task.pid}: all_unreclaimable", vmscan.pages.memory
            vmscan.world.retry_point(task.spins_at)
            task.spins_at = ""
            await self.kswapd_full_sleep(task)
            return
        vmscan.compaction.reset_isolation_suitable()
        vmscan.wakeup_kcompactd(alloc_order, self.highest)
        woken = await vmscan.kswapd_wait.wait(task, timeout_ns=vmscan.world.wheel_ns(NAP_NS))
        if woken:
            vmscan.kswapd_order = max(vmscan.kswapd_order, reclaim_order)
            vmscan.kswapd_highest = self._kswapd_highest_zoneidx()
            vmscan.vmstat.kswapd_low_wmark_hit_quickly += 1
            return
        if not self._prepare_kswapd_sleep(reclaim_order):
            vmscan.vmstat.kswapd_high_wmark_hit_quickly += 1
            return
        await self.kswapd_full_sleep(task)

    async def kswapd_full_sleep(self, task: Task) -> None:
        """Sleep until somebody needs memory."""
        self.nr_sleeps += 1
        self.nr_vain = 0
        if self.vmscan.tracer is not None:
            self.vmscan.tracer.emit(_KSWAPD_SLEEP, task, 0)
        await self.vmscan.kswapd_wait.wait(task)

    async def balance_pgdat(self, task: Task, order: int) -> int:
        """Reclaim until a zone is above its high mark or nothing more can be had; return the order still wanted."""
        vmscan = self.vmscan
        vmscan.vmstat.pageoutrun += 1
        zones = self._zones()
        boosts = [zone.watermark_boost for zone in zones]
        nr_boost_reclaim = sum(boosts)
        boosted = nr_boost_reclaim
        sc = ScanControl(
            gfp=GFP_KERNEL,
            order=order,
            zones_above=vmscan.node.zones_above(self.highest),
            zones_counted=vmscan.unreclaimable.zones_counted(self.highest),
            kswapd=True,
        )
        for zone in zones:
            zone.reclaim_active = True
        balanced = await self._reclaim_until_balanced(task, sc, nr_boost_reclaim)
        if not balanced and not sc.nr_reclaimed:
            if vmscan.fixes.oom_detection:
                vmscan.node.kswapd_failures += 1
            else:
                self.nr_vain += 1
        for zone in zones:
            zone.reclaim_active = False
        if boosted:
            for zone, boost in zip(zones, boosts, strict=True):
                zone.watermark_boost -= min(zone.watermark_boost, boost)
            # the steal that raised the boost mixed a pageblock: make another whole
            vmscan.wakeup_kcompactd(zones[-1].pageblock_order, self.highest)
        if order and vmscan.fixes.compaction and not vmscan.fixes.kcompactd:
            await vmscan.compaction.compact_pgdat(task, order)
        vmscan.snapshot_refaults()
        return sc.order

    async def _reclaim_until_balanced(self, task: Task, sc: ScanControl, nr_boost_reclaim: int) -> bool:
        """Go over the priorities of one run; return whether the node was balanced at its end."""
        vmscan = self.vmscan
        while sc.priority >= 1:
            nr_reclaimed_before = sc.nr_reclaimed
            raise_priority = True
            balanced = vmscan.pgdat_balanced(sc.order, highest=self.highest)
            if not balanced and nr_boost_reclaim:
                # memory is needed now: forget the boost and start an ordinary run
                nr_boost_reclaim = 0
                sc.priority = DEF_PRIORITY
                continue
            if balanced and not nr_boost_reclaim:
                return True
            if nr_boost_reclaim and sc.priority == DEF_PRIORITY - 2:
                raise_priority = False
            sc.may_writepage = not vmscan.laptop_mode and not nr_boost_reclaim
            sc.may_swap = not nr_boost_reclaim
            if not vmscan.unreclaimable.is_left_alone(sc):
                self._kswapd_age_node(task, sc)
            if sc.priority < DEF_PRIORITY - 2:
                sc.may_writepage = True
            sc.nr_scanned = 0
            if await self._kswapd_shrink_node(task, sc):
                raise_priority = False
            if len(vmscan.pfmemalloc_wait) and vmscan.allow_direct_reclaim():
                vmscan.pfmemalloc_wait.wake_all()
            await vmscan.unreclaimable.nap_after_pass(task, sc)
            delta = sc.nr_reclaimed - nr_reclaimed_before
            nr_boost_reclaim -= min(nr_boost_reclaim, delta)
            if nr_boost_reclaim and not delta:
                # nothing can be had without IO: also this counts as a run that reclaimed nothing
                return False
            if raise_priority or not delta:
                sc.priority -= 1
        return False

    def _zones(self) -> list[Zone]:
        """The zones this run is for."""
        return [zone for zone in self.vmscan.node.zones if zone.index <= self.highest]

    def _kswapd_age_node(self, task: Task, sc: ScanControl) -> None:
        """Keep the inactive list supplied (kswapd_age_node)."""
        vmscan = self.vmscan
        if not vmscan.swap.nr_total_slots():
            return
        for lruvec in vmscan.lruvec.tree():
            if inactive_is_low(lruvec, file=False):
                vmscan.shrinker.shrink_active_list(task, lruvec, SWAP_CLUSTER_MAX, sc)

    async def _kswapd_shrink_node(self, task: Task, sc: ScanControl) -> bool:
        """One pass; return whether it scanned as much as it wanted to reclaim (kswapd_shrink_node)."""
        vmscan = self.vmscan
        sc.nr_to_reclaim = sum(max(zone.high_wmark_pages(), SWAP_CLUSTER_MAX) for zone in self._zones())
        if vmscan.unreclaimable.is_left_alone(sc):
            return False
        sc.force_scan = vmscan.unreclaimable.is_hopeless(sc.zones_counted)
        await vmscan.shrink_node(task, sc)
        vmscan.unreclaimable.mark(sc)
        if sc.order and sc.nr_reclaimed >= 2 << sc.order:
            sc.order = 0
        return sc.nr_scanned >= sc.nr_to_reclaim
