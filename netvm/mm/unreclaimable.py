"""When memory is out, as kernels before 4.7 saw it: all of it was scanned six times, and no page came free.

A zone counts the pages that reclaim takes off its lists (``pages_scanned``) and forgets them as soon as one of its
pages is freed to the buddy. Six times the pages that could be reclaimed, four times before 2.6.19, is hopeless. Then
kswapd marks the zone ``all_unreclaimable``, which the next freed page undoes as well, and reclaim gives it no more than
a first glance, at priority 12, where kswapd scans at least 32 pages. What an allocation makes of it has changed:

- before 2.6.19 nothing: a direct reclaim that got fewer than 32 pages in its thirteen passes calls the OOM killer;
- then (``oom_unreclaimable_info``) one that got nothing counts as progress until the zones are marked. Only kswapd
  marks them, so where kswapd sleeps for what never comes nobody is killed, and who reclaims does so for ever;
- since 3.12 (``oom_zone_reclaimable``) whoever reclaims looks at the count for himself. A page that is freed and taken
  again, now and then, still puts the end off for ever;
- since 4.7 (``oom_detection``) rounds without progress are counted instead (``should_reclaim_retry``).

From priority 9 on who reclaims naps after each pass, for a tenth of a second at most, and for a fiftieth before it
allocates again (``congestion_wait``, from 2.6.37 on ``wait_iff_congested``).

Mirrors ``do_try_to_free_pages``, ``all_unreclaimable``, ``zone_reclaimable`` and ``balance_pgdat`` (mm/vmscan.c) and
the retry of ``__alloc_pages_slowpath`` (mm/page_alloc.c) of 2.6.11, 3.6 and 3.12.

# MODEL: the lists are the node's, so a page that is scanned counts for each zone the reclaim is for, and zones are left
# alone together. That no zone was marked after a pass in which a slab was freed is left out. The naps after passes went
# in 3.11 already, and kswapd's were left out from 2.6.33 on while a zone was below its min mark. A device is congested
# while a page is under writeback, and naps are taken only then, although before 2.6.37 a pass over 32 pages was reason
# enough. That kswapd gives a node up after sixteen runs in vain came in 4.12; here it is in 4.7.
"""

from typing import TYPE_CHECKING, Final

from netvm.mm.gfp import GFP_FS, gfp_zone
from netvm.mm.reclaim_throttle import CONGESTION_WAIT_NS
from netvm.mm.scan_control import DEF_PRIORITY, SWAP_CLUSTER_MAX, ScanControl
from netvm.mm.zone import PAGE_ALLOC_COSTLY_ORDER, Zone
from netvm.runtime.task import Task
from netvm.units import JIFFY_NS, NS_PER_S

if TYPE_CHECKING:
    from netvm.mm.vmscan import Vmscan

__all__ = ["Unreclaimable"]

_SCANS: Final = 6
_SCANS_BEFORE_2006: Final = 4
_BETWEEN_ROUNDS_NS: Final = NS_PER_S // 50


class Unreclaimable:
    """How the kernels before 4.7 tell memory that is short from memory that is out, on one host."""

    def __init__(self, vmscan: "Vmscan") -> None:
        self._vmscan = vmscan
        self._fixes = vmscan.fixes

    def zones_counted(self, highest: int) -> tuple[Zone, ...]:
        """Return the zones whose scanned pages a reclaim for zones up to this index counts; none since 4.7."""
        if self._fixes.oom_detection:
            return ()
        return tuple(zone for zone in self._vmscan.node.zones if zone.index <= highest)

    def zone_reclaimable(self, zone: Zone) -> bool:
        """Whether a zone has not been scanned so often yet that there is no hope (zone_reclaimable)."""
        scans = _SCANS if self._fixes.oom_unreclaimable_info else _SCANS_BEFORE_2006
        return zone.pages_scanned < self._vmscan.zone_lru_pages(zone) * scans

    def all_unreclaimable(self, zones: tuple[Zone, ...]) -> bool:
        """Whether none of these zones is worth another pass (all_unreclaimable)."""
        if self._fixes.oom_zone_reclaimable:
            return not any(self.zone_reclaimable(zone) for zone in zones)
        return all(zone.all_unreclaimable for zone in zones)

    def is_hopeless(self, zones: tuple[Zone, ...]) -> bool:
        """Whether kswapd may sleep although these zones are short, as there is nothing to be had (pgdat_balanced)."""
        return bool(zones) and self.all_unreclaimable(zones)

    def is_left_alone(self, sc: ScanControl) -> bool:
        """Whether a reclaim skips this pass, as its zones are hopeless; the first pass is always made."""
        return sc.priority != DEF_PRIORITY and self.is_hopeless(sc.zones_counted)

    def mark(self, sc: ScanControl) -> None:
        """Mark the zones that kswapd finds hopeless after a pass of its own (balance_pgdat)."""
        for zone in sc.zones_counted:
            if not self.zone_reclaimable(zone):
                zone.all_unreclaimable = True

    def progress(self, sc: ScanControl) -> int:
        """Return what a direct reclaim that has made all its passes reports; 0 is no progress."""
        if not self._fixes.oom_unreclaimable_info:
            return sc.nr_reclaimed if sc.nr_reclaimed >= SWAP_CLUSTER_MAX else 0
        return sc.nr_reclaimed or int(not self.all_unreclaimable(sc.zones_counted))

    async def nap_after_pass(self, task: Task, sc: ScanControl) -> None:
        """Wait for writes after a pass that looked at something and did not get enough."""
        if not sc.zones_counted or not sc.nr_scanned or sc.priority >= DEF_PRIORITY - 2:
            return
        if sc.nr_reclaimed < sc.nr_to_reclaim:
            await self._nap(task, CONGESTION_WAIT_NS)

    async def _nap(self, task: Task, timeout_ns: int) -> None:
        if self._vmscan.vmstat.nr_writeback:
            await self._vmscan.throttles.nap(task, timeout_ns=timeout_ns)
        else:
            await self._vmscan.pages.cond_resched(task)

    async def retry(
        self, task: Task, order: int, gfp: int, alloc_flags: int, owner: int, did_some_progress: int
    ) -> tuple[int, int]:
        """Say whether an allocation goes round again after a direct reclaim, and wait until it does.

        Returns a frame or -1, and 0 or 1 to go on (1: the zones' counts still rise), -1 to give up.
        """
        vmscan = self._vmscan
        if vmscan.pages.victim_must_give_up(task, gfp, alloc_flags):
            return -1, -1
        if not did_some_progress and gfp & GFP_FS:
            pfn, killed = await vmscan.pages.alloc_pages_may_oom(task, order, gfp, owner)
            if pfn >= 0 or not killed:
                return pfn, -1
            # whoever was killed shall run
            await vmscan.world.sleep_on(task, vmscan.pages.memory, timeout_ns=vmscan.world.wheel_ns(JIFFY_NS))
            return -1, 0
        if order > PAGE_ALLOC_COSTLY_ORDER:
            return -1, -1
        await self._nap(task, _BETWEEN_ROUNDS_NS)
        return -1, int(did_some_progress == 1 and self._counts_on(gfp))

    def _counts_on(self, gfp: int) -> bool:
        """Whether a round that got nothing was one of those that lead to a kill."""
        if not gfp & GFP_FS:
            return False
        zones = self.zones_counted(gfp_zone(gfp))
        return any(zone.pages_scanned and self.zone_reclaimable(zone) for zone in zones)
