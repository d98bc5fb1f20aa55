"""Migration: a page moves to another frame, and whoever refers to it by frame is told.

Mirrors ``migrate_pages``, ``unmap_and_move`` and ``move_to_new_folio`` (mm/migrate.c of 6.1) for single pages. A page
can move if nobody but its page table, its cache and the migration itself holds it: it is not locked, not under
writeback, has no data of its file system's (for NFS: no request, written but not committed ones included), and is in
none of the per-cpu batches. What moves is the use of the frame: owner, flags, mapping, index, swap slot, group. What
the old frame's allocation was, one of the reserve say, stays with the old frame and ends with it.

# MODEL: pages that were isolated together move without interruption. The kernel reschedules in between, and from the
# third of its ten passes on sleeps for a page that is locked; here such a page has failed.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import numpy as np

from netvm.mm.frames import (
    ALLOCATION_FLAGS,
    PG_ACTIVE,
    PG_LOCKED,
    PG_LRU,
    PG_SWAPCACHE,
    PG_UNEVICTABLE,
    PG_WRITEBACK,
    PfnArray,
)
from netvm.runtime.task import Task

if TYPE_CHECKING:
    from netvm.mm.vmscan import Vmscan

__all__ = ["Migration"]

_BUSY: Final = PG_LOCKED | PG_WRITEBACK
_STAYS: Final = ALLOCATION_FLAGS | PG_LRU


class Migration:
    """Moves pages of one host."""

    def __init__(self, vmscan: "Vmscan") -> None:
        self.vmscan = vmscan
        self.pages = vmscan.pages
        self.frames = vmscan.pages.frames
        self.lruvec = vmscan.lruvec
        self.vmstat = vmscan.vmstat
        costs = vmscan.costs
        self.cost_ns = costs.scan_keep + costs.copy_page + costs.scan_free
        """A page that moves is isolated and put back, copied, and its old frame freed."""

    def migrate_pages(
        self, task: Task, isolated: list[int], new_frame: Callable[[], int], put_frame: Callable[[int], None]
    ) -> tuple[int, bool]:
        """Move pages that are off their lists, and put all of them back; return how many moved.

        ``new_frame()`` gives a frame that is nobody's, or -1, which ends it; ``put_frame`` takes one that was not used.
        The second value says whether frames ran out (-ENOMEM).
        """
        moved: list[int] = []
        stayed: list[int] = []
        held = set(self.lruvec.rotating)
        short = False
        nr_to_drain = 0
        nr_failed = 0
        for at, src in enumerate(isolated):
            dst = new_frame()
            if dst < 0:
                # the one that found no frame has failed, those behind it were not tried
                short = True
                nr_failed += 1
                stayed += isolated[at:]
                break
            if src in held or not self.may_move(src):
                put_frame(dst)
                nr_failed += 1
                stayed.append(src)
                continue
            moved.append(dst)
            if self.move_to_new_folio(src, dst):
                # a page that was mapped is on its list at once, with those before it
                nr_to_drain = len(moved)
        task.charge_ns += len(moved) * self.cost_ns + len(stayed) * self.vmscan.costs.scan_keep
        self.vmstat.pgmigrate_success += len(moved)
        self.vmstat.pgmigrate_fail += nr_failed
        for pfn in moved[:nr_to_drain]:
            self.lruvec.folio_add_lru(pfn)
        if nr_to_drain:
            self.lruvec.lru_add_drain()
        # the rest, and putback_movable_pages
        for pfn in (*moved[nr_to_drain:], *stayed):
            self.lruvec.folio_add_lru(pfn)
        return len(moved), short

    def may_move(self, pfn: int) -> bool:
        """Whether nobody holds an isolated page whom migration could not tell (folio_migrate_mapping)."""
        frames = self.frames
        if frames.flags_of[pfn] & _BUSY or frames.pins_of[pfn]:
            return False
        if frames.mapping_of[pfn] < 0:
            files = self.vmscan.file_shrinker
            return files is None or files.files.may_migrate(pfn)
        return True

    def move_to_new_folio(self, src: int, dst: int) -> bool:
        """Give a frame what another holds, tell page table and cache, free the other; return whether it is mapped.

        Mirrors ``move_to_new_folio`` and ``remove_migration_ptes``.
        """
        frames = self.frames
        flags = frames.flags_of[src]
        mapping = frames.mapping_of[src]
        is_mapped = mapping > 0
        for column in (frames.mapping_of, frames.index_of, frames.swap_of, frames.memcg_of):
            column[dst] = column[src]
            column[src] = 0
        frames.flags_of[dst] = flags & ~_STAYS
        if mapping > 0:
            space = self.vmscan.shrinker.spaces[mapping]
            vpn = frames.index_of[dst] - 1
            assert space.pte_of[vpn] == src + 1, f"frame {src} is not in the page table that it names"
            space.pte_of[vpn] = dst + 1
        elif mapping < 0:
            files = self.vmscan.file_shrinker
            assert files is not None
            is_mapped = files.files.move_folio(src, dst)
        if flags & PG_SWAPCACHE:
            self.vmscan.swap.move_in_swap_cache(src, dst)
        self.pages.ledger.change_owner(frames, dst, 1, frames.owner_of[src])
        self.pages.free_pages(src, 0)
        return is_mapped

    def isolate(self, pfns: PfnArray) -> None:
        """Take pages off their lists (lruvec_del_folio); nobody else looks before they are put back."""
        assert np.all(self.frames.flags[pfns] & np.uint16(PG_LRU)), "a page is on no list"
        self.lruvec.isolate(pfns)


assert not _STAYS & (PG_ACTIVE | PG_UNEVICTABLE | PG_SWAPCACHE)
