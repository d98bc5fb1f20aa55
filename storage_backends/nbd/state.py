"""The states of one NBD connection, as one table.

Both ends walk the same table: an event is a message, whoever sent it, and the state is what the two have agreed so far
(proto.md, "Negotiation" and "Transmission"). A message without an entry in the current state's row *is* the protocol
error; who is to blame depends only on who sent it, so :meth:`ConnectionState.sent` blames this side and
:meth:`ConnectionState.received` the peer.

Requests and replies do not appear: inside transmission they follow each other freely, and what connects a reply with
its request is the cookie, not the state.
"""

from enum import Enum, auto
from typing import NamedTuple

from storage_backends.wire import ChunkBuffer, LocalProtocolError, ProtocolError, RemoteProtocolError

__all__ = ["TRANSITIONS", "ConnectionState", "Disconnected", "Message", "Negotiated", "State"]


class State(Enum):
    """Who has to say what next."""

    AWAIT_GREETING = auto()
    """TCP is connected; the server speaks first."""
    AWAIT_CLIENT_FLAGS = auto()
    OPTION_HAGGLING = auto()
    """The client chooses an option."""
    AWAIT_GO_REPLY = auto()
    AWAIT_EXPORT_REPLY = auto()
    AWAIT_ABORT_REPLY = auto()
    AWAIT_OPTION_REPLY = auto()
    """Any other option was sent."""
    TRANSMISSION = auto()
    CLOSED = auto()
    """Nothing more will be sent or received."""


class Message(Enum):
    """What either side may say; several replies count as one kind where they change the state alike."""

    GREETING = auto()
    CLIENT_FLAGS = auto()
    OPT_GO = auto()
    OPT_EXPORT_NAME = auto()
    OPT_ABORT = auto()
    OPT_OTHER = auto()
    REP_INFO = auto()
    REP_ACK = auto()
    REP_ERR = auto()
    EXPORT_REPLY = auto()
    CMD_DISC = auto()
    EOF = auto()
    """The transport was closed."""


TRANSITIONS: dict[State, dict[Message, State]] = {
    State.AWAIT_GREETING: {Message.GREETING: State.AWAIT_CLIENT_FLAGS, Message.EOF: State.CLOSED},
    State.AWAIT_CLIENT_FLAGS: {Message.CLIENT_FLAGS: State.OPTION_HAGGLING, Message.EOF: State.CLOSED},
    State.OPTION_HAGGLING: {
        Message.OPT_GO: State.AWAIT_GO_REPLY,
        Message.OPT_EXPORT_NAME: State.AWAIT_EXPORT_REPLY,
        Message.OPT_ABORT: State.AWAIT_ABORT_REPLY,
        Message.OPT_OTHER: State.AWAIT_OPTION_REPLY,
        Message.EOF: State.CLOSED,
    },
    State.AWAIT_GO_REPLY: {
        Message.REP_INFO: State.AWAIT_GO_REPLY,
        Message.REP_ACK: State.TRANSMISSION,
        Message.REP_ERR: State.OPTION_HAGGLING,
        Message.EOF: State.CLOSED,
    },
    State.AWAIT_EXPORT_REPLY: {Message.EXPORT_REPLY: State.TRANSMISSION, Message.EOF: State.CLOSED},
    State.AWAIT_ABORT_REPLY: {
        Message.REP_ACK: State.CLOSED,
        Message.REP_ERR: State.CLOSED,
        Message.EOF: State.CLOSED,
    },
    State.AWAIT_OPTION_REPLY: {
        Message.REP_INFO: State.AWAIT_OPTION_REPLY,
        Message.REP_ACK: State.OPTION_HAGGLING,
        Message.REP_ERR: State.OPTION_HAGGLING,
        Message.EOF: State.CLOSED,
    },
    State.TRANSMISSION: {Message.CMD_DISC: State.CLOSED, Message.EOF: State.CLOSED},
    State.CLOSED: {Message.EOF: State.CLOSED},
}


class Negotiated(NamedTuple):
    """The handshake is over and requests may flow."""

    size_bytes: int
    flags: int
    """See :class:`~storage_backends.nbd.messages.TransmissionFlag`."""


class Disconnected(NamedTuple):
    """The peer is gone; what is left to do is to close the socket."""

    reason: str


class ConnectionState:
    """Where one connection stands; only the table moves it."""

    __slots__ = ("current",)

    def __init__(self) -> None:
        self.current = State.AWAIT_GREETING

    def sent(self, message: Message) -> None:
        """Step for a message of our own. Raises LocalProtocolError if it may not be sent now."""
        self._step(message, LocalProtocolError, "sent")

    def received(self, message: Message) -> None:
        """Step for a message of the peer. Raises RemoteProtocolError if it may not come now."""
        self._step(message, RemoteProtocolError, "received")

    def received_eof(self, buffer: ChunkBuffer, *, inside: bool) -> Disconnected:
        """Step for the end of the stream. Raises RemoteProtocolError if it cuts a message in two.

        ``inside`` says that a header was consumed whose data is still missing.
        """
        was = self.current
        self.received(Message.EOF)
        if was is not State.CLOSED and (inside or buffer.size_bytes):
            raise RemoteProtocolError(f"the peer closed the connection {buffer.bytes_missing} bytes short of a message")
        return Disconnected(f"the peer closed the connection in state {was.name}")

    def _step(self, message: Message, blame: type[ProtocolError], verb: str) -> None:
        try:
            self.current = TRANSITIONS[self.current][message]
        except KeyError:
            raise blame(f"{message.name} {verb} in state {self.current.name}") from None
