"""Pageblocks: which kind of memory lives where, who may steal, and the HIGHATOMIC reserve.

Mirrors the parts of mm/page_alloc.c of 6.1 that give pageblocks their migrate types: ``__rmqueue_fallback``,
``find_suitable_fallback``, ``steal_suitable_fallback``, ``move_freepages_block``, ``boost_watermark``,
``reserve_highatomic_pageblock`` and ``unreserve_highatomic_pageblock``.

A request whose own lists are empty takes the largest block of another type, so that what it breaks up stays together,
and claims the whole pageblock if half of it is free or of its kind. Such a steal mixes kinds of memory, and is what
raises the zone's boost. A high-order atomic request that succeeded turns its pageblock into a HIGHATOMIC one, which
nobody's fallback finds; only a reclaimer that got nothing gives it back.

A free list is an OrderedDict of block heads: both ends and any middle element in constant time. Only the head frame
of a free block says what it is (PG_BUDDY, its order, the migrate type of its list).
"""

from collections.abc import Sequence
from typing import Final

from netvm.fixes import Fixes
from netvm.mm.frames import PG_BUDDY, PG_LRU, Frames
from netvm.mm.gfp import ALLOC_KSWAPD, ALLOC_WMARK_HIGH
from netvm.mm.zone import HIGHATOMIC, MAX_ORDER, MOVABLE, RECLAIMABLE, UNMOVABLE, Zone

__all__ = ["FALLBACKS", "Pageblocks"]

FALLBACKS: Final = {
    UNMOVABLE: (RECLAIMABLE, MOVABLE),
    MOVABLE: (RECLAIMABLE, UNMOVABLE),
    RECLAIMABLE: (UNMOVABLE, MOVABLE),
}
"""Whom a migrate type may steal from, in order. HIGHATOMIC is in nobody's list."""

_ORDER_MASK: Final = 0x0F
_TYPE_SHIFT: Final = 4


