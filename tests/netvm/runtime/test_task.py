"""Tasks: kills, the waits they reach and those they do not, and what a task says of itself."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import trio

from netvm.runtime.task import NOT_WAITING, Provider, Resource, Task, TaskState, weight_of
from netvm.runtime.world import TIMED_OUT, World

Run: TypeAlias = Callable[..., list[Task]]
PAUSE = Resource("timer", "a pause", external=True)
NEWS = Resource("reply", "news that never come")


@pytest.mark.parametrize("how", ["killable", "interruptible"])
@pytest.mark.parametrize("nr_tasks", [1, 2])
def test_a_kill_ends_a_killable_wait_at_once(run: Run, how: str, nr_tasks: int) -> None:
    """The wait is cut short at the instant of the kill, and its timeout is disarmed."""
    world = World()
    log = []

    async def victim(task: Task) -> None:
        try:
            await world.sleep_on(task, NEWS, timeout_ns=1000, **{how: True})
        except trio.Cancelled:
            log.append((task.comm, world.now_ns, task.killed, task.timer, world.nr_pending_retry))
            raise

    def prepare(tasks: list[Task]) -> None:
        for task in tasks:
            world.call_after(100, task.kill)
        for time_ns in (50, 150, 2000):
            world.call_at(time_ns, lambda: None)

    tasks = run(world, *[victim] * nr_tasks, prepare=prepare)
    assert log == [(f"t{nr}", 100, True, None, nr_tasks - nr) for nr in range(1, nr_tasks + 1)]
    assert all(task.state is TaskState.DEAD for task in tasks)


@pytest.mark.parametrize("nr_tasks", [1, 2])
def test_a_kill_waits_for_the_next_killable_wait(run: Run, nr_tasks: int) -> None:
    """An uninterruptible wait ends at its own time; the signal stays pending until a wait that takes it."""
    world = World()
    log: list[object] = []

    async def victim(task: Task) -> None:
        log.append((await world.sleep_on(task, NEWS, timeout_ns=1000), world.now_ns))
        await world.yield_cpu(task)
        await world.sleep_ns(task, 500, PAUSE)
        try:
            await world.sleep_on(task, NEWS, timeout_ns=1000, killable=True)
        finally:
            log.append(world.now_ns)

    def prepare(tasks: list[Task]) -> None:
        world.call_after(100, tasks[0].kill)

    async def other(task: Task) -> None:
        for _ in range(40):
            await world.sleep_ns(task, 50, PAUSE)

    run(world, *[victim, other][:nr_tasks], prepare=prepare)
    assert log == [(TIMED_OUT, 1000), 1500]


def test_a_task_may_be_killed_before_its_first_step(run: Run) -> None:
    """A kill that comes before trio has started the task is not lost: the first killable wait takes it."""
    world = World()
    log = []

    async def victim(task: Task) -> None:
        log.append("begun")
        try:
            await world.sleep_on(task, NEWS, timeout_ns=1000, killable=True)
        finally:
            log.append(str(world.now_ns))

    run(world, victim, prepare=lambda tasks: tasks[0].kill())
    assert log == ["begun", "0"]


def test_a_task_may_kill_itself(run: Run) -> None:
    """As a signal to oneself: it is taken by the next killable wait, not before."""
    world = World()
    log = []

    async def victim(task: Task) -> None:
        task.kill()
        await world.sleep_ns(task, 10, PAUSE)
        log.append(world.now_ns)
        await world.sleep_on(task, NEWS, killable=True)
        log.append(-1)

    run(world, victim)
    assert log == [10]


@pytest.mark.parametrize("kill_first", [True, False])
def test_a_kill_and_a_wake_of_one_instant(run: Run, kill_first: bool) -> None:
    """The first ends the wait: a woken task keeps what it was woken with, and a killed one is not there to be woken."""
    world = World()
    log: list[object] = []

    async def victim(task: Task) -> None:
        log.append(await world.sleep_on(task, NEWS, killable=True))
        await world.sleep_on(task, NEWS, killable=True)
        log.append("not reached")

    def strike(task: Task) -> None:
        if kill_first:
            task.kill()
        log.append(world.wake(task, "a page"))
        task.kill()

    run(world, victim, prepare=lambda tasks: world.call_after(100, strike, tasks[0]))
    assert log == ([False] if kill_first else [True, "a page"])


def test_killed_tasks_come_back_in_order_of_their_numbers(run: Run) -> None:
    """However the kills of one instant are ordered, and whatever order trio delivers them in."""
    world = World()
    log = []

    async def victim(task: Task) -> None:
        try:
            await world.sleep_on(task, NEWS, killable=True)
        finally:
            log.append(task.number)

    def kill(tasks: list[Task]) -> None:
        for index in (3, 0, 4, 1, 2):
            tasks[index].kill()

    run(world, *[victim] * 5, prepare=lambda tasks: world.call_after(100, kill, tasks))
    assert log == [1, 2, 3, 4, 5]


def test_a_cancelled_wait_waits_for_nothing(run: Run) -> None:
    """Cleaning up after a kill, the task no longer shows what it waited for, and may wait uninterruptibly."""
    world = World()
    log: list[object] = []

    async def victim(task: Task) -> None:
        try:
            await world.sleep_on(task, NEWS, killable=True)
        finally:
            log.append(task.resource)
            await world.sleep_ns(task, 10, PAUSE)
            log.append(world.now_ns)

    run(world, victim, prepare=lambda tasks: world.call_after(100, tasks[0].kill))
    assert log == [NOT_WAITING, 110]


def test_killing_the_dead_changes_nothing(run: Run) -> None:
    """Whoever holds on to a task that has ended may still kill it or try to wake it."""
    world = World()

    async def short(task: Task) -> None:
        await world.yield_cpu(task)

    async def killer(task: Task) -> None:
        await world.sleep_ns(task, 10, PAUSE)
        victim.kill()
        assert not world.wake(victim)
        assert victim.state is TaskState.DEAD

    victim: Task

    def prepare(tasks: list[Task]) -> None:
        nonlocal victim
        victim = tasks[0]

    run(world, short, killer, prepare=prepare)


@pytest.mark.parametrize("nr_tasks", [1, 2])
def test_the_stack_shows_the_functions_of_the_model(run: Run, nr_tasks: int) -> None:
    """A task's stack names what it is in, outermost first, without the machinery, wherever the dispatcher runs."""
    world = World()
    stacks: list[list[str]] = []
    tasks: list[Task] = []

    async def shrink_inactive_list(task: Task) -> None:
        await world.sleep_ns(task, 100, PAUSE)
        world.retry_fired = lambda site: look()
        world.retry_point("a spin")
        world.retry_fired = None

    async def kswapd(task: Task) -> None:
        await shrink_inactive_list(task)

    def look() -> None:
        stacks.extend(task.stack() for task in tasks)

    def prepare(made: list[Task]) -> None:
        tasks.extend(made)
        world.call_after(50, look)

    run(world, *[kswapd] * nr_tasks, prepare=prepare)
    assert stacks[:nr_tasks] == [["kswapd", "shrink_inactive_list"]] * nr_tasks
    assert stacks[nr_tasks] == ["kswapd", "shrink_inactive_list"]
    assert tasks[0].stack() == []


