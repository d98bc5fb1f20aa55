"""Timers before anything fires: what is pending, of which kind, and until when nothing happens."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.runtime.timer import NEVER_NS, TimerHandle, TimerKind, Timers

KINDS = st.sampled_from(TimerKind)


def nothing() -> None:
    """Do nothing."""


def test_an_armed_timer_is_pending_until_it_is_cancelled() -> None:
    """Cancelling tells once whether the timer was still pending."""
    timers = Timers()
    timer = timers.call_after(5, nothing)
    assert timers.is_pending(timer)
    assert timers.cancel(timer)
    assert not timers.is_pending(timer)
    assert not timers.cancel(timer)
    assert timers.nr_pending_progress == 0


def test_no_timer_is_armed_in_the_past() -> None:
    """A time before now and a negative delay are bugs of the caller; now itself is not."""
    timers = Timers()
    timers.now_ns = 100
    with pytest.raises(AssertionError, match="before now"):
        timers.call_at(99, nothing)
    with pytest.raises(AssertionError):
        timers.call_after(-1, nothing)
    assert timers.call_at(100, nothing)[0] == timers.call_after(0, nothing)[0] == 100


def test_sites_are_those_of_retries_that_are_pending() -> None:
    """A progress timer has no site to wait for, and a cancelled retry none any more."""
    timers = Timers()
    timers.call_after(1, nothing, kind=TimerKind.RETRY, site="RTO")
    timers.call_after(1, nothing, kind=TimerKind.RETRY, site="RTO")
    timers.call_after(2, nothing, kind=TimerKind.PROGRESS, site="link")
    timers.call_after(2, nothing, kind=TimerKind.CLOCK, site="budget")
    cancelled = timers.call_after(3, nothing, kind=TimerKind.RETRY, site="mempool")
    assert timers.pending_retry_sites() == {"RTO", "mempool"}
    timers.cancel(cancelled)
    assert timers.pending_retry_sites() == {"RTO"}


def test_without_timers_the_horizon_is_never() -> None:
    """No time is as late as the one that does not come."""
    timers = Timers()
    assert timers.horizon_ns() == NEVER_NS
    timers.cancel(timers.call_after(7, nothing))
    assert timers.horizon_ns() == NEVER_NS


@given(st.lists(st.tuples(st.integers(0, 20), KINDS, st.booleans())))
def test_counts_and_horizon_are_those_of_a_plain_list(armed: list[tuple[int, TimerKind, bool]]) -> None:
    """Whatever is armed and cancelled: pending timers are counted by kind, and the horizon is the earliest of them."""
    timers = Timers()
    made: list[tuple[TimerHandle, int, TimerKind]] = []
    pending: list[tuple[int, TimerKind]] = []
    for time_ns, kind, cancels in armed:
        made.append((timers.call_at(time_ns, nothing, kind=kind), time_ns, kind))
        pending.append((time_ns, kind))
        if cancels:
            timer, its_time_ns, its_kind = made[len(made) // 2]
            if timers.cancel(timer):
                pending.remove((its_time_ns, its_kind))
        assert timers.nr_pending_progress == sum(kind is TimerKind.PROGRESS for _, kind in pending)
        assert timers.nr_pending_retry == sum(kind is TimerKind.RETRY for _, kind in pending)
        assert timers.horizon_ns() == min((time_ns for time_ns, _ in pending), default=NEVER_NS)


def test_observers_are_no_events() -> None:
    """Nobody who asks what is pending or when the next event is hears of one."""
    timers = Timers()
    timers.observe_after(5, nothing)
    assert timers.horizon_ns() == NEVER_NS
    assert timers.pending_timers() == []
    assert timers.nr_pending_progress == timers.nr_pending_retry == 0


def test_a_heap_is_not_filled_with_what_was_cancelled() -> None:
    """A nap that is broken off again and again leaves no more timers than a few thousand, and none out of order."""
    timers = Timers()
    kept = [timers.call_after(5 * n, nothing) for n in range(100)]
    for _ in range(50_000):
        timers.cancel(timers.call_after(1_000, nothing))
    assert len(timers._heap) < 2_000
    assert sorted(timers.pending_timers()) == kept
    assert timers._pop() is kept[0]
