"""Workqueues: work items, the workers that run them, and what happens when a worker cannot be made.

Mirrors kernel/workqueue.c as far as memory pressure shows. Items of several queues share a *worker pool*. A bound
pool keeps its concurrency: an item is started only while no worker of the pool is running, so a worker that sleeps
lets another go. A worker that finds no other idle one left first becomes the manager and creates one, unless somebody
else is the manager already (``may_start_working``, ``manage_workers``), and creating a worker needs memory: kthreadd
allocates its stack with GFP_KERNEL and may end up in direct reclaim. If that takes longer than MAYDAY_INITIAL_TIMEOUT
the queues that were made with WQ_MEM_RECLAIM call their *rescuer*, one thread made in advance, which runs the pool's
items of its queue one after another.

An unbound pool starts an item whenever a worker can be had. An item that is queued again while it runs is run again by
the same worker, never beside itself.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from netvm.runtime.cpu import Cpus
from netvm.runtime.task import Resource, Task, TaskState
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.world import World
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

__all__ = ["KthreadCreator", "WorkItem", "WorkProbe", "WorkerPool", "Workqueue"]

MAYDAY_INITIAL_TIMEOUT_NS = max(NS_PER_S // 100, 2 * JIFFY_NS)
MAYDAY_INTERVAL_NS = 100 * NS_PER_MS
CREATE_COOLDOWN_NS = NS_PER_S

PF_WQ_WORKER = 0x00000020
"""include/linux/sched.h; a worker sleeps in should_reclaim_retry so that its pool notices."""


_ON_A_CPU = (TaskState.RUNNING, TaskState.RUNNABLE)


class WorkItem:
    """One ``struct work_struct``: a function that may be pending once."""

    __slots__ = ("function", "name", "pending", "queue", "running_on")

    def __init__(self, name: str, function: Callable[[Task], Awaitable[None]]) -> None:
        self.name = name
        self.function = function
        self.pending = False
        self.queue: Workqueue | None = None
        self.running_on: _Worker | None = None


class WorkProbe(Protocol):
    """Who is told of work items; a recorder listens."""

    def queued(self, item: WorkItem) -> None:
        """An item was queued."""
        ...

    def started(self, task: Task, item: WorkItem) -> None:
        """A worker begins with an item."""
        ...

    def ended(self, task: Task, item: WorkItem) -> None:
        """A worker is through with an item."""
        ...


class KthreadCreator:
    """kthreadd: the one thread that makes kernel threads, in order of request, out of ordinary memory."""

    def __init__(self, world: World, cpus: Cpus | None, allocate_stack: Callable[[Task], Awaitable[None]]) -> None:
        self.world = world
        self.cpus = cpus
        self._allocate_stack = allocate_stack
        self._requests: deque[tuple[str, Callable[[], None]]] = deque()
        self._wait = WaitQueue(world, Resource("work", "kthread_create_list", external=True))
        self.task: Task | None = None
        self.done = Resource("work", "kthread_create_on_node: a new kernel thread", self._creator)

    def _creator(self) -> list[Task]:
        return [self.task] if self.task is not None else []

    def start(self, flags: int) -> None:
        """Start the thread itself."""
        self.task = self.world.spawn("kthreadd", self.kthreadd, cpus=self.cpus, flags=flags, pid=2)

    async def kthreadd(self, task: Task) -> None:
        """Serve creation requests for ever."""
        while True:
            while not self._requests:
                await self._wait.wait(task)
            _name, made = self._requests[0]
            await self._allocate_stack(task)
            self._requests.popleft()
            made()

    async def kthread_create(self, task: Task, name: str) -> None:
        """Ask for a thread and sleep until its stack is there."""
        done = WaitQueue(self.world, self.done)
        finished = False

        def made() -> None:
            nonlocal finished
            finished = True
            done.wake_all()

        self._requests.append((name, made))
        self._wait.wake_one()
        while not finished:
            await done.wait(task)


class _Worker:
    __slots__ = ("idle_wait", "item", "name", "scheduled", "task")

    def __init__(self, name: str, idle_wait: WaitQueue) -> None:
        self.name = name
        self.idle_wait = idle_wait
        self.task: Task | None = None
        self.item: WorkItem | None = None
        # items found running here already: they run next on this worker
        self.scheduled: deque[WorkItem] = deque()


class WorkerPool:
    """Workers that share a list of items."""

    def __init__(
        self,
        world: World,
        name: str,
        creator: KthreadCreator,
        *,
        cpus: Cpus | None,
        bound: bool,
        nr_workers: int,
        nice: int = 0,
        flags: int = 0,
    ) -> None:
        self.world = world
        self.name = name
        self.creator = creator
        self.cpus = cpus
        self.bound = bound
        self.nice = nice
        self.flags = flags | PF_WQ_WORKER
        self.items: deque[WorkItem] = deque()
        self.probe: WorkProbe | None = None
        self.workers: list[_Worker] = []
        self._idle: list[_Worker] = []
        self._nr_made = 0
        self.manager: _Worker | None = None
        self._nr_initial = nr_workers
        self._mayday: Any = None
        self.idle = Resource("work", f"{name}: idle worker", external=True)
        self.needs_worker = Resource("work", f"{name}: a free worker", self._workers_running)
        """What an item on the list waits for."""

    def _workers_running(self) -> list[Task]:
        return [w.task for w in self.workers if w.task is not None and (w.item is not None or w is self.manager)]

    def start(self) -> None:
        """Make the pool's first workers."""
        for _ in range(self._nr_initial):
            self._add_worker()

    def _add_worker(self) -> _Worker:
        suffix = "H" if self.nice < 0 else ""
        worker = _Worker(f"kworker/{self.name}:{self._nr_made}{suffix}", WaitQueue(self.world, self.idle))
        self._nr_made += 1
        self.workers.append(worker)
        self._idle.append(worker)
        worker.task = self.world.spawn(
            worker.name, self.worker_thread, worker, cpus=self.cpus, flags=self.flags, nice=self.nice
        )
        worker.task.sleep_hooks = (self.worker_sleeping,)
        return worker

    def insert(self, item: WorkItem) -> None:
        """Put an item on the list and wake a worker if one is needed (__queue_work)."""
        running_on = item.running_on
        if running_on is not None and running_on not in self.workers:
            running_on.scheduled.append(item)
            return
        self.items.append(item)
        self.wake_worker_if_needed()

    def wake_worker_if_needed(self) -> None:
        """Wake an idle worker if items wait and none is running (wake_up_worker)."""
        if self._idle and self._needs_more_worker():
            self._idle[-1].idle_wait.wake_one()

    def _needs_more_worker(self) -> bool:
        return bool(self.items) and not (self.bound and self._nr_running())

    def _nr_running(self) -> int:
        """Return how many workers of the pool are on a CPU or waiting for one, as concurrency management counts."""
        nr_running = 0
        for worker in self.workers:
            task = worker.task
            if task is not None and task.state in _ON_A_CPU and worker not in self._idle and worker is not self.manager:
                nr_running += 1
        return nr_running

    async def worker_thread(self, task: Task, worker: _Worker) -> None:
        """Run items as they come (worker_thread)."""
        while True:
            self._idle.remove(worker)
            while self._keeps_working():
                if self._idle or self.manager is not None:
                    while self._keeps_working():
                        await self.process_one_work(task, worker, self.items.popleft())
                    break
                await self.create_worker(task, worker)
            self._idle.append(worker)
            await worker.idle_wait.wait(task)

    def _keeps_working(self) -> bool:
        """Whether there is work for a worker that runs itself (keep_working)."""
        return bool(self.items) and not (self.bound and self._nr_running() > 1)

    async def process_one_work(self, task: Task, worker: _Worker, item: WorkItem) -> None:
        """Run one item, and whatever collided with it, to the end."""
        if item.running_on is not None:
            item.running_on.scheduled.append(item)
            return
        worker.scheduled.append(item)
        while worker.scheduled:
            work = worker.scheduled.popleft()
            work.pending = False
            work.running_on = worker
            worker.item = work
            if self.probe is not None:
                self.probe.started(task, work)
            self.wake_worker_if_needed()
            await work.function(task)
            if self.probe is not None:
                self.probe.ended(task, work)
            worker.item = None
            work.running_on = None

    async def create_worker(self, task: Task, worker: _Worker) -> None:
        """Become the manager and make another worker, calling the rescuers if it takes too long (manage_workers)."""
        self.manager = worker
        self._arm_mayday(MAYDAY_INITIAL_TIMEOUT_NS)
        await self.creator.kthread_create(task, self.name)
        self.world.cancel(self._mayday)
        self.manager = None
        self._add_worker()

    def _arm_mayday(self, delay_ns: int) -> None:
        site = f"{self.name}: mayday"
        self._mayday = self.world.call_after(
            self.world.wheel_ns(delay_ns), self.send_mayday, kind=TimerKind.RETRY, site=site
        )

    def send_mayday(self) -> None:
        """Call the rescuers of all queues with items on this pool (pool_mayday_timeout)."""
        if self._needs_more_worker() and not self._idle:
            for item in self.items:
                queue = item.queue
                if queue is not None and queue.rescuer_wait is not None:
                    queue.rescuer_wait.wake_one()
        self._arm_mayday(MAYDAY_INTERVAL_NS)

    def worker_sleeping(self, _task: Task) -> None:
        """Let another worker of a bound pool go when one goes to sleep (wq_worker_sleeping)."""
        if self.bound:
            self.wake_worker_if_needed()


