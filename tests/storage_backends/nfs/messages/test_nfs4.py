"""The numbers of NFS version 4.1, its statuses and stateids, held against RFC 5662."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import nfs4
from storage_backends.nfs.messages.nfs4 import Nfs4Op, Nfs4Proc, NfsStat4, StateId
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError, render

U32 = st.integers(0, 2**32 - 1)
STATEID = st.builds(StateId, seqid=U32, other=st.binary(min_size=12, max_size=12))
RFC_OPERATIONS = {
    "COMMIT": 5,
    "GETATTR": 9,
    "GETFH": 10,
    "LOOKUP": 15,
    "OPEN": 18,
    "PUTFH": 22,
    "PUTROOTFH": 24,
    "READ": 25,
    "WRITE": 38,
    "EXCHANGE_ID": 42,
    "CREATE_SESSION": 43,
    "DESTROY_SESSION": 44,
    "SEQUENCE": 53,
    "RECLAIM_COMPLETE": 58,
    "ILLEGAL": 10044,
}
RFC_STATUSES = {
    "NFS4_OK": 0,
    "NFS4ERR_NOENT": 2,
    "NFS4ERR_IO": 5,
    "NFS4ERR_ACCESS": 13,
    "NFS4ERR_NOTDIR": 20,
    "NFS4ERR_ISDIR": 21,
    "NFS4ERR_INVAL": 22,
    "NFS4ERR_FBIG": 27,
    "NFS4ERR_NOSPC": 28,
    "NFS4ERR_STALE": 70,
    "NFS4ERR_BADHANDLE": 10001,
    "NFS4ERR_NOTSUPP": 10004,
    "NFS4ERR_SERVERFAULT": 10006,
    "NFS4ERR_DELAY": 10008,
    "NFS4ERR_EXPIRED": 10011,
    "NFS4ERR_GRACE": 10013,
    "NFS4ERR_NOFILEHANDLE": 10020,
    "NFS4ERR_MINOR_VERS_MISMATCH": 10021,
    "NFS4ERR_STALE_CLIENTID": 10022,
    "NFS4ERR_STALE_STATEID": 10023,
    "NFS4ERR_OLD_STATEID": 10024,
    "NFS4ERR_BAD_STATEID": 10025,
    "NFS4ERR_NO_GRACE": 10033,
    "NFS4ERR_BADXDR": 10036,
    "NFS4ERR_OP_ILLEGAL": 10044,
    "NFS4ERR_BADSESSION": 10052,
    "NFS4ERR_BADSLOT": 10053,
    "NFS4ERR_COMPLETE_ALREADY": 10054,
    "NFS4ERR_SEQ_MISORDERED": 10063,
    "NFS4ERR_SEQUENCE_POS": 10064,
    "NFS4ERR_REQ_TOO_BIG": 10065,
    "NFS4ERR_RETRY_UNCACHED_REP": 10068,
    "NFS4ERR_TOO_MANY_OPS": 10070,
    "NFS4ERR_OP_NOT_IN_SESSION": 10071,
    "NFS4ERR_SEQ_FALSE_RETRY": 10076,
    "NFS4ERR_DEADSESSION": 10078,
    "NFS4ERR_NOT_ONLY_OP": 10081,
}


def test_names_have_the_rfcs_numbers() -> None:
    """Procedures, operations, statuses and sizes are numbered as the RFC numbers them."""
    assert {proc.name: proc.value for proc in Nfs4Proc} == {"NULL": 0, "COMPOUND": 1}
    assert {op.name: op.value for op in Nfs4Op} == RFC_OPERATIONS
    assert {name: NfsStat4[name].value for name in RFC_STATUSES} == RFC_STATUSES
    assert (nfs4.NFS4_VERSION, nfs4.NFS4_MINOR_VERSION) == (4, 1)
    assert (nfs4.NFS4_FHSIZE, nfs4.NFS4_VERIFIER_SIZE, nfs4.NFS4_SESSIONID_SIZE) == (128, 8, 16)
    assert nfs4.NFS4_OPAQUE_LIMIT == 1024


def test_a_stateid_is_the_rfcs_bytes() -> None:
    """How often it has changed, then twelve bytes; the anonymous one is all zeroes."""
    writer = XdrWriter()
    StateId(seqid=2, other=b"twelve bytes").push(writer)
    nfs4.ANONYMOUS.push(writer)
    expected = "00000002 7477656c 76652062 79746573 00000000 00000000 00000000 00000000"
    assert render(writer.chunks()) == bytes.fromhex(expected)


def test_nothing_is_no_bytes_and_a_status_is_a_word() -> None:
    """An operation without arguments writes none; a result that is a status writes that."""
    writer = XdrWriter()
    nfs4.VoidArgs().push(writer)
    assert writer.chunks() == []
    nfs4.StatusRes().push(writer)
    nfs4.StatusRes(status=NfsStat4.NFS4ERR_STALE).push(writer)
    assert render(writer.chunks()) == bytes.fromhex("00000000 00000046")


@given(STATEID, st.sampled_from(list(NfsStat4)))
def test_what_is_written_comes_back(stateid: StateId, status: NfsStat4) -> None:
    """A stateid, a status and nothing at all are read as they were written."""
    writer = XdrWriter()
    stateid.push(writer)
    nfs4.VoidArgs().push(writer)
    nfs4.StatusRes(status=status).push(writer)
    reader = XdrReader.of(*writer.chunks())
    assert StateId.pull(reader) == stateid
    assert nfs4.VoidArgs.pull(reader) == nfs4.VoidArgs()
    assert nfs4.StatusRes.pull(reader) == nfs4.StatusRes(status=status)
    reader.done()


@given(U32.filter(lambda number: number not in tuple(NfsStat4)))
def test_a_status_that_does_not_exist_is_refused(number: int) -> None:
    """Every number without a name breaks the protocol."""
    with pytest.raises(RemoteProtocolError, match=f"nfsstat4 {number}$"):
        nfs4.pull_status4(XdrReader.of(number.to_bytes(4, "big")))
    with pytest.raises(RemoteProtocolError, match=f"nfsstat4 {number}$"):
        nfs4.StatusRes.pull(XdrReader.of(number.to_bytes(4, "big")))


@given(STATEID, st.integers(0, 15))
def test_a_stateid_that_is_cut_short_is_refused(stateid: StateId, size_bytes: int) -> None:
    """Less than sixteen bytes are none."""
    writer = XdrWriter()
    stateid.push(writer)
    with pytest.raises(RemoteProtocolError):
        StateId.pull(XdrReader.of(render(writer.chunks())[:size_bytes]))
