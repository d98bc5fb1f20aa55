"""ONC RPC, held against bytes written out by hand from RFC 5531."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs import rpc
from storage_backends.nfs.rpc import AcceptStat, AuthSys, CallHeader, RecordReader, RejectStat, ReplyHeader
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Blocks, Chunk, RemoteProtocolError, render

CALL = CallHeader(xid=0x5A8C8D90, program=100003, version=3, procedure=0)
CALL_WIRE = "5a8c8d90 00000000 00000002 000186a3 00000003 00000000 00000000 00000000 00000000 00000000"
SYS = AuthSys(stamp=1, machinename="host", uid=0, gid=0, gids=(0,))
SYS_WIRE = "00000001 00000004 686f7374 00000000 00000000 00000001 00000000"

REPLIES = {
    "success": (ReplyHeader(xid=1), "00000001 00000001 00000000 00000000 00000000 00000000"),
    "mismatch": (
        ReplyHeader(xid=1, accept_stat=AcceptStat.PROG_MISMATCH, low=3, high=3),
        "00000001 00000001 00000000 00000000 00000000 00000002 00000003 00000003",
    ),
    "garbage": (
        ReplyHeader(xid=1, accept_stat=AcceptStat.GARBAGE_ARGS),
        "00000001 00000001 00000000 00000000 00000000 00000004",
    ),
    "rpc mismatch": (
        ReplyHeader(xid=1, accept_stat=None, reject_stat=RejectStat.RPC_MISMATCH, low=2, high=2),
        "00000001 00000001 00000001 00000000 00000002 00000002",
    ),
    "auth error": (
        ReplyHeader(xid=1, accept_stat=None, reject_stat=RejectStat.AUTH_ERROR, low=1),
        "00000001 00000001 00000001 00000001 00000001",
    ),
}


def test_a_call_is_the_rfcs_bytes() -> None:
    """A NULL call is ten words, as the recorded client sent it (40 bytes), and reads back."""
    writer = XdrWriter()
    rpc.push_call(writer, CALL)
    wire = render(writer.chunks())
    assert wire == bytes.fromhex(CALL_WIRE)
    assert rpc.pull_call(XdrReader.of(wire)) == CALL


@pytest.mark.parametrize("name", REPLIES)
def test_a_reply_is_the_rfcs_bytes(name: str) -> None:
    """Every kind of reply is exactly the words of section 9, and reads back."""
    reply, written_out = REPLIES[name]
    writer = XdrWriter()
    rpc.push_reply(writer, reply)
    wire = render(writer.chunks())
    assert wire == bytes.fromhex(written_out)
    reader = XdrReader.of(wire)
    assert rpc.pull_reply(reader) == reply
    reader.done()


def test_a_credential_is_the_rfcs_bytes() -> None:
    """AUTH_SYS says stamp, machine, uid, gid and groups (appendix A)."""
    assert rpc.push_auth_sys(SYS) == bytes.fromhex(SYS_WIRE)
    assert rpc.pull_auth_sys(bytes.fromhex(SYS_WIRE)) == SYS


@pytest.mark.parametrize(
    "wire",
    [
        CALL_WIRE.replace("00000000 00000002", "00000001 00000002", 1),
        CALL_WIRE[:40],
        CALL_WIRE[:63] + "00000191",
    ],
    ids=["a reply", "cut short", "credential too long"],
)
def test_what_is_no_call_is_refused(wire: str) -> None:
    """A message of another type, a short one and a credential above 400 bytes break the protocol."""
    with pytest.raises(RemoteProtocolError):
        rpc.pull_call(XdrReader.of(bytes.fromhex(wire), bytes(500 if "191" in wire else 0)))


@pytest.mark.parametrize(
    "wire",
    [
        "00000001 00000000",
        "00000001 00000001 00000002",
        "00000001 00000001 00000001 00000002",
        "00000001 00000001 00000000 00000000 00000000 00000006",
    ],
)
def test_what_is_no_reply_is_refused(wire: str) -> None:
    """A call where a reply belongs and statuses that do not exist break the protocol."""
    with pytest.raises(RemoteProtocolError):
        rpc.pull_reply(XdrReader.of(bytes.fromhex(wire)))


def records_of(chunks: list[Chunk]) -> list[bytes]:
    """Return the records in a stream."""
    reader = RecordReader()
    found = []
    for chunk in chunks:
        reader.push(chunk)
        while (record := reader.pull_record()) is not None:
            found.append(record.rest())
    return found


def test_a_record_is_marked_as_the_rfc_says() -> None:
    """One fragment: the top bit, the length, the bytes (section 11); payload behind them stays by reference."""
    blocks = Blocks.of((5,))
    assert rpc.push_record([b"abcd", blocks]) == [bytes.fromhex("80001004") + b"abcd", blocks]
    assert rpc.push_record([]) == [bytes.fromhex("80000000")]


def test_a_record_of_several_fragments_is_one() -> None:
    """Fragments are joined until one is marked the last, and the next record begins behind it."""
    wire = bytes.fromhex("00000003") + b"abc" + bytes.fromhex("80000001") + b"d" + bytes.fromhex("80000002") + b"ef"
    assert records_of([wire]) == [b"abcd", b"ef"]


@given(st.lists(st.binary(max_size=9), max_size=5), st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_records_come_back_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    """Whole, byte by byte or anything between: the same records, and never one too early."""
    wire = b"".join(render(rpc.push_record([body])) for body in bodies)
    reader = RecordReader()
    found, start, step = [], 0, 0
    while start < len(wire):
        size = min(cuts[step % len(cuts)], len(wire) - start)
        assert reader.bytes_missing > 0
        reader.push(wire[start : start + size])
        start += size
        step += 1
        while (record := reader.pull_record()) is not None:
            found.append(record.rest())
    assert found == bodies
    assert not reader.is_inside


@pytest.mark.parametrize("mark", ["ffffffff", "00000000", "7fffffff"])
def test_a_mark_nobody_would_send_is_refused(mark: str) -> None:
    """A record above the limit and an empty fragment that is not the last would hold the reader for ever."""
    with pytest.raises(RemoteProtocolError):
        records_of([bytes.fromhex(mark)])
