"""A fingerprint tells where everybody is."""

from netvm.explore.driver import DirectWorld
from netvm.explore.fingerprint import fingerprint, is_complete, place
from netvm.runtime.task import Resource, Task
from netvm.scenario.load import scenario_from
from netvm.scenario.run import Experiment

PAUSE = Resource("timer", "a pause", external=True)


def test_a_place_is_function_instruction_and_plain_locals() -> None:
    """The same wait in the same function with another counter is another place."""
    world = DirectWorld()
    places = []

    async def counts(task: Task) -> None:
        for _turn in range(3):
            await world.sleep_on(task, PAUSE, timeout_ns=10, kind=0)

    async def looks(task: Task) -> None:
        other = next(t for t in world.tasks.values() if t.comm == "counts")
        for _ in range(3):
            await world.sleep_on(task, PAUSE, timeout_ns=10, kind=0)
            places.append(place(other))
        world.stop()

    def main() -> None:
        world.spawn("looks", looks)
        world.spawn("counts", counts)

    world.run_directly(main)
    assert len(set(places)) == 3
    assert any("_turn" in str(p) for p in places)


def test_a_host_has_a_fingerprint_before_it_runs() -> None:
    """Two hosts booted alike are in the same state, which is not said to be told apart completely."""
    scenario = scenario_from(
        {
            "machine": {"ram_mib": 24},
            "storage": {"kind": "disk", "size_mib": 8},
            "workload": [{"kind": "anon-hog", "mib": 1}],
        },
        origin="test",
    )
    one, other = (Experiment(scenario, name="x", make_world=DirectWorld) for _ in range(2))
    assert fingerprint(one) == fingerprint(other)
    assert not is_complete(one)
