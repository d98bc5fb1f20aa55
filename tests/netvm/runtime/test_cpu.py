"""CPU time: charges are paid, shared fairly, and stolen by softirqs."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.runtime.cpu import PAY_QUANTUM_NS, SCHED_LATENCY_NS, Cpus
from netvm.runtime.oracle import RandomOracle
from netvm.runtime.seeds import Seeds
from netvm.runtime.task import Resource, Task
from netvm.runtime.world import World
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_US

Run: TypeAlias = Callable[..., list[Task]]
MS, US = NS_PER_MS, NS_PER_US
PAUSE = Resource("timer", "a pause", external=True)
NEWS = Resource("reply", "news")
HOW = st.sampled_from(["pay", "cond_resched", "sleep", "yield"])
PLANS = st.lists(st.lists(st.tuples(st.integers(0, 3 * MS), HOW), max_size=6), min_size=1, max_size=5)


async def act(cpus: Cpus, task: Task, how: str) -> None:
    """Come to a point where the kernel would look at the time used."""
    if how == "pay":
        await cpus.pay(task)
    elif how == "cond_resched":
        await cpus.cond_resched(task)
    elif how == "sleep":
        await cpus.world.sleep_ns(task, 100 * US, PAUSE)
    else:
        await cpus.world.yield_cpu(task)


def test_a_charge_is_paid_in_time(run: Run) -> None:
    """Alone on a CPU, a task is as much later as it was charged."""
    world = World()
    cpus = Cpus(world, 1)
    seen = []

    async def busy(task: Task) -> None:
        cpus.charge(task, 300 * US)
        cpus.charge(task, 200 * US)
        seen.append(world.now_ns)
        await cpus.pay(task)
        seen.append(world.now_ns)

    run(world, busy, cpus=cpus)
    assert seen == [0, 500 * US]
    assert cpus.busy_ns == 500 * US


def test_small_charges_are_carried_on(run: Run) -> None:
    """cond_resched costs nothing until there is something worth paying; nothing of it is lost."""
    world = World()
    cpus = Cpus(world, 1)
    seen = []

    async def busy(task: Task) -> None:
        for _ in range(3):
            cpus.charge(task, PAY_QUANTUM_NS - 1)
            await cpus.cond_resched(task)
            seen.append(world.now_ns)

    run(world, busy, cpus=cpus)
    assert seen == [0, 2 * (PAY_QUANTUM_NS - 1), 2 * (PAY_QUANTUM_NS - 1)]
    assert cpus.busy_ns == 3 * (PAY_QUANTUM_NS - 1)


def test_a_blocked_tasks_charge_keeps_the_cpu_busy(run: Run) -> None:
    """What a task used before it sleeps is paid by its CPU: the next task runs when that time is over."""
    world = World()
    cpus = Cpus(world, 1)
    log = []

    async def first(task: Task) -> None:
        cpus.charge(task, 5 * MS)
        await world.sleep_ns(task, 1 * MS, PAUSE)
        log.append(("first", world.now_ns))

    async def second(task: Task) -> None:
        log.append(("second", world.now_ns))

    run(world, first, second, cpus=cpus)
    assert sorted(log) == [("first", 5 * MS), ("second", 5 * MS)]


@settings(max_examples=40, deadline=None)
@given(PLANS, st.integers(1, 3), st.integers(0, 1 << 32))
def test_all_time_charged_is_spent(run: Run, plans: list[list[tuple[int, str]]], nr_cpus: int, seed: int) -> None:
    """Any tasks on any CPUs in any order: busy time is the sum of charges, and no CPU does two things at once."""
    world = World(oracle=RandomOracle(Seeds(seed)))
    cpus = Cpus(world, nr_cpus)

    async def busy(task: Task) -> None:
        paid_ns = 0
        for cost_ns, how in plans[task.number - 1]:
            cpus.charge(task, cost_ns)
            await act(cpus, task, how)
            if how == "pay":
                paid_ns += cost_ns
                assert world.now_ns >= paid_ns

    run(world, *[busy] * len(plans), cpus=cpus)
    total_ns = sum(cost_ns for plan in plans for cost_ns, _ in plan)
    assert cpus.busy_ns == total_ns
    assert max(cpu.free_at_ns for cpu in cpus.cpus) * nr_cpus >= total_ns
    assert cpus.runnable == []


@pytest.mark.parametrize("nr_cpus", [1, 2, 3, 4, 8])
def test_n_cpus_run_n_tasks_side_by_side(run: Run, nr_cpus: int) -> None:
    """Eight tasks of ten milliseconds each are done after eighty, or as many times sooner as there are CPUs."""
    world = World()
    cpus = Cpus(world, nr_cpus)
    ended_ns = []

    async def busy(task: Task) -> None:
        for _ in range(100):
            cpus.charge(task, 100 * US)
            await cpus.cond_resched(task)
        ended_ns.append(world.now_ns)

    run(world, *[busy] * 8, cpus=cpus)
    assert cpus.busy_ns == 80 * MS
    best_ns = -(-80 * MS // nr_cpus)
    assert best_ns <= max(ended_ns) <= best_ns + SCHED_LATENCY_NS


def test_a_task_does_not_escape_its_charge_to_another_cpu(run: Run) -> None:
    """While its own CPU still spends what it has used, it does not go on on one that became free."""
    world = World()
    cpus = Cpus(world, 2)
    ended_ns = []

    async def busy(task: Task) -> None:
        cpus.charge(task, 10 * MS)
        await cpus.pay(task)
        ended_ns.append(world.now_ns)

    async def guest(task: Task) -> None:
        await world.sleep_ns(task, 5 * MS, PAUSE)
        cpus.charge(task, 100 * US)

    run(world, busy, guest, cpus=cpus)
    assert ended_ns == [10 * MS]


@pytest.mark.parametrize("how", ["pay", "cond_resched"])
def test_equal_tasks_share_a_cpu(run: Run, how: str) -> None:
    """At any time two equal tasks have had the same of it, within a tick: the first one after their slice of 3 ms."""
    world = World()
    cpus = Cpus(world, 1)
    had_ns = [0, 0]
    apart_ns = []

    async def busy(task: Task) -> None:
        for _ in range(400):
            cpus.charge(task, 50 * US)
            await act(cpus, task, how)
            had_ns[task.number - 1] += 50 * US
            apart_ns.append(abs(had_ns[0] - had_ns[1]))

    run(world, busy, busy, cpus=cpus)
    assert SCHED_LATENCY_NS // 2 < max(apart_ns) <= JIFFY_NS + 100 * US


@pytest.mark.parametrize(("nice", "times"), [(-20, 86.7), (-5, 3.05), (0, 1.0), (5, 0.328), (19, 0.0146)])
def test_a_nice_level_has_its_weight(run: Run, nice: int, times: float) -> None:
    """Beside a task of nice 0 on one CPU, each gets time by its weight."""
    world = World()
    cpus = Cpus(world, 1)
    had_ns = {"nice": 0, "plain": 0}

    async def busy(task: Task) -> None:
        while world.now_ns < 10_000 * MS:
            cpus.charge(task, 500 * US)
            await cpus.cond_resched(task)
            had_ns[task.comm] += 500 * US

    async def starter(task: Task) -> None:
        for name, level in (("nice", nice), ("plain", 0)):
            child = world.spawn(name, busy, cpus=cpus, nice=level)
            child.on_exit.append(lambda _: world.stop())
        await world.sleep_on(task, NEWS)

    run(world, starter)
    assert had_ns["nice"] / had_ns["plain"] == pytest.approx(times, rel=0.1)


def test_a_softirq_delays_the_running_task(run: Run) -> None:
    """An interrupt that falls into a charge is served first: the task pays later by what it took."""
    world = World()
    cpus = Cpus(world, 1)
    seen = []

    async def busy(task: Task) -> None:
        cpus.charge(task, 1 * MS)
        await cpus.pay(task)
        seen.append(world.now_ns)

    def prepare(tasks: list[Task]) -> None:
        world.call_at(300 * US, cpus.steal, 50 * US)
        world.call_at(900 * US, cpus.steal, 70 * US)

    run(world, busy, cpus=cpus, prepare=prepare)
    assert seen == [1120 * US]
    assert (cpus.busy_ns, cpus.softirq_ns) == (1 * MS, 120 * US)


def test_a_softirq_delays_who_is_woken_by_it(run: Run) -> None:
    """A sleeper on an idle machine runs when the interrupt that woke it is over, also when more come meanwhile."""
    world = World()
    cpus = Cpus(world, 1)
    seen = []

    async def sleeper(task: Task) -> None:
        await world.sleep_on(task, NEWS)
        seen.append(world.now_ns)

    def interrupt(task: Task) -> None:
        cpus.steal(30 * US)
        world.wake(task)

    def prepare(tasks: list[Task]) -> None:
        world.call_at(100 * US, interrupt, tasks[0])
        world.call_at(120 * US, cpus.steal, 5 * US)

    run(world, sleeper, cpus=cpus, prepare=prepare)
    assert seen == [135 * US]


def test_softirqs_take_the_first_cpu(run: Run) -> None:
    """The others go on undisturbed."""
    world = World()
    cpus = Cpus(world, 2)
    ended_ns = []

    async def busy(task: Task) -> None:
        cpus.charge(task, 1 * MS)
        await cpus.pay(task)
        ended_ns.append(world.now_ns)

    run(world, busy, busy, cpus=cpus, prepare=lambda tasks: world.call_at(500 * US, cpus.steal, 200 * US))
    assert sorted(ended_ns) == [1000 * US, 1200 * US]


def test_a_woken_sleeper_preempts_at_the_next_look(run: Run) -> None:
    """A task that slept runs as soon as the one that has been running looks at need_resched; not before."""
    world = World()
    cpus = Cpus(world, 1)
    log = []

    async def busy(task: Task) -> None:
        for _ in range(20):
            cpus.charge(task, 1 * MS)
            await cpus.cond_resched(task)
        log.append(("busy", world.now_ns))

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 9 * MS + 500 * US, PAUSE)
        log.append(("sleeper", world.now_ns))

    run(world, sleeper, busy, cpus=cpus)
    assert log == [("sleeper", 10 * MS), ("busy", 20 * MS)]


@pytest.mark.parametrize(("stolen_ns", "sleeper_ns", "busy_ns"), [(0, 4 * MS, 6 * MS), (1 * MS, 1300 * US, 7 * MS)])
def test_a_short_run_is_not_preempted(run: Run, stolen_ns: int, sleeper_ns: int, busy_ns: int) -> None:
    """Who is behind by less than the wake-up granularity waits for the tick that finds the slice used up.

    What interrupts take from the one that runs counts as its own runtime.
    """
    world = World()
    cpus = Cpus(world, 1)
    log = []

    async def busy(task: Task) -> None:
        for _ in range(60):
            cpus.charge(task, 100 * US)
            await cpus.cond_resched(task)
        log.append(("busy", world.now_ns))

    async def sleeper(task: Task) -> None:
        await world.sleep_ns(task, 500 * US, PAUSE)
        log.append(("sleeper", world.now_ns))

    run(world, sleeper, busy, cpus=cpus, prepare=lambda tasks: world.call_at(250 * US, cpus.steal, stolen_ns))
    assert log == [("sleeper", sleeper_ns), ("busy", busy_ns)]


def test_a_slow_machine_pays_more(run: Run) -> None:
    """The scale multiplies every charge and every softirq."""
    world = World()
    cpus = Cpus(world, 1, scale=2.5)

    async def busy(task: Task) -> None:
        cpus.charge(task, 1 * MS)
        cpus.steal(1 * MS)
        await cpus.pay(task)

    run(world, busy, cpus=cpus)
    assert world.now_ns == 5 * MS
    assert (cpus.busy_ns, cpus.softirq_ns) == (2_500 * US, 2_500 * US)


def test_noise_is_bounded_and_from_the_seed(run: Run) -> None:
    """Each payment varies by at most the fraction named; the same seed pays the same, another does not."""

    def payments(seed: int) -> list[int]:
        world = World(seeds=Seeds(seed))
        cpus = Cpus(world, 1, noise=0.1)
        paid_ns = []

        async def busy(task: Task) -> None:
            for _ in range(100):
                before_ns = world.now_ns
                cpus.charge(task, 1 * MS)
                await cpus.pay(task)
                paid_ns.append(world.now_ns - before_ns)

        run(world, busy, cpus=cpus)
        return paid_ns

    paid_ns = payments(1)
    assert all(900 * US <= ns <= 1100 * US for ns in paid_ns)
    assert max(paid_ns) - min(paid_ns) > 150 * US
    assert payments(1) == paid_ns
    assert payments(2) != paid_ns


def test_hosts_do_not_share_cpus(run: Run) -> None:
    """Two machines in one world work at the same time; tasks without a CPU model cost nothing."""
    world = World()
    mine, other = Cpus(world, 1, name="mine"), Cpus(world, 1, name="other")
    ended = {}

    async def busy(task: Task, cpus: Cpus) -> None:
        for _ in range(10):
            cpus.charge(task, 1 * MS)
            await cpus.cond_resched(task)
        ended[task.comm] = world.now_ns

    async def starter(task: Task) -> None:
        world.spawn("mine", busy, mine, cpus=mine)
        world.spawn("other", busy, other, cpus=other)
        for _ in range(5):
            await world.sleep_ns(task, 1 * MS, PAUSE)
            ended[task.comm] = world.now_ns
        await world.sleep_ns(task, 10 * MS, PAUSE)

    run(world, starter)
    assert ended == {"mine": 10 * MS, "other": 10 * MS, "t1": 5 * MS}


def test_who_waits_for_a_cpu_is_shown(run: Run) -> None:
    """Those who could run and have no CPU are listed."""
    world = World()
    cpus = Cpus(world, 1)
    seen = []

    async def busy(task: Task) -> None:
        seen.append([task.comm for task in cpus.runnable])
        cpus.charge(task, 1 * MS)
        await cpus.pay(task)

    run(world, busy, busy, busy, cpus=cpus)
    assert seen == [["t2", "t3"], ["t3"], []]


def test_a_task_that_computes_ends_with_the_world(run: Run) -> None:
    """It comes no further than the payment in which the world was stopped, also when it stopped it itself."""
    world = World()
    cpus = Cpus(world, 1)
    seen = []

    async def busy(task: Task) -> None:
        while world.now_ns < 100 * MS:
            cpus.charge(task, 1 * MS)
            await cpus.cond_resched(task)
            seen.append(world.now_ns)
            if world.now_ns == 3 * MS:
                world.stop()

    run(world, busy, cpus=cpus)
    assert seen == [1 * MS, 2 * MS, 3 * MS]


def test_a_machine_has_a_cpu() -> None:
    """None is too few."""
    with pytest.raises(AssertionError):
        Cpus(World(), 0)


def test_only_who_has_a_cpu_pays(run: Run) -> None:
    """To pay for a task that does not run is a bug."""
    world = World()
    cpus = Cpus(world, 1)
    others: list[Task] = []

    async def meddler(task: Task) -> None:
        await cpus.pay(others[0])

    async def honest(task: Task) -> None:
        await world.sleep_ns(task, 1, PAUSE)

    with pytest.raises(AssertionError, match="pays without a CPU"):
        run(world, meddler, honest, cpus=cpus, prepare=lambda tasks: others.append(tasks[1]))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 7.5])
@pytest.mark.parametrize("until_ns", [1, 999, 1000, 40_000])
def test_a_task_is_undisturbed_up_to_the_step_in_which_the_next_event_falls(
    run: Run, scale: float, until_ns: int
) -> None:
    """As many steps as one by one find that the clock has not come to the event; one if it should give way already."""
    world = World()
    cpus = Cpus(world, 1, scale=scale)

    async def worker(task: Task) -> None:
        cost_ns = 700
        task.charge_ns = 1_300
        world.call_after(until_ns, lambda: None)
        found = cpus.nr_undisturbed(task, cost_ns)
        begun_ns = world.now_ns + int(task.charge_ns * scale)
        nr = 0
        while scale and begun_ns + nr * int(cost_ns * scale) < world.now_ns + until_ns:
            nr += 1
        assert found == max(nr, 1) if scale else found >= 32
        cpus.need_resched = True
        assert cpus.nr_undisturbed(task, cost_ns) == 1

    run(world, worker, cpus=cpus)


@given(charge_ns=st.integers(0, 50_000), cost_ns=st.integers(1, 30_000), gives_way=st.booleans())
def test_the_first_payment_is_where_one_by_one_would_pay(*, charge_ns: int, cost_ns: int, gives_way: bool) -> None:
    """As many steps as it takes until a look at the charge would pay."""
    cpus = Cpus(World(), 1)
    cpus.need_resched = gives_way
    task = Task(world=cpus.world, number=1, comm="hog", pid=None, cpus=cpus, flags=0, nice=0)
    task.charge_ns = charge_ns
    found = cpus.nr_until_paid(task, cost_ns)
    nr = 0
    while not nr or not cpus.should_pay(task):
        nr += 1
        task.charge_ns += cost_ns
    assert found == nr


def test_what_is_due_is_looked_at_when_the_task_pays(run: Run) -> None:
    """An interrupt behind the task's own clock does not come between its steps; one that is not due yet does."""
    world = World()
    cpus = Cpus(world, 1)
    seen: list[tuple[int, int]] = []

    async def worker(task: Task) -> None:
        world.call_after(5 * US, lambda: None)
        task.charge_ns = 4 * US
        seen.append((cpus.nr_undisturbed(task, 2 * US), cpus.nr_unlooked(task, 2 * US)))
        task.charge_ns = 6 * US
        seen.append((cpus.nr_undisturbed(task, 2 * US), cpus.nr_unlooked(task, 2 * US)))
        cpus.need_resched = True
        assert cpus.nr_unlooked(task, 2 * US) == 1

    run(world, worker, cpus=cpus)
    assert seen == [(1, 1), (1, (PAY_QUANTUM_NS - 6 * US) // (2 * US))]


def test_a_task_is_undisturbed_up_to_the_next_tick_while_another_waits(run: Run) -> None:
    """The tick looks at slices; with nobody to give way to it does not matter."""
    world = World()
    cpus = Cpus(world, 1)
    found: list[int] = []

    async def worker(task: Task) -> None:
        cpus.charge(task, JIFFY_NS - 10 * US)
        await cpus.pay(task)
        found.append(cpus.nr_undisturbed(task, 4 * US))
        await world.sleep_on(task, NEWS)

    async def waiting(task: Task) -> None:
        await cpus.pay(task)
        world.stop()

    run(world, worker, waiting, cpus=cpus)
    assert found == [3]


@pytest.mark.parametrize("scale", [0.3, 1.0, 7.5])
def test_a_task_is_undisturbed_for_no_longer_than_a_tick(run: Run, scale: float) -> None:
    """With nothing to come it makes as many steps as fit into one, and one that is longer."""
    world = World()
    cpus = Cpus(world, 1, scale=scale)
    found: list[tuple[int, int]] = []

    async def worker(task: Task) -> None:
        found.append((cpus.nr_undisturbed(task, 700), cpus.nr_undisturbed(task, 40 * JIFFY_NS)))

    run(world, worker, cpus=cpus)
    assert found == [(JIFFY_NS // int(700 * scale), 1)]


def test_slices_are_looked_at_by_the_tick(run: Run) -> None:
    """One that is used up between two ticks lasts to the second, though the other task is behind by more."""
    world = World()
    cpus = Cpus(world, 1)
    had_ns: list[tuple[str, int]] = []

    def busy(name: str) -> Callable[[Task], Awaitable[None]]:
        async def body(task: Task) -> None:
            for _ in range(8 * MS // (20 * US)):
                cpus.charge(task, 20 * US)
                await cpus.cond_resched(task)
                had_ns.append((name, world.now_ns))
            world.stop()

        return body

    async def late(task: Task) -> None:
        await world.sleep_ns(task, 3 * MS, PAUSE)
        for name in "ab":
            world.spawn(name, busy(name), cpus=cpus)
        await world.sleep_on(task, NEWS)

    run(world, late)
    first = had_ns[0][0]
    changed_ns = next(at_ns for name, at_ns in had_ns if name != first)
    assert changed_ns == pytest.approx(8 * MS, abs=100 * US)


@given(
    charge_ns=st.integers(0, 50_000),
    cost_ns=st.integers(1, 30_000),
    nr_steps=st.integers(1, 64),
    gives_way=st.booleans(),
)
def test_steps_paid_together_are_those_paid_one_by_one(
    *, charge_ns: int, cost_ns: int, nr_steps: int, gives_way: bool
) -> None:
    """What is paid for at once ends where the last of as many looks at the charge would have paid."""
    cpus = Cpus(World(), 1)
    cpus.need_resched = gives_way
    task = Task(world=cpus.world, number=1, comm="hog", pid=None, cpus=cpus, flags=0, nice=0)
    task.charge_ns = charge_ns
    found = cpus.nr_paid(task, cost_ns, nr_steps)
    last = 0
    for nr in range(1, nr_steps + 1):
        task.charge_ns += cost_ns
        if cpus.should_pay(task):
            last, task.charge_ns = nr, 0
    assert found == last
