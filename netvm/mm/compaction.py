"""Compaction: free memory that is in pieces is made whole by moving the pages in between.

Mirrors mm/compaction.c of 6.1: ``compact_zone``, ``compact_finished``, ``try_to_compact_pages`` and, of
mm/page_alloc.c, ``__alloc_pages_direct_compact`` and ``should_compact_retry``. One scanner walks up from the start of a
zone and takes pages that can move, the other walks down from its end and takes free ones
(:mod:`netvm.mm.compact_scan`); the run is over when a block of the order that is wanted is there, or when the scanners
meet. Pages move from the one to the other (:mod:`netvm.mm.migrate`).

Compaction makes no memory free: it needs some, twice the block that is wanted above the mark, and says so
(COMPACT_SKIPPED) when there is none; then reclaim has to come first. A try that came to nothing has others let pass.
Requests of up to order 3 are tried again sixteen times, each time harder.

Who compacts: whoever asks for a block and may do IO, and :mod:`netvm.mm.kcompactd`. Before 4.6 kswapd did, for the
order it was woken for.

# MODEL: a block that compaction makes is not kept aside for who made it (capture_control): others may be faster.
"""

from typing import TYPE_CHECKING, Final

from netvm.mm.compact_control import (
    CompactControl,
    CompactPriority,
    CompactResult,
    CompactTries,
    MigrateMode,
    ZoneCompaction,
)
from netvm.mm.compact_scan import Scanners
from netvm.mm.gfp import (
    ALLOC_WMARK_MASK,
    ALLOC_WMARK_MIN,
    GFP_DIRECT_RECLAIM,
    GFP_FS,
    GFP_IO,
    GFP_KERNEL,
    PF_MEMALLOC,
    GfpScope,
    gfp_migratetype,
    gfp_zone,
)
from netvm.mm.migrate import Migration
from netvm.mm.pageblock import FALLBACKS
from netvm.mm.zone import MAX_ORDER, MOVABLE, PAGE_ALLOC_COSTLY_ORDER, Zone
from netvm.runtime.task import Task, TaskState
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of

if TYPE_CHECKING:
    from netvm.mm.vmscan import Vmscan

__all__ = ["MAX_COMPACT_RETRIES", "Compaction"]

MAX_COMPACT_RETRIES: Final = 16
_LOOK_NS: Final = 100_000
COMPACTION_HPAGE_ORDER: Final = 9
"""What the fragmentation score is about: blocks of the size of a huge page."""

_ISOLATE_MIGRATEPAGES: Final = number_of("mm_compaction_isolate_migratepages")
_ISOLATE_FREEPAGES: Final = number_of("mm_compaction_isolate_freepages")
_MIGRATEPAGES: Final = number_of("mm_compaction_migratepages")
_BEGIN: Final = number_of("mm_compaction_begin")
_END: Final = number_of("mm_compaction_end")
_TRY: Final = number_of("mm_compaction_try_to_compact_pages")


class CompactionTrace:
    """The tracepoints of compaction, off without a recorder."""

    __slots__ = ("recorder",)

    def __init__(self) -> None:
        self.recorder: Recorder | None = None

    def isolated_migratepages(self, task: Task, start: int, end: int, nr_scanned: int, nr_taken: int) -> None:
        """The migration scanner has looked at a piece of a pageblock."""
        if self.recorder is not None:
            self.recorder.emit(_ISOLATE_MIGRATEPAGES, task, start, end, nr_scanned, nr_taken)

    def isolated_freepages(self, task: Task, start: int, end: int, nr_scanned: int, nr_taken: int) -> None:
        """The free scanner has looked at a piece of a pageblock."""
        if self.recorder is not None:
            self.recorder.emit(_ISOLATE_FREEPAGES, task, start, end, nr_scanned, nr_taken)

    def migrated(self, task: Task, nr_migrated: int, nr_failed: int) -> None:
        """A batch has been moved as far as it could be."""
        if self.recorder is not None:
            self.recorder.emit(_MIGRATEPAGES, task, nr_migrated, nr_failed)

    def zone(self, task: Task, cc: CompactControl, result: CompactResult | None = None) -> None:
        """A run over a zone begins, or has ended so."""
        recorder = self.recorder
        if recorder is None:
            return
        mode = recorder.name("async" if cc.mode == MigrateMode.ASYNC else "sync")
        where = (cc.zone.start_pfn, cc.migrate_pfn, cc.free_pfn, cc.zone.end_pfn, mode)
        if result is None:
            recorder.emit(_BEGIN, task, *where)
        else:
            recorder.emit(_END, task, *where, recorder.name(result.word))

    def try_to_compact(self, task: Task, order: int, gfp: int, priority: CompactPriority) -> None:
        """An allocation compacts for itself."""
        if self.recorder is not None:
            self.recorder.emit(_TRY, task, order, self.recorder.mask(gfp), priority)


