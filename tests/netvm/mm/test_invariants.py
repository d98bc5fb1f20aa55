"""The checks themselves: a sound host passes, and each planted fault is named."""

import numpy as np
import pytest

from netvm.mm.frames import PG_BUDDY, PG_LRU, PG_PCP, PG_RESERVE, PG_SWAPCACHE
from netvm.mm.gfp import GFP_NOWAIT, PF_MEMALLOC
from netvm.mm.invariants import audit_memory, check_ledger, check_lruvec, check_mappings, check_zone
from netvm.mm.zone import HIGHATOMIC, MOVABLE


def _sound(make_host):
    """Return a host with something of everything: blocks, per-cpu pages, a reserve page, listed and mapped pages."""
    host = make_host(free=1500, marks=(1400, 1450, 1480), batch=4, high=32, swap_pages=512)

    async def body(task):
        host.pages.try_alloc_pages(host.task(flags=PF_MEMALLOC), 2, GFP_NOWAIT, host.owner_test)
        return await host.mapped(task, 40)

    space = host.run(body)
    host.zone.watermark[:] = [2000, 2000, 2000]
    pfn = host.pages.try_alloc_pages(host.task(flags=PF_MEMALLOC), 1, GFP_NOWAIT, host.owner_test)
    assert host.frames.flags_of[pfn] & PG_RESERVE
    assert host.nr_pcp
    host.lruvec.folio_add_lru(host.alloc())
    return host, space


def _audit(host) -> list[str]:
    return audit_memory(host.node.zones, host.frames, host.ledger, host.lruvec, host.shrinker)


def test_a_sound_host_passes(make_host) -> None:
    """No finding on a host with something of everything."""
    host, _ = _sound(make_host)
    # a page that nobody maps is on its way to a list
    host.lruvec.forget(host.lruvec.batched[-1])
    assert _audit(host) == []


def _head(host) -> int:
    return next(pfn for (_, _), heads in host.free_blocks().items() for pfn in heads)


ZONE_FAULTS = {
    "without PG_buddy": lambda host: host.frames.flags_of.__setitem__(_head(host), 0),
    "marked": lambda host: host.frames.block_of.__setitem__(_head(host), 15),
    "NR_FREE_PAGES": lambda host: setattr(host.zone, "nr_free", host.zone.nr_free - 1),
    "HIGHATOMIC pages free, counted": lambda host: setattr(host.zone, "nr_highatomic_free", 1),
    "per-cpu list, counted": lambda host: setattr(host.zone.pcp[0], "count", 0),
    "without PG_pcp": lambda host: host.frames.flags_of.__setitem__(host.zone.pcp[0].lists[MOVABLE][0], 0),
    "list of somebody's": lambda host: host.frames.owner_of.__setitem__(host.zone.pcp[0].lists[MOVABLE][0], 7),
}


@pytest.mark.parametrize("message", ZONE_FAULTS)
def test_faults_of_a_zone(make_host, message: str) -> None:
    """Lists, counters and frame marks must agree."""
    host, _ = _sound(make_host)
    ZONE_FAULTS[message](host)
    with pytest.raises(AssertionError, match=message):
        check_zone(host.zone, host.frames)


def test_unaligned_and_unmerged_blocks(make_host) -> None:
    """A block lies where its order says, and two free buddies are one block."""
    host = make_host(free=0)
    host.put(1024 + 1, 1)
    with pytest.raises(AssertionError, match="not aligned"):
        check_zone(host.zone, host.frames)
    host = make_host(free=0)
    host.put(1024, 2)
    host.put(1028, 2, HIGHATOMIC)
    with pytest.raises(AssertionError, match="both free and not merged"):
        check_zone(host.zone, host.frames)


def test_whole_pageblocks_of_two_kinds_need_not_merge(make_host) -> None:
    """From the pageblock's order on neighbours may stay apart."""
    host = make_host(free=0)
    host.put(1024, 5)
    host.put(1024 + 32, 5, HIGHATOMIC)
    check_zone(host.zone, host.frames)


def _count(host, owner: str, by: int) -> None:
    host.ledger.counts[host.ledger.owner(owner)] += by


def _swap_counts(host, one: str, other: str) -> None:
    _count(host, one, 1)
    _count(host, other, -1)


