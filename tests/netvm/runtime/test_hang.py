"""Hangs: proved, reported, explained, and nothing called one that is not."""

from collections.abc import Callable, Hashable
from itertools import chain, combinations, pairwise
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from netvm.runtime import hang
from netvm.runtime.clock import run_virtual
from netvm.runtime.cpu import Cpus
from netvm.runtime.hang import HangDetector, HungTasks, Knot, Node, find_knot, shortest_chain
from netvm.runtime.task import Provider, Resource, Task, TaskState
from netvm.runtime.timer import TimerKind
from netvm.runtime.timer_wheel import bucket_ns
from netvm.runtime.wait import Semaphore
from netvm.runtime.world import World
from netvm.units import NS_PER_MS, NS_PER_S

Body: TypeAlias = Callable[[Task], Any]
S, MS = NS_PER_S, NS_PER_MS
TIMEOUT_NS = 100 * S
MEMORY = Resource("memory", "a free page")
PAUSE = Resource("timer", "a pause", external=True)


class Watched:
    """A world with a detector that notes its verdicts and stops the world."""

    def __init__(self, *, stops: bool = True) -> None:
        self.world = World()
        self.verdicts: list[tuple[int, bool]] = []
        self.state: Hashable = "the same as ever"
        self.progress = 0
        self._stops = stops
        self.detector: HangDetector

    def run(self, *bodies: Body, until_ns: int = 10 * TIMEOUT_NS, **how: Any) -> list[tuple[int, bool]]:
        """Run these tasks until a hang is told or time is up; return when each was told and whether it was proved."""

        def main() -> None:
            self.detector = HangDetector(
                self.world,
                digest=lambda: self.state,
                progress=lambda: self.progress,
                timeout_ns=TIMEOUT_NS,
                hung=self._hung,
            )
            self.world.call_at(until_ns, self.world.stop, kind=TimerKind.CLOCK)
            for number, body in enumerate(bodies, start=1):
                self.world.spawn(f"t{number}", body, **how)

        run_virtual(lambda: self.world.run(main))
        return self.verdicts

    def _hung(self, proved: bool) -> None:
        self.verdicts.append((self.world.now_ns, proved))
        if self._stops:
            self.world.stop()

    def retry(self, every_ns: int) -> Body:
        """Return a task that looks for memory again and again."""

        async def alloc_pages(task: Task) -> None:
            while True:
                await self.world.sleep_on(task, MEMORY, timeout_ns=every_ns)

        return alloc_pages

    def pace(self, every_ns: int, act: Callable[[], None] = lambda: None) -> Body:
        """Return a task to which something comes from outside now and then."""

        async def receive(task: Task) -> None:
            while True:
                await self.world.sleep_ns(task, every_ns, PAUSE, kind=TimerKind.PROGRESS)
                act()

        return receive


# -- proved ---------------------------------------------------------------------------------------------------------


def test_a_lock_cycle_is_proved() -> None:
    """Two tasks that hold what the other waits for: no timer is left, so it is proved long before the time-out."""
    watched = Watched()
    world = watched.world
    locks = [Semaphore(world, name) for name in "ab"]

    async def grab(task: Task) -> None:
        mine, other = locks if task.number == 1 else locks[::-1]
        await mine.down(task)
        await world.sleep_ns(task, 1 * MS, PAUSE, kind=TimerKind.PROGRESS)
        await other.down(task)

    ((told_ns, proved),) = watched.run(grab, grab)
    assert proved
    assert told_ns < TIMEOUT_NS // 10


def test_a_world_in_which_nothing_is_left_is_proved_hung() -> None:
    """Without even the detector's own timer: quiescence is the end of all hope."""
    watched = Watched()

    def main() -> None:
        detector = HangDetector(watched.world, digest=int, progress=int, timeout_ns=TIMEOUT_NS, hung=watched._hung)
        detector.quiesced()

    run_virtual(lambda: watched.world.run(main))
    assert watched.verdicts == [(0, True)]


