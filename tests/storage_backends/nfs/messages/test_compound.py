"""COMPOUND, held against bytes written out by hand from RFC 5662."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import operations as nfs
from storage_backends.nfs.messages import session
from storage_backends.nfs.messages.attributes4 import Fattr4
from storage_backends.nfs.messages.compound import MAX_OPERATIONS, OPERATIONS, CompoundArgs, CompoundRes
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs4 import ANONYMOUS, Nfs4Op, NfsStat4, StateId, StatusRes, VoidArgs
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Blocks, Octets, RemoteProtocolError, render

SESSIONID = bytes(range(16))
SESSIONID_HEX = "00010203 04050607 08090a0b 0c0d0e0f"
SEQUENCE = (Nfs4Op.SEQUENCE, session.SequenceArgs(sessionid=SESSIONID, sequenceid=7, slotid=3))
SEQUENCE_HEX = f"00000035 {SESSIONID_HEX} 00000007 00000003 00000000 00000000"
SEQUENCED = (Nfs4Op.SEQUENCE, session.SequenceRes(sessionid=SESSIONID, sequenceid=7, slotid=3))
SEQUENCED_HEX = f"00000035 00000000 {SESSIONID_HEX} 00000007 00000003 00000000 00000000 00000000"
STATEID = StateId(seqid=1, other=b"twelve bytes")
STATEID_HEX = "00000001 7477656c 76652062 79746573"

ARGS: tuple[tuple[Nfs4Op, Any], ...] = (
    (Nfs4Op.EXCHANGE_ID, session.ExchangeIdArgs(verifier=b"8 bytes!", ownerid=b"netvm")),
    (Nfs4Op.CREATE_SESSION, session.CreateSessionArgs(clientid=1, sequenceid=2)),
    SEQUENCE,
    (Nfs4Op.RECLAIM_COMPLETE, session.ReclaimCompleteArgs()),
    (Nfs4Op.PUTROOTFH, VoidArgs()),
    (Nfs4Op.PUTFH, nfs.PutFhArgs(fh=b"fh01")),
    (Nfs4Op.LOOKUP, nfs.Lookup4Args(name="swapfile")),
    (Nfs4Op.OPEN, nfs.OpenArgs(clientid=1, owner=b"test", create=Fattr4(mode=0o600), name="swapfile")),
    (Nfs4Op.GETFH, VoidArgs()),
    (Nfs4Op.GETATTR, nfs.Getattr4Args(numbers=(1, 4, 33))),
    (Nfs4Op.READ, nfs.Read4Args(stateid=ANONYMOUS, offset=4096, count=4096)),
    (Nfs4Op.WRITE, nfs.Write4Args(stateid=STATEID, offset=0, stable=StableHow.UNSTABLE, data=Octets(b"abc"))),
    (Nfs4Op.COMMIT, nfs.Commit4Args(offset=0, count=0)),
    (Nfs4Op.DESTROY_SESSION, session.DestroySessionArgs(sessionid=SESSIONID)),
    (Nfs4Op.ILLEGAL, VoidArgs()),
)
RESULTS: tuple[tuple[Nfs4Op, Any], ...] = (
    (Nfs4Op.EXCHANGE_ID, session.ExchangeIdRes(clientid=1, sequenceid=2, server_owner=b"server")),
    (Nfs4Op.CREATE_SESSION, session.CreateSessionRes(sessionid=SESSIONID, sequenceid=2)),
    SEQUENCED,
    (Nfs4Op.RECLAIM_COMPLETE, StatusRes(status=NfsStat4.NFS4ERR_COMPLETE_ALREADY)),
    (Nfs4Op.PUTROOTFH, StatusRes()),
    (Nfs4Op.PUTFH, StatusRes()),
    (Nfs4Op.LOOKUP, StatusRes()),
    (Nfs4Op.OPEN, nfs.OpenRes(stateid=STATEID, before=1, after=2, attrset=(33,))),
    (Nfs4Op.GETFH, nfs.FhRes(fh=b"fh01")),
    (Nfs4Op.GETATTR, nfs.Getattr4Res(attributes=Fattr4(ftype=1, size_bytes=4096, mode=0o600))),
    (Nfs4Op.READ, nfs.Read4Res(eof=True, data=Octets(b"abc"))),
    (Nfs4Op.WRITE, nfs.Write4Res(count=3, committed=StableHow.FILE_SYNC, verifier=b"verifier")),
    (Nfs4Op.COMMIT, nfs.Commit4Res(verifier=b"verifier")),
    (Nfs4Op.DESTROY_SESSION, StatusRes(status=NfsStat4.NFS4ERR_DEADSESSION)),
    (Nfs4Op.ILLEGAL, StatusRes(status=NfsStat4.NFS4ERR_OP_ILLEGAL)),
)
U32 = st.integers(0, 2**32 - 1)
TAG = st.text(max_size=20)
COMPOUND = st.builds(
    CompoundArgs,
    operations=st.lists(st.sampled_from(ARGS), max_size=MAX_OPERATIONS).map(tuple),
    tag=TAG,
)
ANSWER = st.builds(
    CompoundRes,
    status=st.sampled_from(list(NfsStat4)),
    results=st.lists(st.sampled_from(RESULTS), max_size=MAX_OPERATIONS).map(tuple),
    tag=TAG,
)


def wire_of(message: CompoundArgs | CompoundRes) -> bytes:
    """Return the bytes of a message."""
    writer = XdrWriter()
    message.push(writer)
    return render(writer.chunks())


def test_a_compound_is_the_rfcs_bytes() -> None:
    """Tag, minor version, how many operations, and each one's number before its arguments."""
    operations = (
        SEQUENCE,
        (Nfs4Op.PUTFH, nfs.PutFhArgs(fh=b"fh01")),
        (Nfs4Op.COMMIT, nfs.Commit4Args(offset=4096, count=8192)),
        (Nfs4Op.GETATTR, nfs.Getattr4Args(numbers=(3, 4, 53))),
    )
    expected = (
        f"00000004 73776170 00000001 00000004 {SEQUENCE_HEX} 00000016 00000004 66683031 "
        "00000005 0000000000001000 00002000 00000009 00000002 00000018 00200000"
    )
    assert wire_of(CompoundArgs(operations=operations, tag="swap")) == bytes.fromhex(expected)


