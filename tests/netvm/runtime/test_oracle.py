"""Who chooses, alone: what each oracle answers. What a run makes of it is tried in test_world."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netvm.runtime.oracle import FifoOracle, RandomOracle, ReplayOracle, TapeMismatchError, oracle_named
from netvm.runtime.seeds import Seeds

OPTIONS = st.lists(st.integers(2, 9), max_size=30)


@given(OPTIONS)
def test_fifo_never_deviates(options: list[int]) -> None:
    """Option 0 is what a kernel would do."""
    oracle = FifoOracle()
    assert not any(oracle.choose("task", nr) for nr in options)
    assert not oracle.explores_events


@given(st.integers(0, 1000), OPTIONS)
def test_random_choices_come_from_the_seed(seed: int, options: list[int]) -> None:
    """The same seed chooses the same, always among what is offered."""
    first, second = RandomOracle(Seeds(seed)), RandomOracle(Seeds(seed))
    choices = [first.choose("task", nr) for nr in options]
    assert choices == [second.choose("event", nr) for nr in options]
    assert all(0 <= choice < nr for choice, nr in zip(choices, options, strict=True))


def test_random_choices_spare_no_option() -> None:
    """Every option comes about equally often."""
    oracle = RandomOracle(Seeds(1))
    counts = Counter(oracle.choose("task", 4) for _ in range(4000))
    assert all(900 < counts[option] < 1100 for option in range(4))


@given(st.integers(0, 1000), OPTIONS)
def test_a_tape_plays_what_was_recorded(seed: int, options: list[int]) -> None:
    """Choice for choice; after its end fifo."""
    recorder = RandomOracle(Seeds(seed))
    tape = [recorder.choose("task", nr) for nr in options]
    player = ReplayOracle(tape)
    assert [player.choose("task", nr) for nr in options] == tape
    assert [player.choose("task", 5) for _ in range(3)] == [0, 0, 0]
    assert player.position == len(tape)


@pytest.mark.parametrize("choice", [-1, 2])
def test_a_tape_that_does_not_fit_says_where(choice: int) -> None:
    """The message names the position, the choice, and what was offered."""
    player = ReplayOracle([1, choice])
    player.choose("task", 2)
    with pytest.raises(TapeMismatchError, match=f"choice 1 of the tape is {choice}, but this event has 2 options"):
        player.choose("event", 2)
    assert player.position == 1


def test_oracles_have_names() -> None:
    """A scenario names its oracle; a name that is none is a KeyError."""
    assert isinstance(oracle_named("fifo", Seeds(1)), FifoOracle)
    assert isinstance(oracle_named("random", Seeds(1)), RandomOracle)
    with pytest.raises(KeyError, match="luck"):
        oracle_named("luck", Seeds(1))
