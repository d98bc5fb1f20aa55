"""Wait queues: where tasks sleep for something that has a name.

Mirrors ``wait_queue_head_t``. Waiters are woken in the order they came (exclusive waits); ``wake_all`` wakes everybody.
Waking never runs anybody: the task becomes ready and the oracle decides when it runs, so a woken task must look again
whether what it waited for is still there, as in the kernel.
"""

from collections import deque
from typing import Any

from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import TIMED_OUT, World

__all__ = ["Semaphore", "WaitQueue"]


class WaitQueue:
    """Tasks that wait for one thing."""

    __slots__ = ("_waiters", "resource", "world")

    def __init__(self, world: World, resource: Resource) -> None:
        self.world = world
        self.resource = resource
        self._waiters: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._waiters)

    @property
    def waiters(self) -> list[Task]:
        """Who waits, first come first."""
        return list(self._waiters)

    async def wait(
        self,
        task: Task,
        *,
        resource: Resource | None = None,
        timeout_ns: int | None = None,
        kind: TimerKind = TimerKind.RETRY,
        killable: bool = False,
        interruptible: bool = False,
    ) -> bool:
        """Sleep until woken; return False if ``timeout_ns`` passed instead.

        Raises trio.Cancelled in a killable or interruptible wait of a killed task.
        """
        self._waiters.append(task)
        try:
            value: Any = await self.world.sleep_on(
                task,
                self.resource if resource is None else resource,
                timeout_ns=timeout_ns,
                kind=kind,
                killable=killable,
                interruptible=interruptible,
            )
        finally:
            if task in self._waiters:
                self._waiters.remove(task)
        return value is not TIMED_OUT

    def wake_one(self, value: Any = None) -> bool:
        """Wake the first waiter; return whether there was one."""
        while self._waiters:
            if self.world.wake(self._waiters.popleft(), value):
                return True
        return False

    def wake_all(self, value: Any = None) -> int:
        """Wake every waiter; return how many."""
        nr_woken = 0
        while self._waiters and self.wake_one(value):
            nr_woken += 1
        return nr_woken


class Semaphore:
    """A counting lock (``struct semaphore``; with one unit, a mutex) that knows who holds it."""

    __slots__ = ("_free", "_queue", "holders")

    def __init__(self, world: World, name: str, nr_units: int = 1) -> None:
        self._free = nr_units
        self.holders: list[Task] = []
        self._queue = WaitQueue(world, Resource("lock", name, lambda: list(self.holders)))

    async def down(self, task: Task, *, killable: bool = False) -> None:
        """Take a unit, sleeping for it if need be."""
        while not self.try_down(task):
            await self._queue.wait(task, killable=killable)

    def try_down(self, task: Task) -> bool:
        """Take a unit if one is free."""
        if not self._free:
            return False
        self._free -= 1
        self.holders.append(task)
        return True

    def up(self, task: Task) -> None:
        """Give a unit back and wake the first waiter."""
        self.holders.remove(task)
        self._free += 1
        self._queue.wake_one()
