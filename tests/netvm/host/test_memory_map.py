"""Tests of :mod:`netvm.host.memory_map`: zones, free blocks and what boot holds, on hosts of every size."""

import numpy as np
import pytest

from netvm.errors import UsageError
from netvm.fixes import preset
from netvm.host.memory_map import MemoryMap, default_zones
from netvm.mm.invariants import check_ledger, check_zone
from netvm.mm.ledger import FREE, Ledger
from netvm.mm.zone import MAX_ORDER, MOVABLE, NR_PCPTYPES, RECLAIMABLE, UNMOVABLE
from netvm.scenario.load import scenario_from
from netvm.trace.vmstat import VmStat


def _memory_map(ram_mib: int, *, pageblock_order: int = 9, **machine: object) -> MemoryMap:
    options = scenario_from(
        {
            "machine": {"ram_mib": ram_mib, **machine},
            "kernel": {"pageblock_order": pageblock_order},
            "storage": {"kind": "disk"},
            "workload": [{"kind": "anon-hog", "mib": 1}],
        },
        origin="test",
    )
    return MemoryMap(options, fixes=preset("6.1"), ledger=Ledger(), vmstat=VmStat())


@pytest.mark.parametrize("ram_mib", [64, 96, 1024, 4095, 4096, 4097, 4111, 5000, 8192, 65536])
def test_a_host_of_any_size_adds_up(ram_mib) -> None:
    """Free lists, zones, frames and the ledger agree, below 4 GiB and above."""
    memory_map = _memory_map(ram_mib)
    for zone in memory_map.zones:
        check_zone(zone, memory_map.frames)
    check_ledger(memory_map.ledger, memory_map.frames, memory_map.zones)
    for zone in memory_map.zones:
        owners = memory_map.frames.owner[zone.start_pfn : zone.end_pfn]
        assert int(np.count_nonzero(owners == FREE)) == zone.nr_free


@pytest.mark.parametrize("pageblock_order", range(1, 11))
def test_pageblocks_of_any_size(pageblock_order: int) -> None:
    """Small ones have no room for all the free blocks that the kernel's own have on a recorded machine."""
    memory_map = _memory_map(96, pageblock_order=pageblock_order)
    (zone,) = memory_map.zones
    check_zone(zone, memory_map.frames)
    assert zone.pageblock_order == pageblock_order


@pytest.mark.parametrize("ram_mib", [4097, 8192, 65536])
def test_what_lies_above_4_gib_is_a_zone_of_its_own(ram_mib) -> None:
    """ZONE_NORMAL begins at a largest block's boundary; one page in 64 holds its memmap."""
    low, normal = _memory_map(ram_mib).zones
    assert (low.name, normal.name) == ("DMA32", "Normal")
    assert low.present == 4096 * 256
    assert normal.start_pfn % (1 << MAX_ORDER) == 0
    assert normal.start_pfn >= low.end_pfn
    assert normal.managed == normal.present - normal.present // 64


def test_a_small_host_has_one_zone() -> None:
    """What the recorded machine's kernel holds is not managed, what its programs hold is not free."""
    assert default_zones(96, None) == [("DMA32", 24576, 24576 - 4669, 24576 - 4669 - 7640)]
    assert default_zones(96, 1000) == [("DMA32", 24576, 23576, 23576 - 7640)]


def _recorded_map(free_pages: int, pcp_pages: int) -> MemoryMap:
    zone = {"name": "DMA32", "present_pages": 24478, "managed_pages": 19867}
    return _memory_map(96, zones=[zone | {"free_pages": free_pages, "pcp_pages": pcp_pages}])


@pytest.mark.parametrize(("pcp_pages", "nr_blocks"), [(0, 0), (1, 0), (2, 1), (12, 4), (18, 4), (20, 5), (106, 5)])
def test_recorded_per_cpu_pages_lie_on_the_lists_that_boot_used(pcp_pages: int, nr_blocks: int) -> None:
    """One block of each order and type that slabs take, small first, as far as they go; the rest programs freed."""
    memory_map = _recorded_map(12203, pcp_pages)
    (zone,) = memory_map.zones
    (pcp,) = zone.pcp
    lists = ((1, UNMOVABLE), (1, RECLAIMABLE), (2, UNMOVABLE), (2, RECLAIMABLE), (3, UNMOVABLE))[:nr_blocks]
    expected = {order * NR_PCPTYPES + migratetype: 1 for order, migratetype in lists}
    if singles := pcp_pages - sum(1 << order for order, _ in lists):
        expected[MOVABLE] = singles
    assert {index: len(pages) for index, pages in enumerate(pcp.lists) if pages} == expected
    assert (pcp.count, zone.nr_free) == (pcp_pages, 12203)
    check_zone(zone, memory_map.frames)
    check_ledger(memory_map.ledger, memory_map.frames, memory_map.zones)


