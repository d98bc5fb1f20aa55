"""The table of a call's states."""

import pytest

from storage_backends.nfs.state import TRANSITIONS, CallState, Message, State
from storage_backends.wire import LocalProtocolError, RemoteProtocolError


def test_the_table_is_complete() -> None:
    """Every state has a row, and the end of the connection is possible in each."""
    assert set(TRANSITIONS) == set(State)
    assert all(Message.EOF in row for row in TRANSITIONS.values())


def test_a_call_is_sent_again_until_it_is_answered() -> None:
    """A sent call may be sent again; when the connection ends it must be."""
    call = CallState()
    for _ in range(2):
        call.sent(Message.CALL)
        assert call.current is State.SENT
    call.received(Message.EOF)
    assert call.current is State.READY
    call.sent(Message.CALL)
    call.received(Message.REPLY)
    assert call.current is State.ANSWERED


def test_who_breaks_the_table_is_blamed() -> None:
    """An answer to what was not asked is the peer's fault, a call after the answer is ours."""
    call = CallState()
    with pytest.raises(RemoteProtocolError):
        call.received(Message.REPLY)
    call.sent(Message.CALL)
    call.received(Message.REPLY)
    with pytest.raises(LocalProtocolError):
        call.sent(Message.CALL)
