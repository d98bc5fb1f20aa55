"""One run: virtual time, the events on it, the tasks in it, and the dispatcher that picks what happens next.

Two kinds of code live in a world. *Process context* is a :class:`netvm.runtime.task.Task`, a trio task that may sleep;
*atomic context* (interrupts, softirqs, timers, completions) is a plain function on the virtual-time heap, which may
not. At most one of them runs at an instant. A task runs until it waits; then the dispatcher runs due atomic functions,
moves ``now_ns`` forward, and hands the CPU to the task that may run next.

A turn of trio's loop, with its look at the sockets, takes longer than most steps of a task. So tasks are born in trio,
are in its nursery and its cancel scopes, but between birth and end they are detached from its loop
(``trio.lowlevel.temporarily_detach_coroutine_object``) and the run's own trio task steps them. It gives trio a turn
every few thousand steps, and when it has nothing to do: then trio's clock (:mod:`netvm.runtime.clock`) dispatches. A
task that goes on with itself does not even park. Only trio's public API is used and trio's own order of runnable tasks
never matters, because there is never more than one.

The candidates are ordered by what a kernel would do and the oracle (:mod:`netvm.runtime.oracle`) chooses from them.
Every choice is recorded: seed and scenario, or the list of choices, replay a run to the byte.

When nothing but retry timers (:class:`netvm.runtime.timer.TimerKind`) is left the world may be hung:
:mod:`netvm.runtime.hang` listens and decides. CPU time is a resource (:mod:`netvm.runtime.cpu`): a task of a host with
CPUs runs only while it holds one.

A detached task may await this world's waits only. In a world made with ``trio_deadlines=True`` tasks stay on trio's
loop: they may use trio's own cancel scopes and events, and deadlines are honoured exactly; otherwise a world may
dispatch past deadlines around it, since trio tells its deadlines to the clock only.
"""

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

import outcome
import trio

from netvm.runtime.cpu import Cpus
from netvm.runtime.dispatcher import TURN, Dispatcher
from netvm.runtime.oracle import FifoOracle, Oracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import NOT_WAITING, Resource, Task, TaskState
from netvm.runtime.timer import NEVER_NS, TimerKind

__all__ = ["TIMED_OUT", "World"]

_UNWINDINGS_MAX = 16
"""Waits in ``finally`` blocks that the end of a world cuts short before a task is given up."""

_RETRY = int(TimerKind.RETRY)
# read from a module a member of an Enum is ten times faster than from its class
_RUNNING, _RUNNABLE, _SLEEPING = TaskState.RUNNING, TaskState.RUNNABLE, TaskState.SLEEPING

TIMED_OUT: Any = type("TimedOut", (), {"__repr__": lambda _self: "TIMED_OUT", "__slots__": ()})()
"""What :meth:`World.sleep_on` returns when its timeout passed."""


