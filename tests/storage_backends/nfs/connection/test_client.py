"""The client's end of a connection."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.connection.client import NfsClientConnection, Reply
from storage_backends.nfs.connection.procedures import NULL, READ, WRITE
from storage_backends.nfs.messages.data import ReadArgs, WriteArgs
from storage_backends.nfs.rpc import AuthSys
from storage_backends.nfs.state import State
from storage_backends.wire import Blocks, Chunk, LocalProtocolError, RemoteProtocolError, render

SUCCESS = "00000001 00000000 00000000 00000000 00000000"
NULL_REPLY = bytes.fromhex(f"80000018 00000007 {SUCCESS}")
READ_REPLY = bytes.fromhex(f"8000102c 00000008 {SUCCESS} 00000000 00000000 00001000 00000000 00001000 ") + bytes(4096)


def client() -> NfsClientConnection:
    """Return the connection of a client called ``(none)``, as the recorded one."""
    return NfsClientConnection(AuthSys(machinename="(none)", gids=(0,)))


def test_calls_are_as_long_as_the_recorded_ones() -> None:
    """With a handle of 24 bytes: NULL is 40 bytes, a WRITE of 32 pages 131,192, a READ 112, and four for the mark."""
    connection = client()
    assert connection.call(1, NULL, None) == 40 + 4
    blocks = Blocks.of(tuple(range(32)))
    assert connection.call(2, WRITE, WriteArgs(fh=bytes(24), offset=0, stable=2, data=blocks)) == 131192 + 4
    assert connection.call(3, READ, ReadArgs(fh=bytes(24), offset=0, count=4096)) == 112 + 4
    assert connection.send(2)[1] is blocks


def test_a_reply_is_found_by_its_xid(recut: Callable[[list[Chunk], list[int]], list[Chunk]]) -> None:
    """Whole or byte by byte, in another order than the calls: each reply once, with what was read."""
    for cuts in ([10_000], [1]):
        connection = client()
        connection.call(7, NULL, None)
        connection.call(8, READ, ReadArgs(fh=b"f", offset=0, count=4096))
        connection.send(7)
        connection.send(8)
        replies = [r for chunk in recut([READ_REPLY + NULL_REPLY], cuts) for r in connection.receive(chunk)]
        assert [reply.xid for reply in replies] == [8, 7]
        assert replies[0].result.data.to_bytes() == bytes(4096)
        assert replies[1] == Reply(7, NULL, None, "")
        assert connection.xids == ()
        connection.receive_eof()


def test_a_reply_nobody_waits_for_is_dropped() -> None:
    """A call that was sent twice is answered twice; the second answer changes nothing."""
    connection = client()
    connection.call(7, NULL, None)
    connection.send(7)
    connection.send(7)
    assert len(connection.receive(NULL_REPLY + NULL_REPLY)) == 1
    assert connection.nr_stray_replies == 1


def test_a_new_connection_sends_everything_again() -> None:
    """What was sent and not answered is ready again, half a record is forgotten, and the bytes are the same."""
    connection = client()
    connection.call(7, NULL, None)
    first = render(connection.send(7))
    connection.receive(NULL_REPLY[:20])
    with pytest.raises(RemoteProtocolError, match="short of a record"):
        connection.receive_eof()
    connection.reconnect()
    assert connection.state_of(7) is State.READY
    assert render(connection.send(7)) == first
    assert len(connection.receive(NULL_REPLY)) == 1


@pytest.mark.parametrize(
    ("wire", "refusal"),
    [
        ("80000018 00000007 00000001 00000000 00000000 00000000 00000004", "GARBAGE_ARGS"),
        ("80000014 00000007 00000001 00000001 00000001 00000001", "AUTH_ERROR"),
    ],
)
def test_a_refusal_is_told(wire: str, refusal: str) -> None:
    """A call that was not executed has no result but a reason."""
    connection = client()
    connection.call(7, NULL, None)
    connection.send(7)
    assert connection.receive(bytes.fromhex(wire)) == [Reply(7, NULL, None, refusal)]


def test_our_own_mistakes_are_ours() -> None:
    """An xid that is out cannot be used again, one that is not cannot be sent or forgotten."""
    connection = client()
    connection.call(7, NULL, None)
    for mistake in (lambda: connection.call(7, NULL, None), lambda: connection.send(8), lambda: connection.forget(8)):
        with pytest.raises(LocalProtocolError):
            mistake()
    connection.forget(7)
    assert connection.xids == ()


@given(st.data())
def test_mutated_replies_are_refused_or_understood(data: st.DataObject) -> None:
    """Whatever a server sends: replies, or RemoteProtocolError, and nothing else."""
    wire = bytearray(NULL_REPLY + READ_REPLY[:60])
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    connection = client()
    for xid, procedure, args in ((7, NULL, None), (8, READ, ReadArgs(fh=b"f", offset=0, count=4096))):
        connection.call(xid, procedure, args)
        connection.send(xid)
    try:
        connection.receive(bytes(wire))
    except RemoteProtocolError:
        return
    assert len(connection.xids) <= 2


def test_a_datagram_has_no_record_mark() -> None:
    """A call is four bytes shorter, and a reply is a datagram; one that nobody waits for is dropped."""
    connection = client()
    connection.is_stream = False
    assert connection.call(7, NULL, None) == 40
    connection.send(7)
    assert connection.receive_datagram([NULL_REPLY[4:]]) == Reply(7, NULL, None, "")
    assert connection.receive_datagram([NULL_REPLY[4:]]) is None
    assert connection.nr_stray_replies == 1
    with pytest.raises(RemoteProtocolError):
        connection.receive_datagram([b"short"])
