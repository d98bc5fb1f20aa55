"""The second driver: a world that needs no trio loop at all.

A world steps its tasks itself (:mod:`netvm.runtime.world`), but they are born in a nursery of trio's and die in it, and
those cost a few hundred microseconds a world; a search runs a hundred thousand short worlds. :class:`DirectWorld` keeps
the coroutines in a list instead. Everything that decides (events, candidates, choices) is
:class:`netvm.runtime.world.World` as it is, so a run is the same to the byte; a test holds the two against each other.

Cancellation is trio's: a killed task's wait must raise ``trio.Cancelled``, which only trio makes. One is taken from a
cancelled scope in a small loop of its own, once, and thrown wherever trio would throw one.
"""

from collections.abc import Awaitable, Callable, Coroutine
from functools import cache
from typing import Any

import trio

from netvm.runtime.task import Task
from netvm.runtime.timer import NEVER_NS
from netvm.runtime.world import World

__all__ = ["DirectWorld"]


class _Handle:
    """What stands for the trio task: the coroutine."""

    __slots__ = ("coro",)

    def __init__(self, coro: Coroutine[Any, Any, None]) -> None:
        self.coro = coro


class _Scope:
    """What stands for the cancel scope of one task."""

    __slots__ = ("called", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.called = False

    def cancel(self) -> None:
        """Ask the task's present wait to end, if it is in one (trio.CancelScope.cancel)."""
        if not self.called:
            self.called = True
            self.task.abort(_raise_cancelled)


class DirectWorld(World):
    """A world that needs no trio loop: :meth:`run_directly` instead of :meth:`run`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._unborn: list[tuple[Task, Coroutine[Any, Any, None]]] = []
        # the spawning side asks only whether there is a nursery, and starts children in it
        self._nursery: Any = self

    def start_soon(
        self,
        main: Callable[..., Coroutine[Any, Any, None]],
        task: Task,
        function: Callable[..., Awaitable[None]],
        args: tuple[Any, ...],
        *,
        name: str,  # noqa: ARG002  the nursery's signature
    ) -> None:
        """Keep a new task's coroutine until control comes back to the driver (trio.Nursery.start_soon)."""
        self._unborn.append((task, main(task, function, args)))

    async def _task_main(self, task: Task, function: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        scope: Any = _Scope(task)
        task.scope = scope
        try:
            await self._live(task, function, args)
        except trio.Cancelled:
            assert task.killed or self.stopped

    def run_directly(self, main: Callable[[], object]) -> None:
        """Run until :meth:`stop`, as :meth:`netvm.runtime.world.World.run` would. Raises what that raises."""
        try:
            main()
            while not self.stopped:
                if self._unborn:
                    self._bear()
                task, self._picked = self._picked, None
                if task is not None:
                    self._step(task)
                elif not self.dispatch(NEVER_NS):
                    break
        except BaseException as error:  # noqa: BLE001  raised below, when all is unwound
            self.fail(error)
        self.stopped = True
        for task, coro in self._unborn:
            coro.close()
            del self.tasks[task.number]
        self._unborn.clear()
        for task in self.tasks.values():
            task.raise_cancel = _raise_cancelled
        self._unwind()
        if self._failure is not None:
            raise self._failure

    def _bear(self) -> None:
        """Let new tasks run to where they wait to be picked for the first time."""
        unborn, self._unborn = self._unborn, []
        for task, coro in unborn:
            self._nr_unborn -= 1
            handle: Any = _Handle(coro)
            task.trio_task = handle
            coro.send(None)
            if task.killed:
                assert task.scope is not None
                task.scope.cancel()

    def _step(self, task: Task) -> None:
        try:
            super()._step(task)
        except StopIteration:
            assert task.number not in self.tasks


def _raise_cancelled() -> None:
    """Raise a trio.Cancelled, which only trio can make."""
    raise _cancelled().with_traceback(None) from None


@cache
def _cancelled() -> trio.Cancelled:
    """Return the one that all waits are ended with: a small loop of trio's costs more than what a host does in it."""
    return trio.run(_caught)


async def _caught() -> trio.Cancelled:
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            caught.append(error)
            raise
    return caught[0]
