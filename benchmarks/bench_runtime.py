"""How fast virtual time moves: events and task steps a second, beside SimPy's bare loop in the same run.

Two things are counted. An *event* is an atomic function that arms itself again (a packet, a timer). A *step* is one
wait of a task: sleep until a timer, run, sleep again; with a hundred tasks each step hands over to another one. SimPy's
figure is one process (or a hundred) that yields timeouts: it has no tasks in trio's sense.
"""

import argparse
from collections.abc import Callable

from yardstick import seconds, simpy_rate

from netvm.runtime.clock import run_virtual
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import World

_STEP_NS = 1_000
_PAUSE = Resource("timer", "a pause", external=True)


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
        begun = seconds()
        await world.run(main)
        return seconds() - begun

    return run_virtual(run)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description="events and task steps a second, as ratios to SimPy")
    parser.add_argument("--events", type=int, default=200_000, help="events a measurement")
    parser.add_argument("--rounds", type=int, default=3, help="the best of so many counts")
    arguments = parser.parse_args()
    nr, rounds = arguments.events, arguments.rounds
    measures: list[tuple[str, Callable[[int, int], float]]] = [
        ("SimPy, {} process(es)", simpy_rate),
        ("events, {} chain(s)", event_rate),
        ("steps, {} task(s)", step_rate),
    ]
    best: dict[tuple[str, int], float] = {}
    for _ in range(rounds):
        # in turn, so that a busy machine slows all of them alike
        for name, rate in measures:
            for parallel in (1, 100):
                best[name, parallel] = max(best.get((name, parallel), 0.0), rate(nr, parallel))
    print(f"{'':24} {'per second':>12} {'us each':>8} {'x SimPy':>8}")
    for (name, parallel), rate in best.items():
        unit = best[measures[0][0], parallel]
        print(f"{name.format(parallel):24} {rate:12,.0f} {1e6 / rate:8.2f} {rate / unit:8.2f}")


if __name__ == "__main__":
    main()
