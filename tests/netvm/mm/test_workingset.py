"""Refaults: a page that comes back sooner than the lists are long is active at once."""

import numpy as np
import pytest

from netvm.mm.frames import PG_ACTIVE, PG_WORKINGSET
from netvm.mm.lru import ACTIVE_ANON, ACTIVE_FILE, INACTIVE_ANON, INACTIVE_FILE
from netvm.mm.workingset import workingset_refault

SIZES = {INACTIVE_ANON: 3, ACTIVE_ANON: 5, INACTIVE_FILE: 7, ACTIVE_FILE: 11}


@pytest.mark.parametrize(
    ("file", "nr_free_slots", "length"),
    [(True, 1, 11 + 5 + 3), (True, 0, 11), (False, 1, 11 + 7 + 5), (False, 0, 11 + 7)],
)
@pytest.mark.parametrize("over", [0, 1])
@pytest.mark.parametrize("was_active", [0, 1])
def test_activation_by_distance(
    make_host, file: bool, nr_free_slots: int, length: int, over: int, was_active: int
) -> None:
    """The distance is held against all lists but the page's own inactive one, anonymous ones if swap has room."""
    host = make_host()
    pfn = host.zone.start_pfn
    frames = iter(range(pfn + 1, pfn + 100))
    for lru, size in SIZES.items():
        host.lruvec.lists[lru].add_head(np.array([next(frames) for _ in range(size)], dtype=np.intp))
    host.frames.flags_of[pfn] = 0
    host.lruvec.nonresident_age = 1000
    shadow = (1000 - length - over) * 2 + was_active
    workingset_refault(host.lruvec, pfn, shadow, file=file, nr_free_slots=nr_free_slots)
    activated = not over
    restored = activated and bool(was_active)
    flags = host.frames.flags_of[pfn]
    assert bool(flags & PG_ACTIVE) == activated
    assert bool(flags & PG_WORKINGSET) == restored
    assert host.lruvec.nonresident_age == 1000 + activated
    vmstat = host.vmstat
    counters = (
        (vmstat.workingset_refault_file, vmstat.workingset_activate_file, vmstat.workingset_restore_file)
        if file
        else (vmstat.workingset_refault_anon, vmstat.workingset_activate_anon, vmstat.workingset_restore_anon)
    )
    assert counters == (1, activated, restored)
    assert (host.lruvec.file_cost if file else host.lruvec.anon_cost) == restored