def test_per_cpu_pages_are_of_their_zone() -> None:
    """Each zone's lists have frames of that zone, as much as boot holds there."""
    zones = [
        {"name": "DMA", "present_pages": 3998, "managed_pages": 3840, "free_pages": 3800, "pcp_pages": 12},
        {"name": "DMA32", "present_pages": 28640, "managed_pages": 20000, "free_pages": 12000, "pcp_pages": 106},
    ]
    memory_map = _memory_map(128, zones=zones)
    for zone, table in zip(memory_map.zones, zones, strict=True):
        assert zone.pcp[0].count == table["pcp_pages"]
        for pages in zone.pcp[0].lists:
            assert all(zone.start_pfn <= pfn < zone.end_pfn for pfn in pages)
        check_zone(zone, memory_map.frames)
    check_ledger(memory_map.ledger, memory_map.frames, memory_map.zones)


def test_the_movable_zone_has_no_pageblock_of_the_kernels() -> None:
    """All of it may be free, in MOVABLE pageblocks."""
    zones = [
        {"name": name, "present_pages": 9000, "managed_pages": 8000, "free_pages": free_pages}
        for name, free_pages in (("Normal", 5000), ("Movable", 8000))
    ]
    memory_map = _memory_map(72, zones=zones)
    normal, movable = memory_map.zones
    assert (normal.nr_free, movable.nr_free) == (5000, 8000)
    assert {movable.pageblock_type(pfn) for pfn in range(movable.start_pfn, movable.end_pfn)} == {MOVABLE}


@pytest.mark.parametrize(("present", "free_pages"), [(9000, 7999), (1400, 1100), (1025, 1000), (3, 2), (600, 593)])
def test_free_pages_lie_together_where_they_do_not_fit_apart(present: int, free_pages: int) -> None:
    """Nearly all of a zone may be free, of whatever size it is; blocks that are listed must fit as they are."""
    zone = {"name": "DMA32", "present_pages": present, "managed_pages": present, "free_pages": free_pages}
    other = {"name": "Normal", "present_pages": 9000, "managed_pages": 8000, "free_pages": 3000}
    memory_map = _memory_map(72, zones=[zone, other])
    low, normal = memory_map.zones
    assert (low.nr_free, normal.nr_free) == (free_pages, 3000)
    for each in memory_map.zones:
        check_zone(each, memory_map.frames)
    check_ledger(memory_map.ledger, memory_map.frames, memory_map.zones)
    full = {"present_pages": 9000, "managed_pages": 8999, "buddyinfo": [0] * 10 + [8]}
    with pytest.raises(UsageError, match="free blocks do not fit in 9000 present pages"):
        _memory_map(72, zones=[other | {"free_pages": None} | full])


@pytest.mark.parametrize("taken", [0, 1, 8, 16, 23])
def test_what_connecting_took_does_not_count(taken: int) -> None:
    """Free memory was recorded when the storage was connected, so that is how much there is when a program starts."""
    memory_map = _recorded_map(12203, 106)
    (zone,) = memory_map.zones
    owner = memory_map.ledger.owner("skb:nbd0")
    for _ in range(taken):
        pfn = memory_map.buddy.rmqueue(zone, 0, 0, UNMOVABLE, 0)
        memory_map.buddy.own(pfn, 0, owner, pfmemalloc=False, reserve=False)
    memory_map.restore_free()
    assert zone.nr_free == 12203
    check_zone(zone, memory_map.frames)
    check_ledger(memory_map.ledger, memory_map.frames, memory_map.zones)


def test_free_memory_that_was_not_recorded_is_left_alone() -> None:
    """A machine that is described by its size alone pays for its connection."""
    memory_map = _memory_map(96)
    (zone,) = memory_map.zones
    before = zone.nr_free
    pfn = memory_map.buddy.rmqueue(zone, 0, 0, UNMOVABLE, 0)
    memory_map.buddy.own(pfn, 0, memory_map.ledger.owner("skb:nbd0"), pfmemalloc=False, reserve=False)
    memory_map.restore_free()
    assert zone.nr_free < before


def test_boot_gives_away_no_more_than_it_holds() -> None:
    """Frames that are neither free nor managed are nobody's to set aside."""
    zone = {"name": "DMA32", "present_pages": 9000, "managed_pages": 6000, "free_pages": 5990}
    memory_map = _memory_map(40, zones=[zone])
    memory_map.own_blocks(memory_map.set_aside(10, 0), 0, memory_map.ledger.owner("ring"))
    assert memory_map.ledger.counts[memory_map.owner_boot] == 0
    with pytest.raises(UsageError, match="too little is held at boot"):
        memory_map.set_aside(1, 0)


@pytest.mark.parametrize(("ram_mib", "highest"), [(64, "DMA32"), (4097, "Normal")])
def test_what_boot_frees_last_is_of_the_highest_zone(ram_mib: int, highest: str) -> None:
    """A machine by its size alone has zones of its own making, and is told which is too small for its init pages."""
    zone = _memory_map(ram_mib).zones[-1]
    assert zone.name == highest
    _memory_map(ram_mib, boot={"init_pages": zone.managed - 1})
    with pytest.raises(UsageError, match=f"less than {zone.managed}, the managed pages of zone {highest}"):
        _memory_map(ram_mib, boot={"init_pages": zone.managed})
