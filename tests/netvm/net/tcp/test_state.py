"""The diagram of RFC 9293, figure 5."""

import pytest

from netvm.net.tcp.state import CAN_RECEIVE, CAN_SEND, RESETS_PEER, TRANSITIONS, TcpEvent, TcpState, next_state


def test_every_state_has_a_row_and_can_be_reached() -> None:
    """The table is complete: no state without a row, none that nothing leads to."""
    assert set(TRANSITIONS) == set(TcpState)
    reached = {TcpState.CLOSED}
    while True:
        more = {after for state in reached for after in TRANSITIONS[state].values()} | reached
        if more == reached:
            break
        reached = more
    assert reached == set(TcpState)


def test_every_living_state_can_be_aborted() -> None:
    """A reset or a timeout ends any connection, and only ABORT is known everywhere."""
    for state in TcpState:
        if state is not TcpState.CLOSED:
            assert next_state(state, TcpEvent.ABORT) is TcpState.CLOSED


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ("ACTIVE_OPEN RCV_SYN_ACK CLOSE RCV_ACK_OF_FIN RCV_FIN TIME_WAIT_OVER", "CLOSED"),
        ("PASSIVE_OPEN RCV_SYN RCV_ACK_OF_SYN RCV_FIN CLOSE RCV_ACK_OF_FIN", "CLOSED"),
        ("ACTIVE_OPEN RCV_SYN RCV_ACK_OF_SYN CLOSE RCV_FIN RCV_ACK_OF_FIN", "TIME_WAIT"),
    ],
)
def test_the_lives_of_a_connection(events: str, end: str) -> None:
    """Normal open and close, passive open and close, simultaneous open and close."""
    state = TcpState.CLOSED
    for name in events.split():
        state = next_state(state, TcpEvent[name])
    assert state is TcpState[end]


def test_what_cannot_happen_is_our_own_bug() -> None:
    """An event without a row is a KeyError, not a silent step."""
    with pytest.raises(KeyError):
        next_state(TcpState.TIME_WAIT, TcpEvent.CLOSE)


def test_rights_of_states() -> None:
    """After our FIN nothing may be queued; after the peer's, nothing arrives; both before a reset is owed."""
    assert TcpState.FIN_WAIT_1 not in CAN_SEND
    assert TcpState.CLOSE_WAIT in CAN_SEND
    assert TcpState.CLOSE_WAIT not in CAN_RECEIVE
    assert TcpState.LAST_ACK not in RESETS_PEER
