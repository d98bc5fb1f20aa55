"""What compaction knows of a zone between its runs, and what one run is after.

Mirrors ``struct compact_control`` (mm/internal.h of 6.1), the ``compact_*`` fields of ``struct zone``, the pageblocks'
skip bits and the functions of mm/compaction.c that keep them: where the two scanners go on (``reset_cached_positions``,
``update_cached_migrate``, ``__reset_isolation_suitable``), and how long a zone that could not be compacted is let alone
(``defer_compaction``, ``compaction_deferred``, ``compaction_defer_reset``, ``compaction_restarting``).

A pageblock in which a scanner found nothing is passed over until kswapd goes to sleep after a direct compaction has
gone all the way through, or until the zone has been deferred as long as can be.
"""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from netvm.mm.frames import PG_BUDDY, PG_LRU, Frames
from netvm.mm.gfp import ALLOC_WMARK_MIN
from netvm.mm.zone import MAX_ORDER, MOVABLE, Zone

__all__ = [
    "COMPACT_CLUSTER_MAX",
    "COMPACT_MAX_DEFER_SHIFT",
    "CompactControl",
    "CompactPriority",
    "CompactResult",
    "CompactTries",
    "MigrateMode",
    "ZoneCompaction",
]

COMPACT_CLUSTER_MAX: Final = 32
COMPACT_MAX_DEFER_SHIFT: Final = 6
_LOOKED_AT: Final = 8
"""Every so many pages a pageblock is looked at for a page that could go or come (1 << PAGE_ALLOC_COSTLY_ORDER)."""


class CompactResult(IntEnum):
    """How a try ended (``enum compact_result``), the worst first."""

    NOT_SUITABLE_ZONE = 0
    SKIPPED = 1
    DEFERRED = 2
    NO_SUITABLE_PAGE = 3
    CONTINUE = 4
    COMPLETE = 5
    PARTIAL_SKIPPED = 6
    CONTENDED = 7
    SUCCESS = 8

    @property
    def word(self) -> str:
        """Its word in a trace (COMPACTION_STATUS)."""
        return self.name.lower()


class CompactPriority(IntEnum):
    """How hard an allocation tries (``enum compact_priority``)."""

    SYNC_FULL = 0
    SYNC_LIGHT = 1
    ASYNC = 2


class MigrateMode(IntEnum):
    """What migration may wait for (``enum migrate_mode``)."""

    ASYNC = 0
    SYNC_LIGHT = 1


@dataclass(slots=True)
class CompactTries:
    """What an allocation has come to with compaction so far."""

    priority: CompactPriority = CompactPriority.SYNC_LIGHT
    nr_retries: int = 0
    result: CompactResult = CompactResult.SKIPPED


@dataclass(slots=True, kw_only=True)
class CompactControl:
    """One run over one zone."""

    zone: Zone
    order: int
    """What is wanted; -1: as much as can be."""
    mode: MigrateMode
    gfp: int
    migratetype: int
    highest_zoneidx: int = 3
    alloc_flags: int = ALLOC_WMARK_MIN
    direct: bool = False
    proactive: bool = False
    whole_zone: bool = False
    ignore_skip_hint: bool = False
    ignore_block_suitable: bool = False
    migrate_pfn: int = 0
    free_pfn: int = 0
    fast_start_pfn: int = 0
    """Lowest place that the fast search found, and then -1."""
    search_order: int = MAX_ORDER
    """Order of free block at which the fast search begins, which is smaller than the one that is wanted."""
    fast_search_fail: int = 0
    rescan: bool = False
    """The pageblock is being scanned for the second time, to its end."""
    migrate_pages: list[int] = field(default_factory=list)
    """Isolated, the last of them first to move."""
    free_pages: list[int] = field(default_factory=list)
    """Isolated single frames, the last of them first to be used."""
    nr_migrate_scanned: int = 0
    nr_free_scanned: int = 0

    @property
    def scanners_met(self) -> bool:
        """Whether both are in the same pageblock, or past each other (compact_scanners_met)."""
        shift = self.zone.pageblock_order
        return self.free_pfn >> shift <= self.migrate_pfn >> shift


