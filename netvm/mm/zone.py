"""Zones and the node: how physical memory is divided and how much of it may be taken.

Mirrors ``struct zone``, ``struct pglist_data`` and the parts of mm/page_alloc.c that set them up: watermarks from
``min_free_kbytes`` and ``watermark_scale_factor`` (__setup_per_zone_wmarks), ``lowmem_reserve``
(setup_per_zone_lowmem_reserve), the default of ``min_free_kbytes`` (calculate_min_free_kbytes), per-cpu list sizes
(zone_batchsize, zone_highsize), and the test itself, the reserve ladder of ``__zone_watermark_ok``.

Every mark that is *used* is the stored mark plus ``watermark_boost``; on small machines with large pageblocks the
boost is the greater part. Zones are listed lowest first; only populated zones take part in allocation.

# MODEL: one node; no CMA, no ZONE_DEVICE memory, no highmem.
"""

import math
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Final

from netvm.fixes import Fixes
from netvm.mm.gfp import (
    ALLOC_HIGHATOMIC,
    ALLOC_MIN_RESERVE,
    ALLOC_NON_BLOCK,
    ALLOC_OOM,
    ALLOC_RESERVES,
    ALLOC_WMARK_HIGH,
    ALLOC_WMARK_LOW,
    ALLOC_WMARK_MIN,
)

__all__ = [
    "HIGHATOMIC",
    "MAX_ORDER",
    "MOVABLE",
    "NR_MIGRATETYPES",
    "NR_PCPTYPES",
    "PAGE_ALLOC_COSTLY_ORDER",
    "RECLAIMABLE",
    "UNMOVABLE",
    "ZONE_INDEX",
    "ZONE_MOVABLE",
    "ZONE_NORMAL",
    "Node",
    "PerCpuPages",
    "Zone",
    "adjust_memalloc_reserve",
    "calculate_min_free_kbytes",
    "setup_lowmem_reserve",
    "setup_watermarks",
    "zone_batchsize",
]

MAX_ORDER: Final = 10
"""Largest block: 1024 pages."""
PAGE_ALLOC_COSTLY_ORDER: Final = 3

UNMOVABLE: Final = 0
MOVABLE: Final = 1
RECLAIMABLE: Final = 2
HIGHATOMIC: Final = 3
NR_PCPTYPES: Final = 3
NR_MIGRATETYPES: Final = 4

ZONE_INDEX: Final = {"DMA": 0, "DMA32": 1, "Normal": 2, "Movable": 3}
ZONE_NORMAL: Final = 2
ZONE_MOVABLE: Final = 3

_LADDER: Final = ALLOC_MIN_RESERVE | ALLOC_NON_BLOCK | ALLOC_OOM
EXTFRAG_THRESHOLD: Final = 500
"""vm.extfrag_threshold."""
MIN_FREE_KBYTES_FLOOR: Final = 128
MIN_FREE_KBYTES_CEILING: Final = 262144


class PerCpuPages:
    """The per-cpu lists of one CPU in one zone (``struct per_cpu_pages``), and its sizes."""

    __slots__ = ("batch", "count", "free_factor", "high", "lists")

    def __init__(self, batch: int, high: int) -> None:
        self.batch = batch
        self.high = high
        # invariant: base pages over all lists
        self.count = 0
        self.free_factor = 0
        self.lists: list[deque[int]] = [deque() for _ in range((PAGE_ALLOC_COSTLY_ORDER + 1) * NR_PCPTYPES)]
        """By order * NR_PCPTYPES + migrate type; the left end is the head."""


