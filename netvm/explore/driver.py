"""The second driver: a world whose coroutines are stepped directly, without trio's loop.

trio's loop costs several microseconds a step and its nurseries a few hundred a world; a search runs a hundred
thousand short worlds. The model uses trio for one thing only: a task parks in
``trio.lowlevel.wait_task_rescheduled`` and is rescheduled when the dispatcher picks it. :class:`DirectWorld` does just
that by hand: it sends into the coroutine that was picked and gets back control when it parks. Everything that decides
(events, candidates, choices) is :class:`netvm.runtime.world.World` as it is, so a run is the same to the byte; a test
holds the two against each other.

Cancellation is trio's: a killed task's wait must raise ``trio.Cancelled``, which only trio makes. One is taken from a
cancelled scope in a small loop of its own and thrown where trio would throw it.
"""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import outcome
import trio

from netvm.runtime.task import NOT_WAITING, Task, TaskState
from netvm.runtime.timer import NEVER_NS
from netvm.runtime.world import World

__all__ = ["DirectWorld"]

_UNWINDINGS_MAX = 16
"""Waits in ``finally`` blocks that the end of a world cuts short before the coroutine is given up."""


class _Resumed:
    """What a picked task's wait returns (``outcome.Value`` may be used once only)."""

    __slots__ = ()

    def unwrap(self) -> None:
        """Return nothing, as trio's own reschedule does."""


_RESUMED = _Resumed()


class _Handle:
    """What stands for the trio task: the coroutine, for :meth:`netvm.runtime.task.Task.stack`."""

    __slots__ = ("coro",)

    def __init__(self, coro: Coroutine[Any, Any, None]) -> None:
        self.coro = coro


class _Scope:
    """What stands for the cancel scope of one task."""

    __slots__ = ("called", "task", "world")

    def __init__(self, world: "DirectWorld", task: Task) -> None:
        self.world = world
        self.task = task
        self.called = False

    def cancel(self) -> None:
        """Ask the task's present wait to end, if it is in one (trio.CancelScope.cancel)."""
        if self.called:
            return
        self.called = True
        if self.world.running is not self.task:
            self.task.abort(_raise_cancelled)


class DirectWorld(World):
    """A world that needs no trio loop: :meth:`run_directly` instead of :meth:`run`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.running: Task | None = None
        self._unborn: list[tuple[Task, Coroutine[Any, Any, None]]] = []
        self._handles: list[_Handle] = []
        self._picked: tuple[Task, Any] | None = None
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
        self._nr_unborn -= 1
        scope: Any = _Scope(self, task)
        task.scope = scope
        try:
            try:
                await trio.lowlevel.wait_task_rescheduled(task.abort)
                await function(task, *args)
            finally:
                self._ended(task)
        except GeneratorExit:
            raise
        except trio.Cancelled:
            assert task.killed or self.stopped
        except BaseException as error:  # noqa: BLE001  carried to the caller of the run
            self.fail(error)

    def _resume(self, task: Task) -> None:
        task.state = TaskState.RUNNING
        if task.interrupted:
            self._interrupt(task)
        else:
            task.raise_cancel = None
            self._picked = (task, _RESUMED)

    def _interrupt(self, task: Task) -> None:
        assert task.raise_cancel is not None
        task.raise_cancel = None
        task.interrupted = False
        task.resource = NOT_WAITING
        self._picked = (task, outcome.capture(_raise_cancelled))

    def stop(self) -> None:
        """End the run: nothing more happens in this world."""
        self.stopped = self.attention = True

    def run_directly(self, main: Callable[[], object]) -> None:
        """Run until :meth:`stop`, as :meth:`netvm.runtime.world.World.run` would. Raises what that raises."""
        try:
            main()
            while not self.stopped:
                if self._unborn:
                    self._bear()
                picked, self._picked = self._picked, None
                if picked is not None:
                    self._step(*picked)
                elif not self.dispatch(NEVER_NS):
                    break
        except BaseException as error:  # noqa: BLE001  raised below, when all is unwound
            self.fail(error)
        self.stopped = True
        self._unwind()
        if self._failure is not None:
            raise self._failure

    def _bear(self) -> None:
        """Let new tasks run to where they wait to be picked for the first time."""
        unborn, self._unborn = self._unborn, []
        for task, coro in unborn:
            handle: Any = _Handle(coro)
            task.trio_task = handle
            self._handles.append(handle)
            coro.send(None)
            if task.killed:
                assert task.scope is not None
                task.scope.cancel()

    def _step(self, task: Task, resumed: Any) -> None:
        handle: Any = task.trio_task
        self.running = task
        try:
            handle.coro.send(resumed)
        except StopIteration:
            return
        finally:
            self.running = None
        scope: Any = task.scope
        if scope.called:
            # trio asks every new wait of a cancelled task
            task.abort(_raise_cancelled)

    def _unwind(self) -> None:
        """Let every coroutine clean up: no model time passes any more."""
        for handle in self._handles:
            coro: Any = handle.coro
            for _ in range(_UNWINDINGS_MAX):
                if coro.cr_frame is None:
                    break
                try:
                    coro.throw(GeneratorExit)
                except (GeneratorExit, StopIteration):
                    break
                except BaseException as error:  # noqa: BLE001  the run's own
                    self.fail(error)
                    break
        for _task, coro in self._unborn:
            coro.close()
        self._handles.clear()
        self._unborn.clear()


def _raise_cancelled() -> None:
    """Raise a trio.Cancelled, which only trio can make."""
    trio.run(_cancelled)


async def _cancelled() -> None:
    caught: list[trio.Cancelled] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled as error:
            caught.append(error)
            raise
    raise caught[0]
