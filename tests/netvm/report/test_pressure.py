"""Pressure stall information, held against a bitmap of the time and the kernel's loop."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.report.pressure import averages, union_ns

_SECTIONS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)).map(sorted), max_size=12)


@given(_SECTIONS)
def test_a_union_covers_what_its_parts_do(sections: list[list[int]]) -> None:
    """Sections that overlap or touch become disjoint ones that cover the same instants."""
    array = np.array(sections, dtype=np.int64).reshape(-1, 2)
    covered = {t for begin, end in sections for t in range(begin, end)}
    union = union_ns(array).tolist()
    assert {t for begin, end in union for t in range(begin, end)} == covered
    assert all(a[1] < b[0] for a, b in itertools.pairwise(union))


@given(_SECTIONS)
def test_averages_follow_the_kernels_loop(sections: list[list[int]]) -> None:
    """Every two seconds the average decays and takes in the period's share, in fixed point of 11 bits."""
    second = 1_000_000_000
    array = np.array(sections, dtype=np.int64).reshape(-1, 2) * second
    got = averages(array, 0, 61 * second)
    covered = {t for begin, end in sections for t in range(begin, end)}
    assert got.total_us == len(covered) * 1_000_000
    average = 0
    for period in range(30):
        percent = len(covered & {2 * period, 2 * period + 1}) * 50 * 2048
        value = average * 1677 + percent * (2048 - 1677)
        average = (value + 2047 if percent >= average else value) // 2048
    assert got.avg10 == round(average / 2048, 2)


def test_constant_pressure_becomes_the_average() -> None:
    """A stall that lasts is 100 % after a while, and decays by 1/e in the window after it ends."""
    second = 1_000_000_000
    stall = np.array([[0, 600 * second]])
    assert averages(stall, 0, 600 * second).avg10 == pytest.approx(100, abs=0.1)
    assert averages(stall, 0, 610 * second).avg10 == pytest.approx(36.8, abs=0.3)
    assert averages(stall[:0], 0, 10 * second).avg10 == 0
