"""Wait queues and semaphores: who is woken, in which order, and what a timeout or a kill leaves behind."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.runtime.oracle import RandomOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task
from netvm.runtime.timer import TimerKind
from netvm.runtime.wait import RwSemaphore, Semaphore, WaitQueue
from netvm.runtime.world import World

Run: TypeAlias = Callable[..., list[Task]]
PAUSE = Resource("timer", "a pause", external=True)
NEWS = Resource("reply", "news")


class Waiters:
    """Tasks that wait once in a queue and note the end of it."""

    def __init__(self, world: World, *, timeout_ns: int | None = None, killable: bool = False) -> None:
        self.world = world
        self.queue = WaitQueue(world, NEWS)
        self.log: list[tuple[int, int, object]] = []
        self._timeout_ns = timeout_ns
        self._killable = killable

    async def body(self, task: Task) -> None:
        """Wait once."""
        result: object = "cancelled"
        try:
            result = await self.queue.wait(task, timeout_ns=self._timeout_ns, killable=self._killable)
        finally:
            self.log.append((self.world.now_ns, task.number, result))


def test_waiters_are_woken_first_come_first(run: Run) -> None:
    """wake_one wakes the one that waits longest, and says whether there was one."""
    world = World()
    waiters = Waiters(world)
    woken: list[int] = []

    def prepare(tasks: list[Task]) -> None:
        for time_ns in (1, 2, 3):
            world.call_at(time_ns, lambda: woken.append(waiters.queue.wake_one()))
        world.call_at(1, lambda: woken.append(len(waiters.queue)))

    run(world, waiters.body, waiters.body, waiters.body, prepare=prepare)
    assert waiters.log == [(1, 1, True), (2, 2, True), (3, 3, True)]
    assert woken == [True, 2, True, True]


def test_wake_all_wakes_everybody_in_order(run: Run) -> None:
    """And says how many there were."""
    world = World()
    waiters = Waiters(world)
    woken = []

    def wake() -> None:
        assert [task.number for task in waiters.queue.waiters] == [1, 2, 3]
        woken.append(waiters.queue.wake_all())
        woken.append(waiters.queue.wake_all())

    run(world, *[waiters.body] * 3, prepare=lambda tasks: world.call_at(5, wake))
    assert waiters.log == [(5, 1, True), (5, 2, True), (5, 3, True)]
    assert woken == [3, 0]
    assert len(waiters.queue) == 0


def test_a_timeout_ends_a_wait(run: Run) -> None:
    """The waiter gets False, and no wake-up is spent on it any more."""
    world = World()
    waiters = Waiters(world, timeout_ns=10)

    async def observer(task: Task) -> None:
        await world.sleep_ns(task, 5, PAUSE)
        assert waiters.queue.wake_one()
        await world.sleep_ns(task, 10, PAUSE)
        assert not waiters.queue.wake_one()
        assert len(waiters.queue) == world.nr_pending_retry == 0

    run(world, waiters.body, waiters.body, observer)
    assert waiters.log == [(5, 1, True), (10, 2, False)]


@pytest.mark.parametrize("wake_first", [True, False])
def test_a_wake_and_a_timeout_of_one_instant(run: Run, wake_first: bool) -> None:
    """The event that comes first decides, and a wake-up that comes late goes to the next in line."""
    world = World()
    first = Waiters(world, timeout_ns=10)
    second = Waiters(world)
    second.queue = first.queue

    def wake() -> None:
        first.queue.wake_one()

    async def early(task: Task) -> None:
        if wake_first:
            world.call_at(10, wake)
        await first.body(task)

    async def late(task: Task) -> None:
        if not wake_first:
            world.call_at(10, wake)
        world.call_at(30, first.queue.wake_all)
        await second.body(task)

    run(world, early, late)
    assert first.log == [(10, 1, wake_first)]
    assert second.log == [(30 if wake_first else 10, 2, True)]


def test_a_killed_waiter_leaves_the_queue(run: Run) -> None:
    """Its cancellation takes it out, and the wake-up that would have been its goes to the next."""
    world = World()
    waiters = Waiters(world, killable=True)

    def prepare(tasks: list[Task]) -> None:
        def strike() -> None:
            tasks[0].kill()
            waiters.queue.wake_one()

        world.call_at(5, strike)
        world.call_at(6, lambda: waiters.log.append((6, len(waiters.queue), "left")))
        world.call_at(7, waiters.queue.wake_all)

    run(world, *[waiters.body] * 3, prepare=prepare)
    assert sorted(waiters.log[:2]) == [(5, 1, "cancelled"), (5, 2, True)]
    assert waiters.log[2:] == [(6, 1, "left"), (7, 3, True)]


def test_a_wait_names_what_it_waits_for(run: Run) -> None:
    """The queue's resource, unless a wait has a better name for it; afterwards none."""
    world = World()
    queue = WaitQueue(world, NEWS)
    special = Resource("reply", "a special one")
    seen = []

    async def waiter(task: Task) -> None:
        await queue.wait(task)
        await queue.wait(task, resource=special)
        seen.append(task.resource.name)

    def look(task: Task) -> None:
        seen.append(task.resource.name)
        queue.wake_one()

    run(world, waiter, prepare=lambda tasks: [world.call_at(nr, look, tasks[0]) for nr in (1, 2)])
    assert seen == ["news", "a special one", "nothing"]