@pytest.mark.parametrize("periods_ms", [[100], [100, 350], [350, 100, 40]])
def test_retries_that_change_nothing_are_proved(periods_ms: list[int]) -> None:
    """After every site has fired twice on the same state; the slowest decides."""
    watched = Watched()
    ((told_ns, proved),) = watched.run(*[watched.retry(ms * MS) for ms in periods_ms])
    slowest_ns = max(periods_ms) * MS
    assert proved
    assert 2 * slowest_ns <= told_ns <= 4 * slowest_ns


@pytest.mark.parametrize("with_cpus", [False, True])
def test_a_loop_that_never_sleeps_is_proved(with_cpus: bool) -> None:
    """A task that looks again and again at something that does not change is no better than one with a timer."""
    watched = Watched()
    world = watched.world
    cpus = Cpus(world, 1) if with_cpus else None
    nr_looks = 0

    async def should_reclaim_retry(task: Task) -> None:
        nonlocal nr_looks
        task.spins_at = "should_reclaim_retry"
        task.spins_on = MEMORY
        while True:
            nr_looks += 1
            world.retry_point(task.spins_at)
            if cpus is not None:
                cpus.charge(task, 1 * MS)
                await cpus.cond_resched(task)
            else:
                await world.yield_cpu(task)

    ((told_ns, proved),) = watched.run(should_reclaim_retry, cpus=cpus)
    assert proved
    assert told_ns < 1 * S
    assert 2 <= nr_looks <= 5


def test_a_spinner_beside_a_sleeper_is_proved() -> None:
    """Both kinds of retry count: the loop without a timer waits for the other's timer to fire too."""
    watched = Watched()
    world = watched.world

    async def spin(task: Task) -> None:
        task.spins_at = "a loop"
        while True:
            world.retry_point("a loop")
            await world.sleep_ns(task, 1 * MS, MEMORY)

    ((told_ns, proved),) = watched.run(spin, watched.retry(500 * MS))
    assert proved
    assert told_ns >= 1000 * MS


def test_a_loop_that_counts_is_proved_only_after_its_end() -> None:
    """Rounds that count up to something else are no standstill: the loop itself says when all was tried."""
    watched = Watched()
    world = watched.world
    nr_ends = 0

    async def alloc_pages_slowpath(task: Task) -> None:
        nonlocal nr_ends
        task.spins_at, task.spins_on = "should_reclaim_retry", MEMORY
        while True:
            for _ in range(17):
                await world.sleep_on(task, MEMORY, timeout_ns=10 * MS)
            nr_ends += 1
            world.retry_point(task.spins_at)

    ((told_ns, proved),) = watched.run(alloc_pages_slowpath)
    assert proved
    assert nr_ends >= 2
    assert told_ns >= 2 * 17 * 10 * MS


# -- not proved -----------------------------------------------------------------------------------------------------


def test_nothing_is_proved_while_something_may_come() -> None:
    """A packet on its way, a disk at work: what only looks stuck is reported a timer's bucket late, not as proved."""
    watched = Watched()
    ((told_ns, proved),) = watched.run(watched.retry(100 * MS), watched.pace(3 * S))
    assert not proved
    late_ns = told_ns - TIMEOUT_NS
    assert bucket_ns(TIMEOUT_NS) <= late_ns <= bucket_ns(TIMEOUT_NS) + TIMEOUT_NS // 64


def test_nothing_is_proved_while_the_state_changes() -> None:
    """As long as a round of retries leaves something different behind, the next may find it."""
    watched = Watched()
    changes = iter(range(10**9))

    async def scan(task: Task) -> None:
        while True:
            await watched.world.sleep_on(task, MEMORY, timeout_ns=100 * MS)
            watched.state = next(changes)

    ((told_ns, proved),) = watched.run(scan)
    assert not proved
    assert TIMEOUT_NS <= told_ns <= TIMEOUT_NS + TIMEOUT_NS // 64


def test_a_change_now_and_then_begins_the_count_again() -> None:
    """Two rounds on the same state must follow each other."""
    watched = Watched()
    looks = iter(range(10**9))

    async def scan(task: Task) -> None:
        while True:
            await watched.world.sleep_on(task, MEMORY, timeout_ns=100 * MS)
            watched.state = next(looks) // 2

    assert watched.run(scan, until_ns=50 * S) == []


