"""The figures of an honest answer, against what they mean."""

import math

import pytest

from netvm.explore.result import Failure, good_turing, knuth, most_that_fail


@pytest.mark.parametrize("nr_schedules", [1, 59, 3000])
def test_the_bound_is_where_luck_becomes_unlikely(nr_schedules: int) -> None:
    """If just that share failed, so many schedules without a failure would have a chance of 5 %."""
    assert (1.0 - most_that_fail(nr_schedules)) ** nr_schedules == pytest.approx(0.05)


def test_nothing_run_bounds_nothing() -> None:
    """Without a schedule every one may fail, and every one is unseen."""
    assert most_that_fail(0) == 1.0
    assert good_turing([]) == 1.0


def test_good_turing_counts_what_was_seen_once() -> None:
    """Two of ten runs showed something nobody saw again."""
    assert good_turing([1, 1, 5, 3]) == pytest.approx(0.2)


def test_knuth_is_the_mean_even_of_huge_trees() -> None:
    """Sizes are averaged as numbers, not as logarithms, and never overflow."""
    assert knuth([math.log(10.0), math.log(30.0)]) == pytest.approx(math.log10(20.0))
    assert knuth([2000.0]) == pytest.approx(2000.0 / math.log(10.0))


def test_a_failure_is_a_sentence() -> None:
    """It names the property and what is wrong."""
    failure = Failure(schedule=1, property="nothing hangs", what="HANG", tape=[])
    assert failure.statement() == "refuted: nothing hangs: HANG"