@pytest.mark.parametrize("kind", list(TimerKind))
def test_a_timeout_is_of_the_kind_it_says(run: Run, kind: TimerKind) -> None:
    """So that the hang detector knows what is progress."""
    world = World()
    queue = WaitQueue(world, NEWS)
    seen = []

    async def waiter(task: Task) -> None:
        await queue.wait(task, timeout_ns=10, kind=kind)

    def look() -> None:
        seen.append((world.nr_pending_progress, world.nr_pending_retry))

    run(world, waiter, prepare=lambda tasks: world.call_at(5, look, kind=TimerKind.CLOCK))
    assert seen == [(int(kind is TimerKind.PROGRESS), int(kind is TimerKind.RETRY))]


# -- semaphores -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 3),
    st.integers(0, 1 << 32),
    st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=4), min_size=1, max_size=6),
)
def test_never_more_inside_than_units(run: Run, nr_units: int, seed: int, plans: list[list[tuple[int, int]]]) -> None:
    """Any schedule of any holders: a counter beside the lock never passes its units, and all come through."""
    world = World(oracle=RandomOracle(Seeds(seed)))
    lock = Semaphore(world, "a lock", nr_units)
    inside: list[Task] = []
    nr_done = 0

    async def holder(task: Task) -> None:
        nonlocal nr_done
        for before_ns, held_ns in plans[task.number - 1]:
            await world.sleep_ns(task, before_ns, PAUSE)
            await lock.down(task)
            inside.append(task)
            assert len(inside) <= nr_units
            assert lock.holders == inside
            await world.sleep_ns(task, held_ns, PAUSE)
            inside.remove(task)
            lock.up(task)
            nr_done += 1

    run(world, *[holder] * len(plans))
    assert nr_done == sum(len(plan) for plan in plans)
    assert lock.holders == []


def test_a_lock_is_taken_only_if_it_is_free(run: Run) -> None:
    """try_down never waits; a free unit is taken without giving way."""
    world = World()
    lock = Semaphore(world, "a lock")
    log: list[int] = []

    async def first(task: Task) -> None:
        log.append(lock.try_down(task))
        await world.sleep_ns(task, 10, PAUSE)
        lock.up(task)

    async def second(task: Task) -> None:
        log.append(lock.try_down(task))
        await lock.down(task)
        log.append(world.now_ns)

    run(world, first, second)
    assert log == [True, False, 10]


def test_a_lock_knows_its_holders(run: Run) -> None:
    """Who waits for it waits for a resource that its holders provide: the edge of the wait-for graph."""
    world = World()
    lock = Semaphore(world, "a lock")
    seen: list[object] = []

    async def first(task: Task) -> None:
        await lock.down(task)
        await world.sleep_ns(task, 10, PAUSE)
        lock.up(task)

    async def second(task: Task) -> None:
        await lock.down(task)

    def look(tasks: list[Task]) -> None:
        resource = tasks[1].resource
        assert resource.providers is not None
        seen.extend([resource.kind, resource.name, list(resource.providers()) == [tasks[0]]])

    run(world, first, second, prepare=lambda tasks: world.call_at(5, look, tasks))
    assert seen == ["lock", "a lock", True]


def test_a_killed_waiter_does_not_take_the_lock(run: Run) -> None:
    """The unit it would have got goes to the next; without killable the wait outlasts the kill."""
    world = World()
    lock = Semaphore(world, "a lock")
    log = []

    async def holder(task: Task) -> None:
        await lock.down(task)
        await world.sleep_ns(task, 10, PAUSE)
        lock.up(task)

    async def victim(task: Task) -> None:
        with pytest.raises(trio.Cancelled):
            await lock.down(task, killable=True)
        log.append(("victim", world.now_ns))

    async def patient(task: Task) -> None:
        await lock.down(task)
        log.append(("patient", world.now_ns))

    def prepare(tasks: list[Task]) -> None:
        for task in tasks[1:]:
            world.call_at(5, task.kill)

    run(world, holder, victim, patient, prepare=prepare)
    assert log == [("victim", 5), ("patient", 10)]