def test_nothing_is_told_while_there_is_progress() -> None:
    """A slow host is not a hung one."""
    watched = Watched()

    async def slow(task: Task) -> None:
        while True:
            await watched.world.sleep_on(task, MEMORY, timeout_ns=TIMEOUT_NS // 3)
            watched.progress += 1

    assert watched.run(slow, watched.retry(100 * MS)) == []
    assert TIMEOUT_NS // 4 < watched.detector.longest_standstill_ns < TIMEOUT_NS // 2


def test_a_task_that_works_is_no_hang() -> None:
    """Who waits for a CPU goes on when he gets it, whatever the retries find meanwhile."""
    watched = Watched()
    cpus = Cpus(watched.world, 1)

    async def compute(task: Task) -> None:
        for _ in range(50):
            cpus.charge(task, 100 * MS)
            await cpus.pay(task)
        watched.world.stop()

    async def starter(task: Task) -> None:
        watched.world.spawn("cc1", compute, cpus=cpus)
        await watched.retry(10 * MS)(task)

    assert watched.run(starter) == []


def test_the_longest_standstill_is_remembered() -> None:
    """When nothing got done for longest, and for how long."""
    watched = Watched()

    async def bursts(task: Task) -> None:
        for pause_ns in (5 * S, 40 * S, 10 * S):
            watched.progress += 1
            await watched.world.sleep_ns(task, pause_ns, PAUSE, kind=TimerKind.PROGRESS)
        watched.world.stop()

    assert watched.run(bursts) == []
    tick_ns = TIMEOUT_NS // 64
    assert watched.detector.longest_standstill_ns == pytest.approx(40 * S, abs=2 * tick_ns)
    assert watched.detector.longest_standstill_at_ns == pytest.approx(5 * S, abs=2 * tick_ns)


def test_a_stall_is_told_once_in_each_standstill_that_is_the_longest() -> None:
    """When it has lasted so long; a later one only if it comes to last longer."""
    watched = Watched()
    world = watched.world
    told: list[int] = []

    def main() -> None:
        detector = HangDetector(
            world,
            digest=int,
            progress=lambda: watched.progress,
            timeout_ns=TIMEOUT_NS,
            hung=watched._hung,
            stall_ns=10 * S,
            stalled=lambda: told.append(world.now_ns - detector.longest_standstill_at_ns),
        )
        world.spawn("bursts", bursts)

    async def bursts(task: Task) -> None:
        for pause_ns in (9 * S, 20 * S, 15 * S, 30 * S):
            watched.progress += 1
            await world.sleep_ns(task, pause_ns, PAUSE, kind=TimerKind.PROGRESS)
        world.stop()

    run_virtual(lambda: world.run(main))
    assert told == [pytest.approx(10 * S, abs=S), pytest.approx(20 * S, abs=S)]


@pytest.mark.parametrize("proved", [True, False])
def test_a_hang_is_told_once(proved: bool) -> None:
    """Also if the world goes on afterwards."""
    watched = Watched(stops=False)
    others = [] if proved else [watched.pace(3 * S)]
    assert [verdict for _, verdict in watched.run(watched.retry(100 * MS), *others)] == [proved]


@pytest.mark.parametrize("looks_per_timeout", [1, 7, 100_000])
def test_how_finely_it_looks_is_no_difference(monkeypatch: pytest.MonkeyPatch, looks_per_timeout: int) -> None:
    """The world runs alike, and who asks how long nothing can interfere gets the same answer."""

    def log() -> list[tuple[int, int, int]]:
        watched = Watched()
        world = watched.world
        cpus = Cpus(world, 1)
        seen: list[tuple[int, int, int]] = []

        async def work(task: Task) -> None:
            for number in range(30):
                cpus.charge(task, number * 100 * MS)
                await cpus.pay(task)
                seen.append((world.now_ns, world.horizon_ns(), world.nr_events))
                await world.sleep_on(task, MEMORY, timeout_ns=number * 10 * MS)
                watched.progress += 1

        watched.run(work, work, watched.pace(3 * S), until_ns=TIMEOUT_NS, cpus=cpus)
        return [*seen, (world.now_ns, world.nr_steps, world.nr_events)]

    expected = log()
    monkeypatch.setattr(hang, "LOOKS_PER_TIMEOUT", looks_per_timeout)
    assert log() == expected


# -- explained ------------------------------------------------------------------------------------------------------


class Graph:
    """Sleeping tasks, resources and providers, by name."""

    def __init__(self) -> None:
        self._world = World()
        self.tasks: dict[str, Task] = {}

    def task(self, name: str, resource: Resource | None = None) -> Task:
        """Make a task that waits for a resource, or one that could run."""
        task = self.tasks[name] = Task(
            world=self._world, number=len(self.tasks) + 1, comm=name, pid=None, cpus=None, flags=0, nice=0
        )
        if resource is not None:
            task.state = TaskState.SLEEPING
            task.resource = resource
        return task

    def knot(self) -> set[str]:
        """Return the names of what is left of the graph."""
        return {name_of(node) for node in find_knot(self.tasks.values()).edges}


def name_of(node: Node) -> str:
    """Return how a node is called in a test."""
    return node.comm if isinstance(node, Task) else node.name


def test_a_cycle_of_two_locks_is_a_knot() -> None:
    """Each holder waits for the other; who waits for them from outside is in it too, who does not is not."""
    graph = Graph()
    lock_a = Resource("lock", "A", lambda: [graph.tasks["one"]])
    lock_b = Resource("lock", "B", lambda: [graph.tasks["two"]])
    graph.task("one", lock_b)
    graph.task("two", lock_a)
    graph.task("waiter", lock_a)
    graph.task("runner")
    graph.task("idle", PAUSE)
    assert graph.knot() == {"one", "two", "waiter", "A", "B"}


def test_one_live_provider_is_enough() -> None:
    """Memory waits are OR-waits: a cycle proves nothing while anybody else could free a page."""
    graph = Graph()
    memory = Resource("memory", "memory", graph.tasks.values)
    graph.task("one", memory)
    graph.task("two", memory)
    assert graph.knot() == {"one", "two", "memory"}
    graph.task("runner")
    assert graph.knot() == set()


def test_a_provider_needs_everything_it_needs() -> None:
    """Alternatives are separate providers; the needs of one are all needed."""
    graph = Graph()
    never = Resource("reply", "never", list)
    possible = Resource("reply", "possible", lambda: [Provider(name="link")])
    both = Provider(name="both", needs=(possible, never))
    graph.task("one", Resource("request", "one way", lambda: [both]))
    assert graph.knot() == {"one", "one way", "both", "never"}
    graph.task("two", Resource("request", "two ways", lambda: [both, Provider(name="easy", needs=(possible,))]))
    assert graph.knot() == {"one", "one way", "both", "never"}


def test_a_spinning_task_waits_although_it_runs() -> None:
    """Its loop ends when its resource comes, not because it has a CPU."""
    graph = Graph()
    memory = Resource("memory", "memory", lambda: [graph.tasks["spinner"]])
    task = graph.task("spinner", memory)
    task.state = TaskState.RUNNABLE
    assert graph.knot() == set()
    task.spins_at = "should_reclaim_retry"
    task.spins_on = memory
    assert graph.knot() == {"spinner", "memory"}


def test_the_dead_provide_nothing() -> None:
    """A lock whose holder has ended is held for ever."""
    graph = Graph()
    holder = graph.task("holder")
    lock = Resource("lock", "lock", lambda: [holder])
    graph.task("waiter", lock)
    assert graph.knot() == set()
    holder.state = TaskState.DEAD
    assert graph.knot() == {"waiter", "lock", "holder"}


def test_the_chain_is_the_shortest_that_comes_back() -> None:
    """Two ways round: the short one is told, from where one stands, and ends where it comes back to."""
    graph = Graph()
    tasks = graph.tasks
    long_way = Resource("lock", "long", lambda: [tasks["b"]])
    short_way = Resource("lock", "short", lambda: [tasks["d"]])
    graph.task("start", Resource("lock", "both", lambda: [tasks["a"], tasks["c"]]))
    graph.task("a", long_way)
    graph.task("b", Resource("lock", "longer", lambda: [tasks["start"]]))
    graph.task("c", short_way)
    graph.task("d", short_way)
    walk = shortest_chain(find_knot(tasks.values()), tasks["start"])
    assert [name_of(node) for node in walk] == ["start", "both", "c", "short", "d", "short"]


def test_a_reclaimer_that_waits_for_itself_is_told_last() -> None:
    """Of memory everybody who reclaims is a provider; the chain goes round by another of them if there is one."""
    graph = Graph()
    tasks = graph.tasks
    victims = [Provider(name="killed victim", needs=())]
    memory = Resource("memory", "a free page", lambda: [tasks["writer"], *victims])
    lock = Resource("lock", "i_rwsem", lambda: [tasks["writer"]])
    victim = graph.task("victim", lock)
    writer = graph.task("writer", memory)
    victims[:] = [Provider(name="killed victim", needs=(victim,))]
    walk = shortest_chain(find_knot([victim, writer]), victim)
    assert [name_of(node) for node in walk] == ["victim", "i_rwsem", "writer", "a free page", "killed victim", "victim"]
    victims.clear()
    walk = shortest_chain(find_knot([victim, writer]), victim)
    assert [name_of(node) for node in walk] == ["victim", "i_rwsem", "writer", "a free page", "writer"]


def test_who_naps_on_his_way_round_waits_for_what_he_goes_round_for() -> None:
    """A nap is a timer's, which says nothing of what would end the loop."""
    graph = Graph()
    memory = Resource("memory", "memory", lambda: [graph.tasks["spinner"]])
    task = graph.task("spinner", Resource("timer", "reclaim_throttle", lambda: [graph.tasks["runner"]]))
    graph.task("runner")
    assert graph.knot() == set()
    task.spins_at, task.spins_on = "should_reclaim_retry", memory
    assert graph.knot() == {"spinner", "memory"}


def test_a_chain_without_return_ends_where_nobody_provides() -> None:
    """What nobody can ever provide is the end of the explanation."""
    graph = Graph()
    reply = Resource("reply", "a reply", list)
    sender = graph.task("sender", reply)
    start = graph.task("start", Resource("lock", "a lock", lambda: [sender]))
    knot = find_knot([start, sender])
    assert [name_of(node) for node in shortest_chain(knot, start)] == ["start", "a lock", "sender", "a reply"]


def test_who_is_in_no_knot_has_no_chain() -> None:
    """There is nothing to explain."""
    graph = Graph()
    runner = graph.task("runner")
    assert shortest_chain(find_knot([runner]), runner) == []


INDEX = st.integers(0, 3)
INDEXES = st.lists(INDEX, max_size=3, unique=True)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Make a random wait-for graph of a few tasks, resources and providers."""
    graph = Graph()
    resources: list[Resource] = []
    providers: list[Provider] = []
    for number in range(draw(st.integers(1, 3))):
        needs = draw(st.lists(st.integers(0, 2), max_size=2, unique=True)) if resources else []
        providers.append(Provider(name=f"p{number}", needs=tuple(resources[i % len(resources)] for i in needs)))
        who = [(draw(st.booleans()), draw(INDEX)) for _ in range(draw(st.integers(0, 2)))]

        def provide(who: list[tuple[bool, int]] = who) -> list[Task | Provider]:
            tasks = list(graph.tasks.values())
            return [tasks[i % len(tasks)] if is_task else providers[i % len(providers)] for is_task, i in who]

        resources.append(Resource("lock", f"r{number}", provide, external=draw(st.integers(0, 5)) == 0))
    for number in range(draw(st.integers(1, 4))):
        waits = draw(st.integers(0, 4))
        graph.task(f"t{number}", resources[waits % len(resources)] if waits else None)
    return graph


def edges_of(node: Node) -> list[Node]:
    """Return what a node waits for."""
    if isinstance(node, Task):
        return [node.resource] if node.state is TaskState.SLEEPING else []
    if isinstance(node, Provider):
        return list(node.needs)
    return list(node.providers()) if node.providers is not None else []


def holds_itself_up(nodes: set[Node]) -> bool:
    """Return whether each of these waits for what only these could provide."""
    return all(
        any(need in nodes for need in edges_of(node))
        if isinstance(node, Task | Provider)
        else not node.external and all(provider in nodes for provider in edges_of(node))
        for node in nodes
    )


@settings(max_examples=100, deadline=None)
@given(graphs())
def test_the_knot_is_the_largest_set_that_holds_itself_up(graph: Graph) -> None:
    """Any graph: the union of all sets of nodes each of which waits for nothing but its own."""
    nodes: list[Node] = list(graph.tasks.values())
    for node in nodes:
        nodes += [following for following in edges_of(node) if following not in nodes]
    subsets = chain.from_iterable(combinations(nodes, size) for size in range(len(nodes) + 1))
    expected = set().union(*(subset for subset in map(set, subsets) if holds_itself_up(subset)))
    knot = find_knot(graph.tasks.values())
    assert set(knot.edges) == expected
    assert set(knot.tasks) == {node for node in expected if isinstance(node, Task)}
    assert all(list(out) == [n for n in edges_of(node) if n in expected] for node, out in knot.edges.items())


@settings(max_examples=100, deadline=None)
@given(st.lists(INDEXES, min_size=4, max_size=4))
def test_a_chain_comes_back_as_soon_as_any(following: list[list[int]]) -> None:
    """Any graph: the walk follows its edges, returns to something it passed, and no walk returns sooner."""
    graph = Graph()
    nodes = [graph.task(f"n{number}") for number in range(4)]
    edges: dict[Node, tuple[Node, ...]] = {node: tuple(nodes[i] for i in following[n]) for n, node in enumerate(nodes)}
    walk = shortest_chain(Knot(tuple(nodes), edges), nodes[0])
    assert walk[0] is nodes[0]
    assert all(node in edges[before] for before, node in pairwise(walk))
    shortest = min(map(len, walks_that_return(edges, [nodes[0]])), default=None)
    if shortest is None:
        assert edges[walk[-1]] == ()
        assert len(set(walk)) == len(walk)
    else:
        assert walk[-1] in walk[:-1]
        assert len(walk) == shortest


def walks_that_return(edges: dict[Node, tuple[Node, ...]], walk: list[Node]) -> list[list[Node]]:
    """Return every continuation of a walk that comes back to something it passed, and stops there."""
    if walk[-1] in walk[:-1]:
        return [walk]
    return [found for node in edges[walk[-1]] for found in walks_that_return(edges, [*walk, node])]


# -- single tasks ------------------------------------------------------------------------------------------------------


def test_a_long_sleep_in_state_d_is_reported_once() -> None:
    """Each by itself, however much others get done; not one that a signal or the passing of time ends."""
    world = World()
    waits = [
        (MEMORY, {"timeout_ns": 150 * S}),
        (MEMORY, {"timeout_ns": 90 * S}),
        (MEMORY, {"timeout_ns": 150 * S, "killable": True}),
        (PAUSE, {"timeout_ns": 150 * S}),
    ]
    reports: list[tuple[str, int, int]] = []

    async def body(task: Task) -> None:
        resource, how = waits[task.number - 1]
        for _ in range(2):
            await world.sleep_on(task, resource, **how)

    def main() -> None:
        tasks = [world.spawn(f"t{number}", body) for number in range(1, 5)]
        HungTasks(
            world,
            tasks=lambda: tasks,
            timeout_ns=TIMEOUT_NS,
            report=lambda task, since_ns: reports.append((task.comm, since_ns // S, world.now_ns // S)),
        )
        world.call_at(1000 * S, world.stop, kind=TimerKind.CLOCK)

    run_virtual(lambda: world.run(main))
    assert [(comm, since_s) for comm, since_s, _ in reports] == [("t1", 0), ("t1", 150)]
    assert all(100 <= now_s - since_s <= 102 for _, since_s, now_s in reports)
