"""Latencies: every value of a run, and the quantiles people ask for.

A :class:`LatencyRecorder` keeps values in a growing numpy column of 8 bytes each, so quantiles are exact: a run makes
thousands of direct reclaims, not billions.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["LatencyRecorder", "LatencySummary", "TouchRecorder"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySummary:
    """Exact quantiles in nanoseconds (nearest rank); all zero when nothing was recorded."""

    count: int
    unfinished: int
    total_ns: int
    p50_ns: int
    p90_ns: int
    p99_ns: int
    max_ns: int


class LatencyRecorder:
    """Durations of one kind of wait."""

    __slots__ = ("_values", "count", "nr_open")

    def __init__(self) -> None:
        self._values: npt.NDArray[np.int64] = np.zeros(256, dtype=np.int64)
        self.count = 0
        self.nr_open = 0
        """Begun and not yet ended."""

    def begin(self) -> None:
        """Note that one began."""
        self.nr_open += 1

    def end(self, duration_ns: int) -> None:
        """Record one that ended."""
        assert duration_ns >= 0
        self.nr_open -= 1
        if self.count == len(self._values):
            self._values = np.concatenate([self._values, np.zeros_like(self._values)])
        self._values[self.count] = duration_ns
        self.count += 1

    def values_ns(self) -> npt.NDArray[np.int64]:
        """Return what was recorded, in order of ending; shape ``(count,)``, nanoseconds."""
        return self._values[: self.count].copy()

    def summary(self) -> LatencySummary:
        """Return the quantiles."""
        ordered = np.sort(self._values[: self.count])

        def rank(q: float) -> int:
            return int(ordered[max(0, math.ceil(q * self.count) - 1)]) if self.count else 0

        return LatencySummary(
            count=self.count,
            unfinished=self.nr_open,
            total_ns=int(ordered.sum()),
            p50_ns=rank(0.50),
            p90_ns=rank(0.90),
            p99_ns=rank(0.99),
            max_ns=rank(1.0),
        )


class TouchRecorder:
    """A program's own report on its touches: how many, how long, the slowest, and a histogram by powers of two."""

    __slots__ = ("histogram", "max_ns", "nr_touches", "total_ns")

    def __init__(self) -> None:
        self.nr_touches = 0
        self.total_ns = 0
        self.max_ns = 0
        self.histogram: dict[int, int] = {}
        """Touches by the exponent of the power of two at or below their time; those of no time at all are in 0."""

    def add(self, nr_touches: int, total_ns: int) -> None:
        """Record touches that took ``total_ns`` together, evenly."""
        if not nr_touches:
            return
        self.nr_touches += nr_touches
        self.total_ns += total_ns
        each_ns = total_ns // nr_touches
        if each_ns > self.max_ns:
            self.max_ns = each_ns
        bucket = max(each_ns.bit_length() - 1, 0)
        self.histogram[bucket] = self.histogram.get(bucket, 0) + nr_touches
