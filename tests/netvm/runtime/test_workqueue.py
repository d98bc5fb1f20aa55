"""Workqueues: who runs an item, when a worker is made, and who helps when none can be."""

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.runtime.clock import run_virtual
from netvm.runtime.cpu import Cpus
from netvm.runtime.oracle import FifoOracle, Oracle, RandomOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerHandle, TimerKind
from netvm.runtime.wait import WaitQueue
from netvm.runtime.workqueue import MAYDAY_INITIAL_TIMEOUT_NS, KthreadCreator, WorkerPool, WorkItem, Workqueue
from netvm.runtime.world import World
from netvm.units import NS_PER_MS

Function: TypeAlias = Callable[[Task], Awaitable[None]]
MS = NS_PER_MS
PAUSE = Resource("timer", "a pause", external=True)
MEMORY = Resource("memory", "a free page")


class Machine:
    """A pool with one queue that has a rescuer and one that has none, and a log of what ran where and when."""

    def __init__(
        self, *, bound: bool = True, nr_workers: int = 2, oracle: Oracle | None = None, cpus: int = 0, nice: int = 0
    ) -> None:
        self.world = world = World(oracle=oracle or FifoOracle())
        self.cpus = Cpus(world, cpus) if cpus else None
        self.memory = WaitQueue(world, MEMORY)
        self.has_memory = True
        self.stacks_made = 0
        self.creator = KthreadCreator(world, self.cpus, self._allocate_stack)
        self.pool = WorkerPool(world, "0", self.creator, cpus=self.cpus, bound=bound, nr_workers=nr_workers, nice=nice)
        self.rescued = Workqueue("kblockd", self.pool, mem_reclaim=True)
        self.plain = Workqueue("events", self.pool, mem_reclaim=False)
        self.log: list[tuple[int, str, str]] = []

    async def _allocate_stack(self, task: Task) -> None:
        while not self.has_memory:
            await self.memory.wait(task)
        self.stacks_made += 1

    def free_memory(self) -> None:
        """Let stacks be allocated again."""
        self.has_memory = True
        self.memory.wake_all()

    def item(self, name: str, *, sleeps_ns: int = 0, charges_ns: int = 0) -> WorkItem:
        """Make an item that notes its beginning and its end."""

        async def function(task: Task) -> None:
            self.note(task, f"{name} begins")
            if charges_ns:
                assert self.cpus is not None
                self.cpus.charge(task, charges_ns)
                await self.cpus.pay(task)
            if sleeps_ns:
                await self.world.sleep_ns(task, sleeps_ns, PAUSE, kind=TimerKind.PROGRESS)
            self.note(task, f"{name} ends")

        return WorkItem(name, function)

    def note(self, task: Task, what: str) -> None:
        """Write what happens into the log."""
        self.log.append((self.world.now_ns, task.comm, what))

    def run(self, prepare: Callable[[], object], *, until_ns: int = 1000 * MS) -> list[tuple[int, str, str]]:
        """Start everything, call ``prepare``, and return the log of the time until ``until_ns``."""

        def main() -> None:
            self.creator.start(flags=0)
            self.pool.start()
            self.rescued.start()
            self.plain.start()
            self.world.call_at(until_ns, self.world.stop)
            prepare()

        run_virtual(lambda: self.world.run(main))
        return self.log

    def at(self, time_ns: int, queue: Workqueue, *items: WorkItem) -> list[TimerHandle]:
        """Queue items at a time."""
        return [self.world.call_at(time_ns, queue.queue_work, item) for item in items]

    def times(self) -> dict[str, float]:
        """Return when, in milliseconds, each thing of the log happened first."""
        times: dict[str, float] = {}
        for time_ns, _, what in self.log:
            times.setdefault(what, time_ns / MS)
        return times

    def ran_on(self, name: str) -> list[str]:
        """Return who ran an item, each time."""
        return [comm for _, comm, what in self.log if what == f"{name} begins"]


# -- items ----------------------------------------------------------------------------------------------------------


def test_an_item_runs_on_a_worker() -> None:
    """Soon, and in process context: it may sleep."""
    machine = Machine()
    machine.run(lambda: machine.at(5 * MS, machine.plain, machine.item("work", sleeps_ns=2 * MS)))
    assert machine.log == [(5 * MS, "kworker/0:1", "work begins"), (7 * MS, "kworker/0:1", "work ends")]


