"""Who chooses in one schedule of a search: priorities, change points, prefixes."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.explore.oracles import ForkingOracle, PctOracle, PosOracle, RandomWalk, SteeredOracle
from netvm.runtime.oracle import TapeMismatchError
from netvm.runtime.seeds import Seeds, Stream

NAMES = [(1, "memory"), (2, "memory"), (3, "lock")]


def stream(seed: int = 0) -> Stream:
    """Return a stream of chance."""
    return Seeds(seed).stream("test")


@given(st.lists(st.integers(2, 6), min_size=1, max_size=20))
def test_a_walk_samples_the_size_of_the_tree(options: list[int]) -> None:
    """In a tree whose branching depends on depth alone, one sample is exact: the product of the branchings."""
    walk = RandomWalk(stream())
    size = 1.0
    for nr_options in options:
        assert 0 <= walk.choose("task", nr_options) < nr_options
        size *= nr_options
    assert walk.log_size == pytest.approx(math.log(size))


@given(st.integers(0, 1000))
def test_pct_of_depth_one_never_changes_its_mind(seed: int) -> None:
    """Without a change point the highest of three runs as long as it can, then the second."""
    oracle = PctOracle(stream(seed), depth=1, nr_choices=100)
    first = oracle.choose_among("task", NAMES)
    assert all(oracle.choose_among("task", NAMES) == first for _ in range(20))
    rest = [name for i, name in enumerate(NAMES) if i != first]
    second = oracle.choose_among("task", rest)
    assert all(oracle.choose_among("task", rest) == second for _ in range(20))


@given(st.integers(0, 1000))
def test_pct_of_depth_two_changes_its_mind_once(seed: int) -> None:
    """Among the first k choices the one who runs changes exactly once; then the tail is fair."""
    oracle = PctOracle(stream(seed), depth=2, nr_choices=10)
    chosen = [oracle.choose_among("task", NAMES) for _ in range(10)]
    changes = sum(1 for one, next_one in pairwise(chosen) if one != next_one)
    assert changes <= 1
    assert {oracle.choose_among("task", NAMES) for _ in range(200)} == {0, 1, 2}


@given(st.integers(0, 1000))
def test_pos_draws_anew_only_for_those_that_race(seed: int) -> None:
    """While the two that wait for memory run, the one that waits for the lock keeps its priority."""
    oracle = PosOracle(stream(seed))
    before = None
    for _ in range(20):
        chosen = oracle.choose_among("task", NAMES)
        after = oracle._priority.get(3)
        if chosen == 2:
            assert after is None
        elif before is not None:
            assert after == before
        before = after


def test_a_prefix_is_played_and_then_nothing_deviates() -> None:
    """Option 0 behind the prefix; how many options there were is kept."""
    oracle = SteeredOracle([1, 2])
    assert [oracle.choose("task", 3) for _ in range(4)] == [1, 2, 0, 0]
    assert oracle.widths == [3, 3, 3, 3]


def test_a_prefix_that_does_not_fit_says_where() -> None:
    """The message names the position, the choice, and what was offered."""
    oracle = SteeredOracle([5])
    with pytest.raises(TapeMismatchError, match="choice 0 of the tape is 5, but this event has 2 options"):
        oracle.choose("event", 2)


def test_a_fork_keeps_one_of_each_kind_of_step() -> None:
    """Steps that change nothing are never chosen, of equal steps one is; mishaps are kept whole."""
    kept: list[list[int]] = []
    kinds = {1: None, 2: "same", 3: "same"}
    oracle = ForkingOracle([0], step_of=kinds.__getitem__, forked=lambda options: kept.append(list(options)))
    assert oracle.choose_among("task", NAMES) == 0, "the prefix is played whatever it does"
    assert oracle.choose_among("task", NAMES) == 1
    assert oracle.choose("packet", 4) == 0
    assert kept == [[], [1, 2, 3]]
