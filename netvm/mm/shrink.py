"""What reclaim does with the pages it meets: keep, activate, write, free.

Mirrors ``shrink_inactive_list``, ``shrink_folio_list``, ``shrink_active_list``, ``folio_check_references`` and
``pageout`` (mm/vmscan.c of 6.1) for anonymous pages. Each page of a batch is met in isolation order:

- under writeback: marked for rotation when the write ends, and activated (or counted as *immediate* for kswapd);
- young since the last look: kept, and activated if that was already so the time before;
- not in the swap cache: given a slot, unmapped, and written; it stays under writeback on the inactive list;
- in the swap cache and dirty: unmapped and written again;
- clean: freed, leaving a shadow entry that tells a refault how long ago that was.

So a dirty page that is used once is scanned three times: kept young, written, freed. The pages of a batch mostly share
their fate; runs of the same fate are handled together, in order, so the result is that of the kernel's loop. Runs that
are kept are long, and arrays; those that are written are as short as tags and bios are, and lists.

# MODEL: every anonymous page is mapped by at most one PTE; no mlock, no transparent huge pages.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from netvm.mm.address_space import PTE_DIRTY, PTE_YOUNG
from netvm.mm.frames import (
    PG_ACTIVE,
    PG_DIRTY,
    PG_LOCKED,
    PG_LRU,
    PG_RECLAIM,
    PG_REFERENCED,
    PG_RESERVE,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
    PG_WORKINGSET,
    PG_WRITEBACK,
    PfnArray,
    common_item,
)
from netvm.mm.gfp import GFP_FS, GFP_IO
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON, Lruvec
from netvm.mm.pageout import Pageout
from netvm.mm.ports import PlugPort
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.mm.scan_control import ScanControl
    from netvm.mm.vmscan import Vmscan

__all__ = ["Shrinker"]

_LOCKED: Final = 0
"""By somebody else: not even counted as scanned."""
_REF_KEEP: Final = 1
_REF_ACTIVATE: Final = 2
_WRITEBACK: Final = 3
_IMMEDIATE: Final = 4
_SWAP_OUT: Final = 5
"""Not in the swap cache yet."""
_WRITE_AGAIN: Final = 6
_FREE: Final = 7
_ACTIVATE: Final = 8
_PINNED: Final = 9
"""Somebody holds a reference, so it cannot go; its process loses it nevertheless."""
_KEEP: Final = 10

_KEPT_FATES: Final = (_WRITEBACK, _REF_KEEP, _IMMEDIATE)
"""Of whole batches that are kept, the usual ones; a page under writeback keeps its slot, whatever swap is left."""

_SENT_FATES: Final = (_SWAP_OUT, _WRITE_AGAIN)
"""Of pages that are written; they have not been referenced lately, whatever was noted before."""

_SPECIAL: Final = PG_LOCKED | PG_UNEVICTABLE | PG_WRITEBACK
_U16 = np.uint16
_NOT_REFERENCED = _U16(0xFFFF & ~PG_REFERENCED)
_NOT_LRU = _U16(0xFFFF & ~PG_LRU)
_NOT_ACTIVE = _U16(0xFFFF & ~PG_ACTIVE)
_NOT_YOUNG = np.uint8(0xFF & ~PTE_YOUNG)


class Shrinker(Pageout):
    """The page-level half of reclaim."""

    def __init__(self, vmscan: "Vmscan") -> None:
        super().__init__(vmscan)
        self.lruvec = vmscan.lruvec
        self.owner_anon = vmscan.pages.ledger.owner("anon")
        self.nr_frozen = 0
        """Pages counted as isolated that are out of the swap cache: they are free when their batch ends, or already."""

    # -- the inactive list ----------------------------------------------------------------------------------------

    async def shrink_inactive_list(
        self, task: Task, lruvec: Lruvec, nr_to_scan: int, sc: "ScanControl", plug: PlugPort
    ) -> int:
        """Isolate a batch from the tail, deal with it, put the rest back; return pages reclaimed."""
        vmstat = self.vmstat
        self.lruvec.lru_add_drain()
        taken, nr_scanned = sc.isolate_lru_folios(lruvec, INACTIVE_ANON, nr_to_scan, vmstat)
        nr_taken = len(taken)
        task.charge_ns += self.costs.shrink_call
        vmstat.pgscan_anon += nr_scanned
        if sc.kswapd:
            vmstat.pgscan_kswapd += nr_scanned
        else:
            vmstat.pgscan_direct += nr_scanned
        if not nr_taken:
            return 0
        met = sc.met() if self.vmscan.tracer is not None else ()
        if sc.memcg is not None:
            await self._wait_for_marked(task, taken, sc)
        flags = self.frames.flags
        state = common_item(flags[taken])
        fate = self._common_fate(taken, state, sc)
        nr_reclaimed, nr_active = 0, 0 if fate == _REF_KEEP else nr_taken
        if fate is None or state is None or not self._keep_alike(task, lruvec, taken, fate, state, sc):
            if fate is None or state is None:
                flags[taken] = flags[taken] & _NOT_LRU
            else:
                flags[taken] = state & ~(PG_LRU | PG_REFERENCED if fate in _SENT_FATES else PG_LRU)
            vmstat.nr_isolated_anon += nr_taken
            nr_reclaimed, nr_pageout, kept = await self.shrink_folio_list(task, taken, sc, plug, fate=fate)
            nr_active = self._move_folios_to_lru(lruvec, kept)
            vmstat.nr_isolated_anon -= nr_taken
            vmstat.pgsteal_anon += nr_reclaimed
            if sc.kswapd:
                vmstat.pgsteal_kswapd += nr_reclaimed
            else:
                vmstat.pgsteal_direct += nr_reclaimed
            if nr_pageout:
                lruvec.note_cost(file=False, nr_pages=nr_pageout)
        sc.nr_taken += nr_taken
        if self.vmscan.tracer is not None:
            sc.trace_inactive(self.vmscan.tracer, task, nr_scanned, nr_reclaimed, met, nr_active, file=False)
        return nr_reclaimed

    async def _wait_for_marked(self, task: Task, taken: PfnArray, sc: "ScanControl") -> None:
        """Wait for pages under writeback that a reclaim of this group has met before (shrink_folio_list, case 3).

        A swapped page goes to a device, not through a file system, unless swap is a file.
        """
        flags_of = self.frames.flags_of
        if not sc.gfp & GFP_IO or (self.swap.needs_fs and not sc.gfp & GFP_FS):
            return
        self.frames.flags[taken] &= _NOT_LRU
        self.vmstat.nr_isolated_anon += len(taken)
        for pfn in taken.tolist():
            while flags_of[pfn] & (PG_WRITEBACK | PG_RECLAIM | PG_LOCKED) == PG_WRITEBACK | PG_RECLAIM:
                await self.swap.wait_on_page_writeback(task, pfn)
        self.vmstat.nr_isolated_anon -= len(taken)
        self.frames.flags[taken] |= _U16(PG_LRU)

    def _keep_alike(
        self, task: Task, lruvec: Lruvec, taken: PfnArray, fate: int, state: int, sc: "ScanControl"
    ) -> bool:
        """Deal with a batch whose pages have the same flags and are all kept; False if it is none.

        Nobody else can look meanwhile, so the pages go from list to list without being isolated.
        """
        if fate not in _KEPT_FATES or self.nr_orphans or state & PG_ACTIVE:
            return False
        nr = len(taken)
        if fate == _REF_KEEP:
            self._clear_young(taken)
            self.frames.flags[taken] = state | PG_REFERENCED
            task.charge_ns += nr * self.costs.scan_keep
            sc.nr_ref_keep += nr
            lruvec.lists[INACTIVE_ANON].add_head(taken)
        else:
            task.charge_ns += nr * self.costs.scan_activate
            if fate == _WRITEBACK:
                state |= PG_RECLAIM
                sc.nr_writeback += nr
            else:
                sc.nr_immediate += nr
            self.frames.flags[taken] = state | PG_ACTIVE
            self.vmstat.pgactivate += nr
            lruvec.workingset_age_nonresident(nr)
            lruvec.lists[ACTIVE_ANON].add_head(taken)
        sc.nr_scanned += nr
        return True

    def _move_folios_to_lru(self, lruvec: Lruvec, pfns: PfnArray) -> int:
        """Put survivors back at the head of a list, oldest first (move_folios_to_lru); return how many are active."""
        flags = self.frames.flags
        if self.nr_orphans:
            pfns = self._free_orphans(pfns)
        if not len(pfns):
            return 0
        common = common_item(self.frames.flags[pfns])
        lists = lruvec.lists
        if common is not None:
            flags[pfns] = common | PG_LRU
            nr_active = len(pfns) if common & PG_ACTIVE else 0
        else:
            state = flags[pfns]
            flags[pfns] = state | _U16(PG_LRU)
            active = state & _U16(PG_ACTIVE) != 0
            nr_active = int(np.count_nonzero(active))
        if not nr_active:
            lists[INACTIVE_ANON].add_head(pfns)
            return 0
        lruvec.workingset_age_nonresident(nr_active)
        if nr_active == len(pfns):
            lists[ACTIVE_ANON].add_head(pfns)
            return nr_active
        lists[INACTIVE_ANON].add_head(pfns[~active])
        lists[ACTIVE_ANON].add_head(pfns[active])
        return nr_active

    def _free_orphans(self, pfns: PfnArray) -> PfnArray:
        """Free isolated pages that nobody maps any more."""
        gone = (self.frames.mapping[pfns] == 0) & (self.frames.flags[pfns] & _U16(PG_SWAPCACHE) == 0)
        dead = pfns[gone]
        if len(dead):
            self.nr_orphans -= len(dead)
            self.free_anon(dead)
        kept: PfnArray = pfns[~gone]
        return kept

    def free_anon(self, pfns: PfnArray) -> None:
        """Free anonymous pages that are on no list, unmapped and not in the swap cache."""
        frames = self.frames
        common = common_item(self.frames.flags[pfns])
        if common is None:
            nr_reserve = int(np.count_nonzero(frames.flags[pfns] & _U16(PG_RESERVE)))
        else:
            nr_reserve = len(pfns) if common & PG_RESERVE else 0
        frames.mapping[pfns] = 0
        frames.index[pfns] = 0
        frames.swap[pfns] = 0
        frames.owner[pfns] = 1
        if self.vmscan.pages.memcg is not None:
            self.vmscan.pages.memcg.uncharge(pfns)
        self.vmscan.pages.free_singles(pfns.tolist(), self.owner_anon, nr_reserve)

    # -- the pages of a batch -------------------------------------------------------------------------------------

    async def shrink_folio_list(
        self, task: Task, taken: PfnArray, sc: "ScanControl", plug: PlugPort, *, fate: int | None
    ) -> tuple[int, int, PfnArray]:
        """Deal with isolated pages in order; return pages freed, pages sent out, and those to put back.

        ``fate`` is what they have in common, if they do: then those to be written are not marked as referenced. A page
        is looked at when its turn comes: if anybody else ran meanwhile, the rest is looked at again.
        """
        costs = self.costs
        flags = self.frames.flags
        world = self.vmscan.world
        pages: list[int] = taken.tolist()
        kept: list[int] = []
        freed: list[int] = []
        nr_pageout = 0
        nr_taken = len(pages)
        position = at = 0
        runs = self._runs(taken, 0, sc) if fate is None else [(fate, 0, nr_taken)]
        mixed = fate is None
        looked_at = world.nr_events + world.nr_steps
        while position < nr_taken:
            if looked_at != world.nr_events + world.nr_steps:
                looked_at = world.nr_events + world.nr_steps
                runs = self._fates(taken, position, sc)
                mixed = True
                at = 0
            fate, start, stop = runs[at]
            nr = stop - position
            if fate in _SENT_FATES:
                if mixed and position == start:
                    flags[taken[start:stop]] &= _NOT_REFERENCED
                nr, nr_written = await self._page_out(task, pages[position:stop], sc, plug, new=fate == _SWAP_OUT)
                nr_pageout += nr_written
                sent = pages[position : position + nr]
                if self.swap.writes_synchronously:
                    sent, gone = self._written_by_now(sent)
                    freed += gone
                kept += sent
            elif fate == _FREE:
                run = pages[position:stop]
                task.charge_ns += nr * costs.scan_free
                self._unmap(run)
                self.swap.delete_from_swap_cache(run)
                self.nr_frozen += nr
                freed += run
            else:
                self._keep(task, taken[position:stop], fate, sc)
                kept += pages[position:stop]
            if fate != _LOCKED:
                sc.nr_scanned += nr
            position += nr
            if position == stop:
                at += 1
        nr_reclaimed = len(freed)
        if freed:
            self.free_anon(np.array(freed, dtype=np.intp))
        if nr_pageout:
            await self.swap.swap_write_unplug(task, plug)
        # the caller counts them as isolated until now
        self.nr_frozen -= nr_reclaimed
        return nr_reclaimed, nr_pageout, np.array(kept, dtype=np.intp) if freed else taken

    def _fates(self, taken: PfnArray, position: int, sc: "ScanControl") -> list[tuple[int, int, int]]:
        """Say what is to be done with the pages from a position on: runs of a fate and a process, with their bounds."""
        rest = taken[position:]
        fate = self._common_fate(rest, common_item(self.frames.flags[rest]), sc)
        return self._runs(taken, position, sc) if fate is None else [(fate, position, len(taken))]

    def _runs(self, taken: PfnArray, position: int, sc: "ScanControl") -> list[tuple[int, int, int]]:
        """Look at the pages from a position on one by one."""
        frames = self.frames
        flags_of, mapping_of, index_of, pins_of = frames.flags_of, frames.mapping_of, frames.index_of, frames.pins_of
        overdue = _IMMEDIATE if sc.kswapd and self.vmscan.flags.writeback else _WRITEBACK
        runs: list[tuple[int, int, int]] = []
        start = position
        last = last_mapping = -1
        bits_of: Sequence[int] = ()
        for i, pfn in enumerate(taken[position:].tolist(), position):
            state = flags_of[pfn]
            mapping = mapping_of[pfn]
            if mapping and mapping != last_mapping:
                bits_of = self.spaces[mapping].bits_of
            pte = bits_of[index_of[pfn] - 1] if mapping else 0
            if state & _SPECIAL:
                if state & PG_LOCKED:
                    fate = _LOCKED
                elif state & PG_UNEVICTABLE:
                    fate = _ACTIVATE
                else:
                    fate = overdue if state & PG_RECLAIM else _WRITEBACK
            elif pte & PTE_YOUNG:
                fate = _REF_ACTIVATE if state & PG_REFERENCED else _REF_KEEP
            elif not state & PG_SWAPCACHE:
                fate = _SWAP_OUT if mapping else _KEEP
            elif pins_of[pfn]:
                fate = _PINNED
            else:
                fate = _WRITE_AGAIN if state & PG_DIRTY or pte & PTE_DIRTY else _FREE
            if fate != last or mapping != last_mapping:
                if i > position:
                    runs.append((last, start, i))
                    start = i
                last, last_mapping = fate, mapping
        runs.append((last, start, len(taken)))
        return runs

    def _common_fate(self, taken: PfnArray, state: int | None, sc: "ScanControl") -> int | None:
        """The fate of a batch whose pages have the same flags and process; None if it needs a closer look."""
        if state is None or state & (PG_LOCKED | PG_UNEVICTABLE):
            return None
        if state & PG_WRITEBACK:
            overdue = sc.kswapd and state & PG_RECLAIM and self.vmscan.flags.writeback
            return _IMMEDIATE if overdue else _WRITEBACK
        mapping = common_item(self.frames.mapping[taken])
        if mapping is None:
            return None
        pte = 0
        if mapping:
            bits = common_item(self.spaces[mapping].bits_at[self.frames.index[taken]])
            if bits is None:
                return None
            pte = bits
            if pte & PTE_YOUNG:
                return _REF_ACTIVATE if state & PG_REFERENCED else _REF_KEEP
        if state & PG_SWAPCACHE:
            if any(self.frames.pins[taken].tobytes()):
                return None
            return _WRITE_AGAIN if state & PG_DIRTY or pte & PTE_DIRTY else _FREE
        return _SWAP_OUT if mapping else _KEEP

    def _keep(self, task: Task, run: PfnArray, fate: int, sc: "ScanControl") -> None:
        """Keep or activate pages that are neither written nor freed."""
        flags = self.frames.flags
        nr = len(run)
        if fate == _REF_KEEP:
            self._clear_young(run)
            flags[run] |= _U16(PG_REFERENCED)
            task.charge_ns += nr * self.costs.scan_keep
            sc.nr_ref_keep += nr
            return
        task.charge_ns += nr * self.costs.scan_activate
        if fate in (_LOCKED, _KEEP):
            return
        if fate == _PINNED:
            self._unmap(run.tolist())
            flags[run] &= _NOT_REFERENCED
            return
        if fate == _REF_ACTIVATE:
            self._clear_young(run)
            flags[run] |= _U16(PG_REFERENCED)
        elif fate == _WRITEBACK:
            flags[run] |= _U16(PG_RECLAIM)
            sc.nr_writeback += nr
        elif fate == _IMMEDIATE:
            sc.nr_immediate += nr
        self._activate(run)

    def _clear_young(self, run: PfnArray) -> None:
        """Test-and-clear the young bits of mapped pages (folio_referenced)."""
        mapping = self.frames.mapping_of[int(run[0])]
        if mapping:
            bits_at = self.spaces[mapping].bits_at
            index = self.frames.index[run]
            bits_at[index] = bits_at[index] & _NOT_YOUNG

    def _written_by_now(self, sent: list[int]) -> tuple[list[int], list[int]]:
        """Free the pages whose write was waited for; return those to put back, and those freed (pageout, PAGE_SUCCESS).

        A page that somebody has mapped or locked again stays.
        """
        frames = self.frames
        busy = PG_LOCKED | PG_WRITEBACK | PG_DIRTY
        gone = [
            pfn
            for pfn in sent
            if frames.flags_of[pfn] & (busy | PG_SWAPCACHE) == PG_SWAPCACHE
            and not frames.mapping_of[pfn]
            and not frames.pins_of[pfn]
        ]
        self.swap.delete_from_swap_cache(gone)
        self.nr_frozen += len(gone)
        return [pfn for pfn in sent if pfn not in gone], gone

    # -- the active list ------------------------------------------------------------------------------------------

    def shrink_active_list(self, task: Task, lruvec: Lruvec, nr_to_scan: int, sc: "ScanControl") -> None:
        """Move pages from the active tail to the inactive head (shrink_active_list)."""
        self.lruvec.lru_add_drain()
        taken, nr_scanned = sc.isolate_lru_folios(lruvec, ACTIVE_ANON, nr_to_scan, self.vmstat)
        self.vmstat.pgrefill += nr_scanned
        nr = len(taken)
        task.charge_ns += self.costs.shrink_call + nr * self.costs.scan_keep
        if not nr:
            return
        mapping = common_item(self.frames.mapping[taken])
        if mapping is not None:
            self._clear_young(taken)
        else:
            for pfn in taken.tolist():
                mapping = self.frames.mapping_of[pfn]
                if mapping:
                    self.spaces[mapping].bits_of[self.frames.index_of[pfn] - 1] &= 0xFF & ~PTE_YOUNG
        flags = self.frames.flags
        common = common_item(flags[taken])
        flags[taken] = (
            flags[taken] & _NOT_ACTIVE | _U16(PG_WORKINGSET) if common is None else common & ~PG_ACTIVE | PG_WORKINGSET
        )
        lruvec.lists[INACTIVE_ANON].add_head(taken)
        self.vmstat.pgdeactivate += nr
