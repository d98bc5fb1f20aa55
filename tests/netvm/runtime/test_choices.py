"""Choice points: mishaps are counted, names are offered, near events may swap."""

from collections.abc import Sequence

from netvm.runtime.oracle import FifoOracle, ReplayOracle
from netvm.runtime.task import Task
from netvm.runtime.world import World


def test_a_mishap_happens_as_often_as_it_is_allowed() -> None:
    """Without an allowance nothing is asked and nothing goes wrong; each that happens uses up one."""
    world = World(oracle=ReplayOracle([0, 2, 1, 1]))
    assert world.mishap("packet", 4) == 0
    assert world.choices == []
    world.mishaps["packet"] = 2
    assert [world.mishap("packet", 4) for _ in range(4)] == [0, 2, 1, 0]
    assert world.choices == [0, 2, 1]
    assert world.mishap("alloc", 2) == 0


class _Last(FifoOracle):
    """Chooses the last, by name, among events within a window."""

    explores_events = True

    def __init__(self, window_ns: int) -> None:
        self.window_ns = window_ns
        self.offered: list[list[str]] = []

    def choose_among(self, kind: str, names: Sequence[tuple[int, str]]) -> int:
        self.offered.append([kind, *(name for _, name in names)])
        return len(names) - 1


def _order(window_ns: int) -> tuple[list[str], _Last]:
    oracle = _Last(window_ns)
    world = World(oracle=oracle)
    told: list[str] = []

    def note(name: str) -> None:
        told.append(f"{name} at {world.now_ns}")

    for time_ns, name in ((10, "arrival"), (15, "timer"), (40, "later")):
        world.call_at(time_ns, note, name)
    world._run_events(1000, None)
    return told, oracle


def test_events_apart_keep_their_order() -> None:
    """Without a window only equal instants are a choice."""
    told, oracle = _order(0)
    assert told == ["arrival at 10", "timer at 15", "later at 40"]
    assert not oracle.offered


def test_events_within_a_window_may_swap() -> None:
    """A timer beats the arrival before it; what was passed over is late, and time never goes back."""
    told, oracle = _order(10)
    assert told == ["timer at 15", "arrival at 15", "later at 40"]
    assert len(oracle.offered) == 1


def test_tasks_are_offered_by_number_and_by_what_they_wait_for() -> None:
    """An oracle that wants names gets them; the tape is the same list of numbers."""
    oracle = _Last(0)
    world = World(oracle=oracle)
    tasks = [Task(world=world, number=n, comm="t", pid=None, cpus=None, flags=0, nice=0) for n in (1, 2)]
    assert world._choose_task(tasks) is tasks[1]
    assert world.choices == [1]
    assert oracle.offered == [["task", "nothing", "nothing"]]


def test_a_calm_world_chooses_nothing() -> None:
    """What a kernel would do happens, the oracle is not asked, and the tape has nothing of it."""
    oracle = _Last(0)
    world = World(oracle=oracle)
    world.calm = True
    world.mishaps["packet"] = 1
    tasks = [Task(world=world, number=n, comm="t", pid=None, cpus=None, flags=0, nice=0) for n in (1, 2)]
    assert world._choose_task(tasks) is tasks[0]
    assert world.mishap("packet", 4) == 0
    assert (world.choices, oracle.offered, world.mishaps) == ([], [], {"packet": 1})