def test_a_compound_that_writes_keeps_its_data_by_reference() -> None:
    """The blocks of a WRITE are those that were given to it, on both ends, whatever comes behind them."""
    blocks = Blocks.of((9, 10))
    write = nfs.Write4Args(stateid=STATEID, offset=8192, stable=StableHow.UNSTABLE, data=blocks)
    args = CompoundArgs(operations=(SEQUENCE, (Nfs4Op.WRITE, write), (Nfs4Op.GETFH, VoidArgs())))
    writer = XdrWriter()
    args.push(writer)
    head, body, tail = writer.chunks()
    expected = f"00000000 00000001 00000003 {SEQUENCE_HEX} 00000026 {STATEID_HEX} 0000000000002000 00000000 00002000"
    assert head == bytes.fromhex(expected)
    assert body is blocks
    assert tail == bytes.fromhex("0000000a")
    reader = XdrReader.of(head, body, tail)
    assert CompoundArgs.pull(reader).operations[1][1].data is blocks
    reader.done()


def test_an_answer_is_the_rfcs_bytes() -> None:
    """Status, tag, how many results, and each one's number before its result, which begins with its status."""
    results = (SEQUENCED, (Nfs4Op.PUTFH, StatusRes()), (Nfs4Op.OPEN, nfs.OpenRes(status=NfsStat4.NFS4ERR_GRACE)))
    answer = CompoundRes(status=NfsStat4.NFS4ERR_GRACE, results=results)
    expected = f"0000271d 00000000 00000003 {SEQUENCED_HEX} 00000016 00000000 00000012 0000271d"
    assert wire_of(answer) == bytes.fromhex(expected)


def test_every_operation_is_written_and_read() -> None:
    """Each number that is here has arguments and a result, and both are of the types the table says."""
    assert set(OPERATIONS) == set(Nfs4Op) == {number for number, _ in ARGS} == {number for number, _ in RESULTS}
    assert [OPERATIONS[number].args for number, _ in ARGS] == [type(args) for _, args in ARGS]
    assert [OPERATIONS[number].res for number, _ in RESULTS] == [type(res) for _, res in RESULTS]
    args, answer = CompoundArgs(operations=ARGS), CompoundRes(results=RESULTS)
    assert CompoundArgs.pull(XdrReader.of(wire_of(args))) == args
    assert CompoundRes.pull(XdrReader.of(wire_of(answer))) == answer


@given(COMPOUND, ANSWER)
def test_compounds_come_back(args: CompoundArgs, answer: CompoundRes) -> None:
    """What is asked is understood, and so is what is answered."""
    writer = XdrWriter()
    args.push(writer)
    answer.push(writer)
    reader = XdrReader.of(*writer.chunks())
    assert CompoundArgs.pull(reader) == args
    assert CompoundRes.pull(reader) == answer
    reader.done()


@given(COMPOUND | ANSWER, st.data())
def test_what_is_cut_short_is_refused(message: CompoundArgs | CompoundRes, data: st.DataObject) -> None:
    """No proper beginning of a compound or of its answer is one."""
    wire = wire_of(message)
    with pytest.raises(RemoteProtocolError):
        type(message).pull(XdrReader.of(wire[: data.draw(st.integers(0, len(wire) - 1))]))


