"""One run: virtual time, the events on it, the tasks in it, and the dispatcher that picks what happens next.

Two kinds of code live in a world. *Process context* is a :class:`netvm.runtime.task.Task`, a trio task that may sleep;
*atomic context* (interrupts, softirqs, timers, completions) is a plain function on the virtual-time heap, which may
not. At most one of them runs at an instant. A task runs until it waits; then the dispatcher runs due atomic functions,
moves ``now_ns`` forward, and hands the CPU to the task that may run next. It is called from two places: by trio's clock
(:mod:`netvm.runtime.clock`) when trio finds nothing runnable, and by the task that is about to park, which saves a turn
of trio's loop, and the parking itself where the task that runs next is the same one. Only trio's public API is used
and trio's own order of runnable tasks never matters, because there is never more than one.

The candidates are ordered by what a kernel would do and the oracle (:mod:`netvm.runtime.oracle`) chooses from them.
Every choice is recorded: seed and scenario, or the list of choices, replay a run to the byte.

When nothing but retry timers (:class:`netvm.runtime.timer.TimerKind`) is left the world may be hung:
:mod:`netvm.runtime.hang` listens and decides. CPU time is a resource (:mod:`netvm.runtime.cpu`): a task of a host with
CPUs runs only while it holds one.

Deadlines of trio's own cancel scopes are honoured exactly in a world made with ``trio_deadlines=True``; otherwise the
parking task may dispatch past them, since trio tells its deadlines to the clock only.
"""

from collections.abc import Awaitable, Callable, Coroutine
from heapq import heappop
from typing import Any

import outcome
import trio

from netvm.runtime.choices import Choices
from netvm.runtime.cpu import Cpus
from netvm.runtime.oracle import FifoOracle, Oracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import NOT_WAITING, Resource, Task, TaskState
from netvm.runtime.timer import NEVER_NS, TimerKind

__all__ = ["TIMED_OUT", "World"]

_TURN = 4096
"""Atomic functions and switches between two turns of trio's loop (Ctrl-C, real sockets)."""

_TIME, _, _FUNCTION = range(3)
_PROGRESS = int(TimerKind.PROGRESS)
_RETRY = int(TimerKind.RETRY)

TIMED_OUT: Any = type("TimedOut", (), {"__repr__": lambda _self: "TIMED_OUT", "__slots__": ()})()
"""What :meth:`World.sleep_on` returns when its timeout passed."""


