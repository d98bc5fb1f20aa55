"""One process of a workload, and what became of it."""

from dataclasses import dataclass, field

from netvm.host.machine import Host
from netvm.mm.address_space import AddressSpace
from netvm.runtime.task import Resource, Task, TaskState
from netvm.runtime.timer import TimerKind
from netvm.scenario.schema import Workload
from netvm.trace.latency import TouchRecorder
from netvm.units import NS_PER_MS

__all__ = ["THINK", "PassResult", "Program", "start_at"]

THINK = Resource("timer", "the program's own pause", external=True)


@dataclass(slots=True)
class PassResult:
    """One finished or interrupted pass."""

    index: int
    touches: TouchRecorder
    minflt: int = 0
    majflt: int = 0


@dataclass(slots=True)
class Program:
    """One process of a workload, or one of its threads, and what became of it."""

    spec: Workload
    name: str
    thread: int = 0
    """Which of its process's threads it is; each has a record of its own."""
    leader: "Program | None" = None
    """The first thread, if it is another one."""
    task: Task | None = None
    space: AddressSpace | None = None
    finished: bool = False
    killed: bool = False
    bus_error: bool = False
    io_errno: int = 0
    """What write(), read() or fsync() told it, a negative errno; 0 if all went well."""
    begun_ns: int = 0
    ended_ns: int = 0
    passes: list[PassResult] = field(default_factory=list)

    def is_at_rest(self) -> bool:
        """Whether it has ended, or sleeps because it wants to: has not started yet, thinks, or holds what it has."""
        task = self.task
        if task is None or task.state is TaskState.DEAD:
            return True
        return task.state is TaskState.SLEEPING and task.resource is THINK

    def end(self, task: Task, host: Host, space: AddressSpace) -> None:
        """Note how and when it ended and give its memory back; nothing if the run is over and it was only cut off."""
        if not host.world.stopped:
            self.killed = task.killed
            self.ended_ns = host.world.now_ns
            host.memory.mmput(task, space)


async def start_at(task: Task, host: Host, start_ms: int) -> None:
    """Let a program sleep until it starts."""
    if start_ms:
        await host.world.sleep_ns(task, start_ms * NS_PER_MS, THINK, kind=TimerKind.PROGRESS)
