"""Tracepoints of scheduler and workqueues: who runs, who could, and which work item a worker is at.

Mirrors ``sched_switch``, ``sched_wakeup`` and the three events of a work item (include/trace/events/sched.h and
workqueue.h of 6.1). A task that blocks keeps its CPU until what it was charged is paid, so who came after it is known
only when somebody comes: then the switch to the idle task is written too, at the time it happened.
"""

from typing import Final

from netvm.runtime.cpu import Cpu
from netvm.runtime.task import Task, TaskState
from netvm.runtime.workqueue import WorkItem
from netvm.trace.recorder import Recorder
from netvm.trace.tracepoints import number_of

__all__ = ["SchedTrace", "WorkTrace"]

_SWITCH: Final = number_of("sched_switch")
_WAKEUP: Final = number_of("sched_wakeup")
_QUEUE: Final = number_of("workqueue_queue_work")
_EXECUTE: Final = number_of("workqueue_execute_start")
_EXECUTED: Final = number_of("workqueue_execute_end")
_PRIO: Final = 120
"""DEFAULT_PRIO: nice 0."""
_HIDDEN: Final = -1


class SchedTrace:
    """Writes who runs to the recorder of a host (netvm.runtime.cpu calls it)."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self._before: dict[int, tuple[Task, int, int]] = {}
        """By CPU: who let go of it, in which state, and when its time is spent."""
        self._yields: Task | None = None
        names = recorder.name
        self._sleeping, self._dead = names("D"), names("X")
        self._runnable = names("R")
        self._idle = (names("swapper"), 0, _PRIO)
        self._tasks: dict[Task, tuple[int, int, int]] = {}
        self._task_cpu: dict[Task, int] = {}
        """Where each task ran last."""
        recorder.at_end.append(self.finish)

    def _who(self, task: Task) -> tuple[int, int, int]:
        try:
            return self._tasks[task]
        except KeyError:
            who = self._tasks[task] = (self.recorder.name(task.comm), task.pid, _PRIO)
            return who

    def enqueued(self, task: Task) -> None:
        """A task is runnable; one that only lets others go first was so before."""
        if self._yields is task:
            self._yields = None
            return
        world = self.recorder.world
        # MODEL: one run queue serves all CPUs, so it is not known yet where the task will run; told is where it ran
        # last, which is where the kernel would have it first
        target_cpu = self._task_cpu.get(task, 0)
        self.recorder.emit_at(world.now_ns, 0, world.current, _WAKEUP, *self._who(task), target_cpu)

    def released(self, cpu: Cpu, task: Task) -> None:
        """A task lets go of its CPU; ``free_at_ns`` is when its time will be spent."""
        state = self._runnable
        self._yields = None
        if task.state is TaskState.SLEEPING:
            state = self._sleeping
        elif task.state is TaskState.DEAD:
            state = self._dead
        else:
            self._yields = task
        self._before[cpu.index] = (task, state, cpu.free_at_ns)

    def switched(self, cpu: Cpu, task: Task, now_ns: int) -> None:
        """A task gets a CPU."""
        emit_at, who = self.recorder.emit_at, self._who(task)
        self._task_cpu[task] = cpu.index
        before = self._before.pop(cpu.index, None)
        if before is None:
            emit_at(now_ns, cpu.index, None, _SWITCH, *self._idle, self._runnable, *who)
            return
        last, state, spent_ns = before
        if last is task and spent_ns >= now_ns:
            # it let go and was there again at once: schedule() picks the same task
            return
        if spent_ns >= now_ns:
            emit_at(now_ns, cpu.index, last, _SWITCH, *self._who(last), state, *who)
            return
        emit_at(spent_ns, cpu.index, last, _SWITCH, *self._who(last), state, *self._idle)
        emit_at(now_ns, cpu.index, None, _SWITCH, *self._idle, self._runnable, *who)

    def finish(self) -> None:
        """The recording ends: say who had let go and was followed by nobody."""
        now_ns = self.recorder.world.now_ns
        for index, (last, state, spent_ns) in sorted(self._before.items()):
            if spent_ns <= now_ns and state != self._runnable:
                self.recorder.emit_at(spent_ns, index, last, _SWITCH, *self._who(last), state, *self._idle)
        self._before.clear()


class WorkTrace:
    """Writes work items to the recorder of a host (netvm.runtime.workqueue calls it)."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder

    def queued(self, item: WorkItem) -> None:
        """An item was queued."""
        names = self.recorder.name
        queue = names(item.queue.name if item.queue is not None else "")
        self.recorder.emit(_QUEUE, self.recorder.world.current, _HIDDEN, names(item.name), queue, 0, 0)

    def started(self, task: Task, item: WorkItem) -> None:
        """A worker begins with an item."""
        self.recorder.emit(_EXECUTE, task, _HIDDEN, self.recorder.name(item.name))

    def ended(self, task: Task, item: WorkItem) -> None:
        """A worker is through with an item."""
        self.recorder.emit(_EXECUTED, task, _HIDDEN, self.recorder.name(item.name))
