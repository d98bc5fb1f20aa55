"""The timer wheel: when a timer fires that is armed now, against the buckets counted out one by one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.runtime.timer import Timers
from netvm.runtime.timer_wheel import bucket_ns, wheel_ns
from netvm.units import JIFFY_NS, NS_PER_MS, NS_PER_S

TICK = JIFFY_NS


def bucket_end(now: int, timeout: int) -> int:
    """Return the jiffy in which a timer fires, from the table of levels in kernel/time/timer.c."""
    ranges = [(63, 1), (504, 8), (4032, 64), (32256, 512), (258048, 4096)]
    width = next(width for below, width in ranges if timeout < below)
    expires = now + timeout
    return next(jiffy for jiffy in range(expires + 1, expires + width + 1) if jiffy % width == 0)


@given(st.integers(0, 10_000_000), st.integers(0, TICK - 1), st.integers(0, 20_000))
def test_a_timer_fires_at_the_end_of_its_bucket(now: int, into_tick_ns: int, timeout: int) -> None:
    """Never early, at a tick, and in the bucket that the level of its timeout gives."""
    now_ns = now * TICK + into_tick_ns
    fires_ns = now_ns + wheel_ns(now_ns, timeout * TICK)
    assert fires_ns == bucket_end(now, timeout) * TICK
    assert 0 < fires_ns - (now_ns + timeout * TICK - into_tick_ns) <= bucket_ns(timeout * TICK)


@given(st.integers(0, 10_000 * TICK), st.integers(0, 40_000 * TICK))
def test_before_4_8_it_fired_at_its_tick(now_ns: int, timeout_ns: int) -> None:
    """The cascading wheel: at the first tick that is the timeout, in whole jiffies, after the last one."""
    fires_ns = now_ns + wheel_ns(now_ns, timeout_ns, cascades=True)
    ticks = range(now_ns // TICK + 1, 60_000)
    nr_jiffies = -(-timeout_ns // TICK)
    assert fires_ns == next(tick for tick in ticks if tick - now_ns // TICK >= nr_jiffies) * TICK


@pytest.mark.parametrize(
    ("timeout_ns", "after_ms"), [(TICK, 8), (100 * NS_PER_MS, 104), (NS_PER_S, 1024), (5 * NS_PER_S, 5120)]
)
def test_what_usual_timeouts_come_to(timeout_ns: int, after_ms: int) -> None:
    """A jiffy, kswapd's nap, a second and a mempool's five, armed at a tick that is no end of a bucket."""
    assert wheel_ns(0, timeout_ns) == after_ms * NS_PER_MS


def test_the_nap_that_was_recorded() -> None:
    """Kswapd of the run D2 lay down at 5.756146 s of uptime and ran again at 5.860007: 25 jiffies and one."""
    assert 5_756_146_000 + wheel_ns(5_756_146_000, 100 * NS_PER_MS) == 5_860_000_000


def test_a_kernel_has_one_wheel_or_the_other() -> None:
    """Timers ask the wheel of their kernel, from now."""
    timers = Timers()
    timers.now_ns = TICK // 2
    assert timers.wheel_ns(TICK) == 2 * TICK - TICK // 2
    timers.wheel_cascades = True
    assert timers.wheel_ns(TICK) == TICK - TICK // 2
