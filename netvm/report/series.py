"""Figures over time: sums in buckets of equal width, as many as fit a page, however long the recording is.

A :class:`Series` does not know the span in advance. It starts with buckets of a millisecond; when the last of them is
full it adds them up in pairs and goes on with buckets twice as wide. So a figure is a sum of exact sums, and the memory
is bounded.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

__all__ = ["BUCKETS", "Series"]

BUCKETS: Final = 512
_FIRST_WIDTH_NS: Final = 1_000_000


class Series:
    """Named sums over time, and matrices of counts over time by class."""

    def __init__(self) -> None:
        self.begin_ns = 0
        self.width_ns = _FIRST_WIDTH_NS
        self._begun = False
        self._end_ns = 0
        self.columns: dict[str, npt.NDArray[np.int64]] = {}

    def start(self, begin_ns: int) -> None:
        """Set the time of the first bucket."""
        if not self._begun:
            self._begun = True
            self.begin_ns = self._end_ns = begin_ns

    def add(self, name: str, times_ns: npt.NDArray[np.int64], values: npt.NDArray[np.int64] | int = 1) -> None:
        """Add values at some times to a column; what is before the beginning goes into the first bucket."""
        if not len(times_ns):
            return
        self.start(int(times_ns.min()))
        self._reach(int(times_ns.max()))
        index = np.maximum(times_ns - self.begin_ns, 0) // self.width_ns
        np.add.at(self._column(name), index, values)

    def add_one(self, name: str, time_ns: int, value: int = 1) -> None:
        """Add one value to a column."""
        self._reach(time_ns)
        self._column(name)[max(0, time_ns - self.begin_ns) // self.width_ns] += value

    def spread(self, name: str, begin_ns: int, end_ns: int) -> None:
        """Add the nanoseconds of a span to the buckets it lies in."""
        self.start(begin_ns)
        self._reach(end_ns)
        column = self._column(name)
        first = max(0, begin_ns - self.begin_ns)
        last = max(first, end_ns - self.begin_ns)
        i, j = first // self.width_ns, last // self.width_ns
        if i == j:
            column[i] += last - first
            return
        column[i] += (i + 1) * self.width_ns - first
        column[i + 1 : j] += self.width_ns
        column[j] += last - j * self.width_ns

    def used(self) -> int:
        """Return how many buckets the span has reached."""
        return min(BUCKETS, (self._end_ns - self.begin_ns) // self.width_ns + 1) if self._begun else 0

    def _column(self, name: str) -> npt.NDArray[np.int64]:
        column = self.columns.get(name)
        if column is None:
            column = self.columns[name] = np.zeros(BUCKETS, dtype=np.int64)
        return column

    def _reach(self, time_ns: int) -> None:
        self.start(time_ns)
        self._end_ns = max(self._end_ns, time_ns)
        while time_ns - self.begin_ns >= BUCKETS * self.width_ns:
            self.width_ns *= 2
            for column in self.columns.values():
                column[: BUCKETS // 2] = column[0::2] + column[1::2]
                column[BUCKETS // 2 :] = 0
