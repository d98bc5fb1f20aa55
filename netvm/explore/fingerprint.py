"""Is this state the one we have seen? A fingerprint of a whole emulated host.

Two runs are in the same state if the machine's digest (:meth:`netvm.host.machine.Host.digest`), every task's place and
every pending timer are the same, the clock left out. A task's place is read off its coroutine: for each function it is
in, which one, at which instruction, and the plain values among its local variables.

The digest counts and does not name: which page is on which list, or how far a TCP sequence number has got, is not in
it. So two equal fingerprints are almost, not certainly, equal states, and a search of a host that prunes by them is
*bounded*, never *proved* (:mod:`netvm.explore.search` sees to it).
"""

from collections.abc import Hashable, Iterator
from typing import Any, Final

from netvm.runtime.task import Task
from netvm.runtime.world import World
from netvm.scenario.abstract import AbstractExperiment
from netvm.scenario.run import Experiment

__all__ = ["fingerprint", "is_complete", "place"]

_PLAIN: Final = (int, str, bytes, bool, type(None))
_TIME, _NUMBER, _FUNCTION, _ARGS, _KIND, _SITE = range(6)


def is_complete(experiment: Experiment | AbstractExperiment) -> bool:
    """Return whether equal fingerprints of such runs are certainly equal states."""
    return isinstance(experiment, AbstractExperiment)


def fingerprint(experiment: Experiment | AbstractExperiment) -> Hashable:
    """Return the state of a run between two steps."""
    if isinstance(experiment, AbstractExperiment):
        return experiment.fingerprint()
    world = experiment.world
    tasks = tuple((task.comm, task.state.value, place(task)) for task in world.tasks.values())
    return (experiment.host.digest(), tasks, tuple(sorted(_timers(world))))


def _timers(world: World) -> Iterator[tuple[int, str, int]]:
    for timer in world.pending_timers():
        yield timer[_TIME] - world.now_ns, getattr(timer[_FUNCTION], "__qualname__", ""), int(timer[_KIND])


def place(task: Task) -> tuple[Hashable, ...]:
    """Return where a parked task is: function, instruction and plain locals of each frame, outermost first."""
    if task.trio_task is None:
        return ()
    coro: Any = task.trio_task.coro
    places: list[Hashable] = []
    while coro is not None and hasattr(coro, "cr_frame"):
        frame = coro.cr_frame
        if frame is not None:
            plain = tuple((k, v) for k, v in sorted(frame.f_locals.items()) if type(v) in _PLAIN)
            places.append((frame.f_code.co_qualname, frame.f_lasti, plain))
        coro = coro.cr_await
    return tuple(places)
