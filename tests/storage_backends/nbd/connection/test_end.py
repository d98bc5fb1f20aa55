"""What both ends share: bytes in any pieces, an end of the stream, and what comes after a breach."""

import pytest

from storage_backends.nbd.connection.client import NbdClientConnection
from storage_backends.nbd.connection.server import NbdServerConnection
from storage_backends.nbd.state import Disconnected, State
from storage_backends.wire import RemoteProtocolError

ENDS = [NbdClientConnection, lambda: NbdServerConnection(1 << 20, 0)]
either_end = pytest.mark.parametrize("end", ENDS, ids=["client", "server"])


@either_end
def test_an_end_knows_what_it_wants_before_the_first_byte(end):
    """The greeting is 18 bytes and the client's flags are 4; each byte that comes is one less to want."""
    core = end()
    wanted = core.bytes_wanted
    assert wanted == (18 if isinstance(core, NbdClientConnection) else 4)
    core.receive(b"\0")
    assert core.bytes_wanted == wanted - 1


@either_end
def test_what_is_to_be_said_is_taken_once(end):
    """The outbox is empty once it was taken."""
    core = end()
    core.chunks_to_send()
    assert core.chunks_to_send() == []


@either_end
def test_a_stream_that_ends_between_messages_is_a_disconnection(end):
    """Its end is a fact, told with the state it came in, and said again as often as it is asked."""
    core = end()
    was = core.state.name
    assert core.receive_eof() == [Disconnected(f"the peer closed the connection in state {was}")]
    assert core.state is State.CLOSED
    assert isinstance(core.receive_eof()[0], Disconnected)


@either_end
def test_a_stream_that_ends_inside_a_message_is_a_breach(end):
    """It says how many bytes were short."""
    core = end()
    wanted = core.bytes_wanted
    core.receive(b"\0")
    with pytest.raises(RemoteProtocolError, match=f"{wanted - 1} bytes short"):
        core.receive_eof()


@either_end
def test_a_breach_ends_the_connection_and_the_rest_is_dropped(end):
    """After it the end is closed: what still comes means nothing and nothing more is wanted."""
    core = end()
    with pytest.raises(RemoteProtocolError):
        core.receive(b"\xff" * 18)
    assert core.state is State.CLOSED
    assert core.receive(b"\xff" * 1000) == []
    assert core.bytes_wanted == 0