class World(Dispatcher):
    """The virtual time, events and tasks of one run."""

    def __init__(
        self, *, seeds: Seeds | None = None, oracle: Oracle | None = None, trio_deadlines: bool = False
    ) -> None:
        super().__init__(oracle if oracle is not None else FifoOracle(), steps_tasks=not trio_deadlines)
        self.seeds = seeds if seeds is not None else Seeds(0)
        self.tasks: dict[int, Task] = {}
        """Tasks that have not ended, by number."""
        self.quiesced: Callable[[], None] | None = None
        """Called when no task can run and no timer is left at all."""
        self.stepping: Task | None = None
        """The task whose coroutine is being stepped: whatever calls now is part of it."""
        self._next_task_number = 1
        # who parked only to give trio a turn
        self._given_turn: Task | None = None
        self._nursery: trio.Nursery | None = None
        # invariant: the run's own trio task while it is parked, or None
        self._root: trio.lowlevel.Task | None = None
        # whose coroutine is to be stepped next
        self._picked: Task | None = None

    # -- tasks ----------------------------------------------------------------------------------------------------

    def spawn(
        self,
        comm: str,
        function: Callable[..., Awaitable[None]],
        *args: Any,
        cpus: Cpus | None = None,
        flags: int = 0,
        nice: int = 0,
        pid: int | None = None,
    ) -> Task:
        """Start ``function(task, *args)`` as a task. It is ready at once and first runs when the oracle picks it."""
        assert self._nursery is not None, "a world's tasks start while it runs"
        number = self._next_task_number
        self._next_task_number += 1
        task = Task(world=self, number=number, comm=comm, pid=pid, cpus=cpus, flags=flags, nice=nice)
        self.tasks[number] = task
        self._nr_unborn += 1
        self._enqueue(task, new=True)
        self._nursery.start_soon(self._task_main, task, function, args, name=comm)
        return task

    async def _task_main(self, task: Task, function: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        task.trio_task = trio.lowlevel.current_task()
        self._nr_unborn -= 1
        if self.stopped:
            self._ended(task)
            return
        try:
            with trio.CancelScope() as task.scope:
                if task.killed:
                    task.scope.cancel()
                try:
                    await self._live(task, function, args)
                finally:
                    if self.stepping is task:
                        await trio.lowlevel.reattach_detached_coroutine_object(task.trio_task, None)
        except BaseException as error:
            if _is_trios(error):
                raise
            self.fail(error)

    async def _live(self, task: Task, function: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        """Be a task from its first step to its last; what goes wrong in it ends the run at once."""
        try:
            try:
                if self.steps_tasks:
                    await trio.lowlevel.temporarily_detach_coroutine_object(task.abort)
                else:
                    await trio.lowlevel.wait_task_rescheduled(task.abort)
                await function(task, *args)
            finally:
                self._ended(task)
        except BaseException as error:
            if _is_trios(error):
                raise
            self.fail(error)

    def _ended(self, task: Task) -> None:
        self.tasks.pop(task.number, None)
        if self.stopped:
            return
        # whoever waits for it outside, in trio, is to hear of it before time goes on
        self._turn_left = 0
        task.state = TaskState.DEAD
        if task.cpus is not None:
            task.cpus.release(task)
        for callback in task.on_exit:
            callback(task)

    def wake(self, task: Task, value: Any = None) -> bool:
        """End a task's wait and make it ready; return False if it was not waiting."""
        if task.state is not _SLEEPING:
            return False
        timer = task.timer
        if timer is not None:
            task.timer = None
            self.cancel(timer)
        task.state = _RUNNABLE
        task.wake_value = value
        self._enqueue(task, new=False)
        return True

    def _enqueue(self, task: Task, *, new: bool) -> None:
        self.attention = True
        if task.cpus is None:
            self._ready.append(task)
        else:
            task.cpus.enqueue(task, new=new)

    def cancelled(self, task: Task) -> None:
        """A killable wait was cancelled: the task goes through the ready list like any other.

        trio cancels the children of a nursery in set order, so the list is ordered by task number here.
        """
        if self.wake(task) and task.cpus is None:
            self._ready.sort(key=_by_number)

    async def sleep_on(
        self,
        task: Task,
        resource: Resource,
        *,
        timeout_ns: int | None = None,
        kind: int = _RETRY,
        killable: bool = False,
        interruptible: bool = False,
    ) -> Any:
        """Sleep until woken; return what :meth:`wake` was given, or :data:`TIMED_OUT` when ``timeout_ns`` passed.

        Uninterruptible by default (state D). Raises trio.Cancelled in a killable wait of a killed task.
        """
        if self.current is not task:
            await self._park_for_good(task)
        task.state = _SLEEPING
        task.resource = resource
        task.killable = killable or interruptible
        task.interruptible = interruptible
        task.asleep_since_ns = self.now_ns
        for hook in task.sleep_hooks:
            hook(task)
        if timeout_ns is not None:
            site = task.retry_site(resource) if kind == _RETRY else ""
            task.timer = self.call_after(timeout_ns, self._timed_out, task, kind=kind, site=site)
        if task.cpus is not None:
            task.cpus.release(task)
        if task.raise_cancel is not None:
            task.abort(task.raise_cancel)
        if not self._dispatch_from(task):
            await self._park(task)
        task.resource = NOT_WAITING
        return task.wake_value

    async def _park_for_good(self, task: Task) -> None:
        """Only what cleans up after the end of the run waits without having been picked: its wait is cancelled."""
        assert self.stopped, f"{task} waits while {self.current} runs"
        await self._park(task)

    async def _park(self, task: Task) -> None:
        """Give way to whoever steps the tasks: this world, or trio's loop."""
        if self.steps_tasks:
            await _give_way()
        else:
            await trio.lowlevel.wait_task_rescheduled(task.abort)

    def caller(self) -> Task | None:
        """Return the task of this world that the caller is, None for any other trio task."""
        if self.steps_tasks:
            return self.stepping
        current = self.current
        return current if current is not None and current.trio_task is trio.lowlevel.current_task() else None

    def _timed_out(self, task: Task) -> None:
        task.timer = None
        self.wake(task, TIMED_OUT)

    def sleep_ns(
        self, task: Task, delay_ns: int, resource: Resource, *, kind: int = _RETRY
    ) -> Coroutine[Any, Any, object]:
        """Sleep uninterruptibly for ``delay_ns`` (to be awaited; a plain function spares every switch a frame)."""
        return self.sleep_on(task, resource, timeout_ns=delay_ns, kind=kind)

    async def yield_cpu(self, task: Task) -> None:
        """Give way: the task stays runnable and runs again when it is picked (schedule())."""
        if self.current is not task:
            await self._park_for_good(task)
        task.state = _RUNNABLE
        task.killable = False
        if task.cpus is not None:
            task.cpus.release(task)
        self._enqueue(task, new=False)
        if not self._dispatch_from(task):
            await self._park(task)

    async def give_trio_a_turn(self, task: Task) -> None:
        """Park and go on as if nothing had been: trio sees to Ctrl-C and real sockets, the model notices nothing."""
        assert self.current is task
        self._given_turn = task
        await self._park(task)

    # -- the run --------------------------------------------------------------------------------------------------

    async def run(self, main: Callable[[], object]) -> None:
        """Run until :meth:`stop`: call ``main`` once (it spawns the first tasks), then dispatch.

        Must be called under :func:`netvm.runtime.clock.run_virtual` or with a VirtualClock. Raises what ``main``, an
        atomic function, a task, a hook or the oracle raised, as it is; KeyboardInterrupt on Ctrl-C.
        """
        clock: Any = trio.lowlevel.current_clock()
        clock.attach(self)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    main()
                    await self._step_tasks()
                except BaseException as error:
                    if _is_trios(error):
                        raise
                    self.fail(error)
                finally:
                    self.stopped = True
                    nursery.cancel_scope.cancel()
                    self._unwind()
        except BaseExceptionGroup as group:
            # Ctrl-C that trio had no turn to deliver before the run was over comes at the nursery's end
            if group.split(KeyboardInterrupt)[1] is not None:
                raise
            raise KeyboardInterrupt from None
        finally:
            self.stopped = True
            self._nursery = None
            clock.detach(self)
        if self._failure is not None:
            raise self._failure

    def _abort_root(self, _raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        self._root = None
        self.stopped = True
        return trio.lowlevel.Abort.SUCCEEDED

    async def _step_tasks(self) -> None:
        """Step whatever task is picked until the run ends; park while there is none, and when trio is due a turn."""
        while not self.stopped:
            task, self._picked = self._picked, None
            if task is None and self._may_dispatch() and self._given_turn is None:
                task = self._next_task(NEVER_NS)
                if task is not None:
                    task.state = _RUNNING
            if task is not None:
                self._step(task)
            elif not self.stopped:
                self._root = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_root)

    def _step(self, task: Task) -> None:
        """Let a detached task run until it gives way."""
        assert task.trio_task is not None
        coro: Any = task.trio_task.coro
        self.stepping = task
        try:
            trap = coro.throw(_cancellation(task)) if task.interrupted else coro.send(None)
            if trap is not None:
                coro.throw(
                    RuntimeError(f"{task} awaits trio itself, which only a world with trio_deadlines=True allows")
                )
        finally:
            self.stepping = None

    def _unwind(self) -> None:
        """Let every task clean up: its waits are cancelled, also those that have refused a kill."""
        for task in list(self.tasks.values()):
            if not self.steps_tasks:
                # trio asks a wait only once whether it can be cancelled
                if task.raise_cancel is not None:
                    self._interrupt(task)
                continue
            for _ in range(_UNWINDINGS_MAX):
                if task.number not in self.tasks or task.raise_cancel is None:
                    break
                task.interrupted = True
                self._step(task)

    def stop(self) -> None:
        """End the run: nothing more happens in this world."""
        if self.stopped:
            return
        super().stop()
        self._wake_root()

    def _wake_root(self) -> None:
        root, self._root = self._root, None
        if root is not None:
            trio.lowlevel.reschedule(root)

    # -- the dispatcher -------------------------------------------------------------------------------------------

    def dispatch(self, deadline_ns: int) -> bool:
        """Move the world on until a task runs, trio's own ``deadline_ns`` comes, or trio is due a turn.

        Called by the clock when trio has nothing runnable. Returns False if nothing can ever happen again.
        """
        self._turn_left = TURN
        if self.nr_steps + self.nr_events > self.work_limit and self.work_over is not None:
            self.work_over()
        try:
            task, self._given_turn = self._given_turn, None
            if task is None:
                task = self._next_task(deadline_ns)
            elif self.stopped:
                return True
            if task is not None:
                self._resume(task)
                return True
            if self.stopped or self._turn_left <= 0 or self._nr_unborn:
                return True
            if deadline_ns == NEVER_NS:
                if self.quiesced is not None:
                    self.quiesced()
                return self.attention or self.horizon_ns() < NEVER_NS
        except BaseException as error:  # noqa: BLE001  carried to the run's own task; raised here it would kill trio
            self.fail(error)
            return True
        self.now_ns = max(self.now_ns, deadline_ns)
        return True

    def _dispatch_from(self, task: Task) -> bool:
        """Dispatch for a task about to park; return True if the same task runs on and need not park."""
        if not self._may_dispatch():
            return False
        try:
            chosen = self._next_task(NEVER_NS)
        except BaseException as error:  # noqa: BLE001  the run's own, not this task's
            self.fail(error)
            return False
        if chosen is None:
            return False
        if chosen is task and not task.interrupted:
            task.state = _RUNNING
            return True
        self._resume(chosen)
        return False

    def _resume(self, task: Task) -> None:
        task.state = _RUNNING
        if self.steps_tasks:
            self._picked = task
            self._wake_root()
        elif task.interrupted:
            self._interrupt(task)
        else:
            assert task.trio_task is not None
            task.raise_cancel = None
            trio.lowlevel.reschedule(task.trio_task)

    def _interrupt(self, task: Task) -> None:
        """Let a task that is parked in trio go on with trio.Cancelled."""
        assert task.trio_task is not None
        error = outcome.Error(_cancellation(task))
        task.raise_cancel = None
        trio.lowlevel.reschedule(task.trio_task, error)


def _by_number(task: Task) -> int:
    return task.number


@types.coroutine
def _give_way() -> Generator[None, None, None]:
    """Yield to whoever steps the coroutine."""
    yield


def _cancellation(task: Task) -> BaseException:
    """Return the trio.Cancelled that ends a task's present wait."""
    assert task.raise_cancel is not None
    task.interrupted = False
    task.resource = NOT_WAITING
    result = outcome.capture(task.raise_cancel)
    assert isinstance(result, outcome.Error)
    return result.error


def _is_trios(error: BaseException) -> bool:
    """Return whether trio must see an exception itself: a cancellation, alone or in a group, or the loop's own end."""
    return isinstance(error, trio.Cancelled | GeneratorExit) or (
        isinstance(error, BaseExceptionGroup) and not isinstance(error, ExceptionGroup)
    )
