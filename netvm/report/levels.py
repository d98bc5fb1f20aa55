"""Levels over time: counters that hold their value until they change, in a bounded number of intervals.

As :class:`netvm.report.series.Series`, but of values, not sums: an interval keeps the last value in it and the lowest,
since what matters of free memory is how low it got. When the recording outgrows the intervals they are joined in pairs.
"""

from typing import Final

__all__ = ["INTERVALS", "Levels"]

INTERVALS: Final = 1024
_FIRST_WIDTH_NS: Final = 1_000_000


class Levels:
    """Named counters."""

    def __init__(self, begin_ns: int) -> None:
        self.begin_ns = begin_ns
        self.width_ns = _FIRST_WIDTH_NS
        self._cells: dict[str, dict[int, tuple[int, int]]] = {}

    def add(self, name: str, time_ns: int, value: int) -> None:
        """Note that a counter has a new value."""
        while (time_ns - self.begin_ns) // self.width_ns >= INTERVALS:
            self._double()
        cells = self._cells.setdefault(name, {})
        index = max(0, time_ns - self.begin_ns) // self.width_ns
        known = cells.get(index)
        cells[index] = (value, value if known is None else min(value, known[1]))

    def names(self) -> list[str]:
        """Return the counters that were seen."""
        return list(self._cells)

    def points(self, name: str, *, lowest: bool = False) -> list[tuple[float, int]]:
        """Return ``(seconds, value)`` where the value changes: the last of each interval, or the lowest in it."""
        found: list[tuple[float, int]] = []
        before: int | None = None
        for index, (last, low) in sorted(self._cells.get(name, {}).items()):
            time_s = round((self.begin_ns + index * self.width_ns) / 1e9, 6)
            value = low if lowest else last
            if value != before:
                found.append((time_s, value))
            before = value
        return found

    def _double(self) -> None:
        self.width_ns *= 2
        for name, cells in self._cells.items():
            joined: dict[int, tuple[int, int]] = {}
            for index, (last, low) in sorted(cells.items()):
                known = joined.get(index // 2)
                joined[index // 2] = (last, low if known is None else min(low, known[1]))
            self._cells[name] = joined
