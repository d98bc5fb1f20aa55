"""How fast virtual time moves: events and task steps a second, beside SimPy's bare loop in the same run.

Three things are counted. An *event* is an atomic function that arms itself again (a packet, a timer). A *step* is one
wait of a task: sleep until a timer, run, sleep again. A *switch* is a step after which another task runs, which costs a
turn of trio's loop. SimPy's figure is one process (or a hundred) that yields timeouts: it has no tasks in trio's sense
and is the yardstick because it is what one would use otherwise.
"""

import argparse
from collections.abc import Callable
from time import perf_counter  # noqa: TID251  a benchmark reads the wall clock

import simpy

from netvm.runtime.clock import run_virtual
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import World

_STEP_NS = 1_000
_PAUSE = Resource("timer", "a pause", external=True)


def simpy_rate(nr_events: int, nr_processes: int) -> float:
    """Return SimPy's events a second for processes that yield timeouts."""
    env = simpy.Environment()

    def process(nr: int) -> simpy.events.ProcessGenerator:
        for _ in range(nr):
            yield env.timeout(1)

    for _ in range(nr_processes):
        env.process(process(nr_events // nr_processes))
    begun = perf_counter()
    env.run()
    return nr_events / (perf_counter() - begun)


def event_rate(nr_events: int, nr_chains: int) -> float:
    """Return our events a second: ``nr_chains`` atomic functions that arm themselves again."""
    world = World()
    left = nr_events

    def fire() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            world.call_after(_STEP_NS, fire)
        else:
            world.stop()

    def main() -> None:
        for _ in range(nr_chains):
            world.call_after(_STEP_NS, fire)

    return nr_events / _seconds(world, main)


def step_rate(nr_steps: int, nr_tasks: int) -> float:
    """Return our task steps a second: tasks that sleep for a while again and again."""
    world = World()
    left = nr_tasks

    async def sleeper(task: Task) -> None:
        nonlocal left
        for _ in range(nr_steps // nr_tasks):
            await world.sleep_ns(task, _STEP_NS, _PAUSE, kind=TimerKind.PROGRESS)
        left -= 1
        if not left:
            world.stop()

    def main() -> None:
        for number in range(nr_tasks):
            world.spawn(f"sleeper{number}", sleeper)

    return nr_steps / _seconds(world, main)


def _seconds(world: World, main: Callable[[], None]) -> float:
    """Return how long a world takes, without the start of trio's loop."""

    async def run() -> float:
        begun = perf_counter()
        await world.run(main)
        return perf_counter() - begun

    return run_virtual(run)


def _best(rate: Callable[[int, int], float], number: int, parallel: int, rounds: int) -> float:
    return max(rate(number, parallel) for _ in range(rounds))


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="events and task steps a second, as ratios to SimPy")
    parser.add_argument("--events", type=int, default=200_000, help="events a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    arguments = parser.parse_args()
    nr, rounds = arguments.events, arguments.rounds
    yardsticks = {parallel: _best(simpy_rate, nr, parallel, rounds) for parallel in (1, 100)}
    rows = [(f"SimPy, {parallel} process(es)", parallel, rate) for parallel, rate in yardsticks.items()]
    rows += [
        (f"events, {parallel} chain(s)", parallel, _best(event_rate, nr, parallel, rounds)) for parallel in (1, 100)
    ]
    rows += [(f"steps, {parallel} task(s)", parallel, _best(step_rate, nr, parallel, rounds)) for parallel in (1, 100)]
    print(f"{'':24} {'per second':>12} {'us each':>8} {'x SimPy':>8}")
    for name, parallel, rate in rows:
        print(f"{name:24} {rate:12,.0f} {1e6 / rate:8.2f} {rate / yardsticks[parallel]:8.2f}")


if __name__ == "__main__":
    main()
