"""Timers of virtual time: what one is, and what it means for progress.

A timer is a list, not an object: the heap compares it by time and number in C, and a million a second must be made.
"""

from enum import IntEnum
from typing import Any, TypeAlias

__all__ = ["NEVER_NS", "TimerHandle", "TimerKind"]

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
"""``[time_ns, number, function or None, argument, kind, site]``; a cancelled or fired timer has no function."""
