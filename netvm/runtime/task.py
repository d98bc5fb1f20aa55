"""A task: what the kernel schedules, and what it may wait for.

Mirrors the parts of ``struct task_struct`` that every room shares. The trio task behind it is parked whenever it does
not run; :class:`netvm.runtime.world.World` decides when it runs. Task flags (``PF_*``) are one integer whose bits
belong to the rooms above.

TASK_KILLABLE and TASK_INTERRUPTIBLE are waits that trio's cancellation reaches; TASK_UNINTERRUPTIBLE is one whose abort
function answers FAILED, so the cancellation stays pending until the next killable wait, as a signal does. The OOM
killer cancels its victim's scope.

Every wait names a :class:`Resource`: what it is, in kernel words, and who could provide it. That is what a hang is
explained with.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import TYPE_CHECKING, Any

import trio

from netvm.runtime.timer import TimerHandle

if TYPE_CHECKING:
    from netvm.runtime.cpu import Cpu, Cpus
    from netvm.runtime.world import World

__all__ = ["NOT_WAITING", "Provider", "Resource", "Task", "TaskState"]


class TaskState(Enum):
    """Where a task is; the letter is what ``ps`` shows for it."""

    RUNNABLE = "R"
    RUNNING = "R (on CPU)"
    SLEEPING = "D"
    DEAD = "X"


@dataclass(frozen=True, slots=True, kw_only=True)
class Provider:
    """Something other than a task that could provide a resource, and what it needs itself."""

    name: str
    needs: "tuple[Resource | Task, ...]" = ()
    """Alternatives are separate providers; all of one provider's needs must be met."""


@dataclass(frozen=True, slots=True, eq=False)
class Resource:
    """What a wait waits for."""

    kind: str
    """Class of resource: ``memory``, ``mempool``, ``request``, ``reply``, ``lock``, ``timer``, ``work``, ``cpu``."""
    name: str
    """Which one, in kernel words."""
    providers: "Callable[[], Iterable[Task | Provider]] | None" = None
    """Who could provide it now; any one of them is enough. None: an event from outside."""
    external: bool = False
    """The wait ends by the passing of time or by the workload itself; it is never part of a knot."""


NOT_WAITING = Resource("none", "nothing")


