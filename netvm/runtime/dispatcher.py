"""What happens next: the events that fall due, and the task that is picked to run.

Events are atomic context, functions on the virtual-time heap that run one after another as their time comes.

Interrupts, softirqs, timers and completions may not sleep, so they are plain functions, called here by whoever lets
time pass: the dispatcher, or a task that pays for its CPU time. They stop where something wants attention: a task may
have become eligible, or the run has ended. Observers (:meth:`netvm.runtime.timer.Timers.observe_after`) look in
between. The tasks that may run are ordered by what a kernel would do, and the oracle chooses.
"""

from collections.abc import Callable
from heapq import heappop

from netvm.runtime.choices import Choices
from netvm.runtime.cpu import Cpus
from netvm.runtime.oracle import Oracle
from netvm.runtime.task import Task
from netvm.runtime.timer import NEVER_NS, TimerKind

__all__ = ["TURN", "Dispatcher"]

TURN = 256
"""Atomic functions and switches between two turns of trio's loop (Ctrl-C, real sockets).

A turn costs some ten of them, and one of them that scans all of memory takes milliseconds.
"""

_TIME, _, _FUNCTION = range(3)
_PROGRESS = int(TimerKind.PROGRESS)
_RETRY = int(TimerKind.RETRY)


class Dispatcher(Choices):
    """The events and the runnable tasks of one world."""

    def __init__(self, oracle: Oracle, *, steps_tasks: bool) -> None:
        super().__init__(oracle)
        self.steps_tasks = steps_tasks
        """Whether tasks are detached from trio's loop and stepped by their world."""
        self.current: Task | None = None
        """The task that runs or was interrupted last: what the kernel calls ``current``."""
        self.nr_events = 0
        self.nr_steps = 0
        self.work_limit = NEVER_NS
        """Events and steps together after which ``work_over`` is called, at the end of the turn, whatever the time."""
        self.work_over: Callable[[], None] | None = None
        self.went_idle: Callable[[], None] | None = None
        """Called when no task can run and no progress timer is pending."""
        self.retry_fired: Callable[[str], None] | None = None
        """Told the site of every retry; the hang detector listens."""
        self.stopped = False
        # invariant: set when a task may have become eligible or the run ended; the dispatcher looks only then
        self.attention = False
        # events and switches left until trio's loop is due a turn
        self._turn_left = TURN
        # tasks that trio has not started yet
        self._nr_unborn = 0
        # tasks of hosts without a CPU model that may run now, in the order they became ready
        self._ready: list[Task] = []
        self._cpu_sets: list[Cpus] = []
        self._failure: BaseException | None = None

    def stop(self) -> None:
        """End the run: nothing more happens in this world."""
        self.stopped = self.attention = True

    def fail(self, error: BaseException) -> None:
        """End the run with an exception of our own making."""
        if self._failure is None:
            self._failure = error
        self.stop()

    def add_cpus(self, cpus: Cpus) -> None:
        """Make a host's CPUs known to the dispatcher."""
        self._cpu_sets.append(cpus)

    def other_is_eligible(self) -> bool:
        """Return whether a task besides the running one could run at this instant."""
        return bool(self._ready) or any(cpus.is_eligible() for cpus in self._cpu_sets)

    def is_turn_over(self) -> bool:
        """Return whether the running task must give trio's loop a turn before it lets more time pass."""
        return self._turn_left <= 0 and not self.stopped

    def retry_point(self, site: str) -> None:
        """A running task looks again at something that did not change: a retry without a timer."""
        if self.retry_fired is not None:
            self.retry_fired(site)

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

    def _may_dispatch(self) -> bool:
        """Return whether the world may go on without a turn of trio's loop."""
        return self.steps_tasks and not self._nr_unborn and self._turn_left > 0 and not self.stopped

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

    def _pick(self) -> Task | None:
        """Choose the next task to run and take it from its list, or return None."""
        if self._nr_unborn:
            return None
        candidates = self._ready
        for cpus in self._cpu_sets:
            if cpus.is_eligible():
                candidates = candidates + cpus.candidates() if candidates else cpus.candidates()
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
