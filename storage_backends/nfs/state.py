"""The states of one RPC call, as one table.

Both ends walk the same table: an event is a message, whoever sent it, or the end of the connection, and the state is
what has become of the call. A call that was sent and not answered may be sent again at any time, on the same
connection or on the next one (RFC 5531, section 4: the xid says that it is the same call); one whose connection ended
*must* be, since the reply cannot come any more. A message without an entry in the current state's row *is* the error:
:meth:`CallState.sent` blames this side and :meth:`CallState.received` the peer.

A reply to a call that nobody knows (any more) is no error: it answers a call that was sent twice, and is dropped.
"""

from enum import Enum, auto

from storage_backends.wire import LocalProtocolError, ProtocolError, RemoteProtocolError

__all__ = ["TRANSITIONS", "CallState", "Message", "State"]


class State(Enum):
    """What has become of a call."""

    READY = auto()
    """Encoded, to be sent on the present connection or on the next."""
    SENT = auto()
    ANSWERED = auto()


class Message(Enum):
    """What either side may say of a call, and what may happen to it."""

    CALL = auto()
    REPLY = auto()
    EOF = auto()
    """The connection ended."""


TRANSITIONS: dict[State, dict[Message, State]] = {
    State.READY: {Message.CALL: State.SENT, Message.EOF: State.READY},
    State.SENT: {Message.CALL: State.SENT, Message.REPLY: State.ANSWERED, Message.EOF: State.READY},
    State.ANSWERED: {Message.EOF: State.ANSWERED},
}


class CallState:
    """Where one call stands; only the table moves it."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = State.READY

    def sent(self, message: Message) -> None:
        """Step for a message of our own. Raises LocalProtocolError if it may not be sent now."""
        self._step(message, LocalProtocolError, "sent")

    def received(self, message: Message) -> None:
        """Step for a message of the peer. Raises RemoteProtocolError if it may not come now."""
        self._step(message, RemoteProtocolError, "received")

    def _step(self, message: Message, blame: type[ProtocolError], verb: str) -> None:
        try:
            self.current = TRANSITIONS[self.current][message]
        except KeyError:
            raise blame(f"{message.name} {verb} for a call in state {self.current.name}") from None