def test_only_a_holder_gives_back(run: Run) -> None:
    """Giving back what one does not hold is a bug."""
    world = World()
    lock = Semaphore(world, "a lock")

    async def liar(task: Task) -> None:
        lock.up(task)

    with pytest.raises(ValueError, match="not in list"):
        run(world, liar)


# -- reader-writer locks -----------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    plans=st.lists(
        st.lists(st.tuples(st.booleans(), st.integers(0, 20), st.integers(1, 20)), min_size=1, max_size=4),
        min_size=2,
        max_size=6,
    ),
    seed=st.integers(0, 99),
)
def test_many_read_or_one_writes_and_nobody_is_forgotten(
    run: Run, plans: list[list[tuple[bool, int, int]]], seed: int
) -> None:
    """A list of who is inside is model enough; writers go in the order they came, and no reader passes one by."""
    world = World(oracle=RandomOracle(Seeds(seed)))
    lock = RwSemaphore(world, "a lock")
    inside: list[tuple[Task, bool]] = []
    asked: list[tuple[Task, bool]] = []
    nr_done = 0

    async def user(task: Task) -> None:
        nonlocal nr_done
        for write, before_ns, held_ns in plans[task.number - 1]:
            await world.sleep_ns(task, before_ns, PAUSE)
            asked.append((task, write))
            await (lock.down_write(task) if write else lock.down_read(task))
            before_me = asked[: asked.index((task, write))]
            if write:
                assert not inside
                assert not any(wrote for _, wrote in before_me)
            asked.remove((task, write))
            inside.append((task, write))
            await world.sleep_ns(task, held_ns, PAUSE)
            inside.remove((task, write))
            (lock.up_write if write else lock.up_read)(task)
            nr_done += 1

    run(world, *[user] * len(plans))
    assert nr_done == sum(len(plan) for plan in plans)
    assert (lock.readers, lock.writer) == ([], None)


def test_a_reader_waits_behind_a_writer_that_waits(run: Run) -> None:
    """The writer waits for the first reader, the second reader for the writer; and each knows for whom."""
    world = World()
    lock = RwSemaphore(world, "mmap_lock: prog")
    log: list[tuple[int, int]] = []
    held_by: list[object] = []

    async def body(task: Task) -> None:
        await world.sleep_ns(task, task.number, PAUSE)
        if task.number == 3:
            (waiting,) = (other for other in world.tasks.values() if other.resource.name == "mmap_lock: prog")
            assert waiting.resource.providers is not None
            held_by.extend(waiting.resource.providers())
        await (lock.down_write(task) if task.number == 2 else lock.down_read(task))
        log.append((world.now_ns, task.number))
        await world.sleep_ns(task, 100, PAUSE)
        (lock.up_write if task.number == 2 else lock.up_read)(task)

    first, *_ = run(world, body, body, body)
    assert log == [(1, 1), (101, 2), (201, 3)]
    assert held_by == [first]


def test_a_writer_that_is_killed_lets_readers_pass(run: Run) -> None:
    """down_write is killable; those who waited behind it go on."""
    world = World()
    lock = RwSemaphore(world, "a lock")
    log: list[tuple[int, int]] = []

    async def body(task: Task) -> None:
        await world.sleep_ns(task, task.number, PAUSE)
        await (lock.down_write(task) if task.number == 2 else lock.down_read(task))
        log.append((world.now_ns, task.number))
        await world.sleep_ns(task, 100, PAUSE)
        lock.up_read(task)

    def prepare(tasks: list[Task]) -> None:
        world.call_at(10, tasks[1].kill)

    run(world, body, body, body, prepare=prepare)
    assert log == [(1, 1), (10, 3)]


def test_a_lock_can_be_dropped_while_something_else_is_waited_for(run: Run) -> None:
    """A writer gets in meanwhile; who does not hold it only waits."""
    world = World()
    lock = RwSemaphore(world, "a lock")
    log: list[tuple[int, str]] = []

    async def reader(task: Task) -> None:
        await lock.down_read(task)
        await lock.drop_while(task, world.sleep_ns(task, 50, PAUSE))
        log.append((world.now_ns, "back"))
        lock.up_read(task)
        await lock.drop_while(task, world.sleep_ns(task, 50, PAUSE))
        assert lock.readers == []

    async def writer(task: Task) -> None:
        await world.sleep_ns(task, 10, PAUSE)
        await lock.down_write(task)
        log.append((world.now_ns, "written"))
        await world.sleep_ns(task, 100, PAUSE)
        lock.up_write(task)

    run(world, reader, writer)
    assert log == [(10, "written"), (110, "back")]
