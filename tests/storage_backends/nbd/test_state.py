"""The table of an NBD connection."""

import pytest

from storage_backends.nbd.state import TRANSITIONS, ConnectionState, Message, State
from storage_backends.wire import LocalProtocolError, RemoteProtocolError


def test_every_state_has_a_row_and_is_reached() -> None:
    """No state is forgotten in the table, and none is unreachable from the greeting."""
    reached = {State.AWAIT_GREETING}
    frontier = [State.AWAIT_GREETING]
    while frontier:
        for state in TRANSITIONS[frontier.pop()].values():
            if state not in reached:
                reached.add(state)
                frontier.append(state)
    assert reached == set(State) == set(TRANSITIONS)


def test_the_transport_may_close_in_every_state() -> None:
    """The end of the stream is never a breach of the table."""
    assert all(row[Message.EOF] is State.CLOSED for row in TRANSITIONS.values())


def test_blame_follows_the_sender() -> None:
    """The same missing entry is our fault when we send and the peer's when it does; the state stays."""
    state = ConnectionState()
    with pytest.raises(LocalProtocolError, match="OPT_GO sent in state AWAIT_GREETING"):
        state.sent(Message.OPT_GO)
    with pytest.raises(RemoteProtocolError, match="OPT_GO received in state AWAIT_GREETING"):
        state.received(Message.OPT_GO)
    assert state.current is State.AWAIT_GREETING
