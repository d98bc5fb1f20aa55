"""The direct driver does what trio's loop does, to the byte."""

from collections.abc import Callable

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.explore.driver import DirectWorld
from netvm.runtime.clock import run_virtual
from netvm.runtime.oracle import RandomOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task
from netvm.runtime.world import World
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.load import scenario_from
from netvm.scenario.outcome import outcome_json
from netvm.scenario.run import Experiment

PAUSE = Resource("timer", "a pause", external=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 6), st.integers(0, 3), st.booleans())
def test_abstract_runs_are_the_same(seed: int, reserve: int, writebacks: int, drop: bool) -> None:
    """Same choices, same result, whichever driver runs the machine."""
    keys = {"frames": 6, "reserve": reserve, "writebacks": writebacks, "drop": drop}
    scenario = scenario_from({"abstract": keys, "run": {"max_steps": 200, "seed": seed}}, origin="test")
    by_trio = AbstractExperiment(scenario, name="x", oracle=RandomOracle(Seeds(seed)))
    run_virtual(by_trio.run)
    direct = AbstractExperiment(scenario, name="x", oracle=RandomOracle(Seeds(seed)), make_world=DirectWorld)
    assert isinstance(direct.world, DirectWorld)
    direct.world.run_directly(direct.main)
    assert by_trio.world.choices == direct.world.choices
    assert outcome_json(by_trio.outcome()) == outcome_json(direct.outcome())


SMALL = {
    "machine": {"ram_mib": 24, "reserved_pages": 1024},
    "nic": {"kind": "e1000", "ring": 16},
    "storage": {"kind": "nbd", "size_mib": 64},
    "workload": [{"kind": "anon-hog", "mib": 24, "passes": 1}],
    "vm": {"min_free_kbytes": 512},
}


@pytest.mark.parametrize("seed", [1, 2])
def test_runs_of_a_host_are_the_same(seed: int) -> None:
    """A whole host under pressure, swapping over a network, with every choice made at random."""
    scenario = scenario_from(SMALL | {"run": {"seed": seed}}, origin="test")
    by_trio = Experiment(scenario, name="x", oracle=RandomOracle(Seeds(seed)))
    run_virtual(by_trio.run)
    direct = Experiment(scenario, name="x", oracle=RandomOracle(Seeds(seed)), make_world=DirectWorld)
    assert isinstance(direct.world, DirectWorld)
    direct.world.run_directly(direct.main)
    assert by_trio.world.choices
    assert by_trio.world.choices == direct.world.choices
    assert outcome_json(by_trio.outcome()) == outcome_json(direct.outcome())


def story(make: Callable[..., World]) -> list[str]:
    """Let one task kill two others, one in a killable wait and one not, and tell what happens."""
    told: list[str] = []
    world = make(oracle=RandomOracle(Seeds(3)))

    async def victim(task: Task, killable: bool) -> None:
        try:
            for _ in range(3):
                await world.sleep_on(task, PAUSE, timeout_ns=100, kind=0, killable=killable)
                told.append(f"{task.comm} slept at {world.now_ns}")
        finally:
            told.append(f"{task.comm} ends at {world.now_ns}")

    async def killer(task: Task) -> None:
        await world.sleep_on(task, PAUSE, timeout_ns=150, kind=0)
        for other in list(world.tasks.values()):
            if other is not task:
                other.kill()
        await world.sleep_on(task, PAUSE, timeout_ns=1000, kind=0)
        world.stop()

    def main() -> None:
        world.spawn("mortal", victim, True)
        world.spawn("deaf", victim, False)
        world.spawn("killer", killer)

    if isinstance(world, DirectWorld):
        world.run_directly(main)
    else:

        async def run() -> None:
            await world.run(main)

        run_virtual(run)
    return [*told, str(world.choices)]


def test_a_kill_ends_a_killable_wait_alike() -> None:
    """A killed task's killable wait ends at once, any other at its own time."""
    told = story(DirectWorld)
    assert "mortal ends at 150" in told
    assert "deaf ends at 300" in told
    assert told == story(World)


def test_an_exception_of_the_model_reaches_the_caller() -> None:
    """What a task raises ends the run and is raised by it, after the others have cleaned up."""
    world = DirectWorld()
    cleaned: list[str] = []

    async def waits(task: Task) -> None:
        try:
            await world.sleep_on(task, PAUSE)
        finally:
            cleaned.append(task.comm)

    async def breaks(task: Task) -> None:
        await world.yield_cpu(task)
        raise ValueError(task.comm)

    def main() -> None:
        world.spawn("waits", waits)
        world.spawn("breaks", breaks)

    with pytest.raises(ValueError, match="breaks"):
        world.run_directly(main)
    assert cleaned == ["waits"]
    assert not isinstance(trio.lowlevel, Exception)