@given(COMPOUND | ANSWER, st.data())
def test_mutated_compounds_are_refused_or_read(message: CompoundArgs | CompoundRes, data: st.DataObject) -> None:
    """Whatever a peer sends: a compound or RemoteProtocolError, and nothing else; what was read can be written."""
    wire = bytearray(wire_of(message))
    for _ in range(data.draw(st.integers(1, 4))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = type(message).pull(XdrReader.of(bytes(wire)))
    except RemoteProtocolError:
        return
    assert type(message).pull(XdrReader.of(wire_of(read))) == read


def test_a_result_is_found_by_its_operation() -> None:
    """The first of that number, or None for one that was not executed."""
    again = (Nfs4Op.PUTFH, StatusRes(status=NfsStat4.NFS4ERR_STALE))
    answer = CompoundRes(results=(SEQUENCED, (Nfs4Op.PUTFH, StatusRes()), again))
    assert answer.of(Nfs4Op.SEQUENCE) is SEQUENCED[1]
    assert answer.of(Nfs4Op.PUTFH) == StatusRes()
    assert answer.of(Nfs4Op.OPEN) is None


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ("00000000 00000001 00000011" + "00000018" * 17, "length 17"),
        ("00000081" + "00" * 132, "length 129"),
        ("00000000 00000001 00000002 00000016 00000081" + "00" * 132, "length 129"),
    ],
)
def test_a_compound_that_is_too_long_is_refused(wire: str, reason: str) -> None:
    """More operations than are allowed, a tag that is too long, and an operation that is none."""
    with pytest.raises(RemoteProtocolError, match=reason):
        CompoundArgs.pull(XdrReader.of(bytes.fromhex(wire)))


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ("00000003 00000000 00000000", "nfsstat4 3"),
        ("00000000 00000000 00000001 00000016 00002713", "nfsstat4 10003"),
        ("00000000 00000000 00000001 00000007 00000000", "nfs_opnum4 7 "),
        ("00000000 00000000 00000002 00000018 00000000 00000000", "nfs_opnum4 0 "),
        ("0000273c 00000000 00000001 0000273b 0000273c", "nfs_opnum4 10043 "),
        ("00000000 00000000 00000011" + "00000018 00000000" * 17, "length 17"),
        ("00000000 00000081" + "00" * 132, "length 129"),
    ],
)
def test_an_answer_of_what_is_not_here_is_refused(wire: str, reason: str) -> None:
    """A status or an operation nobody knows, more results than were asked for, and a tag that is too long."""
    with pytest.raises(RemoteProtocolError, match=reason):
        CompoundRes.pull(XdrReader.of(bytes.fromhex(wire)))


@pytest.mark.parametrize("behind", ["", "00000000", "0000000a", "ffffffff" * 100])
@pytest.mark.parametrize("number", ["00000000", "00000003", "00000004", "0000273b", "ffffffff"])
def test_a_compound_ends_where_nobody_knows_how_to_go_on(number: str, behind: str) -> None:
    """An operation that is not here stands as the illegal one, and what comes behind it is not read."""
    reader = XdrReader.of(bytes.fromhex(f"00000000 00000001 00000003 00000018 {number} {behind}"))
    expected = ((Nfs4Op.PUTROOTFH, VoidArgs()), (Nfs4Op.ILLEGAL, VoidArgs()))
    assert CompoundArgs.pull(reader) == CompoundArgs(operations=expected)
    reader.done()


def test_data_behind_what_nobody_knows_is_dropped() -> None:
    """Blocks by reference are passed over as bytes are."""
    reader = XdrReader.of(bytes.fromhex("00000000 00000001 00000002 00000007 00001000"), Blocks.of((9,)), bytes(4))
    assert CompoundArgs.pull(reader) == CompoundArgs(operations=((Nfs4Op.ILLEGAL, VoidArgs()),))
    reader.done()


def test_the_illegal_operation_itself_is_read() -> None:
    """It has no arguments, its answer is a status, and other operations may follow it."""
    operations = ((Nfs4Op.ILLEGAL, VoidArgs()), (Nfs4Op.GETFH, VoidArgs()))
    args = CompoundArgs(operations=operations)
    assert wire_of(args) == bytes.fromhex("00000000 00000001 00000002 0000273c 0000000a")
    assert CompoundArgs.pull(XdrReader.of(wire_of(args))) == args
    illegal = NfsStat4.NFS4ERR_OP_ILLEGAL
    answer = CompoundRes(status=illegal, results=((Nfs4Op.ILLEGAL, StatusRes(status=illegal)),))
    assert wire_of(answer) == bytes.fromhex("0000273c 00000000 00000001 0000273c 0000273c")


@given(U32.filter(lambda number: number != 1), st.binary(max_size=64), TAG)
def test_a_compound_of_another_minor_version_is_its_number(minorversion: int, behind: bytes, tag: str) -> None:
    """Nothing else is read of it, whatever it would be; the tag is there to be answered."""
    behind += bytes(-len(behind) % 4)
    wire = wire_of(CompoundArgs(operations=(), tag=tag))[:-8] + minorversion.to_bytes(4, "big") + behind
    reader = XdrReader.of(wire)
    assert CompoundArgs.pull(reader) == CompoundArgs(operations=(), tag=tag, minorversion=minorversion)
    reader.done()


def test_as_many_operations_as_are_allowed_are_read() -> None:
    """Sixteen of them are a compound."""
    args = CompoundArgs(operations=((Nfs4Op.PUTROOTFH, VoidArgs()),) * MAX_OPERATIONS)
    assert CompoundArgs.pull(XdrReader.of(wire_of(args))) == args
    assert MAX_OPERATIONS == 16
