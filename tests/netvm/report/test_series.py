"""Sums over time in a bounded number of buckets."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from netvm.report.series import BUCKETS, Series

_MS = 1_000_000


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(0, 1000)), min_size=1, max_size=30))
def test_sums_survive_the_doubling(points: list[tuple[int, int]]) -> None:
    """However far the recording reaches, the buckets add up to what was added, each where its time is."""
    series = Series()
    for time_ns, value in points:
        series.add("a", np.array([time_ns]), np.array([value]))
        series.add_one("b", time_ns, value)
    column = series.columns["a"]
    begin_ns = points[0][0]
    right = np.zeros(BUCKETS, dtype=np.int64)
    for time_ns, value in points:
        right[max(0, time_ns - begin_ns) // series.width_ns] += value
    assert column.tolist() == series.columns["b"].tolist() == right.tolist()
    assert series.used() <= BUCKETS


@given(st.lists(st.tuples(st.integers(0, 10**10), st.integers(0, 10**9)), min_size=1, max_size=20))
def test_a_span_is_spread_over_its_buckets(spans: list[tuple[int, int]]) -> None:
    """The nanoseconds of a span are all there, and no bucket of one span holds more than its width."""
    series = Series()
    series.start(0)
    for begin_ns, length_ns in spans:
        series.spread("s", begin_ns, begin_ns + length_ns)
    assert int(series.columns["s"].sum()) == sum(length for _, length in spans)
    assert int(series.columns["s"].max()) <= len(spans) * series.width_ns


def test_buckets_start_at_a_millisecond() -> None:
    """A short recording keeps its detail."""
    series = Series()
    series.add("a", np.array([0, 1 * _MS, 5 * _MS]))
    assert (series.width_ns, series.used()) == (_MS, 6)
