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

from typing import TYPE_CHECKING, Final

import numpy as np

from netvm.mm.address_space import PTE_DIRTY, PTE_YOUNG, AddressSpace
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
)
from netvm.mm.gfp import GFP_FS, GFP_IO
from netvm.mm.lru import ACTIVE_ANON, INACTIVE_ANON
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

_NOT_PLAIN: Final = PG_LOCKED | PG_WRITEBACK | PG_UNEVICTABLE | PG_SWAPCACHE | PG_DIRTY
_U16 = np.uint16
_NOT_REFERENCED = _U16(0xFFFF & ~PG_REFERENCED)


class Shrinker:
    """The page-level half of reclaim."""

    def __init__(self, vmscan: "Vmscan") -> None:
        self.vmscan = vmscan
        self.frames = vmscan.pages.frames
        self.lruvec = vmscan.lruvec
        self.vmstat = vmscan.vmstat
        self.costs = vmscan.costs
        self.swap = vmscan.swap
        self.owner_anon = vmscan.pages.ledger.owner("anon")
        self.spaces: dict[int, AddressSpace] = {}
        """Address spaces by id."""
        self.nr_orphans = 0
        """Isolated pages whose process has unmapped them meanwhile."""
        self.nr_frozen = 0
        """Pages counted as isolated that are out of the swap cache: they are free when their batch ends, or already."""

    # -- the inactive list ----------------------------------------------------------------------------------------

    async def shrink_inactive_list(self, task: Task, nr_to_scan: int, sc: "ScanControl", plug: PlugPort) -> int:
        """Isolate a batch from the tail, deal with it, put the rest back; return pages reclaimed."""
        vmstat = self.vmstat
        lruvec = self.lruvec
        lruvec.lru_add_drain()
        taken = lruvec.lists[INACTIVE_ANON].isolate_tail(nr_to_scan)
        nr_taken = len(taken)
        task.charge_ns += self.costs.shrink_call
        if not nr_taken:
            return 0
        self.frames.flags[taken] &= _U16(~PG_LRU & 0xFFFF)
        vmstat.nr_isolated_anon += nr_taken
        vmstat.pgscan_anon += nr_taken
        if sc.kswapd:
            vmstat.pgscan_kswapd += nr_taken
        else:
            vmstat.pgscan_direct += nr_taken
        met = sc.met()
        nr_reclaimed, nr_pageout, kept = await self.shrink_folio_list(task, taken, sc, plug)
        nr_active = self._move_folios_to_lru(kept)
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
            sc.trace_inactive(self.vmscan.tracer, task, nr_taken, nr_reclaimed, met, nr_active, file=False)
        return nr_reclaimed

    def _move_folios_to_lru(self, pfns: PfnArray) -> int:
        """Put survivors back at the head of a list, oldest first (move_folios_to_lru); return how many are active."""
        flags = self.frames.flags
        if self.nr_orphans:
            pfns = self._free_orphans(pfns)
        if not len(pfns):
            return 0
        state = flags[pfns]
        flags[pfns] = state | _U16(PG_LRU)
        active = state & _U16(PG_ACTIVE) != 0
        nr_active = int(np.count_nonzero(active))
        lists = self.lruvec.lists
        if not nr_active:
            lists[INACTIVE_ANON].add_head(pfns)
            return 0
        self.lruvec.nonresident_age += nr_active
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
        state = frames.flags[pfns]
        nr_reserve = int(np.count_nonzero(state & _U16(PG_RESERVE)))
        frames.mapping[pfns] = 0
        frames.index[pfns] = 0
        frames.swap[pfns] = 0
        frames.owner[pfns] = 1
        self.vmscan.pages.free_singles(pfns.tolist(), self.owner_anon, nr_reserve)

    # -- the pages of a batch -------------------------------------------------------------------------------------

    async def shrink_folio_list(
        self, task: Task, taken: PfnArray, sc: "ScanControl", plug: PlugPort
    ) -> tuple[int, int, PfnArray]:
        """Deal with isolated pages in order; return pages freed, pages sent out, and those to put back.

        A page is looked at when its turn comes: if anybody else ran meanwhile, the rest is looked at again.
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
        runs = self._fates(taken, 0, sc)
        looked_at = world.nr_events + world.nr_steps
        while position < nr_taken:
            if looked_at != world.nr_events + world.nr_steps:
                looked_at = world.nr_events + world.nr_steps
                runs = self._fates(taken, position, sc)
                at = 0
            fate, start, stop = runs[at]
            nr = stop - position
            if fate in (_SWAP_OUT, _WRITE_AGAIN):
                if position == start:
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
        frames = self.frames
        rest = taken[position:] if position else taken
        nr = len(rest)
        state = frames.flags[rest]
        raw = state.tobytes()
        if raw == raw[:2] * nr:
            mapping = frames.mapping[rest].tobytes()
            if mapping == mapping[:4] * nr:
                fate = self._common_fate(rest, int(state[0]), int.from_bytes(mapping[:4], "little"), sc)
                if fate is not None:
                    return [(fate, position, position + nr)]
        runs: list[tuple[int, int, int]] = []
        start = position
        last = last_mapping = -1
        mapping_of = frames.mapping_of
        for i, pfn in enumerate(rest.tolist(), position):
            fate = self._fate(pfn, sc)
            mapping_id = mapping_of[pfn]
            if fate != last or mapping_id != last_mapping:
                if i > position:
                    runs.append((last, start, i))
                    start = i
                last, last_mapping = fate, mapping_id
        runs.append((last, start, position + nr))
        return runs

    def _common_fate(self, taken: PfnArray, state: int, mapping: int, sc: "ScanControl") -> int | None:
        """The fate of a batch whose pages have the same flags and process; None if it needs a closer look."""
        if state & (PG_LOCKED | PG_UNEVICTABLE):
            return None
        if state & PG_WRITEBACK:
            return self._fate_under_writeback(state, sc)
        if mapping:
            bits = self.spaces[mapping].bits[self.frames.index[taken] - 1]
            raw = bits.tobytes()
            if raw != raw[:1] * len(taken):
                return None
            pte = raw[0]
            if pte & PTE_YOUNG:
                return _REF_ACTIVATE if state & PG_REFERENCED else _REF_KEEP
        else:
            pte = 0
        if state & PG_SWAPCACHE:
            if np.count_nonzero(self.frames.pins[taken]):
                return None
            return _WRITE_AGAIN if state & PG_DIRTY or pte & PTE_DIRTY else _FREE
        return _SWAP_OUT if mapping else _KEEP

    def _fate_under_writeback(self, state: int, sc: "ScanControl") -> int:
        if sc.kswapd and state & PG_RECLAIM and self.vmscan.flags.writeback:
            return _IMMEDIATE
        return _WRITEBACK

    def _fate(self, pfn: int, sc: "ScanControl") -> int:
        """What is to be done with one page."""
        frames = self.frames
        state = frames.flags_of[pfn]
        if state & PG_LOCKED:
            return _LOCKED
        if state & PG_UNEVICTABLE:
            return _ACTIVATE
        if state & PG_WRITEBACK:
            return self._fate_under_writeback(state, sc) if state & PG_RECLAIM else _WRITEBACK
        mapping = frames.mapping_of[pfn]
        pte = 0
        if mapping:
            pte = self.spaces[mapping].bits_of[frames.index_of[pfn] - 1]
            if pte & PTE_YOUNG:
                return _REF_ACTIVATE if state & PG_REFERENCED else _REF_KEEP
        if not state & PG_SWAPCACHE:
            return _SWAP_OUT if mapping else _KEEP
        if frames.pins_of[pfn]:
            return _PINNED
        return _WRITE_AGAIN if state & PG_DIRTY or pte & PTE_DIRTY else _FREE

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

    def _activate(self, run: PfnArray) -> None:
        """Set PG_active and give back the slot of a page that does not need it while swap is short."""
        if self.swap.is_full():
            for pfn in run.tolist():
                if self.frames.flags_of[pfn] & PG_SWAPCACHE:
                    self.swap.try_to_free_swap(pfn)
        self.frames.flags[run] |= _U16(PG_ACTIVE)
        self.vmstat.pgactivate += len(run)

    def _clear_young(self, run: PfnArray) -> None:
        """Test-and-clear the young bits of mapped pages (folio_referenced)."""
        mapping = self.frames.mapping_of[int(run[0])]
        if mapping:
            bits = self.spaces[mapping].bits
            vpns = self.frames.index[run] - 1
            bits[vpns] = bits[vpns] & np.uint8(0xFF & ~PTE_YOUNG)

    def _unmap(self, run: list[int]) -> None:
        """Replace the PTEs of swap cache pages by their swap entries; dirty PTEs dirty their pages (try_to_unmap)."""
        frames = self.frames
        mapping_of = frames.mapping_of
        mapping = mapping_of[run[0]]
        if not mapping:
            return
        space = self.spaces[mapping]
        bits_of, pte_of, version_of = space.bits_of, space.pte_of, space.version_of
        index_of, swap_of = frames.index_of, frames.swap_of
        duplicate = self.swap.duplicate
        for pfn in run:
            vpn = index_of[pfn] - 1
            entry = swap_of[pfn]
            if bits_of[vpn] & PTE_DIRTY:
                frames.flags_of[pfn] |= PG_DIRTY
            pte_of[vpn] = -entry
            bits_of[vpn] = 0
            mapping_of[pfn] = 0
            duplicate(entry - 1, version_of[vpn])
        nr = len(run)
        space.nr_anon -= nr
        space.nr_swap += nr
        self.vmstat.nr_anon_pages -= nr

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

    async def _page_out(
        self, task: Task, run: list[int], sc: "ScanControl", plug: PlugPort, *, new: bool
    ) -> tuple[int, int]:
        """Send the first pages of a run to swap: slot, unmap, write; return how many were dealt with, and sent out.

        As many at once as can be written without sleeping; one page when the next write must wait for its bio. All are
        to be put back.
        """
        swap = self.swap
        may_write = sc.may_writepage and sc.gfp & GFP_IO and (sc.gfp & GFP_FS or not swap.needs_fs)
        if new and not sc.gfp & GFP_IO:
            task.charge_ns += len(run) * self.costs.scan_keep
            return len(run), 0
        chunk = run[: max(1, swap.nr_ready_writes())] if may_write and len(run) > 1 else run
        nr = len(chunk)
        nr_cached = swap.add_to_swap(task, chunk) if new else nr
        nr_sent = 0
        if nr_cached and may_write:
            await self._pageout(task, chunk[:nr_cached], plug)
            nr_sent = nr_cached
        elif nr_cached:
            self._unmap(chunk[:nr_cached])
            task.charge_ns += nr_cached * self.costs.scan_keep
        if nr_cached < nr:
            # no slot, or no memory to note it
            task.charge_ns += self.costs.scan_activate
            self._activate(np.array(chunk[nr_cached : nr_cached + 1], dtype=np.intp))
            return nr_cached + 1, nr_sent
        if task.cpus is not None and task.cpus.should_pay(task):
            # a flushed request wakes kblockd, which runs before the next page is looked at
            await task.cpus.pay(task)
        return nr, nr_sent

    async def _pageout(self, task: Task, chunk: list[int], plug: PlugPort) -> None:
        """Unmap swap cache pages and start their writes (pageout).

        Each is unlocked as soon as it is under writeback. A page whose slot nobody wants any more is not written.
        """
        nr = len(chunk)
        flags_of = self.frames.flags_of
        task.charge_ns += nr * self.costs.scan_pageout
        self.vmstat.nr_vmscan_write += nr
        if self.frames.mapping_of[chunk[0]]:
            self._unmap(chunk)
        else:
            wanted = [pfn for pfn in chunk if not self.swap.try_to_free_swap(pfn)]
            self.nr_orphans += nr - len(wanted)
            chunk = wanted
        if chunk:
            for pfn in chunk:
                flags_of[pfn] = flags_of[pfn] & ~PG_DIRTY | PG_RECLAIM | PG_LOCKED
            await self.swap.swap_writepages(task, chunk, plug)

    # -- the active list ------------------------------------------------------------------------------------------

    def shrink_active_list(self, task: Task, nr_to_scan: int) -> None:
        """Move pages from the active tail to the inactive head (shrink_active_list)."""
        self.lruvec.lru_add_drain()
        taken = self.lruvec.lists[ACTIVE_ANON].isolate_tail(nr_to_scan)
        nr = len(taken)
        task.charge_ns += self.costs.shrink_call + nr * self.costs.scan_keep
        if not nr:
            return
        for pfn in taken.tolist():
            mapping = self.frames.mapping_of[pfn]
            if mapping:
                self.spaces[mapping].bits_of[self.frames.index_of[pfn] - 1] &= 0xFF & ~PTE_YOUNG
        flags = self.frames.flags
        flags[taken] = flags[taken] & _U16(0xFFFF & ~PG_ACTIVE) | _U16(PG_WORKINGSET)
        self.lruvec.lists[INACTIVE_ANON].add_head(taken)
        self.vmstat.pgrefill += nr
        self.vmstat.pgdeactivate += nr
