"""What reclaim does with file pages: keep, activate, leave to the flusher, free.

Mirrors ``shrink_inactive_list``, ``shrink_folio_list`` and ``shrink_active_list`` (mm/vmscan.c of 6.1) for pages of
files. Unlike anonymous ones they mostly need no write by reclaim: a clean page is freed at first sight, and a dirty one
is the flusher's work. Each page of a batch, in isolation order:

- under writeback: marked for rotation when the write ends, and activated; kswapd that meets its own mark again while
  the node is marked PGDAT_WRITEBACK counts it as *immediate* and will be throttled;
- young or referenced: kept or activated;
- dirty: marked for rotation and activated (``nr_vmscan_immediate_reclaim``). Only kswapd writes one, when it carries
  that mark already and the node is PGDAT_DIRTY. Direct reclaim never writes a file page;
- clean: its file system gives up what it keeps beside the page, and it is freed, leaving a shadow entry.

A reclaim for a memory group waits for a page under writeback that it meets with the mark: the group's dirt is held back
by nothing else. Which of them may wait was learnt from a deadlock (``memcg_wait_enters_fs``).

If all pages of a batch were dirty and not yet under writeback the flushers are woken. The books of what was met are
what kswapd concludes PGDAT_DIRTY, PGDAT_WRITEBACK and congestion from.
"""

from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from netvm.mm.frames import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_RECLAIM,
    PG_REFERENCED,
    PG_RESERVE,
    PG_UNEVICTABLE,
    PG_WORKINGSET,
    PG_WRITEBACK,
    PfnArray,
)
from netvm.mm.gfp import GFP_FS, GFP_IO
from netvm.mm.lru import ACTIVE_FILE, INACTIVE_FILE, Lruvec
from netvm.mm.ports import FilePort
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.mm.scan_control import ScanControl
    from netvm.mm.vmscan import Vmscan

__all__ = ["FileShrinker"]

_U16 = np.uint16
_CLEAR_STATE: Final = PG_ACTIVE | PG_REFERENCED | PG_WORKINGSET | PG_RECLAIM | PG_LRU