class ZoneCompaction:
    """A zone as compaction left it."""

    __slots__ = (
        "_frames",
        "_nr_block",
        "blockskip_flush",
        "cached_free_pfn",
        "cached_migrate_pfn",
        "considered",
        "defer_shift",
        "init_free_pfn",
        "init_migrate_pfn",
        "order_failed",
        "skip",
        "zone",
    )

    def __init__(self, zone: Zone, frames: Frames) -> None:
        self.zone = zone
        self._frames = frames
        self._nr_block = 1 << zone.pageblock_order
        self.cached_migrate_pfn = [0, 0]
        """Where the migration scanner goes on: asynchronously, and not."""
        self.cached_free_pfn = 0
        self.init_migrate_pfn = 0
        self.init_free_pfn = 0
        self.blockskip_flush = False
        self.considered = 0
        self.defer_shift = 0
        self.order_failed = 0
        self.skip = bytearray(len(zone.pageblocks))
        """By pageblock: a scanner found nothing there (PB_migrate_skip)."""

    # -- pageblocks -----------------------------------------------------------------------------------------------

    def block_start(self, pfn: int) -> int:
        """Return where the pageblock of a frame begins in this zone."""
        return max(pfn & -self._nr_block, self.zone.start_pfn)

    def block_end(self, pfn: int) -> int:
        """Return where the pageblock of a frame ends (pageblock_end_pfn), in this zone or not."""
        return (pfn & -self._nr_block) + self._nr_block

    def is_skipped(self, pfn: int) -> bool:
        """Whether the pageblock of a frame is passed over (get_pageblock_skip)."""
        return bool(self.skip[self.zone.pageblock_number(pfn)])

    def set_skip(self, pfn: int, *, skip: bool = True) -> None:
        """Have the pageblock of a frame passed over, or no more (set_pageblock_skip, clear_pageblock_skip)."""
        self.skip[self.zone.pageblock_number(pfn)] = skip

    # -- where the scanners go on ---------------------------------------------------------------------------------

    @property
    def last_block(self) -> int:
        """Where the zone's last pageblock begins: the free scanner's first."""
        return self.zone.end_pfn - 1 & -self._nr_block

    def reset_cached_positions(self) -> None:
        """Start at both ends again."""
        self.cached_migrate_pfn = [self.zone.start_pfn] * 2
        self.cached_free_pfn = self.last_block

    def update_cached_migrate(self, pfn: int, mode: MigrateMode) -> None:
        """The pageblock of a frame is through for the migration scanner."""
        pfn = self.block_end(pfn)
        self.cached_migrate_pfn[0] = max(self.cached_migrate_pfn[0], pfn)
        if mode != MigrateMode.ASYNC:
            self.cached_migrate_pfn[1] = max(self.cached_migrate_pfn[1], pfn)

    def reset_isolation_suitable(self) -> None:
        """Look at pageblocks that were passed over again, where there is something now, if somebody has seen them all.

        Mirrors ``__reset_isolation_suitable``.
        """
        if not self.blockskip_flush:
            return
        self.blockskip_flush = False
        migrate_pfn = reset_free = self.zone.start_pfn
        free_pfn = reset_migrate = self.zone.end_pfn - 1
        source_set = free_set = False
        while migrate_pfn < free_pfn:
            if self._reset_isolation_pfn(migrate_pfn, source=True, target=source_set) and migrate_pfn < reset_migrate:
                source_set = True
                reset_migrate = self.init_migrate_pfn = migrate_pfn
                self.cached_migrate_pfn = [migrate_pfn, migrate_pfn]
            if self._reset_isolation_pfn(free_pfn, source=free_set, target=True) and free_pfn > reset_free:
                free_set = True
                reset_free = self.init_free_pfn = self.cached_free_pfn = free_pfn
            migrate_pfn += self._nr_block
            free_pfn -= self._nr_block
        if reset_migrate >= reset_free:
            self.cached_migrate_pfn = [migrate_pfn, migrate_pfn]
            self.cached_free_pfn = free_pfn

    def _reset_isolation_pfn(self, pfn: int, *, source: bool, target: bool) -> bool:
        """Whether a pageblock has pages that could go or come; then it is not passed over any more."""
        if source and target and not self.is_skipped(pfn):
            return True
        if not source and target and self.zone.pageblock_type(pfn) != MOVABLE:
            return False
        wanted = (PG_LRU if source else 0) | (PG_BUDDY if target else 0)
        looked_at = self._frames.flags[self.block_start(pfn) : min(self.block_end(pfn), self.zone.end_pfn) : _LOOKED_AT]
        if not (looked_at & wanted).any():
            return False
        self.set_skip(pfn, skip=False)
        return True

    # -- deferring ------------------------------------------------------------------------------------------------

    def defer_compaction(self, order: int) -> None:
        """A try at this order came to nothing: let twice as many others pass, 64 at most."""
        self.considered = 0
        self.defer_shift = min(self.defer_shift + 1, COMPACT_MAX_DEFER_SHIFT)
        self.order_failed = min(self.order_failed, order)

    def compaction_deferred(self, order: int) -> bool:
        """Whether a try at this order is let pass; counts it."""
        limit = 1 << self.defer_shift
        if order < self.order_failed:
            return False
        self.considered += 1
        if self.considered >= limit:
            self.considered = limit
            return False
        return True

    def compaction_defer_reset(self, order: int, *, alloc_success: bool) -> None:
        """A block of this order is there; with ``alloc_success`` an allocation has had it."""
        if alloc_success:
            self.considered = 0
            self.defer_shift = 0
        if order >= self.order_failed:
            self.order_failed = order + 1

    def compaction_restarting(self, order: int) -> bool:
        """Whether this is the first try after as many as can be were let pass."""
        at_most = self.defer_shift == COMPACT_MAX_DEFER_SHIFT
        return order >= self.order_failed and at_most and self.considered >= 1 << self.defer_shift
