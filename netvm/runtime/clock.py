"""The trio clock that moves virtual time: where trio would sleep, the world goes on.

trio calls ``deadline_to_sleep_time`` only when no trio task is runnable. That is the moment to decide what happens
next, so the clock hands over to the world: it runs due events, moves time and reschedules one task, and the clock
answers 0. Several worlds can live one after another (or side by side) in one ``trio.run``; with none attached the
clock stands still and lets trio wait for whatever it waits for.

Exceptions must not leave this method (trio would call them internal errors): the world catches them and raises them
in its own task.
"""

import gc
import math
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import trio

from netvm.runtime.timer import NEVER_NS
from netvm.units import NS_PER_S

if TYPE_CHECKING:
    from netvm.runtime.world import World

__all__ = ["VirtualClock", "run_virtual"]

_NEVER_S = NEVER_NS / NS_PER_S
_GC_THRESHOLD = 50_000
"""Objects made, less those freed, between two looks for cyclic garbage."""

T = TypeVar("T")


class VirtualClock(trio.abc.Clock):
    """A trio clock that stands at the current world's virtual time."""

    def __init__(self) -> None:
        self._worlds: list[World] = []
        self._base_ns = 0
        # a deadline that has come, and the nanosecond it stands for: as a float it may lie a hair behind it
        self._reached = (-1, 0.0)

    def start_clock(self) -> None:
        """Nothing to start."""

    def attach(self, world: "World") -> None:
        """Let a world's dispatcher run; its time adds to the clock's."""
        self._worlds.append(world)

    def detach(self, world: "World") -> None:
        """Forget a world that has ended; the clock keeps the time it reached."""
        self._worlds.remove(world)
        if not self._worlds:
            self._base_ns += world.now_ns

    def current_time(self) -> float:
        """Return the time in seconds: exact nanoseconds below 2**53."""
        now_ns = self._base_ns + (self._worlds[0].now_ns if self._worlds else 0)
        reached_ns, reached = self._reached
        return reached if now_ns == reached_ns else now_ns / NS_PER_S

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """Dispatch the attached worlds; answer how long trio may sleep (0: something is runnable)."""
        delay = deadline - self.current_time()
        if not self._worlds or delay <= 0:
            return max(0.0, delay)
        first = self._worlds[0]
        if deadline >= _NEVER_S:
            deadline_ns = NEVER_NS
        else:
            deadline_ns = max(round(deadline * NS_PER_S) - self._base_ns, first.now_ns)
        alive = False
        for world in list(self._worlds):
            alive = world.dispatch(deadline_ns) or alive
        if first.now_ns == deadline_ns:
            self._reached = (self._base_ns + deadline_ns, deadline)
        return 0.0 if alive else math.inf


def run_virtual(main: Callable[[], Awaitable[T]]) -> T:
    """Run an async function in a fresh trio loop on a :class:`VirtualClock`.

    Ctrl-C is delivered at checkpoints, so it never cuts through the middle of a model step. Python looks for cyclic
    garbage less often meanwhile: a world makes much that is short-lived, hardly a cycle, and is large to look through.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(max(thresholds[0], _GC_THRESHOLD), *thresholds[1:])
    try:
        return trio.run(main, clock=VirtualClock(), restrict_keyboard_interrupt_to_checkpoints=True)
    finally:
        gc.set_threshold(*thresholds)
