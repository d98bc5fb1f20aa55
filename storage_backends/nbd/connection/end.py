"""What both ends of an NBD connection are: a state, an inlet, an outbox, and the loop that turns bytes into facts.

An end consumes one message at a time (:meth:`NbdEnd._advance`, which the ends write) until more bytes are needed. The
loop runs once before the first byte, so that ``bytes_wanted`` is right from the beginning.
"""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from storage_backends.nbd.state import ConnectionState, Disconnected, Message, State
from storage_backends.wire import Chunk, ChunkBuffer, RemoteProtocolError

__all__ = ["NbdEnd"]

EventT = TypeVar("EventT")


class NbdEnd(ABC, Generic[EventT]):
    """One end of a connection; ``EventT`` is what its peer can make happen."""

    __slots__ = ("_buffer", "_in_flight", "_no_zeroes", "_state", "_to_send")

    def __init__(self) -> None:
        self._buffer = ChunkBuffer()
        self._state = ConnectionState()
        self._to_send: list[Chunk] = []
        self._no_zeroes = False
        # invariant: cookie -> length of the data its reply brings, for each request that is not answered
        self._in_flight: dict[int, int] = {}

    @property
    def state(self) -> State:
        """Where the connection stands."""
        return self._state.current

    @property
    def bytes_wanted(self) -> int:
        """How many more bytes complete the next header or payload; 0 when nothing more is read."""
        return self._buffer.bytes_missing

    def chunks_to_send(self) -> list[Chunk]:
        """Take what this end has to say of itself: its part of the handshake, and refusals."""
        to_send, self._to_send = self._to_send, []
        return to_send

    def receive(self, chunk: Chunk) -> "list[EventT | Disconnected]":
        """Take a chunk from the peer. Raises RemoteProtocolError if it breaks the protocol; it is over then."""
        self._buffer.push(chunk)
        events: list[EventT | Disconnected] = []
        try:
            while self._advance(events):
                pass
        except RemoteProtocolError:
            self._state.received(Message.EOF)
            raise
        return events

    def receive_eof(self) -> "list[EventT | Disconnected]":
        """Take the end of the stream. Raises RemoteProtocolError if it cuts a message in two."""
        return [self._state.received_eof(self._buffer, inside=self._is_inside())]

    @abstractmethod
    def _is_inside(self) -> bool:
        """Return whether a header was consumed whose data is still missing."""

    @abstractmethod
    def _advance(self, events: "list[EventT | Disconnected]") -> bool:
        """Consume one message; return False when more bytes are needed."""

    def _close(self) -> bool:
        """Drop what came after the end; nothing more is read."""
        assert self._state.current is State.CLOSED
        self._buffer = ChunkBuffer()
        return False
