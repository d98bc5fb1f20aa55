"""The buddy allocator: blocks are split and merged, with per-cpu lists on top.

Mirrors mm/page_alloc.c of 6.1: ``rmqueue``, ``__rmqueue_smallest``, ``expand``, ``__free_one_page``,
``free_unref_page`` and ``free_pcppages_bulk``. Lists keep the kernel's order (head for hot pages, tail where a merge is
likely), because which block is taken decides which pageblock is stolen, and that decides when the watermarks are
boosted: :mod:`netvm.mm.pageblock`, which has the free lists.

Nothing here decides whether an allocation is allowed: :mod:`netvm.mm.page_alloc` does.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from netvm.fixes import Fixes
from netvm.mm.frames import PG_BUDDY, PG_PCP, PG_PFMEMALLOC, PG_RESERVE, Frames
from netvm.mm.gfp import ALLOC_HIGHATOMIC, ALLOC_NON_BLOCK, ALLOC_OOM
from netvm.mm.ledger import FREE, PCP, Ledger
from netvm.mm.pageblock import Pageblocks
from netvm.mm.zone import (
    HIGHATOMIC,
    MAX_ORDER,
    MOVABLE,
    NR_PCPTYPES,
    PAGE_ALLOC_COSTLY_ORDER,
    PerCpuPages,
    Zone,
)
from netvm.trace.vmstat import VmStat

__all__ = ["Buddy"]

_ORDER_MASK: Final = 0x0F
_TYPE_SHIFT: Final = 4


class Buddy:
    """The free memory of one host."""

    def __init__(self, frames: Frames, ledger: Ledger, vmstat: VmStat, fixes: Fixes, *, boost_factor: int) -> None:
        self.frames = frames
        self.ledger = ledger
        self.vmstat = vmstat
        self.pageblocks = Pageblocks(frames, fixes, boost_factor=boost_factor)
        self.boosted: Callable[[Zone], None] | None = None
        """Called by rmqueue when a steal has boosted the zone: kswapd is to be woken."""

    # -- taking ---------------------------------------------------------------------------------------------------

    def _expand(self, zone: Zone, pfn: int, low: int, high: int, migratetype: int) -> None:
        """Give the upper halves of a block back until it has the order asked for (expand)."""
        flags = self.frames.flags_of
        block = self.frames.block_of
        size = 1 << high
        while high > low:
            high -= 1
            size >>= 1
            half = pfn + size
            free_list = zone.free_lists[high][migratetype]
            free_list[half] = None
            free_list.move_to_end(half, last=False)
            flags[half] = PG_BUDDY
            block[half] = high | migratetype << _TYPE_SHIFT
            if migratetype == HIGHATOMIC:
                zone.nr_highatomic_free += size

    def _rmqueue_smallest(self, zone: Zone, order: int, migratetype: int) -> int:
        """Take the head of the smallest list that fits, split it, return the block or -1."""
        free_lists = zone.free_lists
        for current in range(order, MAX_ORDER + 1):
            free_list = free_lists[current][migratetype]
            if free_list:
                pfn, _ = free_list.popitem(last=False)
                self.frames.flags_of[pfn] = 0
                if migratetype == HIGHATOMIC:
                    zone.nr_highatomic_free -= 1 << current
                if current > order:
                    self._expand(zone, pfn, order, current, migratetype)
                return pfn
        return -1

    def _rmqueue(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int:
        """Own type, then fallback and once more (__rmqueue)."""
        if not zone.nr_free:
            return -1
        while True:
            pfn = self._rmqueue_smallest(zone, order, migratetype)
            if pfn >= 0 or not self.pageblocks.rmqueue_fallback(zone, order, migratetype, alloc_flags):
                return pfn

    def take_run(self, zone: Zone, nr_pages: int, migratetype: int) -> range | None:
        """Take up to ``nr_pages`` single pages that own-type lists would hand out one after another.

        They are consecutive frames of the head of the smallest list, so the result is the same as that of so many calls
        of ``__rmqueue(order 0)``. None when the type has nothing left. The caller counts them.
        """
        free_lists = zone.free_lists
        for order in range(MAX_ORDER + 1):
            free_list = free_lists[order][migratetype]
            if not free_list:
                continue
            pfn, _ = free_list.popitem(last=False)
            self.frames.flags_of[pfn] = 0
            size = 1 << order
            if size <= nr_pages:
                return range(pfn, pfn + size)
            # the rest, as the halves that expand() leaves behind
            rest = pfn + nr_pages
            end = pfn + size
            while rest < end:
                low = (rest & -rest).bit_length() - 1
                self.pageblocks.add_block(zone, rest, low, migratetype)
                rest += 1 << low
            return range(pfn, pfn + nr_pages)
        return None

    def rmqueue(self, zone: Zone, cpu: int, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take a block from the per-cpu lists or the buddy (rmqueue); return its first frame or -1.

        PGALLOC is counted; the watermark is the caller's business.
        """
        pfn = -1
        if order <= PAGE_ALLOC_COSTLY_ORDER:
            pfn = self._rmqueue_pcplist(zone, cpu, order, migratetype, alloc_flags)
        if pfn < 0:
            pfn = self._rmqueue_buddy(zone, order, migratetype, alloc_flags)
        if zone.wmark_boosted_flag:
            zone.wmark_boosted_flag = False
            if self.boosted is not None:
                self.boosted(zone)
        if pfn >= 0:
            self.vmstat.pgalloc[zone.vmstat_name] += 1 << order
        return pfn

    def _rmqueue_pcplist(self, zone: Zone, cpu: int, order: int, migratetype: int, alloc_flags: int) -> int:
        pcp = zone.pcp[cpu]
        pcp_list = pcp.lists[order * NR_PCPTYPES + migratetype]
        pcp.free_factor >>= 1
        if not pcp_list:
            batch = pcp.batch
            nr_blocks = batch if batch == 1 else max(batch >> order, 2)
            self._rmqueue_bulk(zone, pcp, order, nr_blocks, migratetype, alloc_flags)
            if not pcp_list:
                return -1
        pfn = pcp_list.popleft()
        pcp.count -= 1 << order
        self.ledger.counts[PCP] -= 1 << order
        return pfn

    def _rmqueue_bulk(
        self, zone: Zone, pcp: PerCpuPages, order: int, nr_blocks: int, migratetype: int, alloc_flags: int
    ) -> None:
        """Refill a per-cpu list; stop early where the buddy has nothing more."""
        pcp_list = pcp.lists[order * NR_PCPTYPES + migratetype]
        size = 1 << order
        taken = 0
        for _ in range(nr_blocks):
            pfn = self._rmqueue(zone, order, migratetype, alloc_flags)
            if pfn < 0:
                break
            pcp_list.append(pfn)
            self.frames.flags_of[pfn] = PG_PCP
            self.frames.block_of[pfn] = migratetype
            self.frames.owner[pfn : pfn + size] = PCP
            taken += size
        pcp.count += taken
        zone.nr_free -= taken
        self.ledger.counts[FREE] -= taken
        self.ledger.counts[PCP] += taken

    def _rmqueue_buddy(self, zone: Zone, order: int, migratetype: int, alloc_flags: int) -> int:
        """Take a block from the buddy lists (rmqueue_buddy)."""
        pfn = -1
        if alloc_flags & ALLOC_HIGHATOMIC:
            pfn = self._rmqueue_smallest(zone, order, HIGHATOMIC)
        if pfn < 0:
            pfn = self._rmqueue(zone, order, migratetype, alloc_flags)
            # A request that ignores the watermarks has lost its NON_BLOCK bit, and a blocking one never had it: neither
            # may take a HIGHATOMIC page.
            if pfn < 0 and alloc_flags & (ALLOC_OOM | ALLOC_NON_BLOCK):
                pfn = self._rmqueue_smallest(zone, order, HIGHATOMIC)
        if pfn >= 0:
            zone.nr_free -= 1 << order
            self.ledger.counts[FREE] -= 1 << order
        return pfn

    # -- giving back ----------------------------------------------------------------------------------------------

    def free_one_page(self, zone: Zone, pfn: int, order: int, migratetype: int) -> None:
        """Return a block to the buddy, merging it as far as it goes (__free_one_page); counts it as free."""
        flags = self.frames.flags_of
        block_of = self.frames.block_of
        zone.nr_free += 1 << order
        zone.pages_scanned = 0
        zone.all_unreclaimable = False
        start, end = zone.start_pfn, zone.end_pfn
        while order < MAX_ORDER:
            size = 1 << order
            buddy = pfn ^ size
            if buddy < start or buddy + size > end or not flags[buddy] & PG_BUDDY:
                break
            block = block_of[buddy]
            if block & _ORDER_MASK != order:
                break
            if order >= zone.pageblock_order and not self._may_merge(zone, buddy, migratetype):
                break
            buddy_type = block >> _TYPE_SHIFT
            del zone.free_lists[order][buddy_type][buddy]
            flags[buddy] = 0
            if buddy_type == HIGHATOMIC:
                zone.nr_highatomic_free -= size
            pfn &= buddy
            order += 1
        free_list = zone.free_lists[order][migratetype]
        free_list[pfn] = None
        # buddy_merge_likely: if the next-higher buddy is free too, better left to merge
        higher = (pfn & ~(1 << order)) ^ (2 << order)
        if (
            order >= MAX_ORDER - 1
            or higher < start
            or higher + (2 << order) > end
            or not flags[higher] & PG_BUDDY
            or block_of[higher] & _ORDER_MASK != order + 1
        ):
            free_list.move_to_end(pfn, last=False)
        flags[pfn] = PG_BUDDY
        block_of[pfn] = order | migratetype << _TYPE_SHIFT
        if migratetype == HIGHATOMIC:
            zone.nr_highatomic_free += 1 << order

    @staticmethod
    def _may_merge(zone: Zone, buddy: int, migratetype: int) -> bool:
        """At and above a pageblock only mergeable types merge across; HIGHATOMIC merges with itself only."""
        buddy_type = zone.pageblock_type(buddy)
        return buddy_type == migratetype or HIGHATOMIC not in (buddy_type, migratetype)

    def free_pages(self, zone: Zone, cpu: int, pfn: int, order: int) -> None:
        """Free a block that its owner has let go of (__free_pages): to the per-cpu list or straight to the buddy."""
        self._disown(pfn, 1 << order)
        self.vmstat.pgfree += 1 << order
        if order > PAGE_ALLOC_COSTLY_ORDER:
            self.frames.owner[pfn : pfn + (1 << order)] = FREE
            self.ledger.counts[FREE] += 1 << order
            self.free_one_page(zone, pfn, order, zone.pageblock_type(pfn))
            return
        if order:
            self.frames.owner[pfn : pfn + (1 << order)] = PCP
        else:
            self.frames.owner_of[pfn] = PCP
        self._free_unref_page_commit(zone, cpu, pfn, order)

    def _disown(self, pfn: int, nr_pages: int) -> None:
        frames = self.frames
        owner = frames.owner_of[pfn]
        ledger = self.ledger
        ledger.counts[owner] -= nr_pages
        flags = frames.flags_of[pfn]
        if flags & PG_RESERVE:
            ledger.returned_reserve(owner, nr_pages)
        assert not flags & (PG_BUDDY | PG_PCP), f"frame {pfn} is freed twice"
        frames.flags_of[pfn] = 0

    def free_page_list(self, pfns: Sequence[int], zones: Iterable[Zone], cpu: int) -> None:
        """Free single pages in order (free_unref_page_list): what reclaim and munmap give back.

        All pages must have been disowned together by :meth:`disown_pages`.
        """
        self.vmstat.pgfree += len(pfns)
        zone_list = list(zones)
        if len(zone_list) > 1:
            for pfn in pfns:
                zone = next(z for z in zone_list if pfn < z.end_pfn)
                self._free_unref_page_commit(zone, cpu, pfn, 0)
            return
        zone = zone_list[0]
        pcp = zone.pcp[cpu]
        high = min(pcp.batch << 2, pcp.high) if zone.reclaim_active else pcp.high
        pageblocks, shift, first = zone.pageblocks, zone.pageblock_order, zone.start_pfn >> zone.pageblock_order
        flags_of, block_of, counts = self.frames.flags_of, self.frames.block_of, self.ledger.counts
        # the same as _free_unref_page_commit for each: this is where all reclaimed memory passes
        start = pindex = 0
        while start < len(pfns):
            # so many make the lists full
            part = pfns[start : start + max(1, high - pcp.count)]
            types = [pageblocks[(pfn >> shift) - first] for pfn in part]
            for pfn, migratetype in zip(part, types, strict=True):
                flags_of[pfn] = PG_PCP
                block_of[pfn] = migratetype
            pindex = types[-1] if types[-1] < NR_PCPTYPES else MOVABLE
            if types.count(types[-1]) == len(types):
                pcp.lists[pindex].extendleft(part)
            else:
                for pfn, migratetype in zip(part, types, strict=True):
                    pcp.lists[migratetype if migratetype < NR_PCPTYPES else MOVABLE].appendleft(pfn)
            pcp.count += len(part)
            counts[PCP] += len(part)
            start += len(part)
            if pcp.count >= high:
                self._free_pcppages_bulk(zone, pcp, self._nr_pcp_free(pcp, high, free_high=False), pindex)

    def _free_unref_page_commit(self, zone: Zone, cpu: int, pfn: int, order: int) -> None:
        pcp = zone.pcp[cpu]
        migratetype = zone.pageblock_type(pfn)
        # a HIGHATOMIC page waits on the MOVABLE list but goes home to its own when drained
        pindex = order * NR_PCPTYPES + (migratetype if migratetype < NR_PCPTYPES else MOVABLE)
        self.frames.flags_of[pfn] = PG_PCP
        self.frames.block_of[pfn] = migratetype
        pcp.lists[pindex].appendleft(pfn)
        pcp.count += 1 << order
        self.ledger.counts[PCP] += 1 << order
        free_high = pcp.free_factor > 0 and order > 0
        high = 0 if free_high else pcp.high
        if high and zone.reclaim_active:
            high = min(pcp.batch << 2, high)
        if pcp.count >= high:
            self._free_pcppages_bulk(zone, pcp, self._nr_pcp_free(pcp, high, free_high=free_high), pindex)

    @staticmethod
    def _nr_pcp_free(pcp: PerCpuPages, high: int, *, free_high: bool) -> int:
        """How many pages to give back at once (nr_pcp_free); doubles while only frees happen."""
        if free_high:
            return pcp.count
        if high < pcp.batch:
            return 1
        max_nr_free = high - pcp.batch
        batch = pcp.batch << pcp.free_factor
        if batch < max_nr_free and pcp.free_factor < 5:
            pcp.free_factor += 1
        return min(max(batch, pcp.batch), max(max_nr_free, pcp.batch))

    def _free_pcppages_bulk(self, zone: Zone, pcp: PerCpuPages, count: int, pindex: int) -> None:
        """Return ``count`` pages to the buddy, list by list from the tails, starting with the list just used."""
        count = min(pcp.count, count)
        nr_lists = len(pcp.lists)
        index = pindex - 1
        frames = self.frames
        block_of = frames.block_of
        owner = frames.owner
        freed = 0
        while count > 0:
            index += 1
            if index >= nr_lists:
                index = 0
            pcp_list = pcp.lists[index]
            order = index // NR_PCPTYPES
            size = 1 << order
            while pcp_list and count > 0:
                pfn = pcp_list.pop()
                migratetype = block_of[pfn]
                frames.flags_of[pfn] = 0
                if order:
                    owner[pfn : pfn + size] = FREE
                else:
                    frames.owner_of[pfn] = FREE
                self.free_one_page(zone, pfn, order, migratetype)
                count -= size
                freed += size
        pcp.count -= freed
        self.ledger.counts[PCP] -= freed
        self.ledger.counts[FREE] += freed

    def drain_all_pages(self, zones: Iterable[Zone]) -> None:
        """Give all per-cpu pages back (drain_all_pages).

        # MODEL: at once on every CPU; the kernel sends a work item to each and waits.
        """
        for zone in zones:
            for cpu in range(len(zone.pcp)):
                self.drain_pages(zone, cpu)

    def drain_pages(self, zone: Zone, cpu: int) -> None:
        """Give the per-cpu pages of one CPU back (drain_pages_zone)."""
        pcp = zone.pcp[cpu if cpu < len(zone.pcp) else 0]
        while pcp.count:
            self._free_pcppages_bulk(zone, pcp, min(pcp.count, pcp.batch << 5), 0)

    # -- handing out ----------------------------------------------------------------------------------------------

    def own(self, pfn: int, order: int, owner: int, *, pfmemalloc: bool, reserve: bool) -> None:
        """Write the new owner into a block that was taken (prep_new_page)."""
        frames = self.frames
        size = 1 << order
        flags = (PG_PFMEMALLOC if pfmemalloc else 0) | (PG_RESERVE if reserve else 0)
        frames.flags_of[pfn] = flags
        frames.block_of[pfn] = order
        if order:
            frames.owner[pfn : pfn + size] = owner
            # only a head says what order it is of
            frames.block[pfn + 1 : pfn + size] = 0
        else:
            frames.owner_of[pfn] = owner
        self.ledger.counts[owner] += size
        if reserve:
            self.ledger.drew_reserve(owner, size)