class Workqueue:
    """A named queue on a pool; with ``mem_reclaim`` it has a rescuer."""

    def __init__(self, name: str, pool: WorkerPool, *, mem_reclaim: bool) -> None:
        self.name = name
        self.pool = pool
        self.mem_reclaim = mem_reclaim
        self.rescuer: Task | None = None
        self.rescuer_wait: WaitQueue | None = None

    def start(self) -> None:
        """Make the rescuer thread."""
        if self.mem_reclaim:
            idle = Resource("work", f"{self.name}: rescuer", external=True)
            self.rescuer_wait = WaitQueue(self.pool.world, idle)
            self.rescuer = self.pool.world.spawn(
                self.name, self.rescuer_thread, cpus=self.pool.cpus, flags=self.pool.flags, nice=-20
            )

    def queue_work(self, item: WorkItem) -> bool:
        """Queue an item; return False if it was pending already."""
        if item.pending:
            return False
        item.pending = True
        item.queue = self
        if self.pool.probe is not None:
            self.pool.probe.queued(item)
        self.pool.insert(item)
        return True

    async def rescuer_thread(self, task: Task) -> None:
        """Wait for a mayday and run this queue's items, one after another."""
        assert self.rescuer_wait is not None
        rescuer = _Worker(self.name, self.rescuer_wait)
        rescuer.task = task
        pool = self.pool
        while True:
            await self.rescuer_wait.wait(task)
            while mine := [item for item in pool.items if item.queue is self]:
                item = mine[0]
                pool.items.remove(item)
                await pool.process_one_work(task, rescuer, item)
            pool.wake_worker_if_needed()
