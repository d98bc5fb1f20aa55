"""A world: who runs when, how a run ends, and what trio has to do with it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import trio

from netvm.runtime.clock import run_virtual
from netvm.runtime.cpu import Cpus
from netvm.runtime.oracle import FifoOracle, Oracle, RandomOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task, TaskState
from netvm.runtime.timer import TimerKind
from netvm.runtime.world import TIMED_OUT, World

Run: TypeAlias = Callable[..., list[Task]]
Play: TypeAlias = Callable[[Oracle], tuple[list[object], list[int]]]
PAUSE = Resource("timer", "a pause", external=True)
NEWS = Resource("reply", "news that never come")


def run_events(world: World, prepare: Callable[[], object]) -> None:
    """Run a world without tasks until nothing is left to happen."""
    world.quiesced = world.stop
    run_virtual(lambda: world.run(prepare))


# -- events ---------------------------------------------------------------------------------------------------------


def test_one_task_runs_at_a_time(run: Run) -> None:
    """Between two waits of a task nothing else happens: no event, no other task, no time."""
    world = World()
    inside: list[Task] = []

    async def busy(task: Task) -> None:
        for number in range(20):
            assert not inside
            inside.append(task)
            assert world.current is task
            assert task.state is TaskState.RUNNING
            before_ns = world.now_ns
            world.call_after(number % 3, lambda: None)
            assert world.now_ns == before_ns
            inside.remove(task)
            await world.sleep_ns(task, number % 4, PAUSE)

    run(world, *[busy] * 6)


def test_ready_tasks_run_in_the_order_they_became_ready(run: Run) -> None:
    """Fifo: the order of the wake-ups, whatever the order of the sleeps."""
    world = World()
    log = []

    async def sleeper(task: Task) -> None:
        await world.sleep_on(task, NEWS)
        log.append(task.number)

    def wake(tasks: list[Task]) -> None:
        for index in (2, 0, 3, 1):
            assert world.wake(tasks[index])
            assert not world.wake(tasks[index])

    run(world, *[sleeper] * 4, prepare=lambda tasks: world.call_after(5, wake, tasks))
    assert log == [3, 1, 4, 2]


def test_a_task_runs_before_the_next_event_of_its_instant(run: Run) -> None:
    """A woken task runs first; then time, or the next event of the same instant, goes on."""
    world = World()
    log = []

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 5, PAUSE)
        log.append("task")

    def prepare(tasks: list[Task]) -> None:
        world.call_at(4, lambda: world.call_at(5, log.append, "late event"))
        world.call_at(5, log.append, "early event")

    run(world, sleeper, prepare=prepare)
    assert log == ["early event", "task"]


def test_yielding_lets_the_others_run(run: Run) -> None:
    """A task that gives way runs again after all who were ready, at the same instant."""
    world = World()
    log = []

    async def polite(task: Task) -> None:
        for _ in range(3):
            log.append(task.number)
            await world.yield_cpu(task)

    run(world, polite, polite, polite)
    assert log == [1, 2, 3] * 3
    assert world.now_ns == 0


def test_a_wake_carries_a_value(run: Run) -> None:
    """The sleeper gets what it was woken with, or TIMED_OUT, which says its name."""
    world = World()
    values: list[object] = []

    async def sleeper(task: Task) -> None:
        world.call_after(5, world.wake, task, 7)
        values.append(await world.sleep_on(task, NEWS, timeout_ns=6))
        values.append(await world.sleep_on(task, NEWS, timeout_ns=6))

    run(world, sleeper)
    assert values == [7, TIMED_OUT]
    assert repr(values[1]) == "TIMED_OUT"
    assert world.now_ns == 11


@pytest.mark.parametrize("kind", list(TimerKind))
def test_a_timeout_counts_as_its_kind(run: Run, kind: TimerKind) -> None:
    """A sleep with a timeout is a retry unless it says otherwise, and its site names task and resource."""
    world = World()
    seen = []

    def look() -> None:
        seen.append((world.nr_pending_progress, world.nr_pending_retry, world.pending_retry_sites()))

    async def sleeper(task: Task) -> None:
        await world.sleep_on(task, NEWS, timeout_ns=10, kind=kind)

    run(world, sleeper, prepare=lambda tasks: world.call_after(5, look, kind=TimerKind.CLOCK))
    sites = {"t1-1: news that never come"} if kind is TimerKind.RETRY else set()
    assert seen == [(kind is TimerKind.PROGRESS, kind is TimerKind.RETRY, sites)]


def test_an_event_may_start_a_task() -> None:
    """A task spawned in atomic context begins at that instant, not when trio happens to look."""
    world = World()
    log: list[int] = []

    async def late(task: Task) -> None:
        log.append(world.now_ns)
        await world.sleep_ns(task, 5, PAUSE)
        log.append(world.now_ns)

    def prepare() -> None:
        world.call_after(10, lambda: world.spawn("late", late))
        world.call_after(11, lambda: log.append(11))

    run_events(world, prepare)
    assert log == [10, 11, 15]


def test_a_task_may_start_tasks(run: Run) -> None:
    """Children are numbered and run in the order they were made; the parent goes on first."""
    world = World()
    log = []

    async def child(task: Task, name: str) -> None:
        log.append((name, task.number, task.pid))
        await world.yield_cpu(task)

    async def parent(task: Task) -> None:
        for name in "ab":
            world.spawn(name, child, name, pid=1000 if name == "b" else None)
        log.append(("parent", task.number, task.pid))
        await world.sleep_ns(task, 1, PAUSE)

    run(world, parent)
    assert log == [("parent", 1, 1), ("a", 2, 2), ("b", 3, 1000)]


def test_a_task_tells_its_end(run: Run) -> None:
    """on_exit is called with the task, which is then no longer among the living."""
    world = World()
    log = []

    async def short(task: Task) -> None:
        await world.sleep_ns(task, 3, PAUSE)

    def ended(task: Task) -> None:
        log.append((task.comm, task.state, task.number in world.tasks, world.now_ns))

    run(world, short, prepare=lambda tasks: tasks[0].on_exit.insert(0, ended))
    assert log == [("t1", TaskState.DEAD, False, 3)]


def test_tasks_start_only_while_the_world_runs() -> None:
    """Before the run there is nothing they could run in."""

    async def never(task: Task) -> None:
        raise AssertionError

    with pytest.raises(AssertionError, match="while it runs"):
        World().spawn("early", never)


def test_only_the_running_task_may_sleep(run: Run) -> None:
    """To sleep on another's behalf, or in a task that the world did not pick, is a bug and says whose."""
    world = World()

    async def meddler(task: Task) -> None:
        await world.sleep_on(others[0], NEWS)

    async def honest(task: Task) -> None:
        await world.sleep_ns(task, 10, PAUSE)

    others: list[Task] = []
    with pytest.raises(AssertionError, match="<t2-2 R> waits while <t1-1"):
        run(world, meddler, honest, prepare=lambda tasks: others.append(tasks[1]))


