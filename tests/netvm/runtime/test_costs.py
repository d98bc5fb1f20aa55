"""The table of CPU costs."""

import dataclasses
import gzip
import re
import statistics
from pathlib import Path

import pytest

from netvm.runtime.costs import CpuCosts

_TRACE = Path(__file__).parents[2] / "data" / "traces" / "D2-guestnbd-2ms-a" / "ftrace.txt.gz"
_BATCH = re.compile(
    r"kswapd0-22 .* (?P<us>\d+\.\d+): mm_vmscan_lru_shrink_inactive: nid=0 nr_scanned=32 nr_reclaimed=(?P<freed>\d+)"
    r" .* nr_ref_keep=(?P<kept>\d+)"
)
_LAST_NEW_S, _COME_ROUND_S = 7.0, 8.0
"""Until when the recorded kernel sends out what had no slot yet, and from when on all has been read back before."""


def test_every_cost_is_a_positive_number_of_nanoseconds() -> None:
    """Work that costs nothing or less would let a loop run for ever at one instant."""
    costs = dataclasses.asdict(CpuCosts())
    assert costs
    assert all(isinstance(cost, int) and cost > 0 for cost in costs.values())


def test_costs_are_ordered_as_the_work_is() -> None:
    """What includes other work costs more than that: a fault a touch, a page sent out one only looked at."""
    costs = CpuCosts()
    assert costs.touch < costs.fault_wp < costs.fault_anon < costs.fault_major
    assert costs.scan_keep < costs.scan_pageout
    assert costs.tx_segment < costs.tx_skb


def _kind(freed: int, kept: int, at_s: float) -> str:
    """What became of a batch of 32 pages that all met the same fate, or else "mixed"."""
    if (freed, kept) in ((32, 0), (0, 32)):
        return "freed" if freed else "kept"
    if freed or kept or _LAST_NEW_S < at_s < _COME_ROUND_S:
        return "mixed"
    return "new" if at_s < _LAST_NEW_S else "read back"


def _undisturbed_us(kind: str, spacings_us: list[float]) -> float:
    """Return the median of the spacings in which no request went out; one takes 100 us and more."""
    shortest_us = sorted(spacings_us)[len(spacings_us) // 20]
    assert len(spacings_us) >= 100, kind
    return statistics.median(us for us in spacings_us if us < shortest_us + 50)


def test_batches_take_as_long_as_recorded() -> None:
    """The time between two trace points of kswapd, by what became of the 32 pages, is that of the table within 3 %."""
    spacings_us: dict[str, list[float]] = {}
    before_us = 0.0
    for line in gzip.decompress(_TRACE.read_bytes()).decode().splitlines():
        batch = _BATCH.search(line)
        if batch is None:
            before_us = 0.0
            continue
        now_us = float(batch["us"]) * 1e6
        if before_us:
            kind = _kind(int(batch["freed"]), int(batch["kept"]), now_us / 1e6)
            spacings_us.setdefault(kind, []).append(now_us - before_us)
        before_us = now_us
    costs = CpuCosts()
    each_ns = {
        "kept": costs.scan_keep,
        "freed": costs.scan_free,
        "new": costs.add_to_swap + costs.scan_pageout,
        "read back": costs.scan_pageout,
    }
    for kind, cost_ns in each_ns.items():
        batch_us = (32 * cost_ns + costs.shrink_call) / 1000
        assert _undisturbed_us(kind, spacings_us[kind]) == pytest.approx(batch_us, rel=0.03), kind


def test_costs_are_a_machines_and_do_not_change() -> None:
    """Another machine is another table; a run's costs are fixed."""
    costs = CpuCosts()
    with pytest.raises(dataclasses.FrozenInstanceError):
        costs.touch = 1  # type: ignore[misc]
    assert dataclasses.replace(costs, touch=1).touch == 1


def test_dear_faults_leave_the_rest() -> None:
    """Only exceptions take longer; a factor of one changes nothing."""
    costs, dear = CpuCosts(), CpuCosts().with_faults(2.0)
    assert CpuCosts().with_faults(1.0) == costs
    changed = {
        field.name for field in dataclasses.fields(costs) if getattr(costs, field.name) != getattr(dear, field.name)
    }
    assert changed == {"fault_anon", "fault_swapcache", "fault_wp", "fault_major"}
    assert dear.fault_anon == 2 * costs.fault_anon
