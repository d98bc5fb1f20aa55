"""The page allocator's decisions: who may take a page now, who must reclaim first, who must wait.

Mirrors mm/page_alloc.c of 6.1: ``__alloc_pages`` (a fast path at the low mark), ``__alloc_pages_slowpath`` in the
kernel's order (wake kswapd, the min mark, reserves, direct reclaim, ``should_reclaim_retry``, the OOM killer),
``gfp_to_alloc_flags``, ``__gfp_pfmemalloc_flags``, ``get_page_from_freelist``, ``zone_watermark_fast``.

A request that may not sleep is an ordinary function, :meth:`PageAllocator.try_alloc_pages`; one that may is
:meth:`PageAllocator.alloc_pages`, which goes through the same function first and sleeps only in the slow path. A
program that touches much memory takes pages in blocks (:meth:`PageAllocator.try_alloc_run`), which gives exactly the
pages so many single requests would get.

# MODEL: cpusets, mempolicies and node reclaim do not exist on one node.
"""

from typing import TYPE_CHECKING, Final

from netvm.fixes import Fixes
from netvm.mm.buddy import Buddy
from netvm.mm.compact_control import CompactPriority, CompactTries
from netvm.mm.frames import PG_PCP, Frames
from netvm.mm.gfp import (
    ALLOC_HIGHATOMIC,
    ALLOC_KSWAPD,
    ALLOC_MIN_RESERVE,
    ALLOC_NO_WATERMARKS,
    ALLOC_OOM,
    ALLOC_RESERVES,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MASK,
    ALLOC_WMARK_MIN,
    GFP_ATOMIC_BIT,
    GFP_DIRECT_RECLAIM,
    GFP_FS,
    GFP_IO,
    GFP_KSWAPD_RECLAIM,
    GFP_MEMALLOC,
    GFP_NOFAIL,
    GFP_NOMEMALLOC,
    GFP_NORETRY,
    GFP_NOWARN,
    GFP_RETRY_MAYFAIL,
    GFP_WRITE,
    PF_MEMALLOC,
    PF_OOM_VICTIM,
    current_gfp_context,
    gfp_migratetype,
    gfp_name,
    gfp_to_alloc_flags,
    gfp_zone,
)
from netvm.mm.ledger import FREE, PCP, Ledger
from netvm.mm.ports import LogPort, NodeDirtyPort
from netvm.mm.zone import MOVABLE, PAGE_ALLOC_COSTLY_ORDER, Node, Zone
from netvm.runtime.costs import CpuCosts
from netvm.runtime.task import Resource, Task
from netvm.runtime.workqueue import PF_WQ_WORKER
from netvm.runtime.world import World
from netvm.trace.recorder import Recorder
from netvm.trace.vmstat import VmStat
from netvm.units import JIFFY_NS

if TYPE_CHECKING:
    from netvm.mm.memcontrol import MemControl
    from netvm.mm.oom import OomKiller
    from netvm.mm.vmscan import Vmscan

__all__ = ["MAX_RECLAIM_RETRIES", "PageAllocator"]

MAX_RECLAIM_RETRIES: Final = 16
_PLENTY: Final = 4096  # pages above a mark: so far from it single requests and a block of them are treated alike


