"""Attributes and handles, held against bytes written out by hand from RFC 1813, section 2.6."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_backends.nfs.messages import attributes as nfs
from storage_backends.nfs.xdr import XdrReader, XdrWriter
from storage_backends.wire import RemoteProtocolError, render

U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
TIME = st.integers(0, 2**32 * 10**9 - 1)
FATTR = st.builds(
    nfs.Fattr3,
    ftype=st.sampled_from(list(nfs.Ftype3)),
    mode=U32,
    nlink=U32,
    uid=U32,
    gid=U32,
    size_bytes=U64,
    used_bytes=U64,
    rdev=st.tuples(U32, U32),
    fsid=U64,
    fileid=U64,
    atime_ns=TIME,
    mtime_ns=TIME,
    ctime_ns=TIME,
)
WCC = st.builds(
    nfs.WccData,
    before=st.none() | st.builds(nfs.WccAttr, size_bytes=U64, mtime_ns=TIME, ctime_ns=TIME),
    after=st.none() | FATTR,
)
SET_TIME = st.none() | st.just(nfs.SET_TO_SERVER_TIME) | TIME
SATTR = st.builds(
    nfs.Sattr3,
    mode=st.none() | U32,
    uid=st.none() | U32,
    gid=st.none() | U32,
    size_bytes=st.none() | U64,
    atime_ns=SET_TIME,
    mtime_ns=SET_TIME,
)

A_FILE = nfs.Fattr3(mode=0o600, size_bytes=0x10000000, used_bytes=0x2000, fsid=7, fileid=42, mtime_ns=3_000_000_005)
A_FILE_WIRE = (
    "00000001 00000180 00000001 00000000 00000000 0000000010000000 0000000000002000 00000000 00000000 "
    "0000000000000007 000000000000002a 00000000 00000000 00000003 00000005 00000000 00000000"
)


def test_attributes_are_the_rfcs_bytes() -> None:
    """A fattr3 is 84 bytes in the order of the RFC."""
    writer = XdrWriter()
    nfs.push_fattr(writer, A_FILE)
    wire = render(writer.chunks())
    assert wire == bytes.fromhex(A_FILE_WIRE)
    assert len(wire) == 84
    assert nfs.pull_fattr(XdrReader.of(wire)) == A_FILE


def test_what_to_set_is_the_rfcs_bytes() -> None:
    """Each item of a sattr3 is a word that says whether it follows; times have three ways."""
    writer = XdrWriter()
    nfs.push_sattr(writer, nfs.Sattr3(mode=0o644, size_bytes=0, atime_ns=nfs.SET_TO_SERVER_TIME, mtime_ns=2))
    expected = "00000001 000001a4 00000000 00000000 00000001 0000000000000000 00000001 00000002 00000000 00000002"
    assert render(writer.chunks()) == bytes.fromhex(expected)


@given(FATTR, WCC, SATTR, st.binary(max_size=nfs.FHSIZE))
def test_they_come_back(fattr: nfs.Fattr3, wcc: nfs.WccData, sattr: nfs.Sattr3, fh: bytes) -> None:
    """What is pushed is pulled again, and nothing is left."""
    writer = XdrWriter()
    nfs.push_fattr(writer, fattr)
    nfs.push_wcc_data(writer, wcc)
    nfs.push_sattr(writer, sattr)
    nfs.push_fh(writer, fh)
    nfs.push_post_op_attr(writer, None)
    reader = XdrReader.of(*writer.chunks())
    assert nfs.pull_fattr(reader) == fattr
    assert nfs.pull_wcc_data(reader) == wcc
    assert nfs.pull_sattr(reader) == sattr
    assert nfs.pull_fh(reader) == fh
    assert nfs.pull_post_op_attr(reader) is None
    reader.done()


def test_what_no_file_has_is_refused() -> None:
    """A file type, a way to set a time, nanoseconds above a second and a long handle break the protocol."""
    wire = bytes.fromhex(A_FILE_WIRE)
    with pytest.raises(RemoteProtocolError, match="ftype3 9"):
        nfs.pull_fattr(XdrReader.of(bytes.fromhex("00000009"), wire[4:]))
    with pytest.raises(RemoteProtocolError, match="nanoseconds"):
        nfs.pull_fattr(XdrReader.of(wire[:-4], bytes.fromhex("3b9aca00")))
    with pytest.raises(RemoteProtocolError, match="time_how 3"):
        nfs.pull_sattr(XdrReader.of(bytes(16), bytes.fromhex("00000003")))
    with pytest.raises(RemoteProtocolError, match="65 is more than 64"):
        nfs.pull_fh(XdrReader.of(bytes.fromhex("00000041"), bytes(68)))
