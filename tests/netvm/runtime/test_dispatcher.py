"""The dispatcher: events in their order, observers between them, and the oracle's choices among both and tasks."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.runtime.clock import run_virtual
from netvm.runtime.cpu import Cpus
from netvm.runtime.oracle import FifoOracle, Oracle, RandomOracle, ReplayOracle, TapeMismatchError
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerHandle
from netvm.runtime.world import World

Run: TypeAlias = Callable[..., list[Task]]
Play: TypeAlias = Callable[[Oracle], tuple[list[object], list[int]]]
PAUSE = Resource("timer", "a pause", external=True)
INSTANTS = st.integers(0, 6)


def run_events(world: World, prepare: Callable[[], object]) -> None:
    """Run a world without tasks until nothing is left to happen."""
    world.quiesced = world.stop
    run_virtual(lambda: world.run(prepare))


# -- events ---------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(INSTANTS, max_size=30))
def test_events_run_in_order_of_time_and_making(times_ns: list[int]) -> None:
    """Events of one instant run in the order they were made, and each finds its own time on the clock."""
    world = World()
    log: list[tuple[int, int]] = []

    def happen(number: int) -> None:
        log.append((world.now_ns, number))

    def prepare() -> None:
        for number, time_ns in enumerate(times_ns):
            world.call_at(time_ns, happen, number)

    run_events(world, prepare)
    assert log == sorted((time_ns, number) for number, time_ns in enumerate(times_ns))
    assert world.nr_events == len(times_ns)


@settings(deadline=None)
@given(st.lists(st.tuples(INSTANTS, INSTANTS, st.booleans()), max_size=20))
def test_events_that_make_and_cancel_events(plans: list[tuple[int, int, bool]]) -> None:
    """A cancelled event does not run, one made for this instant runs after those that were there: a sorted list."""
    world = World()
    log: list[tuple[int, str]] = []
    armed: list[TimerHandle] = []

    def happen(name: str, delay_ns: int, cancels: bool) -> None:
        log.append((world.now_ns, name))
        if cancels:
            world.cancel(armed[-1])
        else:
            world.call_after(delay_ns, child, name + "'")

    def child(name: str) -> None:
        log.append((world.now_ns, name))

    def prepare() -> None:
        for number, (time_ns, delay_ns, cancels) in enumerate(plans):
            armed.append(world.call_at(time_ns, happen, str(number), delay_ns, cancels))

    run_events(world, prepare)
    assert log == _model_of_events(plans)


def _model_of_events(plans: list[tuple[int, int, bool]]) -> list[tuple[int, str]]:
    """Do the same with a list that is sorted before each step."""
    events = [(plan[0], number, str(number), plan) for number, plan in enumerate(plans)]
    last = events[-1] if events else None
    log = []
    sequence = len(events)
    while events:
        events.sort(key=lambda event: event[:2])
        time_ns, _, name, plan = event = events.pop(0)
        log.append((time_ns, name))
        if not name.endswith("'"):
            if plan[2] and last in events:
                events.remove(last)
            elif not plan[2]:
                events.append((time_ns + plan[1], sequence, name + "'", plan))
                sequence += 1
        del event
    return log


def test_observers_look_at_their_time(run: Run) -> None:
    """Before the events of their instant, between events and under a task that works; not where nothing comes."""
    world = World()
    cpus = Cpus(world, 1)
    log: list[tuple[int, str]] = []

    def note(what: str) -> None:
        log.append((world.now_ns, what))

    async def body(task: Task) -> None:
        world.call_after(10, note, "event")
        world.observe_after(10, lambda: note("look"))
        world.observe_after(5, lambda: note("look"))
        world.observe_after(1000, lambda: note("never"))
        await world.sleep_ns(task, 20, PAUSE)
        world.observe_after(10, lambda: note("look"))
        cpus.charge(task, 30)
        await cpus.pay(task)
        note("paid")

    run(world, body, cpus=cpus)
    assert log == [(5, "look"), (10, "look"), (10, "event"), (30, "look"), (50, "paid")]


def test_a_world_with_only_observers_is_quiescent() -> None:
    """Nobody but them is left, so nothing will happen, however often they look."""
    world = World()
    told: list[int] = []

    def look() -> None:
        told.append(world.now_ns)
        world.observe_after(5, look)

    world.quiesced = world.stop

    def main() -> None:
        look()
        world.call_after(12, lambda: None)

    run_virtual(lambda: world.run(main))
    assert told == [0, 5, 10]


# -- choices --------------------------------------------------------------------------------------------------------


def test_the_same_program_runs_the_same_twice(play: Play) -> None:
    """Without deviations there is one order, and the recorded choices are all zero."""
    log, choices = play(FifoOracle())
    assert play(FifoOracle()) == (log, choices)
    assert set(choices) == {0}
    assert len(log) > 40


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1 << 32))
def test_recorded_choices_replay_any_run(play: Play, seed: int) -> None:
    """Any seed: the list of choices alone gives the same log and the same choices."""
    log, choices = play(RandomOracle(Seeds(seed)))
    assert play(ReplayOracle(choices)) == (log, choices)
    assert play(RandomOracle(Seeds(seed))) == (log, choices)


def test_seeds_differ(play: Play) -> None:
    """Random oracles of several seeds find several orders."""
    assert len({str(play(RandomOracle(Seeds(seed)))[0]) for seed in range(10)}) == 10


def test_a_fifo_run_replays_from_an_empty_tape(play: Play) -> None:
    """After the end of its tape a replay is fifo."""
    assert play(ReplayOracle([]))[0] == play(FifoOracle())[0]


def test_each_event_of_an_instant_may_come_first() -> None:
    """An oracle that explores events is offered all of an instant, and what it chooses happens; none is lost."""
    orders = set()
    for tape in ([i, j] for i in range(3) for j in range(2)):
        world = World(oracle=ReplayOracle(tape))
        log: list[str] = []

        def prepare(world: World = world, log: list[str] = log) -> None:
            for name in "abc":
                world.call_at(5, log.append, name)
            world.cancel(world.call_at(5, log.append, "cancelled"))
            world.call_at(6, log.append, "d")

        run_events(world, prepare)
        orders.add("".join(log))
        assert world.choices == tape
    assert orders == {"abcd", "acbd", "bacd", "bcad", "cabd", "cbad"}


@pytest.mark.parametrize("position", [0, 10, 20])
def test_a_tape_that_does_not_fit_names_the_place(play: Play, position: int) -> None:
    """A choice that the run does not offer raises where the tape leaves it, whoever was running then."""
    _, choices = play(RandomOracle(Seeds(1)))
    tape = [*choices[:position], 99]
    with pytest.raises(TapeMismatchError, match=rf"choice {position} of the tape is 99, but this \w+ has \d options"):
        play(ReplayOracle(tape))


@pytest.mark.slow
def test_neither_hashing_nor_hypothesis_changes_a_run() -> None:
    """Processes with other hash seeds, or where Hypothesis has made trio's batches deterministic, run the same."""
    outputs = {
        _in_a_process(hash_seed="1"),
        _in_a_process(hash_seed="2"),
        _in_a_process(hash_seed="2", first="hypothesis"),
    }
    assert len(outputs) == 1
    assert outputs.pop().count("killed") > 3


def _in_a_process(*, hash_seed: str, first: str = "sys") -> str:
    """Return what the small program logs in a process of its own."""
    program = f"""
import {first}, runpy, sys
play = runpy.run_path({str(Path(__file__).with_name("conftest.py"))!r})["play_program"]
from netvm.runtime.oracle import FifoOracle, RandomOracle
from netvm.runtime.seeds import Seeds
assert ("hypothesis" in sys.modules) == ({first!r} == "hypothesis")
for oracle in (FifoOracle(), RandomOracle(Seeds(1)), RandomOracle(Seeds(2))):
    print(play(oracle))
"""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()
