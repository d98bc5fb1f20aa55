"""Virtual time and what is due in it: timers, and what each means for progress.

A timer is a list, not an object: the heap compares it by time and number in C, and a million a second must be made.
Cancelling leaves it in the heap without its function, to be dropped when its time comes, or with all others like it
when there may be more of them than of the pending.

Who only looks (the hang detector, the progress line) is an *observer* and has a queue of his own, which nobody asks
when something will happen next: how often he looks makes no difference to the run.
"""

from collections.abc import Callable
from enum import IntEnum
from heapq import heapify, heappop, heappush
from typing import Any, TypeAlias

from netvm.runtime.timer_wheel import wheel_ns

__all__ = ["NEVER_NS", "TimerHandle", "TimerKind", "Timers"]

NEVER_NS = 1 << 62
"""A time that does not come."""


class TimerKind(IntEnum):
    """What a pending timer means for progress."""

    PROGRESS = 0
    """Something comes from outside the wait: a packet arrives, a disk completes, a pause ends."""
    RETRY = 1
    """Its owner looks again: RTO, a mempool's five seconds, a throttle's 100 ms, kswapd's nap."""
    CLOCK = 2
    """Machinery: a CPU becomes free, a budget ends."""


TimerHandle: TypeAlias = list[Any]
"""``[time_ns, number, function or None, arguments, kind, site]``; a cancelled or fired timer has no function."""

_TIME, _NUMBER, _FUNCTION, _ARGS, _KIND, _SITE = range(6)
_PROGRESS = int(TimerKind.PROGRESS)
_RETRY = int(TimerKind.RETRY)
_NR_CANCELLED_MIN = 1000
"""Cancelled timers are left where they are up to here: most are due, and gone, before there are as many."""


class Timers:
    """The time, and the functions that wait for theirs: equal instants in the order they were made."""

    def __init__(self) -> None:
        self.now_ns = 0
        self.wheel_cascades = False
        """Whether the kernel's timer wheel is that of before 4.8."""
        self.nr_pending_progress = 0
        self.nr_pending_retry = 0
        self._heap: list[TimerHandle] = []
        self._nr_cancelled = 0
        """Cancelled since the heap was last cleared of them, those that have been dropped in their time included."""
        self._sequence = 0
        self._observers: list[tuple[int, int, Callable[[], object]]] = []
        self._nr_looks = 0
        # invariant: the time of the first observer, NEVER_NS without one
        self._look_ns = NEVER_NS

    def call_at(
        self, time_ns: int, function: Callable[..., object], *args: Any, kind: int = _PROGRESS, site: str = ""
    ) -> TimerHandle:
        """Run ``function(*args)`` in atomic context at ``time_ns``; ``site`` names a retry for the hang detector."""
        assert time_ns >= self.now_ns, f"an event at {time_ns} ns would be before now, {self.now_ns} ns"
        self._sequence = number = self._sequence + 1
        timer: TimerHandle = [time_ns, number, function, args, kind, site]
        heappush(self._heap, timer)
        if kind == _PROGRESS:
            self.nr_pending_progress += 1
        elif kind == _RETRY:
            self.nr_pending_retry += 1
        return timer

    def call_after(
        self, delay_ns: int, function: Callable[..., object], *args: Any, kind: int = _PROGRESS, site: str = ""
    ) -> TimerHandle:
        """Run ``function(*args)`` in atomic context ``delay_ns`` from now."""
        assert delay_ns >= 0
        self._sequence = number = self._sequence + 1
        timer: TimerHandle = [self.now_ns + delay_ns, number, function, args, kind, site]
        heappush(self._heap, timer)
        if kind == _PROGRESS:
            self.nr_pending_progress += 1
        elif kind == _RETRY:
            self.nr_pending_retry += 1
        return timer

    def wheel_ns(self, timeout_ns: int) -> int:
        """Return how long a timer of the wheel takes that is armed now for ``timeout_ns``."""
        return wheel_ns(self.now_ns, timeout_ns, cascades=self.wheel_cascades)

    def cancel(self, timer: TimerHandle) -> bool:
        """Disarm a timer; return whether it was still pending."""
        if timer[_FUNCTION] is None:
            return False
        timer[_FUNCTION] = None
        kind = timer[_KIND]
        if kind == _PROGRESS:
            self.nr_pending_progress -= 1
        elif kind == _RETRY:
            self.nr_pending_retry -= 1
        self._nr_cancelled += 1
        if self._nr_cancelled > max(_NR_CANCELLED_MIN, len(self._heap) // 2):
            self._drop_cancelled()
        return True

    def _drop_cancelled(self) -> None:
        """Clear the heap of cancelled timers; in place, as who runs events is in the middle of it."""
        self._heap[:] = [timer for timer in self._heap if timer[_FUNCTION] is not None]
        heapify(self._heap)
        self._nr_cancelled = 0

    @staticmethod
    def is_pending(timer: TimerHandle) -> bool:
        """Return whether the timer has neither fired nor been cancelled."""
        return timer[_FUNCTION] is not None

    def pending_timers(self) -> list[TimerHandle]:
        """Return all pending timers, in no order that means anything."""
        return [timer for timer in self._heap if timer[_FUNCTION] is not None]

    def pending_retry_sites(self) -> set[str]:
        """Return the sites of all pending retry timers."""
        return {t[_SITE] for t in self._heap if t[_FUNCTION] is not None and t[_KIND] == _RETRY}

    def observe_after(self, delay_ns: int, look: Callable[[], object]) -> None:
        """Call ``look()`` when virtual time has come to ``delay_ns`` from now: it changes nothing, but may end the run.

        It is no event: it looks before those of its own instant, and not at all once there are no events any more.
        """
        assert delay_ns >= 0
        self._nr_looks += 1
        heappush(self._observers, (self.now_ns + delay_ns, self._nr_looks, look))
        self._look_ns = self._observers[0][0]

    def _look_once(self) -> None:
        """Let the first observer look, at his time."""
        time_ns, _, look = heappop(self._observers)
        self._look_ns = self._observers[0][0] if self._observers else NEVER_NS
        self.now_ns = max(self.now_ns, time_ns)
        look()

    def _pop(self) -> TimerHandle:
        return heappop(self._heap)

    def _push(self, timer: TimerHandle) -> None:
        heappush(self._heap, timer)

    def horizon_ns(self) -> int:
        """Return the time of the next event: until then nothing can interfere with the running task."""
        heap = self._heap
        while heap:
            if heap[0][_FUNCTION] is not None:
                time_ns: int = heap[0][_TIME]
                return time_ns
            heappop(heap)
        return NEVER_NS
