"""Sending anonymous pages to swap: slot, unmap, write.

Mirrors ``pageout``, ``add_to_swap`` and ``try_to_unmap`` as ``shrink_folio_list`` (mm/vmscan.c of 6.1) calls them, for
the first pages of a run that share their fate and their process.

Mostly a page has all that it needs at hand (:class:`netvm.mm.ports.QuickPort`). Then no step can fail or sleep, nobody
can look in between, and so many pages are dealt with in one pass, each written once with what it comes to. Any other
page takes one step after another and sleeps where it must. What only lengthens a request goes together up to the page
in which an interrupt falls; a page that begins a request goes alone, since the one before it is sent by that, and
kblockd runs before the next page is looked at.
"""

from typing import TYPE_CHECKING

import numpy as np

from netvm.mm.address_space import PTE_DIRTY, AddressSpace
from netvm.mm.frames import PG_ACTIVE, PG_DIRTY, PG_LOCKED, PG_RECLAIM, PG_SWAPCACHE, PfnArray
from netvm.mm.gfp import GFP_FS, GFP_IO
from netvm.mm.ports import PlugPort
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.mm.scan_control import ScanControl
    from netvm.mm.vmscan import Vmscan

__all__ = ["Pageout"]


class Pageout:
    """The way out of isolated pages: what the shrinker (:mod:`netvm.mm.shrink`) is built on."""

    def __init__(self, vmscan: "Vmscan") -> None:
        self.vmscan = vmscan
        self.frames = vmscan.pages.frames
        self.vmstat = vmscan.vmstat
        self.costs = vmscan.costs
        self.new_page_ns = self.costs.add_to_swap + self.costs.scan_pageout
        """What a page costs that is sent to swap and had no slot."""
        self.swap = vmscan.swap
        self.spaces: dict[int, AddressSpace] = {}
        """Address spaces by id."""
        self.nr_orphans = 0
        """Isolated pages whose process has unmapped them meanwhile."""

    async def _page_out(
        self, task: Task, run: list[int], sc: "ScanControl", plug: PlugPort, *, new: bool
    ) -> tuple[int, int]:
        """Send the first pages of a run to swap; return how many were dealt with, and sent out.

        Those that only lengthen a request together, any other alone. All are to be put back. ``new`` ones are not in
        the swap cache yet.
        """
        swap = self.swap
        may_write = sc.may_writepage and sc.gfp & GFP_IO and (sc.gfp & GFP_FS or not swap.needs_fs)
        if new and not sc.gfp & GFP_IO:
            task.charge_ns += len(run) * self.costs.scan_keep
            return len(run), 0
        chunk = run[:1] if may_write else run
        if new and may_write:
            nr_at_hand, nr_merging = swap.quick.look(task, plug, len(run))
            if nr_merging:
                nr = self._nr_until_looked(task, nr_merging)
                self._write_quickly(task, run[:nr], plug)
                await self._pay_for(task, nr)
                return nr, nr
            if nr_at_hand:
                task.charge_ns += self.new_page_ns
                slot, versions = self._write_quickly(task, chunk, None)
                await swap.swap_writepages(task, chunk, plug, begun=(slot, versions))
                await self._pay(task)
                return 1, 1
        nr = len(chunk)
        nr_cached = nr
        if new:
            nr_cached = swap.add_to_swap(task, chunk)
            task.charge_ns += nr_cached * self.costs.add_to_swap
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
        await self._pay(task)
        return nr, nr_sent

    async def _pay(self, task: Task) -> None:
        """Let others run: a flushed request wakes kblockd, which runs before the next page is looked at."""
        if task.cpus is not None and task.cpus.should_pay(task):
            await task.cpus.pay(task)

    async def _pay_for(self, task: Task, nr_pages: int) -> None:
        """Pay for new pages that were sent together as if it had been offered after each."""
        cost_ns = self.new_page_ns
        nr_paid = 0 if task.cpus is None else task.cpus.nr_paid(task, cost_ns, nr_pages)
        task.charge_ns += nr_paid * cost_ns
        if nr_paid and task.cpus is not None:
            await task.cpus.pay(task)
        task.charge_ns += (nr_pages - nr_paid) * cost_ns

    # -- all at once ----------------------------------------------------------------------------------------------

    def _nr_until_looked(self, task: Task, nr_pages: int) -> int:
        """Return after how many of so many pages, one at least, an interrupt or a preemption falls between two."""
        cpus = task.cpus
        return nr_pages if cpus is None else min(nr_pages, cpus.nr_unlooked(task, self.new_page_ns))

    def _write_quickly(self, task: Task, pages: list[int], plug: PlugPort | None) -> tuple[int, list[int]]:
        """Unmap new pages that have all they need at hand and put them under writeback.

        With a plug they merge into a request, else they are to be submitted. Returns their first slot, and their
        content.
        """
        frames = self.frames
        index_of, mapping_of = frames.index_of, frames.mapping_of
        space = self.spaces[mapping_of[pages[0]]]
        bits_of, pte_of, version_of = space.bits_of, space.pte_of, space.version_of
        vpns = [index_of[pfn] - 1 for pfn in pages]
        versions = [version_of[vpn] for vpn in vpns]
        first = entry = self.swap.quick.write(task, plug, pages, versions)
        for pfn, vpn in zip(pages, vpns, strict=True):
            entry += 1
            pte_of[vpn] = -entry
            bits_of[vpn] = 0
            mapping_of[pfn] = 0
        nr = len(pages)
        self._count_unmapped(space, nr)
        self.vmstat.nr_vmscan_write += nr
        return first, versions

    # -- one step after another -----------------------------------------------------------------------------------

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
        self._count_unmapped(space, len(run))

    def _count_unmapped(self, space: AddressSpace, nr: int) -> None:
        space.nr_anon -= nr
        space.nr_swap += nr
        self.vmstat.nr_anon_pages -= nr

    def _activate(self, run: PfnArray) -> None:
        """Set PG_active and give back the slot of a page that does not need it while swap is short."""
        if self.swap.is_full():
            for pfn in run.tolist():
                if self.frames.flags_of[pfn] & PG_SWAPCACHE:
                    self.swap.try_to_free_swap(pfn)
        self.frames.flags[run] |= np.uint16(PG_ACTIVE)
        self.vmstat.pgactivate += len(run)
