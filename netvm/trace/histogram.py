"""A log-linear histogram: every value in a bucket whose width is a fixed share of the value.

As in HdrHistogram (Tene), each power of two is cut into ``2**SUB_BITS`` equal buckets; below ``2**(SUB_BITS + 1)`` a
bucket holds one value. A quantile is told as the middle of its bucket and so is off by at most
:data:`RELATIVE_ERROR_MAX`, 0.4 %; count, total, smallest and largest are exact. Adding is a few array operations for
any number of values at once (the published Python port adds them one by one, so this is our own), merging is an
addition, and the memory is bounded whatever is added.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["RELATIVE_ERROR_MAX", "SUB_BITS", "Histogram", "bucket_bounds", "bucket_index"]

SUB_BITS: Final = 7
RELATIVE_ERROR_MAX: Final = 2.0 ** -(SUB_BITS + 1)
"""Largest relative error of a quantile."""

_LINEAR: Final = 1 << (SUB_BITS + 1)

Int64s = npt.NDArray[np.int64]


class Histogram:
    """Values of 0 to 2**62, counted."""

    __slots__ = ("_counts", "_pending", "count", "max", "min", "total")

    def __init__(self) -> None:
        self._counts: Int64s = np.zeros(_LINEAR, dtype=np.int64)
        self._pending: list[int] = []
        self.count = 0
        self.total = 0
        self.min = 0
        self.max = 0

    def add(self, value: int) -> None:
        """Count one value."""
        assert value >= 0
        self.min = min(self.min, value) if self.count else value
        self.max = max(self.max, value)
        self.count += 1
        self.total += value
        self._pending.append(value)
        if len(self._pending) >= 1024:
            self._settle()

    def add_many(self, values: Int64s) -> None:
        """Count many values."""
        if not len(values):
            return
        low, high = int(values.min()), int(values.max())
        assert low >= 0
        self.min = min(self.min, low) if self.count else low
        self.max = max(self.max, high)
        self.count += len(values)
        # years of nanoseconds, added up, are more than 64 bits hold
        self.total += int(values.sum()) if high * len(values) < 1 << 63 else sum(values.tolist())
        self._bucket(values)

    def merge(self, other: "Histogram") -> None:
        """Add what another histogram has counted."""
        if not other.count:
            return
        self.min = min(self.min, other.min) if self.count else other.min
        self.max = max(self.max, other.max)
        self.count += other.count
        self.total += other.total
        self._settle()
        counts = other.counts()
        self._grow(len(counts))
        self._counts[: len(counts)] += counts

    def quantile(self, q: float) -> int:
        """Return the value at quantile ``q`` (nearest rank); 0 if nothing was counted."""
        if not self.count:
            return 0
        if q >= 1.0:
            return self.max
        rank = max(1, math.ceil(q * self.count))
        index = int(np.searchsorted(np.cumsum(self.counts()), rank))
        low, high = bucket_bounds(index)
        return min(max((low + high - 1) // 2, self.min), self.max)

    def counts(self) -> Int64s:
        """Return the count of every bucket, by index."""
        self._settle()
        return self._counts

    def sparse(self) -> tuple[list[int], list[int]]:
        """Return the index and count of each bucket that is not empty."""
        counts = self.counts()
        index = np.flatnonzero(counts)
        return index.tolist(), counts[index].tolist()

    @classmethod
    def from_sparse(
        cls, index: Sequence[int], counts: Sequence[int], *, total: int, smallest: int, largest: int
    ) -> "Histogram":
        """Return a histogram with these buckets."""
        histogram = cls()
        if index:
            histogram._grow(max(index) + 1)
            histogram._counts[list(index)] = list(counts)
        histogram.count = sum(counts)
        histogram.total, histogram.min, histogram.max = total, smallest, largest
        return histogram

    def _settle(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, []
            self._bucket(np.array(pending, dtype=np.int64))

    def _bucket(self, values: Int64s) -> None:
        index = bucket_index(values)
        counts = np.bincount(index)
        self._grow(len(counts))
        self._counts[: len(counts)] += counts

    def _grow(self, size: int) -> None:
        if size > len(self._counts):
            counts = np.zeros(size, dtype=np.int64)
            counts[: len(self._counts)] = self._counts
            self._counts = counts


def bucket_index(values: Int64s) -> Int64s:
    """Return the bucket of each value."""
    # the exponent of a float is the length of the integer, but for those that round up to the next power of two
    length = np.frexp(values.astype(np.float64))[1].astype(np.int64)
    length -= values < np.left_shift(np.int64(1), np.maximum(length - 1, 0))
    shift = np.maximum(length - (SUB_BITS + 1), 0)
    index: Int64s = (shift << SUB_BITS) + (values >> shift)
    return index


def bucket_bounds(index: int) -> tuple[int, int]:
    """Return the smallest value of a bucket and the smallest of the next."""
    if index < _LINEAR:
        return index, index + 1
    shift = (index >> SUB_BITS) - 1
    low = (index - (shift << SUB_BITS)) << shift
    return low, low + (1 << shift)
