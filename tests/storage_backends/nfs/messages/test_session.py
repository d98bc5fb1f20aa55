"""EXCHANGE_ID, CREATE_SESSION, SEQUENCE and the like, held against bytes written out by hand from RFC 5662."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import session
from storage_backends.nfs.messages.nfs4 import Item, NfsStat4
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError, render

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
ERROR = st.sampled_from([status for status in NfsStat4 if status])
OWNER = st.binary(max_size=40)
ID = st.binary(min_size=16, max_size=16)
CHANNEL = st.builds(
    session.ChannelAttrs,
    headerpad_bytes=U32,
    maxrequest_bytes=U32,
    maxresponse_bytes=U32,
    maxresponse_cached_bytes=U32,
    maxoperations=U32,
    maxrequests=U32,
)
ARGS: st.SearchStrategy[Item] = st.one_of(
    st.builds(session.ExchangeIdArgs, verifier=st.binary(min_size=8, max_size=8), ownerid=OWNER, flags=U32),
    st.builds(
        session.CreateSessionArgs,
        clientid=U64,
        sequenceid=U32,
        flags=U32,
        fore=CHANNEL,
        back=CHANNEL,
        cb_program=U32,
        machinename=st.text(max_size=20),
    ),
    st.builds(session.DestroySessionArgs, sessionid=ID),
    st.builds(
        session.SequenceArgs, sessionid=ID, sequenceid=U32, slotid=U32, highest_slotid=U32, cachethis=st.booleans()
    ),
    st.builds(session.ReclaimCompleteArgs, one_fs=st.booleans()),
)
RES: st.SearchStrategy[Item] = st.one_of(
    st.builds(session.ExchangeIdRes, clientid=U64, sequenceid=U32, flags=U32, server_owner=OWNER, server_scope=OWNER),
    st.builds(session.ExchangeIdRes, status=ERROR),
    st.builds(session.CreateSessionRes, sessionid=ID, sequenceid=U32, flags=U32, fore=CHANNEL, back=CHANNEL),
    st.builds(session.CreateSessionRes, status=ERROR),
    st.builds(
        session.SequenceRes,
        sessionid=ID,
        sequenceid=U32,
        slotid=U32,
        highest_slotid=U32,
        target_highest_slotid=U32,
        status_flags=U32,
    ),
    st.builds(session.SequenceRes, status=ERROR),
)

SESSIONID = bytes(range(16))
SESSIONID_HEX = "00010203 04050607 08090a0b 0c0d0e0f"
FORE = session.ChannelAttrs(
    maxrequest_bytes=0x100400,
    maxresponse_bytes=0x100200,
    maxresponse_cached_bytes=0x800,
    maxoperations=8,
    maxrequests=64,
)
FORE_HEX = "00000000 00100400 00100200 00000800 00000008 00000040 00000000"
BACK = session.ChannelAttrs(headerpad_bytes=1, maxrequest_bytes=4096, maxresponse_bytes=4096, maxoperations=2)
BACK_HEX = "00000001 00001000 00001000 00000000 00000002 00000000 00000000"
SYS_HEX = "00000001 00000000 00000005 6e657476 6d000000 00000000 00000000 00000000"
IMPL_HEX = "00000001 00000003 6f726700 00000004 6e616d65 0000000000000005 00000006"


def wire_of(item: Item) -> bytes:
    """Return the bytes of an item."""
    writer = XdrWriter()
    item.push(writer)
    return render(writer.chunks())


def test_exchange_id_is_the_rfcs_bytes() -> None:
    """Verifier, owner, flags, SP4_NONE and no implementation."""
    wire = wire_of(session.ExchangeIdArgs(verifier=b"8 bytes!", ownerid=b"netvm"))
    assert wire == bytes.fromhex("38206279 74657321 00000005 6e657476 6d000000 00010000 00000000 00000000")


def test_the_answer_to_exchange_id_is_the_rfcs_bytes() -> None:
    """Client, sequence, flags, SP4_NONE, the owner's minor and major half, scope, and no implementation."""
    res = session.ExchangeIdRes(
        clientid=0x1122334455667788,
        sequenceid=1,
        flags=session.EXCHGID4_FLAG_USE_NON_PNFS | session.EXCHGID4_FLAG_CONFIRMED_R,
        server_owner=b"server",
        server_scope=b"scop",
    )
    expected = (
        "00000000 1122334455667788 00000001 80010000 00000000 0000000000000000 "
        "00000006 73657276 65720000 00000004 73636f70 00000000"
    )
    assert wire_of(res) == bytes.fromhex(expected)


