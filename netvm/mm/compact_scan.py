"""The two scanners of compaction: pages that could move, from a zone's start up, and free ones, from its end down.

Mirrors ``isolate_migratepages``, ``isolate_migratepages_block``, ``isolate_freepages``, ``isolate_freepages_block``,
``fast_isolate_freepages``, ``fast_isolate_around`` and ``fast_find_migrateblock`` (mm/compaction.c of 6.1), and
``__isolate_free_page`` (mm/page_alloc.c). The migration scanner takes 32 pages at a time, and what is left of a
pageblock at once when it comes to it for the second time. The free scanner takes whole free blocks out of movable
pageblocks, as long as the min mark is kept, and looks through the free lists for a good one before it walks.

A run of frames is looked at as an array, and only pages that could move are met one by one.
"""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from netvm.mm.compact_control import (
    COMPACT_CLUSTER_MAX,
    CompactControl,
    MigrateMode,
    ZoneCompaction,
)
from netvm.mm.frames import PG_BUDDY, PG_DIRTY, PG_LOCKED, PG_LRU, PG_PCP, PG_SWAPCACHE, PG_WRITEBACK
from netvm.mm.gfp import ALLOC_WMARK_MIN, GFP_FS
from netvm.mm.ledger import FREE, PCP
from netvm.mm.zone import HIGHATOMIC, MOVABLE, PAGE_ALLOC_COSTLY_ORDER, Zone
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.mm.compaction import Compaction

__all__ = ["Scanners"]

_ORDER_MASK: Final = 0x0F
_DIRTY_AND_LOCKED: Final = PG_DIRTY | PG_LOCKED
_U16 = np.uint16


class Walk(NamedTuple):
    """What the migration scanner did in a pageblock."""

    end_pfn: int
    taken: list[int]
    """Pages that can move, in order."""
    nr_scanned: int
    first_pfn: int = -1
    """First page that was taken, given back or not; -1 if none was."""


