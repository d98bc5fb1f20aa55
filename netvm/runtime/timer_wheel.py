"""The timer wheel: timeouts are kept in buckets of ticks, the coarser the longer they are.

Mirrors ``calc_wheel_index`` of kernel/time/timer.c. A timer never fires early, so its expiry is rounded up to the next
bucket: one tick more in the first level, the next multiple of 8 ticks above 63 ticks, of 64 above 504, and so on. A
sleep of one jiffy thus takes between one and two of them, kswapd's nap of 100 ms 100 to 104, and a mempool's retry
after five seconds up to a quarter of a second more. Timeouts in jiffies (``schedule_timeout``, ``mod_timer``, delayed
work) go by the wheel; what sleeps by the clock, an hrtimer (a program's nanosleep, a pause of a disk or a link), does
not.

Before 4.8 (``noncascading_timers``) a timer fired at the very tick of its expiry, at the price of being moved from
level to level.

# MODEL: from 2.6.35 to 4.7 mod_timer() could put a timeout off by up to 1/256 of it, to fire with others (slack).
# A timer that is put off while it is armed is put into its new bucket when the old one is over.
"""

from typing import Final

from netvm.units import JIFFY_NS

__all__ = ["bucket_ns", "wheel_ns"]

LVL_CLK_SHIFT: Final = 3
"""Each level's buckets are eight times as wide as those of the one below."""
LVL_BITS: Final = 6
"""Buckets of a level, as a power of two."""
LVL_DEPTH: Final = 9
"""Levels of a kernel whose HZ is above 100."""


def wheel_ns(now_ns: int, timeout_ns: int, *, cascades: bool = False) -> int:
    """Return how many nanoseconds after ``now_ns`` a timer fires that is armed then for ``timeout_ns``.

    The timeout is rounded up to whole jiffies and counts from the last tick; one of no time, or in the past, is over
    at the next tick. ``cascades`` is the wheel before 4.8.
    """
    jiffies = now_ns // JIFFY_NS
    nr_jiffies = max(-(-timeout_ns // JIFFY_NS), 0)
    if cascades:
        return (jiffies + max(nr_jiffies, 1)) * JIFFY_NS - now_ns
    shift = _lvl_shift(nr_jiffies)
    return ((((jiffies + nr_jiffies) >> shift) + 1) << shift) * JIFFY_NS - now_ns


def bucket_ns(timeout_ns: int) -> int:
    """Return how wide the bucket of a timeout is: what it may be late, the rest of its first tick aside."""
    return JIFFY_NS << _lvl_shift(-(-timeout_ns // JIFFY_NS))


def _lvl_shift(nr_jiffies: int) -> int:
    """Return the width of the buckets of a timeout's level, as a power of two of jiffies."""
    shift = 0
    start = (1 << LVL_BITS) - 1
    while nr_jiffies >= start and shift < LVL_CLK_SHIFT * (LVL_DEPTH - 1):
        shift += LVL_CLK_SHIFT
        start <<= LVL_CLK_SHIFT
    return shift