def test_create_session_is_the_rfcs_bytes() -> None:
    """Client, sequence, flags, both channels without RDMA, and callbacks as root of the machine."""
    args = session.CreateSessionArgs(clientid=0x11, sequenceid=1, flags=2, fore=FORE, back=BACK, machinename="netvm")
    expected = f"0000000000000011 00000001 00000002 {FORE_HEX} {BACK_HEX} 40000000 00000001 {SYS_HEX}"
    assert wire_of(args) == bytes.fromhex(expected)
    res = session.CreateSessionRes(sessionid=SESSIONID, sequenceid=1, fore=FORE, back=BACK)
    expected = f"00000000 {SESSIONID_HEX} 00000001 00000000 {FORE_HEX} {BACK_HEX}"
    assert wire_of(res) == bytes.fromhex(expected)


def test_sequence_is_the_rfcs_bytes() -> None:
    """Session, sequence, slot, highest slot, and whether to keep the reply."""
    args = session.SequenceArgs(sessionid=SESSIONID, sequenceid=7, slotid=3, highest_slotid=15, cachethis=True)
    assert wire_of(args) == bytes.fromhex(f"{SESSIONID_HEX} 00000007 00000003 0000000f 00000001")


def test_the_answer_to_sequence_is_the_rfcs_bytes() -> None:
    """Status, session, sequence, slot, highest slot, the one that is aimed at, and flags."""
    res = session.SequenceRes(
        sessionid=SESSIONID,
        sequenceid=7,
        slotid=3,
        highest_slotid=15,
        target_highest_slotid=63,
        status_flags=0x100,
    )
    expected = f"00000000 {SESSIONID_HEX} 00000007 00000003 0000000f 0000003f 00000100"
    assert wire_of(res) == bytes.fromhex(expected)


def test_the_end_of_a_session_and_of_reclaiming_are_the_rfcs_bytes() -> None:
    """A session is destroyed by its name; RECLAIM_COMPLETE is of everything or of one file system."""
    assert wire_of(session.DestroySessionArgs(sessionid=SESSIONID)) == SESSIONID
    assert wire_of(session.ReclaimCompleteArgs()) == bytes.fromhex("00000000")
    assert wire_of(session.ReclaimCompleteArgs(one_fs=True)) == bytes.fromhex("00000001")


def test_an_error_is_a_status_and_no_more() -> None:
    """What belongs to an answer is not said with an error."""
    error = NfsStat4.NFS4ERR_BADSESSION
    for res in (
        session.SequenceRes(status=error, sessionid=SESSIONID, slotid=3),
        session.CreateSessionRes(status=error, sessionid=SESSIONID),
        session.ExchangeIdRes(status=error, clientid=5),
    ):
        assert wire_of(res) == bytes.fromhex("00002744")


@given(ARGS | RES)
def test_what_is_written_comes_back(item: Item) -> None:
    """Arguments and results of every status are read as they were written."""
    reader = XdrReader.of(wire_of(item))
    assert type(item).pull(reader) == item
    reader.done()


@given(ARGS | RES, st.data())
def test_what_is_cut_short_is_refused(item: Item, data: st.DataObject) -> None:
    """No proper beginning of a message is one."""
    wire = wire_of(item)
    with pytest.raises(RemoteProtocolError):
        type(item).pull(XdrReader.of(wire[: data.draw(st.integers(0, len(wire) - 1))]))


