"""What must always be true of memory: whole-structure checks, run at quiet points.

Each check is pure, looks at everything, and says in its message what does not add up. They are assertions about the
model, not about the emulated machine: a failed one is a bug of ours. :func:`audit_memory` gathers their messages
instead of raising, for the end of a run.
"""

from collections.abc import Callable

import numpy as np

from netvm.mm.frames import PG_BUDDY, PG_LRU, PG_PCP, PG_RESERVE, PG_SWAPCACHE, Frames
from netvm.mm.ledger import FREE, PCP, Ledger
from netvm.mm.lru import LRU_NAMES, Lruvec
from netvm.mm.memcontrol import MemControl
from netvm.mm.shrink import Shrinker
from netvm.mm.zone import HIGHATOMIC, MAX_ORDER, NR_MIGRATETYPES, Zone

__all__ = ["audit_memory", "check_ledger", "check_lruvec", "check_mappings", "check_zone"]


def check_zone(zone: Zone, frames: Frames) -> None:
    """A zone's free lists, counters and frame marks agree, and no two free buddies stand unmerged."""
    free = 0
    highatomic = 0
    for order in range(MAX_ORDER + 1):
        for migratetype in range(NR_MIGRATETYPES):
            for pfn in zone.free_lists[order][migratetype]:
                block = frames.block_of[pfn]
                assert frames.flags_of[pfn] & PG_BUDDY, f"frame {pfn} is on a free list without PG_buddy"
                assert block == order | migratetype << 4, (
                    f"frame {pfn} is on list {order}/{migratetype}, marked {block}"
                )
                assert not pfn & ((1 << order) - 1), f"block {pfn} of order {order} is not aligned"
                buddy = pfn ^ (1 << order)
                if order < min(MAX_ORDER, zone.pageblock_order) and zone.start_pfn <= buddy < zone.end_pfn:
                    merged = not (frames.flags_of[buddy] & PG_BUDDY and frames.block_of[buddy] & 0x0F == order)
                    assert merged, f"blocks {pfn} and {buddy} of order {order} are both free and not merged"
                free += 1 << order
                if migratetype == HIGHATOMIC:
                    highatomic += 1 << order
    assert free == zone.nr_free, f"zone {zone.name}: {free} pages on free lists, NR_FREE_PAGES {zone.nr_free}"
    assert highatomic == zone.nr_highatomic_free, (
        f"zone {zone.name}: {highatomic} HIGHATOMIC pages free, counted {zone.nr_highatomic_free}"
    )
    for pcp in zone.pcp:
        count = sum(len(pages) << (index // 3) for index, pages in enumerate(pcp.lists))
        assert count == pcp.count, f"zone {zone.name}: {count} pages on a per-cpu list, counted {pcp.count}"
        for pages in pcp.lists:
            for pfn in pages:
                assert frames.flags_of[pfn] & PG_PCP, f"frame {pfn} is on a per-cpu list without PG_pcp"
                assert frames.owner_of[pfn] == PCP, f"frame {pfn} is on a per-cpu list of somebody's"


def check_ledger(ledger: Ledger, frames: Frames, zones: list[Zone]) -> None:
    """Every managed page has one owner, the counts say so, and so do those of the reserve."""
    managed = sum(zone.managed for zone in zones)
    total = sum(ledger.counts)
    assert total == managed, f"the ledger holds {total} pages, the zones manage {managed}"
    assert min(ledger.counts) >= 0, f"an owner has fewer than no pages: {ledger.table()}"
    free = sum(zone.nr_free for zone in zones)
    assert ledger.counts[FREE] == free, f"the ledger has {ledger.counts[FREE]} free pages, the zones {free}"
    pcp = sum(p.count for zone in zones for p in zone.pcp)
    assert ledger.counts[PCP] == pcp, f"the ledger has {ledger.counts[PCP]} pages on per-cpu lists, they hold {pcp}"
    reserve = sum(ledger.reserve_by_owner)
    assert reserve == ledger.reserve_used, f"reserve by owner {reserve}, used {ledger.reserve_used}"
    assert min(ledger.reserve_by_owner) >= 0, f"an owner has fewer than no reserve pages: {ledger.reserve_table()}"
    heads = np.flatnonzero(frames.flags & np.uint16(PG_RESERVE))
    tagged = sum(1 << (frames.block_of[pfn] & 0x0F) for pfn in heads.tolist())
    assert tagged == ledger.reserve_used, f"{tagged} pages carry the reserve mark, {ledger.reserve_used} are counted"


def check_lruvec(lruvec: Lruvec, frames: Frames) -> None:
    """Each page on a list says so, is on one list only, and the batches hold pages that are on none."""
    seen: set[int] = set()
    for memcg, group in enumerate(lruvec.tree()):
        for name, lru in zip(LRU_NAMES, group.lists, strict=True):
            pages = lru.pages().tolist()
            assert len(pages) == len(lru), f"list {name} has {len(pages)} pages, counts {len(lru)}"
            for pfn in pages:
                assert pfn not in seen, f"frame {pfn} is on two lists"
                assert frames.flags_of[pfn] & PG_LRU, f"frame {pfn} is on {name} without PG_lru"
                assert frames.memcg_of[pfn] == memcg, f"frame {pfn} is on {name} of a group it is not charged to"
                seen.add(pfn)
    marked = int(np.count_nonzero(frames.flags & np.uint16(PG_LRU)))
    assert marked == len(seen), f"{marked} frames carry PG_lru, {len(seen)} are on a list"
    for pfn in lruvec.batched:
        assert pfn not in seen, f"frame {pfn} is in lru_add and on a list"
        assert not frames.flags_of[pfn] & (PG_BUDDY | PG_PCP), f"frame {pfn} is in lru_add and free"


def check_memcg(memcg: MemControl, frames: Frames) -> None:
    """What groups count is what frames are charged to them, and only pages of programs and files are."""
    charged = np.flatnonzero(frames.memcg)
    for group in memcg.groups:
        mine = int(np.count_nonzero(frames.memcg == group.id))
        assert mine == group.usage_pages, f"group {group.name}: {mine} frames charged, counts {group.usage_pages}"
    ledger = memcg.pages.ledger
    owners = {ledger.names[owner] for owner in np.unique(frames.owner[charged]).tolist()}
    assert owners <= {"anon", "file"}, f"pages of {sorted(owners - {'anon', 'file'})} are charged to memory groups"


def check_mappings(shrinker: Shrinker, frames: Frames) -> None:
    """Page tables and frames point at each other, and a swap cache page knows its slot."""
    for space in shrinker.spaces.values():
        vpns = space.resident()
        pfns = space.pte[vpns] - 1
        assert len(vpns) == space.nr_anon, f"{space.comm}: {len(vpns)} pages mapped, nr_anon {space.nr_anon}"
        assert len(space.swapped()) == space.nr_swap, f"{space.comm}: swap entries and nr_swap differ"
        assert (frames.mapping[pfns] == space.id).all(), f"{space.comm}: a mapped frame belongs to somebody else"
        assert (frames.index[pfns] == vpns + 1).all(), f"{space.comm}: a frame has another index than its PTE"
    mapped = int(np.count_nonzero(frames.mapping > 0))
    claimed = sum(space.nr_anon for space in shrinker.spaces.values())
    assert mapped == claimed, f"{mapped} frames say that somebody maps them, {claimed} are in page tables"
    _check_reclaimable(shrinker, frames)
    cached = np.flatnonzero(frames.flags & np.uint16(PG_SWAPCACHE))
    assert (frames.swap[cached] > 0).all(), "a swap cache page has no slot"


def _check_reclaimable(shrinker: Shrinker, frames: Frames) -> None:
    """Reclaim can find each page of a program: on a list, in the ``lru_add`` batch, or isolated by somebody."""
    lruvec = shrinker.lruvec
    in_use = (frames.mapping > 0) | (frames.flags & np.uint16(PG_SWAPCACHE) != 0)
    listed = frames.flags & np.uint16(PG_LRU) != 0
    off_lists = np.flatnonzero(in_use & ~listed).tolist()
    isolated = set(off_lists) - set(lruvec.batched)
    counted = lruvec.vmstat.nr_isolated_anon - shrinker.nr_frozen
    assert counted - shrinker.nr_orphans <= len(isolated) <= counted, (
        f"{len(isolated)} pages are on no LRU list, nr_isolated_anon is {counted}: {sorted(isolated)[:5]}"
    )


def audit_memory(zones: list[Zone], frames: Frames, ledger: Ledger, lruvec: Lruvec, shrinker: Shrinker) -> list[str]:
    """Run all checks and return what does not hold."""
    checks: list[Callable[[], None]] = [
        lambda: check_ledger(ledger, frames, zones),
        lambda: check_lruvec(lruvec, frames),
        lambda: check_mappings(shrinker, frames),
        *(lambda zone=zone: check_zone(zone, frames) for zone in zones),
    ]
    memcg = shrinker.vmscan.pages.memcg
    if memcg is not None:
        checks.append(lambda: check_memcg(memcg, frames))
    found = []
    for check in checks:
        try:
            check()
        except AssertionError as error:
            found.append(str(error))
    return found
