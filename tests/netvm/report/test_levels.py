"""Levels over time."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from netvm.report.levels import INTERVALS, Levels


@given(st.lists(st.tuples(st.integers(0, 10**13), st.integers(0, 100)), min_size=1, max_size=40))
def test_the_last_and_the_lowest_value_of_each_interval(changes: list[tuple[int, int]]) -> None:
    """However long the recording, each interval keeps its last value and its lowest."""
    changes = sorted(changes, key=lambda change: change[0])
    levels = Levels(0)
    for time_ns, value in changes:
        levels.add("free", time_ns, value)
    cells: dict[int, list[int]] = {}
    for time_ns, value in changes:
        cells.setdefault(time_ns // levels.width_ns, []).append(value)
    assert max(cells) < INTERVALS
    for lowest, of in ((False, lambda values: values[-1]), (True, min)):
        right = [(index * levels.width_ns / 1e9, of(values)) for index, values in sorted(cells.items())]
        kept = [right[0], *(b for a, b in itertools.pairwise(right) if a[1] != b[1])]
        assert [value for _, value in levels.points("free", lowest=lowest)] == [value for _, value in kept]
    assert levels.names() == ["free"]
