"""The tables and the numbers of an iSCSI connection."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.iscsi.state import (
    LOGIN_TRANSITIONS,
    TRANSITIONS,
    CommandWindow,
    ConnectionState,
    Event,
    LoginStage,
    State,
    TaskTags,
    serial_add,
    serial_le,
    serial_lt,
)
from storage_backends.wire import LocalProtocolError, RemoteProtocolError

U32 = st.integers(0, 2**32 - 1)


def test_every_state_has_a_row_and_is_reached() -> None:
    """No state is forgotten in the table, and none is unreachable."""
    reached = {State.FREE}
    frontier = [State.FREE]
    while frontier:
        new = set(TRANSITIONS[frontier.pop()].values()) - reached
        reached |= new
        frontier.extend(new)
    assert reached == set(State) == set(TRANSITIONS)


def test_a_connection_may_fail_in_every_state() -> None:
    """Failure leaves tasks to clean up only once there could be any."""
    outcomes = {state: row[Event.FAILED] for state, row in TRANSITIONS.items()}
    assert {state for state, after in outcomes.items() if after is State.FREE} == {State.FREE, State.IN_LOGIN}
    assert set(outcomes.values()) == {State.FREE, State.CLEANUP_WAIT}


def test_blame_follows_the_sender() -> None:
    """The same missing entry is our fault or the peer's; the state stays."""
    state = ConnectionState()
    with pytest.raises(LocalProtocolError, match="LOGOUT sent in state FREE"):
        state.sent(Event.LOGOUT)
    with pytest.raises(RemoteProtocolError, match="LOGOUT received in state FREE"):
        state.received(Event.LOGOUT)
    assert state.current is State.FREE
    assert not state.full_feature


def test_login_stages_only_lead_forward() -> None:
    """No stage leads back, and the full feature phase leads nowhere (6.3)."""
    assert set(LOGIN_TRANSITIONS) == set(LoginStage)
    assert all(following > stage for stage, after in LOGIN_TRANSITIONS.items() for following in after)


@given(U32, st.integers(1, 2**31 - 1))
def test_serial_numbers_compare_over_the_wrap(number: int, increment: int) -> None:
    """A number is before any that is less than half the circle ahead, also where 32 bits run over."""
    later = serial_add(number, increment)
    assert serial_lt(number, later)
    assert serial_le(number, later)
    assert not serial_lt(later, number)
    assert not serial_le(later, number)
    assert serial_le(number, number)
    assert not serial_lt(number, number)


@pytest.mark.parametrize("first", [1, 0xFFFFFFFE])
def test_the_window_opens_and_shuts(first: int) -> None:
    """Commands may be sent up to MaxCmdSN and no further, also over the wrap."""
    window = CommandWindow(first)
    assert not window.is_open
    window.update(first, serial_add(first, 2))
    assert [window.take() for _ in range(3)] == [serial_add(first, n) for n in range(3)]
    assert not window.is_open
    window.update(serial_add(first, 1), serial_add(first, 3))
    assert window.is_open


def test_the_window_never_moves_back() -> None:
    """Numbers older than those known, or that contradict each other, are ignored (4.2.2.1)."""
    window = CommandWindow(1)
    window.update(5, 20)
    window.update(4, 10)
    window.update(30, 28)
    assert (window.exp_cmdsn, window.max_cmdsn) == (5, 20)


def test_tags_come_back_in_order() -> None:
    """The tag that was free longest is used next, so a late PDU of its last task is unlikely to meet a new one."""
    tags = TaskTags(3)
    assert [tags.get(keep=0), tags.get(keep=0)] == [0, 1]
    tags.put(1)
    tags.put(0)
    assert [tags.get(keep=0) for _ in range(3)] == [2, 1, 0]


def test_tags_are_kept_for_those_who_need_them() -> None:
    """A taker that must leave some is refused when only those are left."""
    tags = TaskTags(3)
    tags.get(keep=2)
    assert tags.nr_free == 2
    with pytest.raises(LocalProtocolError, match="only 2 task tags are free"):
        tags.get(keep=2)
    tags.get(keep=0)


def test_a_tag_can_be_asked_for() -> None:
    """A free tag is given to who names it, one in use is not."""
    tags = TaskTags(3)
    assert tags.get(keep=0, itt=2) == 2
    with pytest.raises(LocalProtocolError, match="task tag 2 is in use"):
        tags.get(keep=0, itt=2)