def test_who_awaits_trio_itself_is_told_so(run: Run) -> None:
    """A detached task in trio's own wait would sleep for ever: it is refused, and the run says whose it was."""
    world = World()

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 10, PAUSE)
        await trio.lowlevel.checkpoint()

    with pytest.raises(RuntimeError, match=r"t1-1 .* awaits trio itself.*trio_deadlines=True"):
        run(world, sleeper)


# -- how a run ends -------------------------------------------------------------------------------------------------


class Fatal(BaseException):
    """What a tool may raise through everything, as test frameworks do."""


@pytest.mark.parametrize("error", [ValueError("spoilt"), Fatal("spoilt"), ExceptionGroup("two", [OSError()])])
@pytest.mark.parametrize(
    "place", ["main", "event", "event under a task", "task", "exit", "retry", "idle", "quiesced", "oracle"]
)
def test_an_exception_reaches_the_caller_as_it_is(place: str, error: BaseException) -> None:
    """Wherever it is raised: nothing wraps it, nothing is swallowed, and nobody is left running."""

    def spoil(*_: object) -> Any:
        raise error

    class SpoiltOracle(FifoOracle):
        def choose(self, kind: str, nr_options: int) -> int:
            raise error

    world = World(oracle=SpoiltOracle() if place == "oracle" else FifoOracle())

    async def body(task: Task) -> None:
        if place == "task":
            spoil()
        await world.sleep_ns(task, 5, PAUSE)

    def prepare() -> None:
        if place == "main":
            spoil()
        if place == "event":
            world.call_after(3, spoil)
            return
        task = world.spawn("t1", body)
        world.spawn("t2", body)
        if place == "event under a task":
            world.call_after(3, spoil)
        if place == "exit":
            task.on_exit.append(spoil)
        if place == "retry":
            world.retry_fired = spoil
        if place == "idle":
            world.went_idle = spoil
        if place == "quiesced":
            world.quiesced = spoil

    with pytest.raises(type(error)) as caught:
        run_virtual(lambda: world.run(prepare))
    assert caught.value is error
    assert not world.tasks


def test_the_first_exception_is_the_runs(run: Run) -> None:
    """What goes wrong while the others clean up does not hide why they had to."""
    world = World()

    async def careless(task: Task) -> None:
        try:
            await world.sleep_on(task, NEWS)
        finally:
            raise ValueError("while cleaning up")

    async def guilty(task: Task) -> None:
        await world.sleep_ns(task, 1, PAUSE)
        raise OSError("the reason")

    with pytest.raises(OSError, match="the reason"):
        run(world, careless, guilty)


