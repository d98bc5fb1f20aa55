"""Wait queues: where tasks sleep for something that has a name.

Mirrors ``wait_queue_head_t``. Waiters are woken in the order they came (exclusive waits); ``wake_all`` wakes everybody.
Waking never runs anybody: the task becomes ready and the oracle decides when it runs, so a woken task must look again
whether what it waited for is still there, as in the kernel.
"""

from collections import deque
from collections.abc import Awaitable
from typing import Any

from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import TIMED_OUT, World

__all__ = ["RwSemaphore", "Semaphore", "WaitQueue"]


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


class RwSemaphore:
    """A lock that many may hold for reading or one for writing, who waits first goes first (``struct rw_semaphore``).

    A reader that comes while a writer waits, waits behind it. When the turn is a reader's, all readers that wait have
    it (rwsem_mark_wake).

    # MODEL: who wakes hands the lock over; nobody spins for it, and nobody takes it before those who wait.
    """

    __slots__ = ("_queue", "_wanted", "readers", "writer")

    def __init__(self, world: World, name: str) -> None:
        self.readers: list[Task] = []
        self.writer: Task | None = None
        self._wanted: dict[Task, bool] = {}
        """Who waits, first come first, and whether to write."""
        self._queue = WaitQueue(world, Resource("lock", name, self._holders))

    def _holders(self) -> list[Task]:
        return list(self.readers) if self.writer is None else [self.writer]

    async def down_read(self, task: Task) -> None:
        """Take it for reading, sleeping uninterruptibly for it if need be."""
        if self.writer is None and not self._wanted:
            self.readers.append(task)
        else:
            await self._wait(task, write=False)

    async def down_write(self, task: Task) -> None:
        """Take it for writing. Raises trio.Cancelled in a task that is killed while it waits (down_write_killable)."""
        if self.writer is None and not self.readers and not self._wanted:
            self.writer = task
        else:
            await self._wait(task, write=True)

    async def _wait(self, task: Task, *, write: bool) -> None:
        self._wanted[task] = write
        try:
            await self._queue.wait(task, killable=write)
        finally:
            if self._wanted.pop(task, None) is not None:
                # it was killed, and others may be able to go now
                self._hand_over()

    def up_read(self, task: Task) -> None:
        """Give it back; the last reader hands it to who waits."""
        self.readers.remove(task)
        self._hand_over()

    def up_write(self, task: Task) -> None:
        """Give it back and hand it to who waits."""
        assert self.writer is task
        self.writer = None
        self._hand_over()

    async def drop_while(self, task: Task, wait: Awaitable[object]) -> None:
        """Wait for something else without it, and take it back for reading if the task has it.

        A task that ends in the wait has it no more.
        """
        holds = task in self.readers
        if holds:
            self.up_read(task)
        await wait
        if holds:
            await self.down_read(task)

    def _hand_over(self) -> None:
        first = next(iter(self._wanted.items()), None)
        if first is None or self.writer is not None:
            return
        task, write = first
        if write:
            if not self.readers:
                del self._wanted[task]
                self.writer = task
                self._queue.world.wake(task)
            return
        for reader in [waiter for waiter, wants_to_write in self._wanted.items() if not wants_to_write]:
            del self._wanted[reader]
            self.readers.append(reader)
            self._queue.world.wake(reader)