def test_an_item_is_pending_once() -> None:
    """Queued twice before it runs, it runs once; queue_work says which of the two it was."""
    machine = Machine()
    item = machine.item("work")
    answers: list[bool] = []

    def queue() -> None:
        answers.extend(machine.plain.queue_work(item) for _ in range(3))

    machine.run(lambda: (machine.world.call_at(1 * MS, queue), machine.world.call_at(2 * MS, queue)))
    assert answers == [True, False, False] * 2
    assert [what for _, _, what in machine.log] == ["work begins", "work ends"] * 2


@pytest.mark.parametrize("bound", [True, False])
def test_an_item_never_runs_beside_itself(bound: bool) -> None:
    """Queued again while it runs, it runs again, on the same worker, after it has ended."""
    machine = Machine(bound=bound)
    item = machine.item("work", sleeps_ns=10 * MS)
    machine.run(lambda: [machine.at(time_ns, machine.plain, item) for time_ns in (1 * MS, 4 * MS, 6 * MS)])
    assert [(time_ns // MS, what) for time_ns, _, what in machine.log] == [
        (1, "work begins"),
        (11, "work ends"),
        (11, "work begins"),
        (21, "work ends"),
    ]
    assert len(set(machine.ran_on("work"))) == 1


def test_an_item_may_queue_itself() -> None:
    """It is no longer pending once it runs."""
    machine = Machine()
    nr_left = 3

    async def again(task: Task) -> None:
        nonlocal nr_left
        machine.note(task, "runs")
        nr_left -= 1
        if nr_left:
            assert machine.plain.queue_work(item)

    item = WorkItem("again", again)
    machine.run(lambda: machine.at(1 * MS, machine.plain, item))
    assert len(machine.log) == 3


@settings(max_examples=40, deadline=None)
@given(
    st.booleans(),
    st.integers(0, 1 << 32),
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 2), st.booleans()), max_size=12),
)
def test_whatever_is_queued_runs(bound: bool, seed: int, queued: list[tuple[int, int, bool]]) -> None:
    """Any items at any times on any schedule: none is lost, none beside itself, none more often than it was queued."""
    machine = Machine(bound=bound, oracle=RandomOracle(Seeds(seed)))
    items = [machine.item(f"work{number}", sleeps_ns=number * 3 * MS) for number in range(3)]
    accepted = [0, 0, 0]

    def queue(number: int, rescued: bool) -> None:
        accepted[number] += (machine.rescued if rescued else machine.plain).queue_work(items[number])

    def prepare() -> None:
        for time_ms, number, rescued in queued:
            machine.world.call_at(time_ms * MS, queue, number, rescued)

    machine.run(prepare)
    for number in range(3):
        mine = [what for _, _, what in machine.log if what.startswith(f"work{number} ")]
        assert mine == [f"work{number} begins", f"work{number} ends"] * accepted[number]
        assert not items[number].pending


# -- concurrency ----------------------------------------------------------------------------------------------------


def overlapping(machine: Machine, names: Iterable[str]) -> int:
    """Return how many of these items were begun and not ended at most."""
    most = running = 0
    for _, _, what in machine.log:
        if what.split()[0] in names:
            running += 1 if what.endswith("begins") else -1
            most = max(most, running)
    return most


def test_a_bound_pool_runs_one_item_at_a_time() -> None:
    """As long as its worker computes, no other item begins, also with CPUs to spare."""
    machine = Machine(bound=True, nr_workers=4, cpus=4)
    names = [f"work{number}" for number in range(4)]
    machine.run(lambda: machine.at(1 * MS, machine.plain, *[machine.item(name, charges_ns=5 * MS) for name in names]))
    assert overlapping(machine, names) == 1
    assert machine.times()["work3 ends"] == 21


def test_a_worker_of_a_bound_pool_that_sleeps_lets_another_go() -> None:
    """The items of one pool overlap where they sleep."""
    machine = Machine(bound=True, nr_workers=4)
    names = [f"work{number}" for number in range(3)]
    machine.run(lambda: machine.at(1 * MS, machine.plain, *[machine.item(name, sleeps_ns=5 * MS) for name in names]))
    assert overlapping(machine, names) == 3
    assert machine.times()["work2 ends"] == 6


