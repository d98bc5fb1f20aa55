"""The graph of states: what is seen, what is pending, what leads nowhere."""

from hypothesis import given
from hypothesis import strategies as st

from netvm.explore.statespace import ENDED, StateSpace


def test_a_state_is_new_once() -> None:
    """The second arrival at a fingerprint has the same number and is not new; the first path is kept."""
    space = StateSpace()
    assert space.arrive("a", [1]) == (0, True)
    assert space.arrive("b", []) == (1, True)
    assert space.arrive("a", []) == (0, False)
    assert space.first_path == [(1,), ()]


def test_prefixes_are_tried_in_the_order_they_were_kept() -> None:
    """First the empty one, then the options beside 0; when none is left the search is exhausted."""
    space = StateSpace()
    assert space.next_prefix() == ()
    space.branch([0, 2], [1, 3])
    assert space.nr_pending == 2
    assert [space.next_prefix(), space.next_prefix()] == [(0, 2, 1), (0, 2, 3)]
    assert not space.nr_pending


def test_an_end_is_no_trap() -> None:
    """A state from which the run ends as it should leads somewhere."""
    space = StateSpace()
    space.arrive("a", [])
    space.arrive("b", [])
    space.step(0, 1, progress=False)
    space.step(1, ENDED, progress=False)
    assert space.stuck() == []


@given(st.integers(1, 7), st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), max_size=20))
def test_stuck_is_what_no_walk_leads_out_of(nr_states: int, steps: list[tuple[int, int, bool]]) -> None:
    """Against the dumbest model: follow every walk of as many steps as there are states."""
    space = StateSpace()
    for state in range(nr_states):
        space.arrive(state, [])
    steps = [(a % nr_states, b % nr_states, progress) for a, b, progress in steps]
    for source, target, progress in steps:
        space.step(source, target, progress=progress)

    def leads_out(state: int, left: int) -> bool:
        if not left:
            return False
        return any(a == state and (progress or leads_out(b, left - 1)) for a, b, progress in set(steps))

    expected = [state for state in range(nr_states) if not leads_out(state, nr_states)]
    assert space.stuck() == expected
    for state in expected:
        assert space.is_deadlock(state) == all(a != state or b == state for a, b, _ in steps)