def test_what_goes_wrong_in_cleaning_up_is_told(run: Run) -> None:
    """If nothing went wrong before, that is the run's exception."""
    world = World()

    async def careless(task: Task) -> None:
        try:
            await world.sleep_on(task, NEWS)
        finally:
            raise ValueError("while cleaning up")

    with pytest.raises(ValueError, match="while cleaning up"):
        run(world, careless, prepare=lambda tasks: world.call_after(5, world.stop))


def test_stop_ends_everybody_whatever_they_wait_for(run: Run) -> None:
    """Killable or not, killed before or not, ready or asleep, begun or not: none is left, and none goes on."""
    world = World()
    ended = []

    async def sleeper(task: Task) -> None:
        try:
            await world.sleep_on(task, NEWS, killable=task.number % 2 == 0)
            ended.append(-task.number)
        finally:
            ended.append(task.number)

    async def unborn(task: Task) -> None:
        raise AssertionError

    def end(tasks: list[Task]) -> None:
        for task in tasks[2:]:
            task.kill()
        world.wake(tasks[1])
        world.spawn("unborn", unborn)
        world.stop()
        world.stop()

    def prepare(tasks: list[Task]) -> None:
        world.call_after(5, tasks[0].kill)
        world.call_after(10, end, tasks)
        world.call_after(20, ended.append, 0)

    run(world, *[sleeper] * 6, prepare=prepare)
    assert sorted(ended) == [1, 2, 3, 4, 5, 6]
    assert world.now_ns == 10
    assert not world.tasks


def test_who_cleans_up_after_the_end_does_not_wait(run: Run) -> None:
    """A wait in a ``finally`` ends at once when the world is over; no time passes and nothing else happens."""
    world = World()
    cpus = Cpus(world, 1)
    log = []

    async def tidy(task: Task) -> None:
        try:
            await world.sleep_on(task, NEWS)
        finally:
            try:
                await world.sleep_ns(task, 5, PAUSE)
            finally:
                try:
                    await world.yield_cpu(task)
                finally:
                    cpus.charge(task, 50_000)
                    try:
                        await cpus.cond_resched(task)
                    finally:
                        log.append(world.now_ns)

    run(world, *[tidy] * 3, cpus=cpus, prepare=lambda tasks: world.call_after(10, world.stop))
    assert log == [10, 10, 10]


def test_a_run_may_end_before_it_begins() -> None:
    """Who stops the world in its first call has a run of no time at all."""
    world = World()

    async def never(task: Task) -> None:
        raise AssertionError

    def prepare() -> None:
        world.spawn("never", never)
        world.call_at(0, lambda: pytest.fail("after the end"))
        world.stop()

    run_virtual(lambda: world.run(prepare))
    assert world.now_ns == 0


def test_nothing_happens_after_the_end(run: Run) -> None:
    """A task that stops the world runs on to its next wait and no further; events that were due stay undone."""
    world = World()
    log: list[str] = []

    async def stopper(task: Task) -> None:
        world.call_after(0, log.append, "event")
        world.stop()
        log.append("before the wait")
        await world.sleep_ns(task, 0, PAUSE)
        log.append("after it")

    run(world, stopper)
    assert log == ["before the wait"]


# -- quiet worlds ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("nr_tasks", [0, 1, 2])
def test_a_quiescent_world_says_so(run: Run, nr_tasks: int) -> None:
    """When nobody can run and no timer is left, the world asks what to do."""
    world = World()
    quiet_at = []

    async def stuck(task: Task) -> None:
        await world.sleep_ns(task, 7, PAUSE)
        await world.sleep_on(task, NEWS)

    def quiesced() -> None:
        quiet_at.append(world.now_ns)
        world.stop()

    world.quiesced = quiesced
    run_virtual(lambda: world.run(lambda: [world.spawn("stuck", stuck) for _ in range(nr_tasks)]))
    assert quiet_at == [7 if nr_tasks else 0]


def test_who_is_asked_may_make_things_happen_again(run: Run) -> None:
    """A wake, an event or a new task in answer to quiescence, and the world goes on."""
    world = World()
    log: list[object] = []

    async def stuck(task: Task) -> None:
        log.append(await world.sleep_on(task, NEWS))

    async def child(task: Task) -> None:
        log.append("child")

    def quiesced() -> None:
        answers.pop(0)()

    answers: list[Callable[[], object]] = [
        lambda: world.call_after(5, log.append, "event"),
        lambda: world.spawn("child", child),
        lambda: world.wake(world.tasks[1], "woken"),
    ]
    world.quiesced = quiesced
    run(world, stuck)
    assert log == ["event", "child", "woken"]
    assert world.now_ns == 5