class Scanners:
    """Both scanners of one host."""

    def __init__(self, compaction: "Compaction") -> None:
        self.compaction = compaction
        self.pages = compaction.pages
        self.frames = compaction.pages.frames
        self.buddy = compaction.pages.buddy
        self.ledger = compaction.pages.ledger
        self.owner = self.ledger.owner("compaction")
        """Holds free pages between the free scanner and the page that moves in."""
        self.vmstat = compaction.vmstat

    def _charge(self, task: Task, nr_scanned: int) -> None:
        self.pages.charge(task, nr_scanned * self.pages.costs.compact_scan)

    # -- pages that could move ------------------------------------------------------------------------------------

    def isolate_migratepages(self, task: Task, cc: CompactControl, state: ZoneCompaction) -> bool:
        """Isolate pages of the next pageblock that may be looked at; False if it had none (isolate_migratepages)."""
        low_pfn = self._fast_find_migrateblock(cc, state)
        fast_find = low_pfn != cc.migrate_pfn and not cc.fast_search_fail
        block_end = state.block_end(low_pfn)
        zone = cc.zone
        while block_end <= cc.free_pfn:
            at_start = low_pfn == state.block_start(low_pfn)
            passed = at_start and not fast_find and self._is_skipped(cc, state, low_pfn)
            if not passed and not self._suitable_migration_source(cc, zone.pageblock_type(low_pfn)):
                state.update_cached_migrate(block_end, cc.mode)
                passed = True
            if not passed:
                self._isolate_migratepages_block(task, cc, state, low_pfn, block_end)
                break
            fast_find = False
            cc.migrate_pfn = low_pfn = block_end
            block_end += 1 << zone.pageblock_order
        return bool(cc.migrate_pages)

    @staticmethod
    def _is_skipped(cc: CompactControl, state: ZoneCompaction, pfn: int) -> bool:
        return not cc.ignore_skip_hint and state.is_skipped(pfn)

    @staticmethod
    def _suitable_migration_source(cc: CompactControl, migratetype: int) -> bool:
        """Who allocates and will not wait only frees pageblocks of its own kind (suitable_migration_source)."""
        if cc.mode != MigrateMode.ASYNC or not cc.direct:
            return True
        return migratetype == cc.migratetype

    def _isolate_migratepages_block(
        self, task: Task, cc: CompactControl, state: ZoneCompaction, start_pfn: int, end_pfn: int
    ) -> None:
        """Isolate pages from a place in a pageblock on (isolate_migratepages_block)."""
        at_start = start_pfn == state.block_start(start_pfn)
        if at_start and self._is_skipped(cc, state, start_pfn):
            # what the fast search has found, it has marked to be passed over: until 6.3 nothing comes of it
            walk = Walk(end_pfn, [], 1)
        elif cc.direct and cc.mode == MigrateMode.ASYNC:
            walk = self._walk_blocks(cc, start_pfn, end_pfn)
        else:
            walk = self._walk(cc, start_pfn, end_pfn)
        low_pfn, taken = walk.end_pfn, walk.taken
        aligned = not start_pfn & (1 << cc.zone.pageblock_order) - 1
        if walk.first_pfn == start_pfn and aligned and not cc.ignore_skip_hint:
            # whoever comes after need not look here until the hints are reset (test_and_set_skip)
            state.set_skip(start_pfn)
        if low_pfn == end_pfn and (not taken or cc.rescan):
            if at_start and walk.first_pfn < 0:
                state.set_skip(start_pfn)
            state.update_cached_migrate(low_pfn, cc.mode)
        if taken:
            self.compaction.migration.isolate(np.array(taken, dtype=np.intp))
            self.vmstat.compact_isolated += len(taken)
        cc.migrate_pages += taken
        cc.nr_migrate_scanned += walk.nr_scanned
        self._charge(task, walk.nr_scanned)
        cc.migrate_pfn = low_pfn
        self.compaction.trace.isolated_migratepages(task, start_pfn, low_pfn, walk.nr_scanned, len(taken))

    def _walk(self, cc: CompactControl, start_pfn: int, end_pfn: int) -> Walk:
        """Take pages in order, 32 at most, or all that are there when it is a rescan."""
        limit = end_pfn - start_pfn if cc.rescan else COMPACT_CLUSTER_MAX
        taken: list[int] = []
        for offset in np.flatnonzero(self.frames.flags[start_pfn:end_pfn] & _U16(PG_LRU)).tolist():
            pfn = start_pfn + offset
            if self._can_isolate(cc, pfn):
                taken.append(pfn)
                if len(taken) >= limit:
                    end_pfn = pfn + 1
                    break
        return Walk(end_pfn, taken, self._nr_looked_at(start_pfn, end_pfn), taken[0] if taken else -1)

    def _walk_blocks(self, cc: CompactControl, start_pfn: int, end_pfn: int) -> Walk:
        """Take the pages of the first aligned block of the order that is wanted, if all in it is free or can move.

        A page that cannot move spoils its block: what was taken there is let go, and the walk goes on behind it.
        """
        frames = self.frames
        size = 1 << cc.order
        limit = end_pfn - start_pfn if cc.rescan else COMPACT_CLUSTER_MAX
        pfn = start_pfn
        nr_scanned, first_pfn = 0, -1
        taken: list[int] = []
        next_skip = (pfn & -size) + size
        while pfn < end_pfn:
            if pfn >= next_skip:
                if taken:
                    break
                next_skip = (pfn & -size) + size
            nr_scanned += 1
            state = frames.flags_of[pfn]
            if state & PG_BUDDY:
                pfn += 1 << (frames.block_of[pfn] & _ORDER_MASK)
            elif state & PG_LRU and self._can_isolate(cc, pfn):
                first_pfn = pfn if first_pfn < 0 else first_pfn
                taken.append(pfn)
                pfn += 1
                if len(taken) >= limit:
                    break
            else:
                taken = []
                pfn = max(pfn + 1, next_skip)
                next_skip = (pfn & -size) + size
        return Walk(min(pfn, end_pfn), taken, nr_scanned, first_pfn)

    def _nr_looked_at(self, start_pfn: int, end_pfn: int) -> int:
        """Return how many frames a walk looks at: of a free block and of one that is in use only the first.

        Until 6.4, that is; since then the counters have all frames that are passed.
        """
        frames = self.frames
        flags, block, owner = (column[start_pfn:end_pfn] for column in (frames.flags, frames.block, frames.owner))
        nr = end_pfn - start_pfn
        in_use = (owner > PCP) & (block > 0) & (flags & _U16(PG_BUDDY | PG_PCP) == 0)
        heads = np.flatnonzero(in_use | (flags & _U16(PG_BUDDY) != 0))
        sizes = 1 << (block[heads] & np.uint8(_ORDER_MASK)).astype(np.intp)
        return nr - int((np.minimum(heads + sizes, nr) - heads - 1).sum())

    def _can_isolate(self, cc: CompactControl, pfn: int) -> bool:
        """Whether a page on a list may be tried: not under writeback, and outside of file systems if they are barred.

        # MODEL: all file systems can move a dirty page; vm.compact_unevictable_allowed is 1, the default.
        """
        state = self.frames.flags_of[pfn]
        if state & _DIRTY_AND_LOCKED == _DIRTY_AND_LOCKED:
            return False
        cached = state & PG_SWAPCACHE or self.frames.mapping_of[pfn] < 0
        if state & PG_WRITEBACK or (not cached and self.frames.pins_of[pfn]):
            return False
        return bool(cc.gfp & GFP_FS) or not cached

    def _fast_find_migrateblock(self, cc: CompactControl, state: ZoneCompaction) -> int:
        """Return a pageblock that has a free block already, for a costly order (fast_find_migrateblock)."""
        zone = cc.zone
        pfn = cc.migrate_pfn
        if cc.ignore_skip_hint or cc.rescan or cc.order <= PAGE_ALLOC_COSTLY_ORDER:
            return pfn
        if pfn not in (zone.start_pfn, state.block_start(pfn)) or (cc.direct and cc.migratetype != MOVABLE):
            return pfn
        distance = cc.free_pfn - pfn >> 1
        if pfn != zone.start_pfn:
            distance >>= 2
        high_pfn = state.block_start(pfn + distance)
        limit = self._freelist_scan_limit(cc)
        nr_scanned, found = 0, -1
        for order in range(cc.order - 1, PAGE_ALLOC_COSTLY_ORDER - 1, -1):
            if found >= 0 or nr_scanned >= limit:
                break
            free_list = zone.free_lists[order][MOVABLE]
            for free_pfn in list(islice(free_list, limit + 1)):
                nr_scanned += 1
                if nr_scanned > limit:
                    _move_freelist_tail(free_list, free_pfn)
                    break
                if free_pfn < high_pfn and not state.is_skipped(free_pfn):
                    _move_freelist_tail(free_list, free_pfn)
                    self._update_fast_start_pfn(cc, free_pfn)
                    found = state.block_start(free_pfn)
                    cc.fast_search_fail = 0
                    state.set_skip(free_pfn)
                    break
        cc.nr_migrate_scanned += nr_scanned
        if found >= 0:
            return found
        cc.fast_search_fail += 1
        if cc.fast_start_pfn > 0:
            cc.migrate_pfn = cc.fast_start_pfn
            cc.fast_start_pfn = -1
        return cc.migrate_pfn

    @staticmethod
    def _update_fast_start_pfn(cc: CompactControl, pfn: int) -> None:
        if cc.fast_start_pfn >= 0:
            cc.fast_start_pfn = min(cc.fast_start_pfn or pfn, pfn)

    @staticmethod
    def _freelist_scan_limit(cc: CompactControl) -> int:
        return (COMPACT_CLUSTER_MAX >> cc.fast_search_fail) + 1

    # -- free pages -----------------------------------------------------------------------------------------------

    def compaction_alloc(self, task: Task, cc: CompactControl, state: ZoneCompaction) -> int:
        """Return a free frame for a page that moves, or -1 (compaction_alloc)."""
        if not cc.free_pages:
            self._isolate_freepages(task, cc, state)
        return cc.free_pages.pop() if cc.free_pages else -1

    def release_freepages(self, cc: CompactControl) -> int:
        """Free what was not used; return the highest of these frames, -1 if there were none (release_freepages)."""
        if not cc.free_pages:
            return -1
        highest = max(cc.free_pages)
        for pfn in reversed(cc.free_pages):
            self.pages.free_pages(pfn, 0)
        cc.free_pages = []
        return highest

    def _isolate_freepages(self, task: Task, cc: CompactControl, state: ZoneCompaction) -> None:
        """Isolate as many free pages as wait to move, if there are (isolate_freepages)."""
        self._fast_isolate_freepages(task, cc, state)
        if cc.free_pages:
            return
        zone = cc.zone
        nr_block = 1 << zone.pageblock_order
        pfn = cc.free_pfn
        block_start = state.block_start(pfn)
        block_end = min(state.block_end(pfn), zone.end_pfn)
        low_pfn = state.block_end(cc.migrate_pfn)
        stride = COMPACT_CLUSTER_MAX if cc.mode == MigrateMode.ASYNC else 1
        while block_start >= low_pfn:
            if self._suitable_migration_target(cc, block_start) and not self._is_skipped(cc, state, block_start):
                pfn, nr_isolated = self._isolate_freepages_block(task, cc, pfn, block_end, stride)
                if pfn == block_end:
                    state.set_skip(block_start)
                    state.cached_free_pfn = min(state.cached_free_pfn, block_start)
                if len(cc.free_pages) >= len(cc.migrate_pages):
                    if pfn >= block_end:
                        pfn = block_start - nr_block
                    break
                if pfn < block_end:
                    break
                stride = 1 if nr_isolated else min(COMPACT_CLUSTER_MAX, stride << 1)
            block_end = block_start
            block_start = pfn = block_start - nr_block
        cc.free_pfn = pfn

    def _suitable_migration_target(self, cc: CompactControl, block_start: int) -> bool:
        """Whether free pages of a pageblock may be used: it is movable, and not wholly free."""
        frames = self.frames
        is_free = frames.flags_of[block_start] & PG_BUDDY
        if is_free and frames.block_of[block_start] & _ORDER_MASK >= cc.zone.pageblock_order:
            return False
        return cc.ignore_block_suitable or cc.zone.pageblock_type(block_start) == MOVABLE

    def _isolate_freepages_block(
        self, task: Task, cc: CompactControl, start_pfn: int, end_pfn: int, stride: int
    ) -> tuple[int, int]:
        """Isolate free blocks from a place on; return where it ended and how many pages (isolate_freepages_block)."""
        frames = self.frames
        nr_scanned = nr_isolated = 0
        pfn = start_pfn
        found: list[int] = []
        while pfn < end_pfn:
            nr_scanned += 1
            state = frames.flags_of[pfn]
            if not state & PG_BUDDY:
                if stride > 1:
                    pfn += stride
                    continue
                # the next free block, over everything in between
                ahead = frames.flags[pfn:end_pfn] & _U16(PG_BUDDY)
                step = int(ahead.argmax()) if ahead.any() else end_pfn - pfn
                nr_scanned += self._nr_looked_at(pfn, pfn + step) - 1
                pfn += step
                continue
            order = frames.block_of[pfn] & _ORDER_MASK
            if not self.isolate_free_page(cc.zone, pfn, order):
                break
            size = 1 << order
            found += range(pfn, pfn + size)
            nr_isolated += size
            nr_scanned += size - 1
            pfn += size
            if len(cc.migrate_pages) <= len(cc.free_pages) + nr_isolated:
                break
            pfn += stride - 1
        pfn = min(pfn, end_pfn)
        self._isolated_free(task, cc, found, nr_scanned)
        self.compaction.trace.isolated_freepages(task, start_pfn, pfn, nr_scanned, nr_isolated)
        return pfn, nr_isolated

    def _isolated_free(self, task: Task, cc: CompactControl, found: list[int], nr_scanned: int) -> None:
        cc.free_pages += found
        cc.nr_free_scanned += nr_scanned
        self.vmstat.compact_isolated += len(found)
        self._charge(task, nr_scanned)

    def isolate_free_page(self, zone: Zone, pfn: int, order: int) -> bool:
        """Take a free block off its list if the min mark, boost apart, is kept then (__isolate_free_page)."""
        size = 1 << order
        if not zone.watermark_ok(0, zone.watermark[ALLOC_WMARK_MIN] + size, 0, 0, zone.nr_free):
            return False
        self.buddy.pageblocks.del_block(zone, pfn)
        zone.nr_free -= size
        self.ledger.counts[FREE] -= size
        self.ledger.counts[self.owner] += size
        self.frames.owner[pfn : pfn + size] = self.owner
        self.frames.block[pfn : pfn + size] = 0
        if order >= zone.pageblock_order - 1:
            for start in range(pfn, pfn + size, 1 << zone.pageblock_order):
                if zone.pageblock_type(start) != HIGHATOMIC:
                    zone.set_pageblock_type(start, MOVABLE)
        return True

    def _fast_isolate_freepages(self, task: Task, cc: CompactControl, state: ZoneCompaction) -> None:
        """Look through the free lists for a block far up (fast_isolate_freepages)."""
        if cc.order <= 0:
            return
        zone = cc.zone
        limit = max(1, self._freelist_scan_limit(cc) >> 1)
        scan_start = cc.free_pfn >= state.init_free_pfn
        if scan_start:
            limit = 1 << zone.pageblock_order >> 1
        distance = cc.free_pfn - cc.migrate_pfn
        min_pfn = state.block_start(cc.free_pfn - (distance >> 1))
        low_pfn = max(state.block_start(cc.free_pfn - (distance >> 2)), min_pfn)
        cc.search_order = min(cc.order - 1, cc.search_order)
        highest, nr_scanned, page = 0, 0, -1
        found: list[int] = []
        order = cc.search_order
        while page < 0 and order >= 0:
            free_list = zone.free_lists[order][MOVABLE]
            order_scanned, high_pfn, at = 0, -1, -1
            for pfn in reversed(free_list):
                order_scanned += 1
                highest = max(highest, state.block_start(pfn))
                if pfn >= low_pfn:
                    cc.fast_search_fail = 0
                    cc.search_order = order
                    page = at = pfn
                    break
                if pfn >= min_pfn and pfn > high_pfn:
                    high_pfn = pfn
                    limit >>= 1
                if order_scanned >= limit:
                    at = pfn
                    break
            nr_scanned += order_scanned
            if page < 0 and high_pfn >= 0:
                page = at = high_pfn
            if at >= 0:
                _move_freelist_head(free_list, at)
            if page >= 0:
                if self.isolate_free_page(zone, page, order):
                    found += range(page, page + (1 << order))
                    nr_scanned += (1 << order) - 1
                else:
                    # nothing can be isolated as free memory stands
                    order = cc.search_order + 1
                    page = -1
            if len(cc.free_pages) + len(found) >= len(cc.migrate_pages):
                break
            if order_scanned >= limit:
                limit = max(1, limit >> 1)
            order = self._next_search_order(cc, order)
        if page < 0:
            cc.fast_search_fail += 1
            if scan_start:
                if highest >= min_pfn:
                    page = cc.free_pfn = highest
                elif cc.direct:
                    page = cc.free_pfn = min_pfn
        if highest and highest >= state.cached_free_pfn:
            state.cached_free_pfn = highest - (1 << zone.pageblock_order)
        self._isolated_free(task, cc, found, nr_scanned)
        if page >= 0:
            self._fast_isolate_around(task, cc, state, page)

    @staticmethod
    def _next_search_order(cc: CompactControl, order: int) -> int:
        """Return the next smaller order, round and round, -1 when it is where it began."""
        order -= 1
        if order < 0:
            order = cc.order - 1
        if order == cc.search_order:
            cc.search_order -= 1
            if cc.search_order < 0:
                cc.search_order = cc.order - 1
            return -1
        return order

    def _fast_isolate_around(self, task: Task, cc: CompactControl, state: ZoneCompaction, pfn: int) -> None:
        """Take more from the pageblock of a block that was found (fast_isolate_around)."""
        if len(cc.free_pages) >= len(cc.migrate_pages) or (cc.direct and cc.mode == MigrateMode.ASYNC):
            return
        start = state.block_start(pfn)
        self._isolate_freepages_block(task, cc, start, min(state.block_end(pfn), cc.zone.end_pfn), 1)
        if len(cc.free_pages) < len(cc.migrate_pages):
            state.set_skip(pfn)


def _move_freelist_head(free_list: OrderedDict[int, None], pfn: int) -> None:
    """Turn a list so that a block is its head (move_freelist_head)."""
    for other in _up_to(pfn, reversed(free_list)):
        free_list.move_to_end(other, last=False)


def _move_freelist_tail(free_list: OrderedDict[int, None], pfn: int) -> None:
    """Turn a list so that a block is its tail (move_freelist_tail)."""
    for other in _up_to(pfn, free_list):
        free_list.move_to_end(other)


def _up_to(pfn: int, blocks: Iterable[int]) -> list[int]:
    """Return the blocks up to this one."""
    found = []
    for other in blocks:
        found.append(other)
        if other == pfn:
            break
    return found