def test_an_unbound_pool_runs_items_side_by_side() -> None:
    """An item begins as soon as a worker can be had, whatever the others do."""
    machine = Machine(bound=False, nr_workers=4, cpus=4)
    names = [f"work{number}" for number in range(3)]
    machine.run(lambda: machine.at(1 * MS, machine.plain, *[machine.item(name, charges_ns=5 * MS) for name in names]))
    assert overlapping(machine, names) == 3
    assert machine.times()["work2 ends"] == 6


def test_the_worker_that_became_idle_last_runs_next() -> None:
    """Its cache is warm; the others may be reaped."""
    machine = Machine(nr_workers=3)
    items = [machine.item(f"work{number}") for number in range(4)]
    machine.run(lambda: [machine.at((number + 1) * MS, machine.plain, item) for number, item in enumerate(items)])
    assert len({machine.ran_on(item.name)[0] for item in items}) == 1


def test_workers_are_named_after_their_pool() -> None:
    """As ps shows them; those of a high-priority pool carry an H and its nice level."""
    machine = Machine(nice=-20)
    machine.run(lambda: machine.at(1 * MS, machine.plain, machine.item("work")))
    assert [worker.name for worker in machine.pool.workers] == ["kworker/0:0H", "kworker/0:1H"]
    assert all(worker.task is not None and worker.task.weight > 80_000 for worker in machine.pool.workers)


# -- making workers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [True, False])
def test_the_last_idle_worker_makes_another_first(bound: bool) -> None:
    """One through kthreadd, then it runs its item itself: a pool keeps one idle worker."""
    machine = Machine(bound=bound, nr_workers=1)
    machine.run(lambda: machine.at(1 * MS, machine.plain, machine.item("work", sleeps_ns=5 * MS)))
    assert machine.stacks_made == 1
    assert len(machine.pool.workers) == 2
    assert machine.ran_on("work") == ["kworker/0:0"]
    assert machine.pool.manager is None


def test_no_worker_is_made_while_another_is_idle() -> None:
    """Items one after another need no more than the pool has."""
    machine = Machine(nr_workers=2)
    items = [machine.item(f"work{number}") for number in range(5)]
    machine.run(lambda: machine.at(1 * MS, machine.plain, *items))
    assert machine.stacks_made == 0
    assert len(machine.log) == 10


