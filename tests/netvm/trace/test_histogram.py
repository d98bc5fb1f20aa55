"""The log-linear histogram, held against a sorted list."""

import math

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from netvm.trace.histogram import RELATIVE_ERROR_MAX, Histogram, bucket_bounds, bucket_index

_VALUES = st.lists(st.integers(0, 2**61) | st.integers(0, 1000), min_size=1, max_size=60)


@given(_VALUES, st.floats(0.001, 1.0))
@example([1 << 61] * 4, 1.0)
def test_quantiles_are_within_the_stated_error(values: list[int], q: float) -> None:
    """A quantile is off by at most 0.4 % of the nearest-rank value of the sorted list; the extremes are exact."""
    histogram = Histogram()
    histogram.add_many(np.array(values, dtype=np.int64))
    right = sorted(values)[max(1, math.ceil(q * len(values))) - 1]
    assert abs(histogram.quantile(q) - right) <= right * RELATIVE_ERROR_MAX + 1
    assert histogram.quantile(1.0) == histogram.max == max(values)
    assert (histogram.count, histogram.total, histogram.min) == (len(values), sum(values), min(values))


@given(_VALUES)
def test_one_by_one_and_all_at_once_are_the_same(values: list[int]) -> None:
    """Adding values singly, together, or in two histograms that are merged gives the same counts."""
    single, together, left, right = (Histogram() for _ in range(4))
    for index, value in enumerate(values):
        single.add(value)
        (left if index % 2 else right).add(value)
    together.add_many(np.array(values, dtype=np.int64))
    left.merge(right)
    assert single.sparse() == together.sparse() == left.sparse()
    assert (left.min, left.max, left.total) == (single.min, single.max, single.total)


@given(st.integers(0, 2**62 - 1))
def test_a_value_lies_in_its_bucket(value: int) -> None:
    """The bucket of a value begins at or below it and ends above it, and is no wider than a 128th of it."""
    index = int(bucket_index(np.array([value], dtype=np.int64))[0])
    low, high = bucket_bounds(index)
    assert low <= value < high
    assert high - low <= max(1, value / 128)


@given(_VALUES)
def test_a_histogram_comes_back_from_its_buckets(values: list[int]) -> None:
    """What is written down of a histogram gives the same quantiles."""
    histogram = Histogram()
    histogram.add_many(np.array(values, dtype=np.int64))
    index, counts = histogram.sparse()
    again = Histogram.from_sparse(index, counts, total=histogram.total, smallest=histogram.min, largest=histogram.max)
    assert [again.quantile(q) for q in (0.5, 0.9, 1)] == [histogram.quantile(q) for q in (0.5, 0.9, 1)]


def test_nothing_counted_is_nothing() -> None:
    """An empty histogram has no quantile but zero."""
    assert (Histogram().quantile(0.5), Histogram().count) == (0, 0)
