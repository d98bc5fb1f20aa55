"""Operations of NFS version 4.1 on files, held against bytes written out by hand from RFC 5662."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import operations as nfs
from storage_backends.nfs.messages.attributes4 import Fattr4
from storage_backends.nfs.messages.data import StableHow
from storage_backends.nfs.messages.nfs4 import Item, NfsStat4, StateId
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import Blocks, Octets, RemoteProtocolError, render

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
ERROR = st.sampled_from([status for status in NfsStat4 if status])
FH = st.binary(max_size=128)
NAME = st.text(max_size=20)
OWNER = st.binary(max_size=40)
VERF = st.binary(min_size=8, max_size=8)
STATE = st.builds(StateId, seqid=U32, other=st.binary(min_size=12, max_size=12))
STABLE = st.sampled_from(list(StableHow))
OCTETS = st.binary(max_size=30).map(Octets)
NUMBERS = st.sets(st.integers(0, 95)).map(lambda numbers: tuple(sorted(numbers)))
FATTR = st.builds(Fattr4, ftype=st.none() | U32, size_bytes=st.none() | U64, mode=st.none() | U32)
OPEN = {
    "clientid": U64,
    "owner": OWNER,
    "seqid": U32,
    "share_access": U32,
    "share_deny": U32,
    "create": st.none() | FATTR,
}
ARGS: st.SearchStrategy[Item] = st.one_of(
    st.builds(nfs.PutFhArgs, fh=FH),
    st.builds(nfs.Lookup4Args, name=NAME),
    st.builds(nfs.Getattr4Args, numbers=NUMBERS),
    st.builds(nfs.OpenArgs, **OPEN, claim=st.just(nfs.Claim.NULL), name=NAME),
    st.builds(nfs.OpenArgs, **OPEN, claim=st.sampled_from([nfs.Claim.PREVIOUS, nfs.Claim.FH])),
    st.builds(nfs.Read4Args, stateid=STATE, offset=U64, count=U32),
    st.builds(nfs.Write4Args, stateid=STATE, offset=U64, stable=STABLE, data=OCTETS),
    st.builds(nfs.Commit4Args, offset=U64, count=U32),
)
RES: st.SearchStrategy[Item] = st.one_of(
    st.builds(nfs.FhRes, fh=FH),
    st.builds(nfs.Getattr4Res, attributes=FATTR),
    st.builds(nfs.OpenRes, stateid=STATE, atomic=st.booleans(), before=U64, after=U64, rflags=U32, attrset=NUMBERS),
    st.builds(nfs.Read4Res, eof=st.booleans(), data=OCTETS),
    st.builds(nfs.Write4Res, count=U32, committed=STABLE, verifier=VERF),
    st.builds(nfs.Commit4Res, verifier=VERF),
    *(
        st.builds(kind, status=ERROR)
        for kind in (
            nfs.FhRes,
            nfs.Getattr4Res,
            nfs.OpenRes,
            nfs.Read4Res,
            nfs.Write4Res,
            nfs.Commit4Res,
        )
    ),
)

STATEID = StateId(seqid=1, other=b"twelve bytes")
STATEID_HEX = "00000001 7477656c 76652062 79746573"
OPENER_HEX = "00000000 00000003 00000000 0000000000000011 00000004 74657374"


def wire_of(item: Item) -> bytes:
    """Return the bytes of an item."""
    writer = XdrWriter()
    item.push(writer)
    return render(writer.chunks())


def test_an_open_that_makes_the_file_is_the_rfcs_bytes() -> None:
    """Sequence, access, denial, owner, OPEN4_CREATE with UNCHECKED4 and attributes, CLAIM_NULL with a name."""
    args = nfs.OpenArgs(clientid=0x11, owner=b"test", create=Fattr4(mode=0o600, size_bytes=0), name="swapfile")
    expected = (
        f"{OPENER_HEX} 00000001 00000000 00000002 00000010 00000002 0000000c 0000000000000000 00000180 "
        "00000000 00000008 73776170 66696c65"
    )
    assert wire_of(args) == bytes.fromhex(expected)


def test_an_open_after_a_restart_is_the_rfcs_bytes() -> None:
    """OPEN4_NOCREATE and CLAIM_PREVIOUS of OPEN_DELEGATE_NONE, without a name."""
    args = nfs.OpenArgs(clientid=0x11, owner=b"test", claim=nfs.Claim.PREVIOUS)
    assert wire_of(args) == bytes.fromhex(f"{OPENER_HEX} 00000000 00000001 00000000")


def test_an_open_of_a_file_that_is_there_is_the_rfcs_bytes() -> None:
    """OPEN4_NOCREATE and CLAIM_NULL with a name."""
    args = nfs.OpenArgs(clientid=0x11, owner=b"test", name="f")
    assert wire_of(args) == bytes.fromhex(f"{OPENER_HEX} 00000000 00000000 00000001 66000000")


def test_the_answer_to_an_open_is_the_rfcs_bytes() -> None:
    """Stateid, how the directory changed, flags, the attributes that were set, and OPEN_DELEGATE_NONE."""
    res = nfs.OpenRes(stateid=STATEID, before=5, after=6, rflags=4, attrset=(4, 33))
    expected = (
        f"00000000 {STATEID_HEX} 00000001 0000000000000005 0000000000000006 00000004 "
        "00000002 00000010 00000002 00000000"
    )
    assert wire_of(res) == bytes.fromhex(expected)


def test_a_write_is_the_rfcs_bytes() -> None:
    """Stateid, offset, stable_how, and the data behind its length; the data stays by reference."""
    blocks = Blocks.of((9,))
    args = nfs.Write4Args(stateid=STATEID, offset=135168, stable=StableHow.FILE_SYNC, data=blocks)
    writer = XdrWriter()
    args.push(writer)
    head, body = writer.chunks()
    assert head == bytes.fromhex(f"{STATEID_HEX} 0000000000021000 00000002 00001000")
    assert body is blocks
    assert nfs.Write4Args.pull(XdrReader.of(head, body)).data is blocks


def test_the_answer_to_a_read_is_the_rfcs_bytes() -> None:
    """Status, eof, and the data behind its length, filled up to a word; blocks stay by reference."""
    assert wire_of(nfs.Read4Res(eof=True, data=Octets(b"abc"))) == bytes.fromhex("00000000 00000001 00000003 61626300")
    blocks = Blocks.of((7, 8))
    writer = XdrWriter()
    nfs.Read4Res(data=blocks).push(writer)
    head, body = writer.chunks()
    assert head == bytes.fromhex("00000000 00000000 00002000")
    assert body is blocks
    assert nfs.Read4Res.pull(XdrReader.of(head, body)).data is blocks


def test_what_moves_data_is_the_rfcs_bytes() -> None:
    """A READ says stateid, offset and count; a COMMIT a range; the answers to WRITE and COMMIT a verifier."""
    verifier = bytes.fromhex("6153036b00000000")
    assert wire_of(nfs.Read4Args(stateid=STATEID, offset=8192, count=4096)) == bytes.fromhex(
        f"{STATEID_HEX} 0000000000002000 00001000"
    )
    assert wire_of(nfs.Commit4Args(offset=4096, count=8192)) == bytes.fromhex("0000000000001000 00002000")
    assert wire_of(nfs.Write4Res(count=4096, committed=2, verifier=verifier)) == bytes.fromhex(
        "00000000 00001000 00000002 6153036b 00000000"
    )
    assert wire_of(nfs.Commit4Res(verifier=verifier)) == bytes.fromhex("00000000 6153036b 00000000")


def test_what_finds_a_file_is_the_rfcs_bytes() -> None:
    """A file handle and a name come behind their lengths, attributes are asked for and answered by a map."""
    assert wire_of(nfs.PutFhArgs(fh=b"fh001")) == bytes.fromhex("00000005 66683030 31000000")
    assert wire_of(nfs.FhRes(fh=b"fh01")) == bytes.fromhex("00000000 00000004 66683031")
    assert wire_of(nfs.Lookup4Args(name="swap")) == bytes.fromhex("00000004 73776170")
    assert wire_of(nfs.Getattr4Args(numbers=(4, 33))) == bytes.fromhex("00000002 00000010 00000002")
    assert wire_of(nfs.Getattr4Res(attributes=Fattr4(size_bytes=4096))) == bytes.fromhex(
        "00000000 00000001 00000010 00000008 0000000000001000"
    )


def test_an_error_is_a_status_and_no_more() -> None:
    """What belongs to an answer is not said with an error."""
    error = NfsStat4.NFS4ERR_BAD_STATEID
    for res in (
        nfs.FhRes(status=error, fh=b"fh01"),
        nfs.Getattr4Res(status=error, attributes=Fattr4(mode=1)),
        nfs.OpenRes(status=error, stateid=STATEID),
        nfs.Read4Res(status=error, data=Octets(b"abc")),
        nfs.Write4Res(status=error, count=1),
        nfs.Commit4Res(status=error, verifier=b"verifier"),
    ):
        assert wire_of(res) == bytes.fromhex("00002729")


@given(ARGS | RES)
def test_what_is_written_comes_back(item: Item) -> None:
    """Arguments and results of every status are read as they were written."""
    writer = XdrWriter()
    item.push(writer)
    reader = XdrReader.of(*writer.chunks())
    assert type(item).pull(reader) == item
    reader.done()


@given(ARGS | RES, st.data())
def test_what_is_cut_short_is_refused(item: Item, data: st.DataObject) -> None:
    """No proper beginning of a message is one."""
    wire = wire_of(item)
    with pytest.raises(RemoteProtocolError):
        type(item).pull(XdrReader.of(wire[: data.draw(st.integers(0, len(wire) - 1))]))


@pytest.mark.parametrize(
    ("kind", "wire", "reason"),
    [
        (nfs.PutFhArgs, "00000081" + "00" * 132, "length 129"),
        (nfs.FhRes, "00000000 00000081" + "00" * 132, "length 129"),
        (nfs.FhRes, "00000001", "nfsstat4 1"),
        (nfs.Lookup4Args, "00000401" + "00" * 1028, "length 1025"),
        (nfs.Getattr4Args, "00000004" + "00" * 16, "length 4"),
        (nfs.Getattr4Res, "00000000 00000001 00000001 00000000", "attribute 0,"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000002", "opentype4 2"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000001 00000001", "createmode4 1"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000001 00000003", "createmode4 3"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000000 00000002", "open_claim_type4 2"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000000 00000003", "open_claim_type4 3"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000000 00000005", "open_claim_type4 5"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000000 00000001 00000001", "OPEN claims delegation 1"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000000 00000001 00000002", "OPEN claims delegation 2"),
        (nfs.OpenArgs, f"{OPENER_HEX} 00000000 00000001 00000003", "OPEN claims delegation 3"),
        (nfs.OpenRes, f"00000000 {STATEID_HEX} 00000002", "boolean is 2"),
        (nfs.OpenRes, f"00000000 {STATEID_HEX} 00000001" + "00" * 24 + "00000001", "OPEN brings delegation 1"),
        (nfs.OpenRes, f"00000000 {STATEID_HEX} 00000001" + "00" * 24 + "00000002", "OPEN brings delegation 2"),
        (nfs.Read4Res, "00000000 00000002", "boolean is 2"),
        (nfs.Read4Res, "00000000 00000000 00100001", "length 1048577"),
        (nfs.Read4Res, "00000000 00000001 00000001 61000001", "filled up"),
        (nfs.Write4Args, f"{STATEID_HEX} 0000000000000000 00000003 00000000", "stable_how 3"),
        (nfs.Write4Args, f"{STATEID_HEX} 0000000000000000 00000000 00100001", "length 1048577"),
        (nfs.Write4Res, "00000000 00001000 00000009 00000000 00000000", "stable_how 9"),
        (nfs.Commit4Res, "00002712", "nfsstat4 10002"),
    ],
)
def test_what_is_not_here_is_refused(kind: type[Item], wire: str, reason: str) -> None:
    """A way to open that is not here, a delegation, a stable_how that does not exist, lengths beyond the limits."""
    with pytest.raises(RemoteProtocolError, match=reason):
        kind.pull(XdrReader.of(bytes.fromhex(wire)))