class Pageblocks:
    """The free lists and the types of the pageblocks of one host."""

    __slots__ = ("boost_factor", "fixes", "frames")

    def __init__(self, frames: Frames, fixes: Fixes, *, boost_factor: int) -> None:
        self.frames = frames
        self.fixes = fixes
        self.boost_factor = boost_factor if fixes.watermark_boost else 0

    # -- single blocks in and out of a list -----------------------------------------------------------------------

    def add_block(self, zone: Zone, pfn: int, order: int, migratetype: int, *, tail: bool = False) -> None:
        """Put a free block on a list, at its head unless ``tail``; the caller counts it."""
        free_list = zone.free_lists[order][migratetype]
        free_list[pfn] = None
        if not tail:
            free_list.move_to_end(pfn, last=False)
        self.frames.flags_of[pfn] = PG_BUDDY
        self.frames.block_of[pfn] = order | migratetype << _TYPE_SHIFT
        if migratetype == HIGHATOMIC:
            zone.nr_highatomic_free += 1 << order

    def del_block(self, zone: Zone, pfn: int) -> int:
        """Take a free block off its list and return its order."""
        block = self.frames.block_of[pfn]
        order = block & _ORDER_MASK
        migratetype = block >> _TYPE_SHIFT
        del zone.free_lists[order][migratetype][pfn]
        self.frames.flags_of[pfn] = 0
        if migratetype == HIGHATOMIC:
            zone.nr_highatomic_free -= 1 << order
        return order

    # -- fallback -------------------------------------------------------------------------------------------------

    def rmqueue_fallback(self, zone: Zone, order: int, start_type: int, alloc_flags: int) -> bool:
        """Move a block of another type to ``start_type``'s list (_rmqueue_fallback); whether one was found."""
        for current in range(MAX_ORDER, order - 1, -1):
            fallback = self._find_suitable_fallback(zone, current, start_type)
            if fallback < 0:
                continue
            can_steal = self._can_steal(zone, current, start_type)
            if not can_steal and start_type == MOVABLE and current > order:
                for smaller in range(order, MAX_ORDER + 1):
                    fallback = self._find_suitable_fallback(zone, smaller, start_type)
                    if fallback >= 0:
                        current = smaller
                        break
            pfn = next(iter(zone.free_lists[current][fallback]))
            self._steal_suitable_fallback(zone, pfn, current, start_type, alloc_flags, can_steal=can_steal)
            return True
        return False

    @staticmethod
    def _find_suitable_fallback(zone: Zone, order: int, start_type: int) -> int:
        lists = zone.free_lists[order]
        for fallback in FALLBACKS[start_type]:
            if lists[fallback]:
                return fallback
        return -1

    @staticmethod
    def _can_steal(zone: Zone, order: int, start_type: int) -> bool:
        """Whether the whole pageblock may be claimed (can_steal_fallback)."""
        return order >= zone.pageblock_order or order >= zone.pageblock_order // 2 or start_type != MOVABLE

    def _steal_suitable_fallback(
        self, zone: Zone, pfn: int, order: int, start_type: int, alloc_flags: int, *, can_steal: bool
    ) -> None:
        """Move a block, or all free blocks of its pageblock, to ``start_type`` (steal_suitable_fallback)."""
        old_type = zone.pageblock_type(pfn)
        if old_type == HIGHATOMIC:
            self._move_block(zone, pfn, start_type)
            return
        if order >= zone.pageblock_order:
            for block in range(pfn, pfn + (1 << order), 1 << zone.pageblock_order):
                zone.set_pageblock_type(block, start_type)
            self._move_block(zone, pfn, start_type)
            return
        if self.boost_watermark(zone) and alloc_flags & ALLOC_KSWAPD:
            zone.wmark_boosted_flag = True
        if not can_steal:
            self._move_block(zone, pfn, start_type)
            return
        nr_free, nr_movable = self._move_freepages_block(zone, pfn, start_type)
        if start_type == MOVABLE:
            nr_alike = nr_movable
        elif old_type == MOVABLE:
            nr_alike = (1 << zone.pageblock_order) - (nr_free + nr_movable)
        else:
            nr_alike = 0
        if not nr_free:
            self._move_block(zone, pfn, start_type)
            return
        if nr_free + nr_alike >= 1 << (zone.pageblock_order - 1):
            zone.set_pageblock_type(pfn, start_type)

    def _move_block(self, zone: Zone, pfn: int, migratetype: int) -> None:
        """Move one free block to the tail of another type's list."""
        order = self.del_block(zone, pfn)
        self.add_block(zone, pfn, order, migratetype, tail=True)

    def _move_freepages_block(self, zone: Zone, pfn: int, migratetype: int) -> tuple[int, int]:
        """Move all free blocks of a pageblock to a type's list tail; return pages moved and movable pages met.

        A pageblock that the zone ends in is left alone, one it begins in is gone over from the page given.
        """
        start = pfn & -(1 << zone.pageblock_order)
        end = start + (1 << zone.pageblock_order)
        if start < zone.start_pfn:
            start = pfn
        if end > zone.end_pfn:
            return 0, 0
        flags = self.frames.flags_of
        nr_free = nr_movable = 0
        while start < end:
            if flags[start] & PG_BUDDY:
                order = self.del_block(zone, start)
                self.add_block(zone, start, order, migratetype, tail=True)
                nr_free += 1 << order
                start += 1 << order
                continue
            if flags[start] & PG_LRU:
                nr_movable += 1
            start += 1
        return nr_free, nr_movable

    def boost_watermark(self, zone: Zone) -> bool:
        """Raise the zone's boost by a pageblock, up to its maximum (boost_watermark); whether boosting is in force."""
        pageblock = 1 << zone.pageblock_order
        if not self.boost_factor or zone.managed < 4 * pageblock:
            return False
        max_boost = zone.watermark[ALLOC_WMARK_HIGH] * self.boost_factor // 10000
        if not max_boost:
            return False
        max_boost = max(pageblock, max_boost)
        zone.watermark_boost = min(zone.watermark_boost + pageblock, max_boost)
        return True

    # -- the high-order atomic reserve ----------------------------------------------------------------------------

    def reserve_highatomic_pageblock(self, zone: Zone, pfn: int) -> None:
        """Turn the pageblock of a high-order atomic allocation into a HIGHATOMIC one, within the cap."""
        if not self.fixes.highatomic_reserve:
            return
        pageblock = 1 << zone.pageblock_order
        if self.fixes.highatomic_exact_cap:
            if zone.managed // 100 < pageblock:
                return
            limit = -(-(zone.managed // 100) // pageblock) * pageblock
        else:
            limit = zone.managed // 100 + pageblock
        if zone.nr_reserved_highatomic >= limit or zone.pageblock_type(pfn) == HIGHATOMIC:
            return
        zone.nr_reserved_highatomic += pageblock
        zone.set_pageblock_type(pfn, HIGHATOMIC)
        self._move_freepages_block(zone, pfn, HIGHATOMIC)

    def unreserve_highatomic_pageblock(self, zones: Sequence[Zone], migratetype: int, *, force: bool) -> bool:
        """Give a HIGHATOMIC pageblock of the highest zone that has one back to ordinary use; whether pages moved.

        ``zones`` are the request's, lowest first. A zone's last one is kept unless forced.
        """
        for zone in reversed(zones):
            pageblock = 1 << zone.pageblock_order
            if not force and zone.nr_reserved_highatomic <= pageblock:
                continue
            for lists in zone.free_lists:
                if not lists[HIGHATOMIC]:
                    continue
                pfn = next(iter(lists[HIGHATOMIC]))
                if zone.pageblock_type(pfn) == HIGHATOMIC:
                    zone.nr_reserved_highatomic -= min(pageblock, zone.nr_reserved_highatomic)
                zone.set_pageblock_type(pfn, migratetype)
                nr_free, _ = self._move_freepages_block(zone, pfn, migratetype)
                if nr_free:
                    return True
        return False
