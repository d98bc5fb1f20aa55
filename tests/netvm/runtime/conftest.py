"""What the tests of virtual time share: a world that runs until its tasks have ended, and a small program.

The program is run in processes of their own too, also ones without Hypothesis: this file does not import it.
"""

import signal
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import pytest
import trio

from netvm.runtime.clock import run_virtual
from netvm.runtime.cpu import Cpus
from netvm.runtime.oracle import Oracle
from netvm.runtime.task import Resource, Task
from netvm.runtime.wait import Semaphore, WaitQueue
from netvm.runtime.world import World

Body: TypeAlias = Callable[[Task], Awaitable[None]]


def run_world(
    world: World, *bodies: Body, prepare: Callable[[list[Task]], object] = lambda tasks: None, **how: Any
) -> list[Task]:
    """Run ``bodies`` as tasks t1, t2, ... and return them; the world stops when all have ended.

    ``prepare`` is called before the first of them runs; ``how`` are arguments of spawn.
    """
    tasks: list[Task] = []

    def main() -> None:
        tasks.extend(world.spawn(f"t{number}", body, **how) for number, body in enumerate(bodies, start=1))
        left = list(tasks)

        def ended(task: Task) -> None:
            left.remove(task)
            if not left:
                world.stop()

        for task in tasks:
            task.on_exit.append(ended)
        prepare(tasks)

    run_virtual(lambda: world.run(main))
    return tasks


@pytest.fixture
def control_c() -> Iterator[Callable[[], None]]:
    """Return what sends Ctrl-C to this process, which listens to it even if whoever started it does not."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def run() -> Callable[..., list[Task]]:
    """Return :func:`run_world`."""
    return run_world


def play_program(oracle: Oracle) -> tuple[list[object], list[int]]:
    """Run a small program full of choice points; return its log and the choices taken."""
    world = World(oracle=oracle)
    cpus = Cpus(world, 2)
    pause = Resource("timer", "a pause", external=True)
    queue = WaitQueue(world, Resource("reply", "news"))
    lock = Semaphore(world, "a lock")
    log: list[object] = []

    async def worker(task: Task) -> None:
        for number in range(4):
            await lock.down(task)
            log.append((world.now_ns, task.number, "holds"))
            if task.cpus is not None:
                cpus.charge(task, 2 + number)
                await cpus.pay(task)
            await world.sleep_ns(task, task.number % 3, pause)
            lock.up(task)
            try:
                woken = await queue.wait(task, timeout_ns=number + 1, killable=True)
            except trio.Cancelled:
                log.append((world.now_ns, task.number, "killed"))
                raise
            log.append((world.now_ns, task.number, woken))

    def tick(name: str) -> None:
        log.append((world.now_ns, name))
        queue.wake_one()
        if world.now_ns < 30:
            world.call_after(3, tick, name)

    def kill(tasks: list[Task]) -> None:
        for task in tasks:
            task.kill()

    def prepare() -> None:
        tasks = [world.spawn(f"w{number}", worker, cpus=cpus if number % 2 else None) for number in range(6)]
        for name in "abc":
            world.call_after(3, tick, name)
        world.call_after(4, kill, [tasks[index] for index in (5, 2, 3)])

    world.quiesced = world.stop
    run_virtual(lambda: world.run(prepare))
    return log, world.choices


@pytest.fixture(scope="session")
def play() -> Callable[[Oracle], tuple[list[object], list[int]]]:
    """Return :func:`play_program`."""
    return play_program
