"""The states of a connection and every step between them: RFC 9293 section 3.3.2, figure 5, as a table.

:data:`TRANSITIONS` is the whole diagram. An event that has no row for a state cannot happen there: a ``KeyError`` is
our own bug, because the connection looks at a segment before it calls it an event. Only ``TcpConnection._step`` assigns
a state. A close in SYN-RECEIVED has no row: it waits for ESTABLISHED, as RFC 9293 section 3.10.4 lets it.

:data:`CAN_SEND`, :data:`CAN_RECEIVE` and :data:`RESETS_PEER` say what a state allows, in the terms of RFC 9293
sections 3.10.2, 3.10.7.4 and 3.10.5.
"""

from enum import Enum, auto, unique

__all__ = ["CAN_RECEIVE", "CAN_SEND", "RESETS_PEER", "TRANSITIONS", "TcpEvent", "TcpState", "next_state"]


@unique
class TcpState(Enum):
    """RFC 9293 section 3.3.2."""

    CLOSED = "CLOSED"
    LISTEN = "LISTEN"
    SYN_SENT = "SYN-SENT"
    SYN_RECEIVED = "SYN-RECEIVED"
    ESTABLISHED = "ESTABLISHED"
    FIN_WAIT_1 = "FIN-WAIT-1"
    FIN_WAIT_2 = "FIN-WAIT-2"
    CLOSE_WAIT = "CLOSE-WAIT"
    CLOSING = "CLOSING"
    LAST_ACK = "LAST-ACK"
    TIME_WAIT = "TIME-WAIT"


@unique
class TcpEvent(Enum):
    """What moves a connection: the user's calls, acceptable segments, and time."""

    ACTIVE_OPEN = auto()
    PASSIVE_OPEN = auto()
    CLOSE = auto()
    RCV_SYN = auto()
    RCV_SYN_ACK = auto()
    RCV_ACK_OF_SYN = auto()
    RCV_ACK_OF_FIN = auto()
    RCV_FIN = auto()
    TIME_WAIT_OVER = auto()
    ABORT = auto()
    """A reset from either side, or a timeout: the one event every living state knows."""


_S = TcpState
_E = TcpEvent

TRANSITIONS: dict[TcpState, dict[TcpEvent, TcpState]] = {
    _S.CLOSED: {_E.ACTIVE_OPEN: _S.SYN_SENT, _E.PASSIVE_OPEN: _S.LISTEN},
    _S.LISTEN: {_E.RCV_SYN: _S.SYN_RECEIVED, _E.CLOSE: _S.CLOSED, _E.ABORT: _S.CLOSED},
    _S.SYN_SENT: {
        _E.RCV_SYN_ACK: _S.ESTABLISHED,
        _E.RCV_SYN: _S.SYN_RECEIVED,
        _E.CLOSE: _S.CLOSED,
        _E.ABORT: _S.CLOSED,
    },
    _S.SYN_RECEIVED: {_E.RCV_ACK_OF_SYN: _S.ESTABLISHED, _E.ABORT: _S.CLOSED},
    _S.ESTABLISHED: {_E.CLOSE: _S.FIN_WAIT_1, _E.RCV_FIN: _S.CLOSE_WAIT, _E.ABORT: _S.CLOSED},
    _S.FIN_WAIT_1: {_E.RCV_ACK_OF_FIN: _S.FIN_WAIT_2, _E.RCV_FIN: _S.CLOSING, _E.ABORT: _S.CLOSED},
    _S.FIN_WAIT_2: {_E.RCV_FIN: _S.TIME_WAIT, _E.ABORT: _S.CLOSED},
    _S.CLOSE_WAIT: {_E.CLOSE: _S.LAST_ACK, _E.ABORT: _S.CLOSED},
    _S.CLOSING: {_E.RCV_ACK_OF_FIN: _S.TIME_WAIT, _E.ABORT: _S.CLOSED},
    _S.LAST_ACK: {_E.RCV_ACK_OF_FIN: _S.CLOSED, _E.ABORT: _S.CLOSED},
    _S.TIME_WAIT: {_E.TIME_WAIT_OVER: _S.CLOSED, _E.ABORT: _S.CLOSED},
}
"""State, event, next state."""

CAN_SEND = frozenset({_S.SYN_SENT, _S.SYN_RECEIVED, _S.ESTABLISHED, _S.CLOSE_WAIT})
"""The application may queue data; before ESTABLISHED it waits for the handshake."""

CAN_RECEIVE = frozenset({_S.ESTABLISHED, _S.FIN_WAIT_1, _S.FIN_WAIT_2})
"""The peer may still send data: its FIN has not come."""

RESETS_PEER = frozenset({_S.SYN_RECEIVED, _S.ESTABLISHED, _S.FIN_WAIT_1, _S.FIN_WAIT_2, _S.CLOSE_WAIT})
"""An abort here tells the peer."""


def next_state(state: TcpState, event: TcpEvent) -> TcpState:
    """Return the state after ``event``. A KeyError is our own bug: the event cannot happen in that state."""
    return TRANSITIONS[state][event]