LEDGER_FAULTS = {
    "the zones manage": lambda host: _count(host, "test", 1),
    "fewer than no pages": lambda host: _swap_counts(host, "test", "nobody"),
    "free pages, the zones": lambda host: _swap_counts(host, "free", "anon"),
    "they hold": lambda host: _swap_counts(host, "pcp", "anon"),
    "reserve by owner": lambda host: setattr(host.ledger, "reserve_used", 0),
    "carry the reserve mark": lambda host: host.ledger.drew_reserve(host.owner_test, 1),
}


@pytest.mark.parametrize("message", LEDGER_FAULTS)
def test_faults_of_the_ledger(make_host, message: str) -> None:
    """Every page has one owner, and the reserve's marks are its count."""
    host, _ = _sound(make_host)
    LEDGER_FAULTS[message](host)
    with pytest.raises(AssertionError, match=message):
        check_ledger(host.ledger, host.frames, host.node.zones)


def test_fewer_reserve_pages_than_none(make_host) -> None:
    """Two errors that cancel in the sum are found by owner."""
    host, _ = _sound(make_host)
    host.ledger.reserve_by_owner[host.owner_boot] -= 1
    host.ledger.reserve_by_owner[host.owner_test] += 1
    with pytest.raises(AssertionError, match="fewer than no reserve pages"):
        check_ledger(host.ledger, host.frames, host.node.zones)


def _listed(host) -> int:
    return int(host.lruvec.lists[0].pages()[0])


LRU_FAULTS = {
    "counts": lambda host: setattr(host.lruvec.lists[0], "size", 1),
    "on two lists": lambda host: host.lruvec.lists[1].add_head(host.lruvec.lists[0].pages()[:1]),
    "without PG_lru": lambda host: host.frames.flags_of.__setitem__(_listed(host), 0),
    "frames carry PG_lru": lambda host: host.frames.flags_of.__setitem__(host.alloc(), PG_LRU),
    "in lru_add and on a list": lambda host: host.lruvec.folio_add_lru(_listed(host)),
    "in lru_add and free": lambda host: host.frames.flags_of.__setitem__(host.lruvec.batched[0], PG_PCP),
}


@pytest.mark.parametrize("message", LRU_FAULTS)
def test_faults_of_the_lists(make_host, message: str) -> None:
    """Each page is on one list and says so."""
    host, _ = _sound(make_host)
    LRU_FAULTS[message](host)
    with pytest.raises(AssertionError, match=message):
        check_lruvec(host.lruvec, host.frames)


MAPPING_FAULTS = {
    "nr_anon": lambda host, space: setattr(space, "nr_anon", 39),
    "nr_swap differ": lambda host, space: setattr(space, "nr_swap", 1),
    "belongs to somebody else": lambda host, space: host.frames.mapping_of.__setitem__(space.pte_of[3] - 1, 9),
    "another index": lambda host, space: host.frames.index_of.__setitem__(space.pte_of[3] - 1, 9),
    "somebody maps them": lambda host, space: host.frames.mapping_of.__setitem__(host.alloc(), space.id),
    "has no slot": lambda host, space: host.frames.flags.__setitem__(
        space.pte[3] - 1, host.frames.flags[space.pte[3] - 1] | np.uint16(PG_SWAPCACHE)
    ),
}


@pytest.mark.parametrize("message", MAPPING_FAULTS)
def test_faults_of_the_mappings(make_host, message: str) -> None:
    """Page tables and frames point at each other."""
    host, space = _sound(make_host)
    MAPPING_FAULTS[message](host, space)
    with pytest.raises(AssertionError, match=message):
        check_mappings(host.shrinker, host.frames)


def test_a_page_that_reclaim_cannot_find(make_host) -> None:
    """A mapped page on no list, in no batch and with no reclaimer is lost to reclaim."""
    host, space = _sound(make_host)
    host.lruvec.forget(space.pte_of[5] - 1)
    with pytest.raises(AssertionError, match="on no LRU list"):
        check_mappings(host.shrinker, host.frames)


def test_an_audit_gathers_what_each_check_found(make_host) -> None:
    """It raises nothing and lists all."""
    host, space = _sound(make_host)
    host.lruvec.forget(host.lruvec.batched[-1])
    host.zone.nr_free += 1
    space.nr_swap += 1
    host.frames.flags_of[_head(host)] &= ~PG_BUDDY
    found = _audit(host)
    assert len(found) == 3
    assert all(isinstance(line, str) for line in found)
