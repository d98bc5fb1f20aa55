"""What the tests of virtual time share: a world that runs until its tasks have ended."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest

from netvm.runtime.clock import run_virtual
from netvm.runtime.task import Task
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


@pytest.fixture(scope="session")
def run() -> Callable[..., list[Task]]:
    """Return :func:`run_world`."""
    return run_world