def test_a_world_with_only_retries_goes_idle(run: Run) -> None:
    """went_idle is asked before each step in which nobody can run and no progress is pending, and only then."""
    world = World()
    idle_at = []

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 10, PAUSE, kind=TimerKind.PROGRESS)
        await world.sleep_ns(task, 10, PAUSE, kind=TimerKind.RETRY)
        await world.sleep_ns(task, 10, PAUSE, kind=TimerKind.PROGRESS)

    world.went_idle = lambda: idle_at.append(world.now_ns)
    run(world, sleeper)
    assert idle_at == [10]


def test_a_quiet_world_waits_for_what_trio_brings() -> None:
    """Without anybody to ask, it lets trio wait; a wake from another trio task moves it on."""
    world = World()
    log: list[object] = []

    async def stuck(task: Task) -> None:
        log.append(await world.sleep_on(task, NEWS))
        world.stop()

    async def outside() -> None:
        await trio.testing.wait_all_tasks_blocked()
        world.wake(world.tasks[1], "a real packet")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(outside)
            await world.run(lambda: world.spawn("stuck", stuck))

    run_virtual(main)
    assert log == ["a real packet"]


def test_long_stretches_without_trio(run: Run) -> None:
    """More events and steps than one turn of trio's loop holds change nothing about their order or their times."""
    world = World()
    nr_steps = 3000
    seen = []

    async def sleeper(task: Task) -> None:
        for _ in range(nr_steps):
            world.call_after(1, lambda: seen.append(world.now_ns))
            await world.sleep_ns(task, 2, PAUSE)

    run(world, sleeper)
    assert seen == list(range(1, 2 * nr_steps, 2))
    assert world.nr_events == 2 * nr_steps


@pytest.mark.parametrize("seed", [None, 1])
def test_the_model_does_not_notice_trios_turns(play: Play, monkeypatch: pytest.MonkeyPatch, seed: int | None) -> None:
    """However often trio gets a turn for Ctrl-C and real sockets, the run is the same."""

    def oracle() -> Oracle:
        return FifoOracle() if seed is None else RandomOracle(Seeds(seed))

    expected = play(oracle())
    for turn in (1, 2, 3, 10):
        monkeypatch.setattr("netvm.runtime.world.TURN", turn)
        assert play(oracle()) == expected


def test_a_task_given_to_trio_keeps_its_cpu(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a charge trio may look after its own; the other task does not slip in, a kill stays pending."""
    monkeypatch.setattr("netvm.runtime.world.TURN", 2)
    world = World()
    cpus = Cpus(world, 1)
    log: list[object] = []

    async def busy(task: Task) -> None:
        cpus.charge(task, 1000)
        await cpus.pay(task)
        log.append((task.number, world.now_ns, world.nr_steps))

    def prepare(tasks: list[Task]) -> None:
        for time_ns in range(100, 1000, 100):
            world.call_at(time_ns, tasks[0].kill)

    run(world, busy, busy, cpus=cpus, prepare=prepare)
    assert log == [(1, 1000, 1), (2, 2000, 2)]


def test_the_world_may_stop_while_trio_has_its_turn(
    run: Run, control_c: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had parked for that is ended like everybody."""
    monkeypatch.setattr("netvm.runtime.world.TURN", 1)
    world = World()
    cpus = Cpus(world, 1)

    async def busy(task: Task) -> None:
        while True:
            cpus.charge(task, 100_000)
            await cpus.pay(task)

    def prepare(tasks: list[Task]) -> None:
        for time_ns in range(1, 100):
            world.call_at(time_ns, lambda: None)
        world.call_at(50, control_c)

    with pytest.raises(KeyboardInterrupt):
        run(world, busy, busy, cpus=cpus, prepare=prepare)
    assert world.now_ns < 100
    assert not world.tasks


def test_time_that_passes_under_a_task(run: Run) -> None:
    """advance_inline runs what falls due and stops where another task may run."""
    world = World()
    log: list[object] = []

    async def runner(task: Task) -> None:
        log.append(world.advance_inline(10))
        log.append(world.now_ns)
        log.append(world.advance_inline(20))
        log.append(world.now_ns)
        await world.yield_cpu(task)

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 15, PAUSE)
        log.append("sleeper")

    def prepare(tasks: list[Task]) -> None:
        world.call_at(10, log.append, "event at 10")
        world.call_at(12, log.append, "event at 12")

    run(world, sleeper, runner, prepare=prepare)
    assert log == ["event at 10", True, 10, "event at 12", False, 15, "sleeper"]