class Compaction:
    """Compaction on one host."""

    def __init__(self, vmscan: "Vmscan", *, proactiveness: int) -> None:
        self.vmscan = vmscan
        self.pages = vmscan.pages
        self.node = vmscan.node
        self.vmstat = vmscan.vmstat
        self.fixes = vmscan.fixes
        self.proactiveness = proactiveness
        """vm.compaction_proactiveness."""
        self.trace = CompactionTrace()
        self.states = {zone.name: ZoneCompaction(zone, vmscan.pages.frames) for zone in vmscan.node.zones}
        self.migration = Migration(vmscan)
        self.scanners = Scanners(self)

    # -- one zone -------------------------------------------------------------------------------------------------

    async def compact_zone(self, task: Task, cc: CompactControl) -> CompactResult:
        """Move pages until what is wanted is there or the scanners meet (compact_zone)."""
        zone = cc.zone
        state = self.states[zone.name]
        cc.nr_migrate_scanned = cc.nr_free_scanned = 0
        if cc.order >= 0:
            mark = zone.wmark_pages(cc.alloc_flags & ALLOC_WMARK_MASK)
            result = self.compaction_suitable(zone, cc.order, mark, cc.highest_zoneidx, cc.alloc_flags)
            if result != CompactResult.CONTINUE:
                return result
            if state.compaction_restarting(cc.order):
                state.reset_isolation_suitable()
        self._start(cc, state)
        self.trace.zone(task, cc)
        self.vmscan.lruvec.lru_add_drain()
        result = await self._move_until_finished(task, cc, state)
        highest = self.scanners.release_freepages(cc)
        if highest >= 0:
            state.cached_free_pfn = max(state.cached_free_pfn, state.block_start(highest))
        self.vmstat.compact_migrate_scanned += cc.nr_migrate_scanned
        self.vmstat.compact_free_scanned += cc.nr_free_scanned
        self.trace.zone(task, cc, result)
        return result

    @staticmethod
    def _start(cc: CompactControl, state: ZoneCompaction) -> None:
        """Set both scanners where the last run left them, or at both ends."""
        zone = cc.zone
        if cc.whole_zone:
            cc.migrate_pfn, cc.free_pfn = zone.start_pfn, state.last_block
            return
        cc.migrate_pfn = state.cached_migrate_pfn[cc.mode != MigrateMode.ASYNC]
        cc.free_pfn = state.cached_free_pfn
        if not zone.start_pfn <= cc.free_pfn < zone.end_pfn:
            cc.free_pfn = state.cached_free_pfn = state.last_block
        if not zone.start_pfn <= cc.migrate_pfn < zone.end_pfn:
            cc.migrate_pfn = zone.start_pfn
            state.cached_migrate_pfn = [zone.start_pfn] * 2
        if cc.migrate_pfn <= state.init_migrate_pfn:
            cc.whole_zone = True

    async def _move_until_finished(self, task: Task, cc: CompactControl, state: ZoneCompaction) -> CompactResult:
        update_cached = cc.mode == MigrateMode.ASYNC and state.cached_migrate_pfn[0] == state.cached_migrate_pfn[1]
        last_migrated_pfn = 0
        zone_shift = cc.zone.pageblock_order
        while (result := self.compact_finished(task, cc, state)) == CompactResult.CONTINUE:
            start_pfn = cc.migrate_pfn
            cc.rescan = last_migrated_pfn >> zone_shift == start_pfn >> zone_shift
            if not await self._may_isolate(task, cc):
                return CompactResult.CONTENDED
            if self.scanners.isolate_migratepages(task, cc, state):
                update_cached = False
                last_migrated_pfn = start_pfn
                nr_moved, nr_failed, short = self._migrate(task, cc, state)
                self.trace.migrated(task, nr_moved, nr_failed)
                if short and not cc.scanners_met:
                    return CompactResult.CONTENDED
                if nr_failed and cc.direct and cc.mode == MigrateMode.ASYNC:
                    # a page that stays spoils the block that is wanted
                    size = 1 << cc.order
                    cc.migrate_pfn = (cc.migrate_pfn - 1 & -size) + size
                    last_migrated_pfn = 0
            elif update_cached:
                state.cached_migrate_pfn[1] = state.cached_migrate_pfn[0]
            if cc.order > 0 and last_migrated_pfn and last_migrated_pfn < cc.migrate_pfn & -(1 << cc.order):
                # a block has been gone over: what was freed in it may merge now
                self.vmscan.lruvec.lru_add_drain()
                self.pages.buddy.drain_pages(cc.zone, 0 if task.cpu is None else task.cpu.index)
                last_migrated_pfn = 0
            if task.cpus is not None:
                await task.cpus.cond_resched(task)
        return result

    def _migrate(self, task: Task, cc: CompactControl, state: ZoneCompaction) -> tuple[int, int, bool]:
        """Move what is isolated; return pages moved, pages that stay, and whether free ones ran out."""
        isolated = cc.migrate_pages[::-1]

        def new_frame() -> int:
            return self.scanners.compaction_alloc(task, cc, state)

        nr_moved, short = self.migration.migrate_pages(task, isolated, new_frame, cc.free_pages.append)
        cc.migrate_pages = []
        return nr_moved, len(isolated) - nr_moved, short

    async def _may_isolate(self, task: Task, cc: CompactControl) -> bool:
        """Wait while too many pages are isolated; False for who may not, or was killed (too_many_isolated).

        A thread of the kernel, as kcompactd is, is not held back by reclaim_throttle, so it looks again and again.

        # MODEL: it does so every 100 us, on a CPU that it gives up when others want it.
        """
        throttles = self.vmscan.throttles
        before = task.spins_at, task.spins_on
        try:
            while self._too_many_isolated(cc):
                if cc.mode == MigrateMode.ASYNC:
                    return False
                before_ns = task.time_ns
                await throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_ISOLATED")
                if task.killed:
                    return False
                if task.time_ns == before_ns:
                    task.spins_at = f"{task.comm}-{task.pid}: too_many_isolated"
                    task.spins_on = throttles.queues["VMSCAN_THROTTLE_ISOLATED"].resource
                    task.charge_ns += _LOOK_NS
                    await throttles.between_rounds(task)
                    await self.pages.cond_resched(task)
            return True
        finally:
            task.spins_at, task.spins_on = before

    def _too_many_isolated(self, cc: CompactControl) -> bool:
        """Whether others have taken more than half of the pages that are left on the lists, or a part of that.

        With ``compaction_isolation_limit`` who may enter a file system stops far sooner, as reclaim does, so that who
        may not never has to wait for it.
        """
        lruvec = self.vmscan.lruvec
        listed = sum(lruvec.nr_pages(lru) for lru in range(4))
        if cc.gfp & GFP_FS and self.fixes.compaction_isolation_limit:
            listed >>= 3
        too_many = self.vmstat.nr_isolated_anon + self.vmstat.nr_isolated_file > listed // 2
        if not too_many:
            self.vmscan.throttles.queues["VMSCAN_THROTTLE_ISOLATED"].wake_all()
        return too_many

    # -- is it over, is it worth it ---------------------------------------------------------------------------------

    def compact_finished(self, task: Task, cc: CompactControl, state: ZoneCompaction) -> CompactResult:
        """Say whether a run goes on, or how it ends (compact_finished)."""
        if cc.scanners_met:
            state.reset_cached_positions()
            if cc.direct:
                state.blockskip_flush = True
            return CompactResult.COMPLETE if cc.whole_zone else CompactResult.PARTIAL_SKIPPED
        if cc.proactive:
            if self.kswapd_is_running():
                return CompactResult.PARTIAL_SKIPPED
            enough = cc.zone.extfrag_for_order(COMPACTION_HPAGE_ORDER) <= self.fragmentation_score_wmark(low=True)
            result = CompactResult.SUCCESS if enough else CompactResult.CONTINUE
        elif cc.migrate_pfn & (1 << cc.zone.pageblock_order) - 1:
            # a pageblock is done before anybody looks
            return CompactResult.CONTINUE
        elif self._has_block(cc):
            return CompactResult.SUCCESS
        else:
            result = CompactResult.CONTINUE
        return CompactResult.CONTENDED if task.killed else result

    @staticmethod
    def _has_block(cc: CompactControl) -> bool:
        """Whether a block is free that the request would get, by a steal that claims its pageblock too."""
        for order in range(cc.order, MAX_ORDER + 1):
            lists = cc.zone.free_lists[order]
            if lists[cc.migratetype]:
                return True
            # only_stealable: half a pageblock or more, or for what cannot move
            stealable = order >= cc.zone.pageblock_order // 2 or cc.migratetype != MOVABLE
            if stealable and any(lists[other] for other in FALLBACKS[cc.migratetype]):
                return True
        return False

    @staticmethod
    def compaction_suitable(zone: Zone, order: int, mark: int, highest: int, alloc_flags: int) -> CompactResult:
        """Say whether a block is there already, could be made, or memory is what is missing (compaction_suitable)."""
        if zone.watermark_ok(order, mark, highest, alloc_flags, zone.nr_free):
            return CompactResult.SUCCESS
        suitable = zone.could_compact(order, highest, zone.nr_free) and zone.is_fragmented(order)
        return CompactResult.CONTINUE if suitable else CompactResult.SKIPPED

    @property
    def is_proactive(self) -> bool:
        """Whether kcompactd looks by itself."""
        return bool(self.proactiveness) and self.fixes.proactive_compaction

    def kswapd_is_running(self) -> bool:
        """Whether kswapd is at work and does not sleep."""
        kswapd = self.vmscan.kswapd
        return kswapd is not None and kswapd.state in (TaskState.RUNNABLE, TaskState.RUNNING)

    def fragmentation_score_wmark(self, *, low: bool) -> int:
        """Return the score above which proactive compaction begins, or down to which it goes on."""
        wmark_low = max(100 - self.proactiveness, 5)
        return wmark_low if low else min(wmark_low + 10, 100)

    def fragmentation_score_node(self) -> int:
        """Return the node's score: each zone's by its share of memory, 0 to 100."""
        present = sum(zone.present for zone in self.node.zones)
        return sum(
            zone.present * zone.extfrag_for_order(COMPACTION_HPAGE_ORDER) // (present + 1) for zone in self.node.zones
        )

    def reset_isolation_suitable(self) -> None:
        """Kswapd goes to sleep: what was passed over is looked at again, if somebody has gone all the way."""
        for state in self.states.values():
            state.reset_isolation_suitable()

    # -- for an allocation ------------------------------------------------------------------------------------------

    async def direct_compact(
        self, task: Task, order: int, gfp: int, alloc_flags: int, tries: CompactTries, owner: int
    ) -> int:
        """Compact in the allocating task and try again; return a block's first frame or -1.

        Mirrors ``__alloc_pages_direct_compact``.
        """
        if not order or not self.fixes.compaction:
            return -1
        with GfpScope(task, PF_MEMALLOC):
            tries.result = await self.try_to_compact_pages(task, order, gfp, alloc_flags, tries.priority)
        if tries.result == CompactResult.SKIPPED:
            return -1
        self.vmstat.compact_stall += 1
        pfn = self.pages.get_page_from_freelist(task, order, gfp, alloc_flags, owner)
        if pfn < 0:
            self.vmstat.compact_fail += 1
            await self.pages.cond_resched(task)
            return -1
        state = self.states[self.node.zone_of(pfn).name]
        state.blockskip_flush = False
        state.compaction_defer_reset(order, alloc_success=True)
        self.vmstat.compact_success += 1
        return pfn

    async def try_to_compact_pages(
        self, task: Task, order: int, gfp: int, alloc_flags: int, priority: CompactPriority
    ) -> CompactResult:
        """Compact each zone the mask may use until one has the block; the best of their results."""
        best = CompactResult.SKIPPED
        if not gfp & GFP_IO:
            return best
        self.trace.try_to_compact(task, order, gfp, priority)
        hardest = priority == CompactPriority.SYNC_FULL
        for zone in reversed(self.node.zones):
            if zone.index > gfp_zone(gfp):
                continue
            state = self.states[zone.name]
            if not hardest and state.compaction_deferred(order):
                best = max(best, CompactResult.DEFERRED)
                continue
            cc = CompactControl(
                zone=zone,
                order=order,
                mode=MigrateMode.ASYNC if priority == CompactPriority.ASYNC else MigrateMode.SYNC_LIGHT,
                gfp=gfp,
                migratetype=gfp_migratetype(gfp),
                highest_zoneidx=gfp_zone(gfp),
                alloc_flags=alloc_flags,
                direct=True,
                whole_zone=hardest,
                ignore_skip_hint=hardest,
                ignore_block_suitable=hardest,
            )
            result = await self.compact_zone(task, cc)
            best = max(best, result)
            if result == CompactResult.SUCCESS:
                state.compaction_defer_reset(order, alloc_success=False)
                break
            if priority != CompactPriority.ASYNC and result in (CompactResult.COMPLETE, CompactResult.PARTIAL_SKIPPED):
                state.defer_compaction(order)
            needs_cpu = task.cpus is not None and task.cpus.need_resched
            if task.killed or (priority == CompactPriority.ASYNC and needs_cpu):
                break
        return best

    def compaction_zonelist_suitable(self, order: int, gfp: int) -> bool:
        """Whether a zone could be compacted once a part of its reclaimable pages is free."""
        for zone in self.node.zones:
            if zone.index <= gfp_zone(gfp):
                available = self.vmscan.zone_reclaimable_pages(zone) // order + zone.nr_free
                if zone.could_compact(order, gfp_zone(gfp), available):
                    return True
        return False

    def should_compact_retry(self, task: Task, order: int, gfp: int, tries: CompactTries) -> bool:
        """Say whether to go round once more, and note how hard then (should_compact_retry)."""
        if not order or task.killed or not self.fixes.compaction or not gfp & GFP_IO:
            return False
        result = tries.result
        costly = order > PAGE_ALLOC_COSTLY_ORDER
        withdrawn = (CompactResult.DEFERRED, CompactResult.CONTENDED, CompactResult.PARTIAL_SKIPPED)
        if result == CompactResult.SUCCESS:
            tries.nr_retries += 1
        if result == CompactResult.SKIPPED:
            return self.compaction_zonelist_suitable(order, gfp)
        max_retries = MAX_COMPACT_RETRIES // 4 if costly else MAX_COMPACT_RETRIES
        if result != CompactResult.COMPLETE and result not in withdrawn and tries.nr_retries <= max_retries:
            return True
        # all was gone over, or somebody was in the way: harder, if it can be
        least = CompactPriority.SYNC_LIGHT if costly else CompactPriority.SYNC_FULL
        if tries.priority <= least:
            return False
        tries.priority = CompactPriority(tries.priority - 1)
        tries.nr_retries = 0
        return True

    # -- for kswapd, before kcompactd ---------------------------------------------------------------------------------

    async def compact_pgdat(self, task: Task, order: int) -> None:
        """Compact for the order that kswapd was woken for, where that needs no more than what is free (before 4.6)."""
        for zone in self.node.zones:
            state = self.states[zone.name]
            if state.compaction_deferred(order) or self.suitable_at_min(zone, order) != CompactResult.CONTINUE:
                continue
            cc = CompactControl(
                zone=zone,
                order=order,
                mode=MigrateMode.ASYNC,
                gfp=GFP_KERNEL & ~GFP_DIRECT_RECLAIM,
                migratetype=gfp_migratetype(0),
            )
            if await self.compact_zone(task, cc) == CompactResult.SUCCESS:
                state.compaction_defer_reset(order, alloc_success=False)

    def suitable_at_min(self, zone: Zone, order: int, highest: int = 3) -> CompactResult:
        """Say what :meth:`compaction_suitable` does of the min mark, boost included."""
        return self.compaction_suitable(zone, order, zone.wmark_pages(ALLOC_WMARK_MIN), highest, 0)