class PageAllocator:
    """Allocation and freeing of pages on one host."""

    def __init__(
        self,
        world: World,
        *,
        frames: Frames,
        node: Node,
        ledger: Ledger,
        buddy: Buddy,
        vmstat: VmStat,
        fixes: Fixes,
        costs: CpuCosts,
        softirq: Task,
        log: LogPort,
    ) -> None:
        self.world = world
        self.frames = frames
        self.node = node
        self.ledger = ledger
        self.buddy = buddy
        self.vmstat = vmstat
        self.fixes = fixes
        self.costs = costs
        self.softirq = softirq
        """Stands for whatever is allocated in atomic context; its PF_MEMALLOC is that of the task it interrupted."""
        self.log = log
        self.tracer: Recorder | None = None
        self.node_dirty_ok: NodeDirtyPort = lambda: True
        self.vmscan: Vmscan
        self.oom: OomKiller
        self.memcg: MemControl | None = None
        self.failures: dict[tuple[str, int, int], int] = {}
        """Allocation failures by (comm, order, mask): what warn_alloc would have printed."""
        self.memory = Resource("memory", "a free page")  # its providers are set where the host is wired

    # -- masks to flags -------------------------------------------------------------------------------------------

    def gfp_pfmemalloc_flags(self, task: Task, gfp: int) -> int:
        """Return what opens the deep reserve to this request, 0 if nothing does (__gfp_pfmemalloc_flags)."""
        if gfp & GFP_NOMEMALLOC:
            return 0
        if gfp & GFP_MEMALLOC:
            return ALLOC_NO_WATERMARKS
        if task is self.softirq:
            if task.flags & PF_MEMALLOC and self.fixes.softirq_memalloc:
                return ALLOC_NO_WATERMARKS
            return 0
        if task.flags & PF_MEMALLOC:
            return ALLOC_NO_WATERMARKS
        if task.flags & PF_OOM_VICTIM:
            return ALLOC_OOM if self.fixes.oom_half_reserve else ALLOC_NO_WATERMARKS
        return 0

    def gfp_pfmemalloc_allowed(self, task: Task, gfp: int) -> bool:
        """Whether the request may use memory from the reserve (gfp_pfmemalloc_allowed)."""
        return self.gfp_pfmemalloc_flags(task, gfp) != 0

    # -- attempts -------------------------------------------------------------------------------------------------

    def get_page_from_freelist(self, task: Task, order: int, gfp: int, alloc_flags: int, owner: int) -> int:
        """Try each zone the mask may use once, highest first; return a block's first frame or -1."""
        migratetype = gfp_migratetype(gfp)
        highest = gfp_zone(gfp)
        for zone in reversed(self.node.zones):
            if zone.index > highest:
                continue
            if not alloc_flags & ALLOC_NO_WATERMARKS and not self._watermark_fast(
                zone, order, gfp, alloc_flags, highest
            ):
                continue
            reserve = bool(alloc_flags & (ALLOC_NO_WATERMARKS | ALLOC_RESERVES)) and not zone.watermark_ok(
                order, zone.min_wmark_pages(), highest, 0, zone.nr_free
            )
            cpu = task.cpu.index if task.cpu is not None and task.cpu.index < len(zone.pcp) else 0
            pfn = self.buddy.rmqueue(zone, cpu, order, migratetype, alloc_flags)
            if pfn < 0:
                continue
            self.buddy.own(pfn, order, owner, pfmemalloc=bool(alloc_flags & ALLOC_NO_WATERMARKS), reserve=reserve)
            if alloc_flags & ALLOC_HIGHATOMIC:
                self.buddy.pageblocks.reserve_highatomic_pageblock(zone, pfn)
            return pfn
        return -1

    def _watermark_fast(self, zone: Zone, order: int, gfp: int, alloc_flags: int, highest: int) -> bool:
        """Test an attempt's mark, cheaply for single pages (zone_watermark_fast)."""
        free = zone.nr_free
        mark = zone.watermark[alloc_flags & ALLOC_WMARK_MASK] + zone.watermark_boost
        if order == 0:
            unusable = zone.unusable_free(alloc_flags)
            if free - min(free, unusable) > mark + zone.lowmem_reserve[highest] + zone.pages_emerg:
                return True
        if zone.watermark_ok(order, mark, highest, alloc_flags, free):
            return True
        if order == 0 and zone.watermark_boost and not alloc_flags & ALLOC_WMARK_MASK:
            # an urgent request for one page ignores the boost
            urgent = alloc_flags & ALLOC_MIN_RESERVE if self.fixes.gfp_atomic_discarded else gfp & GFP_ATOMIC_BIT
            if urgent:
                return zone.watermark_ok(0, zone.watermark[ALLOC_WMARK_MIN], highest, alloc_flags, free)
        return False

    def _fast_path(self, task: Task, order: int, gfp: int, owner: int) -> int:
        if gfp & GFP_WRITE and not self.node_dirty_ok():
            return -1
        alloc_flags = ALLOC_WMARK_LOW | (ALLOC_KSWAPD if gfp & GFP_KSWAPD_RECLAIM else 0)
        return self.get_page_from_freelist(task, order, gfp, alloc_flags, owner)

    def try_alloc_pages(self, task: Task, order: int, gfp: int, owner: int) -> int:
        """Allocate without sleeping; return the block's first frame or -1.

        The whole of ``__alloc_pages`` for a mask without ``__GFP_DIRECT_RECLAIM``, failure report included.
        """
        assert not gfp & GFP_DIRECT_RECLAIM, f"{gfp_name(gfp)} may sleep"
        refused = self.world.mishaps and self.world.mishap("alloc", 2)
        pfn = -1 if refused else self._fast_path(task, order, gfp, owner)
        if pfn < 0 and not refused:
            pfn, alloc_flags = self._attempt_at_min(task, order, gfp, owner)
            if pfn < 0:
                pfn, _ = self._retry_attempt(task, order, gfp, alloc_flags, owner)
        if pfn < 0:
            self.warn_alloc(task, order, gfp)
        return pfn

    def _attempt_at_min(self, task: Task, order: int, gfp: int, owner: int) -> tuple[int, int]:
        """Steps 1 to 3 of the slow path: kswapd is woken, and the min mark tried. Returns frame and flags."""
        self.charge(task, self.costs.alloc_slow)
        alloc_flags = gfp_to_alloc_flags(gfp, order)
        if alloc_flags & ALLOC_KSWAPD:
            self.wake_all_kswapds(gfp, order)
        return self.get_page_from_freelist(task, order, gfp, alloc_flags, owner), alloc_flags

    def _retry_attempt(self, task: Task, order: int, gfp: int, alloc_flags: int, owner: int) -> tuple[int, int]:
        """Step 5: with the reserve, if this request is entitled to it, else as before."""
        if alloc_flags & ALLOC_KSWAPD:
            self.wake_all_kswapds(gfp, order)
        reserve_flags = self.gfp_pfmemalloc_flags(task, gfp)
        if reserve_flags:
            # the entitlement replaces the flags: a NON_BLOCK or MIN_RESERVE bit is gone
            alloc_flags = reserve_flags | (alloc_flags & ALLOC_KSWAPD)
        return self.get_page_from_freelist(task, order, gfp, alloc_flags, owner), alloc_flags

    # -- requests that may sleep ----------------------------------------------------------------------------------

    async def alloc_pages(self, task: Task, order: int, gfp: int, owner: int) -> int:
        """Allocate, reclaiming and waiting as the mask allows; return the block's first frame or -1."""
        gfp = current_gfp_context(task, gfp)
        pfn = self._fast_path(task, order, gfp, owner)
        if pfn >= 0:
            return pfn
        return await self.alloc_pages_slowpath(task, order, gfp, owner)

    async def alloc_pages_slowpath(self, task: Task, order: int, gfp: int, owner: int) -> int:
        """Do what the fast path could not (__alloc_pages_slowpath)."""
        pfn, alloc_flags = self._attempt_at_min(task, order, gfp, owner)
        tries = CompactTries()
        if pfn < 0 and order:
            pfn = await self._compact_first(task, order, gfp, alloc_flags, owner)
        if pfn < 0:
            pfn, alloc_flags = self._retry_attempt(task, order, gfp, alloc_flags, owner)
        stalls = pfn < 0 and self.tracer is not None and self.tracer.begin_stall(task, order, gfp)
        no_progress_loops = 0
        while pfn < 0:
            pfn, loops = await self._reclaim_round(task, order, gfp, alloc_flags, no_progress_loops, owner, tries)
            if pfn >= 0:
                break
            if loops >= 0:
                no_progress_loops = loops
                again = "should_reclaim_retry" if self.fixes.oom_detection else "should_alloc_retry"
                self._go_round(task, again if gfp & GFP_FS else "out_of_memory without __GFP_FS")
                if not loops:
                    # only here was everything tried: sixteen rounds that count up to an OOM kill are no standstill
                    await self.vmscan.throttles.between_rounds(task)
            elif not gfp & GFP_NOFAIL:
                break
            else:
                # a request that must not fail dips into half of the reserve and goes on
                pfn = self.get_page_from_freelist(task, order, gfp, ALLOC_MIN_RESERVE, owner)
                if pfn >= 0:
                    break
                self._go_round(task, "__GFP_NOFAIL")
                await self.vmscan.throttles.between_rounds(task)
                await self.cond_resched(task)
            pfn, alloc_flags = self._retry_attempt(task, order, gfp, alloc_flags, owner)
        task.spins_at = ""
        if stalls and self.tracer is not None:
            self.tracer.end_stall(task, order, pfn)
        if pfn < 0:
            self.warn_alloc(task, order, gfp)
        return pfn

    async def _compact_first(self, task: Task, order: int, gfp: int, alloc_flags: int, owner: int) -> int:
        """Step 4: a block that cannot move is worth compaction before reclaim; return its first frame or -1.

        # MODEL: nobody asks for more than order 3.
        """
        if not gfp & GFP_DIRECT_RECLAIM or not gfp & GFP_IO or self.gfp_pfmemalloc_allowed(task, gfp):
            return -1
        if order <= PAGE_ALLOC_COSTLY_ORDER and gfp_migratetype(gfp) == MOVABLE:
            return -1
        tries = CompactTries(CompactPriority.ASYNC)
        return await self.vmscan.compaction.direct_compact(task, order, gfp, alloc_flags, tries, owner)

    async def _reclaim_round(
        self,
        task: Task,
        order: int,
        gfp: int,
        alloc_flags: int,
        no_progress_loops: int,
        owner: int,
        tries: CompactTries,
    ) -> tuple[int, int]:
        """Steps 6 to 14 of the slow path: reclaim, try, and say whether to go round again.

        Returns a frame or -1, and the rounds without progress so far, or -1 if there shall be no other.
        """
        if not gfp & GFP_DIRECT_RECLAIM or task.flags & PF_MEMALLOC:
            return -1, -1
        pfn, did_some_progress = await self.alloc_pages_direct_reclaim(task, order, gfp, alloc_flags, owner)
        compaction = self.vmscan.compaction
        if pfn < 0 and order:
            pfn = await compaction.direct_compact(task, order, gfp, alloc_flags, tries, owner)
        if pfn >= 0 or gfp & GFP_NORETRY or (order > PAGE_ALLOC_COSTLY_ORDER and not gfp & GFP_RETRY_MAYFAIL):
            return pfn, -1
        if not self.fixes.oom_detection:
            return await self.vmscan.unreclaimable.retry(task, order, gfp, alloc_flags, owner, did_some_progress)
        loops = 0 if did_some_progress and order <= PAGE_ALLOC_COSTLY_ORDER else no_progress_loops + 1
        if await self.should_reclaim_retry(task, order, alloc_flags, loops, gfp):
            return -1, loops
        if did_some_progress and compaction.should_compact_retry(task, order, gfp, tries):
            return -1, loops
        pfn, oom_progress = await self.alloc_pages_may_oom(task, order, gfp, owner)
        if pfn >= 0:
            return pfn, -1
        if self.victim_must_give_up(task, gfp, alloc_flags):
            return -1, -1
        return -1, 0 if oom_progress else -1

    def victim_must_give_up(self, task: Task, gfp: int, alloc_flags: int) -> bool:
        """Whether an OOM victim's request found nothing in all of the reserve it may use, or may use none of it."""
        whole = ALLOC_OOM if self.fixes.oom_half_reserve else ALLOC_NO_WATERMARKS
        return bool(task.flags & PF_OOM_VICTIM and (alloc_flags & whole or gfp & GFP_NOMEMALLOC))

    async def alloc_pages_direct_reclaim(
        self, task: Task, order: int, gfp: int, alloc_flags: int, owner: int
    ) -> tuple[int, int]:
        """Reclaim in the allocating task, then try again; return frame and pages reclaimed."""
        progress = await self.vmscan.try_to_free_pages(task, order, gfp)
        if not progress:
            return -1, 0
        pfn = self.get_page_from_freelist(task, order, gfp, alloc_flags, owner)
        if pfn < 0:
            # pages may sit in the high-order atomic reserve or on per-cpu lists
            self._unreserve_highatomic(gfp, force=False)
            self.buddy.drain_all_pages(self.node.zones)
            pfn = self.get_page_from_freelist(task, order, gfp, alloc_flags, owner)
        return pfn, progress

    async def should_reclaim_retry(
        self, task: Task, order: int, alloc_flags: int, no_progress_loops: int, gfp: int
    ) -> bool:
        """Whether another round of direct reclaim is worth it; sleeps a jiffy in a workqueue worker."""
        worth = False
        if no_progress_loops <= MAX_RECLAIM_RETRIES:
            highest = gfp_zone(gfp)
            for zone in reversed(self.node.zones):
                if zone.index > highest:
                    continue
                mark = zone.min_wmark_pages()
                reclaimable = self.vmscan.zone_reclaimable_pages(zone)
                worth = zone.watermark_ok(order, mark, highest, alloc_flags, reclaimable + zone.nr_free)
                if self.tracer is not None:
                    told = (reclaimable, reclaimable + zone.nr_free, mark, no_progress_loops, worth)
                    self.tracer.retry_zone(task, zone.name, order, *told)
                if worth:
                    if no_progress_loops and await self.vmscan.throttles.naps_before_retry(task, zone, reclaimable):
                        return True
                    break
            if task.flags & PF_WQ_WORKER:
                # a sleep of one jiffy, whatever was found, so that the pool sees that this worker does not run
                await self.world.sleep_on(task, self.memory, timeout_ns=self.world.wheel_ns(JIFFY_NS))
            else:
                await self.cond_resched(task)
        return worth or self._unreserve_highatomic(gfp, force=True)

    def _go_round(self, task: Task, where: str) -> None:
        """Note that a task tries again."""
        task.spins_at = f"{task.comm}-{task.pid}: {where}"
        task.spins_on = self.memory

    def _unreserve_highatomic(self, gfp: int, *, force: bool) -> bool:
        """Give a HIGHATOMIC pageblock of the request's zones back; whether pages moved."""
        zones = [zone for zone in self.node.zones if zone.index <= gfp_zone(gfp)]
        return self.buddy.pageblocks.unreserve_highatomic_pageblock(zones, gfp_migratetype(gfp), force=force)

    async def alloc_pages_may_oom(self, task: Task, order: int, gfp: int, owner: int) -> tuple[int, bool]:
        """Last attempt at the high mark, then the OOM killer; return frame and whether that was progress."""
        if not self.oom.trylock():
            await self.world.sleep_on(task, self.memory, timeout_ns=self.world.wheel_ns(JIFFY_NS))
            return -1, True
        try:
            pfn = self.get_page_from_freelist(task, order, gfp, ALLOC_WMARK_HIGH, owner)
            if pfn >= 0:
                return pfn, True
            if order > PAGE_ALLOC_COSTLY_ORDER or gfp & GFP_RETRY_MAYFAIL:
                return -1, False
            killed = self.oom.out_of_memory(task, gfp, order)
            if killed and gfp & GFP_NOFAIL:
                pfn = self.get_page_from_freelist(task, order, gfp, ALLOC_NO_WATERMARKS, owner)
        finally:
            self.oom.unlock()
        if killed and not gfp & GFP_FS:
            # nobody was killed: a request that may not enter the file system goes round again
            await self.cond_resched(task)
        return pfn, killed

    # -- blocks for programs that touch much ----------------------------------------------------------------------

    def try_alloc_run(self, task: Task, nr_pages: int, gfp: int, owner: int) -> list[int]:
        """Take up to ``nr_pages`` single pages that need neither reclaim nor a fallback; maybe none.

        The same frames in the same order as that many calls of ``__alloc_pages``: by the fast path down to the low mark
        of the highest zone, then out of a lower one that has plenty, and on a host of one zone down to its min mark by
        the slow path's first attempt, which wakes kswapd. Watermarks are checked once for all of them.
        """
        highest = gfp_zone(gfp)
        zones = [zone for zone in self.node.zones if zone.index <= highest]
        for zone in reversed(zones):
            kept = zone.watermark_boost + zone.lowmem_reserve[highest] + zone.pages_emerg + zone.unusable_free(0) + 1
            spare = zone.nr_free - zone.watermark[ALLOC_WMARK_LOW] - kept
            if spare >= 0:
                break
        if zone is not zones[-1] and spare < _PLENTY:
            return []
        pcp = zone.pcp[task.cpu.index if task.cpu is not None and task.cpu.index < len(zone.pcp) else 0]
        batch = pcp.batch
        if spare < batch or (gfp & GFP_WRITE and not self.node_dirty_ok()):
            spare = zone.nr_free - zone.watermark[ALLOC_WMARK_MIN] - kept
            if spare < batch or len(zones) > 1:
                return []
            # the slow path of each of them: kswapd is awake after the first
            self.wake_all_kswapds(gfp, 0)
            nr_pages = 1 if task.cpus is not None and task.cpus.need_resched else min(nr_pages, spare)
            self.charge(task, self.costs.alloc_slow * nr_pages)
        migratetype = gfp_migratetype(gfp)
        pcp_list = pcp.lists[migratetype]
        from_pcp = min(nr_pages, len(pcp_list))
        pages = [pcp_list.popleft() for _ in range(from_pcp)]
        need = -(-(nr_pages - from_pcp) // batch)
        refill = min(need, spare // batch) * batch
        taken = 0
        free_list_runs: list[range] = []
        while taken < refill:
            run = self.buddy.take_run(zone, refill - taken, migratetype)
            if run is None:
                break
            free_list_runs.append(run)
            taken += len(run)
        fresh = [pfn for run in free_list_runs for pfn in run]
        used = min(len(fresh), nr_pages - from_pcp)
        pages += fresh[:used]
        left = fresh[used:]
        if left:
            flags, block = self.frames.flags_of, self.frames.block_of
            for pfn in left:
                flags[pfn] = PG_PCP
                block[pfn] = migratetype
                self.frames.owner_of[pfn] = PCP
                pcp_list.append(pfn)
        zone.nr_free -= taken
        pcp.count += len(left) - from_pcp
        pcp.free_factor >>= min(len(pages), 8)
        counts = self.ledger.counts
        counts[FREE] -= taken
        counts[PCP] += len(left) - from_pcp
        counts[owner] += len(pages)
        self.vmstat.pgalloc[zone.vmstat_name] += len(pages)
        return pages

    # -- freeing --------------------------------------------------------------------------------------------------

    def free_pages(self, pfn: int, order: int) -> None:
        """Free a block (__free_pages)."""
        self.buddy.free_pages(self.node.zone_of(pfn), 0, pfn, order)

    def free_singles(self, pfns: list[int], owner: int, nr_reserve: int) -> None:
        """Free single pages of one owner in order, ``nr_reserve`` of which carry PG_RESERVE (free_unref_page_list)."""
        ledger = self.ledger
        ledger.counts[owner] -= len(pfns)
        if nr_reserve:
            ledger.returned_reserve(owner, nr_reserve)
        self.buddy.free_page_list(pfns, self.node.zones, 0)

    # -- the rest -------------------------------------------------------------------------------------------------

    def wake_all_kswapds(self, gfp: int, order: int) -> None:
        """Wake kswapd for every zone the request could use (wake_all_kswapds)."""
        self.vmscan.wakeup_kswapd(gfp, order, gfp_zone(gfp))

    def warn_alloc(self, task: Task, order: int, gfp: int) -> None:
        """Report a failure (warn_alloc): counted always, logged once for each kind of request."""
        if gfp & GFP_NOWARN:
            return
        key = (task.comm, order, gfp)
        seen = self.failures.get(key, 0)
        self.failures[key] = seen + 1
        if not seen:
            self.log(
                "page allocation failure",
                comm=task.comm,
                order=order,
                mode=f"{gfp:#x}({gfp_name(gfp)})",
                free=self.node.nr_free,
            )

    def charge(self, task: Task, cost_ns: int) -> None:
        """Charge a cost to the task that has it, or to the CPU that a softirq interrupts."""
        if task is not self.softirq:
            task.charge_ns += cost_ns
        elif task.cpus is not None:
            task.cpus.steal(cost_ns)

    async def cond_resched(self, task: Task) -> None:
        """Pay and give way if need be, on a host whose CPU time counts."""
        if task.cpus is not None:
            await task.cpus.cond_resched(task)
