"""Tests of :mod:`netvm.host.memory_map`: zones, free blocks and what boot holds, on hosts of every size."""

import numpy as np
import pytest

from netvm.fixes import preset
from netvm.host.memory_map import MemoryMap, default_zones
from netvm.mm.invariants import check_ledger, check_zone
from netvm.mm.ledger import FREE, Ledger
from netvm.mm.zone import MAX_ORDER
from netvm.scenario.load import scenario_from
from netvm.trace.vmstat import VmStat


def _memory_map(ram_mib: int) -> MemoryMap:
    options = scenario_from(
        {
            "machine": {"ram_mib": ram_mib},
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