def test_who_made_a_peer_and_its_rdma_are_passed_over() -> None:
    """An implementation, the minor half of an owner and the depth of RDMA reads are read and dropped."""
    args = f"38206279 74657321 00000001 61000000 00000000 00000000 {IMPL_HEX}"
    reader = XdrReader.of(bytes.fromhex(args))
    expected_args = session.ExchangeIdArgs(verifier=b"8 bytes!", ownerid=b"a", flags=0)
    assert session.ExchangeIdArgs.pull(reader) == expected_args
    reader.done()
    res = f"00000000 0000000000000011 00000001 00000000 00000000 0000000000000009 00000000 00000000 {IMPL_HEX}"
    reader = XdrReader.of(bytes.fromhex(res))
    assert session.ExchangeIdRes.pull(reader) == session.ExchangeIdRes(clientid=0x11, sequenceid=1)
    reader.done()
    reader = XdrReader.of(bytes.fromhex(f"{FORE_HEX[:-8]} 00000001 00000004"))
    assert session.ChannelAttrs.pull(reader) == FORE
    reader.done()


@pytest.mark.parametrize(
    ("parms", "machinename"),
    [
        ("00000000", ""),
        ("00000001 00000000", ""),
        (f"00000001 {SYS_HEX}", "netvm"),
        (f"00000002 {SYS_HEX} 00000000", "netvm"),
        (f"00000002 00000000 {SYS_HEX}", "netvm"),
        ("00000001 00000001 00000000 000000ff" + "6e" * 255 + "00" * 13, "n" * 255),
        ("00000008" + "00000000" * 8, ""),
        ("00000001 00000001 00000009 00000000 00000001 00000002 00000010" + "00000007" * 16, ""),
    ],
)
def test_ways_to_trust_callbacks_are_read(parms: str, machinename: str) -> None:
    """A client may name up to eight: nobody's, or a user's of a machine, with whatever stamp and groups."""
    head = f"0000000000000011 00000001 00000000 {FORE_HEX} {BACK_HEX} 40000000"
    reader = XdrReader.of(bytes.fromhex(f"{head} {parms}"))
    expected = session.CreateSessionArgs(clientid=0x11, sequenceid=1, fore=FORE, back=BACK, machinename=machinename)
    assert session.CreateSessionArgs.pull(reader) == expected
    reader.done()


@pytest.mark.parametrize(
    ("kind", "wire", "reason"),
    [
        (session.ExchangeIdArgs, "00" * 8 + "00000000 00000000 00000001 00000000", "state protection 1"),
        (session.ExchangeIdArgs, "00" * 8 + "00000000 00000000 00000002 00000000", "state protection 2"),
        (session.ExchangeIdArgs, "00" * 8 + "00000401" + "00" * 1028, "length 1025"),
        (session.ExchangeIdArgs, "00" * 8 + "00000000 00000000 00000000 00000002", "length 2"),
        (session.ExchangeIdRes, "00" * 20 + "00000001", "state protection 1"),
        (session.ExchangeIdRes, "00000003", "nfsstat4 3"),
        (session.ChannelAttrs, f"{FORE_HEX[:-8]} 00000002 00000001 00000001", "length 2"),
        (session.CreateSessionArgs, "00" * 72 + "40000000 00000009" + "00" * 36, "length 9"),
        (session.CreateSessionArgs, "00" * 72 + "40000000 00000001 00000001 00000000 00000100", "length 256"),
        (session.CreateSessionArgs, "00" * 72 + "40000000 00000001 00000001" + "00" * 16 + "00000011", "length 17"),
        (session.CreateSessionArgs, "00" * 72 + "40000000 00000002 00000000 00000002", "flavor 2"),
        (session.CreateSessionArgs, "00" * 72 + "40000000 00000001 00000006", "flavor 6"),
        (session.CreateSessionRes, "0000271a", "nfsstat4 10010"),
        (session.SequenceArgs, "00" * 28 + "00000002", "boolean is 2"),
        (session.SequenceRes, "00002769", "nfsstat4 10089"),
        (session.ReclaimCompleteArgs, "00000002", "boolean is 2"),
    ],
)
def test_what_is_not_here_is_refused(kind: type[Item], wire: str, reason: str) -> None:
    """Protection of state, more than there may be, callbacks of another flavor, statuses and booleans that are none."""
    with pytest.raises(RemoteProtocolError, match=reason):
        kind.pull(XdrReader.of(bytes.fromhex(wire)))