def test_a_task_that_has_not_begun_has_no_stack(run: Run) -> None:
    """Nor does asking for it fail."""
    world = World()
    stacks = []

    async def nothing(task: Task) -> None:
        await world.yield_cpu(task)

    run(world, nothing, prepare=lambda tasks: stacks.append(tasks[0].stack()))
    assert stacks == [[]]


def test_a_task_shows_its_name_number_and_state(run: Run) -> None:
    """What a log or a failed assertion prints of a task."""
    world = World()
    seen = []

    def look(task: Task) -> None:
        seen.append(repr(task))

    async def sleeper(task: Task) -> None:
        look(task)
        await world.sleep_ns(task, 100, PAUSE)

    (task,) = run(world, sleeper, pid=42, prepare=lambda tasks: world.call_after(50, look, tasks[0]))
    assert [*seen, repr(task)] == ["<t1-42 R (on CPU)>", "<t1-42 D>", "<t1-42 X>"]
    assert task.retry_site(Resource("memory", "a page")) == "t1-42: a page"


def test_a_nice_level_weighs_a_quarter_more() -> None:
    """Each level weighs 1.25 of the next (sched_prio_to_weight), within the kernel's rounding."""
    kernel = {-20: 88761, -10: 9548, -1: 1277, 0: 1024, 1: 820, 5: 335, 10: 110, 19: 15}
    for nice, weight in kernel.items():
        assert weight_of(nice) == pytest.approx(weight, rel=0.03)
    for nice in (-21, 20):
        with pytest.raises(AssertionError):
            weight_of(nice)


def test_resources_are_themselves() -> None:
    """Two resources of the same name are two; two providers of the same name and needs are alike."""
    assert Resource("lock", "a") != Resource("lock", "a")
    assert Provider(name="link") == Provider(name="link")
