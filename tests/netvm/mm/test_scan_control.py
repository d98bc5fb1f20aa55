"""How much of each list a reclaim scans, by priority, swappiness, costs and sizes."""

import numpy as np
import pytest

from netvm.mm.gfp import GFP_KERNEL
from netvm.mm.lru import ACTIVE_FILE, INACTIVE_ANON, INACTIVE_FILE
from netvm.mm.scan_control import ScanControl, adjust_targets, inactive_is_low

P = 1024


def _sizes(host, *sizes: int) -> None:
    """Give inactive anon, active anon, inactive file and active file so many pages; only their number matters."""
    for lru, size in enumerate(sizes):
        host.lruvec.lists[lru].add_head(np.full(size, P))


def _swap(host, nr_free: int = 1000, nr_total: int = 1000) -> None:
    host.swap.nr_free, host.swap.nr_total = nr_free, nr_total


def _scan(host, priority: int, **control) -> list[int]:
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=priority, **control)
    return sc.get_scan_count(host.lruvec, nr_swap_pages=host.swap.nr_free_slots(), swappiness=host.vmscan.swappiness)


@pytest.mark.parametrize("priority", range(13))
def test_each_priority_scans_twice_as_much(host, priority: int) -> None:
    """A list's share is its size shifted by the priority: 2, 4, 9, 19, ... of 9800 pages; no minimum."""
    _swap(host)
    _sizes(host, 9800, 5000)
    assert _scan(host, priority, file_is_tiny=True) == [9800 >> priority, 5000 >> priority, 0, 0]


def test_a_reclaim_for_lower_zones_counts_their_pages_only(make_host) -> None:
    """Pages of zones above are no part of a list's share; those met at its tail go to its head and count as scanned."""
    host = make_host(zones=(("DMA32", 512), ("Normal", 512), ("Movable", 512)))
    _swap(host)
    low, normal, movable = host.node.zones
    inactive = host.lruvec.lists[INACTIVE_ANON]
    met = [movable.start_pfn, normal.start_pfn, normal.start_pfn + 1]
    mine = list(range(low.start_pfn, low.start_pfn + 8))
    inactive.add_head(np.array(met + mine, dtype=np.intp))
    above = host.node.zones_above(low.index)
    assert above == (normal, movable)
    assert _scan(host, 1, file_is_tiny=True) == [5, 0, 0, 0]
    assert _scan(host, 1, file_is_tiny=True, zones_above=above) == [4, 0, 0, 0]
    sc = ScanControl(gfp=GFP_KERNEL, order=0, zones_above=above)
    taken, nr_scanned = sc.isolate_lru_folios(host.lruvec, INACTIVE_ANON, 4, host.vmstat)
    assert (taken.tolist(), nr_scanned) == (mine[:4], 7)
    assert inactive.pages().tolist() == mine[4:] + met
    assert host.vmstat.pgskip == {"dma": 0, "dma32": 0, "normal": 2, "movable": 1}
    assert host.node.zones_above(movable.index) == ()


def test_no_swap_means_files_only(host) -> None:
    """Without a free slot, or when this reclaim may not swap, anonymous lists are left alone at every priority."""
    _sizes(host, 4096, 4096, 4096, 4096)
    for priority in (12, 0):
        expected = [0, 0, 4096 >> priority, 4096 >> priority]
        _swap(host, 0, 1000)
        assert _scan(host, priority, file_is_tiny=True) == expected
        _swap(host)
        assert _scan(host, priority, file_is_tiny=True, may_swap=False) == expected


def test_the_last_priority_scans_everything(make_host) -> None:
    """At priority 0 all lists are scanned whole, unless swappiness is 0."""
    for swappiness, expected in ((60, [100, 200, 300, 400]), (0, [0, 0, 300, 400])):
        host = make_host(swappiness=swappiness)
        _swap(host)
        _sizes(host, 100, 200, 300, 400)
        assert _scan(host, 0, cache_trim_mode=True) == expected


def test_what_decides_before_the_fractions(host) -> None:
    """A tiny file set means anon only; then plenty of idle file pages means files only."""
    _swap(host)
    _sizes(host, 4096, 2048, 4096, 2048)
    assert _scan(host, 2, file_is_tiny=True, cache_trim_mode=True) == [1024, 512, 0, 0]
    assert _scan(host, 2, cache_trim_mode=True) == [0, 0, 1024, 512]


@pytest.mark.parametrize(
    ("anon_cost", "file_cost", "swappiness", "share"),
    [
        (0, 0, 60, 0.300),
        (10**6, 0, 60, 0.1765),
        (0, 10**6, 60, 0.4615),
        (0, 0, 100, 0.500),
        (0, 0, 200, 1.000),
        (0, 0, 0, 0.000),
    ],
)
def test_the_share_of_anonymous_pages(make_host, anon_cost: int, file_cost: int, swappiness: int, share: float) -> None:
    """Swappiness over costs: 30 % when nothing has cost anything, 17.6 % when only swapping has."""
    host = make_host(swappiness=swappiness)
    _swap(host)
    _sizes(host, 100_000, 0, 100_000, 0)
    anon, _, file, _ = _scan(host, 0 if not swappiness else 1, anon_cost=anon_cost, file_cost=file_cost)
    assert anon / (anon + file) == pytest.approx(share, abs=0.002)


