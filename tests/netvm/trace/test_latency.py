"""Latencies: quantiles against a sorted list, and a program's histogram of its touches."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.trace.latency import LatencyRecorder, LatencySummary, TouchRecorder

DURATIONS = st.lists(st.integers(0, 1 << 40), max_size=600)


def nearest_rank(values: list[int], percent: int) -> int:
    """Return the smallest value that at least ``percent`` of all do not pass."""
    ordered = sorted(values)
    return next((value for rank, value in enumerate(ordered, start=1) if rank * 100 >= percent * len(ordered)), 0)


@given(DURATIONS, st.integers(0, 5))
def test_quantiles_are_those_of_a_sorted_list(durations: list[int], nr_unfinished: int) -> None:
    """Exact, by nearest rank, however many there are; what has begun and not ended is counted apart."""
    recorder = LatencyRecorder()
    for duration_ns in durations:
        recorder.begin()
        recorder.end(duration_ns)
    for _ in range(nr_unfinished):
        recorder.begin()
    assert recorder.summary() == LatencySummary(
        count=len(durations),
        unfinished=nr_unfinished,
        total_ns=sum(durations),
        p50_ns=nearest_rank(durations, 50),
        p90_ns=nearest_rank(durations, 90),
        p99_ns=nearest_rank(durations, 99),
        max_ns=max(durations, default=0),
    )
    assert recorder.values_ns().tolist() == durations


def test_quantiles_of_a_hundred() -> None:
    """The textbook: of 1 to 100, the 50th, 90th and 99th."""
    recorder = LatencyRecorder()
    for duration_ns in range(100, 0, -1):
        recorder.begin()
        recorder.end(duration_ns)
    summary = recorder.summary()
    assert (summary.p50_ns, summary.p90_ns, summary.p99_ns, summary.max_ns) == (50, 90, 99, 100)


def test_values_handed_out_are_a_copy() -> None:
    """Who looks at the values cannot change them, and later ones do not show up in what was handed out."""
    recorder = LatencyRecorder()
    recorder.begin()
    recorder.end(5)
    values = recorder.values_ns()
    values[0] = 7
    recorder.begin()
    recorder.end(6)
    assert values.tolist() == [7]
    assert recorder.values_ns().tolist() == [5, 6]
    assert recorder.values_ns().dtype == np.int64


def test_no_wait_is_shorter_than_nothing() -> None:
    """A negative duration is a bug of the caller."""
    recorder = LatencyRecorder()
    recorder.begin()
    with pytest.raises(AssertionError):
        recorder.end(-1)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 1 << 30))))
def test_touches_are_counted_by_powers_of_two(batches: list[tuple[int, int]]) -> None:
    """Each touch of a batch took the same time; bucket n holds those of 2**n to 2**(n + 1) ns, bucket 0 the rest."""
    recorder = TouchRecorder()
    each_ns = []
    for nr_touches, time_ns in batches:
        recorder.add(nr_touches, nr_touches * time_ns)
        each_ns += [time_ns] * nr_touches
    buckets = {n: sum(2**n <= ns < 2 ** (n + 1) for ns in each_ns) for n in range(1, 31)}
    buckets[0] = sum(ns < 2 for ns in each_ns)
    assert recorder.histogram == {n: count for n, count in buckets.items() if count}
    assert recorder.nr_touches == len(each_ns)
    assert recorder.total_ns == sum(each_ns)
    assert recorder.max_ns == max(each_ns, default=0)


def test_a_batch_is_shared_out_evenly() -> None:
    """Ten touches that took 25 ns together took 2 each; no nanosecond of the total is lost."""
    recorder = TouchRecorder()
    recorder.add(10, 25)
    assert recorder.histogram == {1: 10}
    assert (recorder.max_ns, recorder.total_ns) == (2, 25)