class World(Choices):
    """The virtual time, events and tasks of one run."""

    def __init__(
        self, *, seeds: Seeds | None = None, oracle: Oracle | None = None, trio_deadlines: bool = False
    ) -> None:
        super().__init__(oracle if oracle is not None else FifoOracle())
        self.seeds = seeds if seeds is not None else Seeds(0)
        self.current: Task | None = None
        """The task that runs or was interrupted last: what the kernel calls ``current``."""
        self.tasks: dict[int, Task] = {}
        """Tasks that have not ended, by number."""
        self.nr_events = 0
        self.nr_steps = 0
        self.retry_fired: Callable[[str], None] | None = None
        """Told the site of every retry; the hang detector listens."""
        self.went_idle: Callable[[], None] | None = None
        """Called when no task can run and no progress timer is pending."""
        self.quiesced: Callable[[], None] | None = None
        """Called when no task can run and no timer is left at all."""
        self.stopped = False
        self._inline = not trio_deadlines
        self._next_task_number = 1
        # tasks of hosts without a CPU model that may run now, in the order they became ready
        self._ready: list[Task] = []
        self._cpu_sets: list[Cpus] = []
        # invariant: set when a task may have become eligible or the run ended; the dispatcher looks only then
        self.attention = False
        self._nr_unborn = 0
        self._turn_left = _TURN
        # who parked only to give trio a turn
        self._given_turn: Task | None = None
        self._nursery: trio.Nursery | None = None
        self._root: trio.lowlevel.Task | None = None
        self._failure: BaseException | None = None

    # -- tasks ----------------------------------------------------------------------------------------------------

    def add_cpus(self, cpus: Cpus) -> None:
        """Make a host's CPUs known to the dispatcher."""
        self._cpu_sets.append(cpus)

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
        try:
            with trio.CancelScope() as task.scope:
                if task.killed:
                    task.scope.cancel()
                try:
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
        task.state = TaskState.DEAD
        if task.cpus is not None:
            task.cpus.release(task)
        for callback in task.on_exit:
            callback(task)

    def wake(self, task: Task, value: Any = None) -> bool:
        """End a task's wait and make it ready; return False if it was not waiting."""
        if task.state is not TaskState.SLEEPING:
            return False
        timer = task.timer
        if timer is not None:
            task.timer = None
            self.cancel(timer)
        task.state = TaskState.RUNNABLE
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
        task.state = TaskState.SLEEPING
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
        if not self._dispatch_from(task):
            await trio.lowlevel.wait_task_rescheduled(task.abort)
        task.resource = NOT_WAITING
        return task.wake_value

    async def _park_for_good(self, task: Task) -> None:
        """Only what cleans up after the end of the run waits without having been picked: its wait is cancelled."""
        assert self.stopped, f"{task} waits while {self.current} runs"
        await trio.lowlevel.wait_task_rescheduled(task.abort)

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
        task.state = TaskState.RUNNABLE
        task.killable = False
        if task.cpus is not None:
            task.cpus.release(task)
        self._enqueue(task, new=False)
        if not self._dispatch_from(task):
            await trio.lowlevel.wait_task_rescheduled(task.abort)

    def is_turn_over(self) -> bool:
        """Return whether the running task must give trio's loop a turn before it lets more time pass."""
        return self._turn_left <= 0 and not self.stopped

    async def give_trio_a_turn(self, task: Task) -> None:
        """Park and go on as if nothing had been: trio sees to Ctrl-C and real sockets, the model notices nothing."""
        assert self.current is task
        self._given_turn = task
        await trio.lowlevel.wait_task_rescheduled(task.abort)

    def retry_point(self, site: str) -> None:
        """A running task looks again at something that did not change: a retry without a timer."""
        if self.retry_fired is not None:
            self.retry_fired(site)

    def other_is_eligible(self) -> bool:
        """Return whether a task besides the running one could run at this instant."""
        return bool(self._ready) or any(cpus.is_eligible() for cpus in self._cpu_sets)

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
                    if not self.stopped:
                        self._root = trio.lowlevel.current_task()
                        await trio.lowlevel.wait_task_rescheduled(self._abort_root)
                except BaseException as error:
                    if _is_trios(error):
                        raise
                    self.fail(error)
                finally:
                    self.stopped = True
                    nursery.cancel_scope.cancel()
                    self._cancel_deaf()
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

    def _cancel_deaf(self) -> None:
        """End the waits that have refused a kill: trio asks a wait only once whether it can be cancelled."""
        for task in self.tasks.values():
            if task.raise_cancel is not None:
                self._interrupt(task)

    def stop(self) -> None:
        """End the run: nothing more happens in this world."""
        if self.stopped:
            return
        self.stopped = self.attention = True
        root, self._root = self._root, None
        if root is not None:
            trio.lowlevel.reschedule(root)

    def fail(self, error: BaseException) -> None:
        """End the run with an exception of our own making."""
        if self._failure is None:
            self._failure = error
        self.stop()

    # -- the dispatcher -------------------------------------------------------------------------------------------

    def dispatch(self, deadline_ns: int) -> bool:
        """Move the world on until a task runs, trio's own ``deadline_ns`` comes, or trio is due a turn.

        Called by the clock when trio has nothing runnable. Returns False if nothing can ever happen again.
        """
        self._turn_left = _TURN
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
        if task.killable or not self._inline or self._nr_unborn or self._turn_left <= 0 or self.stopped:
            # trio can cancel a wait only where it is parked
            return False
        try:
            chosen = self._next_task(NEVER_NS)
        except BaseException as error:  # noqa: BLE001  the run's own, not this task's
            self.fail(error)
            return False
        if chosen is None:
            return False
        if chosen is task:
            task.state = TaskState.RUNNING
            return True
        self._resume(chosen)
        return False

    def _next_task(self, deadline_ns: int) -> Task | None:
        """Run events until a task is eligible and choose it; None when the turn, the time or the run is over."""
        while not self.stopped:
            if self.attention:
                task = self._pick()
                if task is not None:
                    self._turn_left -= 1
                    return task
            if self._nr_unborn or self._run_events(deadline_ns - 1, self.went_idle) or self._turn_left <= 0:
                return None
        return None

    def _run_events(self, until_ns: int, went_idle: Callable[[], None] | None) -> bool:
        """Run events until something wants attention or the turn is over; return True when none is due any more."""
        heap = self._heap
        turn_left = self._turn_left
        try:
            while turn_left > 0:
                if went_idle is not None and not self.nr_pending_progress:
                    went_idle()
                    if self.attention:
                        return False
                while heap and heap[0][_FUNCTION] is None:
                    heappop(heap)
                due_ns = heap[0][_TIME] if heap else NEVER_NS
                if self._look_ns <= due_ns:
                    self._look_until(min(due_ns, until_ns))
                    if self.attention:
                        return False
                if due_ns > until_ns:
                    return True
                timer = heappop(heap)
                if self._explores_events:
                    timer = self._choose_event(timer, until_ns)
                self.now_ns, _, function, args, kind, site = timer
                timer[_FUNCTION] = None
                turn_left -= 1
                self.nr_events += 1
                if kind == _PROGRESS:
                    self.nr_pending_progress -= 1
                elif kind == _RETRY:
                    self.nr_pending_retry -= 1
                    if self.retry_fired is not None:
                        self.retry_fired(site)
                function(*args)
                if self.attention:
                    return False
        except BaseException as error:  # noqa: BLE001  the run's own, not that of who happens to run
            self.fail(error)
        finally:
            self._turn_left = turn_left
        return False

    def _look_until(self, until_ns: int) -> None:
        """Let the observers look whose time comes first; one of them may end the run."""
        if until_ns < NEVER_NS - 1:
            while self._look_ns <= until_ns and not self.stopped:
                self._look_once()

    def _resume(self, task: Task) -> None:
        assert task.trio_task is not None
        task.state = TaskState.RUNNING
        if task.interrupted:
            self._interrupt(task)
        else:
            task.raise_cancel = None
            trio.lowlevel.reschedule(task.trio_task)

    def _interrupt(self, task: Task) -> None:
        """Let a parked task go on with trio.Cancelled."""
        assert task.raise_cancel is not None
        assert task.trio_task is not None
        result = outcome.capture(task.raise_cancel)
        task.raise_cancel = None
        task.interrupted = False
        task.resource = NOT_WAITING
        trio.lowlevel.reschedule(task.trio_task, result)

    def _pick(self) -> Task | None:
        """Choose the next task to run and take it from its list, or return None."""
        candidates = self._ready
        for cpus in self._cpu_sets:
            if cpus.is_eligible():
                candidates = candidates + cpus.candidates() if candidates else cpus.candidates()
        if self._nr_unborn:
            return None
        if len(candidates) <= 1:
            self.attention = False
            if not candidates:
                return None
        if self.picking is not None:
            self.picking(len(candidates))
            if self.stopped:
                return None
        task = candidates[0] if len(candidates) == 1 else self._choose_task(candidates)
        if task.cpus is None:
            self._ready.remove(task)
        else:
            task.cpus.take(task)
        self.current = task
        self.nr_steps += 1
        return task

    def advance_inline(self, until_ns: int) -> bool:
        """Let time pass under the running task up to ``until_ns``, running what falls due; return whether it got there.

        False means the task must park: another task may run now, the run ended, or (:meth:`is_turn_over`) trio is due.
        """
        while not self.stopped:
            if self.attention:
                if self.other_is_eligible():
                    return False
                self.attention = False
            if self._run_events(until_ns, None):
                self.now_ns = until_ns
                return True
            if self._turn_left <= 0:
                return False
        return False


def _by_number(task: Task) -> int:
    return task.number


def _is_trios(error: BaseException) -> bool:
    """Return whether trio must see an exception itself: a cancellation, alone or in a group, or the loop's own end."""
    return isinstance(error, trio.Cancelled | GeneratorExit) or (
        isinstance(error, BaseExceptionGroup) and not isinstance(error, ExceptionGroup)
    )