def test_fractions_are_integers_of_the_kernels_order(host) -> None:
    """Each product is divided where the kernel divides it: 89 and 419 parts at an anon cost of 1000."""
    _swap(host)
    _sizes(host, 1000, 0, 0, 0)
    assert _scan(host, 0 + 1, anon_cost=1000) == [500 * 89 // 508, 0, 0, 0]


def _control_after_a_pass(host, *, priority: int = 4, **control) -> ScanControl:
    sc = ScanControl(gfp=GFP_KERNEL, order=0, priority=priority, may_swap=False, **control)

    async def body(task):
        await host.vmscan.shrink_node(task, sc)

    host.run(body)
    return sc


@pytest.mark.parametrize(
    ("free", "sizes", "tiny"),
    [
        (1428, (640, 0, 0, 0), True),
        (1429, (640, 0, 0, 0), False),
        (1400, (640, 0, 20, 8), True),
        (1400, (640, 0, 20, 9), False),
        (1000, (15, 0, 0, 0), False),
        (1000, (16, 0, 0, 0), True),
        (1000, (16, 17, 0, 0), False),
    ],
)
def test_when_the_file_set_is_tiny(make_host, free: int, sizes: tuple[int, ...], tiny: bool) -> None:
    """Files and free together within high + boost, anon not to be deactivated, and enough inactive anon to scan."""
    host = make_host(free=free, marks=(270, 337, 404))
    host.zone.watermark_boost = 1024
    _swap(host)
    _sizes(host, *sizes)
    assert _control_after_a_pass(host).file_is_tiny == tiny


@pytest.mark.parametrize(("nr_active", "priority", "trimmed"), [(16, 4, True), (16, 5, False), (17, 4, False)])
def test_when_files_are_trimmed_first(host, nr_active: int, priority: int, trimmed: bool) -> None:
    """Inactive files to scan at this priority, unless they are to be deactivated."""
    _swap(host)
    _sizes(host, 0, 0, 16, nr_active)
    assert _control_after_a_pass(host, priority=priority).cache_trim_mode == trimmed


@pytest.mark.parametrize(
    ("sizes", "activated", "expected"),
    [
        ((10, 10, 10, 10), False, 0),
        ((10, 11, 10, 10), False, 1),
        ((10, 10, 10, 11), False, 2),
        ((10, 10, 10, 10), True, 1),
    ],
)
def test_what_may_be_deactivated(host, sizes: tuple[int, ...], activated: bool, expected: int) -> None:
    """A type whose inactive list is the shorter one, or whose refaults were activated since the last look."""
    _sizes(host, *sizes)
    host.vmstat.workingset_activate_anon += activated
    assert _control_after_a_pass(host, priority=12).may_deactivate == expected


def test_force_deactivates_both(host) -> None:
    """The second go of a direct reclaim deactivates whatever the sizes."""
    _sizes(host, 10, 1, 10, 1)
    assert _control_after_a_pass(host, priority=12, force_deactivate=True).may_deactivate == 3


@pytest.mark.parametrize(
    ("inactive", "active", "low"),
    [
        (100, 100, False),
        (100, 101, True),
        (65536, 3 * 65536 - 1, True),
        (65536, 3 * 65536, False),
        (65536, 3 * 65536 + 1, True),
        (1 << 18, 6 << 18, False),
        ((10 << 18) // 11, 10 * ((10 << 18) // 11) + 60, True),
        ((10 << 18) // 11 + 10, 10 * ((10 << 18) // 11), False),
    ],
)
def test_when_the_inactive_list_is_low(host, inactive: int, active: int, low: bool) -> None:
    """The ratio is 1 below 1 GiB, then the root of ten times the GiB: 3 at one, 10 at ten."""
    _sizes(host, inactive, active)
    assert inactive_is_low(host.lruvec, file=False) == low
    host.lruvec.lists[INACTIVE_FILE], host.lruvec.lists[ACTIVE_FILE] = host.lruvec.lists[:2]
    assert inactive_is_low(host.lruvec, file=True) == low


@pytest.mark.parametrize(
    ("targets", "left", "expected"),
    [
        # half of the smaller type was scanned: half of the larger is to be scanned as well
        ([640, 0, 320, 0], [608, 0, 160, 0], [294, 0, 0, 0]),
        ([320, 0, 640, 0], [160, 0, 608, 0], [0, 0, 294, 0]),
        # the larger is beyond its share already
        ([64, 0, 320, 0], [30, 0, 40, 0], [0, 0, 0, 0]),
    ],
)
def test_the_smaller_type_stops_and_the_larger_gets_its_share(
    targets: list[int], left: list[int], expected: list[int]
) -> None:
    """What is left of the smaller, in hundredths of its target, is not scanned of the larger either."""
    assert adjust_targets(left, targets)
    assert left == expected


def test_one_type_alone_has_no_proportion() -> None:
    """With nothing left of a type there is nothing to adjust."""
    left = [10, 5, 0, 0]
    assert not adjust_targets(left, [20, 10, 5, 5])
    assert left == [10, 5, 0, 0]
