"""Virtual time as trio sees it: exact, standing still by itself, and ending on Ctrl-C."""

from collections.abc import Callable
from typing import TypeAlias

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.runtime.clock import VirtualClock, run_virtual
from netvm.runtime.task import Resource, Task
from netvm.runtime.world import World
from netvm.units import NS_PER_MS, NS_PER_S

Run: TypeAlias = Callable[..., list[Task]]
MS = NS_PER_MS
PAUSE = Resource("timer", "a pause", external=True)
NEWS = Resource("reply", "news that never come")


def test_ten_sleeps_of_a_tenth_end_at_one_second(run: Run) -> None:
    """Time is counted in integer nanoseconds: no rounding error adds up."""
    world = World()

    async def sleeper(task: Task) -> None:
        for _ in range(10):
            await world.sleep_ns(task, NS_PER_S // 10, PAUSE)

    run(world, sleeper)
    assert world.now_ns == NS_PER_S


def test_trio_sees_the_worlds_time(run: Run) -> None:
    """Inside a run, trio's clock and the world's are the same."""
    world = World()
    seen = []

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 1_234_567_891, PAUSE)
        seen.append(trio.current_time())

    run(world, sleeper)
    assert seen == [1.234567891]


def test_without_a_world_the_clock_stands_still() -> None:
    """Nothing moves virtual time but a world."""

    async def main() -> None:
        before = trio.current_time()
        for _ in range(3):
            await trio.lowlevel.checkpoint()
        assert trio.current_time() == before

    run_virtual(main)


def test_without_a_world_trio_waits_for_its_deadline() -> None:
    """The answer is then trio's own: the time that is left, and none for a deadline that has passed."""
    clock = VirtualClock()
    assert clock.deadline_to_sleep_time(1.5) == 1.5
    assert clock.deadline_to_sleep_time(-1.0) == 0.0


def test_worlds_follow_each_other_in_one_loop() -> None:
    """Each world begins at zero; the clock keeps the time they took together."""
    ended: list[int] = []

    async def live(world: World, number: int) -> None:
        async def sleeper(task: Task) -> None:
            await world.sleep_ns(task, number * MS, PAUSE)
            ended.append(world.now_ns)
            world.stop()

        await world.run(lambda: world.spawn("sleeper", sleeper))

    async def main() -> None:
        for number in range(20):
            await live(World(), number)
        assert trio.current_time() == sum(range(20)) / 1000

    run_virtual(main)
    assert ended == [number * MS for number in range(20)]


def test_two_worlds_at_once_keep_their_own_time() -> None:
    """Worlds side by side in one loop do not move each other's clock."""
    logs: dict[int, list[int]] = {3: [], 7: []}

    async def live(step_ns: int) -> None:
        world = World()

        async def sleeper(task: Task) -> None:
            for _ in range(5):
                await world.sleep_ns(task, step_ns, PAUSE)
                logs[step_ns].append(world.now_ns)
            world.stop()

        await world.run(lambda: world.spawn("sleeper", sleeper))

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            for step_ns in logs:
                nursery.start_soon(live, step_ns)

    run_virtual(main)
    assert logs == {3: [3, 6, 9, 12, 15], 7: [7, 14, 21, 28, 35]}


# -- trio's own deadlines -------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.lists(st.integers(1, 3 * NS_PER_S), min_size=1, max_size=8))
def test_move_on_after_ends_to_the_nanosecond(run: Run, delays_ns: list[int]) -> None:
    """However the floats of trio's deadlines are rounded, each comes at its nanosecond."""
    world = World(trio_deadlines=True)
    ended_ns = []

    async def sleeper(task: Task) -> None:
        for delay_ns in delays_ns:
            with trio.move_on_after(delay_ns / NS_PER_S) as scope:
                await world.sleep_on(task, NEWS, killable=True)
            assert scope.cancelled_caught
            ended_ns.append(world.now_ns)

    run(world, sleeper)
    assert ended_ns == [sum(delays_ns[: nr + 1]) for nr in range(len(delays_ns))]


