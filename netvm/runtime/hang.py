"""Is it hung? Proved, reported, and explained; and single tasks that stand still while others get on.

*Proved.* When nothing but retry timers is left, and loops that retry without sleeping count as retries too, the host
can only look again. If every pending retry has fired at least once, every loop has come to the end of its patience, and
the digest of the state, with clocks and backoff left out, is the same as before, the next round will be the same as the
last: the host is hung. If not even a retry is left, the detector stands in for one. A digest is a tuple of everything
that could make a retry succeed (free pages, list lengths, pool levels, queue states, where each task is).

*Reported.* Like khungtaskd: if the host's progress counter has not moved for ``hung_task_timeout_secs`` it is
reported as hung although nothing is proved (something still moves, but nothing gets done); while something is still to
come, a bucket of the timer wheel later, as it may be an error whose timeout is as long. The detector is an observer of
the world's time: how finely it looks is no difference to the run, only to the standstills it measures.

*Explained.* The wait-for graph has tasks, which need what they wait for, and resources, which any one of their
providers can supply: memory is a counted resource, so a wait for it is an OR-wait and a plain cycle proves nothing.
Graph reduction (Holt 1972) removes every task that could go on and every resource that a live provider could supply;
what is left is the knot. :func:`find_knot` returns it, :func:`shortest_chain` the shortest walk round it.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from netvm.runtime.task import Provider, Resource, Task, TaskState
from netvm.runtime.timer_wheel import bucket_ns
from netvm.runtime.world import World

__all__ = ["HangDetector", "HungTasks", "Knot", "find_knot", "shortest_chain"]

ROUNDS = 2
"""How often every retry must have come to nothing before a hang counts as proved."""
LOOKS_PER_TIMEOUT = 1024
"""How finely standstills are measured: looks at the progress counter in one hung-task timeout."""
STAND_INS_PER_TIMEOUT = 64
"""How often the detector stands in for a retry where none is left, in one hung-task timeout."""
HUNG_TASK_LOOKS_PER_TIMEOUT = 64
"""How finely single tasks are watched, in one hung-task timeout."""


class HangDetector:
    """Watches one world and calls ``hung(proved)`` once.

    ``stalled()`` is called in each standstill that is the longest so far, once it has lasted for ``stall_ns``. While
    ``at_rest()`` nobody wants anything, and nothing stands still.
    """

    def __init__(
        self,
        world: World,
        *,
        digest: Callable[[], Hashable],
        progress: Callable[[], int],
        timeout_ns: int,
        hung: Callable[[bool], None],
        stall_ns: int | None = None,
        stalled: Callable[[], None] = lambda: None,
        at_rest: Callable[[], bool] = lambda: False,
    ) -> None:
        self.world = world
        self._digest = digest
        self._progress = progress
        self._timeout_ns = timeout_ns
        self._look_every_ns = max(timeout_ns // LOOKS_PER_TIMEOUT, 1)
        self._stand_in_every_ns = max(timeout_ns // STAND_INS_PER_TIMEOUT, 1)
        self._hung = hung
        self._stall_ns = timeout_ns if stall_ns is None else stall_ns
        self._stalled = stalled
        self._at_rest = at_rest
        self._stall_at_ns = -1
        self._seen: Hashable = None
        self._seen_progress = -1
        self._fired: set[str] = set()
        self._rounds = 0
        self._told = False
        self._to_come = False
        self._last_progress = -1
        self._last_progress_ns = 0
        self.longest_standstill_ns = 0
        self.longest_standstill_at_ns = 0
        world.retry_fired = self.retry_fired
        world.went_idle = self.went_idle
        world.quiesced = self.quiesced
        world.observe_after(0, self._khungtaskd)
        world.observe_after(0, self._stand_in)

    def retry_fired(self, site: str) -> None:
        """A retry timer fired, or a task looped: remember where."""
        self._fired.add(site)
        if self.world.nr_pending_progress == 0:
            self.went_idle()

    def went_idle(self) -> None:
        """Only retries are left: compare the state with the last time."""
        progress = self._progress()
        if progress != self._seen_progress:
            self._seen_progress = progress
            self._seen = None
            self._fired.clear()
            self._rounds = 0
        if not self._fired:
            return
        if not self.world.pending_retry_sites() <= self._fired or self._somebody_works():
            return
        if any(task.spins_at and task.spins_at not in self._fired for task in self.world.tasks.values()):
            return
        digest = self._digest()
        self._fired.clear()
        if digest != self._seen:
            self._seen = digest
            self._rounds = 0
            return
        self._rounds += 1
        if self._rounds >= ROUNDS:
            self._tell(proved=True)

    def _somebody_works(self) -> bool:
        """Return whether a task is runnable that is not merely retrying."""
        return any(
            task.state in (TaskState.RUNNABLE, TaskState.RUNNING) and not task.spins_at
            for task in self.world.tasks.values()
        )

    def quiesced(self) -> None:
        """Nothing will ever happen again."""
        self._tell(proved=True)

    def _tell(self, *, proved: bool) -> None:
        if not self._told:
            self._told = True
            self._hung(proved)

    def _khungtaskd(self) -> None:
        now_ns = self.world.now_ns
        progress = self._progress()
        if progress != self._last_progress or self._at_rest():
            self._last_progress = progress
            self._last_progress_ns = now_ns
        standstill_ns = now_ns - self._last_progress_ns
        if standstill_ns > self.longest_standstill_ns:
            self.longest_standstill_ns = standstill_ns
            self.longest_standstill_at_ns = self._last_progress_ns
            if standstill_ns >= self._stall_ns and self._stall_at_ns != self._last_progress_ns:
                self._stall_at_ns = self._last_progress_ns
                self._stalled()
        # what came since the last look may be an error that is still on its way to who waits for it
        to_come, self._to_come = self._to_come, self.world.nr_pending_progress > 0
        grace_ns = bucket_ns(self._timeout_ns) if to_come or self._to_come else 0
        if standstill_ns >= self._timeout_ns + grace_ns:
            self._tell(proved=False)
        if not self._told:
            self.world.observe_after(self._look_every_ns, self._khungtaskd)

    def _stand_in(self) -> None:
        """Take the place of a retry where not even one is left: nothing will come of it either."""
        if not self._told:
            if not (self.world.nr_pending_progress or self.world.nr_pending_retry):
                self.retry_fired("khungtaskd")
            self.world.observe_after(self._stand_in_every_ns, self._stand_in)


class HungTasks:
    """Watches single tasks as khungtaskd does (check_hung_task), each sleep in state D by itself.

    ``report(task, since_ns)`` is called once for a sleep that has lasted ``timeout_ns``; killable sleeps are not looked
    at, nor what ends by the passing of time.

    # MODEL: khungtaskd looks once in a timeout, so it may be twice as late.
    """

    def __init__(
        self,
        world: World,
        *,
        tasks: Callable[[], Iterable[Task]],
        timeout_ns: int,
        report: Callable[[Task, int], None],
    ) -> None:
        self.world = world
        self._tasks = tasks
        self._timeout_ns = timeout_ns
        self._look_every_ns = max(timeout_ns // HUNG_TASK_LOOKS_PER_TIMEOUT, 1)
        self._report = report
        self._told: dict[int, int] = {}
        """By task: when the sleep began that was reported last."""
        world.observe_after(self._look_every_ns, self._check_hung_uninterruptible_tasks)

    def _check_hung_uninterruptible_tasks(self) -> None:
        before_ns = self.world.now_ns - self._timeout_ns
        for task in self._tasks():
            since_ns = task.asleep_since_ns
            if task.state is not TaskState.SLEEPING or since_ns > before_ns or task.killable or task.resource.external:
                continue
            if self._told.get(task.number) != since_ns:
                self._told[task.number] = since_ns
                self._report(task, since_ns)
        if not self.world.stopped:
            self.world.observe_after(self._look_every_ns, self._check_hung_uninterruptible_tasks)


Node = Task | Resource | Provider


@dataclass(frozen=True, slots=True)
class Knot:
    """What is left of the wait-for graph when all that could go on is taken away."""

    tasks: tuple[Task, ...]
    edges: dict[Node, tuple[Node, ...]]
    """For each task what it waits for, for each resource who could provide it, for each provider what it needs."""


def find_knot(tasks: Iterable[Task]) -> Knot:
    """Reduce the wait-for graph of these tasks and return the rest."""
    edges: dict[Node, tuple[Node, ...]] = {}
    pending: deque[Node] = deque(tasks)
    while pending:
        node = pending.popleft()
        if node in edges:
            continue
        edges[node] = _edges_of(node)
        pending.extend(edges[node])
    alive: set[Node] = set()
    changed = True
    while changed:
        changed = False
        for node, out in edges.items():
            if node not in alive and _can_go_on(node, out, alive):
                alive.add(node)
                changed = True
    left = {node: tuple(n for n in out if n not in alive) for node, out in edges.items() if node not in alive}
    return Knot(tuple(n for n in left if isinstance(n, Task)), left)


def _edges_of(node: Node) -> tuple[Node, ...]:
    if isinstance(node, Task):
        # who goes round wants what it goes round for, also in a nap on the way
        if node.state is TaskState.SLEEPING and not (node.spins_at and node.resource.kind == "timer"):
            return (node.resource,)
        return (node.spins_on,) if node.spins_at else ()
    if isinstance(node, Resource):
        return tuple(node.providers()) if node.providers is not None else ()
    return node.needs


def _can_go_on(node: Node, out: tuple[Node, ...], alive: set[Node]) -> bool:
    if isinstance(node, Task):
        return node.state is not TaskState.DEAD and (not out or out[0] in alive)
    if isinstance(node, Resource):
        return node.external or any(provider in alive for provider in out)
    return all(need in alive for need in out)


def shortest_chain(knot: Knot, start: Task) -> list[Node]:
    """Return the shortest walk from ``start`` that comes back to something it passed: the heart of the explanation.

    One that ends in a task that waits for memory which itself could give, as could others, is told only where there is
    no other. Where no walk comes back, the shortest to something that nobody provides; nothing if ``start`` is not in
    the knot.
    """
    if start not in knot.edges:
        return []
    paths = _shortest_paths(knot, start)
    walks = [
        (path, loop)
        for node, path in paths.items()
        for loop in _shortest_paths(knot, node).values()
        if node in knot.edges[loop[-1]]
    ]
    if not walks:
        return next(path for path in paths.values() if not knot.edges[path[-1]])
    path, loop = min(walks, key=lambda walk: (_is_own(knot, walk[1]), len(walk[0]) + len(walk[1])))
    return [*path[:-1], *loop, loop[0]]


def _is_own(knot: Knot, loop: list[Node]) -> bool:
    """Whether a loop is a task and the memory that it waits for, which others in the knot could give too."""
    memory = next((node for node in loop if isinstance(node, Resource) and node.kind == "memory"), None)
    return len(loop) == 2 and memory is not None and len(knot.edges[memory]) > 1


def _shortest_paths(knot: Knot, start: Node) -> dict[Node, list[Node]]:
    """Return a shortest path from ``start`` to each node within reach, nearest first."""
    paths: dict[Node, list[Node]] = {start: [start]}
    queue = deque([start])
    while queue:
        node = queue.popleft()
        for following in knot.edges[node]:
            if following not in paths:
                paths[following] = [*paths[node], following]
                queue.append(following)
    return paths
