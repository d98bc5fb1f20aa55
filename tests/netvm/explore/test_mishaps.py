"""What is allowed to go wrong goes wrong on a whole host: a packet, an allocation, the order of completions."""

import pytest

from netvm.explore.oracles import SteeredOracle
from netvm.explore.subject import Subject
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment

SMALL = {
    "machine": {"ram_mib": 24, "reserved_pages": 1024},
    "nic": {"kind": "e1000", "ring": 16},
    "storage": {"kind": "nbd", "size_mib": 64},
    "workload": [{"kind": "anon-hog", "mib": 20, "passes": 1}],
    "vm": {"min_free_kbytes": 512},
}


class _Unlucky(SteeredOracle):
    """Whatever may go wrong does, in the way given."""

    def __init__(self, mishap: int) -> None:
        super().__init__([])
        self.mishap = mishap
        self.kinds: set[str] = set()

    def choose(self, kind: str, nr_options: int) -> int:
        super().choose(kind, nr_options)
        if kind in ("task", "event"):
            return 0
        self.kinds.add(kind)
        return self.mishap


@pytest.mark.parametrize(("kind", "way"), [("packet", 1), ("packet", 2), ("packet", 3), ("alloc", 1), ("complete", 1)])
def test_a_mishap_changes_the_run_and_the_host_gets_over_it(kind: str, way: int) -> None:
    """It happens as often as allowed, and everything is written and drained all the same."""
    scenario = scenario_from(SMALL, origin="test")
    calm = Subject(scenario=scenario, name="x").run(SteeredOracle([]))
    oracle = _Unlucky(way)
    schedule = Subject(scenario=scenario, name="x", mishaps={kind: 3}).run(oracle)
    assert oracle.kinds == {kind}
    assert schedule.experiment.world.mishaps == {kind: 0}
    assert isinstance(schedule.experiment, Experiment)
    assert schedule.broken is None
    worlds = calm.experiment.world, schedule.experiment.world
    assert len({(world.nr_events, world.nr_steps, world.now_ns) for world in worlds}) == 2