class Task:
    """One schedulable task."""

    __slots__ = (
        "asleep_since_ns",
        "charge_ns",
        "comm",
        "cpu",
        "cpus",
        "exec_start_ns",
        "flags",
        "host",
        "interrupted",
        "interruptible",
        "killable",
        "killed",
        "mm",
        "number",
        "on_exit",
        "pays_on",
        "pid",
        "raise_cancel",
        "resource",
        "scope",
        "sleep_hooks",
        "spins_at",
        "spins_on",
        "state",
        "timer",
        "trio_task",
        "vruntime_ns",
        "wake_value",
        "weight",
        "world",
    )

    def __init__(
        self, *, world: "World", number: int, comm: str, pid: int | None, cpus: "Cpus | None", flags: int, nice: int
    ) -> None:
        self.world = world
        self.number = number
        self.comm = comm
        self.pid = number if pid is None else pid
        self.cpus = cpus
        self.cpu: Cpu | None = None
        """The CPU it holds while it runs."""
        self.pays_on: Cpu | None = None
        """Where time it has used is still being spent: until that is over it runs nowhere."""
        self.flags = flags
        self.state = TaskState.RUNNABLE
        self.resource = NOT_WAITING
        self.timer: TimerHandle | None = None
        self.wake_value: Any = None
        self.killable = False
        self.interruptible = False
        self.killed = False
        """A fatal signal is pending."""
        self.interrupted = False
        """Its killable wait has been cut short: trio.Cancelled is raised when it is picked."""
        self.raise_cancel: Callable[[], Any] | None = None
        """The cancellation that its present wait has been asked to take; trio asks once a wait."""
        self.scope: trio.CancelScope | None = None
        self.trio_task: trio.lowlevel.Task | None = None
        self.on_exit: list[Callable[[Task], None]] = []
        self.sleep_hooks: tuple[Callable[[Task], None], ...] = ()
        """Called when the task goes to sleep (not when it is preempted): sched_submit_work()."""
        self.spins_at = ""
        """Set while the task goes round in a loop: its place. ``World.retry_point`` tells when all was tried once."""
        self.spins_on = NOT_WAITING
        """What it looks for there."""
        self.asleep_since_ns = 0
        # CPU accounting, see netvm.runtime.cpu
        self.charge_ns = 0
        self.vruntime_ns = 0
        self.exec_start_ns = 0
        self.weight = weight_of(nice)
        self.host: Any = None
        self.mm: Any = None

    @property
    def time_ns(self) -> int:
        """Its own clock: now, and what it has used and not paid yet."""
        return self.world.now_ns + (int(self.charge_ns * self.cpus.scale) if self.cpus is not None else 0)

    def __repr__(self) -> str:
        return f"<{self.comm}-{self.pid} {self.state.value}>"

    def abort(self, raise_cancel: Callable[[], Any]) -> trio.lowlevel.Abort:
        """Answer trio when this task's scope is cancelled while it is parked."""
        world = self.world
        if world.stopped and not world.steps_tasks:
            return trio.lowlevel.Abort.SUCCEEDED
        self.raise_cancel = raise_cancel
        if world.stopped:
            # the world unwinds its tasks itself
            return trio.lowlevel.Abort.FAILED
        if self.state is TaskState.SLEEPING and self.killable:
            self.interrupted = True
            world.cancelled(self)
        return trio.lowlevel.Abort.FAILED

    def kill(self) -> None:
        """Send SIGKILL: a killable wait ends now, any other at its own time."""
        self.killed = True
        if self.scope is not None:
            self.scope.cancel()

    def retry_site(self, resource: Resource) -> str:
        """Name this task's retry at ``resource`` for the hang detector."""
        return f"{self.comm}-{self.pid}: {resource.name}"

    def stack(self) -> list[str]:
        """Return the names of the functions the task is in, outermost first.

        The functions are named after the kernel's, so this reads like the stack in a hung-task report.
        """
        if self.trio_task is None:
            return []
        coro: Any = self.trio_task.coro
        names = _running_names(coro.cr_frame) if coro.cr_running else _parked_names(coro)
        return [name for name in names if name not in _MACHINERY]


def _parked_names(coro: Any) -> list[str]:
    names: list[str] = []
    while coro is not None and hasattr(coro, "cr_frame"):
        if coro.cr_frame is not None:
            names.append(coro.cr_frame.f_code.co_name)
        coro = coro.cr_await
    return names


def _running_names(outermost: FrameType) -> list[str]:
    """Return what the running task is in, down to where it gave way to the dispatcher that asks."""
    names: list[str] = []
    frame = sys._getframe()  # noqa: SLF001  documented, if not for every Python
    while frame is not outermost and frame.f_back is not None:
        frame = frame.f_back
        names.append(frame.f_code.co_name)
    names.reverse()
    return names[: next((index for index, name in enumerate(names) if name in _GIVING_WAY), None)]


_GIVING_WAY = frozenset({"sleep_on", "yield_cpu", "advance_inline", "retry_point"})
_MACHINERY = frozenset(
    {
        *("_task_main", "_live", "sleep_on", "sleep_ns", "yield_cpu", "wait", "_park"),
        *("wait_task_rescheduled", "temporarily_detach_coroutine_object"),
    }
)

_NICE_0_WEIGHT = 1024


def weight_of(nice: int) -> int:
    """Return the scheduler's weight of a nice level (sched_prio_to_weight, by its ratio of 1.25)."""
    assert -20 <= nice <= 19
    return max(15, round(_NICE_0_WEIGHT * 1.25**-nice))