def test_events_before_a_deadline_come_before_it(run: Run) -> None:
    """A world that honours deadlines stops at them on its way and goes on from there."""
    world = World(trio_deadlines=True)
    log: list[str] = []

    async def sleeper(task: Task) -> None:
        with trio.move_on_after(0.5):
            await world.sleep_on(task, NEWS, killable=True)
        log.append(f"moved on at {world.now_ns}")
        await world.sleep_ns(task, NS_PER_S, PAUSE)

    def prepare(tasks: list[Task]) -> None:
        for time_ns in (NS_PER_S // 2 - 1, NS_PER_S // 2 + 1):
            world.call_at(time_ns, lambda: log.append(f"event at {world.now_ns}"))

    run(world, sleeper, prepare=prepare)
    assert log == ["event at 499999999", "moved on at 500000000", "event at 500000001"]


def test_a_deadline_is_no_kill(run: Run) -> None:
    """A scope that timed out has not sent a signal: the task goes on and may sleep killably again."""
    world = World(trio_deadlines=True)
    values = []

    async def sleeper(task: Task) -> None:
        with trio.move_on_after(1):
            await world.sleep_on(task, NEWS, killable=True)
        assert not task.killed
        world.call_after(5, world.wake, task, "woken")
        values.append(await world.sleep_on(task, NEWS, killable=True))

    run(world, sleeper)
    assert values == ["woken"]


def test_fail_after_reaches_the_task(run: Run) -> None:
    """What trio raises for a deadline is raised where the task waits, and is the run's if nobody takes it."""
    world = World(trio_deadlines=True)

    async def sleeper(task: Task) -> None:
        with trio.fail_after(2):
            await world.sleep_on(task, NEWS, interruptible=True)

    with pytest.raises(trio.TooSlowError):
        run(world, sleeper)
    assert world.now_ns == 2 * NS_PER_S


def test_an_uninterruptible_wait_outlasts_a_deadline(run: Run) -> None:
    """State D ends by being woken, whatever trio's deadline says; the cancellation waits for the next killable wait."""
    world = World(trio_deadlines=True)
    log = []

    async def sleeper(task: Task) -> None:
        with trio.move_on_after(1) as scope:
            await world.sleep_ns(task, 3 * NS_PER_S, PAUSE)
            log.append(world.now_ns)
            await world.sleep_on(task, NEWS, killable=True)
        assert scope.cancelled_caught
        log.append(world.now_ns)

    run(world, sleeper)
    assert log == [3 * NS_PER_S, 3 * NS_PER_S]


@pytest.mark.parametrize("deadline", [1e300, 1e11, float("inf")])
def test_a_deadline_beyond_all_times_never_comes(run: Run, deadline: float) -> None:
    """Numbers no nanosecond counter can hold are as good as no deadline."""
    world = World(trio_deadlines=True)

    async def sleeper(task: Task) -> None:
        with trio.move_on_at(deadline) as scope:
            await world.sleep_on(task, NEWS, timeout_ns=7, killable=True)
        assert not scope.cancelled_caught

    run(world, sleeper)
    assert world.now_ns == 7


def test_a_deadline_moved_into_the_past_comes_at_once(run: Run) -> None:
    """A scope may be told while it is open that its time is over."""
    world = World(trio_deadlines=True)

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 50, PAUSE)
        with trio.CancelScope() as scope:
            scope.deadline = -float("inf")
            await world.sleep_on(task, NEWS, killable=True)
        assert scope.cancelled_caught

    run(world, sleeper)
    assert world.now_ns == 50


def test_a_deadline_around_a_run_ends_it() -> None:
    """A whole world can be given a time limit from outside."""
    world = World(trio_deadlines=True)

    async def sleeper(task: Task) -> None:
        while True:
            await world.sleep_ns(task, MS, PAUSE)

    async def main() -> None:
        with trio.move_on_after(0.0155) as scope:
            await world.run(lambda: world.spawn("sleeper", sleeper))
        assert scope.cancelled_caught

    run_virtual(main)
    assert world.now_ns == 15_500_000


# -- Ctrl-C, fixtures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alone", [True, False])
def test_control_c_ends_the_run(run: Run, control_c: Callable[[], None], alone: bool) -> None:
    """A signal while the model computes ends the run with KeyboardInterrupt, also when nothing ever parks for long."""
    world = World()

    async def sleeper(task: Task) -> None:
        while True:
            await world.sleep_ns(task, MS, PAUSE)

    def prepare(tasks: list[Task]) -> None:
        world.call_after(10 * MS + 1, control_c)

    with pytest.raises(KeyboardInterrupt):
        run(world, *[sleeper] * (1 if alone else 3), prepare=prepare)
    assert world.stopped


def test_control_c_at_the_very_end_is_itself(run: Run, control_c: Callable[[], None]) -> None:
    """A signal in the last step, after which trio ends its nursery, is no group of exceptions."""
    world = World()

    async def last(task: Task) -> None:
        await world.sleep_ns(task, MS, PAUSE)
        control_c()
        world.stop()

    with pytest.raises(KeyboardInterrupt):
        run(world, last)
    assert world.stopped


def test_control_c_spares_nobody(run: Run, control_c: Callable[[], None]) -> None:
    """Tasks in uninterruptible waits, killed or not, are ended too."""
    world = World()

    async def stuck(task: Task) -> None:
        await world.sleep_on(task, NEWS)

    def prepare(tasks: list[Task]) -> None:
        world.call_after(MS, tasks[0].kill)
        world.call_after(2 * MS, control_c)
        world.call_after(100 * MS, lambda: None)

    with pytest.raises(KeyboardInterrupt):
        run(world, stuck, stuck, prepare=prepare)
    assert not world.tasks


@pytest.fixture
def clock() -> VirtualClock:
    """The clock that pytest-trio runs the next test on."""
    return VirtualClock()


@pytest.mark.trio
async def test_pytest_trio_takes_the_clock_as_a_fixture(clock: VirtualClock) -> None:
    """A test that is an async function can run a world on a fixture that is a clock."""
    world = World()

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, NS_PER_S, PAUSE)
        world.stop()

    assert trio.lowlevel.current_clock() is clock
    await world.run(lambda: world.spawn("sleeper", sleeper))
    assert trio.current_time() == 1.0