def test_threads_are_made_one_after_another() -> None:
    """There is one kthreadd: requests wait for each other in their order."""
    machine = Machine()
    world = machine.world
    made = []

    async def slow_stack(task: Task) -> None:
        await world.sleep_ns(task, 3 * MS, PAUSE)

    machine.creator = KthreadCreator(world, None, slow_stack)

    async def asks(task: Task) -> None:
        await machine.creator.kthread_create(task, task.comm)
        made.append((task.comm, world.now_ns // MS))

    machine.run(lambda: [world.spawn(name, asks) for name in "abc"])
    assert made == [("a", 3), ("b", 6), ("c", 9)]


def test_who_wants_a_thread_waits_for_kthreadd() -> None:
    """So that a hang's explanation can follow the chain into the allocation of the stack."""
    machine = Machine(nr_workers=1)
    machine.has_memory = False
    chain: list[str] = []

    def look() -> None:
        manager = machine.pool.workers[0].task
        assert manager is not None
        assert machine.pool.needs_worker.providers is not None
        assert list(machine.pool.needs_worker.providers()) == [manager]
        chain.append(manager.resource.name)
        assert manager.resource.providers is not None
        (creator,) = manager.resource.providers()
        assert isinstance(creator, Task)
        chain.extend([creator.comm, creator.resource.name])

    def prepare() -> None:
        machine.at(1 * MS, machine.plain, machine.item("work"))
        machine.world.call_at(5 * MS, look)

    machine.run(prepare)
    assert chain == ["kthread_create_on_node: a new kernel thread", "kthreadd", "a free page"]


def test_a_worker_that_comes_back_works_although_none_can_be_made() -> None:
    """While somebody is the manager, a worker that has ended its item runs what waits: it makes nobody wait."""
    machine = Machine(nr_workers=2)
    machine.has_memory = False

    def prepare() -> None:
        machine.at(1 * MS, machine.plain, machine.item("long", sleeps_ns=50 * MS))
        machine.at(2 * MS, machine.plain, machine.item("first"))
        machine.at(60 * MS, machine.plain, machine.item("second"))

    machine.run(prepare)
    times = machine.times()
    assert times["long ends"] == 51
    assert times["first begins"] == 51
    assert times["second begins"] == 60


# -- rescuers -------------------------------------------------------------------------------------------------------


def stuck_machine(*, bound: bool = True) -> Machine:
    """Return a machine without memory whose only worker will have to make another first."""
    machine = Machine(nr_workers=1, bound=bound)
    machine.has_memory = False
    return machine


@pytest.mark.parametrize("bound", [True, False])
def test_a_rescuer_helps_when_no_worker_can_be_made(bound: bool) -> None:
    """After ten milliseconds (by the wheel four ticks) it runs its queue's items, and none of one without a rescuer."""
    machine = stuck_machine(bound=bound)

    def prepare() -> None:
        machine.at(1 * MS, machine.plain, machine.item("plain"))
        machine.at(1 * MS, machine.rescued, machine.item("rescued"))

    machine.run(prepare)
    mayday_ns = 16 * MS
    assert MAYDAY_INITIAL_TIMEOUT_NS == 10 * MS
    assert machine.log == [(mayday_ns, "kblockd", "rescued begins"), (mayday_ns, "kblockd", "rescued ends")]
    assert machine.stacks_made == 0


def test_a_rescuer_is_one_thread() -> None:
    """It runs its items one after another: a long one holds up the rest."""
    machine = stuck_machine()
    items = [machine.item(f"work{number}", sleeps_ns=20 * MS) for number in range(3)]
    machine.run(lambda: machine.at(1 * MS, machine.rescued, *items))
    assert [(time_ns // MS, what) for time_ns, _, what in machine.log] == [
        (16, "work0 begins"),
        (36, "work0 ends"),
        (36, "work1 begins"),
        (56, "work1 ends"),
        (56, "work2 begins"),
        (76, "work2 ends"),
    ]
    assert {comm for _, comm, _ in machine.log} == {"kblockd"}


def test_a_mayday_is_sent_again() -> None:
    """Every hundred milliseconds, for items that came later, until a worker has been made."""
    machine = stuck_machine()

    def prepare() -> None:
        machine.at(1 * MS, machine.plain, machine.item("plain"))
        machine.at(30 * MS, machine.rescued, machine.item("early"))
        machine.at(150 * MS, machine.rescued, machine.item("late"))
        machine.world.call_at(500 * MS, machine.free_memory)
        machine.at(600 * MS, machine.rescued, machine.item("normal"))

    machine.run(prepare)
    times = machine.times()
    assert (times["early begins"], times["late begins"]) == (120, 224)
    assert (times["plain begins"], times["normal begins"]) == (500, 600)
    assert machine.ran_on("early") == machine.ran_on("late") == ["kblockd"]
    assert machine.ran_on("plain") == ["kworker/0:0"]
    assert machine.ran_on("normal") == ["kworker/0:1"]


def test_no_mayday_when_a_worker_is_made_in_time() -> None:
    """Nine milliseconds are not too long."""
    machine = stuck_machine()

    def prepare() -> None:
        machine.at(1 * MS, machine.rescued, machine.item("work"))
        machine.world.call_at(10 * MS, machine.free_memory)

    machine.run(prepare)
    assert machine.ran_on("work") == ["kworker/0:0"]
    assert machine.times()["work begins"] == 10


def test_a_mayday_that_waits_is_a_retry() -> None:
    """No progress will come of itself while a worker is being made, but there is still somebody to call."""
    machine = stuck_machine()
    seen = []

    def look() -> None:
        seen.append(machine.world.pending_retry_sites())

    def prepare() -> None:
        machine.at(1 * MS, machine.plain, machine.item("plain"))
        machine.world.call_at(5 * MS, look)
        machine.world.call_at(50 * MS, look)
        machine.world.call_at(60 * MS, machine.free_memory)
        machine.world.call_at(70 * MS, look)

    machine.run(prepare)
    assert seen == [{"0: mayday"}, {"0: mayday"}, set()]


def test_an_item_the_rescuer_runs_comes_back_to_it() -> None:
    """Queued again meanwhile, it runs again there, not beside itself on a worker."""
    machine = stuck_machine()
    item = machine.item("work", sleeps_ns=20 * MS)

    def prepare() -> None:
        machine.at(1 * MS, machine.rescued, item)
        machine.at(20 * MS, machine.rescued, item)
        machine.world.call_at(21 * MS, machine.free_memory)

    machine.run(prepare)
    assert [(time_ns // MS, comm) for time_ns, comm, _ in machine.log] == [
        (16, "kblockd"),
        (36, "kblockd"),
        (36, "kblockd"),
        (56, "kblockd"),
    ]
