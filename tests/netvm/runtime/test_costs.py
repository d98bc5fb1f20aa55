"""The table of CPU costs."""

import dataclasses

import pytest

from netvm.runtime.costs import CpuCosts


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