class Zone:
    """One zone."""

    __slots__ = (
        "all_unreclaimable",
        "end_pfn",
        "free_lists",
        "highatomic_free_only",
        "index",
        "lowmem_reserve",
        "managed",
        "name",
        "nr_free",
        "nr_highatomic_free",
        "nr_reserved_highatomic",
        "nr_write_pending",
        "pageblock_order",
        "pageblocks",
        "pages_emerg",
        "pages_scanned",
        "pcp",
        "present",
        "privileged",
        "reclaim_active",
        "reserve_ladder",
        "start_pfn",
        "vmstat_name",
        "watermark",
        "watermark_boost",
        "wmark_boosted_flag",
    )

    def __init__(
        self,
        *,
        name: str,
        start_pfn: int,
        present: int,
        managed: int,
        pageblock_order: int,
        fixes: Fixes,
        spanned: int | None = None,
    ) -> None:
        assert 0 < managed <= present
        assert spanned is None or spanned >= present
        self.name = name
        self.vmstat_name = name.lower()
        """As in the keys of /proc/vmstat."""
        self.index = ZONE_INDEX[name]
        self.start_pfn = start_pfn
        self.end_pfn = start_pfn + (present if spanned is None else spanned)
        self.present = present
        self.managed = managed
        self.pageblock_order = pageblock_order
        self.nr_free = 0
        """NR_FREE_PAGES: pages in the buddy lists (not those on per-cpu lists)."""
        self.pages_scanned = 0
        """Pages reclaim has taken off the lists since one of the zone was freed; counted by kernels before 4.7."""
        self.all_unreclaimable = False
        """Kswapd has scanned the zone so often in vain that reclaim leaves it alone, until a page of it is freed."""
        self.nr_highatomic_free = 0
        self.free_lists: list[list[OrderedDict[int, None]]] = [
            [OrderedDict() for _ in range(NR_MIGRATETYPES)] for _ in range(MAX_ORDER + 1)
        ]
        """``free_lists[order][migratetype]``: heads of free blocks, first is the list's head."""
        nr_blocks = ((self.end_pfn - 1) >> pageblock_order) - (start_pfn >> pageblock_order) + 1
        self.pageblocks = bytearray([MOVABLE]) * nr_blocks
        """Migrate type of each pageblock."""
        self.watermark = [0, 0, 0]
        """Stored min, low, high; add :attr:`watermark_boost` before use."""
        self.watermark_boost = 0
        self.wmark_boosted_flag = False
        """ZONE_BOOSTED_WATERMARK: kswapd is to be woken for the boost."""
        self.reclaim_active = False
        """ZONE_RECLAIM_ACTIVE: kswapd is balancing; per-cpu lists stay short."""
        self.lowmem_reserve = [0, 0, 0, 0]
        self.pages_emerg = 0
        """Pages kept on top of every mark, which only an attempt without watermarks may use."""
        self.nr_reserved_highatomic = 0
        self.nr_write_pending = 0
        self.pcp: list[PerCpuPages] = []
        self.reserve_ladder = fixes.min_reserve_ladder
        # before 6.3 ALLOC_HARDER and ALLOC_OOM counted them, __GFP_HIGH by itself did not
        self.privileged = ALLOC_RESERVES if self.reserve_ladder else ALLOC_RESERVES & ~ALLOC_MIN_RESERVE
        """Who may count the free pages of HIGHATOMIC blocks."""
        self.highatomic_free_only = fixes.highatomic_free_only

    def pageblock_number(self, pfn: int) -> int:
        """Return which pageblock of the zone a frame is in."""
        return (pfn >> self.pageblock_order) - (self.start_pfn >> self.pageblock_order)

    def pageblock_type(self, pfn: int) -> int:
        """Return the migrate type of the pageblock a frame is in."""
        return self.pageblocks[self.pageblock_number(pfn)]

    def set_pageblock_type(self, pfn: int, migratetype: int) -> None:
        """Change the migrate type of the pageblock a frame is in."""
        self.pageblocks[self.pageblock_number(pfn)] = migratetype

    def wmark_pages(self, which: int) -> int:
        """Return a mark with its boost."""
        return self.watermark[which] + self.watermark_boost

    def min_wmark_pages(self) -> int:
        """Return the min mark with its boost."""
        return self.watermark[ALLOC_WMARK_MIN] + self.watermark_boost

    def high_wmark_pages(self) -> int:
        """Return the high mark with its boost."""
        return self.watermark[ALLOC_WMARK_HIGH] + self.watermark_boost

    def unusable_free(self, alloc_flags: int) -> int:
        """Return the free pages an attempt may not count (__zone_watermark_unusable_free)."""
        if alloc_flags & self.privileged:
            return 0
        return self.nr_highatomic_free if self.highatomic_free_only else self.nr_reserved_highatomic

    def reserve_floor(self, mark: int, alloc_flags: int) -> int:
        """Return what is left of a mark for an attempt with these privileges: the reserve ladder."""
        floor = mark
        if self.reserve_ladder:
            if alloc_flags & ALLOC_MIN_RESERVE:
                floor -= floor // 2
                if alloc_flags & ALLOC_NON_BLOCK:
                    floor -= floor // 4
            if alloc_flags & ALLOC_OOM:
                floor -= floor // 2
            return floor
        # before 6.3 ALLOC_HIGH took half, ALLOC_HARDER (here NON_BLOCK) a quarter of the rest, an OOM victim half of it
        if alloc_flags & ALLOC_MIN_RESERVE:
            floor -= floor // 2
        if alloc_flags & ALLOC_OOM:
            floor -= floor // 2
        elif alloc_flags & ALLOC_NON_BLOCK:
            floor -= floor // 4
        return floor

    def watermark_ok(self, order: int, mark: int, highest_zoneidx: int, alloc_flags: int, free_pages: int) -> bool:
        """Whether an allocation may take a block and leave the mark (__zone_watermark_ok)."""
        if not free_pages:
            return False
        free = free_pages - ((1 << order) - 1) - self.unusable_free(alloc_flags)
        floor = self.reserve_floor(mark, alloc_flags) if alloc_flags & _LADDER else mark
        if free <= floor + self.lowmem_reserve[highest_zoneidx] + self.pages_emerg:
            return False
        if order == 0:
            return True
        highatomic = bool(alloc_flags & (ALLOC_HIGHATOMIC | ALLOC_OOM))
        for lists in self.free_lists[order:]:
            if lists[UNMOVABLE] or lists[MOVABLE] or lists[RECLAIMABLE]:
                return True
            if highatomic and lists[HIGHATOMIC]:
                return True
        return False

    def fragmentation_index(self, order: int) -> int:
        """Return why a block of this order is missing: toward 0 for lack of memory, toward 1000 for fragmentation.

        -1000 if none is missing (__fragmentation_index, mm/vmstat.c).
        """
        nr_blocks = [sum(len(heads) for heads in lists) for lists in self.free_lists]
        if not any(nr_blocks):
            return 0
        if any(nr_blocks[order:]):
            return -1000
        return 1000 - (1000 + self.nr_free * 1000 // (1 << order)) // sum(nr_blocks)

    def extfrag_for_order(self, order: int) -> int:
        """Return how much of free memory is in blocks smaller than this order, in percent (extfrag_for_order)."""
        if not self.nr_free:
            return 0
        suitable = sum(len(heads) << at for at, lists in enumerate(self.free_lists) if at >= order for heads in lists)
        return (self.nr_free - suitable) * 100 // self.nr_free

    def could_compact(self, order: int, highest_zoneidx: int, free_pages: int) -> bool:
        """Whether so many free pages are enough to move others: twice the block above the min mark.

        For a costly order above the low mark (__compaction_suitable).
        """
        mark = self.wmark_pages(ALLOC_WMARK_LOW if order > PAGE_ALLOC_COSTLY_ORDER else ALLOC_WMARK_MIN)
        return self.watermark_ok(0, mark + (2 << order), highest_zoneidx, 0, free_pages)

    def is_fragmented(self, order: int) -> bool:
        """Whether fragmentation is what is wrong, for a costly order, and not too little memory."""
        return order <= PAGE_ALLOC_COSTLY_ORDER or not 0 <= self.fragmentation_index(order) <= EXTFRAG_THRESHOLD


@dataclass(slots=True)
class Node:
    """The host's memory node (``struct pglist_data``)."""

    zones: list[Zone]
    """Populated zones, lowest first."""
    kswapd_failures: int = 0
    nr_reclaim_start: int = 0

    def zone_of(self, pfn: int) -> Zone:
        """Return the zone a frame is in."""
        for zone in self.zones:
            if pfn < zone.end_pfn:
                return zone
        raise AssertionError(f"frame {pfn} is in no zone")

    def zones_above(self, highest: int) -> tuple[Zone, ...]:
        """Return the zones of a higher index."""
        return tuple(zone for zone in self.zones if zone.index > highest)

    @property
    def nr_free(self) -> int:
        """Free pages of the node."""
        return sum(zone.nr_free for zone in self.zones)

    @property
    def managed(self) -> int:
        """Managed pages of the node."""
        return sum(zone.managed for zone in self.zones)


def calculate_min_free_kbytes(managed_pages: int, *, ceiling: int = MIN_FREE_KBYTES_CEILING) -> int:
    """Return the default of ``vm.min_free_kbytes`` for these managed pages, in kB (calculate_min_free_kbytes)."""
    lowmem_kbytes = managed_pages * 4
    return min(max(math.isqrt(lowmem_kbytes * 16), MIN_FREE_KBYTES_FLOOR), ceiling)


def setup_watermarks(
    zones: list[Zone], *, min_free_kbytes: int, scale_factor: int, fixes: Fixes, init_pages: int = 0
) -> None:
    """Set the marks of all zones and clear their boost (__setup_per_zone_wmarks).

    While the machine boots, ``init_pages`` of the highest zone of the kernel's own are not yet among its managed ones.
    """
    pages_min = min_free_kbytes >> 2
    lowmem = [zone for zone in zones if zone.name != "Movable"]
    assert init_pages < lowmem[-1].managed
    lowmem_pages = sum(zone.managed for zone in lowmem) - init_pages
    for zone in zones:
        managed = zone.managed - (init_pages if zone is lowmem[-1] else 0)
        share = pages_min * managed // lowmem_pages
        if zone.name == "Movable":
            zone.watermark[ALLOC_WMARK_MIN] = min(max(managed // 1024, 32), 128)
        else:
            zone.watermark[ALLOC_WMARK_MIN] = share
        step = share >> 2
        if fixes.watermark_scale:
            step = max(step, managed * scale_factor // 10000)
        zone.watermark[ALLOC_WMARK_LOW] = zone.watermark[ALLOC_WMARK_MIN] + step
        zone.watermark[ALLOC_WMARK_HIGH] = zone.watermark[ALLOC_WMARK_MIN] + 2 * step
        zone.watermark_boost = 0


def adjust_memalloc_reserve(zones: list[Zone], nr_pages: int) -> None:
    """Keep so many pages more for who may ignore the marks, each zone its share.

    Mirrors ``adjust_memalloc_reserve`` and ``pages_emerg`` of Peter Zijlstra's "swap over networked storage" (2007),
    never merged: apart from the min mark, since GFP_ATOMIC requests may have a part of that.
    """
    managed = sum(zone.managed for zone in zones)
    for zone in zones:
        zone.pages_emerg += -(-nr_pages * zone.managed // managed)


def setup_lowmem_reserve(zones: list[Zone], ratios: dict[str, int]) -> None:
    """Set each zone's protection against requests that could use a higher zone (setup_per_zone_lowmem_reserve)."""
    managed = [0, 0, 0, 0]
    for zone in zones:
        managed[zone.index] = zone.managed
    for zone in zones:
        ratio = ratios.get(zone.name, 0)
        above = 0
        for index in range(zone.index + 1, 4):
            above += managed[index]
            zone.lowmem_reserve[index] = above // ratio if ratio else 0


def zone_batchsize(managed_pages: int) -> int:
    """Return the per-cpu batch of a zone (zone_batchsize of 6.1)."""
    batch = max(min(managed_pages >> 10, 256) // 4, 1)
    return max((1 << ((batch + batch // 2).bit_length() - 1)) - 1, 1)
