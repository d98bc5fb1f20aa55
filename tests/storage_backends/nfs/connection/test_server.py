"""The server's end of a connection."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.connection.client import NfsClientConnection
from storage_backends.nfs.connection.procedures import COMMIT, COMPOUND, NULL, NULL4, WRITE, compound
from storage_backends.nfs.connection.server import CACHESIZE, NfsServerConnection
from storage_backends.nfs.messages.compound import CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import CommitArgs, CommitRes, WriteArgs, WriteRes
from storage_backends.nfs.messages.nfs4 import Nfs4Op, StatusRes, VoidArgs
from storage_backends.nfs.rpc import AuthSys
from storage_backends.wire import Blocks, Chunk, LocalProtocolError, RemoteProtocolError, render

BLOCKS = Blocks.of((3, 4))
ARGS = WriteArgs(fh=b"file", offset=8192, stable=0, data=BLOCKS)
HEAD = "00000007 00000000"
REFUSED = {
    "rpc version": (f"{HEAD} 00000003 000186a3 00000003 00000000", "00000001 00000000 00000002 00000002"),
    "program": (f"{HEAD} 00000002 000186a4 00000003 00000000", "00000000 00000000 00000000 00000001"),
    "version too high": (
        f"{HEAD} 00000002 000186a3 00000005 00000000",
        "00000000 00000000 00000000 00000002 00000003 00000004",
    ),
    "version too low": (
        f"{HEAD} 00000002 000186a3 00000002 00000000",
        "00000000 00000000 00000000 00000002 00000003 00000004",
    ),
    "version of MOUNT": (
        f"{HEAD} 00000002 000186a5 00000004 00000000",
        "00000000 00000000 00000000 00000002 00000003 00000003",
    ),
    "procedure": (f"{HEAD} 00000002 000186a3 00000003 00000063", "00000000 00000000 00000000 00000003"),
    "procedure of version 3": (f"{HEAD} 00000002 000186a3 00000004 00000007", "00000000 00000000 00000000 00000003"),
    "arguments": (f"{HEAD} 00000002 000186a3 00000003 00000001", "00000000 00000000 00000000 00000004"),
    "compound": (f"{HEAD} 00000002 000186a3 00000004 00000001", "00000000 00000000 00000000 00000004"),
}


def stream_of_calls() -> list[Chunk]:
    """Return a WRITE and a NULL as a client sends them."""
    client = NfsClientConnection(AuthSys(uid=501))
    client.call(7, WRITE, ARGS)
    client.call(8, NULL, None)
    return client.send(7) + client.send(8)


def null_call() -> bytes:
    """Return a NULL call with xid 9."""
    client = NfsClientConnection(AuthSys())
    client.call(9, NULL, None)
    return render(client.send(9))


def test_calls_arrive_however_they_are_cut(recut: Callable[[list[Chunk], list[int]], list[Chunk]]) -> None:
    """Whole or byte by byte: the same requests, the data put together again, and who asks."""
    for cuts in ([100_000], [1], [3, 500]):
        server = NfsServerConnection()
        requests = [r for chunk in recut(stream_of_calls(), cuts) for r in server.receive(chunk)]
        assert [(r.xid, r.procedure, r.args, r.uid) for r in requests] == [(7, WRITE, ARGS, 501), (8, NULL, None, 0)]
        server.receive_eof()


def test_replies_find_their_calls() -> None:
    """What the server answers, in any order, is what the client gets."""
    client, server = NfsClientConnection(AuthSys()), NfsServerConnection()
    client.call(7, WRITE, ARGS)
    client.call(8, COMMIT, CommitArgs(fh=b"file"))
    for chunk in client.send(7) + client.send(8):
        server.receive(chunk)
    wrote = WriteRes(count=8192, verifier=b"verifier")
    answer = server.reply(8, CommitRes(verifier=b"verifier")) + server.reply(7, wrote)
    replies = [reply for chunk in answer for reply in client.receive(chunk)]
    assert [(reply.xid, reply.result) for reply in replies] == [(8, CommitRes(verifier=b"verifier")), (7, wrote)]
    with pytest.raises(LocalProtocolError):
        server.reply(7, wrote)


def test_both_versions_are_served_on_one_connection() -> None:
    """A COMPOUND and a NULL of version 4 are requests beside one of version 3, and are answered as they are called."""
    client, server = NfsClientConnection(AuthSys(uid=501)), NfsServerConnection()
    put = CompoundArgs(operations=((Nfs4Op.PUTROOTFH, VoidArgs()),))
    for xid, procedure, args in ((7, compound("LOOK"), put), (8, NULL4, None), (9, NULL, None)):
        client.call(xid, procedure, args)
    requests = [r for xid in client.xids for chunk in client.send(xid) for r in server.receive(chunk)]
    assert [(r.xid, r.procedure, r.args) for r in requests] == [(7, COMPOUND, put), (8, NULL4, None), (9, NULL, None)]
    done = CompoundRes(results=((Nfs4Op.PUTROOTFH, StatusRes()),))
    answer = server.reply(9, None) + server.reply(8, None) + server.reply(7, done)
    replies = [reply for chunk in answer for reply in client.receive(chunk)]
    assert [(r.xid, r.procedure.name, r.result) for r in replies] == [
        (9, "NULL", None),
        (8, "NULL", None),
        (7, "LOOK", done),
    ]


def test_a_call_that_comes_again_is_served_once() -> None:
    """While a call is being served its repetition is dropped; afterwards it is a call like any other."""
    server = NfsServerConnection()
    wire = null_call()
    assert len(server.receive(wire)) == 1
    assert server.receive(wire) == []
    assert server.nr_repeated_calls == 1
    server.reply(9, None)
    assert len(server.receive(wire)) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_executed_is_answered_so(name: str) -> None:
    """Each reason of section 9 has its answer, and the connection goes on."""
    call, answer = REFUSED[name]
    server = NfsServerConnection()
    body = bytes.fromhex(call) + bytes(16)
    assert server.receive((0x80000000 | len(body)).to_bytes(4, "big") + body) == []
    told = render(server.chunks_to_send())
    assert told[4:] == bytes.fromhex("00000007 00000001") + bytes.fromhex(answer)
    assert len(server.receive(null_call())) == 1


def test_a_credential_that_is_none_is_refused() -> None:
    """A flavour nobody here knows, and one whose body does not decode, are AUTH_ERROR."""
    for flavor in ("00000006", "00000001"):
        server = NfsServerConnection()
        call = f"{HEAD} 00000002 000186a3 00000003 00000000 {flavor} 00000004 00000000 00000000 00000000"
        body = bytes.fromhex(call)
        assert server.receive((0x80000000 | len(body)).to_bytes(4, "big") + body) == []
        assert render(server.chunks_to_send())[-12:] == bytes.fromhex("00000001 00000001 00000001")


@given(st.data())
def test_mutated_calls_are_refused_or_served(data: st.DataObject) -> None:
    """Whatever a client sends: requests, refusals, or RemoteProtocolError, and nothing else."""
    wire = bytearray(render(stream_of_calls())[:200])
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    server = NfsServerConnection()
    try:
        requests = server.receive(bytes(wire))
    except RemoteProtocolError:
        return
    assert len(requests) <= 2
    server.chunks_to_send()


def test_a_change_that_was_made_is_not_made_again() -> None:
    """Over UDP a WRITE that comes late once more is answered from the cache; a NULL is executed again."""
    client, server = NfsClientConnection(AuthSys()), NfsServerConnection()
    client.is_stream = server.is_stream = False
    client.call(7, WRITE, ARGS)
    client.call(8, NULL, None)
    for xid, procedure, result in ((7, WRITE, WriteRes(count=8192)), (8, NULL, None)):
        request = server.receive_datagram(list(client.send(xid)))
        assert request is not None
        assert request.procedure is procedure
        assert server.receive_datagram(list(client.send(xid))) is None
        assert server.chunks_to_send() == []
        reply = server.reply(xid, result)
        again = server.receive_datagram(list(client.send(xid)))
        if procedure is WRITE:
            assert again is None
            assert server.chunks_to_send() == reply
        else:
            assert again is not None
            server.reply(xid, result)
        answer = client.receive_datagram(list(reply))
        assert answer is not None
        assert answer.result == result
    assert server.nr_repeated_calls == 3


def test_the_cache_of_replies_is_bounded() -> None:
    """The oldest goes first, and then its call is executed again."""
    client, server = NfsClientConnection(AuthSys()), NfsServerConnection()
    client.is_stream = server.is_stream = False
    for xid in range(CACHESIZE + 1):
        client.call(xid, WRITE, ARGS)
        assert server.receive_datagram(list(client.send(xid))) is not None
        server.reply(xid, WriteRes(count=8192))
    assert server.receive_datagram(list(client.send(1))) is None
    assert server.receive_datagram(list(client.send(0))) is not None