class FileShrinker:
    """The page-level half of reclaim, for file pages."""

    def __init__(self, vmscan: "Vmscan", files: FilePort) -> None:
        self.vmscan = vmscan
        self.files = files
        self.frames = vmscan.pages.frames
        self.lruvec = vmscan.lruvec
        self.vmstat = vmscan.vmstat
        self.costs = vmscan.costs
        self.owner_file = vmscan.pages.ledger.owner("file")

    async def shrink_inactive_list(self, task: Task, lruvec: Lruvec, nr_to_scan: int, sc: "ScanControl") -> int:
        """Isolate a batch from the tail, deal with it, put the rest back; return pages reclaimed."""
        vmstat = self.vmstat
        self.lruvec.lru_add_drain()
        taken, nr_scanned = sc.isolate_lru_folios(lruvec, INACTIVE_FILE, nr_to_scan, vmstat)
        nr_taken = len(taken)
        task.charge_ns += self.costs.shrink_call
        vmstat.pgscan_file += nr_scanned
        if sc.kswapd:
            vmstat.pgscan_kswapd += nr_scanned
        else:
            vmstat.pgscan_direct += nr_scanned
        if not nr_taken:
            return 0
        self.frames.flags[taken] &= _U16(0xFFFF & ~PG_LRU)
        vmstat.nr_isolated_file += nr_taken
        unqueued_before = sc.nr_unqueued_dirty
        met = sc.met()
        if sc.memcg is not None:
            await self._wait_for_marked(task, taken, sc)
        kept, nr_reclaimed = await self.shrink_folio_list(task, taken, sc)
        nr_active = self._move_folios_to_lru(lruvec, kept)
        vmstat.nr_isolated_file -= nr_taken
        vmstat.pgsteal_file += nr_reclaimed
        if sc.kswapd:
            vmstat.pgsteal_kswapd += nr_reclaimed
        else:
            vmstat.pgsteal_direct += nr_reclaimed
        if sc.nr_unqueued_dirty - unqueued_before == nr_taken:
            self.files.wakeup_flusher_threads("vmscan")
            if sc.memcg is not None and self.vmscan.fixes.memcg_dirty_throttle:
                await self.vmscan.throttles.reclaim_throttle(task, "VMSCAN_THROTTLE_WRITEBACK")
        sc.nr_taken += nr_taken
        sc.nr_file_taken += nr_taken
        if self.vmscan.tracer is not None:
            sc.trace_inactive(self.vmscan.tracer, task, nr_scanned, nr_reclaimed, met, nr_active, file=True)
        return nr_reclaimed

    async def _wait_for_marked(self, task: Task, taken: PfnArray, sc: "ScanControl") -> None:
        """Wait for pages under writeback that a reclaim of this group has met before (shrink_folio_list, case 3).

        # MODEL: the batch's marked pages are waited for before the rest of it is looked at, not each in its turn.
        """
        may_wait = GFP_FS if self.vmscan.fixes.memcg_wait_enters_fs else GFP_IO
        if not sc.gfp & may_wait:
            return
        flags_of = self.frames.flags_of
        for pfn in taken.tolist():
            if self.files.writeback_may_last(pfn):
                continue
            while flags_of[pfn] & (PG_WRITEBACK | PG_RECLAIM | PG_LOCKED) == PG_WRITEBACK | PG_RECLAIM:
                await self.files.wait_on_page_writeback(task, pfn)

    def _move_folios_to_lru(self, lruvec: Lruvec, kept: PfnArray) -> int:
        """Put survivors back at the head of a list, oldest first (move_folios_to_lru); return how many are active."""
        if not len(kept):
            return 0
        flags = self.frames.flags
        # a file that was removed meanwhile has left its isolated pages behind
        gone = self.frames.mapping[kept] == 0
        if gone.any():
            self.free_file(kept[gone])
            kept = kept[~gone]
        flags[kept] |= _U16(PG_LRU)
        active = flags[kept] & _U16(PG_ACTIVE) != 0
        nr_active = int(np.count_nonzero(active))
        lists = lruvec.lists
        if nr_active:
            lruvec.workingset_age_nonresident(nr_active)
            lists[ACTIVE_FILE].add_head(kept[active])
            kept = kept[~active]
        if len(kept):
            lists[INACTIVE_FILE].add_head(kept)
        return nr_active

    def free_file(self, pfns: PfnArray) -> None:
        """Free file pages that are on no list and in no file."""
        frames = self.frames
        state = frames.flags[pfns]
        nr_reserve = int(np.count_nonzero(state & _U16(PG_RESERVE)))
        frames.flags[pfns] = state & _U16(0xFFFF & ~_CLEAR_STATE)
        frames.mapping[pfns] = 0
        frames.index[pfns] = 0
        frames.owner[pfns] = 1
        if self.vmscan.pages.memcg is not None:
            self.vmscan.pages.memcg.uncharge(pfns)
        self.vmscan.pages.free_singles(pfns.tolist(), self.owner_file, nr_reserve)

    # -- the pages of a batch -------------------------------------------------------------------------------------

    async def shrink_folio_list(self, task: Task, taken: PfnArray, sc: "ScanControl") -> tuple[PfnArray, int]:
        """Deal with isolated pages; return those to put back, in order, and how many were freed."""
        flags = self.frames.flags
        state = flags[taken]
        locked = state & _U16(PG_LOCKED) != 0
        sc.nr_scanned += int(np.count_nonzero(~locked))
        dirty, writeback = self.files.dirty_writeback(taken)
        self._count(sc, state, dirty & ~locked, writeback & ~locked)
        under = (state & _U16(PG_WRITEBACK) != 0) & ~locked
        self._meet_writeback(taken, state, under, sc)
        rest = ~locked & ~under
        active, keep, clean_only = self._references(taken, state, rest)
        unevictable = rest & (state & _U16(PG_UNEVICTABLE) != 0)
        rest &= ~(active | keep | unevictable)
        self._activate(taken[under | active | unevictable])
        if rest.any():
            # an unmapped page's dirt counts from here on
            self.files.unmap(taken[rest])
        is_dirty = rest & (flags[taken] & _U16(PG_DIRTY) != 0)
        nr_kept = int(np.count_nonzero(~rest))
        task.charge_ns += nr_kept * self.costs.scan_activate
        freed = taken[rest & ~is_dirty]
        if len(freed):
            freed = await self._free_clean(task, freed, sc)
            self.free_file(freed)
        if is_dirty.any():
            await self._meet_dirty(task, taken[is_dirty], clean_only[is_dirty], sc)
        if 0 < len(freed) < len(taken):
            return taken[~np.isin(taken, freed)], len(freed)
        return (taken[:0], len(taken)) if len(freed) else (taken, 0)

    @staticmethod
    def _count(
        sc: "ScanControl", state: npt.NDArray[np.uint16], dirty: npt.NDArray[np.bool_], writeback: npt.NDArray[np.bool_]
    ) -> None:
        """Add what was met to the round's books."""
        sc.nr_dirty += int(np.count_nonzero(dirty | writeback))
        sc.nr_unqueued_dirty += int(np.count_nonzero(dirty & ~writeback))
        # pages that reach the end of the list a second time before they are written: the list turns too fast
        sc.nr_congested += int(np.count_nonzero(writeback & (state & _U16(PG_RECLAIM) != 0)))

    def _meet_writeback(
        self, taken: PfnArray, state: npt.NDArray[np.uint16], under: npt.NDArray[np.bool_], sc: "ScanControl"
    ) -> None:
        nr_under = int(np.count_nonzero(under))
        if not nr_under:
            return
        marked = under & (state & _U16(PG_RECLAIM) != 0)
        nr_immediate = int(np.count_nonzero(marked)) if sc.kswapd and self.vmscan.flags.writeback else 0
        sc.nr_immediate += nr_immediate
        sc.nr_writeback += nr_under - nr_immediate
        self.frames.flags[taken[under]] |= _U16(PG_RECLAIM)

    def _references(
        self, taken: PfnArray, state: npt.NDArray[np.uint16], rest: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Return which pages are activated, kept, or to be reclaimed only if clean (folio_check_references)."""
        referenced = state & _U16(PG_REFERENCED) != 0
        young = np.zeros(len(taken), dtype=np.bool_)
        young[rest] = self.files.take_young(taken[rest])
        flags = self.frames.flags
        flags[taken[rest & ~young]] &= _U16(0xFFFF & ~PG_REFERENCED)
        flags[taken[young]] |= _U16(PG_REFERENCED)
        return young & referenced, young & ~referenced, rest & ~young & referenced

    def _activate(self, pfns: PfnArray) -> None:
        if len(pfns):
            self.frames.flags[pfns] |= _U16(PG_ACTIVE)
            self.vmstat.pgactivate += len(pfns)

    async def _meet_dirty(
        self, task: Task, pfns: PfnArray, clean_only: npt.NDArray[np.bool_], sc: "ScanControl"
    ) -> None:
        """Leave dirty pages to the flusher, or have kswapd write those that nobody else writes."""
        flags = self.frames.flags
        marked = flags[pfns] & _U16(PG_RECLAIM) != 0
        may_write = marked if sc.kswapd and self.vmscan.flags.dirty else np.zeros(len(pfns), dtype=np.bool_)
        left = pfns[~may_write]
        self.vmstat.nr_vmscan_immediate_reclaim += len(left)
        flags[left] |= _U16(PG_RECLAIM)
        self._activate(left)
        task.charge_ns += len(left) * self.costs.scan_activate
        if not sc.gfp & GFP_FS or not sc.may_writepage:
            return
        for pfn in pfns[may_write & ~clean_only].tolist():
            task.charge_ns += self.costs.scan_pageout
            self.frames.flags_of[pfn] |= PG_RECLAIM
            if self.frames.flags_of[pfn] & PG_DIRTY and await self.files.writepage(task, pfn):
                self.vmstat.nr_vmscan_write += 1
            if task.cpus is not None:
                await task.cpus.cond_resched(task)

    async def _free_clean(self, task: Task, pfns: PfnArray, sc: "ScanControl") -> PfnArray:
        """Take clean pages out of their files; return those that may be freed."""
        task.charge_ns += len(pfns) * self.costs.scan_free
        can_go = await self.files.release_folios(task, pfns, sc.gfp)
        # what was locked, dirtied or read meanwhile stays (folio_ref_freeze)
        state = self.frames.flags[pfns]
        busy = state & _U16(PG_LOCKED | PG_DIRTY | PG_WRITEBACK) != 0
        busy |= self.frames.pins[pfns] != 0
        self._activate(pfns[~can_go])
        freed: PfnArray = pfns[can_go & ~busy]
        self.files.remove_mapping(freed)
        return freed

    # -- the active list ------------------------------------------------------------------------------------------

    def shrink_active_list(self, task: Task, lruvec: Lruvec, nr_to_scan: int, sc: "ScanControl") -> None:
        """Move pages from the active tail to the inactive head (shrink_active_list)."""
        self.lruvec.lru_add_drain()
        taken, nr_scanned = sc.isolate_lru_folios(lruvec, ACTIVE_FILE, nr_to_scan, self.vmstat)
        self.vmstat.pgrefill += nr_scanned
        nr = len(taken)
        task.charge_ns += self.costs.shrink_call + nr * self.costs.scan_keep
        if not nr:
            return
        # MODEL: no executable mappings, which alone would stay active
        self.files.take_young(taken)
        flags = self.frames.flags
        flags[taken] = flags[taken] & _U16(0xFFFF & ~PG_ACTIVE) | _U16(PG_WORKINGSET)
        lruvec.lists[INACTIVE_FILE].add_head(taken)
        self.vmstat.pgdeactivate += nr
