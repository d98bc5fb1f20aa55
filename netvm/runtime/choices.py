"""Where a run could go another way: the choice points of a world, and the tape of what was chosen.

A world has a *choice point* where more than one thing may happen next: a task of several, an event of several, or a
*mishap*, something that may go wrong or not. The oracle (:mod:`netvm.runtime.oracle`) chooses, and every choice is
recorded. Whoever looks for bad schedules can listen in (:attr:`Choices.picking`) and may allow a number of mishaps of
each kind:

======== ================================ ==============================================================
kind     options                          where
======== ================================ ==============================================================
packet   arrives, lost, late, twice       :meth:`netvm.net.wire.LinkDirection.send`
alloc    succeeds, fails                  :meth:`netvm.mm.page_alloc.PageAllocator.try_alloc_pages`
complete at once, overtaken by others     :meth:`netvm.block.blk_mq.RequestQueue.end_request`
======== ================================ ==============================================================

Without an allowance a mishap is no choice point and costs one look at an empty table. Where a run has several mishaps
allowed, each one that happens uses up one: faults stop, and then everything must drain.
"""

from collections.abc import Callable, Sequence

from netvm.runtime.oracle import Oracle
from netvm.runtime.task import Task
from netvm.runtime.timer import TimerHandle, Timers

__all__ = ["MISHAPS", "Choices"]

MISHAPS = ("packet", "alloc", "complete")
"""Kinds of mishaps that can be allowed."""

_TIME, _NUMBER, _FUNCTION = range(3)


class Choices(Timers):
    """The choice points of one world."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        self.choices: list[int] = []
        """Every choice taken, in order: a tape for :class:`netvm.runtime.oracle.ReplayOracle`."""
        self.picking: Callable[[int], None] | None = None
        """Told the number of candidates before each task is picked; may raise to end the run."""
        self.mishaps: dict[str, int] = {}
        """How many mishaps of each kind may still happen."""
        self.calm = False
        """Nothing is chosen: what a kernel would do happens, and is no choice (a host that boots)."""
        self._explores_events = oracle.explores_events
        self._window_ns: int = getattr(oracle, "window_ns", 0)
        self._among: Callable[[str, Sequence[tuple[int, str]]], int] | None = getattr(oracle, "choose_among", None)

    def choose(self, kind: str, nr_options: int) -> int:
        """Ask the oracle and note its answer."""
        if self.calm:
            return 0
        return self._note(self.oracle.choose(kind, nr_options), nr_options)

    def _note(self, index: int, nr_options: int) -> int:
        assert 0 <= index < nr_options
        self.choices.append(index)
        return index

    def mishap(self, kind: str, nr_options: int) -> int:
        """Return which way something goes wrong, 0 if it does not; never wrong where no mishap is left."""
        left = self.mishaps.get(kind, 0)
        if not left:
            return 0
        index = self.choose(kind, nr_options)
        if index:
            self.mishaps[kind] = left - 1
        return index

    def _choose_task(self, candidates: list[Task]) -> Task:
        if self._among is None or self.calm:
            return candidates[self.choose("task", len(candidates))]
        names = [(task.number, task.resource.name) for task in candidates]
        return candidates[self._note(self._among("task", names), len(candidates))]

    def _choose_event(self, first: TimerHandle, until_ns: int) -> TimerHandle:
        """Offer all events of this instant to the oracle; put the others back.

        With a window, events that come soon after are offered too: what was first is late then, as timers may be.
        """
        if self.calm:
            return first
        same = [first]
        heap = self._heap
        until_ns = min(first[_TIME] + self._window_ns, until_ns)
        while heap and heap[0][_TIME] <= until_ns:
            timer = self._pop()
            if timer[_FUNCTION] is not None:
                same.append(timer)
        if len(same) == 1:
            return first
        if self._among is None:
            index = self.choose("event", len(same))
        else:
            names = [(-timer[_NUMBER], getattr(timer[_FUNCTION], "__qualname__", "")) for timer in same]
            index = self._note(self._among("event", names), len(same))
        chosen = same.pop(index)
        for timer in same:
            if timer[_TIME] < chosen[_TIME]:
                timer[_TIME] = chosen[_TIME]
            self._push(timer)
        return chosen
